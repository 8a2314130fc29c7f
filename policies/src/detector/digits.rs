//! Cuts a text into runs of digit groups: what every number detector looks at.
//!
//! A run is digit groups with at most three other characters between them, none a letter: a number
//! as people break it up (`4111 1111-1111.1111`, digits one a line). Detectors slide windows over
//! whole groups, so that an expiry date behind a card number does not spoil its checksum.
//!
//! Invariants: groups are sorted and disjoint; a group that touches a letter, or belongs to a UUID,
//! says so and is in no run. Not here: any meaning of the number.

use std::ops::Range;

/// Consecutive digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) start: u32,
    pub(crate) end: u32,
}

impl Group {
    pub(crate) fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    pub(crate) fn range(&self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// All digit groups of a text and the runs they form.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Digits {
    /// Groups that stand free of letters.
    pub(crate) groups: Vec<Group>,
    /// Ranges of indices into `groups`.
    pub(crate) runs: Vec<Range<usize>>,
    /// There is a digit, free or not: without one no code can be found.
    pub(crate) any: bool,
}

/// Separators that may stand between two groups of one run, in bytes: a dash with two spaces is the
/// widest that people write, quotation marks and commas of a list of literals the next.
const SEPARATOR_BYTES_MAX: usize = 4;

impl Digits {
    /// Collects groups and runs of a text of which it is known where the digits are.
    pub(crate) fn of(text: &str, all: impl Iterator<Item = Range<usize>>) -> Digits {
        let bytes = text.as_bytes();
        let mut digits = Digits::default();
        let mut run_start = 0;
        for Range { start, end } in all {
            digits.any = true;
            if !stands_free(text, start, end) {
                digits.close_run(&mut run_start);
                continue;
            }
            let joined = digits.groups.last().is_some_and(|last| {
                digits.groups.len() > run_start && joins(&bytes[last.end as usize..start])
            });
            if !joined {
                digits.close_run(&mut run_start);
            }
            digits.groups.push(Group { start: start as u32, end: end as u32 });
        }
        digits.close_run(&mut run_start);
        digits
    }

    fn close_run(&mut self, run_start: &mut usize) {
        if *run_start < self.groups.len() {
            self.runs.push(*run_start..self.groups.len());
            *run_start = self.groups.len();
        }
    }

    /// Every window of whole groups inside one run with a digit count in `lengths`.
    pub(crate) fn windows(&self, lengths: Range<usize>) -> impl Iterator<Item = Window<'_>> {
        self.runs.iter().flat_map(move |run| {
            let groups = &self.groups[run.clone()];
            let lengths = lengths.clone();
            (0..groups.len()).flat_map(move |first| windows_from(groups, first, lengths.clone()))
        })
    }
}

/// Some consecutive groups of one run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window<'a> {
    pub(crate) groups: &'a [Group],
    /// The whole run, for judging what stands around the window.
    pub(crate) run: &'a [Group],
    /// Index of the first group in the run.
    pub(crate) first: usize,
}

impl Window<'_> {
    pub(crate) fn range(&self) -> Range<usize> {
        self.groups[0].start as usize..self.groups[self.groups.len() - 1].end as usize
    }

    /// Writes the digits without separators, as values 0 to 9; returns how many there are.
    /// Panics if `out` is shorter than the window (caller bug).
    pub(crate) fn copy_digits(&self, text: &str, out: &mut [u8]) -> usize {
        let mut len = 0;
        for group in self.groups {
            for byte in &text.as_bytes()[group.range()] {
                out[len] = byte - b'0';
                len += 1;
            }
        }
        len
    }

    /// Lengths of the groups: `[3, 2, 4]` for `536-22-1234`.
    pub(crate) fn shape(&self) -> Vec<usize> {
        self.groups.iter().map(Group::len).collect()
    }

    /// The separators between the groups.
    pub(crate) fn separators<'t>(&self, text: &'t str) -> impl Iterator<Item = &'t str> {
        self.groups.windows(2).map(|pair| &text[pair[0].end as usize..pair[1].start as usize])
    }

    /// Whether one separator is used throughout (or none is needed).
    pub(crate) fn is_evenly_separated(&self, text: &str) -> bool {
        // A line break is a space that the editor chose.
        let mut separators = self.separators(text).map(str::trim);
        let first = separators.next();
        separators.all(|s| Some(s) == first)
    }

    /// Whether single digits continue beyond the window: a longer list of digits, not this number.
    pub(crate) fn cuts_a_list_of_digits(&self) -> bool {
        let is_digit = |g: Option<&Group>| g.is_some_and(|g| g.len() == 1);
        let before = self.first.checked_sub(1).and_then(|i| self.run.get(i));
        let after = self.run.get(self.first + self.groups.len());
        (is_digit(before) && is_digit(self.groups.first()))
            || (is_digit(after) && is_digit(self.groups.last()))
    }
}

fn windows_from(
    run: &[Group],
    first: usize,
    lengths: Range<usize>,
) -> impl Iterator<Item = Window<'_>> {
    let mut total = 0;
    run[first..]
        .iter()
        .enumerate()
        .map(move |(i, group)| {
            total += group.len();
            (i, total)
        })
        .take_while({
            let end = lengths.end;
            move |&(_, total)| total < end
        })
        .filter(move |(_, total)| lengths.contains(total))
        .map(move |(i, _)| Window { groups: &run[first..=first + i], run, first })
}

/// Whether the bytes between two groups may be inside one number.
fn joins(between: &[u8]) -> bool {
    (between.len() <= SEPARATOR_BYTES_MAX || is_quoted_break(between))
        && between.iter().all(|b| !b.is_ascii_alphanumeric())
        && !between.windows(2).any(|pair| pair == b"\n\n")
}

/// A line break and the marks of a quoted mail or a table's border.
fn is_quoted_break(between: &[u8]) -> bool {
    between.len() <= 3 * SEPARATOR_BYTES_MAX
        && between.contains(&b'\n')
        && between.iter().all(|b| b"\r\n\t >|*-".contains(b))
}

/// Whether no letter touches the digits and they are no part of a UUID.
fn stands_free(text: &str, start: usize, end: usize) -> bool {
    let bytes = text.as_bytes();
    let letter = |b: u8| b.is_ascii_alphabetic();
    let before = start > 0 && letter(bytes[start - 1]);
    let after = end < bytes.len() && letter(bytes[end]);
    // `card4111111111111111`: a word glued to a long number, not a hash.
    let glued = end - start >= 13 && before != after && is_word_beside(bytes, start, end);
    (glued || !before && !after) && !in_uuid(bytes, start)
}

/// Whether the letters that touch the digits are a word of letters only.
fn is_word_beside(bytes: &[u8], start: usize, end: usize) -> bool {
    let before =
        bytes[..start].iter().rev().take(24).take_while(|b| b.is_ascii_alphabetic()).count();
    let after = bytes[end..].iter().take(24).take_while(|b| b.is_ascii_alphabetic()).count();
    let digit = |b: Option<&u8>| b.is_some_and(u8::is_ascii_digit);
    let goes_on =
        digit(bytes.get(end + after)) || start > before && digit(bytes.get(start - before - 1));
    !(goes_on && before + after > 0)
}

/// Whether the position lies in `8-4-4-4-12` hexadecimal digits.
fn in_uuid(bytes: &[u8], at: usize) -> bool {
    const DASHES: [usize; 4] = [8, 13, 18, 23];
    let low = at.saturating_sub(35);
    let is_token = |b: &u8| b.is_ascii_hexdigit() || *b == b'-';
    let start = bytes[low..at].iter().rposition(|b| !is_token(b)).map_or(low, |i| low + i + 1);
    let Some(token) = bytes.get(start..start + 36) else { return false };
    token.iter().enumerate().all(|(i, b)| (*b == b'-') == DASHES.contains(&i) && is_token(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Digits {
        let bytes = text.as_bytes();
        let is_start = |at: &usize| {
            bytes[*at].is_ascii_digit() && !(*at > 0 && bytes[*at - 1].is_ascii_digit())
        };
        let len = |at: usize| bytes[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        Digits::of(text, (0..bytes.len()).filter(is_start).map(|at| at..at + len(at)))
    }

    fn runs(text: &str) -> Vec<Vec<&str>> {
        let digits = read(text);
        digits
            .runs
            .iter()
            .map(|r| digits.groups[r.clone()].iter().map(|g| &text[g.range()]).collect())
            .collect()
    }

    #[test]
    fn groups_with_few_separators_form_one_run() {
        assert_eq!(runs("4111 1111-1111.1111"), [["4111", "1111", "1111", "1111"]]);
        assert_eq!(runs("12 and 34"), [["12"], ["34"]]);
        assert_eq!(runs("\"4111\", \"1111\""), [["4111", "1111"]]);
    }

    #[test]
    fn digits_of_hashes_and_uuids_are_no_groups() {
        assert!(runs("a1b2c3d4").is_empty());
        assert!(runs("12345678-1234-1234-1234-123456789012").is_empty());
    }

    #[test]
    fn windows_are_made_of_whole_groups() {
        let text = "4111 1111 1111 1111 12/27";
        let digits = read(text);
        let found: Vec<_> = digits.windows(16..17).map(|w| &text[w.range()]).collect();
        assert_eq!(found, ["4111 1111 1111 1111", "1111 1111 1111 12/27"]);
    }
}
