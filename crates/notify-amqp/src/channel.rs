//! A channel on which every call has a time limit and every refusal a name.

use std::{future::Future, time::Duration};

use lapin::{
    ErrorKind, ExchangeKind,
    options::{
        BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions,
        ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
    },
    types::{AMQPValue, FieldTable, ShortString},
};
use tokio::time::timeout;

use crate::{
    connection::{Connection, lost},
    difference::Difference,
    error::ConsumerError,
    outcome::Verdict,
    queue_name::QueueName,
    queue_options::{Argument, Lifetime, QueueOptions},
    topology::{Declare, Topology},
};

/// The consumer's argument, named after mirrored queues, for which it was made.
const CANCEL_ON_LOSS: &str = "x-cancel-on-ha-failover";

/// The consumer's channel.
pub(crate) struct Channel {
    inner: lapin::Channel,
    user: String,
    call_timeout: Duration,
}

impl Channel {
    /// Wraps an open channel of a connection that `user` logged in to.
    pub(crate) fn new(inner: lapin::Channel, user: &str, call_timeout: Duration) -> Self {
        Self { inner, user: user.into(), call_timeout }
    }

    /// Opens a channel of `connection`.
    pub(crate) async fn of(connection: &Connection, call_timeout: Duration) -> Result<Self, ConsumerError> {
        Ok(Self::new(connection.channel().await?, connection.user(), call_timeout))
    }

    /// Bounds the deliveries that may be unacked.
    pub(crate) async fn set_prefetch(&self, prefetch: u16) -> Result<(), ConsumerError> {
        let call = self.inner.basic_qos(prefetch, BasicQosOptions { global: false });
        self.limited("basic.qos", call).await
    }

    /// Declares exchange, queue and bindings, or looks whether they are there, as the topology says.
    pub(crate) async fn declare(&self, topology: &Topology) -> Result<(), ConsumerError> {
        let passive = match topology.declare {
            Declare::Active => false,
            Declare::Passive => true,
            Declare::None => return Ok(()),
        };
        self.declare_exchange(topology).await?;
        let queue = short("queue name", topology.queue.as_str())?;
        let options = QueueDeclareOptions {
            passive,
            durable: topology.options.durable(),
            exclusive: topology.options.lifetime == Lifetime::Connection,
            auto_delete: topology.options.lifetime == Lifetime::WhileConsumed,
            nowait: false,
        };
        let declared = self.inner.queue_declare(queue.clone(), options, table(&topology.options));
        self.limited("queue.declare", declared).await.map_err(|error| refused(error, "queue", topology))?;

        // Bindings cannot be looked for.
        if passive { Ok(()) } else { self.bind(topology).await }
    }

    /// Declares the exchange, or looks for it, as the topology says.
    pub(crate) async fn declare_exchange(&self, topology: &Topology) -> Result<(), ConsumerError> {
        let exchange = short("exchange name", &topology.exchange)?;
        let passive = topology.declare == Declare::Passive;
        let options = ExchangeDeclareOptions { passive, durable: true, ..Default::default() };
        let arguments = FieldTable::default();
        let declared = self.inner.exchange_declare(exchange, ExchangeKind::Topic, options, arguments);
        let declared = self.limited("exchange.declare", declared).await;
        declared.map_err(|error| refused(error, "exchange", topology))
    }

    /// Makes the bindings; one that is there stays as it is.
    pub(crate) async fn bind(&self, topology: &Topology) -> Result<(), ConsumerError> {
        let queue = short("queue name", topology.queue.as_str())?;
        for (exchange, key) in topology.bindings() {
            let (exchange, key) = (short("exchange name", exchange)?, short("routing key", key)?);
            let options = QueueBindOptions::default();
            let bound = self.inner.queue_bind(queue.clone(), exchange, key, options, FieldTable::default());
            self.limited("queue.bind", bound).await?;
        }
        Ok(())
    }

    /// How many consume the queue. Declares nothing.
    ///
    /// # Errors
    /// [`ConsumerError::NotFound`]: there is no such queue, or its node is down.
    pub(crate) async fn consumers(&self, queue: &QueueName) -> Result<u32, ConsumerError> {
        let name = short("queue name", queue.as_str())?;
        let options = QueueDeclareOptions { passive: true, ..Default::default() };
        let call = self.inner.queue_declare(name, options, FieldTable::default());
        Ok(self.limited("queue.declare", call).await?.consumer_count())
    }

    /// Starts consuming.
    ///
    /// `cancel_on_loss` asks the broker to cancel the consumer when a classic queue is lost. RabbitMQ 3 otherwise looks for a
    /// queue of the same name first, which somebody may have declared in the meantime, makes a consumer there, and forgets
    /// where its deliveries go: neither a message nor a cancel comes any more. RabbitMQ 4 always cancels.
    ///
    /// # Errors
    /// Among others [`refuses_cancel_on_loss`]: the queue is none that the broker takes it for.
    pub(crate) async fn consume(
        &self,
        topology: &Topology,
        cancel_on_loss: bool,
    ) -> Result<lapin::Consumer, ConsumerError> {
        let name = short("queue name", topology.queue.as_str())?;
        let exclusive = topology.options.exclusive_consumer;
        let options = BasicConsumeOptions { exclusive, ..Default::default() };
        let mut arguments = FieldTable::default();
        if cancel_on_loss {
            arguments.insert(CANCEL_ON_LOSS.into(), AMQPValue::Boolean(true));
        }
        let call = self.inner.basic_consume(name, ShortString::default(), options, arguments);
        self.limited("basic.consume", call).await.map_err(|error| in_use(error, topology))
    }

    /// Settles one delivery, or all up to it that are not settled yet.
    pub(crate) async fn settle(
        &self,
        tag: u64,
        verdict: Verdict,
        multiple: bool,
    ) -> Result<(), ConsumerError> {
        let requeue = match verdict {
            Verdict::Ack => {
                let call = self.inner.basic_ack(tag, BasicAckOptions { multiple });
                return self.limited("basic.ack", call).await;
            }
            Verdict::Requeue => true,
            Verdict::Reject => false,
            Verdict::Leave => return Ok(()),
        };
        let call = self.inner.basic_nack(tag, BasicNackOptions { multiple, requeue });
        self.limited("basic.nack", call).await
    }

    /// Asks the broker for no more deliveries.
    pub(crate) async fn cancel(&self, tag: ShortString) -> Result<(), ConsumerError> {
        self.limited("basic.cancel", self.inner.basic_cancel(tag, BasicCancelOptions::default())).await
    }

    /// Whether lapin believes in the channel.
    pub(crate) fn is_connected(&self) -> bool {
        self.inner.status().connected()
    }

    async fn limited<T>(
        &self,
        call: &'static str,
        future: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T, ConsumerError> {
        match timeout(self.call_timeout, future).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(self.refused(call, &error)),
            Err(_) => Err(ConsumerError::TimedOut { call, after: self.call_timeout }),
        }
    }

    fn refused(&self, call: &'static str, error: &lapin::Error) -> ConsumerError {
        let ErrorKind::ProtocolError(amqp) = error.kind() else { return lost(error) };
        let text = amqp.get_message().to_string();
        let in_use =
            || ConsumerError::ExclusiveInUse { queue: String::new(), instance: None, text: text.clone() };
        match amqp.get_id() {
            403 if text.contains("exclusive use") => in_use(),
            405 => in_use(),
            403 => ConsumerError::AccessRefused { user: self.user.clone(), call, text },
            404 => ConsumerError::NotFound { call, text },
            _ => lost(error),
        }
    }
}

/// The queue's arguments as lapin writes them.
fn table(options: &QueueOptions) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in options.arguments() {
        let value = match value {
            Argument::Number(number) => AMQPValue::LongLongInt(i64::try_from(number).unwrap_or(i64::MAX)),
            Argument::Bool(flag) => AMQPValue::Boolean(flag),
            Argument::Text(text) => AMQPValue::LongString(text.into()),
        };
        table.insert(name.into(), value);
    }
    table
}

/// What a refused declaration means: 406 that the thing exists with other properties, or that it cannot be; 405 that
/// another connection has the queue for itself.
fn refused(error: ConsumerError, kind: &'static str, topology: &Topology) -> ConsumerError {
    let name = if kind == "queue" { topology.queue.as_str() } else { &topology.exchange };
    match error {
        ConsumerError::ChannelClosed { code: 406, text } if text.contains("inequivalent") => {
            let difference = Difference::parse(&text).map(Box::new);
            ConsumerError::ArgumentMismatch { kind, name: name.into(), difference, text }
        }
        ConsumerError::ChannelClosed { code: 406, text } => {
            ConsumerError::ArgumentRefused { kind, name: name.into(), text }
        }
        other => in_use(other, topology),
    }
}

/// Whether the broker does not know how to be asked for a cancel here.
pub(crate) fn refuses_cancel_on_loss(error: &ConsumerError) -> bool {
    matches!(error, ConsumerError::ChannelClosed { code: 406, text } if text.contains(CANCEL_ON_LOSS))
}

fn in_use(error: ConsumerError, topology: &Topology) -> ConsumerError {
    let ConsumerError::ExclusiveInUse { text, .. } = error else { return error };
    let instance = topology.queue.instance().map(str::to_owned);
    ConsumerError::ExclusiveInUse { queue: topology.queue.as_str().into(), instance, text }
}

/// lapin panics on longer strings.
pub(crate) fn short(what: &'static str, name: &str) -> Result<ShortString, ConsumerError> {
    ShortString::try_new(name).map_err(|_| ConsumerError::NameTooLong {
        what,
        name: name.into(),
        len: name.len(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue_name::instance_queue;

    #[test]
    fn a_declaration_that_is_refused_is_told_by_its_code_and_words() {
        let topology = Topology::new("e", instance_queue("e", "pod-7").unwrap());
        let closed = |text: &str| ConsumerError::ChannelClosed { code: 406, text: text.into() };
        let begin = "PRECONDITION_FAILED -";
        let there = format!(
            "{begin} inequivalent arg 'x-expires' for queue 'q' in vhost '/': received none but current is the value '1' of type 'long'"
        );
        let ConsumerError::ArgumentMismatch { kind: "queue", difference: Some(difference), .. } =
            refused(closed(&there), "queue", &topology)
        else {
            panic!("no mismatch")
        };
        assert_eq!(difference.present.as_deref(), Some("1"));
        let cannot = format!(
            "{begin} invalid arg 'x-max-priority' for queue 'q' in vhost '/' of queue type rabbit_quorum_queue"
        );
        let error = refused(closed(&cannot), "queue", &topology);
        assert!(
            matches!(&error, ConsumerError::ArgumentRefused { name, .. } if name == topology.queue.as_str())
        );
        assert!(error.is_permanent());
        let locked =
            ConsumerError::ExclusiveInUse { queue: String::new(), instance: None, text: String::new() };
        let hint = refused(locked, "queue", &topology).hint().unwrap();
        assert!(hint.contains("pod-7"), "{hint}");
    }
}
