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
pub mod config;
mod dice;
mod error;
pub mod gateway;
pub mod identity;
pub mod metrics;
pub mod permit;
mod policy_follower;
pub mod redact;
pub mod reply;
mod reply_edit;
mod reply_mask;
mod reply_scan;
mod server;
pub mod signing;
pub mod taint;
pub mod upstream;

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use sluice_engine::{Engine, EngineOptions};
use sluice_policies::{Mode, ScanCache};
use tokio::net::TcpListener;

pub use error::ServeError;

use crate::active_policy::ActivePolicy;
use crate::audit::AuditLog;
use crate::config::{Config, EdgeConfig, ServerConfig, UpstreamConfig, UpstreamKind};
use crate::gateway::{Gateway, Parts};
use crate::identity::Callers;
use crate::metrics::Metrics;
use crate::policy_follower::Follower;
use crate::redact::Redactor;
use crate::server::{Probes, Stage};
use crate::taint::{NoRandomness, TaintStore};
use crate::upstream::{EdgeUpstream, ServerUpstream, Upstream, UpstreamId};

/// A gateway that takes requests.
pub struct Started {
    /// Where clients connect.
    pub traffic: SocketAddr,
    /// Where metrics and probes are.
    pub metrics: SocketAddr,
    /// The gateway itself: its policies, upstreams and model.
    pub gateway: Arc<Gateway>,
}

/// Serves until SIGTERM or ctrl-c, then drains. Policy files are read again when they change and at
/// every SIGHUP. `ready` is called once both listeners are open.
///
/// Every edge upstream in `config` must name its model.
pub async fn serve(config: Config, ready: impl FnOnce(&Started)) -> Result<(), ServeError> {
    let stop = stop_signal().map_err(ServeError::Signals)?;
    serve_until(config, ready, stop).await
}

/// Serves until `stop` is done, then drains.
pub async fn serve_until(
    config: Config,
    ready: impl FnOnce(&Started),
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    // Listeners first: a port that is taken should not cost the time to load a model.
    let (probing, metrics_address) = bind(config.listen.metrics).await?;
    let (traffic, traffic_address) = bind(config.listen.traffic).await?;
    let probes = Probes::open(probing, Arc::new(Metrics::new()));
    let doors = Doors { traffic, traffic_address, metrics_address };
    let served = serve_behind(config, &probes, doors, ready, std::pin::pin!(stop)).await;
    probes.close().await;
    served
}

/// The open listener for traffic, and where both are.
struct Doors {
    traffic: TcpListener,
    traffic_address: SocketAddr,
    metrics_address: SocketAddr,
}

/// Serves traffic once there are policies, while the probes already answer.
async fn serve_behind(
    config: Config,
    probes: &Probes,
    mut doors: Doors,
    ready: impl FnOnce(&Started),
    mut stop: Pin<&mut impl Future<Output = ()>>,
) -> Result<(), ServeError> {
    let metrics = probes.metrics().clone();
    let mut follower = Follower::new(&config)?;
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
    let (limits, patience) = (config.limits, config.drain.on_sigterm);
    let gateway = tokio::task::spawn_blocking(move || assemble(&config, policy, metrics))
        .await
        .unwrap_or_else(|died| std::panic::resume_unwind(died.into_panic()))?;
    let gateway = Arc::new(gateway);
    let server = server::Server::new(gateway.clone());
    probes.show(Stage::Serving(server.clone()));
    let following = follower.follow(gateway.clone());
    let Doors { traffic, traffic_address, metrics_address } = doors;
    ready(&Started { traffic: traffic_address, metrics: metrics_address, gateway });
    server.run(traffic, limits, patience, stop).await;
    following.abort();
    Ok(())
}

async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), ServeError> {
    server::bind(address).await.map_err(|source| ServeError::Bind { address, source })
}

/// Builds a gateway from its config and the policies in force: keys, models, clients, audit log. Reads
/// files and may take seconds.
pub fn assemble(
    config: &Config,
    policy: ActivePolicy,
    metrics: Arc<Metrics>,
) -> Result<Gateway, ServeError> {
    for warning in policy.current().warnings() {
        tracing::warn!(%warning, "policy has a weakness");
    }
    let callers = match &config.identity.keys {
        Some(keys) => Callers::load(keys)?,
        None if config.mode == Mode::Production => Callers::nobody(),
        None => Callers::anyone(),
    };
    Ok(Gateway::new(Parts {
        mode: config.mode,
        policy,
        callers,
        upstreams: config.upstreams.iter().map(upstream).collect::<Result<_, _>>()?,
        choose: config.choose,
        hedge: config.hedge.clone(),
        passthrough: config.passthrough.clone(),
        seed: u64::from_le_bytes(random()?),
        offline_declared: config.offline.declared,
        audit: AuditLog::open(&config.audit)?,
        taint: Arc::new(TaintStore::new()?),
        redactor: Redactor::new()?,
        scans: Arc::new(scan_cache()?),
        metrics,
    }))
}

/// Memory of what earlier turns of conversations held: some ten thousand messages.
fn scan_cache() -> Result<ScanCache, NoRandomness> {
    const BYTES_MAX: usize = 16 << 20;
    Ok(ScanCache::new(BYTES_MAX, &random()?))
}

fn random<T: ring::rand::RandomlyConstructable>() -> Result<T, NoRandomness> {
    let random = ring::rand::generate(&ring::rand::SystemRandom::new());
    Ok(random.map_err(|_| NoRandomness)?.expose())
}

fn upstream(config: &UpstreamConfig) -> Result<Upstream, ServeError> {
    let id = config.id.clone();
    Ok(match &config.kind {
        UpstreamKind::Edge(edge) => Upstream::Edge(self::edge(id, edge)?),
        UpstreamKind::Server(server) => {
            Upstream::Server(Box::new(ServerUpstream::new(id, ServerConfig::clone(server))?))
        }
    })
}

fn edge(id: UpstreamId, config: &EdgeConfig) -> Result<EdgeUpstream, ServeError> {
    let path = config.model.clone().ok_or(ServeError::NoModel)?;
    let options = EngineOptions {
        model: path.clone(),
        threads: config.threads,
        memory_bytes: config.memory,
        expert_cache_bytes: config.expert_cache,
        context_tokens: config.context_tokens,
        active_experts: config.active_experts,
        ..EngineOptions::default()
    };
    let engine = Engine::load(&options).map_err(|source| ServeError::Model { path, source })?;
    Ok(EdgeUpstream::new(id, engine))
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
