//! A numbered stream of notifications through trouble: who must get which number, and what became of each.
//!
//! A fifth goes to everyone, one in fifty to nobody, the rest to one of the players in turn. The publisher's ledger
//! decides: a confirmed and routed message must arrive, one whose outcome is unknown may.

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use notify_protocol::NOTIFY_ROUTING_KEY;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Duration, Instant, interval, sleep, timeout};

use super::Stage;
use super::notifier::{Notifier, numbered, unique};
use super::tally::{Outcomes, Tally};
use crate::PATIENCE;
use crate::amqp_wire::{AmqpUrl, Message, Outcome, Properties, Publisher};
use crate::client::{Client, Event, Transport};
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

/// Whether `user` must get number `seq`.
pub(crate) fn is_for(seq: u64, user: i64) -> bool {
    addressee(seq).is_none_or(|to| to == user)
}

/// Players that read while the stream runs.
#[derive(Debug)]
pub(crate) struct Flood {
    readers: JoinSet<anyhow::Result<Received>>,
    last: String,
    arrived: watch::Receiver<u64>,
}

/// What one player got, in order.
#[derive(Debug)]
struct Received {
    user: i64,
    name: String,
    numbers: Vec<u64>,
}

impl Flood {
    /// Logs the players in and lets them read up to the flood's last message.
    pub(crate) async fn start(stage: &Stage, lobby: &Lobby) -> anyhow::Result<Self> {
        let last = unique("last");
        let (told, arrived) = watch::channel(0);
        let mut readers = JoinSet::new();
        for user in 1..=PLAYERS {
            let transport = if user % 2 == 0 { Transport::Tcp } else { Transport::WebSocket };
            let mut client = stage.client(lobby, transport, user).await?;
            client.patient(BROKER_PATIENCE);
            readers.spawn(read(client, user, last.clone(), told.clone()));
        }
        Ok(Self { readers, last, arrived })
    }

    /// Waits until `number` or a later one has reached a player, or fails with the player that got something else.
    pub(crate) async fn reaches(&mut self, number: u64) -> anyhow::Result<()> {
        let mut arrived = self.arrived.clone();
        tokio::select! {
            reached = timeout(BROKER_PATIENCE, arrived.wait_for(|highest| *highest >= number)) => {
                reached.with_context(|| format!("number {number} reached nobody in {BROKER_PATIENCE:?}"))?
                    .context("the players")?;
                Ok(())
            }
            Some(early) = self.readers.join_next() => {
                let early = early.context("a player")??;
                bail!("{}: the stream ended early", early.name)
            }
        }
    }

    /// Ends the stream, waits for every player, and compares what they got with the ledger: nothing may be lost, out
    /// of order or somebody else's.
    pub(crate) async fn judge(self, stage: &Stage, outcomes: &Outcomes) -> anyhow::Result<Tally> {
        self.judge_through(&mut stage.notifier().await?, outcomes).await
    }

    /// The same where the stream ends at `notifier`'s exchange.
    pub(crate) async fn judge_through(
        self,
        notifier: &mut Notifier,
        outcomes: &Outcomes,
    ) -> anyhow::Result<Tally> {
        let tally = self.tally(notifier, outcomes).await?;
        tally.faultless()?;
        Ok(tally)
    }

    /// The same without a verdict.
    pub(crate) async fn tally(
        mut self,
        notifier: &mut Notifier,
        outcomes: &Outcomes,
    ) -> anyhow::Result<Tally> {
        let body = format!(r#"{{"command":"last","id":"{}"}}"#, self.last);
        notifier.notify_all(&body).await?;
        let mut tally = Tally::of(outcomes);
        while let Some(reader) = self.readers.join_next().await {
            let Received { user, name, numbers } = reader.context("a player")??;
            tally.add(&name, &numbers, outcomes, |seq| is_for(seq, user));
        }
        Ok(tally)
    }
}

async fn read(
    mut client: Client,
    user: i64,
    last: String,
    arrived: watch::Sender<u64>,
) -> anyhow::Result<Received> {
    let mut numbers = Vec::new();
    loop {
        match client.next().await? {
            Event::Line(line) if line.holds(&last) => {
                return Ok(Received { user, name: client.name().to_owned(), numbers });
            }
            Event::Line(line) => {
                let number =
                    line.seq().with_context(|| format!("{}: not of the flood: {line}", client.name()))?;
                numbers.push(number);
                arrived.send_if_modified(|highest| {
                    let higher = number > *highest;
                    *highest = number.max(*highest);
                    higher
                });
            }
            Event::Ended(ended) => {
                bail!("{}: ended after {} numbers: {ended:?}", client.name(), numbers.len())
            }
        }
    }
}

/// A publisher that runs beside the scenario.
#[derive(Debug)]
pub(crate) struct Source {
    publishing: JoinHandle<anyhow::Result<Outcomes>>,
    progress: watch::Receiver<Progress>,
    enough: watch::Sender<bool>,
    held: watch::Sender<bool>,
}

/// Tells how many numbers a [`Source`] has had confirmed, also when that is out of reach.
#[derive(Debug, Clone)]
pub(crate) struct Counter(watch::Receiver<Progress>);

impl Counter {
    pub(crate) fn confirmed(&self) -> u64 {
        self.0.borrow().confirmed
    }
}

/// How far a publisher is.
#[derive(Debug, Default, Clone, Copy)]
struct Progress {
    next: u64,
    confirmed: u64,
    /// Nothing is under way, and nothing more is published for now.
    rests: bool,
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
        let (told, progress) = watch::channel(Progress::default());
        let (enough, asked) = watch::channel(false);
        let (held, hold) = watch::channel(false);
        let goal = Goal { count, batch, enough: asked, hold, progress: told };
        let publishing = tokio::spawn(publish(url, exchange, goal));
        Self { publishing, progress, enough, held }
    }

    /// Publishes nothing more until [`Self::resume`], and waits until nothing is under way to the broker.
    pub(crate) async fn pause(&mut self) -> anyhow::Result<()> {
        self.held.send_replace(true);
        let resting = timeout(BROKER_PATIENCE, self.progress.wait_for(|done| done.rests)).await;
        resting.context("the publisher never came to rest")?.context("the publisher ended")?;
        Ok(())
    }

    /// Goes on after [`Self::pause`].
    pub(crate) fn resume(&self) {
        self.held.send_replace(false);
    }

    /// For who wants to know how far this is.
    pub(crate) fn counter(&self) -> Counter {
        Counter(self.progress.clone())
    }

    /// Waits until `count` numbers are confirmed.
    pub(crate) async fn reached(&mut self, count: u64) -> anyhow::Result<()> {
        let waiting = timeout(BROKER_PATIENCE, self.progress.wait_for(|done| done.confirmed >= count)).await;
        waiting
            .with_context(|| format!("{count} messages were never confirmed"))?
            .context("the publisher ended")?;
        Ok(())
    }

    /// Numbers confirmed so far.
    pub(crate) fn confirmed(&self) -> u64 {
        self.progress.borrow().confirmed
    }

    /// The number that comes next.
    pub(crate) fn next(&self) -> u64 {
        self.progress.borrow().next
    }

    /// The last number so far that is for one of the players.
    pub(crate) fn last_for_a_player(&self) -> Option<u64> {
        (0..self.next()).rev().find(|seq| addressee(*seq) != Some(NOBODY))
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
    hold: watch::Receiver<bool>,
    progress: watch::Sender<Progress>,
}

impl Goal {
    fn reached(&self, journal: &Journal) -> bool {
        let &Journal { next, confirmed, .. } = journal;
        self.progress.send_replace(Progress { next, confirmed, rests: false });
        confirmed >= self.count && *self.enough.borrow()
    }

    /// Returns when the publisher may go on.
    async fn rest(&self, journal: &Journal) {
        let &Journal { next, confirmed, .. } = journal;
        self.progress.send_replace(Progress { next, confirmed, rests: true });
        // Who holds it and is gone wants nothing more.
        let _ = self.hold.clone().wait_for(|held| !*held).await;
    }
}

/// What a publisher knows.
#[derive(Debug, Default)]
struct Journal {
    outcomes: Outcomes,
    confirmed: u64,
    next: u64,
}

impl Journal {
    fn note(&mut self, settled: Vec<(u64, Outcome)>) {
        self.confirmed += settled.iter().filter(|(_, outcome)| *outcome == Outcome::Confirmed).count() as u64;
        self.outcomes.extend(settled);
    }
}

async fn publish(url: AmqpUrl, exchange: String, goal: Goal) -> anyhow::Result<Outcomes> {
    let mut journal = Journal::default();
    loop {
        let mut publisher = open(&url).await?;
        // The ledger knows what is lost with a connection; the stream goes on over the next one.
        let ended = stream(&mut publisher, &exchange, &mut journal, &goal).await;
        journal.note(publisher.abandon());
        if ended.is_ok() {
            return Ok(journal.outcomes);
        }
    }
}

async fn stream(
    publisher: &mut Publisher,
    exchange: &str,
    journal: &mut Journal,
    goal: &Goal,
) -> anyhow::Result<()> {
    let mut tick = interval(Duration::from_millis(20));
    while !goal.reached(journal) {
        tick.tick().await;
        for _ in 0..goal.batch {
            let seq = journal.next;
            let message = Message {
                exchange: exchange.to_owned(),
                routing_key: NOTIFY_ROUTING_KEY.to_owned(),
                properties: Properties::to_user(addressee(seq))?,
                body: Bytes::from(numbered(seq)),
            };
            // The number is spent even when its publish fails: it may have arrived.
            journal.next += 1;
            publisher.publish(seq, &message).await?;
        }
        journal.note(publisher.take_settled());
        if *goal.hold.borrow() {
            publisher.settle().await?;
            journal.note(publisher.take_settled());
            goal.rest(journal).await;
        }
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
pub(crate) async fn duplicates_are_marked(lobby: &Lobby, judged: &Tally) -> anyhow::Result<u64> {
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
