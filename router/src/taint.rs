//! Remembers which conversations have held never-cloud text, without keeping any of it.
//!
//! A turn or session is kept as a keyed fingerprint (HMAC-SHA-256 under a random key of this
//! installation, cut to 128 bits), scoped to tenant and caller. A later request that brings such a turn
//! or session is tainted even if the telling part was cut off, and stays private.
//!
//! What is remembered of a never-cloud request: its session; every turn that holds what made it so;
//! longer turns that stood beside it; every choice of the reply, and the ids of its tool calls, which come back
//! with their results. Short turns ("yes, please") alone are not, or they
//! would taint every conversation of an application.
//!
//! Fingerprints outlive the process in a ledger beside the audit log (`ledger`, `keeper`), unless replicas
//! share them: then they are made under a key that all of them have, and a conversation with a history is
//! assumed to be tainted while the shared state is away. A shared state that comes back without its data is
//! told again what this replica knows, and counts as one that has lost something.
//!
//! Invariants: a request's fingerprints are kept before it is answered, a reply's before its end is passed
//! on; at most `FINGERPRINTS_MAX` are kept, and once one was lost, to make room or because the ledger is
//! damaged or takes no more, the answer for a conversation that is not found is "unknown", never "clean".

mod keeper;
mod known;
mod ledger;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ring::hmac;
use ring::rand::SystemRandom;
use sluice_policies::{Prompt, Role};

use crate::identity::Caller;
use crate::shared_state::{Fingerprint, SharedState};
use keeper::Keeper;
pub use keeper::Saved;
use known::Known;

/// Fingerprints kept; at about 80 bytes each this is 20 MiB.
const FINGERPRINTS_MAX: usize = 1 << 18;
/// A turn that holds nothing private by itself is remembered from this length on, bytes.
const TURN_BYTES_MIN: usize = 64;
/// Shorter ids of tool calls are numbers, which other conversations have too.
const CALL_ID_BYTES_MIN: usize = 9;
/// Text of a reply that waits to be hashed.
const WAITING_BYTES_MAX: usize = 4096;

/// Fingerprints that a shared state without its data is told at once: an answer has a time limit.
const TOLD_TOGETHER_MAX: usize = 256;

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
    keeper: Keeper,
    shared: Option<Arc<SharedState>>,
}

/// The operating system gave no randomness for the key.
#[derive(Debug, thiserror::Error)]
#[error("failed to make a key for conversation fingerprints: the system gave no randomness")]
pub struct NoRandomness;

/// A store that cannot be opened. A damaged ledger is none: it counts as incomplete.
#[derive(Debug, thiserror::Error)]
pub enum TaintError {
    /// There is no key.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    /// Two would write over each other.
    #[error("failed to lock {0}: another process uses it; give each its own taint.path")]
    Locked(PathBuf),
    /// There is nobody to write.
    #[error("failed to start the thread that keeps fingerprints")]
    Thread(#[source] std::io::Error),
}

impl TaintStore {
    /// An empty store under a fresh key, which ends with the process.
    pub fn new() -> Result<TaintStore, NoRandomness> {
        TaintStore::with_room(FINGERPRINTS_MAX)
    }

    /// What a folder holds, and a place for what comes. With `sync` a power cut loses nothing either.
    pub fn open(folder: &Path, keep: Duration, sync: bool) -> Result<TaintStore, TaintError> {
        let known = Known::new(FINGERPRINTS_MAX, keep.as_secs());
        let (keeper, key) = Keeper::open(folder, sync, known, fresh_key()?, now())?;
        Ok(TaintStore { key: hmac::Key::new(hmac::HMAC_SHA256, &key), keeper, shared: None })
    }

    /// An empty store that knows what other replicas know.
    pub fn shared(shared: Arc<SharedState>) -> TaintStore {
        let key = shared.fingerprint_key();
        let keeper = Keeper::in_memory(Known::new(FINGERPRINTS_MAX, u64::MAX), &key);
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
        TaintStore { key, keeper, shared: Some(shared) }
    }

    fn with_room(fingerprints_max: usize) -> Result<TaintStore, NoRandomness> {
        let key = fresh_key()?;
        let keeper = Keeper::in_memory(Known::new(fingerprints_max, u64::MAX), &key);
        Ok(TaintStore { key: hmac::Key::new(hmac::HMAC_SHA256, &key), keeper, shared: None })
    }

    /// How fingerprints are kept, in one word: `shared` by replicas, `kept` on disk, `incomplete` since
    /// something was lost, `down` while the disk takes no more, or in `memory` alone.
    pub fn word(&self) -> &'static str {
        match &self.shared {
            Some(shared) if shared.is_incomplete() => "incomplete",
            Some(_) => "shared",
            None => self.keeper.word(now()),
        }
    }

    /// Whether this request continues a conversation that held never-cloud text.
    pub async fn look_up(&self, caller: &Caller, session: Option<&str>, prompt: &Prompt) -> Taint {
        if self.shared.is_none() && self.keeper.is_empty(now()) {
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
        let (is_known, mut is_incomplete) = self.keeper.look_up(&prints, now());
        if is_known {
            return Taint::Tainted;
        }
        if let Some(shared) = self.shared.as_ref().filter(|_| !prints.is_empty()) {
            match shared.look_up(&prints).await {
                Some(answer) => {
                    if answer.is_another {
                        self.tell_again(shared);
                    }
                    if answer.is_tainted {
                        return Taint::Tainted;
                    }
                    is_incomplete |= answer.is_incomplete;
                }
                None if has_history => return Taint::Assumed,
                None => {}
            }
        }
        if is_incomplete && has_history { Taint::Unknown } else { Taint::Clean }
    }

    /// Tells other replicas all that is known here.
    fn tell_again(&self, shared: &SharedState) {
        for prints in self.keeper.all().chunks(TOLD_TOGETHER_MAX) {
            shared.taint(prints.to_vec());
        }
    }

    /// Remembers a never-cloud request; `telling` are the numbers of the texts that made it so.
    pub fn remember(
        &self,
        caller: &Caller,
        session: Option<&str>,
        prompt: &Prompt,
        telling: &[usize],
    ) -> Saved {
        let mut prints: Vec<Fingerprint> =
            session.map(|session| self.session(caller, session)).into_iter().collect();
        for (index, text) in prompt.texts.iter().enumerate().filter(|(_, t)| is_turn(t.role)) {
            if telling.contains(&index) || text.text.len() >= TURN_BYTES_MIN {
                prints.push(self.turn(caller, &text.text));
            }
        }
        self.insert_all(prints)
    }

    /// Starts the fingerprint of a reply; it is remembered if its conversation is never-cloud.
    pub fn reply(&self, caller: &Caller) -> ReplyPrint {
        let begun = self.scoped(b"turn", caller);
        ReplyPrint { begun, said: BTreeMap::new(), calls: Vec::new() }
    }

    /// Remembers a reply once it has ended (or was cut: the client may send back what it got), and with it
    /// its session, where only the reply turned out to hold never-cloud text.
    pub fn remember_reply(&self, reply: ReplyPrint, session: Option<(&Caller, &str)>) -> Saved {
        let mut prints = reply.prints();
        prints.extend(session.map(|(caller, session)| self.session(caller, session)));
        self.insert_all(prints)
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

    fn insert_all(&self, prints: Vec<Fingerprint>) -> Saved {
        let saved = self.keeper.note(&prints, now());
        if let Some(shared) = &self.shared {
            shared.taint(prints);
        }
        saved
    }
}

/// Unix seconds.
fn now() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or(0)
}

fn fresh_key() -> Result<[u8; 32], NoRandomness> {
    let random = ring::rand::generate(&SystemRandom::new());
    Ok(random.map_err(|_| NoRandomness)?.expose())
}

/// The fingerprints of a reply that is still coming.
pub struct ReplyPrint {
    /// How a turn of its caller begins.
    begun: hmac::Context,
    /// What each choice says.
    said: BTreeMap<u32, SaidPrint>,
    /// Ids of tool calls.
    calls: Vec<String>,
}

impl ReplyPrint {
    /// Adds a piece of what a choice says.
    pub fn feed(&mut self, choice: u32, piece: &str) {
        let begin = || SaidPrint::new(self.begun.clone());
        self.said.entry(choice).or_insert_with(begin).feed(piece);
    }

    /// Adds a tool call, by its id.
    pub fn call(&mut self, id: &str) {
        if id.len() >= CALL_ID_BYTES_MIN {
            self.calls.push(id.to_owned());
        }
    }

    fn prints(self) -> Vec<Fingerprint> {
        let ReplyPrint { begun, said, calls } = self;
        let calls = calls.iter().map(|id| {
            let mut print = SaidPrint::new(begun.clone());
            print.feed(id);
            print
        });
        said.into_values().chain(calls).filter_map(SaidPrint::end).collect()
    }
}

/// The fingerprint of a text that is still coming.
///
/// Text waits to be hashed: of nearly all replies nobody asks for it, and most are over before it is much.
struct SaidPrint {
    context: hmac::Context,
    words: Words,
    waiting: String,
}

impl SaidPrint {
    fn new(context: hmac::Context) -> SaidPrint {
        SaidPrint { context, words: Words::default(), waiting: String::new() }
    }

    fn feed(&mut self, piece: &str) {
        if self.waiting.len() + piece.len() > WAITING_BYTES_MAX {
            self.hash();
        }
        match piece.len() > WAITING_BYTES_MAX {
            true => self.words.feed(piece, &mut self.context),
            false => self.waiting.push_str(piece),
        }
    }

    fn hash(&mut self) {
        self.words.feed(&self.waiting, &mut self.context);
        self.waiting.clear();
    }

    /// `None` if it has no words.
    fn end(mut self) -> Option<Fingerprint> {
        self.hash();
        self.words.any.then(|| shorten(self.context.sign()))
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
