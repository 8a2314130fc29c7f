//! Text in, tokens out: an engine that streams a Mixture-of-Experts model from flash.
//!
//! A model's experts are hundreds of gigabytes; a token needs a few of them. The dense part stays in
//! memory, experts are read when a layer's gate chooses them and kept in a cache of bounded bytes.
//! The engine is a library with its own threads: it knows neither HTTP nor policy.
//!
//! Start at [`Engine`]: load once, then [`Engine::submit`] generations and read their [`TokenStream`]s.
//!
//! Invariant: the same model, seed, prompt and backend give the same tokens, byte for byte, whatever
//! the cache size, chunking, batch or thread count, unless [`EngineOptions::drop_cold_experts`] is set.
#![deny(unsafe_code)]

mod backend;
mod chat;
mod checkpoint;
mod clock;
mod engine;
mod error;
pub mod eval;
mod expert;
mod forecast;
mod grammar;
mod io;
mod kv_cache;
mod model;
pub mod pack;
pub mod plan;
mod quant;
mod reply_text;
mod sampler;
pub mod speed;
pub mod synth;
mod tensor;
mod tokenizer;
pub mod trace;
pub mod tune;
#[doc(hidden)]
pub mod untrusted;
mod weights;

pub use checkpoint::{CheckpointDisk, CheckpointOptions, CheckpointUse, Reuse};
pub use engine::{
    BackendChoice, CHOICES_MAX, CallDelta, ChatMessage, Conversation, Delta, Engine, EngineOptions,
    ExpertUse, Finish, FinishReason, Forecast, GenerationRequest, ModelInfo, PromptInput,
    ReplyFormat, SamplingOptions, ScoredToken, StreamEvent, TokenLogprob, TokenStream, Tool,
    ToolCall, ToolChoice,
};
pub use error::{EngineError, PromptLength};
pub use io::IoChoice;
pub use tokenizer::TokenId;
