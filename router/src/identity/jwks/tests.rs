//! Keys from a small issuer on this machine that counts how often it is asked.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::*;
use crate::config::BaseUrl;

/// Signs with ring, so that tokens are of now.
struct Issuer {
    key: ring::signature::Ed25519KeyPair,
    kid: &'static str,
}

impl Issuer {
    fn new(kid: &'static str, seed: u8) -> Issuer {
        let key = ring::signature::Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
        Issuer { key, kid }
    }

    fn jwk(&self) -> Value {
        use ring::signature::KeyPair;
        json!({"kty": "OKP", "crv": "Ed25519", "kid": self.kid, "x": b64(self.key.public_key().as_ref())})
    }

    fn token(&self) -> String {
        let header = json!({"alg": "EdDSA", "kid": self.kid});
        let end = Timestamp::now().as_second() + 600;
        let claims = json!({"iss": "i", "aud": "a", "sub": "anna", "exp": end});
        let signed = format!(
            "{}.{}",
            b64(header.to_string().as_bytes()),
            b64(claims.to_string().as_bytes())
        );
        format!("{signed}.{}", b64(self.key.sign(signed.as_bytes()).as_ref()))
    }
}

fn b64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// Answers every request with what `answers` has for it, the last one again and again.
async fn serve(answers: Vec<String>) -> (String, Arc<AtomicUsize>) {
    serve_slowly(answers, Arc::new(Semaphore::new(1000))).await
}

/// The same, each when it is let.
async fn serve_slowly(answers: Vec<String>, lets: Arc<Semaphore>) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/keys", listener.local_addr().unwrap());
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    #[expect(clippy::disallowed_methods, reason = "it ends with the test's runtime")]
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let number = counted.fetch_add(1, Ordering::Relaxed);
            let mut head = [0; 4096];
            let _ = stream.read(&mut head).await;
            lets.acquire().await.unwrap().forget();
            let answer = answers.get(number).or(answers.last()).unwrap();
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (url, count)
}

fn answer(status: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}")
}

fn set(issuers: &[&Issuer]) -> String {
    let keys: Vec<Value> = issuers.iter().map(|issuer| issuer.jwk()).collect();
    answer("200 OK", &json!({"keys": keys}).to_string())
}

fn oidc(jwks: JwksSource) -> Oidc {
    Oidc::open(OidcConfig {
        issuer: "i".into(),
        audience: "a".into(),
        jwks,
        caller_claim: "sub".into(),
        tenant_claim: None,
        tags_claim: None,
    })
    .unwrap()
}

fn at(url: &str) -> Oidc {
    oidc(JwksSource::Url(BaseUrl::parse(url).unwrap()))
}

#[tokio::test]
async fn an_address_is_asked_once_for_many_tokens() {
    let issuer = Issuer::new("one", 1);
    let (url, asked) = serve(vec![set(&[&issuer])]).await;
    let oidc = at(&url);
    assert_eq!(asked.load(Ordering::Relaxed), 0);
    let token = issuer.token();
    let (a, b) = tokio::join!(oidc.identify(&token), oidc.identify(&token));
    assert_eq!(a.unwrap().id.as_deref(), Some("oidc:anna"));
    assert!(b.is_some() && oidc.identify(&token).await.is_some());
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn unknown_key_ids_do_not_make_the_gateway_ask_again_and_again() {
    let (old, new) = (Issuer::new("old", 1), Issuer::new("new", 2));
    let (url, asked) = serve(vec![set(&[&old]), set(&[&old, &new])]).await;
    let oidc = at(&url);
    assert!(oidc.identify(&old.token()).await.is_some());
    for _ in 0..20 {
        assert!(oidc.identify(&new.token()).await.is_none(), "asked a moment ago");
    }
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    // A minute later the issuer's new key is found.
    *oidc.asked.lock().await = Instant::now().checked_sub(REFETCH_EVERY);
    assert!(oidc.identify(&new.token()).await.is_some());
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_client_that_leaves_does_not_end_the_question_for_others() {
    let (issuer, lets) = (Issuer::new("one", 1), Arc::new(Semaphore::new(0)));
    let (url, asked) = serve_slowly(vec![set(&[&issuer])], lets.clone()).await;
    let oidc = at(&url);
    let was_asked = async {
        while asked.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        _ = oidc.identify("e30.e30.e30") => panic!("there are no keys yet"),
        () = was_asked => {}
    }
    lets.add_permits(1);
    assert!(oidc.identify(&issuer.token()).await.is_some());
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn nobody_waits_for_newer_keys_while_the_old_ones_count() {
    let (old, new) = (Issuer::new("old", 1), Issuer::new("new", 2));
    let lets = Arc::new(Semaphore::new(1));
    let (url, asked) = serve_slowly(vec![set(&[&old]), set(&[&new])], lets.clone()).await;
    let oidc = at(&url);
    assert!(oidc.identify(&old.token()).await.is_some());
    tokio::time::pause();
    tokio::time::advance(KEYS_FRESH).await;
    tokio::time::resume();
    for _ in 0..3 {
        assert!(oidc.identify(&old.token()).await.is_some());
    }
    assert!(oidc.asked.try_lock().is_err(), "the issuer is asked meanwhile");
    lets.add_permits(1);
    drop(oidc.asked.lock().await);
    assert!(oidc.verify(&new.token()).is_ok() && oidc.verify(&old.token()).is_err());
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn an_answer_that_is_none_keeps_what_was_known() {
    let issuer = Issuer::new("one", 1);
    let redirect = "HTTP/1.1 302 Found\r\nlocation: /other\r\ncontent-length: 0\r\n\r\n".to_owned();
    for bad in [answer("500 Oops", "{}"), answer("200 OK", "<html>"), redirect] {
        let (url, asked) = serve(vec![set(&[&issuer]), bad]).await;
        let oidc = at(&url);
        assert!(oidc.identify(&issuer.token()).await.is_some());
        *oidc.asked.lock().await = None;
        assert!(oidc.identify(&Issuer::new("other", 2).token()).await.is_none());
        assert_eq!(asked.load(Ordering::Relaxed), 2);
        assert!(oidc.identify(&issuer.token()).await.is_some());
    }
}

#[test]
fn keys_of_a_silent_issuer_count_for_a_day() {
    for (age, expected) in [
        (None, false),
        (Some(KEYS_FRESH), true),
        (Some(KEYS_AGE_MAX), true),
        (Some(KEYS_AGE_MAX + Duration::from_secs(1)), false),
    ] {
        assert_eq!(may_be_used(age), expected, "{age:?}");
    }
}

#[tokio::test]
async fn a_file_is_read_at_once_and_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jwks.json");
    let (old, new) = (Issuer::new("old", 1), Issuer::new("new", 2));
    let write = |issuer: &Issuer| {
        std::fs::write(&path, json!({"keys": [issuer.jwk()]}).to_string()).unwrap();
    };
    write(&old);
    let oidc = oidc(JwksSource::File(path.clone()));
    assert!(oidc.identify(&old.token()).await.is_some());
    write(&new);
    assert!(oidc.identify(&new.token()).await.is_none());
    oidc.reload().unwrap();
    assert!(oidc.identify(&new.token()).await.is_some());
    assert!(oidc.identify(&old.token()).await.is_none());
}
