//! JSON values as texts that detectors can read.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Map, Value};

/// Deepest nesting that is walked; the JSON reader stops at 128 anyway.
const DEPTH_MAX: usize = 128;
/// A number with at least this many digits may be a card or an id, wherever it stands.
const NUMBER_DIGITS_MIN: usize = 8;

/// The fields of an object by name: what a request is classified as must not depend on the order in which a
/// client writes them.
pub(super) fn in_order(fields: &Map<String, Value>) -> impl Iterator<Item = (&String, &Value)> {
    fields.iter().collect::<BTreeMap<_, _>>().into_iter()
}

/// Whether a number is too short to be a card or an id.
pub(super) fn is_short(number: &serde_json::Number) -> bool {
    let small = |n: f64| n.abs() < 1e7 && n.fract() == 0.0;
    number.as_f64().is_some_and(small)
        || number.to_string().bytes().filter(u8::is_ascii_digit).count() < NUMBER_DIGITS_MIN
}

/// Whether an address holds its content itself.
pub(super) fn is_data_url(url: &str) -> bool {
    url.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("data:"))
}

/// A value as text; of an object, all but one key if wanted.
pub(super) fn flat(value: &Value, skip: Option<&str>) -> String {
    let mut text = String::new();
    flatten(value, skip, &mut text, 0);
    text
}

/// Writes a JSON value as lines of `key: text`. Strings stay as they are: JSON's own escapes would
/// put a letter in front of a number (`\n078…`) and hide it from detectors that look for edges.
pub(super) fn flatten(value: &Value, skip: Option<&str>, out: &mut String, depth: usize) {
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
