//! What the fuzz targets are given as seeds, and what they once broke on, stays whole.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a test that breaks shows the seed that broke it")]

use std::path::Path;

#[path = "../fuzz/targets.rs"]
mod targets;

/// Damaged copies of each seed.
const DAMAGED: u64 = 300;

/// Gives every file of a target's corpus to it, and what a cut-off or damaged download would make of it.
fn replay(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut count = 0;
    for entry in std::fs::read_dir(&folder).expect("the corpus is in the source tree") {
        let path = entry.expect("the corpus is readable").path();
        let input = std::fs::read(&path).expect("the corpus is readable");
        println!("{}", path.display());
        run(&input);
        let step = (input.len() / 150).max(1);
        (0..input.len()).step_by(step).for_each(|cut| run(&input[..cut]));
        for seed in 0..DAMAGED {
            run(&damaged(&input, seed));
        }
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
        // A bit, or one of the bytes that numbers and JSON break on.
        bytes[at] = match next() % 3 {
            0 => bytes[at] ^ (1 << (next() % 8)),
            1 => [0, 0xff, 0x7f, 0x80][next() as usize % 4],
            _ => b"0-9\"{}[],\\"[next() as usize % 10],
        };
    }
    bytes
}

#[test]
fn gguf_files_are_read_or_refused() {
    replay("gguf", targets::gguf);
}

#[test]
fn safetensors_files_are_read_or_refused() {
    replay("safetensors", targets::safetensors);
}

#[test]
fn tokenizers_are_read_or_refused() {
    replay("tokenizer", targets::tokenizer);
}
