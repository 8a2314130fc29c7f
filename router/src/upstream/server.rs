//! A server across the network, whatever it speaks.
//!
//! The only file that owns an HTTP client (`connect` builds it), and its only way out is
//! [`ServerUpstream::send`], which spends an [`EgressPermit`]: the address, the client's headers and the
//! bytes that are sent are those that were sealed with the permit's body.
//!
//! What goes out and what comes back is translated by the file of the server's protocol (`openai`,
//! `anthropic`); between the two everything is the internal form. Inside: `answer` (what comes back),
//! `relay` (where that is a stream).

mod answer;
mod relay;

use std::path::{Path, PathBuf};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming as Body;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, Uri};
use sluice_policies::{AddressRanges, Endpoint, Wish};
use tokio::time::{Instant, timeout_at};

use super::connect::client::{Client, failure};
use super::connect::within::{Clients, NoClient};
use super::latency::Latency;
use super::retry::Retrier;
use super::{Answer, Shape, UpstreamError, UpstreamId, anthropic, connect, openai};
use crate::api::{ChatBody, ClientHeaders};
use crate::breaker::Breaker;
use crate::capability::Capabilities;
use crate::config::{Protocol, ServerConfig};
use crate::permit::{EgressPermit, Errand, OutboundBody};
use answer::Clock;

/// A configured server.
pub struct ServerUpstream {
    id: UpstreamId,
    config: ServerConfig,
    clients: Clients,
    address: String,
    uris: Vec<(Endpoint, Uri)>,
    /// The key, the fixed headers, and what the protocol wants besides.
    headers: HeaderMap,
    /// Keeps requests away while it fails.
    pub breaker: Breaker,
    /// When what failed is asked again.
    pub(crate) retrier: Retrier,
    /// How soon its last answers began.
    pub(crate) latency: Latency,
    /// What it can do: its protocol's, and less where the config says so.
    pub capabilities: Capabilities,
}

/// An upstream whose settings make no usable client.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamSetupError {
    /// The address reads differently to the client than to policy.
    #[error("upstream {id}: expected an address that every reader takes alike, got {address}")]
    Address {
        /// The upstream.
        id: UpstreamId,
        /// Its address.
        address: String,
    },
    /// The key holds characters that a header cannot.
    #[error("upstream {id}: expected a key of visible ASCII characters")]
    Key {
        /// The upstream.
        id: UpstreamId,
    },
    /// A file of its TLS settings cannot be used.
    #[error("upstream {id}: {field}: failed to use {}: {what}", path.display())]
    File {
        /// The upstream.
        id: UpstreamId,
        /// The field that names the file.
        field: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The TLS client could not be built.
    #[error("upstream {id}: failed to build the HTTP client")]
    Client {
        /// The upstream.
        id: UpstreamId,
        /// Why.
        #[source]
        source: rustls::Error,
    },
}

impl UpstreamSetupError {
    pub(super) fn file(id: &UpstreamId, field: &'static str, path: &Path, what: String) -> Self {
        UpstreamSetupError::File { id: id.clone(), field, path: path.to_owned(), what }
    }
}

impl ServerUpstream {
    /// Builds the client of one upstream.
    pub fn new(id: UpstreamId, config: ServerConfig) -> Result<ServerUpstream, UpstreamSetupError> {
        let odd = || {
            let (id, address) = (id.clone(), config.base_url.as_text());
            UpstreamSetupError::Address { id, address }
        };
        let url = connect::url(&config, "", "model").ok_or_else(odd)?;
        let headers = connect::headers(&config);
        let headers = headers.ok_or(UpstreamSetupError::Key { id: id.clone() })?;
        let clients = Clients::new(&id, &config)?;
        let address = url.origin().ascii_serialization();
        let uris = connect::fixed_uris(&config);
        let breaker = Breaker::new(config.breaker);
        let (retrier, latency) = (Retrier::new(config.retries.clone()), Latency::default());
        let embeddings = config.protocol == Protocol::OpenAi;
        let capabilities = Capabilities { embeddings, ..Capabilities::default() };
        Ok(ServerUpstream {
            id,
            config,
            clients,
            address,
            uris,
            headers,
            breaker,
            retrier,
            latency,
            capabilities,
        })
    }

    /// `scheme://host:port`, the port left out where it is the scheme's own.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Its name.
    pub fn id(&self) -> &UpstreamId {
        &self.id
    }

    /// Milliseconds until its last answers began, as far as it was asked of late.
    pub(super) fn begins_ms(&self) -> Option<u64> {
        let expected = self.latency.expected_ms(Instant::now());
        (expected >= 1.0).then_some(expected as u64)
    }

    /// Its settings.
    pub fn config(&self) -> &ServerConfig {
        &self.config
    }

    /// Translates a request into what this upstream gets; an error where its protocol has no words for
    /// what is asked.
    pub(crate) fn outbound(
        &self,
        chat: &ChatBody,
        client: &ClientHeaders,
    ) -> Result<OutboundBody, UpstreamError> {
        let model = self.model_name(&chat.model);
        let way = &self.config.connection;
        let headers = client.for_upstream(way);
        if let Some(raw) = &chat.raw {
            let (uri, content_type) = (self.uri(&raw.path, model)?, raw.content_type.clone());
            let errand = Errand { endpoint: None, content_type, uri, headers };
            return Ok(OutboundBody::seal(raw.bytes.clone(), errand));
        }
        let bytes = match self.config.protocol {
            Protocol::OpenAi => openai::body(chat, model, way)?,
            Protocol::Anthropic => anthropic::body(chat, model, way)?,
        };
        let fixed = self.uris.iter().find(|(endpoint, _)| *endpoint == chat.endpoint);
        let uri = match fixed {
            Some((_, uri)) => uri.clone(),
            None => self.uri(connect::path(self.config.protocol, chat.endpoint), model)?,
        };
        let errand = Errand {
            endpoint: Some(chat.endpoint),
            content_type: HeaderValue::from_static("application/json"),
            uri,
            headers,
        };
        Ok(OutboundBody::seal(bytes.into(), errand))
    }

    /// The whole address of a path, for a model.
    fn uri(&self, path: &str, model: &str) -> Result<Uri, UpstreamError> {
        connect::uri(&self.config, path, model).ok_or_else(connect::no_address)
    }

    /// The name that it knows a client's model by.
    pub(crate) fn model_name<'a>(&'a self, client_name: &'a str) -> &'a str {
        let listed = self.config.models.iter().find(|(name, _)| name == client_name);
        match (listed, &self.config.model) {
            (Some((_, server_name)), _) => server_name,
            (None, Some(standard)) => standard,
            // No server knows the virtual models: the first that it was given names for will do.
            (None, None) if Wish::named(client_name).is_some() => {
                self.config.models.first().map_or(client_name, |(_, server_name)| server_name)
            }
            (None, None) => client_name,
        }
    }

    /// Sends what the permit carries and waits for the head of the answer, or for all of it.
    ///
    /// Panics if the permit is for another upstream (caller bug).
    pub(crate) async fn send(
        &self,
        permit: EgressPermit,
        shape: Shape,
    ) -> Result<Answer, UpstreamError> {
        let (upstream, errand, body, ranges) = permit.spend();
        assert!(upstream == self.id, "a permit for {upstream} was given to {}", self.id);
        let clock = Clock::start(self.config.timeouts);
        let (started, endpoint) = (Instant::now(), errand.endpoint);
        let client = self.client(&ranges)?;
        let response = self.request(client, errand, body, shape, clock).await?;
        self.latency.note(started.elapsed(), Instant::now());
        answer::read(response, &self.config, endpoint, shape, clock).await
    }

    /// Whether its certificates still stand in their files.
    pub(crate) fn is_current(&self) -> bool {
        self.clients.are_current()
    }

    /// The client for where this may be sent.
    fn client(&self, ranges: &AddressRanges) -> Result<Client, UpstreamError> {
        self.clients.within(ranges, &self.id, &self.config).map_err(|error| match error {
            NoClient::Outside(outside) => UpstreamError::Outside(Box::new(outside)),
            NoClient::Setup(error) => UpstreamError::NoClient(Box::new(error)),
        })
    }

    async fn request(
        &self,
        client: Client,
        errand: Errand,
        body: Bytes,
        shape: Shape,
        clock: Clock,
    ) -> Result<Response<Body>, UpstreamError> {
        let accept = match errand.endpoint {
            None => "*/*",
            Some(_) if shape.stream => "text/event-stream",
            Some(_) => "application/json",
        };
        // The client's first: what the platform fixed replaces them.
        let mut headers = errand.headers;
        headers.extend(self.headers.clone());
        headers.insert(CONTENT_TYPE, errand.content_type);
        headers.insert(ACCEPT, HeaderValue::from_static(accept));
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = errand.uri;
        *request.headers_mut() = headers;
        match timeout_at(clock.first_byte, client.request(request)).await {
            Err(_) => Err(UpstreamError::Timeout("no first byte of the answer")),
            Ok(answer) => answer.map_err(failure),
        }
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod timeouts;
