//! The memory budget of a process that streams experts holds.
//!
//! A test of its own process: resident memory counts everything in it. It runs some seconds, or as many
//! as `SLUICE_MEMORY_SECONDS` says.

use std::path::Path;
use std::time::{Duration, SystemTime};

use sluice_engine::synth::{SynthOptions, synth};
use sluice_engine::{Engine, EngineOptions, GenerationRequest, PromptInput, SamplingOptions};
use sluice_engine::{Reuse, StreamEvent, TokenStream};

/// How far above its budget the process may be, 5 %.
const OVER_MAX: f64 = 1.05;
const BUDGET: u64 = 320 << 20;

fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("there is a /proc");
    let pages: u64 = statm.split(' ').nth(1).expect("two numbers").parse().expect("a number");
    pages * 4096
}

fn model(path: &Path) {
    let options = SynthOptions {
        like: "qwen3-30b-a3b".to_owned(),
        destination: path.to_owned(),
        layers: Some(1),
        vocabulary: Some(4096),
        quant: "q4_0".to_owned(),
        skew: 0.5,
        seed: 1,
    };
    synth(&options, &mut |_| {}).expect("written");
}

/// Reads a stream to its end; the largest resident memory seen.
fn drain(mut stream: TokenStream) -> u64 {
    let mut most = resident();
    while let Some(event) = stream.next_blocking() {
        most = most.max(resident());
        if let StreamEvent::Failed(error) = event {
            panic!("{error}");
        }
    }
    most
}

#[test]
fn resident_memory_stays_within_its_budget() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let path = dir.path().join("model");
    model(&path);
    let seconds = std::env::var("SLUICE_MEMORY_SECONDS").ok().and_then(|s| s.parse().ok());
    let time = Duration::from_secs(seconds.unwrap_or(6));
    let options = EngineOptions {
        model: path,
        memory_bytes: Some(BUDGET),
        running_max: Some(2),
        context_tokens: Some(1024),
        ..EngineOptions::default()
    };
    let engine = Engine::load(&options).expect("the budget holds the model");
    let plan = &engine.info().plan;
    assert!(plan.experts_cached < plan.experts, "experts are streamed: {plan:?}");
    let started = SystemTime::now();
    let (mut round, mut most) = (0, resident());
    while started.elapsed().is_ok_and(|elapsed| elapsed < time) || round < 2 {
        // Prompts of many lengths, two at a time.
        let request = |seed: u64| GenerationRequest {
            sampling: SamplingOptions { seed: Some(seed), ..SamplingOptions::default() },
            max_tokens: Some(8),
            reuse: Some(Reuse { scope: [(seed % 3) as u8].into(), on_disk: false }),
            ..GenerationRequest::new(PromptInput::Tokens(
                (0..1 + (seed * 331 % 400) as u32).map(|i| i * 97 % 280).collect(),
            ))
        };
        let streams = [request(2 * round), request(2 * round + 1)].map(|r| engine.submit(r));
        for stream in streams {
            most = most.max(drain(stream.expect("there is room")));
        }
        round += 1;
    }
    let share = most as f64 / BUDGET as f64;
    assert!(share <= OVER_MAX, "{share:.3} of the budget after {round} rounds: {plan:?}");
    let kept = engine.checkpoint_use();
    assert!(kept.memory_bytes <= plan.checkpoint_bytes && plan.checkpoint_bytes > 0, "{kept:?}");
    assert!(kept.kept > 0, "{kept:?}");
    let used = engine.expert_use();
    assert!(used.misses > 0 && used.hits > 0, "{used:?}");
}
