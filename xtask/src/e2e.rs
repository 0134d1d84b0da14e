//! `cargo xtask e2e`: the built `lobby` against a real broker and real sockets.

/// Runs the scenarios whose name contains `only`, or all.
pub(crate) async fn e2e(_only: Option<&str>) -> anyhow::Result<()> {
    anyhow::bail!("`cargo xtask e2e` is not written yet; `cargo xtask broker` starts a broker")
}
