//! A gated feed-forward network that every row passes: a layer without experts, or the shared expert.
//!
//! out = down · (silu(gate · x) ⊙ (up · x)), computed as an expert that all rows chose.

use crate::backend::{Backend, ExpertJob, ExpertWeights};
use crate::tensor::Matrix;

/// Weights that stay in memory.
pub(crate) struct Mlp {
    /// [intermediate, hidden]
    pub(crate) gate: Matrix,
    /// [intermediate, hidden]
    pub(crate) up: Matrix,
    /// [hidden, intermediate]
    pub(crate) down: Matrix,
}

impl Mlp {
    pub(super) fn matrices(&self) -> [&Matrix; 3] {
        [&self.gate, &self.up, &self.down]
    }

    /// `out = mlp(h)` for all rows [n, hidden]; `rows` is a buffer.
    pub(super) fn forward<B: Backend>(
        &self,
        backend: &mut B,
        h: &[f32],
        out: &mut [f32],
        rows: &mut Vec<u32>,
    ) {
        let hidden = self.gate.shape().cols;
        rows.clear();
        rows.extend(0..(h.len() / hidden) as u32);
        let weights =
            ExpertWeights { gate: self.gate.view(), up: self.up.view(), down: self.down.view() };
        backend.experts(h, hidden, &mut [ExpertJob { weights, rows, out }]);
    }
}
