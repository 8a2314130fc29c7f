//! How soon the next turn of a long conversation begins, with and without checkpoints.
//!
//! Real layer shapes with random weights. Measured by hand: it takes minutes and some gigabytes.

use std::path::Path;

use sluice_engine::synth::{SynthOptions, synth};
use sluice_engine::{
    CheckpointOptions, Engine, EngineOptions, Finish, GenerationRequest, PromptInput, Reuse,
    SamplingOptions, StreamEvent,
};

const VOCABULARY: usize = 4096;

/// Seconds of all cores that this process has used: on a busy machine they say more than a clock.
fn core_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("there is a /proc");
    let (_, fields) = stat.rsplit_once(')').expect("the name stands in brackets");
    let ticks = |n: usize| -> f64 {
        fields.split_whitespace().nth(n).expect("a field").parse().expect("a number")
    };
    // User and system time, in hundredths; the fields after the name begin with the third.
    (ticks(11) + ticks(12)) / 100.0
}

/// How a reply ended, and the seconds of cores that it took.
fn answer(engine: &Engine, prompt: &[u32]) -> (Finish, f64) {
    let before = core_seconds();
    let request = GenerationRequest {
        sampling: SamplingOptions { temperature: Some(0.0), ..SamplingOptions::default() },
        max_tokens: Some(2),
        reuse: Some(Reuse { scope: (*b"one").into(), on_disk: false }),
        ..GenerationRequest::new(PromptInput::Tokens(prompt.to_vec()))
    };
    let mut stream = engine.submit(request).expect("there is room");
    loop {
        match stream.next_blocking() {
            Some(StreamEvent::Finished(finish)) => return (finish, core_seconds() - before),
            Some(StreamEvent::Delta(_)) => {}
            end => panic!("{end:?}"),
        }
    }
}

fn measure(path: &Path, like: &str, tokens: u32) {
    for memory_bytes in [None, Some(0)] {
        let options = EngineOptions {
            model: path.to_owned(),
            context_tokens: Some(12_288),
            running_max: Some(1),
            checkpoints: CheckpointOptions { memory_bytes, ..CheckpointOptions::default() },
            ..EngineOptions::default()
        };
        let engine = Engine::load(&options).expect("loads");
        let mut prompt: Vec<u32> = (0..tokens).map(|i| i * 97 % 280).collect();
        let (first, first_cores) = answer(&engine, &prompt);
        // What a person says next, and the end of the reply.
        prompt.extend((0..60).map(|i| 1 + i * 31 % 280));
        let (next, next_cores) = answer(&engine, &prompt);
        let kept = engine.checkpoint_use();
        println!(
            "{like}, {tokens} tokens: first turn {:.2} s ({first_cores:.2} s of cores); next turn {:.3} s \
             ({next_cores:.2} s of cores) with {} of {} tokens \
             restored; {} states kept in {:.1} MiB",
            first.prefill.as_secs_f64(),
            (next.queued + next.prefill).as_secs_f64(),
            next.cached_tokens,
            next.prompt_tokens,
            kept.kept,
            kept.memory_bytes as f64 / (1 << 20) as f64,
        );
        assert_eq!(next.cached_tokens > 0, memory_bytes.is_none());
    }
}

#[test]
#[ignore = "a measurement of minutes"]
fn turns_of_the_embedded_model() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let nano = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/nano");
    for entry in std::fs::read_dir(nano).expect("it ships") {
        let from = entry.expect("an entry").path();
        std::fs::copy(&from, dir.path().join(from.file_name().expect("a name"))).expect("copied");
    }
    // A pack says how long each of its files is, so a blank goes. What the model says past the context
    // that it was trained with is nonsense; the time is the same.
    let config = dir.path().join("config.json");
    let text = std::fs::read_to_string(&config).expect("read");
    let longer =
        text.replace("\"max_position_embeddings\": 4096", "\"max_position_embeddings\":16384");
    assert_ne!(text, longer);
    std::fs::write(&config, longer).expect("written");
    measure(dir.path(), "nano", 10_000);
}

#[test]
#[ignore = "a measurement of many minutes"]
fn turns_of_real_layer_shapes() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    for (like, layers) in [("qwen3.5-35b-a3b", 4), ("qwen3-30b-a3b", 2)] {
        let options = SynthOptions {
            like: like.to_owned(),
            destination: dir.path().join(like),
            layers: Some(layers),
            vocabulary: Some(VOCABULARY),
            quant: "q4_0".to_owned(),
            skew: 0.5,
            seed: 1,
        };
        synth(&options, &mut |_| {}).expect("written");
        measure(&options.destination, &format!("{like}, {layers} layers"), 10_000);
    }
}
