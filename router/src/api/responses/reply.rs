//! Replies as OpenAI's responses: the object, and the events that lead to it.
//!
//! The last event of a stream holds the whole response, so a reply is kept while it goes by, up to
//! [`said::HELD_BYTES_MAX`]. A whole reply is put together by the same steps, and its events are thrown away.
//!
//! Source: OpenAI's published API schema (its Python SDK 3.54), as of November 2026.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::api::said::{self, Count, Head, Said};
use crate::api::translation::Fields;
use crate::upstream::sse;

/// Settings of a request that its response repeats, and what they are where it has none.
fn echo(fields: &Fields) -> Map<String, Value> {
    let defaults = json!({
        "instructions": null, "max_output_tokens": null, "max_tool_calls": null, "metadata": {},
        "parallel_tool_calls": true, "prompt_cache_key": null,
        "reasoning": {"effort": null, "summary": null}, "safety_identifier": null,
        "service_tier": "default", "temperature": null, "text": {"format": {"type": "text"}},
        "tool_choice": "auto", "tools": [], "top_logprobs": 0, "top_p": null, "user": null,
    });
    let Value::Object(mut echo) = defaults else { return Map::new() };
    for (name, value) in &mut echo {
        if let Some(given) = fields.get(name).filter(|given| !given.is_null()) {
            *value = given.clone();
        }
    }
    let fixed = [
        ("background", Value::Bool(false)),
        ("previous_response_id", Value::Null),
        ("store", Value::Bool(false)),
        ("truncation", "disabled".into()),
    ];
    echo.extend(fixed.map(|(name, value)| (name.to_owned(), value)));
    echo
}

/// Writes one response.
pub struct ReplyWriter {
    echo: Map<String, Value>,
    customs: BTreeSet<String>,
    by: Head,
    sequence: u64,
    output: Vec<Item>,
    /// The last item is not done.
    open: bool,
    scores: Vec<Value>,
    held_bytes: usize,
    finish: Option<String>,
    failed: Option<Value>,
    count: Option<Count>,
    over: bool,
}

/// One item of the output.
enum Item {
    Thought(String),
    Text { text: String, scores: Vec<Value> },
    Refusal(String),
    Call(Call),
}

struct Call {
    id: String,
    name: String,
    arguments: String,
    /// Its tool takes a text, which is the one argument.
    is_custom: bool,
}

impl ReplyWriter {
    /// For the reply to a body with custom tools of these names.
    pub(in crate::api) fn new(fields: &Fields, customs: BTreeSet<String>) -> ReplyWriter {
        ReplyWriter {
            echo: echo(fields),
            customs,
            by: Head::default(),
            sequence: 0,
            output: Vec::new(),
            open: false,
            scores: Vec::new(),
            held_bytes: 0,
            finish: None,
            failed: None,
            count: None,
            over: false,
        }
    }

    /// A whole reply.
    pub(in crate::api) fn whole(mut self, said: Vec<Said>) -> Value {
        let mut events = Vec::new();
        for said in said {
            self.write(said, &mut events);
            events.clear();
        }
        self.response(self.status())
    }

    /// Writes what an event of the internal form says.
    pub(in crate::api) fn write(&mut self, said: Said, out: &mut Vec<u8>) {
        if self.over {
            return;
        }
        match said {
            Said::Head(by) => self.start(by, out),
            Said::Thought(text) => self.thought(&text, out),
            Said::Logprobs(tokens) => self.scores.extend(tokens),
            Said::Text(text) => self.text(&text, out),
            Said::Refusal(text) => self.refusal(&text, out),
            Said::Call { id, name } => {
                let (is_custom, arguments) = (self.customs.contains(&name), String::new());
                self.begin(Item::Call(Call { id, name, arguments, is_custom }), out);
            }
            Said::Arguments(piece) => self.arguments(&piece, out),
            Said::Finish { reason, .. } => self.finish = Some(reason),
            Said::Usage(count) => self.count = Some(count),
            Said::Failed(error) => {
                self.failed = Some(error);
                self.end(out);
            }
            Said::Done => self.end(out),
            // Only their own provider could read them.
            Said::Signed(_) => {}
        }
        if self.held_bytes > said::HELD_BYTES_MAX && !self.over {
            self.failed = Some(said::too_long());
            self.end(out);
        }
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        self.over = true;
        if let Some(error) = self.failed.clone() {
            let (message, code) = (&error["message"], &error["code"]);
            let event = json!({"message": message, "code": code, "param": null});
            self.event(out, "error", event);
        } else {
            self.close(out);
        }
        let status = self.status();
        let response = self.response(status);
        self.event(out, &format!("response.{status}"), json!({"response": response}));
    }

    fn status(&self) -> &'static str {
        match self.finish.as_deref() {
            _ if self.failed.is_some() => "failed",
            Some("length" | "content_filter") => "incomplete",
            _ => "completed",
        }
    }

    fn response(&self, status: &str) -> Value {
        let incomplete = match self.finish.as_deref() {
            Some("length") => json!({"reason": "max_output_tokens"}),
            Some("content_filter") => json!({"reason": "content_filter"}),
            _ => Value::Null,
        };
        let error = self.failed.as_ref().map(|error| {
            let code = error["code"].as_str().unwrap_or("server_error");
            json!({"code": code, "message": error["message"]})
        });
        let items = self.output.iter().enumerate();
        let last = self.output.len().saturating_sub(1);
        let output: Vec<Value> = items
            .map(|(index, item)| {
                let is_cut = index == last && status != "completed";
                self.item(index, item, if is_cut { "incomplete" } else { "completed" })
            })
            .collect();
        let mut response = self.echo.clone();
        let mut put = |name: &str, value: Value| drop(response.insert(name.to_owned(), value));
        put("id", format!("resp_{}", self.by.id).into());
        put("object", "response".into());
        put("created_at", self.by.created.into());
        put("model", self.by.model.as_str().into());
        put("status", status.into());
        put("error", error.into());
        put("incomplete_details", incomplete);
        put("output", output.into());
        put("usage", self.count.map(usage).into());
        Value::Object(response)
    }

    fn start(&mut self, by: Head, out: &mut Vec<u8>) {
        self.by = by;
        for name in ["response.created", "response.in_progress"] {
            let response = self.response("in_progress");
            self.event(out, name, json!({"response": response}));
        }
    }

    fn thought(&mut self, text: &str, out: &mut Vec<u8>) {
        if !self.last_is(|item| matches!(item, Item::Thought(_))) {
            self.begin(Item::Thought(String::new()), out);
            self.part(out, "added", json!({"type": "reasoning_text", "text": ""}));
        }
        if let Some(Item::Thought(whole)) = self.output.last_mut() {
            whole.push_str(text);
        }
        self.held_bytes += text.len();
        self.of_part(out, "response.reasoning_text.delta", json!({"delta": text}));
    }

    fn text(&mut self, piece: &str, out: &mut Vec<u8>) {
        if !self.last_is(|item| matches!(item, Item::Text { .. })) {
            self.begin(Item::Text { text: String::new(), scores: Vec::new() }, out);
            self.part(out, "added", text_part("", &[]));
        }
        let fresh = std::mem::take(&mut self.scores);
        let delta = json!({"delta": piece, "logprobs": fresh});
        if let Some(Item::Text { text, scores }) = self.output.last_mut() {
            text.push_str(piece);
            // A score takes some hundred bytes.
            self.held_bytes += piece.len() + 256 * fresh.len();
            scores.extend(fresh);
        }
        self.of_part(out, "response.output_text.delta", delta);
    }

    fn refusal(&mut self, text: &str, out: &mut Vec<u8>) {
        if !self.last_is(|item| matches!(item, Item::Refusal(_))) {
            self.begin(Item::Refusal(String::new()), out);
            self.part(out, "added", json!({"type": "refusal", "refusal": ""}));
        }
        if let Some(Item::Refusal(whole)) = self.output.last_mut() {
            whole.push_str(text);
        }
        self.held_bytes += text.len();
        self.of_part(out, "response.refusal.delta", json!({"delta": text}));
    }

    fn arguments(&mut self, piece: &str, out: &mut Vec<u8>) {
        self.held_bytes += piece.len();
        let Some(Item::Call(call)) = self.output.last_mut() else { return };
        call.arguments.push_str(piece);
        // The text of a custom tool is inside its arguments, and is told once they are whole.
        if !call.is_custom {
            self.of_item(out, "response.function_call_arguments.delta", json!({"delta": piece}));
        }
    }

    fn last_is(&self, kind: impl Fn(&Item) -> bool) -> bool {
        self.open && self.output.last().is_some_and(kind)
    }

    fn begin(&mut self, item: Item, out: &mut Vec<u8>) {
        self.close(out);
        self.output.push(item);
        self.open = true;
        self.told(out, "response.output_item.added", "in_progress");
    }

    /// Tells that the last item is done, part by part.
    fn close(&mut self, out: &mut Vec<u8>) {
        if !std::mem::take(&mut self.open) {
            return;
        }
        match self.output.last() {
            Some(Item::Thought(text)) => {
                let (done, part) = (json!({"text": text}), thought_part(text));
                self.of_part(out, "response.reasoning_text.done", done);
                self.part(out, "done", part);
            }
            Some(Item::Text { text, scores }) => {
                let part = text_part(text, scores);
                let done = json!({"text": text, "logprobs": scores});
                self.of_part(out, "response.output_text.done", done);
                self.part(out, "done", part);
            }
            Some(Item::Refusal(text)) => {
                let part = json!({"type": "refusal", "refusal": text});
                self.of_part(out, "response.refusal.done", json!({"refusal": text}));
                self.part(out, "done", part);
            }
            Some(Item::Call(call)) if call.is_custom => {
                let input = call.input();
                let name = "response.custom_tool_call_input";
                self.of_item(out, &format!("{name}.delta"), json!({"delta": input}));
                self.of_item(out, &format!("{name}.done"), json!({"input": input}));
            }
            Some(Item::Call(call)) => {
                let done = json!({"arguments": call.arguments, "name": call.name});
                self.of_item(out, "response.function_call_arguments.done", done);
            }
            None => {}
        }
        self.told(out, "response.output_item.done", "completed");
    }

    /// An event about the last item as a whole.
    fn told(&mut self, out: &mut Vec<u8>, name: &str, status: &str) {
        let index = self.output.len() - 1;
        let mut item = self.item(index, &self.output[index], status);
        if status == "in_progress" && item["content"].is_array() {
            item["content"] = json!([]);
        }
        self.event(out, name, json!({"output_index": index, "item": item}));
    }

    /// An event about the last item's only part.
    fn part(&mut self, out: &mut Vec<u8>, what: &str, part: Value) {
        self.of_part(out, &format!("response.content_part.{what}"), json!({"part": part}));
    }

    fn of_part(&mut self, out: &mut Vec<u8>, name: &str, mut event: Value) {
        event["content_index"] = 0.into();
        self.of_item(out, name, event);
    }

    fn of_item(&mut self, out: &mut Vec<u8>, name: &str, mut event: Value) {
        let index = self.output.len() - 1;
        event["output_index"] = index.into();
        event["item_id"] = self.item_id(index, &self.output[index]).into();
        self.event(out, name, event);
    }

    fn event(&mut self, out: &mut Vec<u8>, name: &str, mut event: Value) {
        event["type"] = name.into();
        event["sequence_number"] = self.sequence.into();
        self.sequence += 1;
        sse::write(out, Some(name), &event);
    }

    fn item_id(&self, index: usize, item: &Item) -> String {
        let prefix = match item {
            Item::Thought(_) => "rs",
            Item::Text { .. } | Item::Refusal(_) => "msg",
            Item::Call(call) if call.is_custom => "ctc",
            Item::Call(_) => "fc",
        };
        format!("{prefix}_{}_{index}", self.by.id)
    }

    fn item(&self, index: usize, item: &Item, status: &str) -> Value {
        let id = self.item_id(index, item);
        let message = |part: Value| {
            json!({
                "type": "message", "id": id, "status": status, "role": "assistant",
                "content": [part],
            })
        };
        match item {
            Item::Thought(text) => json!({
                "type": "reasoning", "id": id, "status": status, "summary": [],
                "content": [thought_part(text)],
            }),
            Item::Text { text, scores } => message(text_part(text, scores)),
            Item::Refusal(text) => message(json!({"type": "refusal", "refusal": text})),
            Item::Call(call) if call.is_custom => json!({
                "type": "custom_tool_call", "id": id, "status": status, "call_id": call.id,
                "name": call.name, "input": call.input(),
            }),
            Item::Call(call) => json!({
                "type": "function_call", "id": id, "status": status, "call_id": call.id,
                "name": call.name, "arguments": call.arguments,
            }),
        }
    }
}

impl Call {
    /// The text of a custom tool.
    fn input(&self) -> String {
        let json: Value = serde_json::from_str(&self.arguments).unwrap_or_default();
        json["input"].as_str().unwrap_or_default().to_owned()
    }
}

fn thought_part(text: &str) -> Value {
    json!({"type": "reasoning_text", "text": text})
}

fn text_part(text: &str, scores: &[Value]) -> Value {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": scores})
}

fn usage(count: Count) -> Value {
    json!({
        "input_tokens": count.prompt,
        "input_tokens_details": {
            "cached_tokens": count.cached, "cache_write_tokens": count.written,
        },
        "output_tokens": count.completion,
        "output_tokens_details": {"reasoning_tokens": count.reasoning},
        "total_tokens": count.prompt + count.completion,
    })
}
