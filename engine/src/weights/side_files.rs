//! The small files beside weights: config, tokenizer, template, generation defaults.
//!
//! Packs and Hugging Face directories have them as files. A GGUF file says the same things in keys of
//! its own; its reader writes them down in the form of those files, so that nothing above this module
//! knows two forms, and a pack of a GGUF file simply contains them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::read_small;
use crate::error::EngineError;

/// Sizes and architecture, in the field names of transformers.
pub(crate) const CONFIG: &str = "config.json";
/// Vocabulary, merges, added tokens, in the format of the `tokenizers` library.
pub(crate) const TOKENIZER: &str = "tokenizer.json";
/// May hold a chat template.
pub(crate) const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
/// End tokens and sampling defaults.
pub(crate) const GENERATION_CONFIG: &str = "generation_config.json";
/// The chat template, where it is not in the tokenizer's config.
pub(crate) const CHAT_TEMPLATE: &str = "chat_template.jinja";

/// All of them, in the order in which a pack lists them.
pub(crate) const NAMES: [&str; 5] =
    [CONFIG, TOKENIZER, TOKENIZER_CONFIG, GENERATION_CONFIG, CHAT_TEMPLATE];

/// Where the small files are.
#[derive(Clone)]
pub(crate) enum SideFiles {
    /// Files of a folder.
    Folder(PathBuf),
    /// Contents by name.
    Memory {
        /// The file that they were made from, for error messages.
        origin: PathBuf,
        /// Contents.
        files: BTreeMap<String, Vec<u8>>,
    },
}

impl SideFiles {
    /// What an error about one of the files names.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        match self {
            SideFiles::Folder(dir) => dir.join(name),
            SideFiles::Memory { origin, files } if files.contains_key(name) => origin.clone(),
            SideFiles::Memory { origin, .. } => origin.with_file_name(name),
        }
    }

    /// A file's bytes, or `None` if there is no such file.
    pub(crate) fn read(&self, name: &str) -> Result<Option<Vec<u8>>, EngineError> {
        match self {
            SideFiles::Folder(dir) => {
                let path = dir.join(name);
                if path.exists() { read_small(&path).map(Some) } else { Ok(None) }
            }
            SideFiles::Memory { files, .. } => Ok(files.get(name).cloned()),
        }
    }

    /// A file that must be there.
    pub(crate) fn required(&self, name: &str) -> Result<Vec<u8>, EngineError> {
        match self {
            // The operating system's own words say more than "it is not there".
            SideFiles::Folder(dir) => read_small(&dir.join(name)),
            SideFiles::Memory { .. } => self.read(name)?.ok_or_else(|| EngineError::Malformed {
                path: self.path(name),
                what: "is missing".to_owned(),
            }),
        }
    }

    /// A JSON file, or `None` if there is no such file.
    pub(crate) fn json(&self, name: &str) -> Result<Option<Value>, EngineError> {
        self.read(name)?.map(|bytes| parse(&self.path(name), &bytes)).transpose()
    }

    /// `config.json`, which every model has.
    pub(crate) fn config(&self) -> Result<Value, EngineError> {
        parse(&self.path(CONFIG), &self.required(CONFIG)?)
    }
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Value, EngineError> {
    serde_json::from_slice(bytes).map_err(|e| EngineError::Malformed {
        path: path.to_owned(),
        what: format!("is not JSON: {e}"),
    })
}
