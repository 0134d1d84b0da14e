//! What the consumer says of itself while it gets nowhere.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{future::pending, time::Duration};

use notify_amqp::{
    BrokerConfig, BrokerUrl, Consumer, ConsumerConfig, ConsumerStatus, Delivery, Ticket, Topology,
    instance_queue,
};
use tokio::net::TcpListener;

/// A broker that hangs up on the first who calls, and leaves the second waiting.
#[tokio::test]
async fn while_it_tries_again_it_still_says_what_went_wrong_before() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = tokio::spawn(async move {
        drop(listener.accept().await);
        let _waits = listener.accept().await;
        pending::<()>().await;
    });
    let url = BrokerUrl::from_parts("127.0.0.1", port, "u", "p", "/").unwrap();
    let topology = Topology::new("x", instance_queue("x", "i").unwrap());
    let config = ConsumerConfig::new(BrokerConfig::new(url, "test"), topology);
    let handle = Consumer::spawn(config, |_: Delivery, ticket: Ticket| drop(ticket)).unwrap();
    let mut status = handle.status();
    let again = status.wait_for(|status| matches!(status, ConsumerStatus::Connecting { attempt: 2, .. }));
    let again = tokio::time::timeout(Duration::from_secs(30), again).await.unwrap().unwrap().clone();
    let ConsumerStatus::Connecting { after: Some(failure), .. } = again else { panic!("{again:?}") };
    let (text, address) = (failure.error.to_string(), format!("127.0.0.1:{port}"));
    assert!(text.contains(&address), "{text}");
    assert_eq!(failure.hint, failure.error.hint());
    handle.stop().await;
    serving.abort();
}
