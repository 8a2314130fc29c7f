//! What one audit line says. Field names are part of the log's format: they are added, never renamed.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use sluice_policies::{
    Classification, Decision, Evidence, Facts, PolicySet, Refusal, Route, Sight,
};

use crate::active_policy::candidate::WouldBe;
use crate::upstream::UpstreamId;

/// Fields that were removed that a record names; the rest is counted.
const STRIPPED_KEPT_MAX: usize = 1000;

/// One attempt to have one upstream answer, written before anything is sent.
pub struct AttemptRecord<'a> {
    /// The decision's id (UUIDv7); all attempts of a request share it.
    pub id: &'a str,
    /// 1 for the first choice, 2 for the first fallback, …
    pub attempt: u32,
    /// Who is asked.
    pub upstream: UpstreamId,
    /// `scheme://host:port` of a network upstream; empty for the edge.
    pub address: &'a str,
    /// The decision that allowed it.
    pub decision: &'a Decision,
    /// What the decision was about.
    pub classification: &'a Classification,
    /// What the classification rested on.
    pub evidence: &'a Evidence,
    /// What was known when it was taken.
    pub facts: &'a Facts,
    /// What a candidate set would have decided, if it differs.
    pub would_be: Option<&'a WouldBe>,
    /// The caller's id, if known.
    pub caller: Option<&'a str>,
    /// The caller's tenant.
    pub tenant: &'a str,
    /// Fields that were removed from the body.
    pub stripped: &'a [String],
    /// How many values of each detector placeholders stand for, if any do.
    pub redacted: Option<&'a BTreeMap<String, usize>>,
    /// Bytes that would leave this process; 0 for the edge.
    pub bytes: usize,
}

/// A request that nothing may answer, or that nothing did.
pub struct RefusalRecord<'a> {
    /// The decision's id.
    pub id: &'a str,
    /// The decision that refused.
    pub decision: &'a Decision,
    /// What the decision was about.
    pub classification: &'a Classification,
    /// What the classification rested on.
    pub evidence: &'a Evidence,
    /// What was known when it was taken.
    pub facts: &'a Facts,
    /// What a candidate set would have decided, if it differs.
    pub would_be: Option<&'a WouldBe>,
    /// The caller's id, if known.
    pub caller: Option<&'a str>,
    /// The caller's tenant.
    pub tenant: &'a str,
    /// The code that the client was told.
    pub code: &'a str,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// In one word.
    pub ending: Ending,
    /// The upstream's HTTP status, if it gave one.
    pub status: Option<u16>,
    /// Why it was cut or failed, as a stable code.
    pub error: Option<&'static str>,
    /// Bytes of the reply that were passed on.
    pub bytes_received: u64,
    /// Tokens of the prompt, as the upstream counted.
    pub prompt_tokens: Option<u64>,
    /// Tokens of the reply, as the upstream counted.
    pub completion_tokens: Option<u64>,
    /// The reply did not come to its end, so the tokens are estimates from its length.
    pub usage_estimated: bool,
    /// The reply held text that never goes to a cloud though its request did not.
    pub reply_finding: bool,
    /// From the attempt's start to its end.
    pub took: Duration,
}

/// How an attempt ended, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// The whole reply was passed on.
    Complete,
    /// The reply broke off after its first byte.
    Cut,
    /// No reply came; the next allowed upstream may be asked.
    Failed,
    /// The client left before the end.
    ClientLeft,
    /// A second upstream, asked beside this one, was quicker.
    Outrun,
}

impl Outcome {
    /// An attempt whose request was dropped before an answer.
    pub fn abandoned() -> Outcome {
        Outcome {
            ending: Ending::ClientLeft,
            status: None,
            error: None,
            bytes_received: 0,
            prompt_tokens: None,
            completion_tokens: None,
            usage_estimated: false,
            reply_finding: false,
            took: Duration::ZERO,
        }
    }

    /// An attempt that brought no reply.
    pub fn failed(error: &'static str, status: Option<u16>, took: Duration) -> Outcome {
        let ending = Ending::Failed;
        Outcome { ending, status, error: Some(error), took, ..Outcome::abandoned() }
    }

    pub(super) fn to_json(&self, id: &str, attempt: u32, upstream: &UpstreamId) -> Vec<u8> {
        json(&OutcomeLine {
            kind: "outcome",
            time: now(),
            id,
            attempt,
            upstream: upstream.as_str(),
            ending: self.ending,
            status: self.status,
            error: self.error,
            bytes_received: self.bytes_received,
            prompt_tokens: self.prompt_tokens,
            completion_tokens: self.completion_tokens,
            usage_estimated: self.usage_estimated,
            reply_finding: self.reply_finding,
            took_ms: u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX),
        })
    }
}

impl AttemptRecord<'_> {
    pub(super) fn to_json(&self) -> Vec<u8> {
        json(&DecisionLine {
            attempt: Some(self.attempt),
            upstream: Some(self.upstream.as_str()),
            address: Some(self.address).filter(|a| !a.is_empty()),
            stripped: &self.stripped[..self.stripped.len().min(STRIPPED_KEPT_MAX)],
            stripped_left_out: self.stripped.len().saturating_sub(STRIPPED_KEPT_MAX),
            redacted: self.redacted,
            bytes: Some(self.bytes),
            would_be: self.would_be,
            ..DecisionLine::of("attempt", self.id, self.decision, self.classification)
                .on(self.evidence, self.facts)
                .by(self.caller, self.tenant)
        })
    }
}

impl RefusalRecord<'_> {
    pub(super) fn to_json(&self) -> Vec<u8> {
        let refusal = self.decision.refusal.as_ref();
        json(&DecisionLine {
            route: Route::Refuse,
            code: Some(self.code),
            message: refusal.map(|r: &Refusal| r.message.as_str()),
            would_be: self.would_be,
            ..DecisionLine::of("refusal", self.id, self.decision, self.classification)
                .on(self.evidence, self.facts)
                .by(self.caller, self.tenant)
        })
    }
}

#[derive(Serialize)]
struct DecisionLine<'a> {
    kind: &'static str,
    time: String,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempt: Option<u32>,
    route: Route,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
    class: &'a str,
    labels: &'a [String],
    latency: &'a str,
    rules: &'a [String],
    raised_by: &'a [String],
    shadow_rules: &'a [String],
    never_cloud: bool,
    #[serde(flatten)]
    evidence: Option<&'a Evidence>,
    stripped: &'a [String],
    #[serde(skip_serializing_if = "is_zero")]
    stripped_left_out: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    redacted: Option<&'a BTreeMap<String, usize>>,
    allowed: &'a [String],
    caller: Option<&'a str>,
    tenant: &'a str,
    policy: &'a str,
    facts: Option<&'a Facts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    would_be: Option<&'a WouldBe>,
}

#[derive(Serialize)]
struct PolicyLine<'a> {
    kind: &'static str,
    time: String,
    digest: &'a str,
    site: &'a str,
    version: &'a str,
    sight: &'a Sight,
}

#[derive(Serialize)]
struct OutcomeLine<'a> {
    kind: &'static str,
    time: String,
    id: &'a str,
    attempt: u32,
    upstream: &'a str,
    ending: Ending,
    status: Option<u16>,
    error: Option<&'a str>,
    bytes_received: u64,
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    usage_estimated: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    reply_finding: bool,
    took_ms: u64,
}

impl<'a> DecisionLine<'a> {
    fn of(
        kind: &'static str,
        id: &'a str,
        decision: &'a Decision,
        classification: &'a Classification,
    ) -> Self {
        DecisionLine {
            kind,
            time: now(),
            id,
            attempt: None,
            route: decision.route,
            upstream: None,
            address: None,
            code: None,
            message: None,
            class: &decision.class,
            labels: &decision.labels,
            latency: &decision.latency,
            rules: &decision.rules,
            raised_by: &decision.raised_by,
            shadow_rules: &classification.shadow_rules,
            never_cloud: decision.never_cloud,
            evidence: None,
            stripped: &[],
            stripped_left_out: 0,
            redacted: None,
            allowed: &decision.allowed,
            caller: None,
            tenant: "",
            policy: &decision.policy_digest,
            facts: None,
            bytes: None,
            would_be: None,
        }
    }

    fn on(self, evidence: &'a Evidence, facts: &'a Facts) -> Self {
        DecisionLine { evidence: Some(evidence), facts: Some(facts), ..self }
    }

    fn by(self, caller: Option<&'a str>, tenant: &'a str) -> Self {
        DecisionLine { caller, tenant, ..self }
    }
}

/// A set that decides from now on, and what it looks at: so that later readers know what a record
/// without findings means.
pub(super) fn policy_line(set: &PolicySet) -> Vec<u8> {
    json(&PolicyLine {
        kind: "policy",
        time: now(),
        digest: set.digest(),
        site: set.site(),
        version: set.version(),
        sight: set.sight(),
    })
}

fn json(line: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(line).expect("audit lines have string keys and finite numbers only")
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// UTC to the millisecond.
fn now() -> String {
    format!("{:.3}", jiff::Timestamp::now())
}
