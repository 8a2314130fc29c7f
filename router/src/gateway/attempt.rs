//! One attempt to have one upstream answer: record, permit, ask, and account for how it ended.
//!
//! What an attempt owes to record, breaker and metrics is the [`Meter`]'s (`meter`).

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use hyper::body::Frame;
use hyper::header::CONTENT_TYPE;
use sluice_policies::{AddressRanges, Decision, Facts, Refusal, RefusalCode};
use tokio::time::Instant;

use super::meter::{Meter, REPLY_FINDING, Told, Watched};
use super::reuse::reuse;
use super::{Ask, Gateway, Kept, SCAN_INLINE_BYTES_MAX, known};
use crate::api::ApiError;
use crate::audit::{AttemptRecord, Ending, Recorded};
use crate::permit::{EgressPermit, OutboundBody};
use crate::redact::{EventRestorer, restore_whole, restorer};
use crate::reply::{ByteStream, Reply, error_event, route_word};
use crate::reply_edit::{EventEditor, edit_whole};
use crate::reply_mask::Mask;
use crate::reply_scan::{HoldBack, ReplyScan, ReplyText};
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
    /// A limit of the model, or of money, does not let it through: another upstream is no way around.
    Limited(ApiError),
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
#[derive(Clone)]
pub(super) struct Outrun {
    is_set: Arc<AtomicBool>,
    counts_against: bool,
}

impl Outrun {
    /// Of an attempt that begins before any other.
    pub(super) fn of_first(is_streamed: bool) -> Outrun {
        Outrun { is_set: Arc::default(), counts_against: is_streamed }
    }

    /// Of one that begins beside a slow first.
    pub(super) fn of_second() -> Outrun {
        Outrun { is_set: Arc::default(), counts_against: false }
    }

    pub(super) fn set(&self) {
        self.is_set.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_set(&self) -> bool {
        self.is_set.load(Ordering::Relaxed)
    }

    /// Whether to be outrun tells against the upstream: it had a start and has not begun a stream that another
    /// has begun by now. Nobody waits for its time to be up, so one that hangs would otherwise be asked first
    /// for ever. Of a whole reply nobody knows whether it has begun: then it was slower, which is no failure.
    pub(super) fn counts_against(&self) -> bool {
        self.counts_against
    }
}

impl Gateway {
    pub(super) async fn attempt(&self, ask: &Ask, this: &Try<'_>) -> Result<Reply, Missed> {
        let &Try { decision, upstream, .. } = this;
        if let Some(allowance) = &ask.request.allowance {
            let name = &ask.request.chat.model;
            let is_priced = upstream.server().is_some();
            let taken = allowance.take_model(upstream.model_name(name), name, is_priced).await;
            taken.map_err(|limited| Missed::Limited(limited.error()))?;
        }
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
                let within = Gateway::ranges(ask, this);
                let permit = permit(decision, server, &body, within, &mut meter)?;
                server.send(permit, shape).await
            }
            (Upstream::Server(_), None) => unreachable!("a body was sealed for every server above"),
        };
        match answer {
            Ok(answer) => {
                let mut reply = self.reply(ask, this, answer, meter).await;
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

    /// Where the upstream's name may lead, by the vouches of the day of the decision.
    fn ranges(ask: &Ask, this: &Try<'_>) -> AddressRanges {
        ask.policy.address_ranges(&known(this.facts, this.upstream), this.facts.today)
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
        let Kept { taint, scans, .. } = &self.parts.kept;
        let caller = &ask.request.caller;
        // Where there is something to find out.
        let is_scanned = !ask.never_cloud && ask.policy.minds_texts();
        let scan = || ReplyScan::new(ask.policy.clone(), scans.clone(), caller.tenant.clone());
        Meter {
            metrics: self.parts.kept.metrics.clone(),
            taint: taint.clone(),
            recorded,
            pass: None,
            reply: Some(Watched {
                print: taint.reply(caller),
                never_cloud: ask.never_cloud,
                scan: is_scanned.then(scan),
                caller: caller.clone(),
                session: ask.request.session.clone(),
            }),
            allowance: ask.request.allowance.clone(),
            model: this.upstream.model_name(&ask.request.chat.model).to_owned(),
            is_priced: this.upstream.server().is_some(),
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

    async fn reply(&self, ask: &Ask, this: &Try<'_>, answer: Answer, mut meter: Meter) -> Reply {
        let &Try { decision, facts, upstream, .. } = this;
        meter.status = Some(answer.status.as_u16());
        let mut reply = match answer.body {
            AnswerBody::Whole { bytes, usage, texts } => {
                let length = bytes.len();
                let look = move || look_at_whole(meter, bytes, &texts);
                let Some((meter, bytes)) = looked_at(length, look).await else {
                    return self.fail(ask, decision, facts, upstream, &reply_withheld());
                };
                let Some(bytes) = bytes else {
                    meter.end(Some(REPLY_FINDING), usage).wait().await;
                    return self.fail(ask, decision, facts, upstream, &reply_withheld());
                };
                meter.end(None, usage).wait().await;
                let bytes = match &ask.redaction {
                    Some(redaction) => restore_whole(redaction, &ask.tools(), bytes),
                    None => bytes,
                };
                Reply::json(answer.status, bytes)
            }
            AnswerBody::Raw { bytes, content_type, usage, texts } => {
                let read = bytes.clone();
                let look = move || {
                    meter.count(&read, &texts);
                    // Nothing can be taken out of what nobody knows: a finding keeps it back.
                    let withheld = meter.must_withhold();
                    (meter, withheld)
                };
                let Some((meter, withheld)) = looked_at(bytes.len(), look).await else {
                    return self.fail(ask, decision, facts, upstream, &reply_withheld());
                };
                if withheld {
                    meter.end(Some(REPLY_FINDING), usage).wait().await;
                    return self.fail(ask, decision, facts, upstream, &reply_withheld());
                }
                meter.end(None, usage).wait().await;
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
        self.stamp(ask, decision, facts, Some(upstream), &mut reply);
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

/// Looks at so many bytes of a reply, on a thread of its own if that takes long: no other connection of
/// this one may wait for it. `None` if the look itself died: then nothing of the reply is known.
async fn looked_at<T: Send + 'static>(
    bytes: usize,
    look: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    if bytes <= SCAN_INLINE_BYTES_MAX {
        return Some(look());
    }
    tokio::task::spawn_blocking(look).await.ok()
}

/// Counts and scans a whole reply. Returns it without what was found in it; `None` if it must not go out.
fn look_at_whole(mut meter: Meter, bytes: Bytes, texts: &[ReplyText]) -> (Meter, Option<Bytes>) {
    meter.count(&bytes, texts);
    if meter.must_cut_at_end() {
        return (meter, None);
    }
    let bytes = match meter.mask() {
        None => Some(bytes),
        Some(mask) => {
            let (bytes, mask) = edit_whole(mask, bytes);
            (!mask.must_cut()).then_some(bytes)
        }
    };
    (meter, bytes)
}

fn permit(
    decision: &Decision,
    server: &ServerUpstream,
    body: &OutboundBody,
    within: AddressRanges,
    meter: &mut Meter,
) -> Result<EgressPermit, Missed> {
    let recorded = meter.recorded.as_ref().ok_or(Missed::NotRecorded)?;
    EgressPermit::mint(decision, server.id(), body, recorded, within).map_err(|denied| {
        tracing::error!(upstream = %server.id(), %denied, "permit was denied after a decision");
        let _ = meter.close(Ending::Failed, Some("not_permitted"), Usage::default());
        Missed::NotPermitted
    })
}

fn reply_withheld() -> ApiError {
    ApiError::refused(&Refusal {
        code: RefusalCode::PolicyBlocked,
        message: "the reply holds text that policy does not let through".to_owned(),
        retry_after_s: None,
    })
}

/// Pulls the events of an answer, lets those go that its scan lets go, and closes the meter at their
/// end.
fn metered(events: Events, meter: Meter, restore: Option<EventRestorer>) -> ByteStream {
    let hold = meter.cuts().then(HoldBack::default);
    let mask = meter.mask().map(EventEditor::new);
    let relay = Relay { events, meter: Some(meter), hold, mask, ready: VecDeque::new() };
    // What was scanned is what the upstream said; the values come back behind the scan.
    Box::pin(stream::unfold((relay, restore), |(mut relay, mut restore)| async {
        let bytes = match (relay.next().await, &mut restore) {
            (Some(bytes), None) => bytes,
            (Some(bytes), Some(restore)) => restore.push(&bytes),
            (None, restore) => Some(restore.take()?.rest()).filter(|rest| !rest.is_empty())?,
        };
        Some((Ok(Frame::data(bytes)), (relay, restore)))
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
                        _ if must_cut => self.cut(Usage::default()).await,
                        None => return Some(bytes),
                        Some(_) if meter.found() => self.cut(Usage::default()).await,
                        Some(hold) => {
                            let text_bytes =
                                texts.iter().filter(|t| t.is_said()).map(|t| t.text.len()).sum();
                            self.ready.extend(hold.push(bytes, text_bytes));
                        }
                    }
                }
                Some(Piece::End { usage, .. }) if meter.must_cut_at_end() => {
                    self.cut(usage).await;
                }
                Some(Piece::End { cut, bytes, usage }) => {
                    if let Some(bytes) = &bytes {
                        meter.data(bytes, &[]);
                    }
                    let (bytes, must_cut) = self.masked_to_end(bytes);
                    if must_cut {
                        self.cut(usage).await;
                        continue;
                    }
                    self.ready.extend(self.hold.take().into_iter().flat_map(|mut h| h.release()));
                    self.ready.extend(Some(bytes).filter(|bytes| !bytes.is_empty()));
                    self.meter.take()?.end(cut, usage).wait().await;
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

    /// The same for what ends a stream, with what is still held.
    fn masked_to_end(&mut self, bytes: Option<Bytes>) -> (Bytes, bool) {
        let (bytes, must_cut) = self.masked(bytes.unwrap_or_default());
        match self.mask.as_mut().filter(|_| bytes.is_empty() && !must_cut) {
            None => (bytes, must_cut),
            Some(mask) => (mask.rest(), mask.edit().must_cut()),
        }
    }

    /// Ends the reply before what was found: what waits is thrown away.
    async fn cut(&mut self, usage: Usage) {
        self.hold = None;
        self.ready = VecDeque::from([error_event(&reply_withheld())]);
        if let Some(meter) = self.meter.take() {
            meter.end(Some(REPLY_FINDING), usage).wait().await;
        }
    }
}
