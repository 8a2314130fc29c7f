//! What an admitted request holds of every limit that it comes under, until its reply has ended.
//!
//! What it may take at most is reserved: with its admission the prompt and the longest reply that it asks
//! for, with each attempt what that model's limits say and what it would cost. When an attempt ends, real
//! usage takes the place of what was reserved; what nobody used comes back, at the latest when a [`Hold`] is
//! dropped: so a request whose client leaves at any step leaves nothing behind.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Amount, Claim, Key, Levels, Limited, Limiter, Now, Reason, shared, tokens_of_bytes};
use crate::config::{Money, OTHER_MODELS, Quotas};
use crate::reply::Reply;

/// What an admitted request may use.
pub struct Allowance {
    limiter: Arc<Limiter>,
    tenant: Arc<str>,
    /// Tokens of the prompt, estimated, and of the longest reply.
    asked: Asked,
    held: Mutex<Held>,
}

/// Tokens that a request may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) prompt: u64,
    pub(super) reply: u64,
}

struct Held {
    /// Of the limits of its caller and its tenant.
    own: Hold,
    /// Of those of each model that was asked.
    models: Vec<ModelHold>,
    levels: Levels,
    /// Why a model's limit, or money, did not let it through.
    denied: Option<Reason>,
}

struct ModelHold {
    model: String,
    /// Of the model's own limits.
    hold: Hold,
    /// Of the money of caller and tenant.
    money: Hold,
}

/// What is held of some limits.
pub(super) struct Hold {
    limiter: Arc<Limiter>,
    pub(super) claims: Vec<Claim>,
    /// What was reserved, until it is settled.
    pub(super) reserved: Option<Reserved>,
    /// A request of its own is counted as running.
    pub(super) runs: bool,
    /// Replicas keep count together.
    pub(super) together: bool,
}

/// What was reserved, and when.
#[derive(Debug, Default)]
pub(super) struct Reserved {
    pub(super) amount: Amount,
    pub(super) day: i64,
    /// When the tokens of each claim are forgotten, by the clock of whoever counts them: since this process
    /// began to count, or since 1970 at the server of replicas.
    pub(super) forgotten_at: Vec<Duration>,
}

impl Hold {
    /// Nothing yet.
    pub(super) fn new(limiter: Arc<Limiter>, claims: Vec<Claim>) -> Hold {
        Hold { limiter, claims, reserved: None, runs: false, together: false }
    }

    /// Puts what was really used in the place of what was reserved, once; later uses come on top.
    fn settle(&mut self, spent: Amount) {
        if self.claims.is_empty() {
            return;
        }
        let reserved = self.reserved.take().unwrap_or_default();
        match &self.limiter.shared {
            Some(shared) if self.together => shared::settle(shared, &self.claims, &reserved, spent),
            _ => self.limiter.meters().settle(&self.claims, &reserved, spent, &Now::read()),
        }
    }
}

impl Drop for Hold {
    /// The request has ended: what is reserved still was not used.
    fn drop(&mut self) {
        if self.reserved.is_some() {
            self.settle(Amount::default());
        }
        if self.runs {
            self.limiter.meters().release(&self.claims, &Now::read());
        }
    }
}

impl Allowance {
    pub(super) fn new(
        limiter: Arc<Limiter>,
        tenant: Arc<str>,
        asked: Asked,
        own: Hold,
        levels: Levels,
    ) -> Allowance {
        let held = Held { own, models: Vec::new(), levels, denied: None };
        Allowance { limiter, tenant, asked, held: Mutex::new(held) }
    }

    /// Takes an attempt from the limits of the model that is to answer, by its server's name for it and the
    /// client's, and, where it costs something, from the money of the day. A model that was asked before
    /// has been paid for.
    pub(crate) async fn take_model(
        &self,
        model: &str,
        client_name: &str,
        is_priced: bool,
    ) -> Result<(), Limited> {
        self.take_model_at(model, client_name, is_priced, &Now::read()).await
    }

    pub(super) async fn take_model_at(
        &self,
        model: &str,
        client_name: &str,
        is_priced: bool,
        now: &Now,
    ) -> Result<(), Limited> {
        let claims = {
            let held = self.held();
            if held.models.iter().any(|held| held.model == model) {
                return Ok(());
            }
            let own = held.own.claims.iter();
            own.filter(|claim| claim.quota.cost_per_day.is_some()).cloned().collect::<Vec<_>>()
        };
        let (limiter, Asked { prompt, reply }) = (&self.limiter, self.asked);
        let quotas = limiter.quotas();
        let cost = match is_priced {
            true => quotas.prices.cost(model, prompt, reply),
            false => Money(0),
        };
        let of_model = model_claims(&quotas, &self.tenant, model, client_name);
        let tokens = prompt.saturating_add(reply);
        let taken = limiter.take(of_model, Amount { requests: 1, tokens, cost }, now).await;
        let (hold, levels) = taken.map_err(|limited| self.deny(limited))?;
        let claims = if is_priced { claims } else { Vec::new() };
        let money = limiter.take(claims, Amount { cost, ..Amount::default() }, now).await;
        let (money, _) = money.map_err(|limited| self.deny(limited))?;
        let mut held = self.held();
        held.levels.add(&levels);
        held.models.push(ModelHold { model: model.to_owned(), hold, money });
        Ok(())
    }

    fn deny(&self, limited: Limited) -> Limited {
        let mut held = self.held();
        held.denied = Some(limited.denied.reason);
        held.levels.add(&limited.denied.levels);
        limited
    }

    /// Puts the headers of the limits on a reply.
    pub(crate) fn put_on(&self, reply: &mut Reply) {
        let held = self.held();
        held.levels.put_on(reply);
        if reply.status == hyper::StatusCode::TOO_MANY_REQUESTS
            && held.denied.is_some_and(Reason::is_final)
        {
            reply.set("x-should-retry", "false");
        }
    }

    /// An attempt has ended. What its upstream did not count is estimated: the prompt as it was on
    /// admission, the reply by its bytes. What is not priced costs nothing.
    pub(crate) fn spend(
        &self,
        model: &str,
        is_priced: bool,
        prompt_tokens: Option<u64>,
        completion_tokens: Option<u64>,
        reply_bytes: u64,
    ) {
        let input = prompt_tokens.unwrap_or(self.asked.prompt);
        let output = completion_tokens.unwrap_or_else(|| tokens_of_bytes(reply_bytes));
        let cost = match is_priced {
            true => self.limiter.quotas().prices.cost(model, input, output),
            false => Money(0),
        };
        let tokens = input.saturating_add(output);
        let mut held = self.held();
        held.own.settle(Amount { tokens, ..Amount::default() });
        if let Some(of) = held.models.iter_mut().find(|held| held.model == model) {
            of.hold.settle(Amount { requests: 0, tokens, cost });
            of.money.settle(Amount { cost, ..Amount::default() });
        }
    }

    /// What is left of the limits a minute.
    #[cfg(test)]
    pub(super) fn levels(&self) -> Levels {
        self.held().levels
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // Nothing panics while the lock is held.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The limits of a model: by its server's name, and by the client's where that is an alias with a limit of
/// its own. Names come from the config alone, so that nobody gets a fresh limit by a new name: a model
/// that is not listed shares that of `*`.
fn model_claims(quotas: &Quotas, tenant: &Arc<str>, model: &str, client_name: &str) -> Vec<Claim> {
    let names = match quotas.per_model.contains_key(model) {
        true => [Some(model), Some(client_name).filter(|name| *name != model)],
        false => [Some(OTHER_MODELS), Some(client_name).filter(|name| *name != OTHER_MODELS)],
    };
    let claim = |name: &str| {
        let quota = quotas.per_model.get(name).copied().filter(|quota| !quota.is_empty())?;
        Some(Claim { key: Key::Model { tenant: tenant.clone(), name: name.to_owned() }, quota })
    };
    names.into_iter().flatten().filter_map(claim).collect()
}
