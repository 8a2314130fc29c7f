//! Which expert makes room when memory is full: the policies, behind one small trait.
//!
//! The cache and the simulator ([`super::replay`]) drive the same code, so that a policy is chosen by
//! replaying recorded gates and not by belief. Experts are numbered through all layers; the number of
//! them is known, so that a policy can remember also what is not in memory.
//! What was measured stands in `engine/README.md`.

use std::collections::BTreeSet;

/// Chooses what stays. Told of every use, it names the expert that gives way.
pub(crate) trait Policy: Send {
    /// A layer is about to be visited by so many rows (tokens): time goes on.
    fn tick(&mut self, rows: u32);
    /// So many rows want an expert, which is here or not.
    fn used(&mut self, expert: u32, rows: u32);
    /// An expert is here from now on.
    fn entered(&mut self, expert: u32);
    /// An expert is here no more.
    fn left(&mut self, expert: u32);
    /// Who gives way to a newcomer that was just used; `None`: the newcomer is not kept. Only asked
    /// when memory is full, which includes that some expert is here.
    fn victim(&mut self, newcomer: u32) -> Option<u32>;
}

/// The policies by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PolicyKind {
    /// The one unused longest gives way.
    Lru,
    /// The one used least gives way, old uses fade; a newcomer starts without a past.
    LfuResident,
    /// The one used least gives way, old uses fade; the past of all experts counts, and a newcomer
    /// that was used less than all that are here is not kept.
    Lfu,
}

/// What the engine uses: the best of those below on recorded gates, see `engine/README.md`.
pub(crate) const CHOSEN: PolicyKind = PolicyKind::Lfu;

/// Tokens that a prompt counts as at most: what a prompt used says less about its reply than the tokens of
/// replies do, however long it is.
const PROMPT_TOKENS_MAX: f64 = 8.0;

impl PolicyKind {
    /// All of them with their names.
    pub(crate) const ALL: [(&'static str, PolicyKind); 3] = [
        ("lru", PolicyKind::Lru),
        ("lfu-resident", PolicyKind::LfuResident),
        ("lfu", PolicyKind::Lfu),
    ];

    /// A policy over so many experts of all layers.
    pub(crate) fn start(self, experts: usize) -> Box<dyn Policy> {
        match self {
            PolicyKind::Lru => {
                Box::new(Lru { last: vec![0; experts], here: BTreeSet::new(), now: 0 })
            }
            PolicyKind::LfuResident => Box::new(Lfu::new(experts, false)),
            PolicyKind::Lfu => Box::new(Lfu::new(experts, true)),
        }
    }
}

struct Lru {
    /// When each expert was used last.
    last: Vec<u64>,
    /// Those that are here, unused longest first.
    here: BTreeSet<(u64, u32)>,
    now: u64,
}

impl Policy for Lru {
    fn tick(&mut self, _rows: u32) {
        self.now += 1;
    }

    fn used(&mut self, expert: u32, _rows: u32) {
        let last = std::mem::replace(&mut self.last[expert as usize], self.now);
        if self.here.remove(&(last, expert)) {
            self.here.insert((self.now, expert));
        }
    }

    fn entered(&mut self, expert: u32) {
        self.here.insert((self.last[expert as usize], expert));
    }

    fn left(&mut self, expert: u32) {
        self.here.remove(&(self.last[expert as usize], expert));
    }

    fn victim(&mut self, _newcomer: u32) -> Option<u32> {
        self.here.first().map(|(_, expert)| *expert)
    }
}

/// Least frequently used, with uses that fade: an expert's heat halves every half-life.
///
/// A rank is `log2(heat) + time / half-life`: as heat fades the order of ranks stays, so nothing has to
/// be aged. The half-life is as many visits of layers as half of all experts: as many tokens as half of a
/// layer's experts, in which a gate that chooses one of sixteen has chosen eight times. A prompt counts as
/// few tokens, so that it does not wash out what replies need.
/// Source: LFU with dynamic ageing; Arlitt et al., "Evaluating content management techniques for Web
/// proxy caches" (2000), adapted to exponential fading; admission as in Einziger et al., "TinyLFU" (2017).
struct Lfu {
    rank: Vec<Rank>,
    /// Those that are here, coldest first.
    here: BTreeSet<(Rank, u32)>,
    /// Visits of layers, in half-lives.
    now: f64,
    half_life: f64,
    /// What a row of this visit counts.
    weight: f64,
    /// Remember the absent, and do not admit what is colder than all that are here.
    remember: bool,
}

/// An f64 with an order; −∞ for what was never used.
#[derive(Clone, Copy, PartialEq)]
struct Rank(f64);

impl Eq for Rank {}

impl Ord for Rank {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl PartialOrd for Rank {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Lfu {
    fn new(experts: usize, remember: bool) -> Lfu {
        let rank = vec![Rank(f64::NEG_INFINITY); experts];
        let half_life = (experts as f64 / 2.0).max(1.0);
        Lfu { rank, here: BTreeSet::new(), now: 0.0, half_life, weight: 1.0, remember }
    }
}

impl Policy for Lfu {
    fn tick(&mut self, rows: u32) {
        let rows = f64::from(rows.max(1));
        self.weight = (PROMPT_TOKENS_MAX / rows).min(1.0);
        self.now += rows * self.weight / self.half_life;
    }

    fn used(&mut self, expert: u32, rows: u32) {
        let old = self.rank[expert as usize];
        let heat = f64::from(rows) * self.weight + (old.0 - self.now).exp2();
        let new = Rank(heat.log2() + self.now);
        self.rank[expert as usize] = new;
        if self.here.remove(&(old, expert)) {
            self.here.insert((new, expert));
        }
    }

    fn entered(&mut self, expert: u32) {
        self.here.insert((self.rank[expert as usize], expert));
    }

    fn left(&mut self, expert: u32) {
        self.here.remove(&(self.rank[expert as usize], expert));
        if !self.remember {
            self.rank[expert as usize] = Rank(f64::NEG_INFINITY);
        }
    }

    fn victim(&mut self, newcomer: u32) -> Option<u32> {
        let (coldest, expert) = *self.here.first()?;
        let stays_out = self.remember && self.rank[newcomer as usize] < coldest;
        (!stays_out).then_some(expert)
    }
}

/// Which experts are here, by a policy: the cache's memory without its bytes.
pub(crate) struct Residents {
    policy: Box<dyn Policy>,
    here: Vec<bool>,
    count: usize,
    max: usize,
}

/// What becomes of an expert that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// It stays; there was room.
    Free,
    /// It stays; this one goes.
    Of(u32),
    /// It does not stay.
    None,
}

impl Residents {
    /// Room for `max` of so many experts.
    pub(crate) fn new(policy: Box<dyn Policy>, experts: usize, max: usize) -> Residents {
        Residents { policy, here: vec![false; experts], count: 0, max }
    }

    /// A layer is visited by so many rows.
    pub(crate) fn tick(&mut self, rows: u32) {
        self.policy.tick(rows);
    }

    /// Some rows want an expert. True if it is here.
    pub(crate) fn used(&mut self, expert: u32, rows: u32) -> bool {
        self.policy.used(expert, rows);
        self.here[expert as usize]
    }

    /// Whether an expert is here.
    pub(crate) fn has(&self, expert: u32) -> bool {
        self.here[expert as usize]
    }

    /// An expert that was used was read: says where it goes. Panics if it is here (caller bug).
    pub(crate) fn landed(&mut self, expert: u32) -> Place {
        assert!(!self.here[expert as usize], "an expert that is here is not read");
        if self.max == 0 {
            return Place::None;
        }
        let mut place = Place::Free;
        if self.count == self.max {
            let Some(victim) = self.policy.victim(expert) else { return Place::None };
            self.policy.left(victim);
            self.here[victim as usize] = false;
            self.count -= 1;
            place = Place::Of(victim);
        }
        self.policy.entered(expert);
        self.here[expert as usize] = true;
        self.count += 1;
        place
    }

    /// Experts that are here.
    pub(crate) fn count(&self) -> usize {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn residents(kind: PolicyKind, max: usize) -> Residents {
        Residents::new(kind.start(20), 20, max)
    }

    fn visit(residents: &mut Residents, expert: u32) -> bool {
        residents.tick(1);
        let hit = residents.used(expert, 1);
        if !hit {
            residents.landed(expert);
        }
        hit
    }

    #[test]
    fn what_is_used_often_survives_what_was_used_last() {
        for kind in [PolicyKind::Lfu, PolicyKind::LfuResident] {
            let mut here = residents(kind, 3);
            for expert in [0, 1, 2, 0, 0, 0, 2] {
                visit(&mut here, expert);
            }
            visit(&mut here, 7);
            // A newcomer as cold as the coldest takes its place.
            assert!(here.has(0) && here.has(2) && !here.has(1), "{kind:?}");
        }
    }

    #[test]
    fn the_longest_unused_gives_way_under_lru() {
        let mut here = residents(PolicyKind::Lru, 3);
        for expert in [0, 1, 2, 0, 0, 0, 7] {
            visit(&mut here, expert);
        }
        assert!(here.has(0) && here.has(2) && here.has(7) && !here.has(1));
    }

    #[test]
    fn old_popularity_fades() {
        let mut here = residents(PolicyKind::Lfu, 1);
        (0..50).for_each(|_| _ = visit(&mut here, 0));
        assert!(!visit(&mut here, 1) && here.has(0), "one use does not beat fifty");
        // Twenty half-lives of ten visits.
        (0..200).for_each(|_| here.tick(1));
        assert!(!visit(&mut here, 1) && here.has(1), "but old uses do not count for ever");
    }

    #[test]
    fn a_long_prompt_does_not_wash_out_what_replies_use() {
        let mut here = residents(PolicyKind::Lfu, 4);
        for _ in 0..40 {
            for expert in 0..4 {
                here.tick(1);
                here.used(expert, 1);
                if !here.has(expert) {
                    here.landed(expert);
                }
            }
        }
        here.tick(64);
        for expert in 4..20 {
            here.used(expert, 4);
            here.landed(expert);
        }
        assert!((0..4).all(|expert| here.has(expert)));
    }

    proptest! {
        #[test]
        fn there_are_never_more_than_fit(
            max in 0_usize..6,
            uses in prop::collection::vec((0_u32..20, 1_u32..5), 0..200),
        ) {
            for (_, kind) in PolicyKind::ALL {
                let mut here = residents(kind, max);
                for (expert, rows) in &uses {
                    here.tick(*rows);
                    if !here.used(*expert, *rows) {
                        let before = here.count();
                        match here.landed(*expert) {
                            Place::Free => prop_assert_eq!(here.count(), before + 1),
                            Place::Of(victim) => prop_assert!(!here.has(victim)),
                            Place::None => prop_assert!(!here.has(*expert)),
                        }
                    }
                    let counted = (0..20).filter(|e| here.has(*e)).count();
                    prop_assert!(counted == here.count() && counted <= max);
                }
            }
        }
    }
}
