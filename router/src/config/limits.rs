//! `limits` and `prices`: what one client, one caller, one tenant or one model may take.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU64;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize};

/// Bounds on what clients may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest request body, bytes. Default `10MiB`: a long conversation with documents; pictures
    /// need more.
    pub body: u64,
    /// Requests answered at the same time; a further one is told to come back (503). Default 512.
    pub in_flight: usize,
}

/// The name under which `per_model` limits models that are not listed.
pub const OTHER_MODELS: &str = "*";

/// What callers, tenants and models may take. Default: no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quotas {
    /// `per_caller`: each caller, unless `callers` says otherwise of it. All unknown callers are one.
    pub per_caller: Quota,
    /// `callers`: single callers by their id, instead of `per_caller`.
    pub callers: BTreeMap<String, Quota>,
    /// `per_tenant`: all callers of a tenant together.
    pub per_tenant: Quota,
    /// `per_model`: all callers of a tenant together, by the model that answers, as its server names it (or
    /// the edge's model), or by an alias of clients. `*` is for all that are not listed, together.
    pub per_model: BTreeMap<String, Quota>,
    /// `assumed_reply_tokens`: what is reserved for a reply where the client does not say how long it may
    /// be (`max_tokens`); at most a quarter of the limit. Default 1024: most replies are shorter.
    pub assumed_reply_tokens: u64,
    /// `prices`: by the model's name as its server knows it.
    pub prices: Prices,
}

/// Limits that hold together; what is left out is not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Quota {
    /// Requests a minute; a whole minute's worth may come at once.
    pub requests_per_minute: Option<NonZeroU64>,
    /// Tokens a minute, prompts and replies; a whole minute's worth may come at once.
    pub tokens_per_minute: Option<NonZeroU64>,
    /// Requests at the same time.
    pub concurrency: Option<NonZeroU64>,
    /// Tokens a day, which begins at midnight UTC.
    pub tokens_per_day: Option<NonZeroU64>,
    /// Cost a day by `prices`, in their currency.
    pub cost_per_day: Option<Money>,
}

impl Quota {
    /// Whether nothing is limited.
    pub fn is_empty(&self) -> bool {
        *self == Quota::default()
    }
}

/// An amount of money in billionths of its unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Money(pub u64);

/// Billionths in a unit.
const NANOS: f64 = 1e9;

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0 as f64 / NANOS)
    }
}

/// Prices of models.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Prices(BTreeMap<String, Price>);

/// What a million tokens of a model cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// Of a prompt.
    pub input: Money,
    /// Of a reply.
    pub output: Money,
}

impl Prices {
    /// What tokens of a model cost, rounded up. A model that is not listed costs as much as the dearest
    /// that is: a forgotten line must not make a budget endless.
    pub fn cost(&self, model: &str, input: u64, output: u64) -> Money {
        let dearest = || {
            let prices = self.0.values();
            let input = prices.clone().map(|price| price.input).max();
            let output = prices.map(|price| price.output).max();
            Price { input: input.unwrap_or_default(), output: output.unwrap_or_default() }
        };
        let price = self.0.get(model).copied().unwrap_or_else(dearest);
        let of = |tokens: u64, price: Money| u128::from(tokens) * u128::from(price.0);
        let nanos = (of(input, price.input) + of(output, price.output)).div_ceil(1_000_000);
        Money(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Whether no model has a price.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct LimitsSection {
    #[serde(deserialize_with = "super::file::size")]
    body: u64,
    pub(super) in_flight: usize,
    per_caller: Quota,
    callers: BTreeMap<String, Quota>,
    per_tenant: Quota,
    per_model: BTreeMap<String, Quota>,
    assumed_reply_tokens: u64,
}

impl LimitsSection {
    pub(super) fn limits(&self) -> Limits {
        Limits { body: self.body, in_flight: self.in_flight }
    }

    /// Whether a budget of money can never be spent because nothing has a price.
    pub(super) fn lacks(&self, prices: &Prices) -> bool {
        let by_name = self.callers.values().chain(self.per_model.values());
        let mut quotas = by_name.chain([&self.per_caller, &self.per_tenant]);
        prices.is_empty() && quotas.any(|quota| quota.cost_per_day.is_some())
    }

    pub(super) fn quotas(self, prices: Prices) -> Quotas {
        let LimitsSection {
            per_caller, callers, per_tenant, per_model, assumed_reply_tokens, ..
        } = self;
        Quotas { per_caller, callers, per_tenant, per_model, assumed_reply_tokens, prices }
    }
}

impl Default for LimitsSection {
    fn default() -> Self {
        let Limits { body, in_flight } = Limits::default();
        LimitsSection {
            body,
            in_flight,
            per_caller: Quota::default(),
            callers: BTreeMap::new(),
            per_tenant: Quota::default(),
            per_model: BTreeMap::new(),
            assumed_reply_tokens: 1024,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits { body: 10 << 20, in_flight: 512 }
    }
}

struct MoneyVisitor;

impl Visitor<'_> for MoneyVisitor {
    type Value = Money;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an amount of money such as 2.50")
    }

    fn visit_u64<E: de::Error>(self, units: u64) -> Result<Money, E> {
        self.visit_f64(units as f64)
    }

    fn visit_f64<E: de::Error>(self, units: f64) -> Result<Money, E> {
        let nanos = (units * NANOS).round();
        if (0.0..1e18).contains(&nanos) {
            Ok(Money(nanos as u64))
        } else {
            Err(E::custom(format!("expected an amount of money such as 2.50, got {units}")))
        }
    }
}

impl<'de> Deserialize<'de> for Money {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(MoneyVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_without_a_price_costs_what_the_dearest_does() {
        let prices: Prices = serde_yaml::from_str(
            "small: {input: 0.25, output: 2}\nlarge: {input: 1.25, output: 10.00}\n",
        )
        .unwrap();
        for (model, input, output, expected) in [
            ("small", 1_000_000, 0, 250_000_000),
            ("small", 1000, 500, 1_250_000),
            ("small", 1, 0, 250),
            ("large", 1000, 1000, 11_250_000),
            ("forgotten", 1000, 1000, 11_250_000),
        ] {
            assert_eq!(prices.cost(model, input, output), Money(expected), "{model}");
        }
        assert_eq!(Prices::default().cost("any", 1000, 1000), Money(0));
    }

    #[test]
    fn money_is_a_number_that_is_not_negative() {
        for (text, expected) in
            [("25", Some(25_000_000_000)), ("0.05", Some(50_000_000)), ("-1", None), ("free", None)]
        {
            let money = serde_yaml::from_str::<Money>(text).ok();
            assert_eq!(money, expected.map(Money), "{text}");
        }
    }
}
