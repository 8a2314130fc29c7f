"""Writes blocks.safetensors: random and hostile blocks of every type, and what they decode to.

The oracle is the Python package gguf: its `dequantize` is applied to the same bytes. Run with
`pip install gguf==0.19.0 numpy safetensors`, then `python make.py`; the result is the same every time.
"""

import pathlib

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from safetensors.numpy import save_file

TYPES = "Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS MXFP4".split()
# A block of these is one value.
FLOATS = {
    "F32": (np.uint32, [0, 1, 0x80000000, 0x7F7FFFFF, 0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001]),
    "F16": (np.uint16, [0, 1, 0x8000, 0x7BFF, 0x7C00, 0xFC00, 0x7E00, 0x7C01]),
    "BF16": (np.uint16, [0, 1, 0x8000, 0x7F7F, 0x7F80, 0xFF80, 0x7FC0, 0x7F81]),
}
# Where a block's f16 numbers are: scale and, where there is one, minimum.
F16_AT = {
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82],
    "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0], "IQ4_XS": [0],
    "MXFP4": [],
}
# Zero, smallest subnormal, largest, infinities, quiet and signalling NaN.
HOSTILE = [0x0000, 0x0001, 0x7BFF, 0x7C00, 0xFC00, 0x7E00, 0x7C01]


def blocks(name, rng):
    """[n, block bytes]: hostile scales, random bytes, and blocks of one byte value."""
    size = GGML_QUANT_SIZES[GGMLQuantizationType[name]][1]
    at = F16_AT[name]
    out = []
    for byte in (0x00, 0xFF):
        out.append(np.full(size, byte, np.uint8))
    for bits in HOSTILE if at else []:
        block = rng.integers(0, 256, size, np.uint8)
        for where in at:
            block[where : where + 2] = np.frombuffer(np.uint16(bits).tobytes(), np.uint8)
        out.append(block)
    for e in [0, 1, 2, 127, 254, 255] if not at else []:
        block = rng.integers(0, 256, size, np.uint8)
        block[0] = e
        out.append(block)
    for _ in range(3):
        block = rng.integers(0, 256, size, np.uint8)
        for where in at:
            scale = np.float16(rng.normal() * 0.01)
            block[where : where + 2] = np.frombuffer(scale.tobytes(), np.uint8)
        out.append(block)
    return np.stack(out)


def floats(name, rng):
    """[1, bytes]: zero, the smallest, the largest, infinities, both kinds of NaN, and random bits."""
    dtype, hostile = FLOATS[name]
    bits = np.iinfo(dtype).max
    values = np.concatenate([np.array(hostile, dtype), rng.integers(0, bits, 24, dtype, endpoint=True)])
    return values.view(np.uint8)[None, :]


def main():
    rng = np.random.default_rng(1)
    tensors = {}
    for name in TYPES + list(FLOATS):
        raw = floats(name, rng) if name in FLOATS else blocks(name, rng)
        tensors[f"{name.lower()}.blocks"] = raw
        # Inexact results of hostile numbers are the point; warnings about them are not.
        with np.errstate(all="ignore"):
            values = dequantize(raw, GGMLQuantizationType[name])
        tensors[f"{name.lower()}.values"] = np.ascontiguousarray(values, np.float32)
    here = pathlib.Path(__file__).parent
    meta = {"source": "gguf 0.19.0, quants.dequantize"}
    save_file(tensors, here / "blocks.safetensors", metadata=meta)


if __name__ == "__main__":
    main()
