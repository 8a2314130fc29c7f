//! What is counted of policy files: readings, the set in force and its age, the candidate in shadow.

use jiff::Timestamp;
use prometheus::{IntCounterVec, IntGauge, IntGaugeVec, Registry, Result};

use super::make::{counters, gauge, gauges};

/// How a reading of the policy files ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// Another set is in force.
    Activated,
    /// They are what is in force already.
    Unchanged,
    /// They are broken.
    Refused,
    /// They are sound and were held back.
    Held,
}

impl Activation {
    fn in_words(self) -> &'static str {
        match self {
            Activation::Activated => "activated",
            Activation::Unchanged => "unchanged",
            Activation::Refused => "refused",
            Activation::Held => "held",
        }
    }
}

/// Metrics of the policies.
pub(super) struct PolicyMetrics {
    reload_failed: IntGauge,
    activations: IntCounterVec,
    activated: IntGauge,
    age: IntGauge,
    info: IntGaugeVec,
    candidate: IntGaugeVec,
    differences: IntCounterVec,
}

impl PolicyMetrics {
    pub(super) fn registered(r: &Registry) -> Result<PolicyMetrics> {
        Ok(PolicyMetrics {
            reload_failed: gauge(
                r,
                "sluice_policy_reload_failed",
                "1 if the present policy files were refused and an older set, or none, is in force.",
            )?,
            activations: counters(
                r,
                "sluice_policy_activations_total",
                "Readings of the policy files: activated, unchanged, refused (broken) or held \
                 (they loosen what nobody accepted, or are older than what was in force).",
                &["result"],
            )?,
            activated: gauge(
                r,
                "sluice_policy_activated_timestamp_seconds",
                "When the policies in force were put in force, seconds since 1970; 0 for none.",
            )?,
            age: gauge(
                r,
                "sluice_policy_age_seconds",
                "Time since the policies in force were put in force; 0 for none.",
            )?,
            info: gauges(
                r,
                "sluice_policy_info",
                "1 for the policies in force.",
                &["digest", "site", "version"],
            )?,
            candidate: gauges(
                r,
                "sluice_policy_shadow_loaded",
                "1 if the candidate policies are compared with those in force; 0 if refused.",
                &[],
            )?,
            differences: counters(
                r,
                "sluice_policy_shadow_differences_total",
                "Requests that candidate policies would decide otherwise, by rule.",
                &["kind", "rule"],
            )?,
        })
    }

    /// Policy files were read.
    pub(super) fn activation(&self, result: Activation) {
        self.activations.with_label_values(&[result.in_words()]).inc();
        let refused = matches!(result, Activation::Refused | Activation::Held);
        self.reload_failed.set(i64::from(refused));
    }

    /// These policies are in force, since then.
    pub(super) fn in_force(&self, digest: &str, site: &str, version: &str, since: Timestamp) {
        self.activated.set(since.as_second());
        self.info.reset();
        self.info.with_label_values(&[digest, site, version]).set(1);
    }

    /// Candidate policies were read, or refused.
    pub(super) fn candidate(&self, loaded: bool) {
        let none: &[&str] = &[];
        self.candidate.with_label_values(none).set(i64::from(loaded));
    }

    /// Candidate policies would have decided otherwise, by one of these rules or by none.
    pub(super) fn difference(&self, kind: &str, rules: &[&str]) {
        let rules = if rules.is_empty() { &["none"] } else { rules };
        for rule in rules {
            self.differences.with_label_values(&[kind, rule]).inc();
        }
    }

    /// Sets the age, if a set is in force.
    pub(super) fn grow_older(&self) {
        if self.activated.get() > 0 {
            let age = Timestamp::now().as_second() - self.activated.get();
            self.age.set(age.max(0));
        }
    }
}
