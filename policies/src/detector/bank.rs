//! Bank accounts: IBAN, ABA routing numbers, and account numbers that a word introduces.
//!
//! Sources: ISO 13616 (IBAN lengths by country, registry of 2025), ABA check digit 3-7-1.

use super::checksum::{mod97, weighted};
use super::compile::{CodeScheme, Kind, NumberScheme};
use super::reading::{Code, Number, Own};

/// The built-in detectors of this family.
pub(crate) fn builtin(name: &str) -> Option<Kind> {
    Some(match name {
        "iban" => CodeScheme { lengths: 15..35, judge: iban }.into(),
        "aba_routing" => NumberScheme { lengths: &[9], judge: aba }.into(),
        "bank_account" => {
            NumberScheme { lengths: &[6, 7, 8, 9, 10, 11, 12, 13, 14, 16, 17], judge: account }
                .into()
        }
        _ => return None,
    })
}

/// Country, its length, and mod 97 over the rotated characters.
fn iban(code: &Code<'_>) -> Option<Own> {
    let c = code.compact;
    let country = std::str::from_utf8(&c[..2]).ok()?;
    let (_, len) = LENGTHS.iter().find(|(known, _)| *known == country)?;
    let digits = c[2].is_ascii_digit() && c[3].is_ascii_digit();
    if !digits || c.len() != *len || !mod97(c[4..].iter().chain(&c[..4]).copied()) {
        return None;
    }
    let is_sample = SAMPLES.iter().any(|s| s.as_bytes() == c);
    Some(if is_sample { Own::NeedsContext } else { Own::AsSpecified })
}

/// First two digits of a Federal Reserve district, weights 3 7 1.
fn aba(number: &Number<'_>) -> Option<Own> {
    let d = number.digits;
    let district = d[0] * 10 + d[1];
    let sum = weighted(d, &[3, 7, 1, 3, 7, 1, 3, 7, 1]);
    let valid = matches!(district, 1..=12 | 21..=32 | 61..=72 | 80) && sum.is_multiple_of(10);
    (valid && number.window.groups.len() == 1).then_some(Own::NeedsContext)
}

fn account(number: &Number<'_>) -> Option<Own> {
    let range = number.window.range();
    let separators = number.window.separators(number.text).all(|s| matches!(s, " " | "-"));
    // `$3219.47` is an amount.
    let amount = number.text[..range.start].ends_with(['$', '€', '£', '.', ','])
        || number.text[range.end..].starts_with([',', '.'])
            && number.text[range.end..].len() > 1
            && number.text.as_bytes()[range.end + 1].is_ascii_digit();
    (separators
        && !amount
        && number.window.groups.len() <= 4
        && !number.digits.iter().all(|d| *d == number.digits[0]))
    .then_some(Own::NeedsContext)
}

/// Documentation's favourites.
const SAMPLES: [&str; 2] = ["DE89370400440532013000", "GB82WEST12345698765432"];

#[rustfmt::skip]
const LENGTHS: &[(&str, usize)] = &[
    ("AD", 24), ("AE", 23), ("AL", 28), ("AT", 20), ("AZ", 28), ("BA", 20), ("BE", 16), ("BG", 22), ("BH", 22), ("BI", 27), ("BR", 29), ("BY", 28),
    ("CH", 21), ("CR", 22), ("CY", 28), ("CZ", 24), ("DE", 22), ("DJ", 27), ("DK", 18), ("DO", 28), ("EE", 20), ("EG", 29), ("ES", 24), ("FI", 18),
    ("FK", 18), ("FO", 18), ("FR", 27), ("GB", 22), ("GE", 22), ("GI", 23), ("GL", 18), ("GR", 27), ("GT", 28), ("HN", 28), ("HR", 21), ("HU", 28),
    ("IE", 22), ("IL", 23), ("IQ", 23), ("IS", 26), ("IT", 27), ("JO", 30), ("KW", 30), ("KZ", 20), ("LB", 28), ("LC", 32), ("LI", 21), ("LT", 20),
    ("LU", 20), ("LV", 21), ("LY", 25), ("MC", 27), ("MD", 24), ("ME", 22), ("MK", 19), ("MN", 20), ("MR", 27), ("MT", 31), ("MU", 30), ("NI", 28),
    ("NL", 18), ("NO", 15), ("OM", 23), ("PK", 24), ("PL", 28), ("PS", 29), ("PT", 25), ("QA", 29), ("RO", 24), ("RS", 22), ("RU", 33), ("SA", 24),
    ("SC", 31), ("SD", 18), ("SE", 24), ("SI", 19), ("SK", 24), ("SM", 27), ("SO", 23), ("ST", 25), ("SV", 28), ("TL", 23), ("TN", 24), ("TR", 26),
    ("UA", 29), ("VA", 22), ("VG", 24), ("XK", 20), ("YE", 30),
];
