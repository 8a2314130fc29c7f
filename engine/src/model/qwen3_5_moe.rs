//! The family `qwen3_5_moe` (Qwen3.5 and 3.6 MoE, text): gated delta nets with a gated full attention
//! every few layers, and a Mixture of Experts with a shared expert in each.
//!
//! RMS norms are stored zero-centred (apply 1 + w), but the delta net's own norm is plain.
//! Sources: transformers `configuration_qwen3_5_moe.py`, `modeling_qwen3_5_moe.py`.

use std::path::Path;

use serde_json::Value;

use super::attention::Attention;
use super::config::{Fields, ModelConfig};
use super::delta_net::DeltaNet;
use super::moe::{Moe, SharedExpert};
use super::{Layer, Mixer};
use crate::backend::{AttentionShape, DeltaShape};
use crate::error::EngineError;
use crate::weights::{ExpertDims, Weights};

/// `model_type`s of this family.
pub(super) const MODEL_TYPES: [&str; 2] = ["qwen3_5_moe", "qwen3_5_moe_text"];

/// Sizes of the whole family, the shared ones included.
pub(crate) struct Qwen35Moe {
    config: ModelConfig,
    experts: ExpertDims,
    attention: AttentionShape,
    delta: DeltaShape,
    conv_width: usize,
    chosen: usize,
    shared_intermediate: usize,
    /// True for layers of full attention.
    full: Vec<bool>,
}

impl Qwen35Moe {
    /// Reads and checks `config.json`, nested or flat.
    pub(super) fn read(path: &Path, config: &Value) -> Result<Self, EngineError> {
        let f = Fields::text(path, config);
        let layers = f.size("num_hidden_layers")?;
        let heads = f.size("num_attention_heads")?;
        let hidden = f.size("hidden_size")?;
        let head_dim = f.size_or("head_dim", hidden / heads)?;
        let attention =
            AttentionShape { heads, kv_heads: f.size("num_key_value_heads")?, head_dim };
        let delta = DeltaShape {
            key_heads: f.size("linear_num_key_heads")?,
            value_heads: f.size("linear_num_value_heads")?,
            key_dim: f.size("linear_key_head_dim")?,
            value_dim: f.size("linear_value_head_dim")?,
        };
        let family = Qwen35Moe {
            config: ModelConfig {
                architecture: MODEL_TYPES[0].to_owned(),
                hidden,
                vocab: f.size("vocab_size")?,
                layers,
                context: f.size("max_position_embeddings")?,
                norm_eps: f.number(f.get("rms_norm_eps"), "rms_norm_eps")? as f32,
                rope_theta: rope_theta(&f)?,
                rotary_dim: rotary_dim(&f, head_dim)?,
                // A nested config says it at the top.
                tied: f.flag_or("tie_word_embeddings", false)?
                    || config.get("tie_word_embeddings") == Some(&Value::Bool(true)),
            },
            experts: ExpertDims {
                count: f.size("num_experts")?,
                hidden,
                intermediate: f.size("moe_intermediate_size")?,
            },
            attention,
            delta,
            conv_width: f.size("linear_conv_kernel_dim")?,
            chosen: f.size("num_experts_per_tok")?,
            shared_intermediate: f.size("shared_expert_intermediate_size")?,
            full: layer_kinds(&f, layers)?,
        };
        family.check(&f)?;
        Ok(family)
    }

    fn check(&self, f: &Fields<'_>) -> Result<(), EngineError> {
        let AttentionShape { heads, kv_heads, .. } = self.attention;
        if heads % kv_heads != 0 {
            return Err(f.error("num_key_value_heads", "does not divide num_attention_heads"));
        }
        if !self.delta.value_heads.is_multiple_of(self.delta.key_heads) {
            return Err(f.error("linear_num_key_heads", "does not divide linear_num_value_heads"));
        }
        if self.chosen > self.experts.count {
            return Err(f.error("num_experts_per_tok", "is more than num_experts"));
        }
        if let Some(act) = f.get("hidden_act")
            && act != "silu"
        {
            return Err(f.error("hidden_act", &format!("expected \"silu\", got {act}")));
        }
        Ok(())
    }

    /// Sizes that every family has.
    pub(crate) fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Shapes of the experts.
    pub(crate) fn experts(&self) -> ExpertDims {
        self.experts
    }

    /// Experts that a token uses in a layer.
    pub(crate) fn experts_per_token(&self) -> usize {
        self.chosen
    }

    /// Loads one layer's weights that stay in memory.
    pub(super) fn layer(&self, w: &Weights, index: usize) -> Result<Layer, EngineError> {
        let hidden = self.config.hidden;
        let name = |rest: &str| format!("layers.{index}.{rest}");
        let input_norm = centred(w.vector(&name("input_layernorm.weight"), &[hidden])?);
        let post_norm = centred(w.vector(&name("post_attention_layernorm.weight"), &[hidden])?);
        let mixer = if self.full[index] {
            Mixer::Attention(self.attention(w, &name)?)
        } else {
            Mixer::DeltaNet(self.delta_net(w, &name)?)
        };
        Ok(Layer::new(input_norm, mixer, post_norm, self.moe(w, &name)?))
    }

    fn attention(
        &self,
        w: &Weights,
        name: &impl Fn(&str) -> String,
    ) -> Result<Attention, EngineError> {
        let hidden = self.config.hidden;
        let AttentionShape { heads, kv_heads, head_dim } = self.attention;
        let matrix = |rest: &str, rows, cols| w.matrix(&name(rest), rows, cols);
        Ok(Attention {
            shape: self.attention,
            q: matrix("self_attn.q_proj.weight", heads * 2 * head_dim, hidden)?,
            k: matrix("self_attn.k_proj.weight", kv_heads * head_dim, hidden)?,
            v: matrix("self_attn.v_proj.weight", kv_heads * head_dim, hidden)?,
            o: matrix("self_attn.o_proj.weight", hidden, heads * head_dim)?,
            q_norm: centred(w.vector(&name("self_attn.q_norm.weight"), &[head_dim])?),
            k_norm: centred(w.vector(&name("self_attn.k_norm.weight"), &[head_dim])?),
            norm_eps: self.config.norm_eps,
        })
    }

    fn delta_net(
        &self,
        w: &Weights,
        name: &impl Fn(&str) -> String,
    ) -> Result<DeltaNet, EngineError> {
        let hidden = self.config.hidden;
        let DeltaShape { key_heads, value_heads, key_dim, value_dim } = self.delta;
        let values = value_heads * value_dim;
        let channels = 2 * key_heads * key_dim + values;
        let matrix = |rest: &str, rows, cols| w.matrix(&name(rest), rows, cols);
        let rate = w.vector(&name("linear_attn.A_log"), &[value_heads])?;
        let conv = w.vector(&name("linear_attn.conv1d.weight"), &[channels, self.conv_width])?;
        Ok(DeltaNet {
            shape: self.delta,
            qkv: matrix("linear_attn.in_proj_qkv.weight", channels, hidden)?,
            z: matrix("linear_attn.in_proj_z.weight", values, hidden)?,
            b: matrix("linear_attn.in_proj_b.weight", value_heads, hidden)?,
            a: matrix("linear_attn.in_proj_a.weight", value_heads, hidden)?,
            conv: transposed(&conv, channels, self.conv_width),
            negative_rate: rate.iter().map(|a| -a.exp()).collect(),
            dt_bias: w.vector(&name("linear_attn.dt_bias"), &[value_heads])?,
            norm: w.vector(&name("linear_attn.norm.weight"), &[value_dim])?,
            out: matrix("linear_attn.out_proj.weight", hidden, values)?,
            norm_eps: self.config.norm_eps,
        })
    }

    fn moe(&self, w: &Weights, name: &impl Fn(&str) -> String) -> Result<Moe, EngineError> {
        let (hidden, inner) = (self.config.hidden, self.shared_intermediate);
        let matrix = |rest: &str, rows, cols| w.matrix(&name(rest), rows, cols);
        Ok(Moe {
            gate: matrix("mlp.gate.weight", self.experts.count, hidden)?,
            chosen: self.chosen,
            normalise: true,
            shared: Some(SharedExpert {
                gate: matrix("mlp.shared_expert.gate_proj.weight", inner, hidden)?,
                up: matrix("mlp.shared_expert.up_proj.weight", inner, hidden)?,
                down: matrix("mlp.shared_expert.down_proj.weight", hidden, inner)?,
                scale: matrix("mlp.shared_expert_gate.weight", 1, hidden)?,
            }),
        })
    }
}

/// Turns a zero-centred norm weight into a plain one.
pub(super) fn centred(mut weight: Vec<f32>) -> Vec<f32> {
    weight.iter_mut().for_each(|w| *w += 1.0);
    weight
}

/// [channels, width] to [width, channels], so that all channels of a tap lie together.
fn transposed(conv: &[f32], channels: usize, width: usize) -> Vec<f32> {
    (0..width).flat_map(|tap| (0..channels).map(move |c| conv[c * width + tap])).collect()
}

fn rope_theta(f: &Fields<'_>) -> Result<f64, EngineError> {
    let nested = f.get("rope_parameters").and_then(|p| p.get("rope_theta"));
    f.number(nested.or_else(|| f.get("rope_theta")), "rope_theta")
}

fn rotary_dim(f: &Fields<'_>, head_dim: usize) -> Result<usize, EngineError> {
    let name = "partial_rotary_factor";
    let nested = f.get("rope_parameters").and_then(|p| p.get(name));
    let factor = match nested.or_else(|| f.get(name)) {
        None => 1.0,
        value => f.number(value, name)?,
    };
    let dim = (head_dim as f64 * factor) as usize;
    if factor > 1.0 || dim == 0 || !dim.is_multiple_of(2) {
        return Err(f.error(name, &format!("{factor} of {head_dim} is not an even part of a head")));
    }
    Ok(dim)
}

/// Which layers are full attention: `layer_types`, else every `full_attention_interval`-th.
fn layer_kinds(f: &Fields<'_>, layers: usize) -> Result<Vec<bool>, EngineError> {
    let Some(kinds) = f.strings("layer_types")? else {
        let interval = f.size_or("full_attention_interval", 4)?;
        return Ok((1..=layers).map(|i| i.is_multiple_of(interval)).collect());
    };
    if kinds.len() != layers {
        return Err(f.error("layer_types", &format!("lists {} of {layers} layers", kinds.len())));
    }
    kinds
        .into_iter()
        .map(|kind| match kind {
            "full_attention" => Ok(true),
            "linear_attention" => Ok(false),
            other => Err(f.error("layer_types", &format!("{other:?} is not a known kind"))),
        })
        .collect()
}
