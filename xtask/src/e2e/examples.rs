//! The examples that documents show: those that publish reach a player, the one that consumes acks what it got.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use notify_protocol::{DEFAULT_EXCHANGE, NOTIFY_ROUTING_KEY};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

use super::notifier::numbered;
use super::stage::Stage;
use crate::build;
use crate::client::Transport;
use crate::environment::Environment;
use crate::python;

/// What both examples say to user 42.
const TEXT: &str = "Your friend came online";
const RUN_LIMIT: Duration = Duration::from_secs(30);

/// `crates/notify-amqp/examples/notify.rs`.
pub(super) async fn rust_example(stage: &Stage) -> anyhow::Result<()> {
    let example = build::example("notify").await?;
    publishes(stage, Command::new(example)).await
}

/// `crates/notify-amqp/examples/receipt.rs`: the player's lobby says that it wrote, the other that nobody is there.
pub(super) async fn rust_receipt_example(stage: &Stage) -> anyhow::Result<()> {
    if stage.exchange() != DEFAULT_EXCHANGE {
        stage.skip("on a broker that is not ours, the example's exchange is somebody else's");
        return Ok(());
    }
    let other = stage.setup().set("LOBBY_INSTANCE__NAME", "empty-lobby");
    let (lobby, _other) = (stage.lobby().await?, stage.start(&other).await?);
    let _player = stage.client(&lobby, Transport::Tcp, 42).await?;
    let url = stage.setup().value("LOBBY_BROKER__URL").context("the broker")?.to_owned();
    let mut example = Command::new(build::example("receipt").await?);
    example.env("AMQP_URL", url).stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(RUN_LIMIT, example.output()).await.context("the example does not end")??;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let says = |start: String| said.lines().filter(|line| line.starts_with(&start)).count() == 1;
    let right = says(format!("{}: written after ", stage.instance()))
        && says("empty-lobby: not_connected after ".into())
        && said.lines().count() == 2;
    ensure!(right, "the example said:\n{said}");
    stage.leaves_nothing(lobby).await
}

/// `examples/python/publish.py`.
pub(super) async fn python_example(stage: &Stage) -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the repository's root")?;
    let python = match python::environment().await? {
        Environment::Ready(python) => python,
        Environment::Unreachable(reason) => {
            stage.skip(reason);
            return Ok(());
        }
    };
    let mut command = Command::new(python);
    command.arg("-B").arg(root.join("examples/python/publish.py"));
    command.env("PYTHONPATH", root.join("publishers/python"));
    publishes(stage, command).await
}

/// `crates/notify-amqp/examples/consume.rs`.
pub(super) async fn rust_consumer_example(stage: &Stage) -> anyhow::Result<()> {
    if stage.exchange() != DEFAULT_EXCHANGE {
        stage.skip("on a broker that is not ours, the example's exchange is somebody else's");
        return Ok(());
    }
    let setup = stage.setup();
    let url = setup.value("LOBBY_BROKER__URL").context("the broker")?;
    let mut example = Command::new(build::example("consume").await?);
    example.env("AMQP_URL", url).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut example = example.spawn().context("start the example")?;
    let mut says = BufReader::new(example.stdout.take().context("the example's output")?).lines();
    let mut said = async || {
        timeout(RUN_LIMIT, says.next_line()).await.context("the example says nothing")?.context("read")
    };
    ensure!(said().await?.as_deref() == Some("consuming"), "the example does not consume");
    let body = numbered(1);
    stage.notifier().await?.notify_user(42, &body).await?;
    let wanted = format!("{} bytes by {NOTIFY_ROUTING_KEY}", body.len());
    let got = said().await?;
    ensure!(got.as_ref() == Some(&wanted), "wanted {wanted}, the example said {got:?}");
    drop(example.stdin.take());
    let status = timeout(RUN_LIMIT, example.wait()).await.context("the example did not end")??;
    ensure!(status.success(), "the example failed ({status})");
    let queue = format!("{DEFAULT_EXCHANGE}.lobby.client.notify.my-host");
    let state = stage.queue_with_consumers(&queue, 0).await?;
    ensure!(state.messages == 0, "the example left {} messages unacknowledged", state.messages);
    Ok(())
}

async fn publishes(stage: &Stage, mut example: Command) -> anyhow::Result<()> {
    if stage.exchange() != DEFAULT_EXCHANGE {
        stage.skip("on a broker that is not ours, the examples' exchange is somebody else's");
        return Ok(());
    }
    let lobby = stage.lobby().await?;
    let mut player = stage.client(&lobby, Transport::Tcp, 42).await?;
    let mut other = stage.client(&lobby, Transport::WebSocket, 7).await?;
    let setup = stage.setup();
    let url = setup.value("LOBBY_BROKER__URL").context("the lobby's broker")?;
    example.env("AMQP_URL", url).stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(RUN_LIMIT, example.output()).await.context("the example did not end")??;
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "the example failed ({}): {stdout}{stderr}", output.status);
    ensure!(stdout.starts_with("confirmed"), "the example printed {stdout:?}");
    let sentinel = stage.notifier().await?.sentinel().await?;
    let lines = player.expect_until(&sentinel).await?;
    let texts: Vec<_> =
        lines.iter().map(|line| line.json().map(|json| json["text"].clone())).collect::<Result<_, _>>()?;
    ensure!(texts == [TEXT], "user 42 got {lines:?}");
    let others = other.expect_until(&sentinel).await?;
    ensure!(others.is_empty(), "user 7 got {others:?}");
    stage.leaves_nothing(lobby).await
}
