//! Windows over what was found: sentence, so many characters, message, request, conversation.
//!
//! A [`Scene`] holds the hits of one prompt sorted by position, each with the number of its sentence
//! and message, so that every window is a slice of that list.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, Deserialize, Deserializer, Visitor};

use crate::evidence::{Finding, Likelihood};
use crate::prompt::{Prompt, RequestContext, Text, Unscanned};
use crate::replay::PlacedFinding;

/// How near together findings must stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Near {
    Sentence,
    /// From the first character of the first finding to the last of the last.
    Characters(u32),
    Message,
    /// Everything that this request sends.
    Request,
    /// Everything that is known of the conversation: with clients that send their history, the same.
    Conversation,
}

/// One finding, reduced to what conditions look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hit {
    pub(crate) detector: u32,
    pub(crate) likelihood: Likelihood,
    /// Index of the finding.
    finding: usize,
    /// Number of the message, or of the text when it stands outside the messages.
    message: u32,
    /// Number of the sentence, counted through the whole prompt.
    sentence: u32,
    /// First character, counted through all texts.
    start: usize,
    /// First character after it.
    end: usize,
}

impl Hit {
    /// The finding with its position in numbers.
    pub(crate) fn placed(&self, findings: &[Finding]) -> PlacedFinding {
        let Finding { detector, place, likelihood, span, .. } = &findings[self.finding];
        PlacedFinding {
            detector: detector.clone(),
            place: place.clone(),
            likelihood: *likelihood,
            message: self.message,
            sentence: self.sentence,
            start: self.start,
            end: self.end,
            bytes: span.clone(),
        }
    }

    /// A hit as it was recorded.
    pub(crate) fn replayed(placed: &PlacedFinding, detector: u32, finding: usize) -> Hit {
        let PlacedFinding { likelihood, message, sentence, start, end, .. } = *placed;
        Hit { detector, likelihood, finding, message, sentence, start, end }
    }
}

/// What the conditions of all rules look at.
pub(crate) struct Scene<'a> {
    pub(crate) context: &'a RequestContext,
    /// What could not be read.
    pub(crate) unscanned: &'a [Unscanned],
    /// Sorted by position.
    pub(crate) hits: Vec<Hit>,
}

impl<'a> Scene<'a> {
    /// Places the findings; those of detectors without a number are of no rule's interest.
    pub(crate) fn new(
        prompt: &'a Prompt,
        unscanned: &'a [Unscanned],
        findings: &[Finding],
        number: impl Fn(&str) -> Option<u32>,
    ) -> Self {
        let mut by_text: BTreeMap<usize, Vec<Numbered<'_>>> = BTreeMap::new();
        for (index, finding) in findings.iter().enumerate() {
            if let Some(detector) = number(&finding.detector) {
                let numbered = Numbered { finding, index, detector };
                by_text.entry(finding.text).or_default().push(numbered);
            }
        }
        let mut scene = Scene { context: &prompt.context, unscanned, hits: Vec::new() };
        let Some((&last, _)) = by_text.last_key_value() else { return scene };
        let (mut ruler, mut before) = (Ruler::default(), None);
        for (index, text) in prompt.texts.iter().enumerate().take(last + 1) {
            let message = message_number(text, index);
            ruler.begin(&text.text, before == Some(message));
            before = Some(message);
            if let Some(found) = by_text.get_mut(&index) {
                found.sort_by_key(|n| (n.finding.span.start, n.finding.span.end));
                scene.hits.extend(found.iter().map(|numbered| ruler.hit(numbered, message)));
            }
            ruler.finish();
        }
        scene
    }

    /// The same scene without the hits of one detector.
    pub(crate) fn without(&self, detector: Option<u32>) -> Scene<'a> {
        let keeps = |hit: &&Hit| Some(hit.detector) != detector;
        Scene { hits: self.hits.iter().filter(keeps).copied().collect(), ..*self }
    }
}

/// A finding, which one it is, and the number of its detector.
struct Numbered<'f> {
    finding: &'f Finding,
    index: usize,
    detector: u32,
}

/// Messages and the texts outside them share one number space without meeting.
fn message_number(text: &Text, index: usize) -> u32 {
    match text.message {
        Some(message) => 2 * message as u32,
        None => 2 * index as u32 + 1,
    }
}

/// Turns byte positions of the texts of a prompt, one by one, into character and sentence numbers, in
/// one pass forward.
#[derive(Default)]
struct Ruler<'a> {
    text: &'a str,
    is_ascii: bool,
    /// Byte of the text up to which characters and sentences are counted.
    at: usize,
    /// Character number at `at`.
    offset: usize,
    /// Sentence number at `at`.
    sentence: u32,
    /// The number that no sentence has yet.
    unused: u32,
}

impl<'a> Ruler<'a> {
    /// Goes to the text behind this one, of the same message or not.
    fn begin(&mut self, text: &'a str, same_message: bool) {
        let is_cut = same_message && goes_on(self.text, text);
        (self.text, self.is_ascii, self.at) = (text, text.is_ascii(), 0);
        if !is_cut {
            self.new_sentences(1);
        }
    }

    fn new_sentences(&mut self, count: u32) {
        self.unused += count;
        self.sentence = self.unused - 1;
    }

    fn hit(&mut self, numbered: &Numbered<'_>, message: u32) -> Hit {
        let Numbered { finding, index, detector } = *numbered;
        self.advance(finding.span.start);
        let found = self.text.get(finding.span.clone()).unwrap_or_default();
        let length = if self.is_ascii { found.len() } else { found.chars().count() };
        Hit {
            detector,
            likelihood: finding.likelihood,
            finding: index,
            message,
            sentence: self.sentence,
            start: self.offset,
            end: self.offset + length,
        }
    }

    fn advance(&mut self, to: usize) {
        let Some(passed) = self.text.get(self.at..to) else { return };
        let ends = sentence_ends(passed, self.text.as_bytes().get(to).copied());
        if ends > 0 {
            self.new_sentences(ends);
        }
        self.offset += if self.is_ascii { passed.len() } else { passed.chars().count() };
        self.at = to;
    }

    /// Goes to the end of the text.
    fn finish(&mut self) {
        self.advance(self.text.len());
        // The space that any reader would put between two texts.
        self.offset += 1;
    }
}

/// Whether the next part of a message goes on in the sentence that this one leaves open: inside a word,
/// or between two words with the space on one side.
fn goes_on(text: &str, next: &str) -> bool {
    let is_open = text.trim_end_matches(' ').ends_with(|c: char| c.is_alphanumeric() || c == ',');
    let is_middle = |c: char| c == ' ' || c.is_alphanumeric() && !c.is_uppercase();
    is_open && (text.ends_with(' ') && !next.is_empty() || next.starts_with(is_middle))
}

/// Words before a full stop that do not end a sentence.
const ABBREVIATIONS: [&str; 18] = [
    "dr", "mr", "mrs", "ms", "prof", "st", "no", "nr", "pt", "dob", "vs", "approx", "hr", "fr",
    "sr", "jr", "e.g", "i.e",
];

/// Bytes that may be the last of a sentence.
const MAY_END: [bool; 256] = {
    let mut table = [false; 256];
    let mut of = [b'!', b'?', b'.', b'\n', 0x82].as_slice();
    while let [byte, rest @ ..] = of {
        table[*byte as usize] = true;
        of = rest;
    }
    table
};

/// Sentence ends in a stretch of text that is followed by the byte `next`.
fn sentence_ends(text: &str, next: Option<u8>) -> u32 {
    let bytes = text.as_bytes();
    let (mut ends, mut from) = (0, 0);
    // Most bytes end nothing and are passed over.
    while let Some(passed) = bytes[from..].iter().position(|byte| MAY_END[usize::from(*byte)]) {
        let at = from + passed;
        from = at + 1;
        let after = bytes.get(at + 1).copied().or(next);
        let is_end = match bytes[at] {
            b'!' | b'?' => after.is_none_or(|b| b.is_ascii_whitespace()),
            b'.' => after.is_none_or(|b| b.is_ascii_whitespace()) && !is_abbreviation(&text[..at]),
            b'\n' => after == Some(b'\n'),
            // The last byte of the ideographic full stop U+3002.
            0x82 => at >= 2 && bytes[at - 2..at] == [0xE3, 0x80],
            _ => false,
        };
        ends += u32::from(is_end);
    }
    ends
}

fn is_abbreviation(before: &str) -> bool {
    let word = before.rsplit(|c: char| c.is_whitespace() || c == '(').next().unwrap_or_default();
    let is_initial = word.len() == 1 && word.bytes().all(|b| b.is_ascii_uppercase());
    is_initial || ABBREVIATIONS.iter().any(|known| known.eq_ignore_ascii_case(word))
}

/// A stretch of hits, and the wider stretch in which `unless` looks.
pub(super) struct Window<'h> {
    pub(super) hits: &'h [Hit],
    pub(super) around: &'h [Hit],
}

impl Near {
    /// The windows that could hold everything that is asked for.
    pub(super) fn windows<'h>(self, hits: &'h [Hit]) -> Box<dyn Iterator<Item = Window<'h>> + 'h> {
        let whole = |hits| Window { hits, around: hits };
        match self {
            Near::Sentence => Box::new(hits.chunk_by(|a, b| a.sentence == b.sentence).map(whole)),
            Near::Message => Box::new(hits.chunk_by(|a, b| a.message == b.message).map(whole)),
            Near::Request | Near::Conversation => Box::new(std::iter::once(whole(hits))),
            Near::Characters(width) => {
                let width = width as usize;
                Box::new((0..hits.len()).map(move |first| {
                    let start = hits[first].start;
                    let end = first + hits[first..].partition_point(|h| h.start < start + width);
                    // What lies before the first hit is as near to it as what lies behind.
                    let before = hits[..first].partition_point(|h| h.start + width < start);
                    Window { hits: &hits[first..end], around: &hits[before..end] }
                }))
            }
        }
    }
}

impl fmt::Display for Near {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Near::Sentence => f.write_str("in one sentence"),
            Near::Characters(width) => write!(f, "within {width} characters"),
            Near::Message => f.write_str("in one message"),
            Near::Request => f.write_str("in one request"),
            Near::Conversation => f.write_str("in one conversation"),
        }
    }
}

impl<'de> Deserialize<'de> for Near {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NearVisitor)
    }
}

struct NearVisitor;

impl Visitor<'_> for NearVisitor {
    type Value = Near;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sentence, 300 characters, message, request or conversation")
    }

    fn visit_str<E: de::Error>(self, words: &str) -> Result<Near, E> {
        let characters = words.strip_suffix("characters").map(|number| number.trim().parse());
        match (words, characters) {
            ("sentence", _) => Ok(Near::Sentence),
            ("message", _) => Ok(Near::Message),
            ("request", _) => Ok(Near::Request),
            ("conversation", _) => Ok(Near::Conversation),
            (_, Some(Ok(width @ 1..=100_000))) => Ok(Near::Characters(width)),
            _ => Err(E::invalid_value(de::Unexpected::Str(words), &self)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_that_is_cut_over_parts_is_one() {
        for (text, next, one) in [
            ("My employee has joi", "ned the union", true),
            ("My employee ", "Anna has joined", true),
            ("My employee", " Anna has joined", true),
            ("My employee, ", "Anna, has joined", true),
            ("I have an employee", "How do unions work?", false),
            ("I have an employee.", "how do unions work?", false),
            ("I have an employee. ", "how do unions work?", false),
            ("{\"employee\": 1}", "how do unions work?", false),
            ("My employee ", "", false),
        ] {
            assert_eq!(goes_on(text, next), one, "{text:?} {next:?}");
        }
    }

    #[test]
    fn counts_sentences_but_not_abbreviations() {
        for (text, ends) in [
            ("He has sepsis. She does not. ", 2),
            ("Seen by Dr. Smith and J. Doe today", 0),
            ("Really? Yes! Fine.", 3),
            ("first line\nsecond line\n\nnew paragraph", 1),
            ("dose 2.5 mg", 0),
            ("患者。次", 1),
        ] {
            assert_eq!(sentence_ends(text, None), ends, "{text}");
        }
    }
}
