//! `lobby publish`: what arrives, and one exit code for each thing that can go wrong.

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::addressing::received;
use super::stage::Stage;
use crate::amqp_wire::Connection;
use crate::client::Transport;
use crate::lobby::{Finished, Setup};

/// Publishes with these arguments and expects this exit code.
async fn publish(setup: &Setup, arguments: &[&str], code: i32, words: &str) -> anyhow::Result<Finished> {
    let finished =
        setup.clone().argument("publish").arguments(arguments.iter().copied()).run_to_exit().await?;
    ensure!(
        finished.status.code() == Some(code)
            && format!("{}{}", finished.stdout, finished.stderr).contains(words),
        "publish {arguments:?}: {} instead of {code} and `{words}`: {}{}",
        finished.status,
        finished.stdout,
        finished.stderr
    );
    Ok(finished)
}

/// Each outcome has an exit code of its own, and what is wrong is told before anything is sent.
pub(super) async fn publish_command(stage: &Stage) -> anyhow::Result<()> {
    let setup = stage.setup();
    publish(&setup, &["--user", "42", "{}"], 66, "does not exist").await?;
    let lobby = stage
        .start(
            &setup.clone().set("LOBBY_QUEUE__MAX_LENGTH", "1").set("LOBBY_QUEUE__OVERFLOW", "reject-publish"),
        )
        .await?;
    let mut client = stage.client(&lobby, Transport::Tcp, 42).await?;
    let mut other = stage.client(&lobby, Transport::WebSocket, 43).await?;

    let published =
        publish(&setup, &["--user", "42", "--message-id", "mine", "{\"n\":1}"], 0, "confirmed mine").await?;
    ensure!(published.stderr.is_empty(), "it complains: {}", published.stderr);
    let file = stage.directory().join("body.json");
    std::fs::write(&file, "\n{\"n\":2}\n").context("write a body")?;
    let file = file.to_str().context("a path in UTF-8")?;
    let told = publish(&setup, &["--broadcast", "--expires", "60s", "--json", file], 0, "confirmed").await?;
    let told: Value = serde_json::from_str(&told.stdout).context("JSON")?;
    ensure!(told["outcome"] == "confirmed" && told["message_id"].is_string(), "{told}");
    publish(&setup.clone().input("{\"n\":3}"), &["--user", "42"], 0, "confirmed").await?;

    for (body, words) in [("{\"n\":", "not JSON"), ("{\"n\":NaN}", "not JSON")] {
        publish(&setup, &["--broadcast", body], 64, words).await?;
    }
    publish(&setup.clone().input("[]"), &["--broadcast", "-"], 64, "array").await?;
    publish(&setup, &["--broadcast", "absent.json"], 73, "absent.json").await?;
    publish(&setup, &["{}"], 2, "--user").await?;
    publish(&setup, &["--user", "42", "--broadcast", "{}"], 2, "cannot be used with").await?;
    publish(&setup, &["--user", "true", "{}"], 2, "invalid value").await?;

    let sentinel = stage.notifier().await?.sentinel().await?;
    received(&mut client, &sentinel, &["{\"n\":1}", "{\"n\":2}", "{\"n\":3}"]).await?;
    received(&mut other, &sentinel, &["{\"n\":2}"]).await?;

    let dead = setup.clone().set("LOBBY_BROKER__HOSTS", "127.0.0.1:1");
    publish(&dead, &["--broadcast", "{}"], 69, "unreachable").await?;
    publish(
        &setup.clone().set("LOBBY_BROKER__PASSWORD", "wrong"),
        &["--broadcast", "{}"],
        67,
        "refused user",
    )
    .await?;
    publish(&setup.clone().set("LOBBY_BROKER__VHOST", "nowhere"), &["--broadcast", "{}"], 68, "nowhere")
        .await?;
    publish(&setup, &["--broadcast", "--timeout", "1ms", "{}"], 75, "not published within").await?;
    let lonely = super::notifier::unique("lonely");
    Connection::open(stage.url()).await?.declare_exchange(&lonely).await?;
    let unheard = setup.clone().set("LOBBY_BROKER__EXCHANGE", &lonely);
    publish(&unheard, &["--broadcast", "{}"], 72, "is a lobby running").await?;
    let told = publish(&unheard, &["--broadcast", "--json", "{}"], 72, "unroutable").await?;
    ensure!(serde_json::from_str::<Value>(&told.stdout)?["outcome"] == "unroutable", "{}", told.stdout);

    // Nobody consumes any longer, and the queue takes one message.
    drop((client, other));
    let mut lobby = lobby;
    lobby.stop().await?;
    publish(&setup, &["--broadcast", "{}"], 0, "confirmed").await?;
    publish(&setup, &["--broadcast", "{}"], 74, "nack").await.map(drop)
}

/// Many messages at once arrive in order; a file with a wrong line is refused whole, standard input line by line.
pub(super) async fn lines(stage: &Stage) -> anyhow::Result<()> {
    let lobby = stage.lobby().await?;
    let mut client = stage.client(&lobby, Transport::Tcp, 42).await?;
    let setup = stage.setup();
    let file = |name: &str, text: &str| -> anyhow::Result<String> {
        let path = stage.directory().join(name);
        std::fs::write(&path, text).context("write lines")?;
        Ok(path.to_str().context("a path in UTF-8")?.to_owned())
    };
    let numbered = |n: u32| format!("{{\"n\":{n}}}");
    let many: String = (0..300).map(|n| numbered(n) + "\n").collect();
    publish(&setup, &["--user", "42", "--lines", &file("many", &many)?], 0, "confirmed 300 of 300").await?;
    let wrong = file("wrong", "{\"n\":1000}\n\n[]\n{\"n\":\n")?;
    let refused = publish(&setup, &["--user", "42", "--lines", &wrong], 64, "nothing was sent").await?;
    ensure!(refused.stderr.contains("line 3") && refused.stderr.contains("line 4"), "{}", refused.stderr);
    let typed = setup.clone().input("{\"n\":300}\nnonsense\n{\"n\":301}");
    publish(&typed, &["--user", "42", "--lines"], 64, "confirmed 2 of 3").await?;
    let envelopes = [
        json!({"user-id": 42, "body": {"n": 302}}).to_string(),
        json!({"user-id": 43, "body": {"n": 1000}}).to_string(),
        json!({"broadcast": true, "body": {"n": 303}, "expires": "60s"}).to_string(),
        json!({"user-id": null, "body": {"n": 1000}}).to_string(),
    ];
    let typed = setup.clone().input(envelopes.join("\n"));
    let told = publish(&typed, &["--envelopes", "--json"], 64, "invalid").await?;
    let outcomes: Vec<Value> = told.stdout.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let outcomes: Vec<_> = outcomes.iter().map(|told| told["outcome"].as_str().unwrap_or_default()).collect();
    ensure!(outcomes == ["confirmed", "confirmed", "confirmed", "invalid"], "{outcomes:?}");
    let sentinel = stage.notifier().await?.sentinel().await?;
    let wanted: Vec<_> = (0..304).map(numbered).collect();
    received(&mut client, &sentinel, &wanted.iter().map(String::as_str).collect::<Vec<_>>()).await
}
