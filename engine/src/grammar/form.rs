//! JSON schemas and tool calls as grammars, in the Lark dialect of llguidance.
//!
//! JSON is written with one space after commas and colons, as models were trained to, and with no
//! other blanks: a small model that may write blanks writes them for ever. A schema is taken strictly,
//! where a keyword that cannot be enforced is an error, or leniently, where it is left out.
//!
//! A call is fixed text around the arguments: `{"name": …, "arguments": …}` in the Hermes form,
//! `<function=…>` and `<parameter=…>` in the Qwen form, where texts stand unquoted and anything else is
//! JSON.

use serde_json::{Value as Json, json};

use crate::chat::{CallForm, ParameterKind, parameter_kind};
use crate::engine::Tool;
use crate::error::EngineError;
use crate::tokenizer::TokenId;

/// What a text parameter's schema may say without a grammar of its own.
const TEXT_KEYWORDS: [&str; 8] =
    ["type", "title", "description", "default", "examples", "enum", "const", "anyOf"];

/// Most names of one object: compiling takes time by the square of their number, some tenths of a
/// second for so many.
pub(super) const NAMES_MAX: usize = 1000;

/// A form as a grammar.
pub(crate) struct Form {
    pub(super) lark: String,
    pub(super) schemas: Vec<Schema>,
    /// The request's field, for errors about the whole.
    pub(super) field: &'static str,
}

/// A schema and where it came from.
#[derive(Clone)]
pub(crate) struct Schema {
    pub(crate) schema: Json,
    pub(crate) strict: bool,
    /// Its place in a chat request.
    pub(crate) field: String,
}

/// The marks around calls, as a model writes them.
#[derive(Clone, Copy)]
pub(crate) struct CallMarks {
    pub(crate) form: CallForm,
    /// Tokens; without them the marks are letters.
    pub(crate) open: Option<TokenId>,
    pub(crate) close: Option<TokenId>,
}

impl Schema {
    /// Any JSON object.
    pub(crate) fn any_object() -> Schema {
        let schema = json!({ "type": "object" });
        Schema { schema, strict: false, field: "response_format".to_owned() }
    }

    /// Whether an object in it has more names, listed or required, than [`NAMES_MAX`].
    pub(super) fn has_too_many_names(&self) -> bool {
        fn too_many(value: &Json) -> bool {
            match value {
                Json::Array(items) => items.iter().any(too_many),
                Json::Object(fields) => {
                    let required = fields.get("required").and_then(Json::as_array);
                    fields.len() > NAMES_MAX
                        || required.is_some_and(|names| names.len() > NAMES_MAX)
                        || fields.values().any(too_many)
                }
                _ => false,
            }
        }
        too_many(&self.schema)
    }

    /// A grammar of this schema and nothing else.
    pub(super) fn alone(&self) -> String {
        format!("start: {}\n", self.value())
    }

    fn value(&self) -> String {
        let mut schema = match &self.schema {
            Json::Bool(true) => json!({}),
            other => other.clone(),
        };
        if let Json::Object(fields) = &mut schema {
            let options = json!({ "whitespace_flexible": false, "item_separator": ", ",
                                  "key_separator": ": ", "lenient": !self.strict });
            fields.insert("x-guidance".to_owned(), options);
        }
        format!("%json {schema}")
    }
}

impl Form {
    /// One JSON value.
    pub(crate) fn json(schema: Schema) -> Form {
        Form { lark: schema.alone(), schemas: vec![schema], field: "response_format" }
    }

    /// One call or, unless `one`, several; or else a JSON value, if there is a schema for it.
    pub(crate) fn calls(
        tools: &[Tool],
        marks: CallMarks,
        one: bool,
        or: Option<Schema>,
    ) -> Result<Form, EngineError> {
        let mut grammar = Calls::new(tools, marks)?;
        let mark = |token: Option<TokenId>, text: &str| match token {
            Some(token) => format!("<[{token}]>"),
            None => literal(text),
        };
        let (open, close) = (mark(marks.open, "<tool_call>"), mark(marks.close, "</tool_call>"));
        let more = if one { "" } else { r#" ("\n" call)*"# };
        let value = or.as_ref().map(|schema| format!(" | {}", schema.value())).unwrap_or_default();
        let lark = format!("start: call{more}{value}\ncall: {open} \"\\n\" body \"\\n\" {close}\n");
        grammar.schemas.extend(or);
        Ok(Form { lark: lark + &grammar.rules, schemas: grammar.schemas, field: "tools" })
    }

    /// The rest of a call, after its opening mark.
    pub(crate) fn rest_of_call(tools: &[Tool], marks: CallMarks) -> Result<Form, EngineError> {
        let grammar = Calls::new(tools, marks)?;
        let close = match marks.close {
            Some(token) => format!("<[{token}]>"),
            None => literal("</tool_call>"),
        };
        let lark = format!("start: \"\\n\" body \"\\n\" {close}\n");
        Ok(Form { lark: lark + &grammar.rules, schemas: grammar.schemas, field: "tools" })
    }
}

/// The rules of `body`, what stands between a call's marks.
struct Calls {
    rules: String,
    schemas: Vec<Schema>,
}

impl Calls {
    fn new(tools: &[Tool], marks: CallMarks) -> Result<Calls, EngineError> {
        let names: Vec<String> = (0..tools.len()).map(|index| format!("call_{index}")).collect();
        let rules = format!("body: {}\n", names.join(" | "));
        let mut calls = Calls { rules, schemas: Vec::new() };
        for (index, tool) in tools.iter().enumerate() {
            match marks.form {
                CallForm::Json => calls.json(index, tool),
                CallForm::Xml => calls.xml(index, tool)?,
            }
        }
        Ok(calls)
    }

    fn json(&mut self, index: usize, tool: &Tool) {
        let schema = arguments_schema(index, tool);
        let begin = literal(&format!("{{\"name\": \"{}\", \"arguments\": ", tool.name));
        self.rules += &format!("call_{index}: {begin} arguments_{index} \"}}\"\n");
        self.rules += &format!("arguments_{index}: {}\n", schema.value());
        self.schemas.push(schema);
    }

    fn xml(&mut self, index: usize, tool: &Tool) -> Result<(), EngineError> {
        let Schema { schema, strict, field } = arguments_schema(index, tool);
        let required: Vec<&str> =
            schema["required"].as_array().into_iter().flatten().filter_map(Json::as_str).collect();
        let listed = schema["properties"].as_object();
        let is_listed = |key: &str| listed.is_some_and(|properties| properties.contains_key(key));
        // What is required and not described may be anything.
        let anything = json!({});
        let others = required.iter().filter(|key| !is_listed(key));
        let others = others.map(|key| (*key, &anything));
        let properties = listed.into_iter().flatten().map(|(key, value)| (key.as_str(), value));
        let mut sequence = literal(&format!("<function={}>\n", tool.name));
        let mut rules = String::new();
        for (place, (key, property)) in properties.chain(others).enumerate() {
            let name = format!("parameter_{index}_{place}");
            let optional = if required.contains(&key) { "" } else { "?" };
            sequence += &format!(" {name}{optional}");
            let field = format!("{field}.properties.{key}");
            let value = match parameter_kind(Some(&schema), key) {
                ParameterKind::Json => {
                    let part = part_of(&schema, property);
                    self.schemas.push(Schema {
                        schema: part.clone(),
                        strict,
                        field: field.clone(),
                    });
                    let value = Schema { schema: part, strict, field }.value();
                    format!("{value} \"\\n</parameter>\\n\"")
                }
                kind => {
                    rules += &text_rule(&name, property, kind, strict, &field)?;
                    format!("{name}_text")
                }
            };
            let begin = literal(&format!("<parameter={key}>\n"));
            rules += &format!("{name}: {begin} {value}\n");
        }
        self.rules += &format!("call_{index}: {sequence} \"</function>\"\n{rules}");
        Ok(())
    }
}

/// The rule of an unquoted text up to the end of its parameter.
fn text_rule(
    name: &str,
    property: &Json,
    kind: ParameterKind,
    strict: bool,
    field: &str,
) -> Result<String, EngineError> {
    let keywords = property.as_object().into_iter().flatten().map(|(keyword, _)| keyword.as_str());
    if let Some(keyword) = keywords.into_iter().find(|k| strict && !TEXT_KEYWORDS.contains(k)) {
        let what = format!("the keyword {keyword:?} cannot be enforced in this model's calls");
        return Err(EngineError::Unsupported { field: field.to_owned(), what });
    }
    let words = match (&property["enum"], &property["const"]) {
        (Json::Array(values), _) => values.iter().filter_map(Json::as_str).collect(),
        (_, Json::String(value)) => vec![value.as_str()],
        _ => Vec::new(),
    };
    if words.is_empty() {
        // The reader of calls ends a text at the first mark, on a line of its own or not.
        let text = format!("{name}_any[suffix=\"</parameter>\"]: /(?s:.*)/\n");
        return Ok(format!("{text}{name}_text: {name}_any \"\\n\"\n"));
    }
    let mut words: Vec<String> = words.into_iter().map(literal).collect();
    if kind == ParameterKind::NullableText {
        words.push(literal("null"));
    }
    Ok(format!("{name}_text: ({}) \"\\n</parameter>\\n\"\n", words.join(" | ")))
}

/// A property's schema with the definitions that it may refer to.
fn part_of(root: &Json, property: &Json) -> Json {
    let mut part = property.clone();
    if let Json::Object(fields) = &mut part {
        for definitions in ["$defs", "definitions"] {
            if let Some(shared) = root.get(definitions) {
                fields.entry(definitions).or_insert_with(|| shared.clone());
            }
        }
    }
    part
}

/// The schema of a tool's arguments, which are always an object.
fn arguments_schema(index: usize, tool: &Tool) -> Schema {
    let nothing = || json!({ "properties": {}, "additionalProperties": false });
    let mut schema = tool.parameters.clone().unwrap_or_else(nothing);
    if let Json::Object(fields) = &mut schema {
        fields.entry("type").or_insert_with(|| json!("object"));
    }
    let field = format!("tools[{index}].function.parameters");
    Schema { schema, strict: tool.strict, field }
}

/// A text as Lark writes it, which is as JSON does.
fn literal(text: &str) -> String {
    json!(text).to_string()
}

/// Why a grammar was refused, in words of ours: the library's may quote the schema.
pub(super) fn reason(error: &str) -> String {
    let after = |lead: &str| {
        let (_, rest) = error.split_once(lead)?;
        let name: String = rest
            .chars()
            .skip_while(|c| "[\"".contains(*c))
            .take_while(|c| c.is_ascii_alphanumeric() || "$-_".contains(*c))
            .take(40)
            .collect();
        Some(name)
    };
    if let Some(keyword) = after("Unimplemented keys: ") {
        return format!("the keyword {keyword:?} cannot be enforced; leave it out");
    }
    if let Some(format) = after("Unknown format: ") {
        return format!("the keyword \"format\" cannot be enforced with {format:?}; leave it out");
    }
    let known = [
        ("oneOf", "the keyword \"oneOf\" cannot be enforced here; use \"anyOf\""),
        ("min/maxProperties", "\"minProperties\" and \"maxProperties\" cannot be enforced here"),
        ("regex", "the keyword \"pattern\" holds an expression that cannot be enforced"),
        (
            "Definition not found",
            "a \"$ref\" leads nowhere; only places in the schema itself count",
        ),
        ("Unresolvable", "a \"$ref\" leads nowhere; only places in the schema itself count"),
        ("$ref", "a \"$ref\" leads nowhere; only places in the schema itself count"),
        ("Unsatisfiable", "nothing can satisfy the schema"),
        ("too", "the schema is too large"),
        ("limit", "the schema is too large"),
    ];
    let found = known.iter().find(|(sign, _)| error.contains(sign));
    found.map_or("expected a JSON Schema", |(_, reason)| reason).to_owned()
}
