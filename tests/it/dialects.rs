//! Every dialect gets what the chat completions get: policy, scan, errors in its own words.

use std::collections::{BTreeMap, BTreeSet};

use hyper::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::cloud::{Cloud, Script, http};
use crate::gateway::{CARD, Gateway, Reply, shows_card, with_cloud, with_upstreams};

const MESSAGES: &str = "/v1/messages";
const RESPONSES: &str = "/v1/responses";

/// A message's request with this content, streamed or not.
fn message(content: impl Into<Value>, stream: bool) -> Value {
    let messages = json!([{"role": "user", "content": content.into()}]);
    json!({"model": "m", "max_tokens": 8, "stream": stream, "messages": messages})
}

fn response(input: impl Into<Value>, stream: bool) -> Value {
    json!({"model": "m", "max_output_tokens": 8, "stream": stream, "input": input.into()})
}

async fn ask(gateway: &Gateway, path: &str, body: &Value) -> Reply {
    gateway.send(Method::POST, path, &[], body.to_string()).await
}

/// The data of each event of a stream with names.
fn data(reply: &Reply) -> Vec<Value> {
    let text = reply.text();
    let lines = text.lines().filter_map(|line| line.strip_prefix("data: "));
    lines.map(|data| serde_json::from_str(data).unwrap()).collect()
}

fn types(reply: &Reply) -> Vec<String> {
    data(reply).iter().map(|event| event["type"].as_str().unwrap().to_owned()).collect()
}

/// What a stream says in all its deltas of this type.
fn said(reply: &Reply, field: &str) -> String {
    let delta = |event: Value| match &event["delta"] {
        Value::String(text) => Some(text.clone()),
        delta => delta[field].as_str().map(str::to_owned),
    };
    data(reply).into_iter().filter_map(delta).collect()
}

#[tokio::test]
async fn the_edge_says_which_of_the_clients_texts_ended_its_reply() {
    let gateway = Gateway::start(&with_upstreams("")).await;
    let mut body = message("Who are you?", false);
    body["temperature"] = json!(0);
    let free = ask(&gateway, MESSAGES, &body).await.json();
    assert_eq!(free["stop_sequence"], Value::Null);
    let text = free["content"][0]["text"].as_str().unwrap();
    let word = text.split_whitespace().nth(1).expect("it says several words");
    body["stop_sequences"] = json!(["\u{1}never", word]);
    let ended = json!({"stop_reason": "stop_sequence", "stop_sequence": word});
    let told = |json: &Value| json!({"stop_reason": json["stop_reason"], "stop_sequence": json["stop_sequence"]});
    assert_eq!(told(&ask(&gateway, MESSAGES, &body).await.json()), ended);
    body["stream"] = json!(true);
    let events = data(&ask(&gateway, MESSAGES, &body).await);
    let last = events.iter().find(|event| event["type"] == "message_delta").unwrap();
    assert_eq!(told(&last["delta"]), ended);
}

#[tokio::test]
async fn the_edge_answers_in_every_dialect() {
    let gateway = Gateway::start(&with_upstreams("")).await;
    let whole = ask(&gateway, MESSAGES, &message("Who are you?", false)).await;
    whole.came_from("edge", 200);
    let json = whole.json();
    assert_eq!((&json["type"], &json["role"]), (&json!("message"), &json!("assistant")));
    assert_eq!(json["content"][0]["type"], "text");
    assert!(json["usage"]["input_tokens"].as_u64().unwrap() > 0);
    assert!(matches!(json["stop_reason"].as_str(), Some("end_turn" | "max_tokens")));

    let streamed = ask(&gateway, MESSAGES, &message("Who are you?", true)).await;
    let types_told = types(&streamed);
    assert_eq!(types_told.first().map(String::as_str), Some("message_start"));
    assert_eq!(types_told.last().map(String::as_str), Some("message_stop"));

    let whole = ask(&gateway, RESPONSES, &response("Who are you?", false)).await;
    whole.came_from("edge", 200);
    let json = whole.json();
    assert_eq!((&json["object"], &json["store"]), (&json!("response"), &json!(false)));
    assert_eq!(json["output"][0]["content"][0]["type"], "output_text");
    let streamed = ask(&gateway, RESPONSES, &response("Who are you?", true)).await;
    let last = data(&streamed).pop().unwrap();
    assert!(matches!(last["type"].as_str(), Some("response.completed" | "response.incomplete")));
    let text = last["response"]["output"][0]["content"][0]["text"].as_str().unwrap().to_owned();
    assert_eq!(said(&streamed, "text"), text);

    let body = json!({"model": "m", "prompt": "Once upon a", "max_tokens": 4, "logprobs": 1});
    let reply = ask(&gateway, "/v1/completions", &body).await;
    reply.came_from("edge", 200);
    let choice = &reply.json()["choices"][0];
    assert_eq!(reply.json()["object"], "text_completion");
    let tokens = choice["logprobs"]["tokens"].as_array().unwrap();
    let spelled: String = tokens.iter().map(|token| token.as_str().unwrap()).collect();
    assert_eq!(choice["text"], spelled);
}

#[tokio::test]
async fn a_card_stays_here_wherever_a_dialect_holds_it() {
    let cloud = Cloud::start(Script::Answer).await;
    let gateway = Gateway::with_cloud(cloud.address).await;
    let text = format!("Charge the card {CARD}");
    let with = |mut body: Value, name: &str, value: Value| {
        body[name] = value;
        body
    };
    let plain = || message("Hello", false);
    let tool_use = json!([{"type": "tool_use", "id": "t", "name": "pay", "input": {"card": CARD}}]);
    let result = json!([{"type": "tool_result", "tool_use_id": "t", "content": text}]);
    let used = json!([{"role": "user", "content": "Hello"},
                      {"role": "assistant", "content": tool_use},
                      {"role": "user", "content": result}]);
    let tool = json!([{"name": "pay", "description": text, "input_schema": {"type": "object"}}]);
    let output = json!([{"type": "function_call_output", "call_id": "c", "output": text}]);
    for (path, body) in [
        (MESSAGES, message(text.as_str(), false)),
        (MESSAGES, message(text.as_str(), true)),
        (MESSAGES, with(plain(), "system", json!([{"type": "text", "text": text}]))),
        (MESSAGES, with(plain(), "messages", used)),
        (MESSAGES, with(plain(), "tools", tool)),
        (MESSAGES, with(plain(), "metadata", json!({"user_id": text}))),
        (MESSAGES, with(plain(), "context_management", json!({"edits": [text]}))),
        (RESPONSES, response(text.as_str(), false)),
        (RESPONSES, response(text.as_str(), true)),
        (RESPONSES, response(output, false)),
        (RESPONSES, with(response("Hello", false), "instructions", text.clone().into())),
        ("/v1/completions", json!({"model": "m", "max_tokens": 4, "prompt": text})),
    ] {
        let reply = ask(&gateway, path, &body).await;
        reply.came_from("edge", 200);
        assert!(reply.header("x-sluice-labels").contains("PCI"), "{body}");
    }
    assert_eq!(cloud.seen(), "");
}

#[tokio::test]
async fn vectors_of_private_text_and_token_ids_have_nowhere_to_go() {
    let cloud = Cloud::start(Script::Answer).await;
    let gateway = Gateway::with_cloud(cloud.address).await;
    for (path, body, param) in [
        ("/v1/embeddings", json!({"model": "m", "input": format!("card {CARD}")}), "input"),
        ("/v1/embeddings", json!({"model": "m", "input": [[1, 2]]}), "input"),
        ("/v1/completions", json!({"model": "m", "prompt": [1, 2]}), "prompt"),
    ] {
        let reply = ask(&gateway, path, &body).await;
        assert_eq!(reply.status, 400, "{}", reply.text());
        assert_eq!(reply.json()["error"]["code"], "unsupported_by_upstream");
        assert_eq!(reply.json()["error"]["param"], param);
    }
    assert_eq!(cloud.seen(), "");
}

#[tokio::test]
async fn errors_are_told_in_the_dialect_s_words() {
    let gateway = Gateway::start(&with_upstreams("")).await;
    let anthropics = |reply: &Reply, status: u16, kind: &str| {
        let json = reply.json();
        assert_eq!(reply.status, status, "{json}");
        assert_eq!((&json["type"], &json["error"]["type"]), (&json!("error"), &json!(kind)));
        assert_eq!(json["request_id"], reply.header("request-id"));
        assert_eq!(reply.header("request-id"), reply.header("x-request-id"));
    };
    let no_limit = json!({"model": "m", "messages": [{"role": "user", "content": "Hello"}]});
    anthropics(&ask(&gateway, MESSAGES, &no_limit).await, 400, "invalid_request_error");
    let picture =
        json!([{"type": "image", "source": {"type": "url", "url": "https://x.example/1"}}]);
    let refused = ask(&gateway, MESSAGES, &message(picture, false)).await;
    anthropics(&refused, 403, "permission_error");
    assert_eq!(refused.json()["error"]["code"], "policy_blocked");
    assert_eq!(refused.header("x-sluice-route"), "refuse");
    let got = gateway.get(MESSAGES).await;
    anthropics(&got, 405, "invalid_request_error");
    let batches = gateway.send(Method::POST, "/v1/messages/batches", &[], "{}").await;
    anthropics(&batches, 404, "not_found_error");
    let mut with_tool = message("Hello", false);
    with_tool["tools"] = json!([{"name": "a b", "input_schema": {"type": "object"}}]);
    let reply = ask(&gateway, MESSAGES, &with_tool).await;
    anthropics(&reply, 400, "invalid_request_error");
    let words = reply.json()["error"]["message"].to_string();
    assert!(words.contains("tools[0].name: expected"), "{words}");
    let long = message("word ".repeat(20_000), false);
    anthropics(&ask(&gateway, MESSAGES, &long).await, 400, "invalid_request_error");

    let stored = json!({"model": "m", "input": "Hello", "previous_response_id": "resp_1"});
    let reply = ask(&gateway, RESPONSES, &stored).await;
    assert_eq!(reply.json()["error"]["code"], "stored_state_not_served");
    let search = json!({"model": "m", "input": "Hello", "tools": [{"type": "web_search"}]});
    let reply = ask(&gateway, RESPONSES, &search).await;
    reply.came_from("refuse", 403);
    for path in ["/v1/responses/resp_1", "/v1/files", "/v1/audio/speech"] {
        let reply = gateway.get(path).await;
        assert_eq!(reply.status, 404);
        assert_eq!(reply.json()["error"]["type"], "invalid_request_error");
    }
    for (path, code) in
        [("/v1/responses/resp_1", "not_stored"), ("/v1/responses/compact", "unknown_url")]
    {
        let reply = gateway.send(Method::POST, path, &[], "{}").await;
        assert_eq!((reply.status.as_u16(), &reply.json()["error"]["code"]), (404, &json!(code)));
    }
    let deleted = gateway.send(Method::DELETE, "/v1/models/nano", &[], "").await;
    assert_eq!(deleted.status, 405);
}

#[tokio::test]
async fn unknown_fields_are_left_out_and_named() {
    let cloud = Cloud::start(Script::Answer).await;
    let gateway = Gateway::with_cloud(cloud.address).await;
    for (path, mut body) in
        [(MESSAGES, message("Hello", false)), (RESPONSES, response("Hello", false))]
    {
        body["brand_new"] = json!({"deep": "w-unheard-of"});
        let reply = ask(&gateway, path, &body).await;
        reply.came_from("cloud", 200);
        assert_eq!(reply.header("x-sluice-stripped"), "brand_new");
    }
    assert!(!cloud.seen().contains("unheard-of"));
}

#[tokio::test]
async fn tokens_are_counted_here_and_nothing_leaves_for_it() {
    let cloud = Cloud::start(Script::Answer).await;
    let gateway = Gateway::with_cloud(cloud.address).await;
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "Who are you?"}]});
    let counted = ask(&gateway, "/v1/messages/count_tokens", &body).await.json();
    let asked = ask(&gateway, "/v1/responses/input_tokens", &response("Who are you?", false)).await;
    assert_eq!(asked.json()["input_tokens"], counted["input_tokens"]);
    assert_eq!(cloud.seen(), "");
    let edge = Gateway::start(&with_upstreams("")).await;
    let answered = ask(&edge, MESSAGES, &message("Who are you?", false)).await.json();
    assert_eq!(answered["usage"]["input_tokens"], counted["input_tokens"]);
}

#[tokio::test]
async fn models_are_listed_as_the_client_expects_them() {
    let gateway = Gateway::start(&with_upstreams("")).await;
    let openai = gateway.get("/v1/models").await.json();
    let name = openai["data"][0]["id"].as_str().unwrap();
    let theirs = [("anthropic-version", "2023-06-01")];
    let list = gateway.send(Method::GET, "/v1/models", &theirs, "").await.json();
    assert_eq!((&list["data"][0]["type"], &list["first_id"]), (&json!("model"), &json!(name)));
    assert_eq!(list["has_more"], false);
    let one = gateway.send(Method::GET, &format!("/v1/models/{name}"), &theirs, "").await.json();
    assert_eq!((&one["type"], &one["id"]), (&json!("model"), &json!(name)));
    let none = gateway.send(Method::GET, "/v1/models/nothing", &theirs, "").await;
    assert_eq!(none.json()["error"]["type"], "not_found_error");
}

/// A gateway whose site says this beside what ships.
async fn gateway_with_site(cloud: &Cloud, change: impl Fn(&str) -> String) -> Gateway {
    let folder = tempfile::tempdir().unwrap();
    let site = change(include_str!("../../policies/site.yaml"));
    std::fs::write(folder.path().join("site.yaml"), site).unwrap();
    let config = with_cloud(cloud.address, "policy: {site: $FOLDER/site.yaml}\n");
    Gateway::start_in(folder, &config).await
}

#[tokio::test]
async fn placeholders_hide_values_and_bring_them_back_in_every_dialect() {
    let text = "Write to Annika Thorvald, annika.thorvald@northmill.se, about the harbour tour";
    let cloud = Cloud::start(Script::Echo).await;
    let gateway = gateway_with_site(&cloud, |shipped| {
        format!("{shipped}\nredaction: {{labels: [PERSONAL], restore_in_tools: []}}\n")
    })
    .await;
    for stream in [false, true] {
        for (path, body) in [(MESSAGES, message(text, stream)), (RESPONSES, response(text, stream))]
        {
            let reply = ask(&gateway, path, &body).await;
            reply.came_from("cloud", 200);
            let heard = match (stream, path) {
                (true, _) => said(&reply, "text"),
                (false, MESSAGES) => {
                    reply.json()["content"][0]["text"].as_str().unwrap().to_owned()
                }
                (false, _) => {
                    let text = &reply.json()["output"][0]["content"][0]["text"];
                    text.as_str().unwrap().to_owned()
                }
            };
            assert_eq!(heard, text, "{path}, streamed: {stream}");
        }
    }
    assert!(!cloud.seen().contains("Annika") && cloud.seen().contains("[PERSON_"));
}

#[tokio::test]
async fn findings_in_replies_are_masked_or_cut_in_every_dialect() {
    let event = |text: &str, finish: Value| {
        let choice = json!({"index": 0, "delta": {"content": text}, "finish_reason": finish});
        let chunk = json!({"id": "1", "model": "m", "created": 1, "choices": [choice]});
        format!("data: {chunk}\n\n")
    };
    let pieces = ["The card on file is 4539 5", "787 63", "62 1486", ", shall I go on?"];
    let mut events: String = pieces.iter().map(|text| event(text, Value::Null)).collect();
    events += &(event("", "stop".into()) + "data: [DONE]\n\n");
    let script = Script::Raw(http("200 OK", "text/event-stream", events.as_bytes()));
    let cloud = Cloud::start(script).await;
    for (answer, expected) in [("mask", "[withheld: payment_card]"), ("cut", "policy_blocked")] {
        let gateway = gateway_with_site(&cloud, |shipped| {
            shipped.replace("reply_finding: taint", &format!("reply_finding: {answer}"))
        })
        .await;
        let asked = [(MESSAGES, message("Hello", true)), (RESPONSES, response("Hello", true))];
        for (path, body) in asked {
            let reply = ask(&gateway, path, &body).await;
            reply.came_from("cloud", 200);
            assert!(!shows_card(&reply.text()), "{answer}, {path}: {}", reply.text());
            assert!(reply.text().contains(expected), "{answer}, {path}: {}", reply.text());
        }
    }
}

/// A server that names nobody, numbers all calls alike, and says `stop` of them.
#[tokio::test]
async fn what_a_server_leaves_out_is_made_up_for() {
    let call = |id: &str, arguments: &str| {
        let function = json!({"name": "clock", "arguments": arguments});
        json!({"tool_calls": [{"index": 0, "id": id, "function": function}]})
    };
    let chunk = |delta: Value, finish: Value| json!({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]});
    let nobody = json!({"choices": [], "id": "", "model": "", "created": 0});
    let chunks = [
        nobody,
        chunk(call("c1", "{\"a\":1}"), Value::Null),
        chunk(call("c2", ""), Value::Null),
        chunk(json!({}), "stop".into()),
    ];
    let events: String = chunks.iter().map(|chunk| format!("data: {chunk}\n\n")).collect();
    let events = format!("{events}data: [DONE]\n\n");
    let cloud =
        Cloud::start(Script::Raw(http("200 OK", "text/event-stream", events.as_bytes()))).await;
    let gateway = Gateway::with_cloud(cloud.address).await;

    let reply = ask(&gateway, MESSAGES, &message("Hello", true)).await;
    reply.came_from("cloud", 200);
    let decision = reply.header("x-sluice-decision").to_owned();
    let told = data(&reply);
    let (first, last) = (&told[0]["message"], &told[told.len() - 2]);
    assert_eq!((&first["id"], &first["model"]), (&json!(format!("msg_{decision}")), &json!("m")));
    assert_eq!(last["delta"]["stop_reason"], "tool_use");
    let started = told.iter().filter(|event| event["type"] == "content_block_start");
    let ids: Vec<_> = started.map(|event| event["content_block"]["id"].clone()).collect();
    assert_eq!(ids, ["c1", "c2"]);
    assert_eq!(said(&reply, "partial_json"), "{\"a\":1}{}");

    let reply = ask(&gateway, RESPONSES, &response("Hello", true)).await;
    let decision = reply.header("x-sluice-decision").to_owned();
    let told = data(&reply);
    assert_eq!(told[0]["type"], "response.created");
    let last = told.last().unwrap();
    assert_eq!(last["type"], "response.completed");
    assert_eq!(last["response"]["id"], format!("resp_{decision}"));
    let output = last["response"]["output"].as_array().unwrap();
    let calls: Vec<_> = output.iter().map(|it| (&it["call_id"], &it["arguments"])).collect();
    assert_eq!(calls, [(&json!("c1"), &json!("{\"a\":1}")), (&json!("c2"), &json!("{}"))]);
}

#[tokio::test]
async fn a_cloud_that_breaks_off_ends_in_the_dialect_s_error_event() {
    let cloud = Cloud::start(Script::BreakMidEvent).await;
    let gateway = Gateway::with_cloud(cloud.address).await;
    let reply = ask(&gateway, MESSAGES, &message("Hello", true)).await;
    assert_eq!(types(&reply).last().unwrap(), "error");
    assert_eq!(data(&reply).pop().unwrap()["error"]["code"], "upstream_broke_off");
    let reply = ask(&gateway, RESPONSES, &response("Hello", true)).await;
    let told = types(&reply);
    assert_eq!(told[told.len() - 2..], ["error", "response.failed"]);
}

/// A gateway whose cloud speaks Anthropic's protocol.
async fn anthropic_gateway(cloud: &Cloud) -> Gateway {
    let upstream = format!(
        "  cloud:\n    kind: anthropic\n    base_url: \"http://{}/v1\"\n    \
         key_file: $FOLDER/key\n    timeouts: {{first_byte: 2s, idle: 1s}}\n",
        cloud.address
    );
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("key"), "sk-of-the-gateway").unwrap();
    Gateway::start_in(folder, &with_upstreams(&upstream)).await
}

#[tokio::test]
async fn an_anthropic_upstream_gets_its_headers_and_never_the_client_s_key() {
    let answer = json!({"id": "msg_1", "type": "message", "role": "assistant", "model": "m",
        "content": [{"type": "text", "text": "Hi"}], "stop_reason": "end_turn",
        "usage": {"input_tokens": 3, "output_tokens": 1}});
    let answer = http("200 OK", "application/json", answer.to_string().as_bytes());
    let cloud = Cloud::start(Script::Raw(answer)).await;
    let gateway = anthropic_gateway(&cloud).await;
    let key = [("x-api-key", "sk-of-the-client"), ("anthropic-beta", "something")];
    let body = message("Hello", false).to_string();
    gateway.send(Method::POST, MESSAGES, &key, body).await.came_from("cloud", 200);
    let seen = cloud.seen().to_lowercase();
    for expected in
        ["post /v1/messages ", "x-api-key: sk-of-the-gateway", "anthropic-version: 2023"]
    {
        assert!(seen.contains(expected), "{seen}");
    }
    assert!(!seen.contains("sk-of-the-client") && !seen.contains("anthropic-beta"), "{seen}");
    let lines = gateway.audit_lines(2).await;
    assert_eq!(
        (&lines[1]["prompt_tokens"], &lines[1]["completion_tokens"]),
        (&json!(3), &json!(1))
    );
}

#[tokio::test]
async fn what_an_anthropic_upstream_cannot_say_is_answered_by_another() {
    let cloud = Cloud::start(Script::Answer).await;
    let gateway = anthropic_gateway(&cloud).await;
    let body = json!({"model": "m", "n": 2, "max_tokens": 4,
                      "messages": [{"role": "user", "content": "Hello"}]});
    let reply = gateway.chat(body).await;
    reply.came_from("edge", 200);
    assert_eq!(reply.json()["choices"].as_array().unwrap().len(), 2);
    let call = json!({"name": "f", "arguments": "{}"});
    let body = json!({"model": "m", "max_tokens": 4, "messages": [
        {"role": "assistant", "content": null, "function_call": call},
        {"role": "user", "content": "Hello"}]});
    gateway.chat(body).await.came_from("edge", 200);
    assert_eq!(cloud.seen(), "");
}

#[tokio::test]
async fn an_anthropic_upstream_s_errors_and_broken_streams_are_told_cleanly() {
    let error = json!({"type": "error", "error": {"type": "invalid_request_error",
                       "message": "max_tokens: too many"}});
    let wrong = http("400 Bad Request", "application/json", error.to_string().as_bytes());
    let cloud = Cloud::start(Script::Raw(wrong)).await;
    let gateway = anthropic_gateway(&cloud).await;
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "Hello"}]});
    let reply = gateway.chat(body.clone()).await;
    reply.came_from("cloud", 400);
    assert_eq!(reply.json()["error"]["message"], "max_tokens: too many");
    let reply = ask(&gateway, MESSAGES, &message("Hello", false)).await;
    assert_eq!(reply.json()["error"]["type"], "invalid_request_error");

    let start = json!({"type": "message_start", "message": {"id": "msg_1", "model": "m"}});
    let overloaded = json!({"type": "error", "error": {"type": "overloaded_error",
                            "message": "w-their-words"}});
    let events =
        format!("event: message_start\ndata: {start}\n\nevent: error\ndata: {overloaded}\n\n");
    cloud.follow(Script::Raw(http("200 OK", "text/event-stream", events.as_bytes())));
    let reply = ask(&gateway, MESSAGES, &message("Hello", true)).await;
    assert_eq!(types(&reply), ["message_start", "error"]);
    assert!(!reply.text().contains("w-their-words"));
    let lines = gateway.audit_lines(6).await;
    assert_eq!(lines[5]["ending"], "cut");
}

/// The texts of a completions reply by their index, streamed or not.
fn completions(reply: &crate::gateway::Reply, stream: bool) -> Vec<String> {
    let pieces = match stream {
        true => reply.events(),
        false => vec![reply.json()],
    };
    let mut texts = BTreeMap::<u64, String>::new();
    for choice in pieces.iter().flat_map(|piece| piece["choices"].as_array().into_iter().flatten())
    {
        let text = choice["text"].as_str().unwrap();
        texts.entry(choice["index"].as_u64().unwrap()).or_default().push_str(text);
    }
    assert!(texts.keys().copied().eq(0..texts.len() as u64), "{}", reply.text());
    texts.into_values().collect()
}

#[tokio::test]
async fn several_prompts_of_a_completion_are_one_reply_and_go_one_way() {
    let cloud = Cloud::start(Script::Answer).await;
    let gateway = Gateway::with_cloud(cloud.address).await;
    for stream in [false, true] {
        let ask = async |prompts: Value, n: u64| {
            let options = if stream { json!({"include_usage": true}) } else { Value::Null };
            let body = json!({"model": "auto", "prompt": prompts, "n": n, "max_tokens": 3,
                "stream": stream, "stream_options": options});
            gateway.send(Method::POST, "/v1/completions", &[], body.to_string()).await
        };
        let reply = ask(json!(["A river", "A hill", "A lake"]), 1).await;
        reply.came_from("cloud", 200);
        // A stream names those that are taken after its head in comments.
        let (text, header) = (reply.text(), reply.header("x-sluice-decision"));
        let comments = text.lines().filter_map(|line| line.strip_prefix(": x-sluice-decision "));
        let decisions: BTreeSet<&str> = header.split(',').chain(comments).collect();
        assert_eq!((decisions.len(), header.contains(',')), (3, !stream), "{decisions:?}");
        let texts = completions(&reply, stream);
        assert!(texts.len() == 3 && texts.iter().all(|text| *text == texts[0]), "{texts:?}");
        assert!(!texts[0].is_empty());
        let usage = match stream {
            true => {
                assert_eq!(reply.text().matches("[DONE]").count(), 1);
                let events = reply.events();
                events[events.len() - 2]["usage"].clone()
            }
            false => reply.json()["usage"].clone(),
        };
        assert_eq!(usage["total_tokens"], 27, "{}", reply.text());
        let seen = cloud.seen();
        for text in ["A river", "A hill", "A lake"] {
            assert!(seen.contains(text), "{text}");
        }
        // One of them must stay here, and so they all do; n choices for each.
        let private = format!("Refund {CARD}");
        let reply = ask(json!(["My secret hill", private]), 2).await;
        reply.came_from("edge", 200);
        assert_eq!(completions(&reply, stream).len(), 4);
        assert!(!cloud.seen().contains("My secret hill") && !shows_card(&cloud.seen()));
    }
    let no = http("400 No", "application/json", br#"{"error":{"message":"no"}}"#);
    cloud.follow(Script::Raw(no));
    // What fails after a stream has begun ends it.
    cloud.first([Script::Answer]);
    let body = json!({"model": "auto", "prompt": ["c", "d"], "stream": true}).to_string();
    let broken = gateway.send(Method::POST, "/v1/completions", &[], body).await.text();
    assert!(broken.contains("\"error\":{") && !broken.contains("[DONE]"), "{broken}");
    let body = json!({"model": "auto", "prompt": ["a", "b"]}).to_string();
    let failed = gateway.send(Method::POST, "/v1/completions", &[], body).await;
    assert_eq!(failed.status, 400, "{}", failed.text());
}

#[tokio::test]
async fn several_prompts_are_streamed_side_by_side() {
    let cloud = Cloud::start(Script::Answer).await;
    cloud.first([Script::StallMidStream]);
    let gateway = Gateway::with_cloud(cloud.address).await;
    let body =
        json!({"model": "auto", "prompt": ["A river", "A hill"], "stream": true}).to_string();
    let mut client = TcpStream::connect(gateway.traffic).await.unwrap();
    let length = body.len();
    let head =
        format!("POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n");
    client.write_all((head + &body).as_bytes()).await.unwrap();
    // The first has begun and says no more; the second is not held up by that.
    let mut said = String::new();
    while !(said.contains("\"index\":1") && said.contains("\"stop\"")) {
        let mut bytes = [0; 4096];
        let count = client.read(&mut bytes).await.unwrap();
        assert!(count > 0, "the stream ended: {said}");
        said.push_str(&String::from_utf8_lossy(&bytes[..count]));
    }
    drop(client);
    cloud.hung_up().await;
    gateway.idle().await;
    assert_eq!(cloud.requests(), 2);
    assert_eq!(gateway.audit_lines(4).await.len(), 4);
}
