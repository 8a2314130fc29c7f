//! Limits as callers meet them, on a clock that the test holds.

use std::collections::BTreeSet;

use hyper::StatusCode;
use hyper::header::RETRY_AFTER;

use super::*;

fn limiter(yaml: &str) -> Arc<Limiter> {
    let config = crate::config::Config::parse("sluice.yaml", yaml, std::path::Path::new("/"));
    Arc::new(Limiter::new(config.unwrap().quotas, None))
}

fn caller(tenant: &str, id: &str) -> Caller {
    Caller { id: Some(id.into()), tenant: tenant.into(), tags: BTreeSet::new() }
}

fn at(begin: &Now, seconds: u64) -> Now {
    Now { at: begin.at + Duration::from_secs(seconds), ..*begin }
}

fn begin() -> Now {
    Now { at: Instant::now(), day: 20_000, until_midnight: Duration::from_secs(7200) }
}

fn why(limited: Result<Allowance, Limited>) -> Option<Reason> {
    limited.err().map(|limited| limited.denied.reason)
}

#[tokio::test]
async fn each_limit_denies_for_its_own_reason() {
    let now = begin();
    for (yaml, tokens, expected) in [
        ("limits: {per_caller: {requests_per_minute: 2}}", 0, Reason::Requests),
        ("limits: {per_caller: {tokens_per_minute: 250}}", 100, Reason::Tokens),
        ("limits: {per_caller: {tokens_per_minute: 99}}", 100, Reason::TooLarge),
        ("limits: {per_caller: {concurrency: 2}}", 0, Reason::Concurrency),
        ("limits: {per_caller: {tokens_per_day: 299}}", 100, Reason::TokensToday),
        ("limits: {per_tenant: {requests_per_minute: 2}}", 0, Reason::Requests),
        ("limits: {per_model: {m: {requests_per_minute: 2}}}", 0, Reason::Requests),
        ("limits: {callers: {anna: {concurrency: 2}}}", 0, Reason::Concurrency),
    ] {
        let limiter = limiter(yaml);
        let anna = caller("north", "anna");
        let mut held = Vec::new();
        let mut denied = None;
        for _ in 0..3 {
            match limiter.admit_at(&anna, "m", tokens, &now).await {
                Ok(allowance) => held.push(allowance),
                Err(limited) => denied = denied.or(Some(limited.denied.reason)),
            }
        }
        assert_eq!(denied, Some(expected), "{yaml}");
        let most = if expected == Reason::TooLarge { 0 } else { 2 };
        assert_eq!(held.len(), most, "{yaml}");
    }
}

#[tokio::test]
async fn limits_of_one_tenant_do_not_see_the_other() {
    let limiter = limiter(
        "limits: {per_caller: {requests_per_minute: 1}, per_tenant: {requests_per_minute: 1}, \
         per_model: {m: {requests_per_minute: 1}}}",
    );
    let now = begin();
    for tenant in ["north", "south"] {
        let same_name = caller(tenant, "anna");
        assert!(limiter.admit_at(&same_name, "m", 0, &now).await.is_ok(), "{tenant}");
        assert!(limiter.admit_at(&same_name, "m", 0, &now).await.is_err(), "{tenant}");
    }
}

#[tokio::test]
async fn a_denied_request_takes_nothing_from_any_limit() {
    let limiter = limiter(
        "limits: {per_caller: {requests_per_minute: 10}, per_model: {m: {requests_per_minute: 1}}}",
    );
    let (now, anna) = (begin(), caller("north", "anna"));
    drop(limiter.admit_at(&anna, "m", 0, &now).await.ok().unwrap());
    for _ in 0..20 {
        assert_eq!(why(limiter.admit_at(&anna, "m", 0, &now).await), Some(Reason::Requests));
    }
    let other = limiter.admit_at(&anna, "other", 0, &now).await.ok().unwrap();
    assert_eq!(other.levels.requests.unwrap().remaining, 8);
}

#[tokio::test]
async fn an_estimate_is_settled_with_what_was_used() {
    let limiter = limiter("limits: {per_caller: {tokens_per_minute: 1000}}");
    let (now, anna) = (begin(), caller("north", "anna"));
    let remaining = async || {
        let probe = limiter.admit_at(&anna, "m", 0, &now).await.ok().unwrap();
        probe.levels.tokens.unwrap().remaining
    };
    let asked = limiter.admit_at(&anna, "m", 100, &now).await.ok().unwrap();
    assert_eq!(remaining().await, 900);
    asked.spend(None, Some(80), Some(320), 0);
    assert_eq!(remaining().await, 600);
    // A second attempt of the same request comes on top.
    asked.spend(None, Some(80), Some(20), 0);
    drop(asked);
    assert_eq!(remaining().await, 500);
    // Nothing was asked: the estimate comes back.
    drop(limiter.admit_at(&anna, "m", 400, &now).await.ok().unwrap());
    assert_eq!(remaining().await, 500);
    // Its client left: prompt as estimated, reply by its bytes.
    limiter.admit_at(&anna, "m", 100, &now).await.ok().unwrap().spend(None, None, None, 400);
    assert_eq!(remaining().await, 300);
}

#[tokio::test]
async fn money_is_spent_by_the_day_and_the_next_day_is_new() {
    let limiter =
        limiter("limits: {per_caller: {cost_per_day: 1}}\nprices: {m: {input: 10, output: 100}}");
    let today = Now { day: Now::read().day, ..begin() };
    let anna = caller("north", "anna");
    let spend = async || {
        let asked = limiter.admit_at(&anna, "m", 10, &today).await.ok().unwrap();
        asked.spend(Some("m"), Some(1000), Some(4800), 0);
    };
    spend().await;
    spend().await;
    assert!(limiter.admit_at(&anna, "m", 10, &today).await.is_ok(), "0.98 of 1.00");
    spend().await;
    let limited = limiter.admit_at(&anna, "m", 10, &today).await.err().unwrap();
    assert_eq!(limited.denied.reason, Reason::CostToday);
    let reply = limited.reply();
    assert_eq!(reply.headers[RETRY_AFTER], "7200");
    assert_eq!(reply.headers["x-should-retry"], "false");
    let tomorrow = Now { day: today.day + 1, ..begin() };
    assert!(limiter.admit_at(&anna, "m", 10, &tomorrow).await.is_ok());
}

#[tokio::test]
async fn a_reply_shows_the_tightest_limit_in_openais_headers() {
    let limiter = limiter(
        "limits: {per_caller: {requests_per_minute: 60, tokens_per_minute: 6000}, \
         per_tenant: {requests_per_minute: 4}}",
    );
    let (now, anna) = (begin(), caller("north", "anna"));
    let allowance = limiter.admit_at(&anna, "m", 1000, &now).await.ok().unwrap();
    let mut reply = Reply::json(StatusCode::OK, "{}");
    allowance.put_on(&mut reply);
    for (name, expected) in [
        ("x-ratelimit-limit-requests", "4"),
        ("x-ratelimit-remaining-requests", "3"),
        ("x-ratelimit-reset-requests", "15s"),
        ("x-ratelimit-limit-tokens", "6000"),
        ("x-ratelimit-remaining-tokens", "5000"),
        ("x-ratelimit-reset-tokens", "10s"),
    ] {
        assert_eq!(reply.headers[name], expected, "{name}");
    }
}

#[tokio::test]
async fn who_must_wait_is_told_how_long() {
    let limiter = limiter("limits: {per_caller: {requests_per_minute: 2}}");
    let (now, anna) = (begin(), caller("north", "anna"));
    for _ in 0..2 {
        assert!(limiter.admit_at(&anna, "m", 0, &now).await.is_ok());
    }
    let reply = limiter.admit_at(&anna, "m", 0, &at(&now, 10)).await.err().unwrap().reply();
    assert_eq!(reply.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(reply.headers[RETRY_AFTER], "20");
    assert_eq!(reply.headers["x-ratelimit-remaining-requests"], "0");
    assert!(limiter.admit_at(&anna, "m", 0, &at(&now, 31)).await.is_ok());
}

#[tokio::test]
async fn other_limits_come_into_force_and_what_was_taken_stays_taken() {
    let limiter = limiter("limits: {per_caller: {requests_per_minute: 1}}");
    let (now, anna) = (begin(), caller("north", "anna"));
    assert!(limiter.admit_at(&anna, "m", 0, &now).await.is_ok());
    assert!(limiter.admit_at(&anna, "m", 0, &now).await.is_err());
    limiter.set(Quotas::default());
    assert!(limiter.admit_at(&anna, "m", 0, &now).await.is_ok());
    limiter.set(limiter_quotas("limits: {per_caller: {requests_per_minute: 1}}"));
    assert!(limiter.admit_at(&anna, "m", 0, &now).await.is_err());
}

fn limiter_quotas(yaml: &str) -> Quotas {
    (*limiter(yaml).quotas()).clone()
}

#[tokio::test]
async fn at_the_same_time_never_more_than_the_limit() {
    let limiter = limiter("limits: {per_caller: {concurrency: 3}}");
    let (now, anna) = (begin(), caller("north", "anna"));
    let mut held = Vec::new();
    for round in 0..50 {
        if round % 3 == 2 {
            held.pop();
        }
        match limiter.admit_at(&anna, "m", 0, &now).await {
            Ok(allowance) => held.push(allowance),
            Err(limited) => {
                assert_eq!((limited.denied.reason, held.len()), (Reason::Concurrency, 3));
            }
        }
        assert!(held.len() <= 3);
    }
}

#[test]
fn times_are_written_as_openai_writes_them() {
    for (ms, expected) in [
        (0, "0ms"),
        (120, "120ms"),
        (1000, "1s"),
        (1500, "1.5s"),
        (60_000, "1m0s"),
        (361_000, "6m1s"),
    ] {
        assert_eq!(in_words(Duration::from_millis(ms)), expected);
    }
}
