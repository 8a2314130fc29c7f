//! A Hugging Face directory: `config.json` and one or more safetensors files in f32, f16 or bf16.
//!
//! Vision and multi-token-prediction tensors are left alone.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::side_files::SideFiles;
use super::{Form, Format, SafetensorsFile, Tensor, Weights};
use crate::error::EngineError;
use crate::io::{FileAt, ReadAt};
use crate::tensor::DType;

/// Prefixes of text weights: nested in a vision model, plain, and at the top (`lm_head`).
const PREFIXES: [&str; 3] = ["model.language_model.", "language_model.model.", "model."];

pub(super) fn open(dir: &Path) -> Result<Weights, EngineError> {
    let open = |path: PathBuf| match FileAt::open(&path) {
        Ok(file) => Ok(Arc::new(file) as Arc<dyn ReadAt>),
        Err(source) => Err(EngineError::Read { path, source }),
    };
    let files = safetensors_files(dir)?.into_iter().map(open).collect::<Result<_, _>>()?;
    from_readers(dir.to_owned(), files, SideFiles::Folder(dir.to_owned()))
}

pub(super) fn from_readers(
    origin: PathBuf,
    files: Vec<Arc<dyn ReadAt>>,
    side: SideFiles,
) -> Result<Weights, EngineError> {
    let mut weights = Weights {
        origin,
        files: Vec::with_capacity(files.len()),
        tensors: Default::default(),
        format: Format::HuggingFace,
        form: Form::Transformers,
        side,
    };
    for (index, file) in files.into_iter().enumerate() {
        let file = SafetensorsFile::from_reader(file)?;
        for (name, entry) in &file.tensors {
            let Some(name) = canonical(name) else { continue };
            let Some(dtype) = float_type(&entry.dtype) else {
                return Err(EngineError::Malformed {
                    path: file.reader.path().to_owned(),
                    what: format!(
                        "tensor {name:?} has the type {}; this version reads F32, F16 and BF16",
                        entry.dtype
                    ),
                });
            };
            let tensor = Tensor {
                file: index,
                offset: entry.offset,
                len: entry.len,
                dtype,
                shape: entry.shape.clone(),
            };
            if weights.tensors.insert(name.to_owned(), tensor).is_some() {
                return Err(EngineError::Malformed {
                    path: file.reader.path().to_owned(),
                    what: format!(
                        "tensor {name:?} stands in another file too; remove the files that do not \
                         belong to this model"
                    ),
                });
            }
        }
        weights.files.push(file.reader);
    }
    Ok(weights)
}

/// The types in which models are published; blocks have other files.
fn float_type(name: &str) -> Option<DType> {
    DType::from_name(name).filter(|t| !t.is_quantised())
}

fn safetensors_files(dir: &Path) -> Result<Vec<PathBuf>, EngineError> {
    let read = |source| EngineError::Read { path: dir.to_owned(), source };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(read)? {
        let path = entry.map_err(read)?.path();
        if path.extension().is_some_and(|e| e == "safetensors") && !is_reference(&path) {
            paths.push(path);
        }
    }
    if paths.is_empty() {
        return Err(EngineError::Malformed {
            path: dir.to_owned(),
            what: "has neither sluice.json nor *.safetensors files; expected a pack or a Hugging \
                   Face model directory"
                .to_owned(),
        });
    }
    paths.sort();
    Ok(paths)
}

/// Reference outputs may lie beside a model; they are not weights.
fn is_reference(path: &Path) -> bool {
    path.file_stem().is_some_and(|s| s == "reference")
}

/// The canonical name of a text tensor, or `None` for anything else.
fn canonical(name: &str) -> Option<&str> {
    if name.starts_with("lm_head.") {
        return Some(name);
    }
    let rest = PREFIXES.iter().find_map(|p| name.strip_prefix(p))?;
    (!rest.starts_with("visual.")).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::EngineOptions;
    use crate::model::{LoadedModel, tiny};
    use crate::pack::{inspect, pack};
    use crate::plan::{PlanOptions, plan};

    /// A copy of the family in two shards, changed: what loading, packing, describing and planning it
    /// say.
    fn refused_by_all(change: impl Fn(&Path)) -> [String; 4] {
        let dir = tempfile::tempdir().expect("a temporary folder");
        copy_changed("qwen3_next", dir.path(), change);
        let to = dir.path().join("pack");
        let model = dir.path().to_owned();
        let plan_options = PlanOptions { model: model.clone(), ..PlanOptions::default() };
        let errors = [
            load(&model).err(),
            pack(&tiny::pack_options(&model, &to, "q8_0"), &mut |_| {}).err(),
            inspect(&model, false).err(),
            plan(&plan_options).err(),
        ];
        assert!(!to.exists() && !dir.path().join("pack.partial").exists(), "nothing was written");
        errors.map(|error| error.expect("refused").to_string())
    }

    /// What loading a changed copy says.
    fn refused(change: impl Fn(&Path)) -> String {
        let dir = tempfile::tempdir().expect("a temporary folder");
        copy_changed("qwen3_next", dir.path(), change);
        load(dir.path()).err().expect("refused").to_string()
    }

    fn copy_changed(family: &str, to: &Path, change: impl Fn(&Path)) {
        for entry in std::fs::read_dir(tiny::checkpoint(family)).expect("a folder") {
            let entry = entry.expect("an entry");
            std::fs::copy(entry.path(), to.join(entry.file_name())).expect("copied");
        }
        change(to);
    }

    fn load(model: &Path) -> Result<LoadedModel, EngineError> {
        let options =
            EngineOptions { model: model.to_owned(), threads: Some(1), ..EngineOptions::default() };
        LoadedModel::load(&options)
    }

    const SECOND: &str = "model-00002-of-00002.safetensors";

    #[test]
    fn incomplete_directories_are_errors_that_say_what_is_missing() {
        let remove = |name: &'static str| {
            refused(move |dir| std::fs::remove_file(dir.join(name)).expect("there"))
        };
        assert!(remove(SECOND).contains("is the download complete"));
        assert!(remove("config.json").contains("config.json"));
        assert!(remove("tokenizer.json").contains("tokenizer.json"));
        let cut = refused(|dir| {
            let file = std::fs::File::options().write(true).open(dir.join(SECOND)).expect("there");
            let len = file.metadata().expect("a file").len();
            file.set_len(len - 1).expect("cut");
        });
        assert!(cut.contains(SECOND) && cut.contains("the file is cut"), "{cut}");
    }

    #[test]
    fn configs_that_lie_about_sizes_allocate_nothing_and_are_refused() {
        for (field, size) in [
            ("hidden_size", 128),
            ("num_hidden_layers", 1 << 22),
            ("num_experts", 1 << 22),
            ("moe_intermediate_size", 1 << 22),
            ("linear_value_head_dim", 1 << 22),
            ("linear_key_head_dim", 1 << 22),
            ("linear_num_value_heads", 1 << 22),
            ("linear_conv_kernel_dim", 1 << 22),
            ("shared_expert_intermediate_size", 1 << 22),
            ("num_attention_heads", 1 << 22),
            ("head_dim", 1 << 22),
            ("vocab_size", 1 << 22),
            ("hidden_size", 1_u64 << 40),
        ] {
            let errors = refused_by_all(|dir| set(dir, &[(field, size)]));
            let says = ["the config implies", "has no tensor", "expected a size", "lists 2 of"];
            for error in errors {
                assert!(says.iter().any(|part| error.contains(part)), "{field}: {error}");
            }
        }
        // Products of these would leave 64 bits.
        let linear = ["key_head_dim", "value_head_dim", "num_key_heads", "num_value_heads"];
        let linear = linear.map(|name| format!("linear_{name}"));
        let all: Vec<_> = linear.iter().map(|name| (name.as_str(), 1 << 22)).collect();
        for error in refused_by_all(|dir| set(dir, &all)) {
            assert!(error.contains("the config implies"), "{error}");
        }
    }

    fn set(dir: &Path, fields: &[(&str, u64)]) {
        let path = dir.join("config.json");
        let text = std::fs::read(&path).expect("there");
        let mut config: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
        for (field, size) in fields {
            config[*field] = serde_json::json!(size);
        }
        std::fs::write(&path, config.to_string()).expect("written");
    }

    #[test]
    fn experts_with_values_that_are_no_numbers_are_named_when_they_are_used() {
        for (family, named) in [
            ("qwen3_next", "layers.0.mlp.experts.*.down_proj.weight"),
            ("qwen3_5_moe", "layers.0.mlp.experts.down_proj"),
        ] {
            let dir = tempfile::tempdir().expect("a temporary folder");
            copy_changed(family, dir.path(), |dir| {
                for path in safetensors_files(dir).expect("there") {
                    let file = SafetensorsFile::open(&path).expect("valid");
                    let mut bytes = std::fs::read(&path).expect("there");
                    let broken = |name: &str| {
                        name.contains("layers.0.mlp.experts") && name.contains("down_proj")
                    };
                    for (_, entry) in file.tensors.iter().filter(|(name, _)| broken(name)) {
                        let from = entry.offset as usize;
                        bytes[from..from + entry.len].fill(0xff);
                    }
                    std::fs::write(&path, bytes).expect("written");
                }
            });
            let mut model = load(dir.path()).expect("loads: experts are read later");
            for _ in 0..2 {
                let mut sequence = model.new_sequence();
                let error = model.forward_all(&mut sequence, &[1, 2, 3]).expect_err("refused");
                let error = error.to_string();
                for part in ["of layer 0", named, "finite"] {
                    assert!(error.contains(part), "{family}: {error}");
                }
            }
        }
    }

    #[test]
    fn tensors_that_cannot_be_read_are_named_with_their_type() {
        let add = |name: &'static str, dtype: &'static str| {
            refused(move |dir| {
                let entry =
                    serde_json::json!({"dtype": dtype, "shape": [4], "data_offsets": [0, 4]});
                let header = serde_json::json!({ name: entry }).to_string();
                let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
                bytes.extend(header.as_bytes());
                bytes.extend([0; 4]);
                std::fs::write(dir.join("other.safetensors"), bytes).expect("written");
            })
        };
        let error = add("model.layers.0.mlp.gate.weight_scale", "F8_E4M3");
        assert!(error.contains("weight_scale") && error.contains("F8_E4M3"), "{error}");
        let error = add("model.layers.0.mlp.odd", "F4");
        assert!(error.contains("mlp.odd") && error.contains("F4"), "{error}");
        let twice = refused(|dir| {
            std::fs::copy(dir.join(SECOND), dir.join("copy.safetensors"))
                .map(|_| ())
                .expect("copied");
        });
        assert!(twice.contains("stands in another file too"), "{twice}");
    }

    #[test]
    fn text_tensors_get_one_name_whatever_their_prefix() {
        for (name, expected) in [
            ("model.layers.0.mlp.gate.weight", Some("layers.0.mlp.gate.weight")),
            ("model.language_model.norm.weight", Some("norm.weight")),
            ("language_model.model.norm.weight", Some("norm.weight")),
            ("lm_head.weight", Some("lm_head.weight")),
            ("model.visual.blocks.0.attn.weight", None),
            ("mtp.fc.weight", None),
        ] {
            assert_eq!(canonical(name), expected);
        }
    }
}
