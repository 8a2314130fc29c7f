//! The way from a body in the internal form to a prompt: every text with its place, and what cannot be read.

use std::fmt::Write;

use serde_json::{Map, Value};
use sluice_policies::{ContentKind, Endpoint, Prompt, Role, Text, Unscanned};

use super::{Kind, is_hosted_part, kind_of};
use crate::api::flat::{flat, flatten, in_order, is_data_url, is_short};
use crate::api::place::{self, Step};
use crate::api::{ApiError, UnknownField};

/// Collects texts and unscanned content while walking a body.
///
/// The place is one buffer that grows and shrinks with the walk; it is copied only for what is kept.
pub(super) struct Walk<'a> {
    pub(super) prompt: Prompt,
    pub(super) unknown: Vec<UnknownField>,
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
    /// Walks a whole body.
    pub(super) fn over(
        fields: &'a Map<String, Value>,
        endpoint: Endpoint,
    ) -> Result<Walk<'a>, ApiError> {
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
            Some(Kind::HostedTool) if value.is_null() => {}
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
            "cache_control" | "prompt_cache_breakpoint" => self.inert(value),
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
        if value.is_null() {
            return;
        }
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
        let is_there = |name: &str| value.get(name).is_some_and(|value| !value.is_null());
        let references =
            [("file_id", ContentKind::FileReference), ("file_url", ContentKind::RemoteUrl)];
        let references = references.into_iter().filter(|(name, _)| is_there(name));
        let mut kinds: Vec<ContentKind> = references.map(|(_, kind)| kind).collect();
        // What is no reference alone is a file.
        if is_there("file_data") || kinds.is_empty() {
            kinds.push(ContentKind::EncryptedFile);
        }
        kinds.into_iter().for_each(|kind| self.opaque(kind));
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
