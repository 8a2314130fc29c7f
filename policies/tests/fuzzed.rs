//! What the fuzz targets are given as seeds, and what they once broke on, stays whole.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a test that breaks shows the seed that broke it")]

use std::path::Path;

#[path = "../fuzz/targets.rs"]
mod targets;

/// Gives every file of a target's corpus to it.
fn replay(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut count = 0;
    for entry in std::fs::read_dir(&folder).expect("the corpus is in the source tree") {
        let path = entry.expect("the corpus is readable").path();
        let input = std::fs::read(&path).expect("the corpus is readable");
        println!("{}", path.display());
        run(&input);
        // What a cut-off upload or an editor would leave of it.
        for cut in [1, input.len() / 3, input.len() - 1] {
            run(&input[..cut]);
        }
        count += 1;
    }
    assert!(count >= 5, "{target} has {count} seeds");
}

#[test]
fn policy_files_are_loaded_or_refused() {
    replay("policy_files", targets::policy_files);
}

#[test]
fn texts_are_scanned() {
    replay("texts", targets::texts);
}

#[test]
fn encoded_texts_are_scanned() {
    replay("encoded", targets::encoded);
}
