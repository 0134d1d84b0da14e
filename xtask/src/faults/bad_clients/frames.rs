//! WebSocket frames that RFC 6455 forbids, before and after the login.

use std::io::Write as _;

use anyhow::{Context as _, ensure};
use flate2::Compression;
use flate2::write::DeflateEncoder;

use super::{Bystander, grown};
use crate::PATIENCE;
use crate::client::Transport;
use crate::faults::raw::{Ending, Raw, frame};
use crate::faults::scene::Scene;
use crate::lobby::Lobby;
use crate::stage::SECRET;
use crate::token;

const PROTOCOL: u16 = 1002;
const NOT_UTF8: u16 = 1007;
const TOO_BIG: u16 = 1009;
/// Less than any of these would take if it were believed.
const MOST_MEMORY: u64 = 16 << 20;
/// Bytes of the bomb when it has gone off.
const BOMB: usize = 256 << 20;

/// Each is closed with its code, at once, with little memory; a player beside them notices nothing.
pub(super) async fn forbidden(scene: &Scene) -> anyhow::Result<()> {
    let lobby = scene.lobby().await?;
    let mut bystander = Bystander::enter(scene, &lobby).await?;
    let before = lobby.resident_bytes().await?;
    let cases = cases()?;
    for logged_in in [false, true] {
        for (what, bytes, codes) in &cases {
            let ending = said(&lobby, logged_in, bytes).await.with_context(|| (*what).to_owned())?;
            let code = ending.code.with_context(|| format!("{what}: no code in {ending:?}"))?;
            ensure!(codes.contains(&code), "{what}: closed with {code} instead of {codes:?}");
        }
        endless_fragments(&lobby, logged_in).await.context("endless fragments")?;
    }
    let grown = grown(scene, &lobby, before).await?;
    ensure!(grown <= MOST_MEMORY, "memory grew by {grown} bytes");
    bystander.is_well(scene).await?;
    scene.fact(format!(
        "{} kinds, each before and after the login; memory grew by {} KiB",
        cases.len() + 1,
        grown >> 10
    ));
    drop(bystander);
    scene.leaves_nothing(lobby).await
}

/// What is wrong, the frames, and the codes that are right.
type Case = (&'static str, Vec<u8>, &'static [u16]);

fn cases() -> anyhow::Result<Vec<Case>> {
    let length = |bytes: u64| [&[0x82, 0xff][..], &bytes.to_be_bytes(), &[0; 4]].concat();
    let mut cases: Vec<Case> = vec![
        ("an unmasked frame", vec![0x81, 2, b'{', b'}'], &[PROTOCOL]),
        ("the first reserved bit", frame(0xC1, b"{}"), &[PROTOCOL]),
        ("the second reserved bit", frame(0xA1, b"{}"), &[PROTOCOL]),
        ("the third reserved bit", frame(0x91, b"{}"), &[PROTOCOL]),
        ("a fragmented ping", frame(0x09, b"x"), &[PROTOCOL]),
        ("a fragmented close", frame(0x08, b""), &[PROTOCOL]),
        ("a ping of 126 bytes", frame(0x89, &[b'x'; 126]), &[PROTOCOL]),
        ("a continuation of nothing", frame(0x80, b"x"), &[PROTOCOL]),
        ("a message inside another", [frame(0x01, b"{"), frame(0x81, b"{}")].concat(), &[PROTOCOL]),
        ("a length of 2⁶³", length(1 << 63), &[PROTOCOL, TOO_BIG]),
        ("a length of 2⁶²", length(1 << 62), &[TOO_BIG]),
        ("a length of 1 GiB", length(1 << 30), &[TOO_BIG]),
        ("a close code of one byte", frame(0x88, b"x"), &[PROTOCOL]),
        ("a close code that must not be sent", frame(0x88, &1005_u16.to_be_bytes()), &[PROTOCOL]),
        ("a close reason that is not UTF-8", frame(0x88, b"\x03\xe8\xff"), &[NOT_UTF8, PROTOCOL]),
        ("text that is not UTF-8", frame(0x81, b"\xff\xfe"), &[NOT_UTF8]),
        ("a compression bomb", frame(0xC2, &bomb()?), &[PROTOCOL]),
    ];
    for opcode in [3_u8, 4, 5, 6, 7, 0xb, 0xc, 0xd, 0xe, 0xf] {
        cases.push(("a reserved opcode", frame(0x80 | opcode, b"x"), &[PROTOCOL]));
    }
    Ok(cases)
}

/// Zeros, deflated twice: some hundred bytes, as permessage-deflate would send them.
fn bomb() -> anyhow::Result<Vec<u8>> {
    let mut inner = DeflateEncoder::new(Vec::new(), Compression::best());
    let zeros = vec![0; 1 << 20];
    for _ in 0..BOMB / zeros.len() {
        inner.write_all(&zeros)?;
    }
    let mut outer = DeflateEncoder::new(Vec::new(), Compression::best());
    outer.write_all(&inner.finish()?)?;
    Ok(outer.finish()?)
}

async fn entered(lobby: &Lobby, logged_in: bool) -> anyhow::Result<Raw> {
    let mut raw = Raw::dial(Transport::WebSocket, lobby.address(Transport::WebSocket)?).await?;
    if logged_in {
        raw.login(&token::valid(SECRET, 42)?).await?;
    } else {
        raw.begin().await?;
    }
    Ok(raw)
}

async fn said(lobby: &Lobby, logged_in: bool, bytes: &[u8]) -> anyhow::Result<Ending> {
    let mut raw = entered(lobby, logged_in).await?;
    raw.write(bytes).await?;
    raw.ending(PATIENCE).await
}

/// One message in fragments that never ends: closed with 1009 when the parts so far are too much.
async fn endless_fragments(lobby: &Lobby, logged_in: bool) -> anyhow::Result<()> {
    const PARTS: usize = 4096;
    let mut raw = entered(lobby, logged_in).await?;
    raw.write(&frame(0x01, b"x")).await?;
    let part = frame(0x00, &[b'x'; 1024]);
    for _ in 0..PARTS {
        // When the lobby has closed, what is still said may meet a reset.
        if raw.write(&part).await.is_err() {
            break;
        }
    }
    let ending = raw.ending(PATIENCE).await?;
    // After a megabyte of farewell the lobby may reset, and its last words be lost with it.
    ensure!(ending.code == Some(TOO_BIG) || ending.reset, "{ending:?}");
    Ok(())
}
