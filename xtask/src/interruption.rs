//! Ctrl-C, and SIGTERM, which is how somebody without this terminal ends an xtask.

use std::io;

use anyhow::bail;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Hears both from its making on.
#[derive(Debug)]
pub(crate) struct Interruption {
    interrupt: Signal,
    terminate: Signal,
}

impl Interruption {
    /// From now on neither of them ends this process.
    pub(crate) fn heed() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Waits for either.
    pub(crate) async fn comes(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Does `work`, until it is interrupted: dropped, it ends the processes that it has started.
pub(crate) fn unless_interrupted(
    work: impl Future<Output = anyhow::Result<()>>,
) -> impl Future<Output = anyhow::Result<()>> {
    // Whole commands are large.
    let work = Box::pin(work);
    async {
        let mut interruption = Interruption::heed()?;
        tokio::select! {
            outcome = work => outcome,
            () = interruption.comes() => bail!("interrupted"),
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::{Signal, getpid, kill_process};
    use tokio::sync::oneshot::{self, error::TryRecvError};

    use super::*;

    #[tokio::test]
    async fn what_is_interrupted_by_either_signal_is_dropped_and_fails() {
        for told in [Signal::TERM, Signal::INT] {
            let (sender, mut held) = oneshot::channel::<()>();
            let outcome = unless_interrupted(async move {
                let _held = sender;
                kill_process(getpid(), told)?;
                std::future::pending().await
            });
            assert_eq!(outcome.await.unwrap_err().to_string(), "interrupted");
            assert_eq!(held.try_recv(), Err(TryRecvError::Closed), "it was dropped");
        }
        unless_interrupted(async { Ok(()) }).await.unwrap();
    }
}
