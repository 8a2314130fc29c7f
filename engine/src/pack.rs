//! Writing a pack: a model directory in which one expert is one aligned, contiguous read.
//!
//! A pack is a directory of valid safetensors files. Experts lie in `experts-LLLLL.safetensors`, gate,
//! up and down of one expert one after another and padded to 4 KiB, with a CRC32C each in the file's
//! metadata; dense tensors lie in `dense-NNNNN.safetensors`; quantised tensors are U8 [rows, bytes a
//! row] in GGUF block layout, their type and logical shape stand in `sluice.json` with a SHA-256 of
//! every file. Config, tokenizer and template files are copied as they are; a GGUF source's are made
//! from its keys.
//!
//! The writer holds one expert or a few megabytes of a dense tensor at a time. It writes into a folder
//! beside the destination and renames it at the end, so that a pack is whole or absent. What ended
//! before its end goes on there: finished files whose SHA-256 is right are kept (`folder`).

mod arrival;
mod class;
mod folder;
mod inspect;
mod plan;
mod spool;
mod writer;

use std::path::PathBuf;

use crate::error::EngineError;
use crate::expert::ExpertStore;
use crate::model::{Blueprint, folder_name};
use crate::tensor::DType;
use crate::weights::manifest::{LayerSpec, Manifest, Source, TensorSpec, VERSION};
use crate::weights::{Weights, side_files};

pub use arrival::{Arrival, ArrivingFile};
use class::Census;
pub use class::{ClassTypes, TensorClass};
use folder::Folder;
pub use inspect::{Inspection, inspect};
use plan::{Item, Plan, Types};

/// What to pack and how.
#[derive(Clone, Debug)]
pub struct PackOptions {
    /// A Hugging Face directory, or a GGUF file or folder.
    pub source: PathBuf,
    /// The pack's directory; must not exist.
    pub destination: PathBuf,
    /// Type of the experts: `q4_0`, `q4_k`, `q5_0`, `q5_k`, `q6_k`, `q8_0`, `bf16`, `f16`, `f32`;
    /// `auto`: a GGUF source's own types bit for bit, `q4_0` for others.
    pub experts: String,
    /// Type of the large dense matrices (attention, delta net, embedding, shared experts); `auto`: a
    /// GGUF source's own types bit for bit, `q8_0` for others.
    pub dense: String,
    /// Types of single classes of dense matrices, over `dense`: one of [`TensorClass::DENSE`] each.
    pub classes: Vec<(TensorClass, String)>,
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
    /// The types that tensors have now, by class.
    pub classes: Vec<ClassTypes>,
    /// Tensors whose rows are no whole number of blocks of the asked type.
    pub fallbacks: Vec<Fallback>,
    /// Files that an earlier attempt had finished.
    pub files_kept: usize,
}

/// Packs a model. `progress` is called after every piece.
///
/// Errors if the source is not a model that this engine runs, a weight is no finite number, a type is
/// unknown, the destination exists, or a file cannot be written. Files that were finished before an error stay in
/// `DESTINATION.partial` for the next attempt.
pub fn pack(
    options: &PackOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<PackReport, EngineError> {
    check(options)?;
    let weights = Weights::open(&options.source)?;
    pack_weights(weights, options, &folder_name(&options.source), progress)
}

/// Packs weights that are open, wherever they are; `source_name` goes into the manifest.
pub(crate) fn pack_weights(
    weights: Weights,
    options: &PackOptions,
    source_name: &str,
    progress: &mut dyn FnMut(Progress),
) -> Result<PackReport, EngineError> {
    let mut packer = Packer::new(weights, options, source_name)?;
    let mut done = packer.done_bytes();
    let total = packer.total_bytes();
    progress(Progress { done, total });
    for index in 0..packer.items().len() {
        packer.write(index, &mut |bytes| {
            done += bytes;
            progress(Progress { done, total });
        })?;
    }
    packer.finish()
}

/// Checks what can be checked before anything is opened.
fn check(options: &PackOptions) -> Result<(), EngineError> {
    let invalid = |what: String| Err(EngineError::InvalidRequest(what));
    if let Some(quality) = &options.quality
        && !["demo", "general", "approved"].contains(&quality.as_str())
    {
        return invalid(format!(
            "unknown quality {quality:?}; choose one of demo, general, approved"
        ));
    }
    if options.destination.exists() {
        return invalid(format!(
            "{} exists; remove it or choose another destination",
            options.destination.display()
        ));
    }
    Types::of(options, false).map(|_| ())
}

/// A pack in the making: its pieces can be written in any order.
struct Packer {
    weights: Weights,
    store: ExpertStore,
    plan: Plan,
    folder: Folder,
    manifest: Manifest,
    destination: PathBuf,
}

impl Packer {
    /// Plans the pack and opens its folder, where finished files of an earlier attempt are kept.
    fn new(
        weights: Weights,
        options: &PackOptions,
        source_name: &str,
    ) -> Result<Self, EngineError> {
        if weights.manifest().is_some() {
            let what = format!("{} is a pack already", weights.origin().display());
            return Err(EngineError::InvalidRequest(what));
        }
        let config = weights.side().config()?;
        let blueprint = Blueprint::of(&weights, &config)?;
        let store = weights.experts(&blueprint.expert_layers(), false)?;
        let types = Types::of(options, weights.format_name() == "gguf")?;
        let plan = Plan::new(&weights, &store, &types)?;
        let manifest = Manifest {
            format: "sluice-pack".to_owned(),
            version: VERSION,
            name: options.name.clone().unwrap_or_else(|| folder_name(&options.destination)),
            quality: options.quality.clone().unwrap_or_else(|| "general".to_owned()),
            architecture: blueprint.config().architecture.clone(),
            source: Source {
                kind: weights.format_name().to_owned(),
                name: source_name.to_owned(),
                experts: types.experts.map_or_else(|| plan.expert_types(), |t| t.to_string()),
                dense: types.dense.map_or_else(|| plan.dense_types(), |t| t.to_string()),
                classes: types.chosen_classes(),
            },
            files: Default::default(),
            dense: plan.dense_specs(),
            experts: plan.layer_specs(),
        };
        let fingerprint = plan.fingerprint(&weights, &manifest);
        let names: Vec<&str> = plan.items.iter().map(Item::file_name).collect();
        let folder = Folder::open(&options.destination, &fingerprint, &names)?;
        let destination = options.destination.clone();
        Ok(Packer { weights, store, plan, folder, manifest, destination })
    }

    fn items(&self) -> &[Item] {
        &self.plan.items
    }

    /// Whether an item's file is there already.
    fn is_done(&self, index: usize) -> bool {
        self.folder.has(self.plan.items[index].file_name())
    }

    fn total_bytes(&self) -> u64 {
        self.plan.items.iter().map(Item::source_bytes).sum()
    }

    /// Source bytes of the files that are there already.
    fn done_bytes(&self) -> u64 {
        let done = self.plan.items.iter().enumerate().filter(|(index, _)| self.is_done(*index));
        done.map(|(_, item)| item.source_bytes()).sum()
    }

    /// Writes one item's file, unless it is there; tells `advance` of source bytes.
    fn write(&mut self, index: usize, advance: &mut dyn FnMut(u64)) -> Result<(), EngineError> {
        if self.is_done(index) {
            return Ok(());
        }
        let item = &self.plan.items[index];
        let path = self.folder.path(item.file_name());
        match item {
            Item::Dense { tensors, .. } => {
                writer::write_dense(&path, &self.weights, tensors, advance)?;
            }
            Item::Experts { layer, .. } => {
                let (weights, shapes) = (&self.weights, item.shapes());
                writer::write_experts(&path, weights, &self.store, *layer, shapes, advance)?;
            }
        }
        self.folder.record(item.file_name())
    }

    /// Copies the small files, writes the manifest and gives the folder its name.
    fn finish(mut self) -> Result<PackReport, EngineError> {
        for name in side_files::NAMES {
            if let Some(bytes) = self.weights.side().read(name)? {
                self.folder.add(name, &bytes)?;
            }
        }
        self.manifest.files = self.folder.files().clone();
        let files_kept = self.folder.kept();
        self.folder.finish(&self.manifest, &self.destination)?;
        Ok(PackReport {
            bytes: self.manifest.files.values().map(|file| file.bytes).sum(),
            classes: self.plan.census().classes(),
            fallbacks: self.plan.fallbacks,
            files_kept,
        })
    }
}

fn spec(dtype: DType, shape: &[usize]) -> TensorSpec {
    TensorSpec { dtype: dtype.name().to_owned(), shape: shape.to_vec() }
}

#[cfg(test)]
mod tests;
