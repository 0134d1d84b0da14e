//! Fewer descriptors than clients.

use std::time::Duration;

use anyhow::ensure;
use tokio::time::{Instant, sleep};

use crate::bench::process::Usage;
use crate::client::Transport;
use crate::faults::raw::Raw;
use crate::faults::scene::Scene;
use crate::faults::traffic::{Traffic, reconnects};
use crate::late::Late;
use crate::stage::SECRET;
use crate::token;

/// More connections than descriptors are held open for a while. Whoever is in stays in, the broker's connection stands,
/// accepting rests; when they are gone everybody is let in again.
pub(super) async fn too_few(scene: &Scene) -> anyhow::Result<()> {
    // With 256, the limit on connections is below that on descriptors; with 64 they run out.
    for descriptors in [256, 64] {
        let script = format!(r#"ulimit -n {descriptors} && exec "$0" "$@""#);
        let lobby = scene.start(&scene.setup().through_shell(&script)).await?;
        let mut traffic = Traffic::start(scene, &lobby, 200).await?;
        traffic.flows(100).await?;
        let before = reconnects(&lobby.metrics().await?);
        let quiet = busy(&lobby, &mut traffic, scene.pick(2, 5)).await?;
        let mut crowd = Vec::new();
        for number in 0..1_000 {
            let transport = Transport::BOTH[number % 2];
            crowd.push(Raw::dial(transport, lobby.address(transport)?).await?);
        }
        let crowded = busy(&lobby, &mut traffic, scene.pick(4, 20)).await?;
        // All of them go, and are noticed to be gone.
        drop(crowd);
        let begin = Instant::now();
        loop {
            let again = async {
                let mut raw = Raw::dial(Transport::Tcp, lobby.address(Transport::Tcp)?).await?;
                raw.login(&token::valid(SECRET, 100)?).await
            };
            if again.await.is_ok() {
                break;
            }
            ensure!(
                begin.elapsed() < crate::PATIENCE,
                Late("nobody is let in after the crowd has gone".to_owned())
            );
            sleep(Duration::from_millis(50)).await;
        }
        scene.timed(begin.elapsed());
        let after = lobby.metrics().await?;
        ensure!(reconnects(&after) == before, "the broker's connection was lost");
        let rested = lobby.log().holds("accepting failed");
        let refused = after.count("lobby_connections_refused_total", &[]);
        let tally = traffic.finish(scene).await?;
        scene.count(&tally, tally.unmarked_of(0))?;
        scene.fact(format!(
            "{descriptors} descriptors, 1,000 connections: {refused} refused, {}; CPU {:.0} % of a core, {:.0} % without them",
            if rested { "accepting had to rest" } else { "none failed for want of descriptors" },
            crowded * 100.0,
            quiet * 100.0
        ));
        ensure!(crowded < quiet + 0.5, "the lobby spins: {crowded:.2} of a core, {quiet:.2} before");
        scene.leaves_nothing(lobby).await?;
    }
    Ok(())
}

/// How much of a core the lobby takes over some seconds in which its players are served.
async fn busy(lobby: &crate::lobby::Lobby, traffic: &mut Traffic, seconds: u64) -> anyhow::Result<f64> {
    let (begin, before) = (Instant::now(), Usage::of(lobby.pid())?);
    while begin.elapsed() < Duration::from_secs(seconds) {
        traffic.arrives().await?;
        sleep(Duration::from_millis(100)).await;
    }
    let used = Usage::of(lobby.pid())?.since(&before).cpu();
    Ok(used as f64 / begin.elapsed().as_nanos() as f64)
}
