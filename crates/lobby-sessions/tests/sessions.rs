//! The sessions as their users meet them: real sockets, real shards, a login that needs no token.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use lobby_sessions::{
    Admission, Authenticator, DuplicateLogin, Frame, FrameKind, Identity, Inbound, OverflowPolicy, Refused,
    Sessions, SessionsConfig, Transport, Verdict,
};
use notify_protocol::{Body, Limits, UserId};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    time::timeout,
};

/// How long an event may take to come; never how long a test waits to see that nothing came.
const PATIENCE: Duration = Duration::from_secs(20);

/// Accepts `user-<id>` as a token.
struct Trusting;

impl Authenticator for Trusting {
    fn authenticate<'a>(&'a self, token: &'a str) -> Verdict<'a> {
        let id = token.strip_prefix("user-").and_then(|id| id.parse().ok());
        let who = id.map(|id: i64| identity(UserId::new(id))).ok_or_else(|| Refused("not a user".to_owned()));
        Box::pin(async move { who })
    }
}

fn identity(user: UserId) -> Identity {
    Identity { user, login: format!("user-{user}"), expires_at: None }
}

/// A proof of delivery that says when its last clone was dropped.
type Ticket = Arc<DropFlag>;

#[derive(Clone)]
struct Dropped(Arc<Mutex<bool>>);

struct DropFlag(Dropped);

impl Drop for DropFlag {
    fn drop(&mut self) {
        *self.0.0.lock().expect("not poisoned") = true;
    }
}

fn ticket() -> (Ticket, Dropped) {
    let dropped = Dropped(Arc::default());
    (Arc::new(DropFlag(dropped.clone())), dropped)
}

impl Dropped {
    async fn wait(&self) {
        let start = Instant::now();
        while !*self.0.lock().expect("not poisoned") {
            assert!(start.elapsed() < PATIENCE, "the ticket was never dropped");
            tokio::task::yield_now().await;
        }
    }
}

struct Lobby {
    sessions: Arc<Sessions<Ticket>>,
    listener: TcpListener,
}

impl Lobby {
    async fn start(change: impl FnOnce(&mut SessionsConfig)) -> Self {
        let mut config = SessionsConfig { shards: 2, ..SessionsConfig::default() };
        change(&mut config);
        let sessions = Sessions::start(config, Arc::new(Trusting)).expect("threads");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        Self { sessions: Arc::new(sessions), listener }
    }

    async fn connect(&self, user: i64, transport: Transport) -> TcpStream {
        self.connect_with(user, transport, None).await
    }

    async fn connect_with(
        &self,
        user: i64,
        transport: Transport,
        permit: Option<tokio::sync::OwnedSemaphorePermit>,
    ) -> TcpStream {
        let address: SocketAddr = self.listener.local_addr().expect("an address");
        let (client, accepted) = tokio::join!(TcpStream::connect(address), self.listener.accept());
        let (socket, peer) = accepted.expect("accepted");
        let client = client.expect("connected");
        // Small buffers in the kernel, so that what a client does not read waits in its outbox.
        socket2::SockRef::from(&socket).set_send_buffer_size(64 << 10).expect("a smaller buffer");
        socket2::SockRef::from(&client).set_recv_buffer_size(64 << 10).expect("a smaller buffer");
        let admission = Admission {
            identity: identity(UserId::new(user)),
            transport,
            socket: socket.into_std().expect("a socket"),
            peer,
            inbound: Inbound::new(transport, 1 << 14),
            permit,
        };
        self.sessions.admit(admission).await;
        client
    }

    /// A logged-in TCP client.
    async fn client(&self, user: i64) -> Client {
        let mut client = Client { stream: BufReader::new(self.connect(user, Transport::Tcp).await) };
        assert!(client.line().await.starts_with(r#"{"command":"welcome""#));
        client
    }

    fn frame(&self, json: &str) -> Frame {
        let limits = Limits { max_body_bytes: usize::MAX };
        let body = Body::check(json.as_bytes(), &limits).expect("an object");
        Frame::notification(&body, FrameKind::Text, Instant::now(), self.sessions.meter())
    }

    fn broadcast(&self, json: &str) -> Dropped {
        let (ticket, dropped) = ticket();
        self.sessions.broadcast(&self.frame(json), &ticket);
        dropped
    }

    fn unicast(&self, user: i64, json: &str) -> Dropped {
        let (ticket, dropped) = ticket();
        self.sessions.unicast(UserId::new(user), self.frame(json), ticket);
        dropped
    }

    async fn until(&self, what: &str, done: impl Fn(&lobby_sessions::SessionStats) -> bool) {
        let start = Instant::now();
        while !done(&self.sessions.stats()) {
            assert!(start.elapsed() < PATIENCE, "{what}: {:?}", self.sessions.stats());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    /// The next line without its end; empty when the lobby has closed.
    async fn line(&mut self) -> String {
        let mut line = String::new();
        timeout(PATIENCE, self.stream.read_line(&mut line)).await.expect("a line in time").expect("readable");
        line.trim_end_matches('\n').to_owned()
    }

    async fn say(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.expect("written");
    }

    async fn closing_code(&mut self) -> u64 {
        loop {
            let line = self.line().await;
            assert!(!line.is_empty(), "closed without a closing line");
            let value: serde_json::Value = serde_json::from_str(&line).expect("JSON");
            if value["command"] == "closing" {
                return value["code"].as_u64().expect("a code");
            }
        }
    }
}

#[tokio::test]
async fn a_unicast_reaches_its_user_alone_and_a_broadcast_everyone() {
    let lobby = Lobby::start(|_| {}).await;
    let (mut first, mut second) = (lobby.client(1).await, lobby.client(2).await);
    lobby.unicast(1, r#"{"to":1}"#);
    lobby.unicast(3, r#"{"to":3}"#);
    lobby.broadcast(r#"{"to":"all"}"#);
    assert_eq!(first.line().await, r#"{"to":1}"#);
    assert_eq!(first.line().await, r#"{"to":"all"}"#);
    assert_eq!(second.line().await, r#"{"to":"all"}"#);
    let stats = lobby.sessions.stats();
    assert_eq!((stats.unicast, stats.not_connected, stats.sessions), (1, 1, [2, 0]));
}

#[tokio::test]
async fn the_ticket_is_dropped_once_every_shard_has_queued_the_message() {
    let lobby = Lobby::start(|_| {}).await;
    let mut client = lobby.client(1).await;
    lobby.broadcast("{}").wait().await;
    lobby.unicast(1, "{}").wait().await;
    lobby.unicast(99, "{}").wait().await;
    assert_eq!([client.line().await, client.line().await], ["{}", "{}"]);
}

#[tokio::test]
async fn messages_arrive_in_the_order_in_which_they_were_handed_over() {
    let lobby = Lobby::start(|_| {}).await;
    let mut client = lobby.client(7).await;
    for n in 0..2000 {
        let json = format!("{{\"n\":{n}}}");
        if n % 3 == 0 {
            lobby.broadcast(&json)
        } else {
            lobby.unicast(7, &json)
        };
    }
    for n in 0..2000 {
        assert_eq!(client.line().await, format!("{{\"n\":{n}}}"));
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_is_closed_and_delays_nobody() {
    let lobby = Lobby::start(|c| {
        c.shards = 1;
        c.outbox_bytes = 64 << 10;
        c.close_grace = Duration::from_millis(200);
    })
    .await;
    let slow = lobby.connect(1, Transport::Tcp).await;
    let mut quick = lobby.client(2).await;
    let json = format!("{{\"fill\":\"{}\"}}", "x".repeat(8 << 10));
    let mut sent = 0;
    while lobby.sessions.stats().overflows == 0 {
        lobby.broadcast(&json);
        sent += 1;
        assert_eq!(quick.line().await, json, "message {sent}");
        assert!(sent < 100_000, "the outbox has no limit");
        assert!(lobby.sessions.stats().queued_bytes <= (64 << 10) + json.len() as u64 + 512);
    }
    lobby.until("the slow session is gone", |s| s.sessions == [1, 0] && s.queued_bytes == 0).await;
    lobby.broadcast("{}");
    assert_eq!(quick.line().await, "{}");
    drop(slow);
}

#[tokio::test]
async fn when_all_outboxes_together_hold_too_much_the_slowest_goes_first() {
    let lobby = Lobby::start(|c| {
        c.shards = 1;
        c.outbox_total_bytes = 1 << 20;
        c.close_grace = Duration::from_millis(200);
    })
    .await;
    let _slowest = lobby.connect(1, Transport::Tcp).await;
    let mut slower = Client { stream: BufReader::new(lobby.connect(2, Transport::Tcp).await) };
    let json = format!("{{\"fill\":\"{}\"}}", "x".repeat(8 << 10));
    // The kernel's own buffers fill first: then one of them falls behind by a little, the other by much.
    while lobby.sessions.stats().queued_bytes < 64 << 10 {
        lobby.broadcast(&json).wait().await;
    }
    let start = Instant::now();
    while lobby.sessions.stats().shed == 0 {
        assert!(start.elapsed() < PATIENCE, "nobody was closed: {:?}", lobby.sessions.stats());
        assert_eq!(lobby.sessions.stats().overflows, 0, "its own outbox was full first");
        // Half as much again as the limit stays there until the client has lagged long enough.
        if lobby.sessions.meter().live_bytes() < 3 << 19 {
            lobby.unicast(1, &json).wait().await;
        } else {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    lobby.until("the slowest is gone", |s| s.sessions == [1, 0] && s.shed == 1).await;
    assert!(lobby.sessions.meter().live_bytes() <= 1 << 20);
    lobby.unicast(2, "{\"still\":\"here\"}");
    while slower.line().await != "{\"still\":\"here\"}" {}
}

#[tokio::test]
async fn a_large_message_that_many_share_is_counted_once_and_costs_nobody_the_session() {
    let lobby = Lobby::start(|c| c.outbox_total_bytes = 20 << 20).await;
    let mut clients = Vec::new();
    for user in 0..8 {
        clients.push(lobby.client(user).await);
    }
    let json = format!("{{\"fill\":\"{}\"}}", "x".repeat(4 << 20));
    lobby.broadcast(&json).wait().await;
    assert!(
        lobby.sessions.stats().queued_bytes > 6 << 20,
        "the kernel took it all: a larger message is needed"
    );
    for client in &mut clients {
        assert_eq!(client.line().await.len(), json.len());
    }
    assert_eq!((lobby.sessions.stats().shed, lobby.sessions.stats().sessions), (0, [8, 0]));
}

#[tokio::test]
async fn a_client_that_never_stops_talking_does_not_keep_its_shard_from_the_others() {
    let lobby = Lobby::start(|c| c.shards = 1).await;
    let talker = lobby.connect(1, Transport::Tcp).await;
    let (mut reads, mut writes) = talker.into_split();
    let reading = tokio::spawn(async move {
        let mut scratch = vec![0; 1 << 16];
        while reads.read(&mut scratch).await.is_ok_and(|count| count > 0) {}
    });
    let talking = tokio::spawn(async move {
        let pings = "{\"command\":\"ping\"}\n".repeat(4096);
        while writes.write_all(pings.as_bytes()).await.is_ok() {}
    });
    let mut quiet = lobby.client(2).await;
    for n in 0..200 {
        let json = format!("{{\"n\":{n}}}");
        lobby.unicast(2, &json);
        assert_eq!(quiet.line().await, json);
    }
    talking.abort();
    reading.abort();
}

#[tokio::test]
async fn a_client_that_takes_a_little_now_and_then_is_closed_at_the_write_deadline() {
    let lobby = Lobby::start(|c| {
        c.write_timeout = Duration::from_millis(300);
        c.ping_interval = Duration::from_secs(3600);
    })
    .await;
    let mut trickle = lobby.connect(1, Transport::Tcp).await;
    let json = format!("{{\"fill\":\"{}\"}}", "x".repeat(8 << 10));
    while lobby.sessions.stats().queued_bytes < 1 << 20 {
        lobby.broadcast(&json).wait().await;
    }
    let mut byte = [0; 1];
    let start = Instant::now();
    while lobby.sessions.stats().sessions != [0, 0] {
        assert!(start.elapsed() < PATIENCE, "never closed");
        let _ = timeout(Duration::from_millis(10), trickle.read(&mut byte)).await;
    }
    assert_eq!(lobby.sessions.stats().overflows, 0, "it was the deadline");
}

#[tokio::test]
async fn a_connection_holds_its_place_until_it_has_ended() {
    let lobby = Lobby::start(|_| {}).await;
    let places = Arc::new(tokio::sync::Semaphore::new(1));
    let permit = Arc::clone(&places).try_acquire_owned().expect("a place");
    let client = lobby.connect_with(1, Transport::Tcp, Some(permit)).await;
    lobby.until("logged in", |s| s.sessions == [1, 0]).await;
    assert_eq!(places.available_permits(), 0);
    drop(client);
    let _again = timeout(PATIENCE, places.acquire()).await.expect("the place is given back");
}

/// Keeps the shard's thread busy for as long as the test holds the lock.
struct Stalling(Arc<Mutex<()>>);

impl Authenticator for Stalling {
    fn authenticate<'a>(&'a self, _: &'a str) -> Verdict<'a> {
        drop(self.0.lock().expect("not poisoned"));
        Box::pin(async { Err(Refused("not now".to_owned())) })
    }
}

#[tokio::test]
async fn a_ticket_is_held_until_the_shard_has_queued_the_message() {
    let stall = Arc::new(Mutex::new(()));
    let config = SessionsConfig { shards: 1, ..SessionsConfig::default() };
    let sessions = Sessions::start(config, Arc::new(Stalling(Arc::clone(&stall)))).expect("threads");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let lobby = Lobby { sessions: Arc::new(sessions), listener };
    let mut client = lobby.client(1).await;
    let held = stall.lock().expect("not poisoned");
    client.stream.get_mut().try_write(b"{\"command\":\"auth\",\"token\":\"x\"}\n").expect("written");
    // The shard takes one batch at a time: after this one it reads the token, and stalls.
    let tickets = [lobby.broadcast("{\"n\":1}"), lobby.unicast(1, "{\"n\":2}"), lobby.unicast(9, "{}")];
    std::thread::sleep(Duration::from_millis(200));
    let stalled = [lobby.broadcast("{\"n\":3}"), lobby.unicast(1, "{\"n\":4}"), lobby.unicast(9, "{}")];
    std::thread::sleep(Duration::from_millis(100));
    assert!(
        stalled.iter().all(|ticket| !*ticket.0.lock().expect("not poisoned")),
        "settled before it was queued"
    );
    drop(held);
    for ticket in tickets.iter().chain(&stalled) {
        ticket.wait().await;
    }
}

#[tokio::test]
async fn a_slow_client_that_reads_at_last_finds_whole_lines_and_the_reason() {
    let lobby = Lobby::start(|c| c.outbox_bytes = 32 << 10).await;
    let mut slow = Client { stream: BufReader::new(lobby.connect(1, Transport::Tcp).await) };
    let json = format!("{{\"fill\":\"{}\"}}", "x".repeat(8 << 10));
    while lobby.sessions.stats().overflows == 0 {
        lobby.broadcast(&json).wait().await;
    }
    assert!(slow.line().await.contains("welcome"));
    let mut line = slow.line().await;
    while line == json {
        line = slow.line().await;
    }
    assert!(line.contains("\"code\":4000") && line.contains("retry_after_ms"), "{line}");
    assert_eq!(slow.line().await, "");
}

#[tokio::test]
async fn dropping_the_oldest_keeps_the_client_and_the_newest() {
    let lobby = Lobby::start(|c| {
        c.outbox_bytes = 32 << 10;
        c.overflow = OverflowPolicy::DropOldest;
    })
    .await;
    let mut slow = lobby.client(1).await;
    let mut last = String::new();
    let mut n = 0;
    while lobby.sessions.stats().dropped_oldest < 10 {
        last = format!("{{\"n\":{n},\"fill\":\"{}\"}}", "x".repeat(8 << 10));
        lobby.broadcast(&last).wait().await;
        n += 1;
    }
    let mut seen = -1;
    loop {
        let line = slow.line().await;
        let value: serde_json::Value = serde_json::from_str(&line).expect("whole lines only");
        let number = value["n"].as_i64().expect("a number");
        assert!(number > seen, "order is kept");
        seen = number;
        if line == last {
            break;
        }
    }
    assert_eq!(lobby.sessions.stats().sessions, [1, 0]);
}

#[tokio::test]
async fn the_second_login_of_a_user_does_what_the_policy_says() {
    let lobby = Lobby::start(|_| {}).await;
    let (mut old, mut new) = (lobby.client(1).await, lobby.client(1).await);
    assert!(old.line().await.contains("You have been signed out because you signed in elsewhere."));
    assert_eq!(old.closing_code().await, 4501);
    lobby.unicast(1, "{}");
    assert_eq!(new.line().await, "{}");

    let lobby = Lobby::start(|c| c.duplicate_login = DuplicateLogin::Reject).await;
    let mut old = lobby.client(1).await;
    let mut new = Client { stream: BufReader::new(lobby.connect(1, Transport::Tcp).await) };
    assert_eq!(new.closing_code().await, 4501);
    lobby.unicast(1, "{}");
    assert_eq!(old.line().await, "{}");

    let lobby = Lobby::start(|c| c.duplicate_login = DuplicateLogin::Allow { max: 2 }).await;
    let (mut first, mut second) = (lobby.client(1).await, lobby.client(1).await);
    lobby.unicast(1, "{}");
    assert_eq!((first.line().await, second.line().await), ("{}".to_owned(), "{}".to_owned()));
}

#[tokio::test]
async fn exactly_one_of_a_hundred_simultaneous_logins_stays() {
    let lobby = Lobby::start(|_| {}).await;
    let mut clients = Vec::new();
    for _ in 0..100 {
        clients.push(Client { stream: BufReader::new(lobby.connect(5, Transport::Tcp).await) });
    }
    lobby.until("one session", |s| s.sessions == [1, 0] && s.closes.iter().sum::<u64>() == 99).await;
    lobby.unicast(5, r#"{"only":"one"}"#);
    let mut winners = 0;
    for mut client in clients {
        let mut last = client.line().await;
        while !last.is_empty() && !last.contains("closing") && !last.contains("only") {
            last = client.line().await;
        }
        winners += usize::from(last.contains("only"));
    }
    assert_eq!(winners, 1);
}

#[tokio::test]
async fn a_silent_client_is_pinged_and_closed_with_4001_and_one_that_answers_stays() {
    let lobby = Lobby::start(|c| c.ping_interval = Duration::from_millis(50)).await;
    let mut answers = lobby.client(1).await;
    let mut silent = lobby.client(2).await;
    let answering = tokio::spawn(async move {
        let mut pings = 0;
        while pings < 8 {
            if answers.line().await == r#"{"command":"ping"}"# {
                answers.say("{\"command\":\"pong\"}\n").await;
                pings += 1;
            }
        }
        answers
    });
    assert_eq!(silent.line().await, r#"{"command":"ping"}"#);
    assert_eq!(silent.line().await, r#"{"command":"ping"}"#);
    assert_eq!(silent.closing_code().await, 4001);
    let mut answers = answering.await.expect("still there after eight pings");
    answers.say("{\"command\":\"ping\"}\n").await;
    while answers.line().await != r#"{"command":"pong"}"# {}
}

#[tokio::test]
async fn open_sessions_are_answered_as_the_client_protocol_says() {
    let lobby = Lobby::start(|_| {}).await;
    let mut client = lobby.client(1).await;
    for (said, heard) in [
        ("{\"command\":\"ping\"}\r\n\n", r#"{"command":"pong"}"#),
        ("{\"command\":\"ask_session\"}\n", r#"{"command":"session","session":"#),
        ("{\"command\":\"dance\"}\n", r#"{"command":"invalid""#),
        ("{\"command\":\"auth\",\"token\":\"user-1\"}\n", r#"{"command":"welcome""#),
        ("{\"command\":\"auth\",\"token\":\"user-2\"}\n", r#"{"command":"authentication_failed""#),
        ("{\"command\":\"auth\"}\n", r#"{"command":"authentication_failed""#),
    ] {
        client.say(said).await;
        let line = client.line().await;
        assert!(line.starts_with(heard), "{said:?} was answered with {line}");
    }
    client.say("{\"command\":\"auth\",\"token\":\"\"}\n").await;
    assert_eq!(client.closing_code().await, 4500);
    for (said, code) in [("nonsense\n", 4503), ("[]\n", 4503), ("{\"a\":\"\u{fffd}\"}\n", 4503)] {
        let mut client = lobby.client(1).await;
        client.say(said).await;
        assert_eq!(client.closing_code().await, code, "{said:?}");
    }
    let mut client = lobby.client(1).await;
    client.stream.write_all(b"{\"command\":\"\xff\"}\n").await.expect("written");
    assert_eq!(client.closing_code().await, 1007);
    let mut client = lobby.client(1).await;
    client.say(&"x".repeat((64 << 10) + 2)).await;
    assert_eq!(client.closing_code().await, 1009);
}

#[tokio::test]
async fn a_drain_delivers_what_waits_then_says_1012_and_lets_nobody_in() {
    let lobby = Lobby::start(|_| {}).await;
    let mut client = lobby.client(1).await;
    lobby.broadcast(r#"{"last":"words"}"#).wait().await;
    let sessions = Arc::clone(&lobby.sessions);
    let drain = tokio::spawn(async move { sessions.drain(PATIENCE).await });
    assert_eq!(client.line().await, r#"{"last":"words"}"#);
    assert_eq!(client.closing_code().await, 1012);
    assert_eq!(client.line().await, "");
    drop(client);
    assert_eq!(drain.await.expect("drained"), 0);
    let mut late = Client { stream: BufReader::new(lobby.connect(2, Transport::Tcp).await) };
    assert_eq!(late.closing_code().await, 1012);
    let sessions = Arc::clone(&lobby.sessions);
    tokio::task::spawn_blocking(move || sessions.shut_down()).await.expect("threads end");
}

#[tokio::test]
async fn a_drain_ends_in_time_with_a_client_that_never_reads_nor_closes() {
    let lobby = Lobby::start(|c| c.close_grace = Duration::from_millis(100)).await;
    let _stuck = lobby.client(1).await;
    let left = timeout(PATIENCE, lobby.sessions.drain(PATIENCE)).await.expect("ended");
    assert_eq!(left, 0, "the farewell's own limit is the shorter one");
}

#[tokio::test]
async fn a_session_ends_with_its_token_only_when_configured() {
    for (close_on_expiry, stays) in [(false, true), (true, false)] {
        let lobby = Lobby::start(|c| {
            c.close_on_expiry = close_on_expiry;
            c.ping_interval = Duration::from_millis(40);
            c.max_unanswered_pings = 3;
        })
        .await;
        let address = lobby.listener.local_addr().expect("an address");
        let (client, accepted) = tokio::join!(TcpStream::connect(address), lobby.listener.accept());
        let (socket, peer) = accepted.expect("accepted");
        let identity = Identity { expires_at: Some(1), ..identity(UserId::new(1)) };
        let inbound = Inbound::new(Transport::Tcp, 1 << 14);
        let socket = socket.into_std().expect("a socket");
        let admission =
            Admission { identity, transport: Transport::Tcp, socket, peer, inbound, permit: None };
        lobby.sessions.admit(admission).await;
        let mut client = Client { stream: BufReader::new(client.expect("connected")) };
        // Three pings without an answer are several sweeps: an expired session has been looked at by then.
        let code = client.closing_code().await;
        assert_eq!(code, if stays { 4001 } else { 4002 });
    }
}

#[tokio::test]
async fn websocket_clients_get_frames_and_a_close_frame() {
    let lobby = Lobby::start(|_| {}).await;
    let mut stream = lobby.connect(1, Transport::WebSocket).await;
    lobby.until("logged in", |s| s.sessions == [0, 1]).await;
    lobby.unicast(1, "{\"a\":\n1}");
    // A masked ping with the payload "hi", then a masked close with code 1000.
    stream.write_all(b"\x89\x82\0\0\0\0hi").await.expect("written");
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\x8a\x02hi") {
        let mut chunk = [0; 4096];
        let count = timeout(PATIENCE, stream.read(&mut chunk)).await.expect("in time").expect("readable");
        assert!(count > 0, "closed early");
        bytes.extend_from_slice(&chunk[..count]);
    }
    let notification = b"\x81\x09{\"a\": 1}\n";
    assert!(bytes.windows(notification.len()).any(|w| w == notification), "{bytes:?}");
    stream.write_all(b"\x88\x82\0\0\0\0\x03\xe8").await.expect("written");
    let mut rest = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("in time").expect("readable");
    assert_eq!(rest[..4], [0x88, 2 + 3, 0x03, 0xe8]);
}

#[tokio::test]
async fn the_time_to_the_last_write_is_measured_once_a_message() {
    let lobby = Lobby::start(|_| {}).await;
    let mut clients = [lobby.client(1).await, lobby.client(2).await, lobby.client(3).await];
    let dropped = lobby.broadcast("{}");
    lobby.unicast(99, "{}").wait().await;
    for client in &mut clients {
        assert_eq!(client.line().await, "{}");
    }
    dropped.wait().await;
    let start = Instant::now();
    while lobby.sessions.meter().delivery_time().snapshot().count == 0 {
        assert!(start.elapsed() < PATIENCE, "never measured");
        tokio::task::yield_now().await;
    }
    assert_eq!(lobby.sessions.meter().delivery_time().snapshot().count, 1);
}
