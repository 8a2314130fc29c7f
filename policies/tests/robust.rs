//! No text makes a detector fail: a failure is never a leak, but it keeps ordinary text here.

#![forbid(unsafe_code)]

use std::sync::LazyLock;

use proptest::prelude::*;
use sluice_policies::{PolicySet, Prompt};

static SHIPPED: LazyLock<PolicySet> =
    LazyLock::new(|| PolicySet::shipped().unwrap_or_else(|error| panic!("{error}")));

/// Pieces that detectors look at closely, and characters of one to four bytes to put between them.
const PIECES: &[&str] = &[
    "4539 5787 6362 1486",
    "536-22-1841",
    "MRN 00482913",
    "DE89370400440532013000",
    "12/03/1964",
    "privileged and confidential",
    "trade secret",
    "password: hunter2",
    "AKIAIOSFODNN7EXAMPLE",
    "Dr. Müller",
    "John Smith",
    "221B Baker Street",
    "Hauptstraße 5",
    "a.b@c.de",
    "+49 170 1234567",
    "aGVsbG8gd29ybGQgaGVsbG8=",
    "%34%31",
    "&#52;",
    "\\u0034",
    "four one one",
    "{\"ssn\": \"",
    "\"}",
    "| a | b |",
    "-----BEGIN PRIVATE KEY-----",
    "diabetes",
    "?",
    ".",
    "\n",
    " ",
    "-",
    "“",
    "”",
    "。",
    "？",
    "，",
    "—",
    "é",
    "ß",
    "中文",
    "日本",
    "٣",
    "४",
    "４",
    "\u{200b}",
    "\u{202e}",
    "😀",
    "𝟜",
    "ﬁ",
    "İ",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_detector_fails_on_any_text(
        parts in prop::collection::vec(
            prop_oneof![
                4 => prop::sample::select(PIECES).prop_map(str::to_owned),
                1 => any::<char>().prop_map(String::from),
                1 => "\\PC{0,12}",
            ],
            0..24,
        ),
        apart in any::<bool>(),
    ) {
        let text = parts.join(if apart { " " } else { "" });
        let found = SHIPPED.classify(&Prompt::from_user_text(text));
        let reason = found.base_reason.unwrap_or_default();
        prop_assert!(!reason.contains("failed"), "{}", reason);
    }
}

/// Pieces that introduce, begin or join something, so that a detector looks at what follows each.
const REPEATED: &[&str] = &[
    "secret_",
    "secret ",
    "password-",
    "AnnaHuber",
    "Anna ",
    "patient ",
    "a@b.",
    "key_",
    "1 ",
    "x1x",
    "12:",
    "user ",
    "eyJ",
    "rue ",
    "card ",
    "<a",
    "\"a\":",
    "Иванов",
    "患者",
    "one two ",
    "a,1\n",
];

/// A text of nothing but one piece costs no more than other texts of its length: what looks behind a
/// word looks so far and no farther. Quadratic work would take minutes here, linear takes a moment.
#[test]
fn no_repeated_piece_costs_more_than_its_length() {
    for piece in REPEATED {
        let text = piece.repeat(100_000 / piece.len());
        #[expect(clippy::disallowed_methods, reason = "the test is about time")]
        let began = std::time::Instant::now();
        let found = SHIPPED.classify(&Prompt::from_user_text(text));
        assert!(!found.detector_failed && !found.scan_incomplete, "{piece:?}");
        assert!(began.elapsed().as_secs() < 20, "{piece:?} took {:?}", began.elapsed());
    }
}
