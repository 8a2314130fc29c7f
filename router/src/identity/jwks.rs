//! Where an issuer's public keys come from: a file, or an address that the gateway asks itself.
//!
//! The address is the operator's, written in the config: it is asked directly, without a proxy, follows
//! no redirect, and its answer has a bound. An unknown key id asks again, at most once in
//! `REFETCH_EVERY`, whoever sends such ids; keys that an issuer has withdrawn are gone within
//! `KEYS_AGE_MAX` even if it cannot be reached, because then no token counts any more.
//!
//! Nothing of a request is sent: the question is a plain GET. Nor does it depend on one: a task of its own
//! asks, which a client that leaves does not end, and while keys count nobody waits for newer ones.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::jwt::{self, KeySet, Rejected};
use super::{Caller, IdentityError};
use crate::config::{JwksSource, OidcConfig};

/// Longest key set, bytes.
const SET_BYTES_MAX: usize = 1 << 20;
/// How long the issuer may take.
const FETCH_TIME_MAX: Duration = Duration::from_secs(5);
/// How often an address is asked at most.
const REFETCH_EVERY: Duration = Duration::from_secs(60);
/// From what age on keys are asked for again, when a token comes.
const KEYS_FRESH: Duration = Duration::from_secs(3600);
/// Older keys are not used any more.
const KEYS_AGE_MAX: Duration = Duration::from_secs(24 * 3600);

/// Tokens of one issuer.
pub(super) struct Oidc {
    config: OidcConfig,
    /// `None` for keys in a file.
    client: Option<reqwest::Client>,
    keys: Arc<RwLock<Known>>,
    /// When the address was asked last; held while it is asked, so that one asks for all.
    asked: Arc<Mutex<Option<Instant>>>,
}

#[derive(Clone, Default)]
struct Known {
    set: Arc<KeySet>,
    /// `None` before the first answer.
    since: Option<Instant>,
}

impl Oidc {
    /// Reads a file at once; an address is asked when the first token comes.
    pub(super) fn open(config: OidcConfig) -> Result<Oidc, IdentityError> {
        let client = match &config.jwks {
            JwksSource::File(_) => None,
            JwksSource::Url(_) => Some(client()?),
        };
        let (keys, asked) = (Arc::default(), Arc::default());
        let oidc = Oidc { config, client, keys, asked };
        oidc.reload()?;
        Ok(oidc)
    }

    /// Reads a file again; what an address says is kept.
    pub(super) fn reload(&self) -> Result<(), IdentityError> {
        let JwksSource::File(path) = &self.config.jwks else { return Ok(()) };
        let shown = path.display().to_string();
        let read = |source| IdentityError::Read { path: shown.clone(), source };
        let malformed = |what| IdentityError::Malformed { path: shown.clone(), what };
        let bytes = std::fs::metadata(path).map_err(read)?.len();
        if bytes > SET_BYTES_MAX as u64 {
            return Err(malformed(format!("expected at most {SET_BYTES_MAX} bytes, got {bytes}")));
        }
        let json = std::fs::read(path).map_err(read)?;
        put(&self.keys, KeySet::parse(&json).map_err(malformed)?);
        Ok(())
    }

    /// Says whose a token is; `None` if it is nobody's.
    pub(super) async fn identify(&self, token: &str) -> Option<Caller> {
        let known = self.known();
        match self.age(&known) {
            Some(age) if age < KEYS_FRESH => {}
            age if may_be_used(age) => self.refresh(&known),
            _ => self.fetch(&known).await,
        }
        let mut verified = self.verify(token);
        if verified == Err(Rejected::UnknownKey) {
            self.fetch(&self.known()).await;
            verified = self.verify(token);
        }
        verified.inspect_err(|why| tracing::debug!(?why, "token was not accepted")).ok()
    }

    fn verify(&self, token: &str) -> Result<Caller, Rejected> {
        let known = self.known();
        if !may_be_used(self.age(&known)) {
            return Err(Rejected::UnknownKey);
        }
        jwt::verify(token, &known.set, &self.config, Timestamp::now())
    }

    /// How old keys are: those of a file never age, nor does what was never there.
    fn age(&self, known: &Known) -> Option<Duration> {
        let since = known.since?;
        Some(if self.client.is_some() { since.elapsed() } else { Duration::ZERO })
    }

    /// Asks the address and waits for its answer, unless that was done a moment ago or since `before` was
    /// looked at.
    async fn fetch(&self, before: &Known) {
        let asked = self.asked.clone().lock_owned().await;
        if let Some(asking) = self.begin(asked, before) {
            // It may have ended with a panic, which was logged: then keys are what they were.
            let _ = asking.await;
        }
    }

    /// The same without waiting.
    fn refresh(&self, before: &Known) {
        if let Ok(asked) = self.asked.clone().try_lock_owned() {
            self.begin(asked, before);
        }
    }

    fn begin(
        &self,
        mut asked: OwnedMutexGuard<Option<Instant>>,
        before: &Known,
    ) -> Option<JoinHandle<()>> {
        let (Some(client), JwksSource::Url(url)) = (&self.client, &self.config.jwks) else {
            return None;
        };
        let is_newer = self.known().since > before.since;
        if is_newer || asked.is_some_and(|at| at.elapsed() < REFETCH_EVERY) {
            return None;
        }
        *asked = Some(Instant::now());
        let (client, address, keys) = (client.clone(), url.as_text(), self.keys.clone());
        let asking = async move {
            match ask(&client, &address).await {
                Ok(set) => put(&keys, set),
                Err(problem) => {
                    tracing::warn!(address, problem, "issuer's keys were not fetched");
                }
            }
            drop(asked);
        };
        #[expect(
            clippy::disallowed_methods,
            reason = "it holds no request and ends within FETCH_TIME_MAX; at most one runs"
        )]
        Some(tokio::spawn(asking))
    }

    fn known(&self) -> Known {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn put(keys: &RwLock<Known>, set: KeySet) {
    let known = Known { set: Arc::new(set), since: Some(Instant::now()) };
    *keys.write().unwrap_or_else(PoisonError::into_inner) = known;
}

/// Whether keys of this age still count; none at all do not.
fn may_be_used(age: Option<Duration>) -> bool {
    age.is_some_and(|age| age <= KEYS_AGE_MAX)
}

fn client() -> Result<reqwest::Client, IdentityError> {
    crate::upstream::install_tls_provider();
    reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .timeout(FETCH_TIME_MAX)
        .pool_max_idle_per_host(0)
        .build()
        .map_err(IdentityError::Client)
}

async fn ask(client: &reqwest::Client, url: &str) -> Result<KeySet, String> {
    let failed = |e: reqwest::Error| format!("failed to reach it: {}", e.without_url());
    let mut answer = client.get(url).send().await.map_err(failed)?;
    if !answer.status().is_success() {
        return Err(format!("expected a success, got status {}", answer.status().as_u16()));
    }
    let mut json = Vec::new();
    while let Some(piece) = answer.chunk().await.map_err(failed)? {
        json.extend_from_slice(&piece);
        if json.len() > SET_BYTES_MAX {
            return Err(format!("expected at most {SET_BYTES_MAX} bytes, got more"));
        }
    }
    KeySet::parse(&json)
}

#[cfg(test)]
mod tests;
