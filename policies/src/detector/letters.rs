//! What a letter is: classes of bytes, scripts without spaces, and letters without their accents.
//!
//! One table each, so that the lexicon looks every character up once.
//! Source: Unicode canonical decompositions; letters without one (ß, æ, ø, ł) by custom.

use unicode_normalization::char::decompose_canonical;

/// Latin letters up to this code point fold through a table.
pub(super) const FOLD_TABLE_LEN: usize = 0x250;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Break,
    Lower,
    Upper,
    Digit,
    Wide,
}

pub(super) const CLASS: [Class; 256] = class_table();

const fn class_table() -> [Class; 256] {
    let mut table = [Class::Break; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = match byte as u8 {
            b'a'..=b'z' => Class::Lower,
            b'A'..=b'Z' => Class::Upper,
            b'0'..=b'9' => Class::Digit,
            0x80..=0xff => Class::Wide,
            _ => Class::Break,
        };
        byte += 1;
    }
    table
}

/// Whether a word ends between two characters: letter and digit, `camelCase`.
pub(super) fn breaks(previous: Class, next: Class) -> bool {
    (previous == Class::Digit) != (next == Class::Digit)
        || previous == Class::Lower && next == Class::Upper
}

/// Whether a character outside ASCII belongs to words.
pub(super) fn joins_words(c: char) -> bool {
    c.is_alphabetic() || is_combining_mark(c) || ('\u{0900}'..='\u{0dff}').contains(&c)
}

pub(super) fn is_combining_mark(c: char) -> bool {
    matches!(c, '\u{0300}'..='\u{036f}' | '\u{064b}'..='\u{0652}' | '\u{0591}'..='\u{05c7}')
}

/// Scripts that put no space between words, so that any character may start a term.
pub(crate) fn is_unspaced(c: char) -> bool {
    matches!(c,
        '\u{0e00}'..='\u{0e7f}' | '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{4dbf}'
        | '\u{4e00}'..='\u{9fff}' | '\u{ac00}'..='\u{d7a3}')
}

pub(super) fn char_at(text: &str, at: usize) -> char {
    text[at..].chars().next().expect("the offset is a character boundary inside the text")
}

pub(super) fn fold_table() -> Box<[[u8; 2]; FOLD_TABLE_LEN]> {
    let mut table = Box::new([[0; 2]; FOLD_TABLE_LEN]);
    for (code, slot) in table.iter_mut().enumerate() {
        let c = char::from_u32(code as u32).expect("no surrogate lies below the table's end");
        *slot = fold_latin(c);
    }
    table
}

fn fold_latin(c: char) -> [u8; 2] {
    match c {
        'ß' => *b"ss",
        'æ' | 'Æ' => *b"ae",
        'œ' | 'Œ' => *b"oe",
        'ø' | 'Ø' => [b'o', 0],
        'ł' | 'Ł' => [b'l', 0],
        'đ' | 'Đ' | 'ð' | 'Ð' => [b'd', 0],
        'ı' => [b'i', 0],
        'þ' | 'Þ' => *b"th",
        _ => {
            let mut base = None;
            decompose_canonical(c, |part| {
                base.get_or_insert(part);
            });
            match base {
                Some(letter) if letter.is_ascii_alphanumeric() => {
                    [letter.to_ascii_lowercase() as u8, 0]
                }
                // Letters without an ASCII base keep two bytes of their own.
                _ => [0x80 | (c as u32 >> 6) as u8, 0x80 | (c as u32 & 0x3f) as u8],
            }
        }
    }
}
