//! Where requests go, and what their replies say about it.

use serde_json::json;

use crate::cloud::{Cloud, Script, WORDS};
use crate::gateway::{Gateway, say, say_streamed, with_cloud, with_upstreams};

#[tokio::test]
async fn an_ordinary_prompt_reaches_the_cloud_and_comes_back() {
    let cloud = Cloud::start(Script::Answer).await;
    let gateway = Gateway::with_cloud(cloud.address).await;
    for body in
        [say("What is the capital of France?"), say_streamed("What is the capital of France?")]
    {
        let reply = gateway.chat(body).await;
        reply.came_from("cloud", 200);
        assert_eq!(reply.content(), WORDS.concat());
        assert_eq!(reply.header("x-sluice-upstream"), "cloud");
    }
    assert!(cloud.seen().contains("capital of France"));
    assert_eq!(cloud.requests(), 2);
}

#[tokio::test]
async fn every_reply_after_classification_says_who_decided_what() {
    let cloud = Cloud::start(Script::Answer).await;
    let gateway = Gateway::with_cloud(cloud.address).await;
    let refused = json!({"model": "auto", "messages": [{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": "https://pictures.example/1.png"}}]}]});
    for (body, route, quality) in [
        (say("Hello"), "cloud", "demo"),
        (say("Refund the card 4539 5787 6362 1486"), "edge", "demo"),
        (refused, "refuse", "none"),
    ] {
        let reply = gateway.chat(body).await;
        assert_eq!(reply.header("x-sluice-route"), route, "{}", reply.text());
        assert_eq!(reply.header("x-sluice-model-quality"), quality);
        for name in ["class", "labels", "rule", "upstream"] {
            assert_ne!(reply.header(&format!("x-sluice-{name}")), "", "{name}, {route}");
        }
        let id = reply.header("x-sluice-decision");
        assert_eq!((id.len(), id.as_bytes()[14]), (36, b'7'), "not a UUIDv7: {id}");
        assert_ne!(reply.header("x-request-id"), "");
    }
}

#[tokio::test]
async fn without_a_cloud_the_edge_answers() {
    let gateway = Gateway::start(&with_upstreams("")).await;
    let reply = gateway.chat(say("What is the capital of France?")).await;
    reply.came_from("edge", 200);
    assert_eq!(reply.header("x-sluice-model-quality"), "demo");
    let json = reply.json();
    assert_eq!(json["object"], "chat.completion");
    assert_eq!(json["choices"][0]["message"]["role"], "assistant");
    assert!(json["usage"]["prompt_tokens"].as_u64().unwrap() > 0);
    assert_ne!(json["model"], "auto", "the model that answered is named");
}

#[tokio::test]
async fn what_makes_replies_worse_is_named_in_every_reply_that_has_it() {
    let config = with_upstreams("");
    let fewer = config.replace("kind: edge,", "kind: edge, active_experts: 3,");
    let cold = config.replace("kind: edge,", "kind: edge, drop_cold_experts: 0.1,");
    let cases = [(fewer, "active_experts=3/4"), (cold, "drop_cold_experts=0.1"), (config, "")];
    for (config, lossy) in cases {
        let gateway = Gateway::start(&config).await;
        for body in [say("Hello"), say_streamed("Hello")] {
            let reply = gateway.chat(body).await;
            reply.came_from("edge", 200);
            assert_eq!(reply.header("x-sluice-lossy"), lossy);
        }
    }
}

#[tokio::test]
async fn declared_offline_keeps_everything_here() {
    let cloud = Cloud::start(Script::Answer).await;
    let config = with_cloud(cloud.address, "offline: {declared: true}\n");
    let gateway = Gateway::start(&config).await;
    gateway.chat(say("What is the capital of France?")).await.came_from("edge", 200);
    assert_eq!(cloud.seen(), "");
    let detail = gateway.probe("/readyz").await;
    assert_eq!(detail.json()["offline"], "declared in the config");
}

#[tokio::test]
async fn a_person_declares_the_network_away_and_brings_it_back() {
    let cloud = Cloud::start(Script::Answer).await;
    let gateway = Gateway::with_cloud(cloud.address).await;
    let ask = async |route: &str, header: &str| {
        let reply = gateway.chat(say("Hello")).await;
        reply.came_from(route, 200);
        assert_eq!(reply.header("x-sluice-offline"), header);
    };
    let declared = r#"sluice_offline{cause="declared"}"#;
    ask("cloud", "").await;
    gateway.inside.declare_offline("storm drill", "mara");
    ask("edge", "declared").await;
    assert_eq!(gateway.metric(declared).await, 1.0);
    let ready = gateway.probe("/readyz").await.json();
    assert_eq!(ready["offline"], "declared by mara: storm drill");
    let lines = gateway.audit_lines(4).await;
    assert_eq!(lines[2]["facts"]["offline"], "declared by mara: storm drill");
    assert!(gateway.inside.resume("ivo").is_some());
    ask("cloud", "").await;
    assert_eq!((cloud.requests(), gateway.metric(declared).await), (2, 0.0));
}

#[tokio::test]
async fn a_model_name_is_rewritten_for_the_upstream_that_has_another() {
    let cloud = Cloud::start(Script::Answer).await;
    let gateway =
        Gateway::start(&with_cloud(cloud.address, "    models: {quick: small-7b}\n")).await;
    let mut body = say("Hello");
    body["model"] = json!("quick");
    gateway.chat(body).await.came_from("cloud", 200);
    assert!(cloud.seen().contains(r#""model":"small-7b""#));
    let models = gateway.get("/v1/models").await.json();
    let names: Vec<_> = models["data"].as_array().unwrap().iter().map(|m| &m["id"]).collect();
    assert!(names.contains(&&json!("quick")), "{names:?}");
    assert_eq!(gateway.get("/v1/models/quick").await.status, 200);
    assert_eq!(gateway.get("/v1/models/nothing").await.status, 404);
}

#[tokio::test]
async fn the_request_id_is_echoed_or_minted() {
    let gateway = Gateway::start(&with_upstreams("")).await;
    let reply = gateway.chat_with(&[("x-request-id", "mine-1")], say("Hello")).await;
    assert_eq!(reply.header("x-request-id"), "mine-1");
    let reply = gateway.chat_with(&[("x-request-id", "no spaces")], say("Hello")).await;
    assert_eq!(reply.header("x-request-id").len(), 32);
}

#[tokio::test]
async fn probes_and_metrics_have_their_own_listener() {
    let gateway = Gateway::start(&with_upstreams("")).await;
    assert_eq!(gateway.probe("/livez").await.status, 200);
    let ready = gateway.probe("/readyz").await;
    assert_eq!(ready.status, 200);
    assert_eq!(ready.json()["upstreams"]["edge"], "ready");
    gateway.chat(say("Hello")).await.came_from("edge", 200);
    let counted = r#"sluice_requests_total{class="internal",route="edge",status="200"}"#;
    assert_eq!(gateway.metric(counted).await, 1.0);
    assert_eq!(gateway.get("/metrics").await.status, 404, "metrics are not public");
}

#[tokio::test]
async fn probes_and_headers_have_the_names_that_others_give_them() {
    let cloud = Cloud::start(Script::Answer).await;
    let gateway = Gateway::with_cloud(cloud.address).await;
    for path in
        ["/livez", "/readyz", "/healthz", "/health", "/health/readiness", "/health/liveness"]
    {
        assert_eq!(gateway.probe(path).await.status, 200, "{path}");
    }
    assert_eq!(gateway.get("/health").await.json(), json!({"status": "ok"}));
    let reply = gateway.chat(say("Hello")).await;
    assert!(reply.header("openai-processing-ms").parse::<u64>().is_ok(), "{:?}", reply.headers);
}
