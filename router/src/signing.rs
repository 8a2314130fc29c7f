//! Ed25519 keys of people and publishers: made, kept in files, used to sign and to verify.
//!
//! A private key is a PEM file (PKCS#8), the same that `openssl genpkey -algorithm ed25519` writes, and
//! is readable by its owner alone. A public key is one line, `NAME BASE64`, so that a file of them can
//! be reviewed and kept in version control. What is signed always begins with a line that names its
//! purpose, so that a signature for one purpose is none for another.
//!
//! Invariants: a private key never appears in `Debug`, errors or output but its own file; two keys in
//! one file have different names and different bytes. Source: RFC 8032, RFC 8410.

use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use zeroize::Zeroizing;

const PEM_BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const PEM_END: &str = "-----END PRIVATE KEY-----";
/// A PEM line has at most so many characters (RFC 7468).
const PEM_LINE: usize = 64;
/// No file of keys is longer, bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A key that signs.
pub struct SigningKey(Ed25519KeyPair);

/// A key that verifies, and whose it is.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    /// Who holds the private half: an e-mail address or another word.
    pub name: String,
    bytes: [u8; 32],
}

/// The public keys of one file, in its order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyRing(Vec<PublicKey>);

/// A signature as it stands in files: Base64 of 64 bytes.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Signature(String);

/// A key or a file of keys that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A file cannot be read.
    #[error("failed to read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// A private key cannot be written.
    #[error("failed to write the private key {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// A file holds no private key of the right kind.
    #[error(
        "failed to read a private key from {path}: expected an Ed25519 key in PEM, such as \
         `sluice policy key` writes"
    )]
    Private {
        /// The file.
        path: PathBuf,
    },
    /// A line of a file of public keys is not one.
    #[error("{path}:{line}: {problem}")]
    Public {
        /// The file.
        path: PathBuf,
        /// From 1; 0 for the file as a whole.
        line: usize,
        /// What was expected.
        problem: String,
    },
    /// The operating system gave no randomness.
    #[error("failed to make a key: the system gave no randomness")]
    NoRandomness,
}

impl SigningKey {
    /// Makes a key and writes it to a new file that only its owner may read.
    pub fn create(path: &Path) -> Result<SigningKey, KeyError> {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())
            .map_err(|_| KeyError::NoRandomness)?;
        let failed = |source| KeyError::Write { path: path.to_owned(), source };
        let mut file = owner_only(path).map_err(failed)?;
        let text = pem(document.as_ref());
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
        Ok(SigningKey::from_der(document.as_ref()).expect("the key was made just now"))
    }

    /// Reads a private key from a PEM file.
    pub fn read(path: &Path) -> Result<SigningKey, KeyError> {
        let text = Zeroizing::new(read_text(path)?);
        let der = from_pem(&text).map(Zeroizing::new);
        let key = der.and_then(|der| SigningKey::from_der(&der));
        key.ok_or_else(|| KeyError::Private { path: path.to_owned() })
    }

    fn from_der(der: &[u8]) -> Option<SigningKey> {
        Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).ok().map(SigningKey)
    }

    /// The public half under a name.
    pub fn public(&self, name: &str) -> PublicKey {
        let bytes = self.0.public_key().as_ref().try_into();
        PublicKey { name: name.to_owned(), bytes: bytes.expect("an Ed25519 key has 32 bytes") }
    }

    /// Signs a message for one purpose.
    pub fn sign(&self, purpose: &str, message: &[u8]) -> Signature {
        Signature(STANDARD.encode(self.0.sign(&purposed(purpose, message))))
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(hidden)")
    }
}

impl PublicKey {
    /// Whether the private half signed this message for this purpose.
    pub fn verifies(&self, purpose: &str, message: &[u8], signature: &Signature) -> bool {
        let Ok(signature) = STANDARD.decode(&signature.0) else { return false };
        let key = UnparsedPublicKey::new(&ED25519, self.bytes);
        key.verify(&purposed(purpose, message), &signature).is_ok()
    }

    /// The line's second word.
    pub fn base64(&self) -> String {
        STANDARD.encode(self.bytes)
    }

    fn parse(line: &str) -> Option<PublicKey> {
        let (name, key) = line.split_once(char::is_whitespace)?;
        let bytes = STANDARD.decode(key.trim()).ok()?.try_into().ok()?;
        Some(PublicKey { name: name.to_owned(), bytes })
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.base64())
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl KeyRing {
    /// Reads a file of public keys: one `NAME BASE64` a line, `#` begins a remark.
    pub fn read(path: &Path) -> Result<KeyRing, KeyError> {
        KeyRing::parse(path, &read_text(path)?)
    }

    fn parse(path: &Path, text: &str) -> Result<KeyRing, KeyError> {
        let refuse =
            |line, problem: String| Err(KeyError::Public { path: path.to_owned(), line, problem });
        let mut keys: Vec<PublicKey> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let Some(key) = PublicKey::parse(line) else {
                let problem = "expected NAME and the Base64 of an Ed25519 public key, such as \
                               `sluice policy key` prints";
                return refuse(index + 1, problem.to_owned());
            };
            // One person with two keys, or one key under two names, could sign for two.
            if let Some(known) = keys.iter().find(|k| k.name == key.name || k.bytes == key.bytes) {
                let problem =
                    format!("expected each name and each key once, got {} again", known.name);
                return refuse(index + 1, problem);
            }
            keys.push(key);
        }
        match keys.is_empty() {
            true => refuse(0, "expected at least one public key, got none".to_owned()),
            false => Ok(KeyRing(keys)),
        }
    }

    /// All keys.
    pub fn keys(&self) -> &[PublicKey] {
        &self.0
    }

    /// The first key under which a signature holds.
    pub fn signer(
        &self,
        purpose: &str,
        message: &[u8],
        signature: &Signature,
    ) -> Option<&PublicKey> {
        self.0.iter().find(|key| key.verifies(purpose, message, signature))
    }
}

fn purposed(purpose: &str, message: &[u8]) -> Vec<u8> {
    [purpose.as_bytes(), b"\n", message].concat()
}

fn read_text(path: &Path) -> Result<String, KeyError> {
    let failed = |source| KeyError::Read { path: path.to_owned(), source };
    let bytes = std::fs::metadata(path).map_err(failed)?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(failed(std::io::Error::other(format!("{bytes} bytes are too many for keys"))));
    }
    std::fs::read_to_string(path).map_err(failed)
}

/// A new file with mode 0600; an existing one is never replaced, since a key cannot be had again.
fn owner_only(path: &Path) -> std::io::Result<std::fs::File> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

fn pem(der: &[u8]) -> Zeroizing<String> {
    let body = Zeroizing::new(STANDARD.encode(der));
    let mut text = Zeroizing::new(format!("{PEM_BEGIN}\n"));
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(PEM_LINE));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text.push_str(PEM_END);
    text.push('\n');
    text
}

fn from_pem(text: &str) -> Option<Vec<u8>> {
    let (_, after) = text.split_once(PEM_BEGIN)?;
    let (body, _) = after.split_once(PEM_END)?;
    let body: Zeroizing<String> = Zeroizing::new(body.split_whitespace().collect());
    STANDARD.decode(body.as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key of RFC 8410, section 10.3: the short form, without the public half, that OpenSSL writes.
    const OPENSSL_KEY: &str = "-----BEGIN PRIVATE KEY-----\n\
        MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
        -----END PRIVATE KEY-----\n";

    fn ring_of(text: &str) -> Result<KeyRing, String> {
        KeyRing::parse(Path::new("officers.pub"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn a_key_signs_what_its_public_half_verifies_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("officer.key");
        let made = SigningKey::create(&path).unwrap();
        let key = SigningKey::read(&path).unwrap();
        let public = made.public("a@example.org");
        assert_eq!(key.public("a@example.org"), public);
        let signature = key.sign("purpose", b"message");
        assert!(public.verifies("purpose", b"message", &signature));
        assert!(!public.verifies("another purpose", b"message", &signature));
        assert!(!public.verifies("purpose", b"massage", &signature));
        assert!(!public.verifies("purpose", b"message", &Signature("no base64".into())));
        let other = SigningKey::create(&folder.path().join("other.key")).unwrap().public("b");
        assert!(!other.verifies("purpose", b"message", &signature));
    }

    #[cfg(unix)]
    #[test]
    fn a_private_key_is_readable_by_its_owner_alone_and_never_replaced() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("officer.key");
        let first = SigningKey::create(&path).unwrap().public("a");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(SigningKey::create(&path), Err(KeyError::Write { .. })));
        assert_eq!(SigningKey::read(&path).unwrap().public("a"), first);
    }

    #[test]
    fn a_key_of_openssl_is_read_and_other_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        std::fs::write(&path, OPENSSL_KEY).unwrap();
        let expected = "Gb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=";
        assert_eq!(SigningKey::read(&path).unwrap().public("example").base64(), expected);
        for wrong in ["", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"] {
            std::fs::write(&path, wrong).unwrap();
            let error = SigningKey::read(&path).unwrap_err().to_string();
            assert!(error.contains("key.pem: expected an Ed25519 key in PEM"), "{error}");
        }
    }

    #[test]
    fn a_file_of_public_keys_says_which_line_is_wrong() {
        let (a, b) = ("Gb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=", STANDARD.encode([7; 32]));
        let ring = ring_of(&format!("# officers\n\nann {a}\nbob   {b}\n")).unwrap();
        let names: Vec<_> = ring.keys().iter().map(|key| key.name.as_str()).collect();
        assert_eq!(names, ["ann", "bob"]);
        for (text, expected) in [
            ("".to_owned(), "officers.pub:0: expected at least one public key"),
            (format!("ann {a}\nbob\n"), "officers.pub:2: expected NAME and the Base64"),
            (format!("ann {a}A\n"), "officers.pub:1: expected NAME and the Base64"),
            (format!("ann {a}\nbob {a}\n"), "officers.pub:2: expected each name and each key once"),
            (format!("ann {a}\nann {b}\n"), "officers.pub:2: expected each name and each key once"),
        ] {
            let error = ring_of(&text).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
