//! Layer shapes of published models, as their config files have them.

/// The sizes that a model of random weights takes from a real one.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    /// Name of the published model, in lower case.
    pub(crate) name: &'static str,
    pub(crate) family: Family,
    pub(crate) hidden: usize,
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) experts: usize,
    /// Experts that a token uses in a layer.
    pub(crate) chosen: usize,
    /// Width inside an expert.
    pub(crate) intermediate: usize,
    pub(crate) vocab: usize,
}

/// What the layers are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// `qwen3moe`: attention in every layer, no shared expert.
    Attention,
    /// `qwen35moe`: delta nets, gated attention in every fourth layer, a shared expert as wide as the
    /// others.
    Hybrid {
        /// Value heads of a delta net; there are 16 key heads.
        value_heads: usize,
    },
}

/// Key heads of a delta net in all published models of the family.
pub(super) const KEY_HEADS: usize = 16;
/// Layers from one attention layer to the next.
pub(super) const ATTENTION_INTERVAL: usize = 4;

impl Shape {
    /// Whether a layer's mixer is a delta net.
    pub(super) fn is_recurrent(&self, layer: usize) -> bool {
        self.family != Family::Attention && !(layer + 1).is_multiple_of(ATTENTION_INTERVAL)
    }

    /// Features of a delta net's heads: half of an attention head's, 128 in the published models.
    pub(super) fn delta_dim(&self) -> usize {
        self.head_dim / 2
    }

    /// Rotated features of an attention head.
    pub(super) fn rotary_dim(&self) -> usize {
        if self.family == Family::Attention { self.head_dim } else { self.head_dim / 4 }
    }
}

/// The published models whose shapes are known. Qwen3.6-35B-A3B has the shapes of Qwen3.5's.
pub(super) const ALL: &[Shape] = &[
    Shape {
        name: "qwen3-30b-a3b",
        family: Family::Attention,
        hidden: 2048,
        layers: 48,
        heads: 32,
        kv_heads: 4,
        head_dim: 128,
        experts: 128,
        chosen: 8,
        intermediate: 768,
        vocab: 151_936,
    },
    Shape {
        name: "qwen3-235b-a22b",
        family: Family::Attention,
        hidden: 4096,
        layers: 94,
        heads: 64,
        kv_heads: 4,
        head_dim: 128,
        experts: 128,
        chosen: 8,
        intermediate: 1536,
        vocab: 151_936,
    },
    Shape {
        name: "qwen3.5-35b-a3b",
        family: Family::Hybrid { value_heads: 32 },
        hidden: 2048,
        layers: 40,
        heads: 16,
        kv_heads: 2,
        head_dim: 256,
        experts: 256,
        chosen: 8,
        intermediate: 512,
        vocab: 248_320,
    },
    Shape {
        name: "qwen3.5-122b-a10b",
        family: Family::Hybrid { value_heads: 64 },
        hidden: 3072,
        layers: 48,
        heads: 32,
        kv_heads: 2,
        head_dim: 256,
        experts: 256,
        chosen: 8,
        intermediate: 1024,
        vocab: 248_320,
    },
    Shape {
        name: "qwen3.5-397b-a17b",
        family: Family::Hybrid { value_heads: 64 },
        hidden: 4096,
        layers: 60,
        heads: 32,
        kv_heads: 2,
        head_dim: 256,
        experts: 512,
        chosen: 10,
        intermediate: 1024,
        vocab: 248_320,
    },
];
