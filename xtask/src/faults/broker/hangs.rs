//! Rows about a broker that is there and does not do its work: it hangs, or blocks publishers.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use rustix::process::Signal;
use tokio::time::{Instant, sleep, sleep_until};

use crate::PATIENCE;
use crate::faults::scene::Scene;
use crate::faults::traffic::{Traffic, reconnects};
use crate::late::Late;

/// `lobby publish` was not confirmed in time.
const WAITED: i32 = 75;

/// Why a broker blocks publishers.
#[derive(Debug, Clone, Copy)]
pub(super) enum Alarm {
    Memory,
    Disk,
}

impl Alarm {
    /// What `rabbitmqctl` is told to raise it, to end it, and the node's field that tells of it.
    fn words(self) -> ([&'static str; 2], [&'static str; 2], &'static str) {
        const MEMORY: &str = "set_vm_memory_high_watermark";
        const DISK: &str = "set_disk_free_limit";
        match self {
            Self::Memory => ([MEMORY, "0.000001"], [MEMORY, "0.4"], "mem_alarm"),
            // Nine petabytes.
            Self::Disk => ([DISK, "9000000000000000"], [DISK, "50000000"], "disk_free_alarm"),
        }
    }
}

/// SIGSTOP for half a minute: the lobby notices by the silence and says so, its clients stay, and all that was
/// published arrives after.
pub(super) async fn stopped(scene: &Scene) -> anyhow::Result<()> {
    let heartbeat = Duration::from_secs(scene.pick(2, 10));
    let hanging = Duration::from_secs(scene.pick(6, 30));
    let (proxy, setup) = scene.proxied(true).await?;
    let setup = setup.set("LOBBY_BROKER__HEARTBEAT", format!("{}s", heartbeat.as_secs()));
    // With the usual settings the self-check misses its canaries before the heartbeats are missed.
    let (interval, max_age) = scene.pick(("500ms", "1s"), ("3s", "10s"));
    let setup = setup.set("LOBBY_SELF_CHECK__INTERVAL", interval).set("LOBBY_SELF_CHECK__MAX_AGE", max_age);
    let mut lobby = scene.start(&setup).await?;
    let mut traffic = Traffic::start(scene, &lobby, 200).await?;
    for _ in 0..scene.pick(1, 2) {
        traffic.flows(200).await?;
        let before = reconnects(&lobby.metrics().await?);
        scene
            .while_broker_hangs(async {
                let start = Instant::now();
                // Longer than one wait's patience, with the long heartbeat.
                let said = loop {
                    match lobby.unready().await {
                        Err(_) if start.elapsed() < heartbeat * 3 => {}
                        said => break said?,
                    }
                };
                let noticed = start.elapsed();
                let limit = (heartbeat * 2 + Duration::from_secs(1)) * scene.pick(2, 1);
                scene.fact(format!("503 after {:.1} s: {}", noticed.as_secs_f64(), said.trim()));
                ensure!(noticed <= limit, Late(format!("noticed after {noticed:?}, limit {limit:?}")));
                while start.elapsed() < hanging {
                    let answer = lobby.admin("/ready").await?;
                    ensure!(answer.status == 503, "/ready says {} while the broker hangs", answer.status);
                    sleep(Duration::from_millis(20)).await;
                }
                Ok(())
            })
            .await?;
        scene.timed(traffic.recovery(&lobby, before, Instant::now()).await?);
    }
    let tally = traffic.finish(scene).await?;
    scene.count(&tally, tally.unmarked(&proxy.marks()))?;
    scene.leaves_nothing(lobby).await
}

/// What waits in the queue is delivered while the broker blocks publishers, the lobby stays ready, and a publisher is
/// told that its time is up.
pub(super) async fn alarmed(scene: &Scene, alarm: Alarm) -> anyhow::Result<()> {
    let Some(management) = scene.management() else {
        scene.skip("the broker's management API is out of reach");
        return Ok(());
    };
    let (raise, end, field) = alarm.words();
    let (proxy, setup) = scene.proxied(true).await?;
    // The lobby is held until the alarm is there, which takes the broker's own command line a while on a busy machine.
    let setup = setup.set("LOBBY_BROKER__HEARTBEAT", "60s");
    let mut lobby = scene.start(&setup).await?;
    let mut traffic = Traffic::start(scene, &lobby, 1000).await?;
    let before = reconnects(&lobby.metrics().await?);
    // A backlog, which must come through while the alarm lasts.
    lobby.signal(Signal::STOP)?;
    let waiting = traffic.confirmed();
    let published = traffic.publishes(1000).await;
    let outcome = async {
        let last = published?;
        scene.control_broker(&raise).await?;
        seen(management, field, true).await?;
        let start = Instant::now();
        lobby.signal(Signal::CONT)?;
        traffic.reaches(last).await.context("the backlog during the alarm")?;
        scene.timed(start.elapsed());
        scene.fact(format!("a backlog of {} was delivered during the alarm", traffic.confirmed() - waiting));
        publisher_is_told(scene).await?;
        let until = start + Duration::from_secs(scene.pick(5, 60));
        while Instant::now() < until {
            let answer = lobby.admin("/ready").await?;
            ensure!(answer.status == 200, "/ready says {} {}", answer.status, answer.body);
            sleep_until((Instant::now() + Duration::from_millis(250)).min(until)).await;
        }
        Ok(())
    };
    let outcome = outcome.await;
    lobby.signal(Signal::CONT)?;
    scene.control_broker(&end).await.and(outcome)?;
    seen(management, field, false).await?;
    traffic.arrives().await?;
    let again = reconnects(&lobby.metrics().await?);
    ensure!(again == before, "the lobby connected again {} times", again - before);
    lobby.ready().await?;
    let tally = traffic.finish(scene).await?;
    scene.count(&tally, tally.unmarked(&proxy.marks()))?;
    scene.leaves_nothing(lobby).await
}

async fn seen(management: &crate::broker::Management, field: &str, wanted: bool) -> anyhow::Result<()> {
    let start = Instant::now();
    loop {
        let nodes = management.get("/nodes").await?;
        if nodes[0][field] == wanted {
            return Ok(());
        }
        ensure!(start.elapsed() < PATIENCE, Late(format!("the broker's `{field}` never was {wanted}")));
        sleep(Duration::from_millis(100)).await;
    }
}

async fn publisher_is_told(scene: &Scene) -> anyhow::Result<()> {
    let command = ["publish", "--broadcast", "--timeout", "2s", r#"{"command":"notice"}"#];
    let start = Instant::now();
    let ended = scene.setup().arguments(command).run_to_exit().await?;
    let took = start.elapsed();
    ensure!(
        ended.status.code() == Some(WAITED),
        "`lobby publish` ended with {}: {}",
        ended.status,
        ended.stderr
    );
    scene.fact(format!(
        "`lobby publish --timeout 2s` after {:.1} s: {}",
        took.as_secs_f64(),
        ended.stderr.trim()
    ));
    Ok(())
}
