//! Keeps fingerprints in memory and, where there is a ledger, on disk.
//!
//! A fingerprint is appended by whoever notes it, before anything else happens: a process that dies later
//! has lost nothing. Where a power cut must lose nothing either, a thread syncs, once for all who wait
//! together, and a [`Saved`] waits for that. The same thread writes the file anew when most of it is
//! stale, and after a failure: memory has everything, so a file that is writable again is whole again.
//!
//! Until then the ledger counts as incomplete, in memory and in its header.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::watch;

use super::TaintError;
use super::known::Known;
use super::ledger::{Ledger, Place, Seal, State};
use crate::durable::still_linked;
use crate::shared_state::Fingerprint;

/// How long after a failure the file is tried again.
const REST: Duration = Duration::from_secs(1);
/// A file is written anew when it is longer than twice what is in it, and this, bytes.
const COMPACT_BYTES_MIN: u64 = 1 << 20;
const SLOT_BYTES: u64 = 32;

/// Memory, and the ledger behind it.
pub(super) struct Keeper {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    inner: Mutex<Inner>,
    wake: Condvar,
    /// Appends that are as safe as they will be.
    saved: watch::Sender<u64>,
    key: [u8; 32],
    seal: Seal,
    place: Option<Place>,
    sync: bool,
}

struct Inner {
    known: Known,
    /// `None` while the file cannot be written, and where there is none.
    ledger: Option<Ledger>,
    /// The folder is this process's own while it is held.
    lock: Option<File>,
    /// What is in the folder was written under another key, or there is nothing.
    is_foreign: bool,
    failing: bool,
    /// Appends so far.
    appended: u64,
    /// What is noted while the file is written anew.
    meanwhile: Option<Vec<u8>>,
    stop: bool,
}

/// Fingerprints that are on their way to disk.
#[must_use = "a reply may not end before what it taints is kept"]
pub struct Saved {
    waits: Option<(watch::Receiver<u64>, u64)>,
}

impl Saved {
    /// Nothing to wait for.
    pub(super) fn now() -> Saved {
        Saved { waits: None }
    }

    /// Waits until they are as safe as the config asks for. A disk that fails ends the wait, too: then the
    /// ledger counts as incomplete.
    pub async fn wait(self) {
        if let Some((mut saved, number)) = self.waits {
            let _ = saved.wait_for(|done| *done >= number).await;
        }
    }
}

impl Keeper {
    /// Memory alone.
    pub(super) fn in_memory(known: Known, key: &[u8; 32]) -> Keeper {
        let shared = Shared::new(known, *key, None, false);
        Keeper { shared: Arc::new(shared), thread: None }
    }

    /// Memory and a ledger in a folder; also gives back the key that fingerprints are made under. A ledger
    /// that cannot be used is no error: what it should have held is unknown, and it is tried again.
    pub(super) fn open(
        folder: &Path,
        sync: bool,
        mut known: Known,
        fresh_key: [u8; 32],
        now: u64,
    ) -> Result<(Keeper, [u8; 32]), TaintError> {
        let place = Place::new(folder);
        let lock = match place.lock() {
            Ok(Some(lock)) => Some(lock),
            Ok(None) => return Err(TaintError::Locked(folder.to_owned())),
            Err(error) => {
                known.forget(now);
                let path = folder.display();
                tracing::error!(%error, %path, "ledger of private conversations cannot be used");
                None
            }
        };
        let state = if lock.is_some() { place.read() } else { State::Damaged(None, String::new()) };
        let (found, damage) = match state {
            State::Nothing => (None, None),
            State::Whole(found) => (Some(found), None),
            State::Damaged(found, what) => (found, Some(what)),
        };
        let (key, bytes) = found.as_ref().map_or((fresh_key, 0), |found| (found.key, found.bytes));
        let is_new = found.is_none();
        for (print, at) in found.iter().flat_map(|found| &found.records) {
            known.restore(*print, *at);
        }
        if let Some(at) = found.and_then(|found| found.forgotten_at) {
            known.forget(at);
        }
        known.fit(now);
        if let Some(what) = &damage
            && lock.is_some()
        {
            known.forget(now);
            let path = folder.display();
            tracing::error!(
                what, %path,
                "ledger of private conversations is damaged: histories that are not found are unknown"
            );
        }
        let shared = Shared::new(known, key, Some(place), sync);
        let mut inner = shared.lock();
        inner.lock = lock;
        inner.is_foreign = is_new;
        let is_whole = damage.is_none() && !is_new && inner.lock.is_some();
        if let (Some(place), true) = (&shared.place, is_whole) {
            let opened = place.open(&shared.seal, bytes);
            inner.ledger = opened.inspect_err(|error| fail(error, folder)).ok();
        }
        inner.failing = inner.lock.is_none() || (is_whole && inner.ledger.is_none());
        drop(inner);
        if !is_whole {
            shared.write_anew();
        }
        Ok((Keeper::start(shared)?, key))
    }

    fn start(shared: Shared) -> Result<Keeper, TaintError> {
        let shared = Arc::new(shared);
        let of_thread = shared.clone();
        let thread = std::thread::Builder::new()
            .name("taint".to_owned())
            .spawn(move || of_thread.work())
            .map_err(TaintError::Thread)?;
        Ok(Keeper { shared, thread: Some(thread) })
    }

    /// Notes fingerprints.
    pub(super) fn note(&self, prints: &[Fingerprint], now: u64) -> Saved {
        if prints.is_empty() {
            return Saved::now();
        }
        let shared = &self.shared;
        let mut inner = shared.lock();
        let forgotten_before = inner.known.forgotten_at();
        let news: Vec<u8> = prints
            .iter()
            .filter(|print| inner.known.note(**print, now))
            .flat_map(|print| shared.seal.slot(print, now))
            .collect();
        if shared.place.is_none() {
            return Saved::now();
        }
        if !news.is_empty() {
            shared.append(&mut inner, &news);
        }
        let forgotten_at = inner.known.forgotten_at();
        if forgotten_at != forgotten_before {
            shared.mark(&mut inner, forgotten_at);
        }
        // What was noted a moment ago by somebody else may not be safe yet either.
        let unsafe_yet = shared.sync && !inner.failing && *shared.saved.borrow() < inner.appended;
        if inner.failing || unsafe_yet || shared.is_stale(&inner) {
            shared.wake.notify_one();
        }
        match unsafe_yet {
            true => Saved { waits: Some((shared.saved.subscribe(), inner.appended)) },
            false => Saved::now(),
        }
    }

    /// Whether one of these is known, and, if none is, whether that says nothing.
    pub(super) fn look_up(&self, prints: &[Fingerprint], now: u64) -> (bool, bool) {
        let inner = self.shared.lock();
        let is_known = prints.iter().any(|print| inner.known.contains(print));
        (is_known, self.shared.is_incomplete(&inner, now))
    }

    /// Whether nothing is known, and nothing was lost.
    pub(super) fn is_empty(&self, now: u64) -> bool {
        let inner = self.shared.lock();
        inner.known.is_empty() && !self.shared.is_incomplete(&inner, now)
    }

    /// All that is known.
    pub(super) fn all(&self) -> Vec<Fingerprint> {
        self.shared.lock().known.all().map(|(print, _)| print).collect()
    }

    /// In one word, for probes: `memory`, `kept`, `incomplete` or `down`.
    pub(super) fn word(&self, now: u64) -> &'static str {
        let inner = self.shared.lock();
        match (&self.shared.place, inner.failing) {
            (None, _) => "memory",
            (Some(_), true) => "down",
            (Some(_), false) if inner.known.has_forgotten(now) => "incomplete",
            (Some(_), false) => "kept",
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.shared.lock().known.len()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.take() {
            // It died with a panic, which was logged, or it is done.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn new(known: Known, key: [u8; 32], place: Option<Place>, sync: bool) -> Shared {
        let inner = Inner {
            known,
            ledger: None,
            lock: None,
            is_foreign: false,
            failing: false,
            appended: 0,
            meanwhile: None,
            stop: false,
        };
        let (inner, saved) = (Mutex::new(inner), watch::Sender::new(0));
        let seal = Seal::new(&key);
        Shared { inner, wake: Condvar::new(), saved, key, seal, place, sync }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics while the lock is held, and every part is valid at every step.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_incomplete(&self, inner: &Inner, now: u64) -> bool {
        (self.place.is_some() && inner.failing) || inner.known.has_forgotten(now)
    }

    fn append(&self, inner: &mut Inner, slots: &[u8]) {
        inner.appended += 1;
        if let Some(meanwhile) = &mut inner.meanwhile {
            meanwhile.extend_from_slice(slots);
        }
        let Some(ledger) = &mut inner.ledger else { return };
        if let Err(error) = ledger.append(slots) {
            self.give_up(inner, &error);
        }
    }

    fn mark(&self, inner: &mut Inner, forgotten_at: Option<u64>) {
        let Some(ledger) = &mut inner.ledger else { return };
        if let Err(error) = ledger.mark(forgotten_at) {
            self.give_up(inner, &error);
        }
    }

    /// The file takes no more: it says so in its header, as far as it can, and is tried again later.
    fn give_up(&self, inner: &mut Inner, error: &io::Error) {
        if let Some(mut ledger) = inner.ledger.take() {
            let _ = ledger.mark(Some(super::now()));
        }
        inner.failing = true;
        if let Some(place) = &self.place {
            fail(error, place.folder());
        }
        // Who waits need not wait for what does not come.
        self.saved.send_replace(inner.appended);
    }

    /// Whether most of the file says nothing new.
    fn is_stale(&self, inner: &Inner) -> bool {
        let live = inner.known.len() as u64 * SLOT_BYTES;
        let bytes = inner.ledger.as_ref().map_or(0, Ledger::bytes);
        bytes > COMPACT_BYTES_MIN.max(2 * live)
    }

    /// Syncs, writes anew, tries again, until it is told to stop and nothing waits.
    fn work(&self) {
        let mut inner = self.lock();
        loop {
            if inner.failing {
                if inner.stop {
                    return;
                }
                inner =
                    self.wake.wait_timeout(inner, REST).unwrap_or_else(PoisonError::into_inner).0;
                drop(inner);
                self.write_anew();
            } else if self.is_stale(&inner) {
                drop(inner);
                self.write_anew();
            } else if self.sync && *self.saved.borrow() < inner.appended {
                drop(inner);
                self.sync();
            } else if inner.stop {
                return;
            } else {
                drop(self.wake.wait(inner).unwrap_or_else(PoisonError::into_inner));
            }
            inner = self.lock();
        }
    }

    /// One sync for all who wait.
    fn sync(&self) {
        let (handle, appended) = {
            let inner = self.lock();
            (inner.ledger.as_ref().map(Ledger::handle), inner.appended)
        };
        match handle.transpose().and_then(|file| file.map_or(Ok(()), |file| file.sync_data())) {
            Ok(()) => drop(self.saved.send_replace(appended)),
            Err(error) => self.give_up(&mut self.lock(), &error),
        }
    }

    /// Writes all that memory holds to a new file, and goes on in that.
    fn write_anew(&self) {
        let Some(place) = &self.place else { return };
        let (records, forgotten_at) = {
            let mut inner = self.lock();
            inner.meanwhile = Some(Vec::new());
            let records = inner.known.all().flat_map(|(print, at)| self.seal.slot(&print, at));
            (records.collect::<Vec<u8>>(), inner.known.forgotten_at())
        };
        let written = self.prepare(place);
        let written = written.and_then(|()| place.write_beside(&self.seal, forgotten_at, &records));
        let mut inner = self.lock();
        let meanwhile = inner.meanwhile.take().unwrap_or_default();
        let adopted = written.and_then(|mut ledger| {
            ledger.append(&meanwhile)?;
            ledger.mark(inner.known.forgotten_at())?;
            ledger.handle()?.sync_all()?;
            place.adopt()?;
            Ok(ledger)
        });
        match adopted {
            Ok(ledger) => {
                inner.ledger = Some(ledger);
                if std::mem::take(&mut inner.failing) {
                    let path = place.folder().display();
                    tracing::info!(%path, "ledger of private conversations is written");
                }
                self.saved.send_replace(inner.appended);
            }
            Err(error) if !inner.failing => self.give_up(&mut inner, &error),
            // It was said when it began.
            Err(_) => {}
        }
    }

    /// Makes sure that the folder is this process's own and holds its key.
    fn prepare(&self, place: &Place) -> io::Result<()> {
        let (is_locked, is_foreign) = {
            let inner = self.lock();
            (inner.lock.as_ref().is_some_and(|lock| still_linked(lock).is_ok()), inner.is_foreign)
        };
        if !is_locked {
            let lock = place.lock()?;
            let taken = || io::Error::other("another process has the folder");
            self.lock().lock = Some(lock.ok_or_else(taken)?);
        }
        if is_foreign {
            // What was written under another key says nothing under this one.
            place.put_aside(super::now());
        }
        place.keep_key(&self.key)?;
        self.lock().is_foreign = false;
        Ok(())
    }
}

fn fail(error: &io::Error, folder: &Path) {
    let path = folder.display();
    tracing::error!(
        %error, %path,
        "ledger of private conversations takes no records: histories that are not found are unknown"
    );
}

#[cfg(test)]
mod tests;
