//! GGUF: a model in one file or several splits, served as it is.
//!
//! Dense tensors are read into memory; an expert is three slices of its layer's stacked tensors. The
//! keys become a config and a tokenizer in the form that the other formats have ([`config`],
//! [`vocabulary`]); what the converter changed in the values is named by [`Form::Ggml`] and undone by
//! the families. The block of multi-token prediction, which `block_count` includes, is left alone.
//! Sources: ggml docs/gguf.md; llama.cpp `src/llama-model-loader.cpp` (splits).

mod config;
mod header;
mod input;
pub(in crate::weights) mod names;
mod splits;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod vocabulary;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value as Json;

use super::side_files::{self, SideFiles};
use super::{Form, Format, Tensor, Weights};
use crate::error::EngineError;
use crate::io::{FileAt, ReadAt};
pub(super) use header::Header;
use header::{TensorInfo, type_name};
use names::{Meaning, meaning};

pub(super) use splits::{files_of, stem};

/// Opens the files of one model, in the order of their splits.
pub(super) fn open(paths: &[PathBuf]) -> Result<Weights, EngineError> {
    let open = |path: &PathBuf| match FileAt::open(path) {
        Ok(file) => Ok(Arc::new(file) as Arc<dyn ReadAt>),
        Err(source) => Err(EngineError::Read { path: path.clone(), source }),
    };
    from_readers(paths.iter().map(open).collect::<Result<_, _>>()?)
}

pub(super) fn from_readers(files: Vec<Arc<dyn ReadAt>>) -> Result<Weights, EngineError> {
    let headers = files.into_iter().map(Header::read).collect::<Result<Vec<_>, _>>()?;
    splits::check(&headers)?;
    let first = headers.first().expect("a model has at least one file");
    let origin = first.file.path().to_owned();
    let sizes = config::Sizes { tensors: all_tensors(&headers) };
    let config = config::of(first, &sizes)?;
    let layers = config["num_hidden_layers"].as_u64().expect("the config was just made") as usize;
    let mut tensors = BTreeMap::new();
    for (file, header) in headers.iter().enumerate() {
        for (gguf, info) in &header.tensors {
            let Some(name) = canonical(header, gguf, layers)? else { continue };
            if tensors.insert(name, tensor(header, file, gguf, info)?).is_some() {
                return Err(malformed(header, format!("has the tensor {gguf:?} under two names")));
            }
        }
    }
    Ok(Weights {
        side: side_files(&origin, first, &config)?,
        origin,
        files: headers.iter().map(|h| Arc::clone(&h.file)).collect(),
        tensors,
        format: Format::Gguf,
        form: Form::Ggml,
    })
}

/// Shapes of all tensors by their GGUF names.
fn all_tensors(headers: &[Header]) -> BTreeMap<&str, &[usize]> {
    let tensors = headers.iter().flat_map(|header| &header.tensors);
    tensors.map(|(name, info)| (name.as_str(), info.shape.as_slice())).collect()
}

/// The name that a tensor answers to; `None` for one that is not used.
fn canonical(header: &Header, gguf: &str, layers: usize) -> Result<Option<String>, EngineError> {
    match meaning(gguf, layers) {
        Meaning::Canonical(name) => Ok(Some(name)),
        Meaning::Unused => Ok(None),
        Meaning::Unknown => Err(malformed(
            header,
            format!(
                "has a tensor {gguf:?} that this version does not know; it would compute without it"
            ),
        )),
    }
}

fn tensor(
    header: &Header,
    file: usize,
    gguf: &str,
    info: &TensorInfo,
) -> Result<Tensor, EngineError> {
    let Some(dtype) = info.dtype else {
        let known: Vec<_> = crate::tensor::DType::ALL.iter().map(|t| t.name()).collect();
        return Err(malformed(
            header,
            format!(
                "tensor {gguf:?} has the type {}; this version reads {}",
                type_name(info.ggml_type),
                known.join(", ")
            ),
        ));
    };
    Ok(Tensor { file, offset: info.offset, len: info.len, dtype, shape: info.shape.clone() })
}

/// Config, tokenizer, template and generation defaults as files.
fn side_files(origin: &Path, first: &Header, config: &Json) -> Result<SideFiles, EngineError> {
    let mut files = BTreeMap::new();
    let mut add = |name: &str, value: &Json| {
        let text = serde_json::to_vec_pretty(value).expect("plain data");
        files.insert(name.to_owned(), text);
    };
    add(side_files::CONFIG, config);
    add(side_files::TOKENIZER, &vocabulary::tokenizer_json(first)?);
    add(side_files::TOKENIZER_CONFIG, &vocabulary::tokenizer_config(first)?);
    add(side_files::GENERATION_CONFIG, &vocabulary::generation_config(first)?);
    if let Some(template) = first.string("tokenizer.chat_template") {
        files.insert(side_files::CHAT_TEMPLATE.to_owned(), template.as_bytes().to_vec());
    }
    Ok(SideFiles::Memory { origin: origin.to_owned(), files })
}

fn malformed(header: &Header, what: String) -> EngineError {
    EngineError::Malformed { path: header.file.path().to_owned(), what }
}
