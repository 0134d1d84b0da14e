//! Clients that go without a word, or with a reset.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::namespace::Namespace;
use super::{closes, sessions};
use crate::client::{Client, Transport};
use crate::faults::raw::{Raw, auth};
use crate::faults::scene::Scene;
use crate::faults::traffic::Traffic;
use crate::late::Late;
use crate::stage::SECRET;
use crate::stage::proxy::{Proxy, Way};
use crate::token;

/// One client whose packets are dropped in a namespace of its own, where this machine allows that, and one behind a
/// proxy that forwards nothing any more: for the lobby both look like players who have gone to sleep.
pub(super) async fn half_open(scene: &Scene) -> anyhow::Result<()> {
    let interval = Duration::from_secs(scene.pick(1, 45));
    let space = Namespace::make().await;
    let mut setup = scene.setup().set("LOBBY_SESSIONS__PING_INTERVAL", format!("{}s", interval.as_secs()));
    if let Ok(space) = &space {
        setup = setup.set("LOBBY_LISTEN__TCP", format!("{}:0", space.here));
    }
    let lobby = scene.start(&setup).await?;
    let mut player = scene.client(&lobby, Transport::WebSocket, 1).await?;
    player.patient(interval * 10);
    let proxy = Proxy::in_front_of(lobby.address(Transport::WebSocket)?).await?;
    let mut hidden = Client::connect(Transport::WebSocket, proxy.address()).await?;
    hidden.login(&token::valid(SECRET, 2)?).await?;
    let mut half_open = 1;
    let mut far = None;
    match &space {
        Ok(space) => {
            let stream = space.connect(lobby.address(Transport::Tcp)?).await?;
            let mut raw = Raw::over(Transport::Tcp, stream)?;
            raw.login(&token::valid(SECRET, 3)?).await?;
            space.drop_packets().await?;
            far = Some(raw);
            half_open += 1;
            scene.fact("packets dropped by iptables in a network namespace, and a proxy's black hole");
        }
        Err(error) => scene.fact(format!("a proxy's black hole only: {error:#}")),
    }
    Way::BOTH.into_iter().for_each(|way| proxy.silence(way, true));
    let silent = Instant::now();
    // Two pings are sent, the third deadline closes. The other client answers them all the while.
    let within = interval * 3 + Duration::from_secs(3) * scene.pick(4, 1);
    let closing = async {
        while closes(&lobby, "4001").await? < half_open {
            ensure!(silent.elapsed() < within, Late(format!("not closed {within:?} after the last byte")));
            sleep(Duration::from_millis(50)).await;
        }
        anyhow::Ok(())
    };
    player.meanwhile(closing).await?;
    scene.timed(silent.elapsed());
    player.meanwhile(sessions(scene, &lobby, 1)).await?;
    player.pinged(2).await?;
    let sentinel = player.meanwhile(async { scene.notifier().await?.sentinel().await }).await?;
    player.expect_until(&sentinel).await?;
    scene.fact(format!(
        "pings every {interval:?}; closed with 4001 {:.1} s after the last byte",
        silent.elapsed().as_secs_f64()
    ));
    drop((player, hidden, proxy, far));
    if let Ok(space) = space {
        space.end().await?;
    }
    scene.leaves_nothing(lobby).await
}

/// Resets come from some clients at a time, each at another point of its life, while others read a stream that loses
/// nothing.
pub(super) async fn resets(scene: &Scene) -> anyhow::Result<()> {
    const AT_A_TIME: usize = 20;
    /// What an allocator may keep of what was needed at its busiest.
    const SLACK: u64 = 4 << 20;
    let resets = scene.pick(1_000, 10_000);
    let setup = scene.setup().set("LOBBY_LISTEN__MAX_ACCEPTS_PER_SECOND", "0");
    let lobby = scene.start(&setup).await?;
    let mut traffic = Traffic::start(scene, &lobby, 500).await?;
    let next = Arc::new(AtomicU64::new(0));
    let mut halfway = 0;
    for half in 1..=2 {
        let mut clients = JoinSet::new();
        for _ in 0..AT_A_TIME {
            let (next, until) = (Arc::clone(&next), resets / 2 * half);
            let addresses = Transport::BOTH.map(|transport| (transport, lobby.address(transport)));
            clients.spawn(async move {
                loop {
                    let number = next.fetch_add(1, Relaxed);
                    if number >= until {
                        return anyhow::Ok(());
                    }
                    let (transport, address) = &addresses[number as usize % 2];
                    let address = *address.as_ref().map_err(|error| anyhow::anyhow!("{error}"))?;
                    one_reset(*transport, address, number)
                        .await
                        .with_context(|| format!("reset {number}"))?;
                }
            });
        }
        while let Some(client) = clients.join_next().await {
            client.context("a client")??;
        }
        next.store(resets / 2 * half, Relaxed);
        traffic.arrives().await?;
        // The players of the stream are left.
        lobby.metrics_until("no handshakes", |metrics| metrics.count("lobby_handshakes", &[]) == 0).await?;
        sessions(scene, &lobby, 8).await?;
        let now = lobby.resident_bytes().await?;
        if half == 2 {
            let grown = now.saturating_sub(halfway);
            ensure!(grown <= SLACK, "the second {} resets took {grown} bytes of memory", resets / 2);
            scene.fact(format!("{resets} resets; the second half of them took {} KiB", grown >> 10));
        }
        halfway = now;
    }
    let tally = traffic.finish(scene).await?;
    scene.count(&tally, tally.unmarked_of(0))?;
    scene.leaves_nothing(lobby).await
}

/// At one of five points: connected, in the middle of the first message, logged in, with something said that is not
/// answered, with something not read.
async fn one_reset(transport: Transport, address: std::net::SocketAddr, number: u64) -> anyhow::Result<()> {
    let token = token::valid(SECRET, 1_000 + i64::try_from(number)?)?;
    let mut raw = Raw::dial(transport, address).await?;
    match number / 2 % 5 {
        0 => {}
        1 => {
            raw.begin().await?;
            let message = raw.message(auth(&token).as_bytes());
            raw.write(&message[..message.len() / 2]).await?;
        }
        2 => raw.login(&token).await?,
        3 => {
            raw.login(&token).await?;
            let ping = raw.message(br#"{"command":"ping"}"#);
            raw.write(&ping.repeat(50)).await?;
        }
        _ => {
            raw.login(&token).await?;
            // A broadcast has come by then, and is not read.
            raw.stream.readable().await?;
        }
    }
    raw.reset()
}
