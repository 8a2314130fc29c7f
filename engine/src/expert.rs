//! One expert of a Mixture-of-Experts layer: three matrices in one buffer, as one read brings them.

mod ahead;
mod cache;
mod place;
pub(crate) mod policy;
mod probe;
mod reader;
mod readers;
mod store;
#[cfg(test)]
pub(crate) mod testing;

use std::sync::Arc;

use crate::backend::ExpertWeights;
use crate::io::Slot;
use crate::tensor::{MatrixRef, MatrixShape};

pub(crate) use ahead::Guess;
pub(crate) use probe::{probe, spread};
pub(crate) use reader::{Event, ExpertOptions, Experts, ReadCounts, Recorder, Visit};
pub(crate) use store::{Check, ExpertStore, LayerExperts, Numbers, Segment};

/// Which expert of which layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ExpertId {
    /// Layer index, from 0.
    pub(crate) layer: u32,
    /// Index within the layer, as the gate numbers them.
    pub(crate) expert: u32,
}

/// The three matrices of an expert, in the order of its bytes; the same for all experts of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ExpertLayout {
    /// [intermediate, hidden], first.
    pub(crate) gate: MatrixShape,
    /// [intermediate, hidden], after the gate.
    pub(crate) up: MatrixShape,
    /// [hidden, intermediate], after up.
    pub(crate) down: MatrixShape,
}

impl ExpertLayout {
    /// Bytes of gate, up and down. Panics if the shapes have no size: they are checked when a model
    /// is opened.
    pub(crate) fn sizes(&self) -> [usize; 3] {
        [self.gate, self.up, self.down]
            .map(|shape| shape.bytes().expect("shapes are checked when a model is opened"))
    }

    /// Bytes of the whole expert.
    pub(crate) fn bytes(&self) -> usize {
        self.sizes().iter().sum()
    }
}

/// An expert in memory. It outlives its eviction from the cache as long as somebody holds it.
pub(crate) struct Expert {
    slot: Slot,
    layout: Arc<ExpertLayout>,
    /// Where gate, up and down start in the slot.
    starts: [usize; 3],
}

impl Expert {
    /// The three matrices.
    pub(crate) fn weights(&self) -> ExpertWeights<'_> {
        let (sizes, bytes) = (self.layout.sizes(), self.slot.as_slice());
        let matrix = |shape, number: usize| {
            MatrixRef::new(shape, &bytes[self.starts[number]..][..sizes[number]])
        };
        ExpertWeights {
            gate: matrix(self.layout.gate, 0),
            up: matrix(self.layout.up, 1),
            down: matrix(self.layout.down, 2),
        }
    }

    /// Bytes of the three matrices.
    pub(crate) fn len(&self) -> usize {
        self.layout.bytes()
    }

    /// Takes the slot back for the next read.
    pub(crate) fn into_slot(self) -> Slot {
        self.slot
    }
}
