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

mod walk;

use std::sync::Arc;

use serde_json::{Map, Value};
use sluice_policies::{Endpoint, Prompt, RequestContext};

use super::{ApiError, ChatBody, Hints, Native, Request};
use crate::identity::Caller;
use walk::Walk;

/// Types of content parts that report what a provider's own tool does, or hold what it keeps: Anthropic's
/// blocks and the items of OpenAI's responses.
const HOSTED_PARTS: &[&str] = &[
    "additional_tools",
    "advisor_tool_result",
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
    "mcp_tool_listing",
    "mcp_tool_result",
    "mcp_tool_use",
    "program",
    "program_output",
    "server_tool_use",
    "shell_call",
    "shell_call_output",
    "text_editor_code_execution_tool_result",
    "tool_addition",
    "tool_removal",
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
    ("cache_control", Kind::Inert),
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
    ("moderation", Kind::Text),
    ("n", Kind::Inert),
    ("parallel_tool_calls", Kind::Inert),
    ("prediction", Kind::Text),
    ("presence_penalty", Kind::Inert),
    ("prompt_cache_key", Kind::Text),
    ("prompt_cache_options", Kind::Text),
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
    mut hints: Hints,
    caller: Caller,
) -> Result<Request, ApiError> {
    let Lowered { fields, endpoint, stream, include_usage } = lowered;
    let model = match fields.get("model") {
        Some(Value::String(model)) if !model.is_empty() => model.clone(),
        _ => return Err(ApiError::invalid("model".to_owned(), "expected the name of a model")),
    };
    let Walk { mut prompt, mut unknown, .. } = Walk::over(&fields, endpoint)?;
    native.add_to(&mut prompt, &mut unknown);
    prompt.texts.extend(hints.client.texts());
    prompt.context = context(std::mem::take(&mut hints.context), &fields, &model, &caller);
    let raw = None;
    let chat = ChatBody { fields, model, stream, include_usage, endpoint, raw, unknown, native };
    Ok(Request::new(hints, prompt, chat, caller))
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
    // Placeholders cannot stand in headers: what they hold is found again, and then all of it stays.
    prompt.texts.extend(request.client.texts());
    prompt.context = request.prompt.context.clone();
    let (model, stream, include_usage) = (chat.model.clone(), chat.stream, chat.include_usage);
    let (endpoint, raw) = (chat.endpoint, None);
    Ok(Request {
        id: request.id.clone(),
        prompt: Arc::new(prompt),
        alone: None,
        chat: ChatBody { fields, model, stream, include_usage, endpoint, raw, unknown, native },
        session: request.session.clone(),
        session_of_body: request.session_of_body.clone(),
        caller: request.caller.clone(),
        client: request.client.clone(),
        allowance: request.allowance.clone(),
    })
}

/// Reads any chat object as `sluice decide` gets it: `messages` (or `text`, one user message) and
/// whatever other fields of a chat request ride along. `headers` and `tags` objects of the batch
/// form are the caller's to take out first.
pub fn prompt_from_json(value: &Value) -> Result<Prompt, ApiError> {
    match value {
        Value::Object(fields) => prompt_from_fields(fields),
        _ => Err(ApiError::invalid(None, "expected a JSON object")),
    }
}

/// Like [`prompt_from_json`], from the fields of the object.
pub fn prompt_from_fields(fields: &Map<String, Value>) -> Result<Prompt, ApiError> {
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

#[cfg(test)]
mod tests;
