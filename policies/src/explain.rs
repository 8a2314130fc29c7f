//! Says in words what was found, which clause of which rule held, and what would have changed it.
//!
//! An explanation never holds matched text: detectors, places and likelihoods only.

use std::fmt;

use serde::Serialize;

use crate::classification::Classification;
use crate::condition::Scene;
use crate::decision::{Decision, Route};
use crate::evidence::Finding;
use crate::policy_set::PolicySet;
use crate::prompt::Prompt;

/// One clause of a condition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Clause {
    /// How deep it stands in its rule.
    pub depth: usize,
    /// The clause in English.
    pub words: String,
    /// It held for this request.
    pub held: bool,
}

/// Why a rule matched, or how near it came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleExplanation {
    /// Id of the rule.
    pub rule: String,
    /// Its title.
    pub title: String,
    /// The law behind it.
    pub citation: Option<String>,
    /// Its condition held.
    pub matched: bool,
    /// Its clauses, the outermost first.
    pub clauses: Vec<Clause>,
}

/// A finding, and what spoke for it and against it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FindingExplanation {
    /// Detector, place, likelihood.
    #[serde(flatten)]
    pub finding: Finding,
    /// What the detector looks for, which words around it counted, how it was seen.
    pub because: Vec<String>,
}

/// Everything about one decision, for a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// What was found, and why.
    pub findings: Vec<FindingExplanation>,
    /// The rules that matched, and those of which a part held.
    pub rules: Vec<RuleExplanation>,
    /// What would have changed the decision.
    pub would_change: Vec<String>,
    /// The decision in one sentence.
    pub reason: String,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.reason)?;
        writeln!(f, "\nfound")?;
        for FindingExplanation { finding, because } in &self.findings {
            let sure = finding.likelihood.in_words();
            writeln!(f, "  {} in {} ({sure})", finding.detector, finding.place)?;
            because.iter().try_for_each(|reason| writeln!(f, "      {reason}"))?;
        }
        if self.findings.is_empty() {
            writeln!(f, "  nothing")?;
        }
        for rule in &self.rules {
            let verdict = if rule.matched { "matched" } else { "did not match" };
            let citation = rule.citation.as_ref().map(|c| format!(" [{c}]")).unwrap_or_default();
            writeln!(f, "\n{} {verdict}: {}{citation}", rule.rule, rule.title)?;
            for clause in &rule.clauses {
                let mark = if clause.held { "yes" } else { " no" };
                writeln!(f, "  {mark} {:indent$}{}", "", clause.words, indent = 2 * clause.depth)?;
            }
        }
        if !self.would_change.is_empty() {
            writeln!(f, "\nwhat would have changed it")?;
        }
        self.would_change.iter().try_for_each(|sentence| writeln!(f, "  {sentence}"))
    }
}

/// Rules that came near are named up to this many.
const NEAR_MISSES_MAX: usize = 5;

impl Clause {
    /// The clause looks at something itself instead of joining others.
    fn is_leaf(&self) -> bool {
        !["any of", "all of", "unless"].iter().any(|joint| self.words.starts_with(joint))
    }
}

impl PolicySet {
    /// Explains a decision about a prompt.
    pub fn explain(
        &self,
        prompt: &Prompt,
        classification: &Classification,
        decision: &Decision,
    ) -> Explanation {
        let Classification { unscanned, findings, .. } = &classification;
        let scene = Scene::new(prompt, unscanned, findings, |id| self.vocabulary.number(id));
        let mut rules = Vec::new();
        let mut near_misses = Vec::new();
        for rule in &self.rules {
            let clauses = rule.when.clauses(&scene);
            let matched = clauses[0].held;
            let came_near =
                clauses.iter().any(|clause| clause.held && !clause.words.starts_with("unless"));
            let explained = RuleExplanation {
                rule: rule.id.clone(),
                title: rule.title.clone(),
                citation: rule.citation.clone(),
                matched,
                clauses,
            };
            match matched {
                true => rules.push(explained),
                false if came_near => near_misses.push(explained),
                false => (),
            }
        }
        near_misses.truncate(NEAR_MISSES_MAX);
        let would_change = self.would_change(decision, &near_misses);
        rules.extend(near_misses);
        Explanation {
            findings: self.explain_findings(prompt, findings),
            rules,
            would_change,
            reason: decision.reason.clone(),
        }
    }

    fn explain_findings(&self, prompt: &Prompt, findings: &[Finding]) -> Vec<FindingExplanation> {
        let reasons = self.scanner.reasons(prompt, findings).into_iter();
        let explain = |(finding, because): (&Finding, Vec<String>)| FindingExplanation {
            finding: finding.clone(),
            because,
        };
        findings.iter().zip(reasons).map(explain).collect()
    }

    fn would_change(&self, decision: &Decision, near_misses: &[RuleExplanation]) -> Vec<String> {
        let mut sentences = Vec::new();
        if decision.raised_by.is_empty() && decision.route == Route::Refuse {
            sentences.push("no rule raised the request: what refused it is said above".to_owned());
        }
        if !decision.raised_by.is_empty() {
            let ids = decision.raised_by.join(", ");
            sentences.push(format!(
                "without what {ids} found, the class would be lower than {}",
                decision.class
            ));
        }
        for rule in near_misses {
            let missing: Vec<&str> = rule
                .clauses
                .iter()
                .filter(|clause| !clause.held && clause.is_leaf() && clause.depth > 0)
                .map(|clause| clause.words.as_str())
                .take(2)
                .collect();
            if !missing.is_empty() {
                sentences.push(format!(
                    "{} would match if also: {}",
                    rule.rule,
                    missing.join(", or ")
                ));
            }
        }
        sentences
    }
}
