//! What goes back to the client: OpenAI's JSON and events, and the headers that say who decided what.
//!
//! A [`Reply`] is a status, headers and a body that is whole or pulled piece by piece: a client that
//! reads slowly slows the upstream, and one that leaves drops the body, which cancels the upstream.
//! A stream that breaks off ends with one error event and no `[DONE]`.

use std::convert::Infallible;
use std::pin::Pin;

use bytes::Bytes;
use futures_util::Stream;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{StatusCode, body::Frame};
use serde::Serialize;
use sluice_policies::{Decision, Route};

use crate::api::ApiError;
use crate::upstream::Usage;

/// An answer to a client, not yet on the wire.
pub struct Reply {
    /// HTTP status.
    pub status: StatusCode,
    /// Headers, `content-type` included.
    pub headers: HeaderMap,
    /// The body.
    pub body: ReplyBody,
}

/// The body of a [`Reply`].
pub enum ReplyBody {
    /// All at once.
    Whole(Bytes),
    /// Pulled as fast as the client reads.
    Stream(ByteStream),
}

/// A body that is pulled piece by piece. It cannot fail: what goes wrong is said in its last piece.
pub type ByteStream = Pin<Box<dyn Stream<Item = Result<Frame<Bytes>, Infallible>> + Send>>;

impl Reply {
    /// A JSON reply.
    pub fn json(status: StatusCode, bytes: impl Into<Bytes>) -> Reply {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Reply { status, headers, body: ReplyBody::Whole(bytes.into()) }
    }

    /// An error in OpenAI's shape.
    pub fn error(error: &ApiError) -> Reply {
        let mut reply = Reply::json(error.status, error.body());
        if let Some(seconds) = error.retry_after_s {
            reply.headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        reply
    }

    /// Server-sent events.
    pub fn events(stream: ByteStream) -> Reply {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
        headers.insert("cache-control", HeaderValue::from_static("no-cache"));
        // Proxies that buffer would turn a stream into one late block.
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        Reply { status: StatusCode::OK, headers, body: ReplyBody::Stream(stream) }
    }

    /// Sets a header; a value that a header cannot hold is left out.
    pub fn set(&mut self, name: &'static str, value: &str) {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(HeaderName::from_static(name), value);
        }
    }
}

/// What the `x-sluice-*` headers of a reply say.
pub struct DecisionHeaders<'a> {
    /// The decision's id.
    pub id: &'a str,
    /// Where the answer came from, or `refuse`.
    pub route: Route,
    /// Who answered.
    pub upstream: Option<&'a str>,
    /// `demo`, `general`, `approved`; `none` if nothing answered.
    pub quality: &'a str,
    /// The decision.
    pub decision: &'a Decision,
    /// Fields that were removed from the body.
    pub stripped: &'a [String],
    /// Values that placeholders stood for.
    pub redacted: usize,
}

impl DecisionHeaders<'_> {
    /// Puts them on a reply.
    pub fn put_on(&self, reply: &mut Reply) {
        let or_none = |list: &[String]| match list {
            [] => "none".to_owned(),
            list => list.join(","),
        };
        reply.set("x-sluice-route", route_word(self.route));
        reply.set("x-sluice-upstream", self.upstream.unwrap_or("none"));
        reply.set("x-sluice-class", &self.decision.class);
        reply.set("x-sluice-labels", &or_none(&self.decision.labels));
        reply.set("x-sluice-rule", &or_none(&self.decision.raised_by));
        reply.set("x-sluice-decision", self.id);
        reply.set("x-sluice-model-quality", self.quality);
        if !self.stripped.is_empty() {
            reply.set("x-sluice-stripped", &self.stripped.join(","));
        }
        if self.redacted > 0 {
            reply.set("x-sluice-redacted", &self.redacted.to_string());
        }
    }
}

/// The word for a route: the same in headers, JSON, audit and metrics.
pub fn route_word(route: Route) -> &'static str {
    match route {
        Route::Edge => "edge",
        Route::OnPrem => "on_prem",
        Route::Cloud => "cloud",
        Route::Refuse => "refuse",
    }
}

/// Writes the embedded engine's replies as OpenAI chat completions.
pub(crate) struct ChatReply {
    /// `chatcmpl-…`.
    pub(crate) id: String,
    /// Seconds since 1970.
    pub(crate) created: i64,
    /// The model that answers.
    pub(crate) model: String,
}

#[derive(Serialize)]
struct Chunk<'a> {
    id: &'a str,
    object: &'static str,
    created: i64,
    model: &'a str,
    choices: &'a [ChunkChoice<'a>],
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<UsageJson>,
}

#[derive(Serialize)]
struct ChunkChoice<'a> {
    index: u32,
    delta: Delta<'a>,
    finish_reason: Option<&'a str>,
}

#[derive(Default, Serialize)]
struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
}

#[derive(Serialize)]
struct Completion<'a> {
    id: &'a str,
    object: &'static str,
    created: i64,
    model: &'a str,
    choices: [CompletionChoice<'a>; 1],
    usage: UsageJson,
}

#[derive(Serialize)]
struct CompletionChoice<'a> {
    index: u32,
    message: Message<'a>,
    logprobs: Option<()>,
    finish_reason: &'a str,
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: &'a str,
    refusal: Option<()>,
}

#[derive(Clone, Copy, Serialize)]
struct UsageJson {
    prompt_tokens: u64,
    completion_tokens: u64,
    total_tokens: u64,
}

impl From<Usage> for UsageJson {
    fn from(usage: Usage) -> Self {
        let prompt_tokens = usage.prompt_tokens.unwrap_or(0);
        let completion_tokens = usage.completion_tokens.unwrap_or(0);
        UsageJson {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens + completion_tokens,
        }
    }
}

impl ChatReply {
    /// The whole reply.
    pub(crate) fn whole(&self, content: &str, finish_reason: &str, usage: Usage) -> Bytes {
        let message = Message { role: "assistant", content, refusal: None };
        let choice = CompletionChoice { index: 0, message, logprobs: None, finish_reason };
        let completion = Completion {
            id: &self.id,
            object: "chat.completion",
            created: self.created,
            model: &self.model,
            choices: [choice],
            usage: usage.into(),
        };
        serde_json::to_vec(&completion).expect("a completion has string keys only").into()
    }

    /// The first event: who speaks.
    pub(crate) fn role(&self, out: &mut Vec<u8>) {
        let delta = Delta { role: Some("assistant"), content: Some("") };
        self.event(out, &[ChunkChoice { index: 0, delta, finish_reason: None }], None);
    }

    /// A piece of text.
    pub(crate) fn delta(&self, out: &mut Vec<u8>, content: &str) {
        let delta = Delta { role: None, content: Some(content) };
        self.event(out, &[ChunkChoice { index: 0, delta, finish_reason: None }], None);
    }

    /// The end: why, the usage if it was asked for, and `[DONE]`.
    pub(crate) fn finish(&self, out: &mut Vec<u8>, reason: &str, usage: Option<Usage>) {
        let choice = ChunkChoice { index: 0, delta: Delta::default(), finish_reason: Some(reason) };
        self.event(out, &[choice], None);
        if let Some(usage) = usage {
            self.event(out, &[], Some(usage.into()));
        }
        out.extend_from_slice(b"data: [DONE]\n\n");
    }

    fn event(&self, out: &mut Vec<u8>, choices: &[ChunkChoice<'_>], usage: Option<UsageJson>) {
        let chunk = Chunk {
            id: &self.id,
            object: "chat.completion.chunk",
            created: self.created,
            model: &self.model,
            choices,
            usage,
        };
        out.extend_from_slice(b"data: ");
        serde_json::to_writer(&mut *out, &chunk).expect("a chunk has string keys only");
        out.extend_from_slice(b"\n\n");
    }
}

/// The last event of a stream that broke off.
pub(crate) fn error_event(error: &ApiError) -> Bytes {
    let mut event = b"data: ".to_vec();
    event.extend_from_slice(&error.body());
    event.extend_from_slice(b"\n\n");
    event.into()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn reply() -> ChatReply {
        ChatReply { id: "chatcmpl-1".into(), created: 7, model: "nano".into() }
    }

    fn events(bytes: &[u8]) -> Vec<Value> {
        let text = std::str::from_utf8(bytes).unwrap();
        let data = text.split("\n\n").filter_map(|event| event.strip_prefix("data: "));
        data.map(|json| serde_json::from_str(json).unwrap_or(Value::from(json))).collect()
    }

    #[test]
    fn a_streamed_reply_has_role_deltas_end_usage_and_done_in_order() {
        let mut out = Vec::new();
        reply().role(&mut out);
        reply().delta(&mut out, "Hi \"you\"");
        let usage = Usage { prompt_tokens: Some(3), completion_tokens: Some(2) };
        reply().finish(&mut out, "stop", Some(usage));
        let head = json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 7,
                          "model": "nano"});
        let with = |choices: Value| {
            let mut chunk = head.clone();
            chunk["choices"] = choices;
            chunk
        };
        let mut last = with(json!([]));
        last["usage"] = json!({"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5});
        let choice = |delta: Value, reason: Value| {
            with(json!([{"index": 0, "delta": delta, "finish_reason": reason}]))
        };
        let expected = [
            choice(json!({"role": "assistant", "content": ""}), Value::Null),
            choice(json!({"content": "Hi \"you\""}), Value::Null),
            choice(json!({}), json!("stop")),
            last,
            json!("[DONE]"),
        ];
        assert_eq!(events(&out), expected);
    }

    #[test]
    fn an_error_reply_says_when_to_come_back() {
        let reply = Reply::error(&ApiError::overloaded());
        assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(reply.headers[RETRY_AFTER], "1");
    }
}
