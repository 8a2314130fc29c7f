//! Values back in place of placeholders: in a whole reply, or in the events of a stream.
//!
//! A stream cuts text anywhere, so the end of what came is held while it may be the beginning of a
//! placeholder: at most a placeholder's length, and only once a `[` has been said. Each of a reply's
//! texts has its own end. Arguments of a tool call get the values only if the site names the tool,
//! written as JSON text; all other tools see the placeholders.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::{Map, Value};

use super::{Redaction, Tools};
use crate::reply_scan::Channel;
use crate::upstream::sse;

type Fields = Map<String, Value>;

/// Names under which servers say what a model thinks, or why it refuses.
const ASIDES: [&str; 3] = ["reasoning_content", "reasoning", "refusal"];

/// Restores the texts of a whole chat completion; bytes that hold no placeholder stay as they are.
pub(crate) fn restore_whole(redaction: &Redaction, tools: &Tools, bytes: Bytes) -> Bytes {
    let Ok(mut json) = serde_json::from_slice::<Value>(&bytes) else { return bytes };
    let mut restorer = EventRestorer::new(redaction.clone(), tools.clone());
    if !restorer.object(&mut json, "message") {
        return bytes;
    }
    serde_json::to_vec(&json).map_or(bytes, Bytes::from)
}

/// Restores the events of a streamed chat completion.
pub(crate) struct EventRestorer {
    redaction: Redaction,
    tools: Tools,
    /// The ends of texts that may begin a placeholder.
    held: BTreeMap<Channel, String>,
    /// Tools by choice and call, as their first event named them.
    calls: BTreeMap<(u32, u32), String>,
}

impl EventRestorer {
    pub(crate) fn new(redaction: Redaction, tools: Tools) -> EventRestorer {
        EventRestorer { redaction, tools, held: BTreeMap::new(), calls: BTreeMap::new() }
    }

    /// Restores whole events.
    pub(crate) fn push(&mut self, bytes: &Bytes) -> Bytes {
        let mut out = Vec::with_capacity(bytes.len() + 64);
        for event in sse::events(bytes) {
            let json = sse::data(event).and_then(|data| serde_json::from_str::<Value>(data).ok());
            let changed = json.and_then(|mut json| self.object(&mut json, "delta").then_some(json));
            match changed {
                Some(json) => {
                    out.extend_from_slice(b"data: ");
                    // Writing JSON to memory cannot fail.
                    let _ = serde_json::to_writer(&mut out, &json);
                    out.extend_from_slice(b"\n\n");
                }
                None => out.extend_from_slice(event),
            }
        }
        out.into()
    }

    /// Restores every text of every choice; `false` if nothing changed.
    fn object(&mut self, json: &mut Value, part: &str) -> bool {
        let mut changed = false;
        let choices = json.get_mut("choices").and_then(Value::as_array_mut);
        for (place, choice) in choices.into_iter().flatten().enumerate() {
            let index = number(choice, place);
            let ends = part == "message" || choice["finish_reason"].is_string();
            if let Some(said) = choice.get_mut(part).and_then(Value::as_object_mut) {
                changed |= self.choice(said, index, ends);
            }
        }
        changed
    }

    fn choice(&mut self, said: &mut Fields, index: u32, ends: bool) -> bool {
        let mut changed = self.field(said, "content", Channel::Content(index), ends);
        // A server uses one of these names; at the end, what was held goes under the same.
        let aside = ASIDES.into_iter().find(|name| said.contains_key(*name)).unwrap_or(ASIDES[0]);
        changed |= self.field(said, aside, Channel::Aside(index), ends);
        let calls = said.get_mut("tool_calls").and_then(Value::as_array_mut);
        for (place, call) in calls.into_iter().flatten().enumerate() {
            let number = number(call, place);
            let Some(function) = call.get_mut("function").and_then(Value::as_object_mut) else {
                continue;
            };
            if let Some(name) = function.get("name").and_then(Value::as_str) {
                self.calls.insert((index, number), name.to_owned());
            }
            let channel = Channel::Arguments(index, number);
            changed |= self.field(function, "arguments", channel, ends);
        }
        changed | (ends && self.end_calls(said, index))
    }

    /// Arguments that are still held when their choice ends get an entry of their own.
    fn end_calls(&mut self, said: &mut Fields, index: u32) -> bool {
        let of_choice = |channel: &Channel| match channel {
            Channel::Arguments(choice, call) if *choice == index => Some(*call),
            _ => None,
        };
        let held: Vec<u32> = self.held.keys().filter_map(of_choice).collect();
        for call in &held {
            let rest = self.held.remove(&Channel::Arguments(index, *call)).unwrap_or_default();
            let entry = serde_json::json!({"index": call, "function": {"arguments": rest}});
            let calls = said.entry("tool_calls").or_insert_with(|| Value::Array(Vec::new()));
            if let Some(calls) = calls.as_array_mut() {
                calls.push(entry);
            }
        }
        !held.is_empty()
    }

    /// Restores one text with what was held of it; holds its end unless the choice ends.
    fn field(&mut self, said: &mut Fields, name: &str, channel: Channel, ends: bool) -> bool {
        let text = said.get(name).and_then(Value::as_str).unwrap_or_default();
        if text.is_empty() && !ends {
            return false;
        }
        let held = self.held.remove(&channel).unwrap_or_default();
        if held.is_empty() && !text.contains('[') {
            return false;
        }
        let whole = held + text;
        let (mut out, rest) = self.restored(&whole, channel);
        if ends {
            out.push_str(rest);
        } else if !rest.is_empty() {
            self.held.insert(channel, rest.to_owned());
        }
        if text == out {
            return false;
        }
        said.insert(name.to_owned(), Value::String(out));
        true
    }

    /// The text with its values, and its end that may begin a placeholder.
    fn restored<'t>(&self, text: &'t str, channel: Channel) -> (String, &'t str) {
        let is_json = matches!(channel, Channel::Arguments(..));
        let keeps = match channel {
            Channel::Arguments(choice, call) => {
                !self.calls.get(&(choice, call)).is_some_and(|name| self.tools.contains(name))
            }
            _ => false,
        };
        if keeps {
            return (text.to_owned(), "");
        }
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find('[') {
            out.push_str(&rest[..at]);
            rest = &rest[at..];
            let end = rest.find(']').map(|end| end + 1);
            if let Some(value) = end.and_then(|end| self.redaction.values.get(&rest[..end])) {
                out.push_str(&if is_json { json_text(value) } else { value.clone() });
                rest = &rest[end.unwrap_or_default()..];
            } else if end.is_none() && self.redaction.begins(rest) {
                return (out, rest);
            } else {
                out.push('[');
                rest = &rest[1..];
            }
        }
        out.push_str(rest);
        (out, "")
    }
}

impl Redaction {
    /// Whether some placeholder begins so.
    fn begins(&self, text: &str) -> bool {
        let next = self.values.range(text.to_owned()..).next();
        next.is_some_and(|(placeholder, _)| placeholder.starts_with(text))
    }
}

/// A value as it stands inside a JSON string.
fn json_text(value: &str) -> String {
    let quoted = Value::String(value.to_owned()).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

/// The `index` of a choice or a call; servers that leave it out number by place.
fn number(value: &Value, place: usize) -> u32 {
    value["index"].as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or(place as u32)
}
