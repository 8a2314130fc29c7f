//! The simple blocks: 32 values, one scale, in some of them one minimum.
//!
//! Scales are f16 in little-endian bytes, so that a block has no alignment.
//! Source: ggml `block_q4_0` to `block_q8_0` in ggml-common.h.

use bytemuck::{Pod, Zeroable};

use super::{Block, Group, f16_to_f32};

/// 32 values of 4 bits: `value[j] = d · (nibble[j] − 8)`.
///
/// Value j < 16 is the low nibble of `qs[j]`, value j + 16 its high nibble; so in all blocks of 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct BlockQ4_0 {
    pub(crate) d: [u8; 2],
    pub(crate) qs: [u8; 16],
}

/// 32 values of 4 bits: `value[j] = d · nibble[j] + m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct BlockQ4_1 {
    pub(crate) d: [u8; 2],
    pub(crate) m: [u8; 2],
    pub(crate) qs: [u8; 16],
}

/// 32 values of 5 bits: `value[j] = d · (nibble[j] + 16 · bit[j] − 16)`, bit j of `qh`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct BlockQ5_0 {
    pub(crate) d: [u8; 2],
    pub(crate) qh: [u8; 4],
    pub(crate) qs: [u8; 16],
}

/// 32 values of 5 bits: `value[j] = d · (nibble[j] + 16 · bit[j]) + m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct BlockQ5_1 {
    pub(crate) d: [u8; 2],
    pub(crate) m: [u8; 2],
    pub(crate) qh: [u8; 4],
    pub(crate) qs: [u8; 16],
}

/// 32 values of 8 bits: `value[j] = d · qs[j]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct BlockQ8_0 {
    pub(crate) d: [u8; 2],
    pub(crate) qs: [i8; 32],
}

/// The 32 nibbles of 16 bytes, low ones first.
#[inline(always)]
pub(super) fn nibbles(qs: &[u8; 16]) -> [i8; 32] {
    std::array::from_fn(|j| if j < 16 { (qs[j] & 0xf) as i8 } else { (qs[j - 16] >> 4) as i8 })
}

/// Nibbles with a fifth bit each.
#[inline(always)]
fn five_bits(qs: &[u8; 16], qh: [u8; 4]) -> [i8; 32] {
    let high = u32::from_le_bytes(qh);
    let low = nibbles(qs);
    std::array::from_fn(|j| low[j] | (((high >> j) & 1) << 4) as i8)
}

impl Block for BlockQ4_0 {
    const VALUES: usize = 32;

    #[inline(always)]
    fn group(&self, _: usize) -> Group {
        Group::scaled(f16_to_f32(self.d), nibbles(&self.qs).map(|q| q - 8))
    }

    #[inline(always)]
    fn numbers(&self) -> [[u8; 2]; 2] {
        [self.d; 2]
    }
}

impl Block for BlockQ4_1 {
    const VALUES: usize = 32;
    const HAS_MIN: bool = true;

    #[inline(always)]
    fn group(&self, _: usize) -> Group {
        let min_scale = -f16_to_f32(self.m);
        Group { min_scale, ..Group::scaled(f16_to_f32(self.d), nibbles(&self.qs)) }
    }

    #[inline(always)]
    fn numbers(&self) -> [[u8; 2]; 2] {
        [self.d, self.m]
    }
}

impl Block for BlockQ5_0 {
    const VALUES: usize = 32;

    #[inline(always)]
    fn group(&self, _: usize) -> Group {
        Group::scaled(f16_to_f32(self.d), five_bits(&self.qs, self.qh).map(|q| q - 16))
    }

    #[inline(always)]
    fn numbers(&self) -> [[u8; 2]; 2] {
        [self.d; 2]
    }
}

impl Block for BlockQ5_1 {
    const VALUES: usize = 32;
    const HAS_MIN: bool = true;

    #[inline(always)]
    fn group(&self, _: usize) -> Group {
        let min_scale = -f16_to_f32(self.m);
        Group { min_scale, ..Group::scaled(f16_to_f32(self.d), five_bits(&self.qs, self.qh)) }
    }

    #[inline(always)]
    fn numbers(&self) -> [[u8; 2]; 2] {
        [self.d, self.m]
    }
}

impl Block for BlockQ8_0 {
    const VALUES: usize = 32;

    #[inline(always)]
    fn group(&self, _: usize) -> Group {
        Group::scaled(f16_to_f32(self.d), self.qs)
    }

    #[inline(always)]
    fn numbers(&self) -> [[u8; 2]; 2] {
        [self.d; 2]
    }
}
