//! What a tensor does in a model: the names by which families ask for weights and sources answer.
//!
//! A family describes its layers by [`Role`]s with the shapes that its sizes imply. A source (Hugging
//! Face directory, pack, GGUF file) registers each of its tensors under the [`canonical_name`] of its
//! role and says in which [`Form`] the values are. The names are those of transformers without their
//! prefix, which is also what packs store; the GGUF names of the roles stand with the GGUF reader.
//!
//! Experts are no roles: a source finds them by layer and number (`Weights::experts`), because they
//! come fused, stacked or one by one. Sizes come from a config in the field names of transformers; a
//! source without such a file (GGUF) builds one from its own keys.
//! Sources: transformers `modeling_qwen*_moe.py`; llama.cpp `convert_hf_to_gguf.py`.

/// What a tensor does; its shape is [rows, cols] of a matrix or [len] of a vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Role {
    /// [vocab, hidden]
    Embedding,
    /// [hidden], before the output matrix.
    Norm,
    /// [vocab, hidden]; absent if the embedding serves.
    Head,
    /// [hidden], before the mixer.
    InputNorm,
    /// [hidden], before the feed-forward half.
    PostNorm,
    /// [heads · head_dim, hidden]; with an output gate [heads · 2 · head_dim, hidden], the query and
    /// then the gate of each head.
    AttnQ,
    /// [kv_heads · head_dim, hidden]
    AttnK,
    /// [kv_heads · head_dim, hidden]
    AttnV,
    /// [hidden, heads · head_dim]
    AttnO,
    /// [rows of AttnQ]
    AttnQBias,
    /// [rows of AttnK]
    AttnKBias,
    /// [rows of AttnV]
    AttnVBias,
    /// [hidden]
    AttnOBias,
    /// [head_dim]
    AttnQNorm,
    /// [head_dim]
    AttnKNorm,
    /// [2 · key_heads · key_dim + value_heads · value_dim, hidden]: Q, K and V of the delta net.
    DeltaQkv,
    /// [value_heads · value_dim, hidden]: the delta net's output gate.
    DeltaZ,
    /// [value_heads, hidden]: strength β before its sigmoid.
    DeltaB,
    /// [value_heads, hidden]: decay before its softplus.
    DeltaA,
    /// Q, K, V and Z in one, key head by key head (Qwen3-Next).
    DeltaQkvz,
    /// B and A in one, key head by key head (Qwen3-Next).
    DeltaBa,
    /// [rows of DeltaQkv, width]; a dimension of 1 between is ignored.
    DeltaConv,
    /// [value_heads]: A in [`Form::Transformers`], −e^A in [`Form::Ggml`].
    DeltaRate,
    /// [value_heads]
    DeltaDtBias,
    /// [value_dim], plain in both forms.
    DeltaNorm,
    /// [hidden, value_heads · value_dim]
    DeltaOut,
    /// [experts, hidden]: the MoE router.
    Gate,
    /// [shared_intermediate, hidden]
    SharedGate,
    /// [shared_intermediate, hidden]
    SharedUp,
    /// [hidden, shared_intermediate]
    SharedDown,
    /// [1, hidden]: the shared expert's weight before its sigmoid.
    SharedScale,
    /// [intermediate, hidden] of a layer without experts.
    MlpGate,
    /// [intermediate, hidden]
    MlpUp,
    /// [hidden, intermediate]
    MlpDown,
}

/// How values are stored that transformers and ggml store differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// As transformers has them: norms of some families zero-centred, the delta net's rate as A, its
    /// value heads grouped by key head.
    Transformers,
    /// As llama.cpp's converter writes them: norms ready to multiply, the rate as −e^A, value heads of
    /// `qwen35moe` (not of `qwen3next`) tiled: head h uses key head h mod key_heads.
    Ggml,
}

impl Role {
    /// The role's name within its layer, or in the model for the first three.
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Role::Embedding => "embed_tokens.weight",
            Role::Norm => "norm.weight",
            Role::Head => "lm_head.weight",
            Role::InputNorm => "input_layernorm.weight",
            Role::PostNorm => "post_attention_layernorm.weight",
            Role::AttnQ => "self_attn.q_proj.weight",
            Role::AttnK => "self_attn.k_proj.weight",
            Role::AttnV => "self_attn.v_proj.weight",
            Role::AttnO => "self_attn.o_proj.weight",
            Role::AttnQBias => "self_attn.q_proj.bias",
            Role::AttnKBias => "self_attn.k_proj.bias",
            Role::AttnVBias => "self_attn.v_proj.bias",
            Role::AttnOBias => "self_attn.o_proj.bias",
            Role::AttnQNorm => "self_attn.q_norm.weight",
            Role::AttnKNorm => "self_attn.k_norm.weight",
            Role::DeltaQkv => "linear_attn.in_proj_qkv.weight",
            Role::DeltaZ => "linear_attn.in_proj_z.weight",
            Role::DeltaB => "linear_attn.in_proj_b.weight",
            Role::DeltaA => "linear_attn.in_proj_a.weight",
            Role::DeltaQkvz => "linear_attn.in_proj_qkvz.weight",
            Role::DeltaBa => "linear_attn.in_proj_ba.weight",
            Role::DeltaConv => "linear_attn.conv1d.weight",
            Role::DeltaRate => "linear_attn.A_log",
            Role::DeltaDtBias => "linear_attn.dt_bias",
            Role::DeltaNorm => "linear_attn.norm.weight",
            Role::DeltaOut => "linear_attn.out_proj.weight",
            Role::Gate => "mlp.gate.weight",
            Role::SharedGate => "mlp.shared_expert.gate_proj.weight",
            Role::SharedUp => "mlp.shared_expert.up_proj.weight",
            Role::SharedDown => "mlp.shared_expert.down_proj.weight",
            Role::SharedScale => "mlp.shared_expert_gate.weight",
            Role::MlpGate => "mlp.gate_proj.weight",
            Role::MlpUp => "mlp.up_proj.weight",
            Role::MlpDown => "mlp.down_proj.weight",
        }
    }
}

/// The canonical name of a role's tensor: `layers.3.self_attn.q_proj.weight`, `norm.weight`.
pub(crate) fn canonical_name(layer: Option<usize>, role: Role) -> String {
    match layer {
        Some(layer) => format!("layers.{layer}.{}", role.suffix()),
        None => role.suffix().to_owned(),
    }
}
