//! Two lobbies, of which one is drained by hand while messages flow.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::notifier::numbered;
use super::stage::{SECRET, Stage};
use crate::client::{Client, Event, Line, Transport};
use crate::{PATIENCE, http, token};

const CLIENTS: i64 = 100;
const ADMIN_TOKEN: &str = "only-the-end-to-end-tests-act-with-this-token";
/// The pace of the messages, which are all for everyone.
const PERIOD: Duration = Duration::from_millis(10);

/// `lobby drain --wait`: each client comes back to the other lobby when it was told to, and misses nothing that was
/// published after its new login; nobody orders a drain without the token, or from another site's page.
pub(crate) async fn rolling_drain(stage: &Stage) -> anyhow::Result<()> {
    let setup = stage
        .setup()
        .set("LOBBY_ADMIN__TOKEN", ADMIN_TOKEN)
        .set("LOBBY_SHUTDOWN__DRAIN_WINDOW", "2s")
        .set("LOBBY_SHUTDOWN__RETRY_SPREAD", "500ms");
    let mut old = stage.start(&setup).await?;
    let mut new =
        stage.start(&setup.clone().set("LOBBY_INSTANCE__NAME", format!("{}-new", stage.instance()))).await?;
    let admin = old.admin_address()?;
    for headers in [
        vec![],
        vec![("Authorization", "Bearer wrong")],
        vec![("Authorization", &*format!("Bearer {ADMIN_TOKEN}")), ("Origin", "https://elsewhere.example")],
    ] {
        let answer = http::request_with("POST", &admin.to_string(), "/drain", &headers).await?;
        ensure!(matches!(answer.status, 401 | 403), "{headers:?} drained: {} {}", answer.status, answer.body);
    }
    ensure!(old.admin("/ready").await?.status == 200, "a drain was ordered by somebody who may not");

    let published = Arc::new(AtomicU64::new(0));
    let (stop, stopping) = watch::channel(false);
    let publishing = tokio::spawn(publish(stage.notifier().await?, stopping, Arc::clone(&published)));
    let (from, to) = (old.address(Transport::Tcp)?, new.address(Transport::Tcp)?);
    let mut clients = JoinSet::new();
    for user in 1..=CLIENTS {
        let mut client = Client::connect(Transport::Tcp, from).await?.named(format_args!("user {user}"));
        client.login(&token::valid(SECRET, user)?).await?;
        clients.spawn(move_over(user, client, to, Arc::clone(&published)));
    }
    let command =
        setup.clone().arguments(["drain", "--wait", "--json", "--admin"]).argument(admin.to_string());
    let finished = command.run_to_exit().await?;
    ensure!(finished.status.success(), "lobby drain: {} {}", finished.status, finished.stderr);
    let said: Vec<Value> = finished
        .stdout
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()
        .context("lobby drain --json")?;
    ensure!(
        said.len() == 2 && said[0]["draining"] == json!(true) && said[1]["ended"] == json!(true),
        "lobby drain said {said:?}"
    );
    ensure!(said[0]["sessions"] == json!(CLIENTS), "lobby drain counted {}", said[0]["sessions"]);
    let status = old.exited(PATIENCE).await?;
    ensure!(status.success(), "the drained lobby ended with {status}");
    let (mut moved, mut longest) = (Vec::new(), Duration::ZERO);
    while let Some(client) = clients.join_next().await {
        moved.push(client.context("a client")??);
    }
    stop.send_replace(true);
    let last = publishing.await.context("the publisher")??;
    for client in moved {
        longest = longest.max(client.read_to(last).await?);
    }
    stage.fact(format!(
        "{CLIENTS} clients moved, {last} messages, none missed after a new login; the longest came back {:.2} s after it \
         was told to",
        longest.as_secs_f64()
    ));
    new.stop().await
}

/// A client at its new lobby.
struct Moved {
    client: Client,
    /// What had been published when it was welcome there.
    from: u64,
    /// Beyond the wait that it was told.
    late: Duration,
}

impl Moved {
    /// Every number from its login to `last`; how long it took to come back.
    async fn read_to(mut self, last: u64) -> anyhow::Result<Duration> {
        let mut missing: BTreeSet<_> = (self.from..=last).collect();
        let mut seen = None;
        while seen.is_none_or(|seen| seen < last) {
            match self.client.next().await? {
                Event::Line(line) => {
                    let seq = line.seq().context("not a numbered line")?;
                    missing.remove(&seq);
                    seen = Some(seq);
                }
                Event::Ended(ended) => anyhow::bail!("ended at the new lobby: {ended:?}"),
            }
        }
        ensure!(missing.is_empty(), "missed after the new login: {missing:?}");
        Ok(self.late)
    }
}

/// Reads until it is told to go, and logs in at the other lobby when it was told to.
async fn move_over(
    user: i64,
    mut client: Client,
    to: std::net::SocketAddr,
    published: Arc<AtomicU64>,
) -> anyhow::Result<Moved> {
    let closing = client.expect_close(1012).await?;
    let told = Instant::now();
    let numbers: Vec<_> = closing.before.iter().filter_map(Line::seq).collect();
    ensure!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "user {user} missed some before it left");
    let wait = Duration::from_millis(closing.retry_after_ms.context("when to come back")?);
    sleep(wait).await;
    let mut client = Client::connect(Transport::Tcp, to).await?.named(format_args!("user {user} again"));
    client.login(&token::valid(SECRET, user)?).await?;
    Ok(Moved { client, from: published.load(Ordering::SeqCst), late: told.elapsed().saturating_sub(wait) })
}

/// Publishes numbers, each confirmed, until told to stop; the last one.
async fn publish(
    mut notifier: super::notifier::Notifier,
    stopping: watch::Receiver<bool>,
    published: Arc<AtomicU64>,
) -> anyhow::Result<u64> {
    let mut seq = 0;
    loop {
        let ending = *stopping.borrow();
        // What is sent after a login counts from the number that follows.
        published.store(seq + 1, Ordering::SeqCst);
        notifier.notify_all(&numbered(seq)).await?;
        if ending {
            return Ok(seq);
        }
        seq += 1;
        sleep(PERIOD).await;
    }
}
