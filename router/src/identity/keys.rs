//! The keys file: who may call, by the hash of a key or by a name in a client certificate.
//!
//! People write it by hand or with `sluice key`, which reads it, changes one entry and writes it as a
//! whole; comments in it do not survive that. An id is never used twice, revoked or not, so that what
//! records say of it stays true.
//!
//! Invariant: no key is in the file, in an error or in a list; [`KeysFile::create`] gives it out once.

use std::collections::BTreeSet;
use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jiff::Timestamp;
use jiff::civil::Date;
use ring::digest::{SHA256, digest};
use ring::rand::SystemRandom;
use serde::{Deserialize, Serialize};

use super::{IdentityError, certificate};
use crate::config::Secret;

/// Longest keys file, bytes.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// Longest id or tenant, bytes.
const NAME_BYTES_MAX: usize = 128;
/// Begins every key that is made here, so that scanners for leaked secrets know it.
const KEY_PREFIX: &str = "sk-sluice-";

/// All entries of a keys file.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeysFile {
    /// In the file's order.
    pub keys: Vec<KeyEntry>,
}

/// One caller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyEntry {
    /// Names the caller in decisions and records.
    pub id: String,
    /// SHA-256 of the key, 64 hexadecimal digits: `printf %s "$KEY" | sha256sum`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Instead of a key: a name in the client's certificate, `dns:`, `uri:`, `email:`, `subject:` or
    /// the certificate's own `sha256:`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    /// Whose data it is. Default `default`.
    #[serde(default = "default_tenant")]
    pub tenant: String,
    /// The person who holds the key, for those who read the list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub person: Option<String>,
    /// The application that holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// Words that rules match with `key_tag`.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub tags: BTreeSet<String>,
    /// When it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
    /// The last day, in UTC, on which it is known. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Date>,
    /// Since when it is not known any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<Timestamp>,
}

/// What is asked for of a new entry.
#[derive(Clone, Debug, Default)]
pub struct NewKey {
    /// Names the caller.
    pub id: String,
    /// Whose data it is; `default` if empty.
    pub tenant: String,
    /// The person who holds it.
    pub person: Option<String>,
    /// The application that holds it.
    pub app: Option<String>,
    /// Words that rules match.
    pub tags: BTreeSet<String>,
    /// The last day.
    pub expires: Option<Date>,
    /// A name in a certificate instead of a key.
    pub certificate: Option<String>,
}

fn default_tenant() -> String {
    super::DEFAULT_TENANT.to_owned()
}

impl KeysFile {
    /// Reads and checks a file.
    pub fn read(path: &Path) -> Result<KeysFile, IdentityError> {
        let shown = path.display().to_string();
        let read = |source| IdentityError::Read { path: shown.clone(), source };
        let malformed = |what: String| IdentityError::Malformed { path: shown.clone(), what };
        let bytes = std::fs::metadata(path).map_err(read)?.len();
        if bytes > FILE_BYTES_MAX {
            return Err(malformed(format!("expected at most {FILE_BYTES_MAX} bytes, got {bytes}")));
        }
        let text = std::fs::read_to_string(path).map_err(read)?;
        let file: KeysFile = serde_yaml::from_str(&text).map_err(|e| malformed(e.to_string()))?;
        file.check().map_err(malformed)?;
        Ok(file)
    }

    /// Reads a file that may not be there yet.
    pub fn read_or_new(path: &Path) -> Result<KeysFile, IdentityError> {
        match path.try_exists() {
            Ok(false) => Ok(KeysFile::default()),
            _ => KeysFile::read(path),
        }
    }

    /// Writes the file as a whole.
    pub fn write(&self, path: &Path) -> Result<(), IdentityError> {
        let shown = path.display().to_string();
        let head = "# Who may call. Written by `sluice key`; it holds hashes, never keys.\n";
        let text = serde_yaml::to_string(self)
            .map_err(|e| IdentityError::Malformed { path: shown.clone(), what: e.to_string() })?;
        crate::durable::replace(path, format!("{head}{text}").as_bytes())
            .map_err(|source| IdentityError::Write { path: shown, source })
    }

    /// Adds an entry; gives out its key, unless a certificate stands for it.
    pub fn create(&mut self, new: NewKey, now: Timestamp) -> Result<Option<Secret>, IdentityError> {
        let refused = |what: String| IdentityError::Refused { what };
        let key = match &new.certificate {
            Some(_) => None,
            None => Some(fresh_key()?),
        };
        let tenant = if new.tenant.is_empty() { default_tenant() } else { new.tenant };
        self.keys.push(KeyEntry {
            id: new.id,
            sha256: key.as_ref().map(|key| hash_of(key.expose())),
            certificate: new.certificate,
            tenant,
            person: new.person,
            app: new.app,
            tags: new.tags,
            created: Some(whole_second(now)),
            expires: new.expires,
            revoked: None,
        });
        if let Err(what) = self.check() {
            self.keys.pop();
            return Err(refused(what));
        }
        Ok(key)
    }

    /// Ends an entry for good. Its id stays taken.
    pub fn revoke(&mut self, id: &str, now: Timestamp) -> Result<(), IdentityError> {
        let refused = |what: &str| IdentityError::Refused { what: format!("key {id:?}: {what}") };
        let entry = self.keys.iter_mut().find(|entry| entry.id == id);
        let entry = entry.ok_or_else(|| refused("expected an id of the keys file"))?;
        if entry.revoked.is_some() {
            return Err(refused("it was revoked before"));
        }
        entry.revoked = Some(whole_second(now));
        Ok(())
    }

    fn check(&self) -> Result<(), String> {
        let mut ids = BTreeSet::new();
        for entry in &self.keys {
            entry.check().map_err(|what| format!("key {:?}: {what}", entry.id))?;
            if !ids.insert(&entry.id) {
                let id = &entry.id;
                return Err(format!(
                    "expected each key to have an id of its own, got {id:?} twice"
                ));
            }
        }
        Ok(())
    }
}

impl KeyEntry {
    /// Whether it is known on a day.
    pub fn is_valid(&self, today: Date) -> bool {
        self.revoked.is_none() && self.expires.is_none_or(|last| today <= last)
    }

    /// Its hash as bytes; `None` if a certificate stands for it.
    pub(super) fn hash(&self) -> Option<[u8; 32]> {
        parse_hash(self.sha256.as_deref()?)
    }

    fn check(&self) -> Result<(), String> {
        for (what, name) in [("an id", &self.id), ("a tenant", &self.tenant)] {
            let plain = !name.is_empty()
                && name.len() <= NAME_BYTES_MAX
                && !name.chars().any(char::is_control);
            if !plain {
                return Err(format!("expected {what} of 1 to {NAME_BYTES_MAX} plain characters"));
            }
        }
        match (&self.sha256, &self.certificate) {
            (Some(hash), None) if parse_hash(hash).is_some() => {}
            (Some(_), None) => {
                return Err(
                    "expected sha256 as 64 hexadecimal digits; hash the key, never store it"
                        .to_owned(),
                );
            }
            (None, Some(name)) => certificate::check_name(name)?,
            _ => return Err("expected either sha256 or certificate".to_owned()),
        }
        if self.person.is_some() && self.app.is_some() {
            return Err("expected a person or an app, got both".to_owned());
        }
        Ok(())
    }
}

/// 256 random bits behind a prefix that tells what they are.
fn fresh_key() -> Result<Secret, IdentityError> {
    let random: [u8; 32] = ring::rand::generate(&SystemRandom::new())
        .map_err(|_| IdentityError::NoRandomness)?
        .expose();
    Ok(Secret::new(format!("{KEY_PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(random))))
}

fn hash_of(key: &str) -> String {
    digest(&SHA256, key.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Fractions of a second would only make the file harder to read.
fn whole_second(now: Timestamp) -> Timestamp {
    Timestamp::from_second(now.as_second()).unwrap_or(now)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-11-28T12:00:00.5Z".parse().unwrap()
    }

    fn new(id: &str) -> NewKey {
        let tags = ["phi".to_owned()].into();
        NewKey { id: id.into(), tenant: "north".into(), tags, ..NewKey::default() }
    }

    #[test]
    fn a_key_is_given_out_once_and_only_its_hash_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.yaml");
        let mut file = KeysFile::read_or_new(&path).unwrap();
        let key = file.create(new("ward"), now()).unwrap().unwrap();
        file.write(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(key.expose().starts_with(KEY_PREFIX) && key.expose().len() > 50);
        assert!(!text.contains(key.expose()) && text.contains(&hash_of(key.expose())), "{text}");
        assert_eq!(KeysFile::read(&path).unwrap(), file);
        let other = file.create(new("clinic"), now()).unwrap().unwrap();
        assert_ne!(other, key);
    }

    #[test]
    fn a_revoked_key_stays_listed_its_id_taken() {
        let mut file = KeysFile::default();
        file.create(new("ward"), now()).unwrap();
        let today = Date::constant(2026, 11, 28);
        assert!(file.keys[0].is_valid(today));
        file.revoke("ward", now()).unwrap();
        assert!(!file.keys[0].is_valid(today));
        assert!(file.revoke("ward", now()).is_err() && file.revoke("nobody", now()).is_err());
        assert!(file.create(new("ward"), now()).is_err());
        assert_eq!(file.keys.len(), 1);
    }

    #[test]
    fn the_last_day_is_still_valid() {
        let mut file = KeysFile::default();
        let last = Date::constant(2026, 12, 31);
        file.create(NewKey { expires: Some(last), ..new("ward") }, now()).unwrap();
        assert!(file.keys[0].is_valid(last));
        assert!(!file.keys[0].is_valid(last.tomorrow().unwrap()));
    }

    #[test]
    fn a_file_that_says_too_little_or_too_much_is_refused_with_the_id() {
        let hash = "ab".repeat(32);
        for (entry, expected) in [
            ("{id: a, sha256: sk-plain}".to_owned(), "hash the key, never store it"),
            ("{id: a}".to_owned(), "either sha256 or certificate"),
            (format!("{{id: a, sha256: {hash}, certificate: \"dns:a\"}}"), "either sha256"),
            ("{id: a, certificate: ward.example}".to_owned(), "dns:"),
            (format!("{{id: \"\", sha256: {hash}}}"), "expected an id"),
            (format!("{{id: a, sha256: {hash}, person: p, app: q}}"), "got both"),
            (format!("{{id: a, sha256: {hash}}}\n- {{id: a, sha256: {hash}}}"), "twice"),
            (format!("{{id: a, sha256: {hash}, colour: red}}"), "unknown field"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("keys.yaml");
            std::fs::write(&path, format!("keys:\n- {entry}\n")).unwrap();
            let error = KeysFile::read(&path).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("keys.yaml"), "{entry}: {error}");
        }
    }
}
