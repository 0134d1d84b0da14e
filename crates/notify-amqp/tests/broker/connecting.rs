use std::{net::TcpListener, time::Duration};

use notify_amqp::{
    BrokerConfig, BrokerUrl, ConsumerError, ConsumerStatus, CredentialSource, Host, Login, Publisher,
    PublisherConfig,
};
use notify_protocol::Notification;

use crate::{
    management,
    proxy::Proxy,
    refusals::refusal,
    rig::{Rig, Running},
};

/// A port that nobody listens on.
fn closed_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn at_ports(rig: &Rig, ports: &[u16]) -> BrokerUrl {
    let hosts = ports.iter().map(|port| Host::new("127.0.0.1", Some(*port)).unwrap());
    rig.url.clone().with_hosts(hosts.collect()).unwrap()
}

fn host_in_use(status: &ConsumerStatus) -> String {
    match status {
        ConsumerStatus::Consuming { host, .. } => host.to_string(),
        other => panic!("{other:?}"),
    }
}

fn is_waiting(status: &ConsumerStatus) -> bool {
    matches!(status, ConsumerStatus::Waiting { .. })
}

fn message() -> notify_protocol::Message {
    Notification::to_user(42).raw_json("{}").build().unwrap()
}

#[tokio::test]
async fn n01_a_dead_host_is_passed_over_without_a_wait() {
    let rig = Rig::new();
    let live = rig.url.port();
    let mut config = rig.config_at(at_ports(&rig, &[closed_port(), closed_port(), live]));
    config.backoff.base = Duration::from_secs(600); // a wait would outlast the test
    let running = Running::start(config).await;
    assert_eq!(host_in_use(&running.handle.status().borrow()), format!("127.0.0.1:{live}"));
    assert_eq!(running.handle.stats().failures.get(), 0, "the round did not fail");
    running.handle.stop().await;
}

#[tokio::test]
async fn n01_after_a_lost_connection_the_next_host_is_first() {
    let rig = Rig::new();
    let broker = rig.url.address();
    let (one, two) = (Proxy::to(&broker), Proxy::to(&broker));
    let running = Running::start(rig.config_at(at_ports(&rig, &[one.port(), two.port()]))).await;
    assert_eq!((one.accepted(), two.accepted()), (1, 0), "in the order given");
    one.break_connections();
    running.until_stat("reconnected", |stats| stats.reconnects.get() == 1).await;
    assert_eq!((one.accepted(), two.accepted()), (1, 1));
    let status = running.until("consuming", ConsumerStatus::is_consuming).await;
    assert_eq!(host_in_use(&status), format!("127.0.0.1:{}", two.port()));
    running.handle.stop().await;
}

#[tokio::test]
async fn n01_when_all_hosts_fail_all_are_named() {
    let rig = Rig::new();
    let ports = [closed_port(), closed_port()];
    let (error, hint) = refusal(rig.config_at(at_ports(&rig, &ports))).await;
    let text = error.to_string();
    assert!(ports.iter().all(|port| text.contains(&format!("127.0.0.1:{port}"))), "{text}");
    assert!(hint.unwrap().contains("start a broker") && !error.is_permanent());
}

#[tokio::test]
async fn n01_a_publisher_passes_over_a_dead_host() {
    let rig = Rig::new();
    let running = Running::start(rig.config()).await;
    let url = at_ports(&rig, &[closed_port(), rig.url.port()]);
    let config = PublisherConfig::new(BrokerConfig::new(url, "publisher"), &rig.exchange);
    let publisher = Publisher::new(config).unwrap();
    assert_eq!(publisher.publish(&message()).await.unwrap().attempts, 1);
    publisher.close().await;
    let url = at_ports(&rig, &[closed_port(), closed_port()]);
    let config = PublisherConfig::new(BrokerConfig::new(url, "publisher"), &rig.exchange);
    let error = Publisher::new(config).unwrap().publish(&message()).await.unwrap_err();
    assert!(error.to_string().contains("no host of 2"), "{error}");
    running.handle.stop().await;
}

#[tokio::test]
async fn n17_a_token_that_was_renewed_is_used_at_the_next_attempt() {
    let rig = Rig::new();
    let user = format!("u-{}", rig.exchange);
    management::put_user(&user, "renewed");
    management::put_permissions(&user, ".*", ".*", ".*");
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), "expired\n").unwrap();
    let login = |password| Login::Password { user: Some(CredentialSource::Value(user.clone())), password };
    let mut config = rig.config();
    config.broker.login = login(CredentialSource::File(token.path().into()));
    let running = Running::spawn(config);
    let status = running.until("refused", is_waiting).await;
    let ConsumerStatus::Waiting { error, .. } = status else { unreachable!() };
    assert!(matches!(&*error, ConsumerError::LoginRefused { user: u, .. } if *u == user), "{error}");
    assert!(!format!("{error}{error:?}").contains("expired"));
    std::fs::write(token.path(), "renewed\n").unwrap();
    running.until("consuming", ConsumerStatus::is_consuming).await;

    let mut broker = BrokerConfig::new(rig.url.clone(), "publisher");
    let command = ["cat".to_owned(), token.path().display().to_string()];
    broker.login = login(CredentialSource::Command(command.into()));
    let publisher = Publisher::new(PublisherConfig::new(broker, &rig.exchange)).unwrap();
    std::fs::write(token.path(), "expired").unwrap();
    assert!(publisher.publish(&message()).await.unwrap_err().to_string().contains("ACCESS_REFUSED"));
    std::fs::write(token.path(), "renewed").unwrap();
    publisher.publish(&message()).await.expect("the command is run again");
    publisher.close().await;
    running.handle.stop().await;
    management::delete_user(&user);
}

#[tokio::test]
async fn n17_a_limit_on_connections_is_told_from_a_refusal() {
    let rig = Rig::new();
    let user = format!("u-{}", rig.exchange);
    management::put_user(&user, "pw");
    management::put_permissions(&user, ".*", ".*", ".*");
    management::limit_connections(&user, 0);
    let (error, hint) = refusal(rig.config_at(rig.url_as(&user, "pw"))).await;
    assert!(matches!(error, ConsumerError::ConnectionLimit { .. }), "{error}");
    assert!(!error.is_permanent() && hint.unwrap().contains("set_user_limits"));
    management::delete_user(&user);
}

#[tokio::test]
async fn n02_n03_f17_the_brokers_ui_shows_who_is_connected() {
    let rig = Rig::new();
    let mut config = rig.config();
    config.broker.heartbeat = Duration::from_secs(7);
    let facts = [("instance", "pod-7"), ("product", "my-service"), ("team", "chat")];
    config.broker.client_properties = facts.map(|(n, v)| (n.to_owned(), v.to_owned())).into();
    let name = config.broker.connection_name.clone();
    let running = Running::start(config).await;
    let seen = management::connection(&name).await;
    assert_eq!(seen["user_provided_name"], name.as_str());
    assert_eq!(seen["timeout"], 7, "the heartbeat");
    let properties = &seen["client_properties"];
    for (name, value) in facts {
        assert_eq!(properties[name], value, "{properties}");
    }
    assert_eq!(properties["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(properties["platform"], "rust");
    running.handle.stop().await;
}
