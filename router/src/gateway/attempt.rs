//! One attempt to have one upstream answer: record, permit, ask, and account for how it ended.
//!
//! The [`Meter`] holds the duties of an attempt: its outcome line, its breaker, its metrics, and the
//! fingerprint of a never-cloud reply. It is closed once; dropped unclosed it means that the client
//! left, whether before the answer or in the middle of its stream.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use hyper::body::Frame;
use sluice_policies::{Decision, Facts};
use tokio::time::Instant;

use super::{Ask, Gateway};
use crate::audit::{AttemptRecord, Ending, Outcome, Recorded};
use crate::breaker::Pass;
use crate::metrics::Metrics;
use crate::permit::{EgressPermit, OutboundBody};
use crate::reply::{ByteStream, Reply, route_word};
use crate::taint::{ReplyPrint, TaintStore};
use crate::upstream::{
    Answer, AnswerBody, Events, OpenAiUpstream, Piece, Shape, Upstream, UpstreamError, Usage,
};

/// Why an attempt brought no reply.
pub(super) enum Missed {
    /// It could not be recorded, so nothing was asked.
    NotRecorded,
    /// No permit was minted: a bug, since the decision chose this upstream.
    NotPermitted,
    /// The upstream failed before the first byte.
    Failed(UpstreamError),
}

impl Gateway {
    pub(super) async fn attempt(
        &self,
        ask: &Ask,
        decision: &Decision,
        facts: &Facts,
        upstream: &Upstream,
        number: u32,
    ) -> Result<Reply, Missed> {
        let sealed = match upstream {
            Upstream::Edge(_) => None,
            Upstream::OpenAi(server) => {
                let pass = server.breaker.pass().ok_or(Missed::Failed(UpstreamError::Resting))?;
                Some((server, server.outbound(&ask.request.chat), pass))
            }
        };
        let bytes = sealed.as_ref().map_or(0, |(_, body, _)| body.len());
        let recorded = self.record(ask, decision, facts, upstream, number, bytes).await;
        // Unrecorded, only the edge may answer, and only if policy knew when it chose.
        if recorded.is_none() && (sealed.is_some() || facts.audit_writable) {
            return Err(Missed::NotRecorded);
        }
        let mut meter = self.meter(ask, decision, upstream, recorded);
        let shape = Shape {
            stream: ask.request.chat.stream,
            include_usage: ask.request.chat.include_usage,
            want_text: meter.reply_print.is_some(),
        };
        let answer = match (upstream, sealed) {
            (Upstream::Edge(edge), _) => edge.answer(&ask.request.chat, &ask.id, shape).await,
            (Upstream::OpenAi(_), Some((server, body, pass))) => {
                meter.pass = Some(pass);
                let permit = permit(decision, server, &body, &mut meter)?;
                server.send(permit, shape).await
            }
            (Upstream::OpenAi(_), None) => unreachable!("a body was sealed for every server above"),
        };
        match answer {
            Ok(answer) => Ok(self.reply(ask, decision, upstream, answer, meter)),
            Err(error) => {
                meter.fail(&error);
                Err(Missed::Failed(error))
            }
        }
    }

    async fn record(
        &self,
        ask: &Ask,
        decision: &Decision,
        facts: &Facts,
        upstream: &Upstream,
        attempt: u32,
        bytes: usize,
    ) -> Option<Recorded> {
        let record = AttemptRecord {
            id: &ask.id,
            attempt,
            upstream: upstream.id().clone(),
            address: upstream.address(),
            decision,
            classification: &ask.classification,
            facts,
            caller: ask.request.caller.id.as_deref(),
            tenant: &ask.request.caller.tenant,
            stripped: &ask.stripped,
            bytes,
        };
        self.parts.audit.attempt(&record).await.ok()
    }

    fn meter(
        &self,
        ask: &Ask,
        decision: &Decision,
        upstream: &Upstream,
        recorded: Option<Recorded>,
    ) -> Meter {
        let taint = &self.parts.taint;
        Meter {
            metrics: self.parts.metrics.clone(),
            taint: taint.clone(),
            recorded,
            pass: None,
            reply_print: decision.never_cloud.then(|| taint.reply(&ask.request.caller)),
            upstream: upstream.id().as_str().to_owned(),
            route: route_word(decision.route),
            request_started: ask.started,
            started: Instant::now(),
            status: None,
            bytes_received: 0,
            armed: true,
        }
    }

    fn reply(
        &self,
        ask: &Ask,
        decision: &Decision,
        upstream: &Upstream,
        answer: Answer,
        mut meter: Meter,
    ) -> Reply {
        meter.status = Some(answer.status.as_u16());
        let mut reply = match answer.body {
            AnswerBody::Whole { bytes, usage, text } => {
                meter.count(&bytes, text.as_deref());
                meter.complete(usage);
                Reply::json(answer.status, bytes)
            }
            AnswerBody::Events(events) => Reply::events(metered(events, meter)),
        };
        self.stamp(ask, decision, Some(upstream), &mut reply);
        reply
    }
}

fn permit(
    decision: &Decision,
    server: &OpenAiUpstream,
    body: &OutboundBody,
    meter: &mut Meter,
) -> Result<EgressPermit, Missed> {
    let recorded = meter.recorded.as_ref().ok_or(Missed::NotRecorded)?;
    EgressPermit::mint(decision, server.id(), body, recorded).map_err(|denied| {
        tracing::error!(upstream = %server.id(), %denied, "permit was denied after a decision");
        meter.close(Ending::Failed, Some("not_permitted"), Usage::default());
        Missed::NotPermitted
    })
}

/// Pulls the events of an answer and closes the meter at their end.
fn metered(events: Events, meter: Meter) -> ByteStream {
    let state = Some((events, meter));
    Box::pin(stream::unfold(state, |state| async {
        let (mut events, mut meter) = state?;
        match events.next().await {
            Some(Piece::Data { bytes, text }) => {
                meter.data(&bytes, text.as_deref());
                Some((Ok(Frame::data(bytes)), Some((events, meter))))
            }
            Some(Piece::End { cut, bytes, usage }) => {
                let bytes = bytes.unwrap_or_default();
                meter.data(&bytes, None);
                meter.end(cut, usage);
                Some((Ok(Frame::data(bytes)), None))
            }
            None => None,
        }
    }))
}

/// The duties of one attempt.
struct Meter {
    metrics: Arc<Metrics>,
    taint: Arc<TaintStore>,
    recorded: Option<Recorded>,
    pass: Option<Pass>,
    reply_print: Option<ReplyPrint>,
    upstream: String,
    route: &'static str,
    request_started: Instant,
    started: Instant,
    status: Option<u16>,
    bytes_received: u64,
    armed: bool,
}

impl Meter {
    /// A piece of a stream.
    fn data(&mut self, bytes: &Bytes, text: Option<&str>) {
        if self.bytes_received == 0 {
            self.metrics.first_token(self.route, self.request_started.elapsed());
        }
        self.count(bytes, text);
    }

    fn count(&mut self, bytes: &Bytes, text: Option<&str>) {
        self.bytes_received += bytes.len() as u64;
        if let (Some(print), Some(text)) = (self.reply_print.as_mut(), text) {
            print.feed(text);
        }
    }

    fn complete(mut self, usage: Usage) {
        self.succeed();
        self.close(Ending::Complete, None, usage);
    }

    fn end(mut self, cut: Option<&'static str>, usage: Usage) {
        match cut {
            None => {
                self.succeed();
                self.close(Ending::Complete, None, usage);
            }
            Some(why) => {
                if let Some(pass) = self.pass.take() {
                    pass.fail();
                }
                self.close(Ending::Cut, Some(why), usage);
            }
        }
    }

    fn fail(mut self, error: &UpstreamError) {
        self.status = error.status();
        match self.pass.take() {
            Some(pass) if error.counts_against() => pass.fail(),
            // Anything else leaves the breaker as it is.
            _ => {}
        }
        if error.counts_against() {
            tracing::warn!(
                upstream = self.upstream,
                error = error.code(),
                cause = error.root_cause(),
                status = self.status,
                "upstream failed"
            );
        }
        self.close(Ending::Failed, Some(error.code()), Usage::default());
    }

    fn succeed(&mut self) {
        if let Some(pass) = self.pass.take() {
            pass.succeed();
        }
    }

    fn close(&mut self, ending: Ending, error: Option<&'static str>, usage: Usage) {
        if !std::mem::take(&mut self.armed) {
            return;
        }
        if let Some(print) = self.reply_print.take() {
            self.taint.remember_reply(print);
        }
        self.metrics.attempt(&self.upstream, ending_word(ending));
        self.metrics.tokens(&self.upstream, usage.prompt_tokens, usage.completion_tokens);
        if ending != Ending::Failed {
            self.metrics.reply_over(self.route, self.request_started.elapsed());
        }
        if let Some(recorded) = self.recorded.take() {
            recorded.close(&Outcome {
                ending,
                status: self.status,
                error,
                bytes_received: self.bytes_received,
                prompt_tokens: usage.prompt_tokens,
                completion_tokens: usage.completion_tokens,
                took: self.started.elapsed(),
            });
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if self.armed {
            self.metrics.client_left();
            self.close(Ending::ClientLeft, None, Usage::default());
        }
    }
}

fn ending_word(ending: Ending) -> &'static str {
    match ending {
        Ending::Complete => "complete",
        Ending::Cut => "cut",
        Ending::Failed => "failed",
        Ending::ClientLeft => "client_left",
    }
}
