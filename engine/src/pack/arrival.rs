//! Packing a model while its files arrive.
//!
//! The headers come first; they say which pieces of which files make a file of the pack. Then each
//! file comes front to back, and whatever is complete is packed at once: on disk are the pack and the
//! pieces that it still waits for. A file whose SHA-256 is wrong spoils the whole attempt, because
//! parts of it are packed already; nothing of it is kept.
//!
//! Not here: the network. The caller asks [`Arrival::position`], gets the bytes from there on from
//! wherever they are, and gives them to [`Arrival::push`].

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::folder::partial;
use super::spool::Spool;
use super::{PackOptions, PackReport, Packer, check};
use crate::error::EngineError;
use crate::io::ReadAt;
use crate::weights::{SideFiles, Weights, is_missing_yet};

/// Bytes that are kept or deleted together.
const SEGMENT_BYTES: u64 = 16 << 20;
/// Where the header of a file ends at the latest that has nothing a pack wants.
const HEADER_BYTES_MAX: u64 = 128 << 20;
/// Users of a segment that was deleted.
const GONE: u32 = u32::MAX;
/// Folder of what has arrived and is not packed, inside the unfinished pack.
const ARRIVING: &str = "arriving";

/// A file that will arrive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArrivingFile {
    /// Name without folders.
    pub name: String,
    /// Length.
    pub bytes: u64,
    /// SHA-256, hexadecimal, where it is known.
    pub sha256: Option<String>,
}

/// A model on its way into a pack.
pub struct Arrival {
    spool: Spool,
    options: PackOptions,
    source_name: String,
    packing: Option<Packing>,
    /// Files whose length and SHA-256 were found right.
    verified: Vec<bool>,
}

/// The plan, known once the headers are here.
struct Packing {
    packer: Packer,
    /// Of each item that is not packed yet: the file and the end of each piece.
    needs: Vec<Vec<(usize, u64)>>,
    /// Of each file, of each segment: how many items still need it, the header counted as one.
    users: Vec<Vec<u32>>,
    /// Of each item: the segments that it needs.
    segments: Vec<Vec<(usize, u64)>>,
}

impl Arrival {
    /// Begins, or goes on where an earlier attempt at the same files ended. `source_name` is what the
    /// pack says of its source; `options.source` is not read.
    pub fn open(
        options: PackOptions,
        source_name: &str,
        files: Vec<ArrivingFile>,
    ) -> Result<Self, EngineError> {
        Arrival::with_segments(options, source_name, files, SEGMENT_BYTES)
    }

    pub(super) fn with_segments(
        options: PackOptions,
        source_name: &str,
        files: Vec<ArrivingFile>,
        segment_bytes: u64,
    ) -> Result<Self, EngineError> {
        check(&options)?;
        let folder = partial(&options.destination).join(ARRIVING);
        let verified = vec![false; files.len()];
        let spool = Spool::open(&folder, files, segment_bytes)?;
        let source_name = source_name.to_owned();
        let mut arrival = Arrival { spool, options, source_name, packing: None, verified };
        for file in 0..arrival.spool.len() {
            arrival.verify(file)?;
        }
        Ok(arrival)
    }

    /// Bytes of a file that are here; the next ones are wanted from there.
    pub fn position(&self, file: usize) -> u64 {
        self.spool.position(file)
    }

    /// Bytes of all files that are here, and that there will be.
    pub fn progress(&self) -> super::Progress {
        let files = 0..self.spool.len();
        super::Progress {
            done: files.clone().map(|file| self.spool.position(file)).sum(),
            total: files.map(|file| self.spool.facts(file).bytes).sum(),
        }
    }

    /// Adds the next bytes of a file, and packs whatever they complete. Bytes beyond the file's end
    /// are an error.
    pub fn push(&mut self, file: usize, bytes: &[u8]) -> Result<(), EngineError> {
        let facts = self.spool.facts(file);
        if bytes.len() as u64 > facts.bytes - self.spool.position(file) {
            return Err(EngineError::Malformed {
                path: PathBuf::from(&facts.name),
                what: format!("more than the announced {} bytes arrived", facts.bytes),
            });
        }
        let before = self.spool.full_segments(file);
        self.spool.push(file, bytes)?;
        self.verify(file)?;
        if self.spool.full_segments(file) > before { self.pack_ready() } else { Ok(()) }
    }

    /// Plans the pack from the headers; false while one of them is not here: see
    /// [`Arrival::wants_header_of`]. If pieces are needed again that are gone (other types were asked
    /// for, a finished file was damaged), everything begins anew, the headers included. `side` are the small files of a Hugging Face model; without them
    /// the files are GGUF.
    pub fn plan(&mut self, side: Option<&BTreeMap<String, Vec<u8>>>) -> Result<bool, EngineError> {
        let files: Vec<_> = (0..self.spool.len()).map(|file| self.spool.reader(file)).collect();
        let weights = match self.weights(files, side) {
            Err(error) if is_missing_yet(&error) => return Ok(false),
            weights => weights?,
        };
        let packer = Packer::new(weights, &self.options, &self.source_name)?;
        let packing = Packing::new(packer, &self.spool);
        if packing.lacks_pieces(&self.spool) {
            drop(packing);
            self.begin_anew()?;
            return Ok(false);
        }
        self.packing = Some(packing);
        self.release_unused()?;
        self.pack_ready()?;
        Ok(true)
    }

    /// Whether the header of a file must arrive before the pack can be planned.
    pub fn wants_header_of(&self, file: usize) -> Result<bool, EngineError> {
        match crate::weights::read_header(self.spool.reader(file)) {
            Err(error) if is_missing_yet(&error) => Ok(true),
            read => read.map(|()| false),
        }
    }

    fn begin_anew(&mut self) -> Result<(), EngineError> {
        remove_all(&partial(&self.options.destination))?;
        self.verified.fill(false);
        self.spool.empty()
    }

    fn weights(
        &self,
        files: Vec<Arc<dyn ReadAt>>,
        side: Option<&BTreeMap<String, Vec<u8>>>,
    ) -> Result<Weights, EngineError> {
        let Some(side) = side else { return Weights::from_gguf(files) };
        let origin = PathBuf::from(&self.source_name);
        let side = SideFiles::Memory { origin: origin.clone(), files: side.clone() };
        Weights::from_safetensors(origin, files, side)
    }

    /// Whether bytes of a file are still wanted: for the pack, or to check its SHA-256.
    pub fn wants(&self, file: usize) -> bool {
        !self.verified[file]
    }

    /// Writes what is left of the pack. Errors if a file has not arrived.
    pub fn finish(mut self) -> Result<PackReport, EngineError> {
        self.pack_ready()?;
        for file in 0..self.spool.len() {
            if self.wants(file) {
                return Err(EngineError::Malformed {
                    path: PathBuf::from(&self.spool.facts(file).name),
                    what: format!("only {} bytes arrived", self.spool.position(file)),
                });
            }
        }
        let packing = self.packing.expect("the headers of whole files are here");
        self.spool.remove()?;
        packing.packer.finish()
    }

    /// Checks a file that is here as a whole. A wrong one ends the attempt.
    fn verify(&mut self, file: usize) -> Result<(), EngineError> {
        let facts = self.spool.facts(file);
        if self.verified[file] || self.spool.position(file) < facts.bytes {
            return Ok(());
        }
        let found = self.spool.sha256(file);
        if facts.sha256.as_ref().is_some_and(|sum| !sum.eq_ignore_ascii_case(&found)) {
            let path = PathBuf::from(&facts.name);
            let what = format!(
                "its SHA-256 is {found}, it was announced as {}; nothing of it was kept, try again",
                facts.sha256.as_deref().unwrap_or_default()
            );
            remove_all(&partial(&self.options.destination))?;
            return Err(EngineError::Malformed { path, what });
        }
        self.verified[file] = true;
        Ok(())
    }

    /// Packs what is complete and deletes what nothing needs any more.
    fn pack_ready(&mut self) -> Result<(), EngineError> {
        let Some(packing) = &mut self.packing else { return Ok(()) };
        for item in 0..packing.needs.len() {
            let here = |(file, end): &(usize, u64)| *end <= self.spool.position(*file);
            if !packing.packer.is_done(item) && packing.needs[item].iter().all(here) {
                packing.packer.write(item, &mut |_| {})?;
                for (file, segment) in std::mem::take(&mut packing.segments[item]) {
                    packing.users[file][segment as usize] -= 1;
                }
            }
        }
        self.release_unused()
    }

    fn release_unused(&mut self) -> Result<(), EngineError> {
        let Some(packing) = &mut self.packing else { return Ok(()) };
        for (file, users) in packing.users.iter_mut().enumerate() {
            let full = self.spool.full_segments(file);
            for (segment, users) in (0..full).zip(users).filter(|(_, users)| **users == 0) {
                self.spool.release(file, segment)?;
                *users = GONE;
            }
        }
        Ok(())
    }
}

impl Packing {
    fn new(packer: Packer, spool: &Spool) -> Self {
        let numbers: HashMap<PathBuf, usize> =
            (0..spool.len()).map(|file| (spool.reader(file).path().to_owned(), file)).collect();
        let mut users: Vec<Vec<u32>> = (0..spool.len())
            .map(|file| vec![0; spool.segments_of(&(0..spool.facts(file).bytes)).end as usize])
            .collect();
        let (mut needs, mut segments) = (Vec::new(), Vec::new());
        // What lies before the first piece is the header: the next attempt reads it again.
        let mut headers: Vec<u64> = users.iter().map(|_| HEADER_BYTES_MAX).collect();
        for (index, item) in packer.items().iter().enumerate() {
            let (mut ends, mut used) = (BTreeMap::new(), Vec::new());
            for (path, range) in item.sources(&packer.weights, &packer.store) {
                let file = numbers[&path];
                headers[file] = headers[file].min(range.start);
                if !packer.is_done(index) {
                    let end = ends.entry(file).or_insert(0);
                    *end = range.end.max(*end);
                    used.extend(spool.segments_of(&range).map(|segment| (file, segment)));
                }
            }
            used.sort_unstable();
            used.dedup();
            used.iter().for_each(|(file, segment)| users[*file][*segment as usize] += 1);
            needs.push(ends.into_iter().collect());
            segments.push(used);
        }
        for (file, end) in headers.into_iter().enumerate() {
            for segment in spool.segments_of(&(0..end.min(spool.facts(file).bytes))) {
                users[file][segment as usize] += 1;
            }
        }
        Packing { packer, needs, users, segments }
    }

    /// Whether an item needs a piece that came once and was deleted.
    fn lacks_pieces(&self, spool: &Spool) -> bool {
        self.segments.iter().flatten().any(|(file, segment)| {
            *segment < spool.full_segments(*file) && !spool.holds(*file, *segment)
        })
    }
}

fn remove_all(folder: &Path) -> Result<(), EngineError> {
    std::fs::remove_dir_all(folder).map_err(super::writer::wrote(folder))
}
