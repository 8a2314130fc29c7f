//! Many requests at once against a cloud that keeps changing its mind: what must hold, holds.
//!
//! The mix comes from a seed that is printed; the same seed gives the same requests and moods (not
//! the same interleaving, which is the point).

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::cloud::{Cloud, Script, http};
use crate::gateway::{Gateway, Reply, say, shows_card, with_cloud};

const REQUESTS: u64 = 160;
const AT_ONCE: usize = 16;

/// A small generator: the same numbers on every machine.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

fn mood(dice: &mut Dice) -> Script {
    match dice.roll(6) {
        0 => Script::Raw(http("500 Oh", "text/plain", b"no")),
        1 => Script::Raw(Vec::new()),
        2 => Script::BreakMidEvent,
        3 => Script::Raw(http("200 OK", "text/html", b"<html>")),
        _ => Script::Answer,
    }
}

fn request(number: u64, dice: &mut Dice) -> (Value, bool) {
    let private = dice.roll(3) == 0;
    let text = match private {
        true => format!("canary{number}: refund the card 4539 5787 6362 1486"),
        false => format!("public{number}: name a river"),
    };
    let mut body = say(&text);
    body["max_tokens"] = json!(1 + dice.roll(3));
    body["stream"] = json!(dice.roll(2) == 0);
    (body, private)
}

fn check(reply: &Reply, private: bool) {
    let route = reply.header("x-sluice-route");
    assert!(!(private && route == "cloud"), "a private request went to the cloud");
    assert!(!reply.header("x-sluice-decision").is_empty(), "{}", reply.text());
    assert!(matches!(reply.status.as_u16(), 200 | 503), "{}", reply.text());
    assert!(matches!(route, "edge" | "cloud" | "refuse"), "{route}");
}

/// Every attempt has one outcome, every line its number.
fn check_audit(lines: &[Value]) {
    let mut open = BTreeMap::<String, i64>::new();
    for (line, seq) in lines.iter().zip(1..) {
        assert_eq!(line["seq"].as_u64(), Some(seq));
        let key = format!("{}#{}", line["id"], line["attempt"]);
        match line["kind"].as_str().unwrap() {
            "attempt" => *open.entry(key).or_default() += 1,
            "outcome" => *open.entry(key).or_default() -= 1,
            other => assert!(["refusal", "policy"].contains(&other), "{other}"),
        }
    }
    assert!(open.values().all(|&left| left == 0), "attempts without an outcome: {open:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_private_byte_reaches_a_moody_cloud_and_everything_is_accounted_for() {
    let seed = std::env::var("SLUICE_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(42);
    println!("SLUICE_SEED={seed}");
    let mut dice = Dice(seed);
    let cloud = Cloud::start(Script::Answer).await;
    let gateway = Gateway::start(&with_cloud(cloud.address, "")).await;
    let mut number = 0;
    while number < REQUESTS {
        cloud.follow(mood(&mut dice));
        let batch: Vec<_> = (0..AT_ONCE as u64).map(|i| request(number + i, &mut dice)).collect();
        let asked = batch.iter().map(|(body, private)| async {
            check(&gateway.chat(body.clone()).await, *private);
        });
        futures_util::future::join_all(asked).await;
        number += AT_ONCE as u64;
    }
    gateway.idle().await;
    let seen = cloud.seen();
    assert!(seen.contains("public"), "the cloud was never asked");
    assert!(!seen.contains("canary") && !shows_card(&seen), "private bytes reached the cloud");
    let lines = gateway.audit();
    assert!(lines.len() as u64 >= 2 * REQUESTS);
    check_audit(&lines);
    assert_eq!(gateway.metric("sluice_audit_write_failures ").await, 0.0);
}
