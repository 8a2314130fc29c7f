//! A model's files, opened: dense tensors by name, experts by index, from a pack, a Hugging Face
//! directory or GGUF files.
//!
//! Model code asks for canonical names (`layers.3.self_attn.q_proj.weight`, Hugging Face's without its
//! prefix: see [`roles`]) and does not know which files answer. What the formats store
//! differently is named by [`Form`]. Shapes are checked against what the config implies before
//! anything is allocated. What stands beside the weights is in [`SideFiles`].

mod experts;
mod gguf;
mod huggingface;
pub(crate) mod manifest;
mod pack;
mod roles;
pub(crate) mod safetensors;
pub(crate) mod side_files;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::EngineError;
use crate::expert::{ExpertStore, LayerExperts};
use crate::io::ReadAt;
use crate::quant::{dequantise_row, is_finite};
use crate::tensor::{AlignedBytes, DType, Matrix, MatrixShape};

#[cfg(test)]
pub(crate) use gguf::testing as gguf_testing;
use manifest::Manifest;
pub(crate) use pack::CHECKSUMS;
pub(crate) use roles::{Form, Role, canonical_name};
use safetensors::SafetensorsFile;
pub(crate) use side_files::SideFiles;

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

/// An opened model.
pub(crate) struct Weights {
    /// The directory or file that was opened.
    origin: PathBuf,
    files: Vec<Arc<dyn ReadAt>>,
    /// By canonical name; experts only where they are not a pack's.
    tensors: BTreeMap<String, Tensor>,
    format: Format,
    form: Form,
    side: SideFiles,
}

/// What kind of files a model lies in.
enum Format {
    Pack { manifest: Box<Manifest>, files: Vec<SafetensorsFile> },
    HuggingFace,
    Gguf,
}

/// A tensor: where it lies and what its bytes mean.
#[derive(Clone, Debug)]
pub(crate) struct Tensor {
    /// Index into the model's files.
    file: usize,
    /// First byte in that file.
    offset: u64,
    /// Bytes.
    len: usize,
    dtype: DType,
    /// Logical dimensions, slowest first.
    shape: Vec<usize>,
}

impl Weights {
    /// Opens a pack (a directory with `sluice.json`), a Hugging Face directory, a GGUF file (any one
    /// of a split model) or a directory with the GGUF files of one model.
    pub(crate) fn open(path: &Path) -> Result<Self, EngineError> {
        if path.join(manifest::FILE_NAME).exists() {
            return pack::open(path);
        }
        match gguf::files_of(path)? {
            Some(files) => gguf::open(&files),
            None => huggingface::open(path),
        }
    }

    /// Opens the safetensors files of a Hugging Face model wherever they are.
    pub(crate) fn from_safetensors(
        origin: PathBuf,
        files: Vec<Arc<dyn ReadAt>>,
        side: SideFiles,
    ) -> Result<Self, EngineError> {
        huggingface::from_readers(origin, files, side)
    }

    /// Opens the GGUF files of a model, in the order of their splits, wherever they are.
    pub(crate) fn from_gguf(files: Vec<Arc<dyn ReadAt>>) -> Result<Self, EngineError> {
        gguf::from_readers(files)
    }

    /// The pack's manifest; `None` for other files.
    pub(crate) fn manifest(&self) -> Option<&Manifest> {
        match &self.format {
            Format::Pack { manifest, .. } => Some(manifest),
            Format::HuggingFace | Format::Gguf => None,
        }
    }

    /// `pack`, `huggingface` or `gguf`.
    pub(crate) fn format_name(&self) -> &'static str {
        match &self.format {
            Format::Pack { .. } => "pack",
            Format::HuggingFace => "huggingface",
            Format::Gguf => "gguf",
        }
    }

    /// In which form values are stored that the formats store differently.
    pub(crate) fn form(&self) -> Form {
        self.form
    }

    /// The small files beside the weights.
    pub(crate) fn side(&self) -> &SideFiles {
        &self.side
    }

    /// What was opened.
    pub(crate) fn origin(&self) -> &Path {
        &self.origin
    }

    /// The weight files, for what depends on their lengths and names.
    pub(crate) fn files(&self) -> &[Arc<dyn ReadAt>] {
        &self.files
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

    /// Checks that a tensor is there with that shape, without reading it.
    pub(crate) fn check(&self, name: &str, shape: &[usize]) -> Result<(), EngineError> {
        self.tensor(name, shape).map(|_| ())
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
        Ok(Matrix::new(shape, self.finite(name, tensor)?))
    }

    /// A vector, or a small tensor as one, decoded to f32. Errors if it is missing or has another
    /// shape.
    pub(crate) fn vector(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, EngineError> {
        let tensor = self.tensor(name, shape)?;
        let mut out = vec![0.0; shape.iter().product()];
        dequantise_row(tensor.dtype, self.finite(name, tensor)?.as_slice(), &mut out);
        Ok(out)
    }

    /// All bytes of a tensor. Errors if a value is no number: one of them would spoil every reply.
    fn finite(&self, name: &str, tensor: &Tensor) -> Result<AlignedBytes, EngineError> {
        let bytes = self.bytes(tensor, 0..tensor.len)?;
        if is_finite(tensor.dtype, bytes.as_slice()) {
            Ok(bytes)
        } else {
            Err(self.no_number(name))
        }
    }

    /// Some bytes of a tensor as they lie in the file. Panics if there is no such tensor or the range
    /// leaves it (caller bug).
    pub(crate) fn raw(&self, name: &str, range: Range<usize>) -> Result<AlignedBytes, EngineError> {
        self.bytes(&self.tensors[name], range)
    }

    /// File, first byte and length of a tensor. Panics if there is none (caller bug).
    pub(crate) fn place(&self, name: &str) -> (&Arc<dyn ReadAt>, u64, usize) {
        let tensor = &self.tensors[name];
        (&self.files[tensor.file], tensor.offset, tensor.len)
    }

    /// The experts of all layers that have some. With `verify` they are checked when they are read: a
    /// pack's by their checksums, others for values that are no finite numbers.
    pub(crate) fn experts(
        &self,
        layers: &[Option<ExpertDims>],
        verify: bool,
    ) -> Result<ExpertStore, EngineError> {
        let one = |layer, dims| -> Result<LayerExperts, EngineError> {
            match &self.format {
                Format::Pack { manifest, files } => {
                    pack::layer_experts(self, manifest, files, layer, dims, verify)
                }
                Format::HuggingFace | Format::Gguf => experts::of_layer(self, layer, dims, verify),
            }
        };
        let all = layers.iter().enumerate();
        let all = all.map(|(layer, dims)| dims.map(|dims| one(layer, dims)).transpose());
        Ok(ExpertStore::new(all.collect::<Result<_, _>>()?))
    }

    /// Bytes of a tensor as they lie in the file.
    fn bytes(&self, tensor: &Tensor, range: Range<usize>) -> Result<AlignedBytes, EngineError> {
        assert!(range.end <= tensor.len, "the range lies in the tensor");
        let reader = &self.files[tensor.file];
        let mut bytes = AlignedBytes::zeroed(range.len());
        reader
            .read_exact_at(bytes.as_mut_slice(), tensor.offset + range.start as u64)
            .map_err(|source| EngineError::Read { path: reader.path().to_owned(), source })?;
        Ok(bytes)
    }

    fn tensor(&self, name: &str, shape: &[usize]) -> Result<&Tensor, EngineError> {
        let tensor = self.tensors.get(name).ok_or_else(|| self.missing(name))?;
        let mut stored = tensor.shape.clone();
        // Convolutions are stored [channels, 1, width].
        stored.retain(|d| *d != 1);
        let wanted: Vec<usize> = shape.iter().copied().filter(|d| *d != 1).collect();
        if stored != wanted {
            return Err(self.malformed(format!(
                "tensor {name:?} has the shape {:?}, the config implies {shape:?}",
                tensor.shape
            )));
        }
        let row = *shape.last().expect("a tensor has a dimension");
        let bytes = tensor
            .dtype
            .row_bytes(row)
            .and_then(|b| b.checked_mul(shape.iter().product::<usize>() / row));
        if bytes != Some(tensor.len) {
            return Err(self.malformed(format!(
                "tensor {name:?} of type {} and shape {:?} does not take {} bytes",
                tensor.dtype, tensor.shape, tensor.len
            )));
        }
        Ok(tensor)
    }

    fn missing(&self, name: &str) -> EngineError {
        let name = self.known_as(name);
        self.malformed(format!("has no tensor {name}; is the download complete?"))
    }

    /// An error about a tensor, or an expert's matrix, in which a value is NaN, infinite or absurd.
    pub(crate) fn no_number(&self, name: &str) -> EngineError {
        self.malformed(no_number(&self.known_as(name)))
    }

    /// A tensor's name in quotes, with the name in the file where it is another.
    fn known_as(&self, name: &str) -> String {
        let also = match self.format {
            Format::Gguf => gguf::names::gguf_name(name).map(|n| format!(" ({n})")),
            Format::Pack { .. } | Format::HuggingFace => None,
        };
        format!("{name:?}{}", also.unwrap_or_default())
    }

    fn malformed(&self, what: String) -> EngineError {
        EngineError::Malformed { path: self.origin.clone(), what }
    }
}

/// What is wrong with a tensor in which a value is NaN, infinite or absurd.
pub(crate) fn no_number(tensor: &str) -> String {
    format!("tensor {tensor} holds a value that is no finite number, or too large for the type")
}

/// Reads and checks the header of a weight file, GGUF or safetensors, and forgets it.
pub(crate) fn read_header(file: Arc<dyn ReadAt>) -> Result<(), EngineError> {
    if file.path().extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")) {
        gguf::Header::read(file).map(|_| ())
    } else {
        SafetensorsFile::from_reader(file).map(|_| ())
    }
}

/// Whether an error only says that bytes have not arrived yet.
pub(crate) fn is_missing_yet(error: &EngineError) -> bool {
    matches!(error, EngineError::Read { source, .. } if source.kind() == ErrorKind::WouldBlock)
}

/// A file's or folder's name without the ending and the place that GGUF files have.
pub(crate) fn model_name(name: &str) -> &str {
    gguf::stem(name)
}

/// Whether a canonical name is that of an expert's own matrix (not the shared expert's).
fn is_expert(name: &str) -> bool {
    name.contains(".experts.")
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
