//! A conversation as a strict server of this kind takes it.
//!
//! A turn has a content unless it calls, a result of a tool is text, a file has a name. Left out is what
//! only other protocols know (thoughts with signatures, marks for a cache) and what the server's section
//! says that it refuses. Nothing is copied: pictures are long.

use serde::Serialize;
use serde::ser::{SerializeMap, SerializeSeq, Serializer};
use serde_json::{Map, Value};

use crate::config::Connection;

/// A name for a file that came without one; Anthropic's documents have none, and are of this kind.
const FILE_NAME: &str = "document.pdf";

/// The list of messages.
pub(super) struct Messages<'a> {
    pub(super) list: &'a Value,
    pub(super) way: &'a Connection,
}

impl Serialize for Messages<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Value::Array(list) = self.list else { return self.list.serialize(serializer) };
        let mut written = serializer.serialize_seq(None)?;
        // What results show stands behind all of them, as the user's: nothing may stand between them.
        let mut shown = Vec::new();
        for (index, message) in list.iter().enumerate() {
            written.serialize_element(&Message { message, way: self.way })?;
            if is_result(message) {
                let parts = message["content"].as_array().into_iter().flatten();
                shown.extend(parts.filter(|part| is_shown(part)));
            }
            if !shown.is_empty() && !list.get(index + 1).is_some_and(is_result) {
                written.serialize_element(&OfUser(std::mem::take(&mut shown)))?;
            }
        }
        written.end()
    }
}

fn is_result(message: &Value) -> bool {
    message["role"] == "tool"
}

/// Whether no result of a tool may hold it.
fn is_shown(part: &Value) -> bool {
    matches!(part["type"].as_str(), Some("file" | "image_url" | "input_audio"))
}

/// A message of the user's.
struct OfUser<'a>(Vec<&'a Value>);

impl Serialize for OfUser<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut written = serializer.serialize_map(Some(2))?;
        written.serialize_entry("role", "user")?;
        written.serialize_entry("content", &Parts(&self.0))?;
        written.end()
    }
}

/// One message.
struct Message<'a> {
    message: &'a Value,
    way: &'a Connection,
}

impl Serialize for Message<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Value::Object(fields) = self.message else { return self.message.serialize(serializer) };
        let goes = |name: &str| {
            !matches!(name, "thinking_blocks" | "is_error") && !self.way.leaves_out(name)
        };
        let mut written = serializer.serialize_map(None)?;
        for (name, value) in fields.iter().filter(|(name, _)| goes(name)) {
            match name.as_str() {
                "content" => self.content(fields, value, &mut written)?,
                "tool_calls" => written.serialize_entry(name, &List(value))?,
                _ => written.serialize_entry(name, value)?,
            }
        }
        if !fields.contains_key("content") && says_nothing(fields) {
            written.serialize_entry("content", "")?;
        }
        written.end()
    }
}

impl Message<'_> {
    fn content<M: SerializeMap>(
        &self,
        fields: &Map<String, Value>,
        content: &Value,
        written: &mut M,
    ) -> Result<(), M::Error> {
        let is_result = is_result(self.message);
        match content {
            Value::Null if says_nothing(fields) => written.serialize_entry("content", ""),
            Value::Array(parts) => {
                let told: Vec<_> =
                    parts.iter().filter(|part| !(is_result && is_shown(part))).collect();
                match told[..] {
                    [] => written.serialize_entry("content", ""),
                    // Small servers take no list of a tool.
                    [only] if is_result && is_plain(only) => {
                        written.serialize_entry("content", &only["text"])
                    }
                    _ => written.serialize_entry("content", &Parts(&told)),
                }
            }
            other => written.serialize_entry("content", other),
        }
    }
}

/// Whether an assistant's turn holds nothing that makes up for a missing content: thoughts do not.
fn says_nothing(fields: &Map<String, Value>) -> bool {
    let is_there = |name: &&str| match fields.get(*name) {
        None | Some(Value::Null) => false,
        Some(Value::Array(list)) => !list.is_empty(),
        Some(_) => true,
    };
    let said = ["audio", "function_call", "refusal", "tool_calls"];
    fields.get("role").is_some_and(|role| role == "assistant") && !said.iter().any(is_there)
}

/// Whether a part is a text and no more, but for the mark that is not written.
fn is_plain(part: &Value) -> bool {
    let known = |name: &String| matches!(name.as_str(), "cache_control" | "text" | "type");
    part["type"] == "text" && part.as_object().is_some_and(|fields| fields.keys().all(known))
}

/// Parts of a message.
struct Parts<'a>(&'a [&'a Value]);

impl Serialize for Parts<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|part| Part(part)))
    }
}

/// A list of tools or of calls.
pub(super) struct List<'a>(pub(super) &'a Value);

impl Serialize for List<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Array(list) => serializer.collect_seq(list.iter().map(Part)),
            other => other.serialize(serializer),
        }
    }
}

/// A part of a message, a tool or a call.
struct Part<'a>(&'a Value);

impl Serialize for Part<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Value::Object(fields) = self.0 else { return self.0.serialize(serializer) };
        let mut written = serializer.serialize_map(None)?;
        for (name, value) in fields.iter().filter(|(name, _)| *name != "cache_control") {
            match (name.as_str(), value) {
                ("file", Value::Object(file)) => written.serialize_entry(name, &File(file))?,
                _ => written.serialize_entry(name, value)?,
            }
        }
        written.end()
    }
}

/// A file; one that comes in the body has a name.
struct File<'a>(&'a Map<String, Value>);

impl Serialize for File<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut written = serializer.serialize_map(None)?;
        for (name, value) in self.0.iter().filter(|(_, value)| !value.is_null()) {
            written.serialize_entry(name, value)?;
        }
        let is_there = |name: &str| self.0.get(name).is_some_and(|value| !value.is_null());
        if is_there("file_data") && !is_there("filename") {
            written.serialize_entry("filename", FILE_NAME)?;
        }
        written.end()
    }
}
