//! The value behind a name: where it stands, and whether it stands for anything but itself.

use std::ops::Range;

/// No token is longer; whatever goes on is something else.
pub(super) const TOKEN_BYTES_MAX: usize = 512;

/// What may still belong to a name behind the part of it that is known: `password_for_staging`.
const NAME_TAIL_BYTES_MAX: usize = 24;

/// The value after `:`, `=`, `=>` or `:=`, with or without quotes.
pub(super) fn assigned_value(text: &str, at: usize) -> Option<Range<usize>> {
    // One character more than a name may have: a text of nothing but names costs no more than others.
    let near = &text[at..text.floor_char_boundary(at + NAME_TAIL_BYTES_MAX + 4)];
    let name_end =
        near.find(|c: char| !c.is_alphanumeric() && c != '_' && c != '-').unwrap_or(near.len());
    let tail = &text[at + name_end..];
    let operator = tail.trim_start_matches(['"', '\'', '`', ']', ' ', ')', '*']);
    let skipped = tail.len() - operator.len();
    let sign = ["=>", ":=", "==", "=", ":"].iter().find(|s| operator.starts_with(**s))?;
    if *sign == "==" || skipped > 4 || name_end > NAME_TAIL_BYTES_MAX {
        return None;
    }
    let value = operator[sign.len()..].trim_start_matches([' ', '\t', '"', '\'', '`', '*']);
    value_range(text, text.len() - value.len())
}

/// A value from its start up to what ends it, if it is long enough to be one.
pub(super) fn value_range(text: &str, start: usize) -> Option<Range<usize>> {
    let ends =
        |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '`' | ',' | ';' | '<' | '>' | ')');
    let window = &text[start..text.floor_char_boundary(start + TOKEN_BYTES_MAX)];
    let end = start + window.find(ends).unwrap_or(window.len());
    let value = text[start..end].trim_end_matches(['.', '?', '*', ':']);
    (value.len() >= 4).then(|| start..start + value.len())
}

/// Values that stand for a value.
pub(super) fn is_placeholder(value: &str) -> bool {
    const PARTS: &[&str] = &[
        "example",
        "your",
        "placeholder",
        "changeme",
        "change_me",
        "xxxx",
        "****",
        "....",
        "redacted",
        "dummy",
        "fake",
        "sample",
        "insert",
        "todo",
        "test1234",
        "foobar",
        "hunter2",
        "abcdef",
        "123456",
        "654321",
        "111111",
        "secret_here",
        "my_",
        "_here",
        "<",
        "${",
        "{{",
        "%s",
        "$(",
        "process.env",
        "os.environ",
        "getenv",
        "env.",
        "config.",
        "settings.",
        "args.",
        "self.",
        "password",
        "passwort",
        "masked",
        "hidden",
        "deadbeef",
        "00000000",
    ];
    let lower = value.to_ascii_lowercase();
    let same = lower.bytes().all(|b| b == lower.as_bytes()[0]);
    same || lower.starts_with(['$', '%', '{', '[', '(', '@']) && !has_digit(&lower)
        || PARTS.iter().any(|p| lower.contains(p))
}

/// Expressions and types of programs: `hash(x)`, `String`, `req.body.password`.
pub(super) fn is_code(value: &str) -> bool {
    const WORDS: &[&str] = &[
        "string",
        "str",
        "null",
        "none",
        "true",
        "false",
        "undefined",
        "required",
        "optional",
        "varchar",
        "text",
        "char",
        "bytes",
        "function",
        "await",
        "input",
        "nil",
        "self",
        "this",
        "request",
        "param",
        "bool",
        "boolean",
        "integer",
        "number",
        "any",
        "object",
    ];
    let lower = value.to_ascii_lowercase();
    let bare = lower.trim_end_matches(|c: char| !c.is_alphanumeric());
    let starts_like_code = WORDS.iter().any(|w| {
        bare == *w
            || lower
                .strip_prefix(w)
                .is_some_and(|rest| rest.starts_with(['(', '[', '.', '<', '|', '?']))
    });
    let is_path = value.contains('(')
        || value.contains("->")
        || value.contains("::")
        || (value.contains('.')
            && value.split('.').all(|p| {
                p.chars().next().is_some_and(char::is_alphabetic)
                    && p.chars().all(|c| c.is_alphanumeric() || c == '_')
                    && !has_digit_within(p)
            }));
    starts_like_code || is_path
}

/// `Gl4cier` is no name of a program.
fn has_digit_within(part: &str) -> bool {
    part.as_bytes().windows(2).any(|two| two[0].is_ascii_digit() && two[1].is_ascii_lowercase())
}

pub(super) fn has_digit(value: &str) -> bool {
    value.bytes().any(|b| b.is_ascii_digit())
}
