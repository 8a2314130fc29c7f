//! `sluice.yaml`: what the platform team decides, read once at start and passed on as plain values.
//!
//! Nothing in it can widen what policy allows: it names addresses, keys, limits and files. Every
//! unknown key is an error with its place and a suggestion, because a misspelt limit that is
//! silently ignored is found on the worst day.
//!
//! Invariants: a [`Config`] that exists has been checked; relative paths in it stand relative to the
//! file's own folder. Not here: policy files (the `policies` package reads those), flags and the
//! search for the model file (the command line lays them over this).

mod choice;
mod connection;
mod diagnose;
mod file;
mod identity;
mod limits;
mod listen;
mod scalar;
mod shared_state;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use sluice_policies::Mode;

pub use choice::{Choose, Hedge, HedgeAfter, Passthrough};
pub use connection::{Auth, BreakerLimits, ClientCert, Connection, PassField, Retries};
pub use diagnose::ConfigError;
pub use identity::{Identity, JwksSource, OidcConfig};
pub use limits::{Limits, Money, OTHER_MODELS, Price, Prices, Quota, Quotas};
pub use listen::{AdminListen, ClientCertificate, Listen, TlsFiles};
pub use scalar::{BaseUrl, Bytes, Plain, Secret, Span, parse_bytes, parse_duration};
pub use shared_state::SharedStateConfig;

use crate::capability::Capabilities;
use crate::upstream::UpstreamId;

/// No config is longer; a longer file is not one.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// In production no loosening passes with fewer approvers' signatures.
pub const SIGNATURES_MIN: usize = 2;

/// The checked configuration of one gateway.
#[derive(Clone, Debug)]
pub struct Config {
    /// `mode`: `trial` or `production`. Default `production` for a file that does not say, because
    /// a forgotten line must not loosen anything; `trial` without a file.
    pub mode: Mode,
    /// `listen`: where to accept connections.
    pub listen: Listen,
    /// `policy`: the site file; without one the policies inside the binary.
    pub policy: PolicyFiles,
    /// `identity`: who may call.
    pub identity: Identity,
    /// `upstreams`: what can answer, in the file's order. Default: the edge alone.
    pub upstreams: Vec<UpstreamConfig>,
    /// `limits`: bounds on what clients may ask for.
    pub limits: Limits,
    /// `limits` again and `prices`: what callers, tenants and models may take.
    pub quotas: Quotas,
    /// `shared_state`: where replicas keep limits and taint together. Default: each by itself.
    pub shared_state: Option<SharedStateConfig>,
    /// `choose`: which of several upstreams that policy likes equally is asked first.
    pub choose: Choose,
    /// `hedge`: when a second upstream is asked beside a slow first one. Default: never.
    pub hedge: Option<Hedge>,
    /// `passthrough`: endpoints that are passed on though no dialect knows them. Default: none.
    pub passthrough: Vec<Passthrough>,
    /// `offline`: whether a person declared that there is no network.
    pub offline: Offline,
    /// `audit`: where records go.
    pub audit: AuditConfig,
    /// `taint`: where fingerprints of private conversations are kept, unless replicas share them.
    pub taint: TaintConfig,
    /// `drain`: how to stop.
    pub drain: Drain,
}

/// Which policies are active.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct PolicyFiles {
    /// Path of `site.yaml`. Default: the site file inside the binary.
    pub site: Option<PathBuf>,
    /// `bundle`: a signed bundle instead of a site file. Default: none.
    pub bundle: Option<BundleFiles>,
    /// `signatures`: whose signatures let a loosening pass in production. Default: none, and then
    /// nothing is loosened there.
    pub signatures: Option<ApproverKeys>,
    /// `last_good.path`: folder where the set in force, its acceptances and its history are kept.
    /// Default: `policy` beside the folder of the audit log; none in a trial without a file.
    pub last_good: Option<PathBuf>,
    /// `shadow`: a site file that decides every request too, without effect. Default: none.
    pub shadow: Option<PathBuf>,
}

/// A signed policy bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BundleFiles {
    /// The bundle.
    pub file: PathBuf,
    /// File of the public keys that may sign it: `NAME BASE64` a line.
    pub keys: PathBuf,
}

/// Who approves what loosens policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApproverKeys {
    /// How many different approvers must sign. Default and least 2.
    pub required: usize,
    /// File of their public keys: `NAME BASE64` a line.
    pub keys: PathBuf,
}

/// One thing that can answer.
#[derive(Clone, Debug, PartialEq)]
pub struct UpstreamConfig {
    /// Its name; vouches in the site file use the same.
    pub id: UpstreamId,
    /// What it is.
    pub kind: UpstreamKind,
    /// `capabilities`: what it can do, as far as that is less than its kind can.
    pub capabilities: Capabilities,
}

/// The kinds of upstream.
#[derive(Clone, Debug, PartialEq)]
pub enum UpstreamKind {
    /// `kind: edge`: the engine in this process.
    Edge(EdgeConfig),
    /// `kind: openai` or `kind: anthropic`: a server across the network.
    Server(Box<ServerConfig>),
}

/// The embedded engine. Fields left out are chosen from the machine and the model.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct EdgeConfig {
    /// Folder of a pack or a Hugging Face model. Default: the model that ships with the binary.
    pub model: Option<PathBuf>,
    /// Bytes that the process may take in all. Default: what the machine has, but an eighth.
    pub memory: Option<u64>,
    /// Bytes for cached experts. Default: what `memory` leaves.
    pub expert_cache: Option<u64>,
    /// Compute threads. Default: the cores that this process may use.
    pub threads: Option<usize>,
    /// Longest prompt plus reply, tokens. Default: the model's limit, at most 8,192.
    pub context_tokens: Option<usize>,
    /// Experts that a token uses in a layer: fewer than trained are faster and give worse text, and
    /// every reply says so. Default: as the model was trained.
    pub active_experts: Option<usize>,
    /// Leave out experts that are not in memory and whose share of a token's gate is below this. Replies
    /// then depend on what is in memory, and every one says so. Default: never.
    pub drop_cold_experts: Option<f32>,
    /// `checkpoints`: what is kept of conversations, so that their next turns read only what is new.
    pub checkpoints: CheckpointsConfig,
}

/// Kept states of conversations. Only the caller who had them made profits from them, in its tenant.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct CheckpointsConfig {
    /// `memory`: bytes in memory, a part of the edge's `memory`; 0 keeps nothing. Default: a sixteenth of
    /// `memory` where experts are streamed, up to a quarter where all fit.
    pub memory: Option<u64>,
    /// `disk` and `folder`: bytes for states that memory has no room for, and where, encrypted under a key
    /// that ends with the process. Never-cloud text goes there only if its labels say
    /// `keep_on_disk: allowed`. Default: nowhere.
    pub disk: Option<CheckpointDisk>,
    /// `expire`: how long a state is kept that nobody asks for. Default 1h.
    pub expire: Option<Duration>,
}

/// A folder for kept states.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointDisk {
    /// Where.
    pub folder: PathBuf,
    /// Bytes of all files.
    pub bytes: u64,
}

/// What a server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// `kind: openai`: OpenAI's chat completions, as very many servers do.
    OpenAi,
    /// `kind: anthropic`: Anthropic's messages.
    Anthropic,
}

/// A server across the network.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerConfig {
    /// What it speaks.
    pub protocol: Protocol,
    /// Address up to and without `/chat/completions` or `/messages`: `https://llm.example/v1`.
    pub base_url: BaseUrl,
    /// Its key, from `key: "${NAME}"` or `key_file`. Default: none, for servers that want none.
    pub key: Option<Secret>,
    /// Model names of clients → names that this server knows. A name that is not listed is sent as
    /// it is, unless `model` is set.
    pub models: Vec<(String, String)>,
    /// The name sent for client names that `models` does not list. Default: the client's own.
    pub model: Option<String>,
    /// How long to wait for what.
    pub timeouts: Timeouts,
    /// How it is reached, and what it may be told.
    pub connection: Connection,
    /// `retries`: how often a failed attempt is repeated there.
    pub retries: Retries,
    /// `breaker`: when it is left alone.
    pub breaker: BreakerLimits,
    /// `weight`: its share among equals, where `choose` says `weighted`. Default 1.
    pub weight: u32,
}

impl ServerConfig {
    /// A server at an address, and the usual for everything else.
    pub fn at(protocol: Protocol, base_url: BaseUrl) -> ServerConfig {
        ServerConfig {
            protocol,
            base_url,
            key: None,
            models: Vec::new(),
            model: None,
            timeouts: Timeouts::default(),
            connection: Connection::straight(protocol),
            retries: Retries::default(),
            breaker: BreakerLimits::default(),
            weight: 1,
        }
    }
}

/// How long to wait for an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Until the connection stands, TLS included. Default `3s`: slower is down.
    pub connect: Duration,
    /// From sending the request to the first byte of the reply's head. Default `30s`: a reasoning
    /// model that does not stream may take that long.
    pub first_byte: Duration,
    /// Between two pieces of the reply. Default `30s`.
    pub idle: Duration,
    /// For the whole exchange. Default `10m`.
    pub total: Duration,
}

/// The declared state of the network.
#[derive(Clone, Copy, Debug, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Offline {
    /// `true`: no cloud is reached. What policy allows there goes to the edge, what the edge lacks to
    /// servers that are vouched for as on-prem, and the rest nowhere. Default `false`.
    pub declared: bool,
}

/// Where audit records go.
#[derive(Clone, Debug, PartialEq)]
pub struct AuditConfig {
    /// `off`: nothing is recorded. Refused unless the policies hold no pack and no rule. Default `false`.
    pub off: bool,
    /// Folder of the log; `audit.jsonl` is in it. Default: `audit` in the state folder of this user.
    pub path: PathBuf,
    /// When records are forced to disk. Default `every_record` with a file, `never` in a trial
    /// without one: a crash of the process loses nothing either way, a power cut can.
    pub fsync: Fsync,
    /// Where to write instead if `path` cannot be used. Only a trial without a file has one: a folder
    /// that a person named must not be swapped for another.
    pub fallback: Option<PathBuf>,
}

/// Where fingerprints of private conversations are kept. They are forced to disk when audit records are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaintConfig {
    /// `path`: folder of the ledger and its key. Default: `taint` beside the folder of the audit log.
    pub path: Option<PathBuf>,
    /// `keep`: how long a private conversation is remembered since its last private turn. Default `90d`.
    pub keep: Duration,
}

/// When audit records are forced to disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fsync {
    /// Before the request that it describes leaves; records that wait together share one sync.
    #[default]
    EveryRecord,
    /// Left to the operating system.
    Never,
}

/// How to stop.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Drain {
    /// Longest wait for requests in flight after SIGTERM. Default `60s`.
    #[serde(deserialize_with = "file::span")]
    pub on_sigterm: Duration,
    /// How long `/readyz` says no before connections are refused: longer than whoever balances needs to
    /// notice. Default `0s`.
    #[serde(deserialize_with = "file::span")]
    pub notice: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            connect: Duration::from_secs(3),
            first_byte: Duration::from_secs(30),
            idle: Duration::from_secs(30),
            total: Duration::from_secs(600),
        }
    }
}

impl Default for TaintConfig {
    fn default() -> Self {
        TaintConfig { path: None, keep: Duration::from_secs(90 * 24 * 3600) }
    }
}

impl Default for Drain {
    fn default() -> Self {
        Drain { on_sigterm: Duration::from_secs(60), notice: Duration::ZERO }
    }
}

impl Config {
    /// What runs without a file: the embedded model and the shipped policies on this machine alone,
    /// with the audit log in the user's state folder.
    pub fn trial() -> Config {
        Config {
            mode: Mode::Trial,
            listen: Listen::default(),
            policy: PolicyFiles::default(),
            identity: Identity::default(),
            upstreams: vec![UpstreamConfig::default_edge()],
            limits: Limits::default(),
            quotas: Quotas::default(),
            shared_state: None,
            choose: Choose::default(),
            hedge: None,
            passthrough: Vec::new(),
            offline: Offline::default(),
            audit: AuditConfig {
                off: false,
                path: state_folder().join("audit"),
                fsync: Fsync::Never,
                fallback: Some(temporary_folder().join("audit")),
            },
            taint: TaintConfig::default(),
            drain: Drain::default(),
        }
    }

    /// Reads and checks a file, its secrets included.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        Config::load_with(path, file::Secrets::Read)
    }

    /// Reads and checks a file for decisions that contact nothing: secrets are left where they are, so
    /// that an officer who holds none can ask.
    pub fn load_for_decisions(path: &Path) -> Result<Config, ConfigError> {
        Config::load_with(path, file::Secrets::Leave)
    }

    fn load_with(path: &Path, secrets: file::Secrets) -> Result<Config, ConfigError> {
        let file = path.display().to_string();
        let unreadable = |message: String| ConfigError {
            file: file.clone(),
            at: None,
            message,
            source_line: String::new(),
            hint: None,
        };
        let bytes = std::fs::metadata(path)
            .map_err(|e| unreadable(format!("failed to read the config: {e}")))?
            .len();
        if bytes > FILE_BYTES_MAX {
            return Err(unreadable(format!(
                "expected at most {FILE_BYTES_MAX} bytes of config, got {bytes}"
            )));
        }
        let source = std::fs::read_to_string(path)
            .map_err(|e| unreadable(format!("failed to read the config: {e}")))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        file::parse(&file, &source, folder, secrets)
    }

    /// Checks the text of a file; `folder` is where its relative paths start.
    pub fn parse(file: &str, source: &str, folder: &Path) -> Result<Config, ConfigError> {
        file::parse(file, source, folder, file::Secrets::Read)
    }
}

impl UpstreamConfig {
    fn default_edge() -> UpstreamConfig {
        UpstreamConfig {
            id: UpstreamId::new("edge"),
            kind: UpstreamKind::Edge(EdgeConfig::default()),
            capabilities: Capabilities::default(),
        }
    }
}

/// `$XDG_STATE_HOME/sluice`, `~/.local/state/sluice`, or a folder below the temporary one where
/// neither is known.
pub fn state_folder() -> PathBuf {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    if let Some(state) = absolute("XDG_STATE_HOME") {
        return state.join("sluice");
    }
    match absolute("HOME") {
        Some(home) => home.join(".local/state/sluice"),
        None => temporary_folder(),
    }
}

/// A folder of this process below the temporary one.
fn temporary_folder() -> PathBuf {
    std::env::temp_dir().join(format!("sluice-{}", std::process::id()))
}

#[cfg(test)]
mod tests;
