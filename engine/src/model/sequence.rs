//! What a model remembers of one conversation: a state for each layer, and how many tokens it has seen.

use super::delta_net::DeltaState;
use crate::kv_cache::KvCache;

/// One conversation's state. A hybrid model's state cannot be rewound: it only advances.
#[derive(Clone)]
pub(crate) struct Sequence {
    layers: Vec<LayerState>,
    position: usize,
}

/// State of one layer.
#[derive(Clone)]
pub(crate) enum LayerState {
    /// All keys and values.
    Attention(KvCache),
    /// A matrix of fixed size and the last inputs of the convolution.
    DeltaNet(DeltaState),
}

impl Sequence {
    pub(super) fn new(layers: Vec<LayerState>) -> Self {
        Sequence { layers, position: 0 }
    }

    /// Tokens seen so far.
    pub(crate) fn position(&self) -> usize {
        self.position
    }

    pub(super) fn advance(&mut self, tokens: usize) {
        self.position += tokens;
    }

    /// The KV cache of an attention layer. Panics on another layer (caller bug).
    pub(super) fn kv(&mut self, layer: usize) -> &mut KvCache {
        match &mut self.layers[layer] {
            LayerState::Attention(cache) => cache,
            LayerState::DeltaNet(_) => panic!("layer {layer} is a delta net"),
        }
    }

    /// The state of a delta net layer. Panics on another layer (caller bug).
    pub(super) fn delta(&mut self, layer: usize) -> &mut DeltaState {
        match &mut self.layers[layer] {
            LayerState::DeltaNet(state) => state,
            LayerState::Attention(_) => panic!("layer {layer} is attention"),
        }
    }
}
