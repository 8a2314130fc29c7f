//! Finds every word and phrase of every list in one pass over a text.
//!
//! All dictionaries, context words and key names of all detectors share one table, so that their
//! number costs memory and not time. A text is cut into words (letters, or digits; `snake_case`,
//! `camelCase` and `MRN0048` fall apart), each word is folded (case, accents) and hashed as it is
//! read, and a bloom filter answers for the words that nobody asked for.
//!
//! Invariants: linear in the text; a phrase matches whole words only, but for terms that end in `*`
//! (word beginnings), start with `*` (ends of long words: German compounds) and for scripts without spaces, where every character may start a term.
//! Not here: deciding what a word means; lists are opaque numbers.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Range;

use super::letters::{
    CLASS, Class, FOLD_TABLE_LEN, breaks, char_at, fold_table, is_combining_mark, is_unspaced,
    joins_words,
};

/// One list of words: the near words of a detector, a dictionary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ListId(u16);

/// A word of a text: byte range and hash of its folded letters.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Word {
    pub(crate) start: u32,
    pub(crate) end: u32,
    hash: u64,
}

/// A term of some list found in a text; `entry` leads to the lists it belongs to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hit {
    pub(crate) start: u32,
    pub(crate) end: u32,
    entry: u32,
}

/// Words and hits of one text.
#[derive(Default)]
pub(crate) struct Words {
    /// In order of their start.
    pub(crate) words: Vec<Word>,
    hits: Vec<Hit>,
    /// Hits again, by list and start.
    listed: Vec<(ListId, Hit)>,
}

impl Words {
    /// Hits of one list in order of their start.
    pub(crate) fn of(&self, list: ListId) -> &[(ListId, Hit)] {
        let first = self.listed.partition_point(|(l, _)| *l < list);
        let len = self.listed[first..].partition_point(|(l, _)| *l == list);
        &self.listed[first..first + len]
    }
}

/// A list that is only asked word by word and never found in a text: stop words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SetId(u16);

/// The compiled table of all terms.
pub(crate) struct Lexicon {
    folded: Box<[[u8; 2]; FOLD_TABLE_LEN]>,
    bloom: Box<[u64]>,
    whole: Table<u32>,
    beginnings: Table<u32>,
    endings: Table<u32>,
    phrases: Table<Vec<Phrase>>,
    unspaced: Table<u32>,
    /// Bit n: some ending is n characters long.
    ending_lengths: u64,
    /// By the hash of a word's first [`HEAD_BYTES`] folded bytes: bit n says that a beginning with
    /// that head is n bytes long. Most words have no entry and need no further look.
    heads: Box<[u32]>,
    /// Lists of each entry.
    entries: Vec<Vec<ListId>>,
    /// Entries that count only with a capital.
    names_only: Vec<bool>,
    sets: Vec<HashSet<u64, BuildHasherDefault<AlreadyHashed>>>,
}

/// Collects terms until [`LexiconBuilder::build`].
#[derive(Default)]
pub(crate) struct LexiconBuilder {
    terms: Vec<(ListId, String)>,
    list_count: u16,
    /// Lists whose words count only with a capital.
    capital: Vec<ListId>,
    sets: Vec<Vec<String>>,
}

/// How far a word is read.
struct Prefix {
    hash: u64,
    /// Folded bytes so far.
    len: usize,
    /// Bit n: a beginning of n bytes may match this word.
    lengths: u32,
}

struct Phrase {
    rest: Box<[u64]>,
    entry: u32,
}

type Table<V> = HashMap<u64, V, BuildHasherDefault<AlreadyHashed>>;

/// 2^18 bits: about two in a hundred foreign words pass with 30,000 terms, and it stays in L1.
const BLOOM_BITS: u64 = 1 << 18;
/// Folded bytes that select the beginnings to try; shorter beginnings are whole words.
const HEAD_BYTES: usize = 4;
const HEADS: usize = 1 << 12;
/// Shorter words are no compounds.
const COMPOUND_BYTES_MIN: usize = 9;
/// Characters that a term of an unspaced script may have.
const UNSPACED_CHARS_MAX: usize = 12;

impl LexiconBuilder {
    /// Opens a new list.
    pub(crate) fn list<S: AsRef<str>>(&mut self, terms: impl IntoIterator<Item = S>) -> ListId {
        let id = ListId(self.list_count);
        self.list_count += 1;
        self.terms.extend(terms.into_iter().map(|t| (id, t.as_ref().to_owned())));
        id
    }

    /// Opens a new list of names: only words that start with a capital are hits.
    pub(crate) fn names<S: AsRef<str>>(&mut self, terms: impl IntoIterator<Item = S>) -> ListId {
        let id = self.list(terms);
        self.capital.push(id);
        id
    }

    /// Opens a new set: its words make no hits.
    pub(crate) fn set<S: AsRef<str>>(&mut self, words: impl IntoIterator<Item = S>) -> SetId {
        self.sets.push(words.into_iter().map(|w| w.as_ref().to_owned()).collect());
        SetId(self.sets.len() as u16 - 1)
    }

    /// Compiles the table; terms without a letter or digit are dropped.
    pub(crate) fn build(self) -> Lexicon {
        let mut lexicon = Lexicon {
            folded: fold_table(),
            bloom: vec![0; (BLOOM_BITS / 64) as usize].into_boxed_slice(),
            whole: Table::default(),
            beginnings: Table::default(),
            endings: Table::default(),
            phrases: Table::default(),
            unspaced: Table::default(),
            ending_lengths: 0,
            heads: vec![0; HEADS].into_boxed_slice(),
            entries: Vec::new(),
            sets: Vec::new(),
            names_only: Vec::new(),
        };
        for (list, term) in &self.terms {
            lexicon.insert(*list, term);
        }
        for words in &self.sets {
            let set = words.iter().map(|word| lexicon.fold_hash(word)).collect();
            lexicon.sets.push(set);
        }
        let is_name = |lists: &Vec<ListId>| lists.iter().all(|list| self.capital.contains(list));
        lexicon.names_only = lexicon.entries.iter().map(is_name).collect();
        lexicon
    }
}

impl Lexicon {
    /// Reads a text once: all its words, and every term of every list in it.
    pub(crate) fn read(&self, text: &str) -> Words {
        let mut found = Words { words: Vec::with_capacity(text.len() / 5 + 4), ..Words::default() };
        let bytes = text.as_bytes();
        let mut at = 0;
        while at < bytes.len() {
            match CLASS[bytes[at] as usize] {
                Class::Break => at += 1,
                Class::Wide => at = self.read_wide(text, at, &mut found),
                _ => at = self.read_word(text, at, &mut found),
            }
        }
        self.match_phrases(&mut found);
        self.sort_by_list(&mut found);
        found
    }

    fn sort_by_list(&self, found: &mut Words) {
        found.listed.reserve(found.hits.len() * 2);
        for hit in &found.hits {
            let lists = &self.entries[hit.entry as usize];
            found.listed.extend(lists.iter().map(|list| (*list, *hit)));
        }
        found.listed.sort_unstable_by_key(|(list, hit)| (*list, hit.start, hit.end));
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

    fn read_word(&self, text: &str, start: usize, found: &mut Words) -> usize {
        let bytes = text.as_bytes();
        let mut prefix = Prefix { hash: FNV_START, len: 0, lengths: 0 };
        let mut previous = CLASS[bytes[start] as usize];
        let mut at = start;
        while at < bytes.len() {
            let class = CLASS[bytes[at] as usize];
            if class == Class::Wide {
                let c = char_at(text, at);
                if !joins_words(c) || is_unspaced(c) || previous == Class::Digit {
                    break;
                }
                prefix.hash = self.fold_wide(c, prefix.hash, &mut prefix.len);
                at += c.len_utf8();
            } else if class == Class::Break || breaks(previous, class) {
                break;
            } else {
                prefix.hash = fnv(prefix.hash, bytes[at].to_ascii_lowercase());
                prefix.len += 1;
                at += 1;
            }
            previous = class;
            if prefix.len == HEAD_BYTES {
                prefix.lengths = self.heads[head_slot(prefix.hash)];
            }
            if prefix.lengths != 0 && prefix.len < 32 && prefix.lengths >> prefix.len & 1 == 1 {
                self.match_beginning(prefix.hash, start, at, found);
            }
        }
        let hash = prefix.hash;
        let word = Word { start: start as u32, end: at as u32, hash };
        if self.may_have(hash)
            && let Some(&entry) = self.whole.get(&hash)
            && !(bytes[start].is_ascii_lowercase()
                && self.names_only.get(entry as usize) == Some(&true))
        {
            found.hits.push(Hit { start: word.start, end: word.end, entry });
        }
        if at - start >= COMPOUND_BYTES_MIN && !self.endings.is_empty() {
            self.match_ending(text, start..at, found);
        }
        found.words.push(word);
        at
    }

    /// The second half of a compound: `Oberschenkelhalsfraktur` ends in `fraktur`.
    fn match_ending(&self, text: &str, word: Range<usize>, found: &mut Words) {
        for (count, (offset, _)) in text[word.clone()].char_indices().rev().enumerate().skip(3) {
            if count >= 63 || self.ending_lengths >> (count + 1) == 0 {
                break;
            }
            if self.ending_lengths >> (count + 1) & 1 == 0 {
                continue;
            }
            let key = self.fold_hash(&text[word.start + offset..word.end]) ^ ENDING;
            if let Some(&entry) = self.endings.get(&key) {
                found.hits.push(Hit { start: word.start as u32, end: word.end as u32, entry });
            }
        }
    }

    /// A character outside ASCII where a word may start.
    fn read_wide(&self, text: &str, at: usize, found: &mut Words) -> usize {
        let c = char_at(text, at);
        if is_unspaced(c) {
            self.match_unspaced(text, at, found);
            return at + c.len_utf8();
        }
        if joins_words(c) && c.is_alphanumeric() {
            return self.read_word(text, at, found);
        }
        at + c.len_utf8()
    }

    fn match_beginning(&self, hash: u64, start: usize, end: usize, found: &mut Words) {
        let key = hash ^ BEGINNING;
        if self.may_have(key)
            && let Some(&entry) = self.beginnings.get(&key)
        {
            found.hits.push(Hit { start: start as u32, end: end as u32, entry });
        }
    }

    fn match_unspaced(&self, text: &str, start: usize, found: &mut Words) {
        if self.unspaced.is_empty() {
            return;
        }
        let mut hash = FNV_START;
        let chars = text[start..].char_indices().take(UNSPACED_CHARS_MAX);
        for (offset, c) in chars.take_while(|&(_, c)| is_unspaced(c)) {
            hash = fnv_char(c, hash);
            if let Some(&entry) = self.unspaced.get(&hash) {
                let end = (start + offset + c.len_utf8()) as u32;
                found.hits.push(Hit { start: start as u32, end, entry });
            }
        }
    }

    fn match_phrases(&self, found: &mut Words) {
        for (i, word) in found.words.iter().enumerate() {
            let key = word.hash ^ PHRASE;
            if !self.may_have(key) {
                continue;
            }
            for phrase in self.phrases.get(&key).into_iter().flatten() {
                let Some(rest) = found.words.get(i + 1..i + 1 + phrase.rest.len()) else {
                    continue;
                };
                // The second word decides nearly always; comparing it alone first is the fast way out.
                if rest[0].hash == phrase.rest[0]
                    && rest.iter().zip(&phrase.rest).all(|(word, hash)| word.hash == *hash)
                {
                    let end = found.words[i + phrase.rest.len()].end;
                    found.hits.push(Hit { start: word.start, end, entry: phrase.entry });
                }
            }
        }
    }

    fn may_have(&self, key: u64) -> bool {
        let bit = bloom_bit(key);
        self.bloom[(bit / 64) as usize] >> (bit % 64) & 1 == 1
    }

    fn fold_wide(&self, c: char, hash: u64, folded_len: &mut usize) -> u64 {
        let code = c as usize;
        if code < FOLD_TABLE_LEN {
            let mut hash = hash;
            for byte in self.folded[code].into_iter().filter(|&b| b != 0) {
                hash = fnv(hash, byte);
                *folded_len += 1;
            }
            return hash;
        }
        if is_combining_mark(c) {
            return hash;
        }
        *folded_len += c.len_utf8();
        c.to_lowercase().fold(hash, |hash, lower| fnv_char(lower, hash))
    }

    fn fold_hash(&self, word: &str) -> u64 {
        let mut len = 0;
        word.chars().fold(FNV_START, |hash, c| {
            if c.is_ascii() {
                len += 1;
                fnv(hash, c.to_ascii_lowercase() as u8)
            } else {
                self.fold_wide(c, hash, &mut len)
            }
        })
    }

    fn insert(&mut self, list: ListId, term: &str) {
        if term.chars().next().is_some_and(is_unspaced) {
            let hash =
                term.chars().filter(|c| is_unspaced(*c)).fold(FNV_START, |h, c| fnv_char(c, h));
            enter(&mut self.entries, self.unspaced.entry(hash), list);
            return;
        }
        if let Some(ending) = term.strip_prefix('*') {
            self.ending_lengths |= 1 << ending.chars().count().min(62);
            let key = self.fold_hash(ending) ^ ENDING;
            enter(&mut self.entries, self.endings.entry(key), list);
            return;
        }
        let (term, is_beginning) = match term.strip_suffix('*') {
            Some(stem) => (stem, true),
            None => (term, false),
        };
        let words = self.read(term).words;
        match words.as_slice() {
            [] => {}
            [only] if is_beginning => self.insert_beginning(list, term, only.hash),
            [only] => {
                self.bloom_add(only.hash);
                enter(&mut self.entries, self.whole.entry(only.hash), list);
            }
            [first, rest @ ..] => {
                let rest: Box<[u64]> = rest.iter().map(|w| w.hash).collect();
                self.insert_phrase(list, first.hash, rest);
            }
        }
    }

    fn insert_beginning(&mut self, list: ListId, stem: &str, hash: u64) {
        let (mut folded_len, mut prefix, mut head) = (0, FNV_START, None);
        for c in stem.trim().chars() {
            if c.is_ascii() {
                prefix = fnv(prefix, c.to_ascii_lowercase() as u8);
                folded_len += 1;
            } else {
                prefix = self.fold_wide(c, prefix, &mut folded_len);
            }
            if folded_len >= HEAD_BYTES && head.is_none() {
                head = (folded_len == HEAD_BYTES).then_some(prefix);
            }
        }
        let Some(head) = head else {
            // A head that no reading stops at: keep the term as a whole word rather than lose it.
            self.bloom_add(hash);
            enter(&mut self.entries, self.whole.entry(hash), list);
            return;
        };
        self.heads[head_slot(head)] |= 1 << folded_len.min(31);
        self.bloom_add(hash ^ BEGINNING);
        enter(&mut self.entries, self.beginnings.entry(hash ^ BEGINNING), list);
    }

    fn insert_phrase(&mut self, list: ListId, first: u64, rest: Box<[u64]>) {
        let key = first ^ PHRASE;
        self.bloom_add(key);
        let phrases = self.phrases.entry(key).or_default();
        match phrases.iter().find(|phrase| phrase.rest == rest) {
            Some(known) => self.entries[known.entry as usize].push(list),
            None => {
                phrases.push(Phrase { rest, entry: self.entries.len() as u32 });
                self.entries.push(vec![list]);
            }
        }
    }

    fn bloom_add(&mut self, key: u64) {
        let bit = bloom_bit(key);
        self.bloom[(bit / 64) as usize] |= 1 << (bit % 64);
    }
}

/// Notes that the term at `slot` belongs to one more list.
fn enter(
    entries: &mut Vec<Vec<ListId>>,
    slot: std::collections::hash_map::Entry<'_, u64, u32>,
    list: ListId,
) {
    let entry = *slot.or_insert_with(|| {
        entries.push(Vec::new());
        entries.len() as u32 - 1
    });
    if !entries[entry as usize].contains(&list) {
        entries[entry as usize].push(list);
    }
}

const FNV_START: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;
/// Keys of beginnings and of first words of phrases differ from whole words of the same letters.
const BEGINNING: u64 = 0x9e37_79b9_7f4a_7c15;
const ENDING: u64 = 0xd6e8_feb8_6659_fd93;
const PHRASE: u64 = 0xc2b2_ae3d_27d4_eb4f;

fn fnv(hash: u64, byte: u8) -> u64 {
    (hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME)
}

fn fnv_char(c: char, hash: u64) -> u64 {
    let mut buffer = [0; 4];
    c.encode_utf8(&mut buffer).bytes().fold(hash, fnv)
}

fn head_slot(hash: u64) -> usize {
    (hash.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 52) as usize
}

fn bloom_bit(key: u64) -> u64 {
    // FNV mixes its low bits poorly for short words; the multiply spreads them to the top.
    key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - BLOOM_BITS.trailing_zeros())
}

/// Passes a hash through: the keys are hashes already.
#[derive(Default)]
struct AlreadyHashed(u64);

impl Hasher for AlreadyHashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("keys are u64");
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(terms: &[&str], text: &str) -> Vec<String> {
        let mut builder = LexiconBuilder::default();
        builder.list(terms);
        let read = builder.build().read(text);
        {
            let mut hits = read.hits;
            hits.sort_by_key(|h| h.start);
            hits
        }
        .iter()
        .map(|h| text[h.start as usize..h.end as usize].to_owned())
        .collect()
    }

    #[test]
    fn finds_words_whatever_their_case_and_accents() {
        assert_eq!(found(&["diabète"], "DIABETE, diabète"), ["DIABETE", "diabète"]);
        assert_eq!(found(&["große"], "GROSSE"), ["GROSSE"]);
        assert_eq!(found(&["пациент"], "Пациент"), ["Пациент"]);
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
}
