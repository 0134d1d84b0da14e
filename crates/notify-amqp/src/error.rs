//! Why consuming failed, in the operator's terms, with what to do about it.
//!
//! Each variant is one cause. The consumer retries after every one of them; [`ConsumerError::hint`] says
//! what a person can do, and [`ConsumerError::is_permanent`] that waiting alone will not help.

use std::time::Duration;

use crate::{
    credentials::CredentialError, difference::Difference, self_check::SelfCheckFault, tls::TlsSetupError,
    tls_problem::TlsProblem,
};

/// Why the consumer is not consuming.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConsumerError {
    /// No connection could be made: refused, unknown host, reset, no answer.
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
    /// User, password or client certificate are wrong (403), or the broker does not offer the way to log in (503).
    #[error("broker {address} refused user {user:?}: {text}")]
    LoginRefused {
        /// Host and port.
        address: String,
        /// The user.
        user: String,
        /// The broker's words.
        text: String,
    },
    /// The user may not enter the virtual host (530).
    #[error("broker {address} does not let user {user:?} into virtual host {vhost:?}: {text}")]
    VhostRefused {
        /// Host and port.
        address: String,
        /// The user.
        user: String,
        /// The virtual host asked for.
        vhost: String,
        /// The broker's words.
        text: String,
    },
    /// The virtual host or the user has as many connections as it may have (530).
    #[error("broker {address} takes no more connections: {text}")]
    ConnectionLimit {
        /// Host and port.
        address: String,
        /// The broker's words.
        text: String,
    },
    /// The broker ended the handshake for another reason, such as a virtual host that is down (541).
    #[error("broker {address} ended the handshake: {code} {text}")]
    HandshakeClosed {
        /// Host and port.
        address: String,
        /// The AMQP reply code.
        code: u16,
        /// The broker's words.
        text: String,
    },
    /// TLS with the broker failed: its certificate, or ours.
    #[error("TLS with broker {address} failed: {text}")]
    Tls {
        /// Host and port.
        address: String,
        /// What was wrong.
        problem: TlsProblem,
        /// The TLS library's words: they name what the certificate holds.
        text: String,
    },
    /// The files for TLS cannot be used.
    #[error(transparent)]
    TlsSetup(TlsSetupError),
    /// User or password could not be read from where they are.
    #[error(transparent)]
    Credentials(CredentialError),
    /// Every host of a list failed.
    #[error("no host of {} could be used: {}", .failures.len(), joined(.failures))]
    HostsFailed {
        /// One error for each host, in the order in which they were tried.
        failures: Vec<ConsumerError>,
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
    #[error("{kind} {name:?} exists with other properties: {}", in_short(.difference, .text))]
    ArgumentMismatch {
        /// `queue` or `exchange`.
        kind: &'static str,
        /// Its name.
        name: String,
        /// The argument, what was asked for and what is there, where the broker says it as it used to.
        difference: Option<Box<Difference>>,
        /// The broker's words.
        text: String,
    },
    /// The broker does not know such a queue or exchange (406 on a declaration, for an argument of its own).
    #[error("{kind} {name:?} cannot be declared so: {text}")]
    ArgumentRefused {
        /// `queue` or `exchange`.
        kind: &'static str,
        /// Its name.
        name: String,
        /// The broker's words: they name the argument.
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
    /// The connection stands, and yet nothing can come through it.
    #[error("the self-check found that {0}")]
    SelfCheck(SelfCheckFault),
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

fn in_short(difference: &Option<Box<Difference>>, text: &str) -> String {
    difference.as_ref().map_or_else(|| text.to_owned(), ToString::to_string)
}

fn joined(failures: &[ConsumerError]) -> String {
    failures.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl ConsumerError {
    /// What a round over the hosts amounts to: `failures` has one error for each host that was tried.
    pub(crate) fn of_round(mut failures: Vec<Self>) -> Self {
        match failures.len() {
            1 => failures.remove(0),
            _ => Self::HostsFailed { failures },
        }
    }

    /// What a person can do about it, as one sentence; `None` when the retry is all there is to do.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Unreachable { .. } => {
                "start a broker (`cargo xtask run` or `docker compose up -d rabbitmq`) or correct its address".into()
            }
            Self::VhostMissing { vhost, .. } if vhost.is_empty() => {
                "the URL ends in `/`, which means a virtual host with an empty name; for the default one write `%2f`".into()
            }
            Self::VhostMissing { vhost, .. } => {
                format!("create it (`lobby topology apply`, or `rabbitmqctl add_vhost {vhost}`) or correct the virtual host in the broker's URL")
            }
            Self::LoginRefused { user, .. } if user == "guest" => {
                "correct user and password; note that `guest` may only log in from the broker's own machine".into()
            }
            Self::LoginRefused { text, .. } if text.contains("EXTERNAL") => {
                "enable the broker's plugin rabbitmq_auth_mechanism_ssl, list EXTERNAL among its auth_mechanisms, and create the user that the client certificate names".into()
            }
            Self::LoginRefused { .. } => {
                "correct user and password (`rabbitmqctl authenticate_user` tries them), or renew the token".into()
            }
            Self::VhostRefused { user, vhost, .. } => {
                format!("let the user in (`rabbitmqctl set_permissions -p {vhost} {user} '.*' '.*' '.*'`)")
            }
            Self::ConnectionLimit { .. } => {
                "raise the limit (`rabbitmqctl set_vhost_limits` or `set_user_limits`), or close connections that nobody needs".into()
            }
            Self::Tls { problem, .. } => problem.hint().into(),
            Self::TlsSetup(error) => error.hint(),
            Self::Credentials(error) => error.hint(),
            Self::HostsFailed { failures } => {
                let mut hints: Vec<_> = failures.iter().filter_map(Self::hint).collect();
                hints.dedup();
                return (!hints.is_empty()).then(|| hints.join("; "));
            }
            Self::AccessRefused { user, .. } => format!(
                "give {user:?} the permission that the broker names (`rabbitmqctl set_permissions`); the lobby configures its exchange and queue, writes to its queue and reads from both"
            ),
            Self::ExclusiveInUse { queue, instance: Some(instance), .. } => format!(
                "another lobby with the instance name {instance:?} consumes from queue {queue:?}: give this one its own LOBBY_INSTANCE__NAME (after a broken link it may be this lobby's own old connection, which the broker drops within two heartbeats)"
            ),
            Self::ExclusiveInUse { queue, instance: None, .. } => {
                format!("of singletons one consumes and the others wait to take over; unless this is meant, stop the other consumer of queue {queue:?} or choose another queue")
            }
            Self::NotFound { .. } => {
                "the exchange, the queue, or the cluster node that holds it is gone: create it, or bring the node back".into()
            }
            Self::ArgumentMismatch { kind: "queue", name, difference, .. } => format!(
                "{}delete the queue (`rabbitmqctl delete_queue {name}`, its messages are lost) and it is declared anew, or give this lobby another LOBBY_INSTANCE__NAME; with LOBBY_QUEUE__DECLARE=passive it is used as it is",
                difference.as_deref().and_then(as_it_is).unwrap_or_default()
            ),
            Self::ArgumentMismatch { kind, name, .. } => format!(
                "the {kind} must be of type topic and durable: delete {name:?} so that it is declared anew, or choose another LOBBY_BROKER__EXCHANGE"
            ),
            Self::ArgumentRefused { kind, .. } => {
                format!("leave the argument out that the broker names, or give the {kind} another type")
            }
            Self::NameTooLong { what, .. } => format!("shorten the {what}"),
            Self::ChannelClosed { text, .. } if text.contains("acknowledgement") => {
                "a delivery was held for longer than the broker's consumer timeout: look for work that never ends".into()
            }
            Self::ChannelClosed { .. }
            | Self::ConnectionClosed { .. }
            | Self::ConnectionLost { .. }
            | Self::HeartbeatMissed { .. }
            | Self::TimedOut { .. }
            | Self::HandshakeClosed { .. }
            | Self::Cancelled { .. }
            | Self::SelfCheck(_) => return None,
        })
    }

    /// Whether somebody else consumes from the queue: it is free when that one is gone.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        matches!(self, Self::ExclusiveInUse { .. })
    }

    /// Whether the broker ended the consumer, and not the connection: it said so, or the self-check found it out before
    /// that was heard. See [`ConsumerConfig::stop_on_cancel`](crate::ConsumerConfig::stop_on_cancel).
    #[must_use]
    pub fn is_cancel(&self) -> bool {
        matches!(
            self,
            Self::Cancelled { .. } | Self::SelfCheck(SelfCheckFault::Queue | SelfCheckFault::Consumer)
        )
    }

    /// Whether waiting alone will not help: somebody has to change configuration or broker.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::VhostMissing { .. }
            | Self::LoginRefused { .. }
            | Self::VhostRefused { .. }
            | Self::AccessRefused { .. }
            | Self::ArgumentMismatch { .. }
            | Self::ArgumentRefused { .. }
            | Self::TlsSetup(_)
            | Self::NameTooLong { .. } => true,
            Self::Tls { problem, .. } => problem.is_permanent(),
            Self::Credentials(error) => error.is_permanent(),
            // A host that is down may be the one that would accept.
            Self::HostsFailed { failures } => failures.iter().all(Self::is_permanent),
            // A queue whose node is down is there again when the node is.
            Self::NotFound { text, .. } => !text.contains("down or inaccessible"),
            Self::Unreachable { .. }
            | Self::ConnectionLimit { .. }
            | Self::HandshakeClosed { .. }
            | Self::ExclusiveInUse { .. }
            | Self::ChannelClosed { .. }
            | Self::ConnectionClosed { .. }
            | Self::ConnectionLost { .. }
            | Self::HeartbeatMissed { .. }
            | Self::TimedOut { .. }
            | Self::Cancelled { .. }
            | Self::SelfCheck(_) => false,
        }
    }
}

/// Which setting makes the declaration fit what is there.
fn as_it_is(difference: &Difference) -> Option<String> {
    let setting = match difference.argument.as_str() {
        "x-expires" => "LOBBY_QUEUE__EXPIRES",
        "x-message-ttl" => "LOBBY_QUEUE__MESSAGE_TTL",
        "x-max-length" => "LOBBY_QUEUE__MAX_LENGTH",
        "x-max-length-bytes" => "LOBBY_QUEUE__MAX_LENGTH_BYTES",
        "x-overflow" => "LOBBY_QUEUE__OVERFLOW",
        "x-queue-type" => "LOBBY_QUEUE__TYPE",
        "x-single-active-consumer" => "LOBBY_QUEUE__SINGLE_ACTIVE_CONSUMER",
        "x-max-priority" => "LOBBY_QUEUE__MAX_PRIORITY",
        "x-delivery-limit" => "LOBBY_QUEUE__DELIVERY_LIMIT",
        "durable" | "exclusive" | "auto_delete" => "LOBBY_QUEUE__MODE and LOBBY_QUEUE__RELIABLE",
        _ => return None,
    };
    Some(format!("set {setting} to what is there, or "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unreachable(reason: &str) -> ConsumerError {
        ConsumerError::Unreachable { address: "mq:5672".into(), reason: reason.into() }
    }

    fn tls(problem: TlsProblem) -> ConsumerError {
        ConsumerError::Tls { address: "mq:5671".into(), problem, text: String::new() }
    }

    fn login_refused(text: &str) -> ConsumerError {
        ConsumerError::LoginRefused { address: "mq:5672".into(), user: "u".into(), text: text.into() }
    }

    #[test]
    fn a_queue_that_is_gone_is_a_cancel_whoever_notices_first() {
        for fault in SelfCheckFault::ALL {
            let cancel = matches!(fault, SelfCheckFault::Queue | SelfCheckFault::Consumer);
            assert_eq!(ConsumerError::SelfCheck(fault).is_cancel(), cancel, "{fault:?}");
        }
        assert!(ConsumerError::Cancelled { queue: "q".into() }.is_cancel());
        assert!(!unreachable("away").is_cancel());
    }

    #[test]
    fn n01_a_round_names_every_host_and_is_permanent_only_if_all_are() {
        let refused = || login_refused("ACCESS_REFUSED");
        let one = ConsumerError::of_round(vec![refused()]);
        assert_eq!(one, refused());
        let mixed = ConsumerError::of_round(vec![unreachable("timed out"), refused()]);
        let text = mixed.to_string();
        assert!(text.contains("mq:5672 is unreachable: timed out"), "{text}");
        assert!(text.contains("refused user \"u\""), "{text}");
        assert!(!mixed.is_permanent(), "the host that is down may accept");
        let hint = mixed.hint().unwrap();
        assert!(hint.contains("start a broker") && hint.contains("correct user and password"), "{hint}");
        assert!(ConsumerError::of_round(vec![refused(), refused()]).is_permanent());
    }

    #[test]
    fn n17_what_waiting_cannot_cure_is_permanent() {
        let not_found = |text: &str| ConsumerError::NotFound { call: "queue.declare", text: text.into() };
        let address = || "mq:5672".to_owned();
        for (error, permanent) in [
            (unreachable("Connection refused"), false),
            (login_refused(""), true),
            (
                ConsumerError::VhostRefused {
                    address: address(),
                    user: "u".into(),
                    vhost: "v".into(),
                    text: String::new(),
                },
                true,
            ),
            (ConsumerError::ConnectionLimit { address: address(), text: String::new() }, false),
            (ConsumerError::HandshakeClosed { address: address(), code: 541, text: String::new() }, false),
            (tls(TlsProblem::UnknownIssuer), true),
            (tls(TlsProblem::NotTls), false),
            (ConsumerError::TlsSetup(TlsSetupError::HalfAnIdentity), true),
            (not_found("no exchange 'x' in vhost '/'"), true),
            (not_found("home node 'r@a' of durable queue 'q' in vhost '/' is down or inaccessible"), false),
        ] {
            assert_eq!(error.is_permanent(), permanent, "{error}");
        }
        assert!(login_refused("using authentication mechanism EXTERNAL").hint().unwrap().contains("plugin"));
    }

    #[test]
    fn hints_say_what_to_do() {
        let no_broker = unreachable("Connection refused (os error 111)");
        let hint = no_broker.hint().unwrap();
        assert!(hint.contains("cargo xtask run") && hint.contains("docker compose up -d rabbitmq"), "{hint}");
        let untrusted = tls(TlsProblem::UnknownIssuer);
        assert!(untrusted.hint().unwrap().contains("LOBBY_BROKER__TLS_CA_FILE"));
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
