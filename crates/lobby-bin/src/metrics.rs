//! Every metric of the lobby, in one place: name, unit, meaning. Figures are read from their owners at scrape
//! time, so that counting costs an atomic addition and nothing else.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use lobby_sessions::{CLOSE_CODES, Sessions, Snapshot, Transport};
use notify_amqp::{ConsumerStats, ConsumerStatus, DeadLetterFigures, SelfCheck, Ticket};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, text::encode},
    metrics::MetricType,
    registry::{Registry, Unit},
};
use tokio::sync::watch;

use crate::{
    dispatch::Outcomes, handshake::Gate, otel::SpanCounts, readiness::Readiness, receipts::ReceiptCounts,
};

/// Where the figures are.
#[derive(Clone)]
pub struct Figures {
    pub sessions: Arc<Sessions<Ticket>>,
    pub outcomes: Arc<Outcomes>,
    pub consumer: Arc<ConsumerStats>,
    pub status: watch::Receiver<ConsumerStatus>,
    /// Where dead letters are kept.
    pub dead_letters: Option<DeadLetterFigures>,
    pub self_check: Option<SelfCheck>,
    pub gate: Arc<Gate>,
    pub receipts: Arc<ReceiptCounts>,
    pub spans: Arc<SpanCounts>,
    pub readiness: Readiness,
}

impl std::fmt::Debug for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Figures")
    }
}

/// All metrics in the Prometheus text format.
pub fn render(figures: &Figures) -> String {
    let mut registry = Registry::with_prefix("lobby");
    registry.register_collector(Box::new(figures.clone()));
    let mut text = String::new();
    // Writing to a String does not fail.
    let _ = encode(&mut text, &registry);
    text
}

type Labels<'a> = &'a [(&'static str, &'a str)];
/// No exemplars are given.
type NoLabels = [(&'static str, &'static str); 0];

struct Page<'a, 'b>(&'a mut DescriptorEncoder<'b>);

impl Page<'_, '_> {
    /// A counter; the exporter appends `_total` to its name.
    fn counter(&mut self, name: &str, help: &str, series: &[(Labels<'_>, u64)]) -> std::fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in series {
            one(&mut metric, labels, |m| m.encode_counter::<NoLabels, _, u64>(value, None))?;
        }
        Ok(())
    }

    fn gauge(&mut self, name: &str, help: &str, series: &[(Labels<'_>, u64)]) -> std::fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in series {
            let value = i64::try_from(*value).unwrap_or(i64::MAX);
            one(&mut metric, labels, |m| m.encode_gauge(&value))?;
        }
        Ok(())
    }

    fn seconds(&mut self, name: &str, help: &str, snapshot: &Snapshot) -> std::fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
        let buckets: Vec<_> = snapshot
            .buckets
            .iter()
            .map(|(bound, count)| (if bound.is_finite() { *bound } else { f64::MAX }, *count))
            .collect();
        metric.encode_histogram::<NoLabels>(snapshot.sum_seconds, snapshot.count, &buckets, None)
    }
}

fn whole(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

fn one(
    metric: &mut MetricEncoder<'_>,
    labels: &Labels<'_>,
    write: impl FnOnce(&mut MetricEncoder<'_>) -> std::fmt::Result,
) -> std::fmt::Result {
    if labels.is_empty() { write(metric) } else { write(&mut metric.encode_family(labels)?) }
}

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let mut page = Page(&mut encoder);
        self.deliveries(&mut page)?;
        self.receipts(&mut page)?;
        self.spans(&mut page)?;
        self.connections(&mut page)?;
        self.clients(&mut page)?;
        self.broker(&mut page)?;
        self.dead_letters(&mut page)?;
        self.self_check(&mut page)
    }
}

impl Figures {
    fn deliveries(&self, page: &mut Page<'_, '_>) -> std::fmt::Result {
        let stats = self.sessions.stats();
        let outcomes = [
            ("unicast", stats.unicast),
            ("broadcast", self.outcomes.broadcast.load(Relaxed)),
            ("channel_reserved", self.outcomes.channel_reserved.load(Relaxed)),
            ("not_connected", stats.not_connected),
        ];
        let outcomes = outcomes.into_iter().map(|(outcome, n)| (vec![("outcome", outcome)], n));
        let dropped =
            self.outcomes.dropped().map(|(why, n)| (vec![("outcome", "dropped"), ("reason", why)], n));
        let series: Vec<_> = outcomes.chain(dropped).collect();
        let series: Vec<_> = series.iter().map(|(labels, n)| (&labels[..], *n)).collect();
        page.counter("deliveries", "Deliveries from the broker by what the contract made of them", &series)?;
        page.seconds(
            "delivery",
            "From the broker's delivery to the last socket write of an addressed session",
            &self.sessions.meter().delivery_time().snapshot(),
        )?;
        page.seconds(
            "publish_to_write",
            "From the time that the publisher wrote (the property timestamp, to the millisecond with a UUID of version 7 as \
             message_id, else to the second) to the last socket write of an addressed session; a clock ahead of ours counts as 0",
            &self.sessions.meter().publish_time().snapshot(),
        )?;
        page.counter(
            "messages_written",
            "Messages that the kernel took whole",
            &[(&[], stats.messages_written)],
        )?;
        page.counter("bytes_written", "Bytes that the kernel took", &[(&[], stats.bytes_written)])?;
        page.counter("socket_writes", "System calls that wrote to clients", &[(&[], stats.writes)])?;
        page.gauge("outbox_bytes", "Bytes that wait in outboxes", &[(&[], stats.queued_bytes)])?;
        page.gauge(
            "notification_bytes",
            "Bytes of the notifications that wait, each counted once however many share it",
            &[(&[], self.sessions.meter().live_bytes())],
        )?;
        page.gauge(
            "notification_bytes_limit",
            "Past this many, the sessions that lag most are closed (sessions.outbox_total_bytes)",
            &[(&[], whole(self.sessions.config().outbox_total_bytes))],
        )?;
        page.counter(
            "outbox_overflow",
            "Messages that did not fit into an outbox",
            &[(&[], stats.overflows)],
        )?;
        page.counter(
            "outbox_shed",
            "Sessions closed because all outboxes together held too much",
            &[(&[], stats.shed)],
        )?;
        page.counter(
            "outbox_dropped_oldest",
            "Messages dropped from outboxes to make room",
            &[(&[], stats.dropped_oldest)],
        )
    }

    fn receipts(&self, page: &mut Page<'_, '_>) -> std::fmt::Result {
        let counts = &self.receipts;
        page.counter(
            "receipts",
            "Delivery receipts by what became of them",
            &[
                (&[("outcome", "sent")], counts.sent.load(Relaxed)),
                (&[("outcome", "failed")], counts.failed.load(Relaxed)),
                (&[("outcome", "queue_full")], counts.queue_full.load(Relaxed)),
                (&[("outcome", "refused")], counts.refused.load(Relaxed)),
            ],
        )?;
        let pending = counts.pending.load(Relaxed);
        page.gauge("receipts_pending", "Delivery receipts that wait to be sent", &[(&[], pending)])
    }

    fn spans(&self, page: &mut Page<'_, '_>) -> std::fmt::Result {
        let counts = &self.spans;
        page.counter(
            "spans",
            "OpenTelemetry spans by what became of them; all but exported are lost",
            &[
                (&[("outcome", "exported")], counts.exported.load(Relaxed)),
                (&[("outcome", "failed")], counts.failed.load(Relaxed)),
                (&[("outcome", "queue_full")], counts.queue_full.load(Relaxed)),
            ],
        )?;
        let pending = counts.pending.load(Relaxed);
        page.gauge("spans_pending", "OpenTelemetry spans that wait to be exported", &[(&[], pending)])
    }

    fn connections(&self, page: &mut Page<'_, '_>) -> std::fmt::Result {
        let doorkeeper = &self.gate.doorkeeper;
        let open = whole(doorkeeper.open());
        page.gauge("connections", "Connections of clients, logged in or not", &[(&[], open)])?;
        page.gauge(
            "connections_limit",
            "Connections that there may be (listen.max_connections, or what the limit of open files allows)",
            &[(&[], whole(doorkeeper.most()))],
        )?;
        page.gauge(
            "handshakes",
            "Connections that have not logged in yet",
            &[(&[], self.gate.counts.handshakes.load(Relaxed))],
        )?;
        let series: Vec<_> =
            doorkeeper.refused().map(|(limit, n)| ([("limit", limit.as_str())], n)).collect();
        let series: Vec<_> = series.iter().map(|(labels, n)| (&labels[..], *n)).collect();
        page.counter("connections_refused", "Connections turned away by the limit that was reached", &series)
    }

    fn clients(&self, page: &mut Page<'_, '_>) -> std::fmt::Result {
        let stats = self.sessions.stats();
        let series: Vec<_> = Transport::ALL
            .iter()
            .zip(stats.sessions)
            .map(|(t, n)| ([("transport", t.as_str())], n))
            .collect();
        let series: Vec<_> = series.iter().map(|(labels, n)| (&labels[..], *n)).collect();
        page.gauge(
            "sessions",
            "Logged-in sessions; while the lobby drains, those that have not been told to go",
            &series,
        )?;
        let draining = u64::from(self.readiness.is_draining());
        page.gauge(
            "draining",
            "1 while the lobby drains: it is not ready, and tells its clients to go",
            &[(&[], draining)],
        )?;
        let counts = &self.gate.counts;
        page.counter(
            "logins",
            "Logins by result",
            &[
                (&[("result", "accepted")], counts.logged_in.load(Relaxed)),
                (&[("result", "refused")], counts.refused_tokens.load(Relaxed)),
            ],
        )?;
        page.counter(
            "upgrades_refused",
            "HTTP requests that were not upgraded",
            &[(&[], counts.refused_upgrades.load(Relaxed))],
        )?;
        page.counter(
            "arrivals_failed",
            "Connections that ended before the client could be spoken to: no TLS, or a listed proxy without header",
            &[
                (&[("stage", "proxy_header")], counts.bad_proxy_headers.load(Relaxed)),
                (&[("stage", "tls")], counts.failed_tls.load(Relaxed)),
            ],
        )?;
        page.counter("invalid_commands", "Unknown commands of sessions", &[(&[], stats.invalid_commands)])?;
        let mut closes = stats.closes;
        for (total, (_, before_login)) in closes.iter_mut().zip(counts.closes()) {
            *total += before_login;
        }
        let codes = CLOSE_CODES.map(|code| if code == 0 { "none".to_owned() } else { code.to_string() });
        let series: Vec<_> = codes.iter().map(|code| [("code", code.as_str())]).zip(closes).collect();
        let series: Vec<_> = series.iter().map(|(labels, n)| (&labels[..], *n)).collect();
        page.counter("closes", "Closed connections by code; none means that the client just left", &series)
    }

    fn broker(&self, page: &mut Page<'_, '_>) -> std::fmt::Result {
        let stats = &self.consumer;
        page.gauge("broker_connected", "1 while messages can arrive", &[(&[], stats.connected.get())])?;
        let host = match &*self.status.borrow() {
            ConsumerStatus::Consuming { host, .. } => Some(host.clone()),
            _ => None,
        };
        let series = host.as_deref().map(|host| [("host", host)]);
        let series: Vec<_> = series.iter().map(|labels| (&labels[..], 1)).collect();
        page.gauge("broker_host", "1 for the broker's host that is consumed from", &series)?;
        page.gauge("broker_unacked", "Deliveries not acked yet", &[(&[], stats.unacked.get())])?;
        for (name, help, value) in [
            ("broker_reconnects", "Times that consuming began again", stats.reconnects.get()),
            (
                "broker_failures",
                "Attempts to connect that failed and connections that broke",
                stats.failures.get(),
            ),
            (
                "consumer_cancelled",
                "Times that the broker ended the consumer, as its queue was gone",
                stats.cancelled.get(),
            ),
            ("broker_deliveries", "Deliveries taken from the broker", stats.deliveries.get()),
            ("redelivered", "Deliveries that the broker marked as delivered before", stats.redelivered.get()),
            ("acked", "Deliveries acked", stats.acked.get()),
            ("ack_frames", "Ack frames written; each settles a batch", stats.ack_frames.get()),
            ("rejected", "Deliveries rejected, because handing them over panicked", stats.rejected.get()),
            (
                "stale_settlements",
                "Deliveries finished after their connection was lost; they come again",
                stats.stale.get(),
            ),
            ("repaired_headers", "Deliveries whose headers had to be repaired", stats.repaired_headers.get()),
            ("dispatch_panics", "Panics that were caught", stats.dispatch_panics.get()),
            ("dispatch_stalls", "Deliveries that took a second to hand over", stats.dispatch_stalls.get()),
        ] {
            page.counter(name, help, &[(&[], value)])?;
        }
        Ok(())
    }

    fn dead_letters(&self, page: &mut Page<'_, '_>) -> std::fmt::Result {
        let Some(letters) = &self.dead_letters else { return Ok(()) };
        let stats = letters.stats();
        page.counter(
            "dead_letters",
            "Dropped messages by what became of their dead letter; all but confirmed and looped are lost",
            &[
                (&[("outcome", "confirmed")], stats.confirmed.get()),
                (&[("outcome", "timed_out")], stats.timed_out.get()),
                (&[("outcome", "unreachable")], stats.unreachable.get()),
                (&[("outcome", "overflow")], stats.overflow.get()),
                (&[("outcome", "looped")], stats.looped.get()),
            ],
        )?;
        page.gauge(
            "dead_letters_pending",
            "Dropped messages that wait for the confirm of their dead letter",
            &[(&[], letters.pending())],
        )
    }

    fn self_check(&self, page: &mut Page<'_, '_>) -> std::fmt::Result {
        let Some(check) = &self.self_check else { return Ok(()) };
        let help = "Since a canary came through the queue; before the first, since consuming began";
        let mut metric =
            page.0.encode_descriptor("canary_age", help, Some(&Unit::Seconds), MetricType::Gauge)?;
        if let Some(age) = check.age() {
            metric.encode_gauge(&age.as_secs_f64())?;
        }
        let series: Vec<_> = check.canaries().map(|(outcome, n)| ([("outcome", outcome)], n)).collect();
        let series: Vec<_> = series.iter().map(|(labels, n)| (&labels[..], *n)).collect();
        page.counter("canaries", "Canaries of the self-check by what became of them", &series)?;
        let series: Vec<_> = check.repairs().map(|(fault, n)| ([("what", fault.as_str())], n)).collect();
        let series: Vec<_> = series.iter().map(|(labels, n)| (&labels[..], *n)).collect();
        page.counter("self_check_repairs", "What the self-check found missing and repaired", &series)
    }
}
