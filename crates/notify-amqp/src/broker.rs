//! What is needed to reach a broker, and how long each step of it may take.

use std::time::Duration;

use crate::{
    broker_url::BrokerUrl,
    credentials::{Credentials, Login},
    error::ConsumerError,
    host::{Address, HostOrder},
    tls::TlsOptions,
};

/// Said loudly: it is easily left behind after a test.
pub const UNVERIFIED: &str = "THE BROKER'S CERTIFICATE IS NOT VERIFIED: anybody between here and the broker can read the \
     password and every message, and forge them; verify it (LOBBY_BROKER__TLS_CA_FILE) anywhere but in a test";

/// How to connect to the broker. Times are limits, each with its default.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct BrokerConfig {
    /// Address or addresses, virtual host, whether TLS is used, and unless `login` says otherwise the
    /// credentials.
    ///
    /// Several hosts are tried one after the other without a wait; a round in which all failed is followed by one.
    /// Each round begins with the host after the one that was used last.
    pub url: BrokerUrl,
    /// Whether the hosts are tried in an order of this process's own (default false: in the order given). So a
    /// fleet spreads over a cluster.
    pub shuffle: bool,
    /// How to log in (default: user and password of the URL).
    pub login: Login,
    /// Whom to trust and who we are, where the URL asks for TLS.
    pub tls: TlsOptions,
    /// The name that the broker's own UI shows for the connection.
    pub connection_name: String,
    /// How often each side shows that it is alive (default 10 s, whole seconds, 1 to 65,535). A silent
    /// peer is given up after twice this time. The broker may ask for less, never for more.
    pub heartbeat: Duration,
    /// Name resolution, TCP, TLS and AMQP handshake together, for each host (default 10 s); reading credentials
    /// has as long again.
    pub connect_timeout: Duration,
    /// Every single call to the broker, such as declaring a queue (default 10 s).
    pub call_timeout: Duration,
    /// Facts about this client that the broker's UI shows, such as `("instance", "pod-7")`. `product` and
    /// `version` are set unless they stand here, and `platform` always. A name of more than 255 bytes is left out.
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
            shuffle: false,
            login: Login::default(),
            tls: TlsOptions::default(),
            connection_name: connection_name.into(),
            heartbeat,
            connect_timeout,
            call_timeout: Duration::from_secs(10),
            client_properties: Vec::new(),
        }
    }

    /// User and password as they are now, for another client of the same broker; `None` where a certificate logs in.
    ///
    /// # Errors
    /// [`ConsumerError::Credentials`]: a file or command did not give them.
    pub async fn user_and_password(&self) -> Result<Option<(String, String)>, ConsumerError> {
        Ok(match Credentials::read(self).await? {
            Credentials::Plain { user, password } => Some((user, password)),
            Credentials::External => None,
        })
    }

    /// The hosts in the order in which this process tries them.
    pub(crate) fn hosts(&self) -> HostOrder {
        HostOrder::new(self.url.addresses().collect::<Vec<Address>>(), self.shuffle, || fastrand::u64(..))
    }

    /// What must be said at each start, if anything.
    pub(crate) fn warning(&self) -> Option<&'static str> {
        (self.url.tls() && !self.tls.verify).then_some(UNVERIFIED)
    }

    /// The heartbeat as AMQP carries it: whole seconds, at least one.
    pub(crate) fn heartbeat_seconds(&self) -> u16 {
        u16::try_from(self.heartbeat.as_secs()).unwrap_or(u16::MAX).max(1)
    }
}
