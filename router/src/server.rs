//! Sockets: accept, bound, read, route, reply; a second listener for probes and metrics; draining.
//!
//! Every wait has a limit. Connections and requests have a fixed number of places: a connection
//! beyond it waits in the kernel's queue, a request beyond it is told to come back. A client that
//! sends its head or body too slowly is cut off, and one that leaves takes its request with it:
//! hyper drops the handler's future, which cancels everything below.
//!
//! Stopping: `/readyz` says no first, then the listener closes, then requests in flight are waited
//! for until the drain deadline. Not here: what a request means (`api`, `gateway`).

mod body;
mod probes;
mod routes;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::active_policy::Refused;
use crate::config::Limits;
use crate::gateway::Gateway;
use crate::metrics::Metrics;

pub(crate) use routes::Traffic;

/// How long a client may take until the first head of a connection is there.
const FIRST_HEAD_TIME_MAX: Duration = Duration::from_secs(10);
/// How long it may take for each later one, idling included: hyper has one timer for both. Longer
/// than the 60 s that common balancers keep idle connections, so that they hang up first.
const HEAD_TIME_MAX: Duration = Duration::from_secs(75);
/// Longest request head, bytes.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Streams of one HTTP/2 connection.
const HTTP2_STREAMS_MAX: u32 = 128;
/// Connections per place for a request: most connections idle between requests.
const CONNECTIONS_PER_REQUEST: usize = 8;
/// Connections of the probe listener.
const PROBE_CONNECTIONS_MAX: usize = 64;

/// Every task of the server, so that stopping can wait for all and end the late ones.
#[derive(Clone, Default)]
pub(crate) struct Tasks {
    tracker: TaskTracker,
    ended: CancellationToken,
}

impl Tasks {
    /// Runs a future until it is done or the tasks are ended.
    pub(crate) fn run(&self, future: impl Future<Output = ()> + Send + 'static) {
        let ended = self.ended.clone();
        self.tracker.spawn(async move { ended.run_until_cancelled(future).await });
    }

    /// Waits for all tasks until the deadline, then ends those that are left. Returns how many were.
    async fn finish(&self, patience: Duration) -> usize {
        self.tracker.close();
        if tokio::time::timeout(patience, self.tracker.wait()).await.is_ok() {
            return 0;
        }
        let late = self.tracker.len();
        self.ended.cancel();
        self.tracker.wait().await;
        late
    }
}

/// What the traffic, the probes and the shutdown share.
pub(crate) struct Server {
    /// The gateway behind the sockets.
    pub(crate) gateway: Arc<Gateway>,
    draining: AtomicBool,
}

/// The probe listener: open before there are policies, closed last.
pub(crate) struct Probes {
    stage: RwLock<Stage>,
    metrics: Arc<Metrics>,
    stopping: CancellationToken,
    tasks: Tasks,
}

/// What the probes have to tell.
#[derive(Clone)]
pub(crate) enum Stage {
    /// Not yet taking requests; with what stands in the way, if anything does.
    Starting(Option<Arc<Refused>>),
    /// Taking requests, or about to stop.
    Serving(Arc<Server>),
}

/// A listener and what may connect to it.
struct Door {
    listener: TcpListener,
    places: Arc<Semaphore>,
}

impl Probes {
    /// Answers probes on a listener from now on.
    pub(crate) fn open(listener: TcpListener, metrics: Arc<Metrics>) -> Arc<Probes> {
        let probes = Arc::new(Probes {
            stage: RwLock::new(Stage::Starting(None)),
            metrics,
            stopping: CancellationToken::new(),
            tasks: Tasks::default(),
        });
        let door = Door::new(listener, PROBE_CONNECTIONS_MAX);
        probes.tasks.run(door.serve_probes(probes.clone()));
        probes
    }

    /// What `/metrics` shows.
    pub(crate) fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// What is told from now on.
    pub(crate) fn show(&self, stage: Stage) {
        *self.stage.write().unwrap_or_else(PoisonError::into_inner) = stage;
    }

    fn stage(&self) -> Stage {
        self.stage.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stops answering.
    pub(crate) async fn close(&self) {
        self.stopping.cancel();
        self.tasks.finish(Duration::from_secs(1)).await;
    }
}

impl Server {
    pub(crate) fn new(gateway: Arc<Gateway>) -> Arc<Server> {
        Arc::new(Server { gateway, draining: AtomicBool::new(false) })
    }

    /// Whether the server is about to stop.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Serves the traffic until `stop` is done, then drains.
    pub(crate) async fn run(
        self: Arc<Self>,
        traffic: TcpListener,
        limits: Limits,
        patience: Duration,
        stop: impl Future<Output = ()>,
    ) {
        let stopping = CancellationToken::new();
        let clients = Tasks::default();
        let routes = Arc::new(Traffic::new(self.clone(), limits));
        let door = Door::new(traffic, limits.in_flight.saturating_mul(CONNECTIONS_PER_REQUEST));
        clients.run(door.serve_traffic(routes, stopping.clone(), clients.clone()));

        stop.await;
        self.draining.store(true, Ordering::Relaxed);
        tracing::info!(patience_s = patience.as_secs(), "draining started");
        stopping.cancel();
        let late = clients.finish(patience).await;
        if late > 0 {
            tracing::warn!(late, "draining ended before all requests were answered");
        }
    }
}

impl Door {
    fn new(listener: TcpListener, places: usize) -> Door {
        let places = Arc::new(Semaphore::new(places.min(Semaphore::MAX_PERMITS)));
        Door { listener, places }
    }

    async fn serve_traffic(self, routes: Arc<Traffic>, stopping: CancellationToken, tasks: Tasks) {
        let builder = builder();
        let graceful = GracefulShutdown::new();
        while let Some((stream, place)) = self.next(&stopping).await {
            let (routes, counted) = (routes.clone(), routes.metrics().connection());
            let spoke = Arc::new(AtomicBool::new(false));
            let speaks = spoke.clone();
            let service = service_fn(move |request| {
                speaks.store(true, Ordering::Relaxed);
                let routes = routes.clone();
                async move { Ok::<_, Infallible>(routes.answer(request).await) }
            });
            let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
            let connection = graceful.watch(connection);
            tasks.run(async move {
                let mut connection = std::pin::pin!(connection);
                let first = tokio::time::timeout(FIRST_HEAD_TIME_MAX, connection.as_mut()).await;
                if first.is_err() && spoke.load(Ordering::Relaxed) {
                    // A broken connection is the client's business; its request fell with it.
                    let _ = connection.await;
                }
                drop((place, counted));
            });
        }
        drop(self.listener);
        graceful.shutdown().await;
    }

    async fn serve_probes(self, probes: Arc<Probes>) {
        let builder = builder();
        while let Some((stream, place)) = self.next(&probes.stopping).await {
            let answering = probes.clone();
            let service = service_fn(move |request| {
                let response = probes::answer(&answering.stage(), &answering.metrics, &request);
                async move { Ok::<_, Infallible>(response) }
            });
            let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
            let stopping = probes.stopping.clone();
            probes.tasks.run(async move {
                stopping.run_until_cancelled(connection).await;
                drop(place);
            });
        }
    }

    /// The next connection, once there is a place for it; `None` when the server stops.
    async fn next(
        &self,
        stopping: &CancellationToken,
    ) -> Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
        let place = stopping.run_until_cancelled(self.places.clone().acquire_owned()).await?;
        let place = place.expect("the semaphore is never closed");
        loop {
            match stopping.run_until_cancelled(self.listener.accept()).await? {
                Ok((stream, _)) => {
                    // Small chunks of a stream must not wait for each other.
                    let _ = stream.set_nodelay(true);
                    return Some((stream, place));
                }
                Err(error) => {
                    // Out of file descriptors, mostly: others must close before it gets better.
                    tracing::warn!(%error, "connection was not accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .keep_alive(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(HTTP2_STREAMS_MAX)
        .max_header_list_size(HEAD_BYTES_MAX as u32)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20));
    builder
}

/// Binds a listener; port 0 takes a free one.
pub(crate) async fn bind(address: SocketAddr) -> std::io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address).await?;
    let bound = listener.local_addr()?;
    Ok((listener, bound))
}
