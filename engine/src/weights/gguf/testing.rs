//! Writes GGUF files for tests: right ones, and ones that lie.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::header::Header;
pub(crate) use super::header::Value;
use super::splits::split_name;
use crate::error::EngineError;
use crate::io::{FileAt, MemoryAt};

/// A tensor to write; `offset` of `None` places it behind the one before.
#[derive(Clone)]
pub(crate) struct TestTensor {
    pub(crate) name: String,
    /// Fastest dimension first, as the file has them.
    pub(crate) dims: Vec<u64>,
    pub(crate) ggml_type: u32,
    pub(crate) offset: Option<u64>,
    pub(crate) bytes: Vec<u8>,
}

/// A file to write.
#[derive(Clone)]
pub(crate) struct TestFile {
    pub(crate) version: u32,
    pub(crate) keys: Vec<(String, Value)>,
    pub(crate) tensors: Vec<TestTensor>,
    /// What the header claims, where it is not the truth.
    pub(crate) tensor_count: Option<u64>,
    pub(crate) key_count: Option<u64>,
}

impl TestFile {
    pub(crate) fn new(keys: Vec<(String, Value)>, tensors: Vec<TestTensor>) -> Self {
        TestFile { version: 3, keys, tensors, tensor_count: None, key_count: None }
    }

    /// The file's bytes.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend(self.tensor_count.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        out.extend(self.key_count.unwrap_or(self.keys.len() as u64).to_le_bytes());
        for (key, value) in &self.keys {
            string(&mut out, key);
            write_value(&mut out, value);
        }
        let (mut at, mut offsets) = (0, Vec::new());
        for tensor in &self.tensors {
            let offset = tensor.offset.unwrap_or(at);
            at = (at + tensor.bytes.len() as u64).next_multiple_of(32);
            string(&mut out, &tensor.name);
            out.extend((tensor.dims.len() as u32).to_le_bytes());
            tensor.dims.iter().for_each(|d| out.extend(d.to_le_bytes()));
            out.extend(tensor.ggml_type.to_le_bytes());
            out.extend(offset.to_le_bytes());
            offsets.push(offset);
        }
        out.resize(out.len().next_multiple_of(32), 0);
        for tensor in &self.tensors {
            out.extend(&tensor.bytes);
            out.resize(out.len().next_multiple_of(32), 0);
        }
        out
    }

    /// What the reader makes of it.
    pub(crate) fn read(&self) -> Result<Header, String> {
        read(self.bytes())
    }

    /// All of a file that was read, to be changed and written again.
    pub(crate) fn of(header: &Header) -> TestFile {
        let mut tensors: Vec<_> = header.tensors.iter().collect();
        tensors.sort_by_key(|(_, info)| info.offset);
        let tensors = tensors.into_iter().map(|(name, info)| {
            let mut bytes = vec![0; info.len];
            header.file.read_exact_at(&mut bytes, info.offset).expect("the file is whole");
            let dims = info.shape.iter().rev().map(|d| *d as u64).collect();
            let name = name.clone();
            TestTensor { name, dims, ggml_type: info.ggml_type, offset: None, bytes }
        });
        let keys = header.metadata.iter().map(|(k, v)| (k.clone(), v.clone()));
        TestFile::new(keys.collect(), tensors.collect())
    }

    /// All of a file.
    pub(crate) fn open(path: &Path) -> TestFile {
        let file = FileAt::open(path).expect("there");
        TestFile::of(&Header::read(Arc::new(file)).expect("valid"))
    }

    /// Sets a key.
    pub(crate) fn set(&mut self, key: &str, value: Value) {
        self.keys.retain(|(k, _)| k != key);
        self.keys.push((key.to_owned(), value));
    }
}

/// Writes a model as three files into a folder, with the keys that say so.
pub(crate) fn splits_of(
    path: &Path,
    dir: &Path,
    change: impl Fn(usize, &mut TestFile),
) -> Vec<PathBuf> {
    let whole = TestFile::open(path);
    let per_file = whole.tensors.len().div_ceil(3);
    let mut paths = Vec::new();
    for (number, tensors) in whole.tensors.chunks(per_file).enumerate() {
        let keys = if number == 0 { whole.keys.clone() } else { Vec::new() };
        let mut file = TestFile::new(keys, tensors.to_vec());
        file.set("split.no", Value::Integer(number as i64));
        file.set("split.count", Value::Integer(3));
        file.set("split.tensors.count", Value::Integer(whole.tensors.len() as i64));
        change(number, &mut file);
        let path = dir.join(split_name("m", number + 1, 3));
        std::fs::write(&path, file.bytes()).expect("written");
        paths.push(path);
    }
    paths
}

/// What the reader makes of some bytes.
pub(crate) fn read(bytes: Vec<u8>) -> Result<Header, String> {
    Header::read(Arc::new(MemoryAt::new(&bytes))).map_err(|error: EngineError| error.to_string())
}

fn string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn write_value(out: &mut Vec<u8>, value: &Value) {
    let mut kind = |n: u32| out.extend(n.to_le_bytes());
    match value {
        Value::Integer(n) => {
            kind(11);
            out.extend(n.to_le_bytes());
        }
        Value::Float(x) => {
            kind(12);
            out.extend(x.to_le_bytes());
        }
        Value::Bool(b) => {
            kind(7);
            out.push(u8::from(*b));
        }
        Value::String(text) => {
            kind(8);
            string(out, text);
        }
        Value::Integers(list) => {
            kind(9);
            kind(11);
            out.extend((list.len() as u64).to_le_bytes());
            list.iter().for_each(|n| out.extend(n.to_le_bytes()));
        }
        Value::Strings(list) => {
            kind(9);
            kind(8);
            out.extend((list.len() as u64).to_le_bytes());
            list.iter().for_each(|text| string(out, text));
        }
        Value::Other => {
            kind(9);
            kind(6);
            out.extend(1_u64.to_le_bytes());
            out.extend(1.5_f32.to_le_bytes());
        }
    }
}
