//! A server that is not there, or does not answer: what that costs, and what is not forgotten.

use std::sync::atomic::AtomicUsize;

use tokio::net::TcpListener;

use super::*;
use crate::config::Secret;

fn config(address: &str) -> SharedStateConfig {
    SharedStateConfig {
        redis: format!("redis://{address}/0"),
        user: None,
        password: None,
        key: Secret::new("a secret of all replicas".into()),
        taint_keep: Duration::from_secs(60),
        timeout: Duration::from_millis(100),
    }
}

/// Accepts connections and says nothing.
async fn silent() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    #[expect(clippy::disallowed_methods, reason = "it ends with the test's runtime")]
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::Relaxed);
            held.push(stream);
        }
    });
    (address, count)
}

#[tokio::test]
async fn a_silent_server_is_asked_once_and_then_left_alone() {
    let (address, connections) = silent().await;
    let state = SharedState::open(config(&address)).unwrap();
    assert!(state.is_up());
    assert_eq!(state.look_up(&[[1; 16]]).await, None);
    assert!(!state.is_up());
    for _ in 0..100 {
        assert_eq!(state.look_up(&[[1; 16]]).await, None);
    }
    assert_eq!(connections.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn fingerprints_that_find_no_room_are_not_forgotten_in_silence() {
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    let state = SharedState::open(config(&dead)).unwrap();
    for _ in 0..WORK_MAX {
        state.taint(vec![[1; 16]]);
    }
    assert!(!state.has_lost());
    for _ in 0..2 {
        state.taint(vec![[1; 16]]);
    }
    assert!(state.has_lost());
}

#[tokio::test]
async fn replicas_with_one_secret_make_the_same_fingerprints() {
    let key = |secret: &str| {
        let config = SharedStateConfig { key: Secret::new(secret.into()), ..config("127.0.0.1:1") };
        SharedState::open(config).unwrap().fingerprint_key()
    };
    assert_eq!(key("one"), key("one"));
    assert_ne!(key("one"), key("other"));
}
