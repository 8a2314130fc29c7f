//! The record of every attempt to answer: written before a byte leaves, chained, without content.
//!
//! Callers hand over finished JSON and go on when the line is written (and synced, if so configured): a
//! thread writes it, with all that wait together, or where nothing is synced the caller's own thread, with
//! all that its other tasks hand over in the same turn (`writer` says when). Nobody waits for an outcome, so
//! it wakes no thread: it goes with the next attempt, or some milliseconds later. Each line holds its number
//! and the SHA-256 of the line before it, so a changed or missing line shows.
//!
//! A config may switch the log off where no policy looks for anything (`active_policy` sees to that): then
//! nothing is recorded, and whoever asks is told so.
//!
//! Invariants: a [`Recorded`] is handed out only after its line is in the file, or where the log is off; an
//! attempt always gets an outcome line unless the process dies before it can be written, and one without it
//! counts as "may have left". No line holds text of a request or reply: places and detector names only.
//!
//! Not here: signatures, checkpoints, segments, reading the log back.

mod record;
mod tray;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Thread;
use std::time::Duration;

use sluice_policies::PolicySet;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

pub use record::{AttemptRecord, Ending, Outcome, RefusalRecord};

use crate::config::{AuditConfig, Fsync};
use crate::upstream::UpstreamId;
use tray::Trays;
use writer::{CHAIN_BYTES_MAX, Desk, LINE_BYTES_MAX};

/// Lines that may wait for the writer; more callers wait their turn. A place is kept for the outcome of each
/// request that runs, so it is far more than any gateway runs at once.
const WAITING_MAX: usize = 1 << 16;

/// The audit log of one process, or the word that there is none. Clones share the writer.
#[derive(Clone)]
pub struct AuditLog {
    /// `None` if the config switches the log off.
    book: Option<Arc<Book>>,
    /// Digest of the set that was described last.
    described: Arc<Mutex<String>>,
}

/// A log that is kept.
struct Book {
    lines: mpsc::Sender<Line>,
    trays: Trays,
    outcomes: Arc<Outcomes>,
    desk: Arc<Desk>,
    health: Arc<Health>,
    path: PathBuf,
}

/// What there is to say of the log now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditState {
    /// It takes records.
    Writable,
    /// The last record could not be written.
    Down,
    /// The config switches it off: nothing is recorded.
    Off,
}

impl AuditState {
    /// The word of `/readyz`.
    pub fn in_words(self) -> &'static str {
        match self {
            AuditState::Writable => "writable",
            AuditState::Down => "down",
            AuditState::Off => "off",
        }
    }
}

/// Whether the log takes records.
#[derive(Default)]
struct Health {
    down: AtomicBool,
    failures: AtomicU64,
}

/// One record on its way to the file.
struct Line {
    /// A JSON object without the chain's fields.
    json: Vec<u8>,
    waiter: Waiter,
}

/// Who waits for a line; told once it is safe, or dropped if it could not be written.
enum Waiter {
    /// Who goes on when it is written.
    Caller(oneshot::Sender<()>),
    /// Who may ask an upstream when it is written, and the duty that begins with that.
    Attempt(oneshot::Sender<Recorded>, Recorded),
}

/// Outcomes until somebody writes.
#[derive(Default)]
struct Outcomes(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    closed: Vec<Closed>,
    /// The writer's thread, if the next outcome has to wake it.
    sleeper: Option<Thread>,
}

/// An outcome on its way to the file.
struct Closed {
    json: Vec<u8>,
    /// Shows until it is written that there is something to write.
    _place: mpsc::OwnedPermit<Line>,
}

/// An audit log that cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The folder or file could not be made, opened or read.
    #[error("failed to open the audit log {path}")]
    Open {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// Another process writes it.
    #[error(
        "failed to lock the audit log {path}: another process writes it; give each its own audit.path"
    )]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// Its last line is whole but is not one of ours.
    #[error(
        "failed to continue the audit log {path}: its last line is not an audit record; move the file away"
    )]
    Foreign {
        /// The file.
        path: PathBuf,
    },
}

/// A record could not be written; nothing may leave on account of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("failed to write the audit record")]
pub struct AuditDown;

/// Proof that an attempt is on record (or that the config wants none), and the duty to record how it ended.
///
/// Dropped without [`Recorded::close`], it records that the attempt was abandoned: a client that left
/// before the upstream answered.
pub struct Recorded {
    upstream: Option<UpstreamId>,
    open: Option<OpenAttempt>,
}

struct OpenAttempt {
    /// A place kept for the outcome line, so that closing never waits and never fails for room.
    place: mpsc::OwnedPermit<Line>,
    outcomes: Arc<Outcomes>,
    /// The attempt's line is in the file: from then on it owes an outcome.
    is_written: bool,
    id: String,
    attempt: u32,
    upstream: UpstreamId,
}

impl AuditLog {
    /// Opens the log, repairs a line torn by a crash, and starts the writer; or does nothing, if the config
    /// switches it off.
    pub fn open(config: &AuditConfig) -> Result<AuditLog, AuditError> {
        if config.off {
            tracing::warn!("audit is off: nothing is recorded");
            return Ok(AuditLog { book: None, described: Arc::default() });
        }
        match (AuditLog::open_in(&config.path, config.fsync), &config.fallback) {
            (Err(error), Some(fallback)) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(%error, cause, instead = %fallback.display(), "audit log was moved");
                AuditLog::open_in(fallback, config.fsync)
            }
            (opened, _) => opened,
        }
    }

    fn open_in(folder: &Path, fsync: Fsync) -> Result<AuditLog, AuditError> {
        let file = writer::Chain::open(folder, fsync == Fsync::EveryRecord)?;
        let path = file.path().to_owned();
        let (lines, waiting) = mpsc::channel(WAITING_MAX);
        let (health, outcomes) = (Arc::new(Health::default()), Arc::new(Outcomes::default()));
        let mut inbox = writer::Inbox::new(waiting, outcomes.clone());
        let desk = Arc::new(Desk::new(file, health.clone()));
        let shared = desk.clone();
        std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || writer::run(&shared, &mut inbox))
            .map_err(|source| AuditError::Open { path: path.clone(), source })?;
        let book = Book { lines, trays: Trays::default(), outcomes, desk, health, path };
        Ok(AuditLog { book: Some(Arc::new(book)), described: Arc::default() })
    }

    /// The file that is written; `None` if the log is off.
    pub fn path(&self) -> Option<&Path> {
        self.book.as_ref().map(|book| book.path.as_path())
    }

    /// What there is to say of it now.
    pub fn state(&self) -> AuditState {
        match &self.book {
            None => AuditState::Off,
            Some(book) if book.health.down.load(Ordering::Relaxed) => AuditState::Down,
            Some(_) => AuditState::Writable,
        }
    }

    /// Whether the last record could be written, so far as there are any.
    pub fn is_writable(&self) -> bool {
        self.state() != AuditState::Down
    }

    /// Records that could not be written since the start.
    pub fn failures(&self) -> u64 {
        self.book.as_ref().map_or(0, |book| book.health.failures.load(Ordering::Relaxed))
    }

    /// Records what a set looks at, if it is not the one that was recorded last.
    pub async fn policy(&self, set: &PolicySet) -> Result<(), AuditDown> {
        let Some(book) = &self.book else { return Ok(()) };
        if *self.described() == set.digest() {
            return Ok(());
        }
        book.write(record::policy_line(set)).await?;
        set.digest().clone_into(&mut self.described());
        Ok(())
    }

    fn described(&self) -> MutexGuard<'_, String> {
        // A digest is replaced as a whole.
        self.described.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records an attempt and waits until it is written. Nothing may leave before this returns `Ok`.
    pub async fn attempt(&self, record: &AttemptRecord<'_>) -> Result<Recorded, AuditDown> {
        match &self.book {
            None => Ok(Recorded { upstream: Some(record.upstream.clone()), open: None }),
            Some(book) => book.attempt(record).await,
        }
    }

    /// Waits until every outcome is written, but not for ever.
    pub async fn settle(&self, time_max: Duration) {
        let Some(lines) = self.book.as_ref().map(|book| &book.lines) else { return };
        let deadline = Instant::now() + time_max;
        while lines.capacity() < lines.max_capacity() && Instant::now() < deadline {
            tokio::time::sleep(writer::OUTCOME_WAIT_MAX / 2).await;
        }
        let left = lines.max_capacity() - lines.capacity();
        if left > 0 {
            tracing::error!(left, "audit records wait for a log that cannot be written");
        }
    }

    /// Records a refusal.
    pub async fn refusal(&self, record: &RefusalRecord<'_>) -> Result<(), AuditDown> {
        match &self.book {
            None => Ok(()),
            Some(book) => book.write(record.to_json()).await,
        }
    }
}

impl Book {
    async fn attempt(self: &Arc<Self>, record: &AttemptRecord<'_>) -> Result<Recorded, AuditDown> {
        let place = self.lines.clone().reserve_owned().await.map_err(|_| AuditDown)?;
        let upstream = record.upstream.clone();
        let open = OpenAttempt {
            place,
            outcomes: self.outcomes.clone(),
            is_written: false,
            id: record.id.to_owned(),
            attempt: record.attempt,
            upstream: upstream.clone(),
        };
        let recorded = Recorded { upstream: Some(upstream), open: Some(open) };
        let (written, confirmed) = oneshot::channel();
        let waiter = Waiter::Attempt(written, recorded);
        self.hand_in(Line { json: record.to_json(), waiter }).await?;
        confirmed.await.map_err(|_| AuditDown)
    }

    async fn write(self: &Arc<Self>, json: Vec<u8>) -> Result<(), AuditDown> {
        let (written, confirmed) = oneshot::channel();
        self.hand_in(Line { json, waiter: Waiter::Caller(written) }).await?;
        confirmed.await.map_err(|_| AuditDown)
    }

    /// Has a line written, unless it is longer than a line may be.
    async fn hand_in(self: &Arc<Self>, line: Line) -> Result<(), AuditDown> {
        if line.json.len() > LINE_BYTES_MAX - CHAIN_BYTES_MAX {
            self.health.failures.fetch_add(1, Ordering::Relaxed);
            tracing::error!(bytes = line.json.len(), "audit record is too long to be written");
            return Err(AuditDown);
        }
        if self.desk.is_direct() {
            tray::lay(self, line);
            return Ok(());
        }
        self.lines.send(line).await.map_err(|_| AuditDown)
    }
}

impl Line {
    /// Tells who waits for it that it is in the file, or that it is not.
    ///
    /// Who is gone by now leaves an attempt behind that is dropped here, and so recorded as abandoned.
    fn settle(self, is_written: bool) {
        match self.waiter {
            Waiter::Caller(caller) if is_written => {
                let _ = caller.send(());
            }
            Waiter::Attempt(caller, mut recorded) if is_written => {
                recorded.open.iter_mut().for_each(|open| open.is_written = true);
                let _ = caller.send(recorded);
            }
            _ => {}
        }
    }
}

impl Waiting {
    fn wake(&mut self) {
        if let Some(sleeper) = self.sleeper.take() {
            sleeper.unpark();
        }
    }
}

impl Outcomes {
    fn add(&self, closed: Closed) {
        let mut waiting = self.lock();
        waiting.closed.push(closed);
        waiting.wake();
    }

    /// All that wait.
    fn take(&self) -> Vec<Closed> {
        std::mem::take(&mut self.lock().closed)
    }

    /// Puts back, before all others, what could not be written.
    fn keep(&self, mut closed: Vec<Closed>) {
        if closed.is_empty() {
            return;
        }
        let mut waiting = self.lock();
        closed.append(&mut waiting.closed);
        waiting.closed = closed;
        waiting.wake();
    }

    /// Has the next outcome wake a thread, unless one is there already.
    fn wake_me(&self, thread: Thread) -> bool {
        let mut waiting = self.lock();
        let may_sleep = waiting.closed.is_empty();
        waiting.sleeper = Some(thread).filter(|_| may_sleep);
        may_sleep
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // An outcome is added as a whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Recorded {
    /// Which upstream the record names.
    pub fn upstream(&self) -> Option<&UpstreamId> {
        self.upstream.as_ref()
    }

    /// Records how the attempt ended.
    pub fn close(mut self, outcome: &Outcome) {
        self.write_outcome(outcome);
    }

    fn write_outcome(&mut self, outcome: &Outcome) {
        if let Some(open) = self.open.take().filter(|open| open.is_written) {
            let json = outcome.to_json(&open.id, open.attempt, &open.upstream);
            open.outcomes.add(Closed { json, _place: open.place });
        }
    }

    /// A proof for tests of the permit; there is no log behind it.
    #[cfg(test)]
    pub(crate) fn for_test(upstream: &UpstreamId) -> Recorded {
        Recorded { upstream: Some(upstream.clone()), open: None }
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        self.write_outcome(&Outcome::abandoned());
    }
}

#[cfg(test)]
mod tests;
