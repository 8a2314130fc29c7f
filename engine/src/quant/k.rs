//! The k-quants: super-blocks of 256 values, whose groups of 16 or 32 have small integer scales, which
//! one or two f16 scale in turn.
//!
//! Source: ggml `block_q2_K` to `block_q6_K` in ggml-common.h, bit layouts as in the Python package
//! gguf 0.19, quants.py.

use bytemuck::{Pod, Zeroable};

use super::{Block, Group, f16_to_f32};

/// 2 bits a value: `value = d · scale · q − dmin · min`, 4-bit scale and min for 16 values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct BlockQ2K {
    /// Scale in the low nibble, min in the high one.
    pub(crate) scales: [u8; 16],
    /// Byte l of each half of 32 has value l of that half's four groups, 2 bits each, lowest first.
    pub(crate) qs: [u8; 64],
    pub(crate) d: [u8; 2],
    pub(crate) dmin: [u8; 2],
}

/// 3 bits a value: `value = d · (scale − 32) · (q − 4)`, 6-bit scale for 16 values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct BlockQ3K {
    /// Third bit of each value: bit g of byte l for value l of group g of 32.
    pub(crate) hmask: [u8; 32],
    /// Two lower bits, as in [`BlockQ2K`].
    pub(crate) qs: [u8; 64],
    /// 16 scales of 6 bits: bytes 0..8 four lower bits, 8..12 two upper ones.
    pub(crate) scales: [u8; 12],
    pub(crate) d: [u8; 2],
}

/// 4 bits a value: `value = d · scale · q − dmin · min`, 6-bit scale and min for 32 values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct BlockQ4K {
    pub(crate) d: [u8; 2],
    pub(crate) dmin: [u8; 2],
    /// See [`scales_and_mins`].
    pub(crate) scales: [u8; 12],
    /// Bytes 32p..32p + 32: low nibbles are group 2p, high ones group 2p + 1.
    pub(crate) qs: [u8; 128],
}

/// 5 bits a value, otherwise as [`BlockQ4K`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct BlockQ5K {
    pub(crate) d: [u8; 2],
    pub(crate) dmin: [u8; 2],
    /// See [`scales_and_mins`].
    pub(crate) scales: [u8; 12],
    /// Fifth bit of each value: bit g of byte l for value l of group g.
    pub(crate) qh: [u8; 32],
    /// Four lower bits, as in [`BlockQ4K`].
    pub(crate) qs: [u8; 128],
}

/// 6 bits a value: `value = d · scale · (q − 32)`, signed 8-bit scale for 16 values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct BlockQ6K {
    /// Four lower bits: in each half of 64 bytes, low nibbles are groups 0 and 1 of that half's four,
    /// high nibbles groups 2 and 3.
    pub(crate) ql: [u8; 128],
    /// Two upper bits: byte l of each half of 32 for value l of four groups, lowest bits first.
    pub(crate) qh: [u8; 64],
    pub(crate) scales: [i8; 16],
    pub(crate) d: [u8; 2],
}

/// Unpacks the 6-bit scales and mins of the eight groups of Q4_K and Q5_K.
///
/// Scales 0 to 3 are the low six bits of bytes 0 to 3, mins 0 to 3 those of bytes 4 to 7; of scale and
/// min 4 + i, byte 8 + i has the four lower bits (low and high nibble) and the top bits of bytes i and
/// 4 + i are the two upper ones. Eight values at once, in the bytes of a word.
#[inline(always)]
pub(crate) fn scales_and_mins(packed: &[u8; 12]) -> (u64, u64) {
    let word = |at: usize| {
        let bytes = [packed[at], packed[at + 1], packed[at + 2], packed[at + 3]];
        u64::from(u32::from_le_bytes(bytes))
    };
    let (s, m, low) = (word(0), word(4), word(8));
    let upper = |w: u64| (w >> 2) & 0x3030_3030;
    let scales = (s & 0x3f3f_3f3f) | (((low & 0x0f0f_0f0f) | upper(s)) << 32);
    let mins = (m & 0x3f3f_3f3f) | ((((low >> 4) & 0x0f0f_0f0f) | upper(m)) << 32);
    (scales, mins)
}

/// Packs what [`scales_and_mins`] unpacks; each value is below 64.
pub(super) fn pack_scales_and_mins(scales: [u8; 8], mins: [u8; 8]) -> [u8; 12] {
    std::array::from_fn(|i| match i {
        0..4 => scales[i] | ((scales[i + 4] >> 4) << 6),
        4..8 => mins[i - 4] | ((mins[i] >> 4) << 6),
        _ => (scales[i - 4] & 0xf) | ((mins[i - 4] & 0xf) << 4),
    })
}

/// The group of 32 two-bit values g, lowest bits first.
#[inline(always)]
fn two_bits(qs: &[u8; 64], g: usize) -> [u8; 32] {
    let (half, shift) = (32 * (g / 4), 2 * (g % 4));
    std::array::from_fn(|l| (qs[half + l] >> shift) & 3)
}

/// The group of 32 nibbles g of [`BlockQ4K`].
#[inline(always)]
fn four_bits(qs: &[u8; 128], g: usize) -> [u8; 32] {
    let (pair, shift) = (32 * (g / 2), 4 * (g % 2));
    std::array::from_fn(|l| (qs[pair + l] >> shift) & 0xf)
}

/// Scale and min g, of 32 values, from what [`BlockQ4K`] and [`BlockQ5K`] share.
#[inline(always)]
fn group_with_min(
    d: [u8; 2],
    dmin: [u8; 2],
    packed: &[u8; 12],
    g: usize,
    levels: [u8; 32],
) -> Group {
    let (scales, mins) = scales_and_mins(packed);
    let (scale, min) = (scales.to_le_bytes()[g], mins.to_le_bytes()[g]);
    Group {
        min_scale: f16_to_f32(dmin),
        min_sub: [i16::from(min); 2],
        ..Group::scaled(f16_to_f32(d) * f32::from(scale), levels.map(|q| q as i8))
    }
}

impl Block for BlockQ2K {
    const VALUES: usize = 256;
    const HAS_MIN: bool = true;

    #[inline(always)]
    fn group(&self, g: usize) -> Group {
        let pair = [self.scales[2 * g], self.scales[2 * g + 1]];
        Group {
            sub: pair.map(|s| i16::from(s & 0xf)),
            min_scale: f16_to_f32(self.dmin),
            min_sub: pair.map(|s| i16::from(s >> 4)),
            ..Group::scaled(f16_to_f32(self.d), two_bits(&self.qs, g).map(|q| q as i8))
        }
    }

    #[inline(always)]
    fn numbers(&self) -> [[u8; 2]; 2] {
        [self.d, self.dmin]
    }
}

impl BlockQ3K {
    /// Scales of 16 values each, −32 to 31.
    #[inline(always)]
    pub(crate) fn sub_scales(&self) -> [i8; 16] {
        // Eight at once, in the bytes of a word: four lower bits, then two upper ones.
        let [low, high] = [0, 4].map(|at| self.scales_word(at));
        let low = low | (high << 32);
        let upper = self.scales_word(8);
        let pairs = |shift: u32| {
            let pair = |shift: u32| (upper >> shift) & 0x0303_0303;
            (pair(shift) | (pair(shift + 2) << 32)) << 4
        };
        const NIBBLES: u64 = 0x0f0f_0f0f_0f0f_0f0f;
        let first = ((low & NIBBLES) | pairs(0)).to_le_bytes();
        let second = (((low >> 4) & NIBBLES) | pairs(4)).to_le_bytes();
        std::array::from_fn(|i| (if i < 8 { first[i] } else { second[i - 8] }) as i8 - 32)
    }

    #[inline(always)]
    fn scales_word(&self, at: usize) -> u64 {
        let s = &self.scales;
        u64::from(u32::from_le_bytes([s[at], s[at + 1], s[at + 2], s[at + 3]]))
    }
}

impl Block for BlockQ3K {
    const VALUES: usize = 256;

    #[inline(always)]
    fn group(&self, g: usize) -> Group {
        let low = two_bits(&self.qs, g);
        let levels = std::array::from_fn(|l| {
            let above = (self.hmask[l] >> g) & 1;
            (low[l] | (above << 2)) as i8 - 4
        });
        let scales = self.sub_scales();
        let sub = [scales[2 * g], scales[2 * g + 1]].map(i16::from);
        Group { sub, ..Group::scaled(f16_to_f32(self.d), levels) }
    }

    #[inline(always)]
    fn numbers(&self) -> [[u8; 2]; 2] {
        [self.d; 2]
    }
}

impl Block for BlockQ4K {
    const VALUES: usize = 256;
    const HAS_MIN: bool = true;

    #[inline(always)]
    fn group(&self, g: usize) -> Group {
        group_with_min(self.d, self.dmin, &self.scales, g, four_bits(&self.qs, g))
    }

    #[inline(always)]
    fn numbers(&self) -> [[u8; 2]; 2] {
        [self.d, self.dmin]
    }
}

impl Block for BlockQ5K {
    const VALUES: usize = 256;
    const HAS_MIN: bool = true;

    #[inline(always)]
    fn group(&self, g: usize) -> Group {
        let low = four_bits(&self.qs, g);
        let levels = std::array::from_fn(|l| low[l] | (((self.qh[l] >> g) & 1) << 4));
        group_with_min(self.d, self.dmin, &self.scales, g, levels)
    }

    #[inline(always)]
    fn numbers(&self) -> [[u8; 2]; 2] {
        [self.d, self.dmin]
    }
}

impl Block for BlockQ6K {
    const VALUES: usize = 256;
    const ZERO: i16 = 32;

    #[inline(always)]
    fn group(&self, g: usize) -> Group {
        let (half, k) = (g / 4, g % 4);
        let (at, shift) = (64 * half + 32 * (k % 2), 4 * (k / 2));
        let levels = std::array::from_fn(|l| {
            let low = (self.ql[at + l] >> shift) & 0xf;
            let high = (self.qh[32 * half + l] >> (2 * k)) & 3;
            (low | (high << 4)) as i8
        });
        let sub = [self.scales[2 * g], self.scales[2 * g + 1]].map(i16::from);
        Group { sub, ..Group::scaled(f16_to_f32(self.d), levels) }
    }

    #[inline(always)]
    fn numbers(&self) -> [[u8; 2]; 2] {
        [self.d; 2]
    }
}
