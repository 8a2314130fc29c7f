//! Reads a value that is cut over a numbered list: `1. 4539`, `2. 8145`, `3. 3840`, `4. 1916`.
//!
//! The item numbers are digits themselves and would stand between the parts; this view leaves them
//! out. Any list of at least three items that hold digits is read so; checksums decide.

use std::ops::Range;

use super::{Budget, Rewrite, Rewritten};

/// Items that make a list.
const ITEMS_MIN: usize = 3;
/// The longest item, with the line break before the next.
const ITEM_BYTES_MAX: usize = 40;

/// The view without item numbers, if there is such a list.
pub(super) fn items(text: &str, budget: &mut Budget) -> Option<Rewritten> {
    if !text.contains("3. ") && !text.contains("3) ") {
        return None;
    }
    let mut rewrite = Rewrite::default();
    let mut from = 0;
    while let Some(first) = item(text, 1, from..text.len()) {
        let mut marks = vec![first];
        while let Some(last) = marks.last() {
            let reach = last.end..text.len().min(last.end + ITEM_BYTES_MAX);
            let Some(next) = item(text, marks.len() + 1, reach) else { break };
            marks.push(next);
        }
        from = marks.last().map_or(text.len(), |last| last.end);
        if marks.len() >= ITEMS_MIN {
            marks.into_iter().for_each(|mark| rewrite.replace(text, mark, ""));
        }
    }
    let listed = rewrite.finish(text)?;
    budget.take(listed.text.len()).then_some(listed)
}

/// `2. ` with a digit in the word behind it.
fn item(text: &str, number: usize, within: Range<usize>) -> Option<Range<usize>> {
    let bytes = text.as_bytes();
    let figures = number.to_string();
    let is_mark = |at: &usize| {
        let end = at + figures.len();
        let free = *at == 0 || bytes[at - 1].is_ascii_whitespace();
        let word = || bytes[end + 2..].iter().take(24).take_while(|b| !b.is_ascii_whitespace());
        bytes[*at..].starts_with(figures.as_bytes())
            && matches!(bytes.get(end..end + 2), Some(b". " | b") "))
            && free
            && word().any(u8::is_ascii_digit)
    };
    let at = within.clone().find(is_mark)?;
    Some(at..at + figures.len() + 2)
}
