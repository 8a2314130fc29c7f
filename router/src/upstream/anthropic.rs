//! Anthropic's side of the translation: a chat body as a request for its messages, and back.
//!
//! The internal form is OpenAI's. What has no words here (several choices, log probabilities, sound) is
//! turned away by the field's name, so that another upstream may be asked. What the internal form
//! carries for this protocol only (signed thoughts, marks for the cache, tools that run at the provider)
//! goes back to where it came from. Inside: `reply` (what comes back).
//!
//! Source: Anthropic's published API schema for messages, as of November 2026.

mod reply;

use std::borrow::Cow;

use serde_json::{Map, Value, json};

use super::UpstreamError;
use crate::api::ChatBody;
use crate::config::{Connection, PassField};

pub(super) use reply::{EventReader, completion, error};

/// The version of the protocol that is asked for.
pub(super) const VERSION: &str = "2023-06-01";
/// Tokens of a reply when the client sets no limit; this protocol wants one, and every model of it can
/// write as many.
const MAX_TOKENS_DEFAULT: u64 = 4096;

type Fields = Map<String, Value>;

/// Serialises a request for a server that knows the model as `model`.
pub(super) fn body(
    chat: &ChatBody,
    model: &str,
    way: &Connection,
) -> Result<Vec<u8>, UpstreamError> {
    let fields = &chat.fields;
    if chat.endpoint == sluice_policies::Endpoint::Embeddings {
        return Err(unsupported("input", "this upstream makes no vectors"));
    }
    if let Some((param, what)) = without_words(fields) {
        return Err(unsupported(param, what));
    }
    let Conversation { system, turns } = Conversation::of(fields)?;
    let mut out = Map::new();
    let mut put = |name: &str, value: Value| drop(out.insert(name.to_owned(), value));
    put("model", model.into());
    put("max_tokens", max_tokens(fields));
    put("messages", turns.into());
    put("stream", chat.stream.into());
    if !system.is_empty() {
        put("system", system.into());
    }
    for name in ["cache_control", "top_p", "top_k", "thinking"] {
        if let Some(value) = fields.get(name).filter(|value| !value.is_null()) {
            put(name, value.clone());
        }
    }
    // OpenAI's scale ends at 2, this one at 1.
    if let Some(temperature) = fields.get("temperature").and_then(Value::as_f64) {
        put("temperature", temperature.min(1.0).into());
    }
    match fields.get("stop") {
        Some(Value::String(text)) => put("stop_sequences", json!([text])),
        Some(list @ Value::Array(_)) => put("stop_sequences", list.clone()),
        _ => {}
    }
    if let Some(user) = fields.get("user").filter(|user| user.is_string()) {
        // Who asks is nobody's business there, unless the upstream's section says otherwise.
        if way.passes(PassField::User) {
            put("metadata", json!({"user_id": user}));
        }
    }
    let (servers, tools) = tools(fields)?;
    if !servers.is_empty() {
        put("mcp_servers", servers.into());
    }
    if !tools.is_empty() {
        put("tools", tools.into());
        if let Some(choice) = tool_choice(fields)? {
            put("tool_choice", choice);
        }
    }
    if let Some(config) = output_config(fields)? {
        put("output_config", config);
    }
    Ok(serde_json::to_vec(&out).expect("JSON can be written back"))
}

fn unsupported(param: impl Into<Cow<'static, str>>, what: &'static str) -> UpstreamError {
    UpstreamError::Unsupported { param: param.into(), what: what.into() }
}

fn invalid(param: String, what: &str) -> UpstreamError {
    UpstreamError::Invalid { param: param.into(), what: what.to_owned() }
}

/// What is asked for and cannot be said in this protocol.
fn without_words(fields: &Fields) -> Option<(&'static str, &'static str)> {
    let field = |name: &str| fields.get(name).unwrap_or(&Value::Null);
    let is_set = |name: &str| match field(name) {
        Value::Null | Value::Bool(false) => false,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
        Value::Bool(true) | Value::String(_) => true,
    };
    let several = field("n").as_u64().is_some_and(|n| n > 1);
    if several {
        return Some(("n", "this upstream gives one choice"));
    }
    let spoken = field("modalities").as_array().is_some_and(|m| m.iter().any(|m| m != "text"));
    if spoken {
        return Some(("modalities", "this upstream writes text only"));
    }
    if field("response_format")["type"] == "json_object" {
        return Some(("response_format", "this upstream needs a schema for JSON"));
    }
    const UNKNOWN: [&str; 12] = [
        "audio",
        "best_of",
        "echo",
        "frequency_penalty",
        "functions",
        "logit_bias",
        "logprobs",
        "min_p",
        "prediction",
        "presence_penalty",
        "suffix",
        "web_search_options",
    ];
    let unknown = UNKNOWN.into_iter().find(|name| is_set(name));
    unknown.map(|name| (name, "this upstream has no such setting"))
}

fn max_tokens(fields: &Fields) -> Value {
    let given = ["max_completion_tokens", "max_tokens"]
        .into_iter()
        .find_map(|name| fields.get(name).filter(|value| !value.is_null()));
    given.cloned().unwrap_or(MAX_TOKENS_DEFAULT.into())
}

/// The conversation as this protocol orders it: what the system says first, then turns of user and
/// assistant, of which no two neighbours are the same one's.
#[derive(Default)]
struct Conversation {
    system: Vec<Value>,
    turns: Vec<Value>,
}

impl Conversation {
    fn of(fields: &Fields) -> Result<Conversation, UpstreamError> {
        let mut conversation = Conversation::default();
        let messages = fields.get("messages").and_then(Value::as_array);
        for (index, message) in messages.into_iter().flatten().enumerate() {
            match message["role"].as_str() {
                Some("system" | "developer") => {
                    conversation.system.extend(blocks(&message["content"])?);
                }
                Some("assistant") => conversation.push("assistant", said(index, message)?),
                Some("tool") => conversation.push("user", vec![tool_result(message)?]),
                Some("function") => {
                    return Err(unsupported("messages", "this upstream takes results as \"tool\""));
                }
                _ => conversation.push("user", blocks(&message["content"])?),
            }
        }
        conversation.with_a_turn()
    }

    /// This protocol answers nobody who says nothing. Where the system speaks alone, its words are the
    /// user's turn: none are lost, and none are made up.
    fn with_a_turn(mut self) -> Result<Conversation, UpstreamError> {
        if self.turns.is_empty() {
            let said = std::mem::take(&mut self.system);
            self.push("user", said);
        }
        match self.turns.is_empty() {
            true => Err(unsupported("messages", "this upstream answers no empty messages")),
            false => Ok(self),
        }
    }

    /// Adds to the conversation; a turn of nothing is refused there, and left out.
    fn push(&mut self, role: &str, blocks: Vec<Value>) {
        if blocks.is_empty() {
            return;
        }
        if let Some(last) = self.turns.last_mut().filter(|turn| turn["role"] == role)
            && let Some(content) = last["content"].as_array_mut()
        {
            content.extend(blocks);
            return;
        }
        self.turns.push(json!({"role": role, "content": blocks}));
    }
}

/// What an assistant thought, said and called: thoughts where they stood, first if they do not say so.
fn said(index: usize, message: &Value) -> Result<Vec<Value>, UpstreamError> {
    for (name, what) in [
        ("audio", "this upstream keeps no sound"),
        ("function_call", "this upstream takes calls as \"tool_calls\""),
    ] {
        if !message[name].is_null() {
            return Err(unsupported(format!("messages[{index}].{name}"), what));
        }
    }
    let list = |name: &str| message[name].as_array().into_iter().flatten();
    let mut parts = blocks(&message["content"])?;
    parts.extend(blocks(&message["refusal"])?);
    let calls =
        list("tool_calls").map(|call| tool_use(index, call)).collect::<Result<Vec<_>, _>>()?;
    let (mut parts, mut calls) = (parts.into_iter(), calls.into_iter());
    let (part_count, call_count) = (parts.len(), calls.len());
    let mut out = Vec::new();
    for block in list("thinking_blocks").filter(|block| is_signed(block)) {
        let before = |name: &str| block[name].as_u64().map_or(0, |n| n as usize);
        let parts_said = part_count - parts.len();
        out.extend(parts.by_ref().take(before("parts_before").saturating_sub(parts_said)));
        let calls_said = call_count - calls.len();
        out.extend(calls.by_ref().take(before("calls_before").saturating_sub(calls_said)));
        out.push(thought(block));
    }
    out.extend(parts);
    out.extend(calls);
    Ok(out)
}

fn is_signed(block: &Value) -> bool {
    let signature = block["signature"].as_str().is_some_and(|signature| !signature.is_empty());
    signature || block["type"] == "redacted_thinking"
}

/// A block as it came from here, without what says where it stood.
fn thought(block: &Value) -> Value {
    let fields = block.as_object().into_iter().flatten();
    let its = |name: &str| matches!(name, "type" | "thinking" | "signature" | "data");
    fields
        .filter(|(name, _)| its(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// A call. Other protocols have calls of other kinds, and take arguments as a model wrote them, JSON or not.
fn tool_use(index: usize, call: &Value) -> Result<Value, UpstreamError> {
    let place = || format!("messages[{index}].tool_calls");
    if call["type"].as_str().is_some_and(|kind| kind != "function") {
        return Err(unsupported(place(), "this upstream calls functions only"));
    }
    let function = &call["function"];
    let name = function["name"].as_str();
    let name = name.ok_or_else(|| invalid(place(), "expected functions with a name"))?;
    let input = match function["arguments"].as_str() {
        None | Some("") => json!({}),
        Some(text) => serde_json::from_str(text).unwrap_or_default(),
    };
    if !input.is_object() {
        let what = "this upstream takes arguments that are a JSON object";
        return Err(unsupported(place(), what));
    }
    Ok(json!({"type": "tool_use", "id": call["id"], "name": name, "input": input}))
}

/// The result of a call. A mark on its last part is the result's own: both end at the same place.
fn tool_result(message: &Value) -> Result<Value, UpstreamError> {
    let id = &message["tool_call_id"];
    let mut block = json!({"type": "tool_result", "tool_use_id": id});
    block["content"] = match &message["content"] {
        text @ Value::String(_) => text.clone(),
        content => {
            let last = content.as_array().and_then(|parts| parts.last());
            let mark = last.map_or(&Value::Null, |last| &last["cache_control"]);
            let mut blocks = blocks(content)?;
            if !mark.is_null() {
                block["cache_control"] = mark.clone();
                if let Some(last) = blocks.last_mut().filter(|last| last["cache_control"] == *mark)
                {
                    last.as_object_mut().map(|last| last.remove("cache_control"));
                }
            }
            // A text is told in the same form with a mark as without: what is cached must not change with it.
            match &mut blocks[..] {
                [only] if is_plain(only) => only["text"].take(),
                _ => blocks.into(),
            }
        }
    };
    if message["is_error"] == true {
        block["is_error"] = true.into();
    }
    Ok(block)
}

fn is_plain(block: &Value) -> bool {
    let known = |name: &String| matches!(name.as_str(), "text" | "type");
    block["type"] == "text" && block.as_object().is_some_and(|fields| fields.keys().all(known))
}

/// The content of a message. Texts of nothing but white space are left out: this protocol refuses them.
fn blocks(content: &Value) -> Result<Vec<Value>, UpstreamError> {
    let is_blank = |text: &str| text.trim().is_empty();
    match content {
        Value::String(text) if !is_blank(text) => Ok(vec![json!({"type": "text", "text": text})]),
        Value::Array(parts) => {
            let said = parts.iter().filter(|part| !part["text"].as_str().is_some_and(is_blank));
            said.map(block).collect()
        }
        _ => Ok(Vec::new()),
    }
}

fn block(part: &Value) -> Result<Value, UpstreamError> {
    let mut block = match part["type"].as_str() {
        Some("text") => json!({"type": "text", "text": part["text"]}),
        Some("refusal") => json!({"type": "text", "text": part["refusal"]}),
        Some("image_url") => {
            let url = part["image_url"]["url"].as_str().or(part["image_url"].as_str());
            json!({"type": "image", "source": source(url.unwrap_or_default())})
        }
        Some("file") => document(&part["file"]),
        Some("input_audio") => {
            return Err(unsupported("messages", "this upstream does not listen to sound"));
        }
        Some("token_ids") => return Err(unsupported("prompt", "this upstream reads text only")),
        // Its own blocks, which travelled inside as they are.
        _ => part.clone(),
    };
    if !part["cache_control"].is_null() {
        block["cache_control"] = part["cache_control"].clone();
    }
    Ok(block)
}

/// A picture or document by address, or in the address itself.
fn source(url: &str) -> Value {
    let inline = url.get(..5).filter(|scheme| scheme.eq_ignore_ascii_case("data:"));
    match inline.and_then(|_| url[5..].split_once(";base64,")) {
        Some((media_type, data)) => {
            json!({"type": "base64", "media_type": media_type, "data": data})
        }
        None => json!({"type": "url", "url": url}),
    }
}

fn document(file: &Value) -> Value {
    let source = match (file["file_id"].as_str(), file["file_url"].as_str()) {
        (Some(id), _) => json!({"type": "file", "file_id": id}),
        (None, Some(url)) => json!({"type": "url", "url": url}),
        (None, None) => source(file["file_data"].as_str().unwrap_or_default()),
    };
    let mut block = json!({"type": "document", "source": source});
    if let Some(name) = file["filename"].as_str() {
        block["title"] = name.into();
    }
    block
}

/// The servers whose tools the provider uses, which have a field of their own there, and the tools.
fn tools(fields: &Fields) -> Result<(Vec<Value>, Vec<Value>), UpstreamError> {
    let (mut servers, mut tools) = (Vec::new(), Vec::new());
    for given in fields.get("tools").and_then(Value::as_array).into_iter().flatten() {
        match given["type"] == "mcp_server" {
            true => servers.push(given["server"].clone()),
            false => tools.push(tool(given)?),
        }
    }
    Ok((servers, tools))
}

fn tool(tool: &Value) -> Result<Value, UpstreamError> {
    match tool["type"].as_str() {
        Some("function") => {}
        Some("custom") => return Err(unsupported("tools", "this upstream calls functions only")),
        // Its own tools, which run at the provider.
        _ => return Ok(tool.clone()),
    }
    let function = &tool["function"];
    let schema = match &function["parameters"] {
        Value::Null => json!({"type": "object", "properties": {}}),
        schema => schema.clone(),
    };
    let mut out = json!({"name": function["name"], "input_schema": schema});
    for name in ["description", "strict"] {
        if !function[name].is_null() {
            out[name] = function[name].clone();
        }
    }
    if !tool["cache_control"].is_null() {
        out["cache_control"] = tool["cache_control"].clone();
    }
    Ok(out)
}

fn tool_choice(fields: &Fields) -> Result<Option<Value>, UpstreamError> {
    let one_call = fields.get("parallel_tool_calls") == Some(&Value::Bool(false));
    let mut choice = match fields.get("tool_choice") {
        None | Some(Value::Null) if !one_call => return Ok(None),
        None | Some(Value::Null) => json!({"type": "auto"}),
        Some(Value::String(word)) => match word.as_str() {
            "none" => return Ok(Some(json!({"type": "none"}))),
            "required" => json!({"type": "any"}),
            _ => json!({"type": "auto"}),
        },
        Some(named) if named["type"] == "function" => {
            json!({"type": "tool", "name": named["function"]["name"]})
        }
        Some(_) => return Err(unsupported("tool_choice", "this upstream has no such choice")),
    };
    if one_call {
        choice["disable_parallel_tool_use"] = true.into();
    }
    Ok(Some(choice))
}

/// How hard the model tries, and the form of its reply.
fn output_config(fields: &Fields) -> Result<Option<Value>, UpstreamError> {
    let mut config = Map::new();
    let effort = fields.get("reasoning_effort").and_then(Value::as_str);
    match effort {
        None | Some("none") => {}
        Some("minimal") => drop(config.insert("effort".to_owned(), "low".into())),
        Some(effort) => drop(config.insert("effort".to_owned(), effort.into())),
    }
    let format = fields.get("response_format").unwrap_or(&Value::Null);
    if format["type"] == "json_schema" {
        let schema = &format["json_schema"]["schema"];
        if !schema.is_object() {
            let param = "response_format.json_schema.schema".to_owned();
            return Err(invalid(param, "expected a JSON Schema"));
        }
        let format = json!({"type": "json_schema", "schema": schema});
        config.insert("format".to_owned(), format);
    }
    Ok((!config.is_empty()).then_some(Value::Object(config)))
}

#[cfg(test)]
mod tests;
