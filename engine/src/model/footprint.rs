//! What generations and passes take in memory, from a model's sizes.

use super::blueprint::{AttentionPlan, Blueprint, DeltaPlan, FeedForwardKind, MixerKind};
use crate::backend::{AttentionShape, DeltaShape};

/// Bytes of an f32.
const FLOAT: usize = 4;

/// Bytes beside the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Footprint {
    /// Keys and values of one token in all layers.
    pub(crate) kv_bytes_per_token: u64,
    /// One generation without keys and values: recurrent states, logits.
    pub(crate) sequence_bytes: u64,
    /// Buffers of a pass for each of its rows.
    pub(crate) scratch_bytes_per_row: u64,
}

impl Blueprint {
    /// Bytes beside the weights.
    pub(crate) fn footprint(&self) -> Footprint {
        let count = |kind| self.layers.iter().filter(|layer| layer.mixer == kind).count();
        let AttentionShape { kv_heads, head_dim, .. } = self.attention.shape;
        let kv = count(MixerKind::Attention) * 2 * kv_heads * head_dim;
        let state = count(MixerKind::DeltaNet) * self.delta.as_ref().map_or(0, state_floats);
        // Logits, and what the sampler sorts.
        let logits = 4 * self.config.vocab;
        Footprint {
            kv_bytes_per_token: (kv * FLOAT) as u64,
            sequence_bytes: ((state + logits) * FLOAT) as u64,
            scratch_bytes_per_row: (self.row_floats() * FLOAT) as u64,
        }
    }

    /// Floats of all buffers for one row: those of attention, delta nets and experts live side by side.
    fn row_floats(&self) -> usize {
        let hidden = self.config.hidden;
        let experts = self.moe.experts;
        // Residual stream, its norms, a half layer's output, and the input in eight bits.
        let stream = 5 * hidden + hidden / 2;
        let attention = attention_floats(&self.attention);
        let delta = self.delta.as_ref().map_or(0, delta_floats);
        // Each choice's result, what is inside it, and that in eight bits; scores of the gates.
        let choices = self.moe.chosen * (hidden + experts.intermediate * 3 / 2 + 8);
        let shared = hidden + self.moe.shared.unwrap_or(0) * 3 / 2;
        let mlp = match self.layers.iter().any(|l| l.feed_forward == FeedForwardKind::Mlp) {
            true => self.mlp_intermediate * 3 / 2,
            false => 0,
        };
        stream + attention + delta + choices + shared + mlp + 2 * experts.count
    }
}

fn attention_floats(plan: &AttentionPlan) -> usize {
    let AttentionShape { heads, kv_heads, head_dim } = plan.shape;
    let gated = if plan.gated { 2 } else { 1 };
    heads * head_dim * (gated + 3) + 4 * kv_heads * head_dim
}

fn channels(shape: &DeltaShape) -> usize {
    2 * shape.key_heads * shape.key_dim + shape.value_heads * shape.value_dim
}

fn delta_floats(plan: &DeltaPlan) -> usize {
    3 * channels(&plan.shape) + 4 * plan.shape.value_heads * plan.shape.value_dim
}

fn state_floats(plan: &DeltaPlan) -> usize {
    let DeltaShape { value_heads, key_dim, value_dim, .. } = plan.shape;
    value_heads * key_dim * value_dim + (plan.conv_width - 1) * channels(&plan.shape)
}
