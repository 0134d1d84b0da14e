//! Whether the start has failed: what the broker refuses for good is not waited out.
//!
//! Until it has consumed for the first time, a lobby ends with an exit code of the cause's own when the broker or the
//! configuration has to be changed, and when `broker.startup_timeout` is over. Later it turns unready and keeps trying.

use std::{future::pending, time::Duration};

use notify_amqp::{ConsumerError, ConsumerStatus};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use crate::Failure;

/// How long the lobby may take to consume for the first time.
#[derive(Debug, Clone, Copy)]
pub struct Startup {
    pub began: Instant,
    /// Zero means for ever.
    pub timeout: Duration,
}

impl Startup {
    /// Returns when the start has failed; never, once the lobby consumes.
    pub async fn failed(self, mut status: watch::Receiver<ConsumerStatus>) -> Failure {
        let mut last = None;
        let timeout = async {
            match self.timeout {
                Duration::ZERO => pending().await,
                timeout => sleep_until(self.began + timeout).await,
            }
        };
        tokio::pin!(timeout);
        loop {
            let verdict = judge(&status.borrow_and_update());
            match verdict {
                Verdict::TooEarly => {}
                Verdict::NotYet(error) => last = Some(error),
                Verdict::Never(failure) => return failure,
                Verdict::Succeeded => return pending().await,
            }
            let changed = tokio::select! {
                changed = status.changed() => changed,
                () = &mut timeout => {
                    let error = last.unwrap_or_else(|| anyhow::anyhow!("the broker did not answer"));
                    let context = format!("not consuming after {:?} (`broker.startup_timeout`)", self.timeout);
                    return Failure { code: Failure::UNAVAILABLE, error: error.context(context) };
                }
            };
            if changed.is_err() {
                return pending().await;
            }
        }
    }
}

/// What a status says about the start.
enum Verdict {
    TooEarly,
    /// It failed, and waiting may help.
    NotYet(anyhow::Error),
    /// It failed, and waiting will not help.
    Never(Failure),
    Succeeded,
}

fn judge(status: &ConsumerStatus) -> Verdict {
    match status {
        ConsumerStatus::Connecting { .. } => Verdict::TooEarly,
        ConsumerStatus::Waiting { error, hint, .. } if error.is_permanent() => {
            Verdict::Never(Failure { code: exit_code(error), error: told(error, hint.as_deref()) })
        }
        ConsumerStatus::Waiting { error, hint, .. } => Verdict::NotYet(told(error, hint.as_deref())),
        _ => Verdict::Succeeded,
    }
}

pub(crate) fn told(error: &ConsumerError, hint: Option<&str>) -> anyhow::Error {
    match hint {
        Some(hint) => anyhow::anyhow!("{error}: {hint}"),
        None => anyhow::anyhow!("{error}"),
    }
}

/// One code for each cause; of several hosts the first one's.
pub(crate) fn exit_code(error: &ConsumerError) -> u8 {
    match error {
        ConsumerError::HostsFailed { failures } => failures.first().map_or(Failure::UNAVAILABLE, exit_code),
        ConsumerError::ArgumentMismatch { .. } => Failure::MISMATCH,
        ConsumerError::NotFound { .. } => Failure::NOT_FOUND,
        ConsumerError::LoginRefused { .. } => Failure::LOGIN,
        ConsumerError::VhostMissing { .. } => Failure::VHOST,
        ConsumerError::Tls { .. } => Failure::TLS,
        ConsumerError::VhostRefused { .. } | ConsumerError::AccessRefused { .. } => Failure::PERMISSION,
        ConsumerError::TlsSetup(_)
        | ConsumerError::Credentials(_)
        | ConsumerError::ArgumentRefused { .. }
        | ConsumerError::NameTooLong { .. } => Failure::CONFIG,
        _ => Failure::UNAVAILABLE,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn waiting(error: ConsumerError) -> ConsumerStatus {
        let hint = error.hint();
        ConsumerStatus::Waiting { error: Arc::new(error), hint, attempt: 1, retry_in: Duration::ZERO }
    }

    fn refused() -> ConsumerError {
        ConsumerError::LoginRefused {
            address: "mq:5672".into(),
            user: "u".into(),
            text: "ACCESS_REFUSED".into(),
        }
    }

    fn unreachable() -> ConsumerError {
        ConsumerError::Unreachable { address: "mq:5672".into(), reason: "refused".into() }
    }

    fn startup(timeout: Duration) -> Startup {
        Startup { began: Instant::now(), timeout }
    }

    async fn goes_on(startup: Startup, status: &watch::Receiver<ConsumerStatus>) -> bool {
        tokio::time::timeout(Duration::from_millis(50), startup.failed(status.clone())).await.is_err()
    }

    #[tokio::test]
    async fn m12_a_start_fails_at_once_for_good_reasons_only() {
        let (_sender, status) = watch::channel(waiting(refused()));
        let failure = startup(Duration::ZERO).failed(status).await;
        assert_eq!(failure.code, 67);
        assert!(failure.error.to_string().contains("correct user and password"), "{:#}", failure.error);
        let (_sender, status) = watch::channel(waiting(unreachable()));
        assert!(goes_on(startup(Duration::ZERO), &status).await, "0 keeps trying");
    }

    #[tokio::test]
    async fn m12_a_start_that_takes_too_long_fails_with_the_last_reason() {
        let (_sender, status) = watch::channel(waiting(unreachable()));
        let failure = startup(Duration::from_millis(20)).failed(status).await;
        assert_eq!(failure.code, 69);
        let text = format!("{:#}", failure.error);
        assert!(text.contains("broker.startup_timeout") && text.contains("mq:5672"), "{text}");
    }

    #[tokio::test]
    async fn m12_once_it_has_consumed_nothing_ends_it() {
        let consuming = ConsumerStatus::Consuming {
            queue: "q".into(),
            host: "mq:5672".into(),
            since: std::time::Instant::now(),
        };
        let (sender, status) = watch::channel(consuming);
        let failed = tokio::spawn(startup(Duration::from_millis(1)).failed(status));
        tokio::task::yield_now().await;
        sender.send_replace(waiting(refused()));
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!failed.is_finished());
    }

    #[test]
    fn n16_each_cause_has_its_own_exit_code() {
        let (address, user, vhost, text) =
            ("mq:5672".to_owned(), "u".to_owned(), "v".to_owned(), String::new());
        let missing = ConsumerError::VhostMissing {
            address: address.clone(),
            vhost: vhost.clone(),
            text: text.clone(),
        };
        let forbidden = ConsumerError::VhostRefused { address, user, vhost, text: text.clone() };
        for (error, code) in [
            (refused(), 67),
            (missing.clone(), 68),
            (unreachable(), 69),
            (forbidden, 77),
            (ConsumerError::NotFound { call: "queue.bind", text: text.clone() }, 66),
            (ConsumerError::ArgumentMismatch { kind: "queue", name: "q".into(), difference: None, text }, 65),
            (ConsumerError::TlsSetup(notify_amqp::TlsSetupError::HalfAnIdentity), 78),
            (
                ConsumerError::Tls {
                    address: "mq:5671".into(),
                    problem: notify_amqp::TlsProblem::Expired,
                    text: String::new(),
                },
                76,
            ),
            (ConsumerError::HostsFailed { failures: vec![missing, refused()] }, 68),
        ] {
            assert_eq!(exit_code(&error), code, "{error}");
        }
    }
}
