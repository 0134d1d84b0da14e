//! `lobby publish`: what arrives, and one exit code for each thing that can go wrong.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};

use super::addressing::received;
use super::stage::Stage;
use crate::amqp_wire::Connection;
use crate::client::Transport;
use crate::contract::check_receipt;
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

/// The receipts of each message are shown, and what they say decides the exit code.
pub(super) async fn receipts(stage: &Stage) -> anyhow::Result<()> {
    let (here, there) = (stage.setup(), stage.setup().set("LOBBY_INSTANCE__NAME", "receipts-other"));
    let (first, _second) = (stage.start(&here).await?, stage.start(&there).await?);
    let mut client = stage.client(&first, Transport::Tcp, 42).await?;

    let told =
        publish(&here, &["--user", "42", "--message-id", "mine", "{\"n\":1}", "--receipt"], 0, "OVERFLOWED");
    let told = told.await?.stdout;
    let rows: Vec<Vec<_>> = told.lines().map(|line| line.split_whitespace().collect()).collect();
    let [confirmed, heads, row] = &rows[..] else { bail!("one receipt: {told}") };
    ensure!(confirmed == &["confirmed", "mine"] && heads[..2] == ["LOBBY", "OUTCOME"], "{told}");
    ensure!(row[..5] == [stage.instance(), "written", "1", "1", "0"], "{told}");

    // Both lobbies answer, in any order: one wrote it, for the other the user is not connected.
    let all = ["--user", "42", "--receipt", "all", "--answers", "2", "--wait", "30s", "--json", "{\"n\":2}"];
    let told = publish(&here, &all, 0, "not_connected").await?;
    let (message, by_lobby) = receipts_of(&told)?;
    ensure!(message["outcome"] == "written" && message["message_id"].is_string(), "{message}");
    let wanted = BTreeMap::from([
        (stage.instance().to_owned(), "written".to_owned()),
        ("receipts-other".to_owned(), "not_connected".to_owned()),
    ]);
    ensure!(by_lobby == wanted, "{by_lobby:?}");

    // Nobody is connected: no receipt at all, or two that say so.
    let alone = ["--user", "7", "--receipt", "written", "--wait", "300ms", "{}"];
    publish(&here, &alone, 81, "no receipt came within 300ms").await?;
    let alone = ["--user", "7", "--receipt", "all", "--answers", "2", "--wait", "30s", "--json", "{}"];
    let (message, by_lobby) = receipts_of(&publish(&here, &alone, 82, "no lobby has written it").await?)?;
    ensure!(
        message["outcome"] == "not_written" && by_lobby.values().all(|said| said == "not_connected"),
        "{message}"
    );
    publish(&here, &["--channel", "x", "{}", "--receipt"], 82, "dropped channel_reserved").await?;
    publish(&here, &["--user", "42", "{}", "--wait", "1s"], 2, "--receipt").await?;
    publish(&here, &["--user", "42", "--receipt", "none", "{}"], 2, "written, all").await?;

    // In a file: in order, the first failure decides, and no message waits for the receipts of the one before it.
    let lines: String =
        (3..103).map(|n| json!({"user-id": 42, "body": {"n": n}}).to_string() + "\n").collect();
    let nobody = json!({"user-id": 7, "body": {}}).to_string();
    let typed = here.clone().input(format!("{lines}{nobody}\n"));
    let start = Instant::now();
    let many = ["--envelopes", "--receipt", "all", "--answers", "3", "--wait", "5s"];
    let told = publish(&typed, &many, 82, "confirmed 101 of 101, written 100").await?;
    ensure!(start.elapsed() < Duration::from_secs(250), "one waits for the other: {:?}", start.elapsed());
    let mut rows = told.stdout.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    ensure!(rows.next().is_some_and(|heads| heads[..2] == ["LINE", "LOBBY"]), "{}", told.stdout);
    for line in 1..=101 {
        for _ in 0..2 {
            let row = rows.next().with_context(|| format!("two receipts of line {line}"))?;
            ensure!(row[0] == line.to_string(), "line {line}: {row:?}");
        }
    }
    let sentinel = stage.notifier().await?.sentinel().await?;
    let wanted: Vec<_> = (1..103).map(|n| format!("{{\"n\":{n}}}")).collect();
    received(&mut client, &sentinel, &wanted.iter().map(String::as_str).collect::<Vec<_>>()).await
}

/// The message's own line, and what each lobby's receipt says.
fn receipts_of(told: &Finished) -> anyhow::Result<(Value, BTreeMap<String, String>)> {
    let lines: Vec<Value> = told.stdout.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let (message, receipts) = lines.split_first().context("a line for the message")?;
    let mut by_lobby = BTreeMap::new();
    for line in receipts {
        let receipt = &line["receipt"];
        check_receipt(receipt.to_string().as_bytes())?;
        let text = |key: &str| receipt[key].as_str().unwrap_or_default().to_owned();
        ensure!(receipt["message_id"] == message["message_id"], "{line}");
        by_lobby.insert(text("instance"), text("outcome"));
    }
    Ok((message.clone(), by_lobby))
}
