//! Sockets: accept, bound, read, route, reply; a second listener for probes and metrics; draining.
//!
//! Every wait has a limit. Connections and requests have a fixed number of places: a connection
//! beyond it waits in the kernel's queue, a request beyond it is told to come back. A client that
//! sends its head or body too slowly is cut off, and one that leaves takes its request with it:
//! hyper drops the handler's future, which cancels everything below.
//!
//! Stopping: `/readyz` says no first, then the listener closes, then requests in flight are waited
//! for until the drain deadline. Not here: what a request means (`api`, `gateway`).

mod admin;
mod body;
mod cors;
mod crew;
mod door;
mod probes;
mod routes;
mod tls;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::active_policy::Refused;
use crate::config::{Config, Drain, Limits};
use crate::gateway::Gateway;
use crate::metrics::Metrics;

pub use admin::AdminError;
pub(crate) use admin::{Admin, AskedReload};
pub(crate) use crew::Crew;
use door::Door;
pub(crate) use door::bind;
pub(crate) use routes::Traffic;
pub use tls::TlsError;
pub(crate) use tls::TlsFront;

/// Connections per place for a request: most connections idle between requests.
const CONNECTIONS_PER_REQUEST: usize = 8;
/// Connections of the probe listener.
const PROBE_CONNECTIONS_MAX: usize = 64;
/// Connections of the admin listener.
const ADMIN_CONNECTIONS_MAX: usize = 16;

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

    /// The same on another runtime.
    fn run_on(&self, runtime: &Handle, future: impl Future<Output = ()> + Send + 'static) {
        let ended = self.ended.clone();
        self.tracker.spawn_on(async move { ended.run_until_cancelled(future).await }, runtime);
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
    current: RwLock<Arc<Current>>,
    /// Held while the gateway is replaced or the network declared away: neither may overtake the other.
    changing: Mutex<()>,
    draining: AtomicBool,
}

/// What a request is answered with from its beginning to its end, whatever is reloaded meanwhile.
pub(crate) struct Current {
    /// The gateway behind the sockets.
    pub(crate) gateway: Arc<Gateway>,
    /// Longest request body.
    pub(crate) body_bytes_max: u64,
    /// Origins whose pages may call.
    pub(crate) cors: Vec<String>,
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

impl Probes {
    /// Answers probes on a listener from now on.
    pub(crate) fn open(listener: TcpListener, metrics: Arc<Metrics>) -> Arc<Probes> {
        let probes = Arc::new(Probes {
            stage: RwLock::new(Stage::Starting(None)),
            metrics,
            stopping: CancellationToken::new(),
            tasks: Tasks::default(),
        });
        let door = Door::new(listener, PROBE_CONNECTIONS_MAX, None);
        probes.tasks.run(door.serve_probes(probes.clone()));
        probes
    }

    /// Answers operators on a listener from now on, for as long as probes are answered.
    pub(crate) fn open_admin(
        self: &Arc<Self>,
        listener: TcpListener,
        tls: Option<Arc<TlsFront>>,
        admin: Arc<Admin>,
    ) {
        let door = Door::new(listener, ADMIN_CONNECTIONS_MAX, tls);
        self.tasks.run(door.serve_admin(admin, self.clone()));
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
    pub(crate) fn new(gateway: Arc<Gateway>, config: &Config) -> Arc<Server> {
        let current = RwLock::new(Arc::new(Current::new(gateway, config)));
        Arc::new(Server { current, changing: Mutex::default(), draining: AtomicBool::new(false) })
    }

    /// What a request that begins now is answered with.
    pub(crate) fn current(&self) -> Arc<Current> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The gateway in force.
    pub(crate) fn gateway(&self) -> Arc<Gateway> {
        self.current().gateway.clone()
    }

    /// Answers requests that begin from now on with another gateway. What a person declared of the
    /// network goes over to it.
    pub(crate) fn replace(&self, gateway: Arc<Gateway>, config: &Config) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        gateway.take_over(&self.gateway());
        let current = Arc::new(Current::new(gateway, config));
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = current;
    }

    /// Takes an operator's word that there is no network.
    pub(crate) fn declare_offline(&self, reason: &str, by: &str) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.gateway().declare_offline(reason, by);
    }

    /// Takes that word back.
    pub(crate) fn resume(&self, by: &str) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.gateway().resume(by);
    }

    /// Whether the server is about to stop.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Serves the traffic until `stop` is done, then drains: `/readyz` first, then the listener, then
    /// what is in flight.
    pub(crate) async fn run(
        self: Arc<Self>,
        traffic: TcpListener,
        tls: Option<Arc<TlsFront>>,
        limits: Limits,
        drain: Drain,
        crew: Arc<Crew>,
        stop: impl Future<Output = ()>,
    ) {
        let stopping = CancellationToken::new();
        let clients = Tasks::default();
        let routes = Arc::new(Traffic::new(self.clone(), limits));
        let door =
            Door::new(traffic, limits.in_flight.saturating_mul(CONNECTIONS_PER_REQUEST), tls);
        let (closing, serving) = (stopping.clone(), clients.clone());
        clients.run(async move { door.serve_traffic(routes, closing, serving, &crew).await });

        stop.await;
        self.draining.store(true, Ordering::Relaxed);
        tracing::info!(patience_s = drain.on_sigterm.as_secs(), "draining started");
        // Even a sleep of no length takes a tick of the clock, in which connections would be taken.
        if !drain.notice.is_zero() {
            tokio::time::sleep(drain.notice).await;
        }
        stopping.cancel();
        let late = clients.finish(drain.on_sigterm).await;
        if late > 0 {
            tracing::warn!(late, "draining ended before all requests were answered");
        }
    }
}

impl Current {
    fn new(gateway: Arc<Gateway>, config: &Config) -> Current {
        let (body_bytes_max, cors) = (config.limits.body, config.listen.cors.clone());
        Current { gateway, body_bytes_max, cors }
    }
}
