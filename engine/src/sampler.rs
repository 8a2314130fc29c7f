//! Chooses the next token from the model's logits.
//!
//! The order of steps is fixed, because each one changes what the next one sees:
//! repetition penalty → presence and frequency penalties → logit bias → the reply's form →
//! temperature → top-k → top-p → min-p → one draw. Repetition looks at prompt and reply, as Hugging Face does; presence
//! and frequency at the reply only, as OpenAI does; bias comes after the penalties, so that -100
//! forbids and 100 forces whatever was said before.
//!
//! Invariants: the same logits, options, seed and history give the same token; of equal logits the
//! lower id counts as larger; NaN is never chosen; a token that the form forbids is never chosen, even
//! if the bias forbids all others; the vocabulary is never sorted as a whole unless
//! the distribution is flat (see [`candidates`]).
//! Not here: stop texts (`reply_text`), end tokens (`engine::generation`).
//! Sources: CTRL (arXiv 1909.05858, repetition), nucleus sampling (arXiv 1904.09751, top-p), min-p
//! (arXiv 2407.01082), the OpenAI API reference (presence, frequency, bias; read November 2026).

mod candidates;
mod logprobs;
mod options;
mod random;
mod weight;

use std::collections::HashMap;

use crate::engine::SamplingOptions;
use crate::error::EngineError;
use crate::tokenizer::TokenId;
use candidates::Cut;
pub(crate) use candidates::Scratch;
pub(crate) use logprobs::Distribution;
use options::Resolved;
use random::Random;

/// Chooses the tokens of one reply.
pub(crate) struct Sampler {
    options: Resolved,
    random: Random,
    seen: Seen,
    /// How often each token occurs in the reply.
    reply_counts: HashMap<TokenId, u32>,
}

impl Sampler {
    /// A sampler for one reply to `prompt`, the `choice`-th of several. Fields that `options` leaves open come from
    /// `defaults`, then from values that change nothing. Errors name the option out of range.
    pub(crate) fn new(
        options: &SamplingOptions,
        defaults: &SamplingOptions,
        prompt: &[TokenId],
        vocabulary_size: usize,
        choice: usize,
    ) -> Result<Sampler, EngineError> {
        let options = Resolved::new(options, defaults, vocabulary_size)?;
        let random = match options.seed {
            Some(seed) => Random::from_seed(seed).of_choice(choice),
            None => Random::from_system()?,
        };
        let mut seen = Seen::default();
        if options.repetition_penalty != 1.0 {
            prompt.iter().for_each(|&token| seen.insert(token));
        }
        Ok(Sampler { options, random, seen, reply_counts: HashMap::new() })
    }

    /// Chooses a token. `logits`, f32 `[vocabulary]`, are changed. With `allowed`, bit `t % 32` of
    /// word `t / 32` says whether token `t` may be chosen. `None` when no token can be chosen.
    pub(crate) fn choose(
        &mut self,
        logits: &mut [f32],
        allowed: Option<&[u32]>,
        scratch: &mut Scratch,
    ) -> Option<TokenId> {
        self.adjust(logits);
        let Some(allowed) = allowed else { return self.draw(logits, scratch) };
        let is_allowed = |token: usize| {
            allowed.get(token / 32).is_some_and(|word| word >> (token % 32) & 1 == 1)
        };
        for (token, logit) in logits.iter_mut().enumerate() {
            if !is_allowed(token) {
                *logit = f32::NEG_INFINITY;
            }
        }
        let any =
            || (0..logits.len()).find(|&token| is_allowed(token)).map(|token| token as TokenId);
        self.draw(logits, scratch).or_else(any)
    }

    fn draw(&mut self, logits: &[f32], scratch: &mut Scratch) -> Option<TokenId> {
        let best = candidates::best(logits)?;
        if self.options.is_greedy() || logits[best as usize] == f32::INFINITY {
            return Some(best);
        }
        let (cut, unit) = (&self.options.cut, self.random.unit());
        if cut.keeps_all(logits.len()) {
            return Some(candidates::at_point_of_all(logits, best, cut.temperature, unit));
        }
        Some(scratch.keep(logits, logits[best as usize], cut).at(unit))
    }

    /// Applies penalties and bias in place.
    fn adjust(&self, logits: &mut [f32]) {
        let Resolved { repetition_penalty, presence_penalty, frequency_penalty, .. } = self.options;
        for &token in &self.seen.tokens {
            if let Some(logit) = logits.get_mut(token as usize) {
                let divide = *logit > 0.0;
                *logit =
                    if divide { *logit / repetition_penalty } else { *logit * repetition_penalty };
            }
        }
        if presence_penalty != 0.0 || frequency_penalty != 0.0 {
            for (&token, &count) in &self.reply_counts {
                logits[token as usize] -= presence_penalty + frequency_penalty * count as f32;
            }
        }
        for &(token, bias) in &self.options.logit_bias {
            if let Some(logit) = logits.get_mut(token as usize) {
                *logit =
                    if bias <= options::BIAS_FORBIDS { f32::NEG_INFINITY } else { *logit + bias };
            }
        }
    }

    /// Counts a token as part of the reply.
    pub(crate) fn count(&mut self, token: TokenId) {
        if self.options.repetition_penalty != 1.0 {
            self.seen.insert(token);
        }
        if self.options.presence_penalty != 0.0 || self.options.frequency_penalty != 0.0 {
            *self.reply_counts.entry(token).or_default() += 1;
        }
    }
}

/// The distinct tokens so far. A bit a token keeps `insert` cheap for prompts of 100,000 tokens.
#[derive(Default)]
struct Seen {
    bits: Vec<u64>,
    tokens: Vec<TokenId>,
}

impl Seen {
    fn insert(&mut self, token: TokenId) {
        let (word, bit) = (token as usize / 64, 1u64 << (token % 64));
        if self.bits.len() <= word {
            self.bits.resize(word + 1, 0);
        }
        if self.bits[word] & bit == 0 {
            self.bits[word] |= bit;
            self.tokens.push(token);
        }
    }
}

#[cfg(test)]
mod tests;
