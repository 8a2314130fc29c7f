//! Request bodies with a limit on length and time, and reply bodies that hold their place.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout_at};

use crate::api::ApiError;
use crate::metrics::GaugeGuard;
use crate::reply::{ByteStream, ReplyBody};

/// Longest silence in the middle of a body.
const IDLE_MAX: Duration = Duration::from_secs(10);
/// Longest time for a whole body.
const TOTAL_MAX: Duration = Duration::from_secs(120);
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

/// A reply's body on the wire. It holds the request's place until it is sent or dropped.
pub(super) struct WireBody {
    inner: Inner,
    _held: Option<(OwnedSemaphorePermit, GaugeGuard)>,
}

enum Inner {
    Whole(Full<Bytes>),
    Stream(ByteStream),
}

impl WireBody {
    pub(super) fn new(body: ReplyBody, held: Option<(OwnedSemaphorePermit, GaugeGuard)>) -> Self {
        let inner = match body {
            ReplyBody::Whole(bytes) => Inner::Whole(Full::new(bytes)),
            ReplyBody::Stream(stream) => Inner::Stream(stream),
        };
        WireBody { inner, _held: held }
    }
}

impl Body for WireBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match &mut self.inner {
            Inner::Whole(full) => Pin::new(full).poll_frame(context),
            Inner::Stream(stream) => stream.as_mut().poll_next(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(&self.inner, Inner::Whole(full) if full.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Inner::Whole(full) => full.size_hint(),
            Inner::Stream(_) => SizeHint::default(),
        }
    }
}
