//! `sluice key`: what a script gets, and what is never shown again.

use std::path::Path;

use serde_json::Value;

use super::{sluice, stderr, stdout};

fn key(verb: &str, args: &[&str], file: &Path) -> std::process::Output {
    let file = file.to_str().expect("a plain path");
    let args: Vec<&str> =
        ["key", verb].iter().chain(args).chain(&["--keys", file]).copied().collect();
    sluice(&args, "")
}

#[test]
fn a_key_is_printed_once_listed_without_its_secret_and_revoked_by_id() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.yaml");
    let flags = ["ward", "--tenant", "north", "--app", "notes", "--tag", "phi", "--tag", "night"];
    let created = key("create", &flags, &file);
    assert_eq!(created.status.code(), Some(0), "{}", stderr(&created));
    let secret = stdout(&created).trim();
    assert!(secret.starts_with("sk-sluice-") && secret.lines().count() == 1);
    assert!(!std::fs::read_to_string(&file).unwrap().contains(secret));

    let again = key("create", &["ward"], &file);
    assert_eq!((again.status.code(), stdout(&again)), (Some(2), ""), "{}", stderr(&again));

    let json = key("create", &["scanner", "--certificate", "dns:ward.example", "--json"], &file);
    let document: Value = serde_json::from_str(stdout(&json)).unwrap();
    assert_eq!(document, serde_json::json!({"id": "scanner", "key": null}));

    assert_eq!(key("revoke", &["ward"], &file).status.code(), Some(0));
    assert_eq!(key("revoke", &["ward"], &file).status.code(), Some(2));
    assert_eq!(key("revoke", &["nobody"], &file).status.code(), Some(2));

    let listed: Value = serde_json::from_str(stdout(&key("list", &["--json"], &file))).unwrap();
    assert_eq!(listed[0]["id"], "ward");
    assert_eq!(listed[0]["state"], "revoked");
    assert_eq!(listed[0]["tags"], serde_json::json!(["night", "phi"]));
    assert_eq!(listed[1]["certificate"], "dns:ward.example");
    let table = key("list", &[], &file);
    let sha256 = std::fs::read_to_string(&file).unwrap();
    let sha256 = sha256.lines().find_map(|line| line.trim().strip_prefix("sha256: ")).unwrap();
    for shown in [stdout(&table), &listed.to_string()] {
        assert!(shown.contains("ward") && !shown.contains(secret) && !shown.contains(sha256));
    }
}

#[test]
fn a_key_needs_a_file_to_stand_in() {
    let output = sluice(&["key", "create", "ward"], "");
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("--config"), "{}", stderr(&output));
}
