//! All texts of a prompt as one: what is split over parts, messages and turns comes together.
//!
//! Long texts contribute their ends only: whatever crosses a border lies near it, and the texts
//! themselves were scanned whole. A long conversation is joined in overlapping windows of texts, so
//! that a new turn changes the last window only and the others are known from the turn before.
//!
//! The name of the model takes no part: it is no piece of what is said, and is scanned by itself.
//!
//! Invariant: neighbouring texts of [`OVERLAP_BYTES`] together lie whole in some window, and so do
//! any two neighbours.

use std::ops::Range;

use crate::evidence::Likelihood;
use crate::normalize::Budget;
use crate::prompt::{Prompt, Role, Text};

/// Bytes of a text on either side of a border that take part.
const BORDER_BYTES: usize = 768;

/// A window is full with so many bytes, and two texts.
const WINDOW_BYTES: usize = 3072;
/// Windows share texts of so many bytes, and one text: a card number of one digit a message fits.
const OVERLAP_BYTES: usize = 1024;

/// Longer texts dictate no number.
const DICTATED_BYTES_MAX: usize = 160;

/// How near: the word that introduces a number may be what was cut.
const NEAR_BYTES: usize = 40;

/// Joined texts and the way back.
#[derive(Default)]
pub(crate) struct Joined {
    pub(crate) text: String,
    pieces: Vec<Piece>,
    /// What stands between texts; `None` where these are no texts of a conversation as they follow each
    /// other.
    glue: Option<Glue>,
    /// All of every text takes part.
    is_whole: bool,
    /// Report only findings near a border: the others are known.
    borders_only: bool,
    /// Report only the surest: the joined text leaves out much.
    surest_only: bool,
    /// Report only what lies over a border: the parts themselves were scanned.
    over_borders_only: bool,
}

/// What stands behind each of the joined texts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Glue {
    /// Nothing: a number is cut in the middle.
    Nothing,
    /// A line break: a context word stands in the text before.
    Line,
}

impl Glue {
    /// The glue itself.
    pub(super) fn text(self) -> &'static str {
        match self {
            Glue::Nothing => "",
            Glue::Line => "\n",
        }
    }

    /// How texts are joined with it.
    pub(super) fn in_words(self) -> &'static str {
        match self {
            Glue::Nothing => "glued",
            Glue::Line => "by lines",
        }
    }
}

struct Piece {
    joined: usize,
    text: usize,
    start: usize,
    len: usize,
}

impl Joined {
    /// Glued (a number cut in the middle), glued without the replies between the user's turns, and
    /// by lines (a context word in the text before).
    pub(crate) fn all(prompt: &Prompt, budget: &mut Budget) -> Vec<Joined> {
        let indices = |takes: fn(&Text) -> bool| -> Vec<usize> {
            let texts = texts(prompt).filter(|(_, text)| takes(text));
            texts.map(|(index, _)| index).collect()
        };
        let (every, users) = (indices(|_| true), indices(|text| text.role == Role::User));
        let mut all = Vec::new();
        let windows_of_all = (every.len() > 1).then(|| windows(prompt, &every));
        for window in windows_of_all.into_iter().flatten() {
            let glued = Joined::new(prompt, window, Glue::Nothing);
            all.extend(glued.values_of_data());
            all.push(glued);
            all.push(Joined::new(prompt, window, Glue::Line));
        }
        if users.len() > 1 && users.len() < every.len() {
            for window in windows(prompt, &users) {
                let glued = Joined::new(prompt, window, Glue::Nothing);
                all.extend(glued.values_of_data());
                all.push(glued);
            }
        }
        all.extend(Joined::dictated(prompt));
        all.extend(Joined::values(prompt));
        all.retain(|joined| budget.take(joined.text.len()));
        all
    }

    fn new(prompt: &Prompt, texts: &[usize], glue: Glue) -> Joined {
        let mut joined = Joined {
            glue: Some(glue),
            is_whole: texts.iter().all(|index| Joined::takes_whole(&prompt.texts[*index])),
            borders_only: glue == Glue::Nothing,
            ..Joined::default()
        };
        for &index in texts {
            let text = prompt.texts[index].text.as_str();
            if Joined::takes_whole(&prompt.texts[index]) {
                joined.add(index, text, 0..text.len());
            } else {
                joined.add(index, text, 0..head_end(text));
                // A word that no detector knows keeps the two ends of one text apart.
                joined.text.push_str("\n\n \u{2026} \n\n");
                joined.add(index, text, tail_start(text)..text.len());
            }
            joined.text.push_str(glue.text());
        }
        joined
    }

    /// Whether all of a text takes part, and not its ends only.
    pub(super) fn takes_whole(text: &Text) -> bool {
        text.text.len() <= 2 * BORDER_BYTES
    }

    /// What stands behind each text, and the texts' numbers in the prompt, in order; `None` where other
    /// things than texts were joined.
    pub(super) fn texts(&self) -> Option<(Glue, impl Iterator<Item = usize>)> {
        let both_ends = |first: &Piece, second: &Piece| first.text == second.text;
        let texts = self.pieces.chunk_by(both_ends).map(|pieces| pieces[0].text);
        Some((self.glue?, texts))
    }

    /// What stands behind each text, and of each where it starts and its number in the prompt; `None`
    /// unless whole texts were joined.
    pub(super) fn whole_texts(&self) -> Option<(Glue, Vec<(usize, usize)>)> {
        let texts = self.pieces.iter().map(|piece| (piece.joined, piece.text));
        self.glue.filter(|_| self.is_whole).map(|glue| (glue, texts.collect()))
    }

    /// A number said piece by piece, with words around: "starts with 200", "the middle is 48".
    /// Of the user's short texts, the first whole and of the others what holds digits.
    fn dictated(prompt: &Prompt) -> Option<Joined> {
        let mut joined = Joined { surest_only: true, ..Joined::default() };
        let mut parts = 0;
        for (index, text) in texts(prompt) {
            let dictates = text.role == Role::User && text.text.len() <= DICTATED_BYTES_MAX;
            let numbers = if dictates { tokens_with_digits(&text.text) } else { Vec::new() };
            let Some(last) = numbers.last() else { continue };
            parts += 1;
            if parts == 1 {
                joined.add(index, &text.text, 0..last.end);
            }
            for number in if parts == 1 { &[][..] } else { &numbers } {
                joined.text.push(' ');
                joined.add(index, &text.text, number.clone());
            }
        }
        (parts > 1).then_some(joined)
    }

    /// A value cut over fields of data, arguments of tools or texts that hold nothing else: pairs and
    /// triples of neighbouring values, each behind the names of its fields.
    fn values(prompt: &Prompt) -> Option<Joined> {
        let values: Vec<Value<'_>> = values_of(prompt).take(VALUES_MAX).collect();
        let all = |_: &[Value<'_>]| true;
        Joined::of_neighbours(&values, all, |joined, value| {
            joined.add(value.text, &prompt.texts[value.text].text, value.range.clone());
        })
    }

    /// The same for data that is cut over these texts itself.
    fn values_of_data(&self) -> Option<Joined> {
        let opens = |piece: &&Piece| is_data(&self.text[piece.joined..]);
        let start = self.pieces.iter().find(opens)?.joined;
        let value = |(range, name): (Range<usize>, _)| {
            let (start, end) = (start + range.start, start + range.end);
            Value { text: self.piece_at(start), range: start..end, name }
        };
        let values: Vec<Value<'_>> = fields(&self.text[start..]).into_iter().map(value).collect();
        // What lies in one text that is data is found there.
        let is_cut = |parts: &[Value<'_>]| {
            let [first, .., last] = parts else { return false };
            let piece = &self.pieces[first.text];
            last.range.end >= piece.joined + piece.len || !is_data(&self.text[piece.joined..])
        };
        Joined::of_neighbours(&values, is_cut, |joined, value| {
            for piece in &self.pieces[value.text..] {
                let from = value.range.start.max(piece.joined);
                let to = value.range.end.min(piece.joined + piece.len);
                if from < to {
                    let start = piece.start + (from - piece.joined);
                    joined.add_piece(piece.text, start, &self.text[from..to]);
                }
            }
        })
    }

    /// Number of the piece that holds this byte.
    fn piece_at(&self, at: usize) -> usize {
        self.pieces.partition_point(|piece| piece.joined <= at).saturating_sub(1)
    }

    /// Pairs and triples of neighbours, of those that `takes` wants, written by `add`.
    fn of_neighbours(
        values: &[Value<'_>],
        takes: impl Fn(&[Value<'_>]) -> bool,
        mut add: impl FnMut(&mut Joined, &Value<'_>),
    ) -> Option<Joined> {
        let mut joined = Joined { over_borders_only: true, ..Joined::default() };
        for first in 0..values.len() {
            for last in first + 1..values.len().min(first + VALUE_PARTS_MAX) {
                let parts = &values[first..=last];
                let bytes: usize = parts.iter().map(|part| part.range.len()).sum();
                if bytes <= VALUE_BYTES_MAX && takes(parts) {
                    // A word that no detector knows keeps the values apart.
                    joined.text.push_str("\n\n \u{2026} \n\n");
                    for part in parts {
                        joined.text.push_str(part.name);
                        joined.text.push(' ');
                    }
                    parts.iter().for_each(|part| add(&mut joined, part));
                }
            }
        }
        (!joined.pieces.is_empty()).then_some(joined)
    }

    /// Whether a finding of this likelihood counts.
    pub(crate) fn counts(&self, likelihood: Likelihood) -> bool {
        !self.surest_only || likelihood == Likelihood::VeryLikely
    }

    fn add(&mut self, index: usize, text: &str, range: Range<usize>) {
        self.add_piece(index, range.start, &text[range]);
    }

    /// Adds what stands at `start` of a text.
    fn add_piece(&mut self, index: usize, start: usize, part: &str) {
        self.pieces.push(Piece { joined: self.text.len(), text: index, start, len: part.len() });
        self.text.push_str(part);
    }

    /// Text and range of a finding: where it starts, cut at the end of that text.
    pub(crate) fn place(&self, range: &Range<usize>) -> Option<(usize, Range<usize>)> {
        let piece = &self.pieces[..self.pieces.partition_point(|p| p.joined <= range.start)];
        let piece = piece.iter().rev().find(|p| p.len > 0)?;
        let piece_end = piece.joined + piece.len;
        if self.over_borders_only && range.end <= piece_end {
            return None;
        }
        let near_border =
            range.start < piece.joined + NEAR_BYTES || range.end + NEAR_BYTES > piece_end;
        if self.borders_only && !near_border {
            return None;
        }
        let start = piece.start + (range.start - piece.joined).min(piece.len);
        let end = piece.start + (range.end.min(piece_end).max(piece.joined) - piece.joined);
        Some((piece.text, start..end.max(start)))
    }
}

/// Where the name of the model stands, in every dialect.
const MODEL: &str = "model";

/// The texts that take part, with their numbers.
pub(super) fn texts(prompt: &Prompt) -> impl Iterator<Item = (usize, &Text)> {
    prompt.texts.iter().enumerate().filter(|(_, text)| text.place != MODEL)
}

/// Values that are tried in pairs and triples, at most.
const VALUES_MAX: usize = 200;
/// Parts of one value, at most.
const VALUE_PARTS_MAX: usize = 3;
/// The longest value that is cut into parts.
const VALUE_BYTES_MAX: usize = 96;

/// A value of a field, or a text that is nothing but one.
struct Value<'t> {
    /// The text (the piece, where texts are joined) in which it begins.
    text: usize,
    range: Range<usize>,
    /// The field's name; empty where there is none.
    name: &'t str,
}

/// Values with digits, in the order of the conversation.
fn values_of(prompt: &Prompt) -> impl Iterator<Item = Value<'_>> {
    texts(prompt).flat_map(|(index, text)| {
        let text = text.text.as_str();
        let is_data = is_data(text);
        let fields = if is_data { fields(text) } else { Vec::new() };
        let trimmed = text.trim();
        let start = text.len() - text.trim_start().len();
        let whole = (!is_data && is_value(trimmed)).then(|| (start..start + trimmed.len(), ""));
        fields.into_iter().chain(whole).map(move |(range, name)| Value { text: index, range, name })
    })
}

/// Whether a text begins like a JSON object or array.
fn is_data(text: &str) -> bool {
    text.trim_start().starts_with(['{', '['])
}

/// Quoted values with digits and the names before them: `"name": "value"`.
fn fields(text: &str) -> Vec<(Range<usize>, &str)> {
    let mut found = Vec::new();
    let mut name = "";
    let mut quotes = text.match_indices('"').map(|(at, _)| at);
    while let (Some(open), Some(close)) = (quotes.next(), quotes.next()) {
        let quoted = &text[open + 1..close];
        if text[close + 1..].trim_start().starts_with(':') {
            name = quoted;
        } else if is_value(quoted) {
            found.push((open + 1..close, name));
        }
        if found.len() >= VALUES_MAX {
            break;
        }
    }
    found
}

/// One word with a digit, short enough to be a part.
fn is_value(text: &str) -> bool {
    (2..=64).contains(&text.len())
        && text.bytes().any(|b| b.is_ascii_digit())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.+/=".contains(&b))
}

/// Overlapping windows, each found from the one before, so that what is appended moves none of them.
fn windows<'t>(prompt: &Prompt, texts: &'t [usize]) -> impl Iterator<Item = &'t [usize]> {
    let bytes = |index: &usize| prompt.texts[*index].text.len().min(2 * BORDER_BYTES);
    let mut next_start = Some(0);
    std::iter::from_fn(move || {
        let start = next_start.take()?;
        let (mut end, mut total) = (start, 0);
        while end < texts.len() && (total < WINDOW_BYTES || end - start < 2) {
            total += bytes(&texts[end]);
            end += 1;
        }
        if end < texts.len() {
            let (mut next, mut shared) = (end, 0);
            while next > start + 1 && shared < OVERLAP_BYTES {
                next -= 1;
                shared += bytes(&texts[next]);
            }
            next_start = Some(next);
        }
        Some(&texts[start..end])
    })
}

/// Words of letters and digits that have a digit.
fn tokens_with_digits(text: &str) -> Vec<Range<usize>> {
    let mut at = 0;
    let tokens = text.split(|c: char| !c.is_alphanumeric()).map(|token| {
        let start = at;
        at += token.len() + text[at + token.len()..].chars().next().map_or(0, char::len_utf8);
        start..start + token.len()
    });
    tokens.filter(|token| text[token.clone()].bytes().any(|b| b.is_ascii_digit())).collect()
}

fn head_end(text: &str) -> usize {
    text.ceil_char_boundary(BORDER_BYTES)
}

fn tail_start(text: &str) -> usize {
    text.floor_char_boundary(text.len() - BORDER_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt(lengths: &[usize]) -> Prompt {
        let texts = lengths.iter().map(|len| Text {
            place: String::new(),
            message: None,
            role: Role::User,
            text: "x".repeat(*len),
        });
        Prompt { texts: texts.collect(), ..Prompt::default() }
    }

    #[test]
    fn a_message_beside_the_name_of_its_model_is_joined_with_nothing() {
        let mut prompt = prompt(&[5, 5]);
        prompt.context.model = prompt.texts[1].text.clone();
        let mut joined = |place: &str| {
            place.clone_into(&mut prompt.texts[1].place);
            Joined::all(&prompt, &mut Budget::new(1 << 20)).len()
        };
        assert_eq!(joined("model"), 0);
        // Another field may say the same and go on with the message.
        assert_eq!(joined("user"), 2);
    }

    #[test]
    fn every_short_run_of_texts_lies_in_a_window_and_appending_moves_none() {
        let lengths: Vec<usize> = (0..200).map(|i| [1, 900, 40, 5000, 3][i * i % 5] + i).collect();
        let prompt = prompt(&lengths);
        for count in 1..lengths.len() {
            let texts: Vec<usize> = (0..count).collect();
            let all: Vec<&[usize]> = windows(&prompt, &texts).collect();
            for start in 0..count {
                let fits =
                    |end: &usize| lengths[start..*end].iter().sum::<usize>() <= OVERLAP_BYTES;
                let run =
                    (start + 2..=count).take_while(fits).last().unwrap_or(start + 2).min(count);
                let whole = |w: &&[usize]| w[0] <= start && w[w.len() - 1] + 1 >= run;
                assert!(all.iter().any(whole), "{start}..{run} of {count}");
            }
            let longer: Vec<usize> = (0..count + 1).collect();
            let changed = windows(&prompt, &longer).filter(|window| !all.contains(window)).count();
            assert_eq!(changed, 1, "{count}");
        }
    }
}
