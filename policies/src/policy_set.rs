//! The active policies: every rule, class, label and vouch, compiled from files whose tests passed.
//!
//! A set is immutable. A new version of any file makes a new set, which replaces the old one only as a
//! whole and only after its own tests passed; the digest over its sources names it in every decision.
//!
//! Not here: reading the files' text (`yaml`), choosing an upstream (`decide`).

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;

use jiff::civil::Date;

use crate::classification::{Classification, Level};
use crate::complexity::ComplexitySpec;
use crate::condition::{Condition, Scene, Vocabulary};
use crate::decision::UpstreamFacts;
use crate::demand::{GoesTo, Standing};
use crate::detector::{Scan, ScanMemory, Scanner};
use crate::error::{Diagnostic, PolicyError};
use crate::evidence::{Finding, Likelihood};
use crate::latency::{Latency, LatencyClass};
use crate::pack::Permission;
use crate::prompt::{ContentKind, Endpoint, Prompt, RequestContext, Unscanned};
use crate::replay::Sight;
use crate::rule::{Rule, RuleMode};
use crate::site::answers::{Answer, Answers, ReplyAnswer};
use crate::site::vouch::{self, AddressRanges, Vouch};
use crate::yaml::Source;

mod build;
pub(crate) mod check;
mod files;
mod verdict;

pub use files::{shipped_pack_names, shipped_sources};
pub use verdict::Verdict;

/// A checked and compiled set of policy files.
pub struct PolicySet {
    pub(crate) site: String,
    pub(crate) version: String,
    pub(crate) owner: String,
    pub(crate) approvers: Vec<String>,
    pub(crate) digest: String,
    pub(crate) packs: Vec<PackInfo>,
    /// Lowest first.
    pub(crate) classes: Vec<Class>,
    pub(crate) labels: Vec<Label>,
    /// Sorted by id.
    pub(crate) rules: Vec<Rule>,
    pub(crate) exceptions: Vec<Exception>,
    pub(crate) vouches: Vec<Vouch>,
    pub(crate) answers: Answers,
    pub(crate) latency: Latency,
    pub(crate) complexity: ComplexitySpec,
    pub(crate) allow_demo_model: bool,
    pub(crate) restore_in_tools: Vec<String>,
    pub(crate) vocabulary: Vocabulary,
    pub(crate) scanner: Scanner,
    pub(crate) rule_tests: Vec<check::RuleTest>,
    pub(crate) site_tests: Vec<check::SiteTest>,
    pub(crate) warnings: Vec<Diagnostic>,
    pub(crate) sources: Vec<Source>,
    /// Detectors that look at the requests of one tenant only.
    pub(crate) tenant_detectors: BTreeMap<String, String>,
    /// What all of this looks at, once somebody asked.
    pub(crate) sight: OnceLock<Sight>,
}

/// A pack of the set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackInfo {
    /// `hipaa`.
    pub name: String,
    /// Its own version.
    pub version: String,
    /// Who owns it.
    pub owner: String,
    /// Who must sign a change.
    pub approvers: Vec<String>,
    /// File that it came from.
    pub file: String,
}

/// A class of the lattice.
#[derive(Clone, Debug)]
pub(crate) struct Class {
    pub(crate) name: String,
    pub(crate) title: Option<String>,
    pub(crate) never_cloud: bool,
    pub(crate) goes_to: GoesTo,
}

/// A label.
#[derive(Clone, Debug)]
pub(crate) struct Label {
    pub(crate) name: String,
    pub(crate) title: Option<String>,
    pub(crate) class: usize,
    pub(crate) never_cloud: bool,
    pub(crate) goes_to: GoesTo,
    pub(crate) redact: Permission,
    pub(crate) keep_on_disk: Permission,
}

/// One rule does not count for some requests until a day.
#[derive(Clone, Debug)]
pub(crate) struct Exception {
    pub(crate) id: String,
    /// Index into the set's rules.
    pub(crate) rule: usize,
    pub(crate) detector: Option<u32>,
    pub(crate) when: Option<Condition>,
    pub(crate) owner: String,
    pub(crate) reason: String,
    pub(crate) expires: Date,
    /// Line in the site file.
    pub(crate) line: u32,
}

impl PolicySet {
    /// The packs and the site file that are compiled into the binary.
    ///
    /// Their tests are not run here: they cannot have changed since the project's own tests ran them.
    pub fn shipped() -> Result<PolicySet, PolicyError> {
        build::build(files::shipped_set()?)
    }

    /// Loads a `site.yaml`, the packs and detector files that it names, and runs their tests.
    ///
    /// Packs are named by shipped name (`hipaa`) or by a path relative to the site file.
    pub fn load_site(path: &Path) -> Result<PolicySet, PolicyError> {
        PolicySet::load_site_untested(path)?.tested()
    }

    /// Like [`PolicySet::load_site`] without the tests, for tools that run and report them.
    pub fn load_site_untested(path: &Path) -> Result<PolicySet, PolicyError> {
        build::build(files::site_from_disk(path)?)
    }

    /// Builds a set from texts and runs its tests.
    ///
    /// At most one source is a site; without one the shipped site's classes and answers hold and the
    /// given packs are its only packs. A site's packs are looked up among the sources by file name,
    /// then among the shipped ones.
    pub fn from_sources(sources: Vec<Source>) -> Result<PolicySet, PolicyError> {
        PolicySet::from_sources_untested(sources)?.tested()
    }

    /// Like [`PolicySet::from_sources`] without the tests.
    pub fn from_sources_untested(sources: Vec<Source>) -> Result<PolicySet, PolicyError> {
        build::build(files::site_from_sources(sources)?)
    }

    /// Builds a set again from all of its [`PolicySet::sources`], and runs its tests.
    ///
    /// Nothing is looked up: no shipped file is added or taken instead of a given one, so that the set is
    /// the one that the files were taken from, with the same digest, under any later version.
    pub fn from_complete_sources(sources: Vec<Source>) -> Result<PolicySet, PolicyError> {
        build::build(files::complete_set(sources)?)?.tested()
    }

    fn tested(self) -> Result<PolicySet, PolicyError> {
        let report = self.run_tests();
        if !report.failed.is_empty() {
            return Err(PolicyError::new(report.diagnostics(&self)));
        }
        match self.prove().counterexamples.first() {
            None => Ok(self),
            Some(counterexample) => {
                let message = format!("never-cloud text could reach a cloud: {counterexample}");
                Err(PolicyError::about_file(&self.sources[0].name, message, None))
            }
        }
    }

    /// SHA-256 over the set's files, hexadecimal: what approvers sign and decisions record.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Name of the organisation or installation, as the site file says.
    pub fn site(&self) -> &str {
        &self.site
    }

    /// Version of the site file.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Who must sign a change of the site file.
    pub fn approvers(&self) -> &[String] {
        &self.approvers
    }

    /// All rules, sorted by id.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The rule of that id.
    pub fn rule(&self, id: &str) -> Option<&Rule> {
        self.rules.binary_search_by(|rule| rule.id.as_str().cmp(id)).ok().map(|at| &self.rules[at])
    }

    /// The packs of the set, in the order of their names.
    pub fn packs(&self) -> &[PackInfo] {
        &self.packs
    }

    /// Names of the classes, lowest first.
    pub fn class_names(&self) -> impl Iterator<Item = &str> {
        self.classes.iter().map(|class| class.name.as_str())
    }

    /// What is unwise but not wrong: a rule without a negative test, a group without members.
    pub fn warnings(&self) -> &[Diagnostic] {
        &self.warnings
    }

    /// The files that the set was built from.
    pub fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// Vouches of the site, whether or not they count today.
    pub fn vouches(&self) -> &[Vouch] {
        &self.vouches
    }

    /// What is done about a reply that holds regulated text.
    pub fn reply_answer(&self) -> ReplyAnswer {
        self.answers.reply_finding
    }

    /// What an upstream has to offer on a day: its vouches, if they agree with its address.
    pub fn standing(&self, upstream: &UpstreamFacts, today: Date) -> Standing {
        vouch::standing(&self.vouches, upstream, today)
    }

    /// Where a connection to an upstream may lead on a day, as its vouches say.
    pub fn address_ranges(&self, upstream: &UpstreamFacts, today: Date) -> AddressRanges {
        vouch::ranges(&self.vouches, upstream, today)
    }

    /// Whether the site orders upstreams by how hard a request looks.
    pub fn orders_by_work(&self) -> bool {
        self.complexity != ComplexitySpec::default()
    }

    /// Whether anything that stands in a text can change what is decided: a rule may look for it, or it is
    /// encoded, cannot be read, and the site wants that to raise a text above the unlabelled ones.
    pub fn minds_texts(&self) -> bool {
        let raises = |kind: &ContentKind| match self.answers.cannot_scan.get(kind) {
            Some(Answer::Class(class)) => *class > self.answers.unlabelled,
            _ => true,
        };
        !self.rules.is_empty() || ContentKind::IN_TEXTS.iter().any(raises)
    }

    /// The latency class of that name, or the default one.
    pub fn latency_class(&self, name: &str) -> &LatencyClass {
        self.latency.named(name)
    }

    /// Engine checkpoints of a request of this class with these labels may be written to disk: every label
    /// allows it, and a class that never goes to a cloud is there because of one of them.
    pub fn keeps_on_disk(&self, class: &str, labels: &[String]) -> bool {
        let allowed = |label: &Label| label.keep_on_disk == Permission::Allowed;
        let all_allow = labels.iter().all(|name| self.label(name).is_some_and(allowed));
        let Some(class) = self.class_index(class) else { return false };
        let reached = |name: &String| self.label(name).is_some_and(|label| label.class >= class);
        all_allow && (!self.classes[class].never_cloud || labels.iter().any(reached))
    }

    /// The findings that placeholders may stand for: values (not words of dictionaries, not whole
    /// passages) that the redacting rules of a classification asked for.
    pub fn redacted_findings<'c>(&self, classification: &'c Classification) -> Vec<&'c Finding> {
        let mut findings = self.asked_for(classification, |rule| rule.redact);
        findings.retain(|finding| self.finds_values(&finding.detector));
        findings
    }

    /// The findings that rules asked for which keep a text from every cloud. What else was found, such
    /// as a name that no rule minds, is no reason to remember a text.
    pub fn never_cloud_findings<'c>(&self, classification: &'c Classification) -> Vec<&'c Finding> {
        self.asked_for(classification, |rule| self.is_never_cloud(&join_rules(0, &[rule])))
    }

    /// The findings that some of the rules that matched look for, as sure as they want them.
    fn asked_for<'c>(
        &self,
        classification: &'c Classification,
        counts: impl Fn(&Rule) -> bool,
    ) -> Vec<&'c Finding> {
        let mut least: BTreeMap<&str, Likelihood> = BTreeMap::new();
        let matched = classification.rules.iter().filter_map(|id| self.rule(id));
        for rule in matched.filter(|rule| counts(rule)) {
            rule.when.each_found(&mut |found| {
                let at_least = found.at_least;
                for &number in found.detectors.iter().filter(|_| !found.negated) {
                    let id = self.vocabulary.detectors[number as usize].as_str();
                    let known = least.entry(id).or_insert(at_least);
                    *known = (*known).min(at_least);
                }
            });
        }
        let wanted = |finding: &&Finding| {
            least.get(finding.detector.as_str()).is_some_and(|least| finding.likelihood >= *least)
        };
        classification.findings.iter().filter(wanted).collect()
    }

    /// The detectors of all files.
    pub fn scanner(&self) -> &Scanner {
        &self.scanner
    }

    /// What a detector finds is a value, such as a number or a name, and not what a text is about.
    pub fn finds_values(&self, detector: &str) -> bool {
        self.scanner.finds_values(detector)
    }

    /// Tools that get the values that placeholders stand for.
    pub fn restore_in_tools(&self) -> &[String] {
        &self.restore_in_tools
    }

    pub(crate) fn label(&self, name: &str) -> Option<&Label> {
        self.labels.iter().find(|label| label.name == name)
    }

    pub(crate) fn class_index(&self, name: &str) -> Option<usize> {
        self.classes.iter().position(|class| class.name == name)
    }

    /// Lowest class that never goes to a cloud; the highest class where there is none.
    pub(crate) fn private_class(&self) -> usize {
        let lowest = self.classes.iter().position(|class| class.never_cloud);
        lowest.unwrap_or(self.classes.len() - 1)
    }

    /// Scans a prompt and evaluates every rule.
    pub fn classify(&self, prompt: &Prompt) -> Classification {
        self.classify_scan(prompt, self.scanner.scan(prompt))
    }

    /// Like [`PolicySet::classify`], with results of earlier scans: the turns of a conversation that
    /// came before are not scanned again.
    pub fn classify_with(&self, prompt: &Prompt, memory: ScanMemory<'_>) -> Classification {
        self.classify_scan(prompt, self.scanner.scan_with(prompt, &self.digest, Some(memory)))
    }

    /// Like [`PolicySet::classify`], without a look at the texts, for who keeps no record of what they hold.
    ///
    /// The decision is the same where nobody [minds them](PolicySet::minds_texts).
    pub fn classify_unread(&self, prompt: &Prompt) -> Classification {
        self.classify_scan(prompt, Scan::default())
    }

    fn classify_scan(&self, prompt: &Prompt, mut scan: Scan) -> Classification {
        scan.findings.retain(|finding| {
            let tenant = self.tenant_detectors.get(&finding.detector);
            tenant.is_none_or(|tenant| *tenant == prompt.context.tenant)
        });
        let mut unscanned = prompt.unscanned.clone();
        unscanned.extend(scan.unscanned.iter().cloned());
        let number = |id: &str| self.vocabulary.number(id);
        let scene = Scene::new(prompt, &unscanned, &scan.findings, number);
        let state = ScanState { incomplete: scan.incomplete, failed: !scan.failed.is_empty() };
        self.classify_scene(&scene, state, scan.findings)
    }

    /// Evaluates every rule over what was found.
    pub(crate) fn classify_scene(
        &self,
        scene: &Scene<'_>,
        state: ScanState,
        findings: Vec<Finding>,
    ) -> Classification {
        let mut base = Base { class: self.answers.unlabelled, ..Base::default() };
        self.raise_for_context(scene.context, &mut base);
        self.raise_for_unscanned(scene.unscanned, &mut base);
        if state.incomplete {
            let why = "not all of the text could be scanned";
            self.apply(self.answers.scan_incomplete, why, &mut base);
        }
        if state.failed {
            self.apply(self.answers.detector_failed, "a detector failed", &mut base);
        }
        let matched = self.match_rules(scene);
        Classification {
            scan_incomplete: state.incomplete,
            detector_failed: state.failed,
            ..self.conclude(scene, base, matched, findings)
        }
    }

    fn raise_for_context(&self, context: &RequestContext, base: &mut Base) {
        if context.caller.is_none() {
            self.apply(self.answers.caller_unknown, "the caller is unknown", base);
        }
        let Some(asked) = &context.class else { return };
        let known = self.classes.iter().position(|class| class.name.eq_ignore_ascii_case(asked));
        let (class, why) = match known {
            Some(class) => (class, "the client asks for this class"),
            None => {
                (self.private_class(), "the client asks for a class that the site does not know")
            }
        };
        self.apply(Answer::Class(class), why, base);
    }

    fn raise_for_unscanned(&self, unscanned: &[Unscanned], base: &mut Base) {
        for content in unscanned {
            let answer = self.answers.cannot_scan.get(&content.kind).copied();
            let why = format!("{} content cannot be scanned", content.kind.in_words());
            match answer.unwrap_or(Answer::Refuse) {
                Answer::StripAndContinue => base.strip.push(content.place.clone()),
                answer => self.apply(answer, &why, base),
            }
        }
    }

    fn apply(&self, answer: Answer, why: &str, base: &mut Base) {
        match answer {
            Answer::Class(class) if class > base.class => {
                base.class = class;
                base.reason = Some(why.to_owned());
            }
            Answer::Class(_) | Answer::StripAndContinue => (),
            Answer::Refuse => base.refuse = base.refuse.take().or_else(|| Some(why.to_owned())),
        }
    }

    fn match_rules(&self, scene: &Scene<'_>) -> Vec<Match<'_>> {
        let mut matched = Vec::new();
        for (index, rule) in self.rules.iter().enumerate() {
            let is_others = rule.tenant.as_ref().is_some_and(|t| *t != scene.context.tenant);
            if is_others || scene.hits.is_empty() && rule.needs_findings || !rule.when.holds(scene)
            {
                continue;
            }
            let exceptions = self
                .exceptions
                .iter()
                .filter(|exception| exception.rule == index && exception.speaks_for(rule, scene));
            matched.push(Match { rule, exceptions: exceptions.map(|e| e.id.as_str()).collect() });
        }
        matched
    }

    fn conclude(
        &self,
        scene: &Scene<'_>,
        base: Base,
        matched: Vec<Match<'_>>,
        findings: Vec<Finding>,
    ) -> Classification {
        let enforced: Vec<&Rule> =
            matched.iter().map(|m| m.rule).filter(|rule| rule.mode == RuleMode::Enforce).collect();
        let level = join_rules(base.class, &enforced);
        let raised_by = raised_by(&level, self.answers.unlabelled, &enforced);
        let ids = |rules: Vec<&Rule>| rules.into_iter().map(|rule| rule.id.clone()).collect();
        let shadows: Vec<&Rule> =
            matched.iter().map(|m| m.rule).filter(|rule| rule.mode == RuleMode::Shadow).collect();
        let excepted = matched
            .iter()
            .flat_map(|m| m.exceptions.iter().map(|id| (m.rule.id.clone(), (*id).to_owned())));
        Classification {
            class: self.classes[level.class].name.clone(),
            latency: self.latency.of(scene.context).name.clone(),
            reason: self.reason(&level, base.reason.as_deref(), &raised_by),
            excepted: excepted.collect(),
            rules: ids(enforced),
            raised_by: ids(raised_by),
            shadow_rules: ids(shadows),
            findings,
            redactable: scene.unscanned.is_empty()
                && Endpoint::of(&scene.context.path) != Some(Endpoint::Embeddings),
            unscanned: scene.unscanned.to_vec(),
            refuse: base.refuse,
            strip: base.strip,
            never_cloud: self.is_never_cloud(&level),
            base_class: self.classes[base.class].name.clone(),
            base_reason: base.reason,
            labels: level.labels,
            scan_incomplete: false,
            detector_failed: false,
        }
    }

    /// The class or one of the labels says that the text never goes to a cloud.
    pub(crate) fn is_never_cloud(&self, level: &Level) -> bool {
        self.classes[level.class].never_cloud
            || level
                .labels
                .iter()
                .any(|name| self.label(name).is_none_or(|label| label.never_cloud))
    }

    /// One sentence: which class, because of what.
    pub(crate) fn reason(&self, level: &Level, base: Option<&str>, raised_by: &[&Rule]) -> String {
        let class = &self.classes[level.class].name;
        match (raised_by, base) {
            ([], Some(why)) => format!("class {class}: {why}"),
            ([], None) => format!("class {class}: no rule asks for more"),
            (rules, _) => {
                let ids: Vec<&str> = rules.iter().map(|rule| rule.id.as_str()).collect();
                format!("class {class} by {}: {}", ids.join(", "), rules[0].because)
            }
        }
    }
}

/// SHA-256 over the names and texts of all files of a set, in the order of their names, hexadecimal: the
/// [`PolicySet::digest`] of the set that is built from them.
///
/// Line ends count as `\n`, so that a checkout on Windows has the same digest.
pub fn digest(sources: &[Source]) -> String {
    let mut files: Vec<(&str, String)> =
        sources.iter().map(|s| (s.name.as_str(), s.text.replace("\r\n", "\n"))).collect();
    files.sort();
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    for (name, text) in files {
        context.update(&(name.len() as u64).to_be_bytes());
        context.update(name.as_bytes());
        context.update(&(text.len() as u64).to_be_bytes());
        context.update(text.as_bytes());
    }
    context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// How a scan went.
#[derive(Clone, Copy)]
pub(crate) struct ScanState {
    /// Not all of the text could be scanned.
    pub(crate) incomplete: bool,
    /// A detector failed.
    pub(crate) failed: bool,
}

/// What holds before any rule.
#[derive(Default)]
struct Base {
    class: usize,
    reason: Option<String>,
    refuse: Option<String>,
    strip: Vec<String>,
}

/// A rule whose condition holds, and the exceptions that speak for the request.
struct Match<'a> {
    rule: &'a Rule,
    exceptions: Vec<&'a str>,
}

impl Exception {
    fn speaks_for(&self, rule: &Rule, scene: &Scene<'_>) -> bool {
        let meant = self.when.as_ref().is_none_or(|when| when.holds(scene));
        meant && self.detector.is_none_or(|_| !rule.when.holds(&scene.without(self.detector)))
    }
}

/// The level that a base class and rules reach together.
pub(crate) fn join_rules(base: usize, rules: &[&Rule]) -> Level {
    rules.iter().fold(Level { class: base, ..Level::default() }, |mut level, rule| {
        level.raise(rule.class, rule.labels.iter());
        level
    })
}

/// The rules that raised to the final class; none if unlabelled text is in that class too.
pub(crate) fn raised_by<'a>(level: &Level, unlabelled: usize, rules: &[&'a Rule]) -> Vec<&'a Rule> {
    let raised = |rule: &&&Rule| level.class > unlabelled && rule.class == level.class;
    rules.iter().filter(raised).copied().collect()
}
