//! `cargo xtask test`: unit tests, doc tests and broker tests.

/// Runs the tests.
pub(crate) async fn test() -> anyhow::Result<()> {
    anyhow::bail!("`cargo xtask test` is not written yet; `cargo test` runs the unit tests")
}
