//! Headers of a client that may go along to an upstream, because the upstream's section lists them.
//!
//! Nothing goes along by itself. What is listed is data that leaves, so it is scanned like the texts of
//! the body; a value that cannot be read as text is left behind. Credentials are apart: they go only
//! where `client_key: pass` says so, are never scanned (a key would keep every request here) and never
//! shown; one that tells this gateway who is calling is the gateway's, and goes nowhere.

use hyper::HeaderMap;
use hyper::header::{AUTHORIZATION, HeaderName};
use sluice_policies::{Role, Text};

use crate::config::Connection;

/// The headers that some upstream wants.
#[derive(Clone, Debug, Default)]
pub struct WantedHeaders {
    names: Vec<HeaderName>,
    credentials: bool,
}

/// The headers of one request that may go along.
#[derive(Clone, Default)]
pub struct ClientHeaders {
    listed: HeaderMap,
    credentials: HeaderMap,
}

impl WantedHeaders {
    /// What these upstreams want together.
    pub fn of<'a>(connections: impl Iterator<Item = &'a Connection>) -> WantedHeaders {
        let mut wanted = WantedHeaders::default();
        for connection in connections {
            wanted.credentials |= connection.client_key;
            for name in &connection.client_headers {
                if !wanted.names.contains(name) {
                    wanted.names.push(name.clone());
                }
            }
        }
        wanted
    }
}

impl ClientHeaders {
    /// Takes what is wanted, but for the credential that says who is calling.
    pub fn read(
        headers: &HeaderMap,
        wanted: &WantedHeaders,
        ours: Option<&HeaderName>,
    ) -> ClientHeaders {
        let mut client = ClientHeaders::default();
        for name in wanted.names.iter().filter(|name| Some(*name) != ours) {
            for value in headers.get_all(name).iter().filter(|value| value.to_str().is_ok()) {
                client.listed.append(name, value.clone());
            }
        }
        let credentials = [AUTHORIZATION, HeaderName::from_static("x-api-key")];
        let goes = |name: &HeaderName| wanted.credentials && Some(name) != ours;
        for name in credentials.into_iter().filter(goes) {
            if let Some(value) = headers.get(&name) {
                let mut value = value.clone();
                value.set_sensitive(true);
                client.credentials.insert(name, value);
            }
        }
        client
    }

    /// The texts that would leave.
    pub fn texts(&self) -> impl Iterator<Item = Text> {
        self.listed.iter().map(|(name, value)| Text {
            place: format!("headers.{name}"),
            message: None,
            role: Role::Other,
            text: value.to_str().unwrap_or_default().to_owned(),
        })
    }

    /// What goes along to one upstream.
    pub fn for_upstream(&self, connection: &Connection) -> HeaderMap {
        let mut along = HeaderMap::new();
        for name in &connection.client_headers {
            for value in self.listed.get_all(name) {
                along.append(name, value.clone());
            }
        }
        if connection.client_key {
            along.extend(self.credentials.clone());
        }
        along
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;
    use crate::config::Protocol;

    fn connection(names: &[&'static str], client_key: bool) -> Connection {
        let client_headers = names.iter().map(|name| HeaderName::from_static(name)).collect();
        Connection { client_headers, client_key, ..Connection::straight(Protocol::OpenAi) }
    }

    #[test]
    fn each_upstream_gets_what_its_own_list_names_and_a_key_only_if_it_says_so() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("traceparent", "00-ab"),
            ("x-ward", "north"),
            ("x-other", "o"),
            ("authorization", "Bearer k"),
            ("cookie", "c"),
        ] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers.append("x-ward", HeaderValue::from_bytes(b"\xff").unwrap());
        let all =
            [connection(&["traceparent"], false), connection(&["x-ward", "traceparent"], true)];
        let client = ClientHeaders::read(&headers, &WantedHeaders::of(all.iter()), None);
        let along = |connection: &Connection| {
            let along = client.for_upstream(connection);
            let shown = |(name, value): (&HeaderName, &HeaderValue)| {
                format!("{name}={}", value.to_str().unwrap())
            };
            along.iter().map(shown).collect::<Vec<_>>()
        };
        assert_eq!(along(&all[0]), ["traceparent=00-ab"]);
        assert_eq!(along(&all[1]), ["x-ward=north", "traceparent=00-ab", "authorization=Bearer k"]);
        assert!(along(&connection(&[], false)).is_empty());
        let scanned: Vec<_> = client.texts().map(|text| (text.place, text.text)).collect();
        let text = |place: &str, text: &str| (place.to_owned(), text.to_owned());
        assert_eq!(
            scanned,
            [text("headers.traceparent", "00-ab"), text("headers.x-ward", "north")]
        );
    }

    #[test]
    fn what_says_who_is_calling_goes_nowhere() {
        let mut headers = HeaderMap::new();
        headers.append(AUTHORIZATION, HeaderValue::from_static("Bearer ours"));
        headers.append("x-api-key", HeaderValue::from_static("theirs"));
        let all = [connection(&["authorization"], true)];
        let wanted = WantedHeaders::of(all.iter());
        let client = ClientHeaders::read(&headers, &wanted, Some(&AUTHORIZATION));
        let along = client.for_upstream(&all[0]);
        assert_eq!(along.keys().collect::<Vec<_>>(), ["x-api-key"]);
        assert_eq!(client.texts().count(), 0);
    }
}
