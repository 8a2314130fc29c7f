//! The fast kernels against their readable twins, bit for bit.

use proptest::prelude::*;

use super::super::kernels::Portable;
use super::*;
use crate::quant::quantise_row;

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

    fn view(&self) -> RowQ8<'_> {
        RowQ8 { scales: &self.scales, qs: &self.qs, sums: &self.sums }
    }
}

/// The same bits, or both not a number (which of its bits a processor keeps is nobody's contract).
fn same(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len()
        && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan())
}

fn encoded(dtype: DType, x: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; dtype.row_bytes(x.len()).expect("whole blocks")];
    quantise_row(dtype, x, &mut bytes);
    bytes
}

proptest! {
    /// Any bytes are a block: also those whose scales are infinite or not numbers.
    #[test]
    fn quantised_dot_products_give_the_portable_bits(
        bytes in prop::collection::vec(any::<u8>(), 420),
        x in prop::collection::vec(-3.0_f32..3.0, 2 * 512),
    ) {
        let Some(avx2) = Avx2::new() else { return Ok(()) };
        for dtype in DType::ALL.into_iter().filter(|t| t.is_quantised()) {
            let (values, block) = dtype.block();
            let blocks = bytes.len() / block;
            let w = &bytes[..blocks.min(512 / values) * block];
            let rows = [&x[..512], &x[512..]].map(|x| Row::new(Portable, x));
            let rows = [rows[0].view(), rows[1].view()];
            let portable = Portable.dot_q8(dtype, w, rows);
            let fast = avx2.dot_q8(dtype, w, rows);
            prop_assert!(same(&fast, &portable), "{dtype}: {fast:?} {portable:?}");
            prop_assert!(same(&fast[..1], &avx2.dot_q8(dtype, w, [rows[0]])), "{dtype}");
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
            let bytes = encoded(dtype, &w[..float_cols]);
            let rows = [&x[..float_cols], &x[96..96 + float_cols]];
            let portable = Portable.dot_float(dtype, &bytes, rows);
            prop_assert!(same(&avx2.dot_float(dtype, &bytes, rows), &portable), "{dtype}");
        }

        let attended = |k: &dyn Fn(&mut [f32])| { let mut out = vec![0.0; 24]; k(&mut out); out };
        let portable = attended(&|o| Portable.attend(o, &w[..24], &x, &x, 48));
        prop_assert!(same(&portable, &attended(&|o| avx2.attend(o, &w[..24], &x, &x, 48))));

        let token = DeltaToken { q: &w[..12], k: &w[12..24], v: &w[24..40], decay: 0.9, beta: 0.4 };
        let (mut out, mut state) = (vec![0.0; 16], x.clone());
        Portable.delta_step(&mut out, &mut state, token, &mut [0.0; 32]);
        let (mut fast_out, mut fast_state) = (vec![0.0; 16], x.clone());
        avx2.delta_step(&mut fast_out, &mut fast_state, token, &mut [0.0; 32]);
        prop_assert!(same(&out, &fast_out) && same(&state, &fast_state));
    }
}
