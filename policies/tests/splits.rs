//! Cutting a text hides nothing: over messages, over parts of one message, and at any place.
//!
//! Every private row of the corpus that holds enough by itself is cut at places that a seeded generator
//! draws, so that a run tries the same cuts again. What the cut text is must be at least what the whole is.

#![forbid(unsafe_code)]

use std::path::Path;
use std::sync::LazyLock;

use sluice_policies::{PolicySet, Prompt, Role, Text};

/// It is private by a rule about one sentence. Two messages are never one sentence, two parts of a message
/// may be.
const OF_ONE_SENTENCE: &str = "Mein Mitarbeiter ist bei ver.di";

static SHIPPED: LazyLock<PolicySet> =
    LazyLock::new(|| PolicySet::shipped().unwrap_or_else(|error| panic!("{error}")));

/// Numbers without order, the same in every run (Marsaglia's xorshift with 64 bits).
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % bound
    }
}

/// The texts of the corpus that never go to a cloud.
fn private_texts() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let files = std::fs::read_dir(folder).expect("the corpus is readable");
    let mut files: Vec<_> = files.map(|file| file.expect("a folder's entry").path()).collect();
    files.retain(|file| file.extension().is_some_and(|e| e == "jsonl"));
    files.sort();
    let mut texts = Vec::new();
    for file in files {
        let rows = std::fs::read_to_string(file).expect("the corpus is readable");
        let rows = rows.lines().map(serde_json::from_str::<serde_json::Value>);
        let rows = rows.map(|row| row.expect("each line of the corpus is a row"));
        texts.extend(rows.filter_map(|row| row["text"].as_str().map(str::to_owned)));
    }
    texts.retain(|text| text.len() > 8 && never_cloud(&prompt(&[text], Cut::Messages)));
    texts
}

#[derive(Clone, Copy, Debug)]
enum Cut {
    /// Each part is a message of the user's.
    Messages,
    /// Parts of one message.
    Parts,
    /// Messages of the user's with short answers between.
    Turns,
}

fn prompt(parts: &[&str], cut: Cut) -> Prompt {
    let mut texts = Vec::new();
    for (index, part) in parts.iter().enumerate() {
        if index > 0 && matches!(cut, Cut::Turns) {
            texts.push(text(texts.len(), Role::Assistant, "Go on."));
        }
        let message = if matches!(cut, Cut::Parts) { 0 } else { texts.len() };
        texts.push(text(message, Role::User, part));
    }
    Prompt { texts, ..Prompt::default() }
}

fn text(message: usize, role: Role, text: &str) -> Text {
    let place = format!("messages[{message}].content");
    Text { place, message: Some(message), role, text: text.to_owned() }
}

fn never_cloud(prompt: &Prompt) -> bool {
    SHIPPED.classify(prompt).never_cloud
}

/// Two to four parts of a text.
fn parts<'t>(text: &'t str, draw: &mut Draw) -> Vec<&'t str> {
    let mut places: Vec<usize> = (0..1 + draw.below(3))
        .map(|_| text.floor_char_boundary(1 + draw.below(text.len() - 1)))
        .collect();
    places.extend([0, text.len()]);
    places.sort_unstable();
    places.dedup();
    places.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect()
}

#[test]
fn a_private_text_stays_private_wherever_it_is_cut() {
    let mut draw = Draw(0x5eed);
    let mut hidden = Vec::new();
    let mut tried = 0;
    for text in private_texts() {
        for cut in [Cut::Messages, Cut::Parts, Cut::Turns].into_iter().cycle().take(9) {
            let parts = parts(&text, &mut draw);
            if text == OF_ONE_SENTENCE && !matches!(cut, Cut::Parts) {
                continue;
            }
            tried += 1;
            if !never_cloud(&prompt(&parts, cut)) {
                hidden.push(format!("{cut:?} {parts:?}"));
            }
        }
    }
    assert!(tried > 6000, "{tried}");
    assert!(hidden.is_empty(), "{} of {tried} cuts:\n{}", hidden.len(), hidden.join("\n"));
}
