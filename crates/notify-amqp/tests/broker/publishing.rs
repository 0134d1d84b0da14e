use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use notify_amqp::{
    BrokerConfig, Consumer, ConsumerError, ConsumerStatus, Delivery, PublishError, PublishObserver,
    PublishStage, Published, Publisher, PublisherConfig, Publishing, ReceiptWait, Reply, Ticket,
};
use notify_protocol::{Message, Notification, Receipt, ReceiptOutcome, ReceiptRequest, ReceiptScope};

use crate::{
    management,
    proxy::Proxy,
    rig::{Got, PATIENCE, Rig, Running, threads},
};

fn message(text: &str) -> Message {
    Notification::to_user(42).raw_json(format!(r#"{{"command":"{text}"}}"#)).build().unwrap()
}

fn config(rig: &Rig) -> PublisherConfig {
    PublisherConfig::new(
        BrokerConfig::new(rig.url.clone(), format!("publisher {}", rig.exchange)),
        &rig.exchange,
    )
}

fn config_at(rig: &Rig, port: u16) -> PublisherConfig {
    let broker = BrokerConfig::new(rig.url_with_port(port), format!("publisher {}", rig.exchange));
    PublisherConfig::new(broker, &rig.exchange)
}

#[tokio::test]
async fn a_published_message_arrives_with_headers_id_and_time() {
    let rig = Rig::new();
    let mut running = Running::start(rig.config()).await;
    let publisher = Publisher::new(config(&rig)).unwrap();
    let published = publisher.publish(&message("hello")).await.unwrap();
    assert_eq!(published.attempts, 1);
    assert_eq!(uuid::Uuid::parse_str(&published.message_id).unwrap().get_version_num(), 7);
    let got = running.next().await;
    assert_eq!(got.body, br#"{"command":"hello"}"#);
    assert_eq!(got.headers, [("user-id".to_owned(), "integer 42".to_owned())]);
    assert!(got.timestamp.is_some_and(|seconds| seconds > 1_700_000_000), "{got:?}");
    publisher.close().await;
    assert_eq!(publisher.publish(&message("late")).await, Err(PublishError::Closed));
    drop(got);
    running.handle.stop().await;
}

#[tokio::test]
async fn many_messages_at_once_all_arrive_over_few_connections() {
    let rig = Rig::new();
    let proxy = Proxy::to(&rig.url.address());
    let mut running = Running::start(rig.config()).await;
    let publisher = Publisher::new(config_at(&rig, proxy.port())).unwrap();
    let tasks: Vec<_> = (0..500)
        .map(|number| {
            let publisher = publisher.clone();
            tokio::spawn(async move { publisher.publish(&message(&number.to_string())).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    for _ in 0..500 {
        running.next().await;
    }
    assert!(proxy.accepted() <= 2, "{} connections", proxy.accepted());
    publisher.close().await;
    running.handle.stop().await;
}

#[tokio::test]
async fn a_message_that_no_queue_takes_is_unroutable_and_the_next_is_not_blamed() {
    let mut rig = Rig::new();
    rig.raw.declare_exchange(&rig.exchange, "topic");
    let mut config = config(&rig);
    config.max_channels = 1;
    let publisher = Publisher::new(config).unwrap();
    for _ in 0..3 {
        let refused = publisher.publish(&message("x")).await;
        assert!(matches!(&refused, Err(PublishError::Unroutable { code: 312, .. })), "{refused:?}");
    }
    let mut running = Running::start(rig.config()).await;
    publisher.publish(&message("y")).await.unwrap();
    assert_eq!(running.next().await.body, br#"{"command":"y"}"#);
    publisher.close().await;
    running.handle.stop().await;
}

#[tokio::test]
async fn a_missing_exchange_is_named_and_the_publisher_goes_on() {
    let mut rig = Rig::new();
    let publisher = Publisher::new(config(&rig)).unwrap();
    let refused = publisher.publish(&message("x")).await;
    assert!(
        matches!(&refused, Err(PublishError::ExchangeMissing { exchange, .. }) if *exchange == rig.exchange),
        "{refused:?}"
    );
    rig.raw.declare_exchange(&rig.exchange, "topic");
    let refused = publisher.publish(&message("x")).await;
    assert!(matches!(refused, Err(PublishError::Unroutable { .. })), "{refused:?}");
    publisher.close().await;
}

#[tokio::test]
async fn a_broken_connection_is_replaced_within_one_publish() {
    let rig = Rig::new();
    let proxy = Proxy::to(&rig.url.address());
    let mut running = Running::start(rig.config()).await;
    let publisher = Publisher::new(config_at(&rig, proxy.port())).unwrap();
    publisher.publish(&message("0")).await.unwrap();
    running.next().await;
    for _ in 0..5 {
        proxy.break_connections();
        publisher.publish(&message("again")).await.unwrap();
        assert_eq!(running.next().await.body, br#"{"command":"again"}"#);
    }
    publisher.close().await;
    running.handle.stop().await;
}

#[tokio::test]
async fn a_broker_that_does_not_answer_is_a_timeout_with_its_stage() {
    let rig = Rig::new();
    let proxy = Proxy::to(&rig.url.address());
    let running = Running::start(rig.config()).await;
    let mut config = config_at(&rig, proxy.port());
    config.publish_timeout = Duration::from_millis(400);
    let publisher = Publisher::new(config).unwrap();
    proxy.set_black_hole(true);
    let start = Instant::now();
    let refused = publisher.publish(&message("x")).await;
    let stage = PublishStage::Connecting;
    assert_eq!(refused, Err(PublishError::TimedOut { after: Duration::from_millis(400), stage }));
    assert!(start.elapsed() < Duration::from_millis(800), "{:?}", start.elapsed());
    proxy.set_black_hole(false);
    publisher.publish(&message("x")).await.unwrap();
    proxy.set_black_hole(true);
    let refused = publisher.publish(&message("x")).await;
    let stage = PublishStage::Confirming;
    assert_eq!(refused, Err(PublishError::TimedOut { after: Duration::from_millis(400), stage }));
    proxy.break_connections();
    running.handle.stop().await;
}

#[tokio::test]
async fn no_broker_is_an_error_after_the_attempts() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut rig = Rig::new();
    let publisher = Publisher::new(config_at(&rig, closed)).unwrap();
    let refused = publisher.publish(&message("x")).await;
    assert!(
        matches!(refused, Err(PublishError::Connection(ConsumerError::Unreachable { .. }))),
        "{refused:?}"
    );
    rig.raw.declare_exchange(&rig.exchange, "topic");
}

#[tokio::test]
async fn a_missing_write_permission_is_named() {
    let rig = Rig::new();
    let running = Running::start(rig.config()).await;
    let user = format!("w-{}", rig.exchange);
    management::put_user(&user, "pw");
    management::put_permissions(&user, "", "", "");
    let url = rig.url_as(&user, "pw");
    let publisher =
        Publisher::new(PublisherConfig::new(BrokerConfig::new(url, "test"), &rig.exchange)).unwrap();
    let refused = publisher.publish(&message("x")).await;
    assert!(matches!(refused, Err(PublishError::AccessRefused { .. })), "{refused:?}");
    publisher.close().await;
    management::delete_user(&user);
    running.handle.stop().await;
}

#[tokio::test]
async fn a_broker_that_blocks_publishers_is_a_timeout_and_nothing_is_sent() {
    const BLOCKED: &[u8] = b"\x01\0\0\0\0\0\x08\0\x0a\0\x3c\x03low\xce";
    const UNBLOCKED: &[u8] = b"\x01\0\0\0\0\0\x04\0\x0a\0\x3d\xce";
    let rig = Rig::new();
    let proxy = Proxy::to(&rig.url.address());
    let mut running = Running::start(rig.config()).await;
    let mut config = config_at(&rig, proxy.port());
    config.publish_timeout = Duration::from_millis(500);
    let publisher = Publisher::new(config).unwrap();
    publisher.publish(&message("before")).await.unwrap();
    assert_eq!(running.next().await.body, br#"{"command":"before"}"#);
    proxy.say(BLOCKED);
    tokio::time::sleep(Duration::from_millis(100)).await;
    for _ in 0..3 {
        let refused = publisher.publish(&message("blocked")).await;
        let stage = PublishStage::Blocked;
        assert_eq!(refused, Err(PublishError::TimedOut { after: Duration::from_millis(500), stage }));
    }
    proxy.say(UNBLOCKED);
    publisher.publish(&message("after")).await.unwrap();
    assert_eq!(running.next().await.body, br#"{"command":"after"}"#, "the blocked ones were never sent");
    publisher.close().await;
    running.handle.stop().await;
}

#[tokio::test]
async fn connections_that_are_never_answered_end_by_themselves() {
    let rig = Rig::new();
    let proxy = Proxy::to(&rig.url.address());
    let running = Running::start(rig.config()).await;
    proxy.set_black_hole(true);
    let mut config = config_at(&rig, proxy.port());
    config.broker.heartbeat = Duration::from_secs(1);
    config.broker.connect_timeout = Duration::from_millis(50);
    config.attempts = 30;
    config.publish_timeout = PATIENCE;
    let refused = {
        let publisher = Publisher::new(config).unwrap();
        // Each attempt leaves one of lapin's threads behind; together they would be 30.
        let message = message("x");
        tokio::time::timeout(Duration::from_secs(8), publisher.publish(&message)).await
    };
    assert!(refused.is_err() || matches!(refused, Ok(Err(PublishError::Connection(_)))), "{refused:?}");
    let end = Instant::now() + PATIENCE;
    while threads("lapin-io-loop") > threads("amqp-consumer") + 3 {
        assert!(Instant::now() < end, "{} threads", threads("lapin-io-loop"));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    running.handle.stop().await;
}

fn numbered(n: u32) -> Message {
    Notification::to_user(42).raw_json(format!(r#"{{"n":{n}}}"#)).build().unwrap()
}

/// Which of the numbered messages this is.
fn number(got: &Got) -> u32 {
    let text = String::from_utf8_lossy(&got.body);
    let digits = text.strip_prefix(r#"{"n":"#).and_then(|rest| rest.strip_suffix('}'));
    digits.and_then(|digits| digits.parse().ok()).unwrap_or_else(|| panic!("{text}"))
}

/// What an observer was told, in order.
#[derive(Debug, Default)]
struct Diary(Mutex<Vec<String>>);

impl PublishObserver for Diary {
    fn before_publish(&self, publishing: &Publishing<'_>) {
        let line = format!("before {} {}", publishing.message_id, publishing.routing_key);
        self.0.lock().unwrap().push(line);
    }

    fn published(
        &self,
        publishing: &Publishing<'_>,
        outcome: &Result<Published, PublishError>,
        took: Duration,
    ) {
        assert!(took < PATIENCE);
        let word = match outcome {
            Ok(published) => format!("sent {} times", published.attempts),
            Err(PublishError::Unroutable { .. }) => "unroutable".to_owned(),
            Err(other) => panic!("{other}"),
        };
        self.0.lock().unwrap().push(format!("{} {word}", publishing.message_id));
    }
}

#[tokio::test]
async fn n20_a_window_of_messages_arrives_in_order_with_an_outcome_each() {
    let rig = Rig::new();
    let mut running = Running::start(rig.config()).await;
    let mut config = config(&rig);
    config.window = 50;
    let publisher = Publisher::new(config).unwrap();
    let messages: Vec<_> = (0..1_000)
        .map(|n| {
            let id = format!("id-{n}");
            Notification::to_user(n).raw_json(format!(r#"{{"n":{n}}}"#)).message_id(id).build().unwrap()
        })
        .collect();
    let mut outcomes = publisher.publish_all(messages);
    for n in 0..1_000 {
        let published = outcomes.next().await.unwrap().unwrap();
        assert_eq!((published.message_id, published.attempts), (format!("id-{n}"), 1));
    }
    assert_eq!(outcomes.next().await, None);
    for n in 0..1_000 {
        assert_eq!(running.next().await.body, format!(r#"{{"n":{n}}}"#).into_bytes());
    }
    assert_eq!(publisher.stats().published.get(), 1_000);
    publisher.close().await;
    running.handle.stop().await;
}

/// A binding that comes and goes makes some of the messages under way unroutable; lapin attaches their returns to
/// whichever confirms come next.
#[tokio::test]
async fn n20_what_is_called_published_arrives_and_what_is_called_unroutable_does_not() {
    let rig = Rig::new();
    let mut running = Running::start(rig.config()).await;
    let publisher = Publisher::new(config(&rig)).unwrap();
    let (exchange, queue, mut raw) = (rig.exchange.clone(), rig.queue.clone(), rig.another_raw());
    let flipping = Arc::new(AtomicBool::new(true));
    let flipper = std::thread::spawn({
        let flipping = flipping.clone();
        move || {
            while flipping.load(Ordering::Relaxed) {
                raw.unbind(&queue, &exchange, "request.client.notify");
                raw.bind(&queue, &exchange, "request.client.notify");
            }
        }
    });
    let (mut published, mut unroutable, mut n) = (BTreeSet::new(), 0, 0);
    let end = Instant::now() + PATIENCE;
    while n < 4_000 || published.is_empty() || unroutable == 0 {
        assert!(Instant::now() < end, "{} published, {unroutable} unroutable of {n}", published.len());
        let mut outcomes = publisher.publish_all((n..n + 1_000).map(numbered));
        for n in n..n + 1_000 {
            match outcomes.next().await.unwrap() {
                Ok(_) => assert!(published.insert(n)),
                Err(PublishError::Unroutable { code: 312, .. }) => unroutable += 1,
                Err(other) => panic!("{other}"),
            }
        }
        n += 1_000;
    }
    flipping.store(false, Ordering::Relaxed);
    flipper.join().unwrap();
    publisher.publish(&numbered(n)).await.unwrap();
    published.insert(n);
    let mut arrived = BTreeSet::new();
    while !arrived.contains(&n) {
        arrived.insert(number(&running.next().await));
    }
    assert_eq!(arrived, published);
    publisher.close().await;
    running.handle.stop().await;
}

#[tokio::test]
async fn f28_an_observer_hears_of_each_message_once_before_and_once_after() {
    let mut rig = Rig::new();
    rig.raw.declare_exchange(&rig.exchange, "topic");
    let diary = Arc::new(Diary::default());
    let mut config = config(&rig);
    config.observer = Some(diary.clone());
    let publisher = Publisher::new(config).unwrap();
    let named = |id: &str| Notification::to_user(1).raw_json("{}").message_id(id).build().unwrap();
    publisher.publish(&named("a")).await.unwrap_err();
    let running = Running::start(rig.config()).await;
    let mut all = publisher.publish_all([named("b"), named("c")]);
    while let Some(outcome) = all.next().await {
        outcome.unwrap();
    }
    let told = diary.0.lock().unwrap().clone();
    for (id, outcome) in [("a", "unroutable"), ("b", "sent 1 times"), ("c", "sent 1 times")] {
        let of_it: Vec<_> = told.iter().filter(|line| line.split(' ').any(|word| word == id)).collect();
        assert_eq!(of_it, [&format!("before {id} request.client.notify"), &format!("{id} {outcome}")]);
    }
    assert_eq!(told.len(), 6);
    let stats = publisher.stats();
    assert_eq!((stats.published.get(), stats.unroutable.get()), (2, 1));
    publisher.close().await;
    running.handle.stop().await;
}

#[tokio::test]
async fn n21_a_window_outlives_its_connections_and_loses_nothing() {
    let rig = Rig::new();
    let proxy = Proxy::to(&rig.url.address());
    let mut running = Running::start(rig.config()).await;
    let mut config = config_at(&rig, proxy.port());
    config.attempts = 10;
    config.publish_timeout = PATIENCE;
    let publisher = Publisher::new(config).unwrap();
    let mut outcomes = publisher.publish_all((0..3_000).map(numbered));
    for n in 0..3_000 {
        outcomes.next().await.unwrap().unwrap();
        if n % 1_000 == 300 {
            proxy.break_connections();
        }
    }
    let mut arrived = BTreeSet::new();
    while arrived.len() < 3_000 {
        arrived.insert(number(&running.next().await));
    }
    assert!(publisher.stats().resent.get() > 0, "what was under way was sent again");
    publisher.close().await;
    running.handle.stop().await;
}

/// A channel.close with code 406 for channel 1, in the broker's name.
const REFUSAL: &[u8] = b"\x01\0\x01\0\0\0\x0f\0\x14\0\x28\x01\x96\x04late\0\0\0\0\xce";
/// What lapin answers, and the broker has not asked for.
const REFUSAL_OK: &[u8] = b"\x01\0\x01\0\0\0\x04\0\x14\0\x29\xce";

#[tokio::test]
async fn a_caller_that_takes_its_time_with_each_outcome_loses_no_message_to_the_clock() {
    let rig = Rig::new();
    let running = Running::start(rig.config()).await;
    let mut config = config(&rig);
    (config.window, config.publish_timeout) = (4, Duration::from_secs(1));
    let publisher = Publisher::new(config).unwrap();
    publisher.publish(&numbered(99)).await.unwrap();
    let mut outcomes = publisher.publish_all((0..12).map(numbered));
    for n in 0..12 {
        let outcome = outcomes.next().await.unwrap();
        assert!(matches!(&outcome, Ok(published) if published.attempts == 1), "{n}: {outcome:?}");
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
    assert_eq!(publisher.stats().resent.get(), 0);
    publisher.close().await;
    running.handle.stop().await;
}

#[tokio::test]
async fn while_the_caller_is_away_no_message_s_time_passes() {
    let rig = Rig::new();
    let proxy = Proxy::to(&rig.url.address());
    let mut running = Running::start(rig.config()).await;
    let mut config = config_at(&rig, proxy.port());
    config.publish_timeout = Duration::from_secs(1);
    let publisher = Publisher::new(config).unwrap();
    publisher.publish(&numbered(99)).await.unwrap();
    running.next().await;
    proxy.hold();
    let mut outcomes = publisher.publish_all((0..2).map(numbered));
    let early = tokio::time::timeout(Duration::from_millis(200), outcomes.next()).await;
    assert!(early.is_err(), "{early:?}");
    assert_eq!((number(&running.next().await), number(&running.next().await)), (0, 1));
    // The confirms come a little after the caller is back, who is away for longer than a message may take.
    std::thread::sleep(Duration::from_millis(1_500));
    let later = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        proxy.release_with(&[]);
        proxy
    });
    for _ in 0..2 {
        assert_eq!(outcomes.next().await.unwrap().map(|published| published.attempts), Ok(1));
    }
    drop(later.await);
    publisher.close().await;
    running.handle.stop().await;
}

#[tokio::test]
async fn a_message_s_time_begins_when_there_is_room_to_send_it() {
    let rig = Rig::new();
    let proxy = Arc::new(Proxy::to(&rig.url.address()));
    let running = Running::start(rig.config()).await;
    let mut config = config_at(&rig, proxy.port());
    (config.window, config.publish_timeout) = (1, Duration::from_secs(2));
    let publisher = Publisher::new(config).unwrap();
    publisher.publish(&numbered(99)).await.unwrap();
    let mut outcomes = publisher.publish_all((0..2).map(numbered));
    for n in 0..2 {
        // Both confirms together take longer than a message may.
        proxy.hold();
        let later = proxy.clone();
        let release = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(1_300)).await;
            later.release_with(&[]);
        });
        let outcome = outcomes.next().await.unwrap();
        assert!(outcome.is_ok(), "{n}: {outcome:?}");
        release.await.unwrap();
    }
    publisher.close().await;
    running.handle.stop().await;
}

#[tokio::test]
async fn what_is_sent_again_because_of_another_message_s_refusal_says_so() {
    let rig = Rig::new();
    let proxy = Proxy::to(&rig.url.address());
    let mut running = Running::start(rig.config()).await;
    let mut config = config_at(&rig, proxy.port());
    (config.attempts, config.publish_timeout) = (10, PATIENCE);
    let publisher = Publisher::new(config).unwrap();
    publisher.publish(&numbered(99)).await.unwrap();
    running.next().await;
    proxy.hold();
    let mut outcomes = publisher.publish_all((0..8).map(numbered));
    let early = tokio::time::timeout(Duration::from_millis(200), outcomes.next()).await;
    assert!(early.is_err(), "{early:?}");
    for n in 0..8 {
        assert_eq!(number(&running.next().await), n);
    }
    // All are in the queue, and no confirm comes.
    tokio::time::sleep(Duration::from_millis(200)).await;
    proxy.forget();
    proxy.keep_from_broker(REFUSAL_OK);
    proxy.say_to_last(REFUSAL);
    let mut sent = 0;
    while let Some(outcome) = outcomes.next().await {
        let published = outcome.unwrap();
        assert!(published.attempts > 1, "{published:?}");
        sent += u64::from(published.attempts);
    }
    assert_eq!(publisher.stats().resent.get(), sent - 8);
    publisher.close().await;
    running.handle.stop().await;
}

/// Two lobbies of a kind: each answers what asks, with its name, as the lobby does.
async fn answering(rig: &Rig, instances: [&'static str; 2]) -> (notify_amqp::ConsumerHandle, Publisher) {
    let (replies, asked) = tokio::sync::mpsc::channel::<Reply>(1_000);
    let dispatch = move |delivery: Delivery, _: Ticket| {
        let request =
            ReceiptRequest::read(delivery.headers(), delivery.reply_to(), delivery.correlation_id());
        let Ok(Some(request)) = request else { return };
        for instance in instances {
            let receipt = Receipt {
                instance: instance.to_owned(),
                message_id: delivery.message_id().map(str::to_owned),
                outcome: ReceiptOutcome::Written,
                reason: Some(format!("{} {}", request.scope.as_str(), request.correlation_id)),
                sessions_matched: 1,
                sessions_written: 1,
                sessions_overflowed: 0,
                micros: 5,
            };
            let (reply_to, correlation_id) = (request.reply_to.into(), request.correlation_id.into());
            replies
                .try_send(Reply { reply_to, correlation_id, kind: "lobby.receipt", body: receipt.to_json() })
                .unwrap();
        }
    };
    let handle = Consumer::spawn(rig.config(), dispatch).unwrap();
    handle.status().wait_for(ConsumerStatus::is_consuming).await.unwrap();
    let publisher = Publisher::new(config(rig)).unwrap();
    let sending = publisher.clone();
    tokio::spawn(async move {
        let source =
            futures_util::stream::unfold(asked, async |mut asked| Some((asked.recv().await?, asked)));
        let mut outcomes = sending.send_replies(source);
        while let Some(outcome) = outcomes.next().await {
            outcome.unwrap();
        }
    });
    (handle, publisher)
}

#[tokio::test]
async fn receipts_are_collected_by_the_message_that_asked_until_there_are_enough() {
    let rig = Rig::new();
    let (handle, lobbies) = answering(&rig, ["a", "b"]).await;
    let publisher = Publisher::new(config(&rig)).unwrap();
    let tasks: Vec<_> = (0..100)
        .map(|n| {
            let publisher = publisher.clone();
            tokio::spawn(async move {
                let wait = ReceiptWait::lobbies(2, PATIENCE);
                let answered = publisher.publish_with_receipt(&numbered(n), wait).await.unwrap();
                let mut from: Vec<_> = answered.receipts.iter().map(|r| r.instance.as_str()).collect();
                from.sort_unstable();
                assert_eq!(from, ["a", "b"]);
                let id = &answered.published.message_id;
                for receipt in &answered.receipts {
                    assert_eq!(receipt.message_id.as_ref(), Some(id));
                    assert_eq!(receipt.reason, Some(format!("all {id}")));
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let first = ReceiptWait::first(PATIENCE);
    let own = Notification::to_user(1).raw_json("{}").correlation_id("order-12").build().unwrap();
    let answered = publisher.publish_with_receipt(&own, first).await.unwrap();
    let [receipt] = &answered.receipts[..] else { panic!("{answered:?}") };
    assert_eq!(receipt.reason.as_deref(), Some("written-only order-12"));
    publisher.close().await;
    lobbies.close().await;
    handle.stop().await;
}

#[tokio::test]
async fn m15_receipts_can_be_collected_after_further_messages() {
    let rig = Rig::new();
    let (handle, lobbies) = answering(&rig, ["a", "b"]).await;
    let publisher = Publisher::new(config(&rig)).unwrap();
    let mut asked = Vec::new();
    for n in 0..20 {
        asked.push(publisher.publish_asking(&numbered(n), ReceiptScope::All).await.unwrap());
    }
    // Receipts come in order: with the last one's all the others' are here, and a wait that is over does not lose them.
    let last = asked.pop().unwrap().receipts(2, PATIENCE).await;
    assert_eq!(last.receipts.len(), 2);
    for asked in asked {
        let id = asked.published.message_id.clone();
        let answered = asked.receipts(2, Duration::ZERO).await;
        let reasons: Vec<_> = answered.receipts.iter().map(|receipt| receipt.reason.clone()).collect();
        assert_eq!(reasons, vec![Some(format!("all {id}")); 2]);
    }
    publisher.close().await;
    lobbies.close().await;
    handle.stop().await;
}

#[tokio::test]
async fn without_an_answer_the_wait_ends_in_time_and_a_lost_reply_queue_is_made_again() {
    let rig = Rig::new();
    let proxy = Proxy::to(&rig.url.address());
    let mut running = Running::start(rig.config()).await;
    let publisher = Publisher::new(config_at(&rig, proxy.port())).unwrap();
    let brief = ReceiptWait::everyone(Duration::from_millis(100));
    let answered = publisher.publish_with_receipt(&numbered(1), brief).await.unwrap();
    assert_eq!(answered.receipts, []);
    running.next().await;
    running.handle.stop().await;
    proxy.break_connections();
    let (handle, lobbies) = answering(&rig, ["a", "b"]).await;
    let end = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < end, "no receipts after the connection was lost");
        let wait = ReceiptWait::lobbies(2, Duration::from_secs(2));
        match publisher.publish_with_receipt(&numbered(2), wait).await {
            Ok(answered) if answered.receipts.len() == 2 => break,
            Ok(_) | Err(PublishError::Connection(_)) => {}
            Err(other) => panic!("{other}"),
        }
    }
    publisher.close().await;
    lobbies.close().await;
    handle.stop().await;
}

#[tokio::test]
async fn a_lost_reply_queue_ends_the_wait_and_is_told() {
    let rig = Rig::new();
    let proxy = Proxy::to(&rig.url.address());
    let running = Running::start(rig.config()).await;
    let publisher = Publisher::new(config_at(&rig, proxy.port())).unwrap();
    let asked = publisher.publish_asking(&numbered(1), ReceiptScope::All).await.unwrap();
    proxy.break_connections();
    let answered = asked.receipts(1, Duration::MAX).await;
    assert!(answered.inbox_lost && answered.receipts.is_empty(), "{answered:?}");
    let asked = publisher.publish_asking(&numbered(2), ReceiptScope::All).await.unwrap();
    publisher.close().await;
    assert!(asked.receipts(1, Duration::MAX).await.inbox_lost, "closing the publisher ends the wait");
    let publisher = Publisher::new(config_at(&rig, proxy.port())).unwrap();
    let brief = ReceiptWait::lobbies(1, Duration::from_millis(50));
    assert!(!publisher.publish_with_receipt(&numbered(3), brief).await.unwrap().inbox_lost);
    publisher.close().await;
    running.handle.stop().await;
}

#[tokio::test]
async fn many_who_ask_for_receipts_of_a_silent_broker_end_together() {
    let rig = Rig::new();
    let proxy = Proxy::to(&rig.url.address());
    let running = Running::start(rig.config()).await;
    proxy.set_black_hole(true);
    let mut config = config_at(&rig, proxy.port());
    config.publish_timeout = Duration::from_millis(400);
    let publisher = Publisher::new(config).unwrap();
    let start = Instant::now();
    let asking = (0..20).map(|n| {
        let publisher = publisher.clone();
        async move { publisher.publish_asking(&numbered(n), ReceiptScope::All).await }
    });
    for outcome in futures_util::future::join_all(asking).await {
        let (after, stage) = (Duration::from_millis(400), PublishStage::Connecting);
        assert_eq!(outcome.map(|asked| asked.published), Err(PublishError::TimedOut { after, stage }));
    }
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    publisher.close().await;
    running.handle.stop().await;
}

#[tokio::test]
async fn a_first_host_that_swallows_everything_costs_no_message() {
    let rig = Rig::new();
    let running = Running::start(rig.config()).await;
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let hosts = [silent.local_addr().unwrap().to_string(), rig.url.address()];
    let hosts = hosts.iter().map(|host| host.parse().unwrap()).collect();
    let mut config = config(&rig);
    config.broker.url = rig.url.clone().with_hosts(hosts).unwrap();
    let publisher = Publisher::new(config).unwrap();
    publisher.publish(&numbered(1)).await.unwrap();
    publisher.close().await;
    running.handle.stop().await;
}

#[tokio::test]
async fn a_time_without_end_is_no_panic() {
    let rig = Rig::new();
    let running = Running::start(rig.config()).await;
    let mut config = config(&rig);
    config.publish_timeout = Duration::MAX;
    let publisher = Publisher::new(config).unwrap();
    publisher.publish(&numbered(1)).await.unwrap();
    publisher.close().await;
    running.handle.stop().await;
}

#[tokio::test]
async fn a_reply_to_a_queue_that_is_gone_costs_nothing() {
    let rig = Rig::new();
    let publisher = Publisher::new(config(&rig)).unwrap();
    let reply = |queue: &str| Reply {
        reply_to: queue.into(),
        correlation_id: "c".into(),
        kind: "lobby.receipt",
        body: b"{}".into(),
    };
    let queue = format!("lobby-receipts.{}", rig.exchange);
    let mut raw = rig.another_raw();
    raw.declare_queue(&queue, false, b"");
    let replies = vec![reply(&queue), reply("lobby-receipts.gone"), reply(&queue), reply(&"x".repeat(256))];
    let mut outcomes = publisher.send_replies(futures_util::stream::iter(replies));
    for _ in 0..3 {
        assert!(outcomes.next().await.unwrap().is_ok());
    }
    let refused = outcomes.next().await.unwrap();
    assert_eq!(refused, Err(PublishError::NameTooLong { what: "reply-to", len: 256 }));
    assert_eq!(raw.queue(&queue), Some((2, 0)));
    raw.delete_queue(&queue);
    let mut raw = rig.another_raw();
    raw.declare_exchange(&rig.exchange, "topic");
    publisher.close().await;
}
