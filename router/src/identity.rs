//! Who calls: a bearer key, or an `x-api-key`, looked up in the platform's keys file.
//!
//! The file holds SHA-256 hashes, never keys; every key has an id, a tenant and tags that rules can
//! match. Keys are long and random, so one round of SHA-256 is enough; a password would need a slow
//! hash. All entries are compared in constant time, so that the time of a miss tells nothing.
//!
//! A key that nobody knows is not an error here: the caller stays unknown and `must_answer.
//! caller_unknown` in the site file says what that means.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;
use ring::digest::{SHA256, digest};
use serde::Deserialize;

/// Longest keys file, bytes.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// The one caller of a gateway that does not tell callers apart.
const ANYONE: &str = "anyone";

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

/// All keys that are known.
#[derive(Debug, Default)]
pub struct Callers {
    keys: Option<Vec<Key>>,
}

#[derive(Debug)]
struct Key {
    hash: [u8; 32],
    caller: Caller,
}

/// A keys file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// It could not be read.
    #[error("failed to read the keys file {path}")]
    Read {
        /// The file.
        path: String,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// It is not what a keys file looks like.
    #[error("{path}: {what}")]
    Malformed {
        /// The file.
        path: String,
        /// What was expected, and where.
        what: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeysFile {
    keys: Vec<KeyEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyEntry {
    /// Names the caller in decisions and records.
    id: String,
    /// SHA-256 of the key, 64 hexadecimal digits: `printf %s "$KEY" | sha256sum`.
    sha256: String,
    /// Whose data it is. Default `default`.
    #[serde(default = "default_tenant")]
    tenant: String,
    /// Words that rules match with `key_tag`.
    #[serde(default)]
    tags: BTreeSet<String>,
}

fn default_tenant() -> String {
    "default".to_owned()
}

impl Callers {
    /// A trial that does not tell callers apart: whoever asks is the caller `anyone`.
    pub fn anyone() -> Callers {
        Callers { keys: None }
    }

    /// Nobody is known: the site's answer to `caller_unknown` holds for every request.
    pub fn nobody() -> Callers {
        Callers { keys: Some(Vec::new()) }
    }

    /// Reads a keys file.
    pub fn load(path: &Path) -> Result<Callers, IdentityError> {
        let shown = path.display().to_string();
        let read = |source| IdentityError::Read { path: shown.clone(), source };
        let malformed = |what: String| IdentityError::Malformed { path: shown.clone(), what };
        let bytes = std::fs::metadata(path).map_err(read)?.len();
        if bytes > FILE_BYTES_MAX {
            return Err(malformed(format!("expected at most {FILE_BYTES_MAX} bytes, got {bytes}")));
        }
        let text = std::fs::read_to_string(path).map_err(read)?;
        let file: KeysFile = serde_yaml::from_str(&text).map_err(|e| malformed(e.to_string()))?;
        Callers::from_entries(file.keys).map_err(malformed)
    }

    fn from_entries(entries: Vec<KeyEntry>) -> Result<Callers, String> {
        let mut ids = BTreeSet::new();
        let mut keys = Vec::with_capacity(entries.len());
        for entry in entries {
            let id = &entry.id;
            let hash = parse_hash(&entry.sha256).ok_or_else(|| {
                format!(
                    "key {id:?}: expected sha256 as 64 hexadecimal digits; hash the key, \
                         never store it"
                )
            })?;
            if id.is_empty() || !ids.insert(id.clone()) {
                return Err(format!(
                    "expected each key to have an id of its own, got {id:?} twice"
                ));
            }
            let caller =
                Caller { id: Some(entry.id), tenant: entry.tenant.into(), tags: entry.tags };
            keys.push(Key { hash, caller });
        }
        Ok(Callers { keys: Some(keys) })
    }

    /// Says who sent these headers.
    pub fn identify(&self, headers: &HeaderMap) -> Caller {
        let Some(keys) = &self.keys else {
            return Caller::named(ANYONE);
        };
        let Some(presented) = presented(headers) else { return Caller::unknown() };
        let presented = digest(&SHA256, presented.as_bytes());
        let mut found = None;
        for key in keys {
            if constant_time_eq(&key.hash, presented.as_ref()) {
                found = Some(&key.caller);
            }
        }
        found.cloned().unwrap_or_else(Caller::unknown)
    }
}

impl Caller {
    fn named(id: &str) -> Caller {
        Caller { id: Some(id.to_owned()), tenant: "default".into(), tags: BTreeSet::new() }
    }

    fn unknown() -> Caller {
        Caller { id: None, tenant: "default".into(), tags: BTreeSet::new() }
    }
}

/// The key as OpenAI's clients send it, else as Anthropic's do.
fn presented(headers: &HeaderMap) -> Option<&str> {
    match headers.get(AUTHORIZATION) {
        Some(value) => bearer(value.to_str().ok()?),
        None => Some(headers.get("x-api-key")?.to_str().ok()?.trim()),
    }
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, key) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(key.trim())
}

fn parse_hash(hex: &str) -> Option<[u8; 32]> {
    let mut hash = [0; 32];
    if hex.len() != 64 || !hex.is_ascii() {
        return None;
    }
    for (byte, pair) in hash.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
        let pair = std::str::from_utf8(pair).ok()?;
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    Some(hash)
}

/// Compares without an early exit; `black_box` keeps the optimiser from adding one.
fn constant_time_eq(a: &[u8], b: &[u8]) -> bool {
    let difference = a.iter().zip(b).fold(0u8, |all, (x, y)| all | (x ^ y));
    std::hint::black_box(difference) == 0 && a.len() == b.len()
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn callers() -> Callers {
        let hash =
            digest(&SHA256, b"sk-ward").as_ref().iter().map(|b| format!("{b:02x}")).collect();
        Callers::from_entries(vec![KeyEntry {
            id: "ward-app".into(),
            sha256: hash,
            tenant: "north".into(),
            tags: ["phi".to_owned()].into(),
        }])
        .unwrap()
    }

    fn headers(authorization: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_static(authorization));
        headers
    }

    #[test]
    fn a_known_key_brings_its_id_tenant_and_tags() {
        let caller = callers().identify(&headers("Bearer sk-ward"));
        assert_eq!(caller.id.as_deref(), Some("ward-app"));
        assert_eq!(&*caller.tenant, "north");
        assert!(caller.tags.contains("phi"));
    }

    #[test]
    fn a_key_may_come_as_anthropics_clients_send_it_but_a_bearer_key_counts_first() {
        let with = |key: &'static str, authorization: Option<&'static str>| {
            let mut all = authorization.map(headers).unwrap_or_default();
            all.insert("x-api-key", HeaderValue::from_static(key));
            callers().identify(&all).id
        };
        assert_eq!(with("sk-ward", None).as_deref(), Some("ward-app"));
        assert_eq!(with("sk-other", None), None);
        assert_eq!(with("sk-ward", Some("Bearer sk-other")), None);
        assert_eq!(with("sk-other", Some("Bearer sk-ward")).as_deref(), Some("ward-app"));
    }

    #[test]
    fn any_other_key_leaves_the_caller_unknown() {
        for wrong in ["Bearer sk-war", "Bearer ", "Basic sk-ward", "sk-ward"] {
            assert_eq!(callers().identify(&headers(wrong)).id, None, "{wrong}");
        }
        assert_eq!(callers().identify(&HeaderMap::new()).id, None);
    }

    #[test]
    fn without_keys_everybody_is_anyone_in_a_trial_and_nobody_in_production() {
        let asked = headers("Bearer sk-ward");
        assert_eq!(Callers::anyone().identify(&asked).id.as_deref(), Some(ANYONE));
        assert_eq!(Callers::nobody().identify(&asked).id, None);
    }

    #[test]
    fn refuses_a_file_with_a_plain_key_or_two_keys_of_one_id() {
        let entry = |id: &str, sha256: &str| KeyEntry {
            id: id.into(),
            sha256: sha256.into(),
            tenant: default_tenant(),
            tags: BTreeSet::new(),
        };
        let hash = "ab".repeat(32);
        assert!(Callers::from_entries(vec![entry("a", "sk-plain")]).is_err());
        assert!(Callers::from_entries(vec![entry("a", &hash), entry("a", &hash)]).is_err());
        assert!(Callers::from_entries(vec![entry("a", &hash), entry("b", &hash)]).is_ok());
    }
}
