//! The names of queues, checked before the broker sees them.
//!
//! Pure. Usually every lobby instance has its own queue, because every instance must see every message; the
//! name is derived from the exchange and the instance, so the same instance finds its queue again. A queue that
//! instances share has the same name without the instance.

use std::fmt;

/// The longest queue name AMQP can carry, in bytes.
pub const MAX_QUEUE_NAME_BYTES: usize = 255;

/// Returns the name `<exchange>.lobby.client.notify.<instance>`.
///
/// # Errors
/// - [`QueueNameError::EmptyExchange`], [`QueueNameError::EmptyInstance`]: a part is missing.
/// - [`QueueNameError::TooLong`]: the name exceeds 255 bytes; shorten the instance's name.
/// - [`QueueNameError::Reserved`]: the exchange starts with `amq.`, which the broker keeps for itself.
/// - [`QueueNameError::ControlCharacter`]: a part holds a control character.
pub fn instance_queue(exchange: &str, instance: &str) -> Result<QueueName, QueueNameError> {
    if exchange.is_empty() {
        return Err(QueueNameError::EmptyExchange);
    }
    if instance.is_empty() {
        return Err(QueueNameError::EmptyInstance);
    }
    let name = QueueName::new(format!("{exchange}.lobby.client.notify.{instance}"))?;
    Ok(QueueName { instance: Some(instance.into()), ..name })
}

/// Returns the name `<exchange>.lobby.client.notify`, of the queue that all instances share.
///
/// # Errors
/// [`QueueNameError`], as for [`instance_queue`].
pub fn shared_queue(exchange: &str) -> Result<QueueName, QueueNameError> {
    if exchange.is_empty() {
        return Err(QueueNameError::EmptyExchange);
    }
    QueueName::new(format!("{exchange}.lobby.client.notify"))
}

/// A queue name the broker accepts: 1 to 255 bytes, without the reserved prefix `amq.`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct QueueName {
    name: Box<str>,
    instance: Option<Box<str>>,
}

impl QueueName {
    /// Checks a complete name, for queues that do not belong to one instance.
    ///
    /// # Errors
    /// [`QueueNameError`], as for [`instance_queue`]; an empty name counts as an empty exchange,
    /// because the broker would make a name up.
    pub fn new(name: impl Into<String>) -> Result<Self, QueueNameError> {
        let name: String = name.into();
        if name.is_empty() {
            return Err(QueueNameError::EmptyExchange);
        }
        if name.starts_with("amq.") {
            return Err(QueueNameError::Reserved { name });
        }
        if name.chars().any(char::is_control) {
            return Err(QueueNameError::ControlCharacter { name });
        }
        if name.len() > MAX_QUEUE_NAME_BYTES {
            return Err(QueueNameError::TooLong { len: name.len(), max: MAX_QUEUE_NAME_BYTES });
        }
        Ok(Self { name: name.into(), instance: None })
    }

    /// The name as the broker knows it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.name
    }

    /// The instance that the queue belongs to, if it was made by [`instance_queue`].
    #[must_use]
    pub fn instance(&self) -> Option<&str> {
        self.instance.as_deref()
    }
}

impl fmt::Display for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// Why a name cannot be a queue's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QueueNameError {
    /// The exchange's name (or a complete name) is empty.
    #[error("the exchange's name is empty")]
    EmptyExchange,
    /// The instance's name is empty.
    #[error("the instance's name is empty")]
    EmptyInstance,
    /// The name starts with `amq.`.
    #[error("queue name {name:?} starts with `amq.`, which the broker reserves")]
    Reserved {
        /// The refused name.
        name: String,
    },
    /// The name holds a control character.
    #[error("queue name {name:?} contains a control character")]
    ControlCharacter {
        /// The refused name.
        name: String,
    },
    /// The name exceeds AMQP's limit.
    #[error("queue name is {len} bytes, limit {max}")]
    TooLong {
        /// Its length in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_exchange_then_instance() {
        let queue = instance_queue("faf-lobby", "pod-7").unwrap();
        assert_eq!(queue.as_str(), "faf-lobby.lobby.client.notify.pod-7");
        assert_eq!(queue.instance(), Some("pod-7"));
    }

    #[test]
    fn k03_a_shared_queue_is_named_without_an_instance() {
        let queue = shared_queue("faf-lobby").unwrap();
        assert_eq!((queue.as_str(), queue.instance()), ("faf-lobby.lobby.client.notify", None));
        assert_eq!(shared_queue(""), Err(QueueNameError::EmptyExchange));
    }

    #[test]
    fn the_limit_is_255_bytes_not_characters() {
        let fits = 255 - "e.lobby.client.notify.".len();
        assert!(instance_queue("e", &"x".repeat(fits)).is_ok());
        assert_eq!(
            instance_queue("e", &"x".repeat(fits + 1)),
            Err(QueueNameError::TooLong { len: 256, max: 255 })
        );
        assert!(matches!(instance_queue("e", &"é".repeat(fits)), Err(QueueNameError::TooLong { .. })));
    }

    #[test]
    fn refused_names_say_why() {
        assert_eq!(instance_queue("", "a"), Err(QueueNameError::EmptyExchange));
        assert_eq!(instance_queue("a", ""), Err(QueueNameError::EmptyInstance));
        assert!(matches!(instance_queue("amq.topic", "a"), Err(QueueNameError::Reserved { .. })));
        assert!(matches!(instance_queue("a", "b\n"), Err(QueueNameError::ControlCharacter { .. })));
    }
}
