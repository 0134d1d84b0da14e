//! One address that tries signature after signature, and players who log in meanwhile.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use anyhow::{Context as _, ensure};
use serde_json::json;
use tokio::time::{Duration, Instant, sleep};

use crate::client::{Client, Dialing, Transport};
use crate::faults::scene::Scene;
use crate::late::Late;
use crate::lobby::Lobby;
use crate::stage::SECRET;
use crate::token;

const ATTACKER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 9, 9));
const RATE: u64 = 5;
const BURST: u64 = 50;
/// Connections that the attacker opens at once.
const CROWD: usize = 8;
/// Logins whose time is taken in each phase.
const LOGINS: u32 = 300;
/// How much longer the slowest in a hundred may take beside a flood: in the short form rows run on a busy machine. A few
/// milliseconds more are no difference.
const FLAT: (f64, f64) = (4.0, 2.0);
const NO_DIFFERENCE: Duration = Duration::from_millis(20);

/// Quiet and flood in turn, so that what else the machine does falls on both.
pub(super) async fn of_bad_signatures(scene: &Scene) -> anyhow::Result<()> {
    let setup = scene
        .setup()
        .set("LOBBY_LISTEN__MAX_ACCEPTS_PER_SECOND_PER_ADDRESS", RATE.to_string())
        .set("LOBBY_LISTEN__ACCEPT_BURST_PER_ADDRESS", BURST.to_string());
    let lobby = scene.start(&setup).await?;
    let (mut quiet, mut beside) = (Vec::new(), Vec::new());
    let (tries, refused) = (AtomicU64::new(0), AtomicU64::new(0));
    let mut user = 0;
    let start = Instant::now();
    for _ in 0..scene.pick(3, 9) {
        quiet.push(p99(&lobby, &mut user).await?);
        let done = AtomicBool::new(false);
        let crowd = (0..CROWD).map(|_| attack(&lobby, &done, &tries, &refused));
        let healthy = async {
            let time = p99(&lobby, &mut user).await;
            done.store(true, Relaxed);
            time
        };
        let (time, attacks) = tokio::join!(healthy, futures_util::future::try_join_all(crowd));
        attacks?;
        beside.push(time?);
    }
    let let_in = tries.load(Relaxed);
    let limit = BURST + RATE * (start.elapsed().as_secs() + 1);
    ensure!(let_in <= limit, "{let_in} connections of one address were let in, limit {limit}");
    let refused = refused.load(Relaxed);
    ensure!(refused > 0, "the flood never met its limit");
    let metrics = lobby.metrics().await?;
    let counted = metrics.count("lobby_connections_refused_total", &[("limit", "address_rate")]);
    ensure!(counted >= refused, "{refused} were refused, {counted} are counted:\n{metrics}");
    let (quiet, beside) = (median(quiet), median(beside));
    scene.fact(format!(
        "{let_in} connections of the attacker let in, {counted} refused; p99 of {LOGINS} healthy logins {:.1} ms in quiet, \
         {:.1} ms beside the flood (medians)",
        quiet.as_secs_f64() * 1e3,
        beside.as_secs_f64() * 1e3
    ));
    let (short, long) = FLAT;
    let most = quiet.mul_f64(scene.pick(short, long)).max(quiet + NO_DIFFERENCE);
    ensure!(
        beside <= most,
        Late(format!("p99 of a login is {beside:?} beside the flood, {quiet:?} without"))
    );
    scene.leaves_nothing(lobby).await
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// Players from addresses of their own log in one after the other.
async fn p99(lobby: &Lobby, user: &mut u32) -> anyhow::Result<Duration> {
    let mut times = Vec::new();
    for _ in 0..LOGINS {
        *user += 1;
        let [_, _, high, low] = user.to_be_bytes();
        let from = cfg!(target_os = "linux").then(|| IpAddr::V4(Ipv4Addr::new(127, 1, high, low.max(1))));
        let transport = Transport::BOTH[*user as usize % 2];
        let how = Dialing { from, ..Dialing::default() };
        let start = Instant::now();
        let mut client = Client::dial(transport, lobby.address(transport)?, how).await?;
        client.login(&token::valid(SECRET, i64::from(*user))?).await.context("a healthy login")?;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    Ok(times[times.len() * 99 / 100])
}

/// As many tries as a connection is given, and then the next connection.
async fn attack(
    lobby: &Lobby,
    done: &AtomicBool,
    tries: &AtomicU64,
    refused: &AtomicU64,
) -> anyhow::Result<()> {
    let bad = token::signed(
        "not the secret of this lobby, but as long",
        &json!({ "alg": "HS256" }),
        &token::claims(1)?,
    )?;
    let how = Dialing { from: cfg!(target_os = "linux").then_some(ATTACKER), ..Dialing::default() };
    while !done.load(Relaxed) {
        // A thousand a second at most, with the others.
        sleep(Duration::from_millis(CROWD as u64)).await;
        let Ok(mut client) = Client::dial(Transport::Tcp, lobby.address(Transport::Tcp)?, how).await else {
            refused.fetch_add(1, Relaxed);
            continue;
        };
        for _ in 0..3 {
            let _ = client.authenticate(&bad).await;
        }
        let lines = client.until_end().await.map(|(lines, _)| lines).unwrap_or_default();
        let said: Vec<_> = lines.iter().filter_map(crate::client::Line::command).collect();
        ensure!(!said.iter().any(|command| command == "welcome"), "a bad signature was welcome");
        if said.iter().any(|command| command == "authentication_failed") {
            tries.fetch_add(1, Relaxed);
        } else {
            refused.fetch_add(1, Relaxed);
        }
    }
    Ok(())
}
