//! Quantisers of the k-quants Q4_K, Q5_K and Q6_K.
//!
//! First each group gets the scale (and minimum) with the smallest squared error; then the super-block's
//! f16 scale follows from the largest, and the small integer scales are chosen by the error that they
//! leave after rounding, not by rounding alone.
//! Not here: Q2_K and Q3_K, which are only read.

use half::f16;

use super::encode::{f16_reaching, largest, nearest, rounded, signed_scale};
use super::k::{BlockQ4K, BlockQ5K, BlockQ6K, pack_scales_and_mins};

impl BlockQ4K {
    /// Quantises 256 values.
    pub(super) fn quantise(x: &[f32]) -> Self {
        let Affine { d, dmin, scales, levels } = Affine::of(x, 15.0);
        let qs = std::array::from_fn(|i| {
            let (pair, l) = (2 * (i / 32), i % 32);
            levels[pair][l] | (levels[pair + 1][l] << 4)
        });
        BlockQ4K { d: d.to_le_bytes(), dmin: dmin.to_le_bytes(), scales, qs }
    }
}

impl BlockQ5K {
    /// Quantises 256 values.
    pub(super) fn quantise(x: &[f32]) -> Self {
        let Affine { d, dmin, scales, levels } = Affine::of(x, 31.0);
        let qs = std::array::from_fn(|i| {
            let (pair, l) = (2 * (i / 32), i % 32);
            (levels[pair][l] & 0xf) | ((levels[pair + 1][l] & 0xf) << 4)
        });
        let qh =
            std::array::from_fn(|l| (0..8).fold(0, |bits, g| bits | ((levels[g][l] >> 4) << g)));
        BlockQ5K { d: d.to_le_bytes(), dmin: dmin.to_le_bytes(), scales, qh, qs }
    }
}

/// 256 values as `d · scale · level − dmin · min`, in groups of 32.
struct Affine {
    d: f16,
    dmin: f16,
    /// Scales and mins, packed.
    scales: [u8; 12],
    levels: [[u8; 32]; 8],
}

impl Affine {
    /// Quantises 256 values to levels 0 to `top`.
    fn of(x: &[f32], top: f32) -> Self {
        let groups = &x.as_chunks::<32>().0[..8];
        let fits: [Fit; 8] = std::array::from_fn(|g| Fit::of(&groups[g], top));
        let largest = |f: &dyn Fn(&Fit) -> f32| fits.iter().map(f).fold(0.0, f32::max);
        let d = f16_reaching(largest(&|f| f.scale) / 63.0);
        let dmin = f16_reaching(largest(&|f| f.min) / 63.0);
        let (mut scales, mut mins, mut levels) = ([0; 8], [0; 8], [[0; 32]; 8]);
        for (g, x) in groups.iter().enumerate() {
            let (scale, min) = fits[g].whole(x, d.to_f32(), dmin.to_f32(), top);
            let fit = Fit { scale: d.to_f32() * scale, min: dmin.to_f32() * min };
            (scales[g], mins[g]) = (scale as u8, min as u8);
            levels[g] = x.map(|v| fit.level(v, top) as u8);
        }
        Affine { d, dmin, scales: pack_scales_and_mins(scales, mins), levels }
    }
}

/// What maps levels to values: `scale · level − min`, neither negative.
#[derive(Clone, Copy)]
struct Fit {
    scale: f32,
    min: f32,
}

impl Fit {
    /// The fit of 32 values with the smallest squared error that the search finds.
    ///
    /// Candidates stretch the range of the values over `top − 1` to `top + 1` steps; each one's levels
    /// give the fit that suits them best.
    fn of(x: &[f32; 32], top: f32) -> Fit {
        // Zero is always within the range: a minimum is subtracted, never added.
        let low = x.iter().copied().fold(0.0, f32::min);
        let range = x.iter().copied().fold(0.0, f32::max) - low;
        if range <= 0.0 || !range.is_finite() {
            return Fit { scale: 0.0, min: 0.0 };
        }
        let plain = Fit { scale: range / top, min: -low };
        let mut best = (plain.error(x, top), plain);
        for step in -8_i16..=8 {
            let start = Fit { scale: range / (top + 0.125 * f32::from(step)), min: -low };
            let fit = start.refined(x, top);
            let error = fit.error(x, top);
            if error < best.0 {
                best = (error, fit);
            }
        }
        best.1
    }

    /// The level nearest to a value.
    #[inline(always)]
    fn level(self, v: f32, top: f32) -> f32 {
        nearest(v + self.min, self.scale, 0.0, top)
    }

    /// Squared error of 32 values.
    fn error(self, x: &[f32; 32], top: f32) -> f32 {
        let inverse = if self.scale == 0.0 { 0.0 } else { 1.0 / self.scale };
        sum(x.map(|v| {
            let level = rounded((v + self.min) * inverse, 0.0, top);
            (self.scale * level - self.min - v).powi(2)
        }))
    }

    /// The least-squares fit for the levels that this one gives.
    fn refined(self, x: &[f32; 32], top: f32) -> Fit {
        let inverse = 1.0 / self.scale;
        let q = x.map(|v| rounded((v + self.min) * inverse, 0.0, top));
        let (sx, sq) = (sum(*x), sum(q));
        let sqq = sum(q.map(|q| q * q));
        let sxq = sum(std::array::from_fn(|j| x[j] * q[j]));
        let n = x.len() as f32;
        let determinant = n * sqq - sq * sq;
        if determinant <= 0.0 {
            return self;
        }
        let scale = (n * sxq - sx * sq) / determinant;
        let min = (scale * sq - sx) / n;
        if min >= 0.0 {
            Fit { scale: scale.max(0.0), min }
        } else {
            Fit { scale: sxq / sqq, min: 0.0 }
        }
    }

    /// Whole factors 0 to 63 of `d` and `dmin` that leave the smallest error: those nearest to this fit
    /// or their neighbours.
    fn whole(self, x: &[f32; 32], d: f32, dmin: f32, top: f32) -> (f32, f32) {
        let near = |of: f32| [0.0, -1.0, 1.0].map(|step| rounded(of + step, 0.0, 63.0));
        let whole = |v: f32, d: f32| nearest(v, d, 0.0, 63.0);
        let (scale, min) = (whole(self.scale, d), whole(self.min, dmin));
        let mut best = (f32::INFINITY, (0.0, 0.0));
        for scale in near(scale) {
            for min in near(min) {
                let error = Fit { scale: d * scale, min: dmin * min }.error(x, top);
                if error < best.0 {
                    best = (error, (scale, min));
                }
            }
        }
        best.1
    }
}

impl BlockQ6K {
    /// Quantises 256 values.
    pub(super) fn quantise(x: &[f32]) -> Self {
        let groups = &x.as_chunks::<16>().0[..16];
        let wanted: [f32; 16] = std::array::from_fn(|g| signed_scale(&groups[g], 32.0));
        // The largest scale becomes −128, which has no positive twin.
        let d = f16_reaching(largest(&wanted) / -128.0);
        let (mut scales, mut levels) = ([0; 16], [0_u8; 256]);
        for (g, x) in groups.iter().enumerate() {
            let scale = best_whole(x, wanted[g], d.to_f32());
            scales[g] = scale as i8;
            for (level, v) in levels[16 * g..].iter_mut().zip(x) {
                *level = (nearest(*v, d.to_f32() * scale, -32.0, 31.0) + 32.0) as u8;
            }
        }
        // Group k of 32 of a half of 128 values: see the fields.
        let level = |half: usize, k: usize, l: usize| levels[128 * half + 32 * k + l];
        let ql = std::array::from_fn(|i| {
            let (half, k, l) = (i / 64, i / 32 % 2, i % 32);
            (level(half, k, l) & 0xf) | ((level(half, k + 2, l) & 0xf) << 4)
        });
        let qh = std::array::from_fn(|i| {
            (0..4).fold(0, |bits, k| bits | ((level(i / 32, k, i % 32) >> 4) << (2 * k)))
        });
        BlockQ6K { ql, qh, scales, d: d.to_le_bytes() }
    }
}

/// The factor −128 to 127 of `d` that leaves the smallest error with levels −32 to 31: the one nearest
/// to `wanted` or a neighbour.
fn best_whole(x: &[f32; 16], wanted: f32, d: f32) -> f32 {
    let middle = nearest(wanted, d, -128.0, 127.0);
    let error = |scale: f32| -> f32 {
        x.iter().map(|v| (nearest(*v, scale, -32.0, 31.0) * scale - v).powi(2)).sum()
    };
    let mut best = (f32::INFINITY, 0.0);
    for step in [0.0, -1.0, 1.0] {
        let scale = rounded(middle + step, -128.0, 127.0);
        let error = error(d * scale);
        if error < best.0 {
            best = (error, scale);
        }
    }
    best.1
}

/// The sum, in eight lanes that vector code can hold.
#[inline(always)]
fn sum(x: [f32; 32]) -> f32 {
    let mut lanes = [0.0_f32; 8];
    for x in x.as_chunks::<8>().0 {
        for (lane, v) in lanes.iter_mut().zip(x) {
            *lane += v;
        }
    }
    lanes.into_iter().sum()
}
