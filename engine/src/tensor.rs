//! Matrices as they lie in memory: an element type, a shape and bytes in GGUF block layout.
//!
//! A weight is [rows, cols] with rows contiguous; a quantised row is a whole number of blocks. Nothing
//! here computes: backends read [`MatrixRef`]s.

use std::fmt;

use crate::quant::{BlockQ4_0, BlockQ8_0};

/// Element types of weights, by their GGUF names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum DType {
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 half precision.
    F16,
    /// bfloat16: the upper half of an f32.
    BF16,
    /// 32 values share one f16 scale; 4 bits a value, offset 8.
    Q4_0,
    /// 32 values share one f16 scale; 8 bits a value.
    Q8_0,
}

impl DType {
    /// All types, in the order that error messages list them.
    pub(crate) const ALL: [DType; 5] =
        [DType::F32, DType::F16, DType::BF16, DType::Q4_0, DType::Q8_0];

    /// The name in config files and on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            DType::Q4_0 => "q4_0",
            DType::Q8_0 => "q8_0",
        }
    }

    /// The type of that name, in either case.
    pub(crate) fn from_name(name: &str) -> Option<DType> {
        DType::ALL.into_iter().find(|t| t.name().eq_ignore_ascii_case(name))
    }

    /// The type of that number in GGUF files, if this engine reads it.
    pub(crate) fn from_ggml(number: u32) -> Option<DType> {
        match number {
            0 => Some(DType::F32),
            1 => Some(DType::F16),
            2 => Some(DType::Q4_0),
            8 => Some(DType::Q8_0),
            30 => Some(DType::BF16),
            _ => None,
        }
    }

    /// Elements and bytes of one block; unquantised types have blocks of one element.
    pub(crate) fn block(self) -> (usize, usize) {
        match self {
            DType::F32 => (1, 4),
            DType::F16 | DType::BF16 => (1, 2),
            DType::Q4_0 => (BlockQ4_0::VALUES, size_of::<BlockQ4_0>()),
            DType::Q8_0 => (BlockQ8_0::VALUES, size_of::<BlockQ8_0>()),
        }
    }

    /// Types that this engine also writes.
    pub(crate) const WRITABLE: [DType; 5] = DType::ALL;

    /// Whether f32 values can be encoded in this type.
    pub(crate) fn is_writable(self) -> bool {
        DType::WRITABLE.contains(&self)
    }

    /// What is written in place of this type where its blocks do not divide a row.
    pub(crate) fn fallback(self, _cols: usize) -> DType {
        DType::BF16
    }

    /// True for types whose values share a scale.
    pub(crate) fn is_quantised(self) -> bool {
        self.block().0 > 1
    }

    /// Bytes of a row of `cols` elements, or `None` if it is not a whole number of blocks or does not
    /// fit in memory.
    pub(crate) fn row_bytes(self, cols: usize) -> Option<usize> {
        let (values, bytes) = self.block();
        cols.is_multiple_of(values).then(|| (cols / values).checked_mul(bytes)).flatten()
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Type and shape of a matrix, without its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MatrixShape {
    /// Element type.
    pub(crate) dtype: DType,
    /// Output features.
    pub(crate) rows: usize,
    /// Input features.
    pub(crate) cols: usize,
}

impl MatrixShape {
    /// Bytes of the whole matrix; `None` as for [`DType::row_bytes`].
    pub(crate) fn bytes(self) -> Option<usize> {
        self.dtype.row_bytes(self.cols)?.checked_mul(self.rows)
    }
}

/// A borrowed matrix [rows, cols].
#[derive(Clone, Copy)]
pub(crate) struct MatrixRef<'a> {
    /// Type and shape.
    pub(crate) shape: MatrixShape,
    /// Rows one after another, in GGUF block layout.
    pub(crate) bytes: &'a [u8],
}

impl<'a> MatrixRef<'a> {
    /// Views `bytes` as a matrix. Panics if the length disagrees with the shape (caller bug: file
    /// lengths are checked when a file is opened).
    pub(crate) fn new(shape: MatrixShape, bytes: &'a [u8]) -> Self {
        assert_eq!(Some(bytes.len()), shape.bytes(), "matrix bytes disagree with {shape:?}");
        MatrixRef { shape, bytes }
    }

    /// Bytes of row `r`.
    pub(crate) fn row(self, r: usize) -> &'a [u8] {
        let n = self.bytes.len() / self.shape.rows;
        &self.bytes[r * n..(r + 1) * n]
    }
}

/// A matrix [rows, cols] that owns its bytes, in anonymous memory.
pub(crate) struct Matrix {
    shape: MatrixShape,
    bytes: AlignedBytes,
}

impl Matrix {
    /// Takes bytes in GGUF block layout. Panics if the length disagrees with the shape.
    pub(crate) fn new(shape: MatrixShape, bytes: AlignedBytes) -> Self {
        assert_eq!(Some(bytes.len()), shape.bytes(), "matrix bytes disagree with {shape:?}");
        Matrix { shape, bytes }
    }

    /// The matrix as kernels take it.
    pub(crate) fn view(&self) -> MatrixRef<'_> {
        MatrixRef { shape: self.shape, bytes: self.bytes.as_slice() }
    }

    /// Type and shape.
    pub(crate) fn shape(&self) -> MatrixShape {
        self.shape
    }
}

/// Where [`AlignedBytes`] start and disks want reads to start: the page of common disks.
pub(crate) const ALIGNMENT: usize = 4096;

/// Bytes that start on a page, so that f32 views and reads around the page cache are always possible.
///
/// Built from whole pages: no unsafe code, at most one page less a byte wasted.
#[derive(Clone, Default)]
pub(crate) struct AlignedBytes {
    pages: Vec<Page>,
    len: usize,
}

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(4096))]
struct Page([u8; ALIGNMENT]);

impl AlignedBytes {
    /// `len` zero bytes.
    pub(crate) fn zeroed(len: usize) -> Self {
        AlignedBytes { pages: vec![Page([0; ALIGNMENT]); len.div_ceil(ALIGNMENT)], len }
    }

    /// A copy of `bytes`.
    pub(crate) fn copy_of(bytes: &[u8]) -> Self {
        let mut aligned = AlignedBytes::zeroed(bytes.len());
        aligned.as_mut_slice().copy_from_slice(bytes);
        aligned
    }

    /// Length in bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The bytes.
    pub(crate) fn as_slice(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.pages)[..self.len]
    }

    /// The bytes, to write.
    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.pages)[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_whole_blocks() {
        for (dtype, cols, bytes) in [
            (DType::F32, 3, Some(12)),
            (DType::BF16, 3, Some(6)),
            (DType::Q4_0, 64, Some(36)),
            (DType::Q4_0, 48, None),
            (DType::Q8_0, 32, Some(34)),
        ] {
            assert_eq!(dtype.row_bytes(cols), bytes, "{dtype} {cols}");
        }
    }

    #[test]
    fn overflowing_shapes_have_no_size() {
        let shape = MatrixShape { dtype: DType::F32, rows: usize::MAX, cols: 8 };
        assert_eq!(shape.bytes(), None);
    }

    #[test]
    fn aligned_bytes_start_on_a_page() {
        let bytes = AlignedBytes::copy_of(&[1, 2, 3]);
        assert_eq!(bytes.as_slice(), [1, 2, 3]);
        assert_eq!(bytes.as_slice().as_ptr() as usize % ALIGNMENT, 0);
    }

    #[test]
    fn names_round_trip() {
        for dtype in DType::ALL {
            assert_eq!(DType::from_name(dtype.name()), Some(dtype));
        }
        assert_eq!(DType::from_name("Q4_0"), Some(DType::Q4_0));
        assert_eq!(DType::from_name("q9"), None);
    }
}
