//! What a set decides about every case of its own tests: kept with an activated set, so that a later
//! build of the program that would decide any of them more loosely is noticed.
//!
//! The files of a set name its detectors; what a built-in detector finds is up to the program. Two
//! builds of the same files therefore share a digest and may still disagree. Their verdicts over the
//! same cases say so, case by case.
//!
//! Not here: whether a case passes (`check`), differences between two sets' files.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::PolicySet;
use super::check::{RuleTest, SiteTest, TEST_DAY, prompt};
use crate::decision::{Decision, Facts, Route};
use crate::rule::Given;
use crate::site::GivenFacts;

/// Where one test case is decided to go. Names the case by its place; its text stays in the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// File of the test.
    pub file: String,
    /// Line of the test, from 1.
    pub line: u32,
    /// Which case of the test, from 1.
    pub case: usize,
    /// Class that it ends in.
    pub class: String,
    /// Labels that it bears, sorted.
    pub labels: Vec<String>,
    /// It never goes to a cloud.
    pub never_cloud: bool,
    /// Where it goes.
    pub route: Route,
}

impl PolicySet {
    /// Decides every case of the set's own tests, known gaps included, in the order of the files.
    pub fn verdicts(&self) -> Vec<Verdict> {
        self.verdicts_over(self)
    }

    /// Decides every case of another set's tests.
    fn verdicts_over(&self, tests: &PolicySet) -> Vec<Verdict> {
        let mut verdicts = Vec::new();
        let facts = self.test_facts(&GivenFacts::default(), TEST_DAY);
        for RuleTest { document, line, given, cases, .. } in &tests.rule_tests {
            let file = &tests.sources[*document].name;
            verdicts.extend(self.verdicts_of(file, *line, given, cases, &facts));
        }
        for SiteTest { line, spec, cases, today, .. } in &tests.site_tests {
            let facts = self.test_facts(&spec.facts, *today);
            let file = &tests.sources[0].name;
            verdicts.extend(self.verdicts_of(file, *line, &spec.given, cases, &facts));
        }
        verdicts
    }

    fn verdicts_of(
        &self,
        file: &str,
        line: u32,
        given: &Given,
        cases: &[Vec<String>],
        facts: &Facts,
    ) -> Vec<Verdict> {
        let verdict = |(index, turns): (usize, &Vec<String>)| {
            let decision = self.decide(&self.classify(&prompt(given, turns)), facts);
            let Decision { class, labels, never_cloud, route, .. } = decision;
            Verdict {
                file: file.to_owned(),
                line,
                case: index + 1,
                class,
                labels,
                never_cloud,
                route,
            }
        };
        cases.iter().enumerate().map(verdict).collect()
    }

    /// The cases of this set's tests that another build of the program decided more strictly, each as
    /// one sentence. `before` are the [`PolicySet::verdicts`] that it gave for the same files.
    pub fn loosened_since(&self, before: &[Verdict]) -> Vec<String> {
        self.loosened(before, self.verdicts())
    }

    /// The cases of another set's tests that this set decides more loosely, each as one sentence.
    pub fn loosened_over(&self, old: &PolicySet) -> Vec<String> {
        self.loosened(&old.verdicts(), self.verdicts_over(old))
    }

    fn loosened(&self, before: &[Verdict], now: Vec<Verdict>) -> Vec<String> {
        let place = |v: &Verdict| (v.file.clone(), v.line, v.case);
        let now: BTreeMap<_, _> = now.into_iter().map(|v| (place(&v), v)).collect();
        let loosened = before.iter().filter_map(|old| {
            let was = old.in_words("was");
            match now.get(&place(old)) {
                Some(new) => {
                    self.is_looser(old, new).then(|| format!("{was} now {}", new.level_in_words()))
                }
                None => Some(format!("{was} and is not decided at all now")),
            }
        });
        loosened.collect()
    }

    /// Whether any property got looser; a class that this set does not know counts as lost.
    fn is_looser(&self, old: &Verdict, new: &Verdict) -> bool {
        let (was, is) = (self.class_index(&old.class), self.class_index(&new.class));
        old.never_cloud && !new.never_cloud
            || was.is_none()
            || is < was
            || old.labels.iter().any(|label| !new.labels.contains(label))
            || openness(new.route) > openness(old.route)
    }
}

impl Verdict {
    fn in_words(&self, verb: &str) -> String {
        let Verdict { file, line, case, .. } = self;
        format!("{file}:{line}: case {case} of the tests {verb} {},", self.level_in_words())
    }

    fn level_in_words(&self) -> String {
        let route = format!("{:?}", self.route).to_lowercase();
        match self.labels.is_empty() {
            true => format!("{} to {route}", self.class),
            false => format!("{} [{}] to {route}", self.class, self.labels.join(", ")),
        }
    }
}

/// How far a route lets text go, least first.
fn openness(route: Route) -> u8 {
    match route {
        Route::Refuse => 0,
        Route::Edge => 1,
        Route::OnPrem => 2,
        Route::Cloud => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_build_loosens_nothing() {
        let set = PolicySet::shipped().unwrap();
        let verdicts = set.verdicts();
        assert!(verdicts.len() > 400, "{} cases", verdicts.len());
        assert_eq!(set.loosened_since(&verdicts), Vec::<String>::new());
    }

    #[test]
    fn every_looser_property_is_noticed_and_a_stricter_one_is_not() {
        let set = PolicySet::shipped().unwrap();
        let now = set.verdicts();
        let at = now.iter().position(|v| v.class == "internal" && v.route == Route::Cloud).unwrap();
        type Change = fn(&mut Verdict);
        let cases: [(Change, bool); 7] = [
            (|v| v.class = "regulated".into(), true),
            (|v| v.class = "no-such-class".into(), true),
            (|v| v.labels.push("HIPAA".into()), true),
            (|v| v.never_cloud = true, true),
            (|v| v.route = Route::Edge, true),
            (|v| v.line += 100_000, true),
            (|v| v.class = "public".into(), false),
        ];
        for (number, (change, loosened)) in cases.into_iter().enumerate() {
            let mut before = now.clone();
            change(&mut before[at]);
            let found = set.loosened_since(&before);
            assert_eq!(found.len(), usize::from(loosened), "case {number}: {found:?}");
        }
    }
}
