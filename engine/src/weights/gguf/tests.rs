//! GGUF files as they are found, split and whole, cut and lying. That they give the results of
//! safetensors is held in `model/families.rs`.

use std::path::{Path, PathBuf};

use super::header::Value;
use super::testing::{TestFile, TestTensor, read, splits_of};
use super::*;
use crate::engine::{BackendChoice, EngineOptions};
use crate::io::MemoryAt;
use crate::model::LoadedModel;
use crate::model::tiny::{self, FAMILIES, testdata};
use crate::pack::pack;
use crate::tokenizer::Tokenizer;

fn load(model: &Path, backend: BackendChoice) -> Result<LoadedModel, EngineError> {
    let threads = Some(2);
    LoadedModel::load(&EngineOptions {
        model: model.to_owned(),
        backend,
        threads,
        ..EngineOptions::default()
    })
}

fn logits(model: &Path, backend: BackendChoice) -> Vec<f32> {
    let mut model = load(model, backend).expect("loads");
    let mut sequence = model.new_sequence();
    let tokens: Vec<u32> = (0..40).map(|i| (i * 37 + i * i * 5) % 256).collect();
    model.forward_all(&mut sequence, &tokens).expect("runs")
}

#[test]
fn tokenizers_inside_gguf_agree_with_the_library_in_many_scripts() {
    let fixture: serde_json::Value =
        serde_json::from_slice(&std::fs::read(testdata("multilingual.json")).expect("there"))
            .expect("JSON");
    let strings = |name: &str| -> Vec<String> {
        serde_json::from_value(fixture[name].clone()).expect("a list of strings")
    };
    let texts = strings("texts");
    for (pre, expected) in fixture["ids"].as_object().expect("by name") {
        let expected: Vec<Vec<u32>> = serde_json::from_value(expected.clone()).expect("ids");
        let file = TestFile::new(
            vec![
                ("tokenizer.ggml.model".to_owned(), Value::String("gpt2".to_owned())),
                ("tokenizer.ggml.pre".to_owned(), Value::String(pre.clone())),
                ("tokenizer.ggml.tokens".to_owned(), Value::Strings(strings("tokens"))),
                ("tokenizer.ggml.merges".to_owned(), Value::Strings(strings("merges"))),
            ],
            Vec::new(),
        );
        let json = vocabulary::tokenizer_json(&file.read().expect("valid")).expect("valid");
        let tokenizer = Tokenizer::from_json(json.to_string().as_bytes()).expect("valid");
        for (text, ids) in texts.iter().zip(&expected) {
            assert_eq!(tokenizer.encode_text(text).expect("short"), *ids, "{pre}: {text:?}");
        }
    }
}

#[test]
fn tokenizers_of_both_forms_are_the_same() {
    for family in FAMILIES {
        let json = std::fs::read(tiny::checkpoint(family).join("tokenizer.json"));
        let published = Tokenizer::from_json(&json.expect("there")).expect("valid");
        let side = open(&[tiny::gguf(family)]).expect("opens").side;
        let bytes = side.required(side_files::TOKENIZER).expect("made");
        let inside = Tokenizer::from_json(&bytes).expect("valid");
        let rendered = "<|im_start|>user\nHello, 12 wörlds <|im_end|>\n<|im_start|>assistant\n";
        assert_eq!(
            inside.encode_rendered(rendered).expect("short"),
            published.encode_rendered(rendered).expect("short"),
            "{family}"
        );
        let config = side.json(side_files::GENERATION_CONFIG).expect("JSON").expect("made");
        assert!(!config["eos_token_id"].as_array().expect("a list").is_empty(), "{family}");
        assert!(side.read(side_files::CHAT_TEMPLATE).expect("readable").is_some(), "{family}");
    }
}

#[test]
fn a_split_model_is_the_whole_model_whichever_file_names_it() {
    for family in ["qwen3_moe", "qwen3_5_moe"] {
        let dir = tempfile::tempdir().expect("a folder");
        let whole = tiny::gguf(family);
        let paths = splits_of(&whole, dir.path(), |_, _| {});
        let expected = logits(&whole, BackendChoice::Cpu);
        for path in [dir.path(), &paths[0], &paths[2]] {
            assert_eq!(logits(path, BackendChoice::Cpu), expected, "{}", path.display());
        }
    }
}

/// llama.cpp's splitter can leave the first file without tensors.
#[test]
fn the_first_split_may_hold_nothing_but_keys() {
    let dir = tempfile::tempdir().expect("a folder");
    let whole = tiny::gguf("qwen3_next");
    let mut moved = Vec::new();
    let paths = splits_of(&whole, dir.path(), |_, _| {});
    for (number, path) in paths.iter().enumerate() {
        let mut file = TestFile::open(path);
        match number {
            0 => moved = std::mem::take(&mut file.tensors),
            1 => file.tensors.append(&mut moved),
            _ => {}
        }
        std::fs::write(path, file.bytes()).expect("written");
    }
    assert!(TestFile::open(&paths[0]).tensors.is_empty());
    let expected = logits(&whole, BackendChoice::Cpu);
    assert_eq!(logits(dir.path(), BackendChoice::Cpu), expected);
    let to = tiny::packed(dir.path(), dir.path().join("pack"), "auto");
    assert_eq!(logits(&to, BackendChoice::Cpu), expected);
}

/// A tiny model changed and written.
fn changed(family: &str, dir: &Path, change: impl FnOnce(&mut TestFile)) -> PathBuf {
    let mut file = TestFile::open(&tiny::gguf(family));
    change(&mut file);
    let path = dir.join("changed.gguf");
    std::fs::write(&path, file.bytes()).expect("written");
    path
}

#[test]
fn a_list_of_recurrent_layers_wins_over_the_interval() {
    let dir = tempfile::tempdir().expect("a folder");
    let recurrent: Vec<i64> = {
        let file = TestFile::open(&tiny::gguf("qwen3_5_moe"));
        let has = |l: usize| file.tensors.iter().any(|t| t.name == format!("blk.{l}.ssm_a"));
        let layers = (0..64).take_while(|l| {
            file.tensors.iter().any(|t| t.name == format!("blk.{l}.attn_norm.weight"))
        });
        layers.map(|l| i64::from(has(l))).collect()
    };
    assert!(recurrent.contains(&0) && recurrent.contains(&1), "{recurrent:?}");
    let listed = "qwen35moe.attention.recurrent_layers";
    let with = |list: Vec<i64>| {
        changed("qwen3_5_moe", dir.path(), |f| {
            f.set("qwen35moe.full_attention_interval", Value::Integer(1));
            f.set(listed, Value::Integers(list));
        })
    };
    let path = with(recurrent.clone());
    let expected = logits(&tiny::gguf("qwen3_5_moe"), BackendChoice::Cpu);
    assert_eq!(logits(&path, BackendChoice::Cpu), expected);
    let path = with(recurrent.iter().map(|n| 1 - n).collect());
    let error = load(&path, BackendChoice::Cpu).err().expect("refused").to_string();
    assert!(error.contains("has no tensor"), "{error}");
    with(vec![1]);
    let error = Weights::open(&path).err().expect("refused").to_string();
    assert!(error.contains(listed) && error.contains("each of"), "{error}");
}

/// Early files of qwen3next keep q, k, v and z in one tensor, key head by key head.
#[test]
fn early_files_with_one_fused_input_are_the_same_model() {
    let dir = tempfile::tempdir().expect("a folder");
    let published = Weights::open(&tiny::checkpoint("qwen3_next")).expect("opens");
    let path = changed("qwen3_next", dir.path(), |file| {
        let mut fused = 0;
        for tensor in &mut file.tensors {
            let Some(layer) = tensor.name.strip_suffix(".attn_qkv.weight") else { continue };
            let layer = layer.strip_prefix("blk.").expect("a layer");
            let name = format!("layers.{layer}.linear_attn.in_proj_qkvz.weight");
            let (_, dtype, shape) = published.dense().find(|(n, ..)| *n == name).expect("there");
            tensor.name = format!("blk.{layer}.ssm_in.weight");
            tensor.dims = shape.iter().rev().map(|d| *d as u64).collect();
            tensor.ggml_type = dtype.ggml();
            let len = published.place(&name).2;
            tensor.bytes = published.raw(&name, 0..len).expect("whole").as_slice().to_vec();
            fused += 1;
        }
        assert!(fused > 0, "layers with delta nets");
        let gate = |t: &TestTensor| t.name.ends_with(".attn_gate.weight");
        file.tensors.retain(|t| !gate(t));
    });
    let (ours, expected) = (
        logits(&path, BackendChoice::Reference),
        logits(&tiny::gguf("qwen3_next"), BackendChoice::Reference),
    );
    // bf16 in the place of f16: what a weight below the smallest f16 would differ by.
    let largest = ours.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(largest < 1e-4, "{largest}");
}

#[test]
fn a_block_of_multi_token_prediction_with_its_own_attention_and_experts_is_left_alone() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = changed("qwen3_5_moe", dir.path(), |file| {
        // The tiny model has two layers and the block, which is given all that a layer has.
        assert!(file.tensors.iter().any(|t| t.name == "blk.2.nextn.eh_proj.weight"));
        let copies = file.tensors.iter().filter_map(|tensor| {
            let name = format!("blk.2.{}", tensor.name.strip_prefix("blk.1.")?);
            Some(TestTensor { name, ..tensor.clone() })
        });
        let copies: Vec<_> = copies.collect();
        for part in ["attn_q.weight", "ffn_down_exps.weight"] {
            assert!(copies.iter().any(|t| t.name.ends_with(part)), "{part}");
        }
        file.tensors.extend(copies);
    });
    let expected = logits(&tiny::gguf("qwen3_5_moe"), BackendChoice::Cpu);
    assert_eq!(logits(&path, BackendChoice::Cpu), expected);
    let to = tiny::packed(&path, dir.path().join("pack"), "auto");
    assert_eq!(logits(&to, BackendChoice::Cpu), expected);
}

#[test]
fn wrong_splits_are_errors_that_name_the_file() {
    type Change = fn(usize, &mut TestFile);
    let cases: [(&str, Change); 5] = [
        // The last file claims to be the first: a cycle.
        ("in the place of file 2", |n, f| {
            if n == 2 {
                f.set("split.no", Value::Integer(0));
            }
        }),
        ("one of 4 files", |_, f| f.set("split.count", Value::Integer(4))),
        ("as file 0 has", |n, f| {
            if n == 1 {
                let mut twice = f.tensors[0].clone();
                twice.name = "token_embd.weight".to_owned();
                f.tensors.push(twice);
            }
        }),
        ("claims 9 tensors", |_, f| f.set("split.tensors.count", Value::Integer(9))),
        ("split.no", |_, f| f.set("split.no", Value::Integer(-7))),
    ];
    for (says, change) in cases {
        let dir = tempfile::tempdir().expect("a folder");
        splits_of(&tiny::gguf("qwen3_moe"), dir.path(), change);
        let error = Weights::open(dir.path()).err().expect("refused").to_string();
        assert!(error.contains(says) && error.contains("-of-00003.gguf"), "{says}: {error}");
    }
    let dir = tempfile::tempdir().expect("a folder");
    let paths = splits_of(&tiny::gguf("qwen3_moe"), dir.path(), |_, _| {});
    std::fs::remove_file(&paths[1]).expect("there");
    let error = Weights::open(&paths[2]).err().expect("refused").to_string();
    assert!(error.contains("m-00002-of-00003.gguf: is missing"), "{error}");
}

#[test]
fn two_models_in_a_folder_must_be_told_apart() {
    let dir = tempfile::tempdir().expect("a folder");
    for name in ["a.gguf", "b.gguf", "mmproj-a.gguf"] {
        std::fs::copy(tiny::gguf("qwen3_moe"), dir.path().join(name)).expect("copied");
    }
    let error = Weights::open(dir.path()).err().expect("refused").to_string();
    assert!(error.contains("a.gguf") && error.contains("b.gguf"), "{error}");
    assert!(!error.contains("mmproj"), "{error}");
}

/// The smallest file with a key of every kind and two tensors.
fn small() -> TestFile {
    let tensor = |name: &str, dims: &[u64], ggml_type, bytes: usize| TestTensor {
        name: name.to_owned(),
        dims: dims.to_vec(),
        ggml_type,
        offset: None,
        bytes: vec![7; bytes],
    };
    let key = |name: &str, value: Value| (name.to_owned(), value);
    TestFile::new(
        vec![
            key("a", Value::Integer(-5)),
            key("b", Value::Float(0.5)),
            key("c", Value::Bool(true)),
            key("d", Value::String("ü".to_owned())),
            key("e", Value::Integers(vec![1, 2])),
            key("f", Value::Strings(vec!["x".to_owned(), String::new()])),
            key("g", Value::Other),
        ],
        vec![tensor("t", &[32, 2], 2, 36), tensor("u", &[3], 0, 12)],
    )
}

#[test]
fn keys_and_tensors_are_read_as_written() {
    let file = small();
    let header = file.read().expect("valid");
    for (key, value) in &file.keys {
        assert_eq!(header.metadata[key], *value);
    }
    let (t, u) = (&header.tensors["t"], &header.tensors["u"]);
    assert_eq!((t.shape.as_slice(), t.len), ([2, 32].as_slice(), 36));
    assert_eq!((u.offset - t.offset, u.len), (64, 12));
}

#[test]
fn every_truncation_is_an_error() {
    let whole = small().bytes();
    // Behind the last tensor lies padding only.
    for len in 0..whole.len() - 20 {
        assert!(read(whole[..len].to_vec()).is_err(), "{len} of {}", whole.len());
    }
    read(whole).expect("the whole is valid");
}

/// Cut anywhere in its keys, its config, its tokenizer, its table of tensors, or within any tensor.
#[test]
fn every_truncation_of_a_model_is_an_error() {
    let whole = std::fs::read(tiny::gguf("qwen3_moe")).expect("there");
    let opened = |len: usize| Weights::from_gguf(vec![Arc::new(MemoryAt::new(&whole[..len]))]);
    let header = read(whole.clone()).expect("valid");
    let data = header.tensors.values().map(|t| t.offset as usize).min().expect("tensors");
    for len in (0..data).step_by(7).chain(data - 64..data) {
        assert!(opened(len).is_err(), "{len} of {}", whole.len());
    }
    for tensor in header.tensors.values() {
        let error = opened(tensor.offset as usize + tensor.len - 1).err().expect("refused");
        assert!(error.to_string().contains("the file is cut"), "{error}");
    }
    opened(whole.len()).expect("the whole is valid");
}

#[test]
fn a_split_that_is_cut_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let paths = splits_of(&tiny::gguf("qwen3_moe"), dir.path(), |_, _| {});
    for path in &paths {
        let whole = std::fs::read(path).expect("there");
        let last = read(whole.clone()).expect("valid");
        let end = last.tensors.values().map(|t| t.offset as usize + t.len).max().expect("tensors");
        for len in [0, 5, 23, 60, end / 2, end - 1] {
            std::fs::write(path, &whole[..len]).expect("written");
            let error = Weights::open(dir.path()).err().expect("refused").to_string();
            let name = path.file_name().expect("a name").to_string_lossy();
            assert!(error.contains(&*name), "{len}: {error}");
        }
        std::fs::write(path, whole).expect("written");
    }
    Weights::open(dir.path()).expect("whole again");
}

#[test]
fn lying_headers_are_errors_that_say_where() {
    type Change = fn(&mut TestFile);
    let huge = u64::MAX / 2;
    let cases: [(&str, Change); 17] = [
        ("version 9", |f| f.version = 9),
        ("big-endian", |f| f.version = 3_u32.swap_bytes()),
        ("tensors, but", |f| f.tensor_count = Some(u64::MAX / 2)),
        ("keys, but", |f| f.key_count = Some(u64::MAX)),
        ("dimensions", |f| f.tensor_count = Some(3)),
        ("key \"a\" twice", |f| f.keys.push(("a".to_owned(), Value::Bool(false)))),
        ("tensor \"t\" twice", |f| f.tensors.push(f.tensors[0].clone())),
        ("dimensions", |f| f.tensors[0].dims = vec![1; 5]),
        ("dimensions", |f| f.tensors[0].dims.clear()),
        ("no tensor has", |f| f.tensors[0].dims = vec![32, 0]),
        ("no tensor has", |f| f.tensors[0].dims = vec![u64::MAX, 2]),
        ("fit in memory", |f| f.tensors[0].dims = vec![1 << 38, 1 << 38]),
        ("leave the file", |f| f.tensors[0].dims = vec![32, 1 << 30]),
        ("no whole number of q4_0", |f| f.tensors[0].dims = vec![33, 2]),
        ("multiple of 32", |f| f.tensors[0].offset = Some(8)),
        ("overflows", |f| f.tensors[0].offset = Some(u64::MAX - 31)),
        ("general.alignment", |f| f.set("general.alignment", Value::Integer(0))),
    ];
    for (says, change) in cases {
        let mut file = small();
        change(&mut file);
        let error = file.read().err().expect("refused");
        assert!(error.starts_with("memory: ") && error.contains(says), "{says}: {error}");
    }
    // Claims inside a key: a string and an array that the file cannot hold.
    let mut string = small().bytes();
    string[24..32].copy_from_slice(&huge.to_le_bytes());
    assert!(read(string).err().expect("refused").contains("a string of"));
    let mut array = TestFile::new(vec![("e".to_owned(), Value::Integers(vec![1]))], Vec::new());
    let at = array.bytes().len();
    array.keys[0].1 = Value::Integers(Vec::new());
    let mut bytes = array.bytes();
    bytes.resize(at, 0);
    bytes[41..49].copy_from_slice(&(1_u64 << 40).to_le_bytes());
    let error = read(bytes).err().expect("refused");
    assert!(error.contains("items"), "{error}");
}

#[test]
fn what_is_not_supported_is_named_with_what_is() {
    type Change = fn(&mut TestFile);
    let cases: [(&[&str], Change); 9] = [
        (&["\"llama\"", "qwen35moe, qwen3next, qwen3moe, qwen2moe"], |f| {
            f.set("general.architecture", Value::String("llama".to_owned()));
        }),
        (&["blk.0.attn_q.weight", "iq2_xxs", "q4_0"], |f| {
            let tensor = f.tensors.iter_mut().find(|t| t.name == "blk.0.attn_q.weight");
            tensor.expect("there").ggml_type = 16;
        }),
        (&["blk.0.attn_sinks.weight", "does not know"], |f| {
            let tensor = f.tensors.iter_mut().find(|t| t.name == "blk.0.attn_k.weight");
            tensor.expect("there").name = "blk.0.attn_sinks.weight".to_owned();
        }),
        (&["qwen3moe.expert_count", "positive"], |f| {
            f.set("qwen3moe.expert_count", Value::Integer(-1));
        }),
        (&["block_count"], |f| f.set("qwen3moe.nextn_predict_layers", Value::Integer(99))),
        (&["yarn", "unscaled"], |f| {
            f.set("qwen3moe.rope.scaling.type", Value::String("yarn".to_owned()));
        }),
        (&["tokenizer.ggml.pre", "gpt-4o", "qwen35"], |f| {
            f.set("tokenizer.ggml.pre", Value::String("gpt-4o".to_owned()));
        }),
        (&["tokenizer.ggml.tokens", "list of strings"], |f| {
            f.set("tokenizer.ggml.tokens", Value::Integer(1));
        }),
        (&["tokenizer.ggml.merges", "pair"], |f| {
            f.set("tokenizer.ggml.merges", Value::Strings(vec!["one".to_owned()]));
        }),
    ];
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("changed.gguf");
    let whole = TestFile::open(&tiny::gguf("qwen3_moe"));
    for (says, change) in cases {
        let mut file = whole.clone();
        change(&mut file);
        std::fs::write(&path, file.bytes()).expect("written");
        let error = Weights::open(&path).err().expect("refused").to_string();
        assert!(error.contains("changed.gguf"), "{error}");
        assert!(says.iter().all(|part| error.contains(part)), "{says:?}: {error}");
    }
}

#[test]
fn missing_tensors_are_named_as_the_file_would() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("m.gguf");
    let mut file = TestFile::open(&tiny::gguf("qwen3_moe"));
    file.tensors.retain(|t| t.name != "blk.0.attn_k.weight");
    std::fs::write(&path, file.bytes()).expect("written");
    let error = load(&path, BackendChoice::Cpu).err().expect("refused").to_string();
    assert!(error.contains("blk.0.attn_k.weight"), "{error}");
}

/// The tiny model with all bits of some tensors set, which is a NaN in f16, bf16 and f32.
fn without_numbers(path: &Path, part: &str) {
    let mut file = TestFile::open(&tiny::gguf("qwen3_moe"));
    for tensor in file.tensors.iter_mut().filter(|t| t.name.contains(part)) {
        tensor.bytes.fill(0xff);
    }
    std::fs::write(path, file.bytes()).expect("written");
}

#[test]
fn numbers_that_are_none_are_errors_that_name_the_tensor() {
    let dir = tempfile::tempdir().expect("a folder");
    let (path, to) = (dir.path().join("nan.gguf"), dir.path().join("pack"));
    let options = tiny::pack_options(&path, &to, "auto");
    for (part, named) in [
        ("ffn_gate_inp", "blk.0.ffn_gate_inp.weight"),
        ("attn_norm", "blk.0.attn_norm.weight"),
        ("token_embd", "token_embd.weight"),
        ("output_norm", "output_norm.weight"),
    ] {
        without_numbers(&path, part);
        let loaded = load(&path, BackendChoice::Cpu).err().expect("refused").to_string();
        let packed = pack(&options, &mut |_| {}).expect_err("refused").to_string();
        for error in [loaded, packed] {
            assert!(error.contains(named) && error.contains("finite"), "{part}: {error}");
        }
    }
    // Experts are read when they are used: packing finds them, and so does the first pass over a file
    // that is served as it is.
    without_numbers(&path, "ffn_down_exps");
    let error = pack(&options, &mut |_| {}).expect_err("refused").to_string();
    assert!(error.contains("layers.0.experts.0.down") && error.contains("finite"), "{error}");
    for backend in [BackendChoice::Cpu, BackendChoice::Reference] {
        let error = failed_pass(&path, backend);
        for part in ["of layer 0", "blk.0.ffn_down_exps.weight", "finite"] {
            assert!(error.contains(part), "{error}");
        }
    }
}

/// What a pass over a model whose experts are broken says.
fn failed_pass(path: &Path, backend: BackendChoice) -> String {
    let mut model = load(path, backend).expect("loads: experts are read later");
    let mut sequence = model.new_sequence();
    model.forward_all(&mut sequence, &[1, 2, 3]).expect_err("refused").to_string()
}

#[test]
fn a_scale_that_is_no_number_is_found_in_every_quantised_type() {
    use crate::model::wide;
    let dir = tempfile::tempdir().expect("a folder");
    for dtype in crate::tensor::DType::ALL.into_iter().filter(|t| t.is_quantised()) {
        let path = wide::gguf("qwen3_moe", dtype, dir.path());
        let mut file = TestFile::open(&path);
        let experts = |t: &&mut TestTensor| t.name == "blk.1.ffn_up_exps.weight";
        let tensor = file.tensors.iter_mut().find(experts).expect("there");
        // The first block of each expert: all bits of its scales set, which is a NaN in f16, and in
        // MXFP4 an exponent that stands for none.
        let (_, block) = dtype.block();
        let expert = tensor.bytes.len() / wide::EXPERTS;
        tensor.bytes.chunks_exact_mut(expert).for_each(|bytes| bytes[..block].fill(0xff));
        std::fs::write(&path, file.bytes()).expect("written");
        let error = failed_pass(&path, BackendChoice::Cpu);
        for part in ["of layer 1", "blk.1.ffn_up_exps.weight", "finite"] {
            assert!(error.contains(part), "{dtype}: {error}");
        }
    }
}
