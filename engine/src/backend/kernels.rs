//! The inner loops, written once over eight lanes: plain Rust that the compiler turns into vector code.
//!
//! Every sum runs in eight lanes that are added in one fixed tree ([`sum_lanes`]), with fused
//! multiply-adds. A processor-specific twin (`avx2`) must give the same bits; the property test beside
//! it holds it to that, so that a model's tokens do not depend on the processor.

use crate::quant::{BlockQ4_0, BlockQ8_0, f16_to_f32};

/// Lanes of every sum.
pub(super) const LANES: usize = 8;

/// One row of activations in 8 bits: `x[j] ≈ scales[j / 32] · qs[j]`.
#[derive(Clone, Copy)]
pub(super) struct RowQ8<'a> {
    /// One scale for 32 values, [cols / 32].
    pub(super) scales: &'a [f32],
    /// Values, [cols].
    pub(super) qs: &'a [i8],
}

/// What a backend needs from a processor: dot products of one weight row with `N` activation rows.
///
/// `N` rows at once decode the weights once; each row's bits are those of `N = 1`.
pub(super) trait Kernels: Copy + Send + Sync {
    fn dot_q4_0<const N: usize>(self, w: &[BlockQ4_0], x: [RowQ8<'_>; N]) -> [f32; N];
    fn dot_q8_0<const N: usize>(self, w: &[BlockQ8_0], x: [RowQ8<'_>; N]) -> [f32; N];
    fn dot_f32<const N: usize>(self, w: &[[u8; 4]], x: [&[f32]; N]) -> [f32; N];
    fn dot_f16<const N: usize>(self, w: &[[u8; 2]], x: [&[f32]; N]) -> [f32; N];
    fn dot_bf16<const N: usize>(self, w: &[[u8; 2]], x: [&[f32]; N]) -> [f32; N];
    /// Quantises one row to 8 bits; `scales` [cols / 32], `qs` [cols].
    fn quantise(self, x: &[f32], scales: &mut [f32], qs: &mut [i8]);
    /// Attention of one query over `keys.len() / stride` positions; see [`attend`].
    fn attend(self, out: &mut [f32], q: &[f32], keys: &[f32], values: &[f32], stride: usize);
    /// One head's delta rule for one token; see [`delta_step`].
    fn delta_step(self, out: &mut [f32], state: &mut [f32], token: DeltaToken<'_>, u: &mut [f32]);
}

/// One token's inputs of one delta net head.
#[derive(Clone, Copy)]
pub(super) struct DeltaToken<'a> {
    /// [key_dim]
    pub(super) q: &'a [f32],
    /// [key_dim]
    pub(super) k: &'a [f32],
    /// [value_dim]
    pub(super) v: &'a [f32],
    pub(super) decay: f32,
    pub(super) beta: f32,
}

/// Any processor.
#[derive(Clone, Copy)]
pub(super) struct Portable;

impl Kernels for Portable {
    fn dot_q4_0<const N: usize>(self, w: &[BlockQ4_0], x: [RowQ8<'_>; N]) -> [f32; N] {
        dot_q8_blocks(w.len(), x, |b| (w[b].scale(), std::array::from_fn(|j| w[b].level(j) as i8)))
    }

    fn dot_q8_0<const N: usize>(self, w: &[BlockQ8_0], x: [RowQ8<'_>; N]) -> [f32; N] {
        dot_q8_blocks(w.len(), x, |b| (w[b].scale(), w[b].qs))
    }

    fn dot_f32<const N: usize>(self, w: &[[u8; 4]], x: [&[f32]; N]) -> [f32; N] {
        dot_float(w, x, f32::from_le_bytes)
    }

    fn dot_f16<const N: usize>(self, w: &[[u8; 2]], x: [&[f32]; N]) -> [f32; N] {
        dot_float(w, x, f16_to_f32)
    }

    fn dot_bf16<const N: usize>(self, w: &[[u8; 2]], x: [&[f32]; N]) -> [f32; N] {
        dot_float(w, x, bf16_to_f32)
    }

    fn quantise(self, x: &[f32], scales: &mut [f32], qs: &mut [i8]) {
        quantise(x, scales, qs);
    }

    fn attend(self, out: &mut [f32], q: &[f32], keys: &[f32], values: &[f32], stride: usize) {
        attend(out, q, keys, values, stride);
    }

    fn delta_step(self, out: &mut [f32], state: &mut [f32], token: DeltaToken<'_>, u: &mut [f32]) {
        delta_step(out, state, token, u);
    }
}

/// Adds eight lanes in the order in which vector code folds them: halves, quarters, pairs.
#[inline(always)]
pub(super) fn sum_lanes(a: [f32; LANES]) -> f32 {
    let h = [a[0] + a[4], a[1] + a[5], a[2] + a[6], a[3] + a[7]];
    (h[0] + h[2]) + (h[1] + h[3])
}

#[inline(always)]
pub(super) fn bf16_to_f32(bytes: [u8; 2]) -> f32 {
    f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16)
}

/// Dot of 8-bit activations with quantised blocks: exact integers within a block, lane l summing
/// values 4l to 4l + 3, then one fused multiply-add a lane and block.
#[inline(always)]
fn dot_q8_blocks<const N: usize>(
    blocks: usize,
    x: [RowQ8<'_>; N],
    block: impl Fn(usize) -> (f32, [i8; 32]),
) -> [f32; N] {
    let mut acc = [[0.0_f32; LANES]; N];
    for b in 0..blocks {
        let (d, levels) = block(b);
        for (acc, x) in acc.iter_mut().zip(x) {
            let scale = d * x.scales[b];
            let qs = &x.qs[b * 32..b * 32 + 32];
            for (lane, acc) in acc.iter_mut().enumerate() {
                let sum: i32 =
                    (4 * lane..4 * lane + 4).map(|j| i32::from(levels[j]) * i32::from(qs[j])).sum();
                *acc = scale.mul_add(sum as f32, *acc);
            }
        }
    }
    acc.map(sum_lanes)
}

/// Dot of f32 activations with floating-point weights; two interleaved accumulators of eight lanes.
#[inline(always)]
fn dot_float<const N: usize, const B: usize>(
    w: &[[u8; B]],
    x: [&[f32]; N],
    decode: impl Fn([u8; B]) -> f32,
) -> [f32; N] {
    let mut acc = [[[0.0_f32; LANES]; 2]; N];
    let (chunks, rest) = w.as_chunks::<{ 2 * LANES }>();
    for (c, chunk) in chunks.iter().enumerate() {
        for half in 0..2 {
            let mut w = [0.0_f32; LANES];
            for l in 0..LANES {
                w[l] = decode(chunk[half * LANES + l]);
            }
            let at = (2 * c + half) * LANES;
            for (acc, x) in acc.iter_mut().zip(x) {
                let x = &x[at..at + LANES];
                for l in 0..LANES {
                    acc[half][l] = w[l].mul_add(x[l], acc[half][l]);
                }
            }
        }
    }
    for (j, w) in rest.iter().enumerate() {
        for (acc, x) in acc.iter_mut().zip(x) {
            let lane = &mut acc[j / LANES][j % LANES];
            *lane = decode(*w).mul_add(x[chunks.len() * 2 * LANES + j], *lane);
        }
    }
    let mut out = [0.0; N];
    for (out, [a, b]) in out.iter_mut().zip(acc) {
        let mut sums = a;
        for l in 0..LANES {
            sums[l] += b[l];
        }
        *out = sum_lanes(sums);
    }
    out
}

/// Quantises to 8 bits with one scale for 32 values: `qs = round(x · 127 / max|x|)`.
#[inline(always)]
pub(super) fn quantise(x: &[f32], scales: &mut [f32], qs: &mut [i8]) {
    for ((x, scale), qs) in x.as_chunks::<32>().0.iter().zip(scales).zip(qs.as_chunks_mut::<32>().0)
    {
        let mut max = [0.0_f32; LANES];
        for (j, v) in x.iter().enumerate() {
            max[j % LANES] = max[j % LANES].max(v.abs());
        }
        let max = max.into_iter().fold(0.0, f32::max);
        *scale = max / 127.0;
        let inverse = if max > 0.0 { 127.0 / max } else { 0.0 };
        for (q, v) in qs.iter_mut().zip(x) {
            // Adding and subtracting 1.5 · 2^23 rounds to the nearest integer, ties to even, without
            // a library call; |v · inverse| is at most 127.
            const ROUND: f32 = 12_582_912.0;
            *q = ((v * inverse + ROUND) - ROUND) as i8;
        }
    }
}

/// Softmax attention of one query over all positions of `keys`, one pass with a running maximum.
///
/// `q`, `out` [head_dim]; position p's key is `keys[p · stride..][..head_dim]`, its value likewise.
/// Source: Milakov and Gimelshein, "Online normalizer calculation for softmax" (arXiv 1805.02867).
#[inline(always)]
pub(super) fn attend(out: &mut [f32], q: &[f32], keys: &[f32], values: &[f32], stride: usize) {
    let dim = q.len();
    let scale = 1.0 / (dim as f32).sqrt();
    let (mut max, mut total) = (f32::NEG_INFINITY, 0.0_f32);
    out.fill(0.0);
    for (key, value) in keys.chunks(stride).zip(values.chunks(stride)) {
        let score = dot_lanes(q, &key[..dim]) * scale;
        if score > max {
            let shrink = (max - score).exp();
            total *= shrink;
            out.iter_mut().for_each(|o| *o *= shrink);
            max = score;
        }
        let p = (score - max).exp();
        total += p;
        for (o, v) in out.iter_mut().zip(&value[..dim]) {
            *o = p.mul_add(*v, *o);
        }
    }
    let inverse = 1.0 / total;
    out.iter_mut().for_each(|o| *o *= inverse);
}

#[inline(always)]
fn dot_lanes(a: &[f32], b: &[f32]) -> f32 {
    let mut acc = [0.0_f32; LANES];
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for l in 0..LANES {
            acc[l] = a[l].mul_add(b[l], acc[l]);
        }
    }
    for (l, (a, b)) in a_rest.iter().zip(b_rest).enumerate() {
        acc[l] = a.mul_add(*b, acc[l]);
    }
    sum_lanes(acc)
}

/// One token of the gated delta rule for one head, with one read and one read-write of the state.
///
/// The rule decays S, subtracts what S already says of k, writes, and reads with q. With u = Sᵀk and
/// w = Sᵀq of the old state, δ = β (v − decay · u) and o = decay · w + (k·q) δ give the same output,
/// so the state is read once before and touched once after. `state` [key_dim, value_dim],
/// `u` scratch [2 · value_dim].
/// Source: Yang et al., "Gated Delta Networks" (arXiv 2412.06464), equation 10.
#[inline(always)]
pub(super) fn delta_step(out: &mut [f32], state: &mut [f32], token: DeltaToken<'_>, u: &mut [f32]) {
    let DeltaToken { q, k, v, decay, beta } = token;
    let dim = v.len();
    u.fill(0.0);
    let (u, w) = u.split_at_mut(dim);
    for ((row, k), q) in state.chunks_exact(dim).zip(k).zip(q) {
        for j in 0..dim {
            u[j] = k.mul_add(row[j], u[j]);
            w[j] = q.mul_add(row[j], w[j]);
        }
    }
    let kq = dot_lanes(k, q);
    for j in 0..dim {
        u[j] = beta * (v[j] - decay * u[j]); // δ
        out[j] = decay.mul_add(w[j], kq * u[j]);
    }
    for (row, k) in state.chunks_exact_mut(dim).zip(k) {
        for j in 0..dim {
            row[j] = decay.mul_add(row[j], k * u[j]);
        }
    }
}
