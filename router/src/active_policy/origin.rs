//! Where policy files come from: the binary, a site file on disk, or a signed bundle.

use std::path::{Path, PathBuf};

use jiff::civil::Date;
use sluice_policies::{PolicyError, PolicySet};

use super::bundle::{Bundle, BundleError};
use crate::config::{BundleFiles, PolicyFiles};
use crate::signing::{KeyError, KeyRing};

/// Where policy files come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The files inside the binary, which cannot change.
    Shipped,
    /// A site file and what it names.
    Site(PathBuf),
    /// A signed bundle and the keys that may sign it.
    Bundle(BundleFiles),
}

/// A set that is ready to be put in force: its tests have passed.
pub struct Offered {
    /// The set.
    pub set: PolicySet,
    /// Serial number, if it came in a bundle.
    pub serial: Option<u64>,
}

/// Files that make no set.
#[derive(Debug, thiserror::Error)]
pub enum OriginError {
    /// The policy files are wrong or their tests fail.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The bundle is not used.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The keys of bundles cannot be used.
    #[error(transparent)]
    Keys(#[from] KeyError),
}

impl Origin {
    /// What a config names.
    pub fn of(files: &PolicyFiles) -> Origin {
        match (&files.bundle, &files.site) {
            (Some(bundle), _) => Origin::Bundle(bundle.clone()),
            (None, Some(site)) => Origin::Site(site.clone()),
            (None, None) => Origin::Shipped,
        }
    }

    /// Reads the files, builds the set and runs its tests. Takes some tenths of a second.
    pub fn load(&self, today: Date) -> Result<Offered, OriginError> {
        match self {
            Origin::Shipped => Ok(Offered { set: PolicySet::shipped()?, serial: None }),
            Origin::Site(site) => Ok(Offered { set: PolicySet::load_site(site)?, serial: None }),
            Origin::Bundle(BundleFiles { file, keys }) => {
                let ring = KeyRing::read(keys)?;
                let bundle = Bundle::open(file, (keys, &ring), today)?;
                let serial = Some(bundle.serial);
                Ok(Offered { set: bundle.into_set()?, serial })
            }
        }
    }

    /// The file that a person would name: the site or the bundle.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Origin::Shipped => None,
            Origin::Site(site) => Some(site),
            Origin::Bundle(bundle) => Some(&bundle.file),
        }
    }

    /// The files on disk that a set of these names may have been built from.
    pub(super) fn files<'a>(&self, names: impl Iterator<Item = &'a str>) -> Vec<PathBuf> {
        match self {
            Origin::Shipped => Vec::new(),
            Origin::Bundle(BundleFiles { file, keys }) => vec![file.clone(), keys.clone()],
            Origin::Site(site) => {
                let folder = site.parent().unwrap_or(Path::new(""));
                let mut files = vec![site.clone()];
                // A shipped name that is no file here is watched for nothing, at the cost of one look.
                files.extend(names.map(|name| folder.join(name)));
                files
            }
        }
    }
}
