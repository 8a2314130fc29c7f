//! What operators watch: counts, times and states of this gateway in Prometheus' text format.
//!
//! The `prometheus` crate stays inside this file. Label values come from closed or configured sets
//! (routes, classes of the site, statuses, upstreams), never from a client, so the number of series
//! is bounded; none carries text of a request.

use std::time::Duration;

use jiff::Timestamp;
use prometheus::{
    GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};
use sluice_engine::ExpertUse;

/// Buckets for decisions, seconds: 20 µs to 80 ms.
const DECISION_BUCKETS: &[f64] =
    &[2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 4e-2, 8e-2];
/// Buckets for first tokens and whole requests, seconds; those of OpenTelemetry's GenAI conventions.
const REQUEST_BUCKETS: &[f64] =
    &[0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92];

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
    engine_running: IntGauge,
    engine_waiting: IntGauge,
    engine_lookups: IntCounterVec,
    engine_read_ahead: IntCounterVec,
    engine_read: IntCounter,
    engine_seconds: GaugeVec,
    engine_cache: IntGauge,
    audit_writable: IntGauge,
    audit_failures: IntGauge,
    policy_reload_failed: IntGauge,
    policy_activations: IntCounterVec,
    policy_activated: IntGauge,
    policy_age: IntGauge,
    policy_info: IntGaugeVec,
    policy_candidate: IntGaugeVec,
    policy_differences: IntCounterVec,
    reply_findings: IntCounterVec,
    client_left: IntCounter,
}

/// What is read at the moment of a scrape.
pub struct Snapshot<'a> {
    /// Each upstream and whether it takes requests.
    pub upstreams: Vec<(&'a str, bool)>,
    /// The embedded engine.
    pub engine: Option<EngineNow>,
    /// Whether the audit log takes records.
    pub audit_writable: bool,
    /// Records that could not be written.
    pub audit_failures: u64,
}

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
            engine_running: gauge(r, "sluice_engine_running", "Generations running.")?,
            engine_waiting: gauge(r, "sluice_engine_waiting", "Generations waiting.")?,
            engine_lookups: counters(
                r,
                "sluice_engine_expert_lookups_total",
                "Look-ups of experts, by whether they were in memory (hit) or read (miss).",
                &["result"],
            )?,
            engine_read_ahead: counters(
                r,
                "sluice_engine_experts_read_ahead_total",
                "Experts read before their layer, by whether they were wanted then.",
                &["result"],
            )?,
            engine_read: counter(
                r,
                "sluice_engine_expert_read_bytes_total",
                "Bytes of experts read from flash.",
            )?,
            engine_seconds: gauge_seconds(
                r,
                "sluice_engine_seconds_total",
                "Time of the model: computing, or waiting for experts with nothing to compute.",
                &["state"],
            )?,
            engine_cache: gauge(
                r,
                "sluice_engine_expert_cache_bytes",
                "Bytes that the cache of experts may hold.",
            )?,
            audit_writable: gauge(r, "sluice_audit_writable", "1 if the audit log takes records.")?,
            audit_failures: gauge(
                r,
                "sluice_audit_write_failures",
                "Audit records that could not be written since the start.",
            )?,
            policy_reload_failed: gauge(
                r,
                "sluice_policy_reload_failed",
                "1 if the present policy files were refused and an older set, or none, is in force.",
            )?,
            policy_activations: counters(
                r,
                "sluice_policy_activations_total",
                "Readings of the policy files: activated, unchanged, refused (broken) or held \
                 (they loosen what nobody accepted, or are older than what was in force).",
                &["result"],
            )?,
            policy_activated: gauge(
                r,
                "sluice_policy_activated_timestamp_seconds",
                "When the policies in force were put in force, seconds since 1970; 0 for none.",
            )?,
            policy_age: gauge(
                r,
                "sluice_policy_age_seconds",
                "Time since the policies in force were put in force; 0 for none.",
            )?,
            policy_info: gauges(
                r,
                "sluice_policy_info",
                "1 for the policies in force.",
                &["digest", "site", "version"],
            )?,
            policy_candidate: gauges(
                r,
                "sluice_policy_shadow_loaded",
                "1 if the candidate policies are compared with those in force; 0 if refused.",
                &[],
            )?,
            policy_differences: counters(
                r,
                "sluice_policy_shadow_differences_total",
                "Requests that candidate policies would decide otherwise, by rule.",
                &["kind", "rule"],
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

    /// Policy files were read.
    pub fn policy_activation(&self, result: Activation) {
        self.policy_activations.with_label_values(&[result.in_words()]).inc();
        let refused = matches!(result, Activation::Refused | Activation::Held);
        self.policy_reload_failed.set(i64::from(refused));
    }

    /// These policies are in force, since then.
    pub fn policy_in_force(&self, digest: &str, site: &str, version: &str, since: Timestamp) {
        self.policy_activated.set(since.as_second());
        self.policy_info.reset();
        self.policy_info.with_label_values(&[digest, site, version]).set(1);
    }

    /// Candidate policies were read, or refused.
    pub fn policy_candidate(&self, loaded: bool) {
        let none: &[&str] = &[];
        self.policy_candidate.with_label_values(none).set(i64::from(loaded));
    }

    /// Candidate policies would have decided otherwise, by one of these rules or by none.
    pub fn policy_difference(&self, kind: &str, rules: &[&str]) {
        let rules = if rules.is_empty() { &["none"] } else { rules };
        for rule in rules {
            self.policy_differences.with_label_values(&[kind, rule]).inc();
        }
    }

    /// Everything in Prometheus' text format.
    pub fn render(&self, now: &Snapshot<'_>) -> String {
        for (upstream, healthy) in &now.upstreams {
            self.upstream_healthy.with_label_values(&[upstream]).set(i64::from(*healthy));
        }
        if let Some(engine) = &now.engine {
            self.engine(engine);
        }
        self.audit_writable.set(i64::from(now.audit_writable));
        self.audit_failures.set(i64::try_from(now.audit_failures).unwrap_or(i64::MAX));
        self.render_at_start()
    }

    /// The engine counts for itself: its totals replace those of the scrape before.
    fn engine(&self, now: &EngineNow) {
        self.engine_running.set(now.running as i64);
        self.engine_waiting.set(now.waiting as i64);
        self.engine_cache.set(i64::try_from(now.cache_bytes).unwrap_or(i64::MAX));
        let used = &now.experts;
        let set = |counter: IntCounter, total: u64| {
            counter.inc_by(total.saturating_sub(counter.get()));
        };
        set(self.engine_lookups.with_label_values(&["hit"]), used.hits);
        set(self.engine_lookups.with_label_values(&["miss"]), used.misses);
        let wasted = used.read_ahead.saturating_sub(used.read_ahead_useful);
        set(self.engine_read_ahead.with_label_values(&["wanted"]), used.read_ahead_useful);
        set(self.engine_read_ahead.with_label_values(&["wasted"]), wasted);
        set(self.engine_read.clone(), used.bytes_read);
        let seconds = |state: &str| self.engine_seconds.with_label_values(&[state]);
        seconds("computing").set(used.computed.as_secs_f64());
        seconds("stalled").set(used.stalled.as_secs_f64());
    }

    /// What there is to show before requests are taken.
    pub fn render_at_start(&self) -> String {
        if self.policy_activated.get() > 0 {
            let age = Timestamp::now().as_second() - self.policy_activated.get();
            self.policy_age.set(age.max(0));
        }
        let mut text = String::new();
        TextEncoder::new()
            .encode_utf8(&self.registry.gather(), &mut text)
            .expect("gathered families are well formed");
        text
    }
}

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

fn counter(r: &Registry, name: &str, help: &str) -> prometheus::Result<IntCounter> {
    let metric = IntCounter::new(name, help)?;
    r.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn counters(
    r: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> prometheus::Result<IntCounterVec> {
    let metric = IntCounterVec::new(Opts::new(name, help), labels)?;
    r.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn gauge(r: &Registry, name: &str, help: &str) -> prometheus::Result<IntGauge> {
    let metric = IntGauge::new(name, help)?;
    r.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn gauges(
    r: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> prometheus::Result<IntGaugeVec> {
    let metric = IntGaugeVec::new(Opts::new(name, help), labels)?;
    r.register(Box::new(metric.clone()))?;
    Ok(metric)
}

/// Totals of seconds that are counted elsewhere.
fn gauge_seconds(
    r: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> prometheus::Result<GaugeVec> {
    let metric = GaugeVec::new(Opts::new(name, help), labels)?;
    r.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn histogram(
    r: &Registry,
    name: &str,
    help: &str,
    buckets: &[f64],
) -> prometheus::Result<Histogram> {
    let metric = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec()))?;
    r.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn histograms(r: &Registry, name: &str, help: &str) -> prometheus::Result<HistogramVec> {
    let options = HistogramOpts::new(name, help).buckets(REQUEST_BUCKETS.to_vec());
    let metric = HistogramVec::new(options, &["route"])?;
    r.register(Box::new(metric.clone()))?;
    Ok(metric)
}

#[cfg(test)]
mod tests {
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
            }),
            audit_writable: true,
            audit_failures: 3,
        };
        let text = metrics.render(&now);
        for line in [
            r#"sluice_requests_total{class="regulated",route="edge",status="200"} 1"#,
            r#"sluice_upstream_healthy{upstream="cloud"} 0"#,
            "sluice_requests_in_flight 1",
            "sluice_engine_waiting 5",
            r#"sluice_engine_expert_lookups_total{result="hit"} 7"#,
            "sluice_engine_expert_read_bytes_total 4096",
            r#"sluice_engine_seconds_total{state="stalled"} 1.5"#,
            "sluice_engine_expert_cache_bytes 1073741824",
            "sluice_audit_write_failures 3",
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
