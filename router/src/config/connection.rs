//! How a server is reached and what it may be told: the part of an upstream's section that is about the
//! way, and its checks.
//!
//! Everything is explicit and per upstream. Nothing is taken from the environment but named secrets, and
//! nothing of the client goes along unless a list here names it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::header::{HeaderName, HeaderValue};
use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, Visitor};

use super::Protocol;
use super::diagnose::ConfigError;
use super::file::{Lowering, Secrets, UpstreamSection};
use super::scalar::{BaseUrl, Plain, Scalar, Secret, SecretName, Span};

/// Headers that carry who somebody is. A client's go along by `client_key: pass` alone; ours come from
/// `key`.
const CREDENTIALS: [&str; 5] =
    ["api-key", "authorization", "cookie", "proxy-authorization", "x-api-key"];
/// Headers that belong to one connection or one body, so that the gateway writes them itself.
const WRITTEN_HERE: [&str; 13] = [
    "accept",
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
/// Statuses after which another try may help: too slow, too many, broken, a broken, overloaded or slow
/// server behind it, overloaded.
const RETRIABLE: [u16; 7] = [408, 429, 500, 502, 503, 504, 529];
/// More repetitions than this would be an attack on an upstream that is down.
const RETRIES_MAX: u32 = 10;

/// The way to a server, and what it may be told of the client.
#[derive(Clone, Debug, PartialEq)]
pub struct Connection {
    /// `proxy`: goes through this HTTP proxy, which sees the server's name and no more: TLS is demanded.
    /// Default: none, whatever the environment says.
    pub proxy: Option<BaseUrl>,
    /// `ca_file`: PEM file of the only authorities whose certificates this server may show. Default:
    /// those that the operating system trusts.
    pub ca_file: Option<PathBuf>,
    /// `client_cert`: what proves to the server who we are. Default: nothing.
    pub client_cert: Option<ClientCert>,
    /// `headers`: sent with every request. Default: none.
    pub headers: Vec<(HeaderName, Secret)>,
    /// `auth`: the header that carries the key. Default: as the protocol has it.
    pub auth: Auth,
    /// `query`: put behind every address, such as Azure's `api-version`. Default: none.
    pub query: Vec<(String, String)>,
    /// `client_headers`: headers of the client that go along; they are scanned like its texts.
    /// Default: none.
    pub client_headers: Vec<HeaderName>,
    /// `client_key: pass`: the client's own `authorization` or `x-api-key` goes along. Default: no.
    pub client_key: bool,
    /// `pass_fields`: fields that name persons and are sent all the same. Default: none.
    pub pass_fields: Vec<PassField>,
    /// `leave_out`: fields of OpenAI's that this server refuses, of a body or of its messages. One that
    /// does not know `max_completion_tokens` gets `max_tokens` in its place. Default: none.
    pub leave_out: Vec<String>,
}

/// A certificate and its key, PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCert {
    /// The certificate, with what signed it.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// The header that carries an upstream's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Auth {
    /// `authorization: Bearer …`, as OpenAI has it.
    Bearer,
    /// `api-key: …`, as Azure has it.
    ApiKey,
    /// `x-api-key: …`, as Anthropic has it.
    XApiKey,
}

/// A field that says who asks, which is nobody's business outside unless the platform says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PassField {
    /// What a client notes about a request.
    Metadata,
    /// OpenAI's newer word for `user`.
    SafetyIdentifier,
    /// A person, as the client names them; `metadata.user_id` in Anthropic's words.
    User,
}

/// How often an attempt that failed before its first byte is repeated at the same upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retries {
    /// `attempts`: repetitions of one request. Default 0: clients and fallbacks repeat already, and
    /// each layer that does multiplies the load on an upstream that is down.
    pub attempts: u32,
    /// `budget`: repetitions as a share of requests, percent. Default `10%`.
    pub budget_percent: u32,
    /// `retry_on`: statuses that are repeated, besides connections that never stood. Default
    /// `[408, 429, 503, 529]`: the work has surely not begun. After 500, 502 and 504 it may have, and
    /// a completion that is asked for twice may be paid for twice.
    pub retry_on: Vec<u16>,
}

/// When an upstream that fails is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerLimits {
    /// `failures`: so many in a row. Default 5.
    pub failures: u32,
    /// `open`: how long at first. Default `2s`.
    pub open: Duration,
    /// `open_at_most`: each probe that fails doubles the time up to this. Default `60s`.
    pub open_at_most: Duration,
}

impl Default for Retries {
    fn default() -> Self {
        Retries { attempts: 0, budget_percent: 10, retry_on: vec![408, 429, 503, 529] }
    }
}

impl Default for BreakerLimits {
    fn default() -> Self {
        let (open, open_at_most) = (Duration::from_secs(2), Duration::from_secs(60));
        BreakerLimits { failures: 5, open, open_at_most }
    }
}

impl Connection {
    /// The files that it names, of certificates and keys.
    pub fn files(&self) -> Vec<&Path> {
        let pair = self.client_cert.iter().flat_map(|pair| [&pair.cert, &pair.key]);
        self.ca_file.iter().chain(pair).map(PathBuf::as_path).collect()
    }

    /// The straight way to a server of a protocol, telling nothing.
    pub fn straight(protocol: Protocol) -> Connection {
        Connection {
            proxy: None,
            ca_file: None,
            client_cert: None,
            headers: Vec::new(),
            auth: match protocol {
                Protocol::OpenAi => Auth::Bearer,
                Protocol::Anthropic => Auth::XApiKey,
            },
            query: Vec::new(),
            client_headers: Vec::new(),
            client_key: false,
            pass_fields: Vec::new(),
            leave_out: Vec::new(),
        }
    }

    /// Whether the server is not sent this field.
    pub fn leaves_out(&self, field: &str) -> bool {
        self.leave_out.iter().any(|name| name == field)
    }

    /// Whether a field that names persons is sent.
    pub fn passes(&self, field: PassField) -> bool {
        self.pass_fields.contains(&field)
    }
}

impl PassField {
    /// The field's name in the internal form.
    pub fn name(self) -> &'static str {
        match self {
            PassField::Metadata => "metadata",
            PassField::SafetyIdentifier => "safety_identifier",
            PassField::User => "user",
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ClientCertSection {
    cert: Plain,
    key: Plain,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ClientKey {
    Pass,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RetriesSection {
    attempts: Option<u32>,
    budget: Option<Percent>,
    retry_on: Option<Vec<u16>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BreakerSection {
    failures: Option<u32>,
    open: Option<Span>,
    open_at_most: Option<Span>,
}

/// A share: `10%`.
pub(super) struct Percent(u32);

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let parse = |text: &str| {
            let number = text.strip_suffix('%').and_then(|number| number.parse().ok());
            let percent = number.filter(|percent| *percent <= 100).map(Percent);
            percent.ok_or_else(|| format!("expected a share such as 10%, got {text:?}"))
        };
        d.deserialize_any(Scalar { expected: "a share such as 10%", parse })
    }
}

/// The name of a header that may be listed.
pub(super) struct FieldName(HeaderName);

impl<'de> Deserialize<'de> for FieldName {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_str(Scalar { expected: "the name of a header", parse: field_name })
    }
}

fn field_name(text: &str) -> Result<FieldName, String> {
    let name: HeaderName =
        text.parse().map_err(|_| format!("expected the name of a header, got {text:?}"))?;
    if CREDENTIALS.contains(&name.as_str()) {
        return Err(format!(
            "expected a header without credentials, got {text:?}; keys come from key or key_file, \
             a client's own by client_key: pass"
        ));
    }
    if WRITTEN_HERE.contains(&name.as_str()) {
        return Err(format!(
            "expected a header that the gateway does not write itself, got {text:?}"
        ));
    }
    Ok(FieldName(name))
}

/// What a header says: plain, or `${NAME}`.
enum FieldText {
    Plain(String),
    Named(SecretName),
}

impl<'de> Deserialize<'de> for FieldText {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let parse = |text: &str| match SecretName::parse(text) {
            Ok(name) => Ok(FieldText::Named(name)),
            Err(_) if text.contains("${") => {
                Err("expected a plain text or ${NAME} alone, got a mixture".to_owned())
            }
            Err(_) => Ok(FieldText::Plain(text.to_owned())),
        };
        d.deserialize_any(Scalar { expected: "a text or ${NAME}", parse })
    }
}

/// Headers in the file's order; a name given twice is an error.
#[derive(Default)]
pub(super) struct Headers(Vec<(HeaderName, FieldText)>);

impl Headers {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'de> Deserialize<'de> for Headers {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Named;
        impl<'de> Visitor<'de> for Named {
            type Value = Headers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map from names of headers")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Headers, A::Error> {
                let mut headers: Vec<(HeaderName, FieldText)> = Vec::new();
                while let Some(FieldName(name)) = map.next_key()? {
                    if headers.iter().any(|(known, _)| *known == name) {
                        let what = format!("expected each header once, got {name:?} twice");
                        return Err(de::Error::custom(what));
                    }
                    headers.push((name, map.next_value()?));
                }
                Ok(Headers(headers))
            }
        }
        d.deserialize_map(Named)
    }
}

/// The fields of a section that only a server has, and whether they are given.
pub(super) fn given(s: &UpstreamSection) -> [(&'static str, bool); 13] {
    [
        ("proxy", s.proxy.is_some()),
        ("ca_file", s.ca_file.is_some()),
        ("client_cert", s.client_cert.is_some()),
        ("headers", !s.headers.is_empty()),
        ("auth", s.auth.is_some()),
        ("query", !s.query.0.is_empty()),
        ("client_headers", !s.client_headers.is_empty()),
        ("client_key", s.client_key.is_some()),
        ("pass_fields", !s.pass_fields.is_empty()),
        ("leave_out", !s.leave_out.is_empty()),
        ("retries", s.retries.is_some()),
        ("breaker", s.breaker.is_some()),
        ("weight", s.weight.is_some()),
    ]
}

impl Lowering<'_> {
    /// Takes the way out of a section.
    pub(super) fn connection(
        &self,
        name: &str,
        protocol: Protocol,
        s: &mut UpstreamSection,
    ) -> Result<Connection, ConfigError> {
        let straight = Connection::straight(protocol);
        if s.client_key.is_some() && (s.key.is_some() || s.key_file.is_some()) {
            let message = format!("upstreams.{name}: expected a key or client_key, got both");
            return Err(self.error(&["upstreams", name, "client_key"], &message, None));
        }
        if s.proxy.is_some() && s.base_url.as_ref().is_some_and(|url| url.scheme != "https") {
            let message = format!("upstreams.{name}.proxy: expected a base_url of https, got http");
            let hint =
                Some("a proxy reads what goes through it without TLS, and nobody vouched for it");
            return Err(self.error(&["upstreams", name, "proxy"], &message, hint));
        }
        let path = |plain: Plain| self.folder.join(plain.0);
        let client_cert = s.client_cert.take();
        Ok(Connection {
            proxy: s.proxy.take(),
            ca_file: s.ca_file.take().map(path),
            client_cert: client_cert.map(|c| ClientCert { cert: path(c.cert), key: path(c.key) }),
            headers: self.fixed_headers(name, std::mem::take(&mut s.headers))?,
            auth: s.auth.unwrap_or(straight.auth),
            query: std::mem::take(&mut s.query.0),
            client_headers: s.client_headers.drain(..).map(|name| name.0).collect(),
            client_key: s.client_key.is_some(),
            pass_fields: std::mem::take(&mut s.pass_fields),
            leave_out: self.left_out(name, std::mem::take(&mut s.leave_out))?,
        })
    }

    /// What makes a request one cannot be left out.
    fn left_out(&self, name: &str, fields: Vec<Plain>) -> Result<Vec<String>, ConfigError> {
        const NEEDED: [&str; 7] =
            ["model", "messages", "prompt", "input", "stream", "role", "content"];
        let fields: Vec<String> = fields.into_iter().map(|field| field.0).collect();
        match fields.iter().find(|field| NEEDED.contains(&field.as_str())) {
            None => Ok(fields),
            Some(field) => {
                let message = format!(
                    "upstreams.{name}.leave_out: expected fields that a server can do without, got {field}"
                );
                Err(self.error(&["upstreams", name, "leave_out"], &message, None))
            }
        }
    }

    fn fixed_headers(
        &self,
        name: &str,
        headers: Headers,
    ) -> Result<Vec<(HeaderName, Secret)>, ConfigError> {
        let mut fixed = Vec::with_capacity(headers.0.len());
        for (header, text) in headers.0 {
            let wrong = |what: String| {
                let message = format!("upstreams.{name}.headers.{header}: {what}");
                self.error(&["upstreams", name, "headers", header.as_str()], &message, None)
            };
            let text = match text {
                FieldText::Named(_) if self.secrets == Secrets::Leave => continue,
                FieldText::Named(variable) => variable.read().map_err(wrong)?,
                FieldText::Plain(text) => Secret::new(text),
            };
            if HeaderValue::from_str(text.expose()).is_err() {
                return Err(wrong("expected visible characters".to_owned()));
            }
            fixed.push((header, text));
        }
        Ok(fixed)
    }

    /// How often a server is asked again, and when it is left alone.
    pub(super) fn patience(
        &self,
        name: &str,
        s: &mut UpstreamSection,
    ) -> Result<(Retries, BreakerLimits), ConfigError> {
        let (retries, breaker) =
            (s.retries.take().unwrap_or_default(), s.breaker.take().unwrap_or_default());
        let (usual, limits) = (Retries::default(), BreakerLimits::default());
        let retries = Retries {
            attempts: retries.attempts.unwrap_or(usual.attempts),
            budget_percent: retries.budget.map_or(usual.budget_percent, |share| share.0),
            retry_on: retries.retry_on.unwrap_or(usual.retry_on),
        };
        if let Some(status) = retries.retry_on.iter().find(|status| !RETRIABLE.contains(status)) {
            let message = format!(
                "upstreams.{name}.retries.retry_on: expected some of {RETRIABLE:?}, got {status}"
            );
            let hint = Some("what a server answered otherwise, it answers again");
            return Err(self.error(&["upstreams", name, "retries", "retry_on"], &message, hint));
        }
        if retries.attempts > RETRIES_MAX {
            let message = format!(
                "upstreams.{name}.retries.attempts: expected at most {RETRIES_MAX}, got {}",
                retries.attempts
            );
            return Err(self.error(&["upstreams", name, "retries", "attempts"], &message, None));
        }
        let open = breaker.open.map_or(limits.open, |span| span.0);
        let most = breaker.open_at_most.map_or(limits.open_at_most, |span| span.0);
        let breaker = BreakerLimits {
            failures: breaker.failures.unwrap_or(limits.failures),
            open,
            open_at_most: most.max(open),
        };
        if breaker.failures == 0 {
            let message = format!("upstreams.{name}.breaker.failures: expected at least 1, got 0");
            return Err(self.error(&["upstreams", name, "breaker", "failures"], &message, None));
        }
        Ok((retries, breaker))
    }

    /// The share of requests that a server gets among its equals.
    pub(super) fn weight(&self, name: &str, s: &UpstreamSection) -> Result<u32, ConfigError> {
        match s.weight.unwrap_or(1) {
            0 => {
                let message = format!("upstreams.{name}.weight: expected at least 1, got 0");
                let hint = Some("leave an upstream out that should get nothing");
                Err(self.error(&["upstreams", name, "weight"], &message, hint))
            }
            weight => Ok(weight),
        }
    }
}
