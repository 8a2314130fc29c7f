//! Experts that lie in tensors of a whole layer, or in three tensors each: Hugging Face and GGUF.
//!
//! Three shapes are known. Fused: `mlp.experts.gate_up_proj` [E, 2·I, H], gate rows first, and
//! `down_proj` [E, H, I]. Stacked: `gate_proj` and `up_proj` [E, I, H] and `down_proj`. One by one:
//! `mlp.experts.E.gate_proj.weight`. An expert is two or three slices of them: so many reads.

use std::sync::Arc;

use super::{ExpertDims, Tensor, Weights};
use crate::error::EngineError;
use crate::expert::{Check, ExpertLayout, LayerExperts, Numbers, Segment};
use crate::tensor::{DType, MatrixShape};

/// One of `count` equal parts of a tensor.
struct Piece<'a> {
    tensor: &'a Tensor,
    index: usize,
    count: usize,
}

/// Where the experts of a layer lie. Errors if a tensor is missing, has another shape, or if experts
/// of the layer have different types.
pub(super) fn of_layer(
    weights: &Weights,
    layer: usize,
    dims: ExpertDims,
    verify: bool,
) -> Result<LayerExperts, EngineError> {
    let first = pieces(weights, layer, 0, dims)?;
    let types = types(&first);
    let [gate, up, down] = types;
    let ExpertDims { count, hidden, intermediate } = dims;
    let shape = |dtype, rows, cols| MatrixShape { dtype, rows, cols };
    let layout = ExpertLayout {
        gate: shape(gate, intermediate, hidden),
        up: shape(up, intermediate, hidden),
        down: shape(down, hidden, intermediate),
    };
    let segments = (0..count)
        .map(|expert| {
            let pieces = pieces(weights, layer, expert, dims)?;
            if self::types(&pieces) != types {
                return Err(
                    weights.malformed(format!("experts of layer {layer} have different types"))
                );
            }
            Ok(pieces.iter().map(|piece| segment(weights, piece)).collect())
        })
        .collect::<Result<_, _>>()?;
    let check = match verify {
        true => Check::Numbers(Numbers::new(names(weights, layer, &first), count)),
        false => Check::Nothing,
    };
    Ok(LayerExperts { layout: Arc::new(layout), segments, check })
}

/// The slices of one expert, in the order gate, up, down.
fn pieces(
    weights: &Weights,
    layer: usize,
    expert: usize,
    dims: ExpertDims,
) -> Result<Vec<Piece<'_>>, EngineError> {
    let ExpertDims { count, hidden, intermediate } = dims;
    let prefix = format!("layers.{layer}.mlp.experts");
    let slice = |which: &str, rows: usize, cols: usize| {
        let tensor = weights.tensor(&format!("{prefix}.{which}_proj"), &[count, rows, cols])?;
        Ok(Piece { tensor, index: expert, count })
    };
    if weights.has(&format!("{prefix}.gate_up_proj")) {
        return Ok(vec![
            slice("gate_up", 2 * intermediate, hidden)?,
            slice("down", hidden, intermediate)?,
        ]);
    }
    if weights.has(&format!("{prefix}.down_proj")) {
        return Ok(vec![
            slice("gate", intermediate, hidden)?,
            slice("up", intermediate, hidden)?,
            slice("down", hidden, intermediate)?,
        ]);
    }
    let alone = |which: &str, rows: usize, cols: usize| {
        let name = format!("{prefix}.{expert}.{which}_proj.weight");
        Ok(Piece { tensor: weights.tensor(&name, &[rows, cols])?, index: 0, count: 1 })
    };
    Ok(vec![
        alone("gate", intermediate, hidden)?,
        alone("up", intermediate, hidden)?,
        alone("down", hidden, intermediate)?,
    ])
}

/// Names of the tensors of gate, up and down, as errors have them; `*` stands for each expert.
fn names(weights: &Weights, layer: usize, pieces: &[Piece<'_>]) -> [String; 3] {
    let parts: [&str; 3] = match pieces {
        [_, _] => ["gate_up_proj", "gate_up_proj", "down_proj"],
        [gate, ..] if gate.count == 1 => {
            ["*.gate_proj.weight", "*.up_proj.weight", "*.down_proj.weight"]
        }
        _ => ["gate_proj", "up_proj", "down_proj"],
    };
    parts.map(|part| weights.known_as(&format!("layers.{layer}.mlp.experts.{part}")))
}

/// Types of gate, up and down; a fused tensor has one for the first two.
fn types(pieces: &[Piece<'_>]) -> [DType; 3] {
    let last = pieces.len() - 1;
    [0, last - 1, last].map(|i| pieces[i].tensor.dtype)
}

fn segment(weights: &Weights, piece: &Piece<'_>) -> Segment {
    let Piece { tensor, index, count } = piece;
    let len = tensor.len / count;
    Segment {
        file: Arc::clone(&weights.files[tensor.file]),
        offset: tensor.offset + (index * len) as u64,
        len,
    }
}
