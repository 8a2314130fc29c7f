//! `sluice policy activate`, `sign`, `key`, `bundle`: how people let a set come into force.
//!
//! The gateway takes by itself what loosens nothing. What loosens is shown here sentence by sentence,
//! accepted by a person with a reason, in production signed by approvers on machines of their own, and
//! put into the gateway's state folder, where the gateway checks all of it again.

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use jiff::Timestamp;
use jiff::civil::Date;
use serde::Serialize;
use sluice::active_policy::Files;
use sluice::active_policy::bundle::{Bundle, is_bundle};
use sluice::active_policy::loosening::{Acceptance, Approval, Gate, Step};
use sluice::active_policy::state::StateFolder;
use sluice::config::Config;
use sluice::signing::SigningKey;
use sluice_policies::PolicySet;

use super::super::{Failure, OrUsage, Outcome, Status, out, today};
use super::{load_site, site_file};

/// Flags of `sluice policy activate`.
#[derive(clap::Args, Debug)]
pub(in crate::cli) struct ActivateArgs {
    /// A site.yaml, its folder or a bundle; default: what the config names
    #[arg(value_name = "PATH")]
    path: Option<PathBuf>,
    /// The gateway's sluice.yaml: it names the state folder, the mode and the keys of approvers
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Accept everything that is listed as loosened, for exactly this step
    #[arg(long, requires = "reason", requires = "by")]
    accept_loosening: bool,
    /// Why, for the record
    #[arg(long, value_name = "TEXT", requires = "accept_loosening")]
    reason: Option<String>,
    /// Who accepts, for the record
    #[arg(long, value_name = "NAME", requires = "accept_loosening")]
    by: Option<String>,
    /// A file that `sluice policy sign` wrote; production demands those of two approvers
    #[arg(long, value_name = "FILE", requires = "accept_loosening")]
    approval: Vec<PathBuf>,
    /// Print one JSON document: from, to, verdicts, loosened, forbidden, accepted
    #[arg(long)]
    json: bool,
}

/// Flags of `sluice policy sign`.
#[derive(clap::Args, Debug)]
pub(in crate::cli) struct SignArgs {
    /// The site.yaml, its folder or the bundle that is to come into force
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// Digest of the set that is in force, as `sluice policy activate` prints it
    #[arg(long, value_name = "DIGEST")]
    from: String,
    /// Your private key
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Your name, as the gateway's file of approvers' keys has it
    #[arg(long, value_name = "NAME")]
    by: String,
    /// Where to write the approval; default: stdout
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Flags of `sluice policy key`.
#[derive(clap::Args, Debug)]
pub(in crate::cli) struct KeyArgs {
    /// Whose key it is: one word, such as an e-mail address
    #[arg(value_name = "NAME")]
    name: String,
    /// Where to write the private key, readable by you alone; never replaces a file
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

/// Flags of `sluice policy bundle`.
#[derive(clap::Args, Debug)]
pub(in crate::cli) struct BundleArgs {
    /// A site.yaml or its folder
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// The publisher's private key
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Number of this bundle, higher than that of every one before: gateways take no lower one
    #[arg(long, value_name = "N")]
    serial: u64,
    /// Last day on which gateways may put it in force, such as 2027-06-30; default: none
    #[arg(long, value_name = "DATE")]
    expires: Option<Date>,
    /// Where to write the bundle
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

// === sluice policy activate ===

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    /// Digest of the set in force; null before the first.
    from: Option<&'a str>,
    to: &'a str,
    /// SHA-256 over what the set decides about its tests under this program; null before the first.
    verdicts: Option<&'a str>,
    loosened: &'a [String],
    /// What loosens a floor, and is never accepted.
    forbidden: &'a [String],
    /// The gateway takes the set when it reads its files next.
    accepted: bool,
}

/// Runs `sluice policy activate`.
pub(super) fn activate(args: &ActivateArgs) -> Outcome {
    let config = Config::load_for_decisions(&args.config).or_usage()?;
    let files = Files::new(&config);
    let set = match &args.path {
        Some(path) => load_any(path)?,
        None => files.origin().load(today()).or_usage()?.set,
    };
    let state = files.state().context("the config names no state folder").or_usage()?;
    let Some(step) = files.step_to(&set) else {
        let report = Report {
            from: None,
            to: set.digest(),
            verdicts: None,
            loosened: &[],
            forbidden: &[],
            accepted: true,
        };
        let words = "nothing was in force yet: the gateway takes these policies when it starts";
        return said(args, &report, words, Status::Done);
    };
    if !step.loosens() {
        let words = "nothing is loosened: the gateway takes these policies by itself";
        return said(args, &Report::of(&step, true), words, Status::Done);
    }
    if !args.accept_loosening {
        let words = what_to_do(args, &step, &files);
        return said(args, &Report::of(&step, false), &words, Status::Finding);
    }
    let path = accept(args, &step, files.gate(), state)?;
    let words = format!(
        "accepted in {}: the gateway takes these policies when it reads its files next",
        path.display()
    );
    said(args, &Report::of(&step, true), &words, Status::Done)
}

impl<'a> Report<'a> {
    fn of(step: &'a Step, accepted: bool) -> Report<'a> {
        let Step { from, to, verdicts, loosened, forbidden, .. } = step;
        Report { from: Some(from), to, verdicts: Some(verdicts), loosened, forbidden, accepted }
    }
}

fn said(args: &ActivateArgs, report: &Report<'_>, words: &str, status: Status) -> Outcome {
    if args.json {
        out::json(report)?;
        return Ok(status);
    }
    out::line(format_args!("in force  {}", report.from.unwrap_or("nothing")))?;
    out::line(format_args!("offered   {}\n", report.to))?;
    for sentence in report.forbidden.iter().chain(report.loosened) {
        out::line(format_args!("  loosens  {sentence}"))?;
    }
    if !report.forbidden.is_empty() || !report.loosened.is_empty() {
        out::line("")?;
    }
    out::line(words)?;
    Ok(status)
}

/// The next command to type, ready to be copied.
fn what_to_do(args: &ActivateArgs, step: &Step, files: &Files) -> String {
    if !step.forbidden.is_empty() {
        return "a floor is loosened, which nobody can accept: restore the rule as it was"
            .to_owned();
    }
    let given = args.path.as_ref().map(|path| format!("{} ", path.display())).unwrap_or_default();
    let config = args.config.display();
    let accept = format!(
        "  sluice policy activate {given}--config {config} --accept-loosening --reason TEXT --by NAME"
    );
    let Some(required) = files.gate().signatures() else {
        return format!("to accept it:\n{accept}");
    };
    let path = args.path.as_deref().or(files.origin().path()).unwrap_or(Path::new("PATH"));
    format!(
        "to accept it, {required} approvers each sign it with a key of their own:\n  sluice policy sign \
         {} --from {} --key KEY --by NAME -o APPROVAL\nand then:\n{accept}{}",
        path.display(),
        step.from,
        " --approval APPROVAL".repeat(required),
    )
}

/// Puts the acceptance where the gateway looks for it, if the gateway would let it pass.
fn accept(
    args: &ActivateArgs,
    step: &Step,
    gate: &Gate,
    state: &StateFolder,
) -> Result<PathBuf, Failure> {
    let approvals =
        args.approval.iter().map(|path| read_approval(path)).collect::<Result<_, _>>()?;
    let said = |text: &Option<String>| text.clone().unwrap_or_default();
    let acceptance = Acceptance {
        from: step.from.clone(),
        to: step.to.clone(),
        verdicts: step.verdicts.clone(),
        reason: said(&args.reason),
        by: said(&args.by),
        at: Timestamp::now(),
        loosened: step.loosened.clone(),
        approvals,
    };
    if acceptance.reason.trim().is_empty() || acceptance.by.trim().is_empty() {
        return Err(anyhow!("expected words after --reason and --by, got none")).or_usage();
    }
    gate.pass(step, Some(&acceptance))
        .map_err(|held| anyhow!("nothing was accepted: {}", held.missing))?;
    Ok(state.accept(&acceptance)?)
}

fn read_approval(path: &Path) -> Result<Approval, Failure> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("failed to read the approval {}", path.display()))
        .or_usage()?;
    serde_json::from_str(&text)
        .with_context(|| {
            let path = path.display();
            format!("{path}: expected an approval such as `sluice policy sign` writes")
        })
        .or_usage()
}

/// A set whose tests have passed, from a site or from a bundle of whatever publisher.
pub(super) fn load_any(path: &Path) -> Result<PolicySet, Failure> {
    if is_bundle(path) {
        return Bundle::open_unverified(path).or_usage()?.into_set().or_usage();
    }
    load_site(Some(path))
}

// === sluice policy sign ===

/// Runs `sluice policy sign`.
pub(super) fn sign(args: &SignArgs) -> Outcome {
    let SignArgs { path, from, key, by, output } = args;
    let is_digest = from.len() == 64 && from.bytes().all(|b| b.is_ascii_hexdigit());
    if !is_digest && from != sluice::active_policy::loosening::UNREADABLE {
        let message = "expected the whole digest after --from: 64 hexadecimal digits, as `sluice \
                       policy activate` prints it";
        return Err(Failure::Usage(anyhow!(message)));
    }
    let key = SigningKey::read(key).or_usage()?;
    let set = load_any(path)?;
    let approval = Approval::sign(from, &set, by, &key);
    match output {
        None => out::json(&approval)?,
        Some(path) => {
            let text = serde_json::to_string_pretty(&approval)? + "\n";
            write_new(path, &text)?;
            out::line(format_args!("signed {from:.12} to {:.12}", set.digest()))?;
        }
    }
    Ok(Status::Done)
}

// === sluice policy key ===

/// Runs `sluice policy key`.
pub(super) fn key(args: &KeyArgs) -> Outcome {
    if args.name.is_empty() || args.name.contains(|c: char| c.is_whitespace() || c == '#') {
        let message = format!("expected a name of one word without #, got {:?}", args.name);
        return Err(Failure::Usage(anyhow!(message)));
    }
    let key = SigningKey::create(&args.output).or_usage()?;
    out::note(format_args!("private key in {}; this is its public half:", args.output.display()));
    out::line(key.public(&args.name))?;
    Ok(Status::Done)
}

// === sluice policy bundle ===

/// Runs `sluice policy bundle`.
pub(super) fn bundle(args: &BundleArgs) -> Outcome {
    let key = SigningKey::read(&args.key).or_usage()?;
    let set = load_site(Some(&site_file(&args.path)))?;
    if args.expires.is_some_and(|day| day < today()) {
        return Err(Failure::Usage(anyhow!("expected a day to come after --expires")));
    }
    let text = Bundle::of(&set, args.serial, args.expires).seal(&key);
    write_new(&args.output, &text)?;
    let (files, digest) = (set.sources().len(), set.digest());
    out::line(format_args!(
        "{}: serial {}, {files} files, digest {digest}",
        args.output.display(),
        args.serial
    ))?;
    Ok(Status::Done)
}

fn write_new(path: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(path, text).with_context(|| format!("failed to write {}", path.display()))?;
    Ok(())
}
