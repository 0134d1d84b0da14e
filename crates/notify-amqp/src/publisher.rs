//! Publishing messages and knowing that the broker has them.

use std::{borrow::Borrow, sync::Arc, time::Duration};

use deadpool::managed::{self, PoolError};
use futures_util::{Stream, StreamExt, stream};
use lapin::{ErrorKind, types::ShortString};
use notify_protocol::Message;
use tracing::warn;

use crate::{
    broker::BrokerConfig,
    channel_pool::{self, ChannelManager, ChannelPool},
    connection::lost,
    observer::PublishObserver,
    outgoing::Outgoing,
    pipeline::Pipeline,
    properties::short,
    publish_error::PublishError,
    publisher_stats::PublisherStats,
    raw_message::RawMessage,
    receipt_inbox::ReceiptInbox,
    reply::Reply,
};

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
    /// Channels at most (default 16): so many calls of [`Publisher::publish`] and [`Publisher::publish_all`] are
    /// served at a time, and others wait.
    pub max_channels: usize,
    /// Messages that one [`Publisher::publish_all`] has under way at most (default 256); as many outcomes more may wait
    /// for the caller.
    pub window: usize,
    /// One message in all, with connecting and retries (default 5 s). Of several hosts each gets its share of it to
    /// answer, at least 1 s and at most the broker's `connect_timeout`.
    pub publish_timeout: Duration,
    /// How often one message is sent at most (default 3); only a lost connection is a reason to send again.
    pub attempts: u32,
    /// Whether a message that no queue takes is an error (default true).
    pub mandatory: bool,
    /// Is told of each message and its outcome (default: nobody).
    pub observer: Option<Arc<dyn PublishObserver>>,
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
            window: 256,
            publish_timeout: Duration::from_secs(5),
            attempts: 3,
            mandatory: true,
            observer: None,
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
    stats: Arc<PublisherStats>,
    /// Opened by the first message that asks for receipts.
    inbox: Arc<tokio::sync::Mutex<Option<Arc<ReceiptInbox>>>>,
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
            warn!(warning, "the way to the broker is not safe");
        }
        let channels = channel_pool::channel_pool(
            broker,
            config.publish_timeout,
            config.max_connections,
            config.max_channels,
        )?;
        Ok(Self {
            channels,
            config: Arc::new(config),
            exchange,
            stats: Arc::default(),
            inbox: Arc::default(),
        })
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
        self.send_one(self.outgoing(message)).await
    }

    /// Publishes a message as it is: nothing is added, and nothing is checked against the contract. Waits as
    /// [`Publisher::publish`] does. [`Published::message_id`] is empty where the message has none.
    ///
    /// # Errors
    /// As [`Publisher::publish`]; also
    /// - [`PublishError::NotFinite`], [`PublishError::NameNotUtf8`]: nothing was sent; correct the header.
    pub async fn publish_raw(&self, message: &RawMessage) -> Result<Published, PublishError> {
        self.send_one(Outgoing::raw(message, &self.exchange, self.config.mandatory)).await
    }

    /// Publishes many messages over one channel, in their order, with up to `window` of them under way.
    ///
    /// Nothing is sent before the first [`PublishAll::next`], and a message's time begins when there is room in the window
    /// for it. Time, attempts and errors of each message are those of [`Publisher::publish`]; a failure of one says
    /// nothing about the next. While the caller is busy with an outcome, nobody's time passes. `Message`, `&Message`, `Arc<Message>`
    /// and the like are taken.
    ///
    /// ```no_run
    /// # async fn example(publisher: &notify_amqp::Publisher, messages: Vec<notify_protocol::Message>) {
    /// let mut outcomes = publisher.publish_all(messages);
    /// while let Some(outcome) = outcomes.next().await {
    ///     match outcome {
    ///         Ok(published) => println!("{} is there", published.message_id),
    ///         Err(error) => println!("{error}"),
    ///     }
    /// }
    /// # }
    /// ```
    pub fn publish_all<I>(&self, messages: I) -> PublishAll
    where
        I: IntoIterator<Item: Borrow<Message>, IntoIter: Send + 'static>,
    {
        self.publish_stream(stream::iter(messages))
    }

    /// As [`Publisher::publish_all`], of messages that come in their own time.
    pub fn publish_stream<S>(&self, messages: S) -> PublishAll
    where
        S: Stream<Item: Borrow<Message>> + Send + 'static,
    {
        let publisher = self.clone();
        self.send_all(messages.map(move |message| publisher.outgoing(message.borrow())))
    }

    /// Sends answers, as [`Publisher::publish_stream`] sends messages: confirmed, at most `window` under way, in order.
    /// The user needs the permission to write to the default exchange (`amq.default`).
    pub fn send_replies<S>(&self, replies: S) -> PublishAll
    where
        S: Stream<Item = Reply> + Send + 'static,
    {
        self.send_all(replies.map(Reply::outgoing))
    }

    /// Counters of all clones of this publisher.
    #[must_use]
    pub fn stats(&self) -> Arc<PublisherStats> {
        self.stats.clone()
    }

    /// Closes the connections in order. Publishing fails with [`PublishError::Closed`] from now on. Call it
    /// before the runtime ends: lapin's threads complain otherwise.
    pub async fn close(&self) {
        *self.inbox.lock().await = None;
        channel_pool::close(&self.channels).await;
    }

    pub(crate) fn outgoing(&self, message: &Message) -> Result<Outgoing, PublishError> {
        Outgoing::notification(message, &self.exchange, self.config.mandatory)
    }

    async fn send_one(&self, outgoing: Result<Outgoing, PublishError>) -> Result<Published, PublishError> {
        self.send_one_within(outgoing, self.config.publish_timeout).await
    }

    /// Sends one message, of whose time so much is left.
    pub(crate) async fn send_one_within(
        &self,
        outgoing: Result<Outgoing, PublishError>,
        limit: Duration,
    ) -> Result<Published, PublishError> {
        let mut pipeline = Pipeline::new(self.clone(), stream::iter([outgoing]), 1).within(limit);
        pipeline.next().await.unwrap_or(Err(PublishError::Closed))
    }

    pub(crate) fn send_all<S>(&self, outgoing: S) -> PublishAll
    where
        S: Stream<Item = Result<Outgoing, PublishError>> + Send + 'static,
    {
        PublishAll { pipeline: Pipeline::new(self.clone(), outgoing.boxed(), self.config.window) }
    }

    pub(crate) fn config(&self) -> &PublisherConfig {
        &self.config
    }

    pub(crate) fn counters(&self) -> &PublisherStats {
        &self.stats
    }

    pub(crate) fn inbox_slot(&self) -> &tokio::sync::Mutex<Option<Arc<ReceiptInbox>>> {
        &self.inbox
    }

    pub(crate) fn pool(&self) -> &ChannelManager {
        self.channels.manager()
    }

    /// A channel that is open, in confirm mode, and nobody else's.
    pub(crate) async fn channel(&self) -> Result<managed::Object<ChannelManager>, PublishError> {
        self.channels.get().await.map_err(|error| match error {
            PoolError::Backend(error) => error,
            PoolError::Closed => PublishError::Closed,
            PoolError::Timeout(_) | PoolError::NoRuntimeSpecified | PoolError::PostCreateHook(_) => {
                PublishError::NoRuntime
            }
        })
    }

    /// What lapin's error about `exchange` means.
    pub(crate) fn send_error(error: &lapin::Error, exchange: &str) -> PublishError {
        let exchange = || exchange.to_owned();
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

/// The outcomes of [`Publisher::publish_all`], one for each message, in the messages' order.
///
/// Dropping it leaves the outcome of the messages under way unknown.
#[must_use = "nothing is published before the first `next`"]
pub struct PublishAll {
    pipeline: Pipeline<stream::BoxStream<'static, Result<Outgoing, PublishError>>>,
}

impl PublishAll {
    /// Waits for the next message's outcome; `None` after the last one. May be cancelled and called again.
    pub async fn next(&mut self) -> Option<Result<Published, PublishError>> {
        self.pipeline.next().await
    }

    /// The next message's outcome if it is known already. Sends nothing.
    pub fn try_next(&mut self) -> Option<Result<Published, PublishError>> {
        self.pipeline.try_next()
    }

    /// The same as a stream.
    pub fn into_stream(self) -> impl Stream<Item = Result<Published, PublishError>> + Send {
        stream::unfold(self, |mut all| async move { Some((all.next().await?, all)) })
    }
}

impl std::fmt::Debug for PublishAll {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PublishAll")
    }
}
