//! A server across the network, whatever it speaks.
//!
//! The only file that owns an HTTP client (`connect` builds it), and its only way out is
//! [`ServerUpstream::send`], which spends an [`EgressPermit`]: the address, the client's headers and the
//! bytes that are sent are those that were sealed with the permit's body.
//!
//! What goes out and what comes back is translated by the file of the server's protocol (`openai`,
//! `anthropic`); between the two everything is the internal form. Streams of chat completions are
//! passed through as they come, cut at the edges of events; those of a burst leave together. Usage is
//! always asked for, and taken out again if the client did not ask.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt, stream};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming as Body;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use hyper::{Method, Request, Response, StatusCode, Uri};
use serde_json::Value;
use sluice_policies::{AddressRanges, Endpoint, Wish};
use tokio::time::{Instant, timeout_at};

use super::connect::client::{Client, failure};
use super::connect::within::{Clients, NoClient};
use super::latency::Latency;
use super::retry::Retrier;
use super::seen::{Part, Said, Seen};
use super::sse::{self, Splitter};
use super::{Answer, AnswerBody, Piece, Shape, UpstreamError, UpstreamId, Usage};
use super::{anthropic, connect, openai, turn};
use crate::api::{ApiError, ChatBody, ClientHeaders};
use crate::breaker::Breaker;
use crate::capability::Capabilities;
use crate::config::{Protocol, ServerConfig, Timeouts};
use crate::permit::{EgressPermit, Errand, OutboundBody};
use crate::reply::error_event;
use crate::reply_scan::{Channel, ReplyText};

/// Longest whole reply that is held in memory, bytes.
const REPLY_BYTES_MAX: usize = 32 << 20;
/// Longest error reply that is passed on, bytes.
const ERROR_BYTES_MAX: usize = 64 << 10;
/// What comes this soon after what came before belongs to a burst. No model writes a token in this time.
const BURST_GAP_MAX: Duration = Duration::from_millis(1);
/// Longest that the beginning of a burst waits for the rest.
const BURST_TIME_MAX: Duration = Duration::from_millis(1);
/// A burst that has so many bytes goes on without more of it.
const BURST_BYTES_MAX: usize = 16 << 10;

/// A configured server.
pub struct ServerUpstream {
    id: UpstreamId,
    config: ServerConfig,
    clients: Clients,
    address: String,
    uris: Vec<(Endpoint, Uri)>,
    /// The key, the fixed headers, and what the protocol wants besides.
    headers: HeaderMap,
    /// Keeps requests away while it fails.
    pub breaker: Breaker,
    /// When what failed is asked again.
    pub(crate) retrier: Retrier,
    /// How soon its last answers began.
    pub(crate) latency: Latency,
    /// What it can do: its protocol's, and less where the config says so.
    pub capabilities: Capabilities,
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
    /// A file of its TLS settings cannot be used.
    #[error("upstream {id}: {field}: failed to use {}: {what}", path.display())]
    File {
        /// The upstream.
        id: UpstreamId,
        /// The field that names the file.
        field: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The TLS client could not be built.
    #[error("upstream {id}: failed to build the HTTP client")]
    Client {
        /// The upstream.
        id: UpstreamId,
        /// Why.
        #[source]
        source: rustls::Error,
    },
}

impl UpstreamSetupError {
    pub(super) fn file(id: &UpstreamId, field: &'static str, path: &Path, what: String) -> Self {
        UpstreamSetupError::File { id: id.clone(), field, path: path.to_owned(), what }
    }
}

impl ServerUpstream {
    /// Builds the client of one upstream.
    pub fn new(id: UpstreamId, config: ServerConfig) -> Result<ServerUpstream, UpstreamSetupError> {
        let odd = || {
            let (id, address) = (id.clone(), config.base_url.as_text());
            UpstreamSetupError::Address { id, address }
        };
        let url = connect::url(&config, "", "model").ok_or_else(odd)?;
        let headers = connect::headers(&config);
        let headers = headers.ok_or(UpstreamSetupError::Key { id: id.clone() })?;
        let clients = Clients::new(&id, &config)?;
        let address = url.origin().ascii_serialization();
        let uris = connect::fixed_uris(&config);
        let breaker = Breaker::new(config.breaker);
        let (retrier, latency) = (Retrier::new(config.retries.clone()), Latency::default());
        let embeddings = config.protocol == Protocol::OpenAi;
        let capabilities = Capabilities { embeddings, ..Capabilities::default() };
        Ok(ServerUpstream {
            id,
            config,
            clients,
            address,
            uris,
            headers,
            breaker,
            retrier,
            latency,
            capabilities,
        })
    }

    /// `scheme://host:port`, the port left out where it is the scheme's own.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Its name.
    pub fn id(&self) -> &UpstreamId {
        &self.id
    }

    /// Milliseconds until its last answers began, as far as it was asked of late.
    pub(super) fn begins_ms(&self) -> Option<u64> {
        let expected = self.latency.expected_ms(Instant::now());
        (expected >= 1.0).then_some(expected as u64)
    }

    /// Its settings.
    pub fn config(&self) -> &ServerConfig {
        &self.config
    }

    /// Translates a request into what this upstream gets; an error where its protocol has no words for
    /// what is asked.
    pub(crate) fn outbound(
        &self,
        chat: &ChatBody,
        client: &ClientHeaders,
    ) -> Result<OutboundBody, UpstreamError> {
        let model = self.model_name(&chat.model);
        let way = &self.config.connection;
        let headers = client.for_upstream(way);
        if let Some(raw) = &chat.raw {
            let (uri, content_type) = (self.uri(&raw.path, model)?, raw.content_type.clone());
            let errand = Errand { endpoint: None, content_type, uri, headers };
            return Ok(OutboundBody::seal(raw.bytes.clone(), errand));
        }
        let bytes = match self.config.protocol {
            Protocol::OpenAi => openai::body(chat, model, way)?,
            Protocol::Anthropic => anthropic::body(chat, model, way)?,
        };
        let fixed = self.uris.iter().find(|(endpoint, _)| *endpoint == chat.endpoint);
        let uri = match fixed {
            Some((_, uri)) => uri.clone(),
            None => self.uri(connect::path(self.config.protocol, chat.endpoint), model)?,
        };
        let errand = Errand {
            endpoint: Some(chat.endpoint),
            content_type: HeaderValue::from_static("application/json"),
            uri,
            headers,
        };
        Ok(OutboundBody::seal(bytes.into(), errand))
    }

    /// The whole address of a path, for a model.
    fn uri(&self, path: &str, model: &str) -> Result<Uri, UpstreamError> {
        connect::uri(&self.config, path, model).ok_or_else(connect::no_address)
    }

    /// The name that it knows a client's model by.
    pub(crate) fn model_name<'a>(&'a self, client_name: &'a str) -> &'a str {
        let listed = self.config.models.iter().find(|(name, _)| name == client_name);
        match (listed, &self.config.model) {
            (Some((_, server_name)), _) => server_name,
            (None, Some(standard)) => standard,
            // No server knows the virtual models: the first that it was given names for will do.
            (None, None) if Wish::named(client_name).is_some() => {
                self.config.models.first().map_or(client_name, |(_, server_name)| server_name)
            }
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
        let (upstream, errand, body, ranges) = permit.spend();
        assert!(upstream == self.id, "a permit for {upstream} was given to {}", self.id);
        let clock = Clock::start(self.config.timeouts);
        let (started, endpoint) = (Instant::now(), errand.endpoint);
        let client = self.client(&ranges)?;
        let response = self.request(client, errand, body, shape, clock).await?;
        self.latency.note(started.elapsed(), Instant::now());
        let incoming = Incoming::new(self.config.protocol, endpoint);
        let status = response.status();
        if status.is_success() && endpoint.is_none() {
            return raw(response, clock).await;
        }
        if status.is_success() && shape.stream {
            return events(response, incoming, shape, clock);
        }
        if status.is_success() {
            return whole(response, incoming, clock).await;
        }
        failed(response, incoming, clock).await
    }

    /// The client for where this may be sent.
    fn client(&self, ranges: &AddressRanges) -> Result<Client, UpstreamError> {
        self.clients.within(ranges, &self.id, &self.config).map_err(|error| match error {
            NoClient::Outside(outside) => UpstreamError::Outside(Box::new(outside)),
            NoClient::Setup(error) => UpstreamError::NoClient(Box::new(error)),
        })
    }

    async fn request(
        &self,
        client: Client,
        errand: Errand,
        body: Bytes,
        shape: Shape,
        clock: Clock,
    ) -> Result<Response<Body>, UpstreamError> {
        let accept = match errand.endpoint {
            None => "*/*",
            Some(_) if shape.stream => "text/event-stream",
            Some(_) => "application/json",
        };
        // The client's first: what the platform fixed replaces them.
        let mut headers = errand.headers;
        headers.extend(self.headers.clone());
        headers.insert(CONTENT_TYPE, errand.content_type);
        headers.insert(ACCEPT, HeaderValue::from_static(accept));
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = errand.uri;
        *request.headers_mut() = headers;
        match timeout_at(clock.first_byte, client.request(request)).await {
            Err(_) => Err(UpstreamError::Timeout("no first byte of the answer")),
            Ok(answer) => answer.map_err(failure),
        }
    }
}

/// Why a reply was cut whose connection broke.
const BROKEN_OFF: &str = "broken_off";

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
    async fn chunk(&self, body: &mut Body) -> Chunk {
        let deadline = (Instant::now() + self.idle).min(self.total);
        timeout_at(deadline, next_chunk(body)).await.unwrap_or(Err("timeout"))
    }
}

/// The next bytes of a body, however long they take; what else comes with it is passed over.
async fn next_chunk(body: &mut Body) -> Chunk {
    while let Some(frame) = body.frame().await {
        if let Ok(bytes) = frame.map_err(|_| BROKEN_OFF)?.into_data() {
            return Ok(Some(bytes));
        }
    }
    Ok(None)
}

/// The way of a server's replies into the internal form.
enum Incoming {
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
                return if said.is_object() { Ok((said, bytes)) } else { Err(NO_OBJECT) };
            }
            Incoming::Completions => openai::chat_of_completion(object(text)?, "message"),
            Incoming::Messages(_) => anthropic::completion(&object(text)?)
                .ok_or(UpstreamError::BadReply("it is not a message"))?,
        };
        Ok((Said::of(&json), json.to_string().into()))
    }

    /// Whole events.
    fn events(&mut self, bytes: Bytes) -> Bytes {
        match self {
            Incoming::AsIs => bytes,
            Incoming::Completions => openai::chat_of_completion_events(&bytes),
            Incoming::Messages(reader) => reader.push(&bytes),
        }
    }

    /// The error that an upstream answered with; `None` if it is not one.
    fn error(&self, bytes: Bytes) -> Option<Bytes> {
        match self {
            Incoming::AsIs | Incoming::Completions => {
                serde_json::from_slice::<serde::de::IgnoredAny>(&bytes).ok().map(|_| bytes)
            }
            Incoming::Messages(_) => anthropic::error(&bytes),
        }
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
    let texts = text.map(|text| ReplyText::new(Channel::Aside(0), text)).into_iter().collect();
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
    mut response: Response<Body>,
    incoming: Incoming,
    clock: Clock,
) -> Result<Answer, UpstreamError> {
    let status = response.status();
    match status.as_u16() {
        401 | 403 | 407 => Err(UpstreamError::Credentials(status)),
        300..=399 => Err(UpstreamError::BadReply("it is a redirect")),
        408 | 429 | 500..=599 => {
            let retry_after_s = retry_after_s(response.headers(), jiff::Timestamp::now());
            Err(UpstreamError::Status { status, retry_after_s })
        }
        _ => {
            let bytes = collect(response.body_mut(), clock, ERROR_BYTES_MAX).await?;
            let bytes = incoming
                .error(bytes)
                .ok_or(UpstreamError::Status { status, retry_after_s: None })?;
            let body = AnswerBody::Whole { bytes, usage: Usage::default(), texts: Vec::new() };
            Ok(Answer { status, body })
        }
    }
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

fn events(
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

/// Bytes of a reply's body, `None` at its end, or why it was cut.
type Chunk = Result<Option<Bytes>, &'static str>;

impl Relay {
    async fn next(&mut self) -> Option<Piece> {
        if self.over {
            return None;
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
            if self.seen.broken {
                return Some(self.cut("bad_event"));
            }
            if !bytes.is_empty() {
                return Some(Piece::Data { bytes, texts });
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

#[cfg(test)]
mod tests;

#[cfg(test)]
mod timeouts;
