//! What the fuzz targets are given as seeds, and what they once broke on, stays whole.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a test that breaks shows the seed that broke it")]

#[path = "../../policies/fuzz/replay.rs"]
mod replay;
#[path = "../fuzz/targets.rs"]
mod targets;

use replay::{Variants, replay};

/// Headers are read in microseconds.
const MANY: Variants = Variants { cuts: 150, damaged: 300 };

#[test]
fn gguf_files_are_read_or_refused() {
    replay("gguf", &MANY, targets::gguf);
}

#[test]
fn safetensors_files_are_read_or_refused() {
    replay("safetensors", &MANY, targets::safetensors);
}

#[test]
fn tokenizers_are_read_or_refused() {
    replay("tokenizer", &MANY, targets::tokenizer);
}
