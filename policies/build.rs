//! Names the code of the built-in detectors by a hash of its sources: `SLUICE_BUILT_IN_REVISION`.
//!
//! Detectors of a newer binary may find less than those of an older one, and nothing in the policy
//! files shows it. Whoever keeps an activated set compares this name, too.

use std::fs;
use std::path::{Path, PathBuf};

/// What decides which text is found: normalising, scanning, windows, shipped specs and word lists.
const SOURCES: [&str; 7] = [
    "src/condition",
    "src/condition.rs",
    "src/detector",
    "src/detector.rs",
    "src/normalize",
    "src/normalize.rs",
    "detectors",
];

fn main() {
    let mut files = Vec::new();
    for source in SOURCES {
        println!("cargo::rerun-if-changed={source}");
        collect(Path::new(source), &mut files);
    }
    files.sort();
    let mut hash = Fnv(0xcbf2_9ce4_8422_2325);
    for file in files {
        let text = fs::read(&file).expect("a file that was just listed can be read");
        hash.add(file.to_string_lossy().replace('\\', "/").as_bytes());
        // A checkout with other line ends has the same name.
        text.split(|&byte| byte == b'\r').for_each(|part| hash.add(part));
    }
    println!("cargo::rustc-env=SLUICE_BUILT_IN_REVISION={:016x}", hash.0);
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) {
    if !path.is_dir() {
        return files.push(path.to_owned());
    }
    for entry in fs::read_dir(path).expect("the sources of the package are there") {
        collect(&entry.expect("the sources of the package are there").path(), files);
    }
}

/// FNV-1a, 64 bits: an identifier, not a protection. Source: draft-eastlake-fnv.
struct Fnv(u64);

impl Fnv {
    fn add(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
    }
}
