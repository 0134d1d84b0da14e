use std::time::{Duration, Instant};

use notify_amqp::{BrokerUrl, ConsumerStatus};

use crate::rig::{Rig, Running};

#[tokio::test]
async fn stop_acks_what_was_completed_even_behind_a_gap_and_returns_the_rest() {
    let mut rig = Rig::new();
    let mut config = rig.config();
    config.stop_timeout = Duration::from_millis(200);
    let mut running = Running::start(config).await;
    rig.publish_numbers(0..10);
    let mut held = Vec::new();
    for _ in 0..10 {
        held.push(running.next().await);
    }
    // 3 and 7 stay open; everything else is completed.
    let open: Vec<_> = held.into_iter().filter(|got| [3, 7].contains(&got.number())).collect();
    let stopped = running.handle.stop().await;
    assert_eq!((stopped.unfinished, stopped.clean), (2, true));
    drop(open);
    let mut again = Running::start(rig.config()).await;
    let returned = [again.next().await, again.next().await];
    assert_eq!(returned.each_ref().map(|got| (got.number(), got.redelivered)), [(3, true), (7, true)]);
    drop(returned);
    again.handle.stop().await;
    assert_eq!(rig.raw.queue(&rig.queue), Some((0, 0)));
}

#[tokio::test]
async fn stop_waits_for_open_deliveries_and_then_is_quick() {
    let mut rig = Rig::new();
    let mut running = Running::start(rig.config()).await;
    rig.publish_numbers(0..1);
    let got = running.next().await;
    let status = running.handle.status();
    let stop = tokio::spawn(running.handle.stop());
    let mut stopping = status.clone();
    stopping.wait_for(|status| *status == ConsumerStatus::Stopping).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!stop.is_finished(), "it waits");
    let start = Instant::now();
    drop(got);
    let stopped = stop.await.unwrap();
    assert_eq!((stopped.unfinished, stopped.clean), (0, true));
    assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
    assert_eq!(*status.borrow(), ConsumerStatus::Stopped);
    assert_eq!(rig.raw.queue(&rig.queue), Some((0, 0)));
}

#[tokio::test]
async fn stop_dispatches_nothing_more_and_what_was_prefetched_goes_back() {
    let mut rig = Rig::new();
    let mut running = Running::start(rig.config().with_prefetch(10)).await;
    rig.publish_numbers(0..100);
    let first = running.next().await;
    let stop = tokio::spawn(running.handle.stop());
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(first);
    stop.await.unwrap();
    let mut dispatched = 1;
    while running.deliveries.try_recv().is_ok() {
        dispatched += 1;
    }
    let (ready, consumers) = rig.raw.queue(&rig.queue).unwrap();
    // Those that were dispatched but still lay in the test's buffer were open, and go back too.
    assert!(ready >= 100 - dispatched && consumers == 0, "{ready} ready, {dispatched} dispatched");
}

#[tokio::test]
async fn stop_works_while_there_is_no_broker() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let rig = Rig::new();
    let url = BrokerUrl::from_parts("127.0.0.1", closed, "guest", "guest", "/").unwrap();
    let running = Running::spawn(rig.config_at(url));
    running.until("waiting", |status| matches!(status, ConsumerStatus::Waiting { .. })).await;
    let start = Instant::now();
    let stopped = running.handle.stop().await;
    assert!(!stopped.clean);
    assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
}

#[tokio::test]
async fn dropping_the_handle_stops_the_consumer_too() {
    let mut rig = Rig::new();
    let running = Running::start(rig.config()).await;
    let mut status = running.handle.status();
    drop(running);
    status.wait_for(|status| *status == ConsumerStatus::Stopped).await.unwrap();
    assert_eq!(rig.raw.queue(&rig.queue), Some((0, 0)));
}
