//! A gateway in this process on free ports, and a client for it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use sluice::config::Config;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::cloud::spawn;

/// What takes so long has hung: a busy machine with the slowest of processors is quicker.
const HUNG_AFTER: Duration = Duration::from_secs(240);

/// A running gateway; dropped, it stops.
pub(crate) struct Gateway {
    pub(crate) traffic: SocketAddr,
    pub(crate) metrics: SocketAddr,
    pub(crate) admin: SocketAddr,
    /// The gateway as it was started: a reload puts another in its place.
    pub(crate) inside: Arc<sluice::gateway::Gateway>,
    folder: TempDir,
    client: Client<HttpConnector, Full<Bytes>>,
    stop: Option<oneshot::Sender<()>>,
    serving: Option<JoinHandle<()>>,
}

/// A whole reply.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// The model that the edge runs: the pack that ships, or the one that a developer names.
fn model() -> PathBuf {
    match std::env::var_os("SLUICE_MODEL") {
        Some(path) => path.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine/models/nano"),
    }
}

impl Gateway {
    /// An edge, and a cloud at an address.
    pub(crate) async fn with_cloud(cloud: SocketAddr) -> Gateway {
        Gateway::start(&with_cloud(cloud, "")).await
    }

    /// A gateway from the text of a config; `$FOLDER` in it is a fresh folder.
    pub(crate) async fn start(config: &str) -> Gateway {
        let folder = tempfile::tempdir().unwrap();
        Gateway::start_in(folder, config).await
    }

    pub(crate) async fn start_in(folder: TempDir, config: &str) -> Gateway {
        Starting::begin(folder, config).ready().await
    }

    /// Asks and waits for the whole reply.
    pub(crate) async fn chat(&self, body: Value) -> Reply {
        self.chat_with(&[], body).await
    }

    /// Asks with headers and waits for the whole reply.
    pub(crate) async fn chat_with(&self, headers: &[(&str, &str)], body: Value) -> Reply {
        self.send(Method::POST, "/v1/chat/completions", headers, body.to_string()).await
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send(Method::GET, path, &[], String::new()).await
    }

    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Reply {
        let response = self.open(self.traffic, method, path, headers, body).await;
        Reply::read(response).await
    }

    /// Asks for a stream and gives it back unread.
    pub(crate) async fn stream(&self, headers: &[(&str, &str)], body: Value) -> Response<Incoming> {
        let path = "/v1/chat/completions";
        self.open(self.traffic, Method::POST, path, headers, body.to_string()).await
    }

    async fn open(
        &self,
        address: SocketAddr,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Response<Incoming> {
        let mut request = Request::builder().method(method).uri(format!("http://{address}{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).unwrap();
        let response = tokio::time::timeout(HUNG_AFTER, self.client.request(request));
        response.await.expect("a reply, however slow the machine").unwrap()
    }

    /// Asks the probe listener.
    pub(crate) async fn probe(&self, path: &str) -> Reply {
        let response = self.open(self.metrics, Method::GET, path, &[], "").await;
        Reply::read(response).await
    }

    /// Asks the admin listener.
    pub(crate) async fn operate(
        &self,
        method: Method,
        path: &str,
        body: impl Into<Bytes>,
    ) -> Reply {
        Reply::read(self.open(self.admin, method, path, &[], body).await).await
    }

    /// Changes the config's file.
    pub(crate) fn configure(&self, config: &str) {
        let text = config.replace("$FOLDER", self.folder().to_str().unwrap());
        std::fs::write(self.folder().join("sluice.yaml"), text).unwrap();
    }

    /// The value of a metric's line, 0 if there is none.
    pub(crate) async fn metric(&self, line: &str) -> f64 {
        let text = self.probe("/metrics").await.text();
        let value = text.lines().find_map(|l| l.strip_prefix(line)).map(|v| v.trim().parse());
        value.map_or(0.0, |v| v.unwrap())
    }

    /// Waits until no request is in flight.
    pub(crate) async fn idle(&self) {
        self.in_flight(0).await;
    }

    /// Waits until so many requests are in flight.
    pub(crate) async fn in_flight(&self, count: u32) {
        for _ in 0..500 {
            if self.metric("sluice_requests_in_flight ").await == f64::from(count) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("other than {count} requests stay in flight");
    }

    /// The folder that stands for `$FOLDER` in the config.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Stops, and starts again over the same folder.
    pub(crate) async fn restart(mut self, config: &str) -> Gateway {
        self.finish().await;
        let Gateway { folder, inside, .. } = self;
        // It holds the audit log open.
        drop(inside);
        Gateway::start_in(folder, config).await
    }

    /// Asks `/readyz` until its answer is as wanted, and returns it.
    pub(crate) async fn ready_when(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        for _ in 0..3000 {
            let detail = self.probe("/readyz").await.json();
            if wanted(&detail) {
                return detail;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("waited in vain: {}", self.probe("/readyz").await.text());
    }

    pub(crate) fn audit_folder(&self) -> PathBuf {
        self.folder.path().join("audit")
    }

    /// The audit log so far.
    pub(crate) fn audit(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.audit_folder().join("audit.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The lines about requests, once there are so many.
    pub(crate) async fn audit_lines(&self, count: usize) -> Vec<Value> {
        let about_requests = || {
            let lines = self.audit().into_iter();
            lines.filter(|line| line["kind"] != "policy").collect::<Vec<_>>()
        };
        crate::cloud::until("audit lines", || about_requests().len() >= count).await;
        about_requests()
    }

    /// Tells the gateway to stop and waits until it has.
    pub(crate) async fn finish(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(serving) = self.serving.take() {
            serving.await.unwrap();
        }
    }

    pub(crate) fn begin_to_stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
    }
}

/// A gateway that does not take requests yet.
pub(crate) struct Starting {
    folder: TempDir,
    stop: oneshot::Sender<()>,
    started: oneshot::Receiver<([SocketAddr; 3], Arc<sluice::gateway::Gateway>)>,
    serving: JoinHandle<()>,
}

impl Starting {
    pub(crate) fn begin(folder: TempDir, config: &str) -> Starting {
        let text = config.replace("$FOLDER", folder.path().to_str().unwrap());
        let config = Config::parse("sluice.yaml", &text, folder.path()).unwrap();
        std::fs::write(folder.path().join("sluice.yaml"), &text).unwrap();
        let place = folder.path().to_owned();
        let reread =
            move || Config::load(&place.join("sluice.yaml")).map_err(|error| error.to_string());
        let (stop, stopped) = oneshot::channel();
        let (ready, started) = oneshot::channel();
        let serving = spawn(async move {
            let tell = |at: &sluice::Started| {
                let admin = at.admin.expect("the config names an admin listener");
                let _ = ready.send(([at.traffic, at.metrics, admin], at.gateway.clone()));
            };
            let stop = async {
                let _ = stopped.await;
            };
            let reread: sluice::Reread = Box::new(reread);
            sluice::serve_reloading(config, Some(reread), tell, stop).await.unwrap();
        });
        Starting { folder, stop, started, serving }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Waits until it takes requests.
    pub(crate) async fn ready(self) -> Gateway {
        let Starting { folder, stop, started, serving } = self;
        let ([traffic, metrics, admin], inside) = started.await.expect("the gateway starts");
        let client = Client::builder(TokioExecutor::new()).build_http();
        let (stop, serving) = (Some(stop), Some(serving));
        Gateway { traffic, metrics, admin, inside, folder, client, stop, serving }
    }

    /// Tells it to stop before it has started, and waits until it has.
    pub(crate) async fn give_up(self) {
        let _ = self.stop.send(());
        self.serving.await.unwrap();
    }
}

/// The text of a config with an edge and a cloud, and more lines.
pub(crate) fn with_cloud(cloud: SocketAddr, more: &str) -> String {
    format!(
        "{}{more}",
        with_upstreams(&format!(
            "  cloud:\n    kind: openai\n    base_url: \"http://{cloud}/v1\"\n    \
         timeouts: {{connect: 2s, first_byte: 2s, idle: 1s, total: 20s}}\n"
        ))
    )
}

/// The text of a config with an edge and other upstreams.
pub(crate) fn with_upstreams(others: &str) -> String {
    format!(
        "mode: trial\nlisten: {{traffic: \"127.0.0.1:0\", admin: \"127.0.0.1:0\", metrics: \"127.0.0.1:0\"}}\n\
         audit: {{path: $FOLDER/audit, fsync: never}}\ndrain: {{on_sigterm: 5s}}\n\
         upstreams:\n  edge: {{kind: edge, model: {:?}}}\n{others}",
        model().display().to_string()
    )
}

impl Reply {
    pub(crate) async fn read(response: Response<Incoming>) -> Reply {
        let (head, body) = response.into_parts();
        let body = tokio::time::timeout(HUNG_AFTER, body.collect());
        let body = body.await.expect("a whole reply, however slow the machine").unwrap().to_bytes();
        Reply { status: head.status, headers: head.headers, body }
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.to_vec()).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.text()))
    }

    /// The data of each event.
    pub(crate) fn events(&self) -> Vec<Value> {
        let text = self.text();
        // An event may have a name, in a line before.
        let data = |event| str::lines(event).find_map(|line| line.strip_prefix("data: "));
        let data = text.split("\n\n").filter_map(data);
        data.map(|data| serde_json::from_str(data).unwrap_or(Value::from(data))).collect()
    }

    /// The reply's content, streamed or whole.
    pub(crate) fn content(&self) -> String {
        if self.header("content-type").starts_with("application/json") {
            return self.json()["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
        }
        let delta =
            |event: &Value| event["choices"][0]["delta"]["content"].as_str().map(str::to_owned);
        self.events().iter().filter_map(delta).collect()
    }

    /// Asserts route and status in one line.
    #[track_caller]
    pub(crate) fn came_from(&self, route: &str, status: u16) -> &Self {
        let got = (self.header("x-sluice-route"), self.status.as_u16());
        assert_eq!(got, (route, status), "{}", self.text());
        self
    }
}

/// A card number whose check digit is right.
pub(crate) const CARD: &str = "4539 5787 6362 1486";

/// Whether a text shows a part of [`CARD`], no part so short that a hash or a time would have it by chance.
pub(crate) fn shows_card(text: &str) -> bool {
    ["4539 5", "787 63", "62 1486", "45395787", "57876362", "63621486"]
        .iter()
        .any(|part| text.contains(part))
}

/// A chat body of one user message.
pub(crate) fn say(text: &str) -> Value {
    json!({"model": "auto", "max_tokens": 4, "messages": [{"role": "user", "content": text}]})
}

/// The same, streamed.
pub(crate) fn say_streamed(text: &str) -> Value {
    let mut body = say(text);
    body["stream"] = Value::Bool(true);
    body
}
