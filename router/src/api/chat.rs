//! OpenAI's chat completions: the table of its fields, and the way from a body to a prompt.
//!
//! This is also the internal form: every dialect is translated into it, and what is scanned here is what
//! an upstream gets. For what OpenAI has no words for it has a few fields more: `thinking`,
//! `thinking_blocks`, `is_error` and `cache_control` as Anthropic means them, parts of type `token_ids`,
//! `file_url` in a file, and a provider's own tools and parts as they are.
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

use std::fmt::Write;
use std::sync::Arc;

use serde_json::{Map, Value};
use sluice_policies::{ContentKind, Endpoint, Prompt, RequestContext, Role, Text, Unscanned};

use super::flat::{flat, flatten, in_order, is_data_url, is_short};
use super::place::{self, Step};
use super::{ApiError, ChatBody, Hints, Native, Request, UnknownField};
use crate::identity::Caller;

/// Types of content parts that report what a provider's own tool does, or hold what it keeps: Anthropic's
/// blocks and the items of OpenAI's responses.
const HOSTED_PARTS: &[&str] = &[
    "additional_tools",
    "apply_patch_call",
    "apply_patch_call_output",
    "bash_code_execution_tool_result",
    "code_execution_tool_result",
    "code_interpreter_call",
    "compaction",
    "compaction_trigger",
    "computer_call",
    "computer_call_output",
    "container_upload",
    "file_search_call",
    "image_generation_call",
    "local_shell_call",
    "local_shell_call_output",
    "mcp_approval_request",
    "mcp_approval_response",
    "mcp_call",
    "mcp_list_tools",
    "mcp_tool_result",
    "mcp_tool_use",
    "program",
    "program_output",
    "server_tool_use",
    "shell_call",
    "shell_call_output",
    "text_editor_code_execution_tool_result",
    "tool_search_call",
    "tool_search_output",
    "tool_search_tool_result",
    "web_fetch_tool_result",
    "web_search_call",
    "web_search_tool_result",
];

/// Whether a part of this type is a provider's own.
pub(super) fn is_hosted_part(kind: &str) -> bool {
    HOSTED_PARTS.binary_search(&kind).is_ok()
}

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
    /// Texts, or token ids, that vectors are made of.
    Input,
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
    ("thinking", Kind::Text),
    ("tool_choice", Kind::Text),
    ("tools", Kind::Tools),
    ("top_k", Kind::Inert),
    ("top_logprobs", Kind::Inert),
    ("top_p", Kind::Inert),
    ("user", Kind::Text),
    ("verbosity", Kind::Inert),
    ("web_search_options", Kind::HostedTool),
];

/// What a legacy completion has besides.
const COMPLETION_FIELDS: &[(&str, Kind)] =
    &[("best_of", Kind::Inert), ("echo", Kind::Inert), ("suffix", Kind::Text)];

/// Every field of an embeddings body.
const EMBEDDING_FIELDS: &[(&str, Kind)] = &[
    ("dimensions", Kind::Inert),
    ("encoding_format", Kind::Inert),
    ("input", Kind::Input),
    ("model", Kind::Text),
    ("user", Kind::Text),
];

fn kind_of(name: &str, endpoint: Endpoint) -> Option<Kind> {
    let tables: &[&[(&str, Kind)]] = match endpoint {
        Endpoint::Chat => &[FIELDS],
        Endpoint::Completions => &[FIELDS, COMPLETION_FIELDS],
        Endpoint::Embeddings => &[EMBEDDING_FIELDS],
    };
    tables.iter().find_map(|table| {
        table.binary_search_by_key(&name, |(known, _)| known).ok().map(|at| table[at].1)
    })
}

/// Reads a body as a server gets it: strict about what OpenAI requires.
pub fn read(body: &[u8], hints: Hints, caller: Caller) -> Result<Request, ApiError> {
    let fields = super::object(body)?;
    let include_usage = match fields.get("stream_options") {
        Some(Value::Object(options)) => flag(options, "include_usage")?,
        _ => false,
    };
    let stream = flag(&fields, "stream")?;
    let lowered = Lowered { fields, endpoint: Endpoint::Chat, stream, include_usage };
    request(lowered, Native::default(), hints, caller)
}

/// A body in the internal form.
pub(super) struct Lowered {
    pub(super) fields: Map<String, Value>,
    pub(super) endpoint: Endpoint,
    pub(super) stream: bool,
    pub(super) include_usage: bool,
}

/// Makes a request of a body in the internal form, and of what its dialect left behind.
pub(super) fn request(
    lowered: Lowered,
    mut native: Native,
    hints: Hints,
    caller: Caller,
) -> Result<Request, ApiError> {
    let Lowered { fields, endpoint, stream, include_usage } = lowered;
    let model = match fields.get("model") {
        Some(Value::String(model)) if !model.is_empty() => model.clone(),
        _ => return Err(ApiError::invalid("model".to_owned(), "expected the name of a model")),
    };
    let Walk { mut prompt, mut unknown, .. } = Walk::over(&fields, endpoint)?;
    native.add_to(&mut prompt, &mut unknown);
    prompt.context = context(hints.context, &fields, &model, &caller);
    let chat = ChatBody { fields, model, stream, include_usage, endpoint, unknown, native };
    let session = hints.session;
    Ok(Request { id: hints.request_id, prompt: Arc::new(prompt), chat, session, caller })
}

/// The same request with other fields: a body in which placeholders stand for values.
pub(crate) fn with_fields(
    request: &Request,
    fields: Map<String, Value>,
) -> Result<Request, ApiError> {
    let chat = &request.chat;
    let Walk { mut prompt, mut unknown, .. } = Walk::over(&fields, chat.endpoint)?;
    let mut native = chat.native.clone();
    native.add_to(&mut prompt, &mut unknown);
    prompt.context = request.prompt.context.clone();
    let (model, stream, include_usage) = (chat.model.clone(), chat.stream, chat.include_usage);
    let endpoint = chat.endpoint;
    Ok(Request {
        id: request.id.clone(),
        prompt: Arc::new(prompt),
        chat: ChatBody { fields, model, stream, include_usage, endpoint, unknown, native },
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
    let mut prompt = Walk::over(fields, Endpoint::Chat)?.prompt;
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

pub(super) fn flag(fields: &Map<String, Value>, name: &str) -> Result<bool, ApiError> {
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
    endpoint: Endpoint,
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
    fn over(fields: &'a Map<String, Value>, endpoint: Endpoint) -> Result<Walk<'a>, ApiError> {
        let (needed, what) = match endpoint {
            Endpoint::Embeddings => ("input", "expected a text or a list of texts"),
            Endpoint::Chat | Endpoint::Completions => ("messages", "expected a list of messages"),
        };
        if !fields.contains_key(needed) {
            return Err(ApiError::invalid(needed.to_owned(), what));
        }
        let mut walk = Walk {
            prompt: Prompt::default(),
            unknown: Vec::new(),
            place: String::new(),
            path: Vec::new(),
            message: None,
            role: Role::Other,
            endpoint,
        };
        for (position, (name, value)) in in_order(fields).enumerate() {
            walk.at_key(name, position, |walk| walk.field(name, value))?;
        }
        Ok(walk)
    }

    fn field(&mut self, name: &str, value: &'a Value) -> Result<(), ApiError> {
        match kind_of(name, self.endpoint) {
            Some(Kind::Messages) => self.messages(value)?,
            Some(Kind::Tools) => self.tools(value),
            Some(Kind::Text) => self.text(value),
            Some(Kind::Inert) => self.inert(value),
            Some(Kind::Input) => self.input(value)?,
            Some(Kind::HostedTool) => {
                self.text(value);
                self.opaque(ContentKind::HostedTool);
            }
            None => self.unknown(name, value),
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

    /// Each text of an embeddings body is a message of its own: they have nothing to do with each other.
    fn input(&mut self, value: &'a Value) -> Result<(), ApiError> {
        self.role = Role::User;
        match value {
            Value::String(_) => {
                self.message = Some(0);
                self.text(value);
            }
            Value::Array(list) if list.iter().all(Value::is_string) && !list.is_empty() => {
                for (index, text) in list.iter().enumerate() {
                    self.message = Some(index);
                    self.at_index(index, |walk| walk.text(text));
                }
            }
            Value::Array(list) if !list.is_empty() => {
                self.opaque(ContentKind::TokenIds);
                self.text(value);
            }
            _ => return Err(self.expected("a text or a list of texts")),
        }
        (self.message, self.role) = (None, Role::Other);
        Ok(())
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
            "is_error" => self.inert(value),
            "thinking_blocks" => self.thinking_blocks(value),
            "audio" if value.is_null() => {}
            "audio" => {
                self.text(value);
                self.opaque(ContentKind::ProviderStoredState);
            }
            _ => self.unknown(name, value),
        }
        Ok(())
    }

    /// Thoughts with their signatures; some come encrypted.
    fn thinking_blocks(&mut self, value: &'a Value) {
        let Value::Array(blocks) = value else { return self.text(value) };
        for (index, block) in blocks.iter().enumerate() {
            self.at_index(index, |walk| match block["type"].as_str() {
                Some("redacted_thinking") => {
                    walk.opaque(ContentKind::EncryptedFile);
                    walk.text_without(block, "data");
                }
                _ => walk.text(block),
            });
        }
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
        let known = ["text", "refusal", "image_url", "input_audio", "file", "token_ids"];
        let kind = fields.get("type").and_then(Value::as_str);
        if kind.is_some_and(is_hosted_part) {
            self.text(part);
            self.opaque(ContentKind::HostedTool);
            return Ok(());
        }
        let kind = kind.filter(|kind| known.contains(kind));
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
            "cache_control" => self.inert(value),
            "token_ids" if kind == "token_ids" => self.opaque(ContentKind::TokenIds),
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
        self.opaque(match (value.get("file_id"), value.get("file_url")) {
            (Some(_), _) => ContentKind::FileReference,
            (None, Some(_)) => ContentKind::RemoteUrl,
            (None, None) => ContentKind::EncryptedFile,
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

fn role(value: Option<&Value>) -> Option<Role> {
    match value.and_then(Value::as_str)? {
        "system" | "developer" => Some(Role::System),
        "user" => Some(Role::User),
        "assistant" => Some(Role::Assistant),
        "tool" | "function" => Some(Role::Tool),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
