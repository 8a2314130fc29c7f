//! What callers, tenants and models have taken, in this process's memory.
//!
//! Entries that nothing is left of are dropped when there are too many; if there still are too many, those
//! that come now share one, so that memory has a bound and nobody gets more than a limit allows.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::bucket::Bucket;
use super::{Amount, Claim, Denied, Key, Levels, Now, Reason, Reserved};

/// Entries kept; at about 200 bytes each this is 13 MiB.
const ENTRIES_MAX: usize = 1 << 16;

/// All entries.
pub(super) struct Meters {
    /// The moment from which times of reservations are counted.
    began: Instant,
    entries: HashMap<Key, Meter>,
    entries_max: usize,
}

/// What one of them has taken.
#[derive(Clone, Copy, Debug, Default)]
struct Meter {
    requests: Bucket,
    tokens: Bucket,
    running: u64,
    /// The day that the sums are of, as days since 1970.
    day: i64,
    tokens_today: u64,
    cost_today: u64,
}

impl Meters {
    pub(super) fn new() -> Meters {
        Meters { began: Instant::now(), entries: HashMap::new(), entries_max: ENTRIES_MAX }
    }

    /// Gives every claim an entry, the shared one if there is no room for its own: what is counted there is
    /// taken from there again, even if there is room then.
    pub(super) fn place(&mut self, claims: &mut [Claim], now: &Now) {
        for claim in claims {
            if !self.has_room(&claim.key, now) {
                claim.key = Key::Overflow;
            }
            self.meter(&claim.key, now);
        }
    }

    /// Counts a request as running under every claim, or under none.
    pub(super) fn begin(&mut self, claims: &[Claim], now: &Now) -> Result<(), Denied> {
        for claim in claims {
            self.meter(&claim.key, now).check_running(claim, now)?;
        }
        for claim in claims {
            self.meter(&claim.key, now).running += 1;
        }
        Ok(())
    }

    /// Takes an amount from every claim, or from none.
    pub(super) fn take(
        &mut self,
        claims: &[Claim],
        amount: Amount,
        now: &Now,
    ) -> Result<(Reserved, Levels), Denied> {
        for claim in claims {
            self.meter(&claim.key, now).check(claim, amount, now)?;
        }
        let mut levels = Levels::default();
        let mut forgotten_at = Vec::with_capacity(claims.len());
        let began = self.began;
        for claim in claims {
            let meter = self.meter(&claim.key, now);
            let at = meter.take(claim, amount, now);
            forgotten_at.push(at.saturating_duration_since(began));
            meter.show(claim, now, &mut levels);
        }
        Ok((Reserved { amount, day: now.day, forgotten_at }, levels))
    }

    /// Puts what was really spent in the place of what was reserved.
    pub(super) fn settle(
        &mut self,
        claims: &[Claim],
        reserved: &Reserved,
        spent: Amount,
        now: &Now,
    ) {
        let began = self.began;
        let forgotten_at = reserved.forgotten_at.iter().map(|at| began + *at);
        // What was not reserved has nothing to be forgotten.
        for (claim, forgotten_at) in claims.iter().zip(forgotten_at.chain(std::iter::repeat(began)))
        {
            self.meter(&claim.key, now).settle(claim, reserved, forgotten_at, spent, now);
        }
    }

    /// A request of these claims has ended.
    pub(super) fn release(&mut self, claims: &[Claim], now: &Now) {
        for claim in claims {
            let meter = self.meter(&claim.key, now);
            meter.running = meter.running.saturating_sub(1);
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    fn has_room(&mut self, key: &Key, now: &Now) -> bool {
        if self.entries.len() < self.entries_max || self.entries.contains_key(key) {
            return true;
        }
        self.entries.retain(|key, meter| *key == Key::Overflow || !meter.is_unused(now));
        self.entries.len() < self.entries_max
    }

    fn meter(&mut self, key: &Key, now: &Now) -> &mut Meter {
        let key = if self.has_room(key, now) { key.clone() } else { Key::Overflow };
        let meter = self.entries.entry(key).or_default();
        if meter.day != now.day {
            (meter.day, meter.tokens_today, meter.cost_today) = (now.day, 0, 0);
        }
        meter
    }
}

impl Meter {
    fn check_running(&self, claim: &Claim, now: &Now) -> Result<(), Denied> {
        if claim.quota.concurrency.is_some_and(|most| self.running >= most.get()) {
            // Nobody knows when a running request ends.
            return Err(self.denied(claim, now, Reason::Concurrency, Duration::from_secs(1)));
        }
        Ok(())
    }

    fn check(&self, claim: &Claim, amount: Amount, now: &Now) -> Result<(), Denied> {
        let (quota, Amount { requests, tokens, cost }) = (&claim.quota, amount);
        if let Some(limit) = quota.requests_per_minute.filter(|_| requests > 0) {
            let wait = self.requests.wait(limit, requests, now.at);
            if !wait.is_zero() {
                return Err(self.denied(claim, now, Reason::Requests, wait));
            }
        }
        if let Some(limit) = quota.tokens_per_minute.filter(|_| requests > 0) {
            if tokens > limit.get() {
                return Err(self.denied(claim, now, Reason::TooLarge, Duration::ZERO));
            }
            let wait = self.tokens.wait(limit, tokens, now.at);
            if !wait.is_zero() {
                return Err(self.denied(claim, now, Reason::Tokens, wait));
            }
        }
        let over = |limit: Option<u64>, taken: u64| limit.is_some_and(|limit| taken > limit);
        let tokens_today = self.tokens_today.saturating_add(tokens);
        if requests > 0 && over(quota.tokens_per_day.map(u64::from), tokens_today) {
            return Err(self.denied(claim, now, Reason::TokensToday, now.until_midnight));
        }
        // What costs nothing is never too dear.
        let cost_today = self.cost_today.saturating_add(cost.0);
        if cost.0 > 0 && over(quota.cost_per_day.map(|budget| budget.0), cost_today) {
            return Err(self.denied(claim, now, Reason::CostToday, now.until_midnight));
        }
        Ok(())
    }

    fn denied(&self, claim: &Claim, now: &Now, reason: Reason, wait: Duration) -> Denied {
        let mut levels = Levels::default();
        self.show(claim, now, &mut levels);
        Denied { reason, scope: claim.key.scope(), wait, levels }
    }

    /// Says when its tokens are forgotten.
    fn take(&mut self, claim: &Claim, amount: Amount, now: &Now) -> Instant {
        let Amount { requests, tokens, cost } = amount;
        if let Some(limit) = claim.quota.requests_per_minute {
            self.requests.take(limit, requests, now.at);
        }
        // Sums that no limit asks for would keep an entry all day.
        if claim.quota.tokens_per_day.is_some() {
            self.tokens_today = self.tokens_today.saturating_add(tokens);
        }
        if claim.quota.cost_per_day.is_some() {
            self.cost_today = self.cost_today.saturating_add(cost.0);
        }
        let limit = claim.quota.tokens_per_minute;
        limit.map_or(now.at, |limit| self.tokens.take(limit, tokens, now.at))
    }

    fn settle(
        &mut self,
        claim: &Claim,
        reserved: &Reserved,
        forgotten_at: Instant,
        spent: Amount,
        now: &Now,
    ) {
        let Reserved { amount, day, .. } = *reserved;
        if let Some(limit) = claim.quota.tokens_per_minute {
            match amount.tokens.checked_sub(spent.tokens) {
                Some(unused) => self.tokens.give_back(limit, unused, forgotten_at, now.at),
                None => {
                    self.tokens.take(limit, spent.tokens - amount.tokens, now.at);
                }
            }
        }
        // What was reserved yesterday does not stand in the sums of today.
        let of_today = |reserved: u64| if day == self.day { reserved } else { 0 };
        if claim.quota.tokens_per_day.is_some() {
            let before = self.tokens_today.saturating_sub(of_today(amount.tokens));
            self.tokens_today = before.saturating_add(spent.tokens);
        }
        if claim.quota.cost_per_day.is_some() {
            let before = self.cost_today.saturating_sub(of_today(amount.cost.0));
            self.cost_today = before.saturating_add(spent.cost.0);
        }
    }

    fn show(&self, claim: &Claim, now: &Now, levels: &mut Levels) {
        let quota = &claim.quota;
        levels.add_requests(quota.requests_per_minute.map(|l| self.requests.level(l, now.at)));
        levels.add_tokens(quota.tokens_per_minute.map(|l| self.tokens.level(l, now.at)));
    }

    fn is_unused(&self, now: &Now) -> bool {
        let today = self.day == now.day && (self.tokens_today > 0 || self.cost_today > 0);
        let minute = !self.requests.is_unused(now.at) || !self.tokens.is_unused(now.at);
        self.running == 0 && !today && !minute
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Money, Quota};

    const ONE: Amount = Amount { requests: 1, tokens: 0, cost: Money(0) };

    fn now() -> Now {
        Now { at: Instant::now(), day: 1, until_midnight: Duration::from_secs(3600) }
    }

    fn claim(name: &str) -> Claim {
        let quota: Quota = serde_yaml::from_str("{requests_per_minute: 1}").unwrap();
        Claim { key: Key::Caller { tenant: "t".into(), id: name.into() }, quota }
    }

    #[test]
    fn what_was_reserved_yesterday_is_not_taken_from_today() {
        let mut meters = Meters::new();
        let quota: Quota = serde_yaml::from_str("{tokens_per_day: 100}").unwrap();
        let claim = Claim { key: Key::Tenant("t".into()), quota };
        let claims = [claim];
        let amount = Amount { tokens: 60, ..ONE };
        let (one, two) = (now(), Now { day: 2, ..now() });
        let (of_one, _) = meters.take(&claims, amount, &one).unwrap();
        let (of_two, _) = meters.take(&claims, amount, &two).unwrap();
        let spent = Amount { tokens: 10, ..Amount::default() };
        meters.settle(&claims, &of_one, spent, &two);
        assert_eq!(meters.meter(&claims[0].key, &two).tokens_today, 70);
        meters.settle(&claims, &of_two, spent, &two);
        assert_eq!(meters.meter(&claims[0].key, &two).tokens_today, 20);
    }

    #[test]
    fn memory_has_a_bound_and_those_beyond_it_share_one_limit() {
        let mut meters = Meters { entries_max: 2, ..Meters::new() };
        let now = now();
        let mut take = |name: &str, now: &Now| {
            meters.begin(&[claim(name)], now)?;
            let taken = meters.take(&[claim(name)], ONE, now);
            taken.map(|_| ()).inspect_err(|_| meters.release(&[claim(name)], now))
        };
        assert!(take("a", &now).is_ok() && take("b", &now).is_ok());
        assert!(take("c", &now).is_ok(), "the first of those beyond");
        assert!(take("d", &now).is_err(), "the second");
        assert!(take("a", &now).is_err());
        assert!(meters.entries.len() <= 3);
        // What is over makes room: nothing runs any more, and the minute has passed.
        for name in ["a", "b", "c"] {
            meters.release(&[claim(name)], &now);
        }
        let later = Now { at: now.at + Duration::from_secs(61), ..now };
        for name in ["e", "f"] {
            assert!(meters.take(&[claim(name)], ONE, &later).is_ok(), "{name}");
        }
    }

    #[test]
    fn what_runs_beyond_the_bound_ends_there_even_if_there_is_room_again() {
        let mut meters = Meters { entries_max: 1, ..Meters::new() };
        let quota: Quota = serde_yaml::from_str("{concurrency: 1}").unwrap();
        let now = now();
        let begin = |meters: &mut Meters, name: &str| {
            let mut claims = [Claim { quota, ..claim(name) }];
            meters.place(&mut claims, &now);
            meters.begin(&claims, &now).map(|()| claims)
        };
        let first = begin(&mut meters, "a").unwrap();
        let beyond = begin(&mut meters, "b").unwrap();
        assert!(begin(&mut meters, "c").is_err(), "they share one place");
        meters.release(&first, &now);
        meters.entries_max = 10;
        meters.release(&beyond, &now);
        meters.entries_max = 1;
        let _ = begin(&mut meters, "a").unwrap();
        assert!(begin(&mut meters, "c").is_ok());
    }

    #[test]
    fn sums_that_no_limit_asks_for_keep_no_entry() {
        let mut meters = Meters { entries_max: 1, ..Meters::new() };
        let begin = now();
        let amount = Amount { tokens: 10, cost: Money(5), ..ONE };
        let (reserved, _) = meters.take(&[claim("a")], amount, &begin).unwrap();
        meters.settle(&[claim("a")], &reserved, amount, &begin);
        let later = Now { at: begin.at + Duration::from_secs(61), ..begin };
        meters.take(&[claim("b")], ONE, &later).unwrap();
        assert!(!meters.entries.contains_key(&Key::Overflow));
    }
}
