//! Changes the texts of a reply on their way to the client: of a whole chat completion, or of the events
//! of a stream.
//!
//! A stream cuts text anywhere, so an edit may hold the end of what came until more of it is there. Each
//! of a reply's texts (content, reasoning, the arguments of each tool call) has its own held end, which
//! goes out at the latest with the event that finishes its choice. Events in which nothing changes pass
//! byte for byte.
//!
//! Not here: what is changed (`redact::restore` puts values back, `reply_mask` takes findings out).

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::reply_scan::Channel;
use crate::upstream::sse;

type Fields = Map<String, Value>;

/// Names under which servers say what a model thinks, or why it refuses.
const ASIDES: [&str; 3] = ["reasoning_content", "reasoning", "refusal"];

/// What happens to the texts of a reply.
pub(crate) trait TextEdit {
    /// Changes a text with what was held of it. Returns what may go, and the end that is held until
    /// more has come; nothing is held of a text that `ends`. `tool` is the tool whose arguments it is.
    fn edit(&mut self, channel: Channel, tool: Option<&str>, text: &str, ends: bool) -> Edited;

    /// A text of which nothing is held passes without a look.
    fn passes(&self, text: &str) -> bool;
}

/// An edited text.
pub(crate) struct Edited {
    /// What may go.
    pub(crate) out: String,
    /// What waits for more.
    pub(crate) held: String,
}

/// Edits a whole chat completion; bytes in which nothing changes stay as they are.
pub(crate) fn edit_whole<E: TextEdit>(edit: E, bytes: Bytes) -> (Bytes, E) {
    let mut editor = EventEditor::new(edit);
    let edited = serde_json::from_slice::<Value>(&bytes).ok().and_then(|mut json| {
        editor.object(&mut json, "message").then(|| serde_json::to_vec(&json).ok()).flatten()
    });
    (edited.map_or(bytes, Bytes::from), editor.edit)
}

/// Edits the events of a streamed chat completion.
pub(crate) struct EventEditor<E> {
    edit: E,
    /// The ends of texts that wait for more.
    held: BTreeMap<Channel, String>,
    /// Tools by choice and call, as their first event named them.
    calls: BTreeMap<(u32, u32), String>,
}

impl<E: TextEdit> EventEditor<E> {
    pub(crate) fn new(edit: E) -> EventEditor<E> {
        EventEditor { edit, held: BTreeMap::new(), calls: BTreeMap::new() }
    }

    /// What does the changing.
    pub(crate) fn edit(&self) -> &E {
        &self.edit
    }

    /// Edits whole events.
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

    /// Edits every text of every choice; `false` if nothing changed.
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

    /// Edits one text with what was held of it; holds its end unless the choice ends.
    fn field(&mut self, said: &mut Fields, name: &str, channel: Channel, ends: bool) -> bool {
        let text = said.get(name).and_then(Value::as_str).unwrap_or_default();
        if text.is_empty() && !ends {
            return false;
        }
        let held = self.held.remove(&channel).unwrap_or_default();
        if held.is_empty() && self.edit.passes(text) {
            return false;
        }
        let tool = match channel {
            Channel::Arguments(choice, call) => self.calls.get(&(choice, call)).map(String::as_str),
            _ => None,
        };
        let Edited { out, held } = self.edit.edit(channel, tool, &(held + text), ends);
        if !held.is_empty() {
            self.held.insert(channel, held);
        }
        if text == out {
            return false;
        }
        said.insert(name.to_owned(), Value::String(out));
        true
    }
}

/// The `index` of a choice or a call; servers that leave it out number by place.
fn number(value: &Value, place: usize) -> u32 {
    value["index"].as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or(place as u32)
}
