//! What an operator does while requests go on: offline and back, a new config, a restart in between.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use hyper::Method;
use serde_json::{Value, json};

use crate::callers::write_keys;
use crate::cloud::{Cloud, Script, spawn, until};
use crate::gateway::{CARD, Gateway, say, say_streamed, with_cloud};

const STATUS: &str = "/admin/v1/status";
const OFFLINE: &str = "/admin/v1/offline";
const ONLINE: &str = "/admin/v1/online";
const RELOAD: &str = "/admin/v1/reload";

async fn reload(gateway: &Gateway) -> (u16, Value) {
    let reply = gateway.operate(Method::POST, RELOAD, "").await;
    (reply.status.as_u16(), reply.json())
}

#[tokio::test]
async fn a_declared_absence_holds_until_a_person_ends_it_also_over_a_restart() {
    let cloud = Cloud::start(Script::Answer).await;
    let config = with_cloud(cloud.address, "");
    let gateway = Gateway::start(&config).await;
    gateway.chat(say("Hello")).await.came_from("cloud", 200);
    let why = json!({"reason": "the line is cut", "by": "anna"}).to_string();
    let declared = gateway.operate(Method::POST, OFFLINE, why).await;
    assert_eq!(declared.status, 200, "{}", declared.text());
    gateway.chat(say("Hello")).await.came_from("edge", 200);
    let status = gateway.operate(Method::GET, STATUS, "").await.json();
    let words = status["offline"].as_str().unwrap();
    assert!(words.contains("the line is cut") && words.contains("anna"), "{words}");

    let gateway = gateway.restart(&config).await;
    gateway.chat(say("Hello")).await.came_from("edge", 200);
    assert_eq!(reload(&gateway).await.0, 200);
    gateway.chat(say("Hello")).await.came_from("edge", 200);

    assert_eq!(gateway.operate(Method::DELETE, OFFLINE, "").await.status, 200);
    gateway.chat(say("Hello")).await.came_from("cloud", 200);
    assert_eq!(gateway.operate(Method::POST, OFFLINE, "").await.status, 200);
    gateway.chat(say("Hello")).await.came_from("edge", 200);
    assert_eq!(gateway.operate(Method::POST, ONLINE, "").await.status, 200);
    let gateway = gateway.restart(&config).await;
    gateway.chat(say("Hello")).await.came_from("cloud", 200);
}

#[tokio::test]
async fn the_admin_listener_has_its_own_paths_and_traffic_has_none_of_them() {
    let cloud = Cloud::start(Script::Answer).await;
    let gateway = Gateway::with_cloud(cloud.address).await;
    for (method, path, expected) in [
        (Method::GET, STATUS, 200),
        (Method::POST, STATUS, 405),
        (Method::GET, OFFLINE, 405),
        (Method::GET, RELOAD, 405),
        (Method::GET, "/v1/models", 404),
        (Method::GET, "/metrics", 404),
    ] {
        let reply = gateway.operate(method.clone(), path, "").await;
        assert_eq!(reply.status.as_u16(), expected, "{method} {path}");
    }
    let wrong = gateway.operate(Method::POST, OFFLINE, "{\"why\": 1}").await;
    assert_eq!(wrong.status, 400);
    assert_eq!(gateway.get(STATUS).await.status, 404);
    assert_eq!(gateway.send(Method::POST, OFFLINE, &[], "").await.status, 404);
}

#[tokio::test]
async fn a_new_config_is_taken_as_a_whole_or_not_at_all() {
    let (first, second) = (Cloud::start(Script::Answer).await, Cloud::start(Script::Answer).await);
    let gateway = Gateway::with_cloud(first.address).await;
    gateway.chat(say("Hello")).await.came_from("cloud", 200);

    let limited = with_cloud(second.address, "limits: {per_caller: {requests_per_minute: 2}}\n");
    for (broken, part) in [
        (limited.replace("per_caller", "per_calller"), "per_calller"),
        (limited.replace("on_sigterm: 5s", "on_sigterm: 6s"), "drain"),
        (format!("{limited}identity: {{keys: $FOLDER/nowhere.yaml}}\n"), "nowhere.yaml"),
    ] {
        gateway.configure(&broken);
        let (status, report) = reload(&gateway).await;
        assert_eq!(status, 422, "{report}");
        assert!(report["problems"][0].as_str().unwrap().contains(part), "{report}");
        gateway.chat(say("Hello")).await.came_from("cloud", 200);
    }
    assert_eq!((first.requests(), second.requests()), (4, 0));

    gateway.configure(&limited);
    assert_eq!(reload(&gateway).await.0, 200);
    let mut statuses = Vec::new();
    for _ in 0..3 {
        statuses.push(gateway.chat(say("Hello")).await.status.as_u16());
    }
    assert_eq!(statuses, [200, 200, 429]);
    assert_eq!((first.requests(), second.requests()), (4, 2));
}

#[tokio::test]
async fn what_was_private_before_a_reload_stays_private_after_it() {
    let cloud = Cloud::start(Script::Answer).await;
    let gateway = Gateway::with_cloud(cloud.address).await;
    let session = [("x-sluice-session", "s1")];
    let private = say(&format!("Refund {CARD} please"));
    gateway.chat_with(&session, private).await.came_from("edge", 200);
    gateway.configure(&with_cloud(cloud.address, "limits: {body: 1MiB}\n"));
    assert_eq!(reload(&gateway).await.0, 200);
    gateway.chat_with(&session, say("And now?")).await.came_from("edge", 200);
    assert_eq!(cloud.seen(), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_lost_across_reloads_under_load() {
    let (first, second) = (Cloud::start(Script::Answer).await, Cloud::start(Script::Answer).await);
    let gateway = Arc::new(Gateway::with_cloud(first.address).await);
    let (done, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let asking: Vec<_> = (0..8)
        .map(|client| {
            let (gateway, done, answered) = (gateway.clone(), done.clone(), answered.clone());
            spawn(async move {
                while !done.load(Ordering::Relaxed) {
                    let body = if client % 2 == 0 { say("Hello") } else { say_streamed("Hello") };
                    let reply = gateway.chat(body).await;
                    reply.came_from("cloud", 200);
                    assert!(reply.content().contains("cloud"), "{}", reply.text());
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for round in 0..10 {
        let enough = answered.load(Ordering::Relaxed) + 16;
        until("answers between reloads", || answered.load(Ordering::Relaxed) >= enough).await;
        let cloud = if round % 2 == 0 { &second } else { &first };
        gateway.configure(&with_cloud(cloud.address, ""));
        let (status, report) = reload(&gateway).await;
        assert_eq!(status, 200, "{report}");
    }
    done.store(true, Ordering::Relaxed);
    for client in asking {
        client.await.unwrap();
    }
    assert!(first.requests() > 0 && second.requests() > 0);
    gateway.idle().await;
}

#[tokio::test]
async fn what_a_new_config_no_longer_names_is_gone() {
    let (cloud, other) = (Cloud::start(Script::Answer).await, Cloud::start(Script::Answer).await);
    let folder = tempfile::tempdir().unwrap();
    let keys = write_keys(folder.path(), &[("anna", "north"), ("berta", "north")]);
    let identity = "identity: {keys: $FOLDER/keys.yaml}\n";
    let more = format!(
        "  other: {{kind: openai, base_url: \"http://{}/v1\", models: {{small: small-7b}}}}\n\
         passthrough:\n  - {{path: /v1/moderations, upstream: other}}\n\
         limits: {{per_caller: {{requests_per_minute: 100}}}}\n{identity}",
        other.address
    );
    let gateway = Gateway::start_in(folder, &with_cloud(cloud.address, &more)).await;
    let healthy = r#"sluice_upstream_healthy{upstream="other"}"#;
    let ask = async |key: usize| {
        let key = [("authorization", keys[key].as_str())];
        let reply = gateway.chat_with(&key, say("Hello")).await;
        reply.came_from("cloud", 200);
        let limit = reply.header("x-ratelimit-limit-requests").to_owned();
        let lines = gateway.audit();
        let attempt = lines.iter().rfind(|line| line["kind"] == "attempt").unwrap();
        (attempt["caller"].as_str().map(str::to_owned), limit)
    };
    let moderated = async || {
        let json = [("content-type", "application/json")];
        let body = json!({"model": "m", "input": "Hello"}).to_string();
        gateway.send(Method::POST, "/v1/moderations", &json, body).await.status.as_u16()
    };
    assert_eq!(ask(1).await, (Some("berta".to_owned()), "100".to_owned()));
    assert_eq!(gateway.get("/v1/models/small").await.status, 200);
    assert_eq!(moderated().await, 200);
    assert_eq!(gateway.metric(healthy).await, 1.0);

    gateway.configure(&with_cloud(cloud.address, identity));
    write_keys(gateway.folder(), &[("anna", "north")]);
    assert_eq!(reload(&gateway).await.0, 200);
    assert_eq!(ask(1).await, (None, String::new()));
    assert_eq!(gateway.get("/v1/models/small").await.status, 404);
    assert_eq!(moderated().await, 404);
    let ready = gateway.probe("/readyz").await.json();
    assert_eq!(ready["upstreams"]["other"], Value::Null, "{ready}");
    let text = gateway.probe("/metrics").await.text();
    for state in [healthy, r#"sluice_breaker_state{upstream="other"}"#] {
        assert!(!text.contains(state), "the state of a server that is not there: {text}");
    }
}
