//! `cargo xtask ci`: what CI runs, cheapest check first.

/// Runs all checks.
pub(crate) async fn ci() -> anyhow::Result<()> {
    anyhow::bail!("`cargo xtask ci` is not written yet; `cargo xtask broker` starts a broker")
}
