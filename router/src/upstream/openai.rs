//! A server across the network that speaks OpenAI's chat completions.
//!
//! The only file that owns an HTTP client, and its only way out is [`OpenAiUpstream::send`], which
//! spends an [`EgressPermit`]. The client follows no redirect, reads no proxy variable and never
//! retries on its own: bytes go to the address that policy compared, once. Of the client's headers
//! none is passed on; the key comes from the config.
//!
//! Streams are passed through as they come, cut at the edges of events. Usage is always asked for,
//! and taken out again if the client did not ask.

use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use hyper::StatusCode;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use serde::ser::{SerializeMap, Serializer};
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use super::sse::{self, Splitter};
use super::{Answer, AnswerBody, Piece, Shape, UpstreamError, UpstreamId, Usage};
use crate::api::{ApiError, ChatBody};
use crate::breaker::Breaker;
use crate::config::{OpenAiConfig, Timeouts};
use crate::permit::{EgressPermit, OutboundBody};
use crate::reply::error_event;
use crate::reply_scan::{Channel, ReplyText};

/// Longest whole reply that is held in memory, bytes.
const REPLY_BYTES_MAX: usize = 32 << 20;
/// Longest error reply that is passed on, bytes.
const ERROR_BYTES_MAX: usize = 64 << 10;

/// A configured server.
pub struct OpenAiUpstream {
    id: UpstreamId,
    config: OpenAiConfig,
    client: reqwest::Client,
    url: reqwest::Url,
    address: String,
    authorization: Option<HeaderValue>,
    /// Keeps requests away while it fails.
    pub breaker: Breaker,
}

/// An upstream whose settings make no usable client.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamSetupError {
    /// The address reads differently to the client than to policy.
    #[error("upstream {id}: expected an address that every reader takes alike, got {address}")]
    Address {
        /// The upstream.
        id: UpstreamId,
        /// Its address.
        address: String,
    },
    /// The key holds characters that a header cannot.
    #[error("upstream {id}: expected a key of visible ASCII characters")]
    Key {
        /// The upstream.
        id: UpstreamId,
    },
    /// The TLS client could not be built.
    #[error("upstream {id}: failed to build the HTTP client")]
    Client {
        /// The upstream.
        id: UpstreamId,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
}

impl OpenAiUpstream {
    /// Builds the client of one upstream.
    pub fn new(id: UpstreamId, config: OpenAiConfig) -> Result<OpenAiUpstream, UpstreamSetupError> {
        install_tls_provider();
        let url = url(&id, &config)?;
        let authorization = match &config.key {
            None => None,
            Some(key) => {
                Some(bearer(key.expose()).ok_or(UpstreamSetupError::Key { id: id.clone() })?)
            }
        };
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .connect_timeout(config.timeouts.connect)
            .pool_idle_timeout(Duration::from_secs(60))
            .tcp_nodelay(true)
            .build()
            .map_err(|source| UpstreamSetupError::Client { id: id.clone(), source })?;
        let address = url.origin().ascii_serialization();
        let breaker = Breaker::new();
        Ok(OpenAiUpstream { id, config, client, url, address, authorization, breaker })
    }

    /// `scheme://host:port`, the port left out where it is the scheme's own.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Its name.
    pub fn id(&self) -> &UpstreamId {
        &self.id
    }

    /// Its settings.
    pub fn config(&self) -> &OpenAiConfig {
        &self.config
    }

    /// Translates a request into the bytes that this upstream gets.
    pub(crate) fn outbound(&self, chat: &ChatBody) -> OutboundBody {
        let mut bytes = Vec::with_capacity(1024);
        let translated = Translated { chat, model: self.model_name(&chat.model) };
        serde_json::to_writer(&mut bytes, &translated).expect("a JSON object can be written back");
        OutboundBody::seal(bytes)
    }

    fn model_name<'a>(&'a self, client_name: &'a str) -> &'a str {
        let listed = self.config.models.iter().find(|(name, _)| name == client_name);
        match (listed, &self.config.model) {
            (Some((_, server_name)), _) => server_name,
            (None, Some(standard)) => standard,
            (None, None) => client_name,
        }
    }

    /// Sends what the permit carries and waits for the head of the answer, or for all of it.
    ///
    /// Panics if the permit is for another upstream (caller bug).
    pub(crate) async fn send(
        &self,
        permit: EgressPermit,
        shape: Shape,
    ) -> Result<Answer, UpstreamError> {
        let (upstream, body) = permit.spend();
        assert!(upstream == self.id, "a permit for {upstream} was given to {}", self.id);
        let clock = Clock::start(self.config.timeouts);
        let response = self.request(body, shape, clock).await?;
        let status = response.status();
        if status.is_success() && shape.stream {
            return events(response, shape, clock);
        }
        if status.is_success() {
            return whole(response, clock).await;
        }
        failed(response, clock).await
    }

    async fn request(
        &self,
        body: Bytes,
        shape: Shape,
        clock: Clock,
    ) -> Result<reqwest::Response, UpstreamError> {
        let accept = if shape.stream { "text/event-stream" } else { "application/json" };
        let mut request = self
            .client
            .post(self.url.clone())
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .header(ACCEPT, HeaderValue::from_static(accept))
            .body(body);
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        match timeout_at(clock.first_byte, request.send()).await {
            Err(_) => Err(UpstreamError::Timeout("no first byte of the answer")),
            Ok(Err(error)) if error.is_timeout() => Err(UpstreamError::Timeout("no connection")),
            // The address is in the config; the error's text would repeat it into logs.
            Ok(Err(error)) => Err(UpstreamError::Unreachable(error.without_url())),
            Ok(Ok(response)) => Ok(response),
        }
    }
}

/// Deadlines of one exchange.
#[derive(Clone, Copy)]
struct Clock {
    first_byte: Instant,
    total: Instant,
    idle: Duration,
}

impl Clock {
    fn start(timeouts: Timeouts) -> Clock {
        let now = Instant::now();
        let total = now + timeouts.total;
        let first_byte = (now + timeouts.connect + timeouts.first_byte).min(total);
        Clock { first_byte, total, idle: timeouts.idle }
    }

    /// The next piece of a reply's body; `None` at its end.
    async fn chunk(&self, response: &mut reqwest::Response) -> Result<Option<Bytes>, &'static str> {
        let deadline = (Instant::now() + self.idle).min(self.total);
        match timeout_at(deadline, response.chunk()).await {
            Err(_) => Err("timeout"),
            Ok(Err(_)) => Err("broken_off"),
            Ok(Ok(chunk)) => Ok(chunk),
        }
    }
}

/// The body as the upstream gets it: the client's own fields, but for the few that the gateway sets.
struct Translated<'a> {
    chat: &'a ChatBody,
    model: &'a str,
}

impl serde::Serialize for Translated<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (name, value) in &self.chat.fields {
            match name.as_str() {
                // `metadata` only describes stored completions, and nothing is stored.
                "model" | "store" | "stream_options" | "metadata" => {}
                _ => map.serialize_entry(name, value)?,
            }
        }
        map.serialize_entry("model", self.model)?;
        map.serialize_entry("store", &false)?;
        if self.chat.stream {
            map.serialize_entry("stream_options", &self.stream_options())?;
        }
        map.end()
    }
}

impl Translated<'_> {
    fn stream_options(&self) -> Value {
        let mut options = match self.chat.fields.get("stream_options") {
            Some(Value::Object(options)) => options.clone(),
            _ => serde_json::Map::new(),
        };
        options.insert("include_usage".to_owned(), Value::Bool(true));
        Value::Object(options)
    }
}

async fn whole(mut response: reqwest::Response, clock: Clock) -> Result<Answer, UpstreamError> {
    let bytes = collect(&mut response, clock, REPLY_BYTES_MAX).await?;
    let json: Value =
        serde_json::from_slice(&bytes).map_err(|_| UpstreamError::BadReply("it is not JSON"))?;
    if !json.is_object() {
        return Err(UpstreamError::BadReply("it is not a JSON object"));
    }
    let usage = usage(&json["usage"]);
    let mut texts = Vec::new();
    collect_texts(&json, "message", &mut texts);
    Ok(Answer { status: StatusCode::OK, body: AnswerBody::Whole { bytes, usage, texts } })
}

async fn collect(
    response: &mut reqwest::Response,
    clock: Clock,
    bytes_max: usize,
) -> Result<Bytes, UpstreamError> {
    let mut all = Vec::new();
    loop {
        match clock.chunk(response).await {
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
async fn failed(mut response: reqwest::Response, clock: Clock) -> Result<Answer, UpstreamError> {
    let status = response.status();
    match status.as_u16() {
        401 | 403 | 407 => Err(UpstreamError::Credentials(status)),
        300..=399 => Err(UpstreamError::BadReply("it is a redirect")),
        408 | 429 | 500..=599 => {
            let header = response.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok());
            let retry_after_s = header.and_then(|v| v.trim().parse().ok());
            Err(UpstreamError::Status { status, retry_after_s })
        }
        _ => {
            let bytes = collect(&mut response, clock, ERROR_BYTES_MAX).await?;
            if serde_json::from_slice::<serde::de::IgnoredAny>(&bytes).is_err() {
                return Err(UpstreamError::Status { status, retry_after_s: None });
            }
            let body = AnswerBody::Whole { bytes, usage: Usage::default(), texts: Vec::new() };
            Ok(Answer { status, body })
        }
    }
}

fn events(
    response: reqwest::Response,
    shape: Shape,
    clock: Clock,
) -> Result<Answer, UpstreamError> {
    let content_type = response.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok());
    if !content_type.unwrap_or_default().starts_with("text/event-stream") {
        return Err(UpstreamError::BadReply("it is not an event stream"));
    }
    let relay = Relay {
        response,
        clock,
        shape,
        splitter: Splitter::default(),
        seen: Seen::default(),
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
    response: reqwest::Response,
    clock: Clock,
    shape: Shape,
    splitter: Splitter,
    seen: Seen,
    over: bool,
}

/// What has come so far.
#[derive(Default)]
struct Seen {
    done: bool,
    finished: bool,
    usage: Usage,
}

impl Relay {
    async fn next(&mut self) -> Option<Piece> {
        if self.over {
            return None;
        }
        loop {
            let whole = match self.clock.chunk(&mut self.response).await {
                Ok(Some(chunk)) => self.splitter.push(chunk),
                Ok(None) => return Some(self.end()),
                Err(cut) => return Some(self.cut(cut)),
            };
            let Ok(whole) = whole else { return Some(self.cut("event_too_long")) };
            if whole.is_empty() {
                continue;
            }
            let (bytes, texts) = self.inspect(whole);
            if !bytes.is_empty() {
                return Some(Piece::Data { bytes, texts });
            }
        }
    }

    fn end(&mut self) -> Piece {
        // Some servers leave out `[DONE]`; a finish reason says the same.
        if (self.seen.done || self.seen.finished) && !self.splitter.has_rest() {
            self.over = true;
            return Piece::End { cut: None, bytes: None, usage: self.seen.usage };
        }
        self.cut("broken_off")
    }

    fn cut(&mut self, why: &'static str) -> Piece {
        self.over = true;
        if self.seen.done {
            return Piece::End { cut: None, bytes: None, usage: self.seen.usage };
        }
        let message = "failed to finish the answer: the upstream broke off".to_owned();
        let error = ApiError::bad_gateway("upstream_broke_off", message);
        let bytes = Some(error_event(&error));
        Piece::End { cut: Some(why), bytes, usage: self.seen.usage }
    }

    /// Looks into events on their way; the usage event is taken out if the client did not ask.
    fn inspect(&mut self, whole: Bytes) -> (Bytes, Vec<ReplyText>) {
        let mut texts = Vec::new();
        let mut dropped: Vec<(usize, usize)> = Vec::new();
        let mut at = 0;
        for event in sse::events(&whole) {
            let start = at;
            at += event.len();
            if self.seen.event(event, &mut texts) && !self.shape.include_usage {
                dropped.push((start, at));
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

impl Seen {
    /// Notes one event; `true` if it is the usage event and nothing else.
    fn event(&mut self, event: &[u8], texts: &mut Vec<ReplyText>) -> bool {
        let Some(data) = sse::data(event) else { return false };
        if data == "[DONE]" {
            self.done = true;
            return false;
        }
        let Ok(json) = serde_json::from_str::<Value>(data) else { return false };
        collect_texts(&json, "delta", texts);
        let choices = json["choices"].as_array().map(Vec::as_slice).unwrap_or_default();
        self.finished |= choices.iter().any(|choice| choice["finish_reason"].is_string());
        if json["usage"].is_object() {
            self.usage = usage(&json["usage"]);
            return choices.is_empty();
        }
        false
    }
}

fn usage(json: &Value) -> Usage {
    Usage {
        prompt_tokens: json["prompt_tokens"].as_u64(),
        completion_tokens: json["completion_tokens"].as_u64(),
    }
}

/// Adds what every choice says, thinks and hands to tools; `part` is `message` or `delta`.
fn collect_texts(json: &Value, part: &str, texts: &mut Vec<ReplyText>) {
    let mut add = |channel, value: &Value| {
        if let Some(text) = value.as_str().filter(|text| !text.is_empty()) {
            texts.push(ReplyText { channel, text: text.to_owned() });
        }
    };
    let number = |value: &Value, place: usize| {
        value["index"].as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or(place as u32)
    };
    for (place, choice) in json["choices"].as_array().into_iter().flatten().enumerate() {
        let (index, said) = (number(choice, place), &choice[part]);
        add(Channel::Content(index), &said["content"]);
        for aside in ["reasoning_content", "reasoning", "refusal"] {
            add(Channel::Aside(index), &said[aside]);
        }
        for (place, call) in said["tool_calls"].as_array().into_iter().flatten().enumerate() {
            let channel = Channel::Arguments(index, number(call, place));
            add(channel, &call["function"]["arguments"]);
        }
    }
}

fn url(id: &UpstreamId, config: &OpenAiConfig) -> Result<reqwest::Url, UpstreamSetupError> {
    let base = &config.base_url;
    let address = format!("{}/chat/completions", base.as_text());
    let odd = || UpstreamSetupError::Address { id: id.clone(), address: address.clone() };
    let url = reqwest::Url::parse(&address).map_err(|_| odd())?;
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let same = url.scheme() == base.scheme
        && host == base.host
        && url.port_or_known_default() == Some(base.port);
    if same { Ok(url) } else { Err(odd()) }
}

fn bearer(key: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {key}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// The TLS client needs to be told once per process which cryptography to use.
fn install_tls_provider() {
    static INSTALLED: OnceLock<()> = OnceLock::new();
    INSTALLED.get_or_init(|| {
        // An error means that the program that embeds us has chosen already.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

#[cfg(test)]
mod tests;
