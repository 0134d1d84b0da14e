//! OpenTelemetry: the span of a notification from the broker to the socket, at a collector.

mod receiver;

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, ensure};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use serde_json::{Value, json};
use tokio::time::{Duration, Instant};

use self::receiver::{Received, Receiver};
use super::notifier::{Notifier, numbered};
use super::refusals::exits;
use super::stage::Stage;
use crate::client::Transport;
use crate::lobby::Setup;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
/// Two clocks that are read one after the other.
const SLACK_NANOS: u64 = 1_000_000;

/// A message with a sampled `traceparent` is one span, the publisher's child, from the broker's delivery to the last
/// socket; others are none. What waits when the lobby ends is exported first.
pub(super) async fn spans(stage: &Stage) -> anyhow::Result<()> {
    let collector = Receiver::start(true).await?;
    let mut lobby = stage.start(&with_otel(stage, &collector).await?).await?;
    let mut player = stage.client(&lobby, Transport::Tcp, 42).await?;
    let mut other = stage.client(&lobby, Transport::WebSocket, 7).await?;
    let mut notifier = stage.notifier().await?;
    let before = now_nanos()?;
    let user = json!(["user-id", "l", 42]);
    for (number, parent, sampled, to, body) in [
        (1, "00000000000000a1", "01", Some(&user), numbered(1)),
        (2, "00000000000000a2", "00", Some(&user), numbered(2)),
        (3, "00000000000000a3", "01", None, numbered(3)),
        (4, "00000000000000a4", "01", None, "nonsense".to_owned()),
        (5, "00000000000000a5", "01", Some(&json!(["user-id", "l", 43])), numbered(5)),
    ] {
        let traceparent = json!(["traceparent", "S", format!("00-{TRACE}-{parent}-{sampled}")]);
        let mut headers = vec![traceparent, json!(["tracestate", "S", "rojo=1"])];
        headers.extend(to.cloned());
        let properties = json!({"message_id": format!("message-{number}"), "correlation_id": "the-request"});
        notifier.publish(&Value::Array(headers), &properties, body.as_bytes()).await?;
    }
    let sentinel = notifier.sentinel().await?;
    player.expect_until(&sentinel).await?;
    other.expect_until(&sentinel).await?;
    let spans = collector.until(4).await?;
    let after = now_nanos()?;
    let destination = format!("{}:request.client.notify:{}", stage.exchange(), stage.queue());
    for (parent, message, outcome, written) in [
        ("00000000000000a1", "message-1", "written", Some("1")),
        ("00000000000000a3", "message-3", "written", Some("2")),
        ("00000000000000a4", "message-4", "dropped", None),
        ("00000000000000a5", "message-5", "not_connected", Some("0")),
    ] {
        let span = child_of(&spans, parent)?;
        ensure!(hex(&span.span.trace_id) == TRACE && span.span.kind() == SpanKind::Consumer, "{span:?}");
        ensure!(span.span.trace_state == "rojo=1" && span.service == "lobby-of-the-test", "{span:?}");
        let (start, end) = (span.span.start_time_unix_nano, span.span.end_time_unix_nano);
        ensure!((before - SLACK_NANOS..=end).contains(&start) && end <= after + SLACK_NANOS, "{span:?}");
        for (key, wanted) in [
            ("messaging.system", Some("rabbitmq")),
            ("messaging.operation.type", Some("process")),
            ("messaging.destination.name", Some(destination.as_str())),
            ("messaging.rabbitmq.destination.routing_key", Some("request.client.notify")),
            ("messaging.message.id", Some(message)),
            ("messaging.message.conversation_id", Some("the-request")),
            ("lobby.outcome", outcome.into()),
            ("lobby.sessions.written", written),
            ("error.type", (outcome == "dropped").then_some("non_json")),
        ] {
            let got = span.attribute(key);
            ensure!(got.as_deref() == wanted, "{message}: {key} is {got:?}, wanted {wanted:?}");
        }
        let is_error = span.span.status.as_ref().is_some_and(|status| status.code == 2);
        ensure!(is_error == (outcome == "dropped"), "{span:?}");
    }
    lobby.metrics_until("four spans exported", |metrics| exported(metrics) == (4, 0)).await?;

    // One that the collector gets only because the lobby's end waits for it.
    let headers = json!([["traceparent", "S", format!("00-{TRACE}-00000000000000a6-01")]]);
    notifier.publish(&headers, &json!({}), numbered(6).as_bytes()).await?;
    player.line().await?;
    lobby.stop().await?;
    let spans = collector.until(5).await?;
    child_of(&spans, "00000000000000a6")?;
    ensure!(spans.len() == 5, "a message that is not sampled has a span: {spans:?}");
    stage.fact("5 spans of 7 messages, each the publisher's child");
    Ok(())
}

/// A collector that takes spans and never answers costs counted spans and one line of the log: players get their
/// messages, and the lobby ends in time.
pub(super) async fn collector_hangs(stage: &Stage) -> anyhow::Result<()> {
    const MESSAGES: u64 = 50;
    const MOST: u64 = 5;
    let collector = Receiver::start(false).await?;
    let setup = with_otel(stage, &collector).await?;
    let setup = setup.set("LOBBY_OTEL__MAX_PENDING", MOST.to_string()).set("LOBBY_OTEL__TIMEOUT", "1s");
    let started = Instant::now();
    let mut lobby = stage.start(&setup).await?;
    let mut player = stage.client(&lobby, Transport::Tcp, 42).await?;
    let mut notifier = stage.notifier().await?;
    sampled(&mut notifier, 1).await?;
    // The first is under way, and nothing comes back.
    collector.until(1).await?;
    sampled(&mut notifier, MESSAGES).await?;
    let sentinel = notifier.sentinel().await?;
    let got = player.expect_until(&sentinel).await?.len();
    ensure!(got as u64 == 1 + MESSAGES, "{got} messages of {}", 1 + MESSAGES);
    let lost = lobby.metrics_until("what is lost", |metrics| {
        let lost = |outcome| metrics.count("lobby_spans_total", &[("outcome", outcome)]);
        lost("queue_full") > 0 && lost("queue_full") + lost("failed") > MESSAGES - MOST
    });
    ensure!(exported(&lost.await?).0 == 0, "spans were taken by a collector that hangs");
    sampled(&mut notifier, 1).await?;
    player.line().await?;
    let start = Instant::now();
    lobby.stop().await?;
    ensure!(start.elapsed() < Duration::from_secs(9), "the end waited for the collector");
    let told = |record: &crate::lobby::Record| {
        record.field("message").is_some_and(|m| m == "spans were not exported")
    };
    let lines = lobby.log().records().iter().filter(|record| told(record)).count() as u64;
    let most = 1 + started.elapsed().as_secs() / 60;
    ensure!((1..=most).contains(&lines), "{lines} lines about spans, wanted one a minute: 1 to {most}");
    Ok(())
}

/// A lobby that was built without OpenTelemetry refuses its keys, naming key and remedy, and passes over the variables
/// that are set for everybody, with a warning.
pub(super) async fn not_built_in(stage: &Stage) -> anyhow::Result<()> {
    let words = ["otel.endpoint", "LOBBY_OTEL__ENDPOINT", "--features otel"];
    let setup = stage.setup().set("LOBBY_OTEL__ENDPOINT", "http://127.0.0.1:4318");
    exits(setup.clone(), 78, &words).await?;
    exits(setup.argument("check-config"), 78, &words).await?;
    let common = stage.setup().set("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318");
    let checked = common.argument("check-config").run_to_exit().await?;
    ensure!(checked.status.success(), "check-config exited with {}", checked.status);
    ensure!(checked.stderr.contains("OTEL_EXPORTER_OTLP_ENDPOINT is passed over"), "{}", checked.stderr);
    Ok(())
}

async fn with_otel(stage: &Stage, collector: &Receiver) -> anyhow::Result<Setup> {
    let lobby = crate::build::lobby_with_otel().await?;
    Ok(stage
        .setup()
        .program(lobby)
        .set("LOBBY_OTEL__ENDPOINT", collector.endpoint())
        // Not meant for a collector on the same machine.
        .set("HTTP_PROXY", "http://127.0.0.1:1")
        .set("OTEL_SERVICE_NAME", "lobby-of-the-test"))
}

/// Publishes `count` broadcasts that are sampled.
async fn sampled(notifier: &mut Notifier, count: u64) -> anyhow::Result<()> {
    for number in 1..=count {
        let headers = json!([["traceparent", "S", format!("00-{TRACE}-{number:016x}-01")]]);
        notifier.publish(&headers, &json!({}), numbered(number).as_bytes()).await?;
    }
    Ok(())
}

/// Spans exported, and those that wait.
fn exported(metrics: &crate::lobby::Metrics) -> (u64, u64) {
    let exported = metrics.count("lobby_spans_total", &[("outcome", "exported")]);
    (exported, metrics.count("lobby_spans_pending", &[]))
}

fn child_of<'a>(spans: &'a [Received], parent: &str) -> anyhow::Result<&'a Received> {
    let mut children = spans.iter().filter(|span| hex(&span.span.parent_span_id) == parent);
    let child = children.next().with_context(|| format!("{parent} has no child in {spans:?}"))?;
    ensure!(children.next().is_none(), "{parent} has several children: {spans:?}");
    Ok(child)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn now_nanos() -> anyhow::Result<u64> {
    Ok(u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos())?)
}
