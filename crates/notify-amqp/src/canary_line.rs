//! The connection that canaries are published on.
//!
//! It is never the consumer's: during a memory alarm the broker stops reading from a connection that publishes, and
//! the acks would stand behind the canary.

use std::sync::Arc;

use lapin::{
    BasicProperties, Confirmation, ErrorKind,
    options::{BasicPublishOptions, ConfirmSelectOptions},
    types::ShortString,
};

use crate::{
    broker::BrokerConfig,
    connection::{Connection, lost},
    dial::Passport,
    error::ConsumerError,
    hearing::{Hindrance, Outcome},
    host::HostOrder,
    stats::ConsumerStats,
};

/// An open connection with a channel in confirm mode. Dropping it cuts the line.
pub(crate) struct CanaryLine {
    connection: Connection,
    channel: lapin::Channel,
}

impl CanaryLine {
    /// Connects to the host whose turn it is: with the next canary it is another's.
    pub(crate) async fn open(config: &BrokerConfig, hosts: &mut HostOrder) -> Result<Self, Hindrance> {
        let opened = async {
            let passport = Passport::read(config).await?;
            let stats = Arc::new(ConsumerStats::default());
            let connection = Connection::open(config, &passport, &hosts.turn(), &stats).await?;
            let channel = connection.channel().await?;
            let confirmed = channel.confirm_select(ConfirmSelectOptions::default()).await;
            confirmed.map_err(|error| lost(&error))?;
            Ok(Self { connection, channel })
        };
        opened.await.map_err(|error: ConsumerError| {
            let reason = error.to_string();
            if error.is_permanent() || matches!(error, ConsumerError::ConnectionLimit { .. }) {
                Hindrance::Refused { reason }
            } else {
                Hindrance::Unreachable { reason }
            }
        })
    }

    /// Whether a canary can be published on it, or will be when the broker reads again.
    pub(crate) fn is_usable(&self) -> bool {
        self.connection.is_connected() && self.channel.status().connected()
    }

    /// Whether the broker stopped reading from publishers.
    pub(crate) fn is_blocked(&self) -> bool {
        self.connection.is_blocked()
    }

    /// Publishes and waits for the confirm. Without a limit in time.
    pub(crate) async fn publish(
        &self,
        exchange: ShortString,
        key: ShortString,
        body: &[u8],
        properties: BasicProperties,
    ) -> Outcome {
        let options = BasicPublishOptions { mandatory: true, immediate: false };
        let confirmation =
            async { self.channel.basic_publish(exchange, key, options, body, properties).await?.await };
        match confirmation.await {
            Ok(Confirmation::Ack(None) | Confirmation::NotRequested) => Outcome::Confirmed,
            Ok(Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_))) => Outcome::Unroutable,
            Ok(Confirmation::Nack(None)) => Outcome::Unconfirmed,
            Err(error) => match error.kind() {
                ErrorKind::ProtocolError(amqp) if error.is_amqp_soft_error() => match amqp.get_id() {
                    404 => Outcome::NoExchange,
                    _ => Outcome::Hindered(Hindrance::Refused { reason: amqp.get_message().to_string() }),
                },
                _ => Outcome::Hindered(Hindrance::Unreachable { reason: lost(&error).to_string() }),
            },
        }
    }

    /// Closes in order, within about a second.
    pub(crate) async fn close(self) {
        self.connection.close().await;
    }
}
