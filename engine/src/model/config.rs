//! The sizes of a model, read from its config and checked before anything is allocated.

use std::path::Path;

use serde_json::Value;

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

/// A config file's text section, with errors that name file and field.
pub(crate) struct Fields<'a> {
    path: &'a Path,
    root: &'a Value,
}

impl<'a> Fields<'a> {
    /// The text section: `text_config` if the file nests one, else the whole.
    pub(crate) fn text(path: &'a Path, config: &'a Value) -> Self {
        Fields { path, root: config.get("text_config").unwrap_or(config) }
    }

    /// A value by name.
    pub(crate) fn get(&self, name: &str) -> Option<&'a Value> {
        self.root.get(name).filter(|v| !v.is_null())
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

    /// A finite positive number.
    pub(crate) fn number(&self, value: Option<&Value>, name: &str) -> Result<f64, EngineError> {
        let value = value.ok_or_else(|| self.error(name, "is missing"))?;
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

    /// A list of strings that may be absent.
    pub(crate) fn strings(&self, name: &str) -> Result<Option<Vec<&'a str>>, EngineError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let list = value.as_array().and_then(|a| a.iter().map(Value::as_str).collect());
        list.map(Some).ok_or_else(|| self.error(name, "expected a list of strings"))
    }

    /// An error about a field.
    pub(crate) fn error(&self, name: &str, what: &str) -> EngineError {
        EngineError::Malformed { path: self.path.to_owned(), what: format!("{name}: {what}") }
    }
}
