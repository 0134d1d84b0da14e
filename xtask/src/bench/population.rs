//! Thousands of clients, connected and logged in, ready for the driver.
//!
//! They log in over blocking sockets, a few hundred at a time; only then is a socket made non-blocking. Each takes
//! one of several loopback addresses as its own, since one address has about 28,000 ports.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    ops::Range,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::{codec::Codec, peer::Peer};
use crate::token;

/// Clients that connect before the first of them is asked whether it was welcomed; below the usual backlog.
const AT_A_TIME: usize = 100;
/// Clients that share a source address.
const PER_SOURCE: u32 = 4_000;
/// How long any one step of a login may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// How clients get in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Door {
    /// The floor server: four bytes with the client's number, answered by a line.
    Floor,
    /// The lobby's TCP listener.
    Tcp,
    /// The lobby's WebSocket listener.
    WebSocket,
    /// A peer's subscriptions.
    Peer(Peer),
}

impl Door {
    pub(crate) fn codec(self) -> Codec {
        match self {
            Self::Floor | Self::Tcp => Codec::Line,
            Self::WebSocket => Codec::WebSocket,
            Self::Peer(peer) => Codec::Peer(peer),
        }
    }
}

/// One logged-in client, and which message it must get next.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) user: u32,
    pub(crate) stream: mio::net::TcpStream,
    /// The beginning of a message whose rest has not come.
    pub(crate) partial: Vec<u8>,
    pub(crate) next_broadcast: u64,
    pub(crate) next_unicast: u64,
    pub(crate) stopped: bool,
}

/// Connects `users` and logs them in.
pub(crate) fn connect(
    door: Door,
    address: SocketAddr,
    secret: &str,
    users: Range<u32>,
) -> anyhow::Result<Vec<Client>> {
    let mut clients = Vec::with_capacity(users.len());
    let users: Vec<u32> = users.collect();
    for chunk in users.chunks(AT_A_TIME) {
        let mut streams = Vec::with_capacity(chunk.len());
        for &user in chunk {
            let stream = dial(address, user).with_context(|| format!("connect client {user}"))?;
            streams.push((user, stream));
        }
        for step in steps(door) {
            for (user, stream) in &mut streams {
                step.ask(*user, secret, address, stream).with_context(|| format!("log client {user} in"))?;
            }
            for (user, stream) in &mut streams {
                step.expect(door.codec(), stream).with_context(|| format!("log client {user} in"))?;
            }
        }
        for (user, stream) in streams {
            stream.set_nonblocking(true).context("make a socket non-blocking")?;
            let stream = mio::net::TcpStream::from_std(stream);
            let partial = Vec::new();
            clients.push(Client {
                user,
                stream,
                partial,
                next_broadcast: 0,
                next_unicast: 0,
                stopped: false,
            });
        }
    }
    Ok(clients)
}

fn dial(address: SocketAddr, user: u32) -> anyhow::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).context("make a socket")?;
    if cfg!(target_os = "linux") {
        let last = u8::try_from(2 + user / PER_SOURCE).context("more clients than source addresses")?;
        socket
            .bind(&SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0)).into())
            .context("choose an address")?;
    }
    socket.connect(&address.into()).with_context(|| format!("connect to {address}"))?;
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    // Closed by a reset: thousands of ports in TIME_WAIT would be in the way of the next population and its broker.
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// One question to the server and what must be answered.
#[derive(Debug, Clone, Copy)]
enum Step {
    Number,
    Upgrade,
    TcpLogin,
    WebSocketLogin,
    Subscribe(Peer),
}

fn steps(door: Door) -> Vec<Step> {
    match door {
        Door::Floor => vec![Step::Number],
        Door::Tcp => vec![Step::TcpLogin],
        Door::WebSocket => vec![Step::Upgrade, Step::WebSocketLogin],
        Door::Peer(peer) => vec![Step::Subscribe(peer)],
    }
}

impl Step {
    fn ask(self, user: u32, secret: &str, address: SocketAddr, stream: &mut TcpStream) -> anyhow::Result<()> {
        let auth = || {
            let token = token::valid(secret, i64::from(user))?;
            anyhow::Ok(format!("{{\"command\":\"auth\",\"token\":\"{token}\"}}"))
        };
        let question = match self {
            Self::Number => user.to_le_bytes().to_vec(),
            Self::Upgrade => format!(
                "GET / HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            )
            .into_bytes(),
            Self::TcpLogin => (auth()? + "\n").into_bytes(),
            Self::WebSocketLogin => masked(auth()?.as_bytes())?,
            Self::Subscribe(peer) => peer.subscribe(user),
        };
        stream.write_all(&question).context("write")
    }

    fn expect(self, codec: Codec, stream: &mut TcpStream) -> anyhow::Result<()> {
        let mut answer = Vec::new();
        let mut part = [0; 1024];
        loop {
            let count = stream.read(&mut part).context("wait for the answer")?;
            ensure!(count > 0, "the server closed: {}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&part[..count]);
            if let Self::Subscribe(peer) = self {
                if peer.subscribed(&answer)? {
                    return Ok(());
                }
                continue;
            }
            if let Self::Upgrade = self {
                if answer.ends_with(b"\r\n\r\n") {
                    ensure!(
                        answer.starts_with(b"HTTP/1.1 101"),
                        "refused: {}",
                        String::from_utf8_lossy(&answer)
                    );
                    return Ok(());
                }
                continue;
            }
            let mut rest = &answer[..];
            if let Some(message) = codec.take(&mut rest)? {
                let welcome = message.starts_with(br#"{"command":"welcome""#) && rest.is_empty();
                if !welcome {
                    bail!("not welcome: {}", String::from_utf8_lossy(&answer));
                }
                return Ok(());
            }
        }
    }
}

/// One masked text frame; the mask is zero, which leaves the payload as it is.
fn masked(payload: &[u8]) -> anyhow::Result<Vec<u8>> {
    let len = u16::try_from(payload.len()).context("a login of more than 65,535 bytes")?;
    ensure!(len > 125, "a login of {len} bytes");
    let mut frame = vec![0x81, 0x80 | 126];
    frame.extend_from_slice(&len.to_be_bytes());
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(payload);
    Ok(frame)
}
