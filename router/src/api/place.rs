//! Places in a request body: how they are written in findings, and how a field is removed by one.
//!
//! A key of a body is text that a client chose, so a place shows it only when it looks like a name
//! (letters, few digits); any other key is shown by its position. Places end in audit records and
//! reply headers, and those never carry text of a request.

use std::fmt::Write;

use serde_json::{Map, Value};

/// One step of a path into a JSON value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A key of an object.
    Key(String),
    /// An index of an array.
    Index(usize),
}

/// Longest key that is shown as it is, bytes.
const NAME_BYTES_MAX: usize = 40;
/// A key with more digits than this may be a number of a person, not a name of a field.
const NAME_DIGITS_MAX: usize = 3;

/// Appends `.key` to a place, or `.#position` if the key is not plainly a field's name.
pub(super) fn push_key(place: &mut String, key: &str, position: usize) {
    if !place.is_empty() {
        place.push('.');
    }
    if is_name(key) {
        place.push_str(key);
    } else {
        // Writing to a String cannot fail.
        let _ = write!(place, "#{position}");
    }
}

fn is_name(key: &str) -> bool {
    let digits = key.bytes().filter(u8::is_ascii_digit).count();
    let plain = key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    let letter_first = key.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    plain && letter_first && key.len() <= NAME_BYTES_MAX && digits <= NAME_DIGITS_MAX
}

/// Removes what stands at a path; `false` if nothing stands there.
pub(super) fn remove(fields: &mut Map<String, Value>, path: &[Step]) -> bool {
    let Some((Step::Key(first), rest)) = path.split_first() else { return false };
    match rest {
        [] => fields.remove(first).is_some(),
        _ => fields.get_mut(first).is_some_and(|value| remove_below(value, rest)),
    }
}

fn remove_below(value: &mut Value, path: &[Step]) -> bool {
    match (path, value) {
        ([Step::Key(key)], Value::Object(map)) => map.remove(key).is_some(),
        ([Step::Index(index)], Value::Array(list)) => {
            let there = *index < list.len();
            if there {
                list.remove(*index);
            }
            there
        }
        ([Step::Key(key), rest @ ..], Value::Object(map)) => {
            map.get_mut(key).is_some_and(|inner| remove_below(inner, rest))
        }
        ([Step::Index(index), rest @ ..], Value::Array(list)) => {
            list.get_mut(*index).is_some_and(|inner| remove_below(inner, rest))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn shows_names_and_hides_keys_that_may_be_content() {
        for (key, shown) in [
            ("temperature", ".temperature"),
            ("x-custom_2", ".x-custom_2"),
            ("078-05-1120", ".#3"),
            ("John Smith", ".#3"),
            ("mrn00482913", ".#3"),
            ("", ".#3"),
        ] {
            let mut place = "m".to_owned();
            push_key(&mut place, key, 3);
            assert_eq!(place, format!("m{shown}"), "{key}");
        }
    }

    #[test]
    fn removes_exactly_what_stands_at_the_path() {
        let mut body = json!({"a": [{"b": 1, "c": 2}, 3]}).as_object().cloned().unwrap();
        let key = |k: &str| Step::Key(k.to_owned());
        assert!(remove(&mut body, &[key("a"), Step::Index(0), key("b")]));
        assert!(!remove(&mut body, &[key("a"), Step::Index(9)]));
        assert!(remove(&mut body, &[key("a"), Step::Index(1)]));
        assert_eq!(Value::Object(body), json!({"a": [{"c": 2}]}));
    }
}
