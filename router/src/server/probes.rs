//! The probe listener: `/livez` checks nothing, `/readyz` says whether requests can be answered,
//! `/metrics` is for Prometheus. Both have the names that other gateways and servers give them, too. It answers before there are policies, and says what is wrong with them.

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};

use super::{Server, Stage};
use crate::active_policy::Refused;
use crate::metrics::Metrics;

pub(super) fn answer(
    stage: &Stage,
    metrics: &Metrics,
    request: &Request<Incoming>,
) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return text(StatusCode::METHOD_NOT_ALLOWED, "this listener takes GET\n");
    }
    match (request.uri().path(), stage) {
        ("/livez" | "/health/liveness" | "/health/liveliness", _) => text(StatusCode::OK, "ok\n"),
        ("/readyz" | "/healthz" | "/health" | "/health/readiness", stage) => {
            let (status, detail) = detail(stage);
            typed(status, detail.to_string(), "application/json")
        }
        ("/metrics", Stage::Serving(server)) => shown(metrics.render(&server.gateway().snapshot())),
        ("/metrics", Stage::Starting(_)) => shown(metrics.render_at_start()),
        _ => text(StatusCode::NOT_FOUND, "there are /livez, /readyz and /metrics\n"),
    }
}

fn shown(metrics: String) -> Response<Full<Bytes>> {
    typed(StatusCode::OK, metrics, "text/plain; version=0.0.4; charset=utf-8")
}

/// Whether requests can be answered, and what there is to know about that.
pub(super) fn detail(stage: &Stage) -> (StatusCode, Value) {
    match stage {
        Stage::Serving(server) => ready(server),
        Stage::Starting(refused) => starting(refused.as_deref()),
    }
}

/// Nothing is served yet; without usable policies nothing will be.
fn starting(refused: Option<&Refused>) -> (StatusCode, Value) {
    let policy = json!({"digest": null, "refused": refused.map(Refused::detail)});
    let reload = refused.map_or("reading the files", |_| "failed; no policies are in force");
    let detail =
        json!({"ready": false, "starting": true, "policy": policy, "policy_reload": reload});
    (StatusCode::SERVICE_UNAVAILABLE, detail)
}

/// Ready means: not draining, and at least one upstream takes requests.
fn ready(server: &Server) -> (StatusCode, Value) {
    let gateway = server.gateway();
    let now = gateway.snapshot();
    let ready = !server.is_draining() && now.upstreams.iter().any(|(_, healthy)| *healthy);
    let upstreams: serde_json::Map<_, _> = now
        .upstreams
        .iter()
        .map(|(name, healthy)| ((*name).to_owned(), json!(if *healthy { "ready" } else { "down" })))
        .collect();
    let refused = gateway.policy().refused().is_some();
    let detail = json!({
        "ready": ready,
        "draining": server.is_draining(),
        "policy": gateway.policy().detail(),
        "policy_reload": if refused { "failed; the last good set is in force" } else { "ok" },
        "offline": gateway.offline().map(|offline| offline.in_words()),
        "audit": now.audit.in_words(),
        "taint": now.taint,
        "upstreams": upstreams,
    });
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, detail)
}

fn typed(status: StatusCode, body: String, kind: &'static str) -> Response<Full<Bytes>> {
    let mut response = text(status, body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
