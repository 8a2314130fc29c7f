//! How much memory this process may take: the machine's, or less where a control group says so.
//!
//! Limits hold for a group and all its parents; page cache that a group was charged for is given up
//! when memory is wanted, so that it counts as free.
//! Sources: proc_meminfo(5), proc_pid_statm(5); the kernel's `cgroup-v2.rst` and `cgroup-v1/memory.rst`.

use std::path::{Path, PathBuf};

/// Where control groups are mounted.
const GROUPS: &str = "/sys/fs/cgroup";
/// Pages of `statm`: all machines that this engine was built for have these.
const PAGE_BYTES: u64 = 4096;
/// Without any figures this much is believed to be free.
const FREE_GUESS: u64 = 4 << 30;
/// One part of so many of the machine is left to others: past that every byte makes things slower.
const LEFT_TO_OTHERS: u64 = 8;

/// What there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Machine {
    /// Memory that may be taken from now on.
    free_bytes: u64,
    /// Memory of the machine or the group.
    total_bytes: u64,
    /// Anonymous and file pages of this process.
    pub(crate) resident_bytes: u64,
}

impl Machine {
    /// Asks the machine.
    pub(crate) fn measure() -> Machine {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let info = text("/proc/meminfo");
        let kib = |name| field(&info, name).map(|kib| kib * 1024);
        let machine = Machine {
            free_bytes: kib("MemAvailable:").unwrap_or(FREE_GUESS),
            total_bytes: kib("MemTotal:").unwrap_or(2 * FREE_GUESS),
            resident_bytes: resident(&text("/proc/self/statm")),
        };
        limits(Path::new(GROUPS), &text("/proc/self/cgroup")).fold(machine, Machine::within)
    }

    /// Memory of the machine, or of the tightest group.
    pub(crate) fn total_bytes(self) -> u64 {
        self.total_bytes
    }

    fn within(self, group: Group) -> Machine {
        Machine {
            free_bytes: self.free_bytes.min(group.limit.saturating_sub(group.used)),
            total_bytes: self.total_bytes.min(group.limit),
            ..self
        }
    }

    /// Bytes that this process may take in all, short of the last that are free.
    pub(crate) fn budget(self) -> u64 {
        let spare = self.free_bytes.saturating_sub(self.total_bytes / LEFT_TO_OTHERS);
        // On a busy machine a small model still gets a part of what little is free.
        self.resident_bytes + spare.max(self.free_bytes / 4)
    }
}

/// Resident bytes of this process, now.
pub(crate) fn resident_now() -> u64 {
    resident(&std::fs::read_to_string("/proc/self/statm").unwrap_or_default())
}

/// The limit of a control group, and what it uses that cannot be given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Group {
    limit: u64,
    used: u64,
}

/// A number after a name at the start of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The second number of `statm`.
fn resident(statm: &str) -> u64 {
    let pages = statm.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok());
    pages.unwrap_or(0) * PAGE_BYTES
}

/// All groups with limits that this process is in, of both versions.
fn limits<'a>(root: &'a Path, groups: &'a str) -> impl Iterator<Item = Group> + 'a {
    groups.lines().flat_map(move |line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
        let (root, read): (PathBuf, fn(&Path) -> Option<Group>) = match controllers {
            "" => (root.to_owned(), version_2),
            list if list.split(',').any(|c| c == "memory") => (root.join("memory"), version_1),
            _ => return Vec::new(),
        };
        // In a container the path may be the host's: then the mounted root is the group.
        let inner = root.join(path.trim_start_matches('/'));
        let parents = inner.ancestors().take_while(|folder| folder.starts_with(&root));
        parents.filter_map(read).collect()
    })
}

fn number(folder: &Path, name: &str) -> Option<u64> {
    std::fs::read_to_string(folder.join(name)).ok()?.trim().parse().ok()
}

/// File pages of a group.
fn file_pages(folder: &Path, prefix: &str) -> u64 {
    let stat = std::fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
    ["inactive_file ", "active_file "]
        .iter()
        .filter_map(|name| field(&stat, &format!("{prefix}{name}")))
        .sum()
}

fn version_2(folder: &Path) -> Option<Group> {
    let limits = [number(folder, "memory.max"), number(folder, "memory.high")];
    let limit = limits.into_iter().flatten().min()?;
    let used = number(folder, "memory.current").unwrap_or(0);
    Some(Group { limit, used: used.saturating_sub(file_pages(folder, "")) })
}

fn version_1(folder: &Path) -> Option<Group> {
    let limit = number(folder, "memory.limit_in_bytes")?;
    let used = number(folder, "memory.usage_in_bytes").unwrap_or(0);
    Some(Group { limit, used: used.saturating_sub(file_pages(folder, "total_")) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(folder: &Path, files: &[(&str, &str)]) {
        std::fs::create_dir_all(folder).expect("a folder");
        for (name, text) in files {
            std::fs::write(folder.join(name), text).expect("written");
        }
    }

    #[test]
    fn the_tightest_group_up_the_tree_counts() {
        let root = tempfile::tempdir().expect("a folder");
        group(&root.path().join("a"), &[("memory.max", "5000\n"), ("memory.current", "900\n")]);
        let inner = [
            ("memory.max", "max\n"),
            ("memory.high", "4000\n"),
            ("memory.current", "3000\n"),
            ("memory.stat", "anon 5\ninactive_file 1500\nactive_file 500\n"),
        ];
        group(&root.path().join("a/b"), &inner);
        let found: Vec<_> = limits(root.path(), "0::/a/b\n").collect();
        assert_eq!(found, [Group { limit: 4000, used: 1000 }, Group { limit: 5000, used: 900 }]);
        let machine = Machine { free_bytes: 9000, total_bytes: 10_000, resident_bytes: 700 };
        let machine = found.into_iter().fold(machine, Machine::within);
        assert_eq!((machine.free_bytes, machine.total_bytes), (3000, 4000));
        assert_eq!(machine.budget(), 700 + 3000 - 500);
        let busy = Machine { free_bytes: 400, ..machine };
        assert_eq!(busy.budget(), 700 + 100);
    }

    #[test]
    fn the_first_version_of_groups_is_understood_too() {
        let root = tempfile::tempdir().expect("a folder");
        let files = [
            ("memory.limit_in_bytes", "2000\n"),
            ("memory.usage_in_bytes", "1500\n"),
            ("memory.stat", "inactive_file 1\ntotal_inactive_file 600\ntotal_active_file 100\n"),
        ];
        group(&root.path().join("memory"), &files);
        let found: Vec<_> =
            limits(root.path(), "5:devices:/\n4:memory:/gone/with/the/host\n0::/\n").collect();
        assert_eq!(found, [Group { limit: 2000, used: 800 }]);
    }

    #[test]
    fn this_machine_has_memory_and_this_process_takes_some() {
        let machine = Machine::measure();
        assert!(machine.resident_bytes > 1 << 20 && machine.budget() >= machine.resident_bytes);
        assert!(machine.budget() < machine.resident_bytes + machine.total_bytes);
        assert!(resident_now() > 1 << 20);
    }
}
