//! Compares rules, exceptions and groups of detectors.

use std::collections::BTreeMap;

use super::Direction::{Loosens, Neutral, Tightens};
use super::{Change, Direction, Sets, Subject, missing};
use crate::condition::{Condition, Wider};
use crate::policy_set::{Exception, PolicySet};
use crate::rule::{Effective, Rule, RuleMode};

impl Sets<'_> {
    /// Old conditions hold wherever new ones do, and the reverse.
    fn forward(&self) -> Wider<'_> {
        Wider { wide: &self.new.vocabulary, narrow: &self.old.vocabulary }
    }

    fn backward(&self) -> Wider<'_> {
        Wider { wide: &self.old.vocabulary, narrow: &self.new.vocabulary }
    }

    pub(super) fn rules(&self) -> Vec<Change> {
        let mut changes = Vec::new();
        for old in &self.old.rules {
            match self.new.rule(&old.id) {
                None => changes.push(removed(old)),
                Some(new) => self.rule(old, new, &mut changes),
            }
        }
        let added = self.new.rules.iter().filter(|rule| self.old.rule(&rule.id).is_none());
        changes.extend(added.map(|rule| match rule.mode {
            RuleMode::Enforce => of(rule, Tightens, "is new"),
            RuleMode::Shadow => of(rule, Neutral, "is new and in shadow: it does not act"),
        }));
        changes
    }

    fn rule(&self, old: &Rule, new: &Rule, changes: &mut Vec<Change>) {
        let acts = (old.mode == RuleMode::Enforce, new.mode == RuleMode::Enforce);
        let mut found = Vec::new();
        match acts {
            (true, false) => found.push((Loosens, "is moved to shadow and acts no longer".into())),
            (false, true) => found.push((Tightens, "leaves shadow and acts".into())),
            _ => (),
        }
        found.extend(self.condition_change(old, new));
        found.extend(days_change(&old.effective, &new.effective));
        found.extend(self.consequence_changes(old, new));
        match (old.floor, new.floor) {
            (true, false) => found.push((Loosens, "is no floor any more".into())),
            (false, true) => found.push((Tightens, "becomes a floor".into())),
            _ => (),
        }
        match (&old.tenant, &new.tenant) {
            (was, is) if was == is => (),
            (_, None) => found.push((Tightens, "holds for every tenant".into())),
            (_, Some(tenant)) => found.push((Loosens, format!("holds for {tenant} only"))),
        }
        found.extend(telling_change(old, new));
        // What a shadow says has no effect, whichever way it changes.
        let without_effect = acts == (false, false);
        changes.extend(found.into_iter().map(|(direction, what)| {
            let direction = if without_effect { Neutral } else { direction };
            // A floor may be given up in a change of its own; while it stands, nothing weakens it.
            let is_giving_up = what == "is no floor any more";
            let never_allowed = old.floor && direction == Loosens && !is_giving_up;
            Change { never_allowed, ..of(new, direction, what) }
        }));
    }

    fn condition_change(&self, old: &Rule, new: &Rule) -> Option<(Direction, String)> {
        // Changes of groups are told once, as changes of the group.
        if old.when.reads_like(&new.when) {
            return None;
        }
        let holds_wherever = self.forward().than(&new.when, &old.when);
        let held_wherever = self.backward().than(&old.when, &new.when);
        let now = new.when.in_words();
        match (holds_wherever, held_wherever) {
            (true, true) => Some((Neutral, format!("says the same in other words: if {now}"))),
            (true, false) => Some((Tightens, format!("holds more often: if {now}"))),
            (false, true) => Some((Loosens, format!("holds less often: if {now}"))),
            (false, false) => {
                let then = old.when.in_words();
                let what = format!("may hold less often: it was \"if {then}\", it is \"if {now}\"");
                Some((Loosens, what))
            }
        }
    }

    fn consequence_changes(&self, old: &Rule, new: &Rule) -> Vec<(Direction, String)> {
        let mut changes = Vec::new();
        if let Some((direction, what)) = self.class_change(old.class, new.class) {
            changes.push((direction, format!("raises to {what}")));
        }
        let gone = missing(&old.labels, &new.labels);
        if !gone.is_empty() {
            changes.push((Loosens, format!("gives the label {} no longer", gone.join(", "))));
        }
        let added = missing(&new.labels, &old.labels);
        if !added.is_empty() {
            changes.push((Tightens, format!("gives the label {}", added.join(", "))));
        }
        match (old.redact, new.redact) {
            (false, true) => changes.push((Loosens, "lets placeholders replace findings".into())),
            (true, false) => {
                changes.push((Tightens, "lets no placeholders replace findings".into()));
            }
            _ => (),
        }
        changes
    }

    pub(super) fn exceptions(&self) -> Vec<Change> {
        let mut changes = Vec::new();
        let by_id = |set: &'_ PolicySet, id: &str| set.exceptions.iter().position(|e| e.id == id);
        for old in &self.old.exceptions {
            match by_id(self.new, &old.id) {
                None => changes.push(exception(old, Tightens, "is gone")),
                Some(at) => self.exception(old, &self.new.exceptions[at], &mut changes),
            }
        }
        for new in &self.new.exceptions {
            if by_id(self.old, &new.id).is_none() {
                let rule = &self.new.rules[new.rule].id;
                let what = format!("is new: {rule} does not count until {}", new.expires);
                changes.push(exception(new, Loosens, what));
            }
        }
        changes
    }

    fn exception(&self, old: &Exception, new: &Exception, changes: &mut Vec<Change>) {
        let rule = |set: &PolicySet, e: &Exception| set.rules[e.rule].id.clone();
        let (was, is) = (rule(self.old, old), rule(self.new, new));
        if was != is {
            changes.push(exception(new, Loosens, format!("speaks of {is}, no longer of {was}")));
        }
        if old.expires != new.expires {
            let what = format!("ends on {} instead of {}", new.expires, old.expires);
            let direction = Direction::loosens_if(new.expires > old.expires);
            changes.push(exception(new, direction, what));
        }
        let name = |set: &PolicySet, e: &Exception| {
            e.detector.map(|number| set.vocabulary.detectors[number as usize].clone())
        };
        match (name(self.old, old), name(self.new, new)) {
            (was, is) if was == is => (),
            (None, Some(is)) => {
                changes.push(exception(new, Tightens, format!("is only about what {is} finds")));
            }
            (_, is) => {
                let of = is.map_or("all that is found".to_owned(), |is| format!("what {is} finds"));
                changes.push(exception(new, Loosens, format!("is about {of}")));
            }
        }
        if self.exception_applies_otherwise(old, new) {
            let narrower = match (&old.when, &new.when) {
                (None, _) => true,
                (Some(_), None) => false,
                (Some(old), Some(new)) => self.backward().than(old, new),
            };
            let when = new
                .when
                .as_ref()
                .map_or("for every request".to_owned(), |when| format!("if {}", when.in_words()));
            let direction = Direction::loosens_if(!narrower);
            changes.push(exception(new, direction, format!("counts {when}")));
        }
        if (&old.owner, &old.reason) != (&new.owner, &new.reason) {
            changes.push(exception(new, Neutral, "has another owner or reason"));
        }
    }

    fn exception_applies_otherwise(&self, old: &Exception, new: &Exception) -> bool {
        match (&old.when, &new.when) {
            (None, None) => false,
            (Some(old), Some(new)) => !old.reads_like(new),
            _ => true,
        }
    }

    /// Groups whose members changed, with what that means to the rules that name them.
    pub(super) fn groups(&self) -> Vec<Change> {
        let old: BTreeMap<&str, Vec<&str>> = self.old.vocabulary.groups().collect();
        let new: BTreeMap<&str, Vec<&str>> = self.new.vocabulary.groups().collect();
        let mut changes = Vec::new();
        for name in old.keys().chain(new.keys().filter(|name| !old.contains_key(*name))) {
            let members = |groups: &BTreeMap<&str, Vec<&str>>| -> Vec<String> {
                groups.get(name).into_iter().flatten().map(|m| (*m).to_owned()).collect()
            };
            let (was, is) = (members(&old), members(&new));
            let (gone, added) = (missing(&was, &is), missing(&is, &was));
            if gone.is_empty() && added.is_empty() {
                continue;
            }
            let mut parts = Vec::new();
            if !gone.is_empty() {
                parts.push(format!("loses {}", gone.join(", ")));
            }
            if !added.is_empty() {
                parts.push(format!("gains {}", added.join(", ")));
            }
            changes.push(self.group(name, parts.join(" and ")));
        }
        changes
    }

    fn group(&self, name: &str, what: String) -> Change {
        let names = |condition: &Condition| {
            let mut named = false;
            condition.each_found(&mut |found| named |= found.names.iter().any(|n| n == name));
            named
        };
        let users = self.old.rules.iter().filter_map(|old| {
            let new = self.new.rule(&old.id)?;
            // Rules with another condition are told apart, groups counted in.
            let alike = names(&old.when) && old.when.reads_like(&new.when);
            (alike && old.mode == RuleMode::Enforce).then_some((old, new))
        });
        let users: Vec<(&Rule, &Rule)> = users.collect();
        let weakened: Vec<&Rule> = users
            .iter()
            .filter(|(old, new)| !self.forward().than(&new.when, &old.when))
            .map(|(old, _)| *old)
            .collect();
        let (direction, rules) = match (users.is_empty(), weakened.is_empty()) {
            (true, _) => (Neutral, Vec::new()),
            (false, true) => (Tightens, users.iter().map(|(old, _)| *old).collect()),
            (false, false) => (Loosens, weakened),
        };
        let ids: Vec<&str> = rules.iter().map(|rule| rule.id.as_str()).collect();
        let used = match ids.is_empty() {
            true => "; no rule that acts names it".to_owned(),
            false => format!("; it counts for {}", ids.join(", ")),
        };
        let never_allowed = direction == Loosens && rules.iter().any(|rule| rule.floor);
        Change {
            never_allowed,
            ..Change::new(direction, Subject::Group, name, format!("{what}{used}"))
        }
    }
}

fn of(rule: &Rule, direction: Direction, what: impl Into<String>) -> Change {
    Change::new(direction, Subject::Rule, &rule.id, what)
}

fn exception(of: &Exception, direction: Direction, what: impl Into<String>) -> Change {
    Change::new(direction, Subject::Exception, &of.id, what)
}

fn removed(rule: &Rule) -> Change {
    match rule.mode {
        RuleMode::Enforce => {
            Change { never_allowed: rule.floor, ..of(rule, Loosens, "is removed") }
        }
        RuleMode::Shadow => of(rule, Neutral, "is removed; it was in shadow and did not act"),
    }
}

fn days_change(old: &Effective, new: &Effective) -> Vec<(Direction, String)> {
    let mut changes = Vec::new();
    if old.from != new.from {
        // No first day is earlier than any.
        let direction = Direction::loosens_if(new.from > old.from);
        let what = new.from.map_or("acts without a first day".to_owned(), |from| {
            format!(
                "acts from {from}{}",
                old.from.map_or(String::new(), |old| format!(" instead of {old}"))
            )
        });
        changes.push((direction, what));
    }
    if old.until != new.until {
        let earlier = match (old.until, new.until) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(old), Some(new)) => new < old,
        };
        let what = new.until.map_or("acts without a last day".to_owned(), |until| {
            format!(
                "ends on {until}{}",
                old.until.map_or(String::new(), |old| format!(" instead of {old}"))
            )
        });
        changes.push((Direction::loosens_if(earlier), what));
    }
    changes
}

/// What a person reads and no decision looks at.
fn telling_change(old: &Rule, new: &Rule) -> Option<(Direction, String)> {
    let mut what = Vec::new();
    let mut note = |differs: bool, name: &'static str| {
        if differs {
            what.push(name);
        }
    };
    note(old.title != new.title, "title");
    note(old.citation != new.citation, "citation");
    note(old.severity != new.severity, "severity");
    note(old.owner != new.owner, "owner");
    note(old.because != new.because, "reason");
    (!what.is_empty()).then(|| (Neutral, format!("has another {}", what.join(", "))))
}
