//! What the embedded engine counts: generations, experts found and read, states kept, the model's time.

use prometheus::{GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry, Result};
use sluice_engine::{CheckpointUse, ExpertUse};

use super::make::{counter, counters, gauge, gauge_seconds, gauges};

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
    /// What became of kept states since the start.
    pub checkpoints: CheckpointUse,
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
    restores: IntCounterVec,
    restored: IntCounter,
    kept: IntCounter,
    dropped: IntCounterVec,
    checkpoints: IntGaugeVec,
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
            restores: counters(
                r,
                "sluice_engine_checkpoint_lookups_total",
                "Generations that looked for a kept state of their prompt, by whether there was one.",
                &["result"],
            )?,
            restored: counter(
                r,
                "sluice_engine_checkpoint_restored_tokens_total",
                "Prompt tokens that were not computed since a kept state had read them.",
            )?,
            kept: counter(r, "sluice_engine_checkpoints_kept_total", "States that were kept.")?,
            dropped: counters(
                r,
                "sluice_engine_checkpoints_dropped_total",
                "Kept states that went, for want of room or because nobody asked for them.",
                &["why"],
            )?,
            checkpoints: gauges(
                r,
                "sluice_engine_checkpoint_bytes",
                "Bytes of kept states, by where they are.",
                &["place"],
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
        let states = &now.checkpoints;
        set(self.restores.with_label_values(&["hit"]), states.hits);
        set(self.restores.with_label_values(&["miss"]), states.misses);
        set(self.restored.clone(), states.restored_tokens);
        set(self.kept.clone(), states.kept);
        set(self.dropped.with_label_values(&["room"]), states.evicted);
        set(self.dropped.with_label_values(&["expired"]), states.expired);
        let bytes = |place: &str, bytes: u64| {
            let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
            self.checkpoints.with_label_values(&[place]).set(bytes);
        };
        bytes("memory", states.memory_bytes);
        bytes("disk", states.disk_bytes);
        let seconds = |state: &str| self.seconds.with_label_values(&[state]);
        seconds("computing").set(used.computed.as_secs_f64());
        seconds("stalled").set(used.stalled.as_secs_f64());
    }
}
