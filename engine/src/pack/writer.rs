//! The files of a pack: safetensors headers, alignment, checksums, digests.

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;

use super::plan::DenseTensor;
use crate::backend::ExpertWeights;
use crate::error::EngineError;
use crate::expert::{ExpertId, ExpertStore};
use crate::quant::{dequantise_row, is_finite, quantise_row};
use crate::tensor::{ALIGNMENT, DType, MatrixRef, MatrixShape};
use crate::weights::manifest::FileEntry;
use crate::weights::{CHECKSUMS, Weights};

/// Bytes of a dense tensor that are held at once.
const PIECE_BYTES: usize = 4 << 20;

/// Writes some dense tensors, a few rows at a time.
pub(super) fn write_dense(
    path: &Path,
    weights: &Weights,
    tensors: &[DenseTensor],
    advance: &mut dyn FnMut(u64),
) -> Result<(), EngineError> {
    let mut header = serde_json::Map::new();
    let mut at = 0;
    for tensor in tensors {
        let len = tensor.bytes();
        let (dtype, shape) = stored(tensor.to, tensor.from.rows, len);
        let offsets = [at, at + len];
        header.insert(
            tensor.name.clone(),
            json!({"dtype": dtype, "shape": shape, "data_offsets": offsets}),
        );
        at += len;
    }
    let mut file = BufWriter::new(File::create(path).map_err(wrote(path))?);
    // Tensors start at multiples of 64 bytes where their sizes allow, as mapped readers like.
    file.write_all(&padded_header(&header, 64)).map_err(wrote(path))?;
    for tensor in tensors {
        let row_bytes = tensor.from.dtype.row_bytes(tensor.from.cols).expect("the plan checked it");
        let step = (PIECE_BYTES / row_bytes).max(1);
        for start in (0..tensor.from.rows).step_by(step) {
            let rows = step.min(tensor.from.rows - start);
            let from = start * row_bytes..(start + rows) * row_bytes;
            let read = from.len() as u64;
            let bytes = weights.raw(&tensor.name, from)?;
            let matrix = MatrixRef::new(MatrixShape { rows, ..tensor.from }, bytes.as_slice());
            let bytes = converted(matrix, tensor.to).ok_or_else(|| weights.no_number(&tensor.name));
            file.write_all(&bytes?).map_err(wrote(path))?;
            advance(read);
        }
    }
    file.flush().map_err(wrote(path))
}

/// Writes the experts of one layer.
pub(super) fn write_experts(
    path: &Path,
    weights: &Weights,
    store: &ExpertStore,
    layer: usize,
    shapes: [MatrixShape; 3],
    advance: &mut dyn FnMut(u64),
) -> Result<(), EngineError> {
    let count = store.count(layer);
    let mut file = ExpertFile::create(path.to_owned(), layer, count, shapes)?;
    let mut slot = None;
    for expert in 0..count {
        let id = ExpertId { layer: layer as u32, expert: expert as u32 };
        let source = store.read(id, slot)?;
        let ExpertWeights { gate, up, down } = source.weights();
        let part = |which, matrix, shape: MatrixShape| {
            let name = || format!("layers.{layer}.experts.{expert}.{which}");
            converted(matrix, shape.dtype).ok_or_else(|| weights.no_number(&name()))
        };
        let gate = part("gate", gate, shapes[0])?;
        let up = part("up", up, shapes[1])?;
        let down = part("down", down, shapes[2])?;
        file.push([&gate, &up, &down])?;
        advance(source.len() as u64);
        drop((gate, up, down));
        slot = Some(source.into_slot());
    }
    file.finish()
}

/// A matrix in another type; the same bytes if the type is the same. `None` if a value is no finite
/// number, or too large for the type.
///
/// Rows are quantised on all processors: the search for scales takes far longer than the disk.
fn converted(from: MatrixRef<'_>, dtype: DType) -> Option<Cow<'_, [u8]>> {
    if !is_finite(from.shape.dtype, from.bytes) {
        return None;
    }
    if from.shape.dtype == dtype {
        return Some(Cow::Borrowed(from.bytes));
    }
    let shape = MatrixShape { dtype, ..from.shape };
    let mut out = vec![0; shape.bytes().expect("the type's blocks divide the row")];
    let row_bytes = out.len() / shape.rows;
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let part = shape.rows.div_ceil(threads);
    let too_large = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for (i, part_out) in out.chunks_mut(part * row_bytes).enumerate() {
            let too_large = &too_large;
            scope.spawn(move || {
                let mut row = vec![0.0; shape.cols];
                for (r, out) in part_out.chunks_exact_mut(row_bytes).enumerate() {
                    dequantise_row(from.shape.dtype, from.row(i * part + r), &mut row);
                    if row.iter().any(|v| v.abs() > largest(dtype)) {
                        too_large.store(true, Ordering::Relaxed);
                    }
                    quantise_row(dtype, &row, out);
                }
            });
        }
    });
    (!too_large.into_inner()).then_some(Cow::Owned(out))
}

/// The largest value that is converted to a type: scales of blocks are f16.
fn largest(dtype: DType) -> f32 {
    match dtype {
        DType::F32 | DType::BF16 => f32::INFINITY,
        _ => 65_504.0,
    }
}

/// The experts of one layer, written one by one.
///
/// The header comes first in a safetensors file and holds the checksums, which are known last: it is
/// written twice, with the same length.
struct ExpertFile {
    file: BufWriter<File>,
    path: PathBuf,
    layer: usize,
    shapes: [MatrixShape; 3],
    checksums: Vec<u32>,
    count: usize,
}

impl ExpertFile {
    fn create(
        path: PathBuf,
        layer: usize,
        count: usize,
        shapes: [MatrixShape; 3],
    ) -> Result<Self, EngineError> {
        let file = BufWriter::new(File::create(&path).map_err(wrote(&path))?);
        let mut new = ExpertFile { file, path, layer, shapes, checksums: Vec::new(), count };
        let header = new.header();
        new.file.write_all(&header).map_err(wrote(&new.path))?;
        Ok(new)
    }

    /// Writes the next expert: gate, up, down and padding.
    fn push(&mut self, parts: [&[u8]; 3]) -> Result<(), EngineError> {
        let mut checksum = 0;
        for part in parts {
            checksum = crc32c::crc32c_append(checksum, part);
            self.file.write_all(part).map_err(wrote(&self.path))?;
        }
        self.checksums.push(checksum);
        self.file.write_all(&vec![0; self.padding()]).map_err(wrote(&self.path))
    }

    /// Writes the checksums into the header.
    fn finish(mut self) -> Result<(), EngineError> {
        assert_eq!(self.checksums.len(), self.count, "every expert was written");
        let header = self.header();
        self.file.seek(SeekFrom::Start(0)).map_err(wrote(&self.path))?;
        self.file.write_all(&header).map_err(wrote(&self.path))?;
        self.file.flush().map_err(wrote(&self.path))
    }

    /// Bytes from the end of an expert to the next boundary.
    fn padding(&self) -> usize {
        let len: usize =
            self.shapes.iter().map(|s| s.bytes().expect("a type was chosen that fits")).sum();
        len.next_multiple_of(ALIGNMENT) - len
    }

    fn header(&self) -> Vec<u8> {
        let mut header = serde_json::Map::new();
        let sums: Vec<String> = (0..self.count)
            .map(|e| format!("{:08x}", self.checksums.get(e).copied().unwrap_or(0)))
            .collect();
        header.insert("__metadata__".to_owned(), json!({ CHECKSUMS: sums.join(" ") }));
        let mut at = 0;
        for expert in 0..self.count {
            let prefix = format!("layers.{}.experts.{expert}", self.layer);
            for (which, shape) in ["gate", "up", "down"].into_iter().zip(self.shapes) {
                let len = shape.bytes().expect("a type was chosen that fits");
                let (dtype, stored) = stored(shape.dtype, shape.rows, len);
                header.insert(
                    format!("{prefix}.{which}"),
                    json!({"dtype": dtype, "shape": stored, "data_offsets": [at, at + len]}),
                );
                at += len;
            }
            let padding = self.padding();
            if padding > 0 {
                header.insert(
                    format!("{prefix}.pad"),
                    json!({"dtype": "U8", "shape": [padding], "data_offsets": [at, at + padding]}),
                );
                at += padding;
            }
        }
        padded_header(&header, ALIGNMENT)
    }
}

/// Type and shape as safetensors knows them: quantised rows are bytes.
fn stored(dtype: DType, rows: usize, bytes: usize) -> (&'static str, Vec<usize>) {
    let row = bytes / rows;
    match dtype {
        DType::F32 => ("F32", vec![rows, row / 4]),
        DType::F16 => ("F16", vec![rows, row / 2]),
        DType::BF16 => ("BF16", vec![rows, row / 2]),
        _ => ("U8", vec![rows, row]),
    }
}

/// Length and JSON of a header, with spaces up to a multiple of `alignment` (the format allows them).
fn padded_header(header: &serde_json::Map<String, serde_json::Value>, alignment: usize) -> Vec<u8> {
    let mut json = serde_json::to_vec(header).expect("a header is plain data");
    json.resize((8 + json.len()).next_multiple_of(alignment) - 8, b' ');
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend(json);
    bytes
}

/// Length and SHA-256 of a file.
pub(super) fn digest(path: &Path) -> Result<FileEntry, EngineError> {
    let read = |source| EngineError::Read { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(read)?;
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    let mut buffer = vec![0; 1 << 20];
    let mut bytes = 0;
    loop {
        let n = file.read(&mut buffer).map_err(read)?;
        if n == 0 {
            break;
        }
        context.update(&buffer[..n]);
        bytes += n as u64;
    }
    let sha256 = context.finish().as_ref().iter().map(|b| format!("{b:02x}")).collect();
    Ok(FileEntry { bytes, sha256 })
}

/// Turns an error of writing into the engine's.
pub(super) fn wrote(path: &Path) -> impl Fn(std::io::Error) -> EngineError + '_ {
    move |source| EngineError::Write { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_a_type_cannot_hold_are_refused_and_never_rounded_away() {
        let shape = MatrixShape { dtype: DType::F32, rows: 2, cols: 256 };
        for (value, held_by_f16) in
            [(65_000.0, true), (-1e9, false), (f32::NAN, false), (f32::INFINITY, false)]
        {
            let values = (0..512).map(|i| if i == 300 { value } else { 0.5 });
            let bytes: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
            for dtype in DType::WRITABLE {
                let wide = matches!(dtype, DType::F32 | DType::BF16) && value.is_finite();
                let converted = converted(MatrixRef::new(shape, &bytes), dtype);
                assert_eq!(converted.is_some(), held_by_f16 || wide, "{value} as {dtype}");
            }
        }
    }
}
