//! A cloud that fails: the edge answers what policy allows there, and nothing private moves.

use std::time::Duration;

use serde_json::json;

use crate::cloud::{Cloud, Script, http, until};
use crate::gateway::{Gateway, say, say_streamed, shows_card, with_cloud, with_upstreams};

#[tokio::test]
async fn one_sent_while_the_cloud_is_down_is_answered_here() {
    let gateway = Gateway::with_cloud(Cloud::nowhere().await).await;
    for body in
        [say("What is the capital of France?"), say_streamed("What is the capital of France?")]
    {
        let reply = gateway.chat(body).await;
        reply.came_from("edge", 200);
        assert!(!reply.content().is_empty());
    }
    let lines = gateway.audit_lines(4).await;
    assert_eq!((&lines[0]["upstream"], &lines[0]["attempt"]), (&json!("cloud"), &json!(1)));
    assert_eq!(
        (&lines[1]["ending"], &lines[1]["error"]),
        (&json!("failed"), &json!("unreachable"))
    );
    assert_eq!((&lines[2]["upstream"], &lines[2]["attempt"]), (&json!("edge"), &json!(2)));
    assert_eq!(lines[0]["id"], lines[2]["id"]);
}

#[tokio::test]
async fn whatever_the_cloud_answers_wrongly_the_edge_answers_instead() {
    let redirect = b"HTTP/1.1 307 Temporary Redirect\r\nlocation: http://127.0.0.1:1/\r\n\
                     content-length: 0\r\n\r\n";
    let huge = format!("HTTP/1.1 200 OK\r\nx-huge: {}\r\n\r\n", "h".repeat(2 << 20));
    let cases: Vec<(&str, Script, &str)> = vec![
        (
            "server error",
            Script::Raw(http("500 Oh", "text/plain", b"stack trace")),
            "upstream_status",
        ),
        ("too many", Script::Raw(http("429 Slow", "application/json", b"{}")), "upstream_status"),
        ("bad key", Script::Raw(http("401 No", "application/json", b"{}")), "upstream_credentials"),
        ("garbage", Script::Raw(http("200 OK", "application/json", b"{\"id\":")), "bad_reply"),
        ("page", Script::Raw(http("200 OK", "text/html", b"<html>")), "bad_reply"),
        ("redirect", Script::Raw(redirect.to_vec()), "bad_reply"),
        ("no http", Script::Raw(b"SSH-2.0-OpenSSH\r\n".to_vec()), "unreachable"),
        ("nothing", Script::Raw(Vec::new()), "unreachable"),
        ("huge head", Script::Raw(huge.into_bytes()), "unreachable"),
    ];
    for (name, script, error) in cases {
        let cloud = Cloud::start(script).await;
        let gateway = Gateway::with_cloud(cloud.address).await;
        let reply = gateway.chat(say("Hello")).await;
        reply.came_from("edge", 200);
        let lines = gateway.audit_lines(2).await;
        assert_eq!(lines[1]["error"], error, "{name}");
        gateway.idle().await;
    }
}

#[tokio::test]
async fn a_cloud_that_cannot_speak_tls_is_not_asked_in_plain_text() {
    let cloud = Cloud::start(Script::Answer).await;
    let config = with_cloud(cloud.address, "").replace("http://", "https://");
    let gateway = Gateway::start(&config).await;
    gateway.chat(say("What is the capital of France?")).await.came_from("edge", 200);
    assert!(!cloud.seen().contains("capital"));
    assert_eq!(gateway.audit_lines(2).await[1]["ending"], "failed");
}

#[tokio::test]
async fn a_stream_that_is_no_stream_is_answered_here() {
    let page = Script::Raw(http("200 OK", "text/html", b"<html>"));
    let cloud = Cloud::start(page).await;
    let gateway = Gateway::with_cloud(cloud.address).await;
    gateway.chat(say_streamed("Hello")).await.came_from("edge", 200);
}

#[tokio::test]
async fn an_error_that_is_the_clients_own_is_passed_on() {
    let error = br#"{"error":{"message":"temperature is too high","code":"bad_value"}}"#;
    let cloud = Cloud::start(Script::Raw(http("400 Bad", "application/json", error))).await;
    let gateway = Gateway::with_cloud(cloud.address).await;
    let reply = gateway.chat(say("Hello")).await;
    reply.came_from("cloud", 400);
    assert_eq!(reply.json()["error"]["code"], "bad_value");
}

#[tokio::test]
async fn without_an_edge_a_failing_cloud_is_a_plain_error_with_headers() {
    let only_cloud = |address| {
        let config = with_cloud(address, "");
        let edge = config.lines().find(|line| line.starts_with("  edge:")).unwrap().to_owned();
        config.replace(&format!("{edge}\n"), "")
    };
    for (script, status, code) in [
        (Script::Raw(http("429 Slow", "application/json", b"{}")), 429, "rate_limit_exceeded"),
        (Script::Raw(http("500 Oh", "text/plain", b"x")), 502, "upstream_unavailable"),
        (Script::Silence, 504, "upstream_timeout"),
    ] {
        let cloud = Cloud::start(script).await;
        let gateway = Gateway::start(&only_cloud(cloud.address)).await;
        let reply = gateway.chat(say("Hello")).await;
        reply.came_from("refuse", status);
        assert_eq!(reply.json()["error"]["code"], code);
        assert_ne!(reply.header("x-sluice-decision"), "");
        let private = gateway.chat(say("Refund the card 4539 5787 6362 1486")).await;
        assert_eq!(private.header("x-sluice-route"), "refuse", "{}", private.text());
        assert!(!shows_card(&cloud.seen()));
    }
}

#[tokio::test]
async fn a_cloud_that_keeps_failing_is_left_alone() {
    let cloud = Cloud::start(Script::Raw(http("503 No", "text/plain", b"x"))).await;
    // Left alone for longer than any test takes: a probe in between would be one request too many.
    let breaker = "    breaker: {failures: 5, open: 1h}\n";
    let gateway = Gateway::start(&with_cloud(cloud.address, breaker)).await;
    for number in 1..=8 {
        let reply = gateway.chat(say("Hello")).await;
        reply.came_from("edge", 200);
        let offline = if number < 5 { "" } else { "failing" };
        assert_eq!(reply.header("x-sluice-offline"), offline, "{number}");
    }
    assert_eq!(cloud.requests(), 5, "the breaker lets five through");
    for (metric, value) in [
        (r#"sluice_upstream_healthy{upstream="cloud"}"#, 0.0),
        (r#"sluice_breaker_state{upstream="cloud"}"#, 2.0),
        (r#"sluice_offline{cause="failing"}"#, 1.0),
        (r#"sluice_network_changes_total{to="failing"}"#, 1.0),
    ] {
        assert_eq!(gateway.metric(metric).await, value, "{metric}");
    }
    assert_eq!(
        gateway.probe("/readyz").await.json()["offline"],
        "every network upstream is failing"
    );
}

#[tokio::test]
async fn a_cloud_that_was_left_alone_is_probed_and_comes_back() {
    let cloud = Cloud::start(Script::Raw(http("503 No", "text/plain", b"x"))).await;
    let breaker = "    breaker: {failures: 1, open: 100ms, open_at_most: 100ms}\n";
    let gateway = Gateway::start(&with_cloud(cloud.address, breaker)).await;
    gateway.chat(say("Hello")).await.came_from("edge", 200);
    cloud.follow(Script::Answer);
    let mut back = false;
    for _ in 0..100 {
        let reply = gateway.chat(say("Hello")).await;
        assert_eq!(reply.status, 200);
        back = reply.header("x-sluice-route") == "cloud";
        if back {
            assert_eq!(reply.header("x-sluice-offline"), "");
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(back, "the breaker never closed");
    assert_eq!(gateway.metric(r#"sluice_breaker_state{upstream="cloud"}"#).await, 0.0);
    assert_eq!(gateway.metric(r#"sluice_network_changes_total{to="online"}"#).await, 1.0);
}

#[tokio::test]
async fn private_requests_do_not_notice_that_the_cloud_is_down() {
    let cloud = Cloud::start(Script::Silence).await;
    let gateway = Gateway::with_cloud(cloud.address).await;
    let reply = gateway.chat(say("Refund the card 4539 5787 6362 1486")).await;
    reply.came_from("edge", 200);
    assert_eq!(cloud.requests(), 0);
}

#[tokio::test]
async fn requests_beyond_the_limit_are_told_to_come_back() {
    let cloud = Cloud::start(Script::Silence).await;
    let config = with_cloud(cloud.address, "limits: {in_flight: 1}\n");
    let gateway = Gateway::start(&config).await;
    let first = gateway.chat(say("Hello"));
    let second = async {
        until("the first is in flight", || cloud.requests() == 1).await;
        gateway.chat(say("Hello")).await
    };
    let (first, second) = tokio::join!(first, second);
    first.came_from("edge", 200);
    assert_eq!((second.status.as_u16(), second.header("retry-after")), (503, "1"));
    assert_eq!(second.json()["error"]["code"], "overloaded");
    gateway.chat(say("Refund the card 4539 5787 6362 1486")).await.came_from("edge", 200);
}

#[tokio::test]
async fn two_clouds_stand_in_for_each_other() {
    let (first, second) = (Cloud::nowhere().await, Cloud::start(Script::Answer).await);
    let upstream = |name, address| {
        format!("  {name}:\n    kind: openai\n    base_url: \"http://{address}/v1\"\n")
    };
    let both = upstream("first", first) + &upstream("second", second.address);
    let gateway = Gateway::start(&with_upstreams(&both)).await;
    let reply = gateway.chat(say("Hello")).await;
    reply.came_from("cloud", 200);
    assert_eq!(reply.header("x-sluice-upstream"), "second");
    let lines = gateway.audit_lines(4).await;
    assert_eq!((&lines[0]["upstream"], &lines[2]["upstream"]), (&json!("first"), &json!("second")));
}
