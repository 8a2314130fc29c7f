//! Markings and questions, and what cannot be read.

use super::*;

#[test]
fn markings_mark_and_questions_ask() {
    check(
        "privilege_marking",
        Likely,
        &[
            "PRIVILEGED & CONFIDENTIAL\nour exposure",
            "This memo is attorney work product.",
            "Without prejudice and privileged",
        ],
        &["What is attorney work product?", "privileged container"],
    );
    check(
        "trade_secret_marking",
        Likely,
        &["TRADE SECRET - step 3", "Strictly confidential: our margins"],
        &["What is a trade secret?", "Is the formula still a trade secret?"],
    );
    check(
        "privilege_context",
        Likely,
        &["Our lawyer recommends a settlement"],
        &["A lawyer is a jurist"],
    );
    check(
        "trade_secret_context",
        Likely,
        &["our unannounced acquisition of Halden"],
        &["a recipe for lentil soup"],
    );
}

#[test]
fn undecodable_content_is_reported() {
    let noise: Vec<u8> =
        (0..1200u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let blob = base64(&noise);
    let found = scan(&format!("decrypt {blob}"));
    assert_eq!(
        found.unscanned.iter().map(|u| u.kind).collect::<Vec<_>>(),
        [ContentKind::EncryptedFile]
    );
    let hex: String = noise.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(scan(&hex).unscanned.len(), 1);
    assert!(scan("decode aGVsbG8gd29ybGQgdGhpcyBpcyBmaW5l").unscanned.is_empty());
}
