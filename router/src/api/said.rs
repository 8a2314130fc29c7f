//! What a reply in the internal form says, step by step, for the dialects that say it in other words.
//!
//! A whole reply and a stream of events are read into the same steps, so a dialect is written once. Only
//! the first choice is read: the dialects that use this have no others.

use serde_json::{Value, json};

use crate::upstream::sse;

/// One step of a reply.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Said {
    /// Who answers, said at least once before anything else.
    Head { id: String, model: String, created: i64 },
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
    /// A call, or a piece of its arguments.
    Call { index: u64, id: Option<String>, name: Option<String>, arguments: String },
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
    pub(super) cached: u64,
    pub(super) completion: u64,
    pub(super) reasoning: u64,
}

/// A whole chat completion.
pub(super) fn whole(json: &Value) -> Vec<Said> {
    let mut said = Vec::new();
    read(json, "message", &mut said);
    said
}

/// One event of a stream.
pub(super) fn event(event: &[u8]) -> Vec<Said> {
    let mut said = Vec::new();
    match sse::data(event).as_deref() {
        None => {}
        Some("[DONE]") => said.push(Said::Done),
        Some(data) => {
            if let Ok(json) = serde_json::from_str::<Value>(data) {
                read(&json, "delta", &mut said);
            }
        }
    }
    said
}

fn read(json: &Value, part: &str, said: &mut Vec<Said>) {
    if json["error"].is_object() {
        said.push(Said::Failed(json["error"].clone()));
        return;
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    if let Some(id) = json["id"].as_str() {
        let id = id.strip_prefix("chatcmpl-").unwrap_or(id).to_owned();
        let created = json["created"].as_i64().unwrap_or_default();
        said.push(Said::Head { id, model: text(&json["model"]), created });
    }
    let choices = json["choices"].as_array().map(Vec::as_slice).unwrap_or_default();
    let first = choices.iter().find(|choice| choice["index"].as_u64().unwrap_or(0) == 0);
    if let Some(choice) = first {
        read_choice(choice, part, said);
    }
    if json["usage"].is_object() {
        said.push(Said::Usage(count(&json["usage"])));
    }
}

fn read_choice(choice: &Value, part: &str, said: &mut Vec<Said>) {
    let from = &choice[part];
    let piece = |name: &str| from[name].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    said.extend(piece("reasoning_content").or_else(|| piece("reasoning")).map(Said::Thought));
    said.extend(
        from["thinking_blocks"].as_array().into_iter().flatten().cloned().map(Said::Signed),
    );
    if let Some(tokens) = choice["logprobs"]["content"].as_array() {
        said.push(Said::Logprobs(tokens.clone()));
    }
    said.extend(piece("content").map(Said::Text));
    said.extend(piece("refusal").map(Said::Refusal));
    for (place, call) in from["tool_calls"].as_array().into_iter().flatten().enumerate() {
        let function = &call["function"];
        let text = |value: &Value| value.as_str().map(str::to_owned);
        said.push(Said::Call {
            index: call["index"].as_u64().unwrap_or(place as u64),
            id: text(&call["id"]),
            name: text(&function["name"]),
            arguments: text(&function["arguments"]).unwrap_or_default(),
        });
    }
    if let Some(reason) = choice["finish_reason"].as_str() {
        let stop = choice["stop_reason"].as_str().map(str::to_owned);
        said.push(Said::Finish { reason: reason.to_owned(), stop });
    }
}

fn count(usage: &Value) -> Count {
    let number = |value: &Value| value.as_u64().unwrap_or_default();
    Count {
        prompt: number(&usage["prompt_tokens"]),
        cached: number(&usage["prompt_tokens_details"]["cached_tokens"]),
        completion: number(&usage["completion_tokens"]),
        reasoning: number(&usage["completion_tokens_details"]["reasoning_tokens"]),
    }
}

/// The error that ends a stream which ended without a word.
pub(super) fn broke_off() -> Value {
    json!({
        "message": "failed to finish the answer: the upstream broke off",
        "type": "server_error", "param": null, "code": "upstream_broke_off",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(event(format!("data: {chunk}\n\n").as_bytes()), whole(&whole_reply));
        assert_eq!(
            whole(&whole_reply)[0],
            Said::Head { id: "1".into(), model: "m".into(), created: 7 }
        );
        assert_eq!(whole(&whole_reply).len(), 6);
    }

    #[test]
    fn other_choices_and_comments_say_nothing_and_an_error_says_itself() {
        assert_eq!(event(b": ping\n\n"), []);
        let other = json!({"choices": [{"index": 1, "delta": {"content": "x"}}]});
        assert_eq!(event(format!("data: {other}\n\n").as_bytes()), []);
        assert_eq!(event(b"data: [DONE]\n\n"), [Said::Done]);
        let failed = event(b"data: {\"error\":{\"message\":\"m\"}}\n\n");
        assert_eq!(failed, [Said::Failed(json!({"message": "m"}))]);
    }
}
