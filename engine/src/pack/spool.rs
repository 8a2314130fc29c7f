//! Files that are arriving, kept only as long as something needs them.
//!
//! Each file comes front to back and is cut into segments, one file on disk each. A segment is
//! deleted when nothing will read it any more, so that a model can be packed without ever being here
//! as a whole. The SHA-256 of the whole file goes along; its state is kept with every full segment,
//! and an interrupted download goes on behind the last byte that reached the disk.
//!
//! Invariants: `position` bytes of a file have been hashed; a deleted segment is full and hashed.
//! Not here: where bytes come from, and what they are for (`arrival`).

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use sha2::digest::common::hazmat::{SerializableState, SerializedState};
use sha2::{Digest, Sha256};

use super::ArrivingFile;
use super::writer::wrote;
use crate::error::EngineError;
use crate::io::ReadAt;
use crate::weights::read_small;

/// Name of the file that says what is here.
const STATE: &str = "state.json";

/// What is kept of all files between two attempts.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    files: Vec<ArrivingFile>,
    segment_bytes: u64,
    hashes: Vec<HashState>,
}

/// The state of a file's SHA-256 at a segment's end.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HashState {
    bytes: u64,
    /// The hash's own form, hexadecimal.
    state: String,
}

/// The files of a model on their way.
pub(super) struct Spool {
    folder: PathBuf,
    segment_bytes: u64,
    files: Vec<Arriving>,
    saved: Vec<HashState>,
}

struct Arriving {
    facts: ArrivingFile,
    position: Arc<AtomicU64>,
    hash: Sha256,
    /// The segment that is growing.
    open: Option<File>,
}

impl Spool {
    /// Opens the folder and finds out how far an earlier attempt at the same files came. Anything
    /// else in the folder is removed.
    pub(super) fn open(
        folder: &Path,
        files: Vec<ArrivingFile>,
        segment_bytes: u64,
    ) -> Result<Self, EngineError> {
        let same = |s: &State| s.files == files && s.segment_bytes == segment_bytes;
        let saved = match State::read(&folder.join(STATE)).filter(same) {
            Some(state) if state.hashes.len() == files.len() => state.hashes,
            _ => {
                if folder.exists() {
                    std::fs::remove_dir_all(folder).map_err(wrote(folder))?;
                }
                vec![HashState::of(0, &Sha256::new()); files.len()]
            }
        };
        std::fs::create_dir_all(folder).map_err(wrote(folder))?;
        let mut spool =
            Spool { folder: folder.to_owned(), segment_bytes, files: Vec::new(), saved };
        for (index, facts) in files.into_iter().enumerate() {
            let (bytes, hash) = spool.saved[index].restored(facts.bytes);
            let position = Arc::new(AtomicU64::new(bytes));
            spool.files.push(Arriving { facts, position, hash, open: None });
            spool.take_up(index)?;
        }
        spool.save()?;
        Ok(spool)
    }

    /// Takes up a segment that an earlier attempt left unfinished.
    fn take_up(&mut self, file: usize) -> Result<(), EngineError> {
        let position = self.position(file);
        let path = self.segment(file, position / self.segment_bytes);
        let limit = self.segment_bytes.min(self.files[file].facts.bytes - position);
        let Ok(mut found) = File::open(&path) else { return Ok(()) };
        let mut bytes = Vec::new();
        Read::by_ref(&mut found).take(limit).read_to_end(&mut bytes).map_err(|e| read(&path, e))?;
        // Written again: what follows it must not be older bytes of a longer file.
        std::fs::remove_file(&path).map_err(wrote(&path))?;
        self.push(file, &bytes)
    }

    /// Bytes of a file that have arrived.
    pub(super) fn position(&self, file: usize) -> u64 {
        self.files[file].position.load(Ordering::Acquire)
    }

    pub(super) fn facts(&self, file: usize) -> &ArrivingFile {
        &self.files[file].facts
    }

    pub(super) fn len(&self) -> usize {
        self.files.len()
    }

    /// Adds bytes behind those that are here. Panics if they leave the file (callers cut them).
    pub(super) fn push(&mut self, file: usize, mut bytes: &[u8]) -> Result<(), EngineError> {
        let left = self.files[file].facts.bytes - self.position(file);
        assert!(bytes.len() as u64 <= left, "a file does not grow while it arrives");
        while !bytes.is_empty() {
            let position = self.position(file);
            let end = self.segment_end(file, position / self.segment_bytes);
            let (now, later) = bytes.split_at(bytes.len().min((end - position) as usize));
            self.append(file, position / self.segment_bytes, now)?;
            bytes = later;
            if position + now.len() as u64 == end {
                self.files[file].open = None;
                self.saved[file] = HashState::of(end, &self.files[file].hash);
                self.save()?;
            }
        }
        Ok(())
    }

    fn append(&mut self, file: usize, segment: u64, bytes: &[u8]) -> Result<(), EngineError> {
        let path = self.segment(file, segment);
        let arriving = &mut self.files[file];
        let open = match &mut arriving.open {
            Some(open) => open,
            none => {
                let options = OpenOptions::new().create(true).append(true).open(&path);
                none.insert(options.map_err(wrote(&path))?)
            }
        };
        open.write_all(bytes).map_err(wrote(&path))?;
        arriving.hash.update(bytes);
        arriving.position.fetch_add(bytes.len() as u64, Ordering::Release);
        Ok(())
    }

    /// SHA-256 of a file that is here as a whole.
    pub(super) fn sha256(&self, file: usize) -> String {
        let digest = self.files[file].hash.clone().finalize();
        digest.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// Segments of a file that have arrived as a whole.
    pub(super) fn full_segments(&self, file: usize) -> u64 {
        let position = self.position(file);
        if position == self.files[file].facts.bytes {
            position.div_ceil(self.segment_bytes)
        } else {
            position / self.segment_bytes
        }
    }

    /// The segments that hold a range of a file.
    pub(super) fn segments_of(&self, range: &std::ops::Range<u64>) -> std::ops::Range<u64> {
        range.start / self.segment_bytes..range.end.div_ceil(self.segment_bytes)
    }

    /// Deletes a full segment that nothing needs, if it is still there.
    pub(super) fn release(&self, file: usize, segment: u64) -> Result<(), EngineError> {
        let path = self.segment(file, segment);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(wrote(&path)(error)),
            _ => Ok(()),
        }
    }

    /// Whether a segment is on disk.
    pub(super) fn holds(&self, file: usize, segment: u64) -> bool {
        self.segment(file, segment).is_file()
    }

    /// Forgets everything and begins anew.
    pub(super) fn empty(&mut self) -> Result<(), EngineError> {
        let files = self.files.iter().map(|f| f.facts.clone()).collect();
        if self.folder.exists() {
            self.remove()?;
        }
        *self = Spool::open(&self.folder.clone(), files, self.segment_bytes)?;
        Ok(())
    }

    /// A reader of what is here of a file.
    pub(super) fn reader(&self, file: usize) -> Arc<dyn ReadAt> {
        let arriving = &self.files[file];
        Arc::new(SpoolAt {
            path: self.folder.join(&arriving.facts.name),
            folder: self.folder.clone(),
            file,
            len: arriving.facts.bytes,
            segment_bytes: self.segment_bytes,
            position: Arc::clone(&arriving.position),
        })
    }

    /// Removes everything.
    pub(super) fn remove(&self) -> Result<(), EngineError> {
        std::fs::remove_dir_all(&self.folder).map_err(wrote(&self.folder))
    }

    fn segment(&self, file: usize, segment: u64) -> PathBuf {
        self.folder.join(segment_name(file, segment))
    }

    fn segment_end(&self, file: usize, segment: u64) -> u64 {
        ((segment + 1) * self.segment_bytes).min(self.files[file].facts.bytes)
    }

    fn save(&self) -> Result<(), EngineError> {
        let state = State {
            files: self.files.iter().map(|f| f.facts.clone()).collect(),
            segment_bytes: self.segment_bytes,
            hashes: self.saved.clone(),
        };
        let path = self.folder.join(STATE);
        let next = path.with_extension("next");
        let text = serde_json::to_vec(&state).expect("a state is plain data");
        std::fs::write(&next, text).map_err(wrote(&next))?;
        std::fs::rename(&next, &path).map_err(wrote(&path))
    }
}

impl State {
    fn read(path: &Path) -> Option<State> {
        serde_json::from_slice(&read_small(path).ok()?).ok()
    }
}

impl HashState {
    fn of(bytes: u64, hash: &Sha256) -> Self {
        let state = hash.serialize().iter().map(|b| format!("{b:02x}")).collect();
        HashState { bytes, state }
    }

    /// Position and hash; the file's start where the state cannot be read.
    fn restored(&self, file_bytes: u64) -> (u64, Sha256) {
        let mut state = SerializedState::<Sha256>::default();
        let readable = self.state.len() == 2 * state.len() && self.state.is_ascii();
        let restored = (readable && self.bytes <= file_bytes).then(|| {
            for (byte, digits) in state.iter_mut().zip(self.state.as_bytes().chunks(2)) {
                let digits = std::str::from_utf8(digits).ok()?;
                *byte = u8::from_str_radix(digits, 16).ok()?;
            }
            Sha256::deserialize(&state).ok()
        });
        match restored.flatten() {
            Some(hash) => (self.bytes, hash),
            None => (0, Sha256::new()),
        }
    }
}

fn segment_name(file: usize, segment: u64) -> String {
    format!("{file:05}-{segment:08}")
}

fn read(path: &Path, source: io::Error) -> EngineError {
    EngineError::Read { path: path.to_owned(), source }
}

/// Reads segments. What has not arrived is an error of kind `WouldBlock`.
struct SpoolAt {
    /// Name for error messages; there is no such file.
    path: PathBuf,
    folder: PathBuf,
    file: usize,
    len: u64,
    segment_bytes: u64,
    position: Arc<AtomicU64>,
}

impl ReadAt for SpoolAt {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64).filter(|end| *end <= self.len);
        let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
        if end > self.position.load(Ordering::Acquire) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let (mut at, mut rest) = (offset, buf);
        while !rest.is_empty() {
            let segment = at / self.segment_bytes;
            let within = at % self.segment_bytes;
            let n = rest.len().min((self.segment_bytes - within) as usize);
            let (now, later) = rest.split_at_mut(n);
            let path = self.folder.join(segment_name(self.file, segment));
            File::open(path)?.read_exact_at(now, within)?;
            at += n as u64;
            rest = later;
        }
        Ok(())
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn path(&self) -> &Path {
        &self.path
    }
}
