//! Who is let in: limits on connections, in all and from each address, in number and in speed.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::tungstenite::{error::Error as WebSocketError, http::StatusCode};

use super::addressing::received;
use super::stage::{SECRET, Stage};
use crate::client::{Client, Dialing, Event, Transport};
use crate::late::Late;
use crate::lobby::Lobby;
use crate::{PATIENCE, token};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
/// The longest wait that a client is told, with `shutdown.retry_spread` at its default, rounded up.
const LONGEST_WAIT: Duration = Duration::from_secs(11);
/// Clients of the crowd; an ordinary limit of open files allows them here and in the lobby.
const CROWD: i64 = 500;

/// More than are turned away at once, by far.
const TURNED_AWAY: usize = 300;

/// How a new connection fares.
enum Knock {
    In(Client),
    /// Told to come back after this long.
    Refused(Duration),
}

/// One connection more than a limit is told to come back, on both transports; those before are unharmed, and a place
/// is free again when its client has left.
pub(super) async fn connection_limits(stage: &Stage) -> anyhow::Result<()> {
    for (setting, limit) in [("max_connections", "total"), ("max_connections_per_address", "address")] {
        let mut lobby = start(stage, &[(setting, "2")]).await?;
        for (transport, refusals) in Transport::BOTH.into_iter().zip(1..) {
            let mut player = stage.client(&lobby, transport, 42).await?;
            let mut stranger = stage.stranger(&lobby, transport).await?;
            refused(knock(&lobby, transport, HERE).await?)?;
            if limit == "address" {
                others_are_let_in(&lobby, transport).await?;
            }
            let metrics = lobby.metrics_until("two left", connections(2)).await?;
            ensure!(metrics.count("lobby_handshakes", &[]) == 1, "one has not logged in:\n{metrics}");
            let counted = metrics.count("lobby_connections_refused_total", &[("limit", limit)]);
            ensure!(counted == refusals, "{counted} of {refusals} refusals are counted:\n{metrics}");

            stranger.login(&token::valid(SECRET, 7)?).await?;
            let sentinel = stage.notifier().await?.sentinel().await?;
            received(&mut player, &sentinel, &[]).await?;
            received(&mut stranger, &sentinel, &[]).await?;
            drop((player, stranger));
            lobby.metrics_until("every place given back", connections(0)).await?;
        }
        is_logged(&lobby, setting, "2")?;
        lobby.stop().await?;
    }
    no_crowd_is_turned_away_one_by_one(stage).await
}

/// Of a crowd over the limit that does not leave, some are told to come back, and the others are closed at once.
async fn no_crowd_is_turned_away_one_by_one(stage: &Stage) -> anyhow::Result<()> {
    let mut lobby = start(stage, &[("max_connections", "1")]).await?;
    let _player = stage.client(&lobby, Transport::Tcp, 42).await?;
    let address = lobby.address(Transport::Tcp)?;
    let mut crowd = Vec::new();
    for _ in 0..TURNED_AWAY {
        crowd.push(TcpStream::connect(address).await?);
    }
    let mut told = 0;
    for stranger in &mut crowd {
        let mut heard = Vec::new();
        // Closed without a word, the socket may also be reset.
        let _ = timeout(PATIENCE, stranger.read_to_end(&mut heard)).await.context("never closed")?;
        told += usize::from(!heard.is_empty());
    }
    // A place is held for two seconds at most, in which the crowd has long come.
    ensure!((1..TURNED_AWAY).contains(&told), "{told} of {TURNED_AWAY} are told to come back");
    drop(crowd);
    lobby.stop().await
}

/// Connections that come too fast are told to come back, on both transports; those before are unharmed, and who
/// waits is let in.
pub(super) async fn connection_rates(stage: &Stage) -> anyhow::Result<()> {
    for (setting, burst, limit) in [
        ("max_accepts_per_second", "accept_burst", "rate"),
        ("max_accepts_per_second_per_address", "accept_burst_per_address", "address_rate"),
    ] {
        for transport in Transport::BOTH {
            let mut lobby = start(stage, &[(setting, "1"), (burst, "3")]).await?;
            let mut players = Vec::new();
            for user in 0..3 {
                players.push(stage.client(&lobby, transport, user).await?);
            }
            let mut let_in = players.len();
            // On a slow machine a second may pass, and one more is right then.
            while let Knock::In(_) = knock(&lobby, transport, HERE).await? {
                let_in += 1;
                ensure!(let_in < 20, "{setting}: nobody is refused");
            }
            if limit == "address_rate" {
                others_are_let_in(&lobby, transport).await?;
            }
            let metrics = lobby.metrics().await?;
            let counted = metrics.count("lobby_connections_refused_total", &[("limit", limit)]);
            ensure!(counted == 1, "one refusal is counted as {counted}:\n{metrics}");
            is_logged(&lobby, setting, "1")?;

            let start = Instant::now();
            while let Knock::Refused(_) = knock(&lobby, transport, HERE).await? {
                ensure!(start.elapsed() < PATIENCE, Late(format!("{setting}: who waits is never let in")));
                sleep(Duration::from_millis(100)).await;
            }
            let sentinel = stage.notifier().await?.sentinel().await?;
            for player in &mut players {
                received(player, &sentinel, &[]).await?;
            }
            lobby.stop().await?;
        }
    }
    Ok(())
}

/// The defaults let a crowd in at once though all share one address, as behind a proxy.
pub(super) async fn crowd_from_one_address(stage: &Stage) -> anyhow::Result<()> {
    let lobby = stage.lobby().await?;
    let mut logins = JoinSet::new();
    for user in 1..=CROWD {
        let transport = Transport::BOTH[usize::from(user % 2 == 0)];
        let address = lobby.address(transport)?;
        let token = token::valid(SECRET, user)?;
        logins.spawn(async move {
            let mut client = Client::connect(transport, address).await?.named(format_args!("user {user}"));
            client.login(&token).await.map(|_| client)
        });
    }
    let mut crowd = Vec::new();
    while let Some(login) = logins.join_next().await {
        crowd.push(login.context("a login")??);
    }
    let metrics = lobby.metrics().await?;
    let refused = metrics.count("lobby_connections_refused_total", &[]);
    ensure!(refused == 0 && metrics.count("lobby_sessions", &[]) == CROWD.unsigned_abs(), "{metrics}");
    Ok(())
}

/// A lobby with these keys of `listen`.
async fn start(stage: &Stage, listen: &[(&str, &str)]) -> anyhow::Result<Lobby> {
    let mut setup = stage.setup();
    for (key, value) in listen {
        setup = setup.set(&format!("LOBBY_LISTEN__{}", key.to_uppercase()), *value);
    }
    stage.start(&setup).await
}

fn connections(wanted: u64) -> impl Fn(&crate::lobby::Metrics) -> bool {
    move |metrics| metrics.count("lobby_connections", &[]) == wanted
}

/// What is refused to one address is not refused to another.
async fn others_are_let_in(lobby: &Lobby, transport: Transport) -> anyhow::Result<()> {
    if cfg!(target_os = "linux") {
        let Knock::In(mut other) = knock(lobby, transport, ELSEWHERE).await? else {
            bail!("another address is refused on {transport}")
        };
        other.login(&token::valid(SECRET, 1000)?).await?;
    }
    Ok(())
}

/// Connects `from` an address and finds out whether it was let in.
async fn knock(lobby: &Lobby, transport: Transport, from: IpAddr) -> anyhow::Result<Knock> {
    let how = Dialing { from: Some(from), ..Dialing::default() };
    let mut client = match Client::dial(transport, lobby.address(transport)?, how).await {
        Ok(client) => client,
        Err(error) => return Ok(Knock::Refused(before_the_upgrade(error)?)),
    };
    client.send(r#"{"command":"ping"}"#).await?;
    let mut lines = Vec::new();
    loop {
        match client.next().await? {
            Event::Line(line) if line.command().as_deref() == Some("pong") => return Ok(Knock::In(client)),
            Event::Line(line) => lines.push(line),
            Event::Ended(ended) => {
                let closing = client.closing(lines, ended)?;
                ensure!(closing.code == 1013 && closing.reconnect, "refused by {closing:?}");
                let millis = closing.retry_after_ms.context("no `retry_after_ms`")?;
                return Ok(Knock::Refused(Duration::from_millis(millis)));
            }
        }
    }
}

/// How long `Retry-After` says to wait, in the 503 that answered a WebSocket's request.
fn before_the_upgrade(error: anyhow::Error) -> anyhow::Result<Duration> {
    let Some(WebSocketError::Http(response)) = error.downcast_ref() else { return Err(error) };
    ensure!(response.status() == StatusCode::SERVICE_UNAVAILABLE, "answered {}", response.status());
    let seconds = response.headers().get("Retry-After").context("no Retry-After")?;
    Ok(Duration::from_secs(seconds.to_str()?.parse().context("Retry-After")?))
}

fn refused(knock: Knock) -> anyhow::Result<()> {
    let Knock::Refused(wait) = knock else { bail!("one more than the limit was let in") };
    ensure!(!wait.is_zero() && wait <= LONGEST_WAIT, "told to wait {wait:?}");
    Ok(())
}

/// The log names the setting that was hit, and its value.
fn is_logged(lobby: &Lobby, setting: &str, value: &str) -> anyhow::Result<()> {
    let setting = format!("listen.{setting}");
    let said = |record: &crate::lobby::Record| {
        record.field("setting").as_ref() == Some(&setting) && record.field("value").as_deref() == Some(value)
    };
    ensure!(lobby.log().records().iter().any(said), "no log line names {setting} = {value}");
    Ok(())
}
