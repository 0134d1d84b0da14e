//! The queue that lobbies' receipts come to, and who waits for which.
//!
//! An exclusive queue that the broker names, one for each publisher, deleted with its connection. Direct reply-to would
//! spare the queue, but ties what is published to the channel that consumes, and the pool's channels are shared.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::StreamExt;
use lapin::{
    Channel,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable, ShortString},
};
use notify_protocol::Receipt;
use tokio::{sync::mpsc, task::AbortHandle, time::timeout};
use tracing::debug;

use crate::{connection::lost, error::ConsumerError, publish_error::PublishError};

/// Receipts that the broker sends ahead of acks.
const PREFETCH: u16 = 256;
/// Receipts that one ack settles.
const ACK_BATCH: u16 = PREFETCH / 4;
/// Receipts that may wait in the queue; the oldest make room.
const MAX_LENGTH: i64 = 100_000;
/// Receipts for one message that may wait to be looked at.
const MAX_UNREAD: usize = 1_024;

/// The receipts of one message, as they come.
pub(crate) struct Waiting {
    id: Arc<str>,
    number: u64,
    waiters: Arc<Waiters>,
    pub(crate) receipts: mpsc::Receiver<Receipt>,
}

/// An open queue for receipts. Dropping it stops consuming.
pub(crate) struct ReceiptInbox {
    queue: ShortString,
    channel: Channel,
    waiters: Arc<Waiters>,
    task: AbortHandle,
}

/// Who waits, by message id. Two calls may publish the same id.
#[derive(Default)]
struct Waiters(Mutex<WaitersById>);

#[derive(Default)]
struct WaitersById {
    /// Nothing more comes.
    ended: bool,
    last_number: u64,
    by_id: HashMap<Arc<str>, Vec<(u64, mpsc::Sender<Receipt>)>>,
}

impl ReceiptInbox {
    /// Declares the queue and consumes it, on the caller's runtime; each call to the broker takes at most `limit`.
    pub(crate) async fn open(channel: Channel, limit: Duration) -> Result<Self, PublishError> {
        let broken = |error: lapin::Error| PublishError::Connection(lost(&error));
        let late = |call| move |_| PublishError::Connection(ConsumerError::TimedOut { call, after: limit });
        let mut arguments = FieldTable::default();
        arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(MAX_LENGTH));
        let options =
            QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
        let declared = channel.queue_declare(ShortString::default(), options, arguments);
        let queue = timeout(limit, declared).await.map_err(late("queue.declare"))?.map_err(broken)?;
        let queue = queue.name().clone();
        let qos = channel.basic_qos(PREFETCH, BasicQosOptions::default());
        timeout(limit, qos).await.map_err(late("basic.qos"))?.map_err(broken)?;
        let consume = channel.basic_consume(
            queue.clone(),
            ShortString::default(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        );
        let consumer = timeout(limit, consume).await.map_err(late("basic.consume"))?.map_err(broken)?;
        let waiters = Arc::<Waiters>::default();
        let task = tokio::spawn(receive(consumer, waiters.clone())).abort_handle();
        Ok(Self { queue, channel, waiters, task })
    }

    /// The queue's name, for `reply-to`.
    pub(crate) fn queue(&self) -> &ShortString {
        &self.queue
    }

    /// Whether receipts can still come.
    pub(crate) fn is_open(&self) -> bool {
        self.channel.status().connected() && !self.task.is_finished()
    }

    /// Waits for receipts of the message `id` from now on.
    pub(crate) fn wait_for(&self, id: Arc<str>) -> Waiting {
        self.waiters.wait_for(id)
    }
}

impl Drop for ReceiptInbox {
    fn drop(&mut self) {
        self.task.abort();
        self.waiters.end();
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut waiters = self.waiters.lock();
        if let Some(several) = waiters.by_id.get_mut(&self.id) {
            several.retain(|(number, _)| *number != self.number);
            if several.is_empty() {
                waiters.by_id.remove(&self.id);
            }
        }
    }
}

impl Waiters {
    fn lock(&self) -> MutexGuard<'_, WaitersById> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_for(self: &Arc<Self>, id: Arc<str>) -> Waiting {
        let (sender, receipts) = mpsc::channel(MAX_UNREAD);
        let mut waiters = self.lock();
        waiters.last_number += 1;
        let number = waiters.last_number;
        if !waiters.ended {
            waiters.by_id.entry(id.clone()).or_default().push((number, sender));
        }
        drop(waiters);
        Waiting { id, number, waiters: self.clone(), receipts }
    }

    /// A receipt that nobody waits for any more is dropped, and so is one that finds no room.
    fn hand_over(&self, body: &[u8]) {
        let receipt = match Receipt::from_json(body) {
            Ok(receipt) => receipt,
            Err(error) => return debug!(%error, "not a receipt"),
        };
        let Some(id) = receipt.message_id.as_deref() else { return };
        for (_, waiter) in self.lock().by_id.get(id).into_iter().flatten() {
            let _ = waiter.try_send(receipt.clone());
        }
    }

    /// Tells everybody who waits that nothing more comes.
    fn end(&self) {
        let mut waiters = self.lock();
        waiters.ended = true;
        waiters.by_id.clear();
    }
}

async fn receive(mut consumer: lapin::Consumer, waiters: Arc<Waiters>) {
    let mut unacked = 0;
    while let Some(Ok(delivery)) = consumer.next().await {
        waiters.hand_over(&delivery.data);
        unacked += 1;
        if unacked == ACK_BATCH {
            unacked = 0;
            if delivery.acker.ack(BasicAckOptions { multiple: true }).await.is_err() {
                break;
            }
        }
    }
    waiters.end();
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECEIPT: &[u8] = br#"{"instance":"pod-7","message_id":"mine","outcome":"written",
        "sessions_matched":1,"sessions_written":1,"sessions_overflowed":0,"micros":212}"#;

    #[test]
    fn receipts_that_nobody_looks_at_are_dropped_and_who_left_is_forgotten() {
        let waiters = Arc::<Waiters>::default();
        let mut waiting = waiters.wait_for("mine".into());
        (0..2 * MAX_UNREAD).for_each(|_| waiters.hand_over(RECEIPT));
        let kept = std::iter::from_fn(|| waiting.receipts.try_recv().ok()).count();
        assert_eq!(kept, MAX_UNREAD);
        drop(waiting);
        assert!(waiters.lock().by_id.is_empty());
        waiters.hand_over(RECEIPT);
    }
}
