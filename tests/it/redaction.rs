//! Placeholders on the way to a cloud, and the values on the way back.

use serde_json::{Value, json};

use crate::cloud::{Cloud, Script};
use crate::gateway::{Gateway, Reply, say, say_streamed, with_cloud};

/// Two contact data of one person: `confidential`, and a label whose findings may be redacted.
const TEXT: &str = "Write to Annika Thorvald, annika.thorvald@northmill.se, about the harbour tour";
const VALUES: [&str; 2] = ["Annika Thorvald", "annika.thorvald@northmill.se"];

/// A gateway whose site lets placeholders stand for personal data.
async fn redacting_gateway(cloud: &Cloud) -> Gateway {
    let folder = tempfile::tempdir().unwrap();
    let site = format!(
        "{}\nredaction: {{labels: [PERSONAL], restore_in_tools: [send_mail]}}\n",
        include_str!("../../policies/site.yaml")
    );
    std::fs::write(folder.path().join("site.yaml"), site).unwrap();
    let config = with_cloud(cloud.address, "policy: {site: $FOLDER/site.yaml}\n");
    Gateway::start_in(folder, &config).await
}

#[track_caller]
fn assert_hidden(cloud: &Cloud) {
    let seen = cloud.seen();
    for value in VALUES {
        assert!(!seen.contains(value), "the cloud saw {value}: {seen}");
    }
    assert!(seen.contains("[PERSON_") && seen.contains("[EMAIL_"), "{seen}");
}

#[tokio::test]
async fn the_cloud_sees_placeholders_and_the_client_the_values() {
    for body in [say(TEXT), say_streamed(TEXT)] {
        let cloud = Cloud::start(Script::Echo).await;
        let gateway = redacting_gateway(&cloud).await;
        let reply = gateway.chat(body).await;
        reply.came_from("cloud", 200);
        assert_hidden(&cloud);
        assert_eq!(reply.content(), TEXT);
        assert_eq!(reply.header("x-sluice-redacted"), "2");
        let record = &gateway.audit_lines(2).await[0];
        assert_eq!(record["redacted"], json!({"email": 1, "person_name": 1}), "{record}");
        assert!(VALUES.iter().all(|value| !record.to_string().contains(value)), "{record}");
    }
}

#[tokio::test]
async fn a_value_has_one_placeholder_through_a_conversation_and_another_in_the_next() {
    let cloud = Cloud::start(Script::Echo).await;
    let gateway = redacting_gateway(&cloud).await;
    let turns = |texts: &[&str]| {
        let messages: Vec<Value> =
            texts.iter().map(|text| json!({"role": "user", "content": text})).collect();
        json!({"model": "auto", "messages": messages})
    };
    gateway.chat(turns(&[TEXT])).await.came_from("cloud", 200);
    gateway.chat(turns(&[TEXT, "Shorter, please"])).await.came_from("cloud", 200);
    let placeholders = |seen: &str| -> Vec<String> {
        let starts = seen.match_indices("[EMAIL_").map(|(at, _)| at);
        starts.map(|at| seen[at..at + "[EMAIL_XXXXXXXX]".len()].to_owned()).collect()
    };
    let seen = placeholders(&cloud.seen());
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[0], seen[1]);
    gateway.chat(turns(&["Another talk", TEXT])).await.came_from("cloud", 200);
    assert_ne!(placeholders(&cloud.seen())[2], seen[0]);
}

#[tokio::test]
async fn only_named_tools_get_the_values() {
    let arguments = |reply: &Reply| -> String {
        if reply.header("content-type").starts_with("application/json") {
            let call = &reply.json()["choices"][0]["message"]["tool_calls"][0];
            return call["function"]["arguments"].as_str().unwrap().to_owned();
        }
        let events = reply.events();
        let pieces = events.iter().filter_map(|event| {
            event["choices"][0]["delta"]["tool_calls"][0]["function"]["arguments"].as_str()
        });
        pieces.collect()
    };
    for body in [say(TEXT), say_streamed(TEXT)] {
        let cloud = Cloud::start(Script::Call("send_mail")).await;
        let gateway = redacting_gateway(&cloud).await;
        let sent = arguments(gateway.chat(body.clone()).await.came_from("cloud", 200));
        assert_eq!(serde_json::from_str::<Value>(&sent).unwrap(), json!({"to": TEXT}));
        assert_hidden(&cloud);

        cloud.follow(Script::Call("web_search"));
        let sent = arguments(gateway.chat(body).await.came_from("cloud", 200));
        assert!(sent.contains("[EMAIL_") && !sent.contains(VALUES[1]), "{sent}");
    }
}

#[tokio::test]
async fn what_never_goes_to_a_cloud_is_not_redacted() {
    let cloud = Cloud::start(Script::Echo).await;
    let gateway = redacting_gateway(&cloud).await;
    let regulated = format!("{TEXT}; her card is 4539 5787 6362 1486, exp 04/29");
    let reply = gateway.chat(say(&regulated)).await;
    reply.came_from("edge", 200);
    assert_eq!(reply.header("x-sluice-redacted"), "");
    assert_eq!(cloud.requests(), 0);
}

#[tokio::test]
async fn what_placeholders_cannot_hide_stays() {
    let cloud = Cloud::start(Script::Echo).await;
    let gateway = redacting_gateway(&cloud).await;
    // The same data once more where nothing can be replaced: in the name of a field.
    let mut body = say(TEXT);
    body["response_format"] = json!({"type": "json_schema", "json_schema": {"name": "r",
        "schema": {"properties": {TEXT: {"type": "string"}}}}});
    // It stays private: the embedded model answers.
    gateway.chat(body).await.came_from("edge", 200);
    assert_eq!(cloud.requests(), 0);
}

#[tokio::test]
async fn without_the_site_s_word_nothing_is_redacted() {
    let cloud = Cloud::start(Script::Echo).await;
    let gateway = Gateway::with_cloud(cloud.address).await;
    gateway.chat(say(TEXT)).await.came_from("edge", 200);
    assert_eq!(cloud.requests(), 0);
}
