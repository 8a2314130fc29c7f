//! Table tests of every detector: what it finds, what it must not find, and how it is disguised.
//! A file for each family; here what they share.

use std::collections::BTreeMap;

use super::{DetectorSpec, Scan, Scanner, shipped_detectors};
use crate::evidence::Likelihood::{self, Likely, Possible, VeryLikely};
use crate::prompt::{ContentKind, Prompt, Role, Text};

mod cards;
mod health;
mod persons;
mod scans;
mod secrets;
mod texts;

/// The shipped detectors, compiled once for all tests.
fn scanner() -> &'static Scanner {
    static SCANNER: std::sync::OnceLock<Scanner> = std::sync::OnceLock::new();
    SCANNER.get_or_init(|| {
        let mut specs = Vec::new();
        for (name, yaml) in shipped_detectors() {
            let file: BTreeMap<String, BTreeMap<String, DetectorSpec>> =
                serde_saphyr::from_str(yaml).unwrap_or_else(|e| panic!("{name}: {e}"));
            let detectors = file.into_values().next().expect("a detector file has one key");
            specs.extend(detectors.into_iter().map(|(id, spec)| DetectorSpec { id, ..spec }));
        }
        Scanner::new(specs).unwrap_or_else(|e| panic!("{e:?}"))
    })
}

fn scan(text: &str) -> Scan {
    scanner().scan(&Prompt::from_user_text(text))
}

pub(super) fn best(text: &str, detector: &str) -> Option<Likelihood> {
    scan(text).findings.iter().filter(|f| f.detector == detector).map(|f| f.likelihood).max()
}

/// Every text of `found` is at least that likely, every text of `not` is less.
fn check(detector: &str, least: Likelihood, found: &[&str], not: &[&str]) {
    let missed = found.iter().filter(|text| best(text, detector) < Some(least));
    let mut wrong: Vec<String> = missed
        .map(|text| format!("{detector} misses {text:?}: {:?}", scan(text).findings))
        .collect();
    let alarms = not.iter().filter(|text| best(text, detector) >= Some(least));
    wrong.extend(alarms.map(|text| format!("{detector} fires on {text:?}")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn base64(data: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let letter = |v: u32| LETTERS[(v & 63) as usize] as char;
    data.chunks(3)
        .flat_map(|c| {
            let v = c.iter().fold(0, |v, b| v << 8 | u32::from(*b)) << (8 * (3 - c.len()));
            [letter(v >> 18), letter(v >> 12), letter(v >> 6), letter(v)]
        })
        .collect()
}
