//! What a reply in the internal form says, step by step, for the dialects that say it in other words.
//!
//! A whole reply and a stream of events are read into the same steps, so a dialect is written once. Only
//! the first choice is read: the dialects that use this have no others.
//!
//! Servers leave out what OpenAI's always say: who answers, why a reply ends. A [`Reader`] makes up for it,
//! so that the writers need not. Inside: `order` (one call after another),
//! `thoughts` (where they stood).
//!
//! Invariants: the first step is the head, and there is one; the last is `Done`, behind a `Finish`, or
//! `Failed`.

mod order;
mod thoughts;

use serde_json::{Value, json};

use crate::upstream::sse;
use order::{Order, Piece};

/// Longest part of a reply that is held until another part is whole, bytes; whole replies have the same
/// limit.
pub(super) const HELD_BYTES_MAX: usize = 32 << 20;

/// One step of a reply.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Said {
    /// Who answers.
    Head(Head),
    /// A piece of a thought.
    Thought(String),
    /// A thought's signature, or a thought that is encrypted.
    Signed(Value),
    /// A piece of the text.
    Text(String),
    /// A piece of the reason for saying nothing.
    Refusal(String),
    /// Log probabilities of the piece of text that follows.
    Logprobs(Vec<Value>),
    /// A call begins; its arguments follow at once.
    Call { id: String, name: String },
    /// A piece of the arguments of the call that was said last.
    Arguments(String),
    /// Why the reply ends, and the client's text that ended it.
    Finish { reason: String, stop: Option<String> },
    /// What was counted.
    Usage(Count),
    /// The reply broke off: an error in OpenAI's shape.
    Failed(Value),
    /// Nothing follows.
    Done,
}

/// Tokens as the upstream counted them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) prompt: u64,
    /// Of the prompt, what came from a cache.
    pub(super) cached: u64,
    /// Of the prompt, what was written to a cache.
    pub(super) written: u64,
    pub(super) completion: u64,
    pub(super) reasoning: u64,
}

/// Reads one reply.
pub(super) struct Reader {
    /// Who answers, as far as the upstream does not say; `None` once it was said.
    head: Option<Head>,
    id: String,
    order: Order,
    finished: bool,
    over: bool,
    said: Vec<Said>,
}

/// Who answers.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Head {
    pub(super) id: String,
    pub(super) model: String,
    pub(super) created: i64,
}

impl Reader {
    /// For a reply by whom `head` names, unless the reply itself names somebody.
    pub(super) fn new(head: Head) -> Reader {
        Reader {
            head: Some(head),
            id: String::new(),
            order: Order::default(),
            finished: false,
            over: false,
            said: Vec::new(),
        }
    }

    /// A whole chat completion. It came whole, so it ended in order.
    pub(super) fn whole(mut self, json: &Value) -> Vec<Said> {
        self.read(json, "message");
        self.finish();
        self.done();
        self.said
    }

    /// One event of a stream.
    pub(super) fn event(&mut self, event: &[u8]) -> Vec<Said> {
        match sse::data(event).as_deref() {
            None => {}
            Some("[DONE]") => {
                // Who says that all is said has said something.
                if self.head.is_none() {
                    self.finish();
                }
                self.done();
            }
            Some(data) => {
                if let Ok(json) = serde_json::from_str::<Value>(data) {
                    self.read(&json, "delta");
                }
            }
        }
        std::mem::take(&mut self.said)
    }

    /// The stream is over, whether or not it said so.
    pub(super) fn end(&mut self) -> Vec<Said> {
        self.done();
        std::mem::take(&mut self.said)
    }

    fn read(&mut self, json: &Value, part: &str) {
        if json["error"].is_object() {
            return self.fail(json["error"].clone());
        }
        self.name(json);
        let choices = json["choices"].as_array().map(Vec::as_slice).unwrap_or_default();
        let first = choices.iter().find(|choice| choice["index"].as_u64().unwrap_or(0) == 0);
        if let Some(choice) = first {
            self.choice(choice, part);
        }
        if json["usage"].is_object() {
            self.tell(Said::Usage(count(&json["usage"])));
        }
    }

    /// Learns who answers. Some servers begin with events that name nobody, and some name nobody at all.
    fn name(&mut self, json: &Value) {
        let Some(head) = &mut self.head else { return };
        if let Some(model) = filled(&json["model"]) {
            head.model = model;
        }
        if let Some(created) = json["created"].as_i64().filter(|created| *created > 0) {
            head.created = created;
        }
        if let Some(id) = filled(&json["id"]) {
            head.id = id.strip_prefix("chatcmpl-").unwrap_or(&id).to_owned();
            self.begin();
        }
    }

    fn begin(&mut self) {
        if let Some(head) = self.head.take() {
            self.id.clone_from(&head.id);
            self.said.push(Said::Head(head));
        }
    }

    /// Says something at once.
    fn tell(&mut self, said: Said) {
        if !self.over {
            self.begin();
            self.said.push(said);
        }
    }

    /// Says something in its turn.
    fn say(&mut self, said: Said) {
        self.in_turn(|order, _, out| order.push(said, out));
    }

    fn in_turn(&mut self, say: impl FnOnce(&mut Order, &str, &mut Vec<Said>)) {
        if self.over {
            return;
        }
        self.begin();
        say(&mut self.order, &self.id, &mut self.said);
        if self.order.held_bytes() > HELD_BYTES_MAX {
            self.fail(too_long());
        }
    }

    fn fail(&mut self, error: Value) {
        self.tell(Said::Failed(error));
        self.over = true;
    }

    /// A reply that ends without a reason came to its end.
    fn finish(&mut self) {
        if !self.finished {
            self.end_with("stop", None);
        }
    }

    fn end_with(&mut self, reason: &str, stop: Option<String>) {
        self.finished = true;
        self.in_turn(|order, _, out| order.finish(out));
        // OpenAI's servers say `stop` of a call that was forced.
        let (reason, stop) = match reason {
            "stop" if self.order.has_calls() => ("tool_calls", None),
            reason => (reason, stop),
        };
        self.tell(Said::Finish { reason: reason.to_owned(), stop });
    }

    fn done(&mut self) {
        if !self.finished {
            return self.fail(broke_off());
        }
        self.tell(Said::Done);
        self.over = true;
    }

    fn choice(&mut self, choice: &Value, part: &str) {
        let from = &choice[part];
        let piece = |name: &str| filled(&from[name]);
        let (content, in_parts) = said_in(&from["content"]);
        let thought = piece("reasoning_content").or_else(|| piece("reasoning"));
        let thought = thought.unwrap_or(in_parts);
        let calls = from["tool_calls"].as_array().into_iter().flatten().enumerate();
        // Those of a whole reply are whole: each stands for itself.
        let index = |call: &Value| call["index"].as_u64().filter(|_| part == "delta");
        let mut calls =
            calls.map(|(place, call)| piece_of(call, index(call).unwrap_or(place as u64)));
        let mut text: &str = &content;
        match thoughts::placed(&from["thinking_blocks"], &thought, text) {
            Some((placed, rest)) => {
                for block in placed {
                    self.text(block.text_before);
                    calls.by_ref().take(block.calls_before).for_each(|call| self.call(call));
                    self.thought(block.thought);
                    self.say(Said::Signed(block.block));
                }
                text = rest;
            }
            None => {
                self.thought(&thought);
                self.signed(&from["thinking_blocks"]);
            }
        }
        if let Some(tokens) = choice["logprobs"]["content"].as_array() {
            self.say(Said::Logprobs(tokens.clone()));
        }
        self.text(text);
        if let Some(refusal) = piece("refusal") {
            self.say(Said::Refusal(refusal));
        }
        calls.for_each(|call| self.call(call));
        if let Some(reason) = filled(&choice["finish_reason"]) {
            self.end_with(&reason, filled(&choice["stop_reason"]));
        }
    }

    fn thought(&mut self, text: &str) {
        if !text.is_empty() {
            self.say(Said::Thought(text.to_owned()));
        }
    }

    /// Signatures of what was thought. Where a block is for another text than was thought, or is a piece
    /// of one, as other servers tell their thoughts, there is none.
    fn signed(&mut self, blocks: &Value) {
        for block in blocks.as_array().into_iter().flatten() {
            let is_signature = filled(&block["signature"]).is_some() && block["bytes"].is_null();
            if block["type"] != "thinking" || is_signature {
                self.say(Said::Signed(thoughts::without_place(block)));
            }
        }
    }

    fn text(&mut self, text: &str) {
        if !text.is_empty() {
            self.say(Said::Text(text.to_owned()));
        }
    }

    fn call(&mut self, piece: Piece) {
        self.in_turn(|order, reply_id, out| order.call(piece, reply_id, out));
    }
}

/// A call of a reply, or a piece of one.
fn piece_of(call: &Value, index: u64) -> Piece {
    let function = &call["function"];
    Piece {
        index,
        id: filled(&call["id"]),
        name: filled(&function["name"]),
        arguments: filled(&function["arguments"]).unwrap_or_default(),
    }
}

/// A text that is there and is not empty.
fn filled(value: &Value) -> Option<String> {
    value.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}

fn count(usage: &Value) -> Count {
    let number = |value: &Value| value.as_u64().unwrap_or_default();
    Count {
        prompt: number(&usage["prompt_tokens"]),
        cached: number(&usage["prompt_tokens_details"]["cached_tokens"]),
        written: number(&usage["prompt_tokens_details"]["cache_write_tokens"]),
        completion: number(&usage["completion_tokens"]),
        reasoning: number(&usage["completion_tokens_details"]["reasoning_tokens"]),
    }
}

/// The error that ends a stream which ended without a word.
fn broke_off() -> Value {
    json!({
        "message": "failed to finish the answer: the upstream broke off",
        "type": "server_error", "param": null, "code": "upstream_broke_off",
    })
}

/// The error that ends a stream of which too much would have to be kept.
pub(super) fn too_long() -> Value {
    json!({
        "message": "failed to finish the answer: it is too long to be kept",
        "type": "server_error", "param": null, "code": "reply_too_long",
    })
}

/// What a content says, and what is thought in it: some servers (Mistral's) write it in parts, as clients do.
pub(super) fn said_in(content: &Value) -> (String, String) {
    let (mut said, mut thought) = (String::new(), String::new());
    match content {
        Value::String(text) => said.push_str(text),
        Value::Array(parts) => {
            for part in parts {
                said.push_str(part["text"].as_str().unwrap_or_default());
                thought.push_str(&said_in(&part["thinking"]).0);
            }
        }
        _ => {}
    }
    (said, thought)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::reader;

    fn whole(json: &Value) -> Vec<Said> {
        reader().whole(json)
    }

    /// What a stream of these events says, to its end.
    fn streamed(events: &[&str]) -> Vec<Said> {
        let mut reader = reader();
        let event = |event: &&str| reader.event(format!("data: {event}\n\n").as_bytes());
        let mut said: Vec<Said> = events.iter().flat_map(event).collect();
        said.extend(reader.end());
        said
    }

    fn head(id: &str, model: &str, created: i64) -> Said {
        Said::Head(Head { id: id.into(), model: model.into(), created })
    }

    fn ends(reason: &str) -> Said {
        Said::Finish { reason: reason.into(), stop: None }
    }

    #[test]
    fn a_whole_reply_and_its_events_say_the_same() {
        let whole_reply = json!({"id": "chatcmpl-1", "model": "m", "created": 7, "choices": [
            {"index": 0, "finish_reason": "tool_calls", "message": {
                "reasoning_content": "hm", "content": "Hi", "tool_calls": [
                    {"id": "c", "function": {"name": "f", "arguments": "{}"}}]}}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 2}});
        let mut chunk = whole_reply.clone();
        let choice = &mut chunk["choices"][0];
        choice["delta"] = choice["message"].take();
        assert_eq!(streamed(&[&chunk.to_string()]), whole(&whole_reply));
        assert_eq!(whole(&whole_reply)[0], head("1", "m", 7));
        assert_eq!(whole(&whole_reply).len(), 8);
    }

    #[test]
    fn other_choices_and_comments_say_nothing_and_an_error_says_itself() {
        let other = r#"{"choices": [{"index": 1, "delta": {"content": "x"}}]}"#;
        assert_eq!(reader().event(b": ping\n\n"), []);
        assert_eq!(reader().event(format!("data: {other}\n\n").as_bytes()), []);
        let failed = Said::Failed(json!({"message": "m"}));
        let error = r#"{"error":{"message":"m"}}"#;
        // Nothing follows it.
        let expected = [head("ours", "asked", 5), failed];
        assert_eq!(streamed(&[error, error, "[DONE]"]), expected);
    }

    #[test]
    fn who_answers_is_named_once_and_before_anything_else() {
        let text = |text: &str| Said::Text(text.into());
        let azure = r#"{"choices": [], "id": "", "model": "", "created": 0}"#;
        let role = r#""choices": [{"delta": {"role": "assistant", "content": ""}}]"#;
        let named = &format!(r#"{{"id": "chatcmpl-1", "model": "m", "created": 7, {role}}}"#);
        let says = |id: &str| format!(r#"{{{id} "choices": [{{"delta": {{"content": "a"}}}}]}}"#);
        let (unnamed, late) = (says(""), says(r#""id": "2","#));
        for (events, expected) in [
            (vec![azure, named], vec![head("1", "m", 7)]),
            (vec![azure, &unnamed], vec![head("ours", "asked", 5), text("a")]),
            (vec![&unnamed, &late], vec![head("ours", "asked", 5), text("a"), text("a")]),
            (vec![&late, &unnamed], vec![head("2", "asked", 5), text("a"), text("a")]),
        ] {
            let mut reader = reader();
            let event = |event: &&str| reader.event(format!("data: {event}\n\n").as_bytes());
            assert_eq!(events.iter().flat_map(event).collect::<Vec<_>>(), expected);
        }
    }

    /// What a whole reply with these thoughts, texts and calls says, in short.
    fn told(thought: &str, content: &str, blocks: Value) -> Vec<String> {
        let call = |id: &str| json!({"id": id, "function": {"name": "f", "arguments": "{}"}});
        let message = json!({"reasoning_content": thought, "content": content,
            "thinking_blocks": blocks, "tool_calls": [call("c1"), call("c2")]});
        let said = whole(&json!({"choices": [{"message": message}]}));
        let short = |said: Said| match said {
            Said::Thought(text) => Some(format!("thinks {text}")),
            Said::Signed(block) if block["type"] == "thinking" => {
                Some(format!("signs {}", block["signature"].as_str().unwrap()))
            }
            Said::Signed(block) => Some(block.to_string()),
            Said::Text(text) => Some(text),
            Said::Call { id, .. } => Some(id),
            _ => None,
        };
        said.into_iter().filter_map(short).collect()
    }

    #[test]
    fn thoughts_stand_where_they_stood_with_their_signatures() {
        let at = |bytes: u64, content: u64, calls: u64, mut block: Value| {
            (block["bytes"], block["content_before"]) = (bytes.into(), content.into());
            block["calls_before"] = calls.into();
            block
        };
        let signed = |signature: &str| json!({"type": "thinking", "signature": signature});
        let hidden = json!({"type": "redacted_thinking", "data": "d"});
        let blocks = json!([
            at(2, 0, 0, signed("s1")),
            at(0, 3, 0, hidden.clone()),
            at(4, 3, 1, signed("s2"))
        ]);
        let hidden = hidden.to_string();
        let placed =
            ["thinks T1", "signs s1", "abc", &hidden, "c1", "thinks T2é", "signs s2", "def", "c2"];
        assert_eq!(told("T1T2é", "abcdef", blocks.clone()), placed);
        // The content was changed: it may be cut elsewhere.
        assert_eq!(
            told("T1T2é", "a", blocks.clone())[..4],
            ["thinks T1", "signs s1", "a", &hidden]
        );
        // The thought was changed: nobody knows what was signed of it.
        let merged = ["thinks T1T2", &hidden, "abc", "c1", "c2"];
        assert_eq!(told("T1T2", "abc", blocks), merged);
        let one = json!([signed("s"), {"type": "thinking", "thinking": "T", "signature": null}]);
        assert_eq!(told("T", "abc", one), ["thinks T", "signs s", "abc", "c1", "c2"]);
    }

    #[test]
    fn a_reply_that_calls_ends_for_that_reason() {
        for (told, expected) in [
            ("stop", "tool_calls"),
            ("tool_calls", "tool_calls"),
            ("length", "length"),
            ("content_filter", "content_filter"),
        ] {
            let call = json!({"id": "c", "function": {"name": "f", "arguments": "{}"}});
            let mut reply = json!({"choices": [{"finish_reason": told, "message": {
                "content": null, "tool_calls": [call]}}]});
            assert!(whole(&reply).contains(&ends(expected)), "{told}");
            reply["choices"][0]["delta"] = reply["choices"][0]["message"].take();
            assert!(streamed(&[&reply.to_string()]).contains(&ends(expected)), "{told}");
        }
    }

    #[test]
    fn a_reply_that_came_to_its_end_ends_and_another_fails() {
        let first = || head("ours", "asked", 5);
        let text = || Said::Text("a".into());
        let (ended, failed) = ([ends("stop"), Said::Done], [Said::Failed(broke_off())]);
        let says = r#"{"choices": [{"delta": {"content": "a"}, "finish_reason": null}]}"#;
        let cut = r#"{"choices": [{"delta": {}, "finish_reason": "length"}]}"#;
        assert_eq!(streamed(&[says, "[DONE]"]), [vec![first(), text()], ended.to_vec()].concat());
        assert_eq!(streamed(&[says]), [vec![first(), text()], failed.to_vec()].concat());
        assert_eq!(streamed(&[cut]), [first(), ends("length"), Said::Done]);
        assert_eq!(streamed(&["[DONE]"]), [vec![first()], failed.to_vec()].concat());
        assert_eq!(streamed(&[]), [vec![first()], failed.to_vec()].concat());
        let whole_reply =
            json!({"choices": [{"message": {"content": "a"}, "finish_reason": null}]});
        assert_eq!(whole(&whole_reply), [vec![first(), text()], ended.to_vec()].concat());
    }

    #[test]
    fn a_content_in_parts_is_read_as_one() {
        let in_parts = json!([
            {"type": "thinking", "thinking": [{"type": "text", "text": "hm, "}, {"type": "text", "text": "yes"}]},
            {"type": "text", "text": "Par"},
            {"type": "reference", "reference_ids": [1]},
            {"type": "text", "text": "is"},
        ]);
        for (content, said, thought) in [
            (json!("Paris"), "Paris", ""),
            (in_parts, "Paris", "hm, yes"),
            (json!([{"type": "thinking", "thinking": "hm"}]), "", "hm"),
            (json!(null), "", ""),
        ] {
            assert_eq!(said_in(&content), (said.to_owned(), thought.to_owned()), "{content}");
        }
    }
}
