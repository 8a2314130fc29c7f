//! Gathers the files of a set: a site, the packs that it names, the detector files.
//!
//! Shipped files are compiled in, so that a binary alone can start. A pack is named by its shipped
//! name (`hipaa`) or by a path; paths are relative to the folder of the site file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::detector::shipped_detectors;
use crate::error::{PolicyError, suggest};
use crate::pack::{FileKind, PackSpec};
use crate::site::SiteSpec;
use crate::yaml::{At, Complaint, Document, Source, read};

/// The default site, compiled in.
const SHIPPED_SITE: &str = include_str!("../../site.yaml");

/// The shipped packs by name, compiled in.
const SHIPPED_PACKS: [(&str, &str); 8] = [
    ("default", include_str!("../../packs/default.yaml")),
    ("hipaa", include_str!("../../packs/hipaa.yaml")),
    ("pci", include_str!("../../packs/pci.yaml")),
    ("gdpr", include_str!("../../packs/gdpr.yaml")),
    ("ccpa", include_str!("../../packs/ccpa.yaml")),
    ("secrets", include_str!("../../packs/secrets.yaml")),
    ("privilege", include_str!("../../packs/privilege.yaml")),
    ("trade-secret", include_str!("../../packs/trade-secret.yaml")),
];

/// The parsed files of one set.
pub(crate) struct Files {
    pub(crate) site: (Document, SiteSpec),
    pub(crate) packs: Vec<(Document, PackSpec)>,
    /// Detector files, the shipped ones first.
    pub(crate) detectors: Vec<Document>,
}

impl Files {
    /// A pack that is given and not named would be silently without effect.
    fn check_named(&self, pack: &Source) -> Result<(), PolicyError> {
        if self.packs.iter().any(|(document, _)| document.source == *pack) {
            return Ok(());
        }
        let message = "is given but the site does not name it".to_owned();
        let hint = format!("add {} under packs: in the site file", pack.name);
        Err(PolicyError::about_file(&pack.name, message, Some(hint)))
    }
}

/// The names and texts of all shipped policy files: site, packs, detector files.
pub fn shipped_sources() -> Vec<Source> {
    let mut sources = vec![source("site.yaml", SHIPPED_SITE)];
    sources.extend(SHIPPED_PACKS.map(|(name, text)| source(&format!("{name}.yaml"), text)));
    sources.extend(shipped_detectors().iter().map(detector_source));
    sources
}

fn source(name: &str, text: &str) -> Source {
    Source { name: name.to_owned(), text: text.to_owned() }
}

/// What the names of shipped detector files begin with.
const SHIPPED_DETECTORS: &str = "detectors/";

fn detector_source((name, text): &(&str, &str)) -> Source {
    source(&format!("{SHIPPED_DETECTORS}{name}"), text)
}

/// Where files named in a site or pack are found.
enum Shelf {
    /// Only the shipped files.
    Shipped,
    /// A folder, that of the file which names them.
    Folder(PathBuf),
    /// Given texts by name.
    Given(Vec<Source>),
}

impl Shelf {
    /// The pack of a name without a path: a given text of that name, else the shipped one.
    fn pack(&self, from: &Document, name: &At<String>) -> Result<Document, PolicyError> {
        if let Shelf::Given(sources) = self {
            let file = format!("{}.yaml", name.value);
            if let Some(given) = sources.iter().find(|source| source.name == file) {
                return Document::parse(given.clone());
            }
        }
        shipped_pack(from, name)
    }

    /// The text of a file, `None` if there is none of that name here.
    fn open(&self, name: &str) -> Result<Option<Source>, String> {
        match self {
            Shelf::Shipped => Ok(None),
            Shelf::Given(sources) => Ok(sources.iter().find(|s| s.name == name).cloned()),
            Shelf::Folder(folder) => match std::fs::read_to_string(folder.join(name)) {
                Ok(text) => Ok(Some(Source { name: name.to_owned(), text })),
                Err(error) => {
                    Err(format!("failed to read {}: {error}", folder.join(name).display()))
                }
            },
        }
    }
}

/// The shipped site with its packs.
pub(super) fn shipped_set() -> Result<Files, PolicyError> {
    gather(Document::parse(source("site.yaml", SHIPPED_SITE))?, &Shelf::Shipped, Vec::new())
}

/// A site file on disk with what it names.
pub(super) fn site_from_disk(path: &Path) -> Result<Files, PolicyError> {
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    let text = std::fs::read_to_string(path).map_err(|error| {
        let message = format!("failed to read the site file: {error}");
        PolicyError::about_file(&path.display().to_string(), message, None)
    })?;
    let folder = path.parent().unwrap_or(Path::new("")).to_path_buf();
    gather(Document::parse(Source { name, text })?, &Shelf::Folder(folder), Vec::new())
}

/// A set from texts: at most one site, packs, detector files.
pub(super) fn site_from_sources(sources: Vec<Source>) -> Result<Files, PolicyError> {
    let mut site = None;
    let mut given = Vec::new();
    let mut packs = Vec::new();
    for one in &sources {
        let document = Document::parse(one.clone())?;
        let kind = FileKind::of(&document)
            .map_err(|complaint| PolicyError::new(vec![document.diagnostic(complaint)]))?;
        match kind {
            FileKind::Site if site.is_some() => return Err(second_site(&one.name)),
            FileKind::Site => site = Some(document),
            FileKind::Pack => packs.push(document),
            FileKind::Detectors => given.push(document),
        }
    }
    match site {
        Some(site) => {
            let files = gather(site, &Shelf::Given(sources), given)?;
            packs.iter().try_for_each(|pack| files.check_named(&pack.source))?;
            Ok(files)
        }
        None => {
            let site = Document::parse(source("site.yaml", SHIPPED_SITE))?;
            let mut spec: SiteSpec = typed(&site)?;
            spec.packs.0.clear();
            spec.tenants.0.clear();
            spec.tests.0.clear();
            let shelf = Shelf::Given(sources);
            let mut gatherer = Gatherer::new(&shelf);
            for pack in packs {
                gatherer.add(pack)?;
            }
            let detectors = shipped_detector_files()?.into_iter().chain(given).collect();
            Ok(Files { site: (site, spec), packs: gatherer.packs, detectors })
        }
    }
}

/// All files of a set that was built before: exactly these, none looked up.
pub(super) fn complete_set(sources: Vec<Source>) -> Result<Files, PolicyError> {
    let documents = sources.into_iter().map(Document::parse).collect::<Result<Vec<_>, _>>()?;
    let (mut sites, mut packs, mut detectors) = (Vec::new(), Vec::new(), Vec::new());
    for document in documents {
        let kind = FileKind::of(&document)
            .map_err(|complaint| PolicyError::new(vec![document.diagnostic(complaint)]))?;
        match kind {
            FileKind::Site => sites.push(document),
            FileKind::Pack => packs.push(document),
            FileKind::Detectors => detectors.push(document),
        }
    }
    if let Some(second) = sites.get(1) {
        return Err(second_site(&second.source.name));
    }
    let Some(site) = sites.pop() else {
        let message = "the set has no site file".to_owned();
        return Err(PolicyError::about_file("site.yaml", message, None));
    };
    let spec: SiteSpec = typed(&site)?;
    // A pack of detectors alone looks like a detector file; only who names it tells them apart.
    let is_detector_file = |document: &Document| {
        let name = &document.source.name;
        let named = spec.detector_files.0.iter().any(|given| given.value == *name);
        named || name.starts_with(SHIPPED_DETECTORS)
    };
    let (detectors, more) = detectors.into_iter().partition(is_detector_file);
    packs.extend::<Vec<_>>(more);
    let typed_pack = |document: Document| typed(&document).map(|spec| (document, spec));
    let packs = packs.into_iter().map(typed_pack).collect::<Result<_, _>>()?;
    Ok(Files { site: (site, spec), packs, detectors })
}

fn second_site(name: &str) -> PolicyError {
    PolicyError::about_file(name, "is a second site file: a set has one".to_owned(), None)
}

fn gather(site: Document, shelf: &Shelf, given: Vec<Document>) -> Result<Files, PolicyError> {
    let spec: SiteSpec = typed(&site)?;
    let mut gatherer = Gatherer::new(shelf);
    gatherer.add_named(&site, &spec.packs.0)?;
    for (_, packs) in &spec.tenants.0 {
        gatherer.add_named(&site, &packs.0)?;
    }
    let mut detectors = shipped_detector_files()?;
    for name in &spec.detector_files.0 {
        if !given.iter().any(|document| document.source.name == name.value) {
            detectors.push(open_named(shelf, &site, name)?);
        }
    }
    detectors.extend(given);
    Ok(Files { site: (site, spec), packs: gatherer.packs, detectors })
}

fn shipped_detector_files() -> Result<Vec<Document>, PolicyError> {
    shipped_detectors().iter().map(detector_source).map(Document::parse).collect()
}

/// Follows `packs` and `includes`, each pack once.
struct Gatherer<'a> {
    shelf: &'a Shelf,
    /// Name and file of every pack seen, those included that are still being followed.
    seen: BTreeMap<String, Source>,
    packs: Vec<(Document, PackSpec)>,
}

impl<'a> Gatherer<'a> {
    fn new(shelf: &'a Shelf) -> Self {
        Gatherer { shelf, seen: BTreeMap::new(), packs: Vec::new() }
    }

    fn add_named(&mut self, from: &Document, names: &[At<String>]) -> Result<(), PolicyError> {
        let mut problems = Vec::new();
        for name in names {
            if self.seen.values().any(|source| is_called(source, &name.value)) {
                continue;
            }
            let document = match is_path(&name.value) {
                true => open_named(self.shelf, from, name),
                false => self.shelf.pack(from, name),
            };
            if let Err(error) = document.and_then(|document| self.add(document)) {
                problems.extend(error.diagnostics);
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(PolicyError::new(problems)) }
    }

    fn add(&mut self, document: Document) -> Result<(), PolicyError> {
        let spec: PackSpec = typed(&document)?;
        let name = spec.policy.value.clone();
        if let Some(other) = self.seen.get(&name) {
            let message = format!("pack \"{name}\" is already in the set, from {}", other.name);
            let hint = "a shipped pack is extended under extends: in site.yaml, not replaced; or give \
                        this file a name of its own";
            let complaint = spec.policy.complaint(message, Some(hint.to_owned()));
            return Err(PolicyError::new(vec![document.diagnostic(complaint)]));
        }
        self.seen.insert(name, document.source.clone());
        self.add_named(&document, &spec.includes.0)?;
        self.packs.push((document, spec));
        Ok(())
    }
}

fn is_path(name: &str) -> bool {
    name.contains('/') || name.ends_with(".yaml") || name.ends_with(".yml")
}

pub(super) fn is_called(source: &Source, name: &str) -> bool {
    source.name == name || !is_path(name) && source.name.strip_suffix(".yaml") == Some(name)
}

fn shipped_pack(from: &Document, name: &At<String>) -> Result<Document, PolicyError> {
    let Some((_, text)) = SHIPPED_PACKS.iter().find(|(shipped, _)| *shipped == name.value) else {
        let known = SHIPPED_PACKS.iter().map(|(shipped, _)| *shipped);
        let hint = suggest(&name.value, known)
            .map(|hint| format!("{hint}; a pack of your own is named by its path: ./mine.yaml"));
        let complaint =
            name.complaint(format!("no shipped pack is called \"{}\"", name.value), hint);
        return Err(PolicyError::new(vec![from.diagnostic(complaint)]));
    };
    Document::parse(source(&format!("{}.yaml", name.value), text))
}

fn open_named(shelf: &Shelf, from: &Document, name: &At<String>) -> Result<Document, PolicyError> {
    let complain =
        |message: String| PolicyError::new(vec![from.diagnostic(name.complaint(message, None))]);
    match shelf.open(&name.value).map_err(complain)? {
        Some(source) => Document::parse(source),
        None => Err(complain(format!("no file is called \"{}\"", name.value))),
    }
}

/// Reads a document as a type; all its mistakes in one error.
pub(super) fn typed<T: serde::de::DeserializeOwned>(document: &Document) -> Result<T, PolicyError> {
    read(&document.root)
        .map_err(|complaints: Vec<Complaint>| PolicyError::new(document.diagnostics(complaints)))
}

/// Names of the shipped packs.
pub fn shipped_pack_names() -> BTreeSet<&'static str> {
    SHIPPED_PACKS.iter().map(|(name, _)| *name).collect()
}
