//! `sluice model trace` and `replay`: what a model's gates choose, and which cache serves that best.

use std::path::PathBuf;

use sluice_engine::trace::{self, Replay, ReplayOptions, TraceOptions};

use super::engine::{EngineArgs, size};
use super::progress::{Progress, Unit, bytes};
use super::{OrUsage, Outcome, Status, out};

/// Flags of `sluice model trace`.
#[derive(clap::Args, Debug)]
pub(super) struct TraceArgs {
    /// A pack, a Hugging Face directory, or a GGUF file or a folder with one
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// The trace to write; replaced if it exists. It holds no text
    #[arg(value_name = "TRACE")]
    destination: PathBuf,
    /// JSON Lines {"prompt", "answer"}, or any text; gzip is fine
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Records, or windows of text, at most; default: all
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    #[command(flatten)]
    engine: EngineArgs,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Flags of `sluice model replay`.
#[derive(clap::Args, Debug)]
pub(super) struct ReplayArgs {
    /// What `sluice model trace` wrote
    #[arg(value_name = "TRACE")]
    trace: PathBuf,
    /// Memory for experts: 512MiB, 8GiB; may be given several times; default: shares of all experts
    #[arg(long, value_name = "SIZE", value_parser = size)]
    expert_cache: Vec<u64>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Records a trace.
pub(super) fn trace(args: &TraceArgs) -> Outcome {
    let options = TraceOptions {
        engine: args.engine.options(args.path.clone()),
        data: args.data.clone(),
        destination: args.destination.clone(),
        limit: args.limit.map(|limit| limit as usize),
    };
    let mut progress = Progress::new("recording", Unit::Items);
    let report =
        trace::record(&options, &mut |at| progress.update(at.done, at.total)).or_usage()?;
    drop(progress);
    if args.json {
        out::json(&report)?;
    } else {
        let trace::TraceReport { records, tokens, visits } = report;
        let to = args.destination.display();
        out::line(format_args!("wrote {to}: {visits} visits, {tokens} tokens, {records} records"))?;
    }
    Ok(Status::Done)
}

/// Replays a trace.
pub(super) fn replay(args: &ReplayArgs) -> Outcome {
    let options =
        ReplayOptions { trace: args.trace.clone(), cache_bytes: args.expert_cache.clone() };
    let replays = trace::replay(&options).or_usage()?;
    if args.json {
        out::json(&replays)?;
    } else {
        replays.iter().try_for_each(print)?;
    }
    Ok(Status::Done)
}

fn print(replay: &Replay) -> std::io::Result<()> {
    let Replay { model, cache_bytes, slots, share, policies } = replay;
    let percent = share * 100.0;
    out::line(format_args!(
        "{model}: cache {}, {slots} experts, {percent:.1} % of all",
        bytes(*cache_bytes)
    ))?;
    out::line("  policy         replies hit   all hit        read")?;
    for policy in policies {
        let (replies, all) = (policy.reply_hit_rate * 100.0, policy.hit_rate * 100.0);
        let mark = if policy.in_use { "  in use" } else { "" };
        out::line(format_args!(
            "  {:<14} {replies:>9.1} % {all:>7.1} %  {:>10}{mark}",
            policy.policy,
            bytes(policy.bytes_read)
        ))?;
    }
    Ok(())
}
