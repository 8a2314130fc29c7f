//! Reads digits that are spelled out: "four one double one", "vier eins eins eins".
//!
//! Dictated numbers come as words, in a dozen languages and mixed with figures. A sequence of such
//! words becomes its digits without separators; the detectors' checksums tell dictation from counting.

use std::sync::LazyLock;

use super::{Budget, Rewrite, Rewritten};
use crate::swar;

/// Number words that a text must hold before it is worth a view.
pub(super) const ITEMS_MIN: usize = 3;

/// The view in which spelled digits are digits, if there are any.
pub(super) fn digits(text: &str, budget: &mut Budget) -> Option<Rewritten> {
    let mut rewrite = Rewrite::default();
    let mut words = Words { text, at: 0 };
    while let Some((start, word)) = words.next() {
        let Some(sequence) = Sequence::read(text, start, word, &mut words) else { continue };
        if sequence.word_count >= ITEMS_MIN && sequence.digits.len() > ITEMS_MIN {
            if !budget.take(text.len() / 8 + 64) {
                break;
            }
            rewrite.replace(text, start..sequence.end, &sequence.digits);
        }
    }
    rewrite.finish(text)
}

/// Whether some number words stand in a row: a look at the first three letters of each word.
///
/// For texts with letters outside ASCII; [`super::Signs`] does the same for the rest on its way.
pub(super) fn may_spell_digits(text: &str) -> bool {
    let bytes = text.as_bytes();
    let mut in_a_row = 0;
    let mut at = 0;
    while at < bytes.len() {
        if !is_letter(bytes[at]) {
            at += 1;
            continue;
        }
        let len = bytes[at..].iter().take_while(|b| is_letter(**b)).count();
        let may_be = len <= 10 && BEGINNINGS.contains(swar::load(bytes, at), len);
        in_a_row = if may_be { in_a_row + 1 } else { 0 };
        if in_a_row >= ITEMS_MIN {
            return true;
        }
        at += len;
    }
    false
}

fn is_letter(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte >= 0x80
}

/// The table of number words' first letters, for a look at every word.
pub(super) fn beginnings() -> &'static Beginnings {
    &BEGINNINGS
}

/// Bits for the first three letters of number words.
pub(super) struct Beginnings([u64; 512]);

static BEGINNINGS: LazyLock<Beginnings> = LazyLock::new(|| {
    let mut bits = Beginnings([0; 512]);
    let words = VALUES.iter().flat_map(|(_, row)| row.iter().map(|(name, _)| *name));
    for word in words.chain(["double", "triple", "treble", "doppel", "doble", "dubbel"]) {
        let slot = Beginnings::slot(swar::load(word.as_bytes(), 0), word.len());
        bits.0[slot / 64] |= 1 << (slot % 64);
    }
    bits
});

impl Beginnings {
    /// Slot of a word by its first eight bytes and its length.
    fn slot(start: u64, len: usize) -> usize {
        let letters = swar::first(start, len) as usize;
        (letters & 31) << 10 | (letters >> 8 & 31) << 5 | letters >> 16 & 31
    }

    /// Whether a number word may start like the word of `len` bytes whose first eight these are.
    pub(super) fn contains(&self, start: u64, len: usize) -> bool {
        let slot = Beginnings::slot(start, len);
        self.0[slot / 64] >> (slot % 64) & 1 == 1
    }
}

/// Number words in a row, as the digits that they dictate.
struct Sequence {
    digits: String,
    word_count: usize,
    end: usize,
    /// The last word was `forty`: a following `one` belongs to it.
    open_tens: bool,
}

impl Sequence {
    fn read(text: &str, start: usize, first: &str, words: &mut Words<'_>) -> Option<Sequence> {
        let mut sequence =
            Sequence { digits: String::new(), word_count: 0, end: start, open_tens: false };
        let mut repeat = 1;
        let (mut at, mut word) = (start, first);
        loop {
            let end = at + word.len();
            match times(word) {
                Some(count) => repeat = count,
                None if sequence.take(word, repeat) => (repeat, sequence.end) = (1, end),
                None if sequence.word_count > 0 && is_filler(word) => {}
                None => break,
            }
            let resume = words.at;
            match words.next() {
                Some((next, w)) if joins(&text[end..next]) => (at, word) = (next, w),
                _ => {
                    words.at = resume;
                    break;
                }
            }
        }
        (sequence.word_count > 0).then_some(sequence)
    }

    /// Adds a number word or figures as often as said; false for any other word.
    fn take(&mut self, word: &str, repeat: usize) -> bool {
        let figures = word.bytes().all(|b| b.is_ascii_digit());
        let number = if figures { None } else { value(word) };
        if !figures && number.is_none() {
            return false;
        }
        for _ in 0..repeat {
            match number {
                Some(number) => self.push(number),
                None => self.digits.push_str(word),
            }
        }
        self.word_count += if figures { 0 } else { repeat };
        self.open_tens = number.is_some_and(|n| n >= 20 && n.is_multiple_of(10));
        true
    }

    /// Tens take a following unit into themselves: forty one is 41.
    fn push(&mut self, number: u8) {
        if self.open_tens && (1..10).contains(&number) {
            self.digits.pop();
        }
        self.digits.push_str(&number.to_string());
    }
}

/// Words and figures of a text with their places.
struct Words<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Words<'a> {
    fn next(&mut self) -> Option<(usize, &'a str)> {
        let rest = &self.text[self.at..];
        let start = self.at + rest.find(|c: char| c.is_alphanumeric())?;
        let rest = &self.text[start..];
        let end = start + rest.find(|c: char| !c.is_alphanumeric()).unwrap_or(rest.len());
        self.at = end;
        Some((start, &self.text[start..end]))
    }
}

/// Whether two number words belong to one dictation.
fn joins(between: &str) -> bool {
    between.len() <= 3
        && between.bytes().all(|b| matches!(b, b' ' | b',' | b'-' | b'.' | b'/' | b'\n'))
}

/// Words that people say between the parts of a number.
fn is_filler(word: &str) -> bool {
    const FILLERS: [&str; 24] = [
        "then", "and", "dash", "hyphen", "space", "comma", "und", "dann", "strich", "et", "puis",
        "tiret", "y", "luego", "guion", "e", "poi", "depois", "dan", "streepje", "i", "och", "og",
        "a",
    ];
    FILLERS.iter().any(|filler| word.eq_ignore_ascii_case(filler))
}

/// How often the next word counts.
fn times(word: &str) -> Option<usize> {
    const TIMES: [(&str, usize); 6] =
        [("double", 2), ("triple", 3), ("treble", 3), ("doppel", 2), ("doble", 2), ("dubbel", 2)];
    TIMES.iter().find(|(name, _)| word.eq_ignore_ascii_case(name)).map(|&(_, count)| count)
}

/// The number that a word names, 0 to 99.
fn value(word: &str) -> Option<u8> {
    if !(1..=20).contains(&word.len()) || word.as_bytes()[0].is_ascii_digit() {
        return None;
    }
    simple_value(word).or_else(|| compound_value(word))
}

fn simple_value(word: &str) -> Option<u8> {
    let first = word.chars().next()?.to_lowercase().next()?;
    let row = VALUES.iter().find(|row| row.0 == first)?;
    row.1.iter().find(|(name, _)| same_word(name, word)).map(|&(_, value)| value)
}

/// `einundvierzig`, `eenenveertig`: German and Dutch put the unit first.
fn compound_value(word: &str) -> Option<u8> {
    ["und", "en", "ën"].into_iter().find_map(|link| {
        word.match_indices(link).find_map(|(at, _)| {
            let unit = simple_value(&word[..at]).filter(|unit| (1..10).contains(unit))?;
            let tens = simple_value(&word[at + link.len()..]).filter(|tens| *tens >= 20)?;
            Some(tens + unit)
        })
    })
}

fn same_word(name: &str, word: &str) -> bool {
    name.len() == word.len()
        && name.chars().zip(word.chars()).all(|(a, b)| a == b || b.to_lowercase().eq([a]))
}

/// Number words by first letter: en, de, fr, es, it, pt, nl, pl, sv, da, no, cs, tr, ru.
#[rustfmt::skip]
const VALUES: &[(char, &[(&str, u8)])] = &[
    ('a', &[("acht", 8), ("altı", 6)]),
    ('b', &[("bir", 1), ("beş", 5)]),
    ('c', &[("cinq", 5), ("cinco", 5), ("cinque", 5), ("cero", 0), ("cuatro", 4), ("cuarenta", 40), ("cincuenta", 50), ("cinquante", 50), ("cinquanta", 50), ("cinquenta", 50), ("catorze", 14), ("cztery", 4)]),
    ('d', &[("deux", 2), ("dos", 2), ("due", 2), ("dois", 2), ("duas", 2), ("drei", 3), ("drie", 3), ("dreizehn", 13), ("dreißig", 30), ("dertig", 30), ("dix", 10), ("douze", 12), ("diez", 10), ("doce", 12), ("dieci", 10), ("dodici", 12), ("dez", 10), ("doze", 12), ("dwa", 2), ("dziewięć", 9), ("dört", 4), ("dokuz", 9), ("dva", 2), ("devět", 9)]),
    ('e', &[("eight", 8), ("eins", 1), ("een", 1), ("ein", 1), ("eine", 1), ("eleven", 11), ("eighteen", 18), ("eighty", 80), ("elf", 11), ("ett", 1)]),
    ('f', &[("four", 4), ("five", 5), ("fünf", 5), ("fuenf", 5), ("fourteen", 14), ("fifteen", 15), ("forty", 40), ("fourty", 40), ("fifty", 50), ("fünfzig", 50), ("fyra", 4), ("fem", 5), ("fire", 4)]),
    ('h', &[("huit", 8)]),
    ('i', &[("iki", 2)]),
    ('j', &[("jeden", 1), ("jedna", 1)]),
    ('m', &[("meia", 6)]),
    ('n', &[("nine", 9), ("neun", 9), ("neuf", 9), ("nueve", 9), ("nove", 9), ("negen", 9), ("null", 0), ("nul", 0), ("nineteen", 19), ("ninety", 90), ("nought", 0), ("neunzig", 90), ("noventa", 90), ("novanta", 90), ("negentig", 90), ("noll", 0), ("nio", 9), ("ni", 9), ("nula", 0)]),
    ('o', &[("one", 1), ("oh", 0), ("ocho", 8), ("otto", 8), ("oito", 8), ("o", 0), ("onze", 11), ("once", 11), ("ochenta", 80), ("ottanta", 80), ("oitenta", 80), ("osiem", 8), ("otte", 8), ("osm", 8)]),
    ('p', &[("pięć", 5), ("pět", 5)]),
    ('q', &[("quatre", 4), ("quattro", 4), ("quatro", 4), ("quarante", 40), ("quaranta", 40), ("quarenta", 40), ("quinze", 15), ("quince", 15), ("quindici", 15), ("quatorze", 14)]),
    ('s', &[("six", 6), ("seven", 7), ("sechs", 6), ("sieben", 7), ("sept", 7), ("seis", 6), ("siete", 7), ("sei", 6), ("sette", 7), ("sete", 7), ("sixteen", 16), ("seventeen", 17), ("sixty", 60), ("seventy", 70), ("sechzig", 60), ("siebzig", 70), ("soixante", 60), ("seize", 16), ("sesenta", 60), ("setenta", 70), ("sessanta", 60), ("settanta", 70), ("sessenta", 60), ("sześć", 6), ("siedem", 7), ("sex", 6), ("sju", 7), ("seks", 6), ("syv", 7), ("sıfır", 0), ("sekiz", 8), ("sedm", 7)]),
    ('t', &[("two", 2), ("three", 3), ("trois", 3), ("tres", 3), ("três", 3), ("tre", 3), ("twee", 2), ("ten", 10), ("twelve", 12), ("thirteen", 13), ("twenty", 20), ("thirty", 30), ("trente", 30), ("treinta", 30), ("trenta", 30), ("trinta", 30), ("trece", 13), ("treze", 13), ("tredici", 13), ("twintig", 20), ("tachtig", 80), ("tien", 10), ("twaalf", 12), ("trzy", 3), ("två", 2), ("tři", 3)]),
    ('u', &[("un", 1), ("uno", 1), ("um", 1), ("une", 1), ("una", 1), ("uma", 1)]),
    ('v', &[("vier", 4), ("vijf", 5), ("vierzig", 40), ("veertig", 40), ("vijftig", 50), ("vingt", 20), ("veinte", 20), ("venti", 20), ("vinte", 20), ("vierzehn", 14)]),
    ('y', &[("yedi", 7)]),
    ('z', &[("zero", 0), ("zéro", 0), ("zwei", 2), ("zwo", 2), ("zes", 6), ("zeven", 7), ("zehn", 10), ("zwölf", 12), ("zwanzig", 20), ("zestig", 60), ("zeventig", 70)]),
    ('å', &[("åtta", 8), ("åtte", 8)]),
    ('ü', &[("üç", 3)]),
    ('č', &[("čtyři", 4)]),
    ('š', &[("šest", 6)]),
    ('н', &[("ноль", 0), ("нуль", 0)]),
    ('о', &[("один", 1)]),
    ('д', &[("два", 2), ("девять", 9)]),
    ('т', &[("три", 3)]),
    ('ч', &[("четыре", 4)]),
    ('п', &[("пять", 5)]),
    ('ш', &[("шесть", 6)]),
    ('с', &[("семь", 7)]),
    ('в', &[("восемь", 8)]),
];
