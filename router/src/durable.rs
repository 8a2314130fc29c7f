//! Files that must last. One is written as a whole: beside it, synced, renamed, so that a reader sees the old
//! one or the new one; one that stays open is known again ([`still_linked`], [`Inode`]).
//!
//! The mode of the file that was there stays, and so does its owner where this user may say so: a file
//! that root edits must stay readable by the gateway. A new file is readable by its owner alone.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

/// Puts bytes in the place of what a file holds; makes its folder if there is none.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let beside = path.with_extension(format!("{}.new", std::process::id()));
    let mut file = private(&beside)?;
    file.write_all(bytes)?;
    if let Ok(before) = fs::metadata(path) {
        keep_owner(&before, &beside);
        fs::set_permissions(&beside, before.permissions())?;
    }
    file.sync_all()?;
    fs::rename(&beside, path)?;
    File::open(folder)?.sync_all()
}

/// A file that was deleted still takes writes, and nobody would ever read them.
#[cfg(unix)]
pub(crate) fn still_linked(file: &File) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    match file.metadata()?.nlink() {
        0 => Err(io::Error::new(io::ErrorKind::NotFound, "the file was deleted")),
        _ => Ok(()),
    }
}

#[cfg(not(unix))]
pub(crate) fn still_linked(_file: &File) -> io::Result<()> {
    Ok(())
}

/// Which file it is, wherever it is moved.
#[cfg(unix)]
pub(crate) struct Inode {
    device: u64,
    number: u64,
}

#[cfg(unix)]
impl Inode {
    pub(crate) fn of(file: &File) -> io::Result<Inode> {
        Ok(Inode::from(&file.metadata()?))
    }

    /// How long the file is that a path leads to; `None` if that is another or none, as when it was deleted,
    /// moved away or replaced.
    pub(crate) fn length_at(&self, path: &Path) -> Option<u64> {
        let metadata = fs::metadata(path).ok()?;
        let there = Inode::from(&metadata);
        let is_it = (there.device, there.number) == (self.device, self.number);
        is_it.then_some(metadata.len())
    }

    fn from(metadata: &fs::Metadata) -> Inode {
        use std::os::unix::fs::MetadataExt;
        Inode { device: metadata.dev(), number: metadata.ino() }
    }
}

/// Here every file that stands at the path is taken for it.
#[cfg(not(unix))]
pub(crate) struct Inode;

#[cfg(not(unix))]
impl Inode {
    pub(crate) fn of(_file: &File) -> io::Result<Inode> {
        Ok(Inode)
    }

    pub(crate) fn length_at(&self, path: &Path) -> Option<u64> {
        Some(fs::metadata(path).ok()?.len())
    }
}

fn private(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

#[cfg(unix)]
fn keep_owner(before: &fs::Metadata, path: &Path) {
    use std::os::unix::fs::MetadataExt;
    // Only root may give files away; anybody else wrote this file to begin with.
    let _ = std::os::unix::fs::chown(path, Some(before.uid()), Some(before.gid()));
}

#[cfg(not(unix))]
fn keep_owner(_: &fs::Metadata, _: &Path) {}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_new_file_is_private_and_an_old_one_keeps_its_mode() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/keys.yaml");
        let mode = || path.metadata().unwrap().permissions().mode() & 0o777;
        replace(&path, b"one").unwrap();
        assert_eq!((mode(), fs::read(&path).unwrap()), (0o600, b"one".to_vec()));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        replace(&path, b"two").unwrap();
        assert_eq!((mode(), fs::read(&path).unwrap()), (0o640, b"two".to_vec()));
        assert_eq!(fs::read_dir(folder.path().join("deep")).unwrap().count(), 1);
    }
}
