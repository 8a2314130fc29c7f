//! What holds for every detector: specs, templates, defects, repetition, splits over parts.

use super::*;
use crate::{Facts, Mode, PolicySet, Route, Source, Unscanned, UpstreamFacts};

#[test]
fn specs_that_cannot_be_compiled_say_why() {
    let broken = |spec: DetectorSpec| {
        Scanner::new(vec![spec]).err().map(|e| (e[0].field, e[0].message.clone()))
    };
    let spec = |pattern: &str| DetectorSpec {
        id: "x".into(),
        pattern: Some(pattern.into()),
        ..DetectorSpec::default()
    };
    assert_eq!(broken(spec("a*")).map(|e| e.1), Some("the pattern matches the empty text".into()));
    assert_eq!(broken(spec("(")).map(|e| e.0), Some("pattern"));
    assert_eq!(broken(DetectorSpec::builtin("nonsense")).map(|e| e.0), Some("builtin"));
    assert_eq!(broken(DetectorSpec::default()).map(|e| e.0), Some("detectors"));
}

#[test]
fn templates_of_officers_match_with_any_separator() {
    let spec = DetectorSpec {
        id: "hospital_mrn".into(),
        looks_like: Some("SM-9999999".into()),
        alone: Some(Likely),
        near_words: vec!["chart".into()],
        ..DetectorSpec::default()
    };
    let scanner = Scanner::new(vec![spec]).unwrap();
    let find = |text: &str| {
        scanner.scan(&Prompt::from_user_text(text)).findings.first().map(|f| f.likelihood)
    };
    assert_eq!(find("SM-0048213"), Some(Likely));
    assert_eq!(find("sm 0048213"), Some(Likely));
    assert_eq!(find("chart SM-0048213"), Some(VeryLikely));
    assert_eq!(find("SM-004821"), None);
    assert_eq!(find("XSM-00482133"), None);
}

/// A detector with a defect.
struct Panics;

impl crate::detector::reading::Detector for Panics {
    fn find(
        &self,
        _: &crate::detector::reading::Reading<'_>,
        _: &mut Vec<crate::detector::reading::Candidate>,
    ) {
        panic!("a defect in a detector");
    }
}

/// Puts the defect in the place of the first detector.
fn spoil(scanner: &mut Scanner) {
    scanner.compiled.detectors[0].kind = crate::detector::compile::Kind::Text(Box::new(Panics));
}

#[test]
fn a_detector_that_panics_is_named_and_the_others_go_on() {
    let specs = vec![DetectorSpec::builtin("jwt"), DetectorSpec::builtin("email")];
    let mut scanner = Scanner::new(specs).unwrap();
    spoil(&mut scanner);
    let found = scanner.scan(&Prompt::from_user_text("anya.petrova@gmail.com"));
    assert_eq!(found.failed, ["jwt"]);
    assert_eq!(found.findings.len(), 1);
}

/// What cannot be read is answered by its kind, what was not read by its reason, each for itself.
#[test]
fn what_was_not_read_goes_where_the_site_says_for_its_reason() {
    let shipped = include_str!("../../../site.yaml");
    let decide = |answer: &str, is_spoilt: bool, prompt: &Prompt| {
        let name = answer.split(':').next().unwrap();
        let line = shipped.lines().find(|line| line.trim().starts_with(name)).unwrap();
        let indent = &line[..line.len() - line.trim_start().len()];
        let text = shipped.replace(line, &format!("{indent}{answer}"));
        let site = Source { name: "site.yaml".to_owned(), text };
        let mut set = PolicySet::from_sources_untested(vec![site]).unwrap();
        if is_spoilt {
            spoil(&mut set.scanner);
        }
        let cloud = UpstreamFacts::server("cloud", "https", "cloud.invalid", 443);
        let upstreams = vec![UpstreamFacts::edge("edge"), cloud];
        let facts = Facts {
            mode: Mode::Trial,
            ..Facts::ordinary(jiff::civil::date(2026, 12, 1), upstreams)
        };
        set.decide(&set.classify(prompt), &facts).route
    };
    let plain = Prompt::from_user_text("Name three rivers");
    let large = Prompt::from_user_text("x".repeat(crate::detector::VIEW_BYTES_MAX + 1));
    let referring = {
        let place = "messages[0].content[1]".to_owned();
        let reference = Unscanned { kind: ContentKind::FileReference, place };
        Prompt { unscanned: vec![reference], ..plain.clone() }
    };
    let as_shipped = "unlabelled: internal";
    for (answer, is_spoilt, prompt, expected) in [
        (as_shipped, false, &plain, Route::Cloud),
        (as_shipped, true, &plain, Route::Edge),
        (as_shipped, false, &large, Route::Edge),
        (as_shipped, false, &referring, Route::Refuse),
        ("detector_failed: refuse", true, &plain, Route::Refuse),
        ("detector_failed: refuse", false, &large, Route::Edge),
        ("detector_failed: internal", false, &referring, Route::Refuse),
        ("scan_incomplete: refuse", false, &large, Route::Refuse),
        ("scan_incomplete: refuse", true, &plain, Route::Edge),
        ("file_reference: private", false, &referring, Route::Edge),
        ("file_reference: internal", false, &referring, Route::Cloud),
        ("file_reference: internal", true, &referring, Route::Edge),
    ] {
        let route = decide(answer, is_spoilt, prompt);
        assert_eq!(route, expected, "{answer}, spoilt: {is_spoilt}");
    }
}

#[test]
fn hostile_repetition_stays_linear() {
    let units = [
        "1 ",
        "ab ",
        "%ff",
        "eyJ",
        "glpat-",
        "password=",
        "<",
        "\"1\" + ",
        "=FF",
        "&#",
        "one ",
        "@a",
        "A1 ",
        "é",
        "\\u00",
        "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWZnaGlq/+8\n",
        "12,34,56\n",
        "MRN ",
        "Patient Anna ",
    ];
    for unit in units {
        let text = unit.repeat(200_000 / unit.len());
        let found = scan(&text);
        assert!(found.failed.is_empty(), "{unit:?}: {:?}", found.failed);
    }
}

fn prompt_of(parts: &[&str]) -> Prompt {
    let texts = parts.iter().enumerate().map(|(i, part)| Text {
        place: format!("messages[{i}].content"),
        message: Some(i),
        role: Role::User,
        text: (*part).to_owned(),
    });
    Prompt { texts: texts.collect(), ..Prompt::default() }
}

#[test]
fn parts_of_one_value_come_together_over_roles() {
    let found = |parts: &[(Role, &str)]| {
        let mut prompt = prompt_of(&parts.iter().map(|(_, text)| *text).collect::<Vec<_>>());
        prompt.texts.iter_mut().zip(parts).for_each(|(text, (role, _))| text.role = *role);
        let scan = scanner().scan(&prompt);
        let sure = scan.findings.into_iter().filter(|f| f.likelihood >= Likely);
        sure.map(|f| f.detector).collect::<Vec<_>>()
    };
    let calls = [
        (Role::Assistant, "{\"pan_first\":\"45398145\"}"),
        (Role::Assistant, "{\"pan_last\":\"38401916\"}"),
    ];
    assert!(found(&calls).contains(&"payment_card".to_owned()));
    let result =
        [(Role::Tool, "45398145"), (Role::Assistant, "And the rest?"), (Role::User, "38401916")];
    assert!(found(&result).contains(&"payment_card".to_owned()));
    let token = [
        (Role::User, "sk_live_S5OWUhRAzoIN"),
        (Role::Assistant, "What comes next?"),
        (Role::User, "eInildxfBHbX now join both"),
    ];
    assert!(found(&token).contains(&"api_key".to_owned()));
    let others =
        [(Role::Tool, "45398145"), (Role::Assistant, "And the rest?"), (Role::User, "38401917")];
    assert!(!found(&others).contains(&"payment_card".to_owned()));
}

#[test]
fn a_literal_hides_no_other_that_begins_or_ends_in_it() {
    let site = |id: &str, literal: &str| DetectorSpec {
        id: id.to_owned(),
        patterns: vec![r"ward-note \d+".to_owned()],
        literals: vec![literal.to_owned()],
        alone: Some(Likely),
        ..DetectorSpec::default()
    };
    let specs = vec![site("one", "ward"), site("two", "ward-note "), site("three", "note")];
    let scanner = Scanner::new(specs).unwrap();
    let scan = scanner.scan(&Prompt::from_user_text("see ward-note 77"));
    let found: Vec<&str> = scan.findings.iter().map(|f| f.detector.as_str()).collect();
    assert_eq!(found, ["one", "three", "two"]);
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    const WHOLE: [&str; 6] = [
        "please charge my card 4539 1488 0343 6467 today",
        "the ssn 536-22-8714 is hers",
        "transfer to DE75 5121 0800 1245 1261 99 now",
        "her MRN 0048213 is in the chart",
        "key AKIAQ3EGJ7ABCDXY5Z2K leaked",
        "write to anya.petrova@gmail.com soon",
    ];

    /// Values whose halves lie in fields of data.
    const VALUES: [(&str, &str); 4] = [
        ("payment_card", "4539814538401916"),
        ("us_ssn", "536228714"),
        ("iban", "DE37370400440719448103"),
        ("api_key", "ghp_aBcDeFgHiJkLmNoPqRsTuVwXyZ0123456789"),
    ];

    /// The parts as fields of one object, or as arguments of a call each.
    fn as_data(parts: &[&str], one_object: bool) -> Vec<String> {
        let field =
            |(i, part): (usize, &&str)| format!("\"ssn_{}\":\"{part}\"", ["a", "b", "c"][i]);
        let fields: Vec<String> = parts.iter().enumerate().map(field).collect();
        if one_object {
            return vec![format!("{{{}}}", fields.join(","))];
        }
        fields.iter().map(|field| format!("{{{field}}}")).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_value_cut_over_fields_or_calls_is_found(which in 0..VALUES.len(), one_object: bool, cuts in prop::collection::vec(2..14usize, 1..3)) {
            let (detector, value) = VALUES[which];
            let digit = |part: &str| part.len() >= 2 && part.bytes().any(|b| b.is_ascii_digit());
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(value.len() - 2)).collect();
            cuts.sort_unstable();
            let ends = cuts.iter().copied().chain([value.len()]);
            let parts: Vec<&str> = [0].into_iter().chain(cuts.iter().copied()).zip(ends).map(|(a, b)| &value[a..b]).collect();
            prop_assume!(parts.iter().all(|part| digit(part)));
            let texts = as_data(&parts, one_object);
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let found = scanner().scan(&prompt_of(&texts));
            prop_assert!(found.findings.iter().any(|f| f.detector == detector && f.likelihood >= Likely), "{parts:?}: {:?}", found.findings);
        }

        #[test]
        fn any_split_finds_what_the_whole_finds(which in 0..WHOLE.len(), mut cuts in prop::collection::vec(0..50usize, 0..4)) {
            let text = WHOLE[which];
            cuts.iter_mut().for_each(|cut| *cut = (*cut).min(text.len()));
            cuts.sort_unstable();
            let mut parts = Vec::new();
            let mut start = 0;
            for cut in cuts {
                parts.push(&text[start..cut]);
                start = cut;
            }
            parts.push(&text[start..]);
            let whole = scan(text);
            let split = scanner().scan(&prompt_of(&parts));
            for finding in whole.findings.iter().filter(|f| f.likelihood >= Likely && f.detector != "phone") {
                prop_assert!(split.findings.iter().any(|f| f.detector == finding.detector && f.likelihood >= Likely), "{} lost in {parts:?}: {:?}", finding.detector, split.findings);
            }
        }

        #[test]
        fn places_lie_inside_their_texts(parts in prop::collection::vec("\\PC{0,60}", 1..4)) {
            let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
            let prompt = prompt_of(&parts);
            let found = scanner().scan(&prompt);
            prop_assert!(found.failed.is_empty(), "{:?}", found.failed);
            for finding in found.findings {
                prop_assert!(prompt.texts[finding.text].text.get(finding.span.clone()).is_some(), "{finding:?}");
            }
        }

        #[test]
        fn disguised_text_never_breaks_the_scan(text in "([0-9]{1,4}|[ -./]|%[0-9a-f]{2}|&#[0-9]{2};|\\\\u00[0-9a-f]{2}|=[0-9A-F]{2}|[\u{200b}４é١]|card |ssn |[A-Za-z0-9+/]{12,20}=?|\"|<b>|</b>|Street|é|Dr\\. |von |CVV |password: |Patient |患者|様|born |é 12|@|://|eyJ|Ünter den Linden|MRN |rue |\t|\n|,|Иванов ){0,24}") {
            let found = scan(&text);
            prop_assert!(found.failed.is_empty(), "{:?}", found.failed);
        }
    }
}
