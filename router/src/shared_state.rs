//! What replicas keep together, in Redis or Valkey: limits, and fingerprints of tainted conversations.
//!
//! It is never needed: every answer has a time limit, and one that does not come is declared to be worth
//! what the replica knows by itself. Limits then count for each node alone; a conversation with a history
//! is assumed to be tainted. After a failure the server is left alone for `REST`, so that its absence
//! costs one request a second its time limit and the others nothing.
//!
//! What only has to arrive (fingerprints, real usage) waits in a queue with a bound. Fingerprints that
//! found no room are not forgotten in silence: `has_lost` then says so for good.
//!
//! No text is stored: keys are names of limits and keyed fingerprints.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, IntoConnectionInfo, RedisResult};
use ring::hmac;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::config::SharedStateConfig;

/// How long the server is left alone after a failure.
const REST: Duration = Duration::from_secs(1);
/// Pieces of work that may wait for the server.
const WORK_MAX: usize = 16_384;
/// Names what is ours among what else the server holds.
const PREFIX: &str = "sluice";

/// The address makes no client.
#[derive(Debug, thiserror::Error)]
#[error("failed to set up shared_state.redis")]
pub struct SharedStateError(#[source] redis::RedisError);

/// A fingerprint of a turn or a session.
pub(crate) type Fingerprint = [u8; 16];

/// The server, and what waits for it.
pub struct SharedState {
    client: Client,
    config: SharedStateConfig,
    link: tokio::sync::Mutex<Link>,
    work: mpsc::Sender<Work>,
    lost: AtomicBool,
    is_up: AtomicBool,
}

#[derive(Default)]
struct Link {
    open: Option<MultiplexedConnection>,
    rests_until: Option<Instant>,
}

/// What only has to arrive.
enum Work {
    Taint(Vec<Fingerprint>),
    Usage(Script),
    Done(oneshot::Sender<()>),
}

/// A script with what it is to work on.
pub(crate) struct Script {
    /// The text, in Lua.
    pub(crate) script: redis::Script,
    /// Keys that it reads and writes.
    pub(crate) keys: Vec<String>,
    /// Numbers for it.
    pub(crate) arguments: Vec<u64>,
}

impl Script {
    pub(crate) async fn run<T: redis::FromRedisValue>(
        &self,
        link: &mut MultiplexedConnection,
    ) -> RedisResult<T> {
        let mut call = self.script.prepare_invoke();
        for key in &self.keys {
            call.key(limit_key(key));
        }
        for argument in &self.arguments {
            call.arg(*argument);
        }
        call.invoke_async(link).await
    }
}

impl SharedState {
    /// Begins to work for a server; whether it is there shows later.
    ///
    /// Panics outside of a tokio runtime (caller bug).
    pub fn open(config: SharedStateConfig) -> Result<Arc<SharedState>, SharedStateError> {
        crate::upstream::install_tls_provider();
        let info = config.redis.as_str().into_connection_info().map_err(SharedStateError)?;
        let mut settings = info.redis_settings().clone();
        if let Some(user) = &config.user {
            settings = settings.set_username(user);
        }
        if let Some(password) = &config.password {
            settings = settings.set_password(password.expose());
        }
        let client = Client::open(info.set_redis_settings(settings)).map_err(SharedStateError)?;
        let (work, waiting) = mpsc::channel(WORK_MAX);
        let state = Arc::new(SharedState {
            client,
            config,
            link: tokio::sync::Mutex::default(),
            work,
            lost: AtomicBool::new(false),
            is_up: AtomicBool::new(true),
        });
        #[expect(
            clippy::disallowed_methods,
            reason = "it holds no request and ends when the state is dropped; `settle` waits for it"
        )]
        tokio::spawn(deliver(Arc::downgrade(&state), waiting));
        Ok(state)
    }

    /// The key under which all replicas make fingerprints.
    pub(crate) fn fingerprint_key(&self) -> [u8; 32] {
        let secret = hmac::Key::new(hmac::HMAC_SHA256, self.config.key.expose().as_bytes());
        let mut key = [0; 32];
        key.copy_from_slice(hmac::sign(&secret, b"sluice fingerprints 1").as_ref());
        key
    }

    /// Whether the server answered when it was asked last.
    pub fn is_up(&self) -> bool {
        self.is_up.load(Ordering::Relaxed)
    }

    /// Whether fingerprints were lost that other replicas should have had.
    pub(crate) fn has_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    /// Whether one of these is known to be tainted; `None` if the server does not say.
    pub(crate) async fn is_tainted(&self, prints: &[Fingerprint]) -> Option<bool> {
        let mut exists = redis::cmd("EXISTS");
        for print in prints {
            exists.arg(taint_key(print));
        }
        let ask =
            async |mut link: MultiplexedConnection| exists.query_async::<u64>(&mut link).await;
        let count: u64 = self.ask(ask).await?;
        Some(count > 0)
    }

    /// Tells all replicas of tainted turns and sessions.
    pub(crate) fn taint(&self, prints: Vec<Fingerprint>) {
        if !prints.is_empty() && self.work.try_send(Work::Taint(prints)).is_err() {
            tracing::error!("fingerprints of tainted conversations were lost to other replicas");
            self.lost.store(true, Ordering::Relaxed);
        }
    }

    /// Runs a script that only has to arrive. If there is no room for it, estimates stand.
    pub(crate) fn run_later(&self, script: Script) {
        let _ = self.work.try_send(Work::Usage(script));
    }

    /// Waits until what waits now has arrived or the time is up.
    pub(crate) async fn settle(&self, patience: Duration) {
        let (done, finished) = oneshot::channel();
        let wait = async {
            let _ = self.work.send(Work::Done(done)).await;
            let _ = finished.await;
        };
        let _ = tokio::time::timeout(patience, wait).await;
    }

    /// Asks the server something, unless it is left alone; `None` if it does not answer in time.
    pub(crate) async fn ask<T>(
        &self,
        question: impl AsyncFnOnce(MultiplexedConnection) -> RedisResult<T>,
    ) -> Option<T> {
        let asked = async {
            let link = self.link().await?;
            question(link).await.inspect_err(|e| self.failed(e)).ok()
        };
        match tokio::time::timeout(self.config.timeout, asked).await {
            Ok(Some(answer)) => {
                if !self.is_up.swap(true, Ordering::Relaxed) {
                    tracing::info!("shared state is back");
                }
                Some(answer)
            }
            Ok(None) => self.rest().await,
            Err(_) => {
                self.went_away("no answer in time");
                self.rest().await
            }
        }
    }

    async fn link(&self) -> Option<MultiplexedConnection> {
        let mut link = self.link.lock().await;
        if link.rests_until.is_some_and(|until| Instant::now() < until) {
            return None;
        }
        if link.open.is_none() {
            let config = AsyncConnectionConfig::new()
                .set_connection_timeout(Some(self.config.timeout))
                .set_response_timeout(Some(self.config.timeout));
            let opened = self.client.get_multiplexed_async_connection_with_config(&config).await;
            link.open = opened.inspect_err(|e| self.failed(e)).ok();
        }
        link.open.clone()
    }

    async fn rest<T>(&self) -> Option<T> {
        let mut link = self.link.lock().await;
        link.open = None;
        if link.rests_until.is_none_or(|until| until <= Instant::now()) {
            link.rests_until = Some(Instant::now() + REST);
        }
        None
    }

    fn failed(&self, error: &redis::RedisError) {
        // The kind and not the whole text: a server may repeat what it was sent.
        self.went_away(error.category());
    }

    fn went_away(&self, problem: &str) {
        if self.is_up.swap(false, Ordering::Relaxed) {
            tracing::warn!(
                problem,
                "shared state is away: limits count for each node, conversations with a history are assumed private"
            );
        }
    }

    async fn arrive(&self, work: &Work) -> bool {
        let keep_s = self.config.taint_keep.as_secs().max(1);
        match work {
            Work::Taint(prints) => {
                let mut pipe = redis::pipe();
                for print in prints {
                    pipe.cmd("SET").arg(taint_key(print)).arg(1).arg("EX").arg(keep_s).ignore();
                }
                let told = self
                    .ask(async |mut link: MultiplexedConnection| {
                        pipe.query_async::<()>(&mut link).await
                    })
                    .await;
                told.is_some()
            }
            Work::Usage(script) => {
                // An estimate that stands is no reason to wait.
                let _ = self
                    .ask(async |mut link: MultiplexedConnection| script.run::<()>(&mut link).await)
                    .await;
                true
            }
            Work::Done(_) => true,
        }
    }
}

/// Brings work to the server, one after the other, until the state is dropped.
async fn deliver(state: std::sync::Weak<SharedState>, mut waiting: mpsc::Receiver<Work>) {
    while let Some(work) = waiting.recv().await {
        loop {
            let Some(state) = state.upgrade() else { return };
            if state.arrive(&work).await {
                break;
            }
            drop(state);
            tokio::time::sleep(REST).await;
        }
        if let Work::Done(done) = work {
            let _ = done.send(());
        }
    }
}

fn taint_key(print: &Fingerprint) -> String {
    let hex: String = print.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{PREFIX}:taint:{hex}")
}

fn limit_key(name: &str) -> String {
    format!("{PREFIX}:limit:{name}")
}

#[cfg(test)]
mod tests;
