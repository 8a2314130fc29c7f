//! `complaints.md` keeps its word: every test that it names is there, and runs.

use std::collections::BTreeSet;
use std::path::Path;

/// The rows of the list: what stands in the cells of each, but for the head of its table.
fn rows() -> Vec<Vec<&'static str>> {
    let rows = include_str!("../complaints.md").lines().filter(|line| line.starts_with('|'));
    let cells = rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect());
    let is_head = |row: &Vec<&str>| row[0] == "what goes wrong" || row[0].starts_with("---");
    cells.filter(|row| !is_head(row)).collect()
}

/// Whether a source has a test of this name that is not left out of ordinary runs.
fn is_test(source: &str, name: &str) -> bool {
    let lines: Vec<&str> = source.lines().map(str::trim).collect();
    lines.iter().enumerate().any(|(at, line)| {
        if line.starts_with(&format!("def {name}(")) {
            return name.starts_with("test_");
        }
        let is_named = line.contains(&format!("fn {name}("));
        let attributes = || lines[..at].iter().rev().take_while(|line| line.starts_with("#["));
        let has = |what: &str| attributes().any(|attribute| attribute.starts_with(what));
        is_named && (has("#[test]") || has("#[tokio::test")) && !has("#[ignore")
    })
}

/// What is wrong with the tests of a row: `path::name`, each in backquotes.
fn faults(tests: &str) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let named: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
    let fault = |test: &&str| {
        let Some((path, name)) = test.split_once("::") else {
            return Some(format!("{test}: expected a path and a test, path::name"));
        };
        match std::fs::read_to_string(root.join(path)) {
            Err(error) => Some(format!("{path}: {error}")),
            Ok(source) => (!is_test(&source, name)).then(|| format!("{path} has no test {name}")),
        }
    };
    match named.is_empty() {
        true => vec!["names no test".to_owned()],
        false => named.iter().filter_map(fault).collect(),
    }
}

#[test]
fn every_complaint_names_tests_that_are_there() {
    let mut wrong = Vec::new();
    let mut complaints = BTreeSet::new();
    for row in rows() {
        let [complaint, does, tests] = row[..] else {
            panic!("expected three cells, got {row:?}");
        };
        assert!(!does.is_empty() && complaints.insert(complaint), "{complaint}");
        wrong.extend(faults(tests).iter().map(|fault| format!("{complaint}: {fault}")));
    }
    assert!(complaints.len() > 30, "{} rows were read", complaints.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_test_that_is_not_there_is_missed() {
    let here = "tests/it/complaints.rs::";
    for (tests, expected) in [
        (format!("`{here}a_test_that_is_not_there_is_missed`"), ""),
        (
            format!("`{here}a_test_that_is_not_there_is_missed`, `{here}a_test_of_old`"),
            "a_test_of_old",
        ),
        (format!("`{here}faults`"), "has no test faults"),
        ("`tests/it/memory.rs::serves_in_a_process_of_its_own`".to_owned(), "has no test"),
        ("`tests/clients/sides.py::setUp`".to_owned(), "has no test setUp"),
        ("`tests/it/nowhere.rs::any`".to_owned(), "nowhere.rs"),
        ("`a_test_that_is_not_there_is_missed`".to_owned(), "expected a path"),
        ("by hand".to_owned(), "names no test"),
    ] {
        let found = faults(&tests).join("; ");
        assert!(
            found.contains(expected) && found.is_empty() == expected.is_empty(),
            "{tests}: {found}"
        );
    }
}
