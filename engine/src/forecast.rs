//! What a request that came now could expect, from what was measured of late.
//!
//! The gateway weighs the engine against a cloud by this, so it must be right within a factor and
//! cheap to ask. Running averages follow a machine that gets busier; batch sizes are kept apart,
//! because four generations together are slower each, though faster in all.
//!
//! Invariants: all numbers are finite and above zero; asking changes nothing. Not here: the
//! gateway's thresholds. Before the first measurement (`Speeds::new` until calibration) the
//! forecast is a guess on the slow side.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::engine::{ExpertUse, Finish, Forecast};

/// Share of a new measurement in a running average: the last ten count for two thirds.
const NEW_SHARE: f64 = 0.1;
/// The prompt whose first token is forecast.
const SHORT_PROMPT_TOKENS: f64 = 64.0;

/// Guesses before anything was measured.
const PREFILL_PER_SECOND_GUESS: f64 = 50.0;
const DECODE_SECONDS_GUESS: f64 = 0.1;
const REPLY_TOKENS_GUESS: f64 = 128.0;
const PROMPT_TOKENS_GUESS: f64 = 128.0;

/// What a round computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Round {
    /// Prompt tokens read.
    pub(crate) prefill_tokens: usize,
    /// Generations that got a token.
    pub(crate) decoding: usize,
}

/// Measured speeds; shared by the engine's thread, which writes, and callers, who ask.
pub(crate) struct Speeds {
    measured: Mutex<Measured>,
}

struct Measured {
    prefill_per_second: Option<f64>,
    /// Seconds of a round in which `index + 1` generations decode and nothing else happens.
    decode_seconds: Vec<Option<f64>>,
    reply_tokens: Option<f64>,
    prompt_tokens: Option<f64>,
    replies: u64,
    experts: ExpertUse,
    /// Of rounds of late.
    hit_rate: Option<f64>,
    bytes_per_token: Option<f64>,
}

impl Speeds {
    /// Nothing measured yet, for batches of up to `running_max`.
    pub(crate) fn new(running_max: usize) -> Speeds {
        Speeds {
            measured: Mutex::new(Measured {
                prefill_per_second: None,
                decode_seconds: vec![None; running_max],
                reply_tokens: None,
                prompt_tokens: None,
                replies: 0,
                experts: ExpertUse::default(),
                hit_rate: None,
                bytes_per_token: None,
            }),
        }
    }

    /// Learns from a round. In a mixed one the decoding part is taken off at its usual time.
    pub(crate) fn record_round(&self, round: Round, elapsed: Duration) {
        let mut measured = self.locked();
        let seconds = elapsed.as_secs_f64();
        if seconds == 0.0 {
            return;
        }
        if round.prefill_tokens == 0 {
            if let Some(slot) = measured.decode_seconds.get_mut(round.decoding.wrapping_sub(1)) {
                average(slot, seconds);
            }
            return;
        }
        let decode =
            if round.decoding == 0 { 0.0 } else { measured.decode_seconds(round.decoding) };
        // At least half of a mixed round is prefill, or a slow moment would count as infinite speed.
        let prefill = (seconds - decode).max(seconds / 2.0);
        average(&mut measured.prefill_per_second, round.prefill_tokens as f64 / prefill);
    }

    /// Learns how a round found its experts. What a prompt reads says little about replies: only
    /// rounds without one are averaged.
    pub(crate) fn record_experts(&self, round: Round, used: &ExpertUse) {
        let mut measured = self.locked();
        measured.experts.add(used);
        if round.prefill_tokens > 0 || round.decoding == 0 {
            return;
        }
        if let Some(rate) = used.hit_rate() {
            average(&mut measured.hit_rate, rate);
            let bytes = used.bytes_read as f64 / round.decoding as f64;
            average(&mut measured.bytes_per_token, bytes);
        }
    }

    /// How experts were found and read so far.
    pub(crate) fn expert_use(&self) -> ExpertUse {
        self.locked().experts
    }

    /// Learns how long replies are, and how much of prompts is computed.
    pub(crate) fn record_reply(&self, finish: &Finish) {
        let mut measured = self.locked();
        average(&mut measured.reply_tokens, finish.completion_tokens as f64);
        let computed = finish.prompt_tokens - finish.cached_tokens;
        average(&mut measured.prompt_tokens, computed as f64);
        measured.replies += 1;
    }

    /// Prompt tokens that are read in this time.
    pub(crate) fn prefill_tokens_in(&self, time: Duration) -> usize {
        let per_second = self.locked().prefill_per_second.unwrap_or(PREFILL_PER_SECOND_GUESS);
        (per_second * time.as_secs_f64()) as usize
    }

    /// Replies that ended well so far.
    pub(crate) fn replies(&self) -> u64 {
        self.locked().replies
    }

    /// The forecast with so many generations running and waiting.
    pub(crate) fn forecast(&self, running: usize, waiting: usize) -> Forecast {
        let measured = self.locked();
        let running_max = measured.decode_seconds.len();
        let round = measured.decode_seconds((running + 1).min(running_max));
        let prefill = measured.prefill_per_second.unwrap_or(PREFILL_PER_SECOND_GUESS);
        let first_token = measured.queue_seconds(running + waiting, prefill)
            + SHORT_PROMPT_TOKENS / prefill
            + round;
        Forecast {
            running,
            waiting,
            first_token: Duration::from_secs_f64(first_token),
            tokens_per_second: 1.0 / round,
            expert_hit_rate: measured.hit_rate,
            expert_bytes_per_token: measured.bytes_per_token,
        }
    }

    /// How long until a place is free when so many generations came before.
    pub(crate) fn queue_time(&self, ahead: usize) -> Duration {
        let measured = self.locked();
        let prefill = measured.prefill_per_second.unwrap_or(PREFILL_PER_SECOND_GUESS);
        Duration::from_secs_f64(measured.queue_seconds(ahead, prefill))
    }

    fn locked(&self) -> MutexGuard<'_, Measured> {
        self.measured.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Measured {
    /// Seconds of a round with so many decoding. A size not measured yet is taken as slow as its
    /// parts one after the other, from the next smaller size, or as the next larger one.
    fn decode_seconds(&self, decoding: usize) -> f64 {
        let (smaller, larger) = self.decode_seconds.split_at(decoding);
        let below = smaller.iter().enumerate().rev().find_map(|(index, seconds)| {
            seconds.map(|seconds| seconds * decoding as f64 / (index + 1) as f64)
        });
        let above = || larger.iter().find_map(|seconds| *seconds);
        below.or_else(above).unwrap_or(DECODE_SECONDS_GUESS)
    }

    /// Seconds until a place is free when `ahead` generations came before: as many as there are
    /// places end in the time that a usual reply takes in full company.
    fn queue_seconds(&self, ahead: usize, prefill_per_second: f64) -> f64 {
        let places = self.decode_seconds.len();
        if ahead < places {
            return 0.0;
        }
        let prompt = self.prompt_tokens.unwrap_or(PROMPT_TOKENS_GUESS) / prefill_per_second;
        let reply = self.reply_tokens.unwrap_or(REPLY_TOKENS_GUESS) * self.decode_seconds(places);
        (ahead + 1 - places) as f64 * (prompt + reply) / places as f64
    }
}

fn average(slot: &mut Option<f64>, new: f64) {
    *slot = Some(slot.map_or(new, |old| old + NEW_SHARE * (new - old)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::FinishReason;

    fn seconds(value: f64) -> Duration {
        Duration::from_secs_f64(value)
    }

    fn decoding(decoding: usize) -> Round {
        Round { prefill_tokens: 0, decoding }
    }

    fn measured() -> Speeds {
        let speeds = Speeds::new(4);
        speeds.record_round(Round { prefill_tokens: 100, decoding: 0 }, seconds(1.0));
        speeds.record_round(decoding(1), seconds(0.01));
        speeds.record_reply(&Finish {
            reason: FinishReason::Stop,
            stop: None,
            prompt_tokens: 80,
            cached_tokens: 30,
            completion_tokens: 100,
            queued: Duration::ZERO,
            prefill: Duration::ZERO,
            decode: Duration::ZERO,
            experts: ExpertUse::default(),
        });
        speeds
    }

    #[test]
    fn idle_engine_promises_its_measured_speed() {
        let forecast = measured().forecast(0, 0);
        assert!((forecast.tokens_per_second - 100.0).abs() < 1e-9);
        assert!((forecast.first_token.as_secs_f64() - (0.64 + 0.01)).abs() < 1e-6);
    }

    #[test]
    fn unmeasured_company_is_taken_as_slow() {
        let speeds = measured();
        assert!((speeds.forecast(3, 0).tokens_per_second - 25.0).abs() < 1e-9);
        speeds.record_round(decoding(4), seconds(0.02));
        assert!((speeds.forecast(3, 0).tokens_per_second - 50.0).abs() < 1e-9);
        assert!((speeds.forecast(9, 0).tokens_per_second - 50.0).abs() < 1e-9);
    }

    #[test]
    fn queue_makes_the_first_token_later() {
        let speeds = measured();
        let first = |running, waiting| speeds.forecast(running, waiting).first_token.as_secs_f64();
        // A reply in full company takes 0.5 s + 100 * 0.04 s; a quarter of it frees a place.
        assert!((first(4, 0) - first(3, 0) - 4.5 / 4.0).abs() < 1e-6);
        assert!((first(4, 3) - first(4, 0) - 3.0 * 4.5 / 4.0).abs() < 1e-6);
    }

    #[test]
    fn mixed_rounds_teach_prefill_without_the_decoding_part() {
        let speeds = measured();
        for _ in 0..200 {
            speeds.record_round(Round { prefill_tokens: 64, decoding: 1 }, seconds(0.33));
        }
        let prefill =
            SHORT_PROMPT_TOKENS / (speeds.forecast(0, 0).first_token.as_secs_f64() - 0.01);
        assert!((prefill - 200.0).abs() < 1.0, "{prefill}");
    }

    #[test]
    fn averages_follow_a_machine_that_gets_slower() {
        let speeds = measured();
        (0..60).for_each(|_| speeds.record_round(decoding(1), seconds(0.1)));
        let now = speeds.forecast(0, 0).tokens_per_second;
        assert!((10.0..10.2).contains(&now), "{now}");
    }

    #[test]
    fn experts_of_replies_are_averaged_and_all_are_counted() {
        let speeds = measured();
        assert_eq!(speeds.forecast(0, 0).expert_hit_rate, None);
        let used = |hits, misses| ExpertUse {
            hits,
            misses,
            bytes_read: 10 * misses,
            stalled: Duration::from_millis(misses),
            ..ExpertUse::default()
        };
        speeds.record_experts(Round { prefill_tokens: 9, decoding: 0 }, &used(0, 100));
        speeds.record_experts(decoding(2), &used(30, 10));
        let forecast = speeds.forecast(0, 0);
        assert_eq!(forecast.expert_hit_rate, Some(0.75));
        assert_eq!(forecast.expert_bytes_per_token, Some(50.0));
        let all = speeds.expert_use();
        assert_eq!((all.hits, all.misses, all.bytes_read), (30, 110, 1100));
        assert_eq!(all.stalled, Duration::from_millis(110));
    }

    #[test]
    fn rounds_without_time_teach_nothing() {
        let speeds = measured();
        speeds.record_round(decoding(1), Duration::ZERO);
        assert!(speeds.forecast(0, 0).tokens_per_second.is_finite());
    }

    #[test]
    fn unmeasured_engine_makes_a_slow_finite_guess() {
        let forecast = Speeds::new(2).forecast(5, 7);
        assert!(forecast.tokens_per_second > 0.0 && forecast.first_token > Duration::from_secs(1));
    }
}
