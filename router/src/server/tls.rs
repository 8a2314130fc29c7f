//! TLS of a listener: certificates from files, read again when they change, and who the client is.
//!
//! A connection keeps what it began with; the next one gets what was read last. Files that make no whole
//! (a key that is not the certificate's, an empty authority) change nothing: what was good serves on. TLS
//! 1.2 and 1.3, by rustls over ring.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::config::{ClientCertificate, TlsFiles};
use crate::identity::PeerNames;

/// How long a client may take to shake hands.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);

/// Certificates that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file that cannot be read or holds something else.
    #[error("failed to read {what} from {path}")]
    Pem {
        /// What was expected in it.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the reader said.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// A file without anything in it.
    #[error("expected at least one certificate in {0}, got none")]
    Empty(PathBuf),
    /// Files that do not belong together.
    #[error("failed to use {path}")]
    Mismatch {
        /// The certificate or the authority.
        path: PathBuf,
        /// What rustls said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// What a listener shows its clients, and asks of them.
pub(crate) struct TlsFront {
    files: TlsFiles,
    current: RwLock<Arc<ServerConfig>>,
}

impl TlsFront {
    /// Reads the files.
    pub(crate) fn open(files: TlsFiles) -> Result<Arc<TlsFront>, TlsError> {
        let current = RwLock::new(Arc::new(read(&files)?));
        Ok(Arc::new(TlsFront { files, current }))
    }

    /// Reads the files again; if they cannot be used, everything stays as it is.
    pub(crate) fn reload(&self) -> Result<(), TlsError> {
        let read = Arc::new(read(&self.files)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = read;
        Ok(())
    }

    /// Shakes hands; `None` in the second place for a client without a certificate.
    pub(super) async fn accept(
        &self,
        stream: TcpStream,
    ) -> io::Result<(TlsStream<TcpStream>, Option<PeerNames>)> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner).clone();
        let shaking = TlsAcceptor::from(current).accept(stream);
        let stream = tokio::time::timeout(HANDSHAKE_TIME_MAX, shaking)
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let peer = shown.and_then(|certificate| PeerNames::read(certificate));
        Ok((stream, peer))
    }
}

fn read(files: &TlsFiles) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = certificates(&files.cert)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|source| TlsError::Pem {
        what: "a private key",
        path: files.key.clone(),
        source,
    })?;
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| mismatch(&files.cert, e))?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for authority in certificates(path)? {
                roots.add(authority).map_err(|e| mismatch(path, e))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = match files.client_certificate {
                ClientCertificate::Required => verifier,
                ClientCertificate::Optional => verifier.allow_unauthenticated(),
            };
            builder.with_client_cert_verifier(verifier.build().map_err(|e| mismatch(path, e))?)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|e| mismatch(&files.cert, e))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |source| TlsError::Pem { what: "certificates", path: path.to_owned(), source };
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(failed)?
        .collect::<Result<_, _>>()
        .map_err(failed)?;
    if certificates.is_empty() { Err(TlsError::Empty(path.to_owned())) } else { Ok(certificates) }
}

fn mismatch(path: &Path, source: impl std::error::Error + Send + Sync + 'static) -> TlsError {
    TlsError::Mismatch { path: path.to_owned(), source: Box::new(source) }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn write(folder: &Path, name: &str) -> TlsFiles {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let at = |kind: &str| folder.join(format!("{name}.{kind}"));
        std::fs::write(at("crt"), certificate.pem()).unwrap();
        std::fs::write(at("key"), key.serialize_pem()).unwrap();
        TlsFiles {
            cert: at("crt"),
            key: at("key"),
            client_ca: None,
            client_certificate: ClientCertificate::Required,
        }
    }

    #[test]
    fn files_that_make_no_whole_are_refused_and_change_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (write(folder.path(), "one"), write(folder.path(), "other"));
        let front = TlsFront::open(one.clone()).unwrap();
        let before = front.current.read().unwrap().clone();
        let whole = std::fs::read(&one.cert).unwrap();
        for (bytes, part) in [
            (std::fs::read(&other.cert).unwrap(), "failed to use"),
            (b"no certificate".to_vec(), "at least one certificate"),
            (whole[..whole.len() / 2].to_vec(), "certificate"),
        ] {
            std::fs::write(&one.cert, bytes).unwrap();
            let error = front.reload().unwrap_err().to_string();
            assert!(error.contains(part) && error.contains("one.crt"), "{error}");
            assert!(Arc::ptr_eq(&before, &front.current.read().unwrap()));
        }
        std::fs::write(&one.cert, whole).unwrap();
        front.reload().unwrap();
        assert!(!Arc::ptr_eq(&before, &front.current.read().unwrap()));
    }

    #[test]
    fn an_authority_without_certificates_lets_nobody_in() {
        let folder = tempfile::tempdir().unwrap();
        let files = write(folder.path(), "one");
        let ca = folder.path().join("ca.crt");
        std::fs::write(&ca, "").unwrap();
        assert!(TlsFront::open(TlsFiles { client_ca: Some(ca), ..files }).is_err());
    }
}
