//! Lines that one thread hands in together.
//!
//! A thread that serves has many requests at once. The first line that lies on its tray starts a task that
//! writes the tray; that has its turn behind all tasks that can run by now, and what these hand in is written
//! with it: one call for all, and no line waits longer than others' requests would have kept it anyway.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use thread_local::ThreadLocal;

use super::{Book, Line};

/// The trays of all threads.
#[derive(Default)]
pub(super) struct Trays(ThreadLocal<Arc<Tray>>);

/// What one thread's tasks have handed in and nobody has taken to be written.
#[derive(Default)]
struct Tray(Mutex<Vec<Line>>);

impl Tray {
    /// Lays a line on it; whether it is the first.
    fn lay(&self, line: Line) -> bool {
        let mut lines = self.lines();
        lines.push(line);
        lines.len() == 1
    }

    fn take(&self) -> Vec<Line> {
        std::mem::take(&mut self.lines())
    }

    fn lines(&self) -> MutexGuard<'_, Vec<Line>> {
        // A line is laid on it as a whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The duty to write what lies on a tray. Dropped with its task, before that had its turn, it leaves an empty
/// tray: who waits for a line is told that it is not written, and the next line starts a task again.
struct Duty(Option<Arc<Tray>>);

impl Duty {
    /// Takes the lines; what is laid on the tray from here on is another's duty.
    fn take(mut self) -> Vec<Line> {
        self.0.take().map_or_else(Vec::new, |tray| tray.take())
    }
}

impl Drop for Duty {
    fn drop(&mut self) {
        if let Some(tray) = &self.0 {
            tray.take();
        }
    }
}

/// Lays a line on this thread's tray, and sees to it that it is written. Panics outside of a runtime.
pub(super) fn lay(book: &Arc<Book>, line: Line) {
    let tray = book.trays.0.get_or_default();
    if tray.lay(line) {
        #[expect(
            clippy::disallowed_methods,
            reason = "shutdown waits for who waits for its lines"
        )]
        tokio::spawn(write(book.clone(), Duty(Some(tray.clone()))));
    }
}

/// Writes what lies on a tray; where that is for the writer's thread, hands it on.
async fn write(book: Arc<Book>, duty: Duty) {
    if let Err(lines) = book.desk.write(duty.take(), &book.outcomes) {
        for line in lines {
            // With no writer there is no log: who waits for the line is told as it is dropped.
            let _ = book.lines.send(line).await;
        }
    }
}
