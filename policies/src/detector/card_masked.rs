//! Card numbers with hidden digits that hide too little.
//!
//! First six and last four digits may be shown (PCI DSS 3.4.1); a number of 16 must have at least
//! four digits removed, one of 15 at least five (FAQ 1091). Fewer can be tried out by the checksum,
//! and two truncations of one number that show different digits rebuild it.
//!
//! Not here: numbers that are truncated as the standard allows, which are no cardholder data.

use std::ops::Range;

use super::byte_set::ByteSet;
use super::card::Issuer;
use super::checksum::luhn;
use super::reading::{Candidate, Own};
use crate::evidence::Likelihood::Likely;

/// Truncated numbers of one text that are compared with each other.
const MASKED_MAX: usize = 64;
/// A longer token is no card number.
const TOKEN_BYTES_MAX: usize = 40;

/// A number of which some digits are hidden (`None`).
struct Masked {
    range: Range<usize>,
    digits: Vec<Option<u8>>,
}

/// Every number that its mask gives away, alone or together with another.
pub(super) fn give_away(text: &str, in_text: &ByteSet) -> Vec<Candidate> {
    let all = all(text, in_text);
    let is_open = |masked: &Masked| masked.has_digits_around() && masked.is_guessable();
    let alone = all.iter().filter(|masked| is_open(masked)).map(|masked| &masked.range);
    let rebuilt = all.iter().enumerate().filter_map(|(i, one)| {
        all[i + 1..].iter().find(|other| one.rebuilds(other)).map(|other| &other.range)
    });
    let candidate =
        |range: &Range<usize>| Candidate { range: range.clone(), own: Own::Exactly(Likely) };
    alone.chain(rebuilt).map(candidate).collect()
}

/// The truncated numbers of a text.
fn all(text: &str, in_text: &ByteSet) -> Vec<Masked> {
    let mut found = Vec::new();
    let marks = MARKS.into_iter().filter(|mark| in_text.has(*mark));
    marks.for_each(|mark| masked_with(text, char::from(mark), &mut found));
    found
}

/// The signs that hide digits.
const MARKS: [u8; 3] = [b'*', b'X', b'x'];

fn masked_with(text: &str, mark: char, found: &mut Vec<Masked>) {
    let bytes = text.as_bytes();
    let mut next = 0;
    for (at, _) in text.match_indices(mark) {
        let mark = bytes[at];
        if at < next || found.len() >= MASKED_MAX || bytes.get(at + 1) != Some(&mark) {
            continue;
        }
        let is_part = |b: u8| b.is_ascii_digit() || b == mark;
        let is_inside = |i: usize| {
            let gap = matches!(bytes[i], b' ' | b'-');
            is_part(bytes[i])
                || gap
                    && i > 0
                    && is_part(bytes[i - 1])
                    && bytes.get(i + 1).is_some_and(|b| is_part(*b))
        };
        let low = at.saturating_sub(TOKEN_BYTES_MAX);
        let start = (low..at).rev().take_while(|i| is_inside(*i)).last().unwrap_or(at);
        let high = bytes.len().min(at + TOKEN_BYTES_MAX);
        let end = (at..high).take_while(|i| is_inside(*i)).last().map_or(at, |i| i + 1);
        next = end;
        found.extend(Masked::read(text, start..end));
    }
}

impl Masked {
    fn read(text: &str, range: Range<usize>) -> Option<Masked> {
        let parts = text[range.clone()].bytes().filter(|b| !matches!(b, b' ' | b'-'));
        let digits: Vec<Option<u8>> = parts.map(|b| b.is_ascii_digit().then(|| b - b'0')).collect();
        let shown = digits.iter().flatten().count();
        let fits = matches!(digits.len(), 13..=19) && shown >= 6 && shown < digits.len();
        fits.then_some(Masked { range, digits })
    }

    /// `**4539…**` is emphasis and hides nothing.
    fn has_digits_around(&self) -> bool {
        self.digits.first().is_some_and(Option::is_some)
            && self.digits.last().is_some_and(Option::is_some)
    }

    /// Too few digits are hidden, and what is shown begins like a card number.
    fn is_guessable(&self) -> bool {
        let hidden = self.digits.iter().filter(|digit| digit.is_none()).count();
        let hidden_min = if self.digits.len() == 15 { 5 } else { 4 };
        hidden < hidden_min && self.starts_like_a_card()
    }

    fn starts_like_a_card(&self) -> bool {
        let filled: Vec<u8> = self.digits.iter().map(|digit| digit.unwrap_or(0)).collect();
        self.digits[..6].iter().all(Option::is_some) && Issuer::of(&filled).is_some()
    }

    /// Whether both show parts of one number, and together all or nearly all of it.
    fn rebuilds(&self, other: &Masked) -> bool {
        if self.digits.len() != other.digits.len() {
            return false;
        }
        let pairs = || self.digits.iter().zip(&other.digits);
        let agrees = pairs().all(|(a, b)| a.is_none() || b.is_none() || a == b);
        let shared = pairs().any(|(a, b)| a.is_some() && a == b);
        let together =
            Masked { range: self.range.clone(), digits: pairs().map(|(a, b)| a.or(*b)).collect() };
        let whole: Vec<u8> = together.digits.iter().copied().flatten().collect();
        let is_whole = whole.len() == self.digits.len();
        let adds = pairs().any(|(a, b)| a.is_none() && b.is_some());
        agrees
            && adds
            && together.starts_like_a_card()
            && if is_whole { luhn(&whole) } else { shared && together.is_guessable() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn give_away(text: &str) -> Vec<Candidate> {
        super::give_away(text, &ByteSet::of(text))
    }

    #[test]
    fn what_the_standard_lets_show_gives_nothing_away() {
        for text in
            ["453981******1916", "4539 81** **** 1916", "**** **** **** 1916", "**4539 8145 3840**"]
        {
            assert!(give_away(text).is_empty(), "{text}");
        }
        assert!(give_away("453981******1916 and 453981******1916").is_empty());
        assert!(give_away("453981******1916 and 522981******4457").is_empty());
    }

    #[test]
    fn what_shows_more_does() {
        for text in
            ["453981**38401916", "4539 81XX 3840 1916", "453981******1916 and ****81453840****"]
        {
            assert_eq!(give_away(text).len(), 1, "{text}");
        }
    }
}
