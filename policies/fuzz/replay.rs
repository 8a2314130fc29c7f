//! Gives fuzz targets their seeds in a test run, and what a cut-off or damaged transfer makes of them.
//!
//! Shared by the tests of all packages that have fuzz targets: each includes this file and its own
//! `fuzz/targets.rs`.

use std::path::Path;

/// What each seed is given as besides itself.
pub(crate) struct Variants {
    /// Prefixes of it, evenly spread, the longest one byte short.
    pub(crate) cuts: usize,
    /// Copies with one to four bytes changed.
    pub(crate) damaged: u64,
}

/// Gives every file of a target's corpus to it, in all variants.
pub(crate) fn replay(target: &str, variants: &Variants, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut count = 0;
    for entry in std::fs::read_dir(&folder).expect("the corpus is in the source tree") {
        let path = entry.expect("the corpus is readable").path();
        let input = std::fs::read(&path).expect("the corpus is readable");
        println!("{}", path.display());
        run(&input);
        let cuts = (0..variants.cuts).map(|i| i * input.len() / variants.cuts);
        cuts.chain(input.len().checked_sub(1)).for_each(|cut| run(&input[..cut]));
        (0..variants.damaged).for_each(|seed| run(&damaged(&input, seed)));
        count += 1;
    }
    assert!(count >= 5, "{target} has {count} seeds");
}

/// A copy with one to four bytes changed; the same for the same seed.
fn damaged(input: &[u8], seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state >> 24
    };
    let mut bytes = input.to_vec();
    for _ in 0..=next() % 4 {
        let at = next() as usize % bytes.len();
        // A bit, or one of the bytes that numbers, JSON and YAML break on.
        bytes[at] = match next() % 3 {
            0 => bytes[at] ^ (1 << (next() % 8)),
            1 => [0, 0xff, 0x7f, 0x80][next() as usize % 4],
            _ => b"0-9\"{}[],\\"[next() as usize % 10],
        };
    }
    bytes
}
