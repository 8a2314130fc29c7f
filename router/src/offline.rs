//! Remembers over a restart that a person declared the network away: a file beside the policies in force.
//!
//! The word is a person's and holds until a person takes it back; a process that came up again without it
//! would open what was closed. What being offline means is the gateway's and the policies' business.

use std::io;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::config::Config;

/// Longest file, bytes.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// Where the word is kept; nowhere in a trial without a config.
#[derive(Clone, Debug)]
pub(crate) struct Remembered(Option<PathBuf>);

/// What a person said.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Word {
    pub(crate) reason: String,
    pub(crate) by: String,
    since: Timestamp,
}

impl Remembered {
    pub(crate) fn of(config: &Config) -> Remembered {
        Remembered(config.policy.last_good.as_ref().map(|folder| folder.join("offline.json")))
    }

    #[cfg(test)]
    pub(crate) fn nowhere() -> Remembered {
        Remembered(None)
    }

    /// What was said before a restart. A file that cannot be read counts as said: the door stays closed.
    pub(crate) fn word(&self) -> Option<Word> {
        let path = self.0.as_deref()?;
        let unreadable = |_| Word {
            reason: format!("{} cannot be read", path.display()),
            by: "the gateway".to_owned(),
            since: Timestamp::now(),
        };
        match std::fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Ok(found) if found.len() <= FILE_BYTES_MAX => {}
            _ => return Some(unreadable(())),
        }
        let json = std::fs::read(path).map_err(drop);
        let word = json.and_then(|json| serde_json::from_slice(&json).map_err(drop));
        Some(word.unwrap_or_else(unreadable))
    }

    /// Keeps a word.
    pub(crate) fn keep(&self, reason: &str, by: &str) -> Result<(), String> {
        let Some(path) = &self.0 else { return Ok(()) };
        let word = Word { reason: reason.into(), by: by.into(), since: Timestamp::now() };
        let json = serde_json::to_vec_pretty(&word).expect("texts are JSON");
        crate::durable::replace(path, &json).map_err(|e| format!("{}: {e}", path.display()))
    }

    /// Forgets it.
    pub(crate) fn forget(&self) -> Result<(), String> {
        let Some(path) = &self.0 else { return Ok(()) };
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(format!("{}: {error}", path.display()))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_remembered_until_it_is_forgotten_and_a_damaged_one_counts() {
        let folder = tempfile::tempdir().unwrap();
        let remembered = Remembered(Some(folder.path().join("deep/offline.json")));
        assert!(remembered.word().is_none());
        remembered.keep("a cable was cut", "anna").unwrap();
        let word = remembered.word().unwrap();
        assert_eq!((word.reason.as_str(), word.by.as_str()), ("a cable was cut", "anna"));
        remembered.forget().unwrap();
        remembered.forget().unwrap();
        assert!(remembered.word().is_none());
        std::fs::write(folder.path().join("deep/offline.json"), "{").unwrap();
        assert!(remembered.word().unwrap().reason.contains("cannot be read"));
    }
}
