use std::time::Duration;

use crate::{
    management,
    rig::{PATIENCE, Rig, Running},
};

#[tokio::test]
async fn exchange_queue_and_binding_are_declared_as_the_contract_says() {
    let rig = Rig::new();
    let running = Running::start(rig.config()).await;
    let (queue, bindings) = (management::queue(&rig.queue), management::bindings(&rig.queue));
    let exchange = management::exchange(&rig.exchange);
    assert_eq!((&exchange["type"], &exchange["durable"]), (&"topic".into(), &true.into()));
    assert_eq!(queue["durable"], true);
    assert_eq!((&queue["exclusive"], &queue["auto_delete"]), (&false.into(), &false.into()));
    assert_eq!(queue["arguments"]["x-expires"], 600_000);
    let bound = bindings.as_array().unwrap().iter().find(|b| b["source"] == rig.exchange.as_str()).unwrap();
    assert_eq!(bound["routing_key"], "request.client.notify");
    running.handle.stop().await;
}

#[tokio::test]
async fn f04_n07_several_bindings_on_several_exchanges_reach_one_queue() {
    let mut rig = Rig::new();
    let maps = format!("{}-maps", rig.exchange);
    rig.raw.declare_exchange(&maps, "direct");
    let mut config = rig.config();
    config.topology.routing_keys.push("chat.#".into());
    config.topology.more_bindings.push(notify_amqp::Binding {
        exchange: maps.clone(),
        routing_keys: vec!["added".into(), "removed".into()],
    });
    let mut running = Running::start(config).await;
    for (number, (exchange, key)) in [
        (rig.exchange.as_str(), "request.client.notify"),
        (&rig.exchange, "chat.room.1"),
        (&maps, "added"),
        (&maps, "changed"),
        (&maps, "removed"),
    ]
    .into_iter()
    .enumerate()
    {
        rig.raw.publish(exchange, key, 0, b"", number.to_string().as_bytes());
    }
    assert_eq!(running.numbers(4).await, [0, 1, 2, 4], "`changed` is not bound");
    running.handle.stop().await;
    rig.raw.delete_exchange(&maps);
}

#[tokio::test]
async fn deliveries_come_in_order_and_are_acked_in_batches() {
    let mut rig = Rig::new();
    let mut running = Running::start(rig.config()).await;
    rig.publish_numbers(0..5000);
    assert_eq!(running.numbers(5000).await, (0..5000).collect::<Vec<_>>());
    running.until_stat("all acked", |stats| stats.acked.get() == 5000).await;
    let stats = running.handle.stats();
    assert!(stats.ack_frames.get() <= 1000, "{} ack frames", stats.ack_frames.get());
    assert_eq!((stats.redelivered.get(), stats.connects.get(), stats.unacked.get()), (0, 1, 0));
    running.handle.stop().await;
    assert_eq!(rig.raw.queue(&rig.queue), Some((0, 0)), "nothing came back, nobody consumes");
}

#[tokio::test]
async fn what_waits_when_consuming_begins_comes_in_order_on_the_consumers_own_thread() {
    let mut rig = Rig::new();
    Running::start(rig.config()).await.handle.stop().await;
    for round in 0..20 {
        rig.publish_numbers(0..300);
        let (sender, mut got) = tokio::sync::mpsc::channel(1000);
        let dispatch = move |delivery: notify_amqp::Delivery, _ticket: notify_amqp::Ticket| {
            let thread = std::thread::current().name().map(str::to_owned);
            sender.try_send((delivery.into_body(), thread)).unwrap();
        };
        let handle = notify_amqp::Consumer::spawn(rig.config(), dispatch).unwrap();
        for number in 0..300 {
            let next = tokio::time::timeout(PATIENCE, got.recv()).await.expect("the next delivery");
            let (body, thread) = next.unwrap();
            assert_eq!(body, number.to_string().into_bytes(), "round {round}");
            assert_eq!(thread.as_deref(), Some("amqp-consumer"));
        }
        let stopped = handle.stop().await;
        assert_eq!((stopped.unfinished, stopped.clean), (0, true));
        assert_eq!(rig.raw.queue(&rig.queue), Some((0, 0)));
    }
}

/// Sends each body, and an empty one at the end of a burst.
struct Bursts(tokio::sync::mpsc::Sender<Vec<u8>>);

impl notify_amqp::Dispatch for Bursts {
    fn dispatch(&mut self, delivery: notify_amqp::Delivery, _: notify_amqp::Ticket) {
        self.0.try_send(delivery.into_body()).unwrap();
    }

    fn burst_ends(&mut self) {
        self.0.try_send(Vec::new()).unwrap();
    }
}

#[tokio::test]
async fn every_delivery_is_followed_by_the_end_of_its_burst_before_the_consumer_waits() {
    let mut rig = Rig::new();
    let (sender, mut got) = tokio::sync::mpsc::channel(100);
    let handle = notify_amqp::Consumer::spawn(rig.config(), Bursts(sender)).unwrap();
    handle.status().wait_for(notify_amqp::ConsumerStatus::is_consuming).await.unwrap();
    for number in 0..20 {
        rig.publish_numbers(number..number + 1);
        let next = tokio::time::timeout(PATIENCE, got.recv()).await.expect("the next delivery");
        assert_eq!(next.unwrap(), number.to_string().into_bytes());
        // Sooner than the thread's next look at the connection, which would end the burst too.
        let end = tokio::time::timeout(Duration::from_millis(500), got.recv()).await;
        assert_eq!(end.expect("the burst ends"), Some(Vec::new()));
    }
    handle.stop().await;
    assert!(got.try_recv().is_err());
}

#[tokio::test]
async fn a_single_completion_is_acked_without_more_to_come() {
    let mut rig = Rig::new();
    let mut running = Running::start(rig.config()).await;
    rig.publish_numbers(0..1);
    let got = running.next().await;
    assert_eq!(running.handle.stats().acked.get(), 0);
    drop(got);
    running.until_stat("acked", |stats| stats.acked.get() == 1).await;
    running.handle.stop().await;
}

#[tokio::test]
async fn completions_that_trickle_in_share_one_ack_after_the_delay() {
    let mut rig = Rig::new();
    let mut config = rig.config();
    config.ack_delay = Duration::from_millis(500);
    let mut running = Running::start(config).await;
    rig.publish_numbers(0..3);
    for _ in 0..3 {
        drop(running.next().await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(running.handle.stats().acked.get(), 0, "not before the delay");
    running.until_stat("acked", |stats| stats.acked.get() == 3).await;
    assert_eq!(running.handle.stats().ack_frames.get(), 1);
    running.handle.stop().await;
}

#[tokio::test]
async fn what_is_open_holds_back_the_acks_behind_it_and_the_prefetch_bounds_it() {
    let mut rig = Rig::new();
    let mut running = Running::start(rig.config().with_prefetch(10)).await;
    rig.publish_numbers(0..30);
    let first = running.next().await;
    assert_eq!(running.numbers(9).await, (1..10).collect::<Vec<_>>());
    // The window is full; nine are complete behind a gap.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(running.deliveries.try_recv().is_err(), "an eleventh was delivered");
    assert_eq!(running.handle.stats().acked.get(), 0);
    drop(first);
    assert_eq!(running.numbers(20).await, (10..30).collect::<Vec<_>>());
    running.until_stat("all acked", |stats| stats.acked.get() == 30).await;
    running.handle.stop().await;
}

#[tokio::test]
async fn large_bodies_arrive_whole() {
    let mut rig = Rig::new();
    let mut running = Running::start(rig.config()).await;
    let body: Vec<u8> = (0..3_000_000_u32).map(|n| n as u8).collect();
    rig.raw.publish_plain(&rig.exchange, &body);
    assert!(running.next().await.body == body);
    running.handle.stop().await;
}

#[tokio::test]
async fn a_panic_of_the_dispatch_is_caught_and_consuming_goes_on() {
    let mut rig = Rig::new();
    let (sender, mut bodies) = tokio::sync::mpsc::channel(10);
    let dispatch = move |delivery: notify_amqp::Delivery, _ticket: notify_amqp::Ticket| {
        assert_ne!(delivery.body(), b"0", "this is the test's panic");
        sender.try_send(delivery.into_body()).unwrap();
    };
    let handle = notify_amqp::Consumer::spawn(rig.config(), dispatch).unwrap();
    handle.status().wait_for(notify_amqp::ConsumerStatus::is_consuming).await.unwrap();
    rig.publish_numbers(0..2);
    assert_eq!(bodies.recv().await.unwrap(), b"1");
    let stats = handle.stats();
    handle.stop().await;
    assert_eq!((stats.dispatch_panics.get(), stats.connects.get()), (1, 1));
    assert_eq!((stats.rejected.get(), stats.acked.get()), (1, 1));
}
