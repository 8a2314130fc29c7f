//! Finds every word and phrase of every list in one pass over a text.
//!
//! All dictionaries, context words and key names of all detectors share one table, so that their
//! number costs memory and not time. A text is cut into words (letters, or digits; `snake_case`,
//! `camelCase` and `MRN0048` fall apart), each word is folded (case, accents) and hashed as it is
//! read, and a sieve answers for the words that nobody asked for. Hits are then laid out list by
//! list, so that a detector finds its own without searching.
//!
//! Invariants: linear in the text; a phrase matches whole words only, but for terms that end in `*`
//! (word beginnings), start with `*` (ends of long words: German compounds) and for scripts without spaces, where every character may start a term.
//! Not here: deciding what a word means; lists are opaque numbers.

mod build;
mod hash;

use std::collections::{HashMap, HashSet};
use std::hash::BuildHasherDefault;
use std::ops::Range;

use super::letters::{
    CLASS, Class, FOLD_TABLE_LEN, breaks, char_at, is_combining_mark, is_unspaced, joins_words,
};
use crate::swar;
pub(crate) use build::LexiconBuilder;
pub(super) use hash::AlreadyHashed;
use hash::{Folded, Heads, Sieve};

/// One list of words: the near words of a detector, a dictionary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ListId(u16);

/// Bits that say of what kind a term is.
pub(crate) type Marks = u8;

/// A word of a text: byte range and hash of its folded letters.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Word {
    pub(crate) start: u32,
    pub(crate) end: u32,
    pub(crate) hash: u64,
}

impl Word {
    /// Its length in bytes.
    pub(crate) fn bytes(&self) -> usize {
        (self.end - self.start) as usize
    }
}

/// A term of some list found in a text; `entry` leads to the lists it belongs to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hit {
    pub(crate) start: u32,
    pub(crate) end: u32,
    entry: u32,
}

/// Words and hits of one text.
#[derive(Debug, Default)]
pub(crate) struct Words {
    /// In order of their start.
    pub(crate) words: Vec<Word>,
    /// Indices of words that begin with an ASCII digit, in order.
    pub(crate) numbers: Vec<u32>,
    /// Indices of words that may start a phrase.
    heads: Vec<u32>,
    /// Terms of one word, in order of their start.
    hits: Vec<Hit>,
    /// Hits of list n are `listed[first[n]..first[n + 1]]`, in order of their start.
    listed: Vec<Hit>,
    first: Vec<u32>,
    /// Starts of terms that have marks, in order, and the marks.
    pub(crate) marked: Vec<(u32, Marks)>,
}

impl Words {
    /// No words yet, and room for those that so many bytes of prose have.
    fn with_room(bytes: usize) -> Words {
        Words {
            words: Vec::with_capacity(bytes / 5 + 4),
            heads: Vec::with_capacity(bytes / 16),
            hits: Vec::with_capacity(bytes / 16),
            ..Words::default()
        }
    }

    /// Hits of one list in order of their start.
    pub(crate) fn of(&self, list: ListId) -> &[Hit] {
        let list = usize::from(list.0);
        &self.listed[self.first[list] as usize..self.first[list + 1] as usize]
    }

    /// Where the runs of ASCII digits are.
    pub(crate) fn places_of_numbers(&self) -> impl Iterator<Item = Range<usize>> {
        let words = self.numbers.iter().map(|index| &self.words[*index as usize]);
        words.map(|word| word.start as usize..word.end as usize)
    }

    /// Each number with the word before it.
    pub(crate) fn before_numbers(&self) -> impl Iterator<Item = &[Word]> {
        self.numbers
            .iter()
            .filter_map(|index| self.words.get((*index as usize).checked_sub(1)?..=*index as usize))
    }

    /// Each number with the word behind it.
    pub(crate) fn behind_numbers(&self) -> impl Iterator<Item = &[Word]> {
        self.numbers
            .iter()
            .filter_map(|index| self.words.get(*index as usize..=*index as usize + 1))
    }

    /// Takes back the last word and its hits; returns where it starts. Panics if there is none (caller
    /// bug).
    fn forget_last(&mut self) -> usize {
        let start = self.words.pop().expect("there is a word").start;
        for indices in [&mut self.heads, &mut self.numbers] {
            indices.pop_if(|index| *index as usize == self.words.len());
        }
        while self.hits.pop_if(|hit| hit.start >= start).is_some() {}
        start as usize
    }

    /// Adds the words of a text that starts here, but for so many at its beginning.
    fn append(&mut self, part: &Words, skipped: usize, start: u32) {
        let words = &part.words[skipped..];
        let Some(from) = words.first().map(|word| word.start) else { return };
        // The number of a word here, of its number there.
        let shift = self.words.len();
        let all = [(&mut self.heads, &part.heads), (&mut self.numbers, &part.numbers)];
        for (here, there) in all {
            let there = there.iter().map(|index| *index as usize).filter(|index| *index >= skipped);
            here.extend(there.map(|index| (index - skipped + shift) as u32));
        }
        let placed =
            |word: &Word| Word { start: word.start + start, end: word.end + start, ..*word };
        self.words.extend(words.iter().map(placed));
        let hits = &part.hits[part.hits.partition_point(|hit| hit.start < from)..];
        let placed = |hit: &Hit| Hit { start: hit.start + start, end: hit.end + start, ..*hit };
        self.hits.extend(hits.iter().map(placed));
    }
}

/// A list that is only asked word by word and never found in a text: stop words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SetId(u16);

/// The compiled table of all terms.
pub(crate) struct Lexicon {
    folded: Box<[[u8; 2]; FOLD_TABLE_LEN]>,
    /// Terms that count in any case, and first words of phrases.
    common: Sieve,
    /// First two words of phrases.
    pairs: Sieve,
    /// Terms of lists of names: most words start with a small letter and need not ask here.
    names: Sieve,
    /// Words of the longest phrase.
    pub(crate) phrase_words_max: usize,
    whole: Table<u32>,
    /// Words that count only in capitals.
    acronyms: Table<u32>,
    beginnings: Table<u32>,
    endings: Table<u32>,
    /// By their first two words.
    phrases: Table<Vec<Phrase>>,
    unspaced: Table<u32>,
    heads: Heads,
    /// By the last bytes of endings.
    tails: Heads,
    list_count: usize,
    /// Lists of each entry.
    entries: Vec<Vec<ListId>>,
    /// Entries that count only with a capital.
    names_only: Vec<bool>,
    /// Marks of each entry.
    marks: Vec<Marks>,
    sets: Vec<HashSet<u64, BuildHasherDefault<AlreadyHashed>>>,
}

struct Phrase {
    /// The words behind the first two.
    rest: Box<[u64]>,
    entry: u32,
}

type Table<V> = HashMap<u64, V, BuildHasherDefault<AlreadyHashed>>;

/// Key of a phrase.
fn pair(first: u64, second: u64) -> u64 {
    first.rotate_left(23) ^ second
}

/// Shorter words are no compounds.
const COMPOUND_BYTES_MIN: usize = 9;
/// Characters that a term of an unspaced script may have.
const UNSPACED_CHARS_MAX: usize = 12;

/// What one pass over a text collects.
struct Pass<'a> {
    text: &'a str,
    found: Words,
}

impl Pass<'_> {
    fn word(&mut self, range: Range<usize>, hash: u64) {
        self.found.words.push(Word { start: range.start as u32, end: range.end as u32, hash });
    }

    fn hit(&mut self, range: Range<usize>, entry: u32) {
        self.found.hits.push(Hit { start: range.start as u32, end: range.end as u32, entry });
    }
}

impl Lexicon {
    /// Reads a text once: all its words, and every term of every list in it.
    pub(crate) fn read(&self, text: &str) -> Words {
        let mut pass = Pass { text, found: Words::with_room(text.len()) };
        let bytes = text.as_bytes();
        let mut at = 0;
        while at < bytes.len() {
            at = match CLASS[bytes[at] as usize] {
                Class::Break => at + 1,
                Class::Lower => self.read_small_word(at, &mut pass),
                Class::Wide => self.read_wide(at, &mut pass),
                class => self.read_ascii_word(at, class, &mut pass),
            };
        }
        self.lay_out(pass.found)
    }

    /// The words and terms of a text of ASCII in which other texts stand in this order, with nothing
    /// between them that is a word: of each text where it starts, and what it holds.
    pub(crate) fn join<'w>(
        &self,
        text: &str,
        parts: impl Iterator<Item = (usize, &'w Words)>,
    ) -> Words {
        let mut pass = Pass { text, found: Words::with_room(text.len()) };
        for (start, part) in parts {
            let Some(first) = part.words.first() else { continue };
            let touches = pass.found.words.last().is_some_and(|last| last.end as usize == start);
            let is_one = touches && first.start == 0;
            if is_one {
                // What the next text adds to it is for the next turn.
                pass.text = &text[..start + first.end as usize];
                self.read_last_again(&mut pass);
            }
            pass.found.append(part, usize::from(is_one), start as u32);
        }
        self.lay_out(pass.found)
    }

    /// Reads the last word again, up to the end of the text.
    fn read_last_again(&self, pass: &mut Pass<'_>) {
        let mut at = pass.found.forget_last();
        while at < pass.text.len() {
            at = self.read_ascii_word(at, CLASS[pass.text.as_bytes()[at] as usize], pass);
        }
    }

    /// Finds phrases, and sorts hits by list and start: they come nearly sorted by start, and lists are
    /// few.
    fn lay_out(&self, mut found: Words) -> Words {
        let mut hits = found.hits.clone();
        self.match_phrases(&found, &mut hits);
        debug_assert!(hits[..found.hits.len()].is_sorted_by_key(|hit| (hit.start, hit.end)));
        if hits.len() > found.hits.len() {
            // A stable sort finds the two runs, of words and of phrases, and merges them.
            hits.sort_by_key(|hit| (hit.start, hit.end));
        }
        // While terms are collected there are none.
        let marks_of = |hit: &Hit| self.marks.get(hit.entry as usize).copied().unwrap_or(0);
        let marked = hits.iter().map(|hit| (hit.start, marks_of(hit)));
        found.marked = marked.filter(|(_, marks)| *marks != 0).collect();
        let lists_of = |hit: &Hit| self.entries[hit.entry as usize].iter();
        let mut first = vec![0u32; self.list_count + 2];
        for list in hits.iter().flat_map(lists_of) {
            first[usize::from(list.0) + 2] += 1;
        }
        let mut before = 0;
        for count in &mut first {
            *count += before;
            before = *count;
        }
        let none = Hit { start: 0, end: 0, entry: 0 };
        found.listed = vec![none; first[self.list_count + 1] as usize];
        for hit in &hits {
            for list in lists_of(hit) {
                let next = &mut first[usize::from(list.0) + 1];
                found.listed[*next as usize] = *hit;
                *next += 1;
            }
        }
        found.first = first;
        found
    }

    /// Whether one word belongs to the set.
    pub(crate) fn in_set(&self, set: SetId, word: &str) -> bool {
        self.sets[set.0 as usize].contains(&self.fold_hash(word))
    }

    /// Whether the hit belongs to the list.
    pub(crate) fn is_in(&self, hit: &Hit, list: ListId) -> bool {
        self.entries[hit.entry as usize].contains(&list)
    }

    /// Whether one word, alone, is a term of the list.
    pub(crate) fn has(&self, list: ListId, word: &str) -> bool {
        let hash = self.fold_hash(word);
        self.whole.get(&hash).is_some_and(|&entry| self.entries[entry as usize].contains(&list))
    }

    /// A word that begins with a small letter, as most do, and mostly is a short one of such letters only;
    /// returns its end.
    #[inline]
    fn read_small_word(&self, start: usize, pass: &mut Pass<'_>) -> usize {
        let eight = swar::load(pass.text.as_bytes(), start);
        let letters = swar::leading(eight, swar::in_range(eight, b'a', b'z'));
        if !letters.ends_in_ascii {
            return self.read_ascii_word(start, Class::Lower, pass);
        }
        let word = start..start + letters.len;
        if letters.len >= Heads::BYTES {
            let head = swar::first(letters.bytes, Heads::BYTES);
            let lengths = self.heads.of(hash::small_letters(head));
            if lengths != 0 {
                self.match_ascii_beginnings(word.clone(), lengths, pass);
            }
        }
        let hash = hash::small_letters(letters.bytes);
        let may_be = self.common.of(hash);
        if may_be != 0 {
            self.match_terms(word.clone(), hash, may_be, pass);
        }
        pass.word(word.clone(), hash);
        word.end
    }

    /// A word of ASCII letters or digits; returns its end.
    #[inline(never)]
    fn read_ascii_word(&self, start: usize, class: Class, pass: &mut Pass<'_>) -> usize {
        let bytes = pass.text.as_bytes();
        let end = match class {
            Class::Digit => {
                pass.found.numbers.push(pass.found.words.len() as u32);
                swar::end_of_run(bytes, start, b'0', b'9')
            }
            Class::Upper => {
                let capitals = swar::end_of_run(bytes, start + 1, b'A', b'Z');
                swar::end_of_run(bytes, capitals, b'a', b'z')
            }
            _ => swar::end_of_run(bytes, start, b'a', b'z'),
        };
        let wide_follows = bytes.get(end).is_some_and(|byte| *byte >= 0x80);
        if wide_follows && class != Class::Digit {
            return self.read_word(start, pass);
        }
        let (len, chunk) = (end - start, swar::load(bytes, start));
        let hash = match len {
            0..=8 => hash::ascii_chunk(chunk, len),
            _ => hash::ascii(&bytes[start..end]),
        };
        if len >= Heads::BYTES {
            let lengths = self.heads.of(hash::ascii_chunk(chunk, Heads::BYTES));
            if lengths != 0 {
                self.match_ascii_beginnings(start..end, lengths, pass);
            }
        }
        self.finish_word(start..end, hash, pass);
        end
    }

    #[cold]
    fn match_ascii_beginnings(&self, word: Range<usize>, lengths: u32, pass: &mut Pass<'_>) {
        for len in Heads::BYTES..=word.len().min(Heads::LEN_MAX) {
            if lengths >> len & 1 == 1 {
                let beginning = word.start..word.start + len;
                let hash = hash::ascii(&pass.text.as_bytes()[beginning.clone()]);
                self.match_beginning(hash, beginning, pass);
            }
        }
    }

    /// A word with letters outside ASCII, character by character; returns its end.
    fn read_word(&self, start: usize, pass: &mut Pass<'_>) -> usize {
        let (text, bytes) = (pass.text, pass.text.as_bytes());
        let mut folded = Folded::new();
        let mut lengths = 0;
        let mut previous = CLASS[bytes[start] as usize];
        let mut at = start;
        while at < bytes.len() {
            let class = CLASS[bytes[at] as usize];
            let c = char_at(text, at);
            if class == Class::Wide {
                if !joins_words(c) || is_unspaced(c) || previous == Class::Digit {
                    break;
                }
            } else if class == Class::Break || breaks(previous, class) {
                break;
            }
            let len_before = folded.len;
            self.fold_char(c, &mut folded);
            at += c.len_utf8();
            previous = class;
            if folded.len == Heads::BYTES && len_before < Heads::BYTES {
                lengths = self.heads.of(folded.value());
            }
            if folded.len <= Heads::LEN_MAX && lengths >> folded.len & 1 == 1 {
                self.match_beginning(folded.value(), start..at, pass);
            }
        }
        self.finish_word(start..at, folded.value(), pass);
        at
    }

    /// Notes a word and the terms that it is or ends in.
    fn finish_word(&self, word: Range<usize>, hash: u64, pass: &mut Pass<'_>) {
        let is_small = pass.text.as_bytes()[word.start].is_ascii_lowercase();
        let name = if is_small { 0 } else { self.names.of(hash) };
        let may_be = self.common.of(hash) | name;
        if may_be != 0 {
            self.match_terms(word.clone(), hash, may_be, pass);
        }
        if word.len() >= COMPOUND_BYTES_MIN {
            self.match_ending(word.clone(), pass);
        }
        pass.word(word, hash);
    }

    /// Notes the terms that a word, which is noted next, is or starts, so far as the sieves let it pass.
    #[inline(never)]
    fn match_terms(&self, word: Range<usize>, hash: u64, may_be: u64, pass: &mut Pass<'_>) {
        if may_be & Sieve::PHRASE != 0 {
            pass.found.heads.push(pass.found.words.len() as u32);
        }
        if may_be & Sieve::WORD == 0 {
            return;
        }
        let is_small = pass.text.as_bytes()[word.start].is_ascii_lowercase();
        if let Some(&entry) = self.whole.get(&hash)
            && !(is_small && self.names_only.get(entry as usize) == Some(&true))
        {
            pass.hit(word.clone(), entry);
        }
        if let Some(&entry) = self.acronyms.get(&hash)
            && pass.text.as_bytes()[word.clone()].iter().all(u8::is_ascii_uppercase)
        {
            pass.hit(word, entry);
        }
    }

    /// The second half of a compound: `Oberschenkelhalsfraktur` ends in `fraktur`.
    fn match_ending(&self, word: Range<usize>, pass: &mut Pass<'_>) {
        let tail = &pass.text.as_bytes()[word.end - Heads::BYTES..word.end];
        if !tail.is_ascii() || self.tails.of(hash::ascii(tail)) != 0 {
            self.match_likely_ending(word, pass);
        }
    }

    #[cold]
    fn match_likely_ending(&self, word: Range<usize>, pass: &mut Pass<'_>) {
        let folded = self.folded_bytes(&pass.text[word.clone()]);
        let Some(tail) = folded.len().checked_sub(Heads::BYTES) else { return };
        let lengths = self.tails.of(hash::folded(&folded[tail..]));
        for len in
            (Heads::BYTES..=folded.len().min(Heads::LEN_MAX)).filter(|l| lengths >> l & 1 == 1)
        {
            let key = hash::folded(&folded[folded.len() - len..]);
            if let Some(&entry) = self.endings.get(&key) {
                pass.hit(word.clone(), entry);
            }
        }
    }

    /// A character outside ASCII where a word may start.
    fn read_wide(&self, at: usize, pass: &mut Pass<'_>) -> usize {
        let c = char_at(pass.text, at);
        if is_unspaced(c) {
            self.match_unspaced(at, pass);
            return at + c.len_utf8();
        }
        if joins_words(c) && c.is_alphanumeric() {
            return self.read_word(at, pass);
        }
        at + c.len_utf8()
    }

    fn match_beginning(&self, hash: u64, beginning: Range<usize>, pass: &mut Pass<'_>) {
        if let Some(&entry) = self.beginnings.get(&hash) {
            pass.hit(beginning, entry);
        }
    }

    fn match_unspaced(&self, start: usize, pass: &mut Pass<'_>) {
        if self.unspaced.is_empty() {
            return;
        }
        let mut hash = Folded::new();
        let chars = pass.text[start..].char_indices().take(UNSPACED_CHARS_MAX);
        for (offset, c) in chars.take_while(|&(_, c)| is_unspaced(c)) {
            hash.push_char(c);
            if let Some(&entry) = self.unspaced.get(&hash.value()) {
                pass.hit(start..start + offset + c.len_utf8(), entry);
            }
        }
    }

    fn match_phrases(&self, found: &Words, hits: &mut Vec<Hit>) {
        let words = &found.words;
        for &head in &found.heads {
            let head = head as usize;
            let Some(second) = words.get(head + 1) else { break };
            let pair = pair(words[head].hash, second.hash);
            if self.pairs.of(pair) & Sieve::PHRASE == 0 {
                continue;
            }
            for phrase in self.phrases.get(&pair).into_iter().flatten() {
                let last = head + 1 + phrase.rest.len();
                let Some(rest) = words.get(head + 2..=last) else { continue };
                if rest.iter().zip(&phrase.rest).all(|(word, hash)| word.hash == *hash) {
                    let (start, end) = (words[head].start, words[last].end);
                    hits.push(Hit { start, end, entry: phrase.entry });
                }
            }
        }
    }

    fn fold_char(&self, c: char, folded: &mut Folded) {
        self.for_each_folded(c, |byte| folded.push(byte));
    }

    /// Hash of a word, whatever its case and accents.
    pub(crate) fn fold_hash(&self, word: &str) -> u64 {
        if word.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return hash::ascii(word.as_bytes());
        }
        let mut folded = Folded::new();
        word.chars().for_each(|c| self.fold_char(c, &mut folded));
        folded.value()
    }

    /// A word without case and accents.
    pub(crate) fn folded(&self, word: &str) -> String {
        String::from_utf8_lossy(&self.folded_bytes(word)).into_owned()
    }

    fn folded_bytes(&self, word: &str) -> Vec<u8> {
        let mut folded = Vec::with_capacity(word.len() + 4);
        word.chars().for_each(|c| self.for_each_folded(c, |byte| folded.push(byte)));
        folded
    }

    /// The bytes that stand for a character: lower case, without accents.
    fn for_each_folded(&self, c: char, mut push: impl FnMut(u8)) {
        let code = c as usize;
        if c.is_ascii() {
            push(c.to_ascii_lowercase() as u8);
        } else if code < FOLD_TABLE_LEN {
            self.folded[code].into_iter().filter(|&b| b != 0).for_each(push);
        } else if !is_combining_mark(c) {
            let mut buffer = [0; 4];
            for lower in c.to_lowercase() {
                lower.encode_utf8(&mut buffer).bytes().for_each(&mut push);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found(terms: &[&str], text: &str) -> Vec<String> {
        let mut builder = LexiconBuilder::default();
        let list = builder.list(terms);
        let read = builder.build().read(text);
        let hits = read.of(list).iter();
        hits.map(|h| text[h.start as usize..h.end as usize].to_owned()).collect()
    }

    #[test]
    fn finds_words_whatever_their_case_and_accents() {
        assert_eq!(found(&["diabète"], "DIABETE, diabète"), ["DIABETE", "diabète"]);
        assert_eq!(found(&["große"], "GROSSE"), ["GROSSE"]);
        assert_eq!(found(&["пациент"], "Пациент"), ["Пациент"]);
    }

    #[test]
    fn finds_acronyms_in_capitals_only() {
        assert_eq!(found(&["^ALS"], "als ALS Als pals"), ["ALS"]);
        assert_eq!(found(&["^ALS", "als"], "als"), ["als"]);
    }

    #[test]
    fn finds_whole_words_only() {
        assert!(found(&["lic"], "public lice").is_empty());
        assert_eq!(found(&["diabet*"], "Diabetiker, diabetes"), ["Diabet", "diabet"]);
    }

    #[test]
    fn finds_the_end_of_a_compound() {
        assert_eq!(
            found(&["*fraktur"], "Die Oberschenkelhalsfraktur"),
            ["Oberschenkelhalsfraktur"]
        );
    }

    #[test]
    fn finds_phrases_and_key_names() {
        assert_eq!(found(&["social security"], "social_security number"), ["social_security"]);
        assert_eq!(found(&["date of birth"], "dateOfBirth, date  of\nbirth").len(), 2);
        assert_eq!(found(&["mrn"], "MRN0048213"), ["MRN"]);
    }

    #[test]
    fn finds_terms_inside_unspaced_scripts() {
        assert_eq!(found(&["患者"], "この患者は田中です"), ["患者"]);
    }

    proptest! {
        #[test]
        fn every_letter_and_digit_is_in_a_word_that_is_hashed_as_it_is_written(
            text in "[a-cx-zA-CX-Z0-9é_., ]{0,60}",
        ) {
            let lexicon = LexiconBuilder::default().build();
            let read = lexicon.read(&text);
            let numbers: Vec<&str> = read.places_of_numbers().map(|place| &text[place]).collect();
            let expected = text.split(|c: char| !c.is_ascii_digit()).filter(|n| !n.is_empty());
            prop_assert_eq!(numbers, expected.collect::<Vec<_>>());
            let mut rest = text.clone();
            for word in read.words {
                let range = word.start as usize..word.end as usize;
                prop_assert_eq!(word.hash, lexicon.fold_hash(&text[range.clone()]));
                let blank = " ".repeat(range.len());
                rest.replace_range(range, &blank);
            }
            prop_assert!(!rest.chars().any(char::is_alphanumeric), "{rest:?}");
        }
    }
}
