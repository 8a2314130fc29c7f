//! The shadow slot: a candidate set that decides every request too, without any effect.
//!
//! What it would have done differently is counted (stricter or looser, by rule) and stands in the audit
//! record, so that a change is known on live traffic before it is put in force. A candidate that cannot
//! be read, or that dies on a request, is left out; nothing of the serving waits for it or rests on it.
//!
//! [`Outcome`]s of two sets over one request are compared here for old records, too.
//!
//! Not here: reading old records (`sluice policy simulate`), what a set's files loosen (`loosening`).

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use serde::{Deserialize, Serialize};
use sluice_policies::{Classification, Decision, Facts, PolicySet, Prompt, Route, ScanMemory};

use super::origin::Origin;

/// The slot of one gateway.
pub struct CandidateSlot {
    site: Option<PathBuf>,
    set: RwLock<Option<Arc<PolicySet>>>,
}

/// What a candidate would have done with one request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WouldBe {
    /// Digest of the candidate.
    pub policy: String,
    /// Where it would have gone.
    pub route: Route,
    /// Its class.
    pub class: String,
    /// Its labels.
    pub labels: Vec<String>,
    /// Rules that would have matched.
    pub rules: Vec<String>,
    /// In which direction it differs.
    pub kind: Kind,
}

/// In which direction a candidate differs; what must not be missed comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// It allows more in any respect.
    Loosen,
    /// It allows less, or raises higher.
    Tighten,
    /// It allows the same on other grounds.
    Neutral,
}

impl Kind {
    /// The word of metrics and records.
    pub fn in_words(self) -> &'static str {
        match self {
            Kind::Tighten => "tighten",
            Kind::Loosen => "loosen",
            Kind::Neutral => "neutral",
        }
    }
}

/// What a set decided about a request, as far as sets are compared by it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Outcome {
    /// Where it goes.
    pub route: Route,
    /// Its class.
    pub class: String,
    /// Its labels.
    pub labels: Vec<String>,
    /// Rules that matched.
    pub rules: Vec<String>,
    /// Upstreams that may answer.
    pub allowed: Vec<String>,
    /// It never goes to a cloud.
    pub never_cloud: bool,
}

impl CandidateSlot {
    /// A slot for the candidate in a site file, still empty.
    pub(super) fn new(site: Option<PathBuf>) -> CandidateSlot {
        CandidateSlot { site, set: RwLock::default() }
    }

    /// Reads the candidate's files; `None` without one, or with one that cannot be used.
    pub(super) fn reload(&self) -> Option<Arc<PolicySet>> {
        let site = self.site.clone()?;
        let load = || Origin::Site(site.clone()).load(super::today());
        let set = match catch_unwind(AssertUnwindSafe(load)) {
            Ok(Ok(offered)) => Some(Arc::new(offered.set)),
            Ok(Err(error)) => {
                tracing::error!(%error, "candidate policies refused; nothing is compared with them");
                None
            }
            Err(_) => {
                tracing::error!(
                    "reading the candidate policies died; nothing is compared with them"
                );
                None
            }
        };
        self.set.write().unwrap_or_else(PoisonError::into_inner).clone_from(&set);
        set
    }

    /// Whether the config names a candidate.
    pub fn is_used(&self) -> bool {
        self.site.is_some()
    }

    /// The candidate, if there is one and it could be read.
    pub fn current(&self) -> Option<Arc<PolicySet>> {
        self.set.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The files that it is read from.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let Some(site) = self.site.clone() else { return Vec::new() };
        let current = self.current();
        let names = current.iter().flat_map(|set| set.sources()).map(|source| source.name.as_str());
        Origin::Site(site).files(names)
    }
}

/// Classifies a prompt by a candidate; `None` if it dies of it.
pub fn classify(
    candidate: &PolicySet,
    prompt: &Prompt,
    memory: ScanMemory<'_>,
) -> Option<Classification> {
    let classify = || candidate.classify_with(prompt, memory);
    catch_unwind(AssertUnwindSafe(classify)).ok()
}

/// What a candidate would have done, if it differs from the decision of the set in force.
pub fn would_be(
    active: &PolicySet,
    decision: &Decision,
    candidate: &PolicySet,
    classification: &Classification,
    facts: &Facts,
) -> Option<WouldBe> {
    let decide = || candidate.decide(classification, facts);
    let other = catch_unwind(AssertUnwindSafe(decide)).ok()?;
    let kind = Outcome::of(&other).compared_with(&Outcome::of(decision), active)?;
    let Decision { policy_digest: policy, route, class, labels, rules, .. } = other;
    Some(WouldBe { policy, route, class, labels, rules, kind })
}

impl WouldBe {
    /// The rules on which a candidate differs from the decision in force, sorted.
    pub fn rules_apart<'a>(&'a self, decision: &'a Decision) -> Vec<&'a str> {
        rules_apart(&self.rules, &decision.rules)
    }
}

/// Rules that only one of two lists has, sorted.
pub fn rules_apart<'a>(one: &'a [String], other: &'a [String]) -> Vec<&'a str> {
    let set = |rules: &'a [String]| rules.iter().map(String::as_str).collect::<BTreeSet<_>>();
    set(one).symmetric_difference(&set(other)).copied().collect()
}

impl Outcome {
    /// What a decision says.
    pub fn of(decision: &Decision) -> Outcome {
        let Decision { route, class, labels, rules, allowed, never_cloud, .. } = decision.clone();
        Outcome { route, class, labels, rules, allowed, never_cloud }
    }

    /// In which direction this outcome differs from an older one; `None` if it does not. Classes are in
    /// the order of `set`. One looser respect makes the whole looser: that is what a reader must not miss.
    pub fn compared_with(&self, was: &Outcome, set: &PolicySet) -> Option<Kind> {
        let same_upstreams = self.allows_no_more_than(was) && was.allows_no_more_than(self);
        let apart = |o: &Outcome| (o.route, o.class.clone(), o.labels.clone(), o.rules.clone());
        if apart(self) == apart(was) && same_upstreams {
            return None;
        }
        let names: Vec<&str> = set.class_names().collect();
        Some(match (self.is_looser_than(was, &names), was.is_looser_than(self, &names)) {
            (true, _) => Kind::Loosen,
            (false, true) => Kind::Tighten,
            (false, false) => Kind::Neutral,
        })
    }

    fn is_looser_than(&self, was: &Outcome, classes: &[&str]) -> bool {
        let rank = |class: &str| classes.iter().position(|name| *name == class);
        let is_lower = rank(&self.class).zip(rank(&was.class)).is_some_and(|(is, was)| is < was);
        !self.allows_no_more_than(was)
            || was.never_cloud && !self.never_cloud
            || is_lower
            || was.labels.iter().any(|label| !self.labels.contains(label))
    }

    fn allows_no_more_than(&self, other: &Outcome) -> bool {
        self.allowed.iter().all(|upstream| other.allowed.contains(upstream))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn decision(class: &str, labels: &[&str], allowed: &[&str], rules: &[&str]) -> Decision {
        let never_cloud = class == "regulated";
        let route = if allowed.contains(&"cloud") { "cloud" } else { "edge" };
        serde_json::from_value(json!({
            "route": route, "upstream": allowed.first(), "allowed": allowed, "class": class,
            "labels": labels, "latency": "interactive", "redact": false, "rules": rules,
            "raised_by": [], "never_cloud": never_cloud, "reason": "", "refusal": null,
            "policy_digest": "d",
        }))
        .unwrap()
    }

    #[test]
    fn one_looser_respect_makes_the_whole_looser() {
        let active = PolicySet::shipped().unwrap();
        let both = ["cloud", "edge"];
        let was = decision("confidential", &["GDPR"], &both, &["A"]);
        for (would, expected) in [
            (decision("regulated", &["GDPR"], &["edge"], &["A", "B"]), Kind::Tighten),
            (decision("confidential", &["GDPR", "PCI"], &both, &["A"]), Kind::Tighten),
            (decision("internal", &["GDPR"], &both, &["A"]), Kind::Loosen),
            (decision("regulated", &["HIPAA"], &["edge"], &["B"]), Kind::Loosen),
            (decision("confidential", &["GDPR"], &["ward", "edge"], &["A"]), Kind::Loosen),
            (decision("confidential", &["GDPR"], &both, &["B"]), Kind::Neutral),
        ] {
            let kind = Outcome::of(&would).compared_with(&Outcome::of(&was), &active);
            assert_eq!(kind, Some(expected), "{would:?}");
        }
    }

    #[test]
    fn a_candidate_that_cannot_be_read_leaves_the_slot_empty() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("candidate.yaml");
        std::fs::write(&path, include_str!("../../../policies/site.yaml")).unwrap();
        let slot = CandidateSlot::new(Some(path.clone()));
        assert!(slot.current().is_none());
        assert!(slot.reload().is_some() && slot.current().is_some());
        std::fs::write(&path, "site: [").unwrap();
        assert!(slot.reload().is_none() && slot.current().is_none());
        assert!(CandidateSlot::new(None).reload().is_none());
    }
}
