//! Request bodies with a limit on length and time, and reply bodies that hold their place.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::Version;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout_at};

use crate::api::ApiError;
use crate::metrics::GaugeGuard;
use crate::reply::{ByteStream, ReplyBody};

/// Longest silence in the middle of a body.
const IDLE_MAX: Duration = Duration::from_secs(10);
/// Longest time for a whole body.
const TOTAL_MAX: Duration = Duration::from_secs(120);
/// How long a client may leave all that is written to it unread: it would hold its place for ever.
pub(super) const UNREAD_TIME_MAX: Duration = Duration::from_secs(60);
/// How long an oversized body is read on and thrown away: a client that is still sending does not
/// read the error before it is done.
const LINGER_MAX: Duration = Duration::from_secs(5);
/// How much of it is thrown away at most, bytes.
const LINGER_BYTES_MAX: u64 = 256 << 20;

/// Reads a body of at most `bytes_max` bytes.
pub(super) async fn read(mut body: Incoming, bytes_max: u64) -> Result<Bytes, ApiError> {
    let announced = body.size_hint();
    if announced.lower() > bytes_max {
        linger(body).await;
        return Err(ApiError::body_too_large(bytes_max));
    }
    let deadline = Instant::now() + TOTAL_MAX;
    let mut all = BytesMut::with_capacity(announced.lower() as usize);
    while let Some(data) = next(&mut body, deadline).await? {
        if all.len() as u64 + data.len() as u64 > bytes_max {
            linger(body).await;
            return Err(ApiError::body_too_large(bytes_max));
        }
        all.extend_from_slice(&data);
    }
    Ok(all.freeze())
}

async fn next(body: &mut Incoming, deadline: Instant) -> Result<Option<Bytes>, ApiError> {
    loop {
        let patience = (Instant::now() + IDLE_MAX).min(deadline);
        match timeout_at(patience, body.frame()).await {
            Err(_) => return Err(ApiError::slow_body()),
            Ok(None) => return Ok(None),
            Ok(Some(Err(_))) => {
                return Err(ApiError::invalid(None, "failed to read the body: it broke off"));
            }
            Ok(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => return Ok(Some(data)),
                Err(_trailers) => {}
            },
        }
    }
}

async fn linger(mut body: Incoming) {
    let deadline = Instant::now() + LINGER_MAX;
    let mut thrown_away = 0;
    while let Ok(Some(data)) = next(&mut body, deadline).await {
        thrown_away += data.len() as u64;
        if thrown_away > LINGER_BYTES_MAX {
            return;
        }
    }
}

/// A reply's body on the wire. It holds the request's place until all of it is handed out, or it is dropped or
/// given up: what is handed out holds up no work here, however long a client leaves it unread.
pub(super) struct WireBody {
    inner: Inner,
    /// Where the stream does not hold it.
    place: Place,
}

/// A place among the requests in flight.
type Place = Option<(OwnedSemaphorePermit, GaugeGuard)>;

enum Inner {
    Whole(Full<Bytes>),
    Stream(ByteStream),
    /// Of HTTP/2, where a client that takes nothing keeps no write waiting: only its stream waits.
    Watched(Arc<Mutex<Taken>>, AbortHandle),
}

/// A stream, and whether its client takes it.
struct Taken {
    /// `None` once it is over or given up.
    stream: Option<(ByteStream, Place)>,
    /// Since when a piece was handed out and no other asked for.
    idle_since: Option<Instant>,
    is_given_up: bool,
}

impl WireBody {
    /// Panics outside of a runtime.
    pub(super) fn new(body: ReplyBody, place: Place, version: Version) -> Self {
        match body {
            ReplyBody::Whole(bytes) => WireBody { inner: Inner::Whole(Full::new(bytes)), place },
            ReplyBody::Stream(stream) if version == Version::HTTP_2 => {
                WireBody { inner: Inner::watched(stream, place), place: None }
            }
            ReplyBody::Stream(stream) => WireBody { inner: Inner::Stream(stream), place },
        }
    }
}

impl Inner {
    fn watched(stream: ByteStream, place: Place) -> Inner {
        let stream = Some((stream, place));
        let taken = Taken { stream, idle_since: None, is_given_up: false };
        let taken = Arc::new(Mutex::new(taken));
        #[expect(clippy::disallowed_methods, reason = "it ends with the body")]
        let watch = tokio::spawn(watch(taken.clone()));
        Inner::Watched(taken, watch.abort_handle())
    }
}

/// Drops a stream that its client leaves untaken for [`UNREAD_TIME_MAX`], and with it the upstream's reply.
async fn watch(taken: Arc<Mutex<Taken>>) {
    loop {
        let idle_since = lock(&taken).idle_since;
        let until = idle_since.unwrap_or_else(Instant::now) + UNREAD_TIME_MAX;
        tokio::time::sleep_until(until).await;
        let mut taken = lock(&taken);
        if taken.idle_since.is_some_and(|since| since.elapsed() >= UNREAD_TIME_MAX) {
            taken.is_given_up = true;
            taken.stream = None;
            return;
        }
    }
}

fn lock(taken: &Mutex<Taken>) -> MutexGuard<'_, Taken> {
    // Its fields are set one by one, and each says something true alone.
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Taken {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Piece>> {
        self.idle_since = None;
        let Some((stream, _)) = &mut self.stream else {
            let unread = || io::Error::new(io::ErrorKind::TimedOut, "the reply was left unread");
            return Poll::Ready(self.is_given_up.then(|| Err(unread())));
        };
        let piece = ready!(stream.as_mut().poll_next(context));
        match &piece {
            Some(_) => self.idle_since = Some(Instant::now()),
            None => self.stream = None,
        }
        Poll::Ready(piece.map(sent))
    }
}

/// A piece of a reply, or why there is no more.
type Piece = io::Result<Frame<Bytes>>;

fn sent(piece: Result<Frame<Bytes>, Infallible>) -> Piece {
    let Ok(frame) = piece;
    Ok(frame)
}

impl Drop for WireBody {
    fn drop(&mut self) {
        if let Inner::Watched(taken, watch) = &self.inner {
            watch.abort();
            lock(taken).stream = None;
        }
    }
}

impl Body for WireBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Piece>> {
        match &mut self.inner {
            Inner::Whole(full) => {
                let piece = ready!(Pin::new(full).poll_frame(context));
                self.place = None;
                Poll::Ready(piece.map(sent))
            }
            Inner::Stream(stream) => {
                stream.as_mut().poll_next(context).map(|piece| piece.map(sent))
            }
            Inner::Watched(taken, _) => lock(taken).poll(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(&self.inner, Inner::Whole(full) if full.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Inner::Whole(full) => full.size_hint(),
            Inner::Stream(..) | Inner::Watched(..) => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use futures_util::stream::{self, StreamExt};
    use tokio::sync::Semaphore;
    use tokio::time::advance;

    use super::*;
    use crate::metrics::Metrics;

    /// A streamed reply of so many pieces, after which it waits for ever, and what it holds on to.
    fn reply(pieces: usize) -> (WireBody, Arc<()>) {
        let held = Arc::new(());
        let holds = held.clone();
        let pieces = stream::iter(std::iter::repeat_n(Bytes::from_static(b"data: x\n\n"), pieces));
        let piece = move |bytes| {
            let _holds = &holds;
            Ok(Frame::data(bytes))
        };
        let stream = pieces.chain(stream::pending()).map(piece).boxed();
        (WireBody::new(ReplyBody::Stream(stream), None, Version::HTTP_2), held)
    }

    /// Lets the watch see what time it is.
    async fn pass(time: Duration) {
        tokio::task::yield_now().await;
        advance(time).await;
        tokio::task::yield_now().await;
    }

    #[tokio::test]
    async fn a_whole_reply_holds_its_place_until_it_is_handed_out() {
        let places = Arc::new(Semaphore::new(1));
        let place = places.clone().try_acquire_owned().unwrap();
        let metrics = Metrics::new();
        let whole = ReplyBody::Whole(Bytes::from_static(b"{}"));
        let mut body = WireBody::new(whole, Some((place, metrics.in_flight())), Version::HTTP_2);
        assert_eq!(places.available_permits(), 0);
        assert!(body.frame().await.unwrap().is_ok());
        assert_eq!(places.available_permits(), 1, "although the connection keeps the body");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_nobody_takes_is_given_up() {
        let (mut body, held) = reply(9);
        for _ in 0..3 {
            assert!(body.frame().await.unwrap().is_ok());
            pass(UNREAD_TIME_MAX - Duration::from_secs(1)).await;
        }
        assert_eq!(Arc::strong_count(&held), 2);
        pass(UNREAD_TIME_MAX).await;
        assert_eq!(Arc::strong_count(&held), 1, "the upstream is hung up on");
        let error = body.frame().await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_waits_for_its_upstream_is_not() {
        let (mut body, held) = reply(1);
        assert!(body.frame().await.unwrap().is_ok());
        assert!(body.frame().now_or_never().is_none());
        pass(10 * UNREAD_TIME_MAX).await;
        assert_eq!(Arc::strong_count(&held), 2);
        drop(body);
        assert_eq!(Arc::strong_count(&held), 1);
    }
}
