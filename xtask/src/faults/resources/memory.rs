//! Less memory than clients that do not read would take.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use notify_protocol::NOTIFY_ROUTING_KEY;
use tokio::time::Instant;

use crate::amqp_wire::{Message, Properties, Publisher};
use crate::client::{Client, Transport};
use crate::faults::raw::Raw;
use crate::faults::scene::Scene;
use crate::stage::SECRET;
use crate::token;

const SLOW: i64 = 100;
const SLOW_FROM: i64 = 1_000;
const LIMIT: u64 = 256 << 20;
const BODY: usize = 512 * 1024;

/// Nothing is configured: the lobby finds the limit by itself. Each slow client is sent its own 10 MiB; the lobby closes
/// as many of them as it must, and lives. A player who reads gets everything.
///
/// The limit is on private writable memory, which is what such a lobby has; more of it is refused, and a process that is
/// refused memory aborts. A control group's limit is the same to the lobby, but belongs to whoever runs the machine.
pub(super) async fn too_little(scene: &Scene) -> anyhow::Result<()> {
    let script = format!(r#"ulimit -d {} && exec "$0" "$@""#, LIMIT >> 10);
    let lobby = scene.start(&scene.setup().through_shell(&script)).await?;
    let mut player = scene.client(&lobby, Transport::Tcp, 1).await?;
    let mut slow = Vec::new();
    let mut letters = Vec::new();
    let body = format!(r#"{{"command":"large","padding":"{}"}}"#, "x".repeat(BODY));
    for user in (SLOW_FROM..).take(usize::try_from(SLOW)?) {
        let transport = Transport::BOTH[usize::from(user % 2 == 0)];
        let mut raw = Raw::dial_with(transport, lobby.address(transport)?, Some(16 * 1024)).await?;
        raw.login(&token::valid(SECRET, user)?).await?;
        slow.push(raw);
        letters.push(Message {
            exchange: scene.exchange().to_owned(),
            routing_key: NOTIFY_ROUTING_KEY.to_owned(),
            properties: Properties::to_user(Some(user))?,
            body: Bytes::from(body.clone()),
        });
    }
    let mut publisher = Publisher::open(scene.url()).await?;
    let begin = Instant::now();
    let mut sent = 0_u64;
    // The kernel takes some MiB of each; then ten in each outbox would be a GiB.
    for round in 0..scene.pick(20, 40) {
        for letter in &letters {
            publisher.publish(0, letter).await?;
            sent += letter.body.len() as u64;
        }
        publisher.settle().await?;
        publisher.take_settled();
        served(scene, &mut player).await.with_context(|| {
            format!("after round {round}, {} MiB: {:?}", sent >> 20, scene.last_log_lines().last())
        })?;
    }
    let metrics = lobby.metrics().await?;
    let closed = metrics.count("lobby_closes_total", &[("code", "4000")]);
    ensure!(closed > 0, "{} MiB were sent to clients that do not read, and none was closed", sent >> 20);
    let peak = scene.figures().peak_bytes.context("the lobby's peak")?;
    ensure!(peak < LIMIT, "the lobby's peak is {peak} bytes, limit {LIMIT}");
    scene.fact(format!(
        "{} MiB sent in {:.1} s; {closed} of {SLOW} closed with 4000, {} MiB still wait, peak {} MiB",
        sent >> 20,
        begin.elapsed().as_secs_f64(),
        metrics.count("lobby_outbox_bytes", &[]) >> 20,
        peak >> 20
    ));
    drop((player, slow));
    lobby.metrics_until("no session", |metrics| metrics.count("lobby_sessions", &[]) == 0).await?;
    scene.leaves_nothing(lobby).await
}

/// A player gets what is published now.
async fn served(scene: &Scene, player: &mut Client) -> anyhow::Result<()> {
    player.patient(Duration::from_secs(60));
    let sentinel = scene.notifier().await?.sentinel().await?;
    player.expect_until(&sentinel).await.map(drop)
}
