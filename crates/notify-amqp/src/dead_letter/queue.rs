//! The queue of dead letters, as a person looks after it: look without taking, publish again, empty.
//!
//! Looking takes each message without acking it and gives all of them back at the end; should this process end
//! first, the broker gives them back. Their order stays, and the broker marks them as redelivered.

use std::{future::Future, sync::Arc, time::Duration};

use lapin::{
    Confirmation, ErrorKind,
    options::{
        BasicAckOptions, BasicGetOptions, BasicNackOptions, BasicPublishOptions, QueueDeclareOptions,
        QueuePurgeOptions,
    },
    types::{FieldTable, ShortString},
};
use tokio::time::timeout;

use super::{DeadLetter, writer::confirming};
use crate::{
    broker::BrokerConfig, connection::Connection, connection::lost, error::ConsumerError,
    queue_name::QueueName, stats::ConsumerStats,
};

/// One queue of dead letters, over a connection of its own.
pub struct DeadLetterQueue {
    connection: Connection,
    name: ShortString,
    user: String,
    call_timeout: Duration,
}

/// What became of a dead letter that was published again.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Replayed {
    /// The broker confirmed it, and it is gone from the queue.
    Published,
    /// It stays: no queue is bound to its exchange for its routing key.
    Unroutable,
    /// It stays: it does not say where it came from, so another program put it there.
    NotOurs,
    /// It stays: the broker refused it (its exchange is gone, say).
    Refused {
        /// The broker's words.
        text: String,
    },
}

/// Why the queue could not be looked after.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeadLetterQueueError {
    /// No connection, or it broke, or a call was refused. What was taken goes back.
    #[error(transparent)]
    Broker(#[from] ConsumerError),
    /// The broker does not take messages now; try again later.
    #[error("the broker blocks publishers (memory or disk alarm)")]
    Blocked,
}

impl DeadLetterQueue {
    /// Connects and looks whether the queue is there.
    ///
    /// # Errors
    /// - [`ConsumerError::NotFound`]: there is no such queue: no lobby has declared it.
    /// - any other [`ConsumerError`] of connecting.
    pub async fn open(broker: &BrokerConfig, queue: &QueueName) -> Result<Self, DeadLetterQueueError> {
        let name: ShortString = queue.as_str().into();
        let stats = Arc::new(ConsumerStats::default());
        let (connection, _) = Connection::open_any(broker, &mut broker.hosts(), &stats).await?;
        let (user, call_timeout) = (connection.user().to_owned(), broker.call_timeout);
        let opened = Self { connection, name, user, call_timeout };
        match opened.len().await {
            Ok(_) => Ok(opened),
            Err(error) => {
                opened.close().await;
                Err(error)
            }
        }
    }

    /// How many dead letters wait, not counting those that somebody is looking at.
    ///
    /// # Errors
    /// [`DeadLetterQueueError::Broker`].
    #[expect(clippy::len_without_is_empty, reason = "asks the broker")]
    pub async fn len(&self) -> Result<u32, DeadLetterQueueError> {
        let channel = self.connection.channel().await?;
        let passive = QueueDeclareOptions { passive: true, ..Default::default() };
        let declared = channel.queue_declare(self.name.clone(), passive, FieldTable::default());
        let queue = self.limited("queue.declare", declared).await?;
        Ok(queue.message_count())
    }

    /// Shows at most `limit` dead letters to `each`, the oldest first, with their positions from 1. All stay.
    ///
    /// # Errors
    /// [`DeadLetterQueueError::Broker`]; all stay then too.
    pub async fn list(
        &self,
        limit: u32,
        mut each: impl FnMut(u32, &DeadLetter),
    ) -> Result<(), DeadLetterQueueError> {
        let channel = self.connection.channel().await?;
        for position in 1..=limit {
            let Some((_, letter)) = self.get(&channel).await? else { break };
            each(position, &letter);
        }
        self.give_back(&channel).await
    }

    /// The dead letter at `position`, counted from 1; it stays.
    ///
    /// # Errors
    /// [`DeadLetterQueueError::Broker`].
    pub async fn show(&self, position: u32) -> Result<Option<DeadLetter>, DeadLetterQueueError> {
        let mut found = None;
        self.list(position, |at, letter| {
            if at == position {
                found = Some(letter.clone());
            }
        })
        .await?;
        Ok(found)
    }

    /// Publishes the dead letter at `position`, or those that wait now, to where they came from, as they were; each
    /// goes from the queue only after the broker has confirmed it. `each` learns what became of which.
    ///
    /// A message that clients or lobbies still cannot use becomes a dead letter again. Should the broker not answer
    /// between confirm and removal, the message is published and stays here too.
    ///
    /// # Errors
    /// [`DeadLetterQueueError`]; what was not confirmed stays.
    pub async fn replay(
        &self,
        position: Option<u32>,
        mut each: impl FnMut(u32, &DeadLetter, &Replayed),
    ) -> Result<(), DeadLetterQueueError> {
        let last = match position {
            Some(position) => position,
            None => self.len().await?, // those that come meanwhile, perhaps by this very replay, wait
        };
        let channel = self.connection.channel().await?;
        let mut lane = None;
        for at in 1..=last {
            let Some((tag, letter)) = self.get(&channel).await? else { break };
            if position.is_some_and(|wanted| wanted != at) {
                continue;
            }
            let replayed = self.publish(&mut lane, &letter).await?;
            if replayed == Replayed::Published {
                let acked = channel.basic_ack(tag, BasicAckOptions { multiple: false });
                self.limited("basic.ack", acked).await?;
            }
            each(at, &letter, &replayed);
        }
        self.give_back(&channel).await
    }

    /// Deletes all dead letters that wait; how many those were.
    ///
    /// # Errors
    /// [`DeadLetterQueueError::Broker`].
    pub async fn purge(&self) -> Result<u32, DeadLetterQueueError> {
        let channel = self.connection.channel().await?;
        let purged = channel.queue_purge(self.name.clone(), QueuePurgeOptions::default());
        self.limited("queue.purge", purged).await
    }

    /// Closes the connection in order; call it before the runtime ends.
    pub async fn close(&self) {
        self.connection.close().await;
    }

    async fn get(&self, channel: &lapin::Channel) -> Result<Option<(u64, DeadLetter)>, DeadLetterQueueError> {
        let got = channel.basic_get(self.name.clone(), BasicGetOptions { no_ack: false });
        let got = self.limited("basic.get", got).await?;
        Ok(got.map(|got| {
            let lapin::message::Delivery { delivery_tag, properties, data, .. } = got.delivery;
            (delivery_tag, DeadLetter { properties, body: data })
        }))
    }

    /// Gives back all that was taken on `channel` and not acked, and waits until the broker has done so.
    async fn give_back(&self, channel: &lapin::Channel) -> Result<(), DeadLetterQueueError> {
        let all = BasicNackOptions { multiple: true, requeue: true };
        self.limited("basic.nack", channel.basic_nack(0, all)).await?;
        self.limited("channel.close", channel.close(200, "OK".into())).await
    }

    async fn publish(
        &self,
        lane: &mut Option<lapin::Channel>,
        letter: &DeadLetter,
    ) -> Result<Replayed, DeadLetterQueueError> {
        let Some(original) = letter.original() else { return Ok(Replayed::NotOurs) };
        if self.connection.is_blocked() {
            return Err(DeadLetterQueueError::Blocked);
        }
        let channel = match lane.take().filter(|channel| channel.status().connected()) {
            Some(channel) => channel,
            None => confirming(&self.connection, self.call_timeout).await?,
        };
        let options = BasicPublishOptions { mandatory: true, immediate: false };
        let confirmed = async {
            let sent = channel.basic_publish(
                original.exchange,
                original.routing_key,
                options,
                letter.body(),
                original.properties,
            );
            sent.await?.await
        };
        let confirmed = timeout(self.call_timeout, confirmed).await.map_err(|_| {
            if self.connection.is_blocked() {
                return DeadLetterQueueError::Blocked;
            }
            ConsumerError::TimedOut { call: "basic.publish", after: self.call_timeout }.into()
        })?;
        let replayed = match confirmed {
            Ok(Confirmation::Ack(None) | Confirmation::NotRequested) => Replayed::Published,
            Ok(Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_))) => Replayed::Unroutable,
            Ok(Confirmation::Nack(None)) => Replayed::Refused { text: "not taken (nack)".into() },
            Err(error) => match error.kind() {
                ErrorKind::ProtocolError(amqp) if error.is_amqp_soft_error() => {
                    Replayed::Refused { text: format!("{} {}", amqp.get_id(), amqp.get_message()) }
                }
                _ => return Err(lost(&error).into()),
            },
        };
        *lane = Some(channel);
        Ok(replayed)
    }

    async fn limited<T>(
        &self,
        call: &'static str,
        future: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T, DeadLetterQueueError> {
        let answered = match timeout(self.call_timeout, future).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => error,
            Err(_) => return Err(ConsumerError::TimedOut { call, after: self.call_timeout }.into()),
        };
        let ErrorKind::ProtocolError(amqp) = answered.kind() else { return Err(lost(&answered).into()) };
        let text = amqp.get_message().to_string();
        Err(match amqp.get_id() {
            404 => ConsumerError::NotFound { call, text },
            403 => ConsumerError::AccessRefused { user: self.user.clone(), call, text },
            _ => lost(&answered),
        }
        .into())
    }
}
