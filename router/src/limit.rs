//! What callers, tenants and models may take: requests and tokens a minute, at once, and a day's budgets.
//!
//! A request is admitted before it is classified: one request and its estimated tokens are taken from
//! every limit that it comes under, or from none. The [`Allowance`] that it then carries puts real usage
//! in the place of the estimate when an attempt ends, also when its client has left, and gives the
//! estimate back if nothing was asked. Money is counted when it is spent.
//!
//! Invariants: limits of one tenant never depend on another's use; memory has a bound; a limit holds
//! however many requests come at once. Not here: who calls (`identity`), places of the whole gateway
//! (`server`). State is this process's own: it ends with it, unless replicas share one
//! (`shared_state`).

mod bucket;
mod meters;
mod shared;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use jiff::Timestamp;
use sluice_policies::Prompt;
use tokio::time::Instant;

use crate::api::{ApiError, Request};
use crate::config::{Money, Quota, Quotas};
use crate::identity::Caller;
use crate::reply::Reply;
use crate::shared_state::SharedState;
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

/// What was used in the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Spent {
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

/// What an admitted request may use; held until its reply has ended.
pub struct Allowance {
    limiter: Arc<Limiter>,
    claims: Vec<Claim>,
    reserved: u64,
    levels: Levels,
    /// Whether the estimate still stands in for what is used.
    estimate_stands: Mutex<bool>,
    /// Whether replicas keep count together.
    counted_together: bool,
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

    /// Takes a request from every limit that it comes under.
    pub(crate) async fn admit(self: &Arc<Self>, request: &Request) -> Result<Allowance, Limited> {
        let tokens = estimate(&request.prompt);
        self.admit_at(&request.caller, &request.chat.model, tokens, &Now::read()).await
    }

    async fn admit_at(
        self: &Arc<Self>,
        caller: &Caller,
        model: &str,
        tokens: u64,
        now: &Now,
    ) -> Result<Allowance, Limited> {
        let claims = self.claims(caller, model);
        let together = match &self.shared {
            Some(shared) if !claims.is_empty() => shared::take(shared, &claims, tokens).await,
            _ => None,
        };
        let limited = |denied| Limited { denied };
        let counted_together = together.is_some();
        let levels = together.transpose().map_err(limited)?;
        // Where replicas count together, what runs is still counted here.
        let here = self.meters().take(&claims, tokens, now, counted_together);
        let here = match here {
            Ok(levels) => levels,
            Err(denied) => {
                if let (true, Some(shared)) = (counted_together, &self.shared) {
                    shared::settle(shared, &claims, tokens, Spent::default());
                }
                return Err(limited(denied));
            }
        };
        Ok(Allowance {
            limiter: self.clone(),
            claims,
            reserved: tokens,
            levels: levels.unwrap_or(here),
            estimate_stands: Mutex::new(true),
            counted_together,
        })
    }

    /// The limits that a request comes under.
    fn claims(&self, caller: &Caller, model: &str) -> Vec<Claim> {
        let quotas = self.quotas();
        let (tenant, id) = (&caller.tenant, caller.id.as_deref().unwrap_or_default());
        let own = quotas.callers.get(id).copied().unwrap_or(quotas.per_caller);
        let of_model = quotas.per_model.get(model).copied().unwrap_or_default();
        let all = [
            (Key::Caller { tenant: tenant.clone(), id: id.to_owned() }, own),
            (Key::Tenant(tenant.clone()), quotas.per_tenant),
            (Key::Model { tenant: tenant.clone(), name: model.to_owned() }, of_model),
        ];
        let all = all.into_iter().filter(|(_, quota)| !quota.is_empty());
        all.map(|(key, quota)| Claim { key, quota }).collect()
    }

    fn quotas(&self) -> Arc<Quotas> {
        self.quotas.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn meters(&self) -> MutexGuard<'_, Meters> {
        // Nothing can panic while the lock is held, and every entry is valid at every step.
        self.meters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tokens of a prompt, before anybody has counted them.
fn estimate(prompt: &Prompt) -> u64 {
    let tokens = |text: &str| tokens_of_bytes(text.len() as u64) + TOKENS_PER_TEXT;
    prompt.texts.iter().map(|text| tokens(&text.text)).sum()
}

/// Tokens of a text that nobody has counted.
pub(crate) fn tokens_of_bytes(bytes: u64) -> u64 {
    bytes.div_ceil(BYTES_PER_TOKEN)
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
    pub(crate) fn reply(&self) -> Reply {
        let Denied { reason, scope, wait, levels } = &self.denied;
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
        let mut reply = Reply::error(&error);
        if matches!(reason, Reason::TooLarge | Reason::TokensToday | Reason::CostToday) {
            // Official clients try again by themselves unless told not to.
            reply.set("x-should-retry", "false");
        }
        levels.put_on(&mut reply);
        reply
    }
}

impl Allowance {
    /// Puts the headers of the limits on a reply.
    pub(crate) fn put_on(&self, reply: &mut Reply) {
        self.levels.put_on(reply);
    }

    /// An attempt has ended. What its upstream did not count is estimated: the prompt as it was on
    /// admission, the reply by its bytes. `model` is `None` for what costs nothing.
    pub(crate) fn spend(
        &self,
        model: Option<&str>,
        prompt_tokens: Option<u64>,
        completion_tokens: Option<u64>,
        reply_bytes: u64,
    ) {
        let input = prompt_tokens.unwrap_or(self.reserved);
        let output = completion_tokens.unwrap_or_else(|| tokens_of_bytes(reply_bytes));
        let prices = &self.limiter.quotas().prices;
        let cost = model.map_or(Money(0), |model| prices.cost(model, input, output));
        self.settle(Spent { tokens: input.saturating_add(output), cost });
    }

    fn settle(&self, spent: Spent) {
        let mut stands = self.estimate_stands.lock().unwrap_or_else(PoisonError::into_inner);
        let reserved = if std::mem::take(&mut *stands) { self.reserved } else { 0 };
        drop(stands);
        match &self.limiter.shared {
            Some(shared) if self.counted_together => {
                shared::settle(shared, &self.claims, reserved, spent);
            }
            _ => self.limiter.meters().settle(&self.claims, reserved, spent, &Now::read()),
        }
    }
}

impl Drop for Allowance {
    fn drop(&mut self) {
        if *self.estimate_stands.get_mut().unwrap_or_else(PoisonError::into_inner) {
            self.settle(Spent::default());
        }
        self.limiter.meters().release(&self.claims, &Now::read());
    }
}

#[cfg(test)]
mod tests;
