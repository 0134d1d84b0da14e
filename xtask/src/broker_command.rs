//! `cargo xtask broker`: a broker until Ctrl-C.

/// Options of the command.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Print one line of JSON instead of text.
    #[arg(long)]
    json: bool,
}

/// Starts a broker and keeps it until Ctrl-C.
pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    anyhow::bail!("not written yet (json: {})", options.json)
}
