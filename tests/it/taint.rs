//! A conversation that was private stays private over a restart, whatever became of the file.

use std::path::PathBuf;

use crate::cloud::{Cloud, Script};
use crate::gateway::{CARD, Gateway, say, say_streamed, shows_card, with_cloud};

const SESSION: [(&str, &str); 1] = [("x-sluice-session", "s1")];

fn ledger(gateway: &Gateway) -> PathBuf {
    gateway.folder().join("taint/taint.log")
}

/// A conversation of two turns whose first reply came from `told`.
fn history(told: &str) -> serde_json::Value {
    let mut body = say("And now?");
    body["messages"] = serde_json::json!([
        {"role": "assistant", "content": told},
        {"role": "user", "content": "And now?"},
    ]);
    body
}

async fn word(gateway: &Gateway) -> String {
    gateway.probe("/readyz").await.json()["taint"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_private_session_and_a_private_reply_are_known_after_a_restart() {
    let cloud = Cloud::start(Script::Answer).await;
    let config = with_cloud(cloud.address, "").replace("fsync: never", "fsync: every_record");
    let gateway = Gateway::start(&config).await;
    let private = gateway.chat_with(&SESSION, say(&format!("Refund {CARD} please"))).await;
    private.came_from("edge", 200);
    let streamed = gateway.chat(say_streamed(&format!("Charge {CARD}"))).await;
    streamed.came_from("edge", 200);
    // What a process that is killed leaves behind: everything that was answered is in the file by now.
    let bytes = std::fs::read(ledger(&gateway)).unwrap();
    let gateway = gateway.restart(&config).await;
    assert_eq!(std::fs::read(ledger(&gateway)).unwrap(), bytes);
    gateway.chat_with(&SESSION, say("And now?")).await.came_from("edge", 200);
    gateway.chat(history(&streamed.content())).await.came_from("edge", 200);
    gateway.chat_with(&[("x-sluice-session", "s2")], say("And now?")).await.came_from("cloud", 200);
    assert!(!shows_card(&cloud.seen()) && !shows_card(&String::from_utf8_lossy(&bytes)));
    assert_eq!(word(&gateway).await, "kept");
    assert_eq!(gateway.metric("sluice_taint_kept ").await, 1.0);
}

#[tokio::test]
async fn after_damage_every_history_is_private_and_fresh_questions_are_not() {
    let cloud = Cloud::start(Script::Answer).await;
    let config = with_cloud(cloud.address, "");
    let gateway = Gateway::start(&config).await;
    gateway.chat_with(&SESSION, say(&format!("Refund {CARD} please"))).await.came_from("edge", 200);
    std::fs::write(ledger(&gateway), "not what it was").unwrap();
    let gateway = gateway.restart(&config).await;
    assert_eq!(word(&gateway).await, "incomplete");
    assert_eq!(gateway.metric("sluice_taint_kept ").await, 0.0);
    let unknown = gateway.chat_with(&SESSION, say("And now?")).await;
    unknown.came_from("edge", 200);
    assert_eq!(unknown.header("x-sluice-class"), "regulated");
    gateway.chat(history("Hello from the cloud")).await.came_from("edge", 200);
    gateway.chat(say("Hello")).await.came_from("cloud", 200);
}

#[tokio::test]
async fn while_the_disk_takes_no_more_histories_are_private_and_then_known_again() {
    let cloud = Cloud::start(Script::Answer).await;
    let gateway = Gateway::start(&with_cloud(cloud.address, "")).await;
    let folder = gateway.folder().join("taint");
    std::fs::remove_dir_all(&folder).unwrap();
    std::fs::write(&folder, "in the way").unwrap();
    gateway.chat_with(&SESSION, say(&format!("Refund {CARD} please"))).await.came_from("edge", 200);
    assert_eq!(word(&gateway).await, "down");
    gateway.chat(history("Hello from the cloud")).await.came_from("edge", 200);
    gateway.chat(say("Hello")).await.came_from("cloud", 200);
    std::fs::remove_file(&folder).unwrap();
    gateway.ready_when(|detail| detail["taint"] == "kept").await;
    gateway.chat(history("Hello from the cloud")).await.came_from("cloud", 200);
    gateway.chat_with(&SESSION, say("And now?")).await.came_from("edge", 200);
}
