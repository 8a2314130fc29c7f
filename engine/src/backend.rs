//! What computes: one set of operations, a readable implementation and a fast one.
//!
//! [`Reference`] is the oracle: f64 sums over decoded weights, one thread. [`Cpu`] works on quantised
//! blocks on all threads. Both give the same bits for a row whatever else is in the batch: a sum's
//! order depends on nothing but its own length.
//! Not here: anything that costs little (rotary positions, gates' top-k, residual sums): those are
//! plain functions in `model`.

mod attend;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod cpu;
mod kernels;
pub(crate) mod pool;
mod reference;

pub(crate) use cpu::Cpu;
pub(crate) use reference::Reference;

use crate::kv_cache::KvCache;
use crate::tensor::MatrixRef;

/// Operations that are worth more than one thread or a second implementation.
///
/// Slices are row-major [rows, features]; the number of rows follows from the lengths. Panics if
/// lengths disagree (caller bug).
pub(crate) trait Backend: Send {
    /// Name for people: `cpu (avx2, 2 threads)`.
    fn name(&self) -> String;

    /// Multiplies the same rows `x` [n, cols] by several matrices: `out[t, r] = Σ_c w[r, c] · x[t, c]`.
    fn project(&mut self, x: &[f32], cols: usize, outputs: &mut [Projection<'_>]);

    /// Runs gated expert networks: `out = down · (silu(gate · x) ⊙ (up · x))` for each job's rows of
    /// `x` [n, cols].
    fn experts(&mut self, x: &[f32], cols: usize, jobs: &mut [ExpertJob<'_>]);

    /// Causal attention of new rows over all keys up to their own position, one job per sequence.
    fn attention(&mut self, shape: AttentionShape, jobs: &mut [AttentionJob<'_>]);

    /// The gated delta rule over new rows in order, one job per sequence; updates the states.
    fn delta_rule(&mut self, shape: DeltaShape, jobs: &mut [DeltaJob<'_>]);
}

/// One matrix and its result.
pub(crate) struct Projection<'a> {
    /// Weights [rows, cols].
    pub(crate) w: MatrixRef<'a>,
    /// Result [n, rows].
    pub(crate) out: &'a mut [f32],
}

/// One expert's three matrices.
#[derive(Clone, Copy)]
pub(crate) struct ExpertWeights<'a> {
    /// [intermediate, hidden]
    pub(crate) gate: MatrixRef<'a>,
    /// [intermediate, hidden]
    pub(crate) up: MatrixRef<'a>,
    /// [hidden, intermediate]
    pub(crate) down: MatrixRef<'a>,
}

/// One expert and the rows that chose it.
pub(crate) struct ExpertJob<'a> {
    /// The expert.
    pub(crate) weights: ExpertWeights<'a>,
    /// Rows of `x` to read.
    pub(crate) rows: &'a [u32],
    /// Result [rows.len(), hidden], unweighted.
    pub(crate) out: &'a mut [f32],
}

/// Sizes of an attention layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AttentionShape {
    /// Query heads.
    pub(crate) heads: usize,
    /// Key and value heads; each serves `heads / kv_heads` query heads.
    pub(crate) kv_heads: usize,
    /// Features of a head; scores are scaled by its inverse square root.
    pub(crate) head_dim: usize,
}

/// New rows of one sequence and all its keys and values.
pub(crate) struct AttentionJob<'a> {
    /// Queries [n, heads, head_dim], normalised and rotated.
    pub(crate) q: &'a [f32],
    /// Keys and values, the new rows' own included at the end.
    pub(crate) kv: &'a KvCache,
    /// Result [n, heads, head_dim].
    pub(crate) out: &'a mut [f32],
}

/// Sizes of a gated delta net layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DeltaShape {
    /// Key (and query) heads.
    pub(crate) key_heads: usize,
    /// Value heads; see [`DeltaShape::key_head`].
    pub(crate) value_heads: usize,
    /// Features of a key head.
    pub(crate) key_dim: usize,
    /// Features of a value head.
    pub(crate) value_dim: usize,
    /// Which key head serves which value heads.
    pub(crate) order: HeadOrder,
}

/// Order of the value heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeadOrder {
    /// Those of one key head lie together.
    Grouped,
    /// Those of one key head are `key_heads` apart.
    Tiled,
}

impl DeltaShape {
    /// The key head that a value head uses.
    pub(crate) fn key_head(self, value_head: usize) -> usize {
        match self.order {
            HeadOrder::Grouped => value_head / (self.value_heads / self.key_heads),
            HeadOrder::Tiled => value_head % self.key_heads,
        }
    }
}

/// New rows of one sequence and its state.
pub(crate) struct DeltaJob<'a> {
    /// Queries [n, key_heads, key_dim], normalised and scaled.
    pub(crate) q: &'a [f32],
    /// Keys [n, key_heads, key_dim], normalised.
    pub(crate) k: &'a [f32],
    /// Values [n, value_heads, value_dim].
    pub(crate) v: &'a [f32],
    /// How much of the state remains, e^g, [n, value_heads].
    pub(crate) decay: &'a [f32],
    /// How strongly the new value is written, [n, value_heads].
    pub(crate) beta: &'a [f32],
    /// State [value_heads, key_dim, value_dim].
    pub(crate) state: &'a mut [f32],
    /// Result [n, value_heads, value_dim].
    pub(crate) out: &'a mut [f32],
}

/// `x · sigmoid(x)`.
#[inline(always)]
pub(crate) fn silu(x: f32) -> f32 {
    x / (1.0 + (-x).exp())
}
