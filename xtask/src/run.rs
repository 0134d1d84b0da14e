//! `cargo xtask run`: the whole path from a RabbitMQ message to a client's socket, shown once.

/// Runs the demonstration.
pub(crate) async fn run(_once: bool, _pull: bool) -> anyhow::Result<()> {
    anyhow::bail!("`cargo xtask run` is not written yet; `cargo xtask broker` starts a broker")
}
