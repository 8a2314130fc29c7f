//! Traces are what the gates chose, and the limit is one.

use proptest::prelude::*;

use super::*;
use crate::model::tiny;

fn header(experts: Vec<u32>) -> Header {
    Header {
        format: FORMAT.to_owned(),
        version: VERSION,
        model: "m".to_owned(),
        experts,
        slot_bytes: 10,
    }
}

#[test]
fn a_recorded_model_replays_with_its_own_counts() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let model = dir.path().join("model");
    tiny::write(&model, 2);
    let data = dir.path().join("data.jsonl");
    std::fs::write(&data, r#"{"prompt": "abc", "answer": "def ghi"}"#).expect("written");
    // Gate and up are one piece, down another; neither starts on a page of the file.
    let pages = |bytes: u64| bytes.div_ceil(4096) + 1;
    let slot_bytes = 4096 * (pages(2 * 64 * 32 * 4) + pages(64 * 32 * 4));
    let engine = EngineOptions {
        model,
        threads: Some(1),
        expert_cache_bytes: Some(9 * slot_bytes),
        look_ahead: Some(false),
        ..EngineOptions::default()
    };
    let destination = dir.path().join("trace");
    let options = TraceOptions { engine, data, destination: destination.clone(), limit: None };
    let report = record(&options, &mut |_| {}).expect("recorded");
    assert_eq!(report.records, 1);
    let trace = Trace::read(&destination).expect("reads");
    assert_eq!(trace.visits.len(), report.visits);
    // Four layers; the prompt in one pass, then "def ghi" but its end, which is never read.
    assert_eq!(report.visits, 4 * (1 + 7));
    assert!(trace.visits[4..].iter().all(|v| v.1 == 1 && v.2.len() == 3));
    assert_eq!(trace.header.slot_bytes, slot_bytes);
    let options = ReplayOptions { trace: destination, cache_bytes: vec![9 * slot_bytes, u64::MAX] };
    let [small, all] = &replay(&options).expect("replays")[..] else { panic!("two sizes") };
    assert_eq!((small.slots, all.slots), (9, 4 * tiny::EXPERTS));
    let reads: Vec<u64> = all.policies.iter().map(|p| p.bytes_read).collect();
    assert!(reads.windows(2).all(|pair| pair[0] == pair[1]), "with room for all, all are equal");
    let best = small.policies.last().expect("the limit").bytes_read;
    assert!(small.policies.iter().all(|p| p.bytes_read >= best));
    assert_eq!(small.policies.iter().filter(|p| p.in_use).count(), 1);
}

#[test]
fn broken_traces_are_errors_that_name_the_line() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("trace");
    let head = serde_json::to_string(&header(vec![4, 0])).expect("plain data");
    let other = head.replace("\"version\":1", "\"version\":9");
    for (text, says) in [
        ("".to_owned(), "empty"),
        ("{}\n".to_owned(), "line 1"),
        (format!("{other}\n"), "record the trace again"),
        (format!("{head}\n[0,1,[[3,1]]]\n[0,1,[[4,1]]]\n"), "line 3"),
        (format!("{head}\n[1,1,[[0,1]]]\n"), "layer 1"),
        (format!("{head}\n[0,1,[[2,1],[1,1]]]\n"), "in order"),
        (format!("{head}\n[0,1,[[2,5]]]\n"), "line 2"),
        (format!("{head}\n[0,1,\n"), "line 2"),
    ] {
        std::fs::write(&path, &text).expect("written");
        let error = Trace::read(&path).err().expect("refused").to_string();
        assert!(error.contains(says), "{text}: {error}");
    }
}

proptest! {
    #[test]
    fn no_policy_reads_less_than_the_limit(
        slots in 0_usize..12,
        chosen in prop::collection::vec((0_u32..2, prop::collection::btree_set(0_u32..8, 1..4)), 1..120),
    ) {
        let visits = chosen
            .into_iter()
            .map(|(layer, experts)| Visit(layer, 1, experts.into_iter().map(|e| (e, 1)).collect()))
            .collect();
        let trace = Trace { header: header(vec![8, 8]), visits };
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("trace");
        let mut text = Vec::new();
        line(&mut text, &trace.header).expect("in memory");
        trace.visits.iter().for_each(|visit| line(&mut text, visit).expect("in memory"));
        std::fs::write(&path, text).expect("written");
        let options = ReplayOptions { trace: path, cache_bytes: vec![slots as u64 * 10] };
        let replay = replay(&options).expect("replays").remove(0);
        let limit = replay.policies.last().expect("the limit");
        for policy in &replay.policies {
            prop_assert!(policy.bytes_read >= limit.bytes_read, "{policy:?}");
            prop_assert!((0.0..=1.0).contains(&policy.hit_rate));
        }
    }
}
