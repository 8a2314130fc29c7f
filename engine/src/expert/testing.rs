//! Experts on a disk that fails when a test wants it.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Check, ExpertId, ExpertLayout, ExpertStore, LayerExperts, Segment};
use crate::io::{FileAt, ReadAt};
use crate::tensor::{ALIGNMENT, DType, MatrixShape};

/// Experts in the one layer of [`store_on_disk`].
pub(crate) const COUNT: u32 = 40;
/// Bytes of each: no whole page.
pub(crate) const BYTES: usize = 4 * 1500;

/// What a faulty read does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It fails.
    Fail,
    /// It brings a wrong bit.
    Corrupt,
}

/// A file whose n-th read, and some after it, go wrong.
pub(crate) struct Faulty {
    pub(crate) inner: Arc<dyn ReadAt>,
    pub(crate) fault: Fault,
    /// First faulty read, and how many are.
    pub(crate) from: usize,
    pub(crate) count: usize,
    /// Reads so far; may be shared by several files.
    pub(crate) reads: Arc<AtomicUsize>,
}

impl Faulty {
    fn is_faulty(&self, n: usize) -> bool {
        (self.from..self.from + self.count).contains(&n)
    }
}

impl ReadAt for Faulty {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let n = self.reads.fetch_add(1, Ordering::SeqCst);
        if self.is_faulty(n) && self.fault == Fault::Fail {
            return Err(io::Error::other("the disk said no"));
        }
        self.inner.read_exact_at(buf, offset)?;
        if self.is_faulty(n) {
            let middle = buf.len() / 2;
            buf[middle] ^= 1;
        }
        Ok(())
    }

    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn path(&self) -> &Path {
        self.inner.path()
    }

    /// A read that is left to the kernel counts as one, too; a faulty one is not.
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        let n = self.reads.fetch_add(1, Ordering::SeqCst);
        self.inner.fd().filter(|_| !self.is_faulty(n))
    }
}

/// What an expert is filled with.
pub(crate) fn byte_of(expert: u32) -> u8 {
    expert as u8 + 1
}

/// Some experts in a real file, each at the start of a page.
pub(crate) fn store_on_disk(count: u32) -> (tempfile::TempDir, ExpertStore) {
    // Beside the sources and not in the temporary folder, which may be a file system in memory.
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("a folder");
    let path = dir.path().join("experts");
    let stride = BYTES.next_multiple_of(ALIGNMENT);
    let mut bytes = Vec::new();
    for expert in 0..count {
        bytes.resize(bytes.len() + BYTES, byte_of(expert));
        bytes.resize((expert as usize + 1) * stride, 0);
    }
    std::fs::write(&path, bytes).expect("written");
    let store = store(&path, count, |expert| vec![((expert * stride) as u64, BYTES)]);
    (dir, store)
}

/// The same number of experts in three pieces each, as a GGUF file has them: all gates one behind another
/// and not on page boundaries, then what else there is.
pub(crate) fn store_in_pieces(count: u32) -> (tempfile::TempDir, ExpertStore) {
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("a folder");
    let path = dir.path().join("experts");
    let len = BYTES / 3;
    let mut bytes = vec![0xff; HEADER_BYTES];
    for _ in 0..3 {
        (0..count).for_each(|expert| bytes.resize(bytes.len() + len, byte_of(expert)));
    }
    std::fs::write(&path, bytes).expect("written");
    let offset = |expert, matrix| HEADER_BYTES + (matrix * count as usize + expert) * len;
    let pieces = |expert| (0..3).map(|matrix| (offset(expert, matrix) as u64, len)).collect();
    let store = store(&path, count, pieces);
    (dir, store)
}

/// Bytes before the experts of [`store_in_pieces`].
const HEADER_BYTES: usize = 4096 + 32;

/// Experts whose pieces lie at these offsets and have these lengths.
fn store(path: &Path, count: u32, pieces: impl Fn(usize) -> Vec<(u64, usize)>) -> ExpertStore {
    let file: Arc<dyn ReadAt> = Arc::new(FileAt::open(path).expect("opens"));
    let shape = MatrixShape { dtype: DType::F32, rows: 1, cols: BYTES / 4 / 3 };
    let layout = Arc::new(ExpertLayout { gate: shape, up: shape, down: shape });
    let place = |(offset, len)| Segment { file: Arc::clone(&file), offset, len };
    let segments = |expert| pieces(expert).into_iter().map(place).collect();
    let segments = (0..count as usize).map(segments).collect();
    let checksums = (0..count).map(|e| crc32c::crc32c(&[byte_of(e); BYTES])).collect();
    let layer = LayerExperts { layout, segments, check: Check::Checksums(checksums) };
    ExpertStore::new(vec![Some(layer)])
}

/// An expert of the first layer.
pub(crate) fn id(expert: u32) -> ExpertId {
    ExpertId { layer: 0, expert }
}
