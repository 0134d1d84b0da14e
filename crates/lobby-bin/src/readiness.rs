//! Whether this instance should get players: it consumes, and it is not draining.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use notify_amqp::ConsumerStatus;
use serde_json::{Value, json};
use tokio::sync::watch;

/// Answers the question of `/ready`.
#[derive(Debug, Clone)]
pub struct Readiness {
    consumer: watch::Receiver<ConsumerStatus>,
    draining: Arc<AtomicBool>,
}

impl Readiness {
    /// Follows the consumer.
    pub fn new(consumer: watch::Receiver<ConsumerStatus>) -> Self {
        Self { consumer, draining: Arc::default() }
    }

    /// Makes the answer no, for good.
    pub fn begin_drain(&self) {
        self.draining.store(true, Relaxed);
    }

    /// The answer, and its reason as JSON. No secret stands in it.
    pub fn check(&self) -> (bool, Value) {
        if self.draining.load(Relaxed) {
            return (false, json!({"ready": false, "reason": "the lobby is draining"}));
        }
        let status = self.consumer.borrow();
        let reason = match &*status {
            ConsumerStatus::Consuming { queue, host, .. } => {
                return (true, json!({"ready": true, "queue": &**queue, "host": &**host}));
            }
            ConsumerStatus::Connecting { attempt } => format!("connecting to the broker, attempt {attempt}"),
            ConsumerStatus::Waiting { error, hint, attempt, retry_in } => {
                let reason = format!("not consuming: {error}");
                return (
                    false,
                    json!({"ready": false, "reason": reason, "hint": hint, "attempt": attempt,
                        "retry_in_ms": u64::try_from(retry_in.as_millis()).unwrap_or(u64::MAX)}),
                );
            }
            _ => "the consumer has stopped".to_owned(),
        };
        (false, json!({"ready": false, "reason": reason}))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn only_a_consuming_lobby_that_does_not_drain_is_ready() {
        let (status, receiver) = watch::channel(ConsumerStatus::Connecting { attempt: 3 });
        let readiness = Readiness::new(receiver);
        let (ready, why) = readiness.check();
        assert!(!ready && why["reason"].as_str().is_some_and(|r| r.contains("attempt 3")), "{why}");
        let (queue, host, since) = ("q".into(), "mq:5672".into(), Instant::now());
        status.send_replace(ConsumerStatus::Consuming { queue, host, since });
        assert_eq!(readiness.check(), (true, json!({"ready": true, "queue": "q", "host": "mq:5672"})));
        readiness.begin_drain();
        assert!(!readiness.check().0);
    }
}
