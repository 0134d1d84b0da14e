//! The canary: a message that the consumer publishes to its own queue, to see whether it comes through.
//!
//! Pure. A canary is known by its routing key, which only one queue is bound to. Its body is no JSON, so that even a
//! lobby that does not know canaries forwards none to a client.

use crate::{delivery::Delivery, queue_name::QueueName};

/// What every canary's routing key begins with.
const KEY_PREFIX: &str = "lobby.canary.";

/// The routing key of a queue's canaries: `lobby.canary.` and the instance, or the queue's name where the queue is no
/// instance's. The queue is bound to it beside its other keys.
#[must_use]
pub fn canary_key(queue: &QueueName) -> String {
    let whose = queue.instance().unwrap_or_else(|| queue.as_str());
    // As words of a binding's key these two would match the canaries of others.
    KEY_PREFIX.to_owned() + &whose.replace('*', "%2a").replace('#', "%23")
}

/// The canaries of one consumer.
#[derive(Debug)]
pub(crate) struct Canary {
    key: String,
    /// Tells this process's canaries from those that an earlier one left in the queue.
    nonce: u64,
}

impl Canary {
    pub(crate) fn new(queue: &QueueName, nonce: u64) -> Self {
        Self { key: canary_key(queue), nonce }
    }

    /// The routing key to publish with.
    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// The body of canary `number`.
    pub(crate) fn body(&self, number: u64) -> String {
        format!("canary {:016x} {number}", self.nonce)
    }

    /// Whether the delivery is a canary, of whichever process.
    pub(crate) fn is(&self, delivery: &Delivery) -> bool {
        delivery.routing_key() == self.key
    }

    /// Whether this process published the canary with this body.
    pub(crate) fn is_own(&self, body: &[u8]) -> bool {
        let words = std::str::from_utf8(body).ok().and_then(|text| text.strip_prefix("canary "));
        let nonce = words.and_then(|words| words.split_once(' ')).map(|(nonce, _)| nonce);
        nonce.and_then(|nonce| u64::from_str_radix(nonce, 16).ok()) == Some(self.nonce)
    }
}

#[cfg(test)]
mod tests {
    use notify_protocol::{Limits, decode};

    use super::*;
    use crate::queue_name::instance_queue;

    fn key(instance: &str) -> String {
        canary_key(&instance_queue("e", instance).unwrap())
    }

    #[test]
    fn every_instance_has_a_key_that_matches_no_other() {
        assert_eq!(key("pod-7"), "lobby.canary.pod-7");
        assert_eq!(key("eu.pod-7"), "lobby.canary.eu.pod-7");
        for wild in ["*", "#", "eu.#", "*.pod-7"] {
            assert!(!key(wild).contains(['*', '#']), "{wild}");
        }
        assert_eq!(canary_key(&QueueName::new("jobs").unwrap()), "lobby.canary.jobs");
    }

    #[test]
    fn a_process_knows_its_own_canaries_and_those_of_others() {
        let queue = instance_queue("e", "pod-7").unwrap();
        let (ours, theirs) = (Canary::new(&queue, 7), Canary::new(&queue, 8));
        for (body, own) in [
            (ours.body(1), true),
            (ours.body(u64::MAX), true),
            (theirs.body(1), false),
            (String::new(), false),
            ("canary".into(), false),
            ("canary x y".into(), false),
        ] {
            assert_eq!(ours.is_own(body.as_bytes()), own, "{body}");
            assert!(ours.is(&Delivery::detached("lobby.canary.pod-7", body.into_bytes())));
        }
        assert!(!ours.is(&Delivery::detached("request.client.notify", ours.body(1).into_bytes())));
    }

    #[test]
    fn a_canary_that_meets_a_decoder_reaches_nobody() {
        let canary = Canary::new(&instance_queue("e", "pod-7").unwrap(), 7).body(1);
        assert!(decode([].into_iter(), canary.as_bytes(), &Limits::default()).is_err());
    }
}
