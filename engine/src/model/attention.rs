//! Full attention: grouped queries, rotary positions; in some families biases, normalised heads, an
//! output gate.
//!
//! out = Wo (softmax(q·k / sqrt(d)) v). With an output gate, the query matrix gives for every head its
//! query and then its gate, interleaved by head, and v is weighted by sigmoid(gate) before Wo.
//! Sources: transformers `Qwen3_5MoeAttention`, `Qwen3MoeAttention`, `Qwen2MoeAttention`.

use super::Step;
use super::ops::{Rows, add_to_rows, rms_norm_in_place, sigmoid, sized};
use super::sequence::LayerState;
use crate::backend::{AttentionJob, AttentionShape, Backend, Projection};
use crate::kv_cache::KvCache;
use crate::tensor::Matrix;

/// Weights of one attention layer.
pub(crate) struct Attention {
    pub(crate) shape: AttentionShape,
    /// Whether `q` gives gates too.
    pub(crate) gated: bool,
    /// [heads · head_dim, hidden]; gated: [heads · 2 · head_dim, hidden], query and gate of each head.
    pub(crate) q: Matrix,
    /// [kv_heads · head_dim, hidden]
    pub(crate) k: Matrix,
    /// [kv_heads · head_dim, hidden]
    pub(crate) v: Matrix,
    /// [hidden, heads · head_dim]
    pub(crate) o: Matrix,
    pub(crate) biases: Biases,
    /// Of families that normalise heads.
    pub(crate) norms: Option<HeadNorms>,
}

/// One value for each row of the matrix of that name, or none.
pub(crate) struct Biases {
    pub(crate) q: Vec<f32>,
    pub(crate) k: Vec<f32>,
    pub(crate) v: Vec<f32>,
    pub(crate) o: Vec<f32>,
}

/// RMS norms of every head's query and key.
pub(crate) struct HeadNorms {
    /// [head_dim]
    pub(crate) q: Vec<f32>,
    /// [head_dim]
    pub(crate) k: Vec<f32>,
    pub(crate) eps: f32,
}

/// Buffers reused by all attention layers.
#[derive(Default)]
pub(super) struct Buffers {
    /// What the query matrix gives; without a gate these are the queries.
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

    /// The keys and values before any token.
    pub(super) fn new_cache(&self) -> KvCache {
        KvCache::new(self.shape.kv_heads * self.shape.head_dim)
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
        let Buffers { q_gate, q, k, v, out } = buffers;
        let q_gate = sized(q_gate, n * self.q.shape().rows);
        let k = sized(k, n * kv_heads * head_dim);
        let v = sized(v, n * kv_heads * head_dim);
        backend.project(
            h,
            hidden,
            &mut [
                Projection { w: self.q.view(), out: q_gate },
                Projection { w: self.k.view(), out: k },
                Projection { w: self.v.view(), out: v },
            ],
        );
        let Biases { q: q_bias, k: k_bias, v: v_bias, o: o_bias } = &self.biases;
        add_to_rows(q_gate, q_bias);
        add_to_rows(k, k_bias);
        add_to_rows(v, v_bias);
        let q = if self.gated {
            let q = sized(q, n * heads * head_dim);
            for (q, q_gate) in q.chunks_exact_mut(head_dim).zip(q_gate.chunks_exact(2 * head_dim)) {
                q.copy_from_slice(&q_gate[..head_dim]);
            }
            q
        } else {
            &mut *q_gate
        };
        if let Some(norms) = &self.norms {
            rms_norm_in_place(q, &norms.q, norms.eps);
            rms_norm_in_place(k, &norms.k, norms.eps);
        }
        rows.rotate(q, heads, head_dim);
        rows.rotate(k, kv_heads, head_dim);

        let out = sized(out, n * heads * head_dim);
        let mut rest = &mut *out;
        let mut jobs = Vec::with_capacity(batch.len());
        for (i, step) in batch.iter_mut().enumerate() {
            let range = |width: usize| rows.starts[i] * width..rows.starts[i + 1] * width;
            let kv = kv_heads * head_dim;
            let before = step.sequence.position();
            let cache = step.sequence.kv(layer);
            cache.append(&k[range(kv)], &v[range(kv)]);
            for mark in step.marks.iter_mut() {
                let part = LayerState::Attention(cache.first(before + mark.at));
                mark.note_layer(before, part);
            }
            let q = &q[range(heads * head_dim)];
            let (out, later) = rest.split_at_mut(q.len());
            rest = later;
            jobs.push(AttentionJob { q, kv: cache, out });
        }
        backend.attention(self.shape, &mut jobs);
        drop(jobs);
        if self.gated {
            let gates = q_gate.chunks_exact(2 * head_dim).map(|q_gate| &q_gate[head_dim..]);
            for (out, gate) in out.chunks_exact_mut(head_dim).zip(gates) {
                out.iter_mut().zip(gate).for_each(|(o, g)| *o *= sigmoid(*g));
            }
        }
        backend.project(out, heads * head_dim, &mut [Projection { w: self.o.view(), out: y }]);
        add_to_rows(y, o_bias);
    }
}
