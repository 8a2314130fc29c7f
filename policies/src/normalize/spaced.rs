//! Closes up words that are spaced letter by letter: `p a s s w o r d`, `S.S.N.`
//!
//! Digits need no such view: every number detector looks over separators anyway.

use std::ops::Range;

use super::{Budget, Rewrite, Rewritten};

/// Letters in a row that make a spaced word; fewer are initials.
pub(super) const LETTERS_MIN: usize = 5;

/// The view in which spaced words are closed up, if there are any.
pub(super) fn words(text: &str, budget: &mut Budget) -> Option<Rewritten> {
    let mut rewrite = Rewrite::default();
    let mut at = 0;
    while at < text.len() {
        let letters = spaced_letters(text, at);
        if letters.len() >= LETTERS_MIN {
            for pair in letters.windows(2) {
                rewrite.replace(text, pair[0].end..pair[1].start, "");
            }
        }
        at = letters.last().map_or(at, |last| last.end);
        at += text[at..].chars().next().map_or(1, char::len_utf8);
    }
    let closed = rewrite.finish(text)?;
    budget.take(closed.text.len()).then_some(closed)
}

/// Single letters from `start` on that stand one separator apart.
fn spaced_letters(text: &str, start: usize) -> Vec<Range<usize>> {
    let mut letters = Vec::new();
    let mut at = start;
    let mut before = text[..start].chars().next_back();
    loop {
        let mut rest = text[at..].chars();
        let (letter, separator) = (rest.next(), rest.next());
        let Some(letter) = letter.filter(|c| c.is_alphabetic()) else { break };
        let touches = [before, separator].into_iter().flatten().any(char::is_alphanumeric);
        if touches {
            break;
        }
        letters.push(at..at + letter.len_utf8());
        let Some(separator) = separator.filter(|c| " .-_*".contains(*c)) else { break };
        at += letter.len_utf8() + separator.len_utf8();
        before = Some(separator);
    }
    letters
}
