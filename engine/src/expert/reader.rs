//! Brings the experts that a layer wants: hits at once, misses as their reads land.
//!
//! The misses of a layer are handed to the reading threads together, then the caller computes with
//! what is here while they read. A flash disk is fast only with several reads in flight, and a read
//! hides only behind work of the same layer (what the next layer wants is not known yet).
//!
//! Invariants: at most [`IN_FLIGHT_MAX`] experts are in memory beside the cache; a failed read ends
//! the visit only after every other read of it has come back, so that nothing lands in a later visit.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::cache::ExpertCache;
use super::{Expert, ExpertId, ExpertStore};
use crate::error::EngineError;
use crate::tensor::AlignedBytes;

/// Reads under way at once; disks saturate at a few reads of this size.
const IN_FLIGHT_MAX: usize = 8;
/// Threads that read; they sleep in the kernel, not on a core.
const READERS: usize = 2;

/// The experts of a model: a store, a cache before it, and threads that read.
pub(crate) struct Experts {
    store: Arc<ExpertStore>,
    cache: ExpertCache,
    requests: Option<SyncSender<Request>>,
    results: Receiver<Landed>,
    readers: Vec<JoinHandle<()>>,
    free: Vec<AlignedBytes>,
}

struct Request {
    id: ExpertId,
    index: usize,
    buffer: Option<AlignedBytes>,
}

struct Landed {
    id: ExpertId,
    index: usize,
    expert: Result<Expert, EngineError>,
}

impl Experts {
    /// Starts the reading threads over a store, with a cache of at most `cache_bytes`.
    pub(crate) fn new(store: ExpertStore, cache_bytes: u64) -> Self {
        let store = Arc::new(store);
        let (requests, queue) = sync_channel::<Request>(IN_FLIGHT_MAX);
        let (landed, results) = sync_channel(IN_FLIGHT_MAX);
        let queue = Arc::new(Mutex::new(queue));
        let readers = (0..READERS)
            .map(|i| {
                let (store, queue, landed) =
                    (Arc::clone(&store), Arc::clone(&queue), landed.clone());
                std::thread::Builder::new()
                    .name(format!("sluice-read-{i}"))
                    .spawn(move || read_until_closed(&store, &queue, &landed))
                    .expect("the operating system can start a few threads")
            })
            .collect();
        Experts {
            store,
            cache: ExpertCache::new(cache_bytes),
            requests: Some(requests),
            results,
            readers,
            free: Vec::new(),
        }
    }

    /// The store behind the cache.
    pub(crate) fn store(&self) -> &ExpertStore {
        &self.store
    }

    /// Bytes of the experts in the cache, look-ups that found theirs, and look-ups that did not.
    pub(crate) fn counts(&self) -> (usize, u64, u64) {
        let (hits, misses) = self.cache.counts();
        (self.cache.bytes_used(), hits, misses)
    }

    /// Calls `compute` with all of `wanted` (indices of experts of `layer`): first once with those
    /// that are in memory, possibly none, while the others are read; then with each as it lands.
    /// The pairs are index into `wanted` and expert.
    pub(crate) fn visit(
        &mut self,
        layer: u32,
        wanted: &[u32],
        mut compute: impl FnMut(&[(usize, Arc<Expert>)]),
    ) -> Result<(), EngineError> {
        self.cache.tick();
        let mut hits = Vec::with_capacity(wanted.len());
        let mut misses = Vec::new();
        for (index, expert) in wanted.iter().enumerate() {
            let id = ExpertId { layer, expert: *expert };
            match self.cache.find(id) {
                Some(expert) => hits.push((index, expert)),
                None => misses.push((index, id)),
            }
        }
        let mut rest = misses.into_iter();
        let mut in_flight = 0;
        for (index, id) in rest.by_ref().take(IN_FLIGHT_MAX) {
            self.request(index, id)?;
            in_flight += 1;
        }
        compute(&hits);
        drop(hits);
        let mut failure = None;
        while in_flight > 0 {
            let landed = self.results.recv().map_err(|_| EngineError::Stopped)?;
            in_flight -= 1;
            match landed.expert {
                Ok(expert) => {
                    if failure.is_none()
                        && let Some((index, id)) = rest.next()
                    {
                        self.request(index, id)?;
                        in_flight += 1;
                    }
                    let expert = Arc::new(expert);
                    compute(&[(landed.index, Arc::clone(&expert))]);
                    self.keep(landed.id, expert);
                }
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        failure.map_or(Ok(()), Err)
    }

    fn request(&mut self, index: usize, id: ExpertId) -> Result<(), EngineError> {
        let request = Request { id, index, buffer: self.free.pop() };
        let requests = self.requests.as_ref().expect("open until the value is dropped");
        requests.send(request).map_err(|_| EngineError::Stopped)
    }

    fn keep(&mut self, id: ExpertId, expert: Arc<Expert>) {
        if let Some(buffer) = self.cache.insert(id, expert)
            && self.free.len() < IN_FLIGHT_MAX
        {
            self.free.push(buffer);
        }
    }
}

impl Drop for Experts {
    fn drop(&mut self) {
        self.requests = None;
        for reader in self.readers.drain(..) {
            // A reader that panicked has nothing left to clean up.
            let _ = reader.join();
        }
    }
}

fn read_until_closed(
    store: &ExpertStore,
    queue: &Mutex<Receiver<Request>>,
    landed: &SyncSender<Landed>,
) {
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Request { id, index, buffer }) = next else { return };
        let expert = store.read(id, buffer);
        if landed.send(Landed { id, index, expert }).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::Path;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::super::{ExpertLayout, LayerExperts, Segment};
    use super::*;
    use crate::io::ReadAt;
    use crate::tensor::{DType, MatrixShape};

    const COUNT: u32 = 40;
    const BYTES: usize = 12;

    /// Expert e is filled with e; the n-th read fails or is damaged.
    struct Disk {
        reads: AtomicUsize,
        fail: Option<usize>,
        damage: Option<usize>,
        from: usize,
    }

    impl ReadAt for Disk {
        fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
            let n = self.reads.fetch_add(1, Ordering::Relaxed);
            if n >= self.from && self.fail.is_some_and(|f| n < self.from + f) {
                return Err(io::Error::other("the disk said no"));
            }
            buf.fill((offset / BYTES as u64) as u8);
            if n >= self.from && self.damage.is_some_and(|d| n < self.from + d) {
                buf[3] ^= 1;
            }
            Ok(())
        }

        fn len(&self) -> u64 {
            u64::from(COUNT) * BYTES as u64
        }

        fn path(&self) -> &Path {
            Path::new("disk")
        }
    }

    fn experts(disk: Disk, cache_bytes: u64) -> Experts {
        let shape = MatrixShape { dtype: DType::F32, rows: 1, cols: 1 };
        let layout = Arc::new(ExpertLayout { gate: shape, up: shape, down: shape });
        let file: Arc<dyn ReadAt> = Arc::new(disk);
        let segments = (0..COUNT)
            .map(|e| {
                let offset = u64::from(e) * BYTES as u64;
                vec![Segment { file: Arc::clone(&file), offset, len: BYTES }]
            })
            .collect();
        let checksums = (0..COUNT).map(|e| crc32c::crc32c(&[e as u8; BYTES])).collect();
        let layer = LayerExperts { layout, segments, checksums: Some(checksums) };
        Experts::new(ExpertStore::new(vec![Some(layer)]), cache_bytes)
    }

    fn disk() -> Disk {
        Disk { reads: AtomicUsize::new(0), fail: None, damage: None, from: 0 }
    }

    fn first_byte(expert: &Expert) -> u32 {
        u32::from(expert.weights().gate.bytes[0])
    }

    #[test]
    fn every_wanted_expert_comes_once_whatever_the_cache_holds() {
        for cache_bytes in [0, BYTES as u64, 5 * BYTES as u64, 1 << 20] {
            let mut experts = experts(disk(), cache_bytes);
            for round in 0..5_u32 {
                let wanted: Vec<u32> = (0..COUNT).filter(|e| (e + round) % 3 != 0).collect();
                let mut seen = vec![0; wanted.len()];
                experts
                    .visit(0, &wanted, |batch| {
                        for (index, expert) in batch {
                            assert_eq!(first_byte(expert), wanted[*index]);
                            seen[*index] += 1;
                        }
                    })
                    .expect("the disk works");
                assert!(seen.iter().all(|n| *n == 1), "cache {cache_bytes}: {seen:?}");
                assert!(experts.counts().0 as u64 <= cache_bytes);
            }
        }
    }

    #[test]
    fn second_visit_reads_no_expert_twice() {
        let mut experts = experts(disk(), 1 << 20);
        for _ in 0..3 {
            experts.visit(0, &[3, 4, 5], |_| {}).expect("the disk works");
        }
        assert_eq!(experts.counts(), (3 * BYTES, 6, 3));
    }

    #[test]
    fn one_bad_read_is_healed_by_the_second_attempt() {
        for from in 0..20 {
            for (fail, damage) in [(Some(1), None), (None, Some(1))] {
                let disk = Disk { fail, damage, from, ..disk() };
                let mut seen = 0;
                experts(disk, 0)
                    .visit(0, &(0..20).collect::<Vec<_>>(), |batch| seen += batch.len())
                    .expect("healed");
                assert_eq!(seen, 20);
            }
        }
    }

    #[test]
    fn a_damaged_expert_ends_the_visit_and_the_next_visit_works() {
        let broken = Disk { damage: Some(4), from: 6, ..disk() };
        let mut experts = experts(broken, 1 << 20);
        let wanted: Vec<u32> = (0..20).collect();
        let error = experts.visit(0, &wanted, |_| {}).expect_err("two attempts were damaged");
        let text = error.to_string();
        assert!(text.contains("layer 0") && text.contains("CRC32C"), "{text}");
        let mut seen = 0;
        experts
            .visit(0, &wanted, |batch| {
                seen += batch.len();
                for (index, expert) in batch {
                    assert_eq!(first_byte(expert), wanted[*index]);
                }
            })
            .expect("the disk has recovered");
        assert_eq!(seen, 20);
    }
}
