//! The HTTP client of one upstream: how it connects, whom it believes, and who we are to it.
//!
//! It is hyper's own, with nothing around it: it follows no redirect, reads no proxy variable, adds no header
//! but `host`, and sends a request twice only if the connection had closed before the first byte. Bytes go to
//! the address that policy compared. A proxy, authorities and a certificate of our own are what the upstream's
//! section names and nothing else; without named authorities those of the system are believed.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryFutureExt;
use http_body_util::Full;
use hyper::Uri;
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::BuilderVerifierExt;
use sluice_policies::AddressRanges;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tower_service::Service;

use super::install_tls_provider;
use super::within::{Outside, Resolver};
use crate::config::{ClientCert, ServerConfig};
use crate::upstream::{NO_CONNECTION, UpstreamError, UpstreamId, UpstreamSetupError};

/// Sends requests to one upstream, over connections that it keeps. Cloning is cheap.
pub(crate) type Client = legacy::Client<Connector, Full<Bytes>>;

/// A connection that nobody used for so long is closed.
const IDLE_TIME_MAX: Duration = Duration::from_secs(60);
/// A connection that was silent for so long is asked whether the other side is there, and again.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// How often, until it counts as broken.
const KEEPALIVE_PROBES: u32 = 3;
/// What nobody acknowledges for so long is lost, and the connection with it.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED_TIME_MAX: Duration = Duration::from_secs(30);

/// What we offer to speak over TLS, the best first.
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Whom a server is trusted by, and who we are: what `ca_file` and `client_cert` held when they were read.
pub(super) struct Certificates {
    authorities: Option<RootCertStore>,
    identity: Option<Identity>,
    /// The files as they were read.
    files: Vec<(PathBuf, Option<Vec<u8>>)>,
}

struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Certificates {
    /// Reads the files that an upstream's section names.
    pub(super) fn read(
        id: &UpstreamId,
        config: &ServerConfig,
    ) -> Result<Certificates, UpstreamSetupError> {
        let way = &config.connection;
        let file = |path: &Path| (path.to_owned(), std::fs::read(path).ok());
        // Looked at first: a file that changes meanwhile will count as another.
        let files = way.files().into_iter().map(file).collect();
        Ok(Certificates {
            files,
            authorities: way.ca_file.as_ref().map(|file| authorities(id, file)).transpose()?,
            identity: way.client_cert.as_ref().map(|files| identity(id, files)).transpose()?,
        })
    }

    /// Whether the files still hold what was read.
    pub(super) fn are_current(&self) -> bool {
        self.files.iter().all(|(path, read)| std::fs::read(path).ok() == *read)
    }

    /// The settings of TLS with them.
    fn tls(&self) -> Result<ClientConfig, rustls::Error> {
        install_tls_provider();
        let builder = ClientConfig::builder();
        let builder = match &self.authorities {
            Some(authorities) => builder.with_root_certificates(authorities.clone()),
            None => builder.with_platform_verifier()?,
        };
        match &self.identity {
            Some(Identity { chain, key }) => {
                builder.with_client_auth_cert(chain.clone(), key.clone_key())
            }
            None => Ok(builder.with_no_client_auth()),
        }
    }
}

fn authorities(id: &UpstreamId, file: &Path) -> Result<RootCertStore, UpstreamSetupError> {
    let wrong = |what: String| UpstreamSetupError::file(id, "ca_file", file, what);
    let pem = std::fs::read(file).map_err(|e| wrong(e.to_string()))?;
    let mut all = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|_| wrong("it is not PEM".into()))?;
        all.add(certificate).map_err(|e| wrong(e.to_string()))?;
    }
    // An empty list would trust nobody, and every request would fail with a riddle.
    if all.is_empty() { Err(wrong("it holds no certificate".into())) } else { Ok(all) }
}

fn identity(id: &UpstreamId, files: &ClientCert) -> Result<Identity, UpstreamSetupError> {
    let read = |field, file: &Path| {
        let wrong = |e: io::Error| UpstreamSetupError::file(id, field, file, e.to_string());
        std::fs::read(file).map_err(wrong)
    };
    let cert = read("client_cert.cert", &files.cert)?;
    let key = read("client_cert.key", &files.key)?;
    let what = "expected certificates in the one and a private key in the other, as PEM";
    let wrong = || UpstreamSetupError::file(id, "client_cert", &files.cert, what.into());
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&cert).collect();
    let chain = chain.ok().filter(|chain| !chain.is_empty()).ok_or_else(wrong)?;
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|_| wrong())?;
    Ok(Identity { chain, key })
}

/// Builds the client of one upstream, which connects to addresses in the ranges alone.
pub(super) fn client(
    id: &UpstreamId,
    config: &ServerConfig,
    certificates: &Certificates,
    ranges: &AddressRanges,
) -> Result<Client, UpstreamSetupError> {
    let connector = connector(id, config, certificates, ranges)?;
    Ok(legacy::Client::builder(TokioExecutor::new())
        .pool_idle_timeout(IDLE_TIME_MAX)
        .pool_timer(TokioTimer::new())
        .build(connector))
}

/// What opens the client's connections.
pub(super) fn connector(
    id: &UpstreamId,
    config: &ServerConfig,
    certificates: &Certificates,
    ranges: &AddressRanges,
) -> Result<Connector, UpstreamSetupError> {
    let failed = |source| UpstreamSetupError::Client { id: id.clone(), source };
    // What is said to a proxy is HTTP/1.1; a server chooses.
    let to_proxy = certificates.tls().map_err(failed)?;
    let mut to_server = to_proxy.clone();
    to_server.alpn_protocols = ALPN.map(Vec::from).to_vec();
    let way = match &config.connection.proxy {
        None => Way::Direct(HttpsConnector::from((tcp(ranges), to_server))),
        Some(proxy) => {
            let address = proxy.as_text();
            let odd = |_| UpstreamSetupError::Address { id: id.clone(), address: address.clone() };
            let proxy: Uri = address.parse().map_err(odd)?;
            let tunnel = Tunnel::new(proxy, HttpsConnector::from((tcp(ranges), to_proxy)));
            Way::Proxy(Box::new(HttpsConnector::from((tunnel, to_server))))
        }
    };
    Ok(Connector { way, time_max: config.timeouts.connect })
}

/// Connects to the addresses in the ranges that a name leads to.
fn tcp(ranges: &AddressRanges) -> HttpConnector<Resolver> {
    let mut tcp = HttpConnector::new_with_resolver(Resolver::new(ranges.clone()));
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_keepalive(Some(KEEPALIVE));
    tcp.set_keepalive_interval(Some(KEEPALIVE));
    tcp.set_keepalive_retries(Some(KEEPALIVE_PROBES));
    #[cfg(target_os = "linux")]
    tcp.set_tcp_user_timeout(Some(UNACKNOWLEDGED_TIME_MAX));
    tcp
}

/// Opens the connections of a client, each within a time.
#[derive(Clone)]
pub(crate) struct Connector {
    way: Way,
    time_max: Duration,
}

type Direct = HttpsConnector<HttpConnector<Resolver>>;

#[derive(Clone)]
enum Way {
    Direct(Direct),
    /// Through a proxy, which is told the server's name and sees no more.
    Proxy(Box<HttpsConnector<Tunnel<Direct>>>),
}

/// A connection was not there in time.
#[derive(Debug, thiserror::Error)]
#[error("failed to connect in time")]
struct TooSlow;

/// TCP, maybe TLS to a proxy, maybe TLS to the server.
type Connection = MaybeHttpsStream<MaybeHttpsStream<TokioIo<TcpStream>>>;
type BoxError = Box<dyn Error + Send + Sync>;

impl Service<Uri> for Connector {
    type Response = Connection;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Connection, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match &mut self.way {
            Way::Direct(way) => way.poll_ready(context),
            Way::Proxy(way) => way.poll_ready(context),
        }
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let connecting: Self::Future = match &mut self.way {
            Way::Direct(way) => Box::pin(way.call(to).map_ok(MaybeHttpsStream::Http)),
            Way::Proxy(way) => way.call(to),
        };
        let time_max = self.time_max;
        Box::pin(async move { timeout(time_max, connecting).await.map_err(|_| TooSlow)? })
    }
}

/// What comes of hyper's error before the head of an answer.
pub(in crate::upstream) fn failure(error: legacy::Error) -> UpstreamError {
    if !error.is_connect() {
        return UpstreamError::Unreachable(error);
    }
    let mut timed_out = false;
    for cause in std::iter::successors(error.source(), |cause| (*cause).source()) {
        if let Some(outside) = cause.downcast_ref::<Outside>() {
            return UpstreamError::Outside(Box::new(outside.clone()));
        }
        let kind = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        timed_out |= cause.is::<TooSlow>() || kind == Some(io::ErrorKind::TimedOut);
    }
    if timed_out {
        return UpstreamError::Timeout(NO_CONNECTION);
    }
    UpstreamError::NoConnection(error)
}
