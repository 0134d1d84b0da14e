//! Who is logged in, as an operator asks for it.

use std::{net::SocketAddr, time::Duration};

use notify_protocol::UserId;

use crate::{Transport, session::Session};

/// Which sessions are asked for.
#[derive(Debug, Clone, Default)]
pub struct SessionQuery {
    /// A user id, a part of a login name, or the beginning of an address with a `.` or `:` in it; empty matches all.
    /// Case does not matter.
    pub text: String,
    /// Of this user only; none: of everybody.
    pub user: Option<UserId>,
    /// At most so many; those with most bytes waiting come first, then the latest logins.
    pub limit: usize,
}

/// One session at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionInfo {
    /// Names the session for [`Sessions::kick`](crate::Sessions::kick); no later one of the same shard has it.
    pub serial: u64,
    /// Who is logged in.
    pub user: UserId,
    /// The login name.
    pub login: String,
    /// Where the client is, as far as it is known.
    pub peer: SocketAddr,
    /// How the client is connected.
    pub transport: Transport,
    /// Whether the connection is encrypted by the lobby itself.
    pub tls: bool,
    /// Since when.
    pub age: Duration,
    /// Bytes that wait for the client.
    pub queued_bytes: usize,
    /// For how long some have been waiting.
    pub behind: Option<Duration>,
}

/// The answer to a [`SessionQuery`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// Those that were asked for, in the order of [`SessionQuery::limit`].
    pub sessions: Vec<SessionInfo>,
    /// How many match in all.
    pub matching: usize,
}

impl SessionQuery {
    pub(crate) fn matches(&self, session: &Session) -> bool {
        if self.user.is_some_and(|user| user != session.user) {
            return false;
        }
        if self.text.is_empty() {
            return true;
        }
        let text = self.text.to_lowercase();
        session.user.get().to_string() == text
            || session.login.to_lowercase().contains(&text)
            || (text.contains(['.', ':']) && session.peer.to_string().starts_with(&text))
    }
}

impl Listing {
    /// Adds another shard's answer.
    pub(crate) fn merge(&mut self, other: Self, limit: usize) {
        self.matching += other.matching;
        self.sessions.extend(other.sessions);
        self.sessions.sort_by_key(|session| (std::cmp::Reverse(session.queued_bytes), session.age));
        self.sessions.truncate(limit);
    }
}
