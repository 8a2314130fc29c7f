//! The traffic listener's endpoints, and admission.

use std::sync::Arc;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::{Method, Request as HttpRequest, Response, StatusCode, Version};
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::body::{self, WireBody};
use super::{Current, Server, cors};
use crate::api::{self, ApiError, ClientHeaders, Dialect, Hints, Request, Voice};
use crate::config::{Limits, Passthrough};
use crate::identity::{Caller, PeerNames};
use crate::metrics::{GaugeGuard, Metrics};
use crate::reply::Reply;

/// Bodies from this length on are parsed on a thread of their own.
const PARSE_INLINE_BYTES_MAX: usize = 64 << 10;

/// Which part of the places bodies of unknown callers may hold: one in so many.
const STRANGERS_SHARE: usize = 4;

/// Where clients of llama-server look whether it is there.
const HEALTH_PATH: &str = "/health";

/// Where models are listed.
const MODELS_PATH: &str = "/v1/models";

/// The endpoints and their places.
pub(crate) struct Traffic {
    server: Arc<Server>,
    places: Arc<Semaphore>,
    /// Those of the places in which bodies of unknown callers are waited for.
    strangers: Semaphore,
}

/// One request and what it is answered with.
struct Exchange<'a> {
    now: Arc<Current>,
    peer: Option<&'a PeerNames>,
    strangers: &'a Semaphore,
}

impl Traffic {
    pub(super) fn new(server: Arc<Server>, limits: Limits) -> Traffic {
        let places = limits.in_flight.min(Semaphore::MAX_PERMITS);
        let strangers = Semaphore::new((places / STRANGERS_SHARE).max(1));
        Traffic { server, places: Arc::new(Semaphore::new(places)), strangers }
    }

    pub(super) fn metrics(&self) -> Arc<Metrics> {
        self.server.gateway().metrics().clone()
    }

    /// Answers one request; always with `x-request-id`.
    pub(super) async fn answer(
        &self,
        request: HttpRequest<Incoming>,
        peer: Option<&PeerNames>,
    ) -> Response<WireBody> {
        let (now, began) = (self.server.current(), Instant::now());
        let exchange = Exchange { now, peer, strangers: &self.strangers };
        let version = request.version();
        let request_id = api::request_id(request.headers());
        let path = request.uri().path().to_owned();
        let to_anthropics = api::expects_anthropic(&path, request.headers());
        let list = &exchange.now.cors;
        let origin = cors::allowed(list, request.headers()).map(str::to_owned);
        let is_preflight =
            !list.is_empty() && cors::is_preflight(request.method(), request.headers());
        let (mut reply, held) = match self.admit(exchange.metrics()) {
            _ if is_preflight => (cors::preflight(origin.as_deref(), request.headers()), None),
            Err(error) => (exchange.turned_away("overloaded", &error), None),
            Ok(held) => (exchange.route(request, &path, &request_id).await, Some(held)),
        };
        if !to_anthropics {
            // OpenAI's own: until the head of the reply.
            reply.set("openai-processing-ms", &began.elapsed().as_millis().to_string());
        }
        if to_anthropics {
            reply = api::in_anthropics_words(reply, &path, &request_id);
        }
        if let Some(origin) = origin {
            cors::open(&mut reply, &origin);
        }
        wire(reply, &request_id, held, version)
    }

    fn admit(&self, metrics: &Metrics) -> Result<(OwnedSemaphorePermit, GaugeGuard), ApiError> {
        let place = self.places.clone().try_acquire_owned().map_err(|_| ApiError::overloaded())?;
        Ok((place, metrics.in_flight()))
    }
}

impl Exchange<'_> {
    fn metrics(&self) -> &Arc<Metrics> {
        self.now.gateway.metrics()
    }

    async fn route(&self, request: HttpRequest<Incoming>, path: &str, request_id: &str) -> Reply {
        let is_post = request.method() == Method::POST;
        for dialect in Dialect::ALL {
            let counts = dialect.count_path() == Some(path);
            match path == dialect.path() || counts {
                false => {}
                true if !is_post => return self.wrong_method("POST"),
                true if counts => return self.count(dialect, request, request_id).await,
                true => return self.ask(dialect, request, request_id).await,
            }
        }
        if path == HEALTH_PATH && request.method() == Method::GET {
            return self.health();
        }
        if path == MODELS_PATH {
            return match *request.method() {
                Method::GET => self.models(),
                _ => self.wrong_method("GET"),
            };
        }
        if let Some(name) = path.strip_prefix("/v1/models/") {
            return match *request.method() {
                Method::GET => self.model(name),
                _ => self.wrong_method("GET"),
            };
        }
        if let Some(to) = self.now.gateway.passthrough(path) {
            return match is_post {
                true => self.pass_on(to, request, request_id).await,
                false => self.wrong_method("POST"),
            };
        }
        let error = match path.strip_prefix("/v1/responses/") {
            Some(id) if id != "compact" => ApiError::not_stored(),
            _ => ApiError::unknown_endpoint(request.method().as_str()),
        };
        self.turned_away("endpoint", &error)
    }

    fn wrong_method(&self, allowed: &str) -> Reply {
        self.turned_away("method", &ApiError::wrong_method(allowed))
    }

    async fn ask(
        &self,
        dialect: Dialect,
        request: HttpRequest<Incoming>,
        request_id: &str,
    ) -> Reply {
        let read = move |bytes: Bytes, hints, caller| dialect.read_all(&bytes, hints, caller);
        match self.read(dialect.path(), request, request_id, read).await {
            Ok(mut asked) if asked.len() == 1 => {
                let (request, voice) = asked.remove(0);
                self.handle(request, |reply| voice.say(reply)).await
            }
            Ok(asked) => self.handle_all(asked).await,
            Err(error) => self.unread(&error),
        }
    }

    /// Passes a body on that no dialect knows, where the config and policy let it go.
    async fn pass_on(
        &self,
        to: &Passthrough,
        request: HttpRequest<Incoming>,
        request_id: &str,
    ) -> Reply {
        if request.uri().query().is_some() {
            // What stands in an address is not scanned, so it does not leave.
            let error = ApiError::invalid(None, "expected no query behind this path");
            return self.unread(&error);
        }
        let (path, to) = (to.path.clone(), to.clone());
        let content_type = request.headers().get(CONTENT_TYPE).cloned();
        let read = move |bytes, hints, caller| {
            api::passthrough::read(bytes, content_type, hints, caller, &to)
        };
        match self.read(&path, request, request_id, read).await {
            Ok(request) => self.handle(request, |reply| reply).await,
            Err(error) => self.unread(&error),
        }
    }

    /// Has the gateway answer what limits let in.
    async fn handle(&self, mut request: Request, say: impl FnOnce(Reply) -> Reply) -> Reply {
        let allowance = match self.now.gateway.limits().admit(&request).await {
            Ok(allowance) => Arc::new(allowance),
            Err(limited) => {
                self.metrics().reject("limited");
                return limited.reply();
            }
        };
        request.allowance = Some(allowance.clone());
        let mut reply = say(self.now.gateway.handle(request).await);
        allowance.put_on(&mut reply);
        reply
    }

    /// Has the gateway answer several requests of one body, which limits let in as one.
    async fn handle_all(&self, mut asked: Vec<(Request, Voice)>) -> Reply {
        let Some((first, _)) = asked.first() else { return Reply::error(&ApiError::internal()) };
        let admitted = self.now.gateway.limits().admit_several(first, asked.len() as u64).await;
        let allowance = match admitted {
            Ok(allowance) => Arc::new(allowance),
            Err(limited) => {
                self.metrics().reject("limited");
                return limited.reply();
            }
        };
        for (request, _) in &mut asked {
            request.allowance = Some(allowance.clone());
        }
        let gateway = self.now.gateway.clone();
        let ask = move |request| {
            let gateway = gateway.clone();
            async move { gateway.handle(request).await }
        };
        let mut reply = api::answer(asked, ask).await;
        allowance.put_on(&mut reply);
        reply
    }

    /// Counts a request's tokens here, whatever it holds: nothing leaves for that.
    async fn count(
        &self,
        dialect: Dialect,
        request: HttpRequest<Incoming>,
        request_id: &str,
    ) -> Reply {
        let read = move |bytes: Bytes, hints, caller| dialect.read_to_count(&bytes, hints, caller);
        let request = match self.read(dialect.path(), request, request_id, read).await {
            Ok(request) => request,
            Err(error) => return self.unread(&error),
        };
        // It is a request of its caller; its tokens are given back, since none is used.
        let allowance = match self.now.gateway.limits().admit(&request).await {
            Ok(allowance) => allowance,
            Err(limited) => {
                self.metrics().reject("limited");
                return limited.reply();
            }
        };
        match self.now.gateway.count_tokens(request).await {
            Ok(count) => {
                let json = dialect.counted(count.tokens).to_string();
                let mut reply = Reply::json(StatusCode::OK, json);
                reply.set("x-sluice-token-count", count.by);
                allowance.put_on(&mut reply);
                reply
            }
            Err(error) => self.unread(&error),
        }
    }

    async fn read<T: Send + 'static>(
        &self,
        path: &str,
        request: HttpRequest<Incoming>,
        request_id: &str,
        read: impl FnOnce(Bytes, Hints, Caller) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let callers = self.now.gateway.callers();
        let caller = callers.identify(request.headers(), self.peer).await;
        // Who sends slowly holds a place meanwhile: those whom nobody knows leave enough for the others.
        let is_stranger = caller.id.is_none() && callers.can_know_somebody();
        let waits = is_stranger.then(|| self.strangers.try_acquire()).transpose();
        let waits = waits.map_err(|_| ApiError::overloaded())?;
        let mut hints = Hints::read(request.headers(), path, request_id)?;
        let wanted = self.now.gateway.wanted_headers();
        let ours = callers.credential(request.headers());
        hints.client = ClientHeaders::read(request.headers(), wanted, ours.as_ref());
        let bytes = body::read(request.into_body(), self.now.body_bytes_max).await?;
        drop(waits);
        if bytes.len() <= PARSE_INLINE_BYTES_MAX {
            return read(bytes, hints, caller);
        }
        tokio::task::spawn_blocking(move || read(bytes, hints, caller))
            .await
            .unwrap_or_else(|_| Err(ApiError::internal()))
    }

    /// A request that could not be read as one, or for whose body there was no place.
    fn unread(&self, error: &ApiError) -> Reply {
        let is_invalid = error.status != StatusCode::SERVICE_UNAVAILABLE;
        self.turned_away(if is_invalid { "invalid" } else { "overloaded" }, error)
    }

    /// An error before a decision: there are no decision headers yet.
    fn turned_away(&self, reason: &str, error: &ApiError) -> Reply {
        self.metrics().reject(reason);
        Reply::error(error)
    }

    /// Whether somebody answers, as llama-server says it; more is on the listener of the probes.
    fn health(&self) -> Reply {
        let is_well =
            self.now.gateway.upstreams().iter().any(crate::upstream::Upstream::is_healthy);
        let (status, word) = match is_well {
            true => (StatusCode::OK, "ok"),
            false => (StatusCode::SERVICE_UNAVAILABLE, "error"),
        };
        Reply::json(status, json!({"status": word}).to_string())
    }

    fn models(&self) -> Reply {
        let models = self.now.gateway.models();
        let data: Vec<_> = models.iter().map(|(name, owner)| model_json(name, owner)).collect();
        Reply::json(StatusCode::OK, json!({"object": "list", "data": data}).to_string())
    }

    fn model(&self, name: &str) -> Reply {
        let models = self.now.gateway.models();
        // Clients write the slash of a name so: `org%2Fmodel`.
        let name = name.replace("%2F", "/").replace("%2f", "/");
        match models.iter().find(|(known, _)| *known == name) {
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
    version: Version,
) -> Response<WireBody> {
    reply.set("x-request-id", request_id);
    let mut response = Response::new(WireBody::new(reply.body, held, version));
    *response.status_mut() = reply.status;
    *response.headers_mut() = reply.headers;
    response
}
