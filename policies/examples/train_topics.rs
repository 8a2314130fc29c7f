//! Trains the topic model: `cargo run --release -p sluice-policies --example train_topics --
//! policies/corpus/*.jsonl policies/corpus/training/*.jsonl engine/src/*.rs engine/src/*/*.rs router/src/*.rs
//! router/src/*/*.rs README.md */README.md LICENSE glove.6B.50d.vec`, and the READMEs and LICENSE files of the
//! crates that `cargo vendor` brings.
//!
//! A `.vec` file holds word vectors, the first [`VECTORS_MAX`] of which are used (the shipped model: GloVe 6B
//! of 50 dimensions, public domain). Reads rows `{"expect": "private" | "cloud", "labels": […], "text" |
//! "messages": …}` from `.jsonl` files; any other file is harmless text, cut into rows. Writes the model to
//! standard output and what it is worth on unseen rows to standard error.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program whose result is what it prints"
)]

use std::error::Error;

use sluice_policies::{LabelledText, PolicySet, WordVectors, train_topics};

#[derive(Default)]
struct Row {
    text: String,
    labels: Vec<String>,
    private: bool,
    request: bool,
}

/// Vectors of rarer words are poor.
const VECTORS_MAX: usize = 40_000;
/// Lines of a harmless row.
const HARMLESS_LINES: usize = 8;
/// One row in so many is taken: code repeats itself.
const HARMLESS_STEP: usize = 4;

fn main() -> Result<(), Box<dyn Error>> {
    let mut rows: Vec<Row> = Vec::new();
    let mut vectors = WordVectors::default();
    for path in std::env::args().skip(1) {
        let file = std::fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
        if path.ends_with(".vec") {
            let lines: Vec<&str> = file.lines().take(VECTORS_MAX).collect();
            vectors = WordVectors::parse(&lines.join("\n"))
                .map_err(|line| format!("{path}:{line}: no vector"))?;
            continue;
        }
        if !path.ends_with(".jsonl") {
            let lines: Vec<&str> = file.lines().collect();
            let cut = lines.chunks(HARMLESS_LINES).step_by(HARMLESS_STEP);
            rows.extend(cut.map(|lines| Row { text: lines.join("\n"), ..Row::default() }));
            continue;
        }
        for (number, line) in file.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
            let row: serde_json::Value =
                serde_json::from_str(line).map_err(|e| format!("{path}:{}: {e}", number + 1))?;
            let (text, labels) = (text_of(&row), labels_of(&row));
            rows.push(Row { text, labels, private: row["expect"] == "private", request: true });
        }
    }
    let labelled: Vec<LabelledText<'_>> = rows
        .iter()
        .map(|row| LabelledText {
            text: &row.text,
            labels: &row.labels,
            private: row.private,
            request: row.request,
        })
        .collect();
    let set = PolicySet::shipped()?;
    let training = train_topics(&labelled, &vectors, set.scanner());
    for line in &training.summary {
        eprintln!("{line}");
    }
    print!("{}", training.file);
    Ok(())
}

/// The row's text, or those of its messages, a line each.
fn text_of(row: &serde_json::Value) -> String {
    if let Some(text) = row["text"].as_str() {
        return text.to_owned();
    }
    let messages = row["messages"].as_array().into_iter().flatten();
    let contents: Vec<&str> = messages.filter_map(|m| m["content"].as_str()).collect();
    contents.join("\n")
}

fn labels_of(row: &serde_json::Value) -> Vec<String> {
    let labels = row["labels"].as_array().into_iter().flatten();
    labels.filter_map(|label| label.as_str().map(str::to_owned)).collect()
}
