//! The engine's one source of time.
//!
//! Times are measured here and nowhere else, so that a test can hold the clock still and move it by
//! hand. Time decides nothing about tokens: only timings, forecasts and the patience with readers
//! that take nothing.

use std::time::{Duration, Instant};

/// A monotonic clock; clones share it.
#[derive(Clone)]
pub(crate) enum Clock {
    /// The operating system's.
    System,
    /// One that stands still until a test moves it.
    #[cfg(test)]
    Manual { start: Instant, passed_ms: std::sync::Arc<std::sync::atomic::AtomicU64> },
}

impl Clock {
    /// A clock that stands still.
    #[cfg(test)]
    pub(crate) fn manual() -> Clock {
        Clock::Manual { start: Clock::System.now(), passed_ms: Default::default() }
    }

    /// Moves a clock made by [`Clock::manual`].
    #[cfg(test)]
    pub(crate) fn advance(&self, by: Duration) {
        match self {
            Clock::System => panic!("only a manual clock can be moved"),
            Clock::Manual { passed_ms, .. } => {
                passed_ms.fetch_add(by.as_millis() as u64, std::sync::atomic::Ordering::SeqCst);
            }
        }
    }

    /// This moment.
    #[expect(clippy::disallowed_methods, reason = "the one place where the engine reads a clock")]
    pub(crate) fn now(&self) -> Instant {
        match self {
            Clock::System => Instant::now(),
            #[cfg(test)]
            Clock::Manual { start, passed_ms } => {
                let passed = passed_ms.load(std::sync::atomic::Ordering::SeqCst);
                *start + Duration::from_millis(passed)
            }
        }
    }

    /// Time since a moment of this clock.
    pub(crate) fn since(&self, moment: Instant) -> Duration {
        self.now().saturating_duration_since(moment)
    }
}
