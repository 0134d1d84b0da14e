//! Publishing a message and knowing that the broker has it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use deadpool::managed::PoolError;
use lapin::{BasicProperties, Confirmation, ErrorKind, options::BasicPublishOptions, types::ShortString};
use notify_protocol::Message;
use tracing::{debug, warn};

use crate::{
    backoff::{Backoff, BackoffPolicy},
    broker::BrokerConfig,
    channel_pool::{self, ChannelPool},
    connection::lost,
    error::ConsumerError,
    properties::{properties, short},
    publish_error::{PublishError, PublishStage},
};

/// How often a blocked connection is looked at.
const BLOCKED_CHECK: Duration = Duration::from_millis(20);

/// How to publish. [`PublisherConfig::new`] has the defaults.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PublisherConfig {
    /// Where the broker is. Publishing has connections of its own: the broker may block them.
    pub broker: BrokerConfig,
    /// The exchange to publish to. It is not declared here: the lobby does that.
    pub exchange: String,
    /// Connections at most (default 2).
    pub max_connections: usize,
    /// Channels at most (default 16), which is how many messages can be under way at a time.
    pub max_channels: usize,
    /// One publish in all, with connecting and retries (default 5 s).
    pub publish_timeout: Duration,
    /// How often one message is sent at most (default 3); only a lost connection is a reason to send again.
    pub attempts: u32,
    /// Whether a message that no queue takes is an error (default true).
    pub mandatory: bool,
}

impl PublisherConfig {
    /// The defaults.
    #[must_use]
    pub fn new(broker: BrokerConfig, exchange: impl Into<String>) -> Self {
        Self {
            broker,
            exchange: exchange.into(),
            max_connections: 2,
            max_channels: 16,
            publish_timeout: Duration::from_secs(5),
            attempts: 3,
            mandatory: true,
        }
    }
}

/// A message that the broker confirmed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Published {
    /// The message's id: its own, or the UUID (version 7) it was given.
    pub message_id: String,
    /// How often it was sent: more than 1 means that it may be there more than once, with this id.
    pub attempts: u32,
}

/// Publishes to one exchange, over pooled connections, in confirm mode. Cheap to clone.
///
/// lapin logs returned messages, body included, at level `warn` under its own target
/// (`lapin::returned_messages`); filter that target out if bodies must not be logged.
#[derive(Clone)]
pub struct Publisher {
    channels: ChannelPool,
    config: Arc<PublisherConfig>,
    exchange: ShortString,
}

impl Publisher {
    /// Prepares publishing; the first publish connects. Must be called in a tokio runtime with I/O and time
    /// enabled, of either kind, which has to outlive the publisher.
    ///
    /// # Errors
    /// - [`PublishError::NoRuntime`]: there is no runtime.
    /// - [`PublishError::NameTooLong`]: the exchange's name.
    pub fn new(config: PublisherConfig) -> Result<Self, PublishError> {
        let exchange = short("exchange name", &config.exchange)?;
        let broker = Arc::new(config.broker.clone());
        if let Some(warning) = broker.warning() {
            warn!(warning);
        }
        let channels = channel_pool::channel_pool(broker, config.max_connections, config.max_channels)?;
        Ok(Self { channels, config: Arc::new(config), exchange })
    }

    /// Publishes `message` and waits for the broker's confirm, at most `publish_timeout` in all.
    ///
    /// A message without an id gets a UUID (version 7), and one without a timestamp the present second. After
    /// a lost connection it is sent again, with the same id, up to `attempts` times. Cancelling the future
    /// leaves the outcome unknown.
    ///
    /// # Errors
    /// - [`PublishError::Unroutable`]: no queue is bound; do not retry.
    /// - [`PublishError::Nacked`]: the broker did not take it; publish again.
    /// - [`PublishError::TimedOut`]: says whether it was sent; a broker that blocks publishers ends here.
    /// - [`PublishError::Connection`]: no connection at any attempt; publish again later.
    /// - [`PublishError::ExchangeMissing`], [`PublishError::AccessRefused`], [`PublishError::Refused`],
    ///   [`PublishError::NameTooLong`]: a person has to change something.
    pub async fn publish(&self, message: &Message) -> Result<Published, PublishError> {
        let id = match &message.properties().message_id {
            Some(id) => id.clone(),
            None => uuid::Uuid::now_v7().to_string(),
        };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let properties = properties(message, &id, now)?;
        let key = short("routing key", message.routing_key())?;
        let stage = StageCell::new();
        let after = self.config.publish_timeout;
        let sending = self.send_with_retries(&key, &properties, message.body(), &stage);
        match tokio::time::timeout(after, sending).await {
            Ok(Ok(attempts)) => Ok(Published { message_id: id, attempts }),
            Ok(Err(error)) => Err(error),
            Err(_) => {
                let blocked = stage.get() == PublishStage::Connecting && self.channels.manager().is_blocked();
                let stage = if blocked { PublishStage::Blocked } else { stage.get() };
                Err(PublishError::TimedOut { after, stage })
            }
        }
    }

    /// Closes the connections in order. Publishing fails with [`PublishError::Closed`] from now on. Call it
    /// before the runtime ends: lapin's threads complain otherwise.
    pub async fn close(&self) {
        channel_pool::close(&self.channels).await;
    }

    /// Returns how often the message was sent.
    async fn send_with_retries(
        &self,
        key: &ShortString,
        properties: &BasicProperties,
        body: &[u8],
        stage: &StageCell,
    ) -> Result<u32, PublishError> {
        let mut backoff = Backoff::new(BackoffPolicy::default());
        loop {
            let error = match self.send(key, properties, body, stage).await {
                Ok(()) => return Ok(backoff.failures() + 1),
                Err(error) => error,
            };
            let wait = backoff.failed(Instant::now(), fastrand::u64(..));
            if backoff.failures() >= self.config.attempts || !is_worth_another_attempt(&error) {
                return Err(error);
            }
            debug!(%error, attempt = backoff.failures(), "publishing again");
            stage.set(PublishStage::Connecting);
            tokio::time::sleep(wait).await;
        }
    }

    async fn send(
        &self,
        key: &ShortString,
        properties: &BasicProperties,
        body: &[u8],
        stage: &StageCell,
    ) -> Result<(), PublishError> {
        let mut channel = self.channels.get().await.map_err(|error| match error {
            PoolError::Backend(error) => error,
            PoolError::Closed => PublishError::Closed,
            PoolError::Timeout(_) | PoolError::NoRuntimeSpecified | PoolError::PostCreateHook(_) => {
                PublishError::NoRuntime
            }
        })?;
        while channel.is_blocked() {
            // lapin would keep the message and send it when nobody waits for it any more.
            stage.set(PublishStage::Blocked);
            tokio::time::sleep(BLOCKED_CHECK).await;
        }
        stage.set(PublishStage::Confirming);
        channel.busy = true; // stays so if this future is cancelled: the pool then discards the channel
        let options = BasicPublishOptions { mandatory: self.config.mandatory, immediate: false };
        let broken = |error: lapin::Error| self.send_error(&error);
        let sent = channel.channel.basic_publish(
            self.exchange.clone(),
            key.clone(),
            options,
            body,
            properties.clone(),
        );
        let confirmation = sent.await.map_err(broken)?.await.map_err(broken)?;
        channel.busy = false;
        match confirmation {
            Confirmation::Ack(None) | Confirmation::NotRequested => Ok(()),
            Confirmation::Ack(Some(returned)) | Confirmation::Nack(Some(returned)) => {
                let text = returned.reply_text.to_string();
                Err(PublishError::Unroutable { code: returned.reply_code, text })
            }
            Confirmation::Nack(None) => Err(PublishError::Nacked),
        }
    }

    fn send_error(&self, error: &lapin::Error) -> PublishError {
        let exchange = || self.config.exchange.clone();
        match error.kind() {
            ErrorKind::ProtocolError(amqp) if error.is_amqp_soft_error() => {
                let text = amqp.get_message().to_string();
                match amqp.get_id() {
                    404 => PublishError::ExchangeMissing { exchange: exchange(), text },
                    403 => PublishError::AccessRefused { exchange: exchange(), text },
                    code => PublishError::Refused { code, text },
                }
            }
            _ => PublishError::Connection(lost(error)),
        }
    }
}

/// Only what a new connection may cure; what the broker refused, it would refuse again.
fn is_worth_another_attempt(error: &PublishError) -> bool {
    match error {
        PublishError::Connection(error) => match error {
            ConsumerError::Unreachable { .. }
            | ConsumerError::ConnectionLimit { .. }
            | ConsumerError::HandshakeClosed { .. }
            | ConsumerError::ConnectionClosed { .. }
            | ConsumerError::ConnectionLost { .. }
            | ConsumerError::HeartbeatMissed { .. }
            | ConsumerError::TimedOut { .. } => true,
            ConsumerError::Tls { .. } | ConsumerError::Credentials(_) | ConsumerError::HostsFailed { .. } => {
                !error.is_permanent()
            }
            ConsumerError::VhostMissing { .. }
            | ConsumerError::LoginRefused { .. }
            | ConsumerError::VhostRefused { .. }
            | ConsumerError::TlsSetup(_)
            | ConsumerError::AccessRefused { .. }
            | ConsumerError::ExclusiveInUse { .. }
            | ConsumerError::NotFound { .. }
            | ConsumerError::ArgumentMismatch { .. }
            | ConsumerError::ArgumentRefused { .. }
            | ConsumerError::ChannelClosed { .. }
            | ConsumerError::Cancelled { .. }
            | ConsumerError::SelfCheck(_)
            | ConsumerError::NameTooLong { .. } => false,
        },
        PublishError::Unroutable { .. }
        | PublishError::Nacked
        | PublishError::TimedOut { .. }
        | PublishError::ExchangeMissing { .. }
        | PublishError::AccessRefused { .. }
        | PublishError::Refused { .. }
        | PublishError::NameTooLong { .. }
        | PublishError::Closed
        | PublishError::NoRuntime => false,
    }
}

/// What a publish is waiting for, readable after its future was dropped.
struct StageCell(AtomicU8);

impl StageCell {
    fn new() -> Self {
        Self(AtomicU8::new(PublishStage::Connecting as u8))
    }

    fn set(&self, stage: PublishStage) {
        self.0.store(stage as u8, Ordering::Relaxed);
    }

    fn get(&self) -> PublishStage {
        match self.0.load(Ordering::Relaxed) {
            1 => PublishStage::Blocked,
            2 => PublishStage::Confirming,
            _ => PublishStage::Connecting,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_survive_the_cell() {
        for stage in [PublishStage::Connecting, PublishStage::Blocked, PublishStage::Confirming] {
            let cell = StageCell::new();
            cell.set(stage);
            assert_eq!(cell.get(), stage);
        }
    }
}
