//! The files of a pack: safetensors headers, alignment, checksums, digests.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::error::EngineError;
use crate::tensor::{ALIGNMENT, AlignedBytes, DType, MatrixShape};
use crate::weights::CHECKSUMS;
use crate::weights::manifest::{FILE_NAME, FileEntry, Manifest};

/// Bytes after which a new dense file begins, so that no file of a small model is large for version
/// control.
const DENSE_FILE_BYTES: usize = 12 << 20;

/// A dense tensor ready to be written.
pub(super) struct Tensor {
    pub(super) name: String,
    pub(super) rows: usize,
    pub(super) dtype: DType,
    pub(super) bytes: AlignedBytes,
}

/// Writes into `<destination>.partial` until the pack is whole.
pub(super) struct Writer {
    folder: PathBuf,
    names: Vec<String>,
    dense_files: usize,
    finished: bool,
}

impl Writer {
    pub(super) fn create(destination: &Path) -> Result<Self, EngineError> {
        if destination.exists() {
            return Err(EngineError::InvalidRequest(format!(
                "{} exists; remove it or choose another destination",
                destination.display()
            )));
        }
        let mut name = destination.as_os_str().to_owned();
        name.push(".partial");
        let folder = PathBuf::from(name);
        if folder.exists() {
            std::fs::remove_dir_all(&folder).map_err(wrote(&folder))?;
        }
        std::fs::create_dir_all(&folder).map_err(wrote(&folder))?;
        Ok(Writer { folder, names: Vec::new(), dense_files: 0, finished: false })
    }

    /// Whether these tensors are enough for a file.
    pub(super) fn is_full(&self, tensors: &[Tensor]) -> bool {
        tensors.iter().map(|t| t.bytes.len()).sum::<usize>() >= DENSE_FILE_BYTES
    }

    /// Writes a dense file.
    pub(super) fn dense(&mut self, tensors: &[Tensor]) -> Result<(), EngineError> {
        self.dense_files += 1;
        let name = format!("dense-{:05}.safetensors", self.dense_files);
        let mut header = serde_json::Map::new();
        let mut at = 0;
        for tensor in tensors {
            let (dtype, shape) = stored(tensor.dtype, tensor.rows, tensor.bytes.len());
            let end = at + tensor.bytes.len();
            header.insert(
                tensor.name.clone(),
                json!({"dtype": dtype, "shape": shape, "data_offsets": [at, end]}),
            );
            at = end;
        }
        let path = self.folder.join(&name);
        let mut file = BufWriter::new(File::create(&path).map_err(wrote(&path))?);
        // Tensors start at multiples of 64 bytes where their sizes allow, as mapped readers like.
        file.write_all(&padded_header(&header, 64)).map_err(wrote(&path))?;
        for tensor in tensors {
            file.write_all(tensor.bytes.as_slice()).map_err(wrote(&path))?;
        }
        file.flush().map_err(wrote(&path))?;
        self.names.push(name);
        Ok(())
    }

    /// Starts the file of a layer's experts.
    pub(super) fn experts(
        &mut self,
        layer: usize,
        count: usize,
        shapes: [MatrixShape; 3],
    ) -> Result<ExpertFile, EngineError> {
        let name = format!("experts-{layer:05}.safetensors");
        self.names.push(name.clone());
        ExpertFile::create(self.folder.join(&name), name, layer, count, shapes)
    }

    /// Copies a small file of the source.
    pub(super) fn copy(&mut self, from: &Path, name: &str) -> Result<(), EngineError> {
        let to = self.folder.join(name);
        // Read and written, not `fs::copy`: a read-only source must not make a read-only pack.
        let bytes = crate::weights::read_small(from)?;
        std::fs::write(&to, bytes).map_err(wrote(&to))?;
        self.names.push(name.to_owned());
        Ok(())
    }

    /// Length and SHA-256 of every file written.
    pub(super) fn digests(&self) -> Result<BTreeMap<String, FileEntry>, EngineError> {
        self.names.iter().map(|n| Ok((n.clone(), digest(&self.folder.join(n))?))).collect()
    }

    /// Writes the manifest and gives the folder its name.
    pub(super) fn finish(
        mut self,
        manifest: &Manifest,
        destination: &Path,
    ) -> Result<(), EngineError> {
        let path = self.folder.join(FILE_NAME);
        let mut text = serde_json::to_string_pretty(manifest).expect("a manifest is plain data");
        text.push('\n');
        std::fs::write(&path, text).map_err(wrote(&path))?;
        std::fs::rename(&self.folder, destination).map_err(wrote(destination))?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.finished {
            // The error that ended the work is already on its way; a leftover is overwritten later.
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}

/// The experts of one layer, written one by one.
///
/// The header comes first in a safetensors file and holds the checksums, which are known last: it is
/// written twice, with the same length.
pub(super) struct ExpertFile {
    file: BufWriter<File>,
    path: PathBuf,
    name: String,
    layer: usize,
    shapes: [MatrixShape; 3],
    checksums: Vec<u32>,
    count: usize,
}

impl ExpertFile {
    fn create(
        path: PathBuf,
        name: String,
        layer: usize,
        count: usize,
        shapes: [MatrixShape; 3],
    ) -> Result<Self, EngineError> {
        let file = BufWriter::new(File::create(&path).map_err(wrote(&path))?);
        let mut new = ExpertFile { file, path, name, layer, shapes, checksums: Vec::new(), count };
        let header = new.header();
        new.file.write_all(&header).map_err(wrote(&new.path))?;
        Ok(new)
    }

    /// Writes the next expert: gate, up, down and padding.
    pub(super) fn push(&mut self, parts: [&[u8]; 3]) -> Result<(), EngineError> {
        let mut checksum = 0;
        for part in parts {
            checksum = crc32c::crc32c_append(checksum, part);
            self.file.write_all(part).map_err(wrote(&self.path))?;
        }
        self.checksums.push(checksum);
        self.file.write_all(&vec![0; self.padding()]).map_err(wrote(&self.path))
    }

    /// Writes the checksums into the header; returns the file's name.
    pub(super) fn finish(mut self) -> Result<String, EngineError> {
        assert_eq!(self.checksums.len(), self.count, "every expert was written");
        let header = self.header();
        self.file.seek(SeekFrom::Start(0)).map_err(wrote(&self.path))?;
        self.file.write_all(&header).map_err(wrote(&self.path))?;
        self.file.flush().map_err(wrote(&self.path))?;
        Ok(self.name)
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

fn wrote(path: &Path) -> impl Fn(std::io::Error) -> EngineError + '_ {
    move |source| EngineError::Write { path: path.to_owned(), source }
}
