//! What can go wrong in the engine, by the operation that failed.

use std::fmt;
use std::path::PathBuf;

/// An engine error. `Display` names the operation; the cause is `source()`.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A file could not be opened or read.
    #[error("failed to read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// A file could not be written.
    #[error("failed to write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// A file does not follow its format.
    #[error("{path}: {what}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong, where in the file, and what to do.
        what: String,
    },
    /// The model's architecture is not one that this engine runs.
    #[error("{path}: unsupported architecture {architecture:?}; this version runs: {supported}")]
    UnsupportedArchitecture {
        /// The config file.
        path: PathBuf,
        /// As the file names it.
        architecture: String,
        /// The names that work, with commas.
        supported: String,
    },
    /// The prompt and reply do not fit in the context.
    #[error("the prompt has {prompt_tokens} tokens; this model's context holds {context_tokens}")]
    ContextLengthExceeded {
        /// Of the prompt.
        prompt_tokens: PromptLength,
        /// Tokens that fit, reply included.
        context_tokens: usize,
    },
    /// The queue is full.
    #[error("the engine is busy: {waiting} generations are waiting")]
    Busy {
        /// Generations waiting.
        waiting: usize,
    },
    /// An option is out of range.
    #[error("{0}")]
    InvalidRequest(String),
    /// The request asks for something that this model or engine cannot do.
    #[error("{field}: {what}")]
    Unsupported {
        /// The request's field.
        field: String,
        /// What cannot be done and why.
        what: String,
    },
    /// The chat template could not be rendered.
    #[error("failed to render the chat template: {0}")]
    Template(String),
    /// The tokenizer file is not usable.
    #[error("failed to load the tokenizer: {0}")]
    Tokenizer(String),
    /// An expert could not be read, even after a retry.
    #[error("failed to read expert {expert} of layer {layer}: {what}")]
    Expert {
        /// Layer index.
        layer: usize,
        /// Expert index within the layer.
        expert: usize,
        /// What went wrong.
        what: String,
    },
    /// The memory that was allowed does not hold what a model needs without any cache.
    #[error(
        "the model needs at least {} MiB of memory, {} MiB were allowed; allow more, or a shorter \
         context or fewer generations at once", floor_bytes.div_ceil(1 << 20), memory_bytes >> 20
    )]
    MemoryTooSmall {
        /// What was allowed.
        memory_bytes: u64,
        /// What would do.
        floor_bytes: u64,
    },
    /// The folder for checkpoints cannot be used.
    #[error(
        "failed to prepare {path} for checkpoints; name a folder that this process may write to, or \
         leave them in memory"
    )]
    CheckpointFolder {
        /// The folder.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// A thread could not be started.
    #[error("failed to start the engine's thread")]
    StartThread {
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// The operating system gave no random seed.
    #[error("failed to get a random seed from the operating system; set one in the request")]
    NoRandomness,
    /// The model computed no usable logit, which means broken weights.
    #[error("failed to choose a token: the model's logits hold no number; check its files")]
    NoToken,
    /// A reader took nothing for long while others waited.
    #[error("ended the reply: its reader took nothing for {seconds} s while others waited")]
    ReaderStalled {
        /// How long it was waited for.
        seconds: u64,
    },
    /// The thread that runs the model panicked. It starts anew; what ran is lost.
    #[error("the engine failed while it computed this reply and starts anew; ask again")]
    Panicked,
    /// The engine is stopping or its thread died; nothing further is answered.
    #[error("the engine has stopped")]
    Stopped,
}

/// Tokens of a prompt: one that is far too long is refused before they are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PromptLength {
    /// So many.
    Exactly(usize),
    /// So many or more.
    AtLeast(usize),
}

impl PromptLength {
    /// The number, in either case.
    pub(crate) fn least(self) -> usize {
        let (PromptLength::Exactly(tokens) | PromptLength::AtLeast(tokens)) = self;
        tokens
    }
}

impl fmt::Display for PromptLength {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PromptLength::Exactly(tokens) => write!(f, "{tokens}"),
            PromptLength::AtLeast(tokens) => write!(f, "at least {tokens}"),
        }
    }
}
