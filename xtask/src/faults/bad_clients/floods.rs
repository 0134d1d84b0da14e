//! Clients that cost time or memory by how much, or how slowly, they say.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::{Bystander, grown};
use crate::PATIENCE;
use crate::bench::crowd::{Crowd, Place};
use crate::client::Transport;
use crate::faults::raw::{Raw, auth, holds, upgrade};
use crate::faults::scene::Scene;
use crate::late::Late;
use crate::stage::SECRET;
use crate::token;

/// Logins, half of them over WebSocket, each a byte a second. All are closed when their time is over; meanwhile others
/// log in as if nobody was there.
pub(super) async fn slow_handshakes(scene: &Scene) -> anyhow::Result<()> {
    let (slow, limit) = scene.pick((500_u64, Duration::from_secs(4)), (5_000, Duration::from_secs(30)));
    let setup = scene.setup().set("LOBBY_SESSIONS__LOGIN_TIMEOUT", format!("{}s", limit.as_secs()));
    let lobby = scene.start(&setup).await?;
    let mut bystander = Bystander::enter(scene, &lobby).await?;
    let before = lobby.resident_bytes().await?;
    let mut dribbling = JoinSet::new();
    for number in 0..slow {
        let transport = Transport::BOTH[number as usize % 2];
        dribbling.spawn(dribble(transport, lobby.address(transport)?));
    }
    let there =
        |count: u64| move |metrics: &crate::lobby::Metrics| metrics.count("lobby_handshakes", &[]) >= count;
    lobby.metrics_until("all of them in their handshakes", there(slow * 9 / 10)).await?;
    let mut logins = 0;
    while lobby.metrics().await?.count("lobby_handshakes", &[]) > slow / 2 {
        for transport in Transport::BOTH {
            let begin = Instant::now();
            let mut raw = Raw::dial(transport, lobby.address(transport)?).await?;
            raw.login(&token::valid(SECRET, 7)?).await?;
            scene.recovered(begin.elapsed(), Duration::from_secs(1))?;
            logins += 1;
        }
        sleep(Duration::from_millis(20)).await;
    }
    ensure!(logins > 0, "the slow ones were gone before anybody could log in beside them");
    let mut longest = Duration::ZERO;
    while let Some(ended) = dribbling.join_next().await {
        longest = longest.max(ended.context("a slow client")??);
    }
    let most = limit + Duration::from_secs(5) * scene.pick(4, 1);
    ensure!(longest <= most, Late(format!("one was closed after {longest:?}, limit {limit:?}")));
    lobby.metrics_until("no handshakes", |metrics| metrics.count("lobby_handshakes", &[]) == 0).await?;
    let grown = grown(scene, &lobby, before).await?;
    bystander.is_well(scene).await?;
    scene.fact(format!(
        "{slow} closed after at most {:.1} s, limit {limit:?}; {logins} others logged in meanwhile; memory grew by {} KiB",
        longest.as_secs_f64(),
        grown >> 10
    ));
    drop(bystander);
    scene.leaves_nothing(lobby).await
}

/// Says a login a byte a second until the lobby closes; how long that took.
async fn dribble(transport: Transport, address: SocketAddr) -> anyhow::Result<Duration> {
    let mut raw = Raw::dial(transport, address).await?;
    let begin = Instant::now();
    let words = match transport {
        Transport::Tcp => auth(&"x".repeat(1000)),
        Transport::WebSocket => upgrade(&format!("X-Long: {}\r\n", "x".repeat(1000))),
    };
    let mut part = [0; 1024];
    for byte in words.as_bytes() {
        tokio::select! {
            read = raw.stream.read(&mut part) => {
                // The last words first, then the end.
                if !matches!(read, Ok(1..)) {
                    return Ok(begin.elapsed());
                }
            }
            () = sleep(Duration::from_secs(1)) => {
                if raw.stream.write_all(std::slice::from_ref(byte)).await.is_err() {
                    return Ok(begin.elapsed());
                }
            }
        }
    }
    bail!("the lobby listened to a whole login of a byte a second")
}

/// Many at once say 20 MB in one header, or in one line, before the login and after it. Each is answered when the limit
/// is passed, and memory does not grow with what they say.
pub(super) async fn endless(scene: &Scene) -> anyhow::Result<()> {
    const LENGTH: usize = 20_000_000;
    let at_once = scene.pick(20_u64, 100);
    let lobby = scene.lobby().await?;
    let mut bystander = Bystander::enter(scene, &lobby).await?;
    let before = lobby.resident_bytes().await?;
    for (what, transport, logged_in, begin, wanted) in [
        ("an HTTP header", Transport::WebSocket, false, "GET / HTTP/1.1\r\nHost: x\r\nX-Long: ", 431),
        ("a line before the login", Transport::Tcp, false, r#"{"command":"auth","token":""#, 1009),
        ("a line after the login", Transport::Tcp, true, r#"{"command":"ping","x":""#, 1009),
    ] {
        let mut clients = JoinSet::new();
        for number in 0..at_once {
            let address = lobby.address(transport)?;
            let token = token::valid(SECRET, 100 + i64::try_from(number)?)?;
            clients.spawn(async move {
                let mut raw = Raw::dial(transport, address).await?;
                if logged_in {
                    raw.login(&token).await?;
                }
                raw.write(begin.as_bytes()).await?;
                talk_on(raw, LENGTH, wanted).await
            });
        }
        let mut most = 0;
        while let Some(taken) = clients.join_next().await {
            most = most.max(taken.context("a client")?.with_context(|| what.to_owned())?);
        }
        scene.fact(format!(
            "{what}, {at_once} at once: answered with {wanted}; at most {} KiB left a client before",
            most >> 10
        ));
    }
    let grown = grown(scene, &lobby, before).await?;
    // Twice the limits and what a connection needs anyway.
    let limit = at_once * (256 << 10) + (16 << 20);
    ensure!(grown <= limit, "memory grew by {grown} bytes, limit {limit}");
    scene.fact(format!("memory grew by {} KiB", grown >> 10));
    bystander.is_well(scene).await?;
    drop(bystander);
    scene.leaves_nothing(lobby).await
}

/// Says `length` bytes while it listens: how many had been taken, by the kernel or the lobby, when the answer came.
async fn talk_on(raw: Raw, length: usize, wanted: u16) -> anyhow::Result<usize> {
    let (mut read, mut write) = raw.stream.into_split();
    let said = AtomicUsize::new(0);
    let talking = async {
        let part = vec![b'x'; 16 * 1024];
        while said.load(Relaxed) < length {
            if write.write_all(&part).await.is_err() {
                break;
            }
            said.fetch_add(part.len(), Relaxed);
        }
        std::future::pending::<()>().await;
    };
    let listening = async {
        let mut heard = Vec::new();
        let mut part = [0; 4096];
        loop {
            match read.read(&mut part).await {
                Ok(count @ 1..) => heard.extend_from_slice(&part[..count]),
                _ => bail!("no answer, but {}", heard.escape_ascii()),
            }
            if holds(&heard, wanted.to_string().as_bytes()) {
                return Ok(said.load(Relaxed));
            }
        }
    };
    let answered = async {
        tokio::select! {
            answered = listening => answered,
            () = talking => bail!("talked for ever"),
        }
    };
    let taken = timeout(PATIENCE, answered).await.with_context(|| format!("no answer in {PATIENCE:?}"))??;
    ensure!(taken < length, "all {length} bytes were taken before the answer");
    Ok(taken)
}

/// Some ping as fast as they can and read the answers, one pings and does not read; each comes back whenever it is
/// closed. A crowd beside them is timed before and meanwhile.
pub(super) async fn pings(scene: &Scene) -> anyhow::Result<()> {
    const READING: i64 = 4;
    let healthy = scene.pick(200, 1_000);
    let setup = scene.setup().set("LOBBY_SESSIONS__PING_INTERVAL", "1h");
    let lobby = scene.start(&setup).await?;
    let address = lobby.address(Transport::Tcp)?;
    let place = Place {
        transport: Transport::Tcp,
        address,
        secret: SECRET,
        broker: scene.url().clone(),
        exchange: scene.exchange().to_owned(),
    };
    let mut crowd = Crowd::gather(&place, 1..healthy + 1).await?;
    let pace = Duration::from_millis(20);
    crowd.broadcasts(20, pace).await?;
    let quiet = crowd.broadcasts(scene.pick(100, 500), pace).await?;
    let before = lobby.resident_bytes().await?;
    let answered = Arc::new(AtomicU64::new(0));
    let mut flood = JoinSet::new();
    for number in 0..=READING {
        let (token, answered) = (token::valid(SECRET, 1_000_000 + number)?, Arc::clone(&answered));
        flood.spawn(async move {
            loop {
                let mut raw = Raw::dial(Transport::Tcp, address).await?;
                raw.login(&token).await?;
                ping_on(raw, number < READING, &answered).await?;
            }
        });
    }
    let begin = Instant::now();
    let flooded = crowd.broadcasts(scene.pick(150, 1_000), pace).await?;
    let per_second = answered.load(Relaxed) as f64 / begin.elapsed().as_secs_f64();
    let grown = grown(scene, &lobby, before).await?;
    if let Some(ended) = flood.try_join_next() {
        let ended: anyhow::Result<()> = ended.context("a client")?;
        ended.context("a client that pings")?;
    }
    let closed = lobby.metrics().await?.count("lobby_closes_total", &[("code", "1008")]);
    scene.fact(format!(
        "closed with 1008 {closed} times, {per_second:.0} pings/s answered; p50/p99 of {healthy} others {:.1}/{:.1} ms before, \
         {:.1}/{:.1} ms meanwhile; memory grew by {} KiB",
        quiet.p50_ms,
        quiet.p99_ms,
        flooded.p50_ms,
        flooded.p99_ms,
        grown >> 10
    ));
    ensure!(closed > 0, "nobody was closed for pinging without end");
    let limit = (quiet.p99_ms * 1.5 + 25.0) * scene.pick(4.0, 1.0);
    ensure!(
        flooded.p99_ms <= limit,
        Late(format!("p99 of the others is {:.1} ms, limit {limit:.1}", flooded.p99_ms))
    );
    ensure!(grown <= 16 << 20, "memory grew by {grown} bytes");
    flood.shutdown().await;
    drop(crowd);
    scene.leaves_nothing(lobby).await
}

/// Pings until it is closed. What it reads are pongs, the crowd's broadcasts and at last the reason, unless that is lost
/// with a reset; nothing of it is what it said.
async fn ping_on(raw: Raw, reads: bool, answered: &AtomicU64) -> anyhow::Result<()> {
    const MARK: &str = "said-by-the-flood";
    let pings = format!(r#"{{"command":"ping","x":"{MARK}"}}"#) + "\n";
    let pings = pings.repeat(500);
    let (mut read, mut write) = raw.stream.into_split();
    let talking = async { while write.write_all(pings.as_bytes()).await.is_ok() {} };
    if !reads {
        talking.await;
        return Ok(());
    }
    let listening = async {
        let mut part = vec![0; 64 * 1024];
        let mut last = Vec::new();
        loop {
            let Ok(count) = read.read(&mut part).await else { return Ok(()) };
            if count == 0 {
                let told = holds(&last, br#""code":1008"#);
                ensure!(told, "closed after {}", last.escape_ascii());
                return Ok(());
            }
            let heard = &part[..count];
            ensure!(!holds(heard, MARK.as_bytes()), "what was said came back");
            let pongs = heard.windows(6).filter(|window| *window == b"\"pong\"").count();
            answered.fetch_add(pongs as u64, Relaxed);
            last.extend_from_slice(heard);
            last.drain(..last.len().saturating_sub(300));
        }
    };
    tokio::join!(talking, listening).1
}
