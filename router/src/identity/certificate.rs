//! Whose a client certificate is: its names, as the keys file writes them.
//!
//! rustls has checked the certificate against the operator's authority before this is asked; here it is
//! only read. A certificate is known by its subject alternative names (`dns:`, `uri:`, `email:`), by its
//! subject (`subject:CN=ward, O=Hospital`) or by its own SHA-256 (`sha256:`).

use std::sync::Arc;

use ring::digest::{SHA256, digest};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Most names of one certificate; more is not meant for people to write into a list.
const NAMES_MAX: usize = 64;

/// What stands before a name in the keys file.
const KINDS: [&str; 5] = ["dns:", "uri:", "email:", "subject:", "sha256:"];

/// The names of a certificate that rustls has accepted. Cloning is cheap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerNames(Arc<[String]>);

impl PeerNames {
    /// Reads a certificate in DER. `None` if it cannot be read: then it is nobody's.
    pub fn read(der: &[u8]) -> Option<PeerNames> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let mut names = Vec::new();
        if let Ok(Some(extension)) = certificate.subject_alternative_name() {
            names.extend(extension.value.general_names.iter().take(NAMES_MAX).filter_map(name));
        }
        let subject = certificate.subject().to_string();
        if !subject.is_empty() {
            names.push(format!("subject:{subject}"));
        }
        let hash: String =
            digest(&SHA256, der).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        names.push(format!("sha256:{hash}"));
        Some(PeerNames(names.into()))
    }

    /// The name that says most.
    pub(crate) fn first(&self) -> &str {
        self.0.first().map_or("", String::as_str)
    }

    /// Whether one of the names is this one.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|known| known == name)
    }
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some(format!("dns:{}", name.to_ascii_lowercase())),
        GeneralName::URI(uri) => Some(format!("uri:{uri}")),
        GeneralName::RFC822Name(mail) => Some(format!("email:{mail}")),
        _ => None,
    }
}

/// Checks a name as the keys file writes it.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    let kind = KINDS.iter().find(|kind| name.starts_with(**kind));
    match kind {
        Some(kind) if name.len() > kind.len() => Ok(()),
        _ => Err(format!("expected a certificate's name that begins with one of {KINDS:?}")),
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType, string::Ia5String};

    use super::*;

    fn certificate() -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["Ward.Hospital.example".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "ward");
        let uri = Ia5String::try_from("spiffe://hospital/ward").unwrap();
        params.subject_alt_names.push(SanType::URI(uri));
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn a_certificate_is_known_by_its_names_its_subject_and_its_hash() {
        let der = certificate();
        let names = PeerNames::read(&der).unwrap();
        assert!(names.has("dns:ward.hospital.example"), "{names:?}");
        assert!(names.has("uri:spiffe://hospital/ward"));
        assert!(
            names.0.iter().any(|name| name.starts_with("subject:") && name.contains("CN=ward"))
        );
        assert!(!names.has("dns:hospital.example") && !names.has("ward.hospital.example"));
        assert_eq!(PeerNames::read(&der[..20]), None);
    }
}
