//! Folds look-alike characters: NFKC, digits of every script, invisible characters, homoglyphs.
//!
//! One view, one character at a time, so that offsets stay exact. Homoglyphs fold by word: a Cyrillic
//! letter inside a Latin word is a disguise, a Cyrillic word is Russian.
//! Sources: Unicode 16 (Nd zero digits, Default_Ignorable_Code_Point), UTS 39 (confusables, the
//! letters that look the same in common fonts).

use std::borrow::Cow;
use std::iter;

use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::compose;

use super::{Budget, Piece, View};

/// The folded view of a text; borrows it when there is nothing to fold.
pub(crate) fn fold<'a>(text: &'a str, budget: &mut Budget) -> View<'a> {
    let unchanged = View { text: Cow::Borrowed(text), map: None, parent: None, depth: 0 };
    if is_plain(text) || !budget.take(text.len()) {
        return unchanged;
    }
    let mut folding = Folding::default();
    for (at, c) in text.char_indices() {
        folding.add(at, c);
    }
    folding.end_word();
    if folding.text == text {
        return unchanged;
    }
    View { text: Cow::Owned(folding.text), map: Some(folding.pieces), parent: None, depth: 0 }
}

/// Whether every character is ASCII and visible, so that folding changes nothing.
pub(crate) fn is_plain(text: &str) -> bool {
    // No early way out inside a block: the compiler looks at many bytes at once.
    let strange =
        |block: &[u8]| block.iter().fold(false, |any, &b| any | (b >= 0x80) | is_hidden_control(b));
    !text.as_bytes().chunks(256).any(strange)
}

#[derive(Default)]
struct Folding {
    text: String,
    pieces: Vec<Piece>,
    /// Start of the current word in `text`, and what it is made of.
    word_start: usize,
    word_has_latin: bool,
    word_has_confusable: bool,
    word_has_other: bool,
    word_digit_count: usize,
    word_letter_count: usize,
    latin_count: usize,
}

impl Folding {
    fn add(&mut self, at: usize, c: char) {
        if c.is_ascii() && !is_hidden_control(c as u8) {
            self.put(at, c.len_utf8(), c);
        } else if !is_ignorable(c) {
            // The katakana length mark is a dash between digits only.
            let dash = c == '\u{30fc}' && self.text.ends_with(|last: char| last.is_ascii_digit());
            match folded_alone(c).or(dash.then_some('-')) {
                Some(folded) => self.put(at, c.len_utf8(), folded),
                None => self.put_compatible(at, c),
            }
        }
    }

    fn put_compatible(&mut self, at: usize, c: char) {
        if let Some(composed) = self.text.chars().next_back().and_then(|last| compose(last, c)) {
            self.text.pop();
            self.pieces.push(piece(self.text.len(), at, c.len_utf8(), composed));
            self.text.push(composed);
            return;
        }
        for folded in iter::once(c).nfkc() {
            self.put(at, c.len_utf8(), folded_alone(folded).unwrap_or(folded));
        }
    }

    fn put(&mut self, at: usize, original_len: usize, c: char) {
        let continues = self.pieces.last().is_some_and(|last| {
            last.copied && last.parent as usize + (self.text.len() - last.view as usize) == at
        });
        if !(continues && c.len_utf8() == original_len) {
            self.pieces.push(piece(self.text.len(), at, original_len, c));
        }
        if c.is_alphabetic() {
            self.note_letter(c);
        } else if c.is_ascii_digit() {
            self.word_digit_count += 1;
        } else {
            self.end_word();
            self.word_start = self.text.len() + c.len_utf8();
        }
        self.text.push(c);
    }

    fn note_letter(&mut self, c: char) {
        self.word_letter_count += 1;
        if c.is_ascii() {
            self.word_has_latin = true;
            self.latin_count += 1;
        } else if latin_twin(c).is_some() {
            self.word_has_confusable = true;
        } else {
            self.word_has_other = true;
        }
    }

    /// Replaces the homoglyphs of the word that ends here, if it is a Latin word in disguise.
    fn end_word(&mut self) {
        let mixed = self.word_has_latin;
        let all_twins = !self.word_has_other && self.latin_count > 20;
        // `384О`: a letter among digits that looks like one.
        let is_number = !self.word_has_other && self.word_digit_count > self.word_letter_count;
        if self.word_has_confusable && (mixed || all_twins || is_number) {
            self.replace_twins();
        }
        self.word_start = self.text.len();
        (self.word_has_latin, self.word_has_confusable, self.word_has_other) =
            (false, false, false);
        (self.word_digit_count, self.word_letter_count) = (0, 0);
    }

    fn replace_twins(&mut self) {
        let word = self.text.split_off(self.word_start);
        let first = self.pieces.partition_point(|p| (p.view as usize) < self.word_start);
        let carried = first.checked_sub(1).map(|i| self.pieces[i]);
        let old = self.pieces.split_off(first);
        for (offset, c) in word.char_indices() {
            let at = self.word_start + offset;
            let source =
                old[..old.partition_point(|p| p.view as usize <= at)].last().copied().or(carried);
            let source = source.expect("every character was put with a piece");
            let parent = source.parent_of(at).0;
            let end =
                if source.copied { parent + c.len_utf8() } else { source.parent_end as usize };
            let twin = latin_twin(c).unwrap_or(c);
            self.pieces.push(piece(self.text.len(), parent, end - parent, twin));
            self.text.push(twin);
        }
    }
}

fn piece(view: usize, parent: usize, parent_len: usize, written: char) -> Piece {
    Piece {
        view: view as u32,
        parent: parent as u32,
        parent_end: (parent + parent_len) as u32,
        copied: written.len_utf8() == parent_len,
    }
}

fn is_hidden_control(byte: u8) -> bool {
    byte < 0x20 && !matches!(byte, b'\t' | b'\n' | b'\r' | 0x0b | 0x0c) || byte == 0x7f
}

/// Characters that are drawn as nothing: they only split what belongs together.
fn is_ignorable(c: char) -> bool {
    matches!(c as u32,
        0x00..=0x08 | 0x0e..=0x1f | 0x7f | 0xad | 0x34f | 0x61c | 0x115f..=0x1160 | 0x17b4..=0x17b5
        | 0x180b..=0x180f | 0x200b..=0x200f | 0x202a..=0x202e | 0x2060..=0x206f | 0x20e3 | 0x3164
        | 0xfe00..=0xfe0f | 0xfeff | 0xffa0 | 0xfff0..=0xfff8 | 0x1bca0..=0x1bca3
        | 0x1d173..=0x1d17a | 0xe0000..=0xe0fff)
}

/// Foldings that NFKC does not know: digits of every script, dashes, quotation marks.
fn folded_alone(c: char) -> Option<char> {
    match c as u32 {
        0x2010..=0x2015 | 0x2212 | 0xfe58 | 0xfe63 | 0xff0d | 0x2043 | 0xad => Some('-'),
        0x2018..=0x201b | 0x2032 | 0x02bc | 0x02b9 | 0xff07 => Some('\''),
        0x201c..=0x201f | 0x2033 | 0x00ab | 0x00bb | 0xff02 => Some('"'),
        0x00b7 | 0x2022 | 0x2024 | 0x2027 | 0x30fb | 0x06d4 => Some('.'),
        0x2028 | 0x2029 => Some('\n'),
        0x2044 | 0x2215 => Some('/'),
        0x2776..=0x277e => char::from_digit(c as u32 - 0x2775, 10),
        0x2780..=0x2788 => char::from_digit(c as u32 - 0x277f, 10),
        0x278a..=0x2792 => char::from_digit(c as u32 - 0x2789, 10),
        0x24f5..=0x24fd => char::from_digit(c as u32 - 0x24f4, 10),
        0x24ff => Some('0'),
        code => decimal_digit(code),
    }
}

/// Decimal digits of every script as ASCII digits.
fn decimal_digit(code: u32) -> Option<char> {
    if (0x1d7ce..=0x1d7ff).contains(&code) {
        return char::from_digit((code - 0x1d7ce) % 10, 10);
    }
    let index = ZERO_DIGITS.partition_point(|&zero| zero <= code).checked_sub(1)?;
    let value = code - ZERO_DIGITS[index];
    (value < 10).then(|| char::from_digit(value, 10)).flatten()
}

/// The zero of each script's decimal digits (general category Nd), sorted; nine digits follow each.
const ZERO_DIGITS: [u32; 67] = [
    0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xc66, 0xce6, 0xd66, 0xde6,
    0xe50, 0xed0, 0xf20, 0x1040, 0x1090, 0x17e0, 0x1810, 0x1946, 0x19d0, 0x1a80, 0x1a90, 0x1b50,
    0x1bb0, 0x1c40, 0x1c50, 0xa620, 0xa8d0, 0xa900, 0xa9d0, 0xa9f0, 0xaa50, 0xabf0, 0xff10,
    0x104a0, 0x10d30, 0x10d40, 0x11066, 0x110f0, 0x11136, 0x111d0, 0x112f0, 0x11450, 0x114d0,
    0x11650, 0x116c0, 0x116d0, 0x11730, 0x118e0, 0x11950, 0x11bf0, 0x11c50, 0x11d50, 0x11da0,
    0x11f50, 0x16130, 0x16a60, 0x16ac0, 0x16b50, 0x16d70, 0x1ccf0, 0x1e140, 0x1e2f0, 0x1e950,
    0x1fbf0,
];

/// The Latin letter that looks the same as a Cyrillic, Greek, Armenian or Cherokee one.
fn latin_twin(c: char) -> Option<char> {
    const TWINS: &[(&str, char)] = &[
        ("аɑα", 'a'),
        ("АΑᎪ", 'A'),
        ("ВΒᏴ", 'B'),
        ("Ьь", 'b'),
        ("сϲ", 'c'),
        ("СϹᏟ", 'C'),
        ("ԁ", 'd'),
        ("Ꭰ", 'D'),
        ("еє", 'e'),
        ("ЕΕᎬ", 'E'),
        ("ɡ", 'g'),
        ("Ԍ", 'G'),
        ("һհ", 'h'),
        ("НΗᎻ", 'H'),
        ("іιı", 'i'),
        ("ІΙӀ", 'I'),
        ("ј", 'j'),
        ("Ј", 'J'),
        ("κк", 'k'),
        ("КΚ", 'K'),
        ("ӏ", 'l'),
        ("Ꮮ", 'L'),
        ("м", 'm'),
        ("МΜ", 'M'),
        ("ոп", 'n'),
        ("Ν", 'N'),
        ("оοօ", 'o'),
        ("ОΟՕ", 'O'),
        ("рρ", 'p'),
        ("РΡᏢ", 'P'),
        ("ԛ", 'q'),
        ("Ԛ", 'Q'),
        ("г", 'r'),
        ("ѕ", 's'),
        ("ЅᏚ", 'S'),
        ("т", 't'),
        ("ТΤᎢ", 'T'),
        ("υս", 'u'),
        ("Ս", 'U'),
        ("ν", 'v'),
        ("Ѵ", 'V'),
        ("ѡԝω", 'w'),
        ("ԜᎳ", 'W'),
        ("хχ", 'x'),
        ("ХΧ", 'X'),
        ("уγү", 'y'),
        ("УΥҮ", 'Y'),
        ("Ζ", 'Z'),
    ];
    if !matches!(c as u32, 0x131 | 0x250..=0x58f | 0x13a0..=0x13ff) {
        return None;
    }
    TWINS.iter().find(|(twins, _)| twins.contains(c)).map(|&(_, latin)| latin)
}
