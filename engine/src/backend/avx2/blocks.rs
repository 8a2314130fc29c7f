//! Dot products of quantised rows with 8-bit activations, in AVX2.
//!
//! The lanes are those of `kernels::dot_blocks`, hence the bits too. A level is a byte; products of
//! neighbours are added in 16 bits (at most 2 · 128 · 127 < 2^15), pairs of those, times the half's
//! factor, in 32. Several weight rows at once give the processor independent sums to work on while one
//! waits for its last addition; several activation rows share the work of unpacking the weights.
//!
//! Types that are seldom met (Q4_1, Q5_1, Q2_K, Q3_K) run the portable code, compiled for AVX2.

use std::arch::x86_64::*;

use bytemuck::Pod;

use super::super::kernels::{self, LANES, RowQ8, sum_lanes};
use crate::quant::{
    BlockIq4Nl, BlockIq4Xs, BlockMxfp4, BlockQ4_0, BlockQ4K, BlockQ5_0, BlockQ5K, BlockQ6K,
    BlockQ8_0, LEVELS_IQ4, LEVELS_MXFP4, scales_and_mins,
};
use crate::tensor::DType;

/// Dot products of `R` rows of a quantised type with `N` activation rows.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn dot_q8<const R: usize, const N: usize>(
    dtype: DType,
    w: [&[u8]; R],
    x: [RowQ8<'_>; N],
) -> [[f32; N]; R] {
    match dtype {
        DType::Q4_0 => {
            let eight = _mm256_set1_epi8(8);
            let levels = |b: &BlockQ4_0| _mm256_sub_epi8(nibbles(&b.qs), eight);
            dot_simple(w, x, |b: &BlockQ4_0| (f16(b.d), levels(b)))
        }
        DType::Q5_0 => dot_simple(w, x, |b: &BlockQ5_0| (f16(b.d), five_bits(b))),
        DType::Q8_0 => {
            dot_simple(w, x, |b: &BlockQ8_0| (f16(b.d), bytes(bytemuck::cast_ref(&b.qs))))
        }
        DType::Iq4Nl => {
            let table = table(&LEVELS_IQ4);
            let levels = |b: &BlockIq4Nl| _mm256_shuffle_epi8(table, nibbles(&b.qs));
            dot_simple(w, x, |b: &BlockIq4Nl| (f16(b.d), levels(b)))
        }
        DType::Mxfp4 => {
            let table = table(&LEVELS_MXFP4);
            let levels = |b: &BlockMxfp4| _mm256_shuffle_epi8(table, nibbles(&b.qs));
            dot_simple(w, x, |b: &BlockMxfp4| (b.scale(), levels(b)))
        }
        DType::Q4K => dot_q4_k(w, x),
        DType::Q5K => dot_q5_k(w, x),
        DType::Q6K => dot_q6_k(w, x),
        DType::Iq4Xs => dot_iq4_xs(w, x),
        _ => w.map(|w| kernels::dot_q8(dtype, w, x)),
    }
}

/// Blocks of 32 signed levels with one scale.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn dot_simple<B: Pod, const R: usize, const N: usize>(
    w: [&[u8]; R],
    x: [RowQ8<'_>; N],
    block: impl Fn(&B) -> (f32, __m256i),
) -> [[f32; N]; R] {
    let (w, blocks) = same_length::<B, R, N>(w, x, 32);
    let ones = _mm256_set1_epi16(1);
    let mut acc = [[_mm256_setzero_ps(); N]; R];
    for b in 0..blocks {
        for (w, acc) in w.iter().zip(&mut acc) {
            // SAFETY: every row has `blocks` blocks (checked by `same_length`).
            let (d, levels) = block(unsafe { w.get_unchecked(b) });
            let magnitude = _mm256_abs_epi8(levels);
            for (acc, x) in acc.iter_mut().zip(x) {
                // SAFETY: activations are as long as the weights (checked by `same_length`).
                let (qs, scale) = unsafe { (group_of(x, b), x.scales.get_unchecked(b)) };
                let products = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(qs, levels));
                let sums = _mm256_cvtepi32_ps(_mm256_madd_epi16(products, ones));
                *acc = _mm256_fmadd_ps(_mm256_set1_ps(d * scale), sums, *acc);
            }
        }
    }
    acc.map(|acc| acc.map(|acc| sum_lanes(lanes(acc))))
}

/// What the eight groups of a block of 256 values have in common.
struct Factors {
    /// Scale of each group.
    scales: __m256,
    /// Scale of the minimums.
    min_scale: f32,
    /// Minimum of each half group, 16 numbers of 16 bits.
    min_sub: __m256i,
}

/// Whether levels of a block of 256 have a sign, or else a minimum that is subtracted.
const SIGNED: bool = true;
const WITH_MIN: bool = false;

/// Blocks of 256 levels: `half(block, h)` gives those of groups 4h to 4h + 3, `sub(block, g)` the
/// factors of the halves of group g, 16 numbers of 16 bits.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn dot_k<B: Pod, const R: usize, const N: usize, const KIND: bool>(
    w: [&[u8]; R],
    x: [RowQ8<'_>; N],
    factors: impl Fn(&B) -> Factors,
    half: impl Fn(&B, usize) -> [__m256i; 4],
    sub: impl Fn(&B, usize) -> __m256i,
) -> [[f32; N]; R] {
    let (w, blocks) = same_length::<B, R, N>(w, x, 256);
    let mut acc = [[_mm256_setzero_ps(); N]; R];
    let mut mins = [[_mm256_setzero_ps(); N]; R];
    for b in 0..blocks {
        for ((w, acc), mins) in w.iter().zip(&mut acc).zip(&mut mins) {
            // SAFETY: every row has `blocks` blocks (checked by `same_length`).
            let w = unsafe { w.get_unchecked(b) };
            let Factors { scales, min_scale, min_sub } = factors(w);
            let mut scaled = [[0.0_f32; LANES]; N];
            for ((scaled, mins), x) in scaled.iter_mut().zip(mins).zip(x) {
                // SAFETY: activations are as long as the weights (checked by `same_length`): eight
                // scales and 16 sums for each block.
                let (xs, sums) = unsafe {
                    let sums = x.sums.as_ptr().add(16 * b).cast();
                    (_mm256_loadu_ps(x.scales.as_ptr().add(8 * b)), _mm256_loadu_si256(sums))
                };
                // SAFETY: eight f32.
                unsafe { _mm256_storeu_ps(scaled.as_mut_ptr(), _mm256_mul_ps(scales, xs)) };
                if KIND == WITH_MIN {
                    let weighed = _mm256_cvtepi32_ps(_mm256_madd_epi16(sums, min_sub));
                    let scale = _mm256_mul_ps(_mm256_set1_ps(min_scale), xs);
                    *mins = _mm256_fmadd_ps(scale, weighed, *mins);
                }
            }
            for h in 0..2 {
                for (k, levels) in half(w, h).into_iter().enumerate() {
                    let g = 4 * h + k;
                    let sub = sub(w, g);
                    let magnitude = _mm256_abs_epi8(levels);
                    for ((acc, scaled), x) in acc.iter_mut().zip(&scaled).zip(x) {
                        // SAFETY: as above.
                        let qs = unsafe { group_of(x, 8 * b + g) };
                        let products = match KIND {
                            SIGNED => _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(qs, levels)),
                            WITH_MIN => _mm256_maddubs_epi16(levels, qs),
                        };
                        let sums = _mm256_cvtepi32_ps(_mm256_madd_epi16(products, sub));
                        *acc = _mm256_fmadd_ps(_mm256_set1_ps(scaled[g]), sums, *acc);
                    }
                }
            }
        }
    }
    let mut out = [[0.0; N]; R];
    for (out, (acc, mins)) in out.iter_mut().zip(acc.into_iter().zip(mins)) {
        for (out, (acc, mins)) in out.iter_mut().zip(acc.into_iter().zip(mins)) {
            let sums = if KIND == SIGNED { acc } else { _mm256_sub_ps(acc, mins) };
            *out = sum_lanes(lanes(sums));
        }
    }
    out
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn dot_q4_k<const R: usize, const N: usize>(w: [&[u8]; R], x: [RowQ8<'_>; N]) -> [[f32; N]; R] {
    let ones = _mm256_set1_epi16(1);
    dot_k::<BlockQ4K, R, N, WITH_MIN>(
        w,
        x,
        |b| factors_with_min(b.d, b.dmin, &b.scales),
        |b, h| four_nibbles(&b.qs, h),
        |_, _| ones,
    )
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn dot_q5_k<const R: usize, const N: usize>(w: [&[u8]; R], x: [RowQ8<'_>; N]) -> [[f32; N]; R] {
    let ones = _mm256_set1_epi16(1);
    let bit = _mm256_set1_epi8(0x10);
    let half = |b: &BlockQ5K, h: usize| {
        let high = bytes(&b.qh);
        // Bit 4h + k of each byte becomes bit 4; what crosses bytes is masked away.
        let high = if h == 0 { _mm256_slli_epi16(high, 4) } else { high };
        let low = four_nibbles(&b.qs, h);
        [
            _mm256_or_si256(low[0], _mm256_and_si256(high, bit)),
            _mm256_or_si256(low[1], _mm256_and_si256(_mm256_srli_epi16(high, 1), bit)),
            _mm256_or_si256(low[2], _mm256_and_si256(_mm256_srli_epi16(high, 2), bit)),
            _mm256_or_si256(low[3], _mm256_and_si256(_mm256_srli_epi16(high, 3), bit)),
        ]
    };
    dot_k::<BlockQ5K, R, N, WITH_MIN>(
        w,
        x,
        |b| factors_with_min(b.d, b.dmin, &b.scales),
        half,
        |_, _| ones,
    )
}

/// Levels stay unsigned; that 32 must be subtracted from each is a minimum of 32 times the scale.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn dot_q6_k<const R: usize, const N: usize>(w: [&[u8]; R], x: [RowQ8<'_>; N]) -> [[f32; N]; R] {
    let two = _mm256_set1_epi8(0x30);
    let low = _mm256_set1_epi8(0xf);
    let factors = |b: &BlockQ6K| {
        // SAFETY: `scales` is 16 bytes.
        let subs = _mm256_cvtepi8_epi16(unsafe { _mm_loadu_si128(b.scales.as_ptr().cast()) });
        let d = f16(b.d);
        Factors { scales: _mm256_set1_ps(d), min_scale: d, min_sub: _mm256_slli_epi16(subs, 5) }
    };
    let half = |b: &BlockQ6K, h: usize| {
        let ql = [64 * h, 64 * h + 32].map(|at| bytes(part(&b.ql, at)));
        let qh = bytes(part(&b.qh, 32 * h));
        let high =
            [_mm256_slli_epi16(qh, 4), _mm256_slli_epi16(qh, 2), qh, _mm256_srli_epi16(qh, 2)]
                .map(|high| _mm256_and_si256(high, two));
        let upper = ql.map(|q| _mm256_and_si256(_mm256_srli_epi16(q, 4), low));
        let lower = ql.map(|q| _mm256_and_si256(q, low));
        [
            _mm256_or_si256(lower[0], high[0]),
            _mm256_or_si256(lower[1], high[1]),
            _mm256_or_si256(upper[0], high[2]),
            _mm256_or_si256(upper[1], high[3]),
        ]
    };
    let sub = |b: &BlockQ6K, g: usize| {
        let [first, second] = [b.scales[2 * g], b.scales[2 * g + 1]].map(i16::from);
        _mm256_set_m128i(_mm_set1_epi16(second), _mm_set1_epi16(first))
    };
    dot_k::<BlockQ6K, R, N, WITH_MIN>(w, x, factors, half, sub)
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn dot_iq4_xs<const R: usize, const N: usize>(w: [&[u8]; R], x: [RowQ8<'_>; N]) -> [[f32; N]; R] {
    let ones = _mm256_set1_epi16(1);
    let table = table(&LEVELS_IQ4);
    let factors = |b: &BlockIq4Xs| {
        let scales = _mm_cvtsi64_si128(i64::from_le_bytes(b.scales().map(|s| s as u8)));
        let scales = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(scales));
        Factors {
            scales: _mm256_mul_ps(_mm256_set1_ps(f16(b.d)), scales),
            min_scale: 0.0,
            min_sub: _mm256_setzero_si256(),
        }
    };
    let half = |b: &BlockIq4Xs, h: usize| {
        [0, 1, 2, 3].map(|k| _mm256_shuffle_epi8(table, nibbles(&b.qs[4 * h + k])))
    };
    dot_k::<BlockIq4Xs, R, N, SIGNED>(w, x, factors, half, |_, _| ones)
}

/// The rows as blocks and their number. Panics if a row or its activations are too short.
#[inline(always)]
fn same_length<'a, B: Pod, const R: usize, const N: usize>(
    w: [&'a [u8]; R],
    x: [RowQ8<'_>; N],
    values: usize,
) -> ([&'a [B]; R], usize) {
    let w = w.map(bytemuck::cast_slice::<u8, B>);
    let blocks = w[0].len();
    assert!(w.iter().all(|w| w.len() == blocks), "weight rows differ in length");
    for x in x {
        let cols = blocks * values;
        let enough = x.qs.len() >= cols && x.scales.len() >= cols / 32 && x.sums.len() >= cols / 16;
        assert!(enough, "activations are too short");
    }
    (w, blocks)
}

/// The 32 activations of group g.
///
/// # Safety
/// `x.qs` has that many.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn group_of(x: RowQ8<'_>, g: usize) -> __m256i {
    // SAFETY: the caller's contract.
    unsafe { _mm256_loadu_si256(x.qs.as_ptr().add(32 * g).cast()) }
}

#[inline]
#[target_feature(enable = "f16c")]
fn f16(bytes: [u8; 2]) -> f32 {
    _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(u16::from_le_bytes(bytes)))))
}

#[inline]
#[target_feature(enable = "avx2")]
fn bytes(from: &[u8; 32]) -> __m256i {
    // SAFETY: 32 bytes.
    unsafe { _mm256_loadu_si256(from.as_ptr().cast()) }
}

/// 32 bytes of an array. Panics if they are not all there.
#[inline(always)]
fn part<const LEN: usize>(of: &[u8; LEN], at: usize) -> &[u8; 32] {
    of[at..].first_chunk().expect("parts lie within blocks")
}

/// 16 levels in both halves of a register, as `shuffle` looks them up.
#[inline]
#[target_feature(enable = "avx2")]
fn table(levels: &[i8; 16]) -> __m256i {
    // SAFETY: 16 bytes.
    _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(levels.as_ptr().cast()) })
}

/// 32 nibbles of 16 bytes, low ones first.
#[inline]
#[target_feature(enable = "avx2")]
fn nibbles(qs: &[u8; 16]) -> __m256i {
    // SAFETY: 16 bytes.
    let qs = unsafe { _mm_loadu_si128(qs.as_ptr().cast()) };
    let both = _mm256_set_m128i(_mm_srli_epi16(qs, 4), qs);
    _mm256_and_si256(both, _mm256_set1_epi8(0xf))
}

/// Nibbles of groups 4h to 4h + 3 as Q4_K and Q5_K store them.
#[inline]
#[target_feature(enable = "avx2")]
fn four_nibbles(qs: &[u8; 128], h: usize) -> [__m256i; 4] {
    let low = _mm256_set1_epi8(0xf);
    let [a, b] = [64 * h, 64 * h + 32].map(|at| bytes(part(qs, at)));
    [
        _mm256_and_si256(a, low),
        _mm256_and_si256(_mm256_srli_epi16(a, 4), low),
        _mm256_and_si256(b, low),
        _mm256_and_si256(_mm256_srli_epi16(b, 4), low),
    ]
}

/// Levels of Q5_0: a nibble whose fifth bit is missing is 16 too large once it is read as signed, and
/// setting its upper four bits subtracts 16.
#[inline]
#[target_feature(enable = "avx2")]
fn five_bits(b: &BlockQ5_0) -> __m256i {
    let spread = _mm256_shuffle_epi8(
        _mm256_set1_epi32(i32::from_le_bytes(b.qh)),
        _mm256_set_epi64x(0x0303_0303_0303_0303, 0x0202_0202_0202_0202, 0x0101_0101_0101_0101, 0),
    );
    let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
    let missing = _mm256_cmpeq_epi8(_mm256_and_si256(spread, bit), _mm256_setzero_si256());
    let upper = _mm256_and_si256(missing, _mm256_set1_epi8(0xf0_u8 as i8));
    _mm256_or_si256(nibbles(&b.qs), upper)
}

/// The factors of Q4_K and Q5_K.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn factors_with_min(d: [u8; 2], dmin: [u8; 2], packed: &[u8; 12]) -> Factors {
    let (scales, mins) = scales_and_mins(packed);
    let scales = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(scales as i64)));
    let mins = _mm_cvtsi64_si128(mins as i64);
    Factors {
        scales: _mm256_mul_ps(_mm256_set1_ps(f16(d)), scales),
        min_scale: f16(dmin),
        min_sub: _mm256_cvtepu8_epi16(_mm_unpacklo_epi8(mins, mins)),
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn lanes(from: __m256) -> [f32; LANES] {
    let mut lanes = [0.0_f32; LANES];
    // SAFETY: eight f32.
    unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), from) };
    lanes
}
