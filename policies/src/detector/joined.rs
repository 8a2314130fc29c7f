//! All texts of a prompt as one: what is split over parts, messages and turns comes together.
//!
//! Long texts contribute their ends only: whatever crosses a border lies near it, and the texts
//! themselves were scanned whole.

use std::ops::Range;

use crate::normalize::Budget;
use crate::prompt::{Prompt, Role, Text};

/// Bytes of a text on either side of a border that take part.
const BORDER_BYTES: usize = 768;

/// How near: the word that introduces a number may be what was cut.
const NEAR_BYTES: usize = 40;

/// Joined texts and the way back.
pub(crate) struct Joined {
    pub(crate) text: String,
    pieces: Vec<Piece>,
    /// Report only findings near a border: the others are known.
    borders_only: bool,
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
        let is_user = |text: &Text| text.role == Role::User;
        let users = prompt.texts.iter().filter(|t| is_user(t)).count();
        let mut all = vec![
            Joined::new(prompt, "", true, |_| true),
            Joined::new(prompt, "\n", false, |_| true),
        ];
        if users > 1 && users < prompt.texts.len() {
            all.push(Joined::new(prompt, "", true, is_user));
        }
        all.retain(|joined| budget.take(joined.text.len()));
        all
    }

    fn new(
        prompt: &Prompt,
        glue: &str,
        borders_only: bool,
        takes: impl Fn(&Text) -> bool,
    ) -> Joined {
        let mut joined = Joined { text: String::new(), pieces: Vec::new(), borders_only };
        for (index, text) in prompt.texts.iter().enumerate().filter(|(_, text)| takes(text)) {
            let text = text.text.as_str();
            if text.len() <= 2 * BORDER_BYTES {
                joined.add(index, text, 0..text.len());
            } else {
                joined.add(index, text, 0..head_end(text));
                // A word that no detector knows keeps the two ends of one text apart.
                joined.text.push_str("\n\n \u{2026} \n\n");
                joined.add(index, text, tail_start(text)..text.len());
            }
            joined.text.push_str(glue);
        }
        joined
    }

    fn add(&mut self, index: usize, text: &str, range: Range<usize>) {
        self.pieces.push(Piece {
            joined: self.text.len(),
            text: index,
            start: range.start,
            len: range.len(),
        });
        self.text.push_str(&text[range]);
    }

    /// Text and range of a finding: where it starts, cut at the end of that text.
    pub(crate) fn place(&self, range: &Range<usize>) -> Option<(usize, Range<usize>)> {
        let piece = &self.pieces[..self.pieces.partition_point(|p| p.joined <= range.start)];
        let piece = piece.iter().rev().find(|p| p.len > 0)?;
        let piece_end = piece.joined + piece.len;
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

fn head_end(text: &str) -> usize {
    (BORDER_BYTES..).find(|&at| text.is_char_boundary(at)).expect("the text's end is a boundary")
}

fn tail_start(text: &str) -> usize {
    let at = text.len() - BORDER_BYTES;
    (0..=at).rev().find(|&at| text.is_char_boundary(at)).expect("0 is a boundary")
}
