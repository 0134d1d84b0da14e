//! Thousands of players, each of whom checks every byte that comes.

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use notify_protocol::NOTIFY_ROUTING_KEY;
use serde_json::{Value, json};
use tokio::task::spawn_blocking;
use tokio::time::Duration;

use crate::amqp_wire::{Message, Properties, Publisher};
use crate::bench::body::{Stamp, To};
use crate::bench::driver::{Driver, Losses, now};
use crate::bench::machine::Machine;
use crate::bench::population::{self, Door};
use crate::client::Transport;
use crate::faults::scene::Scene;
use crate::lobby::Lobby;
use crate::stage::SECRET;

/// How long nothing may come before what is missing counts as lost.
const PATIENCE: Duration = Duration::from_secs(60);

/// A lobby with players, the first half over TCP and the others over WebSocket.
pub(super) struct Crowd {
    lobby: Lobby,
    size: u32,
    drivers: [Driver; 2],
    publisher: Publisher,
    exchange: String,
    broadcasts: u64,
    unicasts: Vec<u64>,
    due: [u64; 2],
}

impl Crowd {
    /// Logs players in, `wanted` of them, or as many as descriptors allow.
    pub(super) async fn gather(scene: &Scene, wanted: u32) -> anyhow::Result<Self> {
        let size = wanted.min(Machine::prepared().most_clients());
        if size < wanted {
            scene.fact(format!("descriptors for {size} clients only, {wanted} are meant"));
        }
        let setup = scene
            .setup()
            // All come at once, and nobody answers pings.
            .set("LOBBY_LISTEN__MAX_ACCEPTS_PER_SECOND", "0")
            .set("LOBBY_SESSIONS__PING_INTERVAL", "1h")
            .set("LOBBY_LOG__LEVEL", "info,lobby_sessions=warn");
        let lobby = scene.start(&setup).await?;
        let half = size / 2;
        let mut drivers = Vec::new();
        for (door, transport, users) in [
            (Door::Tcp, Transport::Tcp, 1..half + 1),
            (Door::WebSocket, Transport::WebSocket, half + 1..size + 1),
        ] {
            let address = lobby.address(transport)?;
            let driver = Driver::start(door.codec(), Losses::Fail)?;
            let connected = spawn_blocking(move || population::connect(door, address, SECRET, users)).await;
            driver.adopt(connected.context("connect the players")??)?;
            drivers.push(driver);
        }
        let drivers = <[Driver; 2]>::try_from(drivers).ok().context("two transports")?;
        Ok(Self {
            lobby,
            size,
            drivers,
            publisher: Publisher::open(scene.url()).await?,
            exchange: scene.exchange().to_owned(),
            broadcasts: 0,
            unicasts: vec![0; size as usize + 1],
            due: [0; 2],
        })
    }

    pub(super) fn size(&self) -> u32 {
        self.size
    }

    /// Publishes the next message for `to`, of `len` bytes. Does not wait but when a thousand are unconfirmed.
    pub(super) async fn publish(&mut self, to: To, len: usize) -> anyhow::Result<()> {
        let half = self.size / 2;
        let (next, headers) = match to {
            To::Everyone => {
                self.due = [self.due[0] + u64::from(half), self.due[1] + u64::from(self.size - half)];
                (&mut self.broadcasts, Value::Null)
            }
            To::User(user) => {
                self.due[usize::from(user > half)] += 1;
                let next = self.unicasts.get_mut(user as usize).context("a message for nobody")?;
                (next, json!([["user-id", "l", user]]))
            }
        };
        let stamp = Stamp { to, seq: *next, at: now() };
        *next += 1;
        let message = Message {
            exchange: self.exchange.clone(),
            routing_key: NOTIFY_ROUTING_KEY.to_owned(),
            properties: Properties::encode(&headers, &json!({ "delivery_mode": 2 }))?,
            body: Bytes::from(stamp.encode_to(len)),
        };
        self.publisher.publish(stamp.seq, &message).await?;
        self.publisher.take_settled();
        self.drivers.iter().try_for_each(Driver::check)
    }

    /// Waits until every player has all that is for him.
    ///
    /// # Errors
    /// A message was lost, repeated, out of order, changed or for somebody else, or a connection ended.
    pub(super) async fn all_received(&mut self) -> anyhow::Result<()> {
        self.publisher.settle().await?;
        for (driver, due) in self.drivers.iter().zip(self.due) {
            driver.wait_for(due, PATIENCE).await?;
        }
        Ok(())
    }

    /// The times from publish to receipt since the last call, for people.
    pub(super) fn latency(&self) -> anyhow::Result<String> {
        let mut texts = Vec::new();
        for (driver, transport) in self.drivers.iter().zip(Transport::BOTH) {
            let times = driver.take_latency()?;
            let millis = |per_mille| times.quantile(per_mille) as f64 / 1e6;
            texts.push(format!("{transport} p50 {:.1} ms, p99 {:.1} ms", millis(500), millis(990)));
        }
        Ok(texts.join("; "))
    }

    /// Everyone leaves, and the lobby is stopped.
    pub(super) async fn leave(self, scene: &Scene) -> anyhow::Result<()> {
        let received: u64 = self.drivers.iter().map(Driver::received).sum();
        ensure!(
            received == self.due.iter().sum::<u64>(),
            "{received} were received, {:?} were due",
            self.due
        );
        scene.arrived(received)?;
        let closes = self.lobby.metrics().await?.count("lobby_closes_total", &[("code", "4000")]);
        ensure!(closes == 0, "{closes} clients were closed as too slow");
        drop(self.drivers);
        scene.leaves_nothing(self.lobby).await
    }
}
