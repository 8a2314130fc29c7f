//! The header of a GGUF file: metadata and the table of tensors, read as an untrusted file.
//!
//! Numbers of all widths become `i64` or `f64`; arrays that nobody here needs are passed over. Tensor
//! types that this engine does not know are an error only when such a tensor is asked for: files
//! carry tensors that are not used.
//! Source: ggml docs/gguf.md, version 3 (version 2 has the same layout).

use std::collections::BTreeMap;
use std::sync::Arc;

use super::input::{Broken, Input};
use crate::error::EngineError;
use crate::io::ReadAt;
use crate::tensor::DType;

/// Most tensors of a file; a model of 94 layers with 128 experts one by one has 36,000.
const TENSORS_MAX: u64 = 1 << 18;
/// Most metadata keys of a file.
const KEYS_MAX: u64 = 1 << 16;
/// Longest array that is kept: the largest vocabularies have a quarter million entries.
const ITEMS_MAX: u64 = 1 << 22;
/// Largest alignment that a file may ask for.
const ALIGNMENT_MAX: u64 = 1 << 20;
/// Most dimensions of a tensor, as in ggml.
const DIMENSIONS_MAX: u32 = 4;

/// The header of one file.
pub(crate) struct Header {
    /// The whole file.
    pub(super) file: Arc<dyn ReadAt>,
    pub(super) metadata: BTreeMap<String, Value>,
    pub(super) tensors: BTreeMap<String, TensorInfo>,
}

/// A metadata value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Integer(i64),
    Float(f64),
    Bool(bool),
    String(String),
    Integers(Vec<i64>),
    Strings(Vec<String>),
    /// An array that nothing here needs.
    Other,
}

/// A tensor of the table; its bytes lie in the file if the type is known.
#[derive(Clone, Debug)]
pub(crate) struct TensorInfo {
    /// The type's number in ggml.
    pub(super) ggml_type: u32,
    /// The type, if this engine reads it.
    pub(super) dtype: Option<DType>,
    /// Dimensions, slowest first.
    pub(super) shape: Vec<usize>,
    /// First byte, from the start of the file.
    pub(super) offset: u64,
    /// Bytes; 0 where the type is not known.
    pub(super) len: usize,
}

/// Numbers of value types.
mod kind {
    pub(super) const U8: u32 = 0;
    pub(super) const I8: u32 = 1;
    pub(super) const U16: u32 = 2;
    pub(super) const I16: u32 = 3;
    pub(super) const U32: u32 = 4;
    pub(super) const I32: u32 = 5;
    pub(super) const F32: u32 = 6;
    pub(super) const BOOL: u32 = 7;
    pub(super) const STRING: u32 = 8;
    pub(super) const ARRAY: u32 = 9;
    pub(super) const U64: u32 = 10;
    pub(super) const I64: u32 = 11;
    pub(super) const F64: u32 = 12;
}

impl Header {
    /// Reads and checks a file's header.
    pub(crate) fn read(file: Arc<dyn ReadAt>) -> Result<Self, EngineError> {
        let path = file.path().to_owned();
        read(file).map_err(|broken| match broken {
            Broken::Read(source) => EngineError::Read { path, source },
            Broken::Format(what) => EngineError::Malformed { path, what },
        })
    }
}

fn read(file: Arc<dyn ReadAt>) -> Result<Header, Broken> {
    let mut input = Input::new(Arc::clone(&file));
    let (tensor_count, key_count) = preamble(&mut input)?;
    let mut metadata = BTreeMap::new();
    for _ in 0..key_count {
        let key = input.string()?;
        let kind = input.u32()?;
        let value = value(&mut input, kind).map_err(|e| named("key", &key, e))?;
        if metadata.contains_key(&key) {
            return Err(input.error(format!("has the key {key:?} twice")));
        }
        metadata.insert(key, value);
    }
    let mut tensors = BTreeMap::new();
    for _ in 0..tensor_count {
        let name = input.string()?;
        let info = tensor(&mut input).map_err(|e| named("tensor", &name, e))?;
        if tensors.contains_key(&name) {
            return Err(input.error(format!("has the tensor {name:?} twice")));
        }
        tensors.insert(name, info);
    }
    let alignment = alignment(&metadata)?;
    let data = input.position().next_multiple_of(alignment);
    for (name, info) in &mut tensors {
        place(info, data, alignment, file.len())
            .map_err(|what| Broken::Format(format!("tensor {name:?}: {what}")))?;
    }
    Ok(Header { file, metadata, tensors })
}

fn named(what: &str, name: &str, broken: Broken) -> Broken {
    match broken {
        Broken::Format(why) => Broken::Format(format!("{what} {name:?}: {why}")),
        read => read,
    }
}

/// Magic, version and counts: of tensors, of keys.
fn preamble(input: &mut Input) -> Result<(u64, u64), Broken> {
    if input.u32()? != u32::from_le_bytes(*b"GGUF") {
        return Err(Broken::Format("is not a GGUF file: it does not begin with \"GGUF\"".into()));
    }
    match input.u32()? {
        2 | 3 => {}
        swapped if swapped.swap_bytes() <= 3 => {
            return Err(Broken::Format(
                "is a big-endian GGUF file; this version reads little-endian ones".into(),
            ));
        }
        other => {
            return Err(Broken::Format(format!(
                "has GGUF version {other}; this version reads 2 and 3"
            )));
        }
    }
    let (tensors, keys) = (input.u64()?, input.u64()?);
    // Name length, dimension count, one dimension, type, offset; key length, type, value.
    input.expect(tensors, 32, "tensors")?;
    input.expect(keys, 13, "keys")?;
    if tensors > TENSORS_MAX || keys > KEYS_MAX {
        return Err(input.error(format!(
            "claims {tensors} tensors and {keys} keys; at most {TENSORS_MAX} and {KEYS_MAX} are read"
        )));
    }
    Ok((tensors, keys))
}

fn value(input: &mut Input, kind: u32) -> Result<Value, Broken> {
    Ok(match kind {
        kind::F32 => Value::Float(f64::from(input.f32()?)),
        kind::F64 => Value::Float(input.f64()?),
        kind::BOOL => Value::Bool(input.u8()? != 0),
        kind::STRING => Value::String(input.string()?),
        kind::ARRAY => array(input)?,
        _ => Value::Integer(integer(input, kind)?),
    })
}

fn integer(input: &mut Input, kind: u32) -> Result<i64, Broken> {
    Ok(match kind {
        kind::U8 => i64::from(input.u8()?),
        kind::I8 => i64::from(input.u8()? as i8),
        kind::U16 => i64::from(input.u16()?),
        kind::I16 => i64::from(input.u16()? as i16),
        kind::U32 => i64::from(input.u32()?),
        kind::I32 => i64::from(input.u32()? as i32),
        kind::BOOL => i64::from(input.u8()? != 0),
        // Sizes above i64 are no sizes: they are refused where they are used.
        kind::U64 => i64::try_from(input.u64()?).unwrap_or(-1),
        kind::I64 => input.u64()? as i64,
        other => return Err(input.error(format!("has the unknown value type {other}"))),
    })
}

/// Bytes of a value in a file; strings take at least their length field.
fn item_bytes(kind: u32) -> Option<u64> {
    Some(match kind {
        kind::U8 | kind::I8 | kind::BOOL => 1,
        kind::U16 | kind::I16 => 2,
        kind::U32 | kind::I32 | kind::F32 => 4,
        kind::U64 | kind::I64 | kind::F64 | kind::STRING => 8,
        _ => return None,
    })
}

fn array(input: &mut Input) -> Result<Value, Broken> {
    let kind = input.u32()?;
    let count = input.u64()?;
    let Some(bytes) = item_bytes(kind) else {
        return Err(input.error(format!("is an array of the type {kind}, which is not supported")));
    };
    input.expect(count, bytes, "items")?;
    if count > ITEMS_MAX {
        return Err(input.error(format!("claims {count} items; at most {ITEMS_MAX} are read")));
    }
    match kind {
        kind::STRING => {
            let mut items = Vec::new();
            for _ in 0..count {
                items.push(input.string()?);
            }
            Ok(Value::Strings(items))
        }
        kind::U32 | kind::I32 | kind::U64 | kind::I64 | kind::BOOL => {
            (0..count).map(|_| integer(input, kind)).collect::<Result<_, _>>().map(Value::Integers)
        }
        _ => input.skip(count * bytes).map(|()| Value::Other),
    }
}

/// An entry of the table; its offset still counts from the start of the data.
fn tensor(input: &mut Input) -> Result<TensorInfo, Broken> {
    let dimensions = input.u32()?;
    if !(1..=DIMENSIONS_MAX).contains(&dimensions) {
        return Err(input.error(format!("claims {dimensions} dimensions; tensors have 1 to 4")));
    }
    let mut shape = Vec::new();
    for _ in 0..dimensions {
        let size = input.u64()?;
        let size = usize::try_from(size).ok().filter(|s| (1..=1 << 40).contains(s));
        shape.push(size.ok_or_else(|| input.error("claims a dimension that no tensor has"))?);
    }
    shape.reverse();
    let ggml_type = input.u32()?;
    let offset = input.u64()?;
    Ok(TensorInfo { ggml_type, dtype: DType::from_ggml(ggml_type), shape, offset, len: 0 })
}

fn alignment(metadata: &BTreeMap<String, Value>) -> Result<u64, Broken> {
    match metadata.get("general.alignment") {
        None => Ok(32),
        Some(Value::Integer(n)) if (1..=ALIGNMENT_MAX as i64).contains(n) && n % 8 == 0 => {
            Ok(*n as u64)
        }
        Some(other) => Err(Broken::Format(format!(
            "key \"general.alignment\": expected a multiple of 8 up to {ALIGNMENT_MAX}, got {other:?}"
        ))),
    }
}

/// Turns the offset into one from the start of the file and checks that the bytes are there.
fn place(info: &mut TensorInfo, data: u64, alignment: u64, file_len: u64) -> Result<(), String> {
    let relative = info.offset;
    if !relative.is_multiple_of(alignment) {
        return Err(format!("its offset {relative} is no multiple of {alignment}"));
    }
    info.offset = data.checked_add(relative).ok_or("its offset overflows")?;
    let Some(dtype) = info.dtype else { return Ok(()) };
    let cols = info.shape[info.shape.len() - 1];
    let rows =
        info.shape[..info.shape.len() - 1].iter().try_fold(1_usize, |n, d| n.checked_mul(*d));
    let Some(row) = dtype.row_bytes(cols) else {
        return Err(format!("a row of {cols} is no whole number of {dtype} blocks"));
    };
    let shape = &info.shape;
    let len = rows
        .and_then(|rows| rows.checked_mul(row))
        .ok_or_else(|| format!("its shape {shape:?} does not fit in memory"))?;
    let end = info.offset.checked_add(len as u64);
    if end.is_none_or(|end| end > file_len) {
        return Err(format!(
            "{len} bytes at offset {} leave the file of {file_len} bytes; the file is cut",
            info.offset
        ));
    }
    info.len = len;
    Ok(())
}

/// ggml's names of types that this engine does not read, for error messages.
pub(super) fn type_name(ggml_type: u32) -> String {
    let known = match ggml_type {
        4 => "q4_2",
        5 => "q4_3",
        9 => "q8_1",
        15 => "q8_k",
        16 => "iq2_xxs",
        17 => "iq2_xs",
        18 => "iq3_xxs",
        19 => "iq1_s",
        21 => "iq3_s",
        22 => "iq2_s",
        24 => "i8",
        25 => "i16",
        26 => "i32",
        27 => "i64",
        28 => "f64",
        29 => "iq1_m",
        34 => "tq1_0",
        35 => "tq2_0",
        40 => "nvfp4",
        other => return format!("number {other}"),
    };
    known.to_owned()
}
