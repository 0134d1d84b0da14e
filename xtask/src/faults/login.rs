//! Group A: who logs in, and with what.

mod flood;
mod hostile;
mod key_server;
mod keys;
mod races;
mod signer;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, ensure};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::row::{Row, Sharing, Takes};
use super::scene::Scene;
use crate::client::{Client, Transport};
use crate::late::Late;
use crate::lobby::Lobby;
use crate::stage::SECRET;
use crate::token;

pub(super) const ROWS: &[Row] = &[
    Row {
        id: "A1-A6",
        done: "alg none, HS256 with the public key, others; jwk, jku, x5u, crit; kid missing, 1 MB, path-like; exp, nbf, scp, \
               sub in every wrong type; every signature bit flipped",
        required: "rejected; no outbound fetch",
        sharing: Sharing::SideBySide,
        takes: Takes { short: 25, long: 30 },
        run: |scene| Box::pin(hostile::tokens(scene)),
    },
    Row {
        id: "A7-A9",
        done: "key rotation; random kids as fast as it goes, up to 10,000 a second; JWKS URL failing, hanging, 100 MB",
        required: "on behalf of tokens one fetch per 30 s at most; old keys kept; time-out 5 s",
        sharing: Sharing::SideBySide,
        takes: Takes { short: 25, long: 100 },
        run: |scene| Box::pin(keys::troubled(scene)),
    },
    Row {
        id: "A10",
        done: "token expires while connected, with sessions.expiry \"close\" and \"ignore\"",
        required: "as configured: closed with 4002, or served on",
        sharing: Sharing::SideBySide,
        takes: Takes { short: 10, long: 10 },
        run: |scene| Box::pin(expiry(scene)),
    },
    Row {
        id: "A11",
        done: "broadcasts racing logins, 100,000 times (in the short form 2,000)",
        required: "no byte of a notification before `welcome`",
        sharing: Sharing::SideBySide,
        takes: Takes { short: 25, long: 300 },
        run: |scene| Box::pin(races::raced(scene)),
    },
    Row {
        id: "A12",
        done: "flood of bad signatures from one address",
        required: "capped per address; healthy logins' p99 flat",
        sharing: Sharing::Alone,
        takes: Takes { short: 20, long: 60 },
        run: |scene| Box::pin(flood::of_bad_signatures(scene)),
    },
];

/// A session that ends with its token, and one that does not.
async fn expiry(scene: &Scene) -> anyhow::Result<()> {
    for transport in Transport::BOTH {
        let setup = scene.setup().set("LOBBY_AUTH__LEEWAY", "0s");
        let lobby = scene.start(&setup.clone().set("LOBBY_SESSIONS__EXPIRY", "close")).await?;
        let expires = token::now()? + 4;
        let mut short = login_until(scene, &lobby, transport, 42, expires).await?;
        let mut long = login_until(scene, &lobby, transport, 43, expires + 600).await?;
        short.expect_close(4002).await?;
        let late = SystemTime::now().duration_since(UNIX_EPOCH)?.checked_sub(Duration::from_secs(expires));
        let late = late.context("closed before the token expired")?;
        scene.recovered(late, Duration::from_secs(2))?;
        hears(scene, &mut long).await?;
        drop((short, long));
        scene.leaves_nothing(lobby).await?;

        let lobby = scene.start(&setup.set("LOBBY_SESSIONS__EXPIRY", "ignore")).await?;
        let expires = token::now()? + 1;
        let mut player = login_until(scene, &lobby, transport, 42, expires).await?;
        let start = Instant::now();
        while token::now()? < expires + 2 {
            sleep(Duration::from_millis(50)).await;
            ensure!(start.elapsed() < crate::PATIENCE, Late("the clock stands still".to_owned()));
        }
        hears(scene, &mut player).await.context("after its token expired")?;
        drop(player);
        scene.leaves_nothing(lobby).await?;
    }
    scene.fact("the times are from the expiry to the close");
    Ok(())
}

async fn hears(scene: &Scene, client: &mut Client) -> anyhow::Result<()> {
    let sentinel = scene.notifier().await?.sentinel().await?;
    let before = client.expect_until(&sentinel).await?;
    ensure!(before.is_empty(), "{} got {before:?}", client.name());
    Ok(())
}

async fn login_until(
    scene: &Scene,
    lobby: &Lobby,
    transport: Transport,
    user: i64,
    expires: u64,
) -> anyhow::Result<Client> {
    let mut claims = token::claims(user)?;
    claims["exp"] = json!(expires);
    let mut client = scene.stranger(lobby, transport).await?.named(format_args!("user {user}"));
    client.login(&token::signed(SECRET, &json!({ "alg": "HS256" }), &claims)?).await?;
    Ok(client)
}
