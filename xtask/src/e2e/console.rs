//! The console in a browser: read and clicked as a person does. Pictures of it are left in `target/console`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use super::addressing::received;
use super::stage::{SECRET, Stage};
use crate::PATIENCE;
use crate::bench::process::Usage;
use crate::browser::{self, Page};
use crate::client::Transport;
use crate::lobby::Lobby;
use crate::{apt, http, token};

/// How long an idle lobby is watched, and which part of a core it may use.
const IDLE: Duration = Duration::from_secs(20);
const MOST_IDLE: f64 = 0.01;
const MANY: usize = 200;
const ONE_OF_MANY: &str = r#"{"command":"many"}"#;
const FOR_ONE: &str = r#"{"command":"test","price":1.10}"#;
const FOR_ALL: &str = r#"{"command":"test","to":"all"}"#;
const TOKEN: &str = "only-this-test-has-this-admin-token";

/// What an operator looks at: live figures, the sessions and a search among them, why a user got nothing, and the
/// pictures in light, dark and on a phone.
pub(super) async fn overview(stage: &Stage) -> anyhow::Result<()> {
    let Some(mut page) = browser(stage).await? else { return Ok(()) };
    let lobby = stage.lobby().await?;
    let mut player = stage.client(&lobby, Transport::Tcp, 42).await?;
    let mut web = stage.client(&lobby, Transport::WebSocket, 7).await?;
    page.look(1280, false).await?;
    page.open(&address(&lobby)?).await?;
    page.shows("#status", "ready").await?;
    page.shows(".tile", "Sessions\n2").await?;

    let mut notifier = stage.notifier().await?;
    notifier.notify_user(43, r#"{"command":"for","user":43}"#).await?;
    notifier.publish(&json!([["user-id", "S", "4 3"]]), &json!({}), b"{}").await?;
    for _ in 0..MANY {
        notifier.notify_user(42, ONE_OF_MANY).await?;
    }
    let sentinel = notifier.sentinel().await?;
    received(&mut web, &sentinel, &[]).await?;
    page.shows("#dropped", "invalid_user_id").await?;
    page.until("plots with lines", "document.querySelectorAll('.plot path').length > 5").await?;
    photographs(&mut page, "overview").await?;

    page.click("[data-view=sessions]").await?;
    page.shows("#session-rows", "player-42").await?;
    page.fill("#search-text", "player-7").await?;
    page.until("one row", "document.querySelectorAll('#session-rows tr').length === 1").await?;
    ensure!(page.text("#session-rows").await?.contains("websocket"), "the WebSocket player");
    ensure!(page.value("document.querySelector('#session-rows button')").await?.is_null(), "nobody may kick");
    let kick = http::request("POST", &lobby.admin_address()?.to_string(), "/api/sessions/kick", None).await?;
    ensure!(kick.status == 403 && kick.body.contains("admin.token"), "nor without the page: {kick:?}");
    page.fill("#search-text", "").await?;
    photographs(&mut page, "sessions").await?;

    page.click("[data-view=missed]").await?;
    page.shows("#trace-rows", "invalid_user_id").await?;
    page.fill("#trace-user", "43").await?;
    page.click("#trace button").await?;
    page.shows("#trace-rows td", "user 43 had no session on this lobby").await?;
    page.shows("#trace-answer li", "User 43 is not logged in here now").await?;
    photographs(&mut page, "missed").await?;
    ensure!(page.complaints().is_empty(), "the page complains: {:?}", page.complaints());

    received(&mut player, &sentinel, &[ONE_OF_MANY; MANY]).await?;
    drop(lobby);
    page.click("[data-view=overview]").await?;
    page.shows("#status", "not connected").await
}

/// Without the token nothing is shown; with it, a session can be kicked after a question.
pub(super) async fn token_and_kick(stage: &Stage) -> anyhow::Result<()> {
    let Some(mut page) = browser(stage).await? else { return Ok(()) };
    let lobby = stage.start(&stage.setup().set("LOBBY_ADMIN__TOKEN", TOKEN)).await?;
    let mut unlucky = stage.client(&lobby, Transport::WebSocket, 42).await?;
    let mut other = stage.client(&lobby, Transport::Tcp, 7).await?;
    let admin = lobby.admin_address()?.to_string();
    for path in ["/api/events", "/api/sessions", "/trace"] {
        ensure!(http::get(&admin, path).await?.status == 401, "{path} is open");
    }
    page.look(1280, false).await?;
    page.open(&address(&lobby)?).await?;
    page.fill("#token", "a guess").await?;
    page.click("#unlock button").await?;
    page.shows("#unlock-error", "not the token").await?;
    page.complaints();
    page.fill("#token", TOKEN).await?;
    page.click("#unlock button").await?;
    page.shows("#status", "ready").await?;

    page.click("[data-view=sessions]").await?;
    page.fill("#search-text", "42").await?;
    page.until("one row", "document.querySelectorAll('#session-rows tr').length === 1").await?;
    page.click("#session-rows button").await?;
    page.shows("#confirm-text", "user 42").await?;
    page.click("#confirm button[value=no]").await?;
    page.until("no question", "!document.querySelector('#confirm').open").await?;
    let sentinel = stage.notifier().await?.sentinel().await?;
    received(&mut unlucky, &sentinel, &[]).await.context("cancelled, nothing happens")?;
    received(&mut other, &sentinel, &[]).await?;

    page.click("#session-rows button").await?;
    page.click("#confirm button[value=yes]").await?;
    page.shows("#matching", "kicked").await?;
    unlucky.expect_close(4502).await?;
    let sentinel = stage.notifier().await?.sentinel().await?;
    received(&mut other, &sentinel, &[]).await?;
    ensure!(page.complaints().is_empty(), "the page complains: {:?}", page.complaints());
    Ok(())
}

/// A test notification reaches whom it is for and nobody else, and its receipt is shown; everybody only after a question.
pub(super) async fn publish_form(stage: &Stage) -> anyhow::Result<()> {
    let Some(mut page) = browser(stage).await? else { return Ok(()) };
    let lobby = stage.start(&stage.setup().set("LOBBY_ADMIN__TOKEN", TOKEN)).await?;
    let mut wanted = stage.client(&lobby, Transport::WebSocket, 42).await?;
    let mut other = stage.client(&lobby, Transport::Tcp, 7).await?;
    page.look(1280, false).await?;
    page.open(&address(&lobby)?).await?;
    page.fill("#token", TOKEN).await?;
    page.click("#unlock button").await?;
    page.shows("#status", "ready").await?;
    page.click("[data-view=publish]").await?;
    page.click("#publish-form > button").await?;
    page.shows("#publish-result", "is no user id").await?;
    page.complaints();

    page.fill("#publish-user", "42").await?;
    page.fill("#publish-body", FOR_ONE).await?;
    page.click("#publish-form > button").await?;
    page.shows("#publish-result", "written to 1 of 1 sessions").await?;
    photographs(&mut page, "publish").await?;
    page.fill("#publish-user", "43").await?;
    page.click("#publish-form > button").await?;
    page.shows("#publish-result", "nobody it is for is connected").await?;

    page.fill("#publish-body", FOR_ALL).await?;
    page.click("#publish-form input[value=everyone]").await?;
    page.click("#publish-form > button").await?;
    page.shows("#confirm-text", "every player").await?;
    page.click("#confirm button[value=no]").await?;
    page.until("no question", "!document.querySelector('#confirm').open").await?;
    page.click("#publish-form > button").await?;
    page.click("#confirm button[value=yes]").await?;
    page.shows("#publish-result", "written to 2 of 2 sessions").await?;
    let sentinel = stage.notifier().await?.sentinel().await?;
    received(&mut wanted, &sentinel, &[FOR_ONE, FOR_ALL]).await?;
    received(&mut other, &sentinel, &[FOR_ALL]).await?;
    ensure!(page.complaints().is_empty(), "the page complains: {:?}", page.complaints());
    Ok(())
}

/// The client's tab logs in over WebSocket, from the page's own origin, and shows what arrives.
pub(super) async fn client_tab(stage: &Stage) -> anyhow::Result<()> {
    let Some(mut page) = browser(stage).await? else { return Ok(()) };
    let lobby = stage.lobby().await?;
    page.look(1280, false).await?;
    page.open(&address(&lobby)?).await?;
    page.shows("#status", "ready").await?;
    page.click("[data-view=client]").await?;
    page.fill("#client-token", &token::valid(SECRET, 42)?).await?;
    page.click("#client-connect").await?;
    page.shows("#client-log", "welcome").await?;
    stage.notifier().await?.notify_user(42, r#"{"command":"hello","to":"the tab"}"#).await?;
    page.shows("#client-log", r#"{"command":"hello","to":"the tab"}"#).await?;
    photographs(&mut page, "client").await?;
    page.click("#client-connect").await?;
    page.shows("#client-log", "closed with 1000").await?;
    ensure!(page.complaints().is_empty(), "the page complains: {:?}", page.complaints());
    Ok(())
}

/// The admin address costs next to nothing while nobody watches, the self-check included.
pub(super) async fn idle(stage: &Stage) -> anyhow::Result<()> {
    let lobby = stage.lobby().await?;
    let client = stage.client(&lobby, Transport::Tcp, 42).await?;
    let admin = lobby.admin_address()?.to_string();
    // Somebody has watched, and has gone.
    let page = http::get(&admin, "/").await?;
    ensure!(page.status == 200, "the page: {page:?}");
    let mut watching = TcpStream::connect(&admin).await.context("watch")?;
    let request = format!("GET /api/events HTTP/1.1\r\nHost: {admin}\r\n\r\n");
    watching.write_all(request.as_bytes()).await?;
    let mut seen = String::new();
    while !seen.contains("event: tick") {
        let mut chunk = [0; 4096];
        let read = timeout(PATIENCE, watching.read(&mut chunk)).await.context("nothing to watch")??;
        ensure!(read > 0, "the lobby ended the events: {seen}");
        seen.push_str(&String::from_utf8_lossy(&chunk[..read]));
    }
    drop(watching);

    let before = Usage::of(lobby.pid())?;
    let begin = Instant::now();
    sleep(IDLE).await;
    let used = Usage::of(lobby.pid())?.since(&before);
    let share = used.cpu() as f64 / begin.elapsed().as_nanos() as f64;
    let threads = used.busiest();
    stage.fact(format!("{:.2} % of a core with nobody watching ({threads})", share * 100.0));
    ensure!(share < MOST_IDLE, "{:.2} % of a core with nobody watching: {threads}", share * 100.0);
    drop(client);
    stage.leaves_nothing(lobby).await
}

pub(super) fn address(lobby: &Lobby) -> anyhow::Result<String> {
    Ok(format!("http://{}/", lobby.admin_address()?))
}

/// A browser: the one that is installed, else Debian's. None, with the reason noted, where there can be none; CI
/// must have one.
pub(super) async fn browser(stage: &Stage) -> anyhow::Result<Option<Page>> {
    if browser::program().is_none() {
        let installed = match apt::usable() {
            Ok(()) => apt::install(&["chromium", "fonts-dejavu-core"], &mut |step| eprintln!("{step}")).await,
            Err(why) => Err(anyhow::anyhow!(why)),
        };
        if let Err(error) = installed {
            ensure!(std::env::var_os("CI").is_none(), "CI has no browser: {error:#}");
            stage.skip(format!("no Chromium: {error:#}"));
            return Ok(None);
        }
    }
    Page::start(browser::program().context("Chromium was installed and is not in PATH")?).await.map(Some)
}

/// What the page shows now: light, dark, and on a phone, where nothing may stick out at the side.
pub(super) async fn photographs(page: &mut Page, name: &str) -> anyhow::Result<()> {
    let folder = pictures();
    std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    for (suffix, width, dark) in [("dark", 1280, true), ("phone", 400, false), ("light", 1280, false)] {
        page.look(width, dark).await?;
        let wide = page.value("document.documentElement.scrollWidth").await?;
        ensure!(wide.as_u64() <= Some(u64::from(width)), "{name} is {wide} px wide on {width} px");
        page.photograph(&folder.join(format!("{name}-{suffix}.png"))).await?;
    }
    Ok(())
}

fn pictures() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"), PathBuf::from);
    target.join("console")
}
