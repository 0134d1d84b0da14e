//! Receipts come to the message that asked, and a reply queue that is lost or gone costs nothing.

use std::time::{Duration, Instant};

use notify_amqp::{
    Consumer, ConsumerStatus, Delivery, PublishError, PublishStage, Publisher, ReceiptWait, Reply, Ticket,
};
use notify_protocol::{Notification, Receipt, ReceiptOutcome, ReceiptRequest, ReceiptScope};

use crate::{
    proxy::Proxy,
    publishing::{config, config_at, numbered},
    rig::{PATIENCE, Rig, Running},
};

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
