//! An hour of everything: messages, clients who come and go, and one fault after the other.

mod churn;
mod gauge;

use anyhow::{Context as _, ensure};
use tokio::time::{Duration, Instant, sleep};

use self::churn::Churn;
use self::gauge::Gauge;
use crate::amqp_wire::Connection;
use crate::client::{Client, Dialing, Transport};
use crate::faults::scene::Scene;
use crate::faults::traffic::{Traffic, reconnects};
use crate::lobby::Lobby;
use crate::stage::{Going, SECRET};
use crate::token;

const MIB: f64 = 1_048_576.0;
/// Bytes an hour, by least squares, after the warm-up.
const SLOPE: f64 = MIB;
/// What the short form may grow: a minute has no slope.
const GROWTH: f64 = 24.0 * MIB;
/// Descriptors may differ so much between the halves' means: churn is never the same.
const UNSTEADY: f64 = 5.0;
const OUTBOX: usize = 1 << 20;
/// Messages a second while the broker is there. It is away for about a tenth of the hour, and the mean shall be 1,000.
const OFFERED: u64 = 1_150;
/// The mean of the long form, at least.
const MEAN: f64 = 1_000.0;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    ConnectionsClosed,
    QueueDeleted,
    SlowReaders,
    BrokerRestarted,
}

const TROUBLES: [Trouble; 4] =
    [Trouble::ConnectionsClosed, Trouble::QueueDeleted, Trouble::SlowReaders, Trouble::BrokerRestarted];

/// The stream's players stay connected through all of it and miss nothing.
pub(super) async fn soaked(scene: &Scene) -> anyhow::Result<()> {
    let length = Duration::from_secs(scene.pick(60, 3_600));
    let (proxy, setup) = scene.proxied(true).await?;
    let setup = setup.set("LOBBY_SESSIONS__OUTBOX_BYTES", OUTBOX.to_string());
    let mut lobby = scene.start(&setup).await?;
    let mut traffic = Traffic::start(scene, &lobby, OFFERED).await?;
    let mut churn = Churn::start(&lobby)?;
    let gauge = Gauge::start(&lobby, scene.pick(false, true), traffic.counter(), churn.counter())?;
    let mut random = fastrand::Rng::new();
    let (start, mut counts, mut order) = (Instant::now(), [0_u64; TROUBLES.len()], Vec::new());
    while start.elapsed() < length {
        sleep(Duration::from_secs(random.u64(scene.pick(2..5, 20..60)))).await;
        if order.is_empty() {
            // Each once in every four, in an order of chance.
            order = (0..TROUBLES.len()).collect();
            random.shuffle(&mut order);
        }
        let Some(which) = order.pop() else { continue };
        if TROUBLES[which] == Trouble::ConnectionsClosed && !scene.has_management() {
            continue;
        }
        let fault = format!("{:?} after {:?}", TROUBLES[which], start.elapsed());
        gauge.note(format!("{:?}", TROUBLES[which]));
        trouble(scene, &lobby, &mut traffic, TROUBLES[which]).await.context(fault)?;
        lobby.ready().await?;
        churn.check().await?;
        counts[which] += 1;
    }
    let came = churn.finish().await?;
    let seconds = start.elapsed().as_secs_f64();
    let samples = gauge.finish()?;
    let tally = traffic.finish(scene).await?;
    let happened: Vec<_> =
        TROUBLES.iter().zip(counts).map(|(what, count)| format!("{count} × {what:?}")).collect();
    scene.fact(format!(
        "{seconds:.0} s: {} confirmed ({:.0}/s), {} returned, {} unknown; {came} clients came and went ({:.0}/s); {}",
        tally.confirmed,
        tally.confirmed as f64 / seconds,
        tally.returned,
        tally.unknown,
        came as f64 / seconds,
        happened.join(", ")
    ));
    scene.count(&tally, tally.unmarked(&proxy.marks()))?;
    judge(scene, &samples)?;
    let rate = tally.confirmed as f64 / seconds;
    ensure!(scene.pick(true, false) || rate >= MEAN, "{rate:.0} messages/s were confirmed, not {MEAN}");
    scene.leaves_nothing(lobby).await
}

fn judge(scene: &Scene, samples: &gauge::Samples) -> anyhow::Result<()> {
    let figures = samples.after_warm_up().context("too short to be judged")?;
    scene.fact(format!(
        "after a warm-up of {:.0} s: memory {:.1} MiB at first, {:.1} MiB at last, slope {:+.2} MiB/h; descriptors {:.1} in the \
         first half, {:.1} in the second (means)",
        figures.warm_up.as_secs_f64(),
        figures.first / MIB,
        figures.last / MIB,
        figures.slope / MIB,
        figures.descriptors[0],
        figures.descriptors[1]
    ));
    if scene.pick(true, false) {
        scene.fact("the slope is judged in the long form only, over an hour");
        ensure!(
            figures.last - figures.first <= GROWTH,
            "memory grew by {:.1} MiB",
            (figures.last - figures.first) / MIB
        );
        return Ok(());
    }
    scene.fact(format!("the figures of each minute: {}", gauge::FIGURES));
    ensure!(figures.slope < SLOPE, "memory grows by {:.2} MiB an hour", figures.slope / MIB);
    let [first, second] = figures.descriptors;
    ensure!(
        second - first <= UNSTEADY,
        "{first:.1} descriptors in the first half, {second:.1} in the second"
    );
    Ok(())
}

async fn trouble(scene: &Scene, lobby: &Lobby, traffic: &mut Traffic, what: Trouble) -> anyhow::Result<()> {
    let before = reconnects(&lobby.metrics().await?);
    match what {
        Trouble::ConnectionsClosed => {
            let fault = scene.close_lobby_connections().await?;
            scene.timed(traffic.recovery(lobby, before, fault).await?);
        }
        Trouble::QueueDeleted => {
            // What waits in a queue goes with it: nothing does.
            traffic.pause().await?;
            Connection::open(scene.url()).await?.delete_queue(&scene.queue()).await?;
            let fault = Instant::now();
            scene.queue_with_consumers(&scene.queue(), 1).await?;
            traffic.resume();
            traffic.arrives().await?;
            scene.timed(fault.elapsed());
        }
        Trouble::SlowReaders => slow_readers(scene, lobby).await?,
        Trouble::BrokerRestarted => {
            scene.restart_broker(Going::Stopped).await?;
            let back = Instant::now();
            scene.timed(traffic.recovery(lobby, before, back).await?);
        }
    }
    Ok(())
}

/// Some who never read get more than their outboxes hold, and are closed.
async fn slow_readers(scene: &Scene, lobby: &Lobby) -> anyhow::Result<()> {
    const READERS: i64 = 3;
    const FIRST: i64 = 900_000;
    /// What the kernel buffers comes first.
    const MOST: usize = 64;
    let closed = async || anyhow::Ok(lobby.metrics().await?.count("lobby_closes_total", &[("code", "4000")]));
    let before = closed().await?;
    let mut readers = Vec::new();
    for user in FIRST..FIRST + READERS {
        let how = Dialing { receive_buffer: Some(8 * 1024), ..Dialing::default() };
        let mut reader =
            Client::dial(Transport::Tcp, lobby.address(Transport::Tcp)?, how).await?.named("slow");
        reader.login(&token::valid(SECRET, user)?).await?;
        readers.push(reader);
    }
    let body = format!(r#"{{"fill":"{}"}}"#, "x".repeat(256 * 1024));
    let mut notifier = scene.notifier().await?;
    for _ in 0..MOST {
        for user in FIRST..FIRST + READERS {
            notifier.notify_user(user, &body).await?;
        }
        if closed().await? >= before + READERS.unsigned_abs() {
            return Ok(());
        }
    }
    anyhow::bail!("clients that never read are still connected")
}
