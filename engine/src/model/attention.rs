//! Gated full attention: grouped queries, normalised heads, partial rotary positions, output gate.
//!
//! `q_proj` gives for every head its query and then its gate, interleaved by head:
//! out = Wo (softmax(q·k / sqrt(d)) v ⊙ sigmoid(gate)).
//! Source: transformers `Qwen3_5MoeAttention`.

use super::Step;
use super::ops::{Rows, rms_norm_in_place, sigmoid, sized};
use crate::backend::{AttentionJob, AttentionShape, Backend, Projection};
use crate::tensor::Matrix;

/// Weights of one attention layer.
pub(crate) struct Attention {
    pub(crate) shape: AttentionShape,
    /// [heads · 2 · head_dim, hidden]: query and gate of each head.
    pub(crate) q: Matrix,
    /// [kv_heads · head_dim, hidden]
    pub(crate) k: Matrix,
    /// [kv_heads · head_dim, hidden]
    pub(crate) v: Matrix,
    /// [hidden, heads · head_dim]
    pub(crate) o: Matrix,
    /// [head_dim]
    pub(crate) q_norm: Vec<f32>,
    /// [head_dim]
    pub(crate) k_norm: Vec<f32>,
    pub(crate) norm_eps: f32,
}

/// Buffers reused by all attention layers.
#[derive(Default)]
pub(super) struct Buffers {
    q_gate: Vec<f32>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    out: Vec<f32>,
}

impl Attention {
    pub(super) fn matrices(&self) -> Vec<&Matrix> {
        vec![&self.q, &self.k, &self.v, &self.o]
    }

    /// `y = attention(h)` for all rows; appends to the steps' KV caches.
    #[expect(
        clippy::too_many_arguments,
        reason = "one call site; a struct would rename the fields"
    )]
    pub(super) fn forward<B: Backend>(
        &self,
        backend: &mut B,
        rows: &Rows,
        h: &[f32],
        y: &mut [f32],
        batch: &mut [Step<'_>],
        layer: usize,
        buffers: &mut Buffers,
    ) {
        let AttentionShape { heads, kv_heads, head_dim } = self.shape;
        let n = rows.count();
        let hidden = h.len() / n;
        let q_gate = sized(&mut buffers.q_gate, n * heads * 2 * head_dim);
        let k = sized(&mut buffers.k, n * kv_heads * head_dim);
        let v = sized(&mut buffers.v, n * kv_heads * head_dim);
        backend.project(
            h,
            hidden,
            &mut [
                Projection { w: self.q.view(), out: q_gate },
                Projection { w: self.k.view(), out: k },
                Projection { w: self.v.view(), out: v },
            ],
        );
        let q = sized(&mut buffers.q, n * heads * head_dim);
        for (q, q_gate) in q.chunks_exact_mut(head_dim).zip(q_gate.chunks_exact(2 * head_dim)) {
            q.copy_from_slice(&q_gate[..head_dim]);
        }
        rms_norm_in_place(q, &self.q_norm, self.norm_eps);
        rms_norm_in_place(k, &self.k_norm, self.norm_eps);
        rows.rotate(q, heads, head_dim);
        rows.rotate(k, kv_heads, head_dim);

        let out = sized(&mut buffers.out, n * heads * head_dim);
        let mut rest = &mut *out;
        let mut jobs = Vec::with_capacity(batch.len());
        for (i, step) in batch.iter_mut().enumerate() {
            let range = |width: usize| rows.starts[i] * width..rows.starts[i + 1] * width;
            let kv = kv_heads * head_dim;
            let cache = step.sequence.kv(layer);
            cache.append(&k[range(kv)], &v[range(kv)]);
            let (keys, values) = cache.rows();
            let q = &q[range(heads * head_dim)];
            let (out, later) = rest.split_at_mut(q.len());
            rest = later;
            jobs.push(AttentionJob { q, keys, values, out });
        }
        backend.attention(self.shape, &mut jobs);
        drop(jobs);
        for (out, q_gate) in out.chunks_exact_mut(head_dim).zip(q_gate.chunks_exact(2 * head_dim)) {
            for (o, g) in out.iter_mut().zip(&q_gate[head_dim..]) {
                *o *= sigmoid(*g);
            }
        }
        backend.project(out, heads * head_dim, &mut [Projection { w: self.o.view(), out: y }]);
    }
}
