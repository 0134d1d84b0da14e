//! A stream of numbered notifications through one fault or many, with players that read it.

use std::time::Duration;

use tokio::time::Instant;

use super::scene::Scene;
use crate::lobby::{Lobby, Metrics};
use crate::stage::flood::{Counter, Flood, Source};
use crate::stage::tally::Tally;

/// Batches in a second, see [`Source::at`].
const BATCHES: u64 = 50;

/// A publisher and its players. A fifth of the numbers goes to everyone, one in fifty to nobody.
#[derive(Debug)]
pub(super) struct Traffic {
    flood: Flood,
    source: Source,
}

impl Traffic {
    /// Logs eight players in and publishes about `per_second` numbers a second, straight to the broker.
    pub(super) async fn start(scene: &Scene, lobby: &Lobby, per_second: u64) -> anyhow::Result<Self> {
        let flood = Flood::start(scene, lobby).await?;
        let batch = (per_second / BATCHES).max(1);
        let source = Source::at(scene.url().clone(), scene.exchange().to_owned(), 1, batch);
        let mut traffic = Self { flood, source };
        traffic.flows(batch).await?;
        Ok(traffic)
    }

    /// Waits until `more` numbers are confirmed, and one that was published after them has arrived.
    pub(super) async fn flows(&mut self, more: u64) -> anyhow::Result<()> {
        self.source.reached(self.source.confirmed() + more).await?;
        self.arrives().await
    }

    /// Waits until a number that is published from now on has reached a player.
    pub(super) async fn arrives(&mut self) -> anyhow::Result<()> {
        self.flood.reaches(self.source.next()).await
    }

    /// Waits until the lobby has connected again after `before` times and a number published since then has arrived:
    /// how long that is after `fault`.
    pub(super) async fn recovery(
        &mut self,
        lobby: &Lobby,
        before: u64,
        fault: Instant,
    ) -> anyhow::Result<Duration> {
        lobby.metrics_until("a reconnect", |metrics| reconnects(metrics) > before).await?;
        self.arrives().await?;
        Ok(fault.elapsed())
    }

    /// Waits until `more` numbers are confirmed; the last that was published.
    pub(super) async fn publishes(&mut self, more: u64) -> anyhow::Result<u64> {
        self.source.reached(self.source.confirmed() + more).await?;
        Ok(self.source.next().saturating_sub(1))
    }

    /// Waits until this number or a later one has reached a player.
    pub(super) async fn reaches(&mut self, number: u64) -> anyhow::Result<()> {
        self.flood.reaches(number).await
    }

    /// Publishes nothing until [`Self::resume`], and waits until all that was published has arrived.
    pub(super) async fn pause(&mut self) -> anyhow::Result<()> {
        self.source.pause().await?;
        match self.source.last_for_a_player() {
            Some(number) => self.flood.reaches(number).await,
            None => Ok(()),
        }
    }

    /// Goes on after [`Self::pause`].
    pub(super) fn resume(&self) {
        self.source.resume();
    }

    /// Tells how many numbers were confirmed, for as long as the stream runs.
    pub(super) fn counter(&self) -> Counter {
        self.source.counter()
    }

    /// Numbers that the broker confirmed so far.
    pub(super) fn confirmed(&self) -> u64 {
        self.source.confirmed()
    }

    /// Ends the stream and compares what every player got with what the publisher knows.
    pub(super) async fn finish(self, scene: &Scene) -> anyhow::Result<Tally> {
        let outcomes = self.source.finish().await?;
        self.flood.tally(&mut scene.notifier().await?, &outcomes).await
    }
}

/// How often the lobby has connected again.
pub(super) fn reconnects(metrics: &Metrics) -> u64 {
    metrics.count("lobby_broker_reconnects_total", &[])
}
