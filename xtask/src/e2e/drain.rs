//! SIGTERM while a thousand clients are connected and messages flow.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use notify_protocol::NOTIFY_ROUTING_KEY;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, interval};

use super::notifier::numbered;
use super::stage::Stage;
use crate::PATIENCE;
use crate::amqp_wire::{Message, Outcome, Properties, Publisher};
use crate::client::{Closing, Event, Line, Transport};

const CLIENTS: i64 = 1000;
const DRAIN_LIMIT: Duration = Duration::from_secs(10);
const WINDOW: Duration = Duration::from_secs(5);
/// For the process to end after its drain.
const SLACK: Duration = Duration::from_secs(2);
/// Every so many messages one goes to everyone.
const BROADCAST_EVERY: u64 = 50;
/// SIGTERM comes when one client has got so many messages for everyone.
const FLOWING: u64 = 10;

fn addressee(seq: u64) -> Option<i64> {
    let user = 1 + i64::try_from(seq * 7 % CLIENTS.unsigned_abs()).unwrap_or_default();
    (!seq.is_multiple_of(BROADCAST_EVERY)).then_some(user)
}

/// Exit 0 within the drain's limit, a second SIGTERM or not. Clients are told 1012 one after the other over the window,
/// each with a time to come back of its own, and until then each gets every message that is for it.
pub(crate) async fn sigterm_drain(stage: &Stage) -> anyhow::Result<()> {
    let setup = stage
        .setup()
        .set("LOBBY_SHUTDOWN__DRAIN_TIMEOUT", format!("{}s", DRAIN_LIMIT.as_secs()))
        .set("LOBBY_SHUTDOWN__DRAIN_WINDOW", format!("{}s", WINDOW.as_secs()));
    let mut lobby = stage.start(&setup).await?;
    let seen = Arc::new(Seen::default());
    let mut clients = connect(stage, &lobby, &seen).await?;
    let (stop, stopping) = watch::channel(false);
    let published = Arc::new(AtomicU64::new(0));
    let publishing = tokio::spawn(publish(
        stage.url().clone(),
        stage.exchange().to_owned(),
        stopping,
        Arc::clone(&published),
    ));
    seen.flowing().await?;

    let start = Instant::now();
    let before = published.load(Ordering::Relaxed);
    lobby.terminate()?;
    lobby.unready_with("draining").await?;
    let metrics = lobby.metrics().await?;
    ensure!(metrics.count("lobby_draining", &[]) == 1, "not shown as draining:\n{metrics}");
    lobby.terminate()?;
    let status = lobby.exited(DRAIN_LIMIT + SLACK).await?;
    let took = start.elapsed();
    ensure!(status.success(), "exited with {status}");
    ensure!(lobby.log().holds("still draining"), "the log does not say how far the drain is");
    stop.send_replace(true);
    let ledger = publishing.await.context("the publisher")??;

    let (mut told, mut waits, mut latest) = (Vec::new(), BTreeSet::new(), 0);
    while let Some(client) = clients.join_next().await {
        let (user, closing, at) = client.context("a client")??;
        waits.insert(told_to_return(user, &closing)?);
        let received = numbers(&closing.before)?;
        without_gap(user, &ledger, &received)?;
        latest = latest.max(received.last().copied().unwrap_or_default());
        told.push(at.saturating_duration_since(start));
    }
    ensure!(waits.len() > 100, "{CLIENTS} clients were told to return at {} different times", waits.len());
    ensure!(latest > before, "no message that was published after SIGTERM reached anybody");
    told.sort_unstable();
    let busiest = busiest_tenth(&told);
    // A machine that is busy makes some late, which makes a tenth of the window busier, and none early.
    ensure!(
        busiest < told.len() / 3,
        "{busiest} of {CLIENTS} clients were told within a tenth of the window"
    );
    let (first, last) = (told[0], told[told.len() - 1]);
    ensure!(last - first > WINDOW / 2, "all were told within {:?}", last - first);
    stage.fact(format!(
        "{CLIENTS} clients told to go from {:.2} s to {:.2} s after SIGTERM, at most {busiest} within {:.1} s; ended after \
         {:.1} s; of {} messages none that was for a connected client was lost, the last {} came after SIGTERM",
        first.as_secs_f64(),
        last.as_secs_f64(),
        WINDOW.as_secs_f64() / 10.0,
        took.as_secs_f64(),
        ledger.len(),
        latest - before,
    ));
    Ok(())
}

/// How many of these moments, which are in order, lie within a tenth of the window.
fn busiest_tenth(told: &[Duration]) -> usize {
    let within =
        |at: &Duration| told.iter().filter(|other| **other >= *at && **other < *at + WINDOW / 10).count();
    told.iter().map(within).max().unwrap_or_default()
}

/// Without a broker so far, and with a client that never reads: the others are told, and the drain keeps its limit.
pub(crate) async fn at_its_worst(stage: &Stage) -> anyhow::Result<()> {
    let limit = Duration::from_secs(4);
    let away = stage
        .setup()
        .set("LOBBY_BROKER__URL", "amqp://guest:guest@127.0.0.1:1/%2f")
        .set("LOBBY_SHUTDOWN__DRAIN_TIMEOUT", format!("{}s", limit.as_secs()));
    let mut lobby = stage.start_unready(&away).await?;
    let mut client = stage.client(&lobby, Transport::WebSocket, 1).await?;
    lobby.terminate()?;
    client.expect_close(1012).await?;
    drop(client);
    ensure!(lobby.exited(PATIENCE).await?.success(), "a lobby that never consumed did not drain");

    let setup = stage.setup().set("LOBBY_SHUTDOWN__DRAIN_TIMEOUT", format!("{}s", limit.as_secs()));
    let mut lobby = stage.start(&setup).await?;
    let stuck = stage.client(&lobby, Transport::Tcp, 42).await?;
    let mut quick = stage.client(&lobby, Transport::WebSocket, 43).await?;
    let body = format!("{{\"fill\":\"{}\"}}", "x".repeat(3 << 20));
    let mut notifier = stage.notifier().await?;
    for _ in 0..3 {
        notifier.notify_user(42, &body).await?;
    }
    lobby.metrics_until("a backlog", |metrics| metrics.count("lobby_outbox_bytes", &[]) > 1 << 20).await?;
    let start = Instant::now();
    lobby.terminate()?;
    quick.expect_close(1012).await?;
    let told = start.elapsed();
    ensure!(told < limit / 2, "a client that reads was told after {told:?}, behind one that does not");
    let status = lobby.exited(limit + SLACK).await?;
    ensure!(status.success(), "a drain with a client that never reads ended with {status}");
    stage.fact(format!(
        "a client that never reads: ended {:.1} s after SIGTERM, limit {limit:?}",
        start.elapsed().as_secs_f64()
    ));
    drop(stuck);
    Ok(())
}

/// A drain that waits for a client which does not read: a second Ctrl-C ends it at once, and the exit code says that it
/// was cut short.
pub(crate) async fn second_interrupt(stage: &Stage) -> anyhow::Result<()> {
    let setup = stage.setup().set("LOBBY_SHUTDOWN__DRAIN_TIMEOUT", "10m");
    let mut lobby = stage.start(&setup).await?;
    let slow = stage.client(&lobby, Transport::Tcp, 42).await?;
    let body = format!("{{\"fill\":\"{}\"}}", "x".repeat(3 << 20));
    let mut notifier = stage.notifier().await?;
    for _ in 0..3 {
        notifier.notify_user(42, &body).await?;
    }
    lobby.metrics_until("a backlog", |metrics| metrics.count("lobby_outbox_bytes", &[]) > 1 << 20).await?;
    lobby.interrupt()?;
    lobby.unready_with("draining").await?;
    lobby.interrupt()?;
    let status = lobby.exited(PATIENCE).await?;
    ensure!(status.code() == Some(1), "a drain that was cut short ended with {status}");
    ensure!(lobby.log().holds("second SIGINT"), "the log does not say why");
    drop(slow);
    Ok(())
}

/// Counts messages for everyone that one client got.
#[derive(Debug, Default)]
struct Seen {
    count: AtomicU64,
    enough: Notify,
}

impl Seen {
    fn one(&self) {
        if self.count.fetch_add(1, Ordering::Relaxed) + 1 == FLOWING {
            self.enough.notify_one();
        }
    }

    async fn flowing(&self) -> anyhow::Result<()> {
        tokio::time::timeout(PATIENCE, self.enough.notified()).await.context("messages never flowed")
    }
}

/// Each with its end, and the moment when that was read.
type Clients = JoinSet<anyhow::Result<(i64, Closing, Instant)>>;

/// Logs a thousand clients in and lets each read to its end.
async fn connect(stage: &Stage, lobby: &crate::lobby::Lobby, seen: &Arc<Seen>) -> anyhow::Result<Clients> {
    let places = Semaphore::new(50);
    let logins = (1..=CLIENTS).map(|user| {
        let places = &places;
        async move {
            let _place = places.acquire().await;
            let transport = if user % 2 == 0 { Transport::Tcp } else { Transport::WebSocket };
            stage.client(lobby, transport, user).await.map(|client| (user, client))
        }
    });
    let logged_in = futures_util::future::try_join_all(logins).await?;
    let mut clients = Clients::new();
    for (user, mut client) in logged_in {
        let seen = Arc::clone(seen);
        clients.spawn(async move {
            let (mut lines, mut told) = (Vec::new(), Instant::now());
            loop {
                match client.next().await? {
                    Event::Ended(ended) => return Ok((user, client.closing(lines, ended)?, told)),
                    Event::Line(line) => {
                        told = Instant::now();
                        if user == 1 && line.seq().is_some_and(|seq| addressee(seq).is_none()) {
                            seen.one();
                        }
                        lines.push(line);
                    }
                }
            }
        });
    }
    Ok(clients)
}

/// Publishes a thousand messages a second until told to stop; the numbers that were confirmed and routed.
async fn publish(
    url: crate::amqp_wire::AmqpUrl,
    exchange: String,
    stopping: watch::Receiver<bool>,
    published: Arc<AtomicU64>,
) -> anyhow::Result<Vec<u64>> {
    let mut publisher = Publisher::open(&url).await?;
    let mut tick = interval(Duration::from_millis(10));
    let mut seq = 0;
    while !*stopping.borrow() {
        tick.tick().await;
        for _ in 0..10 {
            let message = Message {
                exchange: exchange.clone(),
                routing_key: NOTIFY_ROUTING_KEY.to_owned(),
                properties: Properties::to_user(addressee(seq))?,
                body: Bytes::from(numbered(seq)),
            };
            publisher.publish(seq, &message).await?;
            seq += 1;
            published.store(seq, Ordering::Relaxed);
        }
    }
    publisher.settle().await?;
    let settled = publisher.take_settled();
    Ok(settled
        .into_iter()
        .filter(|(_, outcome)| *outcome == Outcome::Confirmed)
        .map(|(seq, _)| seq)
        .collect())
}

/// The wait this client was told, after the checks of its farewell.
fn told_to_return(user: i64, closing: &Closing) -> anyhow::Result<u64> {
    ensure!(closing.code == 1012, "user {user} was closed with {} ({})", closing.code, closing.reason);
    ensure!(closing.reconnect, "user {user} was not told to reconnect");
    closing.retry_after_ms.with_context(|| format!("user {user} was not told when to return"))
}

fn numbers(lines: &[Line]) -> anyhow::Result<BTreeSet<u64>> {
    lines.iter().map(|line| line.seq().with_context(|| format!("not a numbered line: {line}"))).collect()
}

/// Up to the last that it received, a client received every message that was for it.
fn without_gap(user: i64, ledger: &[u64], received: &BTreeSet<u64>) -> anyhow::Result<()> {
    let last = received.last().copied().unwrap_or_default();
    let missing: Vec<_> = ledger
        .iter()
        .filter(|seq| **seq < last && addressee(**seq).is_none_or(|to| to == user) && !received.contains(seq))
        .collect();
    if !missing.is_empty() {
        bail!(
            "user {user} missed {} messages while it was connected: {:?}",
            missing.len(),
            &missing[..missing.len().min(10)]
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_a_client_missed_while_it_was_connected_is_seen() {
        let user = addressee(1).unwrap();
        let ledger: Vec<_> = (1..=2 * BROADCAST_EVERY).collect();
        let judge = |user, received: &[u64]| without_gap(user, &ledger, &received.iter().copied().collect());
        let (first, second) = (BROADCAST_EVERY, 2 * BROADCAST_EVERY);
        assert!(judge(user, &[1, first, second]).is_ok());
        assert!(judge(user, &[1, first]).is_ok(), "it had left");
        assert!(judge(user, &[first, second]).is_err());
        assert!(judge(user, &[1, second]).is_err());
        assert!(judge(user + 1, &[]).is_ok());
    }

    #[test]
    fn the_busiest_tenth_is_found() {
        let at = |tenths: u32| WINDOW / 10 * tenths;
        assert_eq!(busiest_tenth(&[at(0), at(1), at(1), at(2), at(9)]), 2);
        assert_eq!(busiest_tenth(&[]), 0);
    }
}
