//! Who calls, what that opens and how much of it: keys that change under way, tenants apart, limits in
//! every dialect's words, pages of other origins.

use std::path::Path;

use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use sluice::identity::keys::{KeysFile, NewKey};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::cloud::{Cloud, Script, http, until};
use crate::gateway::{CARD, Gateway, Reply, say, say_streamed, shows_card, with_cloud};

/// Writes a keys file with one key for each `(id, tenant)`; returns the keys.
pub(crate) fn write_keys(folder: &Path, callers: &[(&str, &str)]) -> Vec<String> {
    let mut file = KeysFile::default();
    let create = |(id, tenant): &(&str, &str)| {
        let new = NewKey { id: (*id).into(), tenant: (*tenant).into(), ..NewKey::default() };
        let key = file.create(new, "2026-11-28T12:00:00Z".parse().unwrap()).unwrap().unwrap();
        format!("Bearer {}", key.expose())
    };
    let keys = callers.iter().map(create).collect();
    file.write(&folder.join("keys.yaml")).unwrap();
    keys
}

async fn keyed(cloud: &Cloud, callers: &[(&str, &str)], more: &str) -> (Gateway, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let keys = write_keys(folder.path(), callers);
    let more = format!("identity: {{keys: $FOLDER/keys.yaml}}\n{more}");
    (Gateway::start_in(folder, &with_cloud(cloud.address, &more)).await, keys)
}

async fn ask(gateway: &Gateway, key: &str, body: Value) -> Reply {
    gateway.chat_with(&[("authorization", key)], body).await
}

#[tokio::test]
async fn callers_whom_nobody_knows_leave_places_for_the_others() {
    let cloud = Cloud::start(Script::Answer).await;
    let limits = "limits: {in_flight: 8}\n";
    let (gateway, keys) = keyed(&cloud, &[("anna", "north")], limits).await;
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{";
    let mut strangers = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(gateway.traffic).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        strangers.push(stream);
    }
    gateway.in_flight(2).await;
    let refused = gateway.chat(say("Hello")).await;
    assert_eq!(refused.status, 503);
    assert_eq!(refused.json()["error"]["code"], "overloaded");
    ask(&gateway, &keys[0], say("Hello")).await.came_from("cloud", 200);
    drop(strangers);
    gateway.idle().await;
    assert_ne!(gateway.chat(say("Hello")).await.status, 503);
}

#[tokio::test]
async fn a_revoked_key_is_nobodys_once_its_file_is_read_again() {
    let cloud = Cloud::start(Script::Answer).await;
    let (gateway, keys) = keyed(&cloud, &[("anna", "north")], "").await;
    ask(&gateway, &keys[0], say("Hello")).await.came_from("cloud", 200);
    let path = gateway.folder().join("keys.yaml");
    let mut file = KeysFile::read(&path).unwrap();
    file.revoke("anna", "2026-11-28T12:00:00Z".parse().unwrap()).unwrap();
    file.write(&path).unwrap();
    let callers = async || {
        ask(&gateway, &keys[0], say("Hello")).await;
        gateway.audit().last().unwrap().clone()
    };
    // The watch looks once a second and reads what has settled.
    for _ in 0..600 {
        if callers().await["caller"].is_null() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("the key is still known");
}

#[tokio::test]
async fn what_one_tenant_said_taints_no_conversation_of_another() {
    let cloud = Cloud::start(Script::Answer).await;
    let (gateway, keys) = keyed(&cloud, &[("app", "north"), ("app-2", "south")], "").await;
    let session = [("x-sluice-session", "shared-name")];
    let with = |key: usize| [("authorization", keys[key].as_str()), session[0]];
    let private = say(&format!("Refund {CARD} please"));
    gateway.chat_with(&with(0), private).await.came_from("edge", 200);
    gateway.chat_with(&with(0), say("And now?")).await.came_from("edge", 200);
    gateway.chat_with(&with(1), say("And now?")).await.came_from("cloud", 200);
    assert!(!shows_card(&cloud.seen()));
}

#[tokio::test]
async fn every_record_names_the_tenant_and_limits_of_one_leave_the_other_alone() {
    let cloud = Cloud::start(Script::Answer).await;
    let callers = [("anna", "north"), ("berta", "north"), ("carla", "south")];
    let limits = "limits: {per_tenant: {requests_per_minute: 2}}\n";
    let (gateway, keys) = keyed(&cloud, &callers, limits).await;
    for (key, expected) in [(0, 200), (1, 200), (0, 429), (1, 429), (2, 200), (2, 200), (2, 429)] {
        let reply = ask(&gateway, &keys[key], say("Hello")).await;
        assert_eq!(reply.status.as_u16(), expected, "{}", callers[key].0);
    }
    let attempts: Vec<Value> = gateway
        .audit()
        .into_iter()
        .filter(|line| line["kind"] == "attempt")
        .map(|line| json!([line["caller"], line["tenant"]]))
        .collect();
    assert_eq!(
        attempts,
        [
            json!(["anna", "north"]),
            json!(["berta", "north"]),
            json!(["carla", "south"]),
            json!(["carla", "south"]),
        ]
    );
}

#[tokio::test]
async fn a_limit_says_so_in_the_words_of_each_dialect() {
    let cloud = Cloud::start(Script::Answer).await;
    let limits = "limits: {per_caller: {requests_per_minute: 1}}\n";
    for (path, body) in [
        ("/v1/chat/completions", say("Hello")),
        ("/v1/completions", json!({"model": "m", "prompt": "Hello", "max_tokens": 4})),
        ("/v1/responses", json!({"model": "m", "input": "Hello", "max_output_tokens": 16})),
        (
            "/v1/messages",
            json!({"model": "m", "max_tokens": 4, "messages": [{"role": "user", "content": "Hi"}]}),
        ),
    ] {
        let gateway = Gateway::start(&with_cloud(cloud.address, limits)).await;
        let send = || gateway.send(Method::POST, path, &[], body.to_string());
        let first = send().await;
        assert_eq!(first.status, 200, "{path}: {}", first.text());
        assert_eq!(first.header("x-ratelimit-limit-requests"), "1");
        assert_eq!(first.header("x-ratelimit-remaining-requests"), "0");
        let second = send().await;
        assert_eq!(second.status, StatusCode::TOO_MANY_REQUESTS);
        let seconds: u64 = second.header("retry-after").parse().unwrap();
        assert!((1..=60).contains(&seconds), "{seconds}");
        let error = &second.json()["error"];
        assert_eq!(error["type"], "rate_limit_error", "{path}");
        match path {
            "/v1/messages" => assert_eq!(second.json()["type"], "error"),
            _ => assert_eq!(error["code"], "rate_limit_exceeded", "{path}"),
        }
        let turned_away = r#"sluice_rejected_total{reason="limited"}"#;
        assert_eq!(gateway.metric(turned_away).await, 1.0);
    }
}

#[tokio::test]
async fn real_usage_takes_the_place_of_the_estimate_streamed_or_not() {
    let cloud = Cloud::start(Script::Answer).await;
    let limits = "limits: {per_caller: {tokens_per_minute: 100000}}\n";
    let gateway = Gateway::start(&with_cloud(cloud.address, limits)).await;
    let long = "words and words ".repeat(2000);
    let mut least = u64::MAX;
    for body in [say(&long), say_streamed(&long)] {
        let reply = gateway.chat(body).await;
        reply.came_from("cloud", 200);
        least = reply.header("x-ratelimit-remaining-tokens").parse().unwrap();
        assert!(least < 93_000, "about 8,000 tokens are reserved: {least}");
    }
    gateway.idle().await;
    // The fake cloud counts a handful of tokens, so nearly all of it is back.
    let after = gateway.chat(say("Hello")).await;
    let remaining: u64 = after.header("x-ratelimit-remaining-tokens").parse().unwrap();
    assert!(remaining > 99_000 && remaining > least, "{remaining}");
}

#[tokio::test]
async fn a_streamed_reply_holds_its_place_until_its_reader_has_gone() {
    let cloud = Cloud::start(Script::Endless).await;
    let limits = "limits: {per_caller: {concurrency: 1}}\n";
    let gateway = Gateway::start(&with_cloud(cloud.address, limits)).await;
    let stream = gateway.stream(&[], say_streamed("Hello")).await;
    assert_eq!(stream.status(), 200);
    assert_eq!(gateway.chat(say("Hello")).await.status, 429);
    drop(stream);
    cloud.hung_up().await;
    gateway.idle().await;
    cloud.follow(Script::Answer);
    gateway.chat(say("Hello")).await.came_from("cloud", 200);
}

#[tokio::test]
async fn money_of_the_day_is_spent_by_the_price_of_the_model_that_answered() {
    let cloud = Cloud::start(Script::Answer).await;
    let more = "    models: {auto: dear}\nlimits: {per_caller: {cost_per_day: 0.015}}\n\
                prices: {dear: {input: 1000, output: 1000}}\n";
    let gateway = Gateway::start(&with_cloud(cloud.address, more)).await;
    // What the edge answers costs nothing.
    for _ in 0..3 {
        gateway.chat(say(&format!("Refund {CARD} please"))).await.came_from("edge", 200);
    }
    gateway.chat(say("Hello")).await.came_from("cloud", 200);
    gateway.idle().await;
    let reply = gateway.chat(say("Hello")).await;
    assert_eq!(reply.status, 429, "{}", reply.text());
    assert_eq!(reply.json()["error"]["code"], "insufficient_quota");
    assert_eq!(reply.header("x-should-retry"), "false");
    // It has a decision, and is on record as refused.
    reply.came_from("refuse", 429);
    gateway.chat(say(&format!("Refund {CARD} please"))).await.came_from("edge", 200);
    until("one request", || cloud.requests() == 1).await;
}

#[tokio::test]
async fn what_the_cloud_turns_away_costs_nothing() {
    let no = http("400 No", "application/json", br#"{"detail":"no such tool"}"#);
    let cloud = Cloud::start(Script::Raw(no)).await;
    let more = "limits: {per_caller: {tokens_per_day: 200}}\n";
    let gateway = Gateway::start(&with_cloud(cloud.address, more)).await;
    let prompt = "The river runs past the mill. ".repeat(12);
    for _ in 0..5 {
        let reply = gateway.chat(say(&prompt)).await;
        reply.came_from("cloud", 400);
        assert_eq!(reply.json()["error"]["message"], "no such tool");
        gateway.idle().await;
    }
    let outcome = &gateway.audit_lines(2).await[1];
    assert!(outcome["prompt_tokens"].is_null(), "nobody counted: {outcome}");
}

#[tokio::test]
async fn a_model_has_one_limit_whatever_clients_call_it() {
    let cloud = Cloud::start(Script::Answer).await;
    let more = "    model: large-9\nlimits: {per_model: {large-9: {requests_per_minute: 2}}}\n";
    let gateway = Gateway::start(&with_cloud(cloud.address, more)).await;
    for (name, expected) in [("auto", 200), ("a-name", 200), ("another", 429), ("auto", 429)] {
        let mut body = say("Hello");
        body["model"] = json!(name);
        let reply = gateway.chat(body).await;
        assert_eq!(reply.status.as_u16(), expected, "{name}: {}", reply.text());
        assert_eq!(reply.header("x-ratelimit-limit-requests"), "2", "{name}");
        assert_eq!(reply.header("retry-after").is_empty(), expected == 200, "{name}");
    }
    // Another model has its own: what must stay here is answered.
    gateway.chat(say(&format!("Refund {CARD} please"))).await.came_from("edge", 200);
    assert_eq!(cloud.requests(), 2);
}

#[tokio::test]
async fn a_page_may_call_if_its_origin_is_listed_and_only_then() {
    let cloud = Cloud::start(Script::Answer).await;
    let config = with_cloud(cloud.address, "");
    let listed = config.replace("listen: {", "listen: {cors: [\"https://app.example\"], ");
    let closed = Gateway::start(&config).await;
    let open = Gateway::start(&listed).await;
    let preflight = async |gateway: &Gateway, origin| {
        let asks = [
            ("origin", origin),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "authorization,content-type"),
        ];
        gateway.send(Method::OPTIONS, "/v1/chat/completions", &asks, "").await
    };
    let allowed = preflight(&open, "https://app.example").await;
    assert_eq!(allowed.status, 204);
    assert_eq!(allowed.header("access-control-allow-origin"), "https://app.example");
    assert_eq!(allowed.header("access-control-allow-headers"), "authorization,content-type");
    for (gateway, origin) in [(&open, "https://evil.example"), (&closed, "https://app.example")] {
        let refused = preflight(gateway, origin).await;
        assert!(!refused.status.is_success());
        assert_eq!(refused.header("access-control-allow-origin"), "");
    }
    for (gateway, expected) in [(&open, "https://app.example"), (&closed, "")] {
        let reply = gateway.chat_with(&[("origin", "https://app.example")], say("Hello")).await;
        reply.came_from("cloud", 200);
        assert_eq!(reply.header("access-control-allow-origin"), expected);
        assert_eq!(reply.header("access-control-allow-credentials"), "");
    }
}

#[tokio::test]
async fn a_session_in_anthropics_metadata_counts_where_the_config_says_so_and_no_header_says_more()
{
    let cloud = Cloud::start(Script::Answer).await;
    let ask = async |gateway: &Gateway, headers: &[(&str, &str)], user: &str, text: &str| {
        let body = json!({"model": "m", "max_tokens": 4, "metadata": {"user_id": user},
            "messages": [{"role": "user", "content": text}]});
        let reply = gateway.send(Method::POST, "/v1/messages", headers, body.to_string()).await;
        reply.header("x-sluice-route").to_owned()
    };
    let private = format!("Refund {CARD} please");
    for (identity, expected) in
        [("", "cloud"), ("identity: {session_from_user_id: true}\n", "edge")]
    {
        let gateway = Gateway::start(&with_cloud(cloud.address, identity)).await;
        assert_eq!(ask(&gateway, &[], "session-1", &private).await, "edge");
        assert_eq!(ask(&gateway, &[], "session-1", "And now?").await, expected);
        assert_eq!(ask(&gateway, &[], "session-2", "And now?").await, "cloud");
        let other = [("x-sluice-session", "other")];
        assert_eq!(ask(&gateway, &other, "session-1", "And now?").await, "cloud");
    }
    assert!(!shows_card(&cloud.seen()));
}

#[tokio::test]
async fn counting_tokens_is_a_request_and_an_estimate_says_so() {
    let cloud = Cloud::start(Script::Answer).await;
    let limits = "limits: {per_caller: {requests_per_minute: 1}}\n";
    let with_edge = with_cloud(cloud.address, limits);
    let edge = with_edge.lines().find(|line| line.starts_with("  edge:")).unwrap();
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "Hello there"}]});
    for (config, by) in
        [(with_edge.clone(), "edge"), (with_edge.replace(&format!("{edge}\n"), ""), "estimate")]
    {
        let gateway = Gateway::start(&config).await;
        let path = "/v1/messages/count_tokens";
        let counted = gateway.send(Method::POST, path, &[], body.to_string()).await;
        assert_eq!(counted.header("x-sluice-token-count"), by, "{}", counted.text());
        let tokens = counted.json()["input_tokens"].as_u64().unwrap();
        assert!((2..40).contains(&tokens), "{tokens}");
        let again = gateway.send(Method::POST, path, &[], body.to_string()).await;
        assert_eq!(
            (again.status, again.json()["type"].clone()),
            (StatusCode::TOO_MANY_REQUESTS, json!("error"))
        );
    }
    assert_eq!(cloud.seen(), "");
}
