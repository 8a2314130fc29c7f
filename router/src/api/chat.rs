//! OpenAI's chat completions: the table of its fields, and the way from a body to a prompt.
//!
//! Each field is one of three kinds. *Text* is scanned. *Opaque* (pictures, sound, files, addresses,
//! hosted tools) cannot be, and is named with its kind so that policy answers for it. *Inert* is a
//! number, a boolean or a word of a closed list; a value of another type in an inert field is
//! scanned like text, so that nothing hides there. A field outside the table is scanned as text,
//! key included, and named as unknown.
//!
//! Source: OpenAI's published API schema for chat completions, as of November 2026; `top_k`,
//! `min_p`, `repetition_penalty`, `enable_thinking`, `chat_template_kwargs` and `reasoning_content` are
//! what compatible servers add.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use serde_json::{Map, Value};
use sluice_policies::{ContentKind, Prompt, RequestContext, Role, Text, Unscanned};

use super::place::{self, Step};
use super::{ApiError, ChatBody, Hints, Request, UnknownField};
use crate::identity::Caller;

/// Deepest nesting that is walked; the JSON reader stops at 128 anyway.
const DEPTH_MAX: usize = 128;
/// A number with at least this many digits may be a card or an id, wherever it stands.
const NUMBER_DIGITS_MIN: usize = 8;

/// What a field holds.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// Scanned: a text, or any JSON whose keys and values are scanned together.
    Text,
    /// A number, a boolean, a word.
    Inert,
    /// The conversation.
    Messages,
    /// Tool definitions; those that run at the provider are opaque.
    Tools,
    /// The provider searches the web.
    HostedTool,
}

/// Every field of a chat completions body.
const FIELDS: &[(&str, Kind)] = &[
    ("audio", Kind::Text),
    ("chat_template_kwargs", Kind::Text),
    ("enable_thinking", Kind::Inert),
    ("frequency_penalty", Kind::Inert),
    ("function_call", Kind::Text),
    ("functions", Kind::Text),
    ("logit_bias", Kind::Text),
    ("logprobs", Kind::Inert),
    ("max_completion_tokens", Kind::Inert),
    ("max_tokens", Kind::Inert),
    ("messages", Kind::Messages),
    ("metadata", Kind::Text),
    ("min_p", Kind::Inert),
    ("modalities", Kind::Text),
    ("model", Kind::Text),
    ("n", Kind::Inert),
    ("parallel_tool_calls", Kind::Inert),
    ("prediction", Kind::Text),
    ("presence_penalty", Kind::Inert),
    ("prompt_cache_key", Kind::Text),
    ("prompt_cache_retention", Kind::Inert),
    ("reasoning_effort", Kind::Inert),
    ("repetition_penalty", Kind::Inert),
    ("response_format", Kind::Text),
    ("safety_identifier", Kind::Text),
    ("seed", Kind::Inert),
    ("service_tier", Kind::Inert),
    ("stop", Kind::Text),
    ("store", Kind::Inert),
    ("stream", Kind::Inert),
    ("stream_options", Kind::Text),
    ("temperature", Kind::Inert),
    ("tool_choice", Kind::Text),
    ("tools", Kind::Tools),
    ("top_k", Kind::Inert),
    ("top_logprobs", Kind::Inert),
    ("top_p", Kind::Inert),
    ("user", Kind::Text),
    ("verbosity", Kind::Inert),
    ("web_search_options", Kind::HostedTool),
];

/// Reads a body as a server gets it: strict about what OpenAI requires.
pub fn read(body: &[u8], hints: Hints, caller: Caller) -> Result<Request, ApiError> {
    let value: Value = serde_json::from_slice(body).map_err(|e| ApiError::broken_json(&e))?;
    let Value::Object(fields) = value else {
        return Err(ApiError::invalid(None, "expected the body to be a JSON object"));
    };
    let model = match fields.get("model") {
        Some(Value::String(model)) if !model.is_empty() => model.clone(),
        _ => return Err(ApiError::invalid("model".to_owned(), "expected the name of a model")),
    };
    let stream = flag(&fields, "stream")?;
    let include_usage = match fields.get("stream_options") {
        Some(Value::Object(options)) => flag(options, "include_usage")?,
        _ => false,
    };
    let Walk { mut prompt, unknown, .. } = Walk::over(&fields)?;
    prompt.context = context(hints.context, &fields, &model, &caller);
    Ok(Request {
        id: hints.request_id,
        prompt: Arc::new(prompt),
        chat: ChatBody { fields, model, stream, include_usage, unknown },
        session: hints.session,
        caller,
    })
}

/// The same request with other fields: a body in which placeholders stand for values.
pub(crate) fn with_fields(
    request: &Request,
    fields: Map<String, Value>,
) -> Result<Request, ApiError> {
    let Walk { mut prompt, unknown, .. } = Walk::over(&fields)?;
    prompt.context = request.prompt.context.clone();
    let chat = &request.chat;
    let (model, stream, include_usage) = (chat.model.clone(), chat.stream, chat.include_usage);
    Ok(Request {
        id: request.id.clone(),
        prompt: Arc::new(prompt),
        chat: ChatBody { fields, model, stream, include_usage, unknown },
        session: request.session.clone(),
        caller: request.caller.clone(),
    })
}

/// Reads any chat object as `sluice decide` gets it: `messages` (or `text`, one user message) and
/// whatever other fields of a chat request ride along. `headers` and `tags` objects of the batch
/// form are the caller's to take out first.
pub fn prompt_from_json(value: &Value) -> Result<Prompt, ApiError> {
    let Value::Object(fields) = value else {
        return Err(ApiError::invalid(None, "expected a JSON object"));
    };
    let mut prompt = Walk::over(fields)?.prompt;
    let text = |name| fields.get(name).and_then(Value::as_str);
    prompt.context.model = text("model").unwrap_or_default().to_owned();
    prompt.context.latency = text("service_tier").and_then(tier_latency).map(str::to_owned);
    Ok(prompt)
}

fn context(
    mut context: RequestContext,
    fields: &Map<String, Value>,
    model: &str,
    caller: &Caller,
) -> RequestContext {
    context.model = model.to_owned();
    context.caller = caller.id.clone();
    context.tenant = caller.tenant.to_string();
    context.key_tags = caller.tags.clone();
    if context.latency.is_none() {
        let tier = fields.get("service_tier").and_then(Value::as_str);
        context.latency = tier.and_then(tier_latency).map(str::to_owned);
    }
    context
}

/// OpenAI's service tiers as latency classes; `auto` and `default` say nothing.
fn tier_latency(tier: &str) -> Option<&'static str> {
    match tier {
        "priority" => Some("interactive"),
        "flex" => Some("relaxed"),
        "batch" => Some("batch"),
        _ => None,
    }
}

fn flag(fields: &Map<String, Value>, name: &str) -> Result<bool, ApiError> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(value)) => Ok(*value),
        Some(_) => Err(ApiError::invalid(name.to_owned(), "expected true or false")),
    }
}

/// Collects texts and unscanned content while walking a body.
///
/// The place is one buffer that grows and shrinks with the walk; it is copied only for what is kept.
struct Walk<'a> {
    prompt: Prompt,
    unknown: Vec<UnknownField>,
    place: String,
    path: Vec<StepRef<'a>>,
    message: Option<usize>,
    role: Role,
}

/// A [`Step`] that borrows its key from the body.
#[derive(Clone, Copy)]
enum StepRef<'a> {
    Key(&'a str),
    Index(usize),
}

impl From<StepRef<'_>> for Step {
    fn from(step: StepRef<'_>) -> Step {
        match step {
            StepRef::Key(key) => Step::Key(key.to_owned()),
            StepRef::Index(index) => Step::Index(index),
        }
    }
}

impl<'a> Walk<'a> {
    fn over(fields: &'a Map<String, Value>) -> Result<Walk<'a>, ApiError> {
        if !fields.contains_key("messages") {
            return Err(ApiError::invalid("messages".to_owned(), "expected a list of messages"));
        }
        let mut walk = Walk {
            prompt: Prompt::default(),
            unknown: Vec::new(),
            place: String::new(),
            path: Vec::new(),
            message: None,
            role: Role::Other,
        };
        for (position, (name, value)) in in_order(fields).enumerate() {
            walk.at_key(name, position, |walk| walk.field(name, value))?;
        }
        Ok(walk)
    }

    fn field(&mut self, name: &str, value: &'a Value) -> Result<(), ApiError> {
        match FIELDS.binary_search_by_key(&name, |(known, _)| known).map(|at| FIELDS[at].1) {
            Ok(Kind::Messages) => self.messages(value)?,
            Ok(Kind::Tools) => self.tools(value),
            Ok(Kind::Text) => self.text(value),
            Ok(Kind::Inert) => self.inert(value),
            Ok(Kind::HostedTool) => {
                self.text(value);
                self.opaque(ContentKind::HostedTool);
            }
            Err(_) => self.unknown(name, value),
        }
        Ok(())
    }

    /// Does something one key further down.
    fn at_key<T>(&mut self, key: &'a str, position: usize, then: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.place.len();
        place::push_key(&mut self.place, key, position);
        self.below(StepRef::Key(key), length, then)
    }

    /// Does something one index further down.
    fn at_index<T>(&mut self, index: usize, then: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.place.len();
        // Writing to a String cannot fail.
        let _ = write!(self.place, "[{index}]");
        self.below(StepRef::Index(index), length, then)
    }

    fn below<T>(
        &mut self,
        step: StepRef<'a>,
        length: usize,
        then: impl FnOnce(&mut Self) -> T,
    ) -> T {
        self.path.push(step);
        let result = then(self);
        self.path.pop();
        self.place.truncate(length);
        result
    }

    fn messages(&mut self, value: &'a Value) -> Result<(), ApiError> {
        let list = match value {
            Value::Array(list) if !list.is_empty() => list,
            _ => return Err(self.expected("a list of at least one message")),
        };
        self.prompt.texts.reserve(list.len());
        for (index, message) in list.iter().enumerate() {
            self.message = Some(index);
            self.at_index(index, |walk| walk.message(message))?;
        }
        self.message = None;
        self.role = Role::Other;
        Ok(())
    }

    fn message(&mut self, message: &'a Value) -> Result<(), ApiError> {
        let Value::Object(fields) = message else { return Err(self.expected("a message object")) };
        self.role = role(fields.get("role")).ok_or_else(|| {
            ApiError::invalid(
                format!("{}.role", self.place),
                "expected one of system, developer, user, assistant, tool, function",
            )
        })?;
        for (position, (name, value)) in in_order(fields).enumerate() {
            if name != "role" {
                self.at_key(name, position, |walk| walk.message_field(name, value))?;
            }
        }
        Ok(())
    }

    fn message_field(&mut self, name: &str, value: &'a Value) -> Result<(), ApiError> {
        match name {
            "content" => self.content(value)?,
            "name" | "refusal" | "tool_call_id" | "reasoning_content" | "reasoning"
            | "tool_calls" | "function_call" => self.text(value),
            "audio" if value.is_null() => {}
            "audio" => {
                self.text(value);
                self.opaque(ContentKind::ProviderStoredState);
            }
            _ => self.unknown(name, value),
        }
        Ok(())
    }

    fn content(&mut self, value: &'a Value) -> Result<(), ApiError> {
        match value {
            Value::Null => {}
            Value::String(_) => self.text(value),
            Value::Array(parts) => {
                for (index, part) in parts.iter().enumerate() {
                    self.at_index(index, |walk| walk.part(part))?;
                }
            }
            _ => return Err(self.expected("a text or a list of parts")),
        }
        Ok(())
    }

    fn part(&mut self, part: &'a Value) -> Result<(), ApiError> {
        let Value::Object(fields) = part else {
            return Err(self.expected("a content part object"));
        };
        let known = ["text", "refusal", "image_url", "input_audio", "file"];
        let kind = fields.get("type").and_then(Value::as_str).filter(|kind| known.contains(kind));
        let Some(kind) = kind else {
            self.unknown("", part);
            return Ok(());
        };
        for (position, (name, value)) in in_order(fields).enumerate() {
            self.at_key(name, position, |walk| walk.part_field(kind, name, value));
        }
        Ok(())
    }

    fn part_field(&mut self, kind: &str, name: &str, value: &Value) {
        match name {
            "type" => {}
            "image_url" if kind == "image_url" => self.image(value),
            "input_audio" if kind == "input_audio" => {
                self.opaque(ContentKind::Audio);
                self.text_without(value, "data");
            }
            "file" if kind == "file" => self.file(value),
            name if name == kind => self.text(value),
            _ => self.unknown(name, value),
        }
    }

    fn image(&mut self, value: &Value) {
        self.opaque(ContentKind::Image);
        let url = value.get("url").or(Some(value)).and_then(Value::as_str).unwrap_or_default();
        if !is_data_url(url) {
            self.opaque(ContentKind::RemoteUrl);
            self.text(value);
        } else if value.is_object() {
            self.text_without(value, "url");
        }
    }

    fn file(&mut self, value: &Value) {
        self.opaque(match value.get("file_id") {
            Some(_) => ContentKind::FileReference,
            None => ContentKind::EncryptedFile,
        });
        self.text_without(value, "file_data");
    }

    fn tools(&mut self, value: &'a Value) {
        let Value::Array(list) = value else { return self.text(value) };
        for (index, tool) in list.iter().enumerate() {
            self.at_index(index, |walk| {
                walk.text(tool);
                let kind = tool.get("type").and_then(Value::as_str);
                if !matches!(kind, Some("function" | "custom")) {
                    walk.opaque(ContentKind::HostedTool);
                }
            });
        }
    }

    /// Scans a value: a text as it is, anything else flattened with its keys.
    fn text(&mut self, value: &Value) {
        let text = match value {
            Value::Null | Value::Bool(_) => return,
            Value::String(text) if text.is_empty() => return,
            Value::String(text) => text.clone(),
            other => flat(other, None),
        };
        self.push(text);
    }

    /// Scans all of an object but the bytes that were named as opaque.
    fn text_without(&mut self, value: &Value, opaque: &str) {
        self.push(flat(value, Some(opaque)));
    }

    fn push(&mut self, text: String) {
        let (place, message, role) = (self.place.clone(), self.message, self.role);
        self.prompt.texts.push(Text { place, message, role, text });
    }

    fn inert(&mut self, value: &Value) {
        match value {
            Value::Null | Value::Bool(_) => {}
            Value::Number(number) if is_short(number) => {}
            other => self.text(other),
        }
    }

    fn opaque(&mut self, kind: ContentKind) {
        self.prompt.unscanned.push(Unscanned { kind, place: self.place.clone() });
    }

    fn unknown(&mut self, name: &str, value: &Value) {
        let mut text = String::new();
        if !name.is_empty() {
            text.push_str(name);
            text.push_str(": ");
        }
        flatten(value, None, &mut text, 0);
        self.push(text);
        self.opaque(ContentKind::UnknownField);
        let path = self.path.iter().map(|&step| step.into()).collect();
        self.unknown.push(UnknownField { place: self.place.clone(), path });
    }

    fn expected(&self, what: &str) -> ApiError {
        ApiError::invalid(self.place.clone(), format!("expected {what}"))
    }
}

/// The fields of an object by name: what a request is classified as must not depend on the order in which a
/// client writes them.
fn in_order(fields: &Map<String, Value>) -> impl Iterator<Item = (&String, &Value)> {
    fields.iter().collect::<BTreeMap<_, _>>().into_iter()
}

/// Whether a number is too short to be a card or an id.
fn is_short(number: &serde_json::Number) -> bool {
    let small = |n: f64| n.abs() < 1e7 && n.fract() == 0.0;
    number.as_f64().is_some_and(small)
        || number.to_string().bytes().filter(u8::is_ascii_digit).count() < NUMBER_DIGITS_MIN
}

fn role(value: Option<&Value>) -> Option<Role> {
    match value.and_then(Value::as_str)? {
        "system" | "developer" => Some(Role::System),
        "user" => Some(Role::User),
        "assistant" => Some(Role::Assistant),
        "tool" | "function" => Some(Role::Tool),
        _ => None,
    }
}

fn is_data_url(url: &str) -> bool {
    url.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("data:"))
}

fn flat(value: &Value, skip: Option<&str>) -> String {
    let mut text = String::new();
    flatten(value, skip, &mut text, 0);
    text
}

/// Writes a JSON value as lines of `key: text`. Strings stay as they are: JSON's own escapes would
/// put a letter in front of a number (`\n078…`) and hide it from detectors that look for edges.
fn flatten(value: &Value, skip: Option<&str>, out: &mut String, depth: usize) {
    if depth > DEPTH_MAX {
        return;
    }
    match value {
        Value::Null => {}
        Value::Bool(flag) => out.push_str(if *flag { "true\n" } else { "false\n" }),
        Value::Number(number) => {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{number}");
        }
        Value::String(text) => {
            out.push_str(text);
            out.push('\n');
            if let Some(inner) = embedded_json(text) {
                flatten(&inner, None, out, depth + 1);
            }
        }
        Value::Array(list) => {
            for item in list {
                flatten(item, None, out, depth + 1);
            }
        }
        Value::Object(map) => {
            // In the order of the keys: the same call written in another order is the same text.
            let mut fields: Vec<_> = map.iter().filter(|(k, _)| Some(k.as_str()) != skip).collect();
            fields.sort_unstable_by_key(|(key, _)| *key);
            for (key, inner) in fields {
                out.push_str(key);
                out.push_str(": ");
                flatten(inner, None, out, depth + 1);
            }
        }
    }
}

/// A text that is JSON itself and has escapes in it: arguments of tool calls come so.
fn embedded_json(text: &str) -> Option<Value> {
    if !text.contains('\\') || !text.trim_start().starts_with(['{', '[']) {
        return None;
    }
    serde_json::from_str(text).ok()
}

#[cfg(test)]
mod tests;
