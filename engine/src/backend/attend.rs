//! Attention of a few queries with one head's keys and values, a block of positions at a time.
//!
//! Of a block come all scores, then one new maximum, all weights, and one pass over the values whose
//! sums stay in registers. What a query's result is depends on the positions alone, which are cut where
//! the cache cuts them: not on how many queries are computed together, nor on how a prompt was chunked.
//! Source: Dao, "FlashAttention-2" (arXiv 2307.08691), section 3.1; Milakov and Gimelshein, "Online
//! normalizer calculation for softmax" (arXiv 1805.02867).
//!
//! Written once over [`Lanes`], which a processor's kernels implement by its registers: same order, same
//! bits.

#![expect(
    clippy::needless_range_loop,
    reason = "what iterates over registers is not always inlined"
)]

use super::kernels::{LANES, sum_lanes};
use crate::kv_cache::BLOCK_POSITIONS;

/// Queries that share a pass over the keys.
pub(super) const QUERIES: usize = 4;

/// Eight numbers.
pub(super) trait Lanes: Copy {
    fn splat(x: f32) -> Self;
    fn load(from: &[f32; LANES]) -> Self;
    fn store(self, to: &mut [f32; LANES]);
    fn add(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    /// `self · by + to`, rounded once.
    fn mul_add(self, by: Self, to: Self) -> Self;
    /// The larger; `other` where one of them is not a number.
    fn max(self, other: Self) -> Self;
    /// `self`, but nothing where `of` is below `limit`.
    fn or_zero_below(self, of: Self, limit: f32) -> Self;
    /// 2 to the power of whole numbers from −126 to 127.
    fn power_of_two(self) -> Self;

    /// The lanes added in the one order.
    #[inline(always)]
    fn sum(self) -> f32 {
        let mut lanes = [0.0; LANES];
        self.store(&mut lanes);
        sum_lanes(lanes)
    }

    /// The first numbers of a row's end, zeros after them.
    #[inline(always)]
    fn load_part(from: &[f32]) -> Self {
        let mut lanes = [0.0; LANES];
        lanes[..from.len()].copy_from_slice(from);
        Self::load(&lanes)
    }

    /// e to the power of numbers up to 0, within two units in the last place; 0 below −87, where the
    /// numbers of full precision end.
    #[inline(always)]
    fn exp(self) -> Self {
        const LOWEST: f32 = -87.0;
        // Adding and subtracting 1.5 · 2^23 rounds to the nearest whole number.
        const ROUND: f32 = 12_582_912.0;
        // ln 2 in two parts; the first has so few digits that its products are exact.
        const LN_2: [f32; 2] = [355.0 / 512.0, -2.121_944_4e-4];
        // Taylor's terms from the seventh to the third: at ln 2 / 2 what follows is below 2^-27.
        const TERMS: [f32; 5] = [1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0];
        let x = Self::splat(LOWEST).max(self);
        let n = x.mul_add(Self::splat(std::f32::consts::LOG2_E), Self::splat(ROUND));
        let n = n.add(Self::splat(-ROUND));
        let r = LN_2.iter().fold(x, |r, part| n.mul_add(Self::splat(-part), r));
        let tail = TERMS.iter().fold(Self::splat(0.0), |p, c| p.mul_add(r, Self::splat(*c)));
        let square = r.mul(r);
        let p = square.mul_add(r.mul_add(tail, Self::splat(0.5)), r).add(Self::splat(1.0));
        p.mul(n.power_of_two()).or_zero_below(self, LOWEST)
    }
}

impl Lanes for [f32; LANES] {
    #[inline(always)]
    fn splat(x: f32) -> Self {
        [x; LANES]
    }

    #[inline(always)]
    fn load(from: &[f32; LANES]) -> Self {
        *from
    }

    #[inline(always)]
    fn store(self, to: &mut [f32; LANES]) {
        *to = self;
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        std::array::from_fn(|l| self[l] + other[l])
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        std::array::from_fn(|l| self[l] * other[l])
    }

    #[inline(always)]
    fn mul_add(self, by: Self, to: Self) -> Self {
        std::array::from_fn(|l| self[l].mul_add(by[l], to[l]))
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        std::array::from_fn(|l| if self[l] > other[l] { self[l] } else { other[l] })
    }

    #[inline(always)]
    fn or_zero_below(self, of: Self, limit: f32) -> Self {
        std::array::from_fn(|l| if of[l] < limit { 0.0 } else { self[l] })
    }

    #[inline(always)]
    fn power_of_two(self) -> Self {
        self.map(|n| f32::from_bits(((n as i32 + 127) as u32) << 23))
    }
}

/// A few queries, and one head's part of a block of what they look at.
#[derive(Clone, Copy)]
pub(super) struct Step<'a> {
    /// [queries, dim], at most [`QUERIES`] of them.
    pub(super) q: &'a [f32],
    pub(super) dim: usize,
    /// [positions, stride]
    pub(super) keys: &'a [f32],
    /// [positions, stride]
    pub(super) values: &'a [f32],
    /// Features of a position.
    pub(super) stride: usize,
    /// Where the head's features begin in a position.
    pub(super) at: usize,
    /// Positions to look at, from the first; at most [`BLOCK_POSITIONS`].
    pub(super) positions: usize,
}

/// What is known of the softmax of up to [`QUERIES`] queries after some blocks.
#[derive(Clone, Copy)]
pub(super) struct Softmax {
    max: [f32; QUERIES],
    total: [f32; QUERIES],
}

impl Softmax {
    /// Before the first block.
    pub(super) fn new() -> Softmax {
        Softmax { max: [f32::NEG_INFINITY; QUERIES], total: [0.0; QUERIES] }
    }

    /// Divides the weighted sums of values by the sum of the weights: `out` [queries, dim].
    pub(super) fn finish(&self, out: &mut [f32], dim: usize) {
        for (out, total) in out.chunks_exact_mut(dim).zip(self.total) {
            let inverse = 1.0 / total;
            out.iter_mut().for_each(|o| *o *= inverse);
        }
    }
}

/// Adds a block to `out` [queries, dim], the weighted sums of values so far.
#[inline(always)]
pub(super) fn attend<V: Lanes>(out: &mut [f32], step: Step<'_>, state: &mut Softmax) {
    let Step { q, dim, .. } = step;
    assert!(q.len() == out.len() && q.len() <= QUERIES * dim, "a few queries and their outputs");
    let mut from = 0;
    while from < q.len() / dim {
        let (left, out) = (q.len() / dim - from, &mut out[from * dim..]);
        let step = Step { q: &q[from * dim..], ..step };
        from += match left {
            4.. => few::<V, 4, 2>(out, step, state, from),
            2.. => few::<V, 2, 4>(out, step, state, from),
            _ => few::<V, 1, 8>(out, step, state, from),
        };
    }
}

/// [`attend`] for `Q` queries, the first of which is number `from`; `W` keys or vectors of values at
/// once, so that eight sums are independent. Returns `Q`.
#[inline(always)]
fn few<V: Lanes, const Q: usize, const W: usize>(
    out: &mut [f32],
    step: Step<'_>,
    state: &mut Softmax,
    from: usize,
) -> usize {
    let dim = step.dim;
    let mut weights = [[f32::NEG_INFINITY; BLOCK_POSITIONS]; Q];
    scores::<V, Q, W>(&mut weights, step);
    let mut shrinks = [0.0; Q];
    for i in 0..Q {
        let (max, total) = (&mut state.max[from + i], &mut state.total[from + i]);
        let highest = weights[i].iter().fold(*max, |max, s| if *s > max { *s } else { max });
        let mut first = [0.0; LANES];
        V::splat(*max - highest).exp().store(&mut first);
        shrinks[i] = first[0];
        let mut sum = V::splat(0.0);
        for scores in weights[i].as_chunks_mut::<LANES>().0 {
            let weights = V::load(scores).add(V::splat(-highest)).exp();
            sum = sum.add(weights);
            weights.store(scores);
        }
        *total = total.mul_add(shrinks[i], sum.sum());
        *max = highest;
    }
    let whole = dim / (W * LANES) * (W * LANES);
    for d in (0..whole).step_by(W * LANES) {
        add_values::<V, Q, W>(out, d, step, &weights, &shrinks);
    }
    for d in (whole..dim).step_by(LANES) {
        add_values::<V, Q, 1>(out, d, step, &weights, &shrinks);
    }
    Q
}

/// Products of the queries with the block's keys, scaled.
#[inline(always)]
fn scores<V: Lanes, const Q: usize, const W: usize>(
    scores: &mut [[f32; BLOCK_POSITIONS]; Q],
    step: Step<'_>,
) {
    let Step { q, dim, .. } = step;
    let scale = 1.0 / (dim as f32).sqrt();
    let key = |p: usize| &step.keys[p * step.stride + step.at..][..dim];
    let queries = std::array::from_fn(|i| &q[i * dim..(i + 1) * dim]);
    let whole = step.positions / W * W;
    for p in (0..whole).step_by(W) {
        let products = products::<V, Q, W>(queries, std::array::from_fn(|w| key(p + w)));
        for (scores, products) in scores.iter_mut().zip(products) {
            scores[p..p + W].copy_from_slice(&products.map(|product| product * scale));
        }
    }
    for p in whole..step.positions {
        let products = products::<V, Q, 1>(queries, [key(p)]);
        for (scores, [product]) in scores.iter_mut().zip(products) {
            scores[p] = product * scale;
        }
    }
}

/// Dot products of queries and keys of one length.
#[inline(always)]
fn products<V: Lanes, const Q: usize, const W: usize>(
    queries: [&[f32]; Q],
    keys: [&[f32]; W],
) -> [[f32; W]; Q] {
    let mut acc = [[V::splat(0.0); W]; Q];
    let dim = queries[0].len();
    assert!(queries.iter().all(|q| q.len() == dim) && keys.iter().all(|k| k.len() == dim));
    let whole = dim / LANES * LANES;
    for c in (0..dim).step_by(LANES) {
        let load = |row: &[f32]| match row[c..].first_chunk() {
            Some(eight) => V::load(eight),
            None => V::load_part(&row[whole..]),
        };
        let mut q = [V::splat(0.0); Q];
        for i in 0..Q {
            q[i] = load(queries[i]);
        }
        for w in 0..W {
            let k = load(keys[w]);
            for i in 0..Q {
                acc[i][w] = q[i].mul_add(k, acc[i][w]);
            }
        }
    }
    let mut out = [[0.0; W]; Q];
    for i in 0..Q {
        for w in 0..W {
            out[i][w] = acc[i][w].sum();
        }
    }
    out
}

/// Adds `W` vectors of the weighted values, from feature `d` on, to the shrunken sums so far.
#[inline(always)]
fn add_values<V: Lanes, const Q: usize, const W: usize>(
    out: &mut [f32],
    d: usize,
    step: Step<'_>,
    weights: &[[f32; BLOCK_POSITIONS]; Q],
    shrinks: &[f32; Q],
) {
    let dim = step.dim;
    let end = (d + W * LANES).min(dim);
    let load = |row: &[f32], w: usize| match row[w * LANES..].first_chunk() {
        Some(eight) => V::load(eight),
        None => V::load_part(&row[w * LANES..]),
    };
    let mut acc = [[V::splat(0.0); W]; Q];
    for i in 0..Q {
        let shrink = V::splat(shrinks[i]);
        for w in 0..W {
            acc[i][w] = load(&out[i * dim + d..i * dim + end], w).mul(shrink);
        }
    }
    for p in 0..step.positions {
        let at = p * step.stride + step.at;
        let value = &step.values[at + d..at + end];
        let mut weight = [V::splat(0.0); Q];
        for i in 0..Q {
            weight[i] = V::splat(weights[i][p]);
        }
        for w in 0..W {
            let value = load(value, w);
            for i in 0..Q {
                acc[i][w] = weight[i].mul_add(value, acc[i][w]);
            }
        }
    }
    for i in 0..Q {
        let mut lanes = [[0.0; LANES]; W];
        for w in 0..W {
            acc[i][w].store(&mut lanes[w]);
        }
        let out = &mut out[i * dim + d..i * dim + end];
        out.copy_from_slice(&lanes.as_flattened()[..out.len()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Largest relative error of [`Lanes::exp`]: two units in the last place.
    const EXP_ERR_MAX: f64 = 2.4e-7;

    #[test]
    fn powers_of_e_are_those_of_double_precision() {
        let exp = |x: f32| [x; LANES].exp()[0];
        for i in 0..=870_000 {
            let x = i as f32 * -1e-4;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) - exact).abs() / exact;
            assert!(error <= EXP_ERR_MAX, "{x}: {} {exact}", exp(x));
        }
        assert_eq!((exp(0.0), exp(-87.01), exp(f32::NEG_INFINITY)), (1.0, 0.0, 0.0));
        assert!(exp(f32::NAN).is_nan());
    }
}
