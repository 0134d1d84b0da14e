//! A connection from its first byte to its login, or to a farewell.
//!
//! Runs apart from the threads that deliver: a flood of logins costs deliveries nothing. Everything is under one
//! deadline and a limit in bytes.

mod arrival;
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
    Admission, Authenticator, Bucket, CloseReason, Command, Event, Frame, FrameKind, Identity, Inbound,
    LogGate, Place, Rate, Refused, Transport, farewell, pong_frame, reply,
};
use tokio::{
    io::AsyncWriteExt,
    sync::Semaphore,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use self::counts::Counted;
pub use self::{arrival::Arrival, counts::Counts};
use crate::{
    doorkeeper::{Doorkeeper, Limit},
    listen_tls::ListenTls,
    proxies::Proxies,
    stream::Stream,
    upgrade::{self, Decision, OriginPolicy, Rejection},
};

/// Tokens that may fail before the connection is closed (`CLIENT_PROTOCOL`).
const MAX_FAILED_LOGINS: u32 = 3;
/// How long a connection that is being closed may take to read its last words.
const FAREWELL_TIME: Duration = Duration::from_secs(2);
/// Bytes of a connection that is being closed which are read and thrown away; one that sends more may be reset.
const FAREWELL_BYTES: usize = 1 << 20;

/// Limits and policies before login.
pub struct Gate {
    pub authenticator: Arc<dyn Authenticator>,
    pub login_timeout: Duration,
    pub max_login_bytes: usize,
    /// What a client may say before its login, as [`SessionsConfig::command_rate`](lobby_sessions::SessionsConfig) after it.
    pub command_rate: Option<Rate>,
    pub origins: OriginPolicy,
    /// The console's page connects from this port of the same host, for its own client.
    pub console_port: Option<u16>,
    pub doorkeeper: Arc<Doorkeeper>,
    pub proxies: Proxies,
    /// What encrypts TCP, and what encrypts WebSocket.
    pub tls: [Option<Arc<ListenTls>>; Transport::ALL.len()],
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
    pub async fn receive(&self, arrival: Arrival, stop: &CancellationToken) -> Option<Admission> {
        let _counted = Counted::new(&self.counts.handshakes);
        let deadline = Instant::now() + self.login_timeout;
        // Before that, nobody is there who could be told anything.
        let mut guest = tokio::select! {
            // Who is there already is told why it ends.
            biased;
            guest = timeout_at(deadline, self.meet(arrival)) => guest.ok()??,
            () = stop.cancelled() => return None,
        };
        let login = guest.log_in(self);
        let outcome = tokio::select! {
            outcome = timeout_at(deadline, login) => outcome.unwrap_or(Err(End::Close(CloseReason::LoginTimeout))),
            () = stop.cancelled() => Err(End::Close(CloseReason::Restart)),
        };
        match outcome {
            Ok(identity) => {
                self.counts.logged_in.fetch_add(1, Relaxed);
                let Guest { stream, peer, transport, place: permit, mut inbound, .. } = guest;
                let (socket, tls, unused) = stream.into_parts().ok()?;
                inbound.extend(&unused);
                Some(Admission { identity, transport, socket, tls, peer, inbound, permit })
            }
            Err(end) => {
                self.part(guest, end).await;
                None
            }
        }
    }

    /// The farewell of a connection that is over a limit, said before anything of the client's is read. `None` when
    /// too many are being turned away already: the socket is then closed at once, and costs nothing more.
    pub fn turn_away(self: Arc<Self>, arrival: Arrival) -> Option<impl Future<Output = ()> + Send> {
        let turning_away = Arc::clone(&self.turning_away).try_acquire_owned().ok()?;
        Some(async move {
            if let Ok(Some(guest)) = timeout(FAREWELL_TIME, self.meet(arrival)).await {
                self.part(guest, End::Close(CloseReason::TryLater)).await;
            }
            drop(turning_away);
        })
    }

    fn tls_for(&self, transport: Transport) -> Option<&ListenTls> {
        self.tls[transport as usize].as_deref()
    }

    /// Whether another line may be logged, and how many were not.
    fn log_passes(&self) -> Option<u64> {
        let mut gate = self.log_gate.lock().unwrap_or_else(PoisonError::into_inner);
        gate.pass(std::time::Instant::now())
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
            guest.stream.write_all(&last_words).await?;
            guest.stream.shutdown().await?;
            // Read to the end: a socket closed with unread bytes is reset, and the last words are lost.
            let mut room = FAREWELL_BYTES;
            while room > 0 && !guest.stream.read(|bytes| room = room.saturating_sub(bytes.len())).await? {}
            io::Result::Ok(())
        };
        let _ = timeout(FAREWELL_TIME, farewell).await;
    }
}

/// A connection that has not logged in.
struct Guest {
    stream: Stream,
    /// The client, as far as it is known: without a proxy's word, the proxy.
    peer: SocketAddr,
    place: Option<Place>,
    /// What its own address is over, as it came out behind a proxy.
    over_limit: Option<Limit>,
    transport: Transport,
    inbound: Inbound,
    frame: FrameKind,
    /// Whether it speaks the lobby's protocol by now, and no longer HTTP.
    upgraded: bool,
    failed_logins: u32,
    met: Instant,
    /// What of its commands is left.
    commands: Bucket,
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
        if self.over_limit.is_some() {
            return Err(End::Close(CloseReason::TryLater));
        }
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
            if self.stream.read(|bytes| inbound.extend(bytes)).await? {
                return Err(End::Left);
            }
        }
    }

    async fn upgrade(&mut self, gate: &Gate) -> Result<(), End> {
        let mut head = Vec::new();
        loop {
            if self.stream.read(|bytes| head.extend_from_slice(bytes)).await? {
                return Err(End::Left);
            }
            match upgrade::decide(&head, gate.max_login_bytes, &gate.origins, gate.console_port) {
                Decision::NeedMore => {}
                Decision::Reject(rejection) => return Err(End::Reject(rejection)),
                Decision::Upgrade { response, head_len } => {
                    self.heed_proxy(gate, &head[..head_len])?;
                    self.write(response.as_bytes()).await?;
                    self.upgraded = true;
                    self.inbound.extend(&head[head_len..]);
                    return Ok(());
                }
            }
        }
    }

    /// Takes a listed proxy's word for the client's address.
    fn heed_proxy(&mut self, gate: &Gate, head: &[u8]) -> Result<(), End> {
        let values = upgrade::values(head, &gate.proxies.header);
        if let Some(client) = gate.proxies.real_ip(self.peer.ip(), values.iter().map(String::as_str)) {
            self.peer = SocketAddr::new(client, 0);
            gate.reveal(&mut self.place, self.peer).map_err(|_| End::Close(CloseReason::TryLater))?;
        }
        Ok(())
    }

    async fn answer(&mut self, gate: &Gate, event: Event) -> Result<Option<Identity>, End> {
        if !self.may_say_more(gate.command_rate) {
            return Err(End::Close(CloseReason::TooTalkative));
        }
        let message = match event {
            Event::Message(message) => message,
            Event::Nothing => return Ok(None),
            Event::Ping(payload) => {
                self.write(&pong_frame(&payload)).await?;
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

    /// Takes one of the commands that a client may send, if one is left.
    fn may_say_more(&mut self, rate: Option<Rate>) -> bool {
        let Some(rate) = rate else { return true };
        let now = self.met.elapsed();
        let may = self.commands.has_token(rate, now);
        if may {
            self.commands.take(rate, now);
        }
        may
    }

    async fn refuse(&mut self, gate: &Gate, refused: &Refused) -> Result<(), End> {
        gate.counts.refused_tokens.fetch_add(1, Relaxed);
        if let Some(suppressed) = gate.log_passes() {
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
        let transport = self.transport;
        self.write(transport.bytes(&frame)).await
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        // TLS keeps what the socket did not take at once.
        self.stream.flush().await
    }
}
