//! Finds what is unwise in a set: rules without tests, rules that do nothing, what has ended.
//!
//! Nothing here is wrong enough to refuse a set; an officer who reads it learns which of her sentences
//! have no effect, and why. A rule is called dead, shadowed or ineffective only where that is proved.

use jiff::civil::Date;

use crate::condition::{Condition, Test, Wider};
use crate::error::Diagnostic;
use crate::evidence::Likelihood;
use crate::policy_set::PolicySet;
use crate::rule::{Rule, RuleMode};

impl PolicySet {
    /// What is unwise on a day, each with its place.
    pub fn lint(&self, today: Date) -> Vec<Diagnostic> {
        let mut found = self.warnings.clone();
        found.extend(self.rules.iter().filter_map(|rule| {
            let problem = self.problem(rule, today)?;
            Some(self.note(&rule.file, rule.line, format!("rule \"{}\" {problem}", rule.id)))
        }));
        let site = self.sources[0].name.clone();
        let ended = self.exceptions.iter().filter(|exception| exception.expires < today);
        found.extend(
            ended.map(|e| self.note(&site, e.line, format!("exception \"{}\" has ended", e.id))),
        );
        let ended = self.vouches.iter().filter(|vouch| vouch.expires < today);
        found.extend(ended.map(|v| {
            self.note(
                &site,
                v.line,
                format!("the vouch for \"{}\" has ended: it counts as unknown", v.upstream),
            )
        }));
        let counterexamples = self.prove().counterexamples;
        found.extend(counterexamples.into_iter().map(|words| self.note(&site, 0, words)));
        found
    }

    /// Why a rule has no effect on a day.
    fn problem(&self, rule: &Rule, today: Date) -> Option<String> {
        if !rule.when.can_hold() {
            return Some("can never match: a group of detectors that it needs is empty".to_owned());
        }
        if let Some(dead) = self.asks_too_much(&rule.when) {
            return Some(format!("can never match: {dead}"));
        }
        if rule.effective.until.is_some_and(|until| until < today) {
            return Some("has ended".to_owned());
        }
        if let Some(from) = rule.effective.from.filter(|from| *from > today) {
            return Some(format!("does nothing before {from}"));
        }
        if rule.mode == RuleMode::Shadow {
            return Some("is a shadow: it changes nothing".to_owned());
        }
        if rule.labels.is_empty() && rule.class == 0 {
            let lowest = &self.classes[0].name;
            return Some(format!("changes nothing: every request is at least {lowest}"));
        }
        let other = self.rules.iter().find(|other| self.shadows(other, rule))?;
        Some(format!(
            "is shadowed: whatever matches it matches \"{}\" ({}) too, which asks for no less",
            other.id, other.file
        ))
    }

    /// Whatever the rule matches, the other matches on the same days, with the same effect or more.
    fn shadows(&self, other: &Rule, rule: &Rule) -> bool {
        let wider = Wider { wide: &self.vocabulary, narrow: &self.vocabulary };
        let asks_no_less = other.class >= rule.class
            && rule.labels.iter().all(|label| other.labels.contains(label))
            && (!other.redact || rule.redact)
            && (other.floor || !rule.floor);
        let same_days = other.effective.and(rule.effective) == rule.effective;
        let same_requests = other.tenant.is_none() || other.tenant == rule.tenant;
        let is_excepted = self.exceptions.iter().any(|e| self.rules[e.rule].id == other.id);
        // Of two that say the same, the first by name stays.
        let stays = |other: &Rule| {
            !wider.than(&rule.when, &other.when)
                || !self.same_effect(other, rule)
                || other.id < rule.id
        };
        other.id != rule.id
            && other.mode == RuleMode::Enforce
            && asks_no_less
            && same_days
            && same_requests
            && !is_excepted
            && wider.than(&other.when, &rule.when)
            && stays(other)
    }

    fn same_effect(&self, a: &Rule, b: &Rule) -> bool {
        (a.class, &a.labels, a.redact, a.floor) == (b.class, &b.labels, b.redact, b.floor)
    }

    /// A likelihood that a condition needs and that none of its detectors ever has.
    fn asks_too_much(&self, condition: &Condition) -> Option<String> {
        match condition.test() {
            Test::Any(parts) => {
                let dead: Option<Vec<String>> =
                    parts.iter().map(|part| self.asks_too_much(part)).collect();
                dead.map(|dead| dead.join("; "))
            }
            Test::All(parts) => parts.iter().find_map(|part| self.asks_too_much(part)),
            Test::Found { names, detectors, at_least, .. } => {
                let surest = detectors.iter().map(|&number| self.surest(number)).max()?;
                (surest < *at_least).then(|| {
                    format!(
                        "it asks for {} of {}, which is {} at best",
                        at_least.in_words(),
                        names.join(" or "),
                        surest.in_words()
                    )
                })
            }
            _ => None,
        }
    }

    /// The most that a detector can say.
    fn surest(&self, number: u32) -> Likelihood {
        let id = &self.vocabulary.detectors[number as usize];
        let spec = self.scanner.specs().find(|spec| spec.id == *id);
        spec.map_or(Likelihood::VeryLikely, |spec| spec.surest())
    }

    fn note(&self, file: &str, line: u32, message: String) -> Diagnostic {
        let source = self.sources.iter().find(|source| source.name == file);
        let text =
            source.and_then(|source| source.text.lines().nth((line as usize).wrapping_sub(1)));
        let source_line = text.unwrap_or_default().to_owned();
        let column = source_line.len() - source_line.trim_start_matches([' ', '-']).len() + 1;
        Diagnostic {
            file: file.to_owned(),
            line,
            column: column as u32,
            path: String::new(),
            message,
            source_line,
            hint: None,
        }
    }
}
