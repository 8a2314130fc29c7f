//! Limits as callers meet them, on a clock that the test holds, and as replicas count them together.

use std::collections::BTreeSet;

use hyper::StatusCode;
use hyper::header::RETRY_AFTER;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::net::tcp::OwnedReadHalf;
use tokio::sync::watch;

use super::*;
use crate::config::{Secret, SharedStateConfig};

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

impl Limiter {
    /// Admits a request without a reply, and lets it ask a model.
    async fn pass(
        self: &Arc<Self>,
        caller: &Caller,
        model: &str,
        tokens: u64,
        now: &Now,
    ) -> Result<Allowance, Limited> {
        let allowance = self.admit_at(caller, tokens, Some(0), now).await?;
        allowance.take_model_at(model, model, true, now).await?;
        Ok(allowance)
    }
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
            match limiter.pass(&anna, "m", tokens, &now).await {
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
        assert!(limiter.pass(&same_name, "m", 0, &now).await.is_ok(), "{tenant}");
        assert!(limiter.pass(&same_name, "m", 0, &now).await.is_err(), "{tenant}");
    }
}

#[tokio::test]
async fn a_denied_request_takes_nothing_from_any_limit() {
    let callers = "limits: {per_caller: {requests_per_minute: 10}";
    let limiter = limiter(&format!("{callers}, per_tenant: {{requests_per_minute: 1}}}}"));
    let (now, anna) = (begin(), caller("north", "anna"));
    drop(limiter.pass(&anna, "m", 0, &now).await.ok().unwrap());
    for _ in 0..20 {
        assert_eq!(why(limiter.pass(&anna, "m", 0, &now).await), Some(Reason::Requests));
    }
    limiter.set(limiter_quotas(&format!("{callers}}}")));
    let next = limiter.pass(&anna, "m", 0, &now).await.ok().unwrap();
    assert_eq!(next.levels().requests.unwrap().remaining, 8);
}

#[tokio::test]
async fn a_new_name_for_a_model_gets_no_fresh_limit_and_no_memory() {
    let limiter = limiter(
        "limits: {per_model: {gpt-5: {requests_per_minute: 2}, auto: {requests_per_minute: 1}, \
         \"*\": {requests_per_minute: 1}}}",
    );
    let (now, anna) = (begin(), caller("north", "anna"));
    for (model, client_name, expected) in [
        ("gpt-5", "auto", true),
        ("gpt-5", "auto", false),
        ("gpt-5", "my-name-for-it", true),
        ("gpt-5", "another", false),
        ("gpt-5-of-may", "gpt-5-of-may", true),
        ("gpt-5-of-june", "gpt-5-of-june", false),
    ] {
        let allowance = limiter.admit_at(&anna, 1, Some(1), &now).await.ok().unwrap();
        let taken = allowance.take_model_at(model, client_name, true, &now).await;
        assert_eq!(taken.is_ok(), expected, "{model} as {client_name}");
        // Another attempt at the same model is the same request.
        let again = allowance.take_model_at(model, client_name, true, &now).await;
        assert_eq!(again.is_ok(), expected, "{model} as {client_name}");
    }
    for number in 0..1000 {
        let allowance = limiter.admit_at(&anna, 1, Some(1), &now).await.ok().unwrap();
        let name = format!("name-{number}");
        assert!(allowance.take_model_at(&name, &name, true, &now).await.is_err());
    }
    assert_eq!(limiter.meters().len(), 3);
}

#[tokio::test]
async fn replies_under_way_at_the_same_time_do_not_overshoot() {
    for (limit, reply, expected) in [
        ("tokens_per_minute: 1000", Some(240), 4),
        ("tokens_per_day: 1000", Some(240), 4),
        ("tokens_per_minute: 1000", None, 3),
        ("tokens_per_minute: 100000", None, 96),
        ("tokens_per_minute: 1000", Some(1000), 0),
    ] {
        let limiter = limiter(&format!("limits: {{per_caller: {{{limit}}}}}"));
        let (now, anna) = (Now { day: Now::read().day, ..begin() }, caller("north", "anna"));
        let mut held = Vec::new();
        for _ in 0..200 {
            held.extend(limiter.admit_at(&anna, 10, reply, &now).await.ok());
        }
        assert_eq!(held.len(), expected, "{limit} {reply:?}");
        // What they did not use comes back.
        held.iter().for_each(|allowance| allowance.spend("m", true, Some(10), Some(0), 0));
        held.clear();
        let next = limiter.admit_at(&anna, 10, Some(10), &now).await;
        assert!(next.is_ok(), "{limit} {reply:?}");
    }
}

#[tokio::test]
async fn money_under_way_at_the_same_time_does_not_overshoot_and_the_edge_costs_none() {
    let limiter =
        limiter("limits: {per_caller: {cost_per_day: 1}}\nprices: {m: {input: 10, output: 100}}");
    let (now, anna) = (Now { day: Now::read().day, ..begin() }, caller("north", "anna"));
    let ask = async |model, is_priced| {
        let allowance = limiter.admit_at(&anna, 10, Some(4000), &now).await.ok().unwrap();
        allowance.take_model_at(model, model, is_priced, &now).await.map(|()| allowance)
    };
    let (one, two) = (ask("m", true).await.ok().unwrap(), ask("m", true).await.ok().unwrap());
    assert_eq!(why(ask("m", true).await), Some(Reason::CostToday), "three times 0.4001");
    assert!(ask("nano", false).await.is_ok());
    one.spend("m", true, Some(10), Some(10), 0);
    assert!(ask("m", true).await.is_ok(), "the first was shorter than it might have been");
    drop(two);
}

#[tokio::test]
async fn an_estimate_is_settled_with_what_was_used() {
    let limiter = limiter("limits: {per_caller: {tokens_per_minute: 1000}}");
    let (now, anna) = (begin(), caller("north", "anna"));
    let remaining = async || {
        let probe = limiter.pass(&anna, "m", 0, &now).await.ok().unwrap();
        probe.levels().tokens.unwrap().remaining
    };
    let asked = limiter.pass(&anna, "m", 100, &now).await.ok().unwrap();
    assert_eq!(remaining().await, 900);
    asked.spend("m", true, Some(80), Some(320), 0);
    assert_eq!(remaining().await, 600);
    // A second attempt of the same request comes on top.
    asked.spend("m", true, Some(80), Some(20), 0);
    drop(asked);
    assert_eq!(remaining().await, 500);
    // Nothing was asked: the estimate comes back.
    drop(limiter.pass(&anna, "m", 400, &now).await.ok().unwrap());
    assert_eq!(remaining().await, 500);
    // Its client left: prompt as estimated, reply by its bytes.
    limiter.pass(&anna, "m", 100, &now).await.ok().unwrap().spend("m", true, None, None, 400);
    assert_eq!(remaining().await, 300);
}

#[tokio::test]
async fn money_is_spent_by_the_day_and_the_next_day_is_new() {
    let limiter =
        limiter("limits: {per_caller: {cost_per_day: 1}}\nprices: {m: {input: 10, output: 100}}");
    let today = Now { day: Now::read().day, ..begin() };
    let anna = caller("north", "anna");
    let spend = async || {
        let asked = limiter.pass(&anna, "m", 10, &today).await.ok().unwrap();
        asked.spend("m", true, Some(1000), Some(4800), 0);
    };
    spend().await;
    spend().await;
    assert!(limiter.pass(&anna, "m", 10, &today).await.is_ok(), "0.98 of 1.00");
    spend().await;
    let limited = limiter.pass(&anna, "m", 10, &today).await.err().unwrap();
    assert_eq!(limited.denied.reason, Reason::CostToday);
    let reply = limited.reply();
    assert_eq!(reply.headers[RETRY_AFTER], "7200");
    assert_eq!(reply.headers["x-should-retry"], "false");
    let tomorrow = Now { day: today.day + 1, ..begin() };
    assert!(limiter.pass(&anna, "m", 10, &tomorrow).await.is_ok());
}

#[tokio::test]
async fn a_reply_shows_the_tightest_limit_in_openais_headers() {
    let limiter = limiter(
        "limits: {per_caller: {requests_per_minute: 60, tokens_per_minute: 6000}, \
         per_tenant: {requests_per_minute: 4}}",
    );
    let (now, anna) = (begin(), caller("north", "anna"));
    let allowance = limiter.pass(&anna, "m", 1000, &now).await.ok().unwrap();
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
        assert!(limiter.pass(&anna, "m", 0, &now).await.is_ok());
    }
    let reply = limiter.pass(&anna, "m", 0, &at(&now, 10)).await.err().unwrap().reply();
    assert_eq!(reply.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(reply.headers[RETRY_AFTER], "20");
    assert_eq!(reply.headers["x-ratelimit-remaining-requests"], "0");
    assert!(limiter.pass(&anna, "m", 0, &at(&now, 31)).await.is_ok());
}

#[tokio::test]
async fn other_limits_come_into_force_and_what_was_taken_stays_taken() {
    let limiter = limiter("limits: {per_caller: {requests_per_minute: 1}}");
    let (now, anna) = (begin(), caller("north", "anna"));
    assert!(limiter.pass(&anna, "m", 0, &now).await.is_ok());
    assert!(limiter.pass(&anna, "m", 0, &now).await.is_err());
    limiter.set(Quotas::default());
    assert!(limiter.pass(&anna, "m", 0, &now).await.is_ok());
    limiter.set(limiter_quotas("limits: {per_caller: {requests_per_minute: 1}}"));
    assert!(limiter.pass(&anna, "m", 0, &now).await.is_err());
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
        match limiter.pass(&anna, "m", 0, &now).await {
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

#[tokio::test(start_paused = true)]
async fn long_replies_do_not_give_back_what_time_has_forgotten() {
    let limiter = limiter("limits: {per_caller: {tokens_per_minute: 1000}}");
    let anna = caller("north", "anna");
    let mut held = Vec::new();
    for _ in 0..3 {
        held.extend(limiter.admit_at(&anna, 0, Some(900), &Now::read()).await.ok());
        tokio::time::advance(Duration::from_secs(60)).await;
    }
    assert_eq!(held.len(), 3);
    let mut passed = 0;
    while let Some(allowance) = held.pop() {
        while let Ok(next) = limiter.admit_at(&anna, 0, Some(100), &Now::read()).await {
            next.spend("m", true, Some(0), Some(100), 0);
            passed += 100;
        }
        drop(allowance);
    }
    assert!(limiter.admit_at(&anna, 0, Some(100), &Now::read()).await.is_err());
    assert_eq!(passed, 1000);
}

/// A server that lets every script through, once the test lets it answer.
struct Server {
    address: String,
    /// The numbers that each script came with.
    scripts: watch::Receiver<Vec<Vec<u64>>>,
    /// How many of them may be answered.
    answers: watch::Sender<usize>,
}

impl Server {
    async fn start() -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (seen, scripts) = watch::channel(Vec::new());
        let (answers, may_answer) = watch::channel(usize::MAX);
        #[expect(clippy::disallowed_methods, reason = "it ends with the test's runtime")]
        tokio::spawn(async move {
            let mut links = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (seen, mut may_answer) = (seen.clone(), may_answer.clone());
                links.spawn(async move {
                    let (reader, mut writer) = stream.into_split();
                    let mut reader = BufReader::new(reader);
                    while let Some(words) = read_command(&mut reader).await {
                        let mut answer = "+OK\r\n".to_owned();
                        if words[0] == "EVALSHA" {
                            let numbers = words[2..].iter().filter_map(|word| word.parse().ok());
                            let numbers = numbers.collect();
                            seen.send_modify(|seen| seen.push(numbers));
                            let count = seen.borrow().len();
                            may_answer.wait_for(|most| count <= *most).await.unwrap();
                            answer = "*6\r\n:0\r\n:0\r\n:0\r\n:1700000000000000\r\n:0\r\n:0\r\n"
                                .to_owned();
                        }
                        if writer.write_all(answer.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Server { address, scripts, answers }
    }

    /// What the first scripts came with, when there are so many.
    async fn scripts(&self, count: usize) -> Vec<Vec<u64>> {
        let mut scripts = self.scripts.clone();
        let all = scripts.wait_for(|scripts| scripts.len() >= count).await.unwrap();
        all[..count].to_vec()
    }

    fn limiter(&self, yaml: &str, timeout: Duration) -> Arc<Limiter> {
        let shared = SharedStateConfig {
            redis: format!("redis://{}/0", self.address),
            user: None,
            password: None,
            key: Secret::new("a secret of all replicas".into()),
            taint_keep: Duration::from_secs(60),
            timeout,
        };
        let shared = SharedState::open(shared).unwrap();
        Arc::new(Limiter::new(limiter_quotas(yaml), Some(shared)))
    }
}

async fn read_command(reader: &mut BufReader<OwnedReadHalf>) -> Option<Vec<String>> {
    let mut words = Vec::new();
    for _ in 0..read_number(reader).await? {
        let mut bytes = vec![0; read_number(reader).await? + 2];
        reader.read_exact(&mut bytes).await.ok()?;
        words.push(String::from_utf8(bytes).unwrap().trim().to_owned());
    }
    Some(words)
}

async fn read_number(reader: &mut BufReader<OwnedReadHalf>) -> Option<usize> {
    let mut line = String::new();
    reader.read_line(&mut line).await.ok()?;
    line.trim().get(1..)?.parse().ok()
}

const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_client_that_leaves_while_replicas_are_asked_leaves_nothing_behind() {
    let server = Server::start().await;
    let limits = "limits: {per_caller: {tokens_per_day: 1000, cost_per_day: 1}, \
                  per_model: {m: {concurrency: 1}}}\nprices: {m: {input: 10, output: 100}}";
    let limiter = server.limiter(limits, LONG);
    let (now, anna) = (begin(), caller("north", "anna"));
    let request = async || {
        let allowance = limiter.admit_at(&anna, 10, Some(300), &now).await.ok().unwrap();
        allowance.take_model_at("m", "m", true, &now).await
    };
    // It asks for its own limits, then for those of the model, then for money.
    for step in 1..=3 {
        let before = server.scripts.borrow().len();
        server.answers.send_replace(before + step - 1);
        tokio::select! {
            _ = request() => panic!("it was not answered"),
            _ = server.scripts(before + step) => {}
        }
        server.answers.send_replace(usize::MAX);
        let scripts = server.scripts(before + 2 * step).await;
        let (takes, settled) = scripts[before..].split_at(step);
        for (what, expected) in [("tokens", 2), ("cost", 3)] {
            let taken: u64 = takes.iter().map(|numbers| numbers[expected]).sum();
            let back: u64 = settled.iter().map(|numbers| numbers[expected - 1]).sum();
            assert_eq!(back, taken, "{what} at step {step}");
        }
        assert!(settled.iter().all(|numbers| numbers[4..6] == [0, 0]), "{settled:?}");
    }
    assert!(request().await.is_ok(), "none of them runs any more");
}

#[tokio::test]
async fn what_replicas_reserve_too_late_is_given_back() {
    let server = Server::start().await;
    let limits = "limits: {per_caller: {tokens_per_day: 1000}}";
    let limiter = server.limiter(limits, Duration::from_millis(100));
    let (now, anna) = (begin(), caller("north", "anna"));
    server.answers.send_replace(0);
    let counted_here = limiter.admit_at(&anna, 10, Some(300), &now).await;
    server.answers.send_replace(usize::MAX);
    let scripts = server.scripts(2).await;
    assert_eq!((scripts[0][2], scripts[1][1]), (310, 310));
    drop(counted_here);
    assert_eq!(server.scripts.borrow().len(), 2);
}

#[tokio::test]
async fn what_too_many_at_once_turn_away_is_not_counted_by_replicas() {
    let server = Server::start().await;
    let limits = "limits: {per_caller: {requests_per_minute: 6, concurrency: 1}}";
    let limiter = server.limiter(limits, LONG);
    let (now, anna) = (begin(), caller("north", "anna"));
    let running = limiter.admit_at(&anna, 1, Some(1), &now).await.ok().unwrap();
    for _ in 0..6 {
        let denied = limiter.admit_at(&anna, 1, Some(1), &now).await;
        assert_eq!(why(denied), Some(Reason::Concurrency));
    }
    assert_eq!(server.scripts.borrow().len(), 1);
    drop(running);
    assert!(limiter.admit_at(&anna, 1, Some(1), &now).await.is_ok());
}
