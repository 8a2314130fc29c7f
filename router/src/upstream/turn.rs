//! Waits until the other tasks that can run have had their turn.
//!
//! tokio's `yield_now` takes its second poll for the next turn of its task. hyper polls a body several times
//! in one turn, so here the scheduler itself has to say that it came round.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// One turn of the scheduler.
struct Turn {
    is_over: AtomicBool,
    task: Waker,
}

impl Wake for Turn {
    fn wake(self: Arc<Self>) {
        self.is_over.store(true, Ordering::Relaxed);
        self.task.wake_by_ref();
    }
}

/// Lets every other task run that can.
pub(super) async fn of_others() {
    let mut turn = None;
    poll_fn(|context| {
        let turn = turn.get_or_insert_with(|| begin(context.waker()));
        if turn.is_over.load(Ordering::Relaxed) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// Has the scheduler wake a task once it has come round.
fn begin(task: &Waker) -> Arc<Turn> {
    let turn = Arc::new(Turn { is_over: AtomicBool::new(false), task: task.clone() });
    let waker = Waker::from(turn.clone());
    // Its first poll leaves the waker with the scheduler, and that is all that is wanted of it.
    let _ = pin!(tokio::task::yield_now()).poll(&mut Context::from_waker(&waker));
    turn
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;

    use super::*;

    #[tokio::test]
    async fn polled_again_in_the_same_turn_it_still_waits_for_the_others() {
        let ran = Arc::new(AtomicBool::new(false));
        let mut others = JoinSet::new();
        let runs = ran.clone();
        others.spawn(async move { runs.store(true, Ordering::Relaxed) });
        let mut turn = pin!(of_others());
        let thrice = |context: &mut Context<'_>| {
            let polls = (0..3).map(|_| turn.as_mut().poll(context));
            polls.into_iter().find(Poll::is_ready).unwrap_or(Poll::Pending)
        };
        poll_fn(thrice).await;
        assert!(ran.load(Ordering::Relaxed));
    }
}
