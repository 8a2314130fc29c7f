//! What a request may need of an upstream besides leave to go there.
//!
//! Whoever gathers the facts compares what a request needs with what an upstream can do, and names what
//! is missing in [`crate::UpstreamFacts::lacks`]. A decision leaves out an upstream that lacks anything:
//! this only ever narrows what policy allows.

use serde::{Deserialize, Serialize};

/// Something that not every upstream can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Capability {
    /// A context as long as the prompt.
    ContextTokens,
    /// Calls of tools.
    Tools,
    /// Pictures in the prompt.
    Vision,
    /// A reply in the form that a schema describes.
    StructuredOutput,
    /// The language of the request.
    Languages,
    /// Vectors of texts.
    Embeddings,
}

impl Capability {
    /// The word of config files, headers and errors.
    pub fn in_words(self) -> &'static str {
        match self {
            Capability::ContextTokens => "context_tokens",
            Capability::Tools => "tools",
            Capability::Vision => "vision",
            Capability::StructuredOutput => "structured_output",
            Capability::Languages => "languages",
            Capability::Embeddings => "embeddings",
        }
    }
}
