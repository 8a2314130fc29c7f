//! Packing holds one expert or a piece of a tensor in memory, however large the model is.
//!
//! A test of its own process: the largest resident memory counts everything that was ever in it.

use sluice_engine::pack::{PackOptions, pack};
use sluice_engine::synth::{SynthOptions, synth};

/// Most resident memory of the process, bytes.
fn most_resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("there is a /proc");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a high water mark");
    let kib: u64 = line.split_whitespace().nth(1).expect("a number").parse().expect("a number");
    kib << 10
}

#[test]
fn packing_takes_a_fraction_of_the_model_s_memory() {
    const MOST: u64 = 96 << 20;
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let source = dir.path().join("model.gguf");
    let options = SynthOptions {
        like: "qwen3-30b-a3b".to_owned(),
        destination: source.clone(),
        layers: Some(1),
        vocabulary: Some(4096),
        quant: "q4_0".to_owned(),
        skew: 0.0,
        seed: 1,
    };
    synth(&options, &mut |_| {}).expect("written");
    let bytes = std::fs::metadata(&source).expect("a file").len();
    assert!(bytes > 3 * MOST, "a model that is much larger: {bytes}");
    // As they are, and quantised anew on all processors.
    for quant in ["auto", "q8_0"] {
        let destination = dir.path().join(quant);
        let options = PackOptions {
            source: source.clone(),
            destination: destination.clone(),
            experts: quant.to_owned(),
            dense: "auto".to_owned(),
            classes: Vec::new(),
            name: None,
            quality: None,
        };
        pack(&options, &mut |_| {}).expect("packs");
        let most = most_resident();
        assert!(most < MOST, "{quant}: {most} bytes were resident, of a model of {bytes}");
        std::fs::remove_dir_all(destination).expect("there");
    }
}
