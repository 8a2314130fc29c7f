//! Remembers which conversations have held never-cloud text, without keeping any of it.
//!
//! A turn or session is kept as a keyed fingerprint (HMAC-SHA-256 under a random key of this
//! process, cut to 128 bits), scoped to tenant and caller. A later request that brings such a turn
//! or session is tainted even if the telling part was cut off, and stays private.
//!
//! What is remembered of a never-cloud request: its session; every turn that holds what made it so;
//! longer turns that stood beside it; the reply. Short turns ("yes, please") alone are not, or they
//! would taint every conversation of an application.
//!
//! Invariants: at most `FINGERPRINTS_MAX` are kept; once one had to be forgotten, the answer for a
//! conversation that is not found is "unknown", never "clean". State lives in memory: it ends with
//! the process, unless replicas share one. Then fingerprints are made under a key that all of them have,
//! and a conversation with a history is assumed to be tainted while the shared state is away.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use ring::hmac;
use ring::rand::SystemRandom;
use sluice_policies::{Prompt, Role};

use crate::identity::Caller;
use crate::shared_state::{Fingerprint, SharedState};

/// Fingerprints kept; at about 48 bytes each this is 12 MiB.
const FINGERPRINTS_MAX: usize = 1 << 18;
/// A turn that holds nothing private by itself is remembered from this length on, bytes.
const TURN_BYTES_MIN: usize = 64;

/// What the store knows about a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taint {
    /// Nothing of it is remembered as never-cloud.
    Clean,
    /// It has held never-cloud text.
    Tainted,
    /// It has a history, and what other replicas know of it cannot be asked now: it counts as tainted,
    /// and is not remembered as such.
    Assumed,
    /// It has a history, and the store has had to forget: nobody can tell.
    Unknown,
}

/// Fingerprints of never-cloud conversations.
pub struct TaintStore {
    key: hmac::Key,
    known: Mutex<Known>,
    fingerprints_max: usize,
    shared: Option<Arc<SharedState>>,
}

#[derive(Default)]
struct Known {
    fingerprints: HashSet<Fingerprint>,
    oldest_first: VecDeque<Fingerprint>,
    forgotten: bool,
}

/// The operating system gave no randomness for the key.
#[derive(Debug, thiserror::Error)]
#[error("failed to make a key for conversation fingerprints: the system gave no randomness")]
pub struct NoRandomness;

impl TaintStore {
    /// An empty store under a fresh key.
    pub fn new() -> Result<TaintStore, NoRandomness> {
        TaintStore::with_room(FINGERPRINTS_MAX)
    }

    /// An empty store that knows what other replicas know.
    pub fn shared(shared: Arc<SharedState>) -> TaintStore {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &shared.fingerprint_key());
        let known = Mutex::default();
        TaintStore { key, known, fingerprints_max: FINGERPRINTS_MAX, shared: Some(shared) }
    }

    fn with_room(fingerprints_max: usize) -> Result<TaintStore, NoRandomness> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())
            .map_err(|_| NoRandomness)?;
        Ok(TaintStore { key, known: Mutex::default(), fingerprints_max, shared: None })
    }

    /// Whether this request continues a conversation that held never-cloud text.
    pub async fn look_up(&self, caller: &Caller, session: Option<&str>, prompt: &Prompt) -> Taint {
        let nothing_is_known = {
            let known = self.known();
            known.fingerprints.is_empty() && !known.forgotten
        };
        if nothing_is_known && self.shared.is_none() {
            return Taint::Clean;
        }
        // Hashing happens outside the lock: prompts are long.
        let turns = prompt.texts.iter().filter(|t| is_turn(t.role));
        let prints: Vec<Fingerprint> = session
            .map(|s| self.session(caller, s))
            .into_iter()
            .chain(turns.map(|t| self.turn(caller, &t.text)))
            .collect();
        let has_history =
            session.is_some() || prompt.texts.iter().any(|t| t.role == Role::Assistant);
        let here = self.look_up_here(&prints, has_history);
        match &self.shared {
            Some(shared) if here != Taint::Tainted && !prints.is_empty() => {
                match shared.is_tainted(&prints).await {
                    Some(true) => Taint::Tainted,
                    Some(false) => here,
                    None if has_history => Taint::Assumed,
                    None => here,
                }
            }
            _ => here,
        }
    }

    fn look_up_here(&self, prints: &[Fingerprint], has_history: bool) -> Taint {
        let lost = self.shared.as_ref().is_some_and(|shared| shared.has_lost());
        let known = self.known();
        if prints.iter().any(|print| known.fingerprints.contains(print)) {
            return Taint::Tainted;
        }
        if (known.forgotten || lost) && has_history { Taint::Unknown } else { Taint::Clean }
    }

    /// Remembers a never-cloud request; `telling` are the numbers of the texts that made it so.
    pub fn remember(
        &self,
        caller: &Caller,
        session: Option<&str>,
        prompt: &Prompt,
        telling: &[usize],
    ) {
        let mut prints: Vec<Fingerprint> =
            session.map(|session| self.session(caller, session)).into_iter().collect();
        for (index, text) in prompt.texts.iter().enumerate().filter(|(_, t)| is_turn(t.role)) {
            if telling.contains(&index) || text.text.len() >= TURN_BYTES_MIN {
                prints.push(self.turn(caller, &text.text));
            }
        }
        self.insert_all(prints);
    }

    /// Remembers a session whose reply turned out to hold never-cloud text.
    pub fn remember_session(&self, caller: &Caller, session: Option<&str>) {
        self.insert_all(session.map(|session| self.session(caller, session)).into_iter().collect());
    }

    /// Starts the fingerprint of a reply; it is remembered if its conversation is never-cloud.
    pub fn reply(&self, caller: &Caller) -> ReplyPrint {
        ReplyPrint { context: self.scoped(b"turn", caller), words: Words::default() }
    }

    /// Remembers a reply once it has ended (or was cut: the client may send back what it got).
    pub fn remember_reply(&self, reply: ReplyPrint) {
        if reply.words.any {
            self.insert_all(vec![shorten(reply.context.sign())]);
        }
    }

    fn session(&self, caller: &Caller, session: &str) -> Fingerprint {
        let mut context = self.scoped(b"session", caller);
        context.update(session.as_bytes());
        shorten(context.sign())
    }

    fn turn(&self, caller: &Caller, text: &str) -> Fingerprint {
        let mut context = self.scoped(b"turn", caller);
        let mut words = Words::default();
        words.feed(text, &mut context);
        shorten(context.sign())
    }

    fn scoped(&self, what: &[u8], caller: &Caller) -> hmac::Context {
        let mut context = hmac::Context::with_key(&self.key);
        for part in [what, caller.tenant.as_bytes(), caller.id.as_deref().unwrap_or("").as_bytes()]
        {
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part);
        }
        context
    }

    fn insert_all(&self, prints: Vec<Fingerprint>) {
        for print in &prints {
            self.insert(*print);
        }
        if let Some(shared) = &self.shared {
            shared.taint(prints);
        }
    }

    fn insert(&self, print: Fingerprint) {
        let mut known = self.known();
        if !known.fingerprints.insert(print) {
            return;
        }
        known.oldest_first.push_back(print);
        if known.oldest_first.len() > self.fingerprints_max
            && let Some(oldest) = known.oldest_first.pop_front()
        {
            known.fingerprints.remove(&oldest);
            known.forgotten = true;
        }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        // Nothing can panic while the lock is held, and both collections are valid at every step.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The fingerprint of a reply that is still coming.
pub struct ReplyPrint {
    context: hmac::Context,
    words: Words,
}

impl ReplyPrint {
    /// Adds a piece of the reply's text.
    pub fn feed(&mut self, piece: &str) {
        self.words.feed(piece, &mut self.context);
    }
}

/// Feeds words with single spaces between them: clients trim and re-wrap what they send back.
#[derive(Default)]
struct Words {
    any: bool,
    space_due: bool,
}

impl Words {
    fn feed(&mut self, text: &str, context: &mut hmac::Context) {
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let is_space = first.is_whitespace();
            let end = rest.find(|c: char| c.is_whitespace() != is_space).unwrap_or(rest.len());
            if is_space {
                self.space_due = self.any;
            } else {
                if std::mem::take(&mut self.space_due) {
                    context.update(b" ");
                }
                context.update(&rest.as_bytes()[..end]);
                self.any = true;
            }
            rest = &rest[end..];
        }
    }
}

/// Turns of people, tools and models; system prompts are shared by all conversations of an
/// application.
fn is_turn(role: Role) -> bool {
    matches!(role, Role::User | Role::Assistant | Role::Tool)
}

fn shorten(tag: hmac::Tag) -> Fingerprint {
    let mut print = [0; 16];
    print.copy_from_slice(&tag.as_ref()[..16]);
    print
}

#[cfg(test)]
mod tests;
