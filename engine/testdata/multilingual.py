#!/usr/bin/env python3
"""Writes multilingual.json: token ids of texts in many scripts, by the Python package tokenizers.

    VENV/bin/python multilingual.py        (VENV as for tiny_models.py)

The vocabulary is trained on the texts themselves with words split at spaces only, so that its merges cross what
the ways to split words keep apart: digits, marks, punctuation. Each way comes with the normaliser and the handling
of merges that the published tokenizer of that name has (tokenizer.json of Qwen2, Qwen3.5, Llama 3).
"""

import json
import pathlib

import tokenizers

HERE = pathlib.Path(__file__).resolve().parent
ENGLISH = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS = {
    "qwen2": (ENGLISH + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*" + REST, True, False),
    "qwen35": (ENGLISH + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*" + REST, True, False),
    "llama-bpe": (ENGLISH + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*" + REST, False, True),
}
TEXTS = [
    "Hello world, it's 12345 o'clock; they'll say IT'S fine.",
    "Größe, naïve, Ærø, İstanbul, coöperate",
    "decomposed: e\u0301 a\u0308 n\u0303 \u1100\u1161 \u212b",
    "Καλημέρα κόσμε, τι κάνεις;",
    "Привет, мир! Ёлка й\u0306",
    "שָׁלוֹם עוֹלָם",
    "مرحبا بالعالم ١٢٣ بِسْمِ",
    "नमस्ते दुनिया क्षेत्र १२३",
    "สวัสดีชาวโลก ๑๒๓",
    "你好，世界。漢字かな交じり文ヴ",
    "안녕하세요 세계",
    "Tiếng Việt có dấu; ti\u1ebfng, tie\u0302\u0301ng",
    "👩‍👩‍👧‍👦 🇸🇪 🏳️‍🌈 ½ ² Ⅷ",
    "\t\r\n \n\n  x\u00a0\u200b\u0000y   \n",
    "def f(x):\n    return x ** 2  # 3.14159\n\n\n\tend",
    "<|im_end|> typed, <think> typed",
    "a" * 40 + " " * 20 + "1234567890" * 3,
]


def trained():
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(r"\s*\S+|\s+"), "isolated")
    letters = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([split, letters])
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=900, initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    return json.loads(tokenizer.to_str())


def main():
    base, ids = trained(), {}
    for name, (pattern, nfc, ignore_merges) in SPLITS.items():
        file = json.loads(json.dumps(base))
        file["normalizer"] = {"type": "NFC"} if nfc else None
        file["pre_tokenizer"]["pretokenizers"][0]["pattern"] = {"Regex": pattern}
        file["model"]["ignore_merges"] = ignore_merges
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(file))
        ids[name] = [tokenizer.encode(text, add_special_tokens=False).ids for text in TEXTS]
    vocab = base["model"]["vocab"]
    merges = [m if isinstance(m, str) else " ".join(m) for m in base["model"]["merges"]]
    out = {"texts": TEXTS, "tokens": sorted(vocab, key=vocab.get), "merges": merges, "ids": ids}
    (HERE / "multilingual.json").write_text(json.dumps(out, ensure_ascii=True, separators=(",", ":")) + "\n")


main()
