//! Stops asking an upstream that keeps failing, and finds out when it is back.
//!
//! Closed until so many failures in a row; then open for a while that doubles up to a most; then half
//! open: one request probes, and its outcome closes or reopens. The probe is a request that policy sends
//! there anyway: nothing is contacted without a decision. Each step is a function of the state and an
//! instant (`…_at`), so tests need no clock.
//!
//! Invariants: at most one probe is under way; a dropped [`Pass`] (the client left) counts neither
//! way and frees the probe's place.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::config::BreakerLimits;

/// One upstream's breaker. Clones share their state.
#[derive(Clone, Default)]
pub struct Breaker {
    limits: BreakerLimits,
    state: Arc<Mutex<State>>,
}

#[derive(Clone, Copy)]
enum State {
    Closed { failures: u32 },
    Open { until: Instant, wait: Duration },
    Probing { wait: Duration },
}

/// What a breaker says to metrics and probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Requests flow.
    Closed,
    /// The next request, or the one under way, probes.
    HalfOpen,
    /// Nothing is sent.
    Open,
}

/// Leave to ask the upstream once; report how it went.
pub struct Pass {
    breaker: Breaker,
    probe: bool,
    reported: bool,
}

impl Default for State {
    fn default() -> Self {
        State::Closed { failures: 0 }
    }
}

impl Breaker {
    /// A closed breaker.
    pub fn new(limits: BreakerLimits) -> Breaker {
        Breaker { limits, state: Arc::default() }
    }

    /// Whether a request could be sent now; takes no place.
    pub fn allows(&self) -> bool {
        self.health() != Health::Open && !matches!(*self.state(), State::Probing { .. })
    }

    /// The state in one word.
    pub fn health(&self) -> Health {
        // Closed it mostly is, and then the time does not matter.
        let is_closed = matches!(*self.state(), State::Closed { .. });
        if is_closed { Health::Closed } else { self.health_at(Instant::now()) }
    }

    /// Takes leave to send one request, if the breaker allows it.
    pub fn pass(&self) -> Option<Pass> {
        self.pass_at(Instant::now())
    }

    fn health_at(&self, now: Instant) -> Health {
        match *self.state() {
            State::Closed { .. } => Health::Closed,
            State::Probing { .. } => Health::HalfOpen,
            State::Open { until, .. } if now >= until => Health::HalfOpen,
            State::Open { .. } => Health::Open,
        }
    }

    fn pass_at(&self, now: Instant) -> Option<Pass> {
        let mut state = self.state();
        let probe = match *state {
            State::Closed { .. } => false,
            State::Open { until, wait } if now >= until => {
                *state = State::Probing { wait };
                true
            }
            State::Open { .. } | State::Probing { .. } => return None,
        };
        drop(state);
        Some(Pass { breaker: self.clone(), probe, reported: false })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // Nothing can panic while the lock is held, and the state is valid at every step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pass {
    /// The upstream has begun to answer: a probe has found out what it is for, however long the rest takes.
    /// `true` if that closed the breaker.
    pub fn begins_to_answer(&mut self) -> bool {
        if !std::mem::take(&mut self.probe) {
            return false;
        }
        let before = std::mem::take(&mut *self.breaker.state());
        !matches!(before, State::Closed { .. })
    }

    /// The upstream answered; `true` if that closed the breaker.
    pub fn succeed(mut self) -> bool {
        self.reported = true;
        let before = std::mem::take(&mut *self.breaker.state());
        !matches!(before, State::Closed { .. })
    }

    /// The upstream failed: refused, timed out, broke off, or was outrun before it began; `true` if that opened the breaker.
    pub fn fail(self) -> bool {
        self.fail_at(Instant::now())
    }

    fn fail_at(mut self, now: Instant) -> bool {
        self.reported = true;
        let BreakerLimits { failures: failures_max, open: open_min, open_at_most } =
            self.breaker.limits;
        let mut state = self.breaker.state();
        let open = |wait| State::Open { until: now + wait, wait };
        *state = match *state {
            State::Closed { failures } if failures + 1 < failures_max => {
                State::Closed { failures: failures + 1 }
            }
            State::Closed { .. } => open(open_min),
            State::Probing { wait } => open((wait * 2).min(open_at_most)),
            // A request from before the breaker opened: it is open already.
            State::Open { .. } => return false,
        };
        matches!(*state, State::Open { .. })
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if self.reported || !self.probe {
            return;
        }
        let mut state = self.breaker.state();
        if let State::Probing { wait } = *state {
            *state = State::Open { until: Instant::now(), wait };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAILURES_MAX: u32 = 5;
    const OPEN_MIN: Duration = Duration::from_secs(2);
    const OPEN_MAX: Duration = Duration::from_secs(60);

    fn opened(now: Instant) -> Breaker {
        let breaker = Breaker::default();
        for failure in 1..=FAILURES_MAX {
            let opened = breaker.pass_at(now).unwrap().fail_at(now);
            assert_eq!(opened, failure == FAILURES_MAX, "{failure}");
        }
        breaker
    }

    #[test]
    fn opens_after_failures_in_a_row_only() {
        let now = Instant::now();
        let breaker = Breaker::default();
        for _ in 1..FAILURES_MAX {
            breaker.pass_at(now).unwrap().fail_at(now);
        }
        assert!(!breaker.pass_at(now).unwrap().succeed(), "it was closed");
        breaker.pass_at(now).unwrap().fail_at(now);
        assert_eq!(breaker.health_at(now), Health::Closed);
        assert_eq!(opened(now).health_at(now), Health::Open);
        assert!(opened(now).pass_at(now).is_none());
    }

    #[test]
    fn a_probe_that_is_being_answered_keeps_nobody_waiting() {
        let now = Instant::now();
        let breaker = opened(now);
        let mut probe = breaker.pass_at(now + OPEN_MIN).unwrap();
        assert!(probe.begins_to_answer());
        let mut other = breaker.pass_at(now + OPEN_MIN).expect("it is closed");
        assert!(!probe.begins_to_answer() && !other.begins_to_answer(), "it was closed");
        // What breaks off later is a failure like any other.
        assert!(!probe.fail_at(now + OPEN_MIN));
        assert_eq!(breaker.health_at(now + OPEN_MIN), Health::Closed);
    }

    #[test]
    fn one_probe_at_a_time_closes_it_again() {
        let now = Instant::now();
        let breaker = opened(now);
        let later = now + OPEN_MIN;
        assert_eq!(breaker.health_at(later), Health::HalfOpen);
        let probe = breaker.pass_at(later).unwrap();
        assert!(breaker.pass_at(later).is_none(), "a second probe was let through");
        assert!(!breaker.allows());
        assert!(probe.succeed(), "the breaker closes");
        assert_eq!(breaker.health_at(later), Health::Closed);
    }

    #[test]
    fn a_failed_probe_doubles_the_wait_up_to_the_most() {
        let mut now = Instant::now();
        let breaker = opened(now);
        let mut wait = OPEN_MIN;
        for _ in 0..8 {
            let just_before = now + wait - Duration::from_millis(1);
            assert!(breaker.pass_at(just_before).is_none(), "open for {wait:?}");
            now += wait;
            breaker.pass_at(now).unwrap().fail_at(now);
            wait = (wait * 2).min(OPEN_MAX);
        }
        assert_eq!(wait, OPEN_MAX);
    }

    #[test]
    fn a_client_that_leaves_frees_the_probe_and_counts_neither_way() {
        let now = Instant::now();
        let breaker = opened(now);
        drop(breaker.pass_at(now + OPEN_MIN).unwrap());
        assert!(breaker.pass_at(now + OPEN_MIN).is_some());
        let closed = Breaker::default();
        for _ in 0..2 * FAILURES_MAX {
            drop(closed.pass_at(now));
        }
        assert_eq!(closed.health_at(now), Health::Closed);
    }

    #[test]
    fn a_request_from_before_the_breaker_opened_does_not_free_the_probe() {
        let now = Instant::now();
        let breaker = Breaker::default();
        let early = breaker.pass_at(now).unwrap();
        for _ in 0..FAILURES_MAX {
            breaker.pass_at(now).unwrap().fail_at(now);
        }
        let _probe = breaker.pass_at(now + OPEN_MIN).unwrap();
        drop(early);
        assert!(breaker.pass_at(now + OPEN_MIN).is_none());
    }
}
