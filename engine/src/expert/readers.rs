//! Reads experts in the chosen way: by a ring of the kernel's, or by threads that wait.
//!
//! Whoever asks hands over all experts of a layer at once, goes on, and takes what has landed in the
//! order of the disk. A ring needs no thread and one system call for all; threads work everywhere.
//!
//! Invariants: at most `depth` experts are under way; each comes back exactly once, with its slot,
//! read and verified or with an error; a read that failed or brought damaged bytes was tried twice.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::{ExpertId, ExpertStore, Segment};
use crate::error::EngineError;
use crate::io::{Done, IoChoice, Part, Read, Reading, Ring, Slot};
use crate::tensor::ALIGNMENT;

/// Attempts at one expert: a second read heals a passing fault of a bus or a controller.
pub(super) const ATTEMPTS: usize = 2;
/// Most pieces of one expert: gate, up and down.
const PIECES_MAX: usize = 3;

/// An expert to read.
pub(super) struct Request {
    pub(super) id: ExpertId,
    /// Comes back with the expert.
    pub(super) index: usize,
    /// Where it goes; large enough for whole pages.
    pub(super) slot: Slot,
}

/// An expert that was read, or not.
pub(super) struct Landed {
    pub(super) id: ExpertId,
    pub(super) index: usize,
    pub(super) slot: Slot,
    pub(super) result: Result<(), EngineError>,
}

/// The means to read experts.
pub(super) struct Readers {
    way: Way,
    reading: Reading,
    in_flight: usize,
}

enum Way {
    Ring(Box<RingReader>),
    Threads(Threads),
}

impl Readers {
    /// Starts reading from a store whose files are open in that way. Where the kernel has no rings,
    /// threads do the same; see [`Readers::reading`].
    pub(super) fn start(store: &Arc<ExpertStore>, reading: Reading) -> Readers {
        let mut reading = Reading { depth: reading.depth.max(1), ..reading };
        let way = match reading.choice {
            IoChoice::Uring => match Ring::new(reading.depth * PIECES_MAX) {
                Ok(ring) => Way::Ring(Box::new(RingReader::new(store, ring))),
                Err(error) => {
                    tracing::warn!(%error, "io_uring does not work here; reading with threads");
                    reading = Reading::usual(IoChoice::Direct);
                    Way::Threads(Threads::start(store, reading.depth))
                }
            },
            _ => Way::Threads(Threads::start(store, reading.depth)),
        };
        Readers { way, reading, in_flight: 0 }
    }

    /// How it reads, and how much at once.
    pub(super) fn reading(&self) -> Reading {
        self.reading
    }

    /// How many more experts may be asked for now.
    pub(super) fn room(&self) -> usize {
        self.reading.depth - self.in_flight
    }

    /// Asks for some experts, at most [`Readers::room`].
    pub(super) fn submit(&mut self, requests: Vec<Request>) -> Result<(), EngineError> {
        assert!(requests.len() <= self.room(), "reads in flight have a bound");
        self.in_flight += requests.len();
        match &mut self.way {
            Way::Ring(ring) => ring.submit(requests),
            Way::Threads(threads) => threads.submit(requests)?,
        }
        Ok(())
    }

    /// Waits for the next expert. Panics if none is under way (caller bug).
    pub(super) fn wait(&mut self) -> Result<Landed, EngineError> {
        assert!(self.in_flight > 0, "there is an expert to wait for");
        let landed = match &mut self.way {
            Way::Ring(ring) => ring.wait(),
            Way::Threads(threads) => threads.results.recv().map_err(|_| EngineError::Stopped)?,
        };
        self.in_flight -= 1;
        Ok(landed)
    }

    /// An expert that has landed, if there is one.
    pub(super) fn poll(&mut self) -> Option<Landed> {
        let landed = match &mut self.way {
            Way::Ring(ring) => ring.poll(),
            Way::Threads(threads) => threads.results.try_recv().ok(),
        }?;
        self.in_flight -= 1;
        Some(landed)
    }
}

/// Threads that each read one expert at a time.
struct Threads {
    requests: Option<SyncSender<Request>>,
    results: Receiver<Landed>,
    threads: Vec<JoinHandle<()>>,
}

impl Threads {
    fn start(store: &Arc<ExpertStore>, count: usize) -> Threads {
        let (requests, queue) = sync_channel::<Request>(count);
        let (landed, results) = sync_channel(count);
        let queue = Arc::new(Mutex::new(queue));
        let start = |i| {
            let (store, queue, landed) = (Arc::clone(store), Arc::clone(&queue), landed.clone());
            std::thread::Builder::new()
                .name(format!("sluice-read-{i}"))
                .spawn(move || read_until_closed(&store, &queue, &landed))
                .expect("the operating system can start a few threads")
        };
        Threads { requests: Some(requests), results, threads: (0..count).map(start).collect() }
    }

    fn submit(&mut self, requests: Vec<Request>) -> Result<(), EngineError> {
        let queue = self.requests.as_ref().expect("open until the value is dropped");
        for request in requests {
            queue.send(request).map_err(|_| EngineError::Stopped)?;
        }
        Ok(())
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.requests = None;
        for thread in self.threads.drain(..) {
            // A reader that panicked has nothing left to clean up.
            let _ = thread.join();
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
        let Ok(Request { id, index, mut slot }) = next else { return };
        let result = store.fill(id, slot.as_mut_slice(), ATTEMPTS);
        if landed.send(Landed { id, index, slot, result }).is_err() {
            return;
        }
    }
}

/// A ring, and the experts that it reads.
struct RingReader {
    store: Arc<ExpertStore>,
    /// Each read is tied to its expert and the expert's index.
    ring: Ring<(ExpertId, usize)>,
    /// Experts that are read by positional reads after all: what the ring failed at, and what it cannot
    /// read.
    late: VecDeque<(Request, usize)>,
}

impl RingReader {
    fn new(store: &Arc<ExpertStore>, ring: Ring<(ExpertId, usize)>) -> RingReader {
        RingReader { store: Arc::clone(store), ring, late: VecDeque::new() }
    }

    fn submit(&mut self, requests: Vec<Request>) {
        requests.into_iter().for_each(|request| self.push(request));
        if let Err(error) = self.ring.submit() {
            // The reads stay lined up; waiting for them tries again and says what is wrong.
            tracing::warn!(%error, "io_uring did not take reads");
        }
    }

    fn push(&mut self, request: Request) {
        let Some(parts) = self.parts(request.id) else {
            self.late.push_back((request, ATTEMPTS));
            return;
        };
        let Request { id, index, slot } = request;
        if let Err(slot) = self.ring.push(Read { slot, parts, tag: (id, index) }) {
            // What the kernel cannot read by itself counts as a failed attempt.
            self.late.push_back((Request { id, index, slot }, ATTEMPTS - 1));
        }
    }

    /// The pages of an expert; `None` if they are no pages of a slot, or too many pieces.
    fn parts(&self, id: ExpertId) -> Option<Vec<Part>> {
        let (pieces, placing) = (self.store.pieces(id), self.store.placing(id));
        let part = |(piece, start): (&Segment, &usize)| {
            let skip = start % ALIGNMENT;
            let needed = skip + piece.len;
            Part {
                file: Arc::clone(&piece.file),
                offset: piece.offset - skip as u64,
                at: start - skip,
                len: needed.next_multiple_of(ALIGNMENT),
                needed,
            }
        };
        let fits = placing.by_pages && pieces.len() <= PIECES_MAX;
        fits.then(|| pieces.iter().zip(&placing.pieces).map(part).collect())
    }

    fn poll(&mut self) -> Option<Landed> {
        while let Some(done) = self.ring.poll() {
            if let Some(landed) = self.took(done) {
                return Some(landed);
            }
        }
        None
    }

    fn wait(&mut self) -> Landed {
        loop {
            if let Some(landed) = self.poll() {
                return landed;
            }
            if let Some((request, attempts)) = self.late.pop_front() {
                return self.read_late(request, attempts);
            }
            match self.ring.wait() {
                Ok(done) => {
                    if let Some(landed) = self.took(done) {
                        return landed;
                    }
                }
                // The kernel may still have reads: the model is dropped, which waits for them, and
                // loaded anew.
                Err(error) => panic!("io_uring broke down while it read: {error}"),
            }
        }
    }

    fn read_late(&self, request: Request, attempts: usize) -> Landed {
        let Request { id, index, mut slot } = request;
        let result = self.store.fill(id, slot.as_mut_slice(), attempts);
        Landed { id, index, slot, result }
    }

    /// Gives the expert if it came whole and right.
    fn took(&mut self, done: Done<(ExpertId, usize)>) -> Option<Landed> {
        let Done { tag: (id, index), slot, whole } = done;
        if whole && self.store.verify(id, slot.as_slice()).is_ok() {
            return Some(Landed { id, index, slot, result: Ok(()) });
        }
        // The other attempts go another way, and their errors say what is wrong.
        self.late.push_back((Request { id, index, slot }, ATTEMPTS - 1));
        None
    }
}
