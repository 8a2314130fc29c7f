//! The tensors that a model wants and their shapes, all of which follow from its config.
//!
//! Loading asks for a tensor by its role and gets the shape from here; whoever describes, plans or packs
//! a model without loading it checks all of them first, from the headers alone. So a config that
//! contradicts the tensors, or a tensor that is missing, is the same error everywhere, before a size is
//! computed with or a byte is written. Not here: experts, which a source checks when it finds them.

use serde_json::Value;

use super::blueprint::{Blueprint, DeltaPlan, FeedForwardKind, LayerPlan, MixerKind};
use crate::error::EngineError;
use crate::weights::{Role, Weights, canonical_name, side_files};

/// Norms that every layer has.
const NORMS: [Role; 2] = [Role::InputNorm, Role::PostNorm];
const ATTENTION: [Role; 4] = [Role::AttnQ, Role::AttnK, Role::AttnV, Role::AttnO];
const HEAD_NORMS: [Role; 2] = [Role::AttnQNorm, Role::AttnKNorm];
const QKV_BIASES: [Role; 3] = [Role::AttnQBias, Role::AttnKBias, Role::AttnVBias];
const DELTA: [Role; 5] =
    [Role::DeltaConv, Role::DeltaRate, Role::DeltaDtBias, Role::DeltaNorm, Role::DeltaOut];
const SHARED: [Role; 4] = [Role::SharedGate, Role::SharedUp, Role::SharedDown, Role::SharedScale];
const MLP: [Role; 3] = [Role::MlpGate, Role::MlpUp, Role::MlpDown];

impl Blueprint {
    /// The blueprint of a model that is open: its config, and every tensor outside the experts there in
    /// the shape that follows. Errors name the field or the tensor. Reads headers only.
    pub(crate) fn of(weights: &Weights, config: &Value) -> Result<Self, EngineError> {
        let blueprint = Blueprint::read(&weights.side().path(side_files::CONFIG), config)?;
        let check =
            |layer, role| weights.check(&canonical_name(layer, role), &blueprint.shape(role));
        check(None, Role::Embedding)?;
        check(None, Role::Norm)?;
        if !blueprint.config.tied {
            check(None, Role::Head)?;
        }
        for (index, layer) in blueprint.layers.iter().enumerate() {
            let has = |role| weights.has(&canonical_name(Some(index), role));
            for role in blueprint.roles(*layer, has) {
                check(Some(index), role)?;
            }
        }
        Ok(blueprint)
    }

    /// What a layer has; `has` says which of two forms its tensors have.
    fn roles(&self, layer: LayerPlan, has: impl Fn(Role) -> bool) -> Vec<Role> {
        let mut roles = NORMS.to_vec();
        let mut add = |wanted: bool, list: &[Role]| {
            roles.extend(list.iter().filter(|_| wanted));
        };
        let attention = layer.mixer == MixerKind::Attention;
        add(attention, &ATTENTION);
        add(attention && self.attention.qkv_bias, &QKV_BIASES);
        add(attention && self.attention.o_bias, &[Role::AttnOBias]);
        add(attention && self.attention.qk_norm, &HEAD_NORMS);
        let (qkvz, ba) = (has(Role::DeltaQkvz), has(Role::DeltaBa));
        add(!attention, &DELTA);
        add(!attention && qkvz, &[Role::DeltaQkvz]);
        add(!attention && !qkvz, &[Role::DeltaQkv, Role::DeltaZ]);
        add(!attention && ba, &[Role::DeltaBa]);
        add(!attention && !ba, &[Role::DeltaB, Role::DeltaA]);
        let moe = layer.feed_forward == FeedForwardKind::Moe;
        add(moe, &[Role::Gate]);
        add(moe && self.moe.shared.is_some(), &SHARED);
        add(!moe, &MLP);
        roles
    }

    /// The shape of a tensor: [rows, cols] of a matrix, [len] of a vector. Sizes of a config are at most
    /// 2^22, so products of two of them do not overflow.
    pub(super) fn shape(&self, role: Role) -> Vec<usize> {
        use Role::*;
        let hidden = self.config.hidden;
        let heads = self.attention.shape;
        let (out, kv) = (heads.heads * heads.head_dim, heads.kv_heads * heads.head_dim);
        let q = if self.attention.gated { 2 * out } else { out };
        let shared = || self.moe.shared.expect("only families with shared experts ask");
        match role {
            Embedding | Head => vec![self.config.vocab, hidden],
            Norm | InputNorm | PostNorm | AttnOBias => vec![hidden],
            AttnQ => vec![q, hidden],
            AttnK | AttnV => vec![kv, hidden],
            AttnO => vec![hidden, out],
            AttnQBias => vec![q],
            AttnKBias | AttnVBias => vec![kv],
            AttnQNorm | AttnKNorm => vec![heads.head_dim],
            Gate => vec![self.moe.experts.count, hidden],
            SharedGate | SharedUp => vec![shared(), hidden],
            SharedDown => vec![hidden, shared()],
            SharedScale => vec![1, hidden],
            MlpGate | MlpUp => vec![self.mlp_intermediate, hidden],
            MlpDown => vec![hidden, self.mlp_intermediate],
            _ => self
                .delta
                .expect("families with delta nets say how large these are")
                .of(role, hidden),
        }
    }
}

impl DeltaPlan {
    /// The shape of one of the delta net's tensors.
    fn of(&self, role: Role, hidden: usize) -> Vec<usize> {
        let shape = &self.shape;
        let (keys, values) = (shape.key_heads * shape.key_dim, shape.value_heads * shape.value_dim);
        match role {
            Role::DeltaQkv => vec![2 * keys + values, hidden],
            Role::DeltaZ => vec![values, hidden],
            Role::DeltaQkvz => vec![2 * keys + 2 * values, hidden],
            Role::DeltaB | Role::DeltaA => vec![shape.value_heads, hidden],
            Role::DeltaBa => vec![2 * shape.value_heads, hidden],
            Role::DeltaConv => vec![2 * keys + values, self.conv_width],
            Role::DeltaRate | Role::DeltaDtBias => vec![shape.value_heads],
            Role::DeltaNorm => vec![shape.value_dim],
            Role::DeltaOut => vec![hidden, values],
            _ => panic!("{role:?} is no tensor of a delta net"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::engine::EngineOptions;
    use crate::model::LoadedModel;
    use crate::model::tiny::{FAMILIES, gguf};
    use crate::weights::gguf_testing::TestFile;

    fn load(path: &Path) -> Result<LoadedModel, EngineError> {
        LoadedModel::load(&EngineOptions {
            model: path.to_owned(),
            threads: Some(1),
            ..EngineOptions::default()
        })
    }

    /// Every tensor that a family's file has is wanted: without it the check fails, by its name.
    #[test]
    fn the_check_wants_every_tensor_that_loading_wants() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("m.gguf");
        for family in FAMILIES {
            let whole = TestFile::open(&gguf(family));
            for index in 0..whole.tensors.len() {
                let mut file = whole.clone();
                let name = file.tensors.remove(index).name;
                // The keys of a config are read off these before the check.
                let sizes = [
                    "token_embd",
                    "output.weight",
                    "_exps",
                    "ffn_gate_inp",
                    "shexp",
                    "attn_q.bias",
                ];
                if sizes.iter().any(|part| name.contains(part)) {
                    continue;
                }
                std::fs::write(&path, file.bytes()).expect("written");
                let weights = Weights::open(&path).expect("opens");
                let config = weights.side().config().expect("made");
                let Err(error) = Blueprint::of(&weights, &config) else {
                    assert!(name.starts_with("blk.2."), "{family} {name} is of the model's layers");
                    continue;
                };
                let error = error.to_string();
                assert!(error.contains("has no tensor"), "{family} {name}: {error}");
            }
            std::fs::write(&path, whole.bytes()).expect("written");
            load(&path).expect("the whole loads");
        }
    }
}
