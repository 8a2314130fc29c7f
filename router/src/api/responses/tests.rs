//! OpenAI's responses in, and their objects and events out.

use sluice_policies::ContentKind;

use super::*;
use crate::api::testing::{reader, words};
use crate::api::translation::is_sorted;

fn asked(body: &Value) -> Result<(Request, ReplyWriter), ApiError> {
    let hints = Hints::read(&hyper::HeaderMap::new(), "/v1/responses", "").unwrap();
    let caller = Caller { id: None, tenant: "t".into(), tags: BTreeSet::new() };
    read(body.to_string().as_bytes(), hints, caller)
}

fn request(input: Value) -> Request {
    let read = asked(&json!({"model": "m", "input": input}));
    read.unwrap_or_else(|error| panic!("{}", error.message)).0
}

#[test]
fn the_tables_are_sorted() {
    for table in [
        BODY,
        REASONING_CONFIG,
        TEXT_CONFIG,
        FORMAT,
        FUNCTION,
        CUSTOM,
        CUSTOM_FORMAT,
        ALLOWED_TOOLS,
        CHOSEN,
        MESSAGE,
        FUNCTION_CALL,
        CALL_OUTPUT,
        CONFIGURATION_UPDATE,
        REASONING,
        TEXT_PART,
        THOUGHT_PART,
        REFUSAL_PART,
        IMAGE_PART,
        FILE_PART,
        AUDIO_PART,
    ] {
        assert!(is_sorted(table), "{table:?}");
    }
}

#[test]
fn every_string_of_a_body_is_in_some_text() {
    let body = json!({
        "model": "w-model", "instructions": "w-instructions", "user": "w-user",
        "metadata": {"w-key": "w-value"}, "truncation": "w-trunc", "w-unknown": ["w-deep"],
        "moderation": {"model": "w-moderation"}, "stream_options": {"w-so": true},
        "personality": "w-personality",
        "reasoning": {"effort": "low", "summary": "w-summary", "mode": "w-mode", "w-r": 1},
        "text": {"format": {"type": "json_schema", "name": "w-schema", "schema": {"w-s": 1},
                            "w-f": "w-format"}},
        "tools": [
            {"type": "function", "name": "w-fn", "parameters": {"w-p": 1}, "output_schema": "w-os"},
            {"type": "custom", "name": "w-custom", "format": {"definition": "w-grammar"}},
            {"type": "mcp", "server_url": "w-mcp"}],
        "input": [
            {"role": "user", "content": "w-text", "w-m": "w-mv"},
            {"type": "message", "role": "user", "content": [
                {"type": "input_text", "text": "w-part"}, {"type": "w-new", "x": "w-new-part"},
                {"type": "input_image", "image_url": "https://w-url", "detail": "w-detail"},
                {"type": "input_file", "filename": "w-name", "file_data": "AAAA"}]},
            {"type": "reasoning", "id": "w-rs", "summary": [{"type": "summary_text",
             "text": "w-thought"}], "encrypted_content": "w-encrypted"},
            {"type": "function_call", "call_id": "w-call", "name": "w-called",
             "arguments": "{\"a\":\"w-arg\"}", "namespace": "w-ns"},
            {"type": "function_call_output", "call_id": "w-call2", "output": "w-output",
             "name": "w-output-of", "namespace": "w-output-ns"},
            {"type": "configuration_update", "id": "w-update", "w-cu": 1,
             "text": {"format": {"type": "json_schema", "name": "w-late", "schema": {}}}},
            {"type": "custom_tool_call", "call_id": "w-c", "name": "w-n", "input": "w-input"},
            {"type": "web_search_call", "action": {"query": "w-query"}},
            {"type": "w-new-item", "x": "w-item"}],
    });
    let read = asked(&body).unwrap_or_else(|error| panic!("{}", error.message)).0;
    let scanned: String = read.prompt.texts.iter().map(|t| format!("{}\n", t.text)).collect();
    let mut expected = BTreeSet::new();
    words(&body, &mut expected);
    words(&Value::Object(read.chat.fields.clone()), &mut expected);
    for word in expected.iter().filter(|word| word.starts_with("w-")) {
        assert!(scanned.contains(word.as_str()), "{word} is not scanned");
    }
}

#[test]
fn what_cannot_be_read_is_named_by_its_kind() {
    use ContentKind::*;
    let part = |part: Value| json!([{"role": "user", "content": [part]}]);
    for (input, expected) in [
        (part(json!({"type": "input_image", "image_url": "data:image/png;base64,AA"})), Image),
        (part(json!({"type": "input_image", "file_id": "f"})), FileReference),
        (part(json!({"type": "input_file", "file_id": "f"})), FileReference),
        (part(json!({"type": "input_file", "file_url": "https://x.example/1"})), RemoteUrl),
        (part(json!({"type": "input_file", "file_data": "AA"})), EncryptedFile),
        (part(json!({"type": "input_audio", "input_audio": {"data": "AA"}})), Audio),
        (json!([{"type": "code_interpreter_call", "code": "x"}]), HostedTool),
        (json!([{"role": "user", "content": "a"}, {"type": "new"}]), UnknownField),
    ] {
        let got: Vec<_> =
            request(input.clone()).prompt.unscanned.iter().map(|it| it.kind).collect();
        assert_eq!(got, [expected], "{input}");
    }
    let tools = json!({"model": "m", "input": "a", "tools": [{"type": "web_search"}]});
    assert_eq!(asked(&tools).ok().unwrap().0.prompt.unscanned[0].kind, HostedTool);
}

#[test]
fn what_refers_to_something_stored_is_refused_by_name() {
    for (name, value) in [
        ("previous_response_id", json!("resp_1")),
        ("conversation", json!({"id": "conv_1"})),
        ("prompt", json!({"id": "pmpt_1"})),
        ("background", json!(true)),
    ] {
        let mut body = json!({"model": "m", "input": "a"});
        body[name] = value;
        let error = asked(&body).err().unwrap();
        let got = (error.status.as_u16(), error.param.as_deref(), error.code);
        assert_eq!(got, (400, Some(name), Some("stored_state_not_served")));
        body[name] = Value::Null;
        assert!(asked(&body).is_ok(), "{name}: null");
    }
    for item in [json!({"type": "item_reference", "id": "x"}), json!({"id": "x"})] {
        let error = asked(&json!({"model": "m", "input": [item]})).err().unwrap();
        assert_eq!(error.param.as_deref(), Some("input[0]"));
    }
}

#[test]
fn items_of_one_turn_become_one_message() {
    let read = request(json!([
        {"role": "user", "content": [{"type": "input_text", "text": "q"}]},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "a"}]},
        {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
        {"type": "function_call", "call_id": "2", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "1", "output": "r"},
    ]));
    let call = |id: &str| {
        json!({"id": id, "type": "function",
        "function": {"name": "f", "arguments": "{}"}})
    };
    let expected = json!([
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a", "reasoning_content": "hm",
         "tool_calls": [call("1"), call("2")]},
        {"role": "tool", "tool_call_id": "1", "content": "r"},
    ]);
    assert_eq!(read.chat.fields["messages"], expected);
    let place = |text: &str| {
        let found = read.prompt.texts.iter().find(|it| it.text == text).unwrap();
        found.place.clone()
    };
    assert_eq!(
        (place("q").as_str(), place("r").as_str()),
        ("input[0].content", "input[5].content")
    );
}

#[test]
fn nothing_stands_between_calls_and_their_results() {
    let call =
        |id: &str| json!({"type": "function_call", "call_id": id, "name": "f", "arguments": "{}"});
    let result = |id: &str| json!({"type": "function_call_output", "call_id": id, "output": "r"});
    let think = |text: &str| json!({"type": "reasoning", "summary": [{"type": "summary_text", "text": text}]});
    let say = |text: &str| json!({"role": "assistant", "content": text});
    let search = json!({"type": "web_search_call", "id": "w"});
    for (input, content, thoughts) in [
        (json!([call("1"), say("a"), result("1")]), json!("a"), Value::Null),
        (
            json!([call("1"), say("a"), say("b"), call("2"), result("1"), result("2")]),
            json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]),
            Value::Null,
        ),
        (
            json!([think("x"), call("1"), think("y"), call("2"), result("1"), result("2")]),
            Value::Null,
            json!("x\n\ny"),
        ),
        (
            json!([think("x"), think("y"), say("a"), call("1"), result("1")]),
            json!("a"),
            json!("x\n\ny"),
        ),
        (json!([call("1"), search, result("1")]), json!([search]), Value::Null),
    ] {
        let read = request(input.clone());
        let messages = read.chat.fields["messages"].as_array().unwrap();
        let roles: Vec<_> = messages.iter().map(|it| it["role"].as_str().unwrap()).collect();
        assert_eq!(roles[0], "assistant", "{input}");
        assert!(roles[1..].iter().all(|role| *role == "tool"), "{input}: {roles:?}");
        assert_eq!(
            messages[0]["tool_calls"].as_array().unwrap().len(),
            messages.len() - 1,
            "{input}"
        );
        let turn = &messages[0];
        assert_eq!(
            (&turn["content"], &turn["reasoning_content"]),
            (&content, &thoughts),
            "{input}"
        );
    }
    // Once they are answered, or without calls, it is another turn.
    let read = request(json!([say("a"), say("b"), call("1"), result("1"), say("c"), think("x")]));
    assert_eq!(read.chat.fields["messages"].as_array().unwrap().len(), 5);
}

#[test]
fn thoughts_are_kept_apart() {
    let read = request(json!([{"type": "reasoning",
        "content": [{"type": "reasoning_text", "text": "one"}],
        "summary": [{"type": "summary_text", "text": "two"}, {"type": "summary_text", "text": "3"}]}]));
    assert_eq!(read.chat.fields["messages"][0]["reasoning_content"], "one\n\ntwo\n\n3");
}

#[test]
fn a_configuration_holds_until_the_next_one() {
    let update =
        |effort: &str| json!({"type": "configuration_update", "reasoning": {"effort": effort}});
    let form = json!({"type": "configuration_update", "text": {"format": {"type": "text"}}});
    let say = json!({"role": "user", "content": "a"});
    let body = json!({"model": "m", "reasoning": {"effort": "high"},
        "text": {"format": {"type": "json_object"}},
        "input": [say, update("low"), form, update("medium")]});
    let read = asked(&body).ok().unwrap().0;
    assert_eq!(read.chat.fields["reasoning_effort"], "medium");
    assert_eq!(read.chat.fields["response_format"]["type"], "text");
    assert_eq!(read.chat.fields["messages"].as_array().unwrap().len(), 1);
    let wrong = json!({"type": "configuration_update", "text": 1});
    let error = asked(&json!({"model": "m", "input": [wrong]})).err().unwrap();
    assert_eq!(error.param.as_deref(), Some("input[0].text"));
}

/// The events of a reply to this body that comes in these chunks.
fn told(body: &Value, chunks: &[Value]) -> Vec<Value> {
    let mut writer = asked(body).ok().unwrap().1;
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
fn events_are_numbered_and_the_last_one_holds_the_whole_response() {
    let body = json!({"model": "m", "input": "a", "tools": [{"type": "custom", "name": "sh"}]});
    let call = |index: u64, id: &str, name: &str, arguments: &str| {
        let function = json!({"name": name, "arguments": arguments});
        json!({"tool_calls": [{"index": index, "id": id, "function": function}]})
    };
    let events = told(
        &body,
        &[
            chunk(json!({"reasoning_content": "hm"}), Value::Null),
            chunk(json!({"content": "Hel"}), Value::Null),
            chunk(json!({"content": "lo"}), Value::Null),
            chunk(call(0, "c1", "f", "{\"a\":1}"), Value::Null),
            chunk(call(1, "c2", "sh", "{\"input\":\"ls\"}"), Value::Null),
            chunk(json!({}), "tool_calls".into()),
            json!({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}),
        ],
    );
    let numbers: Vec<_> = events.iter().map(|e| e["sequence_number"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (0..events.len() as u64).collect::<Vec<_>>());
    let last = events.last().unwrap();
    assert_eq!(last["type"], "response.completed");
    let output = last["response"]["output"].as_array().unwrap();
    let types: Vec<_> = output.iter().map(|item| item["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["reasoning", "message", "function_call", "custom_tool_call"]);
    assert_eq!(output[1]["content"][0]["text"], "Hello");
    assert_eq!((&output[2]["arguments"], &output[3]["input"]), (&json!("{\"a\":1}"), &json!("ls")));
    assert_eq!(last["response"]["usage"]["total_tokens"], 10);
    assert_eq!(last["response"]["store"], false);
    for (done, added) in
        [("output_item.done", "output_item.added"), ("content_part.done", "content_part.added")]
    {
        let count = |name: &str| {
            events.iter().filter(|event| event["type"] == format!("response.{name}")).count()
        };
        assert_eq!(count(done), count(added));
    }
}

#[test]
fn a_reply_that_is_cut_says_how() {
    let body = json!({"model": "m", "input": "a"});
    let first = chunk(json!({"content": "Hi"}), Value::Null);
    let error = json!({"error": {"message": "m", "code": "policy_blocked"}});
    for (chunks, ending, error_code) in [
        (
            vec![first.clone(), chunk(json!({}), "length".into())],
            "response.incomplete",
            Value::Null,
        ),
        (vec![first.clone()], "response.failed", json!("upstream_broke_off")),
        (vec![first, error], "response.failed", json!("policy_blocked")),
    ] {
        let events = told(&body, &chunks);
        let last = events.last().unwrap();
        assert_eq!(last["type"], ending);
        assert_eq!(last["response"]["error"]["code"], error_code);
        assert_eq!(last["response"]["output"][0]["status"], "incomplete");
        let told = events.iter().any(|event| event["type"] == "error");
        assert_eq!(told, !error_code.is_null());
    }
}
