//! The safetensors format, read as an untrusted file: header, names, shapes, offsets.
//!
//! A reader of our own because experts need the absolute offset of every tensor for single aligned
//! reads, and because every length is checked before anything is allocated.
//! Source: github.com/huggingface/safetensors, "Format"; the header limit of 100 MB is its own.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;

use crate::error::EngineError;
use crate::io::{FileAt, ReadAt};

/// Largest header that is read.
const HEADER_BYTES_MAX: u64 = 100_000_000;

/// An opened file: its header, and a reader for the rest.
pub(crate) struct SafetensorsFile {
    /// The whole file.
    pub(crate) reader: Arc<dyn ReadAt>,
    /// Tensors by name.
    pub(crate) tensors: BTreeMap<String, TensorEntry>,
    /// Free-form strings of the header.
    pub(crate) metadata: BTreeMap<String, String>,
}

/// Where a tensor lies and what it says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TensorEntry {
    /// `F32`, `BF16`, `U8`, …
    pub(crate) dtype: String,
    /// Dimensions, slowest first.
    pub(crate) shape: Vec<usize>,
    /// First byte, from the start of the file.
    pub(crate) offset: u64,
    /// Bytes.
    pub(crate) len: usize,
}

#[derive(Deserialize)]
struct RawEntry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: [u64; 2],
}

/// Bytes of one element of a safetensors type; `None` for types that this engine does not read.
fn element_bytes(dtype: &str) -> Option<usize> {
    Some(match dtype {
        "F64" | "I64" | "U64" => 8,
        "F32" | "I32" | "U32" => 4,
        "F16" | "BF16" | "I16" | "U16" => 2,
        "U8" | "I8" | "BOOL" | "F8_E4M3" | "F8_E5M2" => 1,
        _ => return None,
    })
}

impl SafetensorsFile {
    /// Opens a file and checks its header.
    pub(crate) fn open(path: &Path) -> Result<Self, EngineError> {
        let read = |source| EngineError::Read { path: path.to_owned(), source };
        SafetensorsFile::from_reader(Arc::new(FileAt::open(path).map_err(read)?))
    }

    /// Checks the header of anything that can be read.
    pub(crate) fn from_reader(reader: Arc<dyn ReadAt>) -> Result<Self, EngineError> {
        let path = reader.path().to_owned();
        let malformed = |what: String| EngineError::Malformed { path: path.clone(), what };
        let read = |source| EngineError::Read { path: path.clone(), source };
        let file_len = reader.len();
        if file_len < 8 {
            return Err(malformed(format!(
                "is {file_len} bytes long, too short for a safetensors header; is it complete?"
            )));
        }
        let mut length = [0; 8];
        reader.read_exact_at(&mut length, 0).map_err(read)?;
        let header_len = u64::from_le_bytes(length);
        if header_len > HEADER_BYTES_MAX || header_len > file_len - 8 {
            return Err(malformed(format!(
                "its header claims {header_len} bytes in a file of {file_len}; the file is cut or \
                 is not safetensors"
            )));
        }
        let mut header = vec![0; usize::try_from(header_len).expect("at most 100 MB")];
        reader.read_exact_at(&mut header, 8).map_err(read)?;
        let raw: BTreeMap<String, serde_json::Value> = serde_json::from_slice(&header)
            .map_err(|e| malformed(format!("its header is not JSON: {e}")))?;
        let mut file =
            SafetensorsFile { reader, tensors: BTreeMap::new(), metadata: BTreeMap::new() };
        for (name, value) in raw {
            if name == "__metadata__" {
                file.metadata = serde_json::from_value(value)
                    .map_err(|e| malformed(format!("__metadata__: {e}")))?;
            } else {
                let entry = check_entry(value, 8 + header_len, file_len)
                    .map_err(|what| malformed(format!("tensor {name:?}: {what}")))?;
                file.tensors.insert(name, entry);
            }
        }
        Ok(file)
    }
}

fn check_entry(
    value: serde_json::Value,
    data_start: u64,
    file_len: u64,
) -> Result<TensorEntry, String> {
    let raw: RawEntry = serde_json::from_value(value).map_err(|e| e.to_string())?;
    let [begin, end] = raw.data_offsets;
    let offset = data_start.checked_add(begin).ok_or("its offset overflows")?;
    let stop = data_start.checked_add(end).ok_or("its offset overflows")?;
    if begin > end || stop > file_len {
        return Err(format!(
            "its data_offsets [{begin}, {end}] leave the file of {file_len} bytes; the file is cut"
        ));
    }
    let len = usize::try_from(end - begin).map_err(|_| "it does not fit in memory")?;
    let element = element_bytes(&raw.dtype)
        .ok_or_else(|| format!("has the type {:?}, which is not supported", raw.dtype))?;
    let expected = raw.shape.iter().try_fold(element, |n, d| n.checked_mul(*d));
    if expected != Some(len) {
        return Err(format!("{} {:?} does not take {len} bytes", raw.dtype, raw.shape));
    }
    Ok(TensorEntry { dtype: raw.dtype, shape: raw.shape, offset, len })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::io::MemoryAt;

    fn file(header: &str, data: usize) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend(std::iter::repeat_n(7, data));
        bytes
    }

    fn open(bytes: Vec<u8>) -> Result<SafetensorsFile, String> {
        SafetensorsFile::from_reader(Arc::new(MemoryAt::new(&bytes))).map_err(|e| e.to_string())
    }

    #[test]
    fn reads_names_shapes_and_offsets() {
        let header = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"BF16","shape":[2,3],"data_offsets":[4,16]}}"#;
        let file = open(file(header, 16)).expect("well formed");
        let a = &file.tensors["a"];
        assert_eq!((a.shape.as_slice(), a.len), ([2, 3].as_slice(), 12));
        assert_eq!(a.offset, 8 + header.len() as u64 + 4);
        assert_eq!(file.metadata["format"], "pt");
    }

    #[test]
    fn lying_headers_are_errors_that_name_the_tensor() {
        for (header, data, says) in [
            (r#"{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}"#, 8, "leave the file"),
            (r#"{"a":{"dtype":"F32","shape":[4],"data_offsets":[16,0]}}"#, 16, "leave the file"),
            (r#"{"a":{"dtype":"F32","shape":[5],"data_offsets":[0,16]}}"#, 16, "does not take"),
            (
                r#"{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,16]}}"#,
                16,
                "does not take",
            ),
            (r#"{"a":{"dtype":"Q9","shape":[4],"data_offsets":[0,16]}}"#, 16, "not supported"),
            (
                r#"{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,18446744073709551615]}}"#,
                16,
                "overflows",
            ),
        ] {
            let error = open(file(header, data)).err().expect("refused");
            assert!(error.contains(says) && error.contains("\"a\""), "{error}");
        }
    }

    #[test]
    fn every_truncation_is_an_error() {
        let whole = file(r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#, 4);
        for len in 0..whole.len() {
            assert!(open(whole[..len].to_vec()).is_err(), "{len}");
        }
        assert!(open(whole).is_ok());
    }

    #[test]
    fn a_huge_header_length_allocates_nothing() {
        let mut bytes = u64::MAX.to_le_bytes().to_vec();
        bytes.extend([0; 32]);
        assert!(open(bytes).err().expect("refused").contains("claims"));
    }

    #[test]
    fn missing_files_are_named() {
        let error = SafetensorsFile::open(&PathBuf::from("no/such.safetensors")).err();
        assert!(error.expect("refused").to_string().contains("no/such.safetensors"));
    }
}
