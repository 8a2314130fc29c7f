//! Runs a trace against every policy, at several sizes of the cache.
//!
//! The policies are the engine's own code, the cache is only counted. Prompts and replies are told
//! apart: a visit of one row is a token of a reply.

use std::path::PathBuf;

use serde::Serialize;

use super::{Trace, belady};
use crate::error::EngineError;
use crate::expert::policy::{CHOSEN, Place, PolicyKind, Residents};

/// Sizes that are tried if none are named, as shares of all experts.
const SHARES: [f64; 6] = [0.0625, 0.125, 0.25, 0.375, 0.5, 0.75];
/// The name of the limit.
const BELADY: &str = "belady";

/// What to replay.
#[derive(Clone, Debug)]
pub struct ReplayOptions {
    /// What [`super::record`] wrote.
    pub trace: PathBuf,
    /// Bytes of the cache; none: shares from a sixteenth to three quarters of all experts.
    pub cache_bytes: Vec<u64>,
}

/// A size of the cache, and what each policy made of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Replay {
    /// Name of the traced model.
    pub model: String,
    /// Bytes of the cache.
    pub cache_bytes: u64,
    /// Experts that fit.
    pub slots: usize,
    /// Their share of all experts.
    pub share: f64,
    /// By policy; the last is Belady's, which knows the future.
    pub policies: Vec<PolicyReplay>,
}

/// What one policy did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PolicyReplay {
    /// Its name.
    pub policy: &'static str,
    /// The engine uses this one.
    pub in_use: bool,
    /// Share of look-ups for tokens of replies that hit.
    pub reply_hit_rate: f64,
    /// Share of all look-ups that hit, those of prompts included.
    pub hit_rate: f64,
    /// Bytes that were read in all.
    pub bytes_read: u64,
}

/// Replays a trace against every policy and Belady's optimum. Errors if the trace cannot be read.
pub fn replay(options: &ReplayOptions) -> Result<Vec<Replay>, EngineError> {
    let trace = Trace::read(&options.trace)?;
    let experts = trace.experts();
    let slot_bytes = trace.header.slot_bytes;
    let slots: Vec<usize> = match options.cache_bytes.as_slice() {
        [] => SHARES.iter().map(|share| (share * experts as f64).round() as usize).collect(),
        sizes => sizes.iter().map(|bytes| ((bytes / slot_bytes) as usize).min(experts)).collect(),
    };
    let one = |slots: usize| Replay {
        model: trace.header.model.clone(),
        cache_bytes: slots as u64 * slot_bytes,
        slots,
        share: slots as f64 / experts.max(1) as f64,
        policies: all_policies(&trace, slots),
    };
    Ok(slots.into_iter().map(one).collect())
}

/// The share of look-ups for replies that hits with room for so many experts under the policy in use.
pub(crate) fn reply_hit_rate(trace: &Trace, slots: usize) -> f64 {
    run(trace, CHOSEN, slots).result(trace, "", true).reply_hit_rate
}

fn all_policies(trace: &Trace, slots: usize) -> Vec<PolicyReplay> {
    let one = |(name, kind): (&'static str, PolicyKind)| {
        run(trace, kind, slots).result(trace, name, kind == CHOSEN)
    };
    let limit = belady::limit(trace, slots);
    let limit = Counts {
        reply_hits: limit.decode_hits,
        reply_uses: limit.decode_uses,
        reads: limit.reads,
        uses: limit.uses,
    };
    let policies = PolicyKind::ALL.into_iter().map(one);
    policies.chain([limit.result(trace, BELADY, false)]).collect()
}

/// What was counted in a replay.
#[derive(Default)]
struct Counts {
    reply_hits: u64,
    reply_uses: u64,
    reads: u64,
    uses: u64,
}

impl Counts {
    fn result(&self, trace: &Trace, policy: &'static str, in_use: bool) -> PolicyReplay {
        let share = |part: u64, of: u64| part as f64 / of.max(1) as f64;
        PolicyReplay {
            policy,
            in_use,
            reply_hit_rate: share(self.reply_hits, self.reply_uses),
            hit_rate: share(self.uses - self.reads, self.uses),
            bytes_read: self.reads * trace.header.slot_bytes,
        }
    }
}

fn run(trace: &Trace, kind: PolicyKind, slots: usize) -> Counts {
    let first = trace.first_numbers();
    let experts = trace.experts();
    let mut here = Residents::new(kind.start(experts), experts, slots);
    let mut counts = Counts::default();
    for visit in &trace.visits {
        here.tick(visit.1);
        // As the engine does: all are looked up first, then what was read comes in.
        let mut read = Vec::new();
        for (expert, rows) in &visit.2 {
            let number = first[visit.0 as usize] + expert;
            let hit = here.used(number, *rows);
            counts.uses += 1;
            if visit.1 == 1 {
                counts.reply_uses += 1;
                counts.reply_hits += u64::from(hit);
            }
            if !hit {
                read.push(number);
            }
        }
        counts.reads += read.len() as u64;
        for number in read {
            let place = here.landed(number);
            debug_assert!(slots > 0 || place == Place::None);
        }
    }
    counts
}
