//! Bytes that start on a page, large ones on huge pages where the system gives them on advice.
//!
//! A token passes over hundreds of megabytes of weights, in pages of 4 KiB more than the processor has
//! translations for. Memory is taken as it is, advised before it is first touched, and then filled with
//! zeros: pages are huge from the start, or not at all. It is anonymous memory: without swap the system
//! cannot take it back.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::Arc;

/// Where [`AlignedBytes`] start and disks want reads to start: the page of common disks.
pub(crate) const ALIGNMENT: usize = 4096;
/// A huge page of common processors.
const HUGE: usize = 2 << 20;

/// Bytes that start on a page, so that f32 views and reads around the page cache are always possible. At
/// most one page less a byte is wasted.
pub(crate) struct AlignedBytes {
    start: NonNull<u8>,
    len: usize,
    /// What they lie in; `None` without bytes.
    _block: Option<Arc<Block>>,
}

/// One allocation of whole pages.
struct Block {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: owned memory that only the parts handed out refer to, and no two parts overlap.
unsafe impl Send for Block {}
// SAFETY: a block itself gives no access.
unsafe impl Sync for Block {}
// SAFETY: as a `Vec<u8>`: the bytes are this part's alone.
unsafe impl Send for AlignedBytes {}
// SAFETY: as above.
unsafe impl Sync for AlignedBytes {}

impl Block {
    fn zeroed(bytes: usize) -> Block {
        let align = if bytes >= HUGE { HUGE } else { ALIGNMENT };
        let layout = Layout::from_size_align(bytes.next_multiple_of(ALIGNMENT), align)
            .expect("no model has half of the address space");
        assert!(layout.size() > 0, "a block has bytes");
        // SAFETY: the size is above zero.
        let start = unsafe { alloc(layout) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        advise_huge(start, layout);
        // SAFETY: just allocated with this size.
        unsafe { start.write_bytes(0, layout.size()) };
        Block { start, layout }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout; the last part is gone.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}

impl AlignedBytes {
    /// `len` zero bytes.
    pub(crate) fn zeroed(len: usize) -> Self {
        AlignedBytes::several(len, 1).pop().unwrap_or_default()
    }

    /// As many times `len` zero bytes, in one allocation: neighbours share huge pages. It is given back
    /// when all are gone.
    pub(crate) fn several(len: usize, count: usize) -> Vec<Self> {
        if len == 0 {
            return (0..count).map(|_| AlignedBytes::default()).collect();
        }
        let stride = len.next_multiple_of(ALIGNMENT);
        let bytes = stride.checked_mul(count).expect("no model has half of the address space");
        let block = Arc::new(Block::zeroed(bytes));
        let part = |i: usize| AlignedBytes {
            // SAFETY: within the block, which has `count` strides.
            start: unsafe { block.start.add(i * stride) },
            len,
            _block: Some(Arc::clone(&block)),
        };
        (0..count).map(part).collect()
    }

    /// Length in bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The bytes.
    pub(crate) fn as_slice(&self) -> &[u8] {
        // SAFETY: `len` bytes of the block, filled when it was made, or none.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// The bytes, to write.
    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above, no other part overlaps them, and this one is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Default for AlignedBytes {
    fn default() -> Self {
        AlignedBytes { start: NonNull::dangling(), len: 0, _block: None }
    }
}

impl Clone for AlignedBytes {
    fn clone(&self) -> Self {
        let mut copy = AlignedBytes::zeroed(self.len);
        copy.as_mut_slice().copy_from_slice(self.as_slice());
        copy
    }
}

/// Asks for huge pages; a system that has none goes on with small ones.
#[cfg(target_os = "linux")]
fn advise_huge(start: NonNull<u8>, layout: Layout) {
    if layout.align() == HUGE {
        // SAFETY: whole pages that were just allocated; advice does not change what they hold.
        unsafe { libc::madvise(start.as_ptr().cast(), layout.size(), libc::MADV_HUGEPAGE) };
    }
}

#[cfg(not(target_os = "linux"))]
fn advise_huge(_: NonNull<u8>, _: Layout) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_start_on_a_page_and_are_zero_until_they_are_written() {
        for len in [0, 1, 4095, 4096, HUGE - 1, HUGE, HUGE + 12_345] {
            let mut bytes = AlignedBytes::zeroed(len);
            assert_eq!((bytes.len(), bytes.as_slice().len()), (len, len));
            assert!(bytes.as_slice().iter().all(|byte| *byte == 0), "{len}");
            if len > 0 {
                assert_eq!(bytes.as_slice().as_ptr() as usize % ALIGNMENT, 0, "{len}");
                bytes.as_mut_slice()[len - 1] = 7;
            }
            let copy = bytes.clone();
            drop(bytes);
            assert_eq!(copy.as_slice().last().copied(), (len > 0).then_some(7));
        }
    }

    #[test]
    fn several_do_not_overlap_and_outlive_each_other() {
        for len in [100, 4096, HUGE + 1] {
            let mut parts = AlignedBytes::several(len, 3);
            for (i, part) in parts.iter_mut().enumerate() {
                part.as_mut_slice().fill(i as u8 + 1);
            }
            let last = parts.pop().expect("three");
            drop(parts);
            assert!(last.as_slice().iter().all(|byte| *byte == 3), "{len}");
        }
    }
}
