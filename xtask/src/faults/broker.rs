//! Group B: what the broker, and the way to it, do to a lobby while it lives.

mod consumer;
mod hangs;
mod links;

use std::time::Duration;

use self::hangs::Alarm;
use super::row::{Row, Sharing, Takes};
use super::scene::Scene;
use super::traffic::{Traffic, reconnects};

/// Ten seconds until a consumer that does not ack is thrown out, looked at each second.
const IMPATIENT: &str = "[{rabbit, [{consumer_timeout, 10000}, {channel_tick_interval, 1000}]}].\n";

pub(super) const ROWS: &[Row] = &[
    Row {
        id: "B1",
        done: "all connections of the lobby closed by the broker, 100 times under 1,000 messages/s",
        required: "back with jittered delay; p99 of recovery under 1 s; nothing lost",
        sharing: Sharing::SideBySide,
        takes: Takes { short: 30, long: 150 },
        run: |scene| Box::pin(connections_closed(scene)),
    },
    Row {
        id: "B2",
        done: "the queue deleted under the consumer",
        required: "the end of the stream is noticed; declared, bound, consumed again in 500 ms (median)",
        sharing: Sharing::SideBySide,
        takes: Takes { short: 10, long: 40 },
        run: |scene| Box::pin(consumer::queue_deleted(scene)),
    },
    Row {
        id: "B3",
        done: "consumer timeout of 10 s at the broker, the lobby held for 25 s under 500 messages/s",
        required: "406 seen, full rebuild, exactly one consumer after",
        sharing: Sharing::OwnBroker(IMPATIENT),
        takes: Takes { short: 45, long: 120 },
        run: |scene| Box::pin(consumer::timed_out(scene)),
    },
    Row {
        id: "B4",
        done: "broker stopped with SIGSTOP for 30 s, then SIGCONT",
        required: "noticed within 2 × heartbeat; every client stays connected; /ready 503 meanwhile",
        sharing: Sharing::StopsBroker,
        takes: Takes { short: 20, long: 100 },
        run: |scene| Box::pin(hangs::stopped(scene)),
    },
    Row {
        id: "B5",
        done: "memory alarm for 60 s",
        required: "delivery goes on; not marked down; publishers get a timeout, not a hang",
        sharing: Sharing::StopsBroker,
        takes: Takes { short: 30, long: 90 },
        run: |scene| Box::pin(hangs::alarmed(scene, Alarm::Memory)),
    },
    Row {
        id: "B6",
        done: "disk alarm for 60 s",
        required: "delivery goes on; not marked down; publishers get a timeout, not a hang",
        sharing: Sharing::StopsBroker,
        takes: Takes { short: 30, long: 90 },
        run: |scene| Box::pin(hangs::alarmed(scene, Alarm::Disk)),
    },
    Row {
        id: "B7",
        done: "connection reset at every byte offset of a delivery",
        required: "a partial message is never forwarded",
        sharing: Sharing::SideBySide,
        takes: Takes { short: 20, long: 240 },
        run: |scene| Box::pin(links::reset_at_every_byte(scene)),
    },
    Row {
        id: "B8",
        done: "black hole in either direction, then in both",
        required: "heartbeat cuts it; /ready 503",
        sharing: Sharing::SideBySide,
        takes: Takes { short: 30, long: 90 },
        run: |scene| Box::pin(links::black_hole(scene)),
    },
    Row {
        id: "B9",
        done: "half-open link while a new connection takes the same queue",
        required: "nothing lost; the late ones arrive marked redelivered",
        sharing: Sharing::SideBySide,
        takes: Takes { short: 20, long: 120 },
        run: |scene| Box::pin(links::half_open(scene)),
    },
    Row {
        id: "B10",
        done: "bindings removed, and the queue with its consumer removed, behind the lobby's back",
        required: "a self-check finds it and repairs within 15 s",
        sharing: Sharing::SideBySide,
        takes: Takes { short: 40, long: 120 },
        run: |scene| Box::pin(consumer::behind_our_back(scene)),
    },
];

async fn connections_closed(scene: &Scene) -> anyhow::Result<()> {
    if !scene.has_management() {
        scene.skip("the broker's management API is out of reach");
        return Ok(());
    }
    let (proxy, setup) = scene.proxied(true).await?;
    let lobby = scene.start(&setup).await?;
    let mut traffic = Traffic::start(scene, &lobby, 1000).await?;
    for _ in 0..scene.pick(10, 100) {
        traffic.flows(200).await?;
        let before = reconnects(&lobby.metrics().await?);
        let fault = scene.close_lobby_connections().await?;
        scene.timed(traffic.recovery(&lobby, before, fault).await?);
    }
    let tally = traffic.finish(scene).await?;
    scene.count(&tally, tally.unmarked(&proxy.marks()))?;
    scene.recovered_p99(Duration::from_secs(1))?;
    scene.fact(format!("{} confirmed, {} unknown to the publisher", tally.confirmed, tally.unknown));
    scene.leaves_nothing(lobby).await
}
