//! What the fuzz targets are given as seeds, and what they once broke on, stays whole.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a test that breaks shows the seed that broke it")]

#[path = "../fuzz/replay.rs"]
mod replay;
#[path = "../fuzz/targets.rs"]
mod targets;

use replay::{Variants, replay};

/// A scan takes milliseconds.
const FEW: Variants = Variants { cuts: 3, damaged: 0 };

#[test]
fn policy_files_are_loaded_or_refused() {
    replay("policy_files", &FEW, targets::policy_files);
}

#[test]
fn texts_are_scanned() {
    replay("texts", &FEW, targets::texts);
}

#[test]
fn encoded_texts_are_scanned() {
    replay("encoded", &FEW, targets::encoded);
}
