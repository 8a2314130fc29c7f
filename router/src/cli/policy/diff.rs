//! `sluice policy diff`: what changed between two sets, and which texts would move.
//!
//! Every change is named and said to loosen, to tighten or neither; a change whose direction cannot be
//! proved counts as loosening. With a corpus every row is decided by both sets: rows that would newly
//! reach a cloud come first.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;
use sluice_policies::{Change, PolicySet, Route};

use super::super::decide::Judge;
use super::super::{Failure, OrUsage, Outcome, Status, out};
use super::activation::load_any;
use super::report::{corpus_files, request_of};

/// The word for the policies in the binary.
const SHIPPED: &str = "shipped";

/// Flags of `sluice policy diff`.
#[derive(clap::Args, Debug)]
pub(in crate::cli) struct DiffArgs {
    /// The older set: a site.yaml, its folder, a bundle, or `shipped` for the policies in the binary
    #[arg(value_name = "OLD")]
    old: PathBuf,
    /// The newer set, likewise
    #[arg(value_name = "NEW")]
    new: PathBuf,
    /// Also decide the rows of this corpus (JSON Lines, a file or a folder) by both sets; may be given several times
    #[arg(long, value_name = "CORPUS")]
    corpus: Vec<PathBuf>,
    /// Print one JSON document: old, new, changes, moved
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    /// Digests.
    old: String,
    new: String,
    changes: Vec<Change>,
    #[serde(skip_serializing_if = "Option::is_none")]
    moved: Option<Moved>,
}

/// Rows that the two sets send to different places, by id.
#[derive(Serialize, Default)]
struct Moved {
    rows: usize,
    /// Stayed, and would reach a cloud.
    private_to_cloud: Vec<String>,
    /// Reached a cloud, and would stay.
    cloud_to_private: Vec<String>,
}

/// Compares.
pub(super) fn run(args: &DiffArgs) -> Outcome {
    let (old, new) = (load(&args.old)?, load(&args.new)?);
    let (old_digest, new_digest) = (old.digest().to_owned(), new.digest().to_owned());
    let changes = new.changes_since(&old);
    let moved = (!args.corpus.is_empty())
        .then(|| moved(&args.corpus, &Judge::assumed(old), &Judge::assumed(new)))
        .transpose()?;
    let report = Report { old: old_digest, new: new_digest, changes, moved };
    if args.json {
        out::json(&report)?;
    } else {
        print(&report)?;
    }
    let leaks = report.moved.as_ref().is_some_and(|moved| !moved.private_to_cloud.is_empty());
    let loosens = report.changes.iter().any(Change::loosens);
    Ok(if leaks || loosens { Status::Finding } else { Status::Done })
}

fn load(path: &Path) -> Result<PolicySet, Failure> {
    match path.as_os_str() == SHIPPED && !path.exists() {
        true => PolicySet::shipped().or_usage(),
        false => load_any(path),
    }
}

fn moved(corpus: &[PathBuf], old: &Judge, new: &Judge) -> Result<Moved, Failure> {
    let mut moved = Moved::default();
    for file in corpus_files(corpus)? {
        let text = std::fs::read_to_string(&file)
            .with_context(|| format!("failed to read {}", file.display()))
            .or_usage()?;
        for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let place = || format!("{}:{}", file.display(), index + 1);
            let (request, _) = request_of(line).with_context(place).or_usage()?;
            let (was, is) = (old.line(&request), new.line(&request));
            if let Some(error) = was.error.or(is.error) {
                let error = anyhow::anyhow!("expected a request that can be decided: {error}");
                return Err(error.context(place())).or_usage();
            }
            moved.rows += 1;
            let id = is.id.as_str().map_or_else(place, str::to_owned);
            match (was.route == Route::Cloud, is.route == Route::Cloud) {
                (false, true) => moved.private_to_cloud.push(id),
                (true, false) => moved.cloud_to_private.push(id),
                _ => (),
            }
        }
    }
    Ok(moved)
}

fn print(report: &Report) -> std::io::Result<()> {
    out::line(format_args!("old  {}\nnew  {}\n", report.old, report.new))?;
    for change in &report.changes {
        out::line(format_args!("{:<8}  {change}", change.direction.in_words()))?;
    }
    if report.changes.is_empty() {
        out::line("nothing changed")?;
    }
    let Some(moved) = &report.moved else { return Ok(()) };
    out::line(format_args!("\n{} rows decided by both", moved.rows))?;
    for (what, rows) in [
        ("stayed, and would reach a cloud", &moved.private_to_cloud),
        ("reached a cloud, and would stay", &moved.cloud_to_private),
    ] {
        out::line(format_args!("  {:>5}  {what}", rows.len()))?;
        for id in rows {
            out::line(format_args!("         {id}"))?;
        }
    }
    Ok(())
}
