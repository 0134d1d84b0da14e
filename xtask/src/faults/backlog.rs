//! Messages that wait in a lobby's queue before it comes, for rows about what consuming them costs.

use anyhow::{Context as _, ensure};
use tokio::time::{Duration, Instant};

use super::scene::Scene;
use crate::amqp_wire::{Message, Outcome, Publisher};
use crate::client::{Client, Line, Transport};
use crate::lobby::{Lobby, Setup};
use crate::stage::Stage;
use crate::stage::proxy::Proxy;

/// A million messages take a while on a slow machine.
const CONSUMING: Duration = Duration::from_secs(600);

/// A lobby that has consumed all that waited for it.
#[derive(Debug)]
pub(super) struct Consumed {
    pub(super) lobby: Lobby,
    pub(super) player: Client,
    /// What the player got of it.
    pub(super) lines: Vec<Line>,
    /// From the first moment that the lobby could hear the broker to the last message at the player.
    pub(super) took: Duration,
    _proxy: Proxy,
}

impl Consumed {
    /// Stops the lobby, which leaves nothing in its queue. Before it had a broker it had fewer descriptors: what is left
    /// over shows in other rows.
    pub(super) async fn end(self, scene: &Scene) -> anyhow::Result<()> {
        drop(self.player);
        Stage::leaves_nothing(scene, self.lobby).await
    }
}

/// Starts the lobby with `count` messages in its queue, and waits until it has consumed them. The player, who is `user`,
/// is there before the first of them.
pub(super) async fn consumed(
    scene: &Scene,
    configured: impl Fn(Setup) -> Setup,
    user: i64,
    count: u64,
    mut message: impl FnMut(u64) -> anyhow::Result<Message>,
) -> anyhow::Result<Consumed> {
    // Makes the queue, which outlives it.
    scene.stop(scene.start(&configured(scene.setup())).await?).await?;
    let mut publisher = Publisher::open(scene.url()).await?;
    for number in 0..count {
        publisher.publish(number, &message(number)?).await?;
    }
    publisher.settle().await?;
    let settled = publisher.take_settled();
    let refused = settled.iter().find(|(_, outcome)| *outcome != Outcome::Confirmed);
    ensure!(refused.is_none(), "the broker did not take number {refused:?}");
    publisher.close().await?;
    let sentinel = scene.notifier().await?.sentinel().await?;

    let (proxy, setup) = scene.proxied(false).await?;
    let mut lobby = scene.start_unready(&configured(setup)).await?;
    scene.watch(&lobby).await?;
    let mut player = scene.client(&lobby, Transport::Tcp, user).await?;
    player.patient(CONSUMING);
    let start = Instant::now();
    proxy.open();
    let lines = player.expect_until(&sentinel).await.context("consume what waits")?;
    let took = start.elapsed();
    lobby.ready().await?;
    Ok(Consumed { lobby, player, lines, took, _proxy: proxy })
}
