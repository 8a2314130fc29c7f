//! The same tokens give the same bits however the work is cut up, and the backends agree.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use super::tiny;
use super::{LoadedModel, Step};
use crate::engine::{BackendChoice, EngineOptions};
use crate::error::EngineError;
use crate::expert::testing::{Fault, Faulty};
use crate::io::IoChoice;
use crate::tokenizer::TokenId;

/// Largest difference between the backends on a tiny f32 model: the order of f32 sums.
const BACKEND_LOGIT_ERR_MAX: f32 = 2e-3;

struct Fixture {
    dir: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        tiny::write(&dir.path().join("source"), 7);
        let options = crate::pack::PackOptions {
            source: dir.path().join("source"),
            destination: dir.path().join("pack"),
            experts: "q4_0".to_owned(),
            dense: "q8_0".to_owned(),
            classes: Vec::new(),
            name: None,
            quality: None,
        };
        crate::pack::pack(&options, &mut |_| {}).expect("packs");
        Fixture { dir }
    }

    fn load(&self, which: &str, change: impl FnOnce(&mut EngineOptions)) -> LoadedModel {
        let mut options = EngineOptions {
            model: self.dir.path().join(which),
            backend: BackendChoice::Cpu,
            threads: Some(1),
            ..EngineOptions::default()
        };
        change(&mut options);
        LoadedModel::load(&options).expect("loads")
    }
}

fn tokens(seed: u32, count: u32) -> Vec<TokenId> {
    (0..count).map(|i| (i * 37 + seed * 101 + i * i * 5) % 256).collect()
}

/// Logits after the last token, the prompt read in chunks of the given sizes (the last repeats).
pub(super) fn chunked(model: &mut LoadedModel, tokens: &[TokenId], sizes: &[usize]) -> Vec<f32> {
    try_chunked(model, tokens, sizes).expect("runs")
}

fn try_chunked(
    model: &mut LoadedModel,
    tokens: &[TokenId],
    sizes: &[usize],
) -> Result<Vec<f32>, EngineError> {
    let mut sequence = model.new_sequence();
    let mut logits = Vec::new();
    let (mut rest, mut sizes) =
        (tokens, sizes.iter().chain(std::iter::repeat(&sizes[sizes.len() - 1])));
    while !rest.is_empty() {
        let size = (*sizes.next().expect("endless")).min(rest.len());
        let (now, later) = rest.split_at(size);
        let step = Step::new(&mut sequence, now, Some(&mut logits));
        model.forward(&mut [step])?;
        rest = later;
    }
    Ok(logits)
}

#[test]
fn chunks_threads_caches_and_readers_change_no_bit() {
    let fixture = Fixture::new();
    for which in ["source", "pack"] {
        let prompt = tokens(1, 45);
        let expected = chunked(&mut fixture.load(which, |_| {}), &prompt, &[45]);
        assert!(expected.iter().all(|l| l.is_finite()));
        for sizes in [&[1][..], &[7, 1, 13], &[44, 1], &[3]] {
            assert_eq!(chunked(&mut fixture.load(which, |_| {}), &prompt, sizes), expected);
        }
        // Room for nothing, for one expert (slots are whole pages), for some and for all.
        for io in [
            IoChoice::Auto,
            IoChoice::Uring,
            IoChoice::Direct,
            IoChoice::Buffered,
            IoChoice::Mapped,
        ] {
            for (threads, cache, look_ahead) in [
                (1, 0, false),
                (2, 4096, true),
                (3, 60_000, true),
                (2, 60_000, false),
                (2, u64::MAX, true),
            ] {
                let mut model = fixture.load(which, |o| {
                    o.threads = Some(threads);
                    o.expert_cache_bytes = Some(cache);
                    o.io = io;
                    o.look_ahead = Some(look_ahead);
                });
                assert_eq!(
                    chunked(&mut model, &prompt, &[20, 1]),
                    expected,
                    "{which}, {threads} threads, cache of {cache} bytes, {io}, ahead: {look_ahead}"
                );
                assert!(model.read_counts().cached_bytes <= cache);
            }
        }
    }
}

#[test]
fn every_failing_read_is_healed_or_named_and_the_next_tokens_are_right() {
    let fixture = Fixture::new();
    let prompt = tokens(5, 5);
    // One expert at a time and nothing kept: the attempts at an expert are neighbours.
    let load = |io| {
        fixture.load("pack", |o| {
            (o.io, o.io_depth) = (io, Some(1));
            (o.expert_cache_bytes, o.look_ahead) = (Some(0), Some(false));
        })
    };
    for io in [IoChoice::Direct, IoChoice::Uring] {
        let mut model = load(io);
        let expected = chunked(&mut model, &prompt, &[3, 1]);
        let reads = model.read_counts().misses as usize;
        assert!(reads > 30, "{reads}");
        for from in 0..reads {
            for (fault, count) in
                [(Fault::Fail, 1), (Fault::Corrupt, 1), (Fault::Fail, 2), (Fault::Corrupt, 2)]
            {
                let counter = Arc::new(AtomicUsize::new(0));
                model.wrap_files(|inner| {
                    let reads = Arc::clone(&counter);
                    Arc::new(Faulty { inner, fault, from, count, reads })
                });
                let result = try_chunked(&mut model, &prompt, &[3, 1]);
                match (count, result) {
                    (1, result) => assert_eq!(result.expect("healed"), expected, "{io} {from}"),
                    (_, Ok(_)) => panic!("{io}: both attempts at read {from} failed"),
                    (_, Err(error)) => {
                        let says = if fault == Fault::Fail { "said no" } else { "CRC32C" };
                        let text = error.to_string();
                        assert!(text.contains("failed to read expert"), "{io} {from}: {text}");
                        assert!(text.contains(says), "{io} {from}: {text}");
                    }
                }
                assert_eq!(chunked(&mut model, &prompt, &[3, 1]), expected, "{io} {from}");
                model = load(io);
            }
        }
    }
}

#[test]
fn neighbours_in_a_batch_change_no_bit() {
    let fixture = Fixture::new();
    let mut model = fixture.load("pack", |o| o.threads = Some(2));
    let prompts = [tokens(1, 9), tokens(2, 31), tokens(3, 1), tokens(4, 18)];
    let alone: Vec<_> = prompts.iter().map(|p| chunked(&mut model, p, &[p.len()])).collect();
    let mut sequences: Vec<_> = prompts.iter().map(|_| model.new_sequence()).collect();
    let mut logits = vec![Vec::new(); prompts.len()];
    let mut batch: Vec<_> = sequences
        .iter_mut()
        .zip(&prompts)
        .zip(&mut logits)
        .map(|((sequence, tokens), logits)| Step::new(sequence, tokens, Some(logits)))
        .collect();
    model.forward(&mut batch).expect("runs");
    assert_eq!(logits, alone);
}

#[test]
fn the_fast_backend_agrees_with_the_reference() {
    let fixture = Fixture::new();
    let prompt = tokens(5, 30);
    let run = |backend| {
        let mut model = fixture.load("source", |o| o.backend = backend);
        let mut sequence = model.new_sequence();
        model.forward_all(&mut sequence, &prompt).expect("runs")
    };
    let (exact, fast) = (run(BackendChoice::Reference), run(BackendChoice::Cpu));
    let largest = exact.iter().zip(&fast).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(largest <= BACKEND_LOGIT_ERR_MAX, "{largest}");
}

#[test]
fn broken_configs_are_errors_that_name_the_field() {
    let cases = [
        ("\"hidden_size\":64", "\"hidden_size\":-3", "hidden_size"),
        ("\"hidden_size\":64", "\"hidden_size\":99999999999", "hidden_size"),
        ("\"hidden_size\":64", "\"hidden_size\":96", "shape"),
        ("\"num_experts\":8", "\"num_experts\":9", "shape"),
        ("\"num_experts_per_tok\":3", "\"num_experts_per_tok\":30", "num_experts_per_tok"),
        ("\"num_key_value_heads\":2", "\"num_key_value_heads\":3", "num_key_value_heads"),
        ("\"partial_rotary_factor\":0.5", "\"partial_rotary_factor\":7", "partial_rotary_factor"),
        ("\"hidden_act\":\"silu\"", "\"hidden_act\":\"gelu\"", "hidden_act"),
        ("qwen3_5_moe_text", "mamba9", "mamba9"),
        ("{", "[", "JSON"),
    ];
    for (from, to, says) in cases {
        let dir = tempfile::tempdir().expect("a temporary folder");
        tiny::write(dir.path(), 1);
        let path = dir.path().join("config.json");
        let text = std::fs::read_to_string(&path).expect("there");
        assert!(text.contains(from), "{from} in {text}");
        std::fs::write(&path, text.replacen(from, to, 1)).expect("written");
        let options = EngineOptions { model: dir.path().to_owned(), ..EngineOptions::default() };
        let error = LoadedModel::load(&options).err().expect("refused").to_string();
        assert!(error.contains(says), "expected {says}: {error}");
    }
}
