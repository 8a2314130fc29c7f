//! Bodies, field by field.

use serde_json::json;

use super::*;

fn fields(value: Value) -> Fields {
    value.as_object().cloned().unwrap()
}

/// A body with one more field, or another value of it.
fn with(name: &str, value: Value) -> Fields {
    let tool = json!({"type": "function", "function": {"name": "clock"}});
    let message = json!({"role": "user", "content": "hi"});
    let mut body = fields(json!({"messages": [message], "tools": [tool]}));
    body.insert(name.to_owned(), value);
    body
}

/// The field that is at fault: `!` before those that another upstream may serve.
fn fault(body: &Fields) -> Option<String> {
    match read(body, Endpoint::Chat) {
        Ok(_) => None,
        Err(UpstreamError::Invalid { param, .. }) => Some(param.into_owned()),
        Err(UpstreamError::Unsupported { param, .. }) => Some(format!("!{param}")),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn every_field_works_or_is_turned_away_by_name() {
    let picture = json!([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]);
    let custom_call = json!([{"role": "assistant", "tool_calls": [{"type": "custom"}]}]);
    let broken_call = json!([{"role": "assistant", "tool_calls": [{"function": {"name": 1}}]}]);
    let tool = |function: Value| json!([{"type": "function", "function": function}]);
    let schema = |schema: Value| json!({"type": "json_schema", "json_schema": {"schema": schema}});
    for (name, value, expected) in [
        ("messages", picture, Some("!messages")),
        ("messages", custom_call, Some("!messages")),
        ("messages", broken_call, Some("messages[0].tool_calls")),
        ("tools", json!([{"type": "web_search"}]), Some("!tools")),
        ("tools", json!([]), None),
        ("tools", json!(7), Some("tools")),
        ("tools", tool(json!({"name": "a b"})), Some("tools[0].function.name")),
        (
            "tools",
            tool(json!({"name": "a", "parameters": 1})),
            Some("tools[0].function.parameters"),
        ),
        ("tools", tool(json!({"name": "a", "strict": 1})), Some("tools[0].function.strict")),
        ("tools", tool(json!({"name": "a.b-c_9", "strict": true, "parameters": {}})), None),
        ("tool_choice", json!("required"), None),
        ("tool_choice", json!("always"), Some("tool_choice")),
        ("tool_choice", json!({"type": "function", "function": {"name": "clock"}}), None),
        (
            "tool_choice",
            json!({"type": "function", "function": {"name": "x"}}),
            Some("tool_choice"),
        ),
        ("parallel_tool_calls", json!(false), None),
        ("parallel_tool_calls", json!("no"), Some("parallel_tool_calls")),
        ("functions", json!([{"name": "x"}]), Some("!functions")),
        ("response_format", json!({"type": "json_object"}), None),
        ("response_format", json!({"type": "text"}), None),
        ("response_format", json!({"type": "yaml"}), Some("response_format")),
        ("response_format", json!("json"), Some("response_format")),
        ("response_format", schema(json!({"type": "object"})), None),
        ("response_format", schema(json!(1)), Some("response_format.json_schema.schema")),
        ("modalities", json!(["text", "audio"]), Some("!modalities")),
        ("web_search_options", json!({}), Some("!web_search_options")),
        ("reasoning_effort", json!("low"), None),
        ("reasoning_effort", json!("max"), None),
        ("reasoning_effort", json!("much"), Some("reasoning_effort")),
        ("enable_thinking", json!(false), None),
        ("chat_template_kwargs", json!({"enable_thinking": true}), None),
        ("chat_template_kwargs", json!({"date": "x"}), Some("!chat_template_kwargs")),
        ("chat_template_kwargs", json!({"enable_thinking": 1}), Some("enable_thinking")),
        ("logprobs", json!(true), None),
        ("logprobs", json!(1), Some("logprobs")),
        ("top_logprobs", json!(3), Some("top_logprobs")),
        ("n", json!(3), None),
        ("n", json!(-1), Some("n")),
        ("temperature", json!("hot"), Some("temperature")),
        ("max_tokens", json!(-1), Some("max_tokens")),
        ("seed", json!("x"), Some("seed")),
        ("stop", json!(3), Some("stop")),
        ("logit_bias", json!({"token": 1}), Some("logit_bias")),
        ("user", json!("somebody"), None),
    ] {
        let got = fault(&with(name, value.clone()));
        assert_eq!(got.as_deref(), expected, "{name}: {value}");
    }
}

#[test]
fn fields_reach_the_engine() {
    let body = fields(json!({
        "messages": [{"role": "developer", "content": [{"type": "text", "text": "a"},
                                                       {"type": "text", "text": "b"}]}],
        "temperature": 0, "seed": -1, "max_tokens": 9, "max_completion_tokens": 5,
        "stop": "x", "logit_bias": {"7": -100}, "n": 2, "logprobs": true, "top_logprobs": 4,
        "reasoning_effort": "none"
    }));
    let Asked { request, choices } = read(&body, Endpoint::Chat).ok().unwrap();
    assert_eq!(request.sampling.temperature, Some(0.0));
    assert_eq!(request.sampling.seed, Some(u64::MAX));
    assert_eq!(request.sampling.logit_bias, [(7, -100.0)]);
    assert_eq!((request.max_tokens, request.stop), (Some(5), vec!["x".to_owned()]));
    assert_eq!((choices, request.logprobs), (2, Some(4)));
    let PromptInput::Chat(chat) = request.prompt else { panic!("not a conversation") };
    assert_eq!((&*chat.messages[0].role, &*chat.messages[0].content), ("system", "a\nb"));
    assert_eq!((chat.thinking, chat.reasoning_effort.as_deref()), (Some(false), Some("none")));
}

#[test]
fn a_legacy_completion_is_bare_text_and_embeddings_are_turned_away() {
    let body = |more: Value| {
        let mut body = fields(json!({"messages": [{"role": "user", "content": "Once upon"}]}));
        body.extend(fields(more));
        body
    };
    let Asked { request, .. } = read(&body(json!({})), Endpoint::Completions).ok().unwrap();
    let PromptInput::Text(text) = request.prompt else { panic!("not a text") };
    assert_eq!(text, "Once upon");
    let ids = json!([{"role": "user", "content": [{"type": "token_ids", "token_ids": [1]}]}]);
    for (more, endpoint, param) in [
        (json!({"echo": true}), Endpoint::Completions, "echo"),
        (json!({"suffix": "end"}), Endpoint::Completions, "suffix"),
        (json!({"best_of": 2}), Endpoint::Completions, "best_of"),
        (json!({"messages": ids}), Endpoint::Completions, "messages"),
        (json!({}), Endpoint::Embeddings, "input"),
    ] {
        match read(&body(more), endpoint) {
            Err(UpstreamError::Unsupported { param: got, .. }) => assert_eq!(got, param),
            _ => panic!("{param} is not turned away"),
        }
    }
}

#[test]
fn thoughts_are_asked_for_in_anthropics_words_too() {
    for (kind, thinks) in [("enabled", Some(true)), ("disabled", Some(false)), ("adaptive", None)] {
        let body = with("thinking", json!({"type": kind}));
        let PromptInput::Chat(chat) = read(&body, Endpoint::Chat).ok().unwrap().request.prompt
        else {
            panic!("not a conversation")
        };
        assert_eq!(chat.thinking, thinks, "{kind}");
    }
}

#[test]
fn calls_and_their_results_reach_the_template() {
    let body = fields(json!({"messages": [
        {"role": "assistant", "content": null, "reasoning_content": "hm", "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "clock", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "c1", "content": "noon"},
        {"role": "assistant", "function_call": {"name": "clock", "arguments": "{\"a\": 1}"}},
        {"role": "function", "name": "clock", "content": "one"}]}));
    let PromptInput::Chat(chat) = read(&body, Endpoint::Chat).ok().unwrap().request.prompt else {
        panic!("not a conversation")
    };
    let [call, result, legacy, old] = &chat.messages[..] else { panic!("four messages") };
    assert_eq!((&*call.tool_calls[0].id, call.reasoning.as_deref()), ("c1", Some("hm")));
    assert_eq!(result.tool_call_id.as_deref(), Some("c1"));
    assert_eq!(&*legacy.tool_calls[0].arguments, "{\"a\": 1}");
    assert_eq!((&*old.role, old.name.as_deref()), ("tool", Some("clock")));
}

#[test]
fn allowed_tools_are_a_choice_among_tools() {
    let tool = |name: &str| json!({"type": "function", "function": {"name": name}});
    let body = fields(json!({
        "messages": [], "tools": [tool("a"), tool("b")],
        "tool_choice": {"type": "allowed_tools",
                        "allowed_tools": {"mode": "required", "tools": [tool("b")]}}}));
    let PromptInput::Chat(chat) = read(&body, Endpoint::Chat).ok().unwrap().request.prompt else {
        panic!("not a conversation")
    };
    assert_eq!(chat.tool_choice, ToolChoice::Required);
    assert_eq!(chat.tools.iter().map(|tool| &*tool.name).collect::<Vec<_>>(), ["b"]);
}
