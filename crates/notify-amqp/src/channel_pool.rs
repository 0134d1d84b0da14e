//! Channels in confirm mode, pooled over pooled connections.
//!
//! Two pools: deadpool-lapin's holds connections, and the one here holds channels, each open and in
//! confirm mode, so that a publish costs no round trip but its own. Whoever has a channel has it alone: lapin hands
//! a returned message to whichever confirm it completes next, and only [`Returns`](crate::returns::Returns), which
//! sees all confirms of a channel, can tell whose it is.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_rs::{Runtime, Tokio, util::RuntimeParts};
use deadpool::managed::{self, Metrics, PoolError, QueueMode, RecycleError, Timeouts};
use lapin::{Channel, ConnectionStatus, options::ConfirmSelectOptions};
use tokio::runtime::Handle;
use tracing::debug;

use crate::{
    broker::BrokerConfig,
    connection::{handshake_error, lost, no_answer, properties},
    credentials::Credentials,
    dial::{Dialed, Passport},
    error::ConsumerError,
    host::{Address, HostOrder},
    publish_error::PublishError,
    watched_stream::{Handover, WatchingReactor},
};

/// Ends an orderly close that the broker does not answer.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// What a host gets to answer at least, unless `connect_timeout` is shorter.
const LEAST_FOR_A_HOST: Duration = Duration::from_secs(1);

/// Hands out channels in confirm mode.
pub(crate) type ChannelPool = managed::Pool<ChannelManager>;

/// A channel in confirm mode.
pub(crate) struct ConfirmChannel {
    pub(crate) channel: Channel,
    connection: ConnectionStatus,
    /// Messages are under way: nobody else may use the channel.
    pub(crate) busy: bool,
}

impl ConfirmChannel {
    /// Whether the broker stopped reading from publishers.
    pub(crate) fn is_blocked(&self) -> bool {
        self.connection.blocked()
    }

    /// Whether messages can be sent.
    pub(crate) fn is_open(&self) -> bool {
        self.channel.status().connected() && self.connection.connected()
    }
}

/// Opens channels on pooled connections.
pub(crate) struct ChannelManager {
    connections: deadpool_lapin::Pool,
    broker: Arc<BrokerConfig>,
    /// Connecting to one host.
    host_limit: Duration,
    /// Held while a connection is asked of the pool: the pool makes one in lapin's way, from a fixed address, and
    /// takes what it cannot be told, socket and credentials, from where they were laid down for it.
    hosts: tokio::sync::Mutex<HostOrder>,
    handover: Handover,
    login: Arc<Mutex<Credentials>>,
    /// The connection that the last channel was asked of.
    latest: Mutex<Option<ConnectionStatus>>,
}

/// Makes the two pools. Nothing is connected before the first publish, which may take `publish_timeout`.
pub(crate) fn channel_pool(
    broker: Arc<BrokerConfig>,
    publish_timeout: Duration,
    max_connections: usize,
    max_channels: usize,
) -> Result<ChannelPool, PublishError> {
    let handle = Handle::try_current().map_err(|_| PublishError::NoRuntime)?;
    let tokio = Tokio::default().with_handle(handle);
    let handover = Handover::default();
    let reactor = WatchingReactor::new(tokio.clone(), &broker, handover.clone());
    let runtime = Runtime::new(RuntimeParts::new(tokio, reactor));
    let login = Arc::new(Mutex::new(Credentials::External));
    let (named, credentials) = (broker.clone(), login.clone());
    let properties =
        move || properties(&named, credentials.lock().unwrap_or_else(PoisonError::into_inner).clone());
    let manager = deadpool_lapin::Manager::new(lapin_url(&broker), properties, runtime);
    let connections = deadpool_lapin::Pool::builder(manager)
        .max_size(max_connections.max(1))
        .runtime(deadpool_lapin::Runtime::Tokio1)
        .create_timeout(Some(broker.connect_timeout))
        .recycle_timeout(Some(broker.call_timeout))
        .build()
        .map_err(|_| PublishError::NoRuntime)?;
    let hosts = broker.hosts();
    let host_limit = host_limit(broker.connect_timeout, publish_timeout, hosts.len());
    let (hosts, latest) = (tokio::sync::Mutex::new(hosts), Mutex::new(None));
    managed::Pool::builder(ChannelManager { connections, broker, host_limit, hosts, handover, login, latest })
        .max_size(max_channels.max(1))
        // The channel used last: the others stay idle and could be given up.
        .queue_mode(QueueMode::Lifo)
        .build()
        .map_err(|_| PublishError::NoRuntime)
}

/// Closes idle channels and connections in order.
pub(crate) async fn close(channels: &ChannelPool) {
    channels.close();
    let connections = &channels.manager().connections;
    let idle_only = Timeouts { wait: Some(Duration::ZERO), create: Some(Duration::ZERO), recycle: None };
    while connections.status().available > 0 {
        let Ok(connection) = connections.timeout_get(&idle_only).await else { break };
        let connection = managed::Object::take(connection);
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, connection.close(200, "OK".into())).await;
    }
    connections.close();
}

impl managed::Manager for ChannelManager {
    type Type = ConfirmChannel;
    type Error = PublishError;

    async fn create(&self) -> Result<ConfirmChannel, PublishError> {
        let (channel, connection) = self.open_channel(true).await?;
        Ok(ConfirmChannel { channel, connection, busy: false })
    }

    async fn recycle(
        &self,
        channel: &mut ConfirmChannel,
        _: &Metrics,
    ) -> managed::RecycleResult<PublishError> {
        if !channel.busy && channel.is_open() {
            Ok(())
        } else {
            Err(RecycleError::message("channel is not usable any more"))
        }
    }
}

impl ChannelManager {
    /// Whether the broker stopped reading from the connection used last: it does not open channels either.
    pub(crate) fn is_blocked(&self) -> bool {
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        latest.as_ref().is_some_and(|status| status.connected() && status.blocked())
    }

    /// A channel to consume from, beside the pool.
    pub(crate) async fn plain_channel(&self) -> Result<Channel, PublishError> {
        self.open_channel(false).await.map(|(channel, _)| channel)
    }

    /// A new channel, in confirm mode or not, and the state of its connection.
    async fn open_channel(&self, confirms: bool) -> Result<(Channel, ConnectionStatus), PublishError> {
        let connection = self.connection().await?;
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection.status().clone());
        let broken = |error: lapin::Error| PublishError::Connection(lost(&error));
        let opened = async {
            let channel = connection.create_channel().await.map_err(broken)?;
            if confirms {
                channel.confirm_select(ConfirmSelectOptions::default()).await.map_err(broken)?;
            }
            Ok(channel)
        };
        let after = self.broker.call_timeout;
        let channel = tokio::time::timeout(after, opened).await.map_err(|_| {
            PublishError::Connection(ConsumerError::TimedOut { call: "channel.open", after })
        })??;
        // The connection goes back to its pool now: it is shared, the channel is not.
        Ok((channel, connection.status().clone()))
    }

    /// An idle connection of the pool, or a new one to the first host of a round that takes it.
    async fn connection(&self) -> Result<deadpool_lapin::Connection, PublishError> {
        let mut hosts = self.hosts.lock().await;
        self.lay_down(None);
        let pool = self.connections.status();
        if (pool.available > 0 || pool.size >= pool.max_size)
            // Where the one that it finds is dead, it makes one, and fails: nothing is laid down.
            && let Ok(connection) = self.connections.get().await
        {
            return Ok(connection);
        }
        let passport = Passport::read(&self.broker).await.map_err(PublishError::Connection)?;
        *self.login.lock().unwrap_or_else(PoisonError::into_inner) = passport.credentials.clone();
        let mut failures = Vec::new();
        for _ in 0..hosts.len() {
            let address = hosts.turn();
            let limit = self.host_limit;
            match tokio::time::timeout(limit, self.connect(&passport, &address)).await {
                Ok(Ok(connection)) => {
                    debug!(host = %address, "connection for publishing");
                    return Ok(connection);
                }
                Ok(Err(PublishError::Connection(error))) => failures.push(error),
                Ok(Err(other)) => return Err(other),
                Err(_) => failures.push(no_answer(&address, limit)),
            }
        }
        Err(PublishError::Connection(ConsumerError::of_round(failures)))
    }

    async fn connect(
        &self,
        passport: &Passport,
        address: &Address,
    ) -> Result<deadpool_lapin::Connection, PublishError> {
        let dialed = passport.dial(&self.broker, address).await.map_err(PublishError::Connection)?;
        self.lay_down(Some(dialed));
        self.connections.get().await.map_err(|error| match error {
            PoolError::Backend(error) => PublishError::Connection(handshake_error(
                &error,
                &self.broker,
                address,
                &passport.credentials,
            )),
            PoolError::Timeout(_) => {
                PublishError::Connection(no_answer(address, self.broker.connect_timeout))
            }
            PoolError::Closed => PublishError::Closed,
            PoolError::NoRuntimeSpecified | PoolError::PostCreateHook(_) => PublishError::NoRuntime,
        })
    }

    fn lay_down(&self, dialed: Option<Dialed>) {
        *self.handover.lock().unwrap_or_else(PoisonError::into_inner) = dialed;
    }
}

/// How long one of several hosts may take, so that a host which swallows all it is sent leaves time for the next
/// within one message's own time.
fn host_limit(connect_timeout: Duration, publish_timeout: Duration, hosts: usize) -> Duration {
    let share = publish_timeout / u32::try_from(hosts.max(1)).unwrap_or(u32::MAX);
    connect_timeout.min(share.max(LEAST_FOR_A_HOST))
}

/// All that lapin still reads from an address. The host stands for the socket that is handed over.
fn lapin_url(broker: &BrokerConfig) -> String {
    let vhost: String = broker.url.vhost().bytes().map(|byte| format!("%{byte:02x}")).collect();
    let (heartbeat, frame_max) = (broker.heartbeat_seconds(), crate::connection::FRAME_MAX);
    format!("amqp://127.0.0.1/{vhost}?heartbeat={heartbeat}&frame_max={frame_max}")
}

#[cfg(test)]
mod tests {
    use lapin::uri::AMQPUri;

    use super::*;
    use crate::broker_url::BrokerUrl;

    #[test]
    fn one_host_that_is_silent_leaves_time_for_the_next_within_one_message() {
        let limit = |connect, publish, hosts| {
            host_limit(Duration::from_millis(connect), Duration::from_millis(publish), hosts).as_millis()
        };
        assert_eq!(limit(10_000, 5_000, 1), 5_000);
        assert_eq!(limit(10_000, 5_000, 2), 2_500);
        assert_eq!(limit(2_000, 5_000, 2), 2_000, "connect_timeout");
        assert_eq!(limit(10_000, 5_000, 20), 1_000, "the next message begins with the next host");
        assert_eq!(limit(10_000, 300, 3), 1_000, "the message's own time ends it");
        assert_eq!(limit(10_000, 5_000, 0), 5_000);
        assert_eq!(host_limit(Duration::MAX, Duration::MAX, 1), Duration::MAX);
    }

    #[test]
    fn lapin_reads_the_virtual_host_as_it_was_meant_and_no_secret() {
        for vhost in ["/", "a b", "", "é/%"] {
            let url = BrokerUrl::from_parts("mq", 5673, "us@er", "hunter2", vhost).unwrap();
            let text = lapin_url(&BrokerConfig::new(url, "test"));
            assert!(!text.contains("hunter2"));
            let uri: AMQPUri = text.parse().unwrap();
            assert_eq!((uri.vhost.as_str(), uri.query.heartbeat), (vhost, Some(10)));
        }
    }
}
