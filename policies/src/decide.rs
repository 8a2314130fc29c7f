//! Decides where a classified request may go, and which of the allowed upstreams comes first.
//!
//! Two axes. Sensitivity limits *where*: the demands of the class and of every label are intersected
//! with what the upstreams offer, and an empty intersection refuses. Latency orders *which of the
//! allowed*: it never adds one. Neither do a client's wish and the look of the request, which reorder,
//! nor what upstreams lack, which takes some away (`order`).
//!
//! Pure and total: the same classification, facts and set give the same decision, and every
//! classification gets one. Nothing that fails here sends text further than policy says: the ways out
//! are the edge, an allowed upstream, or a refusal.

use crate::capability::Capability;
use crate::classification::{Classification, Level};
use crate::decision::{
    Decision, Facts, Mode, Quality, Refusal, RefusalCode, Route, UpstreamFacts, Zone,
};
use crate::demand::{GoesTo, Standing};
use crate::latency::LatencyClass;
use crate::policy_set::{PolicySet, join_rules, raised_by};
use crate::rule::Rule;
use crate::site::answers::{Answer, EdgeAnswer};
use crate::wish::Wish;
use order::Order;

mod order;

/// Seconds after which a client may try again when the site does not queue.
const RETRY_AFTER_S: u32 = 10;

/// No client is told to stay away for longer.
const RETRY_AFTER_S_MAX: u32 = 3600;

/// What is known of the request once dates, exceptions and facts are counted in.
struct Standpoint<'a> {
    level: Level,
    never_cloud: bool,
    /// Only this process: the audit log cannot record what would leave it.
    edge_only: bool,
    /// Only the edge and the premises: the client asks for that.
    at_home: bool,
    rules: Vec<&'a Rule>,
    raised_by: Vec<&'a Rule>,
    /// Why the level is higher than rules alone would make it.
    why: Option<String>,
    refusal: Option<Refusal>,
}

/// An upstream with what it offers.
struct Candidate<'a> {
    facts: &'a UpstreamFacts,
    standing: Standing,
    /// It is allowed only because its quality was waived.
    waived: bool,
}

/// The upstreams that policy allows, best first, or why there is none.
struct Choice<'a> {
    allowed: Vec<Candidate<'a>>,
    outcome: Result<String, Refusal>,
    queue_ms_max: Option<u64>,
}

impl PolicySet {
    /// Decides where a classified request may go. Pure and total.
    pub fn decide(&self, classification: &Classification, facts: &Facts) -> Decision {
        let standpoint = self.standpoint(classification, facts);
        let latency = self.latency.named(&classification.latency);
        if let Some(refusal) = standpoint.refusal.clone() {
            let choice = Choice { allowed: Vec::new(), outcome: Err(refusal), queue_ms_max: None };
            return self.conclude_decision(standpoint, latency, choice, false);
        }
        let choice = self.choose(&standpoint, latency, facts);
        if let Some(redacted) = self.choose_redacted(classification, facts, &standpoint, &choice) {
            return self.conclude_decision(standpoint, latency, redacted, true);
        }
        self.conclude_decision(standpoint, latency, choice, false)
    }

    /// Counts in what depends on the day and on the moment: dates, exceptions, taint, the audit log.
    fn standpoint<'a>(&'a self, classification: &Classification, facts: &Facts) -> Standpoint<'a> {
        let rules = self.rules_in_force(classification, facts);
        // A class name that this set does not know comes from another set: the private side.
        let base = self.class_index(&classification.base_class);
        let level = join_rules(base.unwrap_or_else(|| self.private_class()), &rules);
        let mut standpoint = Standpoint {
            raised_by: raised_by(&level, self.answers.unlabelled, &rules),
            level,
            never_cloud: false,
            edge_only: false,
            at_home: facts.request.wish == Some(Wish::Private),
            rules,
            why: classification.base_reason.clone(),
            refusal: classification.refuse.as_ref().map(|why| blocked(why)),
        };
        if facts.tainted {
            let highest = self.classes.len() - 1;
            let class =
                if self.classes[highest].never_cloud { highest } else { self.private_class() };
            standpoint.raise(class, "the conversation has held text that never goes to a cloud");
        }
        if facts.taint_unknown {
            let why = "nobody knows what the conversation held before";
            standpoint.answer(self.answers.taint_unknown, why, RefusalCode::PolicyBlocked);
        }
        if !facts.audit_writable {
            standpoint.edge_only = true;
            let why = "the audit log takes no record";
            standpoint.answer(self.answers.audit_down, why, RefusalCode::AuditDown);
        }
        standpoint.never_cloud = self.is_never_cloud(&standpoint.level);
        standpoint
    }

    /// The matched rules that are in force on the day and not excepted.
    fn rules_in_force<'a>(
        &'a self,
        classification: &Classification,
        facts: &Facts,
    ) -> Vec<&'a Rule> {
        let excepted = |rule: &Rule| {
            classification.excepted.iter().any(|(id, exception)| {
                let counts = |e: &&crate::policy_set::Exception| e.id == *exception;
                let known = self.exceptions.iter().find(counts);
                *id == rule.id && known.is_some_and(|e| facts.today <= e.expires)
            })
        };
        let rules = classification.rules.iter().filter_map(|id| self.rule(id));
        rules.filter(|rule| rule.acts_on(facts.today) && !excepted(rule)).collect()
    }

    fn choose<'a>(
        &self,
        standpoint: &Standpoint<'_>,
        latency: &LatencyClass,
        facts: &'a Facts,
    ) -> Choice<'a> {
        let demands = self.demands(&standpoint.level);
        let mut allowed = Vec::new();
        let mut inadequate = Vec::new();
        for upstream in &facts.upstreams {
            let standing = self.standing(upstream, facts.today);
            if !place_allows(standpoint, &demands, &standing) {
                continue;
            }
            let adequate = self.quality_suffices(standpoint, &demands, &standing, facts.mode);
            let waived = !adequate && self.waives_quality(standpoint, &standing, facts.mode);
            let candidate = Candidate { facts: upstream, standing, waived };
            match adequate || waived {
                true => allowed.push(candidate),
                false => inadequate.push(candidate),
            }
        }
        // Policy may allow a cloud that this moment does not: then nothing here may refuse or queue
        // on the edge's behalf as if policy had confined the text to it.
        let confined = allowed.iter().all(|candidate| candidate.standing.zone != Zone::Cloud);
        let able = allowed.iter().any(|candidate| candidate.facts.lacks.is_empty());
        if !able && inadequate.is_empty() && !allowed.is_empty() {
            return Choice {
                outcome: Err(incapable(&allowed)),
                allowed: Vec::new(),
                queue_ms_max: None,
            };
        }
        allowed.retain(|candidate| candidate.facts.lacks.is_empty());
        inadequate.retain(|candidate| candidate.facts.lacks.is_empty());
        if facts.offline.is_some() {
            allowed.retain(|candidate| candidate.standing.zone != Zone::Cloud);
        }
        let offline = facts.offline.is_some();
        let order = self.order(standpoint.never_cloud, latency, facts);
        allowed.sort_by_key(|candidate| order.key(candidate));
        self.judge(allowed, inadequate, confined, &order, offline)
    }

    /// Demands of the class and of every label.
    fn demands(&self, level: &Level) -> Vec<&GoesTo> {
        let labels = level.labels.iter().filter_map(|name| self.label(name));
        let class = std::iter::once(&self.classes[level.class].goes_to);
        class.chain(labels.map(|label| &label.goes_to)).collect()
    }

    fn quality_suffices(
        &self,
        standpoint: &Standpoint<'_>,
        demands: &[&GoesTo],
        standing: &Standing,
        mode: Mode,
    ) -> bool {
        let demo_refused = mode == Mode::Production
            && standpoint.never_cloud
            && standing.zone == Zone::Edge
            && standing.quality == Quality::Demo;
        !demo_refused && demands.iter().all(|demand| demand.met_by(standing))
    }

    /// An edge of too little quality may answer all the same: in a trial, by `allow_demo_model`, or
    /// because the site answers `edge_inadequate` so.
    fn waives_quality(&self, standpoint: &Standpoint<'_>, standing: &Standing, mode: Mode) -> bool {
        if standing.zone != Zone::Edge {
            return false;
        }
        let by_site = self.answers.edge_inadequate == EdgeAnswer::AnswerAnyway;
        match (mode, standing.quality) {
            (Mode::Trial, _) => true,
            (Mode::Production, Quality::Demo) if standpoint.never_cloud => self.allow_demo_model,
            (Mode::Production, _) => by_site,
        }
    }

    /// Turns the ordered list into an outcome.
    fn judge<'a>(
        &self,
        allowed: Vec<Candidate<'a>>,
        inadequate: Vec<Candidate<'a>>,
        confined: bool,
        order: &Order<'_>,
        offline: bool,
    ) -> Choice<'a> {
        let latency = order.latency;
        let Some(first) = allowed.first().filter(|candidate| candidate.facts.healthy) else {
            return self.refuse_unavailable(allowed, inadequate, confined, offline);
        };
        let too_slow = latency.is_missed_by(first.facts);
        let mut notes: Vec<String> = order.note.iter().cloned().collect();
        if first.waived {
            notes.push("its model is below the demanded quality".to_owned());
        }
        if too_slow {
            let is_last_resort = confined && first.standing.zone == Zone::Edge;
            let refused = refuse_slow(self.answers.edge_too_slow, latency, first.facts);
            if let Some((refusal, queue_ms_max)) = refused.filter(|_| is_last_resort) {
                return Choice { allowed, outcome: Err(refusal), queue_ms_max };
            }
            notes.push(format!("slower than {} work asks for", latency.name));
        }
        let notes =
            if notes.is_empty() { String::new() } else { format!(" ({})", notes.join("; ")) };
        let outcome = Ok(format!("{} answers{notes}", first.facts.id));
        Choice { allowed, outcome, queue_ms_max: None }
    }

    /// No allowed upstream is healthy, or none is allowed.
    fn refuse_unavailable<'a>(
        &self,
        allowed: Vec<Candidate<'a>>,
        inadequate: Vec<Candidate<'a>>,
        confined: bool,
        offline: bool,
    ) -> Choice<'a> {
        let mut queue_ms_max = None;
        let refusal =
            if allowed.is_empty() && inadequate.iter().any(|c| c.standing.zone == Zone::Edge) {
                let message = "the embedded model is not good enough for this class";
                Refusal {
                    code: RefusalCode::EdgeInadequate,
                    message: message.into(),
                    retry_after_s: None,
                }
            } else if allowed.is_empty() && offline && !confined {
                let message = "the network is off and policy allows only upstreams beyond it";
                unavailable(RefusalCode::UpstreamUnavailable, message)
            } else if allowed.is_empty() {
                blocked("policy allows no upstream")
            } else if allowed.iter().all(|candidate| candidate.standing.zone == Zone::Edge) {
                queue_ms_max = queue_of(self.answers.edge_unavailable);
                let message = "only the embedded engine may answer, and it is not available";
                unavailable(RefusalCode::EdgeUnavailable, message)
            } else {
                unavailable(RefusalCode::UpstreamUnavailable, "every allowed upstream is down")
            };
        let refusal = with_queue(refusal, queue_ms_max);
        Choice { allowed, outcome: Err(refusal), queue_ms_max }
    }

    /// The choice for redacted text, if placeholders are legal here and open a better upstream.
    ///
    /// Every rule that gave the request its level must allow placeholders: the non-redacting rule wins.
    fn choose_redacted<'a>(
        &self,
        classification: &Classification,
        facts: &'a Facts,
        standpoint: &Standpoint<'_>,
        strict: &Choice<'a>,
    ) -> Option<Choice<'a>> {
        let legal = classification.redactable && !standpoint.never_cloud && !standpoint.edge_only;
        if !legal || !standpoint.rules.iter().any(|rule| rule.redact) {
            return None;
        }
        let remaining: Vec<&Rule> =
            standpoint.rules.iter().filter(|rule| !rule.redact).copied().collect();
        let base = self.class_index(&classification.base_class)?;
        let mut level = join_rules(base, &remaining);
        // Taint and the like raised the level beyond its rules: placeholders do not undo that.
        let by_rules = join_rules(base, &standpoint.rules);
        level.class = level.class.max(if standpoint.level.class > by_rules.class {
            standpoint.level.class
        } else {
            0
        });
        let redacted = Standpoint { level, rules: remaining, ..standpoint.bare() };
        let choice = self.choose(&redacted, self.latency.named(&classification.latency), facts);
        let first = choice.allowed.first().filter(|_| choice.outcome.is_ok())?;
        let already = strict.outcome.is_ok()
            && strict.allowed.first().is_some_and(|best| best.facts.id == first.facts.id);
        (!already).then_some(choice)
    }

    fn conclude_decision(
        &self,
        standpoint: Standpoint<'_>,
        latency: &LatencyClass,
        choice: Choice<'_>,
        redact: bool,
    ) -> Decision {
        let ids = |rules: &[&Rule]| rules.iter().map(|rule| rule.id.clone()).collect();
        let allowed: Vec<String> = choice.allowed.iter().map(|c| c.facts.id.clone()).collect();
        let by_class =
            self.reason(&standpoint.level, standpoint.why.as_deref(), &standpoint.raised_by);
        let (route, refusal, outcome) = match choice.outcome {
            Ok(words) => (choice.allowed[0].standing.zone.route(), None, words),
            Err(refusal) => {
                let words = format!("refused: {}", refusal.message);
                (Route::Refuse, Some(refusal), words)
            }
        };
        Decision {
            route,
            upstream: if refusal.is_none() { allowed.first().cloned() } else { None },
            // What may be tried is empty once nothing may be sent.
            allowed: if standpoint.refusal.is_some() { Vec::new() } else { allowed },
            class: self.classes[standpoint.level.class].name.clone(),
            labels: standpoint.level.labels.iter().cloned().collect(),
            latency: latency.name.clone(),
            redact,
            rules: ids(&standpoint.rules),
            raised_by: ids(&standpoint.raised_by),
            never_cloud: standpoint.never_cloud,
            reason: format!("{by_class}; {outcome}"),
            refusal,
            policy_digest: self.digest.clone(),
            queue_ms_max: choice.queue_ms_max,
        }
    }
}

impl Standpoint<'_> {
    fn raise(&mut self, class: usize, why: &str) {
        if class > self.level.class {
            self.level.class = class;
            self.raised_by.clear();
            self.why = Some(why.to_owned());
        }
    }

    fn answer(&mut self, answer: Answer, why: &str, code: RefusalCode) {
        match answer {
            Answer::Class(class) => self.raise(class, why),
            Answer::StripAndContinue => (),
            Answer::Refuse if self.refusal.is_none() => {
                let retry_after_s = (code == RefusalCode::AuditDown).then_some(RETRY_AFTER_S);
                self.refusal = Some(Refusal { code, message: why.to_owned(), retry_after_s });
            }
            Answer::Refuse => (),
        }
    }

    /// The same moment without rules and level.
    fn bare(&self) -> Standpoint<'static> {
        Standpoint {
            level: Level::default(),
            never_cloud: false,
            edge_only: self.edge_only,
            at_home: self.at_home,
            rules: Vec::new(),
            raised_by: Vec::new(),
            why: None,
            refusal: None,
        }
    }
}

fn place_allows(standpoint: &Standpoint<'_>, demands: &[&GoesTo], standing: &Standing) -> bool {
    let zone_allows = match standing.zone {
        Zone::Edge => true,
        Zone::OnPrem => !standpoint.edge_only,
        Zone::Cloud => !standpoint.edge_only && !standpoint.never_cloud && !standpoint.at_home,
    };
    zone_allows && demands.iter().all(|demand| demand.place_met_by(standing))
}

/// What no upstream that policy allows can do.
fn incapable(allowed: &[Candidate<'_>]) -> Refusal {
    let mut lacking: Vec<Capability> =
        allowed.iter().flat_map(|candidate| candidate.facts.lacks.iter().copied()).collect();
    lacking.sort();
    lacking.dedup();
    let words: Vec<&str> = lacking.into_iter().map(Capability::in_words).collect();
    let message = format!(
        "no upstream that policy allows can do all that the request needs: {}",
        words.join(", ")
    );
    Refusal { code: RefusalCode::LacksCapability, message, retry_after_s: None }
}

fn blocked(message: &str) -> Refusal {
    let message = message.to_owned();
    Refusal { code: RefusalCode::PolicyBlocked, message, retry_after_s: None }
}

fn unavailable(code: RefusalCode, message: &str) -> Refusal {
    Refusal { code, message: message.to_owned(), retry_after_s: Some(RETRY_AFTER_S) }
}

fn queue_of(answer: EdgeAnswer) -> Option<u64> {
    match answer {
        EdgeAnswer::Queue(ms) => Some(ms),
        EdgeAnswer::AnswerAnyway | EdgeAnswer::Refuse => None,
    }
}

fn with_queue(refusal: Refusal, queue_ms_max: Option<u64>) -> Refusal {
    let wait = queue_ms_max.map(|ms| u32::try_from(ms.div_ceil(1000)).unwrap_or(u32::MAX));
    Refusal { retry_after_s: wait.or(refusal.retry_after_s), ..refusal }
}

fn refuse_slow(
    answer: EdgeAnswer,
    latency: &LatencyClass,
    edge: &UpstreamFacts,
) -> Option<(Refusal, Option<u64>)> {
    if answer == EdgeAnswer::AnswerAnyway {
        return None;
    }
    let message =
        format!("only the embedded engine may answer, too slowly for {} work", latency.name);
    let queue_ms_max = queue_of(answer);
    let mut refusal = with_queue(unavailable(RefusalCode::EdgeTooSlow, &message), queue_ms_max);
    // Who comes when the queue of now is worked off has the best chance.
    let worked_off = edge.first_token_ms.and_then(|ms| u32::try_from(ms.div_ceil(1000)).ok());
    refusal.retry_after_s = refusal.retry_after_s.max(worked_off.map(|s| s.min(RETRY_AFTER_S_MAX)));
    Some((refusal, queue_ms_max))
}
