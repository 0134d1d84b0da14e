use std::path::PathBuf;

use notify_amqp::{BrokerUrl, ConsumerConfig, ConsumerError, Login, Publisher, PublisherConfig, TlsProblem};
use notify_protocol::Notification;

use crate::{
    management,
    refusals::refusal,
    rig::{Rig, Running},
};

/// The user whom the client certificate names.
const CERTIFIED: &str = "certified-client";

fn pem(name: &str) -> Option<PathBuf> {
    let directory =
        std::env::var_os("LOBBY_TEST_TLS_DIR").expect("LOBBY_TEST_TLS_DIR names the certificates");
    Some(PathBuf::from(directory).join(name))
}

fn url(rig: &Rig, host: &str) -> BrokerUrl {
    let port = std::env::var("LOBBY_TEST_TLS_PORT").expect("LOBBY_TEST_TLS_PORT is set").parse().unwrap();
    let url = BrokerUrl::from_parts(host, port, rig.url.user(), rig.url.password(), rig.url.vhost()).unwrap();
    url.with_tls(true)
}

fn config(rig: &Rig, host: &str, ca: &str) -> ConsumerConfig {
    let mut config = rig.config_at(url(rig, host));
    config.broker.tls.ca_file = pem(ca);
    config
}

async fn problem(config: ConsumerConfig) -> (TlsProblem, String, String) {
    let (error, hint) = refusal(config).await;
    let ConsumerError::Tls { problem, text, .. } = error else { panic!("{error}") };
    (problem, text, hint.unwrap())
}

#[tokio::test]
async fn n01_with_the_authoritys_file_messages_come_and_go_over_tls() {
    let rig = Rig::new();
    let config = config(&rig, "localhost", "ca.pem");
    let broker = config.broker.clone();
    let mut running = Running::start(config).await;
    let publisher = Publisher::new(PublisherConfig::new(broker, &rig.exchange)).unwrap();
    let body = format!(r#"{{"long":"{}"}}"#, "x".repeat(500_000));
    let message = Notification::to_user(42).raw_json(body.clone()).build().unwrap();
    publisher.publish(&message).await.unwrap();
    assert_eq!(running.next().await.body, body.as_bytes());
    publisher.close().await;
    running.handle.stop().await;
}

#[tokio::test]
async fn n01_a_certificate_of_a_strange_authority_is_refused() {
    let rig = Rig::new();
    let (found, _, hint) = problem(config(&rig, "localhost", "stranger.pem")).await;
    assert_eq!(found, TlsProblem::UnknownIssuer);
    assert!(hint.contains("LOBBY_BROKER__TLS_CA_FILE"), "{hint}");
    let mut system = config(&rig, "localhost", "ca.pem");
    system.broker.tls.ca_file = None;
    let (error, _) = refusal(system).await;
    assert!(error.is_permanent(), "nor do the system's authorities know it: {error}");
}

#[tokio::test]
async fn n01_a_certificate_for_another_name_is_refused_unless_that_name_is_expected() {
    let rig = Rig::new();
    let (found, text, hint) = problem(config(&rig, "127.0.0.1", "ca.pem")).await;
    assert_eq!(found, TlsProblem::NameMismatch);
    assert!(text.contains("localhost"), "the names that it holds: {text}");
    assert!(hint.contains("TLS_SERVER_NAME"), "{hint}");
    let mut named = config(&rig, "127.0.0.1", "ca.pem");
    named.broker.tls.server_name = Some("localhost".into());
    Running::start(named).await.handle.stop().await;
}

#[tokio::test]
async fn n01_without_verification_any_certificate_will_do() {
    let rig = Rig::new();
    let mut unverified = config(&rig, "127.0.0.1", "stranger.pem");
    unverified.broker.tls.verify = false;
    Running::start(unverified).await.handle.stop().await;
}

#[tokio::test]
async fn n01_a_port_without_tls_is_named_as_such() {
    let rig = Rig::new();
    let mut plain = config(&rig, "localhost", "ca.pem");
    plain.broker.url = plain.broker.url.with_port(rig.url.port());
    let (found, _, hint) = problem(plain).await;
    assert_eq!(found, TlsProblem::NotTls);
    assert!(hint.contains("5671"), "{hint}");
}

#[tokio::test]
async fn f16_k11_external_logs_in_as_the_certificates_user() {
    let rig = Rig::new();
    management::delete_user(CERTIFIED);
    let external = || {
        let mut config = config(&rig, "localhost", "ca.pem");
        config.broker.tls.cert_file = pem("client.pem");
        config.broker.tls.key_file = pem("client.key");
        config.broker.login = Login::External;
        config
    };
    let (error, hint) = refusal(external()).await;
    assert!(matches!(error, ConsumerError::LoginRefused { .. }), "nobody of that name: {error}");
    assert!(hint.unwrap().contains("create the user that the client certificate names"));

    management::put_user_without_password(CERTIFIED);
    management::put_permissions(CERTIFIED, ".*", ".*", ".*");
    let config = external();
    let name = config.broker.connection_name.clone();
    let broker = config.broker.clone();
    let running = Running::start(config).await;
    let seen = management::connection(&name).await;
    assert_eq!((seen["user"].as_str(), seen["auth_mechanism"].as_str()), (Some(CERTIFIED), Some("EXTERNAL")));
    assert_eq!(seen["ssl"], true);
    let publisher = Publisher::new(PublisherConfig::new(broker, &rig.exchange)).unwrap();
    publisher.publish(&Notification::to_user(1).raw_json("{}").build().unwrap()).await.unwrap();
    publisher.close().await;
    running.handle.stop().await;

    let mut anonymous = external();
    (anonymous.broker.tls.cert_file, anonymous.broker.tls.key_file) = (None, None);
    let (error, _) = refusal(anonymous).await;
    assert!(matches!(error, ConsumerError::LoginRefused { .. }), "no certificate, no login: {error}");
    management::delete_user(CERTIFIED);
}
