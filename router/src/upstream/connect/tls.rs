//! Who is believed and who we are: servers with certificates made for the test.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use hyper_util::client::legacy::connect::Connection;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig as TlsServer, ServerConnection, StreamOwned};
use sluice_policies::AddressRanges;
use tower_service::Service;

use super::client::{Certificates, client, connector};
use super::*;
use crate::config::{BaseUrl, ClientCert};
use crate::upstream::UpstreamId;

/// Asks for what a server has below its `base_url`.
fn to_models(config: &ServerConfig) -> Request<Full<Bytes>> {
    Request::get(uri(config, "models", "m").unwrap()).body(Full::default()).unwrap()
}

/// A proxy that opens one tunnel to an address, whatever it is asked for; gives what it was asked.
fn tunnel(to: SocketAddr) -> (SocketAddr, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let thread = std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            client.read_exact(&mut byte).unwrap();
            head.extend(byte);
        }
        client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        let mut server = TcpStream::connect(to).unwrap();
        let (mut from_client, mut to_server) =
            (client.try_clone().unwrap(), server.try_clone().unwrap());
        std::thread::spawn(move || std::io::copy(&mut from_client, &mut to_server));
        let _ = std::io::copy(&mut server, &mut client);
        String::from_utf8(head).unwrap()
    });
    (address, thread)
}

/// An authority that signs what a test needs, in PEM files of a folder.
struct Authority {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    file: PathBuf,
}

impl Authority {
    fn new(folder: &Path, name: &str) -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let file = folder.join(format!("{name}.pem"));
        std::fs::write(&file, params.self_signed(&key).unwrap().pem()).unwrap();
        Authority { folder: folder.to_owned(), issuer: Issuer::new(params, key), file }
    }

    /// Signs a certificate for a name.
    fn sign(&self, name: &str) -> ClientCert {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let signed = params.signed_by(&key, &self.issuer).unwrap();
        let files = ClientCert {
            cert: self.folder.join(format!("{name}.crt")),
            key: self.folder.join(format!("{name}.key")),
        };
        std::fs::write(&files.cert, signed.pem()).unwrap();
        std::fs::write(&files.key, key.serialize_pem()).unwrap();
        files
    }
}

/// A server that answers one request after another; with `asks` it wants a certificate of the client.
fn serve(authority: &Authority, asks: bool) -> SocketAddr {
    serve_speaking(authority, asks, &[])
}

/// The same for one that chooses among protocols.
fn serve_speaking(authority: &Authority, asks: bool, protocols: &[&[u8]]) -> SocketAddr {
    let own = authority.sign("127.0.0.1");
    let chain = vec![CertificateDer::from_pem_file(&own.cert).unwrap()];
    let key = PrivateKeyDer::from_pem_file(&own.key).unwrap();
    let builder = match asks {
        false => TlsServer::builder().with_no_client_auth(),
        true => {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_file(&authority.file).unwrap()).unwrap();
            let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap();
            TlsServer::builder().with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(chain, key).unwrap();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let tls = ServerConnection::new(config.clone()).unwrap();
            let mut stream = StreamOwned::new(tls, stream);
            // A handshake that fails is what some cases want.
            if stream.read(&mut [0; 1024]).is_ok() {
                let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n");
                stream.conn.send_close_notify();
                let _ = stream.flush();
            }
        }
    });
    address
}

#[tokio::test]
async fn only_the_named_authorities_are_believed_and_a_certificate_is_shown_where_one_is_named() {
    install_tls_provider();
    let folder = tempfile::tempdir().unwrap();
    let (ours, other) =
        (Authority::new(folder.path(), "ours"), Authority::new(folder.path(), "other"));
    let me = ours.sign("sluice.internal");
    let (open, asking) = (serve(&ours, false), serve(&ours, true));
    for (address, ca_file, client_cert, expected) in [
        (open, None, None, false),
        (open, Some(&other.file), None, false),
        (open, Some(&ours.file), None, true),
        (asking, Some(&ours.file), None, false),
        (asking, Some(&ours.file), Some(&me), true),
    ] {
        let base_url = BaseUrl::parse(&format!("https://{address}/v1")).unwrap();
        let mut config = ServerConfig::at(Protocol::OpenAi, base_url);
        config.connection.ca_file = ca_file.cloned();
        config.connection.client_cert = client_cert.cloned();
        let anywhere = AddressRanges::default();
        let id = UpstreamId::new("ward");
        let certificates = Certificates::read(&id, &config).unwrap();
        let client = client(&id, &config, &certificates, &anywhere).unwrap();
        let answer = client.request(to_models(&config)).await;
        let status = answer.as_ref().ok().map(|answer| answer.status().as_u16());
        let what = format!("{ca_file:?} {client_cert:?}: {answer:?}");
        assert_eq!(status == Some(204), expected, "{what}");
    }
}

#[test]
fn certificates_are_read_once_and_each_runtime_has_a_client_with_them() {
    install_tls_provider();
    let folder = tempfile::tempdir().unwrap();
    let ours = Authority::new(folder.path(), "ours");
    let address = serve(&ours, false);
    let base_url = BaseUrl::parse(&format!("https://{address}/v1")).unwrap();
    let mut config = ServerConfig::at(Protocol::OpenAi, base_url);
    config.connection.ca_file = Some(ours.file.clone());
    let id = UpstreamId::new("ward");
    let clients = within::Clients::new(&id, &config).unwrap();
    std::fs::remove_file(&ours.file).unwrap();
    for _ in 0..2 {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let status = runtime.block_on(async {
            let client = clients.within(&AddressRanges::default(), &id, &config).ok().unwrap();
            client.request(to_models(&config)).await.unwrap().status()
        });
        assert_eq!(status.as_u16(), 204);
    }
}

#[tokio::test]
async fn a_proxy_carries_tls_to_the_server_and_a_server_chooses_http_2() {
    install_tls_provider();
    let folder = tempfile::tempdir().unwrap();
    let ours = Authority::new(folder.path(), "ours");
    let id = UpstreamId::new("ward");
    let settings = |address: SocketAddr| {
        let base_url = BaseUrl::parse(&format!("https://{address}/v1")).unwrap();
        let mut config = ServerConfig::at(Protocol::OpenAi, base_url);
        config.connection.ca_file = Some(ours.file.clone());
        config
    };
    let anywhere = AddressRanges::default();

    let server = serve(&ours, false);
    let (proxy, asked) = tunnel(server);
    let mut config = settings(server);
    config.connection.proxy = Some(BaseUrl::parse(&format!("http://{proxy}")).unwrap());
    let certificates = Certificates::read(&id, &config).unwrap();
    let client = client(&id, &config, &certificates, &anywhere).unwrap();
    assert_eq!(client.request(to_models(&config)).await.unwrap().status(), 204);
    let asked = asked.join().unwrap();
    assert!(asked.starts_with(&format!("CONNECT {server} HTTP/1.1\r\n")), "{asked}");

    for (protocols, expected) in [(vec![&b"h2"[..], b"http/1.1"], true), (vec![], false)] {
        let config = settings(serve_speaking(&ours, false, &protocols));
        let mut connector = connector(&id, &config, &certificates, &anywhere).unwrap();
        let connection = connector.call(uri(&config, "models", "m").unwrap()).await.unwrap();
        assert_eq!(connection.connected().is_negotiated_h2(), expected);
    }
}
