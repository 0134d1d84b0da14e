//! Group R: brokers that go away and come back.

mod cluster;

use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::time::{Instant, sleep};

use super::ledger::Ledger;
use super::row::{Row, Sharing, Takes};
use super::scene::Scene;
use super::traffic::{Traffic, reconnects};
use super::watch::Census;
use crate::PATIENCE;
use crate::amqp_wire::{Connection, Outcome};
use crate::client::Transport;
use crate::late::Late;
use crate::lobby::Metrics;
use crate::stage::Going;

/// What a lobby may grow while its broker flaps: buffers of the backlog.
const FLAT: u64 = 8 << 20;

pub(super) const ROWS: &[Row] = &[
    Row {
        id: "R1",
        done: "broker stopped and started 20 times under 500 messages/s",
        required: "the backlog drains in order; nothing lost",
        sharing: Sharing::StopsBroker,
        takes: Takes { short: 60, long: 400 },
        run: |scene| Box::pin(restarted(scene, Going::Stopped)),
    },
    Row {
        id: "R2",
        done: "broker killed with SIGKILL 20 times under 500 messages/s",
        required: "duplicates allowed, losses not",
        sharing: Sharing::StopsBroker,
        takes: Takes { short: 60, long: 400 },
        run: |scene| Box::pin(restarted(scene, Going::Killed)),
    },
    Row {
        id: "R3",
        done: "broker away longer than the queue's x-expires",
        required: "queue made again; no client disconnected",
        sharing: Sharing::SideBySide,
        takes: Takes { short: 15, long: 60 },
        run: |scene| Box::pin(queue_expired(scene)),
    },
    Row {
        id: "R4",
        done: "lobby started before the broker",
        required: "serves clients, 503 on /ready, consumes within 5 s of the broker's readiness",
        sharing: Sharing::SideBySide,
        takes: Takes { short: 20, long: 90 },
        run: |scene| Box::pin(before_the_broker(scene)),
    },
    Row {
        id: "R5",
        done: "three-node cluster: a partition cuts the lobby's node off, which pauses; in the long form also serves on, hangs, is \
               killed, and the queue's node too",
        required: "fails over through the list of hosts; quorum option loses nothing; classic option says what it lost",
        sharing: Sharing::SideBySide,
        takes: Takes { short: 120, long: 240 },
        run: |scene| Box::pin(cluster::cluster(scene)),
    },
    Row {
        id: "R6",
        done: "broker flapping every 3 s for 10 min under 200 messages/s",
        required: "attempts bounded (at most two a second), memory flat; nothing lost",
        sharing: Sharing::SideBySide,
        takes: Takes { short: 45, long: 620 },
        run: |scene| Box::pin(flapping(scene)),
    },
];

/// Again and again, with publishers that go on as soon as they can. A broker that was killed may have forgotten acks and
/// that it delivered at all, so that duplicates may lack the flag.
async fn restarted(scene: &Scene, going: Going) -> anyhow::Result<()> {
    let (proxy, setup) = scene.proxied(true).await?;
    let mut lobby = scene.start(&setup).await?;
    let mut traffic = Traffic::start(scene, &lobby, 500).await?;
    for round in 0..scene.pick(2, 20) {
        traffic.flows(500).await?;
        let before = reconnects(&lobby.metrics().await?);
        scene.restart_broker(going).await.with_context(|| format!("round {round}"))?;
        let back = Instant::now();
        scene.timed(traffic.recovery(&lobby, before, back).await?);
        lobby.ready().await?;
    }
    let tally = traffic.finish(scene).await?;
    scene.fact(format!("{} confirmed, {} unknown to the publisher", tally.confirmed, tally.unknown));
    ensure!(tally.returned == 0, "{} messages found no queue: it did not survive", tally.returned);
    match going {
        Going::Stopped => scene.count(&tally, tally.unmarked(&proxy.marks()))?,
        Going::Killed => scene.count_after_kill(&tally, tally.unmarked(&proxy.marks()))?,
    }
    scene.leaves_nothing(lobby).await
}

/// For the lobby the broker is away; the broker sees a queue that nobody uses, and deletes it.
async fn queue_expired(scene: &Scene) -> anyhow::Result<()> {
    let (proxy, setup) = scene.proxied(true).await?;
    let expires = Duration::from_secs(scene.pick(1, 5));
    let setup = setup.set("LOBBY_QUEUE__EXPIRES", format!("{}s", expires.as_secs()));
    let mut lobby = scene.start(&setup).await?;
    let mut player = scene.client(&lobby, Transport::Tcp, Ledger::USER).await?;
    let mut notifier = scene.notifier().await?;
    let mut ledger = Ledger::default();
    for _ in 0..scene.pick(1, 3) {
        ledger.until_routed(&mut notifier).await?;
        ledger.until_arrived(&mut player).await?;
        proxy.cut();
        lobby.unready().await?;
        let start = Instant::now();
        loop {
            // Whoever asks for a queue may count as its user.
            sleep(expires + Duration::from_millis(500)).await;
            if Connection::open(scene.url()).await?.queue_state(&scene.queue()).await.is_err() {
                break;
            }
            ensure!(start.elapsed() < PATIENCE, Late("the queue never expired".to_owned()));
        }
        let outcome = ledger.publish(&mut notifier).await?;
        ensure!(outcome == Outcome::Returned, "without a queue a message was {outcome:?}");
        let back = Instant::now();
        proxy.open();
        ledger.until_routed(&mut notifier).await?;
        ledger.until_arrived(&mut player).await?;
        scene.recovered(back.elapsed(), Duration::from_secs(5))?;
        lobby.ready().await?;
    }
    let tally = ledger.tally(&mut notifier, &mut player).await?;
    scene.count(&tally, tally.unmarked(&proxy.marks()))?;
    drop(player);
    scene.leaves_nothing(lobby).await
}

/// The broker's address refuses connections until the lobby's waits have grown to their longest.
async fn before_the_broker(scene: &Scene) -> anyhow::Result<()> {
    for round in 0..scene.pick(1, 5) {
        let (proxy, setup) = scene.proxied(false).await?;
        let mut lobby = scene.start_unready(&setup).await?;
        scene.watch(&lobby).await?;
        let mut player = scene.client(&lobby, Transport::BOTH[round % 2], Ledger::USER).await?;
        lobby.unready().await?;
        let tries = |metrics: &Metrics| metrics.count("lobby_broker_failures_total", &[]) >= 6;
        lobby.metrics_until("six attempts", tries).await?;
        let answer = lobby.admin("/live").await?;
        ensure!(answer.status == 200, "/live said {} {}", answer.status, answer.body);
        let back = Instant::now();
        proxy.open();
        lobby.ready().await?;
        let mut notifier = scene.notifier().await?;
        let mut ledger = Ledger::default();
        ledger.until_routed(&mut notifier).await?;
        ledger.until_arrived(&mut player).await?;
        scene.recovered(back.elapsed(), Duration::from_secs(5))?;
        let tally = ledger.tally(&mut notifier, &mut player).await?;
        scene.count(&tally, tally.unmarked(&proxy.marks()))?;
        drop(player);
        // Before it had a broker it had fewer descriptors: what is left over shows in the other rows.
        scene.retire(lobby).await?;
    }
    Ok(())
}

/// Three seconds there, three seconds away, and the stream goes on.
async fn flapping(scene: &Scene) -> anyhow::Result<()> {
    const PHASE: Duration = Duration::from_secs(3);
    let (proxy, setup) = scene.proxied(true).await?;
    let lobby = scene.start(&setup).await?;
    let mut traffic = Traffic::start(scene, &lobby, 200).await?;
    let attempts =
        |metrics: &Metrics| metrics.count("lobby_broker_failures_total", &[]) + reconnects(metrics);
    let start = Instant::now();
    let rounds = scene.pick(5, 100);
    let mut early = None;
    for round in 0..rounds {
        let before = reconnects(&lobby.metrics().await?);
        proxy.cut();
        sleep(PHASE).await;
        proxy.open();
        let back = Instant::now();
        scene.timed(traffic.recovery(&lobby, before, back).await?);
        sleep(PHASE.saturating_sub(back.elapsed())).await;
        if round == rounds / 5 {
            // Warm by now.
            early = Some(Census::of(lobby.pid())?);
        }
    }
    let metrics = lobby.metrics().await?;
    let rate = attempts(&metrics) as f64 / start.elapsed().as_secs_f64();
    ensure!(rate <= 2.0, "{rate:.1} attempts a second:\n{metrics}");
    let (early, late) = (early.context("no round")?, Census::of(lobby.pid())?);
    let growth = late.resident.saturating_sub(early.resident);
    ensure!(growth <= FLAT, "memory grew by {} KiB", growth / 1024);
    scene.fact(format!(
        "{} attempts, {rate:.2} a second; memory after a fifth of the time {} KiB, at the end {} KiB",
        attempts(&metrics),
        early.resident / 1024,
        late.resident / 1024
    ));
    let tally = traffic.finish(scene).await?;
    scene.count(&tally, tally.unmarked(&proxy.marks()))?;
    scene.leaves_nothing(lobby).await
}
