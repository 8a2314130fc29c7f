//! Collects the terms of all lists and compiles them into the lexicon's tables.
//!
//! A term is a word, a phrase, a beginning (`diabet*`), the end of a long word (`*fraktur`), a word
//! that counts only in capitals (`^ALS`, which is a common word in small letters), or characters of a
//! script without spaces. Terms without a letter or digit are dropped.

use std::collections::hash_map::Entry;

use super::hash::{self, Folded, Heads, Sieve};
use super::{Lexicon, ListId, Marks, Phrase, SetId, Table, pair};
use crate::detector::letters::{fold_table, is_unspaced};

/// Collects terms until [`LexiconBuilder::build`].
#[derive(Default)]
pub(crate) struct LexiconBuilder {
    terms: Vec<(ListId, String)>,
    list_count: u16,
    /// Lists whose words count only with a capital.
    capital: Vec<ListId>,
    /// Lists whose words are marked, each with its mark.
    marking: Vec<(ListId, Marks)>,
    sets: Vec<Vec<String>>,
}

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

    /// Words of the list get a mark instead of being hits of it; a list gives one mark at most.
    pub(crate) fn mark(&mut self, list: ListId, mark: Marks) {
        self.marking.push((list, mark));
    }

    /// Opens a new set: its words make no hits.
    pub(crate) fn set<S: AsRef<str>>(&mut self, words: impl IntoIterator<Item = S>) -> SetId {
        self.sets.push(words.into_iter().map(|w| w.as_ref().to_owned()).collect());
        SetId(self.sets.len() as u16 - 1)
    }

    /// Compiles the tables.
    pub(crate) fn build(self) -> Lexicon {
        let mut lexicon = Lexicon {
            folded: fold_table(),
            common: Sieve::new(),
            pairs: Sieve::new(),
            names: Sieve::new(),
            phrase_words_max: 1,
            whole: Table::default(),
            acronyms: Table::default(),
            beginnings: Table::default(),
            endings: Table::default(),
            phrases: Table::default(),
            unspaced: Table::default(),
            heads: Heads::new(),
            tails: Heads::new(),
            list_count: usize::from(self.list_count),
            entries: Vec::new(),
            names_only: Vec::new(),
            marks: Vec::new(),
            sets: Vec::new(),
        };
        for (list, term) in &self.terms {
            lexicon.insert(*list, term, self.capital.contains(list));
        }
        for words in &self.sets {
            let set = words.iter().map(|word| lexicon.fold_hash(word)).collect();
            lexicon.sets.push(set);
        }
        let is_name = |lists: &Vec<ListId>| lists.iter().all(|list| self.capital.contains(list));
        lexicon.names_only = lexicon.entries.iter().map(is_name).collect();
        lexicon.marks = lexicon.entries.iter_mut().map(|lists| self.take_marks(lists)).collect();
        lexicon
    }

    /// The marks of a term; its lists that do nothing but mark are struck out.
    fn take_marks(&self, lists: &mut Vec<ListId>) -> Marks {
        let mark = |list: &ListId| self.marking.iter().find(|(marking, _)| marking == list);
        let marks = lists.iter().filter_map(mark).fold(0, |all, (_, mark)| all | mark);
        lists.retain(|list| mark(list).is_none());
        marks
    }
}

impl Lexicon {
    fn insert(&mut self, list: ListId, term: &str, is_name: bool) {
        if term.chars().next().is_some_and(is_unspaced) {
            let mut hash = Folded::new();
            term.chars().filter(|c| is_unspaced(*c)).for_each(|c| hash.push_char(c));
            enter(&mut self.entries, self.unspaced.entry(hash.value()), list);
            return;
        }
        if let Some(acronym) = term.strip_prefix('^') {
            let hash = self.fold_hash(acronym);
            self.common.add(hash, Sieve::WORD);
            enter(&mut self.entries, self.acronyms.entry(hash), list);
            return;
        }
        if let Some(ending) = term.strip_prefix('*') {
            return self.insert_ending(list, ending);
        }
        let (term, is_beginning) = match term.strip_suffix('*') {
            Some(stem) => (stem, true),
            None => (term, false),
        };
        let words = self.read(term).words;
        match words.as_slice() {
            [] => {}
            [only] if is_beginning => self.insert_beginning(list, term, only.hash),
            [only] => self.insert_word(list, only.hash, is_name),
            [first, second, rest @ ..] => {
                let rest = rest.iter().map(|w| w.hash).collect();
                self.insert_phrase(list, first.hash, second.hash, rest);
            }
        }
    }

    fn insert_word(&mut self, list: ListId, hash: u64, is_name: bool) {
        let sieve = if is_name { &mut self.names } else { &mut self.common };
        sieve.add(hash, Sieve::WORD);
        enter(&mut self.entries, self.whole.entry(hash), list);
    }

    fn insert_beginning(&mut self, list: ListId, stem: &str, hash: u64) {
        let (mut folded, mut head) = (Folded::new(), None);
        for c in stem.trim().chars() {
            self.fold_char(c, &mut folded);
            if folded.len >= Heads::BYTES && head.is_none() {
                head = (folded.len == Heads::BYTES).then(|| folded.value());
            }
        }
        let Some(head) = head.filter(|_| folded.len <= Heads::LEN_MAX) else {
            // A head that no reading stops at: keep the term as a whole word rather than lose it.
            return self.insert_word(list, hash, false);
        };
        self.heads.add(head, folded.len);
        enter(&mut self.entries, self.beginnings.entry(hash), list);
    }

    fn insert_ending(&mut self, list: ListId, ending: &str) {
        let ending = self.folded_bytes(ending);
        let len = ending.len();
        if !(Heads::BYTES..=Heads::LEN_MAX).contains(&len) {
            return self.insert_word(list, hash::folded(&ending), false);
        }
        self.tails.add(hash::folded(&ending[len - Heads::BYTES..]), len);
        let key = hash::folded(&ending);
        enter(&mut self.entries, self.endings.entry(key), list);
    }

    fn insert_phrase(&mut self, list: ListId, first: u64, second: u64, rest: Box<[u64]>) {
        let pair = pair(first, second);
        self.phrase_words_max = self.phrase_words_max.max(2 + rest.len());
        self.common.add(first, Sieve::PHRASE);
        self.pairs.add(pair, Sieve::PHRASE);
        let phrases = self.phrases.entry(pair).or_default();
        match phrases.iter().find(|phrase| phrase.rest == rest) {
            Some(known) => note(&mut self.entries[known.entry as usize], list),
            None => {
                phrases.push(Phrase { rest, entry: self.entries.len() as u32 });
                self.entries.push(vec![list]);
            }
        }
    }
}

/// Notes that the term at `slot` belongs to one more list.
fn enter(entries: &mut Vec<Vec<ListId>>, slot: Entry<'_, u64, u32>, list: ListId) {
    let entry = *slot.or_insert_with(|| {
        entries.push(Vec::new());
        entries.len() as u32 - 1
    });
    note(&mut entries[entry as usize], list);
}

fn note(lists: &mut Vec<ListId>, list: ListId) {
    if !lists.contains(&list) {
        lists.push(list);
    }
}
