//! Two lobbies behind HAProxy with PROXY protocol, replaced one after the other while messages flow.

mod diary;
mod player;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use notify_protocol::NOTIFY_ROUTING_KEY;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, interval, sleep, timeout};

use self::diary::{Diary, Published, addressee, losses, slowest};
use self::player::Player;
use crate::amqp_wire::{AmqpUrl, Message, Outcome, Properties, Publisher};
use crate::broker::ports;
use crate::client::Transport;
use crate::deployment::HAPROXY;
use crate::late::Late;
use crate::lobby::{Lobby, Setup};
use crate::stage::Stage;
use crate::stage::notifier::numbered;
use crate::{PATIENCE, apt};

const PLAYERS: u32 = 2_000;
/// Messages a second: so many each tick.
const EACH_TICK: u64 = 5;
const TICK: Duration = Duration::from_millis(10);
/// Players are told to come back after up to this long.
const RETRY_SPREAD: Duration = Duration::from_secs(5);
const DRAIN_LIMIT: Duration = Duration::from_secs(20);
/// A player may wait so long beyond what he was told.
const EXTRA_WAIT: Duration = Duration::from_secs(1);
/// What was published before a player was told to go may come after that: twice the slowest that came, and this.
const IN_FLIGHT: Duration = Duration::from_millis(200);
/// For all players to be where they belong.
const SETTLING: Duration = Duration::from_secs(60);
/// The busiest second of a roll may have so many times the logins of an even spread.
const MOST_UNEVEN: f64 = 2.5;

/// Each player is told 1012 and is logged in again within what he was told and a second; logins spread evenly; of what
/// was published while a player was connected nothing is lost.
pub(crate) async fn haproxy_rolling(stage: &Stage) -> anyhow::Result<()> {
    let program = match apt::program("haproxy", "haproxy").await {
        Ok(program) => program,
        Err(error) => {
            ensure!(std::env::var_os("CI").is_none(), "CI has no HAProxy: {error:#}");
            stage.skip(format!("no HAProxy: {error:#}"));
            return Ok(());
        }
    };
    let mut pair = Pair::start(stage, &program).await?;
    let lag = Lag::measure();
    let (welcomed, mut welcomes) = watch::channel(0_u64);
    let welcomed = Arc::new(welcomed);
    let mut players = JoinSet::new();
    for user in 1..=PLAYERS {
        let player = Player::new(user, pair.address(transport(user)), Arc::clone(&welcomed));
        players.spawn(player.live());
    }
    all_back(&mut players, &mut welcomes, u64::from(PLAYERS)).await.context("the first logins")?;
    let (stop, stopping) = watch::channel(false);
    let publishing = tokio::spawn(publish(stage.url().clone(), stage.exchange().to_owned(), stopping));

    let mut rolls = Vec::new();
    for which in 0..2 {
        let before = *welcomes.borrow();
        let here = pair.lobbies[which].metrics().await?.count("lobby_sessions", &[]);
        let begin = Instant::now();
        let drained = pair.replace(stage, which).await?;
        all_back(&mut players, &mut welcomes, before + here).await.context("players who come back")?;
        rolls.push((here, begin, drained));
    }
    stop.send_replace(true);
    let published = publishing.await.context("the publisher")??;
    stage.notifier().await?.notify_all(player::THE_END).await?;
    let mut diaries = Vec::new();
    while let Some(diary) = timeout(SETTLING, players.join_next()).await.context("players who end")? {
        diaries.push(diary.context("a player")??);
    }
    judge(stage, &diaries, &published, &rolls, lag.worst())
}

fn transport(user: u32) -> Transport {
    if user.is_multiple_of(2) { Transport::Tcp } else { Transport::WebSocket }
}

fn judge(
    stage: &Stage,
    diaries: &[Diary],
    published: &[Published],
    rolls: &[(u64, Instant, Duration)],
    lag: Duration,
) -> anyhow::Result<()> {
    // On a busy machine everything waits: what that is shows on messages that go the same way.
    let slowest = diaries.iter().map(|diary| slowest(diary, published)).max().unwrap_or_default();
    let under_way = slowest * 2 + IN_FLIGHT;
    let lost: Vec<_> = diaries.iter().flat_map(|diary| losses(diary, published, under_way)).collect();
    ensure!(
        lost.is_empty(),
        "{} messages were lost for connected players: {:?}",
        lost.len(),
        &lost[..lost.len().min(10)]
    );
    let refused: u32 = diaries.iter().map(|diary| diary.refused).sum();
    let waits: Vec<_> = diaries.iter().flat_map(|diary| diary.waits.iter().copied()).collect();
    let longest = waits.iter().max().copied().unwrap_or_default();
    ensure!(
        longest <= EXTRA_WAIT + lag + slowest,
        "a player waited {longest:?} longer than he was told (this program overslept {lag:?}, messages took {slowest:?})"
    );
    for (number, (moved, begin, drained)) in rolls.iter().enumerate() {
        let until = rolls.get(number + 1).map(|(_, next, _)| *next);
        let back: Vec<_> = diaries
            .iter()
            .flat_map(|diary| diary.visits.iter().skip(1))
            .map(|visit| visit.welcomed)
            .filter(|at| at >= begin && until.is_none_or(|until| *at < until))
            .map(|at| at.saturating_duration_since(*begin))
            .collect();
        let spread = diary::spread(&back);
        stage.fact(format!(
            "{moved} players sent away over {:.1} s; logins over {:.1} s, at most {} in a second where an even spread has {:.0}",
            drained.as_secs_f64(),
            spread.over.as_secs_f64(),
            spread.busiest,
            spread.even
        ));
        let busiest = f64::from(spread.busiest);
        ensure!(
            busiest <= spread.even * MOST_UNEVEN,
            "{busiest} logins in one second, evenly {:.0}",
            spread.even
        );
    }
    stage.fact(format!(
        "{} returns, the longest {:.0} ms beyond its retry_after_ms (the test's own lag up to {:.0} ms), {refused} refused at \
         first; of {} messages none lost while connected, the slowest took {:.0} ms",
        waits.len(),
        longest.as_secs_f64() * 1000.0,
        lag.as_secs_f64() * 1000.0,
        published.len(),
        slowest.as_secs_f64() * 1000.0,
    ));
    Ok(())
}

/// Waits for so many welcomes in all; a player who fails ends the wait.
async fn all_back(
    players: &mut JoinSet<anyhow::Result<Diary>>,
    welcomes: &mut watch::Receiver<u64>,
    wanted: u64,
) -> anyhow::Result<()> {
    let waited = tokio::select! {
        waited = timeout(SETTLING, welcomes.wait_for(|count| *count >= wanted)) => waited.is_ok_and(|seen| seen.is_ok()),
        Some(ended) = players.join_next() => {
            ended.context("a player")??;
            bail!("a player went home early");
        }
    };
    ensure!(waited, "{} welcomes of {wanted} in {SETTLING:?}", *welcomes.borrow());
    Ok(())
}

/// Two lobbies with HAProxy in front of them.
struct Pair {
    lobbies: Vec<Lobby>,
    setups: Vec<Setup>,
    _haproxy: Child,
    tcp: SocketAddr,
    websocket: SocketAddr,
}

impl Pair {
    async fn start(stage: &Stage, program: &Path) -> anyhow::Result<Self> {
        let [tcp, websocket, ours @ ..]: [u16; 8] = ports::free().context("ports")?;
        let mut command = Command::new(program);
        // In the foreground, with as many connections as descriptors allow everywhere.
        command.args(["-db", "-n", "6000", "-f"]).arg(root()?.join(HAPROXY)).current_dir(stage.directory());
        command.env("LOBBY_PROXY_TCP", format!("127.0.0.1:{tcp}"));
        command.env("LOBBY_PROXY_WEBSOCKET", format!("127.0.0.1:{websocket}"));
        let (mut lobbies, mut setups) = (Vec::new(), Vec::new());
        for (name, ports) in ["A", "B"].into_iter().zip(ours.chunks(3)) {
            command.env(format!("LOBBY_{name}"), "127.0.0.1");
            let mut setup = stage
                .setup()
                .set("LOBBY_INSTANCE__NAME", format!("{}-{name}", stage.instance()))
                .set("LOBBY_LISTEN__TRUSTED_PROXIES", "127.0.0.1")
                .set("LOBBY_LISTEN__PROXY_PROTOCOL", "on")
                .set("LOBBY_SHUTDOWN__DRAIN_TIMEOUT", format!("{}s", DRAIN_LIMIT.as_secs()))
                .set("LOBBY_SHUTDOWN__RETRY_SPREAD", format!("{}s", RETRY_SPREAD.as_secs()));
            for (listener, port) in ["TCP", "WEBSOCKET", "ADMIN"].into_iter().zip(ports) {
                command.env(format!("LOBBY_{name}_{listener}"), port.to_string());
                setup = setup.set(&format!("LOBBY_LISTEN__{listener}"), format!("127.0.0.1:{port}"));
            }
            lobbies.push(stage.start(&setup).await?);
            setups.push(setup);
        }
        let log = std::fs::File::create(stage.directory().join("haproxy.log"))?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).kill_on_drop(true).process_group(0);
        let mut haproxy = command.spawn().context("start HAProxy")?;
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let begin = Instant::now();
        while TcpStream::connect(at(websocket)).await.is_err() {
            if let Some(status) = haproxy.try_wait()? {
                let said = std::fs::read_to_string(stage.directory().join("haproxy.log")).unwrap_or_default();
                bail!("HAProxy exited with {status}: {said}");
            }
            ensure!(begin.elapsed() < PATIENCE, Late(format!("HAProxy does not listen after {PATIENCE:?}")));
            sleep(TICK).await;
        }
        Ok(Self { lobbies, setups, _haproxy: haproxy, tcp: at(tcp), websocket: at(websocket) })
    }

    fn address(&self, transport: Transport) -> (Transport, SocketAddr) {
        match transport {
            Transport::Tcp => (transport, self.tcp),
            Transport::WebSocket => (transport, self.websocket),
        }
    }

    /// SIGTERM, exit 0, a new one in its place that is ready; how long the old one took to end.
    async fn replace(&mut self, stage: &Stage, which: usize) -> anyhow::Result<Duration> {
        let begin = Instant::now();
        self.lobbies[which].terminate()?;
        let status = self.lobbies[which].exited(DRAIN_LIMIT + PATIENCE).await?;
        ensure!(status.success(), "the lobby ended with {status}");
        let drained = begin.elapsed();
        self.lobbies[which] = stage.start(&self.setups[which]).await?;
        Ok(drained)
    }
}

fn root() -> anyhow::Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    root.map(Path::to_path_buf).context("the repository's root")
}

/// Publishes until told to stop; all that was confirmed, with the moment before it was sent.
async fn publish(
    url: AmqpUrl,
    exchange: String,
    stopping: watch::Receiver<bool>,
) -> anyhow::Result<Vec<Published>> {
    let mut publisher = Publisher::open(&url).await?;
    let mut tick = interval(TICK);
    let mut sent = Vec::new();
    while !*stopping.borrow() {
        tick.tick().await;
        for _ in 0..EACH_TICK {
            let seq = sent.len() as u64;
            let message = Message {
                exchange: exchange.clone(),
                routing_key: NOTIFY_ROUTING_KEY.to_owned(),
                properties: Properties::to_user(addressee(seq, PLAYERS).map(i64::from))?,
                body: Bytes::from(numbered(seq)),
            };
            sent.push(Published { seq, to: addressee(seq, PLAYERS), at: Instant::now() });
            publisher.publish(seq, &message).await?;
        }
    }
    publisher.settle().await?;
    let settled = publisher.take_settled();
    let failed = settled.iter().find(|(_, outcome)| *outcome != Outcome::Confirmed);
    ensure!(failed.is_none(), "the broker said {failed:?}");
    Ok(sent)
}

/// How late this program's own timers were at worst: on a busy machine players wait for it, not for the lobby.
struct Lag {
    worst_micros: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Lag {
    fn measure() -> Self {
        let lag = Self { worst_micros: Arc::default(), stop: Arc::default() };
        let (worst, stop) = (Arc::clone(&lag.worst_micros), Arc::clone(&lag.stop));
        tokio::spawn(async move {
            while !stop.load(Relaxed) {
                let due = Instant::now() + TICK;
                tokio::time::sleep_until(due).await;
                let late = u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX);
                worst.fetch_max(late, Relaxed);
            }
        });
        lag
    }

    fn worst(&self) -> Duration {
        self.stop.store(true, Relaxed);
        Duration::from_micros(self.worst_micros.load(Relaxed))
    }
}
