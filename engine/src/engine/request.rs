//! What goes into the engine and what comes out: options, requests, events, figures.
//!
//! Plain data. Nothing here prints prompt or reply text: the types that hold it have no `Debug`, or
//! one that shows lengths.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::error::EngineError;
use crate::io::IoChoice;
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
    /// Bytes for cached experts; default: all experts if they fit in half of the free memory.
    pub expert_cache_bytes: Option<u64>,
    /// Longest prompt plus reply in tokens; default: the model's own limit, at most 8,192.
    pub context_tokens: Option<usize>,
    /// Generations decoded together; default 4.
    pub running_max: Option<usize>,
    /// Generations that may wait; a further one is answered [`EngineError::Busy`]. Default 64.
    pub waiting_max: Option<usize>,
    /// Check each expert's CRC32C when it is read; default true.
    pub verify_experts: Option<bool>,
    /// How experts are read; default: around the page cache if they do not fit in the expert cache.
    pub io: IoChoice,
    /// Experts that a token uses in a layer, at most as many as the model was trained with, which is
    /// the default. Fewer are faster and give worse text.
    pub active_experts: Option<usize>,
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
    /// Texts that end the reply; they are not part of it.
    pub stop: Vec<String>,
}

/// The prompt in one of three forms.
#[derive(Clone)]
pub enum PromptInput {
    /// A conversation, rendered by the model's own chat template.
    Messages(Vec<ChatMessage>),
    /// Plain text, tokenised without a template.
    Text(String),
    /// Token ids as they are.
    Tokens(Vec<TokenId>),
}

/// One turn of a conversation.
#[derive(Clone)]
pub struct ChatMessage {
    /// `system`, `user`, `assistant`, `tool`.
    pub role: String,
    /// Its text.
    pub content: String,
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
    /// Text that is complete in UTF-8 and cannot be part of a stop string.
    Text(String),
    /// The reply ended well.
    Finished(Finish),
    /// The reply ended with an error; what came before stands.
    Failed(Arc<EngineError>),
}

impl fmt::Debug for StreamEvent {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StreamEvent::Text(text) => write!(out, "Text({} bytes)", text.len()),
            StreamEvent::Finished(finish) => out.debug_tuple("Finished").field(finish).finish(),
            StreamEvent::Failed(error) => out.debug_tuple("Failed").field(error).finish(),
        }
    }
}

/// How and after how much a reply ended.
#[derive(Clone, Debug)]
pub struct Finish {
    /// Why it ended.
    pub reason: FinishReason,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens generated, the end token not counted.
    pub completion_tokens: usize,
    /// Time in the queue.
    pub queued: Duration,
    /// Time to read the prompt.
    pub prefill: Duration,
    /// Time from the first to the last generated token.
    pub decode: Duration,
}

/// Why a reply ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The model's end token or a stop text.
    Stop,
    /// `max_tokens` or the end of the context.
    Length,
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
    /// Bytes that the expert cache may hold.
    pub expert_cache_bytes: u64,
    /// Experts that a token uses in a layer.
    pub experts_per_token: usize,
}
