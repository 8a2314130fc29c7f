//! Reads around the page cache.
//!
//! O_DIRECT wants offset, length and memory in whole blocks. Where a request fits, its blocks go
//! straight into the caller's buffer; edges that do not, and buffers that are not aligned, pass
//! through a bounce buffer. Experts have pages of their own in their slots (`read_pages_at`) and are never
//! copied.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::ReadAt;
use crate::tensor::{ALIGNMENT, AlignedBytes};

/// Largest piece of an unaligned read that is bounced at once: the matrices of most experts are smaller.
const BOUNCE_BYTES: usize = 1 << 20;

thread_local! {
    /// Where a thread's unaligned reads land, used again and again: fresh pages cost as much as a copy.
    static BOUNCE: RefCell<AlignedBytes> = RefCell::default();
}

/// A file opened with O_DIRECT.
pub(super) struct DirectAt {
    file: File,
    len: u64,
    path: PathBuf,
}

impl DirectAt {
    /// Opens a file and reads its first block, so that a reader that exists works.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path)?;
        let len = file.metadata()?.len();
        let reader = DirectAt { file, len, path: path.to_owned() };
        let first = len.min(ALIGNMENT as u64) as usize;
        reader.read_exact_at(AlignedBytes::zeroed(first).as_mut_slice(), 0)?;
        Ok(reader)
    }

    /// Fills whole blocks. The last block of a file may be shorter: then the rest of `blocks` is left
    /// as it was. Returns the bytes read.
    fn read_blocks(&self, blocks: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < blocks.len() {
            match self.file.read_at(&mut blocks[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            }
            if !done.is_multiple_of(ALIGNMENT) {
                break; // the end of the file
            }
        }
        Ok(done)
    }

    /// Reads any range through a buffer of whole blocks.
    fn read_bounced(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        if buf.is_empty() {
            return Ok(());
        }
        BOUNCE.with_borrow_mut(|bounce| {
            if bounce.len() == 0 {
                *bounce = AlignedBytes::zeroed(BOUNCE_BYTES + 2 * ALIGNMENT);
            }
            let mut done = 0;
            while done < buf.len() {
                let at = offset + done as u64;
                let skip = (at % ALIGNMENT as u64) as usize;
                let wanted = (buf.len() - done).min(BOUNCE_BYTES);
                let blocks =
                    &mut bounce.as_mut_slice()[..(skip + wanted).next_multiple_of(ALIGNMENT)];
                let got = self.read_blocks(blocks, at - skip as u64)?;
                let part = blocks.get(skip..got.min(skip + wanted)).unwrap_or_default();
                if part.is_empty() {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                buf[done..done + part.len()].copy_from_slice(part);
                done += part.len();
            }
            Ok(())
        })
    }
}

impl ReadAt for DirectAt {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64);
        if end.is_none_or(|end| end > self.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let aligned = offset.is_multiple_of(ALIGNMENT as u64)
            && (buf.as_ptr() as usize).is_multiple_of(ALIGNMENT);
        let whole = if aligned { buf.len() / ALIGNMENT * ALIGNMENT } else { 0 };
        let (blocks, rest) = buf.split_at_mut(whole);
        if self.read_blocks(blocks, offset)? < whole {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.read_bounced(rest, offset + whole as u64)
    }

    fn read_pages_at(&self, buf: &mut [u8], range: Range<usize>, offset: u64) -> io::Result<()> {
        let skip = (offset % ALIGNMENT as u64) as usize;
        let pages = range.start.wrapping_sub(skip)..range.end.next_multiple_of(ALIGNMENT);
        let fits = pages.start.is_multiple_of(ALIGNMENT)
            && (buf.as_ptr() as usize).is_multiple_of(ALIGNMENT)
            && pages.end <= buf.len();
        if !fits || offset + range.len() as u64 > self.len {
            return self.read_exact_at(&mut buf[range], offset);
        }
        let wanted = range.end - pages.start;
        match self.read_blocks(&mut buf[pages], offset - skip as u64)? {
            got if got < wanted => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
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
