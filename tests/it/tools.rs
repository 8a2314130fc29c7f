//! Tools, forms, choices and scores of the embedded engine, on the wire as OpenAI has them. The shipped
//! model was never trained to call tools or to write JSON: that it does is by construction.

use serde_json::{Value, json};

use crate::gateway::{Gateway, Reply, with_upstreams};

fn weather(strict: bool) -> Value {
    json!({"type": "function", "function": {
        "name": "get_weather", "description": "Weather of a city", "strict": strict,
        "parameters": {"type": "object", "required": ["city", "unit"], "additionalProperties": false,
            "properties": {"city": {"type": "string", "maxLength": 12},
                           "unit": {"enum": ["celsius", "fahrenheit"]}}}}})
}

fn ask(more: Value) -> Value {
    let mut body = json!({"model": "nano", "seed": 5, "messages": [
        {"role": "user", "content": "What is the weather in Paris?"}]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

async fn edge() -> Gateway {
    Gateway::start(&with_upstreams("")).await
}

/// The pieces of a streamed reply's calls, put together as SDKs do: id, name, arguments.
fn streamed_calls(reply: &Reply) -> Vec<(String, String, String)> {
    let mut calls: Vec<(String, String, String)> = Vec::new();
    for event in reply.events() {
        for piece in event["choices"][0]["delta"]["tool_calls"].as_array().into_iter().flatten() {
            let index = usize::try_from(piece["index"].as_u64().unwrap()).unwrap();
            if let Some(id) = piece["id"].as_str() {
                assert_eq!((index, &piece["type"]), (calls.len(), &json!("function")));
                let name = piece["function"]["name"].as_str().unwrap().to_owned();
                calls.push((id.to_owned(), name, String::new()));
            }
            calls[index].2 += piece["function"]["arguments"].as_str().unwrap();
        }
    }
    calls
}

fn reason(reply: &Reply) -> Value {
    let ends = reply.events().into_iter().map(|event| event["choices"][0]["finish_reason"].clone());
    ends.into_iter().find(|reason| !reason.is_null()).unwrap_or_default()
}

#[tokio::test]
async fn a_tool_is_called_and_its_result_answered() {
    let gateway = edge().await;
    let choice = json!({"type": "function", "function": {"name": "get_weather"}});
    let call = json!({"tools": [weather(true)], "tool_choice": choice, "max_tokens": 120});
    let reply = gateway.chat(ask(call.clone())).await;
    reply.came_from("edge", 200);
    let said = reply.json()["choices"][0].clone();
    assert_eq!(
        (&said["finish_reason"], &said["message"]["content"]),
        (&json!("tool_calls"), &Value::Null)
    );
    let made = &said["message"]["tool_calls"][0];
    assert_eq!(made["function"]["name"], "get_weather");
    let arguments: Value =
        serde_json::from_str(made["function"]["arguments"].as_str().unwrap()).unwrap();
    assert!(arguments["city"].is_string());
    assert!(arguments["unit"] == "celsius" || arguments["unit"] == "fahrenheit");

    let mut streamed = ask(call);
    streamed["stream"] = json!(true);
    let events = gateway.chat(streamed).await;
    let calls = streamed_calls(&events);
    assert_eq!(calls.len(), 1);
    assert_eq!(calls[0].1, "get_weather");
    assert_eq!(json!(calls[0].2), made["function"]["arguments"], "the same seed, streamed or not");
    assert_eq!(reason(&events), "tool_calls");

    let mut answer = ask(json!({"tools": [weather(true)], "max_tokens": 24}));
    let turns = answer["messages"].as_array_mut().unwrap();
    turns.push(said["message"].clone());
    turns.push(json!({"role": "tool", "tool_call_id": made["id"], "content": "Sunny, 21 degrees"}));
    let reply = gateway.chat(answer).await;
    reply.came_from("edge", 200);
    let choice = &reply.json()["choices"][0];
    assert!(choice["message"]["content"].is_string() || choice["message"]["tool_calls"].is_array());
}

#[tokio::test]
async fn json_follows_its_schema_also_when_it_is_cut_short() {
    let gateway = edge().await;
    let schema = json!({"type": "object", "additionalProperties": false,
        "required": ["title", "scores", "author"], "properties": {
            "title": {"type": "string"},
            "scores": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 9}},
            "author": {"type": "object", "required": ["name"], "additionalProperties": false,
                       "properties": {"name": {"type": "string"}}}}});
    let format = json!({"type": "json_schema", "json_schema": {
        "name": "book", "strict": true, "schema": schema}});
    for (max_tokens, temperature) in [(40, 0.0), (60, 1.5), (200, 1.0)] {
        let reply = gateway
            .chat(ask(json!({"response_format": format, "max_tokens": max_tokens,
                             "temperature": temperature})))
            .await;
        reply.came_from("edge", 200);
        let value: Value = serde_json::from_str(&reply.content()).expect("JSON");
        assert!(value["title"].is_string() && value["author"]["name"].is_string(), "{value}");
        let scores = value["scores"].as_array().unwrap();
        assert!(scores.iter().all(|s| (0..=9).contains(&s.as_i64().unwrap())), "{value}");
        let used = reply.json()["usage"]["completion_tokens"].as_u64().unwrap();
        assert!(used <= max_tokens, "{used}");
    }
    let object = json!({"response_format": {"type": "json_object"}, "max_tokens": 30});
    let value: Value = serde_json::from_str(&gateway.chat(ask(object)).await.content()).unwrap();
    assert!(value.is_object());
}

#[tokio::test]
async fn what_cannot_be_served_is_refused_by_name() {
    let gateway = edge().await;
    let schema = json!({"type": "object", "properties": {"a": {"not": {"type": "null"}}}});
    let format = json!({"type": "json_schema", "json_schema": {
        "name": "x", "strict": true, "schema": schema}});
    for (more, param, words) in [
        (json!({"response_format": format}), "response_format.json_schema.schema", "\"not\""),
        (json!({"n": 99}), "n", "from 1 to 16"),
        (json!({"logprobs": true, "top_logprobs": 21}), "top_logprobs", "at most 20"),
        (json!({"tool_choice": "required"}), "tool_choice", "tools"),
        (json!({"temperature": 9}), "temperature", "from 0 to 2"),
        (json!({"functions": [{"name": "f"}]}), "functions", "\"tools\""),
    ] {
        let reply = gateway.chat(ask(more)).await;
        assert_eq!(reply.status.as_u16(), 400, "{}", reply.text());
        let error = &reply.json()["error"];
        assert_eq!(error["param"], param, "{error}");
        assert!(error["message"].as_str().unwrap().contains(words), "{error}");
    }
}

#[tokio::test]
async fn several_choices_come_from_one_prompt() {
    let gateway = edge().await;
    let asked = json!({"n": 3, "max_tokens": 12, "temperature": 1.2});
    let reply = gateway.chat(ask(asked.clone())).await;
    let json = reply.json();
    let texts: Vec<&str> = (0..3)
        .map(|index| {
            assert_eq!(json["choices"][index]["index"], index);
            json["choices"][index]["message"]["content"].as_str().unwrap()
        })
        .collect();
    assert!(texts[0] != texts[1] || texts[1] != texts[2], "each has a seed of its own");
    let alone = gateway.chat(ask(json!({"max_tokens": 12, "temperature": 1.2}))).await;
    assert_eq!(alone.content(), texts[0], "the first is the one that comes alone");
    assert_eq!(alone.json()["usage"]["prompt_tokens"], json["usage"]["prompt_tokens"]);
    assert!(json["usage"]["completion_tokens"].as_u64().unwrap() > 12);

    let mut streamed = ask(asked);
    streamed["stream"] = json!(true);
    let events = gateway.chat(streamed).await.events();
    let mut heard = vec![String::new(); 3];
    for choice in events.iter().filter_map(|event| event["choices"].get(0)) {
        let index = usize::try_from(choice["index"].as_u64().unwrap()).unwrap();
        heard[index] += choice["delta"]["content"].as_str().unwrap_or_default();
    }
    assert_eq!(heard, texts);
    assert_eq!(events.last(), Some(&json!("[DONE]")));
}

#[tokio::test]
async fn scores_spell_the_text() {
    let gateway = edge().await;
    let asked = json!({"logprobs": true, "top_logprobs": 3, "max_tokens": 10, "temperature": 0,
                       "repetition_penalty": 1});
    let reply = gateway.chat(ask(asked.clone())).await;
    let scores = reply.json()["choices"][0]["logprobs"]["content"].as_array().unwrap().clone();
    let spelled = |tokens: &[Value]| {
        let bytes = tokens.iter().flat_map(|token| token["bytes"].as_array().unwrap());
        String::from_utf8(bytes.map(|b| u8::try_from(b.as_u64().unwrap()).unwrap()).collect())
            .unwrap()
    };
    assert_eq!(spelled(&scores), reply.content());
    for token in &scores {
        let top = token["top_logprobs"].as_array().unwrap();
        assert_eq!(
            (top.len(), &top[0]["token"]),
            (3, &token["token"]),
            "greedy takes the likeliest"
        );
        let logprobs: Vec<f64> = top.iter().map(|t| t["logprob"].as_f64().unwrap()).collect();
        assert!(logprobs.is_sorted_by(|a, b| a >= b) && logprobs[0] <= 0.0, "{logprobs:?}");
    }
    let mut streamed = ask(asked);
    streamed["stream"] = json!(true);
    let events = gateway.chat(streamed).await.events();
    let tokens: Vec<Value> = events
        .iter()
        .filter_map(|event| event["choices"][0]["logprobs"]["content"].as_array())
        .flatten()
        .cloned()
        .collect();
    assert_eq!(tokens, scores);
}

/// Qwen's form of tools and thoughts, in few lines.
const XML_TEMPLATE: &str = "{% if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool | tojson }}\n\
    {% endfor %}<tool_call>\n<function=NAME>\n<parameter=KEY>\nVALUE\n</parameter>\n</function>\n\
    </tool_call><|im_end|>\n{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}\
    <|im_end|>\n{% endfor %}<|im_start|>assistant\n\
    {% if enable_thinking is not defined or enable_thinking %}<think>\n{% endif %}";

/// An edge whose model is the shipped one, with another template beside it.
async fn edge_with(template: &str) -> Gateway {
    let folder = tempfile::tempdir().unwrap();
    let config = with_upstreams("");
    let (before, rest) = config.split_once("model: \"").unwrap();
    let (model, after) = rest.split_once('"').unwrap();
    let own = folder.path().join("model");
    std::fs::create_dir(&own).unwrap();
    for entry in std::fs::read_dir(model).unwrap() {
        let path = entry.unwrap().path().canonicalize().unwrap();
        std::os::unix::fs::symlink(&path, own.join(path.file_name().unwrap())).unwrap();
    }
    std::fs::write(own.join("chat_template.jinja"), template).unwrap();
    let config = format!("{before}model: \"$FOLDER/model\"{after}");
    Gateway::start_in(folder, &config).await
}

/// What the deltas of a streamed reply say in a field, one after another.
fn streamed(reply: &Reply, field: &str) -> String {
    let events = reply.events();
    let pieces = events.iter().filter_map(|e| e["choices"][0]["delta"][field].as_str());
    pieces.collect()
}

#[tokio::test]
async fn thoughts_text_and_calls_in_xml_form_come_as_deltas_of_their_own() {
    let gateway = edge_with(XML_TEMPLATE).await;
    // In this form a text has no length that could be kept.
    let mut tool = weather(true);
    tool["function"]["parameters"]["properties"]["city"] = json!({"type": "string"});
    let call = json!({"tools": [tool], "tool_choice": "required", "stream": true,
                      "parallel_tool_calls": false, "max_tokens": 200});
    let reply = gateway.chat(ask(call)).await;
    reply.came_from("edge", 200);
    let (thoughts, calls) = (streamed(&reply, "reasoning_content"), streamed_calls(&reply));
    assert!(!thoughts.trim().is_empty(), "the template opened them");
    assert_eq!((calls.len(), calls[0].1.as_str()), (1, "get_weather"));
    let arguments: Value = serde_json::from_str(&calls[0].2).unwrap();
    assert!(arguments["city"].is_string(), "{arguments}");
    assert!(arguments["unit"] == "celsius" || arguments["unit"] == "fahrenheit", "{arguments}");
    assert_eq!(streamed(&reply, "content").trim(), "");
    for mark in ["<think>", "</think>", "<tool_call>", "<function=", "<parameter="] {
        assert!(!reply.text().contains(mark), "{mark} is markup");
    }
    // Thoughts come before the call.
    let first = |field: &str| {
        let has = |event: &Value| !event["choices"][0]["delta"][field].is_null();
        reply.events().iter().position(has)
    };
    assert!(first("reasoning_content") < first("tool_calls"));

    let plain = json!({"enable_thinking": false, "stream": true, "max_tokens": 12});
    let reply = gateway.chat(ask(plain)).await;
    reply.came_from("edge", 200);
    assert!(!streamed(&reply, "content").is_empty());
    assert_eq!(streamed(&reply, "reasoning_content"), "");
    assert_eq!(streamed_calls(&reply), []);
}
