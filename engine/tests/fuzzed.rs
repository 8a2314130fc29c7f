//! What the fuzz targets are given as seeds, and what they once broke on, stays whole.

#![forbid(unsafe_code)]

use std::path::Path;

#[path = "../fuzz/targets.rs"]
mod targets;

/// Gives every file of a target's corpus to it, and what a cut-off download would leave of it.
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
        count += 1;
    }
    assert!(count >= 5, "{target} has {count} seeds");
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
