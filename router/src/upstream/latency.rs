//! How long a server took to begin its last answers: for the choice among equals, and for hedges.
//!
//! The mean forgets: half of it is gone every half minute, so that a server that was slow once is tried
//! again and not for ever. The slow end (`p95`) is of the last answers, and of enough of them.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Answers that are remembered.
const RECENT_MAX: usize = 64;
/// Fewer say nothing of the slow end.
const RECENT_MIN: usize = 20;
/// Weight of the newest answer in the mean.
const NEWEST: f64 = 0.3;
/// Time in which half of the mean is forgotten.
const HALF_LIFE: Duration = Duration::from_secs(30);

/// The last answers of one server.
#[derive(Default)]
pub(crate) struct Latency(Mutex<Last>);

#[derive(Default)]
struct Last {
    mean_ms: f64,
    at: Option<Instant>,
    recent: Vec<Duration>,
    oldest: usize,
}

impl Latency {
    /// An answer began after this time.
    pub(crate) fn note(&self, took: Duration, now: Instant) {
        let mut last = self.last();
        let ms = took.as_secs_f64() * 1e3;
        last.mean_ms = match last.at {
            None => ms,
            Some(_) => NEWEST * ms + (1.0 - NEWEST) * last.mean_ms,
        };
        last.at = Some(now);
        if last.recent.len() < RECENT_MAX {
            last.recent.push(took);
            return;
        }
        let oldest = last.oldest;
        last.recent[oldest] = took;
        last.oldest = (oldest + 1) % RECENT_MAX;
    }

    /// Milliseconds until an answer would begin, as far as is known; 0 for a server that was not asked.
    pub(crate) fn expected_ms(&self, now: Instant) -> f64 {
        let last = self.last();
        let Some(at) = last.at else { return 0.0 };
        let half_lives = now.duration_since(at).as_secs_f64() / HALF_LIFE.as_secs_f64();
        last.mean_ms * 0.5f64.powf(half_lives)
    }

    /// The time that 19 of 20 of the last answers kept to; `None` while too few are known.
    pub(crate) fn p95(&self) -> Option<Duration> {
        let mut recent = self.last().recent.clone();
        if recent.len() < RECENT_MIN {
            return None;
        }
        recent.sort_unstable();
        Some(recent[recent.len() * 95 / 100])
    }

    fn last(&self) -> MutexGuard<'_, Last> {
        // Nothing can panic while the lock is held, and the state is valid at every step.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_slow_answer_is_forgotten_by_and_by() {
        let (latency, now) = (Latency::default(), Instant::now());
        assert_eq!(latency.expected_ms(now), 0.0);
        latency.note(ms(800), now);
        assert_eq!(latency.expected_ms(now), 800.0);
        assert_eq!(latency.expected_ms(now + HALF_LIFE), 400.0);
        latency.note(ms(100), now);
        assert_eq!(latency.expected_ms(now).round(), 590.0);
    }

    #[test]
    fn the_slow_end_is_of_the_last_answers_and_of_enough_of_them() {
        let (latency, now) = (Latency::default(), Instant::now());
        for took in 1..RECENT_MIN as u64 {
            latency.note(ms(took), now);
        }
        assert_eq!(latency.p95(), None);
        for took in 1..=100 {
            latency.note(ms(took), now);
        }
        // Of 37 to 100 the 61st.
        assert_eq!(latency.p95(), Some(ms(97)));
    }
}
