//! A GGUF file's keys as a config in the field names of transformers.
//!
//! The families read one form of config. Values that a key leaves open follow from shapes of tensors
//! or from what llama.cpp takes for that architecture. What would change the results and is not
//! supported (scaled rotary positions) is refused.
//! Sources: gguf-py `constants.py`; llama.cpp `src/models/qwen*moe.cpp`, `qwen3next.cpp`.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json, json};

use super::header::{Header, Value};
use super::malformed;
use crate::error::EngineError;
use crate::model::{GgufFamily, gguf_families};

/// Largest layer count that is believed.
const LAYERS_MAX: i64 = 1 << 12;

/// Shapes that complete what keys leave open.
pub(super) struct Sizes<'a> {
    /// Slowest dimension first, by GGUF name.
    pub(super) tensors: BTreeMap<&'a str, &'a [usize]>,
}

impl Header {
    /// A string of the metadata.
    pub(super) fn string(&self, key: &str) -> Option<&str> {
        match self.metadata.get(key) {
            Some(Value::String(text)) => Some(text),
            _ => None,
        }
    }

    /// An integer of the metadata.
    pub(super) fn integer(&self, key: &str) -> Option<i64> {
        match self.metadata.get(key) {
            Some(Value::Integer(n)) => Some(*n),
            _ => None,
        }
    }

    /// A number of the metadata.
    pub(super) fn float(&self, key: &str) -> Option<f64> {
        match self.metadata.get(key) {
            Some(Value::Float(x)) => Some(*x),
            Some(Value::Integer(n)) => Some(*n as f64),
            _ => None,
        }
    }
}

/// The config of a model. Errors name the key that is missing or wrong.
pub(super) fn of(header: &Header, sizes: &Sizes<'_>) -> Result<Json, EngineError> {
    let (model_type, family) = family(header)?;
    let keys = Keys { header, prefix: family.architecture };
    let layers = keys.layers()?;
    let heads = keys.size("attention.head_count")?;
    let hidden = keys.size("embedding_length")?;
    let head_dim = keys.size_or("attention.key_length", hidden / heads.max(1));
    let mut config = Map::new();
    let mut set = |name: &str, value: Json| config.insert(name.to_owned(), value);
    set("model_type", json!(model_type));
    set("num_hidden_layers", json!(layers));
    set("hidden_size", json!(hidden));
    set("num_attention_heads", json!(heads));
    set("num_key_value_heads", json!(keys.size_or("attention.head_count_kv", heads)));
    set("head_dim", json!(head_dim));
    set("max_position_embeddings", json!(keys.size("context_length")?));
    set("rms_norm_eps", keys.number("attention.layer_norm_rms_epsilon", None)?);
    set("rope_theta", keys.number("rope.freq_base", Some(10_000.0))?);
    keys.refuse_scaled_positions()?;
    set("partial_rotary_factor", json!(keys.rotary_factor(head_dim)?));
    set("hidden_act", json!("silu"));
    set("vocab_size", json!(keys.rows(sizes, "token_embd.weight")?));
    set("tie_word_embeddings", json!(!sizes.tensors.contains_key("output.weight")));
    set("num_experts", json!(keys.size("expert_count")?));
    set("num_experts_per_tok", json!(keys.size("expert_used_count")?));
    set("norm_topk_prob", json!(keys.flag("expert_weights_norm", family.norm_topk)));
    set("moe_intermediate_size", json!(keys.expert_width(sizes)?));
    set("attention_bias", json!(sizes.tensors.contains_key("blk.0.attn_q.bias")));
    set("qkv_bias", json!(sizes.tensors.contains_key("blk.0.attn_q.bias")));
    // Which layers have no experts shows in the tensors, whatever key says it.
    let has_gate = |l: &usize| sizes.tensors.contains_key(&*format!("blk.{l}.ffn_gate_inp.weight"));
    set("decoder_sparse_step", json!(1));
    set("mlp_only_layers", json!((0..layers).filter(|l| !has_gate(l)).collect::<Vec<_>>()));
    if let Some(width) = keys.optional_size("feed_forward_length") {
        set("intermediate_size", json!(width));
    }
    if family.shared_expert {
        set("shared_expert_intermediate_size", json!(keys.shared_width(sizes)?));
    }
    if family.hybrid {
        config.extend(keys.delta_net(layers)?);
    }
    Ok(Json::Object(config))
}

/// The family's name in configs, and what its keys leave open.
fn family(header: &Header) -> Result<(&'static str, &'static GgufFamily), EngineError> {
    let key = "general.architecture";
    let name = header
        .string(key)
        .ok_or_else(|| malformed(header, format!("key {key:?}: is missing or no string")))?;
    gguf_families().find(|(_, family)| family.architecture == name).ok_or_else(|| {
        let supported: Vec<_> = gguf_families().map(|(_, family)| family.architecture).collect();
        EngineError::UnsupportedArchitecture {
            path: header.file.path().to_owned(),
            architecture: name.to_owned(),
            supported: supported.join(", "),
        }
    })
}

/// The keys of one architecture.
struct Keys<'a> {
    header: &'a Header,
    prefix: &'static str,
}

impl Keys<'_> {
    fn key(&self, rest: &str) -> String {
        format!("{}.{rest}", self.prefix)
    }

    fn error(&self, rest: &str, what: &str) -> EngineError {
        malformed(self.header, format!("key {:?}: {what}", self.key(rest)))
    }

    /// A positive size.
    fn size(&self, rest: &str) -> Result<usize, EngineError> {
        match self.optional_size(rest) {
            Some(n) => Ok(n),
            None => Err(self.error(rest, "expected a positive number")),
        }
    }

    fn size_or(&self, rest: &str, default: usize) -> usize {
        self.optional_size(rest).unwrap_or(default)
    }

    /// A size, or the largest of a list of one a layer in which layers without it have 0.
    fn optional_size(&self, rest: &str) -> Option<usize> {
        let value = match self.header.metadata.get(&self.key(rest))? {
            Value::Integer(n) => *n,
            Value::Integers(list) => list.iter().copied().max()?,
            _ => return None,
        };
        usize::try_from(value).ok().filter(|n| *n > 0)
    }

    fn number(&self, rest: &str, default: Option<f64>) -> Result<Json, EngineError> {
        match self.header.float(&self.key(rest)).or(default) {
            Some(x) if x.is_finite() && x > 0.0 => Ok(json!(x)),
            _ => Err(self.error(rest, "expected a positive number")),
        }
    }

    fn flag(&self, rest: &str, default: bool) -> bool {
        match self.header.metadata.get(&self.key(rest)) {
            Some(Value::Bool(flag)) => *flag,
            _ => default,
        }
    }

    /// Layers without those of multi-token prediction, which `block_count` includes.
    fn layers(&self) -> Result<usize, EngineError> {
        let blocks = self.size("block_count")? as i64;
        let extra = self.header.integer(&self.key("nextn_predict_layers")).unwrap_or(0);
        let layers =
            blocks.checked_sub(extra).filter(|n| extra >= 0 && (1..=LAYERS_MAX).contains(n));
        let layers = layers.ok_or_else(|| {
            self.error("block_count", &format!("{blocks} less {extra} is no number of layers"))
        })?;
        Ok(layers as usize)
    }

    fn refuse_scaled_positions(&self) -> Result<(), EngineError> {
        match self.header.string(&self.key("rope.scaling.type")) {
            None | Some("none") => Ok(()),
            Some(other) => Err(self.error(
                "rope.scaling.type",
                &format!("scaled positions ({other}) are not supported; use the unscaled model"),
            )),
        }
    }

    /// The rotated part of a head, such that its product with the head is the exact whole number.
    fn rotary_factor(&self, head_dim: usize) -> Result<f64, EngineError> {
        let rotated = self.size_or("rope.dimension_count", head_dim);
        if rotated > head_dim {
            return Err(self.error("rope.dimension_count", "is more than a head has"));
        }
        let mut factor = rotated as f64 / head_dim as f64;
        while ((head_dim as f64 * factor) as usize) < rotated {
            factor = factor.next_up();
        }
        Ok(factor)
    }

    /// The slowest dimension of a tensor.
    fn rows(&self, sizes: &Sizes<'_>, tensor: &str) -> Result<usize, EngineError> {
        match sizes.tensors.get(tensor) {
            Some(shape) => Ok(shape[0]),
            None => Err(malformed(self.header, format!("has no tensor {tensor:?}"))),
        }
    }

    /// Width inside an expert: early files leave it to the tensors.
    fn expert_width(&self, sizes: &Sizes<'_>) -> Result<usize, EngineError> {
        if let Some(width) = self.optional_size("expert_feed_forward_length") {
            return Ok(width);
        }
        let down = sizes.tensors.iter().find(|(name, _)| name.ends_with(".ffn_down_exps.weight"));
        let width = down.and_then(|(_, shape)| shape.last().copied());
        width.ok_or_else(|| self.error("expert_feed_forward_length", "is missing"))
    }

    fn shared_width(&self, sizes: &Sizes<'_>) -> Result<usize, EngineError> {
        match self.optional_size("expert_shared_feed_forward_length") {
            Some(width) => Ok(width),
            None => {
                let up =
                    sizes.tensors.iter().find(|(name, _)| name.ends_with(".ffn_up_shexp.weight"));
                let rows = up.map(|(_, shape)| shape[0]);
                rows.ok_or_else(|| self.error("expert_shared_feed_forward_length", "is missing"))
            }
        }
    }

    /// Sizes of the delta nets, and which layers are attention.
    fn delta_net(&self, layers: usize) -> Result<Map<String, Json>, EngineError> {
        let value_heads = self.size("ssm.time_step_rank")?;
        let inner = self.size("ssm.inner_size")?;
        if !inner.is_multiple_of(value_heads) {
            return Err(self.error("ssm.inner_size", "is no multiple of ssm.time_step_rank"));
        }
        let mut config = Map::new();
        let mut set = |name: &str, value: Json| config.insert(name.to_owned(), value);
        set("linear_conv_kernel_dim", json!(self.size("ssm.conv_kernel")?));
        set("linear_key_head_dim", json!(self.size("ssm.state_size")?));
        set("linear_num_key_heads", json!(self.size("ssm.group_count")?));
        set("linear_num_value_heads", json!(value_heads));
        set("linear_value_head_dim", json!(inner / value_heads));
        set("layer_types", json!(self.layer_types(layers)?));
        Ok(config)
    }

    fn layer_types(&self, layers: usize) -> Result<Vec<&'static str>, EngineError> {
        let kind = |recurrent| if recurrent { "linear_attention" } else { "full_attention" };
        let listed = "attention.recurrent_layers";
        match self.header.metadata.get(&self.key(listed)) {
            Some(Value::Integers(list)) if list.len() >= layers => {
                Ok(list[..layers].iter().map(|n| kind(*n != 0)).collect())
            }
            Some(_) => {
                Err(self.error(listed, &format!("expected a value for each of {layers} layers")))
            }
            None => {
                let interval = self.size_or("full_attention_interval", 4);
                Ok((1..=layers).map(|i| kind(!i.is_multiple_of(interval))).collect())
            }
        }
    }
}
