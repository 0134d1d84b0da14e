//! What arrives at the exchange, shown, recorded and replayed beside a lobby that misses nothing of it.

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::addressing::received;
use super::notifier::{numbered, unique};
use super::stage::Stage;
use crate::PATIENCE;
use crate::amqp_wire::{Outcome, decode_body};
use crate::client::Transport;

const VECTORS: &str = include_str!("../../../crates/notify-protocol/testdata/vectors.jsonl");
const READY: &str = "listening at exchange";

/// `lobby explain` needs no broker: it tells each step and the bytes, and what is wrong with a message.
pub(super) async fn explain_command(stage: &Stage) -> anyhow::Result<()> {
    let explain = stage.bare_setup().argument("explain");
    let told =
        explain.clone().arguments(["--header", "user-id=I:42", "--body", "{\"a\":1}"]).run_to_exit().await?;
    ensure!(told.status.success(), "explain exited with {}: {}", told.status, told.stderr);
    for words in ["user-id (I) integer 42", "user 42", "unicast", "{\"a\":1} + 0a", "81 08 + the same 8"] {
        ensure!(told.stdout.contains(words), "no `{words}` in\n{}", told.stdout);
    }
    let dropped =
        explain.clone().input("{\"a\":1}").arguments(["--header", "user-id=t:true", "--body", "-", "--json"]);
    let dropped: Value = serde_json::from_str(&dropped.run_to_exit().await?.stdout).context("JSON")?;
    ensure!(dropped["reason"] == "invalid_user_id" && dropped["tcp"].is_null(), "{dropped}");
    let untyped = explain.clone().arguments(["--header", "user-id=42", "--body", "{}"]).run_to_exit().await?;
    ensure!(
        untyped.status.code() == Some(2) && untyped.stderr.contains("user-id=I:42"),
        "{}",
        untyped.stderr
    );
    let broken = stage.directory().join("broken.jsonl");
    std::fs::write(&broken, "{}\n").context("write a recording")?;
    let broken = explain.arguments(["--recorded", broken.to_str().context("UTF-8")?]).run_to_exit().await?;
    ensure!(broken.status.code() == Some(64) && broken.stderr.contains("line 1"), "{}", broken.stderr);
    Ok(())
}

/// `lobby tail` shows what arrives, with the decision, and takes nothing from the lobby.
pub(super) async fn tail_command(stage: &Stage) -> anyhow::Result<()> {
    let lobby = stage.lobby().await?;
    let mut client = stage.client(&lobby, Transport::Tcp, 42).await?;
    let setup = stage.setup().argument("tail");
    let all = setup.clone().arguments(["--json", "--limit", "4"]).begin(READY).await?;
    let of_42 = setup.clone().arguments(["--user", "42", "--limit", "2"]).begin(READY).await?;
    let endless = setup.begin(READY).await?;
    let mut notifier = stage.notifier().await?;
    notifier.notify_user(42, &numbered(1)).await?;
    notifier.notify_user(43, &numbered(2)).await?;
    notifier.publish(&json!([["user-id", "t", true]]), &json!({"message_id": "odd"}), b"{}").await?;
    let sentinel = notifier.sentinel().await?;
    received(&mut client, &sentinel, &[&numbered(1)]).await?;
    let (said, told) = (all.said.clone(), of_42.said.clone());
    ensure!(all.exited().await?.success() && of_42.exited().await?.success(), "they end well at the limit");
    let lines = lines_until(&said, 4).await?;
    let lines: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line)).collect::<Result<_, _>>()?;
    let outcomes: Vec<_> = lines.iter().filter_map(|line| line["outcome"].as_str()).collect();
    ensure!(outcomes == ["unicast", "unicast", "dropped", "broadcast"], "{outcomes:?}");
    ensure!(lines[0]["body"] == numbered(1) && lines[0]["user"] == 42, "{}", lines[0]);
    ensure!(
        lines[2]["reason"] == "invalid_user_id" && lines[2]["props"]["message_id"] == "odd",
        "{}",
        lines[2]
    );
    let lines = lines_until(&told, 2).await?;
    ensure!(lines[0].contains("user 42") && lines[1].contains("everyone"), "{lines:?}");
    ensure!(endless.terminate().await?.success(), "SIGTERM ends it well");
    let dead = stage.setup().set("LOBBY_BROKER__HOSTS", "127.0.0.1:1").argument("tail").run_to_exit().await?;
    ensure!(
        dead.status.code() == Some(69) && dead.stderr.contains("unreachable"),
        "no broker: {}",
        dead.stderr
    );
    stage.leaves_nothing(lobby).await
}

/// Everything that reaches lobbies is recorded; replayed, it arrives again as it was, with every type of header.
pub(super) async fn record_replay(stage: &Stage) -> anyhow::Result<()> {
    let lobby = stage.lobby().await?;
    let mut notifier = stage.notifier().await?;
    let (first, second) = (stage.directory().join("first.jsonl"), stage.directory().join("second.jsonl"));
    let (first, second) = (first.to_str().context("UTF-8")?, second.to_str().context("UTF-8")?);
    let record = |file: &str| stage.setup().argument("record").argument(file);
    let recording = record(first).begin(READY).await?;
    let mut routed = Vec::new();
    for line in VECTORS.lines() {
        let vector: Value = serde_json::from_str(line).context("a vector")?;
        let mut props = vector["props"].clone();
        if let Some(user) = props.get_mut("user_id") {
            *user = json!(stage.url().user);
        }
        // One that waits at most so long may be gone before it is recorded.
        if props.get("expiration").is_some() {
            continue;
        }
        let text = |key: &str| vector[key].as_str().unwrap_or_default();
        let body = decode_body(text("body"), text("body_enc"))?;
        if notifier.publish_to(text("routing_key"), &vector["headers"], &props, &body).await?
            == Outcome::Confirmed
        {
            routed.push((vector, body));
        }
    }
    notifier
        .publish(&every_type(), &json!({"message_id": "types", "type": "t", "reply_to": "r"}), b"{}")
        .await?;
    let recorded = ended_by(stage, first, recording).await?;
    ensure!(recorded.len() == routed.len() + 2, "{} recorded of {}", recorded.len(), routed.len() + 2);
    for (line, (vector, body)) in recorded.iter().zip(&routed) {
        let kept = decode_body(line["body"].as_str().unwrap_or_default(), "b64")?;
        ensure!(kept == *body, "the body of {} is another: {line}", vector["id"]);
    }
    let types = &recorded[routed.len()];
    ensure!(sorted(&types["headers"]) == sorted(&every_type()), "not every type is kept: {types}");
    ensure!(types["props"] == json!({"message_id": "types", "type": "t", "reply_to": "r"}), "{types}");

    let replay = stage.setup().argument("replay").argument(first);
    let dry = replay.clone().argument("--json").run_to_exit().await?;
    ensure!(dry.status.success(), "replay exited with {}: {}", dry.status, dry.stderr);
    decisions_are_right(&dry.stdout, &routed)?;

    let recording = record(second).begin(READY).await?;
    let real = replay.clone().arguments(["--publish", "--rate", "5000"]).run_to_exit().await?;
    let all = format!("confirmed {0} of {0}", recorded.len());
    ensure!(real.status.success() && real.stdout.contains(&all), "{}{}", real.stdout, real.stderr);
    let again = ended_by(stage, second, recording).await?;
    for (before, after) in recorded.iter().zip(&again) {
        for key in ["exchange", "routing_key", "headers", "body"] {
            ensure!(before[key] == after[key], "{key} of {before} became {}", after[key]);
        }
        let mut props = before["props"].clone();
        props.as_object_mut().and_then(|props| props.remove("user_id"));
        ensure!(props == after["props"], "{before} became {after}");
    }
    stage.fact(format!("{} messages", recorded.len()));
    let refused = stage.setup().arguments(["replay", "--publish", "absent.jsonl"]).run_to_exit().await?;
    ensure!(refused.status.code() == Some(73), "a file that is absent: {}", refused.status);
    stage.leaves_nothing(lobby).await
}

/// The replay decides as the vectors say, but for what a registry knows.
fn decisions_are_right(told: &str, routed: &[(Value, Vec<u8>)]) -> anyhow::Result<()> {
    for (line, (vector, _)) in told.lines().zip(routed) {
        let decision: Value = serde_json::from_str(line).context("JSON")?;
        let expect = &vector["expect"];
        let also = expect["also_ok"].as_array().into_iter().flatten();
        let fits = |expect: &Value| match decision["outcome"].as_str() {
            Some("unicast") => expect["target"] == decision["user"] || expect["reason"] == "not_connected",
            Some("channel_reserved") => expect["reason"] == "channel_reserved",
            outcome => expect["outcome"].as_str() == outcome,
        };
        ensure!(std::iter::once(expect).chain(also).any(fits), "{}: {decision}", vector["id"]);
    }
    Ok(())
}

/// Publishes a last message, waits until it is recorded, and ends the recording; the lines but for that one's.
async fn ended_by(stage: &Stage, file: &str, recording: crate::lobby::Running) -> anyhow::Result<Vec<Value>> {
    let end = unique("end");
    stage.notifier().await?.publish(&Value::Null, &json!({"message_id": end}), b"{}").await?;
    let start = Instant::now();
    let text = loop {
        let text = std::fs::read_to_string(file).context("read the recording")?;
        if text.contains(&end) && text.ends_with('\n') {
            break text;
        }
        ensure!(start.elapsed() < PATIENCE, "the last message is not recorded");
        sleep(std::time::Duration::from_millis(25)).await;
    };
    let told = recording.told.clone();
    let status = recording.terminate().await?;
    ensure!(status.success(), "record exited with {status}: {:?}", told.lines());
    text.lines().map(|line| serde_json::from_str(line).context("a recorded line")).collect()
}

fn every_type() -> Value {
    json!([
        ["a", "t", true],
        ["b", "b", -5],
        ["c", "B", 250],
        ["d", "s", -300],
        ["e", "u", 60000],
        ["f", "I", -70000],
        ["g", "i", 4_000_000_000_u32],
        ["h", "l", i64::MIN],
        ["i", "f", 1.5],
        ["j", "d", 0.1],
        ["k", "D", {"scale": 2, "value": 314}],
        ["l", "S", "é\n"],
        ["m", "S", {"b64": "/wA="}],
        ["n", "x", "AP8="],
        ["o", "T", 1_700_000_000],
        ["p", "V", null],
        ["q", "A", [["I", 1], ["F", [["k", "V", null]]]]],
        ["r", "F", [["k", "t", false], ["n", "A", []]]]
    ])
}

fn sorted(headers: &Value) -> Vec<String> {
    let mut headers: Vec<_> = headers.as_array().into_iter().flatten().map(ToString::to_string).collect();
    headers.sort();
    headers
}

/// The output's lines, once there are so many: what is read follows the process's end.
async fn lines_until(said: &crate::lobby::LogBook, count: usize) -> anyhow::Result<Vec<String>> {
    let start = Instant::now();
    loop {
        let lines = said.lines();
        if lines.len() >= count {
            return Ok(lines);
        }
        ensure!(start.elapsed() < PATIENCE, "{} lines of {count}: {lines:?}", lines.len());
        sleep(std::time::Duration::from_millis(25)).await;
    }
}
