//! Errors of policy files: where, what, and what to do.
//!
//! The reader is a compliance officer who has never seen Rust: every error names the file, the line
//! and the column, shows that line with a caret under the word, and says what to write instead. One
//! load reports all that it can find at once, since nobody likes to fix twelve typos in twelve runs.
//!
//! Not here: finding the mistakes (`yaml`, `policy_set`). Policy files hold no prompt text, so their
//! lines may be shown; the texts of failing tests may not leave the file they stand in.

use std::fmt;
use std::fmt::Write as _;

/// One mistake in one policy file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// File as the set names it: `hipaa.yaml`.
    pub file: String,
    /// Line, from 1; 0 when the mistake is something that is missing from the whole file.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// Path of the value inside the file: `rules[2].when`; empty at the top.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// The line itself.
    pub source_line: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        if !self.path.is_empty() {
            write!(f, ": {}", self.path)?;
        }
        write!(f, ": {}", self.message)?;
        if self.line > 0 {
            self.fmt_snippet(f)?;
        }
        match &self.hint {
            Some(hint) => write!(f, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

impl Diagnostic {
    fn fmt_snippet(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.line.to_string();
        let margin = " ".repeat(number.len());
        let before = self.source_line.chars().take(self.column as usize - 1);
        // A tab keeps its width under itself, whatever the terminal makes of it.
        let indent: String = before.map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        let carets = "^".repeat(word_width(&self.source_line, self.column as usize - 1));
        write!(f, "\n{margin} |\n{number} | {}\n{margin} | {indent}{carets}", self.source_line)
    }
}

/// Characters of the word or number at `start`, at least one: that many carets stand under it.
fn word_width(line: &str, start: usize) -> usize {
    let is_word = |c: &char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '@');
    line.chars().skip(start).take_while(is_word).count().max(1)
}

/// A policy set that cannot be used; `Display` shows every diagnostic with its source line.
#[derive(Debug, thiserror::Error)]
#[error("{rendered}")]
pub struct PolicyError {
    /// All diagnostics, rendered for a terminal.
    pub rendered: String,
    /// The same, one by one.
    pub diagnostics: Vec<Diagnostic>,
}

impl PolicyError {
    /// Builds the error from what was found; the order is kept.
    pub(crate) fn new(diagnostics: Vec<Diagnostic>) -> Self {
        assert!(!diagnostics.is_empty(), "an error needs at least one diagnostic");
        let mut rendered = String::new();
        for (i, diagnostic) in diagnostics.iter().enumerate() {
            let gap = if i == 0 { "" } else { "\n\n" };
            write!(rendered, "{gap}{diagnostic}").expect("writing to a String cannot fail");
        }
        PolicyError { rendered, diagnostics }
    }

    /// An error about a file as a whole: it cannot be read, it is too large.
    pub(crate) fn about_file(file: &str, message: String, hint: Option<String>) -> Self {
        PolicyError::new(vec![Diagnostic {
            file: file.to_owned(),
            line: 0,
            column: 0,
            path: String::new(),
            message,
            source_line: String::new(),
            hint,
        }])
    }
}

/// `did you mean "context"?` for the nearest known word, or the list of all when none is near.
pub(crate) fn suggest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let known: Vec<&str> = known.into_iter().collect();
    if let Some(near) = nearest(word, &known) {
        return Some(format!("did you mean \"{near}\"?"));
    }
    match known.len() {
        0 => None,
        1..=16 => Some(format!("known here: {}", known.join(", "))),
        count => Some(format!("known here: {}, and {} more", known[..12].join(", "), count - 12)),
    }
}

/// The known word within an edit distance of a third of its length, if any.
fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let folded = word.to_lowercase().replace('-', "_");
    known
        .iter()
        .map(|&candidate| (edit_distance(&folded, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.chars().count().div_ceil(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Edits (insert, delete, replace, swap of neighbours) between two words.
///
/// Source: optimal string alignment, a restricted Damerau-Levenshtein distance.
fn edit_distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before_last[j - 2] + 1);
            }
            row.push(best);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_edits_between_words() {
        for (a, b, distance) in [
            ("contxt", "context", 1),
            ("conetxt", "context", 1),
            ("at_lest", "at_least", 1),
            ("", "near", 4),
            ("near", "near", 0),
            ("tset", "tests", 2),
        ] {
            assert_eq!(edit_distance(a, b), distance, "{a} to {b}");
        }
    }

    #[test]
    fn suggests_the_nearest_word_or_lists_all() {
        let known = ["any_of", "all_of", "found", "near"];
        assert_eq!(suggest("anyof", known).as_deref(), Some("did you mean \"any_of\"?"));
        assert_eq!(suggest("ANY-OF", known).as_deref(), Some("did you mean \"any_of\"?"));
        assert_eq!(
            suggest("zebra", known).as_deref(),
            Some("known here: any_of, all_of, found, near")
        );
    }

    #[test]
    fn draws_the_caret_under_the_word() {
        let shown = Diagnostic {
            file: "hipaa.yaml".into(),
            line: 31,
            column: 11,
            path: "rules[2].when".into(),
            message: "unknown key \"contxt\"".into(),
            source_line: "    when: contxt".into(),
            hint: Some("did you mean \"context\"?".into()),
        }
        .to_string();
        let expected = "hipaa.yaml:31:11: rules[2].when: unknown key \"contxt\"\n   |\n\
                        31 |     when: contxt\n   |           ^^^^^^\n\
                        hint: did you mean \"context\"?";
        assert_eq!(shown, expected);
    }
}
