//! Whether this instance should get players: it consumes, messages come through, and it is not draining.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use notify_amqp::{ConsumerError, ConsumerFailure, ConsumerStatus, SelfCheck, SelfCheckVerdict};
use serde_json::{Value, json};
use tokio::sync::watch;

/// Answers the question of `/ready`.
#[derive(Debug, Clone)]
pub struct Readiness {
    consumer: watch::Receiver<ConsumerStatus>,
    self_check: Option<SelfCheck>,
    draining: Arc<AtomicBool>,
}

impl Readiness {
    /// Follows the consumer, and its self-check where there is one.
    pub fn new(consumer: watch::Receiver<ConsumerStatus>, self_check: Option<SelfCheck>) -> Self {
        Self { consumer, self_check, draining: Arc::default() }
    }

    /// Makes the answer no, for good.
    pub fn begin_drain(&self) {
        self.draining.store(true, Relaxed);
    }

    /// Whether [`Self::begin_drain`] was called.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    /// The answer, and its reason as JSON. No secret stands in it.
    pub fn check(&self) -> (bool, Value) {
        if self.is_draining() {
            return (false, json!({"ready": false, "reason": "the lobby is draining"}));
        }
        let status = self.consumer.borrow();
        let reason = match &*status {
            ConsumerStatus::Consuming { queue, host, .. } => {
                return judge(queue, host, self.self_check.as_ref().map(SelfCheck::verdict).as_ref());
            }
            ConsumerStatus::Connecting { attempt, after: None } => {
                format!("connecting to the broker, attempt {attempt}")
            }
            // Why stands there while the next attempt is under way, too: it may take as long as the wait before it.
            ConsumerStatus::Connecting { attempt, after: Some(ConsumerFailure { error, hint }) } => {
                return not_consuming(
                    error,
                    hint.as_deref(),
                    attempt.saturating_sub(1).max(1),
                    Duration::ZERO,
                );
            }
            ConsumerStatus::Waiting { error, hint, attempt, retry_in } => {
                return not_consuming(error, hint.as_deref(), *attempt, *retry_in);
            }
            _ => "the consumer has stopped".to_owned(),
        };
        (false, json!({"ready": false, "reason": reason}))
    }
}

fn not_consuming(
    error: &ConsumerError,
    hint: Option<&str>,
    attempt: u32,
    retry_in: Duration,
) -> (bool, Value) {
    let why = json!({
        "ready": false,
        "reason": format!("not consuming: {error}"),
        "hint": hint,
        "attempt": attempt,
        "retry_in_ms": u64::try_from(retry_in.as_millis()).unwrap_or(u64::MAX),
    });
    (false, why)
}

/// What the self-check adds to a consumer that consumes: only what is known to be deaf is not ready.
fn judge(queue: &str, host: &str, verdict: Option<&SelfCheckVerdict>) -> (bool, Value) {
    let word = match verdict {
        Some(SelfCheckVerdict::Deaf { quiet }) => {
            let reason = format!(
                "connected to {host}, but nothing has come through queue {queue} for {} s, not even the self-check's canaries",
                quiet.as_secs()
            );
            return (false, json!({"ready": false, "reason": reason, "queue": queue, "host": host}));
        }
        Some(SelfCheckVerdict::Unknown { hindrance }) => format!("unknown: {hindrance}"),
        Some(SelfCheckVerdict::Busy) => {
            "busy: as many messages are in work as the prefetch allows".to_owned()
        }
        Some(_) => "ok".to_owned(),
        None => "off".to_owned(),
    };
    (true, json!({"ready": true, "queue": queue, "host": host, "self_check": word}))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use notify_amqp::Hindrance;

    use super::*;

    #[test]
    fn only_a_consuming_lobby_that_does_not_drain_is_ready() {
        let (status, receiver) = watch::channel(ConsumerStatus::Connecting { attempt: 3, after: None });
        let readiness = Readiness::new(receiver, None);
        let (ready, why) = readiness.check();
        assert!(!ready && why["reason"].as_str().is_some_and(|r| r.contains("attempt 3")), "{why}");
        let (queue, host, since) = ("q".into(), "mq:5672".into(), Instant::now());
        status.send_replace(ConsumerStatus::Consuming { queue, host, since });
        let off = json!({"ready": true, "queue": "q", "host": "mq:5672", "self_check": "off"});
        assert_eq!(readiness.check(), (true, off));
        readiness.begin_drain();
        assert!(!readiness.check().0);
    }

    #[test]
    fn why_it_does_not_consume_stands_there_while_it_waits_and_while_it_tries_again() {
        let silent = || ConsumerError::HeartbeatMissed { silent: Duration::from_secs(9) };
        let failure = ConsumerFailure { error: Arc::new(silent()), hint: Some("look at the link".into()) };
        let ConsumerFailure { error, hint } = failure.clone();
        let told = |retry_in_ms| {
            let reason = format!("not consuming: {}", silent());
            json!({"ready": false, "reason": reason, "hint": "look at the link", "attempt": 2, "retry_in_ms": retry_in_ms})
        };
        let retry_in = Duration::from_millis(400);
        let (status, receiver) =
            watch::channel(ConsumerStatus::Waiting { error, hint, attempt: 2, retry_in });
        let readiness = Readiness::new(receiver, None);
        assert_eq!(readiness.check(), (false, told(400)));
        status.send_replace(ConsumerStatus::Connecting { attempt: 3, after: Some(failure) });
        assert_eq!(readiness.check(), (false, told(0)));
    }

    #[test]
    fn m11_a_consumer_that_is_known_to_be_deaf_is_not_ready_and_what_is_unknown_changes_nothing() {
        let deaf = SelfCheckVerdict::Deaf { quiet: Duration::from_secs(11) };
        let (ready, why) = judge("q", "mq:5672", Some(&deaf));
        let reason = why["reason"].as_str().unwrap_or_default();
        assert!(!ready && reason.contains("queue q for 11 s") && reason.contains("mq:5672"), "{why}");
        let blocked = SelfCheckVerdict::Unknown { hindrance: Hindrance::Blocked };
        let (ready, why) = judge("q", "mq:5672", Some(&blocked));
        assert!(
            ready && why["self_check"].as_str().is_some_and(|word| word.contains("blocks publishers")),
            "{why}"
        );
        assert_eq!(judge("q", "mq:5672", Some(&SelfCheckVerdict::Hears)).1["self_check"], "ok");
    }
}
