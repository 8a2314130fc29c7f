//! Notices that policy files changed, by looking at them once a second.
//!
//! A look compares what the operating system says of each file: inode, length, time of change, through
//! symbolic links, so that the swapped link of a Kubernetes ConfigMap shows like an edited file. Asking
//! works on every file system, network mounts included, where notifications do not. A change counts
//! once two looks in a row agree, so that a file is not read while it is being written.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// How often files are looked at.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What is seen of one file; `None` if there is none.
type Print = Option<(u64, u64, Option<SystemTime>)>;

/// Files that are looked at, as they were when they were last read and at the last look.
#[derive(Default)]
pub struct Watch {
    read: BTreeMap<PathBuf, Print>,
    looked: BTreeMap<PathBuf, Print>,
}

impl Watch {
    /// Begins to watch files as they are now. To be called before they are read: a change in between
    /// is then noticed, at the worst by reading them once more.
    pub fn new(files: Vec<PathBuf>) -> Watch {
        let mut watch = Watch::default();
        watch.follow(files);
        watch
    }

    /// Watches these files from now on: those already watched as they were when they were read.
    pub fn follow(&mut self, files: Vec<PathBuf>) {
        let known = std::mem::take(&mut self.read);
        let print_of = |file: PathBuf| {
            let print = known.get(&file).copied().unwrap_or_else(|| print(&file));
            (file, print)
        };
        self.read = files.into_iter().map(print_of).collect();
        self.looked = self.read.clone();
    }

    /// Looks at all files. `true` if they changed since they were read and no longer change; they then
    /// count as read.
    pub fn changed(&mut self) -> bool {
        let now: BTreeMap<_, _> = self.read.keys().map(|f| (f.clone(), print(f))).collect();
        let settled = now == self.looked;
        self.looked = now;
        if !settled || self.looked == self.read {
            return false;
        }
        self.read.clone_from(&self.looked);
        true
    }

    /// Counts all files as read as they are now.
    pub fn reread(&mut self) {
        self.read = self.read.keys().map(|f| (f.clone(), print(f))).collect();
        self.looked.clone_from(&self.read);
    }
}

fn print(file: &Path) -> Print {
    let found = std::fs::metadata(file).ok()?;
    Some((inode(&found), found.len(), found.modified().ok()))
}

#[cfg(unix)]
fn inode(found: &std::fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(found)
}

#[cfg(not(unix))]
fn inode(_: &std::fs::Metadata) -> u64 {
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_counts_once_and_only_when_it_has_settled() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("site.yaml");
        std::fs::write(&file, "a").unwrap();
        let mut watch = Watch::new(vec![file.clone()]);
        assert!(!watch.changed() && !watch.changed());
        std::fs::write(&file, "ab").unwrap();
        assert!(!watch.changed(), "still being written");
        std::fs::write(&file, "abc").unwrap();
        assert!(!watch.changed(), "still being written");
        assert!(watch.changed());
        assert!(!watch.changed() && !watch.changed());
    }

    #[test]
    fn a_file_that_comes_or_goes_is_a_change_and_one_that_comes_back_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pack.yaml");
        let mut watch = Watch::new(vec![file.clone()]);
        std::fs::write(&file, "a").unwrap();
        assert!(!watch.changed() && watch.changed());
        let aside = folder.path().join("aside");
        std::fs::rename(&file, &aside).unwrap();
        assert!(!watch.changed());
        std::fs::rename(&aside, &file).unwrap();
        assert!(!watch.changed() && !watch.changed());
    }

    #[test]
    fn newly_followed_files_count_as_they_are_and_known_ones_as_they_were_read() {
        let folder = tempfile::tempdir().unwrap();
        let (known, new) = (folder.path().join("known"), folder.path().join("new"));
        std::fs::write(&known, "a").unwrap();
        std::fs::write(&new, "a").unwrap();
        let mut watch = Watch::new(vec![known.clone()]);
        std::fs::write(&known, "ab").unwrap();
        watch.follow(vec![known, new]);
        assert!(!watch.changed() && watch.changed() && !watch.changed());
    }

    #[cfg(unix)]
    #[test]
    fn the_swapped_link_of_a_config_map_is_a_change() {
        use std::os::unix::fs::symlink;
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for version in ["..v1", "..v2"] {
            std::fs::create_dir(at(version)).unwrap();
            std::fs::write(at(version).join("site.yaml"), "same length").unwrap();
        }
        symlink("..v1", at("..data")).unwrap();
        symlink("..data/site.yaml", at("site.yaml")).unwrap();
        let mut watch = Watch::new(vec![at("site.yaml")]);
        assert!(!watch.changed());
        symlink("..v2", at("..data_tmp")).unwrap();
        std::fs::rename(at("..data_tmp"), at("..data")).unwrap();
        assert!(!watch.changed() && watch.changed());
    }
}
