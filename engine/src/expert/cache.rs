//! Keeps experts in memory, bounded by bytes, in slots that are allocated once.
//!
//! Which ones stay is a [`super::policy::Policy`]'s choice. All slots have the size of the largest expert, in whole
//! pages: where layers differ in type some of it is unused, but no expert ever waits for the right hole.
//!
//! Invariants: `bytes_used <= bytes_max` after every call. Not here: reading (`store`), deciding which
//! experts are wanted (`model`).

use std::sync::Arc;

use super::policy::{self, Place, Residents};
use super::{Expert, ExpertId, ExpertStore};

/// Experts in memory.
pub(crate) struct ExpertCache {
    residents: Residents,
    entries: Vec<Option<Arc<Expert>>>,
    /// Number of the first expert of each layer, and the end.
    first: Vec<u32>,
    slot_bytes: usize,
    slots: usize,
    hits: u64,
    misses: u64,
}

impl ExpertCache {
    /// An empty cache of at most `bytes_max` bytes in slots of `slot_bytes` for the experts of a store.
    pub(crate) fn new(store: &ExpertStore, slot_bytes: usize, bytes_max: u64) -> Self {
        let first = store.first_numbers();
        let experts = *first.last().expect("the end is there") as usize;
        let policy = policy::CHOSEN.start(experts);
        let max = (bytes_max / slot_bytes.max(1) as u64).min(experts as u64) as usize;
        ExpertCache {
            residents: Residents::new(policy, experts, max),
            entries: (0..experts).map(|_| None).collect(),
            first,
            slot_bytes,
            slots: max,
            hits: 0,
            misses: 0,
        }
    }

    /// Says that a layer is visited by so many rows: time goes on.
    pub(crate) fn tick(&mut self, rows: usize) {
        self.residents.tick(u32::try_from(rows).unwrap_or(u32::MAX));
    }

    /// The expert, if it is here; counts the hit or the miss. So many rows want it.
    pub(crate) fn find(&mut self, id: ExpertId, rows: usize) -> Option<Arc<Expert>> {
        self.chosen(id, rows);
        let number = self.number(id);
        let found = self.entries[number as usize].clone();
        match &found {
            Some(_) => self.hits += 1,
            None => self.misses += 1,
        }
        found
    }

    /// Says that so many rows chose an expert, whether they get it or not.
    pub(crate) fn chosen(&mut self, id: ExpertId, rows: usize) {
        let number = self.number(id);
        self.residents.used(number, u32::try_from(rows).unwrap_or(u32::MAX));
    }

    /// Whether an expert is here; counts nothing.
    pub(crate) fn has(&self, id: ExpertId) -> bool {
        self.residents.has(self.number(id))
    }

    /// Takes in an expert that was read. Returns the one that has no place: another, this one, or none.
    pub(crate) fn insert(&mut self, id: ExpertId, expert: Arc<Expert>) -> Option<Arc<Expert>> {
        let number = self.number(id);
        let out = match self.residents.landed(number) {
            Place::None => return Some(expert),
            Place::Free => None,
            Place::Of(victim) => {
                Some(self.entries[victim as usize].take().expect("residents have their entry"))
            }
        };
        self.entries[number as usize] = Some(expert);
        out
    }

    /// Experts that fit.
    pub(crate) fn slots(&self) -> usize {
        self.slots
    }

    /// Bytes of the slots that hold experts.
    pub(crate) fn bytes_used(&self) -> usize {
        self.residents.count() * self.slot_bytes
    }

    /// Look-ups that found their expert, and that did not.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.hits, self.misses)
    }

    fn number(&self, id: ExpertId) -> u32 {
        self.first[id.layer as usize] + id.expert
    }
}
