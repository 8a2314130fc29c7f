//! `sluice model tune`: finds by measured speed which threads, reads at once and memory suit a model on
//! this machine, and remembers them.

use std::path::PathBuf;
use std::time::Duration;

use sluice::tuning::{self, Remembered};
use sluice_engine::tune::{Trial, TuneOptions, Tuned, tune};

use super::engine::EngineArgs;
use super::progress::bytes;
use super::{OrUsage, Outcome, Status, out};

/// Flags of `sluice model tune`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// A pack, a Hugging Face directory, or a GGUF file or a folder with one
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// About how long to measure
    #[arg(long, value_name = "S", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Remember nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    engine: EngineArgs,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Measures, prints and remembers.
pub(super) fn run(args: &Args) -> Outcome {
    let options = TuneOptions {
        engine: args.engine.options(args.path.clone()),
        time: Duration::from_secs(u64::from(args.seconds)),
    };
    let report =
        tune(&options, &mut |trial| out::note(format_args!("{}", line(trial)))).or_usage()?;
    if args.json {
        out::json(&report)?;
    } else {
        let left = match report.skipped {
            0 => String::new(),
            count => format!("; no time was left for {count} more"),
        };
        out::line(format_args!("fastest  {}{left}", settings(&report.best)))?;
    }
    if !args.dry_run {
        let file = tuning::remember(&args.path, &report.best)?;
        out::note(format_args!("remembered in {}", file.display()));
    }
    Ok(Status::Done)
}

fn line(trial: &Trial) -> String {
    format!(
        "{:.2} tokens/s: {} threads, {} reads at once, {} of memory, {:.1} % hits",
        trial.tokens_per_second,
        trial.threads,
        trial.io_depth,
        bytes(trial.memory_bytes),
        trial.hit_rate * 100.0
    )
}

/// Settings in words.
pub(super) fn settings(tuned: &Tuned) -> String {
    let depth = tuned.io_depth.map(|depth| format!(", {depth} reads at once"));
    let memory = tuned.memory_bytes.map(|size| format!(", {} of memory", bytes(size)));
    format!(
        "{} threads{}{}, {:.2} tokens/s when measured",
        tuned.threads,
        depth.unwrap_or_default(),
        memory.unwrap_or_default(),
        tuned.tokens_per_second
    )
}

/// Says on stderr what is used of a model's measurement, or why none is.
pub(super) fn note(remembered: &Remembered) {
    if let Some(tuned) = &remembered.tuned {
        out::note(format_args!("tuned: {}; flags are stronger", settings(tuned)));
    }
    if let Some(warning) = &remembered.warning {
        out::note(format_args!("warning: {warning}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_say_only_what_was_chosen() {
        let mut tuned =
            Tuned { threads: 2, io_depth: None, memory_bytes: None, tokens_per_second: 9.876 };
        assert_eq!(settings(&tuned), "2 threads, 9.88 tokens/s when measured");
        (tuned.io_depth, tuned.memory_bytes) = (Some(16), Some(3 << 30));
        assert_eq!(
            settings(&tuned),
            "2 threads, 16 reads at once, 3.0 GiB of memory, 9.88 tokens/s when measured"
        );
    }
}
