//! The engine's thread: owns the model, and outlives its panics.
//!
//! A panic in the middle of a forward pass leaves buffers half written, so nothing of that model is
//! kept: the generations it was computing are told, the model is dropped, and loaded anew. Those
//! who wait go on waiting. A model that keeps panicking without finishing a reply in between is
//! given up, and the engine with it.
//!
//! Invariants: one thread ever touches the model; after it ends, for whatever reason, nobody is
//! left without an end. Panic messages are not logged by us: they could quote what was computed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

use crate::engine::queue::Queue;
use crate::engine::scheduler::{Forward, Scheduler};
use crate::error::EngineError;
use crate::forecast::Speeds;

/// Panics in a row, without a finished reply in between, after which the engine gives up.
const PANICS_MAX: u32 = 3;

/// A model and how to get it again.
pub(super) struct Worker<M: Forward> {
    /// `None` only while it is loaded anew: two copies would not fit in memory.
    pub(super) model: Option<M>,
    pub(super) reload: Box<dyn FnMut() -> Result<M, EngineError> + Send>,
    pub(super) scheduler: Scheduler<M::Sequence>,
    pub(super) queue: Arc<Queue>,
    pub(super) speeds: Arc<Speeds>,
}

impl<M> Worker<M>
where
    M: Forward + Send + 'static,
{
    /// Starts the thread. It ends when the queue is closed or the model is given up.
    pub(super) fn start(self) -> Result<(), EngineError> {
        thread::Builder::new()
            .name("sluice-engine".to_owned())
            .spawn(move || self.run())
            .map_err(|source| EngineError::StartThread { source })?;
        Ok(())
    }

    fn run(mut self) {
        let mut panics = 0;
        let mut replies_before = self.speeds.replies();
        while let Some(mut model) = self.model.take() {
            let rounds = || self.scheduler.run(&mut model);
            if catch_unwind(AssertUnwindSafe(rounds)).is_ok() {
                break;
            }
            self.scheduler.fail_running(EngineError::Panicked);
            // Dropping what panicked may panic again.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(model)));
            let replies = self.speeds.replies();
            panics = if replies == replies_before { panics + 1 } else { 1 };
            replies_before = replies;
            self.model = self.load_anew(panics);
        }
        self.stop();
    }

    fn load_anew(&mut self, panics: u32) -> Option<M> {
        if panics >= PANICS_MAX {
            tracing::error!(panics, "model thread panicked again without a reply; gave up");
            return None;
        }
        tracing::error!(panics, "model thread panicked; loading the model anew");
        match (self.reload)() {
            Ok(model) => Some(model),
            Err(error) => {
                tracing::error!(%error, "model could not be loaded anew; gave up");
                None
            }
        }
    }

    fn stop(&mut self) {
        self.queue.close();
        self.scheduler.fail_running(EngineError::Stopped);
        self.queue.fail_waiting(&Arc::new(EngineError::Stopped));
        tracing::info!("engine thread ended");
    }
}
