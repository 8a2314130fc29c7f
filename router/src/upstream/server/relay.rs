//! Passes a server's stream through as it comes, cut at the edges of events; those of a burst leave together.
//!
//! Usage is always asked for, and taken out again if the client did not ask. What breaks off ends with an
//! error event.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt, stream};
use hyper::body::Incoming as Body;
use hyper::header::CONTENT_TYPE;
use hyper::{Response, StatusCode};
use tokio::time::Instant;

use super::answer::{BROKEN_OFF, Chunk, Clock, Incoming, next_chunk};
use crate::api::ApiError;
use crate::reply::error_event;
use crate::reply_scan::ReplyText;
use crate::upstream::seen::Seen;
use crate::upstream::sse::{self, Splitter};
use crate::upstream::{Answer, AnswerBody, Piece, Shape, UpstreamError, turn};

/// Why a stream was cut in which the upstream said that it failed.
const FAILED: &str = "upstream_error";
/// What comes this soon after what came before belongs to a burst. No model writes a token in this time.
const BURST_GAP_MAX: Duration = Duration::from_millis(1);
/// Longest that the beginning of a burst waits for the rest.
const BURST_TIME_MAX: Duration = Duration::from_millis(1);
/// A burst that has so many bytes goes on without more of it.
const BURST_BYTES_MAX: usize = 16 << 10;

/// The events of a server, as they come.
pub(super) fn events(
    response: Response<Body>,
    incoming: Incoming,
    shape: Shape,
    clock: Clock,
) -> Result<Answer, UpstreamError> {
    let content_type = response.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok());
    if !content_type.unwrap_or_default().starts_with("text/event-stream") {
        return Err(UpstreamError::BadReply("it is not an event stream"));
    }
    let relay = Relay {
        body: response.into_body(),
        incoming,
        clock,
        shape,
        splitter: Splitter::default(),
        seen: Seen::default(),
        came: None,
        ahead: None,
        over: false,
    };
    let pieces = stream::unfold(relay, |mut relay| async {
        let piece = relay.next().await?;
        Some((piece, relay))
    });
    Ok(Answer { status: StatusCode::OK, body: AnswerBody::Events(Box::pin(pieces)) })
}

/// Passes a stream of events through.
struct Relay {
    body: Body,
    incoming: Incoming,
    clock: Clock,
    shape: Shape,
    splitter: Splitter,
    seen: Seen,
    /// When the last bytes came.
    came: Option<Instant>,
    /// What came behind a burst and ended it.
    ahead: Option<Chunk>,
    over: bool,
}

impl Relay {
    async fn next(&mut self) -> Option<Piece> {
        if self.over {
            return None;
        }
        if let Some(why) = self.broken() {
            return Some(self.cut(why));
        }
        loop {
            let whole = match self.bytes().await {
                Ok(Some(chunk)) => self.splitter.push(chunk),
                Ok(None) => return Some(self.end()),
                Err(cut) => return Some(self.cut(cut)),
            };
            let Ok(whole) = whole else { return Some(self.cut("event_too_long")) };
            if whole.is_empty() {
                continue;
            }
            let whole = self.incoming.events(whole);
            let (bytes, texts) = self.inspect(whole);
            if !bytes.is_empty() {
                return Some(Piece::Data { bytes, texts });
            }
            if let Some(why) = self.broken() {
                return Some(self.cut(why));
            }
        }
    }

    /// The next bytes; of a burst, all that is here by now.
    async fn bytes(&mut self) -> Chunk {
        if let Some(ahead) = self.ahead.take() {
            return ahead;
        }
        let chunk = self.clock.chunk(&mut self.body).await;
        let before = self.came.replace(Instant::now());
        match chunk {
            Ok(Some(first)) if before.is_some_and(|at| at.elapsed() < BURST_GAP_MAX) => {
                Ok(Some(self.burst(first).await))
            }
            chunk => chunk,
        }
    }

    /// What follows `first` and is here already, so that it leaves with one write: a write for each event
    /// costs more than all else that is done with it.
    async fn burst(&mut self, first: Bytes) -> Bytes {
        let (mut all, began) = (BytesMut::from(first), Instant::now());
        while all.len() < BURST_BYTES_MAX && began.elapsed() < BURST_TIME_MAX {
            let mut more = next_chunk(&mut self.body).now_or_never();
            if more.is_none() {
                // The task that reads the connection hands one event over for each time that it is asked.
                turn::of_others().await;
                more = next_chunk(&mut self.body).now_or_never();
            }
            match more {
                None => break,
                Some(Ok(Some(more))) => all.extend_from_slice(&more),
                Some(end) => {
                    self.ahead = Some(end);
                    break;
                }
            }
        }
        all.freeze()
    }

    /// Why nothing more of this stream goes on.
    fn broken(&self) -> Option<&'static str> {
        match (self.seen.failed, self.seen.broken) {
            (true, _) => Some(FAILED),
            (false, true) => Some("bad_event"),
            (false, false) => None,
        }
    }

    fn end(&mut self) -> Piece {
        // Some servers leave out `[DONE]`; a finish reason says the same.
        if (self.seen.done || self.seen.finished) && !self.splitter.has_rest() {
            self.over = true;
            return Piece::End { cut: None, bytes: None, usage: self.seen.usage };
        }
        self.cut(BROKEN_OFF)
    }

    fn cut(&mut self, why: &'static str) -> Piece {
        self.over = true;
        if self.seen.done {
            return Piece::End { cut: None, bytes: None, usage: self.seen.usage };
        }
        if why == FAILED {
            // The upstream's own error event went on already.
            return Piece::End { cut: Some(why), bytes: None, usage: self.seen.usage };
        }
        let message = "failed to finish the answer: the upstream broke off".to_owned();
        let error = ApiError::bad_gateway("upstream_broke_off", message);
        let bytes = Some(error_event(&error));
        Piece::End { cut: Some(why), bytes, usage: self.seen.usage }
    }

    /// Looks into events on their way, up to one that says that the upstream failed or that cannot be read;
    /// the usage event is taken out if the client did not ask.
    fn inspect(&mut self, mut whole: Bytes) -> (Bytes, Vec<ReplyText>) {
        let mut texts = Vec::new();
        let mut dropped: Vec<(usize, usize)> = Vec::new();
        let mut at = 0;
        for event in sse::events(&whole.clone()) {
            let start = at;
            at += event.len();
            if self.seen.event(event, &mut texts) && !self.shape.include_usage {
                dropped.push((start, at));
            }
            if self.seen.broken {
                whole.truncate(start);
                break;
            }
            if self.seen.failed {
                whole.truncate(at);
                break;
            }
        }
        if dropped.is_empty() {
            return (whole, texts);
        }
        let mut kept = Vec::with_capacity(whole.len());
        let mut from = 0;
        for (start, end) in dropped {
            kept.extend_from_slice(&whole[from..start]);
            from = end;
        }
        kept.extend_from_slice(&whole[from..]);
        (kept.into(), texts)
    }
}
