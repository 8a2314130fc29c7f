//! Positional reads: the only way to model files after their headers, in the fastest way that works.
//!
//! A trait because there are several readers: through the page cache, around it (O_DIRECT), from a
//! mapping, and in tests from memory or from a disk that fails. A [`Ring`] has the kernel read many at
//! once from those that have a descriptor. All give the same bytes; which one is used changes speed and
//! nothing else.
//!
//! Around the page cache is right when the experts do not fit in memory: the cache of experts knows
//! better than the kernel what to keep, and both at once hold everything twice. When they fit, the
//! page cache makes the next start fast. Mapped files are for measuring: page faults read in small
//! pieces and were several times slower than either on every disk that anybody published.

mod direct;
mod mapped;
mod memory;
mod slot;
mod uring;

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use direct::DirectAt;
use mapped::MappedAt;
pub(crate) use memory::MemoryAt;
pub(crate) use slot::{Slot, Slots};
pub(crate) use uring::{Done, Part, Read, Ring};

/// Something of fixed length that can be read at any offset from several threads at once.
pub(crate) trait ReadAt: Send + Sync {
    /// Fills `buf` from `offset`. A short read is an error of kind `UnexpectedEof`.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;
    /// Fills `buf[range]` from `offset`. The rest of the pages that the range touches may be written over,
    /// so that a reader that reads pages needs no other place for them.
    fn read_pages_at(&self, buf: &mut [u8], range: Range<usize>, offset: u64) -> io::Result<()> {
        self.read_exact_at(&mut buf[range], offset)
    }
    /// Length in bytes.
    fn len(&self) -> u64;
    /// Name for error messages.
    fn path(&self) -> &Path;
    /// Where the kernel can read the same bytes by itself; `None` where it cannot.
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// In which way experts are read, and how many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reading {
    /// Never [`IoChoice::Auto`].
    pub(crate) choice: IoChoice,
    /// Experts under way at once.
    pub(crate) depth: usize,
}

impl Reading {
    /// What usually saturates a flash disk: a few reads of this size for threads, which take turns on
    /// the processor, more for a ring, which needs none.
    pub(crate) fn usual(choice: IoChoice) -> Reading {
        Reading { choice, depth: if choice == IoChoice::Uring { 8 } else { 4 } }
    }
}

/// How experts are read from flash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IoChoice {
    /// What a test at start finds fastest; `Buffered` if all experts fit in the cache.
    #[default]
    Auto,
    /// By a ring of the kernel's (io_uring), around the page cache. Falls back to `Direct`, with a
    /// warning, where the kernel has none.
    Uring,
    /// By threads, around the page cache (O_DIRECT). Falls back to `Buffered`, with a warning, where a test read
    /// fails.
    Direct,
    /// By threads, through the page cache.
    Buffered,
    /// By threads, from a mapping of the file.
    Mapped,
}

impl IoChoice {
    /// All choices with their names on the command line.
    pub const ALL: [(&'static str, IoChoice); 5] = [
        ("auto", IoChoice::Auto),
        ("uring", IoChoice::Uring),
        ("direct", IoChoice::Direct),
        ("buffered", IoChoice::Buffered),
        ("mmap", IoChoice::Mapped),
    ];
}

impl fmt::Display for IoChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = IoChoice::ALL.iter().find(|(_, choice)| choice == self).map(|(name, _)| *name);
        f.write_str(name.expect("every choice has a name"))
    }
}

impl std::str::FromStr for IoChoice {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = IoChoice::ALL.iter().find(|(n, _)| *n == name).map(|(_, choice)| *choice);
        found.ok_or_else(|| {
            let names = IoChoice::ALL.map(|(n, _)| n).join(", ");
            format!("unknown way to read {name:?}; choose one of {names}")
        })
    }
}

/// Opens a file for reading experts. Returns the reader and what was chosen in the end; `Auto` is taken
/// as `Direct`.
///
/// Errors only if the file cannot be opened at all.
pub(crate) fn open(path: &Path, choice: IoChoice) -> io::Result<(Arc<dyn ReadAt>, IoChoice)> {
    match choice {
        IoChoice::Mapped => Ok((Arc::new(MappedAt::open(path)?), choice)),
        IoChoice::Buffered => Ok((Arc::new(FileAt::open(path)?), choice)),
        IoChoice::Direct | IoChoice::Uring | IoChoice::Auto => {
            // Opening can succeed where reading then fails (tmpfs, some network disks): the reader's
            // constructor really reads.
            let direct = if choice == IoChoice::Auto { IoChoice::Direct } else { choice };
            match DirectAt::open(path) {
                Ok(reader) => Ok((Arc::new(reader), direct)),
                Err(error) => {
                    tracing::warn!(
                        path = %path.display(), %error,
                        "direct reads do not work here; reading through the page cache"
                    );
                    // A ring would hand such reads to threads of the kernel's: ours do as well.
                    Ok((Arc::new(FileAt::open(path)?), IoChoice::Buffered))
                }
            }
        }
    }
}

/// A file, read through the page cache.
pub(crate) struct FileAt {
    file: File,
    len: u64,
    path: PathBuf,
}

impl FileAt {
    /// Opens a file for positional reads.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        Ok(FileAt { file, len, path: path.to_owned() })
    }
}

impl ReadAt for FileAt {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.file, buf, offset)
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn path(&self) -> &Path {
        &self.path
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file.as_fd())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tensor::{ALIGNMENT, AlignedBytes};

    fn file(len: usize) -> (tempfile::NamedTempFile, Vec<u8>) {
        // Beside the sources and not in the temporary folder, which may be a file system in memory.
        let file = tempfile::NamedTempFile::new_in(env!("CARGO_MANIFEST_DIR")).expect("a file");
        let bytes: Vec<u8> = (0..len).map(|i| (i * 31 % 251) as u8).collect();
        std::fs::write(file.path(), &bytes).expect("written");
        (file, bytes)
    }

    proptest! {
        #[test]
        fn every_way_to_read_gives_the_same_bytes(
            len in 1_usize..40_000, from in 0_usize..40_000, count in 1_usize..20_000, shift in 0_usize..3,
        ) {
            let (file, bytes) = file(len);
            for choice in [IoChoice::Buffered, IoChoice::Direct, IoChoice::Mapped] {
                let (reader, _) = open(file.path(), choice).expect("opens");
                prop_assert_eq!(reader.len(), len as u64);
                let mut buffer = AlignedBytes::zeroed(count + shift);
                let out = &mut buffer.as_mut_slice()[shift..];
                let result = reader.read_exact_at(out, from as u64);
                // In pages of its own, as in the file (and beside, which works as well).
                let start = ALIGNMENT + from % ALIGNMENT + shift;
                let mut pages = AlignedBytes::zeroed((start + count).next_multiple_of(ALIGNMENT));
                let range = start..start + count;
                let by_pages = reader.read_pages_at(pages.as_mut_slice(), range.clone(), from as u64);
                match bytes.get(from..from + count) {
                    Some(expected) => {
                        prop_assert!(result.is_ok(), "{choice}: {result:?}");
                        prop_assert_eq!(&*out, expected, "{}", choice);
                        prop_assert!(by_pages.is_ok(), "{choice}: {by_pages:?}");
                        prop_assert_eq!(&pages.as_slice()[range], expected, "{}", choice);
                        let before = &pages.as_slice()[..ALIGNMENT];
                        prop_assert!(before.iter().all(|b| *b == 0), "{choice}: another's pages");
                    }
                    None => {
                        prop_assert!(result.is_err(), "{choice} read past the end");
                        prop_assert!(by_pages.is_err(), "{choice} read past the end");
                    }
                }
            }
        }
    }

    #[test]
    fn names_round_trip() {
        for (name, choice) in IoChoice::ALL {
            assert_eq!(name.parse(), Ok(choice));
            assert_eq!(choice.to_string(), name);
        }
        assert!("fast".parse::<IoChoice>().expect_err("unknown").contains("direct"));
    }
}
