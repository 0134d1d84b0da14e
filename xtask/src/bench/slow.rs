//! One client in a hundred stops reading: what the others notice, what it costs in memory, and how it ends.
//!
//! Four stages on one lobby: everyone reads; some stop and their sockets fill up until the lobby must keep their
//! messages; the same pace again; then so much that the stopped clients' outboxes overflow and the lobby closes them.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};

use super::{
    delivery::{Audience, Load},
    process::Usage,
    running::{Running, Workshop},
    subject::Subject,
};

/// Broadcasts in one burst. The readers catch up after each, so that only who stopped falls behind.
const BURST: u64 = 500;
/// Bursts until the stopped sockets and outboxes must be full; what the kernel buffers is several MiB each.
const MAX_BURSTS: u64 = 200;
/// What must wait in outboxes before some count as not reading. Frames that many wait for may be counted once.
const MUST_WAIT_BYTES: u64 = 64 << 10;

/// Runs all stages; `messages` broadcasts in each paced one.
pub(super) async fn measure(
    subject: Subject,
    workshop: &Workshop,
    clients: u32,
    paced: Load,
) -> anyhow::Result<BTreeMap<&'static str, f64>> {
    let mut running = Running::start(subject, workshop, clients).await?;
    let everyone = Load { audience: Audience::Everyone { readers: clients }, ..paced };
    Load { messages: BURST, pace: None, ..everyone }.deliver(&mut running).await.context("warm up")?;
    let undisturbed = everyone.measure(&mut running).await.context("everyone reads")?;
    let before = Usage::of(running.pid())?.resident_bytes;

    let stopped = clients / 100;
    running.driver.stop_reading((1..=stopped).collect())?;
    let others = Load { audience: Audience::Everyone { readers: clients - stopped }, ..paced };
    let burst = Load { messages: BURST, pace: None, ..others };
    let mut bursts = 0;
    while queued(&running).await? < MUST_WAIT_BYTES {
        ensure!(bursts < MAX_BURSTS, "the stopped clients' sockets took {} messages", bursts * BURST);
        burst.deliver(&mut running).await.context("fill the stopped clients' sockets")?;
        bursts += 1;
    }
    let disturbed = others.measure(&mut running).await.context("some do not read")?;
    let (queued_then, resident_then) = (queued(&running).await?, Usage::of(running.pid())?.resident_bytes);
    ensure!(closed(&running).await? == 0, "stopped clients were closed before their outboxes were full");

    let mut resident_most = resident_then;
    while closed(&running).await? < u64::from(stopped) {
        ensure!(
            bursts < MAX_BURSTS,
            "after {} messages the lobby still kept clients that do not read",
            bursts * BURST
        );
        burst.deliver(&mut running).await.context("overflow the stopped clients' outboxes")?;
        resident_most = resident_most.max(Usage::of(running.pid())?.resident_bytes);
        bursts += 1;
    }
    let ended = closed(&running).await?;
    ensure!(ended == u64::from(stopped), "{ended} clients were closed as too slow, {stopped} had stopped");
    let limit = outbox_limit() as f64 * f64::from(stopped);
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    Ok(BTreeMap::from([
        ("stopped", f64::from(stopped)),
        ("p50_ms_all_read", undisturbed["p50_ms"]),
        ("p50_ms", disturbed["p50_ms"]),
        ("p99_ms_all_read", undisturbed["p99_ms"]),
        ("p99_ms", disturbed["p99_ms"]),
        ("p99_ratio", disturbed["p99_ms"] / undisturbed["p99_ms"]),
        ("cpu_us_all_read", undisturbed["cpu_us"]),
        ("cpu_us", disturbed["cpu_us"]),
        ("outboxes_mib", mib(queued_then)),
        ("outboxes_limit_mib", limit / f64::from(1 << 20)),
        ("resident_before_mib", mib(before)),
        ("resident_mib", mib(resident_then)),
        ("resident_most_mib", mib(resident_most)),
        ("closed_too_slow", ended as f64),
        ("messages_until_closed", (bursts * BURST) as f64),
    ]))
}

/// `sessions.outbox_bytes` of the lobby under test, as `subject` sets it.
pub(super) const fn outbox_limit() -> u64 {
    1 << 20
}

async fn queued(running: &Running) -> anyhow::Result<u64> {
    let lobby = running.lobby().context("a floor has no outboxes")?;
    Ok(lobby.metrics().await?.count("lobby_outbox_bytes", &[]))
}

async fn closed(running: &Running) -> anyhow::Result<u64> {
    let lobby = running.lobby().context("a floor closes nobody")?;
    Ok(lobby.metrics().await?.count("lobby_closes_total", &[("code", "4000")]))
}
