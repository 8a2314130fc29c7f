//! How likely a token was by the model's own distribution.
//!
//! Taken before penalties, bias, temperature and forms, as OpenAI's API reports it: it says what the
//! model believes, not how it was made to choose. Only computed when somebody asks.
//! Source: OpenAI API reference, `logprobs` and `top_logprobs` (read November 2026).

use super::candidates::{self, Cut, Scratch};
use super::weight::mass;
use crate::tokenizer::TokenId;

/// What stands for the logarithm of nothing: JSON knows no infinity.
const LOGPROB_MIN: f32 = -9999.0;

/// The distribution at one position.
pub(crate) struct Distribution {
    logits: Vec<f32>,
    best: f32,
    /// Logarithm of the sum of all weights relative to the best.
    log_mass: f64,
}

impl Distribution {
    /// Keeps a copy of the logits. `None` when none is a number.
    pub(crate) fn new(logits: &[f32]) -> Option<Distribution> {
        let best = logits[candidates::best(logits)? as usize];
        let log_mass = mass(logits, best, 1.0).ln();
        Some(Distribution { logits: logits.to_vec(), best, log_mass })
    }

    /// The natural logarithm of a token's probability.
    pub(crate) fn logprob(&self, token: TokenId) -> f32 {
        let Some(&logit) = self.logits.get(token as usize) else { return LOGPROB_MIN };
        let logprob = (f64::from(logit - self.best) - self.log_mass) as f32;
        if logprob > LOGPROB_MIN { logprob.min(0.0) } else { LOGPROB_MIN }
    }

    /// The likeliest tokens, likeliest first.
    pub(crate) fn likeliest(&self, count: usize, scratch: &mut Scratch) -> Vec<TokenId> {
        if count == 0 {
            return Vec::new();
        }
        let cut = Cut { temperature: 1.0, top_k: count, top_p: 1.0, min_p: 0.0 };
        let kept = scratch.keep(&self.logits, self.best, &cut);
        kept.candidates.iter().map(|candidate| candidate.token).collect()
    }
}
