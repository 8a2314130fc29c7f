//! Reads a call in the Qwen form, `<function=NAME><parameter=KEY>…`, and writes its arguments as JSON.
//!
//! In this form values are not quoted: whether `12` is a number or a text is for the tool's schema to
//! say. A text is passed on as it comes, but for letters that may begin the end of the parameter; any
//! other value is read to its end first, since only then it is known to be JSON.
//!
//! Invariants: nothing is passed on before the name of a known tool; what was passed on, plus what
//! [`XmlCall::close`] adds, is a JSON object.
//! Source: the chat templates of Qwen3-Coder and Qwen3.5, which put each value on lines of its own.

use serde_json::{Value as Json, json};

use super::reply::{CallOut, Step};
use crate::engine::Tool;
use crate::reply_text::overlap_bytes;

const FUNCTION: &str = "<function=";
const FUNCTION_END: &str = "</function>";
const PARAMETER: &str = "<parameter=";
const PARAMETER_END: &str = "</parameter>";
const PARAMETER_END_LINE: &str = "\n</parameter>";
/// Longest name of a function or a parameter; a longer one is no name.
const NAME_BYTES_MAX: usize = 256;
/// References that lead to references.
const REFERENCES_MAX: usize = 8;

/// How a parameter's value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ParameterKind {
    /// As it is.
    Text,
    /// As it is; `null` is null.
    NullableText,
    /// As JSON.
    Json,
}

/// How a tool's parameter is written, by the tool's schema.
pub(crate) fn parameter_kind(parameters: Option<&Json>, key: &str) -> ParameterKind {
    let property = parameters.and_then(|schema| schema.get("properties")?.get(key));
    match (parameters, property) {
        (Some(root), Some(property)) => schema_kind(root, property, REFERENCES_MAX),
        _ => ParameterKind::Json,
    }
}

fn schema_kind(root: &Json, schema: &Json, references_left: usize) -> ParameterKind {
    if let Some(reference) = schema["$ref"].as_str() {
        let target = reference.strip_prefix('#').and_then(|pointer| root.pointer(pointer));
        return match (target, references_left) {
            (Some(target), 1..) => schema_kind(root, target, references_left - 1),
            _ => ParameterKind::Json,
        };
    }
    if let Some(options) = schema["anyOf"].as_array().or(schema["oneOf"].as_array()) {
        let kinds = options.iter().map(|option| schema_kind(root, option, references_left));
        return kinds_together(kinds, options.iter().any(|option| option["type"] == "null"));
    }
    if let Some(values) = schema["enum"].as_array() {
        let kinds = values.iter().filter(|value| !value.is_null()).map(value_kind);
        return kinds_together(kinds, values.iter().any(Json::is_null));
    }
    match (&schema["const"], &schema["type"]) {
        (Json::String(_), _) => ParameterKind::Text,
        (_, Json::String(name)) if name == "string" => ParameterKind::Text,
        (_, Json::Array(names)) if names.iter().any(|name| name == "string") => {
            kinds_together([ParameterKind::Text].into_iter(), names.iter().any(|n| n == "null"))
        }
        _ => ParameterKind::Json,
    }
}

fn value_kind(value: &Json) -> ParameterKind {
    if value.is_string() { ParameterKind::Text } else { ParameterKind::Json }
}

/// Where a text is possible, quotes would be part of it.
fn kinds_together(mut kinds: impl Iterator<Item = ParameterKind>, nullable: bool) -> ParameterKind {
    match (kinds.any(|kind| kind != ParameterKind::Json), nullable) {
        (true, true) => ParameterKind::NullableText,
        (true, false) => ParameterKind::Text,
        (false, _) => ParameterKind::Json,
    }
}

/// A call that is being read.
#[derive(Default)]
pub(super) struct XmlCall {
    state: State,
    /// Of the current state.
    text: String,
    tool: Option<usize>,
    keys: Vec<String>,
    value: Option<Value>,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum State {
    #[default]
    Start,
    Name,
    /// Before a parameter or the end.
    Between,
    Key,
    Value,
}

/// The parameter that is being read.
struct Value {
    kind: ParameterKind,
    /// The line break after the parameter's name is not part of the value.
    begun: bool,
    /// A parameter of this name came before; the first one counts.
    repeated: bool,
}

impl XmlCall {
    pub(super) fn announced(&self) -> bool {
        self.tool.is_some()
    }

    pub(super) fn take(&mut self, c: char, tools: &[Tool], out: &mut CallOut<'_>) -> Step {
        let blank = c.is_ascii_whitespace() && self.text.is_empty();
        match self.state {
            State::Start | State::Between if blank => Step::More,
            State::Start => self.mark(c, &[FUNCTION], out),
            State::Between => self.mark(c, &[PARAMETER, FUNCTION_END], out),
            State::Name | State::Key if c == '>' => self.named(tools, out),
            State::Name | State::Key => {
                self.text.push(c);
                let too_long = self.text.len() > NAME_BYTES_MAX;
                if too_long || c == '\n' { Step::Broken } else { Step::More }
            }
            State::Value => {
                self.value_character(c, out);
                Step::More
            }
        }
    }

    /// One more character of one of these marks.
    fn mark(&mut self, c: char, marks: &[&str], out: &mut CallOut<'_>) -> Step {
        self.text.push(c);
        if !marks.iter().any(|mark| mark.starts_with(&self.text)) {
            return Step::Broken;
        }
        if !marks.contains(&self.text.as_str()) {
            return Step::More;
        }
        match std::mem::take(&mut self.text).as_str() {
            FUNCTION => self.state = State::Name,
            PARAMETER => self.state = State::Key,
            _ => {
                self.end_object(out);
                return Step::Done;
            }
        }
        Step::More
    }

    fn named(&mut self, tools: &[Tool], out: &mut CallOut<'_>) -> Step {
        let name = std::mem::take(&mut self.text);
        let name = name.trim();
        if self.state == State::Name {
            self.tool = tools.iter().position(|tool| tool.name == name);
            self.state = State::Between;
            if self.tool.is_none() {
                return Step::Broken;
            }
            out.announce(name);
            return Step::More;
        }
        let parameters = self.tool.and_then(|tool| tools[tool].parameters.as_ref());
        self.begin_value(name, parameter_kind(parameters, name), out);
        Step::More
    }

    fn begin_value(&mut self, key: &str, kind: ParameterKind, out: &mut CallOut<'_>) {
        let repeated = self.keys.iter().any(|known| known == key);
        if !repeated {
            out.arguments(if self.keys.is_empty() { "{" } else { ", " });
            out.arguments(&format!("{}: ", json!(key)));
            if kind == ParameterKind::Text {
                out.arguments("\"");
            }
            self.keys.push(key.to_owned());
        }
        self.value = Some(Value { kind, begun: false, repeated });
        self.state = State::Value;
    }

    fn value_character(&mut self, c: char, out: &mut CallOut<'_>) {
        let value = self.value.as_mut().expect("a value was begun");
        if !std::mem::replace(&mut value.begun, true) && c == '\n' {
            return;
        }
        self.text.push(c);
        if let Some(text) = self.text.strip_suffix(PARAMETER_END) {
            let text = text.strip_suffix('\n').unwrap_or(text).to_owned();
            self.text.clear();
            self.end_value(&text, out);
            self.state = State::Between;
        } else if value.kind == ParameterKind::Text {
            let held = overlap_bytes(&self.text, PARAMETER_END)
                .max(overlap_bytes(&self.text, PARAMETER_END_LINE));
            let certain: String = self.text.drain(..self.text.len() - held).collect();
            if !value.repeated {
                out.arguments(&quoted_inside(&certain));
            }
        }
    }

    fn end_value(&mut self, text: &str, out: &mut CallOut<'_>) {
        let Some(value) = self.value.take().filter(|value| !value.repeated) else { return };
        match value.kind {
            ParameterKind::Text => out.arguments(&(quoted_inside(text) + "\"")),
            ParameterKind::NullableText if text == "null" => out.arguments(text),
            ParameterKind::NullableText => out.arguments(&json!(text).to_string()),
            ParameterKind::Json => out.arguments(&as_json(text)),
        }
    }

    /// The call was cut off: what is missing for a JSON object.
    pub(super) fn close(&mut self, out: &mut CallOut<'_>) {
        if self.state == State::Value {
            let mut text = std::mem::take(&mut self.text);
            if self.value.as_ref().is_some_and(|value| value.kind == ParameterKind::Text) {
                // Only what may have begun the parameter's end is left of it.
                text.clear();
            }
            self.end_value(&text, out);
        }
        self.end_object(out);
    }

    fn end_object(&mut self, out: &mut CallOut<'_>) {
        out.arguments(if self.keys.is_empty() { "{}" } else { "}" });
    }
}

/// A text as it stands between a JSON string's quotes.
fn quoted_inside(text: &str) -> String {
    let quoted = json!(text).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

/// A value as JSON: what is none becomes a text. Models trained on Python write its constants.
fn as_json(text: &str) -> String {
    let text = text.trim();
    match text {
        "True" => "true".to_owned(),
        "False" => "false".to_owned(),
        "None" => "null".to_owned(),
        _ if serde_json::from_str::<Json>(text).is_ok() => text.to_owned(),
        _ => json!(text).to_string(),
    }
}
