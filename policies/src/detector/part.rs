//! Texts that are read once, for themselves and for every longer text that they are part of.
//!
//! A conversation is scanned text by text and joined, so the same words would be read three times. What
//! is read of a text of plain ASCII holds wherever it stands, but for the words at its borders; a joined
//! text takes it over and reads only what lies near a border. Detectors then look at the joined reading
//! as at any other.
//!
//! Invariants: a joined reading is the reading of the joined text; not more than [`PARTS_MAX`] readings
//! are kept. Not here: which texts are joined (`joined`).

use super::compile::Compiled;
use super::joined::{self, Glue, Joined};
use super::reading::Reading;
use crate::normalize::{Signs, is_plain};
use crate::prompt::Prompt;

/// Readings that are kept; more parts than that are very short, and reading them together is faster.
const PARTS_MAX: usize = 64;

/// A text, read.
pub(super) struct Part<'a> {
    pub(super) reading: Reading<'a>,
    pub(super) signs: Signs,
}

impl<'a> Part<'a> {
    /// Reads a text; `None` if it is not plain, and may be read otherwise as a part of another.
    pub(super) fn read(compiled: &'a Compiled, text: &'a str) -> Option<Part<'a>> {
        if !is_plain(text) {
            return None;
        }
        let reading = compiled.read(text);
        let words = reading.words.words.iter();
        let words = words.map(|word| word.start as usize..word.end as usize);
        let signs = Signs::of_words(text, |byte| reading.bytes.has(byte), words);
        Some(Part { reading, signs })
    }

    /// The same, with what its words weigh for the texts that it will be a part of.
    fn read_for_others(compiled: &'a Compiled, text: &'a str) -> Option<Part<'a>> {
        let part = Part::read(compiled, text)?;
        if let Some(weights) = compiled.topics().weights(&part.reading) {
            part.reading.weights.set(weights).expect("nothing was weighed before");
        }
        Some(part)
    }

    /// What reading a text in which these stand, each where it starts, would give.
    fn join(
        compiled: &'a Compiled,
        joined: &'a str,
        glue: Glue,
        parts: &[(usize, &Part<'_>)],
    ) -> Part<'a> {
        let readings: Vec<_> = parts.iter().map(|(start, part)| (*start, &part.reading)).collect();
        let signs = parts.iter().map(|(start, part)| (*start, &part.signs));
        Part {
            reading: compiled.join(joined, glue.text(), &readings),
            signs: Signs::joined(joined, signs),
        }
    }
}

/// The texts of a prompt that are read already.
pub(super) struct Parts<'a> {
    compiled: &'a Compiled,
    prompt: &'a Prompt,
    /// Some of the texts will be joined, and few enough.
    are_joined: bool,
    /// By the texts' numbers.
    read: Vec<Option<Part<'a>>>,
    count: usize,
}

impl<'a> Parts<'a> {
    pub(super) fn new(compiled: &'a Compiled, prompt: &'a Prompt) -> Parts<'a> {
        let are_joined = (2..=PARTS_MAX).contains(&joined::texts(prompt).count());
        Parts { compiled, prompt, are_joined, read: Vec::new(), count: 0 }
    }

    /// The reading of a text that will be joined with others as it is.
    pub(super) fn of_text(&mut self, index: usize) -> Option<&Part<'a>> {
        let takes_part = self.are_joined && Joined::takes_whole(&self.prompt.texts[index]);
        if takes_part { self.part(index) } else { None }
    }

    /// The reading of a joined text; `None` if it must be read as a whole.
    pub(super) fn of_joined<'j>(&mut self, joined: &'j Joined) -> Option<Part<'j>>
    where
        'a: 'j,
    {
        let (glue, texts) = joined.whole_texts()?;
        let is_missing = |index: &usize| self.read.get(*index).is_none_or(Option::is_none);
        let missing = texts.iter().filter(|(_, index)| is_missing(index)).count();
        if texts.len() > PARTS_MAX {
            return None;
        }
        if self.count + missing > PARTS_MAX {
            (self.read, self.count) = (Vec::new(), 0);
        }
        for (_, index) in &texts {
            self.part(*index)?;
        }
        let part = |&(start, index): &(usize, usize)| Some((start, self.read[index].as_ref()?));
        let parts: Option<Vec<_>> = texts.iter().map(part).collect();
        Some(Part::join(self.compiled, &joined.text, glue, &parts?))
    }

    fn part(&mut self, index: usize) -> Option<&Part<'a>> {
        if self.read.is_empty() {
            self.read.resize_with(self.prompt.texts.len(), || None);
        }
        if self.read[index].is_none() {
            self.read[index] = Part::read_for_others(self.compiled, &self.prompt.texts[index].text);
            self.count += usize::from(self.read[index].is_some());
        }
        self.read[index].as_ref()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;
    use crate::PolicySet;

    static SET: LazyLock<PolicySet> =
        LazyLock::new(|| PolicySet::shipped().expect("the shipped policies are valid"));

    fn compiled() -> &'static Compiled {
        &SET.scanner().compiled
    }

    /// Joins texts and reads them together, and expects the same.
    fn check(texts: &[String], glue: Glue) -> Result<(), TestCaseError> {
        let joined: String = texts.iter().flat_map(|text| [text.as_str(), glue.text()]).collect();
        let parts: Vec<Part<'_>> = texts
            .iter()
            .map(|text| Part::read_for_others(compiled(), text).expect("it is plain"))
            .collect();
        for (part, text) in parts.iter().zip(texts) {
            prop_assert_eq!(&part.signs, &Signs::of(text));
        }
        let mut at = 0;
        let starts = texts.iter().map(|text| {
            let start = at;
            at += text.len() + glue.text().len();
            start
        });
        let placed: Vec<_> = starts.zip(&parts).collect();
        let part = Part::join(compiled(), &joined, glue, &placed);
        let whole = compiled().read(&joined);
        prop_assert_eq!(format!("{:?}", part.reading.words), format!("{:?}", whole.words));
        prop_assert_eq!(&part.reading.literals, &whole.literals);
        prop_assert_eq!(&part.reading.bytes, &whole.bytes);
        prop_assert_eq!(&part.reading.digits, &whole.digits);
        let topics = compiled().topics();
        if let (Some(weights), Some(known)) = (topics.weights(&whole), part.reading.weights.get()) {
            prop_assert_eq!(&weights, known);
        }
        let mut signs = part.signs.clone();
        signs.add(&Signs::of(&joined));
        prop_assert_eq!(signs, part.signs, "a sign of the whole is missing");
        Ok(())
    }

    /// Words, numbers and marks that detectors, lists and transformations wait for.
    fn texts() -> impl Strategy<Value = Vec<String>> {
        let piece = prop_oneof![
            "[a-zA-Z]{1,3}",
            "[0-9]{1,4}",
            "[ ,.:;_/@<\"'|*%=\\n-]{1,2}",
            Just(" ".to_owned()),
            prop::sample::select(vec![
                "social",
                " security",
                " number",
                "date of",
                " birth",
                "Anna",
                " Huber",
                "diabetes",
                "Diabet",
                "insulin",
                "password",
                "sk-",
                "proj-",
                "eyJ",
                "four one",
                " double",
                "and",
                " the river ",
                " runs past ",
                "everybody ",
                "MRN",
                "ssn",
                "hooks.slack.com/services/",
                "a b c",
                "0x",
                "that with some",
                "ALS",
                "resource",
                "Type",
                "my mother",
                " was ",
            ])
            .prop_map(str::to_owned),
        ];
        let text = |pieces| {
            prop::collection::vec(piece.clone(), pieces).prop_map(|pieces| pieces.concat())
        };
        // Short texts too, so that a word lies over several.
        prop::collection::vec(prop_oneof![text(0..3), text(0..12)], 1..8)
    }

    proptest! {
        #[test]
        fn a_joined_reading_is_the_reading_of_the_joined_text(texts in texts()) {
            for glue in [Glue::Nothing, Glue::Line] {
                check(&texts, glue)?;
            }
        }
    }
}
