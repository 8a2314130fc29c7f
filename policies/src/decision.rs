//! Where a request may go: the facts that a decision looks at, and the decision.

use serde::{Deserialize, Serialize};

use crate::capability::Capability;
use crate::complexity::{self, Complexity, Sign};
use crate::prompt::Prompt;
use crate::wish::Wish;

/// Where an upstream stands; the same words as on the wire.
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
pub enum Zone {
    /// The engine inside this process.
    Edge,
    /// A server on the organisation's own premises.
    OnPrem,
    /// Anything else.
    Cloud,
}

impl Zone {
    /// The word of files, headers and metrics.
    pub fn in_words(self) -> &'static str {
        match self {
            Zone::Edge => "edge",
            Zone::OnPrem => "on_prem",
            Zone::Cloud => "cloud",
        }
    }

    /// The route of a request that an upstream in this zone answers.
    pub fn route(self) -> Route {
        match self {
            Zone::Edge => Route::Edge,
            Zone::OnPrem => Route::OnPrem,
            Zone::Cloud => Route::Cloud,
        }
    }
}

/// The word that headers, JSON, audit and metrics use for the outcome.
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
pub enum Route {
    /// Answered by the embedded engine.
    Edge,
    /// Answered by a vouched server on the organisation's premises.
    OnPrem,
    /// Answered by a cloud upstream.
    Cloud,
    /// Not answered.
    Refuse,
}

/// How good the answers of an upstream are, as compliance vouches for it.
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
pub enum Quality {
    /// A demonstration model: it answers, and may be wrong.
    Demo,
    /// Good for general use.
    General,
    /// Approved for regulated work.
    Approved,
}

impl Quality {
    /// The word of files and headers.
    pub fn in_words(self) -> &'static str {
        match self {
            Quality::Demo => "demo",
            Quality::General => "general",
            Quality::Approved => "approved",
        }
    }
}

/// Whether this is a first look without config or a configured installation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// No config: the demo model answers everything that must stay private, and says so.
    #[default]
    Trial,
    /// The demo model serves never-cloud text only if the site says `allow_demo_model: true`.
    Production,
}

/// One upstream as the platform configured it and as it is right now. What compliance vouches for
/// (region, baa, zero retention, quality) is not here: it stands in the site file and counts only if
/// scheme, host and port agree.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UpstreamFacts {
    /// The name in `sluice.yaml`.
    pub id: String,
    /// `edge` for the embedded engine; `None` for a network upstream, whose zone comes from its vouch
    /// and is `cloud` without one.
    #[serde(default)]
    pub edge: bool,
    /// `https`, `http`; empty for the edge.
    #[serde(default)]
    pub scheme: String,
    /// Host name or address; empty for the edge.
    #[serde(default)]
    pub host: String,
    /// Port; 0 for the edge.
    #[serde(default)]
    pub port: u16,
    /// Its breaker is closed and it is ready.
    pub healthy: bool,
    /// The quality that the edge's model file declares, or that the platform claims for a server. What
    /// classes demand of a server is vouched; this only orders servers for whom nobody vouches.
    #[serde(default)]
    pub quality: Option<Quality>,
    /// Expected milliseconds until the first token, if known.
    #[serde(default)]
    pub first_token_ms: Option<u64>,
    /// Expected tokens a second, if known.
    #[serde(default)]
    pub tokens_per_second: Option<f64>,
    /// Milliseconds until its last answers began, if it was asked of late: for the wish `fast` alone, since
    /// an answer that is not streamed begins when it is whole.
    #[serde(default)]
    pub begins_ms: Option<u64>,
    /// What the request needs and the upstream cannot do.
    #[serde(default)]
    pub lacks: Vec<Capability>,
}

impl UpstreamFacts {
    /// The engine in this process, healthy; nothing is known of its model and its speed.
    pub fn edge(id: &str) -> UpstreamFacts {
        UpstreamFacts { edge: true, ..UpstreamFacts::server(id, "", "", 0) }
    }

    /// A server, healthy; nothing else is known of it.
    pub fn server(id: &str, scheme: &str, host: &str, port: u16) -> UpstreamFacts {
        UpstreamFacts {
            id: id.to_owned(),
            edge: false,
            scheme: scheme.to_owned(),
            host: host.to_owned(),
            port,
            healthy: true,
            quality: None,
            first_token_ms: None,
            tokens_per_second: None,
            begins_ms: None,
            lacks: Vec::new(),
        }
    }
}

/// What a choice among the allowed looks at in the request itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RequestFacts {
    /// The virtual model that the client names, if it names one.
    #[serde(default)]
    pub wish: Option<Wish>,
    /// How hard the request looks; `None` if nobody looked.
    #[serde(default)]
    pub complexity: Option<Complexity>,
    /// Why it looks hard.
    #[serde(default)]
    pub signs: Vec<Sign>,
}

impl RequestFacts {
    /// What the model that a prompt names says; nobody looks how hard the prompt is.
    pub fn unread(prompt: &Prompt) -> RequestFacts {
        let wish = Wish::named(&prompt.context.model);
        RequestFacts { wish, ..RequestFacts::default() }
    }

    /// What a prompt and the model that it names say.
    pub fn of(prompt: &Prompt) -> RequestFacts {
        let signs = complexity::signs(prompt);
        let complexity = if signs.is_empty() { Complexity::Simple } else { Complexity::Complex };
        RequestFacts { complexity: Some(complexity), signs, ..RequestFacts::unread(prompt) }
    }
}

/// What is true at the moment of a decision. Recorded with it, so that it can be replayed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// `YYYY-MM-DD`: rules, vouches and exceptions start and end on dates.
    pub today: jiff::civil::Date,
    /// Trial or production.
    #[serde(default)]
    pub mode: Mode,
    /// Why there is no network, if there is none: declared by a person, or every breaker is open.
    #[serde(default)]
    pub offline: Option<String>,
    /// The audit log takes records.
    #[serde(default = "yes")]
    pub audit_writable: bool,
    /// This conversation has held never-cloud text before.
    #[serde(default)]
    pub tainted: bool,
    /// Whether this conversation is tainted cannot be told.
    #[serde(default)]
    pub taint_unknown: bool,
    /// What the request itself says about who should answer.
    #[serde(default)]
    pub request: RequestFacts,
    /// All upstreams of the config, in its order.
    pub upstreams: Vec<UpstreamFacts>,
}

impl Facts {
    /// A day in a trial on which nothing is the matter: online, the log is written, nothing is tainted.
    pub fn ordinary(today: jiff::civil::Date, upstreams: Vec<UpstreamFacts>) -> Facts {
        Facts {
            today,
            mode: Mode::Trial,
            offline: None,
            audit_writable: true,
            tainted: false,
            taint_unknown: false,
            request: RequestFacts::default(),
            upstreams,
        }
    }

    /// What is known of an upstream.
    pub fn upstream(&self, id: &str) -> Option<&UpstreamFacts> {
        self.upstreams.iter().find(|upstream| upstream.id == id)
    }
}

fn yes() -> bool {
    true
}

/// Where a request goes, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// The outcome: zone of the first choice, or refuse.
    pub route: Route,
    /// The first choice.
    pub upstream: Option<String>,
    /// All upstreams that policy allows, best first; retries and fallbacks stay inside this list.
    pub allowed: Vec<String>,
    /// Final sensitivity class (taint and unknown callers may have raised it).
    pub class: String,
    /// Labels in order.
    pub labels: Vec<String>,
    /// Latency class.
    pub latency: String,
    /// Findings must be replaced by placeholders before the text is sent.
    pub redact: bool,
    /// Ids of all matched rules, sorted.
    pub rules: Vec<String>,
    /// Ids of the rules that raised to the final class, sorted.
    pub raised_by: Vec<String>,
    /// The text never goes to a cloud.
    pub never_cloud: bool,
    /// One sentence for a person.
    pub reason: String,
    /// Why nothing may answer, if the route is `refuse`.
    pub refusal: Option<Refusal>,
    /// SHA-256 of the policy set that decided.
    pub policy_digest: String,
    /// The site allows to hold the request for so many milliseconds and to decide again: the refusal
    /// then is about this moment only.
    #[serde(default)]
    pub queue_ms_max: Option<u64>,
}

/// Why a request is refused, and what the caller can do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Stable code for clients: `policy_blocked`, `edge_unavailable`, …
    pub code: RefusalCode,
    /// One sentence, without any of the text.
    pub message: String,
    /// Seconds after which trying again makes sense; only for passing conditions.
    pub retry_after_s: Option<u32>,
}

/// Stable refusal codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalCode {
    /// Policy allows no upstream at all: 403.
    PolicyBlocked,
    /// Only the edge is allowed and it cannot answer now: 503.
    EdgeUnavailable,
    /// Only the edge is allowed and it is too slow for this latency class: 503.
    EdgeTooSlow,
    /// The edge's model is not good enough for this class in production: 503.
    EdgeInadequate,
    /// The audit log cannot be written and policy refuses then: 503.
    AuditDown,
    /// Every allowed upstream is down: 503.
    UpstreamUnavailable,
    /// Every allowed upstream lacks something that the request needs: 400.
    LacksCapability,
}
