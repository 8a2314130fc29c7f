//! Finds every literal that some detector waits for, whatever its case, in one pass over a text.
//!
//! Literals are few and rare, so the pass asks at each byte one question only: may a literal start
//! here? A sieve of the literals' first four letters answers for fifteen places at a time; what it lets
//! through is compared. (Of the first three letters every third word has some literal's. An automaton over
//! all literals finds the same, but every step of it waits for the one before.) The few literals of one or
//! two letters are looked for one by one, where the text has these letters at all.
//!
//! Invariant: all occurrences are found, also those that overlap.

use std::ops::Range;

use memchr::memmem::Finder;

use super::byte_set::ByteSet;
use crate::swar;

/// A literal that some detector waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LiteralId(pub(crate) u32);

/// All literals of all detectors.
pub(crate) struct Literals {
    /// A bit for each hash of a head that some literal has.
    sieve: Box<[u64; SIEVE_BITS / 64]>,
    /// Longer literals by their heads, sorted by the heads' bits.
    heads: Vec<(Head, LiteralId)>,
    /// Where in `heads` those begin whose bits are in one word of the sieve or behind it.
    first: Box<[u32; SIEVE_BITS / 64 + 1]>,
    texts: Vec<Box<[u8]>>,
    /// Literals of one or two bytes in every case.
    short: Vec<(Finder<'static>, LiteralId)>,
    /// Bytes of the longest literal.
    bytes_max: usize,
}

/// Occurrences in one text, by literal and in order of their start.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct FoundLiterals(Vec<(LiteralId, Range<usize>)>);

/// The first four bytes of a literal, letters in lower case; shorter literals end in zeros.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Head(u32);

/// Bytes of a head.
const HEAD_BYTES: usize = 4;
/// Heads that eight bytes hold.
const HEADS_OF_EIGHT: usize = 8 - HEAD_BYTES + 1;
/// So many times eight bytes are looked at together.
const EIGHTS_AT_ONCE: usize = 3;
/// 32 KiB: of the places of a text one in a hundred passes.
const SIEVE_BITS: usize = 1 << 18;
/// Bytes of a literal that is looked for on its own, at most.
const SHORT_BYTES_MAX: usize = 2;
/// Folds letters, and a few signs that comparing tells apart.
const FOLD: u64 = 0x2020_2020_2020_2020;

impl FoundLiterals {
    /// Occurrences of the literals with these ids.
    pub(crate) fn of(&self, ids: &Range<u32>) -> &[(LiteralId, Range<usize>)] {
        let first = self.0.partition_point(|(id, _)| id.0 < ids.start);
        let rest = &self.0[first..];
        &rest[..rest.partition_point(|(id, _)| id.0 < ids.end)]
    }
}

impl Head {
    /// The head of eight folded bytes.
    fn of(eight: u64) -> Head {
        Head(eight as u32)
    }

    /// The head of a literal of so many bytes that begins like this one.
    fn of_len(self, len: usize) -> Head {
        Head(if len >= HEAD_BYTES { self.0 } else { self.0 & ((1 << (8 * len)) - 1) })
    }

    /// Its bit in the sieve.
    fn bit(self) -> usize {
        (self.0.wrapping_mul(0x9e37_79b1) >> (32 - SIEVE_BITS.trailing_zeros())) as usize
    }
}

/// A literal as it may be written, each once.
fn in_every_case(literal: &[u8]) -> Vec<Vec<u8>> {
    let mut all = vec![Vec::new()];
    for byte in literal {
        let mut cases = vec![byte.to_ascii_lowercase(), byte.to_ascii_uppercase()];
        cases.dedup();
        all = all
            .iter()
            .flat_map(|start| cases.iter().map(|case| [start.as_slice(), &[*case]].concat()))
            .collect();
    }
    all
}

fn set(table: &mut [u64], bit: usize) {
    table[bit / 64] |= 1 << (bit % 64);
}

impl Literals {
    pub(crate) fn new(literals: &[String]) -> Literals {
        let mut all = Literals {
            sieve: Box::new([0; SIEVE_BITS / 64]),
            heads: Vec::new(),
            first: Box::new([0; SIEVE_BITS / 64 + 1]),
            texts: literals.iter().map(|literal| literal.as_bytes().into()).collect(),
            short: Vec::new(),
            bytes_max: literals.iter().map(String::len).max().unwrap_or(0),
        };
        for (id, literal) in (0..).map(LiteralId).zip(literals) {
            all.add(id, literal.as_bytes());
        }
        all.heads.sort_unstable_by_key(|(head, id)| (head.bit(), *id));
        for (word, first) in all.first.iter_mut().enumerate() {
            *first = all.heads.partition_point(|(head, _)| head.bit() / 64 < word) as u32;
        }
        all
    }

    fn add(&mut self, id: LiteralId, literal: &[u8]) {
        if literal.len() <= SHORT_BYTES_MAX {
            let cases = in_every_case(literal).into_iter();
            let finders = cases.map(|literal| (Finder::new(&literal).into_owned(), id));
            self.short.extend(finders.filter(|_| !literal.is_empty()));
            return;
        }
        let head = Head::of(swar::load(literal, 0) | FOLD).of_len(literal.len());
        self.heads.push((head, id));
        match literal.len() {
            // Whatever comes behind.
            ..HEAD_BYTES => (0..=0xff).for_each(|last| {
                set(&mut self.sieve[..], Head(head.0 | (last | 0x20) << 24).bit());
            }),
            _ => set(&mut self.sieve[..], head.bit()),
        }
    }

    /// 1 if a literal may start at this one of eight bytes.
    #[inline(always)]
    fn may_start(&self, eight: u64, offset: usize) -> u64 {
        let bit = Head::of(eight >> (8 * offset)).bit();
        self.sieve[bit / 64] >> (bit % 64) & 1
    }

    /// 1 if a literal may start at one of the first of eight bytes.
    #[inline(always)]
    fn may_start_in(&self, eight: u64) -> u64 {
        (0..HEADS_OF_EIGHT).fold(0, |any, offset| any | self.may_start(eight, offset))
    }

    /// Every occurrence of every literal in a text of these bytes.
    pub(crate) fn find(&self, text: &str, in_text: &ByteSet) -> FoundLiterals {
        let mut found = FoundLiterals::default();
        let bytes = text.as_bytes();
        let mut at = 0;
        while at < bytes.len() {
            // One branch for many places: most texts take none.
            let eights: [u64; EIGHTS_AT_ONCE] =
                std::array::from_fn(|n| swar::load(bytes, at + n * HEADS_OF_EIGHT) | FOLD);
            if eights.iter().fold(0, |any, eight| any | self.may_start_in(*eight)) != 0 {
                for (n, eight) in eights.into_iter().enumerate() {
                    self.compare_all(bytes, at + n * HEADS_OF_EIGHT, eight, &mut found);
                }
            }
            at += EIGHTS_AT_ONCE * HEADS_OF_EIGHT;
        }
        let may_hold = |finder: &Finder<'_>| finder.needle().iter().all(|byte| in_text.has(*byte));
        for (finder, id) in self.short.iter().filter(|(finder, _)| may_hold(finder)) {
            let mut from = 0;
            while let Some(at) = finder.find(&bytes[from..]) {
                from += at + 1;
                found.0.push((*id, from - 1..from - 1 + finder.needle().len()));
            }
        }
        found.0.sort_unstable_by_key(|(id, range)| (*id, range.start));
        found
    }

    /// Every occurrence in a text of ASCII in which other texts stand in this order: of each text its
    /// range, and what it holds.
    pub(crate) fn join<'l>(
        &self,
        text: &str,
        parts: impl Iterator<Item = (Range<usize>, &'l FoundLiterals)>,
    ) -> FoundLiterals {
        let mut found = FoundLiterals::default();
        let mut parts = parts.peekable();
        while let Some((range, known)) = parts.next() {
            let place = |at: &Range<usize>| at.start + range.start..at.end + range.start;
            found.0.extend(known.0.iter().map(|(id, at)| (*id, place(at))));
            // What begins in this text or behind it, before the next begins, and goes on.
            let next = parts.peek().map_or(text.len(), |(next, _)| next.start);
            if range.end == text.len() {
                continue;
            }
            let reach = self.bytes_max.saturating_sub(1);
            let start = range.start.max(range.end.saturating_sub(reach));
            let near = &text[start..text.len().min(next + reach)];
            let crosses = |at: &Range<usize>| at.start < next && at.end > range.end;
            let near = self.find(near, &ByteSet::of(near)).0.into_iter();
            let near = near.map(|(id, at)| (id, at.start + start..at.end + start));
            found.0.extend(near.filter(|(_, at)| crosses(at)));
        }
        found.0.sort_unstable_by_key(|(id, range)| (*id, range.start));
        found
    }

    /// Adds the literals that start at the first of eight bytes.
    #[inline(never)]
    fn compare_all(&self, bytes: &[u8], at: usize, eight: u64, found: &mut FoundLiterals) {
        for offset in (0..HEADS_OF_EIGHT).filter(|offset| self.may_start(eight, *offset) != 0) {
            self.compare(bytes, at + offset, Head::of(eight >> (8 * offset)), found);
        }
    }

    fn compare(&self, bytes: &[u8], at: usize, head: Head, found: &mut FoundLiterals) {
        for head in (SHORT_BYTES_MAX + 1..=HEAD_BYTES).map(|len| head.of_len(len)) {
            let word = head.bit() / 64;
            let near = self.first[word] as usize..self.first[word + 1] as usize;
            for (_, id) in self.heads[near].iter().filter(|(known, _)| *known == head) {
                let literal = &self.texts[id.0 as usize];
                let range = at..at + literal.len();
                let here = bytes.get(range.clone());
                if here.is_some_and(|here| here.eq_ignore_ascii_case(literal)) {
                    found.0.push((*id, range));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found(literals: &[&str], text: &str) -> Vec<(usize, usize)> {
        let literals: Vec<String> = literals.iter().map(|l| (*l).to_owned()).collect();
        let all = Literals::new(&literals).find(text, &ByteSet::of(text));
        let all = all.of(&(0..literals.len() as u32)).iter();
        all.map(|(id, range)| (id.0 as usize, range.start)).collect()
    }

    #[test]
    fn every_literal_is_found_whatever_its_case_and_what_overlaps_it() {
        assert_eq!(found(&["sk-", "SK-live", "k-l"], "a Sk-LIVE"), [(0, 2), (1, 2), (2, 3)]);
        assert_eq!(
            found(&["@", "SK", "ort"], "sk@sk ORT ort"),
            [(0, 2), (1, 0), (1, 3), (2, 6), (2, 10)]
        );
        assert_eq!(found(&["паспорт", "护照"], "护照 и паспорт"), [(0, 10), (1, 0)]);
        // A sign that differs from another in the same bit as letters' cases do.
        assert!(found(&["[a]", "`b`"], "{a} @b@").is_empty());
        assert!(found(&["abc"], "ab").is_empty());
    }

    #[test]
    fn the_ids_of_one_detector_are_its_own() {
        let literals = ["ab", "bc", "cd"].map(str::to_owned);
        let all = Literals::new(&literals).find("cdabcd", &ByteSet::of("cdabcd"));
        let middle: Vec<_> = all.of(&(1..2)).to_vec();
        assert_eq!(middle, [(LiteralId(1), 3..5)]);
    }

    proptest! {
        #[test]
        fn finds_what_looking_at_every_place_finds(
            literals in prop::collection::vec("[a-cA-C@_é]{1,5}", 1..6),
            text in "[a-cA-C@_é ]{0,40}",
        ) {
            let mut expected = Vec::new();
            for (id, literal) in literals.iter().enumerate() {
                let places = 0..text.len().saturating_sub(literal.len() - 1);
                let is_here = |at: &usize| {
                    text.as_bytes()[*at..at + literal.len()].eq_ignore_ascii_case(literal.as_bytes())
                };
                expected.extend(places.filter(is_here).map(|at| (id, at)));
            }
            let literals: Vec<&str> = literals.iter().map(String::as_str).collect();
            prop_assert_eq!(found(&literals, &text), expected);
        }
    }
}
