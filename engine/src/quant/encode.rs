//! Quantisers: f32 values into blocks, for `pack`.
//!
//! Each searches for the scales with the smallest squared error; the plain scale alone is the usual
//! choice, and the search costs packing time only.

use half::f16;

use super::simple::{BlockQ4_0, BlockQ8_0};

impl BlockQ4_0 {
    /// Quantises 32 values with the scale that has the smallest squared error among a few candidates
    /// around the one that maps the largest value to −8.
    ///
    /// The plain scale alone is the usual choice; the search costs packing time only.
    pub(super) fn quantise(x: &[f32]) -> Self {
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
    /// Quantises 32 values with the scale that maps the largest to ±127.
    pub(super) fn quantise(x: &[f32]) -> Self {
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
