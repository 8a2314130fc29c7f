//! Eight numbers in one register, for what is written over [`Lanes`].

use std::arch::x86_64::*;

use super::super::attend::Lanes;
use super::super::kernels::LANES;

/// Exists only in functions that are compiled for AVX2 and FMA and called where these were detected:
/// what makes its instructions sound.
#[derive(Clone, Copy)]
pub(super) struct Register(__m256);

impl Lanes for Register {
    #[inline(always)]
    fn splat(x: f32) -> Self {
        // SAFETY: see `Register`; the same holds below.
        Register(unsafe { _mm256_set1_ps(x) })
    }

    #[inline(always)]
    fn load(from: &[f32; LANES]) -> Self {
        // SAFETY: as above; eight f32.
        Register(unsafe { _mm256_loadu_ps(from.as_ptr()) })
    }

    #[inline(always)]
    fn store(self, to: &mut [f32; LANES]) {
        // SAFETY: as above; eight f32.
        unsafe { _mm256_storeu_ps(to.as_mut_ptr(), self.0) }
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        // SAFETY: as above.
        Register(unsafe { _mm256_add_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        // SAFETY: as above.
        Register(unsafe { _mm256_mul_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn mul_add(self, by: Self, to: Self) -> Self {
        // SAFETY: as above.
        Register(unsafe { _mm256_fmadd_ps(self.0, by.0, to.0) })
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        // SAFETY: as above.
        Register(unsafe { _mm256_max_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn or_zero_below(self, of: Self, limit: f32) -> Self {
        // SAFETY: as above.
        unsafe {
            let below = _mm256_cmp_ps::<_CMP_LT_OQ>(of.0, _mm256_set1_ps(limit));
            Register(_mm256_andnot_ps(below, self.0))
        }
    }

    #[inline(always)]
    fn power_of_two(self) -> Self {
        // SAFETY: as above.
        unsafe {
            let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(self.0), _mm256_set1_epi32(127));
            Register(_mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent)))
        }
    }

    /// The tree of `kernels::sum_lanes`: halves, quarters, pairs.
    #[inline(always)]
    fn sum(self) -> f32 {
        // SAFETY: as above.
        unsafe {
            let halves =
                _mm_add_ps(_mm256_castps256_ps128(self.0), _mm256_extractf128_ps::<1>(self.0));
            let quarters = _mm_add_ps(halves, _mm_movehl_ps(halves, halves));
            _mm_cvtss_f32(_mm_add_ss(quarters, _mm_shuffle_ps::<1>(quarters, quarters)))
        }
    }
}
