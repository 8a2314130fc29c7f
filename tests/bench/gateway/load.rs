//! Clients that ask as fast as they are answered, for a while, and what they measure.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::upstream;

/// What is asked for.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    Whole,
    /// Events as fast as they are taken.
    Streamed,
    /// Events with a pause between, as a model writes.
    Paced,
}

impl Kind {
    pub(crate) fn in_words(self) -> &'static str {
        match self {
            Kind::Whole => "whole",
            Kind::Streamed => "streamed",
            Kind::Paced => "streamed, an event every 5 ms",
        }
    }

    /// The model that the upstream knows this kind of answer by.
    fn model(self) -> &'static str {
        match self {
            Kind::Whole | Kind::Streamed => "m",
            Kind::Paced => upstream::PACED,
        }
    }
}

/// What one target did.
#[derive(Default)]
pub(crate) struct Measured {
    /// Milliseconds to the end of each reply.
    whole: Vec<f64>,
    /// Milliseconds to the first byte of each reply's body.
    first: Vec<f64>,
    /// Milliseconds from the moment at which the upstream wrote an event to that at which it was here.
    chunks: Vec<f64>,
    pub(crate) cpu_seconds: f64,
}

impl Measured {
    pub(crate) fn add(&mut self, other: Measured) {
        self.whole.extend(other.whole);
        self.first.extend(other.first);
        self.chunks.extend(other.chunks);
    }

    pub(crate) fn cpu_per_thousand(&self) -> f64 {
        1000.0 * self.cpu_seconds / self.whole.len() as f64
    }

    /// Medians and the slowest hundredth, each followed by what it is above another's.
    pub(crate) fn latencies(&mut self, than: Option<&mut Measured>) -> String {
        let mut of_none = Measured::default();
        let than = than.unwrap_or(&mut of_none);
        let figures = [
            (share(&mut self.whole, 0.5), share(&mut than.whole, 0.5)),
            (share(&mut self.whole, 0.99), share(&mut than.whole, 0.99)),
            (share(&mut self.first, 0.5), share(&mut than.first, 0.5)),
            (share(&mut self.chunks, 0.5), share(&mut than.chunks, 0.5)),
        ];
        let in_words = |(here, bare): (Option<f64>, Option<f64>)| {
            let above = here.zip(bare).map(|(here, bare)| format!("{:+.2}", here - bare));
            let here = here.map(|here| format!("{here:.2}"));
            format!("{:>8} {:>7}", here.unwrap_or_default(), above.unwrap_or_default())
        };
        figures.map(in_words).join(" ")
    }
}

fn share(values: &mut [f64], share: f64) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let last = values.len().checked_sub(1)?;
    Some(values[(last as f64 * share) as usize])
}

/// Asks on so many connections for so long.
pub(crate) async fn run(
    address: SocketAddr,
    size: usize,
    kind: Kind,
    connections: usize,
    length: Duration,
) -> Measured {
    let end = Instant::now() + length;
    // Clients of a paced stream that began together would ask together again and again, and each wait for
    // all others: a model's users come when they like.
    let apart = if kind == Kind::Paced {
        upstream::PACED_LENGTH / connections as u32
    } else {
        Duration::ZERO
    };
    let clients = (0..connections as u32)
        .map(|number| spawn(client(address, size, kind, apart * number, end)));
    let mut all = Measured::default();
    for measured in futures_util::future::join_all(clients).await {
        all.add(measured.unwrap());
    }
    all
}

/// Runs a task of the bench itself.
#[expect(clippy::disallowed_methods, reason = "the bench's runtime ends its tasks with it")]
pub(crate) fn spawn<T: Send + 'static>(
    future: impl Future<Output = T> + Send + 'static,
) -> tokio::task::JoinHandle<T> {
    tokio::spawn(future)
}

/// One client: it connects, waits until its turn and asks until the end.
async fn client(
    address: SocketAddr,
    size: usize,
    kind: Kind,
    first_after: Duration,
    end: Instant,
) -> Measured {
    let mut measured = Measured::default();
    let mut sender = connect(address).await;
    tokio::time::sleep(first_after).await;
    while Instant::now() < end {
        let body = body(size, kind);
        let started = Instant::now();
        let first = ask(&mut sender, address, body, &mut measured.chunks).await;
        measured.first.push(1000.0 * (first - started).as_secs_f64());
        measured.whole.push(1000.0 * started.elapsed().as_secs_f64());
    }
    measured
}

async fn connect(address: SocketAddr) -> SendRequest<Full<Bytes>> {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    spawn(connection);
    sender
}

/// Asks once; gives back when the first piece of the body came, and adds how long events were under way.
async fn ask(
    sender: &mut SendRequest<Full<Bytes>>,
    address: SocketAddr,
    body: Bytes,
    chunks: &mut Vec<f64>,
) -> Instant {
    let request = Request::post("/v1/chat/completions")
        .header("host", address.to_string())
        .header("content-type", "application/json")
        .body(Full::new(body));
    sender.ready().await.unwrap();
    let response = sender.send_request(request.unwrap()).await.unwrap();
    assert_eq!(response.status(), 200, "{:?}", response.headers());
    let mut body = response.into_body();
    let mut first = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.unwrap();
        first.get_or_insert_with(Instant::now);
        let text = std::str::from_utf8(frame.data_ref().expect("no trailers")).unwrap();
        for written in text.split(upstream::WRITTEN).skip(1) {
            // An event that came in two pieces is left out.
            let Some((digits, _)) = written.split_once(',') else { continue };
            let nanos: u64 = digits.parse().unwrap();
            chunks.push(upstream::now_nanos().saturating_sub(nanos) as f64 / 1e6);
        }
    }
    first.expect("a body")
}

/// A chat request of about this size whose text no other has.
fn body(size: usize, kind: Kind) -> Bytes {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    const PROSE: &str = "The river runs past the old mill and on to the sea, where boats wait for the \
        tide. Nobody in the village remembers when the bridge was built, but everybody uses it. ";
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let mut text = format!("Sum this up, part {number}: ");
    while text.len() + PROSE.len() < size {
        text.push_str(PROSE);
    }
    let stream = kind != Kind::Whole;
    let body = serde_json::json!({
        "model": kind.model(),
        "messages": [{"role": "user", "content": text}],
        "stream": stream,
    });
    Bytes::from(body.to_string())
}
