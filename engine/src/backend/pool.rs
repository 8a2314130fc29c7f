//! A fixed set of threads that share numbered tasks, for regions of a few microseconds.
//!
//! General thread pools pay a queue and a wake-up per task; a token needs a hundred regions, so here
//! a region is one atomic word that all threads count up. Results never depend on who runs a task.
//! A thread claims several neighbours at once, ever fewer towards the end, so that it reads memory in
//! long runs, which processors fetch ahead, and all threads still end together.
//! Source: Polychronopoulos and Kuck, "Guided Self-Scheduling" (IEEE Transactions on Computers, 1987).
//!
//! Invariants: [`Pool::run`] returns after every task of its region ended; a worker that wakes late
//! finds the region over and touches nothing, so a busy machine delays no region for a thread that
//! has not started; a panic in a task reaches the caller after the region.
//! The crate's only threads that spin: for `SPINS` rounds after a region, then they sleep.
#![allow(unsafe_code)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

/// Rounds of waiting before a worker sleeps: some tens of microseconds, the gap between two regions
/// of one token. Ten times as many took a core from whoever else needed it, and on a machine shared
/// with other work halved the speed.
const SPINS: u32 = 2_000;

/// A region's word: epoch in the upper half, the next unclaimed task in the lower.
const TASK_BITS: u32 = 32;

/// A region that hands out nothing: its next task is beyond every total.
const CLOSED: u64 = u32::MAX as u64;

/// Threads that run regions of numbered tasks together with the caller.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

struct Shared {
    /// `epoch << 32 | next task`; the only word that hands out work.
    claim: AtomicU64,
    /// Tasks of the current region.
    total: AtomicUsize,
    /// Tasks that ended.
    done: AtomicUsize,
    /// Threads that claim tasks, the caller included.
    threads: usize,
    /// The region's closure and its monomorphised caller, as two words: a torn pair is never called
    /// because claiming a task checks the epoch afterwards.
    data: AtomicPtr<()>,
    call: AtomicPtr<()>,
    panicked: AtomicBool,
    stop: AtomicBool,
    sleepers: AtomicUsize,
    lock: Mutex<()>,
    wake: Condvar,
}

type Trampoline = unsafe fn(*const (), usize);

impl Pool {
    /// Starts `threads - 1` workers; the caller of [`Pool::run`] is the last thread.
    pub(crate) fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared {
            claim: AtomicU64::new(0),
            total: AtomicUsize::new(0),
            done: AtomicUsize::new(0),
            threads,
            data: AtomicPtr::new(std::ptr::null_mut()),
            call: AtomicPtr::new(std::ptr::null_mut()),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            sleepers: AtomicUsize::new(0),
            lock: Mutex::new(()),
            wake: Condvar::new(),
        });
        let workers = (1..threads)
            .map(|i| {
                let shared = Arc::clone(&shared);
                std::thread::Builder::new()
                    .name(format!("sluice-compute-{i}"))
                    .spawn(move || shared.work())
                    .expect("the operating system can start a few threads")
            })
            .collect();
        Pool { shared, workers }
    }

    /// Threads that work on a region, the caller included.
    pub(crate) fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `task(0)`, … `task(tasks - 1)`, each once, on all threads; returns when all have ended.
    ///
    /// Takes `&mut self`: regions do not nest. Panics if a task panicked.
    pub(crate) fn run<F: Fn(usize) + Sync>(&mut self, tasks: usize, task: F) {
        if self.workers.is_empty() || tasks <= 1 {
            (0..tasks).for_each(task);
            return;
        }
        assert!(tasks < u32::MAX as usize, "a region has fewer than 2^32 tasks");
        let shared = &*self.shared;
        let call: Trampoline = trampoline::<F>;
        // The last region is closed before its words are replaced: a worker that looked at it late
        // could otherwise claim a task of the old epoch under the new, larger total.
        let last = shared.claim.load(Ordering::Relaxed) >> TASK_BITS;
        shared.claim.store((last.wrapping_add(1) << TASK_BITS) | CLOSED, Ordering::Relaxed);
        fence(Ordering::Release);
        shared.data.store((&raw const task).cast_mut().cast(), Ordering::Relaxed);
        shared.call.store(call as *mut (), Ordering::Relaxed);
        shared.total.store(tasks, Ordering::Relaxed);
        shared.done.store(0, Ordering::Relaxed);
        let epoch = last.wrapping_add(2);
        shared.claim.store(epoch << TASK_BITS, Ordering::SeqCst);
        if shared.sleepers.load(Ordering::SeqCst) > 0 {
            drop(shared.lock.lock());
            shared.wake.notify_all();
        }
        shared.help(epoch & u64::from(u32::MAX));
        let mut spins = 0_u32;
        while shared.done.load(Ordering::Acquire) < tasks {
            spins += 1;
            if spins < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
        if shared.panicked.swap(false, Ordering::Relaxed) {
            panic!("a compute task panicked; its message was printed by its thread");
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        drop(self.shared.lock.lock());
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            // A worker catches the panics of its tasks; there is nothing more to report here.
            let _ = worker.join();
        }
    }
}

impl Shared {
    fn work(&self) {
        let mut seen = 0;
        while let Some(epoch) = self.next_epoch(seen) {
            seen = epoch;
            self.help(epoch);
        }
    }

    /// Waits for a region after `seen`; `None` when the pool stops.
    fn next_epoch(&self, seen: u64) -> Option<u64> {
        let current = || self.claim.load(Ordering::SeqCst) >> TASK_BITS;
        for _ in 0..SPINS {
            if current() != seen {
                return Some(current());
            }
            std::hint::spin_loop();
        }
        let mut guard = self.lock.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        while current() == seen && !self.stop.load(Ordering::SeqCst) {
            guard = self.wake.wait(guard).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
        (!self.stop.load(Ordering::SeqCst)).then(current)
    }

    /// Tasks that are claimed at once when so many are left.
    fn share_of(&self, left: usize) -> usize {
        (left / (2 * self.threads)).max(1)
    }

    /// Claims and runs tasks of region `epoch` until none is left.
    fn help(&self, epoch: u64) {
        loop {
            let word = self.claim.load(Ordering::Acquire);
            let task = (word & u64::from(u32::MAX)) as usize;
            let (data, call) =
                (self.data.load(Ordering::Relaxed), self.call.load(Ordering::Relaxed));
            let total = self.total.load(Ordering::Relaxed);
            if word >> TASK_BITS != epoch || task >= total {
                return;
            }
            let count = self.share_of(total - task);
            // With the release fence in `run`: if any word above is of a later region, the exchange
            // sees that this one was closed.
            fence(Ordering::Acquire);
            if self
                .claim
                .compare_exchange_weak(
                    word,
                    word + count as u64,
                    Ordering::AcqRel,
                    Ordering::Relaxed,
                )
                .is_err()
            {
                continue;
            }
            // SAFETY: `call` was stored from a `Trampoline` and `data` from the closure that it
            // expects, both before `claim` took this epoch. The exchange succeeded in this epoch on
            // unclaimed tasks, so `run` still waits for `done` and the closure is alive; the words
            // change only after the epoch was closed, which makes the exchange fail.
            let run = |task| unsafe {
                let call = std::mem::transmute::<*mut (), Trampoline>(call);
                call(data, task);
            };
            for task in task..task + count {
                if catch_unwind(AssertUnwindSafe(|| run(task))).is_err() {
                    self.panicked.store(true, Ordering::Relaxed);
                }
            }
            self.done.fetch_add(count, Ordering::Release);
        }
    }
}

/// Calls the closure behind `data`.
///
/// # Safety
/// `data` points to a live `F`.
unsafe fn trampoline<F: Fn(usize) + Sync>(data: *const (), task: usize) {
    // SAFETY: the caller's contract.
    unsafe { (*data.cast::<F>())(task) }
}

/// A slice whose elements are written by several tasks, each element by one task only.
pub(crate) struct Scattered<'a, T> {
    start: *mut T,
    len: usize,
    _slice: std::marker::PhantomData<&'a mut [T]>,
}

// SAFETY: the type only hands out disjoint parts, by the contract of its unsafe methods.
unsafe impl<T: Send> Sync for Scattered<'_, T> {}
// SAFETY: as a `&mut [T]`.
unsafe impl<T: Send> Send for Scattered<'_, T> {}

impl<'a, T> Scattered<'a, T> {
    /// Borrows the slice for one region.
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Scattered { start: slice.as_mut_ptr(), len: slice.len(), _slice: std::marker::PhantomData }
    }

    /// Writes element `i`. Panics if it is out of bounds.
    ///
    /// # Safety
    /// No other task of the region reads or writes element `i`.
    #[inline(always)]
    pub(crate) unsafe fn write(&self, i: usize, value: T) {
        assert!(i < self.len, "scattered write out of bounds");
        // SAFETY: in bounds, and exclusive by the caller's contract.
        unsafe { self.start.add(i).write(value) }
    }

    /// Elements `from..from + len`. Panics if they are out of bounds.
    ///
    /// # Safety
    /// No other task of the region reads or writes them.
    #[inline(always)]
    #[expect(clippy::mut_from_ref, reason = "disjointness is the caller's contract")]
    pub(crate) unsafe fn slice(&self, from: usize, len: usize) -> &mut [T] {
        assert!(from.checked_add(len).is_some_and(|end| end <= self.len), "slice out of bounds");
        // SAFETY: in bounds, and exclusive by the caller's contract.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(from), len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once() {
        let mut pool = Pool::new(3);
        for tasks in [0, 1, 2, 7, 1000] {
            let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
            pool.run(tasks, |i| {
                counts[i].fetch_add(1, Ordering::Relaxed);
            });
            assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
        }
    }

    /// Regions of different sizes: a worker that is late for a small one must not run a task of the
    /// next, larger one.
    #[test]
    fn short_regions_of_changing_size_run_every_task_once() {
        let mut pool = Pool::new(4);
        let counts: Vec<AtomicUsize> = (0..64).map(|_| AtomicUsize::new(0)).collect();
        for round in 0..200_000_usize {
            let tasks = 2 + round * 7 % 60;
            pool.run(tasks, |i| {
                counts[i].fetch_add(1, Ordering::Relaxed);
            });
            for (i, count) in counts.iter().enumerate() {
                assert_eq!(count.swap(0, Ordering::Relaxed), usize::from(i < tasks), "{round} {i}");
            }
        }
    }

    #[test]
    fn a_panicking_task_reaches_the_caller_and_the_pool_lives_on() {
        let mut pool = Pool::new(2);
        let caught = catch_unwind(AssertUnwindSafe(|| {
            pool.run(8, |i| assert_ne!(i, 5, "task five fails on purpose"));
        }));
        assert!(caught.is_err());
        let ran = AtomicUsize::new(0);
        pool.run(8, |_| {
            ran.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(ran.load(Ordering::Relaxed), 8);
    }

    #[test]
    fn scattered_writes_land_where_they_belong() {
        let mut pool = Pool::new(2);
        let mut values = vec![0_usize; 100];
        let out = Scattered::new(&mut values);
        // SAFETY: each task writes its own element.
        pool.run(100, |i| unsafe { out.write(99 - i, i) });
        assert!(values.iter().enumerate().all(|(i, v)| *v == 99 - i));
    }
}
