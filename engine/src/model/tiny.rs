//! A model of random weights and a few thousand parameters, written to disk for tests of whole paths;
//! and where the committed ones lie, one of each family.
//!
//! Same shape as the real ones: delta nets and attention, uneven head counts, a shared expert, an
//! untied output matrix, a byte-level vocabulary.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::pack::{PackOptions, pack};
use crate::tensor::DType;

/// The families, each with a tiny model in `testdata/tiny/`, as safetensors and as GGUF.
pub(crate) const FAMILIES: [&str; 4] = ["qwen3_5_moe", "qwen3_next", "qwen3_moe", "qwen2_moe"];

/// A family's committed model as a Hugging Face directory.
pub(crate) fn checkpoint(family: &str) -> PathBuf {
    testdata("tiny").join(family)
}

/// The same weights as a GGUF file, by the rules of llama.cpp's converter.
pub(crate) fn gguf(family: &str) -> PathBuf {
    testdata("tiny").join(format!("{family}.gguf"))
}

/// Packs a model, all matrices in one type (`auto`: each in its own).
pub(crate) fn packed(source: &Path, destination: PathBuf, dtype: &str) -> PathBuf {
    pack(&pack_options(source, &destination, dtype), &mut |_| {}).expect("packs");
    destination
}

/// The options for that.
pub(crate) fn pack_options(source: &Path, destination: &Path, dtype: &str) -> PackOptions {
    PackOptions {
        source: source.to_owned(),
        destination: destination.to_owned(),
        experts: dtype.to_owned(),
        dense: dtype.to_owned(),
        classes: Vec::new(),
        name: None,
        quality: None,
    }
}

/// A committed file of test data.
pub(crate) fn testdata(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name)
}

/// Experts in a layer.
pub(crate) const EXPERTS: usize = 8;
const HIDDEN: usize = 64;
const INNER: usize = 32;
const LAYERS: usize = 4;

/// Writes `config.json`, `model.safetensors` and `tokenizer.json` into a new folder; the weights
/// follow from `seed`.
pub(crate) fn write(dir: &Path, seed: u64) {
    std::fs::create_dir_all(dir).expect("a folder");
    let (tokenizer, vocab) = byte_tokenizer();
    let config = config(vocab);
    std::fs::write(dir.join("config.json"), config.to_string()).expect("written");
    std::fs::write(dir.join("tokenizer.json"), tokenizer.to_string()).expect("written");
    let template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n\
                    {% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    let tokenizer_config = json!({ "chat_template": template });
    std::fs::write(dir.join("tokenizer_config.json"), tokenizer_config.to_string()).expect("ok");
    write_weights(&dir.join("model.safetensors"), vocab, seed);
}

fn config(vocab: usize) -> Value {
    json!({
        "model_type": "qwen3_5_moe_text", "hidden_size": HIDDEN, "num_hidden_layers": LAYERS,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": vocab,
        "max_position_embeddings": 512, "rms_norm_eps": 1e-6, "tie_word_embeddings": false,
        "rope_parameters": {"rope_theta": 10000.0, "partial_rotary_factor": 0.5},
        "full_attention_interval": 2, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
        "linear_key_head_dim": 16, "linear_value_head_dim": 16, "linear_conv_kernel_dim": 4,
        "num_experts": EXPERTS, "num_experts_per_tok": 3, "moe_intermediate_size": INNER,
        "shared_expert_intermediate_size": 32, "hidden_act": "silu", "eos_token_id": vocab - 1
    })
}

/// Names and shapes of all tensors; norms are small, the rest has the scale of trained weights.
fn shapes(vocab: usize) -> Vec<(String, Vec<usize>, f32)> {
    let mut all = vec![
        ("model.embed_tokens.weight".to_owned(), vec![vocab, HIDDEN], 1.0),
        ("lm_head.weight".to_owned(), vec![vocab, HIDDEN], 0.3),
        ("model.norm.weight".to_owned(), vec![HIDDEN], 0.1),
    ];
    for layer in 0..LAYERS {
        let mut add = |name: &str, shape: &[usize], scale: f32| {
            all.push((format!("model.layers.{layer}.{name}"), shape.to_vec(), scale));
        };
        add("input_layernorm.weight", &[HIDDEN], 0.1);
        add("post_attention_layernorm.weight", &[HIDDEN], 0.1);
        if layer % 2 == 1 {
            add("self_attn.q_proj.weight", &[2 * 64, HIDDEN], 0.2);
            add("self_attn.k_proj.weight", &[32, HIDDEN], 0.2);
            add("self_attn.v_proj.weight", &[32, HIDDEN], 0.2);
            add("self_attn.o_proj.weight", &[HIDDEN, 64], 0.2);
            add("self_attn.q_norm.weight", &[16], 0.1);
            add("self_attn.k_norm.weight", &[16], 0.1);
        } else {
            add("linear_attn.in_proj_qkv.weight", &[128, HIDDEN], 0.2);
            add("linear_attn.in_proj_z.weight", &[64, HIDDEN], 0.2);
            add("linear_attn.in_proj_a.weight", &[4, HIDDEN], 0.2);
            add("linear_attn.in_proj_b.weight", &[4, HIDDEN], 0.2);
            add("linear_attn.conv1d.weight", &[128, 1, 4], 0.5);
            add("linear_attn.A_log", &[4], 1.0);
            add("linear_attn.dt_bias", &[4], 1.0);
            add("linear_attn.norm.weight", &[16], 1.0);
            add("linear_attn.out_proj.weight", &[HIDDEN, 64], 0.2);
        }
        add("mlp.gate.weight", &[EXPERTS, HIDDEN], 0.5);
        add("mlp.experts.gate_up_proj", &[EXPERTS, 2 * INNER, HIDDEN], 0.2);
        add("mlp.experts.down_proj", &[EXPERTS, HIDDEN, INNER], 0.2);
        add("mlp.shared_expert.gate_proj.weight", &[32, HIDDEN], 0.2);
        add("mlp.shared_expert.up_proj.weight", &[32, HIDDEN], 0.2);
        add("mlp.shared_expert.down_proj.weight", &[HIDDEN, 32], 0.2);
        add("mlp.shared_expert_gate.weight", &[1, HIDDEN], 0.2);
    }
    all
}

fn write_weights(path: &Path, vocab: usize, seed: u64) {
    let mut noise = Noise::new(seed);
    let tensors = shapes(vocab).into_iter().map(|(name, shape, scale)| {
        let count = shape.iter().product::<usize>();
        let bytes = (0..count).flat_map(|_| (noise.uniform() * scale).to_le_bytes()).collect();
        StoredTensor { name, dtype: DType::F32, shape, bytes }
    });
    write_safetensors(path, tensors);
}

/// Numbers that follow from a seed and nothing else.
pub(crate) struct Noise(u64);

impl Noise {
    pub(crate) fn new(seed: u64) -> Self {
        Noise(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// From −1 to 1.
    pub(crate) fn uniform(&mut self) -> f32 {
        (self.next() >> 40) as f32 / 8_388_608.0 - 1.0
    }

    /// Nearly normal, of deviation 1: four uniform numbers.
    pub(crate) fn normal(&mut self) -> f32 {
        (0..4).map(|_| self.uniform()).sum::<f32>() * (3.0_f32 / 4.0).sqrt()
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        let words = (0..count.div_ceil(4)).flat_map(|_| ((self.next() >> 32) as u32).to_le_bytes());
        words.take(count).collect()
    }
}

/// A tensor of a safetensors file.
pub(crate) struct StoredTensor {
    pub(crate) name: String,
    pub(crate) dtype: DType,
    /// Slowest dimension first.
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

/// Writes unquantised tensors as the format has them.
pub(crate) fn write_safetensors(path: &Path, tensors: impl IntoIterator<Item = StoredTensor>) {
    let (mut header, mut data) = (Map::new(), Vec::<u8>::new());
    for StoredTensor { name, dtype, shape, bytes } in tensors {
        let start = data.len();
        data.extend(bytes);
        let dtype = dtype.name().to_uppercase();
        let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": [start, data.len()]});
        header.insert(name, entry);
    }
    let header = Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend(data);
    std::fs::write(path, file).expect("written");
}

/// A byte-level tokenizer without merges, with the two tokens of ChatML at the end.
fn byte_tokenizer() -> (Value, usize) {
    let mut vocab = Map::new();
    for (id, c) in byte_alphabet().into_iter().enumerate() {
        vocab.insert(c.to_string(), json!(id));
    }
    let special = |id: usize, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false,
               "rstrip": false, "normalized": false, "special": true})
    };
    let tokenizer = json!({
        "version": "1.0",
        "added_tokens": [special(256, "<|im_start|>"), special(257, "<|im_end|>")],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                          "use_regex": false},
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                    "use_regex": false},
        "model": {"type": "BPE", "vocab": vocab, "merges": []}
    });
    (tokenizer, 258)
}

/// GPT-2's printable stand-ins of the 256 bytes.
fn byte_alphabet() -> Vec<char> {
    let printable = |b: u32| (33..=126).contains(&b) || (161..=172).contains(&b) || b >= 174;
    let mut next = 256;
    (0..256_u32)
        .map(|b| {
            let code = if printable(b) {
                b
            } else {
                next += 1;
                next - 1
            };
            char::from_u32(code).expect("below the surrogates")
        })
        .collect()
}
