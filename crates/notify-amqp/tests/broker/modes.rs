//! Queue modes, queue options and ways to declare, as the broker sees them.

use std::time::Duration;

use notify_amqp::{
    Argument, ConsumerError, ConsumerStatus, Declare, Lifetime, Overflow, QueueMode, QueueOptions, QueueType,
};

use crate::{
    management,
    raw::{entry, sized},
    refusals::refusal,
    rig::{PATIENCE, Rig, Running},
};

fn in_use(status: &ConsumerStatus) -> bool {
    matches!(status, ConsumerStatus::Waiting { error, .. } if error.is_in_use())
}

async fn gone(rig: &mut Rig, queue: &str) {
    let end = tokio::time::Instant::now() + PATIENCE;
    while rig.raw.queue(queue).is_some() {
        assert!(tokio::time::Instant::now() < end, "{queue} stays");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn k03_each_message_of_a_shared_queue_goes_to_one_instance() {
    let mut rig = Rig::new();
    let mut first = Running::start(rig.shared(QueueMode::Shared, true).with_prefetch(1)).await;
    let mut second = Running::start(rig.shared(QueueMode::Shared, true).with_prefetch(1)).await;
    rig.publish_numbers(0..2);
    let (one, other) = (first.next().await, second.next().await);
    let mut both = [one.number(), other.number()];
    both.sort_unstable();
    assert_eq!(both, [0, 1], "with a prefetch of 1 each has one, and none has both");
    let queue = format!("{}.lobby.client.notify", rig.exchange);
    assert_eq!(rig.another_raw().queue(&queue), Some((0, 2)));
    drop((one, other));
    first.handle.stop().await;
    rig.publish_numbers(2..3);
    assert_eq!(second.next().await.number(), 2, "the other goes on");
    second.handle.stop().await;
    rig.raw.delete_queue(&queue);
}

#[tokio::test]
async fn k04_n09_of_singletons_one_consumes_and_the_next_takes_over() {
    let mut rig = Rig::new();
    let mut first = Running::start(rig.shared(QueueMode::Singleton, true)).await;
    let mut second = Running::spawn(rig.shared(QueueMode::Singleton, true));
    second.until("refused", in_use).await;
    rig.publish_numbers(0..3);
    assert_eq!(first.numbers(3).await, [0, 1, 2]);
    first.handle.stop().await;
    rig.publish_numbers(3..4);
    assert_eq!(second.next().await.number(), 3);
    second.handle.stop().await;
    rig.raw.delete_queue(&format!("{}.lobby.client.notify", rig.exchange));
}

#[tokio::test]
async fn n09_m10_who_finds_the_queue_taken_retries_ever_more_slowly() {
    let rig = Rig::new();
    let first = Running::start(rig.config()).await;
    let second = Running::spawn(rig.config());
    let attempt = |n| move |status: &ConsumerStatus| matches!(status, ConsumerStatus::Waiting { attempt, .. } if *attempt == n);
    let mut waits = Vec::new();
    for n in 1..=2 {
        let status = second.until("waiting", attempt(n)).await;
        let ConsumerStatus::Waiting { retry_in, error, .. } = status else { unreachable!() };
        assert!(error.is_in_use(), "{error}");
        waits.push(retry_in.as_millis());
    }
    assert!((500..=1000).contains(&waits[0]) && (1000..=2000).contains(&waits[1]), "{waits:?}");
    first.handle.stop().await;
    second.until("consuming once the first is gone", ConsumerStatus::is_consuming).await;
    second.handle.stop().await;
}

#[tokio::test]
async fn k07_m06_an_unreliable_instances_queue_is_exclusive_and_goes_with_it() {
    let mut rig = Rig::new();
    let mut config = rig.config();
    config.topology.options = QueueOptions::new(QueueMode::PerInstance, false);
    let mut running = Running::start(config.clone()).await;
    let queue = management::queue(&rig.queue);
    assert_eq!((&queue["exclusive"], &queue["durable"]), (&true.into(), &false.into()), "{queue}");
    let (error, hint) = refusal(config).await;
    assert!(error.is_in_use(), "{error}");
    assert!(hint.unwrap().contains(&rig.instance));
    rig.publish_numbers(0..1);
    assert_eq!(running.next().await.number(), 0);
    running.handle.stop().await;
    let queue = rig.queue.clone();
    gone(&mut rig, &queue).await;
}

#[tokio::test]
async fn k07_an_unreliable_shared_queue_goes_with_its_last_consumer() {
    let mut rig = Rig::new();
    let first = Running::start(rig.shared(QueueMode::Shared, false)).await;
    let second = Running::start(rig.shared(QueueMode::Shared, false)).await;
    let queue = format!("{}.lobby.client.notify", rig.exchange);
    first.handle.stop().await;
    assert_eq!(rig.raw.queue(&queue), Some((0, 1)));
    second.handle.stop().await;
    gone(&mut rig, &queue).await;
}

#[tokio::test]
async fn f03_n04_arguments_arrive_at_the_broker() {
    let rig = Rig::new();
    let mut config = rig.config();
    let options = &mut config.topology.options;
    options.message_ttl = Some(Duration::from_secs(9));
    (options.max_length, options.max_length_bytes) = (Some(10), Some(1 << 20));
    options.overflow = Some(Overflow::RejectPublish);
    options.max_priority = Some(3);
    options.dead_letter_exchange = Some("amq.fanout".into());
    let running = Running::start(config).await;
    let queue = management::queue(&rig.queue);
    for (name, expected) in [
        ("x-expires", 600_000),
        ("x-message-ttl", 9000),
        ("x-max-length", 10),
        ("x-max-length-bytes", 1 << 20),
        ("x-max-priority", 3),
    ] {
        assert_eq!(queue["arguments"][name], expected, "{name}: {queue}");
    }
    assert_eq!(queue["arguments"]["x-overflow"], "reject-publish");
    assert_eq!(queue["arguments"]["x-dead-letter-exchange"], "amq.fanout");
    running.handle.stop().await;
}

#[tokio::test]
async fn n12_a_quorum_queue_with_a_delivery_limit_is_consumed() {
    let mut rig = Rig::new();
    let mut config = rig.config();
    config.topology.options.queue_type = Some(QueueType::Quorum);
    config.topology.options.delivery_limit = Some(3);
    let mut running = Running::start(config).await;
    let queue = management::queue(&rig.queue);
    assert_eq!((&queue["type"], &queue["arguments"]["x-delivery-limit"]), (&"quorum".into(), &3.into()));
    rig.publish_numbers(0..1);
    assert_eq!(running.next().await.number(), 0);
    running.handle.stop().await;
}

#[tokio::test]
async fn a_quorum_queue_that_is_one_by_somebody_elses_choice_is_consumed() {
    let mut rig = Rig::new();
    rig.raw.declare_exchange(&rig.exchange, "topic");
    rig.raw.declare_queue(&rig.queue, true, &entry(b"x-queue-type", b'S', &sized(b"quorum")));
    rig.raw.bind(&rig.queue, &rig.exchange, "request.client.notify");
    let mut config = rig.config();
    config.topology.declare = Declare::Passive;
    let mut running = Running::start(config).await;
    assert_eq!(running.handle.stats().failures.get(), 0);
    rig.publish_numbers(0..1);
    assert_eq!(running.next().await.number(), 0);
    running.handle.stop().await;
}

#[tokio::test]
async fn the_broker_refuses_what_is_refused_before_connecting() {
    let rig = Rig::new();
    let quorum = || {
        let mut options = QueueOptions::default();
        options.queue_type = Some(QueueType::Quorum);
        options
    };
    let mut cases = vec![quorum(), quorum(), quorum(), QueueOptions::default()];
    cases[0].max_priority = Some(3);
    cases[1].lifetime = Lifetime::WhileConsumed;
    cases[2].lifetime = Lifetime::Connection;
    cases[3].delivery_limit = Some(3);
    for options in cases {
        let error = options.check().expect_err("refused here");
        let mut raw = rig.another_raw();
        let arguments: Vec<u8> = options
            .arguments()
            .into_iter()
            .flat_map(|(name, value)| match value {
                Argument::Number(number) => entry(name.as_bytes(), b'l', &(number as i64).to_be_bytes()),
                Argument::Bool(flag) => entry(name.as_bytes(), b't', &[flag.into()]),
                Argument::Text(text) => entry(name.as_bytes(), b'S', &sized(text.as_bytes())),
            })
            .collect();
        let bits = u8::from(options.durable()) << 1
            | u8::from(options.lifetime == Lifetime::Connection) << 2
            | u8::from(options.lifetime == Lifetime::WhileConsumed) << 3;
        assert_eq!(raw.try_declare_queue(&rig.queue, bits, &arguments), Err(406), "{error}");
    }
}

#[tokio::test]
async fn f06_passive_finds_what_is_there_and_makes_nothing() {
    let mut rig = Rig::new();
    let mut config = rig.config();
    config.topology.declare = Declare::Passive;
    let (error, _) = refusal(config.clone()).await;
    assert!(matches!(error, ConsumerError::NotFound { call: "exchange.declare", .. }), "{error}");
    rig.raw.declare_exchange(&rig.exchange, "fanout");
    let (error, _) = refusal(config.clone()).await;
    assert!(matches!(error, ConsumerError::NotFound { call: "queue.declare", .. }), "{error}");
    assert!(error.is_permanent() && rig.another_raw().queue(&rig.queue).is_none());
    // Of another type, with other arguments, not bound: all that is somebody else's business.
    rig.raw.declare_queue(&rig.queue, true, b"");
    let running = Running::start(config).await;
    let bound = management::bindings(&rig.queue);
    assert!(bound.as_array().unwrap().iter().all(|b| b["source"] == ""), "{bound}");
    running.handle.stop().await;
}

#[tokio::test]
async fn k02_without_declarations_the_queue_is_consumed_as_it_is() {
    let mut rig = Rig::new();
    let mut config = rig.config();
    config.topology.declare = Declare::None;
    let (error, hint) = refusal(config.clone()).await;
    assert!(matches!(error, ConsumerError::NotFound { call: "basic.consume", .. }), "{error}");
    assert!(hint.is_some());
    assert!(rig.another_raw().queue(&rig.queue).is_none(), "nothing was made");
    rig.raw.declare_queue(&rig.queue, true, b"");
    let mut running = Running::start(config).await;
    rig.raw.publish("", &rig.queue, 0, b"", b"7");
    assert_eq!(running.next().await.number(), 7);
    running.handle.stop().await;
    rig.raw.declare_exchange(&rig.exchange, "topic"); // for the rig to delete
}
