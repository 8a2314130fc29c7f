//! Tensor names of GGUF and the canonical names that they answer to.
//!
//! Sources: gguf-py `constants.py`, `tensor_mapping.py`; llama.cpp `src/models/qwen*moe.cpp`.

use crate::weights::{Role, canonical_name};

/// Roles with a name of their own in a model.
const MODEL: [(&str, Role); 3] = [
    ("token_embd.weight", Role::Embedding),
    ("output_norm.weight", Role::Norm),
    ("output.weight", Role::Head),
];

/// Roles of a layer, by the rest of the name after `blk.N.`.
const LAYER: [(&str, Role); 34] = [
    ("attn_norm.weight", Role::InputNorm),
    ("post_attention_norm.weight", Role::PostNorm),
    ("ffn_norm.weight", Role::PostNorm),
    ("attn_q.weight", Role::AttnQ),
    ("attn_k.weight", Role::AttnK),
    ("attn_v.weight", Role::AttnV),
    ("attn_output.weight", Role::AttnO),
    ("attn_q.bias", Role::AttnQBias),
    ("attn_k.bias", Role::AttnKBias),
    ("attn_v.bias", Role::AttnVBias),
    ("attn_output.bias", Role::AttnOBias),
    ("attn_q_norm.weight", Role::AttnQNorm),
    ("attn_k_norm.weight", Role::AttnKNorm),
    ("attn_qkv.weight", Role::DeltaQkv),
    ("attn_gate.weight", Role::DeltaZ),
    ("ssm_beta.weight", Role::DeltaB),
    ("ssm_alpha.weight", Role::DeltaA),
    ("ssm_in.weight", Role::DeltaQkvz),
    ("ssm_ba.weight", Role::DeltaBa),
    ("ssm_conv1d.weight", Role::DeltaConv),
    ("ssm_a", Role::DeltaRate),
    ("ssm_dt.bias", Role::DeltaDtBias),
    ("ssm_norm.weight", Role::DeltaNorm),
    ("ssm_out.weight", Role::DeltaOut),
    ("ffn_gate_inp.weight", Role::Gate),
    ("ffn_gate_shexp.weight", Role::SharedGate),
    ("ffn_up_shexp.weight", Role::SharedUp),
    ("ffn_down_shexp.weight", Role::SharedDown),
    ("ffn_gate_inp_shexp.weight", Role::SharedScale),
    ("ffn_gate.weight", Role::MlpGate),
    ("ffn_up.weight", Role::MlpUp),
    ("ffn_down.weight", Role::MlpDown),
    // Early files of qwen3next.
    ("ssm_dt", Role::DeltaDtBias),
    ("ssm_a.weight", Role::DeltaRate),
];

/// Experts of a layer, stacked; they have canonical names but no role.
const EXPERTS: [(&str, &str); 4] = [
    ("ffn_gate_exps.weight", "mlp.experts.gate_proj"),
    ("ffn_up_exps.weight", "mlp.experts.up_proj"),
    ("ffn_down_exps.weight", "mlp.experts.down_proj"),
    ("ffn_gate_up_exps.weight", "mlp.experts.gate_up_proj"),
];

/// What a tensor is to a model of `layers` layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// It answers to this name.
    Canonical(String),
    /// It belongs to a part that is not run: multi-token prediction, frequencies that follow from
    /// the config.
    Unused,
    /// A layer of the model has a tensor that no family here knows. Leaving it out would give wrong
    /// answers.
    Unknown,
}

/// What a tensor means.
pub(super) fn meaning(gguf: &str, layers: usize) -> Meaning {
    if let Some((_, role)) = MODEL.iter().find(|(n, _)| *n == gguf) {
        return Meaning::Canonical(canonical_name(None, *role));
    }
    let Some((layer, rest)) = layer_and_rest(gguf) else {
        return if gguf == "rope_freqs.weight" { Meaning::Unused } else { Meaning::Unknown };
    };
    if layer >= layers {
        return Meaning::Unused;
    }
    if let Some((_, role)) = LAYER.iter().find(|(n, _)| *n == rest) {
        return Meaning::Canonical(canonical_name(Some(layer), *role));
    }
    match EXPERTS.iter().find(|(n, _)| *n == rest) {
        Some((_, canonical)) => Meaning::Canonical(format!("layers.{layer}.{canonical}")),
        None => Meaning::Unknown,
    }
}

/// The GGUF name behind a canonical name, for error messages.
pub(in crate::weights) fn gguf_name(canonical: &str) -> Option<String> {
    if let Some((gguf, _)) = MODEL.iter().find(|(_, role)| role.suffix() == canonical) {
        return Some((*gguf).to_owned());
    }
    let (layer, suffix) = canonical.strip_prefix("layers.")?.split_once('.')?;
    let role = LAYER.iter().find(|(_, role)| role.suffix() == suffix).map(|(gguf, _)| *gguf);
    let expert = || EXPERTS.iter().find(|(_, name)| *name == suffix).map(|(gguf, _)| *gguf);
    Some(format!("blk.{layer}.{}", role.or_else(expert)?))
}

/// `blk.7.attn_q.weight` is `attn_q.weight` of layer 7.
fn layer_and_rest(gguf: &str) -> Option<(usize, &str)> {
    let (layer, rest) = gguf.strip_prefix("blk.")?.split_once('.')?;
    Some((layer.parse().ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_mean_what_the_converter_meant() {
        let canonical = |name: &str| Meaning::Canonical(name.to_owned());
        for (gguf, expected) in [
            ("token_embd.weight", canonical("embed_tokens.weight")),
            ("output_norm.weight", canonical("norm.weight")),
            ("blk.3.attn_q.weight", canonical("layers.3.self_attn.q_proj.weight")),
            ("blk.3.attn_gate.weight", canonical("layers.3.linear_attn.in_proj_z.weight")),
            ("blk.0.ssm_a", canonical("layers.0.linear_attn.A_log")),
            ("blk.0.ffn_norm.weight", canonical("layers.0.post_attention_layernorm.weight")),
            ("blk.39.ffn_up_exps.weight", canonical("layers.39.mlp.experts.up_proj")),
            ("blk.40.attn_q.weight", Meaning::Unused),
            ("blk.40.nextn.eh_proj.weight", Meaning::Unused),
            ("rope_freqs.weight", Meaning::Unused),
            ("blk.3.attn_sinks.weight", Meaning::Unknown),
            ("blk.x.attn_q.weight", Meaning::Unknown),
            ("v.patch_embd.weight", Meaning::Unknown),
        ] {
            assert_eq!(meaning(gguf, 40), expected, "{gguf}");
        }
    }

    #[test]
    fn errors_can_name_the_tensor_as_the_file_does() {
        for (canonical, gguf) in [
            ("lm_head.weight", Some("output.weight")),
            ("layers.7.linear_attn.dt_bias", Some("blk.7.ssm_dt.bias")),
            ("layers.7.mlp.experts.down_proj", Some("blk.7.ffn_down_exps.weight")),
            ("layers.7.mlp.nothing", None),
        ] {
            assert_eq!(gguf_name(canonical).as_deref(), gguf);
        }
    }
}
