//! Reads that the kernel does by itself: io_uring with registered buffers.
//!
//! All reads of a layer are handed over with one system call and come back in the order in which the
//! disk is done; no thread waits for each. Buffers that are used again and again are registered, so
//! that their pages are not looked up for every read; where registering is not allowed (locked memory
//! is limited) reads work without. The files are opened around the page cache where that works.
//!
//! Invariants: the ring owns a buffer and its file from `push` until `next` hands them back; a ring
//! that is dropped waits for its reads, because the kernel writes to their memory until it is done.
//! Source: io_uring(7), io_uring_register(2): sparse buffer tables since Linux 5.19.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use io_uring::{IoUring, opcode, squeue, types};

use super::{ReadAt, Slot};

/// Buffers that can be registered, the kernel's limit (IORING_MAX_REG_BUFFERS).
const REGISTERED_MAX: u32 = 1 << 14;

/// A queue of reads.
pub(crate) struct Ring {
    ring: IoUring,
    /// Reads that the kernel has, by the number that it gives back.
    flights: Vec<Option<Flight>>,
    free: Vec<usize>,
    /// Which slots are registered, by their numbers; `None` where registering does not work.
    registered: Option<Vec<bool>>,
    /// Reads pushed that the kernel was not told of yet.
    unsubmitted: bool,
}

/// A read to do.
pub(crate) struct Read {
    pub(crate) file: Arc<dyn ReadAt>,
    /// A multiple of the page size.
    pub(crate) offset: u64,
    /// A multiple of the page size, at most the slot's length.
    pub(crate) len: usize,
    pub(crate) slot: Slot,
    /// Comes back with the result.
    pub(crate) tag: usize,
}

/// A read that is done.
pub(crate) struct Done {
    pub(crate) tag: usize,
    pub(crate) slot: Slot,
    /// Bytes that came; fewer than asked at the end of a file, or when the kernel felt like it.
    pub(crate) bytes: io::Result<usize>,
}

struct Flight {
    tag: usize,
    slot: Slot,
    /// Keeps the descriptor open.
    _file: Arc<dyn ReadAt>,
}

impl Ring {
    /// A ring for at most `depth` reads at once. Errors where the kernel has none or forbids it.
    pub(crate) fn new(depth: usize) -> io::Result<Ring> {
        let entries = u32::try_from(depth).unwrap_or(1).next_power_of_two();
        let ring = IoUring::new(entries)?;
        let table = ring.submitter().register_buffers_sparse(REGISTERED_MAX);
        if let Err(error) = &table {
            tracing::debug!(%error, "read buffers cannot be registered; reading without");
        }
        Ok(Ring {
            ring,
            flights: (0..depth).map(|_| None).collect(),
            free: (0..depth).rev().collect(),
            registered: table.ok().map(|()| Vec::new()),
            unsubmitted: false,
        })
    }

    /// Lines a read up. A file without a descriptor is an error that gives the slot back. Panics if the
    /// ring is full or the range does not fit in the slot (caller bugs).
    pub(crate) fn push(&mut self, read: Read) -> Result<(), Slot> {
        let Read { file, offset, len, mut slot, tag } = read;
        assert!(len <= slot.len(), "a read fits in its slot");
        let Some(fd) = file.fd().map(|fd| types::Fd(fd.as_raw_fd())) else { return Err(slot) };
        let registration = self.registration(&mut slot);
        let index = self.free.pop().expect("the ring has room");
        let (start, len) = (slot.as_mut_slice().as_mut_ptr(), len as u32);
        let entry: squeue::Entry = match registration {
            Some(buffer) => opcode::ReadFixed::new(fd, start, len, buffer).offset(offset).build(),
            None => opcode::Read::new(fd, start, len).offset(offset).build(),
        };
        self.flights[index] = Some(Flight { tag, slot, _file: file });
        let entry = entry.user_data(index as u64);
        // SAFETY: the memory and the descriptor belong to `flights[index]` until the read's completion
        // was seen (`next`) or waited for (`drop`); a slot's pages stay where they are when it moves.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        pushed.expect("the queue has an entry for every place in the ring");
        self.unsubmitted = true;
        Ok(())
    }

    /// Registers a slot that is seen for the first time. Gives its number in the kernel's table.
    fn registration(&mut self, slot: &mut Slot) -> Option<u16> {
        let number = slot.number().filter(|n| *n < REGISTERED_MAX)?;
        let known = self.registered.as_mut()?;
        if known.len() <= number as usize {
            known.resize(number as usize + 1, false);
        }
        if !known[number as usize] {
            let bytes = slot.as_mut_slice();
            let buffer = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
            // SAFETY: the kernel pins the pages of a slot that is alive; numbers are never given
            // twice, so that this entry of the table means these pages as long as it is used.
            let done =
                unsafe { self.ring.submitter().register_buffers_update(number, &[buffer], None) };
            if let Err(error) = done {
                tracing::debug!(%error, "no more read buffers can be registered");
                self.registered = None;
                return None;
            }
            known[number as usize] = true;
        }
        u16::try_from(number).ok()
    }

    /// Tells the kernel of all reads that were lined up.
    pub(crate) fn submit(&mut self) -> io::Result<()> {
        while self.unsubmitted {
            match self.ring.submit() {
                Ok(_) => self.unsubmitted = !self.ring.submission().is_empty(),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // The kernel is out of memory for requests or completions wait to be taken.
                Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY)) => break,
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Whether the kernel has reads.
    pub(crate) fn is_busy(&self) -> bool {
        self.free.len() < self.flights.len()
    }

    /// A read that is done; `None` if none is.
    pub(crate) fn poll(&mut self) -> Option<Done> {
        let completion = self.ring.completion().next()?;
        let index = completion.user_data() as usize;
        let flight = self.flights[index].take().expect("the kernel gives back what it was given");
        self.free.push(index);
        let bytes = match completion.result() {
            error if error < 0 => Err(io::Error::from_raw_os_error(-error)),
            bytes => Ok(bytes as usize),
        };
        Some(Done { tag: flight.tag, slot: flight.slot, bytes })
    }

    /// Waits until a read is done. Panics if there is none to wait for (caller bug).
    pub(crate) fn wait(&mut self) -> io::Result<Done> {
        assert!(self.is_busy(), "there is a read to wait for");
        loop {
            self.submit()?;
            if let Some(done) = self.poll() {
                return Ok(done);
            }
            match self.ring.submit_and_wait(1) {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY)) => {}
                Err(e) => return Err(e),
            }
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        while self.is_busy() {
            if self.wait().is_err() {
                // The kernel may still write there: better to leak the buffers than to free them.
                self.flights.drain(..).for_each(std::mem::forget);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::{IoChoice, open};
    use crate::tensor::ALIGNMENT;

    /// `None` where the kernel forbids rings, as in some containers.
    fn ring(depth: usize) -> Option<Ring> {
        Ring::new(depth).ok()
    }

    #[test]
    fn many_reads_at_once_bring_their_own_bytes_again_and_again() {
        let Some(mut ring) = ring(8) else { return };
        let file = tempfile::NamedTempFile::new_in(env!("CARGO_MANIFEST_DIR")).expect("a file");
        let pages: Vec<u8> = (0..40 * ALIGNMENT).map(|i| (i / ALIGNMENT) as u8).collect();
        std::fs::write(file.path(), &pages).expect("written");
        let (reader, _) = open(file.path(), IoChoice::Uring).expect("opens");
        let mut slots = crate::io::Slots::new(ALIGNMENT, 8);
        for round in 0..5 {
            for tag in 0..8 {
                let (file, slot) = (Arc::clone(&reader), slots.take());
                let offset = ((round * 8 + tag) * ALIGNMENT) as u64;
                let read = Read { file, offset, len: ALIGNMENT, slot, tag };
                assert!(ring.push(read).is_ok(), "files have descriptors");
            }
            let mut seen = [false; 8];
            while ring.is_busy() {
                let done = ring.wait().expect("the kernel answers");
                assert_eq!(done.bytes.expect("read"), ALIGNMENT);
                let expected = (round * 8 + done.tag) as u8;
                assert!(done.slot.as_slice().iter().all(|b| *b == expected));
                seen[done.tag] = true;
                slots.give(done.slot);
            }
            assert_eq!(seen, [true; 8]);
        }
    }

    #[test]
    fn reads_past_the_end_are_short_and_dropping_waits() {
        let Some(mut ring) = ring(2) else { return };
        let file = tempfile::NamedTempFile::new_in(env!("CARGO_MANIFEST_DIR")).expect("a file");
        std::fs::write(file.path(), [7; 100]).expect("written");
        let (reader, _) = open(file.path(), IoChoice::Uring).expect("opens");
        let read = |offset| Read {
            file: Arc::clone(&reader),
            offset,
            len: ALIGNMENT,
            slot: Slot::plain(ALIGNMENT),
            tag: 0,
        };
        assert!(ring.push(read(0)).is_ok());
        assert_eq!(ring.wait().expect("answers").bytes.expect("read"), 100);
        assert!(ring.push(read(ALIGNMENT as u64)).is_ok());
        assert_eq!(ring.wait().expect("answers").bytes.expect("read"), 0);
        assert!(ring.push(read(0)).is_ok());
        drop(ring);
    }
}
