//! Looks at what comes back: a reply can hold regulated text though its request did not.
//!
//! The site's answer to `reply_finding` says what happens then. `taint` lets the reply pass and keeps
//! the conversation private from then on: text is scanned as it goes by, and nothing waits. `cut` ends
//! the reply before the finding leaves: events are held back until [`HOLD_BYTES`] of text have come
//! after theirs, as long as the longest value that a shipped detector knows, so that the first token waits for
//! a few more and not for the whole answer. `mask` takes the finding out (`reply_mask`), and keeps the
//! conversation private as `taint` does.
//!
//! A reply has several texts: each choice's content, its reasoning, the arguments of its tool calls, and every
//! string of a message that nobody knows the meaning of.
//! Each is scanned by itself, across chunks, with enough of what came before to find what a chunk's
//! border splits. A reply that is scanned whole is remembered with what it held: the next turn sends it again.
//!
//! Invariants: memory is bounded by [`OVERLAP_BYTES`] a text and the events of [`HOLD_BYTES`]; a scan
//! that fails counts as a finding. Not here: what a finding is (`policies`), remembering (`taint`).

mod place;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use sluice_policies::{
    Classification, PolicySet, Prompt, ReplyAnswer, Role, ScanCache, ScanMemory, Text,
};

use crate::reply_mask::Mask;
pub(crate) use place::{NUMBER_MIN, Place, is_no_text};

/// Text that is kept before a border, so that what it splits is found: a person's name and what is
/// said of him a few sentences later.
pub(crate) const OVERLAP_BYTES: usize = 2048;
/// New text after which `taint` scans; small enough to keep memory small, large enough to be cheap.
const STEP_BYTES: usize = 4096;
/// Text that must have come after an event before `cut` lets it go: the longest card number or IBAN
/// with a separator after each character, or the twelve words of a recovery phrase, and a word. Of a
/// site's own longer values the beginning may have left by then.
pub(crate) const HOLD_BYTES: usize = 128;

/// One of a reply's texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Channel {
    /// What the model says in a choice.
    Content(u32),
    /// What else is said in a choice, and where: what the model thinks, why it refuses, anything.
    Aside(u32, Place),
    /// The arguments of a choice's tool call: choice and call.
    Arguments(u32, u32),
    /// The id of a choice's tool call. It is not scanned: a program made it.
    CallId(u32, u32),
}

/// A piece of one of a reply's texts.
pub(crate) struct ReplyText {
    pub(crate) channel: Channel,
    pub(crate) text: String,
}

impl ReplyText {
    /// A piece of a text.
    pub(crate) fn new(channel: Channel, text: String) -> ReplyText {
        ReplyText { channel, text }
    }

    /// Whether the model said it.
    pub(crate) fn is_said(&self) -> bool {
        !matches!(self.channel, Channel::CallId(..))
    }
}

/// Scans the texts of one reply.
pub(crate) struct ReplyScan {
    policy: Arc<PolicySet>,
    scans: Arc<ScanCache>,
    tenant: Arc<str>,
    step_bytes: usize,
    windows: BTreeMap<Channel, Window>,
    found: bool,
}

/// The end of a text: `text[..scanned]` was scanned before.
#[derive(Default)]
struct Window {
    text: String,
    scanned: usize,
}

impl ReplyScan {
    /// A scan of a reply to a tenant by the site's policies.
    pub(crate) fn new(
        policy: Arc<PolicySet>,
        scans: Arc<ScanCache>,
        tenant: Arc<str>,
    ) -> ReplyScan {
        let step_bytes = match policy.reply_answer() {
            ReplyAnswer::Taint | ReplyAnswer::Mask => STEP_BYTES,
            // Every piece at once: nothing may go before it was looked at.
            ReplyAnswer::Cut => 1,
        };
        let windows = BTreeMap::new();
        ReplyScan { policy, scans, tenant, step_bytes, windows, found: false }
    }

    /// Whether findings end the reply.
    pub(crate) fn cuts(&self) -> bool {
        self.policy.reply_answer() == ReplyAnswer::Cut
    }

    /// What takes findings out of the reply, if the site wants that.
    pub(crate) fn mask(&self) -> Option<Mask> {
        let masks = self.policy.reply_answer() == ReplyAnswer::Mask;
        masks.then(|| Mask::new(self.policy.clone()))
    }

    /// Takes a piece; `true` once something that never goes to a cloud was found.
    pub(crate) fn feed(&mut self, piece: &ReplyText) -> bool {
        if self.found || !piece.is_said() {
            return self.found;
        }
        let window = self.windows.entry(piece.channel).or_default();
        window.text.push_str(&piece.text);
        if window.text.len() - window.scanned >= self.step_bytes {
            self.found = window.holds_finding(&self.policy, &self.scans, &self.tenant);
            window.forget();
        }
        self.found
    }

    /// Whether anything was found so far.
    pub(crate) fn found(&self) -> bool {
        self.found
    }

    /// Scans what is left; `true` if anything was found in the whole reply.
    pub(crate) fn finish(&mut self) -> bool {
        for (_, window) in std::mem::take(&mut self.windows) {
            let fresh = window.text.len() > window.scanned;
            self.found = self.found
                || fresh && window.holds_finding(&self.policy, &self.scans, &self.tenant);
        }
        self.found
    }
}

impl Window {
    /// Whether what is here, taken as a model's reply, never goes to a cloud.
    fn holds_finding(&self, policy: &PolicySet, scans: &ScanCache, tenant: &str) -> bool {
        // A part of a text is not what the next turn sends.
        let memory = (self.scanned == 0).then_some(ScanMemory { cache: scans, scope: tenant });
        classify(policy, &self.text, memory).never_cloud
    }

    /// Keeps the last [`OVERLAP_BYTES`], from a character's start.
    fn forget(&mut self) {
        let mut from = self.text.len().saturating_sub(OVERLAP_BYTES);
        while !self.text.is_char_boundary(from) {
            from += 1;
        }
        self.text.drain(..from);
        self.scanned = self.text.len();
    }
}

/// A text, taken as a model's reply.
pub(crate) fn classify(
    policy: &PolicySet,
    text: &str,
    memory: Option<ScanMemory<'_>>,
) -> Classification {
    let text = Text {
        place: "reply".to_owned(),
        message: Some(0),
        role: Role::Assistant,
        text: text.to_owned(),
    };
    let prompt = Prompt { texts: vec![text], ..Prompt::default() };
    match memory {
        Some(memory) => policy.classify_with(&prompt, memory),
        None => policy.classify(&prompt),
    }
}

/// Events of a stream that wait until enough text came after theirs.
#[derive(Default)]
pub(crate) struct HoldBack {
    events: VecDeque<(Bytes, usize)>,
    text_bytes: usize,
}

impl HoldBack {
    /// Takes events and how much text is in them; gives those that may go.
    pub(crate) fn push(&mut self, bytes: Bytes, text_bytes: usize) -> Vec<Bytes> {
        self.events.push_back((bytes, text_bytes));
        self.text_bytes += text_bytes;
        let mut free = Vec::new();
        while let Some((_, first)) = self.events.front()
            && self.text_bytes - first >= HOLD_BYTES
        {
            self.text_bytes -= first;
            free.extend(self.events.pop_front().map(|(bytes, _)| bytes));
        }
        free
    }

    /// The reply is over and clean: everything may go.
    pub(crate) fn release(&mut self) -> Vec<Bytes> {
        self.text_bytes = 0;
        self.events.drain(..).map(|(bytes, _)| bytes).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dice::Dice;

    fn policy() -> Arc<PolicySet> {
        Arc::new(PolicySet::shipped().expect("the shipped policies are valid"))
    }

    fn scan_by(policy: &Arc<PolicySet>) -> ReplyScan {
        let scans = Arc::new(ScanCache::new(1 << 20, &[7; 32]));
        ReplyScan::new(policy.clone(), scans, "ward".into())
    }

    fn holds_finding(policy: &PolicySet, text: &str) -> bool {
        classify(policy, text, None).never_cloud
    }

    fn said(text: &str) -> ReplyText {
        ReplyText::new(Channel::Content(0), text.to_owned())
    }

    #[test]
    fn finds_a_card_that_chunks_split_at_any_place() {
        let policy = policy();
        let reply = "The card on file is 4539 5787 6362 1486, as you asked.";
        for at in 1..reply.len() {
            let mut scan = scan_by(&policy);
            scan.feed(&said(&reply[..at]));
            scan.feed(&said(&reply[at..]));
            assert!(scan.finish(), "split at {at}");
        }
    }

    #[test]
    fn finds_what_a_long_reply_s_steps_split() {
        let policy = policy();
        let card = "card 4539 5787 6362 1486";
        for lead in [STEP_BYTES - 30, STEP_BYTES - 10, STEP_BYTES, 3 * STEP_BYTES - 12] {
            let mut scan = scan_by(&policy);
            let reply = format!("{}{card} and more", "word ".repeat(lead / 5));
            for chunk in reply.as_bytes().chunks(7) {
                scan.feed(&said(std::str::from_utf8(chunk).expect("ASCII")));
            }
            assert!(scan.finish(), "{lead}");
            assert!(scan.windows.values().all(|w| w.text.len() <= OVERLAP_BYTES + STEP_BYTES));
        }
    }

    /// The texts of the corpus that never go to a cloud when a model says them.
    fn private_texts(policy: &PolicySet) -> Vec<String> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../policies/corpus");
        let mut texts = Vec::new();
        for file in ["everyday", "general", "layouts", "names", "prompts", "varied"] {
            let rows = std::fs::read_to_string(format!("{folder}/{file}.jsonl"));
            for row in rows.expect("the corpus is readable").lines() {
                let row: serde_json::Value = serde_json::from_str(row).expect("a line is a row");
                texts.extend(row["text"].as_str().map(str::to_owned));
            }
        }
        texts.retain(|text| text.len() <= OVERLAP_BYTES / 2 && holds_finding(policy, text));
        texts
    }

    /// What the whole reply holds is found in its chunks, wherever they begin and whatever went before.
    #[test]
    fn finds_in_any_chunks_what_the_whole_reply_holds() {
        let policy = policy();
        let dice = Dice::new(0x5eed);
        let below = |bound: usize| (dice.unit() * bound as f64) as usize;
        let (mut missed, mut tried) = (Vec::new(), 0);
        for text in private_texts(&policy).iter().step_by(3) {
            let lead = "The museum opens at ten. ".repeat(below(2 * STEP_BYTES / 25));
            let reply = format!("{lead}\n\n{text}\n\nIs there anything else?");
            if !holds_finding(&policy, &reply) {
                continue;
            }
            let mut scan = scan_by(&policy);
            let chunk_bytes_max = [4, 30, 300, 6000][below(4)];
            let mut rest = reply.as_str();
            while !rest.is_empty() {
                let (chunk, behind) =
                    rest.split_at(rest.ceil_char_boundary(1 + below(chunk_bytes_max)));
                scan.feed(&said(chunk));
                rest = behind;
            }
            tried += 1;
            if !scan.finish() {
                missed.push(format!("{} bytes before {text:?}", lead.len()));
            }
        }
        assert!(tried > 300, "{tried}");
        assert!(missed.is_empty(), "{} of {tried}:\n{}", missed.len(), missed.join("\n"));
    }

    #[test]
    fn what_the_next_turn_sends_again_is_known() {
        let policy = policy();
        let reply = "The card on file is 4539 5787 6362 1486, as you asked.";
        let mut scan = scan_by(&policy);
        scan.feed(&said(&reply[..20]));
        scan.feed(&said(&reply[20..]));
        assert!(scan.finish());
        assert_eq!(scan.scans.known(), 1);
        let prompt = Prompt::from_user_text(reply);
        for (tenant, known) in [("ward", 1), ("laboratory", 2)] {
            let memory = ScanMemory { cache: &scan.scans, scope: tenant };
            assert!(policy.classify_with(&prompt, memory).never_cloud);
            assert_eq!(scan.scans.known(), known, "{tenant}");
        }
    }

    #[test]
    fn of_a_long_reply_no_part_is_remembered_but_its_beginning() {
        let mut scan = scan_by(&policy());
        for _ in 0..4 * STEP_BYTES / 5 {
            scan.feed(&said("word "));
        }
        assert!(!scan.finish());
        assert_eq!(scan.scans.known(), 1);
    }

    #[test]
    fn texts_of_different_channels_are_not_mixed() {
        let mut scan = scan_by(&policy());
        for (i, part) in ["4539 57", "87 6362 1486"].into_iter().enumerate() {
            let channel = Channel::Content(i as u32);
            scan.feed(&ReplyText { channel, text: part.to_owned() });
        }
        assert!(!scan.finish());
        let mut scan = scan_by(&policy());
        for part in ["{\"card\": \"4539 57", "87 6362 1486\"}"] {
            let channel = Channel::Arguments(0, 1);
            scan.feed(&ReplyText { channel, text: part.to_owned() });
        }
        assert!(scan.finish());
    }

    #[test]
    fn an_ordinary_reply_is_clean() {
        let mut scan = scan_by(&policy());
        scan.feed(&said("Paris is the capital of France."));
        assert!(!scan.finish());
    }

    #[test]
    fn events_go_once_enough_text_came_after_them() {
        let mut hold = HoldBack::default();
        let event = |n: u8| Bytes::from(vec![n]);
        assert!(hold.push(event(1), 10).is_empty());
        assert!(hold.push(event(2), HOLD_BYTES - 1).is_empty());
        assert_eq!(hold.push(event(3), 1), [event(1)]);
        assert_eq!(hold.push(event(4), HOLD_BYTES), [event(2), event(3)]);
        assert_eq!(hold.release(), [event(4)]);
        assert!(hold.release().is_empty());
    }

    /// A token is about four bytes: the first one waits for some thirty more, whatever comes after.
    #[test]
    fn the_first_event_waits_for_a_line_and_not_for_the_answer() {
        const TOKEN_BYTES: usize = 4;
        let mut hold = HoldBack::default();
        let token = |number: usize| Bytes::from(number.to_string());
        let waited = (0..).find(|number| !hold.push(token(*number), TOKEN_BYTES).is_empty());
        assert!(waited.is_some_and(|tokens| tokens <= 32), "{waited:?} tokens");
        for number in 100..1000 {
            assert_eq!(
                hold.push(token(number), TOKEN_BYTES).len(),
                1,
                "one goes for one that comes"
            );
        }
    }
}
