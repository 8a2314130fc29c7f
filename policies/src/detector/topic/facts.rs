//! What other detectors found in a passage, alone and in pairs, as features of the topic model.
//!
//! In a model file `!person_name` is a finding of that detector, at least likely, and
//! `!person_name !health_terms` are both in one passage. Detectors that the model does not know, such as
//! a site's own, say nothing here; their rules do.

use super::model::{LANES, Sums};

/// Detectors that a model can know.
const FACTS_MAX: usize = 128;

/// The number of a detector in a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Fact(u8);

/// Facts of a passage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct FactSet(u128);

impl FactSet {
    pub(super) fn insert(&mut self, fact: Fact) {
        self.0 |= 1 << fact.0;
    }

    pub(super) fn with(self, other: FactSet) -> FactSet {
        FactSet(self.0 | other.0)
    }

    fn iter(self) -> impl Iterator<Item = usize> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let next = (rest != 0).then(|| rest.trailing_zeros() as usize)?;
            rest &= rest - 1;
            Some(next)
        })
    }

    /// The facts and their pairs, each pair once.
    pub(super) fn combinations(self) -> impl Iterator<Item = (usize, usize)> {
        self.iter().flat_map(move |first| {
            self.iter().filter(move |second| first <= *second).map(move |second| (first, second))
        })
    }
}

/// The weights of facts.
#[derive(Default)]
pub(super) struct FactWeights {
    names: Vec<String>,
    /// By the compiled detectors' numbers.
    of_detector: Vec<Option<Fact>>,
    /// Of fact `a` alone at `[a][a]`, of `a` and `b` at `[a][b]`, `a < b`.
    weights: Vec<[i8; LANES]>,
}

impl FactWeights {
    /// Reads `!a` or `!a !b`; `None` if it is neither or there are too many detectors.
    pub(super) fn insert(&mut self, text: &str, weights: [i8; LANES]) -> Option<()> {
        let (first, second) = text.split_once(' ').unwrap_or((text, text));
        let (first, second) = (self.number(first)?, self.number(second)?);
        self.weights.resize(FACTS_MAX * FACTS_MAX, [0; LANES]);
        self.weights[first.min(second) * FACTS_MAX + first.max(second)] = weights;
        Some(())
    }

    fn number(&mut self, text: &str) -> Option<usize> {
        let name = text.strip_prefix('!')?;
        if let Some(known) = self.names.iter().position(|known| known == name) {
            return Some(known);
        }
        self.names.push(name.to_owned());
        (self.names.len() <= FACTS_MAX).then(|| self.names.len() - 1)
    }

    /// Takes the compiled detectors' ids, in their order.
    pub(super) fn bind<'a>(&mut self, detectors: impl Iterator<Item = &'a str>) {
        let fact = |id: &str| self.names.iter().position(|name| name == id);
        self.of_detector = detectors.map(|id| fact(id).map(|fact| Fact(fact as u8))).collect();
    }

    pub(super) fn of_detector(&self, detector: usize) -> Option<Fact> {
        *self.of_detector.get(detector)?
    }

    /// The sums of all weights of a passage's facts.
    pub(super) fn sums(&self, facts: FactSet) -> Sums {
        let mut sums = Sums::default();
        for (first, second) in facts.combinations() {
            let weights = self.weights[first * FACTS_MAX + second];
            sums.iter_mut().zip(weights).for_each(|(sum, weight)| *sum += i32::from(weight));
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_counts_besides_its_two_facts_in_any_order() {
        let mut all = FactWeights::default();
        for (text, weight) in [("!name", 1), ("!illness", 2), ("!name !illness", 4)] {
            all.insert(text, [weight; LANES]).unwrap();
        }
        all.bind(["illness", "own_of_the_site", "name"].into_iter());
        assert_eq!(all.of_detector(1), None);
        let mut both = FactSet::default();
        [0, 2].into_iter().for_each(|detector| both.insert(all.of_detector(detector).unwrap()));
        assert_eq!(all.sums(both), [7; LANES]);
        assert_eq!(all.sums(FactSet::default()), [0; LANES]);
        assert_eq!(all.insert("name", [0; LANES]), None);
    }
}
