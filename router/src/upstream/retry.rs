//! Whether an attempt that failed before its first byte is worth repeating at the same upstream, and when.
//!
//! Only where the upstream has surely not begun the work: no connection, too many requests, overloaded. A
//! completion that is asked for twice may be paid for twice, so a server that broke (500, 502, 504) is
//! asked again only where the config says so. A budget bounds repetitions to a share of
//! requests, so that an upstream that is down is not asked twice as often as one that is well. Waits
//! double and are spread over all of their length ("full jitter"), so that clients do not come back in
//! step; a `Retry-After` is kept to, and one that is too long means no retry.
//!
//! Invariant: nothing is repeated once a byte of the reply has been passed on; the gateway asks here
//! before that only. Not here: asking (`gateway`), each repetition's own record and permit.
//!
//! Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015; RFC 9110, 10.2.3 and 15.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::UpstreamError;
use crate::config::Retries;
use crate::dice::Dice;

/// Longest wait before the first repetition.
const WAIT_MIN: Duration = Duration::from_millis(250);
/// Longest wait before a later one.
const WAIT_MAX: Duration = Duration::from_secs(8);
/// Repetitions that may be saved up; an upstream that was quiet may begin with as many.
const SAVED_MAX: u64 = 10;
/// Parts of one repetition: a percent each.
const WHOLE: u64 = 100;

/// The retries of one upstream.
pub(crate) struct Retrier {
    config: Retries,
    /// Hundredths of repetitions that may still be made.
    saved: Mutex<u64>,
}

/// What comes after a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The same again, after a wait.
    Again(Duration),
    /// It could be repeated, and there is no budget.
    NoBudget,
    /// It could be repeated, and the answer would come too late.
    NoTime,
    /// Repeating would not help, or was not asked for.
    Never,
}

impl Retrier {
    pub(crate) fn new(config: Retries) -> Retrier {
        Retrier { config, saved: Mutex::new(SAVED_MAX * WHOLE) }
    }

    /// A request asks this upstream for the first time.
    pub(crate) fn count(&self) {
        let share = u64::from(self.config.budget_percent);
        let mut saved = self.saved();
        *saved = (*saved + share).min(SAVED_MAX * WHOLE);
    }

    /// What comes after an attempt that failed, the `done`th repetition of its request; `left` is how
    /// long the client would wait for the beginning of a reply.
    pub(crate) fn after(
        &self,
        error: &UpstreamError,
        done: u32,
        left: Duration,
        dice: &Dice,
    ) -> Verdict {
        if done >= self.config.attempts || !self.helps(error) {
            return Verdict::Never;
        }
        let wait = match retry_after(error) {
            Some(asked) => asked,
            None => dice.below((WAIT_MIN * 2u32.saturating_pow(done)).min(WAIT_MAX)),
        };
        if wait >= left {
            return Verdict::NoTime;
        }
        let mut saved = self.saved();
        match saved.checked_sub(WHOLE) {
            None => Verdict::NoBudget,
            Some(rest) => {
                *saved = rest;
                Verdict::Again(wait)
            }
        }
    }

    /// Whether the upstream has surely not answered elsewhere, or the config takes the risk.
    fn helps(&self, error: &UpstreamError) -> bool {
        match error {
            UpstreamError::NoConnection(_) | UpstreamError::Timeout(super::NO_CONNECTION) => true,
            UpstreamError::Status { status, .. } => self.config.retry_on.contains(&status.as_u16()),
            // Its work may be under way (a silence, a broken connection), or will fail again.
            _ => false,
        }
    }

    fn saved(&self) -> std::sync::MutexGuard<'_, u64> {
        // A number is replaced as a whole.
        self.saved.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Verdict {
    /// The word of metrics; nothing to count where nothing could be repeated.
    pub(crate) fn word(self) -> Option<&'static str> {
        match self {
            Verdict::Again(_) => Some("made"),
            Verdict::NoBudget => Some("no_budget"),
            Verdict::NoTime => Some("no_time"),
            Verdict::Never => None,
        }
    }
}

fn retry_after(error: &UpstreamError) -> Option<Duration> {
    match error {
        UpstreamError::Status { retry_after_s, .. } => {
            retry_after_s.map(|seconds| Duration::from_secs(seconds.into()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use hyper::StatusCode;

    use super::*;

    const AMPLE: Duration = Duration::from_secs(30);

    fn status(code: u16, retry_after_s: Option<u32>) -> UpstreamError {
        UpstreamError::Status { status: StatusCode::from_u16(code).unwrap(), retry_after_s }
    }

    fn retrier(attempts: u32, budget_percent: u32) -> Retrier {
        Retrier::new(Retries { attempts, budget_percent, ..Retries::default() })
    }

    #[test]
    fn only_what_has_surely_not_begun_is_repeated() {
        for (error, expected) in [
            (status(408, None), true),
            (status(429, None), true),
            (status(500, None), false),
            (status(501, None), false),
            (status(502, None), false),
            (status(503, None), true),
            (status(504, None), false),
            (status(529, None), true),
            (status(404, None), false),
            (UpstreamError::Timeout(super::super::NO_CONNECTION), true),
            (UpstreamError::Timeout("no first byte of the answer"), false),
            (UpstreamError::Credentials(StatusCode::UNAUTHORIZED), false),
            (UpstreamError::BadReply("it is not JSON"), false),
            (UpstreamError::Resting, false),
        ] {
            let verdict = retrier(1, 10).after(&error, 0, AMPLE, &Dice::new(1));
            assert_eq!(matches!(verdict, Verdict::Again(_)), expected, "{error}");
        }
    }

    #[test]
    fn a_server_that_broke_is_asked_again_where_the_config_says_so() {
        let retry_on = vec![500, 502];
        let some = Retrier::new(Retries { attempts: 1, budget_percent: 10, retry_on });
        for (code, expected) in [(500, true), (502, true), (504, false), (503, false)] {
            let verdict = some.after(&status(code, None), 0, AMPLE, &Dice::new(1));
            assert_eq!(matches!(verdict, Verdict::Again(_)), expected, "{code}");
        }
    }

    #[test]
    fn waits_double_up_to_the_most_and_are_spread_over_all_of_their_length() {
        let (retrier, dice) = (retrier(10, 100), Dice::new(42));
        for (done, most) in [(0, 250), (1, 500), (2, 1000), (5, 8000), (9, 8000)] {
            let mut waits = Vec::new();
            for _ in 0..200 {
                retrier.count();
                match retrier.after(&status(503, None), done, AMPLE, &dice) {
                    Verdict::Again(wait) => waits.push(wait.as_millis()),
                    other => panic!("{other:?}"),
                }
            }
            assert!(waits.iter().all(|wait| *wait < most), "{done}");
            let (short, long) = (waits.iter().min().unwrap(), waits.iter().max().unwrap());
            assert!(*short < most / 10 && *long > most * 9 / 10, "{done}: {short} to {long}");
        }
    }

    #[test]
    fn a_retry_after_is_kept_to_or_there_is_no_retry() {
        let after = |seconds, left| {
            let left = Duration::from_secs(left);
            retrier(1, 10).after(&status(429, Some(seconds)), 0, left, &Dice::new(1))
        };
        assert_eq!(after(3, 30), Verdict::Again(Duration::from_secs(3)));
        assert_eq!(after(30, 30), Verdict::NoTime);
        assert_eq!(after(0, 30), Verdict::Again(Duration::ZERO));
        assert_eq!(after(0, 0), Verdict::NoTime);
    }

    #[test]
    fn repetitions_are_a_share_of_requests_and_as_many_as_were_asked_for() {
        let dice = Dice::new(1);
        let some = retrier(1, 20);
        let again = |retrier: &Retrier, done| {
            matches!(retrier.after(&status(503, None), done, AMPLE, &dice), Verdict::Again(_))
        };
        assert!(!again(&some, 1), "one repetition was asked for");
        assert!(!again(&retrier(0, 100), 0), "none was asked for");
        let made = (0..100).filter(|_| again(&some, 0)).count();
        assert_eq!(made, SAVED_MAX as usize, "what was saved up");
        assert_eq!(some.after(&status(503, None), 0, AMPLE, &dice), Verdict::NoBudget);
        let mut made = 0;
        for _ in 0..1000 {
            some.count();
            made += usize::from(again(&some, 0));
        }
        assert_eq!(made, 200, "a fifth of a thousand");
    }
}
