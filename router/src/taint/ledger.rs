//! The file in which fingerprints outlive the process: slots of 32 bytes, each with a check under the key.
//!
//! The first slot is the header: a name, and when something was lost (0: never). It is written over in
//! place, which needs no room on a full disk: what could not be appended is then known to be missing
//! after a crash, too. Every other slot is a fingerprint and its time. A slot whose check fails was
//! damaged, or written by nobody who has the key; the rest counts. A torn last slot was never confirmed.
//!
//! Nothing here is text, but who has the key can try whether a guess was said: key and file are readable
//! by their owner alone.
//!
//! Not here: when to write and when to sync (`keeper`).

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use ring::hmac;

use crate::shared_state::Fingerprint;

/// Bytes of a header or a record.
const SLOT: usize = 32;
const NAME: &[u8; 16] = b"sluice taint 1\0\n";
/// A longer file is not ours: several times what memory holds.
const FILE_BYTES_MAX: u64 = 64 << 20;
const KEY_BYTES: usize = 32;

/// Where the files are.
#[derive(Clone)]
pub(super) struct Place {
    folder: PathBuf,
}

/// What was found at a start.
pub(super) struct Found {
    pub(super) key: [u8; KEY_BYTES],
    /// Fingerprints with their times, oldest first.
    pub(super) records: Vec<(Fingerprint, u64)>,
    pub(super) forgotten_at: Option<u64>,
    /// Bytes of whole slots.
    pub(super) bytes: u64,
}

/// What stands in the folder.
pub(super) enum State {
    /// Neither a key nor a file: a first start.
    Nothing,
    /// All of it can be used.
    Whole(Found),
    /// Some of it can be used, and something is missing: in words, what.
    Damaged(Option<Found>, String),
}

impl Place {
    pub(super) fn new(folder: &Path) -> Place {
        Place { folder: folder.to_owned() }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    fn log(&self) -> PathBuf {
        self.folder.join("taint.log")
    }

    fn key(&self) -> PathBuf {
        self.folder.join("key")
    }

    /// Takes the folder for this process; `Ok(None)` if another has it.
    pub(super) fn lock(&self) -> io::Result<Option<File>> {
        fs::create_dir_all(&self.folder)?;
        let lock = private(OpenOptions::new().write(true)).open(self.folder.join("lock"))?;
        match lock.try_lock() {
            Ok(()) => Ok(Some(lock)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Reads what is there.
    pub(super) fn read(&self) -> State {
        let damaged = |what: String| State::Damaged(None, what);
        let key = match self.read_key() {
            Ok(key) => key,
            Err(error) => return damaged(format!("failed to read its key: {error}")),
        };
        let bytes = match read_if_there(&self.log()) {
            Ok(bytes) => bytes,
            Err(error) => return damaged(format!("failed to read it: {error}")),
        };
        match (key, bytes) {
            (None, None) => State::Nothing,
            (None, Some(_)) => damaged("its key is gone".to_owned()),
            (Some(key), None) => {
                let found = Found { key, records: Vec::new(), forgotten_at: None, bytes: 0 };
                State::Damaged(Some(found), "it is gone, and its key is there".to_owned())
            }
            (Some(key), Some(bytes)) => parse(key, &bytes),
        }
    }

    fn read_key(&self) -> io::Result<Option<[u8; KEY_BYTES]>> {
        let Some(text) = read_if_there(&self.key())? else { return Ok(None) };
        tighten(&self.key())?;
        let wrong = || io::Error::other("expected 64 hexadecimal digits");
        let text = std::str::from_utf8(&text).map_err(|_| wrong())?.trim();
        let mut key = [0; KEY_BYTES];
        if text.len() != 2 * KEY_BYTES || !text.is_ascii() {
            return Err(wrong());
        }
        for (byte, at) in key.iter_mut().zip((0..text.len()).step_by(2)) {
            *byte = u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| wrong())?;
        }
        Ok(Some(key))
    }

    /// Puts damaged files aside, for who may want to look at them.
    pub(super) fn put_aside(&self, now: u64) {
        for path in [self.log(), self.key()] {
            let aside = path.with_extension(format!("damaged-{now}"));
            // What cannot be moved will be replaced, and if not even that, the replacement says so.
            let _ = fs::rename(&path, aside);
        }
    }

    /// Writes the key, unless it is there.
    pub(super) fn keep_key(&self, key: &[u8; KEY_BYTES]) -> io::Result<()> {
        if self.read_key().ok().flatten().is_some_and(|kept| kept == *key) {
            return Ok(());
        }
        let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        crate::durable::replace(&self.key(), format!("{hex}\n").as_bytes())
    }

    /// Opens the file behind its whole slots.
    pub(super) fn open(&self, seal: &Seal, bytes: u64) -> io::Result<Ledger> {
        let file = OpenOptions::new().read(true).write(true).open(self.log())?;
        file.set_len(bytes)?;
        Ok(Ledger { file, bytes, seal: seal.clone() })
    }

    /// Writes a file of all records beside the one in force. [`Place::adopt`] puts it there.
    pub(super) fn write_beside(
        &self,
        seal: &Seal,
        forgotten_at: Option<u64>,
        records: &[u8],
    ) -> io::Result<Ledger> {
        fs::create_dir_all(&self.folder)?;
        let mut file = private(OpenOptions::new().read(true).write(true).truncate(true))
            .open(self.beside())?;
        file.write_all(&seal.header(forgotten_at))?;
        file.write_all(records)?;
        file.sync_all()?;
        let bytes = (SLOT + records.len()) as u64;
        Ok(Ledger { file, bytes, seal: seal.clone() })
    }

    /// The file that was written beside is in force from now on.
    pub(super) fn adopt(&self) -> io::Result<()> {
        fs::rename(self.beside(), self.log())?;
        File::open(&self.folder)?.sync_all()
    }

    fn beside(&self) -> PathBuf {
        self.folder.join("taint.new")
    }
}

/// Checks of slots.
#[derive(Clone)]
pub(super) struct Seal(hmac::Key);

impl Seal {
    /// Slots are checked under a key of their own, derived from that of the fingerprints.
    pub(super) fn new(key: &[u8; KEY_BYTES]) -> Seal {
        let key = hmac::Key::new(hmac::HMAC_SHA256, key);
        let derived = hmac::sign(&key, b"sluice taint ledger 1");
        Seal(hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref()))
    }

    fn header(&self, forgotten_at: Option<u64>) -> [u8; SLOT] {
        self.slot(NAME, forgotten_at.unwrap_or(0))
    }

    /// The slot of a fingerprint.
    pub(super) fn slot(&self, print: &Fingerprint, at: u64) -> [u8; SLOT] {
        let mut slot = [0; SLOT];
        slot[..16].copy_from_slice(print);
        slot[16..24].copy_from_slice(&at.to_le_bytes());
        let tag = hmac::sign(&self.0, &slot[..24]);
        slot[24..].copy_from_slice(&tag.as_ref()[..8]);
        slot
    }

    /// What a slot says, if its check is right.
    fn open(&self, slot: &[u8]) -> Option<(Fingerprint, u64)> {
        let print = slot.get(..16)?.try_into().ok()?;
        let at = u64::from_le_bytes(slot.get(16..24)?.try_into().ok()?);
        (self.slot(&print, at) == slot).then_some((print, at))
    }
}

fn parse(key: [u8; KEY_BYTES], bytes: &[u8]) -> State {
    let seal = Seal::new(&key);
    let mut slots = bytes.chunks_exact(SLOT);
    let header = slots.next().and_then(|slot| seal.open(slot)).filter(|(name, _)| name == NAME);
    let Some((_, forgotten_at)) = header else {
        return State::Damaged(None, "its beginning is not ours".to_owned());
    };
    let mut damaged = 0_usize;
    let mut records = Vec::with_capacity(bytes.len() / SLOT);
    for slot in slots {
        match seal.open(slot) {
            Some(record) => records.push(record),
            None => damaged += 1,
        }
    }
    let whole = (bytes.len() / SLOT * SLOT) as u64;
    let forgotten_at = Some(forgotten_at).filter(|at| *at > 0);
    let found = Found { key, records, forgotten_at, bytes: whole };
    match damaged {
        0 => State::Whole(found),
        count => State::Damaged(Some(found), format!("{count} of its records are damaged")),
    }
}

/// The open file.
pub(super) struct Ledger {
    file: File,
    bytes: u64,
    seal: Seal,
}

impl Ledger {
    /// Bytes so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Appends whole slots, or nothing.
    pub(super) fn append(&mut self, slots: &[u8]) -> io::Result<()> {
        crate::durable::still_linked(&self.file)?;
        self.file.seek(SeekFrom::Start(self.bytes))?;
        if let Err(error) = self.file.write_all(slots) {
            // A part of them would be a torn slot in the middle once more follow.
            let _ = self.file.set_len(self.bytes);
            return Err(error);
        }
        self.bytes += slots.len() as u64;
        Ok(())
    }

    /// Writes down when something was lost.
    pub(super) fn mark(&mut self, forgotten_at: Option<u64>) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(&self.seal.header(forgotten_at))
    }

    /// A second handle, to sync by while others append.
    pub(super) fn handle(&self) -> io::Result<File> {
        self.file.try_clone()
    }
}

fn read_if_there(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > FILE_BYTES_MAX {
        true => Err(io::Error::other("it is too long")),
        false => Ok(Some(bytes)),
    }
}

fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    options.create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options
}

/// A key that others can read is made private again: an unpacked backup often is not.
#[cfg(unix)]
fn tighten(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mode = fs::metadata(path)?.permissions().mode();
    if mode & 0o077 == 0 {
        return Ok(());
    }
    tracing::warn!(path = %path.display(), "key of conversation fingerprints was readable by others");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))
}

#[cfg(not(unix))]
fn tighten(_: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; KEY_BYTES] = [7; KEY_BYTES];

    /// Three records written, the file changed by `change`, and what is read back.
    fn after(change: impl FnOnce(&mut Vec<u8>)) -> (usize, Option<u64>, bool) {
        let folder = tempfile::tempdir().unwrap();
        let (place, seal) = (Place::new(folder.path()), Seal::new(&KEY));
        place.keep_key(&KEY).unwrap();
        let mut ledger = place.write_beside(&seal, None, &seal.slot(&[1; 16], 10)).unwrap();
        place.adopt().unwrap();
        ledger.append(&[seal.slot(&[2; 16], 11), seal.slot(&[3; 16], 12)].concat()).unwrap();
        let mut bytes = fs::read(place.log()).unwrap();
        change(&mut bytes);
        fs::write(place.log(), bytes).unwrap();
        match place.read() {
            State::Whole(found) => (found.records.len(), found.forgotten_at, true),
            State::Damaged(found, _) => {
                let found = found.map(|found| (found.records.len(), found.forgotten_at));
                let (count, forgotten_at) = found.unwrap_or_default();
                (count, forgotten_at, false)
            }
            State::Nothing => unreachable!("a file was written"),
        }
    }

    #[test]
    fn damage_is_noticed_and_the_rest_counts() {
        assert_eq!(after(|_| {}), (3, None, true));
        assert_eq!(after(|bytes| bytes.truncate(SLOT * 4 - 5)), (2, None, true), "a torn slot");
        assert_eq!(after(|bytes| bytes.truncate(SLOT)), (0, None, true));
        assert_eq!(after(Vec::clear), (0, None, false));
        assert_eq!(after(|bytes| bytes.extend([0; 2 * SLOT])), (3, None, false), "a hole");
        for at in 0..4 * SLOT {
            let (count, _, whole) = after(|bytes| bytes[at] ^= 1);
            let expected = if at < SLOT { 0 } else { 2 };
            assert_eq!((count, whole), (expected, false), "byte {at}");
        }
    }

    #[test]
    fn a_loss_is_written_down_in_place() {
        let folder = tempfile::tempdir().unwrap();
        let (place, seal) = (Place::new(folder.path()), Seal::new(&KEY));
        place.keep_key(&KEY).unwrap();
        let mut ledger = place.write_beside(&seal, None, &[]).unwrap();
        place.adopt().unwrap();
        ledger.append(&seal.slot(&[2; 16], 11)).unwrap();
        ledger.mark(Some(99)).unwrap();
        ledger.append(&seal.slot(&[3; 16], 12)).unwrap();
        let State::Whole(found) = place.read() else { panic!("it is whole") };
        assert_eq!((found.records.len(), found.forgotten_at), (2, Some(99)));
        assert_eq!(found.bytes, ledger.bytes());
    }

    #[cfg(unix)]
    #[test]
    fn key_and_file_are_their_owners_alone() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let place = Place::new(folder.path());
        place.keep_key(&KEY).unwrap();
        place.write_beside(&Seal::new(&KEY), None, &[]).unwrap();
        place.adopt().unwrap();
        fs::set_permissions(place.key(), fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(place.read(), State::Whole(_)));
        for path in [place.key(), place.log()] {
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{path:?}");
        }
    }
}
