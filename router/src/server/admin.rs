//! The admin listener: what an operator may see and do while requests go on.
//!
//! `GET /admin/v1/status`; `POST /admin/v1/offline` declares that there is no network, `DELETE
//! /admin/v1/offline` or `POST /admin/v1/online` takes that back; `POST /admin/v1/reload` reads config,
//! policies, keys and certificates again. A declared absence outlives a restart.
//!
//! Who may: whoever reaches the listener, which is on this machine's own address unless a bearer token or
//! client certificates guard it. A browser is never an operator: a request with an `Origin` is refused,
//! and without a token so is one that names a host, because a page can make its own name point here.
//!
//! Nothing here shows a request, a reply or a secret.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{PoisonError, RwLock};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{
    AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderValue, ORIGIN, RETRY_AFTER,
};
use hyper::{Method, Request, Response, StatusCode};
use ring::digest::{SHA256, digest};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use super::{Server, Stage, body, probes};
use crate::config::AdminListen;
use crate::identity::{PeerNames, constant_time_eq};
use crate::offline::Remembered;
use crate::reload::Report;

/// Longest body, bytes.
const BODY_BYTES_MAX: u64 = 64 << 10;
/// Shortest token, bytes: a guess must be hopeless.
const TOKEN_BYTES_MIN: usize = 16;

/// A question for a reload, and where its report goes.
pub(crate) type AskedReload = oneshot::Sender<Report>;

/// A token that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Its file cannot be read.
    #[error("failed to read listen.admin.token_file {path}")]
    Token {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// It is too easy to guess.
    #[error("expected at least {TOKEN_BYTES_MIN} bytes in listen.admin.token_file {0}, got fewer")]
    Short(PathBuf),
}

/// What guards the listener and what it works with.
pub(crate) struct Admin {
    token_file: Option<PathBuf>,
    /// SHA-256 of the token.
    token: RwLock<Option<[u8; 32]>>,
    reloads: mpsc::Sender<AskedReload>,
    remembered: Remembered,
}

/// Who asks.
pub(super) struct Who {
    pub(super) from: Option<SocketAddr>,
    pub(super) peer: Option<PeerNames>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Declaration {
    reason: String,
    by: String,
}

impl Admin {
    /// Reads the token.
    pub(crate) fn open(
        config: &AdminListen,
        reloads: mpsc::Sender<AskedReload>,
        remembered: Remembered,
    ) -> Result<Admin, AdminError> {
        let token_file = config.token_file.clone();
        let admin = Admin { token_file, token: RwLock::new(None), reloads, remembered };
        admin.reload()?;
        Ok(admin)
    }

    /// Reads the token again; if it cannot be used, the old one stays.
    pub(crate) fn reload(&self) -> Result<(), AdminError> {
        let Some(path) = &self.token_file else { return Ok(()) };
        let text = std::fs::read_to_string(path)
            .map_err(|source| AdminError::Token { path: path.clone(), source })?;
        let text = text.trim();
        if text.len() < TOKEN_BYTES_MIN {
            return Err(AdminError::Short(path.clone()));
        }
        *self.token.write().unwrap_or_else(PoisonError::into_inner) = Some(hash(text));
        Ok(())
    }

    /// Answers one request.
    pub(super) async fn answer(
        &self,
        request: Request<Incoming>,
        who: &Who,
        stage: &Stage,
    ) -> Response<Full<Bytes>> {
        if let Err((status, message)) = self.admit(request.headers()) {
            return error(status, message);
        }
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let known =
            ["/status", "/offline", "/online", "/reload"].map(|end| format!("/admin/v1{end}"));
        if !known.contains(&path) {
            return error(
                StatusCode::NOT_FOUND,
                "there are /admin/v1/status, offline, online, reload",
            );
        }
        match (method, path.as_str(), stage) {
            (Method::GET, "/admin/v1/status", stage) => self.status(stage),
            (Method::POST, "/admin/v1/reload", _) => self.ask_to_reload().await,
            (Method::POST, "/admin/v1/offline", Stage::Serving(server)) => {
                match declaration(request).await {
                    Ok(declaration) => self.declare(server, &declaration, who),
                    Err(message) => error(StatusCode::BAD_REQUEST, message),
                }
            }
            (Method::DELETE, "/admin/v1/offline", Stage::Serving(server))
            | (Method::POST, "/admin/v1/online", Stage::Serving(server)) => {
                self.resume(server, who)
            }
            (Method::POST | Method::DELETE, "/admin/v1/offline" | "/admin/v1/online", _) => {
                let mut response =
                    error(StatusCode::SERVICE_UNAVAILABLE, "requests are not served yet");
                response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("5"));
                response
            }
            _ => error(StatusCode::METHOD_NOT_ALLOWED, "this endpoint takes another method"),
        }
    }

    fn admit(&self, headers: &HeaderMap) -> Result<(), (StatusCode, &'static str)> {
        if headers.contains_key(ORIGIN) {
            return Err((StatusCode::FORBIDDEN, "pages in a browser are no operators"));
        }
        let Some(token) = *self.token.read().unwrap_or_else(PoisonError::into_inner) else {
            let host = headers.get(HOST).map(|host| host.to_str().unwrap_or_default());
            return match host.is_none_or(is_address) {
                true => Ok(()),
                false => {
                    Err((StatusCode::FORBIDDEN, "expected an address as the host, got a name"))
                }
            };
        };
        let shown = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let shown = shown.and_then(|value| value.split_once(' '));
        let is_right = shown.is_some_and(|(scheme, shown)| {
            scheme.eq_ignore_ascii_case("bearer") && constant_time_eq(&hash(shown.trim()), &token)
        });
        match is_right {
            true => Ok(()),
            false => Err((StatusCode::UNAUTHORIZED, "expected the operators' bearer token")),
        }
    }

    fn status(&self, stage: &Stage) -> Response<Full<Bytes>> {
        let (_, mut detail) = probes::detail(stage);
        detail["version"] = json!(env!("CARGO_PKG_VERSION"));
        if let Stage::Serving(server) = stage {
            detail["shared_state"] = match server.gateway().limits().shared_state() {
                None => Value::Null,
                Some(shared) => json!(if shared.is_up() { "up" } else { "away" }),
            };
        }
        response(StatusCode::OK, &detail)
    }

    async fn ask_to_reload(&self) -> Response<Full<Bytes>> {
        let (asked, report) = oneshot::channel();
        if self.reloads.try_send(asked).is_err() {
            return error(StatusCode::CONFLICT, "reloads are under way");
        }
        match report.await {
            Ok(report) => {
                let status = if report.problems.is_empty() {
                    StatusCode::OK
                } else {
                    StatusCode::UNPROCESSABLE_ENTITY
                };
                response(status, &json!({"reloaded": report.reloaded, "problems": report.problems}))
            }
            Err(_) => error(StatusCode::SERVICE_UNAVAILABLE, "the gateway is about to stop"),
        }
    }

    fn declare(&self, server: &Server, said: &Declaration, who: &Who) -> Response<Full<Bytes>> {
        let reason = if said.reason.is_empty() { "no reason was given" } else { &said.reason };
        let by = who.named(&said.by);
        if let Err(problem) = self.remembered.keep(reason, &by) {
            // What a restart would forget is worth a warning, not a refusal to close the door.
            tracing::error!(problem, "declared offline will not outlive a restart");
        }
        server.declare_offline(reason, &by);
        offline(server)
    }

    fn resume(&self, server: &Server, who: &Who) -> Response<Full<Bytes>> {
        if let Err(problem) = self.remembered.forget() {
            tracing::error!(problem, "a restart would declare offline again");
            return error(
                StatusCode::INTERNAL_SERVER_ERROR,
                "failed to forget the declaration, see the gateway's log; nothing has changed",
            );
        }
        server.resume(&who.named(""));
        offline(server)
    }
}

impl Who {
    /// What records and logs say of who asked; the name is the operator's own word.
    fn named(&self, name: &str) -> String {
        let from = match (&self.peer, self.from) {
            (Some(peer), _) => peer.first().to_owned(),
            (None, Some(from)) => from.ip().to_string(),
            (None, None) => "unknown".to_owned(),
        };
        if name.is_empty() { format!("an operator at {from}") } else { format!("{name} at {from}") }
    }
}

fn offline(server: &Server) -> Response<Full<Bytes>> {
    let words = server.gateway().offline().map(|offline| offline.in_words());
    response(StatusCode::OK, &json!({"offline": words}))
}

async fn declaration(request: Request<Incoming>) -> Result<Declaration, &'static str> {
    let body = body::read(request.into_body(), BODY_BYTES_MAX).await;
    let body = body.map_err(|_| "failed to read the body")?;
    if body.is_empty() {
        return Ok(Declaration::default());
    }
    serde_json::from_slice(&body).map_err(|_| "expected {\"reason\": \"…\", \"by\": \"…\"}")
}

/// Whether a `Host` is an address or this machine's own name, which no other name server answers for.
fn is_address(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost" || name.parse::<IpAddr>().is_ok()
}

fn hash(token: &str) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    hash
}

fn error(status: StatusCode, message: &str) -> Response<Full<Bytes>> {
    response(status, &json!({"error": {"message": message}}))
}

fn response(status: StatusCode, json: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(json.to_string())));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert("cache-control", HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admin(token: Option<&str>) -> Admin {
        let token = RwLock::new(token.map(hash));
        let remembered = Remembered::nowhere();
        Admin { token_file: None, token, reloads: mpsc::channel(1).0, remembered }
    }

    #[test]
    fn a_browser_is_no_operator_and_neither_is_a_wrong_token() {
        let token = "a-long-enough-token";
        for (token, headers, expected) in [
            (None, &[][..], 200),
            (None, &[("host", "127.0.0.1:8081")][..], 200),
            (None, &[("host", "[::1]:8081")][..], 200),
            (None, &[("host", "localhost:8081")][..], 200),
            (None, &[("host", "rebound.example")][..], 403),
            (None, &[("origin", "http://127.0.0.1:8081")][..], 403),
            (Some(token), &[("host", "sluice.internal")][..], 401),
            (Some(token), &[("authorization", "Bearer a-long-enough-tokem")][..], 401),
            (Some(token), &[("authorization", "Basic a-long-enough-token")][..], 401),
            (Some(token), &[("authorization", "Bearer a-long-enough-token")][..], 200),
            (
                Some(token),
                &[("authorization", "Bearer a-long-enough-token"), ("origin", "null")][..],
                403,
            ),
        ] {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.insert(*name, HeaderValue::from_static(value));
            }
            let got = admin(token).admit(&map).err().map_or(200, |(status, _)| status.as_u16());
            assert_eq!(got, expected, "{headers:?}");
        }
    }

    #[test]
    fn a_short_token_is_refused_and_the_old_one_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let config = AdminListen { token_file: Some(path.clone()), ..AdminListen::default() };
        let open = || Admin::open(&config, mpsc::channel(1).0, Remembered::nowhere());
        assert!(matches!(open(), Err(AdminError::Token { .. })));
        std::fs::write(&path, "short\n").unwrap();
        assert!(matches!(open(), Err(AdminError::Short(_))));
        std::fs::write(&path, "a-long-enough-token\n").unwrap();
        let admin = open().unwrap();
        std::fs::write(&path, "").unwrap();
        assert!(admin.reload().is_err());
        assert_eq!(*admin.token.read().unwrap(), Some(hash("a-long-enough-token")));
    }
}
