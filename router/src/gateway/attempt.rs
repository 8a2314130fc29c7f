//! One attempt to have one upstream answer: record, permit, ask, and account for how it ended.
//!
//! The [`Meter`] holds the duties of an attempt: its outcome line, its breaker, its metrics, the scan
//! of the reply and its fingerprint. It is closed once; dropped unclosed it means that the client
//! left, whether before the answer or in the middle of its stream.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use hyper::body::Frame;
use hyper::header::CONTENT_TYPE;
use sluice_policies::{Decision, Facts, Refusal, RefusalCode};
use tokio::time::Instant;

use super::reuse::reuse;
use super::{Ask, Gateway};
use crate::api::ApiError;
use crate::audit::{AttemptRecord, Ending, Outcome, Recorded};
use crate::breaker::Pass;
use crate::identity::Caller;
use crate::limit::Allowance;
use crate::metrics::Metrics;
use crate::permit::{EgressPermit, OutboundBody};
use crate::redact::{EventRestorer, restore_whole, restorer};
use crate::reply::{ByteStream, Reply, error_event, route_word};
use crate::reply_edit::{EventEditor, edit_whole};
use crate::reply_mask::Mask;
use crate::reply_scan::{Channel, HoldBack, ReplyScan, ReplyText};
use crate::taint::{ReplyPrint, TaintStore};
use crate::upstream::{
    Answer, AnswerBody, Events, InQueue, Piece, ServerUpstream, Shape, Upstream, UpstreamError,
    Urgency, Usage,
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

/// What one attempt is about.
pub(super) struct Try<'a> {
    pub(super) decision: &'a Decision,
    pub(super) facts: &'a Facts,
    pub(super) upstream: &'a Upstream,
    /// 1 for the first of a request.
    pub(super) number: u32,
    pub(super) outrun: Outrun,
}

/// Told to an attempt that another was quicker: then it was not the client who left.
#[derive(Clone, Default)]
pub(super) struct Outrun(Arc<AtomicBool>);

impl Outrun {
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Gateway {
    pub(super) async fn attempt(&self, ask: &Ask, this: &Try<'_>) -> Result<Reply, Missed> {
        let &Try { decision, upstream, .. } = this;
        let sealed = match upstream {
            Upstream::Edge(_) => None,
            Upstream::Server(server) => {
                let request = &ask.request;
                let body = server.outbound(&request.chat, &request.client);
                let body = body.map_err(Missed::Failed)?;
                let pass = server.breaker.pass().ok_or(Missed::Failed(UpstreamError::Resting))?;
                Some((server, body, pass))
            }
        };
        let bytes = sealed.as_ref().map_or(0, |(_, body, _)| body.len());
        let recorded = self.record(ask, this, bytes).await;
        // Unrecorded, only the edge may answer, and only if policy knew when it chose.
        if recorded.is_none() && (sealed.is_some() || this.facts.audit_writable) {
            return Err(Missed::NotRecorded);
        }
        let mut meter = self.meter(ask, this, recorded);
        let shape = Shape {
            stream: ask.request.chat.stream,
            include_usage: ask.request.chat.include_usage,
        };
        let urgency = urgency(ask, decision);
        let mut place = None;
        let answer = match (upstream, sealed) {
            (Upstream::Edge(edge), _) => {
                let reuse = reuse(ask, decision, this.facts);
                let answer = edge.answer(&ask.request.chat, &ask.id, shape, urgency, reuse).await;
                answer.map(|(answer, in_queue)| {
                    place = Some(in_queue);
                    answer
                })
            }
            (Upstream::Server(_), Some((server, body, pass))) => {
                meter.pass = Some(pass);
                let permit = permit(decision, server, &body, &mut meter)?;
                server.send(permit, shape).await
            }
            (Upstream::Server(_), None) => unreachable!("a body was sealed for every server above"),
        };
        match answer {
            Ok(answer) => {
                let mut reply = self.reply(ask, decision, upstream, answer, meter);
                if let Some(place) = place.filter(|_| urgency.is_patient()) {
                    tell_place(&mut reply, place);
                }
                Ok(reply)
            }
            Err(error) => {
                meter.fail(&error);
                Err(Missed::Failed(error))
            }
        }
    }

    async fn record(&self, ask: &Ask, this: &Try<'_>, bytes: usize) -> Option<Recorded> {
        let &Try { decision, facts, upstream, number: attempt, .. } = this;
        let record = AttemptRecord {
            id: &ask.id,
            attempt,
            upstream: upstream.id().clone(),
            address: upstream.address(),
            decision,
            classification: &ask.classification,
            evidence: &ask.evidence,
            facts,
            would_be: ask.would_be.as_ref(),
            caller: ask.request.caller.id.as_deref(),
            tenant: &ask.request.caller.tenant,
            stripped: &ask.stripped,
            redacted: ask.redaction.as_ref().map(|redaction| &redaction.counts),
            bytes,
        };
        self.parts.kept.audit.policy(&ask.policy).await.ok()?;
        self.parts.kept.audit.attempt(&record).await.ok()
    }

    fn meter(&self, ask: &Ask, this: &Try<'_>, recorded: Option<Recorded>) -> Meter {
        let taint = &self.parts.kept.taint;
        Meter {
            metrics: self.parts.kept.metrics.clone(),
            taint: taint.clone(),
            recorded,
            pass: None,
            reply: Some(Watched {
                print: taint.reply(&ask.request.caller),
                // What never goes to a cloud is remembered anyway: there is nothing more to find.
                scan: (!ask.never_cloud).then(|| ReplyScan::new(ask.policy.clone())),
                caller: ask.request.caller.clone(),
                session: ask.request.session.clone(),
            }),
            allowance: ask.request.allowance.clone(),
            priced: this
                .upstream
                .server()
                .map(|server| server.model_name(&ask.request.chat.model).to_owned()),
            upstream: this.upstream.id().as_str().to_owned(),
            route: route_word(this.decision.route),
            request_started: ask.started,
            started: Instant::now(),
            status: None,
            bytes_received: 0,
            told: Told { asked_bytes: ask.asked_bytes(), said_bytes: 0 },
            outrun: this.outrun.clone(),
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
            AnswerBody::Whole { bytes, usage, texts } => {
                meter.count(&bytes, &texts);
                if meter.must_cut_at_end() {
                    meter.end(Some(REPLY_FINDING), usage);
                    return self.fail(ask, decision, upstream, &reply_withheld());
                }
                let (bytes, cut) = masked_whole(meter.mask(), bytes);
                if cut {
                    meter.end(Some(REPLY_FINDING), usage);
                    return self.fail(ask, decision, upstream, &reply_withheld());
                }
                meter.complete(usage);
                let bytes = match &ask.redaction {
                    Some(redaction) => restore_whole(redaction, &ask.tools(), bytes),
                    None => bytes,
                };
                Reply::json(answer.status, bytes)
            }
            AnswerBody::Raw { bytes, content_type, usage, texts } => {
                meter.count(&bytes, &texts);
                // Nothing can be taken out of what nobody knows: a finding keeps it back.
                if meter.must_withhold() {
                    meter.end(Some(REPLY_FINDING), usage);
                    return self.fail(ask, decision, upstream, &reply_withheld());
                }
                meter.complete(usage);
                let mut reply = Reply::json(answer.status, bytes);
                reply.headers.insert(CONTENT_TYPE, content_type);
                reply
            }
            AnswerBody::Events(events) => {
                let redaction = ask.redaction.clone();
                let restore = redaction.map(|r| restorer(r, ask.tools()));
                Reply::events(metered(events, meter, restore))
            }
        };
        self.stamp(ask, decision, Some(upstream), &mut reply);
        reply
    }
}

/// How soon the latency class wants the edge, and whether the text may go elsewhere.
fn urgency(ask: &Ask, decision: &Decision) -> Urgency {
    let class = ask.policy.latency_class(&decision.latency);
    let within = class.first_token_ms_max.map(Duration::from_millis);
    Urgency { within, never_cloud: decision.never_cloud }
}

/// Where batch work stood in the queue, and when it was expected to start.
fn tell_place(reply: &mut Reply, place: InQueue) {
    reply.set("x-sluice-queue-position", &place.position.to_string());
    reply.set("x-sluice-expected-start-ms", &place.starts_in.as_millis().to_string());
}

/// A whole reply without what was found in it, and whether that cannot be done.
fn masked_whole(mask: Option<Mask>, bytes: Bytes) -> (Bytes, bool) {
    match mask.map(|mask| edit_whole(mask, bytes.clone())) {
        None => (bytes, false),
        Some((bytes, mask)) => (bytes, mask.must_cut()),
    }
}

fn permit(
    decision: &Decision,
    server: &ServerUpstream,
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

/// Why a reply was cut by its scan, in audit and metrics.
const REPLY_FINDING: &str = "reply_finding";

fn reply_withheld() -> ApiError {
    ApiError::refused(&Refusal {
        code: RefusalCode::PolicyBlocked,
        message: "the reply holds text that policy does not let through".to_owned(),
        retry_after_s: None,
    })
}

/// Pulls the events of an answer, lets those go that its scan lets go, and closes the meter at their
/// end.
fn metered(events: Events, meter: Meter, mut restore: Option<EventRestorer>) -> ByteStream {
    let hold = meter.cuts().then(HoldBack::default);
    let mask = meter.mask().map(EventEditor::new);
    let relay = Relay { events, meter: Some(meter), hold, mask, ready: VecDeque::new() };
    let events = stream::unfold(relay, |mut relay| async {
        let bytes = relay.next().await?;
        Some((bytes, relay))
    });
    // What was scanned is what the upstream said; the values come back behind the scan.
    Box::pin(events.map(move |bytes| {
        Ok(Frame::data(restore.as_mut().map_or(bytes.clone(), |restore| restore.push(&bytes))))
    }))
}

/// An answer's events on their way to the client.
struct Relay {
    events: Events,
    /// `None` once the reply is over.
    meter: Option<Meter>,
    /// Events that wait for the scan, if findings cut the reply.
    hold: Option<HoldBack>,
    /// What takes findings out, if the site wants that.
    mask: Option<EventEditor<Mask>>,
    ready: VecDeque<Bytes>,
}

impl Relay {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                return Some(bytes);
            }
            let meter = self.meter.as_mut()?;
            match self.events.next().await {
                Some(Piece::Data { bytes, texts }) => {
                    meter.data(&bytes, &texts);
                    let (bytes, must_cut) = self.masked(bytes);
                    let meter = self.meter.as_mut()?;
                    match &mut self.hold {
                        _ if must_cut => self.cut(Usage::default()),
                        None => return Some(bytes),
                        Some(_) if meter.found() => self.cut(Usage::default()),
                        Some(hold) => {
                            let text_bytes = texts.iter().map(|t| t.text.len()).sum();
                            self.ready.extend(hold.push(bytes, text_bytes));
                        }
                    }
                }
                Some(Piece::End { usage, .. }) if meter.must_cut_at_end() => self.cut(usage),
                Some(Piece::End { cut, bytes, usage }) => {
                    if let Some(bytes) = &bytes {
                        meter.data(bytes, &[]);
                    }
                    let (bytes, must_cut) = self.masked(bytes.unwrap_or_default());
                    if must_cut {
                        self.cut(usage);
                        continue;
                    }
                    self.ready.extend(self.hold.take().into_iter().flat_map(|mut h| h.release()));
                    self.ready.extend(Some(bytes).filter(|bytes| !bytes.is_empty()));
                    self.meter.take()?.end(cut, usage);
                }
                None => self.meter = None,
            }
        }
    }

    /// The events without what was found in them, and whether that cannot be done.
    fn masked(&mut self, bytes: Bytes) -> (Bytes, bool) {
        match &mut self.mask {
            None => (bytes, false),
            Some(mask) => (mask.push(&bytes), mask.edit().must_cut()),
        }
    }

    /// Ends the reply before what was found: what waits is thrown away.
    fn cut(&mut self, usage: Usage) {
        self.hold = None;
        self.ready = VecDeque::from([error_event(&reply_withheld())]);
        if let Some(meter) = self.meter.take() {
            meter.end(Some(REPLY_FINDING), usage);
        }
    }
}

/// A reply under watch: its fingerprint, and the scan of what it holds.
struct Watched {
    print: ReplyPrint,
    /// `None` if the conversation is never-cloud already.
    scan: Option<ReplyScan>,
    caller: Caller,
    session: Option<String>,
}

impl Watched {
    fn feed(&mut self, texts: &[ReplyText]) {
        for piece in texts {
            if piece.channel == Channel::Content(0) {
                self.print.feed(&piece.text);
            }
            if let Some(scan) = &mut self.scan {
                scan.feed(piece);
            }
        }
    }

    /// Remembers the reply of a conversation that is never-cloud or has just become so; `true` in
    /// the latter case.
    fn conclude(self, taint: &TaintStore) -> bool {
        let found = self.scan.map(|mut scan| scan.finish());
        if found != Some(false) {
            taint.remember_reply(self.print);
        }
        if found == Some(true) {
            taint.remember_session(&self.caller, self.session.as_deref());
        }
        found == Some(true)
    }
}

/// The duties of one attempt.
struct Meter {
    metrics: Arc<Metrics>,
    taint: Arc<TaintStore>,
    recorded: Option<Recorded>,
    pass: Option<Pass>,
    reply: Option<Watched>,
    allowance: Option<Arc<Allowance>>,
    /// The model as its server knows it; `None` for the edge, which costs nothing.
    priced: Option<String>,
    upstream: String,
    route: &'static str,
    request_started: Instant,
    started: Instant,
    status: Option<u16>,
    bytes_received: u64,
    told: Told,
    outrun: Outrun,
    armed: bool,
}

/// How much was asked and said, for an estimate of tokens where an upstream could not count to the end.
struct Told {
    asked_bytes: usize,
    said_bytes: usize,
}

/// Bytes of a token, as a rule of thumb for estimates.
const TOKEN_BYTES: usize = 4;

impl Told {
    /// What is missing in an upstream's count, estimated; and whether anything was.
    fn completed(&self, usage: Usage) -> (Usage, bool) {
        let tokens = |bytes: usize| bytes.div_ceil(TOKEN_BYTES) as u64;
        let whole = Usage {
            prompt_tokens: usage.prompt_tokens.or(Some(tokens(self.asked_bytes))),
            completion_tokens: usage.completion_tokens.or(Some(tokens(self.said_bytes))),
            ..usage
        };
        (whole, whole != usage)
    }
}

impl Meter {
    /// A piece of a stream.
    fn data(&mut self, bytes: &Bytes, texts: &[ReplyText]) {
        if self.bytes_received == 0 {
            self.metrics.first_token(self.route, self.request_started.elapsed());
        }
        self.count(bytes, texts);
    }

    fn count(&mut self, bytes: &Bytes, texts: &[ReplyText]) {
        self.bytes_received += bytes.len() as u64;
        self.told.said_bytes += texts.iter().map(|piece| piece.text.len()).sum::<usize>();
        if let Some(reply) = &mut self.reply {
            reply.feed(texts);
        }
    }

    /// What takes findings out of the reply, if the site wants that.
    fn mask(&self) -> Option<Mask> {
        self.reply.as_ref().and_then(|reply| reply.scan.as_ref()).and_then(ReplyScan::mask)
    }

    fn scan(&mut self) -> Option<&mut ReplyScan> {
        self.reply.as_mut()?.scan.as_mut()
    }

    /// Whether a finding would cut the reply.
    fn cuts(&self) -> bool {
        self.reply.as_ref().and_then(|r| r.scan.as_ref()).is_some_and(ReplyScan::cuts)
    }

    /// Whether something was found so far.
    fn found(&mut self) -> bool {
        self.scan().is_some_and(|scan| scan.found())
    }

    /// Whether the reply, now that all of it is here, must not go out.
    fn must_cut_at_end(&mut self) -> bool {
        self.cuts() && self.scan().is_some_and(ReplyScan::finish)
    }

    /// Whether a reply that cannot be edited holds what the site lets nobody see.
    fn must_withhold(&mut self) -> bool {
        (self.cuts() || self.mask().is_some()) && self.scan().is_some_and(ReplyScan::finish)
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
                match why {
                    // The upstream did its part: what it said was withheld.
                    REPLY_FINDING => self.succeed(),
                    _ => self.blame(),
                }
                self.close(Ending::Cut, Some(why), usage);
            }
        }
    }

    fn fail(mut self, error: &UpstreamError) {
        self.status = error.status();
        if error.counts_against() {
            self.blame();
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
        if self.pass.take().is_some_and(Pass::succeed) {
            tracing::info!(upstream = self.upstream, "upstream answers again");
        }
    }

    fn blame(&mut self) {
        if self.pass.take().is_some_and(Pass::fail) {
            tracing::warn!(upstream = self.upstream, "upstream is left alone for a while");
        }
    }

    fn close(&mut self, ending: Ending, error: Option<&'static str>, usage: Usage) {
        if !std::mem::take(&mut self.armed) {
            return;
        }
        // What was sent and said is accounted for although nobody counted it to the end.
        let (usage, usage_estimated) = match ending {
            Ending::Complete | Ending::Failed => (usage, false),
            Ending::Cut | Ending::ClientLeft | Ending::Outrun => self.told.completed(usage),
        };
        let reply_finding = self.reply.take().is_some_and(|reply| reply.conclude(&self.taint));
        if reply_finding {
            self.metrics.reply_finding(&self.upstream);
        }
        self.metrics.attempt(&self.upstream, ending_word(ending));
        self.metrics.tokens(&self.upstream, usage.prompt_tokens, usage.completion_tokens);
        if !matches!(ending, Ending::Failed | Ending::Outrun) {
            self.metrics.reply_over(self.route, self.request_started.elapsed());
        }
        if ending != Ending::Failed
            && let Some(allowance) = self.allowance.take()
        {
            let (prompt, completion) = (usage.prompt_tokens, usage.completion_tokens);
            let said = self.told.said_bytes as u64;
            allowance.spend(self.priced.as_deref(), prompt, completion, said);
        }
        if let Some(recorded) = self.recorded.take() {
            recorded.close(&Outcome {
                ending,
                status: self.status,
                error,
                bytes_received: self.bytes_received,
                prompt_tokens: usage.prompt_tokens,
                completion_tokens: usage.completion_tokens,
                usage_estimated,
                reply_finding,
                took: self.started.elapsed(),
            });
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if self.armed && self.outrun.is_set() {
            self.close(Ending::Outrun, None, Usage::default());
        } else if self.armed {
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
        Ending::Outrun => "outrun",
    }
}
