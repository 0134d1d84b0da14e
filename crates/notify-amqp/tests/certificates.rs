//! Certificates that no broker of the other tests has: what answers here is a TLS server that speaks no AMQP.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    sync::Arc,
    thread,
    time::Duration,
};

use notify_amqp::{
    BrokerConfig, BrokerUrl, Consumer, ConsumerConfig, ConsumerError, ConsumerStatus, Delivery, Ticket,
    TlsProblem, Topology, instance_queue,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustls::{
    RootCertStore, ServerConfig, ServerConnection,
    pki_types::{CertificateDer, PrivateKeyDer},
    server::WebPkiClientVerifier,
};

/// An authority and a server of its own.
struct Server {
    directory: tempfile::TempDir,
    port: u16,
}

impl Server {
    /// With a certificate for `localhost` that `alter` changes; it asks for a client certificate if told to.
    fn start(alter: impl FnOnce(&mut CertificateParams), asks: bool) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        alter(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &ca).unwrap();
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("ca.pem"), ca.pem()).unwrap();
        // A pair that the server does not trust: signed by itself.
        let stranger = rcgen::generate_simple_self_signed(Vec::new()).unwrap();
        std::fs::write(directory.path().join("client.pem"), stranger.cert.pem()).unwrap();
        std::fs::write(directory.path().join("client.key"), stranger.signing_key.serialize_pem()).unwrap();
        std::fs::write(directory.path().join("other.key"), key.serialize_pem()).unwrap();

        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone());
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let builder = if asks {
            let mut roots = RootCertStore::empty();
            roots.add(ca.der().clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        } else {
            builder.with_no_client_auth()
        };
        let chain = vec![CertificateDer::from(certificate.der().to_vec())];
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = Arc::new(builder.with_single_cert(chain, key).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let config = config.clone();
                thread::spawn(move || serve(config, stream));
            }
        });
        Self { directory, port }
    }

    fn file(&self, name: &str) -> Option<PathBuf> {
        Some(self.directory.path().join(name))
    }

    fn config(&self) -> ConsumerConfig {
        let url = BrokerUrl::from_parts("localhost", self.port, "u", "hunter2", "/").unwrap().with_tls(true);
        let mut broker = BrokerConfig::new(url, "test");
        broker.tls.ca_file = self.file("ca.pem");
        ConsumerConfig::new(broker, Topology::new("x", instance_queue("x", "i").unwrap()))
    }
}

/// Takes part in the handshake and then says nothing.
fn serve(config: Arc<ServerConfig>, mut stream: TcpStream) {
    let Ok(mut tls) = ServerConnection::new(config) else { return };
    while !matches!(tls.complete_io(&mut stream), Err(_) | Ok((0, 0))) {}
    let _ = tls.write_tls(&mut stream);
    // The client reads the alert before it notices that the line is cut.
    let _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
    while stream.read(&mut [0; 1024]).is_ok_and(|n| n > 0) {}
    let _ = stream.flush();
}

async fn refusal(config: ConsumerConfig) -> (ConsumerError, String) {
    let handle = Consumer::spawn(config, |_: Delivery, ticket: Ticket| drop(ticket)).unwrap();
    let mut status = handle.status();
    let waiting = status.wait_for(|status| matches!(status, ConsumerStatus::Waiting { .. }));
    let status = tokio::time::timeout(Duration::from_secs(30), waiting).await.unwrap().unwrap().clone();
    handle.stop().await;
    let ConsumerStatus::Waiting { error, hint, .. } = status else { unreachable!() };
    assert!(!format!("{error}{error:?}{hint:?}").contains("hunter2"));
    ((*error).clone(), hint.unwrap_or_default())
}

async fn problem(config: ConsumerConfig) -> (TlsProblem, String) {
    let (error, hint) = refusal(config).await;
    let ConsumerError::Tls { problem, .. } = error else { panic!("{error}") };
    (problem, hint)
}

#[tokio::test]
async fn n01_an_expired_certificate_is_named_as_such() {
    let server = Server::start(|params| params.not_after = date_time_ymd(2020, 1, 1), false);
    let (found, hint) = problem(server.config()).await;
    assert_eq!(found, TlsProblem::Expired);
    assert!(hint.contains("renew") && found != TlsProblem::NotYetValid, "{hint}");
    let server = Server::start(|params| params.not_before = date_time_ymd(3000, 1, 1), false);
    assert_eq!(problem(server.config()).await.0, TlsProblem::NotYetValid);
}

#[tokio::test]
async fn f16_a_missing_client_certificate_is_told_from_a_refused_one() {
    let server = Server::start(|_| (), true);
    let (found, hint) = problem(server.config()).await;
    assert_eq!(found, TlsProblem::ClientCertificateMissing);
    assert!(hint.contains("LOBBY_BROKER__TLS_CERT_FILE"), "{hint}");
    let mut config = server.config();
    config.broker.tls.cert_file = server.file("client.pem");
    config.broker.tls.key_file = server.file("client.key");
    let (found, hint) = problem(config).await;
    assert_eq!(found, TlsProblem::ClientCertificateRefused);
    assert!(hint.contains("ssl_options.cacertfile"), "{hint}");
}

#[tokio::test]
async fn n01_unusable_files_are_named_with_what_is_wrong() {
    let server = Server::start(|_| (), false);
    let empty = server.file("empty.pem");
    std::fs::write(empty.clone().unwrap(), "hunter2").unwrap();
    let nowhere = Some(PathBuf::from("/nowhere/x.pem"));
    let (cert, key, other) = (server.file("client.pem"), server.file("client.key"), server.file("other.key"));
    for (ca, cert, key, says) in [
        (&nowhere, &None, &None, "CA file /nowhere/x.pem: No such file"),
        (&empty, &None, &None, "empty.pem: no certificate in it"),
        (&None, &nowhere, &key, "client certificate /nowhere/x.pem"),
        (&None, &cert, &empty, "empty.pem: no private key in it"),
        (&None, &cert, &cert, "client.pem: no private key in it"),
        (&None, &cert, &other, "other.key: "),
        (&None, &cert, &None, "only one of them is set"),
    ] {
        let mut config = server.config();
        config.broker.tls.ca_file = ca.clone().or(server.file("ca.pem"));
        config.broker.tls.cert_file = cert.clone();
        config.broker.tls.key_file = key.clone();
        let (error, hint) = refusal(config).await;
        assert!(error.to_string().contains(says), "{error}");
        assert!(matches!(error, ConsumerError::TlsSetup(_)) && error.is_permanent() && !hint.is_empty());
    }
}
