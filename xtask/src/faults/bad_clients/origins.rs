//! Pages of other sites that open a WebSocket in a player's browser.

use anyhow::ensure;

use crate::PATIENCE;
use crate::client::Transport;
use crate::faults::raw::{Raw, upgrade};
use crate::faults::scene::Scene;
use crate::lobby::Lobby;

const FOREIGN: &str = "Origin: https://elsewhere.example\r\n";
const LISTED: &str = "Origin: https://game.example\r\n";
const NULL: &str = "Origin: null\r\n";
/// As the request's `Host`.
const SAME: &str = "Origin: https://lobby.example\r\n";
const NONE: &str = "";

/// Three lobbies: nothing configured, a list, everyone. Each answers before the upgrade.
pub(super) async fn by_policy(scene: &Scene) -> anyhow::Result<()> {
    for (policy, let_in, refused) in [
        ("", &[SAME, NONE][..], &[FOREIGN, LISTED, NULL][..]),
        ("https://game.example,https://other.example", &[LISTED, NONE], &[FOREIGN, NULL]),
        ("*", &[FOREIGN, LISTED, NULL, SAME, NONE], &[]),
    ] {
        let lobby = scene.start(&scene.setup().set("LOBBY_LISTEN__ORIGINS", policy)).await?;
        for (headers, wanted) in [(let_in, 101), (refused, 403)] {
            for origin in headers {
                let status = answered(&lobby, origin).await?;
                ensure!(
                    status == wanted,
                    "`{policy}`: {origin:?} answered with {status} instead of {wanted}"
                );
            }
        }
        scene.stop(lobby).await?;
    }
    scene.fact("same host, listed, foreign, `null` and no Origin, each under three policies");
    Ok(())
}

async fn answered(lobby: &Lobby, origin: &str) -> anyhow::Result<u16> {
    let mut raw = Raw::dial(Transport::WebSocket, lobby.address(Transport::WebSocket)?).await?;
    raw.write(upgrade(origin).as_bytes()).await?;
    let head = raw.hear(|heard| heard.windows(4).any(|end| end == b"\r\n\r\n")).await?;
    if head.starts_with(b"HTTP/1.1 101 ") {
        return Ok(101);
    }
    let text = String::from_utf8_lossy(&head).into_owned();
    // To its end, so that the lobby has nothing left of it.
    raw.ending(PATIENCE).await?;
    Ok(text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default())
}
