//! Who is known, by what, and until when.

use hyper::header::HeaderValue;
use jiff::Timestamp;

use super::keys::NewKey;
use super::*;

/// SHA-256 of `sk-ward`.
const WARD: &str = "67684c9ac0e4a4bbdcd6fa6feaee0ab60f15958889138a791a5cd557fffa7892";

fn callers(entries: &str) -> Callers {
    let callers = Callers::nobody();
    callers.list(serde_yaml::from_str(entries).unwrap());
    callers
}

fn ward() -> Callers {
    callers(&format!("keys: [{{id: ward-app, sha256: {WARD}, tenant: north, tags: [phi]}}]"))
}

fn headers(authorization: &'static str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, HeaderValue::from_static(authorization));
    headers
}

#[tokio::test]
async fn a_known_key_brings_its_id_tenant_and_tags() {
    let caller = ward().identify(&headers("Bearer sk-ward"), None).await;
    assert_eq!(caller.id.as_deref(), Some("ward-app"));
    assert_eq!(&*caller.tenant, "north");
    assert!(caller.tags.contains("phi"));
}

#[tokio::test]
async fn a_key_may_come_as_anthropics_clients_send_it_but_a_bearer_key_counts_first() {
    let with = async |key: &'static str, authorization: Option<&'static str>| {
        let mut all = authorization.map(headers).unwrap_or_default();
        all.insert("x-api-key", HeaderValue::from_static(key));
        ward().identify(&all, None).await.id
    };
    assert_eq!(with("sk-ward", None).await.as_deref(), Some("ward-app"));
    assert_eq!(with("sk-other", None).await, None);
    assert_eq!(with("sk-ward", Some("Bearer sk-other")).await, None);
    assert_eq!(with("sk-other", Some("Bearer sk-ward")).await.as_deref(), Some("ward-app"));
}

#[tokio::test]
async fn any_other_key_leaves_the_caller_unknown() {
    for wrong in ["Bearer sk-war", "Bearer ", "Basic sk-ward", "sk-ward", "Bearer eyJh.eyJi.c"] {
        assert_eq!(ward().identify(&headers(wrong), None).await.id, None, "{wrong}");
    }
    assert_eq!(ward().identify(&HeaderMap::new(), None).await.id, None);
}

#[tokio::test]
async fn without_keys_everybody_is_anyone_in_a_trial_and_nobody_in_production() {
    let asked = headers("Bearer sk-ward");
    for (mode, expected) in [(Mode::Trial, Some(ANYONE)), (Mode::Production, None)] {
        let callers = Callers::open(&Identity::default(), mode).unwrap();
        assert_eq!(callers.identify(&asked, None).await.id.as_deref(), expected);
    }
}

#[tokio::test]
async fn an_expired_or_revoked_key_is_nobodys() {
    for (more, expected) in [
        ("expires: 2999-12-31", Some("a")),
        ("expires: 2020-12-31", None),
        ("revoked: 2026-11-28T12:00:00Z", None),
    ] {
        let callers = callers(&format!("keys: [{{id: a, sha256: {WARD}, {more}}}]"));
        let caller = callers.identify(&headers("Bearer sk-ward"), None).await;
        assert_eq!(caller.id.as_deref(), expected, "{more}");
    }
}

#[tokio::test]
async fn a_certificate_counts_where_no_credential_is_shown() {
    let callers = callers(&format!(
        "keys: [{{id: scanner, certificate: \"dns:ward.example\", tenant: north}}, \
         {{id: app, sha256: {WARD}}}]"
    ));
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["ward.example".to_owned()]).unwrap();
    let peer = PeerNames::read(params.self_signed(&key).unwrap().der()).unwrap();
    let who = async |headers: &HeaderMap, peer| callers.identify(headers, peer).await.id;
    assert_eq!(who(&HeaderMap::new(), Some(&peer)).await.as_deref(), Some("scanner"));
    assert_eq!(who(&headers("Bearer sk-ward"), Some(&peer)).await.as_deref(), Some("app"));
    assert_eq!(who(&headers("Bearer sk-other"), Some(&peer)).await, None);
    assert_eq!(who(&HeaderMap::new(), None).await, None);
}

#[tokio::test]
async fn a_file_read_again_counts_as_a_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.yaml");
    let mut file = KeysFile::default();
    let new = NewKey { id: "one".into(), ..NewKey::default() };
    let key = file.create(new, Timestamp::now()).unwrap().unwrap();
    file.write(&path).unwrap();
    let config = Identity { keys: Some(path.clone()), ..Identity::default() };
    let callers = Callers::open(&config, Mode::Production).unwrap();
    let mut asked = HeaderMap::new();
    let bearer = format!("Bearer {}", key.expose());
    asked.insert(AUTHORIZATION, HeaderValue::from_str(&bearer).unwrap());
    assert_eq!(callers.identify(&asked, None).await.id.as_deref(), Some("one"));

    std::fs::write(&path, "keys: [{id: one}]").unwrap();
    assert!(callers.reload().is_err());
    assert_eq!(callers.identify(&asked, None).await.id.as_deref(), Some("one"));

    file.revoke("one", Timestamp::now()).unwrap();
    file.write(&path).unwrap();
    callers.reload().unwrap();
    assert_eq!(callers.identify(&asked, None).await.id, None);
}
