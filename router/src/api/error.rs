//! Errors as clients see them: OpenAI's shape, stable codes, no text of the request.

use hyper::StatusCode;
use serde_json::json;
use sluice_policies::{Refusal, RefusalCode};

/// The code where no upstream that policy allows can do what is asked.
const UNSUPPORTED: &str = "unsupported_by_upstream";

/// An error reply in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// HTTP status.
    pub status: StatusCode,
    /// OpenAI's error type: `invalid_request_error`, `server_error`, …
    pub kind: &'static str,
    /// Stable code for programs.
    pub code: Option<&'static str>,
    /// The field at fault.
    pub param: Option<String>,
    /// One sentence for a person.
    pub message: String,
    /// Seconds after which trying again makes sense.
    pub retry_after_s: Option<u32>,
}

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, code: &'static str, message: String) -> Self {
        ApiError { status, kind, code: Some(code), param: None, message, retry_after_s: None }
    }

    /// 400: the request is wrong and will stay wrong.
    pub fn invalid(param: impl Into<Option<String>>, message: impl Into<String>) -> Self {
        ApiError {
            status: StatusCode::BAD_REQUEST,
            kind: "invalid_request_error",
            code: None,
            param: param.into(),
            message: message.into(),
            retry_after_s: None,
        }
    }

    pub(super) fn invalid_header(name: &'static str, what: &str) -> Self {
        Self::invalid(name.to_owned(), format!("failed to read the header {name}: {what}"))
    }

    /// 400: the body is not JSON. Only the place is told; serde's own text may quote the body.
    pub fn broken_json(error: &serde_json::Error) -> Self {
        let (line, column) = (error.line(), error.column());
        let what = match error.classify() {
            serde_json::error::Category::Eof => "it ends too early",
            _ => "it is not valid JSON",
        };
        let mut e = Self::invalid(
            None,
            format!("failed to parse the body: {what} at line {line}, column {column}"),
        );
        e.code = Some("invalid_json");
        e
    }

    /// 404: no such endpoint.
    pub fn unknown_endpoint(method: &str) -> Self {
        let message = format!(
            "found no endpoint at this path for {method}; served are /v1/chat/completions, \
             /v1/completions, /v1/embeddings, /v1/messages, /v1/models and /v1/responses"
        );
        Self::new(StatusCode::NOT_FOUND, "invalid_request_error", "unknown_url", message)
    }

    /// 400: the request refers to something that a provider would have stored.
    pub fn stored_state(param: &str, what: &str) -> Self {
        let mut e = Self::invalid(param.to_owned(), format!("failed to serve {param}: {what}"));
        e.code = Some("stored_state_not_served");
        e
    }

    /// 404: nothing is stored that could be asked for by its id.
    pub fn not_stored() -> Self {
        let message = "found no response of this id: responses are not stored here".to_owned();
        Self::new(StatusCode::NOT_FOUND, "invalid_request_error", "not_stored", message)
    }

    /// 404: no such model.
    pub fn unknown_model() -> Self {
        let message = "found no model of this name".to_owned();
        Self::new(StatusCode::NOT_FOUND, "invalid_request_error", "model_not_found", message)
    }

    /// 405: the endpoint exists and wants another method.
    pub fn wrong_method(allowed: &str) -> Self {
        let message = format!("failed to serve this method: the endpoint takes {allowed}");
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "invalid_request_error",
            "method_not_allowed",
            message,
        )
    }

    /// 408: the body came too slowly.
    pub fn slow_body() -> Self {
        let message = "failed to read the body: it came too slowly".to_owned();
        Self::new(StatusCode::REQUEST_TIMEOUT, "invalid_request_error", "request_timeout", message)
    }

    /// 413: the body is longer than `limits.body`.
    pub fn body_too_large(bytes_max: u64) -> Self {
        let message = format!("expected a body of at most {bytes_max} bytes, got a longer one");
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "invalid_request_error",
            "request_too_large",
            message,
        )
    }

    /// 503: all places are taken.
    pub fn overloaded() -> Self {
        let message = "failed to admit the request: the gateway is at its limit".to_owned();
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "service_unavailable_error",
            "overloaded",
            message,
        )
        .retry_after(1)
    }

    /// 429: a limit of the caller, its tenant or the model.
    pub fn rate_limited(code: &'static str, message: String) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", code, message)
    }

    /// 500: our own fault; the details are in the log, without content.
    pub fn internal() -> Self {
        let message = "failed to answer: an internal error, see the gateway's log".to_owned();
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", "internal_error", message)
    }

    /// 502: the upstream gave no usable answer.
    pub fn bad_gateway(code: &'static str, message: String) -> Self {
        Self::new(StatusCode::BAD_GATEWAY, "server_error", code, message)
    }

    /// 504: the upstream took too long.
    pub fn gateway_timeout(message: String) -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, "server_error", "upstream_timeout", message)
    }

    /// 400: the prompt does not fit the model that would answer.
    pub fn context_length(message: String) -> Self {
        let mut e = Self::invalid("messages".to_owned(), message);
        e.code = Some("context_length_exceeded");
        e
    }

    /// 400: no upstream that policy allows can do what the request asks for.
    pub fn unsupported(param: &str, what: &str) -> Self {
        let mut e = Self::invalid(
            param.to_owned(),
            format!("failed to serve {param}: {what}, and policy allows no other upstream"),
        );
        e.code = Some(UNSUPPORTED);
        e
    }

    /// What policy refuses: 403 for good, 503 for now.
    pub fn refused(refusal: &Refusal) -> Self {
        let code = match refusal.code {
            RefusalCode::PolicyBlocked => "policy_blocked",
            RefusalCode::EdgeUnavailable => "edge_unavailable",
            RefusalCode::EdgeTooSlow => "edge_too_slow",
            RefusalCode::EdgeInadequate => "edge_inadequate",
            RefusalCode::AuditDown => "audit_down",
            RefusalCode::UpstreamUnavailable => "upstream_unavailable",
            RefusalCode::LacksCapability => UNSUPPORTED,
        };
        let (status, kind) = match refusal.code {
            RefusalCode::PolicyBlocked => (StatusCode::FORBIDDEN, "permission_error"),
            RefusalCode::LacksCapability => (StatusCode::BAD_REQUEST, "invalid_request_error"),
            _ => (StatusCode::SERVICE_UNAVAILABLE, "service_unavailable_error"),
        };
        let mut e = Self::new(status, kind, code, refusal.message.clone());
        // A model that is not good enough will not be better in five seconds.
        let passes = !matches!(
            refusal.code,
            RefusalCode::PolicyBlocked | RefusalCode::EdgeInadequate | RefusalCode::LacksCapability
        );
        e.retry_after_s = refusal.retry_after_s.or(passes.then_some(5));
        e
    }

    /// Tells the client when to come back.
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    /// The JSON body.
    pub fn body(&self) -> Vec<u8> {
        let body = json!({"error": {
            "message": self.message,
            "type": self.kind,
            "param": self.param,
            "code": self.code,
        }});
        body.to_string().into_bytes()
    }
}
