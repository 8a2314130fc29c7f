//! What a request is: its sensitivity class, labels and latency class, and the rules that said so.
//!
//! Dates are facts of the decision, not of the text: a classification lists every rule whose condition
//! holds, and [`crate::PolicySet::decide`] leaves out those that are not in force on the day.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::evidence::Finding;
use crate::prompt::Unscanned;

/// The outcome of scanning a prompt and evaluating every rule over it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Classification {
    /// Name of the highest class reached; the names are the site's own.
    pub class: String,
    /// Labels of all rules that matched: `HIPAA`, `PCI`.
    pub labels: BTreeSet<String>,
    /// Latency class: `interactive`, `relaxed`, `batch`.
    pub latency: String,
    /// Ids of all rules that matched in `mode: enforce`, sorted.
    pub rules: Vec<String>,
    /// Ids of the rules that raised to the final class, sorted; `x-sluice-rule` shows them.
    pub raised_by: Vec<String>,
    /// Ids of the rules in `mode: shadow` that would have matched, sorted.
    pub shadow_rules: Vec<String>,
    /// What the detectors found, ordered by text and position.
    pub findings: Vec<Finding>,
    /// What could not be read.
    #[serde(skip)]
    pub unscanned: Vec<Unscanned>,
    /// A `cannot_scan` answer or a rule refuses the request outright, whatever the upstreams offer.
    pub refuse: Option<String>,
    /// Places of unknown fields that are answered by `strip_and_continue`: the gateway must remove
    /// them from the body before it is sent anywhere.
    pub strip: Vec<String>,
    /// The class or a label says that the text never goes to a cloud.
    pub never_cloud: bool,
    /// One sentence for the person who asks why, without any of the text.
    pub reason: String,
    /// Class before any rule: what the site answers for unlabelled, unreadable and unknown, and what
    /// the client asks for.
    #[serde(default)]
    pub base_class: String,
    /// Why the base class is above `must_answer.unlabelled`, if it is.
    #[serde(default)]
    pub base_reason: Option<String>,
    /// Rules that matched although an exception speaks for the request: rule id, exception id.
    #[serde(default)]
    pub excepted: Vec<(String, String)>,
    /// Nothing in the request stands in the way of placeholders: all of it could be read.
    #[serde(default)]
    pub redactable: bool,
    /// Not all of the text could be scanned.
    #[serde(default)]
    pub scan_incomplete: bool,
    /// A detector failed.
    #[serde(default)]
    pub detector_failed: bool,
}

/// A point of the lattice: a class and the labels that ride along.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Level {
    /// Index into the site's classes, lowest first.
    pub(crate) class: usize,
    pub(crate) labels: BTreeSet<String>,
}

impl Level {
    /// Joins a class and labels into this level: the higher class, all labels.
    pub(crate) fn raise<'a>(&mut self, class: usize, labels: impl Iterator<Item = &'a String>) {
        self.class = self.class.max(class);
        self.labels.extend(labels.cloned());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The least level above both.
    fn join(a: &Level, b: &Level) -> Level {
        let mut joined = a.clone();
        joined.raise(b.class, b.labels.iter());
        joined
    }

    fn levels() -> impl Strategy<Value = Level> {
        let labels = proptest::collection::btree_set("[A-D]", 0..4);
        (0_usize..5, labels).prop_map(|(class, labels)| Level { class, labels })
    }

    proptest! {
        #[test]
        fn join_is_commutative_associative_and_idempotent(
            a in levels(), b in levels(), c in levels()
        ) {
            prop_assert_eq!(join(&a, &b), join(&b, &a));
            prop_assert_eq!(join(&join(&a, &b), &c), join(&a, &join(&b, &c)));
            prop_assert_eq!(join(&a, &a), a);
        }

        #[test]
        fn join_never_lowers(a in levels(), b in levels()) {
            let joined = join(&a, &b);
            prop_assert!(joined.class >= a.class && joined.class >= b.class);
            prop_assert!(joined.labels.is_superset(&a.labels));
        }
    }
}
