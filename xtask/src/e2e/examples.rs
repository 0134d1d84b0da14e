//! The examples that documents show: those that publish reach a player, those that consume settle what they got.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use notify_protocol::{DEFAULT_EXCHANGE, NOTIFY_ROUTING_KEY};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
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
    let Some(mut example) = Consuming::start(stage, "consume").await? else { return Ok(()) };
    let body = numbered(1);
    stage.notifier().await?.notify_user(42, &body).await?;
    example.says(&format!("{} bytes by {NOTIFY_ROUTING_KEY}", body.len())).await?;
    example.ends_and_leaves_nothing(stage, "my-host").await
}

/// `crates/notify-amqp/examples/handle.rs`: it acks, rejects, and halts on a message that says so.
pub(super) async fn rust_handler_example(stage: &Stage) -> anyhow::Result<()> {
    let Some(mut example) = Consuming::start(stage, "handle").await? else { return Ok(()) };
    let mut notifier = stage.notifier().await?;
    for body in [&numbered(1), "[]", &numbered(2), "\"stop\""] {
        notifier.publish(&Value::Null, &json!({}), body.as_bytes()).await?;
    }
    example.says(&numbered(1)).await?;
    example.says(&numbered(2)).await?;
    example.ends_and_leaves_nothing(stage, "my-service").await
}

/// An example that consumes.
struct Consuming {
    process: Child,
    output: Lines<BufReader<ChildStdout>>,
}

impl Consuming {
    /// Starts it and waits until it consumes; `None` where its exchange is somebody else's.
    async fn start(stage: &Stage, name: &str) -> anyhow::Result<Option<Self>> {
        if stage.exchange() != DEFAULT_EXCHANGE {
            stage.skip("on a broker that is not ours, the example's exchange is somebody else's");
            return Ok(None);
        }
        let setup = stage.setup();
        let url = setup.value("LOBBY_BROKER__URL").context("the broker")?;
        let mut example = Command::new(build::example(name).await?);
        example.env("AMQP_URL", url).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = example.spawn().context("start the example")?;
        let output = BufReader::new(process.stdout.take().context("the example's output")?).lines();
        let mut example = Self { process, output };
        example.says("consuming").await?;
        Ok(Some(example))
    }

    async fn says(&mut self, wanted: &str) -> anyhow::Result<()> {
        let line = timeout(RUN_LIMIT, self.output.next_line()).await.context("the example says nothing")?;
        let got = line.context("read what the example says")?;
        ensure!(got.as_deref() == Some(wanted), "wanted {wanted}, the example said {got:?}");
        Ok(())
    }

    /// Closes its input; it ends in order and nothing is left in the instance's queue.
    async fn ends_and_leaves_nothing(mut self, stage: &Stage, instance: &str) -> anyhow::Result<()> {
        drop(self.process.stdin.take());
        let status = timeout(RUN_LIMIT, self.process.wait()).await.context("the example did not end")??;
        ensure!(status.success(), "the example failed ({status})");
        let queue = format!("{DEFAULT_EXCHANGE}.lobby.client.notify.{instance}");
        let state = stage.queue_with_consumers(&queue, 0).await?;
        ensure!(state.messages == 0, "the example left {} messages unsettled", state.messages);
        Ok(())
    }
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
