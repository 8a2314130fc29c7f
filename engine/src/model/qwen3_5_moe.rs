//! The family `qwen3_5_moe` (Qwen3.5 and 3.6 MoE, text tower; `qwen35moe` in GGUF): gated delta nets
//! with a gated full attention every few layers, and a Mixture of Experts with a shared expert in each.
//!
//! RMS norms are stored zero-centred, but the delta net's own norm is plain. The gate's probabilities
//! are always scaled to sum 1. Text positions are equal in all three sections of the rotary positions,
//! so that these are plain.
//! Sources: transformers `configuration_qwen3_5_moe.py`, `modeling_qwen3_5_moe.py`.

use super::blueprint::{self, AttentionPlan, Blueprint, Family, GgufFamily, Norms};
use super::config::{Defaults, Fields, ModelConfig};
use crate::backend::HeadOrder;
use crate::error::EngineError;

pub(super) const FAMILY: Family = Family {
    model_types: &["qwen3_5_moe", "qwen3_5_moe_text"],
    gguf: GgufFamily {
        architecture: "qwen35moe",
        hybrid: true,
        norm_topk: true,
        shared_expert: true,
    },
    read,
};

const DEFAULTS: Defaults = Defaults { partial_rotary_factor: 0.25, head_dim: Some(256) };

fn read(f: &Fields<'_>) -> Result<Blueprint, EngineError> {
    let (config, shape) = ModelConfig::read(f, FAMILY.model_types[0], &DEFAULTS)?;
    let bias = f.flag_or("attention_bias", false)?;
    let mixers = blueprint::read_mixers(f, config.layers)?;
    let shared = f.size("shared_expert_intermediate_size")?;
    Ok(Blueprint {
        norms: Norms::ZeroCentred,
        attention: AttentionPlan {
            shape,
            gated: true,
            qk_norm: true,
            qkv_bias: bias,
            o_bias: bias,
        },
        delta: Some(blueprint::read_delta(f, HeadOrder::Tiled)?),
        moe: blueprint::read_moe(f, config.hidden, true, Some(shared))?,
        mlp_intermediate: 0,
        layers: blueprint::experts_everywhere(mixers),
        config,
    })
}
