//! Delivery receipts: from what a message asks and what the sessions count to an answer on its way.
//!
//! ```text
//! delivery asks → Asked → frame (counts) → Reach → Receipt → queue (bounded) → publishing connection → reply-to
//! ```
//!
//! Nothing here ever waits on the way of a delivery: a receipt that finds the queue full is dropped and counted.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use futures_util::stream;
use lobby_sessions::{LogGate, Reach};
use notify_amqp::{Delivery, PublishError, Publisher, Reply};
use notify_protocol::{Receipt, ReceiptOutcome, ReceiptRefusal, ReceiptRequest, ReceiptScope};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// The property `type` of a receipt.
const KIND: &str = "lobby.receipt";
/// After receipts that could not be sent: what stands in the queue would fail too.
const PAUSE: Duration = Duration::from_secs(1);

/// What became of receipts.
#[derive(Debug, Default)]
pub struct ReceiptCounts {
    /// Confirmed by the broker, whether or not the reply queue was there.
    pub sent: AtomicU64,
    /// Not confirmed.
    pub failed: AtomicU64,
    /// Dropped, as too many waited.
    pub queue_full: AtomicU64,
    /// Asked for in a way that cannot be answered.
    pub refused: AtomicU64,
    /// Waiting to be sent.
    pub pending: AtomicU64,
}

/// Where receipts are handed in. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ReceiptDesk {
    instance: Arc<str>,
    replies: mpsc::Sender<Reply>,
    counts: Arc<ReceiptCounts>,
}

/// A receipt that a message asks for.
#[derive(Debug)]
pub struct Asked {
    desk: ReceiptDesk,
    scope: ReceiptScope,
    reply_to: String,
    correlation_id: String,
    message_id: Option<String>,
    received_at: Instant,
}

impl ReceiptDesk {
    /// A desk for `instance`, and what is handed in there; at most `max_pending` wait.
    pub fn open(
        instance: &str,
        max_pending: usize,
        counts: Arc<ReceiptCounts>,
    ) -> (Self, mpsc::Receiver<Reply>) {
        let (replies, waiting) = mpsc::channel(max_pending);
        (Self { instance: instance.into(), replies, counts }, waiting)
    }

    /// What the delivery asks for; `None` for nearly all of them, at the cost of a look at one property.
    ///
    /// # Errors
    /// It asks and cannot be answered; counted.
    pub fn asked(&self, delivery: &Delivery) -> Result<Option<Asked>, ReceiptRefusal> {
        // Whoever asks wants an answer somewhere. A header without this property is looked for all the same, if the
        // message has a correlation id: that is a mistake worth a word.
        if delivery.reply_to().is_none() && delivery.correlation_id().is_none() {
            return Ok(None);
        }
        let request =
            ReceiptRequest::read(delivery.headers(), delivery.reply_to(), delivery.correlation_id());
        match request {
            Ok(request) => Ok(request.map(|request| Asked {
                desk: self.clone(),
                scope: request.scope,
                reply_to: request.reply_to.to_owned(),
                correlation_id: request.correlation_id.to_owned(),
                message_id: delivery.message_id().map(str::to_owned),
                received_at: delivery.received_at(),
            })),
            Err(refusal) => {
                self.counts.refused.fetch_add(1, Relaxed);
                Err(refusal)
            }
        }
    }

    fn hand_in(&self, reply: Reply) {
        self.counts.pending.fetch_add(1, Relaxed);
        if self.replies.try_send(reply).is_err() {
            self.counts.pending.fetch_sub(1, Relaxed);
            self.counts.queue_full.fetch_add(1, Relaxed);
        }
    }
}

impl Asked {
    /// Answers, as it is known whom the message reached.
    pub fn reached(self, reach: Reach, took: Duration) {
        self.answer(outcome(reach), None, reach, took);
    }

    /// Answers for a message that is sent to nobody.
    pub fn dropped(self, reason: &str) {
        let took = self.received_at.elapsed();
        self.answer(ReceiptOutcome::Dropped, Some(reason.to_owned()), Reach::default(), took);
    }

    fn answer(self, outcome: ReceiptOutcome, reason: Option<String>, reach: Reach, took: Duration) {
        if outcome == ReceiptOutcome::NotConnected && self.scope != ReceiptScope::All {
            return;
        }
        let receipt = Receipt {
            instance: self.desk.instance.to_string(),
            message_id: self.message_id,
            outcome,
            reason,
            sessions_matched: reach.sessions.into(),
            sessions_written: reach.written().into(),
            sessions_overflowed: reach.overflowed.into(),
            micros: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
        };
        let Self { reply_to, correlation_id, .. } = self;
        self.desk.hand_in(Reply { reply_to, correlation_id, kind: KIND, body: receipt.to_json() });
    }
}

/// The one word for what the sessions counted.
fn outcome(reach: Reach) -> ReceiptOutcome {
    match (reach.sessions, reach.written(), reach.overflowed) {
        (0, ..) => ReceiptOutcome::NotConnected,
        (_, 1.., _) => ReceiptOutcome::Written,
        (_, _, 1..) => ReceiptOutcome::Overflowed,
        (_, 0, 0) => ReceiptOutcome::Disconnected,
    }
}

/// Sends what is handed in until `last_call`, then what still waits.
pub async fn send(
    publisher: Publisher,
    waiting: mpsc::Receiver<Reply>,
    counts: Arc<ReceiptCounts>,
    last_call: CancellationToken,
) {
    let source = stream::unfold((waiting, last_call.clone()), |(mut waiting, last_call)| async move {
        let next = tokio::select! {
            biased;
            reply = waiting.recv() => reply,
            () = last_call.cancelled() => {
                waiting.close();
                waiting.recv().await
            }
        };
        next.map(|reply| (reply, (waiting, last_call)))
    });
    let mut log_gate = LogGate::new(1);
    let mut outcomes = publisher.send_replies(source);
    let mut failed = false;
    loop {
        let told = if failed { outcomes.try_next() } else { None };
        if told.is_none() && std::mem::take(&mut failed) {
            // One at a time would cost a connection each; one pause for all that failed together, or receipts expire.
            let _ = timeout(PAUSE, last_call.cancelled()).await;
        }
        let outcome = if told.is_some() { told } else { outcomes.next().await };
        let Some(outcome) = outcome else { break };
        counts.pending.fetch_sub(1, Relaxed);
        let Err(error) = outcome else {
            counts.sent.fetch_add(1, Relaxed);
            continue;
        };
        counts.failed.fetch_add(1, Relaxed);
        if let Some(suppressed) = log_gate.pass(Instant::now()) {
            let hint = match error {
                PublishError::AccessRefused { .. } => {
                    "allow the lobby's user to write to amq.default, or switch receipts off (receipts.enabled)"
                }
                _ => "",
            };
            warn!(%error, suppressed, hint, "receipt not sent");
        }
        failed = true;
    }
    drop(outcomes);
    publisher.close().await;
    // Lets lapin's thread see the end of its connection before the runtime goes.
    sleep(Duration::ZERO).await;
}

#[cfg(test)]
mod tests {
    use notify_amqp::{BrokerConfig, BrokerUrl, PublisherConfig};

    use super::*;

    const TOOK: Duration = Duration::from_micros(1_500);

    fn reach(sessions: u32, written: u32, overflowed: u32) -> Reach {
        Reach { sessions, overflowed, cut_off: sessions - written - overflowed }
    }

    fn asked(desk: &ReceiptDesk, scope: ReceiptScope) -> Asked {
        Asked {
            desk: desk.clone(),
            scope,
            reply_to: "amq.gen-1".into(),
            correlation_id: "c".into(),
            message_id: Some("m".into()),
            received_at: Instant::now(),
        }
    }

    fn desk(max_pending: usize) -> (ReceiptDesk, mpsc::Receiver<Reply>, Arc<ReceiptCounts>) {
        let counts = Arc::new(ReceiptCounts::default());
        let (desk, waiting) = ReceiptDesk::open("pod-7", max_pending, counts.clone());
        (desk, waiting, counts)
    }

    #[test]
    fn one_word_says_what_the_counts_mean() {
        for (counted, word) in [
            (reach(0, 0, 0), ReceiptOutcome::NotConnected),
            (reach(1, 1, 0), ReceiptOutcome::Written),
            (reach(3, 1, 2), ReceiptOutcome::Written),
            (reach(2, 0, 1), ReceiptOutcome::Overflowed),
            (reach(1, 0, 0), ReceiptOutcome::Disconnected),
        ] {
            assert_eq!(outcome(counted), word, "{counted:?}");
        }
    }

    #[test]
    fn a_receipt_names_lobby_message_and_counts() {
        let (desk, mut waiting, _) = desk(10);
        asked(&desk, ReceiptScope::WrittenOnly).answer(ReceiptOutcome::Written, None, reach(3, 2, 1), TOOK);
        let reply = waiting.try_recv().expect("a receipt");
        assert_eq!((reply.reply_to.as_str(), reply.correlation_id.as_str()), ("amq.gen-1", "c"));
        let wanted = r#"{"instance":"pod-7","message_id":"m","outcome":"written","sessions_matched":3,"sessions_written":2,"sessions_overflowed":1,"micros":1500}"#;
        assert_eq!(String::from_utf8(reply.body).as_deref(), Ok(wanted));
        asked(&desk, ReceiptScope::WrittenOnly).dropped("non_json");
        let receipt = Receipt::from_json(&waiting.try_recv().expect("a receipt").body).expect("JSON");
        assert_eq!((receipt.outcome, receipt.reason.as_deref()), (ReceiptOutcome::Dropped, Some("non_json")));
    }

    #[test]
    fn a_lobby_without_the_user_answers_only_when_all_are_asked() {
        let (desk, mut waiting, _) = desk(10);
        asked(&desk, ReceiptScope::WrittenOnly).answer(
            ReceiptOutcome::NotConnected,
            None,
            reach(0, 0, 0),
            TOOK,
        );
        assert!(waiting.try_recv().is_err());
        asked(&desk, ReceiptScope::All).answer(ReceiptOutcome::NotConnected, None, reach(0, 0, 0), TOOK);
        assert!(waiting.try_recv().is_ok());
    }

    #[test]
    fn one_receipt_too_many_is_dropped_and_counted_and_waits_for_nothing() {
        let (desk, mut waiting, counts) = desk(2);
        for _ in 0..5 {
            asked(&desk, ReceiptScope::All).dropped("non_json");
        }
        assert_eq!((counts.pending.load(Relaxed), counts.queue_full.load(Relaxed)), (2, 3));
        assert!(waiting.try_recv().is_ok());
    }

    #[tokio::test]
    async fn receipts_that_fail_together_cost_one_pause() {
        const MANY: usize = 20;
        // Nobody listens there.
        let broker =
            BrokerConfig::new(BrokerUrl::parse("amqp://guest:guest@127.0.0.1:1/").expect("a URL"), "test");
        let publisher = Publisher::new(PublisherConfig::new(broker, "e")).expect("a publisher");
        let (desk, waiting, counts) = desk(MANY);
        for _ in 0..MANY {
            asked(&desk, ReceiptScope::All).dropped("non_json");
        }
        drop(desk);
        let start = Instant::now();
        send(publisher, waiting, counts.clone(), CancellationToken::new()).await;
        assert_eq!(counts.failed.load(Relaxed), MANY as u64);
        assert!(start.elapsed() < PAUSE * MANY as u32 / 2, "{:?}", start.elapsed());
    }
}
