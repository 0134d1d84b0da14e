//! Spans with a small OTLP receiver.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use axum::{
    Router,
    body::Bytes,
    http::{HeaderMap, StatusCode, header::RETRY_AFTER},
    routing::post,
};
use lobby_sessions::Reach;
use notify_amqp::Delivery;
use notify_protocol::UserId;
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
    },
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{Span, span::SpanKind},
};
use prost::Message as _;
use tokio::{net::TcpListener, task::JoinHandle, time::sleep};

use super::{SpanDesk, Spans, export::BATCH};
use crate::{
    config::{Config, Secret},
    trace::Verdict,
};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";
const PATIENCE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(5);
/// What a collector asks for that does not take spans now.
const RETRY_SECONDS: &str = "8";
const ONE: Reach = Reach { sessions: 1, overflowed: 0, cut_off: 0 };

/// A collector that keeps what it gets; dropping it closes its port.
struct Receiver {
    address: SocketAddr,
    got: Arc<Mutex<Vec<(HeaderMap, ExportTraceServiceRequest)>>>,
    serving: JoinHandle<()>,
}

impl Receiver {
    /// One that answers `status`, or never.
    async fn start(status: Option<StatusCode>) -> Self {
        Self::saying(status, ExportTraceServiceResponse::default()).await
    }

    /// The same, with an answer to read.
    async fn saying(status: Option<StatusCode>, answer: ExportTraceServiceResponse) -> Self {
        let answer = Bytes::from(answer.encode_to_vec());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let got = Arc::<Mutex<Vec<_>>>::default();
        let keep = Arc::clone(&got);
        let take = async move |headers: HeaderMap, body: Bytes, answer: Bytes| {
            let request = ExportTraceServiceRequest::decode(body).expect("protobuf");
            keep.lock().unwrap_or_else(PoisonError::into_inner).push((headers, request));
            match status {
                Some(status) => (status, [(RETRY_AFTER, RETRY_SECONDS)], answer),
                None => std::future::pending().await,
            }
        };
        let take = move |headers, body| {
            let take = take.clone();
            let answer = answer.clone();
            async move { take(headers, body, answer).await }
        };
        let router = Router::new().route("/v1/traces", post(take));
        let serving = tokio::spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        Self { address, got, serving }
    }

    fn spans(&self) -> Vec<Span> {
        let got = self.got.lock().unwrap_or_else(PoisonError::into_inner);
        let resources = got.iter().flat_map(|(_, request)| &request.resource_spans);
        resources.flat_map(|resource| &resource.scope_spans).flat_map(|scope| scope.spans.clone()).collect()
    }

    async fn until(&self, count: usize) {
        until(|| self.spans().len() >= count).await;
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn until(mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "it never came");
        sleep(POLL).await;
    }
}

fn started(address: SocketAddr, change: impl FnOnce(&mut Config)) -> (Spans, SpanDesk) {
    // An error only says that it is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut config = Config::new();
    config.otel.endpoint = format!("http://{address}");
    change(&mut config);
    let (spans, desk) = Spans::start(&config).expect("started");
    (spans, desk.expect("a desk"))
}

fn delivery(traceparent: &str) -> Delivery {
    Delivery::detached("request.client.notify", b"{}".to_vec())
        .with_text_header("x-else", "1")
        .with_text_header("traceparent", traceparent)
        .with_text_header("tracestate", "rojo=1")
}

fn sampled() -> Delivery {
    delivery(&format!("00-{TRACE}-{PARENT}-01"))
}

fn end(desk: &SpanDesk) {
    let span = desk.open(&sampled()).expect("a span");
    span.dispatched(Verdict::Everyone).written(ONE, Duration::from_millis(1));
}

fn texts(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |attribute: &KeyValue| match attribute.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        _ => None,
    };
    attributes.iter().filter_map(|a| Some((a.key.clone(), text(a)?))).collect()
}

fn nanos(at: SystemTime) -> u64 {
    u64::try_from(at.duration_since(UNIX_EPOCH).expect("after 1970").as_nanos()).expect("before 2554")
}

#[tokio::test]
async fn a_sampled_message_is_one_span_at_the_collector_with_parent_times_and_outcome() {
    let receiver = Receiver::start(Some(StatusCode::OK)).await;
    let (spans, desk) = started(receiver.address, |config| {
        config.otel.service_name = "lobby-eu".into();
        config.otel.headers = Secret::new("authorization=Bearer%20t");
        config.instance_name = "pod-7".parse().expect("a name");
    });
    let before = nanos(SystemTime::now());
    let delivery = sampled();
    let took = Duration::from_millis(7);
    let span = desk.open(&delivery).expect("a span").dispatched(Verdict::User(UserId::new(42)));
    let after = nanos(SystemTime::now());
    span.written(ONE, took);
    receiver.until(1).await;
    let counts = spans.counts();
    until(|| counts.exported.load(Relaxed) == 1).await;
    assert_eq!(counts.pending.load(Relaxed), 0);

    let got = receiver.spans();
    let [span] = &got[..] else { panic!("{got:?}") };
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!((hex(&span.trace_id), hex(&span.parent_span_id)), (TRACE.to_owned(), PARENT.to_owned()));
    assert!(span.span_id.len() == 8 && span.span_id != [0; 8] && hex(&span.span_id) != PARENT);
    assert_eq!((span.trace_state.as_str(), span.kind()), ("rojo=1", SpanKind::Consumer));
    // A clock reads to the microsecond here and there.
    let slack = 1_000_000;
    assert!((before - slack..=after).contains(&span.start_time_unix_nano), "{span:?}");
    assert_eq!(span.end_time_unix_nano - span.start_time_unix_nano, nanos(UNIX_EPOCH + took));
    let attributes = texts(&span.attributes);
    assert_eq!(attributes["messaging.system"], "rabbitmq");
    assert_eq!((&*attributes["lobby.outcome"], &*attributes["user.id"]), ("written", "42"));
    assert!(attributes["messaging.destination.name"].starts_with("request.client.notify:faf-lobby.lobby."));

    let (headers, request) = receiver.got.lock().expect("not poisoned")[0].clone();
    assert_eq!(
        (&headers["content-type"], &headers["authorization"]),
        (&"application/x-protobuf".parse().expect("a value"), &"Bearer t".parse().expect("a value"))
    );
    let resource = texts(&request.resource_spans[0].resource.as_ref().expect("a resource").attributes);
    assert_eq!((&*resource["service.name"], &*resource["service.instance.id"]), ("lobby-eu", "pod-7"));
    spans.finish(PATIENCE).await;
}

#[tokio::test]
async fn unsampled_and_unreadable_and_absent_make_no_span() {
    let receiver = Receiver::start(Some(StatusCode::OK)).await;
    let (spans, desk) = started(receiver.address, |_| ());
    for traceparent in [format!("00-{TRACE}-{PARENT}-00"), "here".to_owned()] {
        assert!(desk.open(&delivery(&traceparent)).is_none(), "{traceparent}");
    }
    assert!(desk.open(&Delivery::detached("k", b"{}".to_vec())).is_none());
    // One that is not finished is none either, and one that is dropped says why.
    drop(desk.open(&sampled()));
    desk.open(&sampled()).expect("a span").dropped(Verdict::Dropped("non_json"), "body is not JSON");
    spans.finish(PATIENCE).await;
    let got = receiver.spans();
    assert_eq!(got.len(), 1, "the last span is exported at the end");
    let status = got[0].status.as_ref().expect("a status");
    assert_eq!((status.code, status.message.as_str()), (2, "body is not JSON"));
    assert_eq!(texts(&got[0].attributes)["error.type"], "non_json");
}

#[tokio::test]
async fn spans_go_in_batches_of_512_at_most_and_none_is_lost_on_the_way() {
    let receiver = Receiver::start(Some(StatusCode::OK)).await;
    let (spans, desk) = started(receiver.address, |config| config.otel.timeout = PATIENCE);
    let many = 2 * BATCH + 100;
    for _ in 0..many {
        end(&desk);
    }
    receiver.until(many).await;
    let sizes: Vec<_> = receiver
        .got
        .lock()
        .expect("not poisoned")
        .iter()
        .map(|(_, request)| request.resource_spans[0].scope_spans[0].spans.len())
        .collect();
    assert!(sizes.iter().all(|size| *size <= BATCH), "{sizes:?}");
    let ids: std::collections::BTreeSet<_> = receiver.spans().into_iter().map(|span| span.span_id).collect();
    assert_eq!(ids.len(), many);
    spans.finish(PATIENCE).await;
}

#[tokio::test]
async fn a_collector_that_hangs_costs_counted_spans_and_no_delivery_waits() {
    const MOST: usize = 3;
    let receiver = Receiver::start(None).await;
    let (spans, desk) = started(receiver.address, |config| {
        config.otel.max_pending = MOST;
        config.otel.timeout = PATIENCE;
    });
    let counts = spans.counts();
    end(&desk);
    receiver.until(1).await;
    let start = Instant::now();
    for _ in 0..1000 {
        end(&desk);
    }
    assert!(start.elapsed() < PATIENCE / 2, "a delivery waits for the collector");
    assert_eq!(counts.queue_full.load(Relaxed), 1000 - MOST as u64);
    assert_eq!(counts.pending.load(Relaxed), 1 + MOST as u64);
    let start = Instant::now();
    spans.finish(PATIENCE).await;
    assert!(start.elapsed() < PATIENCE / 2, "the end waits for the collector");
}

#[tokio::test]
async fn a_collector_that_hangs_has_until_the_time_out_and_the_next_spans_are_tried() {
    let receiver = Receiver::start(None).await;
    let (spans, desk) = started(receiver.address, |config| config.otel.timeout = Duration::from_secs(2));
    let counts = spans.counts();
    for lost in 1..=2 {
        end(&desk);
        until(|| counts.failed.load(Relaxed) == lost).await;
    }
    assert!(receiver.spans().len() >= 2);
    spans.finish(PATIENCE).await;
}

#[tokio::test]
async fn a_collector_that_refuses_or_is_not_there_is_tried_again_with_the_next_spans() {
    let gone = TcpListener::bind("127.0.0.1:0").await.and_then(|listener| listener.local_addr());
    let refusing = Receiver::start(Some(StatusCode::BAD_REQUEST)).await;
    for address in [gone.expect("a port that was free"), refusing.address] {
        let (spans, desk) = started(address, |_| ());
        let counts = spans.counts();
        for lost in 1..=2 {
            end(&desk);
            until(|| counts.failed.load(Relaxed) == lost).await;
        }
        assert_eq!((counts.exported.load(Relaxed), counts.pending.load(Relaxed)), (0, 0));
        spans.finish(PATIENCE).await;
    }
}

#[tokio::test]
async fn spans_that_a_collector_rejects_are_lost_and_the_others_of_the_batch_are_not() {
    let partial =
        ExportTracePartialSuccess { rejected_spans: 2, error_message: "over the tenant's quota".to_owned() };
    let answer = ExportTraceServiceResponse { partial_success: Some(partial) };
    let receiver = Receiver::saying(Some(StatusCode::OK), answer).await;
    let (spans, desk) = started(receiver.address, |config| config.otel.timeout = PATIENCE);
    let counts = spans.counts();
    (0..5).for_each(|_| end(&desk));
    until(|| counts.pending.load(Relaxed) == 0).await;
    assert_eq!((counts.exported.load(Relaxed), counts.failed.load(Relaxed)), (3, 2));
    spans.finish(PATIENCE).await;
}

#[tokio::test]
async fn a_collector_that_asks_to_wait_gets_no_second_attempt_and_no_thread_sleeps_for_it() {
    let receiver = Receiver::start(Some(StatusCode::SERVICE_UNAVAILABLE)).await;
    let (spans, desk) = started(receiver.address, |config| config.otel.timeout = PATIENCE);
    let counts = spans.counts();
    end(&desk);
    // This task and the exporting one share a thread.
    let (mut longest, mut last) = (Duration::ZERO, Instant::now());
    until(|| {
        longest = longest.max(last.elapsed());
        last = Instant::now();
        counts.failed.load(Relaxed) == 1
    })
    .await;
    assert!(longest < Duration::from_secs(4), "the runtime stood still for {longest:?}");
    assert_eq!(receiver.spans().len(), 1, "it was tried again");
    spans.finish(PATIENCE).await;
}
