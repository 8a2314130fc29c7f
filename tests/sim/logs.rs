//! Keeps what the gateway logs, every level of it.

use std::io::Write;
use std::sync::{Arc, Mutex, OnceLock};

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// All that was logged in this process so far.
#[derive(Clone, Default)]
pub(crate) struct Logs(Arc<Mutex<Vec<u8>>>);

impl Logs {
    /// What was logged after the first `start` bytes.
    pub(crate) fn from(&self, start: usize) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()[start..]).into_owned()
    }

    /// Bytes of it.
    pub(crate) fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

impl Write for Logs {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Keeps them from now on. The libraries below log what they are about from `WARN` up, as in serving.
pub(crate) fn keep() -> Logs {
    static KEPT: OnceLock<Logs> = OnceLock::new();
    let kept = KEPT.get_or_init(|| {
        let logs = Logs::default();
        let writer = logs.clone();
        let lines =
            tracing_subscriber::fmt::layer().with_ansi(false).with_writer(move || writer.clone());
        let ours = Targets::new().with_target("sluice", LevelFilter::TRACE);
        let levels = ours.with_default(LevelFilter::WARN);
        tracing_subscriber::registry().with(lines).with(levels).init();
        logs
    });
    kept.clone()
}
