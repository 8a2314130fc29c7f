//! The features of a text: its words, pairs of neighbours and pieces of words; names, numbers and
//! machine-made strings (`machine`) by kind only.

use std::borrow::Cow;

use super::super::compile::Compiler;
use super::super::letters::is_unspaced;
use super::super::lexicon::{Lexicon, Marks, Word};
use super::super::reading::Reading;
use super::machine::{self, Machine};

/// A word, a number of so many digits, "a name", a pair of these, or a piece of a word, as a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Feature(pub(super) u64);

/// Stands for any word that is a given name or a surname and has a capital.
const NAME: &str = "@";
const NAME_HASH: u64 = 0x6a09_e667_f3bc_c909;
const NUMBER_HASH: u64 = 0xbb67_ae85_84ca_a73b;
/// Longer numbers count as this long.
const DIGITS_MAX: usize = 12;
const KIND_HASH: u64 = 0x3c6e_f372_fe94_f82b;

/// Characters of a piece, borders of the word included.
const PIECE_CHARS: std::ops::RangeInclusive<usize> = 2..=5;
/// A character of a piece takes so many bits; those of rare scripts share some values.
const PIECE_BITS: usize = 12;
const PIECE_HASH: u64 = 0xa54f_f53a_5f1d_36f1;
/// Pieces are taken from so many characters at a word's beginning.
const PIECES_OF_CHARS: usize = 32;
/// Stands for the border of a word.
const BORDER: char = '_';

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

/// Marks the words of each kind in the lexicon, with a bit of the kind's number.
pub(crate) fn mark_kinds(compiler: &mut Compiler) {
    for list in ["given_names", "surnames"] {
        let list = compiler.shipped_names(list);
        compiler.lexicon.mark(list, 1 << NAME_KIND);
    }
    for (kind, (_, names)) in KINDS.iter().enumerate() {
        for name in *names {
            let list = compiler.shipped_list(name);
            compiler.lexicon.mark(list, 1 << kind);
        }
    }
}

/// Whether a feature of a model file is a kind.
pub(super) fn is_kind(name: &str) -> bool {
    KINDS.iter().any(|(kind, _)| *kind == name)
}

impl Feature {
    /// Words are hashed well already.
    fn word(hash: u64) -> Feature {
        Feature(hash)
    }

    fn pair(first: u64, second: u64) -> Feature {
        Feature(spread(first.rotate_left(17) ^ second.wrapping_mul(NUMBER_HASH)))
    }

    fn piece(chars: u64) -> Feature {
        Feature(spread(chars ^ PIECE_HASH))
    }

    fn kind(kind: usize) -> Feature {
        Feature(spread(KIND_HASH.wrapping_mul(kind as u64 + 2)))
    }

    /// A feature as it stands in a model file: `salary`, `@ was`, `#4`, `~_hea`.
    pub(super) fn parse(text: &str, lexicon: &Lexicon) -> Feature {
        if let Some(piece) = text.strip_prefix('~') {
            return Feature::piece(piece.chars().fold(1, push_char));
        }
        if let Some(kind) = KINDS.iter().position(|(name, _)| *name == text) {
            return Feature::kind(kind);
        }
        let unit = |text: &str| match text.strip_prefix('#') {
            Some(kind) => match Machine::named(text) {
                Some(machine) => machine.hash(),
                None => number(kind.parse().unwrap_or(0)),
            },
            None if text == NAME => NAME_HASH,
            None => lexicon.fold_hash(text),
        };
        match text.split_once(' ') {
            Some((first, second)) => Feature::pair(unit(first), unit(second)),
            None => Feature::word(unit(text)),
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

/// A piece is a one and its characters behind, so that pieces of other lengths differ.
fn push_char(piece: u64, c: char) -> u64 {
    piece << PIECE_BITS | c as u64 & ((1 << PIECE_BITS) - 1)
}

/// The words of a text, and each character of a script without spaces between; a string that no
/// person wrote is one word.
pub(super) fn words<'a>(reading: &'a Reading<'_>) -> Cow<'a, [Word]> {
    machine::joined(reading.text, spaced_words(reading))
}

fn spaced_words<'a>(reading: &'a Reading<'_>) -> Cow<'a, [Word]> {
    let words = &reading.words.words;
    let is_spaced = reading.text.is_ascii() || !reading.text.chars().any(is_unspaced);
    if is_spaced {
        return Cow::Borrowed(words);
    }
    let single = |(start, c): (usize, char)| Word {
        start: start as u32,
        end: (start + c.len_utf8()) as u32,
        hash: reading.lexicon.fold_hash(c.encode_utf8(&mut [0; 4])),
    };
    let singles = reading.text.char_indices().filter(|(_, c)| is_unspaced(*c)).map(single);
    let mut all: Vec<Word> = singles.chain(words.iter().copied()).collect();
    all.sort_by_key(|word| word.start);
    Cow::Owned(all)
}

/// A word as the model sees it.
#[derive(Clone, Copy)]
pub(super) struct Unit<'a> {
    word: Word,
    /// The text that it stands in.
    of: &'a str,
    hash: u64,
    /// A bit for each kind.
    kinds: Marks,
    is_number: bool,
}

impl Unit<'_> {
    fn text(&self) -> &str {
        &self.of[self.word.start as usize..self.word.end as usize]
    }

    /// The word itself.
    pub(super) fn feature(&self) -> Feature {
        Feature::word(self.hash)
    }

    /// The word and the one before it.
    pub(super) fn pair(&self, last: Option<&Unit<'_>>) -> Option<Feature> {
        Some(Feature::pair(last.filter(|last| is_pair(last, self))?.hash, self.hash))
    }

    /// The kinds that it is of.
    pub(super) fn kinds(&self) -> impl Iterator<Item = Feature> + use<> {
        self.kind_numbers().map(Feature::kind)
    }

    /// Calls `each` with every piece of the word; a name or a number has none.
    pub(super) fn each_piece(&self, lexicon: &Lexicon, mut each: impl FnMut(Feature)) {
        if self.has_pieces() {
            each_piece(lexicon, self.text(), |piece, _| each(Feature::piece(piece)));
        }
    }

    fn has_pieces(&self) -> bool {
        !self.is_number && self.hash != NAME_HASH
    }

    fn kind_numbers(&self) -> impl Iterator<Item = usize> + use<> {
        let mut kinds = self.kinds & ((1 << KINDS.len()) - 1);
        std::iter::from_fn(move || {
            let kind = (kinds != 0).then(|| kinds.trailing_zeros() as usize)?;
            kinds &= kinds - 1;
            Some(kind)
        })
    }

    /// As a model file has it.
    fn name(&self) -> String {
        if let Some(machine) = Machine::of(self.hash) {
            return machine.name().to_owned();
        }
        match self.is_number {
            true => format!("#{}", self.word.bytes().min(DIGITS_MAX)),
            false if self.hash == NAME_HASH => NAME.to_owned(),
            false => self.text().to_lowercase(),
        }
    }
}

/// Calls `each` with every piece of a word of a model file; a name or a number has none.
pub(super) fn each_piece_of(lexicon: &Lexicon, name: &str, mut each: impl FnMut(Feature)) {
    if name != NAME && !name.starts_with('#') {
        each_piece(lexicon, name, |piece, _| each(Feature::piece(piece)));
    }
}

/// The words of a text with their kinds, in order.
pub(super) struct Reader<'a> {
    text: &'a str,
    pub(super) lexicon: &'a Lexicon,
    /// The words of some kind that are not before the next word.
    marked: &'a [(u32, Marks)],
}

impl<'a> Reader<'a> {
    pub(super) fn new(reading: &'a Reading<'_>) -> Reader<'a> {
        Reader { text: reading.text, lexicon: reading.lexicon, marked: &reading.words.marked }
    }

    /// The next word.
    #[inline]
    pub(super) fn unit(&mut self, word: &Word) -> Unit<'a> {
        let mut kinds = 0;
        while let Some(((start, marks), rest)) =
            self.marked.split_first().filter(|((start, _), _)| *start <= word.start)
        {
            kinds |= if *start == word.start { *marks } else { 0 };
            self.marked = rest;
        }
        let machine = Machine::of(word.hash);
        let first = self.text.as_bytes()[word.start as usize];
        let is_number = machine.is_some() || first.is_ascii_digit();
        let is_name = !is_number && kinds >> NAME_KIND & 1 == 1;
        let hash = match (is_number, is_name) {
            (true, _) => machine.map_or_else(|| number(word.bytes()), Machine::hash),
            (_, true) => NAME_HASH,
            _ => word.hash,
        };
        Unit { word: *word, of: self.text, hash, kinds, is_number }
    }

    /// The names of all features of some words, as [`Feature::parse`] reads them.
    pub(super) fn names(&mut self, words: &[Word]) -> Vec<String> {
        let mut names = Vec::new();
        let mut last: Option<Unit<'_>> = None;
        for word in words {
            let unit = self.unit(word);
            names.push(unit.name());
            if let Some(last) = last.filter(|last| is_pair(last, &unit)) {
                names.push(format!("{} {}", last.name(), unit.name()));
            }
            names.extend(unit.kind_numbers().map(|kind| KINDS[kind].0.to_owned()));
            if unit.has_pieces() {
                each_piece(self.lexicon, unit.text(), |_, chars| {
                    names.push(format!("~{}", chars.iter().collect::<String>()));
                });
            }
            last = Some(unit);
        }
        names
    }
}

fn each_piece(lexicon: &Lexicon, word: &str, mut each: impl FnMut(u64, &[char])) {
    let mut chars = [BORDER; PIECES_OF_CHARS + 2];
    let mut len = 1;
    let mut push = |c: char| {
        if len <= PIECES_OF_CHARS {
            chars[len] = c;
            len += 1;
        }
    };
    if word.is_ascii() {
        word.bytes().for_each(|byte| push(char::from(byte.to_ascii_lowercase())));
    } else {
        lexicon.folded(word).chars().for_each(push);
    }
    // A border behind: the array is full of them.
    let chars = &chars[..len + 1];
    let mut window = 0;
    for (at, &c) in chars.iter().enumerate() {
        window = push_char(window, c);
        for count in PIECE_CHARS.take_while(|count| *count <= at + 1) {
            let one = 1 << (count * PIECE_BITS);
            each(one | window & (one - 1), &chars[at + 1 - count..=at]);
        }
    }
}

/// Two numbers side by side say nothing: tables and measurements are full of them.
fn is_pair(last: &Unit<'_>, unit: &Unit<'_>) -> bool {
    !(last.is_number && unit.is_number)
}
