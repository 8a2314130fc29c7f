//! What holds for every set and every text: rules only raise, and what is raised stays.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::sync::LazyLock;

use proptest::prelude::*;
use sluice_policies::{Classification, PolicySet, Prompt, Role, Source, Text};

static SITE: LazyLock<String> = LazyLock::new(|| {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/site.yaml");
    std::fs::read_to_string(path).expect("the shipped site is readable")
});
static SHIPPED: LazyLock<PolicySet> = LazyLock::new(|| set(&SITE));

fn set(site: &str) -> PolicySet {
    let source = Source { name: "site.yaml".to_owned(), text: site.to_owned() };
    PolicySet::from_sources_untested(vec![source]).unwrap_or_else(|error| panic!("{error}"))
}

/// Pieces of requests: some found by some rule, some by none.
const PIECES: &[&str] = &[
    "please book a table for two",
    "my card is 4539 5787 6362 1486",
    "SSN 536-22-8714",
    "Patient Maria Kowalczyk was admitted with pneumonia",
    "write to anya.petrova@northmill.se",
    "IBAN DE75 5121 0800 1245 1261 99",
    "password: vX9-kQ2mTz4r!",
    "PRIVILEGED AND CONFIDENTIAL",
    "the salary of Tobias Lindqvist is 84,000",
    "explain the Krebs cycle",
    "MRN 0048213 is in the chart",
    "TRADE SECRET - INTERNAL USE ONLY",
];

/// Conditions that an officer might add.
const CONDITIONS: &[&str] = &[
    "{found: email}",
    "{found: [person_name, phone], at_least: possible}",
    "{words_from: health_terms}",
    "{any_of: [{found: iban}, {tag: legal}]}",
    "{all_of: [{found: payment_card}, {words_from: health_terms}], near: conversation}",
    "{found: us_ssn, unless: {words_from: legal_question}}",
];

fn prompt(parts: &[&str]) -> Prompt {
    let text = |(index, text): (usize, &&str)| Text {
        place: format!("messages[{index}].content"),
        message: Some(index),
        role: Role::User,
        text: (*text).to_owned(),
    };
    Prompt { texts: parts.iter().enumerate().map(text).collect(), ..Prompt::default() }
}

fn rank(classification: &Classification) -> usize {
    let mut names = SHIPPED.class_names();
    names.position(|name| name == classification.class).expect("the class is one of the site's")
}

fn labels(classification: &Classification) -> BTreeSet<&String> {
    classification.labels.iter().collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn adding_a_rule_never_lowers(
        pieces in prop::collection::vec(prop::sample::select(PIECES.to_vec()), 1..4),
        condition in prop::sample::select(CONDITIONS.to_vec()),
        class in prop::sample::select(vec!["public", "internal", "confidential", "regulated"]),
    ) {
        let rule = format!(
            "\nextends:\n  default:\n    rules:\n      - id: ADDED-1\n        title: Added\n        \
             when: {condition}\n        then: {{class: {class}}}\n"
        );
        let wider = set(&format!("{}{rule}", *SITE));
        let prompt = prompt(&pieces);
        let (before, after) = (SHIPPED.classify(&prompt), wider.classify(&prompt));
        prop_assert!(rank(&after) >= rank(&before), "{pieces:?} {condition}");
        prop_assert!(labels(&after).is_superset(&labels(&before)));
        prop_assert!(after.never_cloud || !before.never_cloud);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn more_text_never_lowers(
        pieces in prop::collection::vec(prop::sample::select(PIECES.to_vec()), 1..4),
        more in prop::sample::select(PIECES[..9].to_vec()),
        first in any::<bool>(),
    ) {
        // Words that speak about a concept lower what stands in their sentence, so the rest is other
        // messages.
        let mut longer = pieces.clone();
        longer.insert(if first { 0 } else { pieces.len() }, more);
        let after = SHIPPED.classify(&prompt(&longer));
        // What several messages are about together may change with the next one; what each says may not.
        for piece in &pieces {
            let alone = SHIPPED.classify(&prompt(&[piece]));
            prop_assert!(rank(&after) >= rank(&alone), "{pieces:?} and {more}");
            prop_assert!(labels(&after).is_superset(&labels(&alone)), "{pieces:?} and {more}");
        }
    }
}

/// A text is raised as high when it comes in two messages, wherever it is cut.
#[test]
fn a_text_cut_into_messages_is_what_the_whole_is() {
    for piece in PIECES {
        let whole = rank(&SHIPPED.classify(&prompt(&[piece])));
        for at in 1..piece.len() {
            let parts = [&piece[..at], &piece[at..]];
            let split = SHIPPED.classify(&prompt(&parts));
            assert!(rank(&split) >= whole, "{parts:?}: {:?}", split.findings);
        }
    }
}
