//! A file in memory: for readers of formats that are given bytes instead of a path.

use std::io;
use std::path::Path;

use super::ReadAt;

/// Bytes that are read like a file.
pub(crate) struct MemoryAt {
    bytes: Vec<u8>,
}

impl MemoryAt {
    /// A copy of some bytes.
    pub(crate) fn new(bytes: &[u8]) -> Self {
        MemoryAt { bytes: bytes.to_vec() }
    }
}

impl ReadAt for MemoryAt {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let range =
            usize::try_from(offset).ok().and_then(|at| Some(at..at.checked_add(buf.len())?));
        let found = range.and_then(|range| self.bytes.get(range));
        buf.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn path(&self) -> &Path {
        Path::new("memory")
    }
}
