//! The audit file and who writes it: chaining, batching, repair.
//!
//! A thread writes in batches. A batch is everything that waits when the thread comes by: for a line that
//! somebody waits for, and every [`OUTCOME_WAIT_MAX`] while attempts are open. It is written with one call; if
//! that or the sync fails, the file is cut back to where it was, every caller in the batch is told, and the
//! next batch starts by opening the file anew.
//!
//! Where records are not synced, a thread that serves writes what lies on its tray (`tray`) itself, with the
//! outcomes that wait: to copy that to the kernel takes a fifth of what it takes to wake the writer's thread
//! and to be woken by it. It waits for another that does the same, but not for long ([`PEN_TIME_MAX`]). The
//! lines go to the writer's thread all the same where that is not enough, and for [`REST`] after a write took
//! so long that the disk must be behind: what waits for a disk is that thread, never one that serves
//! connections.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use ring::digest::{SHA256, digest};
use serde::Deserialize;
use tokio::sync::mpsc::{self, OwnedPermit};
use tokio::time::Instant;

use super::{AuditError, Health, Line, Outcomes};
use crate::durable::still_linked;

/// Version of the line format.
const VERSION: u32 = 1;
/// Lines of a batch after which it takes no more of the queue.
const BATCH_LINES_MAX: usize = 256;
/// How long an outcome waits for a line that somebody waits for, to be written with it.
pub(super) const OUTCOME_WAIT_MAX: Duration = Duration::from_millis(10);
/// Looks for outcomes that find nothing, one after another, until an outcome has to wake the thread: a second.
const IDLE_LOOKS_MAX: u32 = 100;
/// `prev` of the first line.
const NO_LINE: [u8; 64] = [b'0'; 64];
/// No line is longer; a longer tail without a line end is not ours.
const LINE_BYTES_MAX: u64 = 16 << 20;

/// How long a thread that serves waits for another's write: a few microseconds, where no disk is waited for.
const PEN_TIME_MAX: Duration = Duration::from_micros(20);
/// A write that takes longer waits for a disk.
const DIRECT_TIME_MAX: Duration = Duration::from_millis(2);
/// How long the thread is the only writer after such a write.
pub(super) const REST: Duration = Duration::from_secs(1);

/// The open log, for whoever writes at the moment.
pub(super) struct Desk {
    pen: Mutex<Pen>,
    health: Arc<Health>,
    /// Nothing is synced: threads that serve may write themselves.
    is_unsynced: bool,
}

/// What only one at a time holds.
struct Pen {
    chain: Chain,
    /// Until then the thread is the only writer.
    rests_until: Option<Instant>,
}

impl Desk {
    /// Puts an open log where it is written.
    pub(super) fn new(chain: Chain, health: Arc<Health>) -> Desk {
        let is_unsynced = !chain.sync;
        Desk { pen: Mutex::new(Pen { chain, rests_until: None }), health, is_unsynced }
    }

    /// Whether threads that serve may write at the moment.
    pub(super) fn is_direct(&self) -> bool {
        // A log that is down is the writer's thread's to mend.
        self.is_unsynced && !self.health.down.load(Ordering::Relaxed)
    }

    /// Writes lines at once, behind the outcomes that wait, and tells who waits for them; gives them back
    /// where that is for the writer's thread.
    pub(super) fn write(&self, lines: Vec<Line>, outcomes: &Outcomes) -> Result<(), Vec<Line>> {
        let now = Instant::now();
        let Some(mut pen) = self.pen_at_once(now) else { return Err(lines) };
        let (mut batch, places) = outcomes.take_as_lines();
        batch.extend(lines);
        let is_written = self.append(&mut pen.chain, &batch);
        if now.elapsed() > DIRECT_TIME_MAX {
            pen.rests_until = Some(Instant::now() + REST);
        }
        // The places show until here that there is something to write.
        drop((pen, places));
        batch.into_iter().for_each(|line| line.settle(is_written));
        Ok(())
    }

    /// As after a write that waited for a disk.
    #[cfg(test)]
    pub(super) fn rest(&self) {
        self.pen().rests_until = Some(Instant::now() + REST);
    }

    /// What one writes with who need not wait for it.
    fn pen_at_once(&self, now: Instant) -> Option<MutexGuard<'_, Pen>> {
        if !self.is_direct() {
            return None;
        }
        let pen = loop {
            match self.pen.try_lock() {
                Ok(pen) => break pen,
                Err(TryLockError::Poisoned(pen)) => break pen.into_inner(),
                Err(TryLockError::WouldBlock) if now.elapsed() > PEN_TIME_MAX => return None,
                Err(TryLockError::WouldBlock) => std::hint::spin_loop(),
            }
        };
        if pen.rests_until.is_some_and(|end| now < end) { None } else { Some(pen) }
    }

    /// What the thread writes with.
    fn pen(&self) -> MutexGuard<'_, Pen> {
        // The chain goes on from a batch when all of it is in the file.
        self.pen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends a batch, and notes whether that worked.
    fn append(&self, chain: &mut Chain, batch: &[Line]) -> bool {
        let written = chain.append(batch);
        note(&written, batch.len(), &self.health);
        written.is_ok()
    }
}

/// An open log: the file, and where its chain stands.
pub(super) struct Chain {
    path: PathBuf,
    file: Option<File>,
    bytes: u64,
    seq: u64,
    /// SHA-256 of the last line without its line end, hexadecimal.
    prev: [u8; 64],
    sync: bool,
}

#[derive(Deserialize)]
struct Head {
    v: u32,
    seq: u64,
}

/// What waits for the thread.
pub(super) struct Inbox {
    lines: mpsc::Receiver<Line>,
    outcomes: Arc<Outcomes>,
    /// Looks that found nothing, one after another.
    idle_looks: u32,
}

/// Wakes the writer.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

impl Inbox {
    pub(super) fn new(lines: mpsc::Receiver<Line>, outcomes: Arc<Outcomes>) -> Inbox {
        Inbox { lines, outcomes, idle_looks: 0 }
    }

    /// The next line that somebody waits for, `None` if every sender is gone; `Pending` if it is time to look
    /// for outcomes, which wake nobody unless there was nothing to write for a while.
    fn next(&mut self, writer: &mut Context<'_>) -> Poll<Option<Line>> {
        if let Poll::Ready(line) = self.lines.poll_recv(writer) {
            return Poll::Ready(line);
        }
        if self.idle_looks < IDLE_LOOKS_MAX {
            self.idle_looks += 1;
            thread::park_timeout(OUTCOME_WAIT_MAX);
        } else if self.outcomes.wake_me(thread::current()) {
            thread::park();
            self.idle_looks = 0;
        }
        self.lines.poll_recv(writer)
    }

    /// Adds all that is there to a batch; keeps the outcomes' places.
    fn drain(&mut self, batch: &mut Vec<Line>, first: Option<Line>) -> Vec<OwnedPermit<Line>> {
        let (closed, places) = self.outcomes.take_as_lines();
        batch.extend(closed);
        batch.extend(first);
        while batch.len() < BATCH_LINES_MAX
            && let Ok(line) = self.lines.try_recv()
        {
            batch.push(line);
        }
        places
    }
}

/// Writes batches until every sender is gone.
pub(super) fn run(desk: &Desk, inbox: &mut Inbox) {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut writer = Context::from_waker(&waker);
    let mut batch = Vec::with_capacity(BATCH_LINES_MAX);
    loop {
        let first = match inbox.next(&mut writer) {
            Poll::Ready(None) => return,
            Poll::Ready(line) => line,
            Poll::Pending => None,
        };
        let places = inbox.drain(&mut batch, first);
        if batch.is_empty() {
            continue;
        }
        inbox.idle_looks = 0;
        let is_written = desk.append(&mut desk.pen().chain, &batch);
        batch.drain(..).for_each(|line| line.settle(is_written));
        drop(places);
    }
}

fn note(written: &Result<(), AuditError>, lines: usize, health: &Health) {
    let down = written.is_err();
    if down {
        health.failures.fetch_add(lines as u64, Ordering::Relaxed);
    }
    let was_down = health.down.swap(down, Ordering::Relaxed);
    match written {
        Err(error) if !was_down => {
            let cause = std::error::Error::source(error).map(ToString::to_string);
            tracing::error!(%error, cause, lines, "audit log stopped taking records");
        }
        Ok(()) if was_down => tracing::warn!("audit log takes records again"),
        _ => {}
    }
}

impl Chain {
    /// Opens `folder/audit.jsonl` and takes its lock.
    pub(super) fn open(folder: &Path, sync: bool) -> Result<Chain, AuditError> {
        let path = folder.join("audit.jsonl");
        let mut chain = Chain { path, file: None, bytes: 0, seq: 0, prev: NO_LINE, sync };
        chain.reopen()?;
        Ok(chain)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn reopen(&mut self) -> Result<(), AuditError> {
        let mut file = self.open_locked()?;
        let tail = Tail::read(&mut file).map_err(|source| self.io(source))?;
        if let Some(last) = &tail.last_line {
            let foreign = || AuditError::Foreign { path: self.path.clone() };
            let head: Head = serde_json::from_slice(last).map_err(|_| foreign())?;
            if head.v != VERSION {
                return Err(foreign());
            }
            self.seq = head.seq;
            self.prev = hex_digest(last);
        }
        self.bytes = tail.whole_bytes;
        if tail.torn_bytes > 0 {
            // The torn line was never confirmed, so nothing left on its account.
            file.set_len(self.bytes).map_err(|source| self.io(source))?;
            self.file = Some(file);
            let torn = format!("{{\"kind\":\"repaired\",\"torn_bytes\":{}}}", tail.torn_bytes);
            return self.append(&[Line::unawaited(torn.into_bytes())]);
        }
        self.file = Some(file);
        Ok(())
    }

    fn open_locked(&self) -> Result<File, AuditError> {
        if let Some(folder) = self.path.parent() {
            std::fs::create_dir_all(folder).map_err(|source| self.io(source))?;
        }
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(&self.path).map_err(|source| self.io(source))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(fs::TryLockError::WouldBlock) => {
                Err(AuditError::Locked { path: self.path.clone() })
            }
            Err(fs::TryLockError::Error(source)) => Err(self.io(source)),
        }
    }

    fn io(&self, source: io::Error) -> AuditError {
        AuditError::Open { path: self.path.clone(), source }
    }

    /// Appends a batch whole or not at all.
    fn append(&mut self, batch: &[Line]) -> Result<(), AuditError> {
        if self.file.is_none() {
            self.reopen()?;
        }
        let mut text = Vec::with_capacity(batch.iter().map(|l| l.json.len() + 128).sum());
        let (mut seq, mut prev) = (self.seq, self.prev);
        for line in batch {
            seq += 1;
            prev = chain_line(&mut text, seq, &prev, &line.json);
        }
        let Some(file) = self.file.as_mut() else {
            return Err(self.io(io::ErrorKind::NotFound.into()));
        };
        if let Err(source) = write_whole(file, &text, self.sync) {
            // A part of the batch may be in the file: cut it off, or the chain would break there.
            let _ = file.set_len(self.bytes);
            self.file = None;
            return Err(self.io(source));
        }
        self.bytes += text.len() as u64;
        (self.seq, self.prev) = (seq, prev);
        Ok(())
    }
}

/// Writes one chained line and returns its digest.
fn chain_line(out: &mut Vec<u8>, seq: u64, prev: &[u8; 64], json: &[u8]) -> [u8; 64] {
    let start = out.len();
    out.extend_from_slice(format!("{{\"v\":{VERSION},\"seq\":{seq},\"prev\":\"").as_bytes());
    out.extend_from_slice(prev);
    out.extend_from_slice(b"\",");
    out.extend_from_slice(json.strip_prefix(b"{").unwrap_or(json));
    let digest = hex_digest(&out[start..]);
    out.push(b'\n');
    digest
}

fn write_whole(file: &mut File, text: &[u8], sync: bool) -> io::Result<()> {
    still_linked(file)?;
    file.write_all(text)?;
    if sync { file.sync_data() } else { Ok(()) }
}

/// The end of a log file.
struct Tail {
    last_line: Option<Vec<u8>>,
    whole_bytes: u64,
    torn_bytes: u64,
}

impl Tail {
    /// Reads back from the end until the last whole line is found.
    fn read(file: &mut File) -> io::Result<Tail> {
        let bytes = file.metadata()?.len();
        let mut window = 64 << 10;
        loop {
            let from = bytes.saturating_sub(window);
            file.seek(SeekFrom::Start(from))?;
            let mut end = Vec::new();
            file.take(window).read_to_end(&mut end)?;
            if let Some(tail) = Tail::in_window(&end, from, bytes) {
                return Ok(tail);
            }
            if window >= 2 * LINE_BYTES_MAX {
                return Err(io::Error::other("its end holds no line end"));
            }
            window *= 4;
        }
    }

    fn in_window(end: &[u8], from: u64, bytes: u64) -> Option<Tail> {
        let Some(last_end) = end.iter().rposition(|&b| b == b'\n') else {
            return (from == 0).then_some(Tail {
                last_line: None,
                whole_bytes: 0,
                torn_bytes: bytes,
            });
        };
        let start = match end[..last_end].iter().rposition(|&b| b == b'\n') {
            Some(before) => before + 1,
            None if from == 0 => 0,
            None => return None,
        };
        let whole_bytes = from + last_end as u64 + 1;
        let last_line = Some(end[start..last_end].to_vec());
        Some(Tail { last_line, whole_bytes, torn_bytes: bytes - whole_bytes })
    }
}

/// SHA-256 as 64 hexadecimal digits.
pub(super) fn hex_digest(bytes: &[u8]) -> [u8; 64] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut hex = [0; 64];
    for (pair, byte) in hex.chunks_exact_mut(2).zip(digest(&SHA256, bytes).as_ref()) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    hex
}
