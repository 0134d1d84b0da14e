//! One user, several connections: the three policies, and a hundred logins at once.

use anyhow::{Context as _, bail, ensure};
use tokio::task::JoinSet;

use super::addressing::received;
use super::notifier::numbered;
use super::stage::{SECRET, Stage};
use crate::client::{Client, Event, Line, Transport};
use crate::lobby::Lobby;
use crate::token;

/// Logins at once.
pub(crate) const CROWD: usize = 100;
const KICK: &str = "You have been signed out because you signed in elsewhere.";

/// Under `replace` the newer login wins: the older one gets FAF's notice, then `closing` 4501.
pub(super) async fn replace(stage: &Stage) -> anyhow::Result<()> {
    let lobby = stage.lobby().await?;
    for (older, newer) in [(Transport::Tcp, Transport::WebSocket), (Transport::WebSocket, Transport::Tcp)] {
        let mut old = stage.client(&lobby, older, 42).await?;
        let mut new = stage.client(&lobby, newer, 42).await?;
        let closing = old.expect_close(4501).await?;
        let [notice] = closing.before.as_slice() else { bail!("before closing: {:?}", closing.before) };
        is_kick(notice)?;
        let mut notifier = stage.notifier().await?;
        notifier.notify_user(42, &numbered(1)).await?;
        let sentinel = notifier.sentinel().await?;
        received(&mut new, &sentinel, &[&numbered(1)]).await?;
    }
    let metrics = lobby.metrics().await?;
    ensure!(
        metrics.count("lobby_closes_total", &[("code", "4501")]) == 2,
        "closes are not counted:\n{metrics}"
    );
    Ok(())
}

fn is_kick(line: &Line) -> anyhow::Result<()> {
    let json = line.json()?;
    let right = json["command"] == "notice" && json["style"] == "kick" && json["text"] == KICK;
    ensure!(right, "not the notice of a kick: {line}");
    Ok(())
}

/// Under `allow` a message to the user reaches all of its sessions, and one that leaves takes none with it.
pub(super) async fn allow(stage: &Stage) -> anyhow::Result<()> {
    let lobby = stage.start(&stage.setup().set("LOBBY_SESSIONS__DUPLICATE_LOGIN", "allow")).await?;
    let mut first = stage.client(&lobby, Transport::Tcp, 42).await?;
    let mut second = stage.client(&lobby, Transport::WebSocket, 42).await?;
    let third = stage.client(&lobby, Transport::WebSocket, 42).await?;
    drop(third);
    lobby.metrics_until("two sessions", |metrics| metrics.count("lobby_sessions", &[]) == 2).await?;
    let mut notifier = stage.notifier().await?;
    notifier.notify_user(42, &numbered(1)).await?;
    let sentinel = notifier.sentinel().await?;
    received(&mut first, &sentinel, &[&numbered(1)]).await?;
    received(&mut second, &sentinel, &[&numbered(1)]).await
}

/// Under `reject` the older login stays, and the newer one is told and closed.
pub(super) async fn reject(stage: &Stage) -> anyhow::Result<()> {
    let lobby = stage.start(&stage.setup().set("LOBBY_SESSIONS__DUPLICATE_LOGIN", "reject")).await?;
    let mut first = stage.client(&lobby, Transport::Tcp, 42).await?;
    let mut second = stage.stranger(&lobby, Transport::WebSocket).await?;
    second.authenticate(&token::valid(SECRET, 42)?).await?;
    let closing = second.expect_closing().await?;
    let welcomed = closing.before.iter().any(|line| line.command().as_deref() == Some("welcome"));
    ensure!(!welcomed, "the second login was welcomed: {:?}", closing.before);
    ensure!(!closing.reconnect, "the second login is told to come back: {closing:?}");
    let mut notifier = stage.notifier().await?;
    notifier.notify_user(42, &numbered(1)).await?;
    let sentinel = notifier.sentinel().await?;
    received(&mut first, &sentinel, &[&numbered(1)]).await?;
    // Once the first has left, the user may come back.
    drop(first);
    lobby.metrics_until("no session", |metrics| metrics.count("lobby_sessions", &[]) == 0).await?;
    stage.client(&lobby, Transport::WebSocket, 42).await.map(drop)
}

/// A hundred logins of one user at once: all are welcomed, exactly one remains, and it gets its messages once.
pub(super) async fn hundred_logins(stage: &Stage) -> anyhow::Result<()> {
    let lobby = stage.lobby().await?;
    one_winner(stage, &lobby).await?;
    stage.leaves_nothing(lobby).await
}

/// The same on a lobby without sessions; the winner leaves.
pub(crate) async fn one_winner(stage: &Stage, lobby: &Lobby) -> anyhow::Result<()> {
    let token = token::valid(SECRET, 42)?;
    let mut strangers = Vec::new();
    for number in 0..CROWD {
        let transport = Transport::BOTH[number % 2];
        strangers.push(stage.stranger(lobby, transport).await?.named(format_args!("login {number}")));
    }
    let mut logins = JoinSet::new();
    for mut client in strangers {
        let token = token.clone();
        logins.spawn(async move { client.login(&token).await.map(|_| client) });
    }
    let mut welcomed = Vec::new();
    while let Some(login) = logins.join_next().await {
        welcomed.push(login.context("a login")??);
    }
    let mut notifier = stage.notifier().await?;
    notifier.notify_user(42, &numbered(1)).await?;
    let sentinel = notifier.sentinel().await?;
    let mut endings = JoinSet::new();
    for client in welcomed {
        let sentinel = sentinel.clone();
        endings.spawn(ending(client, sentinel));
    }
    let (mut survivors, mut replaced) = (Vec::new(), 0);
    while let Some(ending) = endings.join_next().await {
        match ending.context("a client")?? {
            Some(survivor) => survivors.push(survivor),
            None => replaced += 1,
        }
    }
    ensure!(survivors.len() == 1, "{} connections survived, {replaced} were replaced", survivors.len());
    let wanted = vec![Line::new(numbered(1).into_bytes())];
    ensure!(survivors[0].1 == wanted, "the survivor got {:?}", survivors[0].1);
    let metrics = lobby.metrics().await?;
    ensure!(metrics.count("lobby_sessions", &[]) == 1, "not one session is counted:\n{metrics}");
    Ok(())
}

/// The survivor and what it got before the sentinel; `None` for one that was replaced, as the protocol wants it.
async fn ending(mut client: Client, sentinel: String) -> anyhow::Result<Option<(Client, Vec<Line>)>> {
    let mut lines = Vec::new();
    loop {
        match client.next().await? {
            Event::Line(line) if line.holds(&sentinel) => return Ok(Some((client, lines))),
            Event::Line(line) => lines.push(line),
            Event::Ended(ended) => {
                let closing = client.closing(lines, ended)?;
                ensure!(closing.code == 4501, "{}: closed with {}", client.name(), closing.code);
                let [notice] = closing.before.as_slice() else {
                    bail!("before closing: {:?}", closing.before)
                };
                is_kick(notice)?;
                return Ok(None);
            }
        }
    }
}
