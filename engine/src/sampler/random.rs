//! The random numbers of one reply: SplitMix64.
//!
//! One 64-bit number is drawn per token, so a tiny generator is enough, and its whole state is a
//! counter: number n depends on the seed and n alone. A library's generator could change its
//! sequence with a version, and replies with a seed must not.
//! Source: Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators" (OOPSLA 2014).

use ring::rand::{SecureRandom, SystemRandom};

use crate::error::EngineError;

/// The odd step of SplitMix64, 2^64 over the golden ratio.
const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

pub(super) struct Random {
    state: u64,
}

impl Random {
    /// The same numbers for the same seed.
    pub(super) fn from_seed(seed: u64) -> Random {
        // Mixed once, so that neighbouring seeds do not walk the same sequence a step apart.
        Random { state: mix(seed) }
    }

    /// The numbers of one of several replies with the same seed: the first reply's are those of a
    /// reply that is alone.
    pub(super) fn of_choice(self, choice: usize) -> Random {
        match choice {
            0 => self,
            choice => Random::from_seed(self.state ^ mix(choice as u64)),
        }
    }

    /// A seed from the operating system.
    pub(super) fn from_system() -> Result<Random, EngineError> {
        let mut seed = [0; 8];
        SystemRandom::new().fill(&mut seed).map_err(|_| EngineError::NoRandomness)?;
        Ok(Random::from_seed(u64::from_le_bytes(seed)))
    }

    /// A number in [0, 1), in steps of 2^-53.
    pub(super) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(STEP);
        mix(self.state)
    }
}

/// A bijection in which every input bit reaches every output bit.
fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_published_sequence() {
        // The first outputs of SplitMix64 from state 1234567, as printed by the authors' C code.
        let mut random = Random { state: 1_234_567 };
        let drawn: Vec<u64> = (0..3).map(|_| random.next()).collect();
        assert_eq!(
            drawn,
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]
        );
    }

    #[test]
    fn units_fill_the_interval_evenly() {
        let mut random = Random::from_seed(7);
        let mut tenths = [0u32; 10];
        for _ in 0..10_000 {
            tenths[(random.unit() * 10.0) as usize] += 1;
        }
        assert!(tenths.iter().all(|&n| (900..1100).contains(&n)), "{tenths:?}");
    }

    #[test]
    fn neighbouring_seeds_and_system_seeds_differ() {
        let first = |seed| Random::from_seed(seed).next();
        assert_ne!(first(1), first(2));
        assert_ne!(Random::from_system().unwrap().next(), Random::from_system().unwrap().next());
    }
}
