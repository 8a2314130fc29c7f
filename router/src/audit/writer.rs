//! The audit file and who writes it: chaining, batching, repair.
//!
//! A thread writes in batches. A batch is everything that waits when the thread comes by: for a line that
//! somebody waits for, and every [`OUTCOME_WAIT_MAX`] while attempts are open. It is written with one call; if
//! that or the sync fails, the file is cut back to where it was, every caller in the batch is told, outcomes are
//! kept for a later one, and the next batch starts by opening the file anew. So it does where the file was moved
//! away, as `logrotate` does: the chain goes on in the new one.
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
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{AuditError, Closed, Health, Line, Outcomes};
use crate::durable::Inode;

/// Version of the line format.
const VERSION: u32 = 1;
/// Lines of a batch after which it takes no more of the queue.
const BATCH_LINES_MAX: usize = 256;
/// How long an outcome waits for a line that somebody waits for, to be written with it.
pub(super) const OUTCOME_WAIT_MAX: Duration = Duration::from_millis(10);
/// How long outcomes wait that could not be written, unless a line comes that somebody waits for.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Looks for outcomes that find nothing, one after another, until an outcome has to wake the thread: a second.
const IDLE_LOOKS_MAX: u32 = 100;
/// `prev` of the first line.
const NO_LINE: [u8; 64] = [b'0'; 64];
/// No line is longer, so that the end of a log is found; a longer tail without a line end is not ours.
pub(super) const LINE_BYTES_MAX: usize = 16 << 20;
/// What a line is longer than its record at most: its number and the digest of the line before.
pub(super) const CHAIN_BYTES_MAX: usize = 128;

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
        let mut batch = Batch { outcomes: outcomes.take(), lines };
        let is_written = self.append(&mut pen.chain, &batch);
        if now.elapsed() > DIRECT_TIME_MAX {
            pen.rests_until = Some(Instant::now() + REST);
        }
        drop(pen);
        batch.settle(is_written, outcomes);
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
    fn append(&self, chain: &mut Chain, batch: &Batch) -> bool {
        let written = chain.append(batch.records());
        note(&written, batch.lines.len(), &self.health);
        written.is_ok()
    }
}

/// What is written together: outcomes, and behind them lines that somebody waits for.
#[derive(Default)]
struct Batch {
    outcomes: Vec<Closed>,
    lines: Vec<Line>,
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.outcomes.is_empty() && self.lines.is_empty()
    }

    fn records(&self) -> impl Iterator<Item = &[u8]> + Clone {
        let outcomes = self.outcomes.iter().map(|closed| closed.json.as_slice());
        outcomes.chain(self.lines.iter().map(|line| line.json.as_slice()))
    }

    /// Tells who waits whether it is in the file; what is not, and nobody waits for, is written later.
    fn settle(&mut self, is_written: bool, outcomes: &Outcomes) {
        let closed = std::mem::take(&mut self.outcomes);
        if !is_written {
            outcomes.keep(closed);
        }
        self.lines.drain(..).for_each(|line| line.settle(is_written));
    }
}

/// An open log: the file, and where its chain stands.
pub(super) struct Chain {
    path: PathBuf,
    file: Option<(File, Inode)>,
    bytes: u64,
    seq: u64,
    /// SHA-256 of the last line without its line end, hexadecimal.
    prev: [u8; 64],
    /// What a write that failed left in the file, and could not be cut off at once, begins here.
    cut: Option<u64>,
    /// The policies of the last lines: a new file begins with them, so that it can be read alone.
    policy: Option<Vec<u8>>,
    sync: bool,
}

/// How records of policies begin.
const POLICY_START: &[u8] = b"{\"kind\":\"policy\"";

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
    /// How long the next look may be put off.
    patience: Duration,
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
        Inbox { lines, outcomes, idle_looks: 0, patience: OUTCOME_WAIT_MAX }
    }

    /// The next line that somebody waits for, `None` if every sender is gone; `Pending` if it is time to look
    /// for outcomes, which wake nobody unless there was nothing to write for a while.
    fn next(&mut self, writer: &mut Context<'_>) -> Poll<Option<Line>> {
        if let Poll::Ready(line) = self.lines.poll_recv(writer) {
            return Poll::Ready(line);
        }
        if self.idle_looks < IDLE_LOOKS_MAX {
            self.idle_looks += 1;
            thread::park_timeout(self.patience);
        } else if self.outcomes.wake_me(thread::current()) {
            thread::park();
            self.idle_looks = 0;
        }
        self.lines.poll_recv(writer)
    }

    /// Adds all that is there to a batch.
    fn drain(&mut self, batch: &mut Batch, first: Option<Line>) {
        batch.outcomes = self.outcomes.take();
        batch.lines.extend(first);
        while batch.lines.len() < BATCH_LINES_MAX
            && let Ok(line) = self.lines.try_recv()
        {
            batch.lines.push(line);
        }
    }
}

/// Writes batches until every sender is gone.
pub(super) fn run(desk: &Desk, inbox: &mut Inbox) {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut writer = Context::from_waker(&waker);
    let mut batch = Batch::default();
    loop {
        let first = match inbox.next(&mut writer) {
            Poll::Ready(None) => return,
            Poll::Ready(line) => line,
            Poll::Pending => None,
        };
        inbox.drain(&mut batch, first);
        if batch.is_empty() {
            continue;
        }
        inbox.idle_looks = 0;
        let is_written = desk.append(&mut desk.pen().chain, &batch);
        inbox.patience = if is_written { OUTCOME_WAIT_MAX } else { RETRY_AFTER };
        batch.settle(is_written, &inbox.outcomes);
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
        let mut chain = Chain {
            path,
            file: None,
            bytes: 0,
            seq: 0,
            prev: NO_LINE,
            cut: None,
            policy: None,
            sync,
        };
        chain.reopen()?;
        Ok(chain)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn reopen(&mut self) -> Result<(), AuditError> {
        let (mut file, inode) = self.open_locked()?;
        let tail = Tail::read(&mut file).map_err(|source| self.io(source))?;
        if let Some(last) = &tail.last_line {
            let foreign = || AuditError::Foreign { path: self.path.clone() };
            let head: Head = serde_json::from_slice(last).map_err(|_| foreign())?;
            if head.v != VERSION {
                return Err(foreign());
            }
            // A file that was put in place of the log and ends before it hides no line: the chain shows it.
            if head.seq >= self.seq {
                self.seq = head.seq;
                self.prev = hex_digest(last);
            }
        }
        self.bytes = tail.whole_bytes;
        if tail.torn_bytes > 0 {
            // The torn line was never confirmed, so nothing left on its account.
            file.set_len(self.bytes).map_err(|source| self.io(source))?;
            self.file = Some((file, inode));
            let torn = format!("{{\"kind\":\"repaired\",\"torn_bytes\":{}}}", tail.torn_bytes);
            return self.append(std::iter::once(torn.as_bytes()));
        }
        self.file = Some((file, inode));
        Ok(())
    }

    fn open_locked(&self) -> Result<(File, Inode), AuditError> {
        if let Some(folder) = self.path.parent() {
            std::fs::create_dir_all(folder).map_err(|source| self.io(source))?;
        }
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(&self.path).map_err(|source| self.io(source))?;
        let inode = Inode::of(&file).map_err(|source| self.io(source))?;
        match file.try_lock() {
            Ok(()) => Ok((file, inode)),
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
    fn append<'a>(
        &mut self,
        records: impl Iterator<Item = &'a [u8]> + Clone,
    ) -> Result<(), AuditError> {
        let is_new = self.open_file()?;
        let again = if is_new { self.policy.clone() } else { None };
        let records = again.as_deref().into_iter().chain(records.map(|json| -> &[u8] { json }));
        let mut text =
            Vec::with_capacity(records.clone().map(|json| json.len() + CHAIN_BYTES_MAX).sum());
        let (mut seq, mut prev) = (self.seq, self.prev);
        for json in records.clone() {
            seq += 1;
            prev = chain_line(&mut text, seq, &prev, json);
        }
        let Some((file, _)) = self.file.as_mut() else {
            return Err(self.io(io::ErrorKind::NotFound.into()));
        };
        if let Err(source) = write_whole(file, &text, self.sync) {
            // A part of the batch may be in the file: cut it off, or the chain would break there.
            self.cut = Some(self.bytes);
            let _ = self.cut_off();
            return Err(self.io(source));
        }
        self.bytes += text.len() as u64;
        (self.seq, self.prev) = (seq, prev);
        if let Some(policy) = records.filter(|json| json.starts_with(POLICY_START)).last() {
            self.policy = Some(policy.to_owned());
        }
        Ok(())
    }

    /// Sees to it that the log is open at its path, and where it ends; whether it is a new file.
    fn open_file(&mut self) -> Result<bool, AuditError> {
        self.cut_off().map_err(|source| self.io(source))?;
        match self.file.as_ref().map(|(_, inode)| inode.length_at(&self.path)) {
            Some(Some(length)) => {
                // As `logrotate` does with copytruncate, somebody may have shortened it.
                self.bytes = length;
                return Ok(length == 0);
            }
            Some(None) => {
                tracing::warn!("audit log was moved, deleted or replaced: its chain goes on");
                self.file = None;
            }
            None => {}
        }
        self.reopen()?;
        Ok(self.bytes == 0)
    }

    /// Cuts off what a write that failed has left, if something is left; then the file is opened anew.
    fn cut_off(&mut self) -> io::Result<()> {
        if let (Some(bytes), Some((file, _))) = (self.cut, &self.file) {
            file.set_len(bytes)?;
            (self.cut, self.file) = (None, None);
        }
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
            if window >= 2 * LINE_BYTES_MAX as u64 {
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
