//! Limits on connections, over real sockets.

mod arrivals;

use std::sync::atomic::Ordering::Relaxed;

use lobby_sessions::Rate;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
    time::timeout,
};

use super::*;
use crate::{
    doorkeeper::{Doorkeeper, Limit, Limits},
    handshake::tests::gate,
    listen_tls::{ListenTls, tests::Pair},
    proxies::Proxies,
};

const PATIENCE: Duration = Duration::from_secs(20);
const LATER: Duration = Duration::from_secs(600);

/// An acceptor at work.
struct Door {
    address: SocketAddr,
    doorkeeper: Arc<Doorkeeper>,
    gate: Arc<Gate>,
    stop: CancellationToken,
    admitted: mpsc::Receiver<Admission>,
}

impl Door {
    fn open(transport: Transport, limits: Limits) -> Self {
        Self::open_with(transport, limits, |_| {})
    }

    fn open_with(transport: Transport, limits: Limits, change: impl FnOnce(&mut Gate)) -> Self {
        let listener = bind("test", "127.0.0.1:0".parse().expect("an address")).expect("a port");
        let address = listener.local_addr().expect("an address");
        let (admit, admitted) = mpsc::channel(1);
        // Its time stands still until then: no token comes back, however slow the machine is.
        let doorkeeper = Arc::new(Doorkeeper::new(limits, Instant::now() + LATER));
        let mut gate = Gate { doorkeeper: Arc::clone(&doorkeeper), ..gate(LATER) };
        change(&mut gate);
        let gate = Arc::new(gate);
        let stop = CancellationToken::new();
        let acceptor = Acceptor {
            transport,
            gate: Arc::clone(&gate),
            admitted: admit,
            handshakes: TaskTracker::new(),
            stop: stop.clone(),
        };
        tokio::spawn(acceptor.run(listener));
        Self { address, doorkeeper, gate, stop, admitted }
    }

    async fn connect_from(&self, address: &str) -> TcpStream {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(format!("{address}:0").parse().expect("an address")).expect("bound");
        socket.connect(self.address).await.expect("connected")
    }

    async fn connect(&self) -> TcpStream {
        self.connect_from("127.0.0.1").await
    }

    async fn until(&self, what: &str, met: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !met(self) {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("never {what}"));
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Limits that nothing in these tests reaches.
fn wide() -> Limits {
    Limits { total: 1000, per_address: 0, rate: None, address_rate: None }
}

/// What the lobby says first, to its end.
async fn heard(client: &mut TcpStream) -> String {
    let mut heard = String::new();
    timeout(PATIENCE, client.read_to_string(&mut heard)).await.expect("an end").expect("text");
    heard
}

/// Asks something that only a connection that was let in is answered.
async fn is_served(client: &mut TcpStream, transport: Transport) {
    let (asked, wanted) = match transport {
        Transport::Tcp => ("{\"command\":\"ping\"}\n", "pong"),
        Transport::WebSocket => (
            "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            "101 Switching Protocols",
        ),
    };
    client.write_all(asked.as_bytes()).await.expect("written");
    let mut answer = [0; 1024];
    let count = timeout(PATIENCE, client.read(&mut answer)).await.expect("an answer").expect("bytes");
    let answer = String::from_utf8_lossy(&answer[..count]);
    assert!(answer.contains(wanted), "{answer}");
}

#[tokio::test]
async fn one_more_than_a_limit_is_told_to_come_back_and_the_others_are_served() {
    let one = Rate::new(1, 1);
    for transport in Transport::ALL {
        for (limits, limit) in [
            (Limits { total: 1, ..wide() }, Limit::Total),
            (Limits { per_address: 1, ..wide() }, Limit::Address),
            (Limits { address_rate: one, ..wide() }, Limit::AddressRate),
            (Limits { rate: one, ..wide() }, Limit::Rate),
        ] {
            let door = Door::open(transport, limits);
            let mut first = door.connect().await;
            // Said without a question: the lobby reads nothing before it answers.
            let last_words = heard(&mut door.connect().await).await;
            match transport {
                Transport::Tcp => {
                    assert!(last_words.contains("\"code\":1013"), "{limit:?}: {last_words}");
                    assert!(last_words.contains("\"retry_after_ms\":"), "{limit:?}: {last_words}");
                }
                Transport::WebSocket => {
                    assert!(last_words.starts_with("HTTP/1.1 503 "), "{limit:?}: {last_words}");
                    assert!(last_words.contains("\r\nRetry-After: "), "{limit:?}: {last_words}");
                }
            }
            let refused: Vec<_> = door.doorkeeper.refused().filter(|(_, count)| *count > 0).collect();
            assert_eq!(refused, [(limit, 1)]);
            assert_eq!(door.doorkeeper.open(), 1, "{limit:?}");
            is_served(&mut first, transport).await;
            assert_eq!(door.gate.counts.handshakes.load(Relaxed), 1, "{limit:?}");
        }
    }
}

#[tokio::test]
async fn a_place_comes_back_when_its_client_has_left() {
    for limits in [Limits { total: 1, ..wide() }, Limits { per_address: 1, ..wide() }] {
        let door = Door::open(Transport::Tcp, limits);
        for _ in 0..3 {
            let mut client = door.connect().await;
            is_served(&mut client, Transport::Tcp).await;
            drop(client);
            door.until("given back", |door| door.doorkeeper.open() == 0).await;
        }
    }
}

/// Other systems have but one loopback address.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn what_one_address_may_not_another_may() {
    for limits in [Limits { per_address: 1, ..wide() }, Limits { address_rate: Rate::new(1, 1), ..wide() }] {
        let door = Door::open(Transport::Tcp, limits);
        let mut clients = Vec::new();
        for address in ["127.0.0.1", "127.0.0.2", "127.0.0.3"] {
            let mut client = door.connect_from(address).await;
            is_served(&mut client, Transport::Tcp).await;
            clients.push(client);
            assert!(heard(&mut door.connect_from(address).await).await.contains("1013"), "{address}");
            door.until("turned away", |door| door.gate.turning_away.available_permits() == 1).await;
        }
    }
}

#[tokio::test]
async fn more_than_can_be_turned_away_at_once_are_closed_without_a_word() {
    let door = Door::open(Transport::Tcp, Limits { total: 0, ..wide() });
    // Does not close, and so holds the only place to be turned away from.
    let slow = door.connect().await;
    door.until("turning away", |door| door.gate.turning_away.available_permits() == 0).await;
    assert_eq!(heard(&mut door.connect().await).await, "");
    drop(slow);
    door.until("turned away", |door| door.gate.turning_away.available_permits() == 1).await;
    assert!(heard(&mut door.connect().await).await.contains("1013"));
}

/// Takes the two seconds of a farewell, and waits for its end and not for a time.
#[tokio::test]
async fn who_is_turned_away_and_does_not_leave_gives_the_place_back_in_time() {
    let pair = Pair::make();
    for encrypted in [false, true] {
        let tls = ListenTls::open(&pair.cert(), &pair.key()).expect("a pair");
        let tls = Some(Arc::new(tls)).filter(|_| encrypted);
        let door = Door::open_with(Transport::Tcp, Limits { total: 0, ..wide() }, |gate| gate.tls[0] = tls);
        // It neither closes nor, over TLS, says a word.
        let stays = door.connect().await;
        door.until("turning away", |door| door.gate.turning_away.available_permits() == 0).await;
        door.until("turned away", |door| door.gate.turning_away.available_permits() == 1).await;
        drop(stays);
    }
}

#[tokio::test]
async fn who_says_nothing_where_tls_or_a_proxy_is_awaited_is_cut_off_in_time() {
    let pair = Pair::make();
    let tls = Arc::new(ListenTls::open(&pair.cert(), &pair.key()).expect("a pair"));
    let proxies = Proxies {
        networks: vec!["127.0.0.0/8".parse().expect("a network")],
        protocol: true,
        header: String::new(),
    };
    for (tls, proxies) in [(Some(tls), Proxies::default()), (None, proxies)] {
        let door = Door::open_with(Transport::Tcp, wide(), |gate| {
            gate.login_timeout = Duration::from_millis(50);
            (gate.tls[0], gate.proxies) = (tls, proxies);
        });
        assert_eq!(heard(&mut door.connect().await).await, "");
        door.until("given back", |door| door.doorkeeper.open() == 0).await;
    }
}

#[tokio::test]
async fn who_is_turned_away_and_sends_without_end_is_cut_off() {
    let door = Door::open(Transport::Tcp, Limits { total: 0, ..wide() });
    let mut client = door.connect().await;
    let (part, mut sent) = ([b'x'; 1 << 16], 0);
    let sending = async {
        while client.write_all(&part).await.is_ok() {
            sent += part.len();
        }
    };
    timeout(PATIENCE, sending).await.expect("cut off");
    // What the kernel holds on both sides comes on top; in the two seconds of a farewell it would be gigabytes.
    assert!(sent < 48 << 20, "{sent} bytes were taken");
}
