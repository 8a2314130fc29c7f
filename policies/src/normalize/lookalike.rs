//! Reads letters as the digits they look like: `4539 I488 O343 6467`.
//!
//! Only inside tokens that are digits otherwise and stand beside other digits; the detectors'
//! checksums decide whether the reading was right.

use std::ops::Range;

use super::{Budget, Rewrite, Rewritten};

/// The view in which such letters are digits, if there are any.
pub(super) fn digits(text: &str, budget: &mut Budget) -> Option<Rewritten> {
    let bytes = text.as_bytes();
    let mut rewrite = Rewrite::default();
    let mut at = 0;
    while at < bytes.len() {
        let end = at + bytes[at..].iter().take_while(|b| b.is_ascii_alphanumeric()).count();
        let token = &bytes[at..end];
        if is_disguised(token) && has_digits_beside(bytes, at, end) {
            replace_letters(&mut rewrite, text, at..end);
        } else if is_account(token) {
            replace_letters(&mut rewrite, text, at + COUNTRY_BYTES..end);
        } else if let Some(code) = tax_code(token) {
            rewrite.replace(text, at..end, &code);
        }
        at = end + 1;
    }
    let rewritten = rewrite.finish(text)?;
    budget.take(rewritten.text.len()).then_some(rewritten)
}

fn replace_letters(rewrite: &mut Rewrite, text: &str, range: Range<usize>) {
    for at in range {
        if let Some(digit) = twin(text.as_bytes()[at]) {
            rewrite.replace(text, at..at + 1, digit);
        }
    }
}

/// Letters that name the country of an account.
const COUNTRY_BYTES: usize = 2;
/// The shortest account number.
const ACCOUNT_BYTES_MIN: usize = 15;

/// `DE3737O400440719448103`: a country, and digits but for a few letters that look like digits.
fn is_account(token: &[u8]) -> bool {
    let Some((country, rest)) = token.split_at_checked(COUNTRY_BYTES) else { return false };
    let digits = rest.iter().filter(|b| b.is_ascii_digit()).count();
    token.len() >= ACCOUNT_BYTES_MIN
        && country.iter().all(u8::is_ascii_uppercase)
        && digits < rest.len()
        && digits * 4 >= rest.len() * 3
        && rest.iter().all(|b| b.is_ascii_digit() || twin(*b).is_some())
}

/// `MRTMTT9lD08F205J`: an Italian tax code with letters among its digits, or digits among its letters.
fn tax_code(token: &[u8]) -> Option<String> {
    const KINDS: &[u8; 16] = b"AAAAAA99A99A999A";
    if token.len() != KINDS.len() {
        return None;
    }
    let read = |(byte, kind): (&u8, &u8)| match (kind, byte.is_ascii_digit()) {
        (b'9', false) => twin(*byte).map(|digit| digit.as_bytes()[0]),
        (b'A', true) => letter_twin(*byte),
        _ => Some(*byte),
    };
    let code: Option<Vec<u8>> = token.iter().zip(KINDS).map(read).collect();
    let code = code.filter(|code| code != token)?;
    String::from_utf8(code).ok()
}

/// The letter that a digit looks like.
fn letter_twin(byte: u8) -> Option<u8> {
    Some(match byte {
        b'0' => b'O',
        b'1' => b'I',
        b'2' => b'Z',
        b'5' => b'S',
        b'8' => b'B',
        _ => return None,
    })
}

/// Digits and letters that look like digits: more of the former, the four of a card's group, or
/// the two check digits behind a dash.
fn is_disguised(token: &[u8]) -> bool {
    let digits = token.iter().filter(|b| b.is_ascii_digit()).count();
    let mostly_digits = digits >= 2 && token.len() - digits <= digits;
    (mostly_digits || digits >= 1 && matches!(token.len(), 2 | 4))
        && digits < token.len()
        && token.iter().all(|b| b.is_ascii_digit() || twin(*b).is_some())
}

fn has_digits_beside(bytes: &[u8], start: usize, end: usize) -> bool {
    if end - start == 2 {
        let touches = start > 0 && matches!(bytes[start - 1], b'-' | b'/' | b'.');
        return touches && bytes[..start - 1].iter().rev().take(3).all(u8::is_ascii_digit);
    }
    let long = end - start >= 9;
    let before = bytes[..start].iter().rev().take(3).any(u8::is_ascii_digit);
    let after = bytes[end..].iter().take(4).any(u8::is_ascii_digit);
    long || before || after
}

fn twin(byte: u8) -> Option<&'static str> {
    Some(match byte {
        b'O' | b'o' | b'Q' => "0",
        b'I' | b'l' | b'i' => "1",
        b'Z' => "2",
        b'S' | b's' => "5",
        b'B' => "8",
        _ => return None,
    })
}
