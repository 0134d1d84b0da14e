//! Why consuming failed, in the operator's terms, with what to do about it.
//!
//! Each variant is one cause. The consumer retries after every one of them; [`ConsumerError::hint`] says
//! what a person can do, and [`ConsumerError::is_permanent`] that waiting alone will not help.

use std::time::Duration;

/// Why the consumer is not consuming.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConsumerError {
    /// No connection could be made: refused, unknown host, reset, TLS.
    #[error("broker {address} is unreachable: {reason}")]
    Unreachable {
        /// Host and port.
        address: String,
        /// The operating system's words.
        reason: String,
    },
    /// The broker does not know the virtual host (530).
    #[error("virtual host {vhost:?} does not exist on broker {address}: {text}")]
    VhostMissing {
        /// Host and port.
        address: String,
        /// The virtual host asked for.
        vhost: String,
        /// The broker's words.
        text: String,
    },
    /// User or password are wrong (403), or the user may not enter the virtual host (530).
    #[error("broker {address} refused user {user:?}: {text}")]
    LoginRefused {
        /// Host and port.
        address: String,
        /// The user.
        user: String,
        /// The virtual host asked for.
        vhost: String,
        /// The broker's words.
        text: String,
    },
    /// The user lacks a permission on a queue or exchange (403).
    #[error("user {user:?} may not {call}: {text}")]
    AccessRefused {
        /// The user.
        user: String,
        /// What was attempted, such as `queue.declare`.
        call: &'static str,
        /// The broker's words.
        text: String,
    },
    /// Something else consumes from the queue (403), or holds it exclusively (405).
    #[error("queue {queue:?} is in use by another consumer: {text}")]
    ExclusiveInUse {
        /// The queue.
        queue: String,
        /// The instance the queue belongs to.
        instance: Option<String>,
        /// The broker's words.
        text: String,
    },
    /// The queue, the exchange, or the node that holds it is not there (404).
    #[error("{call}: not found: {text}")]
    NotFound {
        /// What was attempted.
        call: &'static str,
        /// The broker's words.
        text: String,
    },
    /// The exchange or queue exists with other properties (406 on a declaration).
    #[error("{kind} {name:?} exists with other properties: {text}")]
    ArgumentMismatch {
        /// `queue` or `exchange`.
        kind: &'static str,
        /// Its name.
        name: String,
        /// The broker's words: they name the argument, what was asked for and what is there.
        text: String,
    },
    /// The broker closed the channel for another reason, such as an ack that came too late (406).
    #[error("broker closed the channel: {code} {text}")]
    ChannelClosed {
        /// The AMQP reply code.
        code: u16,
        /// The broker's words.
        text: String,
    },
    /// The broker closed the connection (320 when an operator or a shutdown did it).
    #[error("broker closed the connection: {code} {text}")]
    ConnectionClosed {
        /// The AMQP reply code.
        code: u16,
        /// The broker's words.
        text: String,
    },
    /// An established connection broke.
    #[error("connection to the broker lost: {reason}")]
    ConnectionLost {
        /// The operating system's words, or the client library's.
        reason: String,
    },
    /// Nothing came from the broker for twice the heartbeat.
    #[error("broker silent for {silent:?}")]
    HeartbeatMissed {
        /// How long nothing came.
        silent: Duration,
    },
    /// A call was not answered in time.
    #[error("{call} was not answered within {after:?}")]
    TimedOut {
        /// What was attempted.
        call: &'static str,
        /// The limit.
        after: Duration,
    },
    /// The broker ended the consumer: its queue was deleted, or the queue's node is gone.
    #[error("broker cancelled the consumer of queue {queue:?}: the queue was deleted or its node is gone")]
    Cancelled {
        /// The queue.
        queue: String,
    },
    /// A name in the configuration cannot go on the wire.
    #[error("{what} {name:?} is {len} bytes, limit 255")]
    NameTooLong {
        /// What the name is for.
        what: &'static str,
        /// The name.
        name: String,
        /// Its length in bytes.
        len: usize,
    },
}

impl ConsumerError {
    /// What a person can do about it, as one sentence; `None` when the retry is all there is to do.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Unreachable { reason, .. } if reason.contains("certificate") => {
                "the broker's certificate is not trusted: add its CA to the system's certificates, or set SSL_CERT_FILE to it".into()
            }
            Self::Unreachable { .. } => {
                "start a broker (`cargo xtask run` or `docker compose up -d rabbitmq`) or correct its address".into()
            }
            Self::VhostMissing { vhost, .. } if vhost.is_empty() => {
                "the URL ends in `/`, which means a virtual host with an empty name; for the default one write `%2f`".into()
            }
            Self::VhostMissing { vhost, .. } => {
                format!("create it (`rabbitmqctl add_vhost {vhost}`) or correct the virtual host in the broker's URL")
            }
            Self::LoginRefused { user, .. } if user == "guest" => {
                "correct user and password; note that `guest` may only log in from the broker's own machine".into()
            }
            Self::LoginRefused { user, vhost, .. } => format!(
                "correct user and password, or let the user in (`rabbitmqctl set_permissions -p {vhost} {user} '.*' '.*' '.*'`)"
            ),
            Self::AccessRefused { user, .. } => format!(
                "give {user:?} the permission that the broker names (`rabbitmqctl set_permissions`); the lobby configures its exchange and queue, writes to its queue and reads from both"
            ),
            Self::ExclusiveInUse { queue, instance: Some(instance), .. } => format!(
                "another lobby with the instance name {instance:?} consumes from queue {queue:?}: give this one its own LOBBY_INSTANCE__NAME (after a broken link it may be this lobby's own old connection, which the broker drops within two heartbeats)"
            ),
            Self::ExclusiveInUse { queue, instance: None, .. } => {
                format!("stop the other consumer of queue {queue:?}, or choose another queue")
            }
            Self::NotFound { .. } => {
                "the exchange, the queue, or the cluster node that holds it is gone: create it, or bring the node back".into()
            }
            Self::ArgumentMismatch { kind: "queue", name, .. } => format!(
                "delete the queue (`rabbitmqctl delete_queue {name}`, its messages are lost) and it is declared anew, or give this lobby another LOBBY_INSTANCE__NAME"
            ),
            Self::ArgumentMismatch { kind, name, .. } => format!(
                "the {kind} must be of type topic and durable: delete {name:?} so that it is declared anew, or choose another LOBBY_BROKER__EXCHANGE"
            ),
            Self::NameTooLong { what, .. } => format!("shorten the {what}"),
            Self::ChannelClosed { text, .. } if text.contains("acknowledgement") => {
                "a delivery was held for longer than the broker's consumer timeout: look for work that never ends".into()
            }
            Self::ChannelClosed { .. }
            | Self::ConnectionClosed { .. }
            | Self::ConnectionLost { .. }
            | Self::HeartbeatMissed { .. }
            | Self::TimedOut { .. }
            | Self::Cancelled { .. } => return None,
        })
    }

    /// Whether waiting alone will not help: somebody has to change configuration or broker.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::VhostMissing { .. }
            | Self::LoginRefused { .. }
            | Self::AccessRefused { .. }
            | Self::ArgumentMismatch { .. }
            | Self::NameTooLong { .. } => true,
            Self::Unreachable { .. }
            | Self::ExclusiveInUse { .. }
            | Self::NotFound { .. }
            | Self::ChannelClosed { .. }
            | Self::ConnectionClosed { .. }
            | Self::ConnectionLost { .. }
            | Self::HeartbeatMissed { .. }
            | Self::TimedOut { .. }
            | Self::Cancelled { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unreachable(reason: &str) -> ConsumerError {
        ConsumerError::Unreachable { address: "mq:5672".into(), reason: reason.into() }
    }

    #[test]
    fn hints_say_what_to_do() {
        let no_broker = unreachable("Connection refused (os error 111)");
        let hint = no_broker.hint().unwrap();
        assert!(hint.contains("cargo xtask run") && hint.contains("docker compose up -d rabbitmq"), "{hint}");
        let untrusted = unreachable("invalid peer certificate: UnknownIssuer");
        assert!(untrusted.hint().unwrap().contains("SSL_CERT_FILE"));
        let vhost = |name: &str| ConsumerError::VhostMissing {
            address: "mq:5672".into(),
            vhost: name.into(),
            text: String::new(),
        };
        assert!(vhost("").hint().unwrap().contains("%2f"));
        assert!(vhost("faf").hint().unwrap().contains("add_vhost faf"));
        let late = "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out";
        let late = ConsumerError::ChannelClosed { code: 406, text: late.into() };
        assert!(late.hint().unwrap().contains("consumer timeout"));
        assert!(!late.is_permanent() && vhost("").is_permanent());
    }
}
