//! `sluice policy report`: how well a set of policies sorts a labelled corpus.
//!
//! A row is a line of JSON as `sluice decide --batch` takes it, with `expect` (`private` or `cloud`),
//! `kind`, `lang` and `labels` beside the text. A private row that would reach a cloud is a miss, and a
//! miss is a breach; a harmless row that would stay is a false alarm, and costs quality only. The same
//! facts are assumed as by `decide`: an idle edge, and one cloud for which nobody vouches. Rows are
//! named by their id, never by their text.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sluice_policies::Route;

use super::super::decide::Judge;
use super::super::{Failure, OrUsage, Outcome, Status, out};
use super::load_site;

/// Rows that went wrong and are named, of each sort; the figures count all.
const NAMED_MAX: usize = 20;

/// Flags of `sluice policy report`.
#[derive(clap::Args, Debug)]
pub(in crate::cli) struct Args {
    /// Labelled rows in JSON Lines, files or folders of them; default: the corpus in the source tree
    #[arg(value_name = "CORPUS")]
    corpus: Vec<PathBuf>,
    /// A site.yaml or its folder; default: the policies in the binary
    #[arg(long, value_name = "FILE")]
    policies: Option<PathBuf>,
    /// Print one JSON document: recall, false_alarms, by kind, language and label, ids that went wrong
    #[arg(long)]
    json: bool,
}

/// What the report is about, beside the request itself.
#[derive(Deserialize)]
struct Labels {
    expect: Expect,
    #[serde(default)]
    kind: Option<String>,
    #[serde(default)]
    lang: Option<String>,
    #[serde(default)]
    labels: Vec<String>,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum Expect {
    Private,
    Cloud,
}

/// Rows of one sort, and how many were routed wrongly.
#[derive(Serialize, Default, Clone, Copy)]
struct Tally {
    rows: usize,
    wrong: usize,
}

/// What `--json` prints.
#[derive(Serialize, Default)]
struct Report {
    policy_digest: String,
    private: Tally,
    cloud: Tally,
    /// Share of private rows that stay.
    recall: f64,
    /// Share of harmless rows that stay too.
    false_alarms: f64,
    by_kind: BTreeMap<String, Tally>,
    by_language: BTreeMap<String, Tally>,
    /// Private rows by the label that they should get; wrong is a row without it.
    by_label: BTreeMap<String, Tally>,
    missed: Vec<String>,
    false_alarmed: Vec<String>,
}

/// Reads, decides, counts.
pub(super) fn run(args: &Args) -> Outcome {
    let judge = Judge::assumed(load_site(args.policies.as_deref())?);
    let mut report =
        Report { policy_digest: judge.policies().digest().to_owned(), ..Report::default() };
    for file in corpus_files(&args.corpus)? {
        let text = std::fs::read_to_string(&file)
            .with_context(|| format!("failed to read {}", file.display()))
            .or_usage()?;
        for (index, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
            let place = || format!("{}:{}", file.display(), index + 1);
            report.add(&judge, line).with_context(place).or_usage()?;
        }
    }
    let share = |part: usize, of: Tally| part as f64 / of.rows.max(1) as f64;
    report.recall = share(report.private.rows - report.private.wrong, report.private);
    report.false_alarms = share(report.cloud.wrong, report.cloud);
    if args.json {
        out::json(&report)?
    } else {
        print(&report)?
    }
    Ok(if report.private.wrong == 0 { Status::Done } else { Status::Finding })
}

/// The named files, and the `.jsonl` files of named folders.
pub(super) fn corpus_files(named: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let shipped = || vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies/corpus")];
    let named = if named.is_empty() { shipped() } else { named.to_vec() };
    let mut files = Vec::new();
    for path in named {
        if !path.is_dir() {
            files.push(path);
            continue;
        }
        let entries = std::fs::read_dir(&path)
            .with_context(|| format!("failed to read {}", path.display()))
            .or_usage()?;
        let inside = entries.filter_map(Result::ok).map(|entry| entry.path());
        files.extend(inside.filter(|file| file.extension().is_some_and(|e| e == "jsonl")));
    }
    files.sort();
    Ok(files)
}

/// A row as the request that it holds, and what describes it.
pub(super) fn request_of(line: &str) -> anyhow::Result<(Vec<u8>, Value)> {
    let mut row: Map<String, Value> =
        serde_json::from_str(line).context("expected a JSON object")?;
    let keys = ["expect", "kind", "lang", "labels", "note"];
    let labels = keys.into_iter().filter_map(|key| Some((key.to_owned(), row.remove(key)?)));
    let labels: Map<String, Value> = labels.collect();
    Ok((serde_json::to_vec(&row)?, Value::Object(labels)))
}

impl Report {
    fn add(&mut self, judge: &Judge, line: &str) -> anyhow::Result<()> {
        let (request, labels) = request_of(line)?;
        let labels: Labels = serde_json::from_value(labels)
            .context("expected `expect: private | cloud` beside the text")?;
        let verdict = judge.line(&request);
        if let Some(error) = verdict.error {
            anyhow::bail!("expected a request that can be decided: {error}");
        }
        let stays = verdict.route != Route::Cloud;
        let wrong = stays != (labels.expect == Expect::Private);
        let count = |tally: &mut Tally, wrong: bool| {
            tally.rows += 1;
            tally.wrong += usize::from(wrong);
        };
        let (whole, named) = match labels.expect {
            Expect::Private => (&mut self.private, &mut self.missed),
            Expect::Cloud => (&mut self.cloud, &mut self.false_alarmed),
        };
        count(whole, wrong);
        if wrong && named.len() < NAMED_MAX {
            let id = &verdict.id;
            named.push(id.as_str().map_or_else(|| id.to_string(), str::to_owned));
        }
        for (table, name) in
            [(&mut self.by_kind, labels.kind), (&mut self.by_language, labels.lang)]
        {
            count(table.entry(name.unwrap_or_else(|| "none".to_owned())).or_default(), wrong);
        }
        for label in labels.labels {
            let missing = !verdict.labels.contains(&label);
            count(self.by_label.entry(label).or_default(), missing);
        }
        Ok(())
    }
}

fn print(report: &Report) -> std::io::Result<()> {
    let Report { private, cloud, .. } = report;
    out::line(format_args!("policies {:.12}", report.policy_digest))?;
    out::line(format_args!(
        "recall        {:6.2} %   {} of {} private rows stay",
        100.0 * report.recall,
        private.rows - private.wrong,
        private.rows
    ))?;
    out::line(format_args!(
        "false alarms  {:6.2} %   {} of {} harmless rows stay too",
        100.0 * report.false_alarms,
        cloud.wrong,
        cloud.rows
    ))?;
    let tables =
        [("kind", &report.by_kind), ("language", &report.by_language), ("label", &report.by_label)];
    for (name, table) in tables.into_iter().filter(|(_, table)| !table.is_empty()) {
        out::line(format_args!("\n{name:<24}  rows  wrong"))?;
        for (row, tally) in table {
            out::line(format_args!("{row:<24} {:>5}  {:>5}", tally.rows, tally.wrong))?;
        }
    }
    for (what, ids) in [("missed", &report.missed), ("kept without need", &report.false_alarmed)] {
        if !ids.is_empty() {
            out::line(format_args!("\n{what}: {}", ids.join(", ")))?;
        }
    }
    Ok(())
}
