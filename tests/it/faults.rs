//! A table of faults: what a client sees of each in every dialect, and that nothing is left behind.
//!
//! The gateway has no edge here, so that a fault is what the client sees. After each one a private request
//! is refused without a byte reaching the cloud, every attempt on record has an outcome, and no request,
//! place or connection is left open; `memory` has the same faults many times over. A server whose certificate proves nothing gets no request at all.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hyper::Method;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio_rustls::TlsAcceptor;

use crate::cloud::{Cloud, Script, http, spawn, until};
use crate::dialect::{DIALECTS, Dialect};
use crate::gateway::{CARD, Gateway, Reply, shows_card, with_cloud};

/// A fault, and what comes of it.
pub(crate) struct Fault {
    pub(crate) name: &'static str,
    pub(crate) script: Script,
    /// What stands in the config for the cloud's address, if something else does.
    pub(crate) address: Option<fn(SocketAddr) -> String>,
    /// Where it strikes.
    strikes: Strikes,
}

enum Strikes {
    /// Before the first byte: status and code, streamed or not; a name that nobody knows fails at once or
    /// late, as the machine's resolver likes.
    Before(&'static [(u16, &'static str)]),
    /// In the middle of a stream.
    Within,
}

impl Dialect {
    pub(crate) fn body(self, text: &str, stream: bool) -> String {
        let mut body = match self {
            Dialect::Chat | Dialect::Messages => {
                json!({"max_tokens": 8, "messages": [{"role": "user", "content": text}]})
            }
            Dialect::Completions => json!({"prompt": text}),
            Dialect::Responses | Dialect::Embeddings => json!({"input": text}),
        };
        body["model"] = json!("m");
        if !matches!(self, Dialect::Embeddings) {
            body["stream"] = json!(stream);
        }
        body.to_string()
    }

    async fn ask(self, gateway: &Gateway, text: &str, stream: bool) -> Reply {
        gateway.send(Method::POST, self.path(), &[], self.body(text, stream)).await
    }

    /// The code in an error that came instead of a reply.
    fn code(self, reply: &Reply) -> Value {
        let json = reply.json();
        if matches!(self, Dialect::Messages) {
            assert_eq!(json["type"], "error", "{json}");
            assert!(json["error"]["type"].is_string(), "{json}");
        }
        json["error"]["code"].clone()
    }

    /// The code in the event that ends a stream which broke off.
    fn last_code(self, reply: &Reply) -> Value {
        let text = reply.text();
        let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
        let events: Vec<Value> =
            data.map(|data| serde_json::from_str(data).unwrap_or(Value::from(data))).collect();
        let last = events.last().unwrap_or_else(|| panic!("no event: {text}"));
        match self {
            Dialect::Chat | Dialect::Completions | Dialect::Embeddings => {
                last["error"]["code"].clone()
            }
            Dialect::Messages => {
                assert_eq!(last["type"], "error", "{text}");
                last["error"]["code"].clone()
            }
            Dialect::Responses => {
                assert_eq!(last["type"], "response.failed", "{text}");
                assert_eq!(events[events.len() - 2]["type"], "error", "{text}");
                last["response"]["error"]["code"].clone()
            }
        }
    }
}

/// What a client is told.
type Told = [(u16, &'static str)];
const UNAVAILABLE: &Told = &[(502, "upstream_unavailable")];
const TIMEOUT: &Told = &[(504, "upstream_timeout")];
const EITHER: &Told = &[(502, "upstream_unavailable"), (504, "upstream_timeout")];
const TOO_MANY: &Told = &[(429, "rate_limit_exceeded")];

fn before(name: &'static str, script: Script, told: &'static Told) -> Fault {
    Fault { name, script, address: None, strikes: Strikes::Before(told) }
}

/// A cloud that is not where the config says, or not as it says.
fn elsewhere(name: &'static str, address: fn(SocketAddr) -> String, told: &'static Told) -> Fault {
    Fault { address: Some(address), ..before(name, Script::Answer, told) }
}

fn within(name: &'static str, script: Script) -> Fault {
    Fault { name, script, address: None, strikes: Strikes::Within }
}

pub(crate) fn faults() -> Vec<Fault> {
    let slow = b"HTTP/1.1 429 Slow\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n".to_vec();
    let huge = format!("HTTP/1.1 200 OK\r\nx-huge: {}\r\n\r\n", "h".repeat(2 << 20)).into_bytes();
    let garbage = http("200 OK", "application/json", b"{\"id\": \xff");
    let half =
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{\"id\":";
    let half = half.to_vec();
    let page = http("200 OK", "text/html", b"<html>");
    vec![
        before("429 with retry-after", Script::Raw(slow), TOO_MANY),
        before("500", Script::Raw(http("500 Oh", "text/plain", b"trace")), UNAVAILABLE),
        before("hangs before the head", Script::Silence, TIMEOUT),
        before("no JSON", Script::Raw(garbage), UNAVAILABLE),
        before("reset within a whole body", Script::Raw(half), UNAVAILABLE),
        before("wrong content type", Script::Raw(page), UNAVAILABLE),
        before("huge headers", Script::Raw(huge), UNAVAILABLE),
        before("no answer at all", Script::Raw(Vec::new()), UNAVAILABLE),
        elsewhere("no such name", |_| "http://llm.invalid".to_owned(), EITHER),
        // It waits for the end of a head that never comes.
        elsewhere("no TLS", |cloud| format!("https://{cloud}"), TIMEOUT),
        within("hangs within", Script::StallMidStream),
        within("reset within a chunk", Script::BreakMidEvent),
        within("slow trickle", Script::Trickle),
        within("an event that is no JSON", Script::BadEvent),
    ]
}

/// The config of a gateway without an edge, before a cloud with this fault.
pub(crate) fn config(cloud: &Cloud, fault: &Fault, limits: &str) -> String {
    let more = format!("    breaker: {{failures: 1000000}}\n{limits}\n");
    let config = with_cloud(cloud.address, &more);
    let edge = config.lines().find(|line| line.starts_with("  edge:")).unwrap().to_owned();
    let config = config
        .replace(&format!("{edge}\n"), "")
        .replace(
            "first_byte: 2s, idle: 1s, total: 20s",
            "first_byte: 300ms, idle: 300ms, total: 1s",
        )
        .replace("connect: 2s", "connect: 1s");
    match fault.address {
        Some(address) => {
            config.replace(&format!("http://{}", cloud.address), &address(cloud.address))
        }
        None => config,
    }
}

async fn check(fault: &Fault) {
    let cloud = Cloud::start(fault.script.clone()).await;
    // A place that is not given back, or a request of a caller that seems to run on, would turn the next away.
    let limits = "limits: {in_flight: 3, per_caller: {concurrency: 3}}";
    let gateway = Gateway::start(&config(&cloud, fault, limits)).await;
    let mut attempts = 0;
    for dialect in DIALECTS {
        for stream in [true, false] {
            if stream && matches!(dialect, Dialect::Embeddings) {
                continue;
            }
            let what = format!("{}: {dialect:?}, stream: {stream}", fault.name);
            match fault.strikes {
                Strikes::Before(told) => {
                    let reply = dialect.ask(&gateway, "Hello", stream).await;
                    let code = dialect.code(&reply);
                    let got = (reply.status.as_u16(), code.as_str().unwrap_or_default());
                    assert!(told.contains(&got), "{what}: {got:?} {}", reply.text());
                    let retry_after = if reply.status == 429 { "7" } else { "" };
                    assert_eq!(reply.header("retry-after"), retry_after, "{what}");
                    assert!(!reply.text().contains("trace"), "{what}: the upstream's own words");
                }
                Strikes::Within if stream => {
                    let reply = dialect.ask(&gateway, "Hello", true).await;
                    reply.came_from("cloud", 200);
                    assert_eq!(dialect.last_code(&reply), "upstream_broke_off", "{what}");
                    assert!(!reply.text().contains("[DONE]"), "{what}: {}", reply.text());
                    assert!(!reply.text().contains("unscanned"), "{what}: {}", reply.text());
                }
                Strikes::Within => continue,
            }
            attempts += 1;
        }
        let private = dialect.ask(&gateway, &format!("Refund {CARD}"), true).await;
        private.came_from("refuse", 403);
    }
    assert!(!shows_card(&cloud.seen()), "{}: private bytes moved", fault.name);
    gateway.idle().await;
    let lines = gateway.audit_lines(2 * attempts + DIALECTS.len()).await;
    let count = |kind: &str| lines.iter().filter(|line| line["kind"] == kind).count();
    assert_eq!((count("attempt"), count("outcome")), (attempts, attempts), "{}", fault.name);
    // The probe's own connection is on the other listener.
    until(fault.name, || cloud.connections() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fault_is_a_clear_error_in_every_dialect_and_leaves_nothing_behind() {
    let faults = faults();
    // They wait more than they work.
    futures_util::future::join_all(faults.iter().map(check)).await;
}

type Issuer = CertifiedIssuer<'static, KeyPair>;

fn issuer() -> Issuer {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A server that shows a certificate; gives back where it is and how many bytes of requests it has read.
async fn shows(
    params: CertificateParams,
    issuer: Option<&Issuer>,
) -> (SocketAddr, Arc<AtomicUsize>) {
    let key = KeyPair::generate().unwrap();
    let certificate = match issuer {
        Some(issuer) => params.signed_by(&key, issuer).unwrap(),
        None => params.self_signed(&key).unwrap(),
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let read = Arc::new(AtomicUsize::new(0));
    let counted = read.clone();
    spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // A handshake that fails is what most cases want.
            if let Ok(mut stream) = acceptor.accept(stream).await {
                let count = stream.read(&mut [0; 1024]).await.unwrap_or(0);
                counted.fetch_add(count, Ordering::SeqCst);
            }
        }
    });
    (address, read)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_whose_certificate_proves_nothing_gets_no_request() {
    let ours = issuer();
    let named = |name: &str| CertificateParams::new(vec![name.to_owned()]).unwrap();
    let mut expired = named("localhost");
    expired.not_before = rcgen::date_time_ymd(2020, 1, 1);
    expired.not_after = rcgen::date_time_ymd(2021, 1, 1);
    for (what, params, issuer, is_good) in [
        ("as it should be", named("localhost"), Some(&ours), true),
        ("another host", named("elsewhere.example"), Some(&ours), false),
        ("expired", expired, Some(&ours), false),
        ("self-signed", named("localhost"), None, false),
        ("another authority", named("localhost"), Some(&issuer()), false),
    ] {
        let (address, read) = shows(params, issuer).await;
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.crt"), ours.pem()).unwrap();
        let more = "    breaker: {failures: 1000}\n    ca_file: $FOLDER/ca.crt\n";
        let config = with_cloud(address, more);
        let edge = config.lines().find(|line| line.starts_with("  edge:")).unwrap().to_owned();
        let config = config.replace(&format!("{edge}\n"), "").replace(
            &format!("http://{address}"),
            &format!("https://localhost:{}", address.port()),
        );
        let gateway = Gateway::start_in(folder, &config).await;
        for (dialect, stream) in [(Dialect::Chat, true), (Dialect::Messages, false)] {
            let reply = dialect.ask(&gateway, "Hello", stream).await;
            let code = dialect.code(&reply);
            assert_eq!(
                (reply.status.as_u16(), &code),
                (502, &json!("upstream_unavailable")),
                "{what}"
            );
        }
        assert_eq!(read.load(Ordering::SeqCst) > 0, is_good, "{what}");
    }
}
