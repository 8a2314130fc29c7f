//! Quantisers of the simple blocks, and the search for scales that the k-quants share.
//!
//! Each looks for the scale with the smallest squared error; the plain scale alone is the usual choice,
//! and the search costs packing time only. What was decoded is encoded as it was: among the candidates
//! is the scale from which it came.

use half::f16;

use super::simple::{BlockQ4_0, BlockQ5_0, BlockQ8_0};

impl BlockQ4_0 {
    /// Quantises 32 values with the scale that has the smallest squared error among a few candidates
    /// around the one that maps the largest value to −8.
    pub(super) fn quantise(x: &[f32]) -> Self {
        let extreme = largest(x);
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

impl BlockQ5_0 {
    /// Quantises 32 values by [`signed_scale`].
    pub(super) fn quantise(x: &[f32]) -> Self {
        let d = f16::from_f32(signed_scale(x, 16.0));
        let levels: [u8; 32] =
            std::array::from_fn(|j| (nearest(x[j], d.to_f32(), -16.0, 15.0) + 16.0) as u8);
        let qh = (0..32).fold(0_u32, |bits, j| bits | (u32::from(levels[j] >> 4) << j));
        let qs = std::array::from_fn(|j| (levels[j] & 0xf) | ((levels[j + 16] & 0xf) << 4));
        BlockQ5_0 { d: d.to_le_bytes(), qh: qh.to_le_bytes(), qs }
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

/// The value that is farthest from zero, with its sign.
pub(super) fn largest(x: &[f32]) -> f32 {
    x.iter().copied().fold(0.0_f32, |m, v| if v.abs() > m.abs() { v } else { m })
}

/// The whole number nearest to `v / scale` from `low` to `high`; 0 if the scale is.
#[inline(always)]
pub(super) fn nearest(v: f32, scale: f32, low: f32, high: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { rounded(v / scale, low, high) }
}

/// The nearest whole number from `low` to `high`; not a number counts as `low`.
#[inline(always)]
pub(super) fn rounded(v: f32, low: f32, high: f32) -> f32 {
    // Adding and subtracting 1.5 · 2^23 rounds without a library call, on several values at once.
    const ROUND: f32 = 12_582_912.0;
    (v.max(low).min(high) + ROUND) - ROUND
}

/// The scale s for which levels −n to n − 1 times s come nearest to `x`.
///
/// Candidates map the largest value to about −n; each one's levels give the scale that suits them best
/// (least squares: s = Σxq / Σq², which leaves Σx² − (Σxq)² / Σq²), and the best of those is taken.
pub(super) fn signed_scale(x: &[f32], n: f32) -> f32 {
    let extreme = largest(x);
    let mut best = (0.0_f32, 0.0_f32);
    for step in -4_i16..=4 {
        let inverse = (-n + 0.25 * f32::from(step)) / extreme;
        let (mut xq, mut qq) = (0.0_f32, 0.0_f32);
        for v in x {
            let q = rounded(v * inverse, -n, n - 1.0);
            xq += v * q;
            qq += q * q;
        }
        if qq > 0.0 && xq * xq > best.0 * qq {
            best = (xq * xq / qq, xq / qq);
        }
    }
    best.1
}

/// The f16 next to `v` that is not nearer to zero by more than rounding of f32 explains, so that
/// integer factors of it, at most `factor_max`, reach what v reached.
///
/// Near zero f16 has few values: there the nearest may be too small by much.
pub(super) fn f16_reaching(v: f32) -> f16 {
    let d = f16::from_f32(v);
    if d.is_finite() && d.to_f32().abs() < v.abs() * (1.0 - 2e-3) {
        return f16::from_bits(d.to_bits() + 1);
    }
    d
}
