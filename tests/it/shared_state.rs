//! Replicas that keep limits and taint together, and what they do when that place is away.
//!
//! With a `redis-server` on the PATH (Debian's package of that name) the first tests run against it;
//! without one they say that they were skipped. The last needs none.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::callers::write_keys;
use crate::cloud::{Cloud, Script};
use crate::gateway::{CARD, Gateway, say, with_cloud};

const PASSWORD: &str = "a password for the test";

/// A server of this test alone; it ends with it.
struct Redis {
    process: Child,
    address: SocketAddr,
    folder: tempfile::TempDir,
}

impl Redis {
    /// Starts one; `None` if there is none to start.
    async fn start() -> Option<Redis> {
        let address = Cloud::nowhere().await;
        let folder = tempfile::tempdir().unwrap();
        let config = format!(
            "bind 127.0.0.1\nport {}\nrequirepass \"{PASSWORD}\"\nsave \"\"\ndir {}\n",
            address.port(),
            folder.path().display()
        );
        let file = folder.path().join("redis.conf");
        std::fs::write(&file, config).unwrap();
        std::fs::write(folder.path().join("password"), PASSWORD).unwrap();
        let mut command = Command::new("redis-server");
        command.arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let Ok(process) = command.spawn() else {
            #[expect(clippy::print_stderr, reason = "a skipped test says so")]
            {
                eprintln!("skipped: found no redis-server on the PATH");
            }
            return None;
        };
        let redis = Redis { process, address, folder };
        for _ in 0..500 {
            if tokio::net::TcpStream::connect(address).await.is_ok() {
                return Some(redis);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("redis-server does not listen");
    }

    fn config(&self, cloud: SocketAddr, more: &str) -> String {
        with_cloud(cloud, &format!("{}{more}", shared(self.address, self.folder.path())))
    }

    fn stop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.stop();
    }
}

fn shared(address: SocketAddr, folder: &Path) -> String {
    let password = folder.join("password");
    format!(
        "shared_state: {{redis: \"redis://{address}\", password_file: {password:?}, timeout: 2s}}\n"
    )
}

async fn state(gateway: &Gateway) -> String {
    let status = gateway.operate(hyper::Method::GET, "/admin/v1/status", "").await;
    status.json()["shared_state"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn replicas_count_together_and_each_for_itself_when_the_server_is_gone() {
    let Some(mut redis) = Redis::start().await else { return };
    let cloud = Cloud::start(Script::Answer).await;
    let limits = "limits: {per_caller: {requests_per_minute: 3}}\n";
    let config = redis.config(cloud.address, limits);
    let (one, other) = (Gateway::start(&config).await, Gateway::start(&config).await);
    for (gateway, remaining) in [(&one, "2"), (&other, "1"), (&one, "0")] {
        let reply = gateway.chat(say("Hello")).await;
        reply.came_from("cloud", 200);
        assert_eq!(reply.header("x-ratelimit-remaining-requests"), remaining);
    }
    for gateway in [&one, &other] {
        let denied = gateway.chat(say("Hello")).await;
        assert_eq!(denied.status, 429);
        assert_eq!(denied.header("x-ratelimit-remaining-requests"), "0");
        assert_eq!(state(gateway).await, "up");
    }
    redis.stop();
    for gateway in [&one, &other] {
        for expected in [200, 200, 200, 429] {
            assert_eq!(gateway.chat(say("Hello")).await.status.as_u16(), expected);
        }
        assert_eq!(state(gateway).await, "away");
    }
}

#[tokio::test]
async fn tokens_are_settled_for_all_replicas() {
    let Some(redis) = Redis::start().await else { return };
    let cloud = Cloud::start(Script::Answer).await;
    let config = redis.config(cloud.address, "limits: {per_caller: {tokens_per_minute: 100000}}\n");
    let (one, other) = (Gateway::start(&config).await, Gateway::start(&config).await);
    let long = "words and words ".repeat(2000);
    let reply = one.chat(say(&long)).await;
    let reserved: u64 = reply.header("x-ratelimit-remaining-tokens").parse().unwrap();
    let after = async || {
        let reply = other.chat(say("Hello")).await;
        reply.header("x-ratelimit-remaining-tokens").parse::<u64>().unwrap()
    };
    for _ in 0..500 {
        if after().await > reserved + 5000 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the estimate still stands: {reserved}");
}

#[tokio::test]
async fn a_conversation_that_was_private_at_one_replica_is_private_at_all() {
    let Some(redis) = Redis::start().await else { return };
    let cloud = Cloud::start(Script::Answer).await;
    let config = redis.config(cloud.address, "");
    let (one, other) = (Gateway::start(&config).await, Gateway::start(&config).await);
    let session = [("x-sluice-session", "s1")];
    one.chat_with(&session, say(&format!("Refund {CARD} please"))).await.came_from("edge", 200);
    for _ in 0..500 {
        let reply = other.chat_with(&session, say("And now?")).await;
        if reply.header("x-sluice-route") == "edge" {
            other.chat_with(&[("x-sluice-session", "s2")], say("Hi")).await.came_from("cloud", 200);
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the other replica does not know");
}

#[tokio::test]
async fn with_a_dead_server_limits_hold_here_and_a_history_is_assumed_private() {
    let cloud = Cloud::start(Script::Answer).await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("password"), PASSWORD).unwrap();
    let dead = shared(Cloud::nowhere().await, folder.path());
    let limits = "limits: {per_caller: {requests_per_minute: 4}}\n";
    let gateway = Gateway::start(&with_cloud(cloud.address, &format!("{dead}{limits}"))).await;
    gateway.chat(say("Hello")).await.came_from("cloud", 200);
    let session = [("x-sluice-session", "s1")];
    let assumed = gateway.chat_with(&session, say("And now?")).await;
    assumed.came_from("edge", 200);
    assert_eq!(assumed.header("x-sluice-class"), "regulated");
    assert_eq!(state(&gateway).await, "away");
    gateway.chat(say("Hello")).await.came_from("cloud", 200);
    gateway.chat(say("Hello")).await.came_from("cloud", 200);
    assert_eq!(gateway.chat(say("Hello")).await.status, 429);
}

#[tokio::test]
async fn without_the_shared_place_a_gateway_is_ready_and_knows_its_callers() {
    let cloud = Cloud::start(Script::Answer).await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("password"), PASSWORD).unwrap();
    let keys = write_keys(folder.path(), &[("anna", "north")]);
    let dead = shared(Cloud::nowhere().await, folder.path());
    let more = format!("identity: {{keys: $FOLDER/keys.yaml}}\n{dead}");
    let gateway = Gateway::start_in(folder, &with_cloud(cloud.address, &more)).await;
    let key = [("authorization", keys[0].as_str())];
    for _ in 0..3 {
        gateway.chat_with(&key, say("Hello")).await.came_from("cloud", 200);
        for path in ["/livez", "/readyz"] {
            assert_eq!(gateway.probe(path).await.status, 200, "{path}");
        }
    }
    assert_eq!(state(&gateway).await, "away");
    assert_eq!(gateway.audit_lines(1).await[0]["caller"], "anna");
}
