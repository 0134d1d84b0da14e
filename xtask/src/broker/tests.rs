//! The promises of [`Broker`], each on a real RabbitMQ: `cargo test -p xtask --features broker-tests`.

use std::path::PathBuf;

use serde_json::json;

use super::*;

async fn started() -> Broker {
    let mut progress = crate::progress::to_stderr();
    let options = BrokerOptions::from_env(false).expect("LOBBY_TEST_BROKER");
    Broker::start(&options, &mut progress).await.expect("a broker")
}

async fn answers(broker: &Broker) -> bool {
    let (host, port) = (broker.address.host(), broker.address.port());
    readiness::connection_start(host, port, Duration::from_secs(1)).await.is_ok()
}

/// What a native node leaves on the machine.
fn traces(broker: &Broker) -> Option<(PathBuf, u16)> {
    match &broker.node {
        Node::Native(node) => Some(node.traces()),
        Node::Container(_) | Node::Foreign => None,
    }
}

fn assert_no_traces(traces: Option<(PathBuf, u16)>) {
    let Some((directory, epmd_port)) = traces else { return };
    assert!(!directory.exists(), "{} is left", directory.display());
    assert!(std::net::TcpStream::connect(("127.0.0.1", epmd_port)).is_err(), "epmd is left on {epmd_port}");
}

#[tokio::test(flavor = "multi_thread")]
async fn vhosts_restart_kill_and_pause_work_and_nothing_is_left() {
    let broker = started().await;
    assert!(broker.is_ours(), "this test stops its broker: unset AMQP_URL");
    let management = broker.management().unwrap().clone();

    let one = broker.vhost("same").await.unwrap();
    let two = broker.vhost("same").await.unwrap();
    assert_ne!(one.name(), two.name());
    assert!(one.amqp_url().ends_with(one.name()) && !one.is_shared());
    let queue = format!("/queues/{}/durable", two.name());
    management.put(&queue, &json!({ "durable": true })).await.unwrap();
    let gone = format!("/vhosts/{}", one.name());
    drop(one);
    assert!(management.get(&gone).await.is_err(), "a dropped vhost is deleted");

    let address = broker.amqp_url();
    broker.shut_down().await.unwrap();
    broker.start_again().await.unwrap();
    assert_eq!(broker.amqp_url(), address);
    management.get(&queue).await.expect("a durable queue survives a restart");

    broker.kill().await.unwrap();
    assert!(!answers(&broker).await, "a killed broker answers");
    broker.start_again().await.unwrap();
    assert!(answers(&broker).await);

    broker.pause().await.unwrap();
    assert!(!answers(&broker).await, "a paused broker answers");
    broker.resume().await.unwrap();
    assert!(answers(&broker).await);
    two.delete().await.unwrap();

    let (traces, client) = (traces(&broker), management);
    broker.stop().await.unwrap();
    assert!(client.get("/overview").await.is_err(), "a stopped broker answers");
    assert_no_traces(traces);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_leaves_nothing_even_of_a_paused_broker() {
    let broker = started().await;
    assert!(broker.is_ours(), "this test stops its broker: unset AMQP_URL");
    let (traces, management) = (traces(&broker), broker.management().unwrap().clone());
    let panicked = tokio::spawn(async move {
        broker.pause().await.unwrap();
        panic!("on purpose, while a broker is held");
    });
    assert!(panicked.await.is_err());
    assert!(management.get("/overview").await.is_err(), "the broker outlived the panic");
    assert_no_traces(traces);
}
