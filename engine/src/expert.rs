//! One expert of a Mixture-of-Experts layer: three matrices in one buffer, as one read brings them.

mod cache;
mod reader;
mod store;

use std::sync::Arc;

use crate::backend::ExpertWeights;
use crate::tensor::{AlignedBytes, MatrixRef, MatrixShape};

pub(crate) use reader::Experts;
pub(crate) use store::{ExpertStore, LayerExperts, Segment};

/// Which expert of which layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ExpertId {
    /// Layer index, from 0.
    pub(crate) layer: u32,
    /// Index within the layer, as the gate numbers them.
    pub(crate) expert: u32,
}

/// Where the three matrices of an expert lie in its buffer; the same for all experts of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ExpertLayout {
    /// [intermediate, hidden], at byte 0.
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
    bytes: AlignedBytes,
    layout: Arc<ExpertLayout>,
}

impl Expert {
    /// The three matrices.
    pub(crate) fn weights(&self) -> ExpertWeights<'_> {
        let [gate, up, down] = self.layout.sizes();
        let bytes = self.bytes.as_slice();
        ExpertWeights {
            gate: MatrixRef::new(self.layout.gate, &bytes[..gate]),
            up: MatrixRef::new(self.layout.up, &bytes[gate..gate + up]),
            down: MatrixRef::new(self.layout.down, &bytes[gate + up..gate + up + down]),
        }
    }

    /// Bytes in memory.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Takes the buffer back for the next read.
    pub(crate) fn into_bytes(self) -> AlignedBytes {
        self.bytes
    }
}
