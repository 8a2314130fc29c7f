//! `sluice model plan`: how a model would share memory, and the speed that this machine would give it.

use std::path::PathBuf;

use sluice_engine::IoChoice;
use sluice_engine::plan::{Outlook, PlanOptions, plan};

use super::engine::size;
use super::progress::bytes;
use super::{OrUsage, Outcome, Status, out};

/// Flags of `sluice model plan`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// A pack, a Hugging Face directory, or a GGUF file or a folder with one
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// Memory of the process in all: 8GiB; default: what the machine or its control group has, but an
    /// eighth
    #[arg(long, value_name = "SIZE", value_parser = size)]
    memory: Option<u64>,
    /// Longest prompt plus reply, tokens; default: as memory allows, at most 8192
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    context: Option<u32>,
    /// Generations decoded together; default: as memory allows, at most 4
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    running: Option<u16>,
    /// Compute threads; default: the cores that this process may use
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// A trace of this model's gates, from which hits are counted; default: even gates, the worst case
    #[arg(long, value_name = "TRACE")]
    trace: Option<PathBuf>,
    /// How experts are read: auto, uring, direct, buffered, mmap
    #[arg(long, value_name = "WAY", default_value_t = IoChoice::Auto)]
    io: IoChoice,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Plans and prints.
pub(super) fn run(args: &Args) -> Outcome {
    let options = PlanOptions {
        model: args.path.clone(),
        memory_bytes: args.memory,
        context_tokens: args.context.map(|n| n as usize),
        running_max: args.running.map(usize::from),
        threads: args.threads.map(usize::from),
        trace: args.trace.clone(),
        io: args.io,
    };
    let outlook = plan(&options).or_usage()?;
    if args.json {
        out::json(&outlook)?;
    } else {
        print(&outlook)?;
    }
    Ok(Status::Done)
}

fn print(outlook: &Outlook) -> std::io::Result<()> {
    let plan = &outlook.plan;
    let row = |name: &str, value: String| out::line(format_args!("{name:<16}{value}"));
    let sized = |size: u64, what: &str| format!("{:>10}  {what}", bytes(size));
    row("memory", sized(plan.memory_bytes, "of the process in all"))?;
    row("  process", sized(plan.process_bytes, "the program and the tokenizer"))?;
    row("  dense", sized(plan.dense_bytes, "weights that every token uses"))?;
    let together = format!("{} at once", plan.running_max);
    row("  state", sized(plan.state_bytes, &format!("of generations, {together}")))?;
    let context = format!("keys and values, {} tokens each", plan.context_tokens);
    row("  kv", sized(plan.kv_bytes, &context))?;
    let prompt = format!("buffers, {} prompt tokens a pass", plan.prefill_tokens);
    row("  scratch", sized(plan.scratch_bytes, &prompt))?;
    row("  staging", sized(plan.staging_bytes, "experts under way"))?;
    row("  checkpoints", sized(plan.checkpoint_bytes, "kept for the next turns of conversations"))?;
    let share = plan.experts_cached as f64 / plan.experts.max(1) as f64 * 100.0;
    let cached = format!("{} of {} experts, {share:.1} %", plan.experts_cached, plan.experts);
    row("  cache", sized(plan.cache_bytes, &cached))?;
    row("floor", sized(plan.floor_bytes, "the least that works, without a cache"))?;
    let one = plan.expert_bytes_per_token;
    if plan.cache_bytes < one && plan.cache_bytes < plan.expert_bytes {
        row("note", format!("the cache is smaller than what one token uses, {}", bytes(one)))?;
    }
    let depth = outlook.io_depth;
    let rate = outlook.read_bytes_per_second.map(|rate| format!(", {}/s", bytes(rate as u64)));
    row("reading", format!("{}, {depth} at once{}", outlook.io, rate.unwrap_or_default()))?;
    row("computing", format!("{}/s of weights", bytes(outlook.compute_bytes_per_second as u64)))?;
    let how = if outlook.from_trace { "by the trace" } else { "if gates choose evenly" };
    row("hits", format!("{:.1} % {how}", outlook.hit_rate * 100.0))?;
    row("a token reads", bytes(outlook.read_bytes_per_token as u64))?;
    let [serial, overlapped] = outlook.tokens_per_second;
    row("speed", format!("{serial:.2} to {overlapped:.2} tokens/s, by how much overlaps"))
}
