//! What tests of several dialects need: every word that a body holds, and a reader of replies.

use std::collections::BTreeSet;

use serde_json::Value;

use super::said::{Head, Reader};

/// Every string of a body, keys included.
pub(super) fn words(value: &Value, out: &mut BTreeSet<String>) {
    match value {
        Value::String(text) => drop(out.insert(text.clone())),
        Value::Array(list) => list.iter().for_each(|item| words(item, out)),
        Value::Object(map) => map.iter().for_each(|(key, inner)| {
            out.insert(key.clone());
            words(inner, out);
        }),
        _ => {}
    }
}

/// A reader for replies that may name nobody.
pub(super) fn reader() -> Reader {
    Reader::new(Head { id: "ours".into(), model: "asked".into(), created: 5 })
}
