//! The order in which upstreams stand before a decision: policy keeps it among those it likes equally.
//!
//! A decision sorts what it allows by health, speed and zone, and leaves equals as they come. So a choice
//! among equals is an order of the facts, on record with the decision, and a replay of the record makes
//! the same choice.

use tokio::time::Instant;

use crate::config::Choose;
use crate::dice::Dice;
use crate::upstream::{ServerUpstream, Upstream};

/// The upstreams, the edge first and then servers in the order in which they are to be asked.
pub(super) fn order<'u>(how: Choose, upstreams: &'u [Upstream], dice: &Dice) -> Vec<&'u Upstream> {
    let mut all: Vec<&Upstream> = upstreams.iter().collect();
    match how {
        Choose::InOrder => {}
        // The smallest of exponential times with these rates is each one's in proportion to its rate.
        Choose::Weighted => all.sort_by_cached_key(|upstream| {
            Ordered(of_server(upstream, |server| {
                -(1.0 - dice.unit()).ln() / f64::from(server.config().weight)
            }))
        }),
        Choose::LeastLatency => {
            let now = Instant::now();
            all.sort_by_cached_key(|upstream| {
                Ordered(of_server(upstream, |server| server.latency.expected_ms(now)))
            });
        }
    }
    all
}

/// A server's rank; the edge has no equals, so its own does not matter.
fn of_server(upstream: &Upstream, rank: impl FnOnce(&ServerUpstream) -> f64) -> f64 {
    match upstream {
        Upstream::Edge(_) => 0.0,
        Upstream::Server(server) => rank(server),
    }
}

/// A rank that can be sorted by.
#[derive(PartialEq)]
struct Ordered(f64);

impl Eq for Ordered {}

impl PartialOrd for Ordered {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ordered {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;
    use crate::config::{BaseUrl, Protocol, ServerConfig};
    use crate::upstream::UpstreamId;

    fn servers(weights: &[(&str, u32)]) -> Vec<Upstream> {
        let server = |&(name, weight): &(&str, u32)| {
            let base_url = BaseUrl::parse("http://a.example/v1").unwrap();
            let config = ServerConfig { weight, ..ServerConfig::at(Protocol::OpenAi, base_url) };
            let server = ServerUpstream::new(UpstreamId::new(name), config).unwrap();
            Upstream::Server(std::sync::Arc::new(server))
        };
        weights.iter().map(server).collect()
    }

    fn first<'u>(how: Choose, upstreams: &'u [Upstream], dice: &Dice) -> &'u str {
        order(how, upstreams, dice)[0].id().as_str()
    }

    #[test]
    fn weights_are_shares_of_what_comes_first() {
        let (upstreams, dice) = (servers(&[("a", 1), ("b", 3)]), Dice::new(5));
        let mut counts = BTreeMap::<&str, usize>::new();
        for _ in 0..4000 {
            *counts.entry(first(Choose::Weighted, &upstreams, &dice)).or_default() += 1;
            assert_eq!(first(Choose::InOrder, &upstreams, &dice), "a");
        }
        assert!((2850..3150).contains(&counts["b"]), "{counts:?}");
    }

    #[test]
    fn the_quickest_comes_first_and_one_that_was_not_asked_before_it() {
        let (upstreams, dice) = (servers(&[("a", 1), ("b", 1), ("c", 1)]), Dice::new(5));
        let note = |at: usize, ms| match &upstreams[at] {
            Upstream::Server(server) => {
                server.latency.note(Duration::from_millis(ms), Instant::now());
            }
            Upstream::Edge(_) => unreachable!("only servers were made"),
        };
        let quickest = || first(Choose::LeastLatency, &upstreams, &dice);
        note(0, 500);
        note(1, 100);
        assert_eq!(quickest(), "c");
        note(2, 300);
        assert_eq!(quickest(), "b");
    }
}
