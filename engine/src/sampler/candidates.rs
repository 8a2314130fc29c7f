//! Which tokens stay in the draw, without sorting the vocabulary.
//!
//! A vocabulary has up to 250,000 tokens and a draw needs tens. Top-k keeps a short list and a
//! threshold that nearly every logit fails. Top-p uses a bound: tokens with less than (1-p)/V of
//! the mass together hold less than 1-p, so the smallest set that reaches p lies among the others,
//! and only those are sorted.
//!
//! Invariants: the kept set is exactly the one that a full sort would give (`tests` hold a full sort
//! against it); sums are in f64 and in one fixed order; NaN and minus infinity are never kept.

use std::cmp::Ordering;

use super::weight::{mass, weight};
use crate::tokenizer::TokenId;

/// Relative slack for logits that are computed back from weights.
const ROUNDING: f32 = 1e-3;

/// How far the distribution is cut; see [`crate::SamplingOptions`] for the meaning.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    /// Above 0.
    pub(super) temperature: f32,
    /// 0 keeps all.
    pub(super) top_k: usize,
    pub(super) top_p: f32,
    pub(super) min_p: f32,
}

impl Cut {
    /// Whether nothing is cut off a vocabulary of this size.
    pub(super) fn keeps_all(&self, vocabulary_size: usize) -> bool {
        let limited = self.top_k > 0 && self.top_k < vocabulary_size;
        !limited && self.top_p >= 1.0 && self.min_p == 0.0
    }
}

/// A token in the draw. `weight` is its probability relative to the best token's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Candidate {
    pub(super) token: TokenId,
    logit: f32,
    pub(super) weight: f32,
}

/// Memory for candidates that all replies share.
#[derive(Default)]
pub(crate) struct Scratch {
    candidates: Vec<Candidate>,
}

/// The candidates of one draw and the sum of their weights.
#[derive(Debug)]
pub(super) struct Kept<'a> {
    pub(super) candidates: &'a [Candidate],
    pub(super) total: f64,
}

impl Kept<'_> {
    /// The token at this point of the distribution, `unit` in [0, 1).
    pub(super) fn at(&self, unit: f64) -> TokenId {
        let mut left = unit * self.total;
        for candidate in self.candidates {
            left -= f64::from(candidate.weight);
            if left < 0.0 {
                return candidate.token;
            }
        }
        // Rounding can leave a rest as large as one last bit.
        self.candidates.last().expect("the best token is always kept").token
    }
}

/// The largest logit's token, the lowest id of equals. `None` when all are NaN or minus infinity.
pub(super) fn best(logits: &[f32]) -> Option<TokenId> {
    let (mut best, mut best_logit) = (None, f32::NEG_INFINITY);
    for (token, &logit) in logits.iter().enumerate() {
        if logit > best_logit {
            (best, best_logit) = (Some(token as TokenId), logit);
        }
    }
    best
}

/// The token at this point of the whole distribution, `unit` in [0, 1), without a list of
/// candidates. `best` is the token of the largest logit, which is finite.
pub(super) fn at_point_of_all(
    logits: &[f32],
    best: TokenId,
    temperature: f32,
    unit: f64,
) -> TokenId {
    let best_logit = logits[best as usize];
    let mut left = unit * mass(logits, best_logit, temperature);
    for (token, &logit) in logits.iter().enumerate() {
        left -= f64::from(weight(logit, best_logit, temperature));
        if left < 0.0 && logit > f32::NEG_INFINITY {
            return token as TokenId;
        }
    }
    // Rounding can leave a rest as large as one last bit.
    best
}

impl Scratch {
    /// Applies a cut. `best` is the largest logit and finite.
    pub(super) fn keep(&mut self, logits: &[f32], best: f32, cut: &Cut) -> Kept<'_> {
        let weight = |logit: f32| weight(logit, best, cut.temperature);
        // Where this weight begins. A little lower, for the rounding of the logarithm: a candidate
        // too many is cut later.
        let floor = |weight: f64| {
            let logit = best + cut.temperature * weight.ln() as f32;
            (logit - ROUNDING * (1.0 + best.abs())).max(f32::MIN)
        };
        self.candidates.clear();
        let mass = if cut.top_k > 0 && cut.top_k < logits.len() {
            self.take_top_k(logits, cut.top_k);
            self.candidates.iter_mut().for_each(|c| c.weight = weight(c.logit));
            self.total()
        } else if cut.top_p < 1.0 {
            let mass = mass(logits, best, cut.temperature);
            let share = f64::from(1.0 - cut.top_p) / logits.len() as f64 * mass;
            self.take_above(logits, floor(share), weight);
            self.candidates.sort_unstable_by(larger_first);
            mass
        } else {
            self.take_above(logits, floor(f64::from(cut.min_p)), weight);
            0.0
        };
        if cut.top_p < 1.0 {
            self.cut_at_mass(f64::from(cut.top_p) * mass);
        }
        if cut.min_p > 0.0 {
            self.candidates.retain(|candidate| candidate.weight >= cut.min_p);
        }
        Kept { total: self.total(), candidates: &self.candidates }
    }

    /// Takes the `k` largest logits, largest first.
    fn take_top_k(&mut self, logits: &[f32], k: usize) {
        let mut floor = f32::NEG_INFINITY;
        for (token, &logit) in logits.iter().enumerate() {
            // Ids rise, so an equal logit comes too late to matter once k are larger or equal.
            if logit > floor {
                self.candidates.push(Candidate { token: token as TokenId, logit, weight: 0.0 });
                if self.candidates.len() >= 2 * k {
                    floor = self.truncate_to(k);
                }
            }
        }
        self.truncate_to(k);
        self.candidates.sort_unstable_by(larger_first);
    }

    /// Keeps the `k` largest in any order and returns the smallest kept logit.
    fn truncate_to(&mut self, k: usize) -> f32 {
        if self.candidates.len() < k {
            return f32::NEG_INFINITY;
        }
        let (_, smallest, _) = self.candidates.select_nth_unstable_by(k - 1, larger_first);
        let floor = smallest.logit;
        self.candidates.truncate(k);
        floor
    }

    /// Takes the tokens whose logits reach `floor`, in order of their ids.
    fn take_above(&mut self, logits: &[f32], floor: f32, weight: impl Fn(f32) -> f32) {
        // NaN reaches nothing.
        let likely = logits.iter().enumerate().filter(|(_, logit)| **logit >= floor);
        self.candidates.extend(likely.map(|(token, &logit)| Candidate {
            token: token as TokenId,
            logit,
            weight: weight(logit),
        }));
    }

    /// Keeps the shortest beginning of the sorted candidates whose weights reach `mass`.
    fn cut_at_mass(&mut self, mass: f64) {
        let mut sum = 0.0;
        let enough = self.candidates.iter().position(|candidate| {
            sum += f64::from(candidate.weight);
            sum >= mass
        });
        if let Some(last) = enough {
            self.candidates.truncate(last + 1);
        }
    }

    fn total(&self) -> f64 {
        self.candidates.iter().map(|candidate| f64::from(candidate.weight)).sum()
    }
}

/// Larger logits first, of equals the lower id.
fn larger_first(a: &Candidate, b: &Candidate) -> Ordering {
    // NaN is never a candidate; zeros of either sign are equal.
    b.logit.partial_cmp(&a.logit).unwrap_or(Ordering::Equal).then(a.token.cmp(&b.token))
}
