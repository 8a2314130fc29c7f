//! What a family makes of a config: the parts of a model and their sizes, before any weight is read.
//!
//! A family's file turns a config into a [`Blueprint`]; [`super::layers`] turns the blueprint and a
//! source of weights into layers. So a family is one file that computes nothing, plus its place in
//! [`FAMILIES`].

use std::path::Path;

use serde_json::Value;

use super::config::{Fields, ModelConfig};
use super::{qwen2_moe, qwen3_5_moe, qwen3_moe, qwen3_next};
use crate::backend::{AttentionShape, DeltaShape, HeadOrder};
use crate::error::EngineError;
use crate::weights::{ExpertDims, Form};

/// A family: the names it goes by and how its config reads.
pub(super) struct Family {
    /// `model_type`s in config.json; the first is the family's name.
    pub(super) model_types: &'static [&'static str],
    /// What GGUF files of it leave open.
    pub(super) gguf: GgufFamily,
    /// Reads and checks a config.
    pub(super) read: fn(&Fields<'_>) -> Result<Blueprint, EngineError>,
}

/// A family as GGUF knows it: what its keys do not say.
#[derive(Debug)]
pub(crate) struct GgufFamily {
    /// `general.architecture`.
    pub(crate) architecture: &'static str,
    /// Delta nets with attention every few layers.
    pub(crate) hybrid: bool,
    /// The chosen experts' weights are scaled to sum 1 unless a key says otherwise.
    pub(crate) norm_topk: bool,
    pub(crate) shared_expert: bool,
}

/// All families that this engine runs.
const FAMILIES: [&Family; 4] =
    [&qwen3_5_moe::FAMILY, &qwen3_next::FAMILY, &qwen3_moe::FAMILY, &qwen2_moe::FAMILY];

/// The families by their names in configs, as GGUF knows them.
pub(crate) fn gguf_families() -> impl Iterator<Item = (&'static str, &'static GgufFamily)> {
    FAMILIES.into_iter().map(|family| (family.model_types[0], &family.gguf))
}

/// A model's parts and their sizes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Blueprint {
    pub(super) config: ModelConfig,
    pub(super) norms: Norms,
    pub(super) attention: AttentionPlan,
    /// Of families that have delta nets.
    pub(super) delta: Option<DeltaPlan>,
    pub(super) moe: MoePlan,
    /// Width inside a feed-forward network without experts.
    pub(super) mlp_intermediate: usize,
    pub(super) layers: Vec<LayerPlan>,
}

/// How the weights of RMS norms are stored in [`Form::Transformers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Norms {
    /// Ready to multiply.
    Plain,
    /// Less one.
    ZeroCentred,
}

/// Attention layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AttentionPlan {
    pub(super) shape: AttentionShape,
    /// Each head's output passes a sigmoid gate.
    pub(super) gated: bool,
    /// Q and K are normalised head by head.
    pub(super) qk_norm: bool,
    /// Q, K and V have biases.
    pub(super) qkv_bias: bool,
    /// The output has a bias.
    pub(super) o_bias: bool,
}

/// Delta net layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DeltaPlan {
    pub(super) shape: DeltaShape,
    pub(super) conv_width: usize,
    /// Order of the value heads in [`Form::Ggml`]; grouped in the other.
    pub(super) ggml_order: HeadOrder,
}

/// Expert layers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct MoePlan {
    pub(super) experts: ExpertDims,
    /// Experts that a token uses.
    pub(super) chosen: usize,
    /// Experts that a token used in training.
    pub(super) trained: usize,
    /// Chosen probabilities are scaled to sum 1.
    pub(super) normalise: bool,
    /// An expert that is not in memory and has a smaller share of a row's gate is left out; 0: none.
    pub(super) drop_below: f32,
    /// Width inside the shared expert, if there is one.
    pub(super) shared: Option<usize>,
}

/// What one layer is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LayerPlan {
    pub(super) mixer: MixerKind,
    pub(super) feed_forward: FeedForwardKind,
}

/// What mixes positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MixerKind {
    Attention,
    DeltaNet,
}

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FeedForwardKind {
    Moe,
    Mlp,
}

impl Blueprint {
    /// Reads a config, nested or flat. Errors name the field, or the families that work.
    pub(crate) fn read(path: &Path, config: &Value) -> Result<Self, EngineError> {
        let f = Fields::new(path, config);
        let model_type = f.model_type();
        let family = FAMILIES.iter().find(|family| family.model_types.contains(&model_type));
        let names: Vec<_> = FAMILIES.iter().map(|family| family.model_types[0]).collect();
        let blueprint = (family.ok_or_else(|| f.unsupported(&names))?.read)(&f)?;
        blueprint.check(&f)?;
        Ok(blueprint)
    }

    fn check(&self, f: &Fields<'_>) -> Result<(), EngineError> {
        if self.moe.chosen > self.moe.experts.count {
            return Err(f.error("num_experts_per_tok", "is more than num_experts"));
        }
        if self.expert_layers().iter().all(Option::is_none) {
            return Err(f.error("mlp_only_layers", "leaves no layer with experts"));
        }
        Ok(())
    }

    /// Sizes that every family has.
    pub(crate) fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Shapes of the experts, for each layer that has some.
    pub(crate) fn expert_layers(&self) -> Vec<Option<ExpertDims>> {
        let dims = |layer: &LayerPlan| match layer.feed_forward {
            FeedForwardKind::Moe => Some(self.moe.experts),
            FeedForwardKind::Mlp => None,
        };
        self.layers.iter().map(dims).collect()
    }

    /// Experts in a layer that has some.
    pub(crate) fn experts(&self) -> usize {
        self.moe.experts.count
    }

    /// Experts that a token uses in a layer.
    pub(crate) fn experts_per_token(&self) -> usize {
        self.moe.chosen
    }

    /// Uses fewer experts than the model was trained with; faster and less exact. Errors unless there
    /// is at least one and no more than the config says.
    pub(crate) fn limit_experts(&mut self, chosen: usize) -> Result<(), EngineError> {
        if (1..=self.moe.trained).contains(&chosen) {
            self.moe.chosen = chosen;
            return Ok(());
        }
        Err(EngineError::InvalidRequest(format!(
            "active experts: expected 1 to {}, which the model was trained with, got {chosen}",
            self.moe.trained
        )))
    }

    /// Leaves out experts that are not in memory and whose share of a row's gate is below that. Errors
    /// unless it is above zero and no more than an even share: the heaviest expert is never left out.
    pub(crate) fn drop_cold_experts(&mut self, below: f32) -> Result<(), EngineError> {
        let even = 1.0 / self.moe.chosen as f32;
        if below > 0.0 && below <= even {
            self.moe.drop_below = below;
            return Ok(());
        }
        Err(EngineError::InvalidRequest(format!(
            "drop cold experts: expected a share above 0 and up to {even}, which each of {} active \
             experts has if all weigh the same, got {below}",
            self.moe.chosen
        )))
    }

    /// What makes this model's replies worse than its training does: `active_experts=3/4`,
    /// `drop_cold_experts=0.1`.
    pub(crate) fn lossy(&self) -> Vec<String> {
        let MoePlan { chosen, trained, drop_below, .. } = self.moe;
        let fewer = (chosen < trained).then(|| format!("active_experts={chosen}/{trained}"));
        let dropped = (drop_below > 0.0).then(|| format!("drop_cold_experts={drop_below}"));
        fewer.into_iter().chain(dropped).collect()
    }

    /// The delta nets' shape for weights of that form.
    pub(super) fn delta_shape(&self, form: Form) -> Option<DeltaShape> {
        let plan = self.delta?;
        let order = match form {
            Form::Transformers => HeadOrder::Grouped,
            Form::Ggml => plan.ggml_order,
        };
        Some(DeltaShape { order, ..plan.shape })
    }
}

/// Reads the shape of delta nets.
pub(super) fn read_delta(f: &Fields<'_>, ggml_order: HeadOrder) -> Result<DeltaPlan, EngineError> {
    let shape = DeltaShape {
        key_heads: f.size("linear_num_key_heads")?,
        value_heads: f.size("linear_num_value_heads")?,
        key_dim: f.size("linear_key_head_dim")?,
        value_dim: f.size("linear_value_head_dim")?,
        order: HeadOrder::Grouped,
    };
    if !shape.value_heads.is_multiple_of(shape.key_heads) {
        return Err(f.error("linear_num_key_heads", "does not divide linear_num_value_heads"));
    }
    Ok(DeltaPlan { shape, conv_width: f.size("linear_conv_kernel_dim")?, ggml_order })
}

/// Reads the shape of expert layers. transformers saves Qwen3's `num_experts` under another name.
pub(super) fn read_moe(
    f: &Fields<'_>,
    hidden: usize,
    normalise: bool,
    shared: Option<usize>,
) -> Result<MoePlan, EngineError> {
    let other = "num_local_experts";
    let count = if f.get(other).is_some() { f.size(other)? } else { f.size("num_experts")? };
    let intermediate = f.size("moe_intermediate_size")?;
    let trained = f.size("num_experts_per_tok")?;
    Ok(MoePlan {
        experts: ExpertDims { count, hidden, intermediate },
        chosen: trained,
        trained,
        normalise,
        drop_below: 0.0,
        shared,
    })
}

/// Attention in every layer.
pub(super) fn attention_everywhere(layers: usize) -> Vec<MixerKind> {
    vec![MixerKind::Attention; layers]
}

/// Attention where `layer_types` says so, else in every `full_attention_interval`-th layer (4 in
/// transformers' config classes); delta nets in between.
pub(super) fn read_mixers(f: &Fields<'_>, layers: usize) -> Result<Vec<MixerKind>, EngineError> {
    let Some(kinds) = f.strings("layer_types")? else {
        let interval = f.size_or("full_attention_interval", 4)?;
        let kind = |i: usize| match i.is_multiple_of(interval) {
            true => MixerKind::Attention,
            false => MixerKind::DeltaNet,
        };
        return Ok((1..=layers).map(kind).collect());
    };
    if kinds.len() != layers {
        return Err(f.error("layer_types", &format!("lists {} of {layers} layers", kinds.len())));
    }
    let kind = |kind| match kind {
        "full_attention" => Ok(MixerKind::Attention),
        "linear_attention" => Ok(MixerKind::DeltaNet),
        other => Err(f.error("layer_types", &format!("{other:?} is not a known kind"))),
    };
    kinds.into_iter().map(kind).collect()
}

/// Adds to each mixer its feed-forward half: experts in every layer.
pub(super) fn experts_everywhere(mixers: Vec<MixerKind>) -> Vec<LayerPlan> {
    let plan = |mixer| LayerPlan { mixer, feed_forward: FeedForwardKind::Moe };
    mixers.into_iter().map(plan).collect()
}

/// Adds to each mixer its feed-forward half: experts in every `decoder_sparse_step`-th layer (1 in
/// transformers' config classes) that `mlp_only_layers` does not name.
pub(super) fn read_feed_forwards(
    f: &Fields<'_>,
    mixers: Vec<MixerKind>,
) -> Result<Vec<LayerPlan>, EngineError> {
    let step = f.size_or("decoder_sparse_step", 1)?;
    let dense = f.layer_numbers("mlp_only_layers")?;
    let kind = |i: usize| match (i + 1).is_multiple_of(step) && !dense.contains(&(i as u64)) {
        true => FeedForwardKind::Moe,
        false => FeedForwardKind::Mlp,
    };
    let plan = |(i, mixer)| LayerPlan { mixer, feed_forward: kind(i) };
    Ok(mixers.into_iter().enumerate().map(plan).collect())
}

/// Width of networks without experts; needed only where a layer has one.
pub(super) fn read_mlp_width(f: &Fields<'_>, layers: &[LayerPlan]) -> Result<usize, EngineError> {
    if layers.iter().any(|l| l.feed_forward == FeedForwardKind::Mlp) {
        return f.size("intermediate_size");
    }
    Ok(0)
}

#[cfg(test)]
mod tests;
