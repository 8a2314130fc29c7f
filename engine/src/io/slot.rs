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
    /// At most `max` slots of `len` bytes; each is allocated when it is first needed.
    pub(crate) fn new(len: usize, max: usize) -> Slots {
        Slots { free: Vec::new(), len, made: 0, max, next_number: 0 }
    }

    /// A slot that is not in use. Panics if all are (caller bug: reads in flight have a bound).
    pub(crate) fn take(&mut self) -> Slot {
        if let Some(slot) = self.free.pop() {
            return slot;
        }
        assert!(self.made < self.max, "all {} slots are in use", self.max);
        self.made += 1;
        let number = Some(self.next_number);
        self.next_number += 1;
        Slot { number, bytes: AlignedBytes::zeroed(self.len) }
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
