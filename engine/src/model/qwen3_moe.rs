//! The family `qwen3_moe` (Qwen3 30B-A3B, 235B-A22B, Qwen3-Coder; `qwen3moe` in GGUF): full attention
//! with normalised heads in every layer, experts without a shared one.
//!
//! Whether the gate's probabilities are scaled to sum 1 stands in the file (published models say yes,
//! the config class no). Norms are plain.
//! Sources: transformers `configuration_qwen3_moe.py`, `modeling_qwen3_moe.py`.

use super::blueprint::{self, AttentionPlan, Blueprint, Family, GgufFamily, Norms};
use super::config::{Defaults, Fields, ModelConfig};
use crate::error::EngineError;

pub(super) const FAMILY: Family = Family {
    model_types: &["qwen3_moe"],
    gguf: GgufFamily {
        architecture: "qwen3moe",
        hybrid: false,
        norm_topk: true,
        shared_expert: false,
    },
    read,
};

const DEFAULTS: Defaults = Defaults { partial_rotary_factor: 1.0, head_dim: None };

fn read(f: &Fields<'_>) -> Result<Blueprint, EngineError> {
    let (config, shape) = ModelConfig::read(f, FAMILY.model_types[0], &DEFAULTS)?;
    let bias = f.flag_or("attention_bias", false)?;
    let mixers = blueprint::attention_everywhere(config.layers);
    let layers = blueprint::read_feed_forwards(f, mixers)?;
    let normalise = f.flag_or("norm_topk_prob", false)?;
    Ok(Blueprint {
        norms: Norms::Plain,
        attention: AttentionPlan {
            shape,
            gated: false,
            qk_norm: true,
            qkv_bias: bias,
            o_bias: bias,
        },
        delta: None,
        moe: blueprint::read_moe(f, config.hidden, normalise, None)?,
        mlp_intermediate: blueprint::read_mlp_width(f, &layers)?,
        layers,
        config,
    })
}
