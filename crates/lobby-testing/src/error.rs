//! What can go wrong with a lobby under test, apart from the claim that is tested.

use std::{io, time::Duration};

/// Why the lobby or a client of it is of no use. A test should fail with it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TestingError {
    /// The system gives no thread, socket or event queue, or a socket broke.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// Something that always happens did not: the lobby's threads hang or are gone.
    #[error("{what} did not happen within {limit:?}; the lobby hangs or a thread of it is gone")]
    TooLong {
        /// What was waited for.
        what: &'static str,
        /// How long.
        limit: Duration,
    },
    /// The lobby wrote what no client can read.
    #[error("the lobby wrote a broken WebSocket frame: {problem}")]
    BrokenFrame {
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The first thing that a client reads is not the `welcome`.
    #[error("instead of `welcome` the client got {got:?}")]
    NotWelcome {
        /// What it got, in UTF-8 as far as possible.
        got: String,
    },
}

impl TestingError {
    pub(crate) fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }
}
