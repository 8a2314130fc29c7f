//! What would leave this machine: every text of a request with its place, and what cannot be read.
//!
//! The gateway's dialects fill a [`Prompt`]; detectors see nothing else. A field that a dialect does
//! not know goes in twice: its JSON text as a [`Text`], and an [`Unscanned`] of kind
//! [`ContentKind::UnknownField`], so that nothing is ever silently ignored.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

/// A request as the policy engine sees it.
#[derive(Clone, Default)]
pub struct Prompt {
    /// Every text that would be sent, in the order of the conversation.
    pub texts: Vec<Text>,
    /// Content that no detector can read.
    pub unscanned: Vec<Unscanned>,
    /// Who sends it, to which model, with which headers and tags.
    pub context: RequestContext,
}

/// One text of a request.
#[derive(Clone)]
pub struct Text {
    /// Where it stands, as a path of the request body: `messages[2].content`, `tools[0].function.name`.
    pub place: String,
    /// Index of the message it belongs to, for rules that look at one message or at the conversation;
    /// `None` for texts outside the messages (tool definitions, metadata).
    pub message: Option<usize>,
    /// Who wrote it.
    pub role: Role,
    /// The text itself. Never logged: `Debug` prints its length only.
    pub text: String,
}

/// Who wrote a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The system or developer prompt.
    System,
    /// The person or application.
    User,
    /// An earlier reply of a model.
    Assistant,
    /// The result of a tool call.
    Tool,
    /// Anything else: tool definitions, names, metadata, unknown fields.
    Other,
}

/// Content that no detector can read, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unscanned {
    /// What kind of content; `must_answer.cannot_scan` in `site.yaml` says what happens to each.
    pub kind: ContentKind,
    /// Path in the request body.
    pub place: String,
}

/// Kinds of content that cannot be scanned; each needs an answer in `site.yaml`.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum ContentKind {
    /// A picture, inline or by data URL.
    Image,
    /// Sound, inline.
    Audio,
    /// A file stored at a provider, by id.
    FileReference,
    /// An encrypted or otherwise undecodable file or blob.
    EncryptedFile,
    /// An address that the provider would fetch.
    RemoteUrl,
    /// Token ids instead of text.
    TokenIds,
    /// A tool that runs at the provider: web search, code interpreter, remote MCP.
    HostedTool,
    /// State kept at the provider: stored responses, conversations, threads.
    ProviderStoredState,
    /// A field that the dialect's table does not list.
    UnknownField,
}

impl ContentKind {
    /// The kinds that hide in texts, encoded.
    pub(crate) const IN_TEXTS: [ContentKind; 3] =
        [ContentKind::Image, ContentKind::Audio, ContentKind::EncryptedFile];

    /// The word of policy files.
    pub fn in_words(self) -> &'static str {
        match self {
            ContentKind::Image => "image",
            ContentKind::Audio => "audio",
            ContentKind::FileReference => "file_reference",
            ContentKind::EncryptedFile => "encrypted_file",
            ContentKind::RemoteUrl => "remote_url",
            ContentKind::TokenIds => "token_ids",
            ContentKind::HostedTool => "hosted_tool",
            ContentKind::ProviderStoredState => "provider_stored_state",
            ContentKind::UnknownField => "unknown_field",
        }
    }
}

/// What kind of answer a request asks for, whatever the dialect.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Endpoint {
    /// A turn of a conversation: chat completions, responses, messages.
    Chat,
    /// A text that goes on: completions.
    Completions,
    /// Vectors of texts.
    Embeddings,
}

impl Endpoint {
    /// The endpoint behind a path, if it is one of these.
    pub fn of(path: &str) -> Option<Endpoint> {
        match path.trim_end_matches('/').trim_start_matches("/v1/") {
            "chat/completions" | "responses" | "messages" => Some(Endpoint::Chat),
            "completions" => Some(Endpoint::Completions),
            "embeddings" => Some(Endpoint::Embeddings),
            _ => None,
        }
    }

    /// The word of policy files.
    pub fn in_words(self) -> &'static str {
        match self {
            Endpoint::Chat => "chat",
            Endpoint::Completions => "completions",
            Endpoint::Embeddings => "embeddings",
        }
    }
}

/// What is known of the request besides its texts.
#[derive(Clone, Default)]
pub struct RequestContext {
    /// Request headers, names in lower case; only those that a rule may match are needed.
    pub headers: BTreeMap<String, String>,
    /// Tags that the client sent (`x-sluice-tags`); they may raise a class, never lower it.
    pub tags: BTreeSet<String>,
    /// Tags of the caller's API key or token, set by the platform team.
    pub key_tags: BTreeSet<String>,
    /// A class that the client asks for (`x-sluice-class`); it can only raise.
    pub class: Option<String>,
    /// A latency class that the client asks for (`x-sluice-latency`, `service_tier`).
    pub latency: Option<String>,
    /// The model as named by the client.
    pub model: String,
    /// The path of the request, `/v1/chat/completions`.
    pub path: String,
    /// The caller's id, if its key is known.
    pub caller: Option<String>,
    /// The caller's tenant; empty is nobody's.
    pub tenant: String,
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Text")
            .field("place", &self.place)
            .field("role", &self.role)
            .field("bytes", &self.text.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for RequestContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestContext")
            .field("headers", &self.headers.len())
            .field("tags", &self.tags)
            .field("key_tags", &self.key_tags)
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Prompt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prompt")
            .field("texts", &self.texts)
            .field("unscanned", &self.unscanned)
            .finish_non_exhaustive()
    }
}

impl Prompt {
    /// A prompt of one user message, as `sluice decide` makes from plain text.
    pub fn from_user_text(text: impl Into<String>) -> Self {
        Prompt {
            texts: vec![Text {
                place: "messages[0].content".to_owned(),
                message: Some(0),
                role: Role::User,
                text: text.into(),
            }],
            ..Prompt::default()
        }
    }
}
