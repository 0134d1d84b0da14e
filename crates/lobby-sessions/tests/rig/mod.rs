//! A lobby without broker or listener: real sockets, real shards, a login that needs no token.

#![allow(dead_code, missing_docs, reason = "each test program uses its part")]

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use lobby_sessions::{
    Admission, Authenticator, Frame, FrameKind, Identity, Inbound, Refused, Sessions, SessionsConfig,
    Transport, Verdict,
};
use notify_protocol::{Body, Limits, UserId};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    runtime::Handle,
    time::timeout,
};

/// How long an event may take to come; never how long a test waits to see that nothing came.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Accepts `user-<id>` as a token.
pub struct Trusting;

impl Authenticator for Trusting {
    fn authenticate<'a>(&'a self, token: &'a str) -> Verdict<'a> {
        let id = token.strip_prefix("user-").and_then(|id| id.parse().ok());
        let who = id.map(|id: i64| identity(UserId::new(id))).ok_or_else(|| Refused("not a user".to_owned()));
        Box::pin(async move { who })
    }
}

pub fn identity(user: UserId) -> Identity {
    Identity { user, login: format!("user-{user}"), expires_at: None }
}

/// A proof of delivery that says when its last clone was dropped.
pub type Ticket = Arc<DropFlag>;

#[derive(Clone)]
pub struct Dropped(pub Arc<Mutex<bool>>);

pub struct DropFlag(Dropped);

impl Drop for DropFlag {
    fn drop(&mut self) {
        *self.0.0.lock().expect("not poisoned") = true;
    }
}

pub fn ticket() -> (Ticket, Dropped) {
    let dropped = Dropped(Arc::default());
    (Arc::new(DropFlag(dropped.clone())), dropped)
}

impl Dropped {
    pub async fn wait(&self) {
        let start = Instant::now();
        while !*self.0.lock().expect("not poisoned") {
            assert!(start.elapsed() < PATIENCE, "the ticket was never dropped");
            tokio::task::yield_now().await;
        }
    }
}

pub struct Lobby {
    pub sessions: Arc<Sessions<Ticket>>,
    pub listener: TcpListener,
}

impl Lobby {
    pub async fn start(change: impl FnOnce(&mut SessionsConfig)) -> Self {
        Self::start_with(change, Arc::new(Trusting)).await
    }

    pub async fn start_with(
        change: impl FnOnce(&mut SessionsConfig),
        authenticator: Arc<dyn Authenticator>,
    ) -> Self {
        let mut config = SessionsConfig { shards: 2, command_rate: None, ..SessionsConfig::default() };
        change(&mut config);
        let sessions = Sessions::start(config, authenticator, &Handle::current()).expect("threads");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        Self { sessions: Arc::new(sessions), listener }
    }

    pub async fn connect(&self, user: i64, transport: Transport) -> TcpStream {
        self.connect_with(user, transport, None).await
    }

    pub async fn connect_with(
        &self,
        user: i64,
        transport: Transport,
        permit: Option<lobby_sessions::Place>,
    ) -> TcpStream {
        let (client, admission) = self.admission(user, transport).await;
        self.sessions.admit(Admission { permit, ..admission }).await;
        client
    }

    /// A connected client, and what lets it in.
    pub async fn admission(&self, user: i64, transport: Transport) -> (TcpStream, Admission) {
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
            tls: None,
            peer,
            inbound: Inbound::new(transport, 1 << 14),
            permit: None,
        };
        (client, admission)
    }

    /// A logged-in TCP client.
    pub async fn client(&self, user: i64) -> Client {
        let mut client = Client { stream: BufReader::new(self.connect(user, Transport::Tcp).await) };
        assert!(client.line().await.starts_with(r#"{"command":"welcome""#));
        client
    }

    pub fn frame(&self, json: &str) -> Frame {
        self.numbered(json, None)
    }

    pub fn numbered(&self, json: &str, serial: Option<u64>) -> Frame {
        let limits = Limits { max_body_bytes: usize::MAX };
        let body = Body::check(json.as_bytes(), &limits).expect("an object");
        Frame::notification(&body, FrameKind::Text, Instant::now(), self.sessions.meter(), serial)
    }

    pub fn broadcast(&self, json: &str) -> Dropped {
        let (ticket, dropped) = ticket();
        self.sessions.broadcast(&self.frame(json), &ticket);
        dropped
    }

    pub fn unicast(&self, user: i64, json: &str) -> Dropped {
        let (ticket, dropped) = ticket();
        self.sessions.unicast(UserId::new(user), self.frame(json), ticket);
        dropped
    }

    /// Notifies a user who does not read until 256 KiB wait: less may be a greeting that is not yet counted as written.
    pub async fn fill(&self, user: i64) {
        let json = format!("{{\"fill\":\"{}\"}}", "x".repeat(8 << 10));
        while self.sessions.stats().queued_bytes < 256 << 10 {
            self.unicast(user, &json).wait().await;
        }
    }

    pub async fn until(&self, what: &str, done: impl Fn(&lobby_sessions::SessionStats) -> bool) {
        let start = Instant::now();
        while !done(&self.sessions.stats()) {
            assert!(start.elapsed() < PATIENCE, "{what}: {:?}", self.sessions.stats());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

pub struct Client {
    pub stream: BufReader<TcpStream>,
}

impl Client {
    /// The next line without its end; empty when the lobby has closed.
    pub async fn line(&mut self) -> String {
        let mut line = String::new();
        timeout(PATIENCE, self.stream.read_line(&mut line)).await.expect("a line in time").expect("readable");
        line.trim_end_matches('\n').to_owned()
    }

    pub async fn say(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.expect("written");
    }

    pub async fn closing_code(&mut self) -> u64 {
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
