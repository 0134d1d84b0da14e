//! What is needed to reach a broker, and how long each step of it may take.

use std::time::Duration;

use crate::broker_url::BrokerUrl;

/// How to connect to the broker. Times are limits, each with its default.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct BrokerConfig {
    /// Address, credentials and virtual host.
    pub url: BrokerUrl,
    /// The name that the broker's own UI shows for the connection.
    pub connection_name: String,
    /// How often each side shows that it is alive (default 10 s, whole seconds, 1 to 65,535). A silent
    /// peer is given up after twice this time. The broker may ask for less, never for more.
    pub heartbeat: Duration,
    /// Name resolution, TCP, TLS and AMQP handshake together (default 10 s).
    pub connect_timeout: Duration,
    /// Every single call to the broker, such as declaring a queue (default 10 s).
    pub call_timeout: Duration,
    /// Facts about this client that the broker's UI shows, such as `("instance", "pod-7")`.
    pub client_properties: Vec<(String, String)>,
}

impl BrokerConfig {
    /// Uses the defaults; `heartbeat` and `connection_timeout` of the URL override theirs.
    #[must_use]
    pub fn new(url: BrokerUrl, connection_name: impl Into<String>) -> Self {
        let heartbeat = url.heartbeat().unwrap_or(Duration::from_secs(10));
        let connect_timeout = url.connect_timeout().unwrap_or(Duration::from_secs(10));
        Self {
            url,
            connection_name: connection_name.into(),
            heartbeat,
            connect_timeout,
            call_timeout: Duration::from_secs(10),
            client_properties: Vec::new(),
        }
    }

    /// The heartbeat as AMQP carries it: whole seconds, at least one.
    pub(crate) fn heartbeat_seconds(&self) -> u16 {
        u16::try_from(self.heartbeat.as_secs()).unwrap_or(u16::MAX).max(1)
    }
}
