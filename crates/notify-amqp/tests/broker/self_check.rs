//! What looks connected and hears nothing is found and repaired.

use std::{
    sync::mpsc,
    time::{Duration, Instant},
};

use notify_amqp::{
    BrokerUrl, Consumer, ConsumerConfig, ConsumerStatus, Delivery, Hindrance, SelfCheck, SelfCheckConfig,
    SelfCheckFault, SelfCheckVerdict, Ticket, canary_key, instance_queue,
};

use crate::{
    management,
    proxy::Proxy,
    rig::{PATIENCE, Rig, Running},
    swallowing::{Swallow, SwallowingProxy},
};

const INTERVAL: Duration = Duration::from_millis(100);
/// Long enough for a machine that others use.
const MAX_AGE: Duration = Duration::from_secs(3);

fn checked(mut config: ConsumerConfig) -> ConsumerConfig {
    let mut check = SelfCheckConfig::default();
    (check.interval, check.max_age) = (INTERVAL, MAX_AGE);
    config.self_check = Some(check);
    config
}

fn key(rig: &Rig) -> String {
    canary_key(&instance_queue(&rig.exchange, &rig.instance).unwrap())
}

fn canaries(check: &SelfCheck, outcome: &str) -> u64 {
    check.canaries().find(|(label, _)| *label == outcome).unwrap().1
}

fn repairs(check: &SelfCheck, fault: SelfCheckFault) -> u64 {
    check.repairs().find(|(found, _)| *found == fault).unwrap().1
}

async fn until(what: &str, check: &SelfCheck, test: impl Fn(&SelfCheck) -> bool) -> Duration {
    let start = Instant::now();
    while !test(check) {
        assert!(start.elapsed() < PATIENCE, "not {what}: {:?}, {check:?}", check.verdict());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    start.elapsed()
}

/// Waits for `more` canaries from now on.
async fn hears(check: &SelfCheck, more: u64) {
    let wanted = canaries(check, "received") + more;
    until("hearing", check, |check| canaries(check, "received") >= wanted).await;
    assert_eq!(check.verdict(), SelfCheckVerdict::Hears);
}

/// Starts a consumer that hears its canaries.
async fn start(config: ConsumerConfig) -> (Running, SelfCheck) {
    let running = Running::start(checked(config)).await;
    let check = running.handle.self_check().unwrap();
    hears(&check, 2).await;
    (running, check)
}

#[tokio::test]
async fn canaries_come_through_the_queue_and_count_as_no_delivery() {
    let mut rig = Rig::new();
    let (mut running, check) = start(rig.config()).await;
    rig.publish_numbers(0..3);
    assert_eq!(running.numbers(3).await, [0, 1, 2]);
    hears(&check, 3).await;
    running.until_stat("settled", |stats| stats.acked.get() == 3).await;
    let stats = running.handle.stats();
    assert_eq!((stats.deliveries.get(), stats.acked.get(), stats.failures.get()), (3, 3, 0));
    assert!(check.age().unwrap() < MAX_AGE);
    running.handle.stop().await;
    assert_eq!(check.verdict(), SelfCheckVerdict::NotConsuming);
    assert!(running.deliveries.recv().await.is_none(), "no canary was handed over");
}

#[tokio::test]
async fn the_canary_of_one_consumer_reaches_no_other() {
    let rig = Rig::new();
    let mut other = rig.config();
    other.topology.queue = instance_queue(&rig.exchange, "other").unwrap();
    let mut silent = Running::start(other).await;
    let (running, _check) = start(rig.config()).await;
    silent.handle.stop().await;
    assert!(silent.deliveries.recv().await.is_none());
    running.handle.stop().await;
    rig.another_raw().delete_queue(instance_queue(&rig.exchange, "other").unwrap().as_str());
}

#[tokio::test]
async fn canaries_of_an_earlier_process_are_taken_and_prove_nothing() {
    let mut rig = Rig::new();
    let (mut running, check) = start(rig.config()).await;
    let confirmed = canaries(&check, "confirmed");
    for _ in 0..1000 {
        rig.raw.publish(&rig.exchange, &key(&rig), 0, b"", b"canary 0000000000000001 1");
    }
    rig.publish_numbers(0..1);
    assert_eq!(running.numbers(1).await, [0]);
    hears(&check, 1).await;
    assert!(canaries(&check, "received") < confirmed + 500);
    running.handle.stop().await;
    assert_eq!(rig.raw.queue(&rig.queue).unwrap().1, 0);
}

#[tokio::test]
async fn a_removed_binding_of_notifications_is_made_again_at_the_next_canary() {
    let mut rig = Rig::new();
    let (mut running, check) = start(rig.config()).await;
    rig.raw.unbind(&rig.queue, &rig.exchange, "request.client.notify");
    // The second canary from now on is published after a whole round.
    hears(&check, 2).await;
    rig.publish_numbers(0..1);
    assert_eq!(running.numbers(1).await, [0]);
    assert_eq!(running.handle.stats().reconnects.get(), 0);
    running.handle.stop().await;
}

#[tokio::test]
async fn removed_bindings_are_noticed_by_the_canary_that_comes_back() {
    let mut rig = Rig::new();
    let (mut running, check) = start(rig.config()).await;
    rig.raw.unbind(&rig.queue, &rig.exchange, "request.client.notify");
    rig.raw.unbind(&rig.queue, &rig.exchange, &key(&rig));
    // A round may have made them again before its canary was published.
    let start = Instant::now();
    while repairs(&check, SelfCheckFault::Binding) == 0 {
        assert!(start.elapsed() < PATIENCE);
        rig.raw.unbind(&rig.queue, &rig.exchange, &key(&rig));
        tokio::time::sleep(INTERVAL / 3).await;
    }
    hears(&check, 2).await;
    rig.publish_numbers(0..1);
    assert_eq!(running.numbers(1).await, [0]);
    assert_eq!(running.handle.stats().reconnects.get(), 0);
    running.handle.stop().await;
}

#[tokio::test]
async fn f29_a_deleted_exchange_is_declared_and_bound_again() {
    let mut rig = Rig::new();
    let (mut running, check) = start(rig.config()).await;
    rig.raw.delete_exchange(&rig.exchange);
    until("repaired", &check, |check| repairs(check, SelfCheckFault::Exchange) == 1).await;
    hears(&check, 2).await;
    rig.publish_numbers(0..1);
    assert_eq!(running.numbers(1).await, [0]);
    running.handle.stop().await;
}

#[tokio::test]
async fn n19_a_queue_that_was_deleted_without_a_word_is_declared_again() {
    let mut rig = Rig::new();
    let proxy = SwallowingProxy::to(&rig.url.address());
    let (mut running, check) = start(rig.config_at(rig.url_with_port(proxy.port()))).await;
    proxy.swallow(Swallow::Cancels);
    rig.raw.delete_queue(&rig.queue);
    until("repaired", &check, |check| repairs(check, SelfCheckFault::Queue) == 1).await;
    hears(&check, 2).await;
    rig.publish_numbers(0..1);
    assert_eq!(running.numbers(1).await, [0]);
    running.handle.stop().await;
}

#[tokio::test]
async fn n19_a_queue_that_has_lost_its_consumer_without_a_word_is_consumed_again() {
    let mut rig = Rig::new();
    let proxy = SwallowingProxy::to(&rig.url.address());
    let (mut running, check) = start(rig.config_at(rig.url_with_port(proxy.port()))).await;
    proxy.swallow(Swallow::Cancels);
    rig.raw.delete_queue(&rig.queue);
    // x-expires: 600,000 ms, as the consumer declares it.
    rig.raw.declare_queue(&rig.queue, true, b"\x09x-expiresl\0\0\0\0\0\x09\x27\xc0");
    // A round between the two calls finds no queue at all.
    let repaired =
        |check: &SelfCheck| repairs(check, SelfCheckFault::Consumer) + repairs(check, SelfCheckFault::Queue);
    until("repaired", &check, |check| repaired(check) == 1).await;
    hears(&check, 2).await;
    rig.publish_numbers(0..1);
    assert_eq!(running.numbers(1).await, [0]);
    running.handle.stop().await;
}

#[tokio::test]
async fn n19_deliveries_that_get_stuck_on_the_way_are_noticed_and_the_connection_is_made_again() {
    let mut rig = Rig::new();
    let proxy = SwallowingProxy::to(&rig.url.address());
    let (mut running, check) = start(rig.config_at(rig.url_with_port(proxy.port()))).await;
    proxy.swallow(Swallow::Deliveries);
    rig.publish_numbers(0..1);
    let took = until("deaf", &check, |check| matches!(check.verdict(), SelfCheckVerdict::Deaf { .. })).await;
    assert!(took >= MAX_AGE - Duration::from_millis(500), "{took:?}");
    until("repaired", &check, |check| repairs(check, SelfCheckFault::Deliveries) == 1).await;
    // Connected again, and still deaf: it is not trusted before it has heard something.
    running.until_stat("reconnected", |stats| stats.reconnects.get() == 1).await;
    running.until("consuming", ConsumerStatus::is_consuming).await;
    assert!(matches!(check.verdict(), SelfCheckVerdict::Deaf { .. }), "{:?}", check.verdict());
    until("repaired", &check, |check| repairs(check, SelfCheckFault::Deliveries) == 2).await;
    proxy.swallow(Swallow::Nothing);
    hears(&check, 1).await;
    let got = running.next().await;
    assert_eq!((got.number(), got.redelivered), (0, true));
    running.handle.stop().await;
}

#[tokio::test]
async fn a_thread_that_is_stuck_in_the_dispatch_is_deaf_until_it_goes_on() {
    let mut rig = Rig::new();
    let (open_gate, gate) = mpsc::sync_channel::<()>(0);
    let dispatch = move |_: Delivery, _: Ticket| {
        let _ = gate.recv(); // once the test has dropped its end, this returns at once
    };
    let handle = Consumer::spawn(checked(rig.config()), dispatch).unwrap();
    let check = handle.self_check().unwrap();
    hears_through(&check).await;
    rig.publish_numbers(0..1);
    until("deaf", &check, |check| matches!(check.verdict(), SelfCheckVerdict::Deaf { .. })).await;
    drop(open_gate);
    until("hearing", &check, |check| check.verdict() == SelfCheckVerdict::Hears).await;
    handle.stop().await;
}

/// The oldest message is in work for longer than silence may last: alone, and with canaries that wait behind it for
/// their acks until they fill the prefetch.
#[tokio::test]
async fn a_handler_that_takes_longer_than_silence_may_last_is_not_cut_off() {
    for prefetch in [1, 4] {
        let mut rig = Rig::new();
        let mut config = rig.config();
        config.prefetch = prefetch;
        let (mut running, check) = start(config).await;
        rig.publish_numbers(0..1);
        let in_work = running.next().await;
        until("busy", &check, |check| check.verdict() == SelfCheckVerdict::Busy).await;
        tokio::time::sleep(MAX_AGE + MAX_AGE / 2).await;
        assert_eq!(check.verdict(), SelfCheckVerdict::Busy, "prefetch {prefetch}");
        drop(in_work);
        hears(&check, 1).await;
        rig.publish_numbers(1..2);
        let next = running.next().await;
        assert_eq!((next.number(), next.redelivered), (1, false), "prefetch {prefetch}");
        let stats = running.handle.stats();
        assert_eq!((stats.connects.get(), stats.stale.get()), (1, 0), "prefetch {prefetch}");
        drop(next);
        running.handle.stop().await;
    }
}

#[tokio::test]
async fn a_broker_that_does_not_answer_the_self_check_keeps_the_consumer() {
    let mut rig = Rig::new();
    let proxy = SwallowingProxy::to(&rig.url.address());
    let mut config = rig.config_at(rig.url_with_port(proxy.port()));
    config.broker.call_timeout = Duration::from_millis(500);
    let (mut running, check) = start(config).await;
    proxy.swallow(Swallow::OtherChannels);
    // Longer than several calls may take, and than silence may last.
    let end = Instant::now() + MAX_AGE * 2;
    while Instant::now() < end {
        hears(&check, 1).await;
    }
    rig.publish_numbers(0..1);
    assert_eq!(running.numbers(1).await, [0]);
    proxy.swallow(Swallow::Nothing);
    rig.raw.unbind(&rig.queue, &rig.exchange, "request.client.notify");
    // What it asks is answered again, and it repairs again.
    let end = Instant::now() + PATIENCE;
    let got = loop {
        assert!(Instant::now() < end, "the binding is not back");
        rig.publish_numbers(1..2);
        tokio::time::sleep(INTERVAL).await;
        if let Ok(got) = running.deliveries.try_recv() {
            break got;
        }
    };
    assert_eq!(got.number(), 1);
    drop(got);
    assert_eq!(running.handle.stats().connects.get(), 1);
    running.handle.stop().await;
}

/// The user loses the permission to bind while the consumer runs: the broker closes the self-check's channel, not the
/// consumer's.
#[tokio::test]
async fn a_refusal_of_the_self_check_s_own_calls_silences_no_delivery() {
    let mut rig = Rig::new();
    let user = format!("b-{}", rig.exchange);
    management::put_user(&user, "pw");
    management::put_permissions(&user, ".*", ".*", ".*");
    let proxy = SwallowingProxy::to(&rig.url.address());
    let url = BrokerUrl::from_parts("127.0.0.1", proxy.port(), &user, "pw", rig.url.vhost()).unwrap();
    let mut config = rig.config_at(url);
    config.broker.call_timeout = Duration::from_millis(500);
    let (mut running, check) = start(config).await;
    // A channel remembers what it was allowed: the self-check is made to open another one.
    proxy.swallow(Swallow::OtherChannels);
    tokio::time::sleep(Duration::from_secs(1)).await;
    // Binding takes the right to write to the queue; canaries are published to the exchange.
    management::put_permissions(&user, ".*", &format!("^{}$", rig.exchange), ".*");
    proxy.swallow(Swallow::Nothing);
    let end = Instant::now() + MAX_AGE * 2;
    while Instant::now() < end {
        hears(&check, 1).await;
    }
    rig.publish_numbers(0..1);
    assert_eq!(running.numbers(1).await, [0]);
    assert_eq!(running.handle.stats().connects.get(), 1);
    running.handle.stop().await;
    management::delete_user(&user);
}

async fn hears_through(check: &SelfCheck) {
    until("hearing", check, |check| canaries(check, "received") >= 1).await;
}

#[tokio::test]
async fn a_broker_that_blocks_publishers_leaves_the_verdict_open_and_consuming_goes_on() {
    const BLOCKED: &[u8] = b"\x01\0\0\0\0\0\x08\0\x0a\0\x3c\x03low\xce";
    const UNBLOCKED: &[u8] = b"\x01\0\0\0\0\0\x04\0\x0a\0\x3d\xce";
    let mut rig = Rig::new();
    let proxy = Proxy::to(&rig.url.address());
    let (mut running, check) = start(rig.config_at(rig.url_with_port(proxy.port()))).await;
    // The connection that canaries are published on; the consumer's publishes nothing and is never blocked.
    proxy.say_to_last(BLOCKED);
    let blocked = SelfCheckVerdict::Unknown { hindrance: Hindrance::Blocked };
    until("blocked", &check, |check| check.verdict() == blocked).await;
    tokio::time::sleep(MAX_AGE + INTERVAL).await;
    assert_eq!(check.verdict(), blocked, "for longer than a canary may be missing");
    rig.publish_numbers(0..1);
    assert_eq!(running.numbers(1).await, [0]);
    proxy.say_to_last(UNBLOCKED);
    hears(&check, 1).await;
    assert_eq!(running.handle.stats().failures.get(), 0);
    running.handle.stop().await;
}

#[tokio::test]
async fn a_user_who_may_not_publish_leaves_the_verdict_open_and_consumes() {
    let mut rig = Rig::new();
    let user = format!("reader-{}", rig.exchange);
    management::put_user(&user, "pw");
    // To bind, a user writes to the queue and reads from the exchange.
    let queue = rig.queue.replace('.', "[.]");
    management::put_permissions(&user, ".*", &format!("^{queue}$"), ".*");
    let mut running = Running::start(checked(rig.config_at(rig.url_as(&user, "pw")))).await;
    let check = running.handle.self_check().unwrap();
    let refused = |check: &SelfCheck| {
        matches!(check.verdict(), SelfCheckVerdict::Unknown { hindrance: Hindrance::Refused { .. } })
    };
    until("refused", &check, refused).await;
    tokio::time::sleep(MAX_AGE + INTERVAL * 2).await;
    assert!(refused(&check), "{:?}", check.verdict());
    assert_eq!(canaries(&check, "refused"), 1, "the broker is not asked at each interval");
    rig.publish_numbers(0..1);
    assert_eq!(running.numbers(1).await, [0]);
    assert_eq!(running.handle.stats().failures.get(), 0);
    running.handle.stop().await;
    management::delete_user(&user);
}

#[tokio::test]
async fn a_canary_that_nobody_takes_expires() {
    let mut rig = Rig::new();
    let proxy = SwallowingProxy::to(&rig.url.address());
    let (running, check) = start(rig.config_at(rig.url_with_port(proxy.port()))).await;
    proxy.swallow(Swallow::Deliveries);
    let confirmed = canaries(&check, "confirmed");
    until("published", &check, |check| canaries(check, "confirmed") >= confirmed + 5).await;
    running.handle.stop().await;
    let start = Instant::now();
    while rig.raw.queue(&rig.queue).unwrap().0 > 0 {
        assert!(start.elapsed() < PATIENCE, "{:?}", rig.raw.queue(&rig.queue));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(start.elapsed() < MAX_AGE * 3);
}
