//! OpenAI's side of the translation: chat completions, legacy completions and embeddings as such servers
//! take them.
//!
//! The internal form is OpenAI's own, so nearly all of it goes as it is. Left out is what the gateway
//! decides itself, what names persons to the provider, and what the internal form carries for other
//! protocols only (thoughts with signatures, marks for a cache). What only some such servers know (`top_k`)
//! goes along: a sampling that was asked for is not left out in silence, and `leave_out` is for a server
//! that refuses it. A legacy completion travels inside as a
//! conversation of one message, and is taken apart and put together again here. Inside: `messages` (what a
//! strict server wants of a conversation).
//!
//! Source: OpenAI's published API schema, as of November 2026.

mod messages;

use bytes::Bytes;
use serde::ser::{SerializeMap, Serializer};
use serde_json::{Map, Value, json};
use sluice_policies::Endpoint;

use super::{UpstreamError, sse};
use crate::api::ChatBody;
use crate::config::{Connection, PassField};
use messages::{List, Messages};

/// What never leaves: nothing is stored, and the others are Anthropic's.
const LEFT_OUT: [&str; 3] = ["cache_control", "store", "thinking"];

/// Whether a field goes along. Those that name persons (`metadata` describes stored completions, mostly by
/// who asked) go where the upstream's section lists them.
fn goes(name: &str, way: &Connection) -> bool {
    let of_persons = [PassField::Metadata, PassField::SafetyIdentifier, PassField::User];
    let person = of_persons.into_iter().find(|field| field.name() == name);
    !LEFT_OUT.contains(&name)
        && !way.leaves_out(name)
        && person.is_none_or(|field| way.passes(field))
}

/// Serialises a request for a server that knows the model as `model`.
pub(super) fn body(
    chat: &ChatBody,
    model: &str,
    way: &Connection,
) -> Result<Vec<u8>, UpstreamError> {
    if let Some(place) = file_by_address(&chat.fields) {
        let what = "this upstream takes no files by their address".into();
        return Err(UpstreamError::Unsupported { param: place.into(), what });
    }
    let mut bytes = Vec::with_capacity(1024);
    let written = match chat.endpoint {
        Endpoint::Chat => serde_json::to_writer(&mut bytes, &Translated { chat, model, way }),
        Endpoint::Completions => serde_json::to_writer(&mut bytes, &completion(chat, model, way)),
        Endpoint::Embeddings => serde_json::to_writer(&mut bytes, &kept(chat, model, way)),
    };
    written.expect("JSON can be written back");
    Ok(bytes)
}

/// Where a message holds a file by its address, which these servers do not fetch.
fn file_by_address(fields: &Map<String, Value>) -> Option<String> {
    let messages = fields.get("messages").and_then(Value::as_array)?;
    let has_one = |message: &Value| {
        let parts = message["content"].as_array().map(Vec::as_slice).unwrap_or_default();
        parts.iter().any(|part| !part["file"]["file_url"].is_null())
    };
    messages.iter().position(has_one).map(|index| format!("messages[{index}].content"))
}

/// The fields that stay, with the server's name of the model.
fn kept(chat: &ChatBody, model: &str, way: &Connection) -> Map<String, Value> {
    let kept = chat.fields.iter().filter(|(name, _)| goes(name, way));
    let mut fields: Map<_, _> = kept.map(|(name, value)| (name.clone(), value.clone())).collect();
    fields.insert("model".to_owned(), model.into());
    fields
}

/// A legacy completion of the conversation that stands for it.
fn completion(chat: &ChatBody, model: &str, way: &Connection) -> Map<String, Value> {
    let mut fields = kept(chat, model, way);
    let messages = fields.remove("messages").unwrap_or_default();
    let content = &messages[0]["content"];
    let prompt = match content {
        Value::Array(parts) => parts.first().map_or(Value::Null, |part| part["token_ids"].clone()),
        text => text.clone(),
    };
    fields.insert("prompt".to_owned(), prompt);
    let top = fields.remove("top_logprobs");
    if fields.remove("logprobs") == Some(Value::Bool(true)) {
        fields.insert("logprobs".to_owned(), top.unwrap_or(0.into()));
    }
    if chat.stream && !way.leaves_out("stream_options") {
        fields.insert("stream_options".to_owned(), stream_options(chat));
    }
    fields
}

/// The longest reply, for a server that knows its older name only.
fn max_tokens<'a>(chat: &'a ChatBody, way: &Connection) -> Option<&'a Value> {
    let newer = chat.fields.get("max_completion_tokens")?;
    let needed = way.leaves_out("max_completion_tokens") && !chat.fields.contains_key("max_tokens");
    needed.then_some(newer)
}

fn stream_options(chat: &ChatBody) -> Value {
    let mut options = match chat.fields.get("stream_options") {
        Some(Value::Object(options)) => options.clone(),
        _ => Map::new(),
    };
    options.insert("include_usage".to_owned(), Value::Bool(true));
    Value::Object(options)
}

/// A legacy completion, whole or one event of a stream, as a chat completion; `part` is `message` or
/// `delta`.
pub(super) fn chat_of_completion(mut json: Value, part: &str) -> Value {
    let object = if part == "message" { "chat.completion" } else { "chat.completion.chunk" };
    json["object"] = object.into();
    for choice in json["choices"].as_array_mut().into_iter().flatten() {
        let Some(choice) = choice.as_object_mut() else { continue };
        let text = choice.remove("text").unwrap_or_default();
        let said = match part {
            "message" => json!({"role": "assistant", "content": text}),
            _ => json!({"content": text}),
        };
        choice.insert(part.to_owned(), said);
    }
    json
}

/// The same for whole events.
pub(super) fn chat_of_completion_events(bytes: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(bytes.len() + 64);
    for event in sse::events(bytes) {
        let json = sse::data(event).and_then(|data| serde_json::from_str::<Value>(&data).ok());
        match json.filter(|json| json["choices"].is_array()) {
            Some(json) => sse::write(&mut out, None, &chat_of_completion(json, "delta")),
            None => out.extend_from_slice(event),
        }
    }
    out.into()
}

/// The error that a server of this kind answered with, as OpenAI writes it: some servers have but a text, or
/// write it under another name (FastAPI's `detail`). `None` if it is no JSON.
pub(super) fn error(bytes: Bytes) -> Option<Bytes> {
    let json: Value = serde_json::from_slice(&bytes).ok()?;
    if json["error"]["message"].is_string() {
        return Some(bytes);
    }
    let names = [&json["error"], &json["message"], &json["detail"], &json];
    let message = names.into_iter().find(|value| !value.is_null())?;
    let message = message.as_str().map_or_else(|| message.to_string(), str::to_owned);
    let error = json!({
        "message": message, "type": "invalid_request_error", "param": null, "code": null,
    });
    Some(json!({"error": error}).to_string().into())
}

/// The body of a chat completion: the client's own fields, but for the few that the gateway sets.
struct Translated<'a> {
    chat: &'a ChatBody,
    model: &'a str,
    way: &'a Connection,
}

impl serde::Serialize for Translated<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (name, value) in &self.chat.fields {
            match name.as_str() {
                "model" | "stream_options" => {}
                name if !goes(name, self.way) => {}
                "messages" => {
                    map.serialize_entry(name, &Messages { list: value, way: self.way })?
                }
                "tools" => map.serialize_entry(name, &List(value))?,
                _ => map.serialize_entry(name, value)?,
            }
        }
        map.serialize_entry("model", self.model)?;
        if let Some(most) = max_tokens(self.chat, self.way) {
            map.serialize_entry("max_tokens", most)?;
        }
        if !self.way.leaves_out("store") {
            map.serialize_entry("store", &false)?;
        }
        if self.chat.stream && !self.way.leaves_out("stream_options") {
            map.serialize_entry("stream_options", &stream_options(self.chat))?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests;
