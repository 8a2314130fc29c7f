//! What a server answers, in the internal form: whole replies, errors, and what a passthrough brings.
//!
//! Each piece is waited for within the deadlines of a [`Clock`]. Streams are `relay`'s.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming as Body;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use serde_json::Value;
use sluice_policies::Endpoint;
use tokio::time::{Instant, timeout_at};

use super::relay;
use crate::config::{Protocol, ServerConfig, Timeouts};
use crate::reply_scan::{Channel, Place, ReplyText};
use crate::upstream::seen::{Part, Said};
use crate::upstream::{Answer, AnswerBody, Shape, UpstreamError, Usage, anthropic, openai};

/// Longest whole reply that is held in memory, bytes.
const REPLY_BYTES_MAX: usize = 32 << 20;
/// Longest error reply that is passed on, bytes.
const ERROR_BYTES_MAX: usize = 64 << 10;

/// Bytes of a reply's body, `None` at its end, or why it was cut.
pub(super) type Chunk = Result<Option<Bytes>, &'static str>;

/// Why a reply was cut whose connection broke.
pub(super) const BROKEN_OFF: &str = "broken_off";

/// Deadlines of one exchange.
#[derive(Clone, Copy)]
pub(super) struct Clock {
    pub(super) first_byte: Instant,
    total: Instant,
    idle: Duration,
}

impl Clock {
    pub(super) fn start(timeouts: Timeouts) -> Clock {
        let now = Instant::now();
        let total = now + timeouts.total;
        let first_byte = (now + timeouts.connect + timeouts.first_byte).min(total);
        Clock { first_byte, total, idle: timeouts.idle }
    }

    /// The next piece of a reply's body; `None` at its end.
    pub(super) async fn chunk(&self, body: &mut Body) -> Chunk {
        let deadline = (Instant::now() + self.idle).min(self.total);
        timeout_at(deadline, next_chunk(body)).await.unwrap_or(Err("timeout"))
    }
}

/// The next bytes of a body, however long they take; what else comes with it is passed over.
pub(super) async fn next_chunk(body: &mut Body) -> Chunk {
    while let Some(frame) = body.frame().await {
        if let Ok(bytes) = frame.map_err(|_| BROKEN_OFF)?.into_data() {
            return Ok(Some(bytes));
        }
    }
    Ok(None)
}

/// The way of a server's replies into the internal form.
pub(super) enum Incoming {
    /// It speaks that form.
    AsIs,
    /// OpenAI's legacy completions.
    Completions,
    /// Anthropic's messages; with what is known of a stream so far.
    Messages(Box<anthropic::EventReader>),
}

impl Incoming {
    fn new(protocol: Protocol, endpoint: Option<Endpoint>) -> Incoming {
        match (protocol, endpoint) {
            (_, None) => Incoming::AsIs,
            (Protocol::Anthropic, _) => Incoming::Messages(Box::default()),
            (Protocol::OpenAi, Some(Endpoint::Completions)) => Incoming::Completions,
            (Protocol::OpenAi, _) => Incoming::AsIs,
        }
    }

    /// What a whole reply says, and its bytes.
    fn whole(&self, bytes: Bytes) -> Result<(Said, Bytes), UpstreamError> {
        let text = std::str::from_utf8(&bytes).map_err(|_| NO_JSON)?;
        let json = match self {
            Incoming::AsIs => {
                let said = Said::read(text).ok_or(NO_JSON)?;
                return match (said.is_object(), said.is_error()) {
                    (false, _) => Err(NO_OBJECT),
                    // Some say so with the status of a success.
                    (true, true) => Err(UpstreamError::BadReply("it is an error")),
                    (true, false) => Ok((said, bytes)),
                };
            }
            Incoming::Completions => openai::chat_of_completion(object(text)?, "message"),
            Incoming::Messages(_) => anthropic::completion(&object(text)?)
                .ok_or(UpstreamError::BadReply("it is not a message"))?,
        };
        Ok((Said::of(&json), json.to_string().into()))
    }

    /// Whole events.
    pub(super) fn events(&mut self, bytes: Bytes) -> Bytes {
        match self {
            Incoming::AsIs => bytes,
            Incoming::Completions => openai::chat_of_completion_events(&bytes),
            Incoming::Messages(reader) => reader.push(&bytes),
        }
    }

    /// The error that an upstream answered with; `None` if it is not one.
    fn error(&self, bytes: Bytes) -> Option<Bytes> {
        match self {
            Incoming::AsIs | Incoming::Completions => openai::error(bytes),
            Incoming::Messages(_) => anthropic::error(&bytes),
        }
    }
}

/// Reads what a server answered.
pub(super) async fn read(
    response: Response<Body>,
    config: &ServerConfig,
    endpoint: Option<Endpoint>,
    shape: Shape,
    clock: Clock,
) -> Result<Answer, UpstreamError> {
    let incoming = Incoming::new(config.protocol, endpoint);
    match response.status().is_success() {
        false => failed(response, incoming, config.connection.client_key, clock).await,
        true if endpoint.is_none() => raw(response, clock).await,
        true if shape.stream => relay::events(response, incoming, shape, clock),
        true => whole(response, incoming, clock).await,
    }
}

const NO_JSON: UpstreamError = UpstreamError::BadReply("it is not JSON");
const NO_OBJECT: UpstreamError = UpstreamError::BadReply("it is not a JSON object");

/// A whole reply as a tree, to be translated.
fn object(text: &str) -> Result<Value, UpstreamError> {
    let json: Value = serde_json::from_str(text).map_err(|_| NO_JSON)?;
    if json.is_object() { Ok(json) } else { Err(NO_OBJECT) }
}

async fn whole(
    mut response: Response<Body>,
    incoming: Incoming,
    clock: Clock,
) -> Result<Answer, UpstreamError> {
    let bytes = collect(response.body_mut(), clock, REPLY_BYTES_MAX).await?;
    let (said, bytes) = incoming.whole(bytes)?;
    let usage = said.usage();
    let mut texts = Vec::new();
    said.texts(Part::Message, &mut texts);
    Ok(Answer { status: StatusCode::OK, body: AnswerBody::Whole { bytes, usage, texts } })
}

/// What a passthrough brought, whole and as it is; what can be read of it is scanned.
async fn raw(mut response: Response<Body>, clock: Clock) -> Result<Answer, UpstreamError> {
    let status = response.status();
    let octets = || HeaderValue::from_static("application/octet-stream");
    let content_type = response.headers().get(CONTENT_TYPE).cloned().unwrap_or_else(octets);
    let bytes = collect(response.body_mut(), clock, REPLY_BYTES_MAX).await?;
    let json = serde_json::from_slice::<Value>(&bytes).ok();
    let usage = json.as_ref().map(|json| Said::of(json).usage()).unwrap_or_default();
    let text = match &json {
        Some(json) => Some(crate::api::as_text(json)),
        None => String::from_utf8(bytes.to_vec()).ok(),
    };
    let texts =
        text.map(|text| ReplyText::new(Channel::Aside(0, Place::ROOT), text)).into_iter().collect();
    Ok(Answer { status, body: AnswerBody::Raw { bytes, content_type, usage, texts } })
}

async fn collect(body: &mut Body, clock: Clock, bytes_max: usize) -> Result<Bytes, UpstreamError> {
    let mut all = Vec::new();
    loop {
        match clock.chunk(body).await {
            Ok(None) => return Ok(all.into()),
            Ok(Some(chunk)) if all.len() + chunk.len() > bytes_max => {
                return Err(UpstreamError::BadReply("it is too long"));
            }
            Ok(Some(chunk)) => all.extend_from_slice(&chunk),
            Err("timeout") => return Err(UpstreamError::Timeout("the answer stopped coming")),
            Err(_) => return Err(UpstreamError::BadReply("it broke off")),
        }
    }
}

/// Sorts an error status: the client's fault is passed on, ours and theirs may fall back.
async fn failed(
    response: Response<Body>,
    incoming: Incoming,
    is_clients_key: bool,
    clock: Clock,
) -> Result<Answer, UpstreamError> {
    let status = response.status();
    match status.as_u16() {
        401 | 403 if is_clients_key => turned_away(response, incoming, clock).await,
        401 | 403 | 407 => Err(UpstreamError::Credentials(status)),
        300..=399 => Err(UpstreamError::BadReply("it is a redirect")),
        408 | 429 | 500..=599 => {
            let retry_after_s = retry_after_s(response.headers(), jiff::Timestamp::now());
            Err(UpstreamError::Status { status, retry_after_s })
        }
        _ => turned_away(response, incoming, clock).await,
    }
}

/// The client's own fault, as the server tells it.
async fn turned_away(
    mut response: Response<Body>,
    incoming: Incoming,
    clock: Clock,
) -> Result<Answer, UpstreamError> {
    let status = response.status();
    let bytes = collect(response.body_mut(), clock, ERROR_BYTES_MAX).await?;
    let bytes =
        incoming.error(bytes).ok_or(UpstreamError::Status { status, retry_after_s: None })?;
    let body = AnswerBody::Whole { bytes, usage: Usage::default(), texts: Vec::new() };
    Ok(Answer { status, body })
}

/// When to come back, in seconds from now; servers say it in seconds or as a date.
fn retry_after_s(headers: &HeaderMap, now: jiff::Timestamp) -> Option<u32> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(seconds);
    }
    let at = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    u32::try_from(at.as_second().saturating_sub(now.as_second()).max(0)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retry_after_is_read_in_seconds_or_as_a_date() {
        let now = "2026-11-28T12:00:00Z".parse().unwrap();
        for (text, expected) in [
            ("7", Some(7)),
            (" 120 ", Some(120)),
            ("Sat, 28 Nov 2026 12:00:30 GMT", Some(30)),
            ("Sat, 28 Nov 2026 11:00:00 GMT", Some(0)),
            ("soon", None),
            ("-1", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_str(text).unwrap());
            assert_eq!(retry_after_s(&headers, now), expected, "{text}");
        }
        assert_eq!(retry_after_s(&HeaderMap::new(), now), None);
    }
}
