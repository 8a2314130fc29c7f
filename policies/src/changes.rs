//! What changed between two sets of policies, and which of it loosens.
//!
//! A loosening is anything after which some request could be treated with less care than before. A
//! change whose direction cannot be proved counts as one: the proof is over the shape of the policies
//! (`condition::wider`), never over samples. A change that weakens a `floor: true` rule is marked as
//! never allowed.
//!
//! The code of built-in detectors is no part of a set. [`PolicySet::built_in_revision`] names it, and
//! whoever keeps sets over an update of the binary compares that too.
//!
//! Not here: who may accept a loosening.

use std::fmt;

use serde::Serialize;

use crate::policy_set::PolicySet;

mod detectors;
mod rules;
mod site;
#[cfg(test)]
mod tests;

/// One difference between two sets of policies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Which way it goes.
    pub direction: Direction,
    /// It weakens a `floor: true` rule: nobody can accept it.
    pub never_allowed: bool,
    /// What kind of thing changed.
    pub subject: Subject,
    /// Its name: a rule's id, a class, an upstream.
    pub name: String,
    /// What happened to it: `is moved to shadow and acts no longer`.
    pub what: String,
}

/// Which way a change goes; the order is the one in which changes are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Some request may be treated with less care, or that cannot be ruled out.
    Loosens,
    /// Requests are treated with the same care or more.
    Tightens,
    /// No request is treated differently, or only its speed changes.
    Neutral,
}

/// What kind of thing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are the words of policy files")]
pub enum Subject {
    Rule,
    Exception,
    Class,
    Label,
    Vouch,
    Answer,
    Detector,
    Group,
    Latency,
    Pack,
    Site,
    /// The detectors that are code of the binary.
    BuiltIn,
}

impl Change {
    /// Some request may be treated with less care.
    pub fn loosens(&self) -> bool {
        self.direction == Direction::Loosens
    }

    fn new(direction: Direction, subject: Subject, name: &str, what: impl Into<String>) -> Change {
        let (name, what) = (name.to_owned(), what.into());
        Change { direction, never_allowed: false, subject, name, what }
    }
}

impl Direction {
    /// Loosens if `loosens`, else tightens.
    fn loosens_if(loosens: bool) -> Direction {
        if loosens { Direction::Loosens } else { Direction::Tightens }
    }

    /// The verb as people read it.
    pub fn in_words(self) -> &'static str {
        match self {
            Direction::Loosens => "loosens",
            Direction::Tightens => "tightens",
            Direction::Neutral => "neutral",
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Subject::Rule => "rule",
            Subject::Exception => "exception",
            Subject::Class => "class",
            Subject::Label => "label",
            Subject::Vouch => "vouch for",
            Subject::Answer => "answer to",
            Subject::Detector => "detector",
            Subject::Group => "group",
            Subject::Latency => "latency class",
            Subject::Pack => "pack",
            Subject::Site => "site",
            Subject::BuiltIn => "built-in detectors",
        })
    }
}

/// One sentence: `rule HIPAA-002 is moved to shadow and acts no longer (a floor: never allowed)`.
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gap = if self.name.is_empty() { "" } else { " " };
        write!(f, "{}{gap}{} {}", self.subject, self.name, self.what)?;
        if self.never_allowed { f.write_str(" (a floor: never allowed)") } else { Ok(()) }
    }
}

impl PolicySet {
    /// Every difference from an older set, loosenings first, then by subject and name.
    ///
    /// Empty for two sets that decide alike and read alike, whatever the order of their files.
    pub fn changes_since(&self, old: &PolicySet) -> Vec<Change> {
        let sets = Sets { old, new: self };
        let mut changes = sets.rules();
        changes.extend(sets.exceptions());
        changes.extend(sets.groups());
        changes.extend(sets.detectors());
        changes.extend(sets.classes());
        changes.extend(sets.labels());
        changes.extend(sets.vouches());
        changes.extend(sets.answers());
        changes.extend(sets.latency());
        changes.extend(sets.packs());
        changes.extend(sets.site());
        changes.sort_by(|a, b| {
            let key = |c: &Change| (c.direction, !c.never_allowed, c.subject);
            key(a).cmp(&key(b)).then_with(|| a.name.cmp(&b.name))
        });
        changes
    }

    /// Names the code of the built-in detectors in this binary: a new value may find less than an old.
    pub fn built_in_revision() -> &'static str {
        env!("SLUICE_BUILT_IN_REVISION")
    }

    /// The change that lies in a binary whose built-in detectors differ from those of `revision`.
    pub fn built_in_change(revision: &str) -> Option<Change> {
        let current = PolicySet::built_in_revision();
        (revision != current).then(|| {
            let what = format!("were {revision} and are {current}: what they find may differ");
            Change::new(Direction::Loosens, Subject::BuiltIn, "", what)
        })
    }
}

/// Two sets under comparison.
#[derive(Clone, Copy)]
struct Sets<'a> {
    old: &'a PolicySet,
    new: &'a PolicySet,
}

/// Items of one list that the other lacks.
fn missing<'a>(from: &'a [String], other: &[String]) -> Vec<&'a str> {
    from.iter().filter(|item| !other.contains(item)).map(String::as_str).collect()
}
