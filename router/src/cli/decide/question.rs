//! What a person or a script asks about: plain text, a chat request, or one line of a batch.
//!
//! A chat request goes through the same parser as a request to the gateway, so that the two cannot
//! come to different findings. Around it a line may carry what is not in a body: an `id`, `headers`,
//! the client's `tags`, and `key_tags` and `caller` as the caller's key would give them (`caller:
//! null` is one that nobody knows).

use std::collections::BTreeSet;

use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};
use serde_json::{Map, Value, json};
use sluice::api::chat::prompt_from_fields;
use sluice::api::{ApiError, Hints};
use sluice::capability::{Look, Needs};
use sluice_policies::{Endpoint, Prompt, RequestContext};

/// Who is taken to call where nothing says: a caller that the gateway knows, without any tags.
const ASSUMED_CALLER: &str = "assumed-caller";

/// A request to decide about.
pub(super) struct Question {
    /// The request's own id, null if it has none.
    pub(super) id: Value,
    pub(super) prompt: Prompt,
    /// What it needs of an upstream.
    pub(super) needs: Needs,
}

/// A request that cannot be read, with its id as far as that could be read. The reason names keys and
/// types, never the text.
#[derive(Debug, PartialEq)]
pub(super) struct Unreadable {
    pub(super) id: Value,
    pub(super) why: String,
}

type Asked = Result<Question, Unreadable>;

impl Question {
    /// A chat request if it is a JSON object with `messages` or `text`, else plain text as it stands.
    pub(super) fn from_text(text: &str) -> Asked {
        match serde_json::from_str(text) {
            Ok(Value::Object(body)) if is_request(&body) => Question::from_object(body),
            _ => Ok(Question::about(Value::Null, plain(text), &Map::new())),
        }
    }

    /// One line of a batch: always a JSON object.
    pub(super) fn from_line(line: &[u8]) -> Asked {
        match serde_json::from_slice(line) {
            Ok(Value::Object(body)) => Question::from_object(body),
            Ok(_) => Err(unreadable(Value::Null, "expected a JSON object on this line")),
            Err(_) if line.trim_ascii().is_empty() => {
                Err(unreadable(Value::Null, "expected a JSON object, got an empty line"))
            }
            Err(error) => Err(unreadable(Value::Null, &not_json(&error))),
        }
    }

    fn from_object(mut body: Map<String, Value>) -> Asked {
        let id = body.remove("id").unwrap_or_default();
        match prompt(&mut body) {
            Ok(prompt) => Ok(Question::about(id, prompt, &body)),
            Err(why) => Err(Unreadable { id, why }),
        }
    }

    fn about(id: Value, prompt: Prompt, body: &Map<String, Value>) -> Question {
        let needs = Needs::of(body, &prompt, Endpoint::Chat, Look::ALL);
        Question { id, prompt, needs }
    }
}

fn plain(text: &str) -> Prompt {
    let mut prompt = Prompt::from_user_text(text);
    prompt.context.caller = Some(ASSUMED_CALLER.to_owned());
    prompt
}

fn is_request(body: &Map<String, Value>) -> bool {
    body.contains_key("messages") || body.contains_key("text")
}

fn unreadable(id: Value, why: &str) -> Unreadable {
    Unreadable { id, why: why.to_owned() }
}

/// serde_json's own message may quote what it tripped over; the place is enough.
fn not_json(error: &serde_json::Error) -> String {
    format!("expected a JSON object, got broken JSON at column {}", error.column())
}

fn prompt(body: &mut Map<String, Value>) -> Result<Prompt, String> {
    let context = context(body)?;
    text_as_message(body)?;
    let read = prompt_from_fields(body).map_err(|error| told(&error))?;
    let model = read.context.model;
    let latency = context.latency.or(read.context.latency);
    Ok(Prompt { context: RequestContext { model, latency, ..context }, ..read })
}

/// Takes out of the line what is not part of a request's body.
fn context(body: &mut Map<String, Value>) -> Result<RequestContext, String> {
    let headers = headers(body.remove("headers"))?;
    let hints = Hints::read(&headers, "/v1/chat/completions", "").map_err(|error| told(&error))?;
    let mut context = hints.context;
    context.tags.extend(names("tags", body.remove("tags"))?);
    context.key_tags.extend(names("key_tags", body.remove("key_tags"))?);
    context.caller = match body.remove("caller") {
        None => Some(ASSUMED_CALLER.to_owned()),
        caller => text("caller", caller)?,
    };
    Ok(context)
}

fn told(error: &ApiError) -> String {
    match &error.param {
        Some(param) => format!("{param}: {}", error.message),
        None => error.message.clone(),
    }
}

/// `"text": "…"` is short for one user message.
fn text_as_message(body: &mut Map<String, Value>) -> Result<(), String> {
    match (text("text", body.remove("text"))?, body.contains_key("messages")) {
        (Some(_), true) => Err("expected `text` or `messages`, got both".to_owned()),
        (None, false) => Err("expected `text` or `messages`, got neither".to_owned()),
        (None, true) => Ok(()),
        (Some(text), false) => {
            body.insert("messages".to_owned(), json!([{"role": "user", "content": text}]));
            Ok(())
        }
    }
}

fn text(key: &str, value: Option<Value>) -> Result<Option<String>, String> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(format!("{key}: expected a string, got {}", kind(&other))),
    }
}

/// Names as a list, or in one string with commas as the header `x-sluice-tags` has them.
fn names(key: &str, value: Option<Value>) -> Result<BTreeSet<String>, String> {
    match value {
        None | Some(Value::Null) => Ok(BTreeSet::new()),
        Some(Value::String(list)) => Ok(list
            .split(',')
            .map(str::trim)
            .filter(|n| !n.is_empty())
            .map(str::to_owned)
            .collect()),
        Some(Value::Array(items)) => items
            .into_iter()
            .map(|item| match item {
                Value::String(name) => Ok(name),
                other => Err(format!("{key}: expected strings, got {}", kind(&other))),
            })
            .collect(),
        Some(other) => Err(format!("{key}: expected a list of strings, got {}", kind(&other))),
    }
}

fn headers(value: Option<Value>) -> Result<HeaderMap, String> {
    match value {
        None | Some(Value::Null) => Ok(HeaderMap::new()),
        Some(Value::Object(fields)) => {
            fields.into_iter().map(|(name, value)| header(&name, value)).collect()
        }
        Some(other) => Err(format!("headers: expected an object, got {}", kind(&other))),
    }
}

fn header(name: &str, value: Value) -> Result<(HeaderName, HeaderValue), String> {
    let Value::String(value) = value else {
        return Err(format!("headers.{name}: expected a string, got {}", kind(&value)));
    };
    let name = name.parse().map_err(|_| "headers: expected names of headers".to_owned())?;
    let value = value.parse().map_err(|_| format!("headers.{name}: expected visible ASCII"))?;
    Ok((name, value))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(question: &Question) -> Vec<&str> {
        question.prompt.texts.iter().map(|text| text.text.as_str()).collect()
    }

    #[test]
    fn text_and_messages_ask_the_same() {
        let text = Question::from_line(br#"{"id": "a", "text": "hello"}"#).unwrap();
        let messages = Question::from_line(
            br#"{"id": "a", "messages": [{"role": "user", "content": "hello"}]}"#,
        )
        .unwrap();
        assert_eq!(text.id, "a");
        assert_eq!(texts(&text), ["hello"]);
        assert_eq!(texts(&text), texts(&messages));
    }

    #[test]
    fn json_that_is_no_request_is_plain_text() {
        for text in ["{\"a\": 1}", "[1, 2]", "{broken", "\"quoted\""] {
            assert_eq!(texts(&Question::from_text(text).unwrap()), [text]);
        }
    }

    #[test]
    fn headers_tags_and_caller_ride_along() {
        let line = br#"{"text": "x", "headers": {"X-Data-Class": "phi"}, "tags": "a, b",
                        "key_tags": ["phi"], "caller": "ward"}"#;
        let context = Question::from_line(line).unwrap().prompt.context;
        assert_eq!(context.headers.get("x-data-class").map(String::as_str), Some("phi"));
        assert!(context.tags.contains("a") && context.tags.contains("b"));
        assert!(context.key_tags.contains("phi"));
        assert_eq!(context.caller.as_deref(), Some("ward"));
    }

    #[test]
    fn the_caller_is_known_unless_the_line_says_otherwise() {
        let caller =
            |line: &str| Question::from_line(line.as_bytes()).unwrap().prompt.context.caller;
        assert_eq!(caller(r#"{"text": "x"}"#).as_deref(), Some(ASSUMED_CALLER));
        assert_eq!(caller(r#"{"text": "x", "caller": null}"#), None);
        let plain = Question::from_text("x").unwrap().prompt.context.caller;
        assert_eq!(plain.as_deref(), Some(ASSUMED_CALLER));
    }

    #[test]
    fn hint_headers_count_as_in_the_gateway() {
        let line = br#"{"text": "x", "headers": {"x-sluice-class": "regulated",
                        "x-sluice-tags": "phi", "x-sluice-latency": "batch"}}"#;
        let context = Question::from_line(line).unwrap().prompt.context;
        assert_eq!(context.class.as_deref(), Some("regulated"));
        assert_eq!(context.latency.as_deref(), Some("batch"));
        assert!(context.tags.contains("phi"));
    }

    #[test]
    fn a_bad_line_says_what_was_expected_and_keeps_its_id() {
        let cases: [(&str, Value, &str); 8] = [
            (" \r", Value::Null, "expected a JSON object, got an empty line"),
            ("{\"id\": 1, \"te", Value::Null, "broken JSON at column"),
            ("[1]", Value::Null, "expected a JSON object on this line"),
            (r#"{"id": 3}"#, 3.into(), "expected `text` or `messages`, got neither"),
            (r#"{"id": 4, "text": "a", "messages": []}"#, 4.into(), "got both"),
            (r#"{"id": 5, "text": 7}"#, 5.into(), "text: expected a string, got a number"),
            (r#"{"id": 6, "text": "a", "tags": [1]}"#, 6.into(), "tags: expected strings"),
            (
                r#"{"id": 7, "text": "a", "headers": {"h": []}}"#,
                7.into(),
                "headers.h: expected a string, got a list",
            ),
        ];
        for (line, id, expected) in cases {
            let Err(error) = Question::from_line(line.as_bytes()) else { panic!("{line}") };
            assert_eq!(error.id, id, "{line}");
            assert!(error.why.contains(expected), "{line}: {}", error.why);
        }
    }
}
