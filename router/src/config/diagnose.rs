//! Turns a config error into `file:line:col: path: what`, the source line, a caret and a hint.
//!
//! The YAML reader knows where it stopped; this module shows the place and guesses what was meant.
//! It reads no files and decides nothing.

use std::fmt;

/// A config that cannot be used, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// The file as the user named it.
    pub file: String,
    /// Line and column, from 1; `None` when the file could not be read at all.
    pub at: Option<(usize, usize)>,
    /// What was expected and what was there, with the path of the field.
    pub message: String,
    /// The line itself.
    pub source_line: String,
    /// What to do, if there is something better than the message.
    pub hint: Option<String>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((line, column)) = self.at else {
            return write!(f, "{}: {}", self.file, self.message);
        };
        write!(f, "{}:{line}:{column}: {}", self.file, self.message)?;
        write!(f, "\n  {line:>4} | {}", self.source_line)?;
        write!(f, "\n       | {:>column$}", "^")?;
        match &self.hint {
            Some(hint) => write!(f, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

/// Fields that one may expect and that this version does not have there: accepting them silently would be
/// worse than an error.
const NOT_HERE: &[(&str, &str)] = &[
    ("login", "this version has no console login; remove it"),
    (
        "max_age",
        "the last good policies serve at any age, which /readyz and the metrics show; remove it",
    ),
    ("retries", "each upstream has its own: upstreams.NAME.retries"),
    ("edge_capacity", "this version reserves no edge capacity; remove it"),
    ("resume", "a person ends a declared absence: DELETE /admin/v1/offline; remove it"),
    ("signing_key", "this version does not sign the audit log; remove it"),
    ("checkpoint", "this version writes no audit checkpoints; remove it"),
    ("keep", "this version never deletes audit records; remove it"),
    ("reserve", "this version reserves no disk space for the audit log; remove it"),
    ("telemetry", "this version sends no telemetry; remove it"),
];

/// Builds the error for what the YAML reader reported.
pub(super) fn from_yaml(file: &str, source: &str, error: &serde_yaml::Error) -> ConfigError {
    let mut at = error.location().map_or((1, 1), |l| (l.line(), l.column()));
    let text = error.to_string();
    let message = match text.rfind(" at line ") {
        Some(end) => &text[..end],
        None => &text,
    };
    let mut hint = None;
    let mut message = message.to_owned();
    if let Some(unknown) = Unknown::read(&message) {
        hint = unknown.hint();
        if unknown.is_field {
            // The reader stops at the map; the reader of the message wants the key.
            at = find_key(source, at.0, unknown.name).unwrap_or(at);
        }
        message = unknown.message();
    } else if let Some(better) = reword(&message) {
        hint = (better.starts_with("listen.") && better.ends_with("got map"))
            .then(|| "write the address alone; this listener has no TLS of its own".to_owned());
        message = better;
    }
    point(file, source, at, message, hint)
}

/// Builds an error at a known place.
pub(super) fn point(
    file: &str,
    source: &str,
    at: (usize, usize),
    message: String,
    hint: Option<String>,
) -> ConfigError {
    let source_line = source.lines().nth(at.0.saturating_sub(1)).unwrap_or_default().to_owned();
    ConfigError { file: file.to_owned(), at: Some(at), message, source_line, hint }
}

/// Finds the place of a nested key by its names, outermost first; falls back to the last one found.
///
/// A line scan, not a parser: the file was read as YAML before, and a wrong guess costs only the
/// caret's place.
pub(super) fn locate(source: &str, path: &[&str]) -> (usize, usize) {
    let mut at = (1, 1);
    for name in path {
        match find_key(source, at.0, name) {
            Some(found) => at = found,
            None => break,
        }
    }
    at
}

/// Finds `name:` as a key at or after a line; both counted from 1.
fn find_key(source: &str, from_line: usize, name: &str) -> Option<(usize, usize)> {
    source.lines().enumerate().skip(from_line.saturating_sub(1)).find_map(|(index, line)| {
        key_column(line.split(" #").next().unwrap_or(line), name).map(|column| (index + 1, column))
    })
}

fn key_column(line: &str, name: &str) -> Option<usize> {
    let mut from = 0;
    while let Some(offset) = line[from..].find(name) {
        let start = from + offset;
        let before = line[..start].trim_end_matches(['"', '\'']).chars().next_back();
        let after = line[start + name.len()..].trim_start_matches(['"', '\'']);
        if matches!(before, None | Some(' ' | '{' | ',')) && after.starts_with(':') {
            return Some(line[..start].chars().count() + 1);
        }
        from = start + name.len();
    }
    None
}

/// Turns serde's "invalid type: X, expected Y" around, and names what is missing.
fn reword(message: &str) -> Option<String> {
    if let Some((path, rest)) = message.split_once("missing field `") {
        let name = rest.split('`').next()?;
        return Some(format!("{path}expected the field {name}, got none"));
    }
    let (path, rest) =
        message.split_once("invalid type: ").or_else(|| message.split_once("invalid value: "))?;
    let (got, expected) = rest.split_once(", expected ")?;
    let expected = match expected {
        "a YAML tag starting with '!'" => "a word",
        struct_name if struct_name.starts_with("struct ") => "a map of fields",
        other => other,
    };
    Some(format!("{path}expected {expected}, got {got}"))
}

/// serde's message about a field or a word that is not in its list, taken apart.
struct Unknown<'a> {
    path: &'a str,
    name: &'a str,
    expected: Vec<&'a str>,
    is_field: bool,
}

impl<'a> Unknown<'a> {
    fn read(message: &'a str) -> Option<Self> {
        let is_field = message.contains("unknown field `");
        let what = if is_field { "unknown field `" } else { "unknown variant `" };
        let (path, rest) = message.split_once(what)?;
        let (name, rest) = rest.split_once('`')?;
        let expected = rest.split('`').skip(1).step_by(2).collect();
        Some(Unknown { path, name, expected, is_field })
    }

    fn message(&self) -> String {
        let (list, path) = (self.expected.join(", "), self.path);
        let kind = if self.is_field { "the known fields" } else { "the words" };
        format!("{path}expected one of {kind} ({list}), got {:?}", self.name)
    }

    fn hint(&self) -> Option<String> {
        if let Some((_, advice)) = NOT_HERE.iter().find(|(name, _)| *name == self.name) {
            return Some((*advice).to_owned());
        }
        let near = self.expected.iter().min_by_key(|known| edit_distance(self.name, known))?;
        (edit_distance(self.name, near) <= 2.max(self.name.len() / 3))
            .then(|| format!("did you mean {near:?}?"))
    }
}

/// Levenshtein distance in bytes; names are short.
fn edit_distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_keys_in_block_and_flow_style() {
        let source = "a:\n  edge: {kind: edge}\n  cloud:\n    base_url: x # base_url: y\n";
        assert_eq!(locate(source, &["a", "edge", "kind"]), (2, 10));
        assert_eq!(locate(source, &["a", "cloud", "base_url"]), (4, 5));
        assert_eq!(locate(source, &["a", "cloud", "nothing"]), (3, 3));
    }

    #[test]
    fn edit_distance_counts_single_changes() {
        for (a, b, distance) in [("", "abc", 3), ("limts", "limits", 1), ("drain", "drain", 0)] {
            assert_eq!(edit_distance(a, b), distance, "{a} {b}");
        }
    }
}
