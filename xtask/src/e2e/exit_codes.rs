//! Exit codes of commands that no other scenario ends with: what the broker refuses, who is not let in, what a recording
//! missed.

use anyhow::{Context as _, ensure};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use notify_protocol::NOTIFY_ROUTING_KEY;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::notifier::{numbered, unique};
use super::refusals::exits;
use super::stage::Stage;
use crate::PATIENCE;
use crate::amqp_wire::percent_encode;
use crate::late::Late;

const READY: &str = "listening at exchange";

/// 70: the broker takes the connection and the exchange, but not this message.
pub(super) async fn refused_message(stage: &Stage) -> anyhow::Result<()> {
    let lobby = stage.lobby().await?;
    // RabbitMQ reads more routing keys from this header, and refuses one that is no list.
    let line = json!({
        "routing_key": NOTIFY_ROUTING_KEY,
        "headers": [["CC", "I", 42]],
        "body_enc": "b64",
        "body": BASE64_STANDARD.encode("{}"),
    });
    let file = stage.directory().join("refused.jsonl");
    std::fs::write(&file, format!("{line}\n")).context("write a recording")?;
    let file = file.to_str().context("a path in UTF-8")?;
    exits(stage.setup().arguments(["replay", "--publish", file]), 70, &["CC"]).await?;
    stage.leaves_nothing(lobby).await
}

/// 77: a user who may not publish, and a token that is not the lobby's own.
pub(super) async fn not_let_in(stage: &Stage) -> anyhow::Result<()> {
    let lobby = stage.start(&stage.setup().set("LOBBY_ADMIN__TOKEN", unique("admin-token"))).await?;
    let admin = lobby.admin_address()?.to_string();
    for command in ["trace", "drain"] {
        let asked = stage.setup().arguments([command, "--admin", &admin]);
        exits(asked.clone(), 77, &["does not let this in", "admin.token"]).await?;
        exits(asked.set("LOBBY_ADMIN__TOKEN", "a guess"), 77, &["does not let this in"]).await?;
    }
    if let Some(management) = stage.management() {
        let user = unique("reader");
        management.put(&format!("/users/{user}"), &json!({ "password": "pw", "tags": "" })).await?;
        let permissions = format!("/permissions/{}/{user}", percent_encode(&stage.url().vhost));
        management.put(&permissions, &json!({ "configure": "", "write": "", "read": ".*" })).await?;
        let setup = stage.setup().set("LOBBY_BROKER__USER", &user).set("LOBBY_BROKER__PASSWORD", "pw");
        exits(setup.arguments(["publish", "--broadcast", "{}"]), 77, &["access", stage.exchange()]).await?;
        management.delete(&format!("/users/{user}")).await?;
    } else {
        stage.fact("management API out of reach: publishing without the permission is not tested");
    }
    stage.leaves_nothing(lobby).await
}

/// 80: the connection was lost while it was recorded; what came before and after is kept.
pub(super) async fn recording_with_a_gap(stage: &Stage) -> anyhow::Result<()> {
    let lobby = stage.lobby().await?;
    let (proxy, setup) = stage.proxied(true).await?;
    let file = stage.directory().join("gap.jsonl");
    let recording = setup.argument("record").argument(file.to_str().context("UTF-8")?).begin(READY).await?;
    let told = recording.told.clone();
    let mut notifier = stage.notifier().await?;
    let mut recorded = 0;
    let mut record_one_more = async || {
        // Until it is connected again nothing is kept: what is published anew is.
        let start = Instant::now();
        let before = recorded;
        while recorded == before {
            notifier.notify_user(42, &numbered(1)).await?;
            sleep(std::time::Duration::from_millis(50)).await;
            recorded = std::fs::read_to_string(&file).context("read the recording")?.lines().count();
            ensure!(
                start.elapsed() < PATIENCE,
                Late(format!("nothing more is recorded: {:?}", told.lines()))
            );
        }
        anyhow::Ok(())
    };
    record_one_more().await?;
    proxy.cut();
    let start = Instant::now();
    while !told.holds("messages are missing") {
        ensure!(
            start.elapsed() < PATIENCE,
            Late(format!("the lost connection is not told: {:?}", told.lines()))
        );
        sleep(std::time::Duration::from_millis(25)).await;
    }
    proxy.open();
    record_one_more().await?;
    let status = recording.terminate().await?;
    ensure!(status.code() == Some(80) && told.holds("has 1 gaps"), "{status}: {:?}", told.lines());
    stage.leaves_nothing(lobby).await
}
