//! Random bytes that follow from a seed and a place, so that they can be read in any order.
//!
//! Quantised tensors are drawn from a pool of blocks that the real quantisers made of normal values: a
//! block of the file costs one hash and a copy, for every type that this engine writes.

use std::f64::consts::TAU;

use crate::quant::quantise_row;
use crate::tensor::DType;

/// Values in a pool of blocks.
const POOL_VALUES: usize = 1 << 16;

/// A hash of two numbers that is even in all bits.
///
/// Source: the finaliser of SplitMix64 (Steele et al., "Fast splittable pseudorandom number
/// generators", 2014).
#[inline]
pub(super) fn mix(seed: u64, index: u64) -> u64 {
    let mut z = seed.wrapping_add((index.wrapping_add(1)).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Between 0 and 1.
pub(super) fn uniform(seed: u64, index: u64) -> f64 {
    ((mix(seed, index) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
}

/// A draw from N(0, 1).
///
/// Source: Box and Muller, "A note on the generation of random normal deviates" (1958).
pub(super) fn normal(seed: u64, index: u64) -> f64 {
    let (a, b) = (uniform(seed, 2 * index), uniform(seed, 2 * index + 1));
    (-2.0 * a.ln()).sqrt() * (TAU * b).cos()
}

/// Blocks of one type whose values are drawn from N(0, deviation²).
pub(super) struct Pool {
    bytes: Vec<u8>,
    block: usize,
}

impl Pool {
    pub(super) fn new(dtype: DType, deviation: f64, seed: u64) -> Pool {
        let (_, block) = dtype.block();
        let values: Vec<f32> =
            (0..POOL_VALUES).map(|i| (normal(seed, i as u64) * deviation) as f32).collect();
        let len = dtype.row_bytes(POOL_VALUES).expect("blocks divide a power of two");
        let mut bytes = vec![0; len];
        quantise_row(dtype, &values, &mut bytes);
        Pool { bytes, block }
    }

    /// Bytes of a block.
    pub(super) fn block_bytes(&self) -> usize {
        self.block
    }

    /// The block at a place of a tensor.
    #[inline]
    pub(super) fn block(&self, seed: u64, index: u64) -> &[u8] {
        let blocks = self.bytes.len() / self.block;
        let chosen = (mix(seed, index) % blocks as u64) as usize;
        &self.bytes[chosen * self.block..(chosen + 1) * self.block]
    }
}
