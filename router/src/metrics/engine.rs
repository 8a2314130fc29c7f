//! What the embedded engine counts: generations, experts found and read, the model's time.

use prometheus::{GaugeVec, IntCounter, IntCounterVec, IntGauge, Registry, Result};
use sluice_engine::ExpertUse;

use super::make::{counter, counters, gauge, gauge_seconds};

/// What the embedded engine is at.
#[derive(Clone, Copy, Default)]
pub struct EngineNow {
    /// Generations running.
    pub running: usize,
    /// Generations waiting.
    pub waiting: usize,
    /// How experts were found and read since the start.
    pub experts: ExpertUse,
    /// Bytes that the cache of experts may hold.
    pub cache_bytes: u64,
}

/// Metrics of the engine.
pub(super) struct EngineMetrics {
    running: IntGauge,
    waiting: IntGauge,
    lookups: IntCounterVec,
    read_ahead: IntCounterVec,
    read: IntCounter,
    seconds: GaugeVec,
    cache: IntGauge,
}

impl EngineMetrics {
    pub(super) fn registered(r: &Registry) -> Result<EngineMetrics> {
        Ok(EngineMetrics {
            running: gauge(r, "sluice_engine_running", "Generations running.")?,
            waiting: gauge(r, "sluice_engine_waiting", "Generations waiting.")?,
            lookups: counters(
                r,
                "sluice_engine_expert_lookups_total",
                "Look-ups of experts, by whether they were in memory (hit) or read (miss).",
                &["result"],
            )?,
            read_ahead: counters(
                r,
                "sluice_engine_experts_read_ahead_total",
                "Experts read before their layer, by whether they were wanted then.",
                &["result"],
            )?,
            read: counter(
                r,
                "sluice_engine_expert_read_bytes_total",
                "Bytes of experts read from flash.",
            )?,
            seconds: gauge_seconds(
                r,
                "sluice_engine_seconds_total",
                "Time of the model: computing, or waiting for experts with nothing to compute.",
                &["state"],
            )?,
            cache: gauge(
                r,
                "sluice_engine_expert_cache_bytes",
                "Bytes that the cache of experts may hold.",
            )?,
        })
    }

    /// The engine counts for itself: its totals replace those of the scrape before.
    pub(super) fn set(&self, now: &EngineNow) {
        self.running.set(now.running as i64);
        self.waiting.set(now.waiting as i64);
        self.cache.set(i64::try_from(now.cache_bytes).unwrap_or(i64::MAX));
        let used = &now.experts;
        let set = |counter: IntCounter, total: u64| {
            counter.inc_by(total.saturating_sub(counter.get()));
        };
        set(self.lookups.with_label_values(&["hit"]), used.hits);
        set(self.lookups.with_label_values(&["miss"]), used.misses);
        let wasted = used.read_ahead.saturating_sub(used.read_ahead_useful);
        set(self.read_ahead.with_label_values(&["wanted"]), used.read_ahead_useful);
        set(self.read_ahead.with_label_values(&["wasted"]), wasted);
        set(self.read.clone(), used.bytes_read);
        let seconds = |state: &str| self.seconds.with_label_values(&[state]);
        seconds("computing").set(used.computed.as_secs_f64());
        seconds("stalled").set(used.stalled.as_secs_f64());
    }
}
