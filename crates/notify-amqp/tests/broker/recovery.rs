use std::time::{Duration, Instant};

use notify_amqp::{Consumer, ConsumerError, ConsumerStatus, Delivery, Ticket};
use tokio::time::timeout;

use crate::{
    management,
    proxy::Proxy,
    raw::entry,
    rig::{PATIENCE, Rig, Running, threads},
    swallowing::{Swallow, SwallowingProxy},
};

fn waiting_for(test: impl Fn(&ConsumerError) -> bool) -> impl Fn(&ConsumerStatus) -> bool {
    move |status| matches!(status, ConsumerStatus::Waiting { error, .. } if test(error))
}

#[tokio::test]
async fn unacked_deliveries_come_back_marked_redelivered_after_the_link_broke() {
    let mut rig = Rig::new();
    let proxy = Proxy::to(&rig.url.address());
    let mut running = Running::start(rig.config_at(rig.url_with_port(proxy.port()))).await;
    rig.publish_numbers(0..3);
    let held = [running.next().await, running.next().await, running.next().await];
    proxy.break_connections();
    running.until_stat("reconnected", |stats| stats.reconnects.get() == 1).await;
    // Tickets of the dead channel complete into nothing: they must not ack the new channel's deliveries.
    drop(held);
    for expected in 0..3 {
        let got = running.next().await;
        assert_eq!((got.number(), got.redelivered), (expected, true));
    }
    running.until_stat("acked once", |stats| stats.acked.get() == 3).await;
    assert_eq!(running.handle.stats().redelivered.get(), 3);
    running.handle.stop().await;
    assert_eq!(rig.raw.queue(&rig.queue), Some((0, 0)));
}

#[tokio::test]
async fn a_connection_closed_by_the_operator_is_replaced() {
    let mut rig = Rig::new();
    let mut running = Running::start(rig.config()).await;
    management::close_connection(&format!("test {}", rig.exchange)).await;
    let closed = |error: &_| matches!(error, ConsumerError::ConnectionClosed { code: 320, .. });
    running.until_stat("failed", |stats| stats.failures.get() == 1).await;
    if let ConsumerStatus::Waiting { error, .. } = &*running.handle.status().borrow() {
        assert!(closed(error), "{error}");
    }
    running.until_stat("reconnected", |stats| stats.reconnects.get() == 1).await;
    rig.publish_numbers(0..1);
    assert_eq!(running.numbers(1).await, [0]);
    running.handle.stop().await;
}

#[tokio::test]
async fn a_deleted_queue_is_consumed_again_within_half_a_second() {
    let mut rig = Rig::new();
    let mut config = rig.config();
    config.backoff.stable_after = Duration::from_secs(1);
    let mut running = Running::start(config).await;
    let mut times = Vec::new();
    for round in 1..=5 {
        let start = Instant::now();
        rig.raw.delete_queue(&rig.queue);
        running.until_stat("consuming again", |stats| stats.reconnects.get() == round).await;
        times.push(start.elapsed());
        rig.publish_numbers(0..1);
        assert_eq!(running.numbers(1).await, [0], "declared and bound again");
        // A stable connection: the next wait is the first again.
        tokio::time::sleep(Duration::from_millis(1010)).await;
    }
    running.handle.stop().await;
    // The median: on a machine that others use, one round may wait for a processor.
    times.sort_unstable();
    assert!(times[2] < Duration::from_millis(500), "{times:?}");
}

#[tokio::test]
async fn a_queue_that_somebody_deletes_and_declares_again_at_once_is_consumed_again() {
    const ROUNDS: u64 = 30;
    const SENTINEL: u32 = 1_000_000;
    let mut rig = Rig::new();
    let arguments = entry(b"x-expires", b'I', &600_000_i32.to_be_bytes());
    let mut running = Running::start(rig.config()).await;
    let mut operator = rig.another_raw();
    for _ in 0..ROUNDS {
        let before = running.handle.stats().reconnects.get();
        // The broker learns of the end of a queue behind all the acks that it has to look at.
        rig.publish_numbers(0..2_000);
        drop(running.next().await);
        operator.replace_queue(&rig.queue, &arguments);
        running.until_stat("consuming again", |stats| stats.reconnects.get() > before).await;
        rig.publish_numbers(SENTINEL..SENTINEL + 1);
        while running.next().await.number() != SENTINEL {}
    }
    running.handle.stop().await;
}

#[tokio::test]
async fn n19_a_deleted_queue_is_reported_as_cancelled() {
    let mut rig = Rig::new();
    let mut config = rig.config();
    config.backoff.base = Duration::from_secs(2);
    let running = Running::start(config).await;
    rig.raw.delete_queue(&rig.queue);
    running.until("cancelled", waiting_for(|error| matches!(error, ConsumerError::Cancelled { .. }))).await;
    assert_eq!(running.handle.stats().cancelled.get(), 1);
    running.handle.stop().await;
    rig.raw.declare_queue(&rig.queue, false, b"");
}

#[tokio::test]
async fn a_silent_broker_is_noticed_within_two_heartbeats() {
    let mut rig = Rig::new();
    let proxy = Proxy::to(&rig.url.address());
    let mut config = rig.config_at(rig.url_with_port(proxy.port()));
    config.broker.heartbeat = Duration::from_secs(2);
    config.backoff.base = Duration::from_secs(2); // long enough to be seen waiting on a busy machine
    let mut running = Running::start(config).await;
    // Quiet for longer than two heartbeats: the heartbeats themselves keep it alive.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(running.handle.stats().failures.get(), 0);
    proxy.set_black_hole(true);
    let start = Instant::now();
    running
        .until("noticed", waiting_for(|error| matches!(error, ConsumerError::HeartbeatMissed { .. })))
        .await;
    let took = start.elapsed();
    assert!(took <= Duration::from_millis(4500), "took {took:?}");
    proxy.set_black_hole(false);
    proxy.break_connections();
    rig.publish_numbers(0..1);
    assert_eq!(running.numbers(1).await, [0]);
    running.handle.stop().await;
}

#[tokio::test]
async fn a_stream_of_deliveries_keeps_the_connection_alive_without_heartbeats() {
    let mut rig = Rig::new();
    let mut config = rig.config();
    config.broker.heartbeat = Duration::from_secs(2);
    let mut running = Running::start(config).await;
    for number in 0..160 {
        rig.publish_numbers(number..number + 1);
        assert_eq!(running.next().await.number(), number);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(running.handle.stats().failures.get(), 0);
    running.handle.stop().await;
}

/// Consumes with a heartbeat of 2 s and a dispatch that takes its time; returns how long it took in all.
async fn consume_slowly(messages: u32, each: Duration) -> Duration {
    let mut rig = Rig::new();
    let mut config = rig.config();
    config.broker.heartbeat = Duration::from_secs(2);
    let dispatch = move |_: Delivery, _: Ticket| std::thread::sleep(each);
    let handle = Consumer::spawn(config, dispatch).unwrap();
    handle.status().wait_for(ConsumerStatus::is_consuming).await.unwrap();
    let start = Instant::now();
    rig.publish_numbers(0..messages);
    let stats = handle.stats();
    while stats.acked.get() < messages.into() {
        assert_eq!(stats.failures.get(), 0, "the connection was lost");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!((stats.failures.get(), stats.redelivered.get()), (0, 0));
    let stalls = if each >= Duration::from_secs(1) { messages } else { 0 };
    assert_eq!(stats.dispatch_stalls.get(), u64::from(stalls));
    handle.stop().await;
    start.elapsed()
}

#[tokio::test]
async fn a_dispatch_that_blocks_for_longer_than_a_heartbeat_loses_nothing_but_time() {
    assert!(consume_slowly(3, Duration::from_millis(2500)).await >= Duration::from_secs(7));
}

#[tokio::test]
async fn a_batch_that_takes_the_dispatch_many_heartbeats_does_not_lose_the_connection() {
    assert!(consume_slowly(30, Duration::from_millis(400)).await >= Duration::from_secs(12));
}

#[tokio::test]
async fn a_broker_that_never_answers_does_not_hold_the_consumer() {
    let rig = Rig::new();
    let proxy = Proxy::to(&rig.url.address());
    proxy.set_black_hole(true);
    let mut config = rig.config_at(rig.url_with_port(proxy.port()));
    config.broker.connect_timeout = Duration::from_millis(300);
    let running = Running::spawn(config);
    let timed_out = |error: &_| matches!(error, ConsumerError::Unreachable { reason, .. } if reason.starts_with("no answer"));
    running.until("timed out", waiting_for(timed_out)).await;
    proxy.set_black_hole(false);
    running.until("consuming", ConsumerStatus::is_consuming).await;
    assert!(proxy.accepted() >= 2);
    running.handle.stop().await;
}

#[tokio::test]
async fn a_call_that_the_broker_does_not_answer_is_given_up_and_tried_anew() {
    let rig = Rig::new();
    let proxy = SwallowingProxy::to(&rig.url.address());
    let mut config = rig.config_at(rig.url_with_port(proxy.port()));
    config.broker.call_timeout = Duration::from_millis(300);
    for (what, named) in [(Swallow::OpenedChannels, "channel.open"), (Swallow::Prefetches, "basic.qos")] {
        proxy.swallow(what);
        let running = Running::spawn(config.clone());
        // Heartbeats come through meanwhile: nothing else ends the wait.
        let timed_out = |error: &_| matches!(error, ConsumerError::TimedOut { call, .. } if *call == named);
        running.until("timed out", waiting_for(timed_out)).await;
        proxy.swallow(Swallow::Nothing);
        running.until("consuming", ConsumerStatus::is_consuming).await;
        running.handle.stop().await;
    }
}

#[tokio::test]
async fn a_close_that_the_broker_does_not_answer_is_cut_short() {
    let rig = Rig::new();
    let proxy = SwallowingProxy::to(&rig.url.address());
    let running = Running::start(rig.config_at(rig.url_with_port(proxy.port()))).await;
    proxy.swallow(Swallow::Closes);
    timeout(PATIENCE, running.handle.stop()).await.expect("it ends without an answer");
}

#[tokio::test]
async fn connections_that_break_in_the_middle_of_deliveries_lose_and_reorder_nothing() {
    const MESSAGES: u32 = 3000;
    let mut rig = Rig::new();
    let proxy = Proxy::to(&rig.url.address());
    let mut running = Running::start(rig.config_at(rig.url_with_port(proxy.port()))).await;
    rig.publish_numbers(0..MESSAGES);
    let (mut next, mut redelivered) = (0, 0);
    while next < MESSAGES {
        let got = running.next().await;
        let number = got.number();
        assert!(number <= next, "{number} came where {next} was due: something was lost");
        assert!(number == next || got.redelivered, "{number} came again without the mark");
        redelivered += u32::from(number < next);
        next = next.max(number + 1);
        if number % 500 == 250 && !got.redelivered {
            proxy.break_connections();
        }
    }
    assert!(redelivered <= 6 * 200, "more came again than the prefetch allows: {redelivered}");
    running.until_stat("settled", |stats| stats.unacked.get() == 0).await;
    running.handle.stop().await;
    assert_eq!(rig.raw.queue(&rig.queue), Some((0, 0)));
}

/// Fewer than 30 threads of lapin beyond one per consumer: other tests run beside this one.
fn assert_no_threads_left() {
    let (io_threads, consumers) = (threads("lapin-io-loop"), threads("amqp-consumer"));
    assert!(io_threads <= consumers + 16, "{io_threads} threads of lapin for {consumers} consumers");
}

#[tokio::test]
async fn attempts_that_are_never_answered_leave_no_thread_behind() {
    let rig = Rig::new();
    let proxy = Proxy::to(&rig.url.address());
    proxy.set_black_hole(true);
    let mut config = rig.config_at(rig.url_with_port(proxy.port()));
    config.broker.connect_timeout = Duration::from_millis(50);
    config.backoff.cap = Duration::from_millis(10);
    let running = Running::spawn(config);
    running.until_stat("30 attempts", |stats| stats.failures.get() >= 30).await;
    assert_no_threads_left();
    proxy.set_black_hole(false);
    running.until("consuming", ConsumerStatus::is_consuming).await;
    running.handle.stop().await;
}

#[tokio::test]
async fn reconnecting_leaves_no_thread_behind() {
    let rig = Rig::new();
    let proxy = Proxy::to(&rig.url.address());
    let mut config = rig.config_at(rig.url_with_port(proxy.port()));
    config.backoff.stable_after = Duration::ZERO;
    let running = Running::start(config).await;
    for round in 1..=30 {
        proxy.break_connections();
        running.until_stat("reconnected", |stats| stats.reconnects.get() == round).await;
        running.until("consuming", ConsumerStatus::is_consuming).await;
    }
    assert_no_threads_left();
    running.handle.stop().await;
}

#[tokio::test]
async fn a_binding_that_was_removed_is_back_after_a_reconnect() {
    let mut rig = Rig::new();
    let proxy = Proxy::to(&rig.url.address());
    let mut running = Running::start(rig.config_at(rig.url_with_port(proxy.port()))).await;
    rig.raw.unbind(&rig.queue, &rig.exchange, "request.client.notify");
    proxy.break_connections();
    running.until_stat("reconnected", |stats| stats.reconnects.get() == 1).await;
    rig.publish_numbers(0..1);
    assert_eq!(running.numbers(1).await, [0]);
    running.handle.stop().await;
}

/// channel.close: 406, as when an ack comes too late.
const CLOSE: &[u8] = b"\x01\0\x01\0\0\0\x0f\0\x14\0\x28\x01\x96\x04late\0\0\0\0\xce";

#[tokio::test]
async fn deliveries_that_waited_in_a_dead_channel_are_not_forwarded() {
    let mut rig = Rig::new();
    let proxy = Proxy::to(&rig.url.address());
    let (open_gate, gate) = std::sync::mpsc::sync_channel::<()>(0);
    let (sender, mut seen) = tokio::sync::mpsc::channel(1000);
    let dispatch = move |delivery: Delivery, _: Ticket| {
        sender.try_send((delivery.redelivered(), delivery.into_body())).unwrap();
        let _ = gate.recv(); // once the test has dropped its end, this returns at once
    };
    let handle = Consumer::spawn(rig.config_at(rig.url_with_port(proxy.port())), dispatch).unwrap();
    handle.status().wait_for(ConsumerStatus::is_consuming).await.unwrap();
    proxy.hold();
    rig.publish_numbers(0..100);
    while rig.raw.queue(&rig.queue).unwrap().0 > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    // lapin reads the deliveries and the channel's end in one go; the dispatch holds the first, if it came that far.
    proxy.release_with(CLOSE);
    tokio::time::sleep(Duration::from_millis(200)).await;
    drop(open_gate);
    let (mut next, mut from_dead_channel) = (0_u32, 0);
    while next < 100 {
        let (redelivered, body) = seen.recv().await.unwrap();
        if redelivered {
            assert_eq!(body, next.to_string().into_bytes());
            next += 1;
        } else {
            from_dead_channel += 1;
        }
    }
    assert!(from_dead_channel <= 1, "{from_dead_channel} were forwarded when the channel was dead");
    handle.stop().await;
}

#[tokio::test]
async fn a_channel_that_the_broker_closes_is_replaced_and_there_is_one_consumer() {
    let mut rig = Rig::new();
    let proxy = Proxy::to(&rig.url.address());
    let mut config = rig.config_at(rig.url_with_port(proxy.port()));
    config.backoff.base = Duration::from_secs(2);
    let mut running = Running::start(config).await;
    rig.publish_numbers(0..2);
    let held = [running.next().await, running.next().await];
    proxy.say(CLOSE);
    let closed =
        |error: &_| matches!(error, ConsumerError::ChannelClosed { code: 406, text } if text == "late");
    running.until("closed", waiting_for(closed)).await;
    running.until("consuming", ConsumerStatus::is_consuming).await;
    drop(held);
    for expected in 0..2 {
        let got = running.next().await;
        assert_eq!((got.number(), got.redelivered), (expected, true));
    }
    assert_eq!(rig.raw.queue(&rig.queue).unwrap().1, 1, "one consumer");
    running.handle.stop().await;
}

#[tokio::test]
async fn a_delivery_cut_at_any_byte_is_never_forwarded_in_part() {
    let mut rig = Rig::new();
    let proxy = Proxy::to(&rig.url.address());
    let mut config = rig.config_at(rig.url_with_port(proxy.port()));
    config.backoff.base = Duration::from_millis(2);
    config.backoff.stable_after = Duration::ZERO;
    let mut running = Running::start(config).await;
    let mut cuts = 0;
    loop {
        let body = format!("body {cuts:04} must come whole").into_bytes();
        proxy.break_after(cuts);
        rig.raw.publish_headers(&rig.exchange, b"\x07user-idI\0\0\0\x2a", &body);
        let got = loop {
            let got = running.next().await;
            assert_eq!(got.headers, [("user-id".to_owned(), "integer 42".to_owned())]);
            if got.body == body {
                break got;
            }
            // An earlier one, whose ack was lost with its connection.
            assert!(got.redelivered && got.body.len() == body.len() && got.body < body, "{got:?}");
        };
        if !got.redelivered {
            break; // the cut is behind the delivery
        }
        cuts += 1;
    }
    assert!(cuts > 100, "method, header and body frame were cut at {cuts} places");
    running.handle.stop().await;
}
