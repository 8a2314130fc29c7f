//! Removes what only looks: HTML tags, Markdown marks, quotes and plus signs between literals.
//!
//! `<b>536</b>-22-1234`, `| 4111 | 1111 |` and `"4111" + "1111"` are one value to the reader, and
//! so they are to the detectors.

use super::{Budget, Rewrite, Rewritten};

/// The longest tag that is removed; a `<` without its end is text.
const TAG_BYTES_MAX: usize = 400;

/// The view without markup, if there is any.
pub(super) fn strip(text: &str, budget: &mut Budget) -> Option<Rewritten> {
    let bytes = text.as_bytes();
    let mut rewrite = Rewrite::default();
    let mut at = 0;
    while let Some(offset) = bytes[at..].iter().position(|b| is_mark(*b)) {
        let start = at + offset;
        let end = match bytes[start] {
            b'<' => tag_end(text, start),
            b'"' | b'\'' | b'`' => joined_literals_end(bytes, start),
            b'*' | b'_' | b'~' => emphasis_end(bytes, start),
            _ => start,
        };
        if end > start {
            rewrite.replace(text, start..end, replacement(&text[start..end]));
        }
        at = end.max(start + 1);
    }
    let rewritten = rewrite.finish(text)?;
    budget.take(rewritten.text.len()).then_some(rewritten)
}

fn is_mark(byte: u8) -> bool {
    matches!(byte, b'<' | b'"' | b'\'' | b'`' | b'*' | b'_' | b'~')
}

/// Block elements separate words; inline elements and joined literals do not.
fn replacement(mark: &str) -> &'static str {
    const BLOCKS: [&str; 10] = ["br", "p", "div", "td", "tr", "th", "li", "h", "table", "ul"];
    let name = mark.trim_start_matches(['<', '/']).to_ascii_lowercase();
    let is_block = |block: &str| {
        name.strip_prefix(block)
            .is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_lowercase()))
    };
    if mark.starts_with('<') && BLOCKS.into_iter().any(is_block) { " " } else { "" }
}

/// End of the tag or comment that starts here, or `start` if this is no tag.
fn tag_end(text: &str, start: usize) -> usize {
    let bytes = text.as_bytes();
    let opens =
        bytes.get(start + 1).is_some_and(|b| b.is_ascii_alphabetic() || matches!(b, b'/' | b'!'));
    let window = &bytes[start..bytes.len().min(start + TAG_BYTES_MAX)];
    match window.iter().position(|b| *b == b'>') {
        Some(offset) if opens => start + offset + 1,
        _ => start,
    }
}

/// End of `" + "`, `", "`, `").append("` between two short literals of digits or token characters.
fn joined_literals_end(bytes: &[u8], start: usize) -> usize {
    let quote = bytes[start];
    let Some(offset) = bytes[start + 1..].iter().take(LITERAL_GAP_BYTES).position(|b| *b == quote)
    else {
        return start;
    };
    let end = start + 1 + offset;
    let between = &bytes[start + 1..end];
    let is_call =
        [&b").append("[..], b").concat(", b").add(", b") + (", b"||", b" || "].contains(&between);
    let is_assignment = is_second_assignment(between);
    let is_glue = |b: &u8| matches!(b, b' ' | b'+' | b'.' | b'&' | b'\n' | b'\t' | b'\\');
    let is_value =
        |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_alphanumeric() || b"-_+/=".contains(b));
    // What is added up may be cut anywhere: `"DE37 3704 " + "0044"`, `"381.047" + ".592-05"`.
    let is_sum = between.iter().any(|b| matches!(b, b'+' | b'&')) && between.iter().all(is_glue);
    let is_part = |b: Option<&u8>| {
        is_value(b) || (is_sum || is_assignment) && b.is_some_and(|b| b" .@:%".contains(b))
    };
    let inside = start.checked_sub(1).and_then(|i| bytes.get(i));
    if (!between.is_empty() || quote == b'`')
        && (is_call || is_assignment || between.iter().all(is_glue))
        && is_part(inside)
        && is_part(bytes.get(end + 1))
    {
        return end + 1;
    }
    start
}

/// The widest gap between two literals of one value: `append` calls and names of variables.
const LITERAL_GAP_BYTES: usize = 32;

/// `"; b = "`, `pan += "`: a value cut over two variables, or added to one.
fn is_second_assignment(between: &[u8]) -> bool {
    let trimmed = between.trim_ascii();
    let name = trimmed.strip_prefix(b";").or(trimmed.strip_prefix(b",")).unwrap_or(trimmed);
    let name = name.trim_ascii().strip_suffix(b"=").map(<[u8]>::trim_ascii);
    let added = name.and_then(|name| name.strip_suffix(b"+").or(name.strip_suffix(b".")));
    let name = added.map(<[u8]>::trim_ascii).or(name);
    name.is_some_and(|n| !n.is_empty() && n.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'_'))
}

/// End of `**`, `__` or `~~` around or inside a value.
fn emphasis_end(bytes: &[u8], start: usize) -> usize {
    let mark = bytes[start];
    let count = bytes[start..].iter().take_while(|b| **b == mark).count();
    let touches = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let before = start.checked_sub(1).and_then(|i| bytes.get(i));
    let is_emphasis = count == 2 || (count == 1 && mark == b'*');
    if is_emphasis && (touches(before) || touches(bytes.get(start + count))) {
        return start + count;
    }
    start
}
