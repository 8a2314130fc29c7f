//! What templates for Python's Jinja say and minijinja does not know.
//!
//! Some are words that minijinja lets us add: string methods, `strftime_now`. Values are written as Python
//! writes them (`True`, `None`, `['a']`), where they are printed and by the filter `string`. Others are syntax, and are
//! written in other words before the template is compiled: `'…' % x` becomes the filter that Jinja has
//! for it, and `{% generation %}`, which only marks a reply for training, becomes a block that is always
//! rendered. Lines stay where they are, so that errors point into the file.
//!
//! The date is that of the day in UTC: it is the one thing in a prompt that is not in the request, and
//! only in the prompts of templates that ask for it.
//! Sources: `_compile_jinja_template` of transformers' `utils/chat_template_utils.py`
//! (`strftime_now`, `generation`); Python's `str` methods and printf-style formatting.

use std::borrow::Cow;

use minijinja::formatting::{FormatStyle, format};
use minijinja::value::{Value, ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, State};

/// Lists within lists that are printed.
const NESTED_MAX: usize = 32;
/// The filter that `%` after a text becomes.
const PERCENT: &str = "python_percent";

/// Adds what can be added.
pub(super) fn add_to(environment: &mut Environment<'_>) {
    environment.set_unknown_method_callback(method);
    environment.add_function("strftime_now", strftime_now);
    environment.add_filter(PERCENT, percent);
    environment.add_filter("string", |value: Value| written(&value));
    environment.set_formatter(|out, state, value| match is_plain(value) {
        true => minijinja::escape_formatter(out, state, value),
        false => out.write_str(&written(value)).map_err(Error::from),
    });
}

/// Whether Python and minijinja write a value alike.
fn is_plain(value: &Value) -> bool {
    use ValueKind::{Bool, Map, None, Seq};
    !matches!(value.kind(), Bool | Map | None | Seq)
}

/// `str(value)`.
fn written(value: &Value) -> String {
    match value.as_str() {
        Some(text) => text.to_owned(),
        None => {
            let mut out = String::new();
            represent(value, NESTED_MAX, &mut out);
            out
        }
    }
}

/// `repr(value)`; what is nested deeper is left out.
fn represent(value: &Value, depth_left: usize, out: &mut String) {
    let items = || value.try_iter().ok().filter(|_| depth_left > 0).into_iter().flatten();
    let comma = |index: usize| if index > 0 { ", " } else { "" };
    match value.kind() {
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::None => out.push_str("None"),
        ValueKind::String => represent_text(value.as_str().unwrap_or_default(), out),
        ValueKind::Seq => {
            out.push('[');
            for (index, item) in items().enumerate() {
                out.push_str(comma(index));
                represent(&item, depth_left - 1, out);
            }
            out.push(']');
        }
        ValueKind::Map => {
            out.push('{');
            for (index, key) in items().enumerate() {
                out.push_str(comma(index));
                represent(&key, depth_left - 1, out);
                out.push_str(": ");
                represent(&value.get_item(&key).unwrap_or_default(), depth_left - 1, out);
            }
            out.push('}');
        }
        _ => out.push_str(&value.to_string()),
    }
}

/// A text in the quotes that Python chooses.
fn represent_text(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            c if c == quote => out.extend(['\\', c]),
            c if c.is_ascii_control() => out.push_str(&format!("\\x{:02x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push(quote);
}

/// A method of Python's that minijinja's own are not.
fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let text = value.as_str();
    match (text, name) {
        (Some(text), "rsplit") => rsplit(text, args),
        (Some(text), "removeprefix") => {
            let (prefix,): (&str,) = from_args(args)?;
            Ok(Value::from(text.strip_prefix(prefix).unwrap_or(text)))
        }
        (Some(text), "removesuffix") => {
            let (suffix,): (&str,) = from_args(args)?;
            Ok(Value::from(text.strip_suffix(suffix).unwrap_or(text)))
        }
        _ => minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args),
    }
}

/// At most so many parts from the right; by blanks if there is no separator.
fn rsplit(text: &str, args: &[Value]) -> Result<Value, Error> {
    let (separator, most): (Option<&str>, Option<i64>) = from_args(args)?;
    // One more part than cuts; a negative number is no limit.
    let parts_max = most.and_then(|n| usize::try_from(n).ok()).map_or(usize::MAX, |n| n + 1);
    let mut parts: Vec<&str> = match separator {
        Some("") => return Err(Error::new(ErrorKind::InvalidOperation, "empty separator")),
        Some(separator) => text.rsplitn(parts_max, separator).collect(),
        None => by_blanks(text, parts_max),
    };
    parts.reverse();
    Ok(parts.into_iter().map(Value::from).collect())
}

/// Words from the right; what is left over keeps the blanks inside.
fn by_blanks(text: &str, parts_max: usize) -> Vec<&str> {
    let (mut rest, mut parts) = (text.trim_end(), Vec::new());
    while !rest.is_empty() && parts.len() + 1 < parts_max {
        let start = rest
            .rfind(char::is_whitespace)
            .map_or(0, |at| at + rest[at..].chars().next().map_or(1, char::len_utf8));
        parts.push(&rest[start..]);
        rest = rest[..start].trim_end();
    }
    if !rest.trim_start().is_empty() {
        parts.push(rest);
    }
    parts
}

/// `text % value`, or `text % (value, value)`.
fn percent(text: &str, value: Value) -> Result<String, Error> {
    let values = match value.kind() {
        ValueKind::Seq => value.try_iter()?.collect(),
        _ => vec![value],
    };
    format(FormatStyle::Printf, text, &values)
}

/// The date and time as the format says.
fn strftime_now(pattern: &str) -> Result<String, Error> {
    written_at(jiff::Timestamp::now(), pattern)
}

fn written_at(time: jiff::Timestamp, pattern: &str) -> Result<String, Error> {
    let time = time.to_zoned(jiff::tz::TimeZone::UTC);
    let wrong = |_| Error::new(ErrorKind::InvalidOperation, "the format of the date is not known");
    jiff::fmt::strtime::format(pattern, &time).map_err(wrong)
}

/// A template in words that minijinja knows.
pub(super) fn translated(source: &str) -> Cow<'_, str> {
    let asks = source.contains('%') && (source.contains("generation") || has_percent(source));
    if asks { Cow::Owned(Translation::of(source)) } else { Cow::Borrowed(source) }
}

/// Whether a quote is followed by `%` that ends no tag: a text may be formatted.
fn has_percent(source: &str) -> bool {
    source.match_indices(['\'', '"']).any(|(at, _)| {
        let behind = source[at + 1..].trim_start();
        behind.starts_with('%') && !behind.starts_with("%}")
    })
}

/// A template on its way.
struct Translation<'a> {
    source: &'a str,
    at: usize,
    out: String,
}

impl<'a> Translation<'a> {
    fn of(source: &'a str) -> String {
        let mut new = Translation { source, at: 0, out: String::with_capacity(source.len() + 64) };
        while let Some(found) = new.rest().find('{') {
            new.copy(found);
            let rest = new.rest();
            if rest.starts_with("{#") {
                new.copy(rest.find("#}").map_or(rest.len(), |end| end + 2));
            } else if let Some(raw) = raw_block(rest) {
                new.copy(raw);
            } else if rest.starts_with("{%") {
                new.tag();
            } else if rest.starts_with("{{") {
                new.copy(2);
                new.expression("}}");
            } else {
                new.copy(1);
            }
        }
        let rest = new.rest();
        new.out.push_str(rest);
        new.out
    }

    fn rest(&self) -> &'a str {
        &self.source[self.at..]
    }

    fn copy(&mut self, bytes: usize) {
        self.out.push_str(&self.rest()[..bytes]);
        self.at += bytes;
    }

    /// A tag: `generation` and its end, or any other.
    fn tag(&mut self) {
        self.copy(2);
        if self.rest().starts_with(['-', '+']) {
            self.copy(1);
        }
        let blanks = self.rest().len() - self.rest().trim_start().len();
        self.copy(blanks);
        for (word, other) in [("generation", "if true"), ("endgeneration", "endif")] {
            let behind = self.rest().strip_prefix(word);
            if behind.is_some_and(|rest| {
                rest.trim_start().trim_start_matches(['-', '+']).starts_with("%}")
            }) {
                self.out.push_str(other);
                self.at += word.len();
            }
        }
        self.expression("%}");
    }

    /// Up to the end of a tag or an expression.
    fn expression(&mut self, end: &str) {
        let mut depth = 0_usize;
        while let Some(c) = self.rest().chars().next() {
            match c {
                '\'' | '"' => {
                    self.copy(text_len(self.rest()));
                    self.percent();
                    continue;
                }
                _ if depth == 0 && self.rest().starts_with(end) => return self.copy(end.len()),
                '(' | '[' | '{' => depth += 1,
                ')' | ']' | '}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            self.copy(c.len_utf8());
        }
    }

    /// After a text: a `%` and what it formats become a filter with an argument.
    fn percent(&mut self) {
        let rest = self.rest();
        let behind = rest.trim_start();
        if !behind.starts_with('%') || behind.starts_with("%}") {
            return;
        }
        let blanks = rest.len() - behind.len();
        self.copy(blanks);
        self.at += 1;
        let operand = operand_len(self.rest());
        let end = self.at + operand;
        self.out.push_str(&format!("|{PERCENT}("));
        while self.at < end {
            match self.rest().chars().next() {
                Some('\'' | '"') => self.copy(text_len(self.rest())),
                Some(c) => self.copy(c.len_utf8()),
                None => break,
            }
        }
        self.out.push(')');
    }
}

/// Bytes of a `raw` block with its tags, if one begins here.
fn raw_block(rest: &str) -> Option<usize> {
    let inside = rest.strip_prefix("{%")?.trim_start_matches(['-', '+']).trim_start();
    let behind = inside.strip_prefix("raw")?.trim_start().trim_start_matches('-');
    behind.starts_with("%}").then_some(())?;
    let end = rest.find("endraw")?;
    Some(end + rest[end..].find("%}")? + 2)
}

/// Bytes of a text in quotes, the quotes included.
fn text_len(rest: &str) -> usize {
    let quote = rest.chars().next();
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if Some(c) == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// Bytes of what stands after `%`: a name, a number, a text or brackets, with all that is bound to it
/// (`.x`, `[0]`, `(…)`, `|filter`).
fn operand_len(rest: &str) -> usize {
    let mut at = rest.len() - rest.trim_start().len();
    let mut begun = false;
    while let Some(c) = rest[at..].chars().next() {
        let bound = rest[at..].trim_start();
        at += match c {
            '\'' | '"' if !begun => text_len(&rest[at..]),
            '(' | '[' | '{' => bracket_len(&rest[at..]),
            '.' | '_' => 1,
            c if c.is_alphanumeric() => c.len_utf8(),
            '-' if !begun => 1,
            _ if begun && bound.starts_with('|') => {
                let filter = &bound[1..];
                let name = filter.len() - filter.trim_start().len();
                rest[at..].len() - bound.len() + 1 + name
            }
            _ => break,
        };
        begun = true;
    }
    at
}

/// Bytes of a bracket up to its match.
fn bracket_len(rest: &str) -> usize {
    let (mut at, mut depth) = (0, 0_usize);
    while let Some(c) = rest[at..].chars().next() {
        match c {
            '\'' | '"' => {
                at += text_len(&rest[at..]);
                continue;
            }
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += c.len_utf8();
        if depth == 0 {
            break;
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(template: &str) -> String {
        let mut environment = Environment::new();
        add_to(&mut environment);
        let context = minijinja::context! { x => "a b  c", n => 7, list => ["p", "q"] };
        environment.render_str(&translated(template), context).expect(template)
    }

    /// What Python's Jinja gives was taken from Python.
    #[test]
    fn methods_and_operators_of_python_do_what_they_do_there() {
        for (template, expected) in [
            ("{{ '%s!' % x }}", "a b  c!"),
            ("{{ \"%s-%d\" % (x, n) }}", "a b  c-7"),
            ("{{ '%05.1f|%%|%-4s|' % (n, list[0]) }}", "007.0|%|p   |"),
            ("{{ '<' ~ '%s' % list[1] | upper ~ '>' }}", "<Q>"),
            ("{% set y = '%s' % x.split(' ')[0] %}{{ y }}", "a"),
            ("{{ '%s' % '%' }}{{ n % 4 }}", "%3"),
            ("{{ x.rsplit(' ', 1) | join('/') }}", "a b /c"),
            ("{{ x.rsplit() | join('/') }}", "a/b/c"),
            ("{{ x.rsplit(none, 1) | join('/') }}", "a b/c"),
            ("{{ 'a,b,c'.rsplit(',')[-1] }}", "c"),
            ("{{ x.removeprefix('a ').removesuffix('c') }}", "b  "),
            ("{{ x.removeprefix('z') }}", "a b  c"),
            ("{{ true }} {{ none }} {{ 1.0 }} {{ x }} {{ y }}", "True None 1.0 a b  c "),
            (
                "{{ false | string }} {{ [x, none, \"it's\", '\"\\'\\n'] | string }}",
                "False ['a b  c', None, \"it's\", '\"\\'\\n']",
            ),
            ("{{ {'a': [true, {}]} }} {{ 'a' | string }}", "{'a': [True, {}]} a"),
            ("{% generation %}{{ n }}{% endgeneration %}", "7"),
            ("a {%- generation -%} b {%- endgeneration -%} c", "abc"),
            ("{# 'x' % y {% generation %} #}{{ 'generation' }}", "generation"),
            (
                "{% raw %}{{ '%s' % x }}{% generation %}{% endraw %}",
                "{{ '%s' % x }}{% generation %}",
            ),
            ("{{ {'a': {'b': '%s' % n}} | length }}", "1"),
            ("100 %{ '%' }", "100 %{ '%' }"),
        ] {
            assert_eq!(rendered(template), expected, "{template}");
        }
    }

    #[test]
    fn dates_are_written_as_the_format_says() {
        let time: jiff::Timestamp = "2026-11-08T07:05:09Z".parse().expect("a time");
        for (pattern, expected) in [
            ("%d %b %Y", "08 Nov 2026"),
            ("%Y-%m-%d", "2026-11-08"),
            ("%A, %H:%M", "Sunday, 07:05"),
        ] {
            assert_eq!(written_at(time, pattern).expect("known"), expected);
        }
        assert_eq!(rendered("{{ strftime_now('%Y') | length }}"), "4");
        assert!(written_at(time, "%").is_err());
    }

    #[test]
    fn whatever_the_template_is_lines_stay_and_nothing_panics() {
        for template in [
            "{{ 'a' %",
            "{% generation",
            "{{ '%s' % ",
            "{{ 'open",
            "{% raw %}",
            "{#",
            "'%' %é",
            "{{ '%s' % (x, ",
            "\n{{ '%s'\n % x }}\n",
            "{{ \"%s\" % {'é': [1} }}",
        ] {
            let lines = translated(template).matches('\n').count();
            assert_eq!(lines, template.matches('\n').count(), "{template}");
        }
    }
}
