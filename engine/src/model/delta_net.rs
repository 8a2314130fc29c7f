//! The gated delta net: a recurrent layer whose memory is one matrix a head.
//!
//! qkv passes a short causal convolution and SiLU; q and k are scaled to length 1; the state decays
//! by e^g, with g = −e^A · softplus(a + dt), and is corrected towards v with strength β = sigmoid(b);
//! out = Wout (RMSNorm(o) ⊙ silu(z)), the norm with plain weights and before the gate.
//! Prompts run through the same recurrence as single tokens, so that chunking changes no bit.
//! Source: transformers `Qwen3_5MoeGatedDeltaNet`; Yang et al. (arXiv 2412.06464).

use super::Step;
use super::ops::{Rows, l2_norm_in_place, rms_norm_in_place, sigmoid, sized, softplus};
use super::sequence::LayerState;
use crate::backend::{Backend, DeltaJob, DeltaShape, Projection, silu};
use crate::tensor::Matrix;

/// Added to Σx² before the root when q and k are scaled; a constant of the architecture.
const L2_EPS: f32 = 1e-6;

/// Weights of one layer. Channels of qkv are [Q | K | V], each head by head; value heads may be grouped
/// by key head or tiled, everywhere alike.
pub(crate) struct DeltaNet {
    pub(crate) shape: DeltaShape,
    /// [channels, hidden]
    pub(crate) qkv: Matrix,
    /// [value_heads · value_dim, hidden]
    pub(crate) z: Matrix,
    /// [value_heads, hidden]
    pub(crate) b: Matrix,
    /// [value_heads, hidden]
    pub(crate) a: Matrix,
    /// Convolution, oldest tap first: [width, channels].
    pub(crate) conv: Vec<f32>,
    /// −e^A, [value_heads]
    pub(crate) negative_rate: Vec<f32>,
    /// [value_heads]
    pub(crate) dt_bias: Vec<f32>,
    /// [value_dim]
    pub(crate) norm: Vec<f32>,
    /// [hidden, value_heads · value_dim]
    pub(crate) out: Matrix,
    pub(crate) norm_eps: f32,
}

/// What a sequence keeps of one layer.
#[derive(Clone)]
pub(crate) struct DeltaState {
    /// The last width − 1 inputs of the convolution, oldest first: [width − 1, channels].
    tail: Vec<f32>,
    /// [value_heads, key_dim, value_dim]
    memory: Vec<f32>,
}

impl DeltaState {
    /// What the layer remembers, both parts.
    pub(super) fn parts(&self) -> [&[f32]; 2] {
        [&self.tail, &self.memory]
    }

    /// The same, to write to.
    pub(super) fn parts_mut(&mut self) -> [&mut [f32]; 2] {
        [&mut self.tail, &mut self.memory]
    }

    /// Fills in what was left out when the state was noted.
    pub(super) fn set_memory(&mut self, memory: &[f32]) {
        self.memory = memory.to_vec();
    }
}

/// Buffers reused by all delta net layers.
#[derive(Default)]
pub(super) struct Buffers {
    qkv: Vec<f32>,
    z: Vec<f32>,
    b: Vec<f32>,
    a: Vec<f32>,
    window: Vec<f32>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    out: Vec<f32>,
}

/// Where a step's rows stop that begin at `from`: its next mark or its end.
fn stop(step: &Step<'_>, from: usize) -> usize {
    let next = step.marks.iter().map(|mark| mark.at).find(|&at| at > from);
    next.unwrap_or(step.tokens.len())
}

impl DeltaNet {
    pub(super) fn matrices(&self) -> Vec<&Matrix> {
        vec![&self.qkv, &self.z, &self.b, &self.a, &self.out]
    }

    fn channels(&self) -> usize {
        self.qkv.shape().rows
    }

    fn width(&self) -> usize {
        self.conv.len() / self.channels()
    }

    /// The state before any token.
    pub(super) fn new_state(&self) -> DeltaState {
        let DeltaShape { value_heads, key_dim, value_dim, .. } = self.shape;
        DeltaState {
            tail: vec![0.0; (self.width() - 1) * self.channels()],
            memory: vec![0.0; value_heads * key_dim * value_dim],
        }
    }

    /// `y = delta_net(h)` for all rows; advances the steps' states.
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
        let DeltaShape { key_heads, value_heads, key_dim, value_dim, .. } = self.shape;
        let (n, channels) = (rows.count(), self.channels());
        let (keys, values) = (key_heads * key_dim, value_heads * value_dim);
        let hidden = h.len() / n;
        let Buffers { qkv, z, b, a, window, q, k, v, out } = buffers;
        let (qkv, z) = (sized(qkv, n * channels), sized(z, n * values));
        let (b, a) = (sized(b, n * value_heads), sized(a, n * value_heads));
        backend.project(
            h,
            hidden,
            &mut [
                Projection { w: self.qkv.view(), out: qkv },
                Projection { w: self.z.view(), out: z },
                Projection { w: self.b.view(), out: b },
                Projection { w: self.a.view(), out: a },
            ],
        );
        for (i, step) in batch.iter_mut().enumerate() {
            let range = rows.starts[i] * channels..rows.starts[i + 1] * channels;
            self.convolve(&mut qkv[range], &mut step.sequence.delta(layer).tail, window);
            self.note_tails(step, window);
        }
        let (q, k, v) = (sized(q, n * keys), sized(k, n * keys), sized(v, n * values));
        for (t, row) in qkv.chunks_exact(channels).enumerate() {
            q[t * keys..(t + 1) * keys].copy_from_slice(&row[..keys]);
            k[t * keys..(t + 1) * keys].copy_from_slice(&row[keys..2 * keys]);
            v[t * values..(t + 1) * values].copy_from_slice(&row[2 * keys..]);
        }
        l2_norm_in_place(q, key_dim, L2_EPS, 1.0 / (key_dim as f32).sqrt());
        l2_norm_in_place(k, key_dim, L2_EPS, 1.0);
        for (i, (a, b)) in a.iter_mut().zip(b.iter_mut()).enumerate() {
            let head = i % value_heads;
            *a = (self.negative_rate[head] * softplus(*a + self.dt_bias[head])).exp(); // decay
            *b = sigmoid(*b); // β
        }

        let out = sized(out, n * values);
        // All rows of a sequence at once, or up to its next mark, where the state is copied.
        let mut done = vec![0; batch.len()];
        loop {
            let mut jobs = Vec::with_capacity(batch.len());
            let (mut rest, mut rest_at) = (&mut *out, 0);
            for (i, step) in batch.iter_mut().enumerate() {
                let (from, to) = (rows.starts[i] + done[i], rows.starts[i] + stop(step, done[i]));
                if from == to {
                    continue;
                }
                let range = |width: usize| from * width..to * width;
                let (_, later) = rest.split_at_mut(from * values - rest_at);
                let (out, later) = later.split_at_mut((to - from) * values);
                (rest, rest_at) = (later, to * values);
                jobs.push(DeltaJob {
                    q: &q[range(keys)],
                    k: &k[range(keys)],
                    v: &v[range(values)],
                    decay: &a[range(value_heads)],
                    beta: &b[range(value_heads)],
                    state: &mut step.sequence.delta(layer).memory,
                    out,
                });
            }
            if jobs.is_empty() {
                break;
            }
            backend.delta_rule(self.shape, &mut jobs);
            drop(jobs);
            for (done, step) in done.iter_mut().zip(batch.iter_mut()) {
                *done = stop(step, *done);
                let memory = &step.sequence.delta(layer).memory;
                let reached = step.marks.iter_mut().filter(|mark| mark.at == *done);
                reached.for_each(|mark| mark.note_memory(memory));
            }
        }
        rms_norm_in_place(out, &self.norm, self.norm_eps);
        out.iter_mut().zip(z).for_each(|(o, z)| *o *= silu(*z));
        backend.project(out, values, &mut [Projection { w: self.out.view(), out: y }]);
    }

    /// The last inputs of the convolution at every mark of a step, whose inputs lie in `window` behind
    /// those of the step before.
    fn note_tails(&self, step: &mut Step<'_>, window: &[f32]) {
        let (channels, before) = (self.channels(), step.sequence.position());
        for mark in step.marks.iter_mut() {
            let tail = &window[mark.at * channels..(mark.at + self.width() - 1) * channels];
            let state = DeltaState { tail: tail.to_vec(), memory: Vec::new() };
            mark.note_layer(before, LayerState::DeltaNet(state));
        }
    }

    /// Depthwise causal convolution and SiLU, in place over one sequence's new rows [n, channels].
    fn convolve(&self, rows: &mut [f32], tail: &mut [f32], window: &mut Vec<f32>) {
        let channels = self.channels();
        window.clear();
        window.extend_from_slice(tail);
        window.extend_from_slice(rows);
        for (t, row) in rows.chunks_exact_mut(channels).enumerate() {
            row.fill(0.0);
            for (tap, w) in self.conv.chunks_exact(channels).enumerate() {
                let input = &window[(t + tap) * channels..][..channels];
                for ((o, w), x) in row.iter_mut().zip(w).zip(input) {
                    *o += w * x;
                }
            }
            row.iter_mut().for_each(|o| *o = silu(*o));
        }
        let last = window.len() - tail.len();
        tail.copy_from_slice(&window[last..]);
    }
}
