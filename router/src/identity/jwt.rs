//! Checks a signed token (JWT) against an issuer's public keys, and reads whose it is.
//!
//! The algorithm is the key's, never the token's: a token that names another than its key is made for is
//! refused, so `none` and a public key used as an HMAC secret have no way in. Symmetric keys are never
//! read at all. Every claim that limits a token is checked (`iss`, `aud`, `exp`, `nbf`, `iat`); a token
//! without an end is refused.
//!
//! Invariant: no error holds a part of a token. Not here: where keys come from (`jwks`).
//! Sources: RFC 7515, 7517, 7518, 7519, 8037; RFC 8725 for what goes wrong.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jiff::Timestamp;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RsaParameters, RsaPublicKeyComponents,
    UnparsedPublicKey, VerificationAlgorithm,
};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::Caller;
use crate::config::OidcConfig;

/// Longest token, bytes.
const TOKEN_BYTES_MAX: usize = 16 << 10;
/// How far clocks may be apart, seconds.
const CLOCK_SKEW_S: i64 = 60;
/// Longest caller or tenant, bytes.
const NAME_BYTES_MAX: usize = 256;
/// Most tags of one token.
const TAGS_MAX: usize = 64;

/// The public keys of an issuer that can be used here.
#[derive(Debug, Default)]
pub(super) struct KeySet {
    keys: Vec<PublicKey>,
}

#[derive(Debug)]
struct PublicKey {
    id: Option<String>,
    /// The one algorithm that it is for, if the set says so.
    alg: Option<String>,
    kind: KeyKind,
}

#[derive(Debug)]
enum KeyKind {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    P256(Vec<u8>),
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
}

/// Why a token is nobody's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rejected {
    /// It is not three parts of base64url with JSON inside, or too long.
    Malformed,
    /// It demands an extension that is not known here.
    Critical,
    /// No key of the set is meant: perhaps a newer set has it.
    UnknownKey,
    /// The algorithm does not fit the key.
    Algorithm,
    /// The signature is wrong.
    Signature,
    /// Another issuer made it.
    Issuer,
    /// It is for somebody else.
    Audience,
    /// It has no end, or has ended, or has not begun.
    Time,
    /// A claim that says whose it is is missing or odd.
    Claims,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<Value>,
}

#[derive(Deserialize)]
struct Jwks {
    keys: Vec<Map<String, Value>>,
}

impl KeySet {
    /// Reads a set. Keys for other purposes and of unknown kinds are left out.
    pub(super) fn parse(json: &[u8]) -> Result<KeySet, String> {
        let set: Jwks = serde_json::from_slice(json)
            .map_err(|e| format!("expected a JSON Web Key Set, got {:?} data", e.classify()))?;
        let keys: Vec<PublicKey> = set.keys.iter().filter_map(PublicKey::read).collect();
        if keys.is_empty() {
            return Err("expected at least one public key for signatures (RSA, EC or OKP)".into());
        }
        Ok(KeySet { keys })
    }

    fn key(&self, id: Option<&str>) -> Result<&PublicKey, Rejected> {
        match (id, &self.keys[..]) {
            (Some(id), keys) => {
                let found = keys.iter().find(|key| key.id.as_deref() == Some(id));
                found.ok_or(Rejected::UnknownKey)
            }
            (None, [only]) => Ok(only),
            (None, _) => Err(Rejected::UnknownKey),
        }
    }
}

impl PublicKey {
    fn read(jwk: &Map<String, Value>) -> Option<PublicKey> {
        let text = |name: &str| jwk.get(name).and_then(Value::as_str);
        let bytes = |name: &str| BASE64_URL_SAFE_NO_PAD.decode(text(name)?).ok();
        if text("use").is_some_and(|purpose| purpose != "sig") {
            return None;
        }
        let point = |length: usize| {
            let (x, y) = (bytes("x")?, bytes("y")?);
            (x.len() == length && y.len() == length).then(|| [&[4], &x[..], &y[..]].concat())
        };
        let kind = match (text("kty")?, text("crv")) {
            ("RSA", _) => KeyKind::Rsa { n: bytes("n")?, e: bytes("e")? },
            ("EC", Some("P-256")) => KeyKind::P256(point(32)?),
            ("EC", Some("P-384")) => KeyKind::P384(point(48)?),
            ("OKP", Some("Ed25519")) => KeyKind::Ed25519(bytes("x")?),
            _ => return None,
        };
        Some(PublicKey {
            id: text("kid").map(str::to_owned),
            alg: text("alg").map(str::to_owned),
            kind,
        })
    }

    fn verify(&self, alg: &str, message: &[u8], signature: &[u8]) -> Result<(), Rejected> {
        if self.alg.as_deref().is_some_and(|only| only != alg) {
            return Err(Rejected::Algorithm);
        }
        let by = |algorithm: &'static dyn VerificationAlgorithm, key: &[u8]| {
            UnparsedPublicKey::new(algorithm, key).verify(message, signature)
        };
        let verified = match (&self.kind, alg) {
            (KeyKind::P256(key), "ES256") => by(&ECDSA_P256_SHA256_FIXED, key),
            (KeyKind::P384(key), "ES384") => by(&ECDSA_P384_SHA384_FIXED, key),
            (KeyKind::Ed25519(key), "EdDSA") => by(&ED25519, key),
            (KeyKind::Rsa { n, e }, alg) => {
                let parameters = rsa(alg).ok_or(Rejected::Algorithm)?;
                RsaPublicKeyComponents { n, e }.verify(parameters, message, signature)
            }
            _ => return Err(Rejected::Algorithm),
        };
        verified.map_err(|_| Rejected::Signature)
    }
}

fn rsa(alg: &str) -> Option<&'static RsaParameters> {
    match alg {
        "RS256" => Some(&RSA_PKCS1_2048_8192_SHA256),
        "RS384" => Some(&RSA_PKCS1_2048_8192_SHA384),
        "RS512" => Some(&RSA_PKCS1_2048_8192_SHA512),
        _ => None,
    }
}

/// Whether a bearer credential looks like a signed token rather than a key.
pub(super) fn looks_like_one(credential: &str) -> bool {
    credential.starts_with("eyJ") && credential.bytes().filter(|byte| *byte == b'.').count() == 2
}

/// Says whose a token is.
pub(super) fn verify(
    token: &str,
    keys: &KeySet,
    config: &OidcConfig,
    now: Timestamp,
) -> Result<Caller, Rejected> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(Rejected::Malformed);
    }
    let mut parts = token.split('.');
    let (Some(header), Some(claims), Some(signature), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Rejected::Malformed);
    };
    let signed = &token.as_bytes()[..header.len() + 1 + claims.len()];
    let header: Header = json(header)?;
    if header.crit.is_some() {
        return Err(Rejected::Critical);
    }
    let signature = decode(signature)?;
    keys.key(header.kid.as_deref())?.verify(&header.alg, signed, &signature)?;
    // Claims are read only of a token that the issuer has signed.
    caller(&json(claims)?, config, now)
}

fn decode(part: &str) -> Result<Vec<u8>, Rejected> {
    BASE64_URL_SAFE_NO_PAD.decode(part).map_err(|_| Rejected::Malformed)
}

fn json<T: serde::de::DeserializeOwned>(part: &str) -> Result<T, Rejected> {
    serde_json::from_slice(&decode(part)?).map_err(|_| Rejected::Malformed)
}

fn caller(
    claims: &Map<String, Value>,
    config: &OidcConfig,
    now: Timestamp,
) -> Result<Caller, Rejected> {
    if claims.get("iss").and_then(Value::as_str) != Some(&config.issuer) {
        return Err(Rejected::Issuer);
    }
    if !is_for(claims.get("aud"), &config.audience) {
        return Err(Rejected::Audience);
    }
    check_times(claims, now.as_second())?;
    let name = plain(claims, &config.caller_claim)?;
    let tenant = match &config.tenant_claim {
        Some(claim) => plain(claims, claim)?,
        None => super::DEFAULT_TENANT,
    };
    let tags = match &config.tags_claim {
        Some(claim) => tags(claims.get(claim))?,
        None => BTreeSet::new(),
    };
    // Prefixed, so that no token can be taken for a key of the same name.
    Ok(Caller { id: Some(format!("oidc:{name}")), tenant: tenant.into(), tags })
}

fn is_for(audience: Option<&Value>, expected: &str) -> bool {
    match audience {
        Some(Value::String(one)) => one == expected,
        Some(Value::Array(many)) => many.iter().any(|one| one.as_str() == Some(expected)),
        _ => false,
    }
}

fn check_times(claims: &Map<String, Value>, now: i64) -> Result<(), Rejected> {
    let time = |name: &str| match claims.get(name) {
        None => Ok(None),
        // Fractions of a second are allowed and of no use.
        Some(value) => value.as_f64().map(|s| Some(s as i64)).ok_or(Rejected::Time),
    };
    let end = time("exp")?.ok_or(Rejected::Time)?;
    let begins = [time("nbf")?, time("iat")?];
    let has_begun = begins.iter().flatten().all(|begin| *begin <= now + CLOCK_SKEW_S);
    if now < end.saturating_add(CLOCK_SKEW_S) && has_begun { Ok(()) } else { Err(Rejected::Time) }
}

fn plain<'a>(claims: &'a Map<String, Value>, name: &str) -> Result<&'a str, Rejected> {
    let text = claims.get(name).and_then(Value::as_str).ok_or(Rejected::Claims)?;
    let is_plain =
        !text.is_empty() && text.len() <= NAME_BYTES_MAX && !text.chars().any(char::is_control);
    if is_plain { Ok(text) } else { Err(Rejected::Claims) }
}

/// A list, or words with spaces between them; no claim is no tag.
fn tags(claim: Option<&Value>) -> Result<BTreeSet<String>, Rejected> {
    let tags: BTreeSet<String> = match claim {
        None | Some(Value::Null) => BTreeSet::new(),
        Some(Value::String(words)) => words.split_whitespace().map(str::to_owned).collect(),
        Some(Value::Array(list)) => list
            .iter()
            .map(|tag| tag.as_str().map(str::to_owned).ok_or(Rejected::Claims))
            .collect::<Result<_, _>>()?,
        Some(_) => return Err(Rejected::Claims),
    };
    // Tags can only raise a class, so none may be left out in silence.
    if tags.len() > TAGS_MAX { Err(Rejected::Claims) } else { Ok(tags) }
}

#[cfg(test)]
mod tests;
