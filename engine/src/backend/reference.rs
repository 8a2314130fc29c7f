//! The oracle: every operation as its formula reads, on decoded weights, summed in f64.

use super::{
    AttentionJob, AttentionShape, Backend, DeltaJob, DeltaShape, ExpertJob, Projection, silu,
};
use crate::quant::dequantise_row;
use crate::tensor::MatrixRef;

/// Readable and slow; never optimise it.
pub(crate) struct Reference;

impl Backend for Reference {
    fn name(&self) -> String {
        "reference".to_owned()
    }

    fn project(&mut self, x: &[f32], cols: usize, outputs: &mut [Projection<'_>]) {
        for projection in outputs {
            matmul(projection.out, projection.w, x, cols);
        }
    }

    fn experts(&mut self, x: &[f32], cols: usize, jobs: &mut [ExpertJob<'_>]) {
        for job in jobs {
            let m = job.rows.len();
            let rows: Vec<f32> = job
                .rows
                .iter()
                .flat_map(|&t| &x[t as usize * cols..(t as usize + 1) * cols])
                .copied()
                .collect(); // [m, hidden]
            let inner = job.weights.gate.shape.rows;
            let (mut gate, mut up) = (vec![0.0; m * inner], vec![0.0; m * inner]);
            matmul(&mut gate, job.weights.gate, &rows, cols);
            matmul(&mut up, job.weights.up, &rows, cols);
            let h: Vec<f32> = gate.iter().zip(&up).map(|(g, u)| silu(*g) * u).collect();
            matmul(job.out, job.weights.down, &h, inner);
        }
    }

    fn attention(&mut self, shape: AttentionShape, jobs: &mut [AttentionJob<'_>]) {
        let AttentionShape { heads, kv_heads, head_dim } = shape;
        let scale = 1.0 / (head_dim as f64).sqrt();
        for job in jobs {
            let n = job.q.len() / (heads * head_dim);
            let before = job.kv.positions() - n;
            for t in 0..n {
                for h in 0..heads {
                    let at = (t * heads + h) * head_dim;
                    let q = &job.q[at..at + head_dim];
                    let kv = h / (heads / kv_heads) * head_dim;
                    let scores: Vec<f64> = (0..=before + t)
                        .map(|p| scale * dot(q, &job.kv.row(p).0[kv..kv + head_dim]))
                        .collect();
                    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let total: f64 = scores.iter().map(|s| (s - max).exp()).sum();
                    for i in 0..head_dim {
                        let weighted: f64 = scores
                            .iter()
                            .enumerate()
                            .map(|(p, s)| (s - max).exp() * f64::from(job.kv.row(p).1[kv + i]))
                            .sum();
                        job.out[at + i] = (weighted / total) as f32;
                    }
                }
            }
        }
    }

    /// Decay, delta, write, read, in this order.
    fn delta_rule(&mut self, shape: DeltaShape, jobs: &mut [DeltaJob<'_>]) {
        let DeltaShape { key_heads, value_heads, key_dim, value_dim, .. } = shape;
        for job in jobs {
            let n = job.v.len() / (value_heads * value_dim);
            for (t, h) in (0..n).flat_map(|t| (0..value_heads).map(move |h| (t, h))) {
                let at_k = (t * key_heads + shape.key_head(h)) * key_dim;
                let (q, k) = (&job.q[at_k..at_k + key_dim], &job.k[at_k..at_k + key_dim]);
                let at_v = (t * value_heads + h) * value_dim;
                let s = &mut job.state[h * key_dim * value_dim..(h + 1) * key_dim * value_dim];
                s.iter_mut().for_each(|v| *v *= job.decay[t * value_heads + h]);
                for j in 0..value_dim {
                    let column = |x: &[f32], s: &[f32]| -> f64 {
                        (0..key_dim)
                            .map(|i| f64::from(x[i]) * f64::from(s[i * value_dim + j]))
                            .sum()
                    };
                    let delta = f64::from(job.beta[t * value_heads + h])
                        * (f64::from(job.v[at_v + j]) - column(k, s));
                    for i in 0..key_dim {
                        s[i * value_dim + j] += k[i] * delta as f32;
                    }
                    job.out[at_v + j] = column(q, s) as f32;
                }
            }
        }
    }
}

fn matmul(out: &mut [f32], w: MatrixRef<'_>, x: &[f32], cols: usize) {
    assert_eq!(w.shape.cols, cols, "input features disagree with the matrix");
    let rows = w.shape.rows;
    let mut row = vec![0.0; cols];
    for r in 0..rows {
        dequantise_row(w.shape.dtype, w.row(r), &mut row);
        for (t, x) in x.chunks_exact(cols).enumerate() {
            out[t * rows + r] = dot(&row, x) as f32;
        }
    }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}
