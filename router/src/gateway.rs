//! One request from prompt to reply: classify, gather facts, decide, record, ask, fall back.
//!
//! All branching of the request path is in [`Gateway::handle`] and what it calls here: dialects parse,
//! policy decides, upstreams answer. Inside: `pursuit` (fallbacks, retries, the queue: each a fresh
//! decision), `hedge` (two at a time), `attempt` (one; `meter`: its duties), `choose` (the order of equals),
//! `network` (whether there is one), `listing` (what asks no upstream: models, counts, the moment).
//!
//! Invariants: an attempt is on record before a byte leaves; nothing leaves to the network while the
//! log cannot be written, whatever policy says; an upstream that was not allowed by the first
//! decision is never asked; every reply after classification carries the decision's headers.

mod attempt;
mod choose;
mod hedge;
mod listing;
mod meter;
mod network;
mod pursuit;
mod reuse;

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use sluice_policies::{
    Capability, Classification, Decision, Evidence, Facts, Mode, PolicySet, Prompt, Quality,
    Refusal, RefusalCode, Route, ScanCache, ScanMemory, UpstreamFacts,
};
use tokio::time::Instant;

use crate::active_policy::ActivePolicy;
use crate::active_policy::candidate::{self, WouldBe};
use crate::api::{ApiError, Request, WantedHeaders};
use crate::audit::{AuditLog, AuditState, RefusalRecord};
use crate::capability::{Look, Needs};
use crate::config::{Choose, Hedge, Passthrough};
use crate::dice::Dice;
use crate::identity::Callers;
use crate::limit::Limiter;
use crate::metrics::Metrics;
use crate::redact::{Redaction, Redactor, Tools};
use crate::reply::{DecisionHeaders, Reply, route_word};
use crate::taint::{Taint, TaintStore};
use crate::upstream::{Upstream, UpstreamError};
pub use listing::TokenCount;
use network::Network;
pub use network::{Declared, Offline};

/// Longer prompts and replies are scanned on a thread of their own, so that they do not hold up other
/// requests.
const SCAN_INLINE_BYTES_MAX: usize = 32 << 10;

/// Everything that requests share.
pub struct Gateway {
    parts: Parts,
    network: Network,
    dice: Dice,
    wanted: WantedHeaders,
    /// What the upstreams make worth looking for in a request.
    look: Look,
}

/// What a gateway is put together from.
pub struct Parts {
    /// Trial or production.
    pub mode: Mode,
    /// What outlives a reload of the config.
    pub kept: Kept,
    /// Who may call.
    pub callers: Arc<Callers>,
    /// What can answer, in the config's order.
    pub upstreams: Vec<Upstream>,
    /// Which of several upstreams that policy likes equally is asked first.
    pub choose: Choose,
    /// When a second upstream is asked beside a slow first one.
    pub hedge: Option<Hedge>,
    /// Endpoints that are passed on as they are.
    pub passthrough: Vec<Passthrough>,
    /// Where chance comes from: choices among equals, waits before retries.
    pub seed: u64,
    /// The config declares that there is no network.
    pub offline_declared: bool,
    /// What a body says of its conversation counts where no header says more.
    pub session_from_user_id: bool,
}

/// What stays the same whatever else is reloaded. Cloning is cheap.
#[derive(Clone)]
pub struct Kept {
    /// The policies in force.
    pub policy: Arc<ActivePolicy>,
    /// What callers may use.
    pub limits: Arc<Limiter>,
    /// Where attempts are recorded.
    pub audit: Arc<AuditLog>,
    /// Which conversations have held never-cloud text.
    pub taint: Arc<TaintStore>,
    /// What earlier turns of conversations held.
    pub scans: Arc<ScanCache>,
    /// Makes placeholders where policy lets them stand for values.
    pub redactor: Arc<Redactor>,
    /// What operators watch.
    pub metrics: Arc<Metrics>,
}

/// A request with placeholders in it, scanned and decided afresh.
struct Redacted {
    request: Request,
    classification: Classification,
    stripped: Vec<String>,
    decision: Decision,
    redaction: Redaction,
}

/// One request under way: what all its attempts share.
struct Ask {
    id: String,
    /// The policies in force when it came: all its decisions are theirs.
    policy: Arc<PolicySet>,
    request: Request,
    /// What it needs of an upstream.
    needs: Needs,
    classification: Classification,
    /// What the classification rested on.
    evidence: Evidence,
    stripped: Vec<String>,
    /// The placeholders in the request, if there are any.
    redaction: Option<Redaction>,
    /// What the first decision allowed; fallbacks stay inside.
    allowed: Vec<String>,
    /// The conversation holds never-cloud text: its reply is remembered as such.
    never_cloud: bool,
    /// What a candidate set would have decided at first, if it differs.
    would_be: Option<WouldBe>,
    started: Instant,
}

impl Gateway {
    /// Puts a gateway together.
    pub fn new(parts: Parts) -> Gateway {
        let servers = parts.upstreams.iter().filter_map(Upstream::server);
        let wanted = WantedHeaders::of(servers.map(|server| &server.config().connection));
        let (network, dice) = (Network::new(parts.offline_declared), Dice::new(parts.seed));
        let look = Look::for_upstreams(parts.upstreams.iter().map(Upstream::capabilities));
        Gateway { parts, network, dice, wanted, look }
    }

    /// What outlives a reload.
    pub fn kept(&self) -> &Kept {
        &self.parts.kept
    }

    /// Takes over what a person said to the gateway before a reload; what the old config declared is the
    /// new config's to say.
    pub(crate) fn take_over(&self, before: &Gateway) {
        if let Some(Offline::Declared(declared)) = before.offline()
            && !declared.is_of_config()
        {
            self.network.keep(declared);
            self.offline();
        }
    }

    /// Who may call.
    pub fn callers(&self) -> &Arc<Callers> {
        &self.parts.callers
    }

    /// What callers may use.
    pub fn limits(&self) -> &Arc<Limiter> {
        &self.parts.kept.limits
    }

    /// The policies in force.
    pub fn policy(&self) -> &ActivePolicy {
        &self.parts.kept.policy
    }

    /// Headers of clients that some upstream wants.
    pub fn wanted_headers(&self) -> &WantedHeaders {
        &self.wanted
    }

    /// Where a path goes that no dialect knows, if the config names it.
    pub fn passthrough(&self, path: &str) -> Option<&Passthrough> {
        self.parts.passthrough.iter().find(|passthrough| passthrough.path == path)
    }

    /// What can answer.
    pub fn upstreams(&self) -> &[Upstream] {
        &self.parts.upstreams
    }

    /// Where attempts are recorded.
    pub fn audit(&self) -> &AuditLog {
        &self.parts.kept.audit
    }

    /// What operators watch.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.parts.kept.metrics
    }

    /// Answers a request. Dropping the future, or the reply's stream, cancels the upstream.
    pub async fn handle(&self, mut request: Request) -> Reply {
        let started = Instant::now();
        if self.parts.session_from_user_id && request.session.is_none() {
            request.session = request.session_of_body.take();
        }
        let policy = self.parts.kept.policy.current();
        let candidate = self.parts.kept.policy.candidate().current();
        let scanned = self.classify(&policy, candidate.as_ref(), &request).await;
        let Some((mut classification, candidates)) = scanned else {
            return Reply::error(&ApiError::internal());
        };
        let mut stripped = request.chat.strip(&classification.strip);
        let taint = self.taint(&request).await;
        let endpoint = request.chat.endpoint;
        let mut look = self.look;
        look.work = self.looks_at_work(&policy, candidate.as_deref());
        let needs = Needs::of(&request.chat.fields, request.own_prompt(), endpoint, look);
        let facts = self.facts(&request, &needs, taint);
        let mut decision = policy.decide(&classification, &facts);
        let would_be = candidate.zip(candidates).and_then(|(candidate, classification)| {
            self.compare(&policy, &decision, &candidate, &classification, &facts)
        });
        let mut redaction = None;
        if decision.redact {
            match self.redact(&policy, &request, &classification, &facts).await {
                Some(redacted) => {
                    stripped.extend(redacted.stripped);
                    (request, classification) = (redacted.request, redacted.classification);
                    (decision, redaction) = (redacted.decision, Some(redacted.redaction));
                }
                // What placeholders cannot hide stays, as if there were none.
                None => {
                    classification.redactable = false;
                    decision = policy.decide(&classification, &facts);
                }
            }
        }
        self.parts.kept.metrics.decision(started.elapsed());
        // Of the text itself, not of the moment: an audit log that was down must not taint for good.
        let never_cloud = classification.never_cloud || taint == Taint::Tainted;
        if never_cloud {
            let session = request.session.as_deref();
            let (caller, prompt) = (&request.caller, &request.prompt);
            let telling = policy.never_cloud_findings(&classification);
            let telling: Vec<usize> = telling.into_iter().map(|finding| finding.text).collect();
            // Before anything of it is answered: a crash must not make the conversation clean.
            self.parts.kept.taint.remember(caller, session, prompt, &telling).wait().await;
        }
        let allowed = decision.allowed.clone();
        let id = uuid::Uuid::now_v7().to_string();
        let evidence = policy.evidence(&request.prompt, &classification);
        let ask = Ask {
            id,
            policy,
            request,
            needs,
            classification,
            evidence,
            stripped,
            redaction,
            allowed,
            never_cloud,
            would_be,
            started,
        };
        if !ask.is_stripped_whole() {
            return self.refuse(&ask, &decision, &facts, &ApiError::internal()).await;
        }

        if ask.is_closed_passthrough(&decision) {
            let error = ApiError::refused(&passthrough_closed());
            return self.refuse(&ask, &decision, &facts, &error).await;
        }
        self.pursue(&ask, decision, facts).await
    }

    /// Scans a prompt, and again by a candidate set. `None` if the scan itself died: then nothing is
    /// known and nothing leaves. A candidate that dies is left out.
    async fn classify(
        &self,
        policy: &Arc<PolicySet>,
        candidate: Option<&Arc<PolicySet>>,
        request: &Request,
    ) -> Option<(Classification, Option<Classification>)> {
        if !self.reads_texts(policy, candidate) {
            return Some((policy.classify_unread(&request.prompt), None));
        }
        let bytes: usize = request.prompt.texts.iter().map(|text| text.text.len()).sum();
        let scans = &self.parts.kept.scans;
        if bytes <= SCAN_INLINE_BYTES_MAX {
            return Some(scan(policy, candidate, &request.prompt, scans, &request.caller.tenant));
        }
        let (policy, candidate) = (policy.clone(), candidate.cloned());
        let (prompt, scans) = (request.prompt.clone(), scans.clone());
        let tenant = request.caller.tenant.clone();
        let scan = move || scan(&policy, candidate.as_ref(), &prompt, &scans, &tenant);
        tokio::task::spawn_blocking(scan).await.ok()
    }

    /// Puts placeholders in, scans what is left and decides on it. `None` if that opens nothing: the
    /// text still holds what must stay, or the scan of it died.
    async fn redact(
        &self,
        policy: &Arc<PolicySet>,
        request: &Request,
        classification: &Classification,
        facts: &Facts,
    ) -> Option<Redacted> {
        let findings = policy.redacted_findings(classification);
        let (fields, redaction) = self.parts.kept.redactor.redact(request, &findings)?;
        let mut request = crate::api::chat::with_fields(request, fields).ok()?;
        let (mut classification, _) = self.classify(policy, None, &request).await?;
        // Placeholders are put in once: what the second scan finds must stay.
        classification.redactable = false;
        let stripped = request.chat.strip(&classification.strip);
        let decision = policy.decide(&classification, facts);
        let opens = !classification.never_cloud && decision.route == Route::Cloud;
        opens.then_some(Redacted { request, classification, stripped, decision, redaction })
    }

    /// What a candidate set would have decided, counted, if it differs from the decision in force.
    fn compare(
        &self,
        policy: &PolicySet,
        decision: &Decision,
        candidate: &PolicySet,
        classification: &Classification,
        facts: &Facts,
    ) -> Option<WouldBe> {
        let would = candidate::would_be(policy, decision, candidate, classification, facts)?;
        let rules = would.rules_apart(decision);
        self.parts.kept.metrics.policy_difference(would.kind.in_words(), &rules);
        Some(would)
    }

    /// Whether anybody wants to know what the texts of a request hold: the policies, or whoever replays the
    /// log.
    fn reads_texts(&self, policy: &PolicySet, candidate: Option<&Arc<PolicySet>>) -> bool {
        self.keeps_audit() || candidate.is_some() || policy.minds_texts()
    }

    /// Whether anybody wants to know how hard a request looks: the policies, or whoever replays the log.
    fn looks_at_work(&self, policy: &PolicySet, candidate: Option<&PolicySet>) -> bool {
        self.keeps_audit()
            || policy.orders_by_work()
            || candidate.is_some_and(PolicySet::orders_by_work)
    }

    fn keeps_audit(&self) -> bool {
        self.parts.kept.audit.state() != AuditState::Off
    }

    async fn taint(&self, request: &Request) -> Taint {
        let session = request.session.as_deref();
        self.parts.kept.taint.look_up(&request.caller, session, &request.prompt).await
    }

    fn facts(&self, request: &Request, needs: &Needs, taint: Taint) -> Facts {
        Facts {
            today: today(),
            mode: self.parts.mode,
            offline: self.offline().map(|offline| offline.in_words()),
            audit_writable: self.parts.kept.audit.is_writable(),
            tainted: matches!(taint, Taint::Tainted | Taint::Assumed),
            taint_unknown: taint == Taint::Unknown,
            request: needs.said.clone(),
            upstreams: self.upstreams_for(request).map(|it| it.facts_for(needs)).collect(),
        }
    }

    /// Who could answer, in the order in which equals are asked: a passthrough has one upstream only.
    fn upstreams_for(&self, request: &Request) -> impl Iterator<Item = &Upstream> {
        let only = request.chat.raw.as_ref().map(|raw| raw.upstream.clone());
        let all = choose::order(self.parts.choose, &self.parts.upstreams, &self.dice);
        all.into_iter().filter(move |upstream| only.as_ref().is_none_or(|id| id == upstream.id()))
    }

    /// Why there is no network, if there is none.
    pub fn offline(&self) -> Option<Offline> {
        let state = self.network.state(&self.parts.upstreams);
        self.network.observe(state.as_ref(), &self.parts.kept.metrics);
        state
    }

    /// Takes a person's word that there is no network: it holds until [`Gateway::resume`], whatever
    /// upstreams do. What is under way goes on; the next attempt of every request counts it in.
    pub fn declare_offline(&self, cause: &str, who: &str) {
        self.network.declare(cause, who);
        self.offline();
    }

    /// Takes that word back, also one of the config; gives back what was declared, if anything was.
    pub fn resume(&self, who: &str) -> Option<Declared> {
        let ended = self.network.resume(who);
        self.offline();
        ended
    }

    /// The decision's choice, if it was allowed from the start and was not asked before.
    fn choice(&self, ask: &Ask, decision: &Decision, asked: &[&str]) -> Option<&Upstream> {
        if decision.route == Route::Refuse {
            return None;
        }
        let name = decision.upstream.as_deref()?;
        if asked.contains(&name) || !ask.allowed.iter().any(|allowed| allowed == name) {
            return None;
        }
        self.parts.upstreams.iter().find(|upstream| upstream.id().as_str() == name)
    }

    /// Says no, on record.
    async fn refuse(
        &self,
        ask: &Ask,
        decision: &Decision,
        facts: &Facts,
        error: &ApiError,
    ) -> Reply {
        let record = RefusalRecord {
            id: &ask.id,
            decision,
            classification: &ask.classification,
            evidence: &ask.evidence,
            facts,
            would_be: ask.would_be.as_ref(),
            caller: ask.request.caller.id.as_deref(),
            tenant: &ask.request.caller.tenant,
            code: error.code.unwrap_or("error"),
        };
        // Nothing leaves, so an unwritable log does not change the answer; it shows in the metrics.
        let _ = self.parts.kept.audit.policy(&ask.policy).await;
        let _ = self.parts.kept.audit.refusal(&record).await;
        let mut reply = Reply::error(error);
        self.stamp(ask, decision, facts, None, &mut reply);
        reply
    }

    /// An error of the upstream that was asked; its attempt is on record.
    fn fail(
        &self,
        ask: &Ask,
        decision: &Decision,
        facts: &Facts,
        upstream: &Upstream,
        error: &ApiError,
    ) -> Reply {
        let mut reply = Reply::error(error);
        self.stamp(ask, decision, facts, Some(upstream), &mut reply);
        reply
    }

    /// Puts the decision's headers on a reply and counts it.
    fn stamp(
        &self,
        ask: &Ask,
        decision: &Decision,
        facts: &Facts,
        upstream: Option<&Upstream>,
        reply: &mut Reply,
    ) {
        let route = if upstream.is_some() { decision.route } else { Route::Refuse };
        DecisionHeaders {
            id: &ask.id,
            route,
            upstream: upstream.map(|u| u.id().as_str()),
            quality: upstream.map_or("none", |u| Gateway::quality(ask, facts, u)),
            lossy: upstream.map_or(&[], Upstream::lossy),
            offline: self.offline().as_ref().and_then(Offline::header),
            decision,
            stripped: &ask.stripped,
            redacted: ask.redaction.as_ref().map_or(0, Redaction::count),
        }
        .put_on(reply);
        let status = reply.status.as_u16();
        self.parts.kept.metrics.request(route_word(route), &decision.class, status);
        tracing::debug!(
            decision = ask.id,
            request = ask.request.id,
            route = route_word(route),
            upstream = upstream.map(|u| u.id().as_str()),
            class = decision.class,
            status,
            "request answered"
        );
    }

    /// How good an upstream's replies are, by the vouches of the day of the decision.
    fn quality(ask: &Ask, facts: &Facts, upstream: &Upstream) -> &'static str {
        match ask.policy.standing(&known(facts, upstream), facts.today).quality {
            Quality::Demo => "demo",
            Quality::General => "general",
            Quality::Approved => "approved",
        }
    }
}

impl Ask {
    /// Bytes of the texts that an upstream gets.
    fn asked_bytes(&self) -> usize {
        self.request.own_prompt().texts.iter().map(|text| text.text.len()).sum()
    }

    /// Tools whose arguments get the values that placeholders stand for.
    fn tools(&self) -> Tools {
        self.policy.restore_in_tools().iter().cloned().collect()
    }

    /// A passthrough that policy confines: no reading of an unknown endpoint is sure enough for text that
    /// never goes to a cloud, wherever its upstream stands.
    fn is_closed_passthrough(&self, decision: &Decision) -> bool {
        self.request.chat.raw.is_some() && decision.never_cloud
    }

    /// Every field that policy wants removed is gone. Anything else is a bug, and then nothing
    /// leaves.
    fn is_stripped_whole(&self) -> bool {
        let stripped: HashSet<&str> = self.stripped.iter().map(String::as_str).collect();
        self.classification.strip.iter().all(|place| stripped.contains(&**place))
    }
}

/// What the decision knew of an upstream; what there is to know now, if it was not among the facts.
fn known<'f>(facts: &'f Facts, upstream: &Upstream) -> Cow<'f, UpstreamFacts> {
    let known = facts.upstream(upstream.id().as_str());
    known.map_or_else(|| Cow::Owned(upstream.facts()), Cow::Borrowed)
}

/// Classifies a prompt by a set, and by a candidate; what a tenant's earlier prompts held is known.
fn scan(
    policy: &PolicySet,
    candidate: Option<&Arc<PolicySet>>,
    prompt: &Prompt,
    scans: &ScanCache,
    tenant: &str,
) -> (Classification, Option<Classification>) {
    let memory = || ScanMemory { cache: scans, scope: tenant };
    let candidates = candidate.and_then(|set| candidate::classify(set, prompt, memory()));
    (policy.classify_with(prompt, memory()), candidates)
}

/// Whether a refused request may wait and be decided again: the site lets requests of this kind
/// queue, their time is not up, and the cause may pass.
fn may_queue(ask: &Ask, decision: &Decision, last: Option<&UpstreamError>, step: Duration) -> bool {
    let Some(queue_ms_max) = decision.queue_ms_max else { return false };
    let time_is_up = ask.started + Duration::from_millis(queue_ms_max);
    last.is_none_or(UpstreamError::may_pass) && Instant::now() + step <= time_is_up
}

/// What the client is told when nothing answered: the policy's refusal, unless the upstream's own
/// error says more.
fn final_error(decision: &Decision, last: Option<&UpstreamError>) -> ApiError {
    match (&decision.refusal, last) {
        (_, Some(error @ UpstreamError::Unsupported { .. })) => error.to_api(),
        (Some(refusal), None) => ApiError::refused(refusal),
        (Some(refusal), Some(_)) if refusal.code == RefusalCode::PolicyBlocked => {
            ApiError::refused(refusal)
        }
        (_, Some(error)) => error.to_api(),
        (None, None) => ApiError::refused(&Refusal {
            code: RefusalCode::UpstreamUnavailable,
            message: "failed to find an upstream that may answer".to_owned(),
            retry_after_s: None,
        }),
    }
}

/// What the client is told where every upstream that policy allows lacks something: which field asks for
/// it. `None` if that is not what the decision says.
fn incapable(ask: &Ask, decision: &Decision, facts: &Facts) -> Option<ApiError> {
    let refusal = decision.refusal.as_ref()?;
    if refusal.code != RefusalCode::LacksCapability {
        return None;
    }
    let mut able = facts.clone();
    able.upstreams.iter_mut().for_each(|upstream| upstream.lacks.clear());
    let allowed = ask.policy.decide(&ask.classification, &able).allowed;
    let counts = |id: &String| allowed.contains(id);
    let upstreams = facts.upstreams.iter().filter(|upstream| counts(&upstream.id));
    let lacking: Vec<Capability> = upstreams.flat_map(|u| u.lacks.iter().copied()).collect();
    let mut error = ApiError::refused(refusal);
    if lacking.iter().all(|what| *what == Capability::ContextTokens) {
        error = ApiError::context_length(refusal.message.clone());
    }
    error.param = lacking.first().map(|what| ask.needs.field(*what).to_owned());
    Some(error)
}

fn audit_down() -> Refusal {
    Refusal {
        code: RefusalCode::AuditDown,
        message: "failed to record the attempt, so nothing was sent".to_owned(),
        retry_after_s: None,
    }
}

fn passthrough_closed() -> Refusal {
    Refusal {
        code: RefusalCode::PolicyBlocked,
        message: "a passthrough is closed to text that never goes to a cloud".to_owned(),
        retry_after_s: None,
    }
}

/// The date in UTC: rules start and end at the same moment on every machine.
fn today() -> jiff::civil::Date {
    jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date()
}

#[cfg(test)]
mod tests;
