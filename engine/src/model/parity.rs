//! The forward pass against logits that another implementation computed in f32 from the same weights.
//!
//! The full check needs the unquantised model (`SLUICE_REFERENCE_MODEL` names its directory, with
//! `reference.safetensors` in it); `.ci/run` runs it where that directory is at hand. The excerpt in
//! `testdata/` holds the shipped pack to the same logits on every machine.

use std::path::{Path, PathBuf};

use super::LoadedModel;
use super::tiny::testdata;
use crate::engine::{BackendChoice, EngineOptions};
use crate::quant::dequantise_row;
use crate::tensor::DType;
use crate::tokenizer::TokenId;
use crate::weights::safetensors::SafetensorsFile;

/// Largest difference of a logit of the unquantised model beyond the rounding of the reference, which
/// is stored in f16: what remains is the order of f32 sums.
const LOGIT_ERR_MAX: f32 = 0.002;
/// The same with that rounding, for the logits below 32 that nearly all are: half of 2^-6, and sums.
const STORED_LOGIT_ERR_MAX: f32 = 0.0078 + LOGIT_ERR_MAX;
/// Mean Kullback-Leibler divergence of the shipped pack's predictions from the reference's, in nats:
/// what 4-bit experts and 8-bit activations cost (measured 0.0025).
const PACK_DIVERGENCE_MAX: f64 = 0.005;
/// Perplexity of the excerpt by the unquantised model, and how far the shipped pack may be above it.
const EXCERPT_PERPLEXITY: f64 = 2.4465;
const PACK_PERPLEXITY_RATIO_MAX: f64 = 1.03;
/// Largest share of positions whose reference margin is too small to demand the same argmax.
const EXEMPT_SHARE_MAX: f64 = 0.01;

/// One text of a reference: tokens [n], logits [n, vocab], and the tokens that greedy choice adds, if
/// the file has them.
pub(super) struct Text {
    pub(super) ids: Vec<TokenId>,
    pub(super) logits: Vec<f32>,
    pub(super) greedy: Vec<TokenId>,
}

/// All texts of a reference file.
pub(super) fn reference(path: &Path) -> Vec<Text> {
    let file = SafetensorsFile::open(path).expect("a reference file");
    let read = |name: String| {
        let entry = file.tensors.get(&name)?;
        let mut bytes = vec![0; entry.len];
        file.reader.read_exact_at(&mut bytes, entry.offset).expect("the file is whole");
        Some((entry, bytes))
    };
    let tokens = |bytes: Vec<u8>| -> Vec<TokenId> {
        bytes.as_chunks().0.iter().map(|b| TokenId::from_le_bytes(*b)).collect()
    };
    (0..)
        .map_while(|i| {
            let (_, ids) = read(format!("ids{i}"))?;
            let (entry, bytes) = read(format!("logits{i}"))?;
            let mut logits = vec![0.0; entry.shape.iter().product()];
            dequantise_row(DType::from_name(&entry.dtype).expect("a float"), &bytes, &mut logits);
            let greedy = read(format!("greedy{i}")).map(|(_, bytes)| tokens(bytes));
            Some(Text { ids: tokens(ids), logits, greedy: greedy.unwrap_or_default() })
        })
        .collect()
}

/// Loads a model with one compute thread: tests run beside each other.
pub(super) fn load(model: PathBuf, backend: BackendChoice) -> LoadedModel {
    let options = EngineOptions { model, backend, threads: Some(1), ..EngineOptions::default() };
    LoadedModel::load(&options).expect("the model loads")
}

/// How logits differ from the reference.
#[derive(Default, Debug)]
struct Differences {
    largest: f32,
    positions: usize,
    exempt: usize,
    argmax_wrong: usize,
}

impl Differences {
    /// Compares one text; positions whose reference margin is at most twice `tolerance` are exempt
    /// from having the same argmax.
    fn add(&mut self, ours: &[f32], text: &Text, tolerance: f32) {
        let vocab = text.logits.len() / text.ids.len();
        for (ours, reference) in ours.chunks(vocab).zip(text.logits.chunks(vocab)) {
            let errors = ours.iter().zip(reference).map(|(a, b)| (a - b).abs() - f16_rounding(*b));
            self.largest = errors.fold(self.largest, f32::max);
            self.positions += 1;
            let (best, margin) = best_and_margin(reference);
            if margin <= 2.0 * tolerance {
                self.exempt += 1;
            } else if best_and_margin(ours).0 != best {
                self.argmax_wrong += 1;
            }
        }
    }
}

/// Half of the distance between neighbouring f16 numbers at `v`.
fn f16_rounding(v: f32) -> f32 {
    (v.abs().max(f32::MIN_POSITIVE).log2().floor() - 11.0).exp2()
}

/// The index of the largest logit, and how far the second is below it.
pub(super) fn best_and_margin(logits: &[f32]) -> (usize, f32) {
    let mut best = (0, f32::NEG_INFINITY);
    let mut second = f32::NEG_INFINITY;
    for (i, v) in logits.iter().enumerate() {
        if *v > best.1 {
            second = best.1;
            best = (i, *v);
        } else {
            second = second.max(*v);
        }
    }
    (best.0, best.1 - second)
}

#[test]
fn unquantised_logits_agree_with_the_reference() {
    let Some(model) = std::env::var_os("SLUICE_REFERENCE_MODEL").map(PathBuf::from) else {
        println!("SLUICE_REFERENCE_MODEL is not set: the unquantised check did not run");
        return;
    };
    let texts = reference(&model.join("reference.safetensors"));
    assert!(texts.len() >= 8, "the reference has eight texts");
    let mut model = load(model, BackendChoice::Cpu);
    let mut differences = Differences::default();
    for text in &texts {
        let mut sequence = model.new_sequence();
        let logits = model.forward_all(&mut sequence, &text.ids).expect("runs");
        differences.add(&logits, text, STORED_LOGIT_ERR_MAX);
    }
    println!("{differences:?}");
    assert!(differences.largest <= LOGIT_ERR_MAX, "{differences:?}");
    assert_eq!(differences.argmax_wrong, 0, "{differences:?}");
    let exempt = differences.exempt as f64 / differences.positions as f64;
    assert!(exempt < EXEMPT_SHARE_MAX, "{differences:?}");
}

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/nano")
}

/// Σ p ln(p / q) of two rows of logits.
fn divergence(p: &[f32], q: &[f32]) -> f64 {
    let log_softmax = |x: &[f32]| -> Vec<f64> {
        let max = f64::from(x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let total: f64 = x.iter().map(|v| (f64::from(*v) - max).exp()).sum();
        x.iter().map(|v| f64::from(*v) - max - total.ln()).collect()
    };
    let (p, q) = (log_softmax(p), log_softmax(q));
    p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum()
}

#[test]
fn the_shipped_pack_predicts_like_the_reference() {
    for backend in [BackendChoice::Cpu, BackendChoice::Reference] {
        let mut model = load(shipped(), backend);
        for text in reference(&testdata("nano-reference.safetensors")) {
            let mut sequence = model.new_sequence();
            let logits = model.forward_all(&mut sequence, &text.ids).expect("runs");
            let vocab = logits.len() / text.ids.len();
            let rows = text.logits.chunks(vocab).zip(logits.chunks(vocab));
            let mean = rows.map(|(p, q)| divergence(p, q)).sum::<f64>() / text.ids.len() as f64;
            println!("{backend:?}: {mean}");
            assert!(mean <= PACK_DIVERGENCE_MAX, "{backend:?}: {mean}");
        }
    }
}

#[test]
fn the_shipped_pack_s_perplexity_is_near_the_unquantised_model_s() {
    let options = crate::eval::EvalOptions {
        engine: EngineOptions { model: shipped(), threads: Some(1), ..EngineOptions::default() },
        data: testdata("nano-heldout.jsonl"),
        limit: None,
    };
    let report = crate::eval::eval(&options, &mut |_| {}).expect("measured");
    let ratio = report.perplexity / EXCERPT_PERPLEXITY;
    assert!(
        (1.0 / PACK_PERPLEXITY_RATIO_MAX..PACK_PERPLEXITY_RATIO_MAX).contains(&ratio),
        "{report:?}"
    );
}
