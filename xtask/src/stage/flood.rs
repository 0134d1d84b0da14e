//! A numbered stream of notifications through trouble: who must get which number, and what became of each.
//!
//! A fifth goes to everyone, one in fifty to nobody, the rest to one of the players in turn. The publisher's ledger
//! decides: a confirmed and routed message must arrive, one whose outcome is unknown may.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use notify_protocol::NOTIFY_ROUTING_KEY;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Duration, Instant, interval, sleep, timeout};

use super::Stage;
use super::notifier::{Notifier, numbered, unique};
use super::order::Stream;
use crate::PATIENCE;
use crate::amqp_wire::{AmqpUrl, Message, Outcome, Properties, Publisher};
use crate::client::Transport;
use crate::lobby::Lobby;

/// A broker may be away this long.
const BROKER_PATIENCE: Duration = Duration::from_secs(120);
const PLAYERS: i64 = 8;
/// A user who never logs in.
const NOBODY: i64 = 999;

/// Whom number `seq` is for; `None`: everyone.
fn addressee(seq: u64) -> Option<i64> {
    match seq {
        seq if seq % 50 == 49 => Some(NOBODY),
        seq if seq.is_multiple_of(5) => None,
        seq => Some(1 + i64::try_from(seq % PLAYERS.unsigned_abs()).unwrap_or_default()),
    }
}

/// What became of each number.
pub(crate) type Outcomes = BTreeMap<u64, Outcome>;

/// Players that read while the stream runs.
#[derive(Debug)]
pub(crate) struct Flood {
    readers: JoinSet<anyhow::Result<(i64, String, Vec<u64>)>>,
    last: String,
}

/// What the players' streams amount to; nothing was lost or out of order.
#[derive(Debug)]
pub(crate) struct Judged {
    /// The most duplicates one player got.
    pub(crate) most_duplicates: u64,
    pub(crate) confirmed: usize,
    pub(crate) unknown: usize,
}

impl Flood {
    /// Logs the players in and lets them read up to the flood's last message.
    pub(crate) async fn start(stage: &Stage, lobby: &Lobby) -> anyhow::Result<Self> {
        let last = unique("last");
        let mut readers = JoinSet::new();
        for user in 1..=PLAYERS {
            let transport = if user % 2 == 0 { Transport::Tcp } else { Transport::WebSocket };
            let mut client = stage.client(lobby, transport, user).await?;
            client.patient(BROKER_PATIENCE);
            let last = last.clone();
            readers.spawn(async move {
                let lines = client.expect_until(&last).await?;
                let numbers = lines.iter().map(|line| {
                    line.seq().with_context(|| format!("{}: not of the flood: {line}", client.name()))
                });
                Ok((user, client.name().to_owned(), numbers.collect::<anyhow::Result<_>>()?))
            });
        }
        Ok(Self { readers, last })
    }

    /// Ends the stream, waits for every player, and compares what they got with the ledger.
    pub(crate) async fn judge(self, stage: &Stage, outcomes: &Outcomes) -> anyhow::Result<Judged> {
        self.judge_through(&mut stage.notifier().await?, outcomes).await
    }

    /// The same where the stream ends at `notifier`'s exchange.
    pub(crate) async fn judge_through(
        mut self,
        notifier: &mut Notifier,
        outcomes: &Outcomes,
    ) -> anyhow::Result<Judged> {
        let body = format!(r#"{{"command":"last","id":"{}"}}"#, self.last);
        notifier.notify_all(&body).await?;
        let mut most_duplicates = 0;
        while let Some(reader) = self.readers.join_next().await {
            let (user, name, received) = reader.context("a player")??;
            let mine = |wanted: Outcome| -> BTreeSet<u64> {
                let all = outcomes.iter().filter(|(_, outcome)| **outcome == wanted).map(|(seq, _)| *seq);
                all.filter(|seq| addressee(*seq).is_none_or(|to| to == user)).collect()
            };
            // What a queue refused while its nodes changed may have been stored by one of them.
            let may = &mine(Outcome::Unknown) | &mine(Outcome::Nacked);
            let stream = Stream::judge(&received, &mine(Outcome::Confirmed), &may);
            stream.faultless(&name)?;
            most_duplicates = most_duplicates.max(stream.duplicates);
        }
        let count = |wanted: Outcome| outcomes.values().filter(|outcome| **outcome == wanted).count();
        Ok(Judged { most_duplicates, confirmed: count(Outcome::Confirmed), unknown: count(Outcome::Unknown) })
    }
}

/// A publisher that runs beside the scenario.
#[derive(Debug)]
pub(crate) struct Source {
    publishing: JoinHandle<anyhow::Result<Outcomes>>,
    progress: watch::Receiver<u64>,
    enough: watch::Sender<bool>,
}

impl Source {
    /// Publishes numbers until `count` of them are confirmed and routed *and* [`Self::finish`] is called, over as
    /// many connections as it takes.
    pub(crate) fn start(stage: &Stage, count: u64) -> Self {
        // 3,000 a second, none waiting for another's confirm: something is in flight when trouble comes.
        Self::at(stage.url().clone(), stage.exchange().to_owned(), count, 60)
    }

    /// The same at any exchange, `batch` numbers every 20 ms.
    pub(crate) fn at(url: AmqpUrl, exchange: String, count: u64, batch: u64) -> Self {
        let (told, progress) = watch::channel(0);
        let (enough, asked) = watch::channel(false);
        let goal = Goal { count, batch, enough: asked, progress: told };
        let publishing = tokio::spawn(publish(url, exchange, goal));
        Self { publishing, progress, enough }
    }

    /// Waits until `count` numbers are confirmed.
    pub(crate) async fn reached(&mut self, count: u64) -> anyhow::Result<()> {
        let waiting = timeout(BROKER_PATIENCE, self.progress.wait_for(|done| *done >= count)).await;
        waiting
            .with_context(|| format!("{count} messages were never confirmed"))?
            .context("the publisher ended")?;
        Ok(())
    }

    /// Numbers confirmed so far.
    pub(crate) fn confirmed(&self) -> u64 {
        *self.progress.borrow()
    }

    /// The ledger, once the goal is reached.
    pub(crate) async fn finish(self) -> anyhow::Result<Outcomes> {
        self.enough.send_replace(true);
        self.publishing.await.context("the publisher")?
    }
}

/// When a publisher may stop, and where it tells how far it is.
#[derive(Debug)]
struct Goal {
    count: u64,
    batch: u64,
    enough: watch::Receiver<bool>,
    progress: watch::Sender<u64>,
}

impl Goal {
    fn reached(&self, outcomes: &Outcomes) -> bool {
        let confirmed = outcomes.values().filter(|outcome| **outcome == Outcome::Confirmed).count() as u64;
        self.progress.send_replace(confirmed);
        confirmed >= self.count && *self.enough.borrow()
    }
}

async fn publish(url: AmqpUrl, exchange: String, goal: Goal) -> anyhow::Result<Outcomes> {
    let mut outcomes = Outcomes::new();
    let mut seq = 0;
    loop {
        let mut publisher = open(&url).await?;
        // The ledger knows what is lost with a connection; the stream goes on over the next one.
        let ended = stream(&mut publisher, &exchange, &mut seq, &mut outcomes, &goal).await;
        outcomes.extend(publisher.abandon());
        if ended.is_ok() {
            return Ok(outcomes);
        }
    }
}

async fn stream(
    publisher: &mut Publisher,
    exchange: &str,
    seq: &mut u64,
    outcomes: &mut Outcomes,
    goal: &Goal,
) -> anyhow::Result<()> {
    let mut tick = interval(Duration::from_millis(20));
    while !goal.reached(outcomes) {
        tick.tick().await;
        for _ in 0..goal.batch {
            let message = Message {
                exchange: exchange.to_owned(),
                routing_key: NOTIFY_ROUTING_KEY.to_owned(),
                properties: Properties::to_user(addressee(*seq))?,
                body: Bytes::from(numbered(*seq)),
            };
            // The number is spent even when its publish fails: it may have arrived.
            *seq += 1;
            publisher.publish(*seq - 1, &message).await?;
        }
        outcomes.extend(publisher.take_settled());
    }
    publisher.settle().await
}

async fn open(url: &AmqpUrl) -> anyhow::Result<Publisher> {
    let start = Instant::now();
    loop {
        match Publisher::open(url).await {
            Ok(publisher) => return Ok(publisher),
            Err(error) if start.elapsed() > BROKER_PATIENCE => {
                return Err(error.context("the broker did not come back"));
            }
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}

/// No client may get more duplicates than the broker marked: each redelivery reaches a client at most once. The log
/// tells as many as the metrics; how many that is.
pub(crate) async fn duplicates_are_marked(lobby: &Lobby, judged: &Judged) -> anyhow::Result<u64> {
    let metrics = lobby.metrics().await?;
    let redelivered = metrics.count("lobby_redelivered_total", &[]);
    ensure!(
        judged.most_duplicates <= redelivered,
        "a client got {} duplicates, the lobby counted {redelivered} redelivered messages",
        judged.most_duplicates
    );
    let start = Instant::now();
    loop {
        let told: u64 = lobby
            .log()
            .records()
            .iter()
            .filter_map(|record| record.field("redelivered")?.parse::<u64>().ok())
            .sum();
        if redelivered == told {
            return Ok(redelivered);
        }
        ensure!(
            start.elapsed() < PATIENCE,
            "the log tells of {told} redelivered messages, {redelivered} are counted"
        );
        sleep(Duration::from_millis(50)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_is_mixed() {
        let to: Vec<_> = (0..200).map(addressee).collect();
        assert_eq!(to.iter().filter(|to| to.is_none()).count(), 40);
        assert_eq!(to.iter().filter(|to| **to == Some(NOBODY)).count(), 4);
        assert!((1..=PLAYERS).all(|user| to.contains(&Some(user))));
    }
}
