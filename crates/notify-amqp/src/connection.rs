//! One connection to the broker: made, watched, closed in order or cut.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_rs::{Runtime, Tokio, util::RuntimeParts};
use lapin::{
    AsyncTcpStream, Channel, ConnectionProperties, ErrorKind,
    tcp::{AMQPUriTcpExt, TLSConfig},
    types::LongString,
    uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo},
};
use tokio::{sync::watch, time::timeout};

use crate::{
    broker::BrokerConfig,
    broker_url::BrokerUrl,
    error::ConsumerError,
    intake::Intake,
    stats::ConsumerStats,
    stream::{FilteredStream, FilteringReactor, Socket},
    wire::Wire,
};

/// RabbitMQ's default. It bounds the filter's memory: a message's headers must fit into one frame.
pub(crate) const FRAME_MAX: u32 = 131_072;

/// How long an orderly close may take; then the line is cut.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// An open connection. Dropping it cuts the line.
pub(crate) struct Connection {
    inner: lapin::Connection,
    line: Line,
    call_timeout: Duration,
}

impl Connection {
    /// Connects and logs in, within `connect_timeout` in all.
    ///
    /// lapin's own retries and recovery stay off: the supervisor retries. Cancelling the future cuts what was
    /// begun.
    pub(crate) async fn open(
        config: &BrokerConfig,
        stats: &Arc<ConsumerStats>,
    ) -> Result<Self, ConsumerError> {
        let unanswered = ConsumerError::TimedOut { call: "connect", after: config.connect_timeout };
        match timeout(config.connect_timeout, Self::open_unlimited(config, stats)).await {
            Ok(opened) => opened,
            Err(_) => Err(unanswered),
        }
    }

    async fn open_unlimited(
        config: &BrokerConfig,
        stats: &Arc<ConsumerStats>,
    ) -> Result<Self, ConsumerError> {
        let unreachable = |error: io::Error| ConsumerError::Unreachable {
            address: config.url.address(),
            reason: error.to_string(),
        };
        let uri = uri(config);
        let tokio = Tokio::current();
        let socket = uri
            .connect_with_config_async(TLSConfig::default(), &Runtime::new(tokio.clone()))
            .await
            .map_err(unreachable)?;
        let wire = Arc::new(Wire::new(socket, FRAME_MAX, stats.clone()));
        let (stream, gone) = FilteredStream::new(wire.clone());
        let line = Line { wire, gone };
        let runtime = Runtime::new(RuntimeParts::new(tokio.clone(), FilteringReactor(tokio)));
        // lapin asks once: its retries are off.
        let stream = Mutex::new(Some(stream));
        let hand_over = async move |_, _| {
            let stream = stream.lock().unwrap_or_else(PoisonError::into_inner).take();
            Ok(AsyncTcpStream::Plain(stream.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))?))
        };
        let inner = lapin::Connection::connector(uri, runtime, hand_over, properties(config))
            .await
            .map_err(|error| handshake_error(&error, &config.url))?;
        Ok(Self { inner, line, call_timeout: config.call_timeout })
    }

    /// Opens a channel.
    pub(crate) async fn channel(&self) -> Result<Channel, ConsumerError> {
        let call = "channel.open";
        match timeout(self.call_timeout, self.inner.create_channel()).await {
            Ok(channel) => channel.map_err(|error| lost(&error)),
            Err(_) => Err(ConsumerError::TimedOut { call, after: self.call_timeout }),
        }
    }

    /// Takes the deliveries, from the first that came on this connection.
    pub(crate) fn intake(&self) -> Intake<Socket> {
        Intake::begin(self.line.wire.clone())
    }

    /// When bytes last came from the broker.
    pub(crate) fn last_read(&self) -> Instant {
        self.line.wire.last_read()
    }

    /// Whether lapin believes in the connection.
    pub(crate) fn is_connected(&self) -> bool {
        self.inner.status().connected()
    }

    /// The heartbeat agreed with the broker; `None` if it has none.
    pub(crate) fn heartbeat(&self) -> Option<Duration> {
        let seconds = self.inner.configuration().heartbeat();
        (seconds > 0).then(|| Duration::from_secs(seconds.into()))
    }

    /// Closes in order, so that the broker frees the queue at once, or cuts the line after a second. Returns
    /// whether it was in order, and only after lapin has let go of the socket. Keep channels and consumers
    /// until then: dropping them makes lapin close them one by one, and complain when that is overtaken.
    pub(crate) async fn close(&self) -> bool {
        let closed = timeout(CLOSE_TIMEOUT, self.inner.close(200, "OK".into())).await;
        self.line.wire.cut();
        // Nothing is ever sent: this ends when the stream, which holds the sender, is dropped.
        let _ = timeout(CLOSE_TIMEOUT, self.line.gone.clone().changed()).await;
        matches!(closed, Ok(Ok(())))
    }
}

/// Cuts the line when dropped.
struct Line {
    wire: Arc<Wire<Socket>>,
    gone: watch::Receiver<()>,
}

impl Drop for Line {
    fn drop(&mut self) {
        self.wire.cut();
    }
}

/// What lapin needs of the address.
fn uri(config: &BrokerConfig) -> AMQPUri {
    let url = &config.url;
    AMQPUri {
        scheme: if url.tls() { AMQPScheme::AMQPS } else { AMQPScheme::AMQP },
        authority: AMQPAuthority {
            userinfo: AMQPUserInfo { username: url.user().into(), password: url.password().into() },
            host: url.host().into(),
            port: url.port(),
        },
        vhost: url.vhost().into(),
        query: AMQPQueryString {
            frame_max: Some(FRAME_MAX),
            heartbeat: Some(config.heartbeat_seconds()),
            ..AMQPQueryString::default()
        },
    }
}

/// Name and client properties; no retries, no recovery.
pub(crate) fn properties(config: &BrokerConfig) -> ConnectionProperties {
    let named = ConnectionProperties::default()
        .configure_backoff(|backoff| backoff.with_max_times(0))
        .with_connection_name(config.connection_name.as_str().into());
    config.client_properties.iter().fold(named, |properties, (name, value)| {
        match lapin::types::ShortString::try_new(name.as_str()) {
            Ok(name) => properties.with_client_property(name, LongString::from(value.as_str())),
            Err(_) => properties, // a name of more than 255 bytes: nothing depends on it
        }
    })
}

/// What went wrong before the connection was open.
pub(crate) fn handshake_error(error: &lapin::Error, url: &BrokerUrl) -> ConsumerError {
    let address = url.address();
    let ErrorKind::ProtocolError(amqp) = error.kind() else {
        return ConsumerError::Unreachable { address, reason: reason(error) };
    };
    let (code, text) = (amqp.get_id(), amqp.get_message().to_string());
    let (user, vhost) = (url.user().to_owned(), url.vhost().to_owned());
    match code {
        403 => ConsumerError::LoginRefused { address, user, vhost, text },
        530 if text.contains("refused") => ConsumerError::LoginRefused { address, user, vhost, text },
        530 => ConsumerError::VhostMissing { address, vhost, text },
        _ => ConsumerError::ConnectionClosed { code, text },
    }
}

/// What ended an open connection.
pub(crate) fn lost(error: &lapin::Error) -> ConsumerError {
    match error.kind() {
        ErrorKind::ProtocolError(amqp) => {
            let (code, text) = (amqp.get_id(), amqp.get_message().to_string());
            if error.is_amqp_hard_error() {
                ConsumerError::ConnectionClosed { code, text }
            } else {
                ConsumerError::ChannelClosed { code, text }
            }
        }
        _ => ConsumerError::ConnectionLost { reason: reason(error) },
    }
}

fn reason(error: &lapin::Error) -> String {
    match error.kind() {
        ErrorKind::IOError(error) => error.to_string(),
        _ => error.to_string(),
    }
}
