//! A connection from its first byte to its login, or to a farewell.
//!
//! Runs apart from the threads that deliver: a flood of logins costs deliveries nothing. Everything is under one
//! deadline and a limit in bytes.

mod counts;
#[cfg(test)]
pub mod tests;

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
    time::Duration,
};

use lobby_sessions::{
    Admission, Authenticator, CloseReason, Command, Event, Frame, FrameKind, Identity, Inbound, LogGate,
    Place, Refused, Transport, farewell, pong_frame, reply,
};
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    sync::Semaphore,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use self::counts::Counted;
pub use self::counts::Counts;
use crate::upgrade::{self, Decision, OriginPolicy, Rejection};

/// Tokens that may fail before the connection is closed (`CLIENT_PROTOCOL`).
const MAX_FAILED_LOGINS: u32 = 3;
/// How long a connection that is being closed may take to read its last words.
const FAREWELL_TIME: Duration = Duration::from_secs(2);
/// Bytes of a connection that is being closed which are read and thrown away; one that sends more may be reset.
const FAREWELL_BYTES: usize = 1 << 20;
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
    pub turning_away: Arc<Semaphore>,
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
        place: Place,
        stop: &CancellationToken,
    ) -> Option<Admission> {
        let _counted = Counted::new(&self.counts.handshakes);
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
                Some(Admission { identity, transport, socket, peer, inbound, permit: Some(place) })
            }
            Err(end) => {
                self.part(guest, end).await;
                None
            }
        }
    }

    /// The farewell of a connection that is over a limit, said before anything is read. `None` when too many are
    /// being turned away already: the socket is then closed at once, and costs nothing more.
    pub fn turn_away(
        self: Arc<Self>,
        socket: TcpStream,
        peer: SocketAddr,
        transport: Transport,
    ) -> Option<impl Future<Output = ()> + Send> {
        let turning_away = Arc::clone(&self.turning_away).try_acquire_owned().ok()?;
        Some(async move {
            let inbound = Inbound::new(transport, 0);
            let upgraded = transport == Transport::Tcp;
            let guest =
                Guest { socket, peer, transport, inbound, frame: self.frame, upgraded, failed_logins: 0 };
            self.part(guest, End::Close(CloseReason::TryLater)).await;
            drop(turning_away);
        })
    }

    async fn part(&self, mut guest: Guest, end: End) {
        let last_words = match guest.in_its_language(end, self.retry_spread_ms) {
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
            let mut room = FAREWELL_BYTES;
            while room > 0 && !read(&guest.socket, |bytes| room = room.saturating_sub(bytes.len())).await? {}
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
    fn in_its_language(&self, end: End, retry_spread_ms: u64) -> End {
        match end {
            End::Close(CloseReason::LoginTimeout) if !self.upgraded => End::Reject(Rejection::TOO_SLOW),
            End::Close(reason) if !self.upgraded => {
                let retry = reason.retry_after_ms(retry_spread_ms, fastrand::u64(..));
                End::Reject(Rejection::busy(retry.unwrap_or(retry_spread_ms)))
            }
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
