//! Detectors written as templates (`looks_like`) or regular expressions (`pattern`).
//!
//! The regex engine is linear by construction; literals decide first whether it runs at all.

use std::ops::Range;

use regex::Regex;

use super::checksum;
use super::compile::{Compiler, Kind};
use super::reading::{Candidate, Detector, Own, Reading};
use super::spec::{DetectorSpec, SpecError};

/// Compiled size that one pattern may take.
const PATTERN_BYTES_MAX: usize = 1 << 20;

/// Compiles `looks_like`, `pattern` or `patterns` of a spec.
pub(super) fn compile(spec: &DetectorSpec, compiler: &mut Compiler) -> Result<Kind, SpecError> {
    let mut sources: Vec<(&'static str, String)> = Vec::new();
    sources.extend(spec.looks_like.iter().map(|t| ("looks_like", template(t))));
    sources.extend(spec.pattern.iter().map(|p| ("pattern", p.clone())));
    sources.extend(spec.patterns.iter().map(|p| ("patterns", p.clone())));
    let patterns = sources.into_iter().map(|(field, source)| {
        Ok(Source { exact: regex(spec, field, &source)?, wider: without_borders(&source) })
    });
    let patterns = patterns.collect::<Result<Vec<_>, _>>()?;
    let validator = spec.validator.as_deref().map(|name| validator(&spec.id, name)).transpose()?;
    let mut literals = spec.literals.clone();
    literals.extend(spec.looks_like.as_deref().and_then(longest_literal));
    let literals = (!literals.is_empty()).then(|| compiler.literals(&literals));
    Ok(Kind::Text(Box::new(Pattern { patterns, validator, literals })))
}

/// One regular expression.
struct Source {
    exact: Regex,
    /// The same without the borders of words: whatever the exact one finds, this one finds too.
    wider: Option<Regex>,
}

impl Source {
    /// Whether it is worth a search. Borders of words outside ASCII are decided character by character,
    /// a hundred times slower than the rest.
    fn may_match(&self, text: &str) -> bool {
        text.is_ascii() || self.wider.as_ref().is_none_or(|wider| wider.is_match(text))
    }
}

struct Pattern {
    patterns: Vec<Source>,
    validator: Option<fn(&[u8]) -> bool>,
    literals: Option<Range<u32>>,
}

impl Detector for Pattern {
    fn find(&self, reading: &Reading<'_>, found: &mut Vec<Candidate>) {
        let waits = self.literals.as_ref();
        if waits.is_some_and(|ids| reading.literals_of(ids).next().is_none()) {
            return;
        }
        for pattern in self.patterns.iter().filter(|pattern| pattern.may_match(reading.text)) {
            for captures in pattern.exact.captures_iter(reading.text) {
                let value = captures.name("value").or_else(|| captures.get(0));
                let value = value.expect("group 0 always takes part in a match");
                if self.validator.is_none_or(|valid| valid(value.as_str().as_bytes())) {
                    found.push(Candidate { range: value.range(), own: Own::AsSpecified });
                }
            }
        }
    }
}

fn regex(spec: &DetectorSpec, field: &'static str, source: &str) -> Result<Regex, SpecError> {
    let error = |message: String, hint: &str| SpecError {
        detector: spec.id.clone(),
        field,
        message,
        hint: Some(hint.to_owned()),
    };
    let built = regex::RegexBuilder::new(source).size_limit(PATTERN_BYTES_MAX).build();
    let built = built.map_err(|e| {
        let last = e
            .to_string()
            .lines()
            .last()
            .unwrap_or_default()
            .trim_start_matches("error: ")
            .to_owned();
        error(
            format!("cannot compile the pattern: {last}"),
            "look-around and back-references are not in the language: use near_words",
        )
    })?;
    if built.is_match("") {
        return Err(error(
            "the pattern matches the empty text".to_owned(),
            "a pattern must need at least one character",
        ));
    }
    Ok(built)
}

/// The expression with nothing in place of each `\b`; `None` where that says no more.
fn without_borders(source: &str) -> Option<Regex> {
    let mut wider = String::with_capacity(source.len());
    let mut chars = source.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, chars.peek()) {
            ('\\', Some('b')) => {
                chars.next();
                // `\b{start}` is another kind of border.
                if chars.peek() == Some(&'{') {
                    return None;
                }
                wider.push_str("(?:)");
            }
            ('\\', Some(&escaped)) => {
                chars.next();
                wider.extend([c, escaped]);
            }
            _ => wider.push(c),
        }
    }
    let has_borders = wider != source;
    let wider = regex::RegexBuilder::new(&wider).size_limit(PATTERN_BYTES_MAX).build();
    wider.ok().filter(|_| has_borders)
}

/// `SM-9999999` as a pattern: 9 a digit, A a letter, the rest as it stands; separators may vary.
fn template(template: &str) -> String {
    let mut pattern = String::from(r"(?i)\b");
    for c in template.chars() {
        match c {
            '9' => pattern.push_str(r"\d"),
            'A' => pattern.push_str("[a-z]"),
            '-' | ' ' | '.' | '/' => pattern.push_str(r"[-\s./_]{0,3}"),
            c => pattern.push_str(&regex::escape(&c.to_string())),
        }
    }
    pattern.push_str(r"\b");
    pattern
}

/// The longest run of plain characters of a template, as a prefilter.
fn longest_literal(template: &str) -> Option<String> {
    let is_open = |c: char| matches!(c, '9' | 'A' | '-' | ' ' | '.' | '/');
    let longest = template.split(is_open).max_by_key(|run| run.len())?;
    (longest.len() >= 2).then(|| longest.to_owned())
}

fn validator(detector: &str, name: &str) -> Result<fn(&[u8]) -> bool, SpecError> {
    fn digits(value: &[u8]) -> Vec<u8> {
        value.iter().filter(|b| b.is_ascii_digit()).map(|b| b - b'0').collect()
    }
    Ok(match name {
        "luhn" => |value| checksum::luhn(&digits(value)),
        "verhoeff" => |value| checksum::verhoeff(&digits(value)),
        "mod97" => |value| checksum::mod97(value.iter().map(u8::to_ascii_uppercase)),
        "mod11_10" => |value| checksum::mod11_10(&digits(value)),
        "digits" => |value| value.iter().any(u8::is_ascii_digit),
        "chosen" => |value| {
            let letters = value.iter().any(u8::is_ascii_alphabetic);
            // `user:42:profile:v3:9f2c`: the name of an entry in a cache or a database.
            let mut parts = value.split(|b| *b == b':');
            let first_is_word = parts.next().is_some_and(|p| p.iter().all(u8::is_ascii_lowercase));
            let is_path = first_is_word && parts.count() >= 2;
            let chosen = std::str::from_utf8(value).is_ok_and(super::password::looks_chosen);
            letters && !is_path && chosen
        },
        _ => {
            return Err(SpecError {
                detector: detector.to_owned(),
                field: "validator",
                message: format!("unknown validator {name:?}"),
                hint: Some(
                    "the validators are luhn, verhoeff, mod97, mod11_10, digits, chosen".to_owned(),
                ),
            });
        }
    })
}
