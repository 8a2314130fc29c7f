//! Reads from a mapping of the file: the kernel brings pages in as they are touched.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::ReadAt;

/// A mapped file.
pub(super) struct MappedAt {
    /// `None` for an empty file, which cannot be mapped.
    map: Option<Mmap>,
    path: PathBuf,
}

impl MappedAt {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let map = if file.metadata()?.len() == 0 {
            None
        } else {
            // SAFETY: the mapping is private to this value and only copied from. A model file that
            // another process cuts while it is served ends this process with SIGBUS, as with every
            // mapped file; that is why mapping is never chosen by itself.
            Some(unsafe { Mmap::map(&file)? })
        };
        Ok(MappedAt { map, path: path.to_owned() })
    }

    fn bytes(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }
}

impl ReadAt for MappedAt {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let part = usize::try_from(offset)
            .ok()
            .and_then(|at| self.bytes().get(at..at.checked_add(buf.len())?))
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(part);
        Ok(())
    }

    fn len(&self) -> u64 {
        self.bytes().len() as u64
    }

    fn path(&self) -> &Path {
        &self.path
    }
}
