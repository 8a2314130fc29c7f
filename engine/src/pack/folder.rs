//! The folder in which a pack grows, and what an earlier attempt left there.
//!
//! `DESTINATION.partial/partial.json` lists the finished files with their SHA-256 and the fingerprint
//! of the plan. The next attempt with the same plan keeps every listed file that still has its sum;
//! another plan begins anew. The list is replaced after each file, so that a power cut costs one file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::writer::{digest, wrote};
use crate::error::EngineError;
use crate::weights::manifest::{FILE_NAME, FileEntry, Manifest};
use crate::weights::read_small;

/// Name of the list of finished files.
const JOURNAL: &str = "partial.json";

/// A pack that is not whole yet.
pub(super) struct Folder {
    path: PathBuf,
    journal: Journal,
    kept: usize,
    finished: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Journal {
    fingerprint: String,
    files: BTreeMap<String, FileEntry>,
}

impl Folder {
    /// Opens the folder beside `destination`. Of `names`, files that an attempt with the same
    /// fingerprint finished are kept; everything else in the folder is removed.
    pub(super) fn open(
        destination: &Path,
        fingerprint: &str,
        names: &[&str],
    ) -> Result<Self, EngineError> {
        let path = partial(destination);
        let earlier = Journal::read(&path.join(JOURNAL)).filter(|j| j.fingerprint == fingerprint);
        let mut files = BTreeMap::new();
        for (name, entry) in earlier.map(|j| j.files).unwrap_or_default() {
            let there = names.contains(&name.as_str());
            if there && digest(&path.join(&name)).is_ok_and(|found| found == entry) {
                files.insert(name, entry);
            }
        }
        std::fs::create_dir_all(&path).map_err(wrote(&path))?;
        remove_others(&path, &files)?;
        let kept = files.len();
        let journal = Journal { fingerprint: fingerprint.to_owned(), files };
        Ok(Folder { path, journal, kept, finished: false })
    }

    /// Where a file of the pack is written.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Whether a file is finished.
    pub(super) fn has(&self, name: &str) -> bool {
        self.journal.files.contains_key(name)
    }

    /// Files that were there at the start.
    pub(super) fn kept(&self) -> usize {
        self.kept
    }

    /// Length and SHA-256 of every finished file.
    pub(super) fn files(&self) -> &BTreeMap<String, FileEntry> {
        &self.journal.files
    }

    /// Writes a small file.
    pub(super) fn add(&mut self, name: &str, bytes: &[u8]) -> Result<(), EngineError> {
        let path = self.path.join(name);
        std::fs::write(&path, bytes).map_err(wrote(&path))?;
        self.record(name)
    }

    /// Notes that a file is finished.
    pub(super) fn record(&mut self, name: &str) -> Result<(), EngineError> {
        self.journal.files.insert(name.to_owned(), digest(&self.path.join(name))?);
        self.journal.write(&self.path.join(JOURNAL))
    }

    /// Writes the manifest and gives the folder its name.
    pub(super) fn finish(
        mut self,
        manifest: &Manifest,
        destination: &Path,
    ) -> Result<(), EngineError> {
        let path = self.path.join(FILE_NAME);
        let mut text = serde_json::to_string_pretty(manifest).expect("a manifest is plain data");
        text.push('\n');
        std::fs::write(&path, text).map_err(wrote(&path))?;
        let journal = self.path.join(JOURNAL);
        std::fs::remove_file(&journal).map_err(wrote(&journal))?;
        std::fs::rename(&self.path, destination).map_err(wrote(destination))?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.finished && self.journal.files.is_empty() {
            // Nothing is worth keeping, unless files are arriving in a folder of their own. The error
            // that ended the work is already on its way.
            let _ = remove_others(&self.path, &BTreeMap::new());
            let _ = std::fs::remove_dir(&self.path);
        }
    }
}

impl Journal {
    /// The list of an earlier attempt, if there is one that can be read.
    fn read(path: &Path) -> Option<Journal> {
        serde_json::from_slice(&read_small(path).ok()?).ok()
    }

    /// Replaces the list as a whole.
    fn write(&self, path: &Path) -> Result<(), EngineError> {
        let next = path.with_extension("next");
        let text = serde_json::to_vec(self).expect("a journal is plain data");
        std::fs::write(&next, text).map_err(wrote(&next))?;
        std::fs::rename(&next, path).map_err(wrote(path))
    }
}

/// The folder in which a pack grows.
pub(super) fn partial(destination: &Path) -> PathBuf {
    let mut name = destination.as_os_str().to_owned();
    name.push(".partial");
    PathBuf::from(name)
}

/// Removes the files that no plan will finish: what was cut in the middle, what another plan wrote.
fn remove_others(folder: &Path, keep: &BTreeMap<String, FileEntry>) -> Result<(), EngineError> {
    for entry in std::fs::read_dir(folder).map_err(wrote(folder))? {
        let path = entry.map_err(wrote(folder))?.path();
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        if !keep.contains_key(&name) && path.is_file() {
            std::fs::remove_file(&path).map_err(wrote(&path))?;
        }
    }
    Ok(())
}
