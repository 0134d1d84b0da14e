//! What an operator may ask of a shard, and do to one of its sessions.

use std::{cmp::Reverse, time::Instant};

use notify_protocol::UserId;
use tracing::info;

use super::Shard;
use crate::{CloseReason, Listing, SessionInfo, SessionQuery, seat::Seat, session::Session};

impl Shard {
    /// Looks at every session and copies those that are wanted: some milliseconds for tens of thousands of them.
    pub(super) fn list(&self, query: &SessionQuery, now: Instant) -> Listing {
        let open = self.seats.iter().map(|(_, seat)| seat.session()).filter(|session| session.is_open());
        let mut matching: Vec<_> = open.filter(|session| query.matches(session)).collect();
        let count = matching.len();
        let order = |session: &&Session| (Reverse(session.outbox.bytes()), Reverse(session.serial));
        if query.limit < count {
            matching.select_nth_unstable_by_key(query.limit, order);
            matching.truncate(query.limit);
        }
        matching.sort_unstable_by_key(order);
        Listing {
            sessions: matching.into_iter().map(|session| told(session, now)).collect(),
            matching: count,
        }
    }

    /// Ends a session in good order, if it is still the one that was meant.
    pub(super) fn kick(&mut self, user: UserId, serial: u64) -> bool {
        let keys = self.desk.registry.sessions_of(user);
        let Some(key) = keys.into_iter().find(|key| self.seats[*key].session().serial == serial) else {
            return false;
        };
        let session = self.seats.get_mut(key).map(Seat::session_mut);
        let Some(session) = session.filter(|session| session.is_open()) else { return false };
        info!(user_id = %user, login = &*session.login, peer = %session.peer, "session kicked by an operator");
        self.desk.close(session, CloseReason::Kicked);
        true
    }
}

fn told(session: &Session, now: Instant) -> SessionInfo {
    SessionInfo {
        serial: session.serial,
        user: session.user,
        login: session.login.clone().into(),
        peer: session.peer,
        transport: session.transport,
        tls: session.tls.is_some(),
        age: now.saturating_duration_since(session.opened),
        queued_bytes: session.outbox.bytes(),
        behind: session.backlog_since.map(|since| now.saturating_duration_since(since)),
    }
}
