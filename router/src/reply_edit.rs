//! Changes the texts of a reply on their way to the client: of a whole chat completion, or of the events
//! of a stream.
//!
//! A stream cuts text anywhere, so an edit may hold the end of what came until more of it is there. Each
//! of a reply's texts (content, reasoning, the arguments of each tool call) has its own held end. It goes out
//! before its choice says something else or ends, in an event of its own, so that the order of what is said
//! stays; at the latest before the end of the stream. Texts in fields that nobody knows are edited piece by
//! piece, and nothing of them is held. Events in which nothing changes pass byte for byte.
//!
//! Not here: what is changed (`redact::restore` puts values back, `reply_mask` takes findings out).

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::reply_scan::{Channel, NUMBER_MIN, Place, is_no_text};
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

    /// Whether what is changed must not be told in another way: the tokens of a text tell it too.
    fn hides(&self) -> bool;
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
        editor.whole(&mut json).then(|| serde_json::to_vec(&json).ok()).flatten()
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
    /// What every event says of its reply.
    head: Fields,
}

/// What every event says of its reply.
const HEAD: [&str; 4] = ["id", "object", "created", "model"];

impl<E: TextEdit> EventEditor<E> {
    pub(crate) fn new(edit: E) -> EventEditor<E> {
        EventEditor { edit, held: BTreeMap::new(), calls: BTreeMap::new(), head: Fields::new() }
    }

    /// What does the changing.
    pub(crate) fn edit(&self) -> &E {
        &self.edit
    }

    /// Edits whole events.
    pub(crate) fn push(&mut self, bytes: &Bytes) -> Bytes {
        let mut out = Vec::with_capacity(bytes.len() + 64);
        for event in sse::events(bytes) {
            let data = sse::data(event);
            let json = data.as_deref().and_then(|data| serde_json::from_str::<Value>(data).ok());
            match json {
                Some(mut json) if json["choices"].is_array() => {
                    match self.event(&mut json, &mut out) {
                        true => sse::write(&mut out, None, &json),
                        false => out.extend_from_slice(event),
                    }
                }
                // `[DONE]`, an error: nothing more is said. Counts, a comment: what is held may wait.
                json => {
                    let goes_on = json.is_some_and(|json| json["error"].is_null());
                    if data.is_some() && !goes_on {
                        self.release(|_| true, &mut out);
                    }
                    out.extend_from_slice(event);
                }
            }
        }
        out.into()
    }

    /// What is still held when no more events come.
    pub(crate) fn rest(&mut self) -> Bytes {
        let mut out = Vec::new();
        self.release(|_| true, &mut out);
        out.into()
    }

    /// Edits every text of a whole reply; `false` if nothing changed.
    fn whole(&mut self, json: &mut Value) -> bool {
        let mut changed = false;
        for (index, choice) in choices(json) {
            if self.said(choice, "message", index, true) {
                changed = true;
                self.edit.hides().then(|| without_tokens(choice));
            }
        }
        changed
    }

    /// Edits every text of an event; writes what must go before it. `false` if nothing changed.
    fn event(&mut self, json: &mut Value, out: &mut Vec<u8>) -> bool {
        if self.head.is_empty() {
            let known = HEAD.iter().filter_map(|name| Some((*name, json.get(*name)?.clone())));
            self.head.extend(known.map(|(name, value)| (name.to_owned(), value)));
        }
        let mut changed = false;
        for (index, choice) in choices(json) {
            let ends = choice["finish_reason"].is_string();
            let begins = channels(&choice["delta"], index);
            // A signature ends the thought before it.
            let is_signed = !choice["delta"]["thinking_blocks"].is_null();
            if ends || is_signed || !begins.is_empty() {
                self.release(|held| choice_of(held) == index && !begins.contains(held), out);
            }
            changed |= self.edit.hides() && without_tokens(choice);
            changed |= self.said(choice, "delta", index, ends);
        }
        changed
    }

    /// Edits every text that a choice says; `false` if nothing changed.
    fn said(&mut self, choice: &mut Value, part: &str, index: u32, ends: bool) -> bool {
        let said = choice.get_mut(part).and_then(Value::as_object_mut);
        let mut changed = false;
        for (name, value) in said.into_iter().flatten() {
            let at = Place::of(name);
            changed |= match (name.as_str(), value) {
                ("content", Value::String(text)) => self.text(Channel::Content(index), text, ends),
                (name, Value::String(text)) if ASIDES.contains(&name) => {
                    self.text(Channel::Aside(index, at), text, ends)
                }
                ("tool_calls", Value::Array(calls)) => self.calls(calls, index, ends),
                _ if is_no_text(at) => false,
                (_, value) => self.unknown(value, index, at),
            };
        }
        changed
    }

    fn calls(&mut self, calls: &mut [Value], index: u32, ends: bool) -> bool {
        let mut changed = false;
        for (place, call) in calls.iter_mut().enumerate() {
            let number = number(call, place);
            if let Some(name) = call["function"]["name"].as_str().filter(|name| !name.is_empty()) {
                self.calls.insert((index, number), name.to_owned());
            }
            for (name, value) in call.as_object_mut().into_iter().flatten() {
                changed |= match (name.as_str(), value) {
                    ("function", Value::Object(function)) => {
                        self.function(function, index, number, ends)
                    }
                    _ if is_no_text(Place::of(name)) => false,
                    (name, value) => self.part_of_call(name, value, index, number),
                };
            }
        }
        changed
    }

    fn function(&mut self, function: &mut Fields, index: u32, number: u32, ends: bool) -> bool {
        function.iter_mut().fold(false, |any, (name, value)| {
            let changed = match (name.as_str(), value) {
                ("arguments", Value::String(text)) => {
                    self.text(Channel::Arguments(index, number), text, ends)
                }
                (name, value) => self.part_of_call(name, value, index, number),
            };
            any | changed
        })
    }

    fn part_of_call(&mut self, name: &str, value: &mut Value, index: u32, number: u32) -> bool {
        self.unknown(value, index, Place::of(name).item(number as usize))
    }

    /// Edits every text in a value that nobody knows, as it stands.
    fn unknown(&mut self, value: &mut Value, index: u32, at: Place) -> bool {
        match value {
            Value::String(text) => self.unknown_text(text, index, at),
            Value::Number(number) => {
                let is_long = number.as_f64().is_some_and(|n| n.abs() >= NUMBER_MIN as f64);
                let mut text = number.to_string();
                let changed = is_long && self.unknown_text(&mut text, index, at);
                if changed {
                    *value = Value::String(text);
                }
                changed
            }
            Value::Array(list) => {
                let items = list.iter_mut().enumerate();
                items.fold(false, |any, (i, item)| self.unknown(item, index, at.item(i)) | any)
            }
            Value::Object(fields) => {
                let fields = fields.iter_mut().filter(|(name, _)| !is_no_text(Place::of(name)));
                fields.fold(false, |any, (name, item)| {
                    self.unknown(item, index, at.below(name)) | any
                })
            }
            Value::Null | Value::Bool(_) => false,
        }
    }

    fn unknown_text(&mut self, text: &mut String, index: u32, at: Place) -> bool {
        if text.is_empty() || self.edit.passes(text) {
            return false;
        }
        let Edited { out, .. } = self.edit.edit(Channel::Aside(index, at), None, text, true);
        out != std::mem::replace(text, out.clone())
    }

    /// Edits one text with what was held of it; holds its end unless the choice ends.
    fn text(&mut self, channel: Channel, text: &mut String, ends: bool) -> bool {
        let held = self.held.remove(&channel).unwrap_or_default();
        if held.is_empty() && (text.is_empty() || self.edit.passes(text)) {
            return false;
        }
        let Edited { out, held } = self.edited(channel, &(held + text), ends);
        if !held.is_empty() {
            self.held.insert(channel, held);
        }
        out != std::mem::replace(text, out.clone())
    }

    fn edited(&mut self, channel: Channel, text: &str, ends: bool) -> Edited {
        let tool = match channel {
            Channel::Arguments(choice, call) => self.calls.get(&(choice, call)).map(String::as_str),
            _ => None,
        };
        self.edit.edit(channel, tool, text, ends)
    }

    /// Writes the held ends of some texts, each in an event of its own.
    fn release(&mut self, which: impl Fn(&Channel) -> bool, out: &mut Vec<u8>) {
        let channels: Vec<Channel> = self.held.keys().filter(|held| which(held)).copied().collect();
        for channel in channels {
            let held = self.held.remove(&channel).unwrap_or_default();
            let Edited { out: text, .. } = self.edited(channel, &held, true);
            let delta = match channel {
                Channel::Content(_) => json!({"content": text}),
                Channel::Aside(_, at) => {
                    let name = ASIDES.into_iter().find(|name| Place::of(name) == at);
                    json!({name.unwrap_or(ASIDES[0]): text})
                }
                Channel::Arguments(_, call) | Channel::CallId(_, call) => {
                    json!({"tool_calls": [{"index": call, "function": {"arguments": text}}]})
                }
            };
            let mut event = self.head.clone();
            let choice =
                json!({"index": choice_of(&channel), "delta": delta, "finish_reason": null});
            event.insert("choices".to_owned(), Value::Array(vec![choice]));
            sse::write(out, None, &Value::Object(event));
        }
    }
}

/// The choices of a reply or of an event, with their numbers.
fn choices(json: &mut Value) -> impl Iterator<Item = (u32, &mut Value)> {
    let choices = json.get_mut("choices").and_then(Value::as_array_mut);
    let choices = choices.into_iter().flatten().enumerate();
    choices.map(|(place, choice)| (number(choice, place), choice))
}

fn choice_of(channel: &Channel) -> u32 {
    match channel {
        Channel::Content(choice)
        | Channel::Aside(choice, _)
        | Channel::Arguments(choice, _)
        | Channel::CallId(choice, _) => *choice,
    }
}

/// The texts of which a delta says more, or begins to.
fn channels(delta: &Value, index: u32) -> Vec<Channel> {
    let says = |name: &str| delta[name].as_str().is_some_and(|text| !text.is_empty());
    let content = says("content").then_some(Channel::Content(index));
    let asides = ASIDES.into_iter().filter(|name| says(name));
    let asides = asides.map(|name| Channel::Aside(index, Place::of(name)));
    let calls = delta["tool_calls"].as_array().into_iter().flatten().enumerate();
    let calls = calls.map(|(place, call)| Channel::Arguments(index, number(call, place)));
    content.into_iter().chain(asides).chain(calls).collect()
}

/// Takes out the tokens that a choice's text was made of; `false` if it has none.
fn without_tokens(choice: &mut Value) -> bool {
    let tokens = choice.as_object_mut().and_then(|choice| choice.get_mut("logprobs"));
    tokens.is_some_and(|tokens| !tokens.take().is_null())
}

/// The `index` of a choice or a call; servers that leave it out number by place.
fn number(value: &Value, place: usize) -> u32 {
    value["index"].as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or(place as u32)
}

#[cfg(test)]
mod tests;
