//! Each family against transformers, and against itself.
//!
//! `testdata/tiny/` has a random model of each, with logits at every position and greedy tokens that
//! transformers computed in f32. Weights are bf16, so nothing is quantised on either side: what remains
//! is the order of f32 sums. The same weights lie there as GGUF, by the rules of llama.cpp's converter.

use super::parity::{Text, best_and_margin, load, reference};
use super::tests::chunked;
use super::tiny::{FAMILIES, checkpoint, gguf, packed};
use super::wide;
use super::{LoadedModel, Step};
use crate::engine::{BackendChoice, EngineOptions};
use crate::tensor::DType;
use crate::tokenizer::TokenId;

/// Largest difference of a logit from transformers', with sums in f64.
const REFERENCE_LOGIT_ERR_MAX: f32 = 1e-4;
/// The same with the fast backend's sums in f32.
const CPU_LOGIT_ERR_MAX: f32 = 2e-4;
/// Largest difference between the forms of a model: the converter's e^A, and the order in which
/// `qwen35moe` sums its value heads.
const FORM_LOGIT_ERR_MAX: f32 = 2e-5;
/// Mean difference of a logit from what the oracle computes of the same quantised weights, for logits up
/// to 12: the cost of 8-bit activations in random models, where nothing evens out.
const ACTIVATION_LOGIT_MEAN_MAX: f64 = 0.15;

pub(super) const BACKENDS: [(BackendChoice, f32); 2] =
    [(BackendChoice::Reference, REFERENCE_LOGIT_ERR_MAX), (BackendChoice::Cpu, CPU_LOGIT_ERR_MAX)];

pub(super) fn texts(family: &str) -> Vec<Text> {
    let texts = reference(&checkpoint(family).join("reference.safetensors"));
    assert_eq!(texts.len(), 2);
    texts
}

/// The largest difference of a logit; demands the same argmax wherever the reference is clear.
fn largest_difference(model: &mut LoadedModel, text: &Text, tolerance: f32) -> f32 {
    let mut sequence = model.new_sequence();
    let logits = model.forward_all(&mut sequence, &text.ids).expect("runs");
    let vocab = logits.len() / text.ids.len();
    let mut clear = 0;
    for (ours, theirs) in logits.chunks(vocab).zip(text.logits.chunks(vocab)) {
        let (best, margin) = best_and_margin(theirs);
        if margin > 2.0 * tolerance {
            clear += 1;
            assert_eq!(best_and_margin(ours).0, best);
        }
    }
    assert!(2 * clear > text.ids.len(), "most positions must be clear to show anything");
    difference(&logits, &text.logits)
}

/// The largest difference of two numbers at the same place; infinite if one is no number.
fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    differences.map(|d| if d.is_nan() { f32::INFINITY } else { d }).fold(0.0, f32::max)
}

/// Tokens chosen greedily after a prompt.
pub(super) fn greedy(model: &mut LoadedModel, prompt: &[TokenId], count: usize) -> Vec<TokenId> {
    let mut sequence = model.new_sequence();
    let (mut logits, mut tokens, mut chosen) = (Vec::new(), prompt.to_vec(), Vec::new());
    while chosen.len() < count {
        let logits = &mut logits;
        let step = Step::new(&mut sequence, &tokens, Some(logits));
        model.forward(&mut [step]).expect("runs");
        tokens = vec![best_and_margin(logits).0 as TokenId];
        chosen.push(tokens[0]);
    }
    chosen
}

#[test]
fn logits_agree_with_transformers() {
    for (family, (backend, tolerance)) in FAMILIES.iter().flat_map(|f| BACKENDS.map(|b| (*f, b))) {
        let mut model = load(checkpoint(family), backend);
        let differences = texts(family)
            .iter()
            .map(|text| largest_difference(&mut model, text, tolerance))
            .fold(0.0, f32::max);
        println!("{family} {backend:?}: {differences:e}");
        assert!(differences <= tolerance, "{family} {backend:?}: {differences:e}");
    }
}

#[test]
fn greedy_tokens_are_those_of_transformers() {
    for (family, (backend, _)) in FAMILIES.iter().flat_map(|f| BACKENDS.map(|b| (*f, b))) {
        let mut model = load(checkpoint(family), backend);
        for text in texts(family) {
            assert!(!text.greedy.is_empty());
            let ours = greedy(&mut model, &text.ids, text.greedy.len());
            assert_eq!(ours, text.greedy, "{family} {backend:?}");
        }
    }
}

#[test]
fn chunks_neighbours_and_threads_change_no_bit_of_any_family() {
    for (family, (backend, _)) in FAMILIES.iter().flat_map(|f| BACKENDS.map(|b| (*f, b))) {
        let [long, short] = &texts(family)[..] else { panic!("two texts") };
        let mut model = load(checkpoint(family), backend);
        let whole = chunked(&mut model, &long.ids, &[long.ids.len()]);
        for sizes in [&[1][..], &[7, 1, 13], &[36, 1], &[3]] {
            assert_eq!(chunked(&mut model, &long.ids, sizes), whole, "{family} {sizes:?}");
        }
        let alone = chunked(&mut model, &short.ids, &[short.ids.len()]);
        assert_eq!(in_a_batch(&mut model, &[&short.ids, &long.ids]), [alone, whole.clone()]);
        for threads in [2, 3] {
            let options = EngineOptions {
                model: checkpoint(family),
                backend,
                threads: Some(threads),
                ..EngineOptions::default()
            };
            let mut model = LoadedModel::load(&options).expect("loads");
            assert_eq!(chunked(&mut model, &long.ids, &[20, 1]), whole, "{family} {threads}");
        }
    }
}

/// The types whose dot products have vector code of their own, of each kind: one scale, scales of
/// scales, minimums, powers of two.
const QUANTISED: [DType; 5] = [DType::Q4_0, DType::Q8_0, DType::Q4K, DType::Q6K, DType::Mxfp4];

#[test]
fn quantised_weights_give_the_same_bits_however_tokens_and_rows_are_divided() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let prompt: Vec<TokenId> = (0..11).map(|i| (i * 37 + i * i * 5) % 256).collect();
    for dtype in QUANTISED {
        let model = wide::gguf("qwen3_5_moe", dtype, dir.path());
        for (backend, _) in BACKENDS {
            let mut alone = load(model.clone(), backend);
            let whole = chunked(&mut alone, &prompt, &[prompt.len()]);
            for sizes in [&[1][..], &[3, 1, 4]] {
                assert_eq!(
                    chunked(&mut alone, &prompt, sizes),
                    whole,
                    "{dtype} {backend:?} {sizes:?}"
                );
            }
            // 12 threads are more than the rows of the smallest matrices.
            let threads: &[usize] =
                if backend == BackendChoice::Cpu { &[1, 2, 3, 12] } else { &[1] };
            for &threads in threads {
                let threads = Some(threads);
                let options =
                    EngineOptions { model: model.clone(), backend, threads, ..Default::default() };
                let mut model = LoadedModel::load(&options).expect("loads");
                let mixed = mixed_batch(&mut model, &prompt);
                assert_eq!(
                    mixed,
                    [whole.clone(), whole.clone()],
                    "{dtype} {backend:?} {threads:?}"
                );
            }
        }
        std::fs::remove_file(model).expect("there");
    }
}

/// Logits after a prompt that was read but for its last token, which is decoded in one pass with the
/// middle of another prompt; and after the same prompt whose rest comes in one pass with single tokens.
fn mixed_batch(model: &mut LoadedModel, prompt: &[TokenId]) -> [Vec<f32>; 2] {
    let (mut first, mut second) = (model.new_sequence(), model.new_sequence());
    let mut neighbour = model.new_sequence();
    let [mut ours, mut rest, mut others] = [const { Vec::new() }; 3];
    let (read, last) = prompt.split_at(prompt.len() - 1);
    let (begin, end) = prompt.split_at(4);
    // Prefill beside prefill.
    let batch =
        &mut [Step::new(&mut first, read, None), Step::new(&mut neighbour, &[3, 200, 77], None)];
    model.forward(batch).expect("runs");
    // Decode, prefill and decode in one pass.
    let batch = &mut [
        Step::new(&mut neighbour, &[9], Some(&mut others)),
        Step::new(&mut second, begin, None),
        Step::new(&mut first, last, Some(&mut ours)),
    ];
    model.forward(batch).expect("runs");
    let batch = &mut [
        Step::new(&mut second, end, Some(&mut rest)),
        Step::new(&mut neighbour, &[10], Some(&mut others)),
    ];
    model.forward(batch).expect("runs");
    [ours, rest]
}

/// Logits after the last token of each prompt, all read in one pass.
fn in_a_batch(model: &mut LoadedModel, prompts: &[&Vec<TokenId>]) -> Vec<Vec<f32>> {
    let mut sequences: Vec<_> = prompts.iter().map(|_| model.new_sequence()).collect();
    let mut logits = vec![Vec::new(); prompts.len()];
    let steps = sequences.iter_mut().zip(prompts).zip(&mut logits);
    let mut batch: Vec<_> = steps
        .map(|((sequence, tokens), logits)| Step::new(sequence, tokens, Some(logits)))
        .collect();
    model.forward(&mut batch).expect("runs");
    logits
}

#[test]
fn a_pack_in_the_source_s_own_type_changes_no_bit_of_any_family() {
    for family in FAMILIES {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let pack = packed(&checkpoint(family), dir.path().join("pack"), "bf16");
        let prompt = &texts(family)[0].ids;
        let run = |model| chunked(&mut load(model, BackendChoice::Cpu), prompt, &[prompt.len()]);
        assert_eq!(run(pack), run(checkpoint(family)), "{family}");
    }
}

#[test]
fn quantised_packs_of_any_family_run_near_the_oracle() {
    for (family, dtype) in FAMILIES.iter().flat_map(|f| ["q8_0", "q4_0"].map(|d| (*f, d))) {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let pack = packed(&checkpoint(family), dir.path().join("pack"), dtype);
        let text = &texts(family)[0];
        let [fast, exact] = [BackendChoice::Cpu, BackendChoice::Reference].map(|backend| {
            let mut model = load(pack.clone(), backend);
            let mut sequence = model.new_sequence();
            model.forward_all(&mut sequence, &text.ids).expect("runs")
        });
        let (activations, weights) =
            (mean_difference(&fast, &exact), mean_difference(&exact, &text.logits));
        println!(
            "{family} {dtype}: activations {activations:.4} on average, {:.4} at most; weights \
             {weights:.4}, {:.4}",
            difference(&fast, &exact),
            difference(&exact, &text.logits)
        );
        assert!(activations <= ACTIVATION_LOGIT_MEAN_MAX, "{family} {dtype}: {activations}");
    }
}

fn mean_difference(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from((a - b).abs())).sum::<f64>() / a.len() as f64
}

#[test]
fn gguf_files_give_the_results_of_safetensors() {
    for (family, (backend, tolerance)) in FAMILIES.iter().flat_map(|f| BACKENDS.map(|b| (*f, b))) {
        let mut from_gguf = load(gguf(family), backend);
        let mut from_safetensors = load(checkpoint(family), backend);
        assert_eq!(from_gguf.info().architecture, from_safetensors.info().architecture);
        for text in texts(family) {
            let run = |model: &mut LoadedModel| {
                let mut sequence = model.new_sequence();
                model.forward_all(&mut sequence, &text.ids).expect("runs")
            };
            let (ours, theirs) = (run(&mut from_gguf), run(&mut from_safetensors));
            let largest = difference(&ours, &theirs);
            println!("{family} {backend:?}: {largest:e}");
            assert!(largest <= FORM_LOGIT_ERR_MAX, "{family} {backend:?}: {largest:e}");
            if !["qwen3_5_moe", "qwen3_next"].contains(&family) {
                assert_eq!(ours, theirs, "{family}: nothing differs but the file");
            }
            assert!(largest_difference(&mut from_gguf, &text, tolerance) <= tolerance);
            assert_eq!(greedy(&mut from_gguf, &text.ids, text.greedy.len()), text.greedy);
        }
    }
}

#[test]
fn fewer_active_experts_give_other_logits_and_all_of_them_the_same() {
    for family in FAMILIES {
        let prompt = &texts(family)[0].ids;
        let run = |active_experts| {
            let options = EngineOptions {
                model: checkpoint(family),
                threads: Some(1),
                active_experts,
                ..EngineOptions::default()
            };
            let mut model = LoadedModel::load(&options)?;
            let used = model.info().experts_per_token;
            Ok::<_, crate::EngineError>((used, chunked(&mut model, prompt, &[prompt.len()])))
        };
        let (all, logits) = run(None).expect("loads");
        assert_eq!(all, 3);
        assert_eq!(run(Some(3)).expect("loads"), (all, logits.clone()));
        let (used, fewer) = run(Some(1)).expect("loads");
        assert!(used == 1 && fewer != logits, "{family}");
        for wrong in [0, 4] {
            let error = run(Some(wrong)).expect_err("refused").to_string();
            assert!(error.contains("active experts") && error.contains("1 to 3"), "{error}");
        }
    }
}
