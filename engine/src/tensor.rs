//! Matrices as they lie in memory: an element type, a shape and bytes in GGUF block layout.
//!
//! A weight is [rows, cols] with rows contiguous; a quantised row is a whole number of blocks. Nothing
//! here computes: backends read [`MatrixRef`]s.

mod aligned;

use std::fmt;

pub(crate) use aligned::{ALIGNMENT, AlignedBytes};

/// Element types of weights, by their GGUF names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum DType {
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 half precision.
    F16,
    /// bfloat16: the upper half of an f32.
    BF16,
    /// 32 values share a scale; 4 bits a value, offset 8.
    Q4_0,
    /// 32 values share a scale and a minimum; 4 bits a value.
    Q4_1,
    /// 32 values share a scale; 5 bits a value, offset 16.
    Q5_0,
    /// 32 values share a scale and a minimum; 5 bits a value.
    Q5_1,
    /// 32 values share a scale; 8 bits a value.
    Q8_0,
    /// 256 values in 16 groups, each with a 4-bit scale and minimum; 2 bits a value.
    Q2K,
    /// 256 values in 16 groups, each with a 6-bit scale; 3 bits a value, offset 4.
    Q3K,
    /// 256 values in 8 groups, each with a 6-bit scale and minimum; 4 bits a value.
    Q4K,
    /// 256 values in 8 groups, each with a 6-bit scale and minimum; 5 bits a value.
    Q5K,
    /// 256 values in 16 groups, each with an 8-bit scale; 6 bits a value, offset 32.
    Q6K,
    /// 32 values share a scale; 4 bits choose one of 16 uneven levels.
    Iq4Nl,
    /// 256 values in 8 groups, each with a 6-bit scale; levels as in IQ4_NL.
    Iq4Xs,
    /// 32 values share a power of two; 4 bits are a float (OCP microscaling E2M1).
    Mxfp4,
}

/// What the file format says of a type.
struct Facts {
    name: &'static str,
    /// Number in GGUF files.
    ggml: u32,
    /// Elements of a block.
    values: usize,
    /// Bytes of a block.
    bytes: usize,
}

impl DType {
    /// All types, in the order that error messages list them.
    pub(crate) const ALL: [DType; 16] = [
        DType::F32,
        DType::F16,
        DType::BF16,
        DType::Q4_0,
        DType::Q4_1,
        DType::Q5_0,
        DType::Q5_1,
        DType::Q8_0,
        DType::Q2K,
        DType::Q3K,
        DType::Q4K,
        DType::Q5K,
        DType::Q6K,
        DType::Iq4Nl,
        DType::Iq4Xs,
        DType::Mxfp4,
    ];

    /// The table of types. Source: `ggml_type` in ggml.h, `GGML_QUANT_SIZES` of the Python package
    /// gguf 0.19.
    const fn facts(self) -> Facts {
        let (name, ggml, values, bytes) = match self {
            DType::F32 => ("f32", 0, 1, 4),
            DType::F16 => ("f16", 1, 1, 2),
            DType::BF16 => ("bf16", 30, 1, 2),
            DType::Q4_0 => ("q4_0", 2, 32, 18),
            DType::Q4_1 => ("q4_1", 3, 32, 20),
            DType::Q5_0 => ("q5_0", 6, 32, 22),
            DType::Q5_1 => ("q5_1", 7, 32, 24),
            DType::Q8_0 => ("q8_0", 8, 32, 34),
            DType::Q2K => ("q2_k", 10, 256, 84),
            DType::Q3K => ("q3_k", 11, 256, 110),
            DType::Q4K => ("q4_k", 12, 256, 144),
            DType::Q5K => ("q5_k", 13, 256, 176),
            DType::Q6K => ("q6_k", 14, 256, 210),
            DType::Iq4Nl => ("iq4_nl", 20, 32, 18),
            DType::Iq4Xs => ("iq4_xs", 23, 256, 136),
            DType::Mxfp4 => ("mxfp4", 39, 32, 17),
        };
        Facts { name, ggml, values, bytes }
    }

    /// The name in manifests and on the command line: GGUF's, in lower case.
    pub(crate) fn name(self) -> &'static str {
        self.facts().name
    }

    /// The type of that name, in either case.
    pub(crate) fn from_name(name: &str) -> Option<DType> {
        DType::ALL.into_iter().find(|t| t.name().eq_ignore_ascii_case(name))
    }

    /// The number that stands for the type in GGUF files.
    pub(crate) fn ggml(self) -> u32 {
        self.facts().ggml
    }

    /// The type of that number in GGUF files, if this engine reads it.
    #[allow(dead_code, reason = "asked by the reader of GGUF files")]
    pub(crate) fn from_ggml(number: u32) -> Option<DType> {
        DType::ALL.into_iter().find(|t| t.ggml() == number)
    }

    /// Elements and bytes of one block; unquantised types have blocks of one element.
    pub(crate) const fn block(self) -> (usize, usize) {
        let facts = self.facts();
        (facts.values, facts.bytes)
    }

    /// The types that this engine also writes, as `pack` offers them.
    pub(crate) const WRITABLE: [DType; 9] = [
        DType::Q4_0,
        DType::Q4K,
        DType::Q5_0,
        DType::Q5K,
        DType::Q6K,
        DType::Q8_0,
        DType::BF16,
        DType::F16,
        DType::F32,
    ];

    /// Whether f32 values can be encoded in this type.
    pub(crate) fn is_writable(self) -> bool {
        DType::WRITABLE.contains(&self)
    }

    /// The type that rows of `cols` elements take where this one is asked for: this one if its blocks
    /// divide the row, else the next larger one whose blocks do.
    ///
    /// q4_k falls back to q5_0, q5_k and q6_k to q8_0, and what has no multiple of 32 to bf16.
    pub(crate) fn fitting(self, cols: usize) -> DType {
        if self.row_bytes(cols).is_some() {
            return self;
        }
        match self {
            DType::Q4K => DType::Q5_0.fitting(cols),
            DType::Q5K | DType::Q6K => DType::Q8_0.fitting(cols),
            _ => DType::BF16,
        }
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
            (DType::Q4K, 512, Some(288)),
            (DType::Q4K, 128, None),
            (DType::Mxfp4, 96, Some(51)),
        ] {
            assert_eq!(dtype.row_bytes(cols), bytes, "{dtype} {cols}");
        }
    }

    #[test]
    fn rows_that_are_no_whole_blocks_take_the_next_larger_type() {
        for (asked, cols, used) in [
            (DType::Q4K, 512, DType::Q4K),
            (DType::Q4K, 96, DType::Q5_0),
            (DType::Q5K, 96, DType::Q8_0),
            (DType::Q6K, 96, DType::Q8_0),
            (DType::Q4_0, 96, DType::Q4_0),
            (DType::Q4K, 100, DType::BF16),
            (DType::Q4_0, 100, DType::BF16),
            (DType::F32, 100, DType::F32),
        ] {
            assert_eq!(asked.fitting(cols), used, "{asked} {cols}");
        }
    }

    #[test]
    fn overflowing_shapes_have_no_size() {
        let shape = MatrixShape { dtype: DType::F32, rows: usize::MAX, cols: 8 };
        assert_eq!(shape.bytes(), None);
    }

    #[test]
    fn names_and_numbers_round_trip() {
        for dtype in DType::ALL {
            assert_eq!(DType::from_name(dtype.name()), Some(dtype));
            assert_eq!(DType::from_ggml(dtype.ggml()), Some(dtype));
        }
        // The types that GGUF files hold for something else, or not any more.
        assert_eq!([4, 5, 9, 15, 24, 26, 40].map(DType::from_ggml), [None; 7]);
        assert_eq!(DType::from_name("Q4_0"), Some(DType::Q4_0));
        assert_eq!(DType::from_name("q9"), None);
    }
}
