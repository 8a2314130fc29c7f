//! Puts placeholders where values stood, and values back where placeholders come back.
//!
//! A site may let placeholders stand for what some rules found (an e-mail address, a name), so that a
//! cloud answers without seeing it. Every occurrence of such a value in the body's texts becomes
//! `[EMAIL_KXQZBNRT]`: what it is, and eight letters from a keyed hash (HMAC-SHA-256) over tenant,
//! caller, conversation and value. So a value has one placeholder through a conversation, which is
//! sent again with every turn, and nothing need be remembered; another conversation, caller or
//! process has another.
//!
//! Invariants: the redacted body is scanned and decided afresh before anything leaves; a placeholder
//! that the body already holds by chance is never given out; restoring what was redacted gives the
//! same text, whatever the chunks of a stream.

mod restore;

use std::collections::{BTreeMap, BTreeSet};

use aho_corasick::{AhoCorasick, MatchKind};
use ring::hmac;
use ring::rand::SystemRandom;
use serde_json::{Map, Value};
use sluice_policies::{Finding, Prompt, Role};

use crate::api::Request;
use crate::taint::NoRandomness;

pub(crate) use restore::{EventRestorer, restore_whole, restorer};

/// Letters of a placeholder's tail: no vowels, so no words; no digits, so no numbers.
const LETTERS: &[u8; 20] = b"BCDFGHJKLMNPQRSTVWXZ";
const LETTERS_COUNT: usize = 8;
/// Shorter values would be found in every other word.
const VALUE_CHARS_MIN: usize = 3;

/// Makes placeholders under a key of this process.
pub struct Redactor {
    key: hmac::Key,
}

/// What was replaced in one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Redaction {
    /// Placeholders with their values. Never logged: `Debug` of it is for tests.
    values: BTreeMap<String, String>,
    /// How many values each detector found.
    pub(crate) counts: BTreeMap<String, usize>,
}

impl Redactor {
    /// A redactor under a fresh key.
    pub fn new() -> Result<Redactor, NoRandomness> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())
            .map_err(|_| NoRandomness)?;
        Ok(Redactor { key })
    }

    /// The body with placeholders for these findings; `None` if there is nothing to replace.
    pub(crate) fn redact(
        &self,
        request: &Request,
        findings: &[&Finding],
    ) -> Option<(Map<String, Value>, Redaction)> {
        let (prompt, fields) = (&request.prompt, &request.chat.fields);
        let mut values: BTreeMap<&str, &str> = BTreeMap::new();
        for finding in findings {
            let text = &prompt.texts.get(finding.text)?.text;
            let value = text.get(finding.span.clone())?.trim();
            if value.chars().count() >= VALUE_CHARS_MIN {
                values.entry(value).or_insert(&finding.detector);
            }
        }
        if values.is_empty() {
            return None;
        }
        let scope = self.scope(request);
        let mut redaction = Redaction { values: BTreeMap::new(), counts: BTreeMap::new() };
        let mut placeholders = Vec::new();
        for (value, detector) in &values {
            let placeholder = self.placeholder(&scope, detector, value, prompt, &redaction)?;
            *redaction.counts.entry((*detector).to_owned()).or_default() += 1;
            redaction.values.insert(placeholder.clone(), (*value).to_owned());
            placeholders.push(placeholder);
        }
        let finder = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(values.keys())
            .ok()?;
        let mut fields = fields.clone();
        for (name, value) in fields.iter_mut().filter(|(name, _)| *name != "model") {
            // A placeholder in a field's name would be a field that nobody knows.
            debug_assert!(!name.is_empty());
            replace(value, &finder, &placeholders);
        }
        Some((fields, redaction))
    }

    /// What ties a conversation together: the client's session, else how it began.
    fn scope(&self, request: &Request) -> hmac::Context {
        let caller = &request.caller;
        let began = || request.prompt.texts.iter().find(|text| text.role == Role::User);
        let conversation = match &request.session {
            Some(session) => session.as_str(),
            None => began().map_or("", |text| text.text.as_str()),
        };
        let mut scope = hmac::Context::with_key(&self.key);
        for part in [&caller.tenant, caller.id.as_deref().unwrap_or(""), conversation] {
            scope.update(&part.len().to_le_bytes());
            scope.update(part.as_bytes());
        }
        scope
    }

    /// The first placeholder of a value that nothing else has taken.
    fn placeholder(
        &self,
        scope: &hmac::Context,
        detector: &str,
        value: &str,
        prompt: &Prompt,
        taken: &Redaction,
    ) -> Option<String> {
        (0u8..=255).find_map(|attempt| {
            let mut context = scope.clone();
            context.update(&[attempt]);
            context.update(detector.as_bytes());
            context.update(b"\0");
            context.update(value.as_bytes());
            let tag = context.sign();
            let letters: String = tag.as_ref()[..LETTERS_COUNT]
                .iter()
                .map(|byte| char::from(LETTERS[usize::from(*byte) % LETTERS.len()]))
                .collect();
            let placeholder = format!("[{}_{letters}]", kind(detector));
            let is_free = !taken.values.contains_key(&placeholder)
                && !prompt.texts.iter().any(|text| text.text.contains(&letters));
            is_free.then_some(placeholder)
        })
    }
}

impl Redaction {
    /// How many values were replaced.
    pub(crate) fn count(&self) -> usize {
        self.values.len()
    }
}

/// The word that tells the model what a placeholder stands for.
fn kind(detector: &str) -> &'static str {
    match detector {
        "person_name" => "PERSON",
        "email" => "EMAIL",
        "phone" => "PHONE",
        "postal_address" => "ADDRESS",
        "iban" | "bank_account" | "aba_routing" => "ACCOUNT",
        _ => "ITEM",
    }
}

/// Replaces every whole occurrence in every text of a JSON value. Keys stay: what they hold is found
/// again by the scan of the redacted body, which then stays.
fn replace(value: &mut Value, finder: &AhoCorasick, placeholders: &[String]) {
    match value {
        Value::String(text) => {
            if let Some(replaced) = replaced(text, finder, placeholders) {
                *text = replaced;
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|v| replace(v, finder, placeholders)),
        Value::Object(map) => map.values_mut().for_each(|v| replace(v, finder, placeholders)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn replaced(text: &str, finder: &AhoCorasick, placeholders: &[String]) -> Option<String> {
    let mut out = String::new();
    let mut copied = 0;
    for found in finder.find_iter(text).filter(|found| is_whole(text, found.range())) {
        out.push_str(&text[copied..found.start()]);
        out.push_str(&placeholders[found.pattern().as_usize()]);
        copied = found.end();
    }
    (copied > 0).then(|| out + &text[copied..])
}

/// Whether an occurrence is no part of a longer word: "Ann" in "Annual".
fn is_whole(text: &str, range: std::ops::Range<usize>) -> bool {
    let joins = |before: Option<char>, after: Option<char>| {
        before.is_some_and(char::is_alphanumeric) && after.is_some_and(char::is_alphanumeric)
    };
    let value = &text[range.clone()];
    !joins(text[..range.start].chars().next_back(), value.chars().next())
        && !joins(value.chars().next_back(), text[range.end..].chars().next())
}

/// The names of tools whose arguments get the values.
pub(crate) type Tools = BTreeSet<String>;

#[cfg(test)]
mod tests;
