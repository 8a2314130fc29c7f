//! What a reply in the internal form says: its texts for the scan, its usage, whether it is over.
//!
//! Whatever a server speaks, its reply is a chat completion here, whole or as events, and is read by
//! this file alone.

use serde_json::Value;

use super::{Usage, sse};
use crate::reply_scan::{Channel, ReplyText};

/// What has come so far.
#[derive(Default)]
pub(super) struct Seen {
    /// `[DONE]` came.
    pub(super) done: bool,
    /// A choice said why it ended.
    pub(super) finished: bool,
    /// An event came that cannot be read, and so cannot be scanned.
    pub(super) broken: bool,
    /// What the upstream counted.
    pub(super) usage: Usage,
}

impl Seen {
    /// Notes one event; `true` if it is the usage event and nothing else.
    pub(super) fn event(&mut self, event: &[u8], texts: &mut Vec<ReplyText>) -> bool {
        let Some(data) = sse::data(event) else {
            self.broken |= std::str::from_utf8(event).is_err();
            return false;
        };
        if data == "[DONE]" {
            self.done = true;
            return false;
        }
        let Ok(json) = serde_json::from_str::<Value>(data) else {
            self.broken = true;
            return false;
        };
        collect_texts(&json, "delta", texts);
        let choices = json["choices"].as_array().map(Vec::as_slice).unwrap_or_default();
        self.finished |= choices.iter().any(|choice| choice["finish_reason"].is_string());
        if json["usage"].is_object() {
            self.usage = usage(&json["usage"]);
            return choices.is_empty();
        }
        false
    }
}

/// What a `usage` object counts.
pub(super) fn usage(json: &Value) -> Usage {
    Usage {
        prompt_tokens: json["prompt_tokens"].as_u64(),
        completion_tokens: json["completion_tokens"].as_u64(),
        cached_tokens: json["prompt_tokens_details"]["cached_tokens"].as_u64(),
    }
}

/// Adds what every choice says, thinks and hands to tools; `part` is `message` or `delta`.
pub(super) fn collect_texts(json: &Value, part: &str, texts: &mut Vec<ReplyText>) {
    let mut add = |channel, value: &Value| {
        if let Some(text) = value.as_str().filter(|text| !text.is_empty()) {
            texts.push(ReplyText { channel, text: text.to_owned() });
        }
    };
    let number = |value: &Value, place: usize| {
        value["index"].as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or(place as u32)
    };
    for (place, choice) in json["choices"].as_array().into_iter().flatten().enumerate() {
        let (index, said) = (number(choice, place), &choice[part]);
        add(Channel::Content(index), &said["content"]);
        for aside in ["reasoning_content", "reasoning", "refusal"] {
            add(Channel::Aside(index), &said[aside]);
        }
        for (place, call) in said["tool_calls"].as_array().into_iter().flatten().enumerate() {
            let channel = Channel::Arguments(index, number(call, place));
            add(channel, &call["function"]["arguments"]);
        }
    }
}
