//! What the sessions need to know of a login; how a token is verified is the caller's business.

use std::{future::Future, pin::Pin};

use notify_protocol::UserId;

/// Who a verified token speaks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The user id that notifications are addressed to.
    pub user: UserId,
    /// The name shown to players.
    pub login: String,
    /// When the token expires, in seconds since the Unix epoch.
    pub expires_at: Option<u64>,
}

/// A token that does not verify. Which check failed is for the log, never for the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the token was refused: {0}")]
pub struct Refused(pub String);

/// The answer to a token, when it is known.
pub type Verdict<'a> = Pin<Box<dyn Future<Output = Result<Identity, Refused>> + Send + 'a>>;

/// Verifies tokens.
pub trait Authenticator: Send + Sync + 'static {
    /// Verifies `token`.
    ///
    /// # Errors
    /// [`Refused`] for any token that does not verify; the caller answers `authentication_failed`.
    fn authenticate<'a>(&'a self, token: &'a str) -> Verdict<'a>;
}
