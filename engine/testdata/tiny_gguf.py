#!/usr/bin/env python3
"""Writes the tiny models of `tiny/` as GGUF files, by the rules of llama.cpp's converter.

    VENV/bin/python tiny_gguf.py        (VENV as for tiny_models.py)

Matrices are F16, which holds their bfloat16 values exactly; vectors, gates and convolutions are F32. What
the converter changes: norms of the hybrid families are stored plus one, except the delta net's own; the rate
A as -exp(A); value heads of qwen35moe (not of qwen3next) go from grouped by key head to tiled; Qwen3-Next's
qkvz is split, its ba is not. Beside that these files hold what readers meet in the wild: the first block of
the multi-token-prediction head counted in `block_count`, gate and up of the experts fused, a padding token.
Source: llama.cpp `conversion/qwen.py`, gguf-py `tensor_mapping.py`.
"""

import json
import pathlib

import gguf
import numpy as np
from safetensors.torch import load_file

HERE = pathlib.Path(__file__).resolve().parent
ARCHITECTURES = {
    "qwen3_5_moe": "qwen35moe", "qwen3_next": "qwen3next", "qwen3_moe": "qwen3moe", "qwen2_moe": "qwen2moe",
}
LAYER_NAMES = {
    "input_layernorm.weight": "attn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.q_proj.bias": "attn_q.bias",
    "self_attn.k_proj.bias": "attn_k.bias",
    "self_attn.v_proj.bias": "attn_v.bias",
    "self_attn.o_proj.weight": "attn_output.weight",
    "self_attn.q_norm.weight": "attn_q_norm.weight",
    "self_attn.k_norm.weight": "attn_k_norm.weight",
    "linear_attn.in_proj_qkv.weight": "attn_qkv.weight",
    "linear_attn.in_proj_z.weight": "attn_gate.weight",
    "linear_attn.in_proj_a.weight": "ssm_alpha.weight",
    "linear_attn.in_proj_b.weight": "ssm_beta.weight",
    "linear_attn.in_proj_ba.weight": "ssm_ba.weight",
    "linear_attn.conv1d.weight": "ssm_conv1d.weight",
    "linear_attn.A_log": "ssm_a",
    "linear_attn.dt_bias": "ssm_dt.bias",
    "linear_attn.norm.weight": "ssm_norm.weight",
    "linear_attn.out_proj.weight": "ssm_out.weight",
    "mlp.gate.weight": "ffn_gate_inp.weight",
    "mlp.shared_expert.gate_proj.weight": "ffn_gate_shexp.weight",
    "mlp.shared_expert.up_proj.weight": "ffn_up_shexp.weight",
    "mlp.shared_expert.down_proj.weight": "ffn_down_shexp.weight",
    "mlp.shared_expert_gate.weight": "ffn_gate_inp_shexp.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
}
IN_F32 = ("ffn_gate_inp.weight", "ffn_gate_inp_shexp.weight", "ssm_conv1d.weight")


def tiled(x, axis, config, width):
    """Value heads of `width` entries along an axis: head k·r + j goes to j·key_heads + k."""
    keys, values = config["linear_num_key_heads"], config["linear_num_value_heads"]
    x = np.moveaxis(x, axis, 0)
    rest = x.shape[1:]
    x = x.reshape(keys, values // keys, width, *rest).swapaxes(0, 1).reshape(values * width, *rest)
    return np.moveaxis(x, 0, axis)


def tile_value_heads(name, x, config):
    width = config["linear_value_head_dim"]
    keys = 2 * config["linear_num_key_heads"] * config["linear_key_head_dim"]
    if name in ("attn_qkv.weight", "ssm_conv1d.weight"):
        return np.concatenate([x[:keys], tiled(x[keys:], 0, config, width)])
    if name == "attn_gate.weight":
        return tiled(x, 0, config, width)
    if name in ("ssm_alpha.weight", "ssm_beta.weight", "ssm_a", "ssm_dt.bias"):
        return tiled(x, 0, config, 1)
    if name == "ssm_out.weight":
        return tiled(x, 1, config, width)
    return x


def split_qkvz(x, config):
    """Rows grouped by key head [q, k, v.., z..] to [Q | K | V] and Z."""
    keys, values = config["linear_num_key_heads"], config["linear_num_value_heads"]
    dk, dv = config["linear_key_head_dim"], config["linear_value_head_dim"] * (values // keys)
    grouped = x.reshape(keys, 2 * dk + 2 * dv, -1)
    parts = np.split(grouped, [dk, 2 * dk, 2 * dk + dv], axis=1)
    q, k, v, z = (p.reshape(-1, x.shape[-1]) for p in parts)
    return np.concatenate([q, k, v]), z


def layer_tensors(arch, layer, tensors, config):
    """GGUF names and values of one layer."""
    hybrid = arch in ("qwen35moe", "qwen3next")
    experts = {}
    for name, x in tensors.items():
        if ".experts." in name:
            experts[name] = x
            continue
        if hybrid and name.endswith("norm.weight") and name != "linear_attn.norm.weight":
            x = x + np.float32(1)
        if name == "linear_attn.A_log":
            x = -np.exp(x)
        if name == "linear_attn.conv1d.weight":
            x = x.squeeze(1)
        if name == "linear_attn.in_proj_qkvz.weight":
            qkv, z = split_qkvz(x, config)
            yield f"blk.{layer}.attn_qkv.weight", qkv
            yield f"blk.{layer}.attn_gate.weight", z
            continue
        if name == "post_attention_layernorm.weight":
            target = "post_attention_norm.weight" if hybrid else "ffn_norm.weight"
        else:
            target = LAYER_NAMES[name]
        if arch == "qwen35moe":
            x = tile_value_heads(target, x, config)
        yield f"blk.{layer}.{target}", x
    if not experts:
        return
    if "mlp.experts.gate_up_proj" in experts:
        gate_up, down = experts["mlp.experts.gate_up_proj"], experts["mlp.experts.down_proj"]
    else:
        stacked = lambda which: np.stack(
            [experts[f"mlp.experts.{e}.{which}_proj.weight"] for e in range(len(experts) // 3)])
        gate_up, down = np.concatenate([stacked("gate"), stacked("up")], axis=1), stacked("down")
    half = gate_up.shape[1] // 2
    if arch == "qwen3next":
        yield f"blk.{layer}.ffn_gate_up_exps.weight", gate_up
    else:
        yield f"blk.{layer}.ffn_gate_exps.weight", gate_up[:, :half]
        yield f"blk.{layer}.ffn_up_exps.weight", gate_up[:, half:]
    yield f"blk.{layer}.ffn_down_exps.weight", down


def model_tensors(arch, folder, config):
    raw = {}
    for path in sorted(folder.glob("model*.safetensors")):
        for name, x in load_file(path).items():
            name = name.replace("model.language_model.", "model.").removeprefix("model.")
            raw[name] = x.float().numpy()
    hybrid = arch in ("qwen35moe", "qwen3next")
    yield "token_embd.weight", raw["embed_tokens.weight"]
    yield "output_norm.weight", raw["norm.weight"] + np.float32(1 if hybrid else 0)
    if "lm_head.weight" in raw:
        yield "output.weight", raw["lm_head.weight"]
    for layer in range(config["num_hidden_layers"]):
        prefix = f"layers.{layer}."
        own = {n.removeprefix(prefix): x for n, x in raw.items() if n.startswith(prefix)}
        yield from layer_tensors(arch, layer, own, config)
    if arch == "qwen35moe":
        # What a reader has to leave alone.
        hidden, block = config["hidden_size"], config["num_hidden_layers"]
        yield f"blk.{block}.nextn.eh_proj.weight", np.ones((hidden, 2 * hidden), np.float32)
        for name in ("enorm", "hnorm", "shared_head_norm"):
            yield f"blk.{block}.nextn.{name}.weight", np.ones(hidden, np.float32)


def add_sizes(writer, arch, config):
    hybrid = arch in ("qwen35moe", "qwen3next")
    heads, rope = config["num_attention_heads"], config["rope_parameters"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    writer.add_block_count(config["num_hidden_layers"] + (arch == "qwen35moe"))
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_expert_count(config.get("num_experts") or config["num_local_experts"])
    writer.add_expert_used_count(config["num_experts_per_tok"])
    writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    if "intermediate_size" in config:
        writer.add_feed_forward_length(config["intermediate_size"])
    if "shared_expert_intermediate_size" in config:
        writer.add_expert_shared_feed_forward_length(config["shared_expert_intermediate_size"])
    if "head_dim" in config:
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    if config.get("mlp_only_layers"):
        writer.add_leading_dense_block_count(len(config["mlp_only_layers"]))
    if not hybrid:
        return
    writer.add_rope_dimension_count(int(head_dim * rope["partial_rotary_factor"]))
    writer.add_ssm_conv_kernel(config["linear_conv_kernel_dim"])
    writer.add_ssm_state_size(config["linear_key_head_dim"])
    writer.add_ssm_group_count(config["linear_num_key_heads"])
    writer.add_ssm_time_step_rank(config["linear_num_value_heads"])
    writer.add_ssm_inner_size(config["linear_value_head_dim"] * config["linear_num_value_heads"])
    writer.add_full_attention_interval(2)
    if arch == "qwen35moe":
        writer.add_rope_dimension_sections([*rope["mrope_section"], 0])
        writer.add_nextn_predict_layers(1)


def add_tokenizer(writer, arch, folder, config):
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokens = {i: t for t, i in tokenizer["model"]["vocab"].items()}
    special = {t["id"]: t["content"] for t in tokenizer["added_tokens"]}
    count = config["vocab_size"]
    names = [special.get(i) or tokens.get(i) or f"[PAD{i}]" for i in range(count)]
    kind = lambda i: (gguf.TokenType.CONTROL if i in special
                      else gguf.TokenType.NORMAL if i in tokens else gguf.TokenType.UNUSED)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen35" if arch == "qwen35moe" else "qwen2")
    writer.add_token_list(names)
    writer.add_token_types([kind(i) for i in range(count)])
    merges = tokenizer["model"]["merges"]
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_pad_token_id(config["pad_token_id"])
    writer.add_chat_template(json.loads((folder / "tokenizer_config.json").read_text())["chat_template"])


def main():
    for family, arch in ARCHITECTURES.items():
        folder = HERE / "tiny" / family
        config = json.loads((folder / "config.json").read_text())
        config = config.get("text_config", config)
        path = HERE / "tiny" / f"{family}.gguf"
        writer = gguf.GGUFWriter(path, arch)
        writer.add_name(f"tiny-{family}")
        writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
        add_sizes(writer, arch, config)
        add_tokenizer(writer, arch, folder, config)
        for name, x in model_tensors(arch, folder, config):
            x = np.ascontiguousarray(x, dtype=np.float32)
            if x.ndim > 1 and not name.endswith(IN_F32):
                half = x.astype(np.float16)
                assert np.array_equal(half.astype(np.float32), x), name
                x = half
            writer.add_tensor(name, x)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        print(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
