//! Reads experts from flash: an expert's id becomes one positional read (pack) or a few (other files).
//!
//! A store forgets nothing and caches nothing. What was read is checked here, so that whatever reads
//! faster later inherits the check: by the checksum of a pack, whose numbers were checked when it was
//! written; where files have none, the first time for values that are no numbers, which would spoil every
//! reply. They are how a file was written, so that a later reading of the same bytes finds nothing new.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::place::Placing;
use super::readers::ATTEMPTS;
use super::{Expert, ExpertId, ExpertLayout};
use crate::error::EngineError;
use crate::io::{self, IoChoice, ReadAt, Slot};
use crate::quant::is_finite;
use crate::weights::no_number;

/// All experts of a model.
#[derive(Clone)]
pub(crate) struct ExpertStore {
    /// `None` for a layer without experts.
    layers: Vec<Option<LayerExperts>>,
}

/// The experts of one layer.
#[derive(Clone)]
pub(crate) struct LayerExperts {
    /// Shapes, the same for each.
    pub(crate) layout: Arc<ExpertLayout>,
    /// Where each expert's bytes lie, in the order of its matrices.
    pub(crate) segments: Vec<Vec<Segment>>,
    /// What is checked when an expert is read.
    pub(crate) check: Check,
}

/// A check of what was read.
#[derive(Clone)]
pub(crate) enum Check {
    /// None: the caller checks.
    Nothing,
    /// Against the CRC32C of each expert.
    Checksums(Vec<u32>),
    /// That all values are finite, when an expert is read for the first time.
    Numbers(Numbers),
}

/// What is known of the values of a layer's experts.
#[derive(Clone)]
pub(crate) struct Numbers {
    /// The tensors of gate, up and down, as errors name them.
    names: [String; 3],
    /// Of each expert, whether all its values are finite.
    are_finite: Arc<[AtomicBool]>,
}

impl Numbers {
    /// Nothing is known yet of so many experts.
    pub(crate) fn new(names: [String; 3], experts: usize) -> Numbers {
        Numbers { names, are_finite: (0..experts).map(|_| AtomicBool::new(false)).collect() }
    }
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
    pub(crate) fn reopened(mut self, choice: IoChoice) -> Result<(Self, IoChoice), EngineError> {
        let mut readers: HashMap<PathBuf, Arc<dyn ReadAt>> = HashMap::new();
        let mut used = choice;
        let layers = self.layers.iter_mut().flatten();
        for segment in layers.flat_map(|l| l.segments.iter_mut().flatten()) {
            let path = segment.file.path().to_owned();
            if !readers.contains_key(&path) {
                let (reader, opened) = io::open(&path, used)
                    .map_err(|source| EngineError::Read { path: path.clone(), source })?;
                // One answer for all files: what failed for one is not tried for the next.
                used = opened;
                readers.insert(path.clone(), reader);
            }
            segment.file = Arc::clone(&readers[&path]);
        }
        Ok((self, used))
    }

    /// The same experts, each file as `wrap` changes it: for tests with disks that fail.
    #[cfg(test)]
    pub(crate) fn wrapped(mut self, wrap: impl Fn(Arc<dyn ReadAt>) -> Arc<dyn ReadAt>) -> Self {
        let layers = self.layers.iter_mut().flatten();
        for segment in layers.flat_map(|l| l.segments.iter_mut().flatten()) {
            segment.file = wrap(Arc::clone(&segment.file));
        }
        self
    }

    /// Bytes of the largest slot that an expert needs, in whole pages.
    pub(crate) fn slot_bytes(&self) -> usize {
        let layers = self.layers.iter().flatten();
        let experts = layers.flat_map(|l| (0..l.segments.len()).map(|expert| l.placing(expert)));
        experts.map(|placing| placing.bytes).max().unwrap_or(0)
    }

    /// If experts are numbered through all layers, the number of each layer's first, and the end.
    pub(crate) fn first_numbers(&self) -> Vec<u32> {
        let mut first = vec![0];
        for layer in 0..self.layers() {
            first.push(first[layer] + self.count(layer) as u32);
        }
        first
    }

    /// Experts of all layers.
    pub(crate) fn expert_count(&self) -> usize {
        self.layers.iter().flatten().map(|l| l.segments.len()).sum()
    }

    /// Where an expert lies, in the order of its matrices. Panics if there is no such expert (caller
    /// bug).
    pub(crate) fn pieces(&self, id: ExpertId) -> &[Segment] {
        &self.layer(id).segments[id.expert as usize]
    }

    /// Where its pieces come to lie in a slot.
    pub(crate) fn placing(&self, id: ExpertId) -> Placing {
        self.layer(id).placing(id.expert as usize)
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

    /// Reads one expert, into `slot` if it is large enough. Panics if there is no such expert (caller
    /// bug).
    pub(crate) fn read(&self, id: ExpertId, slot: Option<Slot>) -> Result<Expert, EngineError> {
        let bytes = self.placing(id).bytes;
        let slot = slot.filter(|slot| slot.len() >= bytes);
        let mut slot = slot.unwrap_or_else(|| Slot::plain(bytes));
        self.fill(id, slot.as_mut_slice(), ATTEMPTS)?;
        Ok(self.expert(id, slot))
    }

    /// The expert whose bytes are in a slot.
    pub(crate) fn expert(&self, id: ExpertId, slot: Slot) -> Expert {
        let layout = Arc::clone(&self.layer(id).layout);
        Expert { slot, layout, starts: self.placing(id).matrices }
    }

    /// Reads one expert to its places in a slot and verifies it, in so many attempts.
    pub(crate) fn fill(
        &self,
        id: ExpertId,
        out: &mut [u8],
        attempts: usize,
    ) -> Result<(), EngineError> {
        let layer = self.layer(id);
        let mut what = String::new();
        for _ in 0..attempts {
            match layer.read_into(id.expert as usize, out).and_then(|()| layer.verify(id, out)) {
                Ok(()) => return Ok(()),
                Err(e) => what = e,
            }
        }
        Err(EngineError::Expert { layer: id.layer as usize, expert: id.expert as usize, what })
    }

    /// Checks an expert in its slot, as far as its files allow. The error says what is wrong.
    pub(crate) fn verify(&self, id: ExpertId, slot: &[u8]) -> Result<(), String> {
        self.layer(id).verify(id, slot)
    }

    fn layer(&self, id: ExpertId) -> &LayerExperts {
        self.layers[id.layer as usize].as_ref().expect("the layer has experts")
    }
}

impl LayerExperts {
    fn placing(&self, expert: usize) -> Placing {
        Placing::new(&self.layout, &self.segments[expert])
    }

    fn read_into(&self, expert: usize, slot: &mut [u8]) -> Result<(), String> {
        let places = self.placing(expert).pieces;
        for (segment, start) in self.segments[expert].iter().zip(places) {
            let read = segment.file.read_pages_at(slot, start..start + segment.len, segment.offset);
            read.map_err(|e| {
                format!("{} at offset {}: {e}", segment.file.path().display(), segment.offset)
            })?;
        }
        Ok(())
    }

    fn verify(&self, id: ExpertId, slot: &[u8]) -> Result<(), String> {
        match &self.check {
            Check::Nothing => Ok(()),
            Check::Checksums(sums) => self.verify_sum(id, slot, sums[id.expert as usize]),
            Check::Numbers(numbers) => self.verify_numbers(id, slot, numbers),
        }
    }

    /// Of blocks only the scales are looked at: a few bytes of each.
    fn verify_numbers(&self, id: ExpertId, slot: &[u8], numbers: &Numbers) -> Result<(), String> {
        let are_finite = &numbers.are_finite[id.expert as usize];
        if are_finite.load(Ordering::Relaxed) {
            return Ok(());
        }
        let shapes = [self.layout.gate, self.layout.up, self.layout.down];
        let starts = self.placing(id.expert as usize).matrices;
        for (number, size) in self.layout.sizes().into_iter().enumerate() {
            let matrix = &slot[starts[number]..][..size];
            if !is_finite(shapes[number].dtype, matrix) {
                return Err(no_number(&numbers.names[number]));
            }
        }
        are_finite.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn verify_sum(&self, id: ExpertId, slot: &[u8], expected: u32) -> Result<(), String> {
        let segments = &self.segments[id.expert as usize];
        let places = self.placing(id.expert as usize).pieces;
        let pieces = segments.iter().zip(places).map(|(segment, at)| &slot[at..][..segment.len]);
        let got = pieces.fold(0, crc32c::crc32c_append);
        if expected == got {
            return Ok(());
        }
        let segment = &segments[0];
        Err(format!(
            "{} at offset {}: CRC32C is {got:08x}, the pack says {expected:08x}; the file is damaged",
            segment.file.path().display(),
            segment.offset
        ))
    }
}
