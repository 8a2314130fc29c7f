//! The fast kernels against their readable twins, bit for bit.

use proptest::prelude::*;

use super::super::attend::QUERIES;
use super::super::avx512::Avx512;
use super::super::kernels::Portable;
use super::*;
use crate::quant::dequantise_row;
use crate::quant::tests::sample;
use crate::tensor::DType;

/// A row of activations in 8 bits.
struct Row {
    scales: Vec<f32>,
    qs: Vec<i8>,
    sums: Vec<i16>,
}

impl Row {
    fn new(k: impl Kernels, x: &[f32]) -> Self {
        let (mut scales, mut qs) = (vec![0.0; x.len() / 32], vec![0; x.len()]);
        let mut sums = vec![0; x.len() / 16];
        k.quantise(x, &mut scales, &mut qs, &mut sums);
        Row { scales, qs, sums }
    }

    fn value(&self, j: usize) -> f64 {
        f64::from(self.scales[j / 32]) * f64::from(self.qs[j])
    }

    fn view(&self) -> RowQ8<'_> {
        RowQ8 { scales: &self.scales, qs: &self.qs, sums: &self.sums }
    }
}

/// The same bits, or both not a number (which of its bits a processor keeps is nobody's contract).
fn same(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len()
        && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan())
}

/// Largest difference of a dot product from the sum in f64 over the same activations, as a share of
/// max|w| · Σ|x|: rounding of f32 sums of a few hundred terms.
const DOT_ERR_MAX: f64 = 2e-6;

fn quantised() -> impl Iterator<Item = DType> {
    DType::ALL.into_iter().filter(|t| t.is_quantised())
}

proptest! {
    /// Any bytes are a block: also those whose scales are infinite or not numbers.
    #[test]
    fn quantised_dot_products_give_the_portable_bits(
        bytes in prop::collection::vec(any::<u8>(), 840),
        x in prop::collection::vec(-3.0_f32..3.0, 2 * 512),
    ) {
        let Some(avx2) = Avx2::new() else { return Ok(()) };
        let rows = [&x[..512], &x[512..]].map(|x| Row::new(Portable, x));
        let [a, b] = [rows[0].view(), rows[1].view()];
        for dtype in quantised() {
            let (values, block) = dtype.block();
            let len = (bytes.len() / 2 / block).min(512 / values) * block;
            let w = [&bytes[..len], &bytes[bytes.len() - len..]];
            let portable = Portable.dot_q8(dtype, w, [a, b]);
            let fast = avx2.dot_q8(dtype, w, [a, b]);
            for (fast, portable) in fast.iter().zip(&portable) {
                prop_assert!(same(fast, portable), "{dtype}: {fast:?} {portable:?}");
            }
            if let Some(avx512) = Avx512::new() {
                let fast = avx512.dot_q8(dtype, w, [a, b]);
                for (fast, portable) in fast.iter().zip(&portable) {
                    prop_assert!(same(fast, portable), "{dtype}, wide: {fast:?} {portable:?}");
                }
                let four = avx512.dot_q8(dtype, [w[0], w[1], w[1], w[0]], [b]);
                for (fast, row) in four.iter().zip([0, 1, 1, 0]) {
                    prop_assert!(same(fast, &portable[row][1..]), "{dtype}, wide: {fast:?}");
                }
            }
            // A product does not depend on what is computed beside it.
            let [[alone]] = avx2.dot_q8(dtype, [w[1]], [a]);
            prop_assert!(same(&[alone], &portable[1][..1]), "{dtype}");
        }
    }

    #[test]
    fn quantised_dot_products_are_those_of_the_decoded_weights(
        w in prop::collection::vec(-1.0_f32..1.0, 512),
        x in prop::collection::vec(-3.0_f32..3.0, 512),
    ) {
        let row = Row::new(Portable, &x);
        let total: f64 = (0..512).map(|j| row.value(j).abs()).sum();
        for dtype in quantised() {
            let bytes = sample(dtype, &w);
            let mut decoded = vec![0.0; 512];
            dequantise_row(dtype, &bytes, &mut decoded);
            let largest = decoded.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
            let exact: f64 = (0..512).map(|j| f64::from(decoded[j]) * row.value(j)).sum();
            let [[dot]] = Portable.dot_q8(dtype, [&bytes], [row.view()]);
            let error = (f64::from(dot) - exact).abs();
            prop_assert!(error <= DOT_ERR_MAX * f64::from(largest) * total, "{dtype}: {dot} {exact}");
        }
    }

    #[test]
    fn other_kernels_give_the_portable_bits(
        w in prop::collection::vec(-2.0_f32..2.0, 96),
        x in prop::collection::vec(-3.0_f32..3.0, 192),
        float_cols in 0_usize..=96,
    ) {
        let Some(avx2) = Avx2::new() else { return Ok(()) };
        let (fast, portable) = (Row::new(avx2, &x), Row::new(Portable, &x));
        prop_assert!(same(&fast.scales, &portable.scales));
        prop_assert!(fast.qs == portable.qs && fast.sums == portable.sums);

        // Any length, also below and between whole vectors.
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let bytes = sample(dtype, &w[..float_cols]);
            let rows = [&x[..float_cols], &x[96..96 + float_cols]];
            let portable = Portable.dot_float(dtype, &bytes, rows);
            prop_assert!(same(&avx2.dot_float(dtype, &bytes, rows), &portable), "{dtype}");
        }

        let token = DeltaToken { q: &w[..12], k: &w[12..24], v: &w[24..40], decay: 0.9, beta: 0.4 };
        let (mut out, mut state) = (vec![0.0; 16], x.clone());
        Portable.delta_step(&mut out, &mut state, token, &mut [0.0; 32]);
        let (mut fast_out, mut fast_state) = (vec![0.0; 16], x.clone());
        avx2.delta_step(&mut fast_out, &mut fast_state, token, &mut [0.0; 32]);
        prop_assert!(same(&out, &fast_out) && same(&state, &fast_state));
    }

    /// Two blocks: whole and in part, features that are whole vectors and that are not, scores that
    /// grow, shrink and leave the range of exponents.
    #[test]
    fn attention_gives_the_portable_bits(
        q in prop::collection::vec(-3.0_f32..3.0, QUERIES * 88),
        rows in prop::collection::vec(-2.0_f32..2.0, 64 * 96),
        (dim, queries, positions) in (1_usize..=88, 1..=QUERIES, 1_usize..=64),
        sharp in prop::sample::select(vec![0.1_f32, 1.0, 100.0]),
    ) {
        let Some(avx2) = Avx2::new() else { return Ok(()) };
        let q: Vec<f32> = q[..queries * dim].iter().map(|q| q * sharp).collect();
        let attended = |attend: &dyn Fn(&mut [f32], Step<'_>, &mut Softmax)| {
            let (mut out, mut state) = (vec![0.0; q.len()], Softmax::new());
            for positions in [64, positions] {
                let (keys, values) = (&rows[64 - positions..], &rows[..]);
                let step = Step { q: &q, dim, keys, values, stride: 94, at: 5, positions };
                attend(&mut out, step, &mut state);
            }
            state.finish(&mut out, dim);
            out
        };
        let portable = attended(&|out, step, state| Portable.attend(out, step, state));
        let fast = attended(&|out, step, state| avx2.attend(out, step, state));
        prop_assert!(same(&portable, &fast), "{portable:?} {fast:?}");
    }
}
