//! Compares the definitions of detectors.
//!
//! A definition that provably finds more tightens the rules that look for it and loosens those that
//! name it under `unless`; whatever cannot be told counts as a loosening.

use std::collections::BTreeSet;

use super::Direction::{Loosens, Neutral};
use super::{Change, Direction, Sets, Subject, missing};
use crate::detector::DetectorSpec;
use crate::evidence::Likelihood;
use crate::policy_set::PolicySet;
use crate::rule::RuleMode;

/// What a changed field does to the number of findings.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Finds {
    More,
    Fewer,
    Unknown,
    Same,
}

/// Detectors that rules look at, by the sign with which they count.
#[derive(Default)]
struct Used<'a> {
    positive: BTreeSet<&'a str>,
    negated: BTreeSet<&'a str>,
    by_floors: BTreeSet<&'a str>,
}

impl<'a> Used<'a> {
    fn by(set: &'a PolicySet) -> Used<'a> {
        let mut used = Used::default();
        for rule in set.rules.iter().filter(|rule| rule.mode == RuleMode::Enforce) {
            rule.when.each_found(&mut |found| {
                let (numbers, negated) = (found.detectors, found.negated);
                let names = numbers.iter().map(|&n| set.vocabulary.detectors[n as usize].as_str());
                for name in names {
                    if rule.floor {
                        used.by_floors.insert(name);
                    }
                    match negated {
                        true => used.negated.insert(name),
                        false => used.positive.insert(name),
                    };
                }
            });
        }
        used
    }

    fn direction(&self, id: &str, finds: Finds) -> Direction {
        let (positive, negated) = (self.positive.contains(id), self.negated.contains(id));
        match finds {
            _ if !positive && !negated => Neutral,
            Finds::Same => Neutral,
            Finds::More => Direction::loosens_if(negated),
            Finds::Fewer => Direction::loosens_if(positive),
            Finds::Unknown => Loosens,
        }
    }
}

impl Sets<'_> {
    pub(super) fn detectors(&self) -> Vec<Change> {
        let used = Used::by(self.old);
        let find = |set: &'_ PolicySet, id: &str| set.vocabulary.number(id).is_some();
        let mut changes = Vec::new();
        for old in self.old.scanner.specs() {
            let new = self.new.scanner.specs().find(|spec| spec.id == old.id);
            let (finds, what) = match new {
                None => (Finds::Fewer, "is removed".to_owned()),
                Some(new) if new == old => continue,
                Some(new) => definition_change(old, new),
            };
            let direction = used.direction(&old.id, finds);
            let never_allowed = direction == Loosens && used.by_floors.contains(old.id.as_str());
            let change = Change::new(direction, Subject::Detector, &old.id, what);
            changes.push(Change { never_allowed, ..change });
        }
        let added = self.new.scanner.specs().filter(|spec| !find(self.old, &spec.id));
        let new = |spec: &DetectorSpec| {
            Change::new(
                Neutral,
                Subject::Detector,
                &spec.id,
                "is new; groups and rules say for what",
            )
        };
        changes.extend(added.map(new));
        changes
    }
}

fn definition_change(old: &DetectorSpec, new: &DetectorSpec) -> (Finds, String) {
    let mut told: Vec<(Finds, String)> = Vec::new();
    let mut list = |name: &str, old: &[String], new: &[String], more: Finds, empty: Finds| {
        told.extend(list_change(name, old, new, more, empty));
    };
    // An empty list of a built-in family stands for the family's own words.
    let own = if old.builtin.is_some() { Finds::Unknown } else { Finds::More };
    let own_less = if old.builtin.is_some() { Finds::Unknown } else { Finds::Fewer };
    list("patterns", &patterns(old), &patterns(new), Finds::More, Finds::More);
    list("words", &old.words, &new.words, Finds::More, Finds::More);
    list("lists", &old.lists, &new.lists, Finds::More, Finds::More);
    list("near_words", &old.near_words, &new.near_words, Finds::More, own);
    list("key_names", &old.key_names, &new.key_names, Finds::More, own);
    list("negative_words", &old.negative_words, &new.negative_words, Finds::Fewer, own_less);
    list("exclude", &old.exclude, &new.exclude, Finds::Fewer, own_less);
    // Without literals a pattern is tried everywhere.
    list("literals", &old.literals, &new.literals, Finds::More, Finds::Fewer);
    told.extend(likelihood_change("alone", old.alone, new.alone));
    told.extend(likelihood_change("with_context", old.with_context, new.with_context));
    told.extend(reach_change(old.near_characters, new.near_characters));
    for (name, differs) in [
        ("builtin", old.builtin != new.builtin),
        ("looks_like", old.looks_like != new.looks_like),
        ("validator", old.validator != new.validator),
    ] {
        told.extend(differs.then(|| (Finds::Unknown, format!("has another {name}"))));
    }
    if old.title != new.title {
        told.push((Finds::Same, "has another title".to_owned()));
    }
    let finds = told.iter().map(|(finds, _)| *finds).fold(Finds::Same, Finds::and);
    let what: Vec<String> = told.into_iter().map(|(_, what)| what).collect();
    (finds, what.join("; "))
}

impl Finds {
    /// Both changes together.
    fn and(self, other: Finds) -> Finds {
        match (self, other) {
            (Finds::Same, finds) | (finds, Finds::Same) => finds,
            (a, b) if a == b => a,
            _ => Finds::Unknown,
        }
    }

    fn reversed(self) -> Finds {
        match self {
            Finds::More => Finds::Fewer,
            Finds::Fewer => Finds::More,
            same => same,
        }
    }
}

fn patterns(spec: &DetectorSpec) -> Vec<String> {
    spec.pattern.iter().chain(&spec.patterns).cloned().collect()
}

/// What more items in a list do is `more`; where one of the two lists is empty, `from_empty`.
fn list_change(
    name: &str,
    old: &[String],
    new: &[String],
    more: Finds,
    from_empty: Finds,
) -> Option<(Finds, String)> {
    let (gone, added) = (missing(old, new), missing(new, old));
    let one_is_empty = old.is_empty() || new.is_empty();
    let gain = if one_is_empty { from_empty } else { more };
    match (gone.is_empty(), added.is_empty()) {
        (true, true) => None,
        (true, false) => Some((gain, format!("gains {name} {}", named(&added)))),
        (false, true) => Some((gain.reversed(), format!("loses {name} {}", named(&gone)))),
        (false, false) => {
            let what = format!("loses {name} {} and gains {}", named(&gone), named(&added));
            Some((Finds::Unknown, what))
        }
    }
}

/// The first few of a list.
fn named(items: &[&str]) -> String {
    const NAMED_MAX: usize = 4;
    let first = items.iter().take(NAMED_MAX).map(|item| format!("\"{item}\""));
    let first = first.collect::<Vec<_>>().join(", ");
    match items.len().checked_sub(NAMED_MAX) {
        Some(more) if more > 0 => format!("{first} and {more} more"),
        _ => first,
    }
}

fn likelihood_change(
    name: &str,
    old: Option<Likelihood>,
    new: Option<Likelihood>,
) -> Option<(Finds, String)> {
    let word = |l: Option<Likelihood>| l.map_or("unsaid", Likelihood::in_words);
    let what = format!("is {} {name} instead of {}", word(new), word(old));
    match (old, new) {
        (old, new) if old == new => None,
        (Some(old), Some(new)) => Some((if new > old { Finds::More } else { Finds::Fewer }, what)),
        _ => Some((Finds::Unknown, what)),
    }
}

fn reach_change(old: Option<u16>, new: Option<u16>) -> Option<(Finds, String)> {
    let word =
        |reach: Option<u16>| reach.map_or("the usual number of".to_owned(), |r| r.to_string());
    let what = format!("looks {} characters around instead of {}", word(new), word(old));
    match (old, new) {
        (old, new) if old == new => None,
        // Farther words raise, and farther negative words do not lower: their reach is fixed.
        (Some(old), Some(new)) => Some((if new > old { Finds::More } else { Finds::Fewer }, what)),
        _ => Some((Finds::Unknown, what)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: impl Fn(&mut DetectorSpec), finds: Finds, words: &str) {
        let old = DetectorSpec {
            words: vec!["saffron".into(), "cedar".into()],
            near_words: vec!["project".into()],
            exclude: vec!["saffron rice".into()],
            alone: Some(Likelihood::Possible),
            near_characters: Some(60),
            ..DetectorSpec::default()
        };
        let mut new = old.clone();
        change(&mut new);
        let (found, what) = definition_change(&old, &new);
        assert!(found == finds, "{what}");
        assert_eq!(what, words);
    }

    #[test]
    fn tells_what_finds_more_from_what_finds_fewer() {
        check(|d| d.words.push("basil".into()), Finds::More, "gains words \"basil\"");
        check(|d| _ = d.words.pop(), Finds::Fewer, "loses words \"cedar\"");
        check(|d| d.exclude.clear(), Finds::More, "loses exclude \"saffron rice\"");
        check(
            |d| d.negative_words.push("recipe".into()),
            Finds::Fewer,
            "gains negative_words \"recipe\"",
        );
        check(
            |d| d.alone = Some(Likelihood::Likely),
            Finds::More,
            "is likely alone instead of possible",
        );
        check(
            |d| d.near_characters = Some(20),
            Finds::Fewer,
            "looks 20 characters around instead of 60",
        );
        check(|d| d.validator = Some("luhn".into()), Finds::Unknown, "has another validator");
        check(|d| d.title = Some("spices".into()), Finds::Same, "has another title");
    }

    #[test]
    fn two_ways_at_once_cannot_be_told() {
        let change = |d: &mut DetectorSpec| {
            d.words.push("basil".into());
            d.exclude.push("basil pesto".into());
        };
        check(change, Finds::Unknown, "gains words \"basil\"; gains exclude \"basil pesto\"");
    }
}
