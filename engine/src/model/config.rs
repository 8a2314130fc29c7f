//! The sizes of a model, read from its config and checked before anything is allocated.

use std::path::Path;

use serde_json::Value;

use crate::backend::AttentionShape;
use crate::error::EngineError;

/// Largest value of any size in a config; real ones are far below, and products of a few of these
/// stay in range.
const SIZE_MAX: u64 = 1 << 22;

/// Sizes that the forward pass needs of every family. What a family adds stands in its own file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ModelConfig {
    /// `model_type` as clients see it: `qwen3_5_moe`.
    pub(crate) architecture: String,
    /// Width of the residual stream.
    pub(crate) hidden: usize,
    /// Number of tokens.
    pub(crate) vocab: usize,
    /// Number of layers.
    pub(crate) layers: usize,
    /// Longest sequence that the model was made for.
    pub(crate) context: usize,
    /// Added to the mean square before the root in every RMS norm.
    pub(crate) norm_eps: f32,
    /// Base of the rotary frequencies.
    pub(crate) rope_theta: f64,
    /// Rotated features of a head; even.
    pub(crate) rotary_dim: usize,
    /// The embedding serves as the output matrix.
    pub(crate) tied: bool,
}

/// What a family's config class has where a file says nothing.
///
/// Source: transformers 5.24, `configuration_qwen*_moe.py`; `default_theta` in `modeling_rope_utils.py`.
pub(super) struct Defaults {
    /// Rotated share of a head.
    pub(super) partial_rotary_factor: f64,
    /// Features of a head; `None`: hidden_size / num_attention_heads.
    pub(super) head_dim: Option<usize>,
}

/// Base of the rotary frequencies where a file says nothing.
const ROPE_THETA_DEFAULT: f64 = 10_000.0;
/// Added to the mean square in RMS norms where a file says nothing.
const NORM_EPS_DEFAULT: f64 = 1e-6;

impl ModelConfig {
    /// Reads and checks the sizes that every family has, and the shape of its attention.
    pub(super) fn read(
        f: &Fields<'_>,
        architecture: &str,
        defaults: &Defaults,
    ) -> Result<(Self, AttentionShape), EngineError> {
        let (heads, hidden) = (f.size("num_attention_heads")?, f.size("hidden_size")?);
        let head_dim = f.size_or("head_dim", defaults.head_dim.unwrap_or(hidden / heads))?;
        let kv_heads = f.size_or("num_key_value_heads", heads)?;
        if !heads.is_multiple_of(kv_heads) {
            return Err(f.error("num_key_value_heads", "does not divide num_attention_heads"));
        }
        if let Some(act) = f.get("hidden_act")
            && act != "silu"
        {
            return Err(f.error("hidden_act", &format!("expected \"silu\", got {act}")));
        }
        if f.flag_or("use_sliding_window", false)? {
            return Err(f.error("use_sliding_window", "expected false; windows are not supported"));
        }
        let config = ModelConfig {
            architecture: architecture.to_owned(),
            hidden,
            vocab: f.size("vocab_size")?,
            layers: f.size("num_hidden_layers")?,
            context: f.size("max_position_embeddings")?,
            norm_eps: f.number_or("rms_norm_eps", NORM_EPS_DEFAULT)? as f32,
            rope_theta: f.rope("rope_theta", ROPE_THETA_DEFAULT)?,
            rotary_dim: rotary_dim(f, head_dim, defaults.partial_rotary_factor)?,
            tied: f.tied()?,
        };
        Ok((config, AttentionShape { heads, kv_heads, head_dim }))
    }
}

/// How many features of a head are rotated. Scaled rotary positions are refused: a model that was
/// made for them would only seem to work without.
fn rotary_dim(f: &Fields<'_>, head_dim: usize, default: f64) -> Result<usize, EngineError> {
    for (section, kind) in
        [("rope_parameters", "rope_type"), ("rope_scaling", "rope_type"), ("rope_scaling", "type")]
    {
        let found = f.get(section).and_then(|s| s.get(kind));
        if let Some(kind) = found.filter(|k| *k != "default") {
            return Err(
                f.error(section, &format!("rotary positions of type {kind} are not supported"))
            );
        }
    }
    let name = "partial_rotary_factor";
    let factor = f.rope(name, default)?;
    let dim = (head_dim as f64 * factor) as usize;
    if factor > 1.0 || dim == 0 || !dim.is_multiple_of(2) {
        return Err(f.error(name, &format!("{factor} of {head_dim} is not an even part of a head")));
    }
    Ok(dim)
}

/// A config file's text section, with errors that name file and field.
pub(crate) struct Fields<'a> {
    path: &'a Path,
    whole: &'a Value,
    text: &'a Value,
}

impl<'a> Fields<'a> {
    /// The text section: `text_config` if the file nests one, else the whole.
    pub(crate) fn new(path: &'a Path, config: &'a Value) -> Self {
        Fields { path, whole: config, text: config.get("text_config").unwrap_or(config) }
    }

    /// The family's name; empty if the file has none.
    pub(crate) fn model_type(&self) -> &'a str {
        let named = self.text.get("model_type").or_else(|| self.whole.get("model_type"));
        named.and_then(Value::as_str).unwrap_or_default()
    }

    /// A value by name.
    pub(crate) fn get(&self, name: &str) -> Option<&'a Value> {
        self.text.get(name).filter(|v| !v.is_null())
    }

    /// A positive size.
    pub(crate) fn size(&self, name: &str) -> Result<usize, EngineError> {
        let value = self.get(name).ok_or_else(|| self.error(name, "is missing"))?;
        match value.as_u64() {
            Some(n) if (1..=SIZE_MAX).contains(&n) => Ok(n as usize),
            _ => {
                Err(self.error(name, &format!("expected a size from 1 to {SIZE_MAX}, got {value}")))
            }
        }
    }

    /// A size that may be absent.
    pub(crate) fn size_or(&self, name: &str, default: usize) -> Result<usize, EngineError> {
        if self.get(name).is_some() { self.size(name) } else { Ok(default) }
    }

    /// A finite positive number that may be absent.
    pub(crate) fn number_or(&self, name: &str, default: f64) -> Result<f64, EngineError> {
        self.get(name).map_or(Ok(default), |value| self.number(value, name))
    }

    /// A number of the rotary positions: in `rope_parameters`, or beside it in older files.
    pub(crate) fn rope(&self, name: &str, default: f64) -> Result<f64, EngineError> {
        let nested = self.get("rope_parameters").and_then(|p| p.get(name)).filter(|v| !v.is_null());
        nested.map_or_else(|| self.number_or(name, default), |value| self.number(value, name))
    }

    fn number(&self, value: &Value, name: &str) -> Result<f64, EngineError> {
        value
            .as_f64()
            .filter(|n| n.is_finite() && *n > 0.0)
            .ok_or_else(|| self.error(name, &format!("expected a positive number, got {value}")))
    }

    /// A boolean that may be absent.
    pub(crate) fn flag_or(&self, name: &str, default: bool) -> Result<bool, EngineError> {
        match self.get(name) {
            None => Ok(default),
            Some(Value::Bool(b)) => Ok(*b),
            Some(other) => Err(self.error(name, &format!("expected true or false, got {other}"))),
        }
    }

    /// Whether the embedding serves as the output matrix; a nested file says it at the top.
    pub(crate) fn tied(&self) -> Result<bool, EngineError> {
        let name = "tie_word_embeddings";
        Ok(self.flag_or(name, false)? || self.whole.get(name) == Some(&Value::Bool(true)))
    }

    /// A list of strings that may be absent.
    pub(crate) fn strings(&self, name: &str) -> Result<Option<Vec<&'a str>>, EngineError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let list = value.as_array().and_then(|a| a.iter().map(Value::as_str).collect());
        list.map(Some).ok_or_else(|| self.error(name, "expected a list of strings"))
    }

    /// A list of layer numbers, empty if absent.
    pub(crate) fn layer_numbers(&self, name: &str) -> Result<Vec<u64>, EngineError> {
        let Some(value) = self.get(name) else { return Ok(Vec::new()) };
        let list = value.as_array().and_then(|a| a.iter().map(Value::as_u64).collect());
        list.ok_or_else(|| self.error(name, "expected a list of layer numbers"))
    }

    /// An error about a field.
    pub(crate) fn error(&self, name: &str, what: &str) -> EngineError {
        EngineError::Malformed { path: self.path.to_owned(), what: format!("{name}: {what}") }
    }

    /// An error about a family that none of ours reads.
    pub(crate) fn unsupported(&self, supported: &[&str]) -> EngineError {
        EngineError::UnsupportedArchitecture {
            path: self.path.to_owned(),
            architecture: self.model_type().to_owned(),
            supported: supported.join(", "),
        }
    }
}
