//! Who may wait for the engine when many do, and what those who wait are told.
//!
//! The queue has places for some dozens. If work that could as well go elsewhere, or that can wait for
//! minutes, took all of them, a person with private text would find none: so each kind may fill the queue
//! up to a share, and the last share is kept for never-cloud text that somebody waits for.
//!
//! Invariant: an idle engine admits everybody. Not here: the order in the queue (the engine keeps it by
//! the time that each is wanted), what a refusal becomes (policy says).

use std::time::Duration;

/// Classes that wait at least so long for a first token are patient.
const PATIENT_FROM: Duration = Duration::from_secs(60);

/// How a request stands to the others that want the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Urgency {
    /// How soon its latency class wants the first token.
    pub(crate) within: Option<Duration>,
    /// It may go nowhere else: its text never goes to a cloud.
    pub(crate) never_cloud: bool,
}

/// Where a request stood when it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InQueue {
    /// Requests that waited before it; 0 if it started at once.
    pub(crate) position: usize,
    /// When it was expected to start.
    pub(crate) starts_in: Duration,
}

impl Urgency {
    /// Nobody sits there and waits: batch work.
    pub(crate) fn is_patient(self) -> bool {
        self.within.is_none_or(|within| within >= PATIENT_FROM)
    }

    /// Whether the queue has a place for it when so many wait.
    pub(crate) fn is_admitted(self, waiting: usize, waiting_max: usize) -> bool {
        let places = match (self.never_cloud, self.is_patient()) {
            (true, false) => waiting_max,
            (true, true) => waiting_max * 3 / 4,
            (false, false) => waiting_max / 2,
            (false, true) => waiting_max / 4,
        };
        waiting < places.max(1)
    }

    /// The kind, for the one who is turned away.
    pub(crate) fn in_words(self) -> &'static str {
        match (self.never_cloud, self.is_patient()) {
            (true, false) => "private work",
            (true, true) => "private batch work",
            (false, false) => "work that may go elsewhere",
            (false, true) => "batch work that may go elsewhere",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_places_are_kept_for_private_text_that_somebody_waits_for() {
        let soon = Some(Duration::from_secs(5));
        let late = Some(Duration::from_secs(600));
        for (never_cloud, within, places) in [
            (true, soon, 64),
            (true, late, 48),
            (true, None, 48),
            (false, soon, 32),
            (false, late, 16),
        ] {
            let urgency = Urgency { within, never_cloud };
            assert!(urgency.is_admitted(0, 64) && urgency.is_admitted(0, 1), "{urgency:?}: idle");
            assert!(urgency.is_admitted(places - 1, 64), "{urgency:?}");
            assert!(!urgency.is_admitted(places, 64), "{urgency:?}");
        }
    }
}
