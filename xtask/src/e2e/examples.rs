//! The README's examples publish, and a player gets what they published.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use notify_protocol::DEFAULT_EXCHANGE;
use tokio::process::Command;
use tokio::time::timeout;

use super::stage::Stage;
use crate::build;
use crate::client::Transport;
use crate::python::{self, Environment};

/// What both examples say to user 42.
const TEXT: &str = "Your friend came online";
const RUN_LIMIT: Duration = Duration::from_secs(30);

/// `crates/notify-amqp/examples/notify.rs`.
pub(super) async fn rust_example(stage: &Stage) -> anyhow::Result<()> {
    let example = build::example("notify").await?;
    publishes(stage, Command::new(example)).await
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
    command.arg(root.join("examples/python/publish.py"));
    publishes(stage, command).await
}

async fn publishes(stage: &Stage, mut example: Command) -> anyhow::Result<()> {
    if stage.exchange() != DEFAULT_EXCHANGE {
        stage.fact("not run: on a broker that is not ours, the examples' exchange is somebody else's");
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
