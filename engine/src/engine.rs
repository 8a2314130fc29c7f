//! The engine as its callers see it: load a model, submit generations, read token streams.
//!
//! Callers' threads turn text into tokens and back away at once when the queue is full; one thread
//! of the engine owns the model and computes all generations together, round by round. What flows
//! between them is bounded everywhere: the queue, each stream, the places in a round.
//!
//! Invariants: every accepted generation gets exactly one end (`Finished` or `Failed`), unless its
//! reader leaves first; a reader that leaves or stalls costs others nothing; the tokens of a reply
//! do not depend on who else is served. Not here: HTTP, policy, who may ask.

mod form;
mod generation;
mod loading;
mod queue;
mod request;
mod scheduler;
mod scores;
mod submission;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::chat::{ChatTemplate, Markup, SpecialTokens};
use crate::checkpoint::{CheckpointOptions, CheckpointUse, Checkpoints, Counts, State};
use crate::clock::Clock;
use crate::error::EngineError;
use crate::forecast::Speeds;
use crate::sampler::Sampler;
use crate::tokenizer::{TokenId, Tokenizer};
use generation::Vocabulary;
use queue::Queue;
pub use request::{
    BackendChoice, CallDelta, ChatMessage, Conversation, Delta, EngineOptions, ExpertUse, Finish,
    FinishReason, Forecast, GenerationRequest, ModelInfo, PromptInput, ReplyFormat,
    SamplingOptions, ScoredToken, StreamEvent, TokenLogprob, Tool, ToolCall, ToolChoice,
};
use scheduler::{Forward, Scheduler};
use submission::Submission;
use worker::Worker;

/// Generations that may wait when the options say nothing.
const WAITING_MAX_DEFAULT: usize = 64;
/// How soon a first token is wanted where a request does not say.
pub(crate) const WANTED_WITHIN_DEFAULT: Duration = Duration::from_secs(30);
/// Replies to one prompt; each holds a state of its own in memory.
pub const CHOICES_MAX: usize = 16;

/// A loaded model and the thread that runs it. Cloning is cheap; the last clone that goes stops the
/// thread after the running generations have been told.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
}

/// What all clones of an engine share. Streams hold only the queue, so that they do not keep an
/// engine alive that nobody can ask any more.
struct Shared {
    info: ModelInfo,
    vocabulary: Arc<Vocabulary>,
    template: Option<ChatTemplate>,
    special: SpecialTokens,
    sampling_defaults: SamplingOptions,
    queue: Arc<Queue>,
    speeds: Arc<Speeds>,
    checkpoints: Counts,
    /// Tokens between two kept states of a long prompt.
    checkpoint_every: usize,
    clock: Clock,
}

/// What a model's files say beside its weights.
pub(crate) struct TextSide {
    pub(crate) info: ModelInfo,
    pub(crate) tokenizer_json: Vec<u8>,
    pub(crate) chat_template: Option<String>,
    pub(crate) end_tokens: Vec<TokenId>,
    pub(crate) special: SpecialTokens,
    pub(crate) sampling_defaults: SamplingOptions,
}

/// The events of one generation. Dropping it ends the generation at its next token.
pub struct TokenStream {
    events: mpsc::Receiver<StreamEvent>,
    queue: Arc<Queue>,
    ended: bool,
    ahead: usize,
}

impl Engine {
    /// Loads a model, measures it for a moment and starts the engine's threads.
    ///
    /// Blocks until the model can answer. Errors name the file that is missing or broken.
    pub fn load(options: &EngineOptions) -> Result<Engine, EngineError> {
        let (model, text) = loading::load(options)?;
        let again = options.clone();
        Engine::start(model, text, options, move || Ok(loading::load(&again)?.0))
    }

    /// Starts the engine's thread on a model that is loaded.
    fn start<M>(
        mut model: M,
        text: TextSide,
        options: &EngineOptions,
        reload: impl FnMut() -> Result<M, EngineError> + Send + 'static,
    ) -> Result<Engine, EngineError>
    where
        M: Forward + Send + 'static,
    {
        let shared = Arc::new(Shared::new(text, options, Clock::System)?);
        let vocabulary_size = shared.vocabulary.tokenizer.vocabulary_size();
        loading::measure(&mut model, vocabulary_size, &shared.speeds, &shared.clock)?;
        Worker {
            model: Some(model),
            reload: Box::new(reload),
            scheduler: shared.new_scheduler(&options.checkpoints)?,
            queue: shared.queue.clone(),
            speeds: shared.speeds.clone(),
        }
        .start()?;
        Ok(Engine { shared })
    }

    /// What is loaded.
    pub fn info(&self) -> &ModelInfo {
        &self.shared.info
    }

    /// Queues a generation. Errors at once when the queue is full, the prompt is longer than the
    /// context, an option is out of range, or the model cannot do what is asked.
    ///
    /// The prompt is tokenised on the caller's thread, about a millisecond for each 4 KiB, and a form
    /// is made ready; async callers do well to call this where blocking is allowed.
    pub fn submit(&self, request: GenerationRequest) -> Result<TokenStream, EngineError> {
        let mut streams = self.submit_choices(request, 1)?;
        Ok(streams.pop().expect("one reply was asked for"))
    }

    /// Queues several replies to one prompt, at most [`CHOICES_MAX`], each with a seed of its own that
    /// follows from the request's. The prompt is read once. Dropping a stream ends its own reply.
    pub fn submit_choices(
        &self,
        request: GenerationRequest,
        choices: usize,
    ) -> Result<Vec<TokenStream>, EngineError> {
        let shared = &*self.shared;
        shared.queue.check_room()?;
        if !(1..=CHOICES_MAX).contains(&choices) {
            return Err(EngineError::InvalidRequest(format!(
                "n: expected a number from 1 to {CHOICES_MAX}, got {choices}"
            )));
        }
        let Submission { mut jobs, events } = shared.submission(request, choices)?;
        let mut first = jobs.remove(0);
        first.siblings = jobs;
        let ahead = shared.queue.push(first)?;
        let queue = || shared.queue.clone();
        let stream = |events| TokenStream { events, queue: queue(), ended: false, ahead };
        Ok(events.into_iter().map(stream).collect())
    }

    /// The model's chat template shows tools and how they are called.
    pub fn calls_tools(&self) -> bool {
        self.shared.vocabulary.markup.call_form.is_some()
    }

    /// How many tokens a prompt has, its template included. A text that is far longer than the
    /// context is an error, as in [`Engine::submit`], and not counted to its end.
    pub fn count_tokens(&self, prompt: &PromptInput) -> Result<usize, EngineError> {
        self.shared.rendered(prompt).map(|rendered| rendered.tokens.len())
    }

    /// What a request that came now could expect.
    pub fn forecast(&self) -> Forecast {
        let load = self.shared.queue.load();
        self.shared.speeds.forecast(load.running, load.waiting)
    }

    /// How long until a generation starts that has so many waiting before it, all places being taken; no
    /// time if one is free.
    pub fn starts_in(&self, ahead: usize) -> Duration {
        let load = self.shared.queue.load();
        self.shared.speeds.queue_time(load.running + ahead)
    }

    /// Generations that are computed together; further ones wait.
    pub fn running_max(&self) -> usize {
        self.shared.queue.running_max()
    }

    /// Generations that may wait; a further one is refused as `Busy`.
    pub fn waiting_max(&self) -> usize {
        self.shared.queue.waiting_max()
    }

    /// How experts were found and read since the model was loaded.
    pub fn expert_use(&self) -> ExpertUse {
        self.shared.speeds.expert_use()
    }

    /// What became of kept states since the model was loaded.
    pub fn checkpoint_use(&self) -> CheckpointUse {
        self.shared.checkpoints.now()
    }
}

impl Shared {
    fn new(text: TextSide, options: &EngineOptions, clock: Clock) -> Result<Shared, EngineError> {
        let running_max = options.running_max.unwrap_or(text.info.plan.running_max).max(1);
        let waiting_max = options.waiting_max.unwrap_or(WAITING_MAX_DEFAULT);
        let tokenizer = Tokenizer::from_json(&text.tokenizer_json)?;
        let new = |source: &str| ChatTemplate::new(source, &text.special);
        let template = text.chat_template.as_deref().map(new).transpose()?;
        let markup = Markup::new(&tokenizer, template.as_ref().map(ChatTemplate::source));
        let shared = Shared {
            info: text.info,
            vocabulary: Arc::new(Vocabulary::new(tokenizer, text.end_tokens, markup)),
            template,
            special: text.special,
            sampling_defaults: text.sampling_defaults,
            queue: Arc::new(Queue::new(waiting_max, running_max)),
            speeds: Arc::new(Speeds::new(running_max)),
            checkpoints: Counts::default(),
            checkpoint_every: options.checkpoints.every_tokens(),
            clock,
        };
        // Defaults out of range are the model's fault: say so now and not at the first request.
        shared.sampler(&SamplingOptions::default(), &[], 0)?;
        Ok(shared)
    }

    fn new_scheduler<S: State>(
        &self,
        options: &CheckpointOptions,
    ) -> Result<Scheduler<S>, EngineError> {
        let (bytes, queue) = (self.info.plan.checkpoint_bytes, self.queue.clone());
        let wake = move || queue.wake();
        let checkpoints = Checkpoints::new(bytes, options, &self.checkpoints, wake)?;
        let shared = scheduler::Shared {
            queue: self.queue.clone(),
            vocabulary: self.vocabulary.clone(),
            speeds: self.speeds.clone(),
            clock: self.clock.clone(),
        };
        Ok(Scheduler::new(shared, checkpoints))
    }

    fn sampler(
        &self,
        options: &SamplingOptions,
        prompt: &[TokenId],
        choice: usize,
    ) -> Result<Sampler, EngineError> {
        let vocabulary_size = self.vocabulary.tokenizer.vocabulary_size();
        Sampler::new(options, &self.sampling_defaults, prompt, vocabulary_size, choice)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.queue.close();
    }
}

impl TokenStream {
    /// Generations that waited before it when it came, and had no place yet.
    pub fn ahead(&self) -> usize {
        self.ahead
    }

    /// The next event, or `None` after the end.
    pub async fn next(&mut self) -> Option<StreamEvent> {
        let event = self.events.recv().await;
        self.took(event)
    }

    /// The next event, waiting on this thread; not to be called inside an async runtime.
    pub fn next_blocking(&mut self) -> Option<StreamEvent> {
        let event = self.events.blocking_recv();
        self.took(event)
    }

    /// Tells the engine that there is room again, and sees to it that there is exactly one end.
    fn took(&mut self, event: Option<StreamEvent>) -> Option<StreamEvent> {
        self.queue.reader_took();
        let event = match event {
            None if self.ended => return None,
            // Only a panic lets go of a reply without a word.
            None => StreamEvent::Failed(Arc::new(EngineError::Panicked)),
            Some(event) => event,
        };
        self.ended = !matches!(event, StreamEvent::Delta(_));
        Some(event)
    }
}

impl Drop for TokenStream {
    fn drop(&mut self) {
        self.events.close();
        self.queue.reader_left();
    }
}

#[cfg(test)]
mod tests;
