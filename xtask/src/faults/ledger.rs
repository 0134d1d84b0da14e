//! One publisher, one message at a time, and one player: for rows in which each message's outcome decides what comes next.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::PATIENCE;
use crate::amqp_wire::Outcome;
use crate::client::{Client, Line};
use crate::late::Late;
use crate::stage::notifier::{Notifier, numbered};
use crate::stage::tally::{Outcomes, Tally};

/// What became of each number.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    outcomes: Outcomes,
    received: Vec<u64>,
}

impl Ledger {
    /// The user that the numbers are for.
    pub(super) const USER: i64 = 42;

    /// Publishes one number and notes what the broker says.
    pub(super) async fn publish(&mut self, notifier: &mut Notifier) -> anyhow::Result<Outcome> {
        let seq = self.outcomes.len() as u64;
        let headers = json!([["user-id", "l", Self::USER]]);
        let persistent = json!({ "delivery_mode": 2 });
        let outcome = notifier.publish(&headers, &persistent, numbered(seq).as_bytes()).await?;
        self.outcomes.insert(seq, outcome);
        Ok(outcome)
    }

    /// Publishes until a number is routed to a queue.
    pub(super) async fn until_routed(&mut self, notifier: &mut Notifier) -> anyhow::Result<()> {
        let start = Instant::now();
        while self.publish(notifier).await? != Outcome::Confirmed {
            ensure!(start.elapsed() < PATIENCE, Late(format!("nothing was routed in {:?}", PATIENCE)));
            sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// Reads until the last number has come.
    pub(super) async fn until_arrived(&mut self, player: &mut Client) -> anyhow::Result<()> {
        let last = self.outcomes.len() as u64 - 1;
        loop {
            let line = player.line().await?;
            let number = line.seq().with_context(|| format!("not a number: {line}"))?;
            self.received.push(number);
            if number == last {
                return Ok(());
            }
        }
    }

    /// Reads up to a sentinel; what all that amounts to.
    pub(super) async fn tally(
        mut self,
        notifier: &mut Notifier,
        player: &mut Client,
    ) -> anyhow::Result<Tally> {
        let sentinel = notifier.sentinel().await?;
        let rest = player.expect_until(&sentinel).await?;
        self.received.extend(rest.iter().filter_map(Line::seq));
        let mut tally = Tally::of(&self.outcomes);
        tally.add(player.name(), &self.received, &self.outcomes, |_| true);
        Ok(tally)
    }
}
