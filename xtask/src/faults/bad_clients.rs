//! Group I: clients that break the rules on purpose, and players beside them that must not notice.

mod floods;
mod frames;
mod origins;
mod split;
mod text;

use anyhow::ensure;

use super::row::{Row, Sharing, Takes};
use super::scene::Scene;
use crate::client::{Client, Transport};
use crate::lobby::Lobby;

pub(super) const ROWS: &[Row] = &[
    Row {
        id: "I2-I5",
        done: "unmasked frames, reserved bits and opcodes, broken control frames, a length of 2⁶³, endless fragments, a compression bomb",
        required: "1002 or 1009 before memory is taken",
        sharing: Sharing::SideBySide,
        takes: Takes { short: 10, long: 30 },
        run: |scene| Box::pin(frames::forbidden(scene)),
    },
    Row {
        id: "I6",
        done: "5,000 handshakes at 1 byte/s",
        required: "closed at the time limit; others log in meanwhile",
        sharing: Sharing::SideBySide,
        takes: Takes { short: 15, long: 60 },
        run: |scene| Box::pin(floods::slow_handshakes(scene)),
    },
    Row {
        id: "I7-I8",
        done: "an HTTP header of 20 MB and a line without end, from many clients at once",
        required: "closed at 16 KiB",
        sharing: Sharing::SideBySide,
        takes: Takes { short: 15, long: 30 },
        run: |scene| Box::pin(floods::endless(scene)),
    },
    Row {
        id: "I9",
        done: "bad UTF-8, deep JSON, commands pipelined before the login",
        required: "closed; nothing reflected",
        sharing: Sharing::SideBySide,
        takes: Takes { short: 10, long: 20 },
        run: |scene| Box::pin(text::bad(scene)),
    },
    Row {
        id: "I10",
        done: "100,000 pings a second from clients that read the answers, and from one that does not",
        required: "closed or rate-limited; nothing reflected; the others' p99 stays",
        sharing: Sharing::Alone,
        takes: Takes { short: 15, long: 40 },
        run: |scene| Box::pin(floods::pings(scene)),
    },
    Row {
        id: "I11",
        done: "foreign, `null` and missing Origin",
        required: "by policy",
        sharing: Sharing::SideBySide,
        takes: Takes { short: 10, long: 15 },
        run: |scene| Box::pin(origins::by_policy(scene)),
    },
    Row {
        id: "I12",
        done: "whole conversations, with what ends them, split at every byte",
        required: "the same result as unsplit",
        sharing: Sharing::SideBySide,
        takes: Takes { short: 15, long: 60 },
        run: |scene| Box::pin(split::at_every_byte(scene)),
    },
];

/// A player who has nothing to do with it all, and gets everything that is for it and nothing else.
struct Bystander(Client);

impl Bystander {
    async fn enter(scene: &Scene, lobby: &Lobby) -> anyhow::Result<Self> {
        Ok(Self(scene.client(lobby, Transport::Tcp, 1).await?))
    }

    /// Checks that nothing came but what is published now.
    async fn is_well(&mut self, scene: &Scene) -> anyhow::Result<()> {
        let sentinel = scene.notifier().await?.sentinel().await?;
        let lines = self.0.expect_until(&sentinel).await?;
        ensure!(lines.is_empty(), "a bystander got {lines:?}");
        Ok(())
    }
}

/// By how many bytes the most memory so far exceeds what there was.
async fn grown(scene: &Scene, lobby: &Lobby, before: u64) -> anyhow::Result<u64> {
    let now = lobby.resident_bytes().await?;
    Ok(scene.figures().peak_bytes.unwrap_or(now).max(now).saturating_sub(before))
}
