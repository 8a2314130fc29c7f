//! Asking again, asking two, and whom to ask first.

use std::net::SocketAddr;

use hyper::Method;
use serde_json::json;
use std::time::Duration;

use crate::cloud::{Cloud, Script, http, until};
use crate::gateway::{Gateway, say, say_streamed, shows_card, with_cloud, with_upstreams};

fn status(line: &str, header: &str) -> Script {
    let head = format!("HTTP/1.1 {line}\r\ncontent-length: 0\r\n{header}\r\n");
    Script::Raw(head.into_bytes())
}

#[tokio::test]
async fn what_fails_before_its_first_byte_is_asked_again_each_time_on_record() {
    let cloud = Cloud::start(Script::Answer).await;
    let gateway = Gateway::start(&with_cloud(cloud.address, "    retries: {attempts: 2}\n")).await;
    cloud.first([status("503 No", ""), status("429 Slow", "retry-after: 0\r\n")]);
    gateway.chat(say_streamed("Hello")).await.came_from("cloud", 200);
    assert_eq!(cloud.requests(), 3);
    let lines = gateway.audit_lines(6).await;
    let told: Vec<_> =
        lines.iter().map(|line| (&line["kind"], &line["attempt"], &line["status"])).collect();
    let (attempt, outcome) = (json!("attempt"), json!("outcome"));
    let (one, two, three) = (json!(1), json!(2), json!(3));
    let (none, no, slow, ok) = (json!(null), json!(503), json!(429), json!(200));
    assert_eq!(
        told,
        [
            (&attempt, &one, &none),
            (&outcome, &one, &no),
            (&attempt, &two, &none),
            (&outcome, &two, &slow),
            (&attempt, &three, &none),
            (&outcome, &three, &ok),
        ]
    );
    let made = r#"sluice_retries_total{outcome="made",upstream="cloud"}"#;
    assert_eq!(gateway.metric(made).await, 2.0);
}

#[tokio::test]
async fn what_may_have_begun_or_comes_too_late_is_not_asked_again() {
    for (script, error) in [
        (status("429 Slow", "retry-after: 3600\r\n"), "upstream_status"),
        (status("500 Oh", ""), "upstream_status"),
        (status("502 Behind", ""), "upstream_status"),
        (status("504 Late", ""), "upstream_status"),
        (Script::Raw(http("200 OK", "application/json", b"{")), "bad_reply"),
        (Script::Raw(Vec::new()), "unreachable"),
    ] {
        let cloud = Cloud::start(script.clone()).await;
        let gateway =
            Gateway::start(&with_cloud(cloud.address, "    retries: {attempts: 3}\n")).await;
        gateway.chat(say("Hello")).await.came_from("edge", 200);
        assert_eq!(cloud.requests(), 1, "{script:?}");
        assert_eq!(gateway.audit_lines(2).await[1]["error"], error, "{script:?}");
    }
}

#[tokio::test]
async fn retries_of_all_requests_share_one_budget() {
    let cloud = Cloud::start(status("503 No", "retry-after: 0\r\n")).await;
    let more = "    retries: {attempts: 10, budget: 0%}\n    breaker: {failures: 1000}\n";
    let gateway = Gateway::start(&with_cloud(cloud.address, more)).await;
    for _ in 0..3 {
        gateway.chat(say("Hello")).await.came_from("edge", 200);
    }
    // Ten are saved up at the start, and the first request takes them all.
    assert_eq!(cloud.requests(), 13);
    let without = r#"sluice_retries_total{outcome="no_budget",upstream="cloud"}"#;
    assert_eq!(gateway.metric(without).await, 2.0);
}

#[tokio::test]
async fn a_network_that_is_declared_away_during_the_wait_is_not_asked_again() {
    let cloud = Cloud::start(status("503 No", "retry-after: 1\r\n")).await;
    let gateway = Gateway::start(&with_cloud(cloud.address, "    retries: {attempts: 3}\n")).await;
    let declare = async {
        until("the cloud is asked", || cloud.requests() == 1).await;
        gateway.inside.declare_offline("drill", "mara");
    };
    let (reply, ()) = tokio::join!(gateway.chat(say("Hello")), declare);
    reply.came_from("edge", 200);
    assert_eq!(cloud.requests(), 1);
}

/// Two clouds that policy likes equally.
fn two(first: SocketAddr, second: SocketAddr, of_first: &str, more: &str) -> String {
    let upstream = |name, address, lines: &str| {
        format!("  {name}:\n    kind: openai\n    base_url: \"http://{address}/v1\"\n{lines}")
    };
    let both = upstream("first", first, of_first) + &upstream("second", second, "");
    with_upstreams(&both) + more
}

#[tokio::test]
async fn requests_are_shared_by_weight() {
    let (first, second) = (Cloud::start(Script::Answer).await, Cloud::start(Script::Answer).await);
    let (a, b) = (first.address, second.address);
    let config = two(a, b, "    weight: 1000000\n", "choose: weighted\n");
    let gateway = Gateway::start(&config).await;
    for _ in 0..20 {
        gateway.chat(say("Hello")).await.came_from("cloud", 200);
    }
    assert_eq!((first.requests(), second.requests()), (20, 0));
    let config = two(a, b, "", "choose: weighted\n");
    let gateway = Gateway::start(&config).await;
    for _ in 0..40 {
        gateway.chat(say("Hello")).await.came_from("cloud", 200);
    }
    // A fair coin falls on one side forty times in a row once in a million million.
    assert!(first.requests() > 20 && second.requests() > 0);
}

#[tokio::test]
async fn the_quicker_cloud_is_asked_first() {
    let slow = Cloud::start(Script::Late(Duration::from_millis(400))).await;
    let quick = Cloud::start(Script::Answer).await;
    let config = two(slow.address, quick.address, "", "choose: least_latency\n");
    let gateway = Gateway::start(&config).await;
    for _ in 0..6 {
        gateway.chat(say("Hello")).await.came_from("cloud", 200);
    }
    assert_eq!((slow.requests(), quick.requests()), (1, 5));
}

#[tokio::test]
async fn a_slow_cloud_is_hedged_and_hung_up_on() {
    let slow = Cloud::start(Script::Silence).await;
    let quick = Cloud::start(Script::Answer).await;
    let config = two(slow.address, quick.address, "", "hedge: {after: 100ms}\n");
    let gateway = Gateway::start(&config).await;
    for (number, body) in [say("Hello"), say_streamed("Hello")].into_iter().enumerate() {
        let reply = gateway.chat(body).await;
        reply.came_from("cloud", 200);
        assert_eq!(reply.header("x-sluice-upstream"), "second");
        slow.hung_up().await;
        assert_eq!(slow.requests(), number + 1);
    }
    gateway.idle().await;
    let lines = gateway.audit_lines(8).await;
    let outrun = lines.iter().filter(|line| line["ending"] == "outrun").collect::<Vec<_>>();
    assert_eq!(outrun.len(), 2, "{lines:?}");
    assert!(outrun.iter().all(|line| line["upstream"] == "first" && line["attempt"] == 1));
    let won = r#"sluice_hedges_total{upstream="first",winner="second"}"#;
    assert_eq!(gateway.metric(won).await, 2.0);
    assert_eq!(gateway.metric("sluice_clients_left_total ").await, 0.0);
}

#[tokio::test]
async fn a_cloud_that_hangs_is_left_alone_although_others_answer_for_it() {
    let hung = Cloud::start(Script::Silence).await;
    let quick = Cloud::start(Script::Answer).await;
    let breaker = "    breaker: {failures: 2, open: 1h, open_at_most: 1h}\n";
    let config = two(hung.address, quick.address, breaker, "hedge: {after: 50ms}\n");
    let gateway = Gateway::start(&config).await;
    let streams = std::iter::repeat_with(|| say_streamed("Hello")).take(4);
    // Of a whole reply nobody can say that it has not begun.
    for (asked, body) in [say("Hello"), say("Hello")].into_iter().chain(streams).enumerate() {
        gateway.chat(body).await.came_from("cloud", 200);
        assert_eq!(hung.requests(), (asked + 1).min(4));
    }
    // Who answers late, but first, has done nothing wrong: the second that lost has not failed.
    let late = Cloud::start(Script::Late(Duration::from_millis(300))).await;
    let config = two(late.address, hung.address, breaker, "hedge: {after: 50ms}\n");
    let gateway = Gateway::start(&config).await;
    for _ in 0..6 {
        gateway.chat(say_streamed("Hello")).await.came_from("cloud", 200);
    }
    assert_eq!((late.requests(), hung.requests()), (6, 4 + 6));
}

#[tokio::test]
async fn a_hedge_is_for_the_latency_classes_that_it_names_and_stays_in_its_zone() {
    let slow = Cloud::start(Script::Late(Duration::from_millis(400))).await;
    let quick = Cloud::start(Script::Answer).await;
    let config = two(slow.address, quick.address, "", "hedge: {after: 50ms}\n");
    let gateway = Gateway::start(&config).await;
    let relaxed = [("x-sluice-latency", "relaxed")];
    gateway.chat_with(&relaxed, say("Hello")).await.came_from("cloud", 200);
    assert_eq!((slow.requests(), quick.requests()), (1, 0));
    // The edge stands in another zone, so it is no second for a cloud.
    let alone = with_cloud(slow.address, "hedge: {after: 50ms}\n");
    let gateway = Gateway::start(&alone).await;
    gateway.chat(say("Hello")).await.came_from("cloud", 200);
    assert_eq!(slow.requests(), 2);
}

#[tokio::test]
async fn private_text_is_neither_retried_nor_hedged_out_of_here() {
    let (first, second) = (Cloud::start(Script::Silence).await, Cloud::start(Script::Answer).await);
    let more = "hedge: {after: 1ms}\nchoose: weighted\n";
    let retries = "    retries: {attempts: 5}\n";
    let gateway = Gateway::start(&two(first.address, second.address, retries, more)).await;
    let body = say("Refund the card 4539 5787 6362 1486");
    gateway.chat(body.clone()).await.came_from("edge", 200);
    let message = json!({"model": "m", "max_tokens": 4, "messages": body["messages"]}).to_string();
    let reply = gateway.send(Method::POST, "/v1/messages", &[], message).await;
    reply.came_from("edge", 200);
    assert_eq!((first.requests(), second.requests()), (0, 0));
    assert!(!shows_card(&(first.seen() + &second.seen())));
}
