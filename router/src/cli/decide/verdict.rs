//! The answer to "where would this go" as one JSON object.
//!
//! Its fields are a contract with scripts: always all of them, in this order, also for a request that
//! could not be read (then `error` says why and the route is `refuse`). None repeats any of the
//! request's text.

use serde::Serialize;
use serde_json::Value;
use sluice_policies::{Classification, Complexity, Decision, Finding, RequestFacts, Route, Sign};

/// Where one request would go, and why.
#[derive(Serialize, Debug)]
pub(in crate::cli) struct Verdict {
    /// The request's own `id`, whatever JSON it is; null if it has none.
    pub(in crate::cli) id: Value,
    /// Sensitivity class; null if the request could not be read.
    pub(in crate::cli) class: Option<String>,
    pub(in crate::cli) labels: Vec<String>,
    /// Latency class; null if the request could not be read.
    pub(in crate::cli) latency: Option<String>,
    /// How hard the request looks; null if it could not be read.
    pub(in crate::cli) complexity: Option<Complexity>,
    /// Why it looks hard.
    pub(in crate::cli) signs: Vec<Sign>,
    pub(in crate::cli) route: Route,
    /// The first choice; null if nothing may answer.
    pub(in crate::cli) upstream: Option<String>,
    /// Every upstream that may answer, best first.
    pub(in crate::cli) allowed: Vec<String>,
    /// Findings would be replaced by placeholders before the text is sent.
    pub(in crate::cli) redact: bool,
    /// Ids of the rules that matched, sorted.
    pub(in crate::cli) rules: Vec<String>,
    pub(in crate::cli) findings: Vec<Finding>,
    pub(in crate::cli) reason: String,
    /// Why the request could not be read.
    pub(in crate::cli) error: Option<String>,
}

impl Verdict {
    /// The policy's decision.
    pub(in crate::cli) fn decided(
        id: Value,
        found: Classification,
        decision: Decision,
        request: &RequestFacts,
    ) -> Self {
        Verdict {
            id,
            class: Some(decision.class),
            labels: decision.labels,
            latency: Some(decision.latency),
            complexity: request.complexity,
            signs: request.signs.clone(),
            route: decision.route,
            upstream: decision.upstream,
            allowed: decision.allowed,
            redact: decision.redact,
            rules: decision.rules,
            findings: found.findings,
            reason: decision.reason,
            error: None,
        }
    }

    /// A request that could not be read goes nowhere.
    pub(in crate::cli) fn unreadable(id: Value, why: String) -> Self {
        Verdict {
            id,
            class: None,
            labels: Vec::new(),
            latency: None,
            complexity: None,
            signs: Vec::new(),
            route: Route::Refuse,
            upstream: None,
            allowed: Vec::new(),
            redact: false,
            rules: Vec::new(),
            findings: Vec::new(),
            reason: "the request could not be read".to_owned(),
            error: Some(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_exactly_the_promised_fields_in_order() {
        let json =
            serde_json::to_string(&Verdict::unreadable(Value::from(7), "bad".into())).unwrap();
        assert_eq!(
            json,
            r#"{"id":7,"class":null,"labels":[],"latency":null,"complexity":null,"signs":[],"route":"refuse","upstream":null,"allowed":[],"redact":false,"rules":[],"findings":[],"reason":"the request could not be read","error":"bad"}"#
        );
    }
}
