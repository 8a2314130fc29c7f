//! A Hugging Face directory: `config.json` and one or more safetensors files in f32, f16 or bf16.
//!
//! Experts come fused (`mlp.experts.gate_up_proj` [E, 2·I, H], gate rows first, and `down_proj`
//! [E, H, I]) or one by one (`mlp.experts.E.gate_proj.weight`); either way an expert is two or three
//! reads. Vision and multi-token-prediction tensors are left alone.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{ExpertDims, SafetensorsFile, Tensor, Weights};
use crate::error::EngineError;
use crate::expert::{ExpertLayout, LayerExperts, Segment};
use crate::tensor::{DType, MatrixShape};

/// Prefixes of text weights: nested in a vision model, plain, and at the top (`lm_head`).
const PREFIXES: [&str; 3] = ["model.language_model.", "language_model.model.", "model."];

pub(super) fn open(dir: &Path) -> Result<Weights, EngineError> {
    let files = safetensors_files(dir)?
        .iter()
        .map(|path| SafetensorsFile::open(path))
        .collect::<Result<Vec<_>, _>>()?;
    let mut weights = Weights {
        dir: dir.to_owned(),
        files: Vec::new(),
        tensors: Default::default(),
        manifest: None,
    };
    for (index, file) in files.iter().enumerate() {
        for (name, entry) in &file.tensors {
            let Some(name) = canonical(name) else { continue };
            let Some(dtype) = DType::from_name(&entry.dtype) else {
                return Err(EngineError::Malformed {
                    path: file.reader.path().to_owned(),
                    what: format!(
                        "tensor {name:?} has the type {}; this version reads F32, F16 and BF16",
                        entry.dtype
                    ),
                });
            };
            let shape = entry.shape.clone();
            weights.tensors.insert(
                name.to_owned(),
                Tensor { file: index, entry: entry.clone(), dtype, shape },
            );
        }
    }
    weights.files = files;
    Ok(weights)
}

fn safetensors_files(dir: &Path) -> Result<Vec<PathBuf>, EngineError> {
    let read = |source| EngineError::Read { path: dir.to_owned(), source };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(read)? {
        let path = entry.map_err(read)?.path();
        if path.extension().is_some_and(|e| e == "safetensors") && !is_reference(&path) {
            paths.push(path);
        }
    }
    if paths.is_empty() {
        return Err(EngineError::Malformed {
            path: dir.to_owned(),
            what: "has neither sluice.json nor *.safetensors files; expected a pack or a Hugging \
                   Face model directory"
                .to_owned(),
        });
    }
    paths.sort();
    Ok(paths)
}

/// Reference outputs may lie beside a model; they are not weights.
fn is_reference(path: &Path) -> bool {
    path.file_stem().is_some_and(|s| s == "reference")
}

/// The canonical name of a text tensor, or `None` for anything else.
fn canonical(name: &str) -> Option<&str> {
    if name.starts_with("lm_head.") {
        return Some(name);
    }
    let rest = PREFIXES.iter().find_map(|p| name.strip_prefix(p))?;
    (!rest.starts_with("visual.")).then_some(rest)
}

pub(super) fn layer_experts(
    weights: &Weights,
    layer: usize,
    dims: ExpertDims,
) -> Result<LayerExperts, EngineError> {
    let ExpertDims { count, hidden, intermediate } = dims;
    let fused = format!("layers.{layer}.mlp.experts.gate_up_proj");
    let pieces = |expert: usize| -> Result<Vec<(&Tensor, usize, usize)>, EngineError> {
        // Tensor, index of the part, number of equal parts.
        if weights.has(&fused) {
            let gate_up = weights.tensor(&fused, &[count, 2 * intermediate, hidden])?;
            let down = format!("layers.{layer}.mlp.experts.down_proj");
            let down = weights.tensor(&down, &[count, hidden, intermediate])?;
            return Ok(vec![(gate_up, expert, count), (down, expert, count)]);
        }
        let part = |which: &str, shape: [usize; 2]| {
            let name = format!("layers.{layer}.mlp.experts.{expert}.{which}_proj.weight");
            Ok((weights.tensor(&name, &shape)?, 0, 1))
        };
        Ok(vec![
            part("gate", [intermediate, hidden])?,
            part("up", [intermediate, hidden])?,
            part("down", [hidden, intermediate])?,
        ])
    };
    let first = pieces(0)?;
    let (gate, down) = (first[0].0.dtype, first[first.len() - 1].0.dtype);
    let shape = |dtype, rows, cols| MatrixShape { dtype, rows, cols };
    let layout = ExpertLayout {
        gate: shape(gate, intermediate, hidden),
        up: shape(gate, intermediate, hidden),
        down: shape(down, hidden, intermediate),
    };
    let segments = (0..count)
        .map(|expert| {
            let pieces = pieces(expert)?;
            if pieces[0].0.dtype != gate || pieces[pieces.len() - 1].0.dtype != down {
                return Err(
                    weights.malformed(format!("experts of layer {layer} have different types"))
                );
            }
            Ok(pieces.into_iter().map(|(t, i, n)| segment(weights, t, i, n)).collect())
        })
        .collect::<Result<_, _>>()?;
    Ok(LayerExperts { layout: Arc::new(layout), segments, checksums: None })
}

/// Part `index` of `count` equal parts of a tensor.
fn segment(weights: &Weights, tensor: &Tensor, index: usize, count: usize) -> Segment {
    let len = tensor.entry.len / count;
    Segment {
        file: Arc::clone(&weights.files[tensor.file].reader),
        offset: tensor.entry.offset + (index * len) as u64,
        len,
    }
}

#[cfg(test)]
mod tests {
    use super::canonical;

    #[test]
    fn text_tensors_get_one_name_whatever_their_prefix() {
        for (name, expected) in [
            ("model.layers.0.mlp.gate.weight", Some("layers.0.mlp.gate.weight")),
            ("model.language_model.norm.weight", Some("norm.weight")),
            ("language_model.model.norm.weight", Some("norm.weight")),
            ("lm_head.weight", Some("lm_head.weight")),
            ("model.visual.blocks.0.attn.weight", None),
            ("mtp.fc.weight", None),
        ] {
            assert_eq!(canonical(name), expected);
        }
    }
}
