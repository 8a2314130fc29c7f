//! The kept states of one scope, and exactly what they take.
//!
//! States that began alike share blocks of keys and values; such a block is counted once, under its
//! address, for as long as one of them is here. Nothing is shared between scopes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use super::disk::File;
use super::{Kind, State, TOKENS_MIN};
use crate::tokenizer::TokenId;

/// What is kept under one scope.
pub(super) struct Scope<S> {
    pub(super) entries: Vec<Entry<S>>,
    /// Address of a shared part → how many states hold it, its bytes.
    pieces: HashMap<usize, (u32, u64)>,
    /// Of all entries, shared parts counted once.
    pub(super) bytes: u64,
}

/// A kept state.
pub(super) struct Entry<S> {
    pub(super) id: u64,
    pub(super) tokens: Arc<[TokenId]>,
    /// How many of the tokens the state has read.
    pub(super) position: usize,
    pub(super) kind: Kind,
    /// The generation that reached it last.
    pub(super) turn: u64,
    /// A later turn goes on from it, or there are many like it: it goes before others.
    pub(super) low: bool,
    pub(super) on_disk: bool,
    pub(super) used: Instant,
    pub(super) order: u64,
    pub(super) place: Place<S>,
}

/// Where a state is.
pub(super) enum Place<S> {
    Memory { state: Arc<S>, copy: Spill },
    Disk(File),
}

/// Whether there is a copy on disk, too.
pub(super) enum Spill {
    None,
    Writing,
    Written(File),
    /// There was no room for it, or no disk.
    Refused,
}

impl<S> Default for Scope<S> {
    fn default() -> Scope<S> {
        Scope { entries: Vec::new(), pieces: HashMap::new(), bytes: 0 }
    }
}

impl<S> Entry<S> {
    pub(super) fn read(&self) -> &[TokenId] {
        &self.tokens[..self.position]
    }

    pub(super) fn is_being_written(&self) -> bool {
        matches!(self.place, Place::Memory { copy: Spill::Writing, .. })
    }

    /// A copy on disk is allowed, and there is none yet.
    pub(super) fn may_be_written(&self) -> bool {
        let unwritten = matches!(self.place, Place::Memory { copy: Spill::None, .. });
        unwritten && self.on_disk && matches!(self.kind, Kind::System | Kind::Messages)
    }

    /// Its file, if there is one.
    pub(super) fn file(&self) -> Option<&File> {
        match &self.place {
            Place::Disk(file) | Place::Memory { copy: Spill::Written(file), .. } => Some(file),
            Place::Memory { .. } => None,
        }
    }
}

/// Bytes of an entry beside what it holds, its place in a scope's lists included.
fn entry_bytes<S>() -> u64 {
    (2 * size_of::<Entry<S>>()) as u64
}

/// Bytes of a shared part beside itself: its place in the table.
pub(super) const PIECE_BYTES: u64 = 48;

/// Tells the shared parts of an entry and returns the bytes of its own.
fn pieces_of<S: State>(
    tokens: &Arc<[TokenId]>,
    state: Option<&S>,
    piece: &mut dyn FnMut(usize, u64),
) -> u64 {
    piece(tokens.as_ptr().addr(), size_of_val(&**tokens) as u64);
    entry_bytes::<S>() + state.map_or(0, |state| state.pieces(piece))
}

impl<S: State> Scope<S> {
    /// Bytes that a state would add to what a scope holds.
    pub(super) fn cost(scope: Option<&Scope<S>>, tokens: &Arc<[TokenId]>, state: &S) -> u64 {
        let known = |address: usize| scope.is_some_and(|s| s.pieces.contains_key(&address));
        let mut shared = 0;
        let own = pieces_of(tokens, Some(state), &mut |address, bytes| {
            if !known(address) {
                shared += bytes + PIECE_BYTES;
            }
        });
        own + shared
    }

    pub(super) fn add(&mut self, entry: Entry<S>) {
        let state = match &entry.place {
            Place::Memory { state, .. } => Some(&**state),
            Place::Disk(_) => None,
        };
        self.account(&entry.tokens, state);
        self.entries.push(entry);
    }

    fn account(&mut self, tokens: &Arc<[TokenId]>, state: Option<&S>) {
        let (pieces, mut shared) = (&mut self.pieces, 0);
        let own = pieces_of(tokens, state, &mut |address, bytes| {
            let (holders, _) = pieces.entry(address).or_insert((0, bytes));
            if *holders == 0 {
                shared += bytes + PIECE_BYTES;
            }
            *holders += 1;
        });
        self.bytes += own + shared;
    }

    fn discount(&mut self, tokens: &Arc<[TokenId]>, state: Option<&S>) {
        let (pieces, mut shared) = (&mut self.pieces, 0);
        let own = pieces_of(tokens, state, &mut |address, _| {
            let (holders, bytes) = pieces.get_mut(&address).expect("it was counted when added");
            *holders -= 1;
            if *holders == 0 {
                shared += *bytes + PIECE_BYTES;
                pieces.remove(&address);
            }
        });
        self.bytes -= own + shared;
    }

    fn remove(&mut self, index: usize) {
        let entry = self.entries.swap_remove(index);
        let state = match &entry.place {
            Place::Memory { state, .. } => Some(&**state),
            Place::Disk(_) => None,
        };
        self.discount(&entry.tokens, state);
    }

    /// Removes entries and returns how many.
    pub(super) fn remove_where(&mut self, gone: impl Fn(&Entry<S>) -> bool) -> u64 {
        let mut count = 0;
        for index in (0..self.entries.len()).rev() {
            if gone(&self.entries[index]) {
                self.remove(index);
                count += 1;
            }
        }
        count
    }

    /// Lets a state go from memory; `true` if it is then nowhere else.
    pub(super) fn let_go(&mut self, index: usize) -> bool {
        let entry = &mut self.entries[index];
        let Some(file) = entry.file().cloned() else {
            self.remove(index);
            return true;
        };
        match std::mem::replace(&mut entry.place, Place::Disk(file)) {
            Place::Memory { state, .. } => {
                let tokens = entry.tokens.clone();
                self.discount(&tokens, Some(&state));
                self.account(&tokens, None);
                false
            }
            Place::Disk(_) => {
                self.remove(index);
                true
            }
        }
    }

    /// The entry with exactly these tokens.
    pub(super) fn exactly(&mut self, tokens: &[TokenId]) -> Option<&mut Entry<S>> {
        self.entries.iter_mut().find(|entry| entry.read() == tokens)
    }

    /// Marks the states of earlier turns that a turn with these tokens goes on from.
    pub(super) fn outdate(&mut self, tokens: &[TokenId], turn: u64) {
        for entry in &mut self.entries {
            let earlier = entry.turn != turn && entry.kind != Kind::System;
            entry.low |=
                earlier && tokens.len() > entry.position && tokens.starts_with(entry.read());
        }
    }

    /// The entry that serves most of the wanted tokens, and how many. What was used is noted, with what
    /// stands before it: an application's system prompt is in use as long as its conversations are.
    pub(super) fn longest(
        &mut self,
        wanted: &[TokenId],
        rewinds: bool,
        order: u64,
        now: Instant,
    ) -> Option<(&Entry<S>, usize)> {
        let serves = |entry: &Entry<S>| match entry.read() {
            read if wanted.starts_with(read) => read.len(),
            read if rewinds => read.iter().zip(wanted).take_while(|(a, b)| a == b).count(),
            _ => 0,
        };
        let here = |entry: &Entry<S>| matches!(entry.place, Place::Memory { .. });
        let all = self.entries.iter().enumerate();
        let served = all.map(|(index, entry)| (serves(entry), here(entry), index));
        let (position, _, index) = served.max().filter(|(served, ..)| *served >= TOKENS_MIN)?;
        for (other, entry) in self.entries.iter_mut().enumerate() {
            if other == index || (entry.kind == Kind::System && wanted.starts_with(entry.read())) {
                (entry.used, entry.order) = (now, order);
            }
        }
        Some((&self.entries[index], position))
    }
}
