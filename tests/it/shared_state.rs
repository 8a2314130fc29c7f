//! Replicas that keep limits and taint together, and what they do when that place is away.
//!
//! With a `redis-server` on the PATH (Debian's package of that name) the first tests run against it;
//! without one they say that they were skipped. The last needs none.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::callers::write_keys;
use crate::cloud::{Cloud, Script};
use crate::gateway::{CARD, Gateway, Reply, say, with_cloud};

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
        std::fs::write(folder.path().join("redis.conf"), config).unwrap();
        std::fs::write(folder.path().join("password"), PASSWORD).unwrap();
        let Ok(process) = spawn(folder.path()) else {
            #[expect(clippy::print_stderr, reason = "a skipped test says so")]
            {
                eprintln!("skipped: found no redis-server on the PATH");
            }
            return None;
        };
        let redis = Redis { process, address, folder };
        redis.connect().await;
        Some(redis)
    }

    /// Ends it and starts it again, without the data that it had.
    async fn restart(&mut self) {
        self.stop();
        self.process = spawn(self.folder.path()).unwrap();
        self.connect().await;
    }

    async fn connect(&self) -> TcpStream {
        for _ in 0..500 {
            if let Ok(stream) = TcpStream::connect(self.address).await {
                return stream;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("redis-server does not listen");
    }

    /// Does what an operator would do with `redis-cli`.
    async fn command(&self, command: &str) {
        let mut stream = self.connect().await;
        let lines = format!("AUTH \"{PASSWORD}\"\r\n{command}\r\nQUIT\r\n");
        stream.write_all(lines.as_bytes()).await.unwrap();
        let mut answers = String::new();
        stream.read_to_string(&mut answers).await.unwrap();
        assert!(!answers.contains('-'), "{answers}");
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

fn spawn(folder: &Path) -> std::io::Result<Child> {
    let mut command = Command::new("redis-server");
    command.arg(folder.join("redis.conf"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
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
    in_session(&one, "s1", &format!("Refund {CARD} please")).await.came_from("edge", 200);
    until_private(&other, "s1").await;
    in_session(&other, "s2", "Hi").await.came_from("cloud", 200);
}

async fn in_session(gateway: &Gateway, session: &str, text: &str) -> Reply {
    gateway.chat_with(&[("x-sluice-session", session)], say(text)).await
}

async fn until_private(gateway: &Gateway, session: &str) {
    for _ in 0..500 {
        let reply = in_session(gateway, session, "And now?").await;
        if reply.header("x-sluice-route") == "edge" {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the other replica does not know");
}

/// Continues conversations, which must stay private meanwhile, until the server is there again.
async fn until_back(gateway: &Gateway, session: &str) {
    for number in 0..500 {
        in_session(gateway, &format!("{session}-{number}"), "Hi").await.came_from("edge", 200);
        if state(gateway).await == "up" {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the server is still away");
}

#[tokio::test]
async fn a_server_that_comes_back_empty_makes_no_conversation_clean() {
    let Some(mut redis) = Redis::start().await else { return };
    let cloud = Cloud::start(Script::Answer).await;
    let config = redis.config(cloud.address, "");
    let (one, other) = (Gateway::start(&config).await, Gateway::start(&config).await);
    let taint = async |gateway: &Gateway| gateway.probe("/readyz").await.json()["taint"].clone();
    in_session(&one, "s1", &format!("Refund {CARD} please")).await.came_from("edge", 200);
    in_session(&one, "s2", "Hi").await.came_from("cloud", 200);
    until_private(&other, "s1").await;
    in_session(&other, "s2", "Hi").await.came_from("cloud", 200);
    assert_eq!(taint(&other).await, "shared");
    redis.restart().await;
    until_back(&other, "a").await;
    in_session(&other, "s3", "Hi").await.came_from("edge", 200);
    assert_eq!(taint(&other).await, "incomplete");
    // So does one that never knew the store as it was; what has no history is as free as ever.
    let third = Gateway::start(&config).await;
    in_session(&third, "s4", "Hi").await.came_from("edge", 200);
    third.chat(say("Hello")).await.came_from("cloud", 200);
    // Who knows more tells it again, and an operator may end the caution.
    until_back(&one, "b").await;
    redis.command("DEL sluice:loss").await;
    in_session(&third, "s5", "Hi").await.came_from("cloud", 200);
    until_private(&third, "s1").await;
    assert_eq!(taint(&third).await, "shared");
}

#[tokio::test]
async fn a_store_that_is_emptied_under_way_makes_no_conversation_clean() {
    let Some(redis) = Redis::start().await else { return };
    let cloud = Cloud::start(Script::Answer).await;
    let gateway = Gateway::start(&redis.config(cloud.address, "")).await;
    in_session(&gateway, "s1", "Hi").await.came_from("cloud", 200);
    redis.command("FLUSHALL").await;
    for session in ["s2", "s3"] {
        in_session(&gateway, session, "Hi").await.came_from("edge", 200);
    }
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
