//! The upstream that all peers stand before: it answers at once, whole or as events.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;

/// Events of a streamed answer.
const EVENTS: usize = 64;
/// The pause before each but the first, where one is wanted. The first comes at once: a timer counts whole
/// milliseconds, and what a proxy adds before it could hide in what is left of one.
const PAUSE: Duration = Duration::from_millis(5);
/// How long a paced answer takes at least.
pub(crate) const PACED_LENGTH: Duration = PAUSE.saturating_mul(EVENTS as u32 - 1);
/// The model whose events are paced.
pub(crate) const PACED: &str = "paced";
/// What stands before the moment at which an event was written, nanoseconds since 1970.
pub(crate) const WRITTEN: &str = "\"written\":";

type Body = BoxBody<Bytes, Infallible>;

/// Says where it listens, then answers for ever.
pub(crate) async fn serve() {
    accept(|request| async { Ok::<_, Infallible>(answer(request).await) }).await;
}

/// Listens on a free port, says which, and serves with a function.
pub(crate) async fn accept<B, F>(serve: impl Fn(Request<Incoming>) -> F + Clone + Send + 'static)
where
    B: hyper::body::Body<Data = Bytes> + Send + 'static,
    B::Error: std::error::Error + Send + Sync,
    F: Future<Output = Result<Response<B>, Infallible>> + Send + 'static,
{
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    println!("{}", listener.local_addr().unwrap());
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let serve = serve.clone();
        super::load::spawn(async move {
            let mut connection = http1::Builder::new();
            connection.timer(TokioTimer::new());
            let _ = connection.serve_connection(TokioIo::new(stream), service_fn(serve)).await;
        });
    }
}

async fn answer(request: Request<Incoming>) -> Response<Body> {
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let says = |what: &[u8]| body.windows(what.len()).rev().any(|window| window == what);
    let paced = format!("\"model\":\"{PACED}\"");
    let (kind, body) = match says(STREAM) {
        true => ("text/event-stream", events(says(paced.as_bytes()))),
        false => ("application/json", Full::new(Bytes::from(whole())).boxed()),
    };
    Response::builder().header("content-type", kind).body(body).unwrap()
}

/// How a request says that it wants events.
pub(crate) const STREAM: &[u8] = b"\"stream\":true";

/// A number that no other reply has, so that no memory of earlier ones helps.
fn fresh_number() -> u64 {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    NUMBER.fetch_add(1, Ordering::Relaxed)
}

fn whole() -> String {
    let content = format!("Number {}. {}", fresh_number(), "An answer of some length. ".repeat(30));
    format!(
        r#"{{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"m","choices":[{{"index":0,"message":{{"role":"assistant","content":"{content}"}},"finish_reason":"stop"}}],"usage":{{"prompt_tokens":5,"completion_tokens":150,"total_tokens":155}}}}"#
    )
}

fn events(paced: bool) -> Body {
    let event = |delta: &str, finish: &str| {
        format!(
            "data: {{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1,{WRITTEN}{},\"model\":\"m\",\"choices\":[{{\"index\":0,\"delta\":{delta},\"finish_reason\":{finish}}}]}}\n\n",
            now_nanos()
        )
    };
    let fresh = fresh_number();
    // Each on its own, as a model that writes gives them.
    let pieces = stream::unfold(0, move |number| async move {
        if paced && (1..EVENTS).contains(&number) {
            tokio::time::sleep(PAUSE).await;
        }
        tokio::task::yield_now().await;
        let piece = match number {
            0 => event(&format!(r#"{{"content":"Number {fresh}"}}"#), "null"),
            1..EVENTS => event(r#"{"content":" word"}"#, "null"),
            EVENTS => event("{}", "\"stop\""),
            _ if number == EVENTS + 1 => "data: [DONE]\n\n".to_owned(),
            _ => return None,
        };
        Some((Ok::<_, Infallible>(Frame::data(Bytes::from(piece))), number + 1))
    });
    BodyExt::boxed(StreamBody::new(SyncStream(Box::pin(pieces))))
}

pub(crate) fn now_nanos() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock behind 1970");
    now.as_nanos() as u64
}

/// A stream that only its body polls: sharing it between threads is nobody's plan, and `BoxBody` asks.
struct SyncStream<T>(std::pin::Pin<Box<dyn futures_util::Stream<Item = T> + Send + Sync>>);

impl<T> futures_util::Stream for SyncStream<T> {
    type Item = T;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<T>> {
        self.0.as_mut().poll_next(context)
    }
}
