//! Threads that serve connections, each with a runtime of its own.
//!
//! A connection stays on one thread, and with it all that its requests need: their timers, and their
//! connections to upstreams, which every thread keeps for itself (`upstream::connect`). So a request wakes no
//! other thread. Where the threads of one runtime share connections, they wake each other several times in
//! each request, which cost more than all else that is done with a small one (bench `gateway`).
//!
//! The price is that no thread helps another out: what takes long is for the threads of `spawn_blocking`.
//! A new connection goes to the thread that has the fewest tasks.

use std::io;
use std::num::NonZero;
use std::thread::{self, JoinHandle};

use tokio::net::TcpStream;
use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

use super::Tasks;

/// Who serves connections. Dropped, it waits until its threads have ended.
pub(crate) struct Crew {
    /// At least one.
    hands: Vec<Hand>,
    ended: CancellationToken,
}

/// One thread of a crew.
struct Hand {
    runtime: Handle,
    thread: Option<JoinHandle<()>>,
}

impl Crew {
    /// Starts so many threads, or one for each processor that this process may use.
    pub(crate) fn start(threads: Option<NonZero<usize>>) -> io::Result<Crew> {
        let mut crew = Crew { hands: Vec::new(), ended: CancellationToken::new() };
        let processors = || thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN);
        for number in 0..threads.unwrap_or_else(processors).get() {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let (handle, ended) = (runtime.handle().clone(), crew.ended.clone());
            let thread = thread::Builder::new().name(format!("serve-{number}"));
            let thread = thread.spawn(move || runtime.block_on(ended.cancelled()))?;
            crew.hands.push(Hand { runtime: handle, thread: Some(thread) });
        }
        Ok(crew)
    }

    /// Serves a connection until it is over, as one of the tasks.
    pub(super) fn serve<F>(
        &self,
        tasks: &Tasks,
        stream: TcpStream,
        serve: impl FnOnce(TcpStream) -> F + Send + 'static,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let hand = self.hands.iter().min_by_key(|hand| hand.tasks()).expect("a crew has a hand");
        // It leaves the runtime that accepted it. Where that fails, the client sees it closed.
        let Ok(stream) = stream.into_std() else { return };
        tasks.run_on(&hand.runtime, async move {
            if let Ok(stream) = TcpStream::from_std(stream) {
                serve(stream).await;
            }
        });
    }
}

impl Hand {
    /// Connections in and out, mostly.
    fn tasks(&self) -> usize {
        self.runtime.metrics().num_alive_tasks()
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.ended.cancel();
        for thread in self.hands.iter_mut().filter_map(|hand| hand.thread.take()) {
            // A thread that panicked has ended, too.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::net::TcpListener;
    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn connections_are_spread_over_the_threads_and_stay_there() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (crew, tasks) = (Crew::start(NonZero::new(3)).unwrap(), Tasks::default());
        let (tell, mut told) = mpsc::channel(1);
        let over = CancellationToken::new();
        let mut threads = Vec::new();
        assert_eq!(crew.hands.len(), 3);
        for _ in 0..2 * 3 {
            let address = listener.local_addr().unwrap();
            let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
            let (tell, over) = (tell.clone(), over.clone());
            crew.serve(&tasks, accepted.unwrap().0, async move |_stream| {
                let before = thread::current().id();
                tokio::time::sleep(Duration::from_millis(1)).await;
                tell.send((before, thread::current().id())).await.unwrap();
                over.cancelled().await;
            });
            let (before, after) = told.recv().await.unwrap();
            assert_eq!(before, after);
            threads.push(before);
            drop(client);
        }
        let at = |thread| threads.iter().filter(|&&at| at == thread).count();
        assert!(threads.iter().all(|&thread| at(thread) == 2), "{threads:?}");
        assert!(!threads.contains(&thread::current().id()));
        over.cancel();
        assert_eq!(tasks.finish(Duration::from_secs(10)).await, 0);
    }

    #[tokio::test]
    async fn what_is_late_ends_with_the_tasks() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (crew, tasks) = (Crew::start(None).unwrap(), Tasks::default());
        let address = listener.local_addr().unwrap();
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        crew.serve(&tasks, accepted.unwrap().0, async |_stream| std::future::pending().await);
        assert_eq!(tasks.finish(Duration::from_millis(1)).await, 1);
        drop((client, crew));
    }
}
