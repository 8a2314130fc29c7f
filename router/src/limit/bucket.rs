//! A limit a minute as one number: how far its use is ahead of time (GCRA, the generic cell rate algorithm).
//!
//! Each unit that is taken pushes the moment at which the bucket is empty again by a minute over the
//! limit; what may be taken now is what keeps that moment within a minute. So a whole minute's worth may
//! come at once, no window has edges, and a bucket that is not used needs no memory.
//! Source: ATM Forum Traffic Management 4.1, section 4.4.2, the virtual scheduling form.

use std::num::NonZeroU64;
use std::time::Duration;

use tokio::time::Instant;

/// What a limit speaks of.
const PERIOD: Duration = Duration::from_secs(60);

/// The state of one limit.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bucket {
    /// When all that was taken is forgotten; `None` if nothing was.
    empty_at: Option<Instant>,
}

/// What is left of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Level {
    /// The limit, units a minute.
    pub(crate) limit: u64,
    /// What may be taken now.
    pub(crate) remaining: u64,
    /// Until all of it may be taken again.
    pub(crate) reset: Duration,
}

impl Bucket {
    /// What is left now.
    pub(super) fn level(&self, limit: NonZeroU64, now: Instant) -> Level {
        let reset = self.ahead(now);
        let free = PERIOD.saturating_sub(reset);
        let remaining = (free.as_nanos() / per_unit(limit)).min(u128::from(limit.get()));
        Level { limit: limit.get(), remaining: remaining as u64, reset }
    }

    /// How long to wait until units can be taken; zero if they can be now.
    pub(super) fn wait(&self, limit: NonZeroU64, units: u64, now: Instant) -> Duration {
        let free = PERIOD.saturating_sub(span(limit, units));
        self.ahead(now).saturating_sub(free)
    }

    /// Takes units, more than there are if need be: they are paid back by waiting. Says when they are
    /// forgotten.
    pub(super) fn take(&mut self, limit: NonZeroU64, units: u64, now: Instant) -> Instant {
        let begin = self.empty_at.map_or(now, |at| at.max(now));
        let forgotten_at = begin + span(limit, units);
        self.empty_at = Some(forgotten_at);
        forgotten_at
    }

    /// Gives units back that were taken, the last of those that are forgotten at a time: as much of them as
    /// still weighs, or they would make room for what was taken by others.
    pub(super) fn give_back(
        &mut self,
        limit: NonZeroU64,
        units: u64,
        forgotten_at: Instant,
        now: Instant,
    ) {
        let weight = span(limit, units).min(forgotten_at.saturating_duration_since(now));
        // An instant before the process began is as good as none.
        self.empty_at = self.empty_at.and_then(|at| at.checked_sub(weight));
    }

    /// Whether nothing is left of what was taken.
    pub(super) fn is_unused(&self, now: Instant) -> bool {
        self.ahead(now).is_zero()
    }

    fn ahead(&self, now: Instant) -> Duration {
        self.empty_at.map_or(Duration::ZERO, |at| at.saturating_duration_since(now))
    }
}

/// Nanoseconds that one unit takes; a limit above one a nanosecond is none.
fn per_unit(limit: NonZeroU64) -> u128 {
    (PERIOD.as_nanos() / u128::from(limit.get())).max(1)
}

fn span(limit: NonZeroU64, units: u64) -> Duration {
    let nanos = per_unit(limit).saturating_mul(u128::from(units));
    // A year is longer than anybody waits, and can be added to any instant.
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)).min(PERIOD * 60 * 24 * 365)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn limit(units: u64) -> NonZeroU64 {
        NonZeroU64::new(units).unwrap()
    }

    #[test]
    fn a_minutes_worth_may_come_at_once_and_then_one_by_one() {
        let (mut bucket, now) = (Bucket::default(), Instant::now());
        for taken in 0..4 {
            assert_eq!(bucket.level(limit(4), now).remaining, 4 - taken);
            assert_eq!(bucket.wait(limit(4), 1, now), Duration::ZERO);
            bucket.take(limit(4), 1, now);
        }
        assert_eq!(bucket.wait(limit(4), 1, now), Duration::from_secs(15));
        assert_eq!(bucket.level(limit(4), now).reset, PERIOD);
        let later = now + Duration::from_secs(15);
        assert_eq!(bucket.wait(limit(4), 1, later), Duration::ZERO);
        assert_eq!(bucket.level(limit(4), later).remaining, 1);
        assert!(bucket.is_unused(now + PERIOD));
    }

    #[test]
    fn what_was_reserved_too_much_comes_back_and_too_little_is_waited_for() {
        let (mut bucket, now) = (Bucket::default(), Instant::now());
        let forgotten_at = bucket.take(limit(60), 30, now);
        bucket.give_back(limit(60), 20, forgotten_at, now);
        assert_eq!(bucket.level(limit(60), now).remaining, 50);
        bucket.take(limit(60), 110, now);
        assert_eq!(bucket.level(limit(60), now).remaining, 0);
        assert_eq!(bucket.wait(limit(60), 1, now), Duration::from_secs(61));
    }

    #[test]
    fn what_time_has_forgotten_does_not_come_back() {
        // Seconds since 60 units of 60 a minute were taken, what weighs then, and after 50 came back.
        for (later, before, after) in [(0, 60, 10), (9, 51, 1), (20, 40, 0), (60, 0, 0), (90, 0, 0)]
        {
            let (mut bucket, now) = (Bucket::default(), Instant::now());
            let forgotten_at = bucket.take(limit(60), 60, now);
            let now = now + Duration::from_secs(later);
            // What others take meanwhile is not theirs to give back.
            bucket.take(limit(60), 30, now);
            let taken = |bucket: &Bucket| bucket.ahead(now).as_secs();
            assert_eq!(taken(&bucket), before + 30, "after {later} s");
            bucket.give_back(limit(60), 50, forgotten_at, now);
            assert_eq!(taken(&bucket), after + 30, "after {later} s");
        }
    }

    proptest! {
        /// However requests come, no minute lets through more than two minutes' worth, and each that is
        /// let through leaves no more than the limit.
        #[test]
        fn no_minute_gets_more_than_twice_the_limit(
            units in 1u64..100,
            gaps in prop::collection::vec(0u64..20_000, 1..200),
        ) {
            let (mut bucket, mut now) = (Bucket::default(), Instant::now());
            let mut passed = Vec::new();
            for gap in gaps {
                now += Duration::from_millis(gap);
                if bucket.wait(limit(units), 1, now).is_zero() {
                    bucket.take(limit(units), 1, now);
                    passed.push(now);
                }
                prop_assert!(bucket.level(limit(units), now).reset <= PERIOD);
            }
            for (index, start) in passed.iter().enumerate() {
                let within = passed[index..].iter().filter(|at| **at - *start < PERIOD).count();
                prop_assert!(within as u64 <= 2 * units);
            }
        }
    }
}
