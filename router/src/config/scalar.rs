//! The scalars of `sluice.yaml`: durations, sizes, addresses of upstreams, secrets, plain text.
//!
//! Each is a type of its own whose `Deserialize` checks the value, so that the YAML reader reports
//! a wrong one at its own line and column, and the rest of the gateway works with checked values.
//!
//! Invariant: `${NAME}` is read from the environment in [`SecretName`] alone; every other text refuses
//! it, because a config that changes with the environment cannot be reviewed.

use std::fmt;
use std::time::Duration;

use serde::de::{self, Deserialize, Deserializer, Visitor};
use zeroize::Zeroizing;

/// A duration: `500ms`, `3s`, `5m`, `1h`, `90d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

/// A number of bytes: `4096`, `64KiB`, `10MiB`, `24GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub u64);

/// A text without `${…}`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Plain(pub String);

/// A value that never appears in logs: wiped from memory when dropped, hidden from `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

/// The address of an upstream, taken apart once, so that what policy compares (scheme, host, port)
/// is what the client connects to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseUrl {
    /// `http` or `https`.
    pub scheme: String,
    /// Host name in lower case, or an IP address (IPv6 without brackets).
    pub host: String,
    /// Port, the scheme's own if the address names none.
    pub port: u16,
    /// Path without a trailing slash: `/v1`.
    pub path: String,
}

/// The environment variable that holds a secret: `${NAME}` in the file.
#[derive(Debug)]
pub(super) struct SecretName(String);

impl Secret {
    /// Keeps a secret that was read from a file.
    pub fn new(text: String) -> Self {
        Secret(Zeroizing::new(text))
    }

    /// The secret itself, for the one header that carries it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

impl BaseUrl {
    /// Takes an address apart; the error says what is expected.
    pub fn parse(text: &str) -> Result<BaseUrl, String> {
        let expected = "expected an address such as https://llm.example/v1";
        let uri: hyper::Uri = text.parse().map_err(|_| format!("{expected}, got {text:?}"))?;
        let scheme = uri.scheme_str().unwrap_or_default().to_owned();
        let default_port = match scheme.as_str() {
            "https" => 443,
            "http" => 80,
            _ => return Err(format!("{expected} (http or https), got {text:?}")),
        };
        let authority = uri.authority().map(|a| a.as_str()).unwrap_or_default();
        if authority.contains('@') {
            return Err("expected an address without user and password; use key or key_file".into());
        }
        if uri.query().is_some() || text.contains('#') {
            return Err(format!("{expected}, without a query or fragment, got {text:?}"));
        }
        let host = plain_host(uri.host().unwrap_or_default()).ok_or_else(|| {
            format!("{expected}; its host is not a plain name or address: {text:?}")
        })?;
        let port = match uri.port() {
            Some(port) => port.as_u16(),
            // `Uri` reads "host:" and "host:99999" as no port at all.
            None if authority.ends_with(&host) || authority.ends_with(']') => default_port,
            None if authority.eq_ignore_ascii_case(&host) => default_port,
            None => return Err(format!("{expected}; its port is not a number from 1 to 65535")),
        };
        let path = uri.path().trim_end_matches('/').to_owned();
        Ok(BaseUrl { scheme, host, port, path })
    }

    /// The address as text, with the port.
    pub fn as_text(&self) -> String {
        let host =
            if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        format!("{}://{host}:{}{}", self.scheme, self.port, self.path)
    }
}

/// Accepts hosts that every URL reader reads alike: names of ASCII letters, digits, `-` and `.`
/// whose last part is not a number, dotted IPv4, bracketed IPv6. Forms such as `2130706433` or
/// `0x7f.1` would name one host to policy and another to the client.
fn plain_host(host: &str) -> Option<String> {
    if let Some(inner) = host.strip_prefix('[') {
        let address: std::net::Ipv6Addr = inner.strip_suffix(']')?.parse().ok()?;
        return Some(address.to_string());
    }
    if let Ok(address) = host.parse::<std::net::Ipv4Addr>() {
        return Some(address.to_string());
    }
    let host = host.to_ascii_lowercase();
    let plain = host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
    let last = host.rsplit('.').next().unwrap_or_default();
    (plain && !host.is_empty() && last.bytes().next().is_some_and(|b| b.is_ascii_alphabetic()))
        .then_some(host)
}

/// Reads `500ms`, `3s`, `5m`, `1h`, `90d`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    match unit {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => number.checked_mul(60).map(Duration::from_secs),
        "h" => number.checked_mul(3600).map(Duration::from_secs),
        "d" => number.checked_mul(24 * 3600).map(Duration::from_secs),
        _ => None,
    }
}

/// Reads `4096`, `64KiB`, `10MiB`, `24GiB`.
pub fn parse_bytes(text: &str) -> Option<u64> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let factor = match unit.trim_start() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1u64 << 40,
        _ => return None,
    };
    number.checked_mul(factor)
}

/// Reads a YAML scalar as text and gives it to `parse`; numbers count as their digits.
pub(super) struct Scalar<T> {
    pub(super) expected: &'static str,
    pub(super) parse: fn(&str) -> Result<T, String>,
}

impl<T> Visitor<'_> for Scalar<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        (self.parse)(text).map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        (self.parse)(&number.to_string()).map_err(E::custom)
    }
}

fn no_environment(text: &str) -> Result<(), String> {
    if text.contains("${") {
        return Err(format!(
            "expected a plain value, got {text:?}; ${{NAME}} is read in secrets (key) only"
        ));
    }
    Ok(())
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let parse = |text: &str| {
            no_environment(text)?;
            parse_duration(text).map(Span).ok_or_else(|| {
                format!("expected a duration such as 500ms, 3s, 5m or 1h, got {text:?}")
            })
        };
        d.deserialize_any(Scalar { expected: "a duration such as 3s", parse })
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let parse = |text: &str| {
            no_environment(text)?;
            parse_bytes(text).map(Bytes).ok_or_else(|| {
                format!("expected a size such as 64KiB, 10MiB or 2GiB, got {text:?}")
            })
        };
        d.deserialize_any(Scalar { expected: "a size such as 10MiB", parse })
    }
}

impl<'de> Deserialize<'de> for Plain {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let parse = |text: &str| no_environment(text).map(|()| Plain(text.to_owned()));
        d.deserialize_str(Scalar { expected: "a text", parse })
    }
}

impl<'de> Deserialize<'de> for BaseUrl {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let parse = |text: &str| no_environment(text).and_then(|()| BaseUrl::parse(text));
        d.deserialize_str(Scalar { expected: "an address such as https://llm.example/v1", parse })
    }
}

impl<'de> Deserialize<'de> for SecretName {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let parse = secret_name;
        d.deserialize_str(Scalar { expected: "${NAME} of an environment variable", parse })
    }
}

/// Where a secret is. One written into the file is refused, and not echoed.
fn secret_name(text: &str) -> Result<SecretName, String> {
    let name = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}')).ok_or(
        "expected ${NAME} of an environment variable, got a literal value; \
         keep secrets out of this file, or use key_file",
    )?;
    Ok(SecretName(name.to_owned()))
}

impl SecretName {
    /// Takes `${NAME}`; anything else is an error that does not echo it.
    pub(super) fn parse(text: &str) -> Result<SecretName, String> {
        secret_name(text)
    }

    /// Reads the secret from the environment.
    pub(super) fn read(&self) -> Result<Secret, String> {
        match std::env::var(&self.0) {
            Ok(value) if !value.is_empty() => Ok(Secret::new(value)),
            _ => Err(format!(
                "expected the environment variable {} to be set, but it is not",
                self.0
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_need_their_unit() {
        for (text, expected) in [
            ("500ms", Some(Duration::from_millis(500))),
            ("3s", Some(Duration::from_secs(3))),
            ("5m", Some(Duration::from_secs(300))),
            ("1h", Some(Duration::from_secs(3600))),
            ("2d", Some(Duration::from_secs(2 * 24 * 3600))),
            ("3", None),
            ("fast", None),
            ("-1s", None),
            ("99999999999999999999s", None),
        ] {
            assert_eq!(parse_duration(text), expected, "{text}");
        }
        for (text, expected) in [
            ("4096", Some(4096)),
            ("10MiB", Some(10 << 20)),
            ("24GiB", Some(24 << 30)),
            ("10MB", None),
            ("99999999999999TiB", None),
        ] {
            assert_eq!(parse_bytes(text), expected, "{text}");
        }
    }

    #[test]
    fn addresses_are_taken_apart_as_policy_compares_them() {
        for (text, expected) in [
            ("https://API.Example.com/v1/", Some(("https", "api.example.com", 443, "/v1"))),
            ("http://127.0.0.1:9000", Some(("http", "127.0.0.1", 9000, ""))),
            ("http://[::1]:9000/v1", Some(("http", "::1", 9000, "/v1"))),
            ("https://llm.example:8443/a/b", Some(("https", "llm.example", 8443, "/a/b"))),
            ("ftp://llm.example", None),
            ("llm.example/v1", None),
            ("https://user:pass@llm.example/v1", None),
            ("https://llm.example/v1?x=1", None),
            ("https://llm.example:99999/v1", None),
            ("https://2130706433/v1", None),
            ("https://0x7f.1/v1", None),
        ] {
            let got = BaseUrl::parse(text).ok();
            let got = got.as_ref().map(|u| (&*u.scheme, &*u.host, u.port, &*u.path));
            assert_eq!(got, expected, "{text}");
        }
    }

    #[test]
    fn debug_hides_a_secret() {
        assert_eq!(format!("{:?}", Secret::new("sk-123".into())), "Secret(hidden)");
    }
}
