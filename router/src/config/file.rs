//! The file as it is written, and the way from it to a [`Config`].
//!
//! Two steps: the YAML reader fills sections whose scalars check themselves; [`Lowering`] then checks
//! what one field alone cannot tell (a field of the other kind, two edges) and points at the place.

use std::marker::PhantomData;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use sluice_policies::Mode;

use super::choice::{Choose, Hedge, PassthroughSection};
use super::connection::{
    self, Auth, BreakerSection, ClientCertSection, ClientKey, FieldName, Headers, PassField,
    RetriesSection,
};
use super::diagnose::{self, ConfigError};
use super::identity::IdentitySection;
use super::limits::{LimitsSection, Prices};
use super::listen::ListenSection;
use super::scalar::{BaseUrl, Bytes, Plain, Secret, SecretName, Span};
use super::shared_state::SharedStateSection;
use super::{
    ApproverKeys, AuditConfig, BundleFiles, CheckpointDisk, CheckpointsConfig, Config, Drain,
    EdgeConfig, Fsync, Offline, PolicyFiles, Protocol, SIGNATURES_MIN, ServerConfig,
    SharedStateConfig, TaintConfig, Timeouts, UpstreamConfig, UpstreamKind, state_folder,
};
use crate::capability::Capabilities;
use crate::upstream::UpstreamId;

/// How prices are written.
const PRICES_HINT: &str =
    "prices: {gpt-5-mini: {input: 0.25, output: 2.00}}  # of a million tokens";

/// Whether secrets are read: a decision that contacts nothing needs none.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Secrets {
    Read,
    Leave,
}

/// Reads and checks the text of a file.
pub(super) fn parse(
    file: &str,
    source: &str,
    folder: &Path,
    secrets: Secrets,
) -> Result<Config, ConfigError> {
    let parsed: ConfigFile =
        serde_yaml::from_str(source).map_err(|e| diagnose::from_yaml(file, source, &e))?;
    Lowering { file, source, folder, secrets }.config(parsed)
}

/// The whole file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigFile {
    #[serde(default = "production")]
    mode: Mode,
    #[serde(default)]
    listen: ListenSection,
    #[serde(default)]
    policy: PolicySection,
    #[serde(default)]
    identity: IdentitySection,
    #[serde(default)]
    upstreams: Upstreams,
    #[serde(default)]
    limits: LimitsSection,
    #[serde(default)]
    prices: Prices,
    shared_state: Option<SharedStateSection>,
    #[serde(default)]
    choose: Choose,
    hedge: Option<Hedge>,
    #[serde(default)]
    passthrough: Vec<PassthroughSection>,
    #[serde(default)]
    offline: Offline,
    #[serde(default)]
    audit: AuditSection,
    taint: Option<TaintSection>,
    #[serde(default)]
    drain: Drain,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicySection {
    site: Option<Plain>,
    bundle: Option<BundleSection>,
    signatures: Option<SignaturesSection>,
    last_good: Option<LastGoodSection>,
    shadow: Option<Plain>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BundleSection {
    file: Plain,
    keys: Plain,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SignaturesSection {
    #[serde(default = "two")]
    required: usize,
    keys: Plain,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LastGoodSection {
    path: Plain,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct AuditSection {
    off: bool,
    path: Option<Plain>,
    fsync: Option<Fsync>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TaintSection {
    path: Option<Plain>,
    keep: Option<Span>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UpstreamSection {
    kind: Kind,
    model: Option<Plain>,
    memory: Option<Bytes>,
    expert_cache: Option<Bytes>,
    threads: Option<usize>,
    context_tokens: Option<usize>,
    active_experts: Option<usize>,
    checkpoints: Option<CheckpointsSection>,
    drop_cold_experts: Option<f32>,
    pub(super) base_url: Option<BaseUrl>,
    pub(super) key: Option<SecretName>,
    pub(super) key_file: Option<Plain>,
    #[serde(default)]
    models: Aliases,
    timeouts: Option<TimeoutsSection>,
    #[serde(default)]
    capabilities: Capabilities,
    pub(super) proxy: Option<BaseUrl>,
    pub(super) ca_file: Option<Plain>,
    pub(super) client_cert: Option<ClientCertSection>,
    #[serde(default)]
    pub(super) headers: Headers,
    pub(super) auth: Option<Auth>,
    #[serde(default)]
    pub(super) query: Aliases,
    #[serde(default)]
    pub(super) client_headers: Vec<FieldName>,
    pub(super) client_key: Option<ClientKey>,
    #[serde(default)]
    pub(super) pass_fields: Vec<PassField>,
    #[serde(default)]
    pub(super) leave_out: Vec<Plain>,
    pub(super) retries: Option<RetriesSection>,
    pub(super) breaker: Option<BreakerSection>,
    pub(super) weight: Option<u32>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct CheckpointsSection {
    memory: Option<Bytes>,
    disk: Option<Bytes>,
    folder: Option<Plain>,
    expire: Option<Span>,
}

#[derive(Clone, Copy, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Edge,
    #[serde(rename = "openai")]
    OpenAi,
    Anthropic,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct TimeoutsSection {
    connect: Option<Span>,
    first_byte: Option<Span>,
    idle: Option<Span>,
    total: Option<Span>,
}

/// Names → sections in the file's order; a name given twice is an error.
#[derive(Default)]
struct Upstreams(Vec<(String, UpstreamSection)>);

/// Client names → server names in the file's order.
#[derive(Default)]
pub(super) struct Aliases(pub(super) Vec<(String, String)>);

fn two() -> usize {
    SIGNATURES_MIN
}

fn production() -> Mode {
    Mode::Production
}

pub(super) fn size<'de, D: Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
    Ok(Bytes::deserialize(d)?.0)
}

pub(super) fn span<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
    Ok(Span::deserialize(d)?.0)
}

/// Reads a map into pairs, in order, refusing a key that comes twice.
struct Pairs<V>(PhantomData<V>);

impl<'de, V: Deserialize<'de>> Visitor<'de> for Pairs<V> {
    type Value = Vec<(String, V)>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a map from names")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut pairs: Vec<(String, V)> = Vec::new();
        while let Some(Plain(name)) = map.next_key()? {
            if pairs.iter().any(|(known, _)| *known == name) {
                return Err(de::Error::custom(format!(
                    "expected each name once, got {name:?} twice"
                )));
            }
            pairs.push((name, map.next_value()?));
        }
        Ok(pairs)
    }
}

impl<'de> Deserialize<'de> for Upstreams {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_map(Pairs(PhantomData)).map(Upstreams)
    }
}

impl<'de> Deserialize<'de> for Aliases {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let pairs = d.deserialize_map(Pairs::<Plain>(PhantomData))?;
        Ok(Aliases(pairs.into_iter().map(|(client, server)| (client, server.0)).collect()))
    }
}

/// Lowers the file to a [`Config`] and checks what one field alone cannot tell.
pub(super) struct Lowering<'a> {
    file: &'a str,
    source: &'a str,
    pub(super) folder: &'a Path,
    pub(super) secrets: Secrets,
}

impl Lowering<'_> {
    fn config(&self, file: ConfigFile) -> Result<Config, ConfigError> {
        if file.limits.in_flight == 0 {
            return Err(self.error(
                &["limits", "in_flight"],
                "limits.in_flight: expected at least 1, got 0",
                None,
            ));
        }
        if file.limits.lacks(&file.prices) {
            let message = "prices: expected the price of at least one model, got none; \
                           limits has a cost_per_day";
            return Err(self.error(&["limits"], message, Some(PRICES_HINT)));
        }
        let taint = self.taint(file.taint, file.shared_state.is_some())?;
        let shared_state =
            file.shared_state.map(|section| self.shared_state(section)).transpose()?;
        let mut upstreams = Vec::with_capacity(file.upstreams.0.len());
        for (name, section) in file.upstreams.0 {
            upstreams.push(self.upstream(name, section)?);
        }
        self.check_upstreams(&upstreams)?;
        if upstreams.is_empty() {
            upstreams.push(UpstreamConfig::default_edge());
        }
        let audit = self.audit(file.audit)?;
        Ok(Config {
            mode: file.mode,
            listen: file.listen.lower(self.folder).map_err(|(field, what)| {
                self.error(&["listen", field], &format!("listen.{field}: {what}"), None)
            })?,
            policy: self.policy(file.policy, &audit.path)?,
            identity: file.identity.lower(self.folder).map_err(|what| {
                let message = format!("identity.oidc.jwks: {what}");
                self.error(&["identity", "oidc", "jwks"], &message, None)
            })?,
            limits: file.limits.limits(),
            quotas: file.limits.quotas(file.prices),
            shared_state,
            choose: file.choose,
            hedge: file.hedge,
            passthrough: self.passthrough(file.passthrough, &upstreams)?,
            upstreams,
            offline: file.offline,
            audit,
            taint,
            drain: file.drain,
        })
    }

    fn audit(&self, section: AuditSection) -> Result<AuditConfig, ConfigError> {
        let AuditSection { off, path, fsync } = section;
        if off && (path.is_some() || fsync.is_some()) {
            let message = "audit: expected off, or path and fsync, got both";
            let hint = Some("with off nothing is recorded; take it out to keep a log");
            return Err(self.error(&["audit", "off"], message, hint));
        }
        let path = path.map_or_else(|| state_folder().join("audit"), |p| self.folder.join(p.0));
        Ok(AuditConfig { off, path, fsync: fsync.unwrap_or_default(), fallback: None })
    }

    fn taint(
        &self,
        section: Option<TaintSection>,
        is_shared: bool,
    ) -> Result<TaintConfig, ConfigError> {
        let Some(TaintSection { path, keep }) = section else { return Ok(TaintConfig::default()) };
        if is_shared {
            let message = "taint: expected taint or shared_state, got both";
            let hint = Some("replicas keep it together: shared_state.taint_keep says how long");
            return Err(self.error(&["taint"], message, hint));
        }
        Ok(TaintConfig {
            path: path.map(|path| self.folder.join(path.0)),
            keep: keep.map_or(TaintConfig::default().keep, |keep| keep.0),
        })
    }

    fn shared_state(&self, section: SharedStateSection) -> Result<SharedStateConfig, ConfigError> {
        let lowered = section.lower(self.folder, self.secrets == Secrets::Read);
        lowered.map_err(|(field, what)| {
            self.error(&["shared_state", field], &format!("shared_state.{field}: {what}"), None)
        })
    }

    fn policy(&self, section: PolicySection, audit: &Path) -> Result<PolicyFiles, ConfigError> {
        let PolicySection { site, bundle, signatures, last_good, shadow } = section;
        if site.is_some() && bundle.is_some() {
            let message = "policy: expected site or bundle, got both";
            return Err(self.error(&["policy", "bundle"], message, None));
        }
        if let Some(SignaturesSection { required, .. }) = &signatures
            && *required < SIGNATURES_MIN
        {
            let message = format!(
                "policy.signatures.required: expected at least {SIGNATURES_MIN}, got {required}"
            );
            let hint = Some("two people answer for what is loosened");
            return Err(self.error(&["policy", "signatures", "required"], &message, hint));
        }
        let path = |plain: Plain| self.folder.join(plain.0);
        Ok(PolicyFiles {
            site: site.map(path),
            bundle: bundle.map(|b| BundleFiles { file: path(b.file), keys: path(b.keys) }),
            signatures: signatures
                .map(|s| ApproverKeys { required: s.required, keys: path(s.keys) }),
            last_good: Some(
                last_good.map_or_else(|| audit.with_file_name("policy"), |l| path(l.path)),
            ),
            shadow: shadow.map(path),
        })
    }

    fn check_upstreams(&self, upstreams: &[UpstreamConfig]) -> Result<(), ConfigError> {
        let mut edges = upstreams.iter().filter(|u| matches!(u.kind, UpstreamKind::Edge(_)));
        match edges.nth(1) {
            None => Ok(()),
            Some(second) => Err(self.error(
                &["upstreams", second.id.as_str(), "kind"],
                "upstreams: expected at most one upstream of kind edge, got two",
                Some("this process holds one engine; run a second process for a second model"),
            )),
        }
    }

    fn upstream(&self, name: String, s: UpstreamSection) -> Result<UpstreamConfig, ConfigError> {
        let plain =
            name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        if name.is_empty() || name.len() > 64 || !plain {
            return Err(self.error(
                &["upstreams", &name],
                &format!(
                    "upstreams: expected a name of letters, digits, '-', '_' and '.', got {name:?}"
                ),
                None,
            ));
        }
        self.refuse_foreign_fields(&name, &s)?;
        let capabilities = s.capabilities.clone();
        if s.kind == Kind::Edge && capabilities.quality.is_some() {
            return Err(self.error(
                &["upstreams", &name, "capabilities", "quality"],
                &format!(
                    "upstreams.{name}.capabilities: expected no quality on an upstream of kind edge"
                ),
                Some("the quality of the edge stands in its model's file"),
            ));
        }
        let kind = match s.kind {
            Kind::Edge => UpstreamKind::Edge(EdgeConfig {
                model: s.model.map(|p| self.folder.join(p.0)),
                memory: s.memory.map(|b| b.0),
                expert_cache: s.expert_cache.map(|b| b.0),
                threads: s.threads,
                context_tokens: s.context_tokens,
                active_experts: s.active_experts,
                checkpoints: self.checkpoints(&name, s.checkpoints.unwrap_or_default())?,
                drop_cold_experts: s.drop_cold_experts,
            }),
            Kind::OpenAi => {
                UpstreamKind::Server(Box::new(self.server(&name, Protocol::OpenAi, s)?))
            }
            Kind::Anthropic => {
                UpstreamKind::Server(Box::new(self.server(&name, Protocol::Anthropic, s)?))
            }
        };
        Ok(UpstreamConfig { id: UpstreamId::new(&name), kind, capabilities })
    }

    fn checkpoints(
        &self,
        name: &str,
        s: CheckpointsSection,
    ) -> Result<CheckpointsConfig, ConfigError> {
        let disk = match (s.disk, s.folder) {
            (Some(bytes), Some(folder)) => {
                Some(CheckpointDisk { folder: self.folder.join(folder.0), bytes: bytes.0 })
            }
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => {
                let message =
                    format!("upstreams.{name}.checkpoints: expected disk and folder, got one");
                let hint = "disk: 4GiB, folder: /var/lib/sluice/checkpoints";
                return Err(self.error(&["upstreams", name, "checkpoints"], &message, Some(hint)));
            }
        };
        let (memory, expire) = (s.memory.map(|b| b.0), s.expire.map(|s| s.0));
        Ok(CheckpointsConfig { memory, disk, expire })
    }

    /// A field of the other kind would do nothing, and the file would read as if it did.
    fn refuse_foreign_fields(&self, name: &str, s: &UpstreamSection) -> Result<(), ConfigError> {
        let of_servers = connection::given(s);
        let (kind, foreign): (_, &[(&str, bool)]) = match s.kind {
            Kind::Edge if of_servers.iter().any(|(_, given)| *given) => ("edge", &of_servers),
            Kind::Edge => (
                "edge",
                &[
                    ("base_url", s.base_url.is_some()),
                    ("key", s.key.is_some()),
                    ("key_file", s.key_file.is_some()),
                    ("models", !s.models.0.is_empty()),
                    ("timeouts", s.timeouts.is_some()),
                ],
            ),
            Kind::OpenAi | Kind::Anthropic => (
                if s.kind == Kind::OpenAi { "openai" } else { "anthropic" },
                &[
                    ("memory", s.memory.is_some()),
                    ("expert_cache", s.expert_cache.is_some()),
                    ("threads", s.threads.is_some()),
                    ("context_tokens", s.context_tokens.is_some()),
                    ("active_experts", s.active_experts.is_some()),
                    ("checkpoints", s.checkpoints.is_some()),
                    ("drop_cold_experts", s.drop_cold_experts.is_some()),
                ],
            ),
        };
        match foreign.iter().find(|(_, given)| *given) {
            None => Ok(()),
            Some((field, _)) => Err(self.error(
                &["upstreams", name, field],
                &format!("upstreams.{name}: expected no {field} on an upstream of kind {kind}"),
                None,
            )),
        }
    }

    fn server(
        &self,
        name: &str,
        protocol: Protocol,
        mut s: UpstreamSection,
    ) -> Result<ServerConfig, ConfigError> {
        let connection = self.connection(name, protocol, &mut s)?;
        let (retries, breaker) = self.patience(name, &mut s)?;
        let weight = self.weight(name, &s)?;
        let base_url = s.base_url.ok_or_else(|| {
            let message = format!("upstreams.{name}: expected a base_url, got none");
            self.error(&["upstreams", name], &message, Some("base_url: https://llm.example/v1"))
        })?;
        if s.key.is_some() && s.key_file.is_some() {
            let message = format!("upstreams.{name}: expected key or key_file, got both");
            return Err(self.error(&["upstreams", name, "key_file"], &message, None));
        }
        let key = match (s.key_file, s.key) {
            _ if self.secrets == Secrets::Leave => None,
            (Some(path), _) => Some(self.key_file(name, &self.folder.join(path.0))?),
            (None, Some(variable)) => Some(variable.read().map_err(|what| {
                let message = format!("upstreams.{name}.key: {what}");
                self.error(&["upstreams", name, "key"], &message, None)
            })?),
            (None, None) => None,
        };
        let given = s.timeouts.unwrap_or_default();
        let standard = Timeouts::default();
        let or = |given: Option<Span>, standard| given.map_or(standard, |s| s.0);
        Ok(ServerConfig {
            protocol,
            base_url,
            key,
            models: s.models.0,
            model: s.model.map(|m| m.0),
            connection,
            retries,
            breaker,
            weight,
            timeouts: Timeouts {
                connect: or(given.connect, standard.connect),
                first_byte: or(given.first_byte, standard.first_byte),
                idle: or(given.idle, standard.idle),
                total: or(given.total, standard.total),
            },
        })
    }

    fn key_file(&self, name: &str, path: &Path) -> Result<Secret, ConfigError> {
        let place = ["upstreams", name, "key_file"];
        let text = std::fs::read_to_string(path).map_err(|e| {
            let path = path.display();
            self.error(
                &place,
                &format!("upstreams.{name}.key_file: failed to read {path}: {e}"),
                None,
            )
        })?;
        match text.trim() {
            "" => Err(self.error(
                &place,
                &format!("upstreams.{name}.key_file: expected a key in the file, got nothing"),
                None,
            )),
            key => Ok(Secret::new(key.to_owned())),
        }
    }

    pub(super) fn error(&self, path: &[&str], message: &str, hint: Option<&str>) -> ConfigError {
        let at = diagnose::locate(self.source, path);
        diagnose::point(self.file, self.source, at, message.to_owned(), hint.map(str::to_owned))
    }
}
