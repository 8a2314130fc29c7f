//! The bounded queue between callers and the engine's thread.
//!
//! A mutex and a condition variable instead of a channel, because abandoned generations must leave
//! the middle of the queue at once: a caller that gave up may not make the next one wait or be
//! turned away. The lock is held for a few instructions, so async callers may take it.
//!
//! Invariants: never more than `waiting_max` wait beyond the free places; after [`Queue::close`]
//! nothing gets in, and whoever waited is told. Not here: who runs next to whom (`scheduler`).

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::engine::generation::Job;
use crate::error::EngineError;

/// Who waits, and how the engine's thread is woken.
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    waiting_max: usize,
    running_max: usize,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Job>,
    /// Generations that the scheduler holds.
    running: usize,
    /// Something changed since the thread last slept.
    woken: bool,
    closed: bool,
}

/// How many generations there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) running: usize,
    pub(super) waiting: usize,
}

impl Queue {
    pub(super) fn new(waiting_max: usize, running_max: usize) -> Queue {
        let (state, changed) = (Mutex::default(), Condvar::new());
        Queue { state, changed, waiting_max, running_max }
    }

    /// Generations that are computed together.
    pub(super) fn running_max(&self) -> usize {
        self.running_max
    }

    /// Lines a generation up before those that are wanted later, and tells how many stand before it.
    /// Errors with `Busy` when the queue is full, with `Stopped` after the end.
    ///
    /// By the time that each is wanted, and not by rank: who waits comes nearer to the front of all that
    /// arrive later, so nobody waits for ever.
    pub(super) fn push(&self, job: Job) -> Result<usize, EngineError> {
        let mut state = self.locked();
        self.room(&state)?;
        let place = state.waiting.partition_point(|other| other.due <= job.due);
        state.waiting.insert(place, job);
        let free = self.running_max.saturating_sub(state.running);
        self.notify(&mut state);
        Ok(place.saturating_sub(free))
    }

    /// Generations that may wait.
    pub(super) fn waiting_max(&self) -> usize {
        self.waiting_max
    }

    /// What [`Queue::push`] would say, to ask before a prompt is read.
    pub(super) fn check_room(&self) -> Result<(), EngineError> {
        self.room(&self.locked())
    }

    fn room(&self, state: &State) -> Result<(), EngineError> {
        let free = self.running_max.saturating_sub(state.running);
        match state.waiting.len() {
            _ if state.closed => Err(EngineError::Stopped),
            waiting if waiting < self.waiting_max + free => Ok(()),
            waiting => Err(EngineError::Busy { waiting }),
        }
    }

    /// The generation whose turn it is.
    pub(super) fn pop(&self) -> Option<Job> {
        self.locked().waiting.pop_front()
    }

    /// How many replies the generation wants whose turn it is.
    pub(super) fn first_replies(&self) -> Option<usize> {
        self.locked().waiting.front().map(Job::replies)
    }

    /// Records how many generations the scheduler holds.
    pub(super) fn set_running(&self, running: usize) {
        self.locked().running = running;
    }

    pub(super) fn load(&self) -> Load {
        let state = self.locked();
        Load { running: state.running, waiting: state.waiting.len() }
    }

    /// A reader took an event: a generation that stood still may go on.
    pub(super) fn reader_took(&self) {
        self.notify(&mut self.locked());
    }

    /// What a generation waited for has come.
    pub(super) fn wake(&self) {
        self.notify(&mut self.locked());
    }

    /// A reader left: if it was still waiting, it no longer counts.
    pub(super) fn reader_left(&self) {
        let mut state = self.locked();
        state.waiting.retain(Job::is_wanted);
        self.notify(&mut state);
    }

    /// Sleeps until something changes or the time is up; not at all if something already did.
    pub(super) fn wait(&self, timeout: Option<Duration>) {
        let asleep = |state: &mut State| !state.woken && !state.closed;
        let mut state = match timeout {
            None => self
                .changed
                .wait_while(self.locked(), asleep)
                .unwrap_or_else(PoisonError::into_inner),
            Some(timeout) => {
                self.changed
                    .wait_timeout_while(self.locked(), timeout, asleep)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0
            }
        };
        state.woken = false;
    }

    /// Lets nobody in any more and wakes the thread.
    pub(super) fn close(&self) {
        let mut state = self.locked();
        state.closed = true;
        self.notify(&mut state);
    }

    pub(super) fn is_closed(&self) -> bool {
        self.locked().closed
    }

    /// Ends everyone who waits.
    pub(super) fn fail_waiting(&self, error: &Arc<EngineError>) {
        let waiting = std::mem::take(&mut self.locked().waiting);
        waiting.into_iter().for_each(|job| job.fail(error.clone()));
    }

    fn notify(&self, state: &mut State) {
        state.woken = true;
        self.changed.notify_one();
    }

    /// No code panics while it holds the lock, and the state is plain numbers and a list: a
    /// poisoned lock is still good.
    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
