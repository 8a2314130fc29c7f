//! Markings that claim protection: legal privilege, trade secrets, restricted distribution.
//!
//! The same words mark a document and name a concept. Form tells them apart: capitals, a line of
//! their own, "this e-mail is …" mark; a question, a definition, a template or a statute talks about.

use std::ops::Range;

use super::compile::{Compiler, Kind};
use super::lexicon::ListId;
use super::reading::{Candidate, Detector, Own, Reading};
use super::spec::DetectorSpec;
use crate::evidence::Likelihood::{Likely, Possible, VeryLikely};

/// The built-in detectors of this family; the words of the marking come from the spec.
pub(crate) fn builtin(name: &str, spec: &DetectorSpec, compiler: &mut Compiler) -> Option<Kind> {
    (name == "marking").then(|| {
        Kind::Text(Box::new(Marking {
            marks: compiler.lexicon.list(&spec.words),
            talk: compiler.lexicon.list(TALK),
            claims: compiler.lexicon.list(CLAIMS),
        }))
    })
}

struct Marking {
    marks: ListId,
    /// Words of someone who talks about the concept.
    talk: ListId,
    /// Words of a document that speaks of itself.
    claims: ListId,
}

impl Detector for Marking {
    fn find(&self, reading: &Reading<'_>, found: &mut Vec<Candidate>) {
        for hit in reading.hits(self.marks) {
            let range = hit.start as usize..hit.end as usize;
            let sentence = sentence_around(reading.text, &range);
            let asks = reading.text[sentence.clone()].trim_end().ends_with(['?', '？']);
            let talked_about =
                asks || reading.hits_in(self.talk, sentence.clone()).next().is_some();
            let claimed = reading.hits_in(self.claims, sentence).next().is_some();
            let sure = match (is_heading(reading.text, &range), talked_about) {
                (Heading::Capitals, _) | (Heading::OwnLine, false) => VeryLikely,
                (_, true) if !claimed => Possible,
                (_, true) => Likely,
                (Heading::None, false) if claimed => VeryLikely,
                _ => Likely,
            };
            found.push(Candidate { range, own: Own::Exactly(sure) });
        }
    }
}

#[derive(PartialEq, Eq)]
enum Heading {
    /// All letters are capitals.
    Capitals,
    /// It starts a line and ends at one, or at a colon, dash or full stop.
    OwnLine,
    None,
}

fn is_heading(text: &str, range: &Range<usize>) -> Heading {
    let mark = &text[range.clone()];
    if mark.len() > 4 && !mark.chars().any(char::is_lowercase) && mark.is_ascii() {
        return Heading::Capitals;
    }
    let starts = text[..range.start]
        .trim_end_matches([' ', '*', '#', '[', '(', '-', '>', '"'])
        .chars()
        .next_back();
    let ends = text[range.end..].trim_start_matches([' ', '*', ']', ')', '"']).chars().next();
    let opens = starts.is_none_or(|c| c == '\n' || c == ':');
    let closes = ends.is_none_or(|c| matches!(c, '\n' | ':' | '-' | '–' | '—' | '.' | '|' | '/'));
    if opens && closes { Heading::OwnLine } else { Heading::None }
}

/// From the last sentence end before the range to the next behind it, at most 240 bytes each way.
pub(super) fn sentence_around(text: &str, range: &Range<usize>) -> Range<usize> {
    let ends = |c: char| matches!(c, '.' | '!' | '\n' | '。');
    let low = text.floor_char_boundary(range.start.saturating_sub(240));
    // Just behind the character at `at`: full stops of Chinese and Japanese are three bytes long.
    let behind = |at: usize| at + text[at..].chars().next().map_or(0, char::len_utf8);
    let start = text[low..range.start].rfind(ends).map_or(low, |at| behind(low + at));
    let high = text.ceil_char_boundary(range.end + 240);
    let end = text[range.end..high]
        .find(|c: char| ends(c) || c == '?')
        .map_or(high, |at| behind(range.end + at));
    start..end
}

#[rustfmt::skip]
const TALK: &[&str] = &[
    "what is", "what's", "what are", "what counts", "usc", "u s c", "legal definition", "what does", "explain", "define", "definition", "difference between", "how does", "how do", "how to", "how can", "template", "sample", "example", "examples", "in general", "meaning of", "means", "law school", "exam", "overview", "tell me about", "history of", "when does", "does", "doctrine", "wikipedia", "essay", "blog post", "court", "courts", "frcp", "fre", "rule 26", "statute", "act", "waived", "waive", "waiver", "held that", "protects", "protect", "versus", "vs", "differ", "compare", "should companies", "can a company", "who", "why", "quiz", "lecture", "course", "train", "training", "policy template", "boilerplate", "is it legal",
    "was ist", "was sind", "was bedeutet", "erkläre", "erklären", "unterschied", "wann gilt", "wie", "beispiel", "vorlage", "muster", "gesetz", "gericht", "qu'est ce", "qu est ce que", "explique", "expliquer", "définition", "différence", "comment", "modèle", "exemple", "loi", "tribunal", "qué es", "que es", "explica", "definición", "diferencia", "cómo", "plantilla", "ejemplo", "ley", "che cos'è", "cos'è", "spiega", "definizione", "differenza", "come", "modello", "esempio", "legge", "o que é", "explique", "definição", "diferença", "como", "modelo", "exemplo", "lei", "wat is", "leg uit", "verschil", "hoe", "voorbeeld", "sjabloon", "wet", "что такое", "объясни", "czym jest", "co to jest", "vad är", "nedir", "什么是", "是什么", "とは", "란 무엇", "무엇인가요",
];
#[rustfmt::skip]
const CLAIMS: &[&str] = &["this email", "this e mail", "this message", "this memo", "this memorandum", "this document", "the following", "attached", "marked", "is subject to", "covered by", "below", "our", "we", "diese nachricht", "dieses dokument", "diese e mail", "dies unterliegt", "unterliegt", "unser", "unsere", "ce message", "ce document", "couvert par", "notre", "este documento", "este mensaje", "nuestro", "nuestra", "questo documento", "nostro", "nostra", "nosso", "nossa", "dit document", "deze", "onze"];
