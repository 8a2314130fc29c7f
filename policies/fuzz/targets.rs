//! What the fuzz targets do with an input; `cargo test` does the same with every file of `corpus/`.
//!
//! Each function panics where an invariant of the policy engine is broken, and on nothing else.

use std::io::Write;
use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use sluice_policies::{Classification, PolicySet, Prompt, Role, Source, Text};

static SHIPPED: LazyLock<PolicySet> =
    LazyLock::new(|| PolicySet::shipped().expect("the shipped policies are valid"));

/// Longest text that a target scans.
const TEXT_BYTES_MAX: usize = 16 << 10;

/// Loads a policy file: a site, a pack or a detector file, by the first byte. An error names a file and
/// a line that it has.
pub(crate) fn policy_files(input: &[u8]) {
    let Some((kind, text)) = input.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let name = ["site.yaml", "pack.yaml", "detectors.yaml"][usize::from(kind % 3)];
    let source = Source { name: name.to_owned(), text: text.to_owned() };
    let Err(error) = PolicySet::from_sources_untested(vec![source]) else { return };
    let lines = text.split(['\n', '\r']).count() as u32 + 1;
    for diagnostic in &error.diagnostics {
        let inside = diagnostic.file != name || diagnostic.line <= lines;
        assert!(inside, "{diagnostic:?} is outside of {lines} lines");
        assert!(!diagnostic.message.is_empty());
    }
}

/// Scans texts, the bytes 0xff between them: no detector fails, places lie inside, joining hides nothing.
pub(crate) fn texts(input: &[u8]) {
    let input = &input[..input.len().min(TEXT_BYTES_MAX)];
    let parts: Vec<String> = input
        .split(|byte| *byte == 0xff)
        .map(|part| String::from_utf8_lossy(part).into_owned())
        .collect();
    check(&prompt(&parts));
}

/// Scans a text in one encoding or several around each other, as the first byte says.
pub(crate) fn encoded(input: &[u8]) {
    let Some((kinds, rest)) = input.split_first() else { return };
    let mut bytes = rest[..rest.len().min(TEXT_BYTES_MAX / 4)].to_vec();
    for layer in [kinds & 7, kinds >> 3 & 7, kinds >> 6] {
        bytes = wrap(&bytes, layer);
    }
    bytes.truncate(TEXT_BYTES_MAX);
    check(&prompt(&[format!("see {} and more", String::from_utf8_lossy(&bytes))]));
}

fn wrap(bytes: &[u8], layer: u8) -> Vec<u8> {
    let each = |write: &dyn Fn(u8) -> String| -> Vec<u8> {
        bytes.iter().map(|byte| write(*byte)).collect::<String>().into_bytes()
    };
    match layer {
        1 => STANDARD.encode(bytes).into_bytes(),
        2 => URL_SAFE_NO_PAD.encode(bytes).into_bytes(),
        3 => each(&|byte| format!("{byte:02x}")),
        4 => each(&|byte| format!("%{byte:02X}")),
        5 => each(&|byte| format!("&#{byte};")),
        6 => each(&|byte| format!("={byte:02X}")),
        7 => {
            let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            packed.write_all(bytes).expect("writing to memory cannot fail");
            STANDARD.encode(packed.finish().expect("writing to memory cannot fail")).into_bytes()
        }
        _ => bytes.to_vec(),
    }
}

fn prompt(parts: &[String]) -> Prompt {
    let text = |(index, text): (usize, &String)| Text {
        place: format!("messages[{index}].content"),
        message: Some(index),
        role: Role::User,
        text: text.clone(),
    };
    Prompt { texts: parts.iter().enumerate().map(text).collect(), ..Prompt::default() }
}

fn check(prompt: &Prompt) {
    let seen = SHIPPED.classify(prompt);
    for finding in &seen.findings {
        let text = &prompt.texts[finding.text].text;
        assert!(text.get(finding.span.clone()).is_some(), "{finding:?} lies outside its text");
    }
    // A detector that fails raises the class by an answer of the site: its reason says so.
    let failed = seen.base_reason.as_deref().is_some_and(|why| why.contains("failed"));
    assert!(!failed, "a detector failed: {:?}", seen.base_reason);
    let rules =
        |seen: &Classification| (seen.class.clone(), seen.labels.clone(), seen.rules.clone());
    assert_eq!(rules(&seen), rules(&SHIPPED.classify(prompt)), "two scans differ");
}
