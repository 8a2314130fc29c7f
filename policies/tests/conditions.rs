//! What each condition of the language means, case by case, with detectors made of single words.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use proptest::prelude::*;
use sluice_policies::{
    ContentKind, PolicySet, Prompt, Role, Source, Text, Unscanned, shipped_sources,
};

/// Word detectors that no shipped list knows.
const HEAD: &str = r#"policy: words
version: "1"
owner: tests
detectors:
  alpha: {words: [alphaword], alone: likely}
  beta: {words: [betaword], alone: likely}
  gamma: {words: [gammaword], alone: likely}
  weak: {words: [weakword], alone: possible}
  sure: {words: [sureword], alone: very_likely}
groups:
  greek: [alpha, beta]
rules:
"#;

/// Name and condition of every rule under test.
const CONDITIONS: [(&str, &str); 22] = [
    ("found", "{found: alpha}"),
    ("group", "{found: greek}"),
    ("count", "{found: alpha, count: 3}"),
    ("count-group", "{found: greek, count: 2}"),
    ("weak", "{found: weak}"),
    ("weak-possible", "{found: weak, at_least: possible}"),
    ("sure-only", "{found: [alpha, sure], at_least: very_likely}"),
    ("inherited", "{any_of: [{found: weak}, {found: weak}], at_least: possible}"),
    ("words-any-likelihood", "{words_from: weak}"),
    ("sentence", "{all_of: [{found: alpha}, {found: beta}], near: sentence}"),
    ("characters", "{all_of: [{found: alpha}, {found: beta}], near: 40 characters}"),
    ("message", "{all_of: [{found: alpha}, {found: beta}], near: message}"),
    ("request", "{all_of: [{found: alpha}, {found: beta}], near: request}"),
    ("unless", "{all_of: [{found: alpha}], near: sentence, unless: {found: gamma}}"),
    ("unless-near", "{all_of: [{found: alpha}], near: 40 characters, unless: {found: gamma}}"),
    ("tag", "{tag: [red, blue]}"),
    ("header", "{header: X-Kind, is: [one, two]}"),
    ("header-there", "{header: x-kind}"),
    ("path", "{path: /v1/embed*}"),
    ("endpoint", "{endpoint: [embeddings, completions]}"),
    ("model", "{model: [gpt-*, tiny]}"),
    ("content", "{any_of: [{content: [image, audio]}, {caller: robot}]}"),
];

static SET: LazyLock<PolicySet> = LazyLock::new(|| {
    let rule = |(id, when): &(&str, &str)| {
        format!("  - {{id: {id}, title: {id}, when: {when}, then: {{class: internal}}}}\n")
    };
    let text = format!("{HEAD}{}", CONDITIONS.iter().map(rule).collect::<String>());
    PolicySet::from_sources(vec![Source { name: "words.yaml".to_owned(), text }])
        .unwrap_or_else(|error| panic!("{error}"))
});

fn messages(turns: &[&str]) -> Prompt {
    let text = |(index, turn): (usize, &&str)| Text {
        place: format!("messages[{index}].content"),
        message: Some(index),
        role: Role::User,
        text: (*turn).to_owned(),
    };
    Prompt { texts: turns.iter().enumerate().map(text).collect(), ..Prompt::default() }
}

fn matches(rule: &str, prompt: &Prompt) -> bool {
    assert!(SET.rule(rule).is_some(), "{rule} is a rule");
    SET.classify(prompt).rules.iter().any(|id| id == rule)
}

fn check(cases: &[(&str, &[&str], bool)]) {
    for (rule, turns, expected) in cases {
        assert_eq!(matches(rule, &messages(turns)), *expected, "{rule} over {turns:?}");
    }
}

#[test]
fn findings_are_counted_and_weighed() {
    check(&[
        ("found", &["an alphaword here"], true),
        ("found", &["ALPHAWORD"], true),
        ("found", &["an alphawordy thing"], false),
        ("found", &["nothing"], false),
        ("group", &["a betaword"], true),
        ("group", &["a gammaword"], false),
        ("count", &["alphaword alphaword"], false),
        ("count", &["alphaword alphaword", "alphaword"], true),
        ("count-group", &["alphaword and betaword"], true),
        ("weak", &["weakword"], false),
        ("weak-possible", &["weakword"], true),
        ("sure-only", &["alphaword"], false),
        ("sure-only", &["sureword"], true),
        ("inherited", &["weakword"], true),
        ("words-any-likelihood", &["weakword"], true),
    ]);
}

#[test]
fn nearness_is_measured_in_sentences_characters_and_messages() {
    check(&[
        ("sentence", &["The alphaword and the betaword."], true),
        ("sentence", &["The alphaword. The betaword."], false),
        ("sentence", &["Dr. alphaword saw the betaword."], true),
        ("sentence", &["alphaword", "betaword"], false),
        ("characters", &["betaword then alphaword"], true),
        ("characters", &["alphaword. And so on. betaword"], true),
        ("characters", &["alphaword, some forty characters further on, betaword"], false),
        ("characters", &["ends in alphaword", "betaword begins"], true),
        ("message", &["alphaword. A long way. Betaword"], true),
        ("message", &["alphaword", "betaword"], false),
        ("request", &["alphaword", "in between", "betaword"], true),
        ("request", &["alphaword"], false),
    ]);
}

#[test]
fn a_sentence_may_go_on_in_the_next_part_of_a_message() {
    let parts = |parts: [&str; 2]| {
        let mut prompt = messages(&parts);
        prompt.texts.iter_mut().for_each(|text| text.message = Some(0));
        prompt
    };
    assert!(matches("sentence", &parts(["The alphaword and the beta", "word."])));
    assert!(matches("sentence", &parts(["The alphaword and ", "Betaword."])));
    assert!(!matches("sentence", &parts(["The alphaword.", "the betaword."])));
    assert!(!matches("sentence", &parts(["The alphaword", "Betaword"])));
}

#[test]
fn characters_are_not_bytes() {
    let far = format!("alphaword {} betaword", "é".repeat(20));
    assert!(matches("characters", &messages(&[&far])), "20 letters of two bytes each lie between");
}

#[test]
fn unless_acts_within_its_window_on_both_sides() {
    check(&[
        ("unless", &["an alphaword"], true),
        ("unless", &["a gammaword and an alphaword"], false),
        ("unless", &["A gammaword. An alphaword."], true),
        ("unless-near", &["gammaword alphaword"], false),
        ("unless-near", &["alphaword gammaword"], false),
        ("unless-near", &["alphaword, some forty characters further on, gammaword"], true),
        ("unless-near", &["gammaword, some forty characters further on, an alphaword"], true),
    ]);
}

#[test]
fn the_request_is_known_by_tags_headers_and_the_rest() {
    let with = |change: &dyn Fn(&mut Prompt)| {
        let mut prompt = messages(&["nothing"]);
        change(&mut prompt);
        prompt
    };
    let header = |value: &str| {
        let headers = BTreeMap::from([("x-kind".to_owned(), value.to_owned())]);
        with(&|prompt| prompt.context.headers = headers.clone())
    };
    let image = Unscanned { kind: ContentKind::Image, place: "messages[0].content".to_owned() };
    let cases: [(&str, Prompt, bool); 16] = [
        ("tag", with(&|p| p.context.tags = ["blue".to_owned()].into()), true),
        ("tag", with(&|p| p.context.tags = ["RED".to_owned()].into()), true),
        ("tag", with(&|p| p.context.key_tags = ["red".to_owned()].into()), false),
        ("tag", with(&|_| ()), false),
        ("header", header("two"), true),
        ("header", header(" One "), true),
        ("header", header("three"), false),
        ("header-there", header("three"), true),
        ("header-there", with(&|_| ()), false),
        ("path", with(&|p| p.context.path = "/v1/embeddings".into()), true),
        ("path", with(&|p| p.context.path = "/v1/chat".into()), false),
        ("endpoint", with(&|p| p.context.path = "/v1/embeddings".into()), true),
        ("endpoint", with(&|p| p.context.path = "/v1/responses".into()), false),
        ("model", with(&|p| p.context.model = "GPT-9".into()), true),
        ("content", with(&|p| p.unscanned.push(image.clone())), true),
        ("content", with(&|p| p.context.caller = Some("robot".into())), true),
    ];
    for (index, (rule, prompt, expected)) in cases.iter().enumerate() {
        assert_eq!(matches(rule, prompt), *expected, "case {index}: {rule}");
    }
}

const WORDS: [&str; 7] =
    ["alphaword", "betaword", "gammaword", "weakword", "sureword", "nothing", "stop."];

fn some_text() -> impl Strategy<Value = Vec<&'static str>> {
    proptest::collection::vec(proptest::sample::select(WORDS.to_vec()), 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// More text never makes a rule without `unless` stop matching.
    #[test]
    fn more_text_never_unmatches(before in some_text(), added in some_text()) {
        let less = SET.classify(&messages(&[&before.join(" ")])).rules;
        let more = SET.classify(&messages(&[&before.join(" "), &added.join(" ")])).rules;
        for rule in less.iter().filter(|rule| !rule.starts_with("unless")) {
            prop_assert!(more.contains(rule), "{rule} over {before:?} and {added:?}");
        }
    }

    /// Splitting a text over messages hides nothing from rules that look at the whole request.
    #[test]
    fn splitting_hides_nothing_from_the_request(text in some_text(), at in 0_usize..12) {
        let at = at.min(text.len());
        let whole = SET.classify(&messages(&[&text.join(" ")])).rules;
        let parts = [text[..at].join(" "), text[at..].join(" ")];
        let split = SET.classify(&messages(&[&parts[0], &parts[1]])).rules;
        for rule in ["found", "group", "count", "count-group", "request", "characters"] {
            let has = |rules: &[String]| rules.iter().any(|id| id == rule);
            prop_assert!(!has(&whole) || has(&split), "{rule} over {parts:?}");
        }
    }

    /// Whatever stands in a file, loading it ends with a set or an error.
    #[test]
    fn broken_files_are_errors_and_nothing_worse(cut in 0_usize..700, junk in "[ -~\n\t]{0,12}") {
        let mut text = HEAD.to_owned() + "  - {id: a, title: a, when: {tag: a}, then: {class: internal}}\n";
        let cut = cut.min(text.len());
        text.insert_str(cut, &junk);
        let source = Source { name: "junk.yaml".to_owned(), text };
        if let Err(error) = PolicySet::from_sources(vec![source]) {
            prop_assert!(error.diagnostics.iter().all(|d| !d.message.is_empty()), "{error}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(96)
    })]

    /// A shipped file with a stretch replaced loads, or its error points into it.
    #[test]
    fn damaged_shipped_files_are_errors_and_nothing_worse(
        which in 0_usize..9, at in 0.0_f64..1.0, length in 0_usize..40, junk in "[ -~\n\t]{0,12}"
    ) {
        let mut source = shipped_sources().swap_remove(which);
        let boundary = |text: &str, index: usize| {
            (index.min(text.len())..=text.len()).find(|&i| text.is_char_boundary(i)).unwrap_or(0)
        };
        let start = boundary(&source.text, (at * source.text.len() as f64) as usize);
        let end = boundary(&source.text, start + length);
        source.text.replace_range(start..end, &junk);
        if let Err(error) = PolicySet::from_sources_untested(vec![source]) {
            prop_assert!(error.diagnostics.iter().all(|d| d.line == 0 || d.column >= 1), "{error}");
        }
    }
}
