//! Messages that are whole but wrong, and more of them than a login is.

use anyhow::{Context as _, ensure};

use super::Bystander;
use crate::PATIENCE;
use crate::client::Transport;
use crate::faults::raw::{Ending, Raw, auth, holds};
use crate::faults::scene::Scene;
use crate::lobby::Lobby;
use crate::stage::SECRET;
use crate::stage::notifier::unique;
use crate::token;

/// Stands in all that is said here, and must not stand in any answer.
const MARK: &str = "said-by-a-bad-client";

/// Each is closed with its code; where the contract says that a connection is kept, the answer holds nothing of what
/// was said.
pub(super) async fn bad(scene: &Scene) -> anyhow::Result<()> {
    let lobby = scene.lobby().await?;
    let mut bystander = Bystander::enter(scene, &lobby).await?;
    let mut cases = 0;
    for transport in Transport::BOTH {
        for (what, message, code) in messages() {
            for logged_in in [false, true] {
                let said = async {
                    let mut raw = entered(&lobby, transport, logged_in).await?;
                    raw.write(&raw.message(&message)).await?;
                    raw.ending(PATIENCE).await
                };
                let ending = said.await.with_context(|| format!("{transport}: {what}"))?;
                is_closed(what, &ending, code)?;
                cases += 1;
            }
        }
        pipelined(&lobby, transport).await.with_context(|| format!("{transport}: pipelined"))?;
        unknown(scene, &lobby, transport).await.with_context(|| format!("{transport}: unknown command"))?;
    }
    ensure!(!lobby.log().holds(MARK), "what a client said stands in the log");
    bystander.is_well(scene).await?;
    drop(bystander);
    scene.fact(format!("{cases} messages closed with their codes; nothing of them in an answer or the log"));
    scene.leaves_nothing(lobby).await
}

/// Messages that end a connection, before the login and after it.
fn messages() -> Vec<(&'static str, Vec<u8>, u16)> {
    let text = |text: String| text.into_bytes();
    let deep = |open: &str, close: &str| open.repeat(6_000) + &close.repeat(6_000);
    vec![
        ("a byte that begins no character", [MARK.as_bytes(), b"\xff"].concat(), 1007),
        ("half a character", [MARK.as_bytes(), b"\xe2\x82"].concat(), 1007),
        ("an overlong slash", [MARK.as_bytes(), b"\xc0\xaf"].concat(), 1007),
        ("a surrogate", [MARK.as_bytes(), b"\xed\xa0\x80"].concat(), 1007),
        ("arrays in arrays", text(deep("[", "]")), 4503),
        ("arrays that never end", text("[".repeat(12_000)), 4503),
        ("a deep value", text(format!(r#"{{"command":{}}}"#, deep("[", "]"))), 4503),
        ("no JSON", text(MARK.to_owned()), 4503),
        ("text", text(format!(r#""{MARK}""#)), 4503),
        ("an object without a command", text(format!(r#"{{"x":"{MARK}"}}"#)), 4503),
        ("two objects in one message", text(r#"{"command":"ping"}{"command":"ping"}"#.to_owned()), 4503),
        ("zeros", vec![0; 100], 4503),
    ]
}

async fn entered(lobby: &Lobby, transport: Transport, logged_in: bool) -> anyhow::Result<Raw> {
    let mut raw = Raw::dial(transport, lobby.address(transport)?).await?;
    if logged_in {
        raw.login(&token::valid(SECRET, 42)?).await?;
    } else {
        raw.begin().await?;
    }
    Ok(raw)
}

fn is_closed(what: &str, ending: &Ending, code: u16) -> anyhow::Result<()> {
    ensure!(ending.code == Some(code), "{what}: wanted {code}, got {ending:?}");
    ensure!(!holds(&ending.heard, MARK.as_bytes()), "{what}: reflected in {}", ending.heard.escape_ascii());
    Ok(())
}

/// Pings, a command that only a session may give, and a login, all at once: the pings are answered, the command closes, and
/// the login is not heard. More pings than a client may send at once close before it.
async fn pipelined(lobby: &Lobby, transport: Transport) -> anyhow::Result<()> {
    pipeline(lobby, transport, 150, 4503).await?;
    pipeline(lobby, transport, 1_000, 1008).await
}

async fn pipeline(lobby: &Lobby, transport: Transport, pings: usize, code: u16) -> anyhow::Result<()> {
    let mut raw = entered(lobby, transport, false).await?;
    let ping = raw.message(br#"{"command":"ping"}"#).repeat(pings);
    let command = raw.message(format!(r#"{{"command":"game_host","title":"{MARK}"}}"#).as_bytes());
    let login = raw.message(auth(&token::valid(SECRET, 43)?).as_bytes());
    raw.write(&[ping, command, login].concat()).await?;
    let ending = raw.ending(PATIENCE).await?;
    is_closed("a command before the login", &ending, code)?;
    ensure!(!holds(&ending.heard, b"welcome"), "the login behind it was heard");
    let pongs = ending.heard.windows(6).filter(|window| *window == b"\"pong\"").count();
    ensure!((pongs == pings) == (code != 1008), "{pongs} of {pings} pings were answered");
    Ok(())
}

/// A session's unknown commands are answered, in words that say nothing of them, and the session stays.
async fn unknown(scene: &Scene, lobby: &Lobby, transport: Transport) -> anyhow::Result<()> {
    let mut player = scene.client(lobby, transport, 42).await?;
    for message in [
        format!(r#"{{"command":"{MARK}"}}"#),
        format!(r#"{{"command":"x","a":{}"{MARK}"{}}}"#, "[".repeat(100), "]".repeat(100)),
    ] {
        player.send(&message).await?;
        let answer = player.command("invalid").await?;
        ensure!(!answer.holds(MARK), "reflected in {answer}");
    }
    let last = unique("last");
    scene.notifier().await?.notify_user(42, &format!(r#"{{"id":"{last}"}}"#)).await?;
    let lines = player.expect_until(&last).await?;
    ensure!(lines.is_empty(), "more than the answers: {lines:?}");
    Ok(())
}
