//! The last word of a request that nothing answered.

use std::collections::BTreeSet;

use hyper::{HeaderMap, StatusCode};
use serde_json::json;

use super::pursuit::QUEUE_STEP_MIN;
use super::*;
use crate::api::{Hints, chat};
use crate::identity::Caller;

fn decision(refusal: Option<RefusalCode>, queue_ms_max: Option<u64>) -> Decision {
    let refusal = refusal.map(|code| Refusal { code, message: "no".into(), retry_after_s: None });
    serde_json::from_value(json!({
        "route": "refuse", "upstream": null, "allowed": [], "class": "c", "labels": [],
        "latency": "l", "redact": false, "rules": [], "raised_by": [], "never_cloud": false,
        "reason": "", "refusal": refusal, "policy_digest": "", "queue_ms_max": queue_ms_max,
    }))
    .unwrap()
}

fn ask() -> Ask {
    let hints = Hints::read(&HeaderMap::new(), "/", "").ok().unwrap();
    let caller = Caller { id: None, tenant: "t".into(), tags: BTreeSet::new() };
    let body = br#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#;
    let classification = serde_json::from_value(json!({
        "class": "c", "labels": [], "latency": "l", "rules": [], "raised_by": [],
        "shadow_rules": [], "findings": [], "refuse": null, "strip": [], "never_cloud": false,
        "reason": "", "base_class": "c", "base_reason": null, "excepted": [], "redactable": false,
    }))
    .unwrap();
    Ask {
        id: "id".into(),
        policy: Arc::new(PolicySet::shipped().unwrap()),
        request: chat::read(body, hints, caller).ok().unwrap(),
        needs: Needs::default(),
        classification,
        evidence: Evidence::default(),
        redaction: None,
        stripped: vec![],
        allowed: vec![],
        never_cloud: false,
        would_be: None,
        started: Instant::now(),
    }
}

fn status(code: u16) -> UpstreamError {
    UpstreamError::Status { status: StatusCode::from_u16(code).unwrap(), retry_after_s: Some(7) }
}

#[test]
fn the_error_that_says_most_is_told() {
    use RefusalCode::{EdgeUnavailable, PolicyBlocked, UpstreamUnavailable};
    let unsupported = UpstreamError::Unsupported { param: "tools".into(), what: "no".into() };
    for (refusal, last, expected) in [
        (Some(PolicyBlocked), None, (403, "policy_blocked")),
        (Some(PolicyBlocked), Some(status(500)), (403, "policy_blocked")),
        (Some(EdgeUnavailable), None, (503, "edge_unavailable")),
        (Some(UpstreamUnavailable), Some(status(429)), (429, "rate_limit_exceeded")),
        (Some(UpstreamUnavailable), Some(status(500)), (502, "upstream_unavailable")),
        (Some(EdgeUnavailable), Some(unsupported), (400, "unsupported_by_upstream")),
        (None, Some(UpstreamError::Timeout("x")), (504, "upstream_timeout")),
        (None, None, (503, "upstream_unavailable")),
    ] {
        let error = final_error(&decision(refusal, None), last.as_ref());
        let got = (error.status.as_u16(), error.code.unwrap());
        assert_eq!(got, expected, "{refusal:?} {last:?}");
    }
}

#[test]
fn only_what_may_pass_is_queued_and_only_as_long_as_the_site_says() {
    let refusal = Some(RefusalCode::EdgeUnavailable);
    let unsupported = UpstreamError::Unsupported { param: "tools".into(), what: "no".into() };
    let step = QUEUE_STEP_MIN;
    for (queue_ms_max, last, expected) in [
        (Some(1000), None, true),
        (Some(1000), Some(&status(503)), true),
        (Some(1000), Some(&unsupported), false),
        (Some(50), None, false),
        (None, None, false),
    ] {
        let got = may_queue(&ask(), &decision(refusal, queue_ms_max), last, step);
        assert_eq!(got, expected, "{queue_ms_max:?} {last:?}");
    }
}

#[test]
fn when_to_come_back_is_told_on_whatever_failed() {
    use RefusalCode::UpstreamUnavailable;
    for code in [429, 500, 503] {
        let error = final_error(&decision(Some(UpstreamUnavailable), None), Some(&status(code)));
        assert_eq!(error.retry_after_s, Some(7), "{code}");
    }
}
