//! Keeps what `sluice model tune` found, for each model on each machine, and gives it to who loads one.
//!
//! One small JSON file in the state folder. It only makes things faster, so nothing that is wrong with
//! it stops anybody: a file that cannot be read and a measurement of another machine or of other files
//! under the same path are left out, with a word about it. Flags and config are stronger.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sluice_engine::tune::{Tuned, key};
use sluice_engine::{EngineError, EngineOptions};

use crate::config::state_folder;
use crate::durable;

/// The file in the state folder.
const FILE: &str = "tuned.json";

/// One model on one machine.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// Where the model lay.
    model: PathBuf,
    settings: Tuned,
}

/// By [`key`].
type Entries = BTreeMap<String, Entry>;

/// What is known of a model on this machine.
#[derive(Debug, Default, PartialEq)]
pub struct Remembered {
    /// The settings.
    pub tuned: Option<Tuned>,
    /// Why there are none although something was kept.
    pub warning: Option<String>,
}

impl Remembered {
    /// Looks into the state folder.
    pub fn of(model: &Path) -> Remembered {
        Remembered::in_folder(&state_folder(), model)
    }

    fn in_folder(folder: &Path, model: &Path) -> Remembered {
        let file = folder.join(FILE);
        let warning = |text: String| Remembered { tuned: None, warning: Some(text) };
        let mut entries = match read(&file) {
            Ok(entries) => entries,
            Err(error) => return warning(format!("{}: {error}; ignored", file.display())),
        };
        // Without an entry nothing of the model need be read.
        if entries.is_empty() {
            return Remembered::default();
        }
        // A model that cannot be opened is told by who loads it.
        let Ok(key) = key(model) else { return Remembered::default() };
        if let Some(entry) = entries.remove(&key) {
            return Remembered { tuned: Some(entry.settings), warning: None };
        }
        let path = absolute(model);
        if entries.values().any(|entry| entry.model == path) {
            return warning(format!(
                "{}: what was measured for {} belongs to another machine or to other files; ignored; \
                 measure again with `sluice model tune`",
                file.display(),
                path.display()
            ));
        }
        Remembered::default()
    }

    /// Fills what options leave open.
    pub fn apply(&self, options: &mut EngineOptions) {
        if let Some(tuned) = &self.tuned {
            tuned.apply(options);
        }
    }
}

/// Keeps settings in the state folder; returns the file.
pub fn remember(model: &Path, settings: &Tuned) -> Result<PathBuf, EngineError> {
    let folder = state_folder();
    let name = key(model)?;
    let file = folder.join(FILE);
    let failed = |source| EngineError::Write { path: file.clone(), source };
    keep(&folder, name, model, settings).map_err(failed)?;
    Ok(file)
}

fn keep(folder: &Path, key: String, model: &Path, settings: &Tuned) -> io::Result<()> {
    let file = folder.join(FILE);
    // A broken file has nothing that is worth keeping.
    let mut entries = read(&file).unwrap_or_default();
    let model = absolute(model);
    entries.retain(|_, entry| entry.model != model);
    entries.insert(key, Entry { model, settings: settings.clone() });
    durable::replace(&file, &serde_json::to_vec_pretty(&entries)?)
}

fn read(file: &Path) -> io::Result<Entries> {
    match std::fs::read(file) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Entries::new()),
        Err(error) => Err(error),
    }
}

fn absolute(model: &Path) -> PathBuf {
    model.canonicalize().unwrap_or_else(|_| model.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nano() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine/models/nano")
    }

    fn settings(threads: usize) -> Tuned {
        Tuned { threads, io_depth: Some(8), memory_bytes: None, tokens_per_second: 10.0 }
    }

    #[test]
    fn settings_are_found_again_and_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        assert_eq!(Remembered::in_folder(at, &nano()), Remembered::default());
        for threads in [2, 3] {
            keep(at, key(&nano()).unwrap(), &nano(), &settings(threads)).unwrap();
            let found = Remembered::in_folder(at, &nano());
            assert_eq!(found, Remembered { tuned: Some(settings(threads)), warning: None });
        }
        assert_eq!(read(&at.join(FILE)).unwrap().len(), 1);
    }

    #[test]
    fn stale_and_broken_files_are_ignored_with_a_warning() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        keep(at, "0123".to_owned(), &nano(), &settings(2)).unwrap();
        let stale = Remembered::in_folder(at, &nano());
        assert!(stale.tuned.is_none() && stale.warning.unwrap().contains("another machine"));
        for broken in ["{", r#"{"a": {"model": "m", "settings": {"threads": 1, "unknown": 2}}}"#] {
            std::fs::write(at.join(FILE), broken).unwrap();
            let found = Remembered::in_folder(at, &nano());
            assert!(found.tuned.is_none() && found.warning.unwrap().contains("ignored"));
        }
        keep(at, key(&nano()).unwrap(), &nano(), &settings(4)).unwrap();
        assert_eq!(Remembered::in_folder(at, &nano()).tuned, Some(settings(4)));
    }
}
