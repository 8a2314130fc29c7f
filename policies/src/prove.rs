//! Proves at load time that never-cloud text cannot reach a cloud.
//!
//! The decision is a function of few facts, so the proof tries them all: every rule alone and all
//! together, every class, every day on which something starts or ends, times offline, taint, audit,
//! health and mode. What never-cloud means is read off the classes and labels here, not taken from the
//! decision that is being judged.

use std::collections::BTreeSet;

use jiff::civil::Date;
use serde::Serialize;

use crate::classification::Classification;
use crate::decision::{Decision, Facts, Mode, Quality, RequestFacts, UpstreamFacts, Zone};
use crate::policy_set::PolicySet;
use crate::rule::RuleMode;

/// How much was tried, and what broke.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Proof {
    /// Decisions that were made and judged.
    pub decisions: usize,
    /// Facts under which never-cloud text was allowed to a cloud; empty for a sound set.
    pub counterexamples: Vec<String>,
}

/// Days that a proof tries besides those named in the files: a day long past and one far ahead.
const FIRST_DAY: Date = Date::constant(2020, 1, 1);
const LAST_DAY: Date = Date::constant(2099, 12, 31);

/// Counterexamples that are kept; one is enough to refuse a set.
const COUNTEREXAMPLES_MAX: usize = 10;

impl PolicySet {
    /// Tries every combination of level and facts.
    pub fn prove(&self) -> Proof {
        let mut proof = Proof::default();
        let days = self.turning_days();
        for classification in self.levels_to_try() {
            for &today in &days {
                for bits in 0..64_u32 {
                    self.try_one(&classification, &self.facts_to_try(today, bits), &mut proof);
                }
            }
        }
        proof
    }

    fn try_one(&self, classification: &Classification, facts: &Facts, proof: &mut Proof) {
        let decision = self.decide(classification, facts);
        proof.decisions += 1;
        if proof.counterexamples.len() >= COUNTEREXAMPLES_MAX {
            return;
        }
        if let Some(id) = self.wrongly_allowed(&decision, facts) {
            proof.counterexamples.push(format!(
                "class {} with labels [{}] may go to {id} on {} (offline: {}, tainted: {}, audit: {})",
                decision.class,
                decision.labels.join(", "),
                facts.today,
                facts.offline.is_some(),
                facts.tainted,
                facts.audit_writable,
            ));
        }
    }

    /// An upstream that the decision allows and that the classes and labels forbid.
    fn wrongly_allowed<'a>(&self, decision: &Decision, facts: &'a Facts) -> Option<&'a str> {
        let class = self.classes.iter().find(|class| class.name == decision.class);
        let by_label =
            decision.labels.iter().any(|name| self.label(name).is_none_or(|l| l.never_cloud));
        let stays = class.is_none_or(|class| class.never_cloud) || by_label || facts.tainted;
        let allowed = facts.upstreams.iter().filter(|u| decision.allowed.contains(&u.id));
        let mut wrong =
            allowed.filter(|upstream| match self.standing(upstream, facts.today).zone {
                Zone::Cloud => stays || facts.offline.is_some() || !facts.audit_writable,
                Zone::OnPrem => !facts.audit_writable,
                Zone::Edge => false,
            });
        wrong.next().map(|upstream| upstream.id.as_str())
    }

    /// Every class as a base, every rule alone, all rules together.
    fn levels_to_try(&self) -> Vec<Classification> {
        let base = |class: &str, rules: Vec<String>| Classification {
            class: class.to_owned(),
            labels: BTreeSet::new(),
            latency: String::new(),
            rules,
            raised_by: Vec::new(),
            shadow_rules: Vec::new(),
            findings: Vec::new(),
            unscanned: Vec::new(),
            refuse: None,
            strip: Vec::new(),
            never_cloud: false,
            reason: String::new(),
            base_class: class.to_owned(),
            base_reason: None,
            excepted: Vec::new(),
            redactable: true,
            scan_incomplete: false,
            detector_failed: false,
        };
        let lowest = self.classes[0].name.as_str();
        let enforced = self.rules.iter().filter(|rule| rule.mode == RuleMode::Enforce);
        let ids: Vec<String> = enforced.map(|rule| rule.id.clone()).collect();
        let mut levels: Vec<Classification> =
            self.class_names().map(|class| base(class, Vec::new())).collect();
        levels.extend(ids.iter().map(|id| base(lowest, vec![id.clone()])));
        levels.push(base(lowest, ids));
        levels
    }

    /// The days on which a rule or vouch starts or ends, with their neighbours, and two far ends.
    fn turning_days(&self) -> Vec<Date> {
        let mut days = BTreeSet::from([FIRST_DAY, LAST_DAY]);
        let mut turn = |day: Date| {
            days.extend([day, day.yesterday().unwrap_or(day), day.tomorrow().unwrap_or(day)]);
        };
        self.vouches.iter().for_each(|vouch| turn(vouch.expires));
        self.exceptions.iter().for_each(|exception| turn(exception.expires));
        for rule in &self.rules {
            rule.effective.from.into_iter().for_each(&mut turn);
            rule.effective.until.into_iter().for_each(&mut turn);
        }
        days.into_iter().collect()
    }

    /// One combination of facts: each bit turns one of them.
    fn facts_to_try(&self, today: Date, bits: u32) -> Facts {
        let bit = |index: u32| bits & (1 << index) != 0;
        let upstream =
            |id: &str, scheme: &str, host: &str, port: u16, healthy: bool| UpstreamFacts {
                edge: host.is_empty(),
                healthy,
                quality: host.is_empty().then_some(Quality::Demo),
                ..UpstreamFacts::server(id, scheme, host, port)
            };
        let mut upstreams = vec![upstream("edge", "", "", 0, !bit(4))];
        for vouch in &self.vouches {
            if let Some(address) = &vouch.address {
                let place = (address.scheme.as_str(), address.host.as_str(), address.port);
                upstreams.push(upstream(&vouch.upstream, place.0, place.1, place.2, !bit(5)));
            }
        }
        upstreams.push(upstream("unknown", "https", "unknown.invalid", 443, true));
        Facts {
            today,
            mode: if bit(0) { Mode::Production } else { Mode::Trial },
            offline: bit(1).then(|| "tried by the proof".to_owned()),
            audit_writable: !bit(2),
            tainted: bit(3),
            taint_unknown: false,
            request: RequestFacts::default(),
            upstreams,
        }
    }
}
