#!/usr/bin/env python3
"""Writes a tiny random model of each family, and what transformers computes with it.

    python3 -m venv VENV && VENV/bin/pip install torch "transformers==5.24.0" safetensors gguf numpy
    VENV/bin/python tiny_models.py

For each family a folder in `tiny/`: config.json, *.safetensors and tokenizer files as the hub has them, and
`reference.safetensors` with token ids, logits at every position and greedily chosen tokens, computed in
float32. Norms, decays and biases are random too, so that a wrong offset shows. Every matrix element is a
number of both bfloat16 and float16, so that the GGUF form (tiny_gguf.py) holds the same values.

Seeds are fixed; the files are committed, so this runs only when a family is added.
"""

import json
import pathlib

import torch
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
    Qwen3_5MoeForCausalLM,
    Qwen3_5MoeTextConfig,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    Qwen3NextConfig,
    Qwen3NextForCausalLM,
)

HERE = pathlib.Path(__file__).resolve().parent
PROMPT_LENGTHS = (37, 11)
GREEDY_TOKENS = 24
# Greedy tokens are compared one by one: a choice closer than this would be a coin toss.
MARGIN_MIN = 0.01
# A model that repeats itself would prove little.
DISTINCT_MIN = 8

LETTERS_QWEN2 = r"\p{L}"
LETTERS_QWEN35 = r"[\p{L}\p{M}]"
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?LETTERS+|\p{N}| ?[^\s\p{L}MARKS\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
MERGES = [("h", "e"), ("i", "n"), ("Ġ", "t"), ("Ġt", "he"), ("e", "r"), ("in", "g"), ("a", "n"), ("an", "d")]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
VOCAB = 256 + len(MERGES) + len(SPECIAL) + 1  # one row without a token, as real models have

COMMON = dict(
    vocab_size=VOCAB, hidden_size=64, num_key_value_heads=2, moe_intermediate_size=32, num_experts=8,
    num_experts_per_tok=3, max_position_embeddings=512, rms_norm_eps=1e-6, bos_token_id=None,
    eos_token_id=VOCAB - 2, pad_token_id=VOCAB - 4,
)
# Two key heads with three value heads each: the order of value heads in GGUF is then no involution.
DELTA = dict(
    linear_conv_kernel_dim=4, linear_key_head_dim=16, linear_value_head_dim=16, linear_num_key_heads=2,
    linear_num_value_heads=6, layer_types=["linear_attention", "full_attention"],
)
HYBRID = dict(
    num_hidden_layers=2, num_attention_heads=4, head_dim=16, shared_expert_intermediate_size=32,
    tie_word_embeddings=False, **DELTA,
)
FAMILIES = {
    "qwen3_5_moe": (
        Qwen3_5MoeForCausalLM, 35,
        lambda: Qwen3_5MoeTextConfig(
            **COMMON, **HYBRID,
            rope_parameters=dict(rope_type="default", rope_theta=1e7, partial_rotary_factor=0.5,
                                 mrope_section=[2, 1, 1], mrope_interleaved=True)),
    ),
    "qwen3_next": (
        Qwen3NextForCausalLM, 30,
        lambda: Qwen3NextConfig(
            **COMMON, **HYBRID, norm_topk_prob=True, intermediate_size=96,
            rope_parameters=dict(rope_type="default", rope_theta=1e7, partial_rotary_factor=0.25)),
    ),
    # Heads wider together than the residual stream, tied embeddings.
    "qwen3_moe": (
        Qwen3MoeForCausalLM, 3,
        lambda: Qwen3MoeConfig(
            **COMMON, num_hidden_layers=2, num_attention_heads=6, head_dim=16, norm_topk_prob=True,
            intermediate_size=96, tie_word_embeddings=True, mlp_only_layers=[], decoder_sparse_step=1,
            rope_parameters=dict(rope_type="default", rope_theta=1e6)),
    ),
    # The first layer dense, biases, probabilities not scaled to 1.
    "qwen2_moe": (
        Qwen2MoeForCausalLM, 2,
        lambda: Qwen2MoeConfig(
            **COMMON, num_hidden_layers=2, num_attention_heads=4, norm_topk_prob=False, intermediate_size=96,
            shared_expert_intermediate_size=32, tie_word_embeddings=False, mlp_only_layers=[0],
            decoder_sparse_step=1, rope_parameters=dict(rope_type="default", rope_theta=1e6)),
    ),
}


def randomise(model, zero_centred, seed):
    """Weights of the scale of trained ones; matrices in numbers of bfloat16 and float16 alike."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if name.endswith("A_log"):
                value = torch.log(torch.rand(p.shape, generator=generator) * 15 + 0.5)
            elif name.endswith("dt_bias"):
                value = noise - 2.0
            elif "norm" in name:
                plain = not zero_centred or "linear_attn.norm" in name
                value = noise * 0.2 + (1.0 if plain else 0.0)
            elif name.endswith(".bias"):
                value = noise * 0.3
            elif "conv1d" in name:
                value = noise * 0.4
            elif name.endswith("mlp.gate.weight"):
                value = noise * 0.3
            elif "lm_head" in name:
                value = noise * 0.3
            elif "embed_tokens" in name:
                # A tied embedding must not drown the layers, or every token repeats itself.
                value = noise * (0.1 if model.config.tie_word_embeddings else 0.5)
            else:
                value = noise / p.shape[-1] ** 0.5
            value = value.bfloat16().float()
            p.copy_(torch.where(value.abs() < 2**-14, torch.zeros(()), value))


def write_tokenizer(folder, marks):
    """Byte-level BPE with the split of the real tokenizers and a handful of merges."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {c: i for i, c in enumerate(alphabet)}
    for a, b in MERGES:
        vocab[a + b] = len(vocab)
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=MERGES))
    tokenizer.normalizer = normalizers.NFC()
    split = SPLIT.replace("LETTERS", LETTERS_QWEN35 if marks else LETTERS_QWEN2)
    split = split.replace("MARKS", r"\p{M}" if marks else "")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(split), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False)
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    # One form for all: the template stands in tokenizer_config.json, as in older checkpoints.
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config["chat_template"] = TEMPLATE
    path.write_text(json.dumps(config, indent=1, ensure_ascii=False))
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()), ensure_ascii=False))


def as_published(name, model):
    """Tensors under the names and in the pieces of the published checkpoints."""
    tensors = {}
    fused = name == "qwen3_5_moe"
    for key, value in model.state_dict().items():
        # Vectors stay in float32, matrices are exact in bfloat16.
        value = value.bfloat16() if value.dim() > 1 else value.float()
        if key == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        if fused and key.startswith("model."):
            key = "model.language_model." + key.removeprefix("model.")
        if not fused and key.endswith("mlp.experts.gate_up_proj"):
            half = value.shape[1] // 2
            for e, one in enumerate(value):
                stem = key.removesuffix("gate_up_proj") + f"{e}."
                tensors[stem + "gate_proj.weight"] = one[:half].clone()
                tensors[stem + "up_proj.weight"] = one[half:].clone()
        elif not fused and key.endswith("mlp.experts.down_proj"):
            for e, one in enumerate(value):
                tensors[key.removesuffix("down_proj") + f"{e}.down_proj.weight"] = one.clone()
        else:
            tensors[key] = value.clone()
    return tensors


def write_checkpoint(folder, name, model):
    config = json.loads(model.config.to_json_string(use_diff=False))
    for key in list(config):
        if key.startswith("_") or key in ("transformers_version", "dtype", "architectures", "id2label", "label2id"):
            del config[key]
    if name == "qwen3_5_moe":
        config = {"model_type": name, "tie_word_embeddings": False, "text_config": config}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    tensors = as_published(name, model)
    if name != "qwen3_next":
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        return
    # One family in two shards.
    names = sorted(tensors)
    half = len(names) // 2
    shards = {"model-00001-of-00002.safetensors": names[:half], "model-00002-of-00002.safetensors": names[half:]}
    for shard, keys in shards.items():
        save_file({k: tensors[k] for k in keys}, folder / shard, {"format": "pt"})
    index = {"metadata": {}, "weight_map": {k: shard for shard, keys in shards.items() for k in keys}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def reference(model, seed):
    """Ids, logits at each of them, and what greedy choice adds; the smallest margin of a choice."""
    generator = torch.Generator().manual_seed(seed + 1)
    out, margin = {}, float("inf")
    with torch.no_grad():
        for i, length in enumerate(PROMPT_LENGTHS):
            ids = torch.randint(0, VOCAB - 1, (1, length), generator=generator)
            out[f"ids{i}"] = ids[0].int()
            out[f"logits{i}"] = model(input_ids=ids).logits[0].float().contiguous()
            for _ in range(GREEDY_TOKENS):
                # The whole text anew for each token: nothing rests on transformers' caches.
                top = model(input_ids=ids).logits[0, -1].topk(2)
                margin = min(margin, float(top.values[0] - top.values[1]))
                ids = torch.cat([ids, top.indices[:1].view(1, 1)], dim=1)
            out[f"greedy{i}"] = ids[0, length:].int().contiguous()
    return out, margin


def main():
    torch.set_num_threads(1)
    for name, (cls, seed, config) in FAMILIES.items():
        folder = HERE / "tiny" / name
        folder.mkdir(parents=True, exist_ok=True)
        for attempt in range(50):
            model = cls(config()).float().eval()
            randomise(model, name in ("qwen3_5_moe", "qwen3_next"), seed * 1000 + attempt)
            outputs, margin = reference(model, seed)
            distinct = len(set(outputs["greedy0"].tolist()))
            if margin > MARGIN_MIN and distinct >= DISTINCT_MIN:
                break
        assert margin > MARGIN_MIN and distinct >= DISTINCT_MIN, f"{name}: no seed gives clear choices"
        write_tokenizer(folder, name == "qwen3_5_moe")
        write_checkpoint(folder, name, model)
        save_file(outputs, folder / "reference.safetensors")
        print(f"{name}: {sum(p.numel() for p in model.parameters())} parameters, seed {seed * 1000 + attempt}, "
              f"margin {margin:.4f}, {distinct} distinct greedy tokens, "
              f"{sum(f.stat().st_size for f in folder.iterdir())} bytes")


if __name__ == "__main__":
    main()
