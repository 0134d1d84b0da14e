//! Why did user 43 get nothing? The steps of `docs/operations.md`, done in a browser, with the time that each took.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::ensure;
use serde_json::json;
use tokio::time::Instant;

use super::addressing::received;
use super::console::{address, browser, photographs};
use super::stage::{SECRET, Stage};
use crate::browser::Page;
use crate::client::{Client, Dialing, Transport};
use crate::lobby::Lobby;
use crate::token;

const USER: i64 = 43;
/// More than one answer of `/trace` has decisions.
const BROADCASTS: usize = 1_001;
const FOR_ALL: &str = r#"{"command":"for","user":"all"}"#;
/// What the document promises, from opening the page to the answer.
const PROMISED: Duration = Duration::from_secs(60);
const OUTBOX_BYTES: usize = 64 * 1024;
/// More than the kernel's buffers and the outbox hold.
const MOST_FOR_THE_SLOW: usize = 4_000;

/// Each usual cause is told by the page, after a click, two digits and Enter.
pub(super) async fn why(stage: &Stage) -> anyhow::Result<()> {
    let Some(mut page) = browser(stage).await? else { return Ok(()) };
    let setup = stage.setup().set("LOBBY_SESSIONS__OUTBOX_BYTES", OUTBOX_BYTES.to_string());
    let mut lobby = stage.start(&setup).await?;
    let mut witness = stage.client(&lobby, Transport::Tcp, 7).await?;
    let mut notifier = stage.notifier().await?;
    let mut times = String::new();
    page.look(1280, false).await?;

    // Nobody published one, or to another exchange.
    answered(&mut page, &lobby, "never published", "No message for user 43 came", &mut times).await?;
    page.shows("#trace-answer", stage.exchange()).await?;
    page.shows("#trace-answer", &stage.queue()).await?;

    // The header is text with a blank in it.
    notifier.publish(&json!([["user-id", "S", "4 3"]]), &json!({}), b"{}").await?;
    let sentinel = notifier.sentinel().await?;
    received(&mut witness, &sentinel, &[]).await?;
    answered(&mut page, &lobby, "wrong type", "1 dropped", &mut times).await?;
    page.shows("#trace-answer", "invalid_user_id").await?;
    page.shows("#trace-rows", "4 3").await?;

    // On another lobby, or on none.
    notifier.notify_user(USER, r#"{"command":"for","user":43}"#).await?;
    let sentinel = notifier.sentinel().await?;
    received(&mut witness, &sentinel, &[]).await?;
    answered(&mut page, &lobby, "not logged in here", "had no session on this lobby", &mut times).await?;
    page.shows("#trace-answer", "User 43 is not logged in here now").await?;
    photographs(&mut page, "why").await?;

    // Many messages to everyone push neither his nor what was dropped out of the answer; part of a number is no user.
    let _neighbour = stage.client(&lobby, Transport::Tcp, 430).await?;
    for _ in 0..BROADCASTS {
        notifier.notify_all(FOR_ALL).await?;
    }
    let sentinel = notifier.sentinel().await?;
    received(&mut witness, &sentinel, &[FOR_ALL; BROADCASTS]).await?;
    answered(&mut page, &lobby, "long ago", "1 message for user 43", &mut times).await?;
    page.shows("#trace-answer", "1 dropped").await?;
    page.shows("#trace-answer", "to everyone, among the last 1,000").await?;
    page.shows("#trace-rows", "user 43 had no session on this lobby").await?;
    page.fill("#trace-user", "0430").await?;
    page.click("#trace button").await?;
    page.shows("#trace-answer", "User 430 is logged in here now").await?;

    // Logged in, and reading nothing.
    let how = Dialing { receive_buffer: Some(8 * 1024), ..Dialing::default() };
    let mut slow = Client::dial(Transport::Tcp, lobby.address(Transport::Tcp)?, how).await?;
    slow.login(&token::valid(SECRET, USER)?).await?;
    let body = json!({"command": "notice", "text": "x".repeat(16 * 1024)}).to_string();
    let mut sent = 0;
    while lobby.metrics().await?.count("lobby_closes_total", &[("code", "4000")]) == 0 {
        ensure!(sent < MOST_FOR_THE_SLOW, "{sent} messages and the slow client is still connected");
        for _ in 0..16 {
            notifier.notify_user(USER, &body).await?;
        }
        sent += 16;
    }
    // What came behind the close says that he was gone; the one that closed him stands before.
    answered(&mut page, &lobby, "too slow", "too slow and closed with code 4000", &mut times).await?;
    drop(slow);

    // All that is well here: it is the client's.
    let mut player = stage.client(&lobby, Transport::WebSocket, USER).await?;
    notifier.notify_user(USER, r#"{"command":"last"}"#).await?;
    let sentinel = notifier.sentinel().await?;
    received(&mut player, &sentinel, &[r#"{"command":"last"}"#]).await?;
    answered(&mut page, &lobby, "written", "Look at the client", &mut times).await?;
    page.shows("#trace-answer", "User 43 is logged in here now: websocket").await?;
    ensure!(page.complaints().is_empty(), "the page complains: {:?}", page.complaints());

    // A second lobby under the same name gets no messages: the first has the queue.
    let other = setup.set("LOBBY_LISTEN__ADMIN", "127.0.0.1:0").set("LOBBY_TRACE__DECISIONS", "0");
    let mut twin = stage.start_unready(&other).await?;
    let reason = twin.unready_with("in exclusive use").await?;
    answered(&mut page, &twin, "another lobby has its queue", "This lobby is not ready", &mut times).await?;
    page.shows("#trace-answer", "in exclusive use").await.map_err(|error| error.context(reason))?;

    page.shows("#trace-answer", "trace.decisions is 0").await?;
    ensure!(!page.text("#trace-answer").await?.contains("No message"), "it claims what it does not know");

    stage.fact(format!("from opening the page to the answer: {times}"));
    twin.stop().await?;
    lobby.stop().await
}

/// Opens the page, clicks *Missed*, types the number, Enter; the answer must hold `words`.
async fn answered(
    page: &mut Page,
    lobby: &Lobby,
    cause: &str,
    words: &str,
    times: &mut String,
) -> anyhow::Result<()> {
    let begin = Instant::now();
    // Anew each time, as somebody who was just called.
    page.open("about:blank").await?;
    page.open(&address(lobby)?).await?;
    page.click("[data-view=missed]").await?;
    page.fill("#trace-user", &USER.to_string()).await?;
    page.click("#trace button").await?;
    page.shows("#trace-answer", words).await.map_err(|error| error.context(cause.to_owned()))?;
    let took = begin.elapsed();
    ensure!(took < PROMISED, "{cause}: {took:?}");
    let separator = if times.is_empty() { "" } else { ", " };
    write!(times, "{separator}{cause} {:.1} s", took.as_secs_f32())?;
    Ok(())
}
