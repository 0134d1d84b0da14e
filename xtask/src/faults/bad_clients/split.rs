//! The same bytes in other pieces.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::Bystander;
use crate::PATIENCE;
use crate::client::Transport;
use crate::faults::raw::{Raw, auth, frame, holds, upgrade};
use crate::faults::scene::Scene;
use crate::stage::SECRET;
use crate::stage::proxy::Proxy;
use crate::token;

/// Long enough for the lobby to read what came before; nothing depends on it but how many pieces it sees.
const BETWEEN: Duration = Duration::from_millis(2);

/// Whole conversations, once at a time, once byte by byte through a proxy that does the same to the answers, and cut in
/// two at every byte (in the short form at each of some). What the lobby answers is the same.
pub(super) async fn at_every_byte(scene: &Scene) -> anyhow::Result<()> {
    let setup = scene.setup().set("LOBBY_SESSIONS__DUPLICATE_LOGIN", "allow");
    let lobby = scene.start(&setup.set("LOBBY_SESSIONS__MAX_PER_USER", "1000")).await?;
    let mut bystander = Bystander::enter(scene, &lobby).await?;
    let mut cuts = 0;
    for transport in Transport::BOTH {
        let address = lobby.address(transport)?;
        let proxy = Proxy::in_front_of(address).await?;
        proxy.split(true);
        for (what, bytes) in conversations(transport)? {
            let told = |how: String| move || format!("{transport}, {what}, {how}");
            let whole =
                heard(transport, address, &[&bytes]).await.with_context(told("unsplit".to_owned()))?;
            let single = heard(transport, proxy.address(), &[&bytes]).await;
            let single = single.with_context(told("byte by byte".to_owned()))?;
            ensure!(single == whole, "{transport}, {what}: unsplit {whole:?}, byte by byte {single:?}");
            for at in (1..bytes.len()).step_by(scene.pick(17, 1)) {
                let (first, second) = bytes.split_at(at);
                let cut = heard(transport, address, &[first, second]).await;
                let cut = cut.with_context(told(format!("cut at byte {at}")))?;
                ensure!(cut == whole, "{transport}, {what}: unsplit {whole:?}, cut at byte {at} {cut:?}");
                cuts += 1;
            }
        }
    }
    bystander.is_well(scene).await?;
    drop(bystander);
    scene.fact(format!("8 conversations unsplit, byte by byte, and cut in two in {cuts} ways"));
    scene.leaves_nothing(lobby).await
}

/// What is said from the first byte on, to an end that the lobby brings about.
fn conversations(transport: Transport) -> anyhow::Result<Vec<(&'static str, Vec<u8>)>> {
    let login = auth(&token::valid(SECRET, 42)?);
    let say = |text: &[u8]| match transport {
        Transport::Tcp => [text, b"\n"].concat(),
        Transport::WebSocket => frame(0x81, text),
    };
    let begin = match transport {
        Transport::Tcp => Vec::new(),
        Transport::WebSocket => upgrade("").into_bytes(),
    };
    let ask = say(br#"{"command":"ask_session","user_agent":"x","version":"1"}"#);
    let ping = say(br#"{"command":"ping"}"#);
    let unknown = say(r#"{"command":"größer"}"#.as_bytes());
    let all = |parts: &[&[u8]]| [&begin[..], &parts.concat()].concat();
    let mut conversations = vec![
        ("a session", all(&[&ask, &ping, &say(login.as_bytes()), &unknown, &ping, &say(b"nonsense")])),
        ("bad text", all(&[&say(login.as_bytes()), &say(b"\xe2\x82")])),
        ("a command before the login", all(&[&ping, &unknown])),
    ];
    conversations.push(match transport {
        Transport::Tcp => ("other line ends", all(&[b"\n\r\n", b"{\"command\":\"ping\"}\r\n", b"[]\n"])),
        Transport::WebSocket => (
            "fragments and a ping between them",
            all(&[
                &frame(0x01, b"{\"command\":"),
                &frame(0x89, b"x"),
                &frame(0x80, b"\"ping\"}"),
                &frame(0x83, b""),
            ]),
        ),
    });
    Ok(conversations)
}

/// Says the pieces one after the other, and hears to the end: the lobby's messages without what differs each time.
async fn heard(transport: Transport, address: SocketAddr, pieces: &[&[u8]]) -> anyhow::Result<Vec<Value>> {
    let mut raw = Raw::dial(transport, address).await?;
    for (number, piece) in pieces.iter().enumerate() {
        if number > 0 {
            tokio::time::sleep(BETWEEN).await;
        }
        // A piece behind what has closed the connection may meet the end.
        let _ = raw.write(piece).await;
    }
    let ending = raw.ending(PATIENCE).await?;
    if transport == Transport::WebSocket {
        ensure!(holds(&ending.heard, b"101 Switching"), "not upgraded: {}", ending.heard.escape_ascii());
    }
    let mut messages = Vec::new();
    for part in ending.heard.split(|byte| *byte == b'\n') {
        // A brace alone may be a frame's length.
        let Some(at) = part.windows(2).position(|bytes| bytes == b"{\"") else { continue };
        let mut message: Value = serde_json::from_slice(&part[at..]).context("a message of the lobby")?;
        for key in ["session", "current_time", "retry_after_ms"] {
            if let Some(value) = message.get_mut(key).filter(|value| !value.is_null()) {
                *value = json!("…");
            }
        }
        messages.push(message);
    }
    // A close frame's code has been compared with the last message's.
    messages.push(json!(ending.code));
    Ok(messages)
}
