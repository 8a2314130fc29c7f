//! Models of random weights with the layer shapes of published ones: files of 5 to 200 GB to stream
//! from, without a download.
//!
//! A model is one GGUF file that exists only as a function ([`file`]): its header is in memory, every
//! other byte follows from the seed and its place. Copied out it is a GGUF file; read by the packer it
//! becomes a pack of the same blocks. So both hold the same model, nothing is kept in memory but some
//! thousand random blocks, and the writers of packs are the ones that real models use.
//!
//! Weights are scaled like trained ones, so that activations stay sane; gates have rows of uneven
//! length (`skew`), so that some experts are chosen more often. What such a model says is noise: speed
//! and reads are what it is for. Real gates differ in kind as well: measure caches on real traces, too.
//! Sources: shapes as in the published `config.json` files; layout as llama.cpp's converter writes it.

mod file;
mod noise;
mod shapes;
mod tensors;

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::EngineError;
use crate::io::ReadAt;
use crate::pack::{self, PackOptions, Progress};
use crate::tensor::DType;
use crate::weights::Weights;

use file::SynthFile;
pub(crate) use shapes::Shape;

/// Bytes that are made and written at once.
const PIECE_BYTES: usize = 4 << 20;

/// What to make.
#[derive(Clone, Debug)]
pub struct SynthOptions {
    /// Whose layer shapes: one of [`likes`].
    pub like: String,
    /// A pack's folder, or a file that ends in `.gguf`; must not exist.
    pub destination: PathBuf,
    /// Layers; default: as many as the real model has.
    pub layers: Option<usize>,
    /// Tokens of the vocabulary, at least 512; default: as many as the real model has. Fewer make small
    /// models of real layers.
    pub vocabulary: Option<usize>,
    /// Type of the matrices, such as `q4_0`; the output matrix of a q4_0 model is q6_k, as usual.
    pub quant: String,
    /// How unevenly gates choose: the deviation of the logarithm of a gate row's length; 0 is nearly
    /// even, 1 lets a tenth of the experts do two fifths of the work.
    pub skew: f64,
    /// Other seeds give other weights.
    pub seed: u64,
}

/// The models whose shapes are known.
pub fn likes() -> Vec<&'static str> {
    shapes::ALL.iter().map(|shape| shape.name).collect()
}

/// Writes a model of random weights. Returns the bytes written; `progress` is called after each piece.
///
/// Errors if the name or type is unknown, there are more layers than the real model has, the
/// destination exists or a file cannot be written.
pub fn synth(
    options: &SynthOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<u64, EngineError> {
    let known = shapes::ALL.iter().find(|shape| shape.name == options.like);
    let mut shape = known.cloned().ok_or_else(|| {
        invalid(format!("unknown model {:?}; choose one of {}", options.like, likes().join(", ")))
    })?;
    if let Some(layers) = options.layers {
        if !(1..=shape.layers).contains(&layers) {
            return Err(invalid(format!(
                "layers: expected 1 to {}, which {} has, got {layers}",
                shape.layers, shape.name
            )));
        }
        shape.layers = layers;
    }
    if let Some(vocabulary) = options.vocabulary {
        if !(512..=shape.vocab).contains(&vocabulary) {
            return Err(invalid(format!(
                "vocabulary: expected 512 to {}, which {} has, got {vocabulary}",
                shape.vocab, shape.name
            )));
        }
        shape.vocab = vocabulary;
    }
    write(&shape, options, progress)
}

/// Writes a model of any shape.
pub(crate) fn write(
    shape: &Shape,
    options: &SynthOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<u64, EngineError> {
    let SynthOptions { destination, skew, .. } = options;
    if destination.exists() {
        return Err(invalid(format!(
            "{} exists; remove it or choose another destination",
            destination.display()
        )));
    }
    if !(0.0..=10.0).contains(skew) {
        return Err(invalid(format!("skew: expected a number from 0 to 10, got {skew}")));
    }
    let dtype = DType::from_name(&options.quant).filter(|t| t.is_writable()).ok_or_else(|| {
        let known: Vec<_> = DType::WRITABLE.iter().map(|t| t.name()).collect();
        invalid(format!("unknown type {:?}; choose one of {}", options.quant, known.join(", ")))
    })?;
    let file = Arc::new(SynthFile::new(shape, dtype, *skew, options.seed));
    if destination.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")) {
        return copy_out(&file, destination, progress);
    }
    let weights = Weights::from_gguf(vec![file])?;
    let pack_options = PackOptions {
        source: PathBuf::from("synthetic.gguf"),
        destination: destination.clone(),
        experts: "auto".to_owned(),
        dense: "auto".to_owned(),
        classes: Vec::new(),
        name: None,
        quality: Some("demo".to_owned()),
    };
    // All that the bytes follow from: another model does not go on with this one's unfinished files.
    let source = format!(
        "synthetic {}, {} layers, skew {skew}, seed {}",
        shape.name, shape.layers, options.seed
    );
    pack::pack_weights(weights, &pack_options, &source, progress).map(|report| report.bytes)
}

/// Writes the file as it is, under another name until it is whole.
fn copy_out(
    file: &SynthFile,
    destination: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<u64, EngineError> {
    let mut partial = destination.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let wrote = |source| EngineError::Write { path: partial.clone(), source };
    let mut out = File::create(&partial).map_err(wrote)?;
    let total = file.len();
    let mut buffer = vec![0; PIECE_BYTES];
    let mut done = 0;
    while done < total {
        let piece = &mut buffer[..(total - done).min(PIECE_BYTES as u64) as usize];
        file.read_exact_at(piece, done).expect("the range lies in the file");
        out.write_all(piece).map_err(wrote)?;
        done += piece.len() as u64;
        progress(Progress { done, total });
    }
    out.sync_all().map_err(wrote)?;
    std::fs::rename(&partial, destination)
        .map_err(|source| EngineError::Write { path: destination.to_owned(), source })?;
    Ok(total)
}

fn invalid(what: String) -> EngineError {
    EngineError::InvalidRequest(what)
}

#[cfg(test)]
pub(crate) mod tests;
