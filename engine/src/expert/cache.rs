//! Keeps recently used experts in memory, bounded by bytes.
//!
//! A token needs k experts of every layer in turn, so plain recency throws out exactly what the next
//! token's first layers want. We evict the least frequently used, with uses that fade: an expert's
//! heat halves every [`HALF_LIFE`] visits of a layer.
//!
//! Invariants: `bytes_used <= bytes_max` after every call; an [`Expert`] handed out outlives its
//! eviction. Not here: reading (`store`), deciding which experts are wanted (`model`).
//! Source: LFU with dynamic ageing; Arlitt et al., "Evaluating content management techniques for Web
//! proxy caches" (2000), adapted to exponential fading.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::{Expert, ExpertId};
use crate::tensor::AlignedBytes;

/// Visits of a layer after which an old use counts half: about twenty tokens of a 48-layer model.
const HALF_LIFE: f64 = 1024.0;

/// Experts in memory.
pub(crate) struct ExpertCache {
    entries: HashMap<ExpertId, Entry>,
    /// Coldest first. A rank is `log2(heat) + time / HALF_LIFE`: as heat fades, the order of ranks
    /// stays, so nothing has to be aged.
    ranks: BTreeSet<(Rank, ExpertId)>,
    bytes_used: usize,
    bytes_max: usize,
    visits: u64,
    hits: u64,
    misses: u64,
}

struct Entry {
    expert: Arc<Expert>,
    rank: Rank,
}

/// A finite f64 with an order.
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

impl ExpertCache {
    /// An empty cache of at most `bytes_max` bytes.
    pub(crate) fn new(bytes_max: u64) -> Self {
        ExpertCache {
            entries: HashMap::new(),
            ranks: BTreeSet::new(),
            bytes_used: 0,
            bytes_max: usize::try_from(bytes_max).unwrap_or(usize::MAX),
            visits: 0,
            hits: 0,
            misses: 0,
        }
    }

    /// Says that a layer is visited: time goes on.
    pub(crate) fn tick(&mut self) {
        self.visits += 1;
    }

    /// The expert, if it is here; counts the hit or the miss.
    pub(crate) fn find(&mut self, id: ExpertId) -> Option<Arc<Expert>> {
        let now = self.visits as f64 / HALF_LIFE;
        let Some(entry) = self.entries.get_mut(&id) else {
            self.misses += 1;
            return None;
        };
        self.hits += 1;
        self.ranks.remove(&(entry.rank, id));
        entry.rank = Rank((1.0 + (entry.rank.0 - now).exp2()).log2() + now);
        self.ranks.insert((entry.rank, id));
        Some(Arc::clone(&entry.expert))
    }

    /// Keeps an expert, and returns a buffer that became free: an evicted expert's, or this one's if
    /// it does not fit at all.
    pub(crate) fn insert(&mut self, id: ExpertId, expert: Arc<Expert>) -> Option<AlignedBytes> {
        if expert.len() > self.bytes_max || self.entries.contains_key(&id) {
            return Arc::into_inner(expert).map(Expert::into_bytes);
        }
        let mut free = None;
        while self.bytes_used + expert.len() > self.bytes_max {
            let (_, coldest) = self.ranks.pop_first().expect("bytes in use belong to an entry");
            let evicted = self.entries.remove(&coldest).expect("every rank has its entry").expert;
            self.bytes_used -= evicted.len();
            free = Arc::into_inner(evicted).map(Expert::into_bytes).or(free);
        }
        self.bytes_used += expert.len();
        let rank = Rank(self.visits as f64 / HALF_LIFE);
        self.ranks.insert((rank, id));
        self.entries.insert(id, Entry { expert, rank });
        free
    }

    /// Bytes of the experts held.
    pub(crate) fn bytes_used(&self) -> usize {
        self.bytes_used
    }

    /// Look-ups that found their expert, and that did not.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.hits, self.misses)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::ExpertLayout;
    use super::*;
    use crate::tensor::{DType, MatrixShape};

    fn expert(bytes: usize) -> Arc<Expert> {
        let shape = |rows| MatrixShape { dtype: DType::F32, rows, cols: 1 };
        let layout = ExpertLayout { gate: shape(1), up: shape(1), down: shape(bytes / 4 - 2) };
        Arc::new(Expert { bytes: AlignedBytes::zeroed(bytes), layout: Arc::new(layout) })
    }

    fn id(expert: u32) -> ExpertId {
        ExpertId { layer: 0, expert }
    }

    #[test]
    fn what_is_used_often_survives_what_was_used_last() {
        let mut cache = ExpertCache::new(3 * 64);
        for e in 0..3 {
            cache.insert(id(e), expert(64));
        }
        for _ in 0..5 {
            cache.tick();
            assert!(cache.find(id(0)).is_some());
        }
        cache.tick();
        assert!(cache.find(id(2)).is_some());
        cache.insert(id(7), expert(64));
        assert!(cache.find(id(1)).is_none(), "the coldest went");
        assert!(cache.find(id(0)).is_some() && cache.find(id(2)).is_some());
    }

    #[test]
    fn old_popularity_fades() {
        let mut cache = ExpertCache::new(2 * 64);
        cache.insert(id(0), expert(64));
        for _ in 0..100 {
            assert!(cache.find(id(0)).is_some());
        }
        for _ in 0..(20.0 * HALF_LIFE) as u64 {
            cache.tick();
        }
        cache.insert(id(1), expert(64));
        cache.insert(id(2), expert(64));
        assert!(cache.find(id(0)).is_none());
        assert!(cache.find(id(1)).is_some() && cache.find(id(2)).is_some());
    }

    #[test]
    fn an_expert_that_never_fits_is_given_back() {
        let mut cache = ExpertCache::new(32);
        assert_eq!(cache.insert(id(0), expert(64)).map(|b| b.len()), Some(64));
        assert_eq!(cache.bytes_used(), 0);
    }

    #[test]
    fn an_expert_outlives_its_eviction() {
        let mut cache = ExpertCache::new(64);
        cache.insert(id(0), expert(64));
        let held = cache.find(id(0)).expect("just inserted");
        assert!(cache.insert(id(1), expert(64)).is_none(), "the buffer is still in use");
        assert_eq!(held.weights().gate.shape.rows, 1);
    }

    proptest! {
        #[test]
        fn never_holds_more_than_its_budget(
            budget in 0_u64..2000,
            uses in prop::collection::vec((0_u32..20, 3_usize..20), 0..200),
        ) {
            let mut cache = ExpertCache::new(budget);
            for (e, words) in uses {
                cache.tick();
                if cache.find(id(e)).is_none() {
                    cache.insert(id(e), expert(4 * words));
                }
                prop_assert!(cache.bytes_used() as u64 <= budget);
                prop_assert_eq!(cache.ranks.len(), cache.entries.len());
                let held: usize = cache.entries.values().map(|e| e.expert.len()).sum();
                prop_assert_eq!(cache.bytes_used(), held);
            }
        }
    }
}
