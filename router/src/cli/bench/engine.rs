//! `sluice bench engine`: what the engine alone does with a model: prompt and decode speed, what it read
//! for that, and how busy the machine was with other things.
//!
//! With `--streams` several replies are decoded together; then the speed is that of all of them, and the
//! bytes a token show how far they share what each layer reads.
//!
//! Prompts are random tokens, as in llama.cpp's `llama-bench`, of which `tests/bench/engine` makes the
//! comparison; each run has others. As there, what comes before the first run is not counted: a prompt
//! warms the cache, or several where it can hold all experts. Every run's speed is told, not only the
//! median: who compares two programs wants to see how they scatter.

use std::time::Duration;

use serde::Serialize;
use sluice_engine::{ExpertUse, Finish, GenerationRequest, PromptInput, SamplingOptions};
use tokio::time::Instant;

use super::super::engine::{Loaded, ModelArgs, Speeds};
use super::super::progress::{Progress, Unit, bytes};
use super::super::run::finished;
use super::super::{Failure, OrUsage, Outcome, Status, out};
use super::{median, processor, rss_bytes};

/// Flags of `sluice bench engine`.
#[derive(clap::Args, Debug)]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Tokens of the prompt whose reading is timed
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    prompt_tokens: u32,
    /// Tokens that are generated when decoding is timed
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    decode_tokens: u32,
    /// Replies that are decoded together
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    streams: u16,
    /// Runs of each; the median counts
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    runs: u64,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Everything measured.
#[derive(Serialize, Debug)]
struct Report {
    machine: String,
    cores: usize,
    model: String,
    quantisation: String,
    backend: String,
    /// How experts are read, and how many at once.
    io: String,
    io_depth: usize,
    /// Bytes of experts that the test at start read in a second.
    read_bytes_per_second: Option<f64>,
    memory_bytes: u64,
    expert_cache_bytes: u64,
    expert_bytes: u64,
    /// Replies that were decoded together.
    streams: u16,
    load_ms: f64,
    /// Most resident memory of this process between runs.
    rss_bytes: Option<u64>,
    prompt: Measured,
    decode: Measured,
    /// Share of all cores that other processes took meanwhile; `None` where the system does not tell.
    others_cpu: Option<f64>,
}

/// One kind of run.
#[derive(Serialize, Debug)]
struct Measured {
    tokens: u32,
    /// In the order of the runs.
    tokens_per_second: Vec<f64>,
    median: Option<f64>,
    hit_rate: Option<f64>,
    read_bytes_per_token: f64,
    /// Share of the gates' choices that were left out: `--drop-cold-experts`.
    left_out: f64,
    /// Share of the model's time in which it waited for experts.
    stalled: f64,
}

/// Measures and prints.
pub(in crate::cli) fn run(args: &Args) -> Outcome {
    let before = Busy::now();
    let started = Instant::now();
    let mut progress = Progress::new("measuring", Unit::Items);
    let loaded = args.model.load_for(args.streams)?;
    warm_up(&loaded, args)?;
    let (mut done, steps) = (1, 2 * args.runs + 1);
    progress.update(done, steps);
    let mut most = rss_bytes(std::process::id());
    let mut all = |tokens: u32, replies: u32, streams: u16| -> Result<Vec<Run>, Failure> {
        (0..args.runs)
            .map(|run| {
                let before = loaded.engine.expert_use();
                let finishes = together(&loaded, tokens, replies, run, streams)?;
                done += 1;
                progress.update(done, steps);
                most = most.max(rss_bytes(std::process::id()));
                Ok(Run { finishes, before, after: loaded.engine.expert_use() })
            })
            .collect()
    };
    let prompts = all(args.prompt_tokens, 1, 1)?;
    // The first token of a reply comes with the prompt.
    let decodes = all(1, args.decode_tokens + 1, args.streams)?;
    drop(progress);
    let others_cpu = before.zip(Busy::now()).and_then(|(a, b)| a.others(&b, started.elapsed()));
    let report = Report {
        rss_bytes: most,
        prompt: measured(args.prompt_tokens, &prompts, |s| s.prompt_tokens_per_second),
        decode: measured(args.decode_tokens, &decodes, |s| s.decode_tokens_per_second),
        others_cpu,
        streams: args.streams,
        ..about(&loaded)
    };
    if args.json {
        out::json(&report)?;
    } else {
        print(&report)?;
    }
    Ok(Status::Done)
}

/// Random tokens that every vocabulary has, and a reply that does not end before its time.
fn request(prompt_tokens: u32, reply_tokens: u32, run: u64) -> GenerationRequest {
    let mut state = (run + 1) * 0x9E37_79B9;
    let token = |_| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u32 % 250
    };
    let prompt = PromptInput::Tokens((0..prompt_tokens).map(token).collect());
    let sampling =
        SamplingOptions { temperature: Some(1.0), seed: Some(run), ..SamplingOptions::default() };
    let max_tokens = Some(reply_tokens as usize);
    GenerationRequest { sampling, max_tokens, ..GenerationRequest::new(prompt) }
}

/// Replies that ran together, and what the engine had counted before and after them.
struct Run {
    finishes: Vec<Finish>,
    before: ExpertUse,
    after: ExpertUse,
}

/// Reads a prompt; where memory holds all experts, several, until one finds all of its own.
fn warm_up(loaded: &Loaded, args: &Args) -> Result<(), Failure> {
    const TOKENS: u32 = 1024;
    let info = loaded.engine.info();
    let all_fit = info.expert_cache_bytes >= info.expert_bytes;
    let prompts = if all_fit { (TOKENS / args.prompt_tokens).max(1) } else { 1 };
    for run in args.runs..args.runs + u64::from(prompts) {
        let before = loaded.engine.expert_use().misses;
        together(loaded, args.prompt_tokens, 1, run, 1)?;
        if loaded.engine.expert_use().misses == before {
            break;
        }
    }
    Ok(())
}

/// Several generations at once, each with a prompt of its own.
fn together(
    loaded: &Loaded,
    prompt_tokens: u32,
    reply_tokens: u32,
    run: u64,
    streams: u16,
) -> Result<Vec<Finish>, Failure> {
    let seed = |stream: u16| run * u64::from(streams) + u64::from(stream);
    let submit = |stream| loaded.engine.submit(request(prompt_tokens, reply_tokens, seed(stream)));
    let streams: Vec<_> = (0..streams).map(submit).collect::<Result<Vec<_>, _>>().or_usage()?;
    streams.into_iter().map(|stream| finished(stream, |_| Ok(()))).collect()
}

/// Replies that run together are as fast as the sum of them.
fn measured(tokens: u32, runs: &[Run], speed: impl Fn(&Speeds) -> Option<f64>) -> Measured {
    let of_run = |run: &Run| {
        let speeds = run.finishes.iter().filter_map(|f| speed(&Speeds::new(f, Duration::ZERO)));
        speeds.reduce(|sum, speed| sum + speed)
    };
    let speeds: Vec<f64> = runs.iter().filter_map(of_run).collect();
    let sum = |of: fn(&ExpertUse) -> u64| {
        runs.iter().map(|run| of(&run.after) - of(&run.before)).sum::<u64>() as f64
    };
    let (hits, dropped) = (sum(|e| e.hits), sum(|e| e.dropped));
    let looked = hits + sum(|e| e.misses);
    let finishes = || runs.iter().flat_map(|run| &run.finishes);
    let passed: usize =
        finishes().map(|f| (f.prompt_tokens + f.completion_tokens).saturating_sub(1)).sum();
    let seconds = |of: fn(&Finish) -> Duration| finishes().map(of).sum::<Duration>().as_secs_f64();
    let stalled = seconds(|f| f.experts.stalled);
    Measured {
        tokens,
        median: median(speeds.iter().copied()),
        tokens_per_second: speeds,
        hit_rate: (looked > 0.0).then(|| hits / looked),
        read_bytes_per_token: sum(|e| e.bytes_read) / (passed as f64).max(1.0),
        left_out: dropped / (looked + dropped).max(1.0),
        stalled: stalled / (stalled + seconds(|f| f.experts.computed)).max(f64::MIN_POSITIVE),
    }
}

/// What is known before anything is measured.
fn about(loaded: &Loaded) -> Report {
    let info = loaded.engine.info();
    let nothing = || measured(0, &[], |_| None);
    Report {
        machine: processor(),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        model: info.name.clone(),
        quantisation: info.quantisation.clone(),
        backend: info.backend.clone(),
        io: info.io.to_string(),
        io_depth: info.io_depth,
        read_bytes_per_second: info.read_bytes_per_second,
        memory_bytes: info.plan.memory_bytes,
        expert_cache_bytes: info.expert_cache_bytes,
        expert_bytes: info.expert_bytes,
        streams: 1,
        load_ms: loaded.load_time.as_secs_f64() * 1000.0,
        rss_bytes: None,
        prompt: nothing(),
        decode: nothing(),
        others_cpu: None,
    }
}

fn print(report: &Report) -> std::io::Result<()> {
    let Report { machine, cores, model, quantisation, backend, .. } = report;
    out::line(format_args!("machine  {machine}, {cores} cores"))?;
    out::line(format_args!("model    {model} ({quantisation}), {backend}"))?;
    let rate = report.read_bytes_per_second.map(|rate| format!(", {}/s", bytes(rate as u64)));
    out::line(format_args!(
        "experts  {}, {} in memory, read by {}, {} at once{}",
        bytes(report.expert_bytes),
        bytes(report.expert_cache_bytes),
        report.io,
        report.io_depth,
        rate.unwrap_or_default()
    ))?;
    line("prompt", &report.prompt)?;
    line(if report.streams > 1 { "together" } else { "decode" }, &report.decode)?;
    let memory = report.rss_bytes.map_or("unknown".to_owned(), bytes);
    out::line(format_args!("memory   {memory} of {}", bytes(report.memory_bytes)))?;
    let others = report.others_cpu.map_or("unknown".to_owned(), |o| format!("{:.0} %", o * 100.0));
    out::line(format_args!("others   {others} of the processor"))
}

fn line(name: &str, measured: &Measured) -> std::io::Result<()> {
    let rate = |rate: Option<f64>| rate.map_or("-".to_owned(), |rate| format!("{rate:.2}"));
    let all: Vec<String> =
        measured.tokens_per_second.iter().map(|rate| format!("{rate:.2}")).collect();
    let dropped = match measured.left_out {
        0.0 => String::new(),
        share => format!(", {:.1} % left out", share * 100.0),
    };
    out::line(format_args!(
        "{name:<8} {} tokens/s over {} tokens ({}); {} % hits, {} read a token, {:.0} % waiting{dropped}",
        rate(measured.median),
        measured.tokens,
        all.join(", "),
        rate(measured.hit_rate.map(|rate| rate * 100.0)),
        bytes(measured.read_bytes_per_token as u64),
        measured.stalled * 100.0
    ))
}

/// Processor time so far: of the machine without idling, of this process, in ticks.
#[derive(Clone, Copy)]
struct Busy {
    machine: u64,
    own: u64,
}

/// Ticks a second of the figures in /proc on every Linux that this runs on.
const TICKS_PER_SECOND: f64 = 100.0;

impl Busy {
    fn now() -> Option<Busy> {
        let stat = std::fs::read_to_string("/proc/stat").ok()?;
        let own = std::fs::read_to_string("/proc/self/stat").ok()?;
        Busy::parse(&stat, &own)
    }

    /// Source: proc_stat(5), proc_pid_stat(5).
    fn parse(stat: &str, own: &str) -> Option<Busy> {
        let columns = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
        let columns: Vec<u64> = columns.filter_map(|n| n.parse().ok()).collect();
        // user, nice, system, irq, softirq; without idle, iowait and what the host took.
        let machine = [0, 1, 2, 5, 6].iter().filter_map(|i| columns.get(*i)).sum();
        // After the name, which may hold blanks: state is the third field, utime the fourteenth.
        let fields: Vec<&str> = own.rsplit_once(')')?.1.split_whitespace().collect();
        let own = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
        Some(Busy { machine, own })
    }

    /// Share of all cores that others took until `later`.
    fn others(&self, later: &Busy, elapsed: Duration) -> Option<f64> {
        let cores = std::thread::available_parallelism().ok()?.get() as f64;
        let others = (later.machine - self.machine).saturating_sub(later.own - self.own) as f64;
        let all = elapsed.as_secs_f64() * TICKS_PER_SECOND * cores;
        (all > 0.0).then(|| (others / all).min(1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_others_is_what_is_not_idle_and_not_ours() {
        let parse = |stat, own| Busy::parse(stat, own).unwrap();
        let own = "7 (a b) c) R 1 1 1 0 -1 0 0 0 0 0 30 20 0 0";
        let first = parse("cpu  100 0 50 900 10 0 0 5\ncpu0 1", own);
        assert_eq!((first.machine, first.own), (150, 50));
        let later = parse("cpu  200 0 150 900 10 0 0 5", &own.replace("30 20", "80 70"));
        let cores = std::thread::available_parallelism().unwrap().get() as f64;
        let share = first.others(&later, Duration::from_secs(1)).unwrap();
        assert!((share - (1.0 / cores).min(1.0)).abs() < 1e-9, "{share}");
        assert!(Busy::parse("", "").is_none());
    }

    #[test]
    fn runs_have_different_prompts_and_the_same_length() {
        let tokens = |run| match request(20, 1, run).prompt {
            PromptInput::Tokens(tokens) => tokens,
            _ => panic!("tokens were asked for"),
        };
        assert_eq!(tokens(0).len(), 20);
        assert_ne!(tokens(0), tokens(1));
        assert!(tokens(3).iter().all(|token| *token < 250));
    }
}
