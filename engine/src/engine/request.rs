//! What goes into the engine and what comes out: options, requests, events, figures.
//!
//! Plain data. Nothing here prints prompt or reply text: the types that hold it have no `Debug`, or
//! one that shows lengths.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::checkpoint::{CheckpointOptions, Reuse};
use crate::error::EngineError;
use crate::io::IoChoice;
use crate::plan::MemoryPlan;
use crate::tokenizer::TokenId;

/// How a model is loaded and run. Fields left `None` are chosen from the machine and the model.
#[derive(Clone, Debug, Default)]
pub struct EngineOptions {
    /// A pack or a Hugging Face directory.
    pub model: PathBuf,
    /// Compute threads; default: the cores this process may use.
    pub threads: Option<usize>,
    /// Which kernels; default: the fastest that this processor has.
    pub backend: BackendChoice,
    /// Bytes that the process may take in all; what the weights and conversations leave of it is for
    /// cached experts. A budget that does not hold the model is an error. Default: what the machine or
    /// its control group has, but an eighth. See [`crate::plan`].
    pub memory_bytes: Option<u64>,
    /// Bytes for cached experts; default: what the memory budget leaves.
    pub expert_cache_bytes: Option<u64>,
    /// Longest prompt plus reply in tokens; default: the model's own limit, at most 8,192, less where
    /// `memory_bytes` holds no more.
    pub context_tokens: Option<usize>,
    /// Generations decoded together; default 4, fewer where memory holds no more.
    pub running_max: Option<usize>,
    /// Generations that may wait; a further one is answered [`EngineError::Busy`]. Default 64.
    pub waiting_max: Option<usize>,
    /// Check each expert's CRC32C when it is read; default true.
    pub verify_experts: Option<bool>,
    /// How experts are read; default: as a short test finds fastest, through the page cache if all fit
    /// in the expert cache.
    pub io: IoChoice,
    /// Experts that are read at once; default: as the test finds fastest.
    pub io_depth: Option<usize>,
    /// Read ahead what the next layer's gate would choose, while that pays; default true.
    pub look_ahead: Option<bool>,
    /// Experts that a token uses in a layer, at most as many as the model was trained with, which is
    /// the default. Fewer are faster and give worse text.
    pub active_experts: Option<usize>,
    /// What is kept of conversations for their next turns.
    pub checkpoints: CheckpointOptions,
    /// Leave out an expert that is not in memory when its share of a token's gate is below this, at most
    /// an even share. Replies then depend on what is in memory. Default: never.
    pub drop_cold_experts: Option<f32>,
}

/// Which kernels compute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BackendChoice {
    /// The fastest backend that works on this processor.
    #[default]
    Auto,
    /// The readable oracle: f32 everywhere, one thread.
    Reference,
    /// Quantised kernels on all threads, AVX2 when the processor has it.
    Cpu,
}

/// What one reply is made from.
#[derive(Clone)]
pub struct GenerationRequest {
    /// The prompt.
    pub prompt: PromptInput,
    /// How tokens are chosen.
    pub sampling: SamplingOptions,
    /// Most tokens to generate; `None`: until the context is full.
    pub max_tokens: Option<usize>,
    /// Texts that end what the reply says; they are not part of it.
    pub stop: Vec<String>,
    /// What form the reply's text has.
    pub format: ReplyFormat,
    /// Report the log probability of each token of the text, and of this many of the likeliest.
    pub logprobs: Option<usize>,
    /// How soon its first token is wanted; default: within half a minute. Who is wanted first is computed
    /// first.
    pub wanted_within: Option<Duration>,
    /// Whose kept states it may go on from, and who may go on from its own; default: it starts from
    /// nothing and leaves nothing.
    pub reuse: Option<Reuse>,
}

impl GenerationRequest {
    /// A reply in plain text, as the model's own defaults say.
    pub fn new(prompt: PromptInput) -> GenerationRequest {
        GenerationRequest {
            prompt,
            sampling: SamplingOptions::default(),
            max_tokens: None,
            stop: Vec::new(),
            format: ReplyFormat::Text,
            logprobs: None,
            wanted_within: None,
            reuse: None,
        }
    }
}

/// What form a reply's text has. Forms are kept by construction: a token that would break one is
/// never chosen.
#[derive(Clone, Default)]
pub enum ReplyFormat {
    /// Any text.
    #[default]
    Text,
    /// A JSON object.
    JsonObject,
    /// A JSON value that a schema describes.
    JsonSchema {
        /// The schema.
        schema: Value,
        /// Refuse a schema with keywords that cannot be enforced, instead of leaving them out.
        strict: bool,
    },
}

/// The prompt in one of three forms.
#[derive(Clone)]
pub enum PromptInput {
    /// A conversation, rendered by the model's own chat template.
    Chat(Conversation),
    /// Plain text, tokenised without a template.
    Text(String),
    /// Token ids as they are.
    Tokens(Vec<TokenId>),
}

impl PromptInput {
    /// A conversation without tools.
    pub fn messages(messages: Vec<ChatMessage>) -> PromptInput {
        PromptInput::Chat(Conversation { messages, ..Conversation::default() })
    }
}

/// What a chat template is given.
#[derive(Clone, Default)]
pub struct Conversation {
    /// The turns so far.
    pub messages: Vec<ChatMessage>,
    /// What the model may call.
    pub tools: Vec<Tool>,
    /// Whether it calls something.
    pub tool_choice: ToolChoice,
    /// End the reply after its first call.
    pub one_call: bool,
    /// The template's `enable_thinking`; `None`: as the template has it.
    pub thinking: Option<bool>,
    /// The template's `reasoning_effort`, a word such as `low`.
    pub reasoning_effort: Option<String>,
}

/// One turn of a conversation.
#[derive(Clone, Default)]
pub struct ChatMessage {
    /// `system`, `user`, `assistant`, `tool`.
    pub role: String,
    /// Its text.
    pub content: String,
    /// What the assistant thought.
    pub reasoning: Option<String>,
    /// What the assistant called.
    pub tool_calls: Vec<ToolCall>,
    /// Which call a tool's message answers.
    pub tool_call_id: Option<String>,
    /// Who speaks: the name of a tool or a person.
    pub name: Option<String>,
}

impl ChatMessage {
    /// A turn that is text and nothing else.
    pub fn new(role: &str, content: &str) -> ChatMessage {
        ChatMessage { role: role.to_owned(), content: content.to_owned(), ..ChatMessage::default() }
    }
}

/// A function that the model may call.
#[derive(Clone)]
pub struct Tool {
    /// Letters, digits, `_`, `-` and `.`.
    pub name: String,
    /// What it does, for the model.
    pub description: Option<String>,
    /// JSON Schema of its arguments, an object; `None`: no arguments.
    pub parameters: Option<Value>,
    /// Arguments follow the schema by construction.
    pub strict: bool,
}

/// A call that the assistant made.
#[derive(Clone)]
pub struct ToolCall {
    /// What the tool's message refers to.
    pub id: String,
    /// The function.
    pub name: String,
    /// Its arguments, JSON.
    pub arguments: String,
}

/// Whether the model calls a tool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ToolChoice {
    /// As it likes.
    #[default]
    Auto,
    /// Never; the template does not see the tools.
    None,
    /// At least once, by construction.
    Required,
    /// This one, by construction.
    Named(String),
}

/// How the next token is chosen from the logits; `None` fields take the model's own defaults
/// (`generation_config.json`).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SamplingOptions {
    /// 0 is greedy; higher is more random.
    pub temperature: Option<f32>,
    /// Keep the k most likely tokens; 0 keeps all.
    pub top_k: Option<usize>,
    /// Keep the smallest set of tokens whose probability reaches p.
    pub top_p: Option<f32>,
    /// Keep tokens whose probability is at least this share of the best one's.
    pub min_p: Option<f32>,
    /// Divide (or multiply) logits of tokens already seen, as in CTRL (arXiv 1909.05858).
    pub repetition_penalty: Option<f32>,
    /// Subtract once for each token that occurs in the reply.
    pub presence_penalty: Option<f32>,
    /// Subtract per occurrence in the reply.
    pub frequency_penalty: Option<f32>,
    /// The same seed gives the same reply.
    pub seed: Option<u64>,
    /// Added to the logits of single tokens; -100 forbids, 100 forces.
    pub logit_bias: Vec<(TokenId, f32)>,
}

/// What a stream yields, in order: deltas, then exactly one end.
#[derive(Clone)]
pub enum StreamEvent {
    /// More of the reply.
    Delta(Delta),
    /// The reply ended well.
    Finished(Finish),
    /// The reply ended with an error; what came before stands.
    Failed(Arc<EngineError>),
}

impl fmt::Debug for StreamEvent {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StreamEvent::Delta(delta) => delta.fmt(out),
            StreamEvent::Finished(finish) => out.debug_tuple("Finished").field(finish).finish(),
            StreamEvent::Failed(error) => out.debug_tuple("Failed").field(error).finish(),
        }
    }
}

/// A piece of a reply. What belongs together is in this order: thoughts, text, calls.
#[derive(Clone, Default)]
pub struct Delta {
    /// Thoughts.
    pub reasoning: String,
    /// Text that is complete in UTF-8 and cannot be part of a stop string.
    pub content: String,
    /// Pieces of tool calls, in the order of the calls.
    pub calls: Vec<CallDelta>,
    /// The tokens of the text, if they were asked for. A token may come before or after its text,
    /// as text is held back until it is certain.
    pub logprobs: Vec<TokenLogprob>,
}

impl Delta {
    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.reasoning.is_empty()
            && self.content.is_empty()
            && self.calls.is_empty()
            && self.logprobs.is_empty()
    }
}

impl fmt::Debug for Delta {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Delta { reasoning, content, calls, logprobs } = self;
        out.debug_struct("Delta")
            .field("reasoning_bytes", &reasoning.len())
            .field("content_bytes", &content.len())
            .field("calls", &calls.len())
            .field("logprobs", &logprobs.len())
            .finish()
    }
}

/// A piece of a tool call. The first piece of a call names it.
#[derive(Clone)]
pub struct CallDelta {
    /// Which call of the reply, from 0.
    pub index: usize,
    /// The function, in the call's first piece.
    pub name: Option<String>,
    /// More of the arguments' JSON.
    pub arguments: String,
}

/// A token of the text and how likely it was.
#[derive(Clone)]
pub struct TokenLogprob {
    /// The token that was chosen.
    pub chosen: ScoredToken,
    /// The likeliest tokens in its place, likeliest first.
    pub likeliest: Vec<ScoredToken>,
}

/// A token's bytes and its natural log probability by the model's own distribution, before
/// temperature, penalties and forms.
#[derive(Clone)]
pub struct ScoredToken {
    /// Possibly half a character.
    pub bytes: Vec<u8>,
    /// At most 0.
    pub logprob: f32,
}

/// How and after how much a reply ended.
#[derive(Clone, Debug)]
pub struct Finish {
    /// Why it ended.
    pub reason: FinishReason,
    /// The stop text that ended it, if one did.
    pub stop: Option<String>,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Those of them that were not computed, since a state was kept that had read them.
    pub cached_tokens: usize,
    /// Tokens generated, the end token not counted.
    pub completion_tokens: usize,
    /// Time in the queue.
    pub queued: Duration,
    /// Time to read the prompt.
    pub prefill: Duration,
    /// Time from the first to the last generated token.
    pub decode: Duration,
    /// What its rounds took of the experts. Rounds that were shared count for each who shared them.
    pub experts: ExpertUse,
}

/// How experts were found and read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExpertUse {
    /// Look-ups that found their expert in memory.
    pub hits: u64,
    /// Look-ups that did not.
    pub misses: u64,
    /// Bytes that were read from flash, those read ahead in vain included.
    pub bytes_read: u64,
    /// Experts that were read ahead, and those of them that were wanted.
    pub read_ahead: u64,
    /// See `read_ahead`.
    pub read_ahead_useful: u64,
    /// Look-ups that were spared because [`EngineOptions::drop_cold_experts`] left their expert out.
    pub dropped: u64,
    /// Time in which nothing was computed because a read was waited for.
    pub stalled: Duration,
    /// Time of the model without that.
    pub computed: Duration,
}

impl ExpertUse {
    /// Share of look-ups that found their expert in memory; `None` before the first.
    pub fn hit_rate(&self) -> Option<f64> {
        let all = self.hits + self.misses;
        (all > 0).then(|| self.hits as f64 / all as f64)
    }

    /// Adds what was counted elsewhere.
    pub(crate) fn add(&mut self, more: &ExpertUse) {
        self.hits += more.hits;
        self.misses += more.misses;
        self.bytes_read += more.bytes_read;
        self.read_ahead += more.read_ahead;
        self.read_ahead_useful += more.read_ahead_useful;
        self.dropped += more.dropped;
        self.stalled += more.stalled;
        self.computed += more.computed;
    }

    /// What was counted since; `computed` is the caller's to fill.
    pub(crate) fn since(&self, before: &ExpertUse) -> ExpertUse {
        ExpertUse {
            hits: self.hits - before.hits,
            misses: self.misses - before.misses,
            bytes_read: self.bytes_read - before.bytes_read,
            read_ahead: self.read_ahead - before.read_ahead,
            read_ahead_useful: self.read_ahead_useful - before.read_ahead_useful,
            dropped: self.dropped - before.dropped,
            stalled: self.stalled.saturating_sub(before.stalled),
            computed: Duration::ZERO,
        }
    }
}

/// Why a reply ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The model's end token or a stop text.
    Stop,
    /// `max_tokens` or the end of the context; a reply that has a form was closed in time if it
    /// could be.
    Length,
    /// The reply called tools and waits for their results.
    ToolCalls,
}

/// What the engine expects of a request that came now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Forecast {
    /// Generations running.
    pub running: usize,
    /// Generations waiting.
    pub waiting: usize,
    /// Expected time to the first token of a short prompt, the queue included.
    pub first_token: Duration,
    /// Expected decode speed of one more generation, tokens a second.
    pub tokens_per_second: f64,
    /// Share of expert look-ups that hit of late; `None` before the first.
    pub expert_hit_rate: Option<f64>,
    /// Bytes of experts that a token read of late.
    pub expert_bytes_per_token: Option<f64>,
}

/// What a loaded model is.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelInfo {
    /// Name for clients: the pack's name or the directory's.
    pub name: String,
    /// `qwen3_5_moe`.
    pub architecture: String,
    /// `demo`, `general` or `approved`, as the pack declares; `general` when it says nothing.
    pub quality: String,
    /// Longest prompt plus reply, tokens.
    pub context_tokens: usize,
    /// Parameters in all.
    pub parameters: u64,
    /// Bytes of dense weights in memory.
    pub dense_bytes: u64,
    /// Bytes of all experts on flash.
    pub expert_bytes: u64,
    /// Short words for the weights' types: `q8_0 dense, q4_0 experts`.
    pub quantisation: String,
    /// What computes: `cpu (avx2, 2 threads)`.
    pub backend: String,
    /// How experts are read.
    pub io: IoChoice,
    /// Experts that are read at once.
    pub io_depth: usize,
    /// Bytes of experts that a test at start read in a second; `None` where none was needed.
    pub read_bytes_per_second: Option<f64>,
    /// Bytes that the expert cache may hold.
    pub expert_cache_bytes: u64,
    /// Experts that a token uses in a layer.
    pub experts_per_token: usize,
    /// What was asked for that makes replies worse for speed: `active_experts=3/4`,
    /// `drop_cold_experts=0.1`. Empty: nothing.
    pub lossy: Vec<String>,
    /// How memory is divided.
    pub plan: MemoryPlan,
}
