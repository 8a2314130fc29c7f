//! A fake cloud on a loopback socket: keeps every byte it gets and answers by a script.
//!
//! It speaks HTTP/1.1 by hand, because the interesting answers are those that no HTTP library gives:
//! half a head, half an event, a reset in between.

mod echo;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What the cloud does with a request.
#[derive(Clone, Debug)]
pub(crate) enum Script {
    /// A good answer, streamed if the request asks for it.
    Answer,
    /// What the last text says, in the protocol that was asked in, streamed three characters an event if
    /// the request asks for it.
    Echo,
    /// These words, in the same ways.
    Say(&'static str),
    /// A call of this tool, whose arguments are `{"to": what the last message says}`.
    Call(&'static str),
    /// These bytes as they are, then the connection closes.
    Raw(Vec<u8>),
    /// Nothing, for ever.
    Silence,
    /// The head of a stream and one event, then nothing.
    StallMidStream,
    /// The head of a stream, one event and half of another, then a reset.
    BreakMidEvent,
    /// Events until the other side hangs up.
    Endless,
    /// The head of a stream and then bytes, slowly, that never make an event.
    Trickle,
    /// The head of a stream, one event, and an event that is no JSON.
    BadEvent,
    /// A good answer after a wait.
    Late(Duration),
}

/// A running fake cloud.
pub(crate) struct Cloud {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

/// Told the number of each request before it is answered.
type Watch = Box<dyn Fn(usize) + Send + Sync>;

struct Shared {
    script: Mutex<Script>,
    /// What the next requests get before `script`.
    first: Mutex<VecDeque<Script>>,
    connections: AtomicUsize,
    seen: Mutex<Vec<u8>>,
    requests: AtomicUsize,
    watch: OnceLock<Watch>,
    hang_ups: AtomicUsize,
    written: AtomicUsize,
}

impl Cloud {
    /// Starts one that follows a script.
    pub(crate) async fn start(script: Script) -> Cloud {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            script: Mutex::new(script),
            first: Mutex::default(),
            connections: AtomicUsize::new(0),
            seen: Mutex::default(),
            requests: AtomicUsize::new(0),
            watch: OnceLock::new(),
            hang_ups: AtomicUsize::new(0),
            written: AtomicUsize::new(0),
        });
        let accepting = spawn(accept(listener, shared.clone()));
        Cloud { address, shared, accepting }
    }

    /// Where nothing listens.
    pub(crate) async fn nowhere() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
    }

    pub(crate) fn follow(&self, script: Script) {
        *self.shared.script.lock().unwrap() = script;
    }

    /// What the next requests get, one each, before the script.
    pub(crate) fn first(&self, scripts: impl IntoIterator<Item = Script>) {
        self.shared.first.lock().unwrap().extend(scripts);
    }

    /// Has each request told from now on, before it is answered: how many there were, this one counted.
    pub(crate) fn watch(&self, watch: impl Fn(usize) + Send + Sync + 'static) {
        assert!(self.shared.watch.set(Box::new(watch)).is_ok(), "one watch is enough");
    }

    /// What the next request gets, whatever it was to get before.
    pub(crate) fn once(&self, script: Script) {
        *self.shared.first.lock().unwrap() = VecDeque::from([script]);
    }

    /// Open connections.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Every byte that came in, as text.
    pub(crate) fn seen(&self) -> String {
        String::from_utf8_lossy(&self.shared.seen.lock().unwrap()).into_owned()
    }

    /// What of it came after the first `start` bytes.
    pub(crate) fn seen_from(&self, start: usize) -> String {
        String::from_utf8_lossy(&self.shared.seen.lock().unwrap()[start..]).into_owned()
    }

    /// Bytes that came in.
    pub(crate) fn seen_bytes(&self) -> usize {
        self.shared.seen.lock().unwrap().len()
    }

    pub(crate) fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// Bytes of endless streams that were written so far.
    pub(crate) fn written(&self) -> usize {
        self.shared.written.load(Ordering::SeqCst)
    }

    /// Waits until the gateway has hung up on a request that was not answered to its end.
    pub(crate) async fn hung_up(&self) {
        until("the gateway hangs up on the cloud", || {
            self.shared.hang_ups.load(Ordering::SeqCst) > 0
        })
        .await;
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Waits for a condition that another task brings about, up to ten seconds.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..1000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("waited in vain: {what}");
}

/// Runs a task of the test itself.
#[expect(clippy::disallowed_methods, reason = "the test's runtime ends its tasks with it")]
pub(crate) fn spawn<T: Send + 'static>(
    future: impl Future<Output = T> + Send + 'static,
) -> JoinHandle<T> {
    tokio::spawn(future)
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        let shared = shared.clone();
        spawn(async move {
            shared.connections.fetch_add(1, Ordering::SeqCst);
            let _ = converse(stream, &shared).await;
            shared.connections.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

async fn converse(mut stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut pending = Vec::new();
    while let Some((path, body)) = next_request(&mut stream, &mut pending, shared).await? {
        let number = shared.requests.fetch_add(1, Ordering::SeqCst) + 1;
        if let Some(watch) = shared.watch.get() {
            watch(number);
        }
        let next = shared.first.lock().unwrap().pop_front();
        let script = next.unwrap_or_else(|| shared.script.lock().unwrap().clone());
        match script {
            Script::Answer => stream.write_all(&answer(&body)).await?,
            Script::Echo => stream.write_all(&echo::echo(&path, &body, None)).await?,
            Script::Say(words) => stream.write_all(&echo::say(&path, &body, words)).await?,
            Script::Call(tool) => stream.write_all(&echo::echo(&path, &body, Some(tool))).await?,
            Script::Raw(bytes) => {
                stream.write_all(&bytes).await?;
                return stream.shutdown().await;
            }
            Script::Silence => return wait_for_hang_up(&mut stream, shared).await,
            Script::StallMidStream => {
                stream.write_all(&[stream_head(), event("Wait")].concat()).await?;
                return wait_for_hang_up(&mut stream, shared).await;
            }
            Script::BreakMidEvent => {
                let half = &event("never seen")[..20];
                stream.write_all(&[stream_head(), event("Half"), half.to_vec()].concat()).await?;
                stream.flush().await?;
                tokio::time::sleep(Duration::from_millis(50)).await;
                stream.set_zero_linger()?;
                return Ok(());
            }
            Script::Endless => return endless(stream, shared).await,
            Script::Trickle => return trickle(stream, shared).await,
            Script::BadEvent => {
                let bad =
                    chunked(b"data: {\"choices\": [{\"delta\": {\"content\": \"unscanned\"\n\n");
                stream.write_all(&[stream_head(), event("Half"), bad].concat()).await?;
                return wait_for_hang_up(&mut stream, shared).await;
            }
            Script::Late(wait) => {
                // Whoever hangs up meanwhile is noticed.
                let mut byte = [0];
                tokio::select! {
                    () = tokio::time::sleep(wait) => stream.write_all(&answer(&body)).await?,
                    _ = stream.read(&mut byte) => {
                        shared.hang_ups.fetch_add(1, Ordering::SeqCst);
                        return Ok(());
                    }
                }
            }
        }
    }
    Ok(())
}

async fn endless(mut stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    stream.write_all(&stream_head()).await?;
    let piece = event(&"The museum opens at ten. ".repeat(16));
    loop {
        if let Err(error) = stream.write_all(&piece).await {
            shared.hang_ups.fetch_add(1, Ordering::SeqCst);
            return Err(error);
        }
        shared.written.fetch_add(piece.len(), Ordering::SeqCst);
    }
}

async fn trickle(mut stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    stream.write_all(&stream_head()).await?;
    loop {
        if let Err(error) = stream.write_all(&chunked(b":")).await {
            shared.hang_ups.fetch_add(1, Ordering::SeqCst);
            return Err(error);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn wait_for_hang_up(stream: &mut TcpStream, shared: &Shared) -> std::io::Result<()> {
    let mut byte = [0];
    // Zero bytes or an error: the other side is gone.
    let _ = stream.read(&mut byte).await;
    shared.hang_ups.fetch_add(1, Ordering::SeqCst);
    Ok(())
}

/// Reads one request; gives back its path and its body.
async fn next_request(
    stream: &mut TcpStream,
    pending: &mut Vec<u8>,
    shared: &Shared,
) -> std::io::Result<Option<(String, Vec<u8>)>> {
    loop {
        if let Some(head_end) = find(pending, b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&pending[..head_end]).to_lowercase();
            let length: usize = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length:"))
                .map_or(0, |value| value.trim().parse().unwrap());
            let end = head_end + 4 + length;
            if pending.len() >= end {
                let body = pending[head_end + 4..end].to_vec();
                pending.drain(..end);
                let target = head.split(' ').nth(1).unwrap_or_default();
                let path = target.split('?').next().unwrap_or_default();
                return Ok(Some((path.to_owned(), body)));
            }
        }
        let mut buffer = [0; 16 << 10];
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return Ok(None);
        }
        shared.seen.lock().unwrap().extend_from_slice(&buffer[..count]);
        pending.extend_from_slice(&buffer[..count]);
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// Words of the cloud's good answer, one event each.
pub(crate) const WORDS: [&str; 4] = ["Hello", " from", " the", " cloud"];

fn answer(body: &[u8]) -> Vec<u8> {
    let request: serde_json::Value = serde_json::from_slice(body).unwrap();
    if request["stream"] == true { stream_answer(&request) } else { whole_answer(&request) }
}

fn whole_answer(request: &serde_json::Value) -> Vec<u8> {
    let mut choice = serde_json::json!({"index": 0, "finish_reason": "stop"});
    match request["prompt"].is_null() {
        true => {
            choice["message"] = serde_json::json!({"role": "assistant", "content": WORDS.concat()})
        }
        false => choice["text"] = WORDS.concat().into(),
    }
    let body = serde_json::json!({
        "id": "chatcmpl-cloud", "object": "chat.completion", "created": 1, "model": request["model"],
        "choices": [choice],
        "usage": {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9},
    });
    http("200 OK", "application/json", body.to_string().as_bytes())
}

fn stream_answer(request: &serde_json::Value) -> Vec<u8> {
    let data = if request["prompt"].is_null() { data } else { text };
    let mut body: Vec<u8> = WORDS.iter().flat_map(|word| chunked(&data(word, None))).collect();
    body.extend(chunked(&data("", Some("stop"))));
    if request["stream_options"]["include_usage"] == true {
        let usage = serde_json::json!({
            "id": "chatcmpl-cloud", "object": "chat.completion.chunk", "choices": [],
            "usage": {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9},
        });
        body.extend(chunked(format!("data: {usage}\n\n").as_bytes()));
    }
    body.extend(chunked(b"data: [DONE]\n\n"));
    [stream_head(), body, b"0\r\n\r\n".to_vec()].concat()
}

fn data(word: &str, finish: Option<&str>) -> Vec<u8> {
    let chunk = serde_json::json!({
        "id": "chatcmpl-cloud", "object": "chat.completion.chunk", "created": 1,
        "choices": [{"index": 0, "delta": {"content": word}, "finish_reason": finish}],
    });
    format!("data: {chunk}\n\n").into_bytes()
}

/// As completions have it.
fn text(word: &str, finish: Option<&str>) -> Vec<u8> {
    let chunk = serde_json::json!({
        "id": "cmpl-cloud", "object": "text_completion", "created": 1,
        "choices": [{"index": 0, "text": word, "finish_reason": finish}],
    });
    format!("data: {chunk}\n\n").into_bytes()
}

fn event(word: &str) -> Vec<u8> {
    chunked(&data(word, None))
}

fn chunked(bytes: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

fn stream_head() -> Vec<u8> {
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        .to_vec()
}

/// A whole HTTP reply.
pub(crate) fn http(status: &str, content_type: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}
