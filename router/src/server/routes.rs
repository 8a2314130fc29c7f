//! The traffic listener's endpoints, and admission.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::{Method, Request as HttpRequest, Response, StatusCode};
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Server;
use super::body::{self, WireBody};
use crate::api::{self, ApiError, Hints, Request};
use crate::config::Limits;
use crate::metrics::{GaugeGuard, Metrics};
use crate::reply::Reply;

/// Bodies from this length on are parsed on a thread of their own.
const PARSE_INLINE_BYTES_MAX: usize = 64 << 10;

/// Where chat completions are asked for.
const CHAT_PATH: &str = "/v1/chat/completions";
/// Where models are listed.
const MODELS_PATH: &str = "/v1/models";

/// The endpoints and their places.
pub(crate) struct Traffic {
    server: Arc<Server>,
    limits: Limits,
    places: Arc<Semaphore>,
}

impl Traffic {
    pub(super) fn new(server: Arc<Server>, limits: Limits) -> Traffic {
        let places = limits.in_flight.min(Semaphore::MAX_PERMITS);
        Traffic { server, limits, places: Arc::new(Semaphore::new(places)) }
    }

    pub(super) fn metrics(&self) -> &Arc<Metrics> {
        self.server.gateway.metrics()
    }

    /// Answers one request; always with `x-request-id`.
    pub(super) async fn answer(&self, request: HttpRequest<Incoming>) -> Response<WireBody> {
        let request_id = api::request_id(request.headers());
        let (reply, held) = match self.admit() {
            Err(error) => (self.turned_away("overloaded", &error), None),
            Ok(held) => (self.route(request, &request_id).await, Some(held)),
        };
        wire(reply, &request_id, held)
    }

    fn admit(&self) -> Result<(OwnedSemaphorePermit, GaugeGuard), ApiError> {
        let place = self.places.clone().try_acquire_owned().map_err(|_| ApiError::overloaded())?;
        Ok((place, self.metrics().in_flight()))
    }

    async fn route(&self, request: HttpRequest<Incoming>, request_id: &str) -> Reply {
        let path = request.uri().path();
        match (path, request.method()) {
            (CHAT_PATH, &Method::POST) => self.chat(request, request_id).await,
            (CHAT_PATH, _) => self.turned_away("method", &ApiError::wrong_method("POST")),
            (MODELS_PATH, &Method::GET) => self.models(),
            (MODELS_PATH, _) => self.turned_away("method", &ApiError::wrong_method("GET")),
            _ => match path.strip_prefix("/v1/models/") {
                Some(name) => self.model(name),
                None => {
                    let error = ApiError::unknown_endpoint(request.method().as_str());
                    self.turned_away("endpoint", &error)
                }
            },
        }
    }

    async fn chat(&self, request: HttpRequest<Incoming>, request_id: &str) -> Reply {
        match self.read_chat(request, request_id).await {
            Ok(request) => self.server.gateway.handle(request).await,
            Err(error) => self.turned_away("invalid", &error),
        }
    }

    async fn read_chat(
        &self,
        request: HttpRequest<Incoming>,
        request_id: &str,
    ) -> Result<Request, ApiError> {
        let caller = self.server.gateway.callers().identify(request.headers());
        let mut hints = Hints::read(request.headers(), CHAT_PATH)?;
        hints.request_id = request_id.to_owned();
        let bytes = body::read(request.into_body(), self.limits.body).await?;
        if bytes.len() <= PARSE_INLINE_BYTES_MAX {
            return api::chat::read(&bytes, hints, caller);
        }
        tokio::task::spawn_blocking(move || api::chat::read(&bytes, hints, caller))
            .await
            .unwrap_or_else(|_| Err(ApiError::internal()))
    }

    /// An error before a decision: there are no decision headers yet.
    fn turned_away(&self, reason: &str, error: &ApiError) -> Reply {
        self.metrics().reject(reason);
        Reply::error(error)
    }

    fn models(&self) -> Reply {
        let models = self.server.gateway.models();
        let data: Vec<_> = models.iter().map(|(name, owner)| model_json(name, owner)).collect();
        Reply::json(StatusCode::OK, json!({"object": "list", "data": data}).to_string())
    }

    fn model(&self, name: &str) -> Reply {
        let models = self.server.gateway.models();
        match models.iter().find(|(known, _)| known == name) {
            Some((name, owner)) => Reply::json(StatusCode::OK, model_json(name, owner).to_string()),
            None => self.turned_away("model", &ApiError::unknown_model()),
        }
    }
}

fn model_json(name: &str, owner: &str) -> serde_json::Value {
    json!({"id": name, "object": "model", "created": 0, "owned_by": owner})
}

fn wire(
    mut reply: Reply,
    request_id: &str,
    held: Option<(OwnedSemaphorePermit, GaugeGuard)>,
) -> Response<WireBody> {
    reply.set("x-request-id", request_id);
    let mut response = Response::new(WireBody::new(reply.body, held));
    *response.status_mut() = reply.status;
    *response.headers_mut() = reply.headers;
    response
}
