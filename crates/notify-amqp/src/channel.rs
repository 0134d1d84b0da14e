//! A channel on which every call has a time limit and every refusal a name.

use std::{future::Future, time::Duration};

use lapin::{
    ErrorKind, ExchangeKind,
    options::{
        BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicQosOptions, ExchangeDeclareOptions,
        QueueBindOptions, QueueDeclareOptions,
    },
    types::{AMQPValue, FieldTable, ShortString},
};
use tokio::time::timeout;

use crate::{connection::lost, error::ConsumerError, queue_name::QueueName, topology::Topology};

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

    /// Bounds the deliveries that may be unacked.
    pub(crate) async fn set_prefetch(&self, prefetch: u16) -> Result<(), ConsumerError> {
        let call = self.inner.basic_qos(prefetch, BasicQosOptions { global: false });
        self.limited("basic.qos", call).await
    }

    /// Declares exchange, queue and bindings.
    pub(crate) async fn declare(&self, topology: &Topology) -> Result<(), ConsumerError> {
        let exchange = short("exchange name", &topology.exchange)?;
        let queue = short("queue name", topology.queue.as_str())?;
        let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
        let call = "exchange.declare";
        let arguments = FieldTable::default();
        let declared = self.inner.exchange_declare(exchange, ExchangeKind::Topic, durable, arguments);
        self.limited(call, declared)
            .await
            .map_err(|error| mismatch(error, "exchange", &topology.exchange))?;

        let durable = QueueDeclareOptions { durable: true, ..Default::default() };
        let mut arguments = FieldTable::default();
        let expires = i64::try_from(topology.expires.as_millis()).unwrap_or(i64::MAX);
        arguments.insert("x-expires".into(), AMQPValue::LongLongInt(expires));
        let declared = self.inner.queue_declare(queue.clone(), durable, arguments);
        self.limited("queue.declare", declared)
            .await
            .map_err(|error| mismatch(error, "queue", topology.queue.as_str()))?;

        for (exchange, key) in topology.bindings() {
            let (exchange, key) = (short("exchange name", exchange)?, short("routing key", key)?);
            let options = QueueBindOptions::default();
            let bound = self.inner.queue_bind(queue.clone(), exchange, key, options, FieldTable::default());
            self.limited("queue.bind", bound).await?;
        }
        Ok(())
    }

    /// Starts consuming.
    pub(crate) async fn consume(
        &self,
        queue: &QueueName,
        exclusive: bool,
    ) -> Result<lapin::Consumer, ConsumerError> {
        let name = short("queue name", queue.as_str())?;
        let options = BasicConsumeOptions { exclusive, ..Default::default() };
        let call = self.inner.basic_consume(name, ShortString::default(), options, FieldTable::default());
        self.limited("basic.consume", call).await.map_err(|error| match error {
            ConsumerError::ExclusiveInUse { text, .. } => ConsumerError::ExclusiveInUse {
                queue: queue.as_str().into(),
                instance: queue.instance().map(str::to_owned),
                text,
            },
            other => other,
        })
    }

    /// Acks one delivery, or all up to it.
    pub(crate) async fn ack(&self, tag: u64, multiple: bool) -> Result<(), ConsumerError> {
        self.limited("basic.ack", self.inner.basic_ack(tag, BasicAckOptions { multiple })).await
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

/// 406 on a declaration means that the thing exists with other properties.
fn mismatch(error: ConsumerError, kind: &'static str, name: &str) -> ConsumerError {
    match error {
        ConsumerError::ChannelClosed { code: 406, text } => {
            ConsumerError::ArgumentMismatch { kind, name: name.into(), text }
        }
        ConsumerError::ExclusiveInUse { text, .. } => {
            ConsumerError::ExclusiveInUse { queue: name.into(), instance: None, text }
        }
        other => other,
    }
}

/// lapin panics on longer strings.
fn short(what: &'static str, name: &str) -> Result<ShortString, ConsumerError> {
    ShortString::try_new(name).map_err(|_| ConsumerError::NameTooLong {
        what,
        name: name.into(),
        len: name.len(),
    })
}
