//! Memory that reads land in: pages that are allocated once and used again and again.
//!
//! A slot has a number of its own, under which a ring registers its pages with the kernel. Numbers are
//! never given twice, so that a registration can never mean other memory than the slot's.

use crate::tensor::AlignedBytes;

/// Some pages.
pub(crate) struct Slot {
    number: Option<u32>,
    bytes: AlignedBytes,
}

impl Slot {
    /// Pages for `len` bytes that no ring registers.
    pub(crate) fn plain(len: usize) -> Slot {
        Slot { number: None, bytes: AlignedBytes::zeroed(len) }
    }

    /// The number, if the slot may be registered.
    pub(super) fn number(&self) -> Option<u32> {
        self.number
    }

    /// Length in bytes.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The bytes.
    pub(crate) fn as_slice(&self) -> &[u8] {
        self.bytes.as_slice()
    }

    /// The bytes, to write.
    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        self.bytes.as_mut_slice()
    }
}

/// Slots that are allocated together, and the bytes of them: several huge pages.
const AT_ONCE: usize = 16;
const AT_ONCE_BYTES: usize = 32 << 20;

/// All slots of one size: those that are not in use, and how many there may be.
pub(crate) struct Slots {
    free: Vec<Slot>,
    len: usize,
    /// Slots that exist, in use or not.
    made: usize,
    max: usize,
    next_number: u32,
}

impl Slots {
    /// At most `max` slots of `len` bytes; they are allocated when they are first needed, some at once.
    pub(crate) fn new(len: usize, max: usize) -> Slots {
        Slots { free: Vec::new(), len, made: 0, max, next_number: 0 }
    }

    /// A slot that is not in use. Panics if all are (caller bug: reads in flight have a bound).
    pub(crate) fn take(&mut self) -> Slot {
        if self.free.is_empty() {
            assert!(self.made < self.max, "all {} slots are in use", self.max);
            let count = (AT_ONCE_BYTES / self.len.max(1)).clamp(1, AT_ONCE);
            self.make(count.min(self.max - self.made));
        }
        self.free.pop().expect("some were made")
    }

    fn make(&mut self, count: usize) {
        for bytes in AlignedBytes::several(self.len, count) {
            self.free.push(Slot { number: Some(self.next_number), bytes });
            self.next_number += 1;
        }
        self.made += count;
    }

    /// Gives a slot back.
    pub(crate) fn give(&mut self, slot: Slot) {
        self.free.push(slot);
    }

    /// Says that a slot will not come back, because somebody still reads it.
    pub(crate) fn lose(&mut self) {
        self.made -= 1;
    }
}
