//! The cheap operations of a layer, and what is known of the rows of a pass.

use super::config::ModelConfig;
use super::{Sequence, Step};

/// The rows of a pass: which belong to which step, their positions, their rotary angles.
pub(super) struct Rows {
    /// First row of each step, and the end.
    pub(super) starts: Vec<usize>,
    /// Cosines and sines of the rotary angles, each [n, rotary_dim / 2].
    cos: Vec<f32>,
    sin: Vec<f32>,
    /// Rotated features of a head.
    rotary_dim: usize,
}

impl Rows {
    pub(super) fn new(config: &ModelConfig, batch: &[Step<'_>]) -> Self {
        let mut starts = vec![0];
        let mut positions = Vec::new();
        for step in batch {
            assert!(!step.tokens.is_empty(), "a step has at least one token");
            let first = Sequence::position(step.sequence);
            positions.extend(first..first + step.tokens.len());
            starts.push(positions.len());
        }
        let half = config.rotary_dim / 2;
        let angles: Vec<f64> = positions
            .iter()
            .flat_map(|p| {
                (0..half).map(move |i| {
                    let exponent = 2.0 * i as f64 / config.rotary_dim as f64;
                    // Rounded to f32 as the reference implementation stores it.
                    let frequency = config.rope_theta.powf(-exponent) as f32;
                    f64::from(*p as f32 * frequency)
                })
            })
            .collect();
        Rows {
            starts,
            cos: angles.iter().map(|a| a.cos() as f32).collect(),
            sin: angles.iter().map(|a| a.sin() as f32).collect(),
            rotary_dim: config.rotary_dim,
        }
    }

    /// Number of rows.
    pub(super) fn count(&self) -> usize {
        self.starts[self.starts.len() - 1]
    }

    /// Rotates the first `rotary_dim` features of every head of `x` [n, heads, head_dim]: feature i
    /// pairs with i + rotary_dim / 2.
    ///
    /// Source: Su et al., "RoFormer" (arXiv 2104.09864), in the half-split order of GPT-NeoX.
    pub(super) fn rotate(&self, x: &mut [f32], heads: usize, head_dim: usize) {
        let half = self.rotary_dim / 2;
        for (t, row) in x.chunks_exact_mut(heads * head_dim).enumerate() {
            let (cos, sin) = (&self.cos[t * half..][..half], &self.sin[t * half..][..half]);
            for head in row.chunks_exact_mut(head_dim) {
                let (a, b) = head[..self.rotary_dim].split_at_mut(half);
                for i in 0..half {
                    let (x, y) = (a[i], b[i]);
                    a[i] = x * cos[i] - y * sin[i];
                    b[i] = y * cos[i] + x * sin[i];
                }
            }
        }
    }
}

/// `out = x · rsqrt(mean(x²) + eps) ⊙ weight` for every row of `weight.len()` features.
pub(super) fn rms_norm(out: &mut [f32], x: &[f32], weight: &[f32], eps: f32) {
    let dim = weight.len();
    for (out, x) in out.chunks_exact_mut(dim).zip(x.chunks_exact(dim)) {
        let scale = inverse_rms(x, eps);
        for ((o, x), w) in out.iter_mut().zip(x).zip(weight) {
            *o = x * scale * w;
        }
    }
}

/// [`rms_norm`] in place.
pub(super) fn rms_norm_in_place(x: &mut [f32], weight: &[f32], eps: f32) {
    for x in x.chunks_exact_mut(weight.len()) {
        let scale = inverse_rms(x, eps);
        for (x, w) in x.iter_mut().zip(weight) {
            *x *= scale * w;
        }
    }
}

fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    1.0 / (sum_of_squares(x) / x.len() as f32 + eps).sqrt()
}

/// Scales every row of `dim` features to length 1, times `scale`: `x · scale / sqrt(Σx² + eps)`.
pub(super) fn l2_norm_in_place(x: &mut [f32], dim: usize, eps: f32, scale: f32) {
    for x in x.chunks_exact_mut(dim) {
        let scale = scale / (sum_of_squares(x) + eps).sqrt();
        x.iter_mut().for_each(|x| *x *= scale);
    }
}

/// Σx² in eight interleaved sums, so that vector code keeps the order.
fn sum_of_squares(x: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; 8];
    let (chunks, rest) = x.as_chunks::<8>();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += x * x;
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane += x * x;
    }
    lanes.iter().sum()
}

/// `x += y`.
pub(super) fn add(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

/// Adds `bias` to every row of `x` [n, bias.len()]; an empty bias is none.
pub(super) fn add_to_rows(x: &mut [f32], bias: &[f32]) {
    if !bias.is_empty() {
        x.chunks_exact_mut(bias.len()).for_each(|row| add(row, bias));
    }
}

/// `1 / (1 + e^-x)`.
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// `ln(1 + e^x)`, exact to rounding for large x too.
pub(super) fn softplus(x: f32) -> f32 {
    if x > 20.0 { x } else { x.exp().ln_1p() }
}

/// The k largest of `scores` after a softmax over all, as (index, probability), largest first; equal
/// scores go to the lower index. NaN scores come last.
pub(super) fn softmax_top_k(scores: &[f32], k: usize, out: &mut Vec<(u32, f32)>) {
    out.clear();
    let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f32 = scores.iter().map(|s| (s - max).exp()).sum();
    for (i, score) in scores.iter().enumerate() {
        let p = (score - max).exp() / total;
        let at = out.partition_point(|(_, q)| *q >= p);
        if at < k && !p.is_nan() {
            out.truncate(k - 1);
            out.insert(at, (i as u32, p));
        }
    }
}

/// `v` with `len` elements, keeping its allocation; the contents are left as they were.
pub(super) fn sized(v: &mut Vec<f32>, len: usize) -> &mut [f32] {
    v.resize(len, 0.0);
    v
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn top_k_orders_by_probability_and_then_by_index() {
        let mut out = Vec::new();
        softmax_top_k(&[1.0, 3.0, 2.0, 3.0], 3, &mut out);
        assert_eq!(out.iter().map(|(i, _)| *i).collect::<Vec<_>>(), [1, 3, 2]);
        let total: f32 = [1.0_f32, 3.0, 2.0, 3.0].iter().map(|x| x.exp()).sum();
        assert!((out[0].1 - 3.0_f32.exp() / total).abs() < 1e-6);
    }

    #[test]
    fn top_k_of_fewer_scores_gives_all() {
        let mut out = Vec::new();
        softmax_top_k(&[0.5, 0.1], 4, &mut out);
        assert_eq!(out.len(), 2);
    }

    #[test]
    fn softplus_is_smooth_at_its_switch() {
        assert!((softplus(20.0) - softplus(20.000_1)).abs() < 1e-3);
        assert!((softplus(0.0) - std::f32::consts::LN_2).abs() < 1e-6);
        assert!(softplus(-100.0) >= 0.0);
    }

    #[test]
    fn rms_norm_of_equal_values_is_the_weight() {
        let mut out = [0.0; 4];
        rms_norm(&mut out, &[3.0; 4], &[1.0, 2.0, 3.0, 4.0], 0.0);
        for (o, w) in out.iter().zip([1.0, 2.0, 3.0, 4.0]) {
            assert!((o - w).abs() < 1e-6);
        }
    }
}
