//! What a gateway keeps of its policies on disk: the last set that was put in force, the approvals that
//! wait for it, and the history of every activation.
//!
//! `active` holds the set's files, its digest and what it decided about every test case. It is replaced
//! as a whole (written beside, synced, renamed) and is trusted only if its checksum and the digest over
//! its files hold. `accepted/DIGEST.json` is written by `sluice policy activate`; `history.jsonl` gets
//! one line per activation. The folder must be writable by the gateway and its officers alone.
//!
//! Not here: what an approval must say (`loosening`), when a set is replaced (`active_policy`).

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sluice_policies::{Source, Verdict, digest};

use super::loosening::Acceptance;

const ACTIVE: &str = "active";
const ACCEPTED: &str = "accepted";
const HISTORY: &str = "history.jsonl";
/// What the file of the active set begins with; the checksum of the rest follows.
const HEADER: &str = "sluice policy state 1 sha256 ";
/// No file in the folder is longer, bytes.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// The folder of one gateway's policy state.
#[derive(Clone, Debug)]
pub struct StateFolder(PathBuf);

/// The set that was put in force last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoredSet {
    /// Digest over its files.
    pub digest: String,
    /// When it was put in force.
    pub activated: Timestamp,
    /// Highest serial of a bundle that was ever put in force.
    pub serial: Option<u64>,
    /// What it decided about every case of its tests.
    pub verdicts: Vec<Verdict>,
    /// Its files.
    pub files: Vec<Source>,
}

/// One activation.
#[derive(Clone, Debug, Serialize)]
pub struct HistoryLine<'a> {
    /// When.
    pub time: Timestamp,
    /// Digest of the set before; `None` for the first.
    pub from: Option<&'a str>,
    /// Digest of the set that was put in force.
    pub to: &'a str,
    /// Version of the program.
    pub program: &'a str,
    /// Which built-in detectors it has.
    pub detectors: &'a str,
    /// What it loosened.
    pub loosened: &'a [String],
    /// Who accepted that, and why.
    pub acceptance: Option<&'a Acceptance>,
}

/// State that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A file cannot be read.
    #[error("failed to read the policy state {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// A file cannot be written.
    #[error(
        "failed to write the policy state {path}; name a folder that the gateway may write under \
         policy.last_good.path"
    )]
    Write {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// A file is not what was written.
    #[error("{path} is damaged: {problem}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not hold.
        problem: String,
    },
}

impl StateFolder {
    /// The state in a folder, which need not exist yet.
    pub fn new(path: PathBuf) -> StateFolder {
        StateFolder(path)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Where approvals are put.
    pub fn accepted(&self) -> PathBuf {
        self.0.join(ACCEPTED)
    }

    /// The set that was put in force last, `None` before the first.
    pub fn active(&self) -> Result<Option<StoredSet>, StateError> {
        let path = self.0.join(ACTIVE);
        let Some(text) = read(&path)? else { return Ok(None) };
        let damaged = |problem: String| StateError::Damaged { path: path.clone(), problem };
        let header = text.split_once('\n');
        let sealed = header.and_then(|(first, rest)| Some((first.strip_prefix(HEADER)?, rest)));
        let (checksum, body) =
            sealed.ok_or_else(|| damaged("its first line is not ours".into()))?;
        if sha256(body.as_bytes()) != checksum {
            return Err(damaged("its checksum does not hold".into()));
        }
        let stored: StoredSet = serde_json::from_str(body).map_err(|e| damaged(e.to_string()))?;
        match digest(&stored.files) == stored.digest {
            true => Ok(Some(stored)),
            false => Err(damaged("its files do not have its digest".into())),
        }
    }

    /// Replaces the set that was put in force last.
    pub fn store(&self, set: &StoredSet) -> Result<(), StateError> {
        let body = serde_json::to_string(set).expect("texts and numbers are JSON");
        let text = format!("{HEADER}{}\n{body}", sha256(body.as_bytes()));
        replace(&self.0.join(ACTIVE), text.as_bytes())
    }

    /// The approval that waits for a set of this digest.
    pub fn acceptance(&self, to: &str) -> Result<Option<Acceptance>, StateError> {
        let path = self.acceptance_path(to);
        let Some(text) = read(&path)? else { return Ok(None) };
        let damaged = |error: serde_json::Error| StateError::Damaged {
            path: path.clone(),
            problem: error.to_string(),
        };
        serde_json::from_str(&text).map(Some).map_err(damaged)
    }

    /// Puts an approval where the gateway looks for it; returns where.
    pub fn accept(&self, acceptance: &Acceptance) -> Result<PathBuf, StateError> {
        let path = self.acceptance_path(&acceptance.to);
        let text = serde_json::to_string_pretty(acceptance).expect("texts are JSON");
        replace(&path, text.as_bytes())?;
        Ok(path)
    }

    /// Takes an approval away that was used.
    pub fn withdraw(&self, acceptance: &Acceptance) -> Result<(), StateError> {
        let path = self.acceptance_path(&acceptance.to);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(StateError::Write { path, source: error })
            }
            _ => Ok(()),
        }
    }

    /// Adds a line to the history.
    pub fn note(&self, line: &HistoryLine<'_>) -> Result<(), StateError> {
        let path = self.0.join(HISTORY);
        let failed = |source| StateError::Write { path: path.clone(), source };
        fs::create_dir_all(&self.0).map_err(failed)?;
        let mut text = serde_json::to_string(line).expect("texts are JSON");
        text.push('\n');
        let mut file = OpenOptions::new().append(true).create(true).open(&path).map_err(failed)?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)
    }

    fn acceptance_path(&self, to: &str) -> PathBuf {
        self.accepted().join(format!("{to}.json"))
    }
}

fn read(path: &Path) -> Result<Option<String>, StateError> {
    let failed = |source| StateError::Read { path: path.to_owned(), source };
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
        Ok(found) if found.len() > FILE_BYTES_MAX => {
            let problem = format!("it has {} bytes, more than any that is written", found.len());
            return Err(StateError::Damaged { path: path.to_owned(), problem });
        }
        Ok(_) => {}
    }
    let bytes = fs::read(path).map_err(failed)?;
    let damaged =
        |_| StateError::Damaged { path: path.to_owned(), problem: "it is no text".into() };
    String::from_utf8(bytes).map(Some).map_err(damaged)
}

fn replace(path: &Path, bytes: &[u8]) -> Result<(), StateError> {
    crate::durable::replace(path, bytes)
        .map_err(|source| StateError::Write { path: path.to_owned(), source })
}

/// SHA-256, hexadecimal.
pub(super) fn sha256(bytes: &[u8]) -> String {
    let hash = ring::digest::digest(&ring::digest::SHA256, bytes);
    hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use sluice_policies::PolicySet;

    use super::*;

    fn stored() -> StoredSet {
        let set = PolicySet::shipped().unwrap();
        StoredSet {
            digest: set.digest().to_owned(),
            activated: "2026-11-22T10:00:00Z".parse().unwrap(),
            serial: Some(3),
            verdicts: set.verdicts(),
            files: set.sources().to_vec(),
        }
    }

    #[test]
    fn what_was_stored_is_read_back_and_nothing_is_read_before() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateFolder::new(folder.path().join("deep/policy"));
        assert_eq!(state.active().unwrap(), None);
        state.store(&stored()).unwrap();
        assert_eq!(state.active().unwrap().unwrap(), stored());
    }

    #[test]
    fn a_damaged_file_is_never_taken_for_a_set() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateFolder::new(folder.path().to_owned());
        state.store(&stored()).unwrap();
        let path = folder.path().join(ACTIVE);
        let whole = fs::read_to_string(&path).unwrap();
        let mut looser = stored();
        looser.files[0].text =
            looser.files[0].text.replace("never_cloud: true", "never_cloud: false");
        state.store(&looser).unwrap();
        let other_files = fs::read_to_string(&path).unwrap();
        for (text, expected) in [
            (whole[..whole.len() / 2].to_owned(), "its checksum does not hold"),
            (whole.replace("regulated", "regulatex"), "its checksum does not hold"),
            (String::new(), "its first line is not ours"),
            (other_files, "its files do not have its digest"),
        ] {
            fs::write(&path, text).unwrap();
            let error = state.active().unwrap_err().to_string();
            assert!(error.ends_with(expected), "{error}");
        }
    }
}
