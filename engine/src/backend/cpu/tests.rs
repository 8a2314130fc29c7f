//! The fast backend against the oracle, and against itself on other thread counts and batches.

use proptest::prelude::*;

use super::super::{ExpertWeights, HeadOrder, Reference, silu};
use super::*;
use crate::kv_cache::KvCache;
use crate::quant::dequantise_row;
use crate::quant::tests::sample;
use crate::tensor::{AlignedBytes, DType, Matrix, MatrixShape};

/// Largest error of a dot product with 8-bit activations, as a share of Σ|w·x|: half a step of 127.
const Q8_ACTIVATION_ERR_MAX: f64 = 0.5 / 127.0 * 1.05;
/// The same with f32 activations: rounding of f32 sums of a few hundred terms.
const F32_ERR_MAX: f64 = 1e-5;

/// Numbers between -1 and 1 from a small generator, so that failures repeat.
fn numbers(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..count)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            ((state >> 40) as f32 / 8_388_608.0) - 1.0
        })
        .collect()
}

fn matrix(dtype: DType, rows: usize, cols: usize, seed: u64) -> Matrix {
    let shape = MatrixShape { dtype, rows, cols };
    let mut bytes = AlignedBytes::zeroed(shape.bytes().expect("whole blocks"));
    bytes.as_mut_slice().copy_from_slice(&sample(dtype, &numbers(seed, rows * cols)));
    Matrix::new(shape, bytes)
}

fn project<B: Backend>(b: &mut B, w: &Matrix, x: &[f32]) -> Vec<f32> {
    let shape = w.shape();
    let mut out = vec![0.0; x.len() / shape.cols * shape.rows];
    b.project(x, shape.cols, &mut [Projection { w: w.view(), out: &mut out }]);
    out
}

#[test]
fn projections_match_the_reference() {
    const COLS: usize = 256;
    for dtype in DType::ALL {
        let w = matrix(dtype, 75, COLS, 1);
        let x = numbers(2, 7 * COLS);
        let limit = if dtype.is_quantised() { Q8_ACTIVATION_ERR_MAX } else { F32_ERR_MAX };
        let exact = project(&mut Reference, &w, &x);
        let fast = project(&mut Cpu::new(2), &w, &x);
        for (i, (e, f)) in exact.iter().zip(&fast).enumerate() {
            let mut row = vec![0.0; COLS];
            dequantise_row(dtype, w.view().row(i % 75), &mut row);
            let total: f64 = row.iter().map(|w| f64::from(w.abs())).sum();
            // Each activation is off by at most half a step of its group's maximum.
            let x = &x[i / 75 * COLS..][..COLS];
            let scale = total * f64::from(x.iter().fold(0.0_f32, |m, v| m.max(v.abs())));
            let error = (f64::from(*e) - f64::from(*f)).abs();
            assert!(error <= limit * scale, "{dtype} {i}: {e} {f}");
        }
    }
}

/// Five and seven activation rows: some in fours, some alone; 43 weight rows: a tile and a part of one.
#[test]
fn portable_and_detected_kernels_give_the_same_bits_on_any_threads_and_batch() {
    for dtype in DType::ALL {
        let (w, x) = (matrix(dtype, 43, 512, 3), numbers(4, 7 * 512));
        let all = project(&mut Cpu::new(1), &w, &x);
        assert_eq!(all, project(&mut Cpu::portable(3), &w, &x), "{dtype}");
        assert_eq!(all[..5 * 43], project(&mut Cpu::new(2), &w, &x[..5 * 512]), "{dtype}");
        for (t, x) in x.chunks(512).enumerate() {
            assert_eq!(all[t * 43..][..43], project(&mut Cpu::new(1), &w, x), "{dtype}");
        }
    }
}

#[test]
fn experts_of_every_type_give_the_bits_of_their_three_products() {
    let types = DType::ALL.into_iter().map(|t| (t, t));
    // Gate and up of two types meet the inputs one after the other.
    for (gate_type, up_type) in types.chain([(DType::Q4K, DType::Q6K)]) {
        let gate = matrix(gate_type, 256, 256, 5);
        let up = matrix(up_type, 256, 256, 6);
        let down = matrix(gate_type, 256, 256, 7);
        let x = numbers(8, 6 * 256);
        let mut cpu = Cpu::new(2);
        let mut out = vec![0.0; x.len()];
        let weights = ExpertWeights { gate: gate.view(), up: up.view(), down: down.view() };
        let rows = [0, 1, 2, 3, 4, 5];
        cpu.experts(&x, 256, &mut [ExpertJob { weights, rows: &rows, out: &mut out }]);
        let (g, u) = (project(&mut cpu, &gate, &x), project(&mut cpu, &up, &x));
        let h: Vec<f32> = g.iter().zip(&u).map(|(g, u)| silu(*g) * u).collect();
        assert_eq!(out, project(&mut cpu, &down, &h), "{gate_type} {up_type}");
    }
}

#[test]
fn experts_match_the_reference_and_do_not_depend_on_their_neighbours() {
    let [gate, up] = [5, 6].map(|s| matrix(DType::Q4_0, 64, 96, s));
    let down = matrix(DType::Q8_0, 96, 64, 7);
    let weights = ExpertWeights { gate: gate.view(), up: up.view(), down: down.view() };
    let x = numbers(8, 9 * 96);
    let run = |b: &mut dyn Backend, rows: &[u32]| {
        let (mut a, mut c) = (vec![0.0; rows.len() * 96], vec![0.0; 96]);
        b.experts(
            &x,
            96,
            &mut [
                ExpertJob { weights, rows, out: &mut a },
                ExpertJob { weights, rows: &[8], out: &mut c },
            ],
        );
        (a, c)
    };
    let rows = [0, 2, 3, 5, 6, 7];
    let (exact, _) = run(&mut Reference, &rows);
    let (fast, other) = run(&mut Cpu::new(2), &rows);
    let largest = exact.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
    for (e, f) in exact.iter().zip(&fast) {
        assert!((e - f).abs() <= 0.03 * largest, "{e} {f} (largest {largest})");
    }
    let (alone, other_alone) = run(&mut Cpu::new(1), &rows[3..4]);
    assert_eq!(alone, fast[3 * 96..4 * 96]);
    assert_eq!(other, other_alone);
}

/// Groups of two, seven and one query; several tasks of tokens; scores that are flat and sharp.
#[test]
fn attention_matches_the_reference_in_one_go_and_row_by_row() {
    let (n, past) = (37, 100);
    for (heads, kv_heads, head_dim) in [(4, 2, 16), (14, 2, 80), (3, 3, 20)] {
        let shape = AttentionShape { heads, kv_heads, head_dim };
        let (width, stride) = (heads * head_dim, kv_heads * head_dim);
        let all = (n + past) * stride;
        let (q, keys, values) = (numbers(9, n * width), numbers(10, all), numbers(11, all));
        for sharp in [1.0, 30.0] {
            let q: Vec<f32> = q.iter().map(|q| q * sharp).collect();
            let run = |b: &mut dyn Backend, from: usize, to: usize| {
                let mut out = vec![0.0; (to - from) * width];
                let mut kv = KvCache::new(stride);
                kv.append(&keys[..(past + to) * stride], &values[..(past + to) * stride]);
                let q = &q[from * width..to * width];
                b.attention(shape, &mut [AttentionJob { q, kv: &kv, out: &mut out }]);
                out
            };
            let exact = run(&mut Reference, 0, n);
            let fast = run(&mut Cpu::new(3), 0, n);
            for (e, f) in exact.iter().zip(&fast) {
                assert!((e - f).abs() < 1e-5 * sharp, "{shape:?} {sharp}: {e} {f}");
            }
            let rows: Vec<f32> = (0..n).flat_map(|t| run(&mut Cpu::new(1), t, t + 1)).collect();
            assert_eq!(fast, rows);
            assert_eq!(fast, run(&mut Cpu::portable(2), 0, n));
        }
    }
}

proptest! {
    #[test]
    fn delta_rule_matches_the_reference(seed in 0_u64..1000, n in 1_usize..6, tiled: bool) {
        let order = if tiled { HeadOrder::Tiled } else { HeadOrder::Grouped };
        let shape = DeltaShape { key_heads: 2, value_heads: 4, key_dim: 8, value_dim: 16, order };
        let (q, k) = (numbers(seed, n * 16), numbers(seed + 1, n * 16));
        let v = numbers(seed + 2, n * 64);
        let decay: Vec<f32> = numbers(seed + 3, n * 4).iter().map(|x| 0.5 + 0.5 * x.abs()).collect();
        let beta: Vec<f32> = numbers(seed + 4, n * 4).iter().map(|x| x.abs()).collect();
        let run = |b: &mut dyn Backend| {
            let (mut state, mut out) = (numbers(seed + 5, 4 * 8 * 16), vec![0.0; n * 64]);
            b.delta_rule(shape, &mut [DeltaJob {
                q: &q, k: &k, v: &v, decay: &decay, beta: &beta, state: &mut state, out: &mut out,
            }]);
            [out, state].concat()
        };
        for (e, f) in run(&mut Reference).iter().zip(run(&mut Cpu::new(2))) {
            prop_assert!((e - f).abs() < 1e-4 * (1.0 + e.abs()), "{e} {f}");
        }
    }
}
