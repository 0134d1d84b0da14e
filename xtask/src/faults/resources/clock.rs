//! A wall clock that jumps. No other process may notice: the lobby alone sees another time, through `faketime`'s library.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::client::{Client, Transport};
use crate::faults::scene::Scene;
use crate::faults::traffic::{Traffic, reconnects};
use crate::late::Late;
use crate::lobby::Lobby;
use crate::stage::SECRET;
use crate::{PATIENCE, apt, token};

const DAY: i64 = 24 * 60 * 60;

/// Sessions, the broker's connection and what flows notice nothing of a day ahead, nor of two back; tokens are judged by
/// the clock as it is then.
pub(super) async fn jumps(scene: &Scene) -> anyhow::Result<()> {
    let library = match library().await {
        Ok(library) => library,
        Err(error) => {
            scene.skip(format!("no faketime: {error:#}"));
            return Ok(());
        }
    };
    let clock = scene.directory().join("clock");
    let set = |seconds: i64| std::fs::write(&clock, format!("{seconds:+}")).context("set the clock");
    set(0)?;
    let setup = scene
        .setup()
        .set("LD_PRELOAD", library.display().to_string())
        .set("FAKETIME_TIMESTAMP_FILE", clock.display().to_string())
        .set("FAKETIME_NO_CACHE", "1")
        .set("DONT_FAKE_MONOTONIC", "1")
        .set("LOBBY_SESSIONS__PING_INTERVAL", "5s");
    let lobby = scene.start(&setup).await?;
    let mut traffic = Traffic::start(scene, &lobby, 200).await?;
    traffic.flows(100).await?;
    let before = reconnects(&lobby.metrics().await?);
    for ahead in [DAY, -DAY, 0] {
        set(ahead)?;
        until_clock(&lobby, ahead).await?;
        // Longer than the sweeps; in the long form also than several pings.
        let begin = Instant::now();
        while begin.elapsed() < std::time::Duration::from_secs(scene.pick(3, 20)) {
            traffic.arrives().await?;
        }
        logs_in(scene, &lobby, ahead).await.with_context(|| format!("clock {ahead:+} s"))?;
    }
    let after = lobby.metrics().await?;
    ensure!(reconnects(&after) == before, "the broker's connection was lost");
    ensure!(after.count("lobby_sessions", &[]) >= 8, "a session was ended:\n{after}");
    let tally = traffic.finish(scene).await?;
    scene.count(&tally, tally.unmarked_of(0))?;
    scene.fact("a day ahead, two days back, and a day ahead again, under 200 messages/s");
    scene.leaves_nothing(lobby).await
}

/// `libfaketime`, which Debian installs for `faketime`.
async fn library() -> anyhow::Result<PathBuf> {
    apt::program("faketime", "faketime").await?;
    let places = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib", "/usr/local/lib"];
    let files = places.map(|place| Path::new(place).join("faketime/libfaketimeMT.so.1"));
    files.into_iter().find(|file| file.exists()).context("libfaketimeMT.so.1 was not found")
}

fn claims(user: i64, ahead: i64) -> anyhow::Result<serde_json::Value> {
    let mut claims = token::claims(user)?;
    claims["exp"] = json!(i64::try_from(token::now()?)? + ahead + 600);
    Ok(claims)
}

fn signed(user: i64, ahead: i64) -> anyhow::Result<String> {
    token::signed(SECRET, &json!({"alg": "HS256", "typ": "JWT"}), &claims(user, ahead)?)
}

/// Waits until a `welcome` tells the day that is meant.
async fn until_clock(lobby: &Lobby, ahead: i64) -> anyhow::Result<()> {
    let begin = Instant::now();
    loop {
        let mut client = Client::connect(Transport::Tcp, lobby.address(Transport::Tcp)?).await?;
        // Good for years: only the day in the answer counts.
        let welcome = client.login(&signed(1_000, DAY * 1_000)?).await?.json()?;
        let told = welcome["current_time"].as_str().context("current_time")?.to_owned();
        let told = humantime::parse_rfc3339_weak(&told).with_context(|| format!("`{told}`"))?;
        let told = i64::try_from(told.duration_since(std::time::UNIX_EPOCH)?.as_secs())?;
        if (told - i64::try_from(token::now()?)? - ahead).abs() < 60 {
            return Ok(());
        }
        ensure!(begin.elapsed() < PATIENCE, Late(format!("the lobby's clock never jumped by {ahead} s")));
        sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// A token that is good by the lobby's clock is taken, one that has expired by it is not.
async fn logs_in(scene: &Scene, lobby: &Lobby, ahead: i64) -> anyhow::Result<()> {
    let mut client = scene.stranger(lobby, Transport::WebSocket).await?;
    client.authenticate(&signed(1_001, ahead - 1_200)?).await?;
    client.command("authentication_failed").await?;
    client.login(&signed(1_001, ahead)?).await.map(drop)
}
