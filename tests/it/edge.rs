//! The edge as an upstream among others: too slow, crowded, and honest about it.

use serde_json::json;

use crate::cloud::{Cloud, Script};
use crate::gateway::{CARD, Gateway, Reply, say, say_streamed, with_cloud, with_upstreams};

/// A gateway whose interactive work wants a first token sooner than any engine has one.
async fn impatient(too_slow: &str) -> Gateway {
    let folder = tempfile::tempdir().unwrap();
    let site = include_str!("../../policies/site.yaml")
        .replace("edge_too_slow: answer_anyway", &format!("edge_too_slow: {too_slow}"))
        .replace("first_token: 5s", "first_token: 1ms");
    // Its tests are about a patient site.
    let site = site.split("\ntests:").next().unwrap().to_owned();
    std::fs::write(folder.path().join("site.yaml"), site).unwrap();
    let config = format!("{}policy: {{site: site.yaml}}\n", with_upstreams(""));
    Gateway::start_in(folder, &config).await
}

#[tokio::test]
async fn an_edge_that_is_too_slow_answers_waits_or_refuses_as_the_site_says() {
    let private = format!("Refund the card {CARD}");
    for (answer, status, retry_after) in
        [("answer_anyway", 200, false), ("refuse", 503, true), ("queue 300ms", 503, true)]
    {
        let gateway = impatient(answer).await;
        for body in [say(&private), say_streamed(&private)] {
            let reply = gateway.chat(body).await;
            assert_eq!(reply.status, status, "{answer}: {}", reply.text());
            assert_eq!(!reply.header("retry-after").is_empty(), retry_after, "{answer}");
            if status == 503 {
                assert_eq!(reply.json()["error"]["code"], "edge_too_slow", "{answer}");
                assert_eq!(reply.header("x-sluice-route"), "refuse");
            }
        }
        // Who has more time is answered.
        let relaxed = [("x-sluice-latency", "relaxed")];
        gateway.chat_with(&relaxed, say(&private)).await.came_from("edge", 200);
    }
}

#[tokio::test]
async fn batch_work_is_told_its_place_in_the_queue() {
    let gateway = Gateway::start(&with_upstreams("")).await;
    let place = |reply: &Reply| reply.header("x-sluice-queue-position").parse::<usize>();
    let batch = [("x-sluice-latency", "batch")];
    let body = |number: usize, streamed: bool| {
        let mut body = if streamed { say_streamed("Tell a story") } else { say("Tell a story") };
        (body["max_tokens"], body["seed"]) = (json!(48), json!(number));
        body
    };
    let asked = (0..12).map(|number| gateway.chat_with(&batch, body(number, number % 2 == 0)));
    let replies = futures_util::future::join_all(asked).await;
    let mut places: Vec<usize> = replies.iter().map(|reply| place(reply).unwrap()).collect();
    for (reply, place) in replies.iter().zip(&places) {
        reply.came_from("edge", 200);
        assert!(!reply.content().is_empty());
        let starts_in: u64 = reply.header("x-sluice-expected-start-ms").parse().unwrap();
        assert!(starts_in == 0 || *place > 0, "place {place}: {starts_in} ms");
    }
    places.sort();
    assert!(places[0] == 0 && places[11] > 0, "twelve do not run at once: {places:?}");
    let now = gateway.chat(say("Hello")).await;
    assert_eq!(now.header("x-sluice-queue-position"), "", "only batch work is told");
}

#[tokio::test]
async fn batch_work_spills_to_the_cloud_when_its_share_of_the_queue_is_taken() {
    let cloud = Cloud::start(Script::Answer).await;
    let gateway = Gateway::start(&with_cloud(cloud.address, "")).await;
    let batch = [("x-sluice-latency", "batch")];
    // Each is another text and takes the engine longer than the gateway needs to let all of them in.
    let told = "The parser reads the file line by line and reports each problem. ".repeat(8);
    let body = |number: usize| say(&format!("Story {number}. {told}"));
    let asked = (0..48).map(|number| gateway.chat_with(&batch, body(number)));
    let replies = futures_util::future::join_all(asked).await;
    let from = |route: &str| replies.iter().filter(|r| r.header("x-sluice-route") == route).count();
    assert!(replies.iter().all(|reply| reply.status == 200));
    assert!(from("edge") > 0 && from("cloud") > 0, "{} {}", from("edge"), from("cloud"));
    assert_eq!(from("edge") + from("cloud"), 48);
    // A place was left for the one who needs it.
    gateway.chat(say(&format!("Refund the card {CARD}"))).await.came_from("edge", 200);
    gateway.idle().await;
}
