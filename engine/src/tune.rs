//! Finds by measured speed how a model runs best on this machine: threads, reads at once, memory.
//!
//! Hits are not speed: a larger cache can push out what the system needs, more threads can wait for each
//! other. So every setting is tried by writing tokens, one setting at a time, and one takes the place of
//! the best so far only if it is faster by a margin: two runs of the same differ by a little. Not here:
//! where the result is kept.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::clock::Clock;
use crate::engine::{
    Engine, EngineOptions, GenerationRequest, ModelInfo, PromptInput, SamplingOptions, StreamEvent,
};
use crate::error::EngineError;
use crate::model::default_threads;
use crate::plan::machine::Machine;
use crate::weights::{Weights, manifest};

/// How much faster a setting must be.
const MARGIN: f64 = 1.03;
/// Reads at once that are tried.
const DEPTHS: [usize; 4] = [4, 8, 16, 32];
/// Parts of the usual memory that are tried, in quarters.
const MEMORY_QUARTERS: [u64; 2] = [3, 2];
/// Tokens of a reply that is timed.
const REPLY_TOKENS: usize = 24;
/// Bytes at the start of each file that count for a model's digest, with the file's length.
const HEAD_BYTES: u64 = 64 << 10;
/// Beginnings of different kinds, so that gates choose as they do in use.
const BEGINNINGS: [&str; 4] = [
    "The harbour was quiet that morning, and the first boats",
    "fn median(values: &mut [f64]) -> Option<f64> {\n",
    "Question: why does bread rise in the oven?\nAnswer:",
    "{\"name\": \"pump 7\", \"state\": \"running\", \"history\": [",
];

/// What is tried.
#[derive(Clone, Debug)]
pub struct TuneOptions {
    /// The model; what is set here is kept and not tried.
    pub engine: EngineOptions,
    /// About how long it may take in all.
    pub time: Duration,
}

/// The settings that were fastest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tuned {
    /// Compute threads.
    pub threads: usize,
    /// Experts that are read at once; `None` where all are in memory.
    pub io_depth: Option<usize>,
    /// Bytes of the process; `None` where no less than usual was faster.
    pub memory_bytes: Option<u64>,
    /// Tokens a second that were written with them.
    pub tokens_per_second: f64,
}

/// One setting and its speed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Trial {
    /// Compute threads.
    pub threads: usize,
    /// Experts that were read at once.
    pub io_depth: usize,
    /// Bytes of the process.
    pub memory_bytes: u64,
    /// Tokens written a second.
    pub tokens_per_second: f64,
    /// Share of expert look-ups that hit.
    pub hit_rate: f64,
}

/// Everything tried, in order, and the best.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TuneReport {
    /// In the order in which they were tried; the first is what is used without tuning.
    pub trials: Vec<Trial>,
    /// Settings for which no time was left.
    pub skipped: usize,
    /// The fastest.
    pub best: Tuned,
}

impl Tuned {
    /// Fills what the options leave open. Memory is never more than the machine has now, and left alone
    /// where anything is said that it is divided by.
    pub fn apply(&self, options: &mut EngineOptions) {
        options.threads = options.threads.or(Some(self.threads));
        options.io_depth = options.io_depth.or(self.io_depth);
        let open = options.memory_bytes.is_none()
            && options.expert_cache_bytes.is_none()
            && options.context_tokens.is_none()
            && options.running_max.is_none();
        if let Some(bytes) = self.memory_bytes.filter(|_| open) {
            options.memory_bytes = Some(bytes.min(Machine::measure().budget()));
        }
    }
}

/// Names this machine together with a model: other processors, cores or memory, and other files, have
/// another name. Reads a little of each file.
pub fn key(model: &Path) -> Result<String, EngineError> {
    let mut hash = Sha256::new();
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let processor = info.lines().find(|line| line.starts_with("model name")).unwrap_or("");
    let gibibytes = Machine::measure().total_bytes() >> 30;
    hash.update(format!("{processor}\n{}\n{gibibytes}\n", default_threads()));
    let manifest = model.join(manifest::FILE_NAME);
    if manifest.exists() {
        // Holds the digest of every file.
        let text = std::fs::read(&manifest);
        hash.update(text.map_err(|source| EngineError::Read { path: manifest, source })?);
    } else {
        for file in Weights::open(model)?.files() {
            let mut head = vec![0; file.len().min(HEAD_BYTES) as usize];
            file.read_exact_at(&mut head, 0)
                .map_err(|source| EngineError::Read { path: file.path().to_owned(), source })?;
            hash.update(file.len().to_le_bytes());
            hash.update(head);
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Tries settings one after another; `progress` sees each that was tried.
pub fn tune(
    options: &TuneOptions,
    progress: &mut dyn FnMut(&Trial),
) -> Result<TuneReport, EngineError> {
    let clock = Clock::System;
    let started = clock.now();
    let share = options.time / 8;
    let mut run = |options: &EngineOptions| -> Result<(Trial, ModelInfo), EngineError> {
        let (trial, info) = attempt(options, share, &clock)?;
        progress(&trial);
        Ok((trial, info))
    };
    let threads = options.engine.threads.unwrap_or_else(default_threads);
    let mut best = EngineOptions { threads: Some(threads), ..options.engine.clone() };
    let (first, info) = run(&best)?;
    let (mut fastest, mut trials, mut skipped) = (first.clone(), vec![first], 0);
    for change in changes(&options.engine, threads, &info) {
        if clock.since(started) + share > options.time {
            skipped += 1;
            continue;
        }
        let candidate = change.on(&best);
        let (trial, _) = run(&candidate)?;
        if trial.tokens_per_second > fastest.tokens_per_second * MARGIN {
            (fastest, best) = (trial.clone(), candidate);
        }
        trials.push(trial);
    }
    let streams = info.plan.experts_cached < info.plan.experts;
    let best = Tuned {
        threads: fastest.threads,
        io_depth: streams.then_some(fastest.io_depth),
        memory_bytes: best.memory_bytes.filter(|_| options.engine.memory_bytes.is_none()),
        tokens_per_second: fastest.tokens_per_second,
    };
    Ok(TuneReport { trials, skipped, best })
}

/// One setting that differs from the best so far.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Change {
    Threads(usize),
    Depth(usize),
    Memory(u64),
}

impl Change {
    fn on(self, best: &EngineOptions) -> EngineOptions {
        let mut options = best.clone();
        match self {
            Change::Threads(threads) => options.threads = Some(threads),
            Change::Depth(depth) => options.io_depth = Some(depth),
            Change::Memory(bytes) => options.memory_bytes = Some(bytes),
        }
        options
    }
}

/// What is worth trying: fewer threads; where experts are streamed also other depths, and less memory.
fn changes(given: &EngineOptions, threads: usize, info: &ModelInfo) -> Vec<Change> {
    let mut changes = Vec::new();
    if given.threads.is_none() {
        let mut fewer: Vec<usize> =
            [threads / 2, threads - 1].into_iter().filter(|n| (1..threads).contains(n)).collect();
        fewer.dedup();
        changes.extend(fewer.into_iter().map(Change::Threads));
    }
    let plan = &info.plan;
    if plan.experts_cached < plan.experts {
        if given.io_depth.is_none() {
            let others = DEPTHS.into_iter().filter(|depth| *depth != info.io_depth);
            changes.extend(others.map(Change::Depth));
        }
        if given.memory_bytes.is_none() && given.expert_cache_bytes.is_none() {
            let less = MEMORY_QUARTERS.map(|quarters| plan.memory_bytes / 4 * quarters);
            let enough = less.into_iter().filter(|bytes| *bytes > plan.floor_bytes);
            changes.extend(enough.map(Change::Memory));
        }
    }
    changes
}

/// Loads the model so, writes for half of the time until the cache has seen something, and is timed for
/// the other half.
fn attempt(
    options: &EngineOptions,
    time: Duration,
    clock: &Clock,
) -> Result<(Trial, ModelInfo), EngineError> {
    let started = clock.now();
    let engine = Engine::load(options)?;
    let (mut tokens, mut seconds, mut before) = (0, 0.0, engine.expert_use());
    for round in 0.. {
        let warm = clock.since(started) < time / 2 && round < BEGINNINGS.len() as u64;
        if !warm && tokens > 0 && clock.since(started) >= time {
            break;
        }
        // A model that ends every reply at once is as fast as it says when that is seen often.
        if round > 10_000 {
            break;
        }
        let (count, took) = write(&engine, round)?;
        if warm {
            before = engine.expert_use();
        } else {
            (tokens, seconds) = (tokens + count, seconds + took.as_secs_f64());
        }
    }
    let used = engine.expert_use().since(&before);
    let info = engine.info().clone();
    let trial = Trial {
        threads: options.threads.unwrap_or_else(default_threads),
        io_depth: info.io_depth,
        memory_bytes: info.plan.memory_bytes,
        tokens_per_second: if seconds > 0.0 { tokens as f64 / seconds } else { 0.0 },
        hit_rate: used.hit_rate().unwrap_or(1.0),
    };
    Ok((trial, info))
}

/// Writes one reply; tokens after its first, and their time.
fn write(engine: &Engine, round: u64) -> Result<(usize, Duration), EngineError> {
    let beginning = BEGINNINGS[round as usize % BEGINNINGS.len()];
    let sampling =
        SamplingOptions { temperature: Some(1.0), seed: Some(round), ..SamplingOptions::default() };
    let prompt = PromptInput::Text(beginning.to_owned());
    let max_tokens = Some(REPLY_TOKENS);
    let request = GenerationRequest { sampling, max_tokens, ..GenerationRequest::new(prompt) };
    let mut stream = engine.submit(request)?;
    while let Some(event) = stream.next_blocking() {
        match event {
            StreamEvent::Delta(_) => {}
            StreamEvent::Finished(finish) => {
                return Ok((finish.completion_tokens.saturating_sub(1), finish.decode));
            }
            StreamEvent::Failed(error) => {
                return Err(Arc::into_inner(error).unwrap_or(EngineError::Stopped));
            }
        }
    }
    Err(EngineError::Stopped)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tiny;

    fn options(model: &Path) -> EngineOptions {
        EngineOptions { model: model.to_owned(), ..EngineOptions::default() }
    }

    #[test]
    fn every_setting_that_is_open_is_tried_and_the_fastest_is_kept() {
        let dir = tempfile::tempdir().expect("a folder");
        tiny::write(dir.path(), 1);
        let engine = EngineOptions { threads: Some(2), ..options(dir.path()) };
        let time = Duration::from_millis(40);
        let mut seen = 0;
        let report = tune(&TuneOptions { engine, time }, &mut |_| seen += 1).expect("runs");
        assert_eq!((report.trials.len(), seen), (1, 1), "threads are given, all experts fit");
        assert_eq!((report.best.threads, report.best.io_depth), (2, None));
        assert!(report.best.tokens_per_second > 0.0 && report.best.memory_bytes.is_none());
    }

    #[test]
    fn what_is_given_is_not_tried_and_what_streams_has_more_to_try() {
        let dir = tempfile::tempdir().expect("a folder");
        tiny::write(dir.path(), 1);
        let engine = Engine::load(&options(dir.path())).expect("loads");
        let mut info = engine.info().clone();
        let open = options(dir.path());
        assert_eq!(changes(&open, 4, &info), [Change::Threads(2), Change::Threads(3)]);
        assert_eq!(changes(&open, 1, &info), []);
        (info.plan.experts, info.plan.experts_cached, info.io_depth) = (10, 5, 8);
        (info.plan.memory_bytes, info.plan.floor_bytes) = (1000, 600);
        assert_eq!(
            changes(&open, 1, &info),
            [Change::Depth(4), Change::Depth(16), Change::Depth(32), Change::Memory(750)]
        );
        let given =
            EngineOptions { io_depth: Some(8), memory_bytes: Some(1000), ..options(dir.path()) };
        assert_eq!(changes(&given, 1, &info), []);
    }

    #[test]
    fn tuned_settings_fill_only_what_is_open() {
        let tuned = Tuned {
            threads: 3,
            io_depth: Some(16),
            memory_bytes: Some(1 << 20),
            tokens_per_second: 5.0,
        };
        let mut open = EngineOptions::default();
        tuned.apply(&mut open);
        assert_eq!(
            (open.threads, open.io_depth, open.memory_bytes),
            (Some(3), Some(16), Some(1 << 20))
        );
        let mut given = EngineOptions {
            threads: Some(1),
            io_depth: Some(2),
            context_tokens: Some(512),
            ..EngineOptions::default()
        };
        tuned.apply(&mut given);
        assert_eq!((given.threads, given.io_depth, given.memory_bytes), (Some(1), Some(2), None));
        let mut more = EngineOptions::default();
        Tuned { memory_bytes: Some(u64::MAX), ..tuned }.apply(&mut more);
        assert!(more.memory_bytes < Some(u64::MAX), "no more than the machine has");
    }

    #[test]
    fn other_files_have_another_key() {
        let dir = tempfile::tempdir().expect("a folder");
        tiny::write(dir.path(), 1);
        let first = key(dir.path()).expect("a model");
        assert_eq!(first, key(dir.path()).expect("a model"));
        let other = tempfile::tempdir().expect("a folder");
        tiny::write(other.path(), 2);
        assert_ne!(first, key(other.path()).expect("a model"));
        assert!(key(&dir.path().join("nothing")).is_err());
    }
}
