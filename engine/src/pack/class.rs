//! Classes of tensors: for each of them a packer chooses a type.
//!
//! Experts are most of a model and forgive low precision, because a token averages several of them;
//! what every token passes through does not. Small matrices on which much depends (gates, the delta
//! net's decay and strength, its convolution) and vectors are never converted to blocks.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::expert::ExpertStore;
use crate::tensor::DType;
use crate::weights::Weights;

/// What a tensor is, for the choice of its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TensorClass {
    /// Gate, up and down matrices of the experts.
    Experts,
    /// Projections of attention and delta nets.
    Attention,
    /// Shared experts, and the networks of layers without experts.
    FeedForward,
    /// The embedding, which may also serve as the output matrix.
    Embedding,
    /// The output matrix, where it is one of its own.
    Output,
    /// What keeps its own type: gates, decays, convolutions, norms, biases.
    Small,
}

impl TensorClass {
    /// The classes whose types can be chosen beside the experts', as `--dense` does for all of them.
    pub const DENSE: [TensorClass; 4] = [
        TensorClass::Attention,
        TensorClass::FeedForward,
        TensorClass::Embedding,
        TensorClass::Output,
    ];

    /// The name in manifests and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            TensorClass::Experts => "experts",
            TensorClass::Attention => "attention",
            TensorClass::FeedForward => "feed_forward",
            TensorClass::Embedding => "embedding",
            TensorClass::Output => "output",
            TensorClass::Small => "small",
        }
    }

    /// The class of a dense tensor, by its canonical name and logical shape.
    pub(super) fn of(name: &str, shape: &[usize]) -> TensorClass {
        let is_matrix = shape.iter().filter(|d| **d != 1).count() == 2;
        if !is_matrix || SMALL.iter().any(|suffix| name.ends_with(suffix)) {
            TensorClass::Small
        } else if name.starts_with("embed_tokens.") {
            TensorClass::Embedding
        } else if name.starts_with("lm_head.") {
            TensorClass::Output
        } else if name.contains(".self_attn.") || name.contains(".linear_attn.") {
            TensorClass::Attention
        } else {
            TensorClass::FeedForward
        }
    }
}

/// Matrices that keep their own type.
const SMALL: [&str; 6] = [
    "mlp.gate.weight",
    "shared_expert_gate.weight",
    "in_proj_a.weight",
    "in_proj_b.weight",
    "in_proj_ba.weight",
    "conv1d.weight",
];

/// The types of the tensors of one class, with their bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClassTypes {
    /// The class.
    pub class: TensorClass,
    /// GGUF names of types with the bytes stored in them, most bytes first.
    pub types: Vec<(String, u64)>,
}

/// Bytes by class and type.
#[derive(Default)]
pub(super) struct Census(BTreeMap<TensorClass, Vec<(DType, u64)>>);

impl Census {
    /// What a model has as it lies there.
    pub(super) fn of(weights: &Weights, store: &ExpertStore) -> Self {
        let mut census = Census::default();
        for (name, dtype, shape) in weights.dense() {
            let bytes = weights.place(name).2 as u64;
            census.add(TensorClass::of(name, shape), dtype, bytes);
        }
        for layer in 0..store.layers() {
            let Some(layout) = store.layout(layer) else { continue };
            for (shape, bytes) in [layout.gate, layout.up, layout.down].iter().zip(layout.sizes()) {
                census.add(TensorClass::Experts, shape.dtype, (bytes * store.count(layer)) as u64);
            }
        }
        census
    }

    pub(super) fn add(&mut self, class: TensorClass, dtype: DType, bytes: u64) {
        let types = self.0.entry(class).or_default();
        match types.iter_mut().find(|(known, _)| *known == dtype) {
            Some((_, sum)) => *sum += bytes,
            None => types.push((dtype, bytes)),
        }
    }

    /// Whether there are tensors of that class.
    pub(super) fn has(&self, class: TensorClass) -> bool {
        self.0.contains_key(&class)
    }

    /// The classes that there are, in their order.
    pub(super) fn classes(mut self) -> Vec<ClassTypes> {
        self.0.values_mut().for_each(|types| types.sort_by_key(|(_, b)| std::cmp::Reverse(*b)));
        let named = |(dtype, bytes): (DType, u64)| (dtype.name().to_owned(), bytes);
        let one = |(class, types): (TensorClass, Vec<(DType, u64)>)| ClassTypes {
            class,
            types: types.into_iter().map(named).collect(),
        };
        self.0.into_iter().map(one).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tensor_has_the_class_that_its_name_and_shape_say() {
        for (name, shape, expected) in [
            ("embed_tokens.weight", [8, 4].as_slice(), TensorClass::Embedding),
            ("lm_head.weight", &[8, 4], TensorClass::Output),
            ("norm.weight", &[4], TensorClass::Small),
            ("layers.0.self_attn.q_proj.weight", &[8, 4], TensorClass::Attention),
            ("layers.0.self_attn.q_proj.bias", &[8], TensorClass::Small),
            ("layers.0.linear_attn.in_proj_qkvz.weight", &[8, 4], TensorClass::Attention),
            ("layers.0.linear_attn.in_proj_ba.weight", &[8, 4], TensorClass::Small),
            ("layers.0.linear_attn.conv1d.weight", &[8, 1, 4], TensorClass::Small),
            ("layers.0.mlp.gate.weight", &[8, 4], TensorClass::Small),
            ("layers.0.mlp.gate_proj.weight", &[8, 4], TensorClass::FeedForward),
            ("layers.0.mlp.shared_expert.up_proj.weight", &[8, 4], TensorClass::FeedForward),
            ("layers.0.mlp.shared_expert_gate.weight", &[1, 4], TensorClass::Small),
        ] {
            assert_eq!(TensorClass::of(name, shape), expected, "{name}");
        }
    }
}
