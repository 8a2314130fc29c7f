//! JSON as chat templates expect it: Python's `json.dumps` with its spaces, and nothing escaped for HTML.
//!
//! Models were trained on prompts that transformers rendered, and a tool's definition that is spaced
//! or escaped otherwise is another prompt. minijinja's own `tojson` writes for web pages: it drops the
//! spaces and turns `<` into `\u003c`.
//! Source: `_compile_jinja_template` of transformers' `utils/chat_template_utils.py` (`tojson` is
//! `json.dumps(x, ensure_ascii=False, …)`); `json.dumps` of Python 3.13.

use minijinja::value::{Kwargs, Value};
use minijinja::{Error, ErrorKind};
use serde::Serialize;
use serde_json::Value as Json;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

/// Widest indentation that a template may ask for.
const INDENT_MAX: usize = 16;

/// The filter `tojson`.
pub(super) fn filter(value: Value, indent: Option<usize>, options: Kwargs) -> Result<Value, Error> {
    let indent = match indent {
        Some(indent) => Some(indent),
        None => options.get::<Option<usize>>("indent")?,
    };
    // How it escapes, sorts and separates is fixed here to what templates ask for.
    for known in ["ensure_ascii", "sort_keys", "separators"] {
        let _ = options.get::<Option<Value>>(known)?;
    }
    options.assert_all_used()?;
    let unreadable = |_| Error::new(ErrorKind::BadSerialization, "the value is not JSON");
    let json = serde_json::to_value(&value).map_err(unreadable)?;
    Ok(Value::from_safe_string(match indent {
        Some(indent) => {
            let indent = " ".repeat(indent.min(INDENT_MAX));
            written(&json, PrettyFormatter::with_indent(indent.as_bytes()))
        }
        None => spaced(&json),
    }))
}

/// On one line, with a space after each comma and colon.
pub(crate) fn spaced(json: &Json) -> String {
    written(json, Spaced)
}

fn written(json: &Json, formatter: impl Formatter) -> String {
    let mut out = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut out, formatter);
    json.serialize(&mut serializer).expect("a JSON value can be written to memory");
    String::from_utf8(out).expect("JSON is UTF-8")
}

struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W>(&mut self, out: &mut W, first: bool) -> std::io::Result<()>
    where
        W: ?Sized + std::io::Write,
    {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_key<W>(&mut self, out: &mut W, first: bool) -> std::io::Result<()>
    where
        W: ?Sized + std::io::Write,
    {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_value<W>(&mut self, out: &mut W) -> std::io::Result<()>
    where
        W: ?Sized + std::io::Write,
    {
        out.write_all(b": ")
    }
}

/// A copy in which every text, keys included, is replaced.
pub(super) fn map_texts(json: &Json, replace: &dyn Fn(&str) -> String) -> Json {
    match json {
        Json::String(text) => Json::String(replace(text)),
        Json::Array(items) => items.iter().map(|item| map_texts(item, replace)).collect(),
        Json::Object(fields) => {
            fields.iter().map(|(key, value)| (replace(key), map_texts(value, replace))).collect()
        }
        other => other.clone(),
    }
}
