//! Brings the experts that a layer wants: hits at once, misses as their reads land.
//!
//! The misses of a layer are handed over together, then the caller computes with what is here while
//! they are read. A flash disk is fast only with several reads in flight; a read hides behind work of
//! the same layer, and behind the layer before where its gate could be guessed (`ahead`).
//!
//! Invariants: beside the cache at most as many experts are in memory as are read at once and ahead; a
//! failed read ends the visit only after every other read of it has come back, so that nothing lands in
//! a later visit; what is computed does not depend on what was here.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::ahead::{AHEAD_MAX, Ahead, Guess};
use super::cache::ExpertCache;
use super::readers::{Landed, Readers, Request};
use super::{Expert, ExpertId, ExpertStore};
use crate::clock::Clock;
use crate::error::EngineError;
#[cfg(test)]
use crate::io::ReadAt;
use crate::io::{Reading, Slots};

/// The experts of a model: a store, a cache before it, and the means to read.
pub(crate) struct Experts {
    store: Arc<ExpertStore>,
    cache: ExpertCache,
    readers: Readers,
    slots: Slots,
    ahead: Ahead,
    recorder: Option<Recorder>,
    #[cfg(test)]
    options: ExpertOptions,
    clock: Clock,
    bytes_read: u64,
    stalled: Duration,
    /// Look-ups that were spared.
    dropped: u64,
}

/// Told of every visit: layer, rows, and the experts with the rows of each.
pub(crate) type Recorder = Box<dyn FnMut(u32, usize, &[(u32, u32)]) + Send>;

/// How experts are brought.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ExpertOptions {
    pub(crate) reading: Reading,
    /// Most bytes that the cache holds.
    pub(crate) cache_bytes: u64,
    /// Read what the next layer's gate would choose.
    pub(crate) look_ahead: bool,
}

/// What a layer wants.
#[derive(Clone, Copy)]
pub(crate) struct Visit<'a> {
    pub(crate) layer: u32,
    /// Distinct experts, in file order.
    pub(crate) wanted: &'a [u32],
    /// First row of each among the rows of all experts, and the end.
    pub(crate) starts: &'a [usize],
    /// Rows (tokens) of the pass.
    pub(crate) rows: usize,
}

/// What the caller of a visit does.
pub(crate) enum Event<'a> {
    /// Name the experts that the next layer will want, likeliest first. Comes at most once, after the
    /// experts that are in memory, and only when it helps; naming none is fine.
    Guess(&'a mut Vec<Guess>),
    /// Compute with these experts; the numbers are indices into the wanted ones. Comes first for those
    /// that are in memory, possibly none, then for each as it lands.
    Compute(&'a [(usize, Arc<Expert>)]),
}

/// What was counted since the model was loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ReadCounts {
    /// Look-ups that found their expert in memory.
    pub(crate) hits: u64,
    /// Look-ups that did not.
    pub(crate) misses: u64,
    /// Bytes of experts that were read.
    pub(crate) bytes_read: u64,
    /// Time in which nothing was computed because a read was waited for.
    pub(crate) stalled: Duration,
    /// Bytes of experts in memory.
    pub(crate) cached_bytes: u64,
    /// Experts that were read ahead, and those of them that were wanted.
    pub(crate) read_ahead: u64,
    pub(crate) read_ahead_useful: u64,
    /// Look-ups that were spared: see [`Experts::leave_out`].
    pub(crate) dropped: u64,
}

impl ReadCounts {
    /// Share of look-ups that found their expert in memory; 0 before the first.
    pub(crate) fn hit_rate(&self) -> f64 {
        self.hits as f64 / (self.hits + self.misses).max(1) as f64
    }

    /// Share of what gates chose that was left out; 0 before the first.
    pub(crate) fn left_out(&self) -> f64 {
        self.dropped as f64 / (self.hits + self.misses + self.dropped).max(1) as f64
    }
}

/// A visit under way.
struct Open<'a> {
    visit: Visit<'a>,
    /// Not asked for yet.
    misses: VecDeque<(usize, ExpertId)>,
    /// Wanted, and read ahead since the layer before.
    coming: HashMap<ExpertId, usize>,
    /// Asked for and not landed, those in `coming` included.
    left: usize,
}

impl Experts {
    /// Starts the means to read over a store whose files are open for them.
    pub(crate) fn new(store: ExpertStore, options: ExpertOptions) -> Self {
        let store = Arc::new(store);
        let readers = Readers::start(&store, options.reading);
        let slot_bytes = store.slot_bytes();
        let cache = ExpertCache::new(&store, slot_bytes, options.cache_bytes);
        let holds_all = cache.slots() >= store.expert_count();
        let ahead = Ahead::new(options.look_ahead && !holds_all);
        let beside = Experts::slots_beside(readers.reading().depth);
        Experts {
            slots: Slots::new(slot_bytes, cache.slots() + beside),
            store,
            cache,
            readers,
            ahead,
            recorder: None,
            #[cfg(test)]
            options,
            clock: Clock::System,
            bytes_read: 0,
            stalled: Duration::ZERO,
            dropped: 0,
        }
    }

    /// Experts that are in memory beside the cache at most: those under way, the one that is being
    /// computed, those that were read ahead and those of them that were just taken.
    pub(crate) fn slots_beside(depth: usize) -> usize {
        depth + 1 + 2 * AHEAD_MAX
    }

    /// The store behind the cache.
    pub(crate) fn store(&self) -> &ExpertStore {
        &self.store
    }

    /// How experts are read.
    pub(crate) fn reading(&self) -> Reading {
        self.readers.reading()
    }

    /// Whether an expert is in memory, or on its way.
    pub(crate) fn is_near(&self, id: ExpertId) -> bool {
        self.cache.has(id) || self.ahead.has(id)
    }

    /// Says that so many rows chose an expert and do without it. The cache counts them, so that an
    /// expert that is missed often stays when it is read at last.
    pub(crate) fn leave_out(&mut self, id: ExpertId, rows: usize) {
        self.cache.chosen(id, rows);
        self.dropped += 1;
    }

    /// Whether a pass of so many rows will be asked for guesses.
    pub(crate) fn guesses(&self, rows: usize) -> bool {
        self.ahead.is_on(rows)
    }

    /// Has every visit told to `recorder` from now on.
    pub(crate) fn record(&mut self, recorder: Recorder) {
        self.recorder = Some(recorder);
    }

    /// Starts anew with each file as `wrap` changes it: for tests with disks that fail.
    #[cfg(test)]
    pub(crate) fn wrap_files(&mut self, wrap: impl Fn(Arc<dyn ReadAt>) -> Arc<dyn ReadAt>) {
        let store = ExpertStore::clone(&self.store).wrapped(wrap);
        *self = Experts::new(store, self.options);
    }

    /// What was counted so far.
    pub(crate) fn counts(&self) -> ReadCounts {
        let (hits, misses) = self.cache.counts();
        ReadCounts {
            hits,
            misses,
            bytes_read: self.bytes_read,
            stalled: self.stalled,
            cached_bytes: self.cache.bytes_used() as u64,
            read_ahead: self.ahead.read_total,
            read_ahead_useful: self.ahead.useful_total,
            dropped: self.dropped,
        }
    }

    /// Has the caller compute with all experts of a visit; see [`Event`].
    pub(crate) fn visit(
        &mut self,
        visit: Visit<'_>,
        mut on: impl FnMut(Event<'_>),
    ) -> Result<(), EngineError> {
        self.tell(&visit);
        self.cache.tick(visit.rows);
        self.ahead.judge(visit.layer, visit.wanted);
        while let Some(landed) = self.readers.poll() {
            self.took_ahead(landed, None);
        }
        let (hits, was_ahead, mut open) = self.look_up(visit);
        self.submit(&mut open)?;
        on(Event::Compute(&hits));
        drop(hits);
        if self.ahead.is_on(visit.rows) {
            let mut guessed = Vec::new();
            on(Event::Guess(&mut guessed));
            self.read_ahead(guessed)?;
        }
        was_ahead.into_iter().for_each(|(id, expert)| self.keep(id, expert));
        let result = self.take_all(&mut open, &mut on);
        for expert in self.ahead.layer_over(visit.layer) {
            self.release(expert);
        }
        result
    }

    fn tell(&mut self, visit: &Visit<'_>) {
        let Some(recorder) = &mut self.recorder else { return };
        let rows = visit.starts.windows(2).map(|range| (range[1] - range[0]) as u32);
        let experts: Vec<_> = visit.wanted.iter().copied().zip(rows).collect();
        recorder(visit.layer, visit.rows, &experts);
    }

    /// What is here, which of that was read ahead, and the rest.
    #[expect(clippy::type_complexity, reason = "three lists that are taken apart at once")]
    fn look_up<'a>(
        &mut self,
        visit: Visit<'a>,
    ) -> (Vec<(usize, Arc<Expert>)>, Vec<(ExpertId, Arc<Expert>)>, Open<'a>) {
        let (mut hits, mut was_ahead) = (Vec::with_capacity(visit.wanted.len()), Vec::new());
        let (misses, coming) = (VecDeque::new(), HashMap::new());
        let mut open = Open { visit, misses, coming, left: 0 };
        for (index, expert) in visit.wanted.iter().enumerate() {
            let id = ExpertId { layer: visit.layer, expert: *expert };
            let rows = visit.starts[index + 1] - visit.starts[index];
            if let Some(expert) = self.cache.find(id, rows) {
                hits.push((index, expert));
            } else if let Some(expert) = self.ahead.take(id) {
                hits.push((index, Arc::clone(&expert)));
                was_ahead.push((id, expert));
            } else if self.ahead.is_in_flight(id) {
                open.coming.insert(id, index);
                open.left += 1;
            } else {
                open.misses.push_back((index, id));
            }
        }
        (hits, was_ahead, open)
    }

    /// Asks for as many misses as may be under way.
    fn submit(&mut self, open: &mut Open<'_>) -> Result<(), EngineError> {
        let count = self.readers.room().min(open.misses.len());
        let take = |(index, id)| Request { id, index, slot: self.slots.take() };
        let requests: Vec<_> = open.misses.drain(..count).map(take).collect();
        open.left += count;
        self.readers.submit(requests)
    }

    fn read_ahead(&mut self, guesses: Vec<Guess>) -> Result<(), EngineError> {
        // Half of the places stay free for what the next layer really wants.
        let spare = self.readers.room().saturating_sub(self.reading().depth / 2);
        let room = spare.min(self.ahead.room());
        let mut requests = Vec::new();
        for guess in guesses {
            let id = guess.id;
            if self.cache.has(id) || self.ahead.has(id) || !self.ahead.guessed(guess) {
                continue;
            }
            if requests.len() < room {
                self.ahead.asked(id);
                requests.push(Request { id, index: 0, slot: self.slots.take() });
            }
        }
        self.readers.submit(requests)
    }

    /// Takes all that was asked for, and has it computed.
    fn take_all(
        &mut self,
        open: &mut Open<'_>,
        on: &mut impl FnMut(Event<'_>),
    ) -> Result<(), EngineError> {
        let mut failure = None;
        while open.left > 0 || (failure.is_none() && !open.misses.is_empty()) {
            let waiting = self.clock.now();
            let landed = self.readers.wait()?;
            self.stalled += self.clock.since(waiting);
            let Some((index, landed)) = self.classified(landed, open) else { continue };
            open.left -= 1;
            match landed.result {
                Ok(()) => {
                    if failure.is_none() {
                        self.submit(open)?;
                    }
                    let expert = self.read(landed.id, landed.slot);
                    on(Event::Compute(&[(index, Arc::clone(&expert))]));
                    self.keep(landed.id, expert);
                }
                Err(error) => {
                    self.slots.give(landed.slot);
                    failure = failure.or(Some(error));
                }
            }
        }
        failure.map_or(Ok(()), Err)
    }

    /// What landed with its place in the visit; `None` if it was read ahead for another layer.
    fn classified(&mut self, landed: Landed, open: &mut Open<'_>) -> Option<(usize, Landed)> {
        if !self.ahead.is_in_flight(landed.id) {
            return Some((landed.index, landed));
        }
        match open.coming.remove(&landed.id) {
            Some(index) => {
                self.ahead.landed(landed.id);
                self.ahead.was_useful();
                Some((index, landed))
            }
            None => {
                self.took_ahead(landed, Some(open.visit.layer));
                None
            }
        }
    }

    /// Keeps what was read ahead until its layer comes; what came too late or not at all is nobody's.
    fn took_ahead(&mut self, landed: Landed, passing: Option<u32>) {
        let was_ahead = self.ahead.landed(landed.id);
        debug_assert!(was_ahead, "nothing else is under way between visits");
        if landed.result.is_ok() && passing != Some(landed.id.layer) {
            let expert = self.read(landed.id, landed.slot);
            self.ahead.keep(landed.id, expert);
        } else {
            self.slots.give(landed.slot);
        }
    }

    /// An expert from the slot that it was read into.
    fn read(&mut self, id: ExpertId, slot: crate::io::Slot) -> Arc<Expert> {
        let expert = self.store.expert(id, slot);
        self.bytes_read += expert.len() as u64;
        Arc::new(expert)
    }

    fn keep(&mut self, id: ExpertId, expert: Arc<Expert>) {
        if let Some(out) = self.cache.insert(id, expert) {
            self.release(out);
        }
    }

    fn release(&mut self, expert: Arc<Expert>) {
        match Arc::into_inner(expert) {
            Some(expert) => self.slots.give(expert.into_slot()),
            None => self.slots.lose(),
        }
    }
}

#[cfg(test)]
mod tests;
