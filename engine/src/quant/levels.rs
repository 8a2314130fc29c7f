//! Blocks whose 4 bits choose from a table of levels: IQ4_NL, IQ4_XS and MXFP4.
//!
//! Source: ggml `block_iq4_nl`, `block_iq4_xs`, `block_mxfp4` and `kvalues_iq4nl` in ggml-common.h; OCP
//! Microscaling Formats v1.0 for E2M1 and E8M0.

use bytemuck::{Pod, Zeroable};
use half::f16;

use super::simple::nibbles;
use super::{ABSURD, Block, Group, f16_to_f32};

/// Levels of IQ4_NL and IQ4_XS: denser near zero, where weights are.
pub(crate) const LEVELS_IQ4: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Twice the values of the float E2M1, so that all are whole; the scale is halved instead.
pub(crate) const LEVELS_MXFP4: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// 32 values: `value[j] = d · LEVELS_IQ4[nibble[j]]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct BlockIq4Nl {
    pub(crate) d: [u8; 2],
    pub(crate) qs: [u8; 16],
}

/// 256 values: `value = d · (scale − 32) · LEVELS_IQ4[nibble]`, 6-bit scale for 32 values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct BlockIq4Xs {
    pub(crate) d: [u8; 2],
    /// Two upper bits of the eight scales, the first in the lowest bits.
    pub(crate) scales_h: [u8; 2],
    /// Four lower bits of the eight scales.
    pub(crate) scales_l: [u8; 4],
    /// 16 bytes a group, as in [`BlockIq4Nl`].
    pub(crate) qs: [[u8; 16]; 8],
}

/// 32 values: `value[j] = 2^(e − 128) · LEVELS_MXFP4[nibble[j]]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct BlockMxfp4 {
    pub(crate) e: u8,
    pub(crate) qs: [u8; 16],
}

#[inline(always)]
fn chosen(levels: &[i8; 16], qs: &[u8; 16]) -> [i8; 32] {
    nibbles(qs).map(|q| levels[q as usize & 0xf])
}

impl Block for BlockIq4Nl {
    const VALUES: usize = 32;

    #[inline(always)]
    fn group(&self, _: usize) -> Group {
        Group::scaled(f16_to_f32(self.d), chosen(&LEVELS_IQ4, &self.qs))
    }

    #[inline(always)]
    fn numbers(&self) -> [[u8; 2]; 2] {
        [self.d; 2]
    }
}

impl BlockIq4Xs {
    /// Scales of the eight groups, −32 to 31.
    #[inline(always)]
    pub(crate) fn scales(&self) -> [i8; 8] {
        let high = u16::from_le_bytes(self.scales_h);
        std::array::from_fn(|g| {
            let low = (self.scales_l[g / 2] >> (4 * (g % 2))) & 0xf;
            (low | (((high >> (2 * g)) & 3) << 4) as u8) as i8 - 32
        })
    }
}

impl Block for BlockIq4Xs {
    const VALUES: usize = 256;

    #[inline(always)]
    fn group(&self, g: usize) -> Group {
        let scale = f16_to_f32(self.d) * f32::from(self.scales()[g]);
        Group::scaled(scale, chosen(&LEVELS_IQ4, &self.qs[g]))
    }

    #[inline(always)]
    fn numbers(&self) -> [[u8; 2]; 2] {
        [self.d; 2]
    }
}

impl BlockMxfp4 {
    /// Half of the block's power of two; the two smallest are subnormal.
    #[inline(always)]
    pub(crate) fn scale(&self) -> f32 {
        let e = u32::from(self.e);
        f32::from_bits(if e < 2 { 0x0020_0000 << e } else { (e - 1) << 23 })
    }
}

impl Block for BlockMxfp4 {
    const VALUES: usize = 32;

    #[inline(always)]
    fn group(&self, _: usize) -> Group {
        Group::scaled(self.scale(), chosen(&LEVELS_MXFP4, &self.qs))
    }

    fn numbers(&self) -> [[u8; 2]; 2] {
        let number = if self.scale() < ABSURD { 0.0 } else { f32::INFINITY };
        [f16::from_f32(number).to_le_bytes(); 2]
    }
}
