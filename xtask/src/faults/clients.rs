//! Group C: clients that do not read, vanish, or all come at once, and those beside them that must not notice.

mod crowds;
mod gone;
mod namespace;
mod slow;

use super::row::{Row, Sharing, Takes};
use super::scene::Scene;
use crate::lobby::Lobby;

pub(super) const ROWS: &[Row] = &[
    Row {
        id: "C1",
        done: "100 clients stop reading among 10,000 that read",
        required: "slow ones closed (4000) at the limit; the healthy ones' p99 unchanged; memory bounded",
        sharing: Sharing::Alone,
        takes: Takes { short: 30, long: 180 },
        run: |scene| Box::pin(slow::some_never_read(scene)),
    },
    Row {
        id: "C2",
        done: "a client reads one byte a second",
        required: "the write deadline closes it",
        sharing: Sharing::SideBySide,
        takes: Takes { short: 12, long: 90 },
        run: |scene| Box::pin(slow::one_byte_a_second(scene)),
    },
    Row {
        id: "C3",
        done: "half-open clients: the packets of one are dropped, another is behind a black hole",
        required: "ping time-out closes it",
        sharing: Sharing::SideBySide,
        takes: Takes { short: 10, long: 180 },
        run: |scene| Box::pin(gone::half_open(scene)),
    },
    Row {
        id: "C4",
        done: "10,000 resets during broadcasts, before, during and after the login",
        required: "no leak",
        sharing: Sharing::SideBySide,
        takes: Takes { short: 20, long: 60 },
        run: |scene| Box::pin(gone::resets(scene)),
    },
    Row {
        id: "C5",
        done: "the same user logs in 100 times at once",
        required: "exactly one winner; never two half-registered",
        sharing: Sharing::SideBySide,
        takes: Takes { short: 10, long: 60 },
        run: |scene| Box::pin(crowds::same_user(scene)),
    },
    Row {
        id: "C6",
        done: "10,000 clients drop and come back within 1 s",
        required: "all logged in within 30 s on 2 cores, accepted at a bounded rate",
        sharing: Sharing::Alone,
        takes: Takes { short: 15, long: 60 },
        run: |scene| Box::pin(crowds::all_come_back(scene)),
    },
    Row {
        id: "C7",
        done: "a client does not read for 5 s while more is sent to it than the kernel holds",
        required: "gets everything in order",
        sharing: Sharing::SideBySide,
        takes: Takes { short: 12, long: 60 },
        run: |scene| Box::pin(slow::stopped_for_a_while(scene)),
    },
];

/// How many sessions the lobby has closed with this code.
async fn closes(lobby: &Lobby, code: &str) -> anyhow::Result<u64> {
    Ok(lobby.metrics().await?.count("lobby_closes_total", &[("code", code)]))
}

/// Waits until the lobby has this many sessions.
async fn sessions(scene: &Scene, lobby: &Lobby, wanted: u64) -> anyhow::Result<()> {
    let what = format!("{wanted} sessions");
    let metrics = lobby.metrics_until(&what, |metrics| metrics.count("lobby_sessions", &[]) == wanted);
    metrics.await.map(drop).inspect_err(|_| scene.fact(format!("never {what}")))
}
