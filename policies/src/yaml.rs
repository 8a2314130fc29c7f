//! Reads YAML into a tree that remembers where every key and value stood.
//!
//! Diagnostics point at a word, not at a file: so the parser's events become a [`Node`] tree with
//! lines and columns first, and typed values are read from the tree (`yaml::typed`). That also makes
//! the path of a mistake (`rules[2].when`) a look-up, and lets one load report many mistakes.
//!
//! Invariants: a document is one YAML 1.2 document of bounded size; no anchors, aliases or merge
//! keys; no key twice; words that older YAML readers take for booleans or octal numbers are refused
//! unless they are quoted, since two readers must never see two policies.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use crate::error::{Diagnostic, PolicyError};

mod typed;
mod wrappers;

pub(crate) use typed::read;
pub(crate) use wrappers::{At, Each, List, Named};

/// Largest policy file in bytes; the largest shipped one is a fiftieth of it.
const SOURCE_BYTES_MAX: usize = 4 << 20;

/// One policy file: its name and its text.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Source {
    /// How diagnostics call it: `hipaa.yaml`.
    pub name: String,
    /// The YAML text.
    pub text: String,
}

/// A mistake before it is known in which file it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Complaint {
    pub(crate) line: u32,
    pub(crate) column: u32,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

/// A parsed file, kept for the paths and lines of later diagnostics.
pub(crate) struct Document {
    pub(crate) source: Source,
    pub(crate) root: Node,
}

/// One value with its place.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    pub(crate) line: u32,
    pub(crate) column: u32,
    pub(crate) kind: Kind,
}

/// What a value is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

/// A key of a map with its place.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Key {
    pub(crate) line: u32,
    pub(crate) column: u32,
    pub(crate) name: String,
}

impl Document {
    /// Parses one file.
    pub(crate) fn parse(source: Source) -> Result<Document, PolicyError> {
        if source.text.len() > SOURCE_BYTES_MAX {
            let message = format!("is larger than {} MiB", SOURCE_BYTES_MAX >> 20);
            return Err(PolicyError::about_file(&source.name, message, None));
        }
        let empty = Node { line: 1, column: 1, kind: Kind::Null };
        let mut document = Document { source, root: empty };
        if let Some(complaint) = tab_in_indentation(&document.source.text) {
            return Err(PolicyError::new(vec![document.diagnostic(complaint)]));
        }
        match serde_saphyr::from_str_with_options::<Node>(&document.source.text, options()) {
            Ok(root) => document.root = root,
            Err(error) => {
                let complaint = syntax_complaint(&document.source.text, &error);
                return Err(PolicyError::new(vec![document.diagnostic(complaint)]));
            }
        }
        let mut complaints = Vec::new();
        let lines: Vec<&str> = lines(&document.source.text).collect();
        document.root.find_traps(&lines, &mut complaints);
        match complaints.is_empty() {
            true => Ok(document),
            false => Err(PolicyError::new(document.diagnostics(complaints))),
        }
    }

    /// A diagnostic for one complaint about this file.
    pub(crate) fn diagnostic(&self, complaint: Complaint) -> Diagnostic {
        let line = lines(&self.source.text).nth((complaint.line as usize).saturating_sub(1));
        Diagnostic {
            file: self.source.name.clone(),
            line: complaint.line,
            column: complaint.column.max(1),
            path: self.root.path_to(complaint.line, complaint.column).unwrap_or_default(),
            message: complaint.message,
            source_line: line.unwrap_or_default().to_owned(),
            hint: complaint.hint,
        }
    }

    /// Diagnostics for several complaints, in the order of the file.
    pub(crate) fn diagnostics(&self, mut complaints: Vec<Complaint>) -> Vec<Diagnostic> {
        complaints.sort_by_key(|complaint| (complaint.line, complaint.column));
        complaints.into_iter().map(|complaint| self.diagnostic(complaint)).collect()
    }
}

/// The lines of a text as YAML counts them: a carriage return alone ends one, too (YAML 1.2.2, section
/// 5.4).
fn lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let Some(end) = text.find(['\n', '\r']) else { return rest.take() };
        let after = text[end..].strip_prefix("\r\n").unwrap_or(&text[end + 1..]);
        rest = Some(after);
        Some(&text[..end])
    })
}

fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        strict_booleans: true,
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::Error,
        merge_keys: serde_saphyr::MergeKeyPolicy::Error,
        with_snippet: false,
        leading_zero_numbers_as_strings: true,
        budget: serde_saphyr::budget! {
            max_anchors: 0,
            max_aliases: 0,
            max_depth: 40,
            max_documents: 1,
            max_events: 400_000,
            max_nodes: 200_000,
            max_total_scalar_bytes: SOURCE_BYTES_MAX,
        },
    }
}

/// The parser's error in our words, with advice for the usual causes.
fn syntax_complaint(text: &str, error: &serde_saphyr::Error) -> Complaint {
    let place = error.location();
    let line = place.map_or(1, |place| place.line() as u32);
    let column = place.map_or(1, |place| place.column() as u32);
    let shown = error.without_snippet().to_string();
    let at = lines(text).nth(line.saturating_sub(1) as usize).unwrap_or_default();
    Complaint { line, column, message: in_our_words(&shown), hint: syntax_hint(&shown, at) }
}

/// The parser speaks of its own options and budgets; an officer reads what is wrong with the file.
fn in_our_words(shown: &str) -> String {
    // The parser repeats the place at the end of its sentence; ours stands in front.
    let shown = shown.split(" at line ").next().unwrap_or(shown).trim_end_matches([',', ':']);
    if let Some(rest) = shown.strip_prefix("duplicate mapping key: ") {
        let key = rest.split(", set ").next().unwrap_or(rest);
        return format!("duplicate key \"{key}\"");
    }
    let lower = shown.to_lowercase();
    if lower.contains("anchor") || lower.contains("alias") {
        "found an anchor or alias".to_owned()
    } else if lower.contains("merge key") {
        "found a merge key".to_owned()
    } else if lower.contains("budget") {
        "the file is larger or deeper than a policy file may be".to_owned()
    } else {
        lower_first(shown)
    }
}

fn syntax_hint(message: &str, line: &str) -> Option<String> {
    let message = message.to_lowercase();
    let advice = if message.contains("duplicate") {
        "a key may stand only once in a map; join the two entries or rename one"
    } else if message.contains("anchor") || message.contains("alias") {
        "policy files have no anchors (&), aliases (*) or merge keys (<<): write the value out, \
         and quote text that begins with & or *"
    } else if message.contains("merge") {
        "merge keys (<<) are not part of the policy language: write the keys out"
    } else if message.contains("escape") {
        "in double quotes a backslash starts an escape; use single quotes: 'SM-\\d+'"
    } else if message.contains("tab") {
        "indent with spaces"
    } else if line.matches(": ").count() > 1 && !line.contains('{') {
        "text that holds a colon and a space needs quotes around it"
    } else {
        return None;
    };
    Some(advice.to_owned())
}

fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => String::new(),
    }
}

fn tab_in_indentation(text: &str) -> Option<Complaint> {
    let (line, column) = lines(text).enumerate().find_map(|(index, line)| {
        let blank = &line[..line.len() - line.trim_start().len()];
        blank.find('\t').filter(|_| blank.len() < line.len()).map(|column| (index, column))
    })?;
    Some(Complaint {
        line: line as u32 + 1,
        column: column as u32 + 1,
        message: "found a tab in the indentation".to_owned(),
        hint: Some("indent with spaces: YAML does not say how wide a tab is".to_owned()),
    })
}

impl Node {
    /// A complaint that points at this value.
    pub(crate) fn complaint(&self, message: impl Into<String>) -> Complaint {
        Complaint { line: self.line, column: self.column, message: message.into(), hint: None }
    }

    /// Names of the keys, if it is a map.
    pub(crate) fn key_names(&self) -> Vec<&str> {
        match &self.kind {
            Kind::Map(entries) => entries.iter().map(|(key, _)| key.name.as_str()).collect(),
            _ => Vec::new(),
        }
    }

    /// Path of the value or key at a place: `rules[2].when`.
    ///
    /// A complaint about a key names the map that holds it, since the key itself is what is wrong.
    fn path_to(&self, line: u32, column: u32) -> Option<String> {
        match &self.kind {
            Kind::List(items) => items.iter().enumerate().find_map(|(index, item)| {
                let rest = item.path_or_self(line, column)?;
                Some(join_path(&format!("[{index}]"), &rest))
            }),
            Kind::Map(entries) => entries.iter().find_map(|(key, value)| {
                if (key.line, key.column) == (line, column) {
                    return Some(String::new());
                }
                let rest = value.path_or_self(line, column)?;
                Some(join_path(&key.name, &rest))
            }),
            _ => None,
        }
    }

    fn path_or_self(&self, line: u32, column: u32) -> Option<String> {
        // A block map begins where its first key does: the deeper meaning wins.
        self.path_to(line, column)
            .or_else(|| ((self.line, self.column) == (line, column)).then(String::new))
    }

    /// Finds words that other YAML readers would take for something else.
    fn find_traps(&self, lines: &[&str], complaints: &mut Vec<Complaint>) {
        match &self.kind {
            Kind::List(items) => items.iter().for_each(|item| item.find_traps(lines, complaints)),
            Kind::Map(entries) => {
                for (key, value) in entries {
                    complaints.extend(key.trap(lines));
                    value.find_traps(lines, complaints);
                }
            }
            Kind::Text(text) => complaints.extend(self.text_trap(text, lines)),
            _ => complaints.extend(self.number_trap(lines)),
        }
    }

    fn text_trap(&self, text: &str, lines: &[&str]) -> Option<Complaint> {
        if let Some(control) = text.chars().find(|c| c.is_control() && !matches!(c, '\n' | '\t')) {
            let message = format!("text holds the control character U+{:04X}", control as u32);
            return Some(Complaint {
                hint: Some(
                    "double quotes turn \\b, \\e and the like into control characters; use \
                            single quotes"
                        .to_owned(),
                ),
                ..self.complaint(message)
            });
        }
        if !is_plain(lines, self.line, self.column) {
            return None;
        }
        old_boolean(text)
            .or_else(|| old_octal(text))
            .map(|(message, hint)| Complaint { hint: Some(hint), ..self.complaint(message) })
    }

    fn number_trap(&self, lines: &[&str]) -> Option<Complaint> {
        let Kind::Int(_) = self.kind else { return None };
        let rest: String = chars_from(lines, self.line, self.column)
            .take_while(|c| c.is_ascii_alphanumeric())
            .collect();
        old_octal(&rest)
            .map(|(message, hint)| Complaint { hint: Some(hint), ..self.complaint(message) })
    }
}

impl Key {
    fn trap(&self, lines: &[&str]) -> Option<Complaint> {
        let (message, hint) =
            old_boolean(&self.name).filter(|_| is_plain(lines, self.line, self.column))?;
        Some(Complaint { line: self.line, column: self.column, message, hint: Some(hint) })
    }
}

fn join_path(head: &str, rest: &str) -> String {
    match rest.is_empty() || rest.starts_with('[') {
        true => format!("{head}{rest}"),
        false => format!("{head}.{rest}"),
    }
}

fn chars_from<'a>(lines: &[&'a str], line: u32, column: u32) -> impl Iterator<Item = char> + 'a {
    let line = lines.get((line as usize).wrapping_sub(1)).copied().unwrap_or_default();
    line.chars().skip((column as usize).saturating_sub(1))
}

fn is_plain(lines: &[&str], line: u32, column: u32) -> bool {
    let first = chars_from(lines, line, column).next();
    first.is_some_and(|c| c.is_alphanumeric())
}

fn old_boolean(word: &str) -> Option<(String, String)> {
    let folded = word.to_ascii_lowercase();
    if !matches!(folded.as_str(), "yes" | "no" | "on" | "off") {
        return None;
    }
    let meant = if matches!(folded.as_str(), "yes" | "on") { "true" } else { "false" };
    Some((
        format!("found the plain word {word}, which some YAML readers take for {meant}"),
        format!("write {meant} if you mean that, or '{word}' in quotes if you mean the word"),
    ))
}

fn old_octal(word: &str) -> Option<(String, String)> {
    let digits = word.strip_prefix('0')?;
    let is_octal = digits.strip_prefix(['o', 'O']).unwrap_or(digits);
    if is_octal.is_empty() || !is_octal.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some((
        format!(
            "found the number {word} with a leading zero, which some YAML readers take as octal"
        ),
        format!("write '{word}' in quotes if you mean the text, or leave the zero out"),
    ))
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Node, D::Error> {
        let spanned = Spanned::<Kind>::deserialize(deserializer)?;
        let place = spanned.referenced;
        Ok(Node { line: place.line() as u32, column: place.column() as u32, kind: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Kind, D::Error> {
        deserializer.deserialize_any(KindVisitor)
    }
}

struct KindVisitor;

impl<'de> Visitor<'de> for KindVisitor {
    type Value = Kind;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Kind, E> {
        Ok(Kind::Null)
    }

    fn visit_none<E>(self) -> Result<Kind, E> {
        Ok(Kind::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Kind, E> {
        Ok(Kind::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Kind, E> {
        Ok(Kind::Int(value))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Kind, E> {
        let small = i64::try_from(value);
        small.map(Kind::Int).map_err(|_| E::custom(format!("the number {value} is too large")))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Kind, E> {
        Ok(Kind::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Kind, E> {
        Ok(Kind::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Kind, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Kind::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Kind, A::Error> {
        let mut map = Vec::new();
        let mut seen = BTreeMap::new();
        while let Some(key) = entries.next_key::<Spanned<String>>()? {
            let place = key.referenced;
            let (line, column) = (place.line() as u32, place.column() as u32);
            if let Some(first) = seen.insert(key.value.clone(), line) {
                let message = format!("duplicate key {:?}: first on line {first}", key.value);
                return Err(serde::de::Error::custom(message));
            }
            map.push((Key { line, column, name: key.value }, entries.next_value()?));
        }
        Ok(Kind::Map(map))
    }
}
