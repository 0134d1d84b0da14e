//! Channels in confirm mode, pooled over pooled connections.
//!
//! Two pools: deadpool-lapin's holds connections, and the one here holds channels, each open and in
//! confirm mode, so that a publish costs no round trip but its own. **One message is under way per
//! channel**: lapin hands a returned message to whichever confirm it completes next, so with two under way
//! the wrong one would be told that it was unroutable.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_rs::{Runtime, Tokio, util::RuntimeParts};
use deadpool::managed::{self, Metrics, PoolError, QueueMode, RecycleError, TimeoutType, Timeouts};
use lapin::{Channel, ConnectionStatus, options::ConfirmSelectOptions};
use tokio::runtime::Handle;

use crate::{
    broker::BrokerConfig,
    connection::{handshake_error, lost, properties},
    error::ConsumerError,
    publish_error::PublishError,
    watched_stream::WatchingReactor,
};

/// Ends an orderly close that the broker does not answer.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Hands out channels in confirm mode.
pub(crate) type ChannelPool = managed::Pool<ChannelManager>;

/// A channel in confirm mode; at most one message is under way on it.
pub(crate) struct ConfirmChannel {
    pub(crate) channel: Channel,
    connection: ConnectionStatus,
    /// A message was sent and its confirm not awaited: nobody else may use the channel.
    pub(crate) busy: bool,
}

impl ConfirmChannel {
    /// Whether the broker stopped reading from publishers.
    pub(crate) fn is_blocked(&self) -> bool {
        self.connection.blocked()
    }

    fn is_usable(&self) -> bool {
        !self.busy && self.channel.status().connected() && self.connection.connected()
    }
}

/// Opens channels on pooled connections.
pub(crate) struct ChannelManager {
    connections: deadpool_lapin::Pool,
    broker: Arc<BrokerConfig>,
    /// The connection that the last channel was asked of.
    latest: Mutex<Option<ConnectionStatus>>,
}

/// Makes the two pools. Nothing is connected before the first publish.
pub(crate) fn channel_pool(
    broker: Arc<BrokerConfig>,
    max_connections: usize,
    max_channels: usize,
) -> Result<ChannelPool, PublishError> {
    let handle = Handle::try_current().map_err(|_| PublishError::NoRuntime)?;
    let tokio = Tokio::default().with_handle(handle);
    let runtime = Runtime::new(RuntimeParts::new(tokio.clone(), WatchingReactor::new(tokio, &broker)));
    let named = broker.clone();
    let manager = deadpool_lapin::Manager::new(lapin_url(&broker), move || properties(&named), runtime);
    let connections = deadpool_lapin::Pool::builder(manager)
        .max_size(max_connections.max(1))
        .runtime(deadpool_lapin::Runtime::Tokio1)
        .create_timeout(Some(broker.connect_timeout))
        .recycle_timeout(Some(broker.call_timeout))
        .build()
        .map_err(|_| PublishError::NoRuntime)?;
    managed::Pool::builder(ChannelManager { connections, broker, latest: Mutex::new(None) })
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
        let connection = self.connections.get().await.map_err(|error| self.pool_error(error))?;
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection.status().clone());
        let broken = |error: lapin::Error| PublishError::Connection(lost(&error));
        let opened = async {
            let channel = connection.create_channel().await.map_err(broken)?;
            channel.confirm_select(ConfirmSelectOptions::default()).await.map_err(broken)?;
            Ok(channel)
        };
        let after = self.broker.call_timeout;
        let channel = tokio::time::timeout(after, opened).await.map_err(|_| {
            PublishError::Connection(ConsumerError::TimedOut { call: "channel.open", after })
        })??;
        // The connection goes back to its pool now: it is shared, the channel is not.
        Ok(ConfirmChannel { channel, connection: connection.status().clone(), busy: false })
    }

    async fn recycle(
        &self,
        channel: &mut ConfirmChannel,
        _: &Metrics,
    ) -> managed::RecycleResult<PublishError> {
        if channel.is_usable() {
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

    fn pool_error(&self, error: PoolError<lapin::Error>) -> PublishError {
        let after = self.broker.connect_timeout;
        match error {
            PoolError::Backend(error) => PublishError::Connection(handshake_error(&error, &self.broker.url)),
            PoolError::Timeout(TimeoutType::Wait | TimeoutType::Create | TimeoutType::Recycle) => {
                PublishError::Connection(ConsumerError::TimedOut { call: "connect", after })
            }
            PoolError::Closed => PublishError::Closed,
            PoolError::NoRuntimeSpecified | PoolError::PostCreateHook(_) => PublishError::NoRuntime,
        }
    }
}

/// The address as lapin parses it, password included: never printed. IPv6 addresses are percent-encoded,
/// because lapin takes brackets for `localhost`.
fn lapin_url(broker: &BrokerConfig) -> String {
    let url = &broker.url;
    let encode = |text: &str| text.bytes().map(|byte| format!("%{byte:02x}")).collect::<String>();
    let host = if url.host().contains(':') { encode(url.host()) } else { url.host().to_owned() };
    format!(
        "{}://{}:{}@{host}:{}/{}?heartbeat={}&frame_max={}",
        if url.tls() { "amqps" } else { "amqp" },
        encode(url.user()),
        encode(url.password()),
        url.port(),
        encode(url.vhost()),
        broker.heartbeat_seconds(),
        crate::connection::FRAME_MAX,
    )
}

#[cfg(test)]
mod tests {
    use lapin::uri::AMQPUri;

    use super::*;
    use crate::broker_url::BrokerUrl;

    #[test]
    fn lapin_reads_the_address_as_it_was_meant() {
        for (host, vhost) in [("mq.example", "/"), ("127.0.0.1", "a b"), ("::1", ""), ("fe80::1", "é/%")] {
            let url = BrokerUrl::from_parts(host, 5673, "us@er", "p:a/s?s#", vhost).unwrap();
            let uri: AMQPUri = lapin_url(&BrokerConfig::new(url, "test")).parse().unwrap();
            assert_eq!((uri.authority.host.as_str(), uri.authority.port), (host, 5673));
            assert_eq!(uri.authority.userinfo.username, "us@er");
            assert_eq!(uri.authority.userinfo.password, "p:a/s?s#");
            assert_eq!((uri.vhost.as_str(), uri.query.heartbeat), (vhost, Some(10)));
        }
    }
}
