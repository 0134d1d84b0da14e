//! Handshakes over real sockets.

use std::time::Instant as StdInstant;

use lobby_sessions::Verdict;
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::doorkeeper::Limits;

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
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    let (mut client, (socket, peer)) = (client.expect("connected"), accepted.expect("accepted"));
    let doorkeeper = Arc::clone(&gate.doorkeeper);
    let place = Some(doorkeeper.admit(StdInstant::now(), peer).expect("let in"));
    let gate = Arc::new(gate);
    let receiver = Arc::clone(&gate);
    let receiving = tokio::spawn(async move {
        let arrival = Arrival { socket, peer, transport, place };
        assert!(receiver.receive(arrival, &stop).await.is_none());
    });
    client.write_all(said.as_bytes()).await.expect("written");
    let mut heard = String::new();
    let limit = Duration::from_secs(20);
    timeout(limit, client.read_to_string(&mut heard)).await.expect("an end").expect("text");
    drop(client);
    receiving.await.expect("no panic");
    assert_eq!(doorkeeper.open(), 0, "the place is given back");
    assert_eq!(gate.counts.handshakes.load(Relaxed), 0);
    heard
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
}
