//! Why the gateway could not start or had to stop, by the step that failed.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::active_policy::Refused;
use crate::audit::AuditError;
use crate::identity::IdentityError;
use crate::server::{AdminError, TlsError};
use crate::shared_state::SharedStateError;
use crate::taint::{NoRandomness, TaintError};
use crate::upstream::UpstreamSetupError;

/// A gateway that cannot run. `Display` names the step; the cause is `source()`.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The policy set cannot be used.
    #[error("failed to load the policies")]
    Policy(#[source] Arc<Refused>),
    /// The model cannot be loaded.
    #[error("failed to load the model {path}")]
    Model {
        /// Its folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: sluice_engine::EngineError,
    },
    /// No model was named for the edge.
    #[error(
        "failed to load the edge's model: none is named; use --model, upstreams.edge.model or SLUICE_MODEL"
    )]
    NoModel,
    /// What tells callers apart cannot be used.
    #[error("failed to learn who may call")]
    Identity(#[from] IdentityError),
    /// An upstream's settings make no client.
    #[error("failed to set up an upstream")]
    Upstream(#[from] UpstreamSetupError),
    /// The audit log cannot be written.
    #[error("failed to start the audit log")]
    Audit(#[from] AuditError),
    /// Certificates cannot be used.
    #[error("failed to set up TLS")]
    Tls(#[from] TlsError),
    /// The admin listener has no usable token.
    #[error("failed to set up the admin listener")]
    Admin(#[from] AdminError),
    /// The shared state's address makes no client.
    #[error("failed to set up the shared state")]
    SharedState(#[from] SharedStateError),
    /// Fingerprints of private conversations cannot be kept.
    #[error("failed to start the taint store")]
    Taint(#[from] TaintError),
    /// There is nothing to make keys of.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    /// A listener cannot be opened.
    #[error("failed to listen on {address}; is another process using it?")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// The threads that serve connections cannot be started.
    #[error("failed to start the threads that serve")]
    Threads(#[source] std::io::Error),
    /// Signals cannot be waited for.
    #[error("failed to wait for signals")]
    Signals(#[source] std::io::Error),
}
