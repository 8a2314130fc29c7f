//! Fingerprints in memory, with the time of each and a bound on their number.
//!
//! What is older than the site wants to keep is dropped in silence; what had to make room is not: from
//! then on, for as long as it would have been kept, nobody can say that an unknown conversation is clean.

use std::collections::{HashMap, VecDeque};

use crate::shared_state::Fingerprint;

/// A fingerprint that comes again is noted afresh once this share of `keep` has passed: often enough to
/// live on, seldom enough not to write a line a turn.
const REFRESHES: u64 = 16;

/// What is remembered.
pub(super) struct Known {
    /// Unix seconds at which each was noted last.
    times: HashMap<Fingerprint, u64>,
    /// One entry for each note; those that were noted again later are stale.
    oldest_first: VecDeque<(u64, Fingerprint)>,
    most: usize,
    keep_s: u64,
    /// When something was lost that should have been kept, Unix seconds.
    forgotten_at: Option<u64>,
}

impl Known {
    /// Nothing, with room for `most`.
    pub(super) fn new(most: usize, keep_s: u64) -> Known {
        let (times, oldest_first) = (HashMap::new(), VecDeque::new());
        Known { times, oldest_first, most, keep_s, forgotten_at: None }
    }

    pub(super) fn contains(&self, print: &Fingerprint) -> bool {
        self.times.contains_key(print)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.times.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.times.len()
    }

    /// Notes a fingerprint; `true` if that is news worth keeping.
    pub(super) fn note(&mut self, print: Fingerprint, now: u64) -> bool {
        let refresh_s = self.keep_s / REFRESHES;
        if self.times.get(&print).is_some_and(|at| now <= at.saturating_add(refresh_s)) {
            return false;
        }
        self.restore(print, now);
        self.fit(now);
        if self.oldest_first.len() > 2 * self.most {
            let times = &self.times;
            self.oldest_first.retain(|(at, print)| times.get(print) == Some(at));
        }
        true
    }

    /// Puts back what was noted at some time; a later note of the same stands.
    pub(super) fn restore(&mut self, print: Fingerprint, at: u64) {
        self.times.insert(print, at);
        self.oldest_first.push_back((at, print));
    }

    /// Drops what need not be kept any longer, and what finds no room. Notes may be a refresh late, so they
    /// stay as much longer.
    pub(super) fn fit(&mut self, now: u64) {
        let keep_s = self.keep_s.saturating_add(self.keep_s / REFRESHES);
        while self.oldest_first.front().is_some_and(|(at, _)| at.saturating_add(keep_s) < now) {
            self.drop_oldest();
        }
        while self.times.len() > self.most {
            if self.drop_oldest() {
                self.forget(now);
            }
        }
    }

    /// Drops the oldest note; `true` if a fingerprint went with it.
    fn drop_oldest(&mut self) -> bool {
        let Some((at, print)) = self.oldest_first.pop_front() else { return false };
        let is_last = self.times.get(&print) == Some(&at);
        if is_last {
            self.times.remove(&print);
        }
        is_last
    }

    /// Something was lost.
    pub(super) fn forget(&mut self, now: u64) {
        self.forgotten_at = Some(self.forgotten_at.map_or(now, |at| at.max(now)));
    }

    /// When something was lost, if ever.
    pub(super) fn forgotten_at(&self) -> Option<u64> {
        self.forgotten_at
    }

    /// Whether something was lost that would still be kept.
    pub(super) fn has_forgotten(&self, now: u64) -> bool {
        self.forgotten_at.is_some_and(|at| now <= at.saturating_add(self.keep_s))
    }

    /// Everything, in the order in which it came.
    pub(super) fn all(&self) -> impl Iterator<Item = (Fingerprint, u64)> {
        let live = self.oldest_first.iter().filter(|(at, print)| self.times.get(print) == Some(at));
        live.map(|(at, print)| (*print, *at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 24 * 3600;

    #[test]
    fn what_comes_again_lives_on_and_is_noted_seldom() {
        let mut known = Known::new(10, 16 * DAY);
        assert!(known.note([1; 16], 0));
        assert!(!known.note([1; 16], DAY), "within a refresh");
        assert!(known.note([1; 16], DAY + 1));
        assert!(known.note([2; 16], 17 * DAY + 1));
        assert!(known.contains(&[1; 16]), "its last note is as old as it may be");
        assert!(known.note([2; 16], 18 * DAY + 2));
        assert!(!known.contains(&[1; 16]), "too old");
        assert!(!known.has_forgotten(18 * DAY + 2), "age is no loss");
        assert_eq!(known.all().collect::<Vec<_>>(), [([2; 16], 18 * DAY + 2)]);
    }

    #[test]
    fn what_makes_room_is_a_loss_for_as_long_as_it_would_have_been_kept() {
        let mut known = Known::new(2, DAY);
        for (number, now) in [(1, 5), (2, 6), (3, 7)] {
            assert!(known.note([number; 16], now));
        }
        assert_eq!((known.len(), known.contains(&[1; 16])), (2, false));
        assert!(known.has_forgotten(7 + DAY) && !known.has_forgotten(8 + DAY));
    }
}
