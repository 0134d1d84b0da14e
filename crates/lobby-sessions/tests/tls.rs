//! Sessions over TLS get what sessions without get: the same bytes in the same order, and the same limits.

mod rig;

use std::sync::Arc;

use lobby_sessions::{Admission, Tls, Transport};
use rig::{Lobby, PATIENCE};
use socket2::SockRef;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{
    TlsAcceptor, TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore, ServerConfig,
        crypto::ring::default_provider,
        pki_types::{PrivateKeyDer, ServerName},
    },
};

struct Client(BufReader<TlsStream<TcpStream>>);

impl Client {
    async fn line(&mut self) -> String {
        let mut line = String::new();
        timeout(PATIENCE, self.0.read_line(&mut line)).await.expect("a line in time").expect("readable");
        line.trim_end_matches('\n').to_owned()
    }

    async fn say(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.expect("written");
        self.0.flush().await.expect("sent");
    }
}

fn ends() -> (TlsAcceptor, TlsConnector) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).expect("a root");
    let provider = Arc::new(default_provider());
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("a pair");
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    (TlsAcceptor::from(Arc::new(server)), TlsConnector::from(Arc::new(client)))
}

/// A client over TLS that says `first` before the shard has its session.
async fn admitted(lobby: &Lobby, user: i64, first: &str) -> Client {
    let (acceptor, connector) = ends();
    let (client, admission) = lobby.admission(user, Transport::Tcp).await;
    // So small that what TLS holds back goes out in pieces.
    SockRef::from(&admission.socket).set_send_buffer_size(8 << 10).expect("a smaller buffer");
    let socket = TcpStream::from_std(admission.socket).expect("a socket");
    let name = ServerName::try_from("localhost").expect("a name");
    let (server, client) = tokio::join!(acceptor.accept(socket), connector.connect(name, client));
    let (mut server, mut client) = (server.expect("shaken"), client.expect("shaken"));
    // One record: the first byte is read here, the rest is left in the connection's own buffer.
    client.write_all(format!("\n{first}").as_bytes()).await.expect("written");
    client.flush().await.expect("sent");
    assert_eq!(server.read_u8().await.expect("a byte"), b'\n');
    let (socket, connection) = server.into_inner();
    let tls = Some(Tls::new(connection));
    let socket = socket.into_std().expect("a socket");
    lobby.sessions.admit(Admission { socket, tls, ..admission }).await;
    let mut client = Client(BufReader::new(client));
    assert!(client.line().await.starts_with(r#"{"command":"welcome""#));
    client
}

#[tokio::test]
async fn what_came_with_the_handshake_is_heard_and_notifications_come_in_order() {
    let lobby = Lobby::start(|_| {}).await;
    let mut client = admitted(&lobby, 1, "{\"command\":\"ping\"}\n").await;
    assert_eq!(client.line().await, r#"{"command":"pong"}"#);
    for n in 0..500 {
        let json = format!("{{\"n\":{n}}}");
        if n % 3 == 0 {
            lobby.unicast(1, &json)
        } else {
            lobby.broadcast(&json)
        };
    }
    for n in 0..500 {
        assert_eq!(client.line().await, format!("{{\"n\":{n}}}"));
    }
    client.say("{\"command\":\"ping\"}\n{\"command\":\"ping\"}\n").await;
    assert_eq!(client.line().await, r#"{"command":"pong"}"#);
    assert_eq!(client.line().await, r#"{"command":"pong"}"#);
}

#[tokio::test]
async fn a_message_larger_than_every_buffer_arrives_whole_and_what_follows_it_too() {
    let lobby = Lobby::start(|c| c.shards = 1).await;
    let mut client = admitted(&lobby, 1, "").await;
    let json = format!("{{\"fill\":\"{}\"}}", "x".repeat(3 << 20));
    for round in 0..3 {
        let delivered = lobby.broadcast(&json);
        lobby.unicast(1, "{\"after\":1}");
        delivered.wait().await;
        assert!(client.line().await == json, "round {round}");
        assert_eq!(client.line().await, "{\"after\":1}");
    }
    lobby.until("nothing waits", |s| s.queued_bytes == 0).await;
}

#[tokio::test]
async fn a_broadcast_larger_than_what_tls_takes_at_once_needs_nothing_to_follow_it() {
    let lobby = Lobby::start(|c| c.shards = 1).await;
    let mut client = admitted(&lobby, 1, "").await;
    let json = format!("{{\"fill\":\"{}\"}}", "x".repeat(80 << 10));
    for round in 0..20 {
        lobby.broadcast(&json);
        assert!(client.line().await == json, "round {round}");
    }
}

#[tokio::test]
async fn what_tls_holds_back_comes_as_the_client_reads_and_needs_nothing_to_follow_it() {
    let lobby = Lobby::start(|c| c.shards = 1).await;
    let mut client = admitted(&lobby, 1, "").await;
    for size in (200..600).step_by(16) {
        let json = format!("{{\"fill\":\"{}\"}}", "x".repeat(size << 10));
        lobby.unicast(1, &json).wait().await;
        let mut sip = [0; 700];
        let mut left = json.len() + 1;
        while left > 0 {
            let want = left.min(sip.len());
            let read = client.0.get_mut().read(&mut sip[..want]);
            left -= timeout(PATIENCE, read).await.expect("more in time").expect("readable");
        }
    }
}

#[tokio::test]
async fn all_that_a_client_says_at_once_is_answered() {
    let lobby = Lobby::start(|c| c.shards = 1).await;
    let mut client = admitted(&lobby, 1, "").await;
    client.say(&"{\"command\":\"ping\"}\n".repeat(1000)).await;
    for _ in 0..1000 {
        assert_eq!(client.line().await, r#"{"command":"pong"}"#);
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_is_closed_at_its_limit_and_told_why() {
    let lobby = Lobby::start(|c| {
        c.shards = 1;
        c.outbox_bytes = 64 << 10;
    })
    .await;
    let mut slow = admitted(&lobby, 1, "").await;
    let json = format!("{{\"fill\":\"{}\"}}", "x".repeat(8 << 10));
    let mut sent = 0;
    while lobby.sessions.stats().overflows == 0 {
        lobby.broadcast(&json).wait().await;
        sent += 1;
        assert!(sent < 100_000, "the outbox has no limit");
        assert!(lobby.sessions.stats().queued_bytes <= (64 << 10) + json.len() as u64 + 512);
    }
    let mut line = slow.line().await;
    while line == json {
        line = slow.line().await;
    }
    assert!(line.contains("\"code\":4000"), "{line}");
    // With TLS's own farewell: a connection that was cut would be an error here.
    assert_eq!(slow.line().await, "");
}

#[tokio::test]
async fn written_is_what_the_kernel_has_and_not_what_tls_holds_back() {
    let lobby = Lobby::start(|c| c.shards = 1).await;
    let mut client = admitted(&lobby, 1, "").await;
    lobby.until("the welcome is counted", |stats| stats.messages_written == 1).await;
    let before = 1;
    let json = format!("{{\"fill\":\"{}\"}}", "x".repeat(1 << 10));
    for _ in 0..2000 {
        lobby.broadcast(&json).wait().await;
    }
    lobby.until("a full socket", |stats| stats.queued_bytes > 1 << 20).await;
    // Of one message the kernel may have a part. The figures are read one by one: of two moments they do not add up.
    let (one, all) = (json.len() as u64 + 1, 2000 * (json.len() as u64 + 1));
    let adds_up = |stats: &lobby_sessions::SessionStats| {
        stats.queued_bytes + (stats.messages_written - before + 1) * one >= all
    };
    lobby.until("each byte waits or is written", adds_up).await;
    let written = lobby.sessions.stats().messages_written - before;
    // Without a farewell, so that nothing more comes than what the kernel has.
    lobby.sessions.shut_down();
    let mut heard = 0;
    let mut line = String::new();
    while matches!(timeout(PATIENCE, client.0.read_line(&mut line)).await.expect("an end"), Ok(1..)) {
        heard += u64::from(line.trim_end() == json);
        line.clear();
    }
    assert!(heard >= written, "{written} are counted as written, and {heard} came");
}

#[tokio::test]
async fn bytes_that_are_not_tls_end_the_session_and_nothing_else() {
    let lobby = Lobby::start(|c| c.shards = 1).await;
    let other = admitted(&lobby, 2, "").await;
    let mut spoiler = admitted(&lobby, 1, "").await;
    let (socket, _) = spoiler.0.get_mut().get_mut();
    socket.write_all(&[0x42; 64]).await.expect("written");
    lobby.until("the session is gone", |s| s.sessions == [1, 0]).await;
    drop(other);
    lobby.until("a client that leaves is gone", |s| s.sessions == [0, 0]).await;
}
