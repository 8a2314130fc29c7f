//! A chat completions body as a request to the engine.
//!
//! Every field that OpenAI's API has either reaches the engine, changes nothing by its nature (a user's
//! name, a hint about cost), or is turned away by name: nothing that was asked for is left out in
//! silence. Fields are taken as OpenAI takes them, legacy names of roles and calls included.

use std::borrow::Cow;

use serde_json::{Map, Value};
use sluice_engine::{
    ChatMessage, Conversation, GenerationRequest, PromptInput, ReplyFormat, SamplingOptions, Tool,
    ToolCall, ToolChoice,
};
use sluice_policies::Endpoint;

use crate::upstream::UpstreamError;

/// Texts that may end a reply, at most.
const STOP_TEXTS_MAX: usize = 16;
/// OpenAI's own limit.
const TOOLS_MAX: usize = 128;
/// Longest name of a tool; OpenAI's own limit.
const TOOL_NAME_BYTES_MAX: usize = 64;
const EFFORTS: [&str; 7] = ["none", "minimal", "low", "medium", "high", "xhigh", "max"];

type Fields = Map<String, Value>;

/// What is asked of the engine, and how often.
pub(super) struct Asked {
    pub(super) request: GenerationRequest,
    pub(super) choices: usize,
}

/// Reads a body. Errors name the field that is wrong or cannot be served.
pub(super) fn read(fields: &Fields, endpoint: Endpoint) -> Result<Asked, UpstreamError> {
    if let Some((param, what)) = unsupported(fields, endpoint) {
        return Err(UpstreamError::Unsupported { param: param.into(), what: what.into() });
    }
    let max_tokens = match whole_number(fields, "max_completion_tokens")? {
        None => whole_number(fields, "max_tokens")?,
        given => given,
    };
    let request = GenerationRequest {
        prompt: match endpoint {
            // A text that goes on is no turn of a conversation.
            Endpoint::Completions => PromptInput::Text(plain_text(fields)),
            Endpoint::Chat | Endpoint::Embeddings => PromptInput::Chat(conversation(fields)?),
        },
        sampling: sampling(fields)?,
        max_tokens,
        stop: stop(fields)?,
        format: format(fields)?,
        logprobs: logprobs(fields)?,
        wanted_within: None,
        reuse: None,
    };
    Ok(Asked { request, choices: whole_number(fields, "n")?.unwrap_or(1) })
}

/// What the request asks for and the engine cannot do.
fn unsupported(fields: &Fields, endpoint: Endpoint) -> Option<(&'static str, &'static str)> {
    let field = |name: &str| fields.get(name).unwrap_or(&Value::Null);
    let filled = |list: &Value| list.as_array().is_some_and(|l| !l.is_empty());
    if endpoint == Endpoint::Embeddings {
        return Some(("input", "the embedded model makes no vectors"));
    }
    if field("echo") == true {
        return Some(("echo", "the embedded model does not repeat its prompt"));
    }
    if field("suffix").as_str().is_some_and(|suffix| !suffix.is_empty()) {
        return Some(("suffix", "the embedded model writes on, not in between"));
    }
    if field("best_of").as_u64().is_some_and(|best_of| best_of > 1) {
        return Some(("best_of", "the embedded model does not compare its replies"));
    }
    if filled(field("functions")) && field("function_call").as_str() != Some("none") {
        return Some(("functions", "the embedded model takes functions as \"tools\""));
    }
    let tools = field("tools").as_array().map(Vec::as_slice).unwrap_or_default();
    if tools.iter().any(|tool| tool["type"].as_str().is_some_and(|kind| kind != "function")) {
        return Some(("tools", "the embedded model calls tools of type \"function\" only"));
    }
    let modalities = field("modalities").as_array().map(Vec::as_slice).unwrap_or_default();
    if modalities.iter().any(|m| m != "text") {
        return Some(("modalities", "the embedded model writes text only"));
    }
    if !field("web_search_options").is_null() {
        return Some(("web_search_options", "the embedded model searches nothing"));
    }
    messages(fields)
        .any(|m| !is_text_only(m))
        .then_some(("messages", "the embedded model reads text only: no pictures, sound or files"))
}

fn plain_text(fields: &Fields) -> String {
    let text = messages(fields).next().and_then(|message| message["content"].as_str());
    text.unwrap_or_default().to_owned()
}

fn messages(fields: &Fields) -> impl Iterator<Item = &Value> {
    fields.get("messages").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default().iter()
}

fn is_text_only(message: &Value) -> bool {
    let parts = message["content"].as_array().map(Vec::as_slice).unwrap_or_default();
    let calls = message["tool_calls"].as_array().map(Vec::as_slice).unwrap_or_default();
    let functions = |call: &Value| matches!(call["type"].as_str(), Some("function") | None);
    let text_parts = |part: &Value| matches!(part["type"].as_str(), Some("text" | "refusal"));
    parts.iter().all(text_parts) && calls.iter().all(functions)
}

fn conversation(fields: &Fields) -> Result<Conversation, UpstreamError> {
    let tools = tools(fields)?;
    let (tool_choice, tools) = tool_choice(fields, tools)?;
    let effort = word(fields, "reasoning_effort", &EFFORTS)?;
    Ok(Conversation {
        messages: messages(fields)
            .enumerate()
            .map(|(index, message)| chat_message(index, message))
            .collect::<Result<_, _>>()?,
        tools,
        tool_choice,
        one_call: flag(fields, "parallel_tool_calls")? == Some(false),
        // No effort at all means no thoughts.
        thinking: thinking(fields)?.or(effort.filter(|&e| e == "none").map(|_| false)),
        reasoning_effort: effort.map(str::to_owned),
    })
}

fn chat_message(index: usize, message: &Value) -> Result<ChatMessage, UpstreamError> {
    let role = match message["role"].as_str() {
        Some("developer") => "system",
        Some("function") => "tool",
        Some(role) => role,
        None => "user",
    };
    let content = match &message["content"] {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(part_text).collect::<Vec<_>>().join("\n"),
        _ => String::new(),
    };
    let text = |name: &str| message[name].as_str().map(str::to_owned);
    let calls = message["tool_calls"].as_array().map(Vec::as_slice).unwrap_or_default();
    let calls = calls.iter().map(|call| (call["id"].as_str(), &call["function"]));
    // One call, as messages had it before there were tools.
    let legacy = &message["function_call"];
    let calls = calls.chain((!legacy.is_null()).then_some((None, legacy)));
    Ok(ChatMessage {
        role: role.to_owned(),
        content,
        reasoning: text("reasoning_content").or_else(|| text("reasoning")),
        tool_calls: calls
            .map(|(id, function)| tool_call(index, id, function))
            .collect::<Result<_, _>>()?,
        tool_call_id: text("tool_call_id"),
        name: text("name"),
    })
}

fn tool_call(
    message: usize,
    id: Option<&str>,
    function: &Value,
) -> Result<ToolCall, UpstreamError> {
    let wrong = || {
        let param = format!("messages[{message}].tool_calls");
        invalid(param, "expected functions with a name and arguments, both texts")
    };
    let text = |name: &str| function[name].as_str().map(str::to_owned).ok_or_else(wrong);
    let id = id.unwrap_or_default().to_owned();
    Ok(ToolCall { id, name: text("name")?, arguments: text("arguments")? })
}

fn part_text(part: &Value) -> Option<&str> {
    part["text"].as_str().or_else(|| part["refusal"].as_str())
}

fn tools(fields: &Fields) -> Result<Vec<Tool>, UpstreamError> {
    let list = match fields.get("tools") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(list)) if list.len() <= TOOLS_MAX => list,
        Some(_) => return Err(invalid("tools", "expected a list of at most 128 tools")),
    };
    let tools: Vec<Tool> = list
        .iter()
        .enumerate()
        .map(|(index, tool)| read_tool(&format!("tools[{index}].function"), &tool["function"]))
        .collect::<Result<_, _>>()?;
    for (index, tool) in tools.iter().enumerate() {
        if tools[..index].iter().any(|other| other.name == tool.name) {
            let param = format!("tools[{index}].function.name");
            return Err(invalid(param, "expected a name that no other tool has"));
        }
    }
    Ok(tools)
}

fn read_tool(place: &str, function: &Value) -> Result<Tool, UpstreamError> {
    let wrong = |field: &str, what: &str| invalid(format!("{place}.{field}"), what);
    let name = function["name"].as_str().filter(|name| {
        let fits = (1..=TOOL_NAME_BYTES_MAX).contains(&name.len());
        fits && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
    });
    let name = name.ok_or_else(|| {
        wrong("name", "expected 1 to 64 letters, digits, underscores, dashes or dots")
    })?;
    let description = match &function["description"] {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        _ => return Err(wrong("description", "expected a text")),
    };
    let parameters = match &function["parameters"] {
        Value::Null => None,
        schema @ Value::Object(_) => Some(schema.clone()),
        _ => return Err(wrong("parameters", "expected a JSON Schema of an object")),
    };
    let strict = match &function["strict"] {
        Value::Null => false,
        Value::Bool(strict) => *strict,
        _ => return Err(wrong("strict", "expected true or false")),
    };
    Ok(Tool { name: name.to_owned(), description, parameters, strict })
}

/// The choice, and the tools that it leaves.
fn tool_choice(
    fields: &Fields,
    tools: Vec<Tool>,
) -> Result<(ToolChoice, Vec<Tool>), UpstreamError> {
    let wrong = || {
        let what = "expected \"none\", \"auto\", \"required\" or one of the request's tools";
        invalid("tool_choice", what)
    };
    let known = |name: &Value| {
        let name = name.as_str().filter(|name| tools.iter().any(|tool| tool.name == *name));
        name.map(str::to_owned).ok_or_else(wrong)
    };
    let mode = |word: &Value| match word.as_str() {
        Some("auto") => Ok(ToolChoice::Auto),
        Some("none") => Ok(ToolChoice::None),
        Some("required") if !tools.is_empty() => Ok(ToolChoice::Required),
        _ => Err(wrong()),
    };
    let choice = match fields.get("tool_choice") {
        None | Some(Value::Null) => ToolChoice::Auto,
        Some(word @ Value::String(_)) => mode(word)?,
        Some(choice) if choice["type"] == "function" => {
            ToolChoice::Named(known(&choice["function"]["name"])?)
        }
        Some(choice) if choice["type"] == "allowed_tools" => {
            let allowed = &choice["allowed_tools"];
            let names = allowed["tools"].as_array().ok_or_else(wrong)?.iter();
            let names: Vec<String> =
                names.map(|tool| known(&tool["function"]["name"])).collect::<Result<_, _>>()?;
            let choice = mode(&allowed["mode"])?;
            let tools = tools.into_iter().filter(|tool| names.contains(&tool.name)).collect();
            return Ok((choice, tools));
        }
        Some(_) => return Err(wrong()),
    };
    Ok((choice, tools))
}

/// Whether the model thinks first: a field of its own on some servers, an input of the chat template
/// on others.
fn thinking(fields: &Fields) -> Result<Option<bool>, UpstreamError> {
    let inputs = match fields.get("chat_template_kwargs") {
        None | Some(Value::Null) => {
            return Ok(flag(fields, "enable_thinking")?.or(anthropics_thinking(fields)));
        }
        Some(Value::Object(inputs)) => inputs,
        Some(_) => return Err(invalid("chat_template_kwargs", "expected an object")),
    };
    if inputs.keys().any(|key| key != "enable_thinking") {
        let what = "the embedded model's template takes \"enable_thinking\" only";
        let param = "chat_template_kwargs";
        return Err(UpstreamError::Unsupported { param: param.into(), what: what.into() });
    }
    match flag(inputs, "enable_thinking")? {
        None => flag(fields, "enable_thinking"),
        given => Ok(given),
    }
}

/// Anthropic's way to ask for thoughts; `adaptive` leaves it to the model.
fn anthropics_thinking(fields: &Fields) -> Option<bool> {
    match fields.get("thinking")?["type"].as_str()? {
        "enabled" => Some(true),
        "disabled" => Some(false),
        _ => None,
    }
}

fn format(fields: &Fields) -> Result<ReplyFormat, UpstreamError> {
    let format = fields.get("response_format").unwrap_or(&Value::Null);
    let described = &format["json_schema"];
    match format["type"].as_str() {
        None if format.is_null() => Ok(ReplyFormat::Text),
        Some("text") => Ok(ReplyFormat::Text),
        Some("json_object") => Ok(ReplyFormat::JsonObject),
        Some("json_schema") => match &described["schema"] {
            schema @ Value::Object(_) => Ok(ReplyFormat::JsonSchema {
                schema: schema.clone(),
                strict: described["strict"] == true,
            }),
            _ => Err(invalid("response_format.json_schema.schema", "expected a JSON Schema")),
        },
        _ => {
            let what = "expected the type \"text\", \"json_object\" or \"json_schema\"";
            Err(invalid("response_format", what))
        }
    }
}

fn logprobs(fields: &Fields) -> Result<Option<usize>, UpstreamError> {
    let asked = flag(fields, "logprobs")? == Some(true);
    match whole_number(fields, "top_logprobs")? {
        None => Ok(asked.then_some(0)),
        Some(0) if !asked => Ok(None),
        Some(_) if !asked => Err(invalid("top_logprobs", "expected logprobs to be true with it")),
        top => Ok(top),
    }
}

fn sampling(fields: &Fields) -> Result<SamplingOptions, UpstreamError> {
    Ok(SamplingOptions {
        temperature: number(fields, "temperature")?,
        top_k: whole_number(fields, "top_k")?,
        top_p: number(fields, "top_p")?,
        min_p: number(fields, "min_p")?,
        repetition_penalty: number(fields, "repetition_penalty")?,
        presence_penalty: number(fields, "presence_penalty")?,
        frequency_penalty: number(fields, "frequency_penalty")?,
        seed: seed(fields)?,
        logit_bias: logit_bias(fields)?,
    })
}

fn invalid(param: impl Into<Cow<'static, str>>, what: &str) -> UpstreamError {
    UpstreamError::Invalid { param: param.into(), what: what.to_owned() }
}

fn flag(fields: &Fields, name: &'static str) -> Result<Option<bool>, UpstreamError> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(value)) => Ok(Some(*value)),
        Some(_) => Err(invalid(name, "expected true or false")),
    }
}

fn word<'a>(
    fields: &'a Fields,
    name: &'static str,
    known: &[&str],
) -> Result<Option<&'a str>, UpstreamError> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(word)) if known.contains(&word.as_str()) => Ok(Some(word)),
        Some(_) => Err(invalid(name, &format!("expected one of {}", known.join(", ")))),
    }
}

fn number(fields: &Fields, name: &'static str) -> Result<Option<f32>, UpstreamError> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_f64() {
            Some(number) => Ok(Some(number as f32)),
            None => Err(invalid(name, "expected a number")),
        },
    }
}

fn whole_number(fields: &Fields, name: &'static str) -> Result<Option<usize>, UpstreamError> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_u64().and_then(|n| usize::try_from(n).ok()) {
            Some(number) => Ok(Some(number)),
            None => Err(invalid(name, "expected a whole number, not negative")),
        },
    }
}

/// OpenAI's seeds are signed; every one of them is a different seed here too.
fn seed(fields: &Fields) -> Result<Option<u64>, UpstreamError> {
    match fields.get("seed") {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_u64().or(value.as_i64().map(i64::cast_unsigned)) {
            Some(seed) => Ok(Some(seed)),
            None => Err(invalid("seed", "expected a whole number")),
        },
    }
}

fn logit_bias(fields: &Fields) -> Result<Vec<(u32, f32)>, UpstreamError> {
    let wrong = || invalid("logit_bias", "expected a map from token ids to numbers");
    let entries = match fields.get("logit_bias") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Object(entries)) => entries,
        Some(_) => return Err(wrong()),
    };
    let entry =
        |(token, bias): (&String, &Value)| Some((token.parse().ok()?, bias.as_f64()? as f32));
    entries.iter().map(|e| entry(e).ok_or_else(wrong)).collect()
}

fn stop(fields: &Fields) -> Result<Vec<String>, UpstreamError> {
    let wrong = || invalid("stop", "expected a text or at most 16 texts");
    match fields.get("stop") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::String(text)) => Ok(vec![text.clone()]),
        Some(Value::Array(texts)) if texts.len() <= STOP_TEXTS_MAX => {
            texts.iter().map(|t| t.as_str().map(str::to_owned).ok_or_else(wrong)).collect()
        }
        Some(_) => Err(wrong()),
    }
}

#[cfg(test)]
mod tests;
