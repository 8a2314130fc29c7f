//! Anthropic's bodies in, and its words out.

use std::collections::BTreeSet;

use sluice_policies::ContentKind;

use super::*;
use crate::api::testing::{reader, words};
use crate::api::translation::is_sorted;

fn asked(body: &Value) -> Result<Request, ApiError> {
    let hints = Hints::read(&hyper::HeaderMap::new(), "/v1/messages", "").unwrap();
    let caller = Caller { id: None, tenant: "t".into(), tags: BTreeSet::new() };
    read(body.to_string().as_bytes(), hints, caller)
}

/// The request of one message with this content.
fn said_by(role: &str, content: Value) -> Request {
    let messages = json!([{"role": role, "content": content}]);
    let body = json!({"model": "m", "max_tokens": 9, "messages": messages});
    asked(&body).unwrap_or_else(|error| panic!("{}", error.message))
}

fn messages_of(request: &Request) -> &Value {
    &request.chat.fields["messages"]
}

#[test]
fn the_tables_are_sorted() {
    for table in [
        BODY,
        METADATA,
        OUTPUT_CONFIG,
        FORMAT,
        MESSAGE,
        TOOL,
        TOOL_CHOICE,
        TOOL_CHOICE_BY_NAME,
        TEXT,
        IMAGE,
        DOCUMENT,
        SEARCH_RESULT,
        TOOL_REFERENCE,
        BROWSER_STATE,
        FALLBACK,
        BASE64_SOURCE,
        TEXT_SOURCE,
        CONTENT_SOURCE,
        URL_SOURCE,
        FILE_SOURCE,
        THINKING,
        REDACTED_THINKING,
        TOOL_USE,
        TOOL_RESULT,
    ] {
        assert!(is_sorted(table), "{table:?}");
    }
}

#[test]
fn every_string_of_a_body_is_in_some_text() {
    let messages = json!([
        {"role": "user", "content": "w-plain", "w-msg": "w-msg-value"},
        {"role": "system", "clear_at": "w-clear", "output_config": {"effort": "w-late-effort"}},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "w-thought", "signature": "w-signature"},
            {"type": "text", "text": "w-said"},
            {"type": "fallback", "from": {"model": "w-from"}, "to": {"model": "w-to"}},
            {"type": "server_tool_use", "name": "w-server", "input": {"q": "w-query"}},
            {"type": "tool_use", "id": "w-id", "name": "w-use", "input": {"w-arg": "w-value"},
             "caller": {"type": "w-caller"}}]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "w-id2", "content": [
                {"type": "text", "text": "w-result"}, {"type": "w-new", "x": "w-new-part"},
                {"type": "tool_reference", "tool_name": "w-reference"},
                {"type": "browser_state", "tabs": [{"tab_id": "w-tab", "title": "w-tab-title"}],
                 "state_changes": [{"type": "w-change", "url": "w-change-url"}]}]},
            {"type": "document", "title": "w-title", "context": "w-context",
             "source": {"type": "text", "data": "w-data", "media_type": "text/plain"}},
            {"type": "document", "source": {"type": "content", "content": "w-doc-content"}},
            {"type": "document", "source": {"type": "url", "url": "w-doc-url"}},
            {"type": "search_result", "title": "w-sr", "source": "w-sr-source",
             "content": [{"type": "text", "text": "w-sr-text"}]},
            {"type": "image", "source": {"type": "url", "url": "w-image-url"}, "w-im": 1},
            {"type": "image", "source": {"type": "file", "file_id": "w-file"}}]},
    ]);
    let body = json!({
        "model": "w-model", "max_tokens": 9, "metadata": {"user_id": "w-user", "w-meta": "w-m"},
        "system": [{"type": "text", "text": "w-system", "citations": [{"cited_text": "w-cited"}]}],
        "stop_sequences": ["w-stop"], "service_tier": "w-tier", "w-unknown": {"w-inner": "w-deep"},
        "context_management": {"edits": ["w-edit"]}, "thinking": {"type": "w-thinking"},
        "output_config": {"effort": "w-effort", "w-out": "w-output"},
        "tools": [
            {"name": "w-tool", "description": "w-desc", "input_examples": [{"w-ex": "w-example"}],
             "input_schema": {"properties": {"w-prop": {}}}, "w-tool-extra": "w-te"},
            {"type": "web_search_20250305", "name": "w-hosted"}],
        "mcp_servers": [{"url": "w-mcp"}], "compaction": {"instructions": "w-compaction"},
        "fallbacks": [{"model": "w-fallback"}], "billing_policy": {"bill_to": "w-bill"},
        "fallback_credit_token": "w-credit",
        "messages": messages,
    });
    let request = asked(&body).unwrap_or_else(|error| panic!("{}", error.message));
    let scanned: String = request.prompt.texts.iter().map(|t| format!("{}\n", t.text)).collect();
    let mut expected = BTreeSet::new();
    words(&body, &mut expected);
    for word in expected.iter().filter(|word| word.starts_with("w-")) {
        assert!(scanned.contains(word.as_str()), "{word} is not scanned");
    }
    // What could be sent was scanned, too: all of the internal form.
    let mut sent = BTreeSet::new();
    words(&Value::Object(request.chat.fields.clone()), &mut sent);
    for word in sent.iter().filter(|word| word.starts_with("w-")) {
        assert!(scanned.contains(word.as_str()), "{word} would be sent unscanned");
    }
}

#[test]
fn what_cannot_be_read_is_named_by_its_kind() {
    use ContentKind::*;
    let image = |source: Value| json!([{"type": "image", "source": source}]);
    let document = |source: Value| json!([{"type": "document", "source": source}]);
    for (content, expected) in [
        (image(json!({"type": "base64", "media_type": "image/png", "data": "AA"})), vec![Image]),
        (image(json!({"type": "url", "url": "https://x.example/1"})), vec![Image, RemoteUrl]),
        (image(json!({"type": "file", "file_id": "f"})), vec![FileReference]),
        (document(json!({"type": "base64", "data": "AA"})), vec![EncryptedFile]),
        (document(json!({"type": "url", "url": "https://x.example/1"})), vec![RemoteUrl]),
        (document(json!({"type": "file", "file_id": "f"})), vec![FileReference]),
        (document(json!({"type": "text", "data": "words"})), vec![]),
        (json!([{"type": "container_upload", "file_id": "f"}]), vec![HostedTool]),
        (json!([{"type": "tool_addition", "tool": {"name": "f"}}]), vec![HostedTool]),
        (json!([{"type": "fallback", "from": {"model": "a"}, "to": {"model": "b"}}]), vec![]),
        (json!([{"type": "text", "text": "a"}, {"type": "new", "x": 1}]), vec![UnknownField]),
        (
            json!([{"type": "tool_result", "tool_use_id": "t",
                    "content": image(json!({"type": "base64", "data": "AA"}))}]),
            vec![Image],
        ),
    ] {
        let request = said_by("user", content.clone());
        let got: Vec<_> = request.prompt.unscanned.iter().map(|it| it.kind).collect();
        assert_eq!(got, expected, "{content}");
    }
    let thought = json!([{"type": "redacted_thinking", "data": "AA"}]);
    let got = said_by("assistant", thought).prompt.unscanned[0].kind;
    assert_eq!(got, EncryptedFile);
}

#[test]
fn places_are_those_of_the_client_s_body() {
    let body = json!({"model": "m", "max_tokens": 9, "system": "s", "stop_sequences": ["x"],
        "messages": [
            {"role": "user", "content": "a"},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "t", "content": "b"},
                {"type": "text", "text": "c"}]}]});
    let request = asked(&body).ok().unwrap();
    let places: Vec<_> = request.prompt.texts.iter().map(|text| text.place.as_str()).collect();
    for place in [
        "system.content",
        "stop_sequences",
        "messages[0].content",
        "messages[1].content[0].content",
        "messages[1].content",
    ] {
        assert!(places.contains(&place), "{place} is not in {places:?}");
    }
}

#[test]
fn unknown_fields_never_reach_the_internal_form_and_count_as_stripped() {
    let body = json!({"model": "m", "max_tokens": 9, "new": {"deep": "text"},
        "messages": [{"role": "user", "content": [
            {"type": "text", "text": "keep", "odd": 1}, {"type": "newer"}]}]});
    let mut request = asked(&body).ok().unwrap();
    let unknown: Vec<String> = request.prompt.unscanned.iter().map(|it| it.place.clone()).collect();
    let expected = ["messages[0].content[0].odd", "messages[0].content[1]", "new"];
    assert_eq!(BTreeSet::from_iter(unknown.iter().map(String::as_str)), expected.into());
    assert_eq!(request.chat.strip(&unknown).len(), 3);
    assert_eq!(*messages_of(&request), json!([{"role": "user", "content": "keep"}]));
    assert!(!request.chat.fields.contains_key("new"));
    // A second look at the same body, with placeholders in it, finds them gone.
    let fields = request.chat.fields.clone();
    let again = crate::api::chat::with_fields(&request, fields).ok().unwrap();
    assert!(again.prompt.unscanned.is_empty(), "{:?}", again.prompt);
}

#[test]
fn the_mark_of_a_result_stands_on_its_last_part() {
    let mark = json!({"type": "ephemeral"});
    let picture = json!({"type": "image", "source": {"type": "url", "url": "u"}});
    let text = |text: &str| json!({"type": "text", "text": text});
    let marked = |mut part: Value| {
        part["cache_control"] = mark.clone();
        part
    };
    let url = json!({"type": "image_url", "image_url": {"url": "u"}});
    for (content, expected) in [
        (json!("a"), json!([marked(text("a"))])),
        (Value::Null, json!([marked(text(""))])),
        (json!([]), json!([marked(text(""))])),
        (json!([text("a"), picture]), json!([text("a"), marked(url)])),
    ] {
        let result = json!({"type": "tool_result", "tool_use_id": "t", "content": content,
                            "cache_control": mark});
        let request = said_by("user", json!([result]));
        assert_eq!(messages_of(&request)[0]["content"], expected);
        let unknown = |kind| kind == ContentKind::UnknownField;
        assert!(!request.prompt.unscanned.iter().any(|it| unknown(it.kind)));
    }
}

#[test]
fn a_place_of_the_internal_form_is_told_as_the_client_s() {
    let request = said_by(
        "user",
        json!([
        {"type": "tool_result", "tool_use_id": "t", "content": "a"}, {"type": "text", "text": "b"}]),
    );
    for (place, expected) in [
        ("tools[1].function.name", Some("tools[1].name")),
        ("tools[1].function.parameters", Some("tools[1].input_schema")),
        ("messages[1].content", Some("messages[0].content")),
        ("stop", Some("stop_sequences")),
        ("tools", None),
    ] {
        assert_eq!(request.chat.client_place(place).as_deref(), expected, "{place}");
    }
}

#[test]
fn wrong_bodies_are_turned_away_by_the_field() {
    let message = json!([{"role": "user", "content": "a"}]);
    for (body, param) in [
        (json!({"model": "m", "messages": message}), "max_tokens"),
        (json!({"model": "m", "max_tokens": 0, "messages": message}), "max_tokens"),
        (json!({"max_tokens": 1, "messages": message}), "model"),
        (json!({"model": "m", "max_tokens": 1, "messages": []}), "messages"),
        (
            json!({"model": "m", "max_tokens": 1, "messages": [{"role": "bot", "content": "a"}]}),
            "messages[0].role",
        ),
        (
            json!({"model": "m", "max_tokens": 1, "messages": message, "container": "c"}),
            "container",
        ),
        (
            json!({"model": "m", "max_tokens": 1, "messages": message,
                   "thread": {"type": "create"}}),
            "thread",
        ),
        (
            json!({"model": "m", "max_tokens": 1, "messages": message, "tool_choice": {}}),
            "tool_choice.type",
        ),
        (
            json!({"model": "m", "max_tokens": 1, "messages": message, "tools": [{}]}),
            "tools[0].name",
        ),
    ] {
        let error = asked(&body).err().unwrap();
        assert_eq!((error.status.as_u16(), error.param.as_deref()), (400, Some(param)), "{body}");
    }
}

/// All events of a reply that comes in these chunks, by type.
fn told(chunks: &[Value]) -> Vec<Value> {
    let mut writer = EventWriter::default();
    let mut reader = reader();
    let mut out = Vec::new();
    for chunk in chunks {
        let event = format!("data: {chunk}\n\n");
        reader.event(event.as_bytes()).into_iter().for_each(|said| writer.write(said, &mut out));
    }
    reader.end().into_iter().for_each(|said| writer.write(said, &mut out));
    let text = String::from_utf8(out).unwrap();
    let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
    data.map(|data| serde_json::from_str(data).unwrap()).collect()
}

fn chunk(delta: Value, finish: Value) -> Value {
    let choice = json!({"index": 0, "delta": delta, "finish_reason": finish});
    json!({"id": "chatcmpl-1", "model": "m", "created": 1, "choices": [choice]})
}

#[test]
fn a_stream_begins_and_ends_each_block_once() {
    let call = |id: Value, arguments: &str| {
        let name = if id.is_null() { Value::Null } else { "f".into() };
        let function = json!({"name": name, "arguments": arguments});
        json!({"tool_calls": [{"index": 0, "id": id, "function": function}]})
    };
    let events = told(&[
        chunk(json!({"role": "assistant", "content": ""}), Value::Null),
        chunk(json!({"reasoning_content": "hm"}), Value::Null),
        chunk(json!({"thinking_blocks": [{"type": "thinking", "signature": "s"}]}), Value::Null),
        chunk(json!({"content": "Hi"}), Value::Null),
        chunk(call("c1".into(), ""), Value::Null),
        chunk(call(Value::Null, "{\"a\""), Value::Null),
        chunk(call(Value::Null, ":1}"), Value::Null),
        chunk(json!({}), "tool_calls".into()),
        json!({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3,
            "prompt_tokens_details": {"cached_tokens": 1, "cache_write_tokens": 2}}}),
    ]);
    let types: Vec<_> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    let expected = [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ];
    assert_eq!(types, expected);
    assert_eq!(events[8]["content_block"]["id"], "c1");
    assert_eq!(events[12]["delta"]["stop_reason"], "tool_use");
    let usage = json!({"input_tokens": 4, "output_tokens": 3, "cache_read_input_tokens": 1,
        "cache_creation_input_tokens": 2});
    assert_eq!(events[12]["usage"], usage);
}

#[test]
fn each_thought_keeps_its_signature() {
    let signed = |signature: &str| json!([{"type": "thinking", "signature": signature}]);
    let thinks = |text: &str| json!({"reasoning_content": text});
    let deltas = [
        thinks("T"),
        thinks("1"),
        json!({"thinking_blocks": signed("s1")}),
        thinks("T2"),
        json!({"thinking_blocks": signed("s2")}),
        json!({"thinking_blocks": signed("s3")}),
        json!({"thinking_blocks": [{"type": "redacted_thinking", "data": "d"}]}),
        json!({"content": "Hi"}),
        thinks("T4"),
    ];
    let block = |text: &str, signature: &str| json!({"type": "thinking", "thinking": text, "signature": signature});
    let expected = json!([
        block("T1", "s1"),
        block("T2", "s2"),
        block("", "s3"),
        {"type": "redacted_thinking", "data": "d"},
        {"type": "text", "text": "Hi"},
        block("T4", ""),
    ]);
    let mut chunks: Vec<_> = deltas.into_iter().map(|it| chunk(it, Value::Null)).collect();
    chunks.push(chunk(json!({}), "stop".into()));
    assert_eq!(blocks_of(&told(&chunks)), expected);

    let mut reader = reader();
    let event = |chunk: &Value| reader.event(format!("data: {chunk}\n\n").as_bytes());
    let mut said: Vec<_> = chunks.iter().flat_map(event).collect();
    said.extend(reader.end());
    assert_eq!(whole(said)["content"], expected);
}

/// The blocks that a client puts together of a stream's events.
fn blocks_of(events: &[Value]) -> Value {
    let mut blocks: Vec<Value> = Vec::new();
    for event in events {
        let Some(index) = event["index"].as_u64() else { continue };
        let delta = &event["delta"];
        match event["type"].as_str() {
            Some("content_block_start") => blocks.push(event["content_block"].clone()),
            Some("content_block_delta") => {
                let kind = delta["type"].as_str().unwrap().strip_suffix("_delta").unwrap();
                let block = &mut blocks[index as usize];
                let text =
                    format!("{}{}", block[kind].as_str().unwrap(), delta[kind].as_str().unwrap());
                block[kind] = text.into();
            }
            _ => assert_eq!(index as usize + 1, blocks.len()),
        }
    }
    blocks.into()
}

#[test]
fn a_stream_that_breaks_off_ends_with_an_error_event() {
    let first = chunk(json!({"content": "Hi"}), Value::Null);
    let error = json!({"error": {"message": "m", "type": "permission_error", "code": "c"}});
    for (chunks, kind) in [
        (vec![first.clone()], "api_error"),
        (vec![first.clone(), error.clone()], "permission_error"),
        (vec![error.clone(), first], "permission_error"),
    ] {
        let events = told(&chunks);
        let last = events.last().unwrap();
        assert_eq!((&last["type"], &last["error"]["type"]), (&json!("error"), &json!(kind)));
        assert!(!events.iter().any(|event| event["type"] == "message_stop"));
    }
}

#[test]
fn errors_have_anthropics_shape_and_our_code() {
    let openai = |code: Value, param: Value| json!({"error": {"message": "expected x", "type": "t", "param": param, "code": code}});
    let told = error(403, &openai("policy_blocked".into(), Value::Null), "r1");
    let expected = json!({"type": "error", "request_id": "r1", "error": {
        "type": "permission_error", "message": "expected x", "code": "policy_blocked"}});
    assert_eq!(told, expected);
    for (status, kind) in [
        (400, "invalid_request_error"),
        (404, "not_found_error"),
        (413, "request_too_large"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (503, "overloaded_error"),
    ] {
        let told = error(status, &openai(Value::Null, "model".into()), "r");
        assert_eq!(told["error"]["type"], kind);
        assert_eq!(told["error"]["message"], "model: expected x");
    }
}
