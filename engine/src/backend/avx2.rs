//! The kernels for x86-64 processors with AVX2 and FMA, chosen at run time.
//!
//! The dot products are written with intrinsics (those of quantised rows in `blocks` and `k`); the rest is `kernels` compiled again with the wider
//! instructions. Same lanes, same order, fused where the portable code says fused: same bits.
#![allow(unsafe_code)]

pub(super) mod blocks;
mod k;
mod lanes;

use std::arch::x86_64::*;

use super::attend::{Softmax, Step};
use super::kernels::{self, DeltaToken, Kernels, LANES, RowQ8, bf16_to_f32, sum_lanes};
use crate::quant::f16_to_f32;
use crate::tensor::DType;
pub(super) use k::Factors;
use lanes::Register;

/// Proof that the processor has AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(super) struct Avx2(());

impl Avx2 {
    /// `Some` on processors that have the instructions.
    pub(super) fn new() -> Option<Self> {
        (is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c"))
        .then_some(Avx2(()))
    }
}

impl Kernels for Avx2 {
    fn dot_q8<const R: usize, const N: usize>(
        self,
        dtype: DType,
        w: [&[u8]; R],
        x: [RowQ8<'_>; N],
    ) -> [[f32; N]; R] {
        // SAFETY: `self` exists only where the features were detected; the same holds below.
        unsafe { blocks::dot_q8::<R, N, false>(dtype, w, x) }
    }

    fn dot_float<const N: usize>(self, dtype: DType, w: &[u8], x: [&[f32]; N]) -> [f32; N] {
        // SAFETY: as above.
        unsafe { dot_float(dtype, w, x) }
    }

    fn quantise(self, x: &[f32], scales: &mut [f32], qs: &mut [i8], sums: &mut [i16]) {
        // SAFETY: as above.
        unsafe { quantise(x, scales, qs, sums) }
    }

    fn attend(self, out: &mut [f32], step: Step<'_>, state: &mut Softmax) {
        // SAFETY: as above.
        unsafe { attend(out, step, state) }
    }

    fn delta_step(self, out: &mut [f32], state: &mut [f32], token: DeltaToken<'_>, u: &mut [f32]) {
        // SAFETY: as above.
        unsafe { delta_step(out, state, token, u) }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn dot_float<const N: usize>(dtype: DType, w: &[u8], x: [&[f32]; N]) -> [f32; N] {
    // SAFETY: eight weights of two bytes.
    let eight = |w: &[[u8; 2]; LANES]| unsafe { _mm_loadu_si128(w.as_ptr().cast()) };
    let widened =
        |w: &_| _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(eight(w)), 16));
    // SAFETY: eight weights of four bytes.
    let whole = |w: &[[u8; 4]; LANES]| unsafe { _mm256_loadu_ps(w.as_ptr().cast()) };
    match dtype {
        DType::F32 => dot_floats(w.as_chunks().0, x, whole, f32::from_le_bytes),
        DType::F16 => dot_floats(w.as_chunks().0, x, |w| _mm256_cvtph_ps(eight(w)), f16_to_f32),
        DType::BF16 => dot_floats(w.as_chunks().0, x, widened, bf16_to_f32),
        _ => panic!("{dtype} is not a floating-point type"),
    }
}

/// The lanes of `kernels::dot_float`. Left to itself the compiler vectorises that loop badly: this
/// one is four times as fast.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn dot_floats<const N: usize, const B: usize>(
    w: &[[u8; B]],
    x: [&[f32]; N],
    eight: impl Fn(&[[u8; B]; LANES]) -> __m256,
    one: impl Fn([u8; B]) -> f32,
) -> [f32; N] {
    for x in x {
        assert!(x.len() >= w.len(), "activations are too short");
    }
    let mut acc = [[_mm256_setzero_ps(); 2]; N];
    let (chunks, rest) = w.as_chunks::<LANES>();
    let pairs = chunks.len() / 2 * 2;
    for (c, chunk) in chunks[..pairs].iter().enumerate() {
        blocks::ask_ahead([chunks], c);
        let w = eight(chunk);
        for (acc, x) in acc.iter_mut().zip(x) {
            // SAFETY: `x` is at least as long as `w` (asserted above).
            let x = unsafe { _mm256_loadu_ps(x.as_ptr().add(c * LANES)) };
            acc[c % 2] = _mm256_fmadd_ps(w, x, acc[c % 2]);
        }
    }
    let tail = chunks[pairs..].iter().flatten().chain(rest);
    let mut out = [0.0; N];
    for ((out, acc), x) in out.iter_mut().zip(acc).zip(x) {
        let mut lanes = [[0.0_f32; LANES]; 2];
        for (lanes, acc) in lanes.iter_mut().zip(acc) {
            // SAFETY: eight f32.
            unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), acc) };
        }
        for (j, w) in tail.clone().enumerate() {
            let lane = &mut lanes[j / LANES][j % LANES];
            *lane = one(*w).mul_add(x[pairs * LANES + j], *lane);
        }
        let mut sums = lanes[0];
        for (sum, other) in sums.iter_mut().zip(lanes[1]) {
            *sum += other;
        }
        *out = sum_lanes(sums);
    }
    out
}

#[target_feature(enable = "avx2,fma,f16c")]
fn quantise(x: &[f32], scales: &mut [f32], qs: &mut [i8], sums: &mut [i16]) {
    kernels::quantise(x, scales, qs, sums);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn attend(out: &mut [f32], step: Step<'_>, state: &mut Softmax) {
    super::attend::attend::<Register>(out, step, state);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn delta_step(out: &mut [f32], state: &mut [f32], token: DeltaToken<'_>, u: &mut [f32]) {
    kernels::delta_step(out, state, token, u);
}

#[cfg(test)]
mod tests;
