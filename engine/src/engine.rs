//! The engine as its callers see it: load a model, submit generations, read token streams.
//!
//! Callers' threads turn text into tokens and back away at once when the queue is full; one thread
//! of the engine owns the model and computes all generations together, round by round. What flows
//! between them is bounded everywhere: the queue, each stream, the places in a round.
//!
//! Invariants: every accepted generation gets exactly one end (`Finished` or `Failed`), unless its
//! reader leaves first; a reader that leaves or stalls costs others nothing; the tokens of a reply
//! do not depend on who else is served. Not here: HTTP, policy, who may ask.

mod generation;
mod loading;
mod queue;
mod request;
mod scheduler;
mod worker;

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::chat::ChatTemplate;
use crate::clock::Clock;
use crate::error::EngineError;
use crate::forecast::Speeds;
use crate::reply_text::ReplyText;
use crate::sampler::Sampler;
use crate::tokenizer::{TokenId, Tokenizer};
use generation::{EVENTS_MAX, Job, Vocabulary};
use queue::Queue;
pub use request::{
    BackendChoice, ChatMessage, EngineOptions, Finish, FinishReason, Forecast, GenerationRequest,
    ModelInfo, PromptInput, SamplingOptions, StreamEvent,
};
use scheduler::{Forward, Scheduler};
use worker::Worker;

/// Generations decoded together when the options say nothing.
const RUNNING_MAX_DEFAULT: usize = 4;
/// Generations that may wait when the options say nothing.
const WAITING_MAX_DEFAULT: usize = 64;

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
    sampling_defaults: SamplingOptions,
    queue: Arc<Queue>,
    speeds: Arc<Speeds>,
    clock: Clock,
}

/// What a model's files say beside its weights.
pub(crate) struct TextSide {
    pub(crate) info: ModelInfo,
    pub(crate) tokenizer_json: Vec<u8>,
    pub(crate) chat_template: Option<String>,
    pub(crate) end_tokens: Vec<TokenId>,
    pub(crate) sampling_defaults: SamplingOptions,
}

/// The events of one generation. Dropping it ends the generation at its next token.
pub struct TokenStream {
    events: mpsc::Receiver<StreamEvent>,
    queue: Arc<Queue>,
    ended: bool,
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
        M::Sequence: Send,
    {
        let shared = Arc::new(Shared::new(text, options, Clock::System)?);
        let vocabulary_size = shared.vocabulary.tokenizer.vocabulary_size();
        loading::measure(&mut model, vocabulary_size, &shared.speeds, &shared.clock)?;
        Worker {
            model: Some(model),
            reload: Box::new(reload),
            scheduler: shared.new_scheduler(),
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
    /// context, or an option is out of range.
    ///
    /// The prompt is tokenised on the caller's thread, about a millisecond for each 4 KiB; async
    /// callers with long prompts do well to call this where blocking is allowed.
    pub fn submit(&self, request: GenerationRequest) -> Result<TokenStream, EngineError> {
        let shared = &*self.shared;
        shared.queue.check_room()?;
        let prompt = shared.prompt_tokens(&request.prompt)?;
        let tokens_max = shared.reply_tokens_max(prompt.len(), request.max_tokens)?;
        let sampler = shared.sampler(&request.sampling, &prompt)?;
        let text = ReplyText::new(request.stop)?;
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let submitted = shared.clock.now();
        shared.queue.push(Job { prompt, tokens_max, sampler, text, events: sender, submitted })?;
        Ok(TokenStream { events, queue: shared.queue.clone(), ended: false })
    }

    /// How many tokens a prompt has, its template included. A text that is far longer than the
    /// context is an error, as in [`Engine::submit`], and not counted to its end.
    pub fn count_tokens(&self, prompt: &PromptInput) -> Result<usize, EngineError> {
        self.shared.prompt_tokens(prompt).map(|tokens| tokens.len())
    }

    /// What a request that came now could expect.
    pub fn forecast(&self) -> Forecast {
        let load = self.shared.queue.load();
        self.shared.speeds.forecast(load.running, load.waiting)
    }
}

impl Shared {
    fn new(text: TextSide, options: &EngineOptions, clock: Clock) -> Result<Shared, EngineError> {
        let running_max = options.running_max.unwrap_or(RUNNING_MAX_DEFAULT).max(1);
        let waiting_max = options.waiting_max.unwrap_or(WAITING_MAX_DEFAULT);
        let tokenizer = Tokenizer::from_json(&text.tokenizer_json)?;
        let template = text.chat_template.as_deref().map(ChatTemplate::new).transpose()?;
        let shared = Shared {
            info: text.info,
            vocabulary: Arc::new(Vocabulary { tokenizer, ends: text.end_tokens }),
            template,
            sampling_defaults: text.sampling_defaults,
            queue: Arc::new(Queue::new(waiting_max, running_max)),
            speeds: Arc::new(Speeds::new(running_max)),
            clock,
        };
        // Defaults out of range are the model's fault: say so now and not at the first request.
        shared.sampler(&SamplingOptions::default(), &[])?;
        Ok(shared)
    }

    fn new_scheduler<S>(&self) -> Scheduler<S> {
        Scheduler::new(scheduler::Shared {
            queue: self.queue.clone(),
            vocabulary: self.vocabulary.clone(),
            speeds: self.speeds.clone(),
            clock: self.clock.clone(),
        })
    }

    fn sampler(
        &self,
        options: &SamplingOptions,
        prompt: &[TokenId],
    ) -> Result<Sampler, EngineError> {
        let vocabulary_size = self.vocabulary.tokenizer.vocabulary_size();
        Sampler::new(options, &self.sampling_defaults, prompt, vocabulary_size)
    }

    /// The prompt as tokens: at least one, each in the vocabulary.
    fn prompt_tokens(&self, prompt: &PromptInput) -> Result<Vec<TokenId>, EngineError> {
        let tokenizer = &self.vocabulary.tokenizer;
        let tokens = match prompt {
            PromptInput::Text(text) => {
                self.refuse_far_too_long(text.len())?;
                tokenizer.encode_text(text)?
            }
            PromptInput::Messages(messages) => {
                self.refuse_far_too_long(messages.iter().map(|m| m.content.len()).sum())?;
                // Templates write at least one token for each message.
                self.check_fits(messages.len())?;
                let template = self.template.as_ref().ok_or_else(|| {
                    let what = "this model has no chat template; send plain text or tokens";
                    EngineError::Template(what.to_owned())
                })?;
                template.encode(messages, tokenizer)?
            }
            PromptInput::Tokens(tokens) => tokens.clone(),
        };
        let vocabulary_size = tokenizer.vocabulary_size();
        match tokens.iter().find(|&&token| token as usize >= vocabulary_size) {
            Some(token) => Err(EngineError::InvalidRequest(format!(
                "prompt: expected token ids below {vocabulary_size}, got {token}"
            ))),
            None if tokens.is_empty() => Err(EngineError::InvalidRequest(
                "prompt: expected at least one token, got none".to_owned(),
            )),
            None => Ok(tokens),
        }
    }

    /// Refuses a text that cannot fit whatever its tokens are, before time is spent on it.
    fn refuse_far_too_long(&self, text_bytes: usize) -> Result<(), EngineError> {
        let prompt_tokens = self.vocabulary.tokenizer.tokens_at_least(text_bytes);
        self.check_fits(prompt_tokens)
    }

    fn check_fits(&self, prompt_tokens: usize) -> Result<(), EngineError> {
        let context_tokens = self.info.context_tokens;
        // One token of the reply has to fit as well.
        if prompt_tokens < context_tokens {
            return Ok(());
        }
        Err(EngineError::ContextLengthExceeded { prompt_tokens, context_tokens })
    }

    /// The most tokens that a reply may have: what was asked, or what the context leaves.
    fn reply_tokens_max(
        &self,
        prompt_tokens: usize,
        asked: Option<usize>,
    ) -> Result<usize, EngineError> {
        self.check_fits(prompt_tokens)?;
        let left = self.info.context_tokens - prompt_tokens;
        match asked {
            Some(0) => Err(EngineError::InvalidRequest(
                "max_tokens: expected at least 1, got 0".to_owned(),
            )),
            asked => Ok(asked.unwrap_or(left).min(left)),
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.queue.close();
    }
}

impl TokenStream {
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
        self.ended = !matches!(event, StreamEvent::Text(_));
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
