//! A GGUF file that is computed where it is read.
//!
//! Source: ggml docs/gguf.md, version 3; keys as llama.cpp's converter writes them.

use std::io;
use std::path::Path;

use super::shapes::{ATTENTION_INTERVAL, Family, KEY_HEADS, Shape};
use super::tensors::{self, Source, Tensor};
use crate::io::ReadAt;
use crate::tensor::DType;

/// Tensors start at multiples of this, GGUF's default.
const ALIGNMENT: usize = 32;
/// Largest block of any type.
const BLOCK_BYTES_MAX: usize = 256;
/// Tokens that are real: bytes, a space before each letter, and three that steer.
const TOKENS: usize = 256 + 26 + 3;
/// A conversation in ChatML.
const TEMPLATE: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n\
                        {% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// The file: header, then tensors.
pub(super) struct SynthFile {
    header: Vec<u8>,
    /// First byte and tensor, in order.
    tensors: Vec<(u64, Tensor)>,
    len: u64,
}

impl SynthFile {
    pub(super) fn new(shape: &Shape, dtype: DType, skew: f64, seed: u64) -> SynthFile {
        let tensors = tensors::all(shape, dtype, skew, seed);
        let header = header(shape, &tensors);
        let mut at = header.len() as u64;
        let mut placed = Vec::with_capacity(tensors.len());
        for tensor in tensors {
            let len = tensor.bytes() as u64;
            placed.push((at, tensor));
            at = (at + len).next_multiple_of(ALIGNMENT as u64);
        }
        SynthFile { header, tensors: placed, len: at }
    }
}

impl ReadAt for SynthFile {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64).filter(|end| *end <= self.len);
        let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.fill(0);
        let header = self.header.len() as u64;
        if offset < header {
            let part = &self.header[offset as usize..end.min(header) as usize];
            buf[..part.len()].copy_from_slice(part);
        }
        let first = self.tensors.partition_point(|(at, t)| at + t.bytes() as u64 <= offset);
        for (at, tensor) in &self.tensors[first..] {
            if *at >= end {
                break;
            }
            let from = offset.max(*at);
            let to = end.min(at + tensor.bytes() as u64);
            let out = &mut buf[(from - offset) as usize..(to - offset) as usize];
            fill(&tensor.source, from - at, out);
        }
        Ok(())
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn path(&self) -> &Path {
        Path::new("synthetic.gguf")
    }
}

/// Some bytes of a tensor.
fn fill(source: &Source, from: u64, out: &mut [u8]) {
    let unit = match source {
        Source::Blocks { pool, .. } => pool.block_bytes(),
        Source::Floats { .. } => 4,
    };
    let mut scratch = [0; BLOCK_BYTES_MAX];
    let (mut index, mut skip) = (from / unit as u64, (from % unit as u64) as usize);
    let mut rest = out;
    while !rest.is_empty() {
        let bytes: &[u8] = match source {
            Source::Blocks { pool, seed } => pool.block(*seed, index),
            Source::Floats { values, seed } => {
                scratch[..4].copy_from_slice(&values.at(*seed, index).to_le_bytes());
                &scratch[..4]
            }
        };
        let count = (unit - skip).min(rest.len());
        let (now, later) = rest.split_at_mut(count);
        now.copy_from_slice(&bytes[skip..skip + count]);
        rest = later;
        index += 1;
        skip = 0;
    }
}

/// Everything before the tensors, padded.
fn header(shape: &Shape, tensors: &[Tensor]) -> Vec<u8> {
    let mut keys = Keys { out: Vec::new(), count: 0 };
    model_keys(&mut keys, shape);
    tokenizer_keys(&mut keys, shape);
    let mut out = b"GGUF".to_vec();
    out.extend(3_u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend(keys.count.to_le_bytes());
    out.extend(keys.out);
    let mut at = 0;
    for tensor in tensors {
        text(&mut out, &tensor.name);
        out.extend((tensor.dims.len() as u32).to_le_bytes());
        tensor.dims.iter().for_each(|d| out.extend((*d as u64).to_le_bytes()));
        out.extend(tensor.dtype.ggml().to_le_bytes());
        out.extend((at as u64).to_le_bytes());
        at = (at + tensor.bytes()).next_multiple_of(ALIGNMENT);
    }
    out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
    out
}

fn model_keys(keys: &mut Keys, shape: &Shape) {
    let arch = match shape.family {
        Family::Attention => "qwen3moe",
        Family::Hybrid { .. } => "qwen35moe",
    };
    keys.string("general.architecture", arch);
    keys.string("general.name", &format!("synthetic {}", shape.name));
    let mut size = |key: &str, n: usize| keys.u32(&format!("{arch}.{key}"), n);
    size("block_count", shape.layers);
    size("context_length", 32_768);
    size("embedding_length", shape.hidden);
    size("feed_forward_length", shape.intermediate);
    size("expert_count", shape.experts);
    size("expert_used_count", shape.chosen);
    size("expert_feed_forward_length", shape.intermediate);
    size("attention.head_count", shape.heads);
    size("attention.head_count_kv", shape.kv_heads);
    size("attention.key_length", shape.head_dim);
    size("attention.value_length", shape.head_dim);
    size("rope.dimension_count", shape.rotary_dim());
    if let Family::Hybrid { value_heads } = shape.family {
        size("expert_shared_feed_forward_length", shape.intermediate);
        size("full_attention_interval", ATTENTION_INTERVAL);
        size("ssm.conv_kernel", 4);
        size("ssm.state_size", shape.delta_dim());
        size("ssm.group_count", KEY_HEADS);
        size("ssm.time_step_rank", value_heads);
        size("ssm.inner_size", value_heads * shape.delta_dim());
        keys.i32s(&format!("{arch}.rope.dimension_sections"), &[11, 11, 10, 0]);
    }
    let theta = if shape.family == Family::Attention { 1e6 } else { 1e7 };
    keys.f32(&format!("{arch}.attention.layer_norm_rms_epsilon"), 1e-6);
    keys.f32(&format!("{arch}.rope.freq_base"), theta);
}

fn tokenizer_keys(keys: &mut Keys, shape: &Shape) {
    let pre = if shape.family == Family::Attention { "qwen2" } else { "qwen35" };
    let letters = byte_letters();
    let mut tokens: Vec<String> = letters.iter().map(char::to_string).collect();
    let mut merges = Vec::new();
    for letter in 'a'..='z' {
        tokens.push(format!("Ġ{letter}"));
        merges.push(format!("Ġ {letter}"));
    }
    tokens.extend(["<|im_start|>", "<|im_end|>", "<|endoftext|>"].map(str::to_owned));
    let mut kinds = vec![1; tokens.len()];
    kinds[TOKENS - 3..].fill(3);
    tokens.extend((TOKENS..shape.vocab).map(|i| format!("<|unused_{i}|>")));
    kinds.resize(shape.vocab, 5);
    keys.string("tokenizer.ggml.model", "gpt2");
    keys.string("tokenizer.ggml.pre", pre);
    keys.strings("tokenizer.ggml.tokens", &tokens);
    keys.i32s("tokenizer.ggml.token_type", &kinds);
    keys.strings("tokenizer.ggml.merges", &merges);
    keys.u32("tokenizer.ggml.eos_token_id", TOKENS - 2);
    keys.u32("tokenizer.ggml.padding_token_id", TOKENS - 1);
    keys.string("tokenizer.chat_template", TEMPLATE);
}

/// The letters that stand for the 256 bytes in byte-level vocabularies.
///
/// Source: GPT-2's `encoder.py`.
fn byte_letters() -> Vec<char> {
    let mut spare = 256..;
    let letter = |b: u32| match b {
        33..=126 | 161..=172 | 174..=255 => b,
        _ => spare.next().expect("endless"),
    };
    (0..256).map(letter).map(|code| char::from_u32(code).expect("no surrogate")).collect()
}

/// Keys and their values.
struct Keys {
    out: Vec<u8>,
    count: u64,
}

impl Keys {
    fn key(&mut self, key: &str, kind: u32) {
        self.count += 1;
        text(&mut self.out, key);
        self.out.extend(kind.to_le_bytes());
    }

    fn u32(&mut self, key: &str, value: usize) {
        self.key(key, 4);
        self.out.extend((value as u32).to_le_bytes());
    }

    fn f32(&mut self, key: &str, value: f32) {
        self.key(key, 6);
        self.out.extend(value.to_le_bytes());
    }

    fn string(&mut self, key: &str, value: &str) {
        self.key(key, 8);
        text(&mut self.out, value);
    }

    fn list(&mut self, key: &str, kind: u32, len: usize) {
        self.key(key, 9);
        self.out.extend(kind.to_le_bytes());
        self.out.extend((len as u64).to_le_bytes());
    }

    fn strings(&mut self, key: &str, values: &[String]) {
        self.list(key, 8, values.len());
        values.iter().for_each(|value| text(&mut self.out, value));
    }

    fn i32s(&mut self, key: &str, values: &[i32]) {
        self.list(key, 5, values.len());
        values.iter().for_each(|value| self.out.extend(value.to_le_bytes()));
    }
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}
