//! A body of another dialect on its way into the internal form.
//!
//! A dialect has a table for each kind of object that its bodies hold. A field is *moved* (it becomes
//! part of the internal form, and is scanned there), *text* (it has no words there: scanned, and not
//! sent), *inert* (a number, a flag or a word: not sent, and scanned if it is anything else). A field
//! outside the table is unknown: scanned with its key, named as unscanned content, and not sent.
//!
//! So what an upstream can get is in the internal form, all of which is scanned; and what is not sent is
//! scanned all the same, because it is part of the conversation.

use serde_json::{Map, Value};
use sluice_policies::{ContentKind, Endpoint, Role, Text, Unscanned};

use super::chat::{self, Lowered};
use super::flat::{flat, flatten, in_order, is_short};
use super::{ApiError, Hints, Native, Request, place};
use crate::identity::Caller;

pub(super) type Fields = Map<String, Value>;

/// What becomes of a field.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    /// It is translated.
    Moved,
    /// Text that is scanned and not sent.
    Text,
    /// A number, a flag or a word that is not sent.
    Inert,
}

/// The fields of one kind of object, by name.
pub(super) type Table = &'static [(&'static str, Kind)];

/// Collects the internal form, and what is left behind.
#[derive(Default)]
pub(super) struct Translation {
    fields: Fields,
    messages: Vec<Value>,
    native: Native,
}

impl Translation {
    /// A translation into a form where these fields (internal name, client's name) have other names.
    pub(super) fn new(names: &'static [(&'static str, &'static str)]) -> Translation {
        Translation { native: Native { names, ..Native::default() }, ..Translation::default() }
    }

    /// Looks at every field of an object that the dialect does not move.
    pub(super) fn survey(&mut self, at: &str, object: &Fields, table: Table) {
        for (position, (name, value)) in in_order(object).enumerate() {
            let known = table.binary_search_by_key(&name.as_str(), |(known, _)| known);
            let kind = known.map(|at| table[at].1);
            if kind == Ok(Kind::Moved) {
                continue;
            }
            let mut place = at.to_owned();
            place::push_key(&mut place, name, position);
            match kind {
                Ok(Kind::Inert) if is_inert(value) => {}
                Ok(_) => self.text(place, value),
                Err(_) => self.unknown(place, name, value),
            }
        }
    }

    /// Scans what is not sent.
    fn text(&mut self, place: String, value: &Value) {
        let text = flat(value, None);
        if !text.is_empty() {
            self.native.texts.push(Text { place, message: None, role: Role::Other, text });
        }
    }

    /// Scans what nobody knows, with its key if it has one, and names it as unknown.
    pub(super) fn unknown(&mut self, place: String, name: &str, value: &Value) {
        let mut text = String::new();
        if !name.is_empty() {
            text.push_str(name);
            text.push_str(": ");
        }
        flatten(value, None, &mut text, 0);
        let (message, role) = (None, Role::Other);
        self.native.texts.push(Text { place: place.clone(), message, role, text });
        let kind = ContentKind::UnknownField;
        self.native.unscanned.push(Unscanned { kind, place });
    }

    /// Sets a field of the internal form. What it replaces is not sent, and scanned all the same.
    pub(super) fn put(&mut self, name: &str, value: impl Into<Value>) {
        let before = self.fields.insert(name.to_owned(), value.into());
        if let Some(before) = before.filter(|before| !is_inert(before)) {
            let place = super::renamed(name, self.native.names);
            self.text(place.unwrap_or_else(|| name.to_owned()), &before);
        }
    }

    /// Moves a field under another name, if it is there.
    pub(super) fn carry(&mut self, from: &Fields, name: &str, into: &str) {
        if let Some(value) = from.get(name).filter(|value| !value.is_null()) {
            self.put(into, value.clone());
        }
    }

    /// Adds a message, and says where it stood.
    pub(super) fn message(&mut self, place: &str, message: Value) {
        self.messages.push(message);
        self.native.messages.push(place.to_owned());
    }

    /// The last message, if it is an assistant's.
    pub(super) fn last_of_assistant(&mut self) -> Option<&mut Fields> {
        let last = self.messages.last_mut().filter(|message| message["role"] == "assistant");
        last.and_then(Value::as_object_mut)
    }

    /// The request.
    pub(super) fn request(
        mut self,
        endpoint: Endpoint,
        stream: bool,
        hints: Hints,
        caller: Caller,
    ) -> Result<Request, ApiError> {
        self.fields.insert("messages".to_owned(), self.messages.into());
        if stream {
            self.fields.insert("stream".to_owned(), true.into());
        }
        // The dialect tells the client what was counted, whether or not its client asks.
        let lowered = Lowered { fields: self.fields, endpoint, stream, include_usage: true };
        chat::request(lowered, self.native, hints, caller)
    }
}

fn is_inert(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(_) => true,
        Value::Number(number) => is_short(number),
        _ => false,
    }
}

/// The object at a place, or an error that names the place.
pub(super) fn object<'v>(value: &'v Value, place: &str) -> Result<&'v Fields, ApiError> {
    value.as_object().ok_or_else(|| ApiError::invalid(place.to_owned(), "expected an object"))
}

/// The list at a place; nothing is an empty list.
pub(super) fn list<'v>(value: Option<&'v Value>, place: &str) -> Result<&'v [Value], ApiError> {
    match value {
        None | Some(Value::Null) => Ok(&[]),
        Some(Value::Array(list)) => Ok(list),
        Some(_) => Err(ApiError::invalid(place.to_owned(), "expected a list")),
    }
}

/// The text at a place.
pub(super) fn text<'v>(fields: &'v Fields, name: &str, place: &str) -> Result<&'v str, ApiError> {
    let what = "expected a text";
    let text = fields.get(name).and_then(Value::as_str);
    text.ok_or_else(|| ApiError::invalid(format!("{place}.{name}"), what))
}

/// The text at a place, if anything is there.
pub(super) fn text_if_any<'v>(
    fields: &'v Fields,
    name: &str,
    place: &str,
) -> Result<Option<&'v str>, ApiError> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(_) => text(fields, name, place).map(Some),
    }
}

/// Content parts as a message has them: a single plain text is just that.
pub(super) fn content(mut parts: Vec<Value>) -> Value {
    match &mut parts[..] {
        [only] if only["type"] == "text" && only["cache_control"].is_null() => only["text"].take(),
        _ => parts.into(),
    }
}

#[cfg(test)]
pub(super) fn is_sorted(table: Table) -> bool {
    table.windows(2).all(|pair| pair[0].0 < pair[1].0)
}
