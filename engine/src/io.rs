//! Positional reads: the only way to model files after their headers, in the fastest way that works.
//!
//! A trait because there are several readers: through the page cache, around it (O_DIRECT), from a
//! mapping, and in tests from memory or from a disk that fails. All give the same bytes; which one is
//! used changes speed and nothing else.
//!
//! Around the page cache is right when the experts do not fit in memory: the cache of experts knows
//! better than the kernel what to keep, and both at once hold everything twice. When they fit, the
//! page cache makes the next start fast. Mapped files are for measuring: page faults read in small
//! pieces and were several times slower than either on every disk that anybody published.

mod direct;
mod mapped;
mod memory;

use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use direct::DirectAt;
use mapped::MappedAt;
pub(crate) use memory::MemoryAt;

/// Something of fixed length that can be read at any offset from several threads at once.
pub(crate) trait ReadAt: Send + Sync {
    /// Fills `buf` from `offset`. A short read is an error of kind `UnexpectedEof`.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;
    /// Length in bytes.
    fn len(&self) -> u64;
    /// Name for error messages.
    fn path(&self) -> &Path;
}

/// How experts are read from flash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IoChoice {
    /// `Direct` if the experts do not fit in the cache and a test read works, else `Buffered`.
    #[default]
    Auto,
    /// Around the page cache (O_DIRECT). Falls back to `Buffered`, with a warning, where a test read
    /// fails.
    Direct,
    /// Through the page cache.
    Buffered,
    /// From a mapping of the file.
    Mapped,
}

impl IoChoice {
    /// All choices with their names on the command line.
    pub const ALL: [(&'static str, IoChoice); 4] = [
        ("auto", IoChoice::Auto),
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

/// Opens a file for reading experts. Returns the reader and what was chosen in the end.
///
/// `fits` says whether all experts fit in the cache, which decides `Auto`. Errors only if the file
/// cannot be opened at all.
pub(crate) fn open(
    path: &Path,
    choice: IoChoice,
    fits: bool,
) -> io::Result<(Arc<dyn ReadAt>, IoChoice)> {
    match choice {
        IoChoice::Mapped => Ok((Arc::new(MappedAt::open(path)?), choice)),
        IoChoice::Direct | IoChoice::Auto if !(fits && choice == IoChoice::Auto) => {
            // Opening can succeed where reading then fails (tmpfs, some network disks): the reader's
            // constructor really reads.
            match DirectAt::open(path) {
                Ok(direct) => Ok((Arc::new(direct), IoChoice::Direct)),
                Err(error) => {
                    tracing::warn!(
                        path = %path.display(), %error,
                        "direct reads do not work here; reading through the page cache"
                    );
                    Ok((Arc::new(FileAt::open(path)?), IoChoice::Buffered))
                }
            }
        }
        _ => Ok((Arc::new(FileAt::open(path)?), IoChoice::Buffered)),
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
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tensor::AlignedBytes;

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
            len in 1_usize..40_000, from in 0_usize..40_000, count in 0_usize..20_000, shift in 0_usize..3,
        ) {
            let (file, bytes) = file(len);
            for choice in [IoChoice::Buffered, IoChoice::Direct, IoChoice::Mapped] {
                let (reader, _) = open(file.path(), choice, false).expect("opens");
                prop_assert_eq!(reader.len(), len as u64);
                let mut buffer = AlignedBytes::zeroed(count + shift);
                let out = &mut buffer.as_mut_slice()[shift..];
                let result = reader.read_exact_at(out, from as u64);
                match bytes.get(from..from + count) {
                    Some(expected) => {
                        prop_assert!(result.is_ok(), "{choice}: {result:?}");
                        prop_assert_eq!(&*out, expected, "{}", choice);
                    }
                    None => prop_assert!(result.is_err(), "{choice} read past the end"),
                }
            }
        }
    }

    #[test]
    fn auto_goes_around_the_page_cache_only_when_experts_do_not_fit() {
        let (file, _) = file(5000);
        assert_eq!(open(file.path(), IoChoice::Auto, true).expect("opens").1, IoChoice::Buffered);
        let chosen = open(file.path(), IoChoice::Auto, false).expect("opens").1;
        let forced = open(file.path(), IoChoice::Direct, true).expect("opens").1;
        assert_eq!(chosen, forced);
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
