//! What was only too late, told from what was wrong.
//!
//! Tests run side by side, on machines that do other work too. One that failed because something did not come in time runs
//! once more, alone, and a report says so; what was seen and wrong fails at once. A line that a client never got is late, too:
//! what is lost under load is counted by the ledger of the faults, which excuses nothing.

use tokio::time::error::Elapsed;

/// Something took longer than it may.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Late(pub(crate) String);

/// Whether a time limit is what an error is about, and not what was seen.
pub(crate) fn is_late(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.is::<Late>() || cause.is::<Elapsed>())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use anyhow::Context as _;

    use super::*;

    #[tokio::test]
    async fn only_lateness_is_excused() {
        let late = Err::<(), _>(Late("recovered after 3 s, limit 2 s".to_owned())).context("round 2");
        assert!(is_late(&late.unwrap_err()));
        let waited = tokio::time::timeout(Duration::ZERO, std::future::pending::<()>()).await;
        assert!(is_late(&waited.context("a line never came").unwrap_err()));
        assert!(!is_late(&anyhow::anyhow!("player 1: 3 lost")));
        assert!(!is_late(&anyhow::anyhow!("a lobby panicked: at main.rs:1")));
    }
}
