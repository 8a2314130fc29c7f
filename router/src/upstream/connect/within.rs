//! Holds connections to the address ranges that compliance vouches for.
//!
//! A name is resolved, what lies outside is left out, and the client connects to what is left: the address
//! that was checked is the one that gets the bytes, whatever the name says a moment later. Connections are
//! kept by ranges, so that one which an older policy let through carries nothing of a newer one.
//!
//! A proxy resolves names by itself, out of sight: with one, nothing can be held to.

use std::collections::HashMap;
use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::vec;

use hyper_util::client::legacy::connect::dns::Name;
use sluice_policies::AddressRanges;
use tokio::runtime;
use tower_service::Service;

use super::client::{Certificates, Client, client};
use crate::config::ServerConfig;
use crate::upstream::{UpstreamId, UpstreamSetupError};

/// A name, or an address, that leads where nobody vouched for.
#[derive(Clone, Debug, thiserror::Error)]
#[error("expected an address in {ranges}, got {found}")]
pub(crate) struct Outside {
    ranges: AddressRanges,
    found: String,
}

/// Resolves names as the system does, and leaves out what lies outside; with no ranges, nothing does.
#[derive(Clone)]
pub(super) struct Resolver(AddressRanges);

impl Resolver {
    pub(super) fn new(ranges: AddressRanges) -> Resolver {
        Resolver(ranges)
    }
}

impl Service<Name> for Resolver {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = Box<dyn Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let ranges = self.0.clone();
        Box::pin(async move {
            let found: Vec<SocketAddr> =
                tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let inside = if ranges.is_empty() { found } else { inside(&ranges, &found)? };
            Ok(inside.into_iter())
        })
    }
}

/// The addresses that may be connected to; an error if there are none.
fn inside(ranges: &AddressRanges, found: &[SocketAddr]) -> Result<Vec<SocketAddr>, Outside> {
    let inside: Vec<SocketAddr> =
        found.iter().copied().filter(|address| ranges.holds(address.ip())).collect();
    if !inside.is_empty() {
        return Ok(inside);
    }
    let found: Vec<String> = found.iter().map(|address| address.ip().to_string()).collect();
    let found = if found.is_empty() { "none".to_owned() } else { found.join(", ") };
    Err(Outside { ranges: ranges.clone(), found })
}

/// The clients of an upstream, one for each runtime that asks: a connection lives on the runtime that opened
/// it, and whoever used it from another would wake that one's thread for each piece.
pub(crate) struct Clients {
    /// Each connects inside the ranges that its runtime asked for last.
    kept: Mutex<HashMap<runtime::Id, (AddressRanges, Client)>>,
    /// The one that shows at the start whether the settings make a client, for the first that asks.
    first: Mutex<Option<Client>>,
    /// Read once, so that all clients have the same.
    certificates: Certificates,
}

/// Why there is no client for some ranges.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoClient {
    #[error(transparent)]
    Outside(Outside),
    #[error(transparent)]
    Setup(UpstreamSetupError),
}

impl Clients {
    pub(crate) fn new(
        id: &UpstreamId,
        config: &ServerConfig,
    ) -> Result<Clients, UpstreamSetupError> {
        let certificates = Certificates::read(id, config)?;
        let first = client(id, config, &certificates, &AddressRanges::default())?;
        Ok(Clients { kept: Mutex::default(), first: Mutex::new(Some(first)), certificates })
    }

    /// Whether the files of certificates still hold what was read.
    pub(crate) fn are_current(&self) -> bool {
        self.certificates.are_current()
    }

    /// A client that connects inside the ranges alone, for the runtime that this runs on.
    ///
    /// Panics outside of a runtime (caller bug).
    pub(crate) fn within(
        &self,
        ranges: &AddressRanges,
        id: &UpstreamId,
        config: &ServerConfig,
    ) -> Result<Client, NoClient> {
        may_connect(ranges, config).map_err(NoClient::Outside)?;
        let here = runtime::Handle::current().id();
        if let Some((known, client)) = self.kept().get(&here)
            && known == ranges
        {
            return Ok(client.clone());
        }
        let first = if ranges.is_empty() { self.first().take() } else { None };
        let made = first.map_or_else(|| client(id, config, &self.certificates, ranges), Ok);
        let made = made.map_err(NoClient::Setup)?;
        self.kept().insert(here, (ranges.clone(), made.clone()));
        Ok(made)
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<runtime::Id, (AddressRanges, Client)>> {
        // A pair is replaced as a whole.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn first(&self) -> MutexGuard<'_, Option<Client>> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether it is already plain that an upstream leads outside the ranges.
fn may_connect(ranges: &AddressRanges, config: &ServerConfig) -> Result<(), Outside> {
    if ranges.is_empty() {
        return Ok(());
    }
    let outside = |found: &str| Outside { ranges: ranges.clone(), found: found.to_owned() };
    if config.connection.proxy.is_some() {
        return Err(outside("whatever its proxy finds"));
    }
    // An address is not resolved.
    match config.base_url.host.parse::<IpAddr>() {
        Ok(address) if !ranges.holds(address) => Err(outside(&config.base_url.host)),
        _ => Ok(()),
    }
}
