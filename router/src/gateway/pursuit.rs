//! From a decision to a reply: one upstream after another, each by a decision of its own.
//!
//! A fallback is a fresh decision over worse facts (the upstream that failed is down), so it can only
//! stay within what policy allowed before. A retry is a fresh decision too, over the facts of its moment:
//! a network that was declared away during the wait is not asked again. A queued request is decided
//! again until its time is up.
//!
//! Invariant: an upstream that the first decision did not allow is never asked.

use std::ops::ControlFlow;
use std::time::Duration;

use sluice_policies::{Decision, Facts};
use tokio::time::Instant;

use super::attempt::Missed;
use super::{Ask, Gateway, audit_down, final_error, incapable, may_queue};
use crate::api::ApiError;
use crate::reply::Reply;
use crate::upstream::retry::Verdict;
use crate::upstream::{Upstream, UpstreamError};

/// How soon a queued request looks again whether it may go; each wait is twice the one before.
pub(super) const QUEUE_STEP_MIN: Duration = Duration::from_millis(100);
/// The longest such wait.
const QUEUE_STEP_MAX: Duration = Duration::from_secs(2);

/// Longest wait for an upstream while another could answer at once.
const WAIT_BESIDE_OTHERS_MAX: Duration = Duration::from_secs(2);

/// What one request has tried so far.
pub(super) struct Course<'g> {
    /// Attempts begun.
    pub(super) number: u32,
    /// Upstreams that failed it for good.
    asked: Vec<&'g str>,
    last: Option<UpstreamError>,
    /// The upstream that is being asked, since when, and how often again.
    at: Option<(&'g str, Instant, u32)>,
    queue_step: Duration,
}

/// An attempt that brought nothing.
pub(super) type Miss<'g> = (&'g Upstream, Missed);

impl Gateway {
    /// Asks until somebody answers, nobody is left, or the time to queue is up.
    pub(super) async fn pursue(
        &self,
        ask: &Ask,
        mut decision: Decision,
        mut facts: Facts,
    ) -> Reply {
        let mut course = Course::new();
        loop {
            let Some(upstream) = self.choice(ask, &decision, &course.asked) else {
                if !may_queue(ask, &decision, course.last.as_ref(), course.queue_step) {
                    break;
                }
                course.queue().await;
                let taint = self.taint(&ask.request).await;
                facts = self.facts(&ask.request, &ask.needs, taint);
                decision = ask.policy.decide(&ask.classification, &facts);
                continue;
            };
            course.begin(upstream);
            let misses = match self.race(ask, &decision, &facts, upstream, &mut course).await {
                Ok(reply) => return reply,
                Err(misses) => misses,
            };
            // A breaker that opened just now may mean that there is no network: noticed before it rests.
            self.offline();
            let alone = misses.len() == 1;
            for (upstream, missed) in misses {
                if matches!(missed, Missed::NotRecorded) && facts.audit_writable {
                    facts.audit_writable = false;
                    continue;
                }
                let error = match self.judge(ask, &decision, &facts, upstream, missed).await {
                    ControlFlow::Continue(error) => error,
                    ControlFlow::Break(reply) => return reply,
                };
                let patience = course.patience(upstream, &decision, &facts).filter(|_| alone);
                match patience.and_then(|left| self.again(upstream, &error, left, &mut course)) {
                    Some(wait) => {
                        tokio::time::sleep(wait).await;
                        self.refresh(&mut facts);
                    }
                    None => course.asked.push(upstream.id().as_str()),
                }
                course.last = Some(error);
                course.mark_down(&mut facts);
            }
            decision = ask.policy.decide(&ask.classification, &facts);
        }
        let incapable = match course.last {
            None => incapable(ask, &decision, &facts),
            Some(_) => None,
        };
        let error = incapable.unwrap_or_else(|| final_error(&decision, course.last.as_ref()));
        self.refuse(ask, &decision, &facts, &error).await
    }

    /// Whether somebody else may be asked after an attempt that brought nothing, or what the client is told.
    async fn judge(
        &self,
        ask: &Ask,
        decision: &Decision,
        facts: &Facts,
        upstream: &Upstream,
        missed: Missed,
    ) -> ControlFlow<Reply, UpstreamError> {
        ControlFlow::Break(match missed {
            Missed::NotRecorded => {
                self.refuse(ask, decision, facts, &ApiError::refused(&audit_down())).await
            }
            Missed::Limited(error) => self.refuse(ask, decision, facts, &error).await,
            Missed::NotPermitted => self.refuse(ask, decision, facts, &ApiError::internal()).await,
            Missed::Failed(error) => {
                let error = error.naming_the_field_of(&ask.request.chat);
                if error.falls_back() {
                    return ControlFlow::Continue(error);
                }
                self.fail(ask, decision, facts, upstream, &error.to_api())
            }
        })
    }

    /// How long to wait before the same upstream is asked again; `None` if it is not.
    fn again(
        &self,
        upstream: &Upstream,
        error: &UpstreamError,
        left: Duration,
        course: &mut Course<'_>,
    ) -> Option<Duration> {
        let (_, _, done) = course.at.as_mut()?;
        let verdict = upstream.server()?.retrier.after(error, *done, left, &self.dice);
        if let Some(word) = verdict.word() {
            self.parts.kept.metrics.retry(upstream.id().as_str(), word);
        }
        let Verdict::Again(wait) = verdict else { return None };
        *done += 1;
        Some(wait)
    }

    /// Facts of this moment in the place of those of an earlier one; upstreams keep their order.
    pub(super) fn refresh(&self, facts: &mut Facts) {
        facts.offline = self.offline().map(|offline| offline.in_words());
        facts.audit_writable &= self.parts.kept.audit.is_writable();
        for fact in &mut facts.upstreams {
            let upstream = self.parts.upstreams.iter().find(|u| u.id().as_str() == fact.id);
            fact.healthy = upstream.is_some_and(Upstream::is_healthy);
        }
    }
}

impl<'g> Course<'g> {
    fn new() -> Course<'g> {
        Course { number: 0, asked: Vec::new(), last: None, at: None, queue_step: QUEUE_STEP_MIN }
    }

    /// Upstreams that failed this request for good.
    pub(super) fn asked(&self) -> &[&'g str] {
        &self.asked
    }

    /// An upstream is asked, for the first time or again.
    fn begin(&mut self, upstream: &'g Upstream) {
        let name = upstream.id().as_str();
        if self.at.is_none_or(|(at, ..)| at != name) {
            self.at = Some((name, Instant::now(), 0));
            if let Upstream::Server(server) = upstream {
                server.retrier.count();
            }
        }
    }

    /// How long the client would wait for an upstream to be asked again; `None` for the edge, which is not.
    /// As long as for its first byte, but not so long where somebody else could answer at once.
    fn patience(
        &self,
        upstream: &Upstream,
        decision: &Decision,
        facts: &Facts,
    ) -> Option<Duration> {
        let timeouts = upstream.server()?.config().timeouts;
        let (_, since, _) = self.at?;
        let left = (timeouts.connect + timeouts.first_byte).saturating_sub(since.elapsed());
        let could_answer = |id: &str| {
            id != upstream.id().as_str()
                && decision.allowed.iter().any(|allowed| allowed == id)
                && !self.asked.contains(&id)
        };
        let others = facts.upstreams.iter().any(|other| other.healthy && could_answer(&other.id));
        Some(if others { left.min(WAIT_BESIDE_OTHERS_MAX) } else { left })
    }

    /// Waits for a place in the queue; then everybody may be asked afresh.
    async fn queue(&mut self) {
        tokio::time::sleep(self.queue_step).await;
        self.queue_step = (self.queue_step * 2).min(QUEUE_STEP_MAX);
        self.asked.clear();
        self.at = None;
    }

    fn mark_down(&self, facts: &mut Facts) {
        for facts in facts.upstreams.iter_mut().filter(|f| self.asked.contains(&f.id.as_str())) {
            facts.healthy = false;
        }
    }
}
