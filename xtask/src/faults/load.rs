//! Group L: many clients, many messages, much time.

mod crowd;
mod soak;

use anyhow::ensure;
use bytes::Bytes;
use notify_protocol::NOTIFY_ROUTING_KEY;
use serde_json::json;
use tokio::time::{Duration, Instant, MissedTickBehavior, interval};

use self::crowd::Crowd;
use super::backlog::consumed;
use super::row::{Row, Sharing, Takes};
use super::scene::Scene;
use crate::amqp_wire::{Message, Properties};
use crate::bench::body::{BODY_LEN, To};
use crate::stage::notifier::numbered;

const MIB: u64 = 1 << 20;

pub(super) const ROWS: &[Row] = &[
    Row {
        id: "L1",
        done: "10,000 clients, half WebSocket, 100 broadcasts/s of 1 KiB for 10 min (in the short form 400, 25/s, 5 s)",
        required: "no loss",
        sharing: Sharing::Alone,
        takes: Takes { short: 20, long: 660 },
        run: |scene| Box::pin(broadcasts(scene)),
    },
    Row {
        id: "L2",
        done: "unicast to each of 10,000 users, in turn (in the short form 400)",
        required: "no misdelivery",
        sharing: Sharing::SideBySide,
        takes: Takes { short: 15, long: 90 },
        run: |scene| Box::pin(unicasts(scene)),
    },
    Row {
        id: "L3",
        done: "soak of 60 min: 1,000 messages/s, 50 connections/s come and go, and at random connections closed, the queue \
               deleted, clients that never read, the broker restarted (in the short form 60 s)",
        required: "nothing lost; memory slope < 1 MiB/h after warm-up; descriptors flat",
        sharing: Sharing::StopsBroker,
        takes: Takes { short: 90, long: 3_700 },
        run: |scene| Box::pin(soak::soaked(scene)),
    },
    Row {
        id: "L4",
        done: "100,000 messages of 1 KiB wait, then the lobby starts (in the short form 20,000)",
        required: "memory bounded by the prefetch",
        sharing: Sharing::SideBySide,
        takes: Takes { short: 20, long: 90 },
        run: |scene| Box::pin(waiting(scene)),
    },
];

/// Everyone gets every broadcast, once, in order, unchanged.
async fn broadcasts(scene: &Scene) -> anyhow::Result<()> {
    const LEN: usize = 1024;
    let (rate, seconds) = (scene.pick(25, 100), scene.pick(5, 600));
    let mut crowd = Crowd::gather(scene, scene.pick(400, 10_000)).await?;
    let mut tick = interval(Duration::from_secs(1) / rate);
    // What the publisher was late with it makes up for.
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let start = Instant::now();
    for _ in 0..seconds * rate {
        tick.tick().await;
        crowd.publish(To::Everyone, LEN).await?;
    }
    let took = start.elapsed();
    crowd.all_received().await?;
    scene.fact(format!(
        "{} broadcasts of {LEN} bytes in {:.1} s to {} clients, half WebSocket; {}",
        seconds * rate,
        took.as_secs_f64(),
        crowd.size(),
        crowd.latency()?
    ));
    crowd.leave(scene).await
}

/// Each user gets what is addressed to him and nothing else.
async fn unicasts(scene: &Scene) -> anyhow::Result<()> {
    let (users, rounds) = (scene.pick(400, 10_000), scene.pick(10, 20));
    let mut crowd = Crowd::gather(scene, users).await?;
    let start = Instant::now();
    for _ in 0..rounds {
        for user in 1..=crowd.size() {
            crowd.publish(To::User(user), BODY_LEN).await?;
        }
    }
    crowd.all_received().await?;
    scene.fact(format!(
        "{rounds} messages to each of {} users, {:.0} a second; {}",
        crowd.size(),
        f64::from(rounds * crowd.size()) / start.elapsed().as_secs_f64(),
        crowd.latency()?
    ));
    crowd.leave(scene).await
}

/// One in ten is for the player, who gets those, in order; the others are for somebody who is not there.
async fn waiting(scene: &Scene) -> anyhow::Result<()> {
    const PLAYER: i64 = 42;
    const EVERY: u64 = 10;
    /// The prefetch is 200 messages of 1 KiB; buffers, a connection and a session come with them. All that waits would be
    /// 100 MiB, in the short form 20.
    const MOST_GROWTH: u64 = 8 * MIB;
    let count = scene.pick(20_000, 100_000);
    let padding = "x".repeat(1024);
    let message = |number: u64| {
        let user = if number.is_multiple_of(EVERY) { PLAYER } else { 4711 };
        let headers = json!([["user-id", "l", user]]);
        let body = numbered(number);
        anyhow::Ok(Message {
            exchange: scene.exchange().to_owned(),
            routing_key: NOTIFY_ROUTING_KEY.to_owned(),
            properties: Properties::encode(&headers, &json!({ "delivery_mode": 1 }))?,
            body: Bytes::from(format!(r#"{},"fill":"{padding}"}}"#, &body[..body.len() - 1])),
        })
    };
    let consumed = consumed(scene, |setup| setup, PLAYER, count, message).await?;
    let received: Vec<_> = consumed.lines.iter().filter_map(crate::client::Line::seq).collect();
    let wanted: Vec<_> = (0..count).step_by(usize::try_from(EVERY)?).collect();
    ensure!(received == wanted, "the player got {} of {} in another order", received.len(), wanted.len());
    let pid = consumed.lobby.pid();
    let (before, after) = (scene.resident_before(pid)?, super::watch::Census::of(pid)?);
    let growth = after.peak.saturating_sub(before);
    scene.fact(format!(
        "{count} messages of 1 KiB consumed in {:.1} s; memory {} KiB before, at most {} KiB",
        consumed.took.as_secs_f64(),
        before / 1024,
        after.peak / 1024
    ));
    ensure!(growth <= MOST_GROWTH, "memory grew by {} KiB", growth / 1024);
    scene.arrived(received.len() as u64)?;
    consumed.end(scene).await
}
