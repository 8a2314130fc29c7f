//! Anthropic's messages: the tables of their fields, and the way of a body into the internal form.
//!
//! Results of tools, which stand in a user's message here, become messages of their own before the rest
//! of it. Thoughts keep their signatures (`thinking_blocks`), marks for the cache stay where they are (a
//! result's on its last part; a call's is left behind), and tools that run at the provider travel as they
//! are: only an upstream of the same kind can take them.
//! Inside: `reply` (the way back).
//!
//! Source: Anthropic's published API schema (its Python SDK 2.14), as of November 2026.

mod reply;

use serde_json::{Value, json};
use sluice_policies::Endpoint;

use super::chat::{flag, is_hosted_part};
use super::flat::{flat, is_data_url};
use super::translation::{
    Fields,
    Kind::{Inert, Moved, Text},
    Table, Translation, content, list, object, text, text_if_any,
};
use super::{ApiError, Hints, Request};
use crate::identity::Caller;

pub(super) use reply::{EventWriter, error, models, whole};

const BODY: Table = &[
    ("billing_policy", Text),
    ("cache_control", Moved),
    ("compaction", Text),
    ("container", Moved),
    ("context_management", Text),
    ("diagnostics", Text),
    ("fallback_credit_token", Text),
    ("fallbacks", Text),
    ("inference_geo", Text),
    ("max_tokens", Moved),
    ("mcp_servers", Moved),
    ("messages", Moved),
    ("metadata", Moved),
    ("model", Moved),
    ("output_config", Moved),
    ("output_format", Moved),
    ("service_tier", Inert),
    ("speed", Inert),
    ("stop_sequences", Moved),
    ("stream", Moved),
    ("system", Moved),
    ("temperature", Moved),
    ("thinking", Moved),
    ("thread", Moved),
    ("tool_choice", Moved),
    ("tools", Moved),
    ("top_k", Moved),
    ("top_p", Moved),
    ("user_profile_id", Text),
    ("workspace_id", Text),
];
const METADATA: Table = &[("user_id", Moved)];
const OUTPUT_CONFIG: Table = &[("effort", Moved), ("format", Moved), ("task_budget", Inert)];
const FORMAT: Table = &[("name", Text), ("schema", Moved), ("type", Moved)];
const MESSAGE: Table =
    &[("clear_at", Text), ("content", Moved), ("output_config", Text), ("role", Moved)];
const TOOL: Table = &[
    ("allowed_callers", Text),
    ("cache_control", Moved),
    ("defer_loading", Inert),
    ("description", Moved),
    ("eager_input_streaming", Inert),
    ("input_examples", Text),
    ("input_schema", Moved),
    ("name", Moved),
    ("strict", Moved),
    ("type", Moved),
];
const TOOL_CHOICE: Table = &[("disable_parallel_tool_use", Moved), ("type", Moved)];
const TOOL_CHOICE_BY_NAME: Table =
    &[("disable_parallel_tool_use", Moved), ("name", Moved), ("type", Moved)];
const TEXT: Table =
    &[("cache_control", Moved), ("citations", Text), ("text", Moved), ("type", Moved)];
const IMAGE: Table =
    &[("cache_control", Moved), ("source", Moved), ("transformations", Text), ("type", Moved)];
const DOCUMENT: Table = &[
    ("cache_control", Moved),
    ("citations", Inert),
    ("context", Moved),
    ("source", Moved),
    ("title", Moved),
    ("type", Moved),
];
const SEARCH_RESULT: Table = &[
    ("cache_control", Moved),
    ("citations", Inert),
    ("content", Moved),
    ("source", Moved),
    ("title", Moved),
    ("type", Moved),
];
const TOOL_REFERENCE: Table = &[("cache_control", Moved), ("tool_name", Moved), ("type", Moved)];
const BROWSER_STATE: Table =
    &[("cache_control", Moved), ("state_changes", Moved), ("tabs", Moved), ("type", Moved)];
const FALLBACK: Table = &[("from", Text), ("to", Text), ("trigger", Text), ("type", Moved)];
const BASE64_SOURCE: Table = &[("data", Moved), ("media_type", Moved), ("type", Moved)];
const TEXT_SOURCE: Table = &[("data", Moved), ("media_type", Text), ("type", Moved)];
const CONTENT_SOURCE: Table = &[("content", Moved), ("type", Moved)];
const URL_SOURCE: Table = &[("type", Moved), ("url", Moved)];
const FILE_SOURCE: Table = &[("file_id", Moved), ("type", Moved)];
const THINKING: Table = &[("signature", Moved), ("thinking", Moved), ("type", Moved)];
const REDACTED_THINKING: Table = &[("data", Moved), ("type", Moved)];
const TOOL_USE: Table = &[
    ("cache_control", Inert),
    ("caller", Text),
    ("id", Moved),
    ("input", Moved),
    ("name", Moved),
    ("toolset_name", Text),
    ("type", Moved),
];
const TOOL_RESULT: Table = &[
    ("cache_control", Moved),
    ("content", Moved),
    ("is_error", Moved),
    ("tool_use_id", Moved),
    ("toolset_name", Text),
    ("type", Moved),
];

/// Names of the internal form, and the client's.
pub(super) const NAMES: &[(&str, &str)] = &[
    ("max_completion_tokens", "max_tokens"),
    ("parameters", "input_schema"),
    ("reasoning_effort", "output_config.effort"),
    ("response_format", "output_config.format"),
    ("stop", "stop_sequences"),
    ("user", "metadata.user_id"),
];

/// Reads a body that asks for a message.
pub(super) fn read(body: &[u8], hints: Hints, caller: Caller) -> Result<Request, ApiError> {
    let fields = super::object(body)?;
    if fields.get("max_tokens").and_then(Value::as_u64).is_none_or(|n| n == 0) {
        let what = "max_tokens: expected a whole number, at least 1";
        return Err(ApiError::invalid("max_tokens".to_owned(), what));
    }
    translate(&fields, hints, caller)
}

/// Reads a body whose tokens are to be counted.
pub(super) fn read_to_count(
    body: &[u8],
    hints: Hints,
    caller: Caller,
) -> Result<Request, ApiError> {
    translate(&super::object(body)?, hints, caller)
}

fn translate(fields: &Fields, hints: Hints, caller: Caller) -> Result<Request, ApiError> {
    for name in ["container", "thread"] {
        if fields.get(name).is_some_and(|kept| !kept.is_null()) {
            let what = format!("{name}: what a provider keeps between requests is not served");
            return Err(ApiError::invalid(name.to_owned(), what));
        }
    }
    let mut to = Translation::new(NAMES);
    to.survey("", fields, BODY);
    for name in ["cache_control", "model", "temperature", "thinking", "top_k", "top_p"] {
        to.carry(fields, name, name);
    }
    to.carry(fields, "max_tokens", "max_completion_tokens");
    to.carry(fields, "stop_sequences", "stop");
    if let Some(metadata) = fields.get("metadata").filter(|it| !it.is_null()) {
        let metadata = object(metadata, "metadata")?;
        to.survey("metadata", metadata, METADATA);
        to.carry(metadata, "user_id", "user");
    }
    output(fields, &mut to)?;
    tools(fields, &mut to)?;
    tool_choice(fields, &mut to)?;
    if let Some(system) = fields.get("system").filter(|system| !system.is_null()) {
        let content = content_of("system", system, &mut to)?;
        to.message("system", json!({"role": "system", "content": content}));
    }
    let messages = list(fields.get("messages"), "messages")?;
    if messages.is_empty() {
        let what = "messages: expected a list of at least one message";
        return Err(ApiError::invalid("messages".to_owned(), what));
    }
    for (index, message) in messages.iter().enumerate() {
        let place = format!("messages[{index}]");
        let message = object(message, &place)?;
        to.survey(&place, message, MESSAGE);
        read_message(&place, message, &mut to)?;
    }
    let session = fields.get("metadata").and_then(|metadata| metadata["user_id"].as_str());
    let session = session.filter(|id| !id.is_empty()).map(str::to_owned);
    let mut request = to.request(Endpoint::Chat, flag(fields, "stream")?, hints, caller)?;
    request.session_of_body = session;
    Ok(request)
}

fn read_message(place: &str, message: &Fields, to: &mut Translation) -> Result<(), ApiError> {
    let said = message.get("content").unwrap_or(&Value::Null);
    let at = format!("{place}.content");
    match message.get("role").and_then(Value::as_str) {
        Some("user") => user(place, &at, said, to),
        Some("assistant") => assistant(place, &at, said, to),
        // It may hold settings alone.
        Some("system") if said.is_null() => Ok(()),
        Some("system") => {
            let content = content_of(&at, said, to)?;
            to.message(place, json!({"role": "system", "content": content}));
            Ok(())
        }
        _ => {
            let what = "expected the role user or assistant";
            Err(ApiError::invalid(format!("{place}.role"), what))
        }
    }
}

/// A user's message: first the results of tools, each a message of its own.
fn user(place: &str, at: &str, said: &Value, to: &mut Translation) -> Result<(), ApiError> {
    if said.is_string() {
        to.message(place, json!({"role": "user", "content": said}));
        return Ok(());
    }
    let (mut parts, mut has_results) = (Vec::new(), false);
    for (index, block) in list(Some(said), at)?.iter().enumerate() {
        let at = format!("{at}[{index}]");
        let block = object(block, &at)?;
        if block.get("type").and_then(Value::as_str) != Some("tool_result") {
            parts.extend(part(&at, block, to)?);
            continue;
        }
        has_results = true;
        to.survey(&at, block, TOOL_RESULT);
        let id = text(block, "tool_use_id", &at)?;
        let said = block.get("content").unwrap_or(&Value::Null);
        let content = match said {
            Value::Null => Value::from(""),
            said => content_of(&format!("{at}.content"), said, to)?,
        };
        let content = marked(content, block.get("cache_control"));
        let mut message = json!({"role": "tool", "tool_call_id": id, "content": content});
        if let Some(is_error) = block.get("is_error") {
            message["is_error"] = is_error.clone();
        }
        to.message(&at, message);
    }
    if !parts.is_empty() || !has_results {
        to.message(place, json!({"role": "user", "content": content(parts)}));
    }
    Ok(())
}

/// A result with its mark for the cache, which its last part carries.
fn marked(content: Value, mark: Option<&Value>) -> Value {
    let Some(mark) = mark.filter(|mark| !mark.is_null()) else { return content };
    let mut parts = match content {
        Value::Array(parts) if !parts.is_empty() => parts,
        Value::Array(_) => vec![json!({"type": "text", "text": ""})],
        text => vec![json!({"type": "text", "text": text})],
    };
    if let Some(last) = parts.last_mut() {
        last["cache_control"] = mark.clone();
    }
    parts.into()
}

/// An assistant's message: thoughts, text, calls.
fn assistant(place: &str, at: &str, said: &Value, to: &mut Translation) -> Result<(), ApiError> {
    if said.is_string() {
        to.message(place, json!({"role": "assistant", "content": said}));
        return Ok(());
    }
    let (mut parts, mut calls, mut thoughts) = (Vec::new(), Vec::new(), Vec::new());
    let mut reasoning = String::new();
    for (index, block) in list(Some(said), at)?.iter().enumerate() {
        let at = format!("{at}[{index}]");
        let block = object(block, &at)?;
        match block.get("type").and_then(Value::as_str) {
            Some("tool_use") => {
                to.survey(&at, block, TOOL_USE);
                let (id, name) = (text(block, "id", &at)?, text(block, "name", &at)?);
                let input = block.get("input").map_or("{}".to_owned(), Value::to_string);
                let function = json!({"name": name, "arguments": input});
                calls.push(json!({"id": id, "type": "function", "function": function}));
            }
            Some("thinking") => {
                to.survey(&at, block, THINKING);
                reasoning.push_str(text(block, "thinking", &at)?);
                thoughts.push(placed(
                    only(block, &["type", "thinking", "signature"]),
                    &parts,
                    &calls,
                ));
            }
            Some("redacted_thinking") => {
                to.survey(&at, block, REDACTED_THINKING);
                thoughts.push(placed(only(block, &["type", "data"]), &parts, &calls));
            }
            _ => parts.extend(part(&at, block, to)?),
        }
    }
    let mut message = json!({"role": "assistant"});
    message["content"] = if parts.is_empty() { Value::Null } else { content(parts) };
    if !reasoning.is_empty() {
        message["reasoning_content"] = reasoning.into();
    }
    if !thoughts.is_empty() {
        message["thinking_blocks"] = thoughts.into();
    }
    if !calls.is_empty() {
        message["tool_calls"] = calls.into();
    }
    to.message(place, message);
    Ok(())
}

/// A block of thoughts that says how much was said before it, if anything was: a provider wants its own
/// back in their order.
fn placed(mut block: Value, parts: &[Value], calls: &[Value]) -> Value {
    // Empty texts are not sent on.
    let parts = parts.iter().filter(|part| part["text"] != "").count();
    for (name, count) in [("parts_before", parts), ("calls_before", calls.len())] {
        if count > 0 {
            block[name] = count.into();
        }
    }
    block
}

/// The fields of an object that go as they are.
fn only(object: &Fields, names: &[&str]) -> Value {
    let kept = object.iter().filter(|(name, _)| names.contains(&name.as_str()));
    Value::Object(kept.map(|(name, value)| (name.clone(), value.clone())).collect())
}

/// A text, or blocks that are parts of a message.
fn content_of(at: &str, said: &Value, to: &mut Translation) -> Result<Value, ApiError> {
    if said.is_string() {
        return Ok(said.clone());
    }
    let mut parts = Vec::new();
    for (index, block) in list(Some(said), at)?.iter().enumerate() {
        let at = format!("{at}[{index}]");
        parts.extend(part(&at, object(block, &at)?, to)?);
    }
    Ok(content(parts))
}

/// The parts that a block becomes; none of a block that nobody knows.
fn part(at: &str, block: &Fields, to: &mut Translation) -> Result<Vec<Value>, ApiError> {
    let kind = block.get("type").and_then(Value::as_str).unwrap_or_default();
    let mut parts = match kind {
        "text" => {
            to.survey(at, block, TEXT);
            vec![json!({"type": "text", "text": text(block, "text", at)?})]
        }
        "image" => {
            to.survey(at, block, IMAGE);
            vec![image(at, block, to)?]
        }
        "document" => {
            to.survey(at, block, DOCUMENT);
            document(at, block, to)?
        }
        "search_result" => {
            to.survey(at, block, SEARCH_RESULT);
            let mut parts = titles(at, block, &["title", "source"])?;
            parts.extend(parts_of(at, block.get("content"), to)?);
            parts
        }
        "tool_reference" => {
            to.survey(at, block, TOOL_REFERENCE);
            vec![json!({"type": "text", "text": text(block, "tool_name", at)?})]
        }
        // Models read it as a text that their server writes; any wording will do.
        "browser_state" => {
            to.survey(at, block, BROWSER_STATE);
            let state = only(block, &["state_changes", "tabs"]);
            vec![json!({"type": "text", "text": flat(&state, None)})]
        }
        // Where a provider went on with another model. No model reads it.
        "fallback" => {
            to.survey(at, block, FALLBACK);
            return Ok(Vec::new());
        }
        kind if is_hosted_part(kind) => return Ok(vec![Value::Object(block.clone())]),
        _ => {
            to.unknown(at.to_owned(), "", &Value::Object(block.clone()));
            return Ok(Vec::new());
        }
    };
    match (block.get("cache_control").filter(|mark| !mark.is_null()), parts.last_mut()) {
        (Some(mark), Some(last)) => last["cache_control"] = mark.clone(),
        (Some(mark), None) => to.unknown(format!("{at}.cache_control"), "cache_control", mark),
        (None, _) => {}
    }
    Ok(parts)
}

/// What a picture or document is made of.
enum Source<'v> {
    /// An address that holds the bytes, or says where they are.
    Address(String),
    /// A file at the provider.
    File(&'v str),
    Text(&'v str),
    Blocks(Option<&'v Value>),
}

fn source<'v>(at: &str, block: &'v Fields, to: &mut Translation) -> Result<Source<'v>, ApiError> {
    let source = object(block.get("source").unwrap_or(&Value::Null), at)?;
    let mut survey = |table| to.survey(at, source, table);
    match source.get("type").and_then(Value::as_str) {
        Some("base64") => {
            survey(BASE64_SOURCE);
            let media_type = text_if_any(source, "media_type", at)?;
            let media_type = media_type.unwrap_or("application/octet-stream");
            Ok(Source::Address(format!("data:{media_type};base64,{}", text(source, "data", at)?)))
        }
        Some("url") => {
            survey(URL_SOURCE);
            Ok(Source::Address(text(source, "url", at)?.to_owned()))
        }
        Some("file") => {
            survey(FILE_SOURCE);
            Ok(Source::File(text(source, "file_id", at)?))
        }
        Some("text") => {
            survey(TEXT_SOURCE);
            Ok(Source::Text(text(source, "data", at)?))
        }
        Some("content") => {
            survey(CONTENT_SOURCE);
            Ok(Source::Blocks(source.get("content")))
        }
        _ => {
            let what = "expected the type base64, url, file, text or content";
            Err(ApiError::invalid(format!("{at}.type"), what))
        }
    }
}

fn image(at: &str, block: &Fields, to: &mut Translation) -> Result<Value, ApiError> {
    let at = format!("{at}.source");
    match source(&at, block, to)? {
        Source::Address(url) => Ok(json!({"type": "image_url", "image_url": {"url": url}})),
        Source::File(id) => Ok(json!({"type": "file", "file": {"file_id": id}})),
        Source::Text(_) | Source::Blocks(_) => {
            Err(ApiError::invalid(at, "expected a picture, got text"))
        }
    }
}

fn document(at: &str, block: &Fields, to: &mut Translation) -> Result<Vec<Value>, ApiError> {
    let mut parts = titles(at, block, &["title", "context"])?;
    let at = format!("{at}.source");
    let file = match source(&at, block, to)? {
        Source::Text(text) => {
            parts.push(json!({"type": "text", "text": text}));
            return Ok(parts);
        }
        Source::Blocks(blocks) => {
            parts.extend(parts_of(&at, blocks, to)?);
            return Ok(parts);
        }
        Source::File(id) => json!({"file_id": id}),
        Source::Address(url) if is_data_url(&url) => json!({"file_data": url}),
        Source::Address(url) => json!({"file_url": url}),
    };
    parts.push(json!({"type": "file", "file": file}));
    Ok(parts)
}

/// What an object says of itself, each a text.
fn titles(at: &str, object: &Fields, names: &[&str]) -> Result<Vec<Value>, ApiError> {
    let mut parts = Vec::new();
    for name in names {
        if let Some(text) = text_if_any(object, name, at)? {
            parts.push(json!({"type": "text", "text": text}));
        }
    }
    Ok(parts)
}

/// Blocks below a place, or one text.
fn parts_of(at: &str, said: Option<&Value>, to: &mut Translation) -> Result<Vec<Value>, ApiError> {
    let at = format!("{at}.content");
    if let Some(Value::String(text)) = said {
        return Ok(vec![json!({"type": "text", "text": text})]);
    }
    let mut parts = Vec::new();
    for (index, block) in list(said, &at)?.iter().enumerate() {
        let at = format!("{at}[{index}]");
        parts.extend(part(&at, object(block, &at)?, to)?);
    }
    Ok(parts)
}

/// How hard the model tries, and the form of its reply.
fn output(fields: &Fields, to: &mut Translation) -> Result<(), ApiError> {
    let mut format = fields.get("output_format").map(|format| ("output_format", format));
    if let Some(config) = fields.get("output_config").filter(|it| !it.is_null()) {
        let config = object(config, "output_config")?;
        to.survey("output_config", config, OUTPUT_CONFIG);
        to.carry(config, "effort", "reasoning_effort");
        format = config.get("format").map(|it| ("output_config.format", it)).or(format);
    }
    let Some((place, format)) = format.filter(|(_, format)| !format.is_null()) else {
        return Ok(());
    };
    let format = object(format, place)?;
    to.survey(place, format, FORMAT);
    if format.get("type").and_then(Value::as_str) != Some("json_schema") {
        let what = format!("{place}: expected the type \"json_schema\"");
        return Err(ApiError::invalid(place.to_owned(), what));
    }
    let schema = json!({"name": "reply", "schema": format.get("schema"), "strict": true});
    to.put("response_format", json!({"type": "json_schema", "json_schema": schema}));
    Ok(())
}

fn tools(fields: &Fields, to: &mut Translation) -> Result<(), ApiError> {
    let mut tools = Vec::new();
    for (index, tool) in list(fields.get("tools"), "tools")?.iter().enumerate() {
        let place = format!("tools[{index}]");
        let tool = object(tool, &place)?;
        if tool.get("type").is_some_and(|kind| !kind.is_null() && kind != "custom") {
            tools.push(Value::Object(tool.clone()));
            continue;
        }
        to.survey(&place, tool, TOOL);
        let mut function = json!({"name": text(tool, "name", &place)?});
        for (from, into) in
            [("description", "description"), ("input_schema", "parameters"), ("strict", "strict")]
        {
            if let Some(value) = tool.get(from).filter(|value| !value.is_null()) {
                function[into] = value.clone();
            }
        }
        let mut out = json!({"type": "function", "function": function});
        if let Some(mark) = tool.get("cache_control").filter(|mark| !mark.is_null()) {
            out["cache_control"] = mark.clone();
        }
        tools.push(out);
    }
    for server in list(fields.get("mcp_servers"), "mcp_servers")? {
        tools.push(json!({"type": "mcp_server", "server": server}));
    }
    if !tools.is_empty() {
        to.put("tools", tools);
    }
    Ok(())
}

fn tool_choice(fields: &Fields, to: &mut Translation) -> Result<(), ApiError> {
    let Some(choice) = fields.get("tool_choice").filter(|choice| !choice.is_null()) else {
        return Ok(());
    };
    let choice = object(choice, "tool_choice")?;
    let kind = choice.get("type").and_then(Value::as_str);
    let table = if kind == Some("tool") { TOOL_CHOICE_BY_NAME } else { TOOL_CHOICE };
    to.survey("tool_choice", choice, table);
    let chosen: Value = match kind {
        Some("auto") => "auto".into(),
        Some("any") => "required".into(),
        Some("none") => "none".into(),
        Some("tool") => {
            let name = text(choice, "name", "tool_choice")?;
            json!({"type": "function", "function": {"name": name}})
        }
        _ => {
            let what = "tool_choice.type: expected auto, any, tool or none";
            return Err(ApiError::invalid("tool_choice.type".to_owned(), what));
        }
    };
    to.put("tool_choice", chosen);
    if flag(choice, "disable_parallel_tool_use")? {
        to.put("parallel_tool_calls", false);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
