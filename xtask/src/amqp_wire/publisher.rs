//! Publishing in confirm mode, and the ledger of what became of each message.
//!
//! Confirms are pipelined: `publish` returns when the message is queued for the socket and waits only while the
//! window is full. A message is in exactly one place: outstanding, or settled with one [`Outcome`].

use std::collections::BTreeMap;

use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use tokio::time::timeout;

use super::connection::Connection;
use super::field::Properties;
use super::frame::{BASIC, Encoder, content};
use super::url::AmqpUrl;
use crate::PATIENCE;

/// Messages published and not yet confirmed, at most.
const WINDOW: usize = 1000;

/// What the broker said of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    /// Taken, and routed to a queue.
    Confirmed,
    /// Taken, and routed to no queue.
    Returned,
    /// Refused.
    Nacked,
    /// The connection ended first.
    Unknown,
}

/// One message to publish, always with the mandatory flag.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) exchange: String,
    pub(crate) routing_key: String,
    pub(crate) properties: Properties,
    pub(crate) body: Bytes,
}

/// A connection in confirm mode.
#[derive(Debug)]
pub(crate) struct Publisher {
    connection: Connection,
}

impl Publisher {
    pub(crate) async fn open(url: &AmqpUrl) -> anyhow::Result<Self> {
        let connection = Connection::open(url).await?;
        connection.confirm_select().await?;
        Ok(Self { connection })
    }

    /// Queues `message`; its outcome appears under `key` in [`Self::take_settled`].
    ///
    /// # Errors
    /// The connection is gone. The message may or may not have reached the broker: it is `Unknown` in the ledger.
    pub(crate) async fn publish(&mut self, key: u64, message: &Message) -> anyhow::Result<()> {
        self.wait(WINDOW - 1).await?;
        let mut method = Encoder::method(BASIC, 40);
        method.0.extend([0, 0]);
        method.short_string(&message.exchange)?;
        method.short_string(&message.routing_key)?;
        method.0.push(1);
        let frame_max = self.connection.frame_max();
        let frames = content(1, &method.0, &message.properties.0, &message.body, frame_max)?;
        self.connection.shared().ledger().publish(key, &message.routing_key, message.body.clone());
        self.connection.write(frames).await
    }

    /// Publishes one message and waits for what became of it.
    pub(crate) async fn publish_one(&mut self, message: &Message) -> anyhow::Result<Outcome> {
        const KEY: u64 = u64::MAX;
        self.publish(KEY, message).await?;
        self.settle().await?;
        let settled = self.take_settled();
        let found = settled.iter().rev().find(|(key, _)| *key == KEY);
        found.map(|(_, outcome)| *outcome).context("a message without an outcome")
    }

    /// Waits until everything published so far has its outcome.
    pub(crate) async fn settle(&self) -> anyhow::Result<()> {
        self.wait(0).await
    }

    /// Waits until at most `left` messages are outstanding.
    async fn wait(&self, left: usize) -> anyhow::Result<()> {
        let shared = self.connection.shared();
        loop {
            if shared.ledger().outstanding.len() <= left {
                return Ok(());
            }
            if let Some(reason) = shared.ended() {
                return Err(anyhow!("connection to the broker ended: {reason}"));
            }
            timeout(PATIENCE, shared.changed.notified())
                .await
                .with_context(|| format!("no confirm from the broker in {PATIENCE:?}"))?;
        }
    }

    /// The outcomes since the last call, by key.
    pub(crate) fn take_settled(&mut self) -> Vec<(u64, Outcome)> {
        std::mem::take(&mut self.connection.shared().ledger().settled)
    }

    /// Ends the connection; what was outstanding is `Unknown`.
    pub(crate) fn abandon(mut self) -> Vec<(u64, Outcome)> {
        let mut all = self.take_settled();
        let outstanding = std::mem::take(&mut self.connection.shared().ledger().outstanding);
        all.extend(outstanding.into_values().map(|pending| (pending.key, Outcome::Unknown)));
        all
    }

    /// Says goodbye; everything must be settled.
    pub(crate) async fn close(self) -> anyhow::Result<()> {
        self.settle().await?;
        self.connection.close().await
    }
}

/// Delivery tags of one channel and what became of them.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    last_tag: u64,
    outstanding: BTreeMap<u64, Pending>,
    settled: Vec<(u64, Outcome)>,
}

#[derive(Debug)]
struct Pending {
    key: u64,
    routing_key: String,
    body: Bytes,
    returned: bool,
}

impl Ledger {
    fn publish(&mut self, key: u64, routing_key: &str, body: Bytes) {
        self.last_tag += 1;
        let pending = Pending { key, routing_key: routing_key.to_owned(), body, returned: false };
        self.outstanding.insert(self.last_tag, pending);
    }

    /// A return names no tag: it belongs to the oldest outstanding message with this key and body.
    pub(super) fn returned(&mut self, routing_key: &str, body: &[u8]) {
        let found = self
            .outstanding
            .values_mut()
            .find(|pending| !pending.returned && pending.routing_key == routing_key && pending.body == body);
        if let Some(pending) = found {
            pending.returned = true;
        }
    }

    pub(super) fn settle(&mut self, tag: u64, multiple: bool, ack: bool) {
        let tags = if multiple {
            let later = self.outstanding.split_off(&(tag + 1));
            std::mem::replace(&mut self.outstanding, later)
        } else {
            self.outstanding.remove_entry(&tag).into_iter().collect()
        };
        self.settled.extend(tags.into_values().map(|pending| {
            let outcome = match (ack, pending.returned) {
                (false, _) => Outcome::Nacked,
                (true, true) => Outcome::Returned,
                (true, false) => Outcome::Confirmed,
            };
            (pending.key, outcome)
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_message_has_one_outcome() {
        let mut ledger = Ledger::default();
        for key in 10..15 {
            ledger.publish(key, if key == 12 { "nowhere" } else { "k" }, Bytes::from_static(b"x"));
        }
        ledger.returned("nowhere", b"x");
        ledger.settle(2, false, true);
        ledger.settle(3, true, true);
        ledger.settle(4, false, false);
        ledger.settle(4, true, true);
        assert_eq!(
            ledger.settled,
            [
                (11, Outcome::Confirmed),
                (10, Outcome::Confirmed),
                (12, Outcome::Returned),
                (13, Outcome::Nacked)
            ]
        );
        assert_eq!(ledger.outstanding.len(), 1);
    }
}
