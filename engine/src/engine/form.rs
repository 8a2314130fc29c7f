//! Keeps one reply to its form: when the form holds, and how it ends in time.
//!
//! The form of a whole reply begins where the model's thoughts end, and the thoughts are ended in time
//! for it. The form of a call begins at the call's opening mark and is over after its closing one.
//! When few tokens are left, each choice is tried: if no way to the form's end is short enough after
//! it, the first token of a way that is takes its place. So a reply that is cut off is still whole,
//! unless even the shortest way was too long from the start.
//!
//! Invariants: what is chosen depends on the form, the logits and the tokens left alone. Not here:
//! what a form allows (`grammar`), what to sample from (`sampler`).

use llguidance::toktrie::SimpleVob;

use crate::chat::{Marker, Phase};
use crate::engine::generation::Vocabulary;
use crate::error::EngineError;
use crate::grammar::Constraint;
use crate::tokenizer::TokenId;

/// With fewer tokens to spare than this, every choice is tried.
const SPARE_TOKENS_MIN: usize = 128;
/// Tokens around the end of thoughts: the mark and a line break.
const THOUGHT_END_TOKENS: usize = 2;

/// Where a form holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// In all that is said or called.
    Reply,
    /// In each call.
    Calls,
}

/// The form of one reply.
#[derive(Clone)]
pub(super) struct Form {
    scope: Scope,
    start: Constraint,
    /// Where the reply is in its form, while the form holds.
    at: Option<Constraint>,
    /// Tokens left at which the next choice is tried.
    tried_at: usize,
    /// The reply was led to its end.
    led: bool,
    /// Shortest known way through the whole form.
    length: Option<usize>,
}

impl Form {
    pub(super) fn new(scope: Scope, start: Constraint) -> Form {
        Form { scope, start, at: None, tried_at: usize::MAX, led: false, length: None }
    }

    /// Whether the reply ended because no more tokens were left.
    pub(super) fn led(&self) -> bool {
        self.led
    }

    /// Tokens that may come next; `None`: all but what [`Form::forbidden`] says.
    pub(super) fn allowed(&mut self, phase: Phase) -> Result<Option<SimpleVob>, EngineError> {
        let begins = match self.scope {
            Scope::Reply => phase != Phase::Thoughts,
            Scope::Calls => phase == Phase::Call,
        };
        if begins && self.at.is_none() {
            self.at = Some(self.start.clone());
            self.tried_at = usize::MAX;
        }
        self.at.as_mut().map(Constraint::allowed).transpose()
    }

    /// Tokens that would end the thoughts before a form that has still to come, other than the mark
    /// of their end.
    pub(super) fn forbidden<'a>(
        &self,
        vocabulary: &'a Vocabulary,
    ) -> impl Iterator<Item = TokenId> + use<'a> {
        let waits = self.scope == Scope::Reply && self.at.is_none();
        let call = vocabulary.markup.token(Marker::CallOpen);
        vocabulary.ends.iter().copied().chain(call).filter(move |_| waits)
    }

    /// The choice itself, or what has to come in its place with `left` tokens left, it included.
    pub(super) fn in_time(
        &mut self,
        choice: TokenId,
        left: usize,
        vocabulary: &Vocabulary,
    ) -> TokenId {
        match &self.at {
            Some(at) if left <= self.tried_at => match way_after(at, choice, left) {
                Some(length) => {
                    self.try_again_at(left - 1, length);
                    choice
                }
                None => self.lead(choice, left),
            },
            None if self.scope == Scope::Reply => {
                let start = &self.start;
                let length = *self
                    .length
                    .get_or_insert_with(|| start.closing(left).map_or(0, |way| way.len()));
                match vocabulary.markup.token(Marker::ThinkClose) {
                    Some(end) if left <= length + THOUGHT_END_TOKENS => end,
                    _ => choice,
                }
            }
            _ => choice,
        }
    }

    fn try_again_at(&mut self, left: usize, length: usize) {
        let spare = left.saturating_sub(length);
        self.tried_at = if spare > SPARE_TOKENS_MIN { left - spare / 2 } else { left };
    }

    fn lead(&mut self, choice: TokenId, left: usize) -> TokenId {
        let way = self.at.as_ref().and_then(|at| at.closing(left));
        match way.as_deref() {
            Some([first, ..]) => {
                self.led = true;
                self.tried_at = left;
                *first
            }
            // It is too late, or this is the end already: nothing to lead to.
            _ => {
                self.tried_at = 0;
                choice
            }
        }
    }

    /// Goes on by a token; true when the reply is over.
    pub(super) fn took(&mut self, token: TokenId) -> Result<bool, EngineError> {
        let Some(at) = &mut self.at else { return Ok(false) };
        let over = at.take(token)?;
        if over && self.scope == Scope::Calls {
            self.at = None;
            return Ok(false);
        }
        Ok(over)
    }
}

/// Length of a way to the end after a token, if there is one that fits.
fn way_after(at: &Constraint, token: TokenId, left: usize) -> Option<usize> {
    let mut after = at.clone();
    after.take(token).ok()?;
    Some(after.closing(left - 1)?.len())
}
