//! The features of a text: its words and pairs of neighbours, names and numbers by kind only.

use std::ops::Range;

use crate::detector::compile::Compiler;
use crate::detector::letters::is_unspaced;
use crate::detector::lexicon::{Lexicon, ListId};
use crate::detector::reading::Reading;

/// A word, a number of so many digits, "a name", or a pair of these, as a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Feature(pub(super) u64);

/// Stands for any word that is a given name or a surname and has a capital.
const NAME: &str = "@";
const NAME_HASH: u64 = 0x6a09_e667_f3bc_c909;
const NUMBER_HASH: u64 = 0xbb67_ae85_84ca_a73b;
/// Longer numbers count as this long.
const DIGITS_MAX: usize = 12;
/// Bytes of a long plain word's beginning, which stands for its inflected forms.
const STEM_BYTES: usize = 5;
const STEM_HASH: u64 = 0x3c6e_f372_fe94_f82b;

/// Kinds of words: a feature of their own besides the word. Text in a model file, and lists.
const KINDS: [(&str, &[&str]); 5] = [
    (
        "@health",
        &[
            "health_en",
            "health_de",
            "health_fr",
            "health_es",
            "health_it",
            "health_pt",
            "health_nl",
            "health_other",
        ],
    ),
    ("@drug", &["drugs"]),
    ("@work", &["personnel"]),
    ("@origin", &["special_category"]),
    ("@affairs", &["private_affairs"]),
];
/// The number of names among kinds of words.
const NAME_KIND: usize = KINDS.len();

/// The lists that say of what kind a word is.
pub(crate) struct WordKinds {
    lists: Vec<(ListId, usize)>,
}

impl WordKinds {
    /// Registers the lists.
    pub(crate) fn new(compiler: &mut Compiler) -> WordKinds {
        let names =
            ["given_names", "surnames"].map(|list| (compiler.shipped_names(list), NAME_KIND));
        let mut lists = names.to_vec();
        for (kind, (_, names)) in KINDS.iter().enumerate() {
            lists.extend(names.iter().map(|name| (compiler.shipped_list(name), kind)));
        }
        WordKinds { lists }
    }

    /// Starts of words that are of some kind, sorted.
    fn starts(&self, reading: &Reading<'_>) -> Vec<(u32, usize)> {
        let hits = self
            .lists
            .iter()
            .flat_map(|&(list, kind)| reading.hits(list).map(move |hit| (hit.start, kind)));
        let mut starts: Vec<(u32, usize)> = hits.collect();
        starts.sort_unstable();
        starts.dedup();
        starts
    }
}

impl Feature {
    /// Words are hashed well already.
    fn word(hash: u64) -> Feature {
        Feature(hash)
    }

    fn pair(first: u64, second: u64) -> Feature {
        Feature(spread(first.rotate_left(17) ^ second.wrapping_mul(NUMBER_HASH)))
    }

    fn stem(hash: u64) -> Feature {
        Feature(spread(hash ^ STEM_HASH))
    }

    fn kind(kind: usize) -> Feature {
        Feature(spread(STEM_HASH.wrapping_mul(kind as u64 + 2)))
    }

    /// A feature as it stands in a model file: `salary`, `@ was`, `#4`, `diabe*`.
    pub(super) fn parse(text: &str, lexicon: &Lexicon) -> Feature {
        if let Some(stem) = text.strip_suffix('*') {
            return Feature::stem(lexicon.fold_hash(stem));
        }
        if let Some(kind) = KINDS.iter().position(|(name, _)| *name == text) {
            return Feature::kind(kind);
        }
        let atom = |text: &str| match text.strip_prefix('#') {
            Some(digits) => number(digits.parse().unwrap_or(0)),
            None if text == NAME => NAME_HASH,
            None => lexicon.fold_hash(text),
        };
        match text.split_once(' ') {
            Some((first, second)) => Feature::pair(atom(first), atom(second)),
            None => Feature::word(atom(text)),
        }
    }

    /// What tells two features of one slot apart; never 0.
    pub(super) fn tag(self) -> u32 {
        (self.0 >> 32) as u32 | 1
    }
}

/// Spreads a hash over all bits: the table takes the low ones.
fn spread(hash: u64) -> u64 {
    let mixed = (hash ^ hash >> 29).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ mixed >> 32
}

fn number(digits: usize) -> u64 {
    NUMBER_HASH.wrapping_add(digits.min(DIGITS_MAX) as u64)
}

/// A word of a text, or a character of a script without spaces.
pub(super) struct Atom {
    hash: u64,
    stem: Option<u64>,
    /// A bit for each kind.
    kinds: u8,
    is_number: bool,
    range: Range<usize>,
}

impl Atom {
    /// Its text as a model file has it.
    pub(super) fn text(&self, text: &str) -> String {
        let word = &text[self.range.clone()];
        match word.as_bytes()[0] {
            b'0'..=b'9' => format!("#{}", word.len().min(DIGITS_MAX)),
            _ if self.hash == NAME_HASH => NAME.to_owned(),
            _ => word.to_lowercase(),
        }
    }
}

/// A word with all its features.
pub(super) struct Step<'a> {
    last: Option<&'a Atom>,
    atom: &'a Atom,
    /// The word's place in the text.
    pub(super) number: usize,
}

impl Step<'_> {
    /// The range of the word.
    pub(super) fn range(&self) -> Range<usize> {
        self.atom.range.clone()
    }

    /// It is a word, and no number.
    pub(super) fn is_word(&self) -> bool {
        !self.atom.is_number
    }

    /// Two numbers side by side say nothing: tables and measurements are full of them.
    fn pair(&self) -> Option<&Atom> {
        self.last.filter(|last| !(last.is_number && self.atom.is_number))
    }

    fn kinds(&self) -> impl Iterator<Item = usize> + use<> {
        let kinds = self.atom.kinds;
        (0..KINDS.len()).filter(move |kind| kinds >> kind & 1 == 1)
    }

    /// Calls `each` with every feature.
    #[inline]
    pub(super) fn features(&self, mut each: impl FnMut(Feature)) {
        each(Feature::word(self.atom.hash));
        if let Some(last) = self.pair() {
            each(Feature::pair(last.hash, self.atom.hash));
        }
        if let Some(stem) = self.atom.stem {
            each(Feature::stem(stem));
        }
        if self.atom.kinds != 0 {
            self.kinds().for_each(|kind| each(Feature::kind(kind)));
        }
    }

    /// The features' texts, in the same order, as [`Feature::parse`] reads them.
    pub(super) fn texts(&self, text: &str) -> Vec<String> {
        let mut texts = vec![self.atom.text(text)];
        texts.extend(
            self.pair().map(|last| format!("{} {}", last.text(text), self.atom.text(text))),
        );
        let start = self.atom.range.start;
        let stem = || format!("{}*", text[start..start + STEM_BYTES].to_ascii_lowercase());
        texts.extend(self.atom.stem.map(|_| stem()));
        texts.extend(self.kinds().map(|kind| KINDS[kind].0.to_owned()));
        texts
    }
}

/// Calls `each` with every word of the text and its features.
pub(super) fn each(reading: &Reading<'_>, kinds: &WordKinds, mut each: impl FnMut(Step<'_>)) {
    let mut last: Option<Atom> = None;
    let mut number = 0;
    atoms(reading, kinds, |atom| {
        each(Step { last: last.as_ref(), atom: &atom, number });
        last = Some(atom);
        number += 1;
    });
}

fn atoms(reading: &Reading<'_>, kinds: &WordKinds, mut emit: impl FnMut(Atom)) {
    let bytes = reading.text.as_bytes();
    let starts = kinds.starts(reading);
    let mut starts = starts.iter().peekable();
    let mut end = 0;
    for word in &reading.words.words {
        let range = word.start as usize..word.end as usize;
        if range.start - end > 2 {
            unspaced(reading, end..range.start, &mut emit);
        }
        end = range.end;
        let mut kinds = 0u8;
        while let Some((start, kind)) = starts.next_if(|(start, _)| *start <= word.start) {
            kinds |= u8::from(*start == word.start) << kind;
        }
        let is_name = kinds >> NAME_KIND & 1 == 1;
        let is_number = bytes[range.start].is_ascii_digit();
        let hash = match (is_number, is_name) {
            (true, _) => number(range.len()),
            (_, true) => NAME_HASH,
            _ => word.hash,
        };
        let may_be_inflected = !is_name && !is_number && range.len() > STEM_BYTES + 1;
        let stem = may_be_inflected.then(|| Lexicon::ascii_stem(bytes, range.start, STEM_BYTES));
        emit(Atom { hash, stem: stem.flatten(), kinds, is_number, range });
    }
    unspaced(reading, end..reading.text.len(), &mut emit);
}

/// Characters of scripts without spaces between two words: each is a word of its own.
fn unspaced(reading: &Reading<'_>, range: Range<usize>, emit: &mut impl FnMut(Atom)) {
    if range.len() < 3 || reading.text.as_bytes()[range.clone()].is_ascii() {
        return;
    }
    let start = range.start;
    for (offset, c) in reading.text[range].char_indices().filter(|(_, c)| is_unspaced(*c)) {
        let at = start + offset;
        let mut buffer = [0; 4];
        let hash = reading.lexicon.fold_hash(c.encode_utf8(&mut buffer));
        emit(Atom { hash, stem: None, kinds: 0, is_number: false, range: at..at + c.len_utf8() });
    }
}
