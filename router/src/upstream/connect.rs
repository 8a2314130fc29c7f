//! The way to a server: its HTTP client (`client`), its addresses, and the headers that go with every request.
//!
//! Where compliance vouches for address ranges, a name leads inside them or nowhere (`within`).
//!
//! Invariant: every address has the scheme, host and port of `base_url`; what comes from a client (a
//! model's name in the path) is one escaped segment of it.
//!
//! Source of Azure's forms (a deployment in the path, `api-version` in the query, `api-key`):
//! Microsoft's REST reference of Azure OpenAI, as of November 2026.

pub(super) mod client;
pub(super) mod within;

use std::sync::OnceLock;

use hyper::Uri;
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use reqwest::Url;
use sluice_policies::Endpoint;

use super::{UpstreamError, anthropic};
use crate::config::{Auth, Protocol, ServerConfig};

/// What stands in a `base_url` for the server's name of the model.
const MODEL: &str = "{model}";

/// The fixed headers, the key and what the protocol wants besides; `None` if a header cannot hold the
/// key.
pub(super) fn headers(config: &ServerConfig) -> Option<HeaderMap> {
    let way = &config.connection;
    let mut headers = HeaderMap::new();
    if config.protocol == Protocol::Anthropic {
        let version = HeaderValue::from_static(anthropic::VERSION);
        headers.insert(HeaderName::from_static("anthropic-version"), version);
    }
    for (name, text) in &way.headers {
        let mut value = HeaderValue::from_str(text.expose()).ok()?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    let Some(key) = &config.key else { return Some(headers) };
    let (name, text) = match way.auth {
        Auth::Bearer => (AUTHORIZATION, format!("Bearer {}", key.expose())),
        Auth::ApiKey => (HeaderName::from_static("api-key"), key.expose().to_owned()),
        Auth::XApiKey => (HeaderName::from_static("x-api-key"), key.expose().to_owned()),
    };
    let mut value = HeaderValue::from_str(&text).ok()?;
    value.set_sensitive(true);
    headers.insert(name, value);
    Some(headers)
}

/// The path below `base_url` where a protocol takes a request.
pub(super) fn path(protocol: Protocol, endpoint: Endpoint) -> &'static str {
    match (protocol, endpoint) {
        (Protocol::Anthropic, _) => "messages",
        (Protocol::OpenAi, Endpoint::Chat) => "chat/completions",
        (Protocol::OpenAi, Endpoint::Completions) => "completions",
        (Protocol::OpenAi, Endpoint::Embeddings) => "embeddings",
    }
}

/// The whole address of a path below `base_url`, for a model; `None` if it would read differently to
/// the client than to policy.
pub(super) fn url(config: &ServerConfig, path: &str, model: &str) -> Option<Url> {
    let base = &config.base_url;
    let below = match base.path.contains(MODEL) {
        true => base.path.replace(MODEL, &segment(model)?),
        false => base.path.clone(),
    };
    let origin = base.as_text();
    let origin = origin.strip_suffix(&base.path)?;
    let mut url = Url::parse(&format!("{origin}{below}/{path}")).ok()?;
    if !config.connection.query.is_empty() {
        url.query_pairs_mut().extend_pairs(&config.connection.query);
    }
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let same = url.scheme() == base.scheme
        && host == base.host
        && url.port_or_known_default() == Some(base.port);
    same.then_some(url)
}

/// The same as the client takes it.
pub(super) fn uri(config: &ServerConfig, path: &str, model: &str) -> Option<Uri> {
    url(config, path, model)?.as_str().parse().ok()
}

/// The address of each endpoint, where that does not depend on the model: made once, not for each request.
pub(super) fn fixed_uris(config: &ServerConfig) -> Vec<(Endpoint, Uri)> {
    if config.base_url.path.contains(MODEL) {
        return Vec::new();
    }
    let all = [Endpoint::Chat, Endpoint::Completions, Endpoint::Embeddings].into_iter();
    let uri = |endpoint| uri(config, path(config.protocol, endpoint), "");
    all.filter_map(|endpoint| Some((endpoint, uri(endpoint)?))).collect()
}

/// A name as one segment of a path. `None` if it would be no segment of its own.
fn segment(name: &str) -> Option<String> {
    if matches!(name, "" | "." | "..") {
        return None;
    }
    let mut escaped = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'.' | b'_' | b'~' => {
                escaped.push(char::from(byte));
            }
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    Some(escaped)
}

/// The error of a model's name that makes no address.
pub(super) fn no_address() -> UpstreamError {
    let what = "expected a name that can stand in an address".to_owned();
    UpstreamError::Invalid { param: "model".into(), what }
}

/// The TLS client needs to be told once per process which cryptography to use.
pub(crate) fn install_tls_provider() {
    static INSTALLED: OnceLock<()> = OnceLock::new();
    INSTALLED.get_or_init(|| {
        // An error means that the program that embeds us has chosen already.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

#[cfg(test)]
mod tls;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{BaseUrl, ClientCert, Secret};
    use crate::upstream::UpstreamId;

    fn server(base_url: &str) -> ServerConfig {
        ServerConfig::at(Protocol::OpenAi, BaseUrl::parse(base_url).unwrap())
    }

    #[test]
    fn addresses_are_as_azure_and_others_write_them() {
        let azure = "https://ward.openai.azure.com/openai/deployments/{model}";
        let version = vec![("api-version".to_owned(), "2024-10-21".to_owned())];
        let deployment = "https://ward.openai.azure.com/openai/deployments";
        for (base_url, query, model, expected) in [
            ("https://a.example/v1", vec![], "m", Some("https://a.example/v1/x".to_owned())),
            ("http://[::1]:9/v1", vec![], "m", Some("http://[::1]:9/v1/x".to_owned())),
            ("http://a.example", vec![], "m", Some("http://a.example/x".to_owned())),
            (
                azure,
                version.clone(),
                "gpt-4o",
                Some(format!("{deployment}/gpt-4o/x?api-version=2024-10-21")),
            ),
            (
                azure,
                version.clone(),
                "../../admin?a#b",
                Some(format!("{deployment}/..%2F..%2Fadmin%3Fa%23b/x?api-version=2024-10-21")),
            ),
            (azure, version.clone(), "..", None),
            (azure, version, "", None),
        ] {
            let mut config = server(base_url);
            config.connection.query = query;
            let got = uri(&config, "x", model).map(|uri| uri.to_string());
            assert_eq!(got, expected, "{base_url} {model}");
        }
    }

    #[test]
    fn the_key_stands_where_the_server_looks_for_it() {
        for (auth, name, expected) in [
            (Auth::Bearer, "authorization", "Bearer k"),
            (Auth::ApiKey, "api-key", "k"),
            (Auth::XApiKey, "x-api-key", "k"),
        ] {
            let mut config = server("http://a");
            config.key = Some(Secret::new("k".into()));
            config.connection.auth = auth;
            let way = &mut config.connection.headers;
            way.push((HeaderName::from_static("openai-project"), Secret::new("p".into())));
            let all = headers(&config).unwrap();
            assert_eq!(
                (all.len(), &all[name], &all["openai-project"]),
                (2, &expected.parse().unwrap(), &"p".parse().unwrap())
            );
            assert!(all.values().all(HeaderValue::is_sensitive), "a secret would show in Debug");
        }
    }

    #[test]
    fn a_certificate_that_was_replaced_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.pem");
        let write = || {
            let signed = rcgen::generate_simple_self_signed(vec!["ward".to_owned()]).unwrap();
            std::fs::write(&file, signed.cert.pem()).unwrap();
        };
        write();
        let mut config = server("https://a");
        config.connection.ca_file = Some(file.clone());
        let clients = within::Clients::new(&UpstreamId::new("ward"), &config).unwrap();
        assert!(clients.are_current());
        write();
        assert!(!clients.are_current());
        std::fs::remove_file(&file).unwrap();
        assert!(!clients.are_current());
    }

    #[test]
    fn files_that_are_no_certificates_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.pem");
        std::fs::write(&file, "no certificate").unwrap();
        let setup = |set: &dyn Fn(&mut ServerConfig)| {
            let mut config = server("https://a");
            set(&mut config);
            let setup = within::Clients::new(&UpstreamId::new("ward"), &config);
            setup.err().expect("refused").to_string()
        };
        let empty = setup(&|config| config.connection.ca_file = Some(file.clone()));
        assert!(empty.contains("upstream ward: ca_file"), "{empty}");
        assert!(empty.contains("holds no certificate"), "{empty}");
        let (cert, key) = (file.clone(), folder.path().join("nothing"));
        let missing = setup(&|config| {
            config.connection.client_cert =
                Some(ClientCert { cert: cert.clone(), key: key.clone() });
        });
        assert!(missing.contains("client_cert.key") && missing.contains("nothing"), "{missing}");
    }
}
