//! `sluice.json`: what a pack says of itself.
//!
//! The weights themselves are valid safetensors files that any reader opens; the manifest adds what
//! those cannot say: the quantised type and logical shape behind bytes stored as U8, digests, quality.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Form, read_small};
use crate::error::EngineError;
use crate::tensor::DType;

/// Name of the manifest in a pack.
pub(crate) const FILE_NAME: &str = "sluice.json";
/// The format version that this engine writes and reads.
pub(crate) const VERSION: u32 = 1;
/// A pack's manifest, version 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    /// Always `sluice-pack`.
    pub(crate) format: String,
    /// Format version.
    pub(crate) version: u32,
    /// Name that clients see.
    pub(crate) name: String,
    /// `demo`, `general` or `approved`: how far answers can be trusted, as the packer says.
    pub(crate) quality: String,
    /// `model_type` of the source's config.
    pub(crate) architecture: String,
    /// What it was made from.
    pub(crate) source: Source,
    /// Every other file of the pack.
    pub(crate) files: BTreeMap<String, FileEntry>,
    /// Dense tensors by canonical name.
    pub(crate) dense: BTreeMap<String, TensorSpec>,
    /// Experts, one entry a layer that has them.
    pub(crate) experts: Vec<LayerSpec>,
}

/// Where a pack came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Source {
    /// `huggingface` or `gguf`.
    pub(crate) kind: String,
    /// Name of the source's folder or file.
    pub(crate) name: String,
    /// Type that was asked for the experts, or the source's own types.
    pub(crate) experts: String,
    /// Type that was asked for the dense matrices, or the source's own types.
    pub(crate) dense: String,
    /// Types that were asked for single classes of dense matrices, by the class's name; `auto`: the
    /// source's own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) classes: BTreeMap<String, String>,
}

/// Length and digest of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FileEntry {
    /// Bytes.
    pub(crate) bytes: u64,
    /// SHA-256, hexadecimal.
    pub(crate) sha256: String,
}

/// Type and logical shape of a tensor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TensorSpec {
    /// GGUF name of the type.
    #[serde(rename = "type")]
    pub(crate) dtype: String,
    /// Dimensions, slowest first.
    pub(crate) shape: Vec<usize>,
}

/// The experts of one layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LayerSpec {
    /// Layer index.
    pub(crate) layer: usize,
    /// File that holds them.
    pub(crate) file: String,
    /// Number of experts.
    pub(crate) count: usize,
    /// Each expert's gate matrix.
    pub(crate) gate: TensorSpec,
    /// Each expert's up matrix.
    pub(crate) up: TensorSpec,
    /// Each expert's down matrix.
    pub(crate) down: TensorSpec,
}

impl Manifest {
    /// Reads and checks the manifest of a pack.
    pub(crate) fn read(dir: &Path) -> Result<Self, EngineError> {
        let path = dir.join(FILE_NAME);
        let bytes = read_small(&path)?;
        let malformed = |what| EngineError::Malformed { path: path.clone(), what };
        // The version first: a later format may have other fields.
        #[derive(Deserialize)]
        struct Head {
            format: String,
            version: u32,
        }
        let head: Head = serde_json::from_slice(&bytes)
            .map_err(|e| malformed(format!("is not a pack's manifest: {e}")))?;
        if head.format != "sluice-pack" || head.version != VERSION {
            return Err(malformed(format!(
                "has the format {:?} version {}; this version reads \"sluice-pack\" version \
                 {VERSION}; pack the model again or update sluice",
                head.format, head.version
            )));
        }
        serde_json::from_slice(&bytes).map_err(|e| malformed(e.to_string()))
    }

    /// In which form the values are: packing changes types and never values.
    pub(crate) fn form(&self) -> Form {
        if self.source.kind == "gguf" { Form::Ggml } else { Form::Transformers }
    }
}

impl TensorSpec {
    /// Parses the type; the error says what and which types there are.
    pub(crate) fn dtype(&self, name: &str) -> Result<DType, String> {
        DType::from_name(&self.dtype).ok_or_else(|| {
            let known: Vec<_> = DType::ALL.iter().map(|t| t.name()).collect();
            format!(
                "tensor {name:?} has the type {:?}; this version reads {}",
                self.dtype,
                known.join(", ")
            )
        })
    }
}
