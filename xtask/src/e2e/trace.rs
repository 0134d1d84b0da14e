//! Why did a player not get it? A running lobby's last decisions.

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::addressing::received;
use super::notifier::Notifier;
use super::stage::Stage;
use crate::PATIENCE;
use crate::client::Transport;
use crate::late::Late;
use crate::lobby::{Finished, Lobby};

/// `lobby trace` says for a user who is here, one who is not, and for what was dropped, what became of each message.
pub(super) async fn trace(stage: &Stage) -> anyhow::Result<()> {
    let lobby = stage.lobby().await?;
    let mut here = stage.client(&lobby, Transport::Tcp, 42).await?;
    let mut notifier = stage.notifier().await?;
    publish(&mut notifier, &json!([["user-id", "l", 42], ["x-case", "S", "first"]]), "for-42", "{\"n\":1}")
        .await?;
    publish(&mut notifier, &json!([["user-id", "l", 43]]), "for-43", "{\"n\":2}").await?;
    publish(&mut notifier, &json!([["user-id", "t", true]]), "for-true", "{\"n\":3}").await?;
    publish(&mut notifier, &json!([["User-Id", "l", 42]]), "misspelled", "{\"n\":4}").await?;
    let sentinel = notifier.sentinel().await?;
    received(&mut here, &sentinel, &["{\"n\":1}", "{\"n\":4}"]).await?;

    let about_42 = asked(stage, &lobby, &["--user", "42", "--json"], "written", 3).await?;
    ensure!(outcome(&about_42, "for-42")? == "written", "for 42: {about_42}");
    let found = found(&about_42, "for-42")?;
    ensure!(found["sessions"]["written"] == 1 && found["user"] == 42, "for 42: {found}");
    ensure!(found["headers"] == "x-case: long string \"first\"", "its headers: {found}");
    // A misspelled header makes a broadcast: the trace shows it.
    let odd = self::found(&about_42, "misspelled")?;
    ensure!(odd["user"].is_null() && odd["headers"] == "User-Id: integer 42", "misspelled: {odd}");
    ensure!(self::found(&about_42, "for-43").is_err(), "42 sees what is for 43: {about_42}");

    let about_43 = asked(stage, &lobby, &["--user", "43", "--json"], "written", 2).await?;
    ensure!(outcome(&about_43, "for-43")? == "not_connected", "for 43: {about_43}");
    let missed = asked(stage, &lobby, &["--json"], "not_connected", 1).await?;
    ensure!(outcome(&missed, "for-true")? == "dropped", "for true: {missed}");
    ensure!(self::found(&missed, "for-true")?["reason"] == "invalid_user_id", "the reason: {missed}");
    ensure!(self::found(&missed, "for-42").is_err(), "what was written is missed: {missed}");

    let table = run(stage, &lobby, &["--user", "43"]).await?.stdout;
    ensure!(table.contains("for-43") && table.contains("not logged in here"), "the table:\n{table}");
    let wrong = lobby.admin("/trace?user=x").await?;
    ensure!(wrong.status == 400, "a user that is none: {} {}", wrong.status, wrong.body);
    let away =
        stage.setup().argument("trace").argument("--admin").argument("127.0.0.1:1").run_to_exit().await?;
    ensure!(away.status.code() == Some(69), "no lobby there: {} {}", away.status, away.stderr);
    Ok(())
}

async fn publish(notifier: &mut Notifier, headers: &Value, id: &str, body: &str) -> anyhow::Result<()> {
    notifier.publish(headers, &json!({"message_id": id}), body.as_bytes()).await.map(drop)
}

/// The answer, once it has so many decisions with this outcome: the last session lets go a moment after the client has
/// read.
async fn asked(
    stage: &Stage,
    lobby: &Lobby,
    arguments: &[&str],
    of: &str,
    count: usize,
) -> anyhow::Result<Value> {
    let start = tokio::time::Instant::now();
    loop {
        let answer: Value =
            serde_json::from_str(&run(stage, lobby, arguments).await?.stdout).context("JSON")?;
        let decisions = answer["decisions"].as_array().context("a list of decisions")?;
        if decisions.iter().filter(|decision| decision["outcome"] == of).count() >= count {
            return Ok(answer);
        }
        ensure!(start.elapsed() < PATIENCE, Late(format!("never {count} {of}: {answer}")));
    }
}

async fn run(stage: &Stage, lobby: &Lobby, arguments: &[&str]) -> anyhow::Result<Finished> {
    let admin = lobby.admin_address()?.to_string();
    let setup = stage.setup().argument("trace").argument("--admin").argument(admin);
    let finished =
        arguments.iter().fold(setup, |setup, argument| setup.argument(*argument)).run_to_exit().await?;
    ensure!(finished.status.success(), "trace exited with {}: {}", finished.status, finished.stderr);
    Ok(finished)
}

fn found<'a>(answer: &'a Value, id: &str) -> anyhow::Result<&'a Value> {
    let mut decisions = answer["decisions"].as_array().into_iter().flatten();
    decisions.find(|decision| decision["message_id"] == id).with_context(|| format!("no {id} in {answer}"))
}

fn outcome<'a>(answer: &'a Value, id: &str) -> anyhow::Result<&'a str> {
    found(answer, id)?["outcome"].as_str().context("an outcome")
}
