//! One view of a text with everything that detectors share: words, digit runs, literals, codes.
//!
//! Computed once per view, so that ninety detectors cost little more than one.

use std::cell::OnceCell;
use std::ops::Range;

use super::byte_set::ByteSet;
use super::digits::{Digits, Window};
use super::lexicon::{Hit, Lexicon, ListId, Words};
use super::literals::FoundLiterals;
use super::topic::Weight;
use crate::evidence::Likelihood;

/// A view under detection.
pub(crate) struct Reading<'a> {
    pub(crate) text: &'a str,
    pub(crate) bytes: ByteSet,
    pub(crate) words: Words,
    pub(crate) digits: Digits,
    pub(crate) literals: FoundLiterals,
    pub(crate) lexicon: &'a Lexicon,
    /// Computed when the first detector asks for a column's header.
    pub(crate) tables: OnceCell<Vec<Table>>,
    /// What each word weighs for topics, where that is known before.
    pub(crate) weights: OnceCell<Vec<Weight>>,
}

/// Something that a detector believes it has found.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) range: Range<usize>,
    pub(crate) own: Own,
}

/// What the detector itself says about its candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Own {
    /// The spec's `alone` and `with_context` decide, lowered by negative words.
    AsSpecified,
    /// Worth nothing without a context word.
    NeedsContext,
    /// This sure, whatever stands around it.
    Exactly(Likelihood),
}

/// Digits that some number scheme may recognise.
pub(crate) struct Number<'a> {
    pub(crate) text: &'a str,
    pub(crate) window: Window<'a>,
    /// Values 0 to 9.
    pub(crate) digits: &'a [u8],
}

/// Letters and digits mixed, upper case, without separators.
pub(crate) struct Code<'a> {
    pub(crate) range: Range<usize>,
    pub(crate) compact: &'a [u8],
}

/// A family of findings that code recognises; pure and linear in the reading.
pub(crate) trait Detector: Send + Sync {
    /// Adds every candidate.
    fn find(&self, reading: &Reading<'_>, found: &mut Vec<Candidate>);
}

impl<'a> Reading<'a> {
    /// Hits of a list that start inside the range.
    pub(crate) fn hits_in(&self, list: ListId, range: Range<usize>) -> impl Iterator<Item = &Hit> {
        let hits = self.words.of(list);
        let first = hits.partition_point(|h| (h.start as usize) < range.start);
        hits[first..].iter().take_while(move |h| (h.start as usize) < range.end)
    }

    /// All hits of a list.
    pub(crate) fn hits(&self, list: ListId) -> impl Iterator<Item = &Hit> {
        self.words.of(list).iter()
    }

    /// Distance in bytes to the nearest term of the list, if one is within `reach` of the range.
    pub(crate) fn distance(
        &self,
        list: ListId,
        range: &Range<usize>,
        reach: usize,
    ) -> Option<usize> {
        // Terms start before the range and may reach into it: 40 bytes is the longest phrase.
        let window = range.start.saturating_sub(reach + 40)..range.end + reach;
        self.hits_in(list, window)
            .map(|hit| gap(&(hit.start as usize..hit.end as usize), range))
            .filter(|&gap| gap <= reach)
            .min()
    }

    /// Literals of one detector.
    pub(crate) fn literals_of(&self, ids: &Range<u32>) -> impl Iterator<Item = &Range<usize>> {
        self.literals.of(ids).iter().map(|(_, at)| at)
    }

    /// The header cell above a value, if it stands in a table of one separator a column.
    pub(crate) fn column_header(&self, at: usize) -> Option<Range<usize>> {
        let tables = self.tables.get_or_init(|| tables(self.text));
        let table = &tables[..tables.partition_point(|t| t.range.start <= at)].last()?;
        if at >= table.range.end || at < table.header.end {
            return None;
        }
        let low = at.saturating_sub(LINE_BYTES_MAX + 1);
        let line_start = self.text.as_bytes()[low..at]
            .iter()
            .rposition(|b| *b == b'\n')
            .map(|end| low + end + 1)?;
        let column = self.text[line_start..at].matches(table.separator).count();
        let mut cells = self.text[table.header.clone()].split(table.separator);
        let skipped: usize = cells.by_ref().take(column).map(|c| c.len() + 1).sum();
        let cell = cells.next()?;
        let start = table.header.start + skipped;
        Some(start..start + cell.len())
    }
}

/// Wider lines are no table that anybody reads.
const LINE_BYTES_MAX: usize = 4096;

/// Consecutive lines that share a column separator.
pub(crate) struct Table {
    range: Range<usize>,
    header: Range<usize>,
    separator: char,
}

/// All tables of a text, in order.
fn tables(text: &str) -> Vec<Table> {
    let mut tables: Vec<Table> = Vec::new();
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let range = start..start + line.len();
        start = range.end;
        let open =
            tables.last_mut().filter(|t| t.range.end == range.start && line.contains(t.separator));
        if let Some(table) = open {
            table.range.end = range.end;
        } else if let Some(separator) =
            [',', '\t', ';', '|'].into_iter().find(|s| line.contains(*s))
        {
            tables.push(Table {
                range: range.clone(),
                header: range.start..range.start + line.trim_end().len(),
                separator,
            });
        }
    }
    tables
}

/// Where a value ends that is said before its name: `871 is the cvv`, for the place of `cvv`.
pub(crate) fn said_before(text: &str, name: usize) -> Option<usize> {
    const LINKS: [&str; 16] = [
        " is the",
        " is my",
        " is her",
        " is his",
        " is their",
        " is our",
        " as the",
        " as",
        " ist die",
        " ist der",
        " ist das",
        " ist meine",
        " est le",
        " es el",
        " è il",
        " is de",
    ];
    let before = text[..name].trim_end_matches([' ', '"', '\'', '*']);
    LINKS.iter().find_map(|link| before.strip_suffix(link)).map(str::len)
}

/// Bytes between two ranges; 0 if they touch or overlap.
fn gap(a: &Range<usize>, b: &Range<usize>) -> usize {
    b.start.saturating_sub(a.end).max(a.start.saturating_sub(b.end))
}
