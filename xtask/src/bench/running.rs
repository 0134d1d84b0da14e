//! A subject that serves, with its clients and a way to publish to them.

use std::{net::SocketAddr, ops::Range, path::PathBuf};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use notify_protocol::{DEFAULT_EXCHANGE, NOTIFY_ROUTING_KEY};
use tokio::{io::AsyncWriteExt as _, net::TcpStream, task::spawn_blocking};

use super::{
    body::{Stamp, To},
    driver::{Driver, Losses, now},
    floor::{self, Floor, Writes},
    peer::{Peer, PeerProcess},
    population::{self, Door},
    subject::Subject,
};
use crate::{
    amqp_wire::{AmqpUrl, Message, Properties, Publisher},
    client::Transport,
    lobby::{Lobby, LogBook, Setup},
};

const SECRET: &str = "only-the-benchmark-uses-this-secret";

/// Where subjects come from: the programs, the broker's address and a directory to run in.
#[derive(Debug)]
pub(super) struct Workshop {
    pub(super) lobby: PathBuf,
    /// The programs of the peers that take part.
    pub(super) peers: Vec<(Peer, PathBuf)>,
    /// The example that measures the AMQP library alone.
    pub(super) amqp_example: Option<PathBuf>,
    pub(super) amqp_url: String,
    pub(super) directory: tempfile::TempDir,
}

/// A subject that serves.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) subject: Subject,
    pub(super) driver: Driver,
    server: Server,
    source: Source,
    door: Door,
    address: SocketAddr,
    broadcasts: u64,
    unicasts: Vec<u64>,
}

#[derive(Debug)]
enum Server {
    Floor { _process: Floor, pid: u32 },
    Lobby(Lobby),
    Peer(PeerProcess),
}

#[derive(Debug)]
enum Source {
    Floor(TcpStream),
    Peer { peer: Peer, stream: TcpStream },
    Broker { publisher: Publisher, everyone: Message, users: Vec<Message> },
}

/// What the lobby itself counted so far.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Written {
    pub(super) system_calls: u64,
    pub(super) messages: u64,
}

impl Running {
    /// Starts `subject` with `clients` logged in.
    pub(super) async fn start(subject: Subject, workshop: &Workshop, clients: u32) -> anyhow::Result<Self> {
        let (door, (server, source, address)) = match subject {
            Subject::FloorWrite => (Door::Floor, start_floor(Writes::Each, clients).await?),
            Subject::FloorWritev => (Door::Floor, start_floor(Writes::Coalesced, clients).await?),
            Subject::FloorUring => (Door::Floor, start_floor(Writes::Ring, clients).await?),
            Subject::LobbyTcp => (Door::Tcp, start_lobby(Transport::Tcp, workshop).await?),
            Subject::LobbyWebSocket => (Door::WebSocket, start_lobby(Transport::WebSocket, workshop).await?),
            Subject::Peer(peer) => (Door::Peer(peer), start_peer(peer, workshop).await?),
            Subject::Library => bail!("the library alone has no clients"),
        };
        // Who sheds load by design is not wrong; the lobby promised not to.
        let losses = if matches!(subject, Subject::Peer(_)) { Losses::Count } else { Losses::Fail };
        let driver = Driver::start(door.codec(), losses)?;
        let mut running =
            Self { subject, driver, server, source, door, address, broadcasts: 0, unicasts: Vec::new() };
        running.connect(1..clients + 1).await?;
        Ok(running)
    }

    /// Connects more clients.
    pub(super) async fn connect(&mut self, users: Range<u32>) -> anyhow::Result<()> {
        self.unicasts.resize(self.unicasts.len().max(users.end as usize), 0);
        if let Source::Broker { users: messages, .. } = &mut self.source {
            for user in messages.len()..users.end as usize {
                messages.push(message(Some(i64::try_from(user)?))?);
            }
        }
        self.driver.adopt(self.strangers(users).await?)
    }

    /// Clients that nobody reads yet.
    pub(super) async fn strangers(&self, users: Range<u32>) -> anyhow::Result<Vec<population::Client>> {
        let (door, address) = (self.door, self.address);
        let connected = spawn_blocking(move || population::connect(door, address, SECRET, users)).await;
        connected.context("connect the clients")?
    }

    pub(super) fn pid(&self) -> u32 {
        match &self.server {
            Server::Floor { pid, .. } => *pid,
            Server::Lobby(lobby) => lobby.pid(),
            Server::Peer(process) => process.pid,
        }
    }

    pub(super) fn is_peer(&self) -> bool {
        matches!(self.server, Server::Peer(_))
    }

    pub(super) fn lobby(&self) -> Option<&Lobby> {
        match &self.server {
            Server::Floor { .. } | Server::Peer(_) => None,
            Server::Lobby(lobby) => Some(lobby),
        }
    }

    /// What the lobby counted; nothing of others.
    pub(super) async fn written(&self) -> anyhow::Result<Written> {
        let Some(lobby) = self.lobby() else { return Ok(Written::default()) };
        let metrics = lobby.metrics().await?;
        let count = |name| metrics.count(name, &[]);
        Ok(Written {
            system_calls: count("lobby_socket_writes_total"),
            messages: count("lobby_messages_written_total"),
        })
    }

    /// Publishes the next message for `to`. Does not wait for the broker but when a thousand are unconfirmed.
    pub(super) async fn publish(&mut self, to: To) -> anyhow::Result<()> {
        let next = match to {
            To::Everyone => &mut self.broadcasts,
            To::User(user) => self.unicasts.get_mut(user as usize).context("a message for nobody")?,
        };
        let stamp = Stamp { to, seq: *next, at: now() };
        *next += 1;
        let addressee = if let To::User(user) = to { user } else { 0 };
        match &mut self.source {
            Source::Floor(intake) => intake
                .write_all(&floor::record(addressee, &stamp.encode()))
                .await
                .context("write to the floor"),
            Source::Peer { peer, stream } => {
                stream.write_all(&peer.publish(to, &stamp.encode())).await.context("write to the peer")
            }
            Source::Broker { publisher, everyone, users } => {
                let message = if addressee == 0 { everyone } else { &mut users[addressee as usize] };
                message.body = Bytes::copy_from_slice(&stamp.encode());
                publisher.publish(stamp.seq, message).await
            }
        }
    }

    /// Waits until the broker has all that was published.
    pub(super) async fn settle(&mut self) -> anyhow::Result<()> {
        if let Source::Broker { publisher, .. } = &mut self.source {
            publisher.settle().await.context("confirms")?;
            publisher.take_settled();
        }
        Ok(())
    }
}

async fn start_floor(writes: Writes, clients: u32) -> anyhow::Result<(Server, Source, SocketAddr)> {
    let (process, intake) = Floor::start(writes, clients).await?;
    let (pid, address) = (process.pid, process.address);
    Ok((Server::Floor { _process: process, pid }, Source::Floor(intake), address))
}

async fn start_peer(peer: Peer, workshop: &Workshop) -> anyhow::Result<(Server, Source, SocketAddr)> {
    let program = workshop.peers.iter().find(|(found, _)| *found == peer);
    let (_, program) = program.with_context(|| format!("{} was not found", peer.package()))?;
    let process = PeerProcess::start(peer, program).await?;
    let address = process.address;
    let mut stream = TcpStream::connect(address).await.context("connect the publisher")?;
    stream.set_nodelay(true)?;
    stream.write_all(&peer.introduction()).await.context("introduce the publisher")?;
    Ok((Server::Peer(process), Source::Peer { peer, stream }, address))
}

async fn start_lobby(
    transport: Transport,
    workshop: &Workshop,
) -> anyhow::Result<(Server, Source, SocketAddr)> {
    let mut setup = Setup::new(workshop.lobby.clone(), workshop.directory.path().to_owned());
    for (key, value) in settings() {
        setup = setup.set(key, value);
    }
    setup = setup.set("LOBBY_BROKER__URL", &workshop.amqp_url);
    let mut lobby = setup.start(LogBook::default()).await.context("start the lobby")?;
    lobby.ready().await?;
    let address = lobby.address(transport)?;
    let publisher = Publisher::open(&AmqpUrl::parse(&workshop.amqp_url)?).await?;
    let source = Source::Broker { publisher, everyone: message(None)?, users: Vec::new() };
    Ok((Server::Lobby(lobby), source, address))
}

/// What the lobby is told beyond its defaults, for the report too.
pub(super) fn settings() -> [(&'static str, &'static str); 10] {
    [
        ("LOBBY_INSTANCE__NAME", "bench"),
        ("LOBBY_LISTEN__TCP", "127.0.0.1:0"),
        ("LOBBY_LISTEN__WEBSOCKET", "127.0.0.1:0"),
        ("LOBBY_LISTEN__ADMIN", "127.0.0.1:0"),
        // Thousands log in from one machine, as fast as it goes.
        ("LOBBY_LISTEN__MAX_ACCEPTS_PER_SECOND", "0"),
        ("LOBBY_AUTH__SECRET", SECRET),
        ("LOBBY_SESSIONS__PING_INTERVAL", "1h"),
        // What `slow` expects; small enough that a client which stops reading is closed within the run.
        ("LOBBY_SESSIONS__OUTBOX_BYTES", "1MiB"),
        ("LOBBY_LOG__FORMAT", "json"),
        ("LOBBY_LOG__LEVEL", "info,lobby_sessions=warn"),
    ]
}

/// A message to fill in; transient, as a notification that is worth nothing after a restart.
fn message(user: Option<i64>) -> anyhow::Result<Message> {
    let headers = user.map_or(serde_json::Value::Null, |user| serde_json::json!([["user-id", "l", user]]));
    Ok(Message {
        exchange: DEFAULT_EXCHANGE.to_owned(),
        routing_key: NOTIFY_ROUTING_KEY.to_owned(),
        properties: Properties::encode(&headers, &serde_json::json!({"delivery_mode": 1}))?,
        body: Bytes::new(),
    })
}
