//! What becomes of a delivery, and when a requeue would be one too many. Pure.

use crate::queue_options::{QueueOptions, QueueType};

/// A quorum queue without a limit of its own gives a message back so often. It is RabbitMQ 4's own default.
const QUORUM_REQUEUES: i64 = 20;

/// What a handler makes of a delivery. Each delivery has exactly one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a delivery without an outcome is not settled"]
pub enum Outcome {
    /// Done: the broker forgets it.
    Ack,
    /// Not now: it goes back to its place in the queue and comes again, marked redelivered.
    ///
    /// Once: a message that came again and is asked to be requeued again is rejected instead
    /// ([`ConsumerStats::requeues_refused`](crate::ConsumerStats)), so that nothing circles for ever. A quorum queue
    /// counts: there it is up to the queue's delivery limit, or 20 times if the options name none.
    Requeue,
    /// Never: the broker drops it, or dead-letters it where the queue has a dead-letter exchange.
    Reject,
    /// Ack, or requeue, and then stop the consumer: nothing more is begun, and what is in work is finished.
    Halt {
        /// What [`Stopped::exit_code`](crate::Stopped::exit_code) says then.
        code: u8,
        /// Whether this message is for who consumes next.
        requeue: bool,
    },
}

/// What the broker is told about a delivery. Of several the highest counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Verdict {
    Ack,
    Requeue,
    Reject,
    /// Nothing: it was not worked on, and goes back when the channel closes.
    Leave,
}

impl Verdict {
    pub(crate) const fn from_u8(n: u8) -> Self {
        match n {
            0 => Self::Ack,
            1 => Self::Requeue,
            2 => Self::Reject,
            _ => Self::Leave,
        }
    }
}

/// Whether messages may go back to the queue, by what the queue is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RequeueRule {
    /// Once, by the flag `redelivered`.
    Once,
    /// By the header `x-delivery-count`, up to this number.
    Counted(i64),
    /// The broker knows a limit.
    TheQueues,
}

impl RequeueRule {
    /// The header counts only where the queue is known to write it: on a classic queue it would be the publisher's.
    pub(crate) fn of(options: &QueueOptions) -> Self {
        match (options.queue_type, options.delivery_limit) {
            (Some(QueueType::Quorum), Some(_)) => Self::TheQueues,
            (Some(QueueType::Quorum), None) => Self::Counted(QUORUM_REQUEUES),
            (Some(QueueType::Classic) | None, _) => Self::Once,
        }
    }

    /// Whether a delivery may go back. `count` reads its `x-delivery-count`.
    pub(crate) fn allows(self, redelivered: bool, count: impl FnOnce() -> Option<i64>) -> bool {
        match self {
            _ if !redelivered => true,
            Self::Once => false,
            Self::Counted(most) => count().unwrap_or_default() < most,
            Self::TheQueues => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn n12_k09_a_message_goes_back_once_and_on_quorum_queues_by_count() {
        use RequeueRule::{Counted, Once, TheQueues};
        for (rule, redelivered, count, allowed) in [
            (Once, false, None, true),
            (Once, true, None, false),
            (Once, true, Some(1), false), // a publisher's own header
            (Counted(20), false, None, true),
            (Counted(20), true, None, true), // it came again without a nack, as after a lost connection
            (Counted(20), true, Some(19), true),
            (Counted(20), true, Some(20), false),
            (Counted(20), true, Some(-1), true),
            (TheQueues, false, None, true),
            (TheQueues, true, Some(1000), true),
        ] {
            let allows = rule.allows(redelivered, || count);
            assert_eq!(allows, allowed, "{rule:?}, redelivered {redelivered}, count {count:?}");
        }
    }

    #[test]
    fn n12_only_a_queue_known_to_be_quorum_is_counted() {
        let rule = |queue_type, delivery_limit| {
            RequeueRule::of(&QueueOptions { queue_type, delivery_limit, ..QueueOptions::default() })
        };
        assert_eq!(rule(None, None), RequeueRule::Once);
        assert_eq!(rule(Some(QueueType::Classic), None), RequeueRule::Once);
        assert_eq!(rule(Some(QueueType::Quorum), None), RequeueRule::Counted(20));
        assert_eq!(rule(Some(QueueType::Quorum), Some(3)), RequeueRule::TheQueues);
    }

    #[test]
    fn of_several_verdicts_the_least_settled_counts() {
        let all = [Verdict::Ack, Verdict::Requeue, Verdict::Reject, Verdict::Leave];
        assert!(all.is_sorted());
        assert_eq!(all.map(|verdict| Verdict::from_u8(verdict as u8)), all);
    }
}
