//! Replies that hold regulated text though their requests did not.

use std::time::Duration;

use http_body_util::BodyExt;
use hyper::Method;
use serde_json::json;

use crate::cloud::{Cloud, Script};
use crate::gateway::{Gateway, say, say_streamed, shows_card, with_cloud};

/// A reply that gives away a card number, whole or cut into events in the middle of the number.
const GIVEN_AWAY: &str = "The card on file is 4539 5787 6362 1486, shall I go on with the refund?";
const PIECES: [&str; 4] = ["The card on file is 4539 5", "787 63", "62 1486", ", shall I go on?"];

fn whole() -> Script {
    whole_of(GIVEN_AWAY)
}

/// The same at the end of a reply that is too long to be looked at between other requests.
fn long() -> Script {
    whole_of(&format!("{}{GIVEN_AWAY}", PROSE.repeat(200)))
}

/// Nothing that anybody would keep back.
const PROSE: &str = "The parcel left the warehouse on Monday. It goes by road as far as the harbour, and by \
    ship from there. Rain is expected along the coast, so the crossing may take a day longer. The driver \
    calls before he comes. Whoever is at home can take it in, and the box may stay in the garden shed. ";

fn whole_of(content: &str) -> Script {
    let choice = json!({"index": 0, "finish_reason": "stop",
                        "message": {"role": "assistant", "content": content}});
    let body = json!({"id": "1", "object": "chat.completion", "choices": [choice]}).to_string();
    raw("application/json", &body)
}

fn streamed() -> Script {
    let pieces = PIECES.iter();
    let mut body: String = pieces.map(|text| event(&json!({"content": text}))).collect();
    body.push_str(
        "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n",
    );
    body.push_str("data: [DONE]\n\n");
    raw("text/event-stream", &body)
}

fn event(delta: &serde_json::Value) -> String {
    format!(
        "data: {}\n\n",
        json!({"choices": [{"index": 0, "delta": delta, "finish_reason": null}]})
    )
}

fn raw(content_type: &str, body: &str) -> Script {
    let length = body.len();
    let head =
        format!("HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ncontent-length: {length}");
    Script::Raw(format!("{head}\r\nconnection: close\r\n\r\n{body}").into_bytes())
}

async fn cutting_gateway(cloud: &Cloud) -> Gateway {
    answering_gateway(cloud, "cut").await
}

/// A gateway whose site answers `reply_finding` so.
async fn answering_gateway(cloud: &Cloud, answer: &str) -> Gateway {
    let folder = tempfile::tempdir().unwrap();
    let shipped = include_str!("../../policies/site.yaml");
    let site = shipped.replace("reply_finding: taint", &format!("reply_finding: {answer}"));
    assert_ne!(site, shipped);
    std::fs::write(folder.path().join("site.yaml"), site).unwrap();
    let config = with_cloud(cloud.address, "policy: {site: $FOLDER/site.yaml}\n");
    Gateway::start_in(folder, &config).await
}

#[tokio::test]
async fn a_finding_in_a_reply_keeps_the_conversation_here() {
    let cases =
        [(whole(), say("Hello")), (long(), say("Hello")), (streamed(), say_streamed("Hello"))];
    for (script, body) in cases {
        let cloud = Cloud::start(script).await;
        let gateway = Gateway::with_cloud(cloud.address).await;
        let session = [("x-sluice-session", "s-9")];
        let reply = gateway.chat_with(&session, body).await;
        reply.came_from("cloud", 200);
        assert!(shows_card(&reply.text()), "taint lets the reply pass");
        let outcome = &gateway.audit_lines(2).await[1];
        assert_eq!(outcome["reply_finding"], json!(true), "{outcome}");
        assert_eq!(gateway.metric("sluice_reply_findings_total{upstream=\"cloud\"} ").await, 1.0);

        gateway.chat_with(&session, say("And then?")).await.came_from("edge", 200);
        // Others are not affected.
        cloud.follow(Script::Answer);
        gateway.chat(say("Hello")).await.came_from("cloud", 200);
    }
}

#[tokio::test]
async fn cut_withholds_a_whole_reply() {
    for script in [whole(), long()] {
        let cloud = Cloud::start(script).await;
        let gateway = cutting_gateway(&cloud).await;
        let reply = gateway.chat(say("Hello")).await;
        assert_eq!(reply.status, 403);
        assert_eq!(reply.header("x-sluice-upstream"), "cloud");
        assert!(!shows_card(&reply.text()) && reply.text().contains("policy_blocked"));
        let outcome = &gateway.audit_lines(2).await[1];
        let ended = (&outcome["ending"], &outcome["error"]);
        assert_eq!(ended, (&json!("cut"), &json!("reply_finding")));
    }
}

#[tokio::test]
async fn cut_ends_a_stream_before_the_finding_leaves() {
    let cloud = Cloud::start(streamed()).await;
    let gateway = cutting_gateway(&cloud).await;
    let reply = gateway.chat(say_streamed("Hello")).await;
    let text = reply.text();
    assert_eq!(reply.status, 200);
    assert!(!shows_card(&text), "{text}");
    assert!(text.contains("policy_blocked") && !text.contains("[DONE]"), "{text}");
}

#[tokio::test]
async fn cut_lets_a_clean_stream_through_whole() {
    let cloud = Cloud::start(Script::Answer).await;
    let gateway = cutting_gateway(&cloud).await;
    let plain = Gateway::with_cloud(cloud.address).await;
    let body = say_streamed("Hello");
    let (scanned, passed) = (gateway.chat(body.clone()).await, plain.chat(body).await);
    scanned.came_from("cloud", 200);
    assert_eq!(scanned.text(), passed.text());
    assert!(scanned.text().contains("[DONE]"));
}

#[tokio::test]
async fn mask_takes_the_finding_out_and_keeps_the_conversation_here() {
    let cases =
        [(whole(), say("Hello")), (long(), say("Hello")), (streamed(), say_streamed("Hello"))];
    for (script, body) in cases {
        let cloud = Cloud::start(script).await;
        let gateway = answering_gateway(&cloud, "mask").await;
        let session = [("x-sluice-session", "s-9")];
        let reply = gateway.chat_with(&session, body).await;
        reply.came_from("cloud", 200);
        let text = reply.text();
        assert!(!shows_card(&text), "{text}");
        assert!(
            text.contains("[withheld: payment_card]") && text.contains("shall I go on"),
            "{text}"
        );
        let outcome = &gateway.audit_lines(2).await[1];
        assert_eq!(outcome["reply_finding"], json!(true), "{outcome}");
        gateway.chat_with(&session, say("And then?")).await.came_from("edge", 200);
    }
}

#[tokio::test]
async fn mask_lets_a_clean_stream_through() {
    let cloud = Cloud::start(Script::Answer).await;
    let gateway = answering_gateway(&cloud, "mask").await;
    let reply = gateway.chat(say_streamed("Hello")).await;
    reply.came_from("cloud", 200);
    assert!(reply.text().contains("[DONE]"));
}

#[tokio::test]
async fn a_stream_that_is_looked_through_begins_before_it_is_over() {
    for answer in ["cut", "mask"] {
        let cloud = Cloud::start(Script::Endless).await;
        let gateway = answering_gateway(&cloud, answer).await;
        let mut reply = gateway.stream(&[], say_streamed("Hello")).await;
        let first = tokio::time::timeout(Duration::from_secs(20), reply.body_mut().frame()).await;
        let first = first.expect("a piece comes while the cloud speaks on").unwrap().unwrap();
        let text = String::from_utf8_lossy(first.data_ref().unwrap()).into_owned();
        assert!(text.contains("museum"), "{answer}: {text}");
        drop(reply);
        cloud.hung_up().await;
        gateway.idle().await;
    }
}

/// A card in a field that no SDK of OpenAI's knows is found there too.
#[tokio::test]
async fn a_finding_is_found_in_every_field_of_a_message() {
    for message in [
        json!({"content": [{"type": "text", "text": GIVEN_AWAY}]}),
        json!({"content": null, "reasoning_details": [{"type": "reasoning.text", "text": GIVEN_AWAY}]}),
        json!({"content": null, "function_call": {"name": "pay", "arguments": GIVEN_AWAY}}),
        json!({"content": null, "function_call": {"name": "pay", "arguments": 4539578763621486u64}}),
        json!({"content": null, "audio": {"id": "a", "data": "", "transcript": GIVEN_AWAY}}),
        json!({"content": null, "tool_calls": [
            {"id": "call_123456", "type": "custom", "custom": {"name": "pay", "input": GIVEN_AWAY}}]}),
    ] {
        let choice = json!({"index": 0, "finish_reason": "stop", "message": message});
        let body = json!({"id": "1", "object": "chat.completion", "choices": [choice]}).to_string();
        let cloud = Cloud::start(raw("application/json", &body)).await;
        let gateway = answering_gateway(&cloud, "mask").await;
        let reply = gateway.chat(say("Hello")).await;
        reply.came_from("cloud", 200);
        assert!(!shows_card(&reply.text()), "{message}");
        assert!(reply.text().contains("[withheld: payment_card]"), "{}", reply.text());
        let outcome = &gateway.audit_lines(2).await[1];
        assert_eq!(outcome["reply_finding"], json!(true), "{message}");
    }
}

#[tokio::test]
async fn mask_keeps_calls_whole_and_in_their_place() {
    let call = |index: u32, id: Option<&str>, arguments: &str| {
        let name = id.map(|_| "weather");
        json!({"tool_calls": [{"index": index, "id": id, "type": "function",
                               "function": {"name": name, "arguments": arguments}}]})
    };
    let deltas = [
        json!({"role": "assistant", "content": "Let me look."}),
        call(0, Some("call_aaaaaa"), ""),
        call(0, None, "{\"city\":\"Paris\"}"),
        call(1, Some("call_bbbbbb"), "{\"city\":\"Rome\"}"),
    ];
    let mut body: String = deltas.iter().map(event).collect();
    body.push_str(
        "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"tool_calls\"}]}\n\n",
    );
    body.push_str("data: [DONE]\n\n");
    let cloud = Cloud::start(raw("text/event-stream", &body)).await;
    let gateway = answering_gateway(&cloud, "mask").await;
    let ask = json!({"model": "m", "max_tokens": 64, "stream": true,
                     "messages": [{"role": "user", "content": "Weather?"}],
                     "tools": [{"name": "weather", "input_schema": {"type": "object"}}]});
    let reply = gateway.send(Method::POST, "/v1/messages", &[], ask.to_string()).await;
    reply.came_from("cloud", 200);
    let mut blocks: Vec<(String, String)> = Vec::new();
    for event in reply.events() {
        let block = &event["content_block"];
        if event["type"] == "content_block_start" {
            let name = block["id"].as_str().or(block["type"].as_str()).unwrap();
            blocks.push((name.to_owned(), String::new()));
        }
        for name in ["text", "partial_json"] {
            if let (Some(text), Some((_, said))) =
                (event["delta"][name].as_str(), blocks.last_mut())
            {
                said.push_str(text);
            }
        }
    }
    let expected = [
        ("text", "Let me look."),
        ("call_aaaaaa", "{\"city\":\"Paris\"}"),
        ("call_bbbbbb", "{\"city\":\"Rome\"}"),
    ];
    assert_eq!(blocks, expected.map(|(name, said)| (name.to_owned(), said.to_owned())));
}
