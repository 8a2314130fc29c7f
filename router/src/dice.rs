//! Chance from a seed: where to send among equals, and how long to wait before another try.
//!
//! Not for secrets. A seed that is passed in makes tests and simulations repeatable; the gateway takes a
//! random one at its start, so that replicas do not wait in step.
//!
//! Source: Sebastiano Vigna's SplitMix64, public domain.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A source of chance that requests share.
pub(crate) struct Dice(Mutex<u64>);

impl Dice {
    /// The same seed gives the same throws.
    pub(crate) fn new(seed: u64) -> Dice {
        Dice(Mutex::new(seed))
    }

    /// From 0 up to and without 1.
    pub(crate) fn unit(&self) -> f64 {
        // The 53 bits that an f64 holds.
        (self.throw() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// From nothing up to and without a time.
    pub(crate) fn below(&self, most: Duration) -> Duration {
        most.mul_f64(self.unit())
    }

    fn throw(&self) -> u64 {
        // A number is replaced as a whole.
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = *state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_gives_one_sequence_that_is_spread_evenly() {
        let throws = |seed| {
            let dice = Dice::new(seed);
            (0..10_000).map(|_| dice.unit()).collect::<Vec<_>>()
        };
        assert_eq!(throws(7), throws(7));
        assert_ne!(throws(7), throws(8));
        let all = throws(7);
        assert!(all.iter().all(|throw| (0.0..1.0).contains(throw)));
        let mean = all.iter().sum::<f64>() / all.len() as f64;
        assert!((0.48..0.52).contains(&mean), "{mean}");
    }

    #[test]
    fn throws_are_those_of_the_published_generator() {
        // The first outputs for the seed 1234567, as in the reference implementation's own test.
        let dice = Dice::new(1_234_567);
        assert_eq!(dice.throw(), 6_457_827_717_110_365_317);
        assert_eq!(dice.throw(), 3_203_168_211_198_807_973);
    }
}
