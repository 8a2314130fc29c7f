//! What must stay here stays here: the fake cloud has seen nothing of it.

use std::net::SocketAddr;

use serde_json::json;

use crate::cloud::{Cloud, Script, http};
use crate::gateway::{CARD, Gateway, say, say_streamed, shows_card, with_cloud};

const CARD_PROMPT: &str = "Refund the card 4539 5787 6362 1486 please";
/// SHA-256 of `sk-ward`, tagged for patient data.
const KEYS: &str = "keys:\n\
    - {id: ward-app, sha256: 67684c9ac0e4a4bbdcd6fa6feaee0ab60f15958889138a791a5cd557fffa7892, tags: [phi]}\n";

fn with_keys(cloud: SocketAddr) -> String {
    with_cloud(cloud, "identity: {keys: $FOLDER/keys.yaml}\n")
}

async fn keyed_gateway(cloud: SocketAddr) -> Gateway {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("keys.yaml"), KEYS).unwrap();
    Gateway::start_in(folder, &with_keys(cloud)).await
}

#[tokio::test]
async fn a_card_number_is_answered_here_streamed_or_not() {
    let cloud = Cloud::start(Script::Answer).await;
    let gateway = Gateway::with_cloud(cloud.address).await;
    for body in [say(CARD_PROMPT), say_streamed(CARD_PROMPT)] {
        let reply = gateway.chat(body).await;
        reply.came_from("edge", 200);
        assert_eq!(reply.header("x-sluice-class"), "regulated");
        assert!(reply.header("x-sluice-labels").contains("PCI"));
        assert!(!reply.content().is_empty());
    }
    assert_eq!(cloud.seen(), "");
}

#[tokio::test]
async fn a_hipaa_tagged_request_is_answered_here() {
    let cloud = Cloud::start(Script::Answer).await;
    let gateway = keyed_gateway(cloud.address).await;
    let ward = [("authorization", "Bearer sk-ward")];
    let reply = gateway.chat_with(&ward, say("Summarise this note")).await;
    reply.came_from("edge", 200);
    assert!(reply.header("x-sluice-labels").contains("HIPAA"), "{:?}", reply.headers);
    assert_eq!(cloud.seen(), "");

    let reply = gateway.chat_with(&[("x-data-class", "phi")], say("Summarise this note")).await;
    reply.came_from("edge", 200);
    assert_eq!(cloud.seen(), "");

    // An unknown caller is not a reason to keep an ordinary prompt here.
    gateway.chat(say("Summarise this note")).await.came_from("cloud", 200);
}

#[tokio::test]
async fn a_class_hint_raises_and_never_lowers() {
    let cloud = Cloud::start(Script::Answer).await;
    let gateway = Gateway::with_cloud(cloud.address).await;
    let raised = gateway.chat_with(&[("x-sluice-class", "regulated")], say("Hello")).await;
    raised.came_from("edge", 200);
    let lowered = gateway.chat_with(&[("x-sluice-class", "public")], say(CARD_PROMPT)).await;
    lowered.came_from("edge", 200);
    assert_eq!(cloud.seen(), "");
}

#[tokio::test]
async fn regulated_text_is_found_wherever_it_stands() {
    let cloud = Cloud::start(Script::Answer).await;
    let gateway = Gateway::with_cloud(cloud.address).await;
    let hello = json!({"role": "user", "content": "Hello"});
    let bodies = [
        json!({"messages": [{"role": "system", "content": CARD_PROMPT}, hello]}),
        json!({"messages": [hello, {"role": "assistant", "content": CARD_PROMPT}, hello]}),
        json!({"messages": [hello, {"role": "tool", "tool_call_id": "1", "content": CARD_PROMPT}]}),
        json!({"messages": [{"role": "user", "content": [{"type": "text", "text": CARD_PROMPT}]}]}),
        json!({"messages": [{"role": "user", "content": "Hello", "name": format!("card {CARD}")}]}),
        json!({"messages": [hello], "metadata": {"note": CARD_PROMPT}}),
        json!({"messages": [hello], "user": CARD_PROMPT}),
        json!({"messages": [hello], "stop": [CARD_PROMPT]}),
        json!({"messages": [hello], "metadata": {(CARD_PROMPT): "x"}}),
        json!({"messages": [hello], "seed": 4_539_578_763_621_486_u64}),
        json!({"messages": [hello], "my_field": {"deep": [CARD_PROMPT]}}),
        json!({"messages": [hello], "tools": [{"type": "function", "function": {
            "name": "refund", "description": CARD_PROMPT, "parameters": {}}}]}),
        json!({"messages": [hello, {"role": "assistant", "content": null, "tool_calls": [
            {"id": "1", "type": "function", "function": {
                "name": "refund", "arguments": format!("{{\"card\":\"{CARD}\"}}")}}]}]}),
    ];
    for mut body in bodies {
        body["model"] = json!("auto");
        body["max_tokens"] = json!(1);
        let reply = gateway.chat(body.clone()).await;
        assert_ne!(reply.header("x-sluice-route"), "cloud", "{body}");
        assert_eq!(reply.header("x-sluice-class"), "regulated", "{body}\n{}", reply.text());
    }
    assert_eq!(cloud.seen(), "");
}

#[tokio::test]
async fn of_two_fields_with_one_name_the_scanned_one_is_sent() {
    let cloud = Cloud::start(Script::Answer).await;
    let gateway = Gateway::with_cloud(cloud.address).await;
    let body = r#"{"model":"auto","messages":[{"role":"user",
        "content":"card 4539 5787 6362 1486","content":"Hello"}]}"#;
    let post = hyper::Method::POST;
    let reply = gateway.send(post, "/v1/chat/completions", &[], body).await;
    reply.came_from("cloud", 200);
    assert!(!shows_card(&cloud.seen()), "{}", cloud.seen());
}

#[tokio::test]
async fn an_unknown_field_is_stripped_and_named() {
    let cloud = Cloud::start(Script::Answer).await;
    let gateway = Gateway::with_cloud(cloud.address).await;
    let mut body = say("Hello");
    body["vendor_extra"] = json!({"keep": "nothing"});
    body["messages"][0]["mood"] = json!("curious");
    let reply = gateway.chat(body).await;
    reply.came_from("cloud", 200);
    let stripped: Vec<_> = reply.header("x-sluice-stripped").split(',').collect();
    assert_eq!(stripped, ["messages[0].mood", "vendor_extra"]);
    let seen = cloud.seen();
    assert!(!seen.contains("vendor_extra") && !seen.contains("curious"), "{seen}");
}

#[tokio::test]
async fn the_cloud_gets_no_header_of_the_client_and_stores_nothing() {
    let cloud = Cloud::start(Script::Answer).await;
    let gateway = Gateway::with_cloud(cloud.address).await;
    let headers = [
        ("authorization", "Bearer sk-client-secret"),
        ("cookie", "session=client-cookie"),
        ("x-forwarded-for", "10.9.8.7"),
        ("x-sluice-session", "client-session"),
        ("openai-organization", "client-org"),
    ];
    let mut body = say("Hello");
    body["store"] = json!(true);
    body["metadata"] = json!({"team": "blue-team"});
    gateway.chat_with(&headers, body).await.came_from("cloud", 200);
    let seen = cloud.seen();
    for secret in ["client-", "10.9.8.7", "blue-team", "authorization"] {
        assert!(!seen.contains(secret), "{secret} reached the cloud:\n{seen}");
    }
    assert!(seen.contains(r#""store":false"#));
}

#[tokio::test]
async fn a_conversation_that_held_a_card_stays_here_when_the_card_is_cut_off() {
    let cloud = Cloud::start(Script::Answer).await;
    let gateway = Gateway::with_cloud(cloud.address).await;
    let mut first = say(CARD_PROMPT);
    first["max_tokens"] = json!(12);
    let answered = gateway.chat(first).await;
    let reply = answered.came_from("edge", 200).content();
    assert!(!reply.trim().is_empty());

    let mut later = say("And what did you just say?");
    later["messages"] = json!([
        {"role": "assistant", "content": reply},
        {"role": "user", "content": "And what did you just say?"},
    ]);
    let reply = gateway.chat(later).await;
    reply.came_from("edge", 200);
    assert_eq!(reply.header("x-sluice-class"), "regulated");

    let session = [("x-sluice-session", "s-1")];
    gateway.chat_with(&session, say(CARD_PROMPT)).await.came_from("edge", 200);
    gateway.chat_with(&session, say("Thank you")).await.came_from("edge", 200);
    assert_eq!(cloud.seen(), "");
    gateway.chat(say("Thank you")).await.came_from("cloud", 200);
}

#[tokio::test]
async fn every_attempt_is_on_record_before_and_after_without_content() {
    let cloud = Cloud::start(Script::Answer).await;
    let gateway = Gateway::with_cloud(cloud.address).await;
    let first = gateway.chat(say("What is the capital of France?")).await;
    gateway.chat(say(CARD_PROMPT)).await.came_from("edge", 200);
    let lines = gateway.audit_lines(4).await;
    let kinds: Vec<_> = lines.iter().map(|line| line["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["attempt", "outcome", "attempt", "outcome"]);
    // The first line describes the policies.
    for (line, seq) in lines.iter().zip(2..) {
        assert_eq!((line["v"].as_u64(), line["seq"].as_u64()), (Some(1), Some(seq)));
    }
    assert_eq!(lines[0]["id"], first.header("x-sluice-decision"));
    assert_eq!(lines[0]["route"], "cloud");
    assert_eq!(lines[0]["address"], format!("http://{}", cloud.address));
    assert!(lines[0]["bytes"].as_u64().unwrap() > 0);
    assert_eq!((&lines[1]["ending"], &lines[1]["status"]), (&json!("complete"), &json!(200)));
    assert_eq!(lines[1]["completion_tokens"], 4);
    assert_eq!((&lines[2]["route"], &lines[2]["bytes"]), (&json!("edge"), &json!(0)));
    assert!(!lines[2]["findings"].as_array().unwrap().is_empty());
    assert_eq!(lines[2]["facts"]["upstreams"].as_array().unwrap().len(), 2);
    let text = std::fs::read_to_string(gateway.audit_folder().join("audit.jsonl")).unwrap();
    for content in ["capital", "France", "Refund"] {
        assert!(!text.contains(content), "{content} is in the audit log");
    }
    assert!(!shows_card(&text), "the card is in the audit log");
}

#[tokio::test]
async fn the_record_is_written_before_the_cloud_hears_of_it() {
    let cloud = Cloud::start(Script::Silence).await;
    let gateway = Gateway::with_cloud(cloud.address).await;
    let asking = gateway.chat(say("What is the capital of France?"));
    let watching = async {
        crate::cloud::until("the cloud is asked", || cloud.requests() == 1).await;
        let lines = gateway.audit_lines(1).await;
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert_eq!(
            (&lines[0]["kind"], &lines[0]["upstream"]),
            (&json!("attempt"), &json!("cloud"))
        );
    };
    let (reply, ()) = tokio::join!(asking, watching);
    reply.came_from("edge", 200);
    let lines = gateway.audit_lines(4).await;
    assert_eq!((&lines[1]["ending"], &lines[1]["error"]), (&json!("failed"), &json!("timeout")));
    assert_eq!((&lines[2]["attempt"], &lines[2]["upstream"]), (&json!(2), &json!("edge")));
}

#[tokio::test]
async fn nothing_leaves_while_the_audit_log_cannot_be_written() {
    let cloud = Cloud::start(Script::Answer).await;
    let gateway = Gateway::with_cloud(cloud.address).await;
    gateway.chat(say("Hello")).await.came_from("cloud", 200);
    let before = cloud.seen().len();
    gateway.audit_lines(2).await;

    // A file where the folder was: it can be neither written nor made anew.
    std::fs::remove_dir_all(gateway.audit_folder()).unwrap();
    std::fs::write(gateway.audit_folder(), "in the way").unwrap();
    let long = "Tell me which three rivers of Europe are the longest, and where each of them ends.";
    for prompt in ["Hello", long] {
        gateway.chat(say(prompt)).await.came_from("edge", 200);
    }
    assert_eq!(cloud.seen().len(), before, "the cloud was asked without a record");
    assert!(gateway.metric("sluice_audit_write_failures ").await > 0.0);
    assert_eq!(gateway.probe("/readyz").await.json()["audit"], "down");

    std::fs::remove_file(gateway.audit_folder()).unwrap();
    gateway.chat(say("Hello")).await.came_from("edge", 200);
    // The outage taints nothing: the same words go where they went before.
    gateway.chat(say(long)).await.came_from("cloud", 200);
}

/// Their words may be the prompt's: they are for the client who asked, and for nobody else.
#[tokio::test]
async fn what_upstreams_quote_of_a_prompt_is_in_no_log_record_or_metric() {
    let logs = crate::sim::logs::keep();
    let start = logs.len();
    let word = "zantedeschia";
    let quote = json!({"error": {"message": format!("cannot say what a {word} is")}}).to_string();
    let event = format!("data: {quote}\n\n");
    let cloud = Cloud::start(Script::Answer).await;
    let gateway = Gateway::with_cloud(cloud.address).await;
    for (status, kind, body, is_told) in [
        ("400 Bad Request", "application/json", quote.as_str(), true),
        ("422 Unprocessable", "application/json", quote.as_str(), true),
        ("500 Oh", "application/json", quote.as_str(), false),
        ("401 No", "text/plain", word, false),
        ("200 OK", "application/json", &quote[..quote.len() - 1], false),
        ("200 OK", "text/event-stream", event.as_str(), false),
    ] {
        cloud.follow(Script::Raw(http(status, kind, body.as_bytes())));
        let mut asked = say(&format!("Tell me of the {word}"));
        asked["stream"] = json!(kind == "text/event-stream");
        let reply = gateway.chat(asked).await;
        assert!(reply.text().contains(word) || !is_told, "{status}: {}", reply.text());
    }
    gateway.idle().await;
    let audit = std::fs::read_to_string(gateway.audit_folder().join("audit.jsonl")).unwrap();
    let shown = [
        ("audit", audit),
        ("metrics", gateway.probe("/metrics").await.text()),
        ("readyz", gateway.probe("/readyz").await.text()),
        ("logs", logs.from(start)),
    ];
    for (place, text) in shown {
        assert!(!text.contains(word), "{place}: {text}");
    }
    assert_eq!(cloud.requests(), 6);
}

#[tokio::test]
async fn what_is_refused_or_fails_is_on_record_like_what_is_answered() {
    let cloud = Cloud::start(Script::Raw(http("400 Bad", "application/json", b"{}"))).await;
    let gateway = Gateway::with_cloud(cloud.address).await;
    let picture = json!([{"type": "image_url", "image_url": {"url": "https://x.example/1.png"}}]);
    let mut refused = say("Hello");
    refused["messages"][0]["content"] = picture;
    let reply = gateway.chat(refused).await;
    reply.came_from("refuse", 403);
    let line = &gateway.audit_lines(1).await[0];
    assert_eq!((&line["kind"], &line["route"]), (&json!("refusal"), &json!("refuse")), "{line}");
    assert_eq!(line["id"], reply.header("x-sluice-decision"));
    assert_eq!(line["code"], "policy_blocked");

    gateway.chat(say("Hello")).await.came_from("cloud", 400);
    let lines = gateway.audit_lines(3).await;
    assert_eq!((&lines[1]["kind"], &lines[2]["kind"]), (&json!("attempt"), &json!("outcome")));
    assert_eq!(lines[2]["status"], 400, "{}", lines[2]);
}
