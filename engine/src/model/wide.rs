//! The tiny models made wide enough for every type of weights, and what they show: that each type runs
//! in each format, how near to the oracle, and how fast.
//!
//! Names, keys and counts are those of `testdata/tiny/`; widths are multiplied, vectors repeated,
//! matrices drawn anew. `cargo test -p sluice-engine --lib -- --ignored --nocapture table_of_families`
//! prints the table in `engine/README.md`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use half::f16;
use serde_json::Value as Json;

use super::parity::{best_and_margin, load};
use super::tiny::{self, FAMILIES, Noise, StoredTensor};
use super::{LoadedModel, Step};
use crate::clock::Clock;
use crate::engine::{BackendChoice, EngineOptions};
use crate::quant::quantise_row;
use crate::tensor::DType;
use crate::tokenizer::TokenId;
use crate::weights::gguf_testing::{TestFile, Value};
use crate::weights::safetensors::SafetensorsFile;

/// The least factor that makes every row of every matrix a whole number of blocks of 256.
const WHOLE_BLOCKS: usize = 8;
/// Sizes of the tiny models that are counts, of rows in a convolution, of heads, experts, tokens.
const COUNTS: [usize; 6] = [1, 4, 6, 8, 12, 268];
/// Sizes in a config that are widths.
const WIDTHS: [&str; 7] = [
    "hidden_size",
    "head_dim",
    "intermediate_size",
    "moe_intermediate_size",
    "shared_expert_intermediate_size",
    "linear_key_head_dim",
    "linear_value_head_dim",
];
/// The same in the keys of a GGUF file, without the architecture before them.
const GGUF_WIDTHS: [&str; 9] = [
    "embedding_length",
    "feed_forward_length",
    "expert_feed_forward_length",
    "expert_shared_feed_forward_length",
    "attention.key_length",
    "attention.value_length",
    "ssm.state_size",
    "ssm.inner_size",
    "rope.dimension_count",
];
/// Experts in a layer of the tiny models.
pub(crate) const EXPERTS: usize = 8;
/// Matrices that are f32 in every GGUF file.
const GGUF_F32: [&str; 4] = ["ffn_gate_inp", "ssm_alpha", "ssm_beta", "ssm_ba"];

/// Makes a model `times` as wide.
struct Widening {
    times: usize,
    noise: Noise,
}

impl Widening {
    fn new(times: usize) -> Self {
        Widening { times, noise: Noise::new(7) }
    }

    fn size(&self, size: usize) -> usize {
        if COUNTS.contains(&size) { size } else { size * self.times }
    }

    /// A Hugging Face directory with matrices of an unquantised type.
    fn checkpoint(&mut self, family: &str, dtype: DType, to: &Path) -> PathBuf {
        let (from, to) = (tiny::checkpoint(family), to.join(format!("{family}-{dtype}")));
        std::fs::create_dir_all(&to).expect("a folder");
        for name in ["tokenizer.json", "tokenizer_config.json"] {
            std::fs::copy(from.join(name), to.join(name)).expect("copied");
        }
        let config = std::fs::read(from.join("config.json")).expect("there");
        let mut config: Json = serde_json::from_slice(&config).expect("JSON");
        let text = if config["text_config"].is_object() { "/text_config" } else { "" };
        let text = config.pointer_mut(text).and_then(Json::as_object_mut).expect("an object");
        for (name, value) in text.iter_mut().filter(|(name, _)| WIDTHS.contains(&name.as_str())) {
            let size = value.as_u64().unwrap_or_else(|| panic!("{name} is no size"));
            *value = (size as usize * self.times).into();
        }
        std::fs::write(to.join("config.json"), config.to_string()).expect("written");
        let files = std::fs::read_dir(&from).expect("a folder").map(|e| e.expect("entry").path());
        let mut tensors = Vec::new();
        for file in files.filter(|f| f.file_name().is_some_and(is_weights)) {
            let file = SafetensorsFile::open(&file).expect("valid");
            for (name, entry) in &file.tensors {
                let mut bytes = vec![0; entry.len];
                file.reader.read_exact_at(&mut bytes, entry.offset).expect("whole");
                let repeated = entry.shape.len() == 1 || name.contains("conv1d");
                let shape: Vec<usize> = entry.shape.iter().map(|d| self.size(*d)).collect();
                let (dtype, bytes) = if repeated {
                    let dtype = DType::from_name(&entry.dtype).expect("a float");
                    (dtype, bytes.repeat(shape[0] / entry.shape[0]))
                } else {
                    (dtype, self.matrix(name, dtype, &shape))
                };
                // In a convolution only the channels are a width.
                let shape = if repeated && shape.len() > 1 {
                    [&shape[..1], &entry.shape[1..]].concat()
                } else {
                    shape
                };
                tensors.push(StoredTensor { name: name.clone(), dtype, shape, bytes });
            }
        }
        tiny::write_safetensors(&to.join("model.safetensors"), tensors);
        to
    }

    /// A GGUF file with matrices of any type.
    fn gguf(&mut self, family: &str, dtype: DType, to: &Path) -> PathBuf {
        let mut file = TestFile::open(&tiny::gguf(family));
        for (key, value) in &mut file.keys {
            let rest = key.split_once('.').map_or("", |(_, rest)| rest);
            if !GGUF_WIDTHS.contains(&rest) {
                continue;
            }
            match value {
                Value::Integer(n) => *n *= self.times as i64,
                Value::Integers(list) => list.iter_mut().for_each(|n| *n *= self.times as i64),
                other => panic!("{key} is no size: {other:?}"),
            }
        }
        for tensor in &mut file.tensors {
            let shape: Vec<usize> = tensor.dims.iter().rev().map(|d| *d as usize).collect();
            let wide: Vec<usize> = shape.iter().map(|d| self.size(*d)).collect();
            if shape.len() == 1 || tensor.name.contains("conv1d") {
                tensor.bytes = tensor.bytes.repeat(wide[0] / shape[0]);
            } else {
                let is_f32 = GGUF_F32.iter().any(|part| tensor.name.contains(part));
                let dtype = if is_f32 { DType::F32 } else { dtype };
                tensor.bytes = self.matrix(&tensor.name, dtype, &wide);
                tensor.ggml_type = dtype.ggml();
            }
            tensor.dims = wide.iter().rev().map(|d| *d as u64).collect();
        }
        let path = to.join(format!("{family}-{dtype}.gguf"));
        std::fs::write(&path, file.bytes()).expect("written");
        path
    }

    /// A random matrix, or several, of the scale of trained ones.
    fn matrix(&mut self, name: &str, dtype: DType, shape: &[usize]) -> Vec<u8> {
        let cols = *shape.last().expect("a matrix");
        let deviation = match name {
            // The embedding is not multiplied by anything that would even its width out.
            n if n.contains("embed_tokens") || n.contains("token_embd") => 0.1,
            n if n.contains("lm_head") || n == "output.weight" => 2.4 / (cols as f32).sqrt(),
            n if n.contains("mlp.gate.") || n.contains("gate_inp.") => 2.4 / (cols as f32).sqrt(),
            _ => 1.0 / (cols as f32).sqrt(),
        };
        let count = shape.iter().product();
        if dtype.is_quantised() {
            return self.blocks(dtype, count, deviation);
        }
        let values: Vec<f32> = (0..count).map(|_| self.noise.normal() * deviation).collect();
        let mut bytes = vec![0; dtype.row_bytes(count).expect("any length")];
        quantise_row(dtype, &values, &mut bytes);
        bytes
    }

    /// Random blocks whose values have the mean 0 and that deviation, more or less.
    fn blocks(&mut self, dtype: DType, count: usize, deviation: f32) -> Vec<u8> {
        let mut bytes = self.noise.bytes(dtype.row_bytes(count).expect("whole blocks"));
        let (scale, min) = block_scales(dtype);
        for block in bytes.chunks_exact_mut(dtype.block().1) {
            let d = deviation / scale.levels_deviation;
            if dtype == DType::Mxfp4 {
                // A power of two, with the bias of f32.
                block[scale.at] = (127.0 + d.log2().round()) as u8;
                continue;
            }
            block[scale.at..][..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
            if let Some((at, of_scale)) = min {
                block[at..][..2].copy_from_slice(&f16::from_f32(d * of_scale).to_le_bytes());
            }
        }
        bytes
    }
}

/// A family as a GGUF file in a folder, with matrices of any type.
pub(crate) fn gguf(family: &str, dtype: DType, to: &Path) -> PathBuf {
    Widening::new(WHOLE_BLOCKS).gguf(family, dtype, to)
}

fn is_weights(name: &std::ffi::OsStr) -> bool {
    let name = name.to_string_lossy();
    name.starts_with("model") && name.ends_with(".safetensors")
}

/// Where a block has its scale.
struct Scale {
    at: usize,
    /// Deviation of what a scale of 1 makes of random bytes.
    levels_deviation: f32,
}

/// The scale of a block, and where its minimum is with the factor of the scale that centres values.
fn block_scales(dtype: DType) -> (Scale, Option<(usize, f32)>) {
    let (at, levels_deviation, min) = match dtype {
        DType::Q4_0 => (0, 4.6, None),
        DType::Q4_1 => (0, 4.6, Some((2, -7.5))),
        DType::Q5_0 => (0, 9.2, None),
        DType::Q5_1 => (0, 9.2, Some((2, -15.5))),
        DType::Q8_0 => (0, 74.0, None),
        DType::Q2K => (80, 13.9, Some((82, 1.5))),
        DType::Q3K => (108, 42.0, None),
        DType::Q4K => (0, 258.0, Some((2, 7.5))),
        DType::Q5K => (0, 527.0, Some((2, 15.5))),
        DType::Q6K => (208, 1366.0, None),
        DType::Iq4Nl => (0, 70.0, None),
        DType::Iq4Xs => (0, 1295.0, None),
        DType::Mxfp4 => (0, 2.7, None),
        DType::F32 | DType::F16 | DType::BF16 => panic!("{dtype} has no blocks"),
    };
    (Scale { at, levels_deviation }, min)
}

fn prompt(tokens: usize) -> Vec<TokenId> {
    (0..tokens as u32).map(|i| (i * 37 + i * i * 5) % 256).collect()
}

fn logits(model: &mut LoadedModel, tokens: usize) -> Vec<f32> {
    let mut sequence = model.new_sequence();
    model.forward_all(&mut sequence, &prompt(tokens)).expect("runs")
}

/// Root of the mean square difference, as a share of the deviation of `exact`.
fn relative_error(ours: &[f32], exact: &[f32]) -> f64 {
    let n = exact.len() as f64;
    let mean = exact.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
    let variance = exact.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / n;
    let error = ours.iter().zip(exact).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>() / n;
    assert!(variance > 0.1, "logits that say something: {variance}");
    (error / variance).sqrt()
}

/// How far the fast backend may be from the oracle on the same weights: 8-bit activations where weights
/// are quantised, the order of sums where they are not.
fn error_max(dtype: DType) -> f64 {
    if dtype.is_quantised() { 0.1 } else { 1e-4 }
}

#[test]
fn every_weight_type_runs_from_gguf_and_from_its_pack() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    // The tiny models themselves are unquantised.
    for dtype in DType::ALL.into_iter().filter(|t| t.is_quantised()) {
        let file = gguf("qwen3_moe", dtype, dir.path());
        let exact = logits(&mut load(file.clone(), BackendChoice::Reference), 2);
        let fast = logits(&mut load(file.clone(), BackendChoice::Cpu), 2);
        let error = relative_error(&fast, &exact);
        println!("{dtype}: {error:.6}");
        assert!(error <= error_max(dtype), "{dtype}: {error}");
        let pack = tiny::packed(&file, file.with_extension("pack"), "auto");
        assert_eq!(logits(&mut load(pack, BackendChoice::Cpu), 2), fast, "{dtype}");
        std::fs::remove_file(file).expect("there");
    }
}

/// Tokens a second, generated one after another; the best of several runs, because others only slow it.
fn decode_speed(model: &mut LoadedModel) -> f64 {
    const TOKENS: usize = 24;
    let clock = Clock::System;
    let run = |model: &mut LoadedModel| {
        let mut sequence = model.new_sequence();
        let (mut logits, mut tokens) = (Vec::new(), prompt(8));
        let mut start = clock.now();
        for step in 0..=TOKENS {
            let logits = &mut logits;
            let step_of = Step::new(&mut sequence, &tokens, Some(logits));
            model.forward(&mut [step_of]).expect("runs");
            tokens = vec![best_and_margin(logits).0 as TokenId];
            if step == 0 {
                start = clock.now();
            }
        }
        TOKENS as f64 / clock.since(start).as_secs_f64()
    };
    (0..5).map(|_| run(model)).fold(0.0, f64::max)
}

/// On two threads, for speeds.
fn load_fast(path: PathBuf) -> LoadedModel {
    let options = EngineOptions {
        model: path,
        backend: BackendChoice::Cpu,
        threads: Some(2),
        ..EngineOptions::default()
    };
    LoadedModel::load(&options).expect("loads")
}

/// A model in one form: its error against the oracle, and its speed.
fn measured(path: &Path) -> (Vec<f32>, f64, f64) {
    let exact = logits(&mut load(path.to_owned(), BackendChoice::Reference), 12);
    let mut model = load_fast(path.to_owned());
    let fast = logits(&mut model, 12);
    let error = relative_error(&fast, &exact);
    (fast, error, decode_speed(&mut model))
}

#[test]
#[ignore = "measures for minutes; prints the table of families, formats and types in engine/README.md"]
fn table_of_families() {
    const TIMES: usize = 16;
    println!("| format | weights | {} |", FAMILIES.map(|f| format!("`{f}`")).join(" | "));
    println!("|---|---|{}", "---|".repeat(FAMILIES.len()));
    let mut rows = BTreeMap::<(usize, usize), Vec<String>>::new();
    let cell = |error: f64, speed: f64| format!("{error:.1e}, {speed:.0}");
    for family in FAMILIES {
        for (place, dtype) in DType::ALL.into_iter().enumerate() {
            let dir = tempfile::tempdir().expect("a temporary folder");
            if !dtype.is_quantised() {
                let model = Widening::new(TIMES).checkpoint(family, dtype, dir.path());
                let (_, error, speed) = measured(&model);
                assert!(error <= 5.0 * error_max(dtype), "{family} {dtype}: {error}");
                rows.entry((0, place)).or_default().push(cell(error, speed));
            }
            let file = Widening::new(TIMES).gguf(family, dtype, dir.path());
            let (fast, error, speed) = measured(&file);
            assert!(error <= 5.0 * error_max(dtype), "{family} {dtype}: {error}");
            rows.entry((1, place)).or_default().push(cell(error, speed));
            let mut pack = load_fast(tiny::packed(&file, file.with_extension("pack"), "auto"));
            assert_eq!(logits(&mut pack, 12), fast, "{family} {dtype}");
            rows.entry((2, place)).or_default().push(format!("0, {:.0}", decode_speed(&mut pack)));
        }
    }
    for ((format, place), cells) in rows {
        let format = ["safetensors", "GGUF", "pack"][format];
        println!("| {format} | `{}` | {} |", DType::ALL[place], cells.join(" | "));
    }
}
