//! Anthropic's replies as chat completions: whole, as events, and errors.
//!
//! Blocks become what OpenAI has: text is content, thoughts are `reasoning_content`, uses of tools are
//! `tool_calls`. The signatures of thoughts, which the provider wants back with the next turn, ride
//! along as `thinking_blocks` without the thoughts' text, so that each text is there once, where the
//! scan looks for it. Where there are several thoughts, or some behind what was said, the blocks of a whole
//! reply say what of the texts was theirs (`bytes`), and how much of the content and how many calls came
//! before them (`content_before`, `calls_before`). Events of types that are not known are left out; the error event is, too, since the
//! gateway ends a broken stream with an error of its own.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::upstream::sse;

/// A whole reply; `None` if it is not a message.
pub(in crate::upstream) fn completion(message: &Value) -> Option<Value> {
    let blocks = message["content"].as_array()?;
    let (mut content, mut reasoning) = (String::new(), String::new());
    let (mut calls, mut thoughts) = (Vec::new(), Vec::new());
    for block in blocks {
        match block["type"].as_str() {
            Some("text") => content.push_str(block["text"].as_str().unwrap_or_default()),
            Some(kind @ ("thinking" | "redacted_thinking")) => {
                let text = block["thinking"].as_str().filter(|_| kind == "thinking");
                let text = text.unwrap_or_default();
                reasoning.push_str(text);
                thoughts.push(Thought {
                    block,
                    bytes: text.len(),
                    content_before: content.len(),
                    calls_before: calls.len(),
                });
            }
            Some("tool_use") => calls.push(call(None, block, &block["input"].to_string())),
            _ => {}
        }
    }
    let only_calls = content.is_empty() && !calls.is_empty();
    let mut said = json!({"role": "assistant", "refusal": null});
    said["content"] = if only_calls { Value::Null } else { content.into() };
    let mut put = |name: &str, value: Value, is_there: bool| {
        if is_there {
            said[name] = value;
        }
    };
    let signatures = thinking_blocks(&thoughts);
    let (thought, signed, called) =
        (!reasoning.is_empty(), !signatures.is_empty(), !calls.is_empty());
    put("reasoning_content", reasoning.into(), thought);
    put("thinking_blocks", signatures.into(), signed);
    put("tool_calls", calls.into(), called);
    let mut choice = json!({"index": 0, "message": said, "logprobs": null});
    end_choice(&mut choice, message);
    Some(json!({
        "id": message["id"],
        "object": "chat.completion",
        "created": jiff::Timestamp::now().as_second(),
        "model": message["model"],
        "choices": [choice],
        "usage": Counted::default().with(&message["usage"]).usage(),
    }))
}

/// An error reply in OpenAI's shape; `None` if it is not one of Anthropic's.
pub(in crate::upstream) fn error(bytes: &[u8]) -> Option<Bytes> {
    let json: Value = serde_json::from_slice(bytes).ok()?;
    let error = json["error"].as_object()?;
    let field = |name: &str| error.get(name).cloned().unwrap_or_default();
    let (message, kind) = (field("message"), field("type"));
    let error = json!({"message": message, "type": kind, "param": null, "code": null});
    Some(json!({"error": error}).to_string().into())
}

/// A block of thoughts, and where it stood.
struct Thought<'a> {
    block: &'a Value,
    bytes: usize,
    content_before: usize,
    calls_before: usize,
}

/// The blocks without their texts. One thought before everything else needs no place.
fn thinking_blocks(thoughts: &[Thought<'_>]) -> Vec<Value> {
    let is_first = |it: &Thought<'_>| it.content_before + it.calls_before == 0;
    let is_redacted = |it: &Thought<'_>| it.block["type"] == "redacted_thinking";
    if thoughts.iter().all(is_first) && thoughts.iter().skip(1).all(is_redacted) {
        return thoughts.iter().filter_map(Thought::signed).collect();
    }
    thoughts.iter().map(Thought::placed).collect()
}

impl Thought<'_> {
    fn signed(&self) -> Option<Value> {
        match self.block["type"].as_str() {
            Some("thinking") => signature(&self.block["signature"]),
            _ => Some(self.block.clone()),
        }
    }

    fn placed(&self) -> Value {
        let unsigned = || json!({"type": "thinking", "signature": ""});
        let mut placed = self.signed().unwrap_or_else(unsigned);
        placed["bytes"] = self.bytes.into();
        placed["content_before"] = self.content_before.into();
        placed["calls_before"] = self.calls_before.into();
        placed
    }
}

fn signature(signature: &Value) -> Option<Value> {
    let text = signature.as_str().filter(|text| !text.is_empty())?;
    Some(json!({"type": "thinking", "signature": text}))
}

fn call(index: Option<usize>, block: &Value, arguments: &str) -> Value {
    let function = json!({"name": block["name"], "arguments": arguments});
    let mut call = json!({"id": block["id"], "type": "function", "function": function});
    if let Some(index) = index {
        call["index"] = index.into();
    }
    call
}

/// Writes why a choice ended, and which of the client's texts ended it (`stop_reason`, as other servers
/// of this form have it).
fn end_choice(choice: &mut Value, ended: &Value) {
    choice["finish_reason"] = match ended["stop_reason"].as_str() {
        None => Value::Null,
        Some("max_tokens" | "model_context_window_exceeded") => "length".into(),
        Some("tool_use") => "tool_calls".into(),
        Some("refusal") => "content_filter".into(),
        Some(_) => "stop".into(),
    };
    if ended["stop_sequence"].is_string() {
        choice["stop_reason"] = ended["stop_sequence"].clone();
    }
}

/// Tokens as they are told, piece by piece; a later number stands for the whole.
#[derive(Clone, Copy, Default)]
struct Counted {
    input: u64,
    cached: u64,
    written: u64,
    output: u64,
}

impl Counted {
    fn with(mut self, usage: &Value) -> Counted {
        let mut take = |name: &str, into: fn(&mut Counted) -> &mut u64| {
            if let Some(count) = usage[name].as_u64() {
                *into(&mut self) = count;
            }
        };
        take("input_tokens", |c| &mut c.input);
        take("cache_read_input_tokens", |c| &mut c.cached);
        take("cache_creation_input_tokens", |c| &mut c.written);
        take("output_tokens", |c| &mut c.output);
        self
    }

    /// OpenAI counts what came from a cache, or was written to one, as part of the prompt.
    fn usage(self) -> Value {
        let prompt = self.input + self.cached + self.written;
        let mut details = json!({"cached_tokens": self.cached});
        if self.written > 0 {
            details["cache_write_tokens"] = self.written.into();
        }
        json!({
            "prompt_tokens": prompt,
            "completion_tokens": self.output,
            "total_tokens": prompt + self.output,
            "prompt_tokens_details": details,
        })
    }
}

/// Reads a stream.
#[derive(Default)]
pub(in crate::upstream) struct EventReader {
    id: Value,
    model: Value,
    created: i64,
    counted: Counted,
    /// In the order of the calls.
    calls: Vec<Call>,
}

/// A call that is read.
struct Call {
    block: u64,
    /// What its first event says of its arguments.
    input: Value,
    has_arguments: bool,
}

impl EventReader {
    /// Translates whole events.
    pub(in crate::upstream) fn push(&mut self, bytes: &[u8]) -> Bytes {
        let mut out = Vec::with_capacity(bytes.len() + 64);
        for event in sse::events(bytes) {
            let json = sse::data(event).and_then(|data| serde_json::from_str::<Value>(&data).ok());
            if let Some(json) = json {
                self.event(&json, &mut out);
            }
        }
        out.into()
    }

    fn event(&mut self, event: &Value, out: &mut Vec<u8>) {
        match event["type"].as_str() {
            Some("message_start") => {
                let message = &event["message"];
                (self.id, self.model) = (message["id"].clone(), message["model"].clone());
                self.created = jiff::Timestamp::now().as_second();
                self.counted = self.counted.with(&message["usage"]);
                self.delta(out, json!({"role": "assistant", "content": ""}));
            }
            Some("content_block_start") => self.block(event, out),
            Some("content_block_delta") => self.piece(event, out),
            Some("content_block_stop") => self.end_block(event, out),
            Some("message_delta") => {
                self.counted = self.counted.with(&event["usage"]);
                if event["delta"]["stop_reason"].is_string() {
                    let mut choice = json!({"index": 0, "delta": {}});
                    end_choice(&mut choice, &event["delta"]);
                    self.chunk(out, json!([choice]), None);
                }
            }
            Some("message_stop") => {
                self.chunk(out, json!([]), Some(self.counted.usage()));
                out.extend_from_slice(b"data: [DONE]\n\n");
            }
            _ => {}
        }
    }

    fn block(&mut self, event: &Value, out: &mut Vec<u8>) {
        let block = &event["content_block"];
        match block["type"].as_str() {
            Some("tool_use") => {
                let index = self.calls.len();
                let (block_index, input) = (index_of(event), block["input"].clone());
                self.calls.push(Call { block: block_index, input, has_arguments: false });
                self.delta(out, json!({"tool_calls": [call(Some(index), block, "")]}));
            }
            Some("redacted_thinking") => self.delta(out, json!({"thinking_blocks": [block]})),
            Some("text") => self.text(out, "content", &block["text"]),
            _ => {}
        }
    }

    fn piece(&mut self, event: &Value, out: &mut Vec<u8>) {
        let delta = &event["delta"];
        match delta["type"].as_str() {
            Some("text_delta") => self.text(out, "content", &delta["text"]),
            Some("thinking_delta") => self.text(out, "reasoning_content", &delta["thinking"]),
            Some("signature_delta") => {
                if let Some(signed) = signature(&delta["signature"]) {
                    self.delta(out, json!({"thinking_blocks": [signed]}));
                }
            }
            Some("input_json_delta") => {
                let Some(index) = self.call_of(event) else { return };
                let arguments = &delta["partial_json"];
                self.calls[index].has_arguments |= *arguments != "";
                self.arguments(out, index, arguments);
            }
            _ => {}
        }
    }

    /// Arguments that never came in pieces stood in the block's first event, or there are none.
    fn end_block(&self, event: &Value, out: &mut Vec<u8>) {
        let Some(index) = self.call_of(event) else { return };
        let call = &self.calls[index];
        if !call.has_arguments {
            let input = if call.input.is_object() { call.input.to_string() } else { "{}".into() };
            self.arguments(out, index, &input.into());
        }
    }

    /// The call that an event's block is.
    fn call_of(&self, event: &Value) -> Option<usize> {
        self.calls.iter().position(|call| call.block == index_of(event))
    }

    fn arguments(&self, out: &mut Vec<u8>, index: usize, arguments: &Value) {
        let function = json!({"arguments": arguments});
        self.delta(out, json!({"tool_calls": [{"index": index, "function": function}]}));
    }

    fn text(&self, out: &mut Vec<u8>, name: &str, text: &Value) {
        if text.as_str().is_some_and(|text| !text.is_empty()) {
            self.delta(out, Value::Object(Map::from_iter([(name.to_owned(), text.clone())])));
        }
    }

    fn delta(&self, out: &mut Vec<u8>, delta: Value) {
        self.chunk(out, json!([{"index": 0, "delta": delta, "finish_reason": null}]), None);
    }

    fn chunk(&self, out: &mut Vec<u8>, choices: Value, usage: Option<Value>) {
        let mut chunk = json!({
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "choices": choices,
        });
        if let Some(usage) = usage {
            chunk["usage"] = usage;
        }
        sse::write(out, None, &chunk);
    }
}

/// The block that an event is about.
fn index_of(event: &Value) -> u64 {
    event["index"].as_u64().unwrap_or_default()
}
