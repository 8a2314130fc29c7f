//! OpenAI's responses: the tables of their fields, and the way of a body into the internal form.
//!
//! Nothing is stored, whatever `store` says, so what refers to something stored (an earlier response, a
//! conversation, a prompt, an item) is refused by name: the client sends the conversation as items.
//! Items of one turn of the assistant become one message. Custom tools become functions of one text, so
//! that any upstream can call them. Items and tools of a provider's own travel as they are and count as
//! content that cannot be scanned. Inside: `reply` (the way back).
//!
//! Source: OpenAI's published API schema (its Python SDK 3.54), as of November 2026.

mod reply;

use std::collections::BTreeSet;

use serde_json::{Value, json};
use sluice_policies::Endpoint;

use super::chat::{flag, is_hosted_part};
use super::translation::{
    Fields,
    Kind::{Inert, Moved, Text},
    Table, Translation, content, list, object, text, text_if_any,
};
use super::{ApiError, Hints, Request};
use crate::identity::Caller;

pub use reply::ReplyWriter;

const BODY: Table = &[
    ("access_programs", Text),
    ("background", Moved),
    ("background_options", Text),
    ("context_management", Text),
    ("conversation", Moved),
    ("image", Text),
    ("include", Moved),
    ("input", Moved),
    ("instructions", Moved),
    ("max_output_tokens", Moved),
    ("max_tool_calls", Inert),
    ("metadata", Moved),
    ("model", Moved),
    ("moderation", Text),
    ("parallel_tool_calls", Moved),
    ("personality", Text),
    ("previous_response_id", Moved),
    ("prompt", Moved),
    ("prompt_cache_key", Moved),
    ("prompt_cache_options", Text),
    ("prompt_cache_retention", Moved),
    ("reasoning", Moved),
    ("safety_identifier", Moved),
    ("service_tier", Moved),
    ("store", Inert),
    ("stream", Moved),
    ("stream_options", Text),
    ("temperature", Moved),
    ("text", Moved),
    ("tool_choice", Moved),
    ("tools", Moved),
    ("top_logprobs", Moved),
    ("top_p", Moved),
    ("truncation", Text),
    ("user", Moved),
];
const REASONING_CONFIG: Table = &[
    ("context", Text),
    ("effort", Moved),
    ("generate_summary", Text),
    ("mode", Text),
    ("summary", Text),
];
const TEXT_CONFIG: Table = &[("format", Moved), ("verbosity", Moved)];
const FORMAT: Table = &[
    ("description", Moved),
    ("name", Moved),
    ("schema", Moved),
    ("strict", Moved),
    ("type", Moved),
];
const FUNCTION: Table = &[
    ("allowed_callers", Text),
    ("async", Inert),
    ("defer_loading", Inert),
    ("description", Moved),
    ("name", Moved),
    ("output_schema", Text),
    ("parameters", Moved),
    ("strict", Moved),
    ("type", Moved),
];
const CUSTOM: Table = &[
    ("allowed_callers", Text),
    ("async", Inert),
    ("defer_loading", Inert),
    ("description", Moved),
    ("format", Moved),
    ("name", Moved),
    ("type", Moved),
];
const CUSTOM_FORMAT: Table = &[("definition", Moved), ("syntax", Text), ("type", Text)];
const ALLOWED_TOOLS: Table = &[("mode", Moved), ("tools", Moved), ("type", Moved)];
const CHOSEN: Table = &[("name", Moved), ("type", Moved)];
const MESSAGE: Table = &[
    ("content", Moved),
    ("id", Text),
    ("phase", Text),
    ("role", Moved),
    ("status", Text),
    ("type", Moved),
];
const FUNCTION_CALL: Table = &[
    ("arguments", Moved),
    ("async", Inert),
    ("call_id", Moved),
    ("caller", Text),
    ("id", Text),
    ("input", Moved),
    ("name", Moved),
    ("namespace", Text),
    ("status", Text),
    ("type", Moved),
];
const CALL_OUTPUT: Table = &[
    ("call_id", Moved),
    ("caller", Text),
    ("id", Text),
    ("name", Text),
    ("namespace", Text),
    ("output", Moved),
    ("status", Text),
    ("type", Moved),
];
const REASONING: Table = &[
    ("content", Moved),
    ("encrypted_content", Text),
    ("id", Text),
    ("status", Text),
    ("summary", Moved),
    ("type", Moved),
];
const CONFIGURATION_UPDATE: Table =
    &[("id", Text), ("reasoning", Moved), ("text", Moved), ("type", Moved)];
const TEXT_PART: Table = &[
    ("annotations", Text),
    ("logprobs", Text),
    ("prompt_cache_breakpoint", Text),
    ("text", Moved),
    ("type", Moved),
];
const THOUGHT_PART: Table = &[("text", Moved), ("type", Text)];
const REFUSAL_PART: Table = &[("refusal", Moved), ("type", Moved)];
const IMAGE_PART: Table = &[
    ("detail", Moved),
    ("file_id", Moved),
    ("image_url", Moved),
    ("prompt_cache_breakpoint", Text),
    ("type", Moved),
];
const FILE_PART: Table = &[
    ("detail", Text),
    ("file_data", Moved),
    ("file_id", Moved),
    ("file_url", Moved),
    ("filename", Moved),
    ("prompt_cache_breakpoint", Text),
    ("type", Moved),
];
const AUDIO_PART: Table = &[("input_audio", Moved), ("type", Moved)];

/// Names of the internal form, and the client's.
pub(super) const NAMES: &[(&str, &str)] = &[
    ("max_completion_tokens", "max_output_tokens"),
    ("messages", "input"),
    ("reasoning_effort", "reasoning.effort"),
    ("response_format", "text.format"),
    ("verbosity", "text.verbosity"),
];

/// Fields that have the same name in the internal form.
const SAME: [&str; 10] = [
    "metadata",
    "model",
    "parallel_tool_calls",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "temperature",
    "top_p",
    "user",
];

/// Reads a body, and makes what writes its reply.
pub(super) fn read(
    body: &[u8],
    hints: Hints,
    caller: Caller,
) -> Result<(Request, ReplyWriter), ApiError> {
    let fields = super::object(body)?;
    refuse_stored(&fields)?;
    let mut to = Translation::new(NAMES);
    to.survey("", &fields, BODY);
    for name in SAME {
        to.carry(&fields, name, name);
    }
    to.carry(&fields, "max_output_tokens", "max_completion_tokens");
    configuration("", &fields, &mut to)?;
    include(&fields, &mut to)?;
    let customs = tools(&fields, &mut to)?;
    tool_choice(&fields, &mut to)?;
    if let Some(instructions) = fields.get("instructions").filter(|it| !it.is_null()) {
        to.message("instructions", json!({"role": "system", "content": instructions}));
    }
    input(&fields, &mut to)?;
    let stream = flag(&fields, "stream")?;
    let request = to.request(Endpoint::Chat, stream, hints, caller)?;
    Ok((request, ReplyWriter::new(&fields, customs)))
}

/// What refers to something that a provider would have stored.
fn refuse_stored(fields: &Fields) -> Result<(), ApiError> {
    let is_set = |name: &&&str| fields.get(**name).is_some_and(|it| !it.is_null() && *it != false);
    match ["background", "conversation", "previous_response_id", "prompt"].iter().find(is_set) {
        None => Ok(()),
        Some(name) => {
            let what = "nothing is stored here; send the conversation as items of \"input\"";
            Err(ApiError::stored_state(name, what))
        }
    }
}

/// How hard the model tries and in which form it answers, by a body or by an item (`at` ends in a dot).
fn configuration(at: &str, fields: &Fields, to: &mut Translation) -> Result<(), ApiError> {
    if let Some(config) = fields.get("reasoning").filter(|it| !it.is_null()) {
        let at = format!("{at}reasoning");
        let config = object(config, &at)?;
        to.survey(&at, config, REASONING_CONFIG);
        to.carry(config, "effort", "reasoning_effort");
    }
    match fields.get("text").filter(|it| !it.is_null()) {
        Some(config) => text_config(&format!("{at}text"), config, to),
        None => Ok(()),
    }
}

fn text_config(at: &str, config: &Value, to: &mut Translation) -> Result<(), ApiError> {
    let config = object(config, at)?;
    to.survey(at, config, TEXT_CONFIG);
    to.carry(config, "verbosity", "verbosity");
    let Some(format) = config.get("format").filter(|it| !it.is_null()) else { return Ok(()) };
    let at = format!("{at}.format");
    let format = object(format, &at)?;
    to.survey(&at, format, FORMAT);
    let kind = format.get("type").cloned().unwrap_or_default();
    if kind == "json_schema" {
        let schema = only(format, &["description", "name", "schema", "strict"]);
        to.put("response_format", json!({"type": kind, "json_schema": schema}));
    } else {
        to.put("response_format", Value::Object(format.clone()));
    }
    Ok(())
}

/// What the client wants besides: log probabilities can be had, and encrypted thoughts, where there are
/// none, change nothing.
fn include(fields: &Fields, to: &mut Translation) -> Result<(), ApiError> {
    let mut scored = false;
    for wanted in list(fields.get("include"), "include")? {
        match wanted.as_str() {
            Some("message.output_text.logprobs") => scored = true,
            Some("reasoning.encrypted_content") => {}
            _ => {
                let what = "include: expected message.output_text.logprobs or \
                            reasoning.encrypted_content; hosted tools are not served";
                return Err(ApiError::invalid("include".to_owned(), what));
            }
        }
    }
    to.carry(fields, "top_logprobs", "top_logprobs");
    let wants_none = |top: &Value| top.is_null() || top == 0;
    if scored || !fields.get("top_logprobs").is_none_or(wants_none) {
        to.put("logprobs", true);
    }
    Ok(())
}

/// The tools; returns the names of the custom ones.
fn tools(fields: &Fields, to: &mut Translation) -> Result<BTreeSet<String>, ApiError> {
    let (mut tools, mut customs) = (Vec::new(), BTreeSet::new());
    for (index, tool) in list(fields.get("tools"), "tools")?.iter().enumerate() {
        let place = format!("tools[{index}]");
        let tool = object(tool, &place)?;
        match tool.get("type").and_then(Value::as_str) {
            Some("function") => {
                to.survey(&place, tool, FUNCTION);
                let function = only(tool, &["description", "name", "parameters", "strict"]);
                tools.push(json!({"type": "function", "function": function}));
            }
            Some("custom") => {
                to.survey(&place, tool, CUSTOM);
                let name = text(tool, "name", &place)?;
                customs.insert(name.to_owned());
                let function = custom(name, &place, tool, to)?;
                tools.push(json!({"type": "function", "function": function}));
            }
            _ => tools.push(Value::Object(tool.clone())),
        }
    }
    if !tools.is_empty() {
        to.put("tools", tools);
    }
    Ok(customs)
}

/// A tool that takes any text, as a function of one text. What its input must look like is told.
fn custom(name: &str, place: &str, tool: &Fields, to: &mut Translation) -> Result<Value, ApiError> {
    let mut description = text_if_any(tool, "description", place)?.unwrap_or_default().to_owned();
    if let Some(format) = tool.get("format").filter(|format| !format.is_null()) {
        let place = format!("{place}.format");
        let format = object(format, &place)?;
        to.survey(&place, format, CUSTOM_FORMAT);
        if let Some(definition) = text_if_any(format, "definition", &place)? {
            description.push_str("\nThe input follows this grammar:\n");
            description.push_str(definition);
        }
    }
    let schema = json!({
        "type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"],
        "additionalProperties": false,
    });
    Ok(json!({"name": name, "description": description, "parameters": schema}))
}

fn tool_choice(fields: &Fields, to: &mut Translation) -> Result<(), ApiError> {
    let Some(choice) = fields.get("tool_choice").filter(|choice| !choice.is_null()) else {
        return Ok(());
    };
    if choice["type"] != "allowed_tools" {
        let choice = chosen("tool_choice", choice, to);
        to.put("tool_choice", choice);
        return Ok(());
    }
    to.survey("tool_choice", object(choice, "tool_choice")?, ALLOWED_TOOLS);
    let place = "tool_choice.tools";
    let tools = list(choice.get("tools"), place)?.iter().enumerate();
    let tools = tools.map(|(index, tool)| chosen(&format!("{place}[{index}]"), tool, to));
    let tools: Vec<Value> = tools.collect();
    let allowed = json!({"mode": choice["mode"], "tools": tools});
    to.put("tool_choice", json!({"type": "allowed_tools", "allowed_tools": allowed}));
    Ok(())
}

/// A choice of one tool; anything else goes as it is.
fn chosen(place: &str, tool: &Value, to: &mut Translation) -> Value {
    match (tool["type"].as_str(), tool.as_object()) {
        (Some("function" | "custom"), Some(fields)) => {
            to.survey(place, fields, CHOSEN);
            json!({"type": "function", "function": {"name": tool["name"]}})
        }
        _ => tool.clone(),
    }
}

fn only(object: &Fields, names: &[&str]) -> Value {
    let kept =
        object.iter().filter(|(name, value)| names.contains(&name.as_str()) && !value.is_null());
    Value::Object(kept.map(|(name, value)| (name.clone(), value.clone())).collect())
}

fn input(fields: &Fields, to: &mut Translation) -> Result<(), ApiError> {
    match fields.get("input") {
        Some(Value::String(text)) => {
            to.message("input", json!({"role": "user", "content": text}));
            Ok(())
        }
        Some(Value::Array(items)) if !items.is_empty() => {
            for (index, value) in items.iter().enumerate() {
                let place = format!("input[{index}]");
                item(&place, object(value, &place)?, to)?;
            }
            Ok(())
        }
        _ => {
            let what = "input: expected a text or a list of items";
            Err(ApiError::invalid("input".to_owned(), what))
        }
    }
}

fn item(place: &str, item: &Fields, to: &mut Translation) -> Result<(), ApiError> {
    let kind = match item.get("type") {
        None | Some(Value::Null) if item.contains_key("role") => "message",
        // The one item that may leave its type out names something stored.
        None | Some(Value::Null) => "item_reference",
        Some(kind) => kind.as_str().unwrap_or_default(),
    };
    match kind {
        "message" => message(place, item, to),
        "function_call" | "custom_tool_call" => call(place, item, to),
        "function_call_output" | "custom_tool_call_output" => {
            to.survey(place, item, CALL_OUTPUT);
            let id = text(item, "call_id", place)?;
            let output = item.get("output").unwrap_or(&Value::Null);
            let content = parts(&format!("{place}.output"), output, to)?;
            to.message(place, json!({"role": "tool", "tool_call_id": id, "content": content}));
            Ok(())
        }
        "reasoning" => thoughts(place, item, to),
        // It holds from here on, so the last one is what the answer must keep to.
        "configuration_update" => {
            to.survey(place, item, CONFIGURATION_UPDATE);
            configuration(&format!("{place}."), item, to)
        }
        "item_reference" => {
            Err(ApiError::stored_state(place, "nothing is stored here; send the item itself"))
        }
        kind if is_hosted_part(kind) => {
            says(place, json!([item]), to);
            Ok(())
        }
        _ => {
            to.unknown(place.to_owned(), "", &Value::Object(item.clone()));
            Ok(())
        }
    }
}

fn message(place: &str, item: &Fields, to: &mut Translation) -> Result<(), ApiError> {
    to.survey(place, item, MESSAGE);
    let role = text(item, "role", place)?;
    let said = item.get("content").unwrap_or(&Value::Null);
    let content = parts(&format!("{place}.content"), said, to)?;
    match role {
        "assistant" => says(place, content, to),
        _ => to.message(place, json!({"role": role, "content": content})),
    }
    Ok(())
}

/// The assistant's turn that goes on: it only thought so far, or nobody has answered its calls, between
/// which and their results no upstream takes another message.
fn unfinished(to: &mut Translation) -> Option<&mut Fields> {
    to.last_of_assistant()
        .filter(|turn| turn.get("content") == Some(&Value::Null) || turn.contains_key("tool_calls"))
}

/// What the assistant said.
fn says(place: &str, content: Value, to: &mut Translation) {
    match unfinished(to) {
        None => to.message(place, json!({"role": "assistant", "content": content})),
        Some(turn) => {
            let before = turn.insert("content".to_owned(), Value::Null).unwrap_or_default();
            turn.insert("content".to_owned(), joined(before, content));
        }
    }
}

/// Two contents as one.
fn joined(first: Value, second: Value) -> Value {
    if first.is_null() {
        return second;
    }
    let parts = |content| match content {
        Value::Array(parts) => parts,
        text => vec![json!({"type": "text", "text": text})],
    };
    let mut all = parts(first);
    all.extend(parts(second));
    all.into()
}

/// A call joins the assistant's message that it followed.
fn call(place: &str, item: &Fields, to: &mut Translation) -> Result<(), ApiError> {
    to.survey(place, item, FUNCTION_CALL);
    let (id, name) = (text(item, "call_id", place)?, text(item, "name", place)?);
    let arguments = match item.get("type").and_then(Value::as_str) {
        Some("custom_tool_call") => json!({"input": text(item, "input", place)?}).to_string(),
        _ => text(item, "arguments", place)?.to_owned(),
    };
    let function = json!({"name": name, "arguments": arguments});
    let call = json!({"id": id, "type": "function", "function": function});
    if let Some(last) = to.last_of_assistant() {
        let calls = last.entry("tool_calls").or_insert_with(|| Value::Array(Vec::new()));
        if let Some(calls) = calls.as_array_mut() {
            calls.push(call);
        }
        return Ok(());
    }
    to.message(place, json!({"role": "assistant", "content": null, "tool_calls": [call]}));
    Ok(())
}

/// What the model thought before its next message or call.
fn thoughts(place: &str, item: &Fields, to: &mut Translation) -> Result<(), ApiError> {
    to.survey(place, item, REASONING);
    let mut thought = String::new();
    for name in ["content", "summary"] {
        for (index, part) in list(item.get(name), place)?.iter().enumerate() {
            let at = format!("{place}.{name}[{index}]");
            let part = object(part, &at)?;
            to.survey(&at, part, THOUGHT_PART);
            // A number that began where a word ends would be no number to a detector.
            if !thought.is_empty() {
                thought.push_str("\n\n");
            }
            thought.push_str(text(part, "text", &at)?);
        }
    }
    if thought.is_empty() {
        return Ok(());
    }
    let Some(turn) = unfinished(to) else {
        let message = json!({"role": "assistant", "content": null, "reasoning_content": thought});
        to.message(place, message);
        return Ok(());
    };
    if let Some(before) = turn.get("reasoning_content").and_then(Value::as_str) {
        thought = format!("{before}\n\n{thought}");
    }
    turn.insert("reasoning_content".to_owned(), thought.into());
    Ok(())
}

/// A text, or a list of parts.
fn parts(at: &str, said: &Value, to: &mut Translation) -> Result<Value, ApiError> {
    if said.is_string() {
        return Ok(said.clone());
    }
    let mut out = Vec::new();
    for (index, value) in list(Some(said), at)?.iter().enumerate() {
        let at = format!("{at}[{index}]");
        let fields = object(value, &at)?;
        let (table, part) = match fields.get("type").and_then(Value::as_str) {
            Some("input_text" | "output_text" | "text") => {
                (TEXT_PART, json!({"type": "text", "text": text(fields, "text", &at)?}))
            }
            Some("refusal") => {
                let why = text(fields, "refusal", &at)?;
                (REFUSAL_PART, json!({"type": "refusal", "refusal": why}))
            }
            Some("input_image") => (IMAGE_PART, image(&at, fields)?),
            Some("input_file") => {
                let file = only(fields, &["file_data", "file_id", "file_url", "filename"]);
                (FILE_PART, json!({"type": "file", "file": file}))
            }
            Some("input_audio") => (AUDIO_PART, only(fields, &["type", "input_audio"])),
            _ => {
                to.unknown(at, "", value);
                continue;
            }
        };
        to.survey(&at, fields, table);
        out.push(part);
    }
    Ok(content(out))
}

fn image(at: &str, part: &Fields) -> Result<Value, ApiError> {
    let file = only(part, &["file_id"]);
    match text_if_any(part, "image_url", at)? {
        None => Ok(json!({"type": "file", "file": only(part, &["detail", "file_id"])})),
        Some(_) if file != json!({}) => {
            let what = format!("{at}: expected image_url or file_id, got both");
            Err(ApiError::invalid(at.to_owned(), what))
        }
        Some(url) => {
            let mut image = only(part, &["detail"]);
            image["url"] = url.into();
            Ok(json!({"type": "image_url", "image_url": image}))
        }
    }
}

#[cfg(test)]
mod tests;
