//! Keeps states of conversations, so that the next turn reads only what is new.
//!
//! A recurrent state cannot be rewound: where a later prompt leaves the tokens of an earlier one, only
//! a copy that was taken before that point is of use. So copies are taken at the end of the system
//! prompt, at the end of the messages, every some thousand tokens between, and of where a reply ended;
//! keys and values are shared between them (`kv_cache`), so that each costs little more than its
//! recurrent states. A model of full attention alone can be rewound: any kept state serves up to where
//! the prompts part.
//!
//! Invariants: a state is found only by the scope that it was kept under and by exactly its tokens, which
//! are compared one by one; never more than `memory_bytes` are held, shared parts counted once; what
//! stays unused for `expire` goes, on disk too; on disk nothing can be read without a key that ends
//! with the process (`disk`). A restored state gives the bits that computing anew would give. Inside:
//! `store` (what is held, and what goes first), `disk` (files and their thread), `sealed` (what is in
//! a file).

mod disk;
mod sealed;
mod store;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::EngineError;
use crate::tokenizer::TokenId;
use disk::Disk;
use sealed::Seal;
use store::{Entry, Place, Scope, Spill};

/// Shorter states are computed again sooner than they are looked after.
pub(crate) const TOKENS_MIN: usize = 32;
/// Tokens between two states of a long text, where nobody says.
const EVERY_TOKENS_DEFAULT: usize = 2048;
/// How long a state that nobody asks for is kept, where nobody says.
const EXPIRE_DEFAULT: Duration = Duration::from_secs(60 * 60);
/// States held at most; looking for one takes time with their number.
const ENTRIES_MAX: usize = 4096;

/// How many states of conversations are kept, where, and how long.
#[derive(Clone, Debug, Default)]
pub struct CheckpointOptions {
    /// Bytes in memory; 0: none are kept. Default: a share of the budget, see [`crate::plan`].
    pub memory_bytes: Option<u64>,
    /// Where states go, encrypted, for which memory has no room; default: nowhere.
    pub disk: Option<CheckpointDisk>,
    /// Tokens between two states of a long text; default 2,048.
    pub every_tokens: Option<usize>,
    /// How long a state is kept that nobody asks for; default: an hour.
    pub expire: Option<Duration>,
}

impl CheckpointOptions {
    /// Tokens between two states of a long text.
    pub(crate) fn every_tokens(&self) -> usize {
        self.every_tokens.unwrap_or(EVERY_TOKENS_DEFAULT).max(TOKENS_MIN)
    }
}

/// A folder for states and how much of it they may take.
#[derive(Clone, Debug)]
pub struct CheckpointDisk {
    /// Made if it is not there. Left-overs of a crash, which nobody can read, are deleted.
    pub folder: PathBuf,
    /// Bytes of all files.
    pub bytes: u64,
}

/// Whose states a request may use, and what may become of its own.
#[derive(Clone)]
pub struct Reuse {
    /// Requests that give the same bytes may continue each other's text, and notice that by the time it
    /// takes.
    pub scope: Arc<[u8]>,
    /// States of its prompt may be written to disk. Those of replies never are: nobody has judged the
    /// text yet.
    pub on_disk: bool,
}

/// What became of kept states since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckpointUse {
    /// Generations that began with a kept state.
    pub hits: u64,
    /// Those that might have and found none.
    pub misses: u64,
    /// Tokens that were not computed again.
    pub restored_tokens: u64,
    /// States that were kept.
    pub kept: u64,
    /// States that went for want of room.
    pub evicted: u64,
    /// States that went because nobody asked for them.
    pub expired: u64,
    /// States that were read back from disk.
    pub from_disk: u64,
    /// Bytes that states hold in memory, and may hold.
    pub memory_bytes: u64,
    /// See `memory_bytes`.
    pub memory_bytes_max: u64,
    /// Bytes of states on disk.
    pub disk_bytes: u64,
}

/// What can be kept of one conversation.
pub(crate) trait State: Clone + Send + Sync + 'static {
    /// Tokens that were read.
    fn position(&self) -> usize;

    /// Tells address and bytes of each part that copies share, and returns the bytes of all else.
    fn pieces(&self, piece: &mut dyn FnMut(usize, u64)) -> u64;

    /// The state as it was after fewer tokens; `None` if only a copy could tell.
    fn rewound(&self, position: usize) -> Option<Self>;

    /// Writes all of it.
    fn write(&self, out: &mut dyn Write) -> io::Result<()>;

    /// Becomes what was written, from a state that has read nothing.
    fn read(&mut self, input: &mut dyn Read) -> io::Result<()>;

    /// Bytes that `write` writes, at most.
    fn written_bytes_max(&self) -> u64 {
        let mut shared = 0;
        let own = self.pieces(&mut |_, bytes| shared += bytes);
        own + shared + 8
    }

    /// Bytes that a copy takes of its own.
    fn own_bytes(&self) -> u64 {
        self.pieces(&mut |_, _| {})
    }
}

/// A place within the tokens of a step where the state is wanted as it is there.
pub(crate) struct Mark<S> {
    /// Tokens of the step before it, at least one.
    pub(crate) at: usize,
    /// Filled by the pass.
    pub(crate) taken: Option<S>,
}

/// Why a state is kept at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// What all conversations of an application begin with.
    System,
    /// All messages so far: the next turn begins with them whatever the template makes of the reply.
    Messages,
    /// One of many in a long text.
    Between,
    /// Where a reply ended.
    Reply,
}

/// A place in a prompt at which the state is to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Point {
    /// Tokens before it.
    pub(crate) at: usize,
    pub(crate) kind: Kind,
}

/// A state that was reached.
pub(crate) struct Kept<'a, S> {
    pub(crate) reuse: &'a Reuse,
    /// Its first `state.position()` are what the state has read.
    pub(crate) tokens: Arc<[TokenId]>,
    pub(crate) kind: Kind,
    /// The generation that reached it.
    pub(crate) turn: u64,
    pub(crate) state: S,
}

/// A state that was found for a prompt.
pub(crate) enum Found<S> {
    /// Nothing.
    Nothing,
    /// It is here.
    Here(S),
    /// It is being read.
    Coming(Coming<S>),
}

/// A state on its way from disk.
pub(crate) struct Coming<S>(Receiver<Option<S>>);

impl<S> Coming<S> {
    /// `None`: not yet. `Some(None)`: it cannot be read.
    pub(crate) fn poll(&self) -> Option<Option<S>> {
        match self.0.try_recv() {
            Ok(state) => Some(state),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(None),
        }
    }
}

/// Kept states of all conversations of one model. One thread uses it.
pub(crate) struct Checkpoints<S> {
    scopes: HashMap<Arc<[u8]>, Scope<S>>,
    memory_bytes_max: u64,
    every_tokens: usize,
    expire: Duration,
    /// Counts look-ups: what has the lowest number was used longest ago.
    order: u64,
    next_id: u64,
    /// Of copies that a pass is about to make.
    reserved: u64,
    /// `None`: not known yet.
    rewinds: Option<bool>,
    disk: Option<Disk<S>>,
    counts: Arc<Mutex<CheckpointUse>>,
}

/// What callers may ask at any time.
#[derive(Clone, Default)]
pub(crate) struct Counts(Arc<Mutex<CheckpointUse>>);

impl Counts {
    pub(crate) fn now(&self) -> CheckpointUse {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: State> Checkpoints<S> {
    /// An empty store of at most so many bytes. `wake` is called when the disk has done something.
    /// Errors when the disk's folder cannot be used.
    pub(crate) fn new(
        memory_bytes_max: u64,
        options: &CheckpointOptions,
        counts: &Counts,
        wake: impl Fn() + Send + 'static,
    ) -> Result<Checkpoints<S>, EngineError> {
        let disk = options.disk.as_ref().filter(|_| memory_bytes_max > 0);
        let disk = disk.map(|disk| Disk::start(disk, wake)).transpose()?;
        let store = Checkpoints {
            scopes: HashMap::new(),
            memory_bytes_max,
            every_tokens: options.every_tokens(),
            expire: options.expire.unwrap_or(EXPIRE_DEFAULT),
            order: 0,
            next_id: 0,
            reserved: 0,
            rewinds: None,
            disk,
            counts: counts.0.clone(),
        };
        store.count(|_| {});
        Ok(store)
    }

    /// Whether anything is ever kept.
    pub(crate) fn is_on(&self) -> bool {
        self.memory_bytes_max > 0
    }

    /// Tokens between two states of a long text; `None` where any state can be rewound.
    pub(crate) fn every_tokens(&self) -> Option<usize> {
        (self.rewinds != Some(true)).then_some(self.every_tokens)
    }

    /// The state that has read most of a prompt, one token left out: the last must be computed to say
    /// what comes next. `fresh` is a state that has read nothing.
    pub(crate) fn find(
        &mut self,
        reuse: &Reuse,
        prompt: &[TokenId],
        fresh: impl Fn() -> S,
        now: Instant,
    ) -> Found<S> {
        let rewinds = *self.rewinds.get_or_insert_with(|| fresh().rewound(0).is_some());
        self.order += 1;
        let (order, wanted) = (self.order, &prompt[..prompt.len() - 1]);
        let scope = self.scopes.get_mut(&reuse.scope);
        let best = scope.and_then(|scope| scope.longest(wanted, rewinds, order, now));
        let found = match best {
            None => Found::Nothing,
            Some((entry, position)) => match &entry.place {
                Place::Memory { state, .. } if position == state.position() => {
                    Found::Here(S::clone(state))
                }
                Place::Memory { state, .. } => {
                    state.rewound(position).map_or(Found::Nothing, Found::Here)
                }
                Place::Disk(file) => {
                    let coming = self
                        .disk
                        .as_ref()
                        .and_then(|disk| disk.read(entry.id, file.clone(), fresh(), position));
                    coming.map_or(Found::Nothing, |coming| Found::Coming(Coming(coming)))
                }
            },
        };
        match &found {
            Found::Nothing => self.count(|counts| counts.misses += 1),
            Found::Here(state) => self.count_hit(state.position()),
            // Counted when it is here.
            Found::Coming(_) => {}
        }
        found
    }

    /// What came, or did not, of a state that was on its way.
    pub(crate) fn count_arrival(&mut self, state: Option<&S>) {
        match state {
            None => self.count(|counts| counts.misses += 1),
            Some(state) => {
                self.count_hit(state.position());
                self.count(|counts| counts.from_disk += 1);
            }
        }
    }

    fn count_hit(&self, tokens: usize) {
        self.count(|counts| {
            counts.hits += 1;
            counts.restored_tokens += tokens as u64;
        });
    }

    /// Makes room for a copy that a pass takes; `false`: there is none, and it must not be taken.
    pub(crate) fn reserve(&mut self, bytes: u64) -> bool {
        let fits = bytes <= self.memory_bytes_max && self.make_room(|_| bytes, None);
        if fits {
            self.reserved += bytes;
        }
        fits
    }

    /// The pass is over: its copies are kept now, or dropped.
    pub(crate) fn end_reservations(&mut self) {
        self.reserved = 0;
    }

    /// Keeps a state, if it has room when others have gone that are of less use.
    pub(crate) fn keep(&mut self, kept: Kept<'_, S>, now: Instant) {
        let Kept { reuse, tokens, kind, turn, state } = kept;
        let position = state.position();
        if position < TOKENS_MIN || position > tokens.len() || !self.is_on() {
            return;
        }
        self.order += 1;
        let order = self.order;
        let scope = self.scopes.entry(reuse.scope.clone()).or_default();
        scope.outdate(&tokens[..position], turn);
        if let Some(known) = scope.exactly(&tokens[..position]) {
            (known.used, known.order, known.turn, known.low) = (now, order, turn, false);
            known.on_disk &= reuse.on_disk;
            known.kind = known.kind.min(kind);
            return;
        }
        let cost = |scope: Option<&Scope<S>>| Scope::cost(scope, &tokens, &state);
        if cost(None) > self.memory_bytes_max || !self.make_room(cost, Some(&reuse.scope)) {
            self.forget_if_empty(&reuse.scope);
            return;
        }
        self.next_id += 1;
        let entry = Entry {
            id: self.next_id,
            tokens,
            position,
            kind,
            turn,
            low: kind == Kind::Between,
            on_disk: reuse.on_disk && kind != Kind::Reply,
            used: now,
            order,
            place: Place::Memory { state: Arc::new(state), copy: Spill::None },
        };
        self.scopes.entry(reuse.scope.clone()).or_default().add(entry);
        self.count(|counts| counts.kept += 1);
        self.spill();
    }

    /// Lets go of what nobody asked for in time, and hears what the disk did.
    pub(crate) fn tidy(&mut self, now: Instant) {
        self.hear_disk();
        let expire = self.expire;
        let old = |entry: &Entry<S>| now.saturating_duration_since(entry.used) >= expire;
        let mut gone = 0;
        for scope in self.scopes.values_mut() {
            gone += scope.remove_where(|entry| old(entry) && !entry.is_being_written());
        }
        if gone > 0 {
            self.scopes.retain(|_, scope| !scope.entries.is_empty());
            self.count(|counts| counts.expired += gone);
        }
    }

    /// When `tidy` has something to do next, if nothing happens before.
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        let entries = self.scopes.values().flat_map(|scope| &scope.entries);
        entries.map(|entry| entry.used).min().map(|used| used + self.expire)
    }

    /// Forgets all: the model is loaded anew, and may be another one.
    pub(crate) fn clear(&mut self) {
        self.scopes.clear();
        self.reserved = 0;
        self.count(|_| {});
    }

    fn bytes(&self) -> u64 {
        self.reserved + self.scopes.values().map(|scope| scope.bytes).sum::<u64>()
    }

    fn forget_if_empty(&mut self, scope: &Arc<[u8]>) {
        if self.scopes.get(scope).is_some_and(|scope| scope.entries.is_empty()) {
            self.scopes.remove(scope);
        }
    }

    /// Lets states go until there is room for what something costs in a scope, of whose states parts may
    /// be shared. `false`: it cannot be had.
    fn make_room(
        &mut self,
        cost: impl Fn(Option<&Scope<S>>) -> u64,
        scope: Option<&Arc<[u8]>>,
    ) -> bool {
        loop {
            let more = cost(scope.and_then(|scope| self.scopes.get(scope)));
            let count: usize = self.scopes.values().map(|scope| scope.entries.len()).sum();
            if self.bytes().saturating_add(more) <= self.memory_bytes_max && count < ENTRIES_MAX {
                return true;
            }
            let Some((key, index)) = self.first_to_go() else { return false };
            let scope = self.scopes.get_mut(&key).expect("it was just found there");
            if scope.let_go(index) {
                self.count(|counts| counts.evicted += 1);
            }
            self.forget_if_empty(&key);
        }
    }

    /// What is of least use: of scopes that hold more than their share before others, so that nobody is
    /// pushed out by somebody else's many; superseded states before others; then what was used longest
    /// ago. Of what lies on disk only the tokens are here: that goes last.
    fn first_to_go(&self) -> Option<(Arc<[u8]>, usize)> {
        let share = self.memory_bytes_max / self.scopes.len().max(1) as u64;
        let all = self.scopes.iter().flat_map(|(key, scope)| {
            let modest = scope.bytes <= share;
            let entries = scope.entries.iter().enumerate();
            entries.map(move |(index, entry)| ((key, index), (modest, entry)))
        });
        let free = all.filter(|(_, (_, entry))| !entry.is_being_written());
        let first = free.min_by_key(|(_, (modest, entry))| {
            (matches!(entry.place, Place::Disk(_)), *modest, !entry.low, entry.order)
        });
        first.map(|((key, index), _)| (key.clone(), index))
    }

    /// Starts to write what would go next, once memory is half full: when room is needed it is too late.
    fn spill(&mut self) {
        let half = self.bytes() > self.memory_bytes_max / 2;
        let Some(disk) = self.disk.as_mut().filter(|disk| half && disk.is_idle()) else { return };
        let entries = self.scopes.values_mut().flat_map(|scope| &mut scope.entries);
        let wanted = entries.filter(|entry| entry.may_be_written() && !entry.low);
        let Some(entry) = wanted.min_by_key(|entry| entry.order) else { return };
        let Place::Memory { state, copy } = &mut entry.place else { return };
        let (id, state, plain_max) = (entry.id, state.clone(), state.written_bytes_max());
        let bytes = Seal::file_bytes(plain_max);
        let room = bytes <= disk.bytes_max();
        *copy = if room { Spill::Writing } else { Spill::Refused };
        if room {
            self.make_disk_room(bytes);
            if let Some(disk) = &mut self.disk {
                disk.write(id, state, plain_max);
            }
        }
    }

    /// Deletes files, least of use first, until so many bytes fit.
    fn make_disk_room(&mut self, bytes: u64) {
        let Some(disk) = &self.disk else { return };
        while disk.bytes_used().saturating_add(bytes) > disk.bytes_max() {
            let entries = self.scopes.values_mut().flat_map(|scope| &mut scope.entries);
            let filed = entries.filter(|entry| entry.file().is_some());
            let Some(entry) = filed.min_by_key(|entry| entry.order) else { return };
            if let Place::Memory { copy, .. } = &mut entry.place {
                *copy = Spill::Refused;
                continue;
            }
            let id = entry.id;
            self.scopes.values_mut().for_each(|scope| {
                scope.remove_where(|entry| entry.id == id);
            });
        }
    }

    fn hear_disk(&mut self) {
        let mut heard = false;
        while let Some(done) = self.disk.as_mut().and_then(Disk::done) {
            heard = true;
            let mut entries = self.scopes.values_mut().flat_map(|scope| &mut scope.entries);
            let mut entry = entries.find(|entry| entry.id == done.id);
            match (done.file, entry.as_mut().map(|entry| &mut entry.place)) {
                (Some(file), Some(Place::Memory { copy, .. })) => *copy = Spill::Written(file),
                (None, Some(Place::Memory { copy, .. })) => *copy = Spill::Refused,
                // A file that could not be read.
                (None, Some(Place::Disk(_))) => self.scopes.values_mut().for_each(|scope| {
                    scope.remove_where(|entry| entry.id == done.id);
                }),
                _ => {}
            }
            self.spill();
        }
        if heard {
            self.count(|_| {});
        }
    }

    /// A state is being written.
    #[cfg(test)]
    pub(crate) fn is_writing(&self) -> bool {
        self.scopes.values().flat_map(|scope| &scope.entries).any(Entry::is_being_written)
    }

    fn count(&self, change: impl FnOnce(&mut CheckpointUse)) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut counts);
        counts.memory_bytes = self.bytes();
        counts.memory_bytes_max = self.memory_bytes_max;
        counts.disk_bytes = self.disk.as_ref().map_or(0, Disk::bytes_used);
    }
}
