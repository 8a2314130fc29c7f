//! The dialects that clients speak, and the one form that the gateway works with.
//!
//! A dialect parses a body once into a [`Request`]: the prompt that policy sees, and the JSON that an
//! upstream gets. Both come from the same parsed value, so what was scanned is what is sent, even
//! for bodies with duplicate keys or odd escapes.
//!
//! The one form is OpenAI's chat completion (`chat`). Every other dialect has a file that translates its
//! body into it and its replies out of it; the gateway and the scan of replies see the one form only.
//!
//! Invariants: a field outside the dialect's table is scanned and named as unscanned content, never
//! ignored; no error text quotes the body. Not here: HTTP (`server`), decisions (`gateway`).

pub mod chat;
mod client_headers;
mod completions;
mod dialect;
mod embeddings;
mod error;
mod flat;
mod messages;
pub mod passthrough;
mod place;
pub mod responses;
mod said;
#[cfg(test)]
mod testing;
mod translation;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use hyper::HeaderMap;
use hyper::header::HeaderName;
use serde_json::{Map, Value};
use sluice_policies::{ContentKind, Endpoint, Prompt, RequestContext, Text, Unscanned};

pub use client_headers::{ClientHeaders, WantedHeaders};
pub use dialect::{Dialect, Voice, answer, expects_anthropic, in_anthropics_words, is_served};
pub use error::ApiError;

use crate::identity::Caller;
use crate::limit::Allowance;
use place::Step;

/// Longest value of a `x-sluice-*` request header, bytes.
const HINT_BYTES_MAX: usize = 256;
/// Most tags that a client may send.
const TAGS_MAX: usize = 32;

/// A request in the form that every dialect lowers to.
pub struct Request {
    /// `x-request-id`: the client's, or minted.
    pub id: String,
    /// What policy sees.
    pub prompt: Arc<Prompt>,
    /// The part of it that this request alone sends, where it is one of several that are decided together.
    pub alone: Option<Arc<Prompt>>,
    /// What an upstream gets.
    pub chat: ChatBody,
    /// What ties the turns of a conversation together, if the client says (`x-sluice-session`).
    pub session: Option<String>,
    /// What the body says of that, where the config lets it count: Anthropic's `metadata.user_id`.
    pub session_of_body: Option<String>,
    /// Who calls.
    pub caller: Caller,
    /// Headers that may go along.
    pub client: ClientHeaders,
    /// What limits let it use, once it is admitted.
    pub allowance: Option<Arc<Allowance>>,
}

impl Request {
    /// A request as it comes: one of its own, not yet admitted.
    fn new(hints: Hints, prompt: Prompt, chat: ChatBody, caller: Caller) -> Request {
        let Hints { session, request_id: id, client, .. } = hints;
        Request {
            id,
            prompt: Arc::new(prompt),
            alone: None,
            chat,
            session,
            session_of_body: None,
            caller,
            client,
            allowance: None,
        }
    }

    /// What this request alone sends.
    pub fn own_prompt(&self) -> &Prompt {
        self.alone.as_ref().unwrap_or(&self.prompt)
    }
}

/// A chat completions body, parsed once.
pub struct ChatBody {
    /// The body; each key occurs once.
    pub fields: Map<String, Value>,
    /// The model as the client names it.
    pub model: String,
    /// The client wants server-sent events.
    pub stream: bool,
    /// The client asked for a usage chunk at the end of the stream.
    pub include_usage: bool,
    /// What kind of answer it asks for.
    pub endpoint: Endpoint,
    /// The body itself, if no dialect knows it.
    pub raw: Option<passthrough::RawBody>,
    unknown: Vec<UnknownField>,
    native: Native,
}

/// A field that the dialect's table does not list. One without a path has no words in the internal form
/// and was left behind already.
struct UnknownField {
    place: String,
    path: Vec<Step>,
}

/// What is kept of a body that was translated.
#[derive(Clone, Default)]
struct Native {
    /// Where each message of the internal form stood.
    messages: Vec<String>,
    /// Fields that have another name in the internal form: that name, and the client's.
    names: &'static [(&'static str, &'static str)],
    /// Texts that were left behind. They are scanned once, with the body that they came in.
    texts: Vec<Text>,
    /// What was left behind and cannot be scanned; unknown fields are among it.
    unscanned: Vec<Unscanned>,
}

impl Native {
    /// Writes places as the client knows them, and adds what was left behind.
    fn add_to(&mut self, prompt: &mut Prompt, unknown: &mut Vec<UnknownField>) {
        let places = prompt.texts.iter_mut().map(|text| &mut text.place);
        let places = places.chain(prompt.unscanned.iter_mut().map(|it| &mut it.place));
        for place in places.chain(unknown.iter_mut().map(|field| &mut field.place)) {
            if let Some(native) = self.place(place) {
                *place = native;
            }
        }
        prompt.texts.append(&mut self.texts);
        prompt.unscanned.extend(self.unscanned.iter().cloned());
        let left = self.unscanned.iter().filter(|it| it.kind == ContentKind::UnknownField);
        unknown.extend(left.map(|it| UnknownField { place: it.place.clone(), path: Vec::new() }));
    }

    /// A place of the internal form as the client knows it; `None` if it is the same.
    fn place(&self, place: &str) -> Option<String> {
        if let Some(rest) = place.strip_prefix("messages[")
            && let Some((index, rest)) = rest.split_once(']')
        {
            let native = self.messages.get(index.parse::<usize>().ok()?)?;
            return Some(format!("{native}{rest}"));
        }
        // Other dialects say of a tool itself what describes its function.
        if !self.names.is_empty()
            && place.starts_with("tools[")
            && let Some((tool, field)) = place.split_once(".function.")
        {
            let native = renamed(field, self.names);
            return Some(format!("{tool}.{}", native.as_deref().unwrap_or(field)));
        }
        renamed(place, self.names)
    }
}

/// A place whose first name is another in the client's body; `None` if it is the same.
fn renamed(place: &str, names: &[(&str, &str)]) -> Option<String> {
    let end = place.find(['.', '[']).unwrap_or(place.len());
    let (name, rest) = place.split_at(end);
    let native = names.iter().find(|(internal, _)| *internal == name)?.1;
    Some(format!("{native}{rest}"))
}

impl ChatBody {
    /// A place of the internal form as the client's dialect names it; `None` if it is the same.
    pub(crate) fn client_place(&self, place: &str) -> Option<String> {
        self.native.place(place)
    }

    /// Removes the unknown fields at these places (`Classification::strip`) and returns the places
    /// that were removed.
    pub fn strip(&mut self, places: &[String]) -> Vec<String> {
        let places: HashSet<&str> = places.iter().map(String::as_str).collect();
        let mut removed = Vec::new();
        // From the back: removing `content[1]` must not move `content[2]` before its turn.
        for unknown in self.unknown.iter().rev().filter(|u| places.contains(&*u.place)) {
            if unknown.path.is_empty() || place::remove(&mut self.fields, &unknown.path) {
                removed.push(unknown.place.clone());
            }
        }
        removed.reverse();
        let gone: HashSet<&str> = removed.iter().map(String::as_str).collect();
        self.native.unscanned.retain(|it| !gone.contains(&*it.place));
        removed
    }
}

/// A value as the text that is scanned of it, keys included.
pub(crate) fn as_text(value: &Value) -> String {
    flat::flat(value, None)
}

/// A body that must be a JSON object.
fn object(body: &[u8]) -> Result<Map<String, Value>, ApiError> {
    match serde_json::from_slice(body).map_err(|e| ApiError::broken_json(&e))? {
        Value::Object(fields) => Ok(fields),
        _ => Err(ApiError::invalid(None, "expected the body to be a JSON object")),
    }
}

/// What the headers of a request say, each read once.
#[derive(Clone)]
pub struct Hints {
    /// For policy: headers, tags, class and latency as the client asks.
    pub context: RequestContext,
    /// `x-sluice-session`, else `x-session-id`, else `x-claude-code-session-id`.
    pub session: Option<String>,
    /// `x-request-id`, or a fresh one.
    pub request_id: String,
    /// Headers that may go along to some upstream; none until somebody reads them.
    pub client: ClientHeaders,
}

impl Hints {
    /// Reads the headers. A hint that comes twice is an error: which one counts would depend on who
    /// reads it.
    pub fn read(headers: &HeaderMap, path: &str, request_id: &str) -> Result<Hints, ApiError> {
        let context = RequestContext {
            headers: plain_headers(headers),
            tags: all_tags(headers)?,
            class: single(headers, "x-sluice-class")?.map(str::to_owned),
            latency: single(headers, "x-sluice-latency")?.map(str::to_owned),
            path: path.to_owned(),
            ..RequestContext::default()
        };
        let session = match single(headers, "x-sluice-session")? {
            Some(session) => Some(session),
            None => match single(headers, "x-session-id")? {
                Some(session) => Some(session),
                None => single(headers, "x-claude-code-session-id")?,
            },
        };
        let (session, request_id) = (session.map(str::to_owned), request_id.to_owned());
        Ok(Hints { context, session, request_id, client: ClientHeaders::default() })
    }
}

/// The client's `x-request-id` if it is short and plain, else a fresh one.
pub fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get("x-request-id").and_then(|v| v.to_str().ok());
    let plain = |id: &&str| {
        !id.is_empty()
            && id.len() <= 128
            && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b))
    };
    match given.filter(plain) {
        Some(id) => id.to_owned(),
        None => uuid::Uuid::now_v7().simple().to_string(),
    }
}

fn single<'h>(headers: &'h HeaderMap, name: &'static str) -> Result<Option<&'h str>, ApiError> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(ApiError::invalid_header(name, "expected once, got twice"));
    }
    let text = value.to_str().map_err(|_| ApiError::invalid_header(name, "expected ASCII"))?;
    if text.len() > HINT_BYTES_MAX {
        return Err(ApiError::invalid_header(name, "expected at most 256 bytes"));
    }
    Ok(Some(text.trim()).filter(|t| !t.is_empty()))
}

/// Our own tags, and those that LiteLLM's clients send: rules may match them, and rules only raise.
fn all_tags(headers: &HeaderMap) -> Result<std::collections::BTreeSet<String>, ApiError> {
    let mut all = tags(single(headers, "x-sluice-tags")?.unwrap_or_default())?;
    all.extend(tags(single(headers, "x-litellm-tags")?.unwrap_or_default())?);
    Ok(all)
}

fn tags(list: &str) -> Result<std::collections::BTreeSet<String>, ApiError> {
    let tags: std::collections::BTreeSet<String> =
        list.split(',').map(str::trim).filter(|t| !t.is_empty()).map(str::to_owned).collect();
    if tags.len() > TAGS_MAX {
        return Err(ApiError::invalid_header("x-sluice-tags", "expected at most 32 tags"));
    }
    Ok(tags)
}

/// Headers that rules may match. Credentials never become part of a prompt's context.
fn plain_headers(headers: &HeaderMap) -> BTreeMap<String, String> {
    let mut plain = BTreeMap::<String, String>::new();
    for (name, value) in headers {
        if is_credential(name) {
            continue;
        }
        let Ok(value) = value.to_str() else { continue };
        plain
            .entry(name.as_str().to_owned())
            .and_modify(|all| {
                all.push_str(", ");
                all.push_str(value);
            })
            .or_insert_with(|| value.to_owned());
    }
    plain
}

fn is_credential(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "authorization" | "proxy-authorization" | "cookie" | "x-api-key" | "api-key"
    )
}
