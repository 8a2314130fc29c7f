//! Takes out of a reply what its scan finds: each finding becomes `[withheld: payment_card]`.
//!
//! Used where the site answers `reply_finding` with `mask`. A text is held back by as much as a finding
//! may be long, and each new piece is scanned with what went before it. Once that never goes to a cloud,
//! every value found in the part that has not gone yet (a number, a name) is masked. What is said and
//! cannot be taken out (what a passage is about, a value that has gone already) ends the reply:
//! [`Mask::must_cut`].
//!
//! Invariants: what leaves is never-cloud only if it was so before its last piece, and then the reply
//! ends; memory is bounded by [`BEFORE_BYTES`] a text and what is held.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use sluice_policies::{Classification, PolicySet};

use crate::reply_edit::{Edited, TextEdit};
use crate::reply_scan::{Channel, HOLD_BYTES, OVERLAP_BYTES as BEFORE_BYTES, classify};

/// Masks the texts of one reply.
pub(crate) struct Mask {
    policy: Arc<PolicySet>,
    /// The ends of the texts that have gone.
    gone: BTreeMap<Channel, String>,
    must_cut: bool,
}

impl Mask {
    pub(crate) fn new(policy: Arc<PolicySet>) -> Mask {
        Mask { policy, gone: BTreeMap::new(), must_cut: false }
    }

    /// Something was said that cannot be masked: nothing of the reply may go any more.
    pub(crate) fn must_cut(&self) -> bool {
        self.must_cut
    }

    /// The text with every finding in `whole[from..]` masked; `None` where that does not help.
    fn masked(&self, whole: &str, from: usize, is_json: bool) -> Option<String> {
        let seen = classify(&self.policy, whole, None);
        if !seen.never_cloud {
            return Some(whole[from..].to_owned());
        }
        let mut out = String::with_capacity(whole.len());
        let mut at = from;
        for (span, detectors) in self.spans(&seen) {
            if span.end <= at {
                continue;
            }
            let start = span.start.max(at);
            let taken = whole.get(start..span.end)?;
            if is_json && taken.contains(['"', '\\']) {
                return None;
            }
            out.push_str(whole.get(at..start)?);
            out.push_str(&format!("[withheld: {detectors}]"));
            at = span.end;
        }
        out.push_str(whole.get(at..)?);
        let still = classify(&self.policy, &format!("{}{out}", &whole[..from]), None);
        (!still.never_cloud).then_some(out)
    }

    /// Where values were found, without overlaps, with the names of what found them.
    fn spans(&self, seen: &Classification) -> Vec<(Range<usize>, String)> {
        let values = seen.findings.iter().filter(|f| self.policy.finds_values(&f.detector));
        let mut found: Vec<(Range<usize>, &str)> =
            values.map(|f| (f.span.clone(), f.detector.as_str())).collect();
        found.sort_by_key(|(span, _)| (span.start, span.end));
        let mut spans: Vec<(Range<usize>, String)> = Vec::new();
        for (span, detector) in found {
            match spans.last_mut() {
                Some((last, names)) if span.start < last.end => {
                    last.end = last.end.max(span.end);
                    if !names.split(", ").any(|name| name == detector) {
                        names.push_str(", ");
                        names.push_str(detector);
                    }
                }
                _ => spans.push((span, detector.to_owned())),
            }
        }
        spans
    }
}

impl TextEdit for Mask {
    fn edit(&mut self, channel: Channel, _: Option<&str>, text: &str, ends: bool) -> Edited {
        let gone = self.gone.entry(channel).or_default().clone();
        let is_json = matches!(channel, Channel::Arguments(..));
        let masked = self.masked(&format!("{gone}{text}"), gone.len(), is_json);
        let Some(mut out) = masked.filter(|_| !self.must_cut) else {
            self.must_cut = true;
            return Edited { out: String::new(), held: String::new() };
        };
        let held = if ends { String::new() } else { out.split_off(floor(&out, HOLD_BYTES)) };
        let gone = self.gone.entry(channel).or_default();
        gone.push_str(&out);
        gone.drain(..floor(gone, BEFORE_BYTES));
        Edited { out, held }
    }

    fn passes(&self, _: &str) -> bool {
        false
    }

    fn hides(&self) -> bool {
        true
    }
}

/// The first byte of the last `bytes` of a text, or of the character that it lies in.
fn floor(text: &str, bytes: usize) -> usize {
    let mut at = text.len().saturating_sub(bytes);
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;

    static SHIPPED: LazyLock<Arc<PolicySet>> =
        LazyLock::new(|| Arc::new(PolicySet::shipped().expect("the shipped policies are valid")));

    /// Everything that leaves of a text that comes in pieces; `None` if the reply is cut.
    fn said(pieces: &[&str], channel: Channel) -> Option<String> {
        let mut mask = Mask::new(SHIPPED.clone());
        let mut held = String::new();
        let mut left = String::new();
        for (number, piece) in pieces.iter().enumerate() {
            let ends = number + 1 == pieces.len();
            let edited = mask.edit(channel, None, &(held + piece), ends);
            left.push_str(&edited.out);
            held = edited.held;
        }
        (!mask.must_cut()).then_some(left)
    }

    #[test]
    fn a_card_is_masked_however_the_stream_is_cut() {
        let reply = "The card on file is 4539 5787 6362 1486, shall I go on with the refund?";
        let expected =
            "The card on file is [withheld: payment_card], shall I go on with the refund?";
        for at in 1..reply.len() {
            let left = said(&[&reply[..at], &reply[at..]], Channel::Content(0));
            assert_eq!(left.as_deref(), Some(expected), "cut at {at}");
        }
    }

    #[test]
    fn a_clean_reply_passes_whole() {
        let more =
            "It lies on the Seine, has many bridges, and is known for its museums. ".repeat(6);
        let pieces = ["Paris is the capital ", "of France. ", &more];
        assert_eq!(said(&pieces, Channel::Content(0)), Some(pieces.concat()));
    }

    #[test]
    fn what_cannot_be_taken_out_ends_the_reply() {
        let first = "Patient Maria Kowalczyk, date of birth 12 March 1961. ";
        let padding = "Nothing else is known of this. ".repeat(8);
        let rest = "MRN 0048213 was admitted with pneumonia and sepsis.";
        let left = said(&[first, &padding, rest], Channel::Content(0));
        assert!(left.is_none_or(|left| !left.contains("0048213")), "the number stays inside");
        let json = r#"{"card": "4539 5787 6362 1486"}"#;
        let left =
            said(&[json], Channel::Arguments(0, 0)).expect("the number lies inside a string");
        assert_eq!(left, r#"{"card": "[withheld: payment_card]"}"#);
    }
}
