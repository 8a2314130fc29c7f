//! Opening a pack: dense tensors from `dense-*.safetensors`, one aligned read for each expert from
//! `experts-LLLLL.safetensors`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::manifest::{LayerSpec, Manifest, TensorSpec};
use super::side_files::SideFiles;
use super::{ExpertDims, Format, SafetensorsFile, Tensor, Weights};
use crate::error::EngineError;
use crate::expert::{Check, ExpertLayout, LayerExperts, Segment};
use crate::tensor::{ALIGNMENT, MatrixShape};

pub(super) fn open(dir: &Path) -> Result<Weights, EngineError> {
    let manifest = Manifest::read(dir)?;
    let malformed = |what| EngineError::Malformed { path: dir.to_owned(), what };
    let (mut files, mut tensors) = (Vec::new(), BTreeMap::new());
    for (name, entry) in &manifest.files {
        if !is_plain_name(name) {
            return Err(malformed(format!("lists the file {name:?}, which is not a plain name")));
        }
        let path = dir.join(name);
        let len = std::fs::metadata(&path)
            .map_err(|source| EngineError::Read { path: path.clone(), source })?
            .len();
        if len != entry.bytes {
            return Err(malformed(format!(
                "{name} is {len} bytes long, the manifest says {}; the file is cut or from another \
                 pack",
                entry.bytes
            )));
        }
        if !name.ends_with(".safetensors") {
            continue;
        }
        let file = SafetensorsFile::open(&path)?;
        if name.starts_with("dense-") {
            for (tensor, entry) in &file.tensors {
                let spec = manifest.dense.get(tensor).ok_or_else(|| {
                    malformed(format!("{name} has a tensor {tensor:?} that the manifest lacks"))
                })?;
                let dtype = spec.dtype(tensor).map_err(malformed)?;
                tensors.insert(
                    tensor.clone(),
                    Tensor {
                        file: files.len(),
                        offset: entry.offset,
                        len: entry.len,
                        dtype,
                        shape: spec.shape.clone(),
                    },
                );
            }
        }
        files.push(file);
    }
    Ok(Weights {
        origin: dir.to_owned(),
        files: files.iter().map(|file| Arc::clone(&file.reader)).collect(),
        tensors,
        form: manifest.form(),
        format: Format::Pack { manifest: Box::new(manifest), files },
        side: SideFiles::Folder(dir.to_owned()),
    })
}

/// A file name without any folder, so that a manifest cannot point outside its pack.
fn is_plain_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!(
        (parts.next(), parts.next()),
        (Some(std::path::Component::Normal(part)), None) if part == name
    )
}

pub(super) fn layer_experts(
    weights: &Weights,
    manifest: &Manifest,
    files: &[SafetensorsFile],
    layer: usize,
    dims: ExpertDims,
    verify: bool,
) -> Result<LayerExperts, EngineError> {
    let spec = manifest
        .experts
        .iter()
        .find(|s| s.layer == layer)
        .ok_or_else(|| weights.malformed(format!("has no experts for layer {layer}")))?;
    let file = files
        .iter()
        .find(|f| f.reader.path().file_name().is_some_and(|n| n == spec.file.as_str()))
        .ok_or_else(|| weights.malformed(format!("does not list {:?}", spec.file)))?;
    let malformed = |what| EngineError::Malformed { path: file.reader.path().to_owned(), what };
    let layout = layout(spec, dims).map_err(malformed)?;
    let sizes = layout.sizes();
    let mut segments = Vec::with_capacity(spec.count);
    for expert in 0..spec.count {
        // The three matrices must lie one after another from an aligned start: one read.
        let mut offset = None;
        for (which, size) in ["gate", "up", "down"].into_iter().zip(sizes) {
            let name = format!("layers.{layer}.experts.{expert}.{which}");
            let entry = file
                .tensors
                .get(&name)
                .ok_or_else(|| malformed(format!("has no tensor {name:?}")))?;
            let expected = offset.map_or(entry.offset, |(_, end)| end);
            let aligned = offset.is_some() || entry.offset.is_multiple_of(ALIGNMENT as u64);
            if entry.len != size || entry.offset != expected || !aligned {
                return Err(malformed(format!(
                    "tensor {name:?} of {} bytes at offset {} is not where a pack has it; pack the \
                     model again",
                    entry.len, entry.offset
                )));
            }
            let start = offset.map_or(entry.offset, |(start, _)| start);
            offset = Some((start, entry.offset + entry.len as u64));
        }
        let (start, end) = offset.expect("three matrices were seen");
        segments.push(vec![Segment {
            file: Arc::clone(&file.reader),
            offset: start,
            len: (end - start) as usize,
        }]);
    }
    let check = match verify {
        true => Check::Checksums(checksums(file, spec.count).map_err(malformed)?),
        false => Check::Nothing,
    };
    Ok(LayerExperts { layout: Arc::new(layout), segments, check })
}

fn layout(spec: &LayerSpec, dims: ExpertDims) -> Result<ExpertLayout, String> {
    let ExpertDims { count, hidden, intermediate } = dims;
    if spec.count != count {
        return Err(format!("has {} experts, the config implies {count}", spec.count));
    }
    let shape = |name: &str, spec: &TensorSpec, rows: usize, cols: usize| {
        let dtype = spec.dtype(name)?;
        let shape = MatrixShape { dtype, rows, cols };
        if spec.shape != [rows, cols] || shape.bytes().is_none() {
            return Err(format!(
                "an expert's {name} has the type {dtype} and shape {:?}, the config implies \
                 [{rows}, {cols}]",
                spec.shape
            ));
        }
        Ok(shape)
    };
    Ok(ExpertLayout {
        gate: shape("gate", &spec.gate, intermediate, hidden)?,
        up: shape("up", &spec.up, intermediate, hidden)?,
        down: shape("down", &spec.down, hidden, intermediate)?,
    })
}

/// The CRC32C of each expert, from the file's metadata: hexadecimal, separated by spaces.
fn checksums(file: &SafetensorsFile, count: usize) -> Result<Vec<u32>, String> {
    let text =
        file.metadata.get(CHECKSUMS).ok_or_else(|| format!("has no {CHECKSUMS} metadata"))?;
    let sums = text
        .split(' ')
        .map(|s| u32::from_str_radix(s, 16))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| format!("{CHECKSUMS} metadata: {e}"))?;
    if sums.len() == count {
        Ok(sums)
    } else {
        Err(format!("{CHECKSUMS} metadata lists {} experts, not {count}", sums.len()))
    }
}

/// Metadata key of the experts' checksums.
pub(crate) const CHECKSUMS: &str = "crc32c";
