//! Compiles parsed files into a set: names become numbers, classes become a lattice.
//!
//! Every mistake that can be found is reported, file by file; nothing is built from a set with one.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use super::check::{RuleTest, SiteTest};
use super::files::{Files, is_called};
use super::{Class, Exception, Label, PackInfo, PolicySet};
use crate::condition::{Condition, Vocabulary};
use crate::detector::{DetectorSpec, Scanner};
use crate::error::{Diagnostic, PolicyError, suggest};
use crate::latency::Latency;
use crate::pack::{DetectorFileSpec, LabelSpec, PackSpec, check_officer_detectors, check_requires};
use crate::rule::{Effective, Rule, RuleSpec, TestSpec};
use crate::site::answers::{self, Lattice};
use crate::site::vouch::Vouch;
use crate::site::{ClassSpec, ExceptionSpec, SiteSpec};
use crate::yaml::{At, Complaint, Document, List, Named, Source};

mod rules;

/// Compiles a set. Its tests are not run here.
pub(super) fn build(files: Files) -> Result<PolicySet, PolicyError> {
    let detector_files = files
        .detectors
        .iter()
        .map(super::files::typed::<DetectorFileSpec>)
        .collect::<Result<Vec<_>, _>>()?;
    let mut builder = Builder::new(&files);
    builder.check_versions(&detector_files);
    builder.read_detectors(&detector_files);
    builder.read_classes();
    builder.read_labels();
    builder.check_redaction();
    builder.read_rules();
    builder.finish(&files)
}

/// A part of a file that holds labels, detectors, rules and tests: a pack, or what a site adds to one.
struct Part<'a> {
    document: usize,
    /// Whose requests its rules are about; `None` for everybody's.
    tenant: Option<&'a str>,
    owner: &'a str,
    effective: Effective,
    labels: &'a Named<LabelSpec>,
    detectors: &'a Named<DetectorSpec>,
    groups: &'a Named<List<At<String>>>,
    rules: &'a [RuleSpec],
    tests: &'a [At<TestSpec>],
}

struct Builder<'a> {
    documents: Vec<&'a Document>,
    parts: Vec<Part<'a>>,
    site: &'a SiteSpec,
    errors: Vec<(usize, Complaint)>,
    warnings: Vec<(usize, Complaint)>,
    vocabulary: Vocabulary,
    specs: Vec<DetectorSpec>,
    /// Where each detector stands: document, place of its id.
    detector_places: BTreeMap<String, (usize, At<String>)>,
    classes: Vec<Class>,
    labels: Vec<Label>,
    rules: Vec<Rule>,
    rule_tests: Vec<RuleTest>,
}

/// The site stands first among the documents.
const SITE: usize = 0;

impl<'a> Builder<'a> {
    fn new(files: &'a Files) -> Self {
        let (site_document, site) = &files.site;
        let mut documents = vec![site_document];
        documents.extend(files.packs.iter().map(|(document, _)| document));
        documents.extend(files.detectors.iter());
        let mut builder = Builder {
            documents,
            parts: Vec::new(),
            site,
            errors: Vec::new(),
            warnings: Vec::new(),
            vocabulary: Vocabulary::default(),
            specs: Vec::new(),
            detector_places: BTreeMap::new(),
            classes: Vec::new(),
            labels: Vec::new(),
            rules: Vec::new(),
            rule_tests: Vec::new(),
        };
        builder.collect_parts(files);
        builder
    }

    fn collect_parts(&mut self, files: &'a Files) {
        for (index, (_, pack)) in files.packs.iter().enumerate() {
            let tenant = self.tenant_of(index + 1, pack);
            self.parts.push(Part {
                document: index + 1,
                tenant,
                owner: &pack.owner,
                effective: pack.effective,
                labels: &pack.labels,
                detectors: &pack.detectors,
                groups: &pack.groups,
                rules: &pack.rules.0,
                tests: &pack.tests.0,
            });
        }
        for (name, extension) in &self.site.extends.0 {
            let names = || files.packs.iter().map(|(_, pack)| pack.policy.value.as_str());
            if !names().any(|pack| pack == name.value) {
                let message = format!("no pack of this set is called \"{}\"", name.value);
                self.errors.push((SITE, name.complaint(message, suggest(&name.value, names()))));
            }
            self.parts.push(Part {
                document: SITE,
                tenant: None,
                owner: &self.site.owner,
                effective: Effective::default(),
                labels: &extension.labels,
                detectors: &extension.detectors,
                groups: &extension.groups,
                rules: &extension.rules.0,
                tests: &extension.tests.0,
            });
        }
        for (index, (_, pack)) in files.packs.iter().enumerate() {
            if let Some(Err(complaint)) = pack.requires.as_ref().map(check_requires) {
                self.errors.push((index + 1, complaint));
            }
        }
    }

    /// The tenant that a pack belongs to, if the site gives it to one. Such a pack stands by itself:
    /// nothing in it may change what others meet.
    fn tenant_of(&mut self, document: usize, pack: &'a PackSpec) -> Option<&'a str> {
        let source = &self.documents[document].source;
        let owns = |packs: &List<At<String>>| packs.0.iter().any(|p| is_called(source, &p.value));
        let site: &'a SiteSpec = self.site;
        let mut owners = site.tenants.0.iter().filter(|(_, packs)| owns(packs));
        let (tenant, packs) = owners.next()?;
        let second = owners.next().map(|(name, _)| name);
        if let Some(other) = second.or(site.packs.0.iter().find(|p| is_called(source, &p.value))) {
            let message =
                format!("{} is given to the tenant {} already", source.name, tenant.value);
            self.errors.push((SITE, other.complaint(message, None)));
        }
        let place = packs.0.iter().find(|p| is_called(source, &p.value)).unwrap_or(tenant);
        for (has, what) in
            [(!pack.labels.0.is_empty(), "labels"), (!pack.includes.0.is_empty(), "includes")]
        {
            if has {
                let message =
                    format!("a pack of a tenant may not have {what}: they hold for everybody");
                let hint = "give it rules, detectors and groups of its own".to_owned();
                self.errors.push((SITE, place.complaint(message, Some(hint))));
            }
        }
        Some(&tenant.value)
    }

    fn check_versions(&mut self, detector_files: &[DetectorFileSpec]) {
        if let Some(Err(complaint)) = self.site.requires.as_ref().map(check_requires) {
            self.errors.push((SITE, complaint));
        }
        let first = self.documents.len() - detector_files.len();
        for (index, file) in detector_files.iter().enumerate() {
            if let Some(Err(complaint)) = file.requires.as_ref().map(check_requires) {
                self.errors.push((first + index, complaint));
            }
        }
    }

    /// Numbers all detectors first, then fills the groups, so that the order of files does not matter.
    fn read_detectors(&mut self, detector_files: &[DetectorFileSpec]) {
        let first = self.documents.len() - detector_files.len();
        for (index, file) in detector_files.iter().enumerate() {
            self.add_detectors(first + index, &file.detectors);
        }
        for index in 0..self.parts.len() {
            let Part { document, detectors, .. } = self.parts[index];
            let complaints = check_officer_detectors(detectors);
            self.errors.extend(complaints.into_iter().map(|complaint| (document, complaint)));
            self.add_detectors(document, detectors);
        }
        let mut groups: Vec<(usize, &Named<List<At<String>>>)> = Vec::new();
        groups.extend(self.parts.iter().map(|part| (part.document, part.groups)));
        groups.extend(detector_files.iter().enumerate().map(|(i, file)| (first + i, &file.groups)));
        for (name, _) in groups.iter().flat_map(|(_, groups)| &groups.0) {
            self.vocabulary.declare_group(&name.value);
        }
        self.check_tenant_groups(detector_files);
        for (document, groups) in groups {
            groups.0.iter().for_each(|(name, members)| self.fill_group(document, name, members));
        }
    }

    /// A group of a tenant's pack is its own: extending one that others use would change their rules.
    fn check_tenant_groups(&mut self, detector_files: &[DetectorFileSpec]) {
        let parts = self.parts.iter().map(|part| part.groups);
        let all: Vec<_> = parts.chain(detector_files.iter().map(|file| &file.groups)).collect();
        let uses = |name: &str| {
            all.iter().flat_map(|groups| &groups.0).filter(|(other, _)| other.value == name).count()
        };
        let mut complaints = Vec::new();
        for part in self.parts.iter().filter(|part| part.tenant.is_some()) {
            for (name, _) in part.groups.0.iter().filter(|(name, _)| uses(&name.value) > 1) {
                let message = format!("the group \"{}\" is used by others, too", name.value);
                let hint = "a tenant's pack names groups of its own".to_owned();
                complaints.push((part.document, name.complaint(message, Some(hint))));
            }
        }
        self.errors.extend(complaints);
    }

    fn add_detectors(&mut self, document: usize, detectors: &Named<DetectorSpec>) {
        for (id, spec) in &detectors.0 {
            if let Some((other, _)) = self.detector_places.get(&id.value) {
                let file = &self.documents[*other].source.name;
                let message = format!("detector \"{}\" is already defined in {file}", id.value);
                let hint =
                    "choose another name, and add it to the groups of the rules that need it";
                self.errors.push((document, id.complaint(message, Some(hint.to_owned()))));
                continue;
            }
            self.vocabulary.add_detector(&id.value);
            self.detector_places.insert(id.value.clone(), (document, id.clone()));
            let mut spec = spec.clone();
            spec.id = id.value.clone();
            self.specs.push(spec);
        }
    }

    fn fill_group(&mut self, document: usize, name: &At<String>, members: &List<At<String>>) {
        if self.vocabulary.number(&name.value).is_some() {
            let message = format!("\"{}\" is the name of a detector", name.value);
            self.errors.push((document, name.complaint(message, None)));
            return;
        }
        for member in &members.0 {
            match self.vocabulary.number(&member.value) {
                Some(number) => self.vocabulary.extend_group(&name.value, vec![number]),
                None => {
                    let known = self.vocabulary.detectors.iter().map(String::as_str);
                    let message = format!("unknown detector \"{}\"", member.value);
                    let complaint = member.complaint(message, suggest(&member.value, known));
                    self.errors.push((document, complaint));
                }
            }
        }
    }

    fn read_classes(&mut self) {
        for spec in &self.site.classes.0 {
            let ClassSpec { name, title, never_cloud, goes_to } = spec;
            let reserved =
                ["private", "refuse", "none", "strip_and_continue"].contains(&name.value.as_str());
            if reserved || self.classes.iter().any(|class| class.name == name.value) {
                let what = if reserved { "is a word of the language" } else { "is named twice" };
                let message = format!("the class \"{}\" {what}", name.value);
                self.errors.push((SITE, name.complaint(message, None)));
                continue;
            }
            let (name, title) = (name.value.clone(), title.clone());
            self.classes.push(Class {
                name,
                title,
                never_cloud: *never_cloud,
                goes_to: goes_to.clone(),
            });
        }
        if self.classes.is_empty() {
            let message = "classes is empty: name at least one class, lowest first";
            self.errors.push((SITE, self.site.site.complaint(message, None)));
        }
        let lowest = self.classes.iter().position(|class| class.never_cloud);
        for (index, spec) in self.site.classes.0.iter().enumerate() {
            if lowest.is_some_and(|lowest| index > lowest) && !spec.never_cloud {
                let message = format!(
                    "class \"{}\" stands above a never_cloud class and is not never_cloud itself",
                    spec.name.value
                );
                let hint = "add never_cloud: true; a higher class never allows more".to_owned();
                self.errors.push((SITE, spec.name.complaint(message, Some(hint))));
            }
        }
    }

    fn class_of(&mut self, document: usize, name: &At<String>) -> usize {
        let names = || self.classes.iter().map(|class| class.name.as_str());
        if let Some(index) = names().position(|class| class == name.value) {
            return index;
        }
        let message = format!("unknown class \"{}\"", name.value);
        let hint = suggest(&name.value, names());
        self.errors.push((document, name.complaint(message, hint)));
        self.classes.len().saturating_sub(1)
    }

    fn read_labels(&mut self) {
        for index in 0..self.parts.len() {
            let Part { document, labels, .. } = self.parts[index];
            for (name, spec) in &labels.0 {
                let class = self.class_of(document, &spec.class);
                let label = Label {
                    name: name.value.clone(),
                    title: spec.title.clone(),
                    class,
                    never_cloud: spec.never_cloud,
                    goes_to: spec.goes_to.clone(),
                    redact: spec.redact,
                    keep_on_disk: spec.keep_on_disk,
                };
                if self.labels.iter().any(|other| other.name == label.name) {
                    let message = format!("label \"{}\" is defined twice", name.value);
                    let hint =
                        "two packs that mean the same label should include one that defines it";
                    self.errors.push((document, name.complaint(message, Some(hint.to_owned()))));
                }
                self.labels.push(label);
            }
        }
        self.labels.sort_by(|a, b| a.name.cmp(&b.name));
    }

    fn read_exceptions(&mut self) -> Vec<Exception> {
        let mut exceptions = Vec::new();
        for spec in &self.site.exceptions.0 {
            match self.compile_exception(spec) {
                Ok(exception) => exceptions.push(exception),
                Err(complaint) => self.errors.push((SITE, complaint)),
            }
        }
        exceptions
    }

    fn compile_exception(&self, spec: &At<ExceptionSpec>) -> Result<Exception, Complaint> {
        let given = &spec.value;
        let rule = self.rules.iter().position(|rule| rule.id == given.rule.value);
        let rule = rule.ok_or_else(|| {
            let known = self.rules.iter().map(|rule| rule.id.as_str());
            let message = format!("unknown rule \"{}\"", given.rule.value);
            given.rule.complaint(message, suggest(&given.rule.value, known))
        })?;
        if self.rules[rule].floor {
            let message = format!("rule \"{}\" is a floor: it has no exceptions", given.rule.value);
            return Err(given.rule.complaint(message, None));
        }
        let detector = given.detector.as_ref().map(|name| {
            self.vocabulary.number(&name.value).ok_or_else(|| {
                let known = self.vocabulary.detectors.iter().map(String::as_str);
                let message = format!("unknown detector \"{}\"", name.value);
                name.complaint(message, suggest(&name.value, known))
            })
        });
        let when = given.when.as_ref().map(|when| Condition::compile(when, &self.vocabulary));
        let when = when.transpose()?;
        if when.as_ref().is_some_and(Condition::uses_findings) {
            let message = "an exception may look at the caller, not at what was found";
            return Err(
                spec.complaint(message, Some("name the detector: detector: email".to_owned()))
            );
        }
        Ok(Exception {
            id: given.id.value.clone(),
            rule,
            detector: detector.transpose()?,
            when,
            owner: given.owner.clone(),
            reason: given.reason.clone(),
            expires: given.expires,
            line: spec.line,
        })
    }

    fn read_vouches(&mut self) -> Vec<Vouch> {
        let mut vouches = Vec::new();
        for spec in &self.site.vouches.0 {
            match Vouch::compile(spec) {
                Ok(vouch) => vouches.push(vouch),
                Err(complaint) => self.errors.push((SITE, complaint)),
            }
        }
        vouches
    }

    fn read_answers(&mut self) -> Option<answers::Answers> {
        let names: Vec<String> = self.classes.iter().map(|class| class.name.clone()).collect();
        let private = self.classes.iter().position(|class| class.never_cloud);
        let lattice = Lattice { classes: &names, private };
        let Some(given) = &self.site.must_answer else {
            let message = "missing key \"must_answer\": the site answers none of its questions";
            let complaint = self.site.site.complaint(message, Some(answers::whole_example()));
            self.errors.push((SITE, complaint));
            return None;
        };
        match given.value.compile(given, &lattice) {
            Ok(answers) => Some(answers),
            Err(complaints) => {
                self.errors.extend(complaints.into_iter().map(|complaint| (SITE, complaint)));
                None
            }
        }
    }

    fn compile_scanner(&mut self) -> Option<Scanner> {
        match Scanner::new(std::mem::take(&mut self.specs)) {
            Ok(scanner) => Some(scanner),
            Err(errors) => {
                for error in errors {
                    let place = self.detector_places.get(&error.detector);
                    let (document, id) = place.expect("a spec's id was recorded when it was added");
                    let message = format!("{}.{}: {}", error.detector, error.field, error.message);
                    self.errors.push((*document, id.complaint(message, error.hint)));
                }
                None
            }
        }
    }

    fn finish(mut self, files: &Files) -> Result<PolicySet, PolicyError> {
        let exceptions = self.read_exceptions();
        let vouches = self.read_vouches();
        let answers = self.read_answers();
        let latency = match Latency::compile(&self.site.latency) {
            Ok(latency) => Some(latency),
            Err(complaint) => {
                self.errors.push((SITE, complaint));
                None
            }
        };
        let mut site_tests = Vec::new();
        for test in &self.site.tests.0 {
            match SiteTest::compile(test) {
                Ok(test) => site_tests.push(test),
                Err(complaint) => self.errors.push((SITE, complaint)),
            }
        }
        let scanner = self.compile_scanner();
        let (Some(answers), Some(latency), Some(scanner), true) =
            (answers, latency, scanner, self.errors.is_empty())
        else {
            return Err(PolicyError::new(self.place(&self.errors)));
        };
        let scanner = if self.asks_detectors() { scanner } else { scanner.unasked() };
        let sources: Vec<Source> = self.documents.iter().map(|d| d.source.clone()).collect();
        Ok(PolicySet {
            site: self.site.site.value.clone(),
            version: self.site.version.clone(),
            owner: self.site.owner.clone(),
            approvers: self.site.approvers.clone(),
            digest: super::digest(&sources),
            packs: pack_infos(files),
            warnings: self.place(&self.warnings),
            sight: OnceLock::new(),
            tenant_detectors: self.tenant_detectors(),
            classes: self.classes,
            labels: self.labels,
            rules: self.rules,
            exceptions,
            vouches,
            answers,
            latency,
            complexity: self.site.complexity.clone(),
            allow_demo_model: self.site.allow_demo_model,
            restore_in_tools: self.site.redaction.restore_in_tools.0.clone(),
            vocabulary: self.vocabulary,
            scanner,
            rule_tests: self.rule_tests,
            site_tests,
            sources,
        })
    }

    fn place(&self, complaints: &[(usize, Complaint)]) -> Vec<Diagnostic> {
        let mut sorted = complaints.to_vec();
        sorted.sort_by_key(|(document, complaint)| (*document, complaint.line, complaint.column));
        let place = |(document, complaint): (usize, Complaint)| {
            self.documents[document].diagnostic(complaint)
        };
        sorted.into_iter().map(place).collect()
    }
}

impl Builder<'_> {
    /// Whether any rule looks at what detectors find; exceptions cannot.
    fn asks_detectors(&self) -> bool {
        let mut asks = false;
        self.rules.iter().for_each(|rule| rule.when.each_found(&mut |_| asks = true));
        asks
    }

    fn tenant_detectors(&self) -> BTreeMap<String, String> {
        let parts = self.parts.iter().filter_map(|part| Some((part.tenant?, part.detectors)));
        let ids = parts.flat_map(|(tenant, detectors)| {
            detectors.0.iter().map(move |(id, _)| (id.value.clone(), tenant.to_owned()))
        });
        ids.collect()
    }
}

fn pack_infos(files: &Files) -> Vec<PackInfo> {
    let info = |(document, pack): &(Document, PackSpec)| PackInfo {
        name: pack.policy.value.clone(),
        version: pack.version.clone(),
        owner: pack.owner.clone(),
        approvers: pack.approvers.clone(),
        file: document.source.name.clone(),
    };
    let mut packs: Vec<PackInfo> = files.packs.iter().map(info).collect();
    packs.sort_by(|a, b| a.name.cmp(&b.name));
    packs
}
