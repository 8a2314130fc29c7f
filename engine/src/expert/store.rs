//! Reads experts from flash: an expert's id becomes one positional read (pack) or a few (other files).
//!
//! A store forgets nothing and caches nothing. Checksums are verified here, so that whatever reads
//! faster later inherits the check.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::{Expert, ExpertId, ExpertLayout};
use crate::error::EngineError;
use crate::io::{self, IoChoice, ReadAt};
use crate::tensor::AlignedBytes;

/// Attempts at one expert: a second read heals a passing fault of a bus or a controller.
const ATTEMPTS: usize = 2;

/// All experts of a model.
pub(crate) struct ExpertStore {
    /// `None` for a layer without experts.
    layers: Vec<Option<LayerExperts>>,
}

/// The experts of one layer.
pub(crate) struct LayerExperts {
    /// Shapes, the same for each.
    pub(crate) layout: Arc<ExpertLayout>,
    /// Where each expert's bytes lie, in the order in which they fill its buffer.
    pub(crate) segments: Vec<Vec<Segment>>,
    /// CRC32C of each expert, if the files carry them and the caller wants them checked.
    pub(crate) checksums: Option<Vec<u32>>,
}

/// A piece of an expert in a file.
#[derive(Clone)]
pub(crate) struct Segment {
    /// The file.
    pub(crate) file: Arc<dyn ReadAt>,
    /// First byte in the file.
    pub(crate) offset: u64,
    /// Bytes.
    pub(crate) len: usize,
}

impl ExpertStore {
    /// Checks that every expert's pieces add up to its layout. Panics otherwise (caller bug: the
    /// openers of files check lengths and report them).
    pub(crate) fn new(layers: Vec<Option<LayerExperts>>) -> Self {
        for layer in layers.iter().flatten() {
            let bytes = layer.layout.bytes();
            for segments in &layer.segments {
                let sum: usize = segments.iter().map(|s| s.len).sum();
                assert_eq!(sum, bytes, "an expert's pieces disagree with its layout");
            }
        }
        ExpertStore { layers }
    }

    /// The same experts, read in the chosen way. Returns what was chosen in the end.
    ///
    /// Errors if a file cannot be opened again.
    pub(crate) fn reopened(
        mut self,
        choice: IoChoice,
        fits: bool,
    ) -> Result<(Self, IoChoice), EngineError> {
        let mut readers: HashMap<PathBuf, Arc<dyn ReadAt>> = HashMap::new();
        let mut used = choice;
        let layers = self.layers.iter_mut().flatten();
        for segment in layers.flat_map(|l| l.segments.iter_mut().flatten()) {
            let path = segment.file.path().to_owned();
            if !readers.contains_key(&path) {
                let (reader, opened) = io::open(&path, used, fits)
                    .map_err(|source| EngineError::Read { path: path.clone(), source })?;
                // One answer for all files: what failed for one is not tried for the next.
                used = opened;
                readers.insert(path.clone(), reader);
            }
            segment.file = Arc::clone(&readers[&path]);
        }
        Ok((self, used))
    }

    /// Bytes of all experts.
    pub(crate) fn bytes(&self) -> u64 {
        self.layers.iter().flatten().map(|l| (l.layout.bytes() * l.segments.len()) as u64).sum()
    }

    /// Parameters of all experts.
    pub(crate) fn parameters(&self) -> u64 {
        let one = |l: &ExpertLayout| {
            [l.gate, l.up, l.down].iter().map(|s| (s.rows * s.cols) as u64).sum::<u64>()
        };
        self.layers.iter().flatten().map(|l| one(&l.layout) * l.segments.len() as u64).sum()
    }

    /// Number of layers.
    pub(crate) fn layers(&self) -> usize {
        self.layers.len()
    }

    /// Experts of a layer.
    pub(crate) fn count(&self, layer: usize) -> usize {
        self.layers[layer].as_ref().map_or(0, |l| l.segments.len())
    }

    /// Where the experts of a layer lie, piece by piece.
    pub(crate) fn segments(&self, layer: usize) -> impl Iterator<Item = &Segment> {
        self.layers[layer].iter().flat_map(|l| l.segments.iter().flatten())
    }

    /// The layout of a layer's experts; `None` if it has none.
    pub(crate) fn layout(&self, layer: usize) -> Option<&ExpertLayout> {
        self.layers[layer].as_ref().map(|l| &*l.layout)
    }

    /// The layouts of all layers that have experts.
    pub(crate) fn layouts(&self) -> impl Iterator<Item = &ExpertLayout> {
        self.layers.iter().flatten().map(|l| &*l.layout)
    }

    /// Reads one expert, into `buffer` if its size fits. Panics if the layer has none (caller bug).
    pub(crate) fn read(
        &self,
        id: ExpertId,
        buffer: Option<AlignedBytes>,
    ) -> Result<Expert, EngineError> {
        let layer = self.layers[id.layer as usize].as_ref().expect("the layer has experts");
        let wanted = layer.layout.bytes();
        let mut bytes =
            buffer.filter(|b| b.len() == wanted).unwrap_or_else(|| AlignedBytes::zeroed(wanted));
        let mut what = String::new();
        for _ in 0..ATTEMPTS {
            match layer.read_into(id.expert as usize, bytes.as_mut_slice()) {
                Ok(()) => return Ok(Expert { bytes, layout: Arc::clone(&layer.layout) }),
                Err(e) => what = e,
            }
        }
        Err(EngineError::Expert { layer: id.layer as usize, expert: id.expert as usize, what })
    }
}

impl LayerExperts {
    fn read_into(&self, expert: usize, out: &mut [u8]) -> Result<(), String> {
        let mut at = 0;
        for segment in &self.segments[expert] {
            segment.file.read_exact_at(&mut out[at..at + segment.len], segment.offset).map_err(
                |e| format!("{} at offset {}: {e}", segment.file.path().display(), segment.offset),
            )?;
            at += segment.len;
        }
        let Some(checksums) = &self.checksums else { return Ok(()) };
        let (expected, got) = (checksums[expert], crc32c::crc32c(out));
        if expected == got {
            return Ok(());
        }
        let segment = &self.segments[expert][0];
        Err(format!(
            "{} at offset {}: CRC32C is {got:08x}, the pack says {expected:08x}; the file is damaged",
            segment.file.path().display(),
            segment.offset
        ))
    }
}
