//! Reads that the kernel does by itself: io_uring with registered buffers.
//!
//! All reads of a layer are handed over with one system call and come back in the order in which the
//! disk is done; no thread waits for each. Buffers that are used again and again are registered, so
//! that their pages are not looked up for every read; where registering is not allowed (locked memory
//! is limited) reads work without. The files are opened around the page cache where that works.
//!
//! Invariants: the ring owns a buffer and its files from `push` until `poll` or `wait` hands the buffer
//! back, when all its parts are done; a ring that is dropped waits for its reads, because the kernel
//! writes to their memory until it is done.
//! Source: io_uring(7), io_uring_register(2): sparse buffer tables since Linux 5.19.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use io_uring::{IoUring, opcode, squeue, types};

use super::{ReadAt, Slot};

/// Buffers that can be registered, the kernel's limit (IORING_MAX_REG_BUFFERS).
const REGISTERED_MAX: u32 = 1 << 14;

/// A queue of reads; `T` is what a reader ties to each.
pub(crate) struct Ring<T> {
    ring: IoUring,
    /// Slots that the kernel writes to.
    flights: Vec<Option<Flight<T>>>,
    /// Parts that the kernel may have at once, and those that it has.
    depth: usize,
    parts: usize,
    /// Which slots are registered, by their numbers; `None` where registering does not work.
    registered: Option<Vec<bool>>,
    /// Reads pushed that the kernel was not told of yet.
    unsubmitted: bool,
}

/// A slot to fill.
pub(crate) struct Read<T> {
    pub(crate) slot: Slot,
    /// At least one; no two of them in the same pages.
    pub(crate) parts: Vec<Part>,
    /// Comes back with the result.
    pub(crate) tag: T,
}

/// Pages of a file for pages of a slot.
pub(crate) struct Part {
    pub(crate) file: Arc<dyn ReadAt>,
    /// First byte in the file, a multiple of the page size.
    pub(crate) offset: u64,
    /// First byte in the slot, a multiple of the page size.
    pub(crate) at: usize,
    /// A multiple of the page size.
    pub(crate) len: usize,
    /// Bytes that must come: fewer than `len` do at the end of a file, or when the kernel feels like it.
    pub(crate) needed: usize,
}

/// A slot whose parts are done.
pub(crate) struct Done<T> {
    pub(crate) tag: T,
    pub(crate) slot: Slot,
    /// Every part brought what it must.
    pub(crate) whole: bool,
}

struct Flight<T> {
    tag: T,
    slot: Slot,
    whole: bool,
    /// Bytes that each part must bring.
    needed: Vec<usize>,
    /// Parts that the kernel has.
    left: usize,
    /// Keep the descriptors open.
    _files: Vec<Arc<dyn ReadAt>>,
}

/// Which part of which flight a completion is of, in the number that the kernel gives back.
fn user_data(flight: usize, part: usize) -> u64 {
    (flight as u64) << 32 | part as u64
}

impl<T> Ring<T> {
    /// A ring for at most `depth` parts at once. Errors where the kernel has none or forbids it.
    pub(crate) fn new(depth: usize) -> io::Result<Ring<T>> {
        let entries = u32::try_from(depth).unwrap_or(1).next_power_of_two();
        let ring = IoUring::new(entries)?;
        let table = ring.submitter().register_buffers_sparse(REGISTERED_MAX);
        if let Err(error) = &table {
            tracing::debug!(%error, "read buffers cannot be registered; reading without");
        }
        Ok(Ring {
            ring,
            flights: Vec::new(),
            depth,
            parts: 0,
            registered: table.ok().map(|()| Vec::new()),
            unsubmitted: false,
        })
    }

    /// Lines up the parts of a slot. A file without a descriptor is an error that gives the slot back.
    /// Panics if the ring is full or a part does not fit in the slot (caller bugs).
    pub(crate) fn push(&mut self, read: Read<T>) -> Result<(), Slot> {
        let Read { mut slot, parts, tag } = read;
        assert!(!parts.is_empty() && self.parts + parts.len() <= self.depth, "the ring has room");
        let descriptor = |part: &Part| part.file.fd().map(|fd| types::Fd(fd.as_raw_fd()));
        let Some(fds) = parts.iter().map(descriptor).collect::<Option<Vec<_>>>() else {
            return Err(slot);
        };
        let registration = self.registration(&mut slot);
        let index = self.place();
        let mut entries = Vec::with_capacity(parts.len());
        for (number, (part, fd)) in parts.iter().zip(fds).enumerate() {
            let pages = &mut slot.as_mut_slice()[part.at..part.at + part.len];
            let (start, len) = (pages.as_mut_ptr(), part.len as u32);
            let entry: squeue::Entry = match registration {
                Some(buffer) => {
                    opcode::ReadFixed::new(fd, start, len, buffer).offset(part.offset).build()
                }
                None => opcode::Read::new(fd, start, len).offset(part.offset).build(),
            };
            entries.push(entry.user_data(user_data(index, number)));
        }
        let needed = parts.iter().map(|part| part.needed).collect();
        let (left, files) = (parts.len(), parts.into_iter().map(|part| part.file).collect());
        self.flights[index] = Some(Flight { tag, slot, whole: true, needed, left, _files: files });
        self.parts += left;
        for entry in &entries {
            // SAFETY: the memory and the descriptors belong to `flights[index]` until every part's
            // completion was seen (`poll`) or waited for (`drop`); a slot's pages stay where they are
            // when it moves, and nobody else has it.
            let pushed = unsafe { self.ring.submission().push(entry) };
            pushed.expect("the queue has an entry for every part in the ring");
        }
        self.unsubmitted = true;
        Ok(())
    }

    /// A free place among the flights.
    fn place(&mut self) -> usize {
        self.flights.iter().position(Option::is_none).unwrap_or_else(|| {
            self.flights.push(None);
            self.flights.len() - 1
        })
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
        self.parts > 0
    }

    /// A slot that is done; `None` if none is.
    pub(crate) fn poll(&mut self) -> Option<Done<T>> {
        loop {
            let completion = self.ring.completion().next()?;
            let number = completion.user_data();
            let (index, part) = ((number >> 32) as usize, number as u32 as usize);
            let flight = self.flights[index].as_mut().expect("the kernel gives back what it has");
            self.parts -= 1;
            flight.left -= 1;
            // An error is a negative number.
            let came = usize::try_from(completion.result());
            flight.whole &= came.is_ok_and(|bytes| bytes >= flight.needed[part]);
            if flight.left == 0 {
                let Flight { tag, slot, whole, .. } = self.flights[index].take()?;
                return Some(Done { tag, slot, whole });
            }
        }
    }

    /// Waits until a slot is done. Panics if there is none to wait for (caller bug).
    pub(crate) fn wait(&mut self) -> io::Result<Done<T>> {
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

impl<T> Drop for Ring<T> {
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
    fn ring(depth: usize) -> Option<Ring<usize>> {
        Ring::new(depth).ok()
    }

    /// A file of pages, each filled with its number.
    fn pages(count: usize) -> (tempfile::NamedTempFile, Arc<dyn ReadAt>) {
        let file = tempfile::NamedTempFile::new_in(env!("CARGO_MANIFEST_DIR")).expect("a file");
        let pages: Vec<u8> = (0..count * ALIGNMENT).map(|i| (i / ALIGNMENT) as u8).collect();
        std::fs::write(file.path(), &pages).expect("written");
        let (reader, _) = open(file.path(), IoChoice::Uring).expect("opens");
        (file, reader)
    }

    fn part(file: &Arc<dyn ReadAt>, page: usize, at: usize) -> Part {
        let offset = (page * ALIGNMENT) as u64;
        let (at, len) = (at * ALIGNMENT, ALIGNMENT);
        Part { file: Arc::clone(file), offset, at, len, needed: ALIGNMENT }
    }

    #[test]
    fn many_reads_at_once_bring_their_own_bytes_again_and_again() {
        let Some(mut ring) = ring(16) else { return };
        let (_file, reader) = pages(80);
        let mut slots = crate::io::Slots::new(3 * ALIGNMENT, 8);
        for round in 0..5 {
            for tag in 0..8 {
                let page = 2 * (round * 8 + tag);
                let parts = vec![part(&reader, page + 1, 0), part(&reader, page, 2)];
                let read = Read { slot: slots.take(), parts, tag };
                assert!(ring.push(read).is_ok(), "files have descriptors");
            }
            let mut seen = [false; 8];
            while ring.is_busy() {
                let done = ring.wait().expect("the kernel answers");
                assert!(done.whole);
                let page = 2 * (round * 8 + done.tag);
                let bytes = |at: usize| &done.slot.as_slice()[at * ALIGNMENT..][..ALIGNMENT];
                assert!(bytes(0).iter().all(|b| *b == (page + 1) as u8));
                assert!(bytes(1).iter().all(|b| *b == 0), "nobody asked for this page");
                assert!(bytes(2).iter().all(|b| *b == page as u8));
                seen[done.tag] = true;
                let mut slot = done.slot;
                slot.as_mut_slice().fill(0);
                slots.give(slot);
            }
            assert_eq!(seen, [true; 8]);
        }
    }

    #[test]
    fn reads_past_the_end_are_not_whole_and_dropping_waits() {
        let Some(mut ring) = ring(4) else { return };
        let file = tempfile::NamedTempFile::new_in(env!("CARGO_MANIFEST_DIR")).expect("a file");
        std::fs::write(file.path(), [7; 100]).expect("written");
        let (reader, _) = open(file.path(), IoChoice::Uring).expect("opens");
        for (page, needed, whole) in [(0, 100, true), (0, 101, false), (1, 1, false)] {
            let both = [part(&reader, 0, 0), part(&reader, page, 1)];
            let [first, second] = both.map(|part| Part { needed, ..part });
            let parts = vec![Part { needed: 100, ..first }, second];
            let slot = Slot::plain(2 * ALIGNMENT);
            assert!(ring.push(Read { slot, parts, tag: 0 }).is_ok());
            assert_eq!(ring.wait().expect("answers").whole, whole, "{page} {needed}");
        }
        let parts = vec![part(&reader, 0, 0)];
        assert!(ring.push(Read { slot: Slot::plain(ALIGNMENT), parts, tag: 0 }).is_ok());
        drop(ring);
    }
}
