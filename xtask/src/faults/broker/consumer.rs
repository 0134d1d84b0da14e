//! Rows about the consumer on a healthy connection: closed with its channel, gone with its queue, or cut off.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use crate::amqp_wire::Connection;
use crate::client::Transport;
use crate::faults::ledger::Ledger;
use crate::faults::scene::Scene;
use crate::faults::traffic::{Traffic, reconnects};
use crate::stage::proxy::Swallow;
use crate::stage::tally::Marks;

/// What is routed after the deletion must arrive; what finds no queue is returned to its publisher.
pub(super) async fn queue_deleted(scene: &Scene) -> anyhow::Result<()> {
    let lobby = scene.lobby().await?;
    let mut player = scene.client(&lobby, Transport::Tcp, Ledger::USER).await?;
    let mut notifier = scene.notifier().await?;
    let mut ledger = Ledger::default();
    let operator = Connection::open(scene.url()).await?;
    for _ in 0..scene.pick(5, 50) {
        let start = Instant::now();
        operator.delete_queue(&scene.queue()).await?;
        ledger.until_routed(&mut notifier).await?;
        ledger.until_arrived(&mut player).await?;
        scene.timed(start.elapsed());
    }
    scene.recovered_median(Duration::from_millis(500))?;
    let tally = ledger.tally(&mut notifier, &mut player).await?;
    scene.count(&tally, tally.unmarked(&Marks::new()))?;
    scene.fact(format!("{} returned to the publisher meanwhile", tally.returned));
    drop(player);
    scene.leaves_nothing(lobby).await
}

/// The whole lobby is held until the broker has lost patience with what it has not acked: the channel is closed with
/// 406, and there is one consumer again, and no more.
pub(super) async fn timed_out(scene: &Scene) -> anyhow::Result<()> {
    let (proxy, setup) = scene.proxied(true).await?;
    // Heartbeats are not what this is about, and neither is a canary that is late.
    let setup = setup.set("LOBBY_BROKER__HEARTBEAT", "60s").set("LOBBY_SELF_CHECK__INTERVAL", "off");
    let lobby = scene.start(&setup).await?;
    let mut traffic = Traffic::start(scene, &lobby, 500).await?;
    for _ in 0..scene.pick(1, 3) {
        traffic.flows(500).await?;
        let before = reconnects(&lobby.metrics().await?);
        let start = Instant::now();
        lobby.signal(Signal::STOP)?;
        let closed = scene.queue_with_consumers(&scene.queue(), 0).await;
        let held = Duration::from_secs(scene.pick(0, 25)).saturating_sub(start.elapsed());
        sleep(held).await;
        lobby.signal(Signal::CONT)?;
        closed.context("the broker's patience")?;
        scene.timed(traffic.recovery(&lobby, before, Instant::now()).await?);
        scene.queue_with_consumers(&scene.queue(), 1).await?;
    }
    let told = lobby.log().records().iter().any(|record| {
        record
            .field("error")
            .is_some_and(|error| error.contains("406") || error.contains("PRECONDITION_FAILED"))
    });
    ensure!(told, "the log does not tell of 406");
    let tally = traffic.finish(scene).await?;
    scene.count(&tally, tally.unmarked(&proxy.marks()))?;
    scene.leaves_nothing(lobby).await
}

/// Both kinds of removal, one after the other; the self-check's own figures tell that it was the one that repaired.
pub(super) async fn behind_our_back(scene: &Scene) -> anyhow::Result<()> {
    const LIMIT: Duration = Duration::from_secs(15);
    let (proxy, setup) = scene.proxied(true).await?;
    let lobby = scene.start(&setup).await?;
    let mut player = scene.client(&lobby, Transport::WebSocket, Ledger::USER).await?;
    let mut notifier = scene.notifier().await?;
    let mut ledger = Ledger::default();
    let operator = Connection::open(scene.url()).await?;
    for _ in 0..scene.pick(1, 5) {
        let start = Instant::now();
        operator.unbind(&scene.queue(), scene.exchange(), notify_protocol::NOTIFY_ROUTING_KEY).await?;
        ledger.until_routed(&mut notifier).await?;
        ledger.until_arrived(&mut player).await?;
        scene.recovered(start.elapsed(), LIMIT)?;
    }
    // The broker's word of the lost consumer does not reach the lobby.
    proxy.swallow(Swallow::Cancels);
    let removals = scene.pick(1, 3);
    for _ in 0..removals {
        let start = Instant::now();
        operator.delete_queue(&scene.queue()).await?;
        ledger.until_routed(&mut notifier).await?;
        ledger.until_arrived(&mut player).await?;
        scene.recovered(start.elapsed(), LIMIT)?;
    }
    let repairs = lobby.metrics().await?.count("lobby_self_check_repairs_total", &[("what", "queue")]);
    ensure!(
        repairs >= removals,
        "{repairs} repairs of the queue are counted, {removals} times it was removed"
    );
    let tally = ledger.tally(&mut notifier, &mut player).await?;
    scene.count(&tally, tally.unmarked(&proxy.marks()))?;
    scene.fact(format!("{} returned to the publisher meanwhile", tally.returned));
    drop(player);
    scene.leaves_nothing(lobby).await
}
