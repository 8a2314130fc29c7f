//! `sluice bench`: what this machine gets from a model: start-up, memory, prompt and decode speed.
//!
//! Start-up and memory are those of the gateway itself: it is started as a process of its own on free
//! ports and timed until it serves. Speeds are the engine's, measured in this process without HTTP;
//! each is the median of several runs. Prompts differ from run to run, so that nothing remembered from
//! one run can flatter the next.
//!
//! `sluice bench engine` measures the engine alone and what it reads. Not here: load tests of the gateway
//! and comparisons with other engines (`tests/bench`).

mod engine;

use std::fmt;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Subcommand;
use serde::Serialize;
use sluice_engine::{Finish, GenerationRequest, PromptInput, SamplingOptions};
use tokio::time::Instant;

use super::engine::{Loaded, ModelArgs, Speeds, message, milliseconds};
use super::progress::{Progress, Unit, bytes};
use super::run::generate;
use super::{Failure, Outcome, Status, out, serve};

/// Flags of `sluice bench`.
#[derive(clap::Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Args {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    model: ModelArgs,
    /// Tokens of the prompt whose reading is timed, about
    #[arg(long, value_name = "N", default_value_t = 512)]
    prompt_tokens: usize,
    /// Tokens to generate at most when decoding is timed
    #[arg(long, value_name = "N", default_value_t = 128)]
    decode_tokens: usize,
    /// Runs of each measurement; the median counts
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    runs: u64,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// What to measure instead of the whole.
#[derive(Subcommand, Debug)]
enum What {
    /// Measure the engine alone: prompt and decode speed, hits, reads, waiting
    Engine(engine::Args),
}

/// Everything measured.
#[derive(Serialize, Debug)]
struct Report {
    machine: String,
    cores: usize,
    model: String,
    quantisation: String,
    /// From starting the process to serving.
    startup_ms: f64,
    /// Resident memory of the gateway when it has started and nothing has been asked.
    rss_at_rest_bytes: Option<u64>,
    /// Reading the model alone.
    load_ms: f64,
    prompt_tokens: usize,
    prompt_tokens_per_second: Option<f64>,
    first_token_ms: f64,
    decode_tokens: usize,
    decode_tokens_per_second: Option<f64>,
    runs: u64,
}

/// Measures and prints.
pub(super) fn run(args: &Args) -> Outcome {
    if let Some(What::Engine(args)) = &args.what {
        return engine::run(args);
    }
    let mut progress = Progress::new("measuring", Unit::Items);
    let steps = 1 + 2 * args.runs;
    let mut done = 0;
    let mut step = || {
        done += 1;
        progress.update(done, steps);
    };
    let gateway = start_gateway(args)?;
    step();
    let loaded = args.model.load()?;
    let prompts = measure(args.runs, &loaded, &mut step, |run| read_prompt(args, run))?;
    let decodes = measure(args.runs, &loaded, &mut step, |run| write_reply(args, run))?;
    drop(progress);
    let report = report(args, &loaded, &gateway, &prompts, &decodes);
    if args.json {
        out::json(&report)?
    } else {
        out::piece(&report.to_string())?
    }
    Ok(Status::Done)
}

/// Runs one kind of generation several times, the slowest first and the fastest last in the result.
fn measure(
    runs: u64,
    loaded: &Loaded,
    step: &mut impl FnMut(),
    request: impl Fn(u64) -> GenerationRequest,
) -> Result<Vec<Finish>, Failure> {
    (0..runs)
        .map(|run| {
            let finish = generate(loaded, request(run), |_| Ok(()));
            step();
            finish
        })
        .collect()
}

/// A long prompt and one token of reply.
fn read_prompt(args: &Args, run: u64) -> GenerationRequest {
    const WORDS: [&str; 8] = ["the", "river", "runs", "past", "an", "old", "mill", "and"];
    let words = (0..args.prompt_tokens).map(|i| WORDS[(i + run as usize) % WORDS.len()]);
    let text = format!("Run {run}: {}", words.collect::<Vec<_>>().join(" "));
    request(PromptInput::Text(text), 1, run)
}

/// A short prompt and a long reply.
fn write_reply(args: &Args, run: u64) -> GenerationRequest {
    let prompt = format!("Write a long story about a lighthouse. Begin with the number {run}.");
    request(PromptInput::messages(vec![message("user", &prompt)]), args.decode_tokens, run)
}

fn request(prompt: PromptInput, max_tokens: usize, seed: u64) -> GenerationRequest {
    let sampling = SamplingOptions { seed: Some(seed), ..SamplingOptions::default() };
    GenerationRequest { sampling, max_tokens: Some(max_tokens), ..GenerationRequest::new(prompt) }
}

fn report(
    args: &Args,
    loaded: &Loaded,
    gateway: &Started,
    prompts: &[Finish],
    decodes: &[Finish],
) -> Report {
    let info = loaded.engine.info();
    let speeds = |finishes: &[Finish]| -> Vec<Speeds> {
        finishes.iter().map(|finish| Speeds::new(finish, loaded.load_time)).collect()
    };
    let (prompt, decode) = (speeds(prompts), speeds(decodes));
    Report {
        machine: processor(),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        model: info.name.clone(),
        quantisation: info.quantisation.clone(),
        startup_ms: milliseconds(gateway.startup),
        rss_at_rest_bytes: gateway.rss_bytes,
        load_ms: milliseconds(loaded.load_time),
        prompt_tokens: prompts.iter().map(|finish| finish.prompt_tokens).max().unwrap_or(0),
        prompt_tokens_per_second: median(prompt.iter().filter_map(|s| s.prompt_tokens_per_second)),
        first_token_ms: median(decode.iter().map(|s| s.first_token_ms)).unwrap_or(0.0),
        decode_tokens: decodes.iter().map(|finish| finish.completion_tokens).max().unwrap_or(0),
        decode_tokens_per_second: median(decode.iter().filter_map(|s| s.decode_tokens_per_second)),
        runs: args.runs,
    }
}

/// The middle value; of an even number the lower of the two, so that it was really measured.
fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate =
            |rate: Option<f64>| rate.map_or("not measured".to_owned(), |r| format!("{r:.1}"));
        let memory = self.rss_at_rest_bytes.map_or("not measured".to_owned(), bytes);
        writeln!(f, "machine         {}, {} cores", self.machine, self.cores)?;
        writeln!(f, "model           {} ({})", self.model, self.quantisation)?;
        writeln!(
            f,
            "start-up        {:.0} ms (reading the model alone: {:.0} ms)",
            self.startup_ms, self.load_ms
        )?;
        writeln!(f, "memory at rest  {memory}")?;
        let prompt = rate(self.prompt_tokens_per_second);
        writeln!(f, "prompt          {prompt} tokens/s over {} tokens", self.prompt_tokens)?;
        let decode = rate(self.decode_tokens_per_second);
        writeln!(f, "decode          {decode} tokens/s over {} tokens", self.decode_tokens)?;
        writeln!(f, "first token     {:.0} ms after a short prompt", self.first_token_ms)?;
        writeln!(f, "medians of {} runs", self.runs)
    }
}

// === The gateway as a process ===

/// What starting the gateway took.
struct Started {
    startup: Duration,
    rss_bytes: Option<u64>,
}

/// A child that is ended, and its folder removed, however the measurement goes.
struct Process {
    child: Child,
    state: PathBuf,
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both may already be gone; there is nothing more to do about it.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.state);
    }
}

fn start_gateway(args: &Args) -> Result<Started, Failure> {
    let model = args.model.options()?.model;
    let state = std::env::temp_dir().join(format!("sluice-bench-{}", std::process::id()));
    let begin = Instant::now();
    let child = gateway_command(&model, &state)?.spawn().context("failed to start the gateway")?;
    let mut process = Process { child, state };
    wait_until_it_serves(&mut process.child)?;
    let startup = begin.elapsed();
    Ok(Started { startup, rss_bytes: rss_bytes(process.child.id()) })
}

fn gateway_command(model: &Path, state: &Path) -> anyhow::Result<Command> {
    let executable = std::env::current_exe().context("failed to find this executable")?;
    let mut command = Command::new(executable);
    command
        .args(["serve", "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--model"])
        .arg(model)
        .env("XDG_STATE_HOME", state)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    Ok(command)
}

fn wait_until_it_serves(child: &mut Child) -> anyhow::Result<()> {
    let stdout = child.stdout.take().expect("stdout is piped above");
    for line in BufReader::new(stdout).lines() {
        if line.context("failed to read from the gateway")?.contains(serve::READY) {
            return Ok(());
        }
    }
    bail!("the gateway ended before it served; `sluice serve` says why");
}

/// Resident memory of a process, where the system tells it.
fn rss_bytes(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// The processor's name, where the system tells it.
fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    name.map_or(std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_a_value_that_was_measured() {
        let cases: [(&[f64], Option<f64>); 4] = [
            (&[], None),
            (&[3.0], Some(3.0)),
            (&[4.0, 1.0, 9.0], Some(4.0)),
            (&[4.0, 1.0, 9.0, 2.0], Some(2.0)),
        ];
        for (values, expected) in cases {
            assert_eq!(median(values.iter().copied()), expected);
        }
    }

    #[test]
    fn memory_of_this_process_is_known_on_linux() {
        if cfg!(target_os = "linux") {
            assert!(rss_bytes(std::process::id()).unwrap() > 100 * 1024);
        }
    }
}
