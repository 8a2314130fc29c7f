//! Hashes words as they are read, and answers at once for most words that nobody asked for.
//!
//! A word is hashed eight folded bytes at a time. The same letters give the same hash however they
//! were written: a plain ASCII word takes the short way, an accented one goes letter by letter.

use std::hash::Hasher;

use crate::swar;

const START: u64 = 0xcbf2_9ce4_8422_2325;
const MIX: u64 = 0x9e37_79b9_7f4a_7c15;

fn mix(hash: u64, chunk: u64) -> u64 {
    let product = (hash ^ chunk).wrapping_mul(MIX);
    product ^ product >> 32
}

/// Hash of ASCII letters or digits, whatever their case.
pub(super) fn ascii(bytes: &[u8]) -> u64 {
    chunks(bytes, swar::to_lower)
}

/// Hash of bytes that are folded already.
pub(super) fn folded(bytes: &[u8]) -> u64 {
    chunks(bytes, |chunk| chunk)
}

fn chunks(bytes: &[u8], fold: impl Fn(u64) -> u64) -> u64 {
    let starts = (0..bytes.len()).step_by(8);
    starts.fold(START, |hash, at| {
        mix(hash, swar::first(fold(swar::load(bytes, at)), bytes.len() - at))
    })
}

/// Hash of one to eight ASCII letters or digits that were loaded already.
pub(super) fn ascii_chunk(chunk: u64, len: usize) -> u64 {
    mix(START, swar::first(swar::to_lower(chunk), len))
}

/// Hash of one to eight small letters, with zeros behind them.
pub(super) fn small_letters(letters: u64) -> u64 {
    mix(START, letters)
}

/// A hash that grows byte by byte.
#[derive(Clone, Copy)]
pub(super) struct Folded {
    hash: u64,
    chunk: u64,
    /// Folded bytes so far.
    pub(super) len: usize,
}

impl Folded {
    pub(super) fn new() -> Folded {
        Folded { hash: START, chunk: 0, len: 0 }
    }

    /// Adds one folded byte.
    pub(super) fn push(&mut self, byte: u8) {
        self.chunk |= u64::from(byte) << (8 * (self.len % 8));
        self.len += 1;
        if self.len.is_multiple_of(8) {
            self.hash = mix(self.hash, self.chunk);
            self.chunk = 0;
        }
    }

    /// Adds the bytes of a character as they are.
    pub(super) fn push_char(&mut self, c: char) {
        let mut buffer = [0; 4];
        c.encode_utf8(&mut buffer).bytes().for_each(|byte| self.push(byte));
    }

    /// The hash of all bytes so far.
    pub(super) fn value(&self) -> u64 {
        if self.len.is_multiple_of(8) { self.hash } else { mix(self.hash, self.chunk) }
    }
}

/// Two bits for each of [`Sieve::SLOTS`] hashes: some term may be this word, may start with it.
pub(super) struct Sieve(Box<[u64; Sieve::SLOTS / 32]>);

impl Sieve {
    /// 64 KiB: four in a hundred foreign words pass with 10,000 terms.
    const SLOTS: usize = 1 << 18;
    /// The word is a term.
    pub(super) const WORD: u64 = 1;
    /// The word is the first of a phrase.
    pub(super) const PHRASE: u64 = 2;

    pub(super) fn new() -> Sieve {
        Sieve(zeros())
    }

    pub(super) fn add(&mut self, hash: u64, what: u64) {
        let slot = slot(hash, Sieve::SLOTS);
        self.0[slot / 32] |= what << (2 * (slot % 32));
    }

    /// What may be: nothing that is a term is missed.
    pub(super) fn of(&self, hash: u64) -> u64 {
        let slot = slot(hash, Sieve::SLOTS);
        self.0[slot / 32] >> (2 * (slot % 32)) & 3
    }
}

/// For each of [`Heads::SLOTS`] first four bytes: bit n says that a beginning with that head is n
/// bytes long. Most words have none and need no further look. The same for last bytes and endings.
pub(super) struct Heads(Box<[u32; Heads::SLOTS]>);

impl Heads {
    const SLOTS: usize = 1 << 13;
    /// Folded bytes that select the beginnings to try; shorter ones are whole words.
    pub(super) const BYTES: usize = 4;
    /// Folded bytes of the longest beginning.
    pub(super) const LEN_MAX: usize = 31;

    pub(super) fn new() -> Heads {
        Heads(zeros())
    }

    /// Notes a beginning of `len` bytes whose first four have this hash.
    pub(super) fn add(&mut self, head: u64, len: usize) {
        self.0[slot(head, Heads::SLOTS)] |= 1 << len;
    }

    /// Lengths to try, a bit each.
    pub(super) fn of(&self, head: u64) -> u32 {
        self.0[slot(head, Heads::SLOTS)]
    }
}

/// From the high bits, which [`mix`] has made depend on all.
fn slot(hash: u64, slots: usize) -> usize {
    (hash >> (64 - slots.trailing_zeros())) as usize
}

/// A table that is never on the stack.
fn zeros<T: Copy + Default, const N: usize>() -> Box<[T; N]> {
    let zeros = vec![T::default(); N].into_boxed_slice();
    zeros.try_into().unwrap_or_else(|_| unreachable!("it has as many slots as were asked for"))
}

/// Passes a hash through: the keys are hashes already.
#[derive(Default)]
pub(in crate::detector) struct AlreadyHashed(u64);

impl Hasher for AlreadyHashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("keys are u64");
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key.wrapping_mul(MIX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_has_one_hash_however_it_is_read() {
        for word in ["a", "Diabetes", "ABCDEFGHI", "0048213", "pneumonoultramicroscopic"] {
            let mut folded = Folded::new();
            word.to_ascii_lowercase().bytes().for_each(|byte| folded.push(byte));
            assert_eq!(ascii(word.as_bytes()), folded.value(), "{word}");
            if word.len() <= 8 {
                assert_eq!(ascii_chunk(swar::load(word.as_bytes(), 0), word.len()), folded.value());
                let small = swar::load(word.to_ascii_lowercase().as_bytes(), 0);
                assert_eq!(small_letters(small), folded.value());
            }
        }
    }

    #[test]
    fn the_sieve_lets_every_term_pass() {
        let mut sieve = Sieve::new();
        let words: Vec<String> = (0..2000).map(|n| format!("term{n}")).collect();
        for (n, word) in words.iter().enumerate() {
            sieve.add(ascii(word.as_bytes()), [Sieve::WORD, Sieve::PHRASE][n % 2]);
        }
        for (n, word) in words.iter().enumerate() {
            assert_ne!(sieve.of(ascii(word.as_bytes())) & [Sieve::WORD, Sieve::PHRASE][n % 2], 0);
        }
        let strangers = (0..2000).filter(|n| sieve.of(ascii(format!("other{n}").as_bytes())) != 0);
        assert!(strangers.count() < 100);
    }
}
