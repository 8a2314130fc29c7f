//! Every dialect to every kind of upstream and back, whole and streamed, against `tests/golden/`.
//!
//! A golden holds a client's body, what the upstream must get for it, what the upstream answers, and what
//! the client must hear. The edge answers by itself: the shipped model says the same to the same words when
//! nothing is left to chance. With `SLUICE_GOLDEN=write` the files are written anew, to be read before they
//! are committed.

use std::path::{Path, PathBuf};

use hyper::Method;
use serde_json::{Value, json};

use crate::cloud::{Cloud, Script, http};
use crate::gateway::{Gateway, Reply, with_upstreams};

/// Where an event of any dialect holds a piece of a text.
const PIECES: [&str; 6] = [
    "/choices/0/delta/content",
    "/choices/0/delta/tool_calls/0/function/arguments",
    "/choices/0/text",
    "/delta",
    "/delta/partial_json",
    "/delta/text",
];

fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files.filter(|p| p.extension().is_some_and(|e| e == "json")).collect();
    files.sort();
    files
}

/// The time of a reply is the moment's.
fn without_times(mut value: Value) -> Value {
    match &mut value {
        Value::Object(fields) => {
            for (name, inner) in fields.iter_mut() {
                let is_time = matches!(name.as_str(), "created" | "created_at");
                *inner = if is_time { 0.into() } else { without_times(inner.take()) };
            }
        }
        Value::Array(list) => {
            list.iter_mut().for_each(|inner| *inner = without_times(inner.take()))
        }
        _ => {}
    }
    value
}

/// Names that the gateway makes are the run's; what they begin with is the dialect's.
fn without_names(mut value: Value) -> Value {
    match &mut value {
        Value::Object(fields) => {
            for (name, inner) in fields.iter_mut() {
                let is_name = matches!(name.as_str(), "id" | "item_id" | "call_id");
                let text = inner.as_str().filter(|_| is_name);
                let kept = text.and_then(|text| text.split_inclusive(['-', '_']).next());
                *inner = match kept.map(str::to_owned) {
                    Some(kept) => kept.into(),
                    None => without_names(inner.take()),
                };
            }
        }
        Value::Array(list) => {
            list.iter_mut().for_each(|inner| *inner = without_names(inner.take()))
        }
        _ => {}
    }
    value
}

/// Pieces of one text as one: how much of it comes in an event is nobody's promise.
fn joined(events: &Value) -> Value {
    let mut out: Vec<Value> = Vec::new();
    for event in events.as_array().into_iter().flatten() {
        let mut event = event.clone();
        if let Some(number) = event.get_mut("sequence_number") {
            *number = 0.into();
        }
        let place =
            out.last().and_then(|last| PIECES.into_iter().find(|at| goes_on(last, &event, at)));
        let Some(place) = place else {
            out.push(event);
            continue;
        };
        let more = event.pointer(place).and_then(Value::as_str).unwrap_or_default();
        if let Some(Value::String(text)) = out.last_mut().and_then(|last| last.pointer_mut(place)) {
            text.push_str(more);
        }
    }
    out.into()
}

/// Whether two events are the same but for a piece of a text.
fn goes_on(last: &Value, event: &Value, place: &str) -> bool {
    let blank = |event: &Value| {
        let mut event = event.clone();
        let text = event.pointer_mut(place).filter(|text| text.is_string())?;
        *text = "".into();
        Some(event)
    };
    blank(last).is_some_and(|last| Some(last) == blank(event))
}

/// The events of a stream: names where there are any, and data.
fn events(reply: &Reply) -> Value {
    let text = reply.text();
    let event = |event: &str| {
        let line = |name: &str| event.lines().find_map(|line| line.strip_prefix(name));
        let data = line("data: ").unwrap_or_default();
        let data = serde_json::from_str(data).map_or(Value::from(data), without_times);
        if let Some(name) = line("event: ") {
            assert_eq!(data["type"], name, "an event is named after its type");
        }
        data
    };
    text.split("\n\n").filter(|event| !event.is_empty()).map(event).collect()
}

struct Golden {
    cloud: Cloud,
    gateway: Gateway,
    path: String,
}

impl Golden {
    async fn start(golden: &Value) -> Golden {
        let cloud = Cloud::start(Script::Answer).await;
        let kind = golden["upstream"].as_str().unwrap();
        let gateway = Gateway::start(&with_upstreams(&format!(
            "  cloud: {{kind: {kind}, base_url: \"http://{}/v1\"}}\n",
            cloud.address
        )))
        .await;
        Golden { cloud, gateway, path: golden["path"].as_str().unwrap().to_owned() }
    }

    /// What the upstream got, and what the client heard.
    async fn ask(&self, request: &Value, answer: Vec<u8>) -> (Value, Reply) {
        let before = self.cloud.seen().len();
        self.cloud.follow(Script::Raw(answer));
        let body = request.to_string();
        let reply = self.gateway.send(Method::POST, &self.path, &[], body).await;
        reply.came_from("cloud", 200);
        let seen = self.cloud.seen()[before..].to_owned();
        let (head, body) = seen.split_once("\r\n\r\n").unwrap();
        let line = head.lines().next().unwrap();
        let mut sent: Value = serde_json::from_str(body).unwrap();
        sent["POST"] = line.split(' ').nth(1).unwrap().into();
        (sent, reply)
    }
}

/// Checks a part of a golden, or writes it.
fn hold(golden: &mut Value, part: &str, got: Value, file: &Path) {
    if std::env::var_os("SLUICE_GOLDEN").is_some_and(|how| how == "write") {
        golden[part] = got;
        return;
    }
    let (expected, file) = (&golden[part], file.display());
    let pretty = |value: &Value| serde_json::to_string_pretty(value).unwrap();
    assert!(
        *expected == got,
        "{file}: {part}: expected {}\ngot {}",
        pretty(expected),
        pretty(&got)
    );
}

/// The edge is one for all goldens: its model is loaded once.
async fn check(file: &Path, edge: &Gateway) {
    let mut golden: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    if golden["upstream"] == "edge" {
        check_edge(&mut golden, file, edge).await;
    } else {
        check_server(&mut golden, file).await;
    }
    if std::env::var_os("SLUICE_GOLDEN").is_some_and(|how| how == "write") {
        std::fs::write(file, written(&golden)).unwrap();
    }
}

async fn check_edge(golden: &mut Value, file: &Path, edge: &Gateway) {
    let path = golden["path"].as_str().unwrap().to_owned();
    let mut request = golden["request"].clone();
    let reply = edge.send(Method::POST, &path, &[], request.to_string()).await;
    reply.came_from("edge", 200);
    hold(golden, "reply", without_names(without_times(reply.json())), file);
    request["stream"] = true.into();
    let reply = edge.send(Method::POST, &path, &[], request.to_string()).await;
    reply.came_from("edge", 200);
    hold(golden, "reply_events", joined(&without_names(events(&reply))), file);
}

async fn check_server(golden: &mut Value, file: &Path) {
    let run = Golden::start(golden).await;
    let answer = http("200 OK", "application/json", golden["answer"].to_string().as_bytes());
    let (sent, reply) = run.ask(&golden["request"], answer).await;
    hold(golden, "sent", sent.clone(), file);
    hold(golden, "reply", without_times(reply.json()), file);

    if let Some(list) = golden["answer_events"].as_array() {
        let event = |event: &Value| match (event.as_str(), event["type"].as_str()) {
            (Some(text), _) => format!("data: {text}\n\n"),
            (None, Some(name)) => format!("event: {name}\ndata: {event}\n\n"),
            (None, None) => format!("data: {event}\n\n"),
        };
        let body: String = list.iter().map(event).collect();
        let answer = http("200 OK", "text/event-stream", body.as_bytes());
        let mut request = golden["request"].clone();
        request["stream"] = true.into();
        let (mut streamed, reply) = run.ask(&request, answer).await;
        assert_eq!(streamed["stream"], true, "{}", file.display());
        let mut plain = sent;
        for body in [&mut streamed, &mut plain] {
            body.as_object_mut().unwrap().retain(|name, _| !name.starts_with("stream"));
        }
        assert_eq!(streamed, plain, "{}: a stream is asked for in the same words", file.display());
        hold(golden, "reply_events", events(&reply), file);
    }
}

/// A golden as people read it: bodies in many lines, events in one each.
fn written(golden: &Value) -> String {
    let part = |(name, value): (&String, &Value)| {
        let text = match value {
            Value::Array(events) => {
                let lines: Vec<_> = events.iter().map(|event| format!("    {event}")).collect();
                format!("[\n{}\n  ]", lines.join(",\n"))
            }
            other => serde_json::to_string_pretty(other).unwrap().replace('\n', "\n  "),
        };
        format!("  {name:?}: {text}")
    };
    let parts: Vec<String> = golden.as_object().unwrap().iter().map(part).collect();
    format!("{{\n{}\n}}\n", parts.join(",\n"))
}

#[tokio::test]
async fn every_dialect_is_served_by_every_kind_of_upstream() {
    let files = files();
    assert!(files.len() >= 16, "{files:?}");
    // What a golden hears does not depend on which came before it.
    let nothing_kept = "kind: edge, checkpoints: {memory: 0},";
    let edge = Gateway::start(&with_upstreams("").replace("kind: edge,", nothing_kept)).await;
    // Another model says other words.
    let is_shipped = std::env::var_os("SLUICE_MODEL").is_none();
    let is_of_the_edge = |file: &Path| file.to_string_lossy().ends_with("_to_edge.json");
    for file in files.iter().filter(|file| is_shipped || !is_of_the_edge(file)) {
        check(file, &edge).await;
    }
    // A golden that was emptied by mistake would hold nothing.
    let golden: Value = serde_json::from_slice(&std::fs::read(&files[0]).unwrap()).unwrap();
    assert_ne!(golden["reply"], json!(null));
}
