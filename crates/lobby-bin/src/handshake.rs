//! A connection from its first byte to its login, or to a farewell.
//!
//! Runs apart from the threads that deliver: a flood of logins costs deliveries nothing. Everything is under one
//! deadline and a limit in bytes.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use lobby_sessions::{
    Admission, Authenticator, CloseReason, Command, Event, Frame, FrameKind, Identity, Inbound, Refused,
    Transport, farewell, pong_frame, reply,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::OwnedSemaphorePermit,
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
        let inbound = Inbound::new(transport, 0);
        let guest = Guest { socket, peer, transport, inbound, frame: self.frame, failed_logins: 0 };
        let end = match transport {
            Transport::Tcp => End::Close(CloseReason::TryLater),
            Transport::WebSocket => End::Reject(Rejection::BUSY),
        };
        self.part(guest, end).await;
    }

    async fn part(&self, mut guest: Guest, end: End) {
        let last_words = match end {
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
            let mut scratch = [0; READ_BYTES];
            while guest.socket.read(&mut scratch).await? > 0 {}
            io::Result::Ok(())
        };
        let _ = timeout(FAREWELL_TIME, farewell).await;
    }
}

/// A connection that has not logged in.
struct Guest {
    socket: TcpStream,
    peer: SocketAddr,
    transport: Transport,
    inbound: Inbound,
    frame: FrameKind,
    failed_logins: u32,
}

impl Guest {
    async fn log_in(&mut self, gate: &Gate) -> Result<Identity, End> {
        if self.transport == Transport::WebSocket {
            self.upgrade(gate).await?;
        }
        let mut scratch = [0; READ_BYTES];
        loop {
            while let Some(event) = self.inbound.next() {
                if let Some(identity) = self.answer(gate, event.map_err(End::Close)?).await? {
                    return Ok(identity);
                }
            }
            let count = self.socket.read(&mut scratch).await?;
            if count == 0 {
                return Err(End::Left);
            }
            self.inbound.extend(&scratch[..count]);
        }
    }

    async fn upgrade(&mut self, gate: &Gate) -> Result<(), End> {
        let mut head = Vec::new();
        let mut scratch = [0; READ_BYTES];
        loop {
            let count = self.socket.read(&mut scratch).await?;
            if count == 0 {
                return Err(End::Left);
            }
            head.extend_from_slice(&scratch[..count]);
            match upgrade::decide(&head, gate.max_login_bytes, &gate.origins) {
                Decision::NeedMore => {}
                Decision::Reject(rejection) => return Err(End::Reject(rejection)),
                Decision::Upgrade { response, head_len } => {
                    self.socket.write_all(response.as_bytes()).await?;
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
        info!(peer = %self.peer, %refused, "login refused");
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
