//! Where a delivery's span is opened, and handed in when the message is done with.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use lobby_sessions::Reach;
use notify_amqp::Delivery;
use notify_protocol::{HeaderValue, TRACEPARENT_HEADER};
use tokio::sync::mpsc;

use super::{
    SpanCounts,
    context::{sampled_parent, with_state},
    span::{Ended, Seen},
};
use crate::trace::Verdict;

/// The header that goes with [`TRACEPARENT_HEADER`] (W3C Trace Context, 3.3).
const TRACESTATE_HEADER: &[u8] = b"tracestate";

/// Opens spans. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SpanDesk {
    ended: mpsc::Sender<Ended>,
    counts: Arc<SpanCounts>,
}

/// The span of a message that is on its way. If it is dropped, so is the span.
#[derive(Debug)]
pub struct OpenSpan {
    desk: SpanDesk,
    seen: Seen,
    received_at: Instant,
    verdict: Verdict,
    dispatched: Option<Duration>,
}

impl SpanDesk {
    /// A desk, and what is handed in there; at most `max_pending` wait.
    pub fn open_desk(max_pending: usize, counts: Arc<SpanCounts>) -> (Self, mpsc::Receiver<Ended>) {
        let (ended, waiting) = mpsc::channel(max_pending);
        (Self { ended, counts }, waiting)
    }

    /// The delivery's span; `None` unless it has a sampled `traceparent`, at the cost of a look at the headers' names.
    pub fn open(&self, delivery: &Delivery) -> Option<OpenSpan> {
        let parent = sampled_parent(header(delivery, TRACEPARENT_HEADER.as_bytes())?)?;
        let parent = match header(delivery, TRACESTATE_HEADER) {
            Some(state) => with_state(&parent, state),
            None => parent,
        };
        Some(OpenSpan {
            desk: self.clone(),
            seen: Seen::of(delivery, parent),
            received_at: delivery.received_at(),
            verdict: Verdict::Everyone,
            dispatched: None,
        })
    }

    fn hand_in(&self, ended: Ended) {
        self.counts.pending.fetch_add(1, Relaxed);
        if self.ended.try_send(ended).is_err() {
            self.counts.pending.fetch_sub(1, Relaxed);
            self.counts.queue_full.fetch_add(1, Relaxed);
        }
    }
}

impl OpenSpan {
    /// Notes that the message is being handed to the shards.
    #[must_use]
    pub fn dispatched(mut self, verdict: Verdict) -> Self {
        self.verdict = verdict;
        self.dispatched = Some(self.received_at.elapsed());
        self
    }

    /// Ends it `took` after the delivery, when the last session has let go of the message. Returns at once.
    pub fn written(self, reach: Reach, took: Duration) {
        self.end(Some(reach), took, None);
    }

    /// Ends it now: the message is sent to nobody.
    pub fn dropped(mut self, verdict: Verdict, detail: &str) {
        self.verdict = verdict;
        let took = self.received_at.elapsed();
        self.end(None, took, Some(detail.to_owned()));
    }

    fn end(self, reach: Option<Reach>, took: Duration, detail: Option<String>) {
        let Self { desk, seen, received_at: _, verdict, dispatched } = self;
        desk.hand_in(Ended { seen, verdict, reach, dispatched, took, detail });
    }
}

fn header<'a>(delivery: &'a Delivery, wanted: &[u8]) -> Option<&'a [u8]> {
    delivery.headers().find_map(|(name, value)| match value {
        HeaderValue::LongString(text) if name == wanted => Some(text),
        _ => None,
    })
}
