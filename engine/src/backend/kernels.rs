//! The inner loops, written once over eight lanes: plain Rust that the compiler turns into vector code.
//!
//! Every sum runs in eight lanes that are added in one fixed tree ([`sum_lanes`]), with fused
//! multiply-adds. A processor-specific twin (`avx2`) must give the same bits; the property test beside
//! it holds it to that, so that a model's tokens do not depend on the processor.

use super::attend::{Softmax, Step, attend};
use crate::quant::{Block, f16_to_f32, with_block};
use crate::tensor::DType;

/// Lanes of every sum.
pub(super) const LANES: usize = 8;

/// One row of activations in 8 bits: `x[j] ≈ scales[j / 32] · qs[j]`.
#[derive(Clone, Copy)]
pub(super) struct RowQ8<'a> {
    /// One scale for 32 values, [cols / 32].
    pub(super) scales: &'a [f32],
    /// Values, [cols].
    pub(super) qs: &'a [i8],
    /// Sums of 16 values, [cols / 16]: what minimums are multiplied by.
    pub(super) sums: &'a [i16],
}

/// What a backend needs from a processor: dot products of `R` weight rows with `N` activation rows.
///
/// `N` rows at once decode the weights once, `R` rows at once hide the latency of additions; every
/// product's bits are those of `R = N = 1`.
pub(super) trait Kernels: Copy + Send + Sync {
    /// Whether there are registers for four weight rows and several activation rows at once.
    const WIDE: bool = false;

    /// Of rows in a quantised type.
    fn dot_q8<const R: usize, const N: usize>(
        self,
        dtype: DType,
        w: [&[u8]; R],
        x: [RowQ8<'_>; N],
    ) -> [[f32; N]; R];
    /// Of a row in a floating-point type.
    fn dot_float<const N: usize>(self, dtype: DType, w: &[u8], x: [&[f32]; N]) -> [f32; N];
    /// Quantises one row to 8 bits; `scales` [cols / 32], `qs` [cols], `sums` [cols / 16].
    fn quantise(self, x: &[f32], scales: &mut [f32], qs: &mut [i8], sums: &mut [i16]);
    /// Adds a block of positions to the attention of a few queries; see [`attend`](super::attend).
    fn attend(self, out: &mut [f32], step: Step<'_>, state: &mut Softmax);
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
    fn dot_q8<const R: usize, const N: usize>(
        self,
        dtype: DType,
        w: [&[u8]; R],
        x: [RowQ8<'_>; N],
    ) -> [[f32; N]; R] {
        w.map(|w| dot_q8(dtype, w, x))
    }

    fn dot_float<const N: usize>(self, dtype: DType, w: &[u8], x: [&[f32]; N]) -> [f32; N] {
        match dtype {
            DType::F32 => dot_float(w.as_chunks().0, x, f32::from_le_bytes),
            DType::F16 => dot_float(w.as_chunks().0, x, f16_to_f32),
            DType::BF16 => dot_float(w.as_chunks().0, x, bf16_to_f32),
            _ => panic!("{dtype} is not a floating-point type"),
        }
    }

    fn quantise(self, x: &[f32], scales: &mut [f32], qs: &mut [i8], sums: &mut [i16]) {
        quantise(x, scales, qs, sums);
    }

    fn attend(self, out: &mut [f32], step: Step<'_>, state: &mut Softmax) {
        attend::<[f32; LANES]>(out, step, state);
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

/// Dot products of a row in any quantised type: [`dot_blocks`] of its blocks.
#[inline(always)]
pub(super) fn dot_q8<const N: usize>(dtype: DType, w: &[u8], x: [RowQ8<'_>; N]) -> [f32; N] {
    with_block!(dtype, B => dot_blocks::<B, N>(bytemuck::cast_slice(w), x),
        _ => panic!("{dtype} is not quantised"))
}

/// Dot of 8-bit activations with quantised blocks.
///
/// Within a group of 32 values lane l sums values 4l to 4l + 3 times their half's `sub`, in integers
/// that are exact in f32 as well, then takes one fused multiply-add. Minimums are multiplied by sums of
/// activations; those of group g are summed in lane g mod 8 and subtracted in the end. A type's ZERO is
/// a minimum of that kind.
#[inline(always)]
fn dot_blocks<B: Block, const N: usize>(w: &[B], x: [RowQ8<'_>; N]) -> [f32; N] {
    let (mut acc, mut mins) = ([[0.0_f32; LANES]; N], [[0.0_f32; LANES]; N]);
    let groups = B::VALUES / 32;
    for i in 0..w.len() * groups {
        let group = w[i / groups].group(i % groups);
        for ((acc, mins), x) in acc.iter_mut().zip(&mut mins).zip(x) {
            let scale = group.scale * x.scales[i];
            let qs = &x.qs[i * 32..i * 32 + 32];
            for (lane, acc) in acc.iter_mut().enumerate() {
                let sum: i32 = (4 * lane..4 * lane + 4)
                    .map(|j| i32::from(group.levels[j]) * i32::from(qs[j]))
                    .sum();
                *acc = scale.mul_add((sum * i32::from(group.sub[lane / 4])) as f32, *acc);
            }
            let halves = [0, 1].map(|h| i32::from(x.sums[2 * i + h]));
            let weighed = |m: [i16; 2]| halves[0] * i32::from(m[0]) + halves[1] * i32::from(m[1]);
            let lane = &mut mins[i % LANES];
            if B::ZERO != 0 {
                *lane = scale.mul_add(weighed(group.sub.map(|s| s * B::ZERO)) as f32, *lane);
            }
            if B::HAS_MIN {
                let scale = group.min_scale * x.scales[i];
                *lane = scale.mul_add(weighed(group.min_sub) as f32, *lane);
            }
        }
    }
    let mut out = [0.0; N];
    for (out, (acc, mins)) in out.iter_mut().zip(acc.into_iter().zip(mins)) {
        *out = difference::<B>(acc, mins);
    }
    out
}

/// The sum of the lanes, minimums subtracted.
#[inline(always)]
fn difference<B: Block>(mut acc: [f32; LANES], mins: [f32; LANES]) -> f32 {
    if B::HAS_MIN || B::ZERO != 0 {
        for (acc, min) in acc.iter_mut().zip(mins) {
            *acc -= min;
        }
    }
    sum_lanes(acc)
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
pub(super) fn quantise(x: &[f32], scales: &mut [f32], qs: &mut [i8], sums: &mut [i16]) {
    let groups = x.as_chunks::<32>().0.iter().zip(qs.as_chunks_mut::<32>().0);
    for (((x, qs), scale), sums) in groups.zip(scales).zip(sums.as_chunks_mut::<2>().0) {
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
        for (sum, qs) in sums.iter_mut().zip(qs.as_chunks::<16>().0) {
            *sum = qs.iter().map(|q| i16::from(*q)).sum();
        }
    }
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
