//! A tiny model is packed, read back and damaged.

use super::*;
use crate::engine::{BackendChoice, EngineOptions};
use crate::model::{LoadedModel, tiny};
use crate::tensor::ALIGNMENT;

fn options(source: &Path, destination: &Path) -> PackOptions {
    PackOptions {
        source: source.to_owned(),
        destination: destination.to_owned(),
        experts: "q4_0".to_owned(),
        dense: "q8_0".to_owned(),
        name: Some("tiny".to_owned()),
        quality: Some("demo".to_owned()),
    }
}

/// A tiny model directory and its pack.
fn packed() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let source = dir.path().join("source");
    tiny::write(&source, 11);
    let pack_dir = dir.path().join("pack");
    pack(&options(&source, &pack_dir), &mut |_| {}).expect("packs");
    (dir, pack_dir)
}

fn load(model: &Path) -> Result<LoadedModel, EngineError> {
    LoadedModel::load(&EngineOptions {
        model: model.to_owned(),
        backend: BackendChoice::Cpu,
        threads: Some(1),
        ..EngineOptions::default()
    })
}

#[test]
fn a_pack_in_f32_gives_the_logits_of_its_source() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (source, pack_dir) = (dir.path().join("source"), dir.path().join("pack"));
    tiny::write(&source, 3);
    let options = PackOptions {
        experts: "f32".to_owned(),
        dense: "f32".to_owned(),
        ..options(&source, &pack_dir)
    };
    let mut seen = Vec::new();
    pack(&options, &mut |p| seen.push(p)).expect("packs");
    let last = seen.last().expect("progress was reported");
    assert_eq!(last.done, last.total);
    let logits = |path: &Path| {
        let mut model = load(path).expect("loads");
        let mut sequence = model.new_sequence();
        model.forward_all(&mut sequence, &[1, 2, 3, 4]).expect("runs")
    };
    assert_eq!(logits(&source), logits(&pack_dir));
}

#[test]
fn every_expert_is_one_aligned_read() {
    let (_dir, pack_dir) = packed();
    for path in std::fs::read_dir(&pack_dir).expect("the pack").map(|e| e.expect("entry").path()) {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        if !name.starts_with("experts-") {
            continue;
        }
        let file = crate::weights::safetensors::SafetensorsFile::open(&path).expect("valid");
        let gates: Vec<_> =
            file.tensors.iter().filter(|(n, _)| n.ends_with(".gate")).map(|(_, e)| e).collect();
        assert_eq!(gates.len(), tiny::EXPERTS);
        assert!(gates.iter().all(|e| e.offset % ALIGNMENT as u64 == 0));
    }
}

#[test]
fn inspect_verifies_digests_and_names_the_changed_file() {
    let (_dir, pack_dir) = packed();
    let found = inspect(&pack_dir, true).expect("whole");
    assert_eq!((found.format.as_str(), found.name.as_str()), ("pack", "tiny"));
    assert_eq!(found.quality.as_deref(), Some("demo"));
    let path = pack_dir.join("tokenizer.json");
    let mut bytes = std::fs::read(&path).expect("there");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&path, bytes).expect("written");
    let error = inspect(&pack_dir, true).expect_err("changed").to_string();
    assert!(error.contains("tokenizer.json") && error.contains("SHA-256"), "{error}");
}

#[test]
fn rows_that_are_no_whole_blocks_take_the_named_type_and_both_verbs_say_so() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (source, pack_dir) = (dir.path().join("source"), dir.path().join("pack"));
    tiny::write(&source, 11);
    let options = PackOptions {
        experts: "q4_k".to_owned(),
        dense: "q6_k".to_owned(),
        ..options(&source, &pack_dir)
    };
    let report = pack(&options, &mut |_| {}).expect("packs");
    let found = inspect(&pack_dir, true).expect("describes");
    let sorted = |mut fallbacks: Vec<Fallback>| {
        fallbacks.sort_by(|a, b| a.tensor.cmp(&b.tensor));
        fallbacks
    };
    assert_eq!(sorted(found.fallbacks), sorted(report.fallbacks.clone()));
    // The tiny model is narrower than 256.
    assert_eq!(found.expert_types, ["q5_0"; 3].map(str::to_owned));
    let of = |name: &str| report.fallbacks.iter().find(|f| f.tensor == name);
    let down = of("layers.0.experts.*.down").expect("reported");
    assert_eq!((down.asked, down.used), ("q4_k", "q5_0"));
    let embedding = of("embed_tokens.weight").expect("reported");
    assert_eq!((embedding.asked, embedding.used), ("q6_k", "q8_0"));
    let mut model = load(&pack_dir).expect("loads");
    let mut sequence = model.new_sequence();
    let logits = model.forward_all(&mut sequence, &[1, 2, 3]).expect("runs");
    assert!(logits.iter().all(|l| l.is_finite()));
}

#[test]
fn damaged_packs_are_errors_that_say_which_file() {
    type Damage = fn(&Path);
    let cut = |dir: &Path, name: &str| {
        let path = dir.join(name);
        let bytes = std::fs::read(&path).expect("there");
        std::fs::write(&path, &bytes[..bytes.len() / 2]).expect("written");
    };
    let cases: [(&str, Damage); 5] = [
        ("experts-00001.safetensors", |d| {
            std::fs::remove_file(d.join("experts-00001.safetensors")).expect("there");
        }),
        ("dense-00001.safetensors", |_| {}),
        ("version 9", |d| {
            let path = d.join("sluice.json");
            let text = std::fs::read_to_string(&path).expect("there");
            std::fs::write(path, text.replace("\"version\": 1", "\"version\": 9")).expect("ok");
        }),
        ("manifest", |d| {
            std::fs::write(d.join("sluice.json"), "{").expect("written");
        }),
        ("config.json", |d| {
            std::fs::remove_file(d.join("config.json")).expect("there");
        }),
    ];
    for (says, damage) in cases {
        let (_dir, pack_dir) = packed();
        damage(&pack_dir);
        if says.starts_with("dense") {
            cut(&pack_dir, says);
        }
        let error = load(&pack_dir).err().expect("refused").to_string();
        assert!(error.contains(says), "expected {says}: {error}");
    }
}

#[test]
fn a_flipped_bit_in_an_expert_ends_the_pass_with_its_name() {
    let (_dir, pack_dir) = packed();
    let path = pack_dir.join("experts-00000.safetensors");
    let mut bytes = std::fs::read(&path).expect("there");
    for byte in bytes.iter_mut().skip(ALIGNMENT).step_by(ALIGNMENT) {
        *byte ^= 0x10;
    }
    let header = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    for byte in bytes.iter_mut().skip(8 + header).step_by(64) {
        *byte ^= 0x01;
    }
    std::fs::write(&path, bytes).expect("written");
    let mut model = load(&pack_dir).expect("lengths are right");
    let mut sequence = model.new_sequence();
    let error = model.forward_all(&mut sequence, &[1, 2, 3]).expect_err("damaged").to_string();
    assert!(error.contains("layer 0") && error.contains("CRC32C"), "{error}");
}

#[test]
fn wrong_options_are_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let source = dir.path().join("source");
    tiny::write(&source, 5);
    let to = dir.path().join("pack");
    let base = options(&source, &to);
    let with = |change: &dyn Fn(&mut PackOptions)| {
        let mut options = base.clone();
        change(&mut options);
        pack(&options, &mut |_| {}).expect_err("refused").to_string()
    };
    assert!(with(&|o| o.experts = "q9".to_owned()).contains("q4_0"));
    assert!(with(&|o| o.quality = Some("great".to_owned())).contains("approved"));
    assert!(with(&|o| o.destination = source.clone()).contains("exists"));
    assert!(!to.exists() && !dir.path().join("pack.partial").exists());
}
