//! Who may wait for the engine when many do, and what those who wait are told.
//!
//! The queue has places for some dozens. If work that could as well go elsewhere, or that can wait for
//! minutes, took all of them, a person with private text would find none: so each kind may fill the queue
//! up to a share, and the last share is kept for never-cloud text that somebody waits for.
//!
//! Who was admitted and is still being read counts as one who waits: many that come at once would all find
//! the queue empty otherwise.
//!
//! Invariant: an idle engine admits everybody. Not here: the order in the queue (the engine keeps it by
//! the time that each is wanted), what a refusal becomes (policy says).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sluice_engine::Engine;

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

/// The requests that were admitted and do not stand in the engine's queue yet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Arrivals(Arc<Mutex<usize>>);

/// One of them, until it is dropped.
#[derive(Debug)]
pub(crate) struct Arrival(Arrivals);

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

impl Arrivals {
    /// Lets a request in if its kind may wait for this engine now; else tells how many wait before it.
    pub(crate) fn admit(&self, urgency: Urgency, engine: &Engine) -> Result<Arrival, usize> {
        let load = || {
            let now = engine.forecast();
            (now.running + now.waiting, engine.running_max())
        };
        self.admit_to(urgency, load, engine.waiting_max())
    }

    /// `load` tells how many run or wait, and how many may run; it is asked while nobody else arrives.
    fn admit_to(
        &self,
        urgency: Urgency,
        load: impl FnOnce() -> (usize, usize),
        waiting_max: usize,
    ) -> Result<Arrival, usize> {
        let mut arriving = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (inside, running_max) = load();
        let waiting = (inside + *arriving).saturating_sub(running_max);
        if !urgency.is_admitted(waiting, waiting_max) {
            return Err(waiting);
        }
        *arriving += 1;
        Ok(Arrival(self.clone()))
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        let mut arriving = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        *arriving = arriving.saturating_sub(1);
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

    #[test]
    fn many_that_come_at_once_do_not_all_find_the_queue_empty() {
        let arrivals = Arrivals::default();
        let patient = Urgency { within: None, never_cloud: false };
        let idle = || (0, 4);
        let mut inside: Vec<Arrival> =
            (0..20).map(|_| arrivals.admit_to(patient, idle, 64).unwrap()).collect();
        // Four will run and sixteen wait.
        assert_eq!(arrivals.admit_to(patient, idle, 64).unwrap_err(), 16);
        let private = Urgency { within: Some(Duration::from_secs(5)), never_cloud: true };
        inside.push(arrivals.admit_to(private, idle, 64).unwrap());
        // Who stands in the queue is the engine's to count.
        drop(inside);
        assert_eq!(arrivals.admit_to(patient, || (20, 4), 64).unwrap_err(), 16);
        assert!(arrivals.admit_to(patient, || (19, 4), 64).is_ok());
    }
}
