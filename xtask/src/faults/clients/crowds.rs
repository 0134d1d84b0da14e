//! Many logins at the same moment.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::sessions;
use crate::client::Transport;
use crate::e2e::duplicates;
use crate::faults::raw::{Knock, Raw};
use crate::faults::scene::Scene;
use crate::lobby::{Lobby, Metrics};
use crate::stage::SECRET;
use crate::token;

/// Again and again on one lobby, which must be as empty after each round as before.
pub(super) async fn same_user(scene: &Scene) -> anyhow::Result<()> {
    let lobby = scene.lobby().await?;
    let rounds = scene.pick(3, 50);
    for _ in 0..rounds {
        let begin = Instant::now();
        duplicates::one_winner(scene, &lobby).await?;
        scene.timed(begin.elapsed());
        sessions(scene, &lobby, 0).await?;
    }
    scene.fact(format!("{rounds} rounds of {} logins", duplicates::CROWD));
    scene.leaves_nothing(lobby).await
}

/// Everyone is cut off at once and comes back at a moment of the next second; who is told to wait waits as long as it is
/// told. What the lobby lets in meanwhile is bounded by its limit.
pub(super) async fn all_come_back(scene: &Scene) -> anyhow::Result<()> {
    let (users, per_second, burst) = scene.pick((1_000, 200, 200), (10_000, 1_000, 1_000));
    let setup = scene
        .setup()
        .set("LOBBY_LISTEN__MAX_ACCEPTS_PER_SECOND", per_second.to_string())
        .set("LOBBY_LISTEN__ACCEPT_BURST", burst.to_string());
    let lobby = scene.start(&setup).await?;
    let crowd = come(&lobby, users, Duration::ZERO).await?;
    sessions(scene, &lobby, users).await?;
    let before = logins(&lobby.metrics().await?);
    let begin = Instant::now();
    for raw in crowd {
        raw.reset()?;
    }
    let watching = async {
        // What is seen at a moment was let in before it.
        loop {
            let count = logins(&lobby.metrics().await?) - before;
            let allowed = burst + (per_second as f64 * begin.elapsed().as_secs_f64()).ceil() as u64;
            ensure!(count <= allowed, "{count} were let in where the limit allows {allowed}");
            if count == users {
                return Ok(());
            }
            sleep(Duration::from_millis(100)).await;
        }
    };
    let both = async { tokio::try_join!(come(&lobby, users, Duration::from_secs(1)), watching) };
    let (crowd, ()) = timeout(Duration::from_secs(90), both).await.context("not all came back in 90 s")??;
    let took = begin.elapsed();
    sessions(scene, &lobby, users).await?;
    let waited = lobby.metrics().await?.count("lobby_connections_refused_total", &[("limit", "rate")]);
    ensure!(waited > 0, "nobody had to wait: the limit was not met");
    scene.recovered(took, Duration::from_secs(30))?;
    scene.fact(format!(
        "{users} were back after {:.1} s; {per_second}/s and a burst of {burst} are let in, and {waited} times somebody was told to wait",
        took.as_secs_f64()
    ));
    for raw in crowd {
        raw.reset()?;
    }
    sessions(scene, &lobby, 0).await?;
    scene.leaves_nothing(lobby).await
}

/// Logins that succeeded so far.
fn logins(metrics: &Metrics) -> u64 {
    metrics.count("lobby_logins_total", &[("result", "accepted")])
}

/// Connects so many users, each at a moment of the time `within`, and has each wait as often as it is told to.
async fn come(lobby: &Lobby, users: u64, within: Duration) -> anyhow::Result<Vec<Raw>> {
    let mut coming = JoinSet::new();
    for user in 1..=users {
        let transport = Transport::BOTH[usize::from(user % 2 == 0)];
        let address = lobby.address(transport)?;
        let token = token::valid(SECRET, i64::try_from(user)?)?;
        let at = within.mul_f64(fastrand::f64());
        coming.spawn(async move {
            sleep(at).await;
            loop {
                match Raw::knock(transport, address, &token).await {
                    Ok(Knock::In(raw)) => return anyhow::Ok(raw),
                    Ok(Knock::Later(wait)) => sleep(wait).await,
                    // More than can be told so are closed without a word: a client tries again by itself.
                    Err(_) => sleep(Duration::from_secs(1).mul_f64(0.5 + fastrand::f64())).await,
                }
            }
        });
    }
    let mut crowd = Vec::new();
    while let Some(arrived) = coming.join_next().await {
        crowd.push(arrived.context("a client")??);
    }
    Ok(crowd)
}
