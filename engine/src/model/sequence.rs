//! What a model remembers of one conversation: a state for each layer, and how many tokens it has seen.

use std::io::{self, Read, Write};

use super::delta_net::DeltaState;
use crate::checkpoint::{Mark, State};
use crate::kv_cache::KvCache;

/// One conversation's state. A hybrid model's state cannot be rewound: it only advances. Copies share
/// keys and values.
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

impl Mark<Sequence> {
    /// Adds the state of the next layer; the sequence had read `before` tokens when the pass began.
    pub(super) fn note_layer(&mut self, before: usize, state: LayerState) {
        let position = before + self.at;
        let taken = self.taken.get_or_insert_with(|| Sequence { layers: Vec::new(), position });
        taken.layers.push(state);
    }

    /// Completes the last layer, a delta net, whose memory is known later than the rest.
    pub(super) fn note_memory(&mut self, memory: &[f32]) {
        match self.taken.as_mut().and_then(|taken| taken.layers.last_mut()) {
            Some(LayerState::DeltaNet(state)) => state.set_memory(memory),
            _ => panic!("a mark's memory belongs to the delta net that was noted last"),
        }
    }
}

impl State for Sequence {
    fn position(&self) -> usize {
        self.position
    }

    fn pieces(&self, piece: &mut dyn FnMut(usize, u64)) -> u64 {
        let own = |layer: &LayerState| match layer {
            LayerState::Attention(cache) => cache.pieces(piece),
            LayerState::DeltaNet(state) => {
                state.parts().iter().map(|part| size_of_val(*part) as u64).sum()
            }
        };
        let layers: u64 = self.layers.iter().map(own).sum();
        layers + (self.layers.capacity() * size_of::<LayerState>()) as u64
    }

    fn rewound(&self, position: usize) -> Option<Sequence> {
        let rewind = |layer: &LayerState| match layer {
            LayerState::Attention(cache) => Some(LayerState::Attention(cache.first(position))),
            LayerState::DeltaNet(_) => None,
        };
        let layers = self.layers.iter().map(rewind).collect::<Option<_>>()?;
        Some(Sequence { layers, position })
    }

    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&(self.position as u64).to_le_bytes())?;
        for layer in &self.layers {
            match layer {
                LayerState::Attention(cache) => {
                    for (keys, values) in cache.blocks() {
                        out.write_all(bytemuck::cast_slice(keys))?;
                        out.write_all(bytemuck::cast_slice(values))?;
                    }
                }
                LayerState::DeltaNet(state) => {
                    for part in state.parts() {
                        out.write_all(bytemuck::cast_slice(part))?;
                    }
                }
            }
        }
        Ok(())
    }

    fn read(&mut self, input: &mut dyn Read) -> io::Result<()> {
        let mut position = [0; 8];
        input.read_exact(&mut position)?;
        let position = u64::from_le_bytes(position) as usize;
        for layer in &mut self.layers {
            match layer {
                LayerState::Attention(cache) => cache.read(position, input)?,
                LayerState::DeltaNet(state) => {
                    for part in state.parts_mut() {
                        input.read_exact(bytemuck::cast_slice_mut(part))?;
                    }
                }
            }
        }
        self.position = position;
        Ok(())
    }
}
