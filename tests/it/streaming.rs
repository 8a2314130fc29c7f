//! Streams: passed through as they come, at the reader's pace, and ended cleanly.

use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::time::Duration;

use crate::cloud::{Cloud, Script, http};
use crate::gateway::{Gateway, Reply, say, say_streamed, with_upstreams};

fn asking_for_usage(text: &str) -> Value {
    let mut body = say_streamed(text);
    body["stream_options"] = json!({"include_usage": true});
    body
}

fn usages(reply: &Reply) -> usize {
    reply.events().iter().filter(|event| event["usage"].is_object()).count()
}

#[tokio::test]
async fn usage_is_asked_of_the_cloud_and_shown_only_to_a_client_that_asked() {
    let cloud = Cloud::start(Script::Answer).await;
    let gateway = Gateway::with_cloud(cloud.address).await;
    let plain = gateway.chat(say_streamed("Hello")).await;
    assert!(cloud.seen().contains(r#""include_usage":true"#));
    assert_eq!(usages(&plain), 0);
    assert_eq!(plain.events().last(), Some(&json!("[DONE]")));
    let asked = gateway.chat(asking_for_usage("Hello")).await;
    assert_eq!(usages(&asked), 1);
    let lines = gateway.audit_lines(4).await;
    assert_eq!(lines[1]["completion_tokens"], 4, "usage is accounted for either way");
}

#[tokio::test]
async fn the_edge_streams_openai_events() {
    let gateway = Gateway::start(&with_upstreams("")).await;
    let reply = gateway.chat(asking_for_usage("What is the capital of France?")).await;
    reply.came_from("edge", 200);
    assert!(reply.header("content-type").starts_with("text/event-stream"));
    let events = reply.events();
    assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
    assert_eq!(events[0]["object"], "chat.completion.chunk");
    assert_eq!(events.last(), Some(&json!("[DONE]")));
    let usage = &events[events.len() - 2];
    assert!(usage["usage"]["completion_tokens"].as_u64().unwrap() > 0);
    assert_eq!(usage["choices"], json!([]));
    let finish = &events[events.len() - 3]["choices"][0]["finish_reason"];
    assert!(matches!(finish.as_str(), Some("stop" | "length")), "{finish}");
}

#[tokio::test]
async fn the_first_event_comes_before_the_stream_is_over() {
    let cloud = Cloud::start(Script::StallMidStream).await;
    let gateway = Gateway::with_cloud(cloud.address).await;
    let mut response = gateway.stream(&[], say_streamed("Hello")).await;
    assert_eq!(response.headers()["x-sluice-route"], "cloud");
    let first = response.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(String::from_utf8_lossy(&first).contains("Wait"));
    // The idle timeout ends it: with an error event, and without `[DONE]`.
    let rest = Reply::read(response).await.text();
    assert!(rest.starts_with("data: {\"error\":"), "{rest}");
    assert!(!rest.contains("[DONE]"));
    cloud.hung_up().await;
}

#[tokio::test]
async fn a_cloud_that_breaks_off_ends_in_one_clean_error_event() {
    let cloud = Cloud::start(Script::BreakMidEvent).await;
    let gateway = Gateway::with_cloud(cloud.address).await;
    let reply = gateway.chat(say_streamed("Hello")).await;
    reply.came_from("cloud", 200);
    let events = reply.events();
    assert_eq!(events.len(), 2, "{}", reply.text());
    assert_eq!(events[1]["error"]["code"], "upstream_broke_off");
    assert!(!reply.text().contains("never seen"));
    let lines = gateway.audit_lines(2).await;
    assert_eq!((&lines[1]["ending"], &lines[1]["error"]), (&json!("cut"), &json!("broken_off")));
}

#[tokio::test]
async fn a_slow_reader_slows_the_cloud() {
    let cloud = Cloud::start(Script::Endless).await;
    let gateway = Gateway::with_cloud(cloud.address).await;
    let mut response = gateway.stream(&[], say_streamed("Hello")).await;
    response.body_mut().frame().await.unwrap().unwrap();
    // Nobody reads now. What sockets and buffers hold is a few megabytes; then writing stops.
    let mut written = 0;
    let mut still = 0;
    while still < 5 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        still = if cloud.written() == written { still + 1 } else { 0 };
        written = cloud.written();
        assert!(written < 64 << 20, "the gateway buffers without bound");
    }
    drop(response);
    cloud.hung_up().await;
    gateway.idle().await;
}

/// Events of a server that come with one write.
fn burst(events: &str) -> Script {
    Script::Raw(http("200 OK", "text/event-stream", events.as_bytes()))
}

const SAID: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Wait\"}}]}\n\n";
const FINISHED: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";

#[tokio::test]
async fn what_came_before_a_bad_event_of_a_burst_goes_on_and_the_stream_ends_in_an_error() {
    let cloud = Cloud::start(burst(&format!("{SAID}data: {{\"choices\":[\n\n{FINISHED}"))).await;
    let gateway = Gateway::with_cloud(cloud.address).await;
    let reply = gateway.chat(say_streamed("Hello")).await;
    assert!(reply.text().starts_with(SAID), "{}", reply.text());
    assert_eq!(reply.events()[1]["error"]["code"], "upstream_broke_off");
    assert!(!reply.text().contains("[DONE]"));
    let lines = gateway.audit_lines(2).await;
    assert_eq!((&lines[1]["ending"], &lines[1]["error"]), (&json!("cut"), &json!("bad_event")));
}

#[tokio::test]
async fn an_event_whose_data_are_several_lines_is_one() {
    let lines = SAID.replace("\"delta\"", "\ndata: \"delta\"");
    let cloud = Cloud::start(burst(&format!("{lines}{FINISHED}"))).await;
    let gateway = Gateway::with_cloud(cloud.address).await;
    let reply = gateway.chat(say_streamed("Hello")).await;
    assert!(reply.text().starts_with(&lines), "{}", reply.text());
    assert_eq!(gateway.audit_lines(2).await[1]["ending"], "complete");
}

#[tokio::test]
async fn an_error_event_of_the_cloud_is_the_end_and_on_record() {
    let failed = "data: {\"error\":{\"message\":\"overloaded\",\"type\":\"server_error\"}}\n\n";
    for rest in ["", "data: [DONE]\n\n", FINISHED] {
        let cloud = Cloud::start(burst(&format!("{SAID}{failed}{rest}"))).await;
        let gateway = Gateway::with_cloud(cloud.address).await;
        let reply = gateway.chat(say_streamed("Hello")).await;
        assert_eq!(reply.text(), format!("{SAID}{failed}"), "the one error is the cloud's own");
        let outcome = &gateway.audit_lines(2).await[1];
        assert_eq!(
            (&outcome["ending"], &outcome["error"]),
            (&json!("cut"), &json!("upstream_error"))
        );
    }
}

#[tokio::test]
async fn an_error_with_the_status_of_a_success_is_a_failure() {
    let body = br#"{"error":{"message":"provider returned an error","code":502}}"#;
    let cloud = Cloud::start(Script::Raw(http("200 OK", "application/json", body))).await;
    let gateway = Gateway::with_cloud(cloud.address).await;
    let reply = gateway.chat(say("Hello")).await;
    // It falls back, as after any failure.
    reply.came_from("edge", 200);
    assert_eq!(gateway.audit_lines(4).await[1]["error"], "bad_reply");
}
