//! Runs the tests that policy files carry: of rules in packs, of destinations in the site.
//!
//! A set whose tests fail is never activated. A case that is known to fail (`known_gap`) is counted
//! apart, so that gaps stay visible, and is reported once it begins to pass.

use std::collections::{BTreeMap, BTreeSet};

use jiff::civil::Date;
use serde::Serialize;

use super::PolicySet;
use crate::classification::Classification;
use crate::condition::Scene;
use crate::decision::{Decision, Facts, Mode, Quality, RequestFacts, Route, UpstreamFacts};
use crate::error::Diagnostic;
use crate::prompt::{Prompt, RequestContext, Role, Text, Unscanned};
use crate::rule::{Expect, Given, TestSpec};
use crate::site::{GivenFacts, SiteTestSpec};
use crate::yaml::{At, Complaint};

/// The day of destination tests that name none.
pub(super) const TEST_DAY: Date = Date::constant(2026, 12, 1);

/// Outcome of all tests of a set.
#[derive(Clone, Debug, Default, Serialize)]
pub struct TestReport {
    /// Cases that did what they should.
    pub passed: usize,
    /// Cases that did not.
    pub failed: Vec<TestFailure>,
    /// Cases that fail and are known to.
    pub known_gaps: usize,
    /// Cases marked as known gaps that pass: the mark can go.
    pub closed_gaps: Vec<TestFailure>,
    /// Rules that at least one passing case matched.
    pub rules_covered: usize,
    /// Rules of the set.
    pub rules_total: usize,
    /// Ids of the rules that no passing case matched.
    pub rules_uncovered: Vec<String>,
    /// Alternatives of rules (arms of `any_of`) that at least one passing case took.
    pub branches_covered: usize,
    /// Alternatives of all rules.
    pub branches_total: usize,
    /// The alternatives that no passing case took.
    pub branches_uncovered: Vec<Branch>,
    /// Every case in the order of the files.
    #[serde(skip)]
    pub cases: Vec<TestCase>,
}

/// One alternative of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Branch {
    /// Id of the rule.
    pub rule: String,
    /// The alternative in English.
    pub words: String,
}

/// Which clauses of each rule held in some passing case, by the rule's id.
type Taken = BTreeMap<String, Vec<bool>>;

/// One case and how it went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestCase {
    /// File of the test.
    pub file: String,
    /// Line of the test.
    pub line: u32,
    /// Rule under test; `None` for destination tests.
    pub rule: Option<String>,
    /// Which case of the test, from 1.
    pub number: usize,
    /// How it went.
    pub result: CaseResult,
}

/// How a case went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CaseResult {
    /// As expected.
    Pass,
    /// Otherwise: how.
    Fail(String),
    /// Otherwise, which is known: how.
    KnownGap(String),
    /// As expected, though it is marked as a known gap.
    ClosedGap,
}

/// A case that did not do what it should; its text stays in the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TestFailure {
    /// File of the test.
    pub file: String,
    /// Line of the test.
    pub line: u32,
    /// Rule under test; `None` for destination tests.
    pub rule: Option<String>,
    /// What happened instead.
    pub message: String,
    #[serde(skip)]
    column: u32,
}

/// A compiled test of a rule: several cases with one expectation.
#[derive(Clone, Debug)]
pub(crate) struct RuleTest {
    pub(super) document: usize,
    pub(super) line: u32,
    column: u32,
    pub(crate) rule: String,
    pub(crate) expect: Expect,
    known_gap: Option<String>,
    pub(super) given: Given,
    /// Messages of each case.
    pub(super) cases: Vec<Vec<String>>,
}

/// A compiled destination test.
#[derive(Clone, Debug)]
pub(crate) struct SiteTest {
    pub(super) line: u32,
    column: u32,
    pub(super) spec: SiteTestSpec,
    expect: Route,
    pub(super) today: Date,
    pub(super) cases: Vec<Vec<String>>,
}

impl RuleTest {
    pub(crate) fn compile(
        test: &At<TestSpec>,
        document: usize,
        rule: String,
    ) -> Result<RuleTest, Complaint> {
        let spec = &test.value;
        let hint = || Some("write expect: match or expect: no_match".to_owned());
        let expect =
            spec.expect.ok_or_else(|| test.complaint("the test expects nothing", hint()))?;
        if spec.rule.as_ref().is_some_and(|named| named.value != rule) {
            return Err(
                test.complaint(format!("the test stands in {rule} and names another"), None)
            );
        }
        Ok(RuleTest {
            document,
            line: test.line,
            column: test.column,
            rule,
            expect: expect.value,
            known_gap: spec.known_gap.clone(),
            given: spec.given.clone(),
            cases: cases(&spec.say, &spec.say_each, &spec.each_of)
                .map_err(|message| test.complaint(message, None))?,
        })
    }

    /// The case is known to fail.
    pub(crate) fn is_gap(&self) -> bool {
        self.known_gap.is_some()
    }
}

impl SiteTest {
    pub(crate) fn compile(test: &At<SiteTestSpec>) -> Result<SiteTest, Complaint> {
        let spec = &test.value;
        let hint = || Some("write expect: edge, on_prem, cloud or refuse".to_owned());
        let expect =
            spec.expect.ok_or_else(|| test.complaint("the test expects nothing", hint()))?;
        let today = spec.facts.today.as_ref().map_or(Ok(TEST_DAY), |day| {
            day.parse().map_err(|_| {
                test.complaint(format!("expected a date such as 2026-12-01, got \"{day}\""), None)
            })
        })?;
        Ok(SiteTest {
            line: test.line,
            column: test.column,
            spec: spec.clone(),
            expect,
            today,
            cases: cases(&spec.say, &spec.say_each, &spec.each_of)
                .map_err(|message| test.complaint(message, None))?,
        })
    }
}

/// The messages of each case: one of the three ways to write them.
fn cases(
    say: &Option<String>,
    say_each: &Option<Vec<String>>,
    each_of: &Option<Vec<String>>,
) -> Result<Vec<Vec<String>>, &'static str> {
    match (say, say_each, each_of) {
        (Some(text), None, None) => Ok(vec![vec![text.clone()]]),
        (None, Some(turns), None) if !turns.is_empty() => Ok(vec![turns.clone()]),
        (None, None, Some(texts)) if !texts.is_empty() => {
            Ok(texts.iter().map(|text| vec![text.clone()]).collect())
        }
        _ => Err("a test says one of say: TEXT, say_each: [TURN, TURN], each_of: [CASE, CASE]"),
    }
}

/// The request that a case describes.
pub(super) fn prompt(given: &Given, turns: &[String]) -> Prompt {
    let texts = turns.iter().enumerate().map(|(index, text)| Text {
        place: format!("messages[{index}].content"),
        message: Some(index),
        role: Role::User,
        text: text.clone(),
    });
    let unscanned = given
        .content
        .0
        .iter()
        .map(|&kind| Unscanned { kind, place: format!("messages[{}].content", turns.len()) });
    let headers = given.header.iter().map(|(name, value)| (name.to_lowercase(), value.clone()));
    Prompt {
        texts: texts.collect(),
        unscanned: unscanned.collect(),
        context: RequestContext {
            headers: headers.collect(),
            tags: given.tag.0.iter().cloned().collect(),
            key_tags: given.key_tag.0.iter().cloned().collect(),
            class: given.class.clone(),
            latency: given.latency.clone(),
            model: given.model.clone().unwrap_or_default(),
            path: given.path.clone().unwrap_or_else(|| "/v1/chat/completions".to_owned()),
            caller: given.caller.clone(),
            tenant: given.tenant.clone().unwrap_or_default(),
        },
    }
}

impl PolicySet {
    /// Runs every test of the set's files.
    pub fn run_tests(&self) -> TestReport {
        let mut report = TestReport { rules_total: self.rules.len(), ..TestReport::default() };
        let (mut covered, mut taken) = (BTreeSet::new(), Taken::new());
        for test in &self.rule_tests {
            self.run_rule_test(test, &mut report, &mut covered, &mut taken);
        }
        for test in &self.site_tests {
            self.run_site_test(test, &mut report);
        }
        let ids = self.rules.iter().map(|rule| rule.id.clone());
        report.rules_uncovered = ids.filter(|id| !covered.contains(id)).collect();
        report.rules_covered = report.rules_total - report.rules_uncovered.len();
        self.count_branches(&taken, &mut report);
        report
    }

    fn count_branches(&self, taken: &Taken, report: &mut TestReport) {
        for rule in &self.rules {
            let clauses = rule.when.alternatives();
            report.branches_total += clauses.len();
            let taken = taken.get(&rule.id);
            let open = clauses.iter().filter(|(clause, _)| !taken.is_some_and(|t| t[*clause]));
            report.branches_uncovered.extend(
                open.map(|(_, words)| Branch { rule: rule.id.clone(), words: words.clone() }),
            );
        }
        report.branches_covered = report.branches_total - report.branches_uncovered.len();
    }

    /// Notes which clauses of a rule held.
    fn note_clauses(
        &self,
        rule: &str,
        prompt: &Prompt,
        classification: &Classification,
        taken: &mut Taken,
    ) {
        let Some(rule) = self.rules.iter().find(|known| known.id == rule) else { return };
        let Classification { unscanned, findings, .. } = classification;
        let scene = Scene::new(prompt, unscanned, findings, |id| self.vocabulary.number(id));
        let clauses = rule.when.clauses(&scene);
        let known = taken.entry(rule.id.clone()).or_insert_with(|| vec![false; clauses.len()]);
        known.iter_mut().zip(&clauses).for_each(|(known, clause)| *known |= clause.held);
    }

    fn run_rule_test(
        &self,
        test: &RuleTest,
        report: &mut TestReport,
        covered: &mut BTreeSet<String>,
        taken: &mut Taken,
    ) {
        for (index, turns) in test.cases.iter().enumerate() {
            let prompt = prompt(&test.given, turns);
            let classification = self.classify(&prompt);
            let matched = classification.rules.contains(&test.rule)
                || classification.shadow_rules.contains(&test.rule);
            let held = matched == (test.expect == Expect::Match);
            if held && !test.is_gap() && test.expect == Expect::Match {
                self.note_clauses(&test.rule, &prompt, &classification, taken);
            }
            if held && !test.is_gap() {
                covered.extend(classification.rules);
                covered.extend(classification.shadow_rules);
            }
            let found = findings_in_words(&classification.findings);
            let message = match test.expect {
                Expect::Match => format!("expected a match, got none; found: {found}"),
                Expect::NoMatch => format!("expected no match, got one; found: {found}"),
            };
            let failure = TestFailure {
                file: self.sources[test.document].name.clone(),
                line: test.line,
                column: test.column,
                rule: Some(test.rule.clone()),
                message: format!("{}{message}", case_in_words(index, test.cases.len())),
            };
            report.count(held, test.is_gap(), index, failure);
        }
    }

    fn run_site_test(&self, test: &SiteTest, report: &mut TestReport) {
        for (index, turns) in test.cases.iter().enumerate() {
            let mut facts = self.test_facts(&test.spec.facts, test.today);
            let prompt = prompt(&test.spec.given, turns);
            facts.request = RequestFacts::of(&prompt);
            let classification = self.classify(&prompt);
            let decision = self.decide(&classification, &facts);
            let complaint = site_complaint(test, &decision);
            let failure = TestFailure {
                file: self.sources[0].name.clone(),
                line: test.line,
                column: test.column,
                rule: None,
                message: format!(
                    "{}{}",
                    case_in_words(index, test.cases.len()),
                    complaint.clone().unwrap_or_default()
                ),
            };
            report.count(complaint.is_none(), test.spec.known_gap.is_some(), index, failure);
        }
    }

    /// Every vouched upstream, the edge and one cloud without a vouch, changed as a test says.
    pub(super) fn test_facts(&self, given: &GivenFacts, today: Date) -> Facts {
        let edge = UpstreamFacts {
            healthy: !given.edge_down,
            quality: Some(given.edge_quality.unwrap_or(Quality::Demo)),
            first_token_ms: given.edge_first_token.map(|wait| wait.0),
            ..UpstreamFacts::edge("edge")
        };
        let network = |id: &str, scheme: &str, host: &str, port: u16, healthy: bool| {
            UpstreamFacts { healthy, ..UpstreamFacts::server(id, scheme, host, port) }
        };
        let vouched = self.vouches.iter().filter_map(|vouch| {
            let address = vouch.address.as_ref()?;
            let is_cloud = vouch.standing.zone == crate::decision::Zone::Cloud;
            let healthy = !(is_cloud && given.cloud_down);
            Some(network(&vouch.upstream, &address.scheme, &address.host, address.port, healthy))
        });
        let mut upstreams = vec![edge];
        upstreams.extend(vouched);
        upstreams.push(network("assumed-cloud", "https", "cloud.invalid", 443, !given.cloud_down));
        Facts {
            today,
            mode: if given.production { Mode::Production } else { Mode::Trial },
            offline: given.offline.then(|| "declared by the test".to_owned()),
            audit_writable: !given.audit_down,
            tainted: given.tainted,
            taint_unknown: given.taint_unknown,
            request: RequestFacts::default(),
            upstreams,
        }
    }
}

fn site_complaint(test: &SiteTest, decision: &Decision) -> Option<String> {
    let route = |route: Route| format!("{route:?}").to_lowercase();
    if decision.route != test.expect {
        let expected = route(test.expect);
        return Some(format!(
            "expected {expected}, got {}: {}",
            route(decision.route),
            decision.reason
        ));
    }
    if let Some(class) = test.spec.class.as_ref().filter(|class| **class != decision.class) {
        return Some(format!(
            "expected class {class}, got {}: {}",
            decision.class, decision.reason
        ));
    }
    if let Some(expected) = test.spec.redacted.filter(|expected| *expected != decision.redact) {
        let (wanted, got) = match expected {
            true => ("placeholders in it", "none"),
            false => ("no placeholders in it", "some"),
        };
        return Some(format!("expected {wanted}, got {got}: {}", decision.reason));
    }
    let mut missing = test.spec.label.0.iter().filter(|label| !decision.labels.contains(label));
    missing
        .next()
        .map(|label| format!("expected the label {label}, got [{}]", decision.labels.join(", ")))
}

fn case_in_words(index: usize, count: usize) -> String {
    if count > 1 { format!("case {} of {count}: ", index + 1) } else { String::new() }
}

fn findings_in_words(findings: &[crate::evidence::Finding]) -> String {
    let names: BTreeSet<String> =
        findings.iter().map(|f| format!("{} ({})", f.detector, f.likelihood.in_words())).collect();
    match names.is_empty() {
        true => "nothing".to_owned(),
        false => names.into_iter().collect::<Vec<_>>().join(", "),
    }
}

impl TestReport {
    fn count(&mut self, held: bool, is_gap: bool, index: usize, failure: TestFailure) {
        let TestFailure { file, line, rule, message, .. } = failure.clone();
        let result = match (held, is_gap) {
            (true, false) => CaseResult::Pass,
            (false, false) => CaseResult::Fail(message),
            (false, true) => CaseResult::KnownGap(message),
            (true, true) => CaseResult::ClosedGap,
        };
        self.cases.push(TestCase { file, line, rule, number: index + 1, result });
        match (held, is_gap) {
            (true, false) => self.passed += 1,
            (false, false) => self.failed.push(failure),
            (false, true) => self.known_gaps += 1,
            (true, true) => {
                let message = "the known gap is closed: take the mark away".to_owned();
                self.closed_gaps.push(TestFailure { message, ..failure });
            }
        }
    }

    /// The failures as diagnostics that point into the files.
    pub(crate) fn diagnostics(&self, set: &PolicySet) -> Vec<Diagnostic> {
        let hint =
            "a set whose tests fail is not activated; change the rule, or the test if it is wrong";
        let line_of = |failure: &TestFailure| {
            let source = set.sources.iter().find(|source| source.name == failure.file)?;
            source.text.lines().nth(failure.line as usize - 1)
        };
        let diagnostic = |failure: &TestFailure| Diagnostic {
            file: failure.file.clone(),
            line: failure.line,
            column: failure.column,
            path: failure.rule.clone().unwrap_or_default(),
            message: format!("the test fails: {}", failure.message),
            source_line: line_of(failure).unwrap_or_default().to_owned(),
            hint: Some(hint.to_owned()),
        };
        self.failed.iter().map(diagnostic).collect()
    }
}
