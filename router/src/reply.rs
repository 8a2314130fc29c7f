//! What goes back to the client: status, body, and the headers that say who decided what.
//!
//! A [`Reply`] is a status, headers and a body that is whole or pulled piece by piece: a client that
//! reads slowly slows the upstream, and one that leaves drops the body, which cancels the upstream.
//! A stream that breaks off ends with one error event and no `[DONE]`. Inside: `chat` (the embedded
//! engine's replies as OpenAI writes them).

mod chat;

use std::convert::Infallible;
use std::pin::Pin;

use bytes::Bytes;
use futures_util::Stream;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{StatusCode, body::Frame};
use sluice_policies::{Decision, Route};

use crate::api::ApiError;
pub(crate) use chat::{ChatReply, Choice};

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

    /// Sets a header to one of a few known words. Panics if a header cannot hold it (caller bug).
    pub fn set_word(&mut self, name: &'static str, word: &'static str) {
        self.headers.insert(HeaderName::from_static(name), HeaderValue::from_static(word));
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
    pub quality: &'static str,
    /// What makes replies worse for speed, where the edge's config asks for it.
    pub lossy: &'a [String],
    /// The word for why there is no network, if it is away.
    pub offline: Option<&'a str>,
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
        reply.set_word("x-sluice-route", route_word(self.route));
        match self.upstream {
            Some(upstream) => reply.set("x-sluice-upstream", upstream),
            None => reply.set_word("x-sluice-upstream", "none"),
        }
        reply.set("x-sluice-class", &self.decision.class);
        let lists = [
            ("x-sluice-labels", &self.decision.labels),
            ("x-sluice-rule", &self.decision.raised_by),
        ];
        for (name, list) in lists {
            match list.as_slice() {
                [] => reply.set_word(name, "none"),
                list => reply.set(name, &list.join(",")),
            }
        }
        reply.set("x-sluice-decision", self.id);
        reply.set_word("x-sluice-model-quality", self.quality);
        if !self.lossy.is_empty() {
            reply.set("x-sluice-lossy", &self.lossy.join(","));
        }
        if let Some(cause) = self.offline {
            reply.set("x-sluice-offline", cause);
        }
        if !self.stripped.is_empty() {
            reply.set("x-sluice-stripped", &listed(self.stripped));
        }
        if self.redacted > 0 {
            reply.set("x-sluice-redacted", &self.redacted.to_string());
        }
    }
}

/// Longest list of what a client chose that a header shows, bytes: many clients read no head above 8 KiB.
const LIST_BYTES_MAX: usize = 4 << 10;

/// Names with commas between, as many as a header may show, and how many more there are.
fn listed(names: &[String]) -> String {
    let mut list = String::new();
    for (shown, name) in names.iter().enumerate() {
        let comma = if shown == 0 { "" } else { "," };
        if list.len() + comma.len() + name.len() > LIST_BYTES_MAX {
            return format!("{list}{comma}and_{}_more", names.len() - shown);
        }
        list.push_str(comma);
        list.push_str(name);
    }
    list
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

/// The last event of a stream that broke off.
pub(crate) fn error_event(error: &ApiError) -> Bytes {
    let mut event = b"data: ".to_vec();
    event.extend_from_slice(&error.body());
    event.extend_from_slice(b"\n\n");
    event.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_as_long_as_a_client_can_read() {
        let names = |count: usize| vec!["messages[0].mood".to_owned(); count];
        assert_eq!(listed(&names(2)), "messages[0].mood,messages[0].mood");
        let long = listed(&names(100_000));
        assert!(long.len() < LIST_BYTES_MAX + 32, "{}", long.len());
        let shown = long.matches("mood").count();
        assert!(shown > 200 && long.ends_with(&format!("mood,and_{}_more", 100_000 - shown)));
        assert_eq!(listed(&["x".repeat(LIST_BYTES_MAX + 1)]), "and_1_more");
    }

    #[test]
    fn an_error_reply_says_when_to_come_back() {
        let reply = Reply::error(&ApiError::overloaded());
        assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(reply.headers[RETRY_AFTER], "1");
    }
}
