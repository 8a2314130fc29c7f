//! A model's files, opened: dense tensors by name, experts by index, from a pack or a Hugging Face
//! directory.
//!
//! Model code asks for canonical names (`layers.3.self_attn.q_proj.weight`, Hugging Face's without its
//! prefix) and does not know which files answer. Shapes are checked against what the config implies
//! before anything is allocated.

mod huggingface;
pub(crate) mod manifest;
mod pack;
mod roles;
pub(crate) mod safetensors;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::error::EngineError;
use crate::expert::{ExpertStore, LayerExperts};
use crate::quant::dequantise_row;
use crate::tensor::{AlignedBytes, DType, Matrix, MatrixShape};

use manifest::Manifest;
pub(crate) use pack::CHECKSUMS;
pub(crate) use roles::{Form, Role, canonical_name};
use safetensors::{SafetensorsFile, TensorEntry};

/// Shapes that a model's config implies for the experts of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ExpertDims {
    /// Experts in a layer.
    pub(crate) count: usize,
    /// Width of the residual stream.
    pub(crate) hidden: usize,
    /// Width inside an expert.
    pub(crate) intermediate: usize,
}

/// An opened model directory.
pub(crate) struct Weights {
    dir: PathBuf,
    files: Vec<SafetensorsFile>,
    /// Canonical name to the tensor's file, entry, and type where the entry says only `U8`.
    tensors: BTreeMap<String, Tensor>,
    manifest: Option<Manifest>,
}

/// A tensor: where it lies and what its bytes mean.
#[derive(Clone, Debug)]
pub(crate) struct Tensor {
    file: usize,
    entry: TensorEntry,
    dtype: DType,
    /// Logical dimensions, slowest first.
    shape: Vec<usize>,
}

impl Weights {
    /// Opens a pack (a directory with `sluice.json`) or a Hugging Face directory.
    pub(crate) fn open(dir: &Path) -> Result<Self, EngineError> {
        if dir.join(manifest::FILE_NAME).exists() {
            pack::open(dir)
        } else {
            huggingface::open(dir)
        }
    }

    /// The pack's manifest; `None` for a Hugging Face directory.
    pub(crate) fn manifest(&self) -> Option<&Manifest> {
        self.manifest.as_ref()
    }

    /// How the values are stored that transformers and ggml store differently.
    pub(crate) fn form(&self) -> Form {
        match &self.manifest {
            Some(manifest) if manifest.source.kind == "gguf" => Form::Ggml,
            _ => Form::Transformers,
        }
    }

    /// Canonical names of all tensors but the experts' own, with type and logical shape.
    pub(crate) fn dense(&self) -> impl Iterator<Item = (&str, DType, &[usize])> {
        self.tensors
            .iter()
            .filter(|(name, _)| !is_expert(name))
            .map(|(name, t)| (name.as_str(), t.dtype, t.shape.as_slice()))
    }

    /// Whether there is a tensor of that name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// A matrix in its stored type. Errors if it is missing or has another shape.
    pub(crate) fn matrix(
        &self,
        name: &str,
        rows: usize,
        cols: usize,
    ) -> Result<Matrix, EngineError> {
        let tensor = self.tensor(name, &[rows, cols])?;
        let shape = MatrixShape { dtype: tensor.dtype, rows, cols };
        Ok(Matrix::new(shape, self.bytes(tensor)?))
    }

    /// A vector, or a small tensor as one, decoded to f32. Errors if it is missing or has another
    /// shape.
    pub(crate) fn vector(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, EngineError> {
        let tensor = self.tensor(name, shape)?;
        let mut out = vec![0.0; shape.iter().product()];
        dequantise_row(tensor.dtype, self.bytes(tensor)?.as_slice(), &mut out);
        Ok(out)
    }

    /// The experts of all layers that have some, checksums verified on read if the files carry them
    /// and `verify` is set.
    pub(crate) fn experts(
        &self,
        layers: &[Option<ExpertDims>],
        verify: bool,
    ) -> Result<ExpertStore, EngineError> {
        let one = |layer, dims| -> Result<LayerExperts, EngineError> {
            match &self.manifest {
                Some(manifest) => pack::layer_experts(self, manifest, layer, dims, verify),
                None => huggingface::layer_experts(self, layer, dims),
            }
        };
        let all = layers.iter().enumerate();
        let all = all.map(|(layer, dims)| dims.map(|dims| one(layer, dims)).transpose());
        Ok(ExpertStore::new(all.collect::<Result<_, _>>()?))
    }

    /// Bytes of a dense tensor as they lie in the file.
    fn bytes(&self, tensor: &Tensor) -> Result<AlignedBytes, EngineError> {
        let reader = &self.files[tensor.file].reader;
        let mut bytes = AlignedBytes::zeroed(tensor.entry.len);
        reader
            .read_exact_at(bytes.as_mut_slice(), tensor.entry.offset)
            .map_err(|source| EngineError::Read { path: reader.path().to_owned(), source })?;
        Ok(bytes)
    }

    fn tensor(&self, name: &str, shape: &[usize]) -> Result<&Tensor, EngineError> {
        let tensor = self.tensors.get(name).ok_or_else(|| {
            self.malformed(format!("has no tensor {name:?}; is the download complete?"))
        })?;
        let mut stored = tensor.shape.clone();
        // Convolutions are stored [channels, 1, width].
        stored.retain(|d| *d != 1);
        let wanted: Vec<usize> = shape.iter().copied().filter(|d| *d != 1).collect();
        if stored != wanted {
            return Err(self.malformed(format!(
                "tensor {name:?} has the shape {:?}, config.json implies {shape:?}",
                tensor.shape
            )));
        }
        let row = *shape.last().expect("a tensor has a dimension");
        let bytes = tensor
            .dtype
            .row_bytes(row)
            .and_then(|b| b.checked_mul(shape.iter().product::<usize>() / row));
        if bytes != Some(tensor.entry.len) {
            return Err(self.malformed(format!(
                "tensor {name:?} of type {} and shape {:?} does not take {} bytes",
                tensor.dtype, tensor.shape, tensor.entry.len
            )));
        }
        Ok(tensor)
    }

    fn malformed(&self, what: String) -> EngineError {
        EngineError::Malformed { path: self.dir.clone(), what }
    }
}

/// Whether a canonical name is that of an expert's own matrix (not the shared expert's).
fn is_expert(name: &str) -> bool {
    name.contains(".experts.")
}

/// Reads a JSON file of at most 64 MB.
pub(crate) fn read_json(path: &Path) -> Result<serde_json::Value, EngineError> {
    let bytes = read_small(path)?;
    serde_json::from_slice(&bytes).map_err(|e| EngineError::Malformed {
        path: path.to_owned(),
        what: format!("is not JSON: {e}"),
    })
}

/// Reads a file of at most 64 MB, larger than any tokenizer.
pub(crate) fn read_small(path: &Path) -> Result<Vec<u8>, EngineError> {
    const BYTES_MAX: u64 = 64 << 20;
    let read = |source| EngineError::Read { path: path.to_owned(), source };
    let len = std::fs::metadata(path).map_err(read)?.len();
    if len > BYTES_MAX {
        return Err(EngineError::Malformed {
            path: path.to_owned(),
            what: format!("is {len} bytes long; at most {BYTES_MAX} are read"),
        });
    }
    std::fs::read(path).map_err(read)
}
