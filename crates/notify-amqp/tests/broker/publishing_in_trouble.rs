//! What a publisher meets whose broker is away, silent or unwilling, or whose own program is slow.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use notify_amqp::{BrokerConfig, ConsumerError, PublishError, PublishStage, Publisher, PublisherConfig};

use crate::{
    management,
    proxy::Proxy,
    publishing::{config, config_at, message, number, numbered},
    rig::{PATIENCE, Rig, Running, threads},
};

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
