//! A whole policy set in one signed file: what a publisher hands to gateways that trust its key.
//!
//! The file is a JSON object with the signed text and the signature. The text, itself JSON, holds every
//! file of the set (the shipped ones too, so that the set is the same under every later version), its
//! digest, a serial number that only grows, and optionally a last day. The signature is checked before
//! the text is looked at, and covers it byte for byte.
//!
//! Not here: whether an older serial may follow a newer one, and what a new set may loosen
//! (`active_policy`); whose key counts (the config names a file of public keys).

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use sluice_policies::{PolicyError, PolicySet, Source, digest};

use crate::signing::{KeyRing, Signature, SigningKey};

/// What a bundle is signed for.
const PURPOSE: &str = "sluice policy bundle 1";
/// What the first key of the file says.
const FORMAT: &str = "sluice policy bundle 1";
/// No bundle is longer, bytes: four times the shipped set.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// A policy set as a publisher made it.
pub struct Bundle {
    /// Grows with every bundle of a publisher; a lower one is never taken after a higher one.
    pub serial: u64,
    /// When it was made.
    pub created: Timestamp,
    /// Last day on which it may be put in force.
    pub expires: Option<Date>,
    /// The digest of the set, as the publisher saw it.
    pub digest: String,
    /// Every file of the set.
    sources: Vec<Source>,
}

/// The signed text.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    serial: u64,
    created: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<Date>,
    digest: String,
    files: Vec<Source>,
}

/// The file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed {
    format: String,
    contents: String,
    signature: Signature,
}

/// A bundle that is not used.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The file cannot be read.
    #[error("failed to read the policy bundle {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// The file is not a bundle, or not one of this format.
    #[error("{path}: expected a policy bundle such as `sluice policy bundle` writes: {problem}")]
    Form {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// No key of the config's file made the signature over this text.
    #[error(
        "{path}: the signature holds under none of the keys in {keys}: the bundle was changed, or \
         its publisher's key is not listed there"
    )]
    Signature {
        /// The file.
        path: PathBuf,
        /// The file of public keys.
        keys: PathBuf,
    },
    /// The files are not those that the publisher's digest names.
    #[error("{path}: the files have the digest {found}, the bundle says {stated}")]
    Digest {
        /// The file.
        path: PathBuf,
        /// What the bundle says.
        stated: String,
        /// What its files have.
        found: String,
    },
    /// Its last day has passed.
    #[error("{path}: the bundle's last day was {expires}; ask its publisher for a newer one")]
    Expired {
        /// The file.
        path: PathBuf,
        /// The last day.
        expires: Date,
    },
}

impl Bundle {
    /// Packs a set whose tests have passed.
    pub fn of(set: &PolicySet, serial: u64, expires: Option<Date>) -> Bundle {
        Bundle {
            serial,
            created: Timestamp::now(),
            expires,
            digest: set.digest().to_owned(),
            sources: set.sources().to_vec(),
        }
    }

    /// The text of the file, signed.
    pub fn seal(self, key: &SigningKey) -> String {
        let Bundle { serial, created, expires, digest, sources } = self;
        let contents = Contents { serial, created, expires, digest, files: sources };
        let contents = serde_json::to_string(&contents).expect("texts and numbers are JSON");
        let signature = key.sign(PURPOSE, contents.as_bytes());
        let sealed = Sealed { format: FORMAT.to_owned(), contents, signature };
        serde_json::to_string_pretty(&sealed).expect("texts are JSON") + "\n"
    }

    /// Reads a bundle: its signature first, then its form, its digest and its last day.
    pub fn open(path: &Path, keys: (&Path, &KeyRing), today: Date) -> Result<Bundle, BundleError> {
        let sealed = read(path)?;
        let (keys_path, ring) = keys;
        if ring.signer(PURPOSE, sealed.contents.as_bytes(), &sealed.signature).is_none() {
            let (path, keys) = (path.to_owned(), keys_path.to_owned());
            return Err(BundleError::Signature { path, keys });
        }
        let bundle = Bundle::unpack(path, &sealed)?;
        match bundle.expires {
            Some(expires) if today > expires => {
                Err(BundleError::Expired { path: path.to_owned(), expires })
            }
            _ => Ok(bundle),
        }
    }

    /// Reads a bundle whose publisher does not matter: an approver signs what the digest names.
    pub fn open_unverified(path: &Path) -> Result<Bundle, BundleError> {
        Bundle::unpack(path, &read(path)?)
    }

    fn unpack(path: &Path, sealed: &Sealed) -> Result<Bundle, BundleError> {
        let contents: Contents = serde_json::from_str(&sealed.contents).map_err(|error| {
            BundleError::Form { path: path.to_owned(), problem: error.to_string() }
        })?;
        let found = digest(&contents.files);
        if found != contents.digest {
            let (path, stated) = (path.to_owned(), contents.digest);
            return Err(BundleError::Digest { path, stated, found });
        }
        let Contents { serial, created, expires, digest, files } = contents;
        Ok(Bundle { serial, created, expires, digest, sources: files })
    }

    /// Builds the set and runs its tests.
    pub fn into_set(self) -> Result<PolicySet, PolicyError> {
        PolicySet::from_complete_sources(self.sources)
    }
}

/// Whether a file looks like a bundle rather than a site.
pub fn is_bundle(path: &Path) -> bool {
    path.is_file() && read(path).is_ok()
}

fn read(path: &Path) -> Result<Sealed, BundleError> {
    let failed = |source| BundleError::Read { path: path.to_owned(), source };
    let malformed = |problem| BundleError::Form { path: path.to_owned(), problem };
    let bytes = std::fs::metadata(path).map_err(failed)?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(malformed(format!("expected at most {FILE_BYTES_MAX} bytes, got {bytes}")));
    }
    let text = std::fs::read_to_string(path).map_err(failed)?;
    let sealed: Sealed = serde_json::from_str(&text).map_err(|e| malformed(e.to_string()))?;
    match sealed.format == FORMAT {
        true => Ok(sealed),
        false => {
            Err(malformed(format!("expected the format \"{FORMAT}\", got {:?}", sealed.format)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Publisher {
        folder: tempfile::TempDir,
        key: SigningKey,
        keys: KeyRing,
    }

    impl Publisher {
        fn new() -> Publisher {
            let folder = tempfile::tempdir().unwrap();
            let key = SigningKey::create(&folder.path().join("publisher.key")).unwrap();
            let path = folder.path().join("publishers.pub");
            std::fs::write(&path, key.public("grc@example.org").to_string()).unwrap();
            let keys = KeyRing::read(&path).unwrap();
            Publisher { folder, key, keys }
        }

        fn open(&self, text: &str) -> Result<Bundle, String> {
            let path = self.folder.path().join("policy.bundle");
            std::fs::write(&path, text).unwrap();
            let today = jiff::civil::date(2026, 12, 1);
            let keys = (Path::new("publishers.pub"), &self.keys);
            Bundle::open(&path, keys, today).map_err(|error| error.to_string())
        }
    }

    fn bundle(expires: Option<Date>) -> Bundle {
        Bundle::of(&PolicySet::shipped().unwrap(), 7, expires)
    }

    #[test]
    fn a_bundle_holds_the_same_set() {
        let publisher = Publisher::new();
        let text = bundle(Some(jiff::civil::date(2026, 12, 1))).seal(&publisher.key);
        let opened = publisher.open(&text).unwrap();
        assert_eq!(opened.serial, 7);
        let set = opened.into_set().unwrap();
        assert_eq!(set.digest(), PolicySet::shipped().unwrap().digest());
    }

    #[test]
    fn a_changed_foreign_expired_or_unsigned_bundle_is_refused() {
        let publisher = Publisher::new();
        let text = bundle(None).seal(&publisher.key);
        let foreign = bundle(None).seal(&Publisher::new().key);
        let expired = bundle(Some(jiff::civil::date(2026, 11, 30))).seal(&publisher.key);
        let mut wrong_digest = bundle(None);
        wrong_digest.digest = "0".repeat(64);
        let unsigned =
            text.lines().filter(|line| !line.contains("\"signature\"")).collect::<String>();
        for (text, expected) in [
            (text.replace("regulated", "regulatex"), "the signature holds under none of the keys"),
            (text.replace(r#"\"serial\":7"#, r#"\"serial\":8"#), "the signature holds under none"),
            (foreign, "none of the keys in publishers.pub"),
            (expired, "the bundle's last day was 2026-11-30"),
            (wrong_digest.seal(&publisher.key), "the bundle says 0000"),
            (unsigned, "expected a policy bundle"),
            (text.replace("bundle 1", "bundle 2"), "expected the format"),
            ("site: hospital\n".to_owned(), "expected a policy bundle"),
        ] {
            let error = publisher.open(&text).err().unwrap();
            assert!(error.contains(expected), "{expected}: {error}");
        }
    }
}
