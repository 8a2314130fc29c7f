//! The shipped site, packs and detector files: they load, their tests pass, and a second YAML parser
//! reads the same documents.

use std::path::Path;

use sluice_policies::{
    FileSchema, PolicySet, Prompt, Role, Source, Text, shipped_pack_names, shipped_sources,
};

#[test]
fn every_test_of_the_shipped_files_passes() {
    let set = PolicySet::shipped().unwrap_or_else(|error| panic!("{error}"));
    let report = set.run_tests();
    for failure in &report.failed {
        let rule = failure.rule.as_deref().unwrap_or("site");
        println!("{}:{}: {rule}: {}", failure.file, failure.line, failure.message);
    }
    assert!(report.failed.is_empty(), "{} of the shipped cases fail", report.failed.len());
    for gap in &report.closed_gaps {
        println!("{}:{}: {}", gap.file, gap.line, gap.message);
    }
    assert!(report.passed >= 400, "only {} cases", report.passed);
    assert_eq!(report.rules_uncovered, Vec::<String>::new());
    assert_eq!(report.branches_uncovered, []);
    println!("{} cases pass, {} known gaps", report.passed, report.known_gaps);
}

#[test]
fn every_shipped_rule_cites_its_law_and_has_both_kinds_of_tests() {
    let set = PolicySet::shipped().unwrap_or_else(|error| panic!("{error}"));
    let warnings: Vec<String> = set.warnings().iter().map(ToString::to_string).collect();
    assert_eq!(warnings, Vec::<String>::new());
    for rule in set.rules() {
        assert!(rule.citation.is_some(), "{} cites nothing", rule.id);
    }
}

#[test]
fn a_second_parser_reads_every_shipped_file() {
    for source in shipped_sources() {
        let value: serde_yaml::Value = serde_yaml::from_str(&source.text)
            .unwrap_or_else(|error| panic!("{}: {error}", source.name));
        assert!(value.is_mapping(), "{} is a map", source.name);
    }
}

#[test]
fn what_is_compiled_in_is_what_stands_in_the_folder() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("packs");
    let entries = std::fs::read_dir(&folder).expect("the packs folder exists");
    let mut on_disk: Vec<String> = entries
        .map(|entry| entry.expect("a readable folder").path())
        .filter_map(|path| path.file_stem().map(|stem| stem.to_string_lossy().into_owned()))
        .collect();
    on_disk.sort();
    let shipped: Vec<String> = shipped_pack_names().into_iter().map(str::to_owned).collect();
    assert_eq!(on_disk, shipped);
}

/// The shipped site's classes and answers hold for packs that are given without a site.
#[test]
fn a_pack_alone_is_loaded_under_the_shipped_site() {
    let text = r#"
policy: ward
version: "1.0.0"
owner: privacy@hospital.example
effective: {from: "2026-12-01", until: never}
requires: "sluice >= 1.0"
labels:
  WARD: {class: regulated, never_cloud: true, redact: never, keep_on_disk: never}
detectors:
  ward_number: {looks_like: "W-9999", alone: likely, near_words: [bed, ward]}
rules:
  - id: WARD-001
    title: A ward number with health words
    when:
      all_of:
        - any_of: [{found: ward_number}, {found: us_ssn}, {found: person_name}, {found: birth_date}]
          at_least: likely
        - {words_from: health_terms, count: 1}
      near: conversation
    then: {label: WARD, because: "Health data of a patient"}
    tests:
      - {say: "Bed W-4711 started insulin", expect: match}
      - {say_each: ["Bed W-4711", "She has sepsis"], expect: match}
      - {say: "What are early signs of sepsis?", expect: no_match}
"#;
    let source = Source { name: "ward.yaml".to_owned(), text: text.to_owned() };
    let set = PolicySet::from_sources(vec![source]).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(set.packs().len(), 1);
    assert_eq!(set.class_names().last(), Some("regulated"));
}

/// Set `SLUICE_WRITE_SCHEMA=1` to write the schemas anew after a change of the language.
#[test]
fn the_schemas_for_editors_are_those_of_the_types() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("schema");
    for schema in FileSchema::ALL {
        let path = folder.join(schema.file_name());
        if std::env::var_os("SLUICE_WRITE_SCHEMA").is_some() {
            std::fs::write(&path, schema.json()).expect("the schema folder is writable");
        }
        let on_disk = std::fs::read_to_string(&path).expect("the schema is in the folder");
        assert_eq!(on_disk, schema.json(), "{} is out of date", schema.file_name());
    }
}

/// A conversation is remembered for what made it private, not for all that some detector noticed.
#[test]
fn only_what_a_never_cloud_rule_asks_for_tells_of_it() {
    let set = PolicySet::shipped().unwrap_or_else(|error| panic!("{error}"));
    let turns = ["Reply to anna.kowalska@poczta.pl, please", "Charge card 4111 1111 1111 1111"];
    let text = |(index, turn): (usize, &&str)| Text {
        place: format!("messages[{index}].content"),
        message: Some(index),
        role: Role::User,
        text: (*turn).to_owned(),
    };
    let prompt =
        Prompt { texts: turns.iter().enumerate().map(text).collect(), ..Prompt::default() };
    let classification = set.classify(&prompt);
    assert!(classification.never_cloud);
    assert!(
        classification.findings.iter().any(|finding| finding.text == 0),
        "the address is found"
    );
    let telling = set.never_cloud_findings(&classification);
    assert!(!telling.is_empty() && telling.iter().all(|finding| finding.text == 1), "{telling:?}");
}

/// What approvers sign is what they can read: each rule and each class has a sentence of its own.
#[test]
fn every_rule_and_class_is_read_out_in_a_numbered_sentence() {
    let set = PolicySet::shipped().unwrap_or_else(|error| panic!("{error}"));
    let read = set.read();
    let numbered: Vec<&str> = read
        .lines()
        .filter_map(|line| line.trim_start().split_once(". "))
        .filter(|(number, _)| number.parse::<usize>().is_ok())
        .map(|(_, sentence)| sentence)
        .collect();
    let sentences_of = |start: &str| numbered.iter().filter(|s| s.starts_with(start)).count();
    for rule in set.rules() {
        assert_eq!(sentences_of(&format!("{} (", rule.id)), 1, "{}\n{read}", rule.id);
    }
    for class in set.class_names() {
        assert!(sentences_of(&format!("{class} ")) >= 1, "{class}\n{read}");
    }
    assert!(numbered.iter().all(|sentence| sentence.ends_with('.')), "{read}");
}
