//! Quantised blocks: their layout, exact decoding, and quantisation of f32 rows.
//!
//! The layouts are GGUF's, so that blocks move between files without a change of a bit.
//! Not here: dot products (`backend`), which never build the decoded row.
//! Source: ggml `block_q4_0`, `block_q8_0` in ggml-common.h.

use bytemuck::{Pod, Zeroable};
use half::{bf16, f16};

use crate::tensor::DType;

/// 32 values of 4 bits: `value[j] = d · (nibble[j] − 8)`.
///
/// Value j < 16 is the low nibble of `qs[j]`, value j + 16 its high nibble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct BlockQ4_0 {
    /// Scale, an f16 in little-endian bytes (so that a block has no alignment).
    d: [u8; 2],
    /// Nibbles.
    pub(crate) qs: [u8; 16],
}

/// 32 values of 8 bits: `value[j] = d · qs[j]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct BlockQ8_0 {
    /// Scale, an f16 in little-endian bytes.
    d: [u8; 2],
    /// Values.
    pub(crate) qs: [i8; 32],
}

const _: () = assert!(size_of::<BlockQ4_0>() == 18);
const _: () = assert!(size_of::<BlockQ8_0>() == 34);

impl BlockQ4_0 {
    /// Values in a block.
    pub(crate) const VALUES: usize = 32;

    /// The scale.
    #[inline(always)]
    pub(crate) fn scale(&self) -> f32 {
        f16_to_f32(self.d)
    }

    /// The scale's bits, for processors that convert f16 themselves.
    #[inline(always)]
    pub(crate) fn scale_bits(&self) -> u16 {
        u16::from_le_bytes(self.d)
    }

    /// Value `j` without its scale, −8 to 7.
    #[inline(always)]
    pub(crate) fn level(&self, j: usize) -> i32 {
        let byte = self.qs[j % 16];
        i32::from(if j < 16 { byte & 0xf } else { byte >> 4 }) - 8
    }

    /// Quantises 32 values with the scale that has the smallest squared error among a few candidates
    /// around the one that maps the largest value to −8.
    ///
    /// The plain scale alone is the usual choice; the search costs packing time only.
    fn quantise(x: &[f32]) -> Self {
        let extreme = x.iter().copied().fold(0.0_f32, |m, v| if v.abs() > m.abs() { v } else { m });
        if extreme == 0.0 {
            return BlockQ4_0 { d: [0; 2], qs: [0x88; 16] };
        }
        let mut best = (f32::INFINITY, f16::ZERO);
        for step in -6_i16..=6 {
            let d = f16::from_f32(extreme / (-8.0 + 0.15 * f32::from(step)));
            let error: f32 = x
                .iter()
                .map(|&v| (v - d.to_f32() * (nearest_level(v, d.to_f32()) as f32)).powi(2))
                .sum();
            if error < best.0 {
                best = (error, d);
            }
        }
        let d = best.1;
        let nibble = |v: f32| (nearest_level(v, d.to_f32()) + 8) as u8;
        let qs = std::array::from_fn(|j| nibble(x[j]) | (nibble(x[j + 16]) << 4));
        BlockQ4_0 { d: d.to_le_bytes(), qs }
    }
}

impl BlockQ8_0 {
    /// Values in a block.
    pub(crate) const VALUES: usize = 32;

    /// The scale.
    #[inline(always)]
    pub(crate) fn scale(&self) -> f32 {
        f16_to_f32(self.d)
    }

    /// The scale's bits, for processors that convert f16 themselves.
    #[inline(always)]
    pub(crate) fn scale_bits(&self) -> u16 {
        u16::from_le_bytes(self.d)
    }

    fn quantise(x: &[f32]) -> Self {
        let d = f16::from_f32(x.iter().fold(0.0_f32, |m, v| m.max(v.abs())) / 127.0);
        let inverse = if d == f16::ZERO { 0.0 } else { 1.0 / d.to_f32() };
        let qs = std::array::from_fn(|j| (x[j] * inverse).round().clamp(-127.0, 127.0) as i8);
        BlockQ8_0 { d: d.to_le_bytes(), qs }
    }
}

/// The 4-bit level nearest to `v / d`, −8 to 7.
fn nearest_level(v: f32, d: f32) -> i32 {
    if d == 0.0 { 0 } else { (v / d).round().clamp(-8.0, 7.0) as i32 }
}

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
    match dtype {
        DType::F32 => {
            for (o, b) in out.iter_mut().zip(row.as_chunks::<4>().0) {
                *o = f32::from_le_bytes(*b);
            }
        }
        DType::F16 => {
            for (o, b) in out.iter_mut().zip(row.as_chunks::<2>().0) {
                *o = f16_to_f32(*b);
            }
        }
        DType::BF16 => {
            for (o, b) in out.iter_mut().zip(row.as_chunks::<2>().0) {
                *o = bf16::from_le_bytes(*b).to_f32();
            }
        }
        DType::Q4_0 => {
            let blocks: &[BlockQ4_0] = bytemuck::cast_slice(row);
            for (o, block) in out.chunks_exact_mut(BlockQ4_0::VALUES).zip(blocks) {
                let d = block.scale();
                for (j, v) in o.iter_mut().enumerate() {
                    *v = d * block.level(j) as f32;
                }
            }
        }
        DType::Q8_0 => {
            let blocks: &[BlockQ8_0] = bytemuck::cast_slice(row);
            for (o, block) in out.chunks_exact_mut(BlockQ8_0::VALUES).zip(blocks) {
                let d = block.scale();
                for (v, q) in o.iter_mut().zip(block.qs) {
                    *v = d * f32::from(q);
                }
            }
        }
    }
}

/// Encodes one f32 row. Panics if the lengths disagree (caller bug).
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
        DType::Q4_0 => {
            let blocks: &mut [BlockQ4_0] = bytemuck::cast_slice_mut(out);
            for (block, v) in blocks.iter_mut().zip(x.chunks_exact(BlockQ4_0::VALUES)) {
                *block = BlockQ4_0::quantise(v);
            }
        }
        DType::Q8_0 => {
            let blocks: &mut [BlockQ8_0] = bytemuck::cast_slice_mut(out);
            for (block, v) in blocks.iter_mut().zip(x.chunks_exact(BlockQ8_0::VALUES)) {
                *block = BlockQ8_0::quantise(v);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn round_trip(dtype: DType, x: &[f32]) -> Vec<f32> {
        let mut bytes = vec![0; dtype.row_bytes(x.len()).expect("whole blocks")];
        quantise_row(dtype, x, &mut bytes);
        let mut out = vec![0.0; x.len()];
        dequantise_row(dtype, &bytes, &mut out);
        out
    }

    #[test]
    fn q4_0_block_decodes_as_the_format_says() {
        // d = 0.5; low nibbles 0..15 are values 0..15, high nibbles 15..0 are values 16..31.
        let mut bytes = f16::from_f32(0.5).to_le_bytes().to_vec();
        bytes.extend((0..16_u8).map(|j| j | ((15 - j) << 4)));
        let mut out = [0.0; 32];
        dequantise_row(DType::Q4_0, &bytes, &mut out);
        for j in 0..16 {
            assert_eq!(out[j], 0.5 * (j as f32 - 8.0));
            assert_eq!(out[j + 16], 0.5 * (7.0 - j as f32));
        }
    }

    #[test]
    fn q8_0_block_decodes_as_the_format_says() {
        let mut bytes = f16::from_f32(0.25).to_le_bytes().to_vec();
        bytes.extend((-16_i8..16).map(|q| q as u8));
        let mut out = [0.0; 32];
        dequantise_row(DType::Q8_0, &bytes, &mut out);
        for (j, v) in out.iter().enumerate() {
            assert_eq!(*v, 0.25 * (j as f32 - 16.0));
        }
    }

    #[test]
    fn zero_rows_stay_zero() {
        for dtype in DType::ALL {
            assert!(round_trip(dtype, &[0.0; 64]).iter().all(|v| *v == 0.0), "{dtype}");
        }
    }

    proptest! {
        #[test]
        fn quantisation_error_stays_within_half_a_step(x in prop::collection::vec(-4.0_f32..4.0, 64)) {
            for (dtype, levels) in [(DType::Q4_0, 8.0), (DType::Q8_0, 127.0)] {
                for (block, back) in x.chunks(32).zip(round_trip(dtype, &x).chunks(32)) {
                    let max = block.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
                    let rms = |f: &dyn Fn(usize) -> f32| {
                        ((0..32).map(|j| f(j).powi(2)).sum::<f32>() / 32.0).sqrt()
                    };
                    // The scale is an f16 (2^-11 relative), and 4 bits are asymmetric: one full step.
                    let error = rms(&|j| block[j] - back[j]);
                    prop_assert!(error <= max / levels * 1.01, "{dtype}: {error} of {max}");
                }
            }
        }

        #[test]
        fn encoding_what_was_decoded_changes_nothing(x in prop::collection::vec(-4.0_f32..4.0, 32)) {
            for dtype in [DType::F32, DType::F16, DType::BF16, DType::Q8_0] {
                let once = round_trip(dtype, &x);
                let twice = round_trip(dtype, &once);
                for (a, b) in once.iter().zip(&twice) {
                    prop_assert!((a - b).abs() <= 1e-3 * a.abs(), "{dtype}: {a} {b}");
                }
            }
        }
    }
}
