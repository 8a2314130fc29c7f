//! Requests that are wrong by accident or on purpose: a clear error or the private side, and the
//! process lives.

use std::collections::BTreeSet;
use std::time::Duration;

use hyper::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::cloud::{Cloud, Script};
use crate::gateway::{Gateway, say, with_cloud, with_upstreams};

const PATH: &str = "/v1/chat/completions";

#[tokio::test]
async fn wrong_bodies_get_openai_errors_that_do_not_quote_them() {
    let cloud = Cloud::start(Script::Answer).await;
    let gateway = Gateway::with_cloud(cloud.address).await;
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    for (body, param) in [
        ("", None),
        ("{\"model\": \"secretword\", ", None),
        ("[1, 2]", None),
        ("\"secretword\"", None),
        ("{\"model\":\"a\",\"model\":", None),
        (deep.as_str(), None),
        (r#"{"messages":[{"role":"user","content":"hi"}]}"#, Some("model")),
        (r#"{"model":"a"}"#, Some("messages")),
        (r#"{"model":"a","messages":[]}"#, Some("messages")),
        (r#"{"model":"a","messages":"secretword"}"#, Some("messages")),
        (r#"{"model":"a","messages":["secretword"]}"#, Some("messages[0]")),
        (r#"{"model":"a","messages":[{"role":"secretword"}]}"#, Some("messages[0].role")),
        (r#"{"model":"a","messages":[{"role":"user","content":7}]}"#, Some("messages[0].content")),
        (
            r#"{"model":"a","stream":"yes","messages":[{"role":"user","content":"x"}]}"#,
            Some("stream"),
        ),
    ] {
        let reply = gateway.send(Method::POST, PATH, &[], body.to_owned()).await;
        let start: String = body.chars().take(80).collect();
        assert_eq!(reply.status, 400, "{start}");
        let error = &reply.json()["error"];
        assert_eq!(error["type"], "invalid_request_error", "{start}");
        assert_eq!(error["param"].as_str(), param, "{start}");
        assert!(!reply.text().contains("secretword"), "{}", reply.text());
    }
    assert_eq!(cloud.seen(), "");
    gateway.chat(say("Hello")).await.came_from("cloud", 200);
}

#[tokio::test]
async fn a_body_of_100_mb_is_refused_without_being_kept() {
    let gateway = Gateway::start(&with_upstreams("")).await;
    let head = "{\"model\":\"a\",\"messages\":[{\"role\":\"user\",\"content\":\"";
    let mut body = head.as_bytes().to_vec();
    body.resize(100 << 20, b'x');
    let reply = gateway.send(Method::POST, PATH, &[], body).await;
    assert_eq!(reply.status, 413);
    assert_eq!(reply.json()["error"]["code"], "request_too_large");
    gateway.chat(say("Hello")).await.came_from("edge", 200);
}

#[tokio::test]
async fn a_body_without_announced_length_is_cut_at_the_limit() {
    let config = format!("{}limits: {{body: 64KiB}}\n", with_upstreams(""));
    let gateway = Gateway::start(&config).await;
    let mut stream = TcpStream::connect(gateway.traffic).await.unwrap();
    let head = format!("POST {PATH} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let chunk = format!("4000\r\n{}\r\n", "x".repeat(0x4000));
    for _ in 0..32 {
        stream.write_all(chunk.as_bytes()).await.unwrap();
    }
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    let mut reply = vec![0; 12];
    stream.read_exact(&mut reply).await.unwrap();
    assert_eq!(reply, b"HTTP/1.1 413");
}

#[tokio::test]
async fn pictures_sound_and_files_never_reach_the_cloud_unless_policy_says_so() {
    let cloud = Cloud::start(Script::Answer).await;
    let gateway = Gateway::with_cloud(cloud.address).await;
    let parts = [
        json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}),
        json!({"type": "image_url", "image_url": {"url": "https://pictures.example/1.png"}}),
        json!({"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}),
        json!({"type": "file", "file": {"file_id": "file-1"}}),
        json!({"type": "file", "file": {"filename": "a.pdf", "file_data": "JVBERi0="}}),
    ];
    for part in parts {
        let body = json!({"model": "auto", "messages": [
            {"role": "user", "content": [{"type": "text", "text": "What is this?"}, part]}]});
        let reply = gateway.chat(body.clone()).await;
        assert!(reply.status.is_client_error(), "{body}: {}", reply.text());
        assert_eq!(reply.header("x-sluice-route"), "refuse", "{body}");
        assert!(reply.json()["error"]["message"].is_string());
    }
    let hosted = json!({"model": "auto", "messages": [{"role": "user", "content": "Search"}],
                        "tools": [{"type": "web_search"}]});
    assert_ne!(gateway.chat(hosted).await.header("x-sluice-route"), "cloud");
    assert_eq!(cloud.seen(), "");
}

#[tokio::test]
async fn what_the_edge_cannot_do_is_named() {
    let gateway = Gateway::start(&with_upstreams("")).await;
    for (field, value) in [
        ("tools", json!([{"type": "custom", "custom": {"name": "f"}}])),
        ("functions", json!([{"name": "f", "parameters": {}}])),
        ("modalities", json!(["text", "audio"])),
    ] {
        let mut body = say("Hello");
        body[field] = value;
        let reply = gateway.chat(body).await;
        reply.came_from("refuse", 400);
        let error = &reply.json()["error"];
        assert_eq!(
            (&error["code"], &error["param"]),
            (&json!("unsupported_by_upstream"), &json!(field))
        );
    }
    let mut body = say("Hello");
    body["temperature"] = json!("hot");
    let reply = gateway.chat(body).await;
    assert_eq!(
        (reply.status.as_u16(), &reply.json()["error"]["param"]),
        (400, &json!("temperature"))
    );
}

#[tokio::test]
async fn a_prompt_beyond_the_edges_context_is_a_clear_error() {
    let gateway = Gateway::start(&with_upstreams("")).await;
    let reply = gateway.chat(say(&"river ".repeat(40_000))).await;
    assert_eq!(reply.status, 400, "{}", reply.text());
    assert_eq!(reply.json()["error"]["code"], "context_length_exceeded");
    assert_eq!(reply.header("x-sluice-route"), "refuse");
}

#[tokio::test]
async fn unknown_endpoints_and_methods_are_errors_in_json() {
    let gateway = Gateway::start(&with_upstreams("")).await;
    for (method, path, status) in [
        (Method::POST, "/v1/moderations", 404),
        (Method::GET, "/v1/embeddings", 405),
        (Method::POST, "/v1/files", 404),
        (Method::GET, "/", 404),
        (Method::GET, PATH, 405),
        (Method::DELETE, "/v1/models", 405),
        (Method::POST, "/v1/chat/completions/../../admin", 404),
    ] {
        let reply = gateway.send(method, path, &[], "").await;
        assert_eq!(reply.status, status, "{path}");
        assert!(reply.json()["error"]["message"].is_string(), "{path}");
        assert_ne!(reply.header("x-request-id"), "", "{path}");
    }
}

#[tokio::test]
async fn a_hint_that_comes_twice_is_refused() {
    let gateway = Gateway::start(&with_upstreams("")).await;
    let twice = [("x-sluice-class", "public"), ("x-sluice-class", "regulated")];
    let reply = gateway.chat_with(&twice, say("Hello")).await;
    assert_eq!(
        (reply.status.as_u16(), &reply.json()["error"]["param"]),
        (400, &json!("x-sluice-class"))
    );
}

#[tokio::test]
async fn half_a_head_does_not_hold_up_others() {
    let gateway = Gateway::start(&with_upstreams("")).await;
    let mut slow = Vec::new();
    for _ in 0..64 {
        let mut stream = TcpStream::connect(gateway.traffic).await.unwrap();
        stream.write_all(b"POST /v1/chat/completions HTTP/1.1\r\nhost:").await.unwrap();
        slow.push(stream);
    }
    let reply = tokio::time::timeout(Duration::from_secs(20), gateway.chat(say("Hello"))).await;
    reply.expect("others are answered").came_from("edge", 200);
    assert!(gateway.metric("sluice_connections ").await >= 64.0);
    for mut stream in slow {
        let mut rest = Vec::new();
        let cut = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut rest));
        let _ = cut.await.expect("a client that never ends its head is cut off");
    }
}

#[tokio::test]
async fn a_huge_head_is_refused() {
    let cloud = Cloud::start(Script::Answer).await;
    let gateway = Gateway::start(&with_cloud(cloud.address, "")).await;
    let mut stream = TcpStream::connect(gateway.traffic).await.unwrap();
    let head =
        format!("GET /v1/models HTTP/1.1\r\nhost: x\r\nx-huge: {}\r\n\r\n", "h".repeat(1 << 20));
    let _ = stream.write_all(head.as_bytes()).await;
    let mut reply = Vec::new();
    let _ = stream.read_to_end(&mut reply).await;
    let text = String::from_utf8_lossy(&reply);
    assert!(text.is_empty() || text.starts_with("HTTP/1.1 431"), "{text}");
    gateway.chat(say("Hello")).await.came_from("cloud", 200);
}

#[tokio::test]
async fn no_name_that_a_client_makes_up_becomes_a_series() {
    let cloud = Cloud::start(Script::Answer).await;
    let gateway = Gateway::with_cloud(cloud.address).await;
    let series = async || -> BTreeSet<String> {
        let text = gateway.probe("/metrics").await.text();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned())).collect()
    };
    // Digits in a name look like a password to some detectors.
    let ask = async |letter: char| {
        let name = format!("madeup{letter}");
        let mut body = say("Hello");
        for field in ["model", "user", "service_tier", "safety_identifier", "madeup"] {
            body[field] = json!(name);
        }
        body["metadata"] = json!({&name: name});
        let plain = [
            ("authorization", format!("Bearer {name}")),
            ("user-agent", name.clone()),
            ("x-request-id", name.clone()),
            ("x-sluice-latency", name.clone()),
            ("x-sluice-session", name.clone()),
            ("x-sluice-tags", name.clone()),
        ];
        let mut headers: Vec<_> = plain.iter().map(|(n, value)| (*n, value.as_str())).collect();
        gateway.chat_with(&headers, body.clone()).await.came_from("cloud", 200);
        body["messages"] = say("Name a river")["messages"].clone();
        headers.push(("x-sluice-class", &name));
        gateway.chat_with(&headers, body).await.came_from("edge", 200);
        for path in [format!("/v1/models/{name}"), format!("/v1/{name}")] {
            assert_eq!(gateway.get(&path).await.status, 404);
        }
        let method = Method::from_bytes(name.to_uppercase().as_bytes()).unwrap();
        assert_eq!(gateway.send(method, PATH, &[], "").await.status, 405);
    };
    ask('a').await;
    gateway.idle().await;
    let before = series().await;
    for letter in 'b'..='t' {
        ask(letter).await;
    }
    gateway.idle().await;
    let after = series().await;
    assert_eq!(after.difference(&before).collect::<Vec<_>>(), Vec::<&String>::new());
    assert!(after.iter().all(|line| !line.to_lowercase().contains("madeup")));
}
