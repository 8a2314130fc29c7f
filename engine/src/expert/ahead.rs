//! Reads ahead what the next layer's gate would choose already, when that pays.
//!
//! The next layer's gate, given this layer's input, guesses most of what it will choose (published:
//! 60 to 89 % of the experts). A right guess is read while this layer computes; a wrong one makes the
//! disk late for what is really wanted. So it is measured: when fewer than [`PRECISION_MIN`] of the
//! experts read ahead are wanted, reading ahead rests for a while and then tries again.
//!
//! Invariants: reads ahead use only places that this layer's own misses leave free; nothing here
//! changes what is computed. Not here: the guess itself (`model::moe`).
//! Source: a break-even precision of about 0.6 as sqliteai/warp measured it, `docs/LEARNED.md`.

use std::collections::HashSet;
use std::sync::Arc;

use super::{Expert, ExpertId};

/// Experts read ahead for a layer at most.
pub(super) const AHEAD_MAX: usize = 4;
/// Rows of a pass at most: a prompt's layers want nearly everything, in file order.
const ROWS_MAX: usize = 4;
/// Least share of experts read ahead that must turn out wanted.
const PRECISION_MIN: f64 = 0.6;
/// Experts read ahead before they are judged.
const JUDGED_AFTER: u32 = 48;
/// Layers that pass before another try.
const REST: u32 = 8192;

/// What is read ahead, and how well it went.
pub(super) struct Ahead {
    enabled: bool,
    in_flight: HashSet<ExpertId>,
    ready: Vec<(ExpertId, Arc<Expert>)>,
    /// Since the last judgement.
    read: u32,
    useful: u32,
    resting: u32,
    /// In all.
    pub(super) read_total: u64,
    pub(super) useful_total: u64,
}

impl Ahead {
    pub(super) fn new(enabled: bool) -> Ahead {
        Ahead {
            enabled,
            in_flight: HashSet::new(),
            ready: Vec::new(),
            read: 0,
            useful: 0,
            resting: 0,
            read_total: 0,
            useful_total: 0,
        }
    }

    /// Whether a guess is wanted for the next layer of a pass of so many rows.
    pub(super) fn is_on(&self, rows: usize) -> bool {
        self.enabled && self.resting == 0 && rows <= ROWS_MAX
    }

    /// Whether an expert is being read, or was and waits.
    pub(super) fn has(&self, id: ExpertId) -> bool {
        self.in_flight.contains(&id) || self.ready.iter().any(|(ready, _)| *ready == id)
    }

    /// Experts that may wait beside those that wait already.
    pub(super) fn room(&self) -> usize {
        AHEAD_MAX.saturating_sub(self.in_flight.len() + self.ready.len())
    }

    /// An expert is being read.
    pub(super) fn asked(&mut self, id: ExpertId) {
        self.in_flight.insert(id);
        self.read += 1;
        self.read_total += 1;
    }

    /// Whether an expert that landed had been read ahead; it is no longer under way then.
    pub(super) fn landed(&mut self, id: ExpertId) -> bool {
        self.in_flight.remove(&id)
    }

    /// Whether an expert that is wanted now is under way.
    pub(super) fn is_in_flight(&self, id: ExpertId) -> bool {
        self.in_flight.contains(&id)
    }

    /// Keeps an expert until its layer comes.
    pub(super) fn keep(&mut self, id: ExpertId, expert: Arc<Expert>) {
        self.ready.push((id, expert));
    }

    /// An expert that is wanted now, if it waits.
    pub(super) fn take(&mut self, id: ExpertId) -> Option<Arc<Expert>> {
        let at = self.ready.iter().position(|(ready, _)| *ready == id)?;
        self.was_useful();
        Some(self.ready.swap_remove(at).1)
    }

    /// An expert that was read ahead was wanted.
    pub(super) fn was_useful(&mut self) {
        self.useful += 1;
        self.useful_total += 1;
    }

    /// A layer is over: gives back what was read for it in vain, and judges.
    pub(super) fn layer_over(&mut self, layer: u32) -> Vec<Arc<Expert>> {
        self.resting = self.resting.saturating_sub(1);
        if self.read >= JUDGED_AFTER {
            let precision = f64::from(self.useful) / f64::from(self.read);
            if precision < PRECISION_MIN {
                tracing::debug!(precision, "reading ahead does not pay; resting");
                self.resting = REST;
            }
            (self.read, self.useful) = (0, 0);
        }
        self.ready.extract_if(.., |(id, _)| id.layer == layer).map(|(_, expert)| expert).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(expert: u32) -> ExpertId {
        ExpertId { layer: 1, expert }
    }

    fn guesses(ahead: &mut Ahead, count: u32, useful: u32) {
        for expert in 0..count {
            ahead.asked(id(expert));
            assert!(ahead.landed(id(expert)));
            if expert < useful {
                ahead.was_useful();
            }
        }
        assert!(ahead.layer_over(1).is_empty());
    }

    #[test]
    fn wrong_guesses_rest_and_try_again() {
        let mut ahead = Ahead::new(true);
        guesses(&mut ahead, JUDGED_AFTER, JUDGED_AFTER * 7 / 10);
        assert!(ahead.is_on(1), "seven of ten pay");
        guesses(&mut ahead, JUDGED_AFTER, JUDGED_AFTER / 2);
        assert!(!ahead.is_on(1), "five of ten do not");
        (0..REST).for_each(|_| _ = ahead.layer_over(0));
        assert!(ahead.is_on(1), "another try");
    }

    #[test]
    fn prompts_are_not_guessed() {
        assert!(!Ahead::new(true).is_on(ROWS_MAX + 1));
        assert!(!Ahead::new(false).is_on(1));
    }
}
