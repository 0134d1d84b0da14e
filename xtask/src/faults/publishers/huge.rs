//! Bodies as large as the broker lets them be.

use anyhow::ensure;
use serde_json::json;

use crate::amqp_wire::Outcome;
use crate::client::Transport;
use crate::faults::scene::Scene;
use crate::faults::watch::Census;
use crate::stage::notifier::numbered;

const MIB: u64 = 1 << 20;
const BODY: usize = 100 << 20;
/// The broker sends as many as the prefetch lets it; the lobby takes one after the other and keeps none.
const MOST_MEMORY: u64 = 3 * BODY as u64;
const README: &str = include_str!("../../../../README.md");

/// Each is dropped, and what follows it arrives.
pub(super) async fn bodies(scene: &Scene) -> anyhow::Result<()> {
    ensure!(README.contains("max_message_size"), "the README does not say how to lower `max_message_size`");
    let lobby = scene.lobby().await?;
    let mut player = scene.client(&lobby, Transport::WebSocket, 42).await?;
    let mut notifier = scene.notifier().await?;
    let before = Census::of(lobby.pid())?;
    let body = format!(r#"{{"fill":"{}"}}"#, "x".repeat(BODY));
    let count = scene.pick(3, 10);
    for number in 0..count {
        // Not written to the broker's disk: that is not what this is about.
        let headers = json!([["user-id", "l", 42]]);
        let outcome = notifier.publish(&headers, &json!({ "delivery_mode": 1 }), body.as_bytes()).await?;
        ensure!(outcome == Outcome::Confirmed, "the broker said {outcome:?} of 100 MiB");
        notifier.notify_user(42, &numbered(number)).await?;
        let line = player.line().await?;
        ensure!(line.seq() == Some(number), "wanted number {number}, got {line}");
    }
    let reason = [("outcome", "dropped"), ("reason", "too_large")];
    let metrics = lobby.metrics().await?;
    let dropped = metrics.count("lobby_deliveries_total", &reason);
    ensure!(dropped == count, "{dropped} of {count} are counted as too large:\n{metrics}");
    ensure!(metrics.count("lobby_broker_reconnects_total", &[]) == 0, "the connection did not last");
    let after = Census::of(lobby.pid())?;
    scene.fact(format!(
        "{count} bodies of 100 MiB: memory {} MiB before, {} MiB at most, {} MiB after",
        before.resident / MIB,
        after.peak / MIB,
        after.resident / MIB
    ));
    ensure!(
        after.peak - before.resident <= MOST_MEMORY,
        "memory grew by {} MiB",
        (after.peak - before.resident) / MIB
    );
    drop(player);
    scene.leaves_nothing(lobby).await
}
