//! What is published arrives, and each message has its outcome.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use notify_amqp::{
    BrokerConfig, PublishError, PublishObserver, Published, Publisher, PublisherConfig, Publishing,
};
use notify_protocol::{Message, Notification};

use crate::{
    proxy::Proxy,
    rig::{Got, PATIENCE, Rig, Running},
};

pub(crate) fn message(text: &str) -> Message {
    Notification::to_user(42).raw_json(format!(r#"{{"command":"{text}"}}"#)).build().unwrap()
}

pub(crate) fn config(rig: &Rig) -> PublisherConfig {
    PublisherConfig::new(
        BrokerConfig::new(rig.url.clone(), format!("publisher {}", rig.exchange)),
        &rig.exchange,
    )
}

pub(crate) fn config_at(rig: &Rig, port: u16) -> PublisherConfig {
    let broker = BrokerConfig::new(rig.url_with_port(port), format!("publisher {}", rig.exchange));
    PublisherConfig::new(broker, &rig.exchange)
}
pub(crate) fn numbered(n: u32) -> Message {
    Notification::to_user(42).raw_json(format!(r#"{{"n":{n}}}"#)).build().unwrap()
}

/// Which of the numbered messages this is.
pub(crate) fn number(got: &Got) -> u32 {
    let text = String::from_utf8_lossy(&got.body);
    let digits = text.strip_prefix(r#"{"n":"#).and_then(|rest| rest.strip_suffix('}'));
    digits.and_then(|digits| digits.parse().ok()).unwrap_or_else(|| panic!("{text}"))
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
