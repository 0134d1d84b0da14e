//! Docker: the image for machines without a registry, and an engine for machines without Docker.

pub(crate) mod engine;
pub(crate) mod image;

use anyhow::{Context as _, ensure};

use self::engine::Engine;
use crate::progress;

/// `cargo xtask broker-image`: builds `lobby-rabbitmq:local` unless it is there; `force` builds it anew.
pub(crate) async fn broker_image(force: bool) -> anyhow::Result<()> {
    let mut progress = progress::to_stderr();
    let engine = Engine::ensure_running(&mut progress).await?;
    let outcome = ensure_image(&engine, force, &mut progress).await;
    engine.stop().await?;
    outcome
}

/// Builds the image in `engine` unless it is there.
pub(crate) async fn ensure_image(
    engine: &Engine,
    force: bool,
    progress: &mut (impl FnMut(&str) + Send),
) -> anyhow::Result<()> {
    let client = engine.client().await?;
    let name = format!("{}:{}", image::LOCAL_NAME, image::LOCAL_TAG);
    if !force && image::has_image(&client, &name).await {
        progress("the image lobby-rabbitmq:local is there; --force builds it anew");
        return Ok(());
    }
    image::build(&client, progress).await.with_context(|| format!("build the image {name}"))?;
    progress("the image lobby-rabbitmq:local is ready");
    Ok(())
}

/// `cargo xtask with-docker`: runs a command with `DOCKER_HOST` set to an engine that answers.
pub(crate) async fn with_docker(command: &[String]) -> anyhow::Result<()> {
    let mut progress = progress::to_stderr();
    let (program, arguments) = command.split_first().context("no command given")?;
    let engine = Engine::ensure_running(&mut progress).await?;
    // Ctrl-C reaches the command by itself; this process stays to stop the engine.
    tokio::spawn(async { while tokio::signal::ctrl_c().await.is_ok() {} });
    let mut child = tokio::process::Command::new(program);
    let status = child.args(arguments).env("DOCKER_HOST", engine.docker_host()).status().await;
    engine.stop().await?;
    let status = status.with_context(|| format!("run `{program}`"))?;
    ensure!(status.success(), "`{}` failed ({status})", command.join(" "));
    Ok(())
}
