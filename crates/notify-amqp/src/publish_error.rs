//! Why a message was not published, and whether publishing it again makes sense.

use std::{fmt, time::Duration};

use crate::error::ConsumerError;

/// Why [`Publisher::publish`](crate::Publisher::publish) failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// No queue is bound for the routing key: the broker returned the message. No lobby runs, or it uses
    /// another exchange; do not publish it again before that is changed.
    #[error("message is unroutable, no queue is bound to the exchange for its key: {code} {text}")]
    Unroutable {
        /// The AMQP reply code (312).
        code: u16,
        /// The broker's words.
        text: String,
    },
    /// The broker did not take the message (a queue refused it, or failed while storing it): publish it again.
    #[error("broker did not take the message (nack)")]
    Nacked,
    /// The time was up. At [`PublishStage::Confirming`] and [`PublishStage::ConfirmingBlocked`] the outcome is
    /// unknown, and publishing again may duplicate the message (give it the same message id); before, it was not
    /// sent.
    #[error("not published within {after:?}: {stage}")]
    TimedOut {
        /// The limit.
        after: Duration,
        /// What was being waited for.
        stage: PublishStage,
    },
    /// The exchange does not exist: start a lobby once, which declares it, or correct the exchange's name.
    #[error("exchange {exchange:?} does not exist: {text}")]
    ExchangeMissing {
        /// The exchange.
        exchange: String,
        /// The broker's words.
        text: String,
    },
    /// The user may not publish to the exchange: give it the write permission.
    #[error("may not publish to exchange {exchange:?}: {text}")]
    AccessRefused {
        /// The exchange.
        exchange: String,
        /// The broker's words.
        text: String,
    },
    /// The broker refused the message itself, for example for its size: do not publish it again.
    #[error("broker refused the message: {code} {text}")]
    Refused {
        /// The AMQP reply code.
        code: u16,
        /// The broker's words.
        text: String,
    },
    /// There was no connection, or it broke, at every attempt. Publishing again may duplicate the message.
    #[error(transparent)]
    Connection(ConsumerError),
    /// A property or name is too long for the wire.
    #[error("{what} is {len} bytes, limit 255")]
    NameTooLong {
        /// What the text is.
        what: &'static str,
        /// Its length in bytes.
        len: usize,
    },
    /// A header is a float that is no number, for which the broker closes the connection.
    #[error("a header is a float that is not finite, which the broker does not take")]
    NotFinite,
    /// A header's name is not UTF-8.
    #[error("a header's name is not UTF-8")]
    NameNotUtf8,
    /// The publisher was closed.
    #[error("publisher is closed")]
    Closed,
    /// The publisher was made or used outside of a tokio runtime.
    #[error("no tokio runtime here")]
    NoRuntime,
}

impl PublishError {
    /// Whether sending the message again may help: only what a new connection may cure, for what the broker
    /// refused it would refuse again.
    pub(crate) fn is_worth_another_attempt(&self) -> bool {
        match self {
            Self::Connection(error) => match error {
                ConsumerError::Unreachable { .. }
                | ConsumerError::ConnectionLimit { .. }
                | ConsumerError::HandshakeClosed { .. }
                | ConsumerError::ConnectionClosed { .. }
                | ConsumerError::ConnectionLost { .. }
                | ConsumerError::HeartbeatMissed { .. }
                | ConsumerError::TimedOut { .. } => true,
                ConsumerError::Tls { .. }
                | ConsumerError::Credentials(_)
                | ConsumerError::HostsFailed { .. } => !error.is_permanent(),
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
            Self::Unroutable { .. }
            | Self::Nacked
            | Self::TimedOut { .. }
            | Self::ExchangeMissing { .. }
            | Self::AccessRefused { .. }
            | Self::Refused { .. }
            | Self::NameTooLong { .. }
            | Self::NotFinite
            | Self::NameNotUtf8
            | Self::Closed
            | Self::NoRuntime => false,
        }
    }
}

/// What a publish was waiting for when its time was up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PublishStage {
    /// A connection or a free channel.
    Connecting,
    /// The broker blocks publishers, because its memory or its disk is nearly full.
    Blocked,
    /// The confirm; the message was sent.
    Confirming,
    /// The confirm, of a broker that began to block publishers when the message was under way.
    ConfirmingBlocked,
}

impl fmt::Display for PublishStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connecting => "no connection or free channel",
            Self::Blocked => "the broker blocks publishers (memory or disk alarm)",
            Self::Confirming => "no confirm, the outcome is unknown",
            Self::ConfirmingBlocked => {
                "no confirm, the outcome is unknown; the broker blocks publishers (memory or disk alarm)"
            }
        })
    }
}
