//! The dialects that clients speak, and where. What is said in them stands with the tests that say it.

/// A dialect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Dialect {
    Chat,
    Completions,
    Responses,
    Messages,
    /// It has no streams.
    Embeddings,
}

/// All of them.
pub(crate) const DIALECTS: [Dialect; 5] = [
    Dialect::Chat,
    Dialect::Completions,
    Dialect::Responses,
    Dialect::Messages,
    Dialect::Embeddings,
];

impl Dialect {
    pub(crate) fn path(self) -> &'static str {
        match self {
            Dialect::Chat => "/v1/chat/completions",
            Dialect::Completions => "/v1/completions",
            Dialect::Responses => "/v1/responses",
            Dialect::Messages => "/v1/messages",
            Dialect::Embeddings => "/v1/embeddings",
        }
    }
}
