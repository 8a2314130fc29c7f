//! Where the pieces of an expert lie in its slot: there where a disk can write them by itself.
//!
//! Reads around the page cache bring whole pages. So a piece that starts in the middle of a page of its
//! file starts in the middle of a page of its slot, has its pages for itself, and nothing is moved after
//! the read. The expert of a pack is one piece on a page boundary and lies from the slot's first byte on.

use super::ExpertLayout;
use super::store::Segment;
use crate::tensor::ALIGNMENT;

/// Matrices of floats are read as such, so they start on a multiple of this.
const FLOAT: u64 = size_of::<f32>() as u64;

/// Places in a slot, in bytes from its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Placing {
    /// Where each piece starts.
    pub(crate) pieces: Vec<usize>,
    /// Where gate, up and down start.
    pub(crate) matrices: [usize; 3],
    /// Bytes of the slot, in whole pages.
    pub(crate) bytes: usize,
    /// Each piece has its pages for itself and starts in its page as it does in the file's.
    pub(crate) by_pages: bool,
}

impl Placing {
    /// The places of an expert whose pieces add up to its layout.
    pub(crate) fn new(layout: &ExpertLayout, pieces: &[Segment]) -> Placing {
        let floats = pieces.iter().all(|piece| piece.offset.is_multiple_of(FLOAT));
        // A matrix that is cut over two pieces must lie in one.
        let by_pages = Placing::laid(layout, pieces, true).filter(|_| floats);
        by_pages
            .or_else(|| Placing::laid(layout, pieces, false))
            .expect("pieces one behind another hold every matrix in one")
    }

    fn laid(layout: &ExpertLayout, pieces: &[Segment], by_pages: bool) -> Option<Placing> {
        let mut starts = Vec::with_capacity(pieces.len());
        let mut end = 0_usize;
        for piece in pieces {
            let skip = (piece.offset % ALIGNMENT as u64) as usize;
            let start = if by_pages { end.next_multiple_of(ALIGNMENT) + skip } else { end };
            starts.push(start);
            end = start + piece.len;
        }
        let bytes = end.next_multiple_of(ALIGNMENT);
        let mut placing = Placing { pieces: starts, matrices: [0; 3], bytes, by_pages };
        let mut from = 0;
        for (matrix, size) in layout.sizes().into_iter().enumerate() {
            placing.matrices[matrix] = placing.place(pieces, from, size)?;
            from += size;
        }
        Some(placing)
    }

    /// Where `size` bytes lie that come behind `from` others in the expert; `None` if not in one place.
    fn place(&self, pieces: &[Segment], from: usize, size: usize) -> Option<usize> {
        let mut before = 0;
        for (piece, start) in pieces.iter().zip(&self.pieces) {
            if from < before + piece.len {
                let whole = !self.by_pages || from + size <= before + piece.len;
                return whole.then_some(start + from - before);
            }
            before += piece.len;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::io::MemoryAt;
    use crate::tensor::{DType, MatrixShape};

    /// gate, up: [64, 32] f32 (8 KiB); down: [32, 64].
    fn placing(pieces: &[(u64, usize)]) -> Placing {
        let shape = |rows, cols| MatrixShape { dtype: DType::F32, rows, cols };
        let (gate, up, down) = (shape(64, 32), shape(64, 32), shape(32, 64));
        let file = Arc::new(MemoryAt::new(&[]));
        let piece = |(offset, len): &(u64, usize)| Segment {
            file: file.clone(),
            offset: *offset,
            len: *len,
        };
        let pieces: Vec<Segment> = pieces.iter().map(piece).collect();
        Placing::new(&ExpertLayout { gate, up, down }, &pieces)
    }

    #[test]
    fn pieces_start_in_their_page_as_in_the_files() {
        let pack = placing(&[(40_960, 24_576)]);
        assert_eq!((pack.matrices, pack.bytes, pack.by_pages), ([0, 8192, 16_384], 24_576, true));
        let three = placing(&[(4096 + 32, 8192), (81_920, 8192), (4000, 8192)]);
        assert_eq!(three.pieces, [32, 12_288, 20_480 + 4000]);
        assert_eq!((three.matrices, three.bytes), ([32, 12_288, 24_480], 32_768));
        let two = placing(&[(64, 16_384), (128, 8192)]);
        assert_eq!(two.matrices, [64, 64 + 8192, 20_480 + 128]);
    }

    #[test]
    fn pieces_that_cut_a_matrix_or_a_float_lie_one_behind_another() {
        for pieces in [&[(32, 4096), (8192, 20_480)][..], &[(2, 24_576)], &[(0, 8192), (9, 16_384)]]
        {
            let dense = placing(pieces);
            assert_eq!((dense.matrices, dense.by_pages), ([0, 8192, 16_384], false), "{pieces:?}");
            assert_eq!(dense.bytes, 24_576);
        }
    }
}
