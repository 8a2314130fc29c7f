//! Random traffic, random faults, random policy files, all at once: what must hold, holds.
//!
//! One number decides the mix, and is printed: the same seed gives the same requests, faults and files
//! (not the same interleaving, which is the point). Clients ask over real sockets, each one thing after
//! another and all of them at once, in rounds. Within a round servers break off, stay silent, talk rubbish
//! or give away a card number, clients leave, there are too few places, and the policy file is swapped for
//! a stricter or a broken one; some rounds pass with the network declared away.
//!
//! One invariant is looked at as it happens: a request that reaches a server finds its attempt on record.
//! Most are after each request, once its record has its end: no cloud has got a private byte, nothing is
//! shown, the reply says what the record says and holds its own text and no other's. What needs all to be
//! quiet (nothing left in flight, all books agree) is checked after each round, and so is what became of
//! requests whose clients left: nobody knows when they end.
//!
//! Inside: `traffic` (what is asked, and what must never leave), `site` (config and policy files), `books`
//! (the audit log as it grows), `logs`, `checks` (the invariants).
//!
//! `SLUICE_SEED=7 SLUICE_SIM_REQUESTS=20000 cargo test -p sluice-tests --test it -- sim` is a long run of
//! another mix.

mod books;
mod checks;
pub(crate) mod logs;
mod site;
mod traffic;

use std::cell::{Cell, RefCell};

use futures_util::future::join_all;
use hyper::Method;
use serde_json::json;

use crate::cloud::{Cloud, Script, http};
use crate::gateway::{Gateway, Reply};
use books::Books;
use checks::Checks;
use site::{Site, Upstreams};
use traffic::{Call, Client, Patience};

const REQUESTS: u64 = 2000;
const CLIENTS: usize = 16;
/// Requests of each client in a round, and in one without a network, where the edge answers all.
const TURNS: u64 = 8;
const TURNS_OFFLINE: u64 = 2;
/// What a server tells unasked.
const GIVEN_AWAY: &str = "The card on file is 4539 5787 6362 1486, shall I go on?";

/// A small generator: the same numbers on every machine.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    pub(crate) fn one_in(&mut self, sides: u64) -> bool {
        self.roll(sides) == 0
    }

    pub(crate) fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.roll(list.len() as u64) as usize]
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// What a server does instead of answering.
fn fault(dice: &mut Dice) -> Script {
    let raw = |status, kind, body: &[u8]| Script::Raw(http(status, kind, body));
    match dice.roll(11) {
        0 => raw("500 Oh", "text/plain", b"no"),
        1 => Script::Raw(Vec::new()),
        2 => Script::BreakMidEvent,
        3 => raw("200 OK", "text/html", b"<html>"),
        4 => raw("429 Slow", "application/json", b"{}"),
        5 => raw("401 No", "application/json", b"{}"),
        6 => raw("200 OK", "application/json", b"{\"id\":"),
        7 => Script::StallMidStream,
        8 => Script::Silence,
        9 => Script::Say(GIVEN_AWAY),
        _ => raw("400 Bad", "application/json", br#"{"error":{"message":"no"}}"#),
    }
}

/// A run under way.
struct Run {
    gateway: Gateway,
    upstreams: Upstreams,
    books: Books,
    checks: RefCell<Checks>,
    /// The policies in force keep what is tagged `guarded`; while they change, nobody counts on it.
    guards: Cell<bool>,
}

impl Run {
    async fn start(seed: u64) -> (Run, Site, Vec<Client>) {
        let logs = logs::keep();
        let upstreams = Upstreams {
            ward: Cloud::start(Script::Echo).await,
            openai: Cloud::start(Script::Echo).await,
            anthropic: Cloud::start(Script::Echo).await,
        };
        let folder = tempfile::tempdir().unwrap();
        let site = Site::write(&upstreams.ward, folder.path());
        let key = site::write_key(folder.path());
        let gateway = Gateway::start_in(folder, &upstreams.config()).await;
        let books = Books::read(&gateway.audit_folder());
        for (name, cloud) in upstreams.all() {
            let books = books.clone();
            cloud.watch(move |requests| books.arrived(name, requests));
        }
        let checks = RefCell::new(Checks::new(books.clone(), logs, seed));
        let mut clients: Vec<_> = (0..CLIENTS).map(|number| Client::new(seed, number)).collect();
        clients[0].key = Some(key);
        (Run { gateway, upstreams, books, checks, guards: Cell::new(false) }, site, clients)
    }

    async fn ask(&self, call: &Call) -> Option<Reply> {
        let (headers, body) = (call.headers(), call.body.to_string());
        let asked = self.gateway.send(Method::POST, call.dialect.path(), &headers, body);
        match call.patience {
            Patience::Waits => Some(asked.await),
            Patience::Leaves(after) => tokio::time::timeout(after, asked).await.ok(),
        }
    }

    /// What one client asks in a round.
    async fn turns(&self, client: &mut Client, turns: u64) {
        for _ in 0..turns {
            if client.dice().one_in(5) {
                let strikes = client.dice().roll(3) as usize;
                self.upstreams.all()[strikes].1.once(fault(client.dice()));
            }
            let call = client.next(self.guards.get());
            let reply = self.ask(&call).await;
            let lines = match &reply {
                Some(reply) => checks::ended(&self.books, reply).await,
                None => Vec::new(),
            };
            if !lines.is_empty() {
                let gave_away = lines.iter().any(|line| line["reply_finding"] == true);
                client.learn(&call, gave_away);
            }
            let mut checks = self.checks.borrow_mut();
            checks.after(&call, reply.as_ref(), &lines);
            checks.at_any_time(&self.upstreams);
        }
    }

    /// A round of all clients; then all is quiet.
    async fn round(&self, clients: &mut [Client], turns: u64) {
        join_all(clients.iter_mut().map(|client| self.turns(client, turns))).await;
        let metrics = checks::quiet(&self.gateway, &self.books).await;
        let mut checks = self.checks.borrow_mut();
        checks.at_any_time(&self.upstreams);
        checks.when_quiet(&metrics);
    }

    /// A round in which the policy file is changed: it comes into force at any moment of it, and decides
    /// none of its secrets.
    async fn round_with(
        &self,
        clients: &mut [Client],
        site: &mut Site,
        dice: &mut Dice,
        done: f64,
    ) {
        let folder = self.gateway.folder();
        if dice.one_in(3) {
            site.spoil(folder);
            return self.round_with_reload(clients, 422).await;
        }
        let trusted = site.vouches;
        site.change(folder, done);
        // It is noticed by itself, too.
        match dice.one_in(2) {
            true => self.round_with_reload(clients, 200).await,
            false => self.round(clients, TURNS).await,
        }
        let version = site.version();
        self.gateway.ready_when(|detail| detail["policy"]["version"] == *version).await;
        self.guards.set(site.guards);
        self.checks.borrow_mut().may_show = site.shows();
        if trusted && !site.vouches {
            self.checks.borrow_mut().distrust(&self.upstreams);
        }
    }

    /// A round in which an operator has all files read again, and is answered so.
    async fn round_with_reload(&self, clients: &mut [Client], status: u16) {
        let reload = self.gateway.operate(Method::POST, "/admin/v1/reload", "");
        let (reply, ()) = tokio::join!(reload, self.round(clients, TURNS));
        assert_eq!(reply.status, status, "{}", reply.text());
    }

    /// A round with the network declared away: no cloud hears of it; what the edge cannot answer, a server
    /// on the premises may.
    async fn round_offline(&self, clients: &mut [Client]) {
        let offline = "/admin/v1/offline";
        let why = json!({"reason": "a drill", "by": "the simulation"}).to_string();
        let reply = self.gateway.operate(Method::POST, offline, why).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let bytes = || self.checks.borrow().bytes_in_clouds(&self.upstreams);
        let before = bytes();
        self.checks.borrow_mut().is_offline = true;
        self.round(clients, TURNS_OFFLINE).await;
        self.checks.borrow_mut().is_offline = false;
        assert_eq!(bytes(), before, "a cloud was asked while the network was declared away");
        let reply = self.gateway.operate(Method::DELETE, offline, "").await;
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_comes_nothing_private_leaves_and_everything_is_accounted_for() {
    let (seed, requests) = (number("SLUICE_SEED", 42), number("SLUICE_SIM_REQUESTS", REQUESTS));
    println!("SLUICE_SEED={seed} SLUICE_SIM_REQUESTS={requests}");
    let mut dice = Dice(seed);
    let (run, mut site, mut clients) = Run::start(seed).await;
    for round in 0.. {
        let asked = run.checks.borrow().asked();
        if asked >= requests {
            break;
        }
        let done = asked as f64 / requests as f64;
        match round % 4 {
            1 | 3 => run.round_with(&mut clients, &mut site, &mut dice, done).await,
            2 => run.round_offline(&mut clients).await,
            _ => run.round(&mut clients, TURNS).await,
        }
    }
    run.checks.borrow().all_was_met();
}
