//! `lobby topology`: what is planned, what is found by comparing, what is made.

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::notifier::unique;
use super::stage::Stage;
use crate::PATIENCE;
use crate::amqp_wire::{Connection, percent_encode};
use crate::broker::Management;
use crate::late::Late;
use crate::lobby::{Finished, Setup};

/// The usual lobby with dead letters, which knows where the management API is.
fn setup(stage: &Stage, management: &Management) -> Setup {
    stage
        .setup()
        .set("LOBBY_BROKER__MANAGEMENT_URL", management.url_with_login())
        .set("LOBBY_DEAD_LETTER__EXCHANGE", graves(stage))
}

fn graves(stage: &Stage) -> String {
    format!("{}.dead", stage.exchange())
}

async fn topology(setup: &Setup, words: &[&str]) -> anyhow::Result<Finished> {
    let setup = words.iter().fold(setup.clone().argument("topology"), |setup, word| setup.argument(*word));
    setup.run_to_exit().await
}

async fn succeeds(setup: &Setup, words: &[&str]) -> anyhow::Result<String> {
    let finished = topology(setup, words).await?;
    ensure!(finished.status.success(), "{words:?} exited with {}: {finished:?}", finished.status);
    Ok(finished.stdout)
}

/// Waits until `check` finds these, all of them wrong, and nothing else wrong. Some facts are told late by the broker.
async fn finds(setup: &Setup, wanted: &[&str]) -> anyhow::Result<Vec<Value>> {
    let start = Instant::now();
    loop {
        let finished = topology(setup, &["check", "--json"]).await?;
        let answer: Value =
            serde_json::from_str(&finished.stdout).with_context(|| format!("{finished:?}"))?;
        let findings = answer["findings"].as_array().context("findings")?.clone();
        let wrong: Vec<_> = findings
            .iter()
            .filter(|f| f["severity"] == "wrong")
            .filter_map(|f| f["finding"].as_str())
            .collect();
        let code = if wanted.is_empty() { 0 } else { 79 };
        if wrong == wanted {
            ensure!(finished.status.code() == Some(code), "{:?} for {wrong:?}", finished.status);
            return Ok(findings);
        }
        ensure!(
            start.elapsed() < PATIENCE,
            Late(format!("check never found {wanted:?} and nothing else: {findings:#?}"))
        );
        sleep(std::time::Duration::from_millis(100)).await;
    }
}

/// In an empty virtual host: nothing is there; a dry run makes nothing; what is made is as planned, and a second time
/// there is nothing to do; what exists with other properties stops it all.
pub(super) async fn apply(stage: &Stage) -> anyhow::Result<()> {
    let Some(management) = stage.management() else {
        stage.skip("the management API is out of reach");
        return Ok(());
    };
    let vhost = unique("applied");
    let setup = setup(stage, management).set("LOBBY_BROKER__VHOST", &vhost);
    let shown = succeeds(&setup, &["show"]).await?;
    for word in [
        &vhost,
        &stage.queue(),
        &graves(stage),
        "x-expires=600000",
        "x-overflow=drop-head",
        "request.client.notify",
    ] {
        ensure!(shown.contains(word), "`show` lacks {word}:\n{shown}");
    }
    let things: Value = serde_json::from_str(&succeeds(&setup, &["show", "--json"]).await?)?;
    ensure!(things["things"].as_array().is_some_and(|things| things.len() == 11), "{things:#}");
    finds(&setup, &["vhost_missing"]).await?;
    let refused = setup.clone().run_to_exit().await?;
    ensure!(refused.status.code() == Some(68), "a lobby without its virtual host: {refused:?}");
    let would = succeeds(&setup, &["apply", "--grant", "--dry-run"]).await?;
    ensure!(would.contains(&format!("would make virtual host {vhost:?}")), "{would}");
    finds(&setup, &["vhost_missing"]).await?;

    let made = succeeds(&setup, &["apply", "--grant"]).await?;
    ensure!(made.lines().count() >= would.lines().count() - 1, "it made:\n{made}\nand would have:\n{would}");
    let again = succeeds(&setup, &["apply", "--grant"]).await?;
    ensure!(again == "nothing to do\n", "a second time: {again}");
    finds(&setup, &["queue_missing"]).await?;
    succeeds(&setup, &["check", "--without-queue"]).await?;

    // What was made is what the lobby itself declares: it starts, and nothing changes.
    let lobby = stage.start(&setup).await?;
    finds(&setup, &[]).await?;
    drop(lobby);
    let shared = setup.clone().set("LOBBY_QUEUE__MODE", "shared").set("LOBBY_QUEUE__DECLARE", "passive");
    succeeds(&shared, &["apply"]).await?;
    let lobby = stage.start(&shared).await?;
    drop(lobby);

    let segment = percent_encode(&vhost);
    let exchange = format!("/exchanges/{segment}/{}", percent_encode(&graves(stage)));
    management.delete(&exchange).await?;
    management.put(&exchange, &json!({"type": "fanout", "durable": true})).await?;
    management.delete(&format!("/policies/{segment}/{}.lobby", percent_encode(stage.exchange()))).await?;
    let stuck = topology(&setup, &["apply"]).await?;
    ensure!(stuck.status.code() == Some(65) && stuck.stderr.contains("fanout"), "{stuck:?}");
    let would =
        succeeds(&setup.clone().unset("LOBBY_DEAD_LETTER__EXCHANGE"), &["apply", "--dry-run"]).await?;
    ensure!(would.starts_with("would make policy"), "nothing was made by the apply that was stuck: {would}");
    management.delete(&format!("/vhosts/{segment}")).await
}

/// Each kind of difference, made on purpose beside a running lobby, is named, and nothing is changed by looking.
pub(super) async fn check(stage: &Stage) -> anyhow::Result<()> {
    let Some(management) = stage.management() else {
        stage.skip("the management API is out of reach");
        return Ok(());
    };
    let usual = setup(stage, management);
    let lobby = stage.start(&usual).await?;
    finds(&usual, &[]).await?;
    let vhost = percent_encode(&stage.url().vhost);
    let (queue, exchange) = (percent_encode(&stage.queue()), percent_encode(stage.exchange()));
    let bindings = format!("/bindings/{vhost}/e/{exchange}/q/{queue}");

    // A binding too many, and one too few.
    management.request("POST", &bindings, Some(&json!({"routing_key": "old.key"}))).await?;
    let findings = finds(&usual, &["binding_unexpected"]).await?;
    ensure!(findings[0]["text"].as_str().is_some_and(|text| text.contains("old.key")), "{findings:?}");
    management.delete(&format!("{bindings}/old.key")).await?;
    management.delete(&format!("{bindings}/request.client.notify")).await?;
    finds(&usual, &["binding_missing"]).await?;
    management.request("POST", &bindings, Some(&json!({"routing_key": "request.client.notify"}))).await?;

    // Arguments that are not those of the configuration.
    let other = usual.clone().set("LOBBY_QUEUE__EXPIRES", "5m");
    let findings = finds(&other, &["queue_differs"]).await?;
    let text = findings[0]["text"].as_str().unwrap_or_default();
    ensure!(text.contains("x-expires is 600000, planned is 300000"), "{text}");
    let looking = other.clone().set("LOBBY_QUEUE__DECLARE", "passive");
    finds(&looking, &[]).await?;

    // A queue of another instance, which nobody consumes from and which stays for ever.
    let orphan = format!("{}.lobby.client.notify.gone", stage.exchange());
    let path = format!("/queues/{vhost}/{}", percent_encode(&orphan));
    management.put(&path, &json!({"durable": true})).await?;
    let findings = finds(&usual, &["queue_orphaned"]).await?;
    ensure!(findings[0]["name"] == orphan.as_str(), "{findings:?}");
    management.delete(&path).await?;

    // Dead letters: the queue, the exchange and its kind.
    let dead = percent_encode(&graves(stage));
    management.delete(&format!("/queues/{vhost}/{dead}")).await?;
    finds(&usual, &["queue_missing"]).await?;
    management.delete(&format!("/exchanges/{vhost}/{dead}")).await?;
    finds(&usual, &["exchange_missing", "queue_missing"]).await?;
    management
        .put(&format!("/exchanges/{vhost}/{dead}"), &json!({"type": "direct", "durable": false}))
        .await?;
    finds(&usual, &["exchange_differs", "exchange_differs", "queue_missing"]).await?;
    management.delete(&format!("/exchanges/{vhost}/{dead}")).await?;
    succeeds(&usual, &["apply"]).await?;
    finds(&usual, &[]).await?;

    // A user without permissions, with some, and with those that `apply --grant` adds to them.
    let user = unique("limited");
    management.put(&format!("/users/{user}"), &json!({"password": "pw", "tags": ""})).await?;
    let limited = usual.clone().set("LOBBY_BROKER__USER", &user).set("LOBBY_BROKER__PASSWORD", "pw");
    finds(&limited, &["permission_missing"]).await?;
    let permissions = format!("/permissions/{vhost}/{user}");
    management.put(&permissions, &json!({"configure": ".*", "write": "^other$", "read": ".*"})).await?;
    let findings = finds(&limited, &["permission_missing"; 5]).await?;
    ensure!(
        findings.iter().any(|f| f["text"].as_str().is_some_and(|t| t.contains("may not write queue"))),
        "{findings:?}"
    );
    succeeds(&limited, &["apply", "--grant"]).await?;
    let granted = management.get(&permissions).await?;
    ensure!(
        granted["configure"] == ".*" && granted["write"].as_str().is_some_and(|w| w.starts_with("^other$|")),
        "{granted}"
    );
    finds(&limited, &[]).await?;
    drop(lobby);
    stage.queue_with_consumers(&stage.queue(), 0).await?;
    let lobby = stage.start(&limited).await?; // and the lobby needs no more
    drop(lobby);

    // The queue itself, and a login that the management API does not take.
    stage.queue_with_consumers(&stage.queue(), 0).await?;
    Connection::open(stage.url()).await?.delete_queue(&stage.queue()).await?;
    finds(&usual, &["queue_missing"]).await?;
    let own_login = limited.set("LOBBY_BROKER__MANAGEMENT_URL", management.url());
    let refused = topology(&own_login, &["check"]).await?;
    ensure!(refused.status.code() == Some(67) && refused.stderr.contains("tag management"), "{refused:?}");
    let nowhere = usual.set("LOBBY_BROKER__MANAGEMENT_URL", "http://u:hunter2@127.0.0.1:1/");
    let unreachable = topology(&nowhere, &["check"]).await?;
    ensure!(unreachable.status.code() == Some(69), "{unreachable:?}");
    ensure!(!unreachable.stderr.contains("hunter2"), "the password is shown: {}", unreachable.stderr);
    management.delete(&format!("/users/{user}")).await?;
    verifies_tls(stage, &nowhere).await
}

/// A management API whose certificate nobody vouches for gets no password. The broker's own TLS port stands in for it:
/// once its certificate is accepted, it is no HTTP that answers.
async fn verifies_tls(stage: &Stage, setup: &Setup) -> anyhow::Result<()> {
    let Some((port, certificates)) = stage.tls() else { return Ok(()) };
    let setup = setup
        .clone()
        .set("LOBBY_BROKER__TLS", "on")
        .set("LOBBY_BROKER__MANAGEMENT_URL", format!("https://u:pw@localhost:{port}/"));
    let strange = topology(&setup, &["check"]).await?;
    ensure!(strange.status.code() == Some(76) && strange.stderr.contains("tls_ca_file"), "{strange:?}");
    let authority = certificates.join("ca.pem");
    let authority = authority.to_str().context("a path in UTF-8")?;
    let trusted = topology(&setup.set("LOBBY_BROKER__TLS_CA_FILE", authority), &["check"]).await?;
    ensure!(trusted.status.code() == Some(69), "{trusted:?}");
    Ok(())
}
