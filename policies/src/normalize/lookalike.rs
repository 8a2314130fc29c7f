//! Reads letters as the digits they look like: `4539 I488 O343 6467`.
//!
//! Only inside tokens that are digits otherwise and stand beside other digits; the detectors'
//! checksums decide whether the reading was right.

use super::{Budget, Rewrite, Rewritten};

/// The view in which such letters are digits, if there are any.
pub(super) fn digits(text: &str, budget: &mut Budget) -> Option<Rewritten> {
    let bytes = text.as_bytes();
    let mut rewrite = Rewrite::default();
    let mut at = 0;
    while at < bytes.len() {
        let end = at + bytes[at..].iter().take_while(|b| b.is_ascii_alphanumeric()).count();
        if is_disguised(&bytes[at..end]) && has_digits_beside(bytes, at, end) {
            for (i, byte) in
                bytes[at..end].iter().enumerate().filter(|(_, b)| b.is_ascii_alphabetic())
            {
                let digit = twin(*byte).expect("is_disguised let only twins through");
                rewrite.replace(text, at + i..at + i + 1, digit);
            }
        }
        at = end + 1;
    }
    let rewritten = rewrite.finish(text)?;
    budget.take(rewritten.text.len()).then_some(rewritten)
}

/// Digits and letters that look like digits: more of the former, or the four of a card's group.
fn is_disguised(token: &[u8]) -> bool {
    let digits = token.iter().filter(|b| b.is_ascii_digit()).count();
    let mostly_digits = digits >= 2 && token.len() - digits <= digits;
    (mostly_digits || digits >= 1 && token.len() == 4)
        && digits < token.len()
        && token.iter().all(|b| b.is_ascii_digit() || twin(*b).is_some())
}

fn has_digits_beside(bytes: &[u8], start: usize, end: usize) -> bool {
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
