//! Replies as Anthropic writes them: messages, their events, errors, lists of models.
//!
//! A stream tells what the prompt cost only at its end, since that is when the internal form tells it; the
//! SDKs take the last number that they hear. Errors carry the gateway's stable `code` besides what
//! Anthropic's have.
//!
//! Source: Anthropic's published API schema (its Python SDK 2.14), as of November 2026.

use serde_json::{Value, json};

use crate::api::said::{Count, Head, Said};
use crate::upstream::sse;

/// A whole message.
pub(in crate::api) fn whole(said: Vec<Said>) -> Value {
    let mut message = Value::Null;
    let mut blocks = Blocks::default();
    for said in said {
        match said {
            Said::Head(by) => message = head(&by),
            Said::Thought(text) => blocks.add("thinking", "thinking", &text),
            Said::Signed(block) => blocks.signed(block),
            Said::Text(text) | Said::Refusal(text) => blocks.add("text", "text", &text),
            Said::Call { id, name } => blocks.push(tool_use(&id, &name)),
            Said::Arguments(arguments) => blocks.input(&arguments),
            Said::Finish { reason, stop } => {
                message["stop_reason"] = stop_reason(&reason, stop.as_deref()).into();
                message["stop_sequence"] = stop.into();
            }
            Said::Usage(count) => message["usage"] = usage(count),
            Said::Logprobs(_) | Said::Failed(_) | Said::Done => {}
        }
    }
    message["content"] = blocks.list.into();
    message
}

/// Blocks of a message that is put together.
#[derive(Default)]
struct Blocks {
    list: Vec<Value>,
    /// The last one is a thought that was signed: what follows is another.
    is_signed: bool,
}

impl Blocks {
    fn push(&mut self, block: Value) {
        self.list.push(block);
        self.is_signed = false;
    }

    /// The last block if it is of a kind and not yet signed, or a new one.
    fn last(&mut self, kind: &str) -> Option<&mut Value> {
        let goes_on = self.list.last().is_some_and(|block| block["type"] == kind);
        if !goes_on || self.is_signed {
            self.push(block(kind));
        }
        self.list.last_mut()
    }

    /// Adds text to the last block, or begins one.
    fn add(&mut self, kind: &str, field: &str, text: &str) {
        if let Some(block) = self.last(kind) {
            let whole = format!("{}{text}", block[field].as_str().unwrap_or_default());
            block[field] = whole.into();
        }
    }

    /// What the last block calls its tool with.
    fn input(&mut self, arguments: &str) {
        if let (Some(call), Ok(input)) = (self.list.last_mut(), serde_json::from_str(arguments)) {
            call["input"] = input;
        }
    }

    /// A signature goes to the thought that it signs.
    fn signed(&mut self, signed: Value) {
        if signed["type"] != "thinking" {
            return self.push(signed);
        }
        if let Some(thought) = self.last("thinking") {
            thought["signature"] = signed["signature"].clone();
        }
        self.is_signed = true;
    }
}

fn block(kind: &str) -> Value {
    match kind {
        "thinking" => json!({"type": "thinking", "thinking": "", "signature": ""}),
        _ => json!({"type": "text", "text": ""}),
    }
}

fn tool_use(id: &str, name: &str) -> Value {
    json!({"type": "tool_use", "id": id, "name": name, "input": {}})
}

fn head(by: &Head) -> Value {
    json!({
        "id": message_id(&by.id), "type": "message", "role": "assistant", "model": by.model,
        "content": [], "stop_reason": null, "stop_sequence": null,
        "usage": usage(Count::default()),
    })
}

fn message_id(id: &str) -> String {
    if id.starts_with("msg_") { id.to_owned() } else { format!("msg_{id}") }
}

fn stop_reason(reason: &str, stop: Option<&str>) -> &'static str {
    match reason {
        "length" => "max_tokens",
        "tool_calls" | "function_call" => "tool_use",
        "content_filter" => "refusal",
        _ if stop.is_some() => "stop_sequence",
        _ => "end_turn",
    }
}

/// What came from a cache, or was written to one, is counted apart here.
fn usage(count: Count) -> Value {
    json!({
        "input_tokens": count.prompt.saturating_sub(count.cached.saturating_add(count.written)),
        "output_tokens": count.completion,
        "cache_creation_input_tokens": count.written,
        "cache_read_input_tokens": count.cached,
    })
}

/// Writes the events of one reply.
#[derive(Default)]
pub(in crate::api) struct EventWriter {
    /// The block that is open: its index and what it is.
    open: Option<(u64, Block)>,
    blocks: u64,
    finish: Option<(String, Option<String>)>,
    count: Count,
}

#[derive(Clone, Copy, PartialEq)]
enum Block {
    Thinking,
    /// A thought that was signed: what follows is another.
    Signed,
    Text,
    Call,
}

impl EventWriter {
    /// Writes what an event of the internal form says.
    pub(in crate::api) fn write(&mut self, said: Said, out: &mut Vec<u8>) {
        match said {
            Said::Head(by) => event(out, &json!({"type": "message_start", "message": head(&by)})),
            Said::Logprobs(_) => {}
            Said::Thought(text) => {
                let delta = json!({"type": "thinking_delta", "thinking": text});
                self.delta(Block::Thinking, || block("thinking"), delta, out);
            }
            Said::Signed(signed) if signed["type"] == "thinking" => {
                let delta = json!({"type": "signature_delta", "signature": signed["signature"]});
                self.delta(Block::Thinking, || block("thinking"), delta, out);
                self.open = self.open.map(|(index, _)| (index, Block::Signed));
            }
            Said::Signed(signed) => {
                self.close(out);
                self.begin(Block::Signed, &signed, out);
                self.close(out);
            }
            Said::Text(text) | Said::Refusal(text) => {
                let delta = json!({"type": "text_delta", "text": text});
                self.delta(Block::Text, || block("text"), delta, out);
            }
            Said::Call { id, name } => {
                self.close(out);
                self.begin(Block::Call, &tool_use(&id, &name), out);
            }
            Said::Arguments(piece) => {
                let delta = json!({"type": "input_json_delta", "partial_json": piece});
                self.piece(&delta, out);
            }
            Said::Finish { reason, stop } => self.finish = Some((reason, stop)),
            Said::Usage(count) => self.count = count,
            Said::Failed(failed) => {
                let error = error_of(status_of(&failed), &failed);
                event(out, &json!({"type": "error", "error": error}));
            }
            Said::Done => self.end(out),
        }
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        self.close(out);
        let (reason, stop) = self.finish.take().unwrap_or_default();
        let reason = stop_reason(&reason, stop.as_deref());
        let delta = json!({"stop_reason": reason, "stop_sequence": stop});
        let usage = usage(self.count);
        event(out, &json!({"type": "message_delta", "delta": delta, "usage": usage}));
        event(out, &json!({"type": "message_stop"}));
    }

    fn delta(
        &mut self,
        kind: Block,
        begun: impl FnOnce() -> Value,
        delta: Value,
        out: &mut Vec<u8>,
    ) {
        if !self.open.is_some_and(|(_, open)| open == kind) {
            self.close(out);
            self.begin(kind, &begun(), out);
        }
        self.piece(&delta, out);
    }

    /// A piece of the open block.
    fn piece(&mut self, delta: &Value, out: &mut Vec<u8>) {
        let index = self.open.map_or(0, |(index, _)| index);
        event(out, &json!({"type": "content_block_delta", "index": index, "delta": delta}));
    }

    fn begin(&mut self, kind: Block, block: &Value, out: &mut Vec<u8>) {
        let index = self.blocks;
        self.blocks += 1;
        self.open = Some((index, kind));
        let begun = json!({"type": "content_block_start", "index": index, "content_block": block});
        event(out, &begun);
    }

    fn close(&mut self, out: &mut Vec<u8>) {
        if let Some((index, _)) = self.open.take() {
            event(out, &json!({"type": "content_block_stop", "index": index}));
        }
    }
}

/// Every event is named after its type.
fn event(out: &mut Vec<u8>, json: &Value) {
    sse::write(out, json["type"].as_str(), json);
}

/// An error reply, from one in OpenAI's shape.
pub(in crate::api) fn error(status: u16, openai: &Value, request_id: &str) -> Value {
    let error = error_of(status, &openai["error"]);
    json!({"type": "error", "error": error, "request_id": request_id})
}

/// The status that an error would have had, had it come before the reply began.
fn status_of(openai: &Value) -> u16 {
    match openai["type"].as_str() {
        Some("permission_error") => 403,
        Some("rate_limit_error") => 429,
        Some("service_unavailable_error") => 503,
        _ => 500,
    }
}

fn error_of(status: u16, openai: &Value) -> Value {
    let kind = match status {
        400 | 405 | 408 | 422 => "invalid_request_error",
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 => "overloaded_error",
        504 => "timeout_error",
        400..500 => "invalid_request_error",
        _ => "api_error",
    };
    let (message, param) = (&openai["message"], openai["param"].as_str());
    // OpenAI's shape has a field for the field at fault, this one has only words.
    let message = match (message.as_str(), param) {
        (Some(message), Some(param)) if !message.contains(param) => {
            format!("{param}: {message}").into()
        }
        _ => message.clone(),
    };
    let mut error = json!({"type": kind, "message": message});
    if openai["code"].is_string() {
        error["code"] = openai["code"].clone();
    }
    error
}

/// The list of models, or one of them.
pub(in crate::api) fn models(json: &Value) -> Value {
    let Some(list) = json["data"].as_array() else { return model(json) };
    let data: Vec<Value> = list.iter().map(model).collect();
    let id = |model: Option<&Value>| model.map_or(Value::Null, |model| model["id"].clone());
    let (first, last) = (id(data.first()), id(data.last()));
    json!({"data": data, "has_more": false, "first_id": first, "last_id": last})
}

fn model(json: &Value) -> Value {
    json!({
        "type": "model", "id": json["id"], "display_name": json["id"], "lifecycle": "active",
        "created_at": "1970-01-01T00:00:00Z",
    })
}
