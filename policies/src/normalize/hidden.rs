//! Shows what is written in characters that are not drawn, or drawn from right to left.
//!
//! Tag characters repeat ASCII invisibly, so that a whole sentence hides behind a smile; a direction
//! override shows digits in the reverse of their order. Folding deletes both kinds of characters,
//! which is right where they only split a word; these views are for the other case.
//! Source: Unicode 16, section 23.9 (tag characters); UAX 9, section 2.2 (directional overrides).

use super::{Budget, Rewrite, Rewritten};

/// Overrides end here, if at all.
const POPS: [char; 4] = ['\u{202c}', '\u{2069}', '\u{202d}', '\n'];

/// The first byte of every tag character, which few others share.
const TAG_LEAD: u8 = 0xf3;

/// The view with tag characters as the ASCII characters that they stand for.
pub(super) fn tags(text: &str, budget: &mut Budget) -> Option<Rewritten> {
    if !text.as_bytes().contains(&TAG_LEAD) {
        return None;
    }
    let mut rewrite = Rewrite::default();
    for (at, c) in text.char_indices() {
        if let Some(shown) = tag(c) {
            rewrite.replace(text, at..at + c.len_utf8(), shown.encode_utf8(&mut [0; 4]));
        }
    }
    finish(rewrite, text, budget)
}

fn tag(c: char) -> Option<char> {
    let ascii = (c as u32).checked_sub(0xe0000)?;
    (0x20..0x7f).contains(&ascii).then(|| char::from(ascii as u8))
}

/// The view in which what stands behind a right-to-left override is in the order of reading.
pub(super) fn reversed(text: &str, budget: &mut Budget) -> Option<Rewritten> {
    let mut rewrite = Rewrite::default();
    let mut at = 0;
    while let Some(offset) = text[at..].find('\u{202e}') {
        let start = at + offset + '\u{202e}'.len_utf8();
        let end = text[start..].find(POPS).map_or(text.len(), |end| start + end);
        let turned: String = text[start..end].chars().rev().collect();
        rewrite.replace(text, start..end, &turned);
        at = end;
    }
    finish(rewrite, text, budget)
}

fn finish(rewrite: Rewrite, text: &str, budget: &mut Budget) -> Option<Rewritten> {
    let shown = rewrite.finish(text)?;
    budget.take(shown.text.len()).then_some(shown)
}
