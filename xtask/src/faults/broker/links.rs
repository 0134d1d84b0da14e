//! Rows about the way to the broker: links that break in the middle of a message, go silent, or stand half-open.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::time::Instant;

use crate::client::Transport;
use crate::faults::ledger::Ledger;
use crate::faults::scene::Scene;
use crate::faults::traffic::{Traffic, reconnects};
use crate::late::Late;
use crate::stage::proxy::Way;

/// Offsets of the short form are so far apart: no divisor of a frame's parts, so that all parts are met.
const SHORT_STEP: u64 = 23;

/// The link is reset after the first byte of a delivery, then after the second, and so on to its end. The client gets
/// every number and nothing else; so it does when each byte travels by itself.
pub(super) async fn reset_at_every_byte(scene: &Scene) -> anyhow::Result<()> {
    let (proxy, setup) = scene.proxied(true).await?;
    // A canary is a delivery too.
    let lobby = scene.start(&setup.set("LOBBY_SELF_CHECK__INTERVAL", "off")).await?;
    let mut player = scene.client(&lobby, Transport::Tcp, Ledger::USER).await?;
    let mut notifier = scene.notifier().await?;
    let mut ledger = Ledger::default();
    let mut offset = 0;
    loop {
        let before = reconnects(&lobby.metrics().await?);
        proxy.reset_in_delivery(offset);
        let fault = Instant::now();
        ledger.until_routed(&mut notifier).await?;
        ledger.until_arrived(&mut player).await.with_context(|| format!("reset after byte {offset}"))?;
        if !proxy.has_reset() {
            break;
        }
        scene.timed(fault.elapsed());
        let again = reconnects(&lobby.metrics().await?);
        ensure!(again == before + 1, "{} reconnects after one reset at byte {offset}", again - before);
        offset += scene.pick(SHORT_STEP, 1);
    }
    // The other way round: all of every delivery, byte by byte and late.
    proxy.split(true);
    proxy.delay(Way::Back, Duration::from_millis(20));
    for _ in 0..scene.pick(20, 200) {
        ledger.until_routed(&mut notifier).await?;
        ledger.until_arrived(&mut player).await?;
    }
    // One more would have been a reset behind the delivery's last byte.
    ensure!(offset > 100, "a delivery of at most {offset} bytes?");
    scene.fact(format!("a delivery has less than {offset} bytes on the wire"));
    let tally = ledger.tally(&mut notifier, &mut player).await?;
    scene.count(&tally, tally.unmarked(&proxy.marks()))?;
    drop(player);
    scene.leaves_nothing(lobby).await
}

/// Each direction in turn, then both. While it lasts the lobby says that it is not ready, and its clients stay.
pub(super) async fn black_hole(scene: &Scene) -> anyhow::Result<()> {
    let heartbeat = Duration::from_secs(scene.pick(1, 5));
    let (proxy, setup) = scene.proxied(true).await?;
    let setup = setup.set("LOBBY_BROKER__HEARTBEAT", format!("{}s", heartbeat.as_secs()));
    let mut lobby = scene.start(&setup).await?;
    let mut traffic = Traffic::start(scene, &lobby, 200).await?;
    for ways in [&[Way::Out][..], &[Way::Back], &Way::BOTH] {
        traffic.flows(100).await?;
        let before = reconnects(&lobby.metrics().await?);
        ways.iter().for_each(|way| proxy.silence(*way, true));
        let start = Instant::now();
        let said = lobby.unready().await?;
        let noticed = start.elapsed();
        scene.fact(format!("{ways:?}: 503 after {:.1} s: {}", noticed.as_secs_f64(), said.trim()));
        // Twice the heartbeat, when the last one has just come; a broker that hears nothing takes one longer.
        let limit = (heartbeat * 3 + Duration::from_secs(1)) * scene.pick(2, 1);
        ensure!(noticed <= limit, Late(format!("{ways:?}: noticed after {noticed:?}, limit {limit:?}")));
        ways.iter().for_each(|way| proxy.silence(*way, false));
        scene.timed(traffic.recovery(&lobby, before, Instant::now()).await?);
        lobby.ready().await?;
    }
    let tally = traffic.finish(scene).await?;
    scene.count(&tally, tally.unmarked(&proxy.marks()))?;
    scene.leaves_nothing(lobby).await
}

/// The lobby loses its link, the broker does not notice: it goes on delivering to the old consumer, which has the
/// queue for itself. The lobby takes it over when the broker has missed its heartbeats, and what was delivered to
/// nobody comes again.
pub(super) async fn half_open(scene: &Scene) -> anyhow::Result<()> {
    let heartbeat = Duration::from_secs(scene.pick(1, 5));
    let (proxy, setup) = scene.proxied(true).await?;
    let setup = setup.set("LOBBY_BROKER__HEARTBEAT", format!("{}s", heartbeat.as_secs()));
    let lobby = scene.start(&setup).await?;
    let mut traffic = Traffic::start(scene, &lobby, 1000).await?;
    let rounds = scene.pick(1, 5);
    let mut late = 0;
    for _ in 0..rounds {
        traffic.flows(500).await?;
        let before = reconnects(&lobby.metrics().await?);
        let marked: u64 = proxy.marks().values().sum();
        let fault = Instant::now();
        proxy.orphan();
        // The broker's patience, and the longest wait before the next attempt.
        scene.recovered(
            traffic.recovery(&lobby, before, fault).await?,
            heartbeat * 4 + Duration::from_secs(5),
        )?;
        late += proxy.marks().values().sum::<u64>() - marked;
    }
    let tally = traffic.finish(scene).await?;
    scene.count(&tally, tally.unmarked(&proxy.marks()))?;
    ensure!(late > 0, "nothing was in flight when the links broke");
    scene.fact(format!("{late} came late, marked redelivered, over {rounds} half-open links"));
    scene.leaves_nothing(lobby).await
}
