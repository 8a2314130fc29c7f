//! What operators watch: counts, times and states of this gateway in Prometheus' text format.
//!
//! The `prometheus` crate stays inside this module. Label values come from closed or configured sets
//! (routes, classes of the site, statuses, upstreams), never from a client, so the number of series
//! is bounded; none carries text of a request.

mod engine;
mod make;
mod network;
mod policy;

use std::time::Duration;

use jiff::Timestamp;
use prometheus::{
    Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry,
    TextEncoder,
};

use engine::EngineMetrics;
pub use engine::EngineNow;
use make::{counter, counters, gauge, gauges, histogram, histograms};
use network::NetworkMetrics;
pub use policy::Activation;
use policy::PolicyMetrics;

use crate::audit::AuditState;
use crate::breaker::Health;

/// Buckets for decisions, seconds: 20 µs to 80 ms.
const DECISION_BUCKETS: &[f64] =
    &[2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 4e-2, 8e-2];

/// All metrics of one gateway.
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    decision_seconds: Histogram,
    first_token_seconds: HistogramVec,
    request_seconds: HistogramVec,
    tokens: IntCounterVec,
    attempts: IntCounterVec,
    rejected: IntCounterVec,
    in_flight: IntGauge,
    connections: IntGauge,
    upstream_healthy: IntGaugeVec,
    engine: EngineMetrics,
    network: NetworkMetrics,
    policy: PolicyMetrics,
    audit_writable: IntGauge,
    audit_off: IntGauge,
    audit_failures: IntGauge,
    taint_kept: IntGauge,
    texts_known: IntGauge,
    reply_findings: IntCounterVec,
    client_left: IntCounter,
}

/// What is read at the moment of a scrape.
pub struct Snapshot<'a> {
    /// Each upstream and whether it takes requests.
    pub upstreams: Vec<(&'a str, bool)>,
    /// The embedded engine.
    pub engine: Option<EngineNow>,
    /// The word for why there is no network, if there is none.
    pub offline: Option<&'static str>,
    /// Each network upstream's breaker.
    pub breakers: Vec<(&'a str, Health)>,
    /// Whether the audit log takes records.
    pub audit: AuditState,
    /// Records that could not be written.
    pub audit_failures: u64,
    /// Texts whose scan is remembered.
    pub texts_known: usize,
    /// How fingerprints of private conversations are kept.
    pub taint: &'static str,
}

impl Metrics {
    /// Registers every metric.
    pub fn new() -> Metrics {
        Metrics::registered().expect("the names below are valid and each occurs once")
    }

    fn registered() -> prometheus::Result<Metrics> {
        let registry = Registry::new();
        let r = &registry;
        Ok(Metrics {
            requests: counters(
                r,
                "sluice_requests_total",
                "Requests answered, by final route, class and HTTP status.",
                &["route", "class", "status"],
            )?,
            decision_seconds: histogram(
                r,
                "sluice_decision_seconds",
                "Time to classify a request and decide.",
                DECISION_BUCKETS,
            )?,
            first_token_seconds: histograms(
                r,
                "sluice_first_token_seconds",
                "Time from the request to the first piece of its streamed reply.",
            )?,
            request_seconds: histograms(
                r,
                "sluice_request_seconds",
                "Time from the request to the end of its reply.",
            )?,
            tokens: counters(
                r,
                "sluice_tokens_total",
                "Tokens as upstreams counted them.",
                &["upstream", "kind"],
            )?,
            attempts: counters(
                r,
                "sluice_attempts_total",
                "Attempts to have an upstream answer, by how they ended.",
                &["upstream", "ending"],
            )?,
            rejected: counters(
                r,
                "sluice_rejected_total",
                "Requests turned away before a decision.",
                &["reason"],
            )?,
            in_flight: gauge(r, "sluice_requests_in_flight", "Requests being answered.")?,
            connections: gauge(r, "sluice_connections", "Open client connections.")?,
            upstream_healthy: gauges(
                r,
                "sluice_upstream_healthy",
                "1 if the upstream takes requests.",
                &["upstream"],
            )?,
            audit_writable: gauge(r, "sluice_audit_writable", "1 if the audit log takes records.")?,
            audit_off: gauge(
                r,
                "sluice_audit_off",
                "1 if the config switches the audit log off: nothing is recorded.",
            )?,
            audit_failures: gauge(
                r,
                "sluice_audit_write_failures",
                "Audit records that could not be written since the start.",
            )?,
            taint_kept: gauge(
                r,
                "sluice_taint_kept",
                "1 if it is known of every conversation whether it was private before, also after a restart.",
            )?,
            texts_known: gauge(
                r,
                "sluice_texts_known",
                "Texts whose scan is remembered, so that it is not done again when they come again.",
            )?,
            reply_findings: counters(
                r,
                "sluice_reply_findings_total",
                "Replies that held regulated text though their request did not.",
                &["upstream"],
            )?,
            client_left: counter(
                r,
                "sluice_clients_left_total",
                "Clients that left before the end of their reply.",
            )?,
            engine: EngineMetrics::registered(r)?,
            network: NetworkMetrics::registered(r)?,
            policy: PolicyMetrics::registered(r)?,
            registry,
        })
    }

    /// A request was answered.
    pub fn request(&self, route: &str, class: &str, status: u16) {
        let mut digits = [0; 3];
        self.requests.with_label_values(&[route, class, status_text(status, &mut digits)]).inc();
    }

    /// A request was turned away before a decision.
    pub fn reject(&self, reason: &str) {
        self.rejected.with_label_values(&[reason]).inc();
    }

    /// A request was classified and decided.
    pub fn decision(&self, took: Duration) {
        self.decision_seconds.observe(took.as_secs_f64());
    }

    /// The first piece of a streamed reply came.
    pub fn first_token(&self, route: &str, took: Duration) {
        self.first_token_seconds.with_label_values(&[route]).observe(took.as_secs_f64());
    }

    /// An attempt ended.
    pub fn attempt(&self, upstream: &str, ending: &str) {
        self.attempts.with_label_values(&[upstream, ending]).inc();
    }

    /// A reply ended, well or not.
    pub fn reply_over(&self, route: &str, took: Duration) {
        self.request_seconds.with_label_values(&[route]).observe(took.as_secs_f64());
    }

    /// Tokens were counted.
    pub fn tokens(&self, upstream: &str, prompt: Option<u64>, completion: Option<u64>) {
        self.tokens.with_label_values(&[upstream, "prompt"]).inc_by(prompt.unwrap_or(0));
        self.tokens.with_label_values(&[upstream, "completion"]).inc_by(completion.unwrap_or(0));
    }

    /// A reply held regulated text though its request did not.
    pub fn reply_finding(&self, upstream: &str) {
        self.reply_findings.with_label_values(&[upstream]).inc();
    }

    /// A client left before the end.
    pub fn client_left(&self) {
        self.client_left.inc();
    }

    /// Counts a request as in flight until the guard is dropped.
    pub fn in_flight(&self) -> GaugeGuard {
        GaugeGuard::take(&self.in_flight)
    }

    /// Counts a connection as open until the guard is dropped.
    pub fn connection(&self) -> GaugeGuard {
        GaugeGuard::take(&self.connections)
    }

    /// The network went away, came back or is away for another cause.
    pub fn network_changed(&self, to: &str) {
        self.network.changed(to);
    }

    /// A failed attempt could be repeated: `made`, or not for want of `budget` or `time`.
    pub fn retry(&self, upstream: &str, outcome: &str) {
        self.network.retry(upstream, outcome);
    }

    /// A second attempt ran beside a slow first one; `first` or `second` answered, or `none`.
    pub fn hedge(&self, upstream: &str, winner: &str) {
        self.network.hedge(upstream, winner);
    }

    /// Policy files were read.
    pub fn policy_activation(&self, result: Activation) {
        self.policy.activation(result);
    }

    /// These policies are in force, since then.
    pub fn policy_in_force(&self, digest: &str, site: &str, version: &str, since: Timestamp) {
        self.policy.in_force(digest, site, version, since);
    }

    /// Candidate policies were read, or refused.
    pub fn policy_candidate(&self, loaded: bool) {
        self.policy.candidate(loaded);
    }

    /// Candidate policies would have decided otherwise, by one of these rules or by none.
    pub fn policy_difference(&self, kind: &str, rules: &[&str]) {
        self.policy.difference(kind, rules);
    }

    /// An upstream is not configured any more: nothing is said of its state. What was counted stays.
    pub fn forget_state(&self, upstream: &str) {
        // There is no series to remove if nobody has looked since it came.
        let _ = self.upstream_healthy.remove_label_values(&[upstream]);
        self.network.forget_state(upstream);
    }

    /// Everything in Prometheus' text format.
    pub fn render(&self, now: &Snapshot<'_>) -> String {
        for (upstream, healthy) in &now.upstreams {
            self.upstream_healthy.with_label_values(&[upstream]).set(i64::from(*healthy));
        }
        if let Some(engine) = &now.engine {
            self.engine.set(engine);
        }
        self.network.set(now.offline, &now.breakers);
        self.audit_writable.set(i64::from(now.audit == AuditState::Writable));
        self.audit_off.set(i64::from(now.audit == AuditState::Off));
        self.audit_failures.set(i64::try_from(now.audit_failures).unwrap_or(i64::MAX));
        self.taint_kept.set(i64::from(matches!(now.taint, "kept" | "shared")));
        self.texts_known.set(i64::try_from(now.texts_known).unwrap_or(i64::MAX));
        self.render_at_start()
    }

    /// What there is to show before requests are taken.
    pub fn render_at_start(&self) -> String {
        self.policy.grow_older();
        let mut text = String::new();
        TextEncoder::new()
            .encode_utf8(&self.registry.gather(), &mut text)
            .expect("gathered families are well formed");
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}

/// Holds a gauge up by one.
pub struct GaugeGuard(IntGauge);

impl GaugeGuard {
    fn take(gauge: &IntGauge) -> GaugeGuard {
        gauge.inc();
        GaugeGuard(gauge.clone())
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Three digits without an allocation; `other` for what is no HTTP status.
fn status_text(status: u16, digits: &mut [u8; 3]) -> &str {
    if !(100..1000).contains(&status) {
        return "other";
    }
    for (digit, power) in digits.iter_mut().zip([100, 10, 1]) {
        *digit = b'0' + (status / power % 10) as u8;
    }
    std::str::from_utf8(digits).expect("ASCII digits are UTF-8")
}

#[cfg(test)]
mod tests {
    use sluice_engine::{CheckpointUse, ExpertUse};

    use super::*;

    #[test]
    fn shows_what_was_counted_and_what_is_now() {
        let metrics = Metrics::new();
        metrics.request("edge", "regulated", 200);
        let guard = metrics.in_flight();
        let now = Snapshot {
            upstreams: vec![("edge", true), ("cloud", false)],
            engine: Some(EngineNow {
                running: 2,
                waiting: 5,
                experts: ExpertUse {
                    hits: 7,
                    bytes_read: 4096,
                    stalled: Duration::from_millis(1500),
                    ..ExpertUse::default()
                },
                cache_bytes: 1 << 30,
                checkpoints: CheckpointUse {
                    hits: 3,
                    restored_tokens: 900,
                    memory_bytes: 2048,
                    ..CheckpointUse::default()
                },
            }),
            offline: Some("failing"),
            breakers: vec![("cloud", Health::Open)],
            audit: AuditState::Writable,
            audit_failures: 3,
            texts_known: 40,
            taint: "kept",
        };
        let text = metrics.render(&now);
        for line in [
            r#"sluice_requests_total{class="regulated",route="edge",status="200"} 1"#,
            r#"sluice_upstream_healthy{upstream="cloud"} 0"#,
            "sluice_requests_in_flight 1",
            "sluice_engine_waiting 5",
            r#"sluice_engine_expert_lookups_total{result="hit"} 7"#,
            "sluice_engine_expert_read_bytes_total 4096",
            r#"sluice_engine_checkpoint_lookups_total{result="hit"} 3"#,
            "sluice_engine_checkpoint_restored_tokens_total 900",
            r#"sluice_engine_checkpoint_bytes{place="memory"} 2048"#,
            r#"sluice_engine_seconds_total{state="stalled"} 1.5"#,
            "sluice_engine_expert_cache_bytes 1073741824",
            "sluice_audit_write_failures 3",
            "sluice_taint_kept 1",
            "sluice_texts_known 40",
            r#"sluice_offline{cause="failing"} 1"#,
            r#"sluice_offline{cause="declared"} 0"#,
            r#"sluice_breaker_state{upstream="cloud"} 2"#,
        ] {
            assert!(text.contains(line), "{line} is missing in:\n{text}");
        }
        drop(guard);
        assert!(metrics.render(&now).contains("sluice_requests_in_flight 0"));
    }

    #[test]
    fn status_text_has_three_digits() {
        for (status, expected) in [(200, "200"), (503, "503"), (7, "other")] {
            assert_eq!(status_text(status, &mut [0; 3]), expected);
        }
    }
}
