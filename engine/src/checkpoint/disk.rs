//! States on disk, and the thread that writes and reads them.
//!
//! A file is made, unlinked at once and kept open: it is gone when it is closed, however the process
//! ends. Its contents are sealed (`sealed`). Writing and reading happen on a thread of their own, so
//! that nobody who is being answered waits; one state is written at a time.
//!
//! A file that cannot be read, or was changed, is a miss with a warning. A write that fails (a full
//! disk) is warned of once, and nothing is written any more; what is there is still read.

use std::fs;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use ring::rand::SystemRandom;

use super::sealed::{Key, Opener, Seal, Sealer};
use super::{CheckpointDisk, State};
use crate::error::EngineError;

/// Ending of the files' names, for the moment that they have one.
const ENDING: &str = "checkpoint";
/// Requests that may wait for the thread; one beyond is a miss.
const REQUESTS_MAX: usize = 32;

/// An unlinked file with a sealed state. The last clone that goes frees its room.
#[derive(Clone)]
pub(super) struct File(Arc<OpenFile>);

struct OpenFile {
    file: Mutex<fs::File>,
    seal: Seal,
    bytes: u64,
    used: Arc<AtomicU64>,
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        self.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The disk as the store sees it.
pub(super) struct Disk<S> {
    requests: SyncSender<Request<S>>,
    done: Receiver<Done>,
    writing: bool,
    /// A state for whose writing the thread had no time.
    refused: Option<u64>,
    /// Nothing is written any more.
    full: bool,
    used: Arc<AtomicU64>,
    bytes_max: u64,
}

/// What became of a state: its file, or none if it could not be written or read.
pub(super) struct Done {
    pub(super) id: u64,
    pub(super) file: Option<File>,
    writing: bool,
}

enum Request<S> {
    Write { id: u64, state: Arc<S>, plain_max: u64 },
    Read { id: u64, file: File, fresh: S, position: usize, answer: SyncSender<Option<S>> },
}

impl<S: State> Disk<S> {
    /// Prepares the folder and starts the thread, which ends with the last request.
    pub(super) fn start(
        options: &CheckpointDisk,
        wake: impl Fn() + Send + 'static,
    ) -> Result<Disk<S>, EngineError> {
        let CheckpointDisk { folder, bytes } = options;
        let failed = |source| EngineError::CheckpointFolder { path: folder.clone(), source };
        clean(folder).map_err(&failed)?;
        let used = Arc::<AtomicU64>::default();
        let no_key = || failed(io::Error::other("the system gave no randomness for a key"));
        let key = Key::random().ok_or_else(no_key)?;
        let (requests, incoming) = mpsc::sync_channel(REQUESTS_MAX);
        // The store hears of all that was asked for; the thread waits for it if it must.
        let (sender, done) = mpsc::sync_channel(REQUESTS_MAX);
        let worker = Worker { folder: folder.clone(), key, used: used.clone(), done: sender, wake };
        thread::Builder::new()
            .name("sluice-checkpoints".to_owned())
            .spawn(move || worker.run(incoming))
            .map_err(|source| EngineError::StartThread { source })?;
        Ok(Disk {
            requests,
            done,
            writing: false,
            refused: None,
            full: false,
            used,
            bytes_max: *bytes,
        })
    }

    pub(super) fn bytes_used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    pub(super) fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// A state may be written now.
    pub(super) fn is_idle(&self) -> bool {
        !self.writing && !self.full
    }

    /// Nothing is written any more.
    #[cfg(test)]
    pub(super) fn is_full(&self) -> bool {
        self.full
    }

    /// Begins to write a state of at most so many bytes.
    pub(super) fn write(&mut self, id: u64, state: Arc<S>, plain_max: u64) {
        self.writing = self.requests.try_send(Request::Write { id, state, plain_max }).is_ok();
        self.refused = (!self.writing).then_some(id);
    }

    /// Begins to read a state as it was at a position; `None` if too many are being read.
    pub(super) fn read(
        &self,
        id: u64,
        file: File,
        fresh: S,
        position: usize,
    ) -> Option<Receiver<Option<S>>> {
        let (answer, coming) = mpsc::sync_channel(1);
        let request = Request::Read { id, file, fresh, position, answer };
        self.requests.try_send(request).ok().map(|()| coming)
    }

    /// What the thread has finished since it was asked last.
    pub(super) fn done(&mut self) -> Option<Done> {
        if let Some(id) = self.refused.take() {
            return Some(Done { id, file: None, writing: true });
        }
        let done = self.done.try_recv().ok()?;
        if done.writing {
            self.writing = false;
            if done.file.is_none() {
                self.full = true;
            }
        }
        Some(done)
    }
}

/// Makes the folder and deletes what a crash may have left there in the moment between making a file and
/// unlinking it.
fn clean(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == ENDING) {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    unlinked(folder).map(drop)
}

/// A new file without a name, for this process alone.
fn unlinked(folder: &Path) -> io::Result<fs::File> {
    // Another process may use the same folder, under the same number if each has a container.
    let name: [u8; 8] = ring::rand::generate(&SystemRandom::new())
        .map_err(|_| io::Error::other("the system gave no randomness for a name"))?
        .expose();
    let path = folder.join(format!("{:016x}.{ENDING}", u64::from_ne_bytes(name)));
    let mut options = fs::OpenOptions::new();
    let file = options.read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    fs::remove_file(&path)?;
    Ok(file)
}

/// The thread's side.
struct Worker<W> {
    folder: PathBuf,
    key: Key,
    used: Arc<AtomicU64>,
    done: SyncSender<Done>,
    wake: W,
}

impl<W: Fn()> Worker<W> {
    fn run<S: State>(self, requests: Receiver<Request<S>>) {
        for request in requests {
            let done = match request {
                Request::Write { id, state, plain_max } => {
                    let file = self.write(&*state, plain_max);
                    // Before the store hears of it: then the state is the store's alone.
                    drop(state);
                    if let Err(error) = &file {
                        tracing::warn!(%error, "checkpoints are no longer written to disk");
                    }
                    Some(Done { id, file: file.ok(), writing: true })
                }
                Request::Read { id, file, mut fresh, position, answer } => {
                    let read = self.read(&file, &mut fresh);
                    if let Err(error) = &read {
                        tracing::warn!(%error, "a checkpoint could not be read and was dropped");
                    }
                    // Before whoever asked hears of it, for the same reason.
                    drop(file);
                    let failed = read.is_err();
                    let state = read.ok().and_then(|()| match fresh.position() == position {
                        true => Some(fresh),
                        false => fresh.rewound(position),
                    });
                    // Whoever asked may have left.
                    let _ = answer.send(state);
                    failed.then_some(Done { id, file: None, writing: false })
                }
            };
            if let Some(done) = done
                && self.done.send(done).is_err()
            {
                return;
            }
            (self.wake)();
        }
    }

    fn write<S: State>(&self, state: &S, plain_max: u64) -> io::Result<File> {
        let mut file = unlinked(&self.folder)?;
        let mut sealer = Sealer::new(&self.key, &mut file, plain_max);
        state.write(&mut sealer)?;
        let seal = sealer.finish()?;
        let bytes = file.stream_position()?;
        self.used.fetch_add(bytes, Ordering::Relaxed);
        let used = self.used.clone();
        Ok(File(Arc::new(OpenFile { file: Mutex::new(file), seal, bytes, used })))
    }

    fn read<S: State>(&self, file: &File, fresh: &mut S) -> io::Result<()> {
        let OpenFile { file, seal, .. } = &*file.0;
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(0))?;
        fresh.read(&mut Opener::new(&self.key, &mut *file, *seal))
    }
}

#[cfg(test)]
impl File {
    /// What stands in the file, to look at and to break.
    pub(super) fn with<T>(&self, look: impl FnOnce(&mut fs::File) -> T) -> T {
        look(&mut self.0.file.lock().expect("nobody panicked"))
    }
}
