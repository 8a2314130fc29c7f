//! Limits that replicas count together: the rules of `bucket` and `meters`, run by the server in one step.
//!
//! Each limit is one hash: `r`, `t` (when the buckets of requests and tokens are empty again, µs), `d`
//! (the day that the sums are of), `n` (tokens) and `c` (cost, billionths). The clock is the server's, so
//! that replicas need not agree. Keys of a tenant carry its name in braces, and so lie together in a cluster.

use std::time::Duration;

use redis::aio::MultiplexedConnection;

use super::{Amount, Claim, Denied, Hold, Key, Level, Levels, Reason, Reserved};
use crate::shared_state::{Script, SharedState};

/// A minute, µs.
const PERIOD_US: u64 = 60_000_000;

/// A day, µs.
const DAY_US: u64 = 24 * 3600 * 1_000_000;

/// What both scripts begin with: the clock, and the state of every key.
const STATE: &str = r"
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local day = math.floor(clock[1] / 86400)
local PERIOD = 60000000
local function read(key)
  local v = redis.call('HMGET', key, 'r', 't', 'd', 'n', 'c')
  local m = {r = math.max((tonumber(v[1]) or 0) - now, 0), t = math.max((tonumber(v[2]) or 0) - now, 0), n = 0, c = 0}
  if tonumber(v[3]) == day then m.n = tonumber(v[4]) or 0; m.c = tonumber(v[5]) or 0 end
  return m
end
local function write(key, m)
  local function whole(x) return string.format('%.0f', x) end
  redis.call('HSET', key, 'r', whole(now + m.r), 't', whole(now + m.t), 'd', day, 'n', whole(m.n), 'c', whole(m.c))
  redis.call('EXPIRE', key, 172800)
end
";

/// ARGV: requests, tokens and cost, then for each key the limits of requests and tokens a minute, tokens and cost a day (0 is
/// none). Answers the number of the key that denies (0: none), why, how long to wait in µs, the time, then for
/// each key how far its two buckets are ahead. Half a millisecond of rounding is let pass.
const TAKE: &str = r"
local requests, tokens, cost = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local denied, states = {0, 0, 0}, {}
for i, key in ipairs(KEYS) do
  local m = read(key)
  states[i] = m
  local a = 4 * i
  local rpm, tpm, tpd, cpd = tonumber(ARGV[a]), tonumber(ARGV[a + 1]), tonumber(ARGV[a + 2]), tonumber(ARGV[a + 3])
  local midnight = (day + 1) * 86400000000 - now
  local function deny(why, wait) if denied[1] == 0 then denied = {i, why, math.ceil(wait)} end end
  if requests > 0 and rpm > 0 and m.r + PERIOD / rpm > PERIOD + 500 then deny(1, m.r + PERIOD / rpm - PERIOD) end
  if requests > 0 and tpm > 0 and tokens > tpm then deny(5, 0) end
  if requests > 0 and tpm > 0 and m.t + tokens * PERIOD / tpm > PERIOD + 500 then deny(2, m.t + tokens * PERIOD / tpm - PERIOD) end
  if requests > 0 and tpd > 0 and m.n + tokens > tpd then deny(3, midnight) end
  if cost > 0 and cpd > 0 and m.c + cost > cpd then deny(4, midnight) end
end
if denied[1] == 0 then
  for i, key in ipairs(KEYS) do
    local m, a = states[i], 4 * i
    local rpm, tpm = tonumber(ARGV[a]), tonumber(ARGV[a + 1])
    if rpm > 0 then m.r = m.r + requests * PERIOD / rpm end
    if tpm > 0 then m.t = m.t + tokens * PERIOD / tpm end
    m.n = m.n + tokens
    m.c = m.c + cost
    write(key, m)
  end
end
local answer = {denied[1], denied[2], denied[3], now}
for _, m in ipairs(states) do
  table.insert(answer, math.floor(m.r))
  table.insert(answer, math.floor(m.t))
end
return answer
";

/// ARGV: tokens and cost that were reserved, and the day, tokens and cost that were spent, then for each key
/// its limit of tokens a minute, and when those that were reserved are forgotten, µs: only what still weighs
/// comes back, as in `bucket`.
const SETTLE: &str = r"
local reserved, reserved_cost, reserved_on = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local spent, cost = tonumber(ARGV[4]), tonumber(ARGV[5])
for i, key in ipairs(KEYS) do
  local m, tpm, forgotten_at = read(key), tonumber(ARGV[4 + 2 * i]), tonumber(ARGV[5 + 2 * i])
  if tpm > 0 then
    local unused = math.min((reserved - spent) * PERIOD / tpm, math.max(forgotten_at - now, 0))
    m.t = math.max(m.t - unused, 0)
  end
  if reserved_on == day then
    m.n = math.max(m.n - reserved, 0)
    m.c = math.max(m.c - reserved_cost, 0)
  end
  m.n = m.n + spent
  m.c = m.c + cost
  write(key, m)
end
";

/// Takes an amount from every claim of a hold that is still empty, or from none; `None` if the server does
/// not answer. If the answer comes too late, or nobody waits for it any more, the hold gives back what it got.
pub(super) async fn take(
    state: &SharedState,
    mut hold: Hold,
    amount: Amount,
) -> Option<Result<(Hold, Levels), Denied>> {
    let limits = hold.claims.iter().flat_map(|claim| {
        let quota = &claim.quota;
        let number = |limit: Option<std::num::NonZeroU64>| limit.map_or(0, u64::from);
        [
            number(quota.requests_per_minute),
            number(quota.tokens_per_minute),
            number(quota.tokens_per_day),
            quota.cost_per_day.map_or(0, |budget| budget.0.max(1)),
        ]
    });
    let amounts = [amount.requests, amount.tokens, amount.cost.0];
    let arguments = amounts.into_iter().chain(limits).collect();
    let script = script(TAKE, &hold.claims, arguments);
    let take = |mut link: MultiplexedConnection| async move {
        let answer: Vec<u64> = script.run(&mut link).await?;
        let Some(taken) = read(&hold.claims, &answer) else { return Ok(None) };
        Ok(Some(taken.map(|(levels, day, forgotten_at)| {
            hold.together = true;
            hold.reserved = Some(Reserved { amount, day, forgotten_at });
            (hold, levels)
        })))
    };
    state.ask_whole(take).await?
}

/// Puts what was really spent in the place of what was reserved, when the server has time.
pub(super) fn settle(state: &SharedState, claims: &[Claim], reserved: &Reserved, spent: Amount) {
    let Reserved { amount, day, forgotten_at } = reserved;
    let forgotten_at = forgotten_at.iter().map(|at| u64::try_from(at.as_micros()).unwrap_or(0));
    // What was not reserved has nothing to be forgotten.
    let limits = claims.iter().zip(forgotten_at.chain(std::iter::repeat(0)));
    let limits = limits.flat_map(|(claim, forgotten_at)| {
        [claim.quota.tokens_per_minute.map_or(0, u64::from), forgotten_at]
    });
    let day = u64::try_from(*day).unwrap_or(0);
    let amounts = [amount.tokens, amount.cost.0, day, spent.tokens, spent.cost.0];
    let arguments = amounts.into_iter().chain(limits).collect();
    state.run_later(script(SETTLE, claims, arguments));
}

fn script(text: &str, claims: &[Claim], arguments: Vec<u64>) -> Script {
    Script {
        script: redis::Script::new(&format!("{STATE}{text}")),
        keys: claims.iter().map(|claim| name(&claim.key)).collect(),
        arguments,
    }
}

fn name(key: &Key) -> String {
    match key {
        Key::Caller { tenant, id } => format!("{{{tenant}}}:caller:{id}"),
        Key::Tenant(tenant) => format!("{{{tenant}}}:tenant"),
        Key::Model { tenant, name } => format!("{{{tenant}}}:model:{name}"),
        Key::Overflow => "overflow".to_owned(),
    }
}

/// What is left, the day, and when the tokens of each claim are forgotten.
type Taken = (Levels, i64, Vec<Duration>);

/// What the server answered; `None` if that is not what the script says.
fn read(claims: &[Claim], answer: &[u64]) -> Option<Result<Taken, Denied>> {
    let [who, why, wait, now, ahead @ ..] = answer else { return None };
    let mut levels = Levels::default();
    let mut forgotten_at = Vec::with_capacity(claims.len());
    for (claim, ahead) in claims.iter().zip(ahead.chunks_exact(2)) {
        let level = |limit: Option<std::num::NonZeroU64>, ahead| {
            limit.map(|limit| level(limit.get(), ahead))
        };
        levels.add_requests(level(claim.quota.requests_per_minute, ahead[0]));
        levels.add_tokens(level(claim.quota.tokens_per_minute, ahead[1]));
        forgotten_at.push(Duration::from_micros(now.saturating_add(ahead[1])));
    }
    let Some(denying) = who.checked_sub(1) else {
        let day = i64::try_from(now / DAY_US).ok()?;
        return Some(Ok((levels, day, forgotten_at)));
    };
    let reason = match why {
        1 => Reason::Requests,
        2 => Reason::Tokens,
        3 => Reason::TokensToday,
        4 => Reason::CostToday,
        5 => Reason::TooLarge,
        _ => return None,
    };
    let scope = claims.get(usize::try_from(denying).ok()?)?.key.scope();
    Some(Err(Denied { reason, scope, wait: Duration::from_micros(*wait), levels }))
}

fn level(limit: u64, ahead_us: u64) -> Level {
    let free = u128::from(PERIOD_US.saturating_sub(ahead_us));
    // Rounded to the nearest: the server's numbers are whole microseconds.
    let remaining = (free * u128::from(limit) + u128::from(limit)) / u128::from(PERIOD_US);
    let remaining = u64::try_from(remaining).unwrap_or(limit).min(limit);
    Level { limit, remaining, reset: Duration::from_micros(ahead_us) }
}
