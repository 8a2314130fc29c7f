//! How much a token weighs in the draw: e^((logit - best) / temperature).
//!
//! Top-p needs the weight of every token of the vocabulary, and the platform's `exp` is most of a
//! draw's time. This one is a short polynomial without branches, which the compiler turns into
//! vector code, and it gives the same bits on every platform, so a seed means the same everywhere.
//!
//! Invariants: the best token weighs exactly 1; no weight is zero or above 1; the relative error is
//! below 1e-5. NaN and minus infinity weigh the least that there is, about 1e-38; who
//! must never be drawn is left out by `candidates`.
//! Source: 2^f on [-1/2, 1/2] by its Taylor series to the 7th power.

/// Below this, e^x is not a normal f32 any more.
const EXPONENT_MIN: f32 = -87.0;
/// Adding it leaves a rounded integer in the low bits of an f32: 1.5 * 2^23.
const ROUNDER: f32 = 12_582_912.0;
/// ln(2)^n / n! for n = 7 down to 1.
const TAYLOR: [f32; 7] = [
    1.525_273_4e-5,
    1.540_353e-4,
    1.333_355_8e-3,
    9.618_129e-3,
    5.550_411e-2,
    2.402_265e-1,
    6.931_472e-1,
];
/// Sums side by side, so that an addition need not wait for the one before it.
const LANES: usize = 8;

/// The weight of one logit.
pub(super) fn weight(logit: f32, best: f32, temperature: f32) -> f32 {
    exp(((logit - best) / temperature).max(EXPONENT_MIN))
}

/// The sum of all weights, in one fixed order.
pub(super) fn mass(logits: &[f32], best: f32, temperature: f32) -> f64 {
    let mut lanes = [0.0; LANES];
    let (eights, rest) = logits.as_chunks::<LANES>();
    for eight in eights {
        for (sum, &logit) in lanes.iter_mut().zip(eight) {
            *sum += f64::from(weight(logit, best, temperature));
        }
    }
    let rest: f64 = rest.iter().map(|&logit| f64::from(weight(logit, best, temperature))).sum();
    lanes.iter().sum::<f64>() + rest
}

/// e^x for x in [-87, 0]: 2^n * 2^f with n an integer and f in [-1/2, 1/2].
fn exp(x: f32) -> f32 {
    let y = x * std::f32::consts::LOG2_E;
    let shifted = y + ROUNDER;
    let n = shifted.to_bits().wrapping_sub(ROUNDER.to_bits()) as i32;
    let f = y - (shifted - ROUNDER);
    let power = TAYLOR.iter().fold(0.0, |sum, coefficient| (sum + coefficient) * f) + 1.0;
    power * f32::from_bits(((n + 127) as u32) << 23)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against e^x in f64.
    const REL_ERR_MAX: f64 = 1e-5;

    #[test]
    fn weights_are_close_to_the_exact_exponential() {
        let worst = (0..=870_000)
            .map(|step| {
                let x = -(step as f32) / 10_000.0;
                let exact = f64::from(x).exp();
                (f64::from(weight(x, 0.0, 1.0)) - exact).abs() / exact
            })
            .fold(0.0, f64::max);
        assert!(worst < REL_ERR_MAX, "{worst}");
    }

    #[test]
    fn best_weighs_one_and_nothing_weighs_nothing() {
        assert_eq!(weight(3.5, 3.5, 0.7), 1.0);
        assert_eq!(weight(3.5, 3.5, f32::MIN_POSITIVE), 1.0);
        for logit in [f32::NEG_INFINITY, f32::NAN, -1e30, f32::MIN] {
            let weight = weight(logit, 0.0, 0.1);
            assert!(weight > 0.0 && weight < 2e-38, "{logit}: {weight}");
        }
    }

    #[test]
    fn mass_is_the_sum_of_weights() {
        let logits: Vec<f32> = (0..1003).map(|i| (i % 97) as f32 / 10.0).collect();
        let sum: f64 = logits.iter().map(|&l| f64::from((l - 9.6).exp())).sum();
        assert!((mass(&logits, 9.6, 1.0) - sum).abs() < 1e-3 * sum);
    }
}
