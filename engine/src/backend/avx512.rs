//! The kernels for x86-64 processors with AVX-512 and its integer dot products (VNNI), chosen at run time.
//!
//! A register holds the same group of two weight rows, one in each half, so that every row keeps the
//! eight lanes of `kernels::dot_blocks`, hence the bits. Levels are unsigned; what they are too large
//! by, times the sum of the activations, is where each sum starts: integers, exact either way. One
//! instruction multiplies four levels and adds them, where AVX2 takes three.
//!
//! Here are the types that most models come in (`dot_k_pairs` is called by `avx2::k`, which unpacks);
//! all others, and rows without a partner, go to `avx2`.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use bytemuck::Pod;

use super::attend::{Softmax, Step};
use super::avx2::{Avx2, Factors, blocks};
use super::kernels::{DeltaToken, Kernels, LANES, RowQ8, sum_lanes};
use crate::quant::{BlockQ4_0, BlockQ8_0};
use crate::tensor::DType;

/// Proof that the processor has AVX-512 with bytes, words, short vectors and VNNI, and what AVX2's
/// kernels want.
#[derive(Clone, Copy)]
pub(super) struct Avx512(Avx2);

impl Avx512 {
    /// `Some` on processors that have the instructions.
    pub(super) fn new() -> Option<Self> {
        let has = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni");
        Avx2::new().filter(|_| has).map(Avx512)
    }
}

impl Kernels for Avx512 {
    const WIDE: bool = true;

    fn dot_q8<const R: usize, const N: usize>(
        self,
        dtype: DType,
        w: [&[u8]; R],
        x: [RowQ8<'_>; N],
    ) -> [[f32; N]; R] {
        if !R.is_multiple_of(2) {
            return self.0.dot_q8(dtype, w, x);
        }
        // SAFETY: `self` exists only where the features were detected.
        unsafe {
            match dtype {
                DType::Q4_0 => dot_q4_0(w, x),
                DType::Q8_0 => dot_q8_0(w, x),
                _ => blocks::dot_q8::<R, N, true>(dtype, w, x),
            }
        }
    }

    fn dot_float<const N: usize>(self, dtype: DType, w: &[u8], x: [&[f32]; N]) -> [f32; N] {
        self.0.dot_float(dtype, w, x)
    }

    fn quantise(self, x: &[f32], scales: &mut [f32], qs: &mut [i8], sums: &mut [i16]) {
        self.0.quantise(x, scales, qs, sums);
    }

    fn attend(self, out: &mut [f32], step: Step<'_>, state: &mut Softmax) {
        self.0.attend(out, step, state);
    }

    fn delta_step(self, out: &mut [f32], state: &mut [f32], token: DeltaToken<'_>, u: &mut [f32]) {
        self.0.delta_step(out, state, token, u);
    }
}

/// The same group of activations in both halves, and where sums of unsigned levels start that are too
/// large by `zero`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn group<const N: usize>(x: [RowQ8<'_>; N], g: usize, zero: __m512i) -> [(__m512i, __m512i); N] {
    let none = _mm512_setzero_si512();
    let mut groups = [(none, none); N];
    // A loop: what `array::map` is given may be compiled apart, without these instructions.
    for n in 0..N {
        // SAFETY: activations are as long as the weights (checked by `same_length`).
        let qs = unsafe { blocks::group_of(x[n], g) };
        let qs = _mm512_broadcast_i64x4(qs);
        groups[n] = (qs, _mm512_sub_epi32(none, _mm512_dpbusd_epi32(none, zero, qs)));
    }
    groups
}

/// Blocks of 32 unsigned levels that are too large by `ZERO`, with one scale: `levels` gives those of
/// two rows, `scale` a row's.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn dot_pairs<B: Pod, const R: usize, const N: usize, const ZERO: i8>(
    w: [&[u8]; R],
    x: [RowQ8<'_>; N],
    scale: impl Fn(&B) -> [u8; 2],
    levels: impl Fn(&B, &B) -> __m512i,
) -> [[f32; N]; R] {
    let (w, blocks) = blocks::same_length::<B, R, N>(w, x, 32);
    let zero = _mm512_set1_epi8(ZERO);
    let mut acc = [[_mm512_setzero_ps(); N]; R];
    for b in 0..blocks {
        blocks::ask_ahead(w, b);
        let activations = group(x, b, zero);
        for p in 0..R / 2 {
            // SAFETY: every row has `blocks` blocks (checked by `same_length`).
            let (one, two) = unsafe { (w[2 * p].get_unchecked(b), w[2 * p + 1].get_unchecked(b)) };
            let d = f16_pair(scale(one), scale(two));
            let levels = levels(one, two);
            for n in 0..N {
                let (qs, start) = activations[n];
                let sums = _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(start, levels, qs));
                // SAFETY: as above.
                let xs = unsafe { _mm512_set1_ps(*x[n].scales.get_unchecked(b)) };
                acc[p][n] = _mm512_fmadd_ps(_mm512_mul_ps(d, xs), sums, acc[p][n]);
            }
        }
    }
    folded(acc)
}

/// One number of each row in the row's half.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,f16c")]
fn f16_pair(one: [u8; 2], two: [u8; 2]) -> __m512 {
    let both = u32::from(u16::from_le_bytes(one)) | u32::from(u16::from_le_bytes(two)) << 16;
    halves(_mm_cvtph_ps(_mm_cvtsi32_si128(both as i32)))
}

/// The first number everywhere in the first half, the second in the second.
#[inline]
#[target_feature(enable = "avx512f")]
fn halves(two: __m128) -> __m512 {
    let which = _mm512_set_epi32(1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0);
    _mm512_permutexvar_ps(which, _mm512_castps128_ps512(two))
}

/// Sixteen bytes as numbers.
#[inline]
#[target_feature(enable = "avx512f")]
fn wide_ps(bytes: __m128i) -> __m512 {
    _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes))
}

/// Two halves.
#[inline]
#[target_feature(enable = "avx512f")]
fn joined(one: __m256i, two: __m256i) -> __m512i {
    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(one), two)
}

/// Two halves.
#[inline]
#[target_feature(enable = "avx512f")]
fn joined_ps(one: __m256, two: __m256) -> __m512 {
    let two = _mm256_castps_si256(two);
    _mm512_castsi512_ps(joined(_mm256_castps_si256(one), two))
}

/// Sums of the lanes of each row; only the first half of `acc` is used.
#[inline]
#[target_feature(enable = "avx512f")]
fn folded<const R: usize, const N: usize>(acc: [[__m512; N]; R]) -> [[f32; N]; R] {
    let mut out = [[0.0; N]; R];
    for p in 0..R / 2 {
        for n in 0..N {
            let mut lanes = [[0.0_f32; LANES]; 2];
            // SAFETY: sixteen f32.
            unsafe { _mm512_storeu_ps(lanes.as_mut_ptr().cast(), acc[p][n]) };
            (out[2 * p][n], out[2 * p + 1][n]) = (sum_lanes(lanes[0]), sum_lanes(lanes[1]));
        }
    }
    out
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn dot_q4_0<const R: usize, const N: usize>(w: [&[u8]; R], x: [RowQ8<'_>; N]) -> [[f32; N]; R] {
    // Low nibbles in each half's first quarter, high ones in its second.
    let shifts = _mm512_set_epi64(4, 4, 0, 0, 4, 4, 0, 0);
    let nibble = _mm512_set1_epi8(0xf);
    let twice = |b: &BlockQ4_0| {
        // SAFETY: 16 bytes.
        let bytes = unsafe { _mm_loadu_si128(b.qs.as_ptr().cast()) };
        _mm256_broadcastsi128_si256(bytes)
    };
    let levels = |one: &BlockQ4_0, two: &BlockQ4_0| {
        let bytes = joined(twice(one), twice(two));
        _mm512_and_si512(_mm512_srlv_epi64(bytes, shifts), nibble)
    };
    dot_pairs::<_, R, N, 8>(w, x, |b: &BlockQ4_0| b.d, levels)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
fn dot_q8_0<const R: usize, const N: usize>(w: [&[u8]; R], x: [RowQ8<'_>; N]) -> [[f32; N]; R] {
    // Flipping the sign bit adds 128 to a signed byte, read as an unsigned one.
    let sign = _mm512_set1_epi8(i8::MIN);
    let levels = |one: &BlockQ8_0, two: &BlockQ8_0| {
        let bytes = |b: &BlockQ8_0| blocks::bytes(bytemuck::cast_ref(&b.qs));
        _mm512_xor_si512(joined(bytes(one), bytes(two)), sign)
    };
    dot_pairs::<_, R, N, { i8::MIN }>(w, x, |b: &BlockQ8_0| b.d, levels)
}

/// Blocks of 256 unsigned levels: what `avx2::k` does, two rows at once. A factor's product with a sum
/// of four is exact in f32, so that it may be multiplied as one.
///
/// # Safety
/// The processor has the features.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) fn dot_k_pairs<B: Pod, const R: usize, const N: usize, const SUBS: bool>(
    w: [&[u8]; R],
    x: [RowQ8<'_>; N],
    factors: impl Fn(&B) -> Factors,
    half: impl Fn(&B, usize) -> [__m256i; 4],
) -> [[f32; N]; R] {
    let (w, blocks) = blocks::same_length::<B, R, N>(w, x, 256);
    let none = _mm512_setzero_si512();
    let mut acc = [[_mm512_setzero_ps(); N]; R];
    let mut mins = [[_mm512_setzero_ps(); N]; R];
    for b in 0..blocks {
        blocks::ask_ahead(w, b);
        for p in 0..R / 2 {
            // SAFETY: every row has `blocks` blocks (checked by `same_length`).
            let (row, next) = unsafe { (w[2 * p].get_unchecked(b), w[2 * p + 1].get_unchecked(b)) };
            let (one, two) = (factors(row), factors(next));
            let min_scale = halves(_mm_set_ps(0.0, 0.0, two.min_scale, one.min_scale));
            let min_subs = joined(one.min_subs, two.min_subs);
            let subs = [wide_ps(one.subs), wide_ps(two.subs)];
            let mut scaled = [_mm512_setzero_ps(); N];
            for n in 0..N {
                // SAFETY: activations are as long as the weights (checked by `same_length`): eight
                // scales and 16 sums for each block.
                let (xs, sums) = unsafe {
                    let sums = x[n].sums.as_ptr().add(16 * b).cast();
                    (_mm256_loadu_ps(x[n].scales.as_ptr().add(8 * b)), _mm256_loadu_si256(sums))
                };
                let xs = joined_ps(xs, xs);
                scaled[n] = _mm512_mul_ps(joined_ps(one.scales, two.scales), xs);
                let weighed = _mm512_madd_epi16(_mm512_broadcast_i64x4(sums), min_subs);
                let scale = _mm512_mul_ps(min_scale, xs);
                mins[p][n] = _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(weighed), mins[p][n]);
            }
            for h in 0..2 {
                let (first, second) = (half(row, h), half(next, h));
                for i in 0..4 {
                    let g = 4 * h + i;
                    let levels = joined(first[i], second[i]);
                    let subs = _mm512_permutex2var_ps(subs[0], HALVES[g].register(), subs[1]);
                    for n in 0..N {
                        // SAFETY: as above.
                        let qs = unsafe { blocks::group_of(x[n], 8 * b + g) };
                        let qs = _mm512_broadcast_i64x4(qs);
                        let sums = _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(none, levels, qs));
                        let sums = if SUBS { _mm512_mul_ps(sums, subs) } else { sums };
                        let scale = _mm512_permutexvar_ps(GROUPS[g].register(), scaled[n]);
                        acc[p][n] = _mm512_fmadd_ps(scale, sums, acc[p][n]);
                    }
                }
            }
        }
    }
    for (acc, mins) in acc.iter_mut().zip(mins) {
        for (acc, mins) in acc.iter_mut().zip(mins) {
            *acc = _mm512_sub_ps(*acc, mins);
        }
    }
    folded(acc)
}

/// Which number goes to each lane.
#[repr(C, align(64))]
struct Lanes16([i32; 16]);

/// Of the factors of two rows' groups, those of group g: each in all lanes of its row's half.
static GROUPS: [Lanes16; 8] = lanes(8, 8, 1);
/// Of the factors of two rows' half groups, 16 each, those of group g: each in four lanes of its row's half.
static HALVES: [Lanes16; 8] = lanes(16, 4, 2);

/// Group g's first number is number `g * each`; a row has `of_row`, and each fills so many lanes.
const fn lanes(of_row: i32, fills: usize, each: i32) -> [Lanes16; 8] {
    let mut all = [const { Lanes16([0; 16]) }; 8];
    let mut g = 0;
    while g < 8 {
        let mut lane = 0;
        while lane < 16 {
            let (row, within) = (lane / 8, lane % 8);
            all[g].0[lane] = row as i32 * of_row + g as i32 * each + (within / fills) as i32;
            lane += 1;
        }
        g += 1;
    }
    all
}

impl Lanes16 {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn register(&self) -> __m512i {
        // SAFETY: 64 bytes on a multiple of 64.
        unsafe { _mm512_load_si512(self.0.as_ptr().cast()) }
    }
}
