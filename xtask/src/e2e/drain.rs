//! SIGTERM while a thousand clients are connected and messages flow.

use std::collections::{BTreeMap, BTreeSet};
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
use crate::amqp_wire::{Connection, Message, Outcome, Properties, Publisher};
use crate::client::{Closing, Event, Line, Transport};

const CLIENTS: i64 = 1000;
const DRAIN_LIMIT: Duration = Duration::from_secs(10);
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

/// Exit 0 within the drain's limit; every client is told 1012 and when to come back; every message that the broker
/// no longer has was received by each client it was for, before that client's `closing`.
pub(super) async fn sigterm_drain(stage: &Stage) -> anyhow::Result<()> {
    let limit = format!("{}s", DRAIN_LIMIT.as_secs());
    let mut lobby = stage.start(&stage.setup().set("LOBBY_SHUTDOWN__DRAIN_TIMEOUT", limit)).await?;
    let seen = Arc::new(Seen::default());
    let mut clients = connect(stage, &lobby, &seen).await?;
    let (stop, stopping) = watch::channel(false);
    let publishing = tokio::spawn(publish(stage.url().clone(), stage.exchange().to_owned(), stopping));
    seen.flowing().await?;

    let start = Instant::now();
    lobby.terminate()?;
    let status = lobby.exited(DRAIN_LIMIT + SLACK).await?;
    let took = start.elapsed();
    ensure!(status.success(), "exited with {status}");
    stop.send_replace(true);
    let ledger = publishing.await.context("the publisher")??;

    let mut received = BTreeMap::new();
    let mut waits = BTreeSet::new();
    while let Some(client) = clients.join_next().await {
        let (user, closing) = client.context("a client")??;
        waits.insert(told_to_return(user, &closing)?);
        received.insert(user, numbers(&closing.before)?);
    }
    ensure!(waits.len() > 100, "{CLIENTS} clients were told to return at {} different times", waits.len());

    let waiting = waiting(stage).await?;
    let settled: BTreeSet<u64> = ledger.iter().filter(|seq| !waiting.contains(seq)).copied().collect();
    handed_over(&settled, &received)?;
    ensure!(!waiting.is_empty(), "no message was left in the queue: nothing was in flight");
    stage.fact(format!(
        "{CLIENTS} clients drained in {:.1} s; of {} messages {} settled, each received; {} wait in the queue",
        took.as_secs_f64(),
        ledger.len(),
        settled.len(),
        waiting.len()
    ));
    Ok(())
}

/// A drain that waits for a client which does not read: a second Ctrl-C ends it at once, and the exit code says that it
/// was cut short.
pub(super) async fn second_interrupt(stage: &Stage) -> anyhow::Result<()> {
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

type Clients = JoinSet<anyhow::Result<(i64, Closing)>>;

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
            let mut lines = Vec::new();
            loop {
                match client.next().await? {
                    Event::Ended(ended) => return Ok((user, client.closing(lines, ended)?)),
                    Event::Line(line) => {
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

/// The numbers still in the queue once the lobby's consumer is gone and what it held is back.
async fn waiting(stage: &Stage) -> anyhow::Result<BTreeSet<u64>> {
    let queue = stage.queue();
    stage.queue_with_consumers(&queue, 0).await?;
    let connection = Connection::open(stage.url()).await?;
    let mut waiting = BTreeSet::new();
    while let Some(got) = connection.get(&queue).await? {
        waiting.insert(Line::new(got.body).seq().context("a message without a number")?);
    }
    Ok(waiting)
}

/// Every settled message was received by each client it was for.
fn handed_over(settled: &BTreeSet<u64>, received: &BTreeMap<i64, BTreeSet<u64>>) -> anyhow::Result<()> {
    for (user, got) in received {
        let missing: Vec<_> = settled
            .iter()
            .filter(|seq| addressee(**seq).is_none_or(|to| to == *user) && !got.contains(seq))
            .collect();
        if !missing.is_empty() {
            bail!(
                "user {user} missed {} messages that were acked: {:?}",
                missing.len(),
                &missing[..missing.len().min(10)]
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_acked_message_that_a_client_missed_is_seen() {
        let user = addressee(1).unwrap();
        let everyone = BROADCAST_EVERY;
        let settled = BTreeSet::from([1, everyone]);
        let received = |mine: &[u64], others: &[u64]| {
            BTreeMap::from([
                (user, mine.iter().copied().collect()),
                (user + 1, others.iter().copied().collect()),
            ])
        };
        assert!(handed_over(&settled, &received(&[1, everyone], &[everyone])).is_ok());
        assert!(handed_over(&settled, &received(&[everyone], &[everyone])).is_err());
        assert!(handed_over(&settled, &received(&[1, everyone], &[])).is_err());
    }
}
