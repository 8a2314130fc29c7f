//! What generations and passes take in memory, from a model's sizes.
//!
//! Sums are in 128 bits: a config's sizes are at most 2^22 and three of them are multiplied, so nothing
//! overflows on the way. What does not fit in 64 bits at the end is the most that does.

use super::blueprint::{AttentionPlan, Blueprint, DeltaPlan, FeedForwardKind, MixerKind};

/// Bytes of an f32.
const FLOAT: u128 = 4;

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
        let count = |kind| wide(self.layers.iter().filter(|layer| layer.mixer == kind).count());
        let shape = self.attention.shape;
        let kv = count(MixerKind::Attention) * 2 * wide(shape.kv_heads) * wide(shape.head_dim);
        let state = count(MixerKind::DeltaNet) * self.delta.as_ref().map_or(0, state_floats);
        // Logits, and what the sampler sorts.
        let logits = 4 * wide(self.config.vocab);
        let bytes = |floats: u128| u64::try_from(floats * FLOAT).unwrap_or(u64::MAX);
        Footprint {
            kv_bytes_per_token: bytes(kv),
            sequence_bytes: bytes(state + logits),
            scratch_bytes_per_row: bytes(self.row_floats()),
        }
    }

    /// Floats of all buffers for one row: those of attention, delta nets and experts live side by side.
    fn row_floats(&self) -> u128 {
        let hidden = wide(self.config.hidden);
        let experts = self.moe.experts;
        // Residual stream, its norms, a half layer's output, and the input in eight bits.
        let stream = 5 * hidden + hidden / 2;
        let attention = attention_floats(&self.attention);
        let delta = self.delta.as_ref().map_or(0, delta_floats);
        // Each choice's result, what is inside it, and that in eight bits; scores of the gates.
        let choices = wide(self.moe.chosen) * (hidden + wide(experts.intermediate) * 3 / 2 + 8);
        let shared = hidden + wide(self.moe.shared.unwrap_or(0)) * 3 / 2;
        let mlp = match self.layers.iter().any(|l| l.feed_forward == FeedForwardKind::Mlp) {
            true => wide(self.mlp_intermediate) * 3 / 2,
            false => 0,
        };
        stream + attention + delta + choices + shared + mlp + 2 * wide(experts.count)
    }
}

fn wide(size: usize) -> u128 {
    size as u128
}

fn attention_floats(plan: &AttentionPlan) -> u128 {
    let (heads, kv_heads) = (wide(plan.shape.heads), wide(plan.shape.kv_heads));
    let gated = if plan.gated { 2 } else { 1 };
    wide(plan.shape.head_dim) * (heads * (gated + 3) + 4 * kv_heads)
}

fn values(plan: &DeltaPlan) -> u128 {
    wide(plan.shape.value_heads) * wide(plan.shape.value_dim)
}

fn channels(plan: &DeltaPlan) -> u128 {
    2 * wide(plan.shape.key_heads) * wide(plan.shape.key_dim) + values(plan)
}

fn delta_floats(plan: &DeltaPlan) -> u128 {
    3 * channels(plan) + 4 * values(plan)
}

fn state_floats(plan: &DeltaPlan) -> u128 {
    values(plan) * wide(plan.shape.key_dim) + (wide(plan.conv_width) - 1) * channels(plan)
}
