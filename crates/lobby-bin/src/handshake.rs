//! A connection from its first byte to its login, or to a farewell.
//!
//! Runs apart from the threads that deliver: a flood of logins costs deliveries nothing. Everything is under one
//! deadline and a limit in bytes.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use lobby_sessions::{
    Admission, Authenticator, CloseReason, Command, Event, Frame, FrameKind, Identity, Inbound, LogGate,
    Refused, Transport, farewell, pong_frame, reply,
};
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::upgrade::{self, Decision, OriginPolicy, Rejection};

/// Tokens that may fail before the connection is closed (`CLIENT_PROTOCOL`).
const MAX_FAILED_LOGINS: u32 = 3;
/// How long a connection that is being closed may take to read its last words.
const FAREWELL_TIME: Duration = Duration::from_secs(2);
const READ_BYTES: usize = 4096;

/// Limits and policies before login.
pub struct Gate {
    pub authenticator: Arc<dyn Authenticator>,
    pub login_timeout: Duration,
    pub max_login_bytes: usize,
    pub origins: OriginPolicy,
    pub frame: FrameKind,
    pub retry_spread_ms: u64,
    pub counts: Counts,
    pub log_gate: Mutex<LogGate>,
    /// Places for connections that are being turned away.
    pub turning_away: Semaphore,
}

/// How handshakes ended.
#[derive(Debug, Default)]
pub struct Counts {
    pub logged_in: AtomicU64,
    pub refused_tokens: AtomicU64,
    pub refused_upgrades: AtomicU64,
    pub left: AtomicU64,
    closed: [AtomicU64; lobby_sessions::CLOSE_CODES.len()],
}

impl Counts {
    fn closed_with(&self, reason: CloseReason) {
        if let Some(slot) = lobby_sessions::CLOSE_CODES.iter().position(|c| *c == reason.code()) {
            self.closed[slot].fetch_add(1, Relaxed);
        }
    }

    /// Connections closed before login, by code, in the order of [`lobby_sessions::CLOSE_CODES`].
    pub fn closes(&self) -> impl Iterator<Item = (u16, u64)> + '_ {
        lobby_sessions::CLOSE_CODES.into_iter().zip(self.closed.iter().map(|c| c.load(Relaxed)))
    }
}

/// How a handshake ends without a login.
enum End {
    /// The client left, or its connection broke.
    Left,
    /// It is told why, and closed.
    Close(CloseReason),
    /// The HTTP request is not upgraded.
    Reject(Rejection),
}

impl From<io::Error> for End {
    fn from(_: io::Error) -> Self {
        Self::Left
    }
}

impl Gate {
    /// Brings one connection to its login and returns it, or says farewell. `stop` ends it with 1012.
    pub async fn receive(
        &self,
        socket: TcpStream,
        peer: SocketAddr,
        transport: Transport,
        permit: OwnedSemaphorePermit,
        stop: &CancellationToken,
    ) -> Option<Admission> {
        let deadline = Instant::now() + self.login_timeout;
        let mut guest = Guest {
            socket,
            peer,
            transport,
            inbound: Inbound::new(transport, self.max_login_bytes),
            frame: self.frame,
            upgraded: transport == Transport::Tcp,
            failed_logins: 0,
        };
        let login = guest.log_in(self);
        let outcome = tokio::select! {
            outcome = timeout_at(deadline, login) => outcome.unwrap_or(Err(End::Close(CloseReason::LoginTimeout))),
            () = stop.cancelled() => Err(End::Close(CloseReason::Restart)),
        };
        match outcome {
            Ok(identity) => {
                self.counts.logged_in.fetch_add(1, Relaxed);
                let Guest { socket, inbound, .. } = guest;
                let socket = socket.into_std().ok()?;
                Some(Admission { identity, transport, socket, peer, inbound, permit: Some(permit) })
            }
            Err(end) => {
                self.part(guest, end).await;
                None
            }
        }
    }

    /// Turns a connection away that is over a limit.
    pub async fn turn_away(&self, socket: TcpStream, peer: SocketAddr, transport: Transport) {
        let Ok(_place) = self.turning_away.try_acquire() else { return };
        let inbound = Inbound::new(transport, 0);
        let upgraded = transport == Transport::Tcp;
        let guest = Guest { socket, peer, transport, inbound, frame: self.frame, upgraded, failed_logins: 0 };
        self.part(guest, End::Close(CloseReason::TryLater)).await;
    }

    async fn part(&self, mut guest: Guest, end: End) {
        let last_words = match guest.in_its_language(end) {
            End::Left => {
                self.counts.left.fetch_add(1, Relaxed);
                return;
            }
            End::Close(reason) => {
                self.counts.closed_with(reason);
                debug!(peer = %guest.peer, code = reason.code(), reason = reason.text(), "closed before login");
                let retry = reason.retry_after_ms(self.retry_spread_ms, fastrand::u64(..));
                let frames = farewell(guest.transport, self.frame, reason, retry);
                frames.iter().flat_map(|frame| guest.transport.bytes(frame).to_vec()).collect()
            }
            End::Reject(rejection) => {
                self.counts.refused_upgrades.fetch_add(1, Relaxed);
                debug!(peer = %guest.peer, status = rejection.status, "not upgraded");
                rejection.response().into_bytes()
            }
        };
        let farewell = async {
            guest.socket.write_all(&last_words).await?;
            guest.socket.shutdown().await?;
            // Read to the end: a socket closed with unread bytes is reset, and the last words are lost.
            while !read(&guest.socket, |_| ()).await? {}
            io::Result::Ok(())
        };
        let _ = timeout(FAREWELL_TIME, farewell).await;
    }
}

/// Waits for bytes and hands them over; true at the end. They lie on the stack and never in the future, which would
/// leave holes of many kilobytes between the sessions that stay.
async fn read(socket: &TcpStream, take: impl FnOnce(&[u8])) -> io::Result<bool> {
    loop {
        socket.readable().await?;
        let mut scratch = [0; READ_BYTES];
        match socket.try_read(&mut scratch) {
            Ok(count) => {
                take(&scratch[..count]);
                return Ok(count == 0);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// A connection that has not logged in.
struct Guest {
    socket: TcpStream,
    peer: SocketAddr,
    transport: Transport,
    inbound: Inbound,
    frame: FrameKind,
    /// Whether it speaks the lobby's protocol by now, and no longer HTTP.
    upgraded: bool,
    failed_logins: u32,
}

impl Guest {
    /// A WebSocket client that has not been upgraded can only be told by an HTTP status.
    fn in_its_language(&self, end: End) -> End {
        match end {
            End::Close(CloseReason::LoginTimeout) if !self.upgraded => End::Reject(Rejection::TOO_SLOW),
            End::Close(_) if !self.upgraded => End::Reject(Rejection::BUSY),
            end => end,
        }
    }

    async fn log_in(&mut self, gate: &Gate) -> Result<Identity, End> {
        if self.transport == Transport::WebSocket {
            self.upgrade(gate).await?;
        }
        loop {
            while let Some(event) = self.inbound.next() {
                if let Some(identity) = self.answer(gate, event.map_err(End::Close)?).await? {
                    return Ok(identity);
                }
            }
            let inbound = &mut self.inbound;
            if read(&self.socket, |bytes| inbound.extend(bytes)).await? {
                return Err(End::Left);
            }
        }
    }

    async fn upgrade(&mut self, gate: &Gate) -> Result<(), End> {
        let mut head = Vec::new();
        loop {
            if read(&self.socket, |bytes| head.extend_from_slice(bytes)).await? {
                return Err(End::Left);
            }
            match upgrade::decide(&head, gate.max_login_bytes, &gate.origins) {
                Decision::NeedMore => {}
                Decision::Reject(rejection) => return Err(End::Reject(rejection)),
                Decision::Upgrade { response, head_len } => {
                    self.socket.write_all(response.as_bytes()).await?;
                    self.upgraded = true;
                    self.inbound.extend(&head[head_len..]);
                    return Ok(());
                }
            }
        }
    }

    async fn answer(&mut self, gate: &Gate, event: Event) -> Result<Option<Identity>, End> {
        let message = match event {
            Event::Message(message) => message,
            Event::Ping(payload) => {
                self.socket.write_all(&pong_frame(&payload)).await?;
                return Ok(None);
            }
            Event::Close(_) => return Err(End::Close(CloseReason::Bye)),
        };
        match Command::decode(&message).map_err(End::Close)? {
            Command::AskSession => self.say(&reply::session(fastrand::u32(..))).await?,
            Command::Ping => self.say(reply::PONG).await?,
            Command::Pong => {}
            Command::Unknown => {
                return Err(End::Close(CloseReason::Protocol("log in before any other command")));
            }
            Command::Auth { token } => match gate.authenticator.authenticate(&token).await {
                Ok(identity) => return Ok(Some(identity)),
                Err(refused) => self.refuse(gate, &refused).await?,
            },
        }
        Ok(None)
    }

    async fn refuse(&mut self, gate: &Gate, refused: &Refused) -> Result<(), End> {
        gate.counts.refused_tokens.fetch_add(1, Relaxed);
        let gate_passed =
            gate.log_gate.lock().unwrap_or_else(PoisonError::into_inner).pass(std::time::Instant::now());
        if let Some(suppressed) = gate_passed {
            // Escaped and cut: parts of the token may stand in it.
            let why: String = refused.0.escape_debug().take(200).collect();
            info!(peer = %self.peer, why, suppressed, "login refused");
        }
        self.say(&reply::authentication_failed()).await?;
        self.failed_logins += 1;
        if self.failed_logins >= MAX_FAILED_LOGINS {
            return Err(End::Close(CloseReason::AuthenticationFailed));
        }
        Ok(())
    }

    async fn say(&mut self, json: &str) -> io::Result<()> {
        let frame = Frame::control(json, self.frame);
        self.socket.write_all(self.transport.bytes(&frame)).await
    }
}

#[cfg(test)]
mod tests {
    use lobby_sessions::Verdict;
    use tokio::{io::AsyncReadExt, net::TcpListener, sync::Semaphore};

    use super::*;

    struct Nobody;

    impl Authenticator for Nobody {
        fn authenticate<'a>(&'a self, _: &'a str) -> Verdict<'a> {
            Box::pin(async { Err(Refused("nobody may".to_owned())) })
        }
    }

    fn gate(login_timeout: Duration) -> Gate {
        Gate {
            authenticator: Arc::new(Nobody),
            login_timeout,
            max_login_bytes: 1024,
            origins: OriginPolicy::SameHost,
            frame: FrameKind::Text,
            retry_spread_ms: 1000,
            counts: Counts::default(),
            log_gate: Mutex::new(LogGate::new(1)),
            turning_away: Semaphore::new(1),
        }
    }

    /// All that a client reads which says `said` and nothing else.
    async fn answer(gate: Gate, transport: Transport, said: &str, stop: CancellationToken) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (mut client, (socket, peer)) = (client.expect("connected"), accepted.expect("accepted"));
        let places = Arc::new(Semaphore::new(1));
        let permit = Arc::clone(&places).try_acquire_owned().expect("a place");
        let receiving = tokio::spawn(async move {
            assert!(gate.receive(socket, peer, transport, permit, &stop).await.is_none());
        });
        client.write_all(said.as_bytes()).await.expect("written");
        let mut heard = String::new();
        let limit = Duration::from_secs(20);
        timeout(limit, client.read_to_string(&mut heard)).await.expect("an end").expect("text");
        drop(client);
        receiving.await.expect("no panic");
        assert_eq!(places.available_permits(), 1, "the place is given back");
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
}
