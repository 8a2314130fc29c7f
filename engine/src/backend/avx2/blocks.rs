//! Dot products of quantised rows with 8-bit activations, in AVX2.
//!
//! The lanes are those of `kernels::dot_blocks`, hence the bits too. A level is a byte; products of
//! neighbours are added in 16 bits (at most 2 · 128 · 127 < 2^15), pairs of those, times the half's
//! factor, in 32. Several weight rows at once give the processor independent sums to work on while one
//! waits for its last addition; several activation rows share the work of unpacking the weights.
//! Here are the blocks of 32 values; those of 256 are in `k`.

use std::arch::x86_64::*;

use bytemuck::Pod;

use super::super::kernels::{LANES, RowQ8, sum_lanes};
use super::k;
use crate::quant::{
    BlockIq4Nl, BlockMxfp4, BlockQ4_0, BlockQ4_1, BlockQ5_0, BlockQ5_1, BlockQ8_0, LEVELS_IQ4,
    LEVELS_MXFP4,
};
use crate::tensor::DType;

/// Dot products of `R` rows of a quantised type with `N` activation rows. `WIDE` says that the processor
/// has what `avx512` wants.
#[target_feature(enable = "avx2,fma,f16c")]
pub(in super::super) fn dot_q8<const R: usize, const N: usize, const WIDE: bool>(
    dtype: DType,
    w: [&[u8]; R],
    x: [RowQ8<'_>; N],
) -> [[f32; N]; R] {
    match dtype {
        DType::Q4_0 => {
            let eight = _mm256_set1_epi8(8);
            let levels = |b: &BlockQ4_0| _mm256_sub_epi8(nibbles(&b.qs), eight);
            dot_simple::<_, R, N, SIGNED>(w, x, |b: &BlockQ4_0| (f16(b.d), levels(b), 0.0))
        }
        DType::Q4_1 => {
            let parts = |b: &BlockQ4_1| (f16(b.d), nibbles(&b.qs), -f16(b.m));
            dot_simple::<_, R, N, WITH_MIN>(w, x, parts)
        }
        DType::Q5_0 => {
            let above = _mm256_set1_epi8(0xf0_u8 as i8);
            // A nibble whose fifth bit is missing is 16 too large: as a signed number, upper bits
            // subtract that.
            let upper = |b: &BlockQ5_0| _mm256_andnot_si256(spread_bits(b.qh), above);
            let levels = |b: &BlockQ5_0| _mm256_or_si256(nibbles(&b.qs), upper(b));
            dot_simple::<_, R, N, SIGNED>(w, x, |b: &BlockQ5_0| (f16(b.d), levels(b), 0.0))
        }
        DType::Q5_1 => {
            let bit = _mm256_set1_epi8(0x10);
            let upper = |b: &BlockQ5_1| _mm256_and_si256(spread_bits(b.qh), bit);
            let levels = |b: &BlockQ5_1| _mm256_or_si256(nibbles(&b.qs), upper(b));
            let parts = |b: &BlockQ5_1| (f16(b.d), levels(b), -f16(b.m));
            dot_simple::<_, R, N, WITH_MIN>(w, x, parts)
        }
        DType::Q8_0 => {
            let levels = |b: &BlockQ8_0| bytes(bytemuck::cast_ref(&b.qs));
            dot_simple::<_, R, N, SIGNED>(w, x, |b: &BlockQ8_0| (f16(b.d), levels(b), 0.0))
        }
        DType::Iq4Nl => {
            let table = table(&LEVELS_IQ4);
            let levels = |b: &BlockIq4Nl| _mm256_shuffle_epi8(table, nibbles(&b.qs));
            dot_simple::<_, R, N, SIGNED>(w, x, |b: &BlockIq4Nl| (f16(b.d), levels(b), 0.0))
        }
        DType::Mxfp4 => {
            let table = table(&LEVELS_MXFP4);
            let levels = |b: &BlockMxfp4| _mm256_shuffle_epi8(table, nibbles(&b.qs));
            dot_simple::<_, R, N, SIGNED>(w, x, |b: &BlockMxfp4| (b.scale(), levels(b), 0.0))
        }
        DType::Q2K => k::dot_q2_k::<R, N, WIDE>(w, x),
        DType::Q3K => k::dot_q3_k(w, x),
        DType::Q4K => k::dot_q4_k::<R, N, WIDE>(w, x),
        DType::Q5K => k::dot_q5_k::<R, N, WIDE>(w, x),
        DType::Q6K => k::dot_q6_k::<R, N, WIDE>(w, x),
        DType::Iq4Xs => k::dot_iq4_xs(w, x),
        DType::F32 | DType::F16 | DType::BF16 => panic!("{dtype} is not quantised"),
    }
}

/// What levels are: signed, or unsigned with a minimum that is subtracted.
pub(super) const SIGNED: bool = false;
pub(super) const WITH_MIN: bool = true;

/// Blocks of 32 levels with one scale and perhaps one minimum: `block` gives scale, levels, minimum.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn dot_simple<B: Pod, const R: usize, const N: usize, const MIN: bool>(
    w: [&[u8]; R],
    x: [RowQ8<'_>; N],
    block: impl Fn(&B) -> (f32, __m256i, f32),
) -> [[f32; N]; R] {
    let (w, blocks) = same_length::<B, R, N>(w, x, 32);
    let ones = _mm256_set1_epi16(1);
    let mut acc = [[_mm256_setzero_ps(); N]; R];
    let mut mins = [[[0.0_f32; LANES]; N]; R];
    for b in 0..blocks {
        ask_ahead(w, b);
        for r in 0..R {
            // SAFETY: every row has `blocks` blocks (checked by `same_length`).
            let (d, levels, min) = block(unsafe { w[r].get_unchecked(b) });
            let d = _mm256_set1_ps(d);
            let magnitude = _mm256_abs_epi8(levels);
            // Counted loops: iterators over arrays leave a test of every element behind.
            for n in 0..N {
                // SAFETY: activations are as long as the weights (checked by `same_length`).
                let (qs, xs) = unsafe { (group_of(x[n], b), x[n].scales.get_unchecked(b)) };
                let products = products::<MIN>(levels, magnitude, qs);
                let sums = _mm256_cvtepi32_ps(_mm256_madd_epi16(products, ones));
                let scale = _mm256_mul_ps(d, _mm256_broadcast_ss(xs));
                acc[r][n] = _mm256_fmadd_ps(scale, sums, acc[r][n]);
                if MIN {
                    let sum = i32::from(x[n].sums[2 * b]) + i32::from(x[n].sums[2 * b + 1]);
                    let lane = &mut mins[r][n][b % LANES];
                    *lane = (min * xs).mul_add(sum as f32, *lane);
                }
            }
        }
    }
    folded::<R, N, MIN>(acc, |r, n| {
        // SAFETY: eight f32.
        unsafe { _mm256_loadu_ps(mins[r][n].as_ptr()) }
    })
}

/// Products of 32 levels and activations, neighbours added.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn products<const MIN: bool>(
    levels: __m256i,
    magnitude: __m256i,
    qs: __m256i,
) -> __m256i {
    if MIN {
        _mm256_maddubs_epi16(levels, qs)
    } else {
        _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(qs, levels))
    }
}

/// Sums of the lanes, minimums subtracted.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn folded<const R: usize, const N: usize, const MIN: bool>(
    acc: [[__m256; N]; R],
    mins: impl Fn(usize, usize) -> __m256,
) -> [[f32; N]; R] {
    let mut out = [[0.0; N]; R];
    for r in 0..R {
        for n in 0..N {
            let sums = if MIN { _mm256_sub_ps(acc[r][n], mins(r, n)) } else { acc[r][n] };
            let mut lanes = [0.0_f32; LANES];
            // SAFETY: eight f32.
            unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), sums) };
            out[r][n] = sum_lanes(lanes);
        }
    }
    out
}

/// The rows as blocks and their number. Panics if a row or its activations are too short.
#[inline(always)]
pub(in super::super) fn same_length<'a, B: Pod, const R: usize, const N: usize>(
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

/// How far ahead of its use a weight is asked for, bytes, at least: what a core multiplies in the time that
/// memory takes to answer. Rows lie one after another, so what is ahead of one row's end is the row that
/// comes next.
const AHEAD: usize = 4096;
/// Rows side by side are asked for as far ahead as all of them are long, which is where the next ones lie
/// that come together; not where that would be more than a core keeps near.
const AHEAD_MAX: usize = 64 << 10;

/// Asks for the cache lines ahead of block `b` of each row. The processor's own prefetching stops at the
/// ends of rows, which are short, and halves when several rows are read side by side: with this,
/// multiplying from memory is twice as fast.
#[inline(always)]
pub(in super::super) fn ask_ahead<B, const R: usize>(w: [&[B]; R], b: usize) {
    // A line holds two of the small blocks.
    if size_of::<B>() <= 32 && !b.is_multiple_of(2) {
        return;
    }
    let all = R * size_of_val(w[0]);
    let ahead = if R > 1 && all <= AHEAD_MAX { all.max(AHEAD) } else { AHEAD };
    for w in w {
        let block = w.as_ptr().wrapping_add(b).cast::<i8>();
        for line in (0..size_of::<B>()).step_by(64) {
            // SAFETY: a hint, which may name any address.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(block.wrapping_add(ahead + line)) };
        }
    }
}

/// The 32 activations of group g.
///
/// # Safety
/// `x.qs` has that many.
#[inline]
#[target_feature(enable = "avx2")]
pub(in super::super) unsafe fn group_of(x: RowQ8<'_>, g: usize) -> __m256i {
    // SAFETY: the caller's contract.
    unsafe { _mm256_loadu_si256(x.qs.as_ptr().add(32 * g).cast()) }
}

#[inline]
#[target_feature(enable = "f16c")]
pub(super) fn f16(bytes: [u8; 2]) -> f32 {
    _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(u16::from_le_bytes(bytes)))))
}

#[inline]
#[target_feature(enable = "avx2")]
pub(in super::super) fn bytes(from: &[u8; 32]) -> __m256i {
    // SAFETY: 32 bytes.
    unsafe { _mm256_loadu_si256(from.as_ptr().cast()) }
}

/// 16 levels in both halves of a register, as `shuffle` looks them up.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn table(levels: &[i8; 16]) -> __m256i {
    // SAFETY: 16 bytes.
    _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(levels.as_ptr().cast()) })
}

/// 32 nibbles of 16 bytes, low ones first.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn nibbles(qs: &[u8; 16]) -> __m256i {
    // SAFETY: 16 bytes.
    let qs = unsafe { _mm_loadu_si128(qs.as_ptr().cast()) };
    let both = _mm256_set_m128i(_mm_srli_epi16(qs, 4), qs);
    _mm256_and_si256(both, _mm256_set1_epi8(0xf))
}

/// 32 bytes, all ones where the bit is set.
#[inline]
#[target_feature(enable = "avx2")]
fn spread_bits(bits: [u8; 4]) -> __m256i {
    let spread = _mm256_shuffle_epi8(
        _mm256_set1_epi32(i32::from_le_bytes(bits)),
        _mm256_set_epi64x(0x0303_0303_0303_0303, 0x0202_0202_0202_0202, 0x0101_0101_0101_0101, 0),
    );
    let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
    _mm256_cmpeq_epi8(_mm256_and_si256(spread, bit), bit)
}
