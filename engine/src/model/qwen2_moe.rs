//! The family `qwen2_moe` (Qwen1.5-MoE-A2.7B, Qwen2-57B-A14B; `qwen2moe` in GGUF): full attention with
//! biases on Q, K and V, experts with a shared one; some layers may have no experts.
//!
//! The gate's probabilities are used as they are unless the file says otherwise. Norms are plain.
//! Sources: transformers `configuration_qwen2_moe.py`, `modeling_qwen2_moe.py`.

use super::blueprint::{self, AttentionPlan, Blueprint, Family, GgufFamily, Norms};
use super::config::{Defaults, Fields, ModelConfig};
use crate::error::EngineError;

pub(super) const FAMILY: Family = Family {
    model_types: &["qwen2_moe"],
    gguf: GgufFamily {
        architecture: "qwen2moe",
        hybrid: false,
        norm_topk: false,
        shared_expert: true,
    },
    read,
};

const DEFAULTS: Defaults = Defaults { partial_rotary_factor: 1.0, head_dim: None };

fn read(f: &Fields<'_>) -> Result<Blueprint, EngineError> {
    let (config, shape) = ModelConfig::read(f, FAMILY.model_types[0], &DEFAULTS)?;
    let qkv_bias = f.flag_or("qkv_bias", true)?;
    let mixers = blueprint::attention_everywhere(config.layers);
    let layers = blueprint::read_feed_forwards(f, mixers)?;
    let shared = f.size("shared_expert_intermediate_size")?;
    let normalise = f.flag_or("norm_topk_prob", false)?;
    Ok(Blueprint {
        norms: Norms::Plain,
        attention: AttentionPlan { shape, gated: false, qk_norm: false, qkv_bias, o_bias: false },
        delta: None,
        moe: blueprint::read_moe(f, config.hidden, normalise, Some(shared))?,
        mlp_intermediate: blueprint::read_mlp_width(f, &layers)?,
        layers,
        config,
    })
}
