//! One connection to the broker: made, watched, closed in order or cut.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_rs::{Runtime, Tokio, util::RuntimeParts};
use lapin::{
    AsyncTcpStream, Channel, ConnectionProperties, ErrorKind,
    types::{LongString, ShortString},
    uri::{AMQPQueryString, AMQPUri},
};
use tokio::{sync::watch, time::timeout};
use tracing::warn;

use crate::{
    broker::BrokerConfig,
    credentials::Credentials,
    dial::{Passport, connect_error},
    error::ConsumerError,
    host::{Address, HostOrder},
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
    user: String,
}

impl Connection {
    /// Connects to a host and logs in, within `connect_timeout` in all.
    ///
    /// lapin's own retries and recovery stay off: the supervisor retries. Cancelling the future cuts what was
    /// begun.
    pub(crate) async fn open(
        config: &BrokerConfig,
        passport: &Passport,
        address: &Address,
        stats: &Arc<ConsumerStats>,
    ) -> Result<Self, ConsumerError> {
        let opening = Self::open_unlimited(config, passport, address, stats);
        match timeout(config.connect_timeout, opening).await {
            Ok(opened) => opened,
            Err(_) => Err(no_answer(address, config.connect_timeout)),
        }
    }

    /// One round over the hosts, without a wait between them; also which host it was.
    pub(crate) async fn open_any(
        config: &BrokerConfig,
        hosts: &mut HostOrder,
        stats: &Arc<ConsumerStats>,
    ) -> Result<(Self, Arc<str>), ConsumerError> {
        let passport = Passport::read(config).await?;
        let mut failures = Vec::new();
        for left in (0..hosts.len()).rev() {
            let address = hosts.turn();
            match Self::open(config, &passport, &address, stats).await {
                Ok(connection) => return Ok((connection, address.to_string().into())),
                Err(error) => {
                    if left > 0 {
                        warn!(%error, %address, "trying the next host");
                    }
                    failures.push(error);
                }
            }
        }
        Err(ConsumerError::of_round(failures))
    }

    async fn open_unlimited(
        config: &BrokerConfig,
        passport: &Passport,
        address: &Address,
        stats: &Arc<ConsumerStats>,
    ) -> Result<Self, ConsumerError> {
        let socket = passport.dial(config, address).await?;
        let tokio = Tokio::current();
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
        let credentials = &passport.credentials;
        let properties = properties(config, credentials.clone());
        let inner = lapin::Connection::connector(uri(config), runtime, hand_over, properties)
            .await
            .map_err(|error| handshake_error(&error, config, address, credentials))?;
        Ok(Self { inner, line, call_timeout: config.call_timeout, user: credentials.user().into() })
    }

    /// Who is logged in, for messages.
    pub(crate) fn user(&self) -> &str {
        &self.user
    }

    /// The first number of the broker's version, if it told one.
    pub(crate) fn broker_major(&self) -> Option<u16> {
        self.line.wire.broker_major()
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

    /// Whether the broker stopped reading from this connection, which publishes, because of an alarm.
    pub(crate) fn is_blocked(&self) -> bool {
        self.inner.status().blocked()
    }

    /// Bytes of a frame at most, as agreed with the broker.
    pub(crate) fn frame_max(&self) -> usize {
        self.inner.configuration().frame_max() as usize
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

/// What lapin needs of the address: it neither connects nor logs in by it.
fn uri(config: &BrokerConfig) -> AMQPUri {
    AMQPUri {
        vhost: config.url.vhost().into(),
        query: AMQPQueryString {
            frame_max: Some(FRAME_MAX),
            heartbeat: Some(config.heartbeat_seconds()),
            ..AMQPQueryString::default()
        },
        ..AMQPUri::default()
    }
}

/// Login, name and client properties; no retries, no recovery.
pub(crate) fn properties(config: &BrokerConfig, credentials: Credentials) -> ConnectionProperties {
    let ours = [
        ("product", env!("CARGO_PKG_NAME")),
        ("version", env!("CARGO_PKG_VERSION")),
        ("connection_name", &config.connection_name),
    ];
    let theirs = config.client_properties.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let bare = ConnectionProperties::default()
        .configure_backoff(|backoff| backoff.with_max_times(0))
        .with_auth_provider(credentials);
    ours.into_iter().chain(theirs).fold(bare, |properties, (name, value)| {
        match ShortString::try_new(name) {
            Ok(name) => properties.with_client_property(name, LongString::from(value)),
            Err(_) => properties, // a name of more than 255 bytes: nothing depends on it
        }
    })
}

/// Nothing came from a host in time.
pub(crate) fn no_answer(address: &Address, after: Duration) -> ConsumerError {
    ConsumerError::Unreachable { address: address.to_string(), reason: format!("no answer within {after:?}") }
}

/// What went wrong before the connection was open.
pub(crate) fn handshake_error(
    error: &lapin::Error,
    config: &BrokerConfig,
    address: &Address,
    credentials: &Credentials,
) -> ConsumerError {
    match error.kind() {
        ErrorKind::ProtocolError(amqp) => {
            let (code, text) = (amqp.get_id(), amqp.get_message().to_string());
            refusal(code, text, address.to_string(), credentials.user(), config.url.vhost())
        }
        ErrorKind::IOError(error) => connect_error(error, address, config),
        _ => ConsumerError::Unreachable { address: address.to_string(), reason: error.to_string() },
    }
}

/// The broker's answer to a login or to the opening of a virtual host, by its code and, where one code means
/// several things, its words. RabbitMQ 3.10 to 4.1 say the same.
fn refusal(code: u16, text: String, address: String, user: &str, vhost: &str) -> ConsumerError {
    let (user, vhost) = (user.to_owned(), vhost.to_owned());
    match code {
        403 => ConsumerError::LoginRefused { address, user, text },
        503 if text.contains("authentication mechanism") => {
            ConsumerError::LoginRefused { address, user, text }
        }
        530 if text.contains("limit") && text.contains("reached") => {
            ConsumerError::ConnectionLimit { address, text }
        }
        530 if text.contains("refused") => ConsumerError::VhostRefused { address, user, vhost, text },
        530 => ConsumerError::VhostMissing { address, vhost, text },
        _ => ConsumerError::HandshakeClosed { address, code, text },
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
        ErrorKind::IOError(error) => ConsumerError::ConnectionLost { reason: error.to_string() },
        _ => ConsumerError::ConnectionLost { reason: error.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn n16_n17_every_refusal_has_its_own_kind() {
        let kind = |code, text: &str| {
            let error = refusal(code, text.into(), "mq:5672".into(), "u", "v");
            let debug = format!("{error:?}");
            debug.split([' ', '(']).next().unwrap_or_default().to_owned()
        };
        for (code, text, expected) in [
            (403, "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN.", "LoginRefused"),
            (503, "COMMAND_INVALID - unknown authentication mechanism 'EXTERNAL'", "LoginRefused"),
            (503, "COMMAND_INVALID - unexpected method", "HandshakeClosed"),
            (530, "NOT_ALLOWED - vhost v not found", "VhostMissing"),
            (530, "NOT_ALLOWED - access to vhost 'v' refused for user 'u'", "VhostRefused"),
            (
                530,
                "NOT_ALLOWED - access to vhost 'v' refused for user 'u': connection limit (1) is reached",
                "ConnectionLimit",
            ),
            (
                530,
                "NOT_ALLOWED - connection refused for user 'u': user connection limit (1) is reached",
                "ConnectionLimit",
            ),
            (
                541,
                "INTERNAL_ERROR - access to vhost 'v' refused for user 'u': vhost 'v' is down",
                "HandshakeClosed",
            ),
            (320, "CONNECTION_FORCED - broker forced connection closure", "HandshakeClosed"),
        ] {
            assert_eq!(kind(code, text), expected, "{code} {text}");
        }
    }
}
