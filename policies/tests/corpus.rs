//! Measures routing on the shipped corpus: what must stay private, and what may go to a cloud.
//!
//! A missed row is a breach and a false alarm costs quality; both have a bound here. Set
//! `CORPUS_SHOW=1` to print the rows that went wrong and what was found in them.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may stop and print")]

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use sluice_policies::{Facts, Mode, PolicySet, Prompt, Quality, Role, Route, Text, UpstreamFacts};

#[derive(Deserialize)]
struct Row {
    id: String,
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    messages: Vec<Message>,
    expect: String,
    kind: String,
}

#[derive(Deserialize)]
struct Message {
    role: Role,
    content: String,
}

impl Row {
    fn prompt(&self) -> Prompt {
        if let Some(text) = &self.text {
            return Prompt::from_user_text(text.clone());
        }
        let texts = self.messages.iter().enumerate().map(|(i, m)| Text {
            place: format!("messages[{i}].content"),
            message: Some(i),
            role: m.role,
            text: m.content.clone(),
        });
        Prompt { texts: texts.collect(), ..Prompt::default() }
    }
}

/// An idle edge and one cloud upstream for which nobody vouches.
fn facts() -> Facts {
    let edge = UpstreamFacts { quality: Some(Quality::Demo), ..UpstreamFacts::edge("edge") };
    let cloud = UpstreamFacts::server("assumed-cloud", "https", "assumed-cloud.invalid", 443);
    serde_json::from_value::<Facts>(serde_json::json!({
        "today": "2026-12-01", "mode": Mode::Trial,
        "upstreams": [edge, cloud],
    }))
    .unwrap()
}

#[derive(Default)]
struct Tally {
    total: usize,
    wrong: usize,
}

#[test]
fn shipped_corpus_is_routed_within_the_bounds() {
    let set = PolicySet::shipped().unwrap_or_else(|e| panic!("{e}"));
    let facts = facts();
    let show = std::env::var_os("CORPUS_SHOW").is_some();
    let mut tallies: BTreeMap<(String, String), Tally> = BTreeMap::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let folder = std::env::var_os("CORPUS_DIR").map_or(folder, Into::into);
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|f| f.unwrap().path()).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "jsonl"));
    files.sort();
    for line in files.iter().flat_map(|f| {
        std::fs::read_to_string(f).unwrap().lines().map(str::to_owned).collect::<Vec<_>>()
    }) {
        let row: Row = serde_json::from_str(&line).unwrap();
        let prompt = row.prompt();
        let classification = set.classify(&prompt);
        let decision = set.decide(&classification, &facts);
        let went_private = decision.route != Route::Cloud;
        let wrong = went_private != (row.expect == "private");
        let tally = tallies.entry((row.expect.clone(), row.kind.clone())).or_default();
        tally.total += 1;
        tally.wrong += usize::from(wrong);
        if show && wrong {
            let found: Vec<String> = classification
                .findings
                .iter()
                .map(|f| {
                    let value = &prompt.texts[f.text].text[f.span.clone()];
                    format!("{}:{:?}:{value:?}", f.detector, f.likelihood)
                })
                .collect();
            println!(
                "\n{} expected {} got {:?} rules {:?}\n  {}\n  {}",
                row.id,
                row.expect,
                decision.route,
                decision.rules,
                line.chars().take(500).collect::<String>(),
                found.join(" | ")
            );
        }
    }
    let sum = |expect: &str| {
        tallies
            .iter()
            .filter(|((e, _), _)| e == expect)
            .fold((0, 0), |s, (_, t)| (s.0 + t.total, s.1 + t.wrong))
    };
    for ((expect, kind), tally) in &tallies {
        println!("{expect:8} {kind:16} {:4} rows, {:3} wrong", tally.total, tally.wrong);
    }
    let ((private, missed), (cloud, alarms)) = (sum("private"), sum("cloud"));
    println!(
        "recall {:.2} % of {private}, false positives {:.2} % of {cloud}",
        100.0 - 100.0 * missed as f64 / private as f64,
        100.0 * alarms as f64 / cloud as f64
    );
    for ((expect, kind), tally) in &tallies {
        let allowed = tally.total / if expect == "private" { 100 } else { 50 };
        assert!(
            tally.wrong <= allowed.max(1),
            "{} of {} {expect} {kind} rows",
            tally.wrong,
            tally.total
        );
    }
    assert!(missed * 100 <= private, "{missed} of {private} private rows went to the cloud");
    assert!(alarms * 100 <= cloud * 2, "{alarms} of {cloud} harmless rows stayed private");
}

/// Each of these was taken for somebody's telephone number, card, key or attack by a detector that
/// looks at the shape alone.
#[test]
fn numbers_of_builds_logs_and_orders_are_nobody_s_data() {
    let set = PolicySet::shipped().unwrap_or_else(|e| panic!("{e}"));
    for text in [
        "build 1755302400 passed",
        "The job began at 1755302400 and ended at 1755302460123, why did it take so long?",
        "commit da39a3ee5e6b4b0d3255bfef95601890afd80709 broke the login page, revert it",
        "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 differs",
        "Order 4820193756 has not been shipped yet",
        "user_id=4820193756 is missing from the join",
        "Trace id 4bf92f3577b34da6a3ce929d0e0e4736 shows a timeout in the parser",
        "session 123e4567-e89b-12d3-a456-426614174000 was closed",
        "Is this check redundant? The abundant warnings come from the standard library",
        "Ignore the previous column and sort by the next one",
        "ISBN 978-3-16-148410-0 and ISSN 2049-3630 are out of print",
        "The pods are 10.0.12.7 and 10.0.12.8, version 10.15.7.4539",
    ] {
        let classification = set.classify(&Prompt::from_user_text(text));
        let decision = set.decide(&classification, &facts());
        assert_eq!(decision.route, Route::Cloud, "{text}: {:?}", decision.rules);
        assert_eq!(decision.labels, Vec::<String>::new(), "{text}");
    }
}
