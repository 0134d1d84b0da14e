use std::time::{Duration, Instant};

use notify_amqp::{BrokerConfig, ConsumerError, PublishError, PublishStage, Publisher, PublisherConfig};
use notify_protocol::{Message, Notification};

use crate::{
    management,
    proxy::Proxy,
    rig::{PATIENCE, Rig, Running, threads},
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
