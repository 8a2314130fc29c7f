//! What a model that repeats what it is told would say, in the protocol that it was asked in: OpenAI's chat,
//! completions and embeddings, Anthropic's messages.

use serde_json::{Value, json};

use super::{chunked, http, stream_head};

/// Characters of an event: so few that a placeholder is cut in the middle.
const PIECE: usize = 3;

/// A protocol, by the last part of its path.
#[derive(Clone, Copy)]
enum Form {
    Chat,
    Completions,
    Embeddings,
    Messages,
}

/// The last text of a request, said back as content or as the arguments of a tool call.
pub(super) fn echo(path: &str, body: &[u8], tool: Option<&str>) -> Vec<u8> {
    let request: Value = serde_json::from_slice(body).unwrap();
    reply(path, &request, &asked(&request), tool)
}

/// These words, whatever was asked.
pub(super) fn say(path: &str, body: &[u8], words: &str) -> Vec<u8> {
    reply(path, &serde_json::from_slice(body).unwrap(), words, None)
}

fn reply(path: &str, request: &Value, words: &str, tool: Option<&str>) -> Vec<u8> {
    let form = match path.rsplit('/').next().unwrap() {
        "messages" => Form::Messages,
        "embeddings" => Form::Embeddings,
        "completions" if !path.ends_with("/chat/completions") => Form::Completions,
        _ => Form::Chat,
    };
    let text = match tool {
        Some(_) => json!({"to": words}).to_string(),
        None => words.to_owned(),
    };
    match request["stream"] == true {
        true => stream(&events(form, &text, tool)),
        false => {
            http("200 OK", "application/json", whole(form, &text, tool).to_string().as_bytes())
        }
    }
}

/// The last text of a request.
fn asked(request: &Value) -> String {
    let last = |list: &Value| list.as_array().and_then(|list| list.last()).cloned();
    let content = match last(&request["messages"]) {
        Some(message) => message["content"].clone(),
        None if request["prompt"].is_null() => request["input"].clone(),
        None => request["prompt"].clone(),
    };
    match last(&content) {
        Some(Value::String(text)) => text,
        Some(part) => part["text"].as_str().unwrap().to_owned(),
        None => content.as_str().unwrap().to_owned(),
    }
}

/// A whole message or a piece of one, as OpenAI's chat has it.
fn part(text: &str, tool: Option<&str>) -> Value {
    match tool {
        Some(name) => json!({"tool_calls": [{
            "index": 0, "id": "call_1", "type": "function",
            "function": {"name": name, "arguments": text}}]}),
        None => json!({"content": text}),
    }
}

fn whole(form: Form, text: &str, tool: Option<&str>) -> Value {
    match form {
        Form::Chat => {
            let choice = json!({"index": 0, "finish_reason": "stop", "message": part(text, tool)});
            json!({"object": "chat.completion", "choices": [choice]})
        }
        Form::Completions => {
            let choice = json!({"index": 0, "finish_reason": "stop", "text": text});
            json!({"object": "text_completion", "choices": [choice]})
        }
        Form::Embeddings => {
            let vector = json!({"object": "embedding", "index": 0, "embedding": [0.5]});
            json!({"object": "list", "model": "m", "data": [vector],
                   "usage": {"prompt_tokens": 1, "total_tokens": 1}})
        }
        Form::Messages => json!({
            "id": "msg_1", "type": "message", "role": "assistant", "model": "m",
            "content": [{"type": "text", "text": text}], "stop_reason": "end_turn",
            "stop_sequence": null, "usage": {"input_tokens": 1, "output_tokens": 1},
        }),
    }
}

/// The data of the events of a streamed reply.
fn events(form: Form, text: &str, tool: Option<&str>) -> Vec<Value> {
    let letters: Vec<char> = text.chars().collect();
    let pieces = letters.chunks(PIECE).map(|piece| piece.iter().collect::<String>());
    if matches!(form, Form::Messages) {
        let message = json!({"id": "msg_1", "type": "message", "role": "assistant", "model": "m",
            "content": [], "stop_reason": null, "usage": {"input_tokens": 1, "output_tokens": 1}});
        let block = json!({"type": "text", "text": ""});
        let delta = |text: String| {
            json!({"type": "content_block_delta", "index": 0,
                   "delta": {"type": "text_delta", "text": text}})
        };
        let start = [
            json!({"type": "message_start", "message": message}),
            json!({"type": "content_block_start", "index": 0, "content_block": block}),
        ];
        let end = [
            json!({"type": "content_block_stop", "index": 0}),
            json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"},
                   "usage": {"output_tokens": 1}}),
            json!({"type": "message_stop"}),
        ];
        return start.into_iter().chain(pieces.map(delta)).chain(end).collect();
    }
    let choice = |text: Option<String>| {
        let mut choice = json!({"index": 0, "finish_reason": text.is_none().then_some("stop")});
        match form {
            Form::Completions => choice["text"] = json!(text.unwrap_or_default()),
            _ => choice["delta"] = text.map_or(json!({}), |text| part(&text, tool)),
        }
        json!({"choices": [choice]})
    };
    pieces.map(Some).chain([None]).map(choice).collect()
}

fn stream(events: &[Value]) -> Vec<u8> {
    let of_anthropic = |data: &Value| data["type"].as_str().map(str::to_owned);
    let event = |data: &Value| match of_anthropic(data) {
        Some(kind) => chunked(format!("event: {kind}\ndata: {data}\n\n").as_bytes()),
        None => chunked(format!("data: {data}\n\n").as_bytes()),
    };
    let mut body: Vec<u8> = events.iter().flat_map(event).collect();
    if events.iter().all(|data| of_anthropic(data).is_none()) {
        body.extend(chunked(b"data: [DONE]\n\n"));
    }
    [stream_head(), body, b"0\r\n\r\n".to_vec()].concat()
}
