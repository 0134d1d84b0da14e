//! Key sets that change, and servers of key sets that fail.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use anyhow::{Context as _, ensure};
use serde_json::json;
use tokio::time::{Duration, Instant};

use super::key_server::{Answer, Asked, KeyServer};
use super::signer::{Signer, key_set};
use crate::client::{Client, Transport};
use crate::faults::scene::Scene;
use crate::faults::watch::Census;
use crate::late::Late;
use crate::lobby::Lobby;
use crate::token;

const MIB: u64 = 1 << 20;
/// The source is asked no more often on behalf of tokens.
const MIN_INTERVAL: Duration = Duration::from_secs(30);
const FETCH_LIMIT: Duration = Duration::from_secs(5);
/// Connections that name unknown keys at once.
const CROWD: usize = 16;
/// More is not asked for.
const MOST_A_SECOND: u64 = 10_000;

/// One lobby whose key set is rotated and then asked for by many names; another whose key set comes from a server that
/// fails in every way.
pub(super) async fn troubled(scene: &Scene) -> anyhow::Result<()> {
    rotated(scene).await.context("rotation and random names")?;
    server_fails(scene).await.context("a server that fails")?;
    absent_at_start(scene).await.context("a server that hangs at the start")
}

async fn logs_in(scene: &Scene, lobby: &Lobby, signer: &Signer) -> anyhow::Result<()> {
    let mut client = scene.stranger(lobby, Transport::Tcp).await?;
    client.login(&signer.token(42)?).await.map(drop)
}

async fn is_refused(scene: &Scene, lobby: &Lobby, signer: &Signer) -> anyhow::Result<()> {
    let mut client = scene.stranger(lobby, Transport::WebSocket).await?;
    client.authenticate(&signer.token(42)?).await?;
    client.command("authentication_failed").await.map(drop)
}

async fn rotated(scene: &Scene) -> anyhow::Result<()> {
    let (old, new, never) = (Signer::es256("old")?, Signer::ed_dsa("new")?, Signer::es256("never")?);
    let server = KeyServer::start(Answer::Keys(key_set(&[&old]))).await?;
    // As many connections as the machine makes: their limit is not what this is about.
    let setup = scene.setup().set("LOBBY_AUTH__JWKS", server.url());
    let lobby = scene.start(&setup.set("LOBBY_LISTEN__MAX_ACCEPTS_PER_SECOND", "0")).await?;
    logs_in(scene, &lobby, &old).await?;
    server.answers(Answer::Keys(key_set(&[&old, &new])));
    let start = Instant::now();
    logs_in(scene, &lobby, &new).await.context("a key that is new")?;
    scene.recovered(start.elapsed(), Duration::from_secs(1))?;

    let length = Duration::from_secs(scene.pick(4, 65));
    let (asked_for, done) = (AtomicU64::new(0), AtomicBool::new(false));
    let crowd = futures_util::future::try_join_all(
        (0..CROWD).map(|_| unknown_names(&lobby, &never, &asked_for, length)),
    );
    let healthy = async {
        let mut logins = 0_u64;
        while !done.load(Relaxed) {
            logs_in(scene, &lobby, &new).await.context("meanwhile")?;
            logins += 1;
        }
        anyhow::Ok(logins)
    };
    let crowd = async {
        let outcome = crowd.await;
        done.store(true, Relaxed);
        outcome
    };
    let (_, healthy) = tokio::try_join!(crowd, healthy)?;
    let asked = server.asked();
    // The first is the start's own.
    once_per_interval(&asked[1..])?;
    let names = asked_for.load(Relaxed);
    scene.fact(format!(
        "{:.0} tokens a second with names that nobody knows for {} s, {healthy} good logins meanwhile: {} fetches, one of them at the start",
        names as f64 / length.as_secs_f64(),
        length.as_secs(),
        asked.len()
    ));
    scene.leaves_nothing(lobby).await
}

/// Of those that were asked on behalf of tokens.
pub(super) fn once_per_interval(asked: &[Asked]) -> anyhow::Result<()> {
    // A moment passes on the way.
    const SLACK: Duration = Duration::from_millis(500);
    let early = asked.windows(2).map(|pair| pair[1].at - pair[0].at).find(|gap| *gap + SLACK < MIN_INTERVAL);
    ensure!(early.is_none(), "the key set was asked for again after {early:?}");
    Ok(())
}

/// Connection after connection, each with as many tokens as it may.
async fn unknown_names(
    lobby: &Lobby,
    signer: &Signer,
    count: &AtomicU64,
    length: Duration,
) -> anyhow::Result<()> {
    let start = Instant::now();
    while start.elapsed() < length {
        let mut client = Client::connect(Transport::Tcp, lobby.address(Transport::Tcp)?).await?;
        for _ in 0..2 {
            let header = json!({ "alg": signer.alg(), "kid": format!("{:x}", fastrand::u128(..)) });
            client.authenticate(&signer.signed(&header, &token::claims(42)?)?).await?;
            client.command("authentication_failed").await?;
            count.fetch_add(1, Relaxed);
        }
        if count.load(Relaxed) > MOST_A_SECOND * (start.elapsed().as_secs() + 1) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    Ok(())
}

async fn server_fails(scene: &Scene) -> anyhow::Result<()> {
    let (old, new) = (Signer::es256("old")?, Signer::es256("new")?);
    let server = KeyServer::start(Answer::Keys(key_set(&[&old]))).await?;
    let setup = scene.setup().set("LOBBY_AUTH__JWKS", server.url()).set("LOBBY_AUTH__JWKS_REFRESH", "1s");
    let lobby = scene.start(&setup).await?;
    let before = Census::of(lobby.pid())?;
    for _ in 0..scene.pick(1, 3) {
        server.answers(Answer::Failure);
        server.next().await?;
        logs_in(scene, &lobby, &old).await.context("while the server fails")?;

        server.answers(Answer::Silence);
        let (asked, login) = tokio::join!(server.next(), logs_in(scene, &lobby, &old));
        login.context("while the server hangs")?;
        let lasted = asked?.lasted.unwrap_or_default();
        // The lobby counts from its own first step, before the request has come.
        let limits = FETCH_LIMIT.mul_f64(0.8)..=FETCH_LIMIT + Duration::from_secs(scene.pick(3, 1));
        ensure!(
            limits.contains(&lasted),
            Late(format!("the lobby waited {lasted:?} for keys, limit {FETCH_LIMIT:?}"))
        );
        scene.fact(format!("a server that hangs is left after {:.1} s", lasted.as_secs_f64()));

        server.answers(Answer::Huge);
        let taken = server.next().await?.taken as u64;
        ensure!(taken < 16 * MIB, "the lobby took {} MiB of a key set", taken / MIB);
        logs_in(scene, &lobby, &old).await.context("after a key set of 100 MB")?;
        let grown = Census::of(lobby.pid())?.peak.saturating_sub(before.resident);
        ensure!(grown < 16 * MIB, "memory grew by {} MiB", grown / MIB);
        scene.fact(format!(
            "of 100 MB {} KiB left the server, memory grew by at most {} KiB",
            taken / 1024,
            grown / 1024
        ));
    }
    server.answers(Answer::Keys(key_set(&[&new])));
    server.next().await?;
    server.next().await?;
    logs_in(scene, &lobby, &new).await.context("after the server is well again")?;
    is_refused(scene, &lobby, &old).await.context("a key that was withdrawn")?;
    scene.leaves_nothing(lobby).await
}

/// The lobby listens all the same, and the first login that needs the keys brings them.
async fn absent_at_start(scene: &Scene) -> anyhow::Result<()> {
    let signer = Signer::ed_dsa("late")?;
    let server = KeyServer::start(Answer::Silence).await?;
    let start = Instant::now();
    let lobby = scene.start(&scene.setup().set("LOBBY_AUTH__JWKS", server.url())).await?;
    let took = start.elapsed();
    let limit = FETCH_LIMIT + Duration::from_secs(scene.pick(6, 2));
    ensure!(took <= limit, Late(format!("ready after {took:?}, limit {limit:?}")));
    server.answers(Answer::Keys(key_set(&[&signer])));
    logs_in(scene, &lobby, &signer).await.context("after the server came")?;
    scene.fact(format!("with a server that hangs at the start: ready after {:.1} s", took.as_secs_f64()));
    scene.retire(lobby).await
}
