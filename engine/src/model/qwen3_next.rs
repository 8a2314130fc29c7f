//! The family `qwen3_next` (Qwen3-Next 80B-A3B, Qwen3-Coder-Next; `qwen3next` in GGUF): the layers of
//! `qwen3_5_moe`, with some that may have no experts.
//!
//! Published files store the delta net's q, k, v and z in one matrix and b and a in another, key head
//! by key head; the loader takes them apart. Norms are zero-centred as in `qwen3_5_moe`.
//! Sources: transformers `configuration_qwen3_next.py`, `modeling_qwen3_next.py`.

use super::blueprint::{self, AttentionPlan, Blueprint, Family, GgufFamily, Norms};
use super::config::{Defaults, Fields, ModelConfig};
use crate::backend::HeadOrder;
use crate::error::EngineError;

pub(super) const FAMILY: Family = Family {
    model_types: &["qwen3_next"],
    gguf: GgufFamily {
        architecture: "qwen3next",
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
    let layers = blueprint::read_feed_forwards(f, blueprint::read_mixers(f, config.layers)?)?;
    let shared = f.size("shared_expert_intermediate_size")?;
    let normalise = f.flag_or("norm_topk_prob", true)?;
    Ok(Blueprint {
        norms: Norms::ZeroCentred,
        attention: AttentionPlan {
            shape,
            gated: true,
            qk_norm: true,
            qkv_bias: bias,
            o_bias: bias,
        },
        delta: Some(blueprint::read_delta(f, HeadOrder::Grouped)?),
        moe: blueprint::read_moe(f, config.hidden, normalise, Some(shared))?,
        mlp_intermediate: blueprint::read_mlp_width(f, &layers)?,
        layers,
        config,
    })
}
