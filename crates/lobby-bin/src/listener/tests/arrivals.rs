//! Clients that come over TLS, through a proxy, or both.

use lobby_sessions::{Identity, Verdict};
use notify_protocol::UserId;
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::*;
use crate::listen_tls::Certificate;

/// Lets everybody in as user 7.
struct Everybody;

impl lobby_sessions::Authenticator for Everybody {
    fn authenticate<'a>(&'a self, _: &'a str) -> Verdict<'a> {
        let identity = Identity { user: UserId::new(7), login: "seven".to_owned(), expires_at: None };
        Box::pin(async { Ok(identity) })
    }
}

const LOGIN: &str = "{\"command\":\"auth\",\"token\":\"x\"}\n";
const UPGRADE: &str = "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

fn proxies(protocol: bool, header: &str) -> Proxies {
    let networks = vec!["127.0.0.2/31".parse().expect("a network")];
    Proxies { networks, protocol, header: header.to_owned() }
}

fn encrypted(pair: &Pair) -> impl FnOnce(&mut Gate) {
    let tls = Arc::new(ListenTls::open(&pair.cert(), &pair.key()).expect("a pair"));
    move |gate| gate.tls = [Some(Arc::clone(&tls)), Some(tls)]
}

async fn shaken(
    socket: TcpStream,
    certificate: &rustls::pki_types::CertificateDer<'_>,
) -> io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone().into_owned()).expect("a root");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").expect("a name");
    let shaking = TlsConnector::from(Arc::new(config)).connect(name, socket);
    timeout(PATIENCE, shaking).await.expect("shaken in time")
}

async fn all(mut client: impl AsyncRead + Unpin) -> String {
    let mut heard = Vec::new();
    // A connection that is cut may end in an error; what came before counts.
    let _ = timeout(PATIENCE, client.read_to_end(&mut heard)).await.expect("an end");
    String::from_utf8_lossy(&heard).into_owned()
}

async fn say(client: &mut (impl AsyncWrite + Unpin), bytes: impl AsRef<[u8]>) {
    client.write_all(bytes.as_ref()).await.expect("written");
    client.flush().await.expect("sent");
}

async fn upgraded(client: &mut (impl AsyncRead + Unpin)) {
    let mut head = [0; 12];
    timeout(PATIENCE, client.read_exact(&mut head)).await.expect("in time").expect("an answer");
    assert_eq!(&head, b"HTTP/1.1 101");
}

#[tokio::test]
async fn over_tls_a_client_logs_in_as_without() {
    let pair = Pair::make();
    for transport in Transport::ALL {
        let mut door = Door::open_with(transport, wide(), |gate| {
            gate.authenticator = Arc::new(Everybody);
            encrypted(&pair)(gate);
        });
        let mut client = shaken(door.connect().await, &pair.certificate).await.expect("shaken");
        if transport == Transport::WebSocket {
            say(&mut client, format!("{UPGRADE}\r\n")).await;
            upgraded(&mut client).await;
            // A masked text frame, with a mask of zeros.
            let len = u8::try_from(LOGIN.len()).expect("short");
            say(&mut client, [&[0x81, 0x80 | len, 0, 0, 0, 0], LOGIN.as_bytes()].concat()).await;
        } else {
            say(&mut client, LOGIN).await;
        }
        let admission = timeout(PATIENCE, door.admitted.recv()).await.expect("in time").expect("admitted");
        assert!(admission.tls.is_some() && admission.transport == transport);
        assert_eq!(admission.identity.user, UserId::new(7));
    }
}

#[tokio::test]
async fn who_speaks_no_tls_where_it_is_spoken_is_cut_off_and_counted() {
    let pair = Pair::make();
    let door = Door::open_with(Transport::Tcp, wide(), encrypted(&pair));
    let mut client = door.connect().await;
    say(&mut client, LOGIN).await;
    assert!(!all(client).await.contains("command"));
    door.until("counted", |door| door.gate.counts.failed_tls.load(Relaxed) == 1).await;
    door.until("given back", |door| door.doorkeeper.open() == 0).await;
    let other = Pair::make();
    assert!(shaken(door.connect().await, &other.certificate).await.is_err(), "another certificate");
}

#[tokio::test]
async fn who_is_over_a_limit_is_told_so_over_tls_too() {
    let pair = Pair::make();
    for (transport, says) in [(Transport::Tcp, "\"code\":1013"), (Transport::WebSocket, "Retry-After")] {
        let door = Door::open_with(transport, Limits { total: 0, ..wide() }, encrypted(&pair));
        let client = shaken(door.connect().await, &pair.certificate).await.expect("shaken");
        let heard = all(client).await;
        assert!(heard.contains(says), "{heard}");
    }
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_to_those_who_come_next() {
    let pair = Pair::make();
    let door = Door::open_with(Transport::Tcp, wide(), encrypted(&pair));
    let mut before = shaken(door.connect().await, &pair.certificate).await.expect("shaken");
    let renewed = pair.renew();
    assert!(shaken(door.connect().await, &renewed).await.is_err(), "not read yet");
    let certificate = Certificate::read(&pair.cert(), &pair.key()).expect("a pair");
    door.gate.tls[0].as_ref().expect("TLS").replace(certificate);
    shaken(door.connect().await, &renewed).await.expect("the new one");
    say(&mut before, "{\"command\":\"dance\"}\n").await;
    assert!(all(before).await.contains("4503"), "who was there stays");
}

#[tokio::test]
async fn a_listed_proxy_says_who_the_client_is_and_others_are_not_believed() {
    let header = b"PROXY TCP4 203.0.113.9 10.0.0.1 4000 8002\r\n".as_slice();
    let pair = Pair::make();
    for tls in [false, true] {
        let mut door = Door::open_with(Transport::Tcp, wide(), |gate| {
            gate.authenticator = Arc::new(Everybody);
            gate.proxies = proxies(true, "");
            if tls {
                encrypted(&pair)(gate);
            }
        });
        let mut client = door.connect_from("127.0.0.2").await;
        if tls {
            say(&mut client, header).await;
            let mut client = shaken(client, &pair.certificate).await.expect("shaken");
            say(&mut client, LOGIN).await;
        } else {
            // In one packet with what follows, and cut in the middle.
            let all = [header, LOGIN.as_bytes()].concat();
            say(&mut client, &all[..20]).await;
            tokio::task::yield_now().await;
            say(&mut client, &all[20..]).await;
        }
        let admission = timeout(PATIENCE, door.admitted.recv()).await.expect("in time").expect("admitted");
        assert_eq!(admission.peer, "203.0.113.9:4000".parse().expect("an address"));
        assert_eq!(admission.tls.is_some(), tls);
    }
    let door = Door::open_with(Transport::Tcp, wide(), |gate| gate.proxies = proxies(true, ""));
    let mut stranger = door.connect_from("127.0.0.4").await;
    say(&mut stranger, header).await;
    assert!(all(stranger).await.contains("\"code\":4503"), "not a header, but a line that is no JSON");
}

#[tokio::test]
async fn a_listed_proxy_without_a_header_is_cut_off_and_counted() {
    let door = Door::open_with(Transport::Tcp, wide(), |gate| gate.proxies = proxies(true, ""));
    let mut client = door.connect_from("127.0.0.2").await;
    say(&mut client, LOGIN).await;
    assert_eq!(all(client).await, "");
    door.until("counted", |door| door.gate.counts.bad_proxy_headers.load(Relaxed) == 1).await;
    door.until("given back", |door| door.doorkeeper.open() == 0).await;
}

#[tokio::test]
async fn limits_for_an_address_are_about_the_client_and_not_about_its_proxy() {
    let limits = || Limits { per_address: 1, ..wide() };
    let through = async |door: &Door, said: &str| {
        let mut client = door.connect_from("127.0.0.2").await;
        say(&mut client, said).await;
        client
    };
    let door = Door::open_with(Transport::Tcp, limits(), |gate| gate.proxies = proxies(true, ""));
    let tcp = |client: &str| format!("PROXY TCP4 {client} 10.0.0.1 4000 8002\r\n{{\"command\":\"ping\"}}\n");
    let mut first = through(&door, &tcp("203.0.113.9")).await;
    is_served(&mut first, Transport::Tcp).await;
    let refused = all(through(&door, &tcp("203.0.113.9")).await).await;
    assert!(refused.contains("\"code\":1013") && !refused.contains("pong"), "{refused}");
    let mut other = through(&door, &tcp("203.0.113.10")).await;
    is_served(&mut other, Transport::Tcp).await;
    assert_eq!(door.doorkeeper.open(), 2);

    let door =
        Door::open_with(Transport::WebSocket, limits(), |gate| gate.proxies = proxies(false, "X-Real-IP"));
    let web = |client: &str| format!("{UPGRADE}x-real-ip: {client}\r\n\r\n");
    let mut first = through(&door, &web("203.0.113.9")).await;
    upgraded(&mut first).await;
    let refused = all(through(&door, &web("203.0.113.9")).await).await;
    assert!(refused.starts_with("HTTP/1.1 503 ") && refused.contains("Retry-After"), "{refused}");
    let mut lying = door.connect_from("127.0.0.4").await;
    say(&mut lying, web("203.0.113.10")).await;
    upgraded(&mut lying).await;
    assert!(all(door.connect_from("127.0.0.4").await).await.contains("503"), "its own address counts");
}
