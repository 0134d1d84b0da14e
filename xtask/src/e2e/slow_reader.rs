//! One client that never reads, and others that do.

use anyhow::ensure;
use serde_json::json;

use super::addressing::received;
use super::notifier::unique;
use super::stage::{SECRET, Stage};
use crate::client::{Client, Dialing, Transport};
use crate::token;

const OUTBOX_BYTES: usize = 256 * 1024;
const BODY_BYTES: usize = 16 * 1024;
/// Less than the outbox holds, so that a client that reads is never behind by more.
const BATCH: usize = 8;
/// The kernel's own buffers come first: 64 MiB is far beyond them.
const BATCHES: usize = 64 * 1024 * 1024 / (BATCH * BODY_BYTES);
const MEMORY_LIMIT: u64 = 48 * 1024 * 1024;

/// It is closed when its outbox is full, and counted; everyone else gets everything in order; memory stays bounded.
pub(super) async fn slow_reader(stage: &Stage) -> anyhow::Result<()> {
    let setup = stage.setup().set("LOBBY_SESSIONS__OUTBOX_BYTES", OUTBOX_BYTES.to_string());
    let lobby = stage.start(&setup).await?;
    for transport in Transport::BOTH {
        let how = Dialing { receive_buffer: Some(8 * 1024), ..Dialing::default() };
        let mut slow = Client::dial(transport, lobby.address(transport)?, how).await?.named("slow");
        slow.login(&token::valid(SECRET, 13)?).await?;
        let mut healthy = Vec::new();
        for transport in Transport::BOTH {
            for user in 1..=2 {
                healthy.push(stage.client(&lobby, transport, user + 2 * transport as i64).await?);
            }
        }
        let mut notifier = stage.notifier().await?;
        let before = lobby.metrics().await?;
        let memory = lobby.resident_bytes().await?;
        let (mut peak, mut batches) = (memory, 0);
        let closed = loop {
            ensure!(
                batches < BATCHES,
                "{transport}: {batches} batches and the slow client is still connected"
            );
            let bodies: Vec<_> = (0..BATCH).map(|_| body()).collect();
            for body in &bodies {
                notifier.notify_all(body).await?;
            }
            let sentinel = notifier.sentinel().await?;
            let bodies: Vec<_> = bodies.iter().map(String::as_str).collect();
            for client in &mut healthy {
                received(client, &sentinel, &bodies).await?;
            }
            batches += 1;
            peak = peak.max(lobby.resident_bytes().await?);
            let now = lobby.metrics().await?;
            if now.count("lobby_outbox_overflow_total", &[])
                > before.count("lobby_outbox_overflow_total", &[])
            {
                break now;
            }
        };
        let code = [("code", "4000")];
        let closes = closed.count("lobby_closes_total", &code) - before.count("lobby_closes_total", &code);
        ensure!(closes == 1, "{transport}: {closes} closes with 4000 instead of 1:\n{closed}");
        ensure!(peak - memory < MEMORY_LIMIT, "memory grew by {} bytes", peak - memory);
        lobby.metrics_until("four sessions", |metrics| metrics.count("lobby_sessions", &[]) == 4).await?;
        let sentinel = notifier.sentinel().await?;
        for client in &mut healthy {
            received(client, &sentinel, &[]).await?;
        }
        stage.fact(format!(
            "{transport}: closed after {} KiB, memory grew by {} KiB",
            batches * BATCH * BODY_BYTES / 1024,
            (peak - memory) / 1024
        ));
        drop(healthy);
        lobby.metrics_until("no session", |metrics| metrics.count("lobby_sessions", &[]) == 0).await?;
    }
    stage.leaves_nothing(lobby).await
}

fn body() -> String {
    json!({"command": "large", "id": unique("large"), "padding": "x".repeat(BODY_BYTES)}).to_string()
}
