//! Group S: lobbies that are stopped, killed and replaced.

mod killed;

use super::row::{Row, Sharing, Takes};
use super::scene::Scene;
use crate::e2e::{drain, haproxy, rolling};

pub(super) const ROWS: &[Row] = &[
    Row {
        id: "S1",
        done: "SIGTERM, and another, with 1,000 clients under 1,000 messages/s",
        required: "not ready, 1012 spread over the window while messages still come, then consuming stops; settled, \
                   flushed, exit 0 within the limit",
        sharing: Sharing::Alone,
        takes: Takes { short: 25, long: 100 },
        run: |scene| Box::pin(under_load(scene)),
    },
    Row {
        id: "S2-S3",
        done: "SIGTERM with clients that never read, before the first connect, and SIGINT twice",
        required: "the others are told 1012 at once, exit 0 within the limit; a second SIGINT ends it with 1",
        sharing: Sharing::SideBySide,
        takes: Takes { short: 20, long: 60 },
        run: |scene| Box::pin(at_its_worst(scene)),
    },
    Row {
        id: "S4",
        done: "lobby killed with SIGKILL 20 times under 1,000 messages/s",
        required: "unacked messages come back after the restart, marked, at most the prefetch; what waited arrives",
        sharing: Sharing::SideBySide,
        takes: Takes { short: 25, long: 90 },
        run: |scene| Box::pin(killed::killed(scene)),
    },
    Row {
        id: "S5",
        done: "two lobbies replaced one after the other; in the long form behind HAProxy, with 2,000 clients",
        required: "each user gets every message while connected, and all that was published after each login",
        sharing: Sharing::Alone,
        takes: Takes { short: 15, long: 90 },
        run: |scene| Box::pin(replaced(scene)),
    },
];

async fn under_load(scene: &Scene) -> anyhow::Result<()> {
    for _ in 0..scene.pick(1, 5) {
        scene.plays(drain::sigterm_drain(scene)).await?;
    }
    Ok(())
}

async fn at_its_worst(scene: &Scene) -> anyhow::Result<()> {
    for _ in 0..scene.pick(1, 4) {
        scene.plays(drain::at_its_worst(scene)).await?;
        scene.plays(drain::second_interrupt(scene)).await?;
    }
    Ok(())
}

async fn replaced(scene: &Scene) -> anyhow::Result<()> {
    if scene.pick(false, true) {
        scene.plays(haproxy::haproxy_rolling(scene)).await
    } else {
        scene.plays(rolling::rolling_drain(scene)).await
    }
}
