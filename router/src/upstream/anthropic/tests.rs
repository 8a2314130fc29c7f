//! Bodies of the internal form in Anthropic's words, field by field. Whole conversations are in
//! `tests/golden`.

use std::collections::BTreeSet;

use super::*;
use crate::api::Hints;
use crate::identity::Caller;

/// What a chat body with these fields becomes.
fn sent(more: Value) -> Result<Value, UpstreamError> {
    let mut fields = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
    for (name, value) in more.as_object().unwrap() {
        fields[name] = value.clone();
    }
    let hints = Hints::read(&hyper::HeaderMap::new(), "/", "").unwrap();
    let caller = Caller { id: None, tenant: "t".into(), tags: BTreeSet::new() };
    let request = crate::api::chat::read(fields.to_string().as_bytes(), hints, caller);
    let way = crate::config::Connection::straight(crate::config::Protocol::Anthropic);
    let bytes = body(&request.ok().unwrap().chat, "theirs", &way)?;
    Ok(serde_json::from_slice(&bytes).unwrap())
}

#[test]
fn what_has_no_words_is_turned_away_by_name_and_what_asks_for_nothing_is_not() {
    for (more, param) in [
        (json!({"n": 2}), Some("n")),
        (json!({"n": 1}), None),
        (json!({"logprobs": true}), Some("logprobs")),
        (json!({"logprobs": false}), None),
        (json!({"logit_bias": {"1": 2}}), Some("logit_bias")),
        (json!({"logit_bias": {}}), None),
        (json!({"presence_penalty": 0.5}), Some("presence_penalty")),
        (json!({"presence_penalty": 0}), None),
        (json!({"modalities": ["text", "audio"]}), Some("modalities")),
        (json!({"modalities": ["text"]}), None),
        (json!({"response_format": {"type": "json_object"}}), Some("response_format")),
        (json!({"response_format": {"type": "text"}}), None),
        (json!({"tools": [{"type": "custom", "custom": {"name": "c"}}]}), Some("tools")),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}),
            Some("messages"),
        ),
    ] {
        let got = match sent(more.clone()) {
            Ok(_) => None,
            Err(UpstreamError::Unsupported { param, .. }) => Some(param.into_owned()),
            Err(other) => panic!("{more}: {other}"),
        };
        assert_eq!(got.as_deref(), param, "{more}");
    }
}

#[test]
fn settings_are_said_in_its_words() {
    let tool = json!([{"type": "function", "function": {"name": "f"}}]);
    for (more, name, expected) in [
        (json!({}), "model", json!("theirs")),
        (json!({}), "max_tokens", json!(MAX_TOKENS_DEFAULT)),
        (json!({"max_tokens": 5, "max_completion_tokens": 7}), "max_tokens", json!(7)),
        (json!({"temperature": 2}), "temperature", json!(1.0)),
        (json!({"stop": "x"}), "stop_sequences", json!(["x"])),
        (json!({"user": "somebody"}), "metadata", Value::Null),
        (json!({"reasoning_effort": "minimal"}), "output_config", json!({"effort": "low"})),
        (json!({"reasoning_effort": "none"}), "output_config", Value::Null),
        (json!({"reasoning_effort": "max"}), "output_config", json!({"effort": "max"})),
        (json!({"tool_choice": "none", "tools": tool}), "tool_choice", json!({"type": "none"})),
        (
            json!({"parallel_tool_calls": false, "tools": tool}),
            "tool_choice",
            json!({"type": "auto", "disable_parallel_tool_use": true}),
        ),
        (
            json!({"tools": tool}),
            "tools",
            json!([{"name": "f", "input_schema": {"type": "object", "properties": {}}}]),
        ),
    ] {
        assert_eq!(sent(more.clone()).unwrap()[name], expected, "{more}");
    }
}

#[test]
fn a_result_s_mark_and_the_body_s_are_said_where_they_were() {
    let mark = json!({"type": "ephemeral", "ttl": "1h"});
    let text = |text: &str| json!({"type": "text", "text": text});
    let marked = |text: &str| json!({"type": "text", "text": text, "cache_control": mark});
    for (content, expected) in [
        (json!([text("a"), marked("b")]), json!([text("a"), text("b")])),
        (json!([marked("")]), json!([])),
        (json!([marked("a")]), json!("a")),
    ] {
        let result = json!({"role": "tool", "tool_call_id": "c", "content": content});
        let got = told(json!([result])).unwrap();
        let expected = json!({"type": "tool_result", "tool_use_id": "c", "content": expected,
                              "cache_control": mark});
        assert_eq!(got[0]["content"], json!([expected]));
    }
    assert_eq!(sent(json!({"cache_control": mark})).unwrap()["cache_control"], mark);
}

#[test]
fn servers_of_tools_have_a_field_of_their_own() {
    let server = json!({"type": "url", "name": "s", "url": "https://s.example/mcp"});
    let tools = json!([{"type": "mcp_toolset", "mcp_server_name": "s"}]);
    let mut given = tools.clone();
    given.as_array_mut().unwrap().push(json!({"type": "mcp_server", "server": server}));
    let got = sent(json!({"tools": given})).unwrap();
    assert_eq!((&got["tools"], &got["mcp_servers"]), (&tools, &json!([server])));
    let alone = sent(json!({"tools": [{"type": "mcp_server", "server": server}]})).unwrap();
    assert_eq!((&alone["tools"], &alone["mcp_servers"]), (&Value::Null, &json!([server])));
}

#[test]
fn messages_are_turns_and_what_the_system_says_comes_first() {
    let url = |url: &str| json!({"type": "image_url", "image_url": {"url": url}});
    let messages = json!([
        {"role": "user", "content": [url("data:image/png;base64,AA"), url("https://x.example/1")]},
        {"role": "developer", "content": "be kind"},
        {"role": "user", "content": ""},
        {"role": "user", "content": [{"type": "file", "file": {
            "filename": "a.pdf", "file_data": "data:application/pdf;base64,BB"}}]},
    ]);
    let got = sent(json!({"messages": messages})).unwrap();
    assert_eq!(got["system"], json!([{"type": "text", "text": "be kind"}]));
    let inline =
        |kind: &str, data: &str| json!({"type": "base64", "media_type": kind, "data": data});
    let expected = json!([{"role": "user", "content": [
        {"type": "image", "source": inline("image/png", "AA")},
        {"type": "image", "source": {"type": "url", "url": "https://x.example/1"}},
        {"type": "document", "title": "a.pdf", "source": inline("application/pdf", "BB")}]}]);
    assert_eq!(got["messages"], expected);
}

/// What a history becomes, or which field of it cannot be told.
fn told(messages: Value) -> Result<Value, String> {
    match sent(json!({"messages": messages})) {
        Ok(mut got) => Ok(got["messages"].take()),
        Err(UpstreamError::Unsupported { param, .. }) => Err(param.into_owned()),
        Err(UpstreamError::Invalid { param, .. }) => Err(format!("invalid: {param}")),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn a_turn_of_nothing_is_left_out() {
    let text = |text: &str| json!({"type": "text", "text": text});
    let user = |content: Value| json!({"role": "user", "content": content});
    for nothing in [json!(""), json!(" \n"), json!([]), json!([text("\n\n")]), Value::Null] {
        let messages = json!([
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": nothing},
            {"role": "user", "content": "b"},
        ]);
        assert_eq!(told(messages), Ok(json!([user(json!([text("a"), text("b")]))])), "{nothing}");
    }
    let alone = json!([{"role": "system", "content": "s"}, {"role": "user", "content": ""}]);
    assert_eq!(told(alone), Ok(json!([user(json!([text("s")]))])));
    assert_eq!(told(json!([{"role": "user", "content": ""}])), Err("messages".to_owned()));
}

#[test]
fn what_an_assistant_did_is_told_or_another_upstream_is_asked() {
    let refusal = json!({"role": "assistant", "content": null, "refusal": "no"});
    let expected = json!([{"role": "assistant", "content": [{"type": "text", "text": "no"}]}]);
    assert_eq!(told(json!([refusal])), Ok(expected));
    let call = |call: Value| json!({"role": "assistant", "tool_calls": [call]});
    for (message, place) in [
        (json!({"role": "assistant", "function_call": {"name": "f"}}), "messages[0].function_call"),
        (json!({"role": "assistant", "audio": {"id": "a"}}), "messages[0].audio"),
        (call(json!({"type": "custom", "custom": {"name": "f"}})), "messages[0].tool_calls"),
        (call(json!({"function": {"arguments": "{}"}})), "invalid: messages[0].tool_calls"),
    ] {
        assert_eq!(told(json!([message])), Err(place.to_owned()), "{message}");
    }
}

/// Models write arguments that are none, and OpenAI's server takes a history of them.
#[test]
fn arguments_that_are_no_object_are_another_upstream_s() {
    for (arguments, input) in
        [("", Some(json!({}))), ("{\"a\":1}", Some(json!({"a": 1}))), ("{\"a\"", None), ("1", None)]
    {
        let call = json!([{"id": "c", "function": {"name": "f", "arguments": arguments}}]);
        let got = told(json!([{"role": "assistant", "tool_calls": call}]));
        let got = got.map(|mut messages| messages[0]["content"][0]["input"].take());
        assert_eq!(got, input.ok_or("messages[0].tool_calls".to_owned()), "{arguments}");
    }
}

#[test]
fn thoughts_go_back_to_where_they_stood() {
    let call = |id: &str| json!({"id": id, "function": {"name": "f", "arguments": "{}"}});
    let thought = |signature: &str, parts: u64, calls: u64| {
        json!({"type": "thinking", "thinking": "T", "signature": signature,
               "parts_before": parts, "calls_before": calls})
    };
    let messages = json!([{"role": "assistant", "content": "a", "tool_calls": [call("c1"), call("c2")],
        "thinking_blocks": [{"type": "thinking", "thinking": "T", "signature": "s0"},
            thought("", 0, 0), thought("s1", 1, 0), thought("s2", 1, 1), thought("s3", 9, 9)]}]);
    let got = sent(json!({"messages": messages})).unwrap();
    let kind = |block: &Value| {
        ["signature", "id", "text"].iter().find_map(|it| block[it].as_str()).unwrap().to_owned()
    };
    let content = got["messages"][0]["content"].as_array().unwrap();
    let order: Vec<_> = content.iter().map(kind).collect();
    assert_eq!(order, ["s0", "a", "s1", "c1", "s2", "c2", "s3"]);
    assert_eq!(content[2], json!({"type": "thinking", "thinking": "T", "signature": "s1"}));
}

#[test]
fn thoughts_come_back_with_their_places_where_they_need_them() {
    let thought = |text: &str, signature: &str| json!({"type": "thinking", "thinking": text, "signature": signature});
    let hidden = json!({"type": "redacted_thinking", "data": "d"});
    let text = json!({"type": "text", "text": "abc"});
    let blocks = |content: Value| {
        let said = completion(&json!({"id": "msg_1", "model": "m", "content": content})).unwrap();
        said["choices"][0]["message"]["thinking_blocks"].clone()
    };
    let plain = json!([{"type": "thinking", "signature": "s1"}, hidden]);
    assert_eq!(blocks(json!([thought("T1", "s1"), hidden, text])), plain);
    assert_eq!(blocks(json!([thought("T1", ""), text])), Value::Null);
    let placed = |signature: &str, bytes: u64, content: u64| {
        json!({"type": "thinking", "signature": signature, "bytes": bytes,
               "content_before": content, "calls_before": 0})
    };
    let expected = json!([placed("s1", 2, 0), placed("", 4, 3)]);
    assert_eq!(blocks(json!([thought("T1", "s1"), text, thought("T2é", "")])), expected);
}

#[test]
fn its_words_come_back_as_openais() {
    let message = |stop_reason: &str| {
        completion(&json!({"id": "msg_1", "model": "m", "stop_reason": stop_reason,
            "content": [{"type": "new", "x": 1}, {"type": "text", "text": "a"}],
            "usage": {"input_tokens": 1, "cache_creation_input_tokens": 2, "output_tokens": 3}}))
        .unwrap()
    };
    for (theirs, ours) in [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("tool_use", "tool_calls"),
        ("refusal", "content_filter"),
        ("pause_turn", "stop"),
    ] {
        assert_eq!(message(theirs)["choices"][0]["finish_reason"], ours);
    }
    let expected = json!({"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6,
        "prompt_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 2}});
    assert_eq!(message("end_turn")["usage"], expected);
    assert_eq!(message("end_turn")["choices"][0]["message"]["content"], "a");
    assert!(completion(&json!({"type": "error"})).is_none());
    assert!(error(b"<html>").is_none() && error(b"{\"detail\": 1}").is_none());
}

/// What the chunks of these events say.
fn streamed(events: &[Value]) -> Vec<Value> {
    let event = |event: &Value| format!("data: {event}\n\n");
    let bytes =
        EventReader::default().push(events.iter().map(event).collect::<String>().as_bytes());
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
    let json = data.filter_map(|data| serde_json::from_str::<Value>(data).ok());
    json.map(|mut chunk| chunk["choices"][0]["delta"].take()).collect()
}

#[test]
fn arguments_of_a_streamed_call_are_json_even_if_none_came() {
    let piece = |json: &str| {
        json!({"type": "content_block_delta", "index": 1,
               "delta": {"type": "input_json_delta", "partial_json": json}})
    };
    for (input, pieces, expected) in [
        (json!({}), vec![], "{}"),
        (json!({}), vec![""], "{}"),
        (json!({"a": 1}), vec![], "{\"a\":1}"),
        (json!({"a": 1}), vec!["", "{\"a\"", ":2}"], "{\"a\":2}"),
    ] {
        let block = json!({"type": "tool_use", "id": "c", "name": "f", "input": input});
        let mut events = vec![json!({"type": "content_block_start", "index": 1,
                                     "content_block": block})];
        events.extend(pieces.into_iter().map(piece));
        events.push(json!({"type": "content_block_stop", "index": 1}));
        let said = streamed(&events);
        let arguments = |delta: &Value| {
            delta["tool_calls"][0]["function"]["arguments"].as_str().unwrap().to_owned()
        };
        assert_eq!(said.iter().map(arguments).collect::<String>(), expected, "{events:?}");
    }
}
