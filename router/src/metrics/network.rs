//! What the way to network upstreams is like: offline or not, breakers, retries, hedges.

use prometheus::{IntCounterVec, IntGaugeVec, Registry, Result};

use super::make::{counters, gauges};
use crate::breaker::Health;

/// The causes of being offline, as `sluice_offline` shows them.
const CAUSES: [&str; 3] = ["declared", "failing", "no_upstream"];

/// Metrics of the network.
pub(super) struct NetworkMetrics {
    offline: IntGaugeVec,
    changes: IntCounterVec,
    breakers: IntGaugeVec,
    retries: IntCounterVec,
    hedges: IntCounterVec,
}

impl NetworkMetrics {
    pub(super) fn registered(r: &Registry) -> Result<NetworkMetrics> {
        Ok(NetworkMetrics {
            offline: gauges(
                r,
                "sluice_offline",
                "1 if there is no network, by cause.",
                &["cause"],
            )?,
            changes: counters(
                r,
                "sluice_network_changes_total",
                "Changes of the network's state, by the state that followed.",
                &["to"],
            )?,
            breakers: gauges(
                r,
                "sluice_breaker_state",
                "0 if requests flow, 1 if one may probe, 2 if the upstream is left alone.",
                &["upstream"],
            )?,
            retries: counters(
                r,
                "sluice_retries_total",
                "Failed attempts that could be repeated: made, or not for want of budget or time.",
                &["upstream", "outcome"],
            )?,
            hedges: counters(
                r,
                "sluice_hedges_total",
                "Second attempts beside a slow first one, by which of the two answered.",
                &["upstream", "winner"],
            )?,
        })
    }

    pub(super) fn changed(&self, to: &str) {
        self.changes.with_label_values(&[to]).inc();
    }

    pub(super) fn retry(&self, upstream: &str, outcome: &str) {
        self.retries.with_label_values(&[upstream, outcome]).inc();
    }

    pub(super) fn hedge(&self, upstream: &str, winner: &str) {
        self.hedges.with_label_values(&[upstream, winner]).inc();
    }

    pub(super) fn forget_state(&self, upstream: &str) {
        let _ = self.breakers.remove_label_values(&[upstream]);
    }

    pub(super) fn set(&self, offline: Option<&str>, breakers: &[(&str, Health)]) {
        for cause in CAUSES {
            self.offline.with_label_values(&[cause]).set(i64::from(offline == Some(cause)));
        }
        for (upstream, health) in breakers {
            let state = match health {
                Health::Closed => 0,
                Health::HalfOpen => 1,
                Health::Open => 2,
            };
            self.breakers.with_label_values(&[upstream]).set(state);
        }
    }
}
