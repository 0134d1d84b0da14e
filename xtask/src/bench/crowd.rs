//! A population of readers for other commands: thousands of clients that check every broadcast and time it.

use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use notify_protocol::NOTIFY_ROUTING_KEY;
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};

use super::body::{Stamp, To};
use super::driver::{Driver, Losses, now};
use super::population::{self, Door};
use crate::amqp_wire::{AmqpUrl, Message, Properties, Publisher};
use crate::client::Transport;

/// Where a crowd goes, and where what it reads is published.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) transport: Transport,
    pub(crate) address: SocketAddr,
    /// Signs the logins.
    pub(crate) secret: &'static str,
    pub(crate) broker: AmqpUrl,
    pub(crate) exchange: String,
}

/// How long broadcasts took from their publication to a client.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Latency {
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
}

/// Clients that are logged in and read. Nothing but this crowd's own broadcasts may reach them, not even a ping.
#[derive(Debug)]
pub(crate) struct Crowd {
    driver: Driver,
    publisher: Publisher,
    message: Message,
    readers: u64,
    sent: u64,
}

impl Crowd {
    /// Logs `users` in.
    pub(crate) async fn gather(place: &Place, users: Range<u32>) -> anyhow::Result<Self> {
        let readers = users.len() as u64;
        let door = match place.transport {
            Transport::Tcp => Door::Tcp,
            Transport::WebSocket => Door::WebSocket,
        };
        let driver = Driver::start(door.codec(), Losses::Fail)?;
        let (address, secret) = (place.address, place.secret);
        let clients = spawn_blocking(move || population::connect(door, address, secret, users)).await;
        driver.adopt(clients.context("connect the crowd")??)?;
        let message = Message {
            exchange: place.exchange.clone(),
            routing_key: NOTIFY_ROUTING_KEY.to_owned(),
            properties: Properties::to_user(None)?,
            body: Bytes::new(),
        };
        let publisher = Publisher::open(&place.broker).await?;
        Ok(Self { driver, publisher, message, readers, sent: 0 })
    }

    /// Broadcasts so many times, one each `pace`, and waits until everyone has them all.
    ///
    /// # Errors
    /// A client lost one, got it twice, out of order or changed, or was disconnected.
    pub(crate) async fn broadcasts(&mut self, times: u64, pace: Duration) -> anyhow::Result<Latency> {
        /// Nothing came for so long: the rest is lost.
        const PATIENCE: Duration = Duration::from_secs(30);
        self.driver.take_latency()?;
        let mut ticks = interval(pace);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for _ in 0..times {
            ticks.tick().await;
            let stamp = Stamp { to: To::Everyone, seq: self.sent, at: now() };
            self.message.body = Bytes::copy_from_slice(&stamp.encode());
            self.publisher.publish(stamp.seq, &self.message).await?;
            self.sent += 1;
            self.driver.check()?;
        }
        self.publisher.settle().await.context("confirms")?;
        self.publisher.take_settled();
        self.driver.wait_for(self.received(), PATIENCE).await?;
        let latency = self.driver.take_latency()?;
        let millis = |per_mille| latency.quantile(per_mille) as f64 / 1e6;
        Ok(Latency { p50_ms: millis(500), p99_ms: millis(990) })
    }

    /// Broadcasts that have reached a client so far, over all clients.
    pub(crate) fn received(&self) -> u64 {
        self.sent * self.readers
    }
}
