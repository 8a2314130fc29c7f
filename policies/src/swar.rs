//! Looks at eight bytes at a time in one machine word, without unsafe code and on any processor.
//!
//! Most of a text is plain words and spaces; telling where a word ends costs one load and a few
//! additions instead of a branch for every letter, and no misprediction at every word's end.
//! Source of the range test: H. S. Warren, Hacker's Delight, section 6-1 (byte-wise comparison).

const HIGH: u64 = 0x8080_8080_8080_8080;

/// The bytes from `at`, first byte lowest; zeros behind the end.
pub(crate) fn load(bytes: &[u8], at: usize) -> u64 {
    match bytes.get(at..at + 8) {
        Some(eight) => u64::from_le_bytes(eight.try_into().expect("the slice has eight bytes")),
        None => load_tail(bytes, at),
    }
}

#[cold]
fn load_tail(bytes: &[u8], at: usize) -> u64 {
    let mut eight = [0; 8];
    let tail = bytes.get(at..).unwrap_or_default();
    eight[..tail.len()].copy_from_slice(tail);
    u64::from_le_bytes(eight)
}

/// The high bit of every byte from `low` to `high`, both ASCII and included.
pub(crate) fn in_range(x: u64, low: u8, high: u8) -> u64 {
    let seven = x & !HIGH;
    let at_least = seven + splat(0x80 - low);
    let above = seven + splat(0x7f - high);
    at_least & !above & !x & HIGH
}

/// The high bit of every letter.
pub(crate) fn letters(x: u64) -> u64 {
    in_range(x | splat(0x20), b'a', b'z')
}

/// The high bit of every byte of this value, below 0x7f.
pub(crate) fn equal(x: u64, byte: u8) -> u64 {
    in_range(x, byte, byte)
}

/// How many bytes from the first on have their high bit set.
pub(crate) fn run(marked: u64) -> usize {
    (!marked & HIGH).trailing_zeros() as usize / 8
}

/// The bytes that a run of eight begins with.
pub(crate) struct Leading {
    /// The bytes of the run, and zeros behind them.
    pub(crate) bytes: u64,
    /// How many they are.
    pub(crate) len: usize,
    /// One of the eight ends the run, and it is ASCII.
    pub(crate) ends_in_ascii: bool,
}

/// The bytes from the first on that have their high bit set in `marked`.
pub(crate) fn leading(eight: u64, marked: u64) -> Leading {
    let others = !marked & HIGH;
    // The high bit of the byte that ends the run; what lies below is the run.
    let end = others & others.wrapping_neg();
    Leading {
        bytes: eight & (end >> 7).wrapping_sub(1),
        len: others.trailing_zeros() as usize / 8,
        ends_in_ascii: end & !eight != 0,
    }
}

/// Index of the first byte from `at` that is outside `low..=high`; the text's length if none is.
pub(crate) fn end_of_run(bytes: &[u8], mut at: usize, low: u8, high: u8) -> usize {
    loop {
        let len = run(in_range(load(bytes, at), low, high));
        at += len;
        if len < 8 {
            return at.min(bytes.len());
        }
    }
}

/// How many letters a text begins with.
pub(crate) fn letters_run(bytes: &[u8]) -> usize {
    let mut at = 0;
    loop {
        let len = run(letters(load(bytes, at)));
        at += len;
        if len < 8 {
            return at;
        }
    }
}

/// Letters in lower case; digits stay as they are. For words of ASCII letters or digits only.
pub(crate) fn to_lower(word: u64) -> u64 {
    word | splat(0x20)
}

/// The first `count` bytes, zeros behind; all eight from eight on.
pub(crate) fn first(word: u64, count: usize) -> u64 {
    if count >= 8 { word } else { word & ((1 << (8 * count)) - 1) }
}

const fn splat(byte: u8) -> u64 {
    byte as u64 * 0x0101_0101_0101_0101
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_judged_as_one_at_a_time() {
        for (low, high) in [(b'a', b'z'), (b'A', b'Z'), (b'0', b'9'), (0x20, 0x7e)] {
            for byte in 0..=255u8 {
                for place in 0..8 {
                    let mut eight = [low; 8];
                    eight[place] = byte;
                    let run = eight.iter().take_while(|b| (low..=high).contains(b)).count();
                    assert_eq!(end_of_run(&eight, 0, low, high), run, "{byte:#x} at {place}");
                }
            }
        }
    }

    #[test]
    fn a_run_is_cut_out_of_its_eight_bytes() {
        let of = |text: &[u8]| {
            let eight = load(text, 0);
            let Leading { bytes, len, ends_in_ascii } = leading(eight, in_range(eight, b'a', b'z'));
            (bytes.to_le_bytes(), len, ends_in_ascii)
        };
        assert_eq!(of(b"abc def"), (*b"abc\0\0\0\0\0", 3, true));
        assert_eq!(of("ab\u{e9}".as_bytes()), (*b"ab\0\0\0\0\0\0", 2, false));
        assert_eq!(of(b"abcdefgh"), (*b"abcdefgh", 8, false));
        assert_eq!(of(b"abcdefgH"), (*b"abcdefg\0", 7, true));
        assert_eq!(of(b"A"), ([0; 8], 0, true));
        assert_eq!(of(b""), ([0; 8], 0, true));
    }

    #[test]
    fn runs_are_found_over_the_borders_of_words() {
        let text = b"abcdefghijklmnopqrs, 7";
        assert_eq!(end_of_run(text, 3, b'a', b'z'), 19);
        assert_eq!(letters_run(b"AbcdefghiJ kl"), 10);
        assert_eq!(letters_run(b"9"), 0);
        assert_eq!(letters_run(b"abcdefgh"), 8);
        assert_eq!(first(to_lower(load(b"AbC9!", 0)), 4).to_le_bytes(), *b"abc9\0\0\0\0");
    }
}
