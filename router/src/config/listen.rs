//! `listen`: the three listeners, and who may reach them how.

use std::marker::PhantomData;
use std::net::SocketAddr;
use std::num::NonZero;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, Visitor, value::MapAccessDeserializer};

use super::scalar::Plain;

/// More threads than a machine has processors for are a slip of the finger.
const THREADS_MAX: usize = 1024;

/// Addresses to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Where clients connect. Default `127.0.0.1:8080`: a first run is reachable from this machine
    /// only.
    pub traffic: SocketAddr,
    /// TLS for them, from `traffic: {address, tls}`. Default: none; it then ends in front of this process.
    pub traffic_tls: Option<TlsFiles>,
    /// Where operators connect.
    pub admin: AdminListen,
    /// Where Prometheus and probes connect: `/metrics`, `/livez`, `/readyz`. Default
    /// `127.0.0.1:9464`. A listener of its own, so that scrapes and traffic never wait for each
    /// other and metrics are not public by accident.
    pub metrics: SocketAddr,
    /// `cors`: origins whose pages may call the traffic listener from a browser, `https://app.example`.
    /// Default: none.
    pub cors: Vec<String>,
    /// `threads`: how many serve clients. Default: the processors that this process may use.
    pub threads: Option<NonZero<usize>>,
}

/// The listener of operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminListen {
    /// Default `127.0.0.1:8081`. On any other than this machine's own addresses it needs a `token_file`
    /// or a `client_ca`.
    pub address: SocketAddr,
    /// Whether the config names it. One that it does not name is given up if its port is taken.
    pub is_named: bool,
    /// `token_file`: file with the bearer token of operators. Default: none.
    pub token_file: Option<PathBuf>,
    /// `tls`. Default: none.
    pub tls: Option<TlsFiles>,
}

/// Certificates of a listener, in PEM. They are read again when they change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, followed by those between it and the authority.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Authorities whose client certificates are accepted. Default: none is asked for.
    pub client_ca: Option<PathBuf>,
    /// Whether clients without a certificate may connect where `client_ca` is set: `required` or
    /// `optional`. Default `required`.
    pub client_certificate: ClientCertificate,
}

/// Whether a client must have a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientCertificate {
    /// No certificate, no connection.
    #[default]
    Required,
    /// One that is shown must be good.
    Optional,
}

impl Default for Listen {
    fn default() -> Self {
        Listen {
            traffic: SocketAddr::from(([127, 0, 0, 1], 8080)),
            traffic_tls: None,
            admin: AdminListen::default(),
            metrics: SocketAddr::from(([127, 0, 0, 1], 9464)),
            cors: Vec::new(),
            threads: None,
        }
    }
}

impl Default for AdminListen {
    fn default() -> Self {
        AdminListen {
            address: SocketAddr::from(([127, 0, 0, 1], 8081)),
            is_named: false,
            token_file: None,
            tls: None,
        }
    }
}

impl TlsFiles {
    /// All of its files.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let files = [Some(&self.cert), Some(&self.key), self.client_ca.as_ref()];
        files.into_iter().flatten().map(PathBuf::as_path)
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ListenSection {
    traffic: Option<AddressOr<TrafficSection>>,
    admin: Option<AddressOr<AdminSection>>,
    metrics: Option<Address>,
    cors: Vec<Origin>,
    threads: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TrafficSection {
    address: Address,
    tls: Option<TlsSection>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AdminSection {
    address: Address,
    token_file: Option<Plain>,
    tls: Option<TlsSection>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TlsSection {
    cert: Plain,
    key: Plain,
    client_ca: Option<Plain>,
    #[serde(default)]
    client_certificate: ClientCertificate,
}

/// An address alone, or a map with more.
enum AddressOr<T> {
    Address(Address),
    Map(T),
}

#[derive(Clone, Copy)]
struct Address(SocketAddr);

/// Scheme, host and port of a page, as browsers write them.
struct Origin(String);

impl ListenSection {
    /// The checked section, or the field of `listen` at fault and what is wrong with it.
    pub(super) fn lower(self, folder: &Path) -> Result<Listen, (&'static str, String)> {
        let standard = Listen::default();
        let (traffic, traffic_tls) = match self.traffic {
            None => (standard.traffic, None),
            Some(AddressOr::Address(address)) => (address.0, None),
            Some(AddressOr::Map(TrafficSection { address, tls })) => {
                (address.0, tls.map(|tls| tls.lower(folder)))
            }
        };
        let admin = match self.admin {
            None => standard.admin,
            Some(AddressOr::Address(address)) => AdminListen::at(address, None, None),
            Some(AddressOr::Map(AdminSection { address, token_file, tls })) => {
                let token_file = token_file.map(|file| folder.join(file.0));
                AdminListen::at(address, token_file, tls.map(|tls| tls.lower(folder)))
            }
        };
        admin.check().map_err(|what| ("admin", what))?;
        let threads = self.threads.map(threads).transpose().map_err(|what| ("threads", what))?;
        Ok(Listen {
            traffic,
            traffic_tls,
            admin,
            metrics: self.metrics.map_or(standard.metrics, |address| address.0),
            cors: self.cors.into_iter().map(|origin| origin.0).collect(),
            threads,
        })
    }
}

fn threads(count: usize) -> Result<NonZero<usize>, String> {
    let count = NonZero::new(count).filter(|count| count.get() <= THREADS_MAX);
    count.ok_or_else(|| format!("expected 1 to {THREADS_MAX}"))
}

impl AdminListen {
    fn at(address: Address, token_file: Option<PathBuf>, tls: Option<TlsFiles>) -> AdminListen {
        AdminListen { address: address.0, is_named: true, token_file, tls }
    }

    /// Whether every client must show a certificate.
    pub fn demands_certificates(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| {
            tls.client_ca.is_some() && tls.client_certificate == ClientCertificate::Required
        })
    }

    /// Refuses an address that others can reach and nothing guards.
    pub fn check(&self) -> Result<(), String> {
        let guarded = self.token_file.is_some() || self.demands_certificates();
        match self.address.ip().is_loopback() || guarded {
            true => Ok(()),
            false => Err(format!(
                "expected token_file or tls with client_ca, because {} can be reached from other \
                 machines",
                self.address
            )),
        }
    }
}

impl TlsSection {
    fn lower(self, folder: &Path) -> TlsFiles {
        TlsFiles {
            cert: folder.join(self.cert.0),
            key: folder.join(self.key.0),
            client_ca: self.client_ca.map(|file| folder.join(file.0)),
            client_certificate: self.client_certificate,
        }
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        address(&Plain::deserialize(d)?.0)
    }
}

fn address<E: de::Error>(text: &str) -> Result<Address, E> {
    text.parse().map(Address).map_err(|_| {
        E::custom(format!("expected address and port such as 127.0.0.1:8080, got {text:?}"))
    })
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for AddressOr<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(AddressOrVisitor(PhantomData))
    }
}

struct AddressOrVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for AddressOrVisitor<T> {
    type Value = AddressOr<T>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an address such as 127.0.0.1:8080, or a map with one")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        address(text).map(AddressOr::Address)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(AddressOr::Map)
    }
}

impl<'de> Deserialize<'de> for Origin {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = Plain::deserialize(d)?.0;
        let expected = "expected an origin such as https://app.example, without a path";
        let uri: hyper::Uri =
            text.parse().map_err(|_| de::Error::custom(format!("{expected}, got {text:?}")))?;
        let is_plain = matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.authority().is_some_and(|authority| text.ends_with(authority.as_str()))
            && !text.contains('@')
            && text == text.to_ascii_lowercase();
        if is_plain {
            Ok(Origin(text))
        } else {
            Err(de::Error::custom(format!("{expected}, got {text:?}")))
        }
    }
}
