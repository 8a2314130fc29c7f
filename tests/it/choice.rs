//! Who of the allowed answers: virtual models, what upstreams can do, how hard the work looks.

use hyper::Method;
use serde_json::{Value, json};

use crate::cloud::{Cloud, Script};
use crate::gateway::{CARD, Gateway, Reply, say, shows_card, with_cloud, with_upstreams};

/// One request in each dialect that chats, streamed or not.
fn in_every_dialect(model: &str, text: &str, stream: bool) -> [(&'static str, Value); 4] {
    let messages = json!([{"role": "user", "content": text}]);
    let chat = json!({"model": model, "max_tokens": 4, "stream": stream, "messages": messages});
    let response = json!({"model": model, "max_output_tokens": 4, "stream": stream, "input": text});
    let completion = json!({"model": model, "max_tokens": 4, "stream": stream, "prompt": text});
    [
        ("/v1/chat/completions", chat.clone()),
        ("/v1/messages", chat),
        ("/v1/responses", response),
        ("/v1/completions", completion),
    ]
}

async fn ask(gateway: &Gateway, path: &str, body: &Value) -> Reply {
    gateway.send(Method::POST, path, &[], body.to_string()).await
}

#[tokio::test]
async fn private_stays_here_in_every_dialect_and_raises_nothing() {
    let cloud = Cloud::start(Script::Answer).await;
    let gateway = Gateway::with_cloud(cloud.address).await;
    for stream in [false, true] {
        for (path, body) in in_every_dialect("private", "Name a river", stream) {
            let reply = ask(&gateway, path, &body).await;
            reply.came_from("edge", 200);
            assert_eq!(reply.header("x-sluice-class"), "internal", "{path}");
            assert_ne!(reply.text().find("nano"), None, "{path}: who answered is named");
        }
    }
    assert_eq!(cloud.requests(), 0);
    let vectors = json!({"model": "private", "input": "Name a river"});
    let refused = ask(&gateway, "/v1/embeddings", &vectors).await;
    refused.came_from("refuse", 400);
    assert_eq!(refused.json()["error"]["code"], "unsupported_by_upstream");
    assert!(refused.text().contains("embeddings"), "{}", refused.text());
    assert_eq!(cloud.requests(), 0);
    for path in ["/v1/chat/completions", "/v1/messages"] {
        let [(_, mut body), ..] = in_every_dialect("auto", "Name a river", false);
        body["model"] = json!("auto");
        ask(&gateway, path, &body).await.came_from("cloud", 200);
    }
    assert_eq!(cloud.requests(), 2);
}

#[tokio::test]
async fn virtual_models_are_listed_and_get_a_name_that_the_server_knows() {
    let cloud = Cloud::start(Script::Answer).await;
    let more =
        "    models: {large: llm-large, best: llm-xl}\n    capabilities: {quality: general}\n";
    let gateway = Gateway::start(&with_cloud(cloud.address, more)).await;
    let headers: [&[(&str, &str)]; 2] = [&[], &[("anthropic-version", "2023-06-01")]];
    for headers in headers {
        let models = gateway.send(Method::GET, "/v1/models", headers, "").await.json();
        let names: Vec<_> = models["data"].as_array().unwrap().iter().map(|m| &m["id"]).collect();
        for name in ["auto", "fast", "best", "private", "large", "nano"] {
            let count = names.iter().filter(|known| **known == name).count();
            assert_eq!(count, 1, "{name}: {names:?}");
        }
    }
    assert_eq!(gateway.get("/v1/models/private").await.status, 200);
    for (model, sent) in [("auto", "llm-large"), ("best", "llm-xl"), ("other", "other")] {
        let mut body = say("Name a river");
        body["model"] = json!(model);
        gateway.chat(body).await.came_from("cloud", 200);
        assert!(cloud.seen().contains(&format!("\"model\":\"{sent}\"")), "{model}");
    }
}

#[tokio::test]
async fn who_cannot_serve_a_request_is_not_asked() {
    let cloud = Cloud::start(Script::Answer).await;
    let more = "    capabilities: {tools: false, structured_output: false, context_tokens: 2000}\n";
    let gateway = Gateway::start(&with_cloud(cloud.address, more)).await;
    let with = |name: &str, value: Value| {
        let mut body = say("Name a river");
        body[name] = value;
        body
    };
    let tool =
        json!([{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]);
    let form = json!({"type": "json_object"});
    for body in [with("tools", tool), with("response_format", form)] {
        gateway.chat(body).await.came_from("edge", 200);
    }
    assert_eq!(cloud.requests(), 0);
    gateway.chat(say("Name a river")).await.came_from("cloud", 200);
    // Longer than either can read: nobody is asked.
    let long = gateway.chat(say(&"river ".repeat(30_000))).await;
    long.came_from("refuse", 400);
    assert_eq!(long.json()["error"]["code"], "context_length_exceeded");
    let attempts = gateway.audit_lines(7).await;
    let attempts: Vec<_> = attempts.iter().filter(|line| line["kind"] == "attempt").collect();
    assert_eq!(attempts.len(), 3, "{attempts:?}");
    assert_eq!(attempts[0]["facts"]["upstreams"][1]["lacks"], json!(["tools"]));
}

#[tokio::test]
async fn a_refusal_names_what_is_missing_and_the_field_that_asks_for_it() {
    let cloud = Cloud::start(Script::Answer).await;
    let gateway = Gateway::with_cloud(cloud.address).await;
    let picture = "data:image/png;base64,iVBORw0KGgo=";
    let part = json!([{"type": "image_url", "image_url": {"url": picture}}]);
    let chat = json!({"model": "m", "messages": [{"role": "user", "content": part}]});
    let refused = gateway.chat(chat).await;
    refused.came_from("refuse", 400);
    let error = &refused.json()["error"];
    assert_eq!(error["code"], "unsupported_by_upstream");
    assert!(error["message"].as_str().unwrap().contains("vision"), "{error}");
    assert!(error["param"].as_str().unwrap().starts_with("messages[0].content"), "{error}");
    let source = json!({"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="});
    let message = json!({"model": "m", "max_tokens": 4, "messages": [
        {"role": "user", "content": [{"type": "image", "source": source}]}]});
    let refused = ask(&gateway, "/v1/messages", &message).await;
    refused.came_from("refuse", 400);
    assert_eq!(refused.json()["error"]["type"], "invalid_request_error");
    assert!(refused.text().contains("vision"), "{}", refused.text());
    assert_eq!(cloud.requests(), 0);
}

#[tokio::test]
async fn a_prompt_that_is_too_long_for_the_edge_is_told_so_in_every_dialect() {
    let cloud = Cloud::start(Script::Answer).await;
    let gateway = Gateway::with_cloud(cloud.address).await;
    // The first is plainly too long; the second only the engine's own count can tell.
    for words in [30_000, 5_000] {
        let text = format!("{CARD} {}", "a ".repeat(words));
        for (path, body) in in_every_dialect("any-model", &text, false) {
            let reply = ask(&gateway, path, &body).await;
            assert_eq!(reply.status, 400, "{path} {words}: {}", reply.text());
            let json = reply.json();
            let is_told = match path {
                "/v1/messages" => json["error"]["type"] == "invalid_request_error",
                _ => json["error"]["code"] == "context_length_exceeded",
            };
            assert!(is_told, "{path} {words}: {json}");
        }
    }
    assert_eq!(cloud.requests(), 0);
    assert!(!shows_card(&cloud.seen()));
}

#[tokio::test]
async fn batch_work_that_does_not_fit_the_edge_goes_on_to_the_cloud() {
    let cloud = Cloud::start(Script::Answer).await;
    let gateway = Gateway::with_cloud(cloud.address).await;
    let batch = [("x-sluice-latency", "batch")];
    gateway.chat_with(&batch, say("Name a river")).await.came_from("edge", 200);
    // The first is plainly too long; the second only the engine's own count can tell.
    let long = "The train leaves at nine and the museum opens at ten on most days. ".repeat(700);
    let barely = "A cat is in a box. A dog is on a mat. ".repeat(480);
    for text in [long, barely] {
        let reply = gateway.chat_with(&batch, say(&text)).await;
        reply.came_from("cloud", 200);
    }
}

#[tokio::test]
async fn the_look_of_a_request_is_on_record_without_its_text() {
    let gateway = Gateway::start(&with_upstreams("")).await;
    gateway.chat(say("Prove the theorem of Thales, then translate it")).await;
    let line = &gateway.audit_lines(2).await[0];
    let request = json!({"wish": "auto", "complexity": "complex", "signs": ["mathematics"]});
    assert_eq!(line["facts"]["request"], request);
    assert!(!line.to_string().contains("Thales"));
}
