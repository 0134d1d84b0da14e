//! The way to one host: name, TCP, TLS. What follows, AMQP, is lapin's.

use std::io;

use async_rs::{Runtime, Tokio, traits::Reactor};
use futures_rustls::TlsConnector;
use lapin::AsyncTcpStream;

use crate::{
    broker::BrokerConfig, credentials::Credentials, error::ConsumerError, host::Address,
    tls_problem::TlsProblem,
};

/// A connected TCP or TLS stream.
pub(crate) type Dialed = AsyncTcpStream<<Tokio as Reactor>::TcpStream>;

/// What one round over the hosts logs in and encrypts with, read when it began.
pub(crate) struct Passport {
    pub(crate) credentials: Credentials,
    tls: Option<TlsConnector>,
}

impl Passport {
    /// Reads credentials and certificates from wherever they are configured to be.
    ///
    /// Commands and files get the time that a connection gets.
    pub(crate) async fn read(config: &BrokerConfig) -> Result<Self, ConsumerError> {
        let credentials = Credentials::read(config).await?;
        let tls = if config.url.tls() {
            Some(config.tls.connector().map_err(ConsumerError::TlsSetup)?)
        } else {
            None
        };
        Ok(Self { credentials, tls })
    }

    /// Resolves the host's name and connects. Without a limit in time.
    pub(crate) async fn dial(
        &self,
        config: &BrokerConfig,
        address: &Address,
    ) -> Result<Dialed, ConsumerError> {
        let runtime = Runtime::new(Tokio::current());
        let resolved = runtime.to_socket_addrs((address.host.clone(), address.port));
        let failed = |error: &io::Error| connect_error(error, address, config);
        let stream = AsyncTcpStream::connect(&runtime, resolved).await.map_err(|error| failed(&error))?;
        match (&self.tls, stream) {
            (Some(tls), AsyncTcpStream::Plain(stream)) => {
                let name = config.tls.server_name(&address.host).map_err(ConsumerError::TlsSetup)?;
                let stream = tls.connect(name, stream).await.map_err(|error| failed(&error))?;
                Ok(AsyncTcpStream::Rustls(stream))
            }
            (_, stream) => Ok(stream),
        }
    }
}

/// What the failure of a socket means before the connection is open.
pub(crate) fn connect_error(error: &io::Error, address: &Address, config: &BrokerConfig) -> ConsumerError {
    let address = address.to_string();
    match TlsProblem::of(error, config.tls.cert_file.is_some()) {
        Some((problem, text)) => ConsumerError::Tls { address, problem, text },
        None => ConsumerError::Unreachable { address, reason: error.to_string() },
    }
}
