//! Turns of a conversation at the edge: what is not read again, and that nobody else profits.

use hyper::Method;
use serde_json::{Value, json};
use sluice::identity::keys::{KeysFile, NewKey};

use crate::gateway::{CARD, Gateway, Reply, with_upstreams};

const KEYS: [(&str, &str); 3] = [("app", "north"), ("other", "north"), ("app-2", "south")];

/// An edge that tells callers apart, and their keys.
async fn keyed(edge: &str) -> (Gateway, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let mut file = KeysFile::default();
    let keys = KEYS.map(|(id, tenant)| {
        let new = NewKey { id: id.into(), tenant: tenant.into(), ..NewKey::default() };
        let key = file.create(new, "2026-11-28T12:00:00Z".parse().unwrap()).unwrap().unwrap();
        format!("Bearer {}", key.expose())
    });
    file.write(&folder.path().join("keys.yaml")).unwrap();
    let config = with_upstreams("").replace("kind: edge,", &format!("kind: edge, {edge}"));
    let config = format!("{config}identity: {{keys: $FOLDER/keys.yaml}}\n");
    (Gateway::start_in(folder, &config).await, keys.into())
}

/// A question about private text, so that the edge answers.
fn question() -> Value {
    let text = format!("The card {CARD} was charged twice on the same day. What is to be done?");
    json!({"role": "user", "content": text})
}

const SYSTEM: &str = "You help the people who answer letters about cards. Be short, be kind, and \
    say what happens next and when it happens. Promise nothing that you cannot keep.";

async fn ask(gateway: &Gateway, key: &str, path: &str, body: Value) -> Reply {
    let headers = [("authorization", key), ("content-type", "application/json")];
    let reply = gateway.send(Method::POST, path, &headers, body.to_string()).await;
    assert_eq!(reply.header("x-sluice-route"), "edge", "{}", reply.text());
    reply
}

async fn chat(gateway: &Gateway, key: &str, messages: &[Value]) -> Reply {
    let body = json!({"model": "m", "messages": messages, "max_tokens": 16, "seed": 1});
    ask(gateway, key, "/v1/chat/completions", body).await
}

fn cached(reply: &Reply) -> u64 {
    reply.json()["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap()
}

#[tokio::test]
async fn the_second_turn_is_restored_for_its_caller_and_for_nobody_else() {
    let (gateway, keys) = keyed("").await;
    let mut messages = vec![json!({"role": "system", "content": SYSTEM}), question()];
    let first = chat(&gateway, &keys[0], &messages).await;
    assert_eq!(cached(&first), 0);
    let prompt = first.json()["usage"]["prompt_tokens"].as_u64().unwrap();
    messages.push(json!({"role": "assistant", "content": first.content()}));
    messages.push(json!({"role": "user", "content": "And how long does it take?"}));
    for other in &keys[1..] {
        assert_eq!(cached(&chat(&gateway, other, &messages).await), 0, "another caller");
    }
    let second = chat(&gateway, &keys[0], &messages).await;
    assert!(cached(&second) + 8 >= prompt, "{} of {prompt}", cached(&second));
    // The same words as for those who started from nothing.
    let afresh = chat(&gateway, &keys[2], &messages).await;
    assert_eq!(afresh.content(), second.content());
    // An application's next conversation begins with its system prompt.
    let other = [messages[0].clone(), json!({"role": "user", "content": format!("Card {CARD}?")})];
    let next = cached(&chat(&gateway, &keys[0], &other).await);
    assert!(next >= 32 && next < prompt, "{next}");
    let hits = gateway.metric("sluice_engine_checkpoint_lookups_total{result=\"hit\"}").await;
    assert!(
        hits >= 2.0 && gateway.metric("sluice_engine_checkpoint_restored_tokens_total").await > 0.0
    );
    let bytes = gateway.metric("sluice_engine_checkpoint_bytes{place=\"memory\"}").await;
    assert!(bytes > 0.0);
}

#[tokio::test]
async fn every_dialect_says_what_was_not_read_again() {
    let (gateway, keys) = keyed("").await;
    let messages = json!([question()]);
    let text = question()["content"].clone();
    let body = json!({"model": "m", "messages": messages, "max_tokens": 8, "stream": true,
                      "stream_options": {"include_usage": true}});
    let whole = json!({"model": "m", "messages": messages, "max_tokens": 8});
    chat(&gateway, &keys[0], &[question()]).await;
    let streamed = ask(&gateway, &keys[0], "/v1/chat/completions", body).await;
    let events = streamed.events();
    let usage = events.iter().map(|event| &event["usage"]).find(|usage| usage.is_object()).unwrap();
    let cached = usage["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
    assert!(cached >= 32);
    let message = ask(&gateway, &keys[0], "/v1/messages", whole).await.json();
    assert_eq!(message["usage"]["cache_read_input_tokens"], cached);
    assert_eq!(message["usage"]["input_tokens"], usage["prompt_tokens"].as_u64().unwrap() - cached);
    let response = json!({"model": "m", "input": text, "max_output_tokens": 8, "store": false});
    let response = ask(&gateway, &keys[0], "/v1/responses", response).await.json();
    assert_eq!(response["usage"]["input_tokens_details"]["cached_tokens"], cached);
}

#[tokio::test]
async fn a_gateway_that_keeps_nothing_reads_everything_again() {
    let (gateway, keys) = keyed("checkpoints: {memory: 0},").await;
    for _ in 0..2 {
        assert_eq!(cached(&chat(&gateway, &keys[0], &[question()]).await), 0);
    }
    assert_eq!(gateway.metric("sluice_engine_checkpoints_kept_total").await, 0.0);
}

#[tokio::test]
async fn never_cloud_text_stays_in_memory_and_other_text_may_go_to_disk() {
    let edge = "checkpoints: {memory: 4MiB, disk: 64MiB, folder: $FOLDER/kept},";
    let (gateway, keys) = keyed(edge).await;
    let written = async |text: &dyn Fn(usize) -> String, class: &str| {
        for number in 0..12 {
            let messages = [json!({"role": "user", "content": text(number)})];
            let body = json!({"model": "m", "messages": messages, "max_tokens": 2});
            let reply = gateway.chat_with(&[("authorization", &*keys[0])], body).await;
            assert_eq!(reply.came_from("edge", 200).header("x-sluice-class"), class);
        }
        gateway.metric("sluice_engine_checkpoint_bytes{place=\"disk\"}").await
    };
    let asked = "How does a lighthouse work, and why do ships still look for its light at night? ";
    let words = |number: usize| format!("Question {number}: {}", asked.repeat(3));
    let private = |number: usize| format!("{} {CARD}", words(number));
    assert_eq!(written(&private, "regulated").await, 0.0, "a card's number never goes to disk");
    assert!(written(&words, "internal").await > 0.0);
}
