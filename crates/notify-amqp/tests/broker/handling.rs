//! Handlers, against a real broker: what each outcome does to the message.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use notify_amqp::{
    Consumer, ConsumerBuilder, ConsumerHandle, ConsumerStats, ConsumerStatus, Delivery, Handler, Outcome,
    QueueType, StopReason,
};
use tokio::{
    sync::{Semaphore, mpsc},
    time::timeout,
};

use crate::{
    management,
    rig::{PATIENCE, Rig, Running},
};

/// What a test's handler is asked to do, in the message's body: a number and a word.
fn words(delivery: &Delivery) -> (u32, String) {
    let text = String::from_utf8_lossy(delivery.body()).into_owned();
    let (number, word) = text.split_once(' ').unwrap();
    (number.parse().unwrap(), word.to_owned())
}

fn outcome(word: &str) -> Outcome {
    match word {
        "ack" => Outcome::Ack,
        "requeue" => Outcome::Requeue,
        "reject" => Outcome::Reject,
        "halt" => Outcome::Halt { code: 3, requeue: false },
        "halt-requeue" => Outcome::Halt { code: 4, requeue: true },
        _ => panic!("this is the test's panic"),
    }
}

fn publish(rig: &mut Rig, number: u32, word: &str) {
    let exchange = rig.exchange.clone();
    rig.raw.publish_plain(&exchange, format!("{number} {word}").as_bytes());
}

async fn started(builder: ConsumerBuilder, handler: impl Handler) -> ConsumerHandle {
    let handle = builder.handle(handler).unwrap();
    let mut status = handle.status();
    timeout(PATIENCE, status.wait_for(ConsumerStatus::is_consuming)).await.unwrap().unwrap();
    handle
}

async fn until(stats: &ConsumerStats, what: &str, test: impl Fn(&ConsumerStats) -> bool) {
    let end = tokio::time::Instant::now() + PATIENCE;
    while !test(stats) {
        assert!(tokio::time::Instant::now() < end, "not {what}: {stats:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Notes each message with its flag `redelivered`, then does as it says.
fn obedient() -> (impl Handler, mpsc::Receiver<(u32, bool)>) {
    let (seen, log) = mpsc::channel(10_000);
    let handler = move |delivery: Delivery| {
        let seen = seen.clone();
        async move {
            let (number, word) = words(&delivery);
            seen.try_send((number, delivery.redelivered())).unwrap();
            outcome(&word)
        }
    };
    (handler, log)
}

/// A queue that keeps what the rig's queue dead-letters.
fn dead_letters(rig: &mut Rig) -> (String, String) {
    let (exchange, queue) = (format!("{}-dlx", rig.exchange), format!("{}-dlq", rig.exchange));
    rig.raw.declare_exchange(&exchange, "fanout");
    rig.raw.declare_queue(&queue, true, b"");
    rig.raw.bind(&queue, &exchange, "");
    (exchange, queue)
}

async fn waiting(rig: &Rig, queue: &str, messages: u32) {
    let (mut raw, end) = (rig.another_raw(), tokio::time::Instant::now() + PATIENCE);
    while raw.queue(queue).map(|(ready, _)| ready) != Some(messages) {
        assert!(tokio::time::Instant::now() < end, "not {messages} in {queue}: {:?}", raw.queue(queue));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn f07_n11_n12_k09_each_outcome_does_its_work_and_a_requeue_happens_once() {
    let mut rig = Rig::new();
    let (dlx, dlq) = dead_letters(&mut rig);
    let mut config = rig.config();
    config.topology.options.dead_letter_exchange = Some(dlx.clone());
    let (handler, mut log) = obedient();
    let handle = started(config.into(), handler).await;
    for (number, word) in ["ack", "reject", "requeue", "ack"].into_iter().enumerate() {
        publish(&mut rig, number as u32, word);
    }
    let mut seen = Vec::new();
    for _ in 0..5 {
        seen.push(timeout(PATIENCE, log.recv()).await.unwrap().unwrap());
    }
    seen.sort_unstable();
    assert_eq!(seen, [(0, false), (1, false), (2, false), (2, true), (3, false)]);
    let stats = handle.stats();
    until(&stats, "settled", |stats| stats.acked.get() + stats.rejected.get() == 4).await;
    waiting(&rig, &dlq, 2).await;
    let counts =
        (stats.acked.get(), stats.requeued.get(), stats.rejected.get(), stats.requeues_refused.get());
    assert_eq!(counts, (2, 1, 2, 1));
    assert_eq!((stats.connects.get(), stats.stale.get()), (1, 0));
    handle.stop().await;
    assert!(log.try_recv().is_err(), "nothing circles");
    assert_eq!(rig.raw.queue(&rig.queue), Some((0, 0)));
    rig.raw.delete_queue(&dlq);
    rig.raw.delete_exchange(&dlx);
}

#[tokio::test]
async fn n12_a_quorum_queue_gives_a_message_back_up_to_its_delivery_limit() {
    let mut rig = Rig::new();
    let mut config = rig.config();
    config.topology.options.queue_type = Some(QueueType::Quorum);
    config.topology.options.delivery_limit = Some(3);
    let (handler, mut log) = obedient();
    let handle = started(config.into(), handler).await;
    publish(&mut rig, 0, "requeue");
    publish(&mut rig, 1, "ack");
    let stats = handle.stats();
    until(&stats, "given back", |stats| stats.requeued.get() == 4 && stats.acked.get() == 1).await;
    waiting(&rig, &rig.queue, 0).await;
    handle.stop().await;
    let mut times = 0;
    while let Ok((number, _)) = log.try_recv() {
        times += u32::from(number == 0);
    }
    assert_eq!(times, 4, "once, and three more times");
    assert_eq!(stats.requeues_refused.get(), 0, "the queue's limit decided");
}

#[tokio::test]
async fn f07_a_halt_settles_stops_and_carries_its_code() {
    for (word, code, left) in [("halt", 3, 1), ("halt-requeue", 4, 2)] {
        let mut rig = Rig::new();
        let (handler, mut log) = obedient();
        let handle = started(Consumer::builder(rig.config().broker, rig.config().topology), handler).await;
        for (number, word) in ["ack", word, "ack"].into_iter().enumerate() {
            publish(&mut rig, number as u32, word);
        }
        let stopped = timeout(PATIENCE, handle.join()).await.unwrap();
        assert_eq!((stopped.reason, stopped.exit_code()), (StopReason::Halted { code }, code));
        assert_eq!((stopped.clean, stopped.unfinished), (true, 0));
        assert_eq!((log.try_recv(), log.try_recv()), (Ok((0, false)), Ok((1, false))));
        assert!(log.try_recv().is_err(), "nothing was begun after the halt");
        waiting(&rig, &rig.queue, left).await;
    }
}

#[tokio::test]
async fn f30_a_halt_waits_for_what_is_in_work() {
    let mut rig = Rig::new();
    let go_on = Arc::new(Semaphore::new(0));
    let gate = go_on.clone();
    let handler = move |delivery: Delivery| {
        let gate = gate.clone();
        async move {
            let (_, word) = words(&delivery);
            if word == "ack" {
                gate.acquire().await.unwrap().forget();
            }
            outcome(&word)
        }
    };
    let handle = started(ConsumerBuilder::from(rig.config()).concurrency(2), handler).await;
    let (stats, mut status) = (handle.stats(), handle.status());
    publish(&mut rig, 0, "ack");
    publish(&mut rig, 1, "halt");
    let stopping = |status: &ConsumerStatus| matches!(status, ConsumerStatus::Stopping);
    timeout(PATIENCE, status.wait_for(stopping)).await.unwrap().unwrap();
    go_on.add_permits(1);
    let stopped = timeout(PATIENCE, handle.join()).await.unwrap();
    assert_eq!((stopped.exit_code(), stopped.unfinished, stats.acked.get()), (3, 0, 2));
}

#[tokio::test]
async fn f08_n13_a_panic_rejects_its_message_and_the_consumer_goes_on() {
    let mut rig = Rig::new();
    let (dlx, dlq) = dead_letters(&mut rig);
    let mut config = rig.config();
    config.topology.options.dead_letter_exchange = Some(dlx.clone());
    let (handler, _log) = obedient();
    let handle = started(config.into(), handler).await;
    for (number, word) in ["ack", "panic", "ack"].into_iter().enumerate() {
        publish(&mut rig, number as u32, word);
    }
    let stats = handle.stats();
    until(&stats, "settled", |stats| stats.acked.get() == 2 && stats.rejected.get() == 1).await;
    waiting(&rig, &dlq, 1).await;
    assert_eq!((stats.dispatch_panics.get(), stats.connects.get()), (1, 1));
    handle.stop().await;
    rig.raw.delete_queue(&dlq);
    rig.raw.delete_exchange(&dlx);
}

#[tokio::test]
async fn f02_outcomes_of_all_kinds_out_of_order_settle_each_message_once() {
    const MESSAGES: u32 = 3000;
    let mut rig = Rig::new();
    let times: Arc<Mutex<BTreeMap<u32, u32>>> = Arc::default();
    let seen = times.clone();
    let handler = move |delivery: Delivery| {
        let (number, word) = words(&delivery);
        *seen.lock().unwrap().entry(number).or_default() += 1;
        async move {
            for _ in 0..number % 7 {
                tokio::task::yield_now().await;
            }
            outcome(&word)
        }
    };
    let builder = ConsumerBuilder::from(rig.config()).prefetch(50).concurrency(8);
    let handle = started(builder, handler).await;
    let word = |number: u32| ["ack", "ack", "ack", "reject", "ack", "requeue"][(number % 6) as usize];
    for number in 0..MESSAGES {
        publish(&mut rig, number, word(number));
    }
    let stats = handle.stats();
    let settled = |stats: &ConsumerStats| stats.acked.get() + stats.rejected.get() == u64::from(MESSAGES);
    until(&stats, "settled", settled).await;
    let sixth = u64::from(MESSAGES) / 6;
    assert_eq!((stats.acked.get(), stats.requeued.get()), (4 * sixth, sixth));
    assert_eq!((stats.rejected.get(), stats.requeues_refused.get()), (2 * sixth, sixth));
    assert_eq!((stats.connects.get(), stats.failures.get()), (1, 0), "no tag was settled twice");
    handle.stop().await;
    assert_eq!(rig.raw.queue(&rig.queue), Some((0, 0)));
    let times = times.lock().unwrap();
    let expected = |number: &u32| 1 + u32::from(word(*number) == "requeue");
    assert!(times.iter().all(|(number, times)| *times == expected(number)), "{times:?}");
    assert_eq!(times.len(), MESSAGES as usize);
}

#[tokio::test]
async fn a_handler_that_blocks_its_thread_does_not_lose_the_connection() {
    let mut rig = Rig::new();
    let mut config = rig.config();
    config.broker.heartbeat = Duration::from_secs(1);
    // All there is for the handler is one thread, which it blocks for longer than the broker waits for heartbeats.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let builder = ConsumerBuilder::from(config).runtime(runtime.handle().clone());
    let handler = |_: Delivery| {
        std::thread::sleep(Duration::from_secs(4));
        async { Outcome::Ack }
    };
    let handle = started(builder, handler).await;
    publish(&mut rig, 0, "ack");
    let stats = handle.stats();
    until(&stats, "acked", |stats| stats.acked.get() == 1).await;
    assert_eq!((stats.connects.get(), stats.failures.get(), stats.dispatch_stalls.get()), (1, 0, 0));
    handle.stop().await;
    runtime.shutdown_background();
}

#[tokio::test]
async fn n18_k25_what_is_finished_after_its_connection_was_lost_settles_nothing_and_comes_again() {
    let mut rig = Rig::new();
    let go_on = Arc::new(Semaphore::new(0));
    let (gate, (seen, mut log)) = (go_on.clone(), mpsc::channel(100));
    let handler = move |delivery: Delivery| {
        let (gate, seen) = (gate.clone(), seen.clone());
        async move {
            seen.try_send((words(&delivery).0, delivery.redelivered())).unwrap();
            gate.acquire().await.unwrap().forget();
            Outcome::Ack
        }
    };
    let handle = started(rig.config().into(), handler).await;
    let stats = handle.stats();
    publish(&mut rig, 0, "ack");
    publish(&mut rig, 1, "ack");
    assert_eq!(timeout(PATIENCE, log.recv()).await.unwrap(), Some((0, false)));
    management::close_connection(&format!("test {}", rig.exchange)).await;
    until(&stats, "consuming again", |stats| stats.connects.get() == 2).await;
    go_on.add_permits(1);
    until(&stats, "late", |stats| stats.stale.get() == 1).await;
    go_on.add_permits(2);
    until(&stats, "acked", |stats| stats.acked.get() == 2).await;
    assert_eq!((log.recv().await, log.recv().await), (Some((0, true)), Some((1, true))));
    assert_eq!((stats.stale.get(), stats.connects.get()), (1, 2), "the late ack closed no channel");
    handle.stop().await;
    assert_eq!(rig.raw.queue(&rig.queue), Some((0, 0)));
}

#[tokio::test]
async fn f11_a_cancelled_consumer_ends_where_that_is_wanted() {
    let mut rig = Rig::new();
    let (handler, _log) = obedient();
    let handle = started(ConsumerBuilder::from(rig.config()).stop_on_cancel(true), handler).await;
    let queue = rig.queue.clone();
    rig.raw.delete_queue(&queue);
    let stopped = timeout(PATIENCE, handle.join()).await.unwrap();
    assert_eq!((stopped.reason, stopped.exit_code()), (StopReason::Cancelled, 75));
    assert_eq!(rig.raw.queue(&queue), None, "it was not declared again");
}

#[tokio::test]
async fn n11_a_ticket_can_requeue_and_reject_too() {
    let mut rig = Rig::new();
    let mut running = Running::start(rig.config()).await;
    rig.publish_numbers(0..3);
    let mut got = Vec::new();
    for _ in 0..3 {
        got.push(running.next().await.ticket.unwrap());
    }
    let mut tickets = got.into_iter();
    let outcomes = [Outcome::Requeue, Outcome::Reject, Outcome::Ack];
    tickets.by_ref().zip(outcomes).for_each(|(ticket, outcome)| ticket.settle(outcome));
    let again = running.next().await;
    assert_eq!((again.number(), again.redelivered), (0, true));
    drop(again);
    running.until_stat("settled", |stats| stats.acked.get() == 2 && stats.rejected.get() == 1).await;
    running.handle.stop().await;
    assert_eq!(rig.raw.queue(&rig.queue), Some((0, 0)));
}
