//! The probe listener: `/livez` checks nothing, `/readyz` says whether requests can be answered,
//! `/metrics` is for Prometheus.

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::json;

use super::Server;

pub(super) fn answer(server: &Server, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return text(StatusCode::METHOD_NOT_ALLOWED, "this listener takes GET\n");
    }
    match request.uri().path() {
        "/livez" => text(StatusCode::OK, "ok\n"),
        "/readyz" | "/healthz" => ready(server),
        "/metrics" => {
            let gateway = &server.gateway;
            let mut response = text(StatusCode::OK, gateway.metrics().render(&gateway.snapshot()));
            let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
            response.headers_mut().insert(CONTENT_TYPE, kind);
            response
        }
        _ => text(StatusCode::NOT_FOUND, "there are /livez, /readyz and /metrics\n"),
    }
}

/// Ready means: not draining, and at least one upstream takes requests.
fn ready(server: &Server) -> Response<Full<Bytes>> {
    let gateway = &server.gateway;
    let now = gateway.snapshot();
    let ready = !server.is_draining() && now.upstreams.iter().any(|(_, healthy)| *healthy);
    let upstreams: serde_json::Map<_, _> = now
        .upstreams
        .iter()
        .map(|(name, healthy)| ((*name).to_owned(), json!(if *healthy { "ready" } else { "down" })))
        .collect();
    let detail = json!({
        "ready": ready,
        "draining": server.is_draining(),
        "policy": gateway.policy().current().digest(),
        "policy_reload": if now.policy_reload_failed { "failed; the last good set is in force" } else { "ok" },
        "offline": gateway.offline(),
        "audit": if now.audit_writable { "writable" } else { "down" },
        "upstreams": upstreams,
    });
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut response = text(status, detail.to_string());
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
