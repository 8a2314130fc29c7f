//! A second attempt beside a slow first one, where the config asks for it; whoever begins first answers.
//!
//! The second upstream is the choice of a decision of its own, over facts in which the first is down: so
//! it is one that policy allows, and it has its own record and permit. It stands in the same zone as the
//! first: a hedge shortens a wait and changes nothing else. The loser is dropped, which hangs up on it.

use std::pin::pin;
use std::time::Duration;

use sluice_policies::{Decision, Facts};

use super::attempt::{Outrun, Try};
use super::pursuit::{Course, Miss};
use super::{Ask, Gateway};
use crate::config::HedgeAfter;
use crate::reply::Reply;
use crate::upstream::Upstream;

/// The second of a race.
struct Second<'g> {
    upstream: &'g Upstream,
    decision: Decision,
    facts: Facts,
}

impl Gateway {
    /// One attempt, and a second beside it if the first is slow and the config hedges.
    pub(super) async fn race<'g>(
        &'g self,
        ask: &Ask,
        decision: &Decision,
        facts: &Facts,
        upstream: &'g Upstream,
        course: &mut Course<'g>,
    ) -> Result<Reply, Vec<Miss<'g>>> {
        course.number += 1;
        let outrun = Outrun::of_first(ask.request.chat.stream);
        let number = course.number;
        let this = Try { decision, facts, upstream, number, outrun: outrun.clone() };
        let mut first = pin!(self.attempt(ask, &this));
        let alone = |missed| vec![(upstream, missed)];
        let Some(after) = self.hedges_after(decision, upstream) else {
            return first.await.map_err(alone);
        };
        if let Ok(done) = tokio::time::timeout(after, first.as_mut()).await {
            return done.map_err(alone);
        }
        let Some(other) = self.second(ask, decision, facts, upstream, course) else {
            return first.await.map_err(alone);
        };
        course.number += 1;
        let outrun_second = Outrun::of_second();
        let that = Try {
            decision: &other.decision,
            facts: &other.facts,
            upstream: other.upstream,
            number: course.number,
            outrun: outrun_second.clone(),
        };
        let mut second = pin!(self.attempt(ask, &that));
        let count = |winner| self.parts.kept.metrics.hedge(upstream.id().as_str(), winner);
        let won = |first: bool| count(if first { "first" } else { "second" });
        let (done, is_first) = tokio::select! {
            done = first.as_mut() => (done, true),
            done = second.as_mut() => (done, false),
        };
        let missed = match done {
            Ok(reply) => {
                if is_first {
                    outrun_second.set()
                } else {
                    outrun.set()
                }
                won(is_first);
                return Ok(reply);
            }
            Err(missed) => missed,
        };
        let later = if is_first { second.await } else { first.await };
        match later {
            Ok(reply) => {
                won(!is_first);
                Ok(reply)
            }
            Err(too) => {
                count("none");
                let (missed, too) = if is_first { (missed, too) } else { (too, missed) };
                Err(vec![(upstream, missed), (other.upstream, too)])
            }
        }
    }

    /// When a second upstream would be asked beside this one; `None` if never.
    fn hedges_after(&self, decision: &Decision, upstream: &Upstream) -> Option<Duration> {
        let hedge = self.parts.hedge.as_ref()?;
        let Upstream::Server(server) = upstream else { return None };
        if !hedge.latency.contains(&decision.latency) {
            return None;
        }
        match hedge.after {
            HedgeAfter::Fixed(after) => Some(after),
            HedgeAfter::P95 => server.latency.p95(),
        }
    }

    /// Who is asked beside a slow upstream, if policy allows anybody of the same zone.
    fn second<'g>(
        &'g self,
        ask: &Ask,
        decision: &Decision,
        facts: &Facts,
        slow: &Upstream,
        course: &Course<'g>,
    ) -> Option<Second<'g>> {
        let mut facts = facts.clone();
        self.refresh(&mut facts);
        let down = |id: &str| id == slow.id().as_str() || course.asked().contains(&id);
        for fact in facts.upstreams.iter_mut().filter(|fact| down(&fact.id)) {
            fact.healthy = false;
        }
        let second = ask.policy.decide(&ask.classification, &facts);
        let upstream = self.choice(ask, &second, course.asked())?;
        let other = upstream.id() != slow.id() && matches!(upstream, Upstream::Server(_));
        let same_zone = second.route == decision.route && !second.redact;
        (other && same_zone).then_some(Second { upstream, decision: second, facts })
    }
}
