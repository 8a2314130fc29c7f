//! Turns the bytes of generated tokens into text that may be shown.
//!
//! A token can end in the middle of a character, and a stop text can be spread over several tokens.
//! Both are held back until they are certain, so that a reader never sees half a character, nor the
//! beginning of a text that turns out to be a stop.
//!
//! Invariants: what is let out, put together, is the reply up to the first completed stop text,
//! whatever the tokens' boundaries; at most 3 bytes of a character and one byte less than the
//! longest stop text are held. Not here: end tokens (`engine::generation`).

use crate::error::EngineError;

/// Most stop texts of one request; OpenAI's own limit is 4.
const STOPS_MAX: usize = 64;
/// Longest stop text in bytes.
const STOP_BYTES_MAX: usize = 1024;

/// Whether a reply goes on after some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    /// No stop text so far.
    Continue,
    /// The reply ends here; nothing after it will be let out.
    Stop,
}

/// Bytes to characters; an unfinished character waits for its rest.
#[derive(Default)]
pub(crate) struct Characters {
    unfinished: Vec<u8>,
}

impl Characters {
    /// Takes a token's bytes and appends to `out` the characters that are complete.
    pub(crate) fn push(&mut self, bytes: &[u8], out: &mut String) {
        self.unfinished.extend_from_slice(bytes);
        let mut done = 0;
        loop {
            let rest = &self.unfinished[done..];
            match std::str::from_utf8(rest) {
                Ok(text) => {
                    out.push_str(text);
                    done += rest.len();
                    break;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    out.push_str(std::str::from_utf8(valid).expect("from_utf8 called it valid"));
                    done += valid.len();
                    let Some(broken) = error.error_len() else {
                        debug_assert!(after.len() < 4, "a character has at most 4 bytes");
                        break;
                    };
                    out.push(char::REPLACEMENT_CHARACTER);
                    done += broken;
                }
            }
        }
        self.unfinished.drain(..done);
    }

    /// Half a character becomes U+FFFD.
    pub(crate) fn finish(&mut self, out: &mut String) {
        if !self.unfinished.is_empty() {
            out.push(char::REPLACEMENT_CHARACTER);
            self.unfinished.clear();
        }
    }
}

/// Text in which a stop text may have begun.
pub(crate) struct Stops {
    stops: Vec<String>,
    /// The one that ended the reply.
    found: Option<usize>,
    held: String,
    bytes_in: usize,
    bytes_out: usize,
}

impl Stops {
    /// Text that ends at the first of these. Errors when there are too many, or one is empty or too
    /// long.
    pub(crate) fn new(stops: Vec<String>) -> Result<Stops, EngineError> {
        if stops.len() > STOPS_MAX {
            let got = stops.len();
            return Err(EngineError::InvalidRequest(format!(
                "stop: expected at most {STOPS_MAX} texts, got {got}"
            )));
        }
        if let Some(index) = stops.iter().position(|s| s.is_empty() || s.len() > STOP_BYTES_MAX) {
            let got = stops[index].len();
            return Err(EngineError::InvalidRequest(format!(
                "stop[{index}]: expected a text of 1 to {STOP_BYTES_MAX} bytes, got {got}"
            )));
        }
        Ok(Stops { stops, found: None, held: String::new(), bytes_in: 0, bytes_out: 0 })
    }

    /// Takes some text and appends to `out` what is certain by now.
    pub(crate) fn push(&mut self, text: &str, out: &mut String) -> Flow {
        if text.is_empty() {
            return Flow::Continue;
        }
        self.bytes_in += text.len();
        self.held.push_str(text);
        let before = out.len();
        let flow = self.release(out);
        self.bytes_out += out.len() - before;
        flow
    }

    /// Lets out what was held, at the end of a reply that no stop text ended.
    pub(crate) fn finish(&mut self, out: &mut String) -> Flow {
        self.bytes_out += self.held.len();
        out.push_str(&self.held);
        self.held.clear();
        Flow::Continue
    }

    /// The stop text that ended the reply, if one did.
    pub(crate) fn found(&self) -> Option<&str> {
        self.found.map(|index| self.stops[index].as_str())
    }

    /// How much was let out so far, and how much was taken.
    pub(crate) fn bytes(&self) -> (usize, usize) {
        (self.bytes_out, self.bytes_in)
    }

    /// Appends to `out` what no stop text can claim any more.
    fn release(&mut self, out: &mut String) -> Flow {
        if let Some((start, index)) = self.first_complete() {
            out.push_str(&self.held[..start]);
            self.held.clear();
            self.found = Some(index);
            return Flow::Stop;
        }
        let certain = self.held.len() - self.begun_bytes();
        out.push_str(&self.held[..certain]);
        self.held.drain(..certain);
        Flow::Continue
    }

    /// Where the stop text begins that is complete first, and which it is; of two that end together, the
    /// longer.
    fn first_complete(&self) -> Option<(usize, usize)> {
        let found = self.stops.iter().enumerate().filter_map(|(index, stop)| {
            let start = self.held.find(stop.as_str())?;
            Some((start + stop.len(), start, index))
        });
        found.min().map(|(_, start, index)| (start, index))
    }

    /// Length of the longest end of the held text with which some stop text begins.
    fn begun_bytes(&self) -> usize {
        self.stops.iter().map(|stop| overlap_bytes(&self.held, stop)).max().unwrap_or(0)
    }
}

/// Length of the longest proper beginning of `stop` that `text` ends with.
pub(crate) fn overlap_bytes(text: &str, stop: &str) -> usize {
    let longest = text.len().min(stop.len() - 1);
    (1..=longest).rev().find(|&len| text.as_bytes().ends_with(&stop.as_bytes()[..len])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Both stages, one after the other.
    struct ReplyText {
        characters: Characters,
        stops: Stops,
    }

    impl ReplyText {
        fn new(stops: Vec<String>) -> Result<ReplyText, EngineError> {
            Ok(ReplyText { characters: Characters::default(), stops: Stops::new(stops)? })
        }

        fn push(&mut self, bytes: &[u8], out: &mut String) -> Flow {
            let mut text = String::new();
            self.characters.push(bytes, &mut text);
            self.stops.push(&text, out)
        }

        fn finish(&mut self, out: &mut String) {
            let mut text = String::new();
            self.characters.finish(&mut text);
            if self.stops.push(&text, out) == Flow::Continue {
                self.stops.finish(out);
            }
        }
    }

    fn check(stops: &[&str], pieces: &[&str], expected: &[&str], flow: Flow) {
        let mut text = ReplyText::new(stops.iter().map(|s| s.to_string()).collect()).unwrap();
        let mut shown = Vec::new();
        let mut last = Flow::Continue;
        for piece in pieces {
            let mut out = String::new();
            last = text.push(piece.as_bytes(), &mut out);
            shown.push(out);
        }
        assert_eq!(shown, expected, "stops {stops:?}, pieces {pieces:?}");
        assert_eq!(last, flow);
    }

    #[test]
    fn text_without_stops_passes_at_once() {
        check(&[], &["ab", "c"], &["ab", "c"], Flow::Continue);
    }

    #[test]
    fn stop_spread_over_tokens_is_held_and_cut() {
        check(&["END"], &["one E", "N", "D two"], &["one ", "", ""], Flow::Stop);
    }

    #[test]
    fn false_start_of_a_stop_is_let_out() {
        check(&["END"], &["one E", "N", "d"], &["one ", "", "ENd"], Flow::Continue);
        check(&["aab"], &["aa", "a", "c"], &["", "a", "aac"], Flow::Continue);
    }

    #[test]
    fn stop_that_is_complete_first_wins() {
        check(&["abcd", "bc"], &["xabc"], &["xa"], Flow::Stop);
        check(&["bc", "abc"], &["xabc"], &["x"], Flow::Stop);
        let mut stops = Stops::new(vec!["abcd".to_owned(), "bc".to_owned()]).unwrap();
        assert_eq!((stops.push("xa", &mut String::new()), stops.found()), (Flow::Continue, None));
        assert_eq!(
            (stops.push("bcd", &mut String::new()), stops.found()),
            (Flow::Stop, Some("bc"))
        );
    }

    #[test]
    fn half_characters_wait_for_their_rest() {
        let mut text = ReplyText::new(Vec::new()).unwrap();
        let euro = "€".as_bytes();
        let mut out = String::new();
        text.push(&euro[..1], &mut out);
        text.push(&euro[1..2], &mut out);
        assert_eq!(out, "");
        text.push(&euro[2..], &mut out);
        assert_eq!(out, "€");
        text.push(&euro[..2], &mut out);
        text.finish(&mut out);
        assert_eq!(out, "€\u{FFFD}");
    }

    #[test]
    fn unusable_stops_are_refused_with_their_place() {
        let refusal = |stops: Vec<String>| ReplyText::new(stops).err().map(|e| e.to_string());
        assert_eq!(
            refusal(vec!["a".into(), String::new()]).unwrap(),
            "stop[1]: expected a text of 1 to 1024 bytes, got 0"
        );
        assert!(refusal(vec!["a".repeat(1025)]).unwrap().ends_with("got 1025"));
        assert_eq!(
            refusal(vec!["a".into(); 65]).unwrap(),
            "stop: expected at most 64 texts, got 65"
        );
        assert!(refusal(vec!["a".into(); 64]).is_none());
    }

    /// The reply character by character: cut as soon as it ends with a stop text.
    fn naive(text: &str, stops: &[String]) -> String {
        let mut seen = String::new();
        for c in text.chars() {
            seen.push(c);
            let longest =
                stops.iter().filter(|s| seen.ends_with(s.as_str())).map(|s| s.len()).max();
            if let Some(len) = longest {
                seen.truncate(seen.len() - len);
                return seen;
            }
        }
        seen
    }

    proptest! {
        #[test]
        fn any_split_of_any_bytes_decodes_like_the_whole(
            bytes in prop::collection::vec(prop_oneof![any::<u8>(), 0xC0u8..=0xF5, 0x80u8..=0xBF], 0..60),
            cuts in prop::collection::vec(1usize..5, 0..60),
        ) {
            let mut text = ReplyText::new(Vec::new()).unwrap();
            let (mut out, mut rest) = (String::new(), &bytes[..]);
            for cut in cuts {
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                text.push(piece, &mut out);
                rest = after;
            }
            text.push(rest, &mut out);
            text.finish(&mut out);
            prop_assert_eq!(out, String::from_utf8_lossy(&bytes));
        }

        #[test]
        fn stops_cut_where_a_naive_reader_would(
            text in "[abé]{0,40}",
            stops in prop::collection::vec("[abé]{1,5}", 0..4),
            cuts in prop::collection::vec(1usize..4, 0..40),
        ) {
            let mut reply = ReplyText::new(stops.clone()).unwrap();
            let (mut out, mut rest, mut flow) = (String::new(), text.as_bytes(), Flow::Continue);
            for cut in cuts {
                if flow == Flow::Stop { break }
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                flow = reply.push(piece, &mut out);
                rest = after;
            }
            if flow == Flow::Continue { flow = reply.push(rest, &mut out); }
            if flow == Flow::Continue { reply.finish(&mut out); }
            prop_assert_eq!(out, naive(&text, &stops));
        }
    }
}
