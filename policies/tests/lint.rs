//! What `lint` finds unwise, and which alternatives no test takes.

use jiff::civil::date;
use sluice_policies::{PolicySet, Source};

/// The shipped site with one pack more.
fn set(rules: &str) -> PolicySet {
    let pack = format!(
        "policy: ward\nversion: \"1\"\nowner: o@example.org\napprovers: [a, b]\n\
         labels:\n  WARD: {{title: Ward, class: confidential}}\n\
         detectors:\n  sign: {{title: Sign, words: [zebrafinch], alone: likely}}\n  other: {{title: Other, words: [kookaburra], alone: likely}}\n\
         rules:\n{rules}"
    );
    let site = include_str!("../site.yaml").replacen("packs: [", "packs: [ward.yaml, ", 1);
    let source = |name: &str, text| Source { name: name.to_owned(), text };
    let sources = vec![source("site.yaml", site), source("ward.yaml", pack)];
    PolicySet::from_sources_untested(sources).unwrap_or_else(|error| panic!("{error}"))
}

fn rule(id: &str, more: &str, when: &str) -> String {
    format!(
        "  - id: {id}\n    title: A rule\n{more}    when: {when}\n    then: {{label: WARD, because: so}}\n    tests:\n\
         \x20     - {{say: \"zebrafinch kookaburra\", expect: match}}\n      - {{say: nothing, expect: no_match}}\n"
    )
}

/// What is said of the rules of the pack on a day.
fn unwise(rules: &[String]) -> Vec<String> {
    let found = set(&rules.concat()).lint(date(2026, 12, 1));
    found.into_iter().filter(|d| d.file == "ward.yaml").map(|d| d.message).collect()
}

#[test]
fn a_rule_without_effect_is_named_with_the_reason() {
    let wide = rule("W-1", "", "{found: sign}");
    let narrow = "{all_of: [{found: sign}, {found: other}]}";
    for (rules, expected) in [
        (vec![rule("W-2", "", narrow)], None),
        (
            vec![wide.clone(), rule("W-2", "", narrow)],
            Some("rule \"W-2\" is shadowed: whatever matches it matches \"W-1\""),
        ),
        (vec![wide.clone(), rule("W-2", "", "{found: other}")], None),
        (vec![wide.clone(), rule("W-2", "    floor: true\n", narrow)], None),
        (
            vec![
                rule("W-1", "    effective: {until: \"2027-01-01\"}\n", "{found: sign}"),
                rule("W-2", "", narrow),
            ],
            None,
        ),
        (vec![wide.clone(), rule("W-2", "", "{found: sign}")], Some("rule \"W-2\" is shadowed")),
        (
            vec![rule("W-1", "", "{found: sign, at_least: very_likely}")],
            Some(
                "rule \"W-1\" can never match: it asks for very likely of sign, which is likely at best",
            ),
        ),
        (
            vec![rule("W-1", "    effective: {from: \"2027-01-01\"}\n", "{found: sign}")],
            Some("rule \"W-1\" does nothing before 2027-01-01"),
        ),
        (
            vec![rule("W-1", "    mode: shadow\n", "{found: sign}")],
            Some("rule \"W-1\" is a shadow"),
        ),
    ] {
        let found = unwise(&rules);
        match expected {
            None => assert_eq!(found, Vec::<String>::new(), "{}", rules.concat()),
            Some(start) => {
                assert!(
                    found.len() == 1 && found[0].starts_with(start),
                    "{found:?}\n{}",
                    rules.concat()
                );
            }
        }
    }
}

#[test]
fn an_alternative_that_no_case_takes_is_named() {
    let any =
        "{any_of: [{found: sign}, {all_of: [{found: other}, {any_of: [{tag: a}, {tag: b}]}]}]}";
    let report = set(&rule("W-1", "", any)).run_tests();
    let open: Vec<_> =
        report.branches_uncovered.iter().filter(|branch| branch.rule == "W-1").collect();
    let words: Vec<&str> = open.iter().map(|branch| branch.words.as_str()).collect();
    assert_eq!(words.len(), 3, "{words:?}");
    assert!(words[0].starts_with("(other found"), "{words:?}");
    assert_eq!(words[1..], ["the request is tagged a", "the request is tagged b"]);
    assert_eq!(report.branches_covered + report.branches_uncovered.len(), report.branches_total);
}
