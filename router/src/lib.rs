//! A hybrid edge-cloud gateway: classify each request, answer regulated ones here, send the rest on.
//!
//! The path of a request is three hops long: [`api`] parses a body into a prompt and the JSON to send,
//! [`gateway`] classifies, decides, records and chooses, [`upstream`] answers. Policy lives in
//! `sluice-policies`, the embedded model in `sluice-engine`; neither knows of sockets.
//!
//! Invariants: only [`gateway::Gateway::handle`] picks an upstream; only a [`permit::EgressPermit`]
//! opens a connection to one; an attempt is on record before a byte leaves; no text of a request or
//! reply is in a log, metric, error, audit record or `Debug`.
#![forbid(unsafe_code)]

pub mod active_policy;
pub mod api;
pub mod audit;
pub mod breaker;
pub mod capability;
pub mod config;
mod dice;
mod durable;
mod error;
pub mod gateway;
pub mod identity;
pub mod limit;
pub mod metrics;
mod offline;
pub mod permit;
mod policy_follower;
pub mod redact;
mod reload;
pub mod reply;
mod reply_edit;
mod reply_mask;
mod reply_scan;
mod server;
pub mod shared_state;
pub mod signing;
pub mod taint;
pub mod tuning;
pub mod upstream;

use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use sluice_engine::{CheckpointDisk, CheckpointOptions, Engine, EngineOptions};
use sluice_policies::ScanCache;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

pub use error::ServeError;
pub use reload::Reread;
pub use server::{AdminError, TlsError};

use crate::active_policy::ActivePolicy;
use crate::audit::AuditLog;
use crate::config::{
    CheckpointsConfig, Config, EdgeConfig, Fsync, ServerConfig, UpstreamConfig, UpstreamKind,
};
use crate::gateway::{Gateway, Kept, Parts};
use crate::identity::Callers;
use crate::limit::Limiter;
use crate::metrics::Metrics;
use crate::offline::Remembered;
use crate::policy_follower::Follower;
use crate::redact::Redactor;
use crate::reload::Reloader;
use crate::server::{Admin, AskedReload, Crew, Probes, Stage, TlsFront};
use crate::shared_state::SharedState;
use crate::taint::{NoRandomness, TaintStore};
use crate::upstream::{EdgeUpstream, ServerUpstream, Upstream, UpstreamId};

/// How long a stop waits for what replicas still have to be told.
const SETTLE_TIME_MAX: Duration = Duration::from_secs(2);

/// A gateway that takes requests.
pub struct Started {
    /// Where clients connect.
    pub traffic: SocketAddr,
    /// Whether they connect by TLS.
    pub traffic_by_tls: bool,
    /// Where operators connect; `None` if the port that is the default was taken.
    pub admin: Option<SocketAddr>,
    /// Where metrics and probes are.
    pub metrics: SocketAddr,
    /// The gateway itself: its policies, upstreams and model.
    pub gateway: Arc<Gateway>,
}

/// Serves until SIGTERM or ctrl-c, then drains. Policies, keys and certificates are read again when they
/// change, the config (by `reread`) and all of them at every SIGHUP. `ready` is called once all listeners
/// are open.
///
/// Every edge upstream in `config` must name its model.
pub async fn serve(
    config: Config,
    reread: Option<Reread>,
    ready: impl FnOnce(&Started),
) -> Result<(), ServeError> {
    let stop = stop_signal().map_err(ServeError::Signals)?;
    serve_reloading(config, reread, ready, stop).await
}

/// Serves one config until `stop` is done, then drains.
pub async fn serve_until(
    config: Config,
    ready: impl FnOnce(&Started),
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    serve_reloading(config, None, ready, stop).await
}

/// Serves until `stop` is done, on threads of its own, then drains.
pub async fn serve_reloading(
    config: Config,
    reread: Option<Reread>,
    ready: impl FnOnce(&Started),
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    // Listeners first: a port that is taken should not cost the time to load a model.
    let (probing, metrics_address) = bind(config.listen.metrics).await?;
    let (traffic, traffic_address) = bind(config.listen.traffic).await?;
    let tls = config.listen.traffic_tls.clone().map(TlsFront::open).transpose()?;
    let (follower, ask) = Follower::new(&config)?;
    let crew = Arc::new(Crew::start(config.listen.threads).map_err(ServeError::Threads)?);
    let probes = Probes::open(probing, Arc::new(Metrics::new()));
    let admin = open_admin(&config, &probes, ask).await?;
    let doors = Doors { traffic, traffic_address, metrics_address, tls, admin, crew };
    let behind = Behind { config, reread, follower };
    let served = serve_behind(behind, &probes, doors, ready, std::pin::pin!(stop)).await;
    probes.close().await;
    served
}

/// The open listeners, where they are, and who serves what comes in.
struct Doors {
    traffic: TcpListener,
    traffic_address: SocketAddr,
    metrics_address: SocketAddr,
    tls: Option<Arc<TlsFront>>,
    admin: Option<OpenAdmin>,
    crew: Arc<Crew>,
}

struct OpenAdmin {
    address: SocketAddr,
    tls: Option<Arc<TlsFront>>,
    admin: Arc<Admin>,
}

/// What is behind the listeners before there is a gateway.
struct Behind {
    config: Config,
    reread: Option<Reread>,
    follower: Follower,
}

/// Answers operators from now on. A port that nobody chose is given up if it is taken.
async fn open_admin(
    config: &Config,
    probes: &Arc<Probes>,
    ask: mpsc::Sender<AskedReload>,
) -> Result<Option<OpenAdmin>, ServeError> {
    let listen = &config.listen.admin;
    let (listener, address) = match bind(listen.address).await {
        Ok(bound) => bound,
        Err(error) if listen.is_named => return Err(error),
        Err(_) => {
            tracing::warn!(address = %listen.address, "port is taken; there is no admin listener");
            return Ok(None);
        }
    };
    let tls = listen.tls.clone().map(TlsFront::open).transpose()?;
    let admin = Arc::new(Admin::open(listen, ask, Remembered::of(config))?);
    probes.open_admin(listener, tls.clone(), admin.clone());
    Ok(Some(OpenAdmin { address, tls, admin }))
}

/// Serves traffic once there are policies, while the probes already answer.
async fn serve_behind(
    behind: Behind,
    probes: &Probes,
    mut doors: Doors,
    ready: impl FnOnce(&Started),
    mut stop: Pin<&mut impl Future<Output = ()>>,
) -> Result<(), ServeError> {
    let Behind { config, reread, mut follower } = behind;
    let metrics = probes.metrics().clone();
    let opened = match follower.open(&config, &metrics).await {
        Err(refused) if config.policy.last_good.is_some() => {
            // A closed port says more than one where nobody answers.
            drop(doors.traffic);
            probes.show(Stage::Starting(Some(refused)));
            let waited = follower.wait_for_policies(&config, &metrics, probes);
            let opened = tokio::select! {
                opened = waited => opened,
                () = stop.as_mut() => return Ok(()),
            };
            (doors.traffic, doors.traffic_address) = bind(doors.traffic_address).await?;
            Ok(opened)
        }
        opened => opened,
    };
    let policy = opened.map_err(ServeError::Policy)?;
    let (assembling, runtime) = (config.clone(), tokio::runtime::Handle::current());
    let assemble = move || {
        let _inside = runtime.enter();
        assemble(&assembling, policy, metrics)
    };
    let gateway = tokio::task::spawn_blocking(assemble)
        .await
        .unwrap_or_else(|died| std::panic::resume_unwind(died.into_panic()))?;
    let gateway = Arc::new(gateway);
    if let Some(word) = Remembered::of(&config).word() {
        gateway.declare_offline(&word.reason, &word.by);
    }
    let server = server::Server::new(gateway.clone(), &config);
    probes.show(Stage::Serving(server.clone()));
    let (limits, drain) = (config.limits, config.drain);
    let Doors { traffic, traffic_address, metrics_address, tls, admin, crew } = doors;
    let (admin_address, admin_tls, admin) = match admin {
        Some(OpenAdmin { address, tls, admin }) => (Some(address), tls, Some(admin)),
        None => (None, None, None),
    };
    let listeners = tls.iter().cloned().chain(admin_tls).collect();
    let reloader = Reloader { config, reread, server: server.clone(), listeners, admin };
    let following = follower.follow(reloader);
    ready(&Started {
        traffic: traffic_address,
        traffic_by_tls: tls.is_some(),
        admin: admin_address,
        metrics: metrics_address,
        gateway,
    });
    server.clone().run(traffic, tls, limits, drain, crew, stop).await;
    following.abort();
    if let Some(shared) = server.gateway().limits().shared_state() {
        shared.settle(SETTLE_TIME_MAX).await;
    }
    server.gateway().audit().settle(SETTLE_TIME_MAX).await;
    Ok(())
}

async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), ServeError> {
    server::bind(address).await.map_err(|source| ServeError::Bind { address, source })
}

/// Builds a gateway from its config and the policies in force: keys, models, clients, audit log. Reads
/// files and may take seconds.
///
/// Panics outside of a tokio runtime if replicas share state (caller bug).
pub fn assemble(
    config: &Config,
    policy: ActivePolicy,
    metrics: Arc<Metrics>,
) -> Result<Gateway, ServeError> {
    for warning in policy.current().warnings() {
        tracing::warn!(%warning, "policy has a weakness");
    }
    let shared = config.shared_state.clone().map(SharedState::open).transpose()?;
    let audit = AuditLog::open(&config.audit)?;
    let taint = match &shared {
        Some(shared) => TaintStore::shared(shared.clone()),
        None => {
            let folder = audit.path().and_then(Path::parent).unwrap_or(&config.audit.path);
            let beside = folder.with_file_name("taint");
            let folder = config.taint.path.clone().unwrap_or(beside);
            let sync = config.audit.fsync == Fsync::EveryRecord;
            TaintStore::open(&folder, config.taint.keep, sync)?
        }
    };
    let kept = Kept {
        policy: Arc::new(policy),
        limits: Arc::new(Limiter::new(config.quotas.clone(), shared)),
        audit: Arc::new(audit),
        taint: Arc::new(taint),
        redactor: Arc::new(Redactor::new()?),
        scans: Arc::new(scan_cache()?),
        metrics,
    };
    compose(config, &kept, None)
}

/// Puts what a config says around what is kept. Of a gateway that served an earlier config, callers and
/// upstreams that have not changed are taken over: what they know of the world stays true.
fn compose(
    config: &Config,
    kept: &Kept,
    before: Option<(&Config, &Gateway)>,
) -> Result<Gateway, ServeError> {
    let callers = match before {
        Some((old, gateway)) if old.identity == config.identity => {
            gateway.callers().reload()?;
            gateway.callers().clone()
        }
        _ => Arc::new(Callers::open(&config.identity, config.mode)?),
    };
    let known = |new: &UpstreamConfig| {
        let (old, gateway) = before?;
        let at = old.upstreams.iter().position(|known| known == new)?;
        gateway.upstreams().get(at).filter(|upstream| upstream.is_current()).cloned()
    };
    let upstreams = config.upstreams.iter().map(|new| known(new).map_or_else(|| upstream(new), Ok));
    Ok(Gateway::new(Parts {
        mode: config.mode,
        kept: kept.clone(),
        callers,
        upstreams: upstreams.collect::<Result<_, _>>()?,
        choose: config.choose,
        hedge: config.hedge.clone(),
        passthrough: config.passthrough.clone(),
        seed: u64::from_le_bytes(random()?),
        offline_declared: config.offline.declared,
        session_from_user_id: config.identity.session_from_user_id,
    }))
}

/// Memory of what earlier turns of conversations held: some ten thousand messages.
fn scan_cache() -> Result<ScanCache, NoRandomness> {
    const BYTES_MAX: usize = 8 << 20;
    Ok(ScanCache::new(BYTES_MAX, &random()?))
}

fn random<T: ring::rand::RandomlyConstructable>() -> Result<T, NoRandomness> {
    let random = ring::rand::generate(&ring::rand::SystemRandom::new());
    Ok(random.map_err(|_| NoRandomness)?.expose())
}

fn upstream(config: &UpstreamConfig) -> Result<Upstream, ServeError> {
    let id = config.id.clone();
    let mut upstream = match &config.kind {
        UpstreamKind::Edge(edge) => Upstream::Edge(Arc::new(self::edge(id, edge)?)),
        UpstreamKind::Server(server) => {
            Upstream::Server(Arc::new(ServerUpstream::new(id, ServerConfig::clone(server))?))
        }
    };
    upstream.narrow(&config.capabilities);
    Ok(upstream)
}

fn edge(id: UpstreamId, config: &EdgeConfig) -> Result<EdgeUpstream, ServeError> {
    let path = config.model.clone().ok_or(ServeError::NoModel)?;
    let mut options = EngineOptions {
        model: path.clone(),
        threads: config.threads,
        memory_bytes: config.memory,
        expert_cache_bytes: config.expert_cache,
        context_tokens: config.context_tokens,
        active_experts: config.active_experts,
        checkpoints: checkpoints(&config.checkpoints),
        drop_cold_experts: config.drop_cold_experts,
        ..EngineOptions::default()
    };
    let remembered = tuning::Remembered::of(&path);
    if let Some(tuned) = &remembered.tuned {
        tracing::info!(
            threads = tuned.threads,
            io_depth = tuned.io_depth,
            memory_bytes = tuned.memory_bytes,
            "the model was tuned for this machine; what the config says is stronger"
        );
    }
    if let Some(warning) = &remembered.warning {
        tracing::warn!("{warning}");
    }
    remembered.apply(&mut options);
    let engine = Engine::load(&options).map_err(|source| ServeError::Model { path, source })?;
    Ok(EdgeUpstream::new(id, engine))
}

fn checkpoints(config: &CheckpointsConfig) -> CheckpointOptions {
    let disk = config.disk.as_ref();
    CheckpointOptions {
        memory_bytes: config.memory,
        disk: disk.map(|disk| CheckpointDisk { folder: disk.folder.clone(), bytes: disk.bytes }),
        expire: config.expire,
        ..CheckpointOptions::default()
    }
}

#[cfg(unix)]
fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

#[cfg(not(unix))]
fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    Ok(async {
        // Without a handler ctrl-c ends the process, which is what a failure here leaves us with.
        let _ = tokio::signal::ctrl_c().await;
    })
}
