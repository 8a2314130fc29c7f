//! `sluice policy`: work on policy files before they are served.

mod activation;
mod diff;
mod junit;
mod report;
mod simulate;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Subcommand;
use serde::Serialize;
use serde::de::IgnoredAny;
use sluice_policies::{Branch, FileSchema, PolicySet, Proof, Source, TestFailure, TestReport};

use super::{Failure, OrUsage, Outcome, Status, out};

/// What to do with policy files.
#[derive(Subcommand, Debug)]
pub(super) enum Verb {
    /// Run the tests that stand in the policy files
    Test(TestArgs),
    /// Print the whole set as numbered English sentences, with the digest that approvers sign
    Read(ReadArgs),
    /// Find what is unwise, and prove that never-cloud text reaches no cloud
    Lint(LintArgs),
    /// Say in words why a text would go where it would: what was found, which clause held, what would have changed it
    Explain(super::decide::Args),
    /// Measure how well a labelled corpus is sorted: recall and false alarms, by kind, language and label
    Report(report::Args),
    /// Say what changed between two sets, which of it loosens, and which texts of a corpus would move; exit status 1 if anything loosens
    Diff(diff::DiffArgs),
    /// Decide the requests of an audit log again by another set, and say what would have differed; exit status 1 if anything loosens
    Simulate(simulate::SimulateArgs),
    /// Print the JSON Schema of a kind of policy file, for editors
    Schema(SchemaArgs),
    /// Say what a set would loosen that is in force at a gateway, and accept it; exit status 1 if it is held
    Activate(activation::ActivateArgs),
    /// Sign, as an approver, that a set may follow the one in force
    Sign(activation::SignArgs),
    /// Make a key pair for approvals or bundles; prints the public half
    Key(activation::KeyArgs),
    /// Pack a whole set into one signed file
    Bundle(activation::BundleArgs),
}

/// Flags of `sluice policy schema`.
#[derive(clap::Args, Debug)]
pub(super) struct SchemaArgs {
    /// Which kind of file
    #[arg(value_enum)]
    kind: Kind,
}

/// Kinds of policy files.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Kind {
    /// packs/*.yaml
    Pack,
    /// site.yaml
    Site,
    /// detectors/*.yaml
    Detectors,
}

/// Flags of `sluice policy read`.
#[derive(clap::Args, Debug)]
pub(super) struct ReadArgs {
    /// A site.yaml or its folder, or a single pack; default: the policies in the binary
    #[arg(value_name = "PATH")]
    path: Option<PathBuf>,
}

/// Flags of `sluice policy lint`.
#[derive(clap::Args, Debug)]
pub(super) struct LintArgs {
    /// A site.yaml or its folder, or a single pack; default: the policies in the binary
    #[arg(value_name = "PATH")]
    path: Option<PathBuf>,
    /// Print one JSON document: unwise, decisions, counterexamples
    #[arg(long)]
    json: bool,
}

/// Flags of `sluice policy test`.
#[derive(clap::Args, Debug)]
pub(super) struct TestArgs {
    /// A site.yaml or its folder, or a single pack; default: the policies in the binary
    #[arg(value_name = "PATH")]
    path: Option<PathBuf>,
    /// Print one JSON document: passed, failed, known_gaps, coverage, failures
    #[arg(long)]
    json: bool,
    /// Also write every case to this file, as JUnit XML for build servers
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
}

/// Runs the verb.
pub(super) fn run(verb: &Verb) -> Outcome {
    match verb {
        Verb::Test(args) => test(args),
        Verb::Read(args) => read(args),
        Verb::Lint(args) => lint(args),
        Verb::Explain(args) => super::decide::run(args),
        Verb::Report(args) => report::run(args),
        Verb::Diff(args) => diff::run(args),
        Verb::Simulate(args) => simulate::run(args),
        Verb::Schema(args) => schema(args.kind),
        Verb::Activate(args) => activation::activate(args),
        Verb::Sign(args) => activation::sign(args),
        Verb::Key(args) => activation::key(args),
        Verb::Bundle(args) => activation::bundle(args),
    }
}

/// The site at `path`, or the shipped policies, ready to decide: their tests have passed.
pub(super) fn load_site(path: Option<&Path>) -> Result<PolicySet, Failure> {
    match path {
        Some(path) => PolicySet::load_site(&site_file(path)).or_usage(),
        None => PolicySet::shipped().or_usage(),
    }
}

/// A folder of policies is named by its site file.
pub(super) fn site_file(path: &Path) -> PathBuf {
    if path.is_dir() { path.join("site.yaml") } else { path.to_owned() }
}

fn schema(kind: Kind) -> Outcome {
    let schema = match kind {
        Kind::Pack => FileSchema::Pack,
        Kind::Site => FileSchema::Site,
        Kind::Detectors => FileSchema::Detectors,
    };
    out::piece(&schema.json())?;
    Ok(Status::Done)
}

fn read(args: &ReadArgs) -> Outcome {
    out::piece(&load_untested(args.path.as_deref())?.read())?;
    Ok(Status::Done)
}

// === sluice policy lint ===

/// What `--json` prints.
#[derive(Serialize)]
struct Lint {
    /// Each as `file:line:column: …` with its source line.
    unwise: Vec<String>,
    /// Decisions that were tried for the proof.
    decisions: usize,
    /// Facts under which never-cloud text would reach a cloud.
    counterexamples: Vec<String>,
}

fn lint(args: &LintArgs) -> Outcome {
    let set = load_untested(args.path.as_deref())?;
    let Proof { decisions, counterexamples } = set.prove();
    let unwise = set.lint(super::today()).iter().map(ToString::to_string).collect();
    let found = Lint { unwise, decisions, counterexamples };
    if args.json {
        out::json(&found)?
    } else {
        print_lint(&found)?
    }
    let clean = found.unwise.is_empty() && found.counterexamples.is_empty();
    Ok(if clean { Status::Done } else { Status::Finding })
}

fn print_lint(found: &Lint) -> std::io::Result<()> {
    for unwise in &found.unwise {
        out::line(format_args!("{}\n", unwise.trim_end()))?;
    }
    for counterexample in &found.counterexamples {
        out::line(format_args!("broken  {counterexample}"))?;
    }
    let proof = if found.counterexamples.is_empty() { "none" } else { "some" };
    out::line(format_args!("{} unwise", found.unwise.len()))?;
    out::line(format_args!(
        "{} decisions tried: {proof} lets never-cloud text reach a cloud",
        found.decisions
    ))
}

// === sluice policy test ===

/// What `--json` prints.
#[derive(Serialize)]
struct Summary<'a> {
    passed: usize,
    failed: usize,
    known_gaps: usize,
    coverage: Coverage<'a>,
    failures: &'a [TestFailure],
    /// Cases marked as known gaps that pass now.
    closed_gaps: &'a [TestFailure],
}

#[derive(Serialize)]
struct Coverage<'a> {
    rules_covered: usize,
    rules_total: usize,
    rules_uncovered: &'a [String],
    /// Arms of `any_of`.
    branches_covered: usize,
    branches_total: usize,
    branches_uncovered: &'a [Branch],
}

fn test(args: &TestArgs) -> Outcome {
    let set = load_untested(args.path.as_deref())?;
    let report = set.run_tests();
    if let Some(path) = &args.junit {
        std::fs::write(path, junit::document(&report))
            .with_context(|| format!("failed to write {}", path.display()))?;
    }
    if args.json {
        out::json(&summary(&report))?;
    } else {
        for warning in set.warnings() {
            out::note(warning);
        }
        print(&report)?;
    }
    Ok(if report.failed.is_empty() { Status::Done } else { Status::Finding })
}

fn load_untested(path: Option<&Path>) -> Result<PolicySet, Failure> {
    let Some(path) = path else { return PolicySet::shipped().or_usage() };
    let path = site_file(path);
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("failed to read {}", path.display()))
        .or_usage()?;
    if is_site(&text) {
        return PolicySet::load_site_untested(&path).or_usage();
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    PolicySet::from_sources_untested(vec![Source { name, text }]).or_usage()
}

/// Whether a file is a site; one that cannot be read counts as one, and loading it says what is wrong.
fn is_site(text: &str) -> bool {
    let keys: Result<BTreeMap<String, IgnoredAny>, _> = serde_yaml::from_str(text);
    keys.map_or(true, |keys| {
        ["site", "must_answer", "classes"].iter().any(|k| keys.contains_key(*k))
    })
}

fn summary(report: &TestReport) -> Summary<'_> {
    Summary {
        passed: report.passed,
        failed: report.failed.len(),
        known_gaps: report.known_gaps,
        coverage: Coverage {
            rules_covered: report.rules_covered,
            rules_total: report.rules_total,
            rules_uncovered: &report.rules_uncovered,
            branches_covered: report.branches_covered,
            branches_total: report.branches_total,
            branches_uncovered: &report.branches_uncovered,
        },
        failures: &report.failed,
        closed_gaps: &report.closed_gaps,
    }
}

fn print(report: &TestReport) -> std::io::Result<()> {
    for failure in &report.failed {
        out::line(format_args!("failed  {}", told(failure)))?;
    }
    for gap in &report.closed_gaps {
        out::line(format_args!("closed  {}: this known gap passes, its mark can go", told(gap)))?;
    }
    for rule in &report.rules_uncovered {
        out::line(format_args!("untested  {rule}: no passing case matches it"))?;
    }
    let TestReport { passed, known_gaps, rules_covered, rules_total, .. } = report;
    let failed = report.failed.len();
    out::line(format_args!("{passed} passed, {failed} failed, {known_gaps} known gaps"))?;
    out::line(format_args!("{rules_covered} of {rules_total} rules covered"))?;
    let TestReport { branches_covered, branches_total, .. } = report;
    out::line(format_args!("{branches_covered} of {branches_total} alternatives covered"))?;
    for Branch { rule, words } in &report.branches_uncovered {
        out::line(format_args!("  {rule}: no case by {words}"))?;
    }
    Ok(())
}

fn told(failure: &TestFailure) -> String {
    let TestFailure { file, line, rule, message, .. } = failure;
    match rule {
        Some(rule) => format!("{file}:{line}: {rule}: {message}"),
        None => format!("{file}:{line}: {message}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pack_is_told_from_a_site_by_its_keys() {
        let cases = [
            ("site: hospital\nmust_answer: {}\n", true),
            ("classes: [public]\n", true),
            ("policy: hipaa\nrules: []\n", false),
            ("detectors: {}\n", false),
            ("{broken", true),
        ];
        for (text, expected) in cases {
            assert_eq!(is_site(text), expected, "{text}");
        }
    }
}
