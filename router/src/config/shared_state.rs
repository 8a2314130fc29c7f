//! `shared_state`: where replicas keep limits and taint together.

use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use super::scalar::{BaseUrl, Plain, Secret, Span};

/// A Redis or Valkey server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedStateConfig {
    /// `redis`: its address, `redis://host:port/database` or, with TLS, `rediss://…`. No default.
    pub redis: String,
    /// `user`: its user. Default: the server's own default user.
    pub user: Option<String>,
    /// `password_file`: file with the password. Default: none.
    pub password: Option<Secret>,
    /// `key_file`: file with a secret that all replicas have, under which fingerprints of conversations
    /// are made. Default: the password.
    pub key: Secret,
    /// `taint_keep`: how long a tainted conversation is remembered since its last private turn.
    /// Default `90d`.
    pub taint_keep: Duration,
    /// `timeout`: how long a request waits for an answer before it goes on without. Default `250ms`.
    pub timeout: Duration,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SharedStateSection {
    redis: Plain,
    user: Option<Plain>,
    password_file: Option<Plain>,
    key_file: Option<Plain>,
    taint_keep: Option<Span>,
    timeout: Option<Span>,
}

impl SharedStateSection {
    /// The checked section, or the field at fault and what is wrong with it.
    pub(super) fn lower(
        self,
        folder: &Path,
        secrets: bool,
    ) -> Result<SharedStateConfig, (&'static str, String)> {
        let redis = address(&self.redis.0).map_err(|what| ("redis", what))?;
        let read = |field, file: Option<Plain>| match file {
            Some(file) if secrets => secret(&folder.join(file.0)).map(Some).map_err(|e| (field, e)),
            Some(_) => Ok(Some(Secret::new(String::new()))),
            None => Ok(None),
        };
        let password = read("password_file", self.password_file)?;
        let key = read("key_file", self.key_file)?;
        let key = key.or_else(|| password.clone()).ok_or_else(|| {
            let what = "expected a key_file or a password_file: fingerprints of conversations need a \
                        secret that all replicas have";
            ("redis", what.to_owned())
        })?;
        let or = |span: Option<Span>, standard| span.map_or(standard, |span| span.0);
        Ok(SharedStateConfig {
            redis,
            user: self.user.map(|user| user.0),
            password,
            key,
            taint_keep: or(self.taint_keep, Duration::from_secs(90 * 24 * 3600)),
            timeout: or(self.timeout, Duration::from_millis(250)),
        })
    }
}

fn secret(path: &Path) -> Result<Secret, String> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).map_err(|e| format!("failed to read {shown}: {e}"))?;
    match text.trim() {
        "" => Err(format!("expected a secret in {shown}, got nothing")),
        secret => Ok(Secret::new(secret.to_owned())),
    }
}

/// The address with its port and without anything that a log should not show.
fn address(text: &str) -> Result<String, String> {
    let expected = "expected an address such as redis://state.internal:6379 or rediss://…";
    let (scheme, rest) = text.split_once("://").ok_or(expected)?;
    if scheme != "redis" && scheme != "rediss" {
        return Err(expected.to_owned());
    }
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    if !database.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("{expected}; its database is a number, got {database:?}"));
    }
    let host_is_all = !authority.rsplit(']').next().unwrap_or_default().contains(':');
    let port = if host_is_all { ":6379" } else { "" };
    let url = BaseUrl::parse(&format!("http://{authority}{port}"))?;
    let database = if database.is_empty() { "0" } else { database };
    let host = if url.host.contains(':') { format!("[{}]", url.host) } else { url.host };
    Ok(format!("{scheme}://{host}:{}/{database}", url.port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_no_secret_and_gets_its_port() {
        for (text, expected) in [
            ("redis://state", Some("redis://state:6379/0")),
            ("rediss://state.internal:7000/3", Some("rediss://state.internal:7000/3")),
            ("redis://[::1]", Some("redis://[::1]:6379/0")),
            ("redis://127.0.0.1:1", Some("redis://127.0.0.1:1/0")),
            ("redis://user:pass@state", None),
            ("redis://state/db", None),
            ("http://state", None),
            ("state:6379", None),
        ] {
            assert_eq!(address(text).ok().as_deref(), expected, "{text}");
        }
    }
}
