//! `sluice policy simulate`: what another set would have decided about the requests on record.
//!
//! The audit log holds no text, but all that rules looked at: findings with their places in numbers,
//! tags, caller, and the facts of the moment. A set is evaluated over these again. What the records
//! cannot tell (a detector that was not asked then, a tag that no rule named) is counted and said, by
//! rule, because there the set may match more than the replay shows.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sluice::active_policy::candidate::{Kind, Outcome as Decided, rules_apart};
use sluice::config::Config;
use sluice_policies::{Evidence, Facts, PolicySet, Sight};

use super::super::{Failure, OrUsage, Outcome, Status, out};
use super::activation::load_any;

/// Flags of `sluice policy simulate`.
#[derive(clap::Args, Debug)]
pub(in crate::cli) struct SimulateArgs {
    /// The site.yaml, its folder or the bundle to try
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// An audit log, or its folder; may be given several times
    #[arg(long, value_name = "FILE", required_unless_present = "config")]
    log: Vec<PathBuf>,
    /// The gateway's sluice.yaml: its audit log is read
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print one JSON document: policy, requests, replayed, days, not_replayed, blind, other_detectors, alike,
    /// differences
    #[arg(long)]
    json: bool,
}

/// A line of the log that says what a set looks at.
#[derive(Deserialize)]
struct PolicyLine {
    digest: String,
    sight: Sight,
}

/// A line of the log about a request.
#[derive(Deserialize)]
struct RequestLine {
    id: String,
    policy: String,
    facts: Facts,
    #[serde(flatten)]
    evidence: Evidence,
    #[serde(flatten)]
    decided: Decided,
}

/// What `--json` prints.
#[derive(Serialize, Default)]
struct Report {
    /// Digest of the set that was tried.
    policy: String,
    /// Requests on record.
    requests: usize,
    /// Those that were decided again.
    replayed: usize,
    /// First and last day on record.
    days: Option<(String, String)>,
    not_replayed: NotReplayed,
    /// Rules that could match more than the replay shows, and for how many requests.
    blind: BTreeMap<String, usize>,
    /// Requests that were scanned by another build of the detectors.
    other_detectors: usize,
    /// Requests decided alike.
    alike: usize,
    /// Loosenings first, then by how many requests.
    differences: Vec<Difference>,
}

#[derive(Serialize, Default)]
struct NotReplayed {
    /// Written by a version that did not record what rules looked at.
    too_old: usize,
    /// Placeholders were put in and the text was decided twice; the first text's findings are not kept.
    redacted: usize,
    /// A record keeps the first findings only, and these held more.
    too_full: usize,
    /// Broken lines.
    unreadable: usize,
}

#[derive(Serialize)]
struct Difference {
    kind: Kind,
    /// Rules that match under one of the sets only.
    rules: Vec<String>,
    was: String,
    would_be: String,
    requests: usize,
    /// Decision id of one of them.
    example: String,
}

/// Replays the logs.
pub(super) fn run(args: &SimulateArgs) -> Outcome {
    let set = load_any(&args.path)?;
    let mut replay = Replay::new(&set);
    for file in log_files(args)? {
        replay.read(&file)?;
    }
    let report = replay.finish();
    if args.json {
        out::json(&report)?;
    } else {
        print(&report)?;
    }
    let loosens = report.differences.iter().any(|difference| difference.kind == Kind::Loosen);
    Ok(if loosens { Status::Finding } else { Status::Done })
}

fn log_files(args: &SimulateArgs) -> Result<Vec<PathBuf>, Failure> {
    let mut named = args.log.clone();
    if let Some(config) = &args.config {
        let audit = Config::load_for_decisions(config).or_usage()?.audit;
        if audit.off {
            let what = "there is no audit log to read: audit.off switches it off";
            return Err(anyhow!("{}: {what}", config.display())).or_usage();
        }
        named.push(audit.path);
    }
    let file = |path: PathBuf| if path.is_dir() { path.join("audit.jsonl") } else { path };
    Ok(named.into_iter().map(file).collect())
}

struct Replay<'a> {
    set: &'a PolicySet,
    report: Report,
    /// What is unknown to records of each set, by its digest.
    blind: BTreeMap<String, BTreeSet<String>>,
    /// Digests of sets whose detectors are code of another build.
    elsewhere: BTreeSet<String>,
    /// Requests may have several lines: attempts, and a refusal after them.
    seen: BTreeSet<String>,
    differences: BTreeMap<Step, Examples>,
}

/// Requests that differ in the same way: the kind, the rules, what was and what would be.
type Step = (Kind, Vec<String>, String, String);

/// How many requests, and the id of the first.
type Examples = (usize, String);

impl<'a> Replay<'a> {
    fn new(set: &'a PolicySet) -> Replay<'a> {
        Replay {
            set,
            report: Report { policy: set.digest().to_owned(), ..Report::default() },
            blind: BTreeMap::new(),
            elsewhere: BTreeSet::new(),
            seen: BTreeSet::new(),
            differences: BTreeMap::new(),
        }
    }

    fn read(&mut self, path: &Path) -> Result<(), Failure> {
        let context = || format!("failed to read the audit log {}", path.display());
        let file = File::open(path).with_context(context).or_usage()?;
        for line in BufReader::new(file).lines() {
            let line = line.with_context(context).or_usage()?;
            match serde_json::from_str::<Value>(&line) {
                Ok(line) => self.line(line),
                Err(_) => self.report.not_replayed.unreadable += 1,
            }
        }
        Ok(())
    }

    fn line(&mut self, line: Value) {
        match line["kind"].as_str() {
            Some("policy") => self.policy(line),
            Some("attempt" | "refusal") => self.request(line),
            _ => (),
        }
    }

    fn policy(&mut self, line: Value) {
        let Ok(PolicyLine { digest, sight }) = serde_json::from_value(line) else {
            self.report.not_replayed.unreadable += 1;
            return;
        };
        if sight.built_in != PolicySet::built_in_revision() {
            self.elsewhere.insert(digest.clone());
        }
        let blind = self.set.blind_spots(&sight).into_iter().map(str::to_owned);
        self.blind.insert(digest, blind.collect());
    }

    fn request(&mut self, line: Value) {
        let id = line["id"].as_str().unwrap_or_default().to_owned();
        if !self.seen.insert(id) {
            return;
        }
        self.report.requests += 1;
        let day: String = line["time"].as_str().unwrap_or_default().chars().take(10).collect();
        let days = self.report.days.get_or_insert_with(|| (day.clone(), day.clone()));
        *days = (days.0.clone().min(day.clone()), days.1.clone().max(day));
        if !line["redacted"].is_null() {
            self.report.not_replayed.redacted += 1;
            return;
        }
        match serde_json::from_value(line) {
            Ok(request) => self.replay(&request),
            Err(_) => self.report.not_replayed.too_old += 1,
        }
    }

    fn replay(&mut self, request: &RequestLine) {
        let Some(blind) = self.blind.get(&request.policy) else {
            self.report.not_replayed.too_old += 1;
            return;
        };
        if request.evidence.left_out > 0 {
            self.report.not_replayed.too_full += 1;
            return;
        }
        self.report.replayed += 1;
        self.report.other_detectors += usize::from(self.elsewhere.contains(&request.policy));
        for rule in blind {
            *self.report.blind.entry(rule.clone()).or_default() += 1;
        }
        let classification = self.set.classify_evidence(&request.evidence);
        let now = Decided::of(&self.set.decide(&classification, &request.facts));
        let was = &request.decided;
        let Some(kind) = now.compared_with(was, self.set) else {
            self.report.alike += 1;
            return;
        };
        let rules = rules_apart(&was.rules, &now.rules).into_iter().map(str::to_owned).collect();
        let key = (kind, rules, in_words(was), in_words(&now));
        self.differences.entry(key).or_insert_with(|| (0, request.id.clone())).0 += 1;
    }

    fn finish(mut self) -> Report {
        let rows = self.differences.into_iter();
        let rows = rows.map(|((kind, rules, was, would_be), (requests, example))| Difference {
            kind,
            rules,
            was,
            would_be,
            requests,
            example,
        });
        self.report.differences = rows.collect();
        self.report.differences.sort_by_key(|row| (row.kind, std::cmp::Reverse(row.requests)));
        self.report
    }
}

/// `regulated [HIPAA] to edge`.
fn in_words(decided: &Decided) -> String {
    let Decided { route, class, labels, allowed, .. } = decided;
    let labels =
        if labels.is_empty() { String::new() } else { format!(" [{}]", labels.join(", ")) };
    let route = serde_json::to_value(route).unwrap_or_default();
    let route = route.as_str().unwrap_or_default();
    match allowed.is_empty() {
        true => format!("{class}{labels} to {route}"),
        false => format!("{class}{labels} to {route} ({})", allowed.join(", ")),
    }
}

fn print(report: &Report) -> std::io::Result<()> {
    let Report { requests, replayed, not_replayed, .. } = report;
    let days = report.days.as_ref().map(|(from, to)| format!(", {from} to {to}"));
    out::line(format_args!(
        "{replayed} of {requests} requests on record decided again{}",
        days.unwrap_or_default()
    ))?;
    let NotReplayed { too_old, redacted, too_full, unreadable } = not_replayed;
    for (count, why) in [
        (too_old, "recorded by a version that did not keep what rules looked at"),
        (redacted, "went out with placeholders"),
        (too_full, "held more findings than a record keeps"),
        (unreadable, "lines cannot be read"),
        (&report.other_detectors, "were scanned by other built-in detectors than this program's"),
    ] {
        if *count > 0 {
            out::line(format_args!("  {count:>7}  {why}"))?;
        }
    }
    for (rule, requests) in &report.blind {
        out::line(format_args!(
            "  {requests:>7}  cannot tell whether {rule} would match: it looks at what was not recorded"
        ))?;
    }
    for row in &report.differences {
        let rules = if row.rules.is_empty() { "no rule".to_owned() } else { row.rules.join(", ") };
        out::line(format_args!(
            "\n{} {:>5}  {rules}\n           was   {}\n           now   {}\n           such as {}",
            row.kind.in_words(),
            row.requests,
            row.was,
            row.would_be,
            row.example
        ))?;
    }
    out::line(format_args!("\n{} decided alike", report.alike))
}
