//! Quantised blocks: their layout, exact decoding, and quantisation of f32 rows.
//!
//! The layouts are GGUF's, so that blocks move between files without a change of a bit. Every block
//! says of itself what its groups of 32 values are ([`Block::group`]); decoding and the portable dot
//! products follow from that, and the vector code in `backend` is held to it bit for bit.
//! Not here: dot products (`backend`), which never build the decoded row.

mod encode;
mod encode_k;
mod k;
mod levels;
mod simple;

use bytemuck::Pod;
use half::{bf16, f16};

pub(crate) use k::{BlockQ2K, BlockQ3K, BlockQ4K, BlockQ5K, BlockQ6K, scales_and_mins};
pub(crate) use levels::{BlockIq4Nl, BlockIq4Xs, BlockMxfp4, LEVELS_IQ4, LEVELS_MXFP4};
pub(crate) use simple::{BlockQ4_0, BlockQ4_1, BlockQ5_0, BlockQ5_1, BlockQ8_0};

use crate::tensor::DType;

/// A block of quantised values: plain bytes without alignment.
pub(crate) trait Block: Pod {
    /// Values in a block, a multiple of 32.
    const VALUES: usize;
    /// What is subtracted from every level before it is scaled.
    const ZERO: i16 = 0;
    /// Whether groups have minimums.
    const HAS_MIN: bool = false;

    /// Values 32g to 32g + 31.
    fn group(&self, g: usize) -> Group;

    /// The f16 numbers in the block: its scale and that of its minimums, or its scale twice. All else
    /// is small integers.
    fn numbers(&self) -> [[u8; 2]; 2];
}

/// 32 neighbouring values as small integers and what scales them:
/// `value[j] = scale · sub[j / 16] · (levels[j] − ZERO) − min_scale · min_sub[j / 16]`.
#[derive(Clone, Copy)]
pub(crate) struct Group {
    /// The stored integers, or what they choose from a table.
    pub(crate) levels: [i8; 32],
    /// Factor of all values.
    pub(crate) scale: f32,
    /// Factor of each half.
    pub(crate) sub: [i16; 2],
    /// Factor of the minimums; means something only with [`Block::HAS_MIN`].
    pub(crate) min_scale: f32,
    /// Minimum of each half.
    pub(crate) min_sub: [i16; 2],
}

impl Group {
    /// Levels with one scale and nothing else.
    #[inline(always)]
    fn scaled(scale: f32, levels: [i8; 32]) -> Self {
        Group { levels, scale, sub: [1; 2], min_scale: 0.0, min_sub: [1; 2] }
    }

    /// The value of level j.
    #[inline(always)]
    fn value<B: Block>(&self, j: usize) -> f32 {
        let level = f32::from(i16::from(self.levels[j]) - B::ZERO);
        let value = self.scale * f32::from(self.sub[j / 16]) * level;
        if B::HAS_MIN { value - self.min_scale * f32::from(self.min_sub[j / 16]) } else { value }
    }
}

/// Runs `$body` with `$block` as the block type of a quantised [`DType`], `$float` for the others.
macro_rules! with_block {
    ($dtype:expr, $block:ident => $body:expr, _ => $float:expr) => {
        with_block!(@match $dtype, $block, $body, $float;
            Q4_0 BlockQ4_0, Q4_1 BlockQ4_1, Q5_0 BlockQ5_0, Q5_1 BlockQ5_1, Q8_0 BlockQ8_0,
            Q2K BlockQ2K, Q3K BlockQ3K, Q4K BlockQ4K, Q5K BlockQ5K, Q6K BlockQ6K,
            Iq4Nl BlockIq4Nl, Iq4Xs BlockIq4Xs, Mxfp4 BlockMxfp4)
    };
    (@match $dtype:expr, $block:ident, $body:expr, $float:expr; $($variant:ident $ty:ident),*) => {
        match $dtype {
            $($crate::tensor::DType::$variant => { type $block = $crate::quant::$ty; $body })*
            $crate::tensor::DType::F32 | $crate::tensor::DType::F16
            | $crate::tensor::DType::BF16 => $float,
        }
    };
}
pub(crate) use with_block;

/// Every block type is as large as its entry in the table of types.
const _: () = {
    const fn check<B: Block>(dtype: DType) {
        let (values, bytes) = dtype.block();
        assert!(values == B::VALUES && bytes == size_of::<B>() && align_of::<B>() == 1);
    }
    let mut i = 0;
    while i < DType::ALL.len() {
        with_block!(DType::ALL[i], B => check::<B>(DType::ALL[i]), _ => ());
        i += 1;
    }
};

/// Converts an f16 in little-endian bytes.
///
/// Bit arithmetic instead of `half`'s run-time detection: this stands in the innermost loops.
#[inline(always)]
pub(crate) fn f16_to_f32(bytes: [u8; 2]) -> f32 {
    f16::from_le_bytes(bytes).to_f32_const()
}

/// Decodes one row into f32. Exact for every type. Panics if the lengths disagree (caller bug).
pub(crate) fn dequantise_row(dtype: DType, row: &[u8], out: &mut [f32]) {
    assert_eq!(dtype.row_bytes(out.len()), Some(row.len()), "row length disagrees with {dtype}");
    with_block!(dtype, B => decode::<B>(row, out), _ => decode_floats(dtype, row, out));
}

fn decode<B: Block>(row: &[u8], out: &mut [f32]) {
    let blocks: &[B] = bytemuck::cast_slice(row);
    for (block, out) in blocks.iter().zip(out.chunks_exact_mut(B::VALUES)) {
        for (g, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let group = block.group(g);
            *out = std::array::from_fn(|j| group.value::<B>(j));
        }
    }
}

/// No weight is as large, and sums of products of smaller ones stay below the largest f32.
const ABSURD: f32 = 1e30;

/// Whether all values of some whole rows are numbers and not absurd.
///
/// Of blocks only the scales are looked at; everything else in them is a small integer.
pub(crate) fn is_finite(dtype: DType, rows: &[u8]) -> bool {
    // As integers the magnitudes are in order, NaN above all: nothing is decoded, and there is no branch
    // for each value.
    let magnitude = |bytes: [u8; 2]| u16::from_le_bytes(bytes) & 0x7fff;
    let halves = |least: u16| {
        rows.as_chunks::<2>()
            .0
            .chunks(4096)
            .all(|part| part.iter().fold(0, |max, bytes| magnitude(*bytes).max(max)) < least)
    };
    fn blocks<B: Block>(rows: &[u8], magnitude: impl Fn([u8; 2]) -> u16) -> bool {
        let largest = |block: &B| {
            let [scale, min] = block.numbers().map(&magnitude);
            scale.max(min)
        };
        bytemuck::cast_slice(rows).chunks(1024).all(|part| {
            part.iter().fold(0, |max, block| largest(block).max(max)) < f16::INFINITY.to_bits()
        })
    }
    fn singles(rows: &[u8]) -> bool {
        let magnitude = |bytes: &[u8; 4]| u32::from_le_bytes(*bytes) & 0x7fff_ffff;
        rows.as_chunks::<4>().0.chunks(2048).all(|part| {
            part.iter().fold(0, |max, bytes| magnitude(bytes).max(max)) < ABSURD.to_bits()
        })
    }
    let floats = || match dtype {
        DType::F32 => singles(rows),
        DType::F16 => halves(f16::INFINITY.to_bits()),
        _ => halves(bf16::from_f32(ABSURD).to_bits()),
    };
    with_block!(dtype, B => blocks::<B>(rows, magnitude), _ => floats())
}

fn decode_floats(dtype: DType, row: &[u8], out: &mut [f32]) {
    match dtype.block().1 {
        4 => {
            for (o, b) in out.iter_mut().zip(row.as_chunks::<4>().0) {
                *o = f32::from_le_bytes(*b);
            }
        }
        _ if dtype == DType::F16 => {
            for (o, b) in out.iter_mut().zip(row.as_chunks::<2>().0) {
                *o = f16_to_f32(*b);
            }
        }
        _ => {
            for (o, b) in out.iter_mut().zip(row.as_chunks::<2>().0) {
                *o = bf16::from_le_bytes(*b).to_f32();
            }
        }
    }
}

/// Encodes one f32 row. Panics if the lengths disagree or the type is only read
/// ([`DType::is_writable`]; caller bugs).
pub(crate) fn quantise_row(dtype: DType, x: &[f32], out: &mut [u8]) {
    assert_eq!(dtype.row_bytes(x.len()), Some(out.len()), "row length disagrees with {dtype}");
    match dtype {
        DType::F32 => {
            for (o, v) in out.as_chunks_mut::<4>().0.iter_mut().zip(x) {
                *o = v.to_le_bytes();
            }
        }
        DType::F16 => {
            for (o, v) in out.as_chunks_mut::<2>().0.iter_mut().zip(x) {
                *o = f16::from_f32(*v).to_le_bytes();
            }
        }
        DType::BF16 => {
            for (o, v) in out.as_chunks_mut::<2>().0.iter_mut().zip(x) {
                *o = bf16::from_f32(*v).to_le_bytes();
            }
        }
        DType::Q4_0 => encode(x, out, BlockQ4_0::quantise),
        DType::Q5_0 => encode(x, out, BlockQ5_0::quantise),
        DType::Q8_0 => encode(x, out, BlockQ8_0::quantise),
        DType::Q4K => encode(x, out, BlockQ4K::quantise),
        DType::Q5K => encode(x, out, BlockQ5K::quantise),
        DType::Q6K => encode(x, out, BlockQ6K::quantise),
        _ => panic!("{dtype} is read, not written"),
    }
}

fn encode<B: Block>(x: &[f32], out: &mut [u8], quantise: impl Fn(&[f32]) -> B) {
    let blocks: &mut [B] = bytemuck::cast_slice_mut(out);
    for (block, x) in blocks.iter_mut().zip(x.chunks_exact(B::VALUES)) {
        *block = quantise(x);
    }
}

#[cfg(test)]
pub(crate) mod tests;
