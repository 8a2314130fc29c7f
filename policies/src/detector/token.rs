//! Cuts codes of letters mixed with digits out of a text: tax codes, IBANs, vehicle numbers.
//!
//! People group such codes with spaces, dots and dashes, so a code is one chunk or several chunks
//! with one separator between; schemes see it compact and in upper case.

use std::ops::Range;

use super::reading::{Code, Reading};

/// Chunks that one code may have: an IBAN in fours.
const CHUNKS_MAX: usize = 9;
/// The same if every chunk is one character: an IBAN spelled out.
const SINGLES_MAX: usize = 34;
/// Words that a chunk may stand away from a digit.
const NEAR_WORDS: usize = 3;
/// Letters that a chunk without digits may have: a bank's code, a prefix.
const LETTERS_MAX: usize = 6;

/// Calls `found` with every code of at most `chars_max` characters that has a digit and a letter.
pub(crate) fn for_each_code(
    reading: &Reading<'_>,
    chars_max: usize,
    mut found: impl FnMut(Code<'_>),
) {
    if !reading.digits.any {
        return;
    }
    let chunks = chunks(reading);
    let mut compact = [0u8; 64];
    for first in 0..chunks.len() {
        let mut len = 0;
        let spelled =
            chunks[first].len() == 1 && chunks.get(first + 1).is_some_and(|c| c.len() == 1);
        let most = if spelled { SINGLES_MAX } else { CHUNKS_MAX };
        for last in first..chunks.len().min(first + most) {
            if last > first && !joins(reading.text, &chunks[last - 1], &chunks[last]) {
                break;
            }
            let bytes = reading.text[chunks[last].clone()].as_bytes();
            if len + bytes.len() > chars_max {
                break;
            }
            compact[len..len + bytes.len()].copy_from_slice(bytes);
            len += bytes.len();
            compact[..len].make_ascii_uppercase();
            let code = &compact[..len];
            if code.iter().any(u8::is_ascii_digit) && code.iter().any(u8::is_ascii_alphabetic) {
                let range = chunks[first].start..chunks[last].end;
                found(Code { range, compact: code });
            }
        }
    }
}

/// Runs of letters and digits that hold a digit, or few letters beside such a run.
fn chunks(reading: &Reading<'_>) -> Vec<Range<usize>> {
    let bytes = reading.text.as_bytes();
    let words = &reading.words.words;
    let mut chunks: Vec<(Range<usize>, bool)> = Vec::new();
    let mut numbers = reading.words.numbers.iter().map(|index| *index as usize).peekable();
    let mut last_digit = None;
    let mut i = 0;
    while i < words.len() {
        let range = words[i].start as usize..words[i].end as usize;
        let digit = numbers.next_if_eq(&i).is_some();
        if digit {
            last_digit = Some(i);
        }
        // Far from any digit nothing can be a code; three words are looked back and ahead.
        let close = digit || last_digit.is_some_and(|d| i - d <= NEAR_WORDS);
        match chunks.last_mut() {
            Some((last, has_digit)) if last.end == range.start => {
                last.end = range.end;
                *has_digit |= digit;
            }
            _ => match numbers.peek().map(|next| next.saturating_sub(NEAR_WORDS)) {
                // All words from here on to the next digit are near it.
                Some(first) if first <= i => chunks.push((range, digit)),
                _ if close => chunks.push((range, digit)),
                Some(first) => {
                    i = first;
                    continue;
                }
                None => break,
            },
        }
        i += 1;
    }
    let digit = |i: usize| chunks.get(i).is_some_and(|(_, digit)| *digit);
    let near_digit = |i: usize, len: usize| {
        digit(i) || i > 0 && digit(i - 1) || digit(i + 1) || len == 1 && digit(i + 2)
    };
    let keep = |i: usize, r: &Range<usize>| {
        near_digit(i, r.len())
            && (digit(i) || r.len() <= LETTERS_MAX)
            && bytes[r.clone()].is_ascii()
    };
    chunks
        .iter()
        .enumerate()
        .filter(|(i, (r, _))| keep(*i, r))
        .map(|(_, (r, _))| r.clone())
        .collect()
}

fn joins(text: &str, before: &Range<usize>, after: &Range<usize>) -> bool {
    let between = &text[before.end..after.start];
    matches!(
        between,
        " " | "-"
            | "."
            | "/"
            | " - "
            | " / "
            | " | "
            | "|"
            | "_"
            | "\n"
            | "\n> "
            | "\r\n"
            | "\t"
            | "  "
            | ", "
            | ":"
            | ": "
            | ""
    )
}
