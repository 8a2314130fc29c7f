//! The policies in force: replaced as a whole while requests go on, or kept when a new file is refused.
//!
//! A request takes the set once, at its start, and is decided by it to the end, fallbacks included. A
//! reload reads the site file and all that it names, runs their tests and the proof, and swaps the
//! pointer; if anything fails, the last good set serves on and the failure is visible in the log, in
//! `/readyz` and in the metrics until a reload succeeds.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use sluice_policies::{PolicyError, PolicySet};

/// The set that decides now, and where it came from.
pub struct ActivePolicy {
    set: RwLock<Arc<PolicySet>>,
    /// `None`: the policies inside the binary, which cannot change.
    site: Option<PathBuf>,
    reload_failed: AtomicBool,
}

impl ActivePolicy {
    /// Loads a site file, or takes the policies inside the binary.
    pub fn load(site: Option<PathBuf>) -> Result<ActivePolicy, PolicyError> {
        let set = RwLock::new(Arc::new(read(site.as_ref())?));
        Ok(ActivePolicy { set, site, reload_failed: AtomicBool::new(false) })
    }

    /// The set in force.
    pub fn current(&self) -> Arc<PolicySet> {
        // A reader that panicked left the pointer as it was.
        self.set.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the files again and puts the new set in force; returns it. On an error nothing changes.
    ///
    /// Blocks for as long as the files' tests take, some tenths of a second.
    pub fn reload(&self) -> Result<Arc<PolicySet>, PolicyError> {
        let loaded = read(self.site.as_ref()).map(Arc::new);
        self.reload_failed.store(loaded.is_err(), Ordering::Relaxed);
        let set = loaded?;
        *self.set.write().unwrap_or_else(PoisonError::into_inner) = set.clone();
        Ok(set)
    }

    /// Whether the last reload was refused, so that an older set is in force than the files say.
    pub fn reload_failed(&self) -> bool {
        self.reload_failed.load(Ordering::Relaxed)
    }
}

fn read(site: Option<&PathBuf>) -> Result<PolicySet, PolicyError> {
    site.map_or_else(PolicySet::shipped, |site| PolicySet::load_site(site))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_file_leaves_the_last_good_set_in_force() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("site.yaml");
        let shipped = include_str!("../../policies/site.yaml");
        std::fs::write(&path, shipped).unwrap();
        let active = ActivePolicy::load(Some(path.clone())).unwrap();
        let first = active.current().digest().to_owned();

        std::fs::write(&path, shipped.replace("caller_unknown:", "caller_unknwon:")).unwrap();
        let error = active.reload().err().expect("refused").to_string();
        assert!(error.contains("caller_unknwon") && active.reload_failed(), "{error}");
        assert_eq!(active.current().digest(), first);

        // A set whose tests fail is refused like one that cannot be read.
        let demo = shipped.replace("allow_demo_model: false", "allow_demo_model: true");
        std::fs::write(&path, demo).unwrap();
        assert!(active.reload().is_err());
        assert_eq!(active.current().digest(), first);

        std::fs::write(&path, shipped.replace("version: \"1.0.0\"", "version: \"1.0.1\"")).unwrap();
        let renewed = active.reload().unwrap();
        assert_ne!(renewed.digest(), first);
        assert_eq!(active.current().digest(), renewed.digest());
        assert!(!active.reload_failed());
    }
}
