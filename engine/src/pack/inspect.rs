//! What a model directory holds, without loading it.

use std::path::Path;

use super::Fallback;
use super::class::{Census, ClassTypes};
use super::plan::{fallbacks, joined};
use super::writer::digest;
use crate::error::EngineError;
use crate::expert::{ExpertLayout, ExpertStore};
use crate::model::{Blueprint, ModelConfig, ModelFiles};
use crate::tensor::MatrixShape;
use crate::weights::{Role, Weights, canonical_name};

/// A model's sizes and types.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Inspection {
    /// Name of the pack or folder.
    pub name: String,
    /// `pack`, `huggingface` or `gguf`.
    pub format: String,
    /// `model_type`.
    pub architecture: String,
    /// `demo`, `general` or `approved`; absent outside packs.
    pub quality: Option<String>,
    /// Layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Tokens in the vocabulary.
    pub vocabulary: usize,
    /// Longest sequence that the model was made for, tokens.
    pub context_tokens: usize,
    /// Experts in a layer.
    pub experts: usize,
    /// Experts that a token uses in a layer.
    pub experts_per_token: usize,
    /// Types of the dense tensors with their bytes, largest first.
    pub dense_types: Vec<(String, u64)>,
    /// Bytes of all dense tensors.
    pub dense_bytes: u64,
    /// Types by class of tensors, experts first.
    pub classes: Vec<ClassTypes>,
    /// Bytes of dense tensors that one token uses: all but an embedding that does not serve as the
    /// output matrix, of which it uses one row.
    pub dense_bytes_per_token: u64,
    /// Types of the experts' gate, up and down matrices, of all layers: `q4_k`, or `q4_k+q6_k`.
    pub expert_types: [String; 3],
    /// Bytes of the smallest expert.
    pub expert_bytes_min: u64,
    /// Bytes of the largest expert.
    pub expert_bytes: u64,
    /// Bytes of all experts.
    pub experts_bytes: u64,
    /// Bytes of experts that one token uses.
    pub expert_bytes_per_token: u64,
    /// Tensors of a pack whose rows are no whole number of blocks of the type that was asked for.
    pub fallbacks: Vec<Fallback>,
    /// The chat template, if there is one.
    pub chat_template: Option<String>,
    /// Files whose SHA-256 was checked, if asked for.
    pub files_verified: Option<usize>,
}

/// Opens a model and describes it; with `verify`, also checks the SHA-256 of every file of a
/// pack. Errors name the file that is missing, cut or changed.
pub fn inspect(dir: &Path, verify: bool) -> Result<Inspection, EngineError> {
    let weights = Weights::open(dir)?;
    let config = weights.side().config()?;
    let blueprint = Blueprint::of(&weights, &config)?;
    let model = blueprint.config();
    let store = weights.experts(&blueprint.expert_layers(), false)?;
    let files = ModelFiles::read(weights.side(), &config)?;
    let manifest = weights.manifest();

    let mut dense_types: Vec<(String, u64)> = Vec::new();
    for (_, dtype, shape) in weights.dense() {
        let (values, bytes) = dtype.block();
        let bytes = (shape.iter().product::<usize>() / values * bytes) as u64;
        match dense_types.iter_mut().find(|(name, _)| name == dtype.name()) {
            Some((_, sum)) => *sum += bytes,
            None => dense_types.push((dtype.name().to_owned(), bytes)),
        }
    }
    dense_types.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    let dense_bytes = dense_types.iter().map(|(_, bytes)| bytes).sum();
    let expert_sizes = || store.layouts().map(|layout| layout.bytes() as u64);
    Ok(Inspection {
        name: manifest.map_or_else(|| crate::model::folder_name(dir), |m| m.name.clone()),
        format: weights.format_name().to_owned(),
        architecture: model.architecture.clone(),
        quality: manifest.map(|m| m.quality.clone()),
        layers: model.layers,
        hidden: model.hidden,
        vocabulary: model.vocab,
        context_tokens: model.context,
        experts: blueprint.experts(),
        experts_per_token: blueprint.experts_per_token(),
        classes: Census::of(&weights, &store).classes(),
        dense_bytes,
        dense_bytes_per_token: dense_bytes - unread_embedding(&weights, model),
        dense_types,
        expert_types: expert_types(&store),
        expert_bytes_min: expert_sizes().min().unwrap_or(0),
        expert_bytes: expert_sizes().max().unwrap_or(0),
        experts_bytes: store.bytes(),
        expert_bytes_per_token: store
            .layouts()
            .map(|layout| (layout.bytes() * blueprint.experts_per_token()) as u64)
            .sum(),
        fallbacks: manifest.map(fallbacks).unwrap_or_default(),
        chat_template: files.chat_template,
        files_verified: verify.then(|| verify_files(dir, &weights)).transpose()?,
    })
}

/// Bytes of the embedding that a token leaves alone: all but its row, unless it is the output matrix.
fn unread_embedding(weights: &Weights, model: &ModelConfig) -> u64 {
    let bytes = weights.place(&canonical_name(None, Role::Embedding)).2 as u64;
    if model.tied { 0 } else { bytes - bytes / model.vocab as u64 }
}

/// The types of gate, up and down through all layers.
fn expert_types(store: &ExpertStore) -> [String; 3] {
    let of = |part: fn(&ExpertLayout) -> MatrixShape| {
        joined(store.layouts().map(|layout| part(layout).dtype.to_string()))
    };
    [of(|layout| layout.gate), of(|layout| layout.up), of(|layout| layout.down)]
}

fn verify_files(dir: &Path, weights: &Weights) -> Result<usize, EngineError> {
    let Some(manifest) = weights.manifest() else { return Ok(0) };
    for (name, expected) in &manifest.files {
        let path = dir.join(name);
        let found = digest(&path)?;
        if found != *expected {
            return Err(EngineError::Malformed {
                path,
                what: format!(
                    "its SHA-256 is {}, the manifest says {}; the file was changed or damaged",
                    found.sha256, expected.sha256
                ),
            });
        }
    }
    Ok(manifest.files.len())
}
