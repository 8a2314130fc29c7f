//! Random models load, speak and are the same as pack and as GGUF.

use super::*;
use crate::engine::EngineOptions;
use crate::model::{LoadedModel, Step};
use crate::weights::Weights;
use shapes::Family;

/// A model of a few megabytes with the layers of a family.
pub(crate) fn small(family: Family) -> Shape {
    Shape {
        name: "small",
        family,
        hidden: 256,
        layers: 4,
        heads: 4,
        kv_heads: 2,
        head_dim: 64,
        experts: 16,
        chosen: 4,
        intermediate: 64,
        vocab: 512,
    }
}

/// Both families, the hybrid with more value heads than key heads.
pub(crate) const FAMILIES: [Family; 2] = [Family::Attention, Family::Hybrid { value_heads: 32 }];

/// Writes a small model; `skew` of its gates is 1.
pub(crate) fn write_small(family: Family, destination: &Path) {
    let options = SynthOptions {
        like: "small".to_owned(),
        destination: destination.to_owned(),
        layers: None,
        vocabulary: None,
        quant: "q4_0".to_owned(),
        skew: 1.0,
        seed: 3,
    };
    write(&small(family), &options, &mut |_| {}).expect("writes");
}

fn logits(model: &Path) -> Vec<f32> {
    let options = EngineOptions { model: model.to_owned(), ..EngineOptions::default() };
    let mut model = LoadedModel::load(&options).expect("loads");
    let mut sequence = model.new_sequence();
    let mut logits = Vec::new();
    let tokens: Vec<u32> = (0..40).map(|i| i * 37 % 500).collect();
    let step = Step::new(&mut sequence, &tokens, Some(&mut logits));
    model.forward(&mut [step]).expect("runs");
    logits
}

#[test]
fn the_pack_and_the_gguf_file_are_the_same_model() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    for (i, family) in FAMILIES.into_iter().enumerate() {
        let (gguf, pack) = (dir.path().join(format!("{i}.gguf")), dir.path().join(format!("{i}")));
        write_small(family, &gguf);
        write_small(family, &pack);
        let expected = logits(&gguf);
        assert!(expected.iter().all(|l| l.is_finite() && l.abs() < 50.0), "{family:?}");
        let spread = expected.iter().copied().fold(0.0, f32::max);
        assert!(spread > 0.5, "{family:?}: logits differ between tokens, largest {spread}");
        assert_eq!(logits(&pack), expected, "{family:?}");
    }
}

#[test]
fn any_cut_of_the_file_has_the_bytes_of_the_whole() {
    let file = SynthFile::new(&small(FAMILIES[1]), DType::Q4_0, 0.5, 1);
    let mut whole = vec![0; file.len() as usize];
    file.read_exact_at(&mut whole, 0).expect("in the file");
    for (from, len) in [(0, 100), (5_000, 77_777), (123_457, 1), (file.len() as usize - 9, 9)] {
        let mut part = vec![1; len];
        file.read_exact_at(&mut part, from as u64).expect("in the file");
        assert!(part == whole[from..from + len], "{from}, {len}");
    }
    assert!(file.read_exact_at(&mut [0; 10], file.len() - 9).is_err());
}

#[test]
fn every_published_shape_opens_with_its_parameters() {
    // Parameters in billions, without the layers of multi-token prediction.
    for (like, billions) in [
        ("qwen3-30b-a3b", 30.5),
        ("qwen3-235b-a22b", 235.1),
        ("qwen3.5-35b-a3b", 34.7),
        ("qwen3.5-122b-a10b", 122.1),
        ("qwen3.5-397b-a17b", 396.3),
    ] {
        let shape = shapes::ALL.iter().find(|s| s.name == like).expect("known");
        let file = Arc::new(SynthFile::new(shape, DType::Q4_0, 0.0, 1));
        let mut parameters = 0.0;
        let weights = Weights::from_gguf(vec![file]).expect("opens");
        for (_, _, dims) in weights.dense() {
            parameters += dims.iter().product::<usize>() as f64;
        }
        let config = weights.side().config().expect("has a config");
        let blueprint = crate::model::Blueprint::read(Path::new("config"), &config).expect("reads");
        let store = weights.experts(&blueprint.expert_layers(), false).expect("has experts");
        parameters += store.parameters() as f64;
        assert!((parameters / 1e9 - billions).abs() < 0.1, "{like}: {parameters}");
    }
}

#[test]
fn a_skewed_gate_chooses_some_experts_more_often() {
    let share_of_first_tenth = |skew: f64| {
        let gate = tensors::Values::Gate { cols: 64, deviation: 0.2, skew };
        let mut counts = vec![0_usize; 100];
        for token in 0..400_u64 {
            let score = |row: u64| -> f64 {
                let x = |c: u64| noise::normal(99, token * 64 + c);
                (0..64).map(|c| f64::from(gate.at(5, row * 64 + c)) * x(c)).sum()
            };
            let mut scores: Vec<(f64, usize)> = (0..100).map(|r| (score(r), r as usize)).collect();
            scores.sort_by(|a, b| b.0.total_cmp(&a.0));
            scores[..8].iter().for_each(|(_, row)| counts[*row] += 1);
        }
        counts.sort_by_key(|count| std::cmp::Reverse(*count));
        counts[..10].iter().sum::<usize>() as f64 / 3200.0
    };
    let (even, skewed) = (share_of_first_tenth(0.0), share_of_first_tenth(1.0));
    assert!(even < 0.25, "even: {even}");
    assert!(skewed > 0.35, "skewed: {skewed}");
}

#[test]
fn wrong_wishes_are_refused_with_what_would_work() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let good = SynthOptions {
        like: "qwen3-30b-a3b".to_owned(),
        destination: dir.path().join("new"),
        layers: Some(1),
        vocabulary: None,
        quant: "q4_0".to_owned(),
        skew: 0.0,
        seed: 0,
    };
    let cases: [(SynthOptions, &str); 6] = [
        (SynthOptions { vocabulary: Some(100), ..good.clone() }, "512 to 151936"),
        (SynthOptions { like: "gpt".to_owned(), ..good.clone() }, "qwen3.5-397b-a17b"),
        (SynthOptions { layers: Some(49), ..good.clone() }, "1 to 48"),
        (SynthOptions { quant: "q9".to_owned(), ..good.clone() }, "q4_0"),
        (SynthOptions { skew: -1.0, ..good.clone() }, "skew"),
        (SynthOptions { destination: dir.path().to_owned(), ..good }, "exists"),
    ];
    for (options, says) in cases {
        let error = synth(&options, &mut |_| {}).expect_err("refused").to_string();
        assert!(error.contains(says), "{error}");
    }
}
