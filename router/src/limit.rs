//! What callers, tenants and models may take: requests and tokens a minute, at once, and a day's budgets.
//!
//! A request is admitted before it is classified: one request, its estimated tokens and those of the longest
//! reply that it asks for are taken from every limit of its caller and tenant, or from none. Limits of a
//! model, and money, are taken when it is known which model is asked. The [`Allowance`] that a request then
//! carries puts real usage in the place of what was reserved when an attempt ends, also when its client
//! has left, and gives it back if nothing was asked.
//!
//! Invariants: limits of one tenant never depend on another's use; memory has a bound; a limit holds
//! however many requests come at once. Not here: who calls (`identity`), places of the whole gateway
//! (`server`). State is this process's own: it ends with it, unless replicas share one
//! (`shared_state`).

mod allowance;
mod bucket;
mod meters;
mod shared;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use sluice_policies::{Endpoint, Prompt};
use tokio::time::Instant;

use crate::api::{ApiError, Request};
use crate::config::{Money, Quota, Quotas};
use crate::identity::Caller;
use crate::reply::Reply;
use crate::shared_state::SharedState;
pub use allowance::Allowance;
use allowance::{Asked, Hold, Reserved};
pub(crate) use bucket::Level;
use meters::Meters;

/// Bytes of text that count as a token until the upstream has counted.
const BYTES_PER_TOKEN: u64 = 4;
/// Tokens that a message takes besides its text.
const TOKENS_PER_TEXT: u64 = 4;

/// Keeps count.
pub struct Limiter {
    quotas: RwLock<Arc<Quotas>>,
    meters: Mutex<Meters>,
    shared: Option<Arc<SharedState>>,
}

/// One limit that a request comes under.
#[derive(Clone, Debug)]
struct Claim {
    key: Key,
    quota: Quota,
}

/// Whose limit it is. Every one is a tenant's.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Caller {
        tenant: Arc<str>,
        /// Empty for those who are not known.
        id: String,
    },
    Tenant(Arc<str>),
    Model {
        tenant: Arc<str>,
        name: String,
    },
    /// Whoever has no place of his own.
    Overflow,
}

/// A moment, on both clocks.
struct Now {
    at: Instant,
    /// Days since 1970, UTC.
    day: i64,
    until_midnight: Duration,
}

/// What is reserved, or was used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Amount {
    /// 1 for a request that runs, 0 for what comes on top.
    requests: u64,
    tokens: u64,
    cost: Money,
}

/// What is left of the limits a minute: of several the one with the least.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Levels {
    requests: Option<Level>,
    tokens: Option<Level>,
}

/// Why a request must wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    Requests,
    Tokens,
    Concurrency,
    TokensToday,
    CostToday,
    /// More tokens than a whole minute's worth: waiting does not help.
    TooLarge,
}

/// A limit that does not let a request through.
#[derive(Debug)]
struct Denied {
    reason: Reason,
    /// `caller`, `tenant`, `model`.
    scope: &'static str,
    wait: Duration,
    levels: Levels,
}

/// A request was turned away by a limit.
pub(crate) struct Limited {
    denied: Denied,
}

impl Limiter {
    /// A limiter with nothing taken.
    pub fn new(quotas: Quotas, shared: Option<Arc<SharedState>>) -> Limiter {
        Limiter { quotas: RwLock::new(Arc::new(quotas)), meters: Mutex::new(Meters::new()), shared }
    }

    /// What replicas keep count in, if they do so together.
    pub fn shared_state(&self) -> Option<&Arc<SharedState>> {
        self.shared.as_ref()
    }

    /// Puts other limits in force; what was taken stays taken.
    pub fn set(&self, quotas: Quotas) {
        *self.quotas.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(quotas);
    }

    /// Takes a request from every limit of its caller and tenant.
    pub(crate) async fn admit(self: &Arc<Self>, request: &Request) -> Result<Allowance, Limited> {
        self.admit_several(request, 1).await
    }

    /// The same for a body of several requests with one prompt: it is one request of so many replies.
    pub(crate) async fn admit_several(
        self: &Arc<Self>,
        request: &Request,
        count: u64,
    ) -> Result<Allowance, Limited> {
        let (prompt, reply) = (estimate(&request.prompt), reply_tokens(request));
        let reply = reply.map(|tokens| tokens.saturating_mul(count));
        self.admit_at(&request.caller, prompt, reply, &Now::read()).await
    }

    /// `reply` is `None` where nobody says how long the reply may be.
    async fn admit_at(
        self: &Arc<Self>,
        caller: &Caller,
        prompt: u64,
        reply: Option<u64>,
        now: &Now,
    ) -> Result<Allowance, Limited> {
        let quotas = self.quotas();
        let claims = own_claims(&quotas, caller);
        let reply = reply.unwrap_or_else(|| assumed_reply(&quotas, &claims));
        let asked = Asked { prompt, reply };
        let tokens = prompt.saturating_add(reply);
        let amount = Amount { requests: 1, tokens, cost: Money(0) };
        let (own, levels) = self.take(claims, amount, now).await?;
        Ok(Allowance::new(self.clone(), caller.tenant.clone(), asked, own, levels))
    }

    /// Takes an amount from every claim, or from none.
    async fn take(
        self: &Arc<Self>,
        claims: Vec<Claim>,
        amount: Amount,
        now: &Now,
    ) -> Result<(Hold, Levels), Limited> {
        // Most requests come under no limit of a model: they wait for nobody's lock.
        if claims.is_empty() {
            return Ok((Hold::new(self.clone(), claims), Levels::default()));
        }
        let limited = |denied| Limited { denied };
        // Where replicas count together, what runs is still counted here, and first: what is turned away
        // for it is not counted there.
        let mut hold = self.begin(claims, amount, now).map_err(limited)?;
        if let Some(shared) = &self.shared {
            let there = Hold::new(self.clone(), hold.claims.clone());
            if let Some(taken) = shared::take(shared, there, amount).await {
                let (mut there, levels) = taken.map_err(limited)?;
                there.runs = std::mem::take(&mut hold.runs);
                return Ok((there, levels));
            }
        }
        let here = self.meters().take(&hold.claims, amount, now);
        let (reserved, levels) = here.map_err(limited)?;
        hold.reserved = Some(reserved);
        Ok((hold, levels))
    }

    /// Counts a request as running, unless too many are.
    fn begin(
        self: &Arc<Self>,
        claims: Vec<Claim>,
        amount: Amount,
        now: &Now,
    ) -> Result<Hold, Denied> {
        let mut hold = Hold::new(self.clone(), claims);
        self.meters().place(&mut hold.claims, now);
        if amount.requests > 0 {
            let begun = self.meters().begin(&hold.claims, now);
            begun.map_err(|denied| match self.shared {
                // What is left is counted elsewhere.
                Some(_) => Denied { levels: Levels::default(), ..denied },
                None => denied,
            })?;
            hold.runs = true;
        }
        Ok(hold)
    }

    fn quotas(&self) -> Arc<Quotas> {
        self.quotas.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn meters(&self) -> MutexGuard<'_, Meters> {
        // Nothing can panic while the lock is held, and every entry is valid at every step.
        self.meters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The limits of a caller and its tenant.
fn own_claims(quotas: &Quotas, caller: &Caller) -> Vec<Claim> {
    let (tenant, id) = (&caller.tenant, caller.id.as_deref().unwrap_or_default());
    let own = quotas.callers.get(id).copied().unwrap_or(quotas.per_caller);
    let all = [
        (Key::Caller { tenant: tenant.clone(), id: id.to_owned() }, own),
        (Key::Tenant(tenant.clone()), quotas.per_tenant),
    ];
    let all = all.into_iter().filter(|(_, quota)| !quota.is_empty());
    all.map(|(key, quota)| Claim { key, quota }).collect()
}

/// The longest reply that a request asks for, all its choices together; `None` if it does not say.
fn reply_tokens(request: &Request) -> Option<u64> {
    if request.chat.endpoint == Endpoint::Embeddings {
        return Some(0);
    }
    let number = |name: &str| request.chat.fields.get(name).and_then(Value::as_u64);
    let most = number("max_completion_tokens").or_else(|| number("max_tokens"))?;
    let choices = number("n").into_iter().chain(number("best_of")).max().unwrap_or(1);
    Some(most.saturating_mul(choices.max(1)))
}

/// What is reserved for a reply of unknown length: what the config says, but never so much that a small
/// limit would let one request through at a time.
fn assumed_reply(quotas: &Quotas, claims: &[Claim]) -> u64 {
    let limits = claims.iter().flat_map(|claim| {
        let quota = &claim.quota;
        [quota.tokens_per_minute, quota.tokens_per_day].into_iter().flatten()
    });
    let least = limits.map(|limit| limit.get() / 4).min();
    least.map_or(quotas.assumed_reply_tokens, |least| least.min(quotas.assumed_reply_tokens))
}

/// Tokens of a prompt, before anybody has counted them.
pub(crate) fn estimate(prompt: &Prompt) -> u64 {
    let tokens = |text: &str| tokens_of_bytes(text.len() as u64) + TOKENS_PER_TEXT;
    prompt.texts.iter().map(|text| tokens(&text.text)).sum()
}

/// Tokens of a text that nobody has counted.
pub(crate) fn tokens_of_bytes(bytes: u64) -> u64 {
    bytes.div_ceil(BYTES_PER_TOKEN)
}

impl Reason {
    /// Whether trying again soon does not help.
    fn is_final(self) -> bool {
        matches!(self, Reason::TooLarge | Reason::TokensToday | Reason::CostToday)
    }
}

impl Key {
    fn scope(&self) -> &'static str {
        match self {
            Key::Caller { .. } | Key::Overflow => "caller",
            Key::Tenant(_) => "tenant",
            Key::Model { .. } => "model",
        }
    }
}

impl Now {
    fn read() -> Now {
        const DAY_S: i64 = 24 * 3600;
        let unix = Timestamp::now().as_second();
        let left = DAY_S - unix.rem_euclid(DAY_S);
        Now {
            at: Instant::now(),
            day: unix.div_euclid(DAY_S),
            until_midnight: Duration::from_secs(left.unsigned_abs()),
        }
    }
}

impl Levels {
    fn add_requests(&mut self, level: Option<Level>) {
        least(&mut self.requests, level);
    }

    /// Counts in other limits.
    fn add(&mut self, other: &Levels) {
        self.add_requests(other.requests);
        self.add_tokens(other.tokens);
    }

    fn add_tokens(&mut self, level: Option<Level>) {
        least(&mut self.tokens, level);
    }

    /// OpenAI's headers.
    fn put_on(&self, reply: &mut Reply) {
        if let Some(level) = self.requests {
            reply.set("x-ratelimit-limit-requests", &level.limit.to_string());
            reply.set("x-ratelimit-remaining-requests", &level.remaining.to_string());
            reply.set("x-ratelimit-reset-requests", &in_words(level.reset));
        }
        if let Some(level) = self.tokens {
            reply.set("x-ratelimit-limit-tokens", &level.limit.to_string());
            reply.set("x-ratelimit-remaining-tokens", &level.remaining.to_string());
            reply.set("x-ratelimit-reset-tokens", &in_words(level.reset));
        }
    }
}

fn least(kept: &mut Option<Level>, other: Option<Level>) {
    let is_less = |other: &Level| kept.is_none_or(|kept| other.remaining < kept.remaining);
    if let Some(other) = other.filter(is_less) {
        *kept = Some(other);
    }
}

/// A time as OpenAI writes it: `120ms`, `1.5s`, `6m0s`.
fn in_words(time: Duration) -> String {
    let ms = time.as_millis();
    match ms {
        0..1000 => format!("{ms}ms"),
        1000..60_000 => format!("{}s", (ms / 100) as f64 / 10.0),
        _ => format!("{}m{}s", ms / 60_000, ms % 60_000 / 1000),
    }
}

impl Limited {
    /// What the client is told: when to come back, if that helps.
    pub(crate) fn error(&self) -> ApiError {
        let Denied { reason, scope, wait, .. } = &self.denied;
        let (what, code) = match reason {
            Reason::Requests => ("requests a minute", "rate_limit_exceeded"),
            Reason::Tokens => ("tokens a minute", "rate_limit_exceeded"),
            Reason::Concurrency => ("requests at the same time", "rate_limit_exceeded"),
            Reason::TooLarge => ("tokens a minute, by this request alone", "tokens_over_limit"),
            Reason::TokensToday => ("tokens today", "insufficient_quota"),
            Reason::CostToday => ("money today", "insufficient_quota"),
        };
        let mut error = ApiError::rate_limited(code, format!("the {scope} is over its {what}"));
        if *reason != Reason::TooLarge {
            let seconds = wait.as_millis().div_ceil(1000);
            error = error.retry_after(u32::try_from(seconds).unwrap_or(u32::MAX).max(1));
        }
        error
    }

    /// The same as a reply.
    pub(crate) fn reply(&self) -> Reply {
        let Denied { reason, levels, .. } = &self.denied;
        let mut reply = Reply::error(&self.error());
        if reason.is_final() {
            // Official clients try again by themselves unless told not to.
            reply.set("x-should-retry", "false");
        }
        levels.put_on(&mut reply);
        reply
    }
}

#[cfg(test)]
mod tests;
