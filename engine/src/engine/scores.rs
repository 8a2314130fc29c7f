//! How likely the tokens of a reply's text were, until their text is shown.
//!
//! Text is held back while a stop text may have begun; its tokens wait with it, so that a client never
//! gets the token of a text that it does not get.

use std::collections::VecDeque;

use crate::engine::{Delta, ScoredToken, TokenLogprob};
use crate::error::EngineError;
use crate::sampler::{Distribution, Scratch};
use crate::tokenizer::TokenId;

/// Most alternatives for a token; OpenAI's limit.
const LIKELIEST_MAX: usize = 20;

/// The scores of one reply.
pub(super) struct Scores {
    count: usize,
    /// Of the token that is chosen next.
    distribution: Option<Distribution>,
    likeliest: Vec<TokenId>,
    /// Each with where its text begins.
    waiting: VecDeque<(usize, TokenLogprob)>,
}

impl Scores {
    /// With this many of the likeliest tokens for each.
    pub(super) fn new(count: usize) -> Result<Scores, EngineError> {
        if count > LIKELIEST_MAX {
            return Err(EngineError::InvalidRequest(format!(
                "top_logprobs: expected at most {LIKELIEST_MAX}, got {count}"
            )));
        }
        let (likeliest, waiting) = (Vec::new(), VecDeque::new());
        Ok(Scores { count, distribution: None, likeliest, waiting })
    }

    /// Looks at logits that nobody has changed yet.
    pub(super) fn look(&mut self, logits: &[f32], scratch: &mut Scratch) {
        self.distribution = Distribution::new(logits);
        self.likeliest = match &self.distribution {
            Some(distribution) => distribution.likeliest(self.count, scratch),
            None => Vec::new(),
        };
    }

    /// Notes the token that was chosen; its text begins `at` so many bytes of text.
    pub(super) fn note<'a>(
        &mut self,
        token: TokenId,
        at: usize,
        bytes: impl Fn(TokenId) -> &'a [u8],
    ) {
        let Some(distribution) = &self.distribution else { return };
        let scored = |token: TokenId| ScoredToken {
            bytes: bytes(token).to_vec(),
            logprob: distribution.logprob(token),
        };
        let likeliest = self.likeliest.iter().map(|&token| scored(token)).collect();
        self.waiting.push_back((at, TokenLogprob { chosen: scored(token), likeliest }));
    }

    /// Lets out the tokens whose text begins before this byte of the text.
    pub(super) fn release(&mut self, before: usize, out: &mut Delta) {
        while let Some((at, _)) = self.waiting.front()
            && *at < before
        {
            out.logprobs.extend(self.waiting.pop_front().map(|(_, token)| token));
        }
    }

    /// What waits was no text after all.
    pub(super) fn forget(&mut self) {
        self.waiting.clear();
    }
}
