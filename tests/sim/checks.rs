//! What must hold after every batch, and after a run.

use std::collections::BTreeMap;

use serde_json::Value;

use super::traffic::{Call, Traffic};
use crate::cloud::Cloud;
use crate::gateway::{Gateway, Reply, shows_card};

/// What the clients of a run saw.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) asked: u64,
    /// Replies with a decision, by route.
    pub(crate) by_route: BTreeMap<String, u64>,
    /// Clients that left before the end of their reply.
    left: u64,
}

impl Tally {
    /// Checks one reply and counts it.
    pub(crate) fn count(&mut self, call: &Call, reply: Option<&Reply>) {
        self.asked += 1;
        let Some(reply) = reply else {
            self.left += 1;
            return;
        };
        let (route, status) = (reply.header("x-sluice-route"), reply.status.as_u16());
        assert!(!(call.private && route == "cloud"), "a private request went to the cloud");
        assert!(matches!(route, "edge" | "cloud" | "refuse"), "{route:?}: {}", reply.text());
        for name in ["upstream", "class", "labels", "rule", "decision", "model-quality"] {
            let value = reply.header(&format!("x-sluice-{name}"));
            assert!(!value.is_empty(), "{name} is missing: {}", reply.text());
        }
        let expected = [200, 400, 403, 429, 502, 503, 504];
        assert!(expected.contains(&status), "{status}: {}", reply.text());
        assert!(route != "edge" || status == 200, "the edge said {status}: {}", reply.text());
        *self.by_route.entry(route.to_owned()).or_default() += 1;
    }

    fn answered(&self) -> u64 {
        self.by_route.values().sum()
    }
}

/// No cloud has got a byte of what is private.
pub(crate) fn nothing_private_left(clouds: &[Cloud], traffic: &Traffic) {
    for cloud in clouds {
        let seen = cloud.seen();
        let leaked = seen.contains(&traffic.canary()) || shows_card(&seen);
        assert!(!leaked, "private bytes reached a cloud");
    }
}

/// Logs, metrics and audit records show no text of any request.
pub(crate) fn nothing_is_shown(shown: &[String], traffic: &Traffic) {
    for text in shown {
        assert!(!text.is_empty());
        assert!(!text.contains(&traffic.canary()), "the text of a request is shown");
        assert!(!text.contains("plain1"), "the text of a request is shown");
    }
}

/// What was answered, what is on record and what was counted agree, and nothing is left over.
pub(crate) async fn books_balance(gateway: &Gateway, tally: &Tally) {
    let lines = gateway.audit();
    let attempts = check_audit(&lines);
    let metrics = gateway.probe("/metrics").await.text();
    let counted = sum(&metrics, "sluice_attempts_total{");
    // Who leaves while the record is written was never asked for.
    let on_record = counted..=counted + tally.left;
    assert!(on_record.contains(&attempts), "{counted} attempts counted, {attempts} on record");
    let requests = sum(&metrics, "sluice_requests_total{");
    let most = tally.answered() + tally.left;
    assert!((tally.answered()..=most).contains(&requests), "{requests} of at most {most} requests");
    for gauge in ["sluice_requests_in_flight ", "sluice_engine_running ", "sluice_engine_waiting "]
    {
        assert_eq!(sum(&metrics, gauge), 0, "{gauge}");
    }
    assert_eq!(sum(&metrics, "sluice_audit_write_failures "), 0);
}

/// Every line has its number; every attempt comes before its one outcome; what never goes to a cloud
/// was only ever tried here. Gives back how many attempts there were.
fn check_audit(lines: &[Value]) -> u64 {
    let mut open = BTreeMap::<String, u64>::new();
    let mut attempts = 0;
    for (line, seq) in lines.iter().zip(1_u64..) {
        assert_eq!(line["seq"].as_u64(), Some(seq));
        let key = format!("{}#{}", line["id"], line["attempt"]);
        match line["kind"].as_str().unwrap() {
            "attempt" => {
                attempts += 1;
                assert_eq!(open.insert(key, seq), None, "an attempt is on record twice");
                let here = line["route"] == "edge" && line["upstream"] == "edge";
                assert!(here || line["never_cloud"] == false, "{line}");
                let allowed = line["allowed"].as_array().unwrap();
                assert!(allowed.contains(&line["upstream"]), "{line}");
            }
            "outcome" => assert!(open.remove(&key).is_some(), "an outcome before its attempt"),
            other => assert!(["refusal", "policy"].contains(&other), "{other}"),
        }
    }
    assert!(open.is_empty(), "attempts without an outcome: {open:?}");
    attempts
}

/// The sum of all series whose line begins so.
fn sum(metrics: &str, prefix: &str) -> u64 {
    let lines = metrics.lines().filter(|line| line.starts_with(prefix));
    let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    values.sum::<f64>() as u64
}
