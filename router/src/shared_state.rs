//! What replicas keep together, in Redis or Valkey: limits, and fingerprints of tainted conversations.
//!
//! It is never needed: every answer has a time limit, and one that does not come is declared to be worth
//! what the replica knows by itself. Limits then count for each node alone; a conversation with a history
//! is assumed to be tainted. After a failure the server is left alone for `REST`, so that its absence
//! costs one request a second its time limit and the others nothing.
//!
//! What only has to arrive (fingerprints, real usage) waits in a queue with a bound. Fingerprints that
//! found no room are not forgotten in silence, nor is a server that comes back without its data: the
//! store has a random name, each answer about fingerprints comes with it, and another name than before
//! (or none) means another store. Whoever notices a loss says so in the store, for as long as fingerprints
//! are kept, so that replicas that start later know it too; until then `has_lost` is true here.
//!
//! Not noticed: single entries that the server drops or forgets. It should never evict
//! (`maxmemory-policy noeviction`) and keep its data over a restart (`appendonly yes`).
//!
//! No text is stored: keys are names of limits and keyed fingerprints.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, IntoConnectionInfo, RedisResult};
use ring::hmac;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::config::SharedStateConfig;

/// How long the server is left alone after a failure.
const REST: Duration = Duration::from_secs(1);
/// How long an answer may take that nobody waits for any more, but which says what is to be given back.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);
/// Pieces of work that may wait for the server.
const WORK_MAX: usize = 16_384;
/// Names what is ours among what else the server holds.
const PREFIX: &str = "sluice";
/// Where the store's name is: as long as it is the same, nothing was lost with the store.
const NAME_KEY: &str = "sluice:store";
/// There while fingerprints are missing that should have been kept.
const LOSS_KEY: &str = "sluice:loss";

/// The address makes no client.
#[derive(Debug, thiserror::Error)]
#[error("failed to set up shared_state.redis")]
pub struct SharedStateError(#[source] redis::RedisError);

/// The name of a store, and whether it says that fingerprints are missing.
type StoreState = (Option<String>, Option<u64>);

/// A fingerprint of a turn or a session.
pub(crate) type Fingerprint = [u8; 16];

/// The server, and what waits for it.
pub struct SharedState {
    client: Client,
    config: SharedStateConfig,
    link: tokio::sync::Mutex<Link>,
    work: mpsc::Sender<Work>,
    /// Questions that are not cut off.
    asking: TaskTracker,
    /// The store's name; `None` before the first answer.
    name: Mutex<Option<String>>,
    /// Fingerprints were lost, and the store does not say so yet.
    lost: AtomicBool,
    /// The store said with its last answer that fingerprints are missing.
    is_incomplete: AtomicBool,
    is_up: AtomicBool,
}

/// What the server knows of some fingerprints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// One of them is known to be tainted.
    pub(crate) is_tainted: bool,
    /// Fingerprints are missing: those that are not found may be tainted all the same.
    pub(crate) is_incomplete: bool,
    /// It is not the store that it was: what this replica knows may not be in it.
    pub(crate) is_another: bool,
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
#[derive(Clone)]
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
            asking: TaskTracker::new(),
            name: Mutex::default(),
            lost: AtomicBool::new(false),
            is_incomplete: AtomicBool::new(false),
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

    /// Whether fingerprints were lost that other replicas should have, and these have not been told.
    pub(crate) fn has_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    /// Whether fingerprints are missing, as far as this replica knows.
    pub(crate) fn is_incomplete(&self) -> bool {
        self.has_lost() || self.is_incomplete.load(Ordering::Relaxed)
    }

    /// What the server knows of these; `None` if it does not say.
    pub(crate) async fn look_up(&self, prints: &[Fingerprint]) -> Option<Answer> {
        let before = self.name().clone();
        let mut pipe = redis::pipe();
        pipe.cmd("EXISTS").arg(prints.iter().map(taint_key).collect::<Vec<_>>());
        // Read last: a store that is emptied before this has no name.
        pipe.cmd("MGET").arg(NAME_KEY).arg(LOSS_KEY);
        let (count, (mut name, loss)): (u64, StoreState) = self
            .ask(async |mut link: MultiplexedConnection| pipe.query_async(&mut link).await)
            .await?;
        let is_another = before.is_some() && before != name;
        if is_another {
            tracing::error!(
                "shared state came back without its data: histories that are not found are unknown"
            );
            self.lost.store(true, Ordering::Relaxed);
        }
        let mut is_incomplete = loss.is_some();
        if name.is_none() || (self.has_lost() && !is_incomplete) {
            (name, is_incomplete) = self.mark().await?;
        }
        if is_incomplete {
            self.lost.store(false, Ordering::Relaxed);
        }
        *self.name() = name;
        self.is_incomplete.store(is_incomplete, Ordering::Relaxed);
        Some(Answer { is_tainted: count > 0, is_incomplete, is_another })
    }

    /// Names a store that has no name, and says in it what was lost. Returns its name, and whether
    /// something was.
    async fn mark(&self) -> Option<(Option<String>, bool)> {
        let mut pipe = redis::pipe();
        // The loss first: no replica may find a store with a name and think that it is whole.
        if self.has_lost() {
            pipe.cmd("SET").arg(LOSS_KEY).arg(1).arg("EX").arg(self.keep_s()).ignore();
        }
        let name = uuid::Uuid::now_v7().to_string();
        pipe.cmd("SET").arg(NAME_KEY).arg(name).arg("NX").ignore();
        pipe.cmd("MGET").arg(NAME_KEY).arg(LOSS_KEY);
        let ((name, loss),): (StoreState,) = self
            .ask(async |mut link: MultiplexedConnection| pipe.query_async(&mut link).await)
            .await?;
        Some((name, loss.is_some()))
    }

    fn name(&self) -> MutexGuard<'_, Option<String>> {
        // Nothing panics while the lock is held.
        self.name.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep_s(&self) -> u64 {
        self.config.taint_keep.as_secs().max(1)
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
            self.asking.close();
            self.asking.wait().await;
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

    /// The same for a question that changes something at the server: whoever asks may leave or lose patience;
    /// the answer still comes, and is dropped then.
    pub(crate) async fn ask_whole<T, F>(
        &self,
        question: impl FnOnce(MultiplexedConnection) -> F,
    ) -> Option<T>
    where
        T: Send + 'static,
        F: Future<Output = RedisResult<T>> + Send + 'static,
    {
        self.ask(async |link: MultiplexedConnection| {
            let answer = self.asking.spawn(question(link)).await;
            answer.unwrap_or_else(|ended| Err(std::io::Error::other(ended).into()))
        })
        .await
    }

    async fn link(&self) -> Option<MultiplexedConnection> {
        let mut link = self.link.lock().await;
        if link.rests_until.is_some_and(|until| Instant::now() < until) {
            return None;
        }
        if link.open.is_none() {
            let config = AsyncConnectionConfig::new()
                .set_connection_timeout(Some(self.config.timeout))
                .set_response_timeout(Some(ANSWER_TIME_MAX));
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
        match work {
            Work::Taint(prints) => {
                let mut pipe = redis::pipe();
                for print in prints {
                    pipe.cmd("SET")
                        .arg(taint_key(print))
                        .arg(1)
                        .arg("EX")
                        .arg(self.keep_s())
                        .ignore();
                }
                let told = self
                    .ask(async |mut link: MultiplexedConnection| {
                        pipe.query_async::<()>(&mut link).await
                    })
                    .await;
                told.is_some()
            }
            Work::Usage(script) => {
                // Once: an answer that does not come leaves open what was done.
                let (mut is_sent, script) = (false, script.clone());
                let _ = self
                    .ask_whole(|mut link: MultiplexedConnection| {
                        is_sent = true;
                        async move { script.run::<()>(&mut link).await }
                    })
                    .await;
                is_sent
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
