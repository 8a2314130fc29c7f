//! The blocks of 256 values: groups of 32 with a scale each, some with factors for their halves.
//!
//! What [`blocks`](super::blocks) says of lanes and bits holds here as well.

use std::arch::x86_64::*;

use bytemuck::Pod;

use super::super::avx512;
use super::super::kernels::{LANES, RowQ8};
use super::blocks::{
    SIGNED, WITH_MIN, ask_ahead, bytes, f16, folded, group_of, nibbles, products, same_length,
    table,
};
use crate::quant::{
    BlockIq4Xs, BlockQ2K, BlockQ3K, BlockQ4K, BlockQ5K, BlockQ6K, LEVELS_IQ4, scales_and_mins,
};

/// What the groups of a block of 256 values have in common.
pub(in super::super) struct Factors {
    /// Scale of each group of 32.
    pub(in super::super) scales: __m256,
    /// Factors of the 16 half groups, in bytes; means something only for types that have them.
    pub(in super::super) subs: __m128i,
    /// Scale of the minimums.
    pub(in super::super) min_scale: f32,
    /// Minimum of each half group, 16 numbers of 16 bits.
    pub(in super::super) min_subs: __m256i,
}

/// Blocks of 256 levels, of which `half(block, h)` gives those of groups 4h to 4h + 3. `SUBS` says
/// whether half groups have factors of their own, `WIDE` that the processor has what `avx512` wants.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn dot_k<
    B: Pod,
    const R: usize,
    const N: usize,
    const MIN: bool,
    const SUBS: bool,
    const WIDE: bool,
>(
    w: [&[u8]; R],
    x: [RowQ8<'_>; N],
    factors: impl Fn(&B) -> Factors,
    half: impl Fn(&B, usize) -> [__m256i; 4],
) -> [[f32; N]; R] {
    if WIDE && MIN && R.is_multiple_of(2) {
        // SAFETY: only `Avx512` asks for it, which exists only where the features were detected.
        return unsafe { avx512::dot_k_pairs::<B, R, N, SUBS>(w, x, factors, half) };
    }
    let (w, blocks) = same_length::<B, R, N>(w, x, 256);
    let ones = _mm256_set1_epi16(1);
    let mut acc = [[_mm256_setzero_ps(); N]; R];
    let mut mins = [[_mm256_setzero_ps(); N]; R];
    for b in 0..blocks {
        ask_ahead(w, b);
        for r in 0..R {
            // SAFETY: every row has `blocks` blocks (checked by `same_length`).
            let w = unsafe { w[r].get_unchecked(b) };
            let Factors { scales, subs, min_scale, min_subs } = factors(w);
            let mut scaled = [[0.0_f32; LANES]; N];
            for n in 0..N {
                // SAFETY: activations are as long as the weights (checked by `same_length`): eight
                // scales and 16 sums for each block.
                let (xs, sums) = unsafe {
                    let sums = x[n].sums.as_ptr().add(16 * b).cast();
                    (_mm256_loadu_ps(x[n].scales.as_ptr().add(8 * b)), _mm256_loadu_si256(sums))
                };
                // SAFETY: eight f32.
                unsafe { _mm256_storeu_ps(scaled[n].as_mut_ptr(), _mm256_mul_ps(scales, xs)) };
                if MIN {
                    let weighed = _mm256_cvtepi32_ps(_mm256_madd_epi16(sums, min_subs));
                    let scale = _mm256_mul_ps(_mm256_set1_ps(min_scale), xs);
                    mins[r][n] = _mm256_fmadd_ps(scale, weighed, mins[r][n]);
                }
            }
            for h in 0..2 {
                let levels = half(w, h);
                for (k, &levels) in levels.iter().enumerate() {
                    let g = 4 * h + k;
                    let sub = if SUBS { sub_of(subs, g) } else { ones };
                    let magnitude = _mm256_abs_epi8(levels);
                    for n in 0..N {
                        // SAFETY: as above.
                        let qs = unsafe { group_of(x[n], 8 * b + g) };
                        let products = products::<MIN>(levels, magnitude, qs);
                        let sums = _mm256_cvtepi32_ps(_mm256_madd_epi16(products, sub));
                        let scale = _mm256_broadcast_ss(&scaled[n][g]);
                        acc[r][n] = _mm256_fmadd_ps(scale, sums, acc[r][n]);
                    }
                }
            }
        }
    }
    folded::<R, N, MIN>(acc, |r, n| mins[r][n])
}

/// The factors of both halves of group g, 16 numbers of 16 bits.
#[inline]
#[target_feature(enable = "avx2")]
fn sub_of(subs: __m128i, g: usize) -> __m256i {
    let first = _mm_set1_epi8(2 * g as i8);
    let which = _mm_add_epi8(first, _mm_set_epi64x(0x0101_0101_0101_0101, 0));
    _mm256_cvtepi8_epi16(_mm_shuffle_epi8(subs, which))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn dot_q2_k<const R: usize, const N: usize, const WIDE: bool>(
    w: [&[u8]; R],
    x: [RowQ8<'_>; N],
) -> [[f32; N]; R] {
    let low = _mm_set1_epi8(0xf);
    let factors = |b: &BlockQ2K| {
        let packed = sixteen(&b.scales);
        let mins = _mm_and_si128(_mm_srli_epi16(packed, 4), low);
        Factors {
            scales: _mm256_set1_ps(f16(b.d)),
            subs: _mm_and_si128(packed, low),
            min_scale: f16(b.dmin),
            min_subs: _mm256_cvtepu8_epi16(mins),
        }
    };
    dot_k::<_, R, N, WITH_MIN, true, WIDE>(w, x, factors, |b: &BlockQ2K, h| four_pairs(&b.qs, h))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn dot_q3_k<const R: usize, const N: usize>(
    w: [&[u8]; R],
    x: [RowQ8<'_>; N],
) -> [[f32; N]; R] {
    let four = _mm256_set1_epi8(4);
    let factors = |b: &BlockQ3K| Factors {
        scales: _mm256_set1_ps(f16(b.d)),
        subs: sixteen(bytemuck::cast_ref(&b.sub_scales())),
        min_scale: 0.0,
        min_subs: _mm256_setzero_si256(),
    };
    let half = |b: &BlockQ3K, h: usize| {
        // Bit 4h + k of each byte becomes bit 2 of group k; what crosses bytes is masked away.
        let mask = bytes(&b.hmask);
        let mask = if h == 0 { mask } else { _mm256_srli_epi16(mask, 4) };
        let third = [
            _mm256_slli_epi16(mask, 2),
            _mm256_slli_epi16(mask, 1),
            mask,
            _mm256_srli_epi16(mask, 1),
        ];
        let low = four_pairs(&b.qs, h);
        four_of(|k| {
            let level = _mm256_or_si256(low[k], _mm256_and_si256(third[k], four));
            _mm256_sub_epi8(level, four)
        })
    };
    dot_k::<_, R, N, SIGNED, true, false>(w, x, factors, half)
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn dot_q4_k<const R: usize, const N: usize, const WIDE: bool>(
    w: [&[u8]; R],
    x: [RowQ8<'_>; N],
) -> [[f32; N]; R] {
    let factors = |b: &BlockQ4K| factors_with_min(b.d, b.dmin, &b.scales);
    dot_k::<_, R, N, WITH_MIN, false, WIDE>(w, x, factors, |b: &BlockQ4K, h| four_nibbles(&b.qs, h))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn dot_q5_k<const R: usize, const N: usize, const WIDE: bool>(
    w: [&[u8]; R],
    x: [RowQ8<'_>; N],
) -> [[f32; N]; R] {
    let bit = _mm256_set1_epi8(0x10);
    let half = |b: &BlockQ5K, h: usize| {
        // Bit 4h + k of each byte becomes bit 4 of group k; what crosses bytes is masked away.
        let high = bytes(&b.qh);
        let high = if h == 0 { _mm256_slli_epi16(high, 4) } else { high };
        let fifth = [
            high,
            _mm256_srli_epi16(high, 1),
            _mm256_srli_epi16(high, 2),
            _mm256_srli_epi16(high, 3),
        ];
        let low = four_nibbles(&b.qs, h);
        four_of(|k| _mm256_or_si256(low[k], _mm256_and_si256(fifth[k], bit)))
    };
    let factors = |b: &BlockQ5K| factors_with_min(b.d, b.dmin, &b.scales);
    dot_k::<_, R, N, WITH_MIN, false, WIDE>(w, x, factors, half)
}

/// Levels stay unsigned; that 32 must be subtracted from each is a minimum of 32 times the scale.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn dot_q6_k<const R: usize, const N: usize, const WIDE: bool>(
    w: [&[u8]; R],
    x: [RowQ8<'_>; N],
) -> [[f32; N]; R] {
    let (two, low) = (_mm256_set1_epi8(0x30), _mm256_set1_epi8(0xf));
    let factors = |b: &BlockQ6K| {
        let (d, subs) = (f16(b.d), sixteen(bytemuck::cast_ref(&b.scales)));
        let min_subs = _mm256_slli_epi16(_mm256_cvtepi8_epi16(subs), 5);
        Factors { scales: _mm256_set1_ps(d), subs, min_scale: d, min_subs }
    };
    let half = |b: &BlockQ6K, h: usize| {
        let ql = [bytes(part(&b.ql, 64 * h)), bytes(part(&b.ql, 64 * h + 32))];
        let four_bits = [ql[0], ql[1], _mm256_srli_epi16(ql[0], 4), _mm256_srli_epi16(ql[1], 4)];
        let qh = bytes(part(&b.qh, 32 * h));
        let two_bits =
            [_mm256_slli_epi16(qh, 4), _mm256_slli_epi16(qh, 2), qh, _mm256_srli_epi16(qh, 2)];
        four_of(|k| {
            let high = _mm256_and_si256(two_bits[k], two);
            _mm256_or_si256(_mm256_and_si256(four_bits[k], low), high)
        })
    };
    dot_k::<_, R, N, WITH_MIN, true, WIDE>(w, x, factors, half)
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn dot_iq4_xs<const R: usize, const N: usize>(
    w: [&[u8]; R],
    x: [RowQ8<'_>; N],
) -> [[f32; N]; R] {
    let table = table(&LEVELS_IQ4);
    let factors = |b: &BlockIq4Xs| {
        let scales = _mm_cvtsi64_si128(i64::from_le_bytes(b.scales().map(|s| s as u8)));
        let scales = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(scales));
        Factors {
            scales: _mm256_mul_ps(_mm256_set1_ps(f16(b.d)), scales),
            subs: _mm_setzero_si128(),
            min_scale: 0.0,
            min_subs: _mm256_setzero_si256(),
        }
    };
    let half = |b: &BlockIq4Xs, h: usize| {
        four_of(|k| _mm256_shuffle_epi8(table, nibbles(&b.qs[4 * h + k])))
    };
    dot_k::<_, R, N, SIGNED, false, false>(w, x, factors, half)
}

/// What `of` says of groups 0 to 3. What `array::map` is given may be compiled apart, without these
/// instructions.
#[inline(always)]
fn four_of(of: impl Fn(usize) -> __m256i) -> [__m256i; 4] {
    [of(0), of(1), of(2), of(3)]
}

/// 32 bytes of an array. Panics if they are not all there.
#[inline(always)]
fn part<const LEN: usize>(of: &[u8; LEN], at: usize) -> &[u8; 32] {
    of[at..].first_chunk().expect("parts lie within blocks")
}

#[inline]
#[target_feature(enable = "avx2")]
fn sixteen(from: &[u8; 16]) -> __m128i {
    // SAFETY: 16 bytes.
    unsafe { _mm_loadu_si128(from.as_ptr().cast()) }
}

/// Nibbles of groups 4h to 4h + 3 as Q4_K and Q5_K store them.
#[inline]
#[target_feature(enable = "avx2")]
fn four_nibbles(qs: &[u8; 128], h: usize) -> [__m256i; 4] {
    let low = _mm256_set1_epi8(0xf);
    let (a, b) = (bytes(part(qs, 64 * h)), bytes(part(qs, 64 * h + 32)));
    [
        _mm256_and_si256(a, low),
        _mm256_and_si256(_mm256_srli_epi16(a, 4), low),
        _mm256_and_si256(b, low),
        _mm256_and_si256(_mm256_srli_epi16(b, 4), low),
    ]
}

/// Two-bit levels of groups 4h to 4h + 3 as Q2_K and Q3_K store them.
#[inline]
#[target_feature(enable = "avx2")]
fn four_pairs(qs: &[u8; 64], h: usize) -> [__m256i; 4] {
    let three = _mm256_set1_epi8(3);
    let qs = bytes(part(qs, 32 * h));
    let pairs = [qs, _mm256_srli_epi16(qs, 2), _mm256_srli_epi16(qs, 4), _mm256_srli_epi16(qs, 6)];
    four_of(|k| _mm256_and_si256(pairs[k], three))
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
        subs: _mm_setzero_si128(),
        min_scale: f16(dmin),
        min_subs: _mm256_cvtepu8_epi16(_mm_unpacklo_epi8(mins, mins)),
    }
}
