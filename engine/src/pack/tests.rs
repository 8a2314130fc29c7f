//! Tiny models are packed, in one go, interrupted and while they arrive; read back and damaged.

use std::collections::BTreeMap;
use std::path::Path;

use super::folder::partial;
use super::*;
use crate::engine::{BackendChoice, EngineOptions};
use crate::model::{LoadedModel, tiny};
use crate::tensor::ALIGNMENT;
use crate::weights::gguf_testing::{TestFile, splits_of};

fn options(source: &Path, destination: &Path) -> PackOptions {
    PackOptions {
        source: source.to_owned(),
        destination: destination.to_owned(),
        experts: "q4_0".to_owned(),
        dense: "q8_0".to_owned(),
        classes: Vec::new(),
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
fn each_class_takes_its_own_type_and_both_verbs_say_so() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (source, pack_dir) = (dir.path().join("source"), dir.path().join("pack"));
    tiny::write(&source, 3);
    let classes = vec![
        (TensorClass::Attention, "bf16".to_owned()),
        (TensorClass::Embedding, "q6_k".to_owned()),
        (TensorClass::Output, "f16".to_owned()),
    ];
    let options = PackOptions { classes, ..options(&source, &pack_dir) };
    let mut seen = Vec::new();
    let report = pack(&options, &mut |p| seen.push(p)).expect("packs");
    let last = seen.last().expect("progress was reported");
    assert_eq!(last.done, last.total);
    let found = inspect(&pack_dir, true).expect("describes");
    assert_eq!((&found.classes, &found.fallbacks), (&report.classes, &report.fallbacks));
    let types = |c: &ClassTypes| (c.class, c.types.iter().map(|t| t.0.clone()).collect::<Vec<_>>());
    let one = |class, name: &str| (class, vec![name.to_owned()]);
    assert_eq!(
        report.classes.iter().map(types).collect::<Vec<_>>(),
        [
            one(TensorClass::Experts, "q4_0"),
            one(TensorClass::Attention, "bf16"),
            one(TensorClass::FeedForward, "q8_0"),
            // The tiny model is narrower than 256.
            one(TensorClass::Embedding, "q8_0"),
            one(TensorClass::Output, "f16"),
            one(TensorClass::Small, "f32"),
        ]
    );
    let fallback =
        Fallback { tensor: "embed_tokens.weight".to_owned(), asked: "q6_k", used: "q8_0" };
    assert_eq!(report.fallbacks, [fallback]);
    assert_eq!(logits(&pack_dir).iter().filter(|l| !l.is_finite()).count(), 0);
}

#[test]
fn a_class_that_a_model_does_not_have_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let tied = tiny::checkpoint("qwen3_moe");
    for (class, says) in [
        (TensorClass::Output, "its embedding serves"),
        (TensorClass::FeedForward, "feed_forward"),
        (TensorClass::Small, "small"),
    ] {
        let classes = vec![(class, "q8_0".to_owned())];
        let options = PackOptions { classes, ..options(&tied, &dir.path().join("pack")) };
        let error = pack(&options, &mut |_| {}).expect_err("refused").to_string();
        assert!(error.contains(says), "{error}");
    }
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
    fn edit(path: PathBuf, from: &str, to: &str) {
        let mut bytes = std::fs::read(&path).expect("there");
        let at = bytes.windows(from.len()).position(|w| w == from.as_bytes()).expect(from);
        bytes.splice(at..at + from.len(), to.bytes());
        std::fs::write(path, bytes).expect("written");
    }
    let cases: [(&str, Damage); 12] = [
        ("not a plain name", |d| edit(d.join("sluice.json"), "\"config.json", "\"../config.json")),
        ("has 7 experts", |d| edit(d.join("sluice.json"), "\"count\": 8", "\"count\": 7")),
        ("\"q9_0\"", |d| edit(d.join("sluice.json"), "\"type\": \"q8_0", "\"type\": \"q9_0")),
        ("manifest lacks", |d| edit(d.join("sluice.json"), "\"lm_head.weight", "\"lm_head.other")),
        ("unknown field", |d| edit(d.join("sluice.json"), "\"name\"", "\"nane\"")),
        ("not where a pack has it", |d| {
            let file = d.join("experts-00000.safetensors");
            edit(file.clone(), "experts.0.gate", "experts.9.gate");
            edit(file.clone(), "experts.1.gate", "experts.0.gate");
            edit(file, "experts.9.gate", "experts.1.gate");
        }),
        ("crc32c metadata", |d| {
            let path = d.join("experts-00000.safetensors");
            let mut bytes = std::fs::read(&path).expect("there");
            let key = b"\"crc32c\":\"";
            let at = bytes.windows(key.len()).position(|w| w == key).expect("a key");
            bytes[at + key.len()] = b'x';
            std::fs::write(path, bytes).expect("written");
        }),
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

/// A pack's manifest and config, cut anywhere. `model.safetensors.index.json` is not read at all.
#[test]
fn small_files_that_are_cut_anywhere_are_errors_that_name_them() {
    let (_dir, pack_dir) = packed();
    for name in ["sluice.json", "config.json"] {
        let whole = std::fs::read(pack_dir.join(name)).expect("there");
        let end = whole.iter().rposition(|b| *b == b'}').expect("an object");
        for len in (0..end).step_by(1 + end / 400).chain([end]) {
            std::fs::write(pack_dir.join(name), &whole[..len]).expect("written");
            let opened = Weights::open(&pack_dir).and_then(|w| w.side().config());
            let error = opened.err().unwrap_or_else(|| panic!("{name}, {len} bytes")).to_string();
            assert!(error.contains(name) || error.contains("manifest"), "{error}");
        }
        std::fs::write(pack_dir.join(name), whole).expect("written");
    }
    load(&pack_dir).expect("whole again");
    let model = tiny::checkpoint("qwen3_next");
    let (dir, index) = (tempfile::tempdir().expect("a folder"), "model.safetensors.index.json");
    for entry in std::fs::read_dir(&model).expect("a folder") {
        let entry = entry.expect("an entry");
        std::fs::copy(entry.path(), dir.path().join(entry.file_name())).expect("copied");
    }
    std::fs::write(dir.path().join(index), "{\"weight_map\": {").expect("written");
    assert_eq!(logits(dir.path()), logits(&model));
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
    assert!(with(&|o| o.dense = "q2_k".to_owned()).contains("q8_0"));
    assert!(with(&|o| o.quality = Some("great".to_owned())).contains("approved"));
    assert!(with(&|o| o.destination = source.clone()).contains("exists"));
    assert!(!to.exists() && !dir.path().join("pack.partial").exists());
}

fn automatic(source: &Path, destination: &Path) -> PackOptions {
    let auto = "auto".to_owned();
    PackOptions { experts: auto.clone(), dense: auto, ..options(source, destination) }
}

/// All files of a folder, without the manifest, which names the source.
fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = std::fs::read_dir(dir).expect("a folder").map(|e| e.expect("entry").path());
    let name = |p: &Path| p.file_name().expect("a name").to_string_lossy().into_owned();
    let files = files.map(|p| (name(&p), std::fs::read(&p).expect("a file")));
    files.filter(|(name, _)| name != "sluice.json").collect()
}

fn logits(path: &Path) -> Vec<f32> {
    let mut model = load(path).expect("loads");
    let mut sequence = model.new_sequence();
    model.forward_all(&mut sequence, &[5, 77, 130, 9, 9, 200]).expect("runs")
}

#[test]
fn a_pack_of_gguf_has_its_blocks_and_its_logits_bit_for_bit() {
    for family in tiny::FAMILIES {
        let dir = tempfile::tempdir().expect("a folder");
        let (source, to) = (tiny::gguf(family), dir.path().join("pack"));
        let report = pack(&automatic(&source, &to), &mut |_| {}).expect("packs");
        assert!(report.fallbacks.is_empty(), "{family}");
        assert_eq!(logits(&to), logits(&source), "{family}");
        let (from, packed) =
            (Weights::open(&source).expect("opens"), Weights::open(&to).expect("opens"));
        for (name, dtype, shape) in from.dense() {
            let whole = |w: &Weights| w.raw(name, 0..w.place(name).2).expect("readable");
            // Vectors may have been widened to f32.
            if shape.iter().filter(|d| **d != 1).count() == 2 || dtype == DType::F32 {
                assert_eq!(whole(&from).as_slice(), whole(&packed).as_slice(), "{family}: {name}");
            }
        }
    }
}

#[test]
fn inspect_describes_gguf_as_it_lies_there() {
    let found = inspect(&tiny::gguf("qwen3_5_moe"), false).expect("opens");
    assert_eq!((found.format.as_str(), found.name.as_str()), ("gguf", "qwen3_5_moe"));
    assert_eq!(found.architecture, "qwen3_5_moe");
    assert_eq!(found.expert_types, ["f16"; 3].map(str::to_owned));
    assert!(found.chat_template.is_some_and(|t| t.contains("im_start")));
    assert!(found.expert_bytes_per_token > 0 && found.quality.is_none());
}

#[test]
fn inspect_sees_the_types_of_all_layers() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("mixed.gguf");
    let mut file = TestFile::open(&tiny::gguf("qwen3_moe"));
    let down = file.tensors.iter_mut().find(|t| t.name == "blk.1.ffn_down_exps.weight");
    let down = down.expect("there");
    // Twice as many bytes a value: f32 in the place of f16.
    down.ggml_type = DType::F32.ggml();
    down.bytes = vec![0; 2 * down.bytes.len()];
    let (layer, stacked) = (down.bytes.len() as u64, down.bytes.len() as u64 / 2);
    std::fs::write(&path, file.bytes()).expect("written");
    let found = inspect(&path, false).expect("opens");
    assert_eq!(found.expert_types, ["f16", "f16", "f16+f32"].map(str::to_owned));
    let experts = found.classes.iter().find(|c| c.class == TensorClass::Experts).expect("some");
    let [(first, most), (second, least)] = &experts.types[..] else { panic!("{experts:?}") };
    assert_eq!(
        (first.as_str(), *most, second.as_str(), *least),
        ("f16", 5 * stacked, "f32", layer)
    );
    assert_eq!(found.expert_bytes - found.expert_bytes_min, (layer - stacked) / 8);
    assert_eq!(found.dense_bytes_per_token, found.dense_bytes, "the embedding is the output too");
    let untied = inspect(&tiny::gguf("qwen3_next"), false).expect("opens");
    assert!(untied.dense_bytes_per_token < untied.dense_bytes);
}

#[test]
fn an_interrupted_pack_goes_on_and_keeps_what_is_whole() {
    let dir = tempfile::tempdir().expect("a folder");
    let (source, whole, to) =
        (tiny::checkpoint("qwen3_next"), dir.path().join("whole"), dir.path().join("pack"));
    pack(&options(&source, &whole), &mut |_| {}).expect("packs");
    let options = options(&source, &to);
    let begin = |items: usize| {
        let weights = Weights::open(&source).expect("opens");
        let mut packer = Packer::new(weights, &options, "qwen3_next").expect("plans");
        assert!(packer.items().len() > 2);
        for index in 0..items {
            packer.write(index, &mut |_| {}).expect("writes");
        }
    };
    begin(2);
    // One finished file was damaged since, another was cut in the middle of writing.
    let damaged = partial(&to).join("experts-00000.safetensors");
    let mut bytes = std::fs::read(&damaged).expect("was finished");
    bytes[9000] ^= 1;
    std::fs::write(&damaged, &bytes).expect("written");
    std::fs::write(partial(&to).join("experts-00001.safetensors"), &bytes[..100]).expect("ok");
    let mut first = None;
    let report = pack(&options, &mut |p| {
        first.get_or_insert(p.done);
    });
    assert_eq!(report.expect("goes on").files_kept, 1);
    assert!(first.expect("progress was told") > 0, "kept files count as done");
    assert_eq!(contents(&to), contents(&whole));
    assert!(!partial(&to).exists());

    // Another plan keeps nothing.
    std::fs::remove_dir_all(&to).expect("there");
    begin(2);
    let other = PackOptions { experts: "q8_0".to_owned(), ..options.clone() };
    assert_eq!(pack(&other, &mut |_| {}).expect("packs").files_kept, 0);
}

/// The tiny model without one of its tensors, as a GGUF file.
fn lacking(name: &str, path: &Path) {
    let mut file = TestFile::open(&tiny::gguf("qwen3_moe"));
    file.tensors.retain(|tensor| tensor.name != name);
    std::fs::write(path, file.bytes()).expect("written");
}

#[test]
fn a_model_that_lacks_a_tensor_is_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().expect("a folder");
    let (source, to) = (dir.path().join("m.gguf"), dir.path().join("pack"));
    for name in ["blk.0.attn_k.weight", "blk.1.attn_norm.weight", "blk.1.ffn_down_exps.weight"] {
        lacking(name, &source);
        let (files, bytes) = arriving(std::slice::from_ref(&source));
        let options = automatic(&source, &to);
        for error in [
            pack(&options, &mut |_| {}).err(),
            feed(&options, &files, &bytes, None, usize::MAX).err(),
            inspect(&source, false).err(),
        ] {
            let error = error.expect("refused").to_string();
            assert!(error.contains(name) || error.contains("experts.0.gate"), "{name}: {error}");
        }
        assert!(!to.exists());
        let here = std::fs::read_dir(partial(&to)).expect("what arrived").count();
        assert_eq!(here, 1, "nothing but what arrived");
        std::fs::remove_dir_all(partial(&to)).expect("there");
    }
}

/// A model's files as they would arrive, with their bytes.
fn arriving(paths: &[PathBuf]) -> (Vec<ArrivingFile>, Vec<Vec<u8>>) {
    let bytes: Vec<_> = paths.iter().map(|p| std::fs::read(p).expect("there")).collect();
    let files = paths.iter().zip(&bytes).map(|(path, bytes)| ArrivingFile {
        name: path.file_name().expect("a name").to_string_lossy().into_owned(),
        bytes: bytes.len() as u64,
        sha256: Some(writer::digest(path).expect("readable").sha256),
    });
    (files.collect(), bytes)
}

/// Bytes of what has arrived and is still kept.
fn spooled(to: &Path) -> u64 {
    let dir = partial(to).join("arriving");
    let entries =
        std::fs::read_dir(dir).map(|d| d.flatten().collect::<Vec<_>>()).unwrap_or_default();
    entries.iter().map(|e| e.metadata().map_or(0, |m| m.len())).sum()
}

/// Feeds the files in uneven pieces until `limit` bytes came in this attempt. Returns the arrival and
/// the most bytes that were kept.
fn feed(
    options: &PackOptions,
    files: &[ArrivingFile],
    bytes: &[Vec<u8>],
    side: Option<&BTreeMap<String, Vec<u8>>>,
    limit: usize,
) -> Result<(Arrival, u64), EngineError> {
    let mut arrival = Arrival::with_segments(options.clone(), "source", files.to_vec(), 8192)?;
    let (mut came, mut most) = (0, 0);
    let mut more = |arrival: &mut Arrival, file: usize| {
        let at = arrival.position(file) as usize;
        let n = (bytes[file].len() - at).min(5000).min(limit - came);
        came += n;
        arrival.push(file, &bytes[file][at..at + n])?;
        most = most.max(spooled(&options.destination));
        Ok::<_, EngineError>(came < limit)
    };
    loop {
        for file in 0..files.len() {
            while arrival.wants_header_of(file)? {
                if !more(&mut arrival, file)? {
                    return Ok((arrival, most));
                }
            }
        }
        if arrival.plan(side)? {
            break;
        }
    }
    for file in 0..files.len() {
        while arrival.wants(file) {
            if !more(&mut arrival, file)? {
                return Ok((arrival, most));
            }
        }
    }
    Ok((arrival, most))
}

#[test]
fn a_model_packed_while_it_arrives_is_the_same_and_never_here_as_a_whole() {
    let splits = tempfile::tempdir().expect("a folder");
    let parts = splits_of(&tiny::gguf("qwen3_next"), splits.path(), |_, _| {});
    for (source, is_gguf) in [
        (tiny::gguf("qwen3_5_moe"), true),
        (parts[0].clone(), true),
        (tiny::checkpoint("qwen3_next"), false),
    ] {
        let name = source.display().to_string();
        let dir = tempfile::tempdir().expect("a folder");
        let (whole, to) = (dir.path().join("whole"), dir.path().join("pack"));
        pack(&automatic(&source, &whole), &mut |_| {}).expect("packs");
        let (paths, side) = if is_gguf {
            (if source == parts[0] { parts.clone() } else { vec![source] }, None)
        } else {
            let shard = |n: usize| source.join(format!("model-{n:05}-of-00002.safetensors"));
            let side = side_files::NAMES.map(|n| (n.to_owned(), std::fs::read(source.join(n))));
            let side = side.into_iter().filter_map(|(n, bytes)| Some((n, bytes.ok()?))).collect();
            (vec![shard(1), shard(2)], Some(side))
        };
        let (files, bytes) = arriving(&paths);
        let options = automatic(&to, &to);
        let total: usize = bytes.iter().map(Vec::len).sum();
        // Cut off twice, in the middle of a segment.
        let mut earlier = 0;
        for limit in [total / 3 + 777, total / 4 + 55] {
            let (arrival, _) =
                feed(&options, &files, &bytes, side.as_ref(), limit).expect("arrives");
            let done = arrival.progress().done;
            assert!(done > earlier && done < total as u64, "{name}");
            earlier = done;
        }
        let (arrival, most) =
            feed(&options, &files, &bytes, side.as_ref(), usize::MAX).expect("arrives");
        assert!(most < total as u64 * 3 / 4, "{name}: kept {most} of {total} bytes");
        arrival.finish().expect("whole");
        assert_eq!(contents(&to), contents(&whole), "{name}");
        assert!(!partial(&to).exists());
    }
}

#[test]
fn an_arrival_that_needs_again_what_is_gone_begins_anew() {
    let dir = tempfile::tempdir().expect("a folder");
    let (whole, to) = (dir.path().join("whole"), dir.path().join("pack"));
    let source = tiny::gguf("qwen3_5_moe");
    let other = |to: &Path| PackOptions { experts: "q8_0".to_owned(), ..automatic(&source, to) };
    pack(&other(&whole), &mut |_| {}).expect("packs");
    let (files, bytes) = arriving(std::slice::from_ref(&source));
    feed(&automatic(&to, &to), &files, &bytes, None, bytes[0].len() - 9000).expect("arrives");
    let (arrival, _) = feed(&other(&to), &files, &bytes, None, usize::MAX).expect("arrives");
    arrival.finish().expect("whole");
    assert_eq!(contents(&to), contents(&whole));
}

#[test]
fn what_arrives_damaged_leaves_nothing_behind() {
    let dir = tempfile::tempdir().expect("a folder");
    let to = dir.path().join("pack");
    let (files, mut bytes) = arriving(&[tiny::gguf("qwen3_moe")]);
    let middle = bytes[0].len() / 2;
    bytes[0][middle] ^= 1;
    let options = automatic(&to, &to);
    let error = feed(&options, &files, &bytes, None, usize::MAX).err().expect("refused");
    assert!(error.to_string().contains("SHA-256"), "{error}");
    assert!(!to.exists() && !partial(&to).exists());
}

#[test]
fn an_arrival_that_ends_early_is_no_pack() {
    let dir = tempfile::tempdir().expect("a folder");
    let to = dir.path().join("pack");
    let (files, bytes) = arriving(&[tiny::gguf("qwen3_moe")]);
    let options = automatic(&to, &to);
    let (arrival, _) = feed(&options, &files, &bytes, None, bytes[0].len() - 1).expect("arrives");
    assert!(arrival.finish().expect_err("refused").to_string().contains("bytes arrived"));
    let (mut arrival, _) = feed(&options, &files, &bytes, None, usize::MAX).expect("arrives");
    assert!(arrival.push(0, &[1]).expect_err("refused").to_string().contains("more than"));
    assert!(!to.exists());
}
