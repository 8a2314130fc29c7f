//! Random traffic, random faults, random policy files, all at once: what must hold, holds.
//!
//! One number decides the mix, and is printed: the same seed gives the same requests, moods and files
//! (not the same interleaving, which is the point). Requests come in batches over real sockets; between
//! two batches the clouds change their minds and the policy file is swapped for a newer one, a stricter
//! one or a broken one. Inside: `traffic` (what is asked, and what must never leave), `checks` (the
//! invariants).
//!
//! `SLUICE_SEED=7 SLUICE_SIM_REQUESTS=5000 cargo test -p sluice-tests --test it -- sim` is a long run of
//! another mix.

mod checks;
mod logs;
mod traffic;

use std::path::Path;

use serde_json::Value;

use crate::cloud::{Cloud, Script, http};
use crate::gateway::{Gateway, with_upstreams};
use checks::Tally;
use traffic::{Patience, Traffic};

/// A few seconds of a test run.
const REQUESTS: u64 = 320;
const AT_ONCE: usize = 16;

const SITE: &str = include_str!("../../policies/site.yaml");

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

fn mood(dice: &mut Dice) -> Script {
    let raw = |status, kind, body: &[u8]| Script::Raw(http(status, kind, body));
    match dice.roll(14) {
        0 => raw("500 Oh", "text/plain", b"no"),
        1 => Script::Raw(Vec::new()),
        2 => Script::BreakMidEvent,
        3 => raw("200 OK", "text/html", b"<html>"),
        4 => raw("429 Slow", "application/json", b"{}"),
        5 => raw("401 No", "application/json", b"{}"),
        6 => raw("200 OK", "application/json", b"{\"id\":"),
        7 => Script::StallMidStream,
        8 => Script::Silence,
        9 => raw("400 Bad", "application/json", br#"{"error":{"message":"no"}}"#),
        _ => Script::Answer,
    }
}

/// An edge and two clouds that are soon given up.
fn config(clouds: &[Cloud; 2]) -> String {
    let cloud = |name: &str, cloud: &Cloud, more: &str| {
        format!(
            "  {name}:\n    kind: openai\n    base_url: \"http://{}/v1\"\n{more}    timeouts: \
             {{connect: 1s, first_byte: 300ms, idle: 200ms, total: 5s}}\n",
            cloud.address
        )
    };
    let clouds = cloud("first", &clouds[0], "    capabilities: {quality: general}\n")
        + &cloud("second", &clouds[1], "    capabilities: {tools: false}\n");
    format!("{}policy: {{site: $FOLDER/site.yaml}}\n", with_upstreams(&clouds))
}

/// The policy file, swapped as an officer's tool would.
struct Site {
    version: u64,
    /// Requests tagged so are private from now on: what tightens stays.
    guarded: bool,
}

impl Site {
    fn text(&self) -> String {
        let tests = SITE.find("# Where requests go").unwrap();
        let site = SITE[..tests]
            .replace("version: \"1.0.0\"", &format!("version: \"1.0.{}\"", self.version));
        let rule = "extends:\n  default:\n    rules:\n      - {id: SIM-001, title: A tag of the \
            simulation, when: {tag: guarded}, then: {class: regulated, because: It says so}}\n";
        if self.guarded { site + rule } else { site }
    }

    /// Writes the next file; `true` if it is one that can come into force.
    fn change(&mut self, folder: &Path, dice: &mut Dice) -> bool {
        if dice.one_in(3) {
            let broken = self.text().replace("caller_unknown:", "caller_unknwon:");
            std::fs::write(folder.join("site.yaml"), broken).unwrap();
            return false;
        }
        self.version += 1;
        self.guarded |= self.version > 1;
        std::fs::write(folder.join("site.yaml"), self.text()).unwrap();
        true
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_comes_nothing_private_leaves_and_everything_is_accounted_for() {
    let (seed, requests) = (number("SLUICE_SEED", 42), number("SLUICE_SIM_REQUESTS", REQUESTS));
    println!("SLUICE_SEED={seed} SLUICE_SIM_REQUESTS={requests}");
    let logs = logs::keep();
    let mut dice = Dice(seed);
    let clouds = [Cloud::start(Script::Answer).await, Cloud::start(Script::Answer).await];
    let folder = tempfile::tempdir().unwrap();
    let mut site = Site { version: 0, guarded: false };
    std::fs::write(folder.path().join("site.yaml"), site.text()).unwrap();
    let gateway = Gateway::start_in(folder, &config(&clouds)).await;
    let mut traffic = Traffic::new(seed);
    let mut tally = Tally::default();
    let mut batches = 0;
    while tally.asked < requests {
        clouds.iter().for_each(|cloud| cloud.follow(mood(&mut dice)));
        // A file that may come into force at any moment of this batch decides none of its secrets.
        if batches % 8 == 3 && site.change(gateway.folder(), &mut dice) {
            let wanted = format!("1.0.{}", site.version);
            gateway.ready_when(|detail| detail["policy"]["version"] == *wanted).await;
            traffic.guarded = site.guarded;
        }
        let batch: Vec<_> = (0..AT_ONCE).map(|_| traffic.next(&mut dice)).collect();
        let asked = batch.iter().map(|request| async {
            let (headers, body) = (request.headers(), request.body.to_string());
            let call = gateway.send(hyper::Method::POST, request.path, &headers, body);
            match request.patience {
                Patience::Waits => Some(call.await),
                Patience::Leaves(after) => tokio::time::timeout(after, call).await.ok(),
            }
        });
        let replies = futures_util::future::join_all(asked).await;
        for (request, reply) in batch.iter().zip(&replies) {
            tally.count(request, reply.as_ref());
            traffic.learn(request, reply.is_some());
        }
        checks::nothing_private_left(&clouds, &traffic);
        batches += 1;
    }
    gateway.idle().await;
    checks::books_balance(&gateway, &tally).await;
    let shown = [logs.text(), gateway.probe("/metrics").await.text(), audit_text(&gateway)];
    checks::nothing_is_shown(&shown, &traffic);
    assert!(clouds.iter().all(|cloud| cloud.seen().contains("plain")), "a cloud was never asked");
    assert!(tally.by_route["edge"] > 0 && tally.by_route["cloud"] > 0, "{:?}", tally.by_route);
}

fn audit_text(gateway: &Gateway) -> String {
    gateway.audit().iter().map(Value::to_string).collect()
}
