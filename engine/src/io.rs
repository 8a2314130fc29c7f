//! Positional reads: the only way to model files after their headers.
//!
//! A trait because there are three readers from the first day: a file, memory (tests, small packs) and
//! a faulty one (tests). Faster readers (O_DIRECT, io_uring) are further implementations.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// Something of fixed length that can be read at any offset from several threads at once.
pub(crate) trait ReadAt: Send + Sync {
    /// Fills `buf` from `offset`. A short read is an error of kind `UnexpectedEof`.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;
    /// Length in bytes.
    fn len(&self) -> u64;
    /// Name for error messages.
    fn path(&self) -> &Path;
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
