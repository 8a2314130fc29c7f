//! Who calls: an API key, an issuer's token or a client certificate, looked up in what the platform lists.
//!
//! The keys file holds SHA-256 hashes, never keys; every entry has an id, a tenant and tags that rules can
//! match. Keys are long and random, so one round of SHA-256 is enough; a password would need a slow
//! hash. All entries are compared in constant time, so that the time of a miss tells nothing.
//!
//! A credential in a header counts before a certificate: behind a proxy the connection is the proxy's.
//! One that nobody knows is not an error here: the caller stays unknown and `must_answer.caller_unknown`
//! in the site file says what that means.
//!
//! Inside: `keys` (the file), `certificate` (names in certificates), `jwt` (signatures and claims), `jwks`
//! (where an issuer's keys come from).

mod certificate;
mod jwks;
mod jwt;
pub mod keys;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use hyper::HeaderMap;
use hyper::header::{AUTHORIZATION, HeaderName};
use jiff::civil::Date;
use ring::digest::{SHA256, digest};
use sluice_policies::Mode;

pub use certificate::PeerNames;

use crate::config::{Identity, JwksSource};
use jwks::Oidc;
use keys::{KeyEntry, KeysFile};

/// The one caller of a gateway that does not tell callers apart.
const ANYONE: &str = "anyone";
/// Whose data it is where nobody says.
const DEFAULT_TENANT: &str = "default";

/// Who sends a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The key's id; `None` if the gateway tells callers apart and this one is not known.
    pub id: Option<String>,
    /// Whose limits, taint and records these are.
    pub tenant: Arc<str>,
    /// Tags of the key.
    pub tags: BTreeSet<String>,
}

/// All callers that are known.
pub struct Callers {
    /// A trial that does not tell callers apart.
    everybody_is_anyone: bool,
    file: Option<PathBuf>,
    listed: RwLock<Arc<[Listed]>>,
    oidc: Option<Oidc>,
}

/// An entry of the keys file.
struct Listed {
    mark: Mark,
    entry: KeyEntry,
    caller: Caller,
}

/// What an entry is known by.
enum Mark {
    Hash([u8; 32]),
    Certificate(String),
}

/// What tells callers apart cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file could not be read.
    #[error("failed to read {path}")]
    Read {
        /// The file.
        path: String,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// A file could not be written.
    #[error("failed to write the keys file {path}")]
    Write {
        /// The file.
        path: String,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// A file is not what it should look like.
    #[error("{path}: {what}")]
    Malformed {
        /// The file.
        path: String,
        /// What was expected, and where.
        what: String,
    },
    /// A change to the keys file makes no sense.
    #[error("{what}")]
    Refused {
        /// What was expected.
        what: String,
    },
    /// The operating system gave no randomness.
    #[error("failed to make a key: the system gave no randomness")]
    NoRandomness,
    /// No client for the issuer's address.
    #[error("failed to build the client for identity.oidc.jwks")]
    Client(#[source] reqwest::Error),
}

impl Callers {
    /// A trial that does not tell callers apart: whoever asks is the caller `anyone`.
    pub fn anyone() -> Callers {
        Callers { everybody_is_anyone: true, ..Callers::nobody() }
    }

    /// Nobody is known: the site's answer to `caller_unknown` holds for every request.
    pub fn nobody() -> Callers {
        let listed = RwLock::new(Arc::from([]));
        Callers { everybody_is_anyone: false, file: None, listed, oidc: None }
    }

    /// Those that a config lists.
    pub fn open(config: &Identity, mode: Mode) -> Result<Callers, IdentityError> {
        if config.keys.is_none() && config.oidc.is_none() {
            return Ok(match mode {
                Mode::Production => Callers::nobody(),
                Mode::Trial => Callers::anyone(),
            });
        }
        let callers = Callers {
            file: config.keys.clone(),
            oidc: config.oidc.clone().map(Oidc::open).transpose()?,
            ..Callers::nobody()
        };
        callers.reload()?;
        Ok(callers)
    }

    /// Reads the files again; if one cannot be used, everything stays as it is.
    pub fn reload(&self) -> Result<(), IdentityError> {
        let listed = self.file.as_deref().map(KeysFile::read).transpose()?;
        if let Some(oidc) = &self.oidc {
            oidc.reload()?;
        }
        if let Some(file) = listed {
            self.list(file);
        }
        Ok(())
    }

    /// The files of a config that tell callers apart.
    pub fn files(config: &Identity) -> Vec<&Path> {
        let jwks = config.oidc.as_ref().and_then(|oidc| match &oidc.jwks {
            JwksSource::File(path) => Some(path.as_path()),
            JwksSource::Url(_) => None,
        });
        config.keys.as_deref().into_iter().chain(jwks).collect()
    }

    fn list(&self, file: KeysFile) {
        let listed = file.keys.into_iter().filter_map(Listed::new).collect();
        *self.listed.write().unwrap_or_else(PoisonError::into_inner) = listed;
    }

    /// Says who sent these headers over this connection.
    pub async fn identify(&self, headers: &HeaderMap, peer: Option<&PeerNames>) -> Caller {
        if self.everybody_is_anyone {
            return Caller::named(ANYONE);
        }
        let known = match (presented(headers), peer) {
            (Presented::Credential(token), _) if jwt::looks_like_one(token) => match &self.oidc {
                Some(oidc) => oidc.identify(token).await,
                None => None,
            },
            (Presented::Credential(key), _) => self.by_key(key),
            (Presented::Unreadable, _) | (Presented::Nothing, None) => None,
            (Presented::Nothing, Some(peer)) => self.by_certificate(peer),
        };
        known.unwrap_or_else(Caller::unknown)
    }

    /// The header whose credential says who sent these; `None` where credentials are not ours to read.
    pub fn credential(&self, headers: &HeaderMap) -> Option<HeaderName> {
        let reads = self.can_know_somebody();
        let shown = [AUTHORIZATION, HeaderName::from_static("x-api-key")];
        shown.into_iter().find(|name| reads && headers.contains_key(name))
    }

    /// Whether anything is there by which callers are told apart.
    pub fn can_know_somebody(&self) -> bool {
        self.file.is_some() || self.oidc.is_some()
    }

    fn by_key(&self, key: &str) -> Option<Caller> {
        let presented = digest(&SHA256, key.as_bytes());
        let is_meant = |mark: &Mark| {
            let Mark::Hash(hash) = mark else { return false };
            constant_time_eq(hash, presented.as_ref())
        };
        self.find(is_meant)
    }

    fn by_certificate(&self, peer: &PeerNames) -> Option<Caller> {
        self.find(|mark| matches!(mark, Mark::Certificate(name) if peer.has(name)))
    }

    /// The last entry that is meant, if it is still valid. Looks at all of them, so that the time of a
    /// miss tells nothing.
    fn find(&self, is_meant: impl Fn(&Mark) -> bool) -> Option<Caller> {
        let listed = self.listed.read().unwrap_or_else(PoisonError::into_inner).clone();
        let mut found = None;
        for entry in listed.iter() {
            if is_meant(&entry.mark) {
                found = Some(entry);
            }
        }
        found.filter(|listed| listed.entry.is_valid(today())).map(|listed| listed.caller.clone())
    }
}

impl Listed {
    fn new(entry: KeyEntry) -> Option<Listed> {
        let mark = match (entry.hash(), &entry.certificate) {
            (Some(hash), _) => Mark::Hash(hash),
            (None, name) => Mark::Certificate(name.clone()?),
        };
        let caller = Caller {
            id: Some(entry.id.clone()),
            tenant: entry.tenant.as_str().into(),
            tags: entry.tags.clone(),
        };
        Some(Listed { mark, entry, caller })
    }
}

impl Caller {
    fn named(id: &str) -> Caller {
        Caller { id: Some(id.to_owned()), tenant: DEFAULT_TENANT.into(), tags: BTreeSet::new() }
    }

    fn unknown() -> Caller {
        Caller { id: None, tenant: DEFAULT_TENANT.into(), tags: BTreeSet::new() }
    }
}

/// What a request shows of who sends it.
enum Presented<'h> {
    Credential(&'h str),
    Unreadable,
    Nothing,
}

/// The credential as OpenAI's clients send it, else as Anthropic's do.
fn presented(headers: &HeaderMap) -> Presented<'_> {
    let shown = match (headers.get(AUTHORIZATION), headers.get("x-api-key")) {
        (Some(value), _) => value.to_str().ok().and_then(bearer),
        (None, Some(value)) => value.to_str().ok().map(str::trim),
        (None, None) => return Presented::Nothing,
    };
    shown.map_or(Presented::Unreadable, Presented::Credential)
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, key) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(key.trim())
}

/// Compares without an early exit; `black_box` keeps the optimiser from adding one.
pub(crate) fn constant_time_eq(a: &[u8], b: &[u8]) -> bool {
    let difference = a.iter().zip(b).fold(0u8, |all, (x, y)| all | (x ^ y));
    std::hint::black_box(difference) == 0 && a.len() == b.len()
}

fn today() -> Date {
    crate::active_policy::today()
}

#[cfg(test)]
mod tests;
