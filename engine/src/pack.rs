//! Writing a pack: a model directory in which one expert is one aligned, contiguous read.
//!
//! A pack is a directory of valid safetensors files. Experts lie in `experts-LLLLL.safetensors`, gate,
//! up and down of one expert one after another and padded to 4 KiB, with a CRC32C each in the file's
//! metadata; dense tensors lie in `dense-NNNNN.safetensors`; quantised tensors are U8 [rows, bytes a
//! row] in GGUF block layout, their type and logical shape stand in `sluice.json` with a SHA-256 of
//! every file. Config, tokenizer and template files are copied as they are.
//!
//! The writer holds one expert and one dense tensor at a time. It writes into a folder beside the
//! destination and renames it at the end, so that a pack is whole or absent.

mod inspect;
mod writer;

use std::path::{Path, PathBuf};

use crate::backend::ExpertWeights;
use crate::error::EngineError;
use crate::expert::ExpertId;
use crate::model::{folder_name, read_family};
use crate::quant::{dequantise_row, quantise_row};
use crate::tensor::{AlignedBytes, DType, MatrixRef, MatrixShape};
use crate::weights::manifest::{LayerSpec, Manifest, Source, TensorSpec, VERSION};
use crate::weights::{Weights, read_json};

pub use inspect::{Inspection, inspect};
use writer::{Tensor, Writer};

/// Files of the source that a pack carries along, where they exist.
const COPIED: [&str; 5] = [
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    "chat_template.jinja",
];

/// What to pack and how.
#[derive(Clone, Debug)]
pub struct PackOptions {
    /// A Hugging Face directory.
    pub source: PathBuf,
    /// The pack's directory; must not exist.
    pub destination: PathBuf,
    /// Type of the experts: `q4_0`, `q4_k`, `q5_0`, `q5_k`, `q6_k`, `q8_0`, `bf16`, `f16`, `f32`.
    pub experts: String,
    /// Type of the large dense matrices: attention, delta net, embedding, shared experts.
    pub dense: String,
    /// Name that clients see; default: the destination's folder name.
    pub name: Option<String>,
    /// `demo`, `general` or `approved`; default `general`.
    pub quality: Option<String>,
}

/// Progress of a long work, in bytes of the source.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Done.
    pub done: u64,
    /// In all.
    pub total: u64,
}

/// A tensor that could not take the asked type, and the type it got.
///
/// A row must be a whole number of blocks: q4_k (256 values) falls back to q5_0 (32), q5_k and q6_k to
/// q8_0, and all to bf16 where a row is no multiple of 32.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Fallback {
    /// Canonical name; `*` stands for all experts of a layer.
    pub tensor: String,
    /// GGUF name of the type that was asked for.
    pub asked: &'static str,
    /// GGUF name of the type that was used.
    pub used: &'static str,
}

/// What was written.
#[derive(Clone, Debug)]
pub struct PackReport {
    /// Bytes of all files.
    pub bytes: u64,
    /// Tensors whose rows are no whole number of blocks of the asked type.
    pub fallbacks: Vec<Fallback>,
}

/// Packs a model. `progress` is called after every tensor.
///
/// Errors if the source is not a model that this engine runs, a type is unknown, the destination
/// exists, or a file cannot be written; nothing is left behind then.
pub fn pack(
    options: &PackOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<PackReport, EngineError> {
    let invalid = |what: String| EngineError::InvalidRequest(what);
    let dtype = |name: &str| {
        DType::from_name(name).filter(|t| t.is_writable()).ok_or_else(|| {
            let known: Vec<_> = DType::WRITABLE.iter().map(|t| t.name()).collect();
            invalid(format!("unknown type {name:?}; choose one of {}", known.join(", ")))
        })
    };
    let (experts, dense) = (dtype(&options.experts)?, dtype(&options.dense)?);
    let quality = options.quality.clone().unwrap_or_else(|| "general".to_owned());
    if !["demo", "general", "approved"].contains(&quality.as_str()) {
        return Err(invalid(format!(
            "unknown quality {quality:?}; choose one of demo, general, approved"
        )));
    }
    let config_path = options.source.join("config.json");
    let family = read_family(&config_path, &read_json(&config_path)?)?;
    let weights = Weights::open(&options.source)?;
    if weights.manifest().is_some() {
        return Err(invalid(format!("{} is a pack already", options.source.display())));
    }
    let mut packer = Packer {
        writer: Writer::create(&options.destination)?,
        manifest: Manifest {
            format: "sluice-pack".to_owned(),
            version: VERSION,
            name: options.name.clone().unwrap_or_else(|| folder_name(&options.destination)),
            quality,
            architecture: family.config().architecture.clone(),
            source: Source {
                kind: "huggingface".to_owned(),
                name: folder_name(&options.source),
                experts: experts.to_string(),
                dense: dense.to_string(),
            },
            files: Default::default(),
            dense: Default::default(),
            experts: Vec::new(),
        },
        fallbacks: Vec::new(),
        done: 0,
        total: 0,
        progress,
    };
    let store = weights.experts(family.config().layers, family.experts(), false)?;
    let sizes = |(_, t, shape): (&str, DType, &[usize])| {
        (shape.iter().product::<usize>() * t.block().1 / t.block().0) as u64
    };
    packer.total = store.bytes() + weights.dense().map(sizes).sum::<u64>();
    packer.dense(&weights, dense)?;
    for layer in 0..family.config().layers {
        packer.experts(&store, layer, family.experts().count, experts)?;
    }
    for name in COPIED {
        let path = options.source.join(name);
        if path.exists() {
            packer.writer.copy(&path, name)?;
        }
    }
    packer.finish(&options.destination)
}

struct Packer<'a> {
    writer: Writer,
    manifest: Manifest,
    fallbacks: Vec<Fallback>,
    done: u64,
    total: u64,
    progress: &'a mut dyn FnMut(Progress),
}

impl Packer<'_> {
    /// Writes all dense tensors, a new file whenever one is full.
    fn dense(&mut self, weights: &Weights, wanted: DType) -> Result<(), EngineError> {
        let mut tensors = Vec::new();
        for (name, dtype, shape) in weights.dense() {
            let flat: Vec<usize> = shape.iter().copied().filter(|d| *d != 1).collect();
            let &[rows, cols] = flat.as_slice() else {
                let values = weights.vector(name, shape)?;
                let bytes = AlignedBytes::copy_of(bytemuck::cast_slice(&values));
                self.manifest.dense.insert(name.to_owned(), spec(DType::F32, shape));
                tensors.push(Tensor { name: name.to_owned(), rows: 1, dtype: DType::F32, bytes });
                self.advance(values.len() * dtype.block().1);
                continue;
            };
            let matrix = weights.matrix(name, rows, cols)?;
            let target = if is_sensitive(name) { dtype } else { self.type_for(name, wanted, cols) };
            let bytes = converted(matrix.view(), target);
            self.manifest.dense.insert(name.to_owned(), spec(target, &[rows, cols]));
            tensors.push(Tensor { name: name.to_owned(), rows, dtype: target, bytes });
            self.advance(matrix.view().bytes.len());
            if self.writer.is_full(&tensors) {
                self.writer.dense(&tensors)?;
                tensors.clear();
            }
        }
        if tensors.is_empty() { Ok(()) } else { self.writer.dense(&tensors) }
    }

    /// Writes the experts of one layer.
    fn experts(
        &mut self,
        store: &crate::expert::ExpertStore,
        layer: usize,
        count: usize,
        wanted: DType,
    ) -> Result<(), EngineError> {
        let layout = store.layout(layer);
        let shapes = [("gate", layout.gate), ("up", layout.up), ("down", layout.down)].map(
            |(which, shape)| {
                let name = format!("layers.{layer}.experts.*.{which}");
                MatrixShape { dtype: self.type_for(&name, wanted, shape.cols), ..shape }
            },
        );
        let mut file = self.writer.experts(layer, count, shapes)?;
        for expert in 0..count {
            let id = ExpertId { layer: layer as u32, expert: expert as u32 };
            let source = store.read(id, None)?;
            let ExpertWeights { gate, up, down } = source.weights();
            let parts = [gate, up, down];
            let [gate, up, down] = [0, 1, 2].map(|i| converted(parts[i], shapes[i].dtype));
            file.push([gate.as_slice(), up.as_slice(), down.as_slice()])?;
            self.advance(source.len());
        }
        let name = file.finish()?;
        let [gate, up, down] = shapes.map(|s| spec(s.dtype, &[s.rows, s.cols]));
        self.manifest.experts.push(LayerSpec { layer, file: name, count, gate, up, down });
        Ok(())
    }

    /// The asked type, or its fallback where its blocks do not divide a row of `cols`.
    fn type_for(&mut self, name: &str, wanted: DType, cols: usize) -> DType {
        let used = wanted.fitting(cols);
        if used != wanted {
            let (asked, used) = (wanted.name(), used.name());
            self.fallbacks.push(Fallback { tensor: name.to_owned(), asked, used });
        }
        used
    }

    fn advance(&mut self, bytes: usize) {
        self.done += bytes as u64;
        (self.progress)(Progress { done: self.done, total: self.total });
    }

    fn finish(mut self, destination: &Path) -> Result<PackReport, EngineError> {
        self.manifest.files = self.writer.digests()?;
        let bytes = self.manifest.files.values().map(|f| f.bytes).sum();
        self.writer.finish(&self.manifest, destination)?;
        Ok(PackReport { bytes, fallbacks: self.fallbacks })
    }
}

/// Small matrices on which much depends keep their own type: the gate, the shared expert's scale, the
/// delta net's decay and strength, and its convolution.
fn is_sensitive(name: &str) -> bool {
    [
        "mlp.gate.weight",
        "shared_expert_gate.weight",
        "in_proj_a.weight",
        "in_proj_b.weight",
        "conv1d.weight",
    ]
    .iter()
    .any(|suffix| name.ends_with(suffix))
}

/// Tensors of a pack that have another type than its manifest says was asked for, because that type's
/// blocks do not divide their rows.
fn fallbacks(manifest: &Manifest) -> Vec<Fallback> {
    let found = |tensor: String, asked: &str, spec: &TensorSpec| {
        let (asked, used) = (DType::from_name(asked)?, DType::from_name(&spec.dtype)?);
        let cols = *spec.shape.last()?;
        let (asked_name, used_name) = (asked.name(), used.name());
        (used != asked && used == asked.fitting(cols)).then_some(Fallback {
            tensor,
            asked: asked_name,
            used: used_name,
        })
    };
    let matrix = |shape: &[usize]| shape.iter().filter(|d| **d != 1).count() == 2;
    let dense = manifest.dense.iter().filter(|(name, s)| !is_sensitive(name) && matrix(&s.shape));
    let dense = dense.filter_map(|(n, s)| found(n.clone(), &manifest.source.dense, s));
    let experts = manifest.experts.iter().flat_map(|layer| {
        let parts = [("gate", &layer.gate), ("up", &layer.up), ("down", &layer.down)];
        parts.map(|(which, spec)| {
            let name = format!("layers.{}.experts.*.{which}", layer.layer);
            found(name, &manifest.source.experts, spec)
        })
    });
    dense.chain(experts.flatten()).collect()
}

fn spec(dtype: DType, shape: &[usize]) -> TensorSpec {
    TensorSpec { dtype: dtype.name().to_owned(), shape: shape.to_vec() }
}

/// A matrix in another type; bit for bit the same if the type is the same.
///
/// Rows are quantised on all processors: the search for scales takes far longer than the disk.
fn converted(from: MatrixRef<'_>, dtype: DType) -> AlignedBytes {
    if from.shape.dtype == dtype {
        return AlignedBytes::copy_of(from.bytes);
    }
    let shape = MatrixShape { dtype, ..from.shape };
    let mut out = AlignedBytes::zeroed(shape.bytes().expect("the type's blocks divide the row"));
    let row_bytes = out.len() / shape.rows;
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let part = shape.rows.div_ceil(threads);
    std::thread::scope(|scope| {
        for (i, part_out) in out.as_mut_slice().chunks_mut(part * row_bytes).enumerate() {
            scope.spawn(move || {
                let mut row = vec![0.0; shape.cols];
                for (r, out) in part_out.chunks_exact_mut(row_bytes).enumerate() {
                    dequantise_row(from.shape.dtype, from.row(i * part + r), &mut row);
                    quantise_row(dtype, &row, out);
                }
            });
        }
    });
    out
}

#[cfg(test)]
mod tests;
