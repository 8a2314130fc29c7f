//! TLS at our own listener: certificates that change under way, and clients known by theirs.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::cloud::{Cloud, Script, spawn};
use crate::gateway::{Gateway, Reply, with_cloud};

/// An authority that vouches for servers and clients.
struct Authority(CertifiedIssuer<'static, KeyPair>);

struct Identity {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn vouch(&self, name: &str) -> Identity {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Identity { certificate, key }
    }

    fn write_server(&self, folder: &Path) {
        let server = self.vouch("localhost");
        std::fs::write(folder.join("tls.crt"), server.certificate.pem()).unwrap();
        std::fs::write(folder.join("tls.key"), server.key.serialize_pem()).unwrap();
    }

    fn write_ca(&self, folder: &Path) {
        std::fs::write(folder.join("ca.crt"), self.0.pem()).unwrap();
    }

    /// A client that trusts this authority, as somebody or as nobody.
    fn client(&self, who: Option<&Identity>) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        match who {
            None => builder.with_no_client_auth(),
            Some(who) => {
                let key = PrivateKeyDer::try_from(who.key.serialize_der()).unwrap();
                builder.with_client_auth_cert(vec![who.certificate.der().clone()], key).unwrap()
            }
        }
    }
}

/// Asks over TLS; an error if the two do not come together.
async fn ask(to: SocketAddr, client: ClientConfig, say: &str) -> Result<Reply, String> {
    let words = |error: &dyn std::fmt::Display| error.to_string();
    let stream = TcpStream::connect(to).await.map_err(|e| words(&e))?;
    let name = ServerName::try_from("localhost").unwrap();
    let tls = TlsConnector::from(Arc::new(client)).connect(name, stream).await;
    let tls = TokioIo::new(tls.map_err(|e| words(&e))?);
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(tls).await.map_err(|e| words(&e))?;
    spawn(connection);
    let request = Request::builder()
        .method(Method::POST)
        .uri("/v1/chat/completions")
        .header("host", "localhost")
        .body(Full::new(Bytes::from(crate::gateway::say(say).to_string())))
        .unwrap();
    let response = sender.send_request(request).await.map_err(|e| words(&e))?;
    Ok(Reply::read(response).await)
}

fn with_tls(cloud: SocketAddr, tls: &str, more: &str) -> String {
    let traffic = format!("traffic: {{address: \"127.0.0.1:0\", tls: {tls}}}");
    with_cloud(cloud, more).replace("traffic: \"127.0.0.1:0\"", &traffic)
}

#[tokio::test]
async fn certificates_that_change_are_shown_to_the_next_connection() {
    let cloud = Cloud::start(Script::Answer).await;
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (Authority::new(), Authority::new());
    old.write_server(folder.path());
    let tls = "{cert: $FOLDER/tls.crt, key: $FOLDER/tls.key}";
    let gateway = Gateway::start_in(folder, &with_tls(cloud.address, tls, "")).await;
    let as_nobody = async |authority: &Authority| {
        ask(gateway.traffic, authority.client(None), "Hello").await.map(|reply| reply.status)
    };
    assert_eq!(as_nobody(&old).await.unwrap(), 200);
    assert!(as_nobody(&new).await.is_err(), "not yet vouched for");

    new.write_server(gateway.folder());
    let reply = gateway.operate(Method::POST, "/admin/v1/reload", "").await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(as_nobody(&new).await.unwrap(), 200);
    assert!(as_nobody(&old).await.is_err());

    // Half a pair changes nothing.
    old.write_server(gateway.folder());
    std::fs::write(gateway.folder().join("tls.key"), KeyPair::generate().unwrap().serialize_pem())
        .unwrap();
    assert_eq!(gateway.operate(Method::POST, "/admin/v1/reload", "").await.status, 422);
    assert_eq!(as_nobody(&new).await.unwrap(), 200);
}

#[tokio::test]
async fn a_client_is_known_by_its_certificate_and_tagged_as_the_list_says() {
    let cloud = Cloud::start(Script::Answer).await;
    let folder = tempfile::tempdir().unwrap();
    let (authority, stranger) = (Authority::new(), Authority::new());
    authority.write_server(folder.path());
    authority.write_ca(folder.path());
    std::fs::write(
        folder.path().join("keys.yaml"),
        "keys:\n- {id: scanner, certificate: \"dns:ward.example\", tenant: north, tags: [phi]}\n",
    )
    .unwrap();
    let tls = "{cert: $FOLDER/tls.crt, key: $FOLDER/tls.key, client_ca: $FOLDER/ca.crt}";
    let keys = "identity: {keys: $FOLDER/keys.yaml}\n";
    let gateway = Gateway::start_in(folder, &with_tls(cloud.address, tls, keys)).await;

    let ward = authority.vouch("ward.example");
    let reply = ask(gateway.traffic, authority.client(Some(&ward)), "Hello").await.unwrap();
    reply.came_from("edge", 200);
    assert!(reply.header("x-sluice-labels").contains("HIPAA"), "{:?}", reply.headers);
    let other = authority.vouch("other.example");
    let reply = ask(gateway.traffic, authority.client(Some(&other)), "Hello").await.unwrap();
    reply.came_from("cloud", 200);
    let callers: Vec<_> = gateway
        .audit()
        .into_iter()
        .filter(|line| line["kind"] == "attempt")
        .map(|line| line["caller"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(callers, [Some("scanner".to_owned()), None]);

    assert!(ask(gateway.traffic, authority.client(None), "Hello").await.is_err());
    let impostor = stranger.vouch("ward.example");
    assert!(ask(gateway.traffic, authority.client(Some(&impostor)), "Hello").await.is_err());
    // Without TLS there is nothing to be had from this port.
    let mut stream = TcpStream::connect(gateway.traffic).await.unwrap();
    stream.write_all(b"GET /v1/models HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP/"), "{answer:?}");
}
