//! The embedded engine as an upstream: a chat body in, OpenAI's JSON or events out.
//!
//! A request may ask for several choices. Each is a stream of the engine's own, pulled as the client
//! reads; the events of all are mixed as they come. Inside: `request` (the body's fields), `admission`
//! (who may wait when many do).

mod admission;
mod request;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::stream::{self, SelectAll};
use futures_util::{Stream, StreamExt};
use hyper::StatusCode;
use sluice_engine::{
    Delta, Engine, EngineError, Finish, FinishReason, Forecast, Reuse, StreamEvent, TokenStream,
};
use sluice_policies::Quality;

use super::{Answer, AnswerBody, Piece, Shape, UpstreamError, UpstreamId, Usage};
use crate::api::{ApiError, ChatBody};
use crate::capability::Capabilities;
use crate::metrics::EngineNow;
use crate::reply::{ChatReply, Choice, error_event};
use crate::reply_scan::{Channel, Place, ReplyText};
use admission::{Arrival, Arrivals};
pub(crate) use admission::{InQueue, Urgency};
use request::Asked;

/// The engine in this process.
pub struct EdgeUpstream {
    id: UpstreamId,
    engine: Engine,
    stopped: Arc<AtomicBool>,
    arrivals: Arrivals,
    /// What it can do: its model's, and less where the config says so.
    pub capabilities: Capabilities,
}

impl EdgeUpstream {
    /// Wraps a loaded engine.
    pub fn new(id: UpstreamId, engine: Engine) -> EdgeUpstream {
        let context_tokens = u64::try_from(engine.info().context_tokens).ok();
        let capabilities = Capabilities::of_engine(context_tokens, engine.calls_tools());
        EdgeUpstream {
            id,
            engine,
            stopped: Arc::default(),
            arrivals: Arrivals::default(),
            capabilities,
        }
    }

    /// Its name.
    pub fn id(&self) -> &UpstreamId {
        &self.id
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The quality that the model declares; an unknown word counts as the lowest.
    pub fn quality(&self) -> Quality {
        match self.engine.info().quality.as_str() {
            "approved" => Quality::Approved,
            "general" => Quality::General,
            _ => Quality::Demo,
        }
    }

    /// Whether it takes requests.
    pub fn is_healthy(&self) -> bool {
        !self.stopped.load(Ordering::Relaxed)
    }

    /// What a request that came now could expect.
    pub fn forecast(&self) -> Forecast {
        self.engine.forecast()
    }

    /// What operators watch of it.
    pub fn now(&self) -> EngineNow {
        let Forecast { running, waiting, .. } = self.engine.forecast();
        EngineNow {
            running,
            waiting,
            experts: self.engine.expert_use(),
            checkpoints: self.engine.checkpoint_use(),
            cache_bytes: self.engine.info().expert_cache_bytes,
        }
    }

    /// Answers a request. Waits for the first piece of a stream, so that an early failure can still
    /// be told by status.
    pub(crate) async fn answer(
        &self,
        chat: &ChatBody,
        reply_id: &str,
        shape: Shape,
        urgency: Urgency,
        reuse: Option<Reuse>,
    ) -> Result<(Answer, InQueue), UpstreamError> {
        let mut asked = request::read(&chat.fields, chat.endpoint)?;
        asked.request.wanted_within = urgency.within;
        asked.request.reuse = reuse;
        let arrival = self.admit(urgency)?;
        let scored = asked.request.logprobs.is_some();
        let reply = ChatReply {
            id: reply_id.to_owned(),
            created: jiff::Timestamp::now().as_second(),
            model: self.engine.info().name.clone(),
        };
        let streams = self.submit(asked, arrival).await?;
        let place = self.place(streams.first());
        let choices = Choices::new(streams);
        let answer = match shape.stream {
            true if place.position > 0 && urgency.is_patient() => {
                // Who can wait is told the place at once; a failure then ends the stream.
                self.events_from(choices, None, reply, shape)
            }
            true => self.events(choices, reply, shape).await?,
            false => self.whole(choices, &reply, scored).await?,
        };
        Ok((answer, place))
    }

    /// Turns away whose share of the queue is taken, before anything is read.
    fn admit(&self, urgency: Urgency) -> Result<Arrival, UpstreamError> {
        let crowded = |waiting| self.crowded(urgency.in_words(), waiting);
        self.arrivals.admit(urgency, &self.engine).map_err(crowded)
    }

    fn crowded(&self, what: &'static str, waiting: usize) -> UpstreamError {
        let seconds = self.engine.starts_in(waiting).as_secs_f64().ceil();
        UpstreamError::Crowded { what, waiting, retry_after_s: (seconds as u32).clamp(1, 3600) }
    }

    /// Where a submitted request stands.
    fn place(&self, stream: Option<&TokenStream>) -> InQueue {
        let position = stream.map_or(0, TokenStream::ahead);
        let starts_in = match position {
            0 => Duration::ZERO,
            ahead => self.engine.starts_in(ahead),
        };
        InQueue { position, starts_in }
    }

    /// How many tokens a request has, the model's template included.
    pub(crate) async fn count_tokens(&self, chat: ChatBody) -> Result<usize, UpstreamError> {
        let asked = request::read(&chat.fields, chat.endpoint)?;
        let engine = self.engine.clone();
        match tokio::task::spawn_blocking(move || engine.count_tokens(&asked.request.prompt)).await
        {
            Ok(counted) => counted.map_err(|error| self.failed(Arc::new(error))),
            Err(_) => Err(self.failed(Arc::new(EngineError::Stopped))),
        }
    }

    /// Long prompts take milliseconds to tokenise, and large schemas to compile: not on a thread that
    /// serves sockets.
    async fn submit(
        &self,
        asked: Asked,
        arrival: Arrival,
    ) -> Result<Vec<TokenStream>, UpstreamError> {
        let engine = self.engine.clone();
        let submit = move || {
            let submitted = engine.submit_choices(asked.request, asked.choices);
            drop(arrival);
            submitted
        };
        match tokio::task::spawn_blocking(submit).await {
            Ok(Ok(streams)) => Ok(streams),
            Ok(Err(error)) => Err(self.failed(Arc::new(error))),
            Err(_) => Err(self.failed(Arc::new(EngineError::Stopped))),
        }
    }

    fn failed(&self, error: Arc<EngineError>) -> UpstreamError {
        match &*error {
            EngineError::Stopped => self.stopped.store(true, Ordering::Relaxed),
            EngineError::Busy { waiting } => return self.crowded("anyone", *waiting),
            EngineError::Unsupported { field, what } => {
                let (param, what) = (field.clone().into(), what.clone().into());
                return UpstreamError::Unsupported { param, what };
            }
            _ => {}
        }
        UpstreamError::Engine(error)
    }

    async fn whole(
        &self,
        mut choices: Choices,
        reply: &ChatReply,
        scored: bool,
    ) -> Result<Answer, UpstreamError> {
        let empty = || Choice { logprobs: scored.then(Vec::new), ..Choice::default() };
        let mut whole: Vec<Choice> = (0..choices.running).map(|_| empty()).collect();
        let mut usage = Usage::default();
        while let Some((index, event)) = choices.next().await {
            match event {
                StreamEvent::Delta(delta) => whole[index].add(delta),
                StreamEvent::Finished(finish) => {
                    count(&mut usage, &finish);
                    whole[index].finish_reason = reason(finish.reason);
                    whole[index].stop = finish.stop;
                }
                StreamEvent::Failed(error) => return Err(self.failed(error)),
            }
        }
        if choices.running > 0 {
            return Err(self.failed(Arc::new(EngineError::Stopped)));
        }
        let bytes = reply.whole(&whole, usage);
        let texts =
            whole.into_iter().enumerate().flat_map(|(index, c)| choice_texts(reply, index, c));
        let body = AnswerBody::Whole { bytes, usage, texts: texts.collect() };
        Ok(Answer { status: StatusCode::OK, body })
    }

    async fn events(
        &self,
        mut choices: Choices,
        reply: ChatReply,
        shape: Shape,
    ) -> Result<Answer, UpstreamError> {
        match choices.next().await {
            Some((_, StreamEvent::Failed(error))) => Err(self.failed(error)),
            None => Err(self.failed(Arc::new(EngineError::Stopped))),
            first => Ok(self.events_from(choices, first, reply, shape)),
        }
    }

    fn events_from(
        &self,
        choices: Choices,
        first: Option<(usize, StreamEvent)>,
        reply: ChatReply,
        shape: Shape,
    ) -> Answer {
        let writer = EventWriter {
            roles_due: vec![true; choices.of],
            choices,
            reply,
            shape,
            first,
            usage: Usage::default(),
            over: false,
            stopped: self.stopped.clone(),
        };
        let pieces = stream::unfold(writer, |mut writer| async {
            let piece = writer.next().await?;
            Some((piece, writer))
        });
        Answer { status: StatusCode::OK, body: AnswerBody::Events(Box::pin(pieces)) }
    }
}

/// Events of one choice, with its index.
type ChoiceEvents = Pin<Box<dyn Stream<Item = (usize, StreamEvent)> + Send>>;

/// The streams of all choices, mixed.
struct Choices {
    events: SelectAll<ChoiceEvents>,
    /// Choices in all.
    of: usize,
    /// Choices that have not ended.
    running: usize,
}

impl Choices {
    fn new(streams: Vec<TokenStream>) -> Choices {
        let running = streams.len();
        let events = streams.into_iter().enumerate().map(|(index, stream)| -> ChoiceEvents {
            Box::pin(stream::unfold(stream, move |mut stream| async move {
                let event = stream.next().await?;
                Some(((index, event), stream))
            }))
        });
        Choices { events: stream::select_all(events), of: running, running }
    }

    async fn next(&mut self) -> Option<(usize, StreamEvent)> {
        let (index, event) = self.events.next().await?;
        if !matches!(event, StreamEvent::Delta(_)) {
            self.running -= 1;
        }
        Some((index, event))
    }
}

/// Writes the choices as events.
struct EventWriter {
    choices: Choices,
    reply: ChatReply,
    shape: Shape,
    first: Option<(usize, StreamEvent)>,
    /// Choices whose first event is still to come.
    roles_due: Vec<bool>,
    usage: Usage,
    over: bool,
    stopped: Arc<AtomicBool>,
}

impl EventWriter {
    async fn next(&mut self) -> Option<Piece> {
        if self.over {
            return None;
        }
        let event = match self.first.take() {
            Some(event) => Some(event),
            None => self.choices.next().await,
        };
        let mut out = Vec::with_capacity(256);
        if let Some((index, _)) = &event
            && std::mem::take(&mut self.roles_due[*index])
        {
            self.reply.role(&mut out, *index);
        }
        Some(match event {
            Some((index, StreamEvent::Delta(delta))) => {
                self.reply.delta(&mut out, index, &delta);
                Piece::Data { bytes: out.into(), texts: delta_texts(&self.reply, index, delta) }
            }
            Some((index, StreamEvent::Finished(finish))) => {
                count(&mut self.usage, &finish);
                self.reply.finish(&mut out, index, reason(finish.reason), finish.stop.as_deref());
                if self.choices.running > 0 {
                    return Some(Piece::Data { bytes: out.into(), texts: Vec::new() });
                }
                self.over = true;
                self.reply.done(&mut out, self.shape.include_usage.then_some(self.usage));
                Piece::End { cut: None, bytes: Some(out.into()), usage: self.usage }
            }
            Some((_, StreamEvent::Failed(_))) | None => {
                self.over = true;
                if event.is_none() {
                    self.stopped.store(true, Ordering::Relaxed);
                }
                let bytes = Some(error_event(&ApiError::internal()));
                Piece::End { cut: Some("engine"), bytes, usage: Usage::default() }
            }
        })
    }
}

/// The texts of a piece, for the scan.
fn delta_texts(reply: &ChatReply, choice: usize, delta: Delta) -> Vec<ReplyText> {
    let index = choice as u32;
    let calls = delta.calls.into_iter().flat_map(|call| {
        let number = call.index as u32;
        let id = call.name.map(|_| reply.call_id(choice, call.index)).unwrap_or_default();
        [(Channel::CallId(index, number), id), (Channel::Arguments(index, number), call.arguments)]
    });
    let thought = Channel::Aside(index, Place::of("reasoning_content"));
    let said = [(thought, delta.reasoning), (Channel::Content(index), delta.content)];
    let said = said.into_iter().chain(calls).filter(|(_, text)| !text.is_empty());
    said.map(|(channel, text)| ReplyText::new(channel, text)).collect()
}

/// The texts of a whole choice, for the scan.
fn choice_texts(reply: &ChatReply, choice: usize, whole: Choice) -> Vec<ReplyText> {
    let calls = whole.calls.into_iter().enumerate();
    let calls = calls.map(|(index, (name, arguments))| sluice_engine::CallDelta {
        index,
        name: Some(name),
        arguments,
    });
    let (reasoning, content) = (whole.reasoning, whole.content);
    delta_texts(
        reply,
        choice,
        Delta { reasoning, content, calls: calls.collect(), ..Delta::default() },
    )
}

fn reason(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
        FinishReason::ToolCalls => "tool_calls",
    }
}

/// Adds a choice that has ended. The prompt is read once for all.
fn count(usage: &mut Usage, finish: &Finish) {
    usage.prompt_tokens = Some(finish.prompt_tokens as u64);
    usage.cached_tokens = Some(finish.cached_tokens as u64);
    let before = usage.completion_tokens.unwrap_or(0);
    usage.completion_tokens = Some(before + finish.completion_tokens as u64);
}
