//! Every expert comes once, whatever is in memory, however it is read, and whatever fails.

use std::sync::atomic::AtomicUsize;

use super::super::testing::{
    BYTES, COUNT, Fault, Faulty, byte_of, id, store_in_pieces, store_on_disk,
};
use super::*;
use crate::io::{IoChoice, ReadAt};
use crate::tensor::ALIGNMENT;

const WAYS: [IoChoice; 4] =
    [IoChoice::Uring, IoChoice::Direct, IoChoice::Buffered, IoChoice::Mapped];
const SLOT: u64 = BYTES.next_multiple_of(ALIGNMENT) as u64;

fn options(choice: IoChoice, cache_bytes: u64) -> ExpertOptions {
    ExpertOptions { reading: Reading { choice, depth: 3 }, cache_bytes, look_ahead: true }
}

fn experts(store: &ExpertStore, choice: IoChoice, cache_bytes: u64) -> Experts {
    let (store, used) = store.clone().reopened(choice).expect("opens");
    Experts::new(store, options(used, cache_bytes))
}

/// Visits some experts; returns how often each was computed.
fn visit(experts: &mut Experts, wanted: &[u32]) -> Result<Vec<usize>, EngineError> {
    visit_guessing(experts, wanted, &[])
}

fn visit_guessing(
    experts: &mut Experts,
    wanted: &[u32],
    guess: &[u32],
) -> Result<Vec<usize>, EngineError> {
    let starts: Vec<usize> = (0..=wanted.len()).collect();
    let mut seen = vec![0; wanted.len()];
    let visit = Visit { layer: 0, wanted, starts: &starts, rows: 1 };
    experts.visit(visit, |event| match event {
        Event::Guess(guessed) => {
            let guess = guess.iter().enumerate();
            guessed.extend(guess.map(|(place, expert)| Guess { id: id(*expert), place }));
        }
        Event::Compute(batch) => {
            for (index, expert) in batch {
                let weights = expert.weights();
                for matrix in [weights.gate, weights.up, weights.down] {
                    assert!(matrix.bytes.iter().all(|b| *b == byte_of(wanted[*index])));
                }
                seen[*index] += 1;
            }
        }
    })?;
    Ok(seen)
}

#[test]
fn pieces_that_lie_anywhere_in_a_file_become_experts() {
    let (_dir, store) = store_in_pieces(COUNT);
    let wanted: Vec<u32> = (0..COUNT).collect();
    for choice in WAYS {
        let slots = [0, store.slot_bytes() as u64 * 7];
        for cache in slots {
            let mut experts = experts(&store, choice, cache);
            for _ in 0..3 {
                let seen = visit(&mut experts, &wanted).expect("the disk works");
                assert!(seen.iter().all(|n| *n == 1), "{choice}, cache {cache}: {seen:?}");
            }
        }
    }
}

#[test]
fn every_wanted_expert_comes_once_whatever_the_cache_holds() {
    let (_dir, store) = store_on_disk(COUNT);
    for choice in WAYS {
        for cache in [0, SLOT, 5 * SLOT + 7, 1 << 20] {
            let mut experts = experts(&store, choice, cache);
            for round in 0..5_u32 {
                let wanted: Vec<u32> = (0..COUNT).filter(|e| (e + round) % 3 != 0).collect();
                let guess: Vec<u32> = (0..COUNT).filter(|e| (e + round) % 4 != 0).collect();
                let seen = visit_guessing(&mut experts, &wanted, &guess).expect("the disk works");
                assert!(seen.iter().all(|n| *n == 1), "{choice}, cache {cache}: {seen:?}");
                assert!(experts.counts().cached_bytes <= cache);
            }
            let counts = experts.counts();
            assert!(counts.read_ahead_useful <= counts.read_ahead);
        }
    }
}

#[test]
fn second_visit_reads_no_expert_twice() {
    let (_dir, store) = store_on_disk(COUNT);
    for choice in WAYS {
        let mut experts = experts(&store, choice, 1 << 20);
        for _ in 0..3 {
            visit(&mut experts, &[3, 4, 5]).expect("the disk works");
        }
        let counts = experts.counts();
        assert_eq!((counts.hits, counts.misses), (6, 3), "{choice}");
        assert_eq!(counts.bytes_read, 3 * BYTES as u64);
        assert_eq!(counts.cached_bytes, 3 * SLOT);
    }
}

#[test]
fn what_was_guessed_right_is_not_read_again() {
    let (_dir, store) = store_on_disk(COUNT);
    for choice in WAYS {
        let mut experts = experts(&store, choice, 4 * SLOT);
        visit_guessing(&mut experts, &[1], &[7]).expect("the disk works");
        // The visit of the same layer lets go of what was guessed for it and has landed; what is still
        // under way counts when it is wanted.
        visit(&mut experts, &[7]).expect("the disk works");
        let counts = experts.counts();
        assert_eq!(counts.read_ahead, 1, "{choice}");
        assert!(counts.bytes_read <= 3 * BYTES as u64);
    }
}

/// Experts whose files share a count of reads, of which some fail.
fn faulty(
    store: &ExpertStore,
    choice: IoChoice,
    fault: Fault,
    from: usize,
    count: usize,
) -> Experts {
    let (store, used) = store.clone().reopened(choice).expect("opens");
    let reads = Arc::new(AtomicUsize::new(0));
    let wrap = |inner| -> Arc<dyn ReadAt> {
        Arc::new(Faulty { inner, fault, from, count, reads: Arc::clone(&reads) })
    };
    Experts::new(store.wrapped(wrap), options(used, 1 << 20))
}

#[test]
fn one_bad_read_is_healed_by_the_second_attempt() {
    let (_dir, store) = store_on_disk(COUNT);
    let wanted: Vec<u32> = (0..12).collect();
    for choice in [IoChoice::Direct, IoChoice::Uring] {
        for from in 0..12 {
            for fault in [Fault::Fail, Fault::Corrupt] {
                let mut experts = faulty(&store, choice, fault, from, 1);
                let seen = visit(&mut experts, &wanted).expect("healed");
                assert!(seen.iter().all(|n| *n == 1), "{choice} {fault:?} {from}");
            }
        }
    }
}

#[test]
fn a_lasting_fault_ends_the_visit_with_its_place_and_the_next_visit_works() {
    let (_dir, store) = store_on_disk(COUNT);
    let wanted: Vec<u32> = (0..20).collect();
    for choice in [IoChoice::Direct, IoChoice::Uring] {
        for (fault, says) in [(Fault::Fail, "the disk said no"), (Fault::Corrupt, "CRC32C")] {
            // Threads may mix up to three reads: then two attempts at one expert are among four.
            let mut experts = faulty(&store, choice, fault, 0, 8);
            let error = visit(&mut experts, &wanted).expect_err("both attempts failed").to_string();
            assert!(error.contains("layer 0") && error.contains(says), "{choice}: {error}");
            let mut works = visit(&mut experts, &wanted);
            for _ in 0..8 {
                if works.is_ok() {
                    break;
                }
                works = visit(&mut experts, &wanted);
            }
            assert!(works.expect("recovered").iter().all(|n| *n == 1), "{choice}");
        }
    }
}

#[test]
fn the_recorder_is_told_of_every_visit() {
    let (_dir, store) = store_on_disk(COUNT);
    let mut experts = experts(&store, IoChoice::Buffered, 0);
    let (sender, told) = std::sync::mpsc::sync_channel(8);
    experts.record(Box::new(move |layer, rows, wanted| {
        sender.send((layer, rows, wanted.to_vec())).expect("there is room");
    }));
    let visit = Visit { layer: 0, wanted: &[2, 9], starts: &[0, 3, 4], rows: 3 };
    experts.visit(visit, |_| {}).expect("the disk works");
    assert_eq!(told.try_recv().expect("told"), (0, 3, vec![(2, 3), (9, 1)]));
}
