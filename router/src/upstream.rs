//! What can answer a request: the engine in this process or a server across the network.
//!
//! A closed set, so an enum and no trait. An upstream takes a request that the gateway has already
//! decided about and gives back an `Answer`: a whole body or a stream of pieces that ends with
//! exactly one end. It never decides, retries or falls back; the gateway does.

mod anthropic;
mod connect;
mod edge;
mod latency;
mod openai;
pub(crate) mod retry;
mod seen;
mod server;
pub(crate) mod sse;
mod turn;

use std::borrow::Cow;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::Stream;
use hyper::StatusCode;
use hyper::header::HeaderValue;
use hyper_util::client::legacy;
use serde::Serialize;
use sluice_engine::EngineError;
use sluice_policies::UpstreamFacts;

pub(crate) use connect::install_tls_provider;
pub use edge::EdgeUpstream;
pub(crate) use edge::{InQueue, Urgency};
pub use server::{ServerUpstream, UpstreamSetupError};

use crate::api::{ApiError, ChatBody};
use crate::capability::{Capabilities, Needs};
use crate::reply_scan::ReplyText;

/// The name of an upstream in `sluice.yaml`. Cloning is cheap.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UpstreamId(Arc<str>);

impl UpstreamId {
    /// Names an upstream.
    pub fn new(name: &str) -> Self {
        UpstreamId(name.into())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for UpstreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

impl fmt::Display for UpstreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One configured upstream. Cloning is cheap.
#[derive(Clone)]
pub enum Upstream {
    /// The engine in this process.
    Edge(Arc<EdgeUpstream>),
    /// A server across the network.
    Server(Arc<ServerUpstream>),
}

impl Upstream {
    /// Its name.
    pub fn id(&self) -> &UpstreamId {
        match self {
            Upstream::Edge(edge) => edge.id(),
            Upstream::Server(server) => server.id(),
        }
    }

    /// The server, if it is one.
    pub(crate) fn server(&self) -> Option<&ServerUpstream> {
        match self {
            Upstream::Edge(_) => None,
            Upstream::Server(server) => Some(server),
        }
    }

    /// Whether what it knows still stands in its files.
    pub(crate) fn is_current(&self) -> bool {
        self.server().is_none_or(ServerUpstream::is_current)
    }

    /// The name that it knows a client's model by; the edge has one model.
    pub(crate) fn model_name<'a>(&'a self, client_name: &'a str) -> &'a str {
        match self {
            Upstream::Edge(edge) => &edge.engine().info().name,
            Upstream::Server(server) => server.model_name(client_name),
        }
    }

    /// Whether a request could be sent to it now.
    pub fn is_healthy(&self) -> bool {
        match self {
            Upstream::Edge(edge) => edge.is_healthy(),
            Upstream::Server(server) => server.breaker.allows(),
        }
    }

    /// `scheme://host:port`; empty for the edge.
    pub fn address(&self) -> &str {
        match self {
            Upstream::Edge(_) => "",
            Upstream::Server(server) => server.address(),
        }
    }

    /// What its config asks for that makes replies worse for speed; only the edge's is known.
    pub fn lossy(&self) -> &[String] {
        match self {
            Upstream::Edge(edge) => &edge.engine().info().lossy,
            Upstream::Server(_) => &[],
        }
    }

    /// What it can do.
    pub fn capabilities(&self) -> &Capabilities {
        match self {
            Upstream::Edge(edge) => &edge.capabilities,
            Upstream::Server(server) => &server.capabilities,
        }
    }

    /// Takes away what its config denies it.
    ///
    /// Panics if it has been cloned before (caller bug).
    pub fn narrow(&mut self, config: &Capabilities) {
        let capabilities = match self {
            Upstream::Edge(edge) => Arc::get_mut(edge).map(|edge| &mut edge.capabilities),
            Upstream::Server(server) => Arc::get_mut(server).map(|server| &mut server.capabilities),
        };
        let capabilities = capabilities.expect("upstreams are narrowed before they are shared");
        *capabilities = config.within(capabilities);
    }

    /// What a decision about a request may know of it now.
    pub fn facts_for(&self, needs: &Needs) -> UpstreamFacts {
        UpstreamFacts { lacks: needs.lacking(self.capabilities()), ..self.facts() }
    }

    /// What a decision may know of it now.
    pub fn facts(&self) -> UpstreamFacts {
        let (id, healthy) = (self.id().as_str(), self.is_healthy());
        match self {
            Upstream::Server(server) => {
                let url = &server.config().base_url;
                UpstreamFacts {
                    healthy,
                    quality: server.capabilities.quality,
                    begins_ms: server.begins_ms(),
                    ..UpstreamFacts::server(id, &url.scheme, &url.host, url.port)
                }
            }
            Upstream::Edge(edge) => {
                let forecast = edge.forecast();
                let first_token_ms = u64::try_from(forecast.first_token.as_millis()).ok();
                UpstreamFacts {
                    healthy,
                    quality: Some(edge.quality()),
                    first_token_ms,
                    tokens_per_second: Some(forecast.tokens_per_second).filter(|t| t.is_finite()),
                    ..UpstreamFacts::edge(id)
                }
            }
        }
    }
}

/// What an upstream gives back.
pub(crate) struct Answer {
    /// The HTTP status for the client.
    pub(crate) status: StatusCode,
    /// Body, whole or in pieces.
    pub(crate) body: AnswerBody,
}

/// The body of an answer.
pub(crate) enum AnswerBody {
    /// All of it, JSON.
    Whole {
        /// The bytes for the client.
        bytes: Bytes,
        /// What the upstream counted.
        usage: Usage,
        /// The reply's texts, to be scanned and remembered.
        texts: Vec<ReplyText>,
    },
    /// What a passthrough brought, as it came.
    Raw {
        /// The bytes for the client.
        bytes: Bytes,
        /// What they are.
        content_type: HeaderValue,
        /// What the upstream counted, if it says so as dialects do.
        usage: Usage,
        /// The reply's texts, to be scanned.
        texts: Vec<ReplyText>,
    },
    /// Server-sent events, pulled as fast as the client reads. Dropping it cancels the upstream.
    Events(Events),
}

/// The pieces of a streamed answer: data, then exactly one end.
pub(crate) type Events = Pin<Box<dyn Stream<Item = Piece> + Send>>;

/// One step of a streamed answer.
pub(crate) enum Piece {
    /// Whole events for the client.
    Data {
        /// The bytes as they are sent.
        bytes: Bytes,
        /// The reply's texts in them.
        texts: Vec<ReplyText>,
    },
    /// The stream is over.
    End {
        /// `None` if the reply is complete, else why it was cut.
        cut: Option<&'static str>,
        /// Last bytes for the client: an error event, if it was cut.
        bytes: Option<Bytes>,
        /// What the upstream counted.
        usage: Usage,
    },
}

/// Tokens as the upstream counted them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Usage {
    pub(crate) prompt_tokens: Option<u64>,
    pub(crate) completion_tokens: Option<u64>,
    /// Prompt tokens that were not computed again.
    pub(crate) cached_tokens: Option<u64>,
}

/// How the client wants its answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// As server-sent events.
    pub(crate) stream: bool,
    /// With a usage event at the end.
    pub(crate) include_usage: bool,
}

/// Why a connection took too long to stand: nothing was sent.
pub(crate) const NO_CONNECTION: &str = "no connection";

/// Why an upstream gave no answer. Nothing was passed to the client, so another may be asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpstreamError {
    /// No connection: refused, unknown host, TLS failure. Nothing was sent.
    #[error("failed to reach the upstream")]
    NoConnection(#[source] legacy::Error),
    /// Its name leads outside the address ranges that compliance vouches for. Nothing was sent.
    #[error(
        "failed to reach the upstream: its name leads outside the address ranges that are vouched for"
    )]
    Outside(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Its files have changed since the start and make no client any more. Nothing was sent.
    #[error("failed to reach the upstream")]
    NoClient(#[source] Box<UpstreamSetupError>),
    /// The connection broke before an answer, or what came was no HTTP.
    #[error("failed to reach the upstream")]
    Unreachable(#[source] legacy::Error),
    /// Its breaker is open: it failed too often to be asked.
    #[error("the upstream is left alone after repeated failures")]
    Resting,
    /// It took too long.
    #[error("failed to get an answer in time: {0}")]
    Timeout(&'static str),
    /// It answered with an error of its own.
    #[error("the upstream answered with status {status}")]
    Status {
        /// Its status.
        status: StatusCode,
        /// Its `Retry-After`, seconds.
        retry_after_s: Option<u32>,
    },
    /// It does not accept our key.
    #[error("the upstream does not accept the configured key (status {0})")]
    Credentials(StatusCode),
    /// Its answer is not what was asked for.
    #[error("the upstream's answer is unusable: {0}")]
    BadReply(&'static str),
    /// The engine gave up or cannot take the request.
    #[error("the embedded engine failed")]
    Engine(#[source] std::sync::Arc<sluice_engine::EngineError>),
    /// The edge has no place left for requests of this kind.
    #[error("the embedded engine has no place left for {what}: {waiting} requests wait")]
    Crowded {
        /// Which requests.
        what: &'static str,
        /// How many wait.
        waiting: usize,
        /// When those are worked off, seconds.
        retry_after_s: u32,
    },
    /// The request asks for what this upstream cannot do.
    #[error("the upstream cannot serve {param}")]
    Unsupported {
        /// The field.
        param: Cow<'static, str>,
        /// Why not.
        what: Cow<'static, str>,
    },
    /// A field has a value that no upstream would take.
    #[error("the request is invalid")]
    Invalid {
        /// The field.
        param: Cow<'static, str>,
        /// What was expected.
        what: String,
    },
}

impl UpstreamError {
    /// Stable code for audit and metrics.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            UpstreamError::NoConnection(_)
            | UpstreamError::Unreachable(_)
            | UpstreamError::NoClient(_) => "unreachable",
            UpstreamError::Outside(_) => "address_not_vouched",
            UpstreamError::Resting => "resting",
            UpstreamError::Timeout(_) => "timeout",
            UpstreamError::Status { .. } => "upstream_status",
            UpstreamError::Credentials(_) => "upstream_credentials",
            UpstreamError::BadReply(_) => "bad_reply",
            UpstreamError::Engine(_) => "engine",
            UpstreamError::Crowded { .. } => "crowded",
            UpstreamError::Unsupported { .. } => "unsupported",
            UpstreamError::Invalid { .. } => "invalid_request",
        }
    }

    /// The innermost cause, for the log: "Connection refused" says more than "unreachable".
    pub(crate) fn root_cause(&self) -> Option<String> {
        let first = std::error::Error::source(self)?;
        let last = std::iter::successors(Some(first), |cause| cause.source()).last();
        last.map(ToString::to_string)
    }

    /// The upstream's status, if it gave one.
    pub(crate) fn status(&self) -> Option<u16> {
        match self {
            UpstreamError::Status { status, .. } | UpstreamError::Credentials(status) => {
                Some(status.as_u16())
            }
            _ => None,
        }
    }

    /// Whether asking another upstream may help; a wrong request stays wrong everywhere.
    pub(crate) fn falls_back(&self) -> bool {
        match self {
            UpstreamError::Invalid { .. } => false,
            UpstreamError::Engine(error) => !matches!(**error, EngineError::InvalidRequest(_)),
            _ => true,
        }
    }

    /// Whether the same request may succeed at the same upstream a moment later.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            UpstreamError::Invalid { .. } | UpstreamError::Unsupported { .. } => false,
            UpstreamError::Engine(error) => !matches!(
                **error,
                EngineError::ContextLengthExceeded { .. } | EngineError::InvalidRequest(_)
            ),
            _ => true,
        }
    }

    /// Whether the upstream is to blame, for its breaker.
    pub(crate) fn counts_against(&self) -> bool {
        match self {
            UpstreamError::NoConnection(_)
            | UpstreamError::Unreachable(_)
            | UpstreamError::NoClient(_)
            | UpstreamError::Outside(_)
            | UpstreamError::Timeout(_)
            | UpstreamError::BadReply(_) => true,
            // "Forbidden" may be said of one model, or of one request.
            UpstreamError::Credentials(status) => *status != StatusCode::FORBIDDEN,
            UpstreamError::Status { status, .. } => status.is_server_error(),
            _ => false,
        }
    }

    /// The same, with the field at fault as the client of this body knows it.
    pub(crate) fn naming_the_field_of(self, chat: &ChatBody) -> UpstreamError {
        let named = |param: Cow<'static, str>| match chat.client_place(&param) {
            Some(native) => native.into(),
            None => param,
        };
        match self {
            UpstreamError::Unsupported { param, what } => {
                UpstreamError::Unsupported { param: named(param), what }
            }
            UpstreamError::Invalid { param, what } => {
                UpstreamError::Invalid { param: named(param), what }
            }
            other => other,
        }
    }

    /// What the client is told if nothing else answers.
    pub(crate) fn to_api(&self) -> ApiError {
        match self {
            UpstreamError::Timeout(_) => ApiError::gateway_timeout(self.to_string()),
            UpstreamError::Status { status, retry_after_s } if status.as_u16() == 429 => {
                let mut error = ApiError::bad_gateway("rate_limit_exceeded", self.to_string());
                error.status = *status;
                error.kind = "rate_limit_error";
                error.retry_after_s = *retry_after_s;
                error
            }
            UpstreamError::Status { retry_after_s: Some(seconds), .. } => {
                let error = ApiError::bad_gateway("upstream_unavailable", self.to_string());
                error.retry_after(*seconds)
            }
            UpstreamError::Unsupported { param, what } => ApiError::unsupported(param, what),
            UpstreamError::Invalid { param, what } => {
                ApiError::invalid(param.clone().into_owned(), what.clone())
            }
            UpstreamError::Engine(error) => engine_error(error),
            UpstreamError::Crowded { retry_after_s, .. } => {
                let mut busy = ApiError::overloaded().retry_after(*retry_after_s);
                busy.message = self.to_string();
                busy
            }
            UpstreamError::Outside(_) => {
                ApiError::bad_gateway("address_not_vouched", self.to_string())
            }
            _ => ApiError::bad_gateway("upstream_unavailable", self.to_string()),
        }
    }
}

fn engine_error(error: &EngineError) -> ApiError {
    match error {
        EngineError::ContextLengthExceeded { .. } => ApiError::context_length(error.to_string()),
        // The engine begins with the field's name.
        EngineError::InvalidRequest(what) => match what.split_once(": ") {
            Some((field, _)) if !field.contains(' ') => {
                ApiError::invalid(field.to_owned(), what.clone())
            }
            _ => ApiError::invalid(None, what.clone()),
        },
        _ => ApiError::internal(),
    }
}
