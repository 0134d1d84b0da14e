//! What the lobby drops, kept and looked after with `lobby dead-letters`.

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use notify_protocol::NOTIFY_ROUTING_KEY;
use serde_json::{Value, json};

use super::notifier::numbered;
use super::stage::{Going, Stage};
use crate::amqp_wire::percent_encode;
use crate::client::Transport;
use crate::lobby::{Finished, Lobby, Setup};

/// Exchange and queue of dead letters. The virtual host may be shared, as names of exchanges are.
fn graves(stage: &Stage) -> String {
    format!("{}.dead", stage.exchange())
}

fn keeping(stage: &Stage) -> Setup {
    stage.setup().set("LOBBY_DEAD_LETTER__EXCHANGE", graves(stage))
}

/// Runs `lobby dead-letters` with these words.
async fn command(stage: &Stage, words: &[&str]) -> anyhow::Result<Finished> {
    let setup =
        words.iter().fold(keeping(stage).argument("dead-letters"), |setup, word| setup.argument(*word));
    setup.run_to_exit().await
}

async fn succeeds(stage: &Stage, words: &[&str]) -> anyhow::Result<String> {
    let finished = command(stage, words).await?;
    ensure!(finished.status.success(), "{words:?} exited with {}: {}", finished.status, finished.stderr);
    Ok(finished.stdout)
}

/// `list --json`, one value a line.
async fn listed(stage: &Stage) -> anyhow::Result<Vec<Value>> {
    let text = succeeds(stage, &["list", "--json", "--limit", "100000"]).await?;
    text.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}

async fn kept(lobby: &Lobby, count: u64) -> anyhow::Result<()> {
    let confirmed = [("outcome", "confirmed")];
    let enough = |m: &crate::lobby::Metrics| m.count("lobby_dead_letters_total", &confirmed) >= count;
    lobby.metrics_until(&format!("{count} dead letters"), enough).await.map(drop)
}

/// Off unless configured; then what is dropped is kept, listed and shown without being taken, and a replay reaches the
/// client once the lobby accepts it.
pub(super) async fn dead_letters(stage: &Stage) -> anyhow::Result<()> {
    let mut notifier = stage.notifier().await?;
    let off = stage.setup().argument("dead-letters").argument("list").run_to_exit().await?;
    ensure!(off.status.code() == Some(78), "{off:?}");
    ensure!(off.stderr.contains("LOBBY_DEAD_LETTER__EXCHANGE"), "{}", off.stderr);
    let missing = command(stage, &["list"]).await?;
    ensure!(missing.status.code() == Some(66), "no lobby has declared the queue: {missing:?}");

    let small = keeping(stage).set("LOBBY_MESSAGES__MAX_BODY_BYTES", "1MiB");
    let mut lobby = stage.start(&small).await?;
    let mut player = stage.client(&lobby, Transport::Tcp, 42).await?;
    let headers = json!([["user-id", "l", 42], ["trace", "S", "abc"], ["deep", "F", [["x", "t", true]]]]);
    let props = json!({"delivery_mode": 2, "message_id": "big-1", "app_id": "chat"});
    let big = format!(r#"{{"command":"big","text":"{}"}}"#, "x".repeat(1024 * 1024));
    notifier.publish(&headers, &props, big.as_bytes()).await?;
    notifier
        .publish(&json!([["user-id", "t", true]]), &Value::Null, br#"{"command":"to a boolean"}"#)
        .await?;
    notifier.publish(&Value::Null, &Value::Null, b"\xff\x00 no json").await?;
    let sentinel = notifier.sentinel().await?;
    let lines = player.expect_until(&sentinel).await?;
    ensure!(lines.is_empty(), "what is dropped reached a player: {lines:?}");
    kept(&lobby, 3).await?;

    let letters = listed(stage).await?;
    // Each was confirmed on its own: their order is not promised.
    let reasons: BTreeSet<_> = letters.iter().filter_map(|letter| letter["reason"].as_str()).collect();
    ensure!(reasons == BTreeSet::from(["invalid_user_id", "non_json", "too_large"]), "{letters:?}");
    let too_large = letters.iter().find(|letter| letter["reason"] == "too_large").context("too_large")?;
    ensure!(too_large["instance"] == stage.instance(), "{too_large}");
    ensure!(too_large["bytes"] == big.len() && too_large["routing_key"] == NOTIFY_ROUTING_KEY, "{too_large}");
    ensure!(too_large["headers"]["trace"] == r#"long string "abc""#, "{too_large}");
    let position = too_large["position"].to_string();
    let shown: Value = serde_json::from_str(&succeeds(stage, &["show", &position, "--json"]).await?)?;
    ensure!(shown["body"] == big.as_str() && shown["properties"]["message-id"] == "big-1", "show differs");
    let table = succeeds(stage, &["list"]).await?;
    for word in ["3 dead letters", "too_large", "user-id=integer 42", "\\u{0} no json", stage.instance()] {
        ensure!(table.contains(word), "the table lacks {word:?}:\n{table}");
    }
    ensure!(command(stage, &["show", "9"]).await?.status.code() == Some(66), "there is no ninth");
    ensure!(listed(stage).await? == letters, "looking changed something");

    // Nothing was learnt by the lobby yet: a replay comes back.
    succeeds(stage, &["replay", &position]).await?;
    kept(&lobby, 4).await?;
    ensure!(listed(stage).await?.len() == 3, "one went and came back");
    lobby.stop().await?;
    let lobby = stage.start(&keeping(stage).set("LOBBY_MESSAGES__MAX_BODY_BYTES", "2MiB")).await?;
    let mut player = stage.client(&lobby, Transport::Tcp, 42).await?;
    let replayed = succeeds(stage, &["replay", "--all"]).await?;
    ensure!(replayed.contains("published 3, left 0"), "{replayed}");
    let sentinel = notifier.sentinel().await?;
    let lines = player.expect_until(&sentinel).await?;
    ensure!(lines.len() == 1, "{} lines instead of the one that is accepted now", lines.len());
    kept(&lobby, 2).await?;
    let letters = listed(stage).await?;
    ensure!(letters.len() == 2, "two are still dropped: {letters:?}");

    let asked = command(stage, &["purge"]).await?;
    ensure!(asked.status.code() == Some(2) && asked.stderr.contains("--yes"), "{asked:?}");
    ensure!(succeeds(stage, &["purge", "--yes"]).await?.contains("deleted 2"), "purge");
    ensure!(listed(stage).await?.is_empty(), "purged");
    stage.leaves_nothing(lobby).await
}

/// A lobby that is killed while the broker does not confirm has acked nothing: the next one keeps the message.
pub(super) async fn killed_before_the_confirm(stage: &Stage) -> anyhow::Result<()> {
    let Some(management) = stage.management() else {
        stage.skip("the management API is out of reach");
        return Ok(());
    };
    let patient = keeping(stage).set("LOBBY_DEAD_LETTER__TIMEOUT", "60s");
    let lobby = stage.start(&patient).await?;
    let vhost = percent_encode(&stage.url().vhost);
    let (full, exchange) = (format!("{}.full", graves(stage)), percent_encode(&graves(stage)));
    let queue = format!("/queues/{vhost}/{}", percent_encode(&full));
    let arguments = json!({"x-max-length": 0, "x-overflow": "reject-publish"});
    management.put(&queue, &json!({"durable": true, "arguments": arguments})).await?;
    // The lobby declares its exchange in its own time; so does this, with the same properties.
    management
        .put(&format!("/exchanges/{vhost}/{exchange}"), &json!({"type": "topic", "durable": true}))
        .await?;
    let binding = format!("/bindings/{vhost}/e/{exchange}/q/{}", percent_encode(&full));
    management.request("POST", &binding, Some(&json!({"routing_key": "#"}))).await?;

    let mut player = stage.client(&lobby, Transport::Tcp, 42).await?;
    let mut notifier = stage.notifier().await?;
    notifier.notify_all("no json").await?;
    notifier.notify_user(42, &numbered(1)).await?;
    let sentinel = notifier.sentinel().await?;
    ensure!(player.expect_until(&sentinel).await?.len() == 1, "a held dead letter holds up players");
    let metrics = lobby
        .metrics_until("a message that waits for the confirm", |metrics| {
            metrics.count("lobby_dead_letters_pending", &[]) == 1
        })
        .await?;
    ensure!(metrics.count("lobby_acked_total", &[]) == 0, "acked before the confirm:\n{metrics}");
    drop(lobby); // killed
    let state = stage.queue_with_consumers(&stage.queue(), 0).await?;
    ensure!(state.messages >= 1, "the message is lost: {state:?}");
    management.delete(&queue).await?;
    let lobby = stage.start(&patient).await?;
    kept(&lobby, 1).await?;
    let letters = listed(stage).await?;
    ensure!(
        !letters.is_empty() && letters.iter().all(|letter| letter["excerpt"] == "no json"),
        "{letters:?}"
    );
    stage.leaves_nothing(lobby).await
}

/// A broker that is killed while dead letters are written loses none of those whose messages were confirmed to the
/// publisher.
pub(super) async fn broker_killed(stage: &Stage) -> anyhow::Result<()> {
    const COUNT: usize = 500;
    let mut lobby = stage.start(&keeping(stage).set("LOBBY_DEAD_LETTER__TIMEOUT", "60s")).await?;
    let mut notifier = stage.notifier().await?;
    for number in 0..COUNT {
        notifier.notify_all(&format!("no json {number}-end")).await?;
    }
    kept(&lobby, 1).await?;
    stage.restart_broker(Going::Killed).await?;
    lobby.ready().await?;
    let waiting = "messages that wait for their confirm";
    stage.queue_with_consumers(&stage.queue(), 1).await?;
    // All that was unacked comes again; nothing is left when nothing is unacked, waiting or pending any more.
    loop {
        let metrics = lobby
            .metrics_until(&format!("no {waiting}"), |metrics| {
                metrics.count("lobby_dead_letters_pending", &[]) == 0
                    && metrics.count("lobby_broker_unacked", &[]) == 0
            })
            .await?;
        let state = stage.queue_with_consumers(&stage.queue(), 1).await?;
        let lost = metrics.count("lobby_dead_letters_total", &[("outcome", "timed_out")])
            + metrics.count("lobby_dead_letters_total", &[("outcome", "unreachable")])
            + metrics.count("lobby_dead_letters_total", &[("outcome", "overflow")]);
        ensure!(lost == 0, "{lost} dead letters were given up:\n{metrics}");
        let distinct: BTreeSet<_> = listed(stage)
            .await?
            .iter()
            .filter_map(|letter| letter["excerpt"].as_str().map(str::to_owned))
            .collect();
        if distinct.len() == COUNT {
            return stage.leaves_nothing(lobby).await;
        }
        ensure!(
            state.messages > 0 || metrics.count("lobby_broker_unacked", &[]) > 0,
            "only {} of {COUNT} are kept",
            distinct.len()
        );
    }
}
