//! What must hold after every request, and whenever all is quiet.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::GIVEN_AWAY;
use super::books::Books;
use super::logs::Logs;
use super::site::{REQUESTS_PER_MINUTE, Upstreams};
use super::traffic::{Call, PERSON, PLAIN, canary};
use crate::cloud::Cloud;
use crate::dialect::Dialect;
use crate::gateway::{CARD, Gateway, Reply, shows_card};

/// Bytes that are looked at again, so that nothing hides between two looks.
const OVERLAP: usize = 128;

/// What the clients of a run saw, and how far everything was looked through.
pub(crate) struct Checks {
    books: Books,
    logs: Logs,
    logs_seen: usize,
    canary: String,
    /// How far the bytes of each cloud were looked through, by its place among the upstreams; where a
    /// server may have private text, nobody looks.
    clouds_seen: [Option<usize>; 3],
    started: Instant,
    pub(crate) is_offline: bool,
    /// The policies in force, or those before, let a reply pass that gives away what is private.
    pub(crate) may_show: bool,
    asked: u64,
    /// Clients that left before the end of their reply.
    left: u64,
    /// Replies with a decision, by route.
    by_route: BTreeMap<String, u64>,
    /// Requests beyond the limit of their caller, and those within.
    limited: u64,
    within_limit: u64,
    /// Requests for which there was no place.
    overloaded: u64,
    /// Replies that gave away what is private.
    given_away: u64,
    /// Requests whose personal data left as placeholders.
    redacted: u64,
    /// Whose whole replies in which dialect came back as the server said them.
    repeated: BTreeSet<(String, Dialect)>,
}

impl Checks {
    pub(crate) fn new(books: Books, logs: Logs, seed: u64) -> Checks {
        Checks {
            books,
            logs_seen: logs.len(),
            logs,
            canary: canary(seed),
            clouds_seen: [None, Some(0), Some(0)],
            started: Instant::now(),
            is_offline: false,
            may_show: true,
            asked: 0,
            left: 0,
            by_route: BTreeMap::new(),
            limited: 0,
            within_limit: 0,
            overloaded: 0,
            given_away: 0,
            redacted: 0,
            repeated: BTreeSet::new(),
        }
    }

    pub(crate) fn asked(&self) -> u64 {
        self.asked
    }

    /// The bytes that each cloud has got so far.
    pub(crate) fn bytes_in_clouds(&self, upstreams: &Upstreams) -> Vec<usize> {
        let clouds = upstreams.all().into_iter().zip(&self.clouds_seen);
        clouds
            .filter(|(_, seen)| seen.is_some())
            .map(|((_, cloud), _)| cloud.seen_bytes())
            .collect()
    }

    /// Nobody vouches for the server on the premises any more: from here on it is a cloud.
    pub(crate) fn distrust(&mut self, upstreams: &Upstreams) {
        let bytes = upstreams.ward.seen_bytes();
        self.clouds_seen[0].get_or_insert(bytes + OVERLAP);
    }

    /// Checks a request that has ended: `lines` are about it, if it has a decision.
    pub(crate) fn after(&mut self, call: &Call, reply: Option<&Reply>, lines: &[Value]) {
        self.asked += 1;
        let Some(reply) = reply else {
            self.left += 1;
            return;
        };
        self.nothing_foreign(call, reply);
        let route = reply.header("x-sluice-route");
        if route.is_empty() {
            return self.turned_away(call, reply);
        }
        let status = reply.status.as_u16();
        assert!(!(call.private && route == "cloud"), "a private request went to the cloud");
        let routes = ["edge", "on_prem", "cloud", "refuse"];
        assert!(routes.contains(&route), "{route:?}: {}", reply.text());
        assert!(!self.is_offline || route != "cloud", "the cloud while it is declared away");
        for name in ["upstream", "class", "labels", "rule", "decision", "model-quality"] {
            let value = reply.header(&format!("x-sluice-{name}"));
            assert!(!value.is_empty(), "{name} is missing: {}", reply.text());
        }
        let expected = [200, 400, 403, 429, 502, 503, 504];
        assert!(expected.contains(&status), "{status}: {}", reply.text());
        assert!(route != "edge" || status == 200, "the edge said {status}: {}", reply.text());
        self.on_record(call, reply, lines);
        self.within_limit += u64::from(call.is_limited());
        self.redacted += u64::from(!reply.header("x-sluice-redacted").is_empty());
        *self.by_route.entry(route.to_owned()).or_default() += 1;
    }

    /// No reply holds another's text, and no error holds any.
    fn nothing_foreign(&self, call: &Call, reply: &Reply) {
        // What the embedded model makes of a text is anybody's guess.
        if reply.header("x-sluice-route") == "edge" {
            return;
        }
        let is_whole = reply.header("content-type").starts_with("application/json");
        let streamed = (!is_whole).then(|| call.dialect.said(reply)).flatten();
        let text = streamed.unwrap_or_else(|| reply.text());
        let told = if reply.status == 200 { call.marker.as_str() } else { "nothing" };
        for marker in [&self.canary, PLAIN] {
            for (at, _) in text.match_indices(marker) {
                let rest = &text[at + marker.len()..];
                // A stream may end within it.
                let is_own = rest.starts_with(told) || told.starts_with(rest);
                assert!(is_own, "{} was asked: {text}", call.marker);
            }
        }
    }

    /// Turned away before a decision: the dialect's own error, and when to come back.
    fn turned_away(&mut self, call: &Call, reply: &Reply) {
        let seconds: u64 = reply.header("retry-after").parse().unwrap();
        assert!((1..=60).contains(&seconds), "{seconds}");
        let json = reply.json();
        let (kind, code) = match (reply.status.as_u16(), call.dialect) {
            (429, _) => ("rate_limit_error", "rate_limit_exceeded"),
            (503, Dialect::Messages) => ("overloaded_error", ""),
            (503, _) => ("service_unavailable_error", "overloaded"),
            (status, _) => panic!("{status}: {json}"),
        };
        assert_eq!(json["error"]["type"], kind, "{json}");
        match call.dialect {
            Dialect::Messages => assert_eq!(json["type"], "error"),
            _ => assert_eq!(json["error"]["code"], code, "{json}"),
        }
        match reply.status.as_u16() {
            429 => {
                assert!(call.is_limited(), "a caller without limits is limited");
                self.limited += 1;
            }
            _ => self.overloaded += 1,
        }
    }

    /// The record says what the reply says.
    fn on_record(&mut self, call: &Call, reply: &Reply, lines: &[Value]) {
        let header = |name: &str| reply.header(&format!("x-sluice-{name}"));
        let kind = |kind: &'static str| lines.iter().filter(move |line| line["kind"] == kind);
        let decided = kind("attempt").chain(kind("refusal")).next_back();
        let decided = decided.unwrap_or_else(|| panic!("no decision is on record: {lines:?}"));
        assert_eq!(decided["class"], header("class"), "{decided}");
        assert_eq!(kind("attempt").count(), kind("outcome").count(), "{lines:?}");
        let allowed = decided["allowed"].as_array().unwrap();
        let is_open = allowed.iter().any(|name| name == "openai" || name == "anthropic");
        assert!(!(call.private && is_open), "it was not seen that this is private: {decided}");
        if header("route") == "refuse" {
            assert_eq!(kind("refusal").count(), 1, "{lines:?}");
            return;
        }
        // Of two that race, either may have answered.
        let from = header("upstream");
        let outcome = kind("outcome").rfind(|line| line["upstream"] == from);
        let outcome = outcome.unwrap_or_else(|| panic!("{from} was never asked: {lines:?}"));
        let gave_away = outcome["reply_finding"] == true;
        self.given_away += u64::from(gave_away);
        let Some(said) = call.dialect.said(reply).filter(|_| from != "edge") else { return };
        // Who asks for what is private may hear it.
        let is_private = decided["never_cloud"] == true;
        let may_show = self.may_show || is_private || call.text.contains(CARD);
        assert!(may_show || !shows_card(&said), "a reply gives away what is private: {said}");
        if outcome["ending"] == "complete" && !gave_away && reply.status == 200 {
            // All of it and nothing else, values in the place of placeholders.
            assert!(said == call.text || is_private && said == GIVEN_AWAY, "{}", reply.text());
            self.repeated.insert((from.to_owned(), call.dialect));
        }
    }

    /// No cloud has got a byte of what is private, nothing shows the text of a request, and the books are
    /// in order so far.
    pub(crate) fn at_any_time(&mut self, upstreams: &Upstreams) {
        for ((name, cloud), seen) in upstreams.all().into_iter().zip(&mut self.clouds_seen) {
            let Some(seen) = seen else { continue };
            let leaked = |text: &str| {
                text.contains(&self.canary) || shows_card(text) || text.contains(PERSON)
            };
            assert!(!leaked(&look_on(cloud, seen)), "private bytes reached {name}");
        }
        let logged = self.logs.from(self.logs_seen.saturating_sub(OVERLAP));
        self.logs_seen = self.logs.len();
        self.nothing_is_shown(&logged);
        self.nothing_is_shown(&self.books.unseen());
    }

    /// Logs, metrics and audit records show no text of any request.
    fn nothing_is_shown(&self, text: &str) {
        for word in [&self.canary, PLAIN, PERSON] {
            assert!(!text.contains(word), "the text of a request is shown");
        }
    }

    /// What was answered, what is on record and what was counted agree, and nothing is left over.
    pub(crate) fn when_quiet(&self, metrics: &str) {
        let attempts = self.books.attempts();
        self.nothing_is_shown(metrics);
        let counted = sum(metrics, "sluice_attempts_total{");
        // Who leaves while the record is written was never asked for.
        let on_record = counted..=counted + self.left;
        assert!(on_record.contains(&attempts), "{counted} attempts counted, {attempts} on record");
        let requests = sum(metrics, "sluice_requests_total{");
        let answered = self.by_route.values().sum::<u64>();
        let most = answered + self.left;
        assert!((answered..=most).contains(&requests), "{requests} of at most {most} requests");
        for (reason, told) in [("limited", self.limited), ("overloaded", self.overloaded)] {
            let line = format!("sluice_rejected_total{{reason=\"{reason}\"}}");
            let (counted, most) = (sum(metrics, &line), told + self.left);
            assert!((told..=most).contains(&counted), "{reason}: {counted}, of at most {most}");
        }
        assert_eq!(sum(metrics, "sluice_audit_write_failures "), 0);
        let minutes = self.started.elapsed().as_secs_f64() / 60.0;
        let allowed = REQUESTS_PER_MINUTE as f64 * (1.0 + minutes);
        assert!(self.within_limit as f64 <= allowed, "{} of {allowed}", self.within_limit);
    }

    /// A run that met nothing has shown nothing.
    pub(crate) fn all_was_met(&self) {
        for route in ["edge", "on_prem", "cloud", "refuse"] {
            assert!(self.by_route.contains_key(route), "{route}: {:?}", self.by_route);
        }
        let met = [
            ("limited", self.limited),
            ("overloaded", self.overloaded),
            ("redacted", self.redacted),
            ("given away", self.given_away),
            ("left", self.left),
        ];
        assert!(met.iter().all(|(_, count)| *count > 0), "{met:?}, {:?}", self.by_route);
        for upstream in ["openai", "anthropic"] {
            let dialects = self.repeated.iter().filter(|(name, _)| name == upstream);
            assert!(dialects.count() >= 4, "{upstream}: {:?}", self.repeated);
        }
    }
}

/// What came in since the last look, and a bit before it.
fn look_on(cloud: &Cloud, seen: &mut usize) -> String {
    let start = seen.saturating_sub(OVERLAP);
    *seen = (*seen).max(cloud.seen_bytes());
    cloud.seen_from(start)
}

/// Waits until nothing is under way, as after a client that left: the metrics of that moment.
pub(crate) async fn quiet(gateway: &Gateway, books: &Books) -> String {
    let gauges = ["sluice_requests_in_flight ", "sluice_engine_running ", "sluice_engine_waiting "];
    let mut metrics = String::new();
    for _ in 0..500 {
        metrics = gateway.probe("/metrics").await.text();
        let is_idle = gauges.iter().all(|gauge| sum(&metrics, gauge) == 0);
        if is_idle && books.open().is_empty() {
            return metrics;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("something stays under way: {:?}\n{metrics}", books.open());
}

/// The lines about a request that was answered, once it has ended.
pub(crate) async fn ended(books: &Books, reply: &Reply) -> Vec<Value> {
    let id = reply.header("x-sluice-decision");
    if id.is_empty() {
        return Vec::new();
    }
    for _ in 0..500 {
        if let Some(lines) = books.take(id) {
            return lines;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("no end of {id} is on record");
}

/// The sum of all series whose line begins so.
fn sum(metrics: &str, prefix: &str) -> u64 {
    let lines = metrics.lines().filter(|line| line.starts_with(prefix));
    let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    values.sum::<f64>() as u64
}
