use std::time::Duration;

use notify_amqp::{BrokerUrl, ConsumerConfig, ConsumerError, ConsumerStatus};

use crate::{
    management,
    rig::{Rig, Running},
};

/// The first error with which the consumer waits, and its hint.
pub async fn refusal(config: ConsumerConfig) -> (ConsumerError, Option<String>) {
    let running = Running::spawn(config);
    let status = running.until("refused", |status| matches!(status, ConsumerStatus::Waiting { .. })).await;
    assert_eq!(running.handle.stats().connected.get(), 0);
    running.handle.stop().await;
    let ConsumerStatus::Waiting { error, hint, .. } = status else { unreachable!() };
    ((*error).clone(), hint)
}

#[tokio::test]
async fn a_second_lobby_with_the_same_instance_is_refused_and_told_why() {
    let rig = Rig::new();
    let first = Running::start(rig.config()).await;
    let second = Running::spawn(rig.config());
    let in_use = |status: &_| matches!(status, ConsumerStatus::Waiting { error, .. } if matches!(**error, ConsumerError::ExclusiveInUse { .. }));
    let status = second.until("refused", in_use).await;
    let ConsumerStatus::Waiting { hint: Some(hint), .. } = status else { panic!("no hint") };
    assert!(hint.contains(&rig.instance) && hint.contains(&rig.queue), "{hint}");
    assert!(hint.contains("LOBBY_INSTANCE__NAME"), "{hint}");
    first.handle.stop().await;
    second.until("consuming once the first is gone", ConsumerStatus::is_consuming).await;
    second.handle.stop().await;
}

#[tokio::test]
async fn a_queue_with_other_arguments_is_named_with_the_brokers_words() {
    let mut rig = Rig::new();
    rig.raw.declare_queue(&rig.queue, true, b"");
    let (error, hint) = refusal(rig.config()).await;
    let ConsumerError::ArgumentMismatch { kind: "queue", name, .. } = &error else { panic!("{error}") };
    assert_eq!(*name, rig.queue);
    let text = error.to_string();
    assert!(text.ends_with("x-expires is not set, asked for was 600000"), "{text}");
    let hint = hint.unwrap();
    assert!(hint.contains("delete_queue") && hint.contains("LOBBY_QUEUE__EXPIRES"), "{hint}");
    assert!(error.is_permanent());
}

#[tokio::test]
async fn an_exchange_of_another_type_is_named() {
    let mut rig = Rig::new();
    rig.raw.declare_exchange(&rig.exchange, "fanout");
    let (error, hint) = refusal(rig.config()).await;
    let ConsumerError::ArgumentMismatch { kind: "exchange", name, .. } = &error else { panic!("{error}") };
    assert_eq!(*name, rig.exchange);
    assert!(error.to_string().ends_with("type is fanout, asked for was topic"), "{error}");
    assert!(hint.unwrap().contains("topic"));
}

#[tokio::test]
async fn n16_n17_a_missing_vhost_a_wrong_password_and_a_closed_port_are_told_apart() {
    let rig = Rig::new();
    let at = |user: &str, password: &str, port, vhost: &str| {
        rig.config_at(BrokerUrl::from_parts("127.0.0.1", port, user, password, vhost).unwrap())
    };
    let port = rig.url.port();

    let (error, hint) = refusal(at("guest", "guest", port, "nowhere")).await;
    assert!(matches!(&error, ConsumerError::VhostMissing { vhost, .. } if vhost == "nowhere"), "{error}");
    assert!(hint.unwrap().contains("add_vhost nowhere"));

    let (error, hint) = refusal(at("guest", "hunter2", port, "/")).await;
    assert!(matches!(&error, ConsumerError::LoginRefused { user, .. } if user == "guest"), "{error}");
    assert!(!format!("{error}{error:?}{hint:?}").contains("hunter2"));

    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (error, hint) = refusal(at("guest", "guest", closed, "/")).await;
    assert!(matches!(&error, ConsumerError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("refused") && hint.unwrap().contains("start a broker"), "{error}");
}

#[tokio::test]
async fn n17_a_missing_permission_names_the_call() {
    let rig = Rig::new();
    let user = format!("u-{}", rig.exchange);
    management::put_user(&user, "pw");
    let as_user = |rig: &Rig| rig.config_at(rig.url_as(&user, "pw"));

    let (error, _) = refusal(as_user(&rig)).await;
    assert!(matches!(&error, ConsumerError::VhostRefused { .. }), "no permission on the vhost: {error}");
    management::put_permissions(&user, "", "", ".*");
    let (error, hint) = refusal(as_user(&rig)).await;
    let ConsumerError::AccessRefused { call: "exchange.declare", .. } = &error else { panic!("{error}") };
    assert!(hint.unwrap().contains("set_permissions"));
    management::delete_user(&user);
}

#[tokio::test]
async fn names_that_cannot_go_on_the_wire_are_errors_not_panics() {
    let rig = Rig::new();
    let mut config = rig.config();
    config.topology.routing_keys.push("k".repeat(256));
    let (error, _) = refusal(config).await;
    assert!(matches!(error, ConsumerError::NameTooLong { what: "routing key", len: 256, .. }), "{error}");
}

#[tokio::test]
async fn attempts_slow_down_while_a_refusal_lasts() {
    let mut rig = Rig::new();
    rig.raw.declare_queue(&rig.queue, true, b"");
    let running = Running::spawn(rig.config());
    tokio::time::sleep(Duration::from_secs(3)).await;
    let failures = running.handle.stats().failures.get();
    assert!((3..=7).contains(&failures), "{failures} attempts in 3 s");
    running.handle.stop().await;
}
