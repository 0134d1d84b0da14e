//! Cleans up after an xtask that was killed.

/// What to clean up.
#[derive(Debug, clap::Args)]
pub(crate) struct Ward {}

/// Waits for the end of the parent.
pub(crate) async fn watch(_ward: &Ward) -> anyhow::Result<()> {
    anyhow::bail!("not written yet")
}
