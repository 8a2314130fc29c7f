//! Each case edits one place of a small set and expects the sentences that tell it.

use super::*;
use crate::yaml::Source;

const SITE: &str = r#"site: clinic
version: "1.0.0"
owner: compliance@hospital.example
approvers: [cpo, ciso]
packs: [rules.yaml]
classes:
  - {name: public, goes_to: anywhere}
  - {name: internal, goes_to: anywhere}
  - {name: confidential, goes_to: [{zone: [edge, on_prem]}, {zone: cloud, zero_retention: true}]}
  - {name: regulated, never_cloud: true, goes_to: {zone: [edge, on_prem]}}
vouches:
  - {upstream: eu, address: "https://eu.cloud.example", zone: cloud, region: eu, baa: true,
     quality: general, contract: "DPA 1", owner: cpo, expires: "2027-06-30"}
must_answer:
  unlabelled: internal
  cannot_scan: {image: private, audio: private, file_reference: refuse, encrypted_file: private,
    remote_url: refuse, token_ids: private, hosted_tool: refuse, provider_stored_state: refuse,
    unknown_field: strip_and_continue}
  scan_incomplete: private
  detector_failed: private
  edge_unavailable: queue 30s
  edge_too_slow: queue 2m
  edge_inadequate: refuse
  audit_down: private
  taint_unknown: private
  caller_unknown: internal
  reply_finding: taint
latency:
  default: interactive
  classes:
    interactive: {first_token: 5s, prefers: [cloud, edge]}
exceptions:
  - {id: EX-1, rule: R-PAIR, when: {caller: [statistics, research]}, owner: cpo, reason: "totals",
     expires: "2026-12-15"}
"#;

const PACK: &str = r#"policy: rules
version: "1.0.0"
owner: privacy@hospital.example
labels:
  PHI: {class: regulated, never_cloud: true, goes_to: {zone: [edge, on_prem]}}
  STAFF: {class: confidential}
detectors:
  ward_number: {looks_like: "SM-9999999"}
  project: {words: [saffron, cedar], near_words: [budget]}
  sample: {words: [specimen]}
groups:
  patient_number: [ward_number, us_ssn]
rules:
  - {id: R-FLOOR, title: "Patient numbers", floor: true, when: {found: patient_number},
     then: {label: PHI}}
  - {id: R-PAIR, title: "Two together",
     when: {all_of: [{found: project}, {found: email}], near: 300 characters,
            unless: {found: sample}},
     then: {label: STAFF}}
  - {id: R-ANY, title: "One of two", effective: {from: "2026-12-01"},
     when: {any_of: [{tag: staff}, {caller: hr*}]}, then: {class: confidential}}
  - {id: R-SHADOW, title: "Not yet", mode: shadow, when: {tag: later}, then: {label: PHI}}
"#;

fn set(site: &str, pack: &str) -> PolicySet {
    let source = |name: &str, text: &str| Source { name: name.to_owned(), text: text.to_owned() };
    let sources = vec![source("site.yaml", site), source("rules.yaml", pack)];
    PolicySet::from_sources_untested(sources).unwrap_or_else(|error| panic!("{error}"))
}

/// `loosens! rule …` for a change that is never allowed.
fn told(changes: &[Change]) -> Vec<String> {
    let mark = |c: &Change| if c.never_allowed { "!" } else { "" };
    changes.iter().map(|c| format!("{}{} {c}", c.direction.in_words(), mark(c))).collect()
}

/// Replaces `from` by `to` in the site or the pack and compares, there and back.
fn check(cases: &[(&str, &str, &[&str], &[&str])]) {
    let old = set(SITE, PACK);
    for (from, to, there, back) in cases {
        let count = SITE.matches(from).count() + PACK.matches(from).count();
        assert_eq!(count, 1, "{from:?} must name one place");
        let new = set(&SITE.replace(from, to), &PACK.replace(from, to));
        assert_eq!(told(&new.changes_since(&old)), *there, "{from:?} becomes {to:?}");
        assert_eq!(told(&old.changes_since(&new)), *back, "{to:?} becomes {from:?}");
    }
}

#[test]
fn equal_sets_have_no_changes_whatever_their_order() {
    let old = set(SITE, PACK);
    let (head, rules) = PACK.split_once("rules:\n").unwrap();
    let (first, rest) = rules.split_at(rules.find("  - {id: R-PAIR").unwrap());
    let moved = set(SITE, &format!("{head}rules:\n{rest}{first}"));
    assert_eq!(told(&moved.changes_since(&old)), Vec::<String>::new());
}

#[test]
fn rules_tell_what_they_lost() {
    check(&[
        (
            "mode: shadow, when: {tag: later}",
            "mode: enforce, when: {tag: later}",
            &["tightens rule R-SHADOW leaves shadow and acts"],
            &["loosens rule R-SHADOW is moved to shadow and acts no longer"],
        ),
        (
            "from: \"2026-12-01\"",
            "from: \"2027-03-01\"",
            &["loosens rule R-ANY acts from 2027-03-01 instead of 2026-12-01"],
            &["tightens rule R-ANY acts from 2026-12-01 instead of 2027-03-01"],
        ),
        (
            "{from: \"2026-12-01\"}",
            "{from: \"2026-12-01\", until: \"2027-01-31\"}",
            &["loosens rule R-ANY ends on 2027-01-31"],
            &["tightens rule R-ANY acts without a last day"],
        ),
        (
            "then: {class: confidential}",
            "then: {class: regulated}",
            &["tightens rule R-ANY raises to regulated instead of confidential"],
            &["loosens rule R-ANY raises to confidential instead of regulated"],
        ),
        (
            "when: {tag: later}, then: {label: PHI}}",
            "when: {tag: later}, then: {label: STAFF}}",
            &[
                "neutral rule R-SHADOW raises to confidential instead of regulated",
                "neutral rule R-SHADOW gives the label PHI no longer",
                "neutral rule R-SHADOW gives the label STAFF",
            ],
            &[
                "neutral rule R-SHADOW raises to regulated instead of confidential",
                "neutral rule R-SHADOW gives the label STAFF no longer",
                "neutral rule R-SHADOW gives the label PHI",
            ],
        ),
        (
            "title: \"One of two\"",
            "title: \"Either\"",
            &["neutral rule R-ANY has another title, reason"],
            &["neutral rule R-ANY has another title, reason"],
        ),
    ]);
}

#[test]
fn a_removed_rule_loosens_and_a_removed_floor_is_never_allowed() {
    let whole = "  - {id: R-FLOOR, title: \"Patient numbers\", floor: true, when: {found: \
                 patient_number},\n     then: {label: PHI}}\n";
    check(&[(
        whole,
        "",
        &["loosens! rule R-FLOOR is removed (a floor: never allowed)"],
        &["tightens rule R-FLOOR is new"],
    )]);
    check(&[(
        "floor: true, ",
        "",
        &["loosens rule R-FLOOR is no floor any more"],
        &["tightens rule R-FLOOR becomes a floor"],
    )]);
}

#[test]
fn conditions_loosen_unless_they_are_provably_wider() {
    check(&[
        (
            "[{tag: staff}, {caller: hr*}]",
            "[{tag: staff}, {caller: hr*}, {tag: payroll}]",
            &[
                "tightens rule R-ANY holds more often: if (the request is tagged staff or the caller \
               is hr* or the request is tagged payroll)",
            ],
            &[
                "loosens rule R-ANY holds less often: if (the request is tagged staff or the caller \
               is hr*)",
            ],
        ),
        (
            "when: {any_of: [{tag: staff}, {caller: hr*}]}",
            "when: {any_of: [{caller: hr*}, {tag: staff}]}",
            &["neutral rule R-ANY says the same in other words: if (the caller is hr* or the \
               request is tagged staff)"],
            &["neutral rule R-ANY says the same in other words: if (the request is tagged staff \
               or the caller is hr*)"],
        ),
        (
            "{tag: staff}",
            "{tag: people}",
            &["loosens rule R-ANY may hold less often: it was \"if (the request is tagged staff \
               or the caller is hr*)\", it is \"if (the request is tagged people or the caller is \
               hr*)\""],
            &["loosens rule R-ANY may hold less often: it was \"if (the request is tagged people \
               or the caller is hr*)\", it is \"if (the request is tagged staff or the caller is \
               hr*)\""],
        ),
    ]);
}

#[test]
fn groups_and_detectors_count_for_the_rules_that_name_them() {
    check(&[
        (
            "[ward_number, us_ssn]",
            "[ward_number]",
            &["loosens! group patient_number loses us_ssn; it counts for R-FLOOR (a floor: never \
               allowed)"],
            &["tightens group patient_number gains us_ssn; it counts for R-FLOOR"],
        ),
        (
            "words: [specimen]",
            "words: [specimen, dummy]",
            // It stands under `unless`: finding more of it makes the rule hold less often.
            &["loosens detector sample gains words \"dummy\""],
            &["tightens detector sample loses words \"dummy\""],
        ),
        (
            "words: [saffron, cedar]",
            "words: [saffron, cedar, basil]",
            &["tightens detector project gains words \"basil\""],
            &["loosens detector project loses words \"basil\""],
        ),
        (
            "{looks_like: \"SM-9999999\"}",
            "{looks_like: \"SM-999999\"}",
            &["loosens! detector ward_number has another looks_like (a floor: never allowed)"],
            &["loosens! detector ward_number has another looks_like (a floor: never allowed)"],
        ),
    ]);
}

#[test]
fn exceptions_vouches_and_answers_loosen_when_they_give_more() {
    check(&[
        (
            "expires: \"2026-12-15\"",
            "expires: \"2027-12-15\"",
            &["loosens exception EX-1 ends on 2027-12-15 instead of 2026-12-15"],
            &["tightens exception EX-1 ends on 2026-12-15 instead of 2027-12-15"],
        ),
        (
            "{caller: [statistics, research]}",
            "{caller: statistics}",
            &["tightens exception EX-1 counts if the caller is statistics"],
            &["loosens exception EX-1 counts if the caller is statistics or research"],
        ),
        (
            "zone: cloud, region: eu, baa: true,",
            "zone: cloud, region: eu, zero_retention: true,",
            &[
                "loosens vouch for eu speaks of zero retention",
                "tightens vouch for eu no longer speaks of a business associate agreement",
            ],
            &[
                "loosens vouch for eu speaks of a business associate agreement",
                "tightens vouch for eu no longer speaks of zero retention",
            ],
        ),
        (
            "audit_down: private",
            "audit_down: refuse",
            &["tightens answer to audit_down is refuse instead of regulated"],
            &["loosens answer to audit_down is regulated instead of refuse"],
        ),
        (
            "unknown_field: strip_and_continue",
            "unknown_field: public",
            &["tightens answer to cannot_scan (unknown_field) is public instead of \
               strip_and_continue"],
            &["loosens answer to cannot_scan (unknown_field) is strip_and_continue instead of \
               public"],
        ),
        (
            "edge_too_slow: queue 2m",
            "edge_too_slow: answer_anyway",
            &["loosens answer to edge_too_slow is answer_anyway instead of queue 2 min"],
            &["tightens answer to edge_too_slow is queue 2 min instead of answer_anyway"],
        ),
    ]);
}

#[test]
fn classes_labels_and_the_site_loosen_when_they_demand_less() {
    check(&[
        (
            "zone: cloud, zero_retention: true}",
            "zone: cloud}",
            &["loosens class confidential goes to: edge or on_prem; or cloud; it was: edge or \
               on_prem; or cloud with zero retention"],
            &["tightens class confidential goes to: edge or on_prem; or cloud with zero \
               retention; it was: edge or on_prem; or cloud"],
        ),
        (
            "STAFF: {class: confidential}",
            "STAFF: {class: confidential, never_cloud: true, keep_on_disk: allowed}",
            &[
                "loosens label STAFF may be kept on disk",
                "tightens label STAFF never goes to a cloud",
            ],
            &[
                "loosens label STAFF may go to a cloud",
                "tightens label STAFF may not be kept on disk",
            ],
        ),
        (
            "approvers: [cpo, ciso]\n",
            "approvers: [cpo, ciso]\nallow_demo_model: true\n",
            &["loosens site clinic lets the demonstration model answer never-cloud text in \
               production"],
            &["tightens site clinic no longer lets the demonstration model answer never-cloud \
               text in production"],
        ),
        (
            "approvers: [cpo, ciso]\n",
            "approvers: [cpo, ciso]\nredaction: {restore_in_tools: [crm]}\n",
            &["loosens site clinic gives tool crm the values that placeholders stand for"],
            &["tightens site clinic gives tool crm placeholders only"],
        ),
        (
            "approvers: [cpo, ciso]",
            "approvers: [cpo]",
            &["loosens site clinic is approved by cpo instead of cpo, ciso"],
            &["tightens site clinic is approved by cpo, ciso instead of cpo"],
        ),
        (
            "interactive: {first_token: 5s,",
            "interactive: {first_token: 9s,",
            &["neutral latency class interactive asks for another speed, prefers other zones or \
               has other names"],
            &["neutral latency class interactive asks for another speed, prefers other zones or \
               has other names"],
        ),
    ]);
}

#[test]
fn other_detectors_in_the_binary_count_as_a_loosening() {
    assert_eq!(PolicySet::built_in_change(PolicySet::built_in_revision()), None);
    let change = PolicySet::built_in_change("0000000000000000").expect("another revision differs");
    assert!(change.loosens() && !change.never_allowed);
    assert!(change.to_string().starts_with("built-in detectors were 0000000000000000 and are "));
}
