//! Tokens that PyJWT signed, whole and spoilt, in `tokens.json`: made once with keys that nobody has kept.

use serde_json::Value;

use super::*;
use crate::config::JwksSource;

fn tokens() -> Value {
    serde_json::from_str(include_str!("tokens.json")).unwrap()
}

fn config() -> OidcConfig {
    OidcConfig {
        issuer: "https://id.hospital.example".into(),
        audience: "sluice".into(),
        jwks: JwksSource::File("unused".into()),
        caller_claim: "sub".into(),
        tenant_claim: Some("org".into()),
        tags_claim: Some("roles".into()),
    }
}

fn keys(tokens: &Value) -> KeySet {
    KeySet::parse(tokens["jwks"].to_string().as_bytes()).unwrap()
}

/// Quarter of an hour and a bit after the tokens begin.
fn now() -> Timestamp {
    Timestamp::from_second(1_795_001_000).unwrap()
}

#[test]
fn what_an_issuer_signed_names_caller_tenant_and_tags() {
    let tokens = tokens();
    for (name, token) in tokens["good"].as_object().unwrap() {
        let token = token.as_str().unwrap();
        assert!(looks_like_one(token), "{name}");
        let caller = verify(token, &keys(&tokens), &config(), now()).expect(name);
        assert_eq!(caller.id.as_deref(), Some("oidc:anna"), "{name}");
        assert_eq!(&*caller.tenant, "north", "{name}");
        assert_eq!(caller.tags, BTreeSet::from(["phi".to_owned(), "night".to_owned()]), "{name}");
    }
}

#[test]
fn what_is_spoilt_is_refused_for_its_reason() {
    let tokens = tokens();
    for (name, case) in tokens["bad"].as_object().unwrap() {
        let token = case[0].as_str().unwrap();
        let rejected = verify(token, &keys(&tokens), &config(), now()).expect_err(name);
        assert_eq!(format!("{rejected:?}"), case[1].as_str().unwrap(), "{name}");
    }
}

#[test]
fn clocks_may_be_a_minute_apart_and_no_more() {
    let tokens = tokens();
    let token = tokens["good"]["EdDSA"].as_str().unwrap();
    for (second, expected) in [
        (1_795_000_000 - 60, true),
        (1_795_000_000 - 61, false),
        (1_795_003_600 + 59, true),
        (1_795_003_600 + 60, false),
    ] {
        let now = Timestamp::from_second(second).unwrap();
        let verified = verify(token, &keys(&tokens), &config(), now);
        assert_eq!(verified.is_ok(), expected, "{second}");
    }
}

#[test]
fn a_set_without_a_usable_key_is_no_set() {
    for json in ["", "[]", "{\"keys\": []}", "{\"keys\": [{\"kty\": \"oct\", \"k\": \"AA\"}]}"] {
        assert!(KeySet::parse(json.as_bytes()).is_err(), "{json}");
    }
}

#[test]
fn no_byte_of_a_token_can_be_changed() {
    let tokens = tokens();
    let token = tokens["good"]["ES256"].as_str().unwrap();
    for at in 0..token.len() {
        let mut spoilt = token.as_bytes().to_vec();
        spoilt[at] = if spoilt[at] == b'A' { b'B' } else { b'A' };
        let spoilt = String::from_utf8(spoilt).unwrap();
        assert!(verify(&spoilt, &keys(&tokens), &config(), now()).is_err(), "byte {at}");
    }
}
