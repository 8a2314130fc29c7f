//! Chooses how to read: really reads some experts in each way and takes the fastest.
//!
//! Disks differ too much for a rule. Each way reads other experts than those before, so that no cache
//! of the machine or the disk flatters the later ones; a tie goes to the ring, which costs least
//! processor time. The page cache is no candidate: it is fast while there is memory for everything, and
//! then keeps what the cache of experts holds a second time; it is used where all experts fit, and where
//! the others do not work.

use std::sync::Arc;
use std::time::Duration;

use super::readers::{Readers, Request};
use super::{ExpertId, ExpertStore};
use crate::clock::Clock;
use crate::error::EngineError;
use crate::io::{IoChoice, Reading, Slots};

/// What is tried, preferred first.
const CANDIDATES: [(IoChoice, usize); 6] = [
    (IoChoice::Uring, 8),
    (IoChoice::Uring, 16),
    (IoChoice::Uring, 4),
    (IoChoice::Direct, 4),
    (IoChoice::Direct, 8),
    (IoChoice::Direct, 2),
];
/// How long each way reads.
const TIME: Duration = Duration::from_millis(120);
/// How much faster a later candidate must be.
const MARGIN: f64 = 1.08;
/// Experts of fewer bytes in all are not worth the test.
const WORTH_BYTES: u64 = 256 << 20;

/// How experts are read, and what the test found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Probed {
    pub(crate) reading: Reading,
    /// Whole experts, verified; `None` if nothing was tested.
    pub(crate) bytes_per_second: Option<f64>,
}

/// Opens a store in the way that was asked for, or the fastest. `fits`: all experts fit in the cache.
pub(crate) fn probe(
    store: ExpertStore,
    choice: IoChoice,
    fits: bool,
) -> Result<(ExpertStore, Probed), EngineError> {
    let chosen = match choice {
        IoChoice::Auto if fits => IoChoice::Buffered,
        IoChoice::Auto if store.bytes() < WORTH_BYTES => IoChoice::Direct,
        choice => choice,
    };
    if chosen != IoChoice::Auto {
        let (store, used) = store.reopened(chosen)?;
        let reading = Reading::usual(used);
        return Ok((store, Probed { reading, bytes_per_second: None }));
    }
    let mut ids = spread(&store);
    let mut best: Option<(Reading, f64)> = None;
    for (choice, depth) in CANDIDATES {
        let reading = Reading { choice, depth };
        let Some(rate) = rate(&store, reading, &mut ids, TIME)? else { continue };
        if best.is_none_or(|(_, so_far)| rate > so_far * MARGIN) {
            best = Some((reading, rate));
        }
    }
    let (reading, bytes_per_second) = match best {
        Some((reading, rate)) => (reading, Some(rate)),
        None => (Reading::usual(IoChoice::Buffered), None),
    };
    let (store, used) = store.reopened(reading.choice)?;
    let reading = Reading { choice: used, ..reading };
    tracing::info!(
        io = %reading.choice, depth = reading.depth,
        mib_per_second = bytes_per_second.map(|rate| (rate / f64::from(1 << 20)).round()),
        "chose how to read experts"
    );
    Ok((store, Probed { reading, bytes_per_second }))
}

/// Bytes a second of whole experts; `None` if the way does not work here.
pub(crate) fn rate(
    store: &ExpertStore,
    reading: Reading,
    ids: &mut dyn Iterator<Item = ExpertId>,
    time: Duration,
) -> Result<Option<f64>, EngineError> {
    let (store, used) = store.clone().reopened(reading.choice)?;
    let slot_bytes = store.slot_bytes();
    let store = Arc::new(store);
    let mut readers = Readers::start(&store, reading);
    if used != reading.choice || readers.reading() != reading {
        return Ok(None);
    }
    let mut slots = Slots::new(slot_bytes, reading.depth);
    let clock = Clock::System;
    let started = clock.now();
    let (mut bytes, mut in_flight) = (0, 0);
    loop {
        let room = if clock.since(started) < time { readers.room() } else { 0 };
        let request = |id| Request { id, index: 0, slot: slots.take() };
        let requests: Vec<_> = ids.take(room).map(request).collect();
        in_flight += requests.len();
        readers.submit(requests)?;
        if in_flight == 0 {
            break;
        }
        let landed = readers.wait()?;
        in_flight -= 1;
        landed.result?;
        bytes += store.pieces(landed.id).iter().map(|piece| piece.len as u64).sum::<u64>();
        slots.give(landed.slot);
    }
    Ok(Some(bytes as f64 / clock.since(started).as_secs_f64().max(1e-9)))
}

/// All experts for ever, far from each other in the files.
pub(crate) fn spread(store: &ExpertStore) -> impl Iterator<Item = ExpertId> + use<> {
    let all: Vec<ExpertId> = (0..store.layers() as u32)
        .flat_map(|layer| {
            (0..store.count(layer as usize) as u32).map(move |expert| ExpertId { layer, expert })
        })
        .collect();
    // Steps of about the golden section come everywhere and repeat late.
    let step = (all.len() as f64 * 0.618) as usize | 1;
    (0..).map(move |i: usize| all[i.wrapping_mul(step) % all.len()])
}

#[cfg(test)]
mod tests {
    use super::super::testing::{COUNT, store_on_disk};
    use super::*;

    #[test]
    fn every_candidate_reads_or_says_that_it_cannot() {
        let (_dir, store) = store_on_disk(COUNT);
        for (choice, depth) in CANDIDATES {
            let reading = Reading { choice, depth };
            let rate = rate(&store, reading, &mut spread(&store), Duration::from_millis(1));
            assert!(rate.expect("no error").is_none_or(|rate| rate > 0.0), "{reading:?}");
        }
    }

    #[test]
    fn the_page_cache_is_chosen_only_where_all_experts_fit() {
        let (_dir, store) = store_on_disk(COUNT);
        let choice = |fits| {
            let (_, probed) = probe(store.clone(), IoChoice::Auto, fits).expect("opens");
            probed.reading.choice
        };
        assert_eq!(choice(true), IoChoice::Buffered);
        let (_, forced) = probe(store.clone(), IoChoice::Direct, true).expect("opens");
        assert_eq!(choice(false), forced.reading.choice, "direct, where that works");
    }
}
