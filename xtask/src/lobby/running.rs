//! A command of the lobby that is not the lobby itself, while it runs.

use std::process::ExitStatus;

use anyhow::Context as _;
use tokio::process::Child;
use tokio::time::timeout;

use super::LogBook;
use crate::PATIENCE;

/// A command that runs until it is told to end. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Running {
    pub(super) child: Child,
    /// Standard output.
    pub(crate) said: LogBook,
    /// Standard error.
    pub(crate) told: LogBook,
}

impl Running {
    /// Sends SIGTERM and waits for the end.
    pub(crate) async fn terminate(self) -> anyhow::Result<ExitStatus> {
        let pid = self.child.id().context("the command has ended already")?;
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid)?).context("process id 0")?;
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).context("send SIGTERM")?;
        self.exited().await
    }

    /// Waits for the command to end by itself.
    pub(crate) async fn exited(mut self) -> anyhow::Result<ExitStatus> {
        let exit = timeout(PATIENCE, self.child.wait()).await;
        let status = exit.with_context(|| format!("the command did not end in {PATIENCE:?}"))?;
        self.said.complete().await;
        self.told.complete().await;
        status.context("wait for the command")
    }
}
