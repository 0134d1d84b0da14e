//! Handshakes over real sockets.

use std::time::Instant as StdInstant;

use lobby_sessions::Verdict;
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::doorkeeper::{Limit, Limits};

struct Nobody;

impl Authenticator for Nobody {
    fn authenticate<'a>(&'a self, _: &'a str) -> Verdict<'a> {
        Box::pin(async { Err(Refused("nobody may".to_owned())) })
    }
}

/// A gate that lets nobody log in, and turns away one at a time.
pub fn gate(login_timeout: Duration) -> Gate {
    Gate {
        authenticator: Arc::new(Nobody),
        login_timeout,
        max_login_bytes: 1024,
        command_rate: None,
        origins: OriginPolicy::SameHost,
        console_port: None,
        doorkeeper: Arc::new(Doorkeeper::new(
            Limits { total: 1, per_address: 1, rate: None, address_rate: None },
            StdInstant::now(),
        )),
        proxies: Proxies::default(),
        tls: [None, None],
        frame: FrameKind::Text,
        retry_spread_ms: 1000,
        counts: Counts::default(),
        log_gate: Mutex::new(LogGate::new(1)),
        turning_away: Arc::new(Semaphore::new(1)),
    }
}

/// All that a client reads which says `said` and nothing else.
async fn answer(gate: Gate, transport: Transport, said: &str, stop: CancellationToken) -> String {
    let doorkeeper = Arc::clone(&gate.doorkeeper);
    answer_to(gate, transport, said, stop, |peer| doorkeeper.admit(StdInstant::now(), peer)).await
}

async fn answer_to(
    gate: Gate,
    transport: Transport,
    said: &str,
    stop: CancellationToken,
    admit: impl FnOnce(SocketAddr) -> Result<Place, Limit>,
) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    let (mut client, (socket, peer)) = (client.expect("connected"), accepted.expect("accepted"));
    let doorkeeper = Arc::clone(&gate.doorkeeper);
    let place = Some(admit(peer).expect("let in"));
    let gate = Arc::new(gate);
    let receiver = Arc::clone(&gate);
    let receiving = tokio::spawn(async move {
        let arrival = Arrival { socket, peer, transport, place };
        assert!(receiver.receive(arrival, &stop).await.is_none());
    });
    client.write_all(said.as_bytes()).await.expect("written");
    let mut heard = Vec::new();
    let limit = Duration::from_secs(20);
    timeout(limit, client.read_to_end(&mut heard)).await.expect("an end").expect("readable");
    drop(client);
    receiving.await.expect("no panic");
    assert_eq!(doorkeeper.open(), 0, "the place is given back");
    assert_eq!(gate.counts.handshakes.load(Relaxed), 0);
    String::from_utf8_lossy(&heard).into_owned()
}

#[tokio::test]
async fn a_client_is_told_in_the_language_that_it_speaks_by_then() {
    let (soon, later) = (Duration::from_millis(50), Duration::from_secs(60));
    let stopped = || {
        let stop = CancellationToken::new();
        stop.cancel();
        stop
    };
    let half = "GET / HTTP/1.1\r\nHost: x\r\n";
    for (gate, transport, said, stop, heard) in [
        (gate(soon), Transport::Tcp, "", CancellationToken::new(), "\"code\":4004"),
        (gate(soon), Transport::WebSocket, half, CancellationToken::new(), "HTTP/1.1 408 "),
        (gate(later), Transport::Tcp, "", stopped(), "\"code\":1012"),
        (gate(later), Transport::WebSocket, half, stopped(), "HTTP/1.1 503 "),
    ] {
        let got = answer(gate, transport, said, stop).await;
        assert!(got.contains(heard), "{transport:?} {said:?}: {got}");
    }
}

#[tokio::test]
async fn before_the_login_only_the_way_to_it_is_open() {
    let later = Duration::from_secs(60);
    let auth = "{\"command\":\"auth\",\"token\":\"x\"}\n";
    for (said, heard) in [
        ("{\"command\":\"dance\"}\n".to_owned(), "\"code\":4503"),
        ("nonsense\n".to_owned(), "\"code\":4503"),
        ("x".repeat(2000), "\"code\":1009"),
        (auth.repeat(3), "\"code\":4500"),
    ] {
        let got = answer(gate(later), Transport::Tcp, &said, CancellationToken::new()).await;
        assert!(got.contains(heard), "{said:.40}: {got}");
    }
    let head = format!("GET / HTTP/1.1\r\nHost: x\r\nFill: {}", "x".repeat(1024));
    let got = answer(gate(later), Transport::WebSocket, &head, CancellationToken::new()).await;
    assert!(got.starts_with("HTTP/1.1 431 "), "{got}");
}

#[tokio::test]
async fn who_says_too_much_before_the_login_is_closed_with_1008() {
    let talkative = |burst| Gate { command_rate: Rate::new(1, burst), ..gate(Duration::from_secs(60)) };
    let ping = "{\"command\":\"ping\"}\n";
    for said in [ping.repeat(1000), "\n".repeat(1000)] {
        let got = answer(talkative(20), Transport::Tcp, &said, CancellationToken::new()).await;
        assert!(got.contains("\"code\":1008"), "{said:.40}: {got}");
    }
    // Fewer are heard out, to a login that fails.
    let said = ping.repeat(10) + &"{\"command\":\"auth\",\"token\":\"x\"}\n".repeat(3);
    let got = answer(talkative(20), Transport::Tcp, &said, CancellationToken::new()).await;
    assert!(got.contains("\"code\":4500") && got.matches("pong").count() == 10, "{got}");
}

#[tokio::test]
async fn a_client_behind_two_proxies_takes_one_place_and_the_proxies_none() {
    let mut gate = gate(Duration::from_secs(20));
    gate.proxies = Proxies {
        networks: vec!["127.0.0.0/8".parse().expect("a network"), "10.0.0.0/8".parse().expect("a network")],
        protocol: true,
        header: "x-forwarded-for".to_owned(),
    };
    let doorkeeper = Arc::clone(&gate.doorkeeper);
    let said = "PROXY TCP4 10.0.0.2 127.0.0.1 1234 8002\r\n\
        GET / HTTP/1.1\r\nHost: lobby\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n\x01\x01";
    let admit = |proxy| doorkeeper.admit_hidden(StdInstant::now(), proxy);
    answer_to(gate, Transport::WebSocket, said, CancellationToken::new(), admit).await;
    for address in ["10.0.0.2:1", "203.0.113.9:1"] {
        let place = doorkeeper.admit(StdInstant::now(), address.parse().expect("an address"));
        assert!(place.is_ok(), "{address} still holds the place that it had");
    }
}
