//! The lobby's flow without its ends: decode → address → shard → outbox → socket.

use std::{
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{self, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use lobby_sessions::{
    Admission, Authenticator, DuplicateLogin, Frame, Identity, Inbound, Refused, Sessions, SessionsConfig,
    Transport, Verdict,
};
use notify_protocol::{Address, Body, Decoded, DropReason, HeaderValue, Limits, Message, UserId, decode};
use tokio::runtime::{Builder, Runtime};

use crate::{Client, TestingError};

/// How long anything may take that always happens. It never decides what a client got.
pub const PATIENCE: Duration = Duration::from_secs(20);

const SHARDS: usize = 2;
/// Sessions of one user: as many as a test may open.
const SESSIONS_OF_ONE_USER: usize = 10_000;
/// Nothing happens by itself during a test, and not while somebody looks at it in a debugger.
const NEVER: Duration = Duration::from_secs(24 * 60 * 60);

/// What became of a message, in the words of the lobby's metric `lobby_deliveries_total`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// It stands in the outbox of every session of its user.
    Unicast,
    /// It stands in the outbox of every session.
    Broadcast,
    /// Its user has no session.
    NotConnected,
    /// It is for a channel: recognised, and sent to nobody.
    ChannelReserved,
    /// It reaches nobody, for this reason. No [`Message`] comes to this, only what was never built by
    /// [`Notification`](notify_protocol::Notification).
    Dropped(DropReason),
}

/// A lobby without broker and login. Dropping it closes every client.
///
/// A user may have many sessions (`duplicate_login = "allow"`), a unicast reaches all of them; nothing is pinged and
/// nothing times out. What a client may leave unread has the lobby's own limit, 10 MiB by default.
#[derive(Debug)]
pub struct TestLobby {
    inside: Arc<Inside>,
    runtime: Option<Runtime>,
    listener: TcpListener,
    /// One connection at a time: whoever accepts another's would turn it away.
    connecting: Mutex<()>,
}

/// What clients share with their lobby.
#[derive(Debug)]
pub(crate) struct Inside {
    sessions: Sessions<Ticket>,
    limits: Limits,
    /// How every fence begins: with a random number, so that no notification does.
    fence: Vec<u8>,
    fences: AtomicU64,
    /// One message at a time: a counter tells what became of it.
    publishing: Mutex<()>,
}

/// Held by whoever has not handed the message over yet; the last one to drop it ends the wait.
type Ticket = mpsc::SyncSender<()>;

/// Nobody logs in by token.
struct NoTokens;

impl Authenticator for NoTokens {
    fn authenticate<'a>(&'a self, _: &'a str) -> Verdict<'a> {
        Box::pin(async { Err(Refused("this lobby is for tests".to_owned())) })
    }
}

impl TestLobby {
    /// Starts a lobby with the defaults of production, but for what the type's documentation says.
    ///
    /// # Errors
    /// [`TestingError::Io`]: the system gives no thread, socket or event queue.
    ///
    /// ```
    /// let lobby = lobby_testing::TestLobby::start()?;
    /// # Ok::<(), lobby_testing::TestingError>(())
    /// ```
    pub fn start() -> Result<Self, TestingError> {
        let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("lobby-testing").build();
        let runtime = runtime.map_err(TestingError::io("start a runtime"))?;
        let config = SessionsConfig {
            shards: SHARDS,
            duplicate_login: DuplicateLogin::Allow { max: SESSIONS_OF_ONE_USER },
            ping_interval: NEVER,
            write_timeout: NEVER,
            ..SessionsConfig::default()
        };
        let sessions = Sessions::start(config, Arc::new(NoTokens), runtime.handle());
        let sessions = sessions.map_err(TestingError::io("start the sessions"))?;
        let listener = TcpListener::bind("127.0.0.1:0").map_err(TestingError::io("listen on loopback"))?;
        let inside = Inside {
            sessions,
            limits: Limits::default(),
            fence: format!(r#"{{"command":"fence-{:032x}","number":"#, fastrand::u128(..)).into_bytes(),
            fences: AtomicU64::new(0),
            publishing: Mutex::new(()),
        };
        Ok(Self { inside: Arc::new(inside), runtime: Some(runtime), listener, connecting: Mutex::default() })
    }

    /// Connects a client that is logged in as `user`, and reads its `welcome`. On WebSocket it is upgraded already.
    ///
    /// # Errors
    /// [`TestingError::Io`]: the system gives no socket. [`TestingError::TooLong`]: the lobby hangs.
    ///
    /// ```
    /// use lobby_testing::{TestLobby, Transport};
    /// let lobby = TestLobby::start()?;
    /// let (tcp, browser) = (lobby.connect(42, Transport::Tcp)?, lobby.connect(42, Transport::WebSocket)?);
    /// # Ok::<(), lobby_testing::TestingError>(())
    /// ```
    pub fn connect(&self, user: impl Into<UserId>, transport: Transport) -> Result<Client, TestingError> {
        let user = user.into();
        let (stream, socket, peer) = self.socket_pair().map_err(TestingError::io("connect a client"))?;
        let identity = Identity { user, login: format!("user-{user}"), expires_at: None };
        let inbound = Inbound::new(transport, self.inside.sessions.config().max_inbound_bytes);
        let admission = Admission { identity, transport, socket, tls: None, peer, inbound, permit: None };
        let (admitted, done) = mpsc::sync_channel::<()>(1);
        let inside = Arc::clone(&self.inside);
        if let Some(runtime) = &self.runtime {
            // Not by `block_on`, which panics where a test has a runtime of its own.
            runtime.spawn(async move {
                inside.sessions.admit(admission).await;
                drop(admitted);
            });
        }
        wait(&done, "a login")?;
        Client::seated(Arc::clone(&self.inside), user, transport, stream)
    }

    /// Does with `message` what a lobby does when the broker delivers it, and returns when it stands in every
    /// addressed outbox.
    ///
    /// # Errors
    /// [`TestingError::TooLong`]: the lobby hangs.
    ///
    /// ```
    /// use lobby_testing::{Outcome, TestLobby};
    /// use notify_protocol::Notification;
    /// let lobby = TestLobby::start()?;
    /// let message = Notification::to_channel("news").raw_json("{}").build()?;
    /// assert_eq!(lobby.publish(&message)?, Outcome::ChannelReserved);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn publish(&self, message: &Message) -> Result<Outcome, TestingError> {
        let headers: Vec<_> = message.headers().collect();
        let wire = headers.iter().map(|(name, value)| (name.as_bytes(), HeaderValue::from(value)));
        self.deliver(wire, message.body())
    }

    /// The same with headers and body that no [`Notification`](notify_protocol::Notification) would let through:
    /// what does a lobby do with a message of another publisher?
    ///
    /// # Errors
    /// [`TestingError::TooLong`]: the lobby hangs.
    ///
    /// ```
    /// use lobby_testing::{Outcome, TestLobby};
    /// use notify_protocol::HeaderValue;
    /// let lobby = TestLobby::start()?;
    /// let outcome = lobby.deliver([(&b"user-id"[..], HeaderValue::Bool(true))], b"{}")?;
    /// assert!(matches!(outcome, Outcome::Dropped(reason) if reason.as_str() == "invalid_user_id"));
    /// // A void user id is not set: this reaches everyone.
    /// assert_eq!(lobby.deliver([(&b"user-id"[..], HeaderValue::Void)], b"{}")?, Outcome::Broadcast);
    /// # Ok::<(), lobby_testing::TestingError>(())
    /// ```
    pub fn deliver<'a>(
        &self,
        headers: impl IntoIterator<Item = (&'a [u8], HeaderValue<'a>)>,
        body: &'a [u8],
    ) -> Result<Outcome, TestingError> {
        self.inside.deliver(headers, body)
    }

    /// Both ends of a connection; the lobby's own in non-blocking mode.
    fn socket_pair(&self) -> std::io::Result<(TcpStream, TcpStream, std::net::SocketAddr)> {
        let _one_at_a_time = self.connecting.lock().unwrap_or_else(PoisonError::into_inner);
        let client = TcpStream::connect(self.listener.local_addr()?)?;
        let mine = client.local_addr()?;
        loop {
            let (socket, peer) = self.listener.accept()?;
            // Whoever else connects to the port is turned away.
            if peer == mine {
                socket.set_nonblocking(true)?;
                socket.set_nodelay(true)?;
                client.set_nodelay(true)?;
                return Ok((client, socket, peer));
            }
        }
    }
}

impl Drop for TestLobby {
    fn drop(&mut self) {
        self.inside.sessions.shut_down();
        // Not by dropping it, which panics where a test has a runtime of its own.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Inside {
    fn deliver<'a>(
        &self,
        headers: impl IntoIterator<Item = (&'a [u8], HeaderValue<'a>)>,
        body: &'a [u8],
    ) -> Result<Outcome, TestingError> {
        let _one_at_a_time = self.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        let received_at = Instant::now();
        match decode(headers, body, &self.limits) {
            Ok(Decoded { address: Address::User(user), body }) => {
                let absent = self.sessions.stats().not_connected;
                self.unicast(user, &body, received_at)?;
                let found = self.sessions.stats().not_connected == absent;
                Ok(if found { Outcome::Unicast } else { Outcome::NotConnected })
            }
            Ok(Decoded { address: Address::Everyone, body }) => {
                let (ticket, done) = mpsc::sync_channel(1);
                self.sessions.broadcast(&self.frame(&body, received_at), &ticket);
                drop(ticket);
                wait(&done, "a broadcast")?;
                Ok(Outcome::Broadcast)
            }
            Ok(Decoded { address: Address::Channel(_), .. }) => Ok(Outcome::ChannelReserved),
            Err(reason) => Ok(Outcome::Dropped(reason)),
        }
    }

    /// Sends a line to `user` that was never sent before, behind everything published so far; what it says.
    pub(crate) fn fence(&self, user: UserId) -> Result<Vec<u8>, TestingError> {
        let _one_at_a_time = self.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        let number = self.fences.fetch_add(1, Relaxed);
        let fence = [&self.fence, number.to_string().as_bytes(), b"}"].concat();
        if let Ok(body) = Body::check(&fence, &self.limits) {
            self.unicast(user, &body, Instant::now())?;
        }
        Ok(fence)
    }

    /// Whether a line is a fence of this lobby, for whichever client.
    pub(crate) fn is_fence(&self, message: &[u8]) -> bool {
        message.starts_with(&self.fence)
    }

    fn unicast(&self, user: UserId, body: &Body<'_>, received_at: Instant) -> Result<(), TestingError> {
        let (ticket, done) = mpsc::sync_channel(1);
        self.sessions.unicast(user, self.frame(body, received_at), ticket);
        wait(&done, "a unicast")
    }

    fn frame(&self, body: &Body<'_>, received_at: Instant) -> Frame {
        Frame::notification(body, self.sessions.config().frame, received_at, self.sessions.meter(), None)
    }
}

/// Waits until every clone of the ticket is dropped.
fn wait(done: &mpsc::Receiver<()>, what: &'static str) -> Result<(), TestingError> {
    match done.recv_timeout(PATIENCE) {
        Ok(()) | Err(RecvTimeoutError::Disconnected) => Ok(()),
        Err(RecvTimeoutError::Timeout) => Err(TestingError::TooLong { what, limit: PATIENCE }),
    }
}
