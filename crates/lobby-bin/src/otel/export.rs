//! The task that sends spans in batches. Whatever the collector does, only spans are lost, and each is counted.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use lobby_sessions::LogGate;
use opentelemetry::{InstrumentationScope, trace::SpanId};
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    SpanCounts,
    collector::{Answer, Collector},
    desk::SpanDesk,
    span::{Ended, span},
};
use crate::config::{Config, topology};

/// Spans that one request carries.
pub const BATCH: usize = 512;
/// How long a span waits for others to go with.
const DELAY: Duration = Duration::from_secs(1);
/// After a batch that was not taken.
const PAUSE: Duration = Duration::from_secs(1);
/// How long the end of the lobby may wait for the last spans.
const FLUSH: Duration = Duration::from_secs(2);
/// Between two log lines about spans that are lost.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// What became of spans, and the task that exports them where `otel.endpoint` is set.
#[derive(Debug)]
pub struct Spans {
    counts: Arc<SpanCounts>,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    last_call: CancellationToken,
    exporting: JoinHandle<()>,
}

impl Spans {
    /// Starts it on this runtime; the desk is where spans are opened.
    ///
    /// # Errors
    /// No HTTP client can be made.
    pub fn start(config: &Config) -> anyhow::Result<(Self, Option<SpanDesk>)> {
        let counts = Arc::<SpanCounts>::default();
        if config.otel.endpoint.is_empty() {
            return Ok((Self { counts, running: None }, None));
        }
        let last_call = CancellationToken::new();
        let (desk, waiting) = SpanDesk::open_desk(config.otel.max_pending, Arc::clone(&counts));
        let exporting = Export {
            collector: Collector::new(config)?,
            counts: Arc::clone(&counts),
            queue: topology(config)?.queue.as_str().to_owned(),
            scope: InstrumentationScope::builder("lobby").with_version(env!("CARGO_PKG_VERSION")).build(),
            limit: config.otel.timeout,
            told: Told::new(),
        };
        let exporting = tokio::spawn(exporting.run(waiting, last_call.clone()));
        Ok((Self { counts, running: Some(Running { last_call, exporting }) }, Some(desk)))
    }

    /// For the metrics.
    pub fn counts(&self) -> Arc<SpanCounts> {
        Arc::clone(&self.counts)
    }

    /// Exports what still waits, for at most `limit` and two seconds.
    pub async fn finish(self, limit: Duration) {
        let Some(Running { last_call, mut exporting }) = self.running else { return };
        last_call.cancel();
        if timeout(limit.min(FLUSH), &mut exporting).await.is_err() {
            exporting.abort();
        }
        let lost = self.counts.pending.load(Relaxed);
        if lost > 0 {
            warn!(lost, "the last spans were not exported in time");
        }
    }
}

struct Export {
    collector: Collector,
    counts: Arc<SpanCounts>,
    queue: String,
    scope: InstrumentationScope,
    limit: Duration,
    told: Told,
}

/// What the log has said about spans that were lost.
struct Told {
    gate: LogGate,
    lost: Lost,
    failing: bool,
    /// Why a batch was not taken, kept until a line has said it.
    trouble: String,
}

/// Counts of spans that were lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Lost {
    failed: u64,
    queue_full: u64,
}

/// A line of the log.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    /// Why, and how many since the last such line.
    Lost(String, Lost),
    Again,
}

impl Told {
    fn new() -> Self {
        let gate = LogGate::every(LOG_INTERVAL);
        Self { gate, lost: Lost::default(), failing: false, trouble: String::new() }
    }

    /// What to say after a batch: it failed for that reason or was taken, and so many are `lost` since the start.
    fn line(&mut self, failure: Option<&str>, lost: Lost, now: std::time::Instant) -> Option<Line> {
        if let Some(trouble) = failure {
            trouble.clone_into(&mut self.trouble);
        }
        let more = Lost {
            failed: lost.failed - self.lost.failed,
            queue_full: lost.queue_full - self.lost.queue_full,
        };
        if more == Lost::default() {
            let again = failure.is_none() && std::mem::take(&mut self.failing);
            return again.then_some(Line::Again);
        }
        self.gate.pass(now)?;
        (self.lost, self.failing) = (lost, true);
        let trouble = std::mem::take(&mut self.trouble);
        // While a collector takes nothing, the queue fills: the failure is what to mend.
        let queue_full = "more came than were exported: raise otel.max_pending, or sample fewer";
        Some(Line::Lost(if more.failed > 0 { trouble } else { queue_full.to_owned() }, more))
    }
}

impl Export {
    async fn run(mut self, mut waiting: mpsc::Receiver<Ended>, last_call: CancellationToken) {
        let mut batch = Vec::new();
        while fill(&mut batch, &mut waiting, &last_call).await {
            let count = batch.len() as u64;
            let spans = batch.drain(..).map(|ended| self.span(ended)).collect();
            // The exporter keeps to the limit too; this one holds whatever it does.
            let sent = timeout(self.limit, self.collector.exporter.export(spans)).await;
            let taken = matches!(sent, Ok(Ok(())));
            let Answer { rejected, trouble } = self.collector.heard.take();
            let lost = if taken { rejected.min(count) } else { count };
            self.counts.pending.fetch_sub(count, Relaxed);
            self.counts.failed.fetch_add(lost, Relaxed);
            self.counts.exported.fetch_add(count - lost, Relaxed);
            self.tell((lost > 0).then_some(if trouble.is_empty() { "no answer in time" } else { &trouble }));
            if !taken {
                if last_call.is_cancelled() {
                    break;
                }
                let _ = timeout(PAUSE, last_call.cancelled()).await;
            }
        }
        // Lets the connection's task see the end before the runtime goes.
        sleep(Duration::ZERO).await;
    }

    fn span(&self, ended: Ended) -> SpanData {
        // 0 is no id.
        span(ended, SpanId::from(fastrand::u64(1..)), &self.queue, &self.scope)
    }

    fn tell(&mut self, failure: Option<&str>) {
        let lost = Lost {
            failed: self.counts.failed.load(Relaxed),
            queue_full: self.counts.queue_full.load(Relaxed),
        };
        match self.told.line(failure, lost, std::time::Instant::now()) {
            Some(Line::Lost(error, Lost { failed, queue_full })) => {
                warn!(error, lost = failed + queue_full, failed, queue_full, "spans were not exported");
            }
            Some(Line::Again) => info!("spans are exported again"),
            None => {}
        }
    }
}

/// Waits for spans: a full batch, or those of a second, or on the last call what there is. False at the end.
async fn fill(
    batch: &mut Vec<Ended>,
    waiting: &mut mpsc::Receiver<Ended>,
    last_call: &CancellationToken,
) -> bool {
    let mut until = None;
    while batch.len() < BATCH {
        let room = BATCH - batch.len();
        tokio::select! {
            biased;
            () = last_call.cancelled(), if !waiting.is_closed() => waiting.close(),
            count = waiting.recv_many(batch, room) => {
                if count == 0 {
                    break;
                }
                until.get_or_insert_with(|| Instant::now() + DELAY);
            }
            () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => break,
        }
    }
    !batch.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_says_once_a_minute_why_spans_were_lost_even_when_the_collector_is_back() {
        let (start, mut told) = (std::time::Instant::now(), Told::new());
        let lost = |failed, queue_full| Lost { failed, queue_full };
        let line = |why: &str, failed, queue_full| Some(Line::Lost(why.to_owned(), lost(failed, queue_full)));
        let full = "more came than were exported: raise otel.max_pending, or sample fewer";
        for (second, failure, so_far, said) in [
            (0, None, lost(0, 0), None),
            (1, Some("refused"), lost(5, 0), line("refused", 5, 0)),
            (2, Some("no connection"), lost(9, 100), None),
            (3, None, lost(9, 100), None),
            (61, None, lost(9, 100), line("no connection", 4, 100)),
            (62, None, lost(9, 100), Some(Line::Again)),
            (63, None, lost(9, 100), None),
            (121, None, lost(9, 107), line(full, 0, 7)),
            (122, None, lost(9, 107), Some(Line::Again)),
        ] {
            let now = start + Duration::from_secs(second);
            assert_eq!(told.line(failure, so_far, now), said, "second {second}");
        }
    }
}
